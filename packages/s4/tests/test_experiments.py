import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from s4_impl import archives, data
from s4_impl.configs import Recipe
from s4_impl.experiments import TABLES, Entry, Part, Preset, Table, last_value_error, matched, run
from s4_impl.listops import ListOpsRules
from s4_impl.training import build_model, evaluate, model_inputs, train
from shared_impl.cli import UserError
from shared_impl.data import DataError
from shared_impl.results import Record
from shared_impl.train import count_parameters

TINY = Recipe(
    task="digits", model={"n_layers": 1, "d_model": 8, "d_state": 4}, lr=0.01, batch_size=16, epochs=2, warmup=0.0
)


def tiny_digits(seed=0):
    return data.digits_task(seed).limited(32, 20, 20)


def tiny_table(recipe=TINY, **preset):
    lstm = replace(recipe, model={"n_layers": 1}, grad_clip=1.0)
    entries = (Entry(label="S4", recipe=recipe, paper=99.0), Entry(label="LSTM", kind="lstm", recipe=lstm, match="S4"))
    scale = Preset(parts=(Part(task=tiny_digits, entries=entries),), **preset)
    return Table(name="tiny", title="Tiny", cpu=scale, paper=scale)


def test_a_table_becomes_a_record_with_the_papers_numbers_and_a_plot(tmp_path):
    record = run(tiny_table(n_seeds=2, notes=("a note",)), "cpu", seed=3, out_dir=tmp_path)
    assert record.seeds == [3, 4]
    s4, lstm = record.rows
    assert (s4.model, s4.paper, s4.n, lstm.model, lstm.paper) == ("S4", 99.0, 2, "LSTM", None)
    assert s4.spread is not None
    assert 0 <= s4.value <= 100
    assert "a note" in record.notes
    assert any("split" in note for note in record.notes)
    assert (tmp_path / "tiny-cpu.png").stat().st_size > 1000
    stored = Record.load(tmp_path / "tiny-cpu.json")
    assert stored.rows == record.rows
    assert stored.config["digits: S4"]["model"]["d_model"] == 8
    assert not (tmp_path / "checkpoints").exists()


def test_the_same_seed_gives_the_same_numbers(tmp_path):
    first, again, other = (run(tiny_table(), "cpu", seed=s, out_dir=tmp_path / str(i)) for i, s in enumerate((0, 0, 1)))
    assert first.rows[0].value == again.rows[0].value
    curves = [train("s4", tiny_digits(), TINY, seed=s).fit.history[-1]["loss"] for s in (0, 0, 1)]
    assert curves[0] == curves[1] != curves[2]
    assert other.seeds == [1]


def test_the_weights_measured_are_those_best_on_the_validation_split():
    result = train("s4", tiny_digits(), replace(TINY, epochs=6, lr=0.03))
    best = max(row["accuracy"] for row in result.fit.history if "accuracy" in row)
    assert evaluate(result.model, tiny_digits(), tiny_digits().val)["accuracy"] == pytest.approx(best)


@pytest.mark.parametrize("schedule", ["cosine", "plateau", "constant"])
def test_each_schedule_trains(schedule):
    result = train("s4", tiny_digits(), replace(TINY, schedule=schedule, warmup=0.1))
    assert result.fit.steps == 4


@pytest.mark.parametrize(
    "task",
    [
        lambda: data.delay_task(length=20, lag=3, n_train=8, n_eval=4),
        lambda: data.adding_task(length=10, n_train=8, n_eval=4),
        lambda: data.copying_task(length=5, n_memorize=3, n_train=8, n_eval=4),
        lambda: data.mini_pathfinder_task(size=12, n_train=8, n_eval=4),
        lambda: data.character_text(length=8, text="to be or not to be, that is the question " * 8),
    ],
)
@pytest.mark.parametrize("kind", ["s4", "lstm"])
def test_every_generated_task_trains_and_is_measured(task, kind):
    config = {"d_model": 4, "n_layers": 1, **({"d_state": 4} if kind == "s4" else {})}
    result = train(kind, task(), Recipe(task="t", model=config, lr=0.01, batch_size=8, epochs=1, warmup=0.0))
    assert all(np.isfinite(value) for value in result.test.values())


def test_batches_of_padded_tokens_are_cut_to_their_longest_and_measured_rightly(tmp_path, monkeypatch):
    monkeypatch.setenv("IMPL_CACHE_DIR", str(tmp_path))
    task = data.listops_task(ListOpsRules(n_train=40, n_val=8, n_test=8, min_length=4, max_length=40))
    model = build_model("s4", task, {"d_model": 4, "n_layers": 1, "d_state": 4}).double()
    one_by_one = evaluate(model, task, task.train, batch_size=1)
    assert evaluate(model, task, task.train, batch_size=40) == pytest.approx(one_by_one)


def test_evaluation_is_the_plain_definition():
    task = data.delay_task(length=16, lag=3, n_train=4, n_eval=6)
    model = build_model("s4", task, {"d_model": 4, "n_layers": 1, "d_state": 4}).eval()
    with torch.no_grad():
        error = model(torch.from_numpy(task.test.inputs)).numpy() - task.test.targets
    expected = {"mse": (error**2).mean(), "mae": np.abs(error).mean()}
    assert evaluate(model, task, task.test, batch_size=4) == pytest.approx(expected, rel=1e-5)


def test_pixels_are_scaled_and_tokens_stay():
    images = data.mini_pathfinder_task(size=12, n_train=2, n_eval=1)
    x = model_inputs(images, torch.tensor([[[0]], [[255]]], dtype=torch.uint8))
    assert x.flatten().tolist() == [-1.0, 1.0]
    text = data.character_text(length=8, text="abcdefgh" * 30)
    assert model_inputs(text, torch.tensor([[3, 1]], dtype=torch.int32)).dtype == torch.int64


def test_a_baseline_is_given_the_size_of_s4():
    task = tiny_digits()
    target = count_parameters(build_model("s4", task, {"n_layers": 2, "d_model": 32}))
    width = matched("lstm", task, target, {"n_layers": 1})
    assert count_parameters(build_model("lstm", task, {"n_layers": 1, "d_model": width})) == pytest.approx(
        target, rel=0.05
    )


def test_the_last_value_baseline_repeats_the_last_value():
    series = np.arange(200.0)[:, None]
    past, future = data.forecasting_windows(series, 50, 200, context=8, horizon=3)
    split = data.Split(np.concatenate([past, np.zeros((len(past), 3, 1), dtype=np.float32)], axis=1), future)
    task = data.SequenceTask("x", "regress", 1, 1, [split] * 3, pooling="none", horizon=3)
    assert last_value_error(task) == pytest.approx({"mse": (1 + 4 + 9) / 3, "mae": 2.0})


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match="model must be one of"):
        build_model("gru", tiny_digits())


@pytest.mark.parametrize("name", ["scifar", "text", "retrieval", "image", "pathx", "sc10", "wikitext103", "lra"])
def test_what_needs_a_gpu_and_data_says_so(name, tmp_path):
    with pytest.raises(UserError, match="use --preset paper"):
        run(TABLES[name], "cpu", out_dir=tmp_path)


@pytest.mark.parametrize("name", ["scifar", "text", "retrieval", "image", "pathfinder", "pathx", "sc10", "wikitext103"])
def test_the_full_recipe_without_its_data_says_what_to_get(name, tmp_path, monkeypatch):
    monkeypatch.setenv("IMPL_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("IMPL_DATA_DIR", raising=False)
    with pytest.raises(DataError, match="is not here: get"):
        run(TABLES[name], "paper", out_dir=tmp_path)


def test_the_full_recipes_carry_the_papers_numbers():
    numbers = {
        (name, entry.label): entry.paper
        for name in ("listops", "text", "retrieval", "image", "pathfinder", "pathx", "scifar", "mnist", "sc10")
        for part in TABLES[name].paper.parts
        for entry in part.entries
    }
    assert all(value is not None for value in numbers.values())
    assert numbers["pathx", "S4"] == 96.35
    assert len(TABLES["lra"].paper.parts) == 6


def test_the_full_recipe_runs_end_to_end_on_a_tiny_set_of_the_same_form(tmp_path, monkeypatch):
    """sCIFAR's own code path, with ten images, one epoch and a narrow model."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "cifar10" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        rows = rng.integers(0, 256, (10, 3073), dtype=np.uint8)
        rows[:, 0] = np.arange(10)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    monkeypatch.setenv("IMPL_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("IMPL_CACHE_DIR", str(tmp_path / "cache"))
    table = TABLES["scifar"]
    (part,) = table.paper.parts
    entry = part.entries[0]
    small = replace(entry.recipe, epochs=1, model={**entry.recipe.model, "d_model": 4, "n_layers": 1, "d_state": 4})
    table = replace(table, paper=Preset(parts=(replace(part, entries=(replace(entry, recipe=small),)),)))
    record = run(table, "paper", out_dir=tmp_path / "out")
    assert record.rows[0].paper == 91.13
    assert archives.cifar10_task().test.inputs.shape == (10, 1024, 3)
    assert json.loads((tmp_path / "out" / "scifar-paper.json").read_text())["preset"] == "paper"
