"""The message-passing encoder: node vectors from features and adjacency, once for all links (section 4, MPNN).

Convolutions (A is the adjacency matrix, D its degrees + 1):
    puregcn     D^-1/2 (A + I) D^-1/2 h, without weights
    puresum, puremean, puremax    A h, the mean and the maximum over neighbours, without weights
    gcn         the same normalisation around a linear layer (Kipf and Welling)
    gin, sage, max    sum, mean, maximum over neighbours around a linear layer, without normalisation
    none        no message passing: the input layer alone
"""

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ncnc_impl.csr import CSR, max_rows, select_entries
from ncnc_impl.dropout import Dropout

__all__ = ["Conv", "Convolution", "Encoder", "Features", "drop_edges"]

Conv = Literal["puregcn", "puresum", "puremean", "puremax", "gcn", "gin", "sage", "max", "none"]
Features = Float[Tensor, "nodes features"] | Int64[Tensor, "nodes"] | CSR


def drop_edges(adj: CSR, p: float, *, training: bool = True, rescale: bool = True) -> CSR:
    """Remove each entry with probability `p`; what stays weighs 1 / (1 - p) where `rescale`.

    The two directions of an edge are dropped independently, as in the official code.
    """
    if p == 0.0 or not training:
        return adj
    kept = select_entries(adj, torch.rand(adj.nnz, device=adj.device) >= p)
    if not rescale:
        return kept
    value = torch.ones(kept.nnz, device=adj.device) if kept.value is None else kept.value
    return kept.with_value(value / (1.0 - p))


class Convolution(nn.Module):
    """One round of message passing.

    Args:
        conv: see the module's docstring.
        in_dim: width coming in; the pure kinds need it equal to `out_dim`.
    """

    def __init__(self, conv: Conv, in_dim: int, out_dim: int) -> None:
        super().__init__()
        if conv not in get_args(Conv) or conv == "none":
            raise ValueError(f"conv must be one of {get_args(Conv)[:-1]}, got {conv!r}")
        self.conv = conv
        self.lin: nn.Linear | None = None
        self.bias: nn.Parameter | None = None
        if not conv.startswith("pure"):
            self.lin = nn.Linear(in_dim, out_dim, bias=False)
            nn.init.xavier_uniform_(self.lin.weight)
            self.bias = nn.Parameter(torch.zeros(out_dim))
        elif in_dim != out_dim:
            raise ValueError(f"{conv} has no weights and keeps the width: got in_dim {in_dim} and out_dim {out_dim}")

    def forward(self, x: Float[Tensor, "nodes in_dim"] | CSR, adj: CSR) -> Float[Tensor, "nodes out_dim"]:
        h = x if self.lin is None else _linear(x, self.lin)
        assert isinstance(h, Tensor)
        if self.conv in ("puregcn", "gcn"):
            scale = (1.0 + adj.row_sums().to(h.dtype)).rsqrt().unsqueeze(1)
            h = scale * h
            h = scale * (adj.matmul(h) + h)
        elif self.conv in ("puresum", "gin"):
            h = adj.matmul(h)
        elif self.conv in ("puremean", "sage"):
            h = adj.matmul(h) / adj.counts().clamp(min=1).unsqueeze(1)
        else:
            h = max_rows(adj, h)
        return h if self.bias is None else h + self.bias


class Encoder(nn.Module):
    """Input layer, `n_layers` convolutions, optional residual connections and learned sum of layers.

    Args:
        in_dim: width of the features; None with `n_categories`.
        n_categories: nodes carry a category (or their own id) instead of features, looked up in an embedding.
        hidden: width of the result, H.
        conv: kind of convolution.
        n_layers: rounds of message passing, L.
        x_dropout: dropout of the features (`xdp`).
        dropout: dropout inside the encoder (`gnndp`).
        tail_dropout: dropout after the last pure convolution (`tdp`).
        edge_dropout: share of edges dropped before each convolution (`gnnedp`).
        layer_norm: LayerNorm after each inner convolution that has weights.
        residual: add a layer's input to its output where the widths agree (`res`).
        jumping: the result is a learned weighted sum over all layers (`jk`).
    """

    def __init__(
        self,
        in_dim: int | None,
        hidden: int = 256,
        *,
        n_categories: int | None = None,
        conv: Conv = "puregcn",
        n_layers: int = 1,
        x_dropout: float = 0.0,
        dropout: float = 0.0,
        tail_dropout: float = 0.0,
        edge_dropout: float = 0.0,
        layer_norm: bool = True,
        residual: bool = False,
        jumping: bool = False,
    ) -> None:
        super().__init__()
        if (in_dim is None) == (n_categories is None):
            raise ValueError(f"give either in_dim or n_categories, got {in_dim} and {n_categories}")
        if n_layers < 0:
            raise ValueError(f"n_layers must not be negative, got {n_layers}")
        rates = {
            "x_dropout": x_dropout,
            "dropout": dropout,
            "tail_dropout": tail_dropout,
            "edge_dropout": edge_dropout,
        }
        for name, rate in rates.items():
            if not 0.0 <= rate < 1.0:
                raise ValueError(f"{name} must be at least 0 and below 1, got {rate}")
        if conv == "none":
            n_layers = 0
        self.in_dim, self.n_categories, self.hidden = in_dim, n_categories, hidden
        self.edge_dropout, self.residual = edge_dropout, residual
        self.embedding: nn.Embedding | None = None
        self.input: nn.Linear | None = None
        self.x_dropout = Dropout(x_dropout)
        self.dropout = Dropout(dropout)
        width = hidden
        if n_categories is not None:
            self.embedding = nn.Embedding(n_categories, hidden)
            nn.init.orthogonal_(self.embedding.weight)
        elif conv.startswith("pure") or n_layers == 0:
            assert in_dim is not None
            self.input = nn.Linear(in_dim, hidden)
        else:
            assert in_dim is not None
            width = in_dim
        self.jumping = nn.Parameter(torch.randn(n_layers)) if jumping and n_layers else None
        self.convs = nn.ModuleList()
        self.after = nn.ModuleList()
        for layer in range(n_layers):
            last = layer == n_layers - 1
            self.convs.append(Convolution(conv, width, hidden))
            width = hidden
            if conv.startswith("pure"):
                self.after.append(Dropout(tail_dropout) if last else nn.Identity())
            elif last and n_layers > 1:
                self.after.append(nn.Identity())
            else:
                norm = nn.LayerNorm(hidden) if layer_norm else nn.Identity()
                self.after.append(nn.Sequential(norm, Dropout(dropout), nn.ReLU()))

    def forward(self, x: Features, adj: CSR) -> Float[Tensor, "nodes hidden"]:
        """Node vectors.

        Raises:
            ValueError: if the features are of another kind or width than the encoder was made for.
        """
        h = self._input(x)
        layers = []
        for conv, after in zip(self.convs, self.after, strict=True):
            new = after(conv(h, drop_edges(adj, self.edge_dropout, training=self.training)))
            width = h.n_cols if isinstance(h, CSR) else h.shape[-1]
            if self.residual and width == new.shape[-1]:
                new = new + (h.to_dense() if isinstance(h, CSR) else h)
            h = new
            layers.append(h)
        if self.jumping is not None:
            h = torch.einsum("l,lnh->nh", self.jumping, torch.stack(layers))
        assert isinstance(h, Tensor)
        return h

    def _input(self, x: Features) -> Float[Tensor, "nodes width"] | CSR:
        if self.embedding is not None:
            if isinstance(x, CSR) or x.is_floating_point():
                raise ValueError("this encoder embeds one category a node, got a feature matrix")
            return self.dropout(self.embedding(x))
        width = x.n_cols if isinstance(x, CSR) else x.shape[-1] if x.ndim == 2 else 0
        if width != self.in_dim:
            raise ValueError(f"x must have {self.in_dim} features a node, got {width}")
        assert isinstance(x, CSR) or x.is_floating_point()
        if isinstance(x, CSR):
            # dropout of an absent entry does nothing: dropping stored values is the same, at a fraction of the cost
            values = torch.ones(x.nnz, device=x.device) if x.value is None else x.value
            dropped: Tensor | CSR = x.with_value(self.x_dropout(values))
        else:
            dropped = self.x_dropout(x)
        return dropped if self.input is None else self.dropout(_linear(dropped, self.input))


def _linear(x: Tensor | CSR, layer: nn.Linear) -> Tensor:
    if isinstance(x, Tensor):
        return layer(x)
    product = x.matmul(layer.weight.t().contiguous())
    return product if layer.bias is None else product + layer.bias
