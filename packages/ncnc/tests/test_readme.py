"""The README's example runs as pasted."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
SECTIONS = [
    "What the paper shows",
    "Install and first use",
    "The pieces",
    "Results",
    "Differences from the paper and the official code",
    "Speed",
    "Citation",
]


def test_the_first_example_runs_as_pasted(tmp_path, monkeypatch):
    section = README.read_text(encoding="utf-8").split("## Install and first use")[1]
    code = re.search(r"```python\n(.*?)```", section, re.S).group(1)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})


def test_the_sections_are_those_of_every_package():
    assert re.findall(r"^## (.*)$", README.read_text(encoding="utf-8"), re.M) == SECTIONS
