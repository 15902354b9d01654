"""A file of documents and questions, asked of a model that reads each document once, and twice."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from .documents import load_documents
from .model import JRTForCausalLM
from .prompt import ReadTwice, evaluate_prompt
from .text import ByteTokenizer

__all__ = ["ask_file", "load_reader"]


def load_reader(name: str, device: torch.device | str = "cpu") -> tuple[Any, Any]:
    """Model and tokenizer: of a folder that `train-lm` saved (bytes), else of transformers.

    Raises:
        ImportError: if transformers is needed and not installed.
        OSError: if there is no such model.
    """
    config = Path(name) / "config.json"
    if config.is_file() and "model_type" not in json.loads(config.read_text(encoding="utf-8")):
        return JRTForCausalLM.from_pretrained(name).to(device).eval(), ByteTokenizer()
    reader = ReadTwice.from_pretrained(name)
    return reader.model.to(device), reader.tokenizer


def ask_file(
    file: Path, name: str, task: str, *, limit: int | None, max_new_tokens: int, device: torch.device, console: Console
) -> dict[str, dict[str, float]]:
    """Scores with the document read once and twice, as a table.

    Raises:
        ValueError, ImportError, OSError: as `load_documents` and `load_reader` say.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    rows = load_documents(file, task)[:limit]
    model, tokenizer = load_reader(name, device)
    found = {}
    table = Table(
        "reads", "contains", "exact", "F1", "tokens of a prompt", title=f"{len(rows)} documents of {file.name}"
    )
    for repeats, label in ((1, "once"), (2, "twice")):
        scores = evaluate_prompt(
            model, tokenizer, _shown(rows, label, console), template=task, repeats=repeats,
            max_new_tokens=max_new_tokens,
        )  # fmt: skip
        found[label] = scores
        values = [f"{scores[key]:.1%}" for key in ("contains", "exact", "f1")]
        table.add_row(label, *values, f"{scores['prompt_tokens']:.0f}")
    console.print(table)
    return found


def _shown(rows: Iterable[Mapping[str, Any]], label: str, console: Console) -> Iterator[Mapping[str, Any]]:
    yield from track(list(rows), description=f"read {label}", console=console, transient=True)
