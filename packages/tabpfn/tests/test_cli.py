"""The command line, from the outside."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from shared_impl.results import Record
from tabpfn_impl.checkpoints import load_checkpoint
from tabpfn_impl.cli import main

COMMANDS = ["info", "demo", "train", "export", "predict", "evaluate", "prior", "reproduce", "bench"]


@pytest.fixture
def csv(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=60), "b": rng.choice(["u", "v"], 60)})
    frame["label"] = np.where(frame["a"] > 0, "yes", "no")
    frame.to_csv(tmp_path / "table.csv", index=False)
    frame[:5].drop(columns="label").to_csv(tmp_path / "new.csv", index=False)
    return tmp_path / "table.csv"


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_explains_every_command(command, capsys):
    assert main([command, "--help"] if command else ["--help"]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in (COMMANDS if command is None else ["--seed", "--device", "--out", "--json"]))


def test_help_imports_no_torch():
    code = (
        "import sys, tabpfn_impl.cli\n"
        "try: tabpfn_impl.cli.main(['train', '--help'])\n"
        "finally: print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False False")


def test_info_prints_the_card_as_json(capsys):
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["arxiv"] == "2207.01848"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demo", "--speed", "9"], "--speed"),
        (["reproduce", "imagenet"], "imagenet"),
        (["reproduce", "table1", "--data-dir", "no-such-folder"], "no-such-folder"),
        (["reproduce", "offline", "--model", "no-such-folder"], "no-such-folder"),
        (["train", "--steps", "0"], "--steps"),
        (["train", "--steps", "5", "--minutes", "1"], "not both"),
        (["train", "--lr", "0"], "--lr"),
        (["train", "--recipe", "huge"], "huge"),
        (["train", "--recipe", "tiny", "--d-model", "15"], "n_heads"),
        (["predict", "no-such.csv", "neither.csv"], "no-such.csv"),
        (["evaluate", "no-such.csv"], "no-such.csv"),
        (["prior", "--rows", "3"], "rows"),
        (["prior", "--sets", "0"], "--sets"),
        (["bench", "everything"], "everything"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, words, tmp_path, capsys):
    assert main([*arguments, *(["--out", str(tmp_path)] if "--speed" not in arguments else [])]) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    assert words in said


def test_predictions_go_from_csv_to_csv(csv, tmp_path, capsys):
    new, to = tmp_path / "new.csv", tmp_path / "out.csv"
    assert main(["predict", str(csv), str(new), "--to", str(to), "--n-estimators", "2", "--device", "cpu"]) == 0
    out = pd.read_csv(to)
    assert list(out.columns) == ["prediction", "p(no)", "p(yes)"]
    assert len(out) == 5
    np.testing.assert_allclose(out[["p(no)", "p(yes)"]].to_numpy().sum(1), 1, atol=1e-6)
    # a file that still has the labels will do
    assert main(["predict", str(csv), str(csv), "--to", str(to), "--n-estimators", "2", "--json"]) == 0
    assert '"rows": 60' in capsys.readouterr().out
    pd.read_csv(new).drop(columns="a").to_csv(tmp_path / "less.csv", index=False)
    assert main(["predict", str(csv), str(tmp_path / "less.csv"), "--out", str(tmp_path)]) == 2
    assert "lacks the column 'a'" in capsys.readouterr().err


def test_a_table_is_evaluated(csv, tmp_path, capsys):
    arguments = ["--target", "label", "--splits", "1", "--n-estimators", "1", "--no-baselines", "--out", str(tmp_path)]
    assert main(["evaluate", str(csv), *arguments, "--device", "cpu", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert {row["metric"] for row in record["rows"]} >= {"AUC (OVO)", "log-loss", "accuracy", "calibration error"}
    assert (tmp_path / "evaluate-table.json").is_file()


def test_a_network_is_trained_saved_and_used(csv, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "--recipe", "tiny", "--steps", "4", "--eval-every", "2", "--out", str(out)]) == 0
    assert Record.load(out / "train-tiny.json").rows
    assert (out / "train.png").is_file()
    arguments = ["--model", str(out), "--splits", "1", "--n-estimators", "1", "--no-baselines", "--json"]
    assert main(["evaluate", str(csv), *arguments]) == 0
    capsys.readouterr()


@pytest.mark.slow
def test_a_run_is_made_ready_to_ship(tmp_path, capsys):
    run, shipped = tmp_path / "run", tmp_path / "weights"
    assert main(["train", "--recipe", "tiny", "--steps", "4", "--eval-every", "2", "--out", str(run)]) == 0
    capsys.readouterr()
    assert main(["export", str(run), "--to", str(shipped), "--device", "cpu", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    checkpoint = load_checkpoint(shipped)
    assert checkpoint.temperature == said["softmax_temperature"]
    assert checkpoint.multiclass == said["multiclass"]
    assert len((shipped / "training_log.jsonl").read_text().splitlines()) == 2
    whole, half = (folder / "model.safetensors" for folder in (run / "model", shipped))
    assert half.stat().st_size < 0.7 * whole.stat().st_size
    assert main(["export", str(tmp_path), "--to", str(shipped)]) == 2


def test_the_prior_is_saved_and_drawn(tmp_path, capsys):
    arguments = ["--sets", "5", "--rows", "40", "--features", "3", "--out", str(tmp_path), "--device", "cpu", "--json"]
    assert main(["prior", *arguments]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["shape"] == [5, 40, 3]
    with np.load(tmp_path / "prior.npz") as arrays:
        assert arrays["x"].shape == (5, 40, 3)
    assert (tmp_path / "prior.png").stat().st_size > 5000


@pytest.mark.slow
def test_the_demo_draws_boundaries_and_scores_four_sets(tmp_path):
    assert main(["demo", "--device", "cpu", "--out", str(tmp_path)]) == 0
    record = Record.load(tmp_path / "demo-cpu.json")
    assert len(record.rows) == 8
    assert (tmp_path / "demo.png").is_file()
