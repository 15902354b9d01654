"""The expensive scorer: any function of pairs. Its calls are what this package saves, so they are counted, checked and,
if asked for, kept on disk."""

import hashlib
import inspect
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

__all__ = ["CachedScorer", "CountedScorer", "MatrixScorer", "Scorer", "cross_encoder", "hugging_face"]


Scorer = Callable[[Sequence[Any], Sequence[Any]], Any]
"""Scores of pairs: as many queries as items in, one number a pair out, higher is better."""


class CountedScorer:
    """A scorer that is called in batches, whose answers are checked and whose calls are counted.

    Raises:
        ValueError: when the scorer returns another number of scores than pairs, or one that is not finite.
    """

    def __init__(self, scorer: Scorer, *, batch_size: int = 1024) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.scorer, self.batch_size, self.calls = scorer, batch_size, 0

    def pairs(self, queries: Sequence[Any], items: Sequence[Any]) -> Float[ndarray, "pairs"]:
        """Scores of the pairs (queries[i], items[i])."""
        if len(queries) != len(items):
            raise ValueError(f"queries and items must be equally many, got {len(queries)} and {len(items)}")
        scores = np.empty(len(queries))
        for start in range(0, len(queries), self.batch_size):
            batch = slice(start, start + self.batch_size)
            answer = _numbers(self.scorer(queries[batch], items[batch]))
            expected = len(queries[batch])
            if answer.shape != (expected,):
                raise ValueError(
                    f"the scorer must return {expected} scores for {expected} pairs, got shape {answer.shape}"
                )
            if not np.isfinite(answer).all():
                at = int(np.argmin(np.isfinite(answer)))
                pair = f"query {_short(queries[batch][at])} and item {_short(items[batch][at])}"
                raise ValueError(f"the scorer returned {answer[at]} for {pair}")
            scores[batch] = answer
            self.calls += expected
        return scores

    def matrix(self, queries: Sequence[Any], items: Sequence[Any]) -> Float[ndarray, "queries items"]:
        """Scores of every query with every item."""
        table = np.empty((len(queries), len(items)))
        for i, query in enumerate(queries):
            table[i] = self.pairs([query] * len(items), items)
        return table

    def chosen(
        self, queries: Sequence[Any], items: Sequence[Any], index: Int[ndarray, "queries k"]
    ) -> Float[ndarray, "queries k"]:
        """Scores of each query with its own chosen items; all pairs go through the scorer's batches together."""
        n, k = index.shape
        repeated = [query for query in queries for _ in range(k)]
        return self.pairs(repeated, [items[i] for i in index.ravel()]).reshape(n, k)


class CachedScorer:
    """A scorer whose answers are kept in a file and never asked for again; `name` keeps scorers apart.

    Text, numbers and other values with a JSON form can be scored.
    """

    def __init__(self, scorer: Scorer, path: Path | str, *, name: str) -> None:
        self.scorer, self.path, self.name = scorer, Path(path), name
        self.asked = 0
        """pairs that went to the scorer itself"""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as file:
            file.execute("CREATE TABLE IF NOT EXISTS scores (pair BLOB PRIMARY KEY, score REAL NOT NULL) WITHOUT ROWID")

    def __call__(self, queries: Sequence[Any], items: Sequence[Any], /) -> Float[ndarray, "pairs"]:
        """Scores, from the file where they are there."""
        keys = [self._key(query, item) for query, item in zip(queries, items, strict=True)]
        with self._open() as file:
            known: dict[bytes, float] = {}
            for part in _parts(list(dict.fromkeys(keys)), 500):
                marks = ",".join("?" * len(part))
                known.update(file.execute(f"SELECT pair, score FROM scores WHERE pair IN ({marks})", part).fetchall())
        missing = list({key: i for i, key in enumerate(keys) if key not in known}.items())
        if missing:
            # outside of the file: an error of the scorer's own database is not one of this file
            answer = _numbers(self.scorer([queries[i] for _, i in missing], [items[i] for _, i in missing]))
            self.asked += len(missing)
            if answer.shape != (len(missing),):
                raise ValueError(f"the scorer must return {len(missing)} scores, got shape {answer.shape}")
            fresh = {key: float(score) for (key, _), score in zip(missing, answer, strict=True)}
            good = [(key, score) for key, score in fresh.items() if np.isfinite(score)]
            with self._open() as file:
                file.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?)", good)
            known |= fresh
        return np.array([known[key] for key in keys])

    def _key(self, query: Any, item: Any) -> bytes:
        text = json.dumps([self.name, query, item], sort_keys=True, default=_number)
        return hashlib.blake2b(text.encode(), digest_size=16).digest()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.path, timeout=60)) as file, file:
                yield file
        except sqlite3.Error as error:
            raise ValueError(f"{self.path} cannot be used to keep scores: {error}") from error


class MatrixScorer:
    """Scores that are at hand already: queries and items are the numbers of rows and columns."""

    def __init__(self, matrix: Float[ndarray, "queries items"]) -> None:
        self.scores = matrix

    def __call__(self, queries: Sequence[int], items: Sequence[int], /) -> Float[ndarray, "pairs"]:
        """Look the pairs up."""
        return self.scores[np.asarray(queries), np.asarray(items)]


def cross_encoder(model: Any, *, batch_size: int = 64) -> Scorer:
    """A `sentence_transformers.CrossEncoder` as a scorer (extra `sentence-transformers`).

    Scores are the logits: the sigmoid that `predict` puts on models of one label squeezes the best scores together.
    """
    names = inspect.signature(model.predict).parameters
    plain = next((name for name in ("activation_fn", "activation_fct") if name in names), None)

    def score(queries: Sequence[str], items: Sequence[str], /) -> Any:
        more: dict[str, Any] = {}
        if plain is not None:
            import torch

            more = {plain: torch.nn.Identity()}
        pairs = list(zip(queries, items, strict=True))
        return np.asarray(model.predict(pairs, batch_size=batch_size, show_progress_bar=False, **more)).reshape(
            len(pairs)
        )

    return score


def hugging_face(model: Any, tokenizer: Any, *, max_length: int = 256, column: int = -1) -> Scorer:
    """A Hugging Face sequence classifier as a scorer: the logit of one column, with padding to a fixed length, so that
    a score does not depend on its batch (extra `transformers`)."""

    def score(queries: Sequence[str], items: Sequence[str], /) -> Any:
        import torch

        model.eval()
        texts = tokenizer(
            list(queries),
            list(items),
            padding="max_length",
            truncation=True,
            max_length=max_length,
            return_tensors="pt",
        )
        with torch.no_grad():
            return model(**texts.to(next(model.parameters()).device)).logits[:, column].float()

    return score


def _numbers(answer: Any) -> Float[ndarray, "*any"]:
    return np.asarray(answer.detach().cpu().double() if hasattr(answer, "detach") else answer, dtype=np.float64)


def _parts(values: list[bytes], size: int) -> Iterator[list[bytes]]:
    return (values[i : i + size] for i in range(0, len(values), size))


def _number(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise ValueError(f"a query or item of type {type(value).__name__} cannot be kept on disk: give text or numbers")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
