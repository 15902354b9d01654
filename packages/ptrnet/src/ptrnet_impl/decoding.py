"""Answers of a network: greedy, beam search and sampling, under constraints (section 4; masks: section 4.4).

A constraint's mask stands before the softmax, so that probabilities are of what is allowed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["CONSTRAINTS", "Constraint", "Decoded", "allowed_steps", "beam_search", "greedy", "sample"]

CONSTRAINTS = ("permutation", "distinct")

ConstraintFunction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(points (rows, n, d), lengths (rows,), chosen (rows, t) with -1 behind the end) to allowed slots (rows, slots)"""

Constraint = str | ConstraintFunction | None
"""a name of `CONSTRAINTS`, a function, or none"""


@runtime_checkable
class Steps(Protocol):
    """What decoding needs of a network."""

    end_symbol: bool

    def first_input(self, memory: Any) -> Tensor:
        """Of the decoder's first step."""

    def chosen_input(self, memory: Any, index: Tensor) -> Tensor:
        """After these choices."""

    def step(self, memory: Any, state: Any, inputs: Tensor) -> tuple[Tensor, Any]:
        """Logits and next state."""


@dataclass(frozen=True)
class Decoded:
    """Answers, a row an instance."""

    indices: Int[Tensor, "batch m"]
    """points in their order; -1 is the end, and fills what is behind it"""
    lengths: Int[Tensor, "batch"]
    """points of each answer"""
    log_likelihood: Float[Tensor, "batch"]
    """log p of the answer, its end included"""
    finished: Bool[Tensor, "batch"]
    """whether it came to its end within the steps allowed"""
    all_indices: Int[Tensor, "batch width m"]
    """every answer of the beam, or drawn; the likeliest first"""
    all_log_likelihood: Float[Tensor, "batch width"]
    """-inf where there are fewer answers than the beam is wide"""

    def sequences(self) -> list[list[int]]:
        """The answers as lists."""
        return [row[:length] for row, length in zip(self.indices.tolist(), self.lengths.tolist(), strict=True)]


def _allowed(memory: Any, chosen: Tensor, constraint: Constraint, end_symbol: bool) -> Tensor:
    """Slots that a constraint lets be chosen next, (rows, slots)."""
    rows, n = memory.points.shape[:2]
    slots = n + int(end_symbol)
    if callable(constraint):
        allowed = constraint(memory.points, memory.lengths, chosen)
        if allowed.shape != (rows, slots) or allowed.dtype != torch.bool:
            raise ValueError(
                f"constraint must return booleans of shape {(rows, slots)}, got {allowed.dtype} {tuple(allowed.shape)}"
            )
        return allowed & memory.present
    visited = torch.zeros(rows, slots + 1, dtype=torch.bool, device=chosen.device)
    visited.scatter_(1, chosen.where(chosen >= 0, slots), True)
    return memory.present & ~_forbidden(visited[:, :slots], memory.lengths, constraint, end_symbol)


def _forbidden(visited: Tensor, lengths: Tensor, constraint: Constraint, end_symbol: bool) -> Tensor:
    """Slots that "permutation" or "distinct" forbids, given those visited; the end, if any, is the last."""
    if not end_symbol:
        return visited
    early = visited[..., :-1].sum(-1) < lengths.view(-1, *[1] * (visited.dim() - 2))
    end = early if constraint == "permutation" else torch.zeros_like(early)
    return torch.cat([visited[..., :-1], end[..., None]], -1)


def allowed_steps(
    memory: Any, targets: Int[Tensor, "batch m"], constraint: Constraint, end_symbol: bool
) -> Bool[Tensor, "batch m slots"]:
    """The slots that a constraint allows at each step of given sequences; steps behind an end are free.

    Raises:
        ValueError: if it forbids one of the targets, or its name is not known.
    """
    if isinstance(constraint, str) and constraint not in CONSTRAINTS:
        raise ValueError(f"constraint must be None, {', '.join(CONSTRAINTS)} or a function, got {constraint!r}")
    slots = memory.present.shape[1]
    batch, m = targets.shape
    if callable(constraint):
        steps = [_allowed(memory, targets[:, :i], constraint, end_symbol) for i in range(m)]
        allowed = torch.stack(steps, 1)
    else:
        one_hot = torch.zeros(batch, m, slots + 1, dtype=torch.long, device=targets.device)
        one_hot.scatter_(2, targets.where(targets >= 0, slots)[..., None], 1)
        before = (one_hot.cumsum(1) - one_hot)[..., :slots] > 0
        allowed = ~_forbidden(before, memory.lengths, constraint, end_symbol)
    ended = (targets < 0).long().cumsum(1) - (targets < 0).long() > 0
    if not end_symbol:
        ended = targets < 0
    allowed = allowed | ended[..., None]
    wanted = allowed.gather(2, targets.where(targets >= 0, slots - 1)[..., None])[..., 0] | ended
    if not bool(wanted.all()):
        row, at = (int(i) for i in (~wanted).nonzero()[0])
        raise ValueError(f"targets must obey the constraint, row {row} breaks it at step {at}")
    return allowed


def _log_probs(
    model: Steps,
    memory: Any,
    logits: Tensor,
    chosen: Tensor,
    constraint: Constraint,
    done: Tensor,
    *,
    refuse: bool = True,
) -> Tensor:
    """Log-probabilities of what is allowed; minus infinity everywhere for a row that is left with nothing to choose.

    Raises:
        ValueError: such a row, with `refuse`.
    """
    allowed = memory.present
    if constraint is not None:
        allowed = torch.where(done[:, None], memory.present, _allowed(memory, chosen, constraint, model.end_symbol))
        dead = ~allowed.any(1)
        if bool(dead.any()):
            if refuse:
                raise _nothing_left(chosen.shape[1], int(dead.nonzero()[0]))
            log_probs = logits.masked_fill(~(allowed | dead[:, None]), -math.inf).log_softmax(-1)
            return log_probs.masked_fill(dead[:, None], -math.inf)
    return logits.masked_fill(~allowed, -math.inf).log_softmax(-1)


def _nothing_left(step: int, row: int) -> ValueError:
    return ValueError(f"constraint leaves nothing to choose at step {step} of row {row}")


def _done(memory: Any, steps: int, end_symbol: bool) -> Tensor:
    """Rows that are complete after so many steps by their number of points alone."""
    if end_symbol:
        return torch.zeros_like(memory.lengths, dtype=torch.bool)
    return memory.lengths <= steps


def greedy(model: Steps, memory: Any, state: Any, *, constraint: Constraint, max_steps: int) -> Decoded:
    """The likeliest slot at each step."""
    return _one_at_a_time(model, memory, state, constraint, max_steps, lambda log_probs: log_probs.argmax(-1))


def sample(
    model: Steps,
    memory: Any,
    state: Any,
    *,
    draws: int,
    constraint: Constraint,
    max_steps: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Decoded:
    """Draw slots step by step, `draws` times for each instance; the likeliest answer comes first."""
    batch = len(memory.lengths)
    repeated = torch.arange(batch, device=memory.lengths.device).repeat_interleave(draws)

    def draw(log_probs: Tensor) -> Tensor:
        # the likeliest at 0, so that a small temperature makes the others -inf, not all of them
        below = log_probs - log_probs.max(-1, keepdim=True).values
        weights = (below.double() / temperature).softmax(-1)
        return torch.multinomial(weights, 1, generator=generator)[:, 0]

    drawn = _one_at_a_time(
        model, memory.rows(repeated), tuple(part[:, repeated] for part in state), constraint, max_steps, draw
    )
    scores, order = drawn.log_likelihood.view(batch, draws).sort(1, descending=True)
    indices = drawn.indices.view(batch, draws, -1).gather(1, order[..., None].expand(-1, -1, drawn.indices.shape[1]))
    finished = drawn.finished.view(batch, draws).gather(1, order)[:, 0]
    return _decoded(indices, scores, finished)


def _one_at_a_time(
    model: Steps,
    memory: Any,
    state: Any,
    constraint: Constraint,
    max_steps: int,
    choose: Callable[[Tensor], Tensor],
) -> Decoded:
    rows = len(memory.lengths)
    chosen = memory.lengths.new_empty(rows, 0)
    total = memory.encoded.new_zeros(rows)
    done = _done(memory, 0, model.end_symbol)
    inputs = model.first_input(memory)
    for step in range(max_steps):
        logits, state = model.step(memory, state, inputs)
        log_probs = _log_probs(model, memory, logits, chosen, constraint, done)
        slot = choose(log_probs)
        total = total + log_probs.gather(1, slot[:, None])[:, 0].masked_fill(done, 0)
        ends = done | ((slot == log_probs.shape[1] - 1) if model.end_symbol else torch.zeros_like(done))
        chosen = torch.cat([chosen, slot.masked_fill(ends, -1)[:, None]], 1)
        done = ends | _done(memory, step + 1, model.end_symbol)
        if bool(done.all()):
            break
        inputs = model.chosen_input(memory, chosen[:, -1:])[:, 0]
    return _decoded(chosen[:, None], total[:, None], done)


def beam_search(
    model: Steps, memory: Any, state: Any, *, width: int, constraint: Constraint, max_steps: int
) -> Decoded:
    """The `width` likeliest beginnings at each step; one that has ended keeps its place by its score."""
    batch, slots = memory.present.shape
    device = memory.lengths.device
    owner = torch.arange(batch, device=device).repeat_interleave(width)
    memory = memory.rows(owner)
    state = tuple(part[:, owner].contiguous() for part in state)
    chosen = memory.lengths.new_empty(batch * width, 0)
    # all beams of an instance are equal at first: only one of them counts
    total = memory.encoded.new_full((batch, width), -math.inf)
    total[:, 0] = 0
    done = _done(memory, 0, model.end_symbol)
    inputs = model.first_input(memory)
    for step in range(max_steps):
        logits, state = model.step(memory, state, inputs)
        idle = done | total.view(-1).isinf()
        log_probs = _log_probs(model, memory, logits, chosen, constraint, idle, refuse=False)
        # one more column: to stay as it is, which only those may that have ended
        log_probs = log_probs.masked_fill(done[:, None], -math.inf)
        stay = torch.where(done, 0.0, -math.inf).to(log_probs.dtype)[:, None]
        scores = total[..., None] + torch.cat([log_probs, stay], 1).view(batch, width, slots + 1)
        total, best = scores.view(batch, -1).topk(width, dim=1)
        if bool(total[:, 0].isinf().any()):  # no beam of an instance lives
            raise _nothing_left(step, int(total[:, 0].isinf().nonzero()[0]))
        parent = (torch.arange(batch, device=device)[:, None] * width + best // (slots + 1)).view(-1)
        slot = (best % (slots + 1)).view(-1)
        state = tuple(part[:, parent].contiguous() for part in state)
        ends = (slot == slots) | ((slot == slots - 1) if model.end_symbol else torch.zeros_like(done))
        chosen = torch.cat([chosen[parent], slot.masked_fill(ends, -1)[:, None]], 1)
        done = ends | _done(memory, step + 1, model.end_symbol)
        if bool((done | total.view(-1).isinf()).all()):
            break
        inputs = model.chosen_input(memory, chosen[:, -1:])[:, 0]
    return _decoded(chosen.view(batch, width, -1), total, done.view(batch, width)[:, 0])


def _decoded(indices: Tensor, scores: Tensor, finished: Tensor) -> Decoded:
    best = indices[:, 0]
    return Decoded(best, (best >= 0).sum(1), scores[:, 0], finished, indices, scores)
