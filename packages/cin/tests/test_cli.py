import json
import re
from pathlib import Path

import numpy as np
import pytest

from cin_impl.cli import main

README = Path(__file__).parents[1] / "README.md"

VERBS = [
    ["demo", "--steps", "3"],
    ["convert", "oadtr-b1"],
    *(["reproduce", name, "--preset", "smoke"] for name in ("flops", "co3d", "costgcn", "spa", "drift")),
    *(["bench", name, "--quick"] for name in ("functional", "steps", "window", "attention")),
]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: " ".join(verb[:2]))
def test_every_verb_runs_and_prints_json(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*verb, "--device", "cpu", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_stream_reads_a_file_of_the_users_own(write_wav, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for i in range(6):
        write_wav(tmp_path / f"{i}_anna_9.wav", 0.1 * rng.standard_normal(3000).clip(-3, 3))
    own = tmp_path / "own.wav"
    write_wav(own, 0.1 * rng.standard_normal(2000).clip(-3, 3))
    arguments = ["stream", str(own), "--recordings", str(tmp_path), "--steps", "2", "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)[0]["digit"] in range(10)
    own.write_bytes(b"nothing")
    for bad, words in (
        (["stream"], "needs a WAV"),
        (["stream", "nowhere.wav"], "no such file"),
        (["stream", str(tmp_path)], "not a file"),
        (arguments, "no WAV file: it ends too early"),
    ):
        assert main(bad) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line


def test_a_wrong_option_is_one_line_and_exit_code_2(capsys):
    assert main(["demo", "--no-such-option"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_example_of_the_readme_runs_as_pasted(capsys):
    section = README.read_text(encoding="utf-8").partition("## Install and first use")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    exec(compile(code, str(README), "exec"), {})
    assert capsys.readouterr().out == "receptive field 9, delay 8\nTrue\n"


def test_convert_takes_a_network_of_the_users_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Linear(4, 2))\n"
        "number, wrong, double = 1, lambda: nn.GroupNorm(1, 1), nn.Conv1d(1, 1, 3).double()\n"
    )
    shape = ["--shape", "1", "1", "6", "5", "5"]
    assert main(["convert", "mine.py:build", *shape, "--window", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["receptive field"], found["delay"]) == (6, 4)
    assert found["largest difference of steps and clip"] < 1e-6
    assert main(["convert", "mine.py:double", "--shape", "1", "1", "9", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["largest difference of steps and clip"] < 1e-12
    for bad in (
        ["mine.py:build", *shape],
        ["mine.py:build", "--shape", "1", "1"],
        ["mine.py:build", "--shape", "1", "1", "2", "5", "5", "--window", "4"],
        ["mine.py:wrong", *shape],
        ["mine.py:number", *shape],
        ["mine.py:absent", *shape],
        ["nowhere.py:build", *shape],
        ["x4d"],
        ["slow", "--window", "3"],
    ):
        assert main(["convert", *bad]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
