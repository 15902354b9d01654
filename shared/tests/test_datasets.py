"""The public data sets: parsing of small files made here, damaged ones, and the real ones where they are at hand."""

import gzip
import pickle
import struct
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse

from shared_impl import datasets
from shared_impl.data import DataError


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the verified files: `fetch` finds any `<dataset>/<path>` put there."""
    monkeypatch.setattr(datasets, "fetch", lambda dataset, path: tmp_path / dataset / path)
    return tmp_path


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


IMAGES, LABELS = np.arange(24).reshape(2, 3, 4), np.array([7, 1])


def put_mnist(files: Path, images: bytes, labels: bytes) -> None:
    put(files / "mnist_t10k/t10k-images-idx3-ubyte.gz", images)
    put(files / "mnist_t10k/t10k-labels-idx1-ubyte.gz", labels)


def test_mnist_files_become_images_and_labels(files: Path) -> None:
    put_mnist(files, gzip.compress(idx(IMAGES)), gzip.compress(idx(LABELS)))
    result = datasets.mnist("test")
    np.testing.assert_array_equal(result.images, IMAGES)
    np.testing.assert_array_equal(result.labels, LABELS)
    assert (result.images.dtype, result.labels.dtype, len(result)) == (np.uint8, np.int64, 2)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (idx(IMAGES), "BadGzipFile"),
        (gzip.compress(idx(IMAGES))[:-12], "EOFError"),
        (gzip.compress(idx(IMAGES))[:10] + b"\xff" * 30, "invalid block type"),
        (gzip.compress(idx(LABELS)), "no IDX file of bytes with 3 dimensions: it begins with 00 00 08 01"),
        (gzip.compress(b"\x89PNG" + bytes(60)), "it begins with 89 50 4e 47"),
        (gzip.compress(idx(IMAGES)[:10]), "no IDX file"),
        (gzip.compress(idx(IMAGES)[:-1]), "cannot reshape"),
        (gzip.compress(idx(IMAGES) + b"x"), "cannot reshape"),
    ],
    ids=["plain", "cut", "garbage", "labels", "picture", "short", "byte-less", "byte-more"],  # not the clock in gzip
)
def test_a_damaged_mnist_file_is_an_error_that_names_it(files: Path, images: bytes, message: str) -> None:
    put_mnist(files, images, gzip.compress(idx(LABELS)))
    with pytest.raises(DataError, match=message) as caught:
        datasets.mnist("test")
    assert str(files / "mnist_t10k/t10k-images-idx3-ubyte.gz") in str(caught.value)


def test_images_and_labels_of_different_number_are_an_error(files: Path) -> None:
    put_mnist(files, gzip.compress(idx(IMAGES)), gzip.compress(idx(LABELS[:1])))
    with pytest.raises(DataError, match="2 images, but 1 labels"):
        datasets.mnist("test")


HEADER = "date,HUFL,HULL,MUFL,MULL,LUFL,LULL,OT\n"
ROW = "2016-07-01 00:15:00,1,2,3,4,5,6,7.5\n"


def test_an_ett_file_becomes_a_time_series_whatever_the_order_of_its_columns(files: Path) -> None:
    put(files / "ett_minute/ETTm1.csv", (HEADER + ROW).encode())
    put(files / "ett_small/ETTh2.csv", b"OT,LULL,LUFL,MULL,MUFL,HULL,HUFL,date\n7.5,6,5,4,3,2,1,2016-07-01 00:15:00\n")
    for name in ("ETTm1", "ETTh2"):
        series = datasets.ett(name)
        np.testing.assert_array_equal(series.values, [[1, 2, 3, 4, 5, 6, 7.5]])
        assert series.columns[-1] == "OT"
        assert series.timestamps[0] == np.datetime64("2016-07-01T00:15:00")
        assert len(series) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER.replace("OT", "XT") + ROW, "no column OT among date"),
        ("", "no column date, HUFL"),
        (HEADER + ROW + "2016-07-01,1,2\n", "row 3 has 3 fields, not 8"),
        (HEADER + ROW.replace("7.5", "seven"), "seven"),
        (HEADER + ROW.replace("2016", "year"), "year"),
        (HEADER, "no rows"),
    ],
)
def test_a_damaged_ett_file_is_an_error_that_names_it(files: Path, content: str, message: str) -> None:
    path = put(files / "ett_small/ETTh1.csv", content.encode())
    with pytest.raises(DataError, match=message) as caught:
        datasets.ett("ETTh1")
    assert str(path) in str(caught.value)


def test_a_text_in_another_encoding_is_an_error_that_names_it(files: Path) -> None:
    path = put(files / "tinyshakespeare/input.txt", b"caf\xe9")
    with pytest.raises(DataError, match="UnicodeDecodeError") as caught:
        datasets.tiny_shakespeare()
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (lambda: datasets.mnist("val"), "split must be one of train, test, got 'val'"),
        (lambda: datasets.ett("ETTh3"), "name must be one of ETTh1, ETTh2, ETTm1, ETTm2, got 'ETTh3'"),
        (lambda: datasets.wikitext2("train"), "split must be one of valid, test, got 'train'"),
        (lambda: datasets.planetoid("reddit"), "name must be one of cora, citeseer, pubmed, got 'reddit'"),
        (lambda: datasets.gnn_benchmark("pubmed"), "name must be one of cora, citeseer, got 'pubmed'"),
    ],
)
def test_a_wrong_choice_is_an_error_that_lists_the_choices(load: Callable[[], object], message: str) -> None:
    with pytest.raises(DataError) as caught:
        load()
    assert str(caught.value) == message


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        datasets.digits()


def test_digits_are_small_images_of_ten_classes() -> None:
    result = datasets.digits()
    assert (result.images.shape, result.images.dtype) == ((1797, 8, 8), np.uint8)
    assert (result.images.min(), result.images.max()) == (0, 16)
    assert np.bincount(result.labels).shape == (10,)


def put_planetoid(files: Path, **changes: Any) -> None:
    """Seven papers in two classes; 0 to 3 are described, 4 and 6 are test papers listed in reverse, 5 is unknown."""
    allx = scipy.sparse.csr_matrix(np.diag([1.0, 2, 3, 4]))
    parts: dict[str, Any] = {
        "y": np.array([[0, 1], [1, 0]]),
        "tx": scipy.sparse.csr_matrix(np.array([[0, 0, 0, 6.0], [0, 0, 4.0, 0]])),
        "ty": np.array([[0, 1], [1, 0]]),
        "allx": allx,
        "ally": np.array([[0, 1], [1, 0], [0, 1], [1, 0]]),
        "graph": {0: [1, 1, 6], 1: [0], 2: [2], 4: [3], 6: [0]},
        **changes,
    }
    for part, content in parts.items():
        put(files / f"planetoid/raw/ind.cora.{part}", pickle.dumps(content, 2))
    put(files / "planetoid/raw/ind.cora.test.index", b"6\n4\n")


def test_planetoid_puts_test_papers_in_place_and_leaves_unknown_ones_empty(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "PLANETOID_VALIDATION", 1)
    put_planetoid(files)
    graph = datasets.planetoid("cora")
    dense = graph.features.toarray()
    np.testing.assert_array_equal(dense[:4], np.diag([1, 2, 3, 4]))
    np.testing.assert_array_equal(dense[4:], [[0, 0, 4, 0], [0, 0, 0, 0], [0, 0, 0, 6]])
    np.testing.assert_array_equal(graph.labels, [1, 0, 1, 0, 0, 0, 1])
    # 0-1 (listed thrice), 0-6, 3-4; the loop at 2 is gone
    np.testing.assert_array_equal(graph.edge_index, [[0, 0, 1, 3, 4, 6], [1, 6, 0, 4, 3, 0]])
    assert graph.train_mask is not None
    assert graph.val_mask is not None
    assert graph.test_mask is not None
    np.testing.assert_array_equal(np.flatnonzero(graph.train_mask), [0, 1])
    np.testing.assert_array_equal(np.flatnonzero(graph.val_mask), [2])
    np.testing.assert_array_equal(np.flatnonzero(graph.test_mask), [4, 6])
    assert graph.n_classes == 2


def test_planetoid_refuses_an_edge_to_nowhere_and_a_pickle_with_code(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "PLANETOID_VALIDATION", 1)
    put_planetoid(files, graph={0: [7]})
    with pytest.raises(DataError, match=r"ind\.cora\.graph.*outside 0 to 6"):
        datasets.planetoid("cora")
    put_planetoid(files, graph=print)
    with pytest.raises(DataError, match=r"ind\.cora\.graph: the pickle names (builtins|__builtin__)\.print"):
        datasets.planetoid("cora")


def test_gnn_benchmark_refuses_pickled_and_missing_arrays(files: Path) -> None:
    path = files / "gnn_benchmark_npz/cora.npz"
    path.parent.mkdir()
    np.savez(path, adj_data=np.array([print], dtype=object))
    with pytest.raises(DataError, match=r"cora\.npz.*allow_pickle"):
        datasets.gnn_benchmark("cora")
    np.savez(path, adj_data=np.zeros(1))
    with pytest.raises(DataError, match=r"cora\.npz: KeyError.*adj_indices"):
        datasets.gnn_benchmark("cora")
    put(path, b"PK\x03\x04 not really")
    with pytest.raises(DataError, match=r"cora\.npz: BadZipFile"):
        datasets.gnn_benchmark("cora")


@pytest.mark.data("mnist_t10k")
def test_the_mnist_test_split_is_whole() -> None:
    result = datasets.mnist("test")
    assert result.images.shape == (10_000, 28, 28)
    assert result.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert round(float(result.images.mean()), 2) == 33.79


@pytest.mark.data("ett_small")
@pytest.mark.parametrize("name", ["ETTh1", "ETTh2"])
def test_the_hourly_ett_files_are_whole(name: str) -> None:
    series = datasets.ett(name)
    assert series.values.shape == (17_420, 7)
    assert np.isfinite(series.values).all()
    assert series.columns == ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
    assert set(np.diff(series.timestamps).astype(int).tolist()) == {3600}
    assert str(series.timestamps[-1]) == "2018-06-26T19:00:00"


@pytest.mark.data("tinyshakespeare")
def test_tiny_shakespeare_is_whole() -> None:
    text = datasets.tiny_shakespeare()
    assert (len(text), len(set(text))) == (1_115_394, 65)
    assert text.startswith("First Citizen:\n")


@pytest.mark.data("wikitext-2")
@pytest.mark.parametrize(("split", "tokens"), [("valid", 217_646), ("test", 245_569)])
def test_wikitext2_has_the_published_numbers_of_tokens(split: str, tokens: int) -> None:
    assert sum(len(line.split()) + 1 for line in datasets.wikitext2(split).splitlines()) == tokens


@pytest.mark.data("planetoid")
@pytest.mark.parametrize(
    ("name", "nodes", "edges", "words", "classes"), [("cora", 2708, 5278, 1433, 7), ("citeseer", 3327, 4552, 3703, 6)]
)
def test_planetoid_graphs_have_the_published_sizes(name: str, nodes: int, edges: int, words: int, classes: int) -> None:
    graph = datasets.planetoid(name)
    assert graph.features.shape == (nodes, words)
    assert graph.edge_index.shape == (2, 2 * edges)
    assert graph.n_classes == classes
    assert (graph.edge_index[0] != graph.edge_index[1]).all()
    assert len(np.unique(graph.edge_index, axis=1).T) == 2 * edges
    assert [int(m.sum()) for m in (graph.train_mask, graph.val_mask, graph.test_mask)] == [20 * classes, 500, 1000]
    assert np.bincount(graph.labels[graph.train_mask]).tolist() == [20] * classes
    if name == "citeseer":
        assert int((graph.features.getnnz(axis=1) == 0).sum()) == 15


@pytest.mark.slow
@pytest.mark.data("planetoid")
@pytest.mark.parametrize("name", ["cora", "citeseer"])
def test_planetoid_agrees_with_torch_geometric(name: str) -> None:
    io = pytest.importorskip("torch_geometric.io")
    from shared_impl.data import fetch, shared_registry

    folder = fetch("planetoid", next(iter(shared_registry().dataset("planetoid").files))).parent
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = io.read_planetoid_data(str(folder), name)
    ours = datasets.planetoid(name)
    np.testing.assert_array_equal(ours.features.toarray(), theirs.x.to_dense().numpy())
    np.testing.assert_array_equal(ours.labels, theirs.y.numpy())
    for mask in ("train_mask", "val_mask", "test_mask"):
        np.testing.assert_array_equal(getattr(ours, mask), theirs[mask].numpy())
    assert set(zip(*ours.edge_index.tolist(), strict=True)) == set(zip(*theirs.edge_index.tolist(), strict=True))


@pytest.mark.data("gnn_benchmark_npz")
@pytest.mark.parametrize(
    ("name", "nodes", "edges", "words"), [("cora", 2708, 5278, 1433), ("citeseer", 3312, 4536, 3703)]
)
def test_gnn_benchmark_graphs_have_the_published_sizes(name: str, nodes: int, edges: int, words: int) -> None:
    graph = datasets.gnn_benchmark(name)
    assert graph.features.shape == (nodes, words)
    assert graph.features.dtype == np.float32
    assert graph.edge_index.shape == (2, 2 * edges)
    assert graph.train_mask is None


@pytest.mark.data("planetoid", "gnn_benchmark_npz")
def test_both_forms_of_cora_are_the_same_graph() -> None:
    one, other = datasets.planetoid("cora"), datasets.gnn_benchmark("cora")
    assert sorted(np.bincount(one.labels)) == sorted(np.bincount(other.labels))
    degrees = [np.sort(np.bincount(graph.edge_index[0])) for graph in (one, other)]
    np.testing.assert_array_equal(*degrees)
    assert one.features.nnz == other.features.nnz


@pytest.mark.data("wikiqa_filtered_train")
@pytest.mark.parametrize(
    ("split", "pairs", "questions", "right"), [("train", 8672, 873, 1040), ("test", 2351, 243, 293)]
)
def test_wikiqa_has_the_published_numbers_of_pairs(split: str, pairs: int, questions: int, right: int) -> None:
    found = datasets.wikiqa(split)
    assert (len(found), len(set(found.questions)), int(found.labels.sum())) == (pairs, questions, right)


def test_a_damaged_line_of_wikiqa_is_named(files: Path) -> None:
    path = put(files / "wikiqa_filtered_train/train.txt", b"1\twhy\tbecause\nno tabs here\n")
    with pytest.raises(DataError, match="line 2 is not label, question, sentence") as caught:
        datasets.wikiqa()
    assert str(path) in str(caught.value)


TWO_GRAPHS = "2\n3 2\n5 2 1 2\n6 1 0\n6 1 0\n1 0\n2 0\n"


def test_tu_graphs_are_read(files: Path) -> None:
    put(files / "tu_graphs_txt/MUTAG/MUTAG.txt", TWO_GRAPHS.encode())
    first, second = datasets.tu_graphs("MUTAG")
    np.testing.assert_array_equal(first.edge_index, [[0, 0, 1, 2], [1, 2, 0, 0]])
    np.testing.assert_array_equal(first.tags, [5, 6, 6])
    assert (first.label, second.label) == (1, 0)
    assert second.edge_index.shape == (2, 0)


@pytest.mark.parametrize("text", ["", "0\n", "2\n1 0\n2 0\n", "1\n2 0\n1 1 5\n1 0\n", "1\n1 0\n1 2 0\n", "x\n"])
def test_damaged_tu_graphs_are_an_error(files: Path, text: str) -> None:
    put(files / "tu_graphs_txt/PTC/PTC.txt", text.encode())
    with pytest.raises(DataError, match=r"PTC\.txt"):
        datasets.tu_graphs("PTC")


@pytest.mark.data("tu_graphs_txt")
def test_the_real_tu_graphs() -> None:
    graphs = datasets.tu_graphs("MUTAG")
    assert len(graphs) == 188
    assert sum(graph.label for graph in graphs) == 125
    assert len(datasets.tu_graphs("NCI1")) == 4110
