"""The README of each package, and what is generated in them."""

import re
from pathlib import Path

import catalog
import pytest
import workspace

SECTIONS = [
    "What the paper shows",
    "Install and first use",
    "The pieces",
    "Results",
    "Differences from the paper and the official code",
    "Speed",
    "Citation",
]
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def readme(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def test_a_readme_has_its_sections_in_order(folder, package):
    text = FENCED.sub("", readme(folder))
    assert text.startswith(f"# {workspace.distribution(package)}\n")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    empty = [heading for heading in SECTIONS[:-1] if not section(text, heading).strip() and heading != SECTIONS[1]]
    assert empty == []


def test_first_use_shows_the_library_and_the_command(folder, package):
    text = section(readme(folder), "Install and first use")
    assert f"pip install ./shared ./packages/{package}" in text
    assert f"{workspace.distribution(package)} demo" in text
    assert re.search(r"^```python$", text, re.MULTILINE)
    assert workspace.import_name(package) in text


def test_nothing_is_fetched_by_a_name_that_is_not_registered(folder, package):
    """`pip install s4-impl` asks the index for a name that anybody could take, until it is released."""
    released = "\n## 0." in (folder / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.findall(r"(?:pip install|uvx|uv tool install|--with) (?:[^\n`]* )?[\w-]+-impl", readme(folder))
    assert released or found == []


def test_the_citation_is_bibtex(folder):
    assert re.search(r"^@\w+\{\w+,$", section(readme(folder), "Citation"), re.MULTILINE)


def test_what_a_readme_points_to_is_there(folder):
    targets = re.findall(r"\]\(([^)#\s]+)", FENCED.sub("", readme(folder)))
    local = [target for target in targets if "://" not in target and not target.startswith("mailto:")]
    assert [target for target in local if not (folder / target).exists()] == []


def test_every_record_is_shown_in_the_readme(folder):
    shown = " ".join(found[1] for found in re.finditer(r"<!-- results: begin ([^>]*?)-->", readme(folder))).split()
    shown = [name.partition("?")[0] for name in shown]
    records = sorted(path.name for path in (folder / "results").glob("*.json"))
    assert [name for name in records if name not in shown] == []


def test_no_generated_table_is_too_long_to_be_read(folder):
    longest = 0
    for found in catalog.RESULTS.finditer(catalog.generated_tables(folder)):
        lines = [line for line in found[0].splitlines() if line.startswith("|")]
        longest = max(longest, len(lines) - 2 * sum(line.startswith("|---") for line in lines))
    assert longest <= 30, "show fewer rows: results: begin FILE.json?WORDS"


def test_generated_tables_are_fresh(package, folder):
    wanted = catalog.generated_tables(folder)
    assert catalog.differences(workspace.ROOT, {folder / "README.md": wanted}) == [], "run scripts/catalog.py"


def test_the_catalogue_is_fresh():
    path = workspace.ROOT / "README.md"
    assert catalog.differences(workspace.ROOT, {path: catalog.with_catalogue(workspace.ROOT)}) == [], (
        "run scripts/catalog.py"
    )


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_what_the_texts_of_the_root_point_to_is_there(name):
    text = (workspace.ROOT / name).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#\s]+)", FENCED.sub("", text))
    assert [t for t in targets if "://" not in t and not (workspace.ROOT / t).exists()] == []
