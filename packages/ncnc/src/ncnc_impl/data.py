"""Where graphs come from: PyG and networkx objects, sparse matrices, files, citation graphs, OGB, generators."""

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ncnc_impl.csr import CSR
from ncnc_impl.graph import Graph, as_pairs
from shared_impl.cli import UserError

__all__ = [
    "CITATION",
    "OGB",
    "as_graph",
    "geometric_graph",
    "karate_club",
    "load_ogb",
    "load_planetoid",
    "ogb_link_split",
    "read_edge_list",
    "read_pairs",
    "stochastic_block_graph",
]

Citation = Literal["cora", "citeseer", "pubmed"]
CITATION: tuple[str, ...] = get_args(Citation)
OGB = ("collab", "ppa", "citation2", "ddi")
SPARSE_BELOW = 0.1
"""Features with a smaller share of nonzeros than this are kept sparse."""


def as_graph(data: Any, *, x: Any = None) -> Graph:
    """A `Graph` from what people have: a PyG `Data`, a networkx graph, a SciPy sparse adjacency matrix, or edge pairs.

    Directed edges lose their direction, weights are ignored, self-loops and repeats are left out. Node names of a
    networkx graph are kept in `Graph.names`, nodes being numbered in its own order.

    Args:
        x: node features, where the object has none of its own.

    Raises:
        TypeError: for something that is no graph.
        ValueError: for a malformed one.
    """
    if isinstance(data, Graph):
        return data if x is None else data.with_features(x)
    if hasattr(data, "edge_index"):
        ends = as_pairs(torch.as_tensor(data.edge_index).cpu().t(), "edge_index transposed")
        own = getattr(data, "x", None)
        own = getattr(data, "features", None) if own is None else own
        features = own if x is None else x
        n_nodes = getattr(data, "num_nodes", None)
        return Graph.from_edges(ends, n_nodes, x=_compact(features))
    if hasattr(data, "is_directed") and hasattr(data, "nodes") and hasattr(data, "edges"):
        names = list(data.nodes)
        number = {name: i for i, name in enumerate(names)}
        named = [(number[u], number[v]) for u, v, *_ in data.edges]
        plain = names == list(range(len(names)))
        return Graph.from_edges(named, len(names), x=_compact(x), names=None if plain else names)
    if hasattr(data, "tocoo"):
        coo = data.tocoo()
        if coo.shape[0] != coo.shape[1]:
            raise ValueError(f"an adjacency matrix must be square, got {coo.shape}")
        stored = coo.data != 0
        pairs = np.stack((coo.row[stored], coo.col[stored]), 1)
        return Graph.from_edges(pairs, int(coo.shape[0]), x=_compact(x))
    if isinstance(data, Tensor | np.ndarray | list | tuple):
        return Graph.from_edges(data, x=_compact(x))
    raise TypeError(
        "data must be a Graph, a torch_geometric Data, a networkx graph, a SciPy sparse matrix or (n, 2) edges, "
        f"got {type(data).__name__}"
    )


def _compact(x: Any) -> Any:
    """Dense features as CSR where nearly all are zero (bag of words): the input layer then skips the zeros."""
    if isinstance(x, Tensor) and x.is_floating_point() and x.ndim == 2 and x.numel():
        filled = torch.count_nonzero(x).item() / x.numel()
        if filled < SPARSE_BELOW:
            rows, cols = x.nonzero(as_tuple=True)
            rowptr = torch.zeros(x.shape[0] + 1, dtype=torch.int64, device=x.device)
            torch.cumsum(torch.bincount(rows, minlength=x.shape[0]), 0, out=rowptr[1:])
            return CSR(rowptr, cols, x.shape[1], x[rows, cols].float())
    return x


def load_planetoid(name: Citation) -> Graph:
    """Cora, CiteSeer or PubMed with its words as sparse features, as published (not normalised).

    Raises:
        DataError: if the files can neither be found nor downloaded, or are damaged.
    """
    from shared_impl.datasets import planetoid

    return as_graph(planetoid(name))


def karate_club() -> Graph:
    """Zachary's karate club: 34 people, 78 friendships."""
    import networkx

    return as_graph(networkx.karate_club_graph())


def geometric_graph(n_nodes: int = 1500, *, mean_degree: float = 12.0, n_features: int = 32, seed: int = 0) -> Graph:
    """Random points of the unit square, joined when close: triadic closure, while features are noise.

    Args:
        mean_degree: expected degree away from the border; sets the radius.

    Raises:
        ValueError: if a size is not positive.
    """
    from scipy.spatial import cKDTree

    if n_nodes < 2 or not mean_degree > 0 or n_features < 1:
        raise ValueError(
            "n_nodes must be at least 2, mean_degree and n_features positive, "
            f"got {n_nodes}, {mean_degree} and {n_features}"
        )
    generator = np.random.default_rng(seed)
    radius = (mean_degree / (np.pi * n_nodes)) ** 0.5
    pairs = cKDTree(generator.random((n_nodes, 2))).query_pairs(radius, output_type="ndarray")
    x = generator.standard_normal((n_nodes, n_features)).astype(np.float32)
    return Graph.from_edges(pairs.astype(np.int64).reshape(-1, 2), n_nodes, x=x)


def stochastic_block_graph(
    n_nodes: int = 1500,
    *,
    n_blocks: int = 15,
    inside: float = 0.1,
    outside: float = 0.001,
    n_features: int = 32,
    noise: float = 1.0,
    seed: int = 0,
) -> Graph:
    """Blocks of nodes that link at random, more often inside; features tell the block up to noise.

    The opposite of `geometric_graph`: given the blocks, a common neighbour says nothing more about a link.

    Args:
        inside, outside: probabilities of a link within a block and between two.
        noise: standard deviation of the features around their block's centre (centres are standard normal).

    Raises:
        ValueError: if a probability is not in [0, 1] or a size is not positive.
    """
    for name, p in (("inside", inside), ("outside", outside)):
        if not 0 <= p <= 1:
            raise ValueError(f"{name} must be from 0 to 1, got {p}")
    if n_nodes < 2 or not 1 <= n_blocks <= n_nodes or n_features < 1:
        raise ValueError(
            f"n_nodes must be at least 2 and n_blocks from 1 to n_nodes, got {n_nodes} and {n_blocks} "
            f"(n_features {n_features})"
        )
    generator = np.random.default_rng(seed)
    block = generator.integers(n_blocks, size=n_nodes)
    found = []
    for i in range(n_nodes - 1):
        chance = np.where(block[i + 1 :] == block[i], inside, outside)
        others = i + 1 + np.flatnonzero(generator.random(chance.size) < chance)
        found.append(np.stack((np.full_like(others, i), others), 1))
    centres = generator.standard_normal((n_blocks, n_features))
    x = centres[block] + noise * generator.standard_normal((n_nodes, n_features))
    return Graph.from_edges(np.concatenate(found).astype(np.int64), n_nodes, x=x.astype(np.float32))


def read_edge_list(path: Path | str, *, features: Path | str | None = None) -> Graph:
    """A graph from a table whose first two columns name the ends of each edge (CSV, TSV, or Parquet).

    Names may be anything; they are kept in `Graph.names`, sorted. In CSV a first row of familiar labels
    (source, target, from, to, user, item, ...), or of words above numbers, is a header. Columns after the second
    are ignored.

    Args:
        features: a table with a node's name first and then its numeric features; it may list nodes without edges.

    Raises:
        UserError: if a file is missing, of another kind, empty, or does not fit the other.
    """
    edges = _read_table(Path(path))
    if edges.shape[1] < 2:
        raise UserError(f"{path}: an edge list needs two columns, got {edges.shape[1]}")
    ends = [[_name(value) for value in edges[:, side]] for side in (0, 1)]
    lacking = [row for row, pair in enumerate(zip(*ends, strict=True), 1) if "" in pair]
    if lacking:
        raise UserError(f"{path}: edge {lacking[0]} lacks one of its ends")
    named: set[Any] = {*ends[0], *ends[1]}
    x = None
    if features is not None:
        table = _read_table(Path(features))
        listed = [_name(value) for value in table[:, 0]]
        if len(set(listed)) != len(listed):
            raise UserError(f"{features}: a node is listed twice")
        unknown = named - set(listed)
        if unknown:
            example = _sorted_names(unknown)[0]
            raise UserError(f"{features}: no features for {len(unknown)} nodes of the edge list, such as {example!r}")
        try:
            values = table[:, 1:].astype(np.float32)
        except ValueError as error:
            raise UserError(f"{features}: features must be numbers: {error}") from error
        if values.shape[1] == 0 or not np.isfinite(values).all():
            raise UserError(f"{features}: features must be finite numbers, at least one a node")
        named |= set(listed)
    names = _sorted_names(named)
    number = {name: i for i, name in enumerate(names)}
    if features is not None:
        x = torch.empty(values.shape)
        x[[number[name] for name in listed]] = torch.from_numpy(values)
    pairs = np.array([[number[name] for name in side] for side in ends], dtype=np.int64).T
    return Graph.from_edges(pairs, len(names), x=_compact(x), names=names)


def read_pairs(path: Path | str) -> list[tuple[Any, Any]]:
    """The node names in the first two columns of a table.

    Raises:
        UserError: if the file is missing, empty or has one column.
    """
    table = _read_table(Path(path))
    if table.shape[1] < 2:
        raise UserError(f"{path}: a list of pairs needs two columns, got {table.shape[1]}")
    return [(_name(row[0]), _name(row[1])) for row in table]


def _read_table(path: Path) -> NDArray[np.object_]:
    """Cells as an object array of two dimensions, without a header row."""
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    if path.suffix in (".parquet", ".pq"):
        try:
            import pyarrow.parquet as parquet
        except ImportError as error:
            raise UserError(f"{path}: reading Parquet needs pyarrow: pip install 'ncnc-impl[parquet]'") from error
        columns = parquet.read_table(path).to_pydict()
        cells = np.array(list(columns.values()), dtype=object).T
        if cells.size == 0:
            raise UserError(f"{path}: the table is empty")
        return cells
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file (CSV, TSV) and not Parquet") from error
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        raise UserError(f"{path}: the file is empty")
    separator = next((mark for mark in ("\t", ",", ";") if mark in lines[0]), " ")
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator, skipinitialspace=True)]
    widths = {len(row) for row in rows}
    if len(widths) != 1:
        first = next(k for k, row in enumerate(rows) if len(row) != len(rows[0]))
        raise UserError(f"{path}: row {first + 1} has {len(rows[first])} cells, the first has {len(rows[0])}")
    if len(rows) > 1 and _is_header(rows):
        rows = rows[1:]
    return np.array(rows, dtype=object)


LABELS = frozenset({"source", "target", "src", "dst", "from", "to", "head", "tail", "u", "v", "i", "j"})
LABELS |= {"user", "item", "node", "node1", "node2", "name", "id"}


def _is_header(rows: list[list[str]]) -> bool:
    """Whether the first row only labels the others: it has no number where all others have one, or familiar labels.

    When in doubt it is data: losing a row in silence would be worse than an odd node.
    """
    first, *rest = rows
    if any(_is_number(cell) for cell in first):
        return False
    if any(all(_is_number(row[column]) for row in rest) for column in range(len(first))):
        return True
    ends = {cell for row in rest for cell in row[:2]}
    return {cell.lower() for cell in first[:2]} <= LABELS and not ends & set(first[:2])


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _name(value: Any) -> Any:
    """A whole number as int, anything else as text."""
    text = "" if value is None else str(value).strip()
    return int(text) if text.isdecimal() and (text == "0" or text[0] != "0") else text


def _sorted_names(names: set[Any]) -> list[Any]:
    return sorted(names, key=lambda name: (isinstance(name, str), name))


@dataclass(frozen=True)
class _OGBKind:
    """How the official code reads one OGB link set."""

    features: Literal["dense", "category", "identity"]
    by_target: bool = False
    valid_as_input: bool = False


_OGB_KINDS: Mapping[str, _OGBKind] = {
    "collab": _OGBKind("dense", valid_as_input=True),
    "ppa": _OGBKind("category"),
    "citation2": _OGBKind("dense", by_target=True),
    "ddi": _OGBKind("identity"),
}


def load_ogb(name: str, root: Path | str = "dataset") -> Any:
    """A link set of the Open Graph Benchmark as a `LinkSplit` (`ogbl-<name>`; downloads it on first use).

    Reading goes through the `ogb` package, which keeps its processed copies as pickles of its own making under `root`.

    Args:
        name: collab, ppa, citation2 or ddi.

    Raises:
        UserError: if the `ogb` extra is not installed.
    """
    if name not in OGB:
        raise UserError(f"name must be one of {', '.join(OGB)}, got {name!r}")
    try:
        from ogb.linkproppred import LinkPropPredDataset
    except ImportError as error:
        raise UserError(f"ogbl-{name} needs the ogb package: pip install 'ncnc-impl[ogb]'") from error
    dataset = LinkPropPredDataset(name=f"ogbl-{name}", root=str(root))
    return ogb_link_split(name, dataset[0], dataset.get_edge_split())


def ogb_link_split(name: str, graph: Mapping[str, Any], split: Mapping[str, Mapping[str, Any]]) -> Any:
    """A `LinkSplit` from what OGB's library-agnostic loader returns: a graph as a dictionary, and its edge split.

    As in the official code: collab takes the validation edges as input at test time; ppa's one-hot species become
    categories; ddi has no features, its nodes are their own category; edge weights and years are ignored.

    Raises:
        ValueError: for a split without the fields that this set has.
    """
    from ncnc_impl.splits import EvaluationSet, LinkSplit

    kind = _OGB_KINDS[name]
    n_nodes = int(graph["num_nodes"])
    features = graph.get("node_feat")
    x: Any
    if kind.features == "identity":
        x = np.arange(n_nodes)
    elif kind.features == "category":
        x = np.asarray(features).argmax(1)
    else:
        x = np.asarray(features, dtype=np.float32)

    def links(part: str) -> Tensor:
        side = split[part]
        if kind.by_target:
            return as_pairs(np.stack((np.asarray(side["source_node"]), np.asarray(side["target_node"])), 1))
        return as_pairs(np.asarray(side["edge"]))

    def evaluation(part: str) -> EvaluationSet:
        if kind.by_target:
            targets = torch.as_tensor(np.asarray(split[part]["target_node_neg"])).long()
            return EvaluationSet(links(part), negative_targets=targets)
        return EvaluationSet(links(part), as_pairs(np.asarray(split[part]["edge_neg"])))

    try:
        positives = links("train")
        train = Graph.from_edges(positives, n_nodes, x=x)
        valid, test = evaluation("valid"), evaluation("test")
    except KeyError as error:
        raise ValueError(f"the split of ogbl-{name} lacks {error}") from error
    whole = None
    if kind.valid_as_input:
        whole = train.with_edges(torch.cat((train.edges, valid.positive)))
    oriented = positives if kind.by_target else None
    return LinkSplit(train, valid, test, positives=oriented, test_input=whole)


GENERATORS: Mapping[str, Callable[..., Graph]] = {"geometric": geometric_graph, "blocks": stochastic_block_graph}
