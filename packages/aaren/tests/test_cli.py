import io
import json
import os
import re
from pathlib import Path

import pytest

from aaren_impl.cli import main

README = Path(__file__).parents[1] / "README.md"


VERBS = [
    ["demo", "--steps", "2"],
    ["reproduce", "ett", "--preset", "smoke"],
    ["reproduce", "events", "--preset", "smoke"],
    ["reproduce", "uea", "--preset", "smoke"],
    ["reproduce", "rl", "--preset", "smoke"],
    ["bench", "scan", "--quick"],
    pytest.param(["bench", "stream", "--quick"], marks=pytest.mark.slow),
    pytest.param(["bench", "defaults", "--quick"], marks=pytest.mark.slow),
    pytest.param(["train", "--task", "rl", "--steps", "1"], marks=pytest.mark.slow),
]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
@pytest.mark.filterwarnings("ignore:no better than")
def test_every_verb_runs_and_prints_json(verb, tmp_path, monkeypatch, capsys):
    if "rl" in verb:
        pytest.importorskip("gymnasium")
    if "ett" in verb and not (Path(os.environ.get("IMPL_DATA_DIR", "")) / "ett_small" / "ETTh1.csv").is_file():
        pytest.skip("needs ETTh1.csv in IMPL_DATA_DIR")
    monkeypatch.chdir(tmp_path)
    assert main([*verb, "--device", "cpu", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert list(tmp_path.iterdir())


def test_the_example_of_the_readme_runs_as_pasted(capsys):
    section = README.read_text(encoding="utf-8").partition("## Install and first use")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    exec(compile(code, str(README), "exec"), {})
    assert capsys.readouterr().out == "largest difference below 1e-5: True, state of 144 numbers\n"


def test_simulated_events_can_be_trained_on_and_asked_about(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["simulate", "all.csv", "--sequences", "3"]) == 0
    lines = Path("all.csv").read_text().splitlines()
    few = [line for i in "012" for line in [x for x in lines[1:] if x.startswith(f"{i},")][:9]]
    Path("events.csv").write_text("\n".join([lines[0], *few]))
    assert main(["train", "events.csv", "--steps", "1"]) == 0
    capsys.readouterr()
    assert main(["predict", "events.csv"]) == 0
    answers = capsys.readouterr().out.splitlines()
    assert answers[0] == "sequence,time,next_time,next_mark,probability"
    assert len(answers) == len(Path("events.csv").read_text().splitlines())
    assert main(["predict", "events.csv", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(answers) - 1
    monkeypatch.setattr("sys.stdin", io.StringIO("a,1,0\na,2,1\n"))
    assert main(["predict", "-", "--model", "runs/aaren/event"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_series_can_be_trained_on_and_continued(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("months.csv").write_text("\n".join(["sales", *(str(100 + i % 12) for i in range(72))]))
    assert main(["train", "months.csv", "--task", "forecast", "--steps", "2", "--horizon", "3"]) == 0
    capsys.readouterr()
    assert main(["predict", "months.csv", "--task", "forecast"]) == 0
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()] == ["row", "72", "73", "74"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--no-such-option"], "no-such-option"),
        (["demo", "--steps", "0"], "--steps must be at least 1, got 0"),
        (["train", "--steps", "0"], "--steps must be at least 1, got 0"),
        (["train", "--horizon", "-1"], "--horizon must not be negative"),
        (["train", "none.csv"], "none.csv cannot be read"),
        (["train", "back.csv"], "must not go back"),
        (["train", "one.csv"], "sequences must be at least 2"),
        (["train", "."], "cannot be read"),
        (["train", "one.csv", "--task", "classify"], "behind a line @data"),
        (["train", "one.csv", "--task", "forecast"], "must be longer"),
        (["train", "one.csv", "--task", "rl"], "makes its own data"),
        (["predict"], "FILE"),
        (["predict", "one.csv", "--model", "nowhere"], "must be a folder that `train` wrote"),
        (["simulate", "--sequences", "0"], "--sequences must be at least 1"),
        (["simulate", "no/such/folder/x.csv", "--sequences", "1"], "cannot be written"),
        (["bench", "peer", "--quick"], "AAREN_PEER_DIR"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AAREN_PEER_DIR", raising=False)
    Path("back.csv").write_text("id,time,mark\na,2,x\na,1,x\n")
    Path("one.csv").write_text("id,time,mark\na,1,x\na,2,x\n")
    Path("no").write_text("")
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
