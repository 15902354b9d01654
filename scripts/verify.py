#!/usr/bin/env python3
"""Run the slow tests of packages and write which passed: `tests/slow.json`, from which the catalogue counts claims.

scripts/verify.py s4 gla    these
scripts/verify.py           all of them
"""

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

import workspace


def nodes(report: Path, package: Path) -> dict[str, list[str]]:
    """The functions that passed and failed, as the card names them; one that passes must pass for all parameters."""
    passed: set[str] = set()
    failed: set[str] = set()
    for case in ET.parse(report).getroot().iter("testcase"):
        file = _file(case.attrib["classname"], package)
        node = f"{file}::{case.attrib['name'].partition('[')[0]}"
        if case.find("failure") is not None or case.find("error") is not None:
            failed.add(node)
        elif case.find("skipped") is None:
            passed.add(node)
    return {"passed": sorted(passed - failed), "failed": sorted(failed)}


def _file(classname: str, package: Path) -> str:
    """`packages.s4.tests.test_claims` (and a class) to `tests/test_claims.py` and the class."""
    parts = classname.split(".")
    at = max(i for i, part in enumerate(parts) if part.startswith("test_"))
    inside = "::".join([f"tests/{parts[at]}.py", *parts[at + 1 :]])
    return inside if (package / "tests" / f"{parts[at]}.py").is_file() else classname


def verify(slug: str) -> int:
    """Run the slow tests of a package and write `tests/slow.json`; returns pytest's exit code (0 if there are none)."""
    package = workspace.folder(slug)
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "report.xml"
        command: list[str | Path] = [workspace.venv_program("python"), "-m", "pytest", package / "tests"]
        command += ["--rootdir", workspace.ROOT, "-c", workspace.ROOT / "pyproject.toml", "-m", "slow and not gpu"]
        command += ["-q", "-p", "no:cacheprovider", "-o", "timeout=3600", "--junitxml", report]
        code = subprocess.run(command, cwd=workspace.ROOT).returncode
        if code == 5:
            print(f"{slug}: no slow tests")
            return 0
        found = nodes(report, package)
    command = ["git", "-C", workspace.ROOT, "log", "-1", "--format=%h", "--", package / "src"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    kept = {"commit": commit, "date": datetime.date.today().isoformat(), **found}
    (package / "tests" / "slow.json").write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    print(f"{slug}: {len(found['passed'])} passed, {len(found['failed'])} failed")
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Verify the packages one after the other."""
    parser = argparse.ArgumentParser(description="Run slow tests and write down which passed.")
    parser.add_argument("slugs", nargs="*", metavar="slug")
    arguments = parser.parse_args(argv)
    for slug in arguments.slugs:
        workspace.known(slug)
    chosen = arguments.slugs or workspace.slugs()
    workspace.ensure(chosen, dev=True)
    return max([verify(slug) for slug in chosen], default=0)


if __name__ == "__main__":
    sys.exit(main())
