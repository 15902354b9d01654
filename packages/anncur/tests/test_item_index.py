import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from anncur_impl.item_index import FlatIndex, HNSWIndex, make_index, top_k

NONE = np.empty(0, dtype=np.int64)


@given(st.lists(st.lists(st.integers(0, 4), min_size=6, max_size=6), min_size=1, max_size=5), st.integers(0, 8))
def test_the_largest_with_ties_by_the_lower_place(rows, k):
    scores = np.array(rows, dtype=float)
    expected = np.array([sorted(range(6), key=lambda i: (-row[i], i))[:k] for row in rows]).reshape(len(rows), -1)
    np.testing.assert_array_equal(top_k(scores, k), expected)


def test_half_precision_in_chunks_equals_one_product(monkeypatch):
    rng = np.random.default_rng(0)
    vectors, queries = rng.standard_normal((8, 1000)).astype(np.float16), rng.standard_normal((3, 8))
    whole = FlatIndex(vectors).scores(queries)
    monkeypatch.setattr("anncur_impl.item_index.CHUNK_BYTES", 1000)
    np.testing.assert_allclose(FlatIndex(vectors).scores(queries), whole, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(whole, queries @ vectors.astype(float), rtol=1e-4, atol=1e-4)


def test_what_is_excluded_is_not_found():
    index = FlatIndex(np.eye(4, dtype=np.float32))
    found = index.search(np.array([[4.0, 3, 2, 1]]), 2, np.array([0, 2]))
    np.testing.assert_array_equal(found, [[1, 3]])


def test_a_graph_finds_what_the_product_finds():
    pytest.importorskip("hnswlib")
    rng = np.random.default_rng(0)
    vectors, queries = rng.standard_normal((8, 500)).astype(np.float32), rng.standard_normal((20, 8))
    out = np.arange(0, 500, 50)
    exact, found = FlatIndex(vectors).search(queries, 10, out), HNSWIndex(vectors).search(queries, 10, out)
    assert found.shape == (20, 10)
    assert not np.isin(found, out).any()
    assert np.mean([np.isin(a, b).mean() for a, b in zip(exact, found, strict=True)]) > 0.95


def test_an_unknown_index_is_refused():
    with pytest.raises((ValueError, TypeCheckError), match="hnsw"):
        make_index("tree", np.eye(2, dtype=np.float32))


def test_a_graph_without_the_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "hnswlib", None)
    with pytest.raises(ValueError, match=r"anncur-impl\[hnsw\]"):
        make_index("hnsw", NONE.reshape(0, 0).astype(np.float32))
