"""Splitting the edges of a graph for link prediction, without leaks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ncnc_impl.data import as_graph
from ncnc_impl.graph import Graph, as_pairs, check_pairs, is_edge, sample_negatives
from ncnc_impl.metrics import auc, hits_at_k, mrr

__all__ = ["EvaluationSet", "LinkSplit", "check_evaluation", "split_edges"]

HITS = (20, 50, 100)


@dataclass(frozen=True, eq=False)
class EvaluationSet:
    """Links to find, and what to tell them from.

    Give either `negative`, pairs that all positives compete with (Hits@K, AUC), or `negative_targets`, for each
    positive the ends that take the place of its second node (MRR).
    """

    positive: Int64[Tensor, "positives 2"]
    negative: Int64[Tensor, "negatives 2"] | None = None
    negative_targets: Int64[Tensor, "positives candidates"] | None = None

    def __post_init__(self) -> None:
        if (self.negative is None) == (self.negative_targets is None):
            raise ValueError("give either negative or negative_targets")
        others = self.negative if self.negative is not None else self.negative_targets
        assert others is not None
        if self.positive.shape[0] == 0 or others.numel() == 0:
            raise ValueError(
                f"an evaluation set needs positives and negatives, got {self.positive.shape[0]} and {others.shape[0]}"
            )

    def metrics(self, score: Callable[[Tensor], Float[Tensor, "links"]]) -> dict[str, float]:
        """Hits@20, Hits@50, Hits@100 and AUC, or MRR, of a function from pairs to scores."""
        positive = score(self.positive)
        if self.negative is not None:
            negative = score(self.negative)
            return {
                **{f"hits@{k}": hits_at_k(positive, negative, k) for k in HITS},
                "auc": auc(positive, negative),
            }
        assert self.negative_targets is not None
        n, candidates = self.negative_targets.shape
        rows = []
        # a few positives at a time: all pairs at once would be (positives x candidates x 2) integers
        step = max(1, 2**22 // candidates)
        for start in range(0, n, step):
            targets = self.negative_targets[start : start + step]
            sources = self.positive[start : start + step, :1].expand_as(targets)
            rows.append(score(torch.stack((sources, targets), 2).reshape(-1, 2)).reshape(targets.shape))
        return {"mrr": mrr(positive, torch.cat(rows))}

    def to(self, device: torch.device | str) -> "EvaluationSet":
        """A copy on another device."""
        negative = None if self.negative is None else self.negative.to(device)
        targets = None if self.negative_targets is None else self.negative_targets.to(device)
        return EvaluationSet(self.positive.to(device), negative, targets)


@dataclass(frozen=True, eq=False)
class LinkSplit:
    """A graph to learn from, and links that it lacks to validate and test on.

    Attributes:
        train: the graph with the training edges only.
        positives: training links in the direction to score them; default: the training edges.
        test_input: the graph to score test links on, where it is not `train` (validation edges as input).
    """

    train: Graph
    valid: EvaluationSet | None
    test: EvaluationSet | None
    positives: Int64[Tensor, "links 2"] | None = None
    test_input: Graph | None = None

    def to(self, device: torch.device | str) -> "LinkSplit":
        """A copy on another device."""
        return LinkSplit(
            self.train.to(device),
            None if self.valid is None else self.valid.to(device),
            None if self.test is None else self.test.to(device),
            None if self.positives is None else self.positives.to(device),
            None if self.test_input is None else self.test_input.to(device),
        )


def split_edges(
    data: Any,
    *,
    valid: float = 0.1,
    test: float = 0.2,
    valid_negatives: int | None = None,
    test_negatives: int | None = None,
    seed: int = 0,
) -> LinkSplit:
    """Hold out edges at random, and draw as many pairs that are no edges of the whole graph.

    Both directions of an edge go to the same side, the training graph has no held-out edge, and no pair occurs twice
    among the negatives of validation and test. The defaults are the paper's 70/10/20.

    Args:
        data: anything that `as_graph` takes.
        valid, test: shares of the edges; 0 for none.
        valid_negatives, test_negatives: how many negatives; default: as many as positives.

    Raises:
        ValueError: if a share is not in [0, 1), a wanted side would be empty, or there are not enough negatives.
    """
    graph = as_graph(data)
    for name, share in (("valid", valid), ("test", test)):
        if not 0 <= share < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, got {share}")
    if valid + test >= 1:
        raise ValueError(f"valid + test must be below 1, got {valid + test}")
    m = graph.n_edges
    sizes = {"valid": int(valid * m), "test": int(test * m), "train": m - int(valid * m) - int(test * m)}
    for name, share in (("valid", valid), ("test", test), ("train", 1 - valid - test)):
        if share > 0 and sizes[name] == 0:
            raise ValueError(f"{name}={share:.3g} of {m} edges is an empty split; the graph is too small for it")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(m, generator=generator).to(graph.device)
    held = {
        "valid": graph.edges[order[: sizes["valid"]]],
        "test": graph.edges[order[sizes["valid"] : sizes["valid"] + sizes["test"]]],
    }
    kept = graph.edges[order[sizes["valid"] + sizes["test"] :]]
    wanted = {
        "valid": (sizes["valid"] if valid_negatives is None else valid_negatives) if sizes["valid"] else 0,
        "test": (sizes["test"] if test_negatives is None else test_negatives) if sizes["test"] else 0,
    }
    negatives = sample_negatives(graph, sum(wanted.values()), generator=generator, unique=True)
    drawn = {"valid": negatives[: wanted["valid"]], "test": negatives[wanted["valid"] :]}
    sides = {name: EvaluationSet(held[name], drawn[name]) if sizes[name] else None for name in ("valid", "test")}
    return LinkSplit(graph.with_edges(kept), sides["valid"], sides["test"])


def check_evaluation(graph: Graph, evaluation: EvaluationSet | tuple[Any, Any] | Mapping[str, Any]) -> EvaluationSet:
    """An evaluation set from user's arrays, refused where it would mislead.

    Raises:
        ValueError: for ids out of range, an empty side, or negatives that are edges of the graph or positives.
    """
    if isinstance(evaluation, Mapping):
        evaluation = (evaluation["positive"], evaluation["negative"])
    if isinstance(evaluation, tuple):
        positive, negative = evaluation
        evaluation = EvaluationSet(as_pairs(positive, "positive"), as_pairs(negative, "negative"))
    evaluation = evaluation.to(graph.device)
    check_pairs(evaluation.positive, graph.n_nodes, "positive")
    if evaluation.negative is not None:
        negative = evaluation.negative
        check_pairs(negative, graph.n_nodes, "negative")
        wrong = int(is_edge(graph, negative).sum())
        if wrong:
            raise ValueError(f"{wrong} of {negative.shape[0]} negative pairs are edges of the graph")
        n = graph.n_nodes
        both = torch.isin(_unordered(negative, n), _unordered(evaluation.positive, n))
        if both.any():
            raise ValueError(f"{int(both.sum())} of {negative.shape[0]} negative pairs are positives as well")
    return evaluation


def _unordered(pairs: Tensor, n_nodes: int) -> Tensor:
    return pairs.min(1).values * n_nodes + pairs.max(1).values
