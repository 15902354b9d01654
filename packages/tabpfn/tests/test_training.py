"""Prior-fitting: the stream of tables, the loss, schedules, exact resume."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from shared_impl.train import ConfigError
from tabpfn_impl.metrics import auc_ovo
from tabpfn_impl.priors import TaskBatch
from tabpfn_impl.recipes import RECIPES
from tabpfn_impl.training import (
    SyntheticTasks,
    TimedCosine,
    build_model,
    held_out_tasks,
    prior_loss,
    train_pfn,
    validate,
)

TINY = RECIPES["tiny"]


def test_group_i_is_a_function_of_the_seed_and_i():
    one, two = SyntheticTasks(TINY, 10), SyntheticTasks(TINY, 10)
    two[3]
    assert torch.equal(one[7].x, two[7].x)
    assert torch.equal(one[7].y, two[7].y)
    assert one[6].x.shape != one[7].x.shape or not torch.equal(one[6].x, one[7].x)
    other = SyntheticTasks(replace(TINY, seed=1), 10)
    assert other[7].x.shape != one[7].x.shape or not torch.equal(other[7].x, one[7].x)


def test_sizes_are_those_of_the_recipe_and_grow():
    recipe = replace(TINY, rows=(16, 32, 64), features=(2, 8, 32), ramp_steps=50, ramp_from=(16, 2), groups_per_step=2)
    tasks = SyntheticTasks(recipe, 1000)
    early, late = [tasks[i] for i in range(6)], [tasks[i] for i in range(100, 140)]
    assert {batch.x.shape[1] for batch in early} == {16}
    assert max(batch.x.shape[2] for batch in early) <= 2
    assert {batch.x.shape[1] for batch in late} == {16, 32, 64}
    assert max(batch.x.shape[2] for batch in late) > 8
    for batch in late:
        assert batch.n_train / batch.x.shape[1] in (0.25, 0.5, 0.75)
        assert 2 <= len(batch.x) <= recipe.max_group


def test_groups_of_small_and_of_large_tables_cost_the_same_where_sizes_allow_it():
    recipe = replace(TINY, rows=(16, 64), features=(2, 14), cells_per_group=4000, row_cells=10, min_group=1)
    tasks = SyntheticTasks(recipe, 100)
    costs = {}
    for i in range(24):
        sets, rows, features = tasks[i].x.shape
        # half of the tables have a column less than the size says
        costs[rows, features] = sets * rows * (features + features % 2 + 10)
    assert len(costs) > 4
    assert max(costs.values()) <= 4000
    assert min(costs.values()) > 2400


def test_held_out_tables_are_none_of_the_run():
    held = held_out_tasks(TINY)
    assert len(held) == 8
    assert sum(len(batch.x) for batch in held) == 8 * TINY.held_out
    assert torch.equal(held[0].x, held_out_tasks(TINY)[0].x)


def test_labels_of_minus_100_do_not_count():
    torch.manual_seed(0)
    model = build_model("cell", TINY.model)
    batch = SyntheticTasks(TINY, 10)[0]
    y = batch.y.clone()
    y[0, batch.n_train :] = -100
    rest = TaskBatch(batch.x[1:], batch.y[1:], batch.n_train, batch.n_features[1:])
    torch.testing.assert_close(prior_loss(model, batch._replace(y=y)), prior_loss(model, rest))


@pytest.mark.parametrize(
    ("architecture", "more"), [("cell", {"row_layers": 1, "d_row": 32}), ("row", {})], ids=["cell", "row"]
)
def test_the_loss_in_half_precision_has_nearly_the_same_gradient(architecture, more):
    torch.manual_seed(0)
    model = build_model(architecture, {"d_model": 32, "n_layers": 2, "n_heads": 2, **more})
    batch = SyntheticTasks(TINY, 10)[1]
    gradients = []
    for precision in ("float32", "bfloat16"):
        model.zero_grad()
        prior_loss(model, batch, precision).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    exact, rough = gradients
    assert rough.dtype == torch.float32
    assert float(torch.nn.functional.cosine_similarity(exact, rough, dim=0)) > 0.98


def test_validation_measures_what_it_says():
    class Sure(torch.nn.Module):
        """Knows the answer where it is the sign of the first column."""

        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(1.0))

        def forward(self, x, y):
            score = self.scale * x[:, y.shape[1] :, 0]
            return torch.stack([-score, score, torch.full_like(score, 50.0)], dim=-1)

    x = torch.randn(3, 20, 2, generator=torch.Generator().manual_seed(0))
    y = (x[:, :, 0] > 0).long()
    y[:, :2] = torch.tensor([0, 1])
    found = validate(Sure(), [TaskBatch(x, y, 10, torch.full((3,), 2))])
    # the third class, which no table has, takes no part
    assert found["accuracy"] == 1.0
    assert found["auc"] == 1.0
    score = x[:, 10:, 0].abs()
    assert found["loss"] == pytest.approx(float(torch.nn.functional.softplus(-2 * score).mean()), rel=1e-5)


def test_the_learning_rate_follows_the_clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("tabpfn_impl.training.time.monotonic", lambda: now[0])
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = TimedCosine(optimizer, 100.0, warmup_steps=4)
    rates = []
    for seconds in (0, 0, 0, 0, 50, 25, 25, 25):
        now[0] += seconds
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(rates[:4], [0.5, 0.75, 1.0, 1.0])
    np.testing.assert_allclose(rates[4:], [0.5, 0.1464466, 0.0, 0.0], atol=1e-6)
    again = TimedCosine(torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0), 100.0, warmup_steps=4)
    again.load_state_dict(json.loads(json.dumps(scheduler.state_dict())))
    assert again.elapsed == scheduler.elapsed == 125.0


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_that_was_stopped_goes_on_exactly(tmp_path, optimizer):
    recipe = replace(TINY, steps=6, eval_every=3, optimizer=optimizer)
    whole, result = train_pfn(recipe, out_dir=tmp_path / "whole")
    assert result.steps == 6
    stopped = SyntheticTasks(recipe, 12)
    fetch = SyntheticTasks.__getitem__

    class Stops(SyntheticTasks):
        def __getitem__(self, index):
            if index == 8:
                raise KeyboardInterrupt
            return fetch(stopped, index)

    with pytest.raises(KeyboardInterrupt):
        train_pfn(recipe, tasks=Stops(recipe, 12), out_dir=tmp_path / "cut")
    resumed, again = train_pfn(recipe, out_dir=tmp_path / "cut")
    assert [row["loss"] for row in again.history] == [row["loss"] for row in result.history]
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ConfigError):
        train_pfn(replace(recipe, lr=0.5), out_dir=tmp_path / "cut")


def test_workers_give_the_same_run():
    recipe = replace(TINY, steps=4, eval_every=2)
    alone, _ = train_pfn(recipe)
    helped, _ = train_pfn(replace(recipe, workers=2))
    for a, b in zip(alone.parameters(), helped.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_layers_train_the_same_network():
    # in a process of its own: the checks of shapes in this one cannot be compiled
    program = """
from dataclasses import replace

import torch

from tabpfn_impl.recipes import RECIPES
from tabpfn_impl.training import train_pfn

recipe = replace(RECIPES["tiny"], steps=4, eval_every=4, precision="float32", rows=(16,), features=(2,))
plain, one = train_pfn(recipe)
fused, two = train_pfn(replace(recipe, compile=True))
assert abs(two.history[-1]["loss"] / one.history[-1]["loss"] - 1.0) < 1e-3
for a, b in zip(plain.parameters(), fused.parameters(), strict=True):
    torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)
assert not any("forward" in vars(module) or "read" in vars(module) for module in fused.modules())
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
print("the same")
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=280)
    assert run.stdout.strip().endswith("the same"), run.stderr


def test_a_run_by_the_clock_ends():
    _, result = train_pfn(replace(TINY, steps=None, minutes=0.01))
    assert result.stopped == "time"
    assert result.seconds < 20


def test_every_recipe_makes_its_network_and_tables():
    for name, recipe in RECIPES.items():
        if name != "paper":
            build_model(recipe.architecture, recipe.model)
        assert json.dumps(asdict(recipe))
        recipe.prior_config()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"minutes": 1.0}, "either minutes or steps"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"rows": (4,)}, "rows must be numbers from 8 on"),
        ({"features": ()}, "features must be numbers"),
        ({"train_shares": (0.5, 1.0)}, "train_shares"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"groups_per_step": 0}, "groups_per_step"),
        ({"row_cells": 0}, "row_cells"),
    ],
)
def test_bad_recipes_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


def test_a_network_that_is_not_known_is_named():
    with pytest.raises(ValueError, match="row, cell"):
        build_model("mlp", {})
    with pytest.raises(ValueError, match="no such argument"):
        build_model("row", {"depth": 3})


def test_the_area_under_the_curve_is_scikit_learns():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    for classes in (2, 3, 6):
        y = rng.integers(0, classes, 200)
        p = rng.dirichlet(np.ones(classes), 200).round(2) + 1e-3
        p /= p.sum(1, keepdims=True)
        theirs = roc_auc_score(y, p[:, 1] if classes == 2 else p, multi_class="ovo")
        assert auc_ovo(y, p) == pytest.approx(theirs, abs=2e-3 if classes == 2 else 1e-9)


@pytest.mark.slow
def test_two_processes_train_one_network(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(
        "import sys, torch\nfrom dataclasses import replace\nfrom pathlib import Path\n"
        "from tabpfn_impl.recipes import RECIPES\nfrom tabpfn_impl.training import train_pfn\n"
        "model, result = train_pfn(replace(RECIPES['tiny'], steps=4, eval_every=2), out_dir=Path(sys.argv[1]))\n"
        "assert result.steps == 4\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", str(script)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [*command, str(tmp_path / "two")], capture_output=True, text=True, env=environment, timeout=250
    )
    assert done.returncode == 0, done.stderr[-2000:]
    _, result = train_pfn(replace(TINY, steps=4, eval_every=2))
    rows = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] == pytest.approx(result.history[-1]["loss"], rel=1e-3)
