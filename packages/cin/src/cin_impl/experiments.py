"""The dissertation's tables, declared. Kinetics, NTU, THUMOS and TVSeries cannot be had here: FLOPs are counted on the
full networks, and what is trained is trained on smaller streams."""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared_impl.datasets import digits
from shared_impl.experiments import Context, Experiment, Finished, Metric, Plot, Run, Table, grid
from shared_impl.train import TrainConfig, fit

from . import spa
from .attention import RecyclingPositionalEncoding, RetroactiveMHA, TransformerEncoder
from .container import Residual, Sequential
from .conv import Conv1d
from .cost import flops, parameters, tally
from .data import Clips, gestures, moving_shapes, spoken_digits
from .pointwise import LSTM, BatchNorm1d, Linear, Pointwise
from .pool import GlobalAvgPool
from .skeleton import CoSTGCN
from .video import X3D_SIZES, CoI3D, CoOadTR, CoSlow, CoX3D, SmallCo3D

__all__ = ["EXPERIMENTS", "NETWORKS", "digit_network", "full_network", "train_classifier", "train_digits"]

# FLOPs

SKELETONS = {"CoST-GCN": "st-gcn", "CoA-GCN": "a-gcn", "CoS-TR": "s-tr"}
NETWORKS = ("CoX3D-S", "CoX3D-M", "CoX3D-L", "CoSlow", "CoI3D", *SKELETONS, "CoOadTR-b1", "CoOadTR-b2")


def full_network(name: str) -> tuple[nn.Module, nn.Module, tuple[int, ...]]:
    """The clip network, the network that is stepped, and the shape of a clip, on the meta device.

    The second is the paper's: CoI3D without the pool in time, skeleton networks that answer every frame.
    """
    with torch.device("meta"):
        if name in SKELETONS:
            kind = SKELETONS[name]
            # the graph is data, made on the CPU
            with torch.device("cpu"):
                whole, stream = CoSTGCN(kind=kind), CoSTGCN(kind=kind, mod=True)
            return whole.to("meta"), stream.to("meta"), (1, 3, 300, 25, 2)
        if name.startswith("CoX3D"):
            size = name[-1].lower()
            _, frames, side = X3D_SIZES[size]
            return CoX3D(size=size, window=frames, scope="clip"), CoX3D(size=size), (1, 3, frames, side, side)
        if name == "CoSlow":
            return CoSlow(window=8), CoSlow(), (1, 3, 8, 256, 256)
        if name == "CoI3D":
            return CoI3D(), CoI3D(window=8, pool=1), (1, 3, 8, 224, 224)
        if name.startswith("CoOadTR-b"):
            network = CoOadTR(blocks=int(name[-1]))
            return network, network, (1, 4096, 64)
    raise ValueError(f"name must be one of {', '.join(NETWORKS)}, got {name!r}")


def count(run: Run, context: Context) -> dict[str, float]:
    """Multiply-adds of a full network as a clip and as a step; nothing is computed."""
    clip, stream, shape = full_network(run.model)
    # the attention of CoOadTR is counted in the paper, products of skeleton networks with their graph are not
    key = "products" if run.model.startswith("CoOadTR") else "papers"
    whole, one = tally(clip, shape), tally(stream, shape, "step")
    return {
        "parameters": parameters(clip) / 1e6,
        "clip": whole[key] / 1e9,
        "step": one[key] / 1e9,
        "ratio": whole[key] / one[key],
        "clip products": whole["products"] / 1e9,
        "step products": one["products"] / 1e9,
    }


_PAPER = {
    "clip": "CoX3D-S 2.06 CoX3D-M 4.97 CoX3D-L 19.17 CoSlow 54.87 CoI3D 28.61 CoST-GCN 16.73",
    "step": "CoX3D-S 0.17 CoX3D-M 0.33 CoX3D-L 1.25 CoSlow 6.90 CoI3D 5.68 CoST-GCN 0.16 CoA-GCN 0.17 CoS-TR 0.15 "
    "CoOadTR-b1 0.0106 CoOadTR-b2 0.4119",
    "parameters": "CoX3D-S 3.8 CoX3D-M 3.8 CoX3D-L 6.2 CoST-GCN 3.1 CoA-GCN 3.5 CoS-TR 3.1",
}
PAPER_FLOPS: dict[tuple[str, str], float] = {
    (name, key): float(value)
    for key, text in _PAPER.items()
    for name, value in zip(text.split()[::2], text.split()[1::2], strict=True)
}

# Training


def train_classifier(
    model: Any, train: Clips, *, steps: int, context: Context, seed: int, rate: float = 3e-3, name: str = "network"
) -> None:
    """Adam on clips; the logits of the last window count."""
    optimizer = torch.optim.Adam(model.parameters(), rate)

    def loss(net: Any, batch: Any) -> Tensor:
        return F.cross_entropy(net(batch[0])[:, :, -1], batch[1])

    model.train()
    config = TrainConfig(steps=steps, batch_size=32, seed=seed)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    fit(model, loss, (train.x, train.y), optimizer=optimizer, scheduler=scheduler, config=config,
        out_dir=None if context.folder is None else context.folder / name, console=context.console)  # fmt: skip
    model.eval()


def clip_and_step(model: Any, test: Clips) -> dict[str, float]:
    """Accuracy of clips and of the same network fed slice by slice, the largest difference, and the work of each."""
    with torch.no_grad():
        clip = model(test.x)[:, :, -1]
    model.clean_state()
    steps = model.forward_steps(test.x)[:, :, -1]
    model.clean_state()
    shape = (1, *test.x.shape[1:])
    whole, one = flops(model, shape), flops(model, shape, "step")
    return {
        "clip accuracy": float((clip.argmax(1) == test.y).float().mean()),
        "step accuracy": float((steps.argmax(1) == test.y).float().mean()),
        "difference": float((clip - steps).abs().max()),
        "clip MFLOPs": whole / 1e6,
        "step MFLOPs": one / 1e6,
    }


def digit_network(name: str, *, width: int = 48, window: int = 64, classes: int = 10) -> Sequential:
    """A stack over log-mel frames: "conv", "lstm", "encoder-b1" or "encoder-b2"."""
    relu = Pointwise(nn.ReLU())
    if name == "conv":
        layers: list[nn.Module] = [Conv1d(40, width, 3), BatchNorm1d(width), relu]
        lost = 2
        for dilation in (1, 2, 4):
            body = Sequential(Conv1d(width, width, 3, dilation=dilation), BatchNorm1d(width), relu)
            layers.append(Residual(body, shrink="centred"))
            lost += 2 * dilation
        return Sequential(*layers, GlobalAvgPool(window - lost), Linear(width, classes))
    if name == "lstm":
        return Sequential(LSTM(40, width), Linear(width, classes))
    blocks = {"encoder-b1": 1, "encoder-b2": 2}[name]
    places = RecyclingPositionalEncoding(width, 2 * window - 1, window=window)
    encoder = TransformerEncoder(width, 4, 2 * width, window, blocks=blocks)
    return Sequential(Linear(40, width), places, encoder, Linear(width, classes))


def train_digits(model: Any, name: str, train: Clips, **options: Any) -> None:
    """At the rate that suits it: encoders are slower learners."""
    train_classifier(model, train, rate=1e-3 if "encoder" in name else 3e-3, **options)


def spoken(run: Run, context: Context) -> dict[str, float]:
    """Train on clips of 64 frames, test clips and steps."""
    torch.manual_seed(run.seed)
    model = digit_network(run.model)
    train_digits(model, run.model, spoken_digits("train"), steps=run.options["steps"], context=context, seed=run.seed)
    return clip_and_step(model, spoken_digits("test"))


def shapes(run: Run, context: Context) -> dict[str, float]:
    """A small Co3D, trained on clips of 16 frames, then fed streams of 48: with the pool of the clip, and of three.

    "one frame" sees no motion: its convolutions have one tap in time.
    """
    torch.manual_seed(run.seed)
    frames, kernel = 16, 1 if run.model == "one frame" else 3
    model = SmallCo3D(frames=frames, kernel=kernel)
    train = moving_shapes(run.options["clips"], frames=frames, noise=run.options["noise"], seed=1000 + run.seed)
    train_classifier(model, train, steps=run.options["steps"], context=context, seed=run.seed)
    clips, noise = run.options["clips"], run.options["noise"]
    test = moving_shapes(min(400, clips), frames=3 * frames, noise=noise, seed=5000 + run.seed)
    found = clip_and_step(model, Clips(test.x[:, :, :frames], test.y))
    longer = SmallCo3D(frames=3 * frames, kernel=kernel)
    longer.load_state_dict(model.state_dict())
    return {**found, "longer pool": clip_and_step(longer.eval(), test)["step accuracy"]}


def skeletons(run: Run, context: Context) -> dict[str, float]:
    """The paper's recipe in small: train with stride and padding, take both away, fine-tune, run in steps."""
    torch.manual_seed(run.seed)
    kind: dict[str, Any] = {
        "classes": 8, "people": 1, "kind": SKELETONS[run.model], "widths": (16, 16, 16, 32), "kernel": 5,
    }  # fmt: skip
    steps, noise = run.options["steps"], run.options["noise"]
    train = gestures(run.options["clips"], noise=noise, seed=1000 + run.seed)
    test = gestures(min(200, run.options["clips"]), noise=noise, seed=5000 + run.seed)
    padded, mod = CoSTGCN(window=16, **kind), CoSTGCN(window=16, mod=True, **kind)
    train_classifier(padded, train, steps=steps, context=context, seed=run.seed, name="padded")
    mod.load_state_dict(padded.state_dict())
    moved = clip_and_step(mod.eval(), test)["step accuracy"]
    train_classifier(mod, train, steps=steps // 2, context=context, seed=run.seed, rate=1e-3, name="mod")
    found = clip_and_step(mod, test)
    with torch.no_grad():
        before = float((padded(test.x)[:, :, -1].argmax(1) == test.y).float().mean())
    whole = flops(padded, (1, *test.x.shape[1:]))
    return {**found, "padded accuracy": before, "as transferred": moved, "clip MFLOPs": whole / 1e6}


# Structured pruning adapters


def _network(kind: str, classes: int) -> nn.Sequential:
    """What is pruned: three convolutions over digits of 8 x 8 pixels, or two wide layers."""
    if kind != "channels":
        width = 512
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes)
        )
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes),
    )  # fmt: skip


def _fit_images(model: nn.Module, x: Tensor, y: Tensor, steps: int, seed: int, rate: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], rate)
    for _ in range(steps):
        i = torch.randint(len(x), (32,), generator=rng)
        optimizer.zero_grad()
        F.cross_entropy(model(x[i]), y[i]).backward()
        optimizer.step()


@cache
def _source(kind: str, seed: int, steps: int) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A network trained on digits 0 to 4, and images and classes of 5 to 9."""
    torch.manual_seed(seed)
    data = digits()
    x = torch.as_tensor(data.images).reshape(len(data.labels), 1, 8, 8).float()
    x, y = x / x.max(), torch.as_tensor(data.labels).long()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    x, y = x[order], y[order]
    source = _network(kind, 5)
    _fit_images(source, x[y < 5], y[y < 5], steps, seed, 1e-3)
    return source, x[y >= 5], y[y >= 5] - 5


def adapters(run: Run, context: Context) -> dict[str, float]:
    """Train on digits 0 to 4, then prune and adapt to 5 to 9 with few or many learned numbers."""
    kind, steps = run.data.split()[-1], run.options["steps"]
    source, x_new, y_new = _source(kind, run.seed, steps)
    torch.manual_seed(run.seed)
    n = int(0.6 * len(x_new))
    common = spa.shared_prototypes(16)

    def make(layer: Any) -> spa.Adapter:
        if run.model == "SPLoPA" and layer.weight.shape[0] % 32 == 0:
            return spa.SPLoPA(layer, prototypes=common)
        # the head is of another task: its full weight learns, whatever the adapter
        if run.model in ("fine-tuning", "SPLoPA") or layer.weight.shape[0] == 5:
            return spa.FineTuning(layer)
        return (
            spa.SPPaRA(layer) if run.model == "SPPaRA" else spa.SPLoRA(layer, int(run.model.removeprefix("SPLoRA r")))
        )

    model: Any = spa.adapt(source, make)
    layers = [module for module in model if isinstance(module, spa.Adapter)]
    nn.init.normal_(layers[-1].weight, 0, 0.02)
    density, stages = 1 - float(run.data.split()[0]) / 100, 5
    rate = 5e-3
    for stage in range(1, stages + 1):
        _fit_images(model, x_new[:n], y_new[:n], steps // (2 * stages), run.seed + stage, rate)
        now = spa.cubic_schedule(stage, stages, density)
        if kind == "blocks":
            spa.prune_blocks(layers[:-1], now, 32)
        else:
            spa.prune_chain(model, layers, now, run.options.get("criterion", "magnitude"), x_new[:256], y_new[:256])
    _fit_images(model, x_new[:n], y_new[:n], steps // 2, run.seed + 99, rate)
    small = spa.fuse(model)
    with torch.no_grad():
        accuracy = float((small(x_new[n:]).argmax(1) == y_new[n:]).float().mean())
    return {"accuracy": accuracy, "learned": spa.learned_parameters(model), "weights left": parameters(small)}


# Drift of retroactive attention

DRIFT: dict[str, dict[str, Any]] = {
    "raw exponentials": {"scale": "none", "guard": None},
    "row offsets": {"guard": None},
    "offsets + refresh": {"guard": None, "refresh": 8},
    "offsets + guard": {},
    "offsets + float64": {"guard": None, "accumulate": torch.float64},
}


def drift(run: Run, context: Context) -> dict[str, float]:
    """Largest error of any row against float64 over a stream whose scores have a given standard deviation."""
    torch.manual_seed(run.seed)
    n, d, std = 32, 16, float(run.data.removeprefix("score std "))
    attention = RetroactiveMHA(d, 1, n, bias=False, **DRIFT[run.model]).eval()
    exact = RetroactiveMHA(d, 1, n, bias=False).double().eval()
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat([math.sqrt(std) * torch.eye(d)] * 2 + [torch.eye(d)]))
        attention.out_proj.weight.copy_(torch.eye(d))
    exact.load_state_dict({name: value.double() for name, value in attention.state_dict().items()})
    rng, steps, worst = torch.Generator().manual_seed(run.seed), run.options["steps"], 0.0
    # a long stream is looked at less often, but its end always
    stream, every = torch.randn(1, d, steps, generator=rng), 7 if steps <= 5000 else 101
    for t in range(steps):
        y = attention.forward_step(stream[:, :, t])
        if y is not None and (t % every == 0 or t > steps - 10):
            with torch.no_grad():
                error = (y.double() - exact(stream[:, :, t - n + 1 : t + 1].double())).abs().max()
            worst = max(worst, float(error)) if error == error else 1e9
    return {"error": max(min(worst, 1e9), 1e-9)}


CHANNELS = ("50 % of channels", "70 % of channels", "90 % of channels")
UNITS = ("50 % of units", "70 % of units", "90 % of units")
BLOCKS = ("50 % of blocks", "70 % of blocks", "90 % of blocks")
ADAPTERS = ("fine-tuning", "SPLoRA r8", "SPLoRA r16", "SPLoRA r32", "SPPaRA")
SPOKEN = ("conv", "lstm", "encoder-b1", "encoder-b2")
STDS = ("score std 1", "score std 4", "score std 9", "score std 25")


def _adapter_runs(seeds: int, steps: int) -> list[Run]:
    runs = ((CHANNELS, ADAPTERS), (UNITS, ADAPTERS[:-1]), (BLOCKS, ("fine-tuning", "SPLoPA")))
    return [run for d, m in runs for run in grid(data=d, model=m, seeds=seeds, options={"steps": steps})]


def _drift_runs(seeds: int, steps: int) -> list[Run]:
    return grid(data=STDS, model=DRIFT, seeds=seeds, options={"steps": steps})


def _presets(data: str, models: Sequence[str], cpu: dict[str, Any], paper: dict[str, Any], **smoke: Any) -> Any:
    """Three seeds of `cpu`, five of `paper`, one run of the first model with `smoke`."""
    return {
        "cpu": grid(data=[data], model=models, seeds=3, options=cpu),
        "paper": grid(data=[data], model=models, seeds=5, options=cpu | paper),
        "smoke": grid(data=[data], model=models[:1], options=cpu | smoke),
    }


def _accuracy_notes(finished: Sequence[Finished]) -> list[str]:
    worst = max((run.metrics["difference"] for run in finished), default=0.0)
    return [
        "Accuracy of the last window of each test stream; MFLOPs are multiply-adds of products.",
        f"Largest difference between the logits of clip and steps, all runs: {worst:.1e}.",
    ]


def _fewer(key: str, label: str | None = None) -> Metric:
    return Metric(key, label or key, higher_is_better=False)


def _percent(key: str, label: str) -> Metric:
    return Metric(key, label, scale=100)


_BOTH = (_percent("clip accuracy", "clip %"), _percent("step accuracy", "step %"))
_WORK = (_fewer("clip MFLOPs", "MFLOPs a frame, sliding window"), _fewer("step MFLOPs", "MFLOPs a frame, steps"))

EXPERIMENTS: Mapping[str, Experiment] = {
    "flops": Experiment(
        name="flops",
        title="GFLOPs (multiply-adds) of a clip and of a step, full networks",
        runs={
            **{preset: [Run(name, name) for name in NETWORKS] for preset in ("cpu", "paper")},
            "smoke": [Run("CoOadTR-b1", "CoOadTR-b1")],
        },
        execute=count,
        table=Table(
            (
                _fewer("parameters", "parameters M"), _fewer("clip", "GFLOPs clip"), _fewer("step", "GFLOPs step"),
                Metric("ratio", "times fewer"),
            ),
            column=lambda run: "ours",
            paper={(name, "ours", key): value for (name, key), value in PAPER_FLOPS.items()},
        ),
        plots=(Plot(metric="step"),),
        notes=(
            "Counted as the papers do: biases, norms, ReLU and pools too, no products with a graph; CoOadTR: products.",
            "CoI3D's step is without the pool in time, which halves the clip network's rate.",
        ),
    ),
    "co3d": Experiment(
        name="co3d",
        title="Moving shapes: a small Co3D as clip network and in steps",
        runs=_presets(
            "moving shapes", ("Co3D", "one frame"), {"steps": 600, "clips": 1600, "noise": 0.6},
            {"steps": 6000, "clips": 8000}, steps=2, clips=16,
        ),
        execute=shapes,
        table=Table((*_BOTH, _percent("longer pool", "step %, pool of 3 clips"), *_WORK)),
        notes=_accuracy_notes,
    ),
    "costgcn": Experiment(
        name="costgcn",
        title="Skeleton gestures: from the padded clip network to steps",
        runs=_presets(
            "gestures", tuple(SKELETONS), {"steps": 120, "clips": 400, "noise": 0.1}, {"steps": 2000, "clips": 4000},
            steps=2, clips=8,
        ),
        execute=skeletons,
        table=Table(
            (
                _percent("padded accuracy", "clip network, stride and padding %"),
                _percent("as transferred", "without, as transferred, steps %"), *_BOTH, *_WORK,
            )
        ),
        plots=(Plot(metric="step accuracy"),),
        notes=_accuracy_notes,
    ),
    "oadtr": Experiment(
        name="oadtr",
        title="Spoken digits as a stream of log-mel frames",
        runs=_presets("spoken digits", SPOKEN, {"steps": 400}, {"steps": 4000}, steps=1),
        execute=spoken,
        table=Table((*_BOTH, *_WORK)),
        notes=_accuracy_notes,
    ),
    "spa": Experiment(
        name="spa",
        title="Digits 0-4 to 5-9: accuracy % and learned numbers after pruning",
        runs={
            "cpu": _adapter_runs(3, 600),
            "paper": _adapter_runs(10, 4000),
            "smoke": [
                Run(data, model, options={"steps": 10})
                for data, model in ((CHANNELS[0], "SPLoRA r8"), (BLOCKS[0], "SPLoPA"))
            ],
        },
        execute=adapters,
        table=Table((_percent("accuracy", "accuracy %"), _fewer("learned"))),
        notes=(
            "Channels: of three convolutions. Units and blocks (32 x 32): of dense layers of 512; there SPPaRA is "
            "fine-tuning.",
            "Pruned by magnitude in five stages; every network's head, of a new task, learns in full.",
        ),
    ),
    "drift": Experiment(
        name="drift",
        title="Largest error of retroactive attention in float32",
        runs={
            "cpu": [
                *_drift_runs(2, 2000),
                *grid(data=["score std 4"], model=["raw exponentials", "offsets + guard"], options={"steps": 100_000}),
            ],
            "paper": _drift_runs(3, 100_000),
            "smoke": _drift_runs(1, 40)[:5],
        },
        execute=drift,
        table=Table(_fewer("error"), row=lambda run: f"{run.data}, {run.options['steps']:,} steps"),
        plots=(
            Plot(
                "curves", x=lambda run: float(run.data.split()[-1]), xlabel="standard deviation of scores", logy=True,
                only=lambda run: run.options["steps"] <= 5000,
            ),
        ),
        notes=("Window 32, width 16, against float64; 1e9 stands for an error beyond it or for no number at all.",),
    ),
}  # fmt: skip
