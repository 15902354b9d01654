import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent
COLLECT = """
import sys, time
clock, later = time.time, float(sys.argv[1])
time.time = lambda: clock() + later
import pytest
sys.exit(pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", sys.argv[2]]))
"""


def test_names_of_tests_are_the_same_in_every_process():
    """Two processes share the tests out by name: neither the clock nor the order of a set may be in one."""

    def names(seed, later):
        run = subprocess.run(
            [sys.executable, "-c", COLLECT, later, str(TESTS)],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return [line for line in run.stdout.splitlines() if "::" in line]

    first = names("1", "0")
    assert len(first) > 100
    assert first == names("2", "100000")
