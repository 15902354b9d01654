"""The theorems as modules with exact weights: parity, permutations, addition modulo m, any finite automaton.

All compute in float64 by the package's own scans; a state continues a sequence. States are decoded by a lookup (the
decoder dec(H_t, x_t) of equation 1), which also takes off rounding.
"""

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from .checks import check_token_ids
from .scan import linear_scan, matrix_scan

__all__ = [
    "AutomatonLRNN",
    "HouseholderProduct",
    "ModularAddition",
    "ParityLRNN",
    "automaton_lrnn",
    "cycles",
    "modm_two_layer",
    "parity_lrnn",
    "permutation_householder",
    "run_automaton",
]

Ids = Integer[Tensor, "batch length"]


class ParityLRNN(nn.Module):
    """h_t = a(x_t) h_{t-1}, h_0 = 1, with a(0) = 1 and a(1) = `eigenvalue`; odd where the decoder finds h_t below
    `threshold`.

    With -1 it is parity for any length (the other side of theorem 1). With any eigenvalue in [0, 1] h is monotone in
    the number of ones: no threshold can tell 1^t from 1^(t+1) for all t.
    """

    eigenvalues: Tensor

    def __init__(self, eigenvalue: float = -1.0, threshold: float = 0.0) -> None:
        super().__init__()
        if not -1 <= eigenvalue <= 1:
            raise ValueError(f"eigenvalue must be in [-1, 1], got {eigenvalue}")
        self.threshold = threshold
        self.register_buffer("eigenvalues", torch.tensor([1.0, eigenvalue], dtype=torch.float64))

    def hidden(self, bits: Ids, state: Float[Tensor, " batch"] | None = None) -> Float[Tensor, "batch length"]:
        """h_t."""
        check_token_ids(bits, 2, "bits")
        a = self.eigenvalues[bits.long()]
        return linear_scan(a, torch.zeros_like(a), torch.ones_like(a[:, 0]) if state is None else state)

    def forward(self, bits: Ids, state: Float[Tensor, " batch"] | None = None) -> tuple[Ids, Float[Tensor, " batch"]]:
        """Parity of the bits so far, and the state."""
        h = self.hidden(bits, state)
        return (h < self.threshold).long(), h[:, -1]


def parity_lrnn(eigenvalue: float = -1.0, *, threshold: float = 0.0) -> ParityLRNN:
    """One layer that solves parity at any length (theorem 1), or, with another eigenvalue, one that does not."""
    return ParityLRNN(eigenvalue, threshold)


def cycles(permutation: Sequence[int]) -> list[list[int]]:
    """The cycles of a permutation, fixed points included.

    Raises:
        ValueError: it is no permutation of 0 to n - 1.
    """
    try:
        perm = [operator.index(p) for p in permutation]
    except TypeError as error:
        raise ValueError(f"permutation must hold each of 0 to n - 1 once: {error}") from error
    if not perm or sorted(perm) != list(range(len(perm))):
        raise ValueError(f"permutation must hold each of 0 to n - 1 once, got {perm[:12]}")
    seen: set[int] = set()
    found = []
    for start in range(len(perm)):
        if start in seen:
            continue
        cycle, at = [], start
        while at not in seen:
            seen.add(at)
            cycle.append(at)
            at = perm[at]
        found.append(cycle)
    return found


class HouseholderProduct(nn.Module):
    """The product of I - beta_i u_i u_i^T, the first row of `vectors` applied first."""

    vectors: Tensor
    beta: Tensor

    def __init__(self, vectors: Float[Tensor, "count n"], beta: Float[Tensor, " count"]) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors)
        self.register_buffer("beta", beta)

    def forward(self, h: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        """Apply it."""
        for u, beta in zip(self.vectors, self.beta, strict=True):
            h = h - beta * (h @ u)[..., None] * u
        return h

    def matrix(self) -> Float[Tensor, "n n"]:
        """As a matrix."""
        return self(torch.eye(self.vectors.shape[1], dtype=self.vectors.dtype)).T


def permutation_householder(permutation: Sequence[int]) -> HouseholderProduct:
    """A permutation of n symbols with c cycles as exactly n - c reflections (theorem 3).

    The matrix P has P e_i = e_permutation[i]; a cycle of length l is l - 1 swaps, a swap I - 2 u u^T with
    u = (e_i - e_j) / sqrt 2.

    Raises:
        ValueError: it is no permutation.
    """
    n, vectors = len(permutation), []
    for cycle in cycles(permutation):
        # swapping c0 with c1, then c0 with c2, and so on, takes each c_i to c_{i+1}
        for other in cycle[1:]:
            u = torch.zeros(n, dtype=torch.float64)
            u[cycle[0]], u[other] = math.sqrt(0.5), -math.sqrt(0.5)
            vectors.append(u)
    stacked = torch.stack(vectors) if vectors else torch.zeros(0, n, dtype=torch.float64)
    return HouseholderProduct(stacked, torch.full((len(vectors),), 2.0, dtype=torch.float64))


class ModularAddition(nn.Module):
    """Adds its tokens modulo m by two layers of reflections (section 4).

    Layer 1 is the parity p of the number of steps. In layer 2 the total T stands as the angle (-1)^p 2 pi T / m of a
    vector of the plane: a step adds d by the reflection that maps the angle s 2 pi T / m to -s 2 pi (T + d) / m, about
    the axis -s pi d / m, s the sign before the step. Two such reflections make a rotation, whose eigenvalues are not
    real; no layer of one reflection has any.
    """

    def __init__(self, m: int) -> None:
        super().__init__()
        if isinstance(m, bool) or not isinstance(m, int) or m < 2:
            raise ValueError(f"m must be an integer of at least 2, got {m!r}")
        self.m = m

    def forward(self, tokens: Ids, state: tuple[Tensor, Tensor] | None = None) -> tuple[Ids, tuple[Tensor, Tensor]]:
        """Sums modulo m so far; tokens from 0 to m - 1."""
        check_token_ids(tokens, self.m, "tokens")
        tokens = tokens.long()
        batch = tokens.shape[0]
        flips = -torch.ones(tokens.shape, dtype=torch.float64, device=tokens.device)
        one = flips.new_ones(batch)
        plane = torch.stack([one, 0 * one], -1)[..., None]
        sign_before, vector = (one, plane) if state is None else state
        sign = linear_scan(flips, torch.zeros_like(flips), sign_before)
        axis = torch.cat([sign_before[:, None], sign[:, :-1]], 1) * -math.pi * tokens / self.m
        # the reflection about an axis is I - 2 u u^T with u across it
        u = torch.stack([-axis.sin(), axis.cos()], -1)
        a = torch.eye(2, dtype=torch.float64, device=tokens.device) - 2 * u[..., :, None] * u[..., None, :]
        h = matrix_scan(a, torch.zeros_like(a[..., :1]), vector)
        angle = sign * torch.atan2(h[..., 1, 0], h[..., 0, 0])
        total = torch.round(angle * self.m / (2 * math.pi)).long() % self.m
        return total, (sign[:, -1], h[:, -1])


def modm_two_layer(m: int) -> ModularAddition:
    """Addition modulo m by two layers; on bits, counting modulo m."""
    return ModularAddition(m)


Table = Sequence[Sequence[int]]


def _checked_table(table: Table) -> list[list[int]]:
    try:
        rows = [[operator.index(value) for value in row] for row in table]
    except TypeError as error:
        raise ValueError(f"table must hold the number of a state for each state and symbol: {error}") from error
    if not rows or not rows[0]:
        raise ValueError("table must have at least one state and one symbol")
    for state, row in enumerate(rows):
        if len(row) != len(rows[0]):
            raise ValueError(f"table has a hole: state {state} has {len(row)} entries, state 0 has {len(rows[0])}")
        for symbol, value in enumerate(row):
            if not 0 <= value < len(rows):
                raise ValueError(
                    f"table has a hole: state {state}, symbol {symbol} leads to {value}; "
                    f"states are 0 to {len(rows) - 1}"
                )
    return rows


def _check_start(start: int, states: int) -> None:
    if not isinstance(start, int) or not 0 <= start < states:
        raise ValueError(f"start must be within 0 and {states - 1}, got {start!r}")


def run_automaton(table: Table, ids: Ids, start: int = 0) -> Ids:
    """States after each symbol, by looking them up one after the other (the oracle).

    Args:
        table: `table[state][symbol]` is the next state.
    """
    rows = torch.tensor(_checked_table(table), device=ids.device)
    check_token_ids(ids, rows.shape[1], "ids")
    _check_start(start, len(rows))
    state = torch.full((ids.shape[0],), start, device=ids.device)
    states = []
    for symbol in ids.long().unbind(1):
        state = rows[state, symbol]
        states.append(state)
    return torch.stack(states, 1)


class _Level:
    """One layer of the cascade: in each context (what lower layers hold, and the symbol) a permutation or a reset."""

    def __init__(self, size: int, start: int) -> None:
        self.size, self.start = size, start
        self.maps: dict[tuple[int, ...], int] = {}
        """context to the index of a map"""
        self.kinds: list[tuple[int, ...]] = []
        """distinct maps: images of 0 to size - 1"""

    def set(self, context: tuple[int, ...], images: tuple[int, ...]) -> None:
        if images not in self.kinds:
            self.kinds.append(images)
        self.maps[context] = self.kinds.index(images)


class AutomatonLRNN(nn.Module):
    """A finite automaton as a cascade of linear recurrent layers (theorem 4; Krohn and Rhodes by Zeiger's cover).

    Layer l holds a one-hot vector; a symbol multiplies it by a permutation matrix, a product of reflections, or resets
    it: A = 0 (a product of projections, beta = 1) and B = a unit vector. Which of them depends on the symbol and on
    what the layers below held one step before, which a short convolution of width 2 hands on.

    The first layer names a state that the automaton is not in. A symbol that permutes the states permutes these names;
    any other misses some state r, and resets the name to r. What is left is an automaton with one state less, and so
    on, until all maps of what is left are permutations or resets.
    """

    def __init__(self, table: Table, start: int = 0) -> None:
        super().__init__()
        rows = _checked_table(table)
        self.n_states, self.n_symbols = len(rows), len(rows[0])
        if self.n_states > 8:
            raise ValueError(f"table must have at most 8 states (contexts grow as n!), got {self.n_states}")
        _check_start(start, self.n_states)
        # a cover: contexts (held by the layers so far) to the states that are left, in order
        covers: dict[tuple[int, ...], list[int]] = {(): list(range(self.n_states))}
        levels: list[_Level] = []
        held: tuple[int, ...] = ()
        symbols = range(self.n_symbols)
        following: dict[tuple[tuple[int, ...], int], tuple[int, ...]] = {((), x): () for x in symbols}
        while True:
            size = len(next(iter(covers.values())))
            maps = {
                (context, x): tuple(covers[following[context, x]].index(rows[state][x]) for state in covers[context])
                for context in covers
                for x in symbols
            }
            if all(len(set(images)) in (1, size) for images in maps.values()):
                level = _Level(size, covers[held].index(start))
                for (context, x), images in maps.items():
                    level.set((*context, x), images)
                levels.append(level)
                break
            missing = next(i for i, state in enumerate(covers[held]) if state != start)
            level = _Level(size, missing)
            deeper: dict[tuple[int, ...], list[int]] = {}
            after: dict[tuple[tuple[int, ...], int], tuple[int, ...]] = {}
            for context, states in covers.items():
                for name in range(size):
                    deeper[(*context, name)] = states[:name] + states[name + 1 :]
                for x in symbols:
                    images = maps[context, x]
                    if len(set(images)) < size:
                        missed = next(i for i in range(size) if i not in images)
                        images = (missed,) * size
                    level.set((*context, x), images)
                    for name in range(size):
                        after[(*context, name), x] = (*following[context, x], images[name])
            levels.append(level)
            covers, following, held = deeper, after, (*held, missing)
        self.levels = levels
        self.covers = covers
        for i, one in enumerate(levels):
            a, b = zip(*(_affine(images) for images in one.kinds), strict=True)
            self.register_buffer(f"a{i}", torch.stack(a))
            self.register_buffer(f"b{i}", torch.stack(b))
            # contexts as one number, most significant layer first
            sizes = [lower.size for lower in levels[:i]] + [self.n_symbols]
            index = torch.full((math.prod(sizes),), -1)
            for context, kind in one.maps.items():
                index[_number(context, sizes)] = kind
            self.register_buffer(f"index{i}", index)
        sizes = [one.size for one in levels]
        decode = torch.full((math.prod(sizes),), -1)
        for context, states in covers.items():
            for last, state in enumerate(states):
                decode[_number((*context, last), sizes)] = state
        self.register_buffer("decode", decode)

    @property
    def n_layers(self) -> int:
        """Depth of the cascade."""
        return len(self.levels)

    @property
    def reflections(self) -> int:
        """The most reflections that a transition takes."""
        return max(
            (
                len(images) - len(cycles(images))
                for level in self.levels
                for images in level.kinds
                if len(set(images)) == level.size
            ),
            default=0,
        )

    def forward(self, ids: Ids, state: list[Tensor] | None = None) -> tuple[Ids, list[Tensor]]:
        """States of the automaton after each symbol, and the layers' own states.

        Raises:
            ValueError: a symbol that the table has not.
        """
        check_token_ids(ids, self.n_symbols, "ids")
        ids = ids.long()
        before_all: list[Tensor] = []
        now_all: list[Tensor] = []
        last: list[Tensor] = []
        buffers: dict[str, Any] = dict(self.named_buffers())
        for i, level in enumerate(self.levels):
            context = torch.zeros_like(ids)
            for lower, held in zip(self.levels[:i], before_all, strict=True):
                context = context * lower.size + held
            kind = buffers[f"index{i}"][context * self.n_symbols + ids]
            if state is None:
                start = torch.zeros(len(ids), level.size, 1, dtype=torch.float64, device=ids.device)
                start[:, level.start] = 1
            else:
                start = state[i]
            h = matrix_scan(buffers[f"a{i}"][kind], buffers[f"b{i}"][kind], start)
            now = h[..., 0].argmax(-1)
            before_all.append(torch.cat([start[:, :, 0].argmax(-1)[:, None], now[:, :-1]], 1))
            now_all.append(now)
            last.append(h[:, -1])
        total = torch.zeros_like(ids)
        for level, now in zip(self.levels, now_all, strict=True):
            total = total * level.size + now
        return buffers["decode"][total], last


def _affine(images: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """A and B of a layer whose one-hot state goes where the images say."""
    n = len(images)
    write = torch.zeros(n, 1, dtype=torch.float64)
    if len(set(images)) == n:
        return permutation_householder(images).matrix(), write
    eye = torch.eye(n, dtype=torch.float64)
    write[images[0]] = 1
    return HouseholderProduct(eye, torch.ones(n, dtype=torch.float64)).matrix(), write


def _number(digits: Sequence[int], sizes: Sequence[int]) -> int:
    number = 0
    for digit, size in zip(digits, sizes, strict=True):
        number = number * size + digit
    return number


def automaton_lrnn(table: Table, start: int = 0) -> AutomatonLRNN:
    """Any finite automaton of at most 8 states, given as `table[state][symbol]`, as linear recurrent layers.

    Raises:
        ValueError: a hole in the table, too many states, a start that is no state.
    """
    return AutomatonLRNN(table, start)
