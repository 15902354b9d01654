"""scripts/demo and scripts/test, without what they install."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import run_tests
import workspace

SCRIPTS = workspace.ROOT / "scripts"


def run(*command: str | Path, **options) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, **options)


@pytest.mark.parametrize("script", ["demo", "test"])
def test_an_unknown_package_is_one_line_that_lists_the_known_ones(script, tmp_path):
    done = run(SCRIPTS / script, "no-such-package", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"scripts/{script}: unknown package 'no-such-package'; known: ")
    assert all(slug in line for slug in workspace.slugs())


@pytest.mark.parametrize("script", ["demo", "test"])
def test_help_lists_the_packages(script):
    done = run(SCRIPTS / script, "--help")
    assert done.returncode == 0
    assert all(slug in done.stdout for slug in workspace.slugs())


def test_they_work_in_a_folder_with_spaces_and_through_its_name_alone(tmp_path):
    home = tmp_path / "a folder with spaces" / "scripts"
    shutil.copytree(SCRIPTS, home, ignore=shutil.ignore_patterns("__pycache__"))
    done = run("sh", "./demo", "no-such-package", cwd=home)
    assert done.returncode == 2
    assert done.stderr.startswith("scripts/demo: unknown package")


def test_without_a_python_that_is_new_enough_it_says_so(tmp_path):
    home = tmp_path / "scripts"
    shutil.copytree(SCRIPTS, home, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("sh", "dirname"):
        os.symlink(shutil.which(name), tmp_path / name)
    done = run("/bin/sh", home / "demo", env={"PATH": str(tmp_path)})
    assert done.returncode == 2
    assert done.stderr == "no Python 3.11 or newer is on PATH\n"


def test_suites_come_first_and_options_after_them():
    assert run_tests.split(["s4", "gla", "-x", "s5"]) == (["s4", "gla"], ["-x", "s5"])
    assert run_tests.split(["s4", "--", "-k", "a"]) == (["s4"], ["-k", "a"])
    assert run_tests.split(["-k", "a"]) == ([], ["-k", "a"])
    assert run_tests.split([]) == ([], [])


def outcome(code: int) -> run_tests.Outcome:
    return run_tests.Outcome("s4", code, 3, 1, 2, 0.0, "")


def test_a_suite_without_tests_fails_unless_the_options_chose_some():
    assert not run_tests.good(outcome(run_tests.NOTHING_COLLECTED), narrowed=False)
    assert run_tests.good(outcome(run_tests.NOTHING_COLLECTED), narrowed=True)
    assert not run_tests.good(outcome(1), narrowed=True)
    assert run_tests.good(outcome(0), narrowed=False)


def test_the_closing_line_sums_the_suites():
    assert run_tests.closing_line([outcome(0), outcome(1)]) == "6 passed, 2 failed, 4 skipped"


def test_a_process_that_dies_counts_as_a_failure(tmp_path):
    assert run_tests.count(tmp_path / "nothing.xml", -11) == (0, 1, 0)
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite errors="1" failures="2" skipped="3" tests="10"/></testsuites>', encoding="utf-8"
    )
    assert run_tests.count(report, 1) == (4, 3, 3)


@pytest.fixture
def pip_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("PIP_", "UV_")) or name == "SSL_CERT_FILE"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return monkeypatch


def test_what_pip_is_configured_with_reaches_uv(pip_environment, tmp_path):
    config = tmp_path / "pip.conf"
    config.write_text(
        f"[global]\nfind-links = {tmp_path}/one\n    {tmp_path}/two\nextra-index-url = https://example.org/simple\n"
        "[install]\nindex-url = https://example.com/simple\n"
    )
    pip_environment.setenv("PIP_CONFIG_FILE", str(config))
    pip_environment.setenv("PIP_CERT", "cert.pem")
    given = workspace.uv_environment()
    assert given["UV_FIND_LINKS"] == f"{tmp_path}/one,{tmp_path}/two"
    assert given["UV_DEFAULT_INDEX"] == "https://example.com/simple"
    assert given["UV_INDEX"] == "https://example.org/simple"
    assert given["SSL_CERT_FILE"] == "cert.pem"
    assert "UV_INDEX_STRATEGY" not in given


def test_several_indexes_are_searched_for_the_best_version_only_where_all_are_folders(pip_environment):
    pip_environment.setenv("PIP_EXTRA_INDEX_URL", "file:///one file:///two")
    assert workspace.uv_environment()["UV_INDEX_STRATEGY"] == "unsafe-best-match"
    pip_environment.setenv("PIP_INDEX_URL", "https://example.com/simple")
    assert "UV_INDEX_STRATEGY" not in workspace.uv_environment()


def test_pip_s_environment_comes_before_its_files_and_uv_s_own_before_both(pip_environment, tmp_path):
    config = tmp_path / "pip.conf"
    config.write_text("[global]\nfind-links = from-file\n")
    pip_environment.setenv("PIP_CONFIG_FILE", str(config))
    pip_environment.setenv("PIP_FIND_LINKS", "from-environment")
    assert workspace.uv_environment()["UV_FIND_LINKS"] == "from-environment"
    pip_environment.setenv("UV_FIND_LINKS", "from-uv")
    assert workspace.uv_environment()["UV_FIND_LINKS"] == "from-uv"


def test_without_pip_settings_uv_is_left_alone(pip_environment):
    given = workspace.uv_environment()
    assert not [name for name in given if name.startswith("UV_")]


@pytest.fixture
def installs(monkeypatch, tmp_path):
    """What would be installed, without installing it."""
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "python").touch()
    calls: list[list[str]] = []
    monkeypatch.setattr(workspace, "TOOLS", tmp_path / "tools")
    monkeypatch.setattr(workspace, "VENV", tmp_path / "venv")
    monkeypatch.setattr(workspace, "venv_program", lambda name, venv=None: tmp_path / "venv" / name)
    monkeypatch.setattr(workspace, "_install", lambda names: calls.append(list(names)))
    return calls


def test_only_what_is_not_up_to_date_is_installed(installs, monkeypatch):
    first = workspace.slugs()[0]
    workspace.ensure([first])
    assert installs == [["shared", first]]
    workspace.ensure([first])
    assert len(installs) == 1
    workspace.ensure([first], dev=True)
    assert installs[1:] == [["dev"]]
    workspace.ensure(workspace.slugs())
    workspace.ensure([first])
    assert installs[2:] == [[slug for slug in workspace.slugs() if slug != first]] or len(workspace.slugs()) == 1


def test_a_new_dependency_is_installed_and_a_new_claim_is_not(installs, monkeypatch):
    first = workspace.slugs()[0]
    workspace.ensure([first])
    real = workspace.project

    def with_claim(slug, root=workspace.ROOT):
        table = real(slug, root)
        table.setdefault("tool", {}).setdefault("impl", {})["claims"] = []
        return table

    monkeypatch.setattr(workspace, "project", with_claim)
    workspace.ensure([first])
    assert len(installs) == 1

    def with_dependency(slug, root=workspace.ROOT):
        table = real(slug, root)
        table["project"]["dependencies"] = [*table["project"]["dependencies"], "more>=1"]
        return table

    monkeypatch.setattr(workspace, "project", with_dependency)
    workspace.ensure([first])
    assert installs[1:] == [["shared", first]]
