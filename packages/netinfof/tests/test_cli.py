import json
import re
from pathlib import Path

import pandas as pd
import pytest

from netinfof_impl.cli import BENCHMARKS, EXPERIMENTS, main
from netinfof_impl.files import read_graph

README = Path(__file__).parents[1] / "README.md"


def run(arguments, capsys, code=0):
    assert main([*arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    command = ["synthetic", "--features", "global", "--nodes", "120", "--columns", "24", "--out", str(folder), "--json"]
    assert main(command) == 0
    return folder


def test_the_demo_shows_what_the_paper_is_about(tmp_path, capsys):
    found = run(["demo", "--out", str(tmp_path)], capsys)
    assert found["P"]["adjusted"] > found["P"]["plain"]
    assert (tmp_path / "demo.png").is_file()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_runs(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["reproduce", name, "--preset", "smoke", "--out", str(tmp_path)], capsys)
    assert (tmp_path / f"{name}-smoke.json").is_file()


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name != "official"])
def test_every_benchmark_runs(name, tmp_path, capsys):
    assert run(["bench", name, "--quick", "--out", str(tmp_path)], capsys)


def test_the_official_benchmark_says_what_it_needs(monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("NETINFOF_OFFICIAL_DIR", raising=False)
    assert main(["bench", "official", "--out", str(tmp_path)]) == 2
    assert "NETINFOF_OFFICIAL_DIR" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["link", "node"])
def test_a_graph_in_tables_is_probed(task, tables, tmp_path, capsys):
    command = [
        "probe",
        str(tables / "edges.csv"),
        "--features",
        str(tables / "features.csv"),
        "--labels",
        str(tables / "labels.csv"),
    ]
    found = run([*command, "--task", task, "--permutations", "99", "--out", str(tmp_path)], capsys)
    assert set(found["components"]) == set("URFPS")
    assert "tells most" in found["verdict"]
    assert (tmp_path / "probe.png").is_file()


@pytest.fixture
def one_penalty(monkeypatch):
    monkeypatch.setattr("netinfof_impl.act.PAPER_GRID", ((1e-4, 1e-4),))


def test_new_links_are_written(tables, tmp_path, capsys, one_penalty):
    found = run(
        [
            "act",
            str(tables / "edges.csv"),
            "--features",
            str(tables / "features.csv"),
            "--top",
            "7",
            "--out",
            str(tmp_path),
        ],
        capsys,
    )
    made = pd.read_csv(found["path"])
    known = {tuple(sorted(e)) for e in pd.read_csv(tables / "edges.csv").to_numpy().tolist()}
    assert len(made) == 7
    assert not known & {tuple(sorted(e)) for e in made[["source", "target"]].to_numpy().tolist()}
    assert made.score.is_monotonic_decreasing


def test_labels_are_filled_in(tables, tmp_path, capsys, one_penalty):
    labels = pd.read_csv(tables / "labels.csv")
    labels["label"] = labels.label.map({0: "a", 1: "b", 2: "c", 3: "d"})
    labels[labels.node % 3 != 0].to_csv(tmp_path / "labels.csv", index=False)
    command = ["act", str(tables / "edges.csv"), "--features", str(tables / "features.csv"), "--task", "node"]
    found = run([*command, "--labels", str(tmp_path / "labels.csv"), "--out", str(tmp_path)], capsys)
    made = pd.read_csv(found["path"]).set_index("node").loc[labels.node]
    assert (made.label.to_numpy() == labels.label.to_numpy())[made.given.to_numpy()].all()
    assert (made.label.to_numpy() == labels.label.to_numpy())[~made.given.to_numpy()].mean() > 0.7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source,target\n", "no rows"),
        ("source\na\nb\n", "two columns"),
        ("source,target\na,\n", "a node is missing"),
        ("source,target\na,a\n", "at least 2 nodes"),
        ("source,target\na,b\n", "too few"),
        ("", "no table"),
    ],
)
def test_bad_tables_are_one_line_and_exit_code_2(text, message, tmp_path, capsys):
    path = tmp_path / "edges.csv"
    path.write_text(text)
    assert main(["probe", str(path), "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_names_are_read_as_they_are_written(tmp_path):
    (tmp_path / "e.csv").write_text("source,target\n001, NA\nNA,003\n003,001\n")
    (tmp_path / "f.csv").write_text("node,a\n001,1\nNA,2\n003,3\nx,4\n")
    (tmp_path / "l.csv").write_text("node,label\n001,1\nNA,\n003,2\n")
    data, nodes, classes = read_graph(tmp_path / "e.csv", tmp_path / "f.csv", tmp_path / "l.csv")
    assert nodes == ["001", "003", "NA", "x"]
    assert classes == ["1", "2"]
    assert data.x[:, 0].tolist() == [1, 3, 2, 4]
    assert data.y.tolist() == [0, 1, -1, -1]


def test_a_table_without_a_header_is_refused(tmp_path, capsys):
    (tmp_path / "e.csv").write_text("a,b\nb,c\nc,a\na,d\n")
    assert main(["probe", str(tmp_path / "e.csv"), "--out", str(tmp_path)]) == 2
    assert "no header" in capsys.readouterr().err


def test_answers_with_nowhere_to_go_and_little_skill_are_one_line(tables, tmp_path, capsys, one_penalty):
    edges = str(tables / "edges.csv")
    assert main(["act", edges, "--output", str(tmp_path / "none" / "x.csv"), "--out", str(tmp_path)]) == 2
    assert "there is no folder" in capsys.readouterr().err
    random = pd.DataFrame({"node": range(120), "label": [i * i % 7 % 2 for i in range(120)]})
    random.to_csv(tmp_path / "l.csv", index=False)
    command = ["act", edges, "--labels", str(tmp_path / "l.csv"), "--task", "node", "--out", str(tmp_path)]
    assert main(command) == 0
    assert "UserWarning" not in capsys.readouterr().err


def test_features_that_are_no_numbers_and_missing_files(tables, tmp_path, capsys):
    (tmp_path / "f.csv").write_text("node,a\n0,red\n")
    assert (
        main(["probe", str(tables / "edges.csv"), "--features", str(tmp_path / "f.csv"), "--out", str(tmp_path)]) == 2
    )
    assert "column a: features must be numbers, got 'red'" in capsys.readouterr().err
    assert main(["probe", str(tmp_path / "none.csv"), "--out", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert main(["probe", str(tables / "edges.csv"), "--task", "node", "--out", str(tmp_path)]) == 2
    assert "needs --labels" in capsys.readouterr().err


def test_a_wrong_option_is_one_line_and_exit_code_2(capsys):
    assert main(["demo", "--no-such-option"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_example_of_the_readme_runs_as_pasted(capsys):
    section = README.read_text(encoding="utf-8").partition("## Install and first use")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    exec(compile(code, str(README), "exec"), {})
    assert "tells most" in capsys.readouterr().out
