"""What the command line reads: edges, features and labels of a user's own, as CSV."""

import io
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch_geometric.data import Data

from shared_impl.cli import UserError

__all__ = ["read_graph", "read_table"]

MISSING = ("", "NA", "NaN", "nan")  # labels


def read_table(path: Path, named: int) -> pd.DataFrame:
    """A CSV with a header, or standard input for `-`; separators `,` `;` tab and blanks are found out.

    The first `named` columns are text, as they are written: 007 is not 7, and a node may be called NA.

    Raises:
        UserError: no file, no table, or no rows.
    """
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8-sig")
        first = text.partition("\n")[0]
        separator = next((mark for mark in (",", ";", "\t") if mark in first), r"\s+")
        columns = pd.read_csv(io.StringIO(text), sep=separator, nrows=0).columns
        table = pd.read_csv(
            io.StringIO(text), sep=separator, keep_default_na=False, dtype=dict.fromkeys(columns[:named], str),
            na_values=dict.fromkeys(columns[named:], MISSING),
        )  # fmt: skip
        for name in columns[:named]:
            table[name] = table[name].str.strip()
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(f"{path} is no table: {error}") from error
    if not isinstance(table.index, pd.RangeIndex):
        raise UserError(f"{path} has rows of more columns than its header")
    if table.empty:
        raise UserError(f"{path} holds no rows below its header")
    return table


def read_graph(
    edges: Path, features: Path | None = None, labels: Path | None = None
) -> tuple[Data, list[str], list[str]]:
    """A graph from tables whose first column, or first two for edges, name the nodes.

    Nodes are those that any of the tables names, in sorted order. Features: columns of numbers; a node without a row
    has zeros. Labels: one column of any values; a node without a row, or with an empty cell or NA, has none.

    Returns:
        the graph, the nodes' names, the classes' names.

    Raises:
        UserError: a table that does not fit.
    """
    pairs = read_table(edges, 2)
    if pairs.shape[1] < 2:
        raise UserError(f"{edges} must have two columns, source and target, got {pairs.shape[1]}")
    ends = [pairs.iloc[:, i].to_numpy(dtype=str) for i in range(2)]
    if (empty := (ends[0] == "") | (ends[1] == "")).any():
        raise UserError(f"{edges}, row {int(empty.argmax()) + 2}: a node is missing")
    header = [str(name).strip() for name in pairs.columns[:2]]
    if all(name in ends[0] or name in ends[1] for name in header):
        raise UserError(f"{edges} has no header: its first line, {header[0]} and {header[1]}, names nodes")
    tables = {"features": _by_node(features, 1), "labels": _by_node(labels, 2)}
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
        column = table.iloc[:, 0]
        column = column[~column.isin(MISSING)]
        found, codes = np.unique(column.to_numpy(dtype=str), return_inverse=True)
        y = np.full(len(seen), -1, dtype=np.int64)
        y[[place[name] for name in column.index]] = codes
        data.y, classes = torch.from_numpy(y), found.tolist()
    return data, seen.tolist(), classes


def _by_node(path: Path | None, named: int) -> pd.DataFrame | None:
    if path is None:
        return None
    table = read_table(path, named)
    if table.shape[1] < 2:
        raise UserError(f"{path} must have a column of nodes and at least one other, got {table.shape[1]}")
    names = table.iloc[:, 0].to_numpy(dtype=str)
    if len(set(names.tolist())) < len(names):
        raise UserError(f"{path} names a node twice")
    made = table.iloc[:, 1:]
    made.index = pd.Index(names)
    return made
