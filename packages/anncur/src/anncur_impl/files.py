"""What the command line reads: texts, answered questions, and scorers by their names."""

import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared_impl.cli import UserError, bad_input

if TYPE_CHECKING:
    from anncur_impl.scorer import Scorer

__all__ = ["SCORER", "read_answers", "read_texts", "scorer_by_name"]

SCORER = "a folder that `train` saved, hf:NAME for a sentence-transformers CrossEncoder, or MODULE:FUNCTION of your own"


def _lines(path: Path) -> list[tuple[int, str]]:
    """Lines that are not blank, with their numbers; only a line feed ends one."""
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8: {error.reason}") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder, not a file") from error
    lines = [(i, line.rstrip("\r")) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise UserError(f"{path} holds no lines")
    return lines


def read_texts(path: Path) -> list[str]:
    """Texts, a line each: plain, or JSON with a field `text`.

    Raises:
        UserError: a file that is none, is empty, or has other lines.
    """
    lines = _lines(path)
    if not lines[0][1].lstrip().startswith("{"):
        return [line for _, line in lines]
    texts = []
    for number, line in lines:
        try:
            found = json.loads(line)["text"]
            if not isinstance(found, str | int | float):
                raise TypeError("no text")
            texts.append(str(found))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number}: expected JSON with a field text, got {line[:60]!r}") from error
    return texts


def _answered(lines: Sequence[tuple[int, str]], path: Path) -> tuple[list[str], list[str], list[list[int]]]:
    rows = [line.split("\t") for _, line in lines]
    wrong = (i for (i, _), row in zip(lines, rows, strict=True) if len(row) != 3 or row[0] not in ("0", "1"))
    if bad := next(wrong, None):
        raise UserError(f"{path}, line {bad}: expected label (0 or 1), question and text apart by tabs")
    questions, texts = list(dict.fromkeys(row[1] for row in rows)), list(dict.fromkeys(row[2] for row in rows))
    place, number = {t: i for i, t in enumerate(texts)}, {q: i for i, q in enumerate(questions)}
    positives: list[list[int]] = [[] for _ in questions]
    for label, question, text in rows:
        if label == "1":
            positives[number[question]].append(place[text])
    if not any(positives):
        raise UserError(f"{path} has no line with label 1")
    return questions, texts, positives


def read_answers(path: Path) -> tuple[list[str], list[str], list[list[int]]]:
    """Questions, texts, and the texts that answer each question, from lines of label, question, text.

    Raises:
        UserError: as `read_texts`; or no line with label 1.
    """
    return _answered(_lines(path), path)


def scorer_by_name(name: str) -> "Scorer":
    """A scorer by its name on the command line.

    Raises:
        UserError: if there is none of this name.
    """
    if name.startswith("hf:"):
        try:
            from sentence_transformers import CrossEncoder as Published
        except ImportError as error:
            raise UserError("--scorer hf:NAME needs the extra anncur-impl[sentence-transformers]") from error
        from anncur_impl.scorer import cross_encoder

        return cross_encoder(Published(name.removeprefix("hf:")))
    if Path(name).is_dir():
        return _saved(Path(name))
    module, colon, function = name.partition(":")
    if not colon:
        raise UserError(f"--scorer {name!r} is no folder; it takes {SCORER}")
    sys.path.insert(0, "")
    try:
        found: Any = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UserError(f"--scorer {name}: {error}") from error
    scorer: Scorer = found
    return scorer


def _saved(folder: Path) -> "Scorer":
    from safetensors import safe_open

    from anncur_impl.encoders import ClsCrossEncoder, EmbCrossEncoder

    path = folder / "model.safetensors"
    if not path.is_file():
        raise UserError(f"--scorer {folder} holds no model.safetensors")
    with bad_input():
        try:
            with safe_open(path, framework="pt") as file:
                kind: Any = ClsCrossEncoder if "linear.weight" in file.keys() else EmbCrossEncoder  # noqa: SIM118
        except Exception as error:
            raise UserError(f"{path} is damaged: {error}") from error
        model: Scorer = kind.from_pretrained(folder)
        return model
