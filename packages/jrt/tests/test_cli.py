import json
import re
from pathlib import Path

import pytest

from jrt_impl import JRTForCausalLM, cli
from jrt_impl.cli import main

README = Path(__file__).parents[1] / "README.md"
VERBS = [
    ["demo", "--steps", "3"],
    ["sd", "--steps", "2", "--d-model", "8", "--feature-dim", "2", "--sizes", "2", "3"],
    ["reproduce", "set-disjointness", "--preset", "smoke"],
    ["reproduce", "documents", "--preset", "smoke"],
    ["bench", "prefix", "--quick"],
    ["bench", "prefill", "--quick"],
    ["bench", "state", "--quick"],
    ["bench", "official", "--quick"],
]


def run(verb, tmp_path, capsys):
    code = main([*verb, "--device", "cpu", "--out", str(tmp_path / "out"), "--json"])
    return code, capsys.readouterr()


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: "-".join(verb[:2]))
def test_every_verb_runs_and_prints_json(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JRT_OFFICIAL_DIR", raising=False)
    code, said = run(verb, tmp_path, capsys)
    assert code == 0, said.err
    assert json.loads(said.out)


@pytest.mark.data
def test_the_text_experiment_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, said = run(["reproduce", "wikitext2", "--preset", "smoke"], tmp_path, capsys)
    assert code == 0, said.err
    assert json.loads(said.out)


def test_a_model_of_ones_own_text_is_trained_continued_and_asked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = tmp_path / "text.txt"
    text.write_text("A sentence of some length. " * 30, encoding="utf-8")
    sizes = ["--steps", "2", "--seq-len", "16", "--prefix-len", "8", "--batch-size", "2", "--d-model", "8"]
    code, said = run(["train-lm", str(text), *sizes, "--n-layers", "2"], tmp_path, capsys)
    assert code == 0, said.err
    found = json.loads(said.out)
    assert found["steps"] == 2
    assert found["after prefix"] > 1
    code, said = run(["generate", found["model"], "--prompt", "A s", "--max-new-tokens", "5"], tmp_path, capsys)
    assert code == 0, said.err
    assert json.loads(said.out)["prompt"] == "A s"
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"context": "It is red.", "question": "Colour?", "answer": "red"}\n', encoding="utf-8")
    code, said = run(["prompt-eval", str(rows), "--model", found["model"]], tmp_path, capsys)
    assert code == 0, said.err
    scores = json.loads(said.out)
    assert scores["once"]["questions"] == 1
    assert scores["twice"]["prompt_tokens"] > scores["once"]["prompt_tokens"]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["demo", "--no-such-option"], "no-such-option"),
        (["demo", "--steps", "0"], "--steps must be at least 1, got 0"),
        (["sd", "--sizes", "100", "100"], "vocab_size must be at least 204"),
        (["sd", "--lr", "-1"], "lr must be positive"),
        (["train-lm", "no-such-file"], "cannot read no-such-file"),
        (["train-lm", "empty.txt"], "at least 10 bytes"),
        (["train-lm", "empty.txt", "--prefix-len", "999"], "prefix_len must be in"),
        (["generate", "no-such-folder"], "no-such-folder"),
        (["generate", "no-such-folder", "--prompt", ""], "--prompt must not be empty"),
        (["prompt-eval", "empty.txt"], "--model must name"),
        (["prompt-eval", "empty.txt", "--model", "x"], "at least one document"),
        (["prompt-eval", "missing.jsonl", "--model", "x"], "cannot read missing.jsonl"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, match, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").touch()
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert match in said


def test_the_command_line_names_what_is_declared():
    from jrt_impl.benchmarks import BENCHMARKS
    from jrt_impl.experiments import EXPERIMENTS

    assert set(cli.EXPERIMENTS) == set(EXPERIMENTS)
    assert set(cli.BENCHMARKS) == set(BENCHMARKS)


def test_the_examples_of_the_readme_run_as_pasted(capsys):
    section = README.read_text(encoding="utf-8").partition("## Install and first use")[2].partition("\n## ")[0]
    for code in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        exec(compile(code, str(README), "exec"), {})
    assert capsys.readouterr().out.startswith("(1, 20)\n")


def test_the_default_model_is_made_without_arguments():
    assert JRTForCausalLM().vocab_size == 50_264
