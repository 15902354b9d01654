import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gpd_impl import GPD
from gpd_impl.cli import main

README = Path(__file__).parents[1] / "README.md"
EXPERIMENTS = ("long", "zero-shot", "imputation", "guidance", "gaussian", "network")

VERBS = [
    *[["reproduce", name, "--preset", "smoke"] for name in EXPERIMENTS],
    *[["bench", name, "--quick"] for name in ("batch", "guidance", "conditional", "crps", "official")],
    ["pretrain", "--length", "24", "--hidden", "8", "--depth", "3", "--steps", "3", "--corpus", "50"],
    ["zero-shot", "--source", "made", "--target", "made", "--horizons", "6", "--history", "24", "--stride", "900"],
]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: "-".join(verb[:2]))
def test_every_verb_runs_and_prints_json(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*verb, "--device", "cpu", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["steps", "defaults"])
def test_longer_benches_run(name, tmp_path, capsys):
    assert main(["bench", name, "--quick", "--device", "cpu", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_the_demo_runs_and_beats_its_baseline(tmp_path, capsys):
    assert main(["demo", "--device", "cpu", "--out", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["crps_24"] < found["naive_crps_24"]
    assert found["gap_mse"] < found["line_gap_mse"]
    assert (tmp_path / "demo.png").is_file()


@pytest.fixture
def file(tmp_path) -> Path:
    t = np.arange(120)
    frame = pd.DataFrame(
        {"load": 5 + np.sin(2 * np.pi * t / 24) + 0.2 * np.random.default_rng(0).standard_normal(120)},
        pd.date_range("2024", periods=120, freq="h"),
    )
    frame.iloc[30:36] = np.nan
    frame.to_csv(tmp_path / "load.csv", index_label="date")
    return tmp_path / "load.csv"


@pytest.mark.filterwarnings("ignore:no better than")
def test_forecasts_and_filled_gaps_of_ones_own_file(file, tmp_path, capsys, monkeypatch):
    out = ["--samples", "4", "--out", str(tmp_path / "out"), "--json", "--device", "cpu"]
    assert main(["forecast", str(file), "--horizon", "5", *out]) == 0
    table = pd.read_csv(json.loads(capsys.readouterr().out)["path"], index_col=0)
    assert list(table) == ["load", "load_lower", "load_upper"]
    assert table.index[0] == "2024-01-06 00:00:00"
    assert (tmp_path / "out" / "forecast.png").is_file()
    monkeypatch.setattr("sys.stdin", io.StringIO(file.read_text()))
    assert main(["impute", "-", *out]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["missing"] == 6
    assert pd.read_csv(found["path"])["load"].notna().all()
    model = ["pretrain", str(file), "--length", "24", "--hidden", "8", "--depth", "3", "--steps", "3", "--json"]
    assert main([*model, "--out", str(tmp_path / "own"), "--device", "cpu"]) == 0
    saved = json.loads(capsys.readouterr().out)["path"]
    assert main(["forecast", str(file), "--model", saved, *out]) == 0


@pytest.mark.filterwarnings("ignore:no better than")
def test_bad_input_is_one_line_and_exit_code_2(file, tmp_path, capsys):
    (tmp_path / "text.csv").write_text("date,a\n2020-01-01,x\n")
    (tmp_path / "none.csv").write_text("date,a\n2020-01-01,\n2020-01-02,\n2020-01-03,\n")
    for arguments in (
        ["demo", "--no-such-option"],
        ["forecast", str(tmp_path / "nowhere.csv")],
        ["forecast", str(tmp_path / "text.csv")],
        ["forecast", str(tmp_path / "none.csv")],
        ["forecast", str(file), "--horizon", "0"],
        ["forecast", str(file), "--level", "1.5"],
        ["forecast", str(file), "--samples", "0"],
        ["forecast", str(file), "--guidance", "replace", "--scale", "1"],
        ["forecast", str(file), "--model", str(tmp_path)],
        ["forecast", str(file), "--model", str(tmp_path), "--fit"],
        ["impute", str(file), "--samples", "2", "--output", str(tmp_path / "no" / "where.csv")],
        ["pretrain", "--length", "1"],
        ["zero-shot", "--target", "nothing", "--source", "made"],
        ["zero-shot", "--source", "made", "--horizons", "0"],
        ["zero-shot", "--stride", "0"],
    ):
        assert main([*arguments, "--out", str(tmp_path / "out")] if len(arguments) > 2 else arguments) == 2, arguments
        assert len(capsys.readouterr().err.splitlines()) == 1, arguments


def test_the_example_of_the_readme_runs_as_pasted(capsys):
    section = README.read_text(encoding="utf-8").partition("## Install and first use")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    exec(compile(code, str(README), "exec"), {})
    assert re.search(r"24 steps of 2 series", capsys.readouterr().out)


def test_what_is_learnt_is_kept_when_training_is_stopped(tmp_path, monkeypatch, capsys):
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gpd_impl.training.Progress.update", stop)
    how = ["pretrain", "--length", "24", "--hidden", "8", "--depth", "3", "--corpus", "50", "--device", "cpu"]
    assert main([*how, "--out", str(tmp_path)]) == 130
    assert "what is learnt is in" in capsys.readouterr().out
    assert GPD.from_pretrained(tmp_path / "model").length == 24


def test_the_papers_preset_is_planned_and_starts_at_its_full_size():
    from gpd_impl.experiments import EXPERIMENTS as declared
    from gpd_impl.experiments import GPD_OF, LARGE, forecasts
    from shared_impl.experiments import Context, Run

    for experiment in declared.values():
        assert experiment.planned("paper")
    assert [GPD_OF["GPD of the other"](name) for name in ("ETTh1", "ETTm2", "made")] == ["ETTh2", "ETTm1", "made"]
    options = {**LARGE, "steps": 1, "calibrated": 1, "horizon": 96, "stride": 2000, "n_samples": 1}
    assert np.isfinite(forecasts(Run("made", "GPD", 0, options), Context())["mse"])
