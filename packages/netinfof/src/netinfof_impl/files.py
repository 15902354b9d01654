"""What the command line reads: edges, features and labels of a user's own, as CSV."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch_geometric.data import Data

from shared_impl.cli import UserError

__all__ = ["read_graph", "read_table"]


def read_table(path: Path) -> pd.DataFrame:
    """A CSV with a header, or standard input for `-`; separators `,` `;` tab and blanks are found out.

    Raises:
        UserError: no file, no table, or no rows.
    """
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8-sig")
        first = text.partition("\n")[0]
        separator = next((mark for mark in (",", ";", "\t") if mark in first), r"\s+")
        table = pd.read_csv(io.StringIO(text), sep=separator)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(f"{path} is no table: {error}") from error
    if table.empty:
        raise UserError(f"{path} holds no rows below its header")
    return table


def read_graph(
    edges: Path, features: Path | None = None, labels: Path | None = None
) -> tuple[Data, list[str], list[str]]:
    """A graph from tables whose first column, or first two for edges, name the nodes.

    Nodes are those that any of the tables names, in sorted order. Features: columns of numbers; a node without a row
    has zeros. Labels: one column of any values; a node without a row, or with an empty cell, has none.

    Returns:
        the graph, the nodes' names, the classes' names.

    Raises:
        UserError: a table that does not fit.
    """
    pairs = read_table(edges)
    if pairs.shape[1] < 2:
        raise UserError(f"{edges} must have two columns, source and target, got {pairs.shape[1]}")
    pairs = pairs.iloc[:, :2]
    if pairs.isna().any(axis=None):
        raise UserError(f"{edges}, row {int(pairs.isna().any(axis=1).argmax()) + 2}: a node is missing")
    ends = [_names(pairs.iloc[:, i]) for i in range(2)]
    tables = {"features": _by_node(features), "labels": _by_node(labels)}
    seen = np.unique(np.concatenate([*ends, *(t.index.to_numpy(dtype=str) for t in tables.values() if t is not None)]))
    place = {name: i for i, name in enumerate(seen.tolist())}
    index = np.array([[place[name] for name in end] for end in ends], dtype=np.int64)
    data = Data(edge_index=torch.from_numpy(index), num_nodes=len(seen))
    if (table := tables["features"]) is not None:
        numbers = table.apply(pd.to_numeric, errors="coerce")
        if (wrong := numbers.isna()).any(axis=None):
            column = wrong.any().idxmax()
            value = table.loc[wrong[column].idxmax(), column]
            raise UserError(f"{features}, column {column}: features must be numbers, got {value!r}")
        x = np.zeros((len(seen), numbers.shape[1]), dtype=np.float32)
        x[[place[name] for name in table.index]] = numbers.to_numpy(dtype=np.float32)
        data.x = torch.from_numpy(x)
    classes: list[str] = []
    if (table := tables["labels"]) is not None:
        column = table.iloc[:, 0].dropna().astype(str)
        found, codes = np.unique(column.to_numpy(dtype=str), return_inverse=True)
        y = np.full(len(seen), -1, dtype=np.int64)
        y[[place[name] for name in column.index]] = codes
        data.y, classes = torch.from_numpy(y), found.tolist()
    return data, seen.tolist(), classes


def _names(column: Any) -> np.ndarray:
    made: np.ndarray = column.astype(str).str.strip().to_numpy(dtype=str)
    return made


def _by_node(path: Path | None) -> pd.DataFrame | None:
    if path is None:
        return None
    table = read_table(path)
    if table.shape[1] < 2:
        raise UserError(f"{path} must have a column of nodes and at least one other, got {table.shape[1]}")
    names = _names(table.iloc[:, 0])
    if len(set(names.tolist())) < len(names):
        raise UserError(f"{path} names a node twice")
    made = table.iloc[:, 1:]
    made.index = pd.Index(names)
    return made
