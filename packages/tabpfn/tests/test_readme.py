"""The Python of the README runs as pasted."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


def examples():
    if not README.is_file():  # an installed package is tested without its README
        return []
    return re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.skipif(not README.is_file(), reason="no README beside the tests")
def test_there_are_examples():
    assert len(examples()) >= 3


@pytest.mark.parametrize("code", examples(), ids=lambda code: code.strip().splitlines()[-1][:40])
def test_an_example_of_the_readme_runs_as_pasted(code):
    exec(compile(code, "README.md", "exec"), {"__name__": "__readme__"})
