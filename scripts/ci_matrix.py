#!/usr/bin/env python3
"""The packages that a change touches, as a JSON list: all of them when what they share, or the workspace, changed.

scripts/ci_matrix.py --base origin/main
scripts/ci_matrix.py --base HEAD~1 --few 2    the touched ones themselves, or 2 that rotate from commit to commit
scripts/ci_matrix.py --base X --groups 80      at most 80 entries, each of one or several packages
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import workspace

# what a package is made with, tested with or runs on; for anything else no package can behave differently
SHARED_BY_ALL = (
    "pyproject.toml",
    "shared/pyproject.toml",
    "shared/src/",
    "scripts/isolated.py",
    "scripts/run_tests.py",
    "scripts/workspace.py",
    ".github/workflows/ci.yml",
)


def git(root: Path, *arguments: str) -> str | None:
    """What git says, or None when it fails (no repository, no such revision)."""
    command = ["git", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def changed_files(root: Path, base: str) -> list[str] | None:
    """Files that differ between `base` and HEAD; None when git cannot tell (as in a shallow clone)."""
    # from where the branches parted, so that what others did to the base meanwhile does not count
    for span in (f"{base}...HEAD", f"{base}..HEAD"):
        said = git(root, "diff", "--name-only", "--no-renames", "-z", span)
        if said is not None:
            return [name for name in said.split("\0") if name]
    return None


def touched(files: Iterable[str], slugs: Sequence[str]) -> tuple[list[str], bool]:
    """The packages that these files belong to, and whether the change reaches every package."""
    own: set[str] = set()
    everything = False
    for name in files:
        parts = name.split("/")
        if parts[0] == "packages" and len(parts) > 2:
            own.add(parts[1])
        elif name.startswith(SHARED_BY_ALL):
            everything = True
    return [slug for slug in slugs if slug in own], everything


def matrix(root: Path, base: str) -> list[str]:
    """The packages to test for a change since `base`; all of them when in doubt."""
    slugs = workspace.slugs(root)
    files = changed_files(root, base)
    if files is None:
        return slugs
    own, everything = touched(files, slugs)
    return slugs if everything else own


def sample(root: Path, base: str, few: int) -> list[str]:
    """The packages that the change touches themselves, filled up to `few` with some that rotate with the commits."""
    slugs = workspace.slugs(root)
    own, _ = touched(changed_files(root, base) or [], slugs)
    rest = [slug for slug in slugs if slug not in own]
    # each commit goes on where the one before stopped, so that all have their turn
    commits = git(root, "rev-list", "--count", "HEAD")
    start = int(commits) * few % len(rest) if commits and rest else 0
    rotated = rest[start:] + rest[:start]
    return own + rotated[: max(few - len(own), 0)]


def grouped(chosen: Sequence[str], most: int) -> list[str]:
    """At most so many entries, each of packages joined by spaces."""
    size = max(1, -(-len(chosen) // most))
    return [" ".join(chosen[i : i + size]) for i in range(0, len(chosen), size)]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the list."""
    parser = argparse.ArgumentParser(description="The packages that a change touches, as a JSON list.")
    parser.add_argument("--base", required=True, metavar="REV", help="revision to compare HEAD with")
    parser.add_argument("--few", type=int, metavar="N", help="not all for a shared change: N that rotate")
    parser.add_argument("--groups", type=int, metavar="N", help="at most N entries, each of one or several packages")
    parser.add_argument("--root", type=Path, default=workspace.ROOT, help="of the workspace")
    arguments = parser.parse_args(argv)
    if arguments.few is None:
        chosen = matrix(arguments.root, arguments.base)
    else:
        chosen = sample(arguments.root, arguments.base, arguments.few)
    print(json.dumps(chosen if arguments.groups is None else grouped(chosen, arguments.groups)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
