import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from ptrnet_impl import PointerSolver, generate

TINY = {"hidden": 8, "steps": 3, "n": (5, 6), "random_state": 0}


def fitted(task="hull", *data, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # three steps teach nothing
        return PointerSolver(task, **{**TINY, **options}).fit(*data)


@pytest.fixture(scope="module")
def hull():
    return fitted()


def marked(count, rng):
    """Lists of six with a mark at some: the answer is where the marks are."""
    lists = [np.stack([rng.random(6), rng.permutation([1, 1, 1, 0, 0, 0])], axis=1) for _ in range(count)]
    return lists, [np.flatnonzero(values[:, 1]) for values in lists]


@pytest.mark.parametrize("task", ["hull", "delaunay", "tsp", "sort"])
def test_answers_have_the_form_of_the_task(task):
    solver = fitted(task)
    points, _ = generate(task, 6, 3, 0)
    answers = solver.predict(list(points))
    assert len(answers) == 3
    if task == "delaunay":
        assert all(a.ndim == 2 and a.shape[1] == 3 for a in answers)
    if task == "tsp":
        assert all(sorted(a.tolist()) == list(range(6)) for a in answers)
    assert solver.predict(points[0]).tolist() == answers[0].tolist()
    assert 0 <= solver.score(list(points)) <= 1


def test_instances_of_unequal_sizes_keep_their_order(hull):
    some = [generate("hull", n, 1, n)[0][0] for n in (5, 8, 5, 7)]
    together = hull.predict(some)
    assert [a.tolist() for a in together] == [hull.predict(p).tolist() for p in some]


def test_where_a_figure_lies_does_not_matter(hull):
    points = generate("hull", 6, 1, 0)[0][0]
    whole = (points - points.min(axis=0)) / np.ptp(points, axis=0).max()
    for moved in (whole * 100 - 40, whole * 1e-3 + 5, whole * 0.01):
        assert hull.predict(moved).tolist() == hull.predict(whole).tolist()


def test_a_solver_that_learnt_nothing_warns_and_says_by_how_much():
    with pytest.warns(UserWarning, match="not better than an answer that needs no learning"):
        solver = PointerSolver("tsp", **TINY).fit()
    assert solver.skill_ <= 0
    assert solver.skill_ == pytest.approx((solver.score_ - solver.trivial_score_) / (1 - solver.trivial_score_))


def test_the_same_seed_gives_the_same_solver_and_leaves_random_numbers_alone():
    import torch

    before = torch.random.get_rng_state()
    one, other = fitted(), fitted()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.model_.parameters(), other.model_.parameters(), strict=True))


def test_scikit_learn_s_ways(hull):
    assert clone(hull).get_params() == hull.get_params()
    assert PointerSolver().set_params(task="tsp").task == "tsp"
    points = generate("hull", 6, 2, 0)[0]
    restored = pickle.loads(pickle.dumps(hull))
    assert [a.tolist() for a in restored.predict(list(points))] == [a.tolist() for a in hull.predict(list(points))]
    with pytest.raises(NotFittedError):
        PointerSolver().predict(points[0])


def test_a_saved_solver_is_the_same_when_loaded(hull, tmp_path):
    hull.save(tmp_path)
    loaded = PointerSolver.load(tmp_path)
    points = list(generate("hull", 6, 4, 0)[0])
    assert [a.tolist() for a in loaded.predict(points)] == [a.tolist() for a in hull.predict(points)]
    assert loaded.get_params() == hull.get_params()
    assert loaded.skill_ == hull.skill_
    (tmp_path / "solver.json").write_text("{}")
    with pytest.raises(ValueError, match="damaged or no solver"):
        PointerSolver.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        PointerSolver.load(tmp_path / "none")


def test_own_examples_decide_what_answers_may_be():
    rng = np.random.default_rng(0)
    lists, answers = marked(12, rng)
    solver = fitted("custom", lists, answers)
    assert (solver.end_symbol_, solver.constraint_, solver.input_dim_) == (True, "distinct", 2)
    orders = fitted("custom", lists, [rng.permutation(6) for _ in lists])
    assert (orders.end_symbol_, orders.constraint_) == (False, "permutation")
    twice = fitted("custom", lists, [[0, 0]] * 12)
    assert twice.constraint_ is None
    assert len(twice.predict(lists[0])) <= 3


def test_features_of_any_scale_are_standardised_once():
    lists, answers = marked(12, np.random.default_rng(0))
    plain = fitted("custom", lists, answers)
    scaled = fitted("custom", [values * [1000, 1] + [7, 0] for values in lists], answers)
    expected = [a.tolist() for a in plain.predict(lists)]
    assert [a.tolist() for a in scaled.predict([values * [1000, 1] + [7, 0] for values in lists])] == expected


def test_points_without_answers_are_solved_exactly():
    points, tours = map(list, generate("tsp", 6, 8, 0))
    solver = fitted("tsp", points)
    assert solver.score(points) == pytest.approx(solver.score(points, tours))


@pytest.mark.parametrize(
    ("options", "data", "message"),
    [
        ({"task": "cube"}, (), "task must be one of hull, delaunay, tsp, sort, custom, got 'cube'"),
        ({"hidden": 0}, (), "hidden must be a positive integer, got 0"),
        ({"steps": 0}, (), "steps must be a positive integer or None, got 0"),
        ({"lr": -1.0}, (), "lr must be positive or None"),
        ({"recipe": "best"}, (), "recipe must be fast or paper, got 'best'"),
        ({"n": (2, 5)}, (), "n must be at least 3 for hull"),
        ({"task": "custom"}, (), "X and y must be given for task custom"),
        ({}, (None, [[0]]), "X must be given with y"),
        ({}, ([np.eye(3)[:, :2]],), "X must hold at least 2 instances, got 1"),
        ({}, ([np.zeros((3, 3))] * 2,), r"X\[0\] must have shape \(n, 2\), got \(3, 3\)"),
        ({}, ([np.zeros((2, 2))] * 2,), r"X\[0\] must have at least 3 points, got 2"),
        ({}, ([np.full((3, 2), np.nan)] * 2,), r"X\[0\] must be finite"),
        ({}, ([np.arange(6.0).reshape(3, 2)] * 2,), "must not all lie on one line"),
        ({}, ([np.eye(3)[:, :2]] * 2, [[0, 1, 3]] * 2), r"y\[0\] must be indices from 0 to 2, at least one"),
        ({}, ([np.eye(3)[:, :2]] * 2, [[0, 1, 2]]), "an answer for each of the 2 instances, got 1"),
        ({"task": "tsp"}, ([np.eye(3)[:, :2]] * 2, [[0, 1]] * 2), "y must be permutations"),
        ({"task": "custom"}, ([np.ones((2, 1)), np.ones((2, 2))], [[0]] * 2), "equally many features"),
        ({"task": "custom"}, ([[["a"]], [["b"]]], [[0]] * 2), r"X\[0\] must be numbers"),
    ],
)
def test_wrong_settings_and_data_are_refused(options, data, message):
    with pytest.raises(ValueError, match=message):
        PointerSolver(**{"task": "hull", **TINY, **options}).fit(*data)


def test_points_of_another_kind_are_refused(hull):
    for points, message in (
        (np.zeros((5, 3)), r"X must have shape \(n, 2\), got \(5, 3\)"),
        (np.zeros((2, 2)), "X must have at least 3 points"),
        (np.full((5, 2), np.inf), "X must be finite"),
        (np.zeros((5, 2)), "must not all lie on one line"),
    ):
        with pytest.raises(ValueError, match=message):
            hull.predict(points)
    solver = fitted("custom", *marked(8, np.random.default_rng(0)))
    with pytest.raises(ValueError, match="X must have 2 features a point, as in fit, got 3"):
        solver.predict(np.zeros((4, 3)))


@pytest.mark.slow
def test_a_solver_learns_from_two_hundred_examples_where_the_marks_are():
    lists, answers = marked(200, np.random.default_rng(0))
    solver = PointerSolver("custom", hidden=48, random_state=0).fit(lists, answers)
    assert solver.skill_ > 0.8


def test_few_examples_of_a_known_task_are_helped_by_generated_ones(monkeypatch):
    from ptrnet_impl import solver

    asked = []
    whole = solver.numbered_batch
    monkeypatch.setattr(solver, "numbered_batch", lambda *a: asked.append(a[:2]) or whole(*a))
    points, targets = generate("hull", 5, 12, 0)
    answers = [row[row >= 0] for row in targets]
    fitted("hull", list(points), answers, steps=20)
    assert len(asked) > 10
    assert {(task.name, n) for task, n in asked} == {("hull", (5, 5))}
    asked.clear()
    fitted("hull", list(points), [answer[::-1] for answer in answers], steps=20)  # another order than the generator's
    assert not asked


def test_numbers_to_sort_and_frames_and_numpy_s_integers(tmp_path):
    pd = pytest.importorskip("pandas")

    # as a search over settings sets them
    solver = PointerSolver("sort", n=(4, 5)).set_params(hidden=np.int64(8), steps=np.int64(2), random_state=np.int64(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        solver.fit()
    rows = [np.array([0.3, 0.1, 0.2]), np.array([0.5, 0.4])]
    assert [len(answer) for answer in solver.predict(rows)] == [3, 2]
    assert len(solver.predict([0.3, 0.1, 0.2])) == 3
    assert len(solver.predict(pd.DataFrame({"x": [0.3, 0.1]}))) == 2
    again = PointerSolver.load(solver.save(tmp_path))
    np.testing.assert_array_equal(again.predict(rows)[0], solver.predict(rows)[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"constraint": "foo"}, "constraint"),
        ({"n": 7}, "n must be a pair"),
        ({"n": (5, 3)}, "n must be a pair"),
        ({"steps": 2.5}, "steps"),
    ],
)
def test_settings_are_refused_before_anything_is_trained(settings, message):
    with pytest.raises(ValueError, match=message):
        PointerSolver("hull").set_params(**settings).fit()
