"""What is timed: the prior against its form for single tables, prediction against peers, the context cache."""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import os
import random
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch

from shared_impl.bench import Timing, checkout_revision, compare
from shared_impl.cli import UserError
from shared_impl.results import Record, Row
from tabpfn_impl.baselines import make_baseline
from tabpfn_impl.checkpoints import shipped_checkpoint
from tabpfn_impl.classifier import TabPFNClassifier
from tabpfn_impl.mlp_prior import MLPConfig, MLPPrior
from tabpfn_impl.priors import PriorConfig, TabularPrior
from tabpfn_impl.reference_prior import draw_table
from tabpfn_impl.training import TrainRecipe, build_model, prior_loss

__all__ = ["BENCHMARKS", "run"]


def bench_prior(*, device: torch.device, quick: bool, seed: int) -> Record:
    """Tables a second, in groups and one at a time."""
    record = _start("prior", seed, quick)
    sizes = [(256, 20)] if quick else [(128, 5), (256, 20), (256, 60)]
    few, many = (16, {8: 64}) if quick else (96, {8: 512, 64: 4096})
    config = PriorConfig(components=("scm", "bnn"))
    for rows, features in sizes:
        # the same tables in every round: how much work one is differs widely, so that each form makes many

        def grouped(size: int, rows: int = rows, features: int = features) -> None:
            prior = TabularPrior(replace(config, group_size=size))
            prior.sample(many[size], rows, n_train=rows // 2, features=features, seed=seed, device=device)

        def single(rows: int = rows, features: int = features) -> None:
            rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
            for _ in range(few):
                draw_table(config, rows, rows // 2, rng, generator, features=features)

        forms: dict[str, Callable[[], object]] = {"one at a time": single}
        forms |= {f"groups of {size}": partial(grouped, size) for size in many}
        timings = compare(forms, baseline="one at a time", rounds=5)
        task = f"{rows} rows x {features} columns"
        record.add(Row(task, "one at a time", "tables a second", round(few / timings["one at a time"].median_s, 1)))
        for size, count in many.items():
            name = f"groups of {size}"
            record.add(Row(task, name, "tables a second", round(count / timings[name].median_s, 1)))
            low, mid, high = (
                getattr(timings[name], field) * count / few for field in ("ratio_low", "ratio", "ratio_high")
            )
            record.add(
                Row(
                    task, name, "times as fast as one at a time", round(mid, 1),
                    note=f"quartiles {low:.1f} to {high:.1f}",
                )
            )  # fmt: skip
    return record


def bench_predict(*, device: torch.device, quick: bool, seed: int) -> Record:
    """Fit and predict a table of 500 training rows and 30 columns (250 queries)."""
    record = _start("predict", seed, quick)
    X, y = _table(500 + 250, 30, seed)
    train, test = slice(0, 500), slice(500, None)
    forms: dict[str, Callable[[], object]] = {}

    def add(name: str, make: Callable[[], object]) -> None:
        def call() -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                make().fit(X[train], y[train]).predict_proba(X[test])  # type: ignore[attr-defined]

        forms[name] = call

    add("gradient boosting", lambda: make_baseline("gradient boosting", seed))
    add("random forest", lambda: make_baseline("random forest", seed))
    for members in (1, 8, 32):
        add(f"TabPFN, {members} members", lambda members=members: TabPFNClassifier(members, device=device.type))
    peers = []
    if importlib.util.find_spec("tabicl") is not None:
        forms["tabicl, one member"] = _tabicl(X[train], y[train], X[test], device)
        version = importlib.metadata.version("tabicl")
        peers.append(
            f"tabicl {version}: the network alone, of default size, with random weights (its own need a download)"
        )
    timings = compare(forms, baseline="gradient boosting", rounds=3 if quick else 5)
    _add(record, "500 x 30, 250 queries", timings, "gradient boosting")
    record.notes += peers or ["tabicl is not installed here: not timed"]
    return record


def bench_cache(*, device: torch.device, quick: bool, seed: int) -> Record:
    """Repeated predictions of few queries, with the context kept and without."""
    record = _start("cache", seed, quick)
    for rows, queries in [(500, 10)] if quick else [(500, 1), (500, 64), (1000, 64), (500, 500)]:
        X, y = _table(rows + queries, 30, seed)
        plain = TabPFNClassifier(8, device=device.type).fit(X[:rows], y[:rows])
        cached = TabPFNClassifier(8, device=device.type, cache_context=True).fit(X[:rows], y[:rows])
        forms: dict[str, Callable[[], object]] = {
            "without": lambda m=plain, q=X[rows:]: m.predict_proba(q),
            "with cache": lambda m=cached, q=X[rows:]: m.predict_proba(q),
        }
        timings = compare(forms, baseline="without", rounds=3 if quick else 5)
        _add(record, f"{rows} rows, {queries} queries", timings, "without")
    return record


def bench_attention(*, device: torch.device, quick: bool, seed: int) -> Record:
    """The row network's forward pass: one attention call to the context against the dense mask over all rows."""
    from tabpfn_impl.transformer import PFNTransformer, efficient_mask

    record = _start("attention", seed, quick)
    torch.manual_seed(seed)
    model = PFNTransformer(d_model=128, n_layers=4).to(device).eval()
    for n, m in [(256, 256)] if quick else [(256, 256), (256, 768), (500, 500)]:
        x = torch.randn(2, n + m, 20, device=device)
        y = torch.randint(0, 3, (2, n), device=device)
        mask = efficient_mask(n + m, n).to(device)

        def dense(x: torch.Tensor = x, y: torch.Tensor = y, mask: torch.Tensor = mask) -> None:
            with torch.no_grad():
                model.forward_with_mask(x, y, mask)

        def efficient(x: torch.Tensor = x, y: torch.Tensor = y) -> None:
            with torch.no_grad():
                model(x, y)

        timings = compare({"dense mask": dense, "context only": efficient}, baseline="dense mask", rounds=5)
        _add(record, f"{n} rows of context, {m} queries", timings, "dense mask")
    return record


def bench_train(*, device: torch.device, quick: bool, seed: int) -> Record:
    """A training step's forward and backward pass, activations in float32 and in bfloat16."""
    record = _start("train", seed, quick)
    torch.manual_seed(seed)
    checkpoint = shipped_checkpoint()
    model = build_model(checkpoint.architecture, checkpoint.config).to(device)
    prior = TabularPrior(TrainRecipe(minutes=1.0).prior_config())
    for sets, rows, features in [(8, 128, 8)] if quick else [(16, 128, 8), (6, 256, 30)]:
        batch = prior.sample(sets, rows, n_train=rows // 2, features=features, seed=seed).to(device)
        forms: dict[str, Callable[[], object]] = {
            precision: lambda batch=batch, precision=precision: prior_loss(model, batch, precision).backward()
            for precision in ("float32", "bfloat16")
        }
        timings = compare(forms, baseline="float32", rounds=3 if quick else 5)
        _add(record, f"{sets} tables of {rows} x {features}", timings, "float32")
    return record


def bench_official(*, device: torch.device, quick: bool, seed: int) -> Record:
    """Beside the authors' code, from a checkout in TABPFN_OFFICIAL_DIR: the network with the same weights, the
    distributions of the prior's hyper-parameters and of its raw tables, and how fast these are made.

    Raises:
        UserError: the variable does not name such a checkout.
    """
    from scipy.stats import ks_2samp

    ks_2samp = partial(ks_2samp, method="asymp")

    folder = Path(os.environ.get("TABPFN_OFFICIAL_DIR", ""))
    if not os.environ.get("TABPFN_OFFICIAL_DIR") or not (folder / "tabpfn" / "transformer.py").is_file():
        raise UserError(
            "set TABPFN_OFFICIAL_DIR to a checkout of automl/TabPFN@ddf5e85: it has no tabpfn/transformer.py"
        )
    record = _start("official", seed, quick)
    with _official(folder) as load:
        _network_parity(record, load, device)
        n = 400 if quick else 2000
        ours, theirs = _our_hyper_parameters(n, seed), _their_hyper_parameters(load, n, seed)
        for name in ours:
            found = ks_2samp(ours[name], theirs[name])
            _distance(record, f"hyper-parameter {name}", found, n)
        n = 200 if quick else 1500
        ours, theirs = _our_tables(n, seed), _their_tables(load, n, seed)
        for name in ours:
            _distance(record, f"tables: {name}", ks_2samp(ours[name], theirs[name]), n)
        _prior_speed(record, load, quick=quick, seed=seed)
    commit = checkout_revision(folder)
    record.notes.append(f"automl/TabPFN@{commit}; Kolmogorov-Smirnov distances between as many draws of either code")
    return record


def _distance(record: Record, task: str, found: Any, n: int) -> None:
    record.add(
        Row(
            task, "prior", "KS distance", round(float(found.statistic), 4), higher_is_better=False,
            note=f"p = {found.pvalue:.2g}, {n} draws each",
        )
    )  # fmt: skip


@contextlib.contextmanager
def _official(folder: Path) -> Iterator[Callable[[str], Any]]:
    """A function that imports a module of the authors' code, past the package's own imports of everything."""
    stand_ins = {}
    for name in ("tabpfn", "tabpfn.priors", "tabpfn.scripts"):
        module = types.ModuleType(name)
        module.__path__ = [str(folder / name.replace(".", "/"))]
        stand_ins[name] = module
    space: Any = types.ModuleType("ConfigSpace")
    space.hyperparameters = types.ModuleType("ConfigSpace.hyperparameters")
    stand_ins |= {"ConfigSpace": space, "ConfigSpace.hyperparameters": space.hyperparameters}
    before = dict(sys.modules)
    sys.modules.update(stand_ins)
    layers: Any = torch.nn.modules.transformer
    lacking = [name for name in ("Optional",) if not hasattr(layers, name)]
    for name in lacking:
        # their code takes the name from a module of torch that had imported it
        setattr(layers, name, Optional)
    try:
        yield importlib.import_module
    finally:
        for name in lacking:
            delattr(layers, name)
        for name in set(sys.modules) - set(before):
            if name.partition(".")[0] in ("tabpfn", "ConfigSpace"):
                del sys.modules[name]


def _network_parity(record: Record, load: Callable[[str], Any], device: torch.device) -> None:
    from tabpfn_impl.official import from_official
    from tabpfn_impl.transformer import PFNTransformer

    for E, L, n, m in ((64, 3, 50, 30), (512, 12, 100, 50)):
        torch.manual_seed(0)
        theirs = load("tabpfn.transformer").TransformerModel(
            torch.nn.Linear(100, E), 10, E, 4, 2 * E, L, y_encoder=torch.nn.Linear(1, E), efficient_eval_masking=True
        )
        with torch.no_grad():
            for p in theirs.parameters():
                p.add_(0.02 * torch.randn_like(p))
        theirs = theirs.to(device).eval()
        ours = PFNTransformer(d_model=E, n_layers=L).to(device).eval()
        ours.load_state_dict(from_official(theirs.state_dict()))
        x, y = torch.randn(2, n + m, 20, device=device), torch.randint(0, 5, (2, n), device=device)
        padded = torch.nn.functional.pad(x * 5.0, (0, 80)).transpose(0, 1)

        def official(padded: torch.Tensor = padded, y: torch.Tensor = y, theirs: Any = theirs, n: int = n) -> Any:
            with torch.no_grad():
                return theirs((padded, y.T.float()), single_eval_pos=n)

        def own(x: torch.Tensor = x, y: torch.Tensor = y, ours: Any = ours) -> torch.Tensor:
            with torch.no_grad():
                out: torch.Tensor = ours(x, y)
                return out

        a, b = own(), official().transpose(0, 1)
        task = f"network, E={E}, L={L}, {n} + {m} rows"
        largest = float((a - b).abs().max() / b.abs().max())
        record.add(
            Row(task, "tabpfn-impl", "largest difference, relative", float(f"{largest:.1e}"), higher_is_better=False)
        )
        _add(
            record, task, compare({"official": official, "tabpfn-impl": own}, baseline="official", rounds=5), "official"
        )


_HYPER_PARAMETERS = {
    "num_layers": "num_layers", "hidden": "prior_mlp_hidden_dim", "num_causes": "num_causes",
    "dropout": "prior_mlp_dropout_prob", "noise_std": "noise_std", "init_std": "init_std", "is_causal": "is_causal",
    "y_is_effect": "y_is_effect", "in_clique": "in_clique",
}  # fmt: skip


def _our_hyper_parameters(n: int, seed: int) -> dict[str, np.ndarray]:
    rng, config = np.random.default_rng(seed), MLPConfig()
    values = {name: np.asarray(getattr(config, name).sample(rng, n), float) for name in _HYPER_PARAMETERS}
    kinds = config.activation.sample(rng, n)
    return values | {"activation is tanh": (kinds == 0) * 1.0, "activation is ReLU": (kinds == 2) * 1.0}


def _their_draw(load: Callable[[str], Any]) -> Callable[[], dict[str, Any]]:
    specification = load("tabpfn.scripts.model_configs").get_diff_causal()
    hyper = load("tabpfn.priors.differentiable_prior").DifferentiableHyperparameterList(
        specification, embedding_dim=None, device="cpu"
    )
    return lambda: hyper.sample_parameter_object()[0]  # type: ignore[no-any-return]


def _their_hyper_parameters(load: Callable[[str], Any], n: int, seed: int) -> dict[str, np.ndarray]:
    _seed_globals(seed)
    draw = _their_draw(load)
    values: dict[str, list[float]] = {
        name: [] for name in [*_HYPER_PARAMETERS, "activation is tanh", "activation is ReLU"]
    }
    for _ in range(n):
        drawn = draw()
        for name, theirs in _HYPER_PARAMETERS.items():
            value = drawn[theirs]
            values[name].append(float(value() if callable(value) else value))
        kind = drawn["prior_mlp_activations"]()()
        values["activation is tanh"].append(float(isinstance(kind, torch.nn.Tanh)))
        values["activation is ReLU"].append(float(isinstance(kind, torch.nn.ReLU)))
    return {name: np.array(v) for name, v in values.items()}


_ROWS, _COLUMNS = 64, 4


def _statistics(x: torch.Tensor, y: torch.Tensor) -> dict[str, float]:
    both = torch.cat([x, y[:, None]], dim=1).double()
    both = torch.where(torch.isfinite(both), both, 0.0)
    correlation = torch.corrcoef(both.T).nan_to_num().abs()
    return {
        "ln deviation of the target": float(torch.log(both[:, -1].std() + 1e-12)),
        "ln deviation of a feature": float(torch.log(both[:, 0].std() + 1e-12)),
        "correlation of feature and target": float(correlation[0, -1]),
        "correlation of two features": float(correlation[0, 1]),
    }


def _our_tables(n: int, seed: int) -> dict[str, np.ndarray]:
    rng, generator, prior = np.random.default_rng(seed), torch.Generator().manual_seed(seed), MLPPrior()
    drawn = [prior.sample(1, _ROWS, _COLUMNS, rng, generator) for _ in range(n)]
    rows = [_statistics(x[0], y[0]) for x, y in drawn]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _their_table(load: Callable[[str], Any], seed: int) -> Callable[[int, int], tuple[torch.Tensor, torch.Tensor]]:
    """Draws one raw table of so many rows and columns, with hyper-parameters of its own."""
    _seed_globals(seed)
    draw, module = _their_draw(load), load("tabpfn.priors.mlp")

    def table(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
        drawn = {k: v() if callable(v) and k != "prior_mlp_activations" else v for k, v in draw().items()}
        # as the wrapper hands it on: a function that makes the activation
        drawn["prior_mlp_activations"] = drawn["prior_mlp_activations"]()
        drawn |= {
            "mix_activations": False, "pre_sample_causes": True, "sampling": "normal", "random_feature_rotation": True,
            "prior_mlp_scale_weights_sqrt": True, "new_mlp_per_example": True,
        }  # fmt: skip
        with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
            x, y, _ = module.get_batch(1, rows, columns, drawn, device="cpu", sampling="normal")
        return x[:, 0], y[:, 0]

    return table


def _their_tables(load: Callable[[str], Any], n: int, seed: int) -> dict[str, np.ndarray]:
    table = _their_table(load, seed)
    rows = [_statistics(*table(_ROWS, _COLUMNS)) for _ in range(n)]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _prior_speed(record: Record, load: Callable[[str], Any], *, quick: bool, seed: int) -> None:
    """Raw tables a second, before outliers, categories and classes, of either code."""
    groups, few = (8, 16) if quick else (64, 96)
    for rows, columns in [(256, 20)] if quick else [(128, 5), (256, 20), (256, 60)]:

        def own(rows: int = rows, columns: int = columns) -> None:
            rng, generator, prior = np.random.default_rng(seed), torch.Generator().manual_seed(seed), MLPPrior()
            for _ in range(groups):
                prior.sample(8, rows, columns, rng, generator)

        def official(rows: int = rows, columns: int = columns) -> None:
            table = _their_table(load, seed)
            for _ in range(few):
                table(rows, columns)

        timings = compare({"official": official, "groups of 8": own}, baseline="official", rounds=3)
        share = 8 * groups / few
        record.add(
            Row(
                f"raw tables of {rows} rows x {columns} columns", "groups of 8", "times as fast as official",
                round(timings["groups of 8"].ratio * share, 1),
                note=f"{8 * groups / timings['groups of 8'].median_s:.0f} tables a second against "
                f"{few / timings['official'].median_s:.0f}",
            )
        )  # fmt: skip


def _seed_globals(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - their code draws from it
    torch.manual_seed(seed)


BENCHMARKS: dict[str, Callable[..., Record]] = {
    "prior": bench_prior,
    "predict": bench_predict,
    "cache": bench_cache,
    "attention": bench_attention,
    "train": bench_train,
    "official": bench_official,
}


def run(what: str, *, device: torch.device, quick: bool = False, seed: int = 0) -> Record:
    """The record of a benchmark, not yet saved."""
    return BENCHMARKS[what](device=device, quick=quick, seed=seed)


def _start(experiment: str, seed: int, quick: bool) -> Record:
    return Record.start("tabpfn_impl", experiment, preset="quick" if quick else "full", seeds=[seed], kind="bench")


def _add(record: Record, task: str, timings: dict[str, Timing], baseline: str) -> None:
    base = timings[baseline]
    for name, timing in timings.items():
        if name == baseline:
            continue
        record.add(
            Row(
                task, name, f"times as fast as {baseline}", round(timing.ratio, 2),
                note=f"{1e3 * timing.median_s:.3g} ms against {1e3 * base.median_s:.3g} ms; "
                f"quartiles {timing.ratio_low:.2f} to {timing.ratio_high:.2f}",
            )
        )  # fmt: skip


def _table(rows: int, features: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import make_classification

    X, y = make_classification(rows, features, n_informative=8, random_state=seed)
    return X, y


def _tabicl(X: np.ndarray, y: np.ndarray, queries: np.ndarray, device: torch.device) -> Callable[[], None]:
    """One forward pass of tabicl's network, of its default size, with random weights."""
    # its second version keeps the network in a private module
    home = importlib.import_module("tabicl")
    if not hasattr(home, "TabICL"):
        home = importlib.import_module("tabicl._model.tabicl")
    network = home.TabICL().to(device).eval()
    table = torch.from_numpy(np.concatenate([X, queries])[None]).float().to(device)
    labels = torch.from_numpy(y[None]).float().to(device)

    def call() -> None:
        with torch.no_grad():
            network(table, labels)

    return call
