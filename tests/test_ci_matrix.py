import json

import ci_matrix
import pytest


@pytest.fixture
def three(repository):
    for slug in ("alpha", "beta", "gamma"):
        repository.add_package(slug)
    repository.commit(README__md="x", pyproject="x")
    return repository


def run(repository, capsys, *arguments):
    assert ci_matrix.main(["--root", str(repository.root), *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_only_the_touched_packages_are_listed(three, capsys):
    base = three.commit()
    three.commit(packages__beta__src__beta_impl__x="1")
    three.commit(packages__alpha__README="1")
    assert run(three, capsys, "--base", base) == ["alpha", "beta"]
    assert run(three, capsys, "--base", "HEAD~1") == ["alpha"]


@pytest.mark.parametrize(
    "name", ["shared/src/shared_impl/cli.py", "pyproject.toml", "scripts/isolated.py", ".github/workflows/ci.yml"]
)
def test_a_change_of_what_is_shared_lists_every_package(three, capsys, name):
    base = three.commit()
    three.write(name, "x")
    three.commit(packages__beta__x="1")
    assert run(three, capsys, "--base", base) == ["alpha", "beta", "gamma"]


def test_what_no_package_uses_lists_nothing(three, capsys):
    base = three.commit()
    for name in ("README.md", "CONTRIBUTING.md", "scripts/catalog.py", "shared/tests/test_cli.py", "tests/test_x.py"):
        three.write(name, "more")
    three.commit()
    assert run(three, capsys, "--base", base) == []


def test_a_package_that_was_removed_is_not_listed(three, capsys):
    base = three.commit()
    three.git("rm", "-r", "--quiet", "packages/beta")
    three.commit()
    assert run(three, capsys, "--base", base) == []


def test_what_others_did_to_the_base_meanwhile_does_not_count(three, capsys):
    three.git("switch", "--quiet", "--create", "work")
    three.commit(packages__alpha__x="1")
    three.git("switch", "--quiet", "main")
    three.commit(packages__gamma__x="1")
    three.git("switch", "--quiet", "work")
    assert run(three, capsys, "--base", "main") == ["alpha"]


@pytest.mark.parametrize("base", ["HEAD~9", "0000000000000000000000000000000000000000", "no-such-branch"])
def test_without_a_base_to_compare_with_every_package_is_listed(three, capsys, base):
    assert run(three, capsys, "--base", base) == ["alpha", "beta", "gamma"]


def test_outside_of_git_every_package_is_listed(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "packages" / "alpha").mkdir(parents=True)
    (tmp_path / "packages" / "alpha" / "pyproject.toml").write_text("")
    assert ci_matrix.main(["--root", str(tmp_path), "--base", "HEAD~1"]) == 0
    assert json.loads(capsys.readouterr().out) == ["alpha"]


def test_a_few_are_the_touched_ones_first(three, capsys):
    base = three.commit()
    three.commit(packages__gamma__x="1", shared__x="1")
    chosen = run(three, capsys, "--base", base, "--few", "2")
    assert len(chosen) == 2
    assert chosen[0] == "gamma"


@pytest.mark.parametrize("few", [1, 2])
def test_a_few_without_a_base_take_turns(three, capsys, few):
    seen = []
    for number in range(3):
        three.commit(notes=str(number))
        seen += run(three, capsys, "--base", "no-such-branch", "--few", str(few))
    assert sorted(seen) == sorted(["alpha", "beta", "gamma"] * few)


def test_many_packages_are_grouped_into_few_jobs():
    chosen = [f"p{i}" for i in range(200)]
    groups = ci_matrix.grouped(chosen, 80)
    assert len(groups) <= 80
    assert " ".join(groups).split() == chosen
    assert ci_matrix.grouped(["a", "b"], 80) == ["a", "b"]
    assert ci_matrix.grouped([], 80) == []
