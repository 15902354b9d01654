import numpy as np
import pytest
import torch

from ptrnet_impl import TASKS, Recipe, build, evaluate, train
from ptrnet_impl.benchmarks import greedy_by_encoding_again, step_loop_loss, whole_loss
from ptrnet_impl.data import collate
from ptrnet_impl.drawing import ascii_picture, draw_answers
from ptrnet_impl.training import FAST, MODELS, PAPER, answers_of


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", MODELS)
def test_every_network_trains_on_every_task(task, name):
    torch.manual_seed(0)
    model = build(name, task, hidden=6, n_max=6)
    result = train(model, task, (3, 6), Recipe(steps=3, batch_size=4))
    assert result.steps == 3
    found = evaluate(model, task, 6, size=5, width=2)
    assert all(isinstance(value, float) for value in found.values())


def test_the_paper_s_recipe_takes_its_first_steps_at_full_width():
    torch.manual_seed(0)
    model = build("ptr-net", "hull", hidden=512, n_max=50, input_scale=0.08)
    recipe = Recipe(PAPER.optimizer, PAPER.lr, PAPER.schedule, 16, PAPER.grad_clip, 2, PAPER.pairs)
    result = train(model, "hull", 50, recipe)
    assert np.isfinite(result.history[-1]["train_loss"])
    assert (PAPER.optimizer, PAPER.lr, PAPER.batch_size, PAPER.grad_clip, PAPER.pairs) == ("sgd", 1.0, 128, 2.0, 10**6)


def test_the_same_seed_trains_the_same_network_and_learning_lowers_the_loss():
    def trained(seed):
        torch.manual_seed(seed)
        model = build("ptr-net", "sort", hidden=16, n_max=5)
        history = train(model, "sort", 4, Recipe(steps=60, batch_size=32), seed=seed, log_every=20).history
        return model, history

    (one, history), (other, _) = trained(0), trained(0)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert history[-1]["train_loss"] < history[0]["train_loss"] - 0.2


def test_a_finite_set_of_pairs_is_seen_again(monkeypatch):
    numbers = []
    from ptrnet_impl import training

    whole = training.numbered_batch
    monkeypatch.setattr(training, "numbered_batch", lambda *a: numbers.append(a[-1]) or whole(*a))
    train(build("ptr-net", "sort", hidden=4, n_max=4), "sort", 4, Recipe(steps=30, batch_size=8, pairs=24))
    assert set(numbers) == {0, 1, 2}


def test_own_batches_and_evaluation_and_checkpoints(tmp_path):
    batch = collate([np.eye(3)[:, :2]] * 4, [[0, 1, 2]] * 4)
    model = build("ptr-net", "hull", hidden=4, n_max=3)
    recipe = Recipe(steps=4, batch_size=4)
    result = train(
        model, None, 3, recipe, batches=lambda generator: batch, out_dir=tmp_path,
        evaluate=lambda model: evaluate(model, "hull", 5, size=4), eval_every=2, monitor="accuracy", mode="max",
    )  # fmt: skip
    assert "accuracy" in result.history[-1]
    assert result.best_path.is_file()
    with pytest.raises(ValueError, match="task must be given where there are no batches"):
        train(model, None, 3, recipe)


def test_measuring_leaves_the_mode_of_the_network():
    model = build("ptr-net", "tsp", hidden=4, n_max=5)
    evaluate(model, "tsp", 5, size=3)
    assert model.training


def test_answers_obey_the_task_s_constraint_unless_it_is_taken_off():
    torch.manual_seed(0)
    model = build("ptr-net", "tsp", hidden=4, n_max=5)
    points = np.random.default_rng(0).random((20, 5, 2))
    assert all(sorted(answer) == list(range(5)) for answer in answers_of(model, points, TASKS["tsp"]))
    free = answers_of(model, points, TASKS["tsp"], constraint=None)
    assert any(sorted(answer) != list(range(5)) for answer in free)


@pytest.mark.parametrize("n", [1, 6])
def test_the_forms_that_are_timed_against_each_other_give_the_same(n):
    torch.manual_seed(0)
    model = build("ptr-net", "tsp", hidden=8, n_max=n)
    x = torch.rand(5, n, 2)
    order = torch.stack([torch.randperm(n) for _ in range(5)])
    expected = model.loss(x, order)
    torch.testing.assert_close(step_loop_loss(model, x, order), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(whole_loss(model, x, order), expected, rtol=0, atol=1e-5)
    assert torch.equal(greedy_by_encoding_again(model, x), model.decode(x, constraint="permutation").indices)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"model must be one of lstm, lstm\+attention, ptr-net, got 'gru'"):
        build("gru", "hull", hidden=4, n_max=5)
    with pytest.raises(ValueError, match="task must be one of"):
        build("lstm", "cube", hidden=4, n_max=5)
    assert FAST.optimizer == "adam"


def test_pictures_of_every_task(tmp_path):
    for task in TASKS:
        points = np.random.default_rng(0).random((6, TASKS[task].input_dim))
        exact = TASKS[task].solve(points)
        path = draw_answers(tmp_path / f"{task}.png", [("a", points, {"exact": exact, "none": []})] * 5, task=task)
        assert path.stat().st_size > 1000
        picture = ascii_picture(points, exact, task=task)
        assert all(str(i) in picture for i in range(6)) or task == "sort"
    square = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    assert ascii_picture(square, [0, 1, 2, 3], task="hull", width=5, height=3) == "3...2\n.   .\n0...1"
