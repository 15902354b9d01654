"""The paper's data sets as `torch_geometric.data.Data`: those of the shared loaders, and the others from a folder."""

from pathlib import Path

import numpy as np
import pandas as pd
import scipy.io
import torch
from torch_geometric.data import Data

from shared_impl.data import DataError, reading
from shared_impl.datasets import CitationGraph, gnn_benchmark, planetoid

__all__ = ["FOLDER_SETS", "load_graph", "read_amazon", "read_linkx", "read_twitch"]

FOLDER_SETS = ("photo", "computers", "chameleon", "squirrel", "actor", "twitch", "pokec")


def load_graph(name: str, folder: Path | None = None) -> Data:
    """A graph by name.

    Args:
        name: "cora", "citeseer", "pubmed" (Planetoid), "cora-npz", "citeseer-npz" (Shchur et al.); or, from a folder,
            "photo", "computers" (amazon_electronics_NAME.npz), "chameleon", "squirrel", "actor" (NAME.mat with
            edge_index, node_feat and label), "twitch" (twitch-gamer_feat.csv and _edges.csv),
            "pokec" (pokec.mat).
        folder: where the files of the latter are.

    Raises:
        ValueError: no such name, or a folder that is needed.
        DataError: a file that is missing or damaged.
    """
    if name in ("cora", "citeseer", "pubmed"):
        return _from_citations(planetoid(name))  # type: ignore[arg-type]
    if name in ("cora-npz", "citeseer-npz"):
        return _from_citations(gnn_benchmark(name.removesuffix("-npz")))  # type: ignore[arg-type]
    if name not in FOLDER_SETS:
        known = f"cora, citeseer, pubmed, cora-npz, citeseer-npz, {', '.join(FOLDER_SETS)}"
        raise ValueError(f"name must be one of {known}, got {name!r}")
    if folder is None:
        raise ValueError(f"{name} is read from a folder: give the one that holds its files")
    if name in ("photo", "computers"):
        return read_amazon(folder / f"amazon_electronics_{name}.npz")
    if name == "twitch":
        return read_twitch(folder)
    return read_linkx(folder / f"{name}.mat")


def _from_citations(graph: CitationGraph) -> Data:
    data = Data(
        x=torch.from_numpy(graph.features.toarray()),
        edge_index=torch.from_numpy(graph.edge_index),
        y=torch.from_numpy(graph.labels),
    )
    for name in ("train_mask", "val_mask", "test_mask"):
        if getattr(graph, name) is not None:
            data[name] = torch.from_numpy(getattr(graph, name))
    return data


def _exists(path: Path) -> Path:
    if not path.is_file():
        raise DataError(f"{path} is missing")
    return path


def read_amazon(path: Path) -> Data:
    """Amazon Photo or Computers as Shchur et al. keep them: sparse matrices in a .npz without pickles."""
    with reading(_exists(path)), path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        made = {}
        for key in ("adj", "attr"):
            parts = (arrays[f"{key}_data"], arrays[f"{key}_indices"], arrays[f"{key}_indptr"])
            made[key] = scipy.sparse.csr_matrix(parts, shape=tuple(arrays[f"{key}_shape"]), dtype=np.float32)
            made[key].check_format(full_check=True)
        edges = np.stack(made["adj"].nonzero()).astype(np.int64)
        labels = arrays["labels"].astype(np.int64)
        return _data(edges, made["attr"].toarray(), labels)


def read_linkx(path: Path) -> Data:
    """Chameleon, Squirrel, Actor or Pokec as LINKX has them: a .mat with edge_index, node_feat and label."""
    with reading(_exists(path)):
        try:
            held = scipy.io.loadmat(path)
        except Exception as error:
            raise DataError(f"{path} is no .mat file: {error}") from error
        edges = np.asarray(held["edge_index"], dtype=np.int64)
        features = np.asarray(held["node_feat"], dtype=np.float32)
        labels = np.asarray(held["label"], dtype=np.int64).reshape(-1)
        return _data(edges, features, labels)


def read_twitch(folder: Path) -> Data:
    """Twitch gamers: dates as numbers, languages numbered as they come, label: whether content is mature."""
    nodes_path, edges_path = folder / "twitch-gamer_feat.csv", folder / "twitch-gamer_edges.csv"
    with reading(_exists(nodes_path)):
        nodes = pd.read_csv(nodes_path).drop(columns="numeric_id")
        for column in ("created_at", "updated_at"):
            nodes[column] = nodes[column].str.replace("-", "").astype(int)
        nodes["language"] = pd.factorize(nodes["language"])[0]
        labels = nodes.pop("mature").to_numpy(dtype=np.int64)
        features = nodes.to_numpy(dtype=np.float32)
    with reading(_exists(edges_path)):
        edges = pd.read_csv(edges_path).to_numpy(dtype=np.int64).T
        return _data(edges, features, labels)


def _data(edges: np.ndarray, features: np.ndarray, labels: np.ndarray) -> Data:
    if edges.ndim != 2 or edges.shape[0] != 2 or (edges.size and not 0 <= edges.min() <= edges.max() < len(labels)):
        raise ValueError(f"edges must be pairs of nodes from 0 to {len(labels) - 1}, got shape {edges.shape}")
    if len(features) != len(labels):
        raise ValueError(f"features of {len(features)} nodes, labels of {len(labels)}")
    return Data(
        x=torch.from_numpy(features.copy()),
        edge_index=torch.from_numpy(edges.copy()),
        y=torch.from_numpy(labels.copy()),
    )
