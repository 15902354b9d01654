import functools
import json
import re
from pathlib import Path

import pytest

from state_tracking_impl.cli import main

README = Path(__file__).parents[1] / "README.md"

VERBS = [
    ["demo"],
    ["train", "--steps", "2", "--d-model", "16"],
    ["construct", "2,0,1"],
    ["construct", "1,0;0,0", "--length", "100"],
    ["reproduce", "parity", "--preset", "smoke", "--work", "work"],
    ["bench", "negative", "--quick"],
]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: " ".join(verb[:2]))
def test_every_verb_runs_and_prints_json(verb, tmp_path, monkeypatch, capsys):
    import state_tracking_impl.demo as module

    monkeypatch.setattr(module, "demo", functools.partial(module.demo, steps=2))
    monkeypatch.chdir(tmp_path)
    assert main([*verb, "--device", "cpu", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_what_was_trained_is_evaluated(tmp_path, capsys):
    out = ["--out", str(tmp_path), "--device", "cpu"]
    assert main(["train", "--steps", "1", "--d-model", "16", "--task", "s3", *out]) == 0
    capsys.readouterr()
    folder = str(tmp_path / "model")
    assert main(["eval", folder, "--task", "s3", "--lengths", "4", "8", *out, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["scaled_accuracy"]) == {"4", "8"}
    assert (tmp_path / "eigenvalues.png").is_file()
    assert main(["eval", folder, "--task", "parity", *out]) == 2
    (tmp_path / "model" / "model.safetensors").write_bytes(b"damaged")
    assert main(["eval", folder, "--task", "s3", *out]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


@pytest.mark.parametrize("experiment", ["table2", "s5"])
def test_every_experiment_starts(experiment, tmp_path):
    out = ["--out", str(tmp_path), "--work", str(tmp_path / "work"), "--device", "cpu"]
    assert main(["reproduce", experiment, "--preset", "smoke", *out]) == 0


@pytest.mark.data
def test_the_experiment_on_text_starts(tmp_path):
    from shared_impl.data import DataError
    from shared_impl.datasets import tiny_shakespeare

    try:
        tiny_shakespeare()
    except DataError:
        pytest.skip("tiny Shakespeare is not here")
    out = ["--out", str(tmp_path), "--work", str(tmp_path / "work"), "--device", "cpu"]
    assert main(["reproduce", "text", "--preset", "smoke", *out]) == 0


@pytest.mark.parametrize(
    "argv",
    [
        ["demo", "--no-such-option"],
        ["train", "--lo", "1", "--hi", "-1"],
        ["train", "--steps", "0"],
        ["train", "--lengths", "9", "3"],
        ["eval", "no/such/folder"],
        ["construct", "0,0,1"],
        ["construct", "0,1;1"],
        ["construct", "a,b"],
        ["construct", "1,0;0,0", "--length", "0"],
    ],
    ids=" ".join,
)
def test_bad_input_is_one_line_and_exit_code_2(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_folder_that_is_no_checkout_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("STATE_TRACKING_OFFICIAL_DIR", str(tmp_path))
    assert main(["bench", "official", "--quick", "--out", str(tmp_path / "out")]) == 2
    assert "is not a checkout" in capsys.readouterr().err
    monkeypatch.delenv("STATE_TRACKING_OFFICIAL_DIR")
    assert main(["bench", "official", "--quick", "--out", str(tmp_path / "out")]) == 2
    assert "needs STATE_TRACKING_OFFICIAL_DIR" in capsys.readouterr().err


def test_the_example_of_the_readme_runs_as_pasted(capsys):
    section = README.read_text(encoding="utf-8").partition("## Install and first use")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    exec(compile(code, str(README), "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "errors in 100,000 steps: 0"
    assert lines[1] == "2 layers switched; lowest eigenvalue 0.3 before, -0.4 after"
