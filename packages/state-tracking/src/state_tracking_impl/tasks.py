"""Formal languages, generated on the fly: parity, arithmetic modulo 5 without and with brackets, words of groups.

A task draws batches of sequences of mixed lengths, padded on the right; targets are -100 where none counts.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from .checks import check_positive
from .constructions import cycles

__all__ = ["IGNORED", "TASKS", "Task", "group_word", "mod_arith", "mod_arith_brackets", "parity", "permutations"]

IGNORED = -100
MODULUS = 5
LONGEST_BRACKETS = 2000

Batch = tuple[Int[Tensor, "batch length"], Int[Tensor, "batch length"]]


@dataclass(frozen=True)
class Task:
    """A formal language."""

    name: str
    vocab_size: int
    n_answers: int
    """what chance is one of"""
    shortest: int
    draw: Callable[[Sequence[int], torch.Generator | None], Batch]
    """of the sequences' lengths"""

    def sample(self, batch: int, lengths: tuple[int, int], generator: torch.Generator | None = None) -> Batch:
        """Inputs and targets of sequences with lengths drawn evenly from `lengths`, both ends included.

        Raises:
            ValueError: no sequence; lengths that are reversed or below the task's shortest.
        """
        low, high = lengths
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        if not self.shortest <= low <= high:
            raise ValueError(
                f"lengths of {self.name} must be a range from at least {self.shortest}, got {low} to {high}"
            )
        drawn = torch.randint(low, high + 1, (batch,), generator=generator)
        return self.draw(drawn.tolist(), generator)

    def scaled(self, accuracy: float) -> float:
        """(accuracy - chance) / (1 - chance): 0 is chance, 1 is perfect."""
        chance = 1 / self.n_answers
        return (accuracy - chance) / (1 - chance)


def parity(*, dense: bool = False) -> Task:
    """Is the number of ones odd? Bits are tokens 1 and 2, padding 0; a sequence of length s has s - 1 bits, and the
    last of them predicts the answer, token (sum mod 2) + 1.

    Args:
        dense: ask at every bit (the authors ask at the last only).
    """

    def draw(lengths: Sequence[int], generator: torch.Generator | None) -> Batch:
        longest = max(lengths) - 1
        bits = torch.randint(0, 2, (len(lengths), longest), generator=generator)
        place = torch.arange(longest)
        end = torch.tensor(lengths)[:, None] - 2
        counted = place <= end if dense else place == end
        answers = bits.cumsum(1) % 2 + 1
        return (bits + 1).masked_fill(place > end, 0), answers.masked_fill(~counted, IGNORED)

    return Task("parity", 3, 2, 2, draw)


def mod_arith(*, modulus: int = MODULUS) -> Task:
    """Expressions such as 2 + 3 * 4 - 1 = modulo 5, with the usual precedence; the answer is predicted at "=".

    Tokens: 0 padding, 1 to 4 are + - * =, from 5 on the digits. A sequence of length s has the most operands that fit:
    2 m - 1 tokens, "=" and the answer.
    """
    if modulus < 2:
        raise ValueError(f"modulus must be at least 2, got {modulus}")

    def draw(lengths: Sequence[int], generator: torch.Generator | None) -> Batch:
        operands = (torch.tensor(lengths) - 1) // 2
        most = int(operands.max())
        digits = torch.randint(0, modulus, (len(lengths), most), generator=generator)
        operators = torch.randint(0, 3, (len(lengths), most), generator=generator)
        inputs = torch.zeros(len(lengths), 2 * most, dtype=torch.long)
        inputs[:, 0::2], inputs[:, 1::2] = digits + 5, operators + 1
        place = torch.arange(2 * most)
        end = 2 * operands[:, None] - 1
        inputs = inputs.masked_fill(place == end, 4).masked_fill(place > end, 0)
        # total + term, where a product grows the term; what is behind the end is frozen
        total, term = torch.zeros_like(operands), digits[:, 0]
        for i in range(1, most):
            times = operators[:, i - 1] == 2
            grown = torch.where(times, term * digits[:, i], torch.where(operators[:, i - 1] == 1, -1, 1) * digits[:, i])
            live = i < operands
            total = torch.where(live & ~times, total + term, total) % modulus
            term = torch.where(live, grown, term) % modulus
        answer = (total + term) % modulus + 5
        targets = torch.where(place == end, answer[:, None], IGNORED)
        return inputs, targets

    return Task("arithmetic", modulus + 5, modulus, 3, draw)


def mod_arith_brackets(*, modulus: int = MODULUS, mult: bool = False) -> Task:
    """Nested expressions such as ((2 + (-3)) - 4) = modulo 5; the answer is predicted at "=".

    Tokens: 0 to 5 are + - * = ( ), then the digits, then padding (11 for modulus 5). An expression of n tokens is
    (left op right), split evenly at random; four tokens are (-d), three (d), two -d, one d.

    Args:
        mult: with products (the authors' generator has + and - only).
    """
    if modulus < 2:
        raise ValueError(f"modulus must be at least 2, got {modulus}")
    pad, signs = modulus + 6, "+-*" if mult else "+-"

    def draw(lengths: Sequence[int], generator: torch.Generator | None) -> Batch:
        if max(lengths) > LONGEST_BRACKETS:
            raise ValueError(f"lengths with brackets must be at most {LONGEST_BRACKETS}, got {max(lengths)}")
        # one draw for all: many small ones would take most of the time
        chances = iter(torch.rand(4 * sum(lengths), generator=generator).tolist())

        def choose(n: int) -> int:
            return min(int(next(chances) * n), n - 1)

        def expression(n: int) -> tuple[list[int], int]:
            if n == 1:
                digit = choose(modulus)
                return [digit + 6], digit
            if n == 2:
                digit = choose(modulus)
                return [1, digit + 6], -digit % modulus
            if n <= 4:
                inside, value = expression(n - 2)
                return [4, *inside, 5], value
            first = 1 + choose(n - 4)
            left, a = expression(first)
            right, b = expression(n - 3 - first)
            sign = choose(len(signs))
            value = (a + b, a - b, a * b)[sign] % modulus
            return [4, *left, sign, *right, 5], value

        longest = max(lengths) - 1
        inputs = torch.full((len(lengths), longest), pad)
        targets = torch.full((len(lengths), longest), IGNORED)
        for row, length in enumerate(lengths):
            tokens, value = expression(length - 2)
            inputs[row, : length - 1] = torch.tensor([*tokens, 3])
            targets[row, length - 2] = value + 6
        return inputs, targets

    return Task("brackets", modulus + 7, modulus, 3, draw)


@lru_cache(maxsize=8)
def permutations(n: int, kind: str = "S") -> list[tuple[int, ...]]:
    """The elements of S_n in the order of `itertools.permutations`, or ("A") the even ones."""
    found = list(itertools.permutations(range(n)))
    return [p for p in found if _moved(p)[1] % 2 == 0] if kind == "A" else found


def _moved(permutation: Sequence[int]) -> tuple[int, int]:
    """Symbols that move, and n minus the number of cycles."""
    return sum(i != p for i, p in enumerate(permutation)), len(permutation) - len(cycles(permutation))


def group_word(
    n: int = 5,
    kind: Literal["S", "A"] = "S",
    *,
    generators: Literal["all", "swaps", "3cycles"] = "all",
    tokens_per: int = 1,
) -> Task:
    """Words of the permutations of n symbols: the target at each element is the product so far, composed left to right.

    Args:
        kind: all permutations or the even ones.
        generators: what the elements are drawn from: all; "swaps": the identity and the swaps; "3cycles": those and
            the cycles of three (each symbol moves with at most two others).
        tokens_per: tokens an element: its own, and then fillers; the target stands at the last of them.

    Raises:
        ValueError: n outside 2 to 6; an alternating group generated by swaps.
    """
    if not 2 <= n <= 6:
        raise ValueError(f"n must be within 2 and 6 (n! tokens), got {n}")
    check_positive(tokens_per=tokens_per)
    limits = {"all": n, "swaps": 2, "3cycles": 3}
    if kind not in ("S", "A") or generators not in limits:
        raise ValueError(f"kind must be S or A and generators {', '.join(limits)}, got {kind!r} and {generators!r}")
    if (n, kind) == (2, "A"):
        raise ValueError("n must be at least 3 for kind A: A_2 has one element, and nothing to tell")
    if kind == "A" and generators == "swaps":
        raise ValueError("generators must be all or 3cycles for kind A: a swap is odd")
    elements = permutations(n, kind)
    number = {p: i for i, p in enumerate(elements)}
    drawn_from = torch.tensor([i for i, p in enumerate(elements) if _moved(p)[0] <= limits[generators]])
    # first the left one, then the right one
    table = torch.tensor([[number[tuple(b[a[i]] for i in range(n))] for b in elements] for a in elements])
    filler = len(elements)

    def draw(lengths: Sequence[int], generator: torch.Generator | None) -> Batch:
        longest = max(lengths)
        word = drawn_from[torch.randint(len(drawn_from), (len(lengths), longest), generator=generator)]
        products = word.clone()
        for t in range(1, longest):
            products[:, t] = table[products[:, t - 1], word[:, t]]
        beyond = torch.arange(longest) >= torch.tensor(lengths)[:, None]
        inputs = torch.full((len(lengths), longest, tokens_per), filler)
        targets = torch.full_like(inputs, IGNORED)
        inputs[..., 0] = word.masked_fill(beyond, filler)
        targets[..., -1] = products.masked_fill(beyond, IGNORED)
        return inputs.flatten(1), targets.flatten(1)

    return Task(f"{kind}{n} {generators}", filler + 1, len(elements), 1, draw)


TASKS: dict[str, Callable[[], Task]] = {
    "parity": parity,
    "arithmetic": mod_arith,
    "brackets": mod_arith_brackets,
    "s3-swaps": lambda: group_word(3, generators="swaps"),
    "s3": lambda: group_word(3),
    "s5": lambda: group_word(5),
    "s5-swaps": lambda: group_word(5, generators="swaps"),
    "s5-3cycles": lambda: group_word(5, generators="3cycles"),
    "s5-4tokens": lambda: group_word(5, tokens_per=4),
    "a5": lambda: group_word(5, "A"),
}
