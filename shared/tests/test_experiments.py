import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from shared_impl.experiments import (
    Experiment,
    ExperimentError,
    ExperimentRefused,
    Metric,
    Plot,
    Run,
    Table,
    grid,
    reproduce,
)
from shared_impl.results import Record, markdown_table


def experiment(execute, runs=None, **changes):
    declared = {
        "name": "toy",
        "title": "A toy",
        "runs": {"cpu": runs or grid(data=["a", "b"], model=["ours", "lstm"], seeds=2)},
        "execute": execute,
        "table": Table(Metric("accuracy", "accuracy %", scale=100), paper={("a", "ours"): 61.0}),
    }
    return Experiment(**declared | changes)


def score(run, context):
    return {"accuracy": 0.5 + 0.1 * run.seed + (0.25 if run.model == "ours" else 0)}


def run(made, tmp_path, **options):
    return reproduce("shared_impl", made, out_dir=tmp_path / "out", work=tmp_path / "work", **options)


def test_a_cell_is_the_mean_over_seeds_beside_the_paper_s_number(tmp_path):
    record = run(experiment(score), tmp_path)
    first = record.rows[0]
    assert (first.task, first.model, first.n, first.paper) == ("a", "ours", 2, 61.0)
    assert first.value == pytest.approx(80.0)
    assert first.spread == pytest.approx(7.0711, abs=1e-4)
    assert [(row.task, row.model) for row in record.rows] == [
        ("a", "ours"),
        ("a", "lstm"),
        ("b", "ours"),
        ("b", "lstm"),
    ]


def test_the_record_lies_in_the_folder_with_its_plot_and_every_run(tmp_path):
    run(experiment(score), tmp_path)
    record = Record.load(tmp_path / "out" / "toy-cpu.json")
    assert record.plots == ["toy-cpu.png"]
    assert (tmp_path / "out" / "toy-cpu.png").stat().st_size > 1000
    assert len(record.runs) == 8
    assert record.runs[0].keys() >= {"data", "model", "seed", "options", "metrics", "seconds", "versions", "commit"}


def test_the_table_has_tasks_down_models_across_and_the_best_in_bold(tmp_path):
    lines = markdown_table([run(experiment(score), tmp_path)]).splitlines()
    assert lines[0] == "| accuracy % ↑ | ours | lstm |"
    assert lines[2].startswith("| a | **80 ± 7.071** [61] | 55")


def test_a_finished_run_is_never_run_again(tmp_path):
    calls = []

    def counted(run, context):
        calls.append(run)
        return score(run, context)

    run(experiment(counted), tmp_path)
    assert len(calls) == 8
    again = run(experiment(counted), tmp_path)
    assert len(calls) == 8
    assert len(again.rows) == 4


def test_a_file_that_was_cut_off_is_run_again(tmp_path):
    run(experiment(score), tmp_path)
    kept = sorted((tmp_path / "work" / "toy").glob("*.json"))
    kept[0].write_text(kept[0].read_text()[:40])
    calls = []
    run(experiment(lambda r, c: calls.append(r) or score(r, c)), tmp_path)
    assert len(calls) == 1


def test_a_failure_leaves_the_other_runs_recorded(tmp_path):
    def fails_once(run, context):
        if run == Run("a", "lstm", 1):
            raise RuntimeError("no convergence")
        return score(run, context)

    with pytest.raises(ExperimentError, match=r"1 of 8 runs failed.*a lstm seed 1: RuntimeError: no convergence"):
        run(experiment(fails_once), tmp_path)
    assert len(Record.load(tmp_path / "out" / "toy-cpu.json").runs) == 7


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_a_failure(value, tmp_path):
    with pytest.raises(ExperimentError, match="accuracy is"):
        run(experiment(lambda r, c: {"accuracy": value}), tmp_path)


def test_an_interruption_loses_the_run_under_way_only(tmp_path):
    def interrupted(run, context):
        if run.seed == 1:
            raise KeyboardInterrupt
        return score(run, context)

    with pytest.raises(KeyboardInterrupt):
        run(experiment(interrupted), tmp_path)
    record = Record.load(tmp_path / "out" / "toy-cpu.json")
    assert len(record.runs) == 4
    assert "4 of 8 runs are finished" in record.notes[-1]
    assert record.plots


def test_only_and_seeds_choose_runs(tmp_path):
    record = run(experiment(score), tmp_path, only={"model": ["lstm"], "data": ["b"]}, seeds=3, first_seed=5)
    assert [(r["data"], r["model"], r["seed"]) for r in record.runs] == [("b", "lstm", s) for s in (5, 6, 7)]


def test_options_of_a_run_can_be_chosen_by_name(tmp_path):
    runs = grid(data=["a"], model=["ours"], options=[{"length": 10}, {"length": 20}])
    record = run(experiment(score, runs), tmp_path, only={"length": ["20"]})
    assert [r["options"] for r in record.runs] == [{"length": 20}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": {"colour": ["red"]}}, "'colour' is no setting here; settings are data, model, seed"),
        ({"only": {"model": ["gru"]}}, "model=gru is not among ours, lstm"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"jobs": 0}, "jobs must be at least 1, got 0"),
        ({"preset": "gpu"}, "preset must be one of cpu, got 'gpu'"),
        ({"minutes": -1.0}, "minutes must not be negative"),
        ({"finished_only": True}, "no run of toy .* is finished"),
        ({"cluster": "slurm"}, "cluster must be dask://HOST:PORT"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(options, message, tmp_path):
    with pytest.raises(ExperimentRefused, match=message):
        run(experiment(score), tmp_path, **options)


def test_finished_only_runs_nothing(tmp_path):
    run(experiment(score), tmp_path, only={"data": ["a"]})
    record = run(experiment(lambda r, c: pytest.fail("was run")), tmp_path, finished_only=True)
    assert {row.task for row in record.rows} == {"a"}


def test_no_run_starts_when_the_minutes_are_over(tmp_path):
    with pytest.raises(ExperimentError, match="the time was over"):
        run(experiment(score), tmp_path, minutes=0.0)


def test_two_equal_runs_are_a_fault_of_the_declaration():
    with pytest.raises(ValueError, match="a ours seed 0 is planned twice"):
        experiment(score, [Run("a", "ours"), Run("a", "ours")]).planned("cpu")


def test_several_metrics_are_several_lines_and_curves_are_drawn_over_an_option(tmp_path):
    def two(run, context):
        return {"loss": run.options["n"] / 2, "accuracy": 0.5}

    made = experiment(
        two,
        grid(data=["a"], model=["ours", "lstm"], seeds=2, options=[{"n": 1}, {"n": 2}]),
        table=Table(
            [Metric("accuracy"), Metric("loss", higher_is_better=False)],
            row=lambda run: f"n = {run.options['n']}",
            paper={("n = 1", "ours", "loss"): 0.4},
        ),
        plots=[Plot("curves", metric="loss", x=lambda run: run.options["n"], xlabel="n", name="loss")],
    )
    record = run(made, tmp_path)
    assert record.plots == ["toy-cpu-loss.png"]
    assert [(row.task, row.metric, row.paper) for row in record.rows if row.model == "ours"] == [
        ("n = 1", "accuracy", None),
        ("n = 1", "loss", 0.4),
        ("n = 2", "accuracy", None),
        ("n = 2", "loss", None),
    ]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with an experiment that other processes can import."""
    folder = tmp_path / "site" / "toy_impl"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "experiments.py").write_text(
        textwrap.dedent(
            """
            import time
            from pathlib import Path
            from shared_impl.experiments import Experiment, Metric, Table, grid

            def execute(run, context):
                if run.options.get("sleep"):
                    Path(run.options["sign"]).touch()
                    time.sleep(run.options["sleep"])
                if run.model == "bad":
                    raise RuntimeError("no good")
                return {"value": float(len(run.model) + run.seed)}

            RUNS = {"cpu": grid(data=["a"], model=["x", "yy"], seeds=3)}
            EXPERIMENTS = {"toy": Experiment("toy", "A toy", RUNS, execute, Table(Metric("value")))}
            """
        )
    )
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.setenv("PYTHONPATH", str(folder.parent) + os.pathsep + os.environ.get("PYTHONPATH", ""))
    yield folder.parent
    for name in [name for name in sys.modules if name.split(".")[0] == "toy_impl"]:
        del sys.modules[name]


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_several_processes_give_the_same_table(package, tmp_path):
    import toy_impl.experiments

    made = toy_impl.experiments.EXPERIMENTS["toy"]
    options = {"out_dir": tmp_path / "out"}
    one = reproduce("toy_impl", made, work=tmp_path / "one", **options)
    two = reproduce("toy_impl", made, work=tmp_path / "two", jobs=2, **options)
    assert one.rows == two.rows


def test_after_a_kill_the_finished_runs_are_there(package, tmp_path):
    sign = tmp_path / "sign"
    code = f"""
from pathlib import Path
from toy_impl.experiments import EXPERIMENTS
from dataclasses import replace
from shared_impl.experiments import Run, reproduce
runs = [Run("a", "x"), Run("a", "yy", 1, {{"sleep": 60, "sign": {str(sign)!r}}})]
made = replace(EXPERIMENTS["toy"], runs={{"cpu": runs}})
reproduce("toy_impl", made, out_dir=Path({str(tmp_path / "out")!r}), work=Path({str(tmp_path / "work")!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not sign.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = list((tmp_path / "work" / "toy").glob("*.json"))
    assert [json.loads(path.read_text())["metrics"] for path in kept] == [{"value": 1.0}]
    assert len(Record.load(tmp_path / "out" / "toy-cpu.json").runs) == 1


def test_the_folder_of_a_run_survives_an_interruption_and_goes_when_it_is_done(tmp_path):
    folders: list[Path] = []

    def with_checkpoint(run, context):
        context.folder.mkdir(parents=True, exist_ok=True)
        folders.append(context.folder)
        if not (context.folder / "half").exists():
            (context.folder / "half").touch()
            raise KeyboardInterrupt
        return {"accuracy": 1.0}

    made = experiment(with_checkpoint, [Run("a", "ours")])
    with pytest.raises(KeyboardInterrupt):
        run(made, tmp_path)
    assert (folders[0] / "half").exists()
    run(made, tmp_path)
    assert folders[0] == folders[1]
    assert not folders[0].exists()
