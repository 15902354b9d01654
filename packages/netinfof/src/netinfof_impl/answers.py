"""Answers of a fitted model as tables: the likeliest new links, and a label for each node."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from netinfof_impl.act import NetInfoFAct
from netinfof_impl.graphs import as_graph

__all__ = ["label_all", "likeliest_links"]

ALL_PAIRS = 2_000_000


def likeliest_links(model: NetInfoFAct, data: Any, names: Sequence[str], top: int) -> pd.DataFrame:
    """The pairs without an edge that score highest: of all pairs up to two million of them, else of those that share a
    neighbour."""
    graph = as_graph(data)
    adjacency = graph.adjacency()
    if graph.n * (graph.n - 1) // 2 <= ALL_PAIRS:
        pairs = np.stack(np.triu_indices(graph.n, 1)).astype(np.int64)
    else:
        two = (adjacency @ adjacency).tocoo()
        upper = two.row < two.col
        pairs = np.stack([two.row[upper], two.col[upper]]).astype(np.int64)
    pairs = pairs[:, ~graph.has(pairs)]
    score = model.predict_proba(pairs)[:, 1]
    best = np.argsort(-score, kind="stable")[:top]
    called = np.asarray(names, dtype=object)
    return pd.DataFrame({"source": called[pairs[0, best]], "target": called[pairs[1, best]], "score": score[best]})


def label_all(model: NetInfoFAct, data: Any, names: Sequence[str], classes: Sequence[str]) -> pd.DataFrame:
    """The given label of each node, or the likeliest one, and how likely."""
    share = model.predict_proba(np.arange(len(names)))
    best = model.classes_[share.argmax(1)]
    known = np.asarray(data.y) >= 0
    label = np.asarray(classes, dtype=object)[np.where(known, np.asarray(data.y), best)]
    return pd.DataFrame({"node": list(names), "label": label, "given": known, "likely": share.max(1)})
