import io
import json
import re
from pathlib import Path

import pytest

from rnn_review_impl.cli import BENCHMARKS, EXPERIMENTS, main

README = Path(__file__).parents[1] / "README.md"


DATA = {"speech": pytest.mark.data, "ctc": pytest.mark.data, "shakespeare": pytest.mark.data("tinyshakespeare")}
VERBS = [
    ["demo", "--steps", "2"],
    *[
        pytest.param(["reproduce", name, "--preset", "smoke"], marks=[DATA[name]] if name in DATA else [])
        for name in EXPERIMENTS
    ],
    *[["bench", name, "--quick"] for name in BENCHMARKS],
]


# a step or two of training is no better than the trivial answer, and says so
@pytest.mark.filterwarnings("ignore:accuracy on held-out", "ignore:the network is not better than counting")
@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_runs_and_prints_json(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*verb, "--device", "cpu", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert list(tmp_path.iterdir())


def answer(capsys, *arguments):
    assert main([*map(str, arguments), "--device", "cpu", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.filterwarnings("ignore:the network is not better than counting")
def test_a_text_is_learned_and_written_on(tmp_path, capsys, monkeypatch):
    (tmp_path / "text").mkdir()
    file = tmp_path / "a.txt"
    file.write_text("to be or not to be\n" * 20, encoding="utf-8")
    small = ("--hidden", 8, "--steps", 3, "--out", tmp_path)
    found = answer(capsys, "train", file, "--task", "text", *small)
    assert found["model"] == str(tmp_path / "text")
    written = answer(capsys, "generate", found["model"], "--prompt", "to be", "--tokens", 7)["text"]
    assert written.startswith("to be")
    assert len(written) == 12
    monkeypatch.setattr("sys.stdin", io.StringIO("to be or not to be\n" * 20))
    assert answer(capsys, "train", "-", "--task", "text", *small)["nats"] == found["nats"]
    assert main(["generate", found["model"], "--prompt", "X"]) == 2
    assert "got 'X'" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:accuracy on held-out")
@pytest.mark.parametrize("tagged", [False, True])
def test_sequences_are_learned_and_labelled(tagged, tmp_path, capsys):
    file = tmp_path / "s.jsonl"
    rows = [{"sequence": [[i % 2, 1.0]] * (2 + i % 3), "label": "ab"[i % 2]} for i in range(12)]
    if tagged:
        rows = [{**row, "label": [row["label"]] * len(row["sequence"])} for row in rows]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    small = ("--hidden", 8, "--steps", 40, "--out", tmp_path)
    found = answer(capsys, "train", file, "--task", "sequences", *small)
    labels = answer(capsys, "predict", file, "--model", found["model"])["labels"]
    assert labels == [row["label"] for row in rows]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--task", "text"], "--task text needs a FILE"),
        (["train", "no.txt", "--task", "adding"], "takes no FILE"),
        (["train", "no.txt", "--task", "text"], "must be a text file"),
        (["train", "bad.jsonl", "--task", "sequences"], "line 2: must be"),
        (["train", "ragged.jsonl", "--task", "sequences"], "sequence 1 must be numbers"),
        (["train", "--steps", "0"], "--steps must be positive"),
        (["predict", "bad.jsonl", "--model", "none"], "line 2: must be"),
        (["predict", "ragged.jsonl", "--model", "none"], "must be a folder that"),
        (["generate", "none"], "must be a folder that CharLM.save wrote"),
        (["gradients", "--length", "0"], "length must be positive, got 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("bad.jsonl").write_text('{"sequence": [1], "label": 0}\nx\n', encoding="utf-8")
    ragged = '{"sequence": [1], "label": 0}\n{"sequence": [[1], [1, 2]], "label": 1}\n'
    Path("ragged.jsonl").write_text(ragged, encoding="utf-8")
    assert main([*arguments, "--device", "cpu"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]


def test_a_historical_task_is_trained(capsys):
    found = answer(capsys, "train", "--task", "adding", "--steps", 2, "--hidden", 4, "--length", 4)
    assert found["mse"] > 0


def test_a_wrong_option_is_one_line_and_exit_code_2(capsys):
    assert main(["demo", "--no-such-option"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_bleu_and_gradients_on_the_command_line(tmp_path, capsys):
    (tmp_path / "h.txt").write_text("a b c d\n", encoding="utf-8")
    (tmp_path / "r.txt").write_text("a b c d\n", encoding="utf-8")
    assert main(["bleu", str(tmp_path / "h.txt"), str(tmp_path / "r.txt"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bleu"] == pytest.approx(100)
    (tmp_path / "r.txt").write_text("a\nb\n", encoding="utf-8")
    assert main(["bleu", str(tmp_path / "h.txt"), str(tmp_path / "r.txt")]) == 2
    assert "equally many, got 1 and 2" in capsys.readouterr().err
    assert main(["bleu", str(tmp_path / "none.txt"), str(tmp_path / "r.txt")]) == 2
    capsys.readouterr()
    assert main(["gradients", "--length", "5", "--hidden", "4", "--out", str(tmp_path), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["gradients"]["lstm"]) == 5
    assert {path.stem for path in tmp_path.glob("*.png")} == {"gradients", "unfolding", "reach", "squashing"}


def test_the_example_of_the_readme_runs_as_pasted(capsys):
    section = README.read_text(encoding="utf-8").partition("## Install and first use")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    exec(compile(code, str(README), "exec"), {})
    assert capsys.readouterr().out == "True\n(2, 50, 64)\n100.0\n"
