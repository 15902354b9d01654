"""Black boxes to search under: generated ones, digits under a kernel, WikiQA under a cross-encoder, ZESHEL."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from rich.console import Console

from anncur_impl.encoders import ClsCrossEncoder, CrossEncoder, EmbCrossEncoder
from anncur_impl.training import ranking_accuracy, train_cross_encoder
from shared_impl import datasets
from shared_impl.data import DataError, cache_dir
from shared_impl.results import settings_key

__all__ = [
    "Problem",
    "digits_rbf",
    "low_rank_matrix",
    "mlp_scores",
    "read_zeshel",
    "wikiqa_problem",
]


@dataclass(frozen=True)
class Problem:
    """Anchor queries and test queries with all their scores."""

    anchor_scores: Float[ndarray, "anchor_queries items"]
    test_scores: Float[ndarray, "test_queries items"]
    items: Sequence[str] | None = None
    anchor_queries: Sequence[str] | None = None
    test_queries: Sequence[str] | None = None
    item_scores: Float[ndarray, "some_items items"] | None = None
    """scores of the first items, as queries, with all items (itemCUR)"""
    scores_as_queries: Float[ndarray, "some_items items"] | None = None
    """scores of all items, as queries, with the first items; transposed (fixITEM)"""
    quality: float | None = None
    """mean reciprocal rank of the right answers under the scorer, where there are right answers"""


def low_rank_matrix(
    *, queries: int = 600, items: int = 5000, rank: int = 30, decay: float = 10.0, noise: float = 0.1, seed: int = 0
) -> Float[ndarray, "queries items"]:
    """U diag(exp(-j / decay)) Vᵀ with normal U and V, and noise of `noise` times the standard deviation."""
    rng = np.random.default_rng(seed)
    left, right = rng.standard_normal((queries, rank)), rng.standard_normal((items, rank))
    matrix = (left * np.exp(-np.arange(rank) / decay)) @ right.T
    return matrix + noise * matrix.std() * rng.standard_normal(matrix.shape)


def mlp_scores(
    *, queries: int = 300, items: int = 2000, features: int = 16, hidden: int = 64, seed: int = 0
) -> Float[ndarray, "queries items"]:
    """A random network of two layers on the features of query and item together: not of low rank by construction."""
    rng = np.random.default_rng(seed)
    left, right = rng.standard_normal((queries, features)), rng.standard_normal((items, features))
    first = rng.standard_normal((2 * features, hidden)) / np.sqrt(2 * features)
    second = rng.standard_normal(hidden) / np.sqrt(hidden)
    a, b = left @ first[:features], right @ first[features:]
    return np.stack([np.maximum(row + b, 0) @ second for row in a])


def digits_rbf(*, anchors: int = 200, tests: int = 200, gamma: float = 1e-3, seed: int = 0) -> Problem:
    """Handwritten digits under a Gaussian kernel; the items are those that are no queries."""
    images = datasets.digits().images.reshape(-1, 64).astype(np.float64)
    order = np.random.default_rng(seed).permutation(len(images))
    queries, items = images[order[: anchors + tests]], images[order[anchors + tests :]]
    distances = np.square(queries).sum(1)[:, None] + np.square(items).sum(1) - 2 * queries @ items.T
    scores = np.exp(-gamma * distances)
    return Problem(scores[:anchors], scores[anchors:])


@lru_cache(maxsize=2)
def wikiqa_problem(
    kind: Literal["emb", "cls"] = "emb",
    *,
    n_items: int = 3000,
    anchors: int = 200,
    tests: int = 100,
    train_steps: int = 600,
    item_queries: int = 100,
    seed: int = 0,
    console: Console | None = None,
) -> Problem:
    """Questions of WikiQA against sentences under a cross-encoder that is trained here.

    Training uses the questions of the training split that are no anchor queries; test queries are of the test split,
    whose sentences are among the items. The scores are kept in the cache folder.

    Args:
        n_items: sentences, those of the test split first.
        item_queries: so many items are also scored as queries, and all items as queries with these.
    """
    train, test = datasets.wikiqa("train"), datasets.wikiqa("test")
    rng = np.random.default_rng(seed)
    questions = list(dict.fromkeys(train.questions))
    order = rng.permutation(len(questions))
    anchor_queries = [questions[i] for i in order[:anchors]]
    test_queries = list(dict.fromkeys(test.questions))[:tests]
    pool = list(dict.fromkeys([*test.sentences, *train.sentences]))
    items = [*pool[: len(set(test.sentences))], *pool[len(set(test.sentences)) :]][:n_items]
    settings = {
        "kind": kind, "n_items": n_items, "anchors": anchors, "tests": tests, "train_steps": train_steps,
        "item_queries": item_queries, "seed": seed, "version": 2,
    }  # fmt: skip
    path = cache_dir() / "anncur" / f"wikiqa-{kind}-{settings_key(settings)}.npz"
    right = _answers(test, test_queries, items)
    if not path.is_file():
        model = _trained(kind, train, set(anchor_queries), train_steps, seed, console)
        report = None if console is None else _Report(console, anchors + tests + item_queries)
        scores = model.score_matrix([*anchor_queries, *test_queries, *items[:item_queries]], items, progress=report)
        between = model.score_matrix(items, items[:item_queries])
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.part")
        with temporary.open("wb") as file:
            np.savez(file, scores=scores, between=between)
        temporary.replace(path)
    with np.load(path, allow_pickle=False) as kept:
        scores, between = kept["scores"].astype(np.float64), kept["between"].astype(np.float64)
    tested = scores[anchors : anchors + tests]
    return Problem(
        scores[:anchors], tested, items, anchor_queries, test_queries, scores[anchors + tests :], between.T,
        ranking_accuracy(tested, right),
    )  # fmt: skip


class _Report:
    """A line now and then."""

    def __init__(self, console: Console, total: int) -> None:
        self.console, self.total = console, total

    def __call__(self, done: int) -> None:
        if done % 50 == 0 or done == self.total:
            self.console.print(f"scored {done} of {self.total} queries with all items", highlight=False)


def _trained(
    kind: str, train: datasets.AnswerPairs, kept_back: set[str], steps: int, seed: int, console: Console | None
) -> CrossEncoder:
    questions = [q for q in dict.fromkeys(train.questions) if q not in kept_back]
    sentences = list(dict.fromkeys(train.sentences))
    torch.manual_seed(seed)
    model: CrossEncoder = EmbCrossEncoder() if kind == "emb" else ClsCrossEncoder()
    answers = _answers(train, questions, sentences)
    train_cross_encoder(model, questions, answers, sentences, steps=steps, seed=seed, console=console)
    return model


def _answers(pairs: datasets.AnswerPairs, questions: Sequence[str], items: Sequence[str]) -> list[list[int]]:
    place = {sentence: i for i, sentence in enumerate(items)}
    number = {question: i for i, question in enumerate(questions)}
    found: list[list[int]] = [[] for _ in questions]
    for question, sentence, label in zip(pairs.questions, pairs.sentences, pairs.labels, strict=True):
        if label and question in number and sentence in place:
            found[number[question]].append(place[sentence])
    return found


def read_zeshel(folder: Path | str, world: str) -> tuple[list[str], list[str], list[int]]:
    """Mentions and entities of one world of ZESHEL, as it is published: `documents/WORLD.json`, `mentions/*.json`.

    Returns:
        queries (left context, [the mention], right context), items (title and text), and for each query the number of
        its item.

    Raises:
        DataError: if a file is missing or damaged, or the world has no mentions.
    """
    folder = Path(folder)
    documents = _json_lines(folder / "documents" / f"{world}.json")
    number = {document["document_id"]: i for i, document in enumerate(documents)}
    text = {document["document_id"]: document["text"].split() for document in documents}
    items = [f"{document['title']} {' '.join(document['text'].split()[:100])}" for document in documents]
    queries, gold = [], []
    files = sorted((folder / "mentions").glob("*.json"))
    if not files:
        raise DataError(f"{folder / 'mentions'} holds no .json files")
    for file in files:
        for mention in _json_lines(file):
            if mention.get("corpus") != world:
                continue
            try:
                words = text[mention["context_document_id"]]
                start, end = int(mention["start_index"]), int(mention["end_index"]) + 1
                gold.append(number[mention["label_document_id"]])
            except (KeyError, ValueError) as error:
                raise DataError(f"{file}: a mention of {world} lacks or misnames {error}") from error
            left, right = words[max(0, start - 32) : start], words[end : end + 32]
            queries.append(" ".join([*left, "[", *words[start:end], "]", *right]))
    if not queries:
        raise DataError(f"{folder / 'mentions'} has no mentions of the world {world!r}")
    return queries, items, gold


def _json_lines(path: Path) -> list[dict[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return [json.loads(line) for line in lines if line.strip()]
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON, an object a line: {error}") from error
