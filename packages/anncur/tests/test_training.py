import numpy as np
import pytest
import torch

from anncur_impl.encoders import ClsCrossEncoder, DualEncoder, EmbCrossEncoder
from anncur_impl.training import distill_dual_encoder, ranking_accuracy, train_cross_encoder

SMALL = {"d_model": 16, "n_layers": 1, "n_heads": 2, "vocabulary": 256}
NAMES = ["ann", "bob", "cid", "dan", "eve", "fay", "gus", "hal"]
QUESTIONS = [f"where does {name} live" for name in NAMES]
ANSWERS = [f"{name} lives in town {i}" for i, name in enumerate(NAMES)]
RIGHT = [[i] for i in range(len(NAMES))]


@pytest.mark.parametrize("kind", [ClsCrossEncoder, EmbCrossEncoder])
def test_training_ranks_the_answers_first(kind):
    torch.manual_seed(0)
    model = kind(**SMALL)
    before = ranking_accuracy(model.score_matrix(QUESTIONS, ANSWERS), RIGHT)
    result = train_cross_encoder(model, QUESTIONS, RIGHT, ANSWERS, steps=60, negatives=3, questions_per_step=8, lr=1e-2)
    after = ranking_accuracy(model.score_matrix(QUESTIONS, ANSWERS), RIGHT)
    assert after > 0.9 > before
    assert result.history[-1]["train_loss"] < result.history[0]["train_loss"]


def test_training_again_gives_the_same_weights():
    def trained():
        torch.manual_seed(0)
        model = EmbCrossEncoder(**SMALL)
        train_cross_encoder(model, QUESTIONS, RIGHT, ANSWERS, steps=3, negatives=3)
        return model(QUESTIONS, ANSWERS)

    np.testing.assert_array_equal(trained(), trained())


def test_a_distilled_encoder_ranks_as_the_scores_do():
    rng = np.random.default_rng(0)
    scores = 6 * rng.permutation(np.eye(8))
    torch.manual_seed(0)
    model = DualEncoder(**SMALL)
    distill_dual_encoder(model, QUESTIONS, ANSWERS, scores, steps=150, lr=1e-2)
    similarity = model(QUESTIONS, "query") @ model(ANSWERS, "item").T
    assert (similarity.argmax(1) == scores.argmax(1)).mean() >= 0.75


def test_reciprocal_ranks_by_hand():
    scores = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [0.0, 0.0, 0.0]])
    assert ranking_accuracy(scores, [[1], [0, 2], []]) == pytest.approx((1 / 2 + 1) / 2)
    with pytest.raises(ValueError, match="positives"):
        ranking_accuracy(scores, [[], [], []])


@pytest.mark.parametrize(("positives", "message"), [([[]] * 8, "at least one"), ([[8]] * 8, "numbers of items")])
def test_answers_that_cannot_be_are_refused(positives, message):
    with pytest.raises(ValueError, match=message):
        train_cross_encoder(EmbCrossEncoder(**SMALL), QUESTIONS, positives, ANSWERS, steps=1)
