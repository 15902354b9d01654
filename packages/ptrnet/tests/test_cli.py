import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

from ptrnet_impl.cli import main

README = Path(__file__).parents[1] / "README.md"

VERBS = [
    ["demo", "--steps", "3"],
    ["reproduce", "delaunay", "--preset", "smoke"],
    ["reproduce", "table1", "--preset", "smoke"],
    ["reproduce", "table2", "--preset", "smoke"],
    ["reproduce", "sort", "--preset", "smoke"],
    ["bench", "training", "--quick"],
    ["bench", "decoding", "--quick"],
    ["bench", "held_karp", "--quick"],
    ["bench", "official", "--quick"],
    ["generate", "--task", "tsp", "--size", "5"],
]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: "-".join(verb[:2]))
def test_every_verb_runs_and_prints_json(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PTRNET_OFFICIAL_DIR", raising=False)
    assert main([*verb, "--device", "cpu", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scores", "defaults"])
def test_the_other_benchmarks_run(name, tmp_path, capsys):
    assert main(["bench", name, "--quick", "--device", "cpu", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("solver")
    with pytest.warns(UserWarning, match="not better"):
        assert main(["train", "--task", "tsp", "--steps", "2", "--hidden", "8", "--out", str(folder)]) == 0
    return folder / "tsp"


def test_points_of_a_file_and_of_standard_input_are_answered(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = "x,y\n" + "\n".join(f"{x},{y}" for x, y in np.random.default_rng(0).random((6, 2)) * 100)
    Path("points.csv").write_text(text)
    command = ["--task", "tsp", "--model", str(model), "--out", "out", "--json"]
    assert main(["solve", "points.csv", *command]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sorted(found["answer"]) == sorted(found["exact"]) == list(range(6))
    assert found["length"] >= found["best"] > 100
    assert Path(found["plot"]).is_file()
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert main(["solve", "-", *command]) == 0
    assert json.loads(capsys.readouterr().out) == found


def test_without_a_solver_one_is_trained_first(tmp_path, monkeypatch, capsys):
    from ptrnet_impl.solver import PointerSolver

    asked = []

    def quick(self, *data, **options):
        asked.append(self.steps)
        self.steps, self.hidden = 2, 8
        with pytest.warns(UserWarning, match="not better"):
            return fit(self, *data, **options)

    fit = PointerSolver.fit
    monkeypatch.setattr(PointerSolver, "fit", quick)
    monkeypatch.chdir(tmp_path)
    Path("points.csv").write_text("0 0\n1 0\n0.4 0.9\n")
    for _ in range(2):
        assert main(["solve", "points.csv", "--task", "tsp", "--out", "out"]) == 0
    assert len(asked) == 1
    assert "training one" in capsys.readouterr().out


def test_what_is_generated_can_be_trained_on(tmp_path, capsys):
    assert main(["generate", "--task", "tsp", "--n", "5", "--size", "20", "--out", str(tmp_path)]) == 0
    file = str(tmp_path / "tsp_5.txt")
    with pytest.warns(UserWarning, match="not better"):
        assert main(["train", "--task", "tsp", "--file", file, "--steps", "2", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "tsp" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--no-such-option"], "no-such-option"),
        (["demo", "--steps", "0"], "--steps must be at least 1, got 0"),
        (["solve"], "file"),
        (["solve", "none.csv"], "none.csv"),
        (["solve", "bad.csv"], "line 2"),
        (["solve", "two.csv"], "at least 3, got 2"),
        (["solve", "line.csv"], "must not all lie on one line"),
        (["solve", "good.csv", "--model", "nowhere"], "nowhere"),
        (["solve", "broken.tsp", "--task", "tsp"], "must be of TYPE TSP"),
        (["solve", "."], "cannot read"),
        (["train", "--n", "2", "5"], "n must be at least 3 for hull"),
        (["train", "--file", "zero.txt"], "indices are from 1, got 0"),
        (["train", "--file", "none.txt"], "none.txt"),
        (["train", "--minutes", "0"], "--minutes must be positive"),
        (["generate", "--n", "1"], "n must be at least 3 for hull, got 1"),
        (["generate", "--size", "0"], "size must be at least 1, got 0"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("bad.csv").write_text("1,2\n3,x\n")
    Path("two.csv").write_text("1,2\n3,4\n")
    Path("line.csv").write_text("1,1\n2,2\n3,3\n")
    Path("good.csv").write_text("1,1\n2,2\n3,1\n")
    Path("broken.tsp").write_text("TYPE: CVRP\n")
    Path("zero.txt").write_text("0 0 1 0 1 1 output 0 1 2 0\n")
    assert main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_solver_of_another_task_is_refused(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("points.csv").write_text("1,1\n2,2\n3,1\n")
    assert main(["solve", "points.csv", "--model", str(model)]) == 2
    assert "is a solver of tsp, not of hull" in capsys.readouterr().err


def test_the_example_of_the_readme_runs_as_pasted(capsys):
    section = README.read_text(encoding="utf-8").partition("## Install and first use")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    exec(compile(code, str(README), "exec"), {})
    order, exact, same = capsys.readouterr().out.splitlines()
    assert order == "[1 2 0]"
    assert exact == "[0 2 1 3] [0 2 1 3]"
    assert same.endswith("True")
