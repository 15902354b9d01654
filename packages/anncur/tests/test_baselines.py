import numpy as np
import pytest

from anncur_impl.baselines import BiEncoderRetriever, BruteForce, FixItem, ItemCUR, RetrieveRerank, TfidfRetriever
from anncur_impl.metrics import exact_top_k, recall_at_k
from anncur_impl.scorer import MatrixScorer

ITEMS = ["the cat sat", "a dog barked", "the cat and the dog", "fish"]


@pytest.fixture
def square():
    points = np.random.default_rng(0).standard_normal((200, 6))
    return points @ points.T


def test_tf_idf_ranks_the_text_with_the_words_first():
    similarity = TfidfRetriever(ITEMS).similarity(["cat sat", "bird"])
    assert similarity.shape == (2, 4)
    assert similarity[0].argmax() == 0
    assert not similarity[1].any()


def test_retrieve_and_rerank_scores_what_was_retrieved():
    scorer = MatrixScorer(np.array([[0.0, 5.0, 1.0, 9.0]]))

    class Fixed:
        def similarity(self, queries):
            return np.array([[1.0, 2.0, 3.0, 0.0]])

    result = RetrieveRerank(scorer, range(4), Fixed()).search([0], 2, budget=3)
    np.testing.assert_array_equal(result.ids, [[1, 2]])
    assert result.calls == 3


def test_a_bi_encoder_ranks_by_dot_products():
    retriever = BiEncoderRetriever(lambda texts, which: np.array([[len(t), 1.0] for t in texts]), ITEMS)
    similarity = retriever.similarity(["ab"])
    np.testing.assert_allclose(similarity, [[2 * len(t) + 1 for t in ITEMS]])


def test_brute_force_is_exact(square):
    result = BruteForce(MatrixScorer(square), range(200)).search(range(5), 7)
    np.testing.assert_array_equal(result.ids, exact_top_k(square[:5], 7))
    assert result.calls == 200


@pytest.mark.parametrize("kind", [FixItem, ItemCUR])
def test_methods_with_anchor_items_find_more_than_chance(square, kind):
    searcher = kind(MatrixScorer(square), range(200), k_anchor_items=20)
    assert searcher.counted.calls == 20 * 200
    result = searcher.search(range(50), 10, budget=40)
    assert result.calls == 40
    assert recall_at_k(exact_top_k(square[:50], 10), result.ids) > 0.5


def test_fixed_items_ask_items_as_queries_and_item_cur_anchors_as_queries():
    lopsided = np.random.default_rng(0).standard_normal((6, 6))
    fixed, cur = (
        kind(MatrixScorer(lopsided), range(6), k_anchor_items=2, anchors=np.array([1, 4]))
        for kind in (FixItem, ItemCUR)
    )
    np.testing.assert_array_equal(fixed.vectors, lopsided[:, [1, 4]].T)
    np.testing.assert_allclose(cur.vectors[:, [1, 4]], np.eye(2), atol=1e-9)
    with pytest.raises(ValueError, match="item_scores"):
        FixItem(MatrixScorer(lopsided), range(6), k_anchor_items=2, item_scores=np.ones((3, 6)))


def test_item_cur_is_exact_at_low_rank(square):
    result = ItemCUR(MatrixScorer(square), range(200), k_anchor_items=20).search(range(50), 10, budget=40)
    assert recall_at_k(exact_top_k(square[:50], 10), result.ids) > 0.999


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: TfidfRetriever([]), "items"),
        (lambda s: BruteForce(s, []), "items"),
        (lambda s: BruteForce(s, range(3)).search([0], 4), "k must"),
        (lambda s: ItemCUR(s, range(3), k_anchor_items=4), "k_anchor_items"),
        (lambda s: FixItem(s, range(3), k_anchor_items=2).search([0], 1, budget=2), "greater than"),
        (lambda s: FixItem(s, range(3), k_anchor_items=1).search([0], 3, budget=2), "at least k"),
    ],
)
def test_what_cannot_be_is_refused(square, call, message):
    with pytest.raises(ValueError, match=message):
        call(MatrixScorer(square))
