#!/usr/bin/env python3
"""The proof that `pip install <slug>-impl` works: wheels, a fresh environment, the package's tests and demo there.

For each package: builds its sdist and its wheel and the wheel of shared-impl, makes a virtual environment outside of
the repository, installs these and the test extra and nothing else, copies the tests out of the repository, runs them
there, and then `info` and `demo`.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

import run_tests
import workspace

# run in the fresh environment: what is installed of ours, and where it is imported from
PROBE = """
import importlib, importlib.metadata, json, sys
names = sorted(d.metadata["Name"] for d in importlib.metadata.distributions() if d.metadata["Name"].endswith("-impl"))
print(json.dumps({"names": names, "files": [importlib.import_module(m).__file__ for m in sys.argv[1:]]}))
"""


class Broken(Exception):
    """The package does not stand alone; the message says why."""


def build(slug: str, into: Path) -> Path:
    """Build sdist and wheel (the wheel from the sdist), and return the wheel."""
    workspace.run_uv("build", workspace.folder(slug), "--out-dir", into, cwd=into, quiet=True)
    name = workspace.import_name(slug)
    wheels, sdists = sorted(into.glob(f"{name}-*.whl")), sorted(into.glob(f"{name}-*.tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1:
        raise Broken(f"uv build gave {len(wheels)} wheels and {len(sdists)} sdists")
    return wheels[0]


def pins() -> list[str]:
    """The versions that the workspace is tested with."""
    root = tomllib.loads((workspace.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return list(root["tool"]["uv"]["constraint-dependencies"])


def declared(slug: str) -> list[str]:
    """What a package and its tests require, but for what comes from this workspace."""
    project = workspace.project(slug)["project"]
    requirements = [*project["dependencies"], *project.get("optional-dependencies", {}).get("test", [])]
    return [line for line in requirements if not line.startswith(workspace.distribution(workspace.SHARED))]


def install(
    slugs: Sequence[str], python: Path, wheels: Sequence[Path], place: Path, options: argparse.Namespace
) -> None:
    """Install the wheels, the test extra of the first, and what they need."""
    # away from the workspace, so that uv takes nothing from it
    arguments: list[str | Path] = ["pip", "install", "--python", python]
    if options.resolution == "pinned":
        constraints = place / "pins.txt"
        constraints.write_text("\n".join(pins()) + "\n", encoding="utf-8")
        arguments += ["--constraints", constraints]
    else:
        arguments += ["--resolution", options.resolution]
        # what the wheels declare, as direct requirements: else the lowest of them would not be asked for
        arguments += [line for slug in slugs for line in declared(slug)]
        arguments += [pin for pin in pins() if pin.partition("==")[0] in options.hold]
    own, *others = wheels
    workspace.run_uv(*arguments, f"{own}[test]", *others, cwd=place, quiet=True)


def copy_tests(slug: str, place: Path) -> Path:
    """The package without its source, below a folder that has the repository's pytest settings."""
    target = place / "packages" / slug
    shutil.copytree(
        workspace.folder(slug), target, ignore=shutil.ignore_patterns("src", "__pycache__", "runs", "dist", ".*")
    )
    shutil.copy(workspace.ROOT / "pyproject.toml", place)
    return target / "tests"


def probe(slug: str, python: Path, venv: Path, environment: dict[str, str]) -> None:
    """Only this package and shared-impl are there, and they are imported from the fresh environment."""
    modules = [workspace.import_name(slug), workspace.import_name(workspace.SHARED)]
    done = subprocess.run([python, "-c", PROBE, *modules], capture_output=True, text=True, env=environment, cwd=venv)
    if done.returncode:
        raise Broken(f"cannot be imported:\n{done.stderr}")
    found = json.loads(done.stdout)
    expected = sorted({workspace.distribution(slug), workspace.distribution(workspace.SHARED)})
    if found["names"] != expected:
        raise Broken(f"installed of ours: {', '.join(found['names'])}; expected {', '.join(expected)}")
    for file in found["files"]:
        if not Path(file).resolve().is_relative_to(venv.resolve()) or "site-packages" not in file:
            raise Broken(f"imported from {file}, which is not the fresh environment")


def test(slug: str, python: Path, tests: Path, environment: dict[str, str]) -> run_tests.Outcome:
    """The package's fast tests in the fresh environment."""
    place = tests.parents[2]
    report = place / "report.xml"
    command: list[str | Path] = [python, "-m", "pytest", tests, "--rootdir", place, "-c", place / "pyproject.toml"]
    command += ["-q", "-m", run_tests.FAST, "--junitxml", report, "-p", "no:cacheprovider"]
    cores = os.cpu_count() or 1
    if cores > 1:
        command += ["-n", str(min(cores, 2))]
    begun = time.monotonic()
    done = subprocess.run(
        command, cwd=place, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    counts = run_tests.count(report, done.returncode)
    return run_tests.Outcome(slug, done.returncode, *counts, time.monotonic() - begun, done.stdout)


def use(slug: str, venv: Path, place: Path, environment: dict[str, str], verbs: Sequence[Sequence[str]]) -> None:
    """Run commands of the package; each must end well."""
    command = workspace.venv_program(workspace.distribution(slug), venv)
    for verb in verbs:
        done = subprocess.run([command, *verb], cwd=place, env=environment, text=True, capture_output=True)
        if done.returncode:
            raise Broken(f"`{command.name} {verb[0]}` exits with {done.returncode}:\n{done.stderr or done.stdout}")


def examine(slug: str, options: argparse.Namespace) -> run_tests.Outcome:
    """All of it for one package.

    Raises:
        Broken: if anything but a test fails.
    """
    place = Path(tempfile.mkdtemp(prefix=f"isolated-{slug}-"))
    try:
        wheels = [build(slug, _folder(place / "dist"))]
        if slug != workspace.SHARED and not options.shared_from_index:
            wheels.append(build(workspace.SHARED, _folder(place / "dist-shared")))
        venv = place / "venv"
        workspace.run_uv("venv", "--python", options.python or sys.executable, venv, cwd=place, quiet=True)
        python = workspace.venv_program("python", venv)
        install([slug, workspace.SHARED], python, wheels, place, options)
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
        environment.setdefault("OMP_NUM_THREADS", "1")
        probe(slug, python, venv, environment)
        outcome = test(slug, python, copy_tests(slug, _folder(place / "copy")), environment)
        if slug != workspace.SHARED:
            demo = [] if options.no_demo else [["demo", "--out", str(place / "demo")]]
            use(slug, venv, place, environment, [["info"], *demo])
        return outcome
    finally:
        if options.keep:
            print(f"{slug}: kept in {place}")
        else:
            shutil.rmtree(place, ignore_errors=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Examine the packages one after the other."""
    parser = argparse.ArgumentParser(description="Install a package alone, and run its tests and its demo there.")
    parser.add_argument("slugs", nargs="*", metavar="slug")
    parser.add_argument("--every", action="store_true", help="all packages, and shared")
    parser.add_argument(
        "--shared-from-index", action="store_true", help="take shared-impl from the index, not from this workspace"
    )
    parser.add_argument("--hold", action="append", default=[], metavar="NAME", help="keep this one at its pin")
    parser.add_argument("--python", help="interpreter or version of the fresh environment (default: this one's)")
    parser.add_argument("--no-demo", action="store_true", help="leave the demo out")
    parser.add_argument("--keep", action="store_true", help="keep the environment, and say where it is")
    parser.add_argument(
        "--resolution",
        choices=["pinned", "highest", "lowest-direct"],
        default="pinned",
        help="versions of what is installed beside: the workspace's pins, the newest, or the declared lower bounds",
    )
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="begin no package that would take longer")
    options = parser.parse_args(argv)
    if options.every:
        options.slugs = [workspace.SHARED, *workspace.slugs()]
    if not options.slugs:
        workspace.stop("name a package, or --every")
    for slug in options.slugs:
        workspace.known(slug, also=[workspace.SHARED])

    begun = time.monotonic()
    outcomes: list[run_tests.Outcome] = []
    bad, left_out = [], []
    longest = 0.0
    for slug in dict.fromkeys(options.slugs):
        started = time.monotonic()
        # the first always runs; another only if one as long as the longest would still fit
        if options.budget is not None and outcomes and started - begun + longest > options.budget:
            left_out.append(slug)
            continue
        try:
            outcome = examine(slug, options)
        except (Broken, SystemExit) as error:
            said = str(error) if isinstance(error, Broken) else "could not be built or installed"
            outcome = run_tests.Outcome(slug, 1, 0, 1, 0, 0.0, f"{slug}: {said}")
        seconds = time.monotonic() - started
        longest = max(longest, seconds)
        outcomes.append(outcome)
        if outcome.code:
            bad.append(slug)
            print(f"\n{outcome.output.rstrip()}\n")
        print(f"{slug} alone: {run_tests.closing_line([outcome])} in {seconds:.0f} s", flush=True)
    if left_out:
        print(f"no time for: {', '.join(left_out)}")
    if bad:
        print(f"failed: {', '.join(bad)}")
    print(run_tests.closing_line(outcomes))
    return 1 if bad else 0


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
