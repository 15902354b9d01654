"""The chunkwise form (equation 6) and its closed-form gradient: matrix products, linear in length."""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor

from .checks import Operands, check_chunk, check_operands
from .decay import Decay, chunk_decay, cumulative_sum, reverse_cumulative_sum

__all__ = ["gla_chunk"]

Schedule = Literal["materialise", "sequential"]
Backend = Literal["auto", "torch", "triton"]


def gla_chunk(
    q: Float[Tensor, "batch length heads dk"],
    k: Float[Tensor, "batch length heads dk"],
    v: Float[Tensor, "batch length heads dv"],
    log_alpha: Float[Tensor, "#batch #length #heads #dk"] | None,
    initial_state: Float[Tensor, "batch heads dk dv"] | None = None,
    output_final_state: bool = False,
    *,
    log_beta: Float[Tensor, "#batch #length #heads #dv"] | None = None,
    chunk: int = 64,
    sub: int = 16,
    schedule: Schedule = "materialise",
    backend: Backend = "auto",
    validate: bool = True,
) -> tuple[Float[Tensor, "batch length heads dv"], Float[Tensor, "batch heads dk dv"] | None]:
    """Gated linear attention in chunks of `chunk` positions, sub-blocks of `sub` (sections 4.2 to 4.4).

    The same values and first gradients as `gla_recurrent`, in O(length * chunk) work and linear memory.
    `schedule="materialise"` computes all chunks at once and holds one state a chunk while it runs;
    `"sequential"` goes chunk by chunk and holds one state in all (section 3.3), slower, and with float32
    rounding of the size of the other gradients in the gate's. Neither stores states for the backward pass,
    which recomputes them. Gates, decays and accumulation are float32 or better whatever
    the dtype of `q`. `backend="auto"` takes the Triton kernels on a CUDA device where they apply.

    Arguments, gates and scale are those of `gla_recurrent`. Raises ValueError for operands that do not fit
    and RuntimeError when a second derivative is asked for; `validate=False` skips the checks that read values.
    """
    check_chunk(chunk, sub)
    if schedule not in ("materialise", "sequential"):
        raise ValueError(f"schedule must be 'materialise' or 'sequential', got {schedule!r}")
    operands = check_operands(q, k, v, log_alpha, log_beta, initial_state, values=validate)
    if _use_triton(backend, operands.q, operands.log_beta, chunk, sub):
        from .kernels_triton import gla_chunk_triton

        output, state = gla_chunk_triton(*operands[:4], operands.initial_state, chunk=chunk, sub=sub)
    else:
        output, state = _ChunkwiseGLA.apply(*operands, chunk, sub, schedule == "sequential")
    return output, state if output_final_state else None


def _use_triton(backend: str, q: Tensor, log_beta: Tensor | None, chunk: int, sub: int) -> bool:
    if backend not in ("auto", "torch", "triton"):
        raise ValueError(f"backend must be 'auto', 'torch' or 'triton', got {backend!r}")
    if backend == "triton" and log_beta is not None:
        raise ValueError("backend must be 'auto' or 'torch' with log_beta: the kernels have no outer gate")
    if backend != "auto":
        return backend == "triton"
    powers_of_two = not (sub & (sub - 1) or chunk & (chunk - 1))
    fits = log_beta is None and q.dtype != torch.float64 and sub >= 16 and powers_of_two
    return q.is_cuda and fits and importlib.util.find_spec("triton") is not None


@dataclass(frozen=True)
class _Segment:
    """Some consecutive chunks, cut out of the sequence and laid out `(chunks, batch * heads, C, dim)`."""

    q: Tensor
    k: Tensor
    v: Tensor
    decay_k: Decay
    decay_v: Decay
    k_to_end: Tensor
    v_to_end: Tensor

    def states(self, first: Tensor) -> Tensor:
        """`S_[i+1] = diag(gamma) S_[i] + (K * Gamma)^T V`: `first`, then the state after each chunk."""
        states = first.new_empty(self.q.shape[0] + 1, *first.shape)
        states[0] = first
        _product(self.k_to_end.mT, self.v_to_end, out=states[1:])
        for i in range(self.q.shape[0]):
            self._decay_into(states[i + 1], states[i], i)
        return states

    def state_gradients(self, do_from_start: Tensor, last: Tensor) -> Tensor:
        """`dS_[i] = diag(gamma) dS_[i+1] + (Q * Lambda)^T dO`: from before each chunk, then `last`."""
        grads = last.new_empty(self.q.shape[0] + 1, *last.shape)
        grads[-1] = last
        _product(self.decay_k.from_start(self.q).mT, do_from_start, out=grads[:-1])
        for i in reversed(range(self.q.shape[0])):
            self._decay_into(grads[i], grads[i + 1], i)
        return grads

    def _decay_into(self, target: Tensor, state: Tensor, i: int) -> None:
        """Add the state, decayed over chunk i: the only work that goes from chunk to chunk."""
        total_k, total_v = self.decay_k.total_k, self.decay_v.total_v
        if total_v is not None:
            state = state * total_v[i]
        if total_k is None:
            target += state
        else:
            target.addcmul_(total_k[i], state)

    def decayed(self, states: Tensor) -> Tensor:
        """The state before each chunk as far as it is left after the chunk."""
        for total in (self.decay_k.total_k, self.decay_v.total_v):
            states = states if total is None else total * states
        return states

    def scores(self) -> Tensor:
        """`P`: what each position takes from those before it in the chunk."""
        return self.decay_k.scores(self.q, self.k)

    def outputs(self, states: Tensor, scores: Tensor) -> Tensor:
        """`O_[i] = (Q * Lambda) S_[i] + P_[i] V_[i]`."""
        output = self.decay_v.mix(scores, self.v)
        return output.add_(self.decay_v.from_start(self.decay_k.from_start(self.q) @ states[:-1]))

    def score_gradients(self, do: Tensor) -> Tensor:
        """`dP = dO V^T`, as far as P is not zero."""
        return self.decay_v.scores(do, self.v)

    def query_gradients(self, states: Tensor, do: Tensor, d_scores: Tensor) -> Tensor:
        """`dQ = dP K + Lambda * (dO S^T)`."""
        dq = self.decay_k.mix(d_scores, self.k)
        return dq.add_(self.decay_k.from_start(self.decay_v.from_start(do) @ states[:-1].mT))


# Elements of one intermediate (1 MiB in float32): as many chunks at a time as a processor's cache holds.
_SPAN_ELEMENTS = 2**18


@dataclass(frozen=True)
class _Layout:
    """How a sequence is cut: `size` positions a chunk, `span` chunks a segment."""

    batch: int
    length: int
    heads: int
    size: int
    span: int
    sub: int
    dtype: torch.dtype

    @classmethod
    def of(cls, q: Tensor, v: Tensor, chunk: int, sub: int, sequential: bool) -> "_Layout":
        batch, length, heads, key_dim = q.shape
        size = min(chunk, -(-length // sub) * sub)
        if sequential:
            span = 1
        elif q.is_cuda:
            span = -(-length // size)
        else:
            span = max(1, _SPAN_ELEMENTS // (batch * heads * size * max(key_dim, v.shape[-1])))
        return cls(batch, length, heads, size, span, sub, torch.promote_types(q.dtype, torch.float32))

    def spans(self) -> Iterator[slice]:
        step = self.size * self.span
        for start in range(0, self.length, step):
            yield slice(start, min(start + step, self.length))

    def cut(self, x: Tensor, span: slice) -> Tensor:
        """`(batch, length, heads, dim)` to `(chunks, batch * heads, C, dim)`, zeros after the end."""
        x = x[:, span]
        length, dim = x.shape[1], x.shape[3]
        chunks = -(-length // self.size)
        shape = (chunks, self.batch, self.heads, self.size, dim)
        if chunks * self.size == length:
            out = torch.empty(shape, dtype=self.dtype, device=x.device)
            out.copy_(x.unflatten(1, (chunks, self.size)).permute(1, 0, 3, 2, 4))
        else:
            padded = x.new_zeros(self.batch, chunks * self.size, self.heads, dim, dtype=self.dtype)
            padded[:, :length] = x
            out = padded.unflatten(1, (chunks, self.size)).permute(1, 0, 3, 2, 4).contiguous()
        return out.flatten(1, 2)

    def paste(self, x: Tensor, into: Tensor, span: slice) -> None:
        """The inverse of `cut`, into the right span of a `(batch, length, heads, dim)` tensor."""
        x = x.unflatten(1, (self.batch, self.heads)).permute(1, 0, 3, 2, 4)
        target = into[:, span]
        whole = target.shape[1] // self.size
        if whole:
            target[:, : whole * self.size].unflatten(1, (whole, self.size)).copy_(x[:, :whole])
        rest = target.shape[1] - whole * self.size
        if rest:
            target[:, -rest:] = x[:, whole, :rest]

    def segment(self, span: slice, q: Tensor, k: Tensor, v: Tensor, *gates: Tensor | None) -> _Segment:
        q, k, v = (self.cut(x, span) for x in (q, k, v))
        decay_k, decay_v = (chunk_decay(None if gate is None else self.cut(gate, span), self.sub) for gate in gates)
        return _Segment(q, k, v, decay_k, decay_v, decay_k.to_end(k), decay_v.to_end(v))


class _ChunkwiseGLA(torch.autograd.Function):
    """Forward and the closed-form backward of section 4.4 (appendix C). Only the operands are saved."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_alpha: Tensor | None,
        log_beta: Tensor | None,
        initial_state: Tensor | None,
        chunk: int,
        sub: int,
        sequential: bool,
    ) -> tuple[Tensor, Tensor]:
        layout = _Layout.of(q, v, chunk, sub, sequential)
        state = _starting_state(q, v, initial_state, layout.dtype)
        output = torch.empty_like(v, memory_format=torch.contiguous_format)
        for span in layout.spans():
            part = layout.segment(span, q, k, v, log_alpha, log_beta)
            states = part.states(state)
            layout.paste(part.outputs(states, part.scores()), output, span)
            state = states[-1]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(q, k, v, log_alpha, log_beta, initial_state)
        ctx.options = (chunk, sub, sequential)
        return output, state.unflatten(0, (layout.batch, layout.heads)).clone()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None, grad_state: Tensor | None) -> tuple[Tensor | None, ...]:
        operands: tuple[Any, ...] = ctx.saved_tensors
        with torch.no_grad():
            grads = _gradients(operands, grad_output, grad_state, *ctx.options)
        if torch.is_grad_enabled():  # create_graph=True
            grads = _FirstDerivativeOnly.apply(operands, *(x for x in operands if x is not None), *grads)
        return (*grads, None, None, None)


class _FirstDerivativeOnly(torch.autograd.Function):
    """Passes gradients on, and says what is the matter when they are differentiated again."""

    @staticmethod
    def forward(ctx: Any, operands: tuple[Tensor | None, ...], *rest: Tensor | None) -> tuple[Any, ...]:
        return rest[-len(operands) :]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        raise RuntimeError(
            "gla_chunk has first derivatives only; for second derivatives use gla_recurrent or gla_parallel"
        )


def _starting_state(q: Tensor, v: Tensor, initial: Tensor | None, dtype: torch.dtype) -> Tensor:
    batch, _, heads, key_dim = q.shape
    if initial is None:
        return q.new_zeros(batch * heads, key_dim, v.shape[-1], dtype=dtype)
    return initial.to(dtype).flatten(0, 1)


def _product(a: Tensor, b: Tensor, *, out: Tensor) -> None:
    torch.bmm(a.flatten(0, 1), b.flatten(0, 1), out=out.flatten(0, 1))


def _gradients(
    operands: tuple[Tensor | None, ...],
    grad_output: Tensor | None,
    grad_state: Tensor | None,
    chunk: int,
    sub: int,
    sequential: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients of all six operands.

    One pass forward in time recomputes the states, one pass backward carries the gradient of the state. With
    all states at hand the second gives everything; chunk by chunk, the first gives `dq` and the second `dk`
    and `dv`. The gates need nothing more: `dlog b_t = q_t dq_t - k_t dk_t`, and `dlog alpha_t` is its sum
    over later positions, plus `rowsum(S * dS)` at the end that the sum starts from.
    By the symmetry of keys and values, `dlog c_t = o_t do_t - v_t dv_t` for an outer gate.

    A position's effect on its own output is undecayed, and cancels in `dlog b_t`; it is kept out of the
    difference and added afterwards, because under strong decay it is all but the whole of both terms.
    """
    q, k, v, log_alpha, log_beta, initial_state = cast(Operands, operands)
    layout = _Layout.of(q, v, chunk, sub, sequential)
    state = _starting_state(q, v, initial_state, layout.dtype)
    if grad_output is None:
        grad_output = torch.zeros_like(v)
    dq, dk, dv = (_empty_like(x, layout.dtype) for x in (q, k, v))
    d_alpha, d_beta = (None if x is None else _empty_like(x, layout.dtype) for x in (log_alpha, log_beta))
    output = _empty_like(v, layout.dtype) if sequential and d_beta is not None else None
    output_part = None  # only the gradient of an outer gate needs it

    kept = []
    for span in layout.spans():
        part = layout.segment(span, q, k, v, log_alpha, log_beta)
        states = part.states(state)
        state = states[-1]
        if not sequential:
            kept.append(states)
            continue
        do = layout.cut(grad_output, span)
        layout.paste(part.query_gradients(states, do, _without_own(part.score_gradients(do))[0]), dq, span)
        if output is not None:
            layout.paste(part.outputs(states, _without_own(part.scores())[0]), output, span)

    if grad_state is None:
        d_state = torch.zeros_like(state)
    else:
        d_state = grad_state.to(layout.dtype).flatten(0, 1)
    carried = (state * d_state)[None]
    carried_k, carried_v = carried.sum(-1)[:, :, None, :], carried.sum(-2)[:, :, None, :]
    last = span
    for span in reversed(list(layout.spans())):
        if span != last:  # the last segment is still at hand
            part = layout.segment(span, q, k, v, log_alpha, log_beta)
        do = layout.cut(grad_output, span)
        scores, own = _without_own(part.scores())
        d_scores, d_own = _without_own(part.score_gradients(do))
        if sequential:
            dq_part = layout.cut(dq, span)
            output_part = None if output is None else layout.cut(output, span)
        else:
            states = kept.pop()
            dq_part = part.query_gradients(states, do, d_scores)
            output_part = None if d_beta is None else part.outputs(states, scores)
        d_states = part.state_gradients(part.decay_v.from_start(do), d_state)
        d_state = d_states[0]
        # What reaches k and v inside the chunk, and what does through the state after it.
        dk_inside = part.decay_k.mix_transposed(d_scores, part.q)
        dk_beyond = part.decay_k.to_end(part.v_to_end @ d_states[1:].mT)
        dv_inside = part.decay_v.mix_transposed(scores, do)
        dv_beyond = part.decay_v.to_end(part.k_to_end @ d_states[1:])

        if not sequential:
            carried = part.decayed(states[:-1]) * d_states[1:]
            carried_k, carried_v = carried.sum(-1)[:, :, None, :], carried.sum(-2)[:, :, None, :]
        if d_alpha is not None and log_alpha is not None:
            later = (part.q * dq_part).addcmul_(part.k, dk_inside, value=-1)
            d_log = _gate_gradient(later, part.k * dk_beyond, carried_k, log_alpha.shape[-1], sequential)
            layout.paste(d_log, d_alpha, span)
            carried_k = d_log[:, :, :1]
        if d_beta is not None and log_beta is not None and output_part is not None:
            later = (output_part * do).addcmul_(part.v, dv_inside, value=-1)
            d_log = _gate_gradient(later, part.v * dv_beyond, carried_v, log_beta.shape[-1], sequential)
            layout.paste(d_log, d_beta, span)
            carried_v = d_log[:, :, :1]
        layout.paste(dq_part.addcmul_(d_own, part.k), dq, span)
        layout.paste(dk_inside.add_(dk_beyond).addcmul_(d_own, part.q), dk, span)
        layout.paste(dv_inside.add_(dv_beyond).addcmul_(own, do), dv, span)

    d_initial = d_state.unflatten(0, (layout.batch, layout.heads))
    grads = (dq, dk, dv, d_alpha, d_beta, None if initial_state is None else d_initial)
    return tuple(
        None if grad is None or operand is None else grad.to(operand.dtype)
        for grad, operand in zip(grads, operands, strict=True)
    )


def _without_own(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Empty the diagonal; returns the weights and what stood on it, `(..., C, 1)`."""
    diagonal = weights.diagonal(dim1=-2, dim2=-1)
    own = diagonal.clone().unsqueeze(-1)
    diagonal.zero_()
    return weights, own


def _gate_gradient(later: Tensor, beyond: Tensor, carried: Tensor, width: int, sequential: bool) -> Tensor:
    """`dlog alpha_t` in a chunk, from `later = q dq - k dk` inside it and `beyond = k dk` through its end.

    A pair (i, j) counts where j < t <= i. Chunk by chunk, without the states of either side, only the
    paper's sum is at hand: over all later positions, with `carried` the sum after the chunk; pairs that lie
    wholly after t cancel in it. With all states at hand, what leaves the chunk is summed over the positions
    before t instead, and `carried` is what passes over the whole chunk: there rounding errors of large
    terms do not stay behind, however small the gates.
    """
    if width == 1:
        later, beyond, carried = (x.sum(-1, keepdim=True) for x in (later, beyond, carried))
    if sequential:
        return reverse_cumulative_sum(later - beyond) + carried
    return reverse_cumulative_sum(later) + cumulative_sum(beyond, inclusive=False) + carried


def _empty_like(x: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)
