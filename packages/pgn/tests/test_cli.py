import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pgn_impl.cli import COMMANDS, MODELS, main

README = Path(__file__).parents[1] / "README.md"


def csv_file(path, n=700, drop=()):
    index = pd.date_range("2022-01-01", periods=n, freq="h")
    t = np.arange(n)
    noise = np.random.default_rng(0).normal(0, 0.1, n)
    table = pd.DataFrame({"date": index, "load": np.sin(2 * np.pi * t / 24) + noise, "other": 0.01 * t + noise})
    table.drop(index=list(drop)).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A folder with a series and a forecaster fitted to it."""
    folder = tmp_path_factory.mktemp("cli")
    file = csv_file(folder / "series.csv")
    arguments = ["fit", "--data", str(file), "--target", "load", "--horizon", "30", "--window", "72", "--epochs", "2"]
    assert main([*arguments, "--out", str(folder / "out")]) == 0
    return folder


def last_error(capsys):
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_fit_saves_a_forecaster(fitted):
    model = fitted / "out" / "model"
    assert (model / "model.safetensors").is_file()
    content = json.loads((model / "forecaster.json").read_text())
    assert (content["columns"], content["frequency"], content["period"], content["window"]) == (["load"], "h", 24, 72)


def test_forecast_writes_a_table_and_a_plot(fitted, tmp_path, capsys):
    arguments = ["forecast", "--model", str(fitted / "out" / "model"), "--out", str(tmp_path), "--json"]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["columns"] == ["load", "load_lower", "load_upper"]
    table = pd.read_csv(tmp_path / "forecast.csv", parse_dates=["time"])
    assert len(table) == result["steps"] == 30
    assert table["time"][0] == pd.Timestamp("2022-01-01") + pd.Timedelta("700h")
    assert (tmp_path / "forecast.png").stat().st_size > 1000
    # the same from the file, whose end is that of the fit
    assert main([*arguments, "--data", str(fitted / "series.csv"), "--level", "0"]) == 0
    again = pd.read_csv(tmp_path / "forecast.csv")
    assert list(again.columns) == ["time", "load"]
    assert np.allclose(again["load"], table["load"])


def test_holes_are_refused_and_filled_on_request(tmp_path, capsys):
    file = csv_file(tmp_path / "holes.csv", drop=[50, 51])
    arguments = ["fit", "--data", str(file), "--horizon", "30", "--window", "72", "--epochs", "1"]
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    assert "timestamps must have no gaps, got 2 of 700" in last_error(capsys)
    assert main([*arguments, "--fill", "linear", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["variables"] == ["load", "other"]


def test_benchmark_compares_models_and_saves_a_record(tmp_path, capsys):
    file = csv_file(tmp_path / "series.csv")
    arguments = ["benchmark", "--data", str(file), "--models", "last", "nlinear", "tpgn", "--horizons", "12", "20"]
    arguments += ["--window", "72", "--epochs", "1", "--out", str(tmp_path), "--json"]
    assert main(arguments) == 0
    record = json.loads(capsys.readouterr().out)
    assert {row["model"] for row in record["rows"]} == {"last value", "NLinear", "TPGN"}
    assert len(record["rows"]) == 2 * 3 * 2
    assert (tmp_path / "benchmark-series.json").is_file()


def test_ablate_runs_every_variant(tmp_path, capsys):
    file = csv_file(tmp_path / "series.csv", n=400)
    arguments = ["ablate", "--data", str(file), "--target", "load", "--horizons", "12", "--window", "48"]
    assert main([*arguments, "--epochs", "1", "--out", str(tmp_path), "--json"]) == 0
    assert len({row["model"] for row in json.loads(capsys.readouterr().out)["rows"]}) == 7


def test_demo_shows_a_table_and_saves_a_plot(tmp_path, capsys):
    assert main(["demo", "--hours", "1000", "--epochs", "1", "--out", str(tmp_path), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert {row["model"] for row in record["rows"]} >= {"seasonal naive", "LSTM", "TPGN"}
    assert (tmp_path / "demo.png").stat().st_size > 1000


@pytest.mark.data("ett_small")
def test_reproduce_keeps_finished_runs(tmp_path, capsys):
    arguments = ["reproduce", "table1", "--preset", "smoke", "--data", "ETTh1", "--models", "seasonal", "tpgn"]
    arguments += ["--out", str(tmp_path), "--work", str(tmp_path / "work")]
    assert main(arguments) == 0
    first = json.loads((tmp_path / "table1-smoke.json").read_text())
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("*.json")}
    assert len(kept) == 2
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("*.json")} == kept
    again = json.loads((tmp_path / "table1-smoke.json").read_text())
    assert again["rows"] == first["rows"]
    assert {row["paper"] for row in again["rows"] if row["model"] == "TPGN"} == {0.1061, 0.2533}


@pytest.mark.parametrize("what", ["step", "forms", "gradient"])
def test_bench_writes_a_record(what, tmp_path):
    assert main(["bench", what, "--quick", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads((tmp_path / f"bench_{what}.json").read_text())["rows"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "--data", "nowhere.csv"], "--data nowhere.csv: no such file, and not one of synthetic, ETTh1"),
        (["fit", "--target", "OT"], "synthetic has no column OT; there are load"),
        (["fit", "--horizon", "0"], "horizon must be at least 1, got 0"),
        (["fit", "--horizon", "3000"], "series must have at least"),
        (["fit", "--window", "30"], "seq_len must be at least two periods, 48, got 30"),
        (["forecast", "--model", "nowhere"], "nowhere holds no saved forecaster"),
        (["forecast", "--level", "1"], "--level must be from 0 to below 1, got 1"),
        (["benchmark", "--models", "arima"], "--models: 'arima' is not one of last, seasonal, tpgn"),
        (["benchmark", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["benchmark", "--data", "ECL"], "ECL is read from electricity.csv in data_dir"),
        (["demo", "--hours", "5"], "--hours must be at least 1000, got 5"),
        (["reproduce", "table9"], "table9"),
        (["reproduce", "table1", "--models", "arima"], "'arima' is not one of"),
        (["demo", "--no-such-option"], "no-such-option"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in last_error(capsys)


def test_the_official_benchmark_needs_its_checkout(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("PGN_OFFICIAL_DIR", raising=False)
    assert main(["bench", "official", "--out", str(tmp_path)]) == 2
    assert "PGN_OFFICIAL_DIR" in last_error(capsys)
    monkeypatch.setenv("PGN_OFFICIAL_DIR", str(tmp_path))
    assert main(["bench", "official", "--out", str(tmp_path)]) == 2
    assert "is not a checkout of Water2sea/TPGN" in last_error(capsys)


def test_the_models_of_the_command_line_are_those_of_the_package():
    from pgn_impl import models

    assert MODELS == models.MODELS


def test_info_prints_the_card(capsys):
    assert main(["info", "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["arxiv"] == "2409.17703"
    assert len(card["claims"]) >= 9


def test_help_needs_no_torch():
    code = "import sys; from pgn_impl.cli import main; assert main(['--help']) == 0; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for verb in (*COMMANDS, "info"):
        assert verb in done.stdout


def test_the_example_of_the_readme_runs_as_pasted(tmp_path, monkeypatch, capsys):
    section = README.read_text(encoding="utf-8").partition("## Install and first use")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, str(README), "exec"), {})
    assert "load_lower" in capsys.readouterr().out
