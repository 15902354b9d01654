import os
import shutil
import subprocess
import sys
import tomllib
from argparse import Namespace
from pathlib import Path

import catalog
import new_package
import pytest
import workspace

from shared_impl.cli import parse_card

SHARED_SOURCE = workspace.folder(workspace.SHARED) / "src"

CARD = Namespace(
    title='A "Title" with \\ and {braces} and $cash',
    author=["Ana Åsa", "B. O'Neil"],
    year=2020,
    venue="Somewhere",
    arxiv="2001.00001",
    official_code="owner/name@0123abc",
    family="graphs",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return new_package.write(tmp_path_factory.mktemp("workspace"), "two-words", CARD)


def test_the_card_says_what_was_given(made):
    card = parse_card((made / "pyproject.toml").read_text(encoding="utf-8"))
    assert (card.slug, card.title, card.authors, card.year) == ("two-words", CARD.title, CARD.author, 2020)
    assert (card.arxiv, card.venue, card.official_code) == ("2001.00001", "Somewhere", "owner/name@0123abc")


def test_its_metadata_has_the_form_of_the_packages_that_are_there(made):
    new = tomllib.loads((made / "pyproject.toml").read_text(encoding="utf-8"))
    for slug in workspace.slugs():
        other = workspace.project(slug)
        assert new["build-system"] == other["build-system"]
        assert new["tool"]["uv"] == other["tool"]["uv"]
        assert new["project"].keys() <= other["project"].keys()
        theirs = {line.partition(">=")[0]: line for line in other["project"]["dependencies"]}
        ours = {line.partition(">=")[0]: line for line in new["project"]["dependencies"]}
        assert {name: line for name, line in ours.items() if theirs.get(name, line) != line} == {}


def test_its_tests_pass_but_for_its_one_claim(made):
    (claim,) = tomllib.loads((made / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["impl"]["claims"]
    assert catalog.verified(claim, made)
    done = run_its_tests(made)
    assert done.returncode == 1, done.stdout + done.stderr
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    assert [line.split()[1] for line in failed] == [claim["test"]], done.stdout
    assert "state and test the claims of the paper" in done.stdout


def run_its_tests(folder: Path) -> subprocess.CompletedProcess:
    # the sources as they stand; installing the package is what scripts/isolated.py tests
    code = f"""
import importlib.metadata, sys
sys.path.insert(0, "src")
real = importlib.metadata.version
importlib.metadata.version = lambda name: "0.1.0" if name == "{workspace.distribution(folder.name)}" else real(name)
import pytest
sys.exit(pytest.main(["--import-mode=importlib", "-q", "-ra", "-W", "error", "-p", "no:cacheprovider", "tests"]))
"""
    command = [sys.executable, "-c", code]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "HYPOTHESIS_STORAGE_DIRECTORY": str(folder.parent / "hypothesis"),
    }
    # of the pytest that runs this
    for name in [name for name in environment if name.startswith("PYTEST_")]:
        del environment[name]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


def test_it_is_formatted_and_clean(made):
    ruff = shutil.which("ruff", path=os.path.dirname(sys.executable))
    if not ruff:
        pytest.skip("ruff is not installed")
    settings = [
        "--config",
        str(workspace.ROOT / "pyproject.toml"),
        "--config",
        f"src = ['{made}/src', '{SHARED_SOURCE}']",
        "--no-cache",
    ]
    for verb in (["check"], ["format", "--check"]):
        done = subprocess.run([ruff, *verb, *settings, made], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("slug", ["Upper", "under_score", "-dash", "dash-", "a--b", "1st", "shared", "root", "a/b", ""])
def test_a_slug_that_is_no_good_is_refused(tmp_path, slug):
    with pytest.raises(ValueError, match="slug must be"):
        new_package.write(tmp_path, slug, CARD)


def test_a_package_that_is_there_is_not_overwritten(made):
    with pytest.raises(ValueError, match="is there already"):
        new_package.write(made.parents[1], "two-words", CARD)


def test_a_wrong_arxiv_number_is_one_line_and_exit_code_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        new_package.main(["x", "--title", "X", "--arxiv", "https://arxiv.org/abs/2001.00001", "--family", "theory"])
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
