"""Prior-fitting: a network learns to classify the queries of tables that are drawn from the prior (paper, section 3).

One step sees several groups of tables; the tables of a group have one size, the groups differ. Group i of the run is a
function of the seed and i alone: worker processes draw them ahead, and a run can go on anywhere.
"""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset

from shared_impl.train import FitResult, TrainConfig, cosine_with_warmup, fit
from tabpfn_impl.cell import CellLayer, CellTransformer
from tabpfn_impl.metrics import auc_ovo
from tabpfn_impl.muon import Muon, parameter_groups
from tabpfn_impl.priors import PriorConfig, TabularPrior, TaskBatch
from tabpfn_impl.transformer import PFNTransformer, RowLayer

__all__ = [
    "ARCHITECTURES",
    "PFN",
    "SyntheticTasks",
    "TimedCosine",
    "TrainRecipe",
    "build_model",
    "held_out_tasks",
    "prior_loss",
    "train_pfn",
    "validate",
]

PFN = PFNTransformer | CellTransformer
ARCHITECTURES: dict[str, Callable[..., PFN]] = {"row": PFNTransformer, "cell": CellTransformer}

MAX_STEPS_PER_SECOND = 40
"""bound on a run by the clock: so many steps are planned"""


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """What to train, on which tables, and for how long."""

    architecture: Literal["row", "cell"] = "cell"
    model: Mapping[str, Any] = field(default_factory=dict)
    """arguments of the architecture"""
    prior: Mapping[str, Any] = field(default_factory=dict)
    """arguments of `PriorConfig`"""
    minutes: float | None = None
    """length of the run by the clock; either this or `steps`"""
    steps: int | None = None
    rows: tuple[int, ...] = (48, 64, 96, 128, 192, 256, 384)
    """numbers of rows of a table, equally likely. Few sizes: matrix kernels are made for each shape on the CPU"""
    features: tuple[int, ...] = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64)
    """numbers of columns, equally likely; half of the tables have one less"""
    train_shares: tuple[float, ...] = (0.25, 0.5, 0.75)
    """shares of the rows that are context, equally likely"""
    ramp_steps: int = 0
    """steps over which the largest numbers of rows and columns grow, geometrically, from those of `ramp_from`"""
    ramp_from: tuple[int, int] = (80, 6)
    """rows and columns"""
    cells_per_group: int = 18_000
    """a group has so many cells, rows x (columns + row_cells), but from `min_group` to `max_group` tables"""
    row_cells: int = 2
    """what a row costs besides its columns, in cells: groups then take about the same time"""
    min_group: int = 2
    max_group: int = 32
    groups_per_step: int = 2
    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW as in the paper, or Muon for the layers' matrices"""
    lr: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """of activations; weights and the optimiser's state are float32"""
    compile: bool = False
    """whether to fuse the layers' elementwise operations with torch.compile: a minute at the start"""
    eval_every: int = 200
    """steps between validations"""
    held_out: int = 24
    """tables of each of the eight sizes for validation"""
    seed: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}, got {self.architecture!r}")
        if (self.minutes is None) == (self.steps is None):
            raise ValueError(f"give either minutes or steps, got minutes={self.minutes} and steps={self.steps}")
        if self.minutes is not None and not self.minutes > 0:
            raise ValueError(f"minutes must be positive, got {self.minutes}")
        sizes = ("cells_per_group", "row_cells", "min_group", "max_group", "groups_per_step", "eval_every", "held_out")
        for name in ("steps", *sizes):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not self.rows or min(self.rows) < 8:
            raise ValueError(f"rows must be numbers from 8 on, got {self.rows}")
        if not self.features or min(self.features) < 1:
            raise ValueError(f"features must be numbers from 1 on, got {self.features}")
        if not self.train_shares or not all(0.0 < share < 1.0 for share in self.train_shares):
            raise ValueError(f"train_shares must be numbers inside (0, 1), got {self.train_shares}")
        if self.optimizer not in ("adamw", "muon"):
            raise ValueError(f"optimizer must be adamw or muon, got {self.optimizer!r}")
        if not self.lr > 0:
            raise ValueError(f"lr must be positive, got {self.lr}")

    def prior_config(self) -> PriorConfig:
        """The prior of the run."""
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in self.prior.items()}
        return PriorConfig(**given)


def build_model(architecture: str, config: Mapping[str, Any]) -> PFN:
    """A new network.

    Raises:
        ValueError: an architecture or a size that is not known.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}, got {architecture!r}")
    try:
        return ARCHITECTURES[architecture](**config)
    except TypeError as error:
        raise ValueError(f"the architecture {architecture!r} has no such argument: {error}") from error


class SyntheticTasks(Dataset[TaskBatch]):
    """Group i of a run, drawn when it is asked for."""

    def __init__(self, recipe: TrainRecipe, length: int) -> None:
        self.recipe, self.length = recipe, length
        self.prior = TabularPrior(recipe.prior_config())

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> TaskBatch:
        r = self.recipe
        rng = np.random.default_rng((r.seed, 1, index))
        ramp = 1.0 if r.ramp_steps == 0 else min(1.0, index / (r.ramp_steps * r.groups_per_step))
        rows, most_features = (
            _choose(rng, sizes, start, ramp) for sizes, start in zip((r.rows, r.features), r.ramp_from, strict=True)
        )
        features = max(1, most_features - int(rng.integers(2)))
        n_train = min(max(int(rows * rng.choice(r.train_shares)), 4), rows - 4)
        sets = min(max(r.cells_per_group // (rows * (most_features + r.row_cells)), r.min_group), r.max_group)
        return self.prior.sample(sets, rows, n_train=n_train, features=features, seed=(r.seed, 2, index))


def _choose(rng: np.random.Generator, sizes: tuple[int, ...], start: int, ramp: float) -> int:
    """One of the sizes up to a bound that goes from `start` to the largest; the smallest is always among them."""
    bound = max(sizes) if start >= max(sizes) else start * (max(sizes) / start) ** ramp
    allowed = [size for size in sizes if size <= bound + 1e-6] or [min(sizes)]
    return int(rng.choice(allowed))


def held_out_tasks(recipe: TrainRecipe) -> list[TaskBatch]:
    """Tables for validation, which no run trains on: the shipped prior's distribution at eight sizes, half context."""
    prior = TabularPrior(recipe.prior_config())
    sizes = [(128, 3), (128, 8), (128, 20), (256, 5), (256, 12), (256, 30), (400, 8), (300, 60)]
    return [
        prior.sample(recipe.held_out, rows, n_train=rows // 2, features=features, seed=(recipe.seed, 3, i))
        for i, (rows, features) in enumerate(sizes)
    ]


def prior_loss(model: nn.Module, batch: TaskBatch, precision: str = "float32") -> Tensor:
    """Mean cross-entropy of the queries; labels of -100 do not count (equation 1)."""
    inputs = (batch.x, batch.y[:, : batch.n_train])
    if precision == "bfloat16":
        weights = {name: p.to(torch.bfloat16) for name, p in model.named_parameters()}
        logits = functional_call(model, weights, inputs)
    else:
        logits = model(*inputs)
    return F.cross_entropy(logits.float().flatten(0, 1), batch.y[:, batch.n_train :].flatten())


@torch.no_grad()
def validate(model: nn.Module, tasks: Sequence[TaskBatch]) -> dict[str, float]:
    """Mean cross-entropy ("loss"), AUC and accuracy over tables; the model stays in float32.

    Only the classes that a table has take part, as in prediction.
    """
    device = next(model.parameters()).device
    losses, areas, right = [], [], []
    for batch in tasks:
        batch = batch.to(device)
        with _eager():
            logits = model(batch.x, batch.y[:, : batch.n_train]).float()
        queries = batch.y[:, batch.n_train :]
        classes = torch.arange(logits.shape[2], device=device)
        logits = logits.masked_fill(classes > batch.y.amax(1)[:, None, None], -torch.inf)
        losses += F.cross_entropy(logits.mT, queries, reduction="none").mean(1).tolist()
        right += (logits.argmax(2) == queries).float().mean(1).tolist()
        probabilities = logits.softmax(2).cpu().numpy()
        areas += [auc_ovo(t, p) for t, p in zip(queries.cpu().numpy(), probabilities, strict=True)]
    return {"loss": float(np.mean(losses)), "auc": float(np.mean(areas)), "accuracy": float(np.mean(right))}


def _eager() -> AbstractContextManager[Any]:
    """Compiled layers run as they are written, where torch (from 2.6 on) can switch that."""
    stance = getattr(torch.compiler, "set_stance", None)
    return nullcontext() if stance is None else stance("force_eager")


class TimedCosine(LRScheduler):
    """Linear warm-up over steps, then a half cosine that reaches 0 when `seconds` have gone by.

    The time of a run that goes on is added to that before; several processes go by the slowest clock. The learning rate
    depends on the machine's speed: such a run cannot be repeated exactly; one by steps can.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, seconds: float, warmup_steps: int) -> None:
        self.seconds, self.warmup_steps = seconds, warmup_steps
        self.elapsed = 0.0
        self._last = time.monotonic()
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        now = time.monotonic()
        self.elapsed += now - self._last
        self._last = now
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            device = self.optimizer.param_groups[0]["params"][0].device
            elapsed = torch.tensor(self.elapsed, dtype=torch.float64, device=device)
            torch.distributed.all_reduce(elapsed, torch.distributed.ReduceOp.MAX)
            self.elapsed = float(elapsed)
        warm = min(1.0, (self.last_epoch + 1) / max(1, self.warmup_steps))
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, self.elapsed / self.seconds)))
        return [base * warm * cosine for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        return {"elapsed": self.elapsed, "last_epoch": self.last_epoch, "base_lrs": [float(b) for b in self.base_lrs]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.elapsed, self.last_epoch = state_dict["elapsed"], state_dict["last_epoch"]
        self.base_lrs = list(state_dict["base_lrs"])
        self._last = time.monotonic()


def train_pfn(
    recipe: TrainRecipe,
    *,
    tasks: Dataset[TaskBatch] | None = None,
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
    out_dir: Path | None = None,
    device: torch.device | str = "cpu",
    resume: bool = True,
    console: Console | None = None,
) -> tuple[PFN, FitResult]:
    """Train a network by a recipe; it ends with the weights that are best on the held-out tables.

    Under torchrun each process takes its share of a step's groups.

    Args:
        tasks: groups of tables, in place of those of the recipe's prior.
        evaluate: measures of the network, "loss" among them, in place of those on the held-out tables.
        out_dir: for checkpoints and metrics; a run that was interrupted goes on from there.

    Raises:
        ConfigError: settings that differ from those of the run to be resumed.
        TrainingError: a loss that is not finite.
    """
    # a kernel is made for every shape of matrices: 1024, the default, would be forgotten before they come again
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "50000")
    torch.manual_seed(recipe.seed)
    model = build_model(recipe.architecture, recipe.model).to(device)
    settings: dict[str, Any] = {"lr": recipe.lr, "betas": (0.9, 0.98), "weight_decay": recipe.weight_decay}
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "muon":
        optimizer = Muon(parameter_groups(model), **settings)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), **settings)
    scheduler: Any
    if recipe.minutes is not None:
        seconds = 60.0 * recipe.minutes
        steps = math.ceil(seconds * MAX_STEPS_PER_SECOND)
        scheduler = TimedCosine(optimizer, seconds, recipe.warmup_steps)
    else:
        assert recipe.steps is not None
        steps, seconds = recipe.steps, None
        warmup = min(recipe.warmup_steps, recipe.steps - 1)
        scheduler = lambda optimizer, total: cosine_with_warmup(optimizer, total, warmup)  # noqa: E731

    def loss_fn(network: nn.Module, groups: Sequence[TaskBatch]) -> Tensor:
        losses = [prior_loss(network, group, recipe.precision) for group in groups]
        return torch.stack(losses).mean()

    if evaluate is None:
        held_out = held_out_tasks(recipe)
        evaluate = lambda network: validate(network, held_out)  # noqa: E731
    if recipe.compile:
        compile_layers(model)
    result = fit(
        model,
        loss_fn,
        tasks if tasks is not None else SyntheticTasks(recipe, steps * recipe.groups_per_step),
        optimizer=optimizer,
        scheduler=scheduler,
        evaluate=evaluate,
        config=TrainConfig(
            steps=steps,
            batch_size=recipe.groups_per_step,
            shuffle=False,
            collate=list,
            num_workers=recipe.workers,
            eval_every=recipe.eval_every,
            grad_clip=recipe.grad_clip,
            max_seconds=seconds,
            monitor="loss",
            restore_best=True,
            seed=recipe.seed,
        ),
        out_dir=out_dir,
        resume=resume,
        console=console,
    )  # fmt: skip
    for module in model.modules():
        for name in _FUSED.get(type(module), ()):
            vars(module).pop(name, None)
    return model.eval(), result


_FUSED: dict[type[nn.Module], tuple[str, ...]] = {
    CellLayer: ("mix_cells", "columns", "read"),
    RowLayer: ("forward",),
}


def compile_layers(model: nn.Module) -> None:
    """Replace the methods of the model's layers by compiled ones, for tables of any size; validation stays as it is."""
    # groups of one table and other layouts in memory are variants of their own, of which torch would drop the ninth
    config: Any = torch._dynamo.config
    # the older of the two names
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    setattr(config, limit, max(getattr(config, limit), 64))
    for module in model.modules():
        for name in _FUSED.get(type(module), ()):
            setattr(module, name, torch.compile(getattr(module, name), dynamic=True))
