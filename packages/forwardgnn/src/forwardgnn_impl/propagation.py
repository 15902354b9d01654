"""Graph layers whose propagation is a fixed sparse product, and inputs that are kept sparse while a layer trains."""

import warnings
from typing import Any, Literal

import scipy.sparse
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch_geometric.nn import GATConv, GCNConv, SAGEConv
from torch_geometric.nn.conv.gcn_conv import gcn_norm

__all__ = ["Features", "GraphLayer", "Propagation", "make_conv", "row_norm"]

Conv = Literal["gcn", "sage", "gat"]
SPARSE_BELOW = 0.1
"""inputs with fewer non-zeros than this share are kept sparse"""
HEADS = 4


def row_norm(x: Float[Tensor, "n d"], eps: float = 1e-8) -> Float[Tensor, "n d"]:
    """Each row over its Euclidean length plus `eps`: N(x). A row of zeros stays zero."""
    return x / (x.norm(dim=1, keepdim=True) + eps)


def make_conv(conv: Any, inputs: int, outputs: int) -> nn.Module:
    """GCN, GraphSAGE (mean) or GAT (four heads side by side) of torch_geometric, or `conv(inputs, outputs)` of yours.

    Raises:
        ValueError: an unknown name; a width that four heads cannot share.
    """
    if conv == "gcn":
        return GCNConv(inputs, outputs)
    if conv == "sage":
        return SAGEConv(inputs, outputs, aggr="mean")
    if conv == "gat":
        if outputs % HEADS:
            raise ValueError(f"hidden must be a multiple of {HEADS} for gat, got {outputs}")
        return GATConv(inputs, outputs // HEADS, heads=HEADS)
    if callable(conv):
        made = conv(inputs, outputs)
        if not isinstance(made, nn.Module):
            raise ValueError(f"conv(inputs, outputs) must give a module, got {type(made).__name__}")
        return made
    raise ValueError(f"conv must be gcn, sage, gat or a function of (inputs, outputs), got {conv!r}")


class _SparseProduct(torch.autograd.Function):
    """A sparse matrix times a dense one; the gradient is the product with the transpose, which is made once."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, transposed: Tensor, dense: Tensor) -> Tensor:
        ctx.transposed = transposed
        return matrix @ dense

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, Tensor]:
        return None, None, ctx.transposed @ grads[0].contiguous()


class SparseMatrix:
    """A sparse matrix and its transpose, both by rows."""

    def __init__(self, matrix: Any, device: torch.device | str, dtype: torch.dtype) -> None:
        self.matrix, self.transposed = (_csr(m, device, dtype) for m in (matrix, matrix.T))

    def __matmul__(self, dense: Tensor) -> Tensor:
        product: Tensor = _SparseProduct.apply(self.matrix, self.transposed, dense)
        return product


def _csr(matrix: Any, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    rows = scipy.sparse.csr_matrix(matrix)
    rows.sort_indices()
    with warnings.catch_warnings():
        # torch says once that this layout is in beta state
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(
            torch.from_numpy(rows.indptr.astype("int64")), torch.from_numpy(rows.indices.astype("int64")),
            torch.from_numpy(rows.data), size=rows.shape, dtype=dtype, device=device, check_invariants=False,
        )  # fmt: skip


class Features:
    """Inputs of a layer that do not change while it trains: sparse where most are zeros, and never a gradient."""

    def __init__(self, x: Float[Tensor, "n d"]) -> None:
        self.dense = x.detach()
        self.width = x.shape[1]
        share = float((self.dense != 0).sum()) / max(1, x.numel()) if x.numel() else 1.0
        self.sparse: SparseMatrix | None = None
        if share < SPARSE_BELOW:
            held = scipy.sparse.csr_matrix(self.dense.cpu().numpy())
            self.sparse = SparseMatrix(held, x.device, x.dtype)

    def __len__(self) -> int:
        return len(self.dense)

    def times(self, weight: Float[Tensor, "d out"]) -> Float[Tensor, "n out"]:
        """The product with a weight."""
        return self.dense @ weight if self.sparse is None else self.sparse @ weight


class Propagation:
    """What GCN and GraphSAGE do with a graph, as a sparse matrix that is made once.

    Args:
        edge_index: source and target of each edge.
        n: nodes.
    """

    def __init__(
        self, edge_index: Int[Tensor, "2 e"], n: int, *, device: Any = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self.edge_index, self.n, self.device, self.dtype = edge_index, n, device, dtype
        self._made: dict[str, SparseMatrix] = {}

    def matrix(self, kind: Literal["gcn", "sage"]) -> SparseMatrix:
        """D^-1/2 (A + I) D^-1/2 for "gcn", the mean over neighbours for "sage"; rows are targets."""
        if kind not in self._made:
            edges = self.edge_index.cpu()
            if kind == "gcn":
                edges, found = gcn_norm(edges, None, self.n, dtype=torch.float64)
                weight = found.numpy()
            else:
                degree = torch.bincount(edges[1], minlength=self.n).clamp(min=1)
                weight = (1.0 / degree.double())[edges[1]].numpy()
            source, target = edges.numpy()
            held = scipy.sparse.coo_matrix((weight, (target, source)), shape=(self.n, self.n))
            self._made[kind] = SparseMatrix(held.tocsr(), self.device, self.dtype)
        return self._made[kind]


class GraphLayer(nn.Module):
    """A convolution and ReLU: what is trained by itself.

    `forward` is the obvious form on any input. `on` returns a function for an input that stays as it is while the
    weights change: GCN and GraphSAGE then propagate it once, or, where the features are sparse, multiply sparsely.
    """

    def __init__(self, conv: nn.Module, *, relu: bool = True) -> None:
        super().__init__()
        self.conv, self.relu = conv, relu

    def forward(self, x: Float[Tensor, "n d"], edge_index: Int[Tensor, "2 e"]) -> Float[Tensor, "n out"]:
        """Outputs of all nodes."""
        return self.ended(self.conv(x, edge_index))

    def ended(self, out: Tensor) -> Tensor:
        """ReLU, where the layer has one."""
        return out.relu() if self.relu else out

    @property
    def kind(self) -> Literal["gcn", "sage"] | None:
        """The name of a convolution whose propagation is a matrix; None: it is called as it is."""
        conv: Any = self.conv
        if getattr(conv, "flow", None) != "source_to_target":
            return None
        if type(conv) is GCNConv and conv.normalize and conv.add_self_loops and not conv.improved:
            return "gcn"
        plain = type(conv) is SAGEConv and conv.aggr == "mean" and not conv.project and not conv.normalize
        return "sage" if plain and conv.root_weight else None

    def on(self, fixed: Features, graph: Propagation, *, cached: bool = True) -> Any:
        """A function of `moving` (n, m), which stands after the fixed features (or of None): outputs of all nodes.

        Args:
            cached: False: the obvious form at each call.
        """
        conv: Any = self.conv
        kind = self.kind if cached else None
        if kind is None:

            def whole(moving: Tensor | None = None) -> Tensor:
                x = fixed.dense if moving is None else torch.cat([fixed.dense, moving], 1)
                return self(x, graph.edge_index)  # type: ignore[no-any-return]

            return whole
        matrix, d = graph.matrix(kind), fixed.width
        # dense inputs are propagated once; sparse ones are cheaper to multiply first
        once: Features | None = None
        if fixed.sparse is None and d:
            with torch.no_grad():
                once = Features(matrix @ fixed.dense)

        def far(weight: Tensor, moving: Tensor | None) -> Tensor:
            """The propagated inputs times a weight."""
            parts = [once.times(weight[:d])] if once is not None else []
            before = [fixed.times(weight[:d].contiguous())] if d and once is None else []
            if moving is not None:
                before.append(moving @ weight[d:])
            if before:
                parts.append(matrix @ sum(before[1:], before[0]))
            return sum(parts[1:], parts[0])

        def run(moving: Tensor | None = None) -> Tensor:
            out = far((conv.lin if kind == "gcn" else conv.lin_l).weight.T, moving)
            if kind == "sage":
                near = conv.lin_r.weight.T
                out = out + fixed.times(near[:d].contiguous()) if d else out
                out = out if moving is None else out + moving @ near[d:]
            bias = conv.bias if kind == "gcn" else conv.lin_l.bias
            return self.ended(out if bias is None else out + bias)

        return run
