"""Decay inside chunks: what the chunkwise form multiplies by `exp(log b_i - log b_j)`, without overflow.

Tensors here are `(chunks, groups, C, dim)`: `groups` is batch times heads. Each class answers the same seven
questions about one gate; with `i >= j` positions in one chunk and `d(i, j)` the decay from j to i, they are

    scores(a, b)            A_ij = sum_c a_ic b_jc d_c(i, j)             (a masked, decayed a b^T)
    mix(A, b)               out_ic = sum_j A_ij b_jc d_c(i, j)
    mix_transposed(A, a)    out_jc = sum_i A_ij a_ic d_c(i, j)
    from_start(x)           x_i times the decay from before the chunk to i      (Lambda in the paper)
    to_end(x)               x_j times the decay from j to the end of the chunk  (Gamma)
    total_k, total_v        the decay over the whole chunk, shaped for the state's key or value axis (gamma)

The forward pass and all five gradients are made of these.
"""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .parallel import LOWEST_LOG_GATE

# A product exp(x) exp(-y) with |x|, |y| <= half of this is exact to rounding in float32 and far from its
# range: exp(16) is 9e6. Blocks in which the gate decays by more are never factorised.
SAFE_RANGE = 32.0


@runtime_checkable
class Decay(Protocol):
    """The decay of one gate inside each chunk."""

    @property
    def total_k(self) -> Tensor | None: ...
    @property
    def total_v(self) -> Tensor | None: ...
    def scores(self, a: Tensor, b: Tensor) -> Tensor: ...
    def mix(self, weights: Tensor, b: Tensor) -> Tensor: ...
    def mix_transposed(self, weights: Tensor, a: Tensor) -> Tensor: ...
    def from_start(self, x: Tensor) -> Tensor: ...
    def to_end(self, x: Tensor) -> Tensor: ...


def chunk_decay(log_gate: Tensor | None, sub: int) -> Decay:
    """Choose the cheapest exact form for these gates: `log_gate` is `(chunks, groups, C, dim or 1)` or None."""
    if log_gate is None:
        return NoDecay()
    if log_gate.shape[-1] == 1:
        return ScalarDecay(log_gate)
    centred = centred_sum(log_gate)  # gates of minus infinity make it NaN, which is not mild
    if bool(centred[:, :, -1].amin() >= -SAFE_RANGE / 2):
        return MildDecay(centred)
    return StrongDecay(log_gate, sub)


def cumulative_sum(x: Tensor, *, inclusive: bool = True) -> Tensor:
    """Sum over this and earlier positions (or only earlier ones), as a product with a triangle of ones.

    Unlike a sum from which the position itself is subtracted, this never cancels digits.
    """
    size = x.shape[-2]
    return torch.ones(size, size, dtype=x.dtype, device=x.device).tril(0 if inclusive else -1) @ x


def centred_sum(x: Tensor) -> Tensor:
    """Inclusive sum along positions less half of the total: from about -total / 2 to total / 2.

    Summing with weights of 1/2 and -1/2 rather than subtracting afterwards keeps every partial sum small.
    """
    return (torch.ones(x.shape[-2], x.shape[-2], dtype=x.dtype, device=x.device).tril() - 0.5) @ x


def reverse_cumulative_sum(x: Tensor, *, inclusive: bool = True) -> Tensor:
    """Sum over this and later positions (or only later ones)."""
    size = x.shape[-2]
    return torch.ones(size, size, dtype=x.dtype, device=x.device).triu(0 if inclusive else 1) @ x


class NoDecay:
    """No gate: linear attention. `mix` expects weights that are zero above the diagonal, like `scores`."""

    total_k: Tensor | None = None
    total_v: Tensor | None = None

    def scores(self, a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.transpose(-1, -2)).tril_()

    def mix(self, weights: Tensor, b: Tensor) -> Tensor:
        return weights @ b

    def mix_transposed(self, weights: Tensor, a: Tensor) -> Tensor:
        return weights.transpose(-1, -2) @ a

    def from_start(self, x: Tensor) -> Tensor:
        return x

    def to_end(self, x: Tensor) -> Tensor:
        return x


class ScalarDecay:
    """One gate for all channels (RetNet, Mamba-2): the decay is a (C, C) matrix beside the scores."""

    def __init__(self, log_gate: Tensor) -> None:
        # One number a position: float64 sums cost nothing and their differences keep every digit.
        log_b = log_gate.double().clamp(min=LOWEST_LOG_GATE).cumsum(dim=-2)
        difference = log_b - log_b.transpose(-1, -2)
        future = torch.ones(difference.shape[-2:], dtype=torch.bool, device=log_b.device).triu(1)
        self.matrix = difference.masked_fill_(future, float("-inf")).to(log_gate.dtype).exp_()
        self._from_start = log_b.exp().to(log_gate.dtype)
        self._to_end = (log_b[:, :, -1:] - log_b).exp().to(log_gate.dtype)
        self.total_k = self.total_v = self._from_start[:, :, -1:]

    def scores(self, a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.transpose(-1, -2)).mul_(self.matrix).tril_()

    def mix(self, weights: Tensor, b: Tensor) -> Tensor:
        return (weights * self.matrix) @ b

    def mix_transposed(self, weights: Tensor, a: Tensor) -> Tensor:
        return (weights * self.matrix).transpose(-1, -2) @ a

    def from_start(self, x: Tensor) -> Tensor:
        return x * self._from_start

    def to_end(self, x: Tensor) -> Tensor:
        return x * self._to_end


class MildDecay:
    """A gate a channel that decays little over a chunk: one centred product is exact, no sub-blocks needed.

    With the origin at half the chunk's decay, `exp(log b_i - m)` and `exp(m - log b_j)` are both between
    `exp(-SAFE_RANGE / 2)` and `exp(SAFE_RANGE / 2)`. (Referred to the chunk's start, as K/B in the paper,
    the second could only grow.)
    """

    def __init__(self, centred: Tensor) -> None:
        self._up = centred.exp_()
        self._down = self._up.reciprocal()
        self._half = self._up[:, :, -1:]
        total = self._half.square()
        self.total_k, self.total_v = total.transpose(-1, -2), total

    def scores(self, a: Tensor, b: Tensor) -> Tensor:
        return ((a * self._up) @ (b * self._down).transpose(-1, -2)).tril_()

    def mix(self, weights: Tensor, b: Tensor) -> Tensor:
        return (weights @ (b * self._down)).mul_(self._up)

    def mix_transposed(self, weights: Tensor, a: Tensor) -> Tensor:
        return (weights.transpose(-1, -2) @ (a * self._up)).mul_(self._down)

    def from_start(self, x: Tensor) -> Tensor:
        return (x * self._up).mul_(self._half)

    def to_end(self, x: Tensor) -> Tensor:
        return (x * self._down).mul_(self._half)


class StrongDecay:
    """A gate a channel of any strength, by secondary chunking (section 4.3, listing 1).

    Between sub-blocks, decay is referred to the boundary between them, so that every exponent is a sum of
    non-positive numbers: nothing overflows, nothing cancels. On the diagonal a sub-block is factorised round
    its centre where that is exact, and elsewhere summed pair by pair with running products of gates.
    """

    def __init__(self, log_gate: Tensor, sub: int) -> None:
        self.sub = sub
        log_gate = self._split(log_gate.clamp(min=LOWEST_LOG_GATE))
        since = cumulative_sum(log_gate)
        block_total = since[..., -1:, :]  # (chunks, groups, blocks, 1, dim)
        self._since_block_start = since.exp()
        self._to_block_end = reverse_cumulative_sum(log_gate, inclusive=False).exp_()
        self._block = block_total.exp()
        self._up = centred_sum(log_gate).exp_()
        self._down = self._up.reciprocal()
        violating = (block_total < -SAFE_RANGE).any(dim=-1).squeeze(-1)
        self._exact = violating.nonzero(as_tuple=True)
        self._gate = log_gate[self._exact].exp_()  # (violating blocks, sub, dim)

        totals = block_total.squeeze(-2)
        self._before = cumulative_sum(totals, inclusive=False).exp_().unsqueeze(-2)
        self._after = reverse_cumulative_sum(totals, inclusive=False).exp_().unsqueeze(-2)
        total = totals.sum(dim=2, keepdim=True).exp_()  # (chunks, groups, 1, dim)
        self.total_k, self.total_v = total.transpose(-1, -2), total

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-2, (-1, self.sub))

    def _decayed_sources(self, b: Tensor) -> Tensor:
        """b times its decay to the end of its own sub-block; `_advance` carries it on from there."""
        return self._split(b) * self._to_block_end

    def scores(self, a: Tensor, b: Tensor) -> Tensor:
        chunks, groups, size, _ = a.shape
        n_blocks = size // self.sub
        out = a.new_zeros(chunks, groups, n_blocks, self.sub, size)
        rows = self._split(a) * self._since_block_start
        sources = self._decayed_sources(b)
        for i in range(1, n_blocks):
            sources[:, :, : i - 1] *= self._block[:, :, i - 1 : i]
            out[:, :, i, :, : i * self.sub] = rows[:, :, i] @ sources[:, :, :i].flatten(2, 3).mT
        a, b = self._split(a), self._split(b)
        diagonal = ((a * self._up) @ (b * self._down).mT).tril_()
        if self._gate.shape[0]:
            diagonal[self._exact] = _exact_scores(a[self._exact], b[self._exact], self._gate)
        for i in range(n_blocks):
            out[:, :, i, :, i * self.sub : (i + 1) * self.sub] = diagonal[:, :, i]
        return out.flatten(2, 3)

    def mix(self, weights: Tensor, b: Tensor) -> Tensor:
        weights, sub = self._split(weights), self.sub
        n_blocks = weights.shape[2]
        out = torch.empty_like(self._split(b))
        sources = self._decayed_sources(b)
        out[:, :, 0] = 0
        for i in range(1, n_blocks):
            sources[:, :, : i - 1] *= self._block[:, :, i - 1 : i]
            out[:, :, i] = weights[:, :, i, :, : i * sub] @ sources[:, :, :i].flatten(2, 3)
        out *= self._since_block_start
        diagonal, b = self._diagonal(weights), self._split(b)
        near = (diagonal @ (b * self._down)).mul_(self._up)
        if self._gate.shape[0]:
            near[self._exact] = _exact_mix(diagonal[self._exact], b[self._exact], self._gate)
        return (out + near).flatten(2, 3)

    def mix_transposed(self, weights: Tensor, a: Tensor) -> Tensor:
        weights, sub = self._split(weights), self.sub
        n_blocks = weights.shape[2]
        rows = self._split(a) * self._since_block_start
        out = torch.zeros_like(rows)
        for i in range(n_blocks - 1, 0, -1):
            out[:, :, :i] += (weights[:, :, i, :, : i * sub].mT @ rows[:, :, i]).unflatten(2, (i, sub))
            out[:, :, : i - 1] *= self._block[:, :, i - 1 : i]
        out *= self._to_block_end
        diagonal, a = self._diagonal(weights), self._split(a)
        near = (diagonal.mT @ (a * self._up)).mul_(self._down)
        if self._gate.shape[0]:
            near[self._exact] = _exact_mix_transposed(diagonal[self._exact], a[self._exact], self._gate)
        return (out + near).flatten(2, 3)

    def from_start(self, x: Tensor) -> Tensor:
        return (self._split(x) * self._since_block_start).mul_(self._before).flatten(2, 3)

    def to_end(self, x: Tensor) -> Tensor:
        return (self._split(x) * self._to_block_end).mul_(self._after).flatten(2, 3)

    def _diagonal(self, weights: Tensor) -> Tensor:
        blocks = [weights[:, :, i, :, i * self.sub : (i + 1) * self.sub].tril() for i in range(weights.shape[2])]
        return torch.stack(blocks, dim=2)


# The diagonal of a sub-block, pair by pair. The decay from t - d to t is a product of d gates, so going from
# d to d + 1 multiplies by one gate more: no exponentials, no (sub, sub, dim) array, and gates of 0 are exact.


def _exact_scores(a: Tensor, b: Tensor, gate: Tensor) -> Tensor:
    size = a.shape[1]
    out = a.new_zeros(a.shape[0], size, size)
    decayed = a.clone()
    for d in range(size):
        pairs = torch.einsum("mtc,mtc->mt", decayed[:, d:], b[:, : size - d])
        out.diagonal(-d, 1, 2).copy_(pairs)
        decayed[:, d + 1 :] *= gate[:, 1 : size - d]
    return out


def _exact_mix(weights: Tensor, b: Tensor, gate: Tensor) -> Tensor:
    size = b.shape[1]
    out = torch.zeros_like(b)
    decay = torch.ones_like(b)
    for d in range(size):
        out[:, d:] += weights.diagonal(-d, 1, 2)[..., None] * b[:, : size - d] * decay[:, d:]
        decay[:, d + 1 :] *= gate[:, 1 : size - d]
    return out


def _exact_mix_transposed(weights: Tensor, a: Tensor, gate: Tensor) -> Tensor:
    size = a.shape[1]
    out = torch.zeros_like(a)
    decayed = a.clone()
    for d in range(size):
        out[:, : size - d] += weights.diagonal(-d, 1, 2)[..., None] * decayed[:, d:]
        decayed[:, d + 1 :] *= gate[:, 1 : size - d]
    return out
