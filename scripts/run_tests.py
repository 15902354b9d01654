"""`scripts/test [slug ...] [pytest options]`: the fast tests of the packages, a pytest process each.

Each package is tested by itself: its shape checks must be installed before anything imports it, and what one package
leaves behind in a process must not reach another. With several to test, as many run at once as there are cores.
"""

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import workspace

ROOT_SUITE = "root"
FAST = "not slow and not gpu"
NOTHING_COLLECTED = 5
MOST_WORKERS = 8

NARROWING = ("-k", "-m", "--lf", "--last-failed", "--sw", "--stepwise", "--deselect")
WATCHED = (
    "-s",
    "--capture=no",
    "--pdb",
    "--trace",
    "--co",
    "--collect-only",
    "--fixtures",
    "--markers",
    "--setup-plan",
)

USAGE = """\
usage: scripts/test [slug ...] [pytest options]

Runs the fast tests (neither slow nor gpu) of the named packages: of all of them, of what they share and of the
workspace itself if none is named. Markers: -m slow, -m gpu, -m ''. Several suites run at once, one a core.

suites: """


@dataclass(frozen=True)
class Outcome:
    """How the tests of one suite went."""

    suite: str
    code: int
    passed: int
    failed: int
    skipped: int
    seconds: float
    output: str


def main(arguments: list[str]) -> int:
    suites, options = split(arguments)
    every = [ROOT_SUITE, workspace.SHARED, *workspace.slugs()]
    if not suites and options[:1] in (["-h"], ["--help"]):
        print(USAGE + ", ".join(every))
        return 0
    for suite in suites:
        workspace.known(suite, also=[ROOT_SUITE, workspace.SHARED])
    suites = suites or every
    # the workspace's own tests ask every package's command line
    needed = workspace.slugs() if ROOT_SUITE in suites else [s for s in suites if s != workspace.SHARED]
    workspace.ensure(needed, dev=True)

    begun = time.monotonic()
    outcomes = run(suites, options)
    narrowed = any(option.startswith(NARROWING) or "::" in option for option in options)
    failures = [outcome.suite for outcome in outcomes if not good(outcome, narrowed)]
    if all(outcome.code == NOTHING_COLLECTED for outcome in outcomes):
        failures = list(suites)
    if failures:
        print(f"failed: {', '.join(sorted(failures))}")
    print(f"{len(outcomes)} {'suite' if len(outcomes) == 1 else 'suites'} in {time.monotonic() - begun:.0f} s")
    print(closing_line(outcomes))
    return 1 if failures else 0


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The suites that come first, and the options for pytest (after `--`, if that is there)."""
    count = next((i for i, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    suites, options = list(dict.fromkeys(arguments[:count])), list(arguments[count:])
    return suites, options[1:] if options[:1] == ["--"] else options


def good(outcome: Outcome, narrowed: bool) -> bool:
    """A suite without any test is a failure, unless the options chose tests and those are elsewhere."""
    return outcome.code == 0 or (outcome.code == NOTHING_COLLECTED and narrowed)


def closing_line(outcomes: Sequence[Outcome]) -> str:
    """The totals, in the words of pytest."""
    passed, failed, skipped = (sum(getattr(o, name) for o in outcomes) for name in ("passed", "failed", "skipped"))
    return f"{passed} passed, {failed} failed, {skipped} skipped"


def run(suites: Sequence[str], options: Sequence[str]) -> list[Outcome]:
    """Run the suites, each in its own process; what failed is shown whole, what passed in a line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cores, MOST_WORKERS)
    watched = any(option in WATCHED for option in options)
    if len(suites) == 1:
        parallel = [] if watched or workers == 1 else ["-n", str(workers)]
        return [run_suite(suites[0], [*parallel, *options], show=True, threads=1 if parallel else None)]
    if watched:
        return [run_suite(suite, options, show=True, threads=None) for suite in suites]
    outcomes = []
    width = max(map(len, suites))
    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(run_suite, suite, options, show=False, threads=1) for suite in suites]
        try:
            for future in as_completed(futures):
                outcome = future.result()
                outcomes.append(outcome)
                if outcome.code not in (0, NOTHING_COLLECTED):
                    print(f"\n{outcome.output.rstrip()}\n")
                print(f"{outcome.suite:<{width}}  {closing_line([outcome])} in {outcome.seconds:.0f} s", flush=True)
        except KeyboardInterrupt:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return sorted(outcomes, key=lambda outcome: suites.index(outcome.suite))


def run_suite(suite: str, options: Sequence[str], *, show: bool, threads: int | None) -> Outcome:
    """One pytest process over the tests of a package."""
    tests = workspace.ROOT / "tests" if suite == ROOT_SUITE else workspace.folder(suite) / "tests"
    environment = os.environ.copy()
    if threads:
        environment.setdefault("OMP_NUM_THREADS", str(threads))
    with tempfile.TemporaryDirectory() as temporary:
        report = Path(temporary) / "report.xml"
        command: list[str | Path] = [workspace.venv_program("python"), "-m", "pytest", tests]
        command += ["--rootdir", workspace.ROOT, "-c", workspace.ROOT / "pyproject.toml", "-m", FAST]
        # a cache each, so that --last-failed means the suite's own
        command += ["-o", f"cache_dir={workspace.ROOT / '.pytest_cache' / suite}", "-q", *options]
        command += ["--junitxml", report]
        begun = time.monotonic()
        done = subprocess.run(
            command,
            cwd=workspace.ROOT,
            env=environment,
            text=True,
            stdout=None if show else subprocess.PIPE,
            stderr=None if show else subprocess.STDOUT,
        )
        seconds = time.monotonic() - begun
        return Outcome(suite, done.returncode, *count(report, done.returncode), seconds, done.stdout or "")


def count(report: Path, code: int) -> tuple[int, int, int]:
    """Tests that passed, failed and were skipped; a process that died without a report is one failure."""
    try:
        totals = [suite.attrib for suite in ET.parse(report).getroot().iter("testsuite")]
    except (OSError, ET.ParseError):
        return 0, 1 if code not in (0, NOTHING_COLLECTED) else 0, 0
    tests, failures, errors, skipped = (
        sum(int(total[name]) for total in totals) for name in ("tests", "failures", "errors", "skipped")
    )
    failed = failures + errors
    # an interrupted run or a wrong option fails without a failed test
    return max(tests - failed - skipped, 0), max(failed, 1 if code not in (0, NOTHING_COLLECTED) else 0), skipped


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
