"""Set disjointness as a stream (section 3): what a reader must remember, by enumeration of small universes."""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = [
    "Reading",
    "disjoint_by_recall",
    "needed_states",
    "one_pass_bits",
    "read_once",
    "read_twice_stream",
    "stream_of",
    "subsets",
]


@dataclass(frozen=True)
class Reading:
    """What a streaming reader answered, and the most elements it held at once."""

    disjoint: bool
    held: int


def subsets(universe: int, size: int) -> Iterator[tuple[int, ...]]:
    """All sets of a size among 0..universe-1."""
    return itertools.combinations(range(universe), size)


def needed_states(universe: int, first: int, second: int) -> int:
    """States that any one-pass reader needs after a first set of size `first`, before a second of size `second`.

    Two first sets need different states if some second set is disjoint from the one and not from the other: the
    number of different rows of the communication matrix, counted by trying every pair.

    Raises:
        ValueError: if sizes do not fit, or there are more than 12 elements.
    """
    if not 1 <= universe <= 12 or not 1 <= first <= universe or not 1 <= second <= universe:
        raise ValueError(f"sizes must be in 1..universe and universe in 1..12, got {universe}, {first} and {second}")
    seconds = [frozenset(b) for b in subsets(universe, second)]
    return len({tuple(b.isdisjoint(a) for b in seconds) for a in subsets(universe, first)})


def one_pass_bits(universe: int, first: int) -> int:
    """Bits of state that a one-pass reader needs after the first set when the second may be any: log2 C(n, first).

    Counted: second sets of one element tell all first sets apart.

    Raises:
        ValueError: if sizes do not fit, or there are more than 12 elements.
    """
    return math.ceil(math.log2(needed_states(universe, first, 1)))


def stream_of(first: Iterable[int], second: Iterable[int], passes: int = 1) -> Iterator[int | None]:
    """The elements of both sets in turn, None after each set; `passes` times over."""
    sets = (tuple(first), tuple(second))
    for elements in sets * passes:
        yield from elements
        yield None


def read_once(stream: Iterable[int | None]) -> Reading:
    """The reader of one pass, A then B: all of the first set is held, whatever its size."""
    held: set[int] = set()
    part, met = 0, False
    for element in stream:
        if element is None:
            part += 1
        elif part == 0:
            held.add(element)
        else:
            met = met or element in held
    return Reading(not met, len(held))


def read_twice_stream(stream: Iterable[int | None]) -> Reading:
    """The reader of two passes, A B A B: it holds min(|A|, |B|) elements, and two counts.

    A is counted, B held as long as it is the smaller; then the second A is checked against B, or, if A was not the
    larger, held itself for the second B to be checked.
    """
    held: set[int] = set()
    sizes, part, most, met = [0, 0], 0, 0, False
    for element in stream:
        if element is None:
            part += 1
            continue
        if part < 2:
            sizes[part] += 1
        second_is_smaller = sizes[1] < sizes[0]
        if part == 1 and not second_is_smaller:
            held.clear()
        elif part == (1 if second_is_smaller else 2):
            held.add(element)
        elif part == (2 if second_is_smaller else 3):
            met = met or element in held
        most = max(most, len(held))
    return Reading(not met, most)


def disjoint_by_recall(first: Iterable[int], second: Iterable[int]) -> bool:
    """Disjointness asked of associative recall: A as keys with themselves as values, each element of B as a query.

    The sets are disjoint if no query finds a value: whoever recalls decides disjointness, so recall is as hard.
    """
    memory = {element: element for element in first}
    return all(memory.get(query) is None for query in second)
