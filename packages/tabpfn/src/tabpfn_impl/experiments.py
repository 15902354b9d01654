"""The paper's evaluation, and checks with a known answer, as experiments with the presets `cpu` and `paper`."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console

from shared_impl.results import Record, Row, plot_curves, summarise
from tabpfn_impl.baselines import BASELINES, available_peers, make_baseline
from tabpfn_impl.checkpoints import Checkpoint, shipped_checkpoint
from tabpfn_impl.classifier import TabPFNClassifier
from tabpfn_impl.conjugate import ConjugateTasks, GaussianClasses, kl_to_posterior
from tabpfn_impl.data import Table, cc18_tables, made_up_tables, sklearn_tables
from tabpfn_impl.evaluation import Outcome, evaluate, half_splits
from tabpfn_impl.metrics import score
from tabpfn_impl.training import TrainRecipe, held_out_tasks, train_pfn

__all__ = ["EXPERIMENTS", "PAPER_AUC", "Experiment", "run", "score_rows"]

PresetName = Literal["cpu", "paper"]

PAPER_AUC = {"LightGBM": 0.920, "CatBoost": 0.924, "XGBoost": 0.924, "TabPFN": 0.934}
"""mean AUC one against one of the paper's table 1 (its tuned baselines had an hour each)"""

_METRICS = {
    "auc": ("AUC (OVO)", True),
    "log_loss": ("log-loss", False),
    "accuracy": ("accuracy", True),
    "calibration_error": ("calibration error", False),
}


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One preset's size."""

    n_splits: int = 5
    n_estimators: int = 8
    steps: int = 6000


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where an experiment runs and with which network."""

    seed: int
    device: torch.device
    out_dir: Path
    console: Console | None
    data_dir: Path | None
    checkpoint: Checkpoint


def _models(n_estimators: int, setting: Setting, *, peers: bool = True) -> dict[str, Callable[[int], Any]]:
    def tabpfn(members: int, multiclass: str = "auto") -> Callable[[int], Any]:
        return lambda seed: TabPFNClassifier(
            members, multiclass=multiclass, model=setting.checkpoint, device=setting.device.type, random_state=seed
        )

    models: dict[str, Callable[[int], Any]] = {
        "TabPFN": tabpfn(n_estimators),
        "TabPFN, one member": tabpfn(1, "direct"),
    }
    models.update(BASELINES)
    if peers:
        models.update({name: partial(make_baseline, name) for name in available_peers()})
    return models


def _run_tables(
    tables: Sequence[Table], experiment: Experiment, setting: Setting, *, peers: bool = True
) -> list[Outcome]:
    outcomes = []
    for table in tables:
        if setting.console is not None:
            setting.console.print(f"{table.name}: {table.X.shape[0]} x {table.X.shape[1]}", highlight=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcomes += evaluate(
                table,
                _models(experiment.n_estimators, setting, peers=peers),
                n_splits=experiment.n_splits,
                seed=setting.seed,
            )
    return outcomes


def score_rows(outcomes: Sequence[Outcome], *, task: str, paper: Mapping[str, float] | None = None) -> list[Row]:
    """Means over tables and splits: a row for each model and measure, the spread that of the splits' means."""
    rows = []
    names = list(dict.fromkeys(o.model for o in outcomes))
    splits = sorted({o.split for o in outcomes})
    for metric, (label, higher) in _METRICS.items():
        for name in names:
            by_split = [
                float(np.mean([getattr(o.scores, metric) for o in outcomes if o.model == name and o.split == split]))
                for split in splits
            ]
            mean, spread = summarise(by_split)
            own = [o for o in outcomes if o.model == name]
            note = ""
            if metric == "auc":
                note = (
                    f"fit {np.mean([o.fit_s for o in own]):.2g} s, predict {np.mean([o.predict_s for o in own]):.2g} s"
                )
            rows.append(
                Row(
                    task=task, model=name, metric=label, value=mean, spread=spread, n=len(splits),
                    paper=(paper or {}).get(name) if metric == "auc" else None, higher_is_better=higher, note=note,
                )
            )  # fmt: skip
    return rows


def _table_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    rows = []
    for table in dict.fromkeys(o.table for o in outcomes):
        for model in dict.fromkeys(o.model for o in outcomes):
            own = [o for o in outcomes if o.table == table and o.model == model]
            mean, spread = summarise([o.scores.auc for o in own])
            loss = float(np.mean([o.scores.log_loss for o in own]))
            accuracy = float(np.mean([o.scores.accuracy for o in own]))
            note = f"log-loss {loss:.3f}, accuracy {accuracy:.3f}"
            rows.append(Row(table, model, "AUC (OVO)", mean, spread, n=len(own), note=note))
    return rows


def _table1(experiment: Experiment, setting: Setting, record: Record) -> None:
    outcomes = _run_tables(cc18_tables(setting.data_dir), experiment, setting)
    for row in score_rows(outcomes, task="18 sets of OpenML-CC18", paper=PAPER_AUC):
        record.add(row)
    for row in _table_rows(outcomes):
        record.add(row)
    better = _count_better(outcomes, "TabPFN", "15-NN")
    record.notes.append(f"log-loss below 15-NN's on {better[0]} of {better[1]} sets")
    record.notes.append("the paper's numbers are its table 1's, not checked against the printed table again")
    record.notes.append(
        "the paper's baselines were tuned for an hour each; here only logistic regression's C is chosen"
    )
    record.notes.append(_describe(setting.checkpoint))


def _offline(experiment: Experiment, setting: Setting, record: Record) -> None:
    outcomes = _run_tables(sklearn_tables(), experiment, setting)
    for row in score_rows(outcomes, task="scikit-learn's four sets"):
        record.add(row)
    for row in _table_rows(outcomes):
        record.add(row)
    record.notes.append("half of each set is the training part; splits stratified by class")
    record.notes.append(_describe(setting.checkpoint))


def _made_up(experiment: Experiment, setting: Setting, record: Record) -> None:
    """Sets whose true class probabilities are known: what the best possible classifier scores, and each model."""
    outcomes: list[Outcome] = []
    for made in made_up_tables(seed=setting.seed):
        table = made.table
        splits = list(half_splits(table.y, experiment.n_splits, setting.seed))
        outcomes += evaluate(table, _models(experiment.n_estimators, setting), seed=setting.seed, splits=splits)
        for i, (_, test) in enumerate(splits):
            best = score(table.y[test], made.posterior(np.asarray(table.X)[test]))
            outcomes.append(Outcome(table.name, "true probabilities", i, best, 0.0, 0.0))
    for table_name in dict.fromkeys(o.table for o in outcomes):
        own = [o for o in outcomes if o.table == table_name]
        for model in dict.fromkeys(o.model for o in own):
            losses = [o.scores.log_loss for o in own if o.model == model]
            mean, spread = summarise(losses)
            auc = float(np.mean([o.scores.auc for o in own if o.model == model]))
            record.add(
                Row(
                    table_name, model, "log-loss", mean, spread, n=len(losses), higher_is_better=False,
                    note=f"AUC {auc:.3f}",
                )
            )  # fmt: skip
    record.notes.append(
        "250 training and 250 test rows; 'true probabilities' is the bound: no classifier can do better"
    )
    record.notes.append(_describe(setting.checkpoint))


def _held_out(experiment: Experiment, setting: Setting, record: Record) -> None:
    """Tables of the prior that no run trains on."""
    recipe = setting.checkpoint.recipe
    recipe = replace(recipe, held_out=8)
    models = _models(experiment.n_estimators, setting, peers=False)
    outcomes: list[Outcome] = []
    for batch in held_out_tasks(recipe):
        for i in range(len(batch.x)):
            x, y = batch.x[i].double().numpy(), batch.y[i].numpy()
            n = batch.n_train
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outcomes += evaluate(
                    Table(f"{x.shape[0]} x {x.shape[1]}", x, y), models,
                    splits=[(np.arange(n), np.arange(n, len(y)))], seed=setting.seed,
                )  # fmt: skip
    for row in score_rows(outcomes, task="tables of the prior"):
        record.add(row)
    record.notes.append(f"{len(outcomes) // len(models)} tables of eight sizes, half of the rows for training")
    record.notes.append("these tables served to choose among the checkpoints of the training run")
    record.notes.append(_describe(setting.checkpoint))


def _ensemble(experiment: Experiment, setting: Setting, record: Record) -> None:
    """How the number of members counts."""
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for table in sklearn_tables():
        xs, ys = [], []
        for members in (1, 2, 4, 8, 16, 32):
            make: dict[str, Callable[[int], Any]] = {
                "TabPFN": lambda seed, members=members: TabPFNClassifier(
                    members, model=setting.checkpoint, device=setting.device.type, random_state=seed
                )
            }
            outcomes = evaluate(table, make, n_splits=experiment.n_splits, seed=setting.seed)
            mean, spread = summarise([o.scores.auc for o in outcomes])
            loss = float(np.mean([o.scores.log_loss for o in outcomes]))
            seconds = float(np.mean([o.fit_s + o.predict_s for o in outcomes]))
            record.add(
                Row(
                    table.name, f"{members} members", "AUC (OVO)", mean, spread, n=len(outcomes),
                    note=f"log-loss {loss:.3f}, {seconds:.2f} s",
                )
            )  # fmt: skip
            xs.append(float(members))
            ys.append(loss)
        curves[table.name] = (xs, ys)
    name = f"ensemble-{record.preset}.png"
    plot_curves(setting.out_dir / name, curves, xlabel="members", ylabel="log-loss", logx=True, title="Ensemble")
    record.plots.append(name)


def _posterior(experiment: Experiment, setting: Setting, record: Record) -> None:
    """A network fitted to a conjugate prior, against the posterior predictive in closed form."""
    prior = GaussianClasses()
    generator = torch.Generator().manual_seed(1_000_003)
    held = prior.sample(256, 64, 16, generator)
    recipe = TrainRecipe(
        architecture="row",
        model={"max_features": 2, "max_classes": 3, "d_model": 64, "n_layers": 3, "n_heads": 2},
        steps=experiment.steps, groups_per_step=1, lr=2e-3, warmup_steps=50, precision="float32", eval_every=250,
        workers=0, seed=setting.seed,
    )  # fmt: skip
    model, result = train_pfn(
        recipe,
        tasks=ConjugateTasks(prior, experiment.steps, seed=setting.seed),
        evaluate=lambda network: {"loss": kl_to_posterior(network, prior, held)},
        device=setting.device,
        console=setting.console,
    )
    model = model.cpu()
    for n_train in (4, 8, 16, 24):
        batch = prior.sample(512, n_train + 32, n_train, generator)
        uniform = prior.posterior_predictive(batch.x[:, :n_train], batch.y[:, :n_train], batch.x[:, n_train:])
        entropy = -(uniform * uniform.clamp_min(1e-300).log()).sum(-1).mean()
        record.add(
            Row(
                f"{n_train} rows of context", "fitted network", "KL from the exact posterior predictive, nats",
                kl_to_posterior(model, prior, batch), higher_is_better=False,
                note=f"entropy of the exact one {float(entropy):.3f}",
            )
        )  # fmt: skip
    steps, kl = result.curve("loss")
    name = f"posterior-{record.preset}.png"
    plot_curves(
        setting.out_dir / name, {"fitted network": (steps, kl)}, xlabel="step", ylabel="KL, nats", logy=True,
        title="Gaussian classes: from the network to the exact posterior predictive",
    )  # fmt: skip
    record.plots.append(name)
    record.notes.append(
        f"{result.steps} steps of 64 tables in {result.seconds:.0f} s; three Gaussian classes in two dimensions, "
        "means N(0, 4 I), Dirichlet(2) over the classes"
    )


def _count_better(outcomes: Sequence[Outcome], a: str, b: str) -> tuple[int, int]:
    def loss(table: str, model: str) -> float:
        return float(np.mean([o.scores.log_loss for o in outcomes if o.table == table and o.model == model]))

    tables = list(dict.fromkeys(o.table for o in outcomes))
    return sum(loss(t, a) < loss(t, b) for t in tables), len(tables)


def _describe(checkpoint: Checkpoint) -> str:
    n = sum(p.numel() for p in checkpoint.model.parameters())
    trained = checkpoint.info.get("trained", "training not recorded")
    return f"network: {checkpoint.architecture}, {n:,} parameters, {trained}"


EXPERIMENTS: dict[str, tuple[Callable[[Experiment, Setting, Record], None], dict[PresetName, Experiment]]] = {
    "table1": (_table1, {"cpu": Experiment(n_splits=1), "paper": Experiment(n_estimators=32)}),
    "offline": (_offline, {"cpu": Experiment(n_splits=3), "paper": Experiment(n_estimators=32)}),
    "made-up": (_made_up, {"cpu": Experiment(), "paper": Experiment(n_estimators=32)}),
    "held-out": (_held_out, {"cpu": Experiment(), "paper": Experiment(n_estimators=32)}),
    "ensemble": (_ensemble, {"cpu": Experiment(n_splits=2), "paper": Experiment()}),
    "posterior": (_posterior, {"cpu": Experiment(), "paper": Experiment(steps=60_000)}),
}
"""name: what runs, and the presets"""


def run(
    name: str,
    preset: PresetName,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    out_dir: Path,
    console: Console | None = None,
    data_dir: Path | None = None,
    checkpoint: Checkpoint | None = None,
) -> Record:
    """Run an experiment and save its record.

    Raises:
        DataError: data that are not here.
    """
    function, presets = EXPERIMENTS[name]
    experiment = presets[preset]
    checkpoint = checkpoint or shipped_checkpoint()
    setting = Setting(
        seed=seed, device=torch.device(device), out_dir=out_dir, console=console, data_dir=data_dir,
        checkpoint=checkpoint,
    )  # fmt: skip
    record = Record.start("tabpfn_impl", name, preset=preset, seeds=[seed], config=vars(experiment))
    function(experiment, setting, record)
    record.save(out_dir)
    return record
