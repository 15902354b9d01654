"""Scores of the pointer: u_ij = v' tanh(W1 e_j + W2 d_i) for every decoder step i and every input j (equation 3).

Two forms. `pointer_scores_loop` is the formula, one pair at a time. `pointer_scores` is used by the models: the sum of
two vectors inside tanh is a product of two exponentials, tanh(a + b) = 1 - 2 / (1 + exp(2a) exp(2b)), so that the
exponentials are taken of n + m vectors and not of n m of them, and a piece of (m, n, width) at a time is enough, in
the forward and in the backward pass.
"""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

__all__ = ["PointerAttention", "masked_log_softmax", "pointer_scores", "pointer_scores_direct", "pointer_scores_loop"]

CPU_ELEMENTS = 2**18
"""numbers of a piece on a CPU: what its cache holds"""
GPU_ELEMENTS = 2**26

_LARGEST = {torch.float32: 20.0, torch.float64: 170.0}
"""beyond these, a product of exponentials could leave the range of the type"""


def pointer_scores_loop(
    keys: Float[Tensor, "batch n width"], queries: Float[Tensor, "batch m width"], v: Float[Tensor, "width"]
) -> Float[Tensor, "batch m n"]:
    """Equation 3 as it is written, a pair at a time, in float64: the oracle.

    Args:
        keys: W1 e_j.
        queries: W2 d_i.
    """
    batch, n, width = keys.shape
    scores = torch.zeros(batch, queries.shape[1], n, dtype=torch.float64)
    for b in range(batch):
        for i in range(queries.shape[1]):
            for j in range(n):
                for k in range(width):
                    scores[b, i, j] += v[k].double() * torch.tanh(keys[b, j, k].double() + queries[b, i, k].double())
    return scores


def pointer_scores_direct(
    keys: Float[Tensor, "batch n width"], queries: Float[Tensor, "batch m width"], v: Float[Tensor, "width"]
) -> Float[Tensor, "batch m n"]:
    """The same by one broadcast sum, which holds batch * m * n * width numbers (and autograd as many more)."""
    return torch.tanh(keys[:, None] + queries[:, :, None]) @ v


def pointer_scores(
    keys: Float[Tensor, "batch n width"],
    queries: Float[Tensor, "batch m width"],
    v: Float[Tensor, "width"],
    *,
    elements: int | None = None,
) -> Float[Tensor, "batch m n"]:
    """The same piece by piece, forward and backward: beyond the inputs nothing larger than a piece is kept.

    Args:
        elements: numbers of a piece; at least n * width are taken. Default: what suits the device.

    Raises:
        ValueError: if `elements` is not positive.
    """
    if elements is None:
        elements = CPU_ELEMENTS if keys.device.type == "cpu" else GPU_ELEMENTS
    if elements < 1:
        raise ValueError(f"elements must be at least 1, got {elements}")
    dtype = keys.dtype
    if dtype not in _LARGEST:  # half precision: exponentials need the range
        keys, queries, v = keys.float(), queries.float(), v.float()
    if keys.numel() == 0 or queries.numel() == 0:
        return pointer_scores_direct(keys, queries, v).to(dtype)
    scores: Tensor = _PointerScores.apply(keys, queries, v, elements)
    return scores.to(dtype)


class _PointerScores(torch.autograd.Function):
    """Saves keys, queries and v; the backward pass computes each piece anew."""

    @staticmethod
    def forward(ctx: Any, keys: Tensor, queries: Tensor, v: Tensor, elements: int) -> Tensor:
        largest = _LARGEST[keys.dtype]
        ctx.exponential = bool(keys.abs().max() <= largest) and bool(queries.abs().max() <= largest)
        ctx.elements = elements
        ctx.save_for_backward(keys, queries, v)
        scores = keys.new_empty(keys.shape[0], queries.shape[1], keys.shape[1])
        for at, reciprocal in _pieces(keys, queries, ctx.exponential, elements):
            scores[at] = torch.matmul(reciprocal, v)
        return v.sum() - 2 * scores

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        keys, queries, v = ctx.saved_tensors
        (grad,) = grads
        keys_grad, queries_grad, weighed = torch.zeros_like(keys), torch.zeros_like(queries), torch.zeros_like(v)
        for at, reciprocal in _pieces(keys, queries, ctx.exponential, ctx.elements):
            piece = grad[at]
            weighed += piece.reshape(1, -1).matmul(reciprocal.reshape(-1, len(v)))[0]
            # with r the reciprocal, 1 - tanh^2 = 4 r (1 - r)
            slope = torch.addcmul(reciprocal, reciprocal, reciprocal, value=-1).mul_(piece[..., None])
            keys_grad[at[0]] += slope.sum(1)
            queries_grad[at] = slope.sum(2)
        return keys_grad.mul_(4 * v), queries_grad.mul_(4 * v), grad.sum() - 2 * weighed, None


def _pieces(keys: Tensor, queries: Tensor, exponential: bool, elements: int) -> Any:
    """Pieces of 1 / (1 + exp(2 (key + query))) with their place: a slice of the batch and one of the queries."""
    batch, n, width = keys.shape
    m = queries.shape[1]
    rows = max(1, min(m, elements // (n * width)))
    together = max(1, min(batch, elements // (rows * n * width)))
    one = keys.new_ones(())
    exp_keys, exp_queries = ((2 * keys).exp(), (2 * queries).exp()) if exponential else (keys, queries)
    for b in range(0, batch, together):
        own = exp_keys[b : b + together, None]
        for i in range(0, m, rows):
            asked = exp_queries[b : b + together, i : i + rows, None]
            # the other branch is for scores so large that a product of exponentials would overflow
            piece = (
                torch.addcmul(one, own, asked).reciprocal_()
                if exponential
                else torch.add(own, asked).mul_(-2).sigmoid_()
            )
            yield (slice(b, b + together), slice(i, i + rows)), piece


def masked_log_softmax(
    logits: Float[Tensor, "batch m slots"], allowed: Bool[Tensor, "batch #m slots"]
) -> Float[Tensor, "batch m slots"]:
    """Log-probabilities over the slots that are allowed; -inf at the others (the mask stands before the softmax)."""
    return logits.masked_fill(~allowed, -math.inf).log_softmax(-1)


class PointerAttention(nn.Module):
    """v' tanh(W1 e + W2 d), with W1, W2 of width x width and v of width: 2 H^2 + H parameters.

    Args:
        width: H of both states.
        clip: None, or C: scores become C tanh(u) (later work; not in the paper).
        bias: whether the two linear maps have biases (re-implementations do; the paper does not).
    """

    def __init__(self, width: int, *, clip: float | None = None, bias: bool = False) -> None:
        super().__init__()
        if clip is not None and not clip > 0:
            raise ValueError(f"clip must be positive or None, got {clip}")
        self.key = nn.Linear(width, width, bias=bias)
        self.query = nn.Linear(width, width, bias=bias)
        self.v = nn.Parameter(torch.empty(width).uniform_(-0.08, 0.08))
        self.clip = clip

    def forward(
        self,
        keys: Float[Tensor, "batch n width"],
        states: Float[Tensor, "batch m width"],
    ) -> Float[Tensor, "batch m n"]:
        """Scores of decoder states against keys that `key` has made of encoder states."""
        scores = pointer_scores(keys, self.query(states), self.v)
        return scores if self.clip is None else self.clip * torch.tanh(scores)
