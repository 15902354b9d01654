"""One training loop: exact resume, best weights, early stopping, one process or many.

    config = TrainConfig(epochs=10, batch_size=64, monitor="accuracy", mode="max")
    result = fit(model, loss_fn, (images, labels), optimizer=AdamW(model.parameters()), evaluate=accuracy,
                 config=config, out_dir=Path("runs/digits"))

The model trains on the device that it is on. `batch_size` is the batch of one optimizer step: it does not change with
the number of processes (`torchrun`, `accelerate launch`) or of accumulation steps, which only cut it into parts.
A run that was killed and is started again gives, on CPU, bit for bit the weights and metrics of one that was not. For
this, all randomness must come from the global generators of Python, numpy and torch (seeded here from `seed`, and given
back to the caller as they were) or from the generator that a stream is handed.

In `out_dir`: `metrics.jsonl` (a row a line, as in `FitResult.history`), the checkpoints `step-*` (last and previous)
and `best-*`, whose `model.safetensors` is the best model's state dict. One run at a time writes there (`.lock`).
"""

import json
import math
import random
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import GradientAccumulationPlugin, broadcast, gather_object
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from shared_impl import checkpoint, fingerprint
from shared_impl.batches import Layout, Step, make_batches, seed_for
from shared_impl.checkpoint import CheckpointError, CheckpointWarning

__all__ = [
    "CheckpointError",
    "CheckpointWarning",
    "ConfigError",
    "FitResult",
    "TrainConfig",
    "TrainingError",
    "cosine_with_warmup",
    "count_parameters",
    "fit",
]

SYNC_EVERY = 20
"""Steps between looks at the losses where a look costs: on an accelerator, and among several processes."""

_FREE = {"checkpoint_every", "collate", "epochs", "log_every", "max_seconds", "restore_best", "steps"}
"""Fields that may differ when a run is resumed; of epochs and steps, what they come to is compared."""

_TOTAL = "number of steps"

_RESERVED = {"step", "epoch", "lr", "train_loss"}

Row = dict[str, Any]


class ConfigError(ValueError):
    """A setting that cannot work, or one that differs from that of the run to be resumed."""


class TrainingError(RuntimeError):
    """The training went wrong: a loss or a weight is not finite."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train; what is trained is given to `fit`."""

    epochs: int | None = None
    """passes over the data; either this or `steps`"""
    steps: int | None = None
    """optimizer steps"""
    batch_size: int | None = None
    """examples an optimizer step, over all processes and accumulation steps; None for a stream"""
    eval_every: int | None = None
    """steps between evaluations; None: every epoch, or every tenth of the steps of a stream"""
    log_every: int | None = None
    """steps between rows that have the training loss only; None: rows at evaluations only"""
    checkpoint_every: int | None = None
    """steps between checkpoints; None: at each evaluation. One is always written at the end"""
    grad_clip: float | None = None
    """largest Euclidean norm of the gradient"""
    grad_accumulation: int = 1
    """parts into which each process cuts its share of the batch to save memory"""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    patience: int | None = None
    """evaluations without a new best after which to stop"""
    monitor: str = "loss"
    """the metric of `evaluate` that decides what is best, or "train_loss" (which "loss" means without `evaluate`)"""
    mode: Literal["min", "max"] = "min"
    restore_best: bool = False
    """whether to end with the best weights in the model, not with the last"""
    seed: int = 0
    shuffle: bool = True
    drop_last: bool = False
    """leave out the smaller batch at the end of an epoch"""
    max_seconds: float | None = None
    """time for the run, that before a resume included; then it is saved and ends"""
    collate: Callable[[list[Any]], Any] | None = None
    """makes a batch of a list of examples of a data set"""
    num_workers: int = 0

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ConfigError(f"give either epochs or steps, got epochs={self.epochs} and steps={self.steps}")
        for name in ("epochs", "steps", "batch_size", "eval_every", "log_every", "checkpoint_every", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        if self.grad_accumulation < 1:
            raise ConfigError(f"grad_accumulation must be at least 1, got {self.grad_accumulation}")
        for name in ("grad_clip", "max_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be positive, got {value}")
        for name in ("seed", "num_workers"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.mode not in ("min", "max"):
            raise ConfigError(f"mode must be min or max, got {self.mode}")
        if self.mixed_precision not in ("no", "bf16", "fp16"):
            raise ConfigError(f"mixed_precision must be no, bf16 or fp16, got {self.mixed_precision}")


@dataclass(frozen=True)
class FitResult:
    """What a run gave."""

    history: list[Row]
    """a row for each evaluation or log: step, epoch, train_loss, lr and what `evaluate` returned"""
    best: Row
    """the row that is best by `monitor`; empty if there is none"""
    best_step: int | None
    steps: int
    seconds: float
    """time in the loop, that before a resume included"""
    stopped: Literal["finished", "patience", "time"]
    best_path: Path | None = None
    """safetensors file with the best weights, if there is an `out_dir`"""

    def curve(self, metric: str) -> tuple[list[int], list[float]]:
        """Steps and values of a metric, from the rows that have it, ready to be plotted."""
        rows = [row for row in self.history if metric in row]
        return [row["step"] for row in rows], [row[metric] for row in rows]


LossFn = Callable[[Any, Any], Any]
SchedulerLike = LRScheduler | ReduceLROnPlateau | Callable[[Optimizer, int], LRScheduler]


def fit(
    model: nn.Module,
    loss_fn: LossFn,
    train_data: Any,
    *,
    optimizer: Optimizer,
    scheduler: SchedulerLike | None = None,
    evaluate: Callable[[Any], Mapping[str, Any]] | None = None,
    config: TrainConfig,
    out_dir: Path | str | None,
    resume: bool = True,
    console: Console | None = None,
) -> FitResult:
    """Train the model.

    The caller's random numbers, accelerate's state and the model's mode are left as they were.

    Args:
        model: stays on its device (several processes with CUDA: each on its own).
        loss_fn: of (model, batch): the mean loss over the examples of the batch; or (loss, {name: value}) with more
            values to be averaged into the rows as `train_<name>`, each over the batches that have it; or
            (loss, {name: value}, count) where the means are over `count` terms of the batch (tokens that are not
            padding) and not over its examples: parts and batches are then weighed by that.
        train_data: a tensor, a tuple or a mapping of tensors with equal first dimensions (batches by indexing, of the
            same structure); a map-style data set or a sequence of examples (batches by torch's DataLoader); or a
            function that makes the next batch from a `torch.Generator`, its only source of randomness and only state.
        scheduler: stepped once an optimizer step; a `ReduceLROnPlateau` once an evaluation, with the monitored metric.
            Or a function of (optimizer, total steps) that makes one: `partial(cosine_with_warmup, warmup_steps=100)`.
        evaluate: of the model, in evaluation mode and without gradients: metrics by name. Among several processes each
            calls it, and what the first returns counts.
        out_dir: where checkpoints and metrics go; None: no files, and nothing to resume.
        resume: go on from the checkpoint in `out_dir`, if there is one; a run that is finished is not run again, but
            with more epochs or steps it goes on (a scheduler that is made of the total then goes on as that of the
            longer run). False: start anew, removing what was there.
        console: where progress goes: a bar on a terminal, else lines; None: nowhere.

    Raises:
        ConfigError: settings that cannot work; or settings, data, loss or modules that differ from those of the run to
            be resumed, by name; or another run in `out_dir`.
        TrainingError: a loss or weight that is not finite. The checkpoint from before is kept.
        CheckpointError: there are checkpoints, but all are damaged or of another model; or the disk is full.
        KeyboardInterrupt: Ctrl-C, after a checkpoint was written (a second one does not wait for it).
        SystemExit: SIGTERM, likewise, with code 143.
    """
    device = next((p.device for p in model.parameters()), None)
    if device is None:
        raise ConfigError("the model has no parameters")
    if config.mixed_precision == "fp16" and device.type == "cpu":
        raise ConfigError("mixed_precision fp16 needs a CUDA device; use bf16 or no on the CPU")
    own = {id(p) for p in model.parameters()}
    given = [p for group in optimizer.param_groups for p in group["params"]]
    if foreign := sum(id(p) not in own for p in given):
        raise ConfigError(
            f"{foreign} of the {len(given)} parameters of the optimizer are not the model's: they would be neither "
            "trained with it nor saved; make the optimizer of this model's parameters"
        )
    folder = None if out_dir is None else Path(out_dir)
    with _callers_state(model, device):
        run = _Run(model, device, loss_fn, train_data, optimizer, scheduler, evaluate, config, folder, console)
        return run.fit(resume)


def cosine_with_warmup(optimizer: Optimizer, total_steps: int, warmup_steps: int, min_ratio: float = 0.0) -> LambdaLR:
    """Learning rate rising linearly over `warmup_steps` to that of the optimizer, then falling by a half cosine to
    `min_ratio` of it at `total_steps` (Loshchilov and Hutter 2017, equation 5, with one period).

    Raises:
        ConfigError: not 0 <= warmup_steps < total_steps, or not 0 <= min_ratio <= 1.
    """
    if not 0 <= warmup_steps < total_steps:
        raise ConfigError(f"warmup_steps must be from 0 to below total_steps={total_steps}, got {warmup_steps}")
    if not 0.0 <= min_ratio <= 1.0:
        raise ConfigError(f"min_ratio must be from 0 to 1, got {min_ratio}")

    def ratio(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        progress = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
        return min_ratio + (1.0 - min_ratio) * 0.5 * (1.0 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, ratio)


def count_parameters(model: nn.Module, *, trainable_only: bool = True) -> int:
    """Number of parameters; shared ones count once, a complex one as one."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


# The run ------------------------------------------------------------------------------------------------------------


class _LossModule(nn.Module):
    """Model and loss as one module, so that what accelerate wraps (processes, precision) is the call of the loss, and
    the loss function has the plain model at hand everywhere."""

    def __init__(self, model: nn.Module, loss_fn: LossFn) -> None:
        super().__init__()
        self.model = model
        self.loss_fn = loss_fn

    def forward(self, batch: Any) -> Any:
        return self.loss_fn(self.model, batch)


@dataclass
class _Progress:
    """Where the run is: all that a checkpoint holds beside model, optimizer, scheduler and generators."""

    step: int = 0
    epoch: int = 0
    position: int = 0
    """steps done in this epoch"""
    history: list[Row] = field(default_factory=list)
    best_step: int | None = None
    best_value: float | None = None
    best_row: Row = field(default_factory=dict)
    evaluations_since_best: int = 0
    sums: dict[str, list[float]] = field(default_factory=dict)
    """since the last row, of the loss and of each value that came with it: the sum over examples, and their number"""
    seconds: float = 0.0
    stopped: str | None = None
    previous: tuple[int, int | None] | None = None
    """step and best_step of the checkpoint before"""


class _Run:
    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        loss_fn: LossFn,
        train_data: Any,
        optimizer: Optimizer,
        scheduler: SchedulerLike | None,
        evaluate: Callable[[Any], Mapping[str, Any]] | None,
        config: TrainConfig,
        out_dir: Path | None,
        console: Console | None,
    ) -> None:
        self.model, self.config, self.evaluate, self.out_dir = model, config, evaluate, out_dir
        self.accelerator = _accelerator(config, device)
        self.processes = self.accelerator.num_processes
        single = self.processes == 1
        self.device = device if single else self.accelerator.device
        self.main = self.accelerator.is_main_process
        self.console = console if self.main else None
        self.eager = single and self.device.type == "cpu"

        layout = Layout(self.device, self.accelerator.process_index, self.processes, config.grad_accumulation)
        self.whole = layout.whole
        try:
            self.batches = make_batches(
                train_data,
                batch_size=config.batch_size,
                shuffle=config.shuffle,
                drop_last=config.drop_last,
                seed=config.seed,
                collate=config.collate,
                num_workers=config.num_workers,
                layout=layout,
            )
        except ValueError as error:
            raise ConfigError(str(error)) from None
        per_epoch = self.batches.steps_per_epoch
        if config.steps is not None:
            self.total = config.steps
        elif per_epoch is not None and config.epochs is not None:
            self.total = config.epochs * per_epoch
        else:
            raise ConfigError("epochs have no meaning for a stream: give steps")
        self.eval_every = config.eval_every or per_epoch or max(1, self.total // 10)

        self.fingerprint = {} if out_dir is None else self._fingerprint(loss_fn, optimizer, scheduler)
        model.to(self.device)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.loss_module = self.accelerator.prepare_model(_LossModule(model, loss_fn), device_placement=False)
        self.optimizer = optimizer
        # The wrapper matters only where gradients are scaled, and costs tens of microseconds a step.
        self.scaler = self.accelerator.scaler
        self.stepper: Any = optimizer
        if self.scaler is not None:
            self.stepper = self.accelerator.prepare_optimizer(optimizer, device_placement=False)
        if scheduler is None or isinstance(scheduler, LRScheduler):
            self.scheduler = scheduler
        else:
            self.scheduler = scheduler(optimizer, self.total)
        self.plateau = isinstance(self.scheduler, ReduceLROnPlateau)

        monitor = config.monitor
        self.monitor = "train_loss" if evaluate is None and monitor == "loss" else monitor
        if evaluate is None and self.monitor != "train_loss":
            raise ConfigError(f"monitor {monitor!r} needs evaluate; without it there is only train_loss")
        self.keeps_best = config.restore_best or (evaluate is not None and out_dir is not None)
        self.best_weights: dict[str, Any] | None = None
        self.at = _Progress()
        self.lr: float | Tensor = 0.0
        self.pending: list[tuple[int, dict[str, tuple[Any, float]]]] = []
        self.kept_best: set[int] = set()
        """steps of the best weights that the checkpoints on disk know"""

    def fit(self, resume: bool) -> FitResult:
        with self._alone():
            return self._fit(resume)

    def _fit(self, resume: bool) -> FitResult:
        rank = self.accelerator.process_index
        random.seed(seed_for(self.config.seed, 3, rank))
        np.random.seed(seed_for(self.config.seed, 4, rank) % 2**32)  # noqa: NPY002 - users draw from it
        torch.manual_seed(seed_for(self.config.seed, 5, rank))
        if not (resume and self._restore()):
            self._clear()
        if self.at.stopped == "finished" and self.at.step < self.total:
            self.at.stopped = None  # it has been extended
        if self.at.stopped not in ("finished", "patience"):
            self.at.stopped = None
            try:
                self._train()
            finally:
                self.batches.close()
        at = self.at
        if self.config.restore_best and at.best_step is not None:
            self._load_best()
        best_path = None
        if self.out_dir is not None and self.keeps_best and at.best_step is not None:
            best_path = checkpoint.path_of(self.out_dir, "best", at.best_step) / "model.safetensors"
        stopped: Any = at.stopped
        return FitResult(at.history, at.best_row, at.best_step, at.step, at.seconds, stopped, best_path)

    # The loop

    def _train(self) -> None:
        at, config = self.at, self.config
        checkpoint_every = config.checkpoint_every or self.eval_every
        started = time.monotonic() - at.seconds
        if not self.model.training:
            self.model.train()
        self.optimizer.zero_grad()
        with _Signals(self.out_dir is not None) as signals, _Display(self.console, self.total, at.step) as display:
            while at.stopped is None:
                for step in self.batches.steps(at.epoch, at.position):
                    self._step(step)
                    at.position += 1
                    if at.position == self.batches.steps_per_epoch:
                        at.epoch, at.position = at.epoch + 1, 0
                    evaluating = at.step == self.total or at.step % self.eval_every == 0
                    if evaluating or (config.log_every and at.step % config.log_every == 0):
                        display.row(self._row(evaluating))
                    elif self.console is not None:
                        display.tick(at.step)
                    at.seconds = time.monotonic() - started
                    received = self._decide(signals.received, evaluating)
                    if at.stopped or received or at.step % checkpoint_every == 0:
                        self._save()
                    if received and not at.stopped:
                        signals.raise_for(received)
                    if at.stopped == "time" and not evaluating:
                        # After the checkpoint: a run that goes on from there has not seen this evaluation.
                        display.row(self._row(evaluating=True))
                    if at.stopped:
                        break

    def _step(self, step: Step) -> None:
        """One optimizer step, and one of the scheduler."""
        at, (parts, examples, ignored) = self.at, step
        at.step += 1
        values: dict[str, tuple[Any, float]] = {}
        terms = 0.0
        counted = False
        for i, (batch, share) in enumerate(parts):
            # Among several processes gradients are averaged once, in the backward pass of the last part.
            with _NOTHING if i == len(parts) - 1 else self.accelerator.no_sync(self.loss_module):
                loss, more, count = _loss_and_more(self.loss_module(batch))
                counted = count is not None
                if ignored and not counted:
                    raise ConfigError(
                        "a batch that is cut (by grad_accumulation or several processes) has targets that are ignored "
                        "(-100): return (loss, {}, number of targets that count) from loss_fn, so that its parts are "
                        "weighed by them"
                    )
                weight = share * examples if count is None else float(count) if share else 0.0
                terms += weight
                if weight == 0.0 and self.processes == 1:
                    continue  # nothing counts here; its mean is no number
                seen: float | Tensor = loss.detach()
                if self.eager:  # a number at once, and nothing is done with a loss that is none
                    seen = loss.item()
                    self._check_loss(seen, at.step)
                # The average over processes divides by their number.
                scale = (1.0 if self.whole else weight / examples if counted else share) * self.processes
                weighted = loss if scale == 1.0 else loss * scale
                if self.scaler is None:
                    weighted.backward()
                else:
                    self.accelerator.backward(weighted)
            for name, value in {"loss": seen, **more}.items() if weight else ():
                value = value.detach() if isinstance(value, Tensor) else value
                total, n = values.get(name, (0.0, 0.0))
                values[name] = (total + value * weight, n + weight)
        if counted and not self.whole:
            self._divide_gradients(examples, terms)
        if self.config.grad_clip is not None:
            self.accelerator.clip_grad_norm_(self.parameters, self.config.grad_clip)
        self.stepper.step()
        self.optimizer.zero_grad()
        self.lr = self.optimizer.param_groups[0]["lr"]  # the one of this step
        skipped = self.scaler is not None and self.accelerator.optimizer_step_was_skipped
        if self.scheduler is not None and not self.plateau and not skipped:
            self.scheduler.step()
        self.pending.append((at.step, values))
        if self.eager or len(self.pending) == SYNC_EVERY:
            self._flush()

    def _divide_gradients(self, examples: int, terms: float) -> None:
        """From sums over terms, divided by examples for the want of anything better, to means over terms."""
        if self.processes > 1:
            terms = float(self.accelerator.reduce(torch.tensor(terms, device=self.device), "sum"))
        for parameter in self.parameters:
            if parameter.grad is not None and terms > 0:
                parameter.grad.mul_(examples / terms)

    def _flush(self) -> None:
        """Add the losses of the last steps to the sums: every step only where that means no waiting."""
        if not self.pending:
            return
        given = [value for _, values in self.pending for value, _ in values.values()]
        if self.eager:
            numbers = [float(value) for value in given]
        else:
            kind = torch.float32 if self.device.type == "mps" else torch.float64
            tensors = [torch.as_tensor(value, device=self.device).to(kind).reshape(()) for value in given]
            numbers = torch.stack(tensors).tolist() if tensors else []
        number = iter(numbers)
        rows = [(step, {name: (next(number), n) for name, (_, n) in values.items()}) for step, values in self.pending]
        # Processes may have values of different names.
        for step, values in gather_object(rows) if self.processes > 1 else rows:
            for name, (total, n) in values.items():
                if name == "loss":
                    self._check_loss(total, step)
                sums = self.at.sums.setdefault(name, [0.0, 0.0])
                sums[0] += total
                sums[1] += n
        self.pending.clear()

    def _decide(self, received: int, evaluating: bool) -> int:
        """Set `stopped` if the run ends here; returns the signal to be obeyed, the same in all processes."""
        at, config = self.at, self.config
        overtime = config.max_seconds is not None and at.seconds > config.max_seconds
        if self.processes > 1:
            if not evaluating and at.step % SYNC_EVERY:
                return 0
            seen = torch.tensor([received == signal.SIGINT, received == signal.SIGTERM, overtime], device=self.device)
            interrupted, terminated, late = self.accelerator.reduce(seen.long(), "sum").tolist()
            received = signal.SIGTERM if terminated else signal.SIGINT if interrupted else 0
            overtime = late > 0
        if at.step == self.total:
            at.stopped = "finished"
        elif evaluating and config.patience is not None and at.evaluations_since_best >= config.patience:
            at.stopped = "patience"
        elif overtime:
            at.stopped = "time"
        return received

    def _check_loss(self, loss: float, step: int) -> None:
        if not math.isfinite(loss):
            raise TrainingError(f"the loss is {loss} in step {step}; {self._kept()}")

    # Rows

    def _row(self, evaluating: bool) -> Row:
        """The row of this step, put into the history and the file; with an evaluation, also what follows from that."""
        at = self.at
        self._flush()
        row: Row = {"step": at.step}
        if self.batches.steps_per_epoch is not None:
            row["epoch"] = at.step / self.batches.steps_per_epoch
        for name, (total, n) in at.sums.items():
            if n:
                row[f"train_{name}"] = total / n
        at.sums = {}
        row["lr"] = float(self.lr)
        if evaluating:
            row.update(self._metrics())
            self._judge(row)
        at.history.append(row)
        if self.main and self.out_dir is not None:
            path = self.out_dir / "metrics.jsonl"
            with self._storing(), checkpoint.storing(path), path.open("a", encoding="utf-8") as file:
                file.write(_json_line(row))
        return row

    def _metrics(self) -> dict[str, float]:
        if self.evaluate is None:
            return {}
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            with torch.no_grad(), self.accelerator.autocast():
                given = dict(self.evaluate(self.model))
        finally:
            for module, mode in modes:  # one by one: a part that is frozen in evaluation mode stays so
                module.training = mode
        clash = sorted(_RESERVED.intersection(given))
        if clash:
            raise ConfigError(f"evaluate must not name a metric {clash[0]!r}: rows have that already")
        try:
            metrics = {str(name): float(value) for name, value in given.items()}
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigError(f"evaluate must return numbers by name: {error}") from error
        if self.processes > 1 and metrics:
            values = broadcast(torch.tensor(list(metrics.values()), dtype=torch.float64, device=self.device))
            metrics = dict(zip(metrics, values.tolist(), strict=True))
        return metrics

    def _judge(self, row: Row) -> None:
        at, higher = self.at, self.config.mode == "max"
        if self.monitor not in row:
            if self.monitor == "train_loss":
                return  # no step since the last row
            there = ", ".join(sorted(set(row) - _RESERVED)) or "nothing"
            raise ConfigError(f"monitor {self.monitor!r} is not among the metrics of evaluate: there is {there}")
        value = row[self.monitor]
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(value)
        if at.best_value is None or (value > at.best_value if higher else value < at.best_value):
            if math.isnan(value):
                return
            at.best_value, at.best_step, at.best_row, at.evaluations_since_best = value, at.step, dict(row), 0
            if self.keeps_best:
                self._keep_best(row)
        else:
            at.evaluations_since_best += 1

    # Checkpoints

    def _keep_best(self, row: Row) -> None:
        weights = self.model.state_dict()
        if self.out_dir is None:
            self.best_weights = {k: v.clone() if isinstance(v, Tensor) else v for k, v in weights.items()}
        elif self.main:
            with self._storing():
                checkpoint.write(checkpoint.path_of(self.out_dir, "best", self.at.step), {"model": weights, "row": row})
                # Those that a checkpoint knows stay: the run may have to go on from there.
                checkpoint.keep_only(self.out_dir, "best", {self.at.step, *self.kept_best})

    def _load_best(self) -> None:
        if self.out_dir is None:
            weights = self.best_weights
        else:
            self.accelerator.wait_for_everyone()
            weights = checkpoint.read(checkpoint.path_of(self.out_dir, "best", self.at.best_step or 0))["model"]
        if weights is not None:
            self.model.load_state_dict(weights)

    def _save(self) -> None:
        if self.out_dir is None:
            return
        self._flush()
        at = self.at
        if not all(bool(torch.isfinite(p).all()) for p in self.parameters):
            raise TrainingError(f"a weight is not finite after step {at.step}; {self._kept()}")
        # Each process has its own random numbers (dropout); the first writes those of all.
        rng = {
            name: self.accelerator.gather(state.to(self.device)[None])
            for name, state in checkpoint.rng_state(self.device).items()
        }
        if self.main:
            parts = {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
                "scaler": self.scaler.state_dict() if self.scaler is not None else None,
                "rng": rng,
                "data": self.batches.state(),
                "loop": {f.name: getattr(at, f.name) for f in fields(at)},
                "run": self.fingerprint,
            }
            before = at.previous or (at.step, at.best_step)
            self.kept_best = {s for s in (at.best_step, before[1]) if s is not None}
            with self._storing():
                checkpoint.write(checkpoint.path_of(self.out_dir, "step", at.step), parts)
                checkpoint.keep_only(self.out_dir, "step", {at.step, before[0]})
                checkpoint.keep_only(self.out_dir, "best", self.kept_best)
        at.previous = (at.step, at.best_step)
        self.accelerator.wait_for_everyone()

    @contextmanager
    def _storing(self) -> Iterator[None]:
        try:
            yield
        except CheckpointError as error:
            raise CheckpointError(f"{error}; {self._kept()}") from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock of `out_dir`, free of what interrupted writes have left.

        Raises:
            ConfigError: another run has it, or the folder cannot be written.
        """
        if self.out_dir is None:
            yield
            return
        lock = FileLock(self.out_dir / ".lock", timeout=0)
        problem = ""
        if self.main:
            try:
                self.out_dir.mkdir(parents=True, exist_ok=True)
                lock.acquire()
                checkpoint.clean(self.out_dir)
            except Timeout:
                problem = f"another run is training in {self.out_dir}: wait for it, or choose another out_dir"
            except OSError as error:
                problem = f"out_dir {self.out_dir} cannot be written: {error.strerror or error}"
        if self.processes > 1:
            refused = self.accelerator.reduce(torch.tensor(int(bool(problem)), device=self.device), "sum")
            problem = problem or ("the first process refused" if int(refused) else "")
        if problem:
            raise ConfigError(problem)
        try:
            yield
        finally:
            lock.release()

    def _kept(self) -> str:
        if self.at.previous is None or self.out_dir is None:
            return "there is no checkpoint from before"
        return f"the checkpoint of step {self.at.previous[0]} is kept in {self.out_dir}"

    def _restore(self) -> bool:
        """Go to the newest checkpoint that is whole; False if there is none at all."""
        if self.out_dir is None:
            return False
        found = checkpoint.find(self.out_dir, "step")
        damages = []
        for step, path in found.items():
            try:
                parts = checkpoint.read(path)
            except CheckpointError as error:
                damages.append(str(error))
                continue
            for damage in damages if self.main else ():
                warnings.warn(f"{damage}; going on from step {step} instead", CheckpointWarning, stacklevel=4)
            self._load(parts, path)
            return True
        if found:
            raise CheckpointError(
                f"no checkpoint in {self.out_dir} can be used ({'; '.join(damages)}); resume=False starts anew"
            )
        return False

    def _load(self, parts: dict[str, Any], path: Path) -> None:
        old, new = parts["run"], json.loads(json.dumps(self.fingerprint))
        # What only one of them has is of another version.
        for name in sorted((old.keys() & new.keys()) - _FREE, key=lambda name: (name == _TOTAL, name)):
            if name == _TOTAL and old[name] <= new[name]:
                continue  # extended
            if old[name] != new[name]:
                raise ConfigError(
                    f"{name} is {new[name]} but was {old[name]} in the run in {path.parent}: "
                    f"{'a run can be made longer, not shorter' if name == _TOTAL else 'resume with the same'}, "
                    "or start anew with resume=False"
                )
        if parts["loop"]["step"] > self.total:
            raise ConfigError(
                f"{_TOTAL} is {self.total}, but the run in {path.parent} has done {parts['loop']['step']}: "
                "start anew with resume=False"
            )
        try:
            self.model.load_state_dict(parts["model"])
            self.optimizer.load_state_dict(parts["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(f"{path} is of another model or optimizer: {error}") from error
        if self.scheduler is not None:
            self.scheduler.load_state_dict(parts["scheduler"])
        if self.scaler is not None:
            self.scaler.load_state_dict(parts["scaler"])
        self.batches.load_state(parts["data"])
        loop = parts["loop"]
        known = {f.name for f in fields(_Progress)}
        self.at = _Progress(**{name: value for name, value in loop.items() if name in known})
        if "examples" in loop:  # version 0.1.0: one number of examples for all sums
            self.at.sums = {name: [total, loop["examples"]] for name, total in loop["sums"].items()}
        before = self.at.previous or (self.at.step, self.at.best_step)
        self.kept_best = {s for s in (self.at.best_step, before[1]) if s is not None}
        self.at.previous = (self.at.step, self.at.best_step)
        if self.main and self.out_dir is not None:
            # What was written after the checkpoint will be written again.
            with self._storing():
                checkpoint.write_text(self.out_dir / "metrics.jsonl", "".join(map(_json_line, self.at.history)))
        rank = self.accelerator.process_index
        checkpoint.set_rng_state({name: rows[rank] for name, rows in parts["rng"].items()}, self.device)

    def _clear(self) -> None:
        if self.out_dir is not None and self.main:
            self.out_dir.mkdir(parents=True, exist_ok=True)
            for prefix in ("step", "best"):
                checkpoint.keep_only(self.out_dir, prefix, set())
            (self.out_dir / "metrics.jsonl").unlink(missing_ok=True)
        self.accelerator.wait_for_everyone()

    def _fingerprint(self, loss_fn: LossFn, optimizer: Optimizer, scheduler: SchedulerLike | None) -> dict[str, Any]:
        """What must be equal when a run is resumed."""
        same: dict[str, Any] = {
            f.name: getattr(self.config, f.name) for f in fields(self.config) if f.name not in _FREE
        }
        same["processes"] = self.processes
        same[_TOTAL] = self.total
        same["training data"] = f"{self.batches.kind} ({self.batches.examples} examples)"
        same["training data's content"] = self.batches.content()
        same |= {f"loss_fn{what}": value for what, value in fingerprint.of_function(loss_fn).items()}
        same |= {f"module {name!r}": text for name, text in fingerprint.of_modules(self.model).items()}
        same["scheduler"] = type(scheduler).__name__
        same["optimizer"] = type(optimizer).__name__
        for i, group in enumerate(optimizer.param_groups):
            for name, value in group.items():
                if isinstance(value, bool | int | float | str):
                    same[f"{name} of the optimizer's group {i}"] = value
        return same


_NOTHING: AbstractContextManager[None] = nullcontext()


def _loss_and_more(returned: Any) -> tuple[Tensor, Mapping[str, Any], Any]:
    """Loss, values by name, and the number of terms (None: the examples)."""
    loss, more, count, *_ = (*returned, None, None) if isinstance(returned, tuple) else (returned, {}, None)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        what = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ConfigError(f"loss_fn must return a tensor with one element (and a dictionary), got {what}")
    more = {} if more is None else more
    if not isinstance(more, Mapping) or "loss" in more:
        raise ConfigError(f"loss_fn's values must be a dictionary without the name 'loss', got {more!r:.80}")
    for name, value in more.items():
        if not isinstance(value, int | float | np.number) and not (isinstance(value, Tensor) and value.numel() == 1):
            raise ConfigError(f"loss_fn's value {name!r} must be a number, got {type(value).__name__}")
    if count is not None and not float(count) >= 0:
        raise ConfigError(f"loss_fn's count must not be negative, got {count}")
    return loss, more, count


def _json_line(row: Row) -> str:
    """JSON has no NaN: null stands for what is not finite."""
    return json.dumps({k: v if math.isfinite(v) else None for k, v in row.items()}) + "\n"


def _accelerator(config: TrainConfig, device: torch.device) -> Accelerator:
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=config.mixed_precision,
        # Accumulation is done here, with the weights of unequal parts.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
    )
    if accelerator.distributed_type.value not in ("NO", "MULTI_CPU", "MULTI_GPU"):
        raise ConfigError(f"accelerate is set to {accelerator.distributed_type.value}: only data parallelism is known")
    return accelerator


@contextmanager
def _callers_state(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Give the caller's random numbers, accelerate's state and the model's mode back: what follows a run does not
    depend on whether the run was done or had been done before."""
    state = checkpoint.rng_state(device)
    modes = [(module, module.training) for module in model.modules()]
    # One for the whole program, and what Accelerator objects of the caller look at.
    shared = (PartialState._shared_state, AcceleratorState._shared_state, GradientState._shared_state)
    kept = [dict(own) for own in shared]
    for own in shared:
        own.clear()
    try:
        yield
    finally:
        for own, before in zip(shared, kept, strict=True):
            own.clear()
            own.update(before)
        checkpoint.set_rng_state(state, device)
        for module, mode in modes:
            module.training = mode


class _Signals:
    """Notes the first SIGINT or SIGTERM, so that the step can end and be saved; a second one acts at once."""

    def __init__(self, active: bool) -> None:
        self.active = active and threading.current_thread() is threading.main_thread()
        self.received = 0
        self.handlers: dict[int, Any] = {}

    def __enter__(self) -> "_Signals":
        for number in (signal.SIGINT, signal.SIGTERM) if self.active else ():
            self.handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            self.raise_for(number)
        self.received = number

    @staticmethod
    def raise_for(number: int) -> None:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)


class _Display:
    """A progress bar on a terminal, a line for each row in any case."""

    def __init__(self, console: Console | None, total: int, step: int) -> None:
        self.console, self.total, self.first = console, total, step
        self.started = self.refreshed = time.monotonic()
        self.progress: Progress | None = None
        if console is not None and console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeRemainingColumn(compact=True))
            # Refreshed from the loop: a thread would take its share of a small model's time.
            self.progress = Progress(*columns, console=console, auto_refresh=False, transient=True)
            self.task = self.progress.add_task("train", total=total, completed=step)

    def __enter__(self) -> "_Display":
        if self.progress is not None:
            self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.progress is not None:
            self.progress.stop()

    def tick(self, step: int) -> None:
        if self.progress is not None and (now := time.monotonic()) - self.refreshed > 0.1:
            self.refreshed = now
            self.progress.update(self.task, completed=step, refresh=True)

    def row(self, row: Row) -> None:
        if self.console is None:
            return
        speed = (row["step"] - self.first) / max(time.monotonic() - self.started, 1e-9)
        values = [f"{name} {value:.4g}" for name, value in row.items() if name not in ("step", "epoch", "lr")]
        parts = [f"step {row['step']}/{self.total}"]
        if "epoch" in row:
            parts.append(f"epoch {row['epoch']:.4g}")
        line = "  ".join([*parts, *values, f"lr {row['lr']:.3g}", f"{speed:.1f} steps/s"])
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        self.refreshed = 0.0
        self.tick(row["step"])
