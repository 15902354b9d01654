"""Where things are, and that nothing is where it does not belong."""

import re
from pathlib import Path

import pytest
import workspace

ROOT = workspace.ROOT
TOP = {
    "pyproject.toml", "README.md", "CONTRIBUTING.md", "LICENSE", ".gitignore", ".python-version",
    "packages", "shared", "tests", "scripts", ".github", ".ci",
}  # fmt: skip
NAMES_THAT_HOLD_ANYTHING = {"utils.py", "util.py", "helpers.py", "helper.py", "base.py", "common.py", "misc.py"}
BINARY = {".png", ".npz", ".npy", ".safetensors"}

# written so that this file does not match itself
MACHINE_PATH = re.compile(r"(?<![\w.:/~-])/(?:work|tmp|home|root|Users|mnt|scratch)" + r"/[\w.]")
REGISTRY = re.compile(
    "|".join([r"pypi" r"\.org", r"python" r"hosted\.org", r"download\.py" r"torch\.org", r"anaconda" r"\.org"])
)


def test_nothing_loose_lies_at_the_top(tracked):
    assert {path.parts[0] for path in tracked} <= TOP


def test_every_package_has_its_files(package, folder):
    name = workspace.import_name(package)
    expected = [
        "pyproject.toml",
        "README.md",
        "CHANGELOG.md",
        f"src/{name}/__init__.py",
        f"src/{name}/py.typed",
        f"src/{name}/cli.py",
        f"src/{name}/experiments.py",
        f"src/{name}/benchmarks.py",
        "tests/conftest.py",
        "tests/test_claims.py",
        "tests/test_cli.py",
        "results",
    ]
    assert [path for path in expected if not (folder / path).exists()] == []


def test_a_package_holds_nothing_else(package, tracked):
    inside = [path.relative_to(f"packages/{package}") for path in tracked if path.parts[:2] == ("packages", package)]
    assert {path.parts[0] for path in inside} <= {
        "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "src", "tests", "results",
    }  # fmt: skip
    sources = {path.parts[1] for path in inside if path.parts[0] == "src"}
    assert sources == {workspace.import_name(package)}


def test_results_are_records_and_plots(package, folder):
    allowed = {".json", ".png"}
    strange = [f.name for f in (folder / "results").iterdir() if f.suffix not in allowed and f.name != ".gitkeep"]
    assert strange == []


def test_tests_of_a_package_are_no_package(package, folder):
    # importlib mode keeps files of the same name apart only without it
    assert not list((folder / "tests").rglob("__init__.py"))


def test_shape_checks_are_on_in_the_tests_of_every_package(package, folder):
    text = (folder / "tests" / "conftest.py").read_text(encoding="utf-8")
    assert f'check_shapes("{workspace.import_name(package)}")' in text


def test_the_shared_package_is_typed():
    assert (workspace.folder(workspace.SHARED) / "src" / "shared_impl" / "py.typed").exists()


def test_no_module_has_a_name_that_could_hold_anything(tracked):
    assert [path for path in tracked if path.name in NAMES_THAT_HOLD_ANYTHING] == []


def test_no_file_names_a_path_of_one_machine_or_a_registry_host(tracked):
    found = []
    for path in tracked:
        if path.suffix in BINARY:
            continue
        for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1):
            if MACHINE_PATH.search(line) or REGISTRY.search(line):
                found.append(f"{path}:{number}: {line.strip()[:100]}")
    assert found == []


@pytest.mark.parametrize(
    "line", ["out = '/" + "tmp/x'", "see /" + "home/somebody/code", "https://py" + "pi.org/simple"]
)
def test_the_search_for_such_paths_and_hosts_finds_them(line):
    assert MACHINE_PATH.search(line) or REGISTRY.search(line)


@pytest.mark.parametrize("line", ["packages/home/x", "https://example.org/home/x", "a/tmp/b", "~/work/x"])
def test_relative_paths_and_addresses_are_let_through(line):
    assert not MACHINE_PATH.search(line)


def test_what_is_run_directly_is_executable():
    programs = ["scripts/demo", "scripts/test", "scripts/python", ".ci/run"]
    programs += [
        f"scripts/{path.name}" for path in Path(ROOT / "scripts").glob("*.py") if path.read_bytes()[:2] == b"#!"
    ]
    assert [name for name in programs if not (ROOT / name).stat().st_mode & 0o100] == []
