"""What holds for every package: each test that takes `package` runs once for each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import workspace  # noqa: E402


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "package" in metafunc.fixturenames:
        metafunc.parametrize("package", workspace.slugs(), scope="session")
    if "distributed" in metafunc.fixturenames:
        metafunc.parametrize("distributed", [workspace.SHARED, *workspace.slugs()], scope="session")


@pytest.fixture
def folder(package: str) -> Path:
    """Where the package lives."""
    return workspace.folder(package)


@pytest.fixture(scope="session")
def tracked() -> list[Path]:
    """The files that belong to the repository (as far as git knows; all that is not ignored), relative to its root."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [Path(name) for name in names if name and (ROOT / name).is_file()]


class Repository:
    """A workspace in a git repository of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.git("init", "--quiet", "--initial-branch", "main")

    def git(self, *arguments: str) -> str:
        """What git says; an error is an error of the test."""
        identity = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(self.root), *identity, *arguments]
        # a fixed time, so that the same steps give the same revisions
        when = {"GIT_AUTHOR_DATE": "2030-01-02T03:04:05Z", "GIT_COMMITTER_DATE": "2030-01-02T03:04:05Z"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | when)
        return done.stdout.strip()

    def write(self, name: str, text: str) -> None:
        """Write a file, with its folders."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def commit(self, **files: str) -> str:
        """Commit everything and return the revision; the keywords are files to write, with `__` for `/`."""
        for name, text in files.items():
            self.write(name.replace("__", "/"), text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "a change")
        return self.git("rev-parse", "HEAD")

    def add_package(self, slug: str, version: str = "0.1.0") -> None:
        """A package with no more than its metadata."""
        text = f'[project]\nname = "{slug}-impl"\nversion = "{version}"\n'
        self.write(f"packages/{slug}/pyproject.toml", text)
        self.write(f"packages/{slug}/CHANGELOG.md", "# Changelog\n\n## Unreleased\n\n- First version.\n")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """An empty workspace in git."""
    return Repository(tmp_path)
