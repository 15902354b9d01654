"""Each pyproject.toml and CHANGELOG.md, in the same form everywhere."""

import re
from importlib.metadata import version

import release
import workspace

UPPER_BOUND = re.compile(r"<|==|~=")
SHARED_TEST_EXTRA = f"{workspace.distribution(workspace.SHARED)}[test]"


def test_names_follow_from_the_slug(package):
    name, module = workspace.distribution(package), workspace.import_name(package)
    table = workspace.project(package)
    assert table["project"]["name"] == name
    assert table["project"]["scripts"] == {name: f"{module}.cli:main"}
    assert table["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == [f"src/{module}"]


def test_the_wheel_carries_the_paper_card(package):
    wheel = workspace.project(package)["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"]["pyproject.toml"] == f"{workspace.import_name(package)}/pyproject.toml"


def test_metadata_is_complete(distributed):
    project = workspace.project(distributed)["project"]
    assert project["requires-python"] == ">=3.11"
    assert project["license"] == "MIT"
    assert project["readme"] == "README.md"
    assert project["description"].strip()


def test_every_dependency_has_a_lower_bound_and_no_upper_one(distributed):
    project = workspace.project(distributed)["project"]
    assert [d for d in project["dependencies"] if ">=" not in d or UPPER_BOUND.search(d)] == []


def test_the_test_extra_brings_what_the_tests_share(package):
    assert SHARED_TEST_EXTRA in workspace.project(package)["project"]["optional-dependencies"]["test"]


def test_the_shared_package_comes_from_the_workspace(package):
    assert workspace.project(package)["tool"]["uv"]["sources"]["shared-impl"] == {"workspace": True}


def test_the_installed_version_is_the_declared_one(package):
    name = workspace.distribution(package)
    assert version(name) == workspace.project(package)["project"]["version"]


def test_changelog_and_version_agree(package, folder):
    text = (folder / "CHANGELOG.md").read_text(encoding="utf-8")
    assert text.startswith("# Changelog\n")
    headings = [heading[1] for heading in release.HEADING.finditer(text)]
    assert headings[:1] == ["Unreleased"]
    released = headings[1:]
    assert released == sorted(released, key=release.order, reverse=True)
    current = workspace.project(package)["project"]["version"]
    # nothing is released yet, or the newest release is the version at hand
    assert not released or released[0] == current
