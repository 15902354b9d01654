"""Training: the ReLU network, the spiking network at one T, and the reduction of T stage by stage (Algorithm 1)."""

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from rich.console import Console
from torch import Tensor, nn

from shared_impl.train import TrainConfig, fit

from .network import SpikingNet

__all__ = ["Batches", "History", "accuracy", "exit_threshold", "iir", "train_ann", "train_snn"]


@runtime_checkable
class Loader(Protocol):
    """Batches of images and labels, again and again: a `DataLoader`, `Batches`, a list."""

    def __iter__(self) -> Iterator[Any]: ...
    def __len__(self) -> int: ...


class Batches:
    """Images and labels in batches.

    Args:
        shuffle: in a new order each time; the same `seed`, the same orders.
        augment: while training each image is shifted by up to 4 pixels, zeros coming in, and mirrored half of the time
            (the paper's for CIFAR).

    Raises:
        ValueError: unequal numbers of images and labels, none, or a batch_size below 1.
    """

    def __init__(
        self, images: Float[Tensor, "n *image"], labels: Int[Tensor, "n"], batch_size: int = 64, *,
        shuffle: bool = True, seed: int = 0, augment: bool = False,
    ) -> None:  # fmt: skip
        if len(images) != len(labels) or not len(images):
            raise ValueError(f"images and labels must be equally many, at least 1, got {len(images)} and {len(labels)}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if augment and images.ndim != 4:
            raise ValueError(f"augment needs images (n, channels, height, width), got {tuple(images.shape)}")
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.shuffle, self.seed, self.augment = shuffle, seed, augment
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        n = len(self.images)
        order = torch.randperm(n, generator=self._generator) if self.shuffle else torch.arange(n)
        for index in order.split(self.batch_size):
            yield self.images[index], self.labels[index]


def shifted_and_mirrored(x: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n channels height width"]:
    """Each image moved by -4 to 4 pixels both ways, zeros coming in, and mirrored with probability one half."""
    n, _, height, width = x.shape
    down, right = torch.randint(0, 9, (2, n, 1), device=x.device)
    rows = down + torch.arange(height, device=x.device)
    columns = right + torch.arange(width, device=x.device)
    mirror = torch.rand(n, 1, device=x.device) < 0.5
    columns = torch.where(mirror, columns.flip(1), columns)
    each = torch.arange(n, device=x.device)[:, None, None]
    return F.pad(x, (4, 4, 4, 4))[each, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@dataclass
class History:
    """What happened, an entry an epoch."""

    T: list[int] = field(default_factory=list)
    """time steps; 0: the ReLU network"""
    loss: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    """accuracy on the validation data, where given"""
    rates: dict[int, dict[str, float]] = field(default_factory=dict)
    """T to spikes a neuron of each layer after its stage"""


@torch.no_grad()
def accuracy(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], T: int | None = None) -> float:
    """The part that is classified rightly, in evaluation mode; T steps if it is a spiking network.

    Raises:
        ValueError: a loader without images.
    """
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    right = n = 0
    for x, y in loader:
        x = x.to(device)
        logits = model(x, T) if isinstance(model, SpikingNet) else model(x)
        right += int((logits.argmax(-1) == y.to(device)).sum())
        n += len(y)
    model.train(training)
    if not n:
        raise ValueError("loader must give at least one image")
    return right / n


@torch.no_grad()
def exit_threshold(
    model: SpikingNet, loader: Iterable[tuple[Tensor, Tensor]], T: int | None = None, *, drop: float | int = 0.01
) -> float:
    """The smallest threshold of `SpikingNet.predict` that costs at most `drop` of accuracy on data held out.

    Raises:
        ValueError: a drop outside of 0 to 1; a loader without images.
    """
    if not 0 <= drop <= 1:
        raise ValueError(f"drop must be between 0 and 1, got {drop}")
    candidates = [i / 100 for i in range(101)]
    right = dict.fromkeys(candidates, 0)
    everything = n = 0
    for x, y in loader:
        logits = model.forward_steps(x, T)
        everything += int((logits[-1].argmax(-1) == y).sum())
        n += len(y)
        for threshold in candidates:
            right[threshold] += int((model.exits(logits, threshold).classes == y).sum())
    if not n:
        raise ValueError("loader must give at least one image")
    return next((t for t in candidates if right[t] >= everything - drop * n), 1.0)


def _train(
    model: nn.Module,
    forward: Callable[[Any, Tensor], Tensor],
    loader: Loader,
    optimizer: torch.optim.Optimizer,
    epochs: int,
    drops: Sequence[float],
    validate: Callable[[Any], float] | None,
    select: Literal["last", "best"],
    out_dir: Path | None,
    console: Console | None,
) -> tuple[list[float], list[float]]:
    if epochs < 0:
        raise ValueError(f"epochs must not be negative, got {epochs}")
    if select == "best" and validate is None:
        raise ValueError("validation must be given to select the best epoch (the test set must not choose)")
    if epochs == 0:
        model.eval()
        return [], []
    own = loader if isinstance(loader, Batches) else None
    # batch norm cannot train on one image alone, so a last batch of one is left out
    alone = own is not None and len(own.images) > own.batch_size and len(own.images) % own.batch_size == 1
    an_epoch = len(loader) - alone
    if not an_epoch:
        raise ValueError("loader must give at least one image")
    at = [an_epoch * int(part * epochs) for part in drops if int(part * epochs)]

    def loss(net: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return F.cross_entropy(forward(net, shifted_and_mirrored(x) if own and own.augment else x), y)

    result = fit(
        model,
        loss,
        _stream(loader) if own is None else (own.images, own.labels),
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.2 ** sum(step >= a for a in at)),
        evaluate=None if validate is None else lambda net: {"accuracy": validate(net)},
        config=TrainConfig(
            steps=epochs * an_epoch,
            batch_size=None if own is None else min(own.batch_size, len(own.images)),
            seed=0 if own is None else own.seed,
            shuffle=own is None or own.shuffle,
            drop_last=alone,
            eval_every=an_epoch,
            monitor="loss" if validate is None else "accuracy",
            mode="min" if validate is None else "max",
            restore_best=select == "best",
        ),
        out_dir=out_dir,
        console=console,
    )
    model.eval()
    return result.curve("train_loss")[1], [] if validate is None else result.curve("accuracy")[1]


def _stream(loader: Loader) -> Callable[[torch.Generator], Any]:
    batches = iter(loader)

    def draw(generator: torch.Generator) -> Any:
        nonlocal batches
        batch = next(batches, None)
        if batch is None:
            batches = iter(loader)
            batch = next(batches)
        return tuple(batch)

    return draw


def train_ann(
    model: nn.Module,
    loader: Loader,
    *,
    epochs: int = 300,
    lr: float | int = 0.01,
    weight_decay: float | int = 5e-4,
    validation: Iterable[tuple[Tensor, Tensor]] | None = None,
    select: Literal["last", "best"] = "last",
    out_dir: Path | None = None,
    console: Console | None = None,
) -> History:
    """The ReLU network, in place: SGD with momentum 0.9, the rate divided by 5 at 45, 70 and 90 % of the epochs.

    Args:
        validation: measured after each epoch; `select="best"` ends with the weights of its best epoch.
        out_dir: checkpoints, from which the same call goes on.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=weight_decay)
    validate = None if validation is None else lambda net: accuracy(net, validation)
    losses, scores = _train(
        model, lambda net, x: net(x), loader, optimizer, epochs, (0.45, 0.7, 0.9), validate, select, out_dir, console
    )
    return History([0] * epochs, losses, scores)


def train_snn(
    model: SpikingNet,
    loader: Loader,
    T: int,
    *,
    epochs: int = 10,
    lr: float | int = 1e-4,
    validation: Iterable[tuple[Tensor, Tensor]] | None = None,
    select: Literal["last", "best"] = "last",
    compat: Literal["ours", "official"] = "ours",
    out_dir: Path | None = None,
    console: Console | None = None,
) -> History:
    """The spiking network with T steps, in place: Adam with amsgrad, the rate divided by 5 at 60, 80 and 90 %.

    Weights, thresholds and leaks are learnt together (a single T is DIET-SNN). After each step leaks are clamped to at
    most 1 and thresholds to at least 0.001; `compat="official"` leaves thresholds alone.

    Raises:
        ValueError: T below 1, or data without images.
        TrainingError: a loss that is not finite.
    """
    if T < 1:
        raise ValueError(f"T must be at least 1 step, got {T}")
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, amsgrad=True)
    optimizer.register_step_post_hook(lambda *_: model.clamp_(threshold=compat == "ours"))
    validate = None if validation is None else lambda net: accuracy(net, validation, T)
    losses, scores = _train(
        model, lambda net, x: net(x, T), loader, optimizer, epochs, (0.6, 0.8, 0.9), validate, select, out_dir, console
    )
    model.T = T
    return History([T] * epochs, losses, scores, {T: model.spike_stats(loader, T)})


def iir(
    model: SpikingNet,
    loader: Loader,
    schedule: Sequence[int] = (5, 4, 3, 2, 1),
    epochs: int = 10,
    *,
    lr: float | int = 1e-4,
    validation: Iterable[tuple[Tensor, Tensor]] | None = None,
    select: Literal["last", "best"] = "last",
    compat: Literal["ours", "official"] = "ours",
    on_stage: Callable[[int, SpikingNet], object] | None = None,
    out_dir: Path | None = None,
    console: Console | None = None,
) -> tuple[dict[int, SpikingNet], History]:
    """Iterative initialisation and retraining: each T starts from the network of the T before it.

    Args:
        model: converted; it is left as it is.
        schedule: numbers of steps, falling.
        epochs: of each stage.
        on_stage: called with T and its network when a stage is done.
        out_dir: checkpoints, a folder a stage, from which the same call goes on.

    Returns:
        T to its network, and the history of all stages.

    Raises:
        ValueError: a schedule that is empty or does not fall.
    """
    stages = list(schedule)
    if not stages or min(stages) < 1 or any(a <= b for a, b in itertools.pairwise(stages)):
        raise ValueError(f"schedule must be falling numbers of steps, each at least 1, got {stages}")
    networks: dict[int, SpikingNet] = {}
    history = History()
    current = model
    for T in stages:
        current = copy.deepcopy(current)
        folder = None if out_dir is None else Path(out_dir) / f"T{T}"
        stage = train_snn(
            current, loader, T, epochs=epochs, lr=lr, validation=validation, select=select, compat=compat,
            out_dir=folder, console=console,
        )  # fmt: skip
        networks[T] = current
        history.T += stage.T
        history.loss += stage.loss
        history.validation += stage.validation
        history.rates.update(stage.rates)
        if on_stage is not None:
            on_stage(T, current)
    return networks, history
