"""The paper's experiments, declared: parity by length, groups, arithmetic (table 2), and text."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from shared_impl.datasets import tiny_shakespeare
from shared_impl.experiments import Context, Experiment, Finished, Metric, Plot, Run, Table, grid
from shared_impl.train import TrainConfig, fit

from .learning import accuracy_by_length, train_on_task
from .model import SequenceModel
from .tasks import TASKS

__all__ = ["EXPERIMENTS", "MODELS", "build"]

MODELS: Mapping[str, Mapping[str, Any]] = {
    "DeltaNet [0,1]": {"mixer": "deltanet", "eig_range": (0.0, 1.0)},
    "DeltaNet [-1,1]": {"mixer": "deltanet", "eig_range": (-1.0, 1.0)},
    "Mamba [0,1]": {"mixer": "mamba", "eig_range": (0.0, 1.0)},
    "Mamba [-1,1]": {"mixer": "mamba", "eig_range": (-1.0, 1.0)},
    "GLA [0,1]": {"mixer": "gla", "eig_range": (0.0, 1.0)},
    "GLA [-1,1]": {"mixer": "gla", "eig_range": (-1.0, 1.0)},
    "full [-1,1]": {"mixer": "full", "eig_range": (-1.0, 1.0)},
    "sLSTM": {"mixer": "slstm"},
    "LSTM": {"mixer": "lstm"},
    "Transformer": {"mixer": "transformer"},
}
BOTH = ("DeltaNet [0,1]", "DeltaNet [-1,1]", "Mamba [0,1]", "Mamba [-1,1]")
SIZES = ("d_model", "n_layers", "n_heads", "n_householder", "d_state")


def build(name: str, vocab_size: int, options: Mapping[str, Any]) -> SequenceModel:
    """The model of a row; the convolution of Mamba on formal languages has width 1, as in the authors' code."""
    sizes = {key: options[key] for key in SIZES if key in options}
    model = MODELS[name]
    width = options.get("short_conv", 1 if model["mixer"] == "mamba" else 4)
    return SequenceModel(vocab_size=vocab_size, short_conv=width, **{**sizes, **model})


def learn_task(run: Run, context: Context) -> dict[str, Any]:
    """Scaled accuracy beyond the lengths of training (mean over `test` lengths), and within them."""
    torch.manual_seed(run.seed)
    task, options = TASKS[run.data](), run.options
    model = build(run.model, task.vocab_size, options).to(context.device)
    low, high = options["train"]
    train_on_task(
        model, task, lengths=(low, high), steps=options["steps"], batch_size=options["batch"],
        learning_rate=options["lr"], weight_decay=options.get("wd", 0.0), seed=run.seed,
        mixed_precision=options.get("precision", "no"), out_dir=context.folder, console=context.console,
    )  # fmt: skip
    curve = accuracy_by_length(model, task, options["test"], batch_size=options.get("sequences", 512))
    inside = accuracy_by_length(model, task, [high], batch_size=options.get("sequences", 512))[high]
    return {
        "scaled": sum(curve.values()) / len(curve),
        "inside": inside,
        "curve": {str(length): value for length, value in curve.items()},
    }


def learn_text(run: Run, context: Context) -> dict[str, float]:
    """Validation loss (nats a character) on tiny Shakespeare, the last tenth."""
    torch.manual_seed(run.seed)
    text, options = tiny_shakespeare(), run.options
    letters = {c: i for i, c in enumerate(sorted(set(text)))}
    ids = torch.tensor([letters[c] for c in text], device=context.device)
    train, valid = ids[: int(0.9 * len(ids))], ids[int(0.9 * len(ids)) :]
    model = build(run.model, len(letters), {"short_conv": 4, **options}).to(context.device)
    length, batch = options["length"], options["batch"]

    def pieces(data: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        return data[starts[:, None].to(data.device) + torch.arange(length + 1, device=data.device)]

    def draw(generator: torch.Generator) -> torch.Tensor:
        return pieces(train, torch.randint(0, len(train) - length, (batch,), generator=generator))

    def loss(net: Any, piece: torch.Tensor) -> torch.Tensor:
        return net(piece[:, :-1], targets=piece[:, 1:]).loss  # type: ignore[no-any-return]

    optimizer = torch.optim.AdamW(model.parameters(), lr=options["lr"], weight_decay=0.1)
    config = TrainConfig(steps=options["steps"], log_every=max(1, options["steps"] // 5), seed=run.seed)
    fit(model, loss, draw, optimizer=optimizer, config=config, out_dir=context.folder, console=context.console)
    model.eval()
    with torch.no_grad():
        held = pieces(valid, torch.arange(0, len(valid) - length - 1, length)[: options["pieces"]])
        losses = [loss(model, part).item() * len(part) for part in held.split(64)]
    return {"nats": sum(losses) / len(held)}


def _spread(finished: Sequence[Finished]) -> list[str]:
    """Seeds matter: the best and the median of each cell."""
    cells: dict[tuple[str, str], list[float]] = {}
    for one in finished:
        cells.setdefault((one.run.data, one.run.model), []).append(one.metrics["scaled"])
    best = [
        f"{model} on {data}: best {max(values):.3f}, median {sorted(values)[len(values) // 2]:.3f}"
        for (data, model), values in cells.items()
        if len(values) > 1
    ]
    return [
        "Scaled accuracy: 0 is chance, 1 perfect. Beyond: mean over the test lengths; inside: the longest of training.",
        *best,
    ]


SCORES = (Metric("scaled", "scaled accuracy beyond"), Metric("inside", "scaled accuracy inside"))
PAPER_TEST = [40, 64, 96, 128, 160, 192, 224, 255]
PAPER = {
    "parity": (0.065, 1.000, 0.022, 1.000, 1.000),
    "arithmetic": (0.160, 0.615, 0.009, 0.082, 0.133),
    "brackets": (0.165, 0.319, 0.022, 0.025, 0.122),
}
PAPER_NUMBERS: dict[tuple[str, ...], float] = {
    (data, model, "scaled"): number
    for data, numbers in PAPER.items()
    for model, number in zip((*BOTH, "sLSTM"), numbers, strict=True)
}
TINY = {"d_model": 16, "n_layers": 1, "n_heads": 2, "d_state": 4, "train": [3, 8], "test": [12], "batch": 8, "lr": 1e-3}
SMOKE = {**TINY, "steps": 2, "sequences": 8}
PARITY_CPU = {
    "d_model": 32, "n_layers": 1, "n_heads": 2, "d_state": 16, "train": [3, 20], "test": [40, 64, 128, 256],
    "batch": 64, "steps": 1200, "lr": 5e-3,
}  # fmt: skip
GROUP_CPU = {
    "d_model": 48, "n_layers": 1, "n_heads": 2, "d_state": 8, "train": [16, 16], "test": [32], "batch": 64,
    "steps": 500, "lr": 3e-3,
}  # fmt: skip
ARITHMETIC_CPU = {
    "d_model": 48, "n_layers": 2, "n_heads": 4, "d_state": 8, "train": [3, 12], "test": [20, 40], "batch": 64,
    "steps": 3000, "lr": 3e-3,
}  # fmt: skip
PAPER_SIZES = {"d_model": 128, "n_layers": 2, "n_heads": 4, "batch": 256, "lr": 1e-3, "precision": "bf16"}
CHOMSKY = {**PAPER_SIZES, "train": [3, 40], "test": PAPER_TEST, "sequences": 1024}
TEXT = {"n_heads": 4, "d_state": 16, "length": 128}

EXPERIMENTS: Mapping[str, Experiment] = {
    "parity": Experiment(
        name="parity",
        title="Parity beyond the lengths of training",
        runs={
            # steps that take equal time: a Mamba of 16 states a channel is three to four times as slow on a CPU
            "cpu": [
                *grid(data=["parity"], model=BOTH[:2], seeds=3, options={**PARITY_CPU, "steps": 4000}),
                *grid(data=["parity"], model=BOTH[2:], seeds=3, options=PARITY_CPU),
            ],
            "paper": grid(data=["parity"], model=MODELS, seeds=3, options={**CHOMSKY, "steps": 20_000}),
            "smoke": grid(data=["parity"], model=BOTH, options=SMOKE),
        },
        execute=learn_task,
        table=Table(SCORES, paper=PAPER_NUMBERS),
        plots=(Plot(),),
        notes=_spread,
    ),
    "table2": Experiment(
        name="table2",
        title="Formal languages",
        runs={
            "cpu": grid(data=["arithmetic"], model=BOTH, options=ARITHMETIC_CPU),
            "paper": [
                *grid(data=["parity"], model=MODELS, seeds=3, options={**CHOMSKY, "steps": 20_000}),
                *grid(
                    data=["arithmetic", "brackets"], model=MODELS, seeds=3,
                    options={**CHOMSKY, "steps": 100_000, "wd": 0.1},
                ),
            ],
            "smoke": grid(data=["parity", "arithmetic", "brackets"], model=MODELS, options=SMOKE),
        },
        execute=learn_task,
        table=Table(SCORES, paper=PAPER_NUMBERS),
        notes=_spread,
    ),
    "s5": Experiment(
        name="s5",
        title="Words of permutations: the product so far",
        runs={
            "cpu": [
                *grid(data=["s3-swaps"], model=BOTH, seeds=3, options=GROUP_CPU),
                *grid(data=["s5-swaps"], model=BOTH[:2], seeds=3, options=GROUP_CPU),
            ],
            "paper": [
                *grid(
                    data=["s5", "a5", "s5-swaps", "s5-3cycles", "s5-4tokens"], model=BOTH, seeds=3,
                    options=[
                        {**PAPER_SIZES, "batch": 512, "n_layers": layers, "n_householder": factors,
                         "train": [32, 32], "test": [64, 128, 256, 500], "steps": 20_000}
                        for layers, factors in ((1, 1), (2, 1), (4, 1), (6, 1), (1, 4))
                    ],
                ),
            ],
            "smoke": grid(data=["s3-swaps", "s5-4tokens"], model=BOTH, options={**SMOKE, "n_householder": 2}),
        },
        execute=learn_task,
        table=Table(SCORES),
        notes=_spread,
    ),
    "text": Experiment(
        name="text",
        title="Language modelling in both ranges",
        runs={
            "cpu": grid(
                data=["tiny Shakespeare"], model=BOTH, seeds=3,
                options={**TEXT, "d_model": 64, "n_layers": 2, "d_state": 8, "batch": 16, "steps": 250, "lr": 3e-3,
                         "pieces": 256},
            ),
            "paper": grid(
                data=["tiny Shakespeare"], model=BOTH, seeds=3,
                options={**TEXT, "length": 256, "d_model": 384, "n_layers": 6, "batch": 64, "steps": 5000, "lr": 1e-3,
                         "pieces": 1024},
            ),
            "smoke": grid(
                data=["tiny Shakespeare"], model=BOTH[:2],
                options={**TEXT, "length": 16, "d_model": 16, "n_layers": 1, "batch": 2, "steps": 2, "lr": 1e-3,
                         "pieces": 4},
            ),
        },
        execute=learn_text,
        table=Table(Metric("nats", "nats a character", higher_is_better=False)),
    ),
}  # fmt: skip
