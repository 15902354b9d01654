"""What the command line reads: edges, features and labels of a user's own, as CSV."""

import io
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse
import torch
from numpy import ndarray
from torch_geometric.data import Data
from torch_geometric.utils import coalesce, remove_self_loops, to_undirected

from shared_impl.cli import UserError

__all__ = ["candidate_pairs", "read_graph", "write_table"]


def _table(path: Path, columns: int) -> pd.DataFrame:
    """A CSV with a header (separators `,` `;` tab or blanks), or standard input for `-`; all cells as text."""
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8-sig")
        first = text.partition("\n")[0]
        separator = next((mark for mark in (",", ";", "\t") if mark in first), r"\s+")
        # a node or class may be called NA or null: only an empty cell is missing
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a row longer than the header
            table = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False, na_values=[""],
                                index_col=False)  # fmt: skip
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no table: {error}") from error
    if table.empty or table.shape[1] < columns:
        raise UserError(f"{path} must have rows below a header and at least {columns} columns")
    if table.iloc[:, 0].isna().any():
        raise UserError(f"{path}: a node's name is missing")
    return table


def _by_node(path: Path) -> pd.DataFrame:
    table = _table(path, 2)
    names = table.iloc[:, 0].str.strip()
    if names.duplicated().any():
        raise UserError(f"{path} names node {names[names.duplicated()].iloc[0]} twice")
    return table.iloc[:, 1:].set_axis(names, axis=0)


def read_graph(edges: Path, features: Path, labels: Path | None = None) -> tuple[Data, list[str], list[str]]:
    """An undirected graph from tables whose first column (first two for edges) names the nodes.

    Nodes are those with features; each end of an edge must be one. Labels may be missing (then -1).

    Returns:
        the graph, the nodes' names, the classes' names.

    Raises:
        UserError: a table that does not fit.
    """
    numbers = _by_node(features)
    x = numbers.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    usable = np.abs(x) <= np.finfo(np.float32).max  # of NaN too: not
    if not usable.all():
        row, column = np.argwhere(~usable)[0]
        raise UserError(f"{features}, node {numbers.index[row]}: features must be numbers of single precision, got "
                        f"{numbers.iloc[row, column]!r}")  # fmt: skip
    names = numbers.index.tolist()
    place = {name: i for i, name in enumerate(names)}
    table = _table(edges, 2)
    if table.iloc[:, 1].isna().any():
        raise UserError(f"{edges}, row {int(table.iloc[:, 1].isna().argmax()) + 2}: a node's name is missing")
    ends = [table.iloc[:, i].str.strip() for i in range(2)]
    if set(table.columns[:2].str.strip()) <= place.keys():
        raise UserError(f"{edges} must have a header: its first row joins {table.columns[0]} and {table.columns[1]}")
    for end in ends:
        if (strange := ~end.isin(names)).any():
            raise UserError(f"{edges}, row {int(strange.argmax()) + 2}: node {end[strange].iloc[0]!r} has no features")
    index = torch.tensor([[place[name] for name in end] for end in ends])
    index = remove_self_loops(coalesce(to_undirected(index, num_nodes=len(names)), num_nodes=len(names)))[0]
    data = Data(x=torch.from_numpy(x.astype(np.float32)), edge_index=index)
    classes: list[str] = []
    if labels is not None:
        column = _by_node(labels).iloc[:, 0].str.strip().replace("", None).dropna()
        if (strange := ~column.index.isin(names)).any():
            raise UserError(f"{labels}: node {column.index[strange][0]!r} has no features")
        classes = sorted(set(column))
        y = torch.full((len(names),), -1)
        y[[place[name] for name in column.index]] = torch.tensor([classes.index(c) for c in column], dtype=torch.long)
        data.y = y
    return data, names, classes


def candidate_pairs(data: Data, most: int = 2_000_000) -> ndarray:
    """Pairs that are no links: those with a common neighbour, or all where the graph is small; (2, m).

    Of more than `most` those with the most common neighbours are taken.
    """
    n = data.num_nodes
    source, target = data.edge_index.cpu().numpy()
    a = scipy.sparse.csr_matrix((np.ones(len(source), np.float32), (source, target)), shape=(n, n))
    if n * n <= most:
        pairs = np.stack(np.triu_indices(n, 1))
    else:
        two = scipy.sparse.triu(a @ a, 1).tocoo()
        order = np.argsort(-two.data, kind="stable")
        pairs = np.stack([two.row, two.col])[:, order]
    linked = np.asarray(a[pairs[0], pairs[1]]).ravel() > 0
    found: ndarray = pairs[:, ~linked][:, :most].astype(np.int64)
    return found


def write_table(table: pd.DataFrame, path: Path) -> None:
    """As CSV, whole or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        table.to_csv(part, index=False)
        part.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot write there: {error.strerror}") from error
