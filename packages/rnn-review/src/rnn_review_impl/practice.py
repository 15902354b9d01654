"""What the verbs `train`, `generate` and `predict` do with a user's own files."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from shared_impl.experiments import Context, Run

from .estimators import SequenceClassifier, SequenceTagger
from .language import CharLM

__all__ = ["TASKS", "generate_text", "predict_file", "read_sequences", "read_text", "train_on_file", "train_on_task"]

TASKS = ("adding", "copying", "reber", "xor", "ntm", "dates")


def read_text(file: str) -> str:
    """A text file, or standard input for "-".

    Raises:
        ValueError: it cannot be read, is no UTF-8, or is empty.
    """
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} must be a text file: {error}") from error
    if not text.strip():
        raise ValueError(f"{file} must hold text, got an empty file")
    return text


def read_sequences(file: str, *, labelled: bool) -> tuple[list[list[Any]], list[Any]]:
    """Lines of JSON, {"sequence": [...], "label": ...} each; a list as label names every step.

    Raises:
        ValueError: names the line that is none.
    """
    sequences, labels = [], []
    for number, line in enumerate(read_text(file).splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            sequences.append(row["sequence"])
            labels.append(row["label"] if labelled else None)
        except (ValueError, KeyError, TypeError) as error:
            wanted = '{"sequence": [...], "label": ...}' if labelled else '{"sequence": [...]}'
            raise ValueError(f"{file}, line {number}: must be {wanted}, got {line[:40]!r}") from error
        if not isinstance(sequences[-1], list) or not sequences[-1]:
            raise ValueError(f"{file}, line {number}: sequence must be a list of at least one step")
    return sequences, labels


def train_on_task(task: str, *, cell: str, hidden: int, steps: int, length: int, seed: int, device: str) -> Any:
    """Train on one of the historical tasks, generated; what is measured is that of the experiment of this name."""
    from .experiments import EXPERIMENTS

    model = {"ntm": "NTM, feedforward", "dates": "reversed, attention"}.get(task, cell)
    options: Mapping[str, Any] = {
        "adding": {"length": length}, "copying": {"lag": length, "items": 5}, "ntm": {"longest": length, "rows": 64},
    }.get(task, {})  # fmt: skip
    run = Run(task, model, seed, {"hidden": hidden, "steps": steps, **options})
    return EXPERIMENTS[task].execute(run, Context(device=device))


def train_on_file(
    task: str, file: str, folder: Path, *, cell: str, hidden: int, steps: int, seed: int, device: str, console: Console
) -> dict[str, Any]:
    """Fit to a file (task "text": a text; "sequences": lines of JSON) and save the model.

    Raises:
        ValueError: the file is no such file.
    """
    if task == "text":
        model = CharLM(cell=cell, hidden_size=hidden, steps=steps, random_state=seed, device=device)
        model.fit(read_text(file), console=console)
        scores = {"nats": model.loss_, "bigram": model.baseline_, "skill": model.skill_}
        return {"model": str(model.save(folder)), **scores}
    sequences, labels = read_sequences(file, labelled=True)
    kind = SequenceTagger if labels and isinstance(labels[0], list) else SequenceClassifier
    estimator: Any = kind(cell=cell, hidden_size=hidden, max_steps=steps, random_state=seed, device=device)
    estimator.fit([_array(s, number) for number, s in enumerate(sequences)], labels)
    scores = {
        "accuracy": estimator.validation_score_, "most frequent": estimator.trivial_score_, "skill": estimator.skill_
    }  # fmt: skip
    return {"model": str(estimator.save(folder)), **scores}


def _array(sequence: list[Any], number: int) -> Any:
    import numpy as np

    try:
        return np.array(sequence, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"sequence {number} must be numbers, as many in each step: {error}") from error


def predict_file(file: str, model: Path) -> list[Any]:
    """Labels for a file's sequences, by a saved estimator.

    Raises:
        ValueError: the file or the folder is none.
    """
    sequences, _ = read_sequences(file, labelled=False)
    try:
        kind = json.loads((model / "estimator.json").read_text(encoding="utf-8"))["estimator"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{model} must be a folder that `train --task sequences` wrote: {error}") from error
    estimator = (SequenceTagger if kind == "SequenceTagger" else SequenceClassifier).load(model)
    found = estimator.predict([_array(s, number) for number, s in enumerate(sequences)])
    return [label.tolist() for label in found]


def generate_text(model: Path, prompt: str, *, tokens: int, temperature: float, seed: int) -> str:
    """Go on from a prompt with a saved language model.

    Raises:
        ValueError: no such model, an unknown symbol, a temperature that is not positive.
    """
    return CharLM.load(model).generate(prompt, tokens, temperature=temperature, seed=seed)
