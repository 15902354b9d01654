import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse

from netinfof_impl import load_graph
from shared_impl.data import DataError


def test_a_graph_of_amazon(tmp_path):
    adjacency = scipy.sparse.csr_matrix(np.array([[0, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=np.float32))
    features = scipy.sparse.csr_matrix(np.eye(3, 2, dtype=np.float32))
    parts = {}
    for key, matrix in (("adj", adjacency), ("attr", features)):
        parts |= {
            f"{key}_data": matrix.data,
            f"{key}_indices": matrix.indices,
            f"{key}_indptr": matrix.indptr,
            f"{key}_shape": matrix.shape,
        }
    np.savez(tmp_path / "amazon_electronics_photo.npz", **parts, labels=np.array([0, 1, 1]))
    data = load_graph("photo", tmp_path)
    assert data.edge_index.tolist() == [[0, 1], [1, 2]]
    assert data.x.tolist() == [[1, 0], [0, 1], [0, 0]]


@pytest.mark.parametrize("name", ["chameleon", "pokec"])
def test_a_graph_of_linkx(tmp_path, name):
    held = {"edge_index": np.array([[0, 1], [1, 2]]), "node_feat": np.eye(3), "label": np.array([[0, 1, 1]])}
    scipy.io.savemat(tmp_path / f"{name}.mat", held)
    data = load_graph(name, tmp_path)
    assert data.y.tolist() == [0, 1, 1]
    scipy.io.savemat(tmp_path / f"{name}.mat", held | {"edge_index": np.array([[0], [7]])})
    with pytest.raises(DataError, match=name):
        load_graph(name, tmp_path)


def test_twitch(tmp_path):
    pd.DataFrame(
        {
            "views": [5, 6, 7], "mature": [1, 0, 1], "life_time": [1, 2, 3], "created_at": ["2016-02-16"] * 3,
            "updated_at": ["2018-10-12"] * 3, "numeric_id": [0, 1, 2], "dead_account": [0, 0, 1],
            "language": ["EN", "DE", "EN"], "affiliate": [1, 0, 0],
        }
    ).to_csv(tmp_path / "twitch-gamer_feat.csv", index=False)  # fmt: skip
    (tmp_path / "twitch-gamer_edges.csv").write_text("numeric_id_1,numeric_id_2\n0,1\n1,2\n")
    data = load_graph("twitch", tmp_path)
    assert data.y.tolist() == [1, 0, 1]
    assert data.x.shape == (3, 7)
    assert data.x[:, 5].tolist() == [0, 1, 0]


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match=r"squirrel\.mat is missing"):
        load_graph("squirrel", tmp_path)
    with pytest.raises(ValueError, match="read from a folder"):
        load_graph("squirrel")
    with pytest.raises(ValueError, match="name must be one of"):
        load_graph("nothing")
    (tmp_path / "actor.mat").write_bytes(b"no matrix")
    with pytest.raises(DataError, match="actor"):
        load_graph("actor", tmp_path)


@pytest.mark.data
def test_cora_as_published():
    data = load_graph("cora")
    assert (data.num_nodes, data.edge_index.shape[1], data.x.shape[1]) == (2708, 2 * 5278, 1433)
