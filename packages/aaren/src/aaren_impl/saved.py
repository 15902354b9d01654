"""Models of a user's own files: trained by name, saved with what their predictions need, and asked again."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console

from shared_impl.results import write_atomically

from .classifier import Classifier
from .data import chirps, read_events, read_series, read_ts, splits
from .hawkes import Hawkes, poisson_nll
from .heads import ClassifierNet, EventModel, Forecaster
from .offline import pendulum_set
from .tasks import decisions, events, forecasts
from .training import Plan

__all__ = ["classify_file", "event_lines", "forecast_file", "train_task"]

TRIVIAL = {"event": ("nll", "poisson_nll"), "forecast": ("mse", "last_value_mse"), "classify": ("error", "usual_error"),
           "rl": ("loss", "data_loss")}  # fmt: skip


def train_task(
    task: str,
    model: str,
    *,
    data: Path | str | None = None,
    steps: int | None = None,
    horizon: int = 0,
    seed: int = 0,
    device: torch.device | str = "cpu",
    out_dir: Path,
    console: Console,
) -> dict[str, Any]:
    """One task by name, from a user's file or made data; the weights go to `out_dir/TASK`.

    The figures are those on held-out data; `better_than_trivial` says whether they beat the answer that needs no
    learning: a Poisson process, the last value, the most frequent class, the mean of the behaviour.

    Raises:
        ValueError: if the data cannot be read or are too few.
    """
    lr = 3e-3 if task == "event" else 1e-3
    plan = Plan(steps=steps or 300, lr=lr, seed=seed, device=device, patience=4, console=console)
    kept: dict[str, Any] = {"task": task}
    net: Any
    if task == "event":
        sequences, names = (Hawkes().sample(200, seed=seed), ["0", "1", "2"]) if data is None else read_events(data)
        if len(sequences) < 2:
            raise ValueError(f"sequences must be at least 2 (to train and to test), got {len(sequences)}")
        order = np.random.default_rng(seed).permutation(len(sequences))
        cut = max(1, int(0.8 * len(sequences)))
        train, test = ([sequences[i] for i in part] for part in (order[:cut], order[cut:]))
        net, found = events(model, train, test, len(names), plan)
        found["poisson_nll"] = poisson_nll(train, test, len(names))
        kept["marks"] = names
    elif task == "forecast":
        frame = made_series(seed) if data is None else read_series(data)
        n = len(frame)
        ahead = horizon or min(96, max(1, n // 12))
        context = min(96, max(2, n // 6))
        ends = (int(0.7 * n), int(0.8 * n), n)
        if ends[0] < context + ahead or ends[1] - ends[0] < ahead:
            raise ValueError(f"the series must be longer for a horizon of {ahead}, got {n} rows")
        parts = splits(frame.to_numpy(dtype=float), ends, context)
        net, found = forecasts(model, parts, plan, context=context, horizon=ahead)
        rows = frame.to_numpy(dtype=float)[: ends[0]]
        kept |= {"columns": list(map(str, frame.columns)), "mean": rows.mean(0).tolist()}
        kept["scale"] = np.maximum(rows.std(0), 1e-8).tolist()
    elif task == "classify":
        cases, labels = chirps(400, seed=seed) if data is None else read_ts(data)
        order = np.random.default_rng(seed).permutation(len(cases))
        test_i, train_i = order[: len(cases) // 4], order[len(cases) // 4 :]
        if len(test_i) == 0:
            raise ValueError(f"the set must have at least 4 sequences, got {len(cases)}")
        classifier = Classifier(model=model, steps=steps, random_state=seed)
        classifier.fit([cases[i] for i in train_i], labels[train_i])
        wrong = classifier.predict([cases[i] for i in test_i]) != labels[test_i]
        kinds, counts = np.unique(labels[train_i], return_counts=True)
        usual = labels[test_i] != kinds[counts.argmax()]
        net, found = classifier.net_, {"accuracy": float(1 - wrong.mean()), "error": float(wrong.mean())}
        found["usual_error"] = float(usual.mean())
        kept |= {"classes": list(map(str, classifier.classes_)), "mean": classifier.mean_.tolist()}
        kept["scale"] = classifier.scale_.tolist()
    else:
        net, found = decisions(model, pendulum_set(60, seed=seed), plan)
        found |= {"loss": -found["return"], "data_loss": -found["data_mean"]}
    ours, trivial = TRIVIAL[task]
    figures: dict[str, Any] = {**found, "better_than_trivial": found[ours] < found[trivial]}
    if not figures["better_than_trivial"]:
        console.print(f"[bold]Not better than what needs no learning[/]: {ours} {found[ours]:.4g}, {trivial} "
                      f"{found[trivial]:.4g}", highlight=False)  # fmt: skip
    folder = out_dir / task
    net.save_pretrained(folder)
    write_atomically(folder / "task.json", json.dumps(kept, indent=1) + "\n")
    return {**figures, "model": str(folder)}


def made_series(seed: int, n: int = 2000) -> pd.DataFrame:
    """Three noisy seasons."""
    t, noise = np.arange(n)[:, None], np.random.default_rng(seed).standard_normal((n, 3))
    return pd.DataFrame(np.sin(2 * np.pi * t / np.array([24, 12, 168])) + 0.1 * noise, columns=["day", "half", "week"])


def _load(folder: Path, task: str, kind: Any) -> tuple[Any, dict[str, Any]]:
    """A model that `train_task` saved, and what is kept with it.

    Raises:
        ValueError: if there is none, or it is of another task.
    """
    try:
        kept = json.loads((folder / "task.json").read_text(encoding="utf-8"))
        found = str(kept["task"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} must be a folder that `train` wrote: task.json cannot be read there") from error
    if found != task:
        raise ValueError(f"{folder} is a model of the task {found}, not of {task}")
    return kind.from_pretrained(folder), kept


def event_lines(folder: Path, file: str) -> Iterator[dict[str, Any]]:
    """For each event read (id, time, mark a line), what comes next in its sequence; a constant memory a sequence.

    Lines are answered as they come: `file` may be - and never end.

    Raises:
        ValueError: if the model or the file cannot be read, or a line is not such an event.
    """
    net, kept = _load(folder, "event", EventModel)
    codes = {name: i for i, name in enumerate(kept["marks"])}
    last: dict[str, tuple[float, Any]] = {}
    try:
        source = sys.stdin if file == "-" else open(file, encoding="utf-8-sig")  # noqa: SIM115
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from error
    with source, torch.inference_mode():
        for number, line in enumerate(source, 1):
            fields = [part.strip() for part in line.split(",")]
            if not line.strip() or (number == 1 and not _is_number(fields[1:2])):
                continue  # a line of names
            if len(fields) < 3 or not _is_number(fields[1:2]) or fields[2] not in codes:
                raise ValueError(f"{file}: line {number} must have an id, a time that is a number, and one of the "
                                 f"marks {', '.join(codes)}, got {line.strip()[:60]!r}")  # fmt: skip
            name, time, mark = fields[0], float(fields[1]), codes[fields[2]]
            before, state = last.get(name, (0.0, None))
            if time < before:
                raise ValueError(f"{file}: line {number}: times must not go back in a sequence, {time} after {before}")
            found, state = net.step(torch.tensor([time - before]), torch.tensor([mark]), state)
            last[name] = (time, state)
            chances = found["logits"].softmax(-1)[0]
            yield {
                "sequence": name, "time": time, "next_time": time + found["gap"].item(),
                "next_mark": kept["marks"][int(found["mark"])], "probability": chances.max().item(),
            }  # fmt: skip


def _is_number(fields: list[str]) -> bool:
    try:
        return bool(np.isfinite(float(fields[0])))
    except (ValueError, IndexError):
        return False


def forecast_file(folder: Path, file: str) -> pd.DataFrame:
    """The next rows of a series, in its own unit.

    Raises:
        ValueError: if the model or the file cannot be read, or the series is not like the one of training.
    """
    net, kept = _load(folder, "forecast", Forecaster)
    frame = read_series(file)
    if list(map(str, frame.columns)) != kept["columns"]:
        raise ValueError(f"{file} must have the numeric columns {', '.join(kept['columns'])}, "
                         f"got {', '.join(map(str, frame.columns))}")  # fmt: skip
    if len(frame) < net.context:
        raise ValueError(f"{file} must have at least {net.context} rows, got {len(frame)}")
    mean, scale = np.array(kept["mean"]), np.array(kept["scale"])
    window = ((frame.to_numpy(dtype=float)[-net.context :] - mean) / scale).astype(np.float32)
    with torch.inference_mode():
        ahead = net(torch.from_numpy(window)[None])[0].numpy()
    return pd.DataFrame(ahead * scale + mean, columns=frame.columns, index=range(len(frame), len(frame) + net.horizon))


def classify_file(folder: Path, file: str) -> pd.DataFrame:
    """Predicted classes and their probabilities, and the labels that the file gives.

    Raises:
        ValueError: if the model or the file cannot be read, or its sequences have other channels.
    """
    net, kept = _load(folder, "classify", ClassifierNet)
    cases, labels = read_ts(file)
    classifier = Classifier()
    classifier.net_, classifier.classes_ = net, np.array(kept["classes"])
    classifier.mean_, classifier.scale_ = (np.array(kept[name], dtype=np.float32) for name in ("mean", "scale"))
    chances = classifier.predict_proba(list(cases))
    return pd.DataFrame(
        {"predicted": classifier.classes_[chances.argmax(-1)], "probability": chances.max(-1), "label": labels}
    )
