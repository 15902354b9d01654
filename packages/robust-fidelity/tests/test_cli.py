import json
import re
from pathlib import Path

import pytest
import torch

from robust_fidelity_impl.cli import main
from robust_fidelity_impl.datasets import ba2motifs
from robust_fidelity_impl.models import GCN

README = Path(__file__).parents[1] / "README.md"


VERBS = [["demo"], ["reproduce", "--preset", "smoke"], ["bench", "--quick"]]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_every_verb_runs_and_prints_json(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*verb, "--device", "cpu", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["cells", "outside", "alphas", "explainers"])
def test_every_experiment_runs(name, tmp_path, capsys):
    command = ["reproduce", name, "--preset", "smoke", "--out", str(tmp_path), "--work", str(tmp_path / "w"), "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", ["enumeration", "error"])
def test_every_benchmark_runs(name, tmp_path, capsys):
    assert main(["bench", name, "--quick", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ROBUST_FIDELITY_OFFICIAL_DIR", raising=False)
    torch.manual_seed(0)
    GCN(in_features=10, classes=2).save_pretrained("model")
    graphs = ba2motifs(2)
    entries = [{"x": g.x.tolist(), "edges": g.edge_index.T.tolist(), "y": int(g.y)} for g in graphs]
    Path("graphs.json").write_text(json.dumps(entries))
    Path("masks.json").write_text(json.dumps([g.edge_mask.int().tolist() for g in graphs]))
    Path("soft.json").write_text(json.dumps([[0.5] * g.edge_index.shape[1] for g in graphs]))
    Path("short.json").write_text(json.dumps([[1], [0]]))
    Path("words.json").write_text(json.dumps([["a"], ["b"]]))
    Path("broken.json").write_text("[")
    Path("empty.json").write_text("[]")
    Path("bad.json").write_text(json.dumps([{"x": [[1]]}, {"x": 3, "edges": [[0, 1]]}]))
    return tmp_path


def test_explanations_of_files_are_scored(files, capsys):
    assert main(["score", "model", "graphs.json", "masks.json", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = found["graphs"]
    mean = sum(row["robust"]["delta"] for row in rows) / len(rows)
    assert found["means"]["robust"]["delta"] == pytest.approx(mean)
    assert sorted(row["robust"]["size"] for row in rows) == [5, 6]
    assert all(row["original"]["exact"] for row in rows)
    assert main(["score", "model/model.safetensors", "graphs.json", "soft.json", "--top-k", "5"]) == 0
    assert "delta" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["demo", "--no-such-option"], "no-such-option"),
        (["score", "nowhere", "graphs.json", "masks.json"], "nowhere"),
        (["score", "model", "nowhere.json", "masks.json"], "nowhere.json"),
        (["score", "model", "broken.json", "masks.json"], "not JSON"),
        (["score", "model", "empty.json", "masks.json"], "at least one"),
        (["score", "model", "bad.json", "masks.json"], "graph 0"),
        (["score", "model", "graphs.json", "empty.json"], "2 masks"),
        (["score", "model", "graphs.json", "short.json"], "one value for each"),
        (["score", "model", "graphs.json", "words.json"], "numbers"),
        (["score", "model", "graphs.json", "soft.json"], "threshold"),
        (["score", "model", "graphs.json", "masks.json", "--alpha1", "2"], "alpha1"),
        (["score", "model", "graphs.json", "masks.json", "--kind", "GAT"], "--kind"),
        (["score", "model", "graphs.json", "masks.json", "--kind", "nowhere:Model"], "nowhere"),
        (["score", "model", "graphs.json", "masks.json", "--kind", "GIN"], "GIN"),
        (["bench", "official"], "ROBUST_FIDELITY_OFFICIAL_DIR"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(files, capsys, command, message):
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_the_example_of_the_readme_runs_as_pasted(capsys):
    section = README.read_text(encoding="utf-8").partition("## Install and first use")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    exec(compile(code, str(README), "exec"), {})
    assert capsys.readouterr().out.startswith("Fid+ ")
