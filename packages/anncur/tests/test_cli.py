import json
import re
from pathlib import Path

import pytest

from anncur_impl.cli import main

README = Path(__file__).parents[1] / "README.md"
PAIRS = [("who sang", "ann sang"), ("who ran", "bob ran"), ("who slept", "cid slept"), ("who won", "dan won")]


VERBS = [["demo"], ["reproduce", "black-boxes", "--preset", "smoke"], ["bench", "wall-time", "--quick"]]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_every_verb_runs_and_prints_json(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*verb, "--device", "cpu", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["overhead", "hnsw"])
def test_every_benchmark_runs(name, tmp_path, capsys):
    assert main(["bench", name, "--quick", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


@pytest.mark.data("wikiqa_filtered_train")
@pytest.mark.parametrize("name", ["wikiqa", "spectrum"])
def test_real_data_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("IMPL_CACHE_DIR", str(tmp_path / "cache"))
    command = ["reproduce", name, "--preset", "smoke", "--out", str(tmp_path), "--work", str(tmp_path / "w"), "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "pairs.tsv").write_text(
        "\n".join(f"{int(i == j)}\t{q}\t{a}" for i, (q, _) in enumerate(PAIRS) for j, (_, a) in enumerate(PAIRS))
    )
    (tmp_path / "items.txt").write_text("\n".join([a for _, a in PAIRS] + [f"filler {i}" for i in range(20)]))
    (tmp_path / "queries.jsonl").write_text("\n".join(json.dumps({"text": q}) for q, _ in PAIRS))
    (tmp_path / "own.py").write_text(
        "def score(queries, items):\n"
        "    return [len(set(q.split()) & set(i.split())) + 1e-3 * len(i) for q, i in zip(queries, items)]\n"
    )
    return tmp_path


def test_train_index_search(files, capsys, monkeypatch):
    monkeypatch.chdir(files)
    assert main(["train", "pairs.tsv", "--steps", "2", "--out", "o"]) == 0
    scorer = "o/scorer"
    index = ["index", "items.txt", "--queries", "queries.jsonl", "--scorer", scorer, "--budget", "10", "--out", "o"]
    assert main([*index]) == 0
    capsys.readouterr()
    search = ["search", "queries.jsonl", "--index", "o/index.npz", "--scorer", scorer, "--k", "3"]
    assert main(search) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["query"] for row in rows] == [q for q, _ in PAIRS]
    assert all(len(row["found"]) == 3 for row in rows)
    assert main([*search, "--json", "--rounds", "2", "--budget", "24"]) == 0
    assert json.loads(capsys.readouterr().out)["calls"] == 24


def test_a_function_of_ones_own_is_a_scorer(files, capsys, monkeypatch):
    monkeypatch.chdir(files)
    command = ["index", "items.txt", "--queries", "queries.jsonl", "--scorer", "own:score", "--budget", "10"]
    assert main([*command, "--out", "o"]) == 0
    capsys.readouterr()
    search = ["search", "queries.jsonl", "--index", "o/index.npz", "--scorer", "own:score", "--k", "1", "--budget"]
    assert main([*search, "24"]) == 0
    found = [json.loads(line)["found"][0]["text"] for line in capsys.readouterr().out.splitlines()]
    assert found == [a for _, a in PAIRS]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["demo", "--no-such-option"], "no-such-option"),
        (["train", "nowhere.tsv"], "nowhere.tsv"),
        (["train", "items.txt"], "line 1"),
        (["train", "pairs.tsv", "--steps", "0"], "--steps"),
        (["train", "empty.txt"], "no lines"),
        (["train", "binary"], "UTF-8"),
        (["index", "items.txt", "--queries", "queries.jsonl", "--scorer", "nothing"], "MODULE:FUNCTION"),
        (["index", "items.txt", "--queries", "queries.jsonl", "--scorer", "own:nothing"], "nothing"),
        (["index", "items.txt", "--queries", "queries.jsonl", "--scorer", "."], "model.safetensors"),
        (["index", "items.txt", "--queries", "bad.jsonl", "--scorer", "own:score"], "line 2"),
        (["index", "items.txt", "--queries", "queries.jsonl", "--scorer", "own:score", "--budget", "1"], "--budget"),
        (["search", "queries.jsonl", "--index", "nowhere.npz", "--scorer", "own:score"], "nowhere.npz"),
        (["search", "queries.jsonl", "--index", "items.txt", "--scorer", "own:score"], "not an index"),
        (["search", ".", "--scorer", "own:score"], "folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(files, capsys, monkeypatch, command, message):
    monkeypatch.chdir(files)
    (files / "empty.txt").write_text("\n\n")
    (files / "binary").write_bytes(b"\xff\xfe\xff")
    (files / "bad.jsonl").write_text('{"text": "a"}\n{"txt": "b"}\n')
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_the_example_of_the_readme_runs_as_pasted(capsys):
    section = README.read_text(encoding="utf-8").partition("## Install and first use")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    exec(compile(code, str(README), "exec"), {})
    assert capsys.readouterr().out == "10 of 10 found with 60 calls of 1000\n"
