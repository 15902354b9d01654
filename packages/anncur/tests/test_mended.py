import sqlite3

import numpy as np
import pytest
import torch

from anncur_impl.baselines import FixItem, ItemCUR
from anncur_impl.cur import CURDecomposition, energy
from anncur_impl.encoders import EmbCrossEncoder
from anncur_impl.files import read_answers, read_texts
from anncur_impl.item_index import FlatIndex, HNSWIndex
from anncur_impl.metrics import exact_top_k
from anncur_impl.scorer import CachedScorer, MatrixScorer, cross_encoder
from anncur_impl.training import _others, train_cross_encoder
from shared_impl.cli import UserError


def test_indices_of_a_decomposition_may_be_lists_and_are_checked():
    matrix = np.random.default_rng(0).standard_normal((6, 7))
    made = CURDecomposition.fit(matrix, [0, 2], [1, 3])
    assert made.rows.shape == (2, 7)
    for wrong in ([7], [-1], [1, 1], [0.5]):
        with pytest.raises(ValueError, match="column_index must hold"):
            CURDecomposition.fit(matrix, [0], wrong)


def test_errors_and_energies_at_the_edge():
    zeros = np.zeros((3, 4))
    assert CURDecomposition.fit(zeros, [0], [0]).relative_error(zeros) == 0
    assert energy(np.eye(3), np.array([0, 1, 9])).tolist() == pytest.approx([0, 1 / 3, 1])
    with pytest.raises(ValueError, match="must not be negative"):
        energy(np.eye(3), np.array([-1]))
    with pytest.raises(ValueError, match="NaN"):
        exact_top_k(np.array([[1.0, np.nan]]), 1)


@pytest.mark.parametrize("kind", [ItemCUR, FixItem])
def test_given_anchors_are_checked(kind):
    scores = np.ones((2, 5))
    for anchors, message in (([0, 9], "from 0 to 4"), ([1, 1], "once"), ([0], "anchors must be 2")):
        with pytest.raises(ValueError, match=message):
            kind(MatrixScorer(np.ones((3, 5))), range(5), k_anchor_items=2, anchors=anchors, item_scores=scores)


def test_a_flat_index_searches_blocks_of_queries_as_all_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    index, queries = FlatIndex(rng.standard_normal((4, 50)).astype(np.float32)), rng.standard_normal((9, 4))
    whole = index.search(queries, 5, np.array([3]))
    monkeypatch.setattr("anncur_impl.item_index.CHUNK_BYTES", 50 * 2)
    assert np.array_equal(index.search(queries, 5, np.array([3])), whole)
    assert index.search(queries[:0], 5, np.array([3])).shape == (0, 5)


def test_a_graph_that_does_not_reach_far_enough_gives_way_to_all_items():
    class Lost:
        def set_ef(self, _):
            pass

        def knn_query(self, *_, **__):
            raise RuntimeError("Cannot return the results in a contiguous 2D array")

    vectors = np.random.default_rng(0).standard_normal((3, 20)).astype(np.float32)
    index = HNSWIndex.__new__(HNSWIndex)
    index.vectors, index.search_width, index.graph = vectors, 10, Lost()
    queries, out = np.eye(3), np.array([0, 1])
    assert np.array_equal(index.search(queries, 4, out), FlatIndex(vectors).search(queries, 4, out))


def test_an_error_of_the_scorers_own_database_is_its_own(tmp_path):
    def scorer(queries, items):
        raise sqlite3.OperationalError("no such table: theirs")

    with pytest.raises(sqlite3.OperationalError, match="theirs"):
        CachedScorer(scorer, tmp_path / "kept.db", name="x")(["a"], ["b"])


@pytest.mark.parametrize("name", ["activation_fn", "activation_fct", None])
def test_a_published_cross_encoder_gives_logits(name):
    seen = {}

    class Model:
        if name == "activation_fn":

            def predict(self, pairs, batch_size=1, show_progress_bar=True, activation_fn=None):
                seen["plain"] = activation_fn
                return np.zeros(len(pairs))
        elif name == "activation_fct":

            def predict(self, pairs, batch_size=1, show_progress_bar=True, activation_fct=None):
                seen["plain"] = activation_fct
                return np.zeros(len(pairs))
        else:

            def predict(self, pairs, batch_size=1, show_progress_bar=True):
                seen["plain"] = None
                return np.zeros(len(pairs))

    assert cross_encoder(Model())(["a", "b"], ["c", "d"]).tolist() == [0, 0]
    assert isinstance(seen["plain"], torch.nn.Identity) or name is None


def test_only_a_line_feed_ends_a_line_and_blank_ones_are_counted(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("one\u2028still one\r\n\ntwo\x0cstill two\n", encoding="utf-8", newline="")
    assert read_texts(path) == ["one\u2028still one", "two\x0cstill two"]
    path.write_text('{"text": "a"}\n\n{"text": null}\n')
    with pytest.raises(UserError, match="line 3"):
        read_texts(path)
    path.write_text("1\tq\ta\n\n2\tq\tb\n")
    with pytest.raises(UserError, match="line 3"):
        read_answers(path)


def test_wrong_answers_are_drawn_from_all_that_are_none():
    drawn = _others([1, 4, 1], 6, 4000, torch.Generator().manual_seed(0))
    counts = np.bincount(drawn, minlength=6)
    assert counts[1] == counts[4] == 0
    assert counts[[0, 2, 3, 5]].min() > 900


@pytest.mark.parametrize("positives", [[[-1]], [[0, 1]]])
def test_positives_that_cannot_be_are_refused(positives):
    with pytest.raises(ValueError, match="positives must"):
        train_cross_encoder(EmbCrossEncoder(), ["q"], positives, ["a", "b"], steps=1)
