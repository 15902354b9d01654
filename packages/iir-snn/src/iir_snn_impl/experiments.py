"""The paper's tables, declared: fewer and fewer steps on images, in deep networks, their energy, and CartPole."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from shared_impl.experiments import Context, Experiment, ExperimentRefused, Finished, Metric, Plot, Run, Table, grid
from shared_impl.results import plot_lines

from .data import ImageFolder, Images, cifar_binary, digits16, mnist_10k
from .energy_model import ASSUMPTIONS, energy, energy_ratio
from .models import small_conv, vgg
from .network import SpikingNet
from .rate_coding import rate_coded
from .training import Batches, accuracy, iir, train_ann, train_snn

__all__ = ["EXPERIMENTS"]

SCHEDULE = (5, 4, 3, 2, 1)
SHOWN = (1, 2, 3, 4, 5, 8, 16, 32)
Settings = tuple[tuple[str, Any], ...]


@lru_cache(maxsize=4)
def images_of(data: str) -> Images:
    """A data set by its name."""
    if data == "digits":
        return digits16()
    if data == "MNIST 10k":
        return mnist_10k()
    folder = os.environ.get("IIR_SNN_CIFAR")
    if folder is None:
        raise ExperimentRefused(f"{data}: set IIR_SNN_CIFAR to the folder with the binary files of {data}")
    return cifar_binary(Path(folder), data)


def loaders(data: str, seed: int, options: Mapping[str, Any]) -> tuple[Any, Any]:
    """Batches to train and to test on."""
    size = options.get("batch_size", 64)
    if data == "imagenet":
        root = os.environ.get("IIR_SNN_IMAGENET")
        if root is None:
            raise ExperimentRefused("imagenet: set IIR_SNN_IMAGENET to the folder with train/ and val/")
        train = ImageFolder(Path(root) / "train", batch_size=size, seed=seed, augment=True)
        return train, ImageFolder(Path(root) / "val", batch_size=size, shuffle=False)
    parts = images_of(data)
    x, y = (part[: options.get("limit")] for part in parts.train)
    augment = data.startswith("cifar")
    return Batches(x, y, size, seed=seed, augment=augment), Batches(*parts.test, 500, shuffle=False)


def fresh(data: str, seed: int, options: Mapping[str, Any]) -> nn.Sequential:
    """The untrained ReLU network of an experiment."""
    torch.manual_seed(seed)
    classes = {"cifar100": 100, "imagenet": 1000}.get(data, 10)
    if data == "imagenet":
        return vgg("VGG16", size=224, n_classes=classes, pool_last=True, dropout=options.get("ann_dropout", 0.5))
    channels, size = images_of(data).train[0].shape[1:3]
    if (name := options.get("network", "small_conv")) == "small_conv":
        return small_conv(in_channels=channels, size=size)
    return vgg(
        name, in_channels=channels, size=size, n_classes=classes, width=options.get("width", 1.0),
        dropout=options.get("ann_dropout", 0.5),
    )  # fmt: skip


@lru_cache(maxsize=2)
def trained_ann(data: str, seed: int, settings: Settings, device: str) -> nn.Sequential:
    """The ReLU network that all methods of a seed start from (not to be changed)."""
    options = dict(settings)
    ann = fresh(data, seed, options).to(device)
    train_ann(ann, loaders(data, seed, options)[0], epochs=options["ann_epochs"], lr=options["ann_lr"])
    return ann


def calibration(data: str, seed: int, options: Mapping[str, Any], device: str) -> list[torch.Tensor]:
    """512 training images, the paper's number."""
    batches, n = [], 0
    for x, _ in loaders(data, seed, options)[0]:
        batches.append(x)
        n += len(x)
        if n >= 512:
            break
    return [torch.cat(batches)[:512].to(device)]


@torch.no_grad()
def accuracies(net: SpikingNet, test: Iterable[Any], steps: Sequence[int]) -> dict[str, float]:
    """Test accuracy after each of some numbers of steps, in one pass."""
    right, n = dict.fromkeys(steps, 0), 0
    device = next(net.parameters()).device
    net.eval()
    for x, y in test:
        classes = net.forward_steps(x.to(device), max(steps)).argmax(-1).cpu()
        n += len(y)
        for T in steps:
            right[T] += int((classes[T - 1] == y).sum())
    return {f"T{T}": right[T] / n for T in steps}


def execute(run: Run, context: Context) -> dict[str, float]:
    """One method on one data set; methods with training have the epochs of the whole schedule."""
    options = run.options
    # a method's own settings are no part of what the ReLU network depends on
    settings: Settings = tuple(sorted((k, v) for k, v in options.items() if k != "T"))
    train, test = loaders(run.data, run.seed, options)
    images = calibration(run.data, run.seed, options, context.device)
    if run.model == "from scratch":
        ann = fresh(run.data, run.seed, options).to(context.device)
    else:
        ann = trained_ann(run.data, run.seed, settings, context.device)
    if run.model == "ReLU network":
        return {"ann": accuracy(ann, test)}
    if run.model == "rate coding":
        return accuracies(rate_coded(ann, images), test, SHOWN)
    how: dict[str, Any] = {"surrogate": "stdb", "learn": False} if run.model == "hybrid (STDB)" else {}
    net = SpikingNet.from_ann(ann, images, dropout=options.get("dropout"), **how)
    if run.model == "conversion":
        return accuracies(net, test, SHOWN) | spikes(net, test, 1)
    folder = None if context.folder is None else context.folder / "snn"
    more = {"epochs": options["epochs"], "lr": options["lr"], "out_dir": folder}
    found: dict[str, float] = {}
    if run.model == "IIR":
        networks, _ = iir(net, train, SCHEDULE, **more)
        for T, stage in networks.items():
            found |= {f"T{T}": accuracy(stage, test, T)} | spikes(stage, test, T)
        return found
    more["epochs"] *= len(SCHEDULE)
    T = options["T"]
    train_snn(net, train, T, **more)
    return {f"T{T}": accuracy(net, test, T)} | spikes(net, test, T)


def spikes(net: SpikingNet, test: Iterable[Any], T: int) -> dict[str, float]:
    """Energy, spikes, rates and layers that never spike at T steps.

    `paper_sizes` is the energy of the paper's VGG16 for CIFAR if its layers spiked as those of this one do.
    """
    cost = energy(net, test, T)
    rates = [row.rate for row in cost.layers if row.rate is not None]
    found = {
        f"ratio{T}": cost.ratio,
        f"spikes{T}": cost.spikes,
        f"rate{T}": sum(rates) / len(rates),
        f"dead{T}": float(sum(rate == 0 for rate in rates)),
    }
    macs = vgg16_macs()
    return found | ({f"paper_sizes{T}": energy_ratio(macs, rates, T)} if len(rates) + 1 == len(macs) else {})


@lru_cache(maxsize=1)
def vgg16_macs() -> tuple[int, ...]:
    """Multiply-accumulates of the layers of VGG16 for 32 x 32 images."""
    counts = []

    def count(layer: Any, _: Any, y: torch.Tensor) -> None:
        counts.append(math.prod(y.shape[1:]) * layer.weight[0].numel())

    with torch.device("meta"):
        network = vgg("VGG16")
        for layer in network:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_hook(count)
        network.eval()(torch.zeros(1, 3, 32, 32))
    return tuple(counts)


METHODS = ("ReLU network", "conversion", "rate coding", "IIR")
AT_ONE_T = (("direct (DIET-SNN)", 1), ("direct (DIET-SNN)", 5), ("from scratch", 1), ("hybrid (STDB)", 5))
SMALL = {"ann_epochs": 12, "ann_lr": 0.05, "epochs": 6, "lr": 1e-3}
MNIST = {"ann_epochs": 4, "ann_lr": 0.05, "epochs": 1, "lr": 1e-3}
DEEP = {
    "ann_epochs": 20, "ann_lr": 0.05, "epochs": 4, "lr": 5e-4, "network": "VGG16", "width": 0.125, "ann_dropout": 0.1,
    "dropout": 0.0,
}  # fmt: skip
CIFAR = {"ann_epochs": 300, "ann_lr": 0.01, "epochs": 500, "lr": 1e-4, "network": "VGG16", "dropout": 0.2}
IMAGENET = {"ann_epochs": 90, "ann_lr": 0.01, "epochs": 25, "lr": 2e-5, "batch_size": 64}
SMOKE = {"ann_epochs": 1, "ann_lr": 0.05, "epochs": 1, "lr": 1e-3, "limit": 128}


def methods(
    data: Sequence[str], options: Mapping[str, Any], seeds: int = 1, *, without: Sequence[str] = ()
) -> list[Run]:
    """All methods on some data."""
    runs = grid(data=data, model=[m for m in METHODS if m not in without], seeds=seeds, options=options)
    for model, T in AT_ONE_T:
        if model not in without:
            runs += grid(data=data, model=[model], seeds=seeds, options={**options, "T": T})
    return runs


def over_steps(finished: Sequence[Finished], path: Path) -> list[Path]:
    """Accuracy over the number of steps, a picture a data set."""
    drawn = []
    for data in dict.fromkeys(one.run.data for one in finished):
        points: dict[str, list[tuple[float, float]]] = {}
        for one in finished:
            if one.run.data != data:
                continue
            for key, value in one.metrics.items():
                if key == "ann":
                    points.setdefault("ReLU network", []).extend((float(T), 100 * value) for T in (1, 32))
                elif key[0] == "T":
                    points.setdefault(one.run.model, []).append((float(key[1:]), 100 * value))
        name = path.with_name(f"{path.name}-{data.replace(' ', '-').lower()}.png")
        drawn.append(plot_lines(name, points, xlabel="time steps", ylabel="test accuracy %", title=data, logx=True))
    return drawn


def energies(run: Run, context: Context) -> dict[str, float]:
    """What a stage of the schedule costs; a seed's schedule is trained once."""
    settings: Settings = tuple(sorted(run.options.items()))
    found = _energies_of(run.data, run.seed, settings, context.device)
    T = run.model.rpartition(" ")[2]
    return {key: found[f"{key}{T}"] for key in ("ratio", "spikes", "rate")}


@lru_cache(maxsize=2)
def _energies_of(data: str, seed: int, settings: Settings, device: str) -> dict[str, float]:
    return execute(Run(data, "IIR", seed, dict(settings)), Context(device))


STAGES = tuple(f"T = {T}" for T in SCHEDULE)


def policies(run: Run, context: Context) -> dict[str, float]:
    """The mean return of one number of steps; a seed's chain is trained once."""
    return {"return": _chain(run.data, run.seed, run.options["ann_steps"], run.options["steps"])[run.model]}


@lru_cache(maxsize=2)
def _chain(data: str, seed: int, ann_steps: int, steps: int) -> dict[str, float]:
    try:
        import gymnasium
    except ImportError as error:
        raise ExperimentRefused("rl needs gymnasium: pip install 'iir-snn-impl[rl]'") from error
    from .models import dqn
    from .rl import pong, train_chain

    more: dict[str, Any] = {}
    if data == "Pong":
        try:
            env = pong()
        except ImportError as error:
            raise ExperimentRefused(f"Pong needs the extra atari: {error}") from error
        torch.manual_seed(seed)
        more = {
            "network": dqn(n_actions=int(env.action_space.n)), "learning_rate": 1e-5, "buffer_size": 100_000,
            "learning_starts": 10_000, "batch_size": 32, "target_update_interval": 0, "max_grad_norm": None,
            "loss": "squared",
        }  # fmt: skip
    else:
        env = gymnasium.make(data)
    scores = train_chain(env, ann_steps=ann_steps, steps=steps, seed=seed, direct=True, **more)
    return {{"ann": "ReLU network"}.get(name, name.replace("=", " = ")): score for name, score in scores.items()}


POLICIES = ("ReLU network", "T = 5", "T = 3", "T = 1", "T = 1 direct")

EXPERIMENTS: Mapping[str, Experiment] = {
    "steps": Experiment(
        name="steps",
        title="Test accuracy by the number of time steps",
        runs={
            "cpu": [*methods(["digits"], SMALL, 5), *methods(["MNIST 10k"], MNIST, 5, without=["hybrid (STDB)"])],
            "paper": [*methods(["cifar10", "cifar100"], CIFAR), *methods(["imagenet"], IMAGENET)],
            "smoke": methods(["digits"], SMOKE),
        },
        execute=execute,
        table=Table(
            [
                Metric("ann", "no steps, %", scale=100),
                *[Metric(f"T{T}", f"T = {T}, %", scale=100) for T in SHOWN],
            ],
            paper={
                ("cifar10", "ReLU network", "ann"): 94.64,
                ("imagenet", "ReLU network", "ann"): 70.86,
                ("cifar10", "IIR", "T1"): 93.05,
                ("cifar100", "IIR", "T1"): 70.15,
                ("imagenet", "IIR", "T1"): 67.71,
            },
        ),
        plots=over_steps,
        notes=("direct, from scratch and hybrid train for as many epochs as all five stages of IIR together",),
    ),
    "deep": Experiment(
        name="deep",
        title="Deep and narrow networks on digits: what is reached in one step",
        runs={
            "cpu": [
                *methods(
                    ["digits"], {**DEEP, "network": "VGG9", "width": 0.25}, 3, without=["rate coding", "hybrid (STDB)"]
                ),
                *methods(["digits"], DEEP, 3, without=["rate coding", "hybrid (STDB)"]),
            ],
            "paper": methods(["cifar10"], CIFAR, 3, without=["rate coding", "hybrid (STDB)"]),
            "smoke": grid(
                data=["digits"],
                model=["ReLU network", "conversion", "IIR"],
                options={**SMOKE, "network": "VGG16", "width": 0.03},
            ),
        },
        execute=execute,
        table=Table(
            [
                Metric("ann", "no steps, %", scale=100),
                *[Metric(f"T{T}", f"T = {T}, %", scale=100) for T in SCHEDULE],
                Metric("rate1", "spikes a neuron, T = 1", higher_is_better=False),
                Metric("dead1", "layers that never spike, T = 1", higher_is_better=False),
                Metric("paper_sizes1", "E_ANN / E_SNN with full widths, T = 1"),
            ],
            row=lambda run: f"{run.data}, {run.options['network']}",
        ),
        plots=(Plot(metric="T1"),),
        notes=(
            "direct and from scratch train for as many epochs as all five stages of IIR together",
            "full widths: the operations of the paper's VGG16 for CIFAR with the spike rates found here; the paper has "
            "25 to 33",
        ),
    ),
    "energy": Experiment(
        name="energy",
        title="Modelled energy of the ReLU network over that of the spiking one",
        runs={
            "cpu": [
                *grid(data=["digits"], model=STAGES, seeds=5, options=SMALL),
                *grid(data=["MNIST 10k"], model=STAGES, seeds=2, options=MNIST),
            ],
            "paper": grid(data=["cifar10", "cifar100"], model=STAGES, options=CIFAR),
            "smoke": grid(data=["digits"], model=STAGES, options=SMOKE),
        },
        execute=energies,
        table=Table(
            (
                Metric("ratio", "E_ANN / E_SNN"),
                Metric("spikes", "spikes an image", higher_is_better=False),
                Metric("rate", "spikes a neuron", higher_is_better=False),
            )
        ),
        plots=(Plot(metric="ratio"),),
        notes=(ASSUMPTIONS, "the paper gives 25 to 33 at T = 1 for its networks, whose first layer is 0.5 % of all"),
    ),
    "rl": Experiment(
        name="rl",
        title="Mean return of a Q-network by its number of time steps",
        runs={
            "cpu": grid(data=["CartPole-v1"], model=POLICIES, seeds=3, options={"ann_steps": 25_000, "steps": 5_000}),
            "paper": [
                *grid(data=["CartPole-v1"], model=POLICIES, seeds=5, options={"ann_steps": 50_000, "steps": 20_000}),
                *grid(data=["Pong"], model=POLICIES, options={"ann_steps": 2_500_000, "steps": 2_500_000}),
            ],
            "smoke": grid(data=["CartPole-v1"], model=POLICIES, options={"ann_steps": 600, "steps": 100}),
        },
        execute=policies,
        table=Table(Metric("return")),
        notes=("CartPole ends at 500; each return is the mean of ten episodes without random actions",),
    ),
}
