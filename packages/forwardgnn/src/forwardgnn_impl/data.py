"""Graphs to learn from: citations of the shared loaders, the paper's sets from a folder, a stochastic block model."""

from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch_geometric.data import Data
from torch_geometric.transforms import NormalizeFeatures
from torch_geometric.utils import remove_self_loops, to_undirected

from shared_impl.data import DataError, reading
from shared_impl.datasets import gnn_benchmark, planetoid

__all__ = ["FOLDER_SETS", "load_graph", "read_npz_graph", "sbm"]

FOLDER_SETS = ("cora_ml", "citeseer_full", "pubmed_full", "photo", "github")


def sbm(
    n: int = 800, n_classes: int = 4, *, p_in: float = 0.03, p_out: float = 0.003, n_features: int = 32,
    distance: float = 1.0, seed: int = 0,
) -> Data:  # fmt: skip
    """A stochastic block model whose features are the class's mean (of length `distance`) plus N(0, 1).

    Raises:
        ValueError: fewer nodes than classes, fewer than two classes, no features, or probabilities outside of 0 to 1.
    """
    if not 2 <= n_classes <= n or n_features < 1:
        raise ValueError(f"n_classes must be from 2 to n = {n} and n_features positive, got {n_classes}, {n_features}")
    if not (0 <= p_in <= 1 and 0 <= p_out <= 1):
        raise ValueError(f"p_in and p_out must be between 0 and 1, got {p_in} and {p_out}")
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % n_classes)
    chance = np.where(y[:, None] == y[None], p_in, p_out)
    one = np.triu(rng.random((n, n)) < chance, 1)
    source, target = np.nonzero(one)
    means = rng.standard_normal((n_classes, n_features))
    means *= distance / np.linalg.norm(means, axis=1, keepdims=True)
    x = means[y] + rng.standard_normal((n, n_features))
    edges = np.stack([np.concatenate([source, target]), np.concatenate([target, source])])
    return Data(x=torch.from_numpy(x.astype(np.float32)), edge_index=torch.from_numpy(edges), y=torch.from_numpy(y))


def load_graph(name: str, folder: Path | str | None = None, *, normalise: bool = True) -> Data:
    """A graph by name.

    Args:
        name: "cora", "citeseer", "pubmed" (Planetoid), "cora-npz", "citeseer-npz" (Shchur et al.), "sbm"; or, from a
            folder, "cora_ml", "citeseer_full", "pubmed_full" (graph2gauss: cora_ml.npz, citeseer.npz, pubmed.npz),
            "photo" (Shchur et al.: amazon_electronics_photo.npz), "github" (MUSAE: github.npz).
        normalise: features of a row sum to one, as the paper has it.

    Raises:
        ValueError: no such name, or a folder that is needed.
        DataError: a file that is missing or damaged.
    """
    if name == "sbm":
        return sbm()
    if name in ("cora", "citeseer", "pubmed"):
        held = planetoid(name)  # type: ignore[arg-type]
    elif name in ("cora-npz", "citeseer-npz"):
        held = gnn_benchmark(name.removesuffix("-npz"))  # type: ignore[arg-type]
    elif name not in FOLDER_SETS:
        known = ("cora", "citeseer", "pubmed", "cora-npz", "citeseer-npz", "sbm", *FOLDER_SETS)
        raise ValueError(f"name must be one of {', '.join(known)}, got {name!r}")
    elif folder is None:
        raise ValueError(f"{name} is read from a folder: give the one that holds its file")
    else:
        files = {"photo": "amazon_electronics_photo.npz"}
        return read_npz_graph(Path(folder) / files.get(name, f"{name.removesuffix('_full')}.npz"), normalise=normalise)
    data = Data(
        x=torch.from_numpy(held.features.toarray()), edge_index=torch.from_numpy(held.edge_index),
        y=torch.from_numpy(held.labels),
    )  # fmt: skip
    return NormalizeFeatures()(data) if normalise else data  # type: ignore[no-any-return]


def read_npz_graph(path: Path, *, normalise: bool = True) -> Data:
    """A graph of a .npz without pickles, undirected here: as graph2gauss and Shchur et al. keep them (sparse matrices;
    words are there or not, as torch_geometric reads them), or as MUSAE's GitHub (edges, features, target).

    Raises:
        DataError: a file that is missing or damaged.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing")
    with reading(path), path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        if "edges" in arrays:
            x, labels = arrays["features"].astype(np.float32), arrays["target"].astype(np.int64)
            edges = arrays["edges"].astype(np.int64).T
        else:
            adjacency, words = (_sparse(arrays, key) for key in ("adj", "attr"))
            x, labels = (words.toarray() > 0).astype(np.float32), arrays["labels"].astype(np.int64)
            edges = np.stack(adjacency.nonzero()).astype(np.int64)
        n = len(x)
        if x.ndim != 2 or labels.shape != (n,) or edges.ndim != 2 or len(edges) != 2:
            raise DataError(f"{path}: features and labels must be of the same nodes, got {x.shape} and {labels.shape}")
        if edges.size and not 0 <= edges.min() <= edges.max() < n:
            raise DataError(f"{path}: edges must be between {n} nodes, got {edges.min()} to {edges.max()}")
    index = remove_self_loops(to_undirected(torch.from_numpy(edges), num_nodes=n))[0]
    data = Data(x=torch.from_numpy(x), edge_index=index, y=torch.from_numpy(labels))
    return NormalizeFeatures()(data) if normalise else data  # type: ignore[no-any-return]


def _sparse(arrays: Any, key: str) -> Any:
    if f"{key}_matrix" in arrays:
        return scipy.sparse.csr_matrix(arrays[f"{key}_matrix"])
    parts = (arrays[f"{key}_data"], arrays[f"{key}_indices"], arrays[f"{key}_indptr"])
    held = scipy.sparse.csr_matrix(parts, shape=tuple(arrays[f"{key}_shape"]))
    held.check_format(full_check=True)
    return held
