import sqlite3
import types

import numpy as np
import pytest
import torch

from anncur_impl.scorer import CachedScorer, CountedScorer, MatrixScorer, cross_encoder, hugging_face


def lengths(queries, items):
    return [len(q) * 10 + len(i) for q, i in zip(queries, items, strict=True)]


def test_calls_are_counted_and_batched():
    sizes = []

    def scorer(queries, items):
        sizes.append(len(queries))
        return lengths(queries, items)

    counted = CountedScorer(scorer, batch_size=4)
    table = counted.matrix(["a", "bb"], ["x", "yy", "zzz", "", "u"])
    np.testing.assert_array_equal(table, [[11, 12, 13, 10, 11], [21, 22, 23, 20, 21]])
    assert counted.calls == 10
    assert max(sizes) == 4
    np.testing.assert_array_equal(counted.chosen(["a", "bb"], ["x", "yy"], np.array([[1], [0]])), [[12], [21]])
    assert counted.calls == 12


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([1.0], "2 scores for 2 pairs"),
        ([[1.0], [2.0]], "2 scores for 2 pairs"),
        ([1.0, float("nan")], "nan for query 'b'"),
        ([float("inf"), 1.0], "inf for query 'a'"),
    ],
)
def test_nonsense_from_the_scorer_is_refused(answer, message):
    with pytest.raises(ValueError, match=message):
        CountedScorer(lambda q, i: answer).pairs(["a", "b"], ["x", "y"])


def test_tensors_are_taken():
    counted = CountedScorer(lambda q, i: torch.ones(len(q), requires_grad=True))
    np.testing.assert_array_equal(counted.pairs(["a"], ["x"]), [1.0])


def test_a_cache_asks_each_pair_once_and_outlives_the_process(tmp_path):
    path = tmp_path / "folder" / "scores.sqlite"
    first = CachedScorer(lengths, path, name="lengths")
    queries, items = ["a", "bb", "a", "a"], ["x", "yy", "x", "zz"]
    np.testing.assert_array_equal(first(queries, items), lengths(queries, items))
    assert first.asked == 3

    def never(queries, items):
        raise AssertionError("asked again")

    again = CachedScorer(never, path, name="lengths")
    np.testing.assert_array_equal(again(queries, items), lengths(queries, items))
    other = CachedScorer(lambda q, i: [0.0] * len(q), path, name="other")
    assert list(other(["a"], ["x"])) == [0.0]


def test_a_cache_takes_more_pairs_than_sqlite_takes_variables(tmp_path):
    scorer = CachedScorer(lambda q, i: [a + b for a, b in zip(q, i, strict=True)], tmp_path / "s", name="sum")
    np.testing.assert_array_equal(scorer(range(1500), range(1500)), 2 * np.arange(1500))
    assert len(scorer(list(np.arange(3)), list(np.arange(3)))) == 3
    assert scorer.asked == 1500


def test_what_a_cache_cannot_keep_is_refused(tmp_path):
    with pytest.raises(ValueError, match="cannot be kept on disk"):
        CachedScorer(lengths, tmp_path / "s", name="x")([object()], ["a"])
    with pytest.raises(ValueError, match="2 scores"):
        CachedScorer(lambda q, i: [1.0], tmp_path / "s", name="x")(["a", "b"], ["a", "b"])
    (tmp_path / "broken").write_bytes(b"this is no database" * 100)
    with pytest.raises(ValueError, match="broken"):
        CachedScorer(lengths, tmp_path / "broken", name="x")


def test_a_score_that_is_not_finite_is_not_kept(tmp_path):
    scorer = CachedScorer(lambda q, i: [float("nan")] * len(q), tmp_path / "s", name="x")
    assert np.isnan(scorer(["a"], ["b"])).all()
    with sqlite3.connect(tmp_path / "s") as file:
        assert file.execute("SELECT count(*) FROM scores").fetchone() == (0,)
    file.close()


def test_scores_at_hand():
    scores = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(MatrixScorer(scores)([0, 1, 1], [2, 0, 1]), [2, 3, 4])


def test_a_cross_encoder_of_sentence_transformers_is_asked_for_pairs():
    seen = []

    class Model:
        def predict(self, pairs, batch_size, show_progress_bar):
            seen.extend(pairs)
            return np.array([[len(a)] for a, _ in pairs])

    np.testing.assert_array_equal(cross_encoder(Model())(["a", "bb"], ["x", "y"]), [1, 2])
    assert seen == [("a", "x"), ("bb", "y")]


def test_a_hugging_face_classifier_gives_the_logit_of_its_last_column():
    class Texts(dict):
        def to(self, device):
            return self

    def tokenizer(queries, items, **options):
        assert options["padding"] == "max_length"
        return Texts(x=torch.tensor([[float(len(q)), float(len(i))] for q, i in zip(queries, items, strict=True)]))

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(2, 2)

        def forward(self, x):
            return types.SimpleNamespace(logits=self.linear(x))

    model = Model().train()
    scores = hugging_face(model, tokenizer)(["a", "bb"], ["x", "y"])
    expected = model.linear(torch.tensor([[1.0, 1.0], [2.0, 1.0]]))[:, 1]
    torch.testing.assert_close(scores, expected.detach())
    assert not model.training
