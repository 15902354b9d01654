import json

import numpy as np
import pytest

from anncur_impl.data import digits_rbf, low_rank_matrix, mlp_scores, read_zeshel, wikiqa_problem
from anncur_impl.experiments import DEPTHS, METHODS, SMOKE, budget_curve, load, search_with
from anncur_impl.metrics import exact_top_k, recall_at_k
from shared_impl.data import DataError


def test_the_generated_matrix_is_of_low_rank_but_for_its_noise():
    values = np.linalg.svd(low_rank_matrix(queries=50, items=80, rank=5, noise=0.0), compute_uv=False)
    assert (values[5:] < 1e-10).all()
    noisy = low_rank_matrix(queries=300, items=300, rank=5, noise=0.1)
    clean = low_rank_matrix(queries=300, items=300, rank=5, noise=0.0)
    assert (noisy - clean).std() == pytest.approx(0.1 * clean.std(), rel=0.02)


def test_a_networks_scores_are_those_of_its_pairs():
    scores = mlp_scores(queries=4, items=5)
    assert scores.shape == (4, 5)
    assert np.linalg.matrix_rank(mlp_scores(queries=60, items=90)) == 60


def test_digits_under_a_kernel():
    problem = digits_rbf(anchors=20, tests=10)
    assert problem.anchor_scores.shape == (20, 1767)
    assert problem.test_scores.shape == (10, 1767)
    assert 0 < problem.test_scores.min() < problem.test_scores.max() <= 1


def test_an_unknown_problem_and_an_unknown_method_are_refused():
    with pytest.raises(ValueError, match="data must be"):
        load("zeshel", {})
    problem = digits_rbf(anchors=5, tests=2)
    for method, message in (("TF-IDF", "texts"), ("itemCUR", "items with items")):
        with pytest.raises(ValueError, match=message):
            search_with(method, problem, k=1, budget=9, seed=0)


def test_a_curve_rises_to_one():
    problem = digits_rbf(anchors=50, tests=10)
    n = problem.test_scores.shape[1]
    curve = budget_curve("ANNCUR", problem, (20, 200, n), k=5)
    assert curve[0] <= curve[1] <= curve[2] == 1.0


@pytest.mark.data("wikiqa_filtered_train")
def test_wikiqa_is_kept_and_all_methods_search_it(tmp_path, monkeypatch):
    monkeypatch.setenv("IMPL_CACHE_DIR", str(tmp_path))
    wikiqa_problem.cache_clear()
    problem = wikiqa_problem("emb", **SMOKE)
    assert problem.anchor_scores.shape == (SMOKE["anchors"], SMOKE["n_items"])
    assert problem.test_scores.shape == (SMOKE["tests"], SMOKE["n_items"])
    assert not set(problem.anchor_queries) & set(problem.test_queries)
    assert 0 < problem.quality <= 1
    wikiqa_problem.cache_clear()
    again = wikiqa_problem("emb", **SMOKE)
    np.testing.assert_array_equal(again.test_scores, problem.test_scores)
    wikiqa_problem.cache_clear()
    for method in METHODS:
        if method == "bi-encoder":
            continue
        for k in DEPTHS[:2]:
            result = search_with(method, problem, k=k, budget=20, seed=0)
            assert result.calls == 20
            assert 0 <= recall_at_k(exact_top_k(problem.test_scores, k), result.ids) <= 1


DOCUMENT = {"document_id": "1", "title": "Sun", "text": "the sun is a star that shines"}


def write_zeshel(folder, mention=None):
    (folder / "documents").mkdir()
    (folder / "mentions").mkdir()
    (folder / "documents" / "sky.json").write_text(json.dumps(DOCUMENT) + "\n")
    mention = {
        "corpus": "sky", "context_document_id": "1", "label_document_id": "1", "start_index": 1, "end_index": 1,
        **(mention or {}),
    }  # fmt: skip
    (folder / "mentions" / "test.json").write_text(json.dumps(mention) + "\n")


def test_a_world_of_zeshel_is_read(tmp_path):
    write_zeshel(tmp_path)
    queries, items, gold = read_zeshel(tmp_path, "sky")
    assert queries == ["the [ sun ] is a star that shines"]
    assert items == ["Sun the sun is a star that shines"]
    assert gold == [0]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"label_document_id": "9"}, "'9'"), ({"corpus": "sea"}, "no mentions"), ({"start_index": "x"}, "invalid")],
)
def test_a_damaged_world_is_refused(tmp_path, change, message):
    write_zeshel(tmp_path, change)
    with pytest.raises(DataError, match=message):
        read_zeshel(tmp_path, "sky")


def test_a_missing_world_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_zeshel(tmp_path, "sky")
    write_zeshel(tmp_path)
    (tmp_path / "documents" / "sky.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        read_zeshel(tmp_path, "sky")
    (tmp_path / "documents" / "sky.json").write_text(json.dumps(DOCUMENT))
    (tmp_path / "mentions" / "test.json").unlink()
    with pytest.raises(DataError, match=r"no \.json files"):
        read_zeshel(tmp_path, "sky")
