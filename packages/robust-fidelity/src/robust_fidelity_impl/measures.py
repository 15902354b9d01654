"""Fidelity of explanations: the original measures and the robust ones (section 4)."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch_geometric.data import Data

from robust_fidelity_impl.pairs import explanation_units
from robust_fidelity_impl.probe import MAX_EDGES, Probe

__all__ = ["FidelityScore", "Scores", "fidelity", "robust_fidelity", "score_explanations"]

Sampling = Literal["independent", "antithetic", "stratified"]
MOST_ENUMERATED = 16
OTHER = 0x5851F42D4C957F2D
"""Makes another seed of a seed, which is not that of a neighbour."""


@dataclass(frozen=True)
class Scores:
    """Fidelity of several explanations of one graph; each a tensor of as many values.

    `plus`, `minus` and `delta` are by probability of the label; `*_acc` by whether it is predicted; `*_se` are standard
    errors over the samples (0 where all subsets were enumerated), made so that 1.96 of them cover for rare effects too
    (Agresti and Coull's addition of two samples at either end of what was seen; where all samples are alike, the other
    end is what deleting everything at once does). What no sample and not that deletion shows is not in them.
    """

    plus: Float[Tensor, "explanations"]
    minus: Float[Tensor, "explanations"]
    delta: Float[Tensor, "explanations"]
    plus_acc: Float[Tensor, "explanations"]
    minus_acc: Float[Tensor, "explanations"]
    delta_acc: Float[Tensor, "explanations"]
    plus_se: Float[Tensor, "explanations"]
    minus_se: Float[Tensor, "explanations"]
    delta_se: Float[Tensor, "explanations"]
    plus_acc_se: Float[Tensor, "explanations"]
    minus_acc_se: Float[Tensor, "explanations"]
    delta_acc_se: Float[Tensor, "explanations"]
    size: Float[Tensor, "explanations"]
    """undirected edges in the explanation"""


@dataclass(frozen=True)
class FidelityScore:
    """Fidelity of one explanation: high `plus`, low `minus` and high `delta` are good, at equal sizes only."""

    plus: float
    minus: float
    delta: float
    plus_acc: float
    minus_acc: float
    delta_acc: float
    plus_se: float
    minus_se: float
    delta_se: float
    plus_acc_se: float
    minus_acc_se: float
    delta_acc_se: float
    size: int
    """undirected edges in the explanation"""
    edges: int
    """undirected edges that it could hold"""
    label: int
    probability: float
    """of the label, on the whole graph"""
    correct: bool
    """whether the label is predicted on the whole graph; if not, `*_acc` cannot be positive"""
    exact: bool
    """all subsets were enumerated"""


def fidelity(model: nn.Module, data: Data, edge_mask: Shaped[Tensor, "edges"], **options: Any) -> FidelityScore:
    """The original measures: Fid+ without the explanation, Fid- with nothing else. Options as `robust_fidelity`."""
    return robust_fidelity(model, data, edge_mask, alpha1=1.0, alpha2=0.0, **options)


def robust_fidelity(
    model: nn.Module,
    data: Data,
    edge_mask: Shaped[Tensor, "edges"],
    *,
    alpha1: float = 0.1,
    alpha2: float = 0.9,
    n_samples: int = 50,
    target: Literal["true", "pred"] | int = "true",
    task: Literal["graph", "node"] = "graph",
    index: int | None = None,
    hops: int | None = None,
    mode: Literal["delete", "weight"] = "delete",
    output: Literal["logits", "log_probs", "probs"] = "logits",
    exact: Literal["auto", "never", "always"] = "auto",
    sampling: Sampling = "independent",
    threshold: float | None = None,
    top_k: int | None = None,
    symmetrise: Literal["mean", "max"] | None = None,
    seed: int = 0,
    max_edges: int = MAX_EDGES,
) -> FidelityScore:
    """Robust fidelity of one explanation.

    Fid+ deletes each edge of the explanation with probability `alpha1`; Fid- keeps each other edge with probability
    `alpha2`; both are the score on the whole graph less the mean score over samples. With `alpha1=1` and `alpha2=0`
    they are the original measures.

    Args:
        data: with x, edge_index and, for `target="true"`, y.
        edge_mask: the explanation over directed edges: zeros and ones, or weights with `threshold` or `top_k`.
        target: the label whose score counts: the true one, the predicted one (then the first term by accuracy is 1),
            or a number.
        exact: enumerate all subsets instead of sampling: `auto` where there are at most four times as many as samples.
        sampling: `independent`; `antithetic`: in pairs that delete opposite edges; `stratified`: by the number of edges
            deleted. Explanations of one graph that are scored with one seed see the same random numbers; another graph
            sees others.
        seed: of the samples.

    Raises:
        ValueError: shares outside [0, 1], a mask that is none, a label that the model does not know.
    """
    probe = Probe(model, data, task=task, index=index, hops=hops, mode=mode, output=output, max_edges=max_edges)
    among = torch.zeros(probe.n_units_of_graph, dtype=torch.bool)
    among[probe.unit_names[probe.domain]] = True
    whole = explanation_units(
        edge_mask.cpu(), probe.units_of_graph, probe.n_units_of_graph,
        threshold=threshold, top_k=top_k, symmetrise=symmetrise, among=among,
    )  # fmt: skip
    explanation = probe.units(whole)
    first = probe.probabilities(probe.everything()[None])[0]
    label = _label(data, first, target, index if task == "node" else None)
    scores = score_explanations(
        probe, explanation[None], label=label, alpha1=alpha1, alpha2=alpha2, n_samples=n_samples, exact=exact,
        sampling=sampling, seed=seed,
    )  # fmt: skip
    values = {name: float(getattr(scores, name)[0]) for name in _NAMES}
    sizes = int(explanation.sum()), int((probe.domain & ~explanation).sum())
    return FidelityScore(
        **values, size=sizes[0], edges=sum(sizes), label=label, probability=float(first[label]),
        correct=int(first.argmax()) == label,
        exact=_enumerated(sizes[0], alpha1, n_samples, exact) and _enumerated(sizes[1], 1 - alpha2, n_samples, exact),
    )  # fmt: skip


_NAMES = tuple(f"{name}{kind}" for kind in ("", "_acc", "_se", "_acc_se") for name in ("plus", "minus", "delta"))


def score_explanations(
    probe: Probe,
    explanations: Bool[Tensor, "explanations units"],
    *,
    label: int,
    alpha1: float = 0.1,
    alpha2: float = 0.9,
    n_samples: int = 50,
    exact: Literal["auto", "never", "always"] = "auto",
    sampling: Sampling = "independent",
    seed: int = 0,
) -> Scores:
    """Robust fidelity of many explanations of one graph, with common random numbers, in few forward passes.

    Raises:
        ValueError: shares outside [0, 1], a number of samples below 2, an unknown label, more than 16 edges to
            enumerate with `exact="always"`.
    """
    for name, share in (("alpha1", alpha1), ("alpha2", alpha2)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} must be from 0 to 1, got {share}")
    if n_samples < 2 or (sampling == "antithetic" and (n_samples % 2 or n_samples < 4)):
        raise ValueError(f"n_samples must be at least 2, for antithetic pairs even and at least 4, got {n_samples}")
    if sampling not in ("independent", "antithetic", "stratified"):
        raise ValueError(f"sampling must be independent, antithetic or stratified, got {sampling!r}")
    if exact not in ("auto", "never", "always"):
        raise ValueError(f"exact must be auto, never or always, got {exact!r}")
    first = probe.probabilities(probe.everything()[None])[0]
    if not 0 <= label < len(first):
        raise ValueError(f"label must be from 0 to {len(first) - 1}, got {label}")
    # another graph, other random numbers: means over graphs would else share the error of one draw
    seed = (int(seed) ^ probe.fingerprint) % 2**63
    uniform = _uniform(n_samples, probe.n_units, sampling, seed)
    keeps, weights = [], []
    for explanation in explanations:
        others = probe.domain & ~explanation
        for deleted, share in ((explanation, alpha1), (others, 1 - alpha2)):
            weight = None
            if _enumerated(int(deleted.sum()), share, n_samples, exact):
                gone, weight = _subsets(deleted, share)
            elif sampling == "stratified":
                gone = _stratified(deleted, share, uniform, seed)
            else:
                gone = deleted & (uniform < share)
            keeps.append(~gone if weight is not None else torch.cat([~gone, ~deleted[None]]))
            weights.append(weight)
    everything = probe.probabilities(torch.cat(keeps)) if keeps else torch.empty(0, len(first))
    found = everything.split([len(keep) for keep in keeps])
    base = torch.stack([first[label], (first.argmax() == label).double()])
    rows = []
    for i in range(len(explanations)):
        (plus, plus_se, plus_drops), (minus, minus_se, minus_drops) = (
            _side(_drops(found[j], base, label), weights[j], sampling) for j in (2 * i, 2 * i + 1)
        )
        both = (plus_se**2 + minus_se**2).sqrt()
        if plus_drops is not None and minus_drops is not None:
            paired = ~(_alike(plus_drops) | _alike(minus_drops))
            both = torch.where(paired, _error(plus_drops - minus_drops, sampling), both)
        # by probability and by label: plus, minus, delta; then their errors
        rows.append(torch.stack([plus, minus, plus - minus, plus_se, minus_se, both]).view(2, 3, 2).mT.flatten())
    table = torch.stack(rows) if rows else torch.empty(0, len(_NAMES), dtype=torch.float64)
    return Scores(**dict(zip(_NAMES, table.unbind(1), strict=True)), size=explanations.sum(1).double())


def _drops(probabilities: Tensor, base: Tensor, label: int) -> Float[Tensor, "samples 2"]:
    found = torch.stack([probabilities[:, label], (probabilities.argmax(1) == label).double()], 1)
    return base - found


def _side(drops: Tensor, weight: Tensor | None, sampling: Sampling) -> tuple[Tensor, Tensor, Tensor | None]:
    """Mean and standard error, by probability and by label, and the samples; the last one deletes everything."""
    if weight is not None:
        return (weight[:, None] * drops).sum(0), torch.zeros(2, dtype=torch.float64), None
    drops, whole = drops[:-1], drops[-1]
    return drops.mean(0), _error(drops, sampling, whole), drops


def _alike(drops: Tensor) -> Bool[Tensor, "2"]:
    return drops.amax(0) - drops.amin(0) < 1e-6  # rounding of float32


def _error(drops: Float[Tensor, "samples 2"], sampling: Sampling, whole: Tensor | None = None) -> Float[Tensor, "2"]:
    """Standard errors of means: with two samples added at either end, as Agresti and Coull do for shares.

    Where all samples are alike, `whole` stands for an end that none of them shows.
    """
    alike = _alike(drops)
    if sampling == "antithetic":
        half = len(drops) // 2
        # a pair deletes opposite edges, so that one of the two shows what is rare
        drops, whole = (drops[:half] + drops[half:]) / 2, None if whole is None else (whole + drops[0]) / 2
    n = len(drops)
    low, high = drops.amin(0), drops.amax(0)
    if whole is not None:
        low = torch.where(alike, torch.minimum(low, whole), low)
        high = torch.where(alike, torch.maximum(high, whole), high)
    added = (torch.cat([drops, *[torch.stack([low, high])] * 2]).var(0, correction=0) / (n + 4)).sqrt()
    if sampling == "stratified":
        # neighbours are of neighbouring strata: what differs between them is what is left within
        return torch.where(alike, added, ((drops[1:] - drops[:-1]).square().mean(0) / (2 * n)).sqrt())
    return added


def _uniform(samples: int, units: int, sampling: Sampling, seed: int) -> Float[Tensor, "samples units"]:
    generator = torch.Generator().manual_seed(seed)
    if sampling == "antithetic":
        half = torch.rand(samples // 2, units, generator=generator)
        return torch.cat([half, 1 - half])
    return torch.rand(samples, units, generator=generator)


def _stratified(
    deleted: Tensor, share: float, uniform: Float[Tensor, "samples units"], seed: int
) -> Bool[Tensor, "samples units"]:
    """One sample from each of equally likely ranges of the number of edges deleted: those of the smallest `uniform`."""
    generator = torch.Generator().manual_seed((seed ^ OTHER) % 2**63)
    n, samples = int(deleted.sum()), len(uniform)
    counts = torch.arange(n + 1, dtype=torch.float64)
    logs = torch.lgamma(torch.tensor(n + 1.0)) - torch.lgamma(counts + 1) - torch.lgamma(n - counts + 1)
    chances = (logs + torch.xlogy(counts, torch.tensor(share)) + torch.xlogy(n - counts, torch.tensor(1 - share))).exp()
    place = (torch.arange(samples) + torch.rand(samples, generator=generator)) / samples
    number = torch.searchsorted(chances.cumsum(0), place.double()).clamp(max=n)
    ranks = uniform[:, deleted].argsort(1).argsort(1)
    gone = torch.zeros(samples, len(deleted), dtype=torch.bool)
    gone[:, deleted] = ranks < number[:, None]
    return gone


def _enumerated(n: int, share: float, samples: int, exact: str) -> bool:
    if exact == "never":
        return False
    subsets = 1 if share in (0.0, 1.0) else 2**n
    if exact == "always":
        if n > MOST_ENUMERATED and subsets > 1:
            raise ValueError(f"exact='always' enumerates at most 2^{MOST_ENUMERATED} subsets, got {n} edges")
        return True
    return subsets <= 4 * samples


def _subsets(deleted: Tensor, share: float) -> tuple[Bool[Tensor, "subsets units"], Float[Tensor, "subsets"]]:
    """What is deleted, in every way, and how likely each is."""
    n = int(deleted.sum())
    if share in (0.0, 1.0):
        gone = (deleted if share else torch.zeros_like(deleted))[None]
        return gone, torch.ones(1, dtype=torch.float64)
    bits = (torch.arange(2**n)[:, None] >> torch.arange(n)) & 1
    gone = torch.zeros(2**n, len(deleted), dtype=torch.bool)
    gone[:, deleted] = bits.bool()
    count = bits.sum(1).double()
    return gone, share**count * (1 - share) ** (n - count)


def _label(data: Data, first: Tensor, target: str | int, index: int | None) -> int:
    if isinstance(target, int):
        return target
    if target == "pred":
        return int(first.argmax())
    if target != "true":
        raise ValueError(f"target must be 'true', 'pred' or a label, got {target!r}")
    if data.y is None:
        raise ValueError("target='true' needs the graph's y; use target='pred'")
    y = data.y if index is None else data.y[index]
    if y.numel() != 1 or float(y) != int(y):
        raise ValueError(f"y must be one whole number, the label, got {y.tolist()}; one-hot labels: y.argmax(-1)")
    return int(y)
