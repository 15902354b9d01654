"""The command line, `anncur-impl`: its own verbs; `info`, `reproduce` and `bench` come from what is declared.

torch is imported only when a command runs.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from anncur_impl.files import SCORER, read_answers, read_texts, scorer_by_name
from shared_impl.cli import Options, UserError, bad_input, run

__all__ = ["main"]

SLUG = "anncur"
EXPERIMENTS = ("wikiqa", "black-boxes", "spectrum")
BENCHMARKS = ("overhead", "hnsw", "official", "wall-time")


@dataclass(frozen=True)
class Demo(Options):
    """Find the nearest digits under a kernel with a tenth of the calls: recall over budgets, a table and a plot."""

    def run(self) -> Any:
        from anncur_impl.demo import demo

        return demo(seed=self.seed, device=self.torch_device(), out_dir=self.out_dir(SLUG), console=self.console())


@dataclass(frozen=True, kw_only=True)
class Train(Options):
    """Train a small cross-encoder on answered questions: lines of label (0 or 1), question, text, apart by tabs."""

    pairs: Annotated[Positional[Path], arg(metavar="FILE")]
    """the answered questions; `-` reads stdin"""
    kind: Literal["emb", "cls"] = "emb"
    """how the score is made of the states"""
    steps: int = 600

    def run(self) -> Any:
        import torch

        from anncur_impl.encoders import ClsCrossEncoder, EmbCrossEncoder
        from anncur_impl.training import train_cross_encoder

        questions, texts, positives = read_answers(self.pairs)
        if self.steps < 1:
            raise UserError(f"--steps must be at least 1, got {self.steps}")
        torch.manual_seed(self.seed)
        model = (EmbCrossEncoder() if self.kind == "emb" else ClsCrossEncoder()).to(self.torch_device())
        result = train_cross_encoder(
            model, questions, positives, texts, steps=self.steps, seed=self.seed, console=self.console()
        )
        folder = self.out_dir(SLUG) / "scorer"
        model.cpu().save_pretrained(folder)
        self.console().print(f"scorer: {folder}", highlight=False)
        return {"loss": result.history[-1]["train_loss"], "scorer": str(folder)}


@dataclass(frozen=True, kw_only=True)
class Index(Options):
    """Score anchor queries against all items and keep the factorisation."""

    items: Annotated[Positional[Path], arg(metavar="ITEMS")]
    """items, a line each: text, or JSON with a field `text`; `-` reads stdin"""
    queries: Annotated[Path, arg(metavar="QUERIES")]
    """anchor queries, likewise: typical ones, not those that you will search for"""
    scorer: Annotated[str, arg(help=SCORER)]
    budget: int = 200
    """calls of the scorer a query, when searching"""
    split: Literal["half", "auto"] = "half"
    """share of the budget for anchors: half, or what finds most on anchor queries that are kept back"""

    def run(self) -> Any:
        from anncur_impl.search import ANNCUR

        items, queries = read_texts(self.items), read_texts(self.queries)
        if self.budget < 2:
            raise UserError(f"--budget must be at least 2, got {self.budget}")
        scorer = scorer_by_name(self.scorer)
        with bad_input():
            made = ANNCUR(scorer, budget=self.budget, split=self.split, seed=self.seed).fit(queries, items)
        path = self.out_dir(SLUG) / "index.npz"
        made.save(path)
        console = self.console()
        console.print(f"{made.indexing_calls_:,} calls; index: {path}", highlight=False)
        console.print(f"{len(made.anchors_)} anchors, rank {made.rank_}, condition number {made.condition_:.3g}")
        return {
            "calls": made.indexing_calls_, "anchors": len(made.anchors_), "rank": made.rank_,
            "condition": made.condition_ if made.condition_ < float("inf") else None, "index": str(path),
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Search(Options):
    """The best items of each query, with exact scores; a JSON line a query on stdout."""

    queries: Annotated[Positional[Path], arg(metavar="QUERIES")]
    """queries, a line each: text, or JSON with a field `text`; `-` reads stdin"""
    scorer: Annotated[str, arg(help=SCORER)]
    index: Path = Path("runs/anncur/index.npz")
    """what `index` made"""
    k: int = 10
    """items a query"""
    budget: int | None = None
    """calls a query (default: the index's)"""
    rounds: int = 1
    """rounds in which the calls after the anchors are spent"""

    def run(self) -> Any:
        from anncur_impl.search import ANNCUR

        queries = read_texts(self.queries)
        with bad_input():
            made = ANNCUR.load(self.index, scorer_by_name(self.scorer))
            result = made.search(queries, self.k, budget=self.budget, rounds=self.rounds)
        assert made.items_ is not None
        rows = [
            {
                "query": query,
                "found": [
                    {"item": int(i), "text": made.items_[i], "score": float(s)}
                    for i, s in zip(ids, scores, strict=True)
                ],
            }
            for query, ids, scores in zip(queries, result.ids, result.scores, strict=True)
        ]
        if self.json:
            return {"calls": result.calls, "results": rows}
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
        return None


COMMANDS: Mapping[str, type] = {"demo": Demo, "train": Train, "index": Index, "search": Search}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run("anncur_impl", COMMANDS, argv, experiments=EXPERIMENTS, benchmarks=BENCHMARKS)
