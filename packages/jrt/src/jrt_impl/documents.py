"""The six tasks of section 5: how a document and its question become a prompt, read once or twice, and its scoring.

A document is a mapping with the fields of the authors' data sets (`FIELDS`).
"""

import json
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["FIELDS", "PLAIN", "TASKS", "answers", "contains", "exact_match", "f1", "load_documents", "prompt"]

TASKS = ("fda", "swde", "squad", "nq", "triviaqa", "drop")

_QA = ("context", "question", "orig_question", "answers")
FIELDS: Mapping[str, tuple[str, ...]] = {
    "fda": ("text", "key", "value"),
    "swde": ("text", "key", "value"),
    "squad": ("text", "context", "question", "value"),
    **dict.fromkeys(("nq", "triviaqa", "drop"), _QA),
}
"""of each task: the columns of `hazyresearch/based-fda` and its siblings that are used"""

PLAIN = ("context", "question", "answer")
"""what a document of one's own needs for any task"""

_SUMMARY = "Summary of information above..."


def prompt(task: str, document: Mapping[str, Any], repeats: int = 2) -> str:
    """The prompt of a document: the usual one with `repeats=1`, JRT-Prompt with 2; more repeat the opening again.

    Raises:
        ValueError: if there is no such task, a field is missing, the text is empty, or repeats is below 1.
    """
    check_task(task)
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    for field in FIELDS[task]:
        if field not in ("value", "answers") and not isinstance(document.get(field), str):
            raise ValueError(f"document of {task} must have text in {field}, got {sorted(document)}")
    opening, body, question = _PARTS[task](document, repeats > 1)
    if not body.strip(" .") or not question.strip():
        raise ValueError(f"document of {task} must have a text and a question, got one that is empty")
    if task == "squad":  # its text has the question already; the context alone goes before
        return (f"{opening} {document['context'].split('Question:')[0]}\n" * (repeats - 1)) + body
    return f"{opening} {body}\n" * (repeats - 1) + f"{body} {question}"


def answers(task: str, document: Mapping[str, Any]) -> list[str]:
    """What counts as right.

    Raises:
        ValueError: if there is no such task, or the document has no answer.
    """
    check_task(task)
    given = document.get("answers" if "answers" in FIELDS[task] else "value")
    found = [given] if isinstance(given, str) else list(given or ())
    if not found or not all(isinstance(answer, str) and answer for answer in found):
        raise ValueError(f"document of {task} must have an answer, got {given!r}")
    return found


def check_task(task: str) -> None:
    """Refuse what is none of the six.

    Raises:
        ValueError: if there is no such task.
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")


# what opens the first reading, the text, and the question -------------------------------------------------------------


def _fda(document: Mapping[str, Any], twice: bool) -> tuple[str, str, str]:
    text = _without(document["text"], document["key"] + ":").strip("\n").strip(".")
    return _about(document, text + ("" if text.endswith(".") else "."))


def _swde(document: Mapping[str, Any], twice: bool) -> tuple[str, str, str]:
    text = _without(document["text"].split(_SUMMARY)[0], document["key"] + ":").strip("\n")
    if twice:
        text = text.strip(".").strip().strip("\n").strip()
        return _about(document, text + ("" if text.endswith(".") else "."))
    return _about(document, text.strip().strip("\n").strip().strip(".") + ".")


def _about(document: Mapping[str, Any], text: str) -> tuple[str, str, str]:
    asked = document["key"][:1].upper() + document["key"][1:] + ":"
    return f"Information about {asked.strip(':')}.", text, asked


def _squad(document: Mapping[str, Any], twice: bool) -> tuple[str, str, str]:
    return document["question"], document["text"].strip(), document["question"]


def _nq(document: Mapping[str, Any], twice: bool) -> tuple[str, str, str]:
    context, question = document["context"].strip(), document["question"].strip()
    if not twice:  # at most once, and only as it stands
        context = context.removesuffix(question)
    return _passage(document, context, twice, document["orig_question"].strip(":"))


def _triviaqa(document: Mapping[str, Any], twice: bool) -> tuple[str, str, str]:
    context = re.sub(r"\[(PAR|DOC|TLE)\]", "", document["context"].strip())
    if not twice:
        context = _without(context, document["question"].strip())
    return _passage(document, context, twice, document["orig_question"])


def _drop(document: Mapping[str, Any], twice: bool) -> tuple[str, str, str]:
    context = document["context"].strip()
    if not twice:
        context = _without(context, document["question"].strip())
    return _passage(document, context, twice, document["orig_question"].strip(":"))


def _passage(document: Mapping[str, Any], context: str, twice: bool, opening: str) -> tuple[str, str, str]:
    question = document["question"].strip()
    if twice:
        return opening, _without(context, question).strip().strip(".").strip() + ".", question
    return opening, context.strip().strip(".") + ".", question


def _without(text: str, ending: str) -> str:
    """The text without what it ends in, as often as it does, whatever the case."""
    while ending and text.lower().endswith(ending.lower()):
        text = text[: -len(ending)]
    return text


_PARTS: Mapping[str, Callable[[Mapping[str, Any], bool], tuple[str, str, str]]] = {
    "fda": _fda, "swde": _swde, "squad": _squad, "nq": _nq, "triviaqa": _triviaqa, "drop": _drop,
}  # fmt: skip


# scoring --------------------------------------------------------------------------------------------------------------


def contains(prediction: str, answers: Iterable[str]) -> bool:
    """Whether an answer stands in the prediction, whatever the case: the score of the six tasks."""
    return any(re.search(re.escape(answer), prediction, re.IGNORECASE) is not None for answer in answers)


def exact_match(prediction: str, answers: Iterable[str]) -> bool:
    """Whether the prediction is an answer, but for case, punctuation, articles and spaces (SQuAD)."""
    return any(_normal(prediction) == _normal(answer) for answer in answers)


def f1(prediction: str, answers: Iterable[str]) -> float:
    """The best agreement in words with an answer (SQuAD)."""
    return max((_overlap(_normal(prediction).split(), _normal(answer).split()) for answer in answers), default=0.0)


def _overlap(said: list[str], wanted: list[str]) -> float:
    if not said or not wanted:
        return float(said == wanted)
    common = (Counter(said) & Counter(wanted)).total()
    return 2 * common / (len(said) + len(wanted))


def _normal(text: str) -> str:
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def load_documents(path: Path | str, task: str) -> list[dict[str, Any]]:
    """Documents of a task from a file, a JSON object a line or one JSON list: the fields of the task or `PLAIN`.

    Raises:
        ValueError: if there is no such task, or the file holds something else, by number and field.
        OSError: if it cannot be read.
    """
    check_task(task)
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        if text.lstrip().startswith("["):
            rows = json.loads(text)
        else:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError as error:  # not JSON, or not UTF-8
        raise ValueError(f"{path.name} must hold a JSON object a line or one list: {error}") from error
    if not rows:
        raise ValueError(f"{path.name} must hold at least one document, got none")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not any(all(f in row for f in fields) for fields in (FIELDS[task], PLAIN)):
            raise ValueError(
                f"{path.name}, document {number} must have {', '.join(FIELDS[task])}, or {', '.join(PLAIN)}"
            )
    return rows
