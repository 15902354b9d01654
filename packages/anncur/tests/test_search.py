import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from anncur_impl.data import low_rank_matrix
from anncur_impl.metrics import exact_top_k, recall_at_k
from anncur_impl.scorer import MatrixScorer
from anncur_impl.search import ANNCUR, rank_candidates


@pytest.fixture(scope="module")
def matrix():
    return low_rank_matrix(queries=120, items=400, rank=10, decay=5.0, noise=0.05)


def made(matrix, **options):
    options = {"budget": 60, **options}
    return ANNCUR.from_matrix(matrix[:80], scorer=MatrixScorer(matrix[80:]), **options)


class Texts:
    """Scores of texts by a table, counting."""

    def __init__(self, matrix):
        self.matrix, self.calls = matrix, 0

    def __call__(self, queries, items):
        self.calls += len(queries)
        return [self.matrix[int(q[1:]), int(i[1:])] for q, i in zip(queries, items, strict=True)]


def texts(matrix):
    return [f"q{i}" for i in range(len(matrix))], [f"i{j}" for j in range(matrix.shape[1])]


def test_fit_from_texts_equals_the_matrix(matrix):
    queries, items = texts(matrix)
    scorer = Texts(matrix)
    fitted = ANNCUR(scorer, budget=60).fit(queries[:80], items)
    assert fitted.indexing_calls_ == scorer.calls == 80 * 400
    result, expected = fitted.search(queries[80:], 5), made(matrix).search(range(40), 5)
    np.testing.assert_array_equal(result.ids, expected.ids)
    np.testing.assert_array_equal(result.scores, expected.scores)
    assert result.calls == 60
    assert scorer.calls == 80 * 400 + 40 * 60


def test_scores_of_the_result_are_exact_and_sorted(matrix):
    result = made(matrix).search(range(40), 10)
    np.testing.assert_array_equal(result.scores, np.take_along_axis(matrix[80:], result.ids, 1))
    assert (np.diff(result.scores, axis=1) <= 0).all()
    assert all(len(set(row)) == 10 for row in result.ids)


def test_ties_go_to_the_lower_id():
    result = rank_candidates(np.array([[5, 2, 9]]), np.array([[1.0, 1.0, 2.0]]), 2, 3)
    np.testing.assert_array_equal(result.ids, [[9, 2]])


@pytest.mark.parametrize("rounds", [1, 2, 5, 100])
def test_rounds_spend_the_same_calls(matrix, rounds):
    queries, items = texts(matrix)
    scorer = Texts(matrix)
    fitted = ANNCUR.from_matrix(matrix[:80], scorer=scorer, items=items, budget=60)
    result = fitted.search(queries[80:90], 5, rounds=rounds)
    assert result.calls == 60
    assert scorer.calls == 10 * 60


def test_adaptive_rounds_find_no_less_here(matrix):
    truth = exact_top_k(matrix[80:], 10)
    found = {r: recall_at_k(truth, made(matrix, budget=30).search(range(40), 10, rounds=r).ids) for r in (1, 4)}
    assert found[4] >= found[1]


def test_half_precision_finds_nearly_the_same(matrix):
    truth = exact_top_k(matrix[80:], 10)
    full, half = made(matrix), made(matrix, dtype="float16")
    assert half.index_.vectors.nbytes * 2 == full.index_.vectors.nbytes
    assert abs(recall_at_k(truth, full.search(range(40)).ids) - recall_at_k(truth, half.search(range(40)).ids)) < 0.02


def test_vectors_too_large_for_half_precision_are_kept_in_single():
    rows = np.full((4, 6), 1e-6)
    anchor = int(ANNCUR.from_matrix(rows, k_anchor_items=1, centre=False).anchors_[0])
    rows[:, anchor - 1] = 1.0
    with pytest.warns(UserWarning, match="half precision"):
        fitted = ANNCUR.from_matrix(rows, k_anchor_items=1, dtype="float16", centre=False)
    assert fitted.index_.vectors.dtype == np.float32


@pytest.mark.parametrize("options", [{"method": "ridge"}, {"split": "auto"}, {"rcond": None}, {"k_anchor_items": 15}])
def test_every_way_to_fit_finds_more_than_chance(matrix, options):
    truth = exact_top_k(matrix[80:], 10)
    fitted = made(matrix, **options)
    assert recall_at_k(truth, fitted.search(range(40), 10).ids) > 3 * 60 / 400


def test_the_split_is_tuned_on_anchor_queries_only(matrix):
    fitted = ANNCUR.from_matrix(matrix[:80], budget=60, split="auto")
    assert 1 <= len(fitted.anchors_) < 60
    few = ANNCUR.from_matrix(matrix[:3], budget=60, split="auto")
    assert len(few.anchors_) == 30


def test_a_graph_in_place_of_the_product(matrix):
    pytest.importorskip("hnswlib")
    truth = exact_top_k(matrix[80:], 10)
    flat, graph = made(matrix).search(range(40), 10), made(matrix, index="hnsw").search(range(40), 10)
    assert abs(recall_at_k(truth, flat.ids) - recall_at_k(truth, graph.ids)) < 0.02


def test_added_items_are_found(matrix):
    queries, items = texts(matrix)
    fitted = ANNCUR(Texts(matrix), budget=60).fit(queries[:80], items[:390])
    ids = fitted.add(items[390:])
    np.testing.assert_array_equal(ids, np.arange(390, 400))
    assert fitted.indexing_calls_ == 80 * 400
    late = exact_top_k(matrix[80:, 390:], 1)[:, 0] + 390
    found = fitted.search(queries[80:], 50).ids
    best = matrix[np.arange(80, 120), late] >= np.sort(matrix[80:], 1)[:, -5]
    assert best.any()
    assert all(late[i] in found[i] for i in np.flatnonzero(best))
    assert len(fitted.add([])) == 0


def test_removed_items_are_not_found_and_the_calls_stay(matrix):
    fitted = made(matrix)
    first = fitted.search(range(40), 3).ids
    gone = np.unique(first[:, 0])
    fitted.remove([*gone, int(fitted.anchors_[0])])
    result = fitted.search(range(40), 3)
    assert not np.isin(result.ids, gone).any()
    assert result.calls == 60
    assert fitted.search(range(40), 3, rounds=3).calls == 60
    everything = fitted.search(range(40), 3, budget=400)
    assert not np.isin(everything.ids, gone).any()


def test_removing_what_is_not_there_is_refused(matrix):
    fitted = made(matrix)
    fitted.remove([7])
    for missing in (7, 400, -1):
        with pytest.raises(ValueError, match=f"no item {missing}"):
            fitted.remove([missing])
    with pytest.raises(ValueError, match="no item 8"):
        fitted.remove([8, 8])
    assert fitted.search([0], 1, budget=400).calls == 399


def test_duplicates_are_items_of_their_own(matrix):
    doubled = np.concatenate([matrix, matrix[:, :1]], axis=1)
    result = made(doubled).search(range(40), 401, budget=401)
    assert {0, 400} <= set(result.ids[0])


def test_an_index_comes_back_from_its_file(matrix, tmp_path):
    queries, items = texts(matrix)
    fitted = ANNCUR(Texts(matrix), budget=60, method="ridge", seed=3).fit(queries[:80], items)
    fitted.remove([11])
    fitted.save(tmp_path / "index.npz")
    again = ANNCUR.load(tmp_path / "index.npz", Texts(matrix))
    np.testing.assert_array_equal(again.search(queries[80:], 5).ids, fitted.search(queries[80:], 5).ids)
    assert again.removed_[11]
    again.add(["i0"])


def test_a_file_that_is_no_index_is_refused(matrix, tmp_path):
    fitted = made(matrix)
    path = tmp_path / "index.npz"
    fitted.save(path)
    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="is not an index"):
            ANNCUR.load(path)
    with pytest.raises(FileNotFoundError):
        ANNCUR.load(tmp_path / "nowhere.npz")
    strange = ANNCUR.from_matrix(np.eye(3), items=[object()] * 3)
    with pytest.raises(ValueError, match="text or numbers"):
        strange.save(path)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: ANNCUR(budget=0), "budget"),
        (lambda m: ANNCUR(split="third"), "split"),
        (lambda m: ANNCUR(method="svd"), "method"),
        (lambda m: ANNCUR(dtype="int8"), "dtype"),
        (lambda m: ANNCUR().fit(["a"], ["b"]), "needs a scorer"),
        (lambda m: ANNCUR(Texts(m)).fit([], ["b"]), "must not be empty"),
        (lambda m: ANNCUR(Texts(m)).fit(["q0"], []), "must not be empty"),
        (lambda m: ANNCUR(Texts(m)).search(["q0"], 1), "not fitted"),
        (lambda m: ANNCUR(Texts(m), k_anchor_items=9).fit(["q0"], ["i0"]), "k_anchor_items"),
        (lambda m: ANNCUR.from_matrix(m[:0]), "finite matrix"),
        (lambda m: ANNCUR.from_matrix(np.full((2, 2), np.nan)), "finite matrix"),
        (lambda m: ANNCUR.from_matrix(m, items=["one"]), "items"),
        (lambda m: ANNCUR.from_matrix(m).search([0], 1), "needs a scorer"),
        (lambda m: made(m).search([0], 0), "k must"),
        (lambda m: made(m).search([0], 401), "k must"),
        (lambda m: made(m).search([0], 61), "budget must be at least k"),
        (lambda m: made(m).search([0], 5, budget=30), "greater than the number of anchor items"),
        (lambda m: made(m).search([0], 5, rounds=0), "rounds"),
        (lambda m: made(m).add(["new"]), "anchor queries"),
    ],
)
def test_what_cannot_be_is_refused(matrix, call, message):
    with pytest.raises((ValueError, TypeCheckError), match=message):
        call(matrix)


def test_no_queries_no_results(matrix):
    assert made(matrix).search([], 3).ids.shape == (0, 3)


def test_one_item_and_one_query_are_enough():
    result = ANNCUR.from_matrix(np.ones((1, 1)), scorer=MatrixScorer(np.ones((1, 1)))).search([0], 1)
    np.testing.assert_array_equal(result.ids, [[0]])


def test_rounds_keep_the_penalty_of_ridge():
    matrix = low_rank_matrix(noise=0.5)
    found = {}
    for rounds in (1, 4):
        made = ANNCUR.from_matrix(matrix[:200], scorer=MatrixScorer(matrix[200:]), budget=400, method="ridge")
        result = made.search(range(100), 10, rounds=rounds)
        found[rounds] = recall_at_k(exact_top_k(matrix[200:300], 10), result.ids)
    assert found[4] >= found[1]


@pytest.mark.parametrize("options", [{"rcond": -1.0}, {"rcond": 2.0}, {"seed": -1}, {"k_anchor_items": 101}])
def test_settings_are_refused_before_the_first_call(options):
    calls = []

    def scorer(queries, items):
        calls.append(len(queries))
        return [0.0] * len(queries)

    with pytest.raises(ValueError, match="must"):
        ANNCUR(scorer, **options).fit(list(range(50)), list(range(100)))
    assert not calls


def test_the_split_is_chosen_within_a_small_budget():
    matrix = low_rank_matrix()
    made = ANNCUR.from_matrix(matrix[:20], scorer=MatrixScorer(matrix[20:]), budget=8, split="auto")
    assert 1 <= len(made.anchors_) < 8
    assert made.search([0], 3).ids.shape == (1, 3)


def test_one_text_is_no_list_of_queries():
    matrix = low_rank_matrix()
    made = ANNCUR.from_matrix(matrix[:20], scorer=MatrixScorer(matrix[20:]), budget=40)
    with pytest.raises(ValueError, match="queries must be a list"):
        made.search("hello", 1)
    with pytest.raises(ValueError, match="items must be a list"):
        ANNCUR(MatrixScorer(matrix)).fit([0, 1], "abc")


def test_scores_in_half_precision_are_read():
    made = ANNCUR(lambda q, i: torch.arange(len(q)).bfloat16(), budget=10).fit(list(range(5)), list(range(30)))
    assert made.search([0], 3).scores.dtype == np.float64


def crowd(shift=0.0, scale=1.0, **more):
    matrix = low_rank_matrix(queries=120, items=600, rank=10, noise=0.05)
    matrix = scale * (matrix + shift)
    made = ANNCUR.from_matrix(matrix[:80], scorer=MatrixScorer(matrix[80:]), budget=60, **more)
    return recall_at_k(exact_top_k(matrix[80:], 10), made.search(range(40), 10).ids), made, matrix


@pytest.mark.parametrize("method", ["pinv", "ridge"])
def test_a_constant_added_to_all_scores_costs_nothing(method):
    plain = crowd(method=method)[0]
    assert plain > 0.9
    assert crowd(shift=-1000.0, method=method)[0] == pytest.approx(plain, abs=0.02)
    # equation 3 as it stands: the constant hides what differs between items below the cut-off
    assert crowd(shift=-1000.0, centre=False)[0] < 0.5
    for rounds in (1, 3):
        _, made, matrix = crowd(shift=50.0, method=method)
        found = made.search(range(40), 10, rounds=rounds).ids
        assert recall_at_k(exact_top_k(matrix[80:], 10), found) > 0.9
    estimates = made.approximate_scores(range(40))
    assert np.abs(estimates - matrix[80:]).mean() < 0.5 * matrix[80:].std()


@pytest.mark.parametrize("scale", [1e-50, 1e38])
def test_scores_of_any_size_are_searched(scale):
    assert crowd(scale=scale)[0] == pytest.approx(crowd()[0], abs=0.02)
    assert crowd(scale=scale, method="ridge")[0] == pytest.approx(crowd(method="ridge")[0], abs=0.02)


def test_the_block_of_anchors_is_described_and_the_callers_matrix_left_alone():
    _, made, matrix = crowd()
    block = matrix[:80][:, made.anchors_] - matrix[:80].mean()
    values = np.linalg.svd(block, compute_uv=False)
    assert made.condition_ == pytest.approx(values[0] / values[-1])
    assert made.rank_ == int((values > 1e-2 * values[0]).sum())
    rows = matrix[:80].copy()
    made = ANNCUR.from_matrix(rows, scorer=MatrixScorer(matrix[80:]), budget=60)
    rows[:] = 0
    assert np.array_equal(made.rows_, matrix[:80])
    assert ANNCUR.from_matrix(matrix[:80], budget=60, dtype="float16").rows_.dtype == np.float32


def test_added_items_get_the_vectors_of_a_refit_without_the_others_being_made_again(monkeypatch):
    matrix = low_rank_matrix(queries=60, items=100, rank=5, noise=0.1)

    def scorer(queries, items):
        return matrix[np.asarray(queries), np.asarray(items)]

    made = ANNCUR(scorer, budget=40).fit(list(range(40)), list(range(90)))
    monkeypatch.setattr(ANNCUR, "_index", lambda self: pytest.fail("made again"))
    before = made.index_.vectors.copy()
    made.add(list(range(90, 100)))
    assert np.array_equal(made.index_.vectors[:, :90], before)
    expected = made.middle_ @ (matrix[:40, 90:] - made.offset_)
    np.testing.assert_allclose(made.index_.vectors[:, 90:], expected, rtol=1e-5, atol=1e-5)


def test_tuples_and_numpys_numbers_come_back_from_a_file(tmp_path):
    items = [("a", 1), ("b", 2), ("c", 3)]
    made = ANNCUR.from_matrix(np.eye(2, 3), items=items, anchor_queries=[np.int64(4), (5, "x")], k_anchor_items=1)
    made.save(tmp_path / "i.npz")
    again = ANNCUR.load(tmp_path / "i.npz")
    assert again.items_ == items
    assert again.queries_ == [4, (5, "x")]
    assert again.offset_ == made.offset_


@pytest.mark.parametrize(
    "broken",
    [
        {"anchors": np.array([7])},
        {"anchors": np.array([-1])},
        {"rows": np.full((2, 3), np.nan)},
        {"removed": np.zeros(3)},
    ],
)
def test_a_file_with_foreign_parts_is_refused(broken, tmp_path):
    made = ANNCUR.from_matrix(np.eye(2, 3), k_anchor_items=1)
    made.save(tmp_path / "i.npz")
    with np.load(tmp_path / "i.npz") as file:
        parts = {name: file[name] for name in file.files}
    np.savez(tmp_path / "i.npz", **{**parts, **broken})
    with pytest.raises(ValueError, match="not an index"):
        ANNCUR.load(tmp_path / "i.npz")
