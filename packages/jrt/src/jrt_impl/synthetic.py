"""Set disjointness, associative recall and templated documents, read once or twice (section 3).

`sample` of each draws token ids and targets of the same shape: the answer where one is asked for, -100 elsewhere.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["MQAR", "SetDisjointness", "TemplatedDocuments"]


def _choose(rows: int, low: int, high: int, count: int, generator: torch.Generator) -> Tensor:
    """`count` different numbers of low..high-1 in each row."""
    return torch.rand(rows, high - low, generator=generator).argsort(1)[:, :count] + low


def _check_passes(passes: int) -> None:
    if passes not in (1, 2):
        raise ValueError(f"passes must be 1 or 2, got {passes}")


@dataclass(frozen=True)
class SetDisjointness:
    """[1] first set [2] second set [3] -> the one token in both; `passes=2` repeats the sets before the [3].

    Raises:
        ValueError: if the vocabulary has no room for both sets.
    """

    first: int = 4
    second: int = 16
    vocab_size: int = 128
    passes: int = 1

    def __post_init__(self) -> None:
        _check_passes(self.passes)
        if min(self.first, self.second) < 1:
            raise ValueError(f"sets must have at least 1 token, got {self.first} and {self.second}")
        if self.vocab_size < 4 + self.first + self.second:
            raise ValueError(f"vocab_size must be at least {4 + self.first + self.second}, got {self.vocab_size}")

    def sample(
        self, count: int, *, generator: torch.Generator
    ) -> tuple[Int[Tensor, "count length"], Int[Tensor, "count length"]]:
        """Sequences that end with [3], and the shared token as its target."""
        tokens = _choose(count, 4, self.vocab_size, self.first + self.second, generator)
        a, b = tokens[:, : self.first], tokens[:, self.first :].clone()
        rows = torch.arange(count)
        answer = a[rows, torch.randint(self.first, (count,), generator=generator)]
        b[rows, torch.randint(self.second, (count,), generator=generator)] = answer
        mark = torch.ones(count, 1, dtype=torch.long)
        body = torch.cat([mark, a, 2 * mark, b], 1)
        ids = torch.cat([body] * self.passes + [3 * mark], 1)
        targets = torch.full_like(ids, -100)
        targets[:, -1] = answer
        return ids, targets


@dataclass(frozen=True)
class MQAR:
    """Multi-query associative recall: pairs of key and value, read once or twice, [1], then keys: which values?

    Raises:
        ValueError: if the vocabulary has no room for the pairs, or more is asked than was said.
    """

    pairs: int = 8
    queries: int = 4
    vocab_size: int = 64
    passes: int = 1

    def __post_init__(self) -> None:
        _check_passes(self.passes)
        if not 1 <= self.pairs <= self.vocab_size // 2 - 2:
            raise ValueError(f"pairs must be in 1..{self.vocab_size // 2 - 2}, got {self.pairs}")
        if not 1 <= self.queries <= self.pairs:
            raise ValueError(f"queries must be in 1..{self.pairs}, got {self.queries}")

    def sample(
        self, count: int, *, generator: torch.Generator
    ) -> tuple[Int[Tensor, "count length"], Int[Tensor, "count length"]]:
        """Sequences that end with the keys asked for, and their values as targets."""
        half = self.vocab_size // 2
        keys = _choose(count, 2, half, self.pairs, generator)
        values = _choose(count, half, self.vocab_size, self.pairs, generator)
        asked = _choose(count, 0, self.pairs, self.queries, generator)
        body = torch.stack([keys, values], 2).flatten(1)
        mark = torch.ones(count, 1, dtype=torch.long)
        ids = torch.cat([body] * self.passes + [mark, keys.gather(1, asked)], 1)
        targets = torch.full_like(ids, -100)
        targets[:, -self.queries :] = values.gather(1, asked)
        return ids, targets


@dataclass(frozen=True)
class TemplatedDocuments:
    """Facts, "The {attribute} of {entity} is {value}.", then questions that stop after "is": a word is a token.

    Raises:
        ValueError: if there are more facts than pairs of attribute and entity, or more questions than facts.
    """

    facts: int = 8
    questions: int = 1
    attributes: int = 8
    entities: int = 8
    values: int = 32
    passes: int = 1

    def __post_init__(self) -> None:
        _check_passes(self.passes)
        if not 1 <= self.facts <= self.attributes * self.entities:
            raise ValueError(f"facts must be in 1..{self.attributes * self.entities}, got {self.facts}")
        if not 1 <= self.questions <= self.facts:
            raise ValueError(f"questions must be in 1..{self.facts}, got {self.questions}")

    @property
    def vocab_size(self) -> int:
        """Words of the templates (the, of, is, full stop) and all names."""
        return 4 + self.attributes + self.entities + self.values

    def sample(
        self, count: int, *, generator: torch.Generator
    ) -> tuple[Int[Tensor, "count length"], Int[Tensor, "count length"]]:
        """Documents with their questions at the end, and the values as targets of each "is"."""
        pair = _choose(count, 0, self.attributes * self.entities, self.facts, generator)
        attribute, entity = 4 + pair // self.entities, 4 + self.attributes + pair % self.entities
        value = torch.randint(self.values, pair.shape, generator=generator) + 4 + self.attributes + self.entities
        the, of, is_, stop = (torch.full_like(value, i) for i in range(4))
        lines = torch.stack([the, attribute, of, entity, is_, value, stop], 2)
        asked = _choose(count, 0, self.facts, self.questions, generator)
        questions = lines[torch.arange(count)[:, None], asked]
        ids = torch.cat([lines.flatten(1)] * self.passes + [questions[:, :, :5].flatten(1)], 1)
        targets = torch.full_like(ids, -100)
        targets[:, -5 * self.questions :][:, 4::5] = questions[:, :, 5]
        return ids, targets
