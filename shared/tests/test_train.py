import errno
import io
import itertools
import json
import math
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from shared_impl import checkpoint
from shared_impl.batches import Layout
from shared_impl.train import (
    CheckpointError,
    CheckpointWarning,
    ConfigError,
    TrainConfig,
    TrainingError,
    cosine_with_warmup,
    count_parameters,
    fit,
)

SCRIPT = Path(__file__).with_name("train_recipes.py")
RECIPES = runpy.run_path(str(SCRIPT))
run = RECIPES["run"]
X = RECIPES["numbers"](40, 3)
Y = X.sum(1, keepdim=True)


def linear() -> nn.Module:
    model = nn.Linear(3, 1)
    nn.init.constant_(model.weight, 0.1)
    nn.init.zeros_(model.bias)
    return model


def squared(model: nn.Module, batch: Any) -> torch.Tensor:
    return mse_loss(model(batch[0]), batch[1])


def quick(model: nn.Module | None = None, data: Any = (X, Y), loss_fn: Any = squared, **keywords: Any) -> Any:
    """Fit a line; what is no setting of `fit` itself goes into its configuration."""
    model = model or linear()
    own = {k: keywords.pop(k) for k in ("scheduler", "evaluate", "resume", "console") if k in keywords}
    out_dir = keywords.pop("out_dir", None)
    optimizer = keywords.pop("optimizer", None) or torch.optim.SGD(model.parameters(), 0.1)
    config = TrainConfig(**{"epochs": 2, "batch_size": 16, **keywords})
    return fit(model, loss_fn, data, optimizer=optimizer, config=config, out_dir=out_dir, **own)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def assert_same_weights(a: Any, b: Any) -> None:
    assert sorted(a) == sorted(b)
    for name in a:
        assert torch.equal(a[name], b[name]), name


# Killed and resumed --------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As in the processes: sums in another number of threads round otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs in processes of their own have left their files: some were killed, one was done by two."""
    out_dir = tmp_path_factory.mktemp("processes")
    done = subprocess.run([sys.executable, SCRIPT, "all", out_dir], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out_dir


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any, Any]]:
    """The runs that nobody stopped: weights, history, file."""
    results = {}
    for kind in ("tensors", "stream", "dataset"):
        out_dir = tmp_path_factory.mktemp("whole")
        model, result = run(kind, out_dir)
        results[kind] = (model.state_dict(), result, (out_dir / "metrics.jsonl").read_bytes())
    return results


@pytest.mark.parametrize(
    ("name", "kind", "code", "steps"),
    [
        ("tensors", "tensors", -signal.SIGKILL, [20, 10]),
        ("stream", "stream", -signal.SIGKILL, [20, 10]),
        ("dataset", "dataset", -signal.SIGKILL, [20, 10]),
        ("writing", "tensors", -signal.SIGKILL, [20, 10]),
        ("interrupted", "tensors", 130, [27, 20]),
        ("terminated", "tensors", 143, [27, 20]),
    ],
)
def test_a_stopped_run_goes_on_to_the_very_same_weights_and_metrics(
    processes: Path, whole: Any, name: str, kind: str, code: int, steps: list[int]
) -> None:
    assert json.loads((processes / "codes.json").read_text())[name] == code
    assert list(checkpoint.find(processes / name, "step")) == steps
    if code == -signal.SIGKILL:  # rows were written that no checkpoint knows
        assert rows(processes / name)[-1]["step"] > steps[0]
    random.seed(5)
    torch.manual_seed(5)
    model, result = run(kind, processes / name)
    weights, expected, metrics = whole[kind]
    assert_same_weights(model.state_dict(), weights)
    assert result.history == expected.history
    assert (processes / name / "metrics.jsonl").read_bytes() == metrics
    assert (result.best, result.best_step, result.stopped) == (expected.best, expected.best_step, "finished")
    assert not list((processes / name).glob(".tmp*"))
    files = {p for p in (processes / name).rglob("*") if p.is_file()} - {processes / name / ".lock"}
    assert {p.suffix for p in files} == {".json", ".jsonl", ".safetensors"}


def test_files_do_not_change_what_is_learned(whole: Any) -> None:
    for kind, (weights, expected, _) in whole.items():
        model, result = run(kind, None)
        assert_same_weights(model.state_dict(), weights)
        assert result.history == expected.history


def test_a_finished_run_is_not_run_again_and_its_weights_are_loaded(tmp_path: Path) -> None:
    calls: list[int] = []

    def counted(model: nn.Module, batch: Any) -> torch.Tensor:
        calls.append(1)
        return squared(model, batch)

    model = linear()
    first = quick(model, loss_fn=counted, out_dir=tmp_path)
    assert len(calls) == 6
    again = linear()
    second = quick(again, loss_fn=counted, out_dir=str(tmp_path))
    assert len(calls) == 6
    assert_same_weights(again.state_dict(), model.state_dict())
    assert second == first


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path: Path, damage: str) -> None:
    whole = linear()
    expected = quick(whole, epochs=4, out_dir=tmp_path)
    newest, before = checkpoint.find(tmp_path, "step").values()
    weights = newest / "model.safetensors"
    content = weights.read_bytes()
    if damage == "missing":
        weights.unlink()
    else:
        weights.write_bytes(content[:-3] if damage == "truncated" else content[:-1] + bytes([content[-1] ^ 64]))
    model = linear()
    with pytest.warns(CheckpointWarning, match=rf"{weights.name}.*going on from step {int(before.name[5:])} instead"):
        result = quick(model, epochs=4, out_dir=tmp_path)
    assert_same_weights(model.state_dict(), whole.state_dict())
    assert result.history == expected.history


def test_only_damaged_checkpoints_are_an_error_unless_started_anew(tmp_path: Path) -> None:
    expected = quick(out_dir=tmp_path)
    for path in checkpoint.find(tmp_path, "step").values():
        (path / "structure.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* can be used .*resume=False starts anew"):
        quick(out_dir=tmp_path)
    assert quick(out_dir=tmp_path, resume=False).history == expected.history


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 8}, "batch_size is 8 but was 16"),
        ({"seed": 3}, "seed is 3 but was 0"),
        ({"epochs": 1}, "number of steps is 3 but was 6 in .*: a run can be made longer, not shorter"),
        ({"data": (X[:30], Y[:30])}, r"training data is tensors \(30 examples\) but was tensors \(40 examples\)"),
    ],
)
def test_resuming_with_another_setting_is_refused_by_its_name(tmp_path: Path, change: Any, message: str) -> None:
    quick(out_dir=tmp_path)
    with pytest.raises(ConfigError, match=message):
        quick(out_dir=tmp_path, **change)


def test_resuming_with_another_learning_rate_or_model_is_refused(tmp_path: Path) -> None:
    quick(out_dir=tmp_path)
    model = linear()
    with pytest.raises(ConfigError, match=r"lr of the optimizer's group 0 is 0.5 but was 0.1"):
        quick(model, optimizer=torch.optim.SGD(model.parameters(), 0.5), out_dir=tmp_path)
    with pytest.raises(CheckpointError, match="another model or optimizer"):
        quick(nn.Sequential(linear()), out_dir=tmp_path)


def weighted(model: nn.Module, batch: Any, weight: float = 1.0) -> torch.Tensor:
    return weight * squared(model, batch)


def scaled_by(factor: float) -> Any:
    return lambda model, batch: factor * squared(model, batch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": (X, Y + (torch.arange(40) == 7)[:, None])}, "training data's content is .* but was"),
        ({"loss_fn": lambda model, batch: squared(model, batch)}, "loss_fn is .*lambda.* but was partial of weighted"),
        ({"loss_fn": partial(weighted, weight=2.0)}, r"loss_fn's code .* is .* but was"),
        ({"model": nn.Sequential(nn.Dropout(0.2), linear())}, r"module '0' is Dropout\(p=0.2.*but was Dropout\(p=0.1"),
    ],
)
def test_other_data_loss_or_dropout_is_refused_by_its_name(tmp_path: Path, change: Any, message: str) -> None:
    same = {"loss_fn": partial(weighted, weight=1.0), "out_dir": tmp_path}
    quick(nn.Sequential(nn.Dropout(0.1), linear()), **same)
    quick(nn.Sequential(nn.Dropout(0.1), linear()), **same)  # the same again is the same
    with pytest.raises(ConfigError, match=message):
        quick(**{"model": nn.Sequential(nn.Dropout(0.1), linear()), **same, **change})


def test_what_a_loss_captured_is_part_of_it_and_a_stream_is_known_by_its_first_batch(tmp_path: Path) -> None:
    def draw(low: float) -> Any:
        return lambda g: (low + torch.rand(9, 3, generator=g), torch.zeros(9, 1))

    settings = {"batch_size": None, "epochs": None, "steps": 3, "out_dir": tmp_path}
    quick(data=draw(0.0), loss_fn=scaled_by(1.0), **settings)
    quick(data=draw(0.0), loss_fn=scaled_by(1.0), **settings)
    with pytest.raises(ConfigError, match="loss_fn's code"):
        quick(data=draw(0.0), loss_fn=scaled_by(2.0), **settings)
    with pytest.raises(ConfigError, match="training data's content"):
        quick(data=draw(0.5), loss_fn=scaled_by(1.0), **settings)


def test_a_finished_run_can_be_extended_to_what_a_longer_one_gives(tmp_path: Path) -> None:
    evaluate = lambda m: {"loss": mse_loss(m(X), Y)}  # noqa: E731
    whole = linear()
    expected = quick(whole, epochs=5, evaluate=evaluate)
    quick(epochs=2, evaluate=evaluate, out_dir=tmp_path)
    model = linear()
    result = quick(model, epochs=5, evaluate=evaluate, out_dir=tmp_path)
    assert_same_weights(model.state_dict(), whole.state_dict())
    assert result.history == expected.history
    assert (result.steps, result.stopped) == (15, "finished")


def test_how_often_rows_are_logged_is_no_part_of_what_a_run_is(tmp_path: Path) -> None:
    first = quick(epochs=2, out_dir=tmp_path)
    assert quick(epochs=2, log_every=1, out_dir=tmp_path).history == first.history


def test_a_run_of_version_0_1_0_goes_on(tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).with_name("stored_run"), tmp_path, dirs_exist_ok=True)

    def go_on(out_dir: Path | None, epochs: int = 4) -> Any:
        model = linear()
        optimizer = torch.optim.Adam(model.parameters(), 0.05)
        schedule = partial(cosine_with_warmup, warmup_steps=2)
        evaluate = lambda m: {"loss": mse_loss(m(X), Y)}  # noqa: E731
        return model, quick(
            model, optimizer=optimizer, scheduler=schedule, evaluate=evaluate, epochs=epochs, checkpoint_every=5,
            out_dir=out_dir,
        )  # fmt: skip

    (whole, expected), (model, result) = go_on(None), go_on(tmp_path)
    assert [row["step"] for row in result.history] == [3, 6, 9, 12]
    for row, wanted in zip(result.history, expected.history, strict=True):
        assert row == pytest.approx(wanted, rel=1e-4)
    torch.testing.assert_close(model.weight, whole.weight)


def test_a_new_start_leaves_nothing_of_the_old_run(tmp_path: Path) -> None:
    quick(out_dir=tmp_path, epochs=5, evaluate=lambda m: {"loss": 1.0})
    quick(out_dir=tmp_path, epochs=1, resume=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "metrics.jsonl", "step-00000003"]
    assert [row["step"] for row in rows(tmp_path)] == [3]


# Files ----------------------------------------------------------------------------------------------------------------


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    def another(model: nn.Module) -> dict[str, float]:
        with pytest.raises(ConfigError, match=f"another run is training in {tmp_path}"):
            quick(out_dir=tmp_path, resume=False)
        return {"loss": 1.0}

    assert quick(out_dir=tmp_path, evaluate=another).stopped == "finished"
    assert quick(out_dir=tmp_path, resume=False).stopped == "finished"


def test_there_are_never_more_best_weights_than_checkpoints_need(tmp_path: Path) -> None:
    most, losses = 0, itertools.count(0, -1)

    def better(model: nn.Module) -> dict[str, float]:
        nonlocal most
        most = max(most, len(checkpoint.find(tmp_path, "best")))
        return {"loss": next(losses)}

    result = quick(out_dir=tmp_path, evaluate=better, steps=40, epochs=None, eval_every=1, checkpoint_every=20)
    assert result.best_step == 40
    assert most <= 4
    # a run that goes on from the checkpoint before the last still finds its best
    newest, before = checkpoint.find(tmp_path, "step").values()
    (newest / "structure.json").write_text("")
    with pytest.warns(CheckpointWarning, match=f"going on from step {int(before.name[5:])}"):
        quick(
            out_dir=tmp_path, evaluate=better, steps=40, epochs=None, eval_every=1, checkpoint_every=20,
            restore_best=True,
        )  # fmt: skip


@pytest.mark.parametrize("how", ["system", "safetensors"])
def test_a_full_disk_is_named_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    quick(out_dir=tmp_path, epochs=1)
    before = sorted(p.name for p in tmp_path.rglob("*"))

    def full(*_: Any) -> None:
        raise (
            OSError(errno.ENOSPC, "No space left on device")
            if how == "system"
            else SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        )

    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "_sync" if how == "system" else "save_file", full)
            message = "cannot write .*: the disk is full; the checkpoint of step 3 is kept in"
            with pytest.raises(CheckpointError, match=message):
                quick(out_dir=tmp_path, epochs=2)
        assert sorted(p.name for p in tmp_path.rglob("*")) == before
    assert quick(out_dir=tmp_path, epochs=2).steps == 6


def test_what_killed_runs_left_is_removed_at_the_start(tmp_path: Path) -> None:
    for name in (".tmp-step-00000003-99", ".tmp-old-best-00000003-98"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / ".tmp-metrics.jsonl-97").touch()
    quick(out_dir=tmp_path, max_seconds=1e-9)
    assert not list(tmp_path.glob(".tmp*"))


def test_an_out_dir_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"out_dir .*file/run cannot be written"):
        quick(out_dir=tmp_path / "file" / "run")


# Several processes and parts of a batch ------------------------------------------------------------------------------


def test_two_processes_learn_what_one_learns_and_stop_and_resume_together(processes: Path) -> None:
    assert_a_pair_learned_what_one_learns(processes)


@pytest.mark.slow
def test_torchrun_from_the_command_line_does_so_too(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*command, SCRIPT, "pair", tmp_path], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_a_pair_learned_what_one_learns(tmp_path)


def assert_a_pair_learned_what_one_learns(folder: Path) -> None:
    model, expected = run("pair", None)
    history = json.loads((folder / "pair.json").read_text())
    assert [row["step"] for row in history] == [row["step"] for row in expected.history]
    for row, wanted in zip(history, expected.history, strict=True):
        assert row == pytest.approx(wanted, rel=2e-6)
    for name, weights in load_file(folder / "pair.safetensors").items():
        torch.testing.assert_close(weights, model.state_dict()[name], rtol=1e-5, atol=1e-6)

    whole = load_file(folder / "pair with dropout.safetensors")
    history = json.loads((folder / "pair with dropout.json").read_text())
    for rank in (0, 1):
        interrupted, steps, resumed = json.loads((folder / f"resumed-{rank}.json").read_text())
        assert interrupted
        assert steps == [8, 4]  # the second of the two evaluations, where processes look at each other's signals
        assert_same_weights(load_file(folder / f"resumed-{rank}.safetensors"), whole)
        assert resumed == history


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_parts_of_a_batch_give_the_gradient_of_the_whole_also_when_unequal(parts: int) -> None:
    whole, cut = linear(), linear()
    one = quick(whole, batch_size=13, epochs=3)  # 40 = 3 x 13 + 1
    many = quick(cut, batch_size=13, epochs=3, grad_accumulation=parts)
    torch.testing.assert_close(cut.weight, whole.weight, rtol=1e-5, atol=1e-7)
    assert many.history[-1]["train_loss"] == pytest.approx(one.history[-1]["train_loss"], rel=1e-5)


@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 5))
def test_the_parts_of_all_processes_are_the_batch(n: int, processes: int, accumulation: int) -> None:
    cuts = [Layout(torch.device("cpu"), rank, processes, accumulation).cut(n) for rank in range(processes)]
    parts = [part for cut in cuts for part in cut]
    assert all(cuts)
    assert [i for start, stop, share in parts if share for i in range(start, stop)] == list(range(n))
    assert sum(share for *_, share in parts) == pytest.approx(1.0)
    assert all(share == pytest.approx((stop - start) / n) for start, stop, share in parts if share)


def test_a_stream_is_cut_too_or_says_why_not() -> None:
    def draw(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.randn(9, 3, generator=generator)
        return x, x.sum(1, keepdim=True)

    models = linear(), linear()
    for model, parts in zip(models, (1, 4), strict=True):
        quick(model, draw, batch_size=None, epochs=None, steps=5, grad_accumulation=parts)
    torch.testing.assert_close(models[0].weight, models[1].weight, rtol=1e-5, atol=1e-7)
    with pytest.raises(ValueError, match="cannot be cut"):
        quick(data=lambda g: (X, Y[:7]), batch_size=None, epochs=None, steps=5, grad_accumulation=2)


def tokens_and_targets() -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences whose targets are ignored in very unequal numbers."""
    tokens = torch.randint(7, (24, 6), generator=torch.Generator().manual_seed(0))
    targets = tokens.roll(-1, 1)
    for i, row in enumerate(targets):
        row[: min(i % 9, 6)] = -100
    return tokens, targets


def token_loss(model: nn.Module, batch: Any) -> Any:
    logits = model(batch[0]).flatten(0, 1)
    return cross_entropy(logits, batch[1].flatten()), {"rows": len(batch[0])}, (batch[1] != -100).sum()


def language_model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 7))


@pytest.mark.parametrize("parts", [2, 5])
def test_parts_with_ignored_targets_are_weighed_by_those_that_count(parts: int) -> None:
    models = [language_model(), language_model()]
    results = [
        quick(model, tokens_and_targets(), token_loss, batch_size=9, grad_accumulation=n, grad_clip=0.5)
        for model, n in zip(models, (1, parts), strict=True)
    ]
    torch.testing.assert_close(models[1][0].weight, models[0][0].weight, rtol=1e-5, atol=1e-6)
    losses = [result.curve("train_loss")[1] for result in results]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    # the mean over an epoch is one over targets too
    tokens, targets = tokens_and_targets()
    frozen = quick(
        model := language_model(), (tokens, targets), token_loss, batch_size=9, epochs=1, log_every=None,
        optimizer=torch.optim.SGD(model.parameters(), 0.0),
    )  # fmt: skip
    whole = cross_entropy(model(tokens).flatten(0, 1), targets.flatten()).item()
    assert frozen.history[-1]["train_loss"] == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("kind", ["tensors", "dataset", "stream"])
def test_ignored_targets_in_parts_are_refused_without_their_number(kind: str) -> None:
    tokens, targets = tokens_and_targets()
    data: Any = {
        "tensors": (tokens, targets),
        "dataset": list(zip(tokens, targets, strict=True)),
        "stream": lambda generator: (tokens, targets),
    }[kind]
    settings = {"batch_size": None, "epochs": None, "steps": 2} if kind == "stream" else {}
    loss_fn = lambda model, batch: token_loss(model, batch)[0]  # noqa: E731
    quick(language_model(), data, loss_fn, **settings)  # whole batches are right
    with pytest.raises(ConfigError, match=r"return \(loss, \{\}, number of targets that count\)"):
        quick(language_model(), data, loss_fn, grad_accumulation=2, **settings)


# The mathematics of a run --------------------------------------------------------------------------------------------


def test_the_loop_does_what_a_plain_loop_does() -> None:
    model, plain = linear(), linear()
    result = quick(model, optimizer=torch.optim.AdamW(model.parameters(), 0.01), shuffle=False, grad_clip=0.3)
    optimizer = torch.optim.AdamW(plain.parameters(), 0.01)
    losses = []
    for _ in range(2):
        for x, y in zip(X.split(16), Y.split(16), strict=True):
            loss = mse_loss(plain(x), y)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 0.3)
            optimizer.step()
            losses.append(loss.item() * len(x))
    assert_same_weights(model.state_dict(), plain.state_dict())
    assert result.curve("train_loss") == ([3, 6], [pytest.approx(sum(losses[i : i + 3]) / 40) for i in (0, 3)])


def test_an_epoch_sees_each_example_once_in_an_order_that_the_seed_gives() -> None:
    def orders(seed: int, data: Any) -> list[int]:
        seen: list[int] = []

        def note(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
            seen.extend(batch.flatten().int().tolist())
            return model(batch).mean()

        quick(nn.Linear(1, 1), data, note, seed=seed)
        return seen

    values = torch.arange(40.0)[:, None]
    seen = orders(0, values)
    assert sorted(seen[:40]) == sorted(seen[40:]) == list(range(40))
    assert seen[:40] != seen[40:]
    assert orders(0, values) == seen
    assert orders(0, list(values)) == seen  # a data set goes in the same order
    assert orders(1, values) != seen


def test_drop_last_leaves_the_small_batch_out() -> None:
    sizes = []

    def note(model: nn.Module, batch: Any) -> torch.Tensor:
        sizes.append(len(batch[0]))
        return squared(model, batch)

    quick(loss_fn=note, epochs=1)
    quick(loss_fn=note, epochs=1, drop_last=True)
    assert sizes == [16, 16, 8, 16, 16]


def test_batches_keep_the_structure_of_the_data() -> None:
    seen: list[Any] = []

    def note(model: nn.Module, batch: Any) -> torch.Tensor:
        seen.append(batch)
        return model(
            batch["x"] if isinstance(batch, dict) else batch if isinstance(batch, torch.Tensor) else batch[0]
        ).mean()

    collate = lambda items: {"x": torch.stack([x for x, _ in items]), "n": len(items)}  # noqa: E731
    for data in (X, {"x": X, "y": Y}, torch.utils.data.TensorDataset(X, Y)):
        quick(data=data, loss_fn=note, steps=1, epochs=None)
    quick(data=[(x, 0) for x in X], loss_fn=note, steps=1, epochs=None, collate=collate)
    assert isinstance(seen[0], torch.Tensor)
    assert {k: v.shape for k, v in seen[1].items()} == {"x": (16, 3), "y": (16, 1)}
    assert isinstance(seen[2], tuple)
    assert seen[3]["n"] == 16
    torch.testing.assert_close(seen[3]["x"], seen[0])


def test_worker_processes_give_random_augmentation_that_depends_on_the_seed_alone() -> None:
    def noise(workers: int) -> list[float]:
        seen = []
        others = set(multiprocessing.active_children())  # of tests before

        def note(model: nn.Module, batch: Any) -> torch.Tensor:
            seen.append(batch[0].sum().item())
            return mse_loss(model(batch[0]), batch[1])

        quick(nn.Linear(4, 1), RECIPES["Jittered"](12), note, batch_size=6, num_workers=workers)
        assert set(multiprocessing.active_children()) <= others  # they end with the run
        return seen

    one = noise(1)
    assert len(set(one)) == 4
    assert noise(2) == one


def test_more_values_are_averaged_over_examples_into_the_rows() -> None:
    def loss_fn(model: nn.Module, batch: Any) -> Any:
        return squared(model, batch), {"size": float(len(batch[0])), "first": batch[0].mean()}

    result = quick(loss_fn=loss_fn, epochs=1)
    assert result.history[0]["train_size"] == pytest.approx((16 * 16 + 16 * 16 + 8 * 8) / 40)
    assert result.history[0]["train_first"] == pytest.approx(X.mean().item(), abs=1e-6)


def test_a_value_that_some_batches_have_is_averaged_over_those() -> None:
    calls = 0

    def loss_fn(model: nn.Module, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        return squared(model, batch), {"sometimes": 5.0} if calls % 2 else {}

    result = quick(loss_fn=loss_fn, epochs=2)
    assert [row["train_sometimes"] for row in result.history] == [5.0, 5.0]


def test_a_scheduler_is_stepped_once_an_optimizer_step_and_rows_have_the_rate_that_was_used() -> None:
    scheduler = partial(cosine_with_warmup, warmup_steps=3, min_ratio=0.1)
    result = quick(scheduler=scheduler, epochs=4, log_every=1, grad_accumulation=2)
    used = [row["lr"] / 0.1 for row in result.history]
    assert used[:3] == pytest.approx([0.25, 0.5, 0.75])
    assert used[3] == pytest.approx(1.0)
    wanted = [0.1 + 0.45 * (1 + math.cos(math.pi * i / 9)) for i in range(9)]
    assert used[3:] == pytest.approx(wanted)


def test_a_plateau_scheduler_follows_the_monitored_metric() -> None:
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", patience=0, factor=0.5)
    values = iter([1.0, 2.0, 2.0, 1.0])
    evaluate = lambda m: {"score": next(values)}  # noqa: E731
    quick(model, optimizer=optimizer, scheduler=plateau, evaluate=evaluate, epochs=4, monitor="score", mode="max")
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5 * 0.5)


@pytest.mark.parametrize("out", [None, "run"])
def test_best_weights_come_back_and_patience_ends_the_run(tmp_path: Path, out: str | None) -> None:
    model, values = linear(), iter([0.1, 0.7, 0.6, math.nan, 0.9])
    seen = []

    def evaluate(m: nn.Module) -> dict[str, float]:
        seen.append({k: v.clone() for k, v in m.state_dict().items()})
        return {"accuracy": next(values)}

    out_dir = tmp_path / out if out else None
    result = quick(
        model,
        evaluate=evaluate,
        epochs=9,
        monitor="accuracy",
        mode="max",
        patience=2,
        restore_best=True,
        out_dir=out_dir,
    )
    assert (result.stopped, result.steps, result.best_step) == ("patience", 12, 6)
    assert result.best["accuracy"] == 0.7
    assert_same_weights(model.state_dict(), seen[1])
    assert list(tmp_path.iterdir()) == ([out_dir] if out_dir else [])
    if out_dir:
        assert_same_weights(load_file(result.best_path), seen[1])
        assert rows(out_dir)[3]["accuracy"] is None  # JSON has no NaN


def test_evaluation_is_without_gradients_and_each_part_of_the_model_gets_its_own_mode_back() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 1))
    model[1].eval()  # frozen in evaluation mode
    modes = []

    def loss_fn(m: Any, batch: Any) -> torch.Tensor:
        modes.append((m.training, m[1].training))
        return squared(m, batch)

    def evaluate(m: Any) -> dict[str, Any]:
        modes.append((m.training, m[0].training, torch.is_grad_enabled()))
        return {"loss": torch.tensor(1.0)}

    quick(model, loss_fn=loss_fn, evaluate=evaluate, epochs=2, batch_size=40)
    assert modes == [(True, False), (False, False, False)] * 2


def test_the_callers_accelerator_is_left_alone() -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState

    states = (PartialState, AcceleratorState, GradientState)
    try:
        quick()
        assert [state._shared_state for state in states] == [{}, {}, {}]  # nothing was there, nothing is
        accelerator = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=4)
        before = [dict(state._shared_state) for state in states]
        quick()
        assert [dict(state._shared_state) for state in states] == before
        assert (accelerator.mixed_precision, accelerator.gradient_accumulation_steps) == ("bf16", 4)
    finally:
        for state in states:
            state._shared_state.clear()


def test_the_callers_random_numbers_and_the_models_mode_are_left_alone() -> None:
    model = nn.Sequential(nn.Dropout(), linear()).eval()
    before = (random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist())  # noqa: NPY002
    quick(model)
    after = (random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist())  # noqa: NPY002
    assert before == after
    assert not model.training


def test_bf16_computes_the_loss_in_bf16_and_leaves_the_model_as_it_was() -> None:
    kinds = []

    def loss_fn(model: nn.Module, batch: Any) -> torch.Tensor:
        output = model(batch[0])
        kinds.append(output.dtype)
        return mse_loss(output.float(), batch[1])

    model = linear()
    result = quick(model, loss_fn=loss_fn, mixed_precision="bf16", epochs=10)
    assert set(kinds) == {torch.bfloat16}
    assert model.weight.dtype == torch.float32
    assert "forward" not in vars(model)
    assert result.history[-1]["train_loss"] < 0.1 * result.history[0]["train_loss"]
    kinds.clear()
    quick(loss_fn=loss_fn)  # the next run of the process is not bound to it
    assert set(kinds) == {torch.float32}


# How a run ends ------------------------------------------------------------------------------------------------------


def test_time_is_a_budget_and_more_of_it_goes_on_to_the_same_end(tmp_path: Path) -> None:
    evaluate = lambda m: {"loss": mse_loss(m(X), Y)}  # noqa: E731
    whole = linear()
    expected = quick(whole, epochs=3, evaluate=evaluate)
    model = linear()
    short = quick(model, epochs=3, evaluate=evaluate, out_dir=tmp_path, max_seconds=1e-9)
    assert (short.stopped, short.steps) == ("time", 1)
    assert "loss" in short.history[-1]  # evaluated where it ended
    again = quick(model, epochs=3, evaluate=evaluate, out_dir=tmp_path, max_seconds=1000.0)
    assert again.stopped == "finished"
    assert again.history == expected.history
    assert again.seconds > short.seconds
    assert_same_weights(model.state_dict(), whole.state_dict())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path, value: float) -> None:
    calls = 0

    def loss_fn(model: nn.Module, batch: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return squared(model, batch) * (value if calls == 5 else 1.0)

    model = linear()
    with pytest.raises(TrainingError, match=rf"the loss is {value} in step 5; the checkpoint of step 3 is kept in"):
        quick(model, loss_fn=loss_fn, out_dir=tmp_path)
    assert torch.isfinite(model.weight).all()
    assert list(checkpoint.find(tmp_path, "step")) == [3]


def test_weights_that_are_not_finite_do_not_get_into_a_checkpoint(tmp_path: Path) -> None:
    def loss_fn(model: nn.Module, batch: Any) -> torch.Tensor:
        return torch.sqrt(model(batch[0]).sum() * 0.0)  # the loss is zero, its gradient is not a number

    with pytest.raises(TrainingError, match="a weight is not finite after step 1; there is no checkpoint from before"):
        quick(loss_fn=loss_fn, out_dir=tmp_path, steps=1, epochs=None)
    assert checkpoint.find(tmp_path, "step") == {}


def test_the_handlers_of_signals_are_put_back(tmp_path: Path) -> None:
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    quick(out_dir=tmp_path)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_second_interrupt_does_not_wait_for_the_checkpoint(tmp_path: Path) -> None:
    def loss_fn(model: nn.Module, batch: Any) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("still here")

    with pytest.raises(KeyboardInterrupt):
        quick(loss_fn=loss_fn, out_dir=tmp_path)
    assert checkpoint.find(tmp_path, "step") == {}


# What is shown -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("terminal", [False, True])
def test_rows_are_lines_and_a_terminal_has_a_bar_besides(terminal: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    quick(console=console, evaluate=lambda m: {"loss": 0.25})
    output = console.file.getvalue()
    assert "step 3/6  epoch 1  train_loss" in output
    assert "loss 0.25" in output
    assert ("━" in output) == terminal
    assert ("\x1b" in output) == terminal


def test_without_a_console_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    quick(evaluate=lambda m: {"loss": 0.25})
    assert capfd.readouterr() == ("", "")


# Settings that cannot work -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"epochs": None}, "give either epochs or steps, got epochs=None and steps=None"),
        ({"steps": 5}, "give either epochs or steps, got epochs=2 and steps=5"),
        ({"grad_clip": 0.0}, "grad_clip must be positive, got 0.0"),
        ({"grad_accumulation": 0}, "grad_accumulation must be at least 1, got 0"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"max_seconds": math.nan}, "max_seconds must be positive, got nan"),
        ({"data": (X[:0], Y[:0])}, "train_data is empty"),
        ({"data": []}, "train_data is empty"),
        ({"data": (X, Y[:5])}, r"equal first dimensions, got \[40, 5\]"),
        ({"data": [X, Y]}, "train_data is a list of 2 tensors of equal length: give a tuple"),
        (
            {"optimizer": torch.optim.SGD(nn.Linear(3, 1).parameters())},
            "2 of the 2 parameters of the optimizer are not",
        ),
        ({"loss_fn": lambda m, b: (squared(m, b), {"x": b[0]})}, "loss_fn's value 'x' must be a number, got Tensor"),
        ({"loss_fn": lambda m, b: (squared(m, b), {"loss": 1.0})}, "without the name 'loss'"),
        ({"loss_fn": lambda m, b: (squared(m, b), {}, -1)}, "loss_fn's count must not be negative, got -1"),
        ({"data": 3}, "train_data must be tensors, a map-style data set or a function of a torch.Generator, got int"),
        ({"batch_size": None}, "batch_size must be given"),
        ({"batch_size": 64, "drop_last": True}, "drop_last leaves nothing of 40 examples with batch_size 64"),
        ({"data": lambda g: X}, "batch_size must be None for a stream"),
        ({"data": lambda g: X, "batch_size": None}, "epochs have no meaning for a stream: give steps"),
        ({"monitor": "accuracy"}, "monitor 'accuracy' needs evaluate"),
        ({"monitor": "f1", "evaluate": lambda m: {"acc": 1, "mae": 2}}, "monitor 'f1' is not .*: there is acc, mae"),
        ({"evaluate": lambda m: {"step": 1.0}}, "must not name a metric 'step'"),
        ({"evaluate": lambda m: {"loss": [1.0]}}, "evaluate must return numbers by name"),
        ({"loss_fn": lambda m, b: m(b[0])}, r"must return a tensor with one element .*, got shape \(16, 1\)"),
        ({"mixed_precision": "fp16"}, "fp16 needs a CUDA device"),
        ({"model": nn.Identity(), "optimizer": torch.optim.SGD([torch.zeros(1)])}, "the model has no parameters"),
    ],
)
def test_a_setting_that_cannot_work_is_named(settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        quick(**settings)


def test_an_iterable_data_set_is_refused_with_what_to_give_instead() -> None:
    class Endless(torch.utils.data.IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter([])

    with pytest.raises(ConfigError, match=r"give a function of a torch\.Generator"):
        quick(data=Endless())


def test_a_warmup_longer_than_the_run_is_refused() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], 0.1)
    with pytest.raises(ConfigError, match="warmup_steps must be from 0 to below total_steps=5, got 5"):
        cosine_with_warmup(optimizer, 5, 5)
    with pytest.raises(ConfigError, match=r"min_ratio must be from 0 to 1, got 2\.0"):
        cosine_with_warmup(optimizer, 5, 1, 2.0)


def test_parameters_are_counted_once() -> None:
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, shared, nn.Linear(3, 1))
    model[2].bias.requires_grad_(False)
    assert count_parameters(model) == 12 + 3
    assert count_parameters(model, trainable_only=False) == 12 + 4


def test_cross_entropy_training_learns_what_it_should() -> None:
    labels = (X[:, 0] > 0).long()
    model = nn.Linear(3, 2)
    evaluate = lambda m: {"accuracy": (m(X).argmax(1) == labels).float().mean()}  # noqa: E731
    loss_fn = lambda m, batch: cross_entropy(m(batch[0]), batch[1])  # noqa: E731
    result = quick(model, (X, labels), loss_fn, evaluate=evaluate, epochs=60, monitor="accuracy", mode="max")
    assert result.best["accuracy"] > 0.95
