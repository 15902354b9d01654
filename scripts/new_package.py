#!/usr/bin/env python3
"""Make a package for a paper: it conforms and runs at once, and its one claim fails until the paper's are tested.

scripts/new_package.py retnet --title "Retentive Network" --arxiv 2307.08621 --author "Yutao Sun" --year 2023
"""

import argparse
import json
import re
import sys
from pathlib import Path
from string import Template

import workspace

PYPROJECT = """\
[build-system]
requires = ["hatchling>=1.26"]
build-backend = "hatchling.build"

[project]
name = "$slug-impl"
version = "0.1.0"
description = $description
readme = "README.md"
requires-python = ">=3.11"
license = "MIT"
dependencies = [
  "jaxtyping>=0.2.36",
  "rich>=13.9",
  "shared-impl>=0.1.0",
  "torch>=2.4",
  "tyro>=0.9.2",
]

[project.optional-dependencies]
test = ["shared-impl[test]"]

[project.scripts]
$slug-impl = "$package.cli:main"

[tool.uv.sources]
shared-impl = { workspace = true }

[tool.hatch.build.targets.wheel]
packages = ["src/$package"]

[tool.hatch.build.targets.wheel.force-include]
"pyproject.toml" = "$package/pyproject.toml"

# The paper card
[tool.impl]
title = $title
authors = $authors
year = $year
venue = $venue
arxiv = $arxiv
official_code = $official_code
gives = "the frame of a package; nothing of the paper yet"
headline = "nothing is measured yet"

[[tool.impl.claims]]
id = "1"
text = "The claims of the paper are stated and tested"
kind = "exact"
test = "tests/test_claims.py::test_the_claims_of_the_paper_are_stated_and_tested"
"""

CHANGELOG = """\
# Changelog

## Unreleased

- First version.
"""

README = """\
# $slug-impl

$title ($authors_text, $venue_text$year). [arXiv:$arxiv_text](https://arxiv.org/abs/$arxiv_text)

This package is a frame: nothing of the paper is in it yet. What runs here is a straight line through points.

## What the paper shows

To be written, in our own words.

## Install and first use

```bash
pip install $slug-impl
$slug-impl demo
```

```python
import torch

from $package import fit_line

x = torch.linspace(0, 1, 20)
slope, intercept = fit_line(x, 3 * x + 1)
print(f"slope {slope:.2f}, intercept {intercept:.2f}")
```

## The pieces

| of the paper | here |
|---|---|
| nothing yet; a least-squares line | `$package.line` |

## Results

No experiment of the paper has been run yet.

## Differences from the paper and the official code

Everything is still to do.

## Speed

Nothing of the paper has been timed yet.

## Citation

```bibtex
@article{$cite_key,
  title = {$title_bare},
  author = {$authors_bibtex},
  journal = {$venue_bare},
  year = {$year},
}
```
"""

INIT = '''\
"""$docstring"""

from importlib.metadata import version
from typing import TYPE_CHECKING

from shared_impl.lazy import attach

__version__ = version("$slug-impl")

__getattr__, __dir__, __all__ = attach(__name__, {"line": ["fit_line", "fit_line_by_descent"]})

if TYPE_CHECKING:
    from .line import fit_line as fit_line
    from .line import fit_line_by_descent as fit_line_by_descent
'''

LINE = '''\
"""A straight line through points, in two forms: it holds the place of the paper's own method."""

import torch
from jaxtyping import Float
from torch import Tensor


def fit_line(x: Float[Tensor, "points"], y: Float[Tensor, "points"]) -> tuple[float, float]:
    """Slope and intercept of the least-squares line, in closed form.

    Raises:
        ValueError: if there are fewer than two points.
    """
    if len(x) < 2:
        raise ValueError(f"x must have at least 2 points, got {len(x)}")
    x_centred = x - x.mean()
    slope = (x_centred @ (y - y.mean())) / (x_centred @ x_centred)
    return slope.item(), (y.mean() - slope * x.mean()).item()


def fit_line_by_descent(
    x: Float[Tensor, "points"], y: Float[Tensor, "points"], *, steps: int = 1000, step_size: float = 0.5
) -> tuple[float, float]:
    """The same line by gradient descent on the mean squared error; converges for x within [-1, 1]."""
    slope = intercept = torch.zeros((), dtype=x.dtype)
    for _ in range(steps):
        error = slope * x + intercept - y
        slope = slope - step_size * (error * x).mean()
        intercept = intercept - step_size * error.mean()
    return slope.item(), intercept.item()
'''

EXPERIMENTS = '''\
"""Runnable experiments: so far a line through noisy points, which is no experiment of the paper."""

from dataclasses import dataclass

import torch

from shared_impl.results import Record, Row, summarise

from .line import fit_line


@dataclass(frozen=True)
class NoisyLine:
    """How well the slope of a line is found under noise."""

    points: int
    noise: float = 0.1
    repeats: int = 5


PRESETS = {"cpu": NoisyLine(points=100), "paper": NoisyLine(points=10_000)}


def slope_error(config: NoisyLine, *, seed: int, device: torch.device) -> float:
    """Distance of the fitted slope from the true one, for one draw of the noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.linspace(-1, 1, config.points)
    y = 2 * x + config.noise * torch.randn(config.points, generator=generator)
    slope, _ = fit_line(x.to(device), y.to(device))
    return abs(slope - 2)


def noisy_line(preset: str, *, seed: int, device: torch.device) -> Record:
    """Run the experiment and return its record."""
    config = PRESETS[preset]
    seeds = [seed + repeat for repeat in range(config.repeats)]
    record = Record.start("$package", "line", preset=preset, seeds=seeds, config=vars(config))
    errors = [slope_error(config, seed=s, device=device) for s in seeds]
    mean, spread = summarise(errors)
    record.add(Row("noisy line", "least squares", "slope error", mean, spread, len(errors), higher_is_better=False))
    return record
'''

BENCHMARKS = '''\
"""Timings; one function a benchmark."""

import torch

from shared_impl.bench import compare
from shared_impl.results import Record, Row

from .line import fit_line, fit_line_by_descent


def line(*, seed: int, device: torch.device) -> Record:
    """The closed form against gradient descent."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.linspace(-1, 1, 1000)
    y = (2 * x + 0.1 * torch.randn(1000, generator=generator)).to(device)
    x = x.to(device)
    record = Record.start("$package", "line", preset="cpu", seeds=[seed], kind="bench")
    timings = compare(
        {"descent": lambda: fit_line_by_descent(x, y, steps=100), "closed form": lambda: fit_line(x, y)},
        baseline="descent",
    )
    for name, timing in timings.items():
        record.add(Row("1000 points", name, "times as fast as descent", timing.ratio))
    return record
'''

CLI = '''\
"""The command line, `$slug-impl`; torch is imported only when a command runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import tyro

from shared_impl.cli import Options, run

if TYPE_CHECKING:
    from shared_impl.results import Record


@dataclass(frozen=True)
class Demo(Options):
    """Fit a line to noisy points, in closed form and by gradient descent."""

    def run(self) -> dict[str, float]:
        """Print both lines, and draw them."""
        import torch
        from rich.table import Table

        from shared_impl.results import plot_curves

        from .line import fit_line, fit_line_by_descent

        device = self.torch_device()
        noise = torch.randn(50, generator=torch.Generator().manual_seed(self.seed))
        x = torch.linspace(-1, 1, 50)
        y = 2 * x + 1 + 0.2 * noise
        closed = fit_line(x.to(device), y.to(device))
        descent = fit_line_by_descent(x.to(device), y.to(device))

        table = Table("form", "slope", "intercept", title="A line through noisy points")
        for name, (slope, intercept) in {"closed form": closed, "gradient descent": descent}.items():
            table.add_row(name, f"{slope:.4f}", f"{intercept:.4f}")
        path = plot_curves(
            self.out_dir("$slug") / "demo.png",
            {"points": (x.tolist(), y.tolist()), "line": (x.tolist(), (closed[0] * x + closed[1]).tolist())},
            xlabel="x",
            ylabel="y",
        )
        console = self.console()
        console.print(table)
        console.print(f"plot: {path}")
        return {"slope": closed[0], "intercept": closed[1]}


@dataclass(frozen=True)
class Reproduce(Options):
    """Run an experiment and write its record."""

    experiment: tyro.conf.Positional[Literal["line"]] = "line"
    """which experiment"""
    preset: Literal["cpu", "paper"] = "cpu"
    """minutes on two cores, or the full recipe"""

    def run(self) -> Record:
        """Run it, print its table, save its record."""
        from shared_impl.results import rich_table

        from .experiments import noisy_line

        record = noisy_line(self.preset, seed=self.seed, device=self.torch_device())
        path = record.save(self.out_dir("$slug"))
        self.console().print(rich_table(record))
        self.console().print(f"record: {path}")
        return record


@dataclass(frozen=True)
class Bench(Options):
    """Time the forms against each other."""

    what: tyro.conf.Positional[Literal["line"]] = "line"
    """which benchmark"""

    def run(self) -> Record:
        """Time, print the ratios, save the record."""
        from shared_impl.results import rich_table

        from .benchmarks import line

        record = line(seed=self.seed, device=self.torch_device())
        path = record.save(self.out_dir("$slug"))
        self.console().print(rich_table(record))
        self.console().print(f"record: {path}")
        return record


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run("$package", {"demo": Demo, "reproduce": Reproduce, "bench": Bench}, argv)
'''

CONFTEST = """\
from shared_impl.testing import check_shapes

check_shapes("$package")
"""

TEST_CLAIMS = '''\
"""The claims of the paper, a test each."""

import pytest


def test_the_claims_of_the_paper_are_stated_and_tested():
    pytest.fail("state and test the claims of the paper")
'''

TEST_LINE = """\
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from $package import fit_line, fit_line_by_descent


@given(points=st.integers(2, 50), slope=st.floats(-5, 5), intercept=st.floats(-5, 5))
def test_a_line_without_noise_is_found_exactly(points, slope, intercept):
    x = torch.linspace(-1, 1, points, dtype=torch.float64)
    assert fit_line(x, slope * x + intercept) == pytest.approx((slope, intercept), abs=1e-9)


def test_closed_form_and_descent_agree_under_noise():
    x = torch.linspace(-1, 1, 40, dtype=torch.float64)
    y = 2 * x + torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert fit_line(x, y) == pytest.approx(fit_line_by_descent(x, y), abs=1e-6)


def test_a_single_point_is_refused():
    with pytest.raises(ValueError, match="at least 2 points, got 1"):
        fit_line(torch.zeros(1), torch.zeros(1))
"""

TEST_CLI = """\
import json
import re
from pathlib import Path

import pytest

from $package.cli import main

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.parametrize("verb", ["demo", "reproduce", "bench"])
def test_every_verb_runs_and_prints_json(verb, tmp_path, capsys):
    assert main([verb, "--device", "cpu", "--out", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert list(tmp_path.iterdir())


def test_a_wrong_option_is_one_line_and_exit_code_2(capsys):
    assert main(["demo", "--no-such-option"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_example_of_the_readme_runs_as_pasted(capsys):
    section = README.read_text(encoding="utf-8").partition("## Install and first use")[2]
    code = re.search(r"```python\\n(.*?)```", section, re.DOTALL).group(1)
    exec(compile(code, str(README), "exec"), {})
    assert capsys.readouterr().out == "slope 3.00, intercept 1.00\\n"
"""


def files(slug: str, card: argparse.Namespace) -> dict[str, str]:
    """The files of a new package: path inside it to text."""
    authors = card.author or ["to be filled in"]
    package = workspace.import_name(slug)
    fields = {
        "slug": slug,
        "package": package,
        "description": _toml(card.title),
        "docstring": _docstring(card.title),
        "title": _toml(card.title),
        "title_bare": card.title,
        "authors": json.dumps(authors, ensure_ascii=False),
        "authors_text": ", ".join(authors),
        "authors_bibtex": " and ".join(authors),
        "year": str(card.year),
        "venue": _toml(card.venue),
        "venue_bare": card.venue,
        "venue_text": f"{card.venue} " if card.venue else "",
        "arxiv": _toml(card.arxiv),
        "arxiv_text": card.arxiv,
        "official_code": _toml(card.official_code),
        "cite_key": f"{slug.replace('-', '')}{card.year}",
    }
    source = f"src/{package}"
    templates = {
        "pyproject.toml": PYPROJECT,
        "CHANGELOG.md": CHANGELOG,
        f"{source}/__init__.py": INIT,
        f"{source}/py.typed": "",
        f"{source}/line.py": LINE,
        f"{source}/experiments.py": EXPERIMENTS,
        f"{source}/benchmarks.py": BENCHMARKS,
        f"{source}/cli.py": CLI,
        "tests/conftest.py": CONFTEST,
        "tests/test_claims.py": TEST_CLAIMS,
        "tests/test_line.py": TEST_LINE,
        "tests/test_cli.py": TEST_CLI,
        "results/.gitkeep": "",
    }
    written = {path: Template(text).substitute(fields) for path, text in templates.items()}
    written["README.md"] = Template(README).substitute(fields | {"title": card.title})
    return written


def write(root: Path, slug: str, card: argparse.Namespace) -> Path:
    """Write a new package below `root` and return its folder.

    Raises:
        ValueError: if the slug is no good, or taken.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", slug) or slug in (workspace.SHARED, "root"):
        raise ValueError(f"slug must be lower-case words joined by '-' (and not 'shared' or 'root'), got {slug!r}")
    target = workspace.folder(slug, root)
    if target.exists():
        raise ValueError(f"packages/{slug} is there already")
    for path, text in files(slug, card).items():
        file = target / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return target


def parser() -> argparse.ArgumentParser:
    """The options: what goes on the paper card."""
    arguments = argparse.ArgumentParser(description="Make a package for a paper.")
    arguments.add_argument("slug", help="folder of the package; it is distributed as <slug>-impl")
    arguments.add_argument("--title", required=True, help="of the paper")
    arguments.add_argument("--arxiv", required=True, help="number, as 2111.00396")
    arguments.add_argument("--author", action="append", help="once for each author")
    arguments.add_argument("--year", type=int, help="default: that of the arXiv number")
    arguments.add_argument("--venue", default="arXiv")
    arguments.add_argument("--official-code", default="none", metavar="OWNER/NAME@COMMIT")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Make the package and say what comes next."""
    card = parser().parse_args(argv)
    if not re.fullmatch(r"\d{4}\.\d{4,5}", card.arxiv):
        workspace.stop(f"--arxiv must be a number as 2111.00396, got {card.arxiv!r}")
    card.year = card.year or 2000 + int(card.arxiv[:2])
    try:
        target = write(workspace.ROOT, card.slug, card)
    except ValueError as error:
        workspace.stop(str(error))
    print(
        f"{target.relative_to(workspace.ROOT)} is there. Next: scripts/catalog.py, then scripts/test {card.slug} root"
    )
    print("Its one claim fails until you state and test the paper's own.")
    return 0


def _toml(text: str) -> str:
    # JSON's string escapes are a subset of those of TOML's basic strings
    return json.dumps(text, ensure_ascii=False)


def _docstring(text: str) -> str:
    sentence = text.replace("\\", r"\\").replace('"""', "'''").rstrip(".")
    return f'{sentence} ".' if sentence.endswith('"') else f"{sentence}."


if __name__ == "__main__":
    sys.exit(main())
