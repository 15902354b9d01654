#!/usr/bin/env python3
"""Write what is generated in the READMEs: the catalogue of papers in the root's, the tables in each package's.

The catalogue comes from the paper cards ([tool.impl] of each pyproject.toml) and stands between
`<!-- catalogue: begin -->` and `<!-- catalogue: end -->`. Tables come from the records in results/ and stand between
`<!-- results: begin FILE.json ... -->` and `<!-- results: end -->`; `FILE.json?WORDS` shows the rows of a record
whose task or metric holds one of the words (`bench_ops.json?2,048|16,384`, a regular expression).

scripts/catalog.py           write
scripts/catalog.py --check   write nothing; show what is stale, and exit with 1 if anything is
"""

import argparse
import ast
import difflib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import workspace

CATALOGUE = re.compile(r"(<!-- catalogue: begin -->\n).*?(<!-- catalogue: end -->)", re.DOTALL)
RESULTS = re.compile(r"(<!-- results: begin ([^>]*?)-->\n).*?(<!-- results: end -->)", re.DOTALL)


class Stale(Exception):
    """Something cannot be generated; the message says what and where."""


FAMILIES = {
    "sequence layers": "Sequence layers",
    "language models": "Language models",
    "forecasting": "Forecasting",
    "tabular": "Tables",
    "graphs": "Graphs",
    "timed edges": "Streams of timed edges",
    "ranking": "Click, ranking and retrieval models",
    "supernets": "Elastic networks and supernets",
    "early exit": "Early exit and dynamic depth",
    "continual learning": "Continual learning",
    "reinforcement learning": "Reinforcement learning",
    "vision": "Images, video and sound",
    "training": "Ways of training",
    "theory": "Analysis and theory",
}
"""What a card calls a family, and the heading of the catalogue."""

SKIPPED = re.compile(r"\bpytest\.mark\.(xfail|skip|skipif)\b|\bpytest\.(skip|xfail|importorskip)\(")
SLOW = re.compile(r"\bpytest\.mark\.(slow|gpu)\b")


def tests_of(file: Path) -> dict[str, str]:
    """The test nodes of a file (`test_x`, `TestY::test_x`) with their source, found without running it."""
    try:
        text = file.read_text(encoding="utf-8")
        tree = ast.parse(text)
    except (OSError, SyntaxError):
        return {}
    marks = "".join(
        ast.unparse(node) + "\n"
        for node in tree.body
        if isinstance(node, ast.Assign) and "pytestmark" in ast.unparse(node.targets[0])
    )
    found = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            found[node.name] = marks + ast.unparse(node)
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            methods = (m for m in node.body if isinstance(m, ast.FunctionDef) and m.name.startswith("test"))
            outer = marks + "".join(ast.unparse(decorator) + "\n" for decorator in node.decorator_list)
            found |= {f"{node.name}::{method.name}": outer + ast.unparse(method) for method in methods}
    return found


def slow_tests(package: Path) -> dict[str, Any]:
    """What `scripts/verify.py` wrote of the last run of the slow tests: commit, date, passed and failed nodes."""
    try:
        found = json.loads((package / "tests" / "slow.json").read_text(encoding="utf-8"))
        return dict(found)
    except (OSError, ValueError, TypeError):
        return {}


def tested(test: str, package: Path) -> bool:
    """Whether a test is there and passes: the suite shows that of the fast ones, a recorded run that of the slow ones.

    A test that is skipped or expected to fail shows nothing.
    """
    file, _, node = test.partition("::")
    # a parametrised node counts by its function
    node = node.partition("[")[0]
    source = tests_of(package / file).get(node)
    if source is None or SKIPPED.search(source):
        return False
    if SLOW.search(source):
        return f"{file}::{node}" in slow_tests(package).get("passed", ())
    return True


def verified(claim: dict[str, Any], package: Path) -> bool:
    """Whether the evidence that a claim names is there: its test, or its record (both, if it names both).

    A statement with a status, not run or not confirmed, is not verified.
    """
    if claim.get("status"):
        return False
    evidence = []
    if test := claim.get("test"):
        evidence.append(tested(test, package))
    if record := claim.get("record"):
        evidence.append((package / record).is_file())
    return bool(evidence) and all(evidence)


def catalogue(root: Path) -> str:
    """The tables of papers, one a family."""
    families: dict[str, list[str]] = {name: [] for name in FAMILIES}
    for slug in workspace.slugs(root):
        card = workspace.project(slug, root).get("tool", {}).get("impl")
        if card is None:
            raise Stale(f"packages/{slug}/pyproject.toml has no paper card ([tool.impl])")
        claims = card.get("claims", [])
        held = sum(verified(claim, workspace.folder(slug, root)) for claim in claims)
        family = card.get("family")
        if family not in families:
            raise Stale(f"the card of packages/{slug} has family {family!r}; known: {', '.join(families)}")
        try:
            cells = [
                f"[{card['title']}](https://arxiv.org/abs/{card['arxiv']}) ({card['venue']} {card['year']})",
                f"[`{workspace.distribution(slug)}`](packages/{slug})",
                f"{held} of {len(claims)}",
                card["headline"],
            ]
        except KeyError as error:
            raise Stale(f"the card of packages/{slug} lacks {error}") from error
        families[family].append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    lines = []
    for name, rows in families.items():
        if rows:
            head = ["| paper | package | claims verified | headline result |", "|---|---|---:|---|"]
            lines += [f"### {FAMILIES[name]}", "", *head, *rows, ""]
    return "\n".join(lines[:-1]) + "\n"


def results(package: Path, names: Sequence[str]) -> str:
    """The table of some records of a package."""
    from shared_impl.results import Record, markdown_table

    if not names:
        raise Stale(f"{package.name}/README.md: `results: begin` names no record")
    records = []
    for named in names:
        name, _, words = named.partition("?")
        try:
            record = Record.load(package / "results" / name.removeprefix("results/"))
        except (OSError, ValueError) as error:
            raise Stale(f"{package.name}/README.md names the record {name}: {error}") from error
        if words:
            # spaces would end the name of the file
            pattern = re.compile(words.replace("_", "[ _]"))
            record.rows = [row for row in record.rows if pattern.search(f"{row.task} {row.metric}")]
            if not record.rows:
                raise Stale(f"{package.name}/README.md: no row of {name} matches {words!r}")
        records.append(record)
    return markdown_table(records).strip("\n") + "\n"


def with_catalogue(root: Path) -> str:
    """The root's README as it should be."""
    text = (root / "README.md").read_text(encoding="utf-8")
    if not CATALOGUE.search(text):
        raise Stale("README.md has no `<!-- catalogue: begin -->` ... `<!-- catalogue: end -->`")
    table = catalogue(root)
    return CATALOGUE.sub(lambda found: found[1] + table + found[2], text)


def generated_tables(package: Path) -> str:
    """A package's README as it should be."""
    text = (package / "README.md").read_text(encoding="utf-8")
    return RESULTS.sub(lambda found: found[1] + results(package, found[2].split()) + found[3], text)


def generated(root: Path) -> dict[Path, str]:
    """Each README as it should be: the root's and those of the packages."""
    folders = [workspace.folder(slug, root) for slug in workspace.slugs(root)]
    tables = {package / "README.md": generated_tables(package) for package in folders}
    return {root / "README.md": with_catalogue(root)} | tables


def differences(root: Path, wanted: dict[Path, str]) -> list[str]:
    """A diff of each README that is not as it should be."""
    diffs = []
    for path, text in wanted.items():
        now = path.read_text(encoding="utf-8")
        if now != text:
            name = path.relative_to(root).as_posix()
            lines = difflib.unified_diff(
                now.splitlines(keepends=True), text.splitlines(keepends=True), name, f"{name} (generated)"
            )
            diffs.append("".join(lines))
    return diffs


def main(argv: Sequence[str] | None = None) -> int:
    """Write the READMEs, or show what would change."""
    parser = argparse.ArgumentParser(description="Write the generated parts of the READMEs.")
    parser.add_argument("--check", action="store_true", help="only show what is stale")
    parser.add_argument("--root", type=Path, default=workspace.ROOT, help="of the workspace")
    arguments = parser.parse_args(argv)
    root = arguments.root.resolve()
    try:
        wanted = generated(root)
    except (Stale, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    diffs = differences(root, wanted)
    if arguments.check:
        print("\n".join(diffs), end="")
        if diffs:
            print(f"{len(diffs)} stale; scripts/catalog.py brings them up to date", file=sys.stderr)
        return 1 if diffs else 0
    for path, text in wanted.items():
        if path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(root)}")
    return 0


if __name__ == "__main__":
    # the tables are drawn by shared_impl, which lives in the workspace's environment
    workspace.enter([])
    sys.exit(main())
