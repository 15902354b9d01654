import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from forwardgnn_impl import sbm
from forwardgnn_impl.cli import main

README = Path(__file__).parents[1] / "README.md"


VERBS = [
    *[["reproduce", name, "--preset", "smoke"] for name in ("depth", "methods", "convs", "links", "memory")],
    *[["bench", name, "--quick"] for name in ("depth", "classes")],
    ["memory", "--depths", "1", "2", "--hidden", "8"],
]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: "-".join(verb[:2]))
def test_every_verb_runs_and_prints_json(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*verb, "--device", "cpu", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_the_demo_runs_and_prints_json(tmp_path, capsys):
    assert main(["demo", "--device", "cpu", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sf_2"] > 0.8
    assert (tmp_path / "demo.png").is_file()


@pytest.fixture
def tables(tmp_path):
    data = sbm(60, 3, p_in=0.3, p_out=0.02, n_features=4, distance=3.0)
    names = [f"node {i}" for i in range(60)]
    pd.DataFrame(data.x.numpy()).set_axis(names).to_csv(tmp_path / "features.csv", index_label="node")
    pairs = np.array(names)[data.edge_index.numpy().T]
    pd.DataFrame(pairs, columns=["source", "target"]).to_csv(tmp_path / "edges.csv", index=False)
    label = pd.Series(np.array(["x", "y", "z"])[data.y.numpy()], names, name="label")
    label[::3] = None
    label.to_csv(tmp_path / "labels.csv", index_label="node")
    return tmp_path, data


def test_labels_and_links_of_ones_own_tables(tables, capsys):
    folder, data = tables
    given = [str(folder / "edges.csv"), "--features", str(folder / "features.csv")]
    out = ["--out", str(folder), "--json", "--device", "cpu"]
    assert main(["train", *given, "--labels", str(folder / "labels.csv"), "--epochs", "100", *out]) == 0
    found = json.loads(capsys.readouterr().out)
    answers = pd.read_csv(found["path"])
    assert len(answers) == 60
    right = answers["label"].to_numpy() == np.array(["x", "y", "z"])[data.y.numpy()]
    assert right[::3].mean() > 0.7
    assert main(["links", *given, "--epochs", "30", "--top", "7", *out]) == 0
    links = pd.read_csv(json.loads(capsys.readouterr().out)["path"])
    known = set(map(tuple, pd.read_csv(folder / "edges.csv").to_numpy()))
    assert len(links) == 7
    assert not any((a, b) in known for a, b in zip(links["source"], links["target"], strict=True))


def test_bad_input_is_one_line_and_exit_code_2(tables, capsys):
    folder, _ = tables
    edges, features, labels = (str(folder / f"{name}.csv") for name in ("edges", "features", "labels"))
    (folder / "strange.csv").write_text("source,target\nnode 1,nobody\n")
    (folder / "empty.csv").write_text("node,a\n")
    (folder / "words.csv").write_text("node,a\nnode 1,one\n")
    (folder / "twice.csv").write_text("node,a\nnode 1,1\nnode 1,2\n")
    for arguments in (
        ["demo", "--no-such-option"],
        ["train", edges, "--features", str(folder / "none.csv"), "--labels", labels],
        ["train", str(folder / "strange.csv"), "--features", features, "--labels", labels],
        ["train", edges, "--features", str(folder / "empty.csv"), "--labels", labels],
        ["train", edges, "--features", str(folder / "words.csv"), "--labels", labels],
        ["train", edges, "--features", str(folder / "twice.csv"), "--labels", labels],
        ["train", edges, "--features", features, "--labels", labels, "--layers", "0"],
        ["links", edges, "--features", features, "--top", "0"],
        ["memory", "--data", "nothing"],
        ["memory", "--depths", "0"],
    ):
        assert main(arguments) == 2, arguments
        assert len(capsys.readouterr().err.splitlines()) == 1, arguments


def test_the_example_of_the_readme_runs_as_pasted(capsys):
    section = README.read_text(encoding="utf-8").partition("## Install and first use")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    exec(compile(code, str(README), "exec"), {})
    said = capsys.readouterr().out
    assert float(re.search(r"accuracy ([\d.]+)", said).group(1)) > 0.8
