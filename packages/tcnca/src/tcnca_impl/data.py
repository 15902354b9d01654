"""Associative recall, ListOps by its own rules, and text as bytes."""

import os
import random
import statistics
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int, Integer
from torch import Tensor

from shared_impl.data import DataError, reading

__all__ = [
    "LISTOPS_TOKENS",
    "Copy",
    "Expressions",
    "Recall",
    "associative_recall",
    "byte_windows",
    "bytes_of",
    "delayed_copy",
    "listops",
    "read_enwik8",
    "text_bytes",
    "unigram_bits",
]

LISTOPS_TOKENS = ("<pad>", *"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]")
_FIRST_OPERATOR, _CLOSE, _OPERATOR_SHARE = 11, 15, 0.25
_OPERATORS: tuple[Callable[[list[int]], int], ...] = (
    min, max, lambda values: int(statistics.median(values)), lambda values: sum(values) % 10,
)  # fmt: skip


class Recall(NamedTuple):
    """Sequences that end with a key, its value, and whether that pair stands in an earlier chunk only."""

    ids: Int[Tensor, "batch length"]
    targets: Int[Tensor, "batch"]
    far: Bool[Tensor, "batch"]


def associative_recall(
    batch: int, length: int, *, vocab: int = 10, chunk: int = 32, generator: torch.Generator | None = None
) -> Recall:
    """Key, value, key, value, ..., then a key that was seen; the target is its value (section 3).

    Keys and values come from disjoint halves of the symbols, and a key has one value throughout a sequence. There are
    `length - 1` symbols of pairs (one less if that is odd, the first then a key again) and the query at the end.

    Raises:
        ValueError: a vocabulary that is odd or below 2, a length below 3, a batch or chunk below 1.
    """
    if vocab < 2 or vocab % 2:
        raise ValueError(f"vocab must be even and at least 2, got {vocab}")
    if length < 3 or batch < 1 or chunk < 1:
        raise ValueError(f"length must be at least 3, batch and chunk at least 1, got {length}, {batch}, {chunk}")
    half, pairs = vocab // 2, (length - 1) // 2
    lead = length - 1 - 2 * pairs
    values = torch.randint(half, vocab, (batch, half), generator=generator)
    keys = torch.randint(0, half, (batch, pairs), generator=generator)
    ids = torch.stack([keys, values.gather(1, keys)], 2).flatten(1)
    query = keys.gather(1, torch.randint(0, pairs, (batch, 1), generator=generator))
    ids = torch.cat([ids[:, 1 : 1 + lead], ids, query], 1)
    start = (length - 1) // chunk * chunk
    in_chunk = (ids[:, start : length - 1] == query).any(1)
    return Recall(ids, values.gather(1, query).squeeze(1), ~in_chunk)


class Expressions(NamedTuple):
    """ListOps: tokens with 0 for padding, values, and lengths."""

    ids: Int[Tensor, "n length"]
    values: Int[Tensor, "n"]
    lengths: Int[Tensor, "n"]


def listops(
    n: int,
    *,
    min_length: int = 16,
    max_length: int = 128,
    max_depth: int = 10,
    max_args: int = 10,
    seed: int = 0,
) -> Expressions:
    """Different expressions of MIN, MAX, MED and SM (sum modulo 10), by the benchmark's rules (Nangia and Bowman 2018).

    Below `max_depth` a node is an operator with probability 1/4, with 2 to `max_args` arguments, else a digit; trees of
    `min_length` to `max_length` tokens are kept. The benchmark has 500 to 2,000 tokens.

    Raises:
        ValueError: a number below 1, or bounds that leave nothing.
    """
    if n < 1 or max_depth < 2 or max_args < 2 or not 1 <= min_length <= max_length:
        raise ValueError(f"n >= 1, max_depth and max_args >= 2, 1 <= min_length <= max_length are needed, got {n}, "
                         f"{max_depth}, {max_args}, {min_length}, {max_length}")  # fmt: skip
    rng = random.Random(seed)

    def tree(depth: int, tokens: list[int]) -> int:
        # a tree that is too long already is grown no further: it will be thrown away
        if depth > 1 and (depth == max_depth or rng.random() > _OPERATOR_SHARE or len(tokens) > max_length):
            digit = rng.randrange(10)
            tokens.append(1 + digit)
            return digit
        operator = rng.randrange(len(_OPERATORS))
        tokens.append(_FIRST_OPERATOR + operator)
        values = [tree(depth + 1, tokens) for _ in range(rng.randint(2, max_args))]
        tokens.append(_CLOSE)
        return _OPERATORS[operator](values)

    found: dict[tuple[int, ...], int] = {}
    for _ in range(2000 * n):
        tokens: list[int] = []
        value = tree(1, tokens)
        if min_length <= len(tokens) <= max_length:
            found[tuple(tokens)] = value
            if len(found) == n:
                break
    else:
        raise ValueError(f"min_length {min_length} to max_length {max_length} leave too few different expressions")
    ids = torch.zeros(n, max_length, dtype=torch.int64)
    for row, known in zip(ids, found, strict=True):
        row[: len(known)] = torch.tensor(known)
    return Expressions(ids, torch.tensor(list(found.values())), torch.tensor([len(known) for known in found]))


class Copy(NamedTuple):
    """Symbols, and at each position what stood `delay` positions before; -100 where nothing did."""

    ids: Int[Tensor, "batch length"]
    targets: Int[Tensor, "batch length"]


def delayed_copy(
    batch: int, length: int, delay: int, *, vocab: int = 8, generator: torch.Generator | None = None
) -> Copy:
    """Random symbols to be repeated after `delay` positions: with a delay of a chunk or more, a task for the mixer.

    Raises:
        ValueError: a number below 1, or a delay that is not below the length.
    """
    if min(batch, vocab, delay) < 1 or delay >= length:
        raise ValueError(
            f"batch, vocab >= 1 and 1 <= delay < length are needed, got {batch}, {vocab}, {delay}, {length}"
        )
    ids = torch.randint(0, vocab, (batch, length), generator=generator)
    targets = torch.full_like(ids, -100)
    targets[:, delay:] = ids[:, : length - delay]
    return Copy(ids, targets)


def text_bytes(name: str) -> tuple[Integer[Tensor, "n"], Integer[Tensor, "m"]]:
    """Training and test bytes of `shakespeare` (90 / 10), `wikitext2` (its valid part to train, test to test), or
    `enwik8` (90 / 5, from `$IMPL_DATA_DIR/enwik8/enwik8.zip`).

    Raises:
        ValueError: another name.
        DataError: the file is not there or damaged.
    """
    from shared_impl import datasets

    if name == "shakespeare":
        data = bytes_of(datasets.tiny_shakespeare().encode())
        return data[: len(data) * 9 // 10], data[len(data) * 9 // 10 :]
    if name == "wikitext2":
        return bytes_of(datasets.wikitext2("valid").encode()), bytes_of(datasets.wikitext2("test").encode())
    if name == "enwik8":
        train, _, test = read_enwik8(Path(os.environ.get("IMPL_DATA_DIR", ".")) / "enwik8" / "enwik8.zip")
        return train, test
    raise ValueError(f"name must be shakespeare, wikitext2 or enwik8, got {name!r}")


def read_enwik8(file: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Training, validation and test bytes of an enwik8 file, packed as published or not: 90, 5 and 5 hundredths.

    Raises:
        DataError: there is no such file, it is damaged, or it holds fewer than 100 bytes.
    """
    path = Path(file)
    if not path.is_file():
        raise DataError(f"{path} is not there: get enwik8.zip from https://mattmahoney.net/dc/enwik8.zip")
    with reading(path):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as bundle:
                data = bytes_of(bundle.read("enwik8"))
        else:
            data = bytes_of(path.read_bytes())
        if len(data) < 100:
            raise ValueError(f"it holds {len(data)} bytes, at least 100 are needed")
    a, b = len(data) * 90 // 100, len(data) * 95 // 100
    return data[:a], data[a:b], data[b:]


def byte_windows(data: Tensor, batch: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random windows and the same one byte later.

    Raises:
        ValueError: if the text is not longer than a window.
    """
    if len(data) <= length:
        raise ValueError(f"data must be longer than length={length}, got {len(data)} bytes")
    at = torch.randint(0, len(data) - length, (batch, 1), generator=generator) + torch.arange(length)
    return data[at].long(), data[at + 1].long()


def unigram_bits(train: Tensor, test: Tensor) -> float:
    """Bits a byte of the trivial answer: each byte as often as in the training text, plus one."""
    counts = torch.bincount(train.long(), minlength=256).double() + 1
    return float(-(counts / counts.sum()).log2()[test.long()].mean())


def bytes_of(data: bytes) -> Integer[Tensor, "n"]:
    """As a tensor of uint8."""
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())
