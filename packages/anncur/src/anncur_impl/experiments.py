"""The paper's curves as tables: recall of the exact best items at budgets of scorer calls, method by method."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from anncur_impl.baselines import BiEncoderRetriever, FixItem, ItemCUR, RetrieveRerank, TfidfRetriever
from anncur_impl.cur import energy
from anncur_impl.data import Problem, digits_rbf, low_rank_matrix, mlp_scores, wikiqa_problem
from anncur_impl.encoders import DualEncoder
from anncur_impl.metrics import exact_top_k, recall_at_k
from anncur_impl.scorer import MatrixScorer
from anncur_impl.search import ANNCUR, SearchResult
from anncur_impl.training import distill_dual_encoder
from shared_impl.experiments import Context, Experiment, Finished, Metric, Plot, Run, Table, grid

__all__ = ["EXPERIMENTS", "budget_curve", "load", "search_with"]

DEPTHS = (1, 10, 100)
METHODS = (
    "ANNCUR",
    "ANNCUR, centred",
    "ANNCUR, 4 rounds",
    "ANNCUR, NumPy's pinv",
    "itemCUR",
    "fixITEM",
    "TF-IDF",
    "bi-encoder",
    "random",
)
GENERATED = ("ANNCUR", "ANNCUR, centred", "ANNCUR, 4 rounds", "ANNCUR, NumPy's pinv", "random")


def load(data: str, scale: Mapping[str, Any], console: Any = None) -> Problem:
    """A problem by its name.

    Raises:
        ValueError: if there is no such problem.
    """
    if data in ("wikiqa-emb", "wikiqa-cls"):
        return wikiqa_problem(data.removeprefix("wikiqa-"), **scale, console=console)  # type: ignore[arg-type]
    if data == "digits":
        return digits_rbf()
    if data == "low rank":
        matrix = low_rank_matrix(**scale)
    elif data == "network":
        matrix = mlp_scores(**scale)
    else:
        raise ValueError(f"data must be wikiqa-emb, wikiqa-cls, digits, low rank or network, got {data!r}")
    cut = len(matrix) * 2 // 5
    return Problem(matrix[:cut], matrix[cut:])


@lru_cache(maxsize=10)
def _dual_encoder(data: str, scale: tuple[tuple[str, Any], ...], seed: int) -> DualEncoder:
    problem = load(data, dict(scale))
    assert problem.anchor_queries is not None
    assert problem.items is not None
    torch.manual_seed(seed)
    model = DualEncoder()
    steps = min(400, dict(scale).get("train_steps", 400))
    distill_dual_encoder(model, problem.anchor_queries, problem.items, problem.anchor_scores, steps=steps, seed=seed)
    return model


def search_with(
    method: str, problem: Problem, *, k: int, budget: int, seed: int, dual_encoder: DualEncoder | None = None
) -> SearchResult:
    """Search the test queries of a problem by a method of the tables, at `budget` calls a query."""
    scores = problem.test_scores
    n = scores.shape[1]
    scorer = MatrixScorer(scores)
    queries = range(len(scores))
    if method.startswith("ANNCUR"):
        rcond = None if "pinv" in method else 1e-2
        # equation 3 as it stands: no mean is taken off
        made = ANNCUR.from_matrix(
            problem.anchor_scores, scorer=scorer, budget=budget, rcond=rcond, centre="centred" in method, seed=seed
        )
        return made.search(queries, k, rounds=4 if "rounds" in method else 1)
    if method in ("itemCUR", "fixITEM"):
        kind = ItemCUR if method == "itemCUR" else FixItem
        between = problem.item_scores if kind is ItemCUR else problem.scores_as_queries
        if between is None:
            raise ValueError(f"{method} needs scores of items with items, which this problem has not")
        # the scores between items are at hand for the first items
        width = min(budget // 2, len(between))
        chosen = np.sort(np.random.default_rng(seed).choice(len(between), width, replace=False))
        anchored = kind(scorer, range(n), k_anchor_items=width, anchors=chosen, item_scores=between[chosen])
        return anchored.search(queries, k, budget=budget)
    if method == "random":
        noise = np.random.default_rng(seed).random((len(scores), n))
        return RetrieveRerank(scorer, range(n), _Given(noise)).search(queries, k, budget=budget)
    if problem.items is None or problem.test_queries is None:
        raise ValueError(f"{method} needs texts, which this problem has not")
    if method == "TF-IDF":
        retriever: Any = TfidfRetriever(problem.items)
    elif method == "bi-encoder" and dual_encoder is not None:
        retriever = BiEncoderRetriever(dual_encoder, problem.items)
    else:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    cheap = _Given(retriever.similarity(problem.test_queries))
    return RetrieveRerank(scorer, range(n), cheap).search(queries, k, budget=budget)


class _Given:
    """A retriever whose similarities are at hand."""

    def __init__(self, table: np.ndarray) -> None:
        self.table = table

    def similarity(self, queries: Sequence[Any]) -> np.ndarray:
        """All of them."""
        return self.table


def budget_curve(
    method: str, problem: Problem, budgets: Sequence[int], *, k: int = 10, seed: int = 0, **options: Any
) -> list[float]:
    """Recall of the exact k best at each budget."""
    truth = exact_top_k(problem.test_scores, k)
    found = [search_with(method, problem, k=k, budget=budget, seed=seed, **options) for budget in budgets]
    return [recall_at_k(truth, result.ids) for result in found]


def recall(run: Run, context: Context) -> dict[str, Any]:
    """One method at one budget: recall of the best 1, 10 and 100."""
    options = dict(run.options)
    budget = options.pop("budget")
    problem = load(run.data, options, context.console)
    dual = _dual_encoder(run.data, tuple(options.items()), run.seed) if run.model == "bi-encoder" else None
    found: dict[str, Any] = {} if problem.quality is None else {"mrr": problem.quality}
    for k in DEPTHS:
        if k <= budget:
            result = search_with(run.model, problem, k=k, budget=budget, seed=run.seed, dual_encoder=dual)
            found[f"recall@{k}"] = recall_at_k(exact_top_k(problem.test_scores, k), result.ids)
            if result.calls != budget:
                raise RuntimeError(f"{run.model} made {result.calls} calls at a budget of {budget}")
    return found


def spectrum(run: Run, context: Context) -> dict[str, Any]:
    """Share of the energy in the first singular values, rows and columns centred: how near to low rank it is."""
    problem = load(run.data, run.options, context.console)
    scores = np.concatenate([problem.anchor_scores, problem.test_scores])
    ranks = np.array([1, 5, 10, 20, 50])
    centred = scores - scores.mean(1, keepdims=True) - scores.mean(0) + scores.mean()
    shares = energy(centred, ranks)
    return {f"rank {rank}": float(share) for rank, share in zip(ranks, shares, strict=True)}


def _recall_table() -> Table:
    return Table(
        [Metric(f"recall@{k}", f"recall@{k} %", scale=100) for k in DEPTHS],
        row=lambda run: f"{run.data}, {run.options['budget']} calls",
    )


def _budgets(scale: Mapping[str, Any], budgets: Sequence[int]) -> list[dict[str, Any]]:
    return [{**scale, "budget": budget} for budget in budgets]


def _quality(done: Sequence[Finished]) -> list[str]:
    by_data = {one.run.data: one.metrics["mrr"] for one in done if "mrr" in one.metrics}
    return [
        f"{data}: at its own task the scorer has a mean reciprocal rank of {mrr:.2f} among all items."
        for data, mrr in by_data.items()
    ]


FULL = {"n_items": 8000, "anchors": 500, "tests": 243, "train_steps": 3000, "item_queries": 500}
CPU = {"n_items": 3000, "anchors": 200, "tests": 100, "train_steps": 600, "item_queries": 100}
SMOKE = {"n_items": 120, "anchors": 12, "tests": 6, "train_steps": 2, "item_queries": 20}
BOXES = ("digits", "network", "low rank")
WIKIQA = ("wikiqa-emb", "wikiqa-cls")
CURVE = Plot("curves", "recall@10", lambda run: run.options["budget"], "calls of the scorer a query", logx=True)

EXPERIMENTS: Mapping[str, Experiment] = {
    "wikiqa": Experiment(
        name="wikiqa",
        title="Recall of the scorer's own best items, WikiQA",
        runs={
            "cpu": grid(data=["wikiqa-emb"], model=METHODS, seeds=5, options=_budgets(CPU, (50, 100, 200, 500))),
            "paper": grid(data=WIKIQA, model=METHODS, seeds=5, options=_budgets(FULL, (50, 100, 200, 500, 1000))),
            "smoke": grid(data=["wikiqa-emb"], model=METHODS, options=_budgets(SMOKE, (20,))),
        },
        execute=recall,
        table=_recall_table(),
        plots=(
            Plot("curves", "recall@1", CURVE.x, CURVE.xlabel, logx=True, name="top1"),
            Plot("curves", "recall@10", CURVE.x, CURVE.xlabel, logx=True, name="top10"),
            Plot("curves", "recall@100", CURVE.x, CURVE.xlabel, logx=True, name="top100"),
        ),
        notes=_quality,
    ),
    "black-boxes": Experiment(
        name="black-boxes",
        title="Recall under digits' kernel, a random network, and a matrix of low rank",
        runs={
            "cpu": grid(data=BOXES, model=GENERATED, seeds=5, options=_budgets({}, (100, 200))),
            "paper": grid(data=BOXES, model=GENERATED, seeds=10, options=_budgets({}, (100, 200, 400))),
            "smoke": grid(data=["digits"], model=GENERATED, options=_budgets({}, (100,))),
        },
        execute=recall,
        table=_recall_table(),
        plots=(Plot(metric="recall@10"),),
    ),
    "spectrum": Experiment(
        name="spectrum",
        title="Energy in the first singular values of the score matrix",
        runs={
            "cpu": grid(data=WIKIQA, model=["scores"], options=CPU) + grid(data=["digits"], model=["scores"]),
            "paper": grid(data=WIKIQA, model=["scores"], options=FULL) + grid(data=["digits"], model=["scores"]),
            "smoke": grid(data=WIKIQA, model=["scores"], options=SMOKE),
        },
        execute=spectrum,
        table=Table(
            [Metric(f"rank {rank}", f"first {rank}, share of energy %", scale=100) for rank in (1, 5, 10, 20, 50)],
            row=lambda run: "scores",
            column=lambda run: run.data,
        ),
        plots=(Plot(metric="rank 10"),),
    ),
}
