import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from iir_snn_impl import save_ann, small_conv
from iir_snn_impl.cli import main

README = Path(__file__).parents[1] / "README.md"


VERBS = [
    ["reproduce", "steps", "--preset", "smoke", "--only", "model=ReLU network", "model=IIR"],
    ["bench", "still", "--quick"],
]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_every_verb_runs_and_prints_json(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*verb, "--device", "cpu", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_demo_runs_and_prints_json(tmp_path, capsys):
    assert main(["demo", "--device", "cpu", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["iir_1"] > 0.9


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    np.savez(tmp_path / "data.npz", x=rng.normal(size=(40, 1, 8, 8)), y=np.arange(40) % 10)
    save_ann(small_conv(size=8, width=4), tmp_path / "ann")
    return tmp_path


def test_a_network_of_ones_own_is_converted_reduced_and_priced(files, capsys):
    data = ["--data", str(files / "data.npz"), "--json"]
    assert main(["convert", str(files / "ann"), *data, "--out", str(files / "snn")]) == 0
    assert len(json.loads(capsys.readouterr().out)["thresholds"]) == 3
    assert main(["iir", str(files / "snn"), *data, "--schedule", "2", "1", "--epochs", "1", "--out", str(files)]) == 0
    assert json.loads(capsys.readouterr().out).keys() == {"T=2", "T=1"}
    assert main(["energy", str(files / "T1"), *data]) == 0
    assert "not measured" in json.loads(capsys.readouterr().out)["assumptions"]


def test_bad_input_is_one_line_and_exit_code_2(files, capsys):
    (files / "broken.npz").write_bytes(b"nothing")
    np.savez(files / "wide.npz", x=np.zeros((4, 1, 12, 12)))
    ann, data = str(files / "ann"), str(files / "data.npz")
    for arguments in (
        ["demo", "--no-such-option"],
        ["convert"],
        ["convert", str(files / "none"), "--data", data],
        ["convert", ann, "--data", str(files / "broken.npz")],
        ["convert", ann, "--data", str(files / "wide.npz")],
        ["convert", ann, "--data", data, "--percentile", "200"],
        ["convert", ann, "--data", data, "--T", "0"],
        ["energy", ann, "--data", data],
        ["rl", "--env", "NoSuchEnv-v0"],
    ):
        assert main(arguments) == 2, arguments
        assert len(capsys.readouterr().err.splitlines()) == 1, arguments


def test_the_example_of_the_readme_runs_as_pasted(capsys):
    section = README.read_text(encoding="utf-8").partition("## Install and first use")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    exec(compile(code, str(README), "exec"), {})
    said = capsys.readouterr().out
    assert float(re.search(r"one step: ([\d.]+)", said).group(1)) > 0.85
