import numpy as np
import pytest
import torch

from anncur_impl.encoders import ClsCrossEncoder, DualEncoder, EmbCrossEncoder, pair_batch, word_ids
from shared_impl.pretrained import WeightsError

SMALL = {"d_model": 16, "n_layers": 1, "n_heads": 2, "vocabulary": 64}
KINDS = [ClsCrossEncoder, EmbCrossEncoder]
QUERIES, ITEMS = ["who wrote it", "when", ""], ["it was written by her", "in may", ""]


def test_words_have_the_same_numbers_everywhere():
    assert word_ids("The cat, the CAT!", 100, 9) == word_ids("the cat the cat", 100, 9)
    assert len(word_ids("a b c d", 100, 3)) == 3
    assert all(5 <= i < 100 for i in word_ids("some words here", 100, 9))


def test_pairs_are_laid_out_with_marks_and_shared_words():
    batch = pair_batch([[10, 11], [12]], [[11], [13, 14, 15]])
    assert batch.ids.tolist() == [[1, 2, 10, 11, 3, 4, 11, 0], [1, 2, 12, 3, 4, 13, 14, 15]]
    assert batch.segments.tolist() == [[0, 0, 0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 1, 1, 1]]
    assert batch.shared.tolist()[0] == [0, 0, 0, 1, 0, 0, 1, 0]
    assert batch.query_end.tolist() == [4, 3]


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_does_not_depend_on_its_batch(kind):
    torch.manual_seed(0)
    model = kind(**SMALL)
    together = model(QUERIES, ITEMS)
    apart = np.concatenate([model([q], [i]) for q, i in zip(QUERIES, ITEMS, strict=True)])
    np.testing.assert_allclose(together, apart, rtol=1e-5, atol=1e-6)
    assert model.training
    assert model([], []).shape == (0,)


@pytest.mark.parametrize("kind", KINDS)
def test_the_matrix_holds_the_scores_of_the_pairs(kind):
    torch.manual_seed(0)
    model = kind(**SMALL)
    table = model.score_matrix(QUERIES, ITEMS)
    assert table.shape == (3, 3)
    for i, query in enumerate(QUERIES):
        np.testing.assert_allclose(table[i], model([query] * 3, ITEMS), rtol=1e-4, atol=1e-5)


def test_the_emb_score_is_the_product_of_the_marks_states():
    torch.manual_seed(0)
    model = EmbCrossEncoder(**SMALL)
    states = torch.randn(2, 8, 16)
    ends = torch.tensor([4, 3])
    for row in range(2):
        query = (states[row, 1] + states[row, ends[row]]) / 2
        expected = query @ states[row, ends[row] + 1] / 4
        torch.testing.assert_close(model.head(states, ends)[row], expected)


@pytest.mark.parametrize("kind", [*KINDS, DualEncoder])
def test_models_come_back_from_their_folder(kind, tmp_path):
    torch.manual_seed(0)
    model = kind(**SMALL)
    model.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path)
    args = (QUERIES, "query") if kind is DualEncoder else (QUERIES, ITEMS)
    np.testing.assert_array_equal(again(*args), model(*args))
    with pytest.raises(WeightsError):
        (DualEncoder if kind is not DualEncoder else ClsCrossEncoder).from_pretrained(tmp_path)


def test_a_dual_encoder_gives_queries_and_items_vectors_of_their_own():
    torch.manual_seed(0)
    model = DualEncoder(**SMALL)
    queries, items = model(QUERIES, "query"), model(QUERIES, "item")
    assert queries.shape == (3, 16)
    assert not np.allclose(queries, items)
    np.testing.assert_allclose(model(QUERIES[:1], "query"), queries[:1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{"d_model": 15}, {"vocabulary": 5}])
def test_sizes_that_cannot_be_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ClsCrossEncoder(**{**SMALL, **options})
