"""Training a link predictor: target link removal, negatives, loss (section 6 of the paper)."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from rich.console import Console
from torch import Tensor

from ncnc_impl.graph import Graph, sample_negatives
from ncnc_impl.model import NCN
from ncnc_impl.splits import EvaluationSet, LinkSplit
from shared_impl.train import FitResult, TrainConfig, fit

__all__ = ["LinkLoss", "link_scorer", "predict_logits", "train_links"]

Negatives = Literal["pairs", "targets"]


class LinkLoss:
    """mean -ln sigmoid(s_positive) + mean -ln sigmoid(-s_negative), on the graph without the batch's own links.

    Args:
        graph: training graph.
        remove_targets: target link removal: the positive links of a batch are taken out of the graph, in both
            directions, before encoder and head see it; False is the paper's ablation NoTLR.
        negatives: "pairs" draws as many pairs that are no edges; "targets" replaces the second node of each positive
            by a random node, whatever it is (citation2).
    """

    def __init__(self, graph: Graph, *, remove_targets: bool = True, negatives: Negatives = "pairs") -> None:
        self.graph, self.remove_targets, self.negatives = graph, remove_targets, negatives

    def __call__(self, model: NCN, batch: tuple[Tensor, Tensor]) -> Float[Tensor, ""]:
        positive, edge = batch
        adj = self.graph.adj
        if self.remove_targets:
            removed = torch.zeros(self.graph.n_edges, dtype=torch.bool, device=edge.device)
            removed[edge] = True
            adj = self.graph.without(removed)
        h = model.encode(self.graph.x, adj)  # type: ignore[arg-type]
        negative = self._draw(positive)
        s_positive, s_negative = model.score(h, adj, torch.cat((positive, negative))).split(
            [positive.shape[0], negative.shape[0]]
        )
        return F.softplus(-s_positive).mean() + F.softplus(s_negative).mean()

    def _draw(self, positive: Int64[Tensor, "links 2"]) -> Int64[Tensor, "links 2"]:
        if self.negatives == "targets":
            others = torch.randint(self.graph.n_nodes, (positive.shape[0],)).to(positive.device)
            return torch.stack((positive[:, 0], others), 1)
        return sample_negatives(self.graph, positive.shape[0])


def predict_logits(
    model: NCN,
    graph: Graph,
    pairs: Int64[Tensor, "links 2"],
    *,
    batch_size: int = 8192,
    h: Float[Tensor, "nodes hidden"] | None = None,
) -> Float[Tensor, "links"]:
    """Logits of pairs in evaluation mode, without gradients.

    Args:
        h: node vectors, where they were computed before.
    """
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            if h is None:
                h = model.encode(graph.x, graph.adj)  # type: ignore[arg-type]
            parts = [
                model.score(h, graph.adj, pairs[start : start + batch_size])
                for start in range(0, pairs.shape[0], batch_size)
            ]
    finally:
        model.train(training)
    return torch.cat(parts) if parts else h.new_empty(0)


def link_scorer(model: NCN, graph: Graph, *, batch_size: int = 8192) -> Callable[[Tensor], Float[Tensor, "links"]]:
    """A function from pairs to logits that encodes the graph once."""
    training = model.training
    model.eval()
    with torch.no_grad():
        h = model.encode(graph.x, graph.adj)  # type: ignore[arg-type]
    model.train(training)
    return lambda pairs: predict_logits(model, graph, pairs, batch_size=batch_size, h=h)


def train_links(
    model: NCN,
    split: LinkSplit,
    *,
    epochs: int = 100,
    batch_size: int = 1024,
    encoder_lr: float = 0.004,
    head_lr: float = 0.002,
    remove_targets: bool = True,
    negatives: Negatives = "pairs",
    grad_clip: float | None = None,
    eval_batch_size: int = 8192,
    eval_every: int = 1,
    monitor: str = "valid_hits@100",
    patience: int | None = None,
    restore_best: bool = True,
    seed: int = 0,
    max_seconds: float | None = None,
    out_dir: Path | None = None,
    console: Console | None = None,
) -> FitResult:
    """Train with Adam, two learning rates, evaluating every `eval_every` epochs on what the split holds out.

    Incomplete batches at the end of an epoch are left out, unless they are all there is. Each row of the result's
    history has `valid_*` metrics, and `test_*` metrics wherever some validation metric is the best so far.

    Args:
        batch_size: positive links a step; as many negatives come with them.
        monitor: metric that decides which epoch is best.
        patience: evaluations without a new best after which training stops.
        out_dir: where checkpoints go; a run that was cut short goes on from there.

    Raises:
        ValueError: if the graph has no features (give it some, or categories) or there is no link to learn from.
    """
    graph = split.train
    if graph.x is None:
        raise ValueError("the graph has no features: give it some, or one category a node (Graph.with_features)")
    if graph.n_edges == 0:
        raise ValueError("the training graph has no edges")
    positives = graph.edges if split.positives is None else split.positives
    edge = torch.arange(graph.n_edges) if split.positives is None else _edge_numbers(graph, positives)
    steps = max(1, positives.shape[0] // batch_size)
    size = min(batch_size, positives.shape[0])
    optimizer = torch.optim.Adam(
        [
            {"params": [p for p in model.encoder.parameters() if p.requires_grad], "lr": encoder_lr},
            {"params": model.head.parameters(), "lr": head_lr},
        ],
        fused=True,
    )
    test_graph = graph if split.test_input is None else split.test_input

    best: dict[str, float] = {}

    def evaluate(trained: Any) -> Mapping[str, float]:
        found: dict[str, float] = {}
        scorer = link_scorer(trained, graph, batch_size=eval_batch_size)
        if split.valid is not None:
            found |= _named("valid", split.valid, scorer)
        # test metrics matter where a validation metric is at its best; elsewhere they would only cost time
        improved = {name for name, value in found.items() if value > best.get(name, float("-inf"))}
        best.update({name: found[name] for name in improved})
        if split.test is not None and (improved or split.valid is None):
            if test_graph is not graph:
                scorer = link_scorer(trained, test_graph, batch_size=eval_batch_size)
            found |= _named("test", split.test, scorer)
        return found

    has_sides = split.valid is not None or split.test is not None
    watched = monitor if split.valid is not None else "train_loss"
    config = TrainConfig(
        epochs=epochs,
        batch_size=size,
        drop_last=True,
        eval_every=steps * eval_every,
        grad_clip=grad_clip,
        monitor=watched,
        mode="max" if split.valid is not None else "min",
        patience=patience,
        restore_best=restore_best and split.valid is not None,
        seed=seed,
        max_seconds=max_seconds,
    )
    loss = LinkLoss(graph, remove_targets=remove_targets, negatives=negatives)
    return fit(
        model,
        loss,
        (positives, edge.to(positives.device)),
        optimizer=optimizer,
        evaluate=evaluate if has_sides else None,
        config=config,
        out_dir=out_dir,
        console=console,
    )


def _named(side: str, evaluation: EvaluationSet, scorer: Callable[[Tensor], Tensor]) -> dict[str, float]:
    return {f"{side}_{name}": value for name, value in evaluation.metrics(scorer).items()}


def _edge_numbers(graph: Graph, positives: Tensor) -> Tensor:
    """The row of `graph.edges` that each link is."""
    n = graph.n_nodes
    keys = graph.edges[:, 0] * n + graph.edges[:, 1]
    wanted = positives.min(1).values * n + positives.max(1).values
    at = torch.searchsorted(keys, wanted).clamp_(max=keys.numel() - 1)
    if not bool((keys[at] == wanted).all()):
        raise ValueError("split.positives must be edges of split.train")
    return at
