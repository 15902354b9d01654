import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import tyro

from shared_impl import cli
from shared_impl.cli import Options, UserError

CARD = """
[project]
name = "toy-impl"
version = "1.2.3"
[tool.impl]
title = "A Toy"
authors = ["A. Nobody"]
year = 2024
venue = "Nowhere"
arxiv = "0000.00000"
official_code = "nobody/toy@0000000"
gives = "a toy"
headline = "it runs"
[[tool.impl.claims]]
id = "1"
text = "it runs"
kind = "exact"
test = "tests/test_claims.py::test_it_runs"
[[tool.impl.claims]]
id = "2"
text = "it flies"
kind = "reproduction"
status = "not run"
reason = "no wings"
[[tool.impl.claims]]
id = "3"
text = "it is fast"
kind = "reproduction"
record = "results/race-cpu.json"
status = "not confirmed"
reason = "it came last"
"""


@dataclass(frozen=True)
class Work(Options):
    """Do something."""

    how: tyro.conf.Positional[Literal["well", "badly", "never", "slowly", "piped"]] = "well"
    times: int = 1

    def run(self):
        if self.how == "badly":
            raise UserError("times must be\nsmall")
        if self.how == "never":
            raise RuntimeError("the run broke")
        if self.how == "slowly":
            raise KeyboardInterrupt
        if self.how == "piped":
            raise FileNotFoundError(2, "No such file or directory", "data.csv")
        self.console().print("working")
        return {"times": self.times, "nan": float("nan"), "path": Path("a")}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    package = tmp_path / "src" / "toy_impl"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (tmp_path / "pyproject.toml").write_text(CARD)
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    yield "toy_impl"
    sys.modules.pop("toy_impl", None)


def run(*argv):
    return cli.run("toy_impl", {"work": Work}, list(argv))


def test_a_command_runs_and_exits_with_0(capsys):
    assert run("work", "well", "--times", "3") == 0
    assert capsys.readouterr().out == "working\n"


def test_json_prints_only_json_on_stdout(capsys):
    assert run("work", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"times": 1, "nan": None, "path": "a"}
    assert err == "working\n"


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (["work", "--tims", "3"], 2, "--tims"),
        (["work", "--tims", "3"], 2, "perhaps --times"),
        (["work", "--times", "three"], 2, "three"),
        (["work", "wrong"], 2, "wrong"),
        (["wrok"], 2, "wrok"),
        (["work", "badly"], 2, "times must be small"),
        (["work", "piped"], 2, "no such file: data.csv"),
        (["work", "never"], 1, "RuntimeError: the run broke"),
        (["work", "slowly"], 130, "interrupted"),
        (["work", "--seed", "-1"], 2, "--seed must not be negative, got -1"),
        (["work", "--out", __file__], 2, "cannot create the folder"),
        (["work", "--out", f"{__file__}/below"], 2, "cannot create the folder"),
    ],
)
def test_whatever_goes_wrong_is_one_line_on_stderr(argv, code, says, capsys):
    assert run(*argv) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("toy-impl: ")
    assert says in err


def test_a_traceback_only_when_asked_for(capsys, monkeypatch):
    monkeypatch.setenv("IMPL_DEBUG", "1")
    assert run("work", "never") == 1
    assert "Traceback" in capsys.readouterr().err


def test_help_goes_to_stdout_and_exits_with_0(capsys):
    for argv in (["--help"], []):
        assert run(*argv) == 0
        out, err = capsys.readouterr()
        assert "work" in out
        assert "info" in out
        assert err == ""


def test_info_shows_the_card(toy, capsys):
    assert run("info") == 0
    out = capsys.readouterr().out
    assert "A Toy" in out
    assert "test_it_runs" in out
    assert "no wings" in out
    assert "it came last" in out
    assert run("info", "--json") == 0
    claims = json.loads(capsys.readouterr().out)["claims"]
    assert claims[1]["reason"] == "no wings"
    assert claims[2]["status"] == "not confirmed"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('title = "A Toy"', "", "title"),
        ('title = "A Toy"', 'title = "A Toy"\ncolour = "red"', "colour"),
        ('id = "2"', 'id = "1"', "must differ"),
        ('kind = "exact"', 'kind = "sure"', "kind must be"),
        ('reason = "no wings"', "", "claim 2: status 'not run' needs a reason"),
        ('status = "not run"', 'status = "dropped"', "must be 'not run' or 'not confirmed', got 'dropped'"),
        ('record = "results/race-cpu.json"', "", "claim 3 needs a test, a record"),
        ('test = "tests/test_claims.py::test_it_runs"', "", "claim 1 needs a test, a record"),
    ],
)
def test_a_card_that_lacks_something_is_refused(old, new, says):
    with pytest.raises(ValueError, match=says):
        cli.parse_card(CARD.replace(old, new))


def test_a_package_without_a_card_says_so():
    with pytest.raises(FileNotFoundError, match="shared_impl carries no card"):
        cli.load_card("shared_impl")


def test_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Work().out_dir("toy") == Path("runs/toy")
    assert Path("runs/toy").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot create"):
        Work(out=tmp_path / "file").out_dir("toy")


def test_cuda_is_refused_where_there_is_none(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Work(device="auto").torch_device() == torch.device("cpu")
    with pytest.raises(UserError, match="no CUDA device"):
        Work(device="cuda").torch_device()


def test_seeding_makes_every_generator_repeat():
    import random

    import numpy as np
    import torch

    def draw():
        Work(seed=7).seed_everything()
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    assert draw() == draw()


def test_the_command_line_needs_no_torch():
    code = "import sys, shared_impl.cli, shared_impl.results; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_folder_that_cannot_be_written_is_found_before_the_work(capsys, monkeypatch, tmp_path):
    def full(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    assert run("work", "never", "--out", str(tmp_path)) == 2
    assert capsys.readouterr().err == f"toy-impl: --out {tmp_path}: cannot write there: Read-only file system\n"


COMMAND = """
import sys
from dataclasses import dataclass
from shared_impl.cli import Options, run
@dataclass(frozen=True)
class Work(Options):
    'Do something — “well”, α to ω.'
    def run(self):
        self.console().print('α → ω ─ ✓')
sys.exit(run('toy_impl', {'work': Work}))
"""


@pytest.mark.parametrize("encoding", ["cp932", "gbk", "cp437", "cp850", "ascii"])
@pytest.mark.parametrize("arguments", [["--help"], ["work", "--help"], ["work"], ["work", "--wrong"]])
def test_terminals_of_other_encodings_show_what_they_can(encoding, arguments):
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments],
        env=os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"},
        capture_output=True,
        check=False,
    )
    said = done.stderr.decode(encoding)
    assert done.returncode == (2 if "--wrong" in arguments else 0), said
    assert len(said.splitlines()) == (1 if "--wrong" in arguments else 0)


def test_a_reader_that_goes_away_is_no_failure():
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 0
    process.stderr.close()


def test_refusals_are_bad_input_and_faults_are_not(tmp_path, monkeypatch):
    (tmp_path / "toyish_impl.py").write_text(
        "import numpy as np\n"
        "def refuse(): raise ValueError('k must be positive')\n"
        "def inner():\n"
        "    try: np.ones(2) + np.ones(3)\n"
        "    except ValueError as error: raise ValueError('sizes differ') from error\n"
        "def fault(): return np.ones(2) + np.ones(3)\n"
        "def number(): return int('x')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import toyish_impl

    with pytest.raises(UserError, match="--k: k must be positive"), cli.bad_input("--k"):
        toyish_impl.refuse()
    with pytest.raises(UserError, match=r"^sizes differ"), cli.bad_input():
        toyish_impl.inner()
    for fault in (toyish_impl.fault, toyish_impl.number):
        with pytest.raises(ValueError), cli.bad_input():  # noqa: PT011  whatever numpy says
            fault()
    with pytest.raises(ValueError, match="mine"), cli.bad_input():
        raise ValueError("mine")


def test_a_warning_is_a_line_with_the_command_s_name_and_no_place_in_the_source():
    code = """
import sys, types, warnings
from dataclasses import dataclass
from shared_impl import cli
@dataclass(frozen=True)
class Warn(cli.Options):
    def run(self):
        warnings.warn("no better than chance")
        warnings.warn("old", DeprecationWarning)
sys.exit(cli._run("toy-impl", {"warn": Warn}, ["warn"]))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "toy-impl: warning: no better than chance\n"
