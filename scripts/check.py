#!/usr/bin/env python3
"""Everything that can be said about the code without running a package's tests: lint, format, types, conformance.

scripts/check.py            all of it, one line each; what fails is shown whole
scripts/check.py --fix      first lets ruff repair what it can
scripts/check.py ruff mypy  only these
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import workspace

ROOT = workspace.ROOT
NAMES = ("ruff", "format", "mypy", "conformance")


@dataclass(frozen=True)
class Finding:
    """What one check said."""

    name: str
    code: int
    seconds: float
    output: str

    def line(self) -> str:
        """The summary."""
        last = next((line for line in reversed(self.output.splitlines()) if line.strip()), "")
        verdict = "ok" if self.code == 0 else "FAILED"
        return f"{self.name:<12} {verdict:<7} {self.seconds:6.1f} s  {last.strip('= ')}"


def commands() -> dict[str, Sequence[str | os.PathLike[str]]]:
    """The command of each check."""
    python = workspace.venv_program("python")
    sources = [workspace.folder(slug) / "src" for slug in (workspace.SHARED, *workspace.slugs())]
    code = [ROOT / "scripts", ROOT / "tests", *(workspace.folder(s) for s in (workspace.SHARED, *workspace.slugs()))]
    return {
        "ruff": [workspace.venv_program("ruff"), "check", "--output-format=concise", *code],
        "format": [workspace.venv_program("ruff"), "format", "--check", *code],
        # one process for all: they share what mypy learns of torch
        "mypy": [workspace.venv_program("mypy"), *sources, ROOT / "scripts"],
        "conformance": [python, "-m", "pytest", ROOT / "tests", "-q", "-m", "not slow and not gpu"],
    }


def check(name: str, command: Sequence[str | os.PathLike[str]]) -> Finding:
    """Run one of them."""
    begun = time.monotonic()
    sources = [str(workspace.folder(slug) / "src") for slug in (workspace.SHARED, *workspace.slugs())]
    environment = os.environ | {"MYPYPATH": os.pathsep.join([*sources, str(ROOT / "scripts")])}
    environment.setdefault("OMP_NUM_THREADS", "1")
    done = subprocess.run(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return Finding(name, done.returncode, time.monotonic() - begun, done.stdout)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks, two at a time."""
    parser = argparse.ArgumentParser(description="Lint, format, types, conformance.")
    parser.add_argument("names", nargs="*", metavar="check", help=f"which of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--fix", action="store_true", help="let ruff repair and format first")
    arguments = parser.parse_args(argv)
    for name in arguments.names:
        if name not in NAMES:
            workspace.stop(f"unknown check {name!r}; known: {', '.join(NAMES)}")
    workspace.ensure(workspace.slugs(), dev=True)
    chosen = {name: command for name, command in commands().items() if name in (arguments.names or NAMES)}
    if arguments.fix:
        for verb in (["check", "--fix", "--quiet", "--exit-zero"], ["format", "--quiet"]):
            subprocess.run([workspace.venv_program("ruff"), *verb, ROOT], check=True)
    with ThreadPoolExecutor(2) as pool:
        findings = list(pool.map(check, chosen.keys(), chosen.values()))
    for finding in findings:
        if finding.code:
            print(f"--- {finding.name}\n{finding.output.rstrip()}\n")
    for finding in findings:
        print(finding.line())
    return 1 if any(finding.code for finding in findings) else 0


if __name__ == "__main__":
    sys.exit(main())
