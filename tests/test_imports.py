"""What the sources import and call, found by reading them: nothing here runs a package."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import workspace

UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def sources(slug: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((workspace.folder(slug) / "src").rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of the modules that are imported anywhere in a file, those for type checkers included."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def providers() -> dict[str, set[str]]:
    return {module: {normal(name) for name in names} for module, names in packages_distributions().items()}


def provided_by(module: str) -> set[str]:
    return providers().get(module) or {normal(module)}


def declared(requirements: list[str]) -> set[str]:
    return {normal(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements}


def with_extras(slug: str) -> list[str]:
    project = workspace.project(slug)["project"]
    extras = project.get("optional-dependencies", {}).values()
    return [*project["dependencies"], *(requirement for extra in extras for requirement in extra)]


def third_party(slug: str) -> set[str]:
    modules = set().union(*(imported(tree) for _, tree in sources(slug)))
    return modules - set(sys.stdlib_module_names) - {workspace.import_name(slug)}


def test_no_package_imports_another(package):
    siblings = {workspace.import_name(slug) for slug in workspace.slugs()} - {workspace.import_name(package)}
    found = {str(path): names for path, tree in sources(package) if (names := imported(tree) & siblings)}
    assert found == {}


def test_no_package_depends_on_another(package):
    requirements = with_extras(package)
    siblings = {workspace.distribution(slug) for slug in workspace.slugs()}
    assert declared(requirements) & siblings == set()


def test_the_shared_package_imports_no_paper():
    assert third_party(workspace.SHARED) & {workspace.import_name(slug) for slug in workspace.slugs()} == set()


def test_everything_imported_is_declared(distributed):
    # what an extra brings may be imported too, where it is there
    known = declared(with_extras(distributed))
    assert sorted(module for module in third_party(distributed) if not provided_by(module) & known) == []


def test_everything_declared_is_imported(distributed):
    used = set().union(*(provided_by(module) for module in third_party(distributed)))
    assert sorted(declared(workspace.project(distributed)["project"]["dependencies"]) - used) == []


def test_no_source_unpickles_freely(distributed):
    found = [f"{path}:{line}" for path, tree in sources(distributed) for line in free_unpickling(tree)]
    assert found == []


def free_unpickling(tree: ast.Module) -> list[int]:
    """Lines that load pickled data without restriction; a class derived from `pickle.Unpickler` restricts."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names}
            if (node.module in UNPICKLERS and names & {"load", "loads", "Unpickler", "open"}) or (
                node.module == "torch" and "load" in names
            ):
                lines.append(node.lineno)
        elif isinstance(node, ast.Call):
            keywords = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
            match ast.unparse(node.func).rpartition("."):
                case (module, _, "load" | "loads" | "Unpickler" | "open") if module in UNPICKLERS:
                    lines.append(node.lineno)
                case ("torch", _, "load") if keywords.get("weights_only") is not True:
                    lines.append(node.lineno)
                case ("np" | "numpy", _, "load") if keywords.get("allow_pickle", False) is not False:
                    lines.append(node.lineno)
                case (_, _, "read_pickle"):
                    lines.append(node.lineno)
    return lines


@pytest.mark.parametrize(
    "code",
    [
        "import pickle\npickle.load(file)",
        "import pickle\npickle.loads(data)",
        "import pickle\npickle.Unpickler(file).load()",
        "from pickle import loads",
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import pandas as pd\npd.read_pickle(path)",
        "import joblib\njoblib.load(path)",
    ],
)
def test_the_search_for_free_unpickling_finds_it(code):
    assert free_unpickling(ast.parse(code))


@pytest.mark.parametrize(
    "code",
    [
        "import torch\ntorch.load(path, weights_only=True)",
        "import numpy as np\nnp.load(path)",
        "import pickle\nclass Restricted(pickle.Unpickler): pass",
        "import json\njson.load(file)",
    ],
)
def test_what_is_safe_is_let_through(code):
    assert free_unpickling(ast.parse(code)) == []


def test_no_public_name_is_that_of_a_module(package):
    """Importing the module would put it in the name's place."""
    root = workspace.folder(package) / "src" / workspace.import_name(package)
    modules = {path.stem for path in root.glob("*.py")} | {path.parent.name for path in root.glob("*/__init__.py")}
    code = f"import {root.name} as p; print(*p.__all__)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(said.stdout.split()) & modules == set()
