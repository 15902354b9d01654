"""Batched samples against a loop, enumeration against sampling, the error over samples."""

import os
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from robust_fidelity_impl.datasets import ba2motifs
from robust_fidelity_impl.experiments import of_graph
from robust_fidelity_impl.measures import score_explanations
from robust_fidelity_impl.models import GCN
from robust_fidelity_impl.probe import Probe
from shared_impl.bench import Benchmark, Case, Setting, Timing, checkout_revision, fitted_slope, module_from_file
from shared_impl.cli import UserError
from shared_impl.results import Row

__all__ = ["BENCHMARKS"]


HOW: tuple[tuple[str, Literal["never", "always"]], ...] = (("50 samples", "never"), ("all subsets", "always"))


def _subject(seed: int, **options: Any) -> Any:
    torch.manual_seed(seed)
    model = GCN(in_features=10, classes=2)
    graph = ba2motifs(2, seed=seed)[0]
    return of_graph(Probe(model, graph, **options), graph)


def batched(setting: Setting) -> Iterator[Case | Row | str]:
    """All samples in one forward pass, against one graph after the other (which is also how memory is bounded)."""
    for samples in (10,) if setting.quick else (10, 50, 200):
        one, all_ = _subject(setting.seed, max_edges=1), _subject(setting.seed)
        score: dict[str, Any] = {"n_samples": samples, "label": 0, "exact": "never"}
        forms: dict[str, Callable[[], object]] = {
            "one at a time": partial(score_explanations, one.probe, one.truth[None], **score),
            "batched": partial(score_explanations, all_.probe, all_.truth[None], **score),
            "batched, chunks of 20 graphs": partial(
                score_explanations, _subject(setting.seed, max_edges=1000).probe, all_.truth[None], **score
            ),
        }
        yield Case(f"{samples} samples, 25 nodes", forms, baseline="one at a time", size=samples)


def enumeration(setting: Setting) -> Iterator[Case | Row | str]:
    """All subsets of the explanation and of what is beside it, against 50 samples; exact has no error to trade."""
    subject = _subject(setting.seed)
    inside = torch.nonzero(subject.probe.domain).flatten()
    for size in (4, 8) if setting.quick else (4, 6, 8, 10, 12):
        # a graph of 2 * size edges, half of which are the explanation
        domain = torch.zeros_like(subject.probe.domain)
        domain[inside[: 2 * size]] = True
        probe = _subject(setting.seed).probe
        probe.domain = domain
        explanation = torch.zeros_like(domain)
        explanation[inside[:size]] = True
        forms: dict[str, Callable[[], object]] = {
            how: partial(score_explanations, probe, explanation[None], label=0, n_samples=50, exact=exact)
            for how, exact in HOW
        }
        yield Case(f"{size} edges in and {size} out", forms, baseline="50 samples", size=size)


def error(setting: Setting) -> Generator[Case | Row | str, Mapping[str, Timing] | None, None]:
    """The error of Fid+ and Fid- over the number of samples, by way of sampling, against enumeration."""
    subject = _subject(setting.seed)
    domain = torch.zeros_like(subject.probe.domain)
    domain[torch.nonzero(subject.truth).flatten()] = True
    others = torch.nonzero(subject.probe.domain & ~subject.truth).flatten()[:6]
    domain[others] = True
    subject.probe.domain = domain
    score = partial(score_explanations, subject.probe, subject.truth[None], label=0, alpha1=0.3, alpha2=0.7)
    exact = score(n_samples=2, exact="always")
    counts = (10, 40) if setting.quick else (10, 40, 160, 640)
    for sampling in ("independent", "antithetic", "stratified"):
        errors = []
        for count in counts:
            trials = [
                score(n_samples=count, exact="never", sampling=sampling, seed=seed)
                for seed in range(5 if setting.quick else 100)
            ]
            squares = torch.stack([(t.plus - exact.plus) ** 2 + (t.minus - exact.minus) ** 2 for t in trials])
            errors.append(float(squares.mean().sqrt()))
            yield Row(f"{count} samples", sampling, "error, 1e-3", 1e3 * errors[-1], higher_is_better=False)
        yield Row(
            "slope of log error", sampling, "over log samples", fitted_slope(counts, errors), higher_is_better=False
        )


def official(setting: Setting) -> Iterator[Case | Row | str]:
    """The authors' functions, imported from a checkout of AslanDing/Fidelity in ROBUST_FIDELITY_OFFICIAL_DIR."""
    place = os.environ.get("ROBUST_FIDELITY_OFFICIAL_DIR", "")
    path = Path(place) / "tools" / "fidelity.py"
    if not place or not path.is_file():
        raise UserError(
            "bench official needs ROBUST_FIDELITY_OFFICIAL_DIR: the folder of a checkout of AslanDing/Fidelity"
        )
    theirs = module_from_file(path, "official_fidelity")
    subject = _subject(setting.seed, mode="weight")
    probe, truth = subject.probe, subject.truth
    graph = ba2motifs(2, seed=setting.seed)[0]
    model = _Named(probe.model)
    weight = graph.edge_mask.float()
    features = graph.x.expand(len(graph.x), -1, -1)
    arguments = ("graph", model, features, graph.edge_index, graph.edge_index, weight, subject.label, 0)
    plus, minus, *_ = theirs.cal_ori_fid(*arguments)
    ours = score_explanations(probe, truth[None], label=subject.label, alpha1=1.0, alpha2=0.0)
    difference = max(abs(float(plus) - float(ours.plus)), abs(float(minus) - float(ours.minus)))
    yield Row("original Fid+ and Fid-", "ours", "largest difference", difference, higher_is_better=False)
    samples = 20 if setting.quick else 2000
    robust = score_explanations(probe, truth[None], label=subject.label, n_samples=samples, exact="never")
    names = (("plus", "edit_distance_gt_ratio_plus"), ("minus", "edit_distance_gt_ratio_minus"))
    for measure, name in names:
        found = getattr(theirs, name)(*arguments, k=0.1, max_length=samples)
        mean = float(torch.as_tensor(found[0]).float().mean())
        gap = abs(mean - float(getattr(robust, measure))) / float(getattr(robust, f"{measure}_se"))
        yield Row(f"robust, {samples} samples each", "ours", f"Fid {measure}, standard errors apart", gap)
    forms: dict[str, Callable[[], object]] = {
        "official": lambda: [getattr(theirs, name)(*arguments, k=0.1, max_length=50) for _, name in names],
        "ours": partial(score_explanations, probe, truth[None], label=subject.label, exact="never"),
    }
    yield Case("Fid+ and Fid- of 50 samples, 25 nodes", forms, baseline="official", rounds=5)
    yield f"official: AslanDing/Fidelity@{checkout_revision(Path(place))}, tools/fidelity.py, edges by weight 0"


class _Named(torch.nn.Module):
    """A classifier under the names of the authors' code."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model.eval()

    def forward(self, x: Any, edge_index: Any, edge_weights: Any = None, embedding: bool = False) -> Any:
        out = self.model(x, edge_index, edge_weight=edge_weights)
        return (out, out) if embedding else out


BENCHMARKS: Mapping[str, Benchmark] = {
    "batched": Benchmark("Samples in one pass against one at a time", batched, xlabel="samples"),
    "enumeration": Benchmark("All subsets against 50 samples", enumeration, xlabel="edges in the explanation"),
    "error": Benchmark("Error over samples", error),
    "official": Benchmark("Beside the authors' code", official),
}
