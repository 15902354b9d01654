#!/usr/bin/env python3
"""Make a package for a paper: it conforms and runs at once, and its one claim fails until the paper's are tested.

scripts/new_package.py retnet --title "Retentive Network" --arxiv 2307.08621 --family "sequence layers"
"""

import argparse
import json
import re
import sys
from pathlib import Path
from string import Template

import catalog
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
family = $family
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
pip install ./shared ./packages/$slug   # in a clone of the repository
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
"""The paper's tables, declared: so far a line through noisy points, which is no experiment of the paper."""

from collections.abc import Mapping

import torch

from shared_impl.experiments import Context, Experiment, Metric, Run, Table, grid

from .line import fit_line, fit_line_by_descent

__all__ = ["EXPERIMENTS"]

TRUE_SLOPE = 2.0


def noisy_line(run: Run, context: Context) -> dict[str, float]:
    """Distance of the fitted slope from the true one, for one draw of the noise."""
    generator = torch.Generator().manual_seed(run.seed)
    points = run.options["points"]
    x = torch.linspace(-1, 1, points)
    y = TRUE_SLOPE * x + 0.1 * torch.randn(points, generator=generator)
    fit = {"least squares": fit_line, "descent": fit_line_by_descent}[run.model]
    slope, _ = fit(x.to(context.device), y.to(context.device))
    return {"error": abs(slope - TRUE_SLOPE)}


MODELS = ("least squares", "descent")

EXPERIMENTS: Mapping[str, Experiment] = {
    "line": Experiment(
        name="line",
        title="The slope of a line under noise",
        runs={
            "cpu": grid(data=["noisy line"], model=MODELS, seeds=5, options={"points": 100}),
            "paper": grid(data=["noisy line"], model=MODELS, seeds=5, options={"points": 10_000}),
            "smoke": grid(data=["noisy line"], model=MODELS, options={"points": 10}),
        },
        execute=noisy_line,
        table=Table(Metric("error", "slope error", higher_is_better=False)),
    ),
}
'''

BENCHMARKS = '''\
"""What is timed against what, declared."""

from collections.abc import Iterator, Mapping

import torch

from shared_impl.bench import Benchmark, Case, Setting

from .line import fit_line, fit_line_by_descent

__all__ = ["BENCHMARKS"]


def line(setting: Setting) -> Iterator[Case]:
    """The closed form against gradient descent."""
    for points in (100,) if setting.quick else (100, 1000, 10_000):
        x = torch.linspace(-1, 1, points)
        y = (2 * x + 0.1 * torch.randn(points)).to(setting.device)
        x = x.to(setting.device)
        forms = {
            "descent": lambda x=x, y=y: fit_line_by_descent(x, y, steps=100),
            "closed form": lambda x=x, y=y: fit_line(x, y),
        }
        yield Case(f"{points:,} points", forms, baseline="descent", size=points)


BENCHMARKS: Mapping[str, Benchmark] = {"line": Benchmark("A line through points", line, xlabel="points")}
'''

CLI = '''\
"""The command line, `$slug-impl`: its own verbs; `info`, `reproduce` and `bench` come from what is declared.

torch is imported only when a command runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shared_impl.cli import Options, run

__all__ = ["main"]

SLUG = "$slug"
EXPERIMENTS = ("line",)
BENCHMARKS = ("line",)


@dataclass(frozen=True)
class Demo(Options):
    """Fit a line to noisy points, in closed form and by gradient descent."""

    def run(self) -> dict[str, float]:
        """Print both lines, and draw them."""
        from .demo import demo

        return demo(seed=self.seed, device=self.torch_device(), out_dir=self.out_dir(SLUG), console=self.console())


COMMANDS: Mapping[str, type] = {"demo": Demo}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run("$package", COMMANDS, argv, experiments=EXPERIMENTS, benchmarks=BENCHMARKS)
'''

DEMO = '''\
"""What the paper is about, in under a minute: a table and a plot."""

from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from shared_impl.results import plot_curves

from .line import fit_line, fit_line_by_descent

__all__ = ["demo"]


def demo(*, seed: int, device: torch.device, out_dir: Path, console: Console) -> dict[str, float]:
    """Fit a line to noisy points in two ways; returns slope and intercept."""
    x = torch.linspace(-1, 1, 50)
    y = 2 * x + 1 + 0.2 * torch.randn(50, generator=torch.Generator().manual_seed(seed))
    closed = fit_line(x.to(device), y.to(device))
    descent = fit_line_by_descent(x.to(device), y.to(device))

    table = Table("form", "slope", "intercept", title="A line through noisy points")
    for name, (slope, intercept) in {"closed form": closed, "gradient descent": descent}.items():
        table.add_row(name, f"{slope:.4f}", f"{intercept:.4f}")
    path = plot_curves(
        out_dir / "demo.png",
        {"points": (x.tolist(), y.tolist()), "line": (x.tolist(), (closed[0] * x + closed[1]).tolist())},
        xlabel="x",
        ylabel="y",
    )
    console.print(table)
    console.print(f"plot: {path}")
    return {"slope": closed[0], "intercept": closed[1]}
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


VERBS = [["demo"], ["reproduce", "--preset", "smoke"], ["bench", "--quick"]]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_every_verb_runs_and_prints_json(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*verb, "--device", "cpu", "--out", str(tmp_path), "--json"]) == 0
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
        "family": _toml(card.family),
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
        f"{source}/demo.py": DEMO,
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
    arguments.add_argument("--family", required=True, choices=catalog.FAMILIES, help="its place in the catalogue")
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
