"""The survey's historical tasks, generated: each function draws a batch from a torch generator."""

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from .checks import check_positive

__all__ = [
    "DATE_SYMBOLS", "REBER", "adding", "anbn", "copy_memory", "dates", "embedded_reber", "encode", "letters",
    "ntm_copy", "parity", "reber_legal", "reverse_strings", "temporal_xor",
]  # fmt: skip

REBER = "BTSXPVE"
# state to (symbol, next state): Reber's grammar between B and E
_GRAPH = {0: "T1P2", 1: "S1X3", 2: "T2V4", 3: "X2S5", 4: "P3V5"}
_MONTHS = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
DATE_SYMBOLS = "-0123456789 ,abcdefghijklmnopqrstuvwxyz"


def adding(n: int, length: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """x (n, length, 2): numbers in [0, 1] and marks, one in either half; y (n,): the sum of the marked."""
    check_positive(n=n)
    if length < 2:
        raise ValueError(f"length must be at least 2, got {length}")
    values = torch.rand(n, length, generator=generator)
    first = torch.randint(length // 2, (n,), generator=generator)
    second = length // 2 + torch.randint(length - length // 2, (n,), generator=generator)
    marks = torch.zeros(n, length).scatter_(1, torch.stack([first, second], 1), 1.0)
    return torch.stack([values, marks], 2), (values * marks).sum(1)


def copy_memory(n: int, lag: int, generator: Generator, *, symbols: int = 8, items: int = 10) -> tuple[Tensor, Tensor]:
    """Ids (n, lag + 2 items): items, blanks (0), a cue (symbols + 1); targets: blanks, and the items at the end."""
    check_positive(n=n, lag=lag, symbols=symbols, items=items)
    word = torch.randint(1, symbols + 1, (n, items), generator=generator)
    x = torch.zeros(n, lag + 2 * items, dtype=torch.long)
    y = torch.zeros_like(x)
    x[:, :items], x[:, items + lag - 1], y[:, -items:] = word, symbols + 1, word
    return x, y


def ntm_copy(n: int, length: int, generator: Generator, *, width: int = 8) -> tuple[Tensor, Tensor]:
    """x (n, 2 length + 1, width + 1): bits, a delimiter on its own channel, blanks; y: the bits at the end."""
    check_positive(n=n, length=length, width=width)
    bits = torch.randint(2, (n, length, width), generator=generator).float()
    x = torch.zeros(n, 2 * length + 1, width + 1)
    x[:, :length, :width], x[:, length, width] = bits, 1.0
    return x, bits


def temporal_xor(triples: int, generator: Generator) -> Tensor:
    """Elman's bits (3 triples,): of each three the last is the XOR of the first two."""
    check_positive(triples=triples)
    bits = torch.randint(2, (triples, 2), generator=generator)
    return torch.cat([bits, bits.sum(1, keepdim=True) % 2], 1).flatten()


def letters(consonants: int, generator: Generator) -> str:
    """Elman's letter sequence: b, d, g at random, followed by a, ii, uuu."""
    check_positive(consonants=consonants)
    drawn = torch.randint(3, (consonants,), generator=generator).tolist()
    return "".join(("ba", "dii", "guuu")[i] for i in drawn)


def _reber(generator: Generator) -> str:
    state, text = 0, "B"
    while state != 5:
        edges = _GRAPH[state]
        at = 2 * int(torch.randint(2, (), generator=generator))
        text, state = text + edges[at], int(edges[at + 1])
    return text + "E"


def embedded_reber(n: int, generator: Generator) -> list[str]:
    """Strings of the embedded grammar: B, T or P, a Reber string, the same T or P, E."""
    check_positive(n=n)
    made = []
    for _ in range(n):
        frame = "TP"[int(torch.randint(2, (), generator=generator))]
        made.append(f"B{frame}{_reber(generator)}{frame}E")
    return made


def reber_legal(text: str) -> list[set[str]]:
    """For each prefix of an embedded Reber string, the symbols that may follow it.

    Raises:
        ValueError: if the text is none.
    """
    inner, legal, state = text[2:-2], [{"T", "P"}, {"B"}], 0
    whole = len(text) > 6 and text[0] == "B" and text[1] in "TP" and text[1] == text[-2] and text[-1] == "E"
    if not whole or inner[0] != "B":
        raise ValueError(f"text must be an embedded Reber string, got {text!r}")
    legal.append({"T", "P"})
    for symbol in inner[1:]:
        if state == 5:
            break
        edges = _GRAPH[state]
        if symbol not in edges[::2]:
            raise ValueError(f"text must be an embedded Reber string, got {text!r}")
        state = int(edges[edges.index(symbol) + 1])
        legal.append({"E"} if state == 5 else set(_GRAPH[state][::2]))
    return [*legal, {text[1]}, {"E"}]


def parity(n: int, length: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Bits (n, length) and whether their number so far is odd, (n, length)."""
    check_positive(n=n, length=length)
    bits = torch.randint(2, (n, length), generator=generator)
    return bits, bits.cumsum(1) % 2


def anbn(n: int, largest: int, generator: Generator) -> list[str]:
    """Strings a^k b^k, k from 1 to `largest`."""
    check_positive(n=n, largest=largest)
    return ["a" * k + "b" * k for k in torch.randint(1, largest + 1, (n,), generator=generator).tolist()]


def reverse_strings(n: int, length: int, generator: Generator, *, alphabet: str = "abcdefgh") -> list[tuple[str, str]]:
    """Pairs of a string of 1 to `length` letters and the same backwards."""
    check_positive(n=n, length=length)
    pairs = []
    for size in torch.randint(1, length + 1, (n,), generator=generator).tolist():
        word = "".join(alphabet[i] for i in torch.randint(len(alphabet), (size,), generator=generator).tolist())
        pairs.append((word, word[::-1]))
    return pairs


def dates(n: int, generator: Generator) -> list[tuple[str, str]]:
    """Pairs of a date as people write it, in one of three ways, and as ISO 8601 has it."""
    check_positive(n=n)
    drawn = torch.stack([torch.randint(high, (n,), generator=generator) for high in (200, 12, 28, 3)], 1)
    formats: Sequence[Callable[[int, int, int], str]] = (
        lambda y, m, d: f"{d} {_MONTHS[m - 1]} {y}",
        lambda y, m, d: f"{_MONTHS[m - 1]} {d}, {y}",
        lambda y, m, d: f"{d} {_MONTHS[m - 1][:3]} {y}",
    )
    return [
        (formats[kind](1900 + y, m + 1, d + 1), f"{1900 + y}-{m + 1:02}-{d + 1:02}") for y, m, d, kind in drawn.tolist()
    ]


def encode(text: str, symbols: str) -> Tensor:
    """Ids (length,).

    Raises:
        ValueError: names the first unknown symbol.
    """
    for symbol in text:
        if symbol not in symbols:
            raise ValueError(f"text must be made of {symbols!r}, got {symbol!r}")
    return torch.tensor([symbols.index(symbol) for symbol in text], dtype=torch.long)
