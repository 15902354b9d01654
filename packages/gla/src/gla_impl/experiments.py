"""The paper's comparisons as runs of settings: recall (MQAR), small language models, length extrapolation.

Each table is a frozen dataclass with the presets `cpu` (reduced, minutes to a quarter of an hour on two cores) and
`paper` (the scale of the original, for a GPU). `reproduce` runs one and returns its record.
"""

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from gla_impl.comparison import comparison_config
from gla_impl.config import GLAConfig
from gla_impl.lm import LMRecipe, evaluate_loss, loss_by_position, train_lm
from gla_impl.model import GLAForCausalLM
from gla_impl.mqar import MQARData, mqar_data
from gla_impl.text import Corpus, tiny_shakespeare_corpus, wikitext2_corpus
from shared_impl.cli import UserError
from shared_impl.results import Record, Row, plot_curves, summarise
from shared_impl.train import FitResult, TrainConfig, cosine_with_warmup, count_parameters, fit

__all__ = [
    "LM_TABLES",
    "MQAR_TABLES",
    "Experiment",
    "LMTable",
    "MQARTable",
    "Preset",
    "mqar_accuracy",
    "position_bins",
    "reproduce",
    "train_mqar",
]

Experiment = Literal["mqar", "shakespeare", "wikitext2", "length"]
Preset = Literal["cpu", "paper"]


_TAKEN_OVER = "Models that an earlier run trained with the same settings were taken over; the time is without theirs."


# Recall ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class MQARTable:
    """Accuracy on MQAR (section 5.2; the grid is Zoology's, figure 2).

    A task is a sequence length and the numbers of pairs that its sequences have, in equal parts. For every model,
    width and task each learning rate is tried; the one that is best on sequences of their own decides, and its accuracy
    on others is reported.
    """

    models: tuple[str, ...]
    vocab_size: int
    tasks: tuple[tuple[int, tuple[int, ...]], ...]
    widths: tuple[int, ...]
    lrs: tuple[float, ...]
    n_train: int
    n_test: int
    steps: int
    batch_size: Mapping[int, int]
    """by sequence length"""
    seeds: int = 1
    n_layers: int = 2
    n_heads: int = 2
    ffn_width: int | None = 0
    weight_decay: float = 0.1
    random_filler: bool = False

    def steps_at(self, seq_len: int) -> int:
        """Steps at a length: as many sequences are read whatever the batch."""
        return self.steps * max(self.batch_size.values()) // self.batch_size[seq_len]


MQAR_TABLES: dict[tuple[Experiment, Preset], MQARTable] = {
    ("mqar", "cpu"): MQARTable(
        models=("gla", "gla-scalar", "gla-fixed", "linear-attention"),
        vocab_size=64,
        tasks=((32, (2, 4)),),
        widths=(64,),
        lrs=(5e-3,),
        n_train=192_000,
        n_test=500,
        steps=3000,
        batch_size={32: 64},
        n_heads=1,
    ),
    # the grid of Zoology's figure 2: 64 epochs of 100,000 sequences
    ("mqar", "paper"): MQARTable(
        models=("gla", "gla-scalar", "gla-fixed", "linear-attention", "retnet", "mamba", "transformer++"),
        vocab_size=8192,
        tasks=((64, (4,)), (128, (8,)), (256, (16,)), (512, (64,))),
        widths=(64, 128, 256, 512),
        lrs=tuple(float(lr) for lr in np.logspace(-4, -2, 4)),
        n_train=100_000,
        n_test=3000,
        steps=64 * 100_000 // 512,
        batch_size={64: 512, 128: 512, 256: 256, 512: 128},
    ),
}


@torch.no_grad()
def mqar_accuracy(model: GLAForCausalLM, data: MQARData, *, batch_size: int = 250) -> float:
    """How many of the queries get the right value from the whole vocabulary."""
    device = model.lm_head.weight.device
    training = model.training
    model.eval()
    right = asked = 0
    for start in range(0, len(data.inputs), batch_size):
        inputs = torch.from_numpy(data.inputs[start : start + batch_size]).to(device)
        targets = torch.from_numpy(data.targets[start : start + batch_size]).to(device)
        counted = targets != -100
        hidden, _ = model.backbone(inputs)
        right += int((model.lm_head(hidden[counted]).argmax(-1) == targets[counted]).sum())
        asked += int(counted.sum())
    model.train(training)
    return right / asked


def train_mqar(
    config: GLAConfig,
    table: MQARTable,
    task: tuple[int, tuple[int, ...]],
    *,
    lr: float,
    seed: int = 0,
    device: torch.device | str = "cpu",
    out_dir: Path | None = None,
    console: Console | None = None,
) -> tuple[GLAForCausalLM, FitResult, float]:
    """Train one model on one task: the model (its best weights), the history, and the accuracy on fresh sequences."""
    seq_len, pairs = task
    steps = table.steps_at(seq_len)
    make = partial(
        _mixture,
        pairs=pairs,
        vocab_size=table.vocab_size,
        seq_len=seq_len,
        random_filler=table.random_filler,
    )
    # three streams of seeds that never meet
    train = make(table.n_train, seed=3000 + 30 * seed)
    valid, test = (make(table.n_test, seed=base + 30 * seed) for base in (1000, 2000))
    torch.manual_seed(seed)
    model = GLAForCausalLM(config).to(device)
    result = fit(
        model,
        _mqar_loss,
        (torch.from_numpy(train.inputs), torch.from_numpy(train.targets)),
        optimizer=torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=table.weight_decay),
        scheduler=partial(cosine_with_warmup, warmup_steps=min(50, steps // 10)),
        evaluate=lambda m: {"accuracy": mqar_accuracy(m, valid)},
        config=TrainConfig(
            steps=steps,
            batch_size=table.batch_size[seq_len],
            eval_every=max(1, steps // 10),
            monitor="accuracy",
            mode="max",
            grad_clip=1.0,
            restore_best=True,
            seed=seed,
        ),
        out_dir=out_dir,
        console=console,
    )
    return model, result, mqar_accuracy(model, test)


def _mqar_loss(model: GLAForCausalLM, batch: tuple[Tensor, Tensor]) -> Tensor:
    inputs, targets = batch
    loss = model(inputs, targets=targets).loss
    assert loss is not None
    return loss


def _mixture(n: int, *, pairs: Sequence[int], seed: int, **options: Any) -> MQARData:
    parts = [
        mqar_data(-(-n // len(pairs)), n_pairs=count, seed=seed + part, **options) for part, count in enumerate(pairs)
    ]
    return MQARData(
        np.concatenate([part.inputs for part in parts])[:n], np.concatenate([part.targets for part in parts])[:n]
    )


def _run_mqar(
    table: MQARTable,
    record: Record,
    *,
    first_seed: int,
    device: torch.device,
    work_dir: Path,
    out_dir: Path,
    console: Console,
) -> None:
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for task, width in itertools.product(table.tasks, table.widths):
        seq_len, pairs = task
        like = GLAConfig(
            vocab_size=table.vocab_size,
            d_model=width,
            n_layers=table.n_layers,
            n_heads=table.n_heads,
            ffn_width=table.ffn_width,
        )
        for name in table.models:
            config = comparison_config(name, like)
            accuracies, chosen = [], []
            for seed in range(first_seed, first_seed + table.seeds):
                best: tuple[float, float, float] | None = None
                for lr in table.lrs:
                    console.print(f"{name}, d={width}, length {seq_len}, lr {lr:g}, seed {seed}")
                    folder = work_dir / _run_name("mqar", name, seed, config, table, task, lr)
                    if folder.exists() and _TAKEN_OVER not in record.notes:
                        record.notes.append(_TAKEN_OVER)
                    _, result, accuracy = train_mqar(
                        config,
                        table,
                        task,
                        lr=lr,
                        seed=seed,
                        device=device,
                        out_dir=folder,
                        console=console,
                    )
                    valid = float(result.best["accuracy"])
                    if best is None or valid > best[0]:
                        best = (valid, accuracy, lr)
                        if len(table.tasks) == len(table.widths) == 1 and seed == first_seed:
                            curves[name] = result.curve("accuracy")
                assert best is not None
                accuracies.append(best[1])
                chosen.append(f"{best[2]:g}")
            mean, spread = summarise(accuracies)
            record.add(
                Row(
                    task=f"MQAR V={table.vocab_size}, length {seq_len}, {'/'.join(map(str, pairs))} pairs, d={width}",
                    model=name,
                    metric="accuracy",
                    value=mean,
                    spread=spread,
                    n=len(accuracies),
                    note=f"{_size(config):,} parameters, lr {', '.join(sorted(set(chosen)))}",
                )
            )
    if curves:
        plot = plot_curves(
            out_dir / f"{record.experiment}-{record.preset}.png",
            curves,
            xlabel="step",
            ylabel="accuracy on queries",
            title=record.rows[0].task,
        )
        record.plots.append(plot.name)


# Language models ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LMTable:
    """Models of equal size trained alike on one corpus, judged by loss on held-out text."""

    models: tuple[str, ...]
    d_model: int
    n_layers: int
    n_heads: int
    recipe: LMRecipe
    seeds: int = 1
    max_length: int = 4096
    """how far the length experiment reads"""


_SMALL = LMRecipe(steps=300, batch_size=4, seq_len=256, lr=5e-3, eval_every=100, max_eval_tokens=8192)
_ALL = (
    "gla", "gla-outer", "gla-scalar", "gla-fixed", "linear-attention", "retnet", "mamba", "transformer++"
)  # fmt: skip
_LARGE = LMRecipe(steps=5000, batch_size=64, seq_len=256, lr=1e-3)

LM_TABLES: dict[tuple[Experiment, Preset], LMTable] = {
    ("shakespeare", "cpu"): LMTable(
        # Mamba's scan is slow without a kernel
        models=("gla", "gla-scalar", "gla-fixed", "linear-attention", "retnet", "transformer++", "gla-outer"),
        d_model=64,
        n_layers=2,
        n_heads=2,
        recipe=_SMALL,
    ),
    ("shakespeare", "paper"): LMTable(models=_ALL, d_model=384, n_layers=6, n_heads=4, recipe=_LARGE, seeds=3),
    ("length", "cpu"): LMTable(
        models=("gla", "gla-fixed", "linear-attention", "retnet", "transformer++"),
        d_model=64,
        n_layers=2,
        n_heads=2,
        recipe=_SMALL,
    ),
    ("length", "paper"): LMTable(
        models=_ALL, d_model=384, n_layers=6, n_heads=4, recipe=_LARGE, seeds=3, max_length=20_480
    ),
    ("wikitext2", "cpu"): LMTable(
        models=("gla", "gla-fixed", "linear-attention", "transformer++"),
        d_model=64,
        n_layers=2,
        n_heads=2,
        recipe=replace(_SMALL, steps=210, batch_size=8, seq_len=128, weight_decay=0.1, eval_every=70),
    ),
    ("wikitext2", "paper"): LMTable(
        models=_ALL,
        d_model=384,
        n_layers=6,
        n_heads=4,
        recipe=replace(_LARGE, weight_decay=0.1),
        seeds=3,
    ),
}


def position_bins(length: int) -> list[tuple[int, int]]:
    """Places of a sequence in bins that double: 0-64, 64-128, 128-256, ... up to `length`."""
    edges = [0, 64]
    while edges[-1] < length:
        edges.append(2 * edges[-1])
    edges[-1] = length
    return list(itertools.pairwise(edges))


def _train_models(
    table: LMTable,
    record: Record,
    corpus: Corpus,
    *,
    first_seed: int,
    device: torch.device,
    work_dir: Path,
    console: Console,
) -> dict[str, list[tuple[GLAForCausalLM, FitResult]]]:
    like = GLAConfig(
        vocab_size=len(corpus.vocabulary),
        d_model=table.d_model,
        n_layers=table.n_layers,
        n_heads=table.n_heads,
    )
    trained: dict[str, list[tuple[GLAForCausalLM, FitResult]]] = {}
    for name in table.models:
        config = comparison_config(name, like)
        for seed in range(first_seed, first_seed + table.seeds):
            torch.manual_seed(seed)
            model = GLAForCausalLM(config).to(device)
            console.print(f"{name}, {count_parameters(model):,} parameters, {corpus.name}, seed {seed}")
            folder = work_dir / _run_name(corpus.name, name, seed, config, table.recipe)
            if folder.exists() and _TAKEN_OVER not in record.notes:
                record.notes.append(_TAKEN_OVER)
            result = train_lm(model, corpus, table.recipe, seed=seed, out_dir=folder, console=console, resume=True)
            trained.setdefault(name, []).append((model, result))
    return trained


def _run_lm(
    table: LMTable,
    record: Record,
    corpus: Corpus,
    *,
    out_dir: Path,
    **where: Any,
) -> None:
    trained = _train_models(table, record, corpus, **where)
    words = corpus.vocabulary.level == "word"
    metric, unit = ("perplexity", "word") if words else ("loss", corpus.vocabulary.level)
    curves = {}
    for name, runs in trained.items():
        values = [evaluate_loss(model, corpus.valid, seq_len=table.recipe.seq_len)[metric] for model, _ in runs]
        mean, spread = summarise(values)
        model, result = runs[0]
        tokens = table.recipe.steps * table.recipe.batch_size * table.recipe.seq_len
        record.add(
            Row(
                task=f"{corpus.name}, {unit}s",
                model=name,
                metric=f"held-out {metric}" + ("" if words else f" (nats/{unit})"),
                value=mean,
                spread=spread,
                n=len(values),
                higher_is_better=False,
                note=f"{count_parameters(model):,} parameters, {tokens:,} tokens read",
            )
        )
        curves[name] = result.curve("loss")
    plot = plot_curves(
        out_dir / f"{record.experiment}-{record.preset}.png",
        curves,
        xlabel="step",
        ylabel=f"held-out loss (nats/{unit})",
        title=f"{corpus.name}: models of equal size",
    )
    record.plots.append(plot.name)


def _run_length(table: LMTable, record: Record, corpus: Corpus, *, out_dir: Path, **where: Any) -> None:
    trained = _train_models(table, record, corpus, **where)
    bins = position_bins(table.max_length)
    train_length = table.recipe.seq_len
    curves = {}
    for name, runs in trained.items():
        by_bin = []
        for model, _ in runs:
            loss = loss_by_position(model, corpus.valid, length=table.max_length)
            by_bin.append([float(loss[low:high].mean()) for low, high in bins])
        means = [summarise(values)[0] for values in zip(*by_bin, strict=True)]
        curves[name] = ([math.sqrt(max(low, 16) * high) for low, high in bins], means)
        for number, (low, high) in enumerate(bins):
            if high < train_length or (high > train_length and number < len(bins) - 1):
                continue
            mean, spread = summarise([values[number] for values in by_bin])
            record.add(
                Row(
                    task=f"{corpus.name}, trained at {train_length}",
                    model=name,
                    metric=f"loss at places {low}-{high}",
                    value=mean,
                    spread=spread,
                    n=len(by_bin),
                    higher_is_better=False,
                    note="inside the training length" if high <= train_length else "beyond it",
                )
            )
    plot = plot_curves(
        out_dir / f"{record.experiment}-{record.preset}.png",
        curves,
        xlabel="place in the sequence",
        ylabel="held-out loss (nats)",
        title=f"{corpus.name}: trained at {train_length}, read to {table.max_length}",
        logx=True,
    )
    record.plots.append(plot.name)


# All of them ----------------------------------------------------------------------------------------------------------


def reproduce(
    experiment: Experiment,
    preset: Preset,
    *,
    out_dir: Path,
    work_dir: Path,
    seed: int = 0,
    device: torch.device | str = "cpu",
    console: Console | None = None,
    train_file: Path | None = None,
    table: MQARTable | LMTable | None = None,
) -> Record:
    """Run a table and save its record and plot in `out_dir`.

    Args:
        work_dir: where checkpoints go. What was trained there is not trained again: an interrupted run goes on, and
            `length` takes over the models of `shakespeare`.
        train_file: for wikitext2, the training split (`train.txt`), which is not among the registered files. Without
            it the validation split is trained on; the test split is always what is judged.
        table: other settings than the preset's.

    Raises:
        UserError: if the experiment is unknown or data cannot be had.
    """
    if experiment not in get_args(Experiment) or preset not in get_args(Preset):
        raise UserError(f"no experiment {experiment!r} with preset {preset!r}")
    console = console or Console(quiet=True)
    where: dict[str, Any] = {
        "first_seed": seed,
        "device": torch.device(device),
        "work_dir": work_dir,
        "out_dir": out_dir,
        "console": console,
    }
    if experiment == "mqar":
        mqar_table = table if isinstance(table, MQARTable) else MQAR_TABLES[experiment, preset]
        record = _start(experiment, preset, mqar_table, seed)
        _run_mqar(mqar_table, record, **where)
        record.notes.append("Equal depth and width, not equal size; no feed-forward network, as in Zoology's figure 2.")
    else:
        lm_table = table if isinstance(table, LMTable) else LM_TABLES[experiment, preset]
        corpus = wikitext2_corpus(train_file) if experiment == "wikitext2" else tiny_shakespeare_corpus()
        record = _start(experiment, preset, lm_table, seed)
        (_run_length if experiment == "length" else _run_lm)(lm_table, record, corpus, **where)
        if experiment == "wikitext2" and train_file is None:
            record.notes.append(
                "Trained on WikiText-2's validation split (217,646 words), not on its training split of two million, "
                "so the perplexities compare these models with each other and with nothing published."
            )
    if preset == "cpu":
        record.notes.append("Reduced scale: it compares architectures under one small budget.")
    record.save(out_dir)
    return record


def _start(experiment: Experiment, preset: Preset, table: MQARTable | LMTable, seed: int) -> Record:
    return Record.start(
        "gla-impl", experiment, preset=preset, seeds=range(seed, seed + table.seeds), config=asdict(table)
    )


def _size(config: GLAConfig) -> int:
    with torch.device("meta"):
        return count_parameters(GLAForCausalLM(config))


def _run_name(task: str, model: str, seed: int, *settings: object) -> str:
    """A folder for a run: other settings, other folder."""
    digest = hashlib.sha256(repr(settings).encode()).hexdigest()[:8]
    return f"{task}-{model.replace('+', 'p')}-seed{seed}-{digest}"
