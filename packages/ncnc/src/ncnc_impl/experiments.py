"""The paper's tables as experiments: what to run, at which scale, beside which published numbers."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from rich.console import Console

from ncnc_impl.csr import CSR
from ncnc_impl.data import CITATION, geometric_graph, load_ogb, load_planetoid
from ncnc_impl.graph import Graph
from ncnc_impl.heuristics import HeuristicName, heuristic_scores
from ncnc_impl.model import NCN
from ncnc_impl.predictor import Variant
from ncnc_impl.recipes import RECIPES, Recipe
from ncnc_impl.splits import LinkSplit, split_edges
from ncnc_impl.training import link_scorer, train_links
from shared_impl.results import Record, Row, kept_run, plot_curves, plot_scores, settings_key, summarise

__all__ = ["ABLATION", "MAIN", "PAPER", "geometric_study", "reproduce_table", "run_seed"]

MAIN: tuple[str, ...] = ("cn", "aa", "ra", "gae", "ncn", "ncnc")
ABLATION: tuple[str, ...] = (
    "gae",
    "gae_cn",
    "gae_cnc",
    "ncn",
    "ncn2",
    "ncn_diff",
    "ncn_no_removal",
    "ncnc",
    "ncnc2",
    "ncnc_official",
)
HEURISTICS: tuple[str, ...] = get_args(HeuristicName)

# Table 2 of the ICLR 2024 paper: the mean of the metric that the recipe names, in percent
PAPER: Mapping[str, Mapping[str, float]] = {
    "cora": {"cn": 33.9, "ra": 41.1, "ncn": 89.05, "ncnc": 89.65},
    "citeseer": {"cn": 29.8, "ra": 33.6, "ncn": 91.56, "ncnc": 93.47},
    "pubmed": {"cn": 23.1, "ra": 27.0, "ncn": 79.05, "ncnc": 81.29},
    "collab": {"cn": 56.4, "ra": 64.0, "ncn": 64.76, "ncnc": 66.61},
    "ppa": {"cn": 27.7, "ra": 49.3, "ncn": 61.19, "ncnc": 61.42},
    "citation2": {"cn": 51.5, "ra": 52.0, "ncn": 88.09, "ncnc": 89.12},
    "ddi": {"cn": 17.7, "ra": 27.6, "ncn": 82.32, "ncnc": 84.11},
}


@dataclass(frozen=True)
class Scale:
    """How much of the full recipe to run; None takes the recipe's own."""

    seeds: int
    epochs: int | None = None


SCALES: Mapping[str, Scale] = {"paper": Scale(seeds=10), "cpu": Scale(seeds=2), "smoke": Scale(seeds=1, epochs=2)}


def make_split(data: str, seed: int) -> LinkSplit:
    """The split of one seed: for citation graphs 70/10/20 with twice as many validation negatives as positives, as in
    the official code; for OGB sets their own."""
    if data in CITATION:
        graph = load_planetoid(data)  # type: ignore[arg-type]
        return split_edges(graph, valid_negatives=int(0.2 * graph.n_edges), seed=seed)
    split: LinkSplit = load_ogb(data)
    return split


def make_model(recipe: Recipe, graph: Graph, name: str) -> NCN:
    """The model that a name of `ABLATION` stands for, as wide as the graph's features."""
    changes: dict[str, Any] = {}
    variant: Any = name
    if name == "ncn_no_removal":
        variant = "ncn"
    elif name == "ncnc2":
        variant, changes = "ncnc", {"depth": 2}
    elif name == "ncnc_official":
        variant, changes = "ncnc", {"compat": "official"}
    if variant not in get_args(Variant):
        raise ValueError(f"unknown model {name!r}: choose from {', '.join((*HEURISTICS, *ABLATION))}")
    options = recipe.model_options(variant, **changes)
    x = graph.x
    if isinstance(x, CSR):
        return NCN(x.n_cols, **options)
    if x is not None and x.is_floating_point():
        return NCN(x.shape[1], **options)
    assert x is not None
    return NCN(n_categories=int(x.max()) + 1 + recipe.extra_categories, **options)


def best_by(history: Sequence[Mapping[str, Any]], metric: str) -> Mapping[str, Any]:
    """The first epoch with the best validation value of a metric: each metric selects for itself."""
    return max((row for row in history if f"valid_{metric}" in row), key=lambda row: row[f"valid_{metric}"])


def run_seed(
    data: str,
    name: str,
    seed: int,
    *,
    recipe: Recipe | None = None,
    split: LinkSplit | None = None,
    device: torch.device | str = "cpu",
    work: Path | None = None,
    console: Console | None = None,
) -> dict[str, float]:
    """Train (or just score, for a heuristic) once; test metrics in percent, each at its own best validation epoch."""
    recipe = RECIPES[data] if recipe is None else recipe
    split = (make_split(data, seed) if split is None else split).to(device)
    if name in HEURISTICS:
        assert split.test is not None
        adj = (split.train if split.test_input is None else split.test_input).adj
        found = split.test.metrics(lambda pairs: heuristic_scores(name, adj, pairs))  # type: ignore[arg-type]
        return {metric: 100 * value for metric, value in found.items()}
    torch.manual_seed(seed)
    staged = name in ("ncnc", "ncnc2") and recipe.from_ncn is not None
    model = make_model(recipe, split.train, "ncn" if staged else name).to(device)
    result = train_links(
        model,
        split,
        **recipe.training,
        remove_targets=name != "ncn_no_removal",
        seed=seed,
        out_dir=None if work is None else work / "checkpoints",
        console=console,
    )
    if staged:
        model, split, options = second_stage(recipe, model, split, depth=2 if name == "ncnc2" else 1)
        result = train_links(model, split, **options, seed=seed, console=console)
    metrics = [key.removeprefix("valid_") for key in result.history[0] if key.startswith("valid_")]
    return {metric: 100 * best_by(result.history, metric)[f"test_{metric}"] for metric in metrics}


def _timed_seed(*args: Any, **options: Any) -> dict[str, Any]:
    started = time.perf_counter()
    return {"test": run_seed(*args, **options), "seconds": round(time.perf_counter() - started, 1)}


def second_stage(
    recipe: Recipe, ncn: NCN, split: LinkSplit, *, depth: int = 1
) -> tuple[NCN, LinkSplit, dict[str, Any]]:
    """An NCNC that goes on from a trained NCN whose encoder stays as it is (citation2, ddi).

    Returns the model, the split to train it on, and the arguments for `train_links`.
    """
    assert recipe.from_ncn is not None
    options = {**recipe.training, **recipe.from_ncn}
    device = next(ncn.parameters()).device
    if recipe.completes_embeddings:
        with torch.no_grad():
            h = ncn.eval().encode(split.train.x, split.train.adj)  # type: ignore[arg-type]
        split = LinkSplit(
            split.train.with_features(h),
            split.valid,
            split.test,
            split.positives,
            None if split.test_input is None else split.test_input.with_features(h),
        )
        model = NCN(h.shape[1], **{**recipe.model_options("ncnc", depth=depth), **recipe.from_ncn_model}).to(device)
        return model, split, options
    model = make_model(recipe, split.train, "ncnc" if depth == 1 else "ncnc2").to(device)
    model.load_state_dict(ncn.state_dict())
    model.encoder.requires_grad_(False)
    return model, split, options


def reproduce_table(
    data: str,
    *,
    models: Sequence[str],
    preset: str,
    experiment: str,
    out_dir: Path,
    work: Path,
    device: torch.device | str = "cpu",
    progress: Console | None = None,
    first_seed: int = 0,
) -> Record:
    """Every model on every seed, beside the paper's numbers; a seed that is done is not run again.

    Args:
        work: each result lies here as it is finished, under a name that depends on all settings.
        progress: where a line a finished run goes.
    """
    scale = SCALES[preset]
    seeds = range(first_seed, first_seed + scale.seeds)
    recipe = RECIPES[data] if scale.epochs is None else RECIPES[data].scaled(epochs=scale.epochs)
    record = Record.start(
        "ncnc_impl", f"{experiment}-{data}", preset=preset, seeds=seeds, config={"recipe": asdict(recipe)}
    )
    done: dict[str, list[dict[str, float]]] = {name: [] for name in models}
    spent = 0.0
    for seed in seeds:
        split = make_split(data, seed)
        for name in models:
            settings = {"data": data, "model": name, "seed": seed, "recipe": asdict(recipe)}
            label = f"{data}-{name}-seed{seed}"
            # minutes a seed on citation graphs, hours on OGB: only the latter are worth checkpoints of their own
            folder = None if data in CITATION else work / f"{label}-{settings_key(settings)}"
            run = partial(_timed_seed, data, name, seed, recipe=recipe, split=split, device=device, work=folder)
            stored = kept_run(work, label, settings, run)
            assert stored is not None
            done[name].append(stored["test"])
            spent += stored["seconds"]
            if progress is not None:
                progress.print(f"{data} seed {seed} {name}: {recipe.metric} {done[name][-1][recipe.metric]:.2f}")
    for name in models:
        values, spread = summarise([found[recipe.metric] for found in done[name]])
        record.add(
            Row(
                task=data,
                model=name,
                metric=f"{recipe.metric} %",
                value=values,
                spread=spread,
                n=len(done[name]),
                paper=PAPER.get(data, {}).get(name),
            )
        )
    record.config["seconds_of_all_runs"] = round(spent)
    record.config["per_seed"] = {
        name: [round(found[recipe.metric], 2) for found in results] for name, results in done.items()
    }
    plot = plot_scores(
        out_dir / f"{record.experiment}-{preset}.png",
        {name: [found[recipe.metric] for found in results] for name, results in done.items()},
        xlabel=f"{recipe.metric} (%)",
        title=f"{data}, a point a seed",
        paper=PAPER.get(data),
    )
    record.plots.append(plot.name)
    record.notes.append(f"All runs together took {spent / 60:.0f} minutes; finished ones are not run again.")
    if data in CITATION and set(models) & {"cn", "aa", "ra"}:
        record.notes.append(
            "Where fewer than K test negatives have a common neighbour, Hits@K of CN, AA and RA is one number: the "
            "share of positives that have one."
        )
    record.save(out_dir)
    return record


@dataclass(frozen=True)
class GeometricStudy:
    """What `geometric_study` found: Hits@50 in percent by model, and validation AUC by epoch of the trained ones."""

    hits: Mapping[str, float]
    curves: Mapping[str, tuple[list[int], list[float]]]


def geometric_study(
    *,
    n_nodes: int = 1500,
    epochs: int = 20,
    hidden: int = 64,
    seed: int = 0,
    keep: float = 1.0,
    models: Sequence[str] = ("cn", "aa", "ra", "gae", "ncn", "ncnc"),
    device: torch.device | str = "cpu",
    console: Console | None = None,
) -> GeometricStudy:
    """Heuristics and models on a random geometric graph, whose features are noise and whose triangles are not.

    Args:
        keep: share of the edges that the graph has at all; the rest is gone, not held out.
    """
    graph = geometric_graph(n_nodes, seed=seed)
    if keep < 1:
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(graph.n_edges, generator=generator)[: int(keep * graph.n_edges)]
        graph = graph.with_edges(graph.edges[order])
    split = split_edges(graph, seed=seed).to(device)
    assert split.test is not None
    hits: dict[str, float] = {}
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for name in models:
        scorer: Callable[..., Any]
        if name in HEURISTICS:
            hits[name] = run_seed("cora", name, seed, split=split)["hits@50"]
            continue
        torch.manual_seed(seed)
        options = {**STUDY_MODEL, "variant": "ncn" if name == "ncn_no_removal" else name}
        assert isinstance(split.train.x, torch.Tensor)
        model = NCN(split.train.x.shape[1], hidden, **options).to(device)
        result = train_links(
            model,
            split,
            epochs=epochs,
            batch_size=1024,
            encoder_lr=0.003,
            head_lr=0.003,
            monitor="valid_hits@50",
            remove_targets=name != "ncn_no_removal",
            seed=seed,
            console=console,
        )
        scorer = link_scorer(model, split.train)
        hits[name] = 100 * split.test.metrics(scorer)["hits@50"]
        curves[name] = result.curve("valid_hits@50")
    return GeometricStudy(hits, curves)


STUDY_MODEL: Mapping[str, Any] = {"conv": "puregcn", "n_layers": 1, "dropout": 0.1, "edge_dropout": 0.2}


def plot_study(study: GeometricStudy, path: Path) -> Path:
    """Validation Hits@50 by training step, a line a model, and the heuristics as flat lines."""
    last = max((steps[-1] for steps, _ in study.curves.values()), default=1)
    curves: dict[str, Any] = {
        name: (steps, [100 * value for value in values]) for name, (steps, values) in study.curves.items()
    }
    curves |= {name: ([0, last], [hit, hit]) for name, hit in study.hits.items() if name not in study.curves}
    return plot_curves(
        path, curves, xlabel="training steps", ylabel="Hits@50 (%)", title="Random geometric graph, noise features"
    )


Preset = Literal["cpu", "paper", "smoke"]
