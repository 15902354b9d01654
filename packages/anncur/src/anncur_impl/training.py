"""Training a cross-encoder on answered questions, and distilling it into a dual encoder (sections 2.1 and 3)."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy import ndarray
from rich.console import Console
from torch import Tensor

from anncur_impl.baselines import TfidfRetriever
from anncur_impl.encoders import CrossEncoder, DualEncoder, PairBatch, pair_batch
from anncur_impl.item_index import top_k
from shared_impl.train import FitResult, TrainConfig, fit

__all__ = ["distill_dual_encoder", "ranking_accuracy", "train_cross_encoder"]


def train_cross_encoder(
    model: CrossEncoder,
    queries: Sequence[str],
    positives: Sequence[Sequence[int]],
    items: Sequence[str],
    *,
    steps: int = 600,
    negatives: int = 15,
    questions_per_step: int = 16,
    lr: float = 1e-3,
    seed: int = 0,
    out_dir: Path | None = None,
    console: Console | None = None,
) -> FitResult:
    """Softmax cross-entropy over one positive item and `negatives` others: half hard ones, which TF-IDF ranks high.

    The paper takes 63 negatives that a dual encoder mines.

    Args:
        positives: for each query the items that answer it, by their number; queries without one are left out.

    Raises:
        ValueError: if no query has a positive item, or a number is out of range.
    """
    usable = [i for i, found in enumerate(positives) if len(found)]
    if not usable:
        raise ValueError("positives must hold at least one item for at least one query")
    if max(max(positives[i]) for i in usable) >= len(items) or min(min(positives[i]) for i in usable) < 0:
        raise ValueError(f"positives must be numbers of items, from 0 to {len(items) - 1}")
    if any(len(set(positives[i])) >= len(items) for i in usable):
        raise ValueError("positives must leave an item that does not answer the query")
    query_words = model.tokens(queries, "query")
    item_words = model.tokens(items, "item")
    hard = _hard_negatives(queries, positives, items, most=50)

    def draw(generator: torch.Generator) -> PairBatch:
        chosen = torch.randint(len(usable), (questions_per_step,), generator=generator).tolist()
        left, right = [], []
        for place in chosen:
            query = usable[place]
            right_answers = positives[query]
            answer = right_answers[int(torch.randint(len(right_answers), (1,), generator=generator))]
            wrong = _others(right_answers, len(items), negatives, generator)
            pool = hard[query]
            for j in range(negatives // 2 if len(pool) else 0):
                wrong[j] = int(pool[int(torch.randint(len(pool), (1,), generator=generator))])
            left += [query_words[query]] * (1 + negatives)
            right += [item_words[i] for i in (answer, *wrong)]
        return pair_batch(left, right)

    def loss(net: CrossEncoder, batch: PairBatch) -> Tensor:
        scores = net.score(batch).view(-1, 1 + negatives)
        return F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.int64, device=scores.device))

    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    config = TrainConfig(steps=steps, eval_every=max(1, steps // 10), grad_clip=1.0, seed=seed)
    return fit(model, loss, draw, optimizer=optimizer, config=config, out_dir=out_dir, console=console)


def _others(own: Sequence[int], n: int, count: int, generator: torch.Generator) -> list[int]:
    """Numbers below n that are not among `own`, each as likely."""
    skipped = np.unique(np.asarray(own))
    drawn = torch.randint(n - len(skipped), (count,), generator=generator).numpy()
    # the j-th number that is not skipped is j plus as many as are skipped before it
    return (drawn + np.searchsorted(skipped - np.arange(len(skipped)), drawn, side="right")).tolist()  # type: ignore[no-any-return]


def _hard_negatives(
    queries: Sequence[str], positives: Sequence[Sequence[int]], items: Sequence[str], most: int
) -> list[ndarray]:
    ranked = top_k(TfidfRetriever(items).similarity(queries), most)
    return [row[~np.isin(row, list(own))] for row, own in zip(ranked, positives, strict=True)]


def distill_dual_encoder(
    model: DualEncoder,
    queries: Sequence[str],
    items: Sequence[str],
    scores: Float[ndarray, "queries items"],
    *,
    labels: int = 64,
    steps: int = 400,
    queries_per_step: int = 16,
    lr: float = 1e-3,
    seed: int = 0,
    console: Console | None = None,
) -> FitResult:
    """Cross-entropy between the softmaxes of both models over the `labels` best items of each training query.

    Args:
        scores: of the cross-encoder, for the training queries: the same calls that an ANNCUR index costs.
    """
    best = top_k(np.asarray(scores, dtype=np.float64), min(labels, len(items)))
    target = torch.from_numpy(np.take_along_axis(scores, best, axis=1)).float().softmax(-1)
    query_ids, item_ids = model.batch(queries), model.batch(items)

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        chosen = torch.randint(len(queries), (queries_per_step,), generator=generator)
        places = torch.from_numpy(best)[chosen]
        return query_ids[chosen], item_ids[places.flatten()], target[chosen]

    def loss(net: DualEncoder, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        query, item, wanted = batch
        vectors = net.embed(item, "item").view(len(query), -1, net.encoder.norm.normalized_shape[0])
        logits = torch.einsum("qd,qkd->qk", net.embed(query, "query"), vectors)
        return F.cross_entropy(logits, wanted)

    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    config = TrainConfig(steps=steps, eval_every=max(1, steps // 10), grad_clip=1.0, seed=seed)
    return fit(model, loss, draw, optimizer=optimizer, config=config, out_dir=None, console=console)


def ranking_accuracy(scores: Float[ndarray, "queries items"], positives: Sequence[Sequence[int]]) -> float:
    """Mean reciprocal rank of the best right item: whether a scorer is any good at its own task."""
    ranks = []
    for row, right in zip(scores, positives, strict=True):
        if len(right):
            best = row[list(right)].max()
            ranks.append(1 / (1 + int((row > best).sum())))
    if not ranks:
        raise ValueError("positives must hold at least one item for at least one query")
    return float(np.mean(ranks))
