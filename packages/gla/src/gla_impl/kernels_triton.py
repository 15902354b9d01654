"""The chunkwise form as Triton kernels: forward and backward, materialising, with secondary chunking.

Imported only where there is a CUDA device, or under Triton's interpreter (TRITON_INTERPRET=1). Operands are
`(batch, length, heads, dim)`; states are `(batch * heads, chunks + 1, dk, dv)` in float32. Products run in the
operands' own precision on tensor cores, as every factor is at most 1 in size times an operand (section 4.3);
cumulative logs, diagonal sub-blocks, states and accumulation are float32.

`no_type_check` keeps run-time checkers of annotations, which wrap every function of a package, off the kernels:
Triton compiles a function's source and cannot see through a wrapper.
"""

# mypy: allow-untyped-defs, allow-untyped-calls
import os
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

# exp(-100) is below float32's smallest normal number: clamping there changes nothing but the rounding of sums.
LOWEST_LOG_GATE = tl.constexpr(-100.0)


def gla_chunk_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_alpha: Tensor | None,
    initial_state: Tensor | None = None,
    *,
    chunk: int = 64,
    sub: int = 16,
) -> tuple[Tensor, Tensor]:
    """`gla_chunk` by kernels; operands as it checks and expands them. Returns the output and the final state.

    Raises ValueError where the kernels do not apply: sub-blocks that are not a power of two of at least 16,
    float64, or tensors that are not on a CUDA device (outside the interpreter).
    """
    if sub < 16 or sub & (sub - 1) or chunk & (chunk - 1):
        raise ValueError(f"the kernels need chunk and sub to be powers of two, sub >= 16, got {chunk} and {sub}")
    if q.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"the kernels need float32, float16 or bfloat16 operands, got {q.dtype}")
    if not q.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(f"the kernels need operands on a CUDA device, got {q.device}")
    if log_alpha is None:
        log_alpha = torch.zeros((), device=q.device).expand(*q.shape[:3], 1)
    return _ChunkwiseKernels.apply(q, k, v, log_alpha, initial_state, chunk, sub)


class _ChunkwiseKernels(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_alpha: Tensor,
        initial_state: Tensor | None,
        chunk: int,
        sub: int,
    ) -> tuple[Tensor, Tensor]:
        launch = _Launch(q, v, chunk, sub)
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        log_b = launch.cumulative(log_alpha)
        states = launch.states(k, v, log_b, initial_state)
        scores = launch.scores(q, k, log_b)
        output = launch.outputs(q, v, log_b, states, scores)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(q, k, v, log_alpha, initial_state)
        ctx.options = (chunk, sub)
        return output, states[:, -1].unflatten(0, (q.shape[0], q.shape[2])).clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor | None, grad_state: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, log_alpha, initial_state = ctx.saved_tensors
        launch = _Launch(q, v, *ctx.options)
        do = torch.zeros_like(v) if grad_output is None else grad_output.contiguous()
        log_b = launch.cumulative(log_alpha)
        states = launch.states(k, v, log_b, initial_state)
        d_states = launch.state_gradients(q, do, log_b, grad_state)
        dv = launch.value_gradients(do, k, log_b, launch.scores(q, k, log_b), d_states)
        d_scores = launch.score_gradients(do, v)
        dq, dk, d_alpha = launch.key_gradients(q, k, v, do, log_b, states, d_states, d_scores)
        if log_alpha.shape[-1] == 1:
            d_alpha = d_alpha.sum(-1, keepdim=True)
        d_initial = None
        if initial_state is not None:
            d_initial = d_states[:, 0].unflatten(0, (q.shape[0], q.shape[2])).to(initial_state.dtype)
        return dq, dk, dv, d_alpha.to(log_alpha.dtype), d_initial, None, None


class _Launch:
    """Block sizes and launches for one set of operands."""

    def __init__(self, q: Tensor, v: Tensor, chunk: int, sub: int) -> None:
        self.batch, self.length, self.heads, self.key_dim = q.shape
        self.value_dim = v.shape[-1]
        self.groups = self.batch * self.heads
        self.chunks = triton.cdiv(self.length, chunk)
        self.chunk, self.sub = chunk, sub
        largest = 32 if q.dtype == torch.float32 else 64  # so that tiles fit any device's shared memory
        self.block_k = min(largest, max(16, triton.next_power_of_2(self.key_dim)))
        self.block_v = min(largest, max(16, triton.next_power_of_2(self.value_dim)))
        self.over_k = triton.cdiv(self.key_dim, self.block_k)
        self.over_v = triton.cdiv(self.value_dim, self.block_v)
        self.device = q.device
        self.sizes = {
            "T": self.length,
            "H": self.heads,
            "K": self.key_dim,
            "V": self.value_dim,
            "C": chunk,
            "BK": self.block_k,
            "BV": self.block_v,
        }

    def _empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)

    def _like_keys(self) -> Tensor:
        return self._empty(self.batch, self.length, self.heads, self.key_dim)

    def cumulative(self, log_alpha: Tensor) -> Tensor:
        log_b = self._like_keys()
        gate = log_alpha.expand(*log_alpha.shape[:3], self.key_dim)
        sizes = {name: self.sizes[name] for name in ("T", "H", "K", "C", "BK")}
        _cumulative_kernel[(self.over_k, self.chunks, self.groups)](gate, log_b, *gate.stride(), **sizes)
        return log_b

    def states(self, k: Tensor, v: Tensor, log_b: Tensor, initial: Tensor | None) -> Tensor:
        states = self._empty(self.groups, self.chunks + 1, self.key_dim, self.value_dim)
        states[:, 0] = 0 if initial is None else initial.flatten(0, 1)
        _states_kernel[(self.over_k, self.over_v, self.groups)](k, v, log_b, states, **self.sizes)
        return states

    def scores(self, q: Tensor, k: Tensor, log_b: Tensor) -> Tensor:
        # Half precision is enough: scores are the left operand of a product in the operands' precision.
        scores = torch.zeros(self.batch, self.length, self.heads, self.chunk, dtype=q.dtype, device=self.device)
        sizes = {name: self.sizes[name] for name in ("T", "H", "K", "C", "BK")}
        blocks = self.chunk // self.sub
        _scores_kernel[(self.chunks, blocks, self.groups)](q, k, log_b, scores, **sizes, S=self.sub)
        return scores

    def outputs(self, q: Tensor, v: Tensor, log_b: Tensor, states: Tensor, scores: Tensor) -> Tensor:
        output = torch.empty_like(v)
        grid = (self.over_v, self.chunks, self.groups)
        _outputs_kernel[grid](q, v, log_b, states, scores, output, **self.sizes)
        return output

    def state_gradients(self, q: Tensor, do: Tensor, log_b: Tensor, last: Tensor | None) -> Tensor:
        d_states = self._empty(self.groups, self.chunks + 1, self.key_dim, self.value_dim)
        d_states[:, -1] = 0 if last is None else last.flatten(0, 1)
        _state_gradients_kernel[(self.over_k, self.over_v, self.groups)](q, do, log_b, d_states, **self.sizes)
        return d_states

    def value_gradients(self, do: Tensor, k: Tensor, log_b: Tensor, scores: Tensor, d_states: Tensor) -> Tensor:
        dv = torch.empty_like(do)
        grid = (self.over_v, self.chunks, self.groups)
        _value_gradients_kernel[grid](do, k, log_b, scores, d_states, dv, **self.sizes)
        return dv

    def score_gradients(self, do: Tensor, v: Tensor) -> Tensor:
        d_scores = torch.empty(self.batch, self.length, self.heads, self.chunk, dtype=do.dtype, device=self.device)
        sizes = {name: self.sizes[name] for name in ("T", "H", "V", "C", "BV")}
        _score_gradients_kernel[(self.chunks, self.groups)](do, v, d_scores, **sizes)
        return d_scores

    def key_gradients(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        do: Tensor,
        log_b: Tensor,
        states: Tensor,
        d_states: Tensor,
        d_scores: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        dq, dk, d_alpha = self._like_keys(), self._like_keys(), self._like_keys()
        dq_out, dk_out = torch.empty_like(q), torch.empty_like(k)
        carried = self._empty(self.groups, self.chunks, self.key_dim)
        grid = (self.over_k, self.chunks, self.groups)
        _inter_gradients_kernel[grid](v, do, log_b, states, d_states, dq, dk, carried, **self.sizes)
        sizes = {name: self.sizes[name] for name in ("T", "H", "K", "C", "BK")}
        blocks = self.chunk // self.sub
        _intra_gradients_kernel[(self.over_k, self.chunks * blocks, self.groups)](
            q, k, log_b, d_scores, dq, dk, **sizes, S=self.sub
        )
        _gate_gradients_kernel[grid](q, k, dq, dk, d_scores, carried, dq_out, dk_out, d_alpha, **sizes)
        return dq_out, dk_out, d_alpha


@triton.jit
@no_type_check
def _fall(log_ratio):
    """A decay from its logarithm; rows past the end, which hold zeros, must not make it grow."""
    return tl.exp(tl.minimum(log_ratio, 0.0))


@triton.jit
@no_type_check
def _tile(pointer, group, row, channel, T, H: tl.constexpr, D: tl.constexpr):
    """Pointers to `(rows, channels)` of one batch and head in a `(batch, length, heads, dim)` tensor."""
    start = (group // H) * T * H + group % H
    return pointer + (start + row * H)[:, None] * D + channel[None, :]


@triton.jit
@no_type_check
def _row(pointer, group, row, channel, T, H: tl.constexpr, D: tl.constexpr):
    """Pointers to the channels of one position."""
    start = (group // H) * T * H + group % H
    return pointer + (start + row * H) * D + channel


@triton.jit
@no_type_check
def _cumulative_kernel(
    gate,
    log_b,
    stride_b,
    stride_t,
    stride_h,
    stride_k,
    T,
    H: tl.constexpr,
    K: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
):
    group = tl.program_id(2).to(tl.int64)
    row = tl.program_id(1).to(tl.int64) * C + tl.arange(0, C)
    channel = tl.program_id(0) * BK + tl.arange(0, BK)
    mask = (row < T)[:, None] & (channel < K)[None, :]
    start = gate + (group // H) * stride_b + (group % H) * stride_h
    g = tl.load(start + row[:, None] * stride_t + channel[None, :] * stride_k, mask=mask, other=0.0)
    g = tl.maximum(g.to(tl.float32), LOWEST_LOG_GATE)
    tl.store(_tile(log_b, group, row, channel, T, H, K), tl.cumsum(g, axis=0), mask=mask)


@triton.jit
@no_type_check
def _states_kernel(
    k,
    v,
    log_b,
    states,
    T,
    H: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
):
    """`S_[i+1] = diag(gamma) S_[i] + (K * Gamma)^T V`, one chunk after another; S_[0] is there already."""
    group = tl.program_id(2).to(tl.int64)
    channel_k = tl.program_id(0) * BK + tl.arange(0, BK)
    channel_v = tl.program_id(1) * BV + tl.arange(0, BV)
    in_k, in_v = channel_k < K, channel_v < V
    in_state = in_k[:, None] & in_v[None, :]
    chunks = tl.cdiv(T, C)
    at = states + group * (chunks + 1) * K * V + channel_k[:, None] * V + channel_v[None, :]
    state = tl.load(at, mask=in_state, other=0.0)
    for i in range(chunks):
        row = i * C + tl.arange(0, C).to(tl.int64)
        in_t = row < T
        last = tl.minimum(i * C + C, T) - 1
        b = tl.load(_tile(log_b, group, row, channel_k, T, H, K), mask=in_t[:, None] & in_k[None, :], other=0.0)
        b_last = tl.load(_row(log_b, group, last, channel_k, T, H, K), mask=in_k, other=0.0)
        keys = tl.load(_tile(k, group, row, channel_k, T, H, K), mask=in_t[:, None] & in_k[None, :], other=0.0)
        values = tl.load(_tile(v, group, row, channel_v, T, H, V), mask=in_t[:, None] & in_v[None, :], other=0.0)
        keys = (keys * _fall(b_last[None, :] - b)).to(values.dtype)
        state = state * tl.exp(b_last)[:, None]
        state += tl.dot(tl.trans(keys), values, input_precision="ieee")
        at += K * V
        tl.store(at, state, mask=in_state)


@triton.jit
@no_type_check
def _scores_kernel(
    q,
    k,
    log_b,
    scores,
    T,
    H: tl.constexpr,
    K: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
    S: tl.constexpr,
):
    """`P_ij = sum_c q_ic k_jc exp(log b_ic - log b_jc)` for one sub-block of rows (listing 1)."""
    group = tl.program_id(2).to(tl.int64)
    block = tl.program_id(1)
    start = tl.program_id(0).to(tl.int64) * C
    first = start + block * S
    if first >= T:
        return
    row = first + tl.arange(0, S)
    column = tl.arange(0, S)
    in_t = row < T
    # Off the diagonal: products of factors that cannot grow, referred to the boundary before this sub-block.
    for j in range(block):
        other = start + j * S + tl.arange(0, S)
        total = tl.zeros([S, S], dtype=tl.float32)
        for i_k in range(tl.cdiv(K, BK)):
            channel = i_k * BK + tl.arange(0, BK)
            in_k = channel < K
            mask = in_t[:, None] & in_k[None, :]
            edge = tl.load(_row(log_b, group, first - 1, channel, T, H, K), mask=in_k, other=0.0)
            queries = tl.load(_tile(q, group, row, channel, T, H, K), mask=mask, other=0.0)
            b = tl.load(_tile(log_b, group, row, channel, T, H, K), mask=mask, other=0.0)
            keys = tl.load(_tile(k, group, other, channel, T, H, K), mask=in_k[None, :], other=0.0)
            b_other = tl.load(_tile(log_b, group, other, channel, T, H, K), mask=in_k[None, :], other=0.0)
            left = (queries * _fall(b - edge[None, :])).to(q.dtype.element_ty)
            right = (keys * _fall(edge[None, :] - b_other)).to(q.dtype.element_ty)
            total += tl.dot(left, tl.trans(right), input_precision="ieee")
        at = _tile(scores, group, row, j * S + column, T, H, C)
        tl.store(at, total.to(scores.dtype.element_ty), mask=in_t[:, None] & (column >= 0)[None, :])
    # On the diagonal: the exact sum in float32, a column at a time.
    diagonal = tl.zeros([S, S], dtype=tl.float32)
    for i_k in range(tl.cdiv(K, BK)):
        channel = i_k * BK + tl.arange(0, BK)
        in_k = channel < K
        mask = in_t[:, None] & in_k[None, :]
        queries = tl.load(_tile(q, group, row, channel, T, H, K), mask=mask, other=0.0).to(tl.float32)
        b = tl.load(_tile(log_b, group, row, channel, T, H, K), mask=mask, other=0.0)
        for near in range(tl.minimum(S, T - first).to(tl.int32)):
            key = tl.load(_row(k, group, first + near, channel, T, H, K), mask=in_k, other=0.0).to(tl.float32)
            b_key = tl.load(_row(log_b, group, first + near, channel, T, H, K), mask=in_k, other=0.0)
            pair = tl.sum(queries * key[None, :] * _fall(b - b_key[None, :]), axis=1)
            diagonal += tl.where((column == near)[None, :] & (column >= near)[:, None], pair[:, None], 0.0)
    at = _tile(scores, group, row, block * S + column, T, H, C)
    tl.store(at, diagonal.to(scores.dtype.element_ty), mask=in_t[:, None] & (column >= 0)[None, :])


@triton.jit
@no_type_check
def _outputs_kernel(
    q,
    v,
    log_b,
    states,
    scores,
    output,
    T,
    H: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
):
    """`O_[i] = (Q * Lambda) S_[i] + P_[i] V_[i]`."""
    group = tl.program_id(2).to(tl.int64)
    i = tl.program_id(1).to(tl.int64)
    channel_v = tl.program_id(0) * BV + tl.arange(0, BV)
    row = i * C + tl.arange(0, C)
    in_t, in_v = row < T, channel_v < V
    total = tl.zeros([C, BV], dtype=tl.float32)
    at = states + (group * (tl.cdiv(T, C) + 1) + i) * K * V
    for i_k in range(tl.cdiv(K, BK)):
        channel = i_k * BK + tl.arange(0, BK)
        in_k = channel < K
        mask = in_t[:, None] & in_k[None, :]
        queries = tl.load(_tile(q, group, row, channel, T, H, K), mask=mask, other=0.0)
        b = tl.load(_tile(log_b, group, row, channel, T, H, K), mask=mask, other=0.0)
        state = tl.load(at + channel[:, None] * V + channel_v[None, :], mask=in_k[:, None] & in_v[None, :], other=0.0)
        queries = (queries * _fall(b)).to(q.dtype.element_ty)
        total += tl.dot(queries, state.to(q.dtype.element_ty), input_precision="ieee")
    mask_v = in_t[:, None] & in_v[None, :]
    weights = tl.load(_tile(scores, group, row, tl.arange(0, C), T, H, C), mask=in_t[:, None], other=0.0)
    values = tl.load(_tile(v, group, row, channel_v, T, H, V), mask=mask_v, other=0.0)
    total += tl.dot(weights, values, input_precision="ieee")
    at_output = _tile(output, group, row, channel_v, T, H, V)
    tl.store(at_output, total.to(output.dtype.element_ty), mask=mask_v)


@triton.jit
@no_type_check
def _state_gradients_kernel(
    q,
    do,
    log_b,
    d_states,
    T,
    H: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
):
    """`dS_[i] = diag(gamma) dS_[i+1] + (Q * Lambda)^T dO`, last chunk first; the last is there already."""
    group = tl.program_id(2).to(tl.int64)
    channel_k = tl.program_id(0) * BK + tl.arange(0, BK)
    channel_v = tl.program_id(1) * BV + tl.arange(0, BV)
    in_k, in_v = channel_k < K, channel_v < V
    in_state = in_k[:, None] & in_v[None, :]
    chunks = tl.cdiv(T, C)
    at = d_states + (group * (chunks + 1) + chunks) * K * V + channel_k[:, None] * V + channel_v[None, :]
    d_state = tl.load(at, mask=in_state, other=0.0)
    for back in range(chunks):
        i = chunks - 1 - back
        row = i * C + tl.arange(0, C).to(tl.int64)
        in_t = row < T
        last = tl.minimum(i * C + C, T) - 1
        mask_k = in_t[:, None] & in_k[None, :]
        b = tl.load(_tile(log_b, group, row, channel_k, T, H, K), mask=mask_k, other=0.0)
        b_last = tl.load(_row(log_b, group, last, channel_k, T, H, K), mask=in_k, other=0.0)
        queries = tl.load(_tile(q, group, row, channel_k, T, H, K), mask=mask_k, other=0.0)
        grad = tl.load(_tile(do, group, row, channel_v, T, H, V), mask=in_t[:, None] & in_v[None, :], other=0.0)
        queries = (queries * _fall(b)).to(grad.dtype)
        d_state = d_state * tl.exp(b_last)[:, None]
        d_state += tl.dot(tl.trans(queries), grad, input_precision="ieee")
        at -= K * V
        tl.store(at, d_state, mask=in_state)


@triton.jit
@no_type_check
def _value_gradients_kernel(
    do,
    k,
    log_b,
    scores,
    d_states,
    dv,
    T,
    H: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
):
    """`dV = P^T dO + (K * Gamma) dS` with dS from after the chunk."""
    group = tl.program_id(2).to(tl.int64)
    i = tl.program_id(1).to(tl.int64)
    channel_v = tl.program_id(0) * BV + tl.arange(0, BV)
    row = i * C + tl.arange(0, C)
    in_t, in_v = row < T, channel_v < V
    last = tl.minimum(i * C + C, T) - 1
    total = tl.zeros([C, BV], dtype=tl.float32)
    at = d_states + (group * (tl.cdiv(T, C) + 1) + i + 1) * K * V
    for i_k in range(tl.cdiv(K, BK)):
        channel = i_k * BK + tl.arange(0, BK)
        in_k = channel < K
        mask = in_t[:, None] & in_k[None, :]
        keys = tl.load(_tile(k, group, row, channel, T, H, K), mask=mask, other=0.0)
        b = tl.load(_tile(log_b, group, row, channel, T, H, K), mask=mask, other=0.0)
        b_last = tl.load(_row(log_b, group, last, channel, T, H, K), mask=in_k, other=0.0)
        d_state = tl.load(at + channel[:, None] * V + channel_v[None, :], mask=in_k[:, None] & in_v[None, :], other=0.0)
        keys = (keys * _fall(b_last[None, :] - b)).to(k.dtype.element_ty)
        total += tl.dot(keys, d_state.to(k.dtype.element_ty), input_precision="ieee")
    mask_v = in_t[:, None] & in_v[None, :]
    weights = tl.load(_tile(scores, group, row, tl.arange(0, C), T, H, C), mask=in_t[:, None], other=0.0)
    grad = tl.load(_tile(do, group, row, channel_v, T, H, V), mask=mask_v, other=0.0)
    total += tl.dot(tl.trans(weights), grad, input_precision="ieee")
    tl.store(_tile(dv, group, row, channel_v, T, H, V), total.to(dv.dtype.element_ty), mask=mask_v)


@triton.jit
@no_type_check
def _score_gradients_kernel(do, v, d_scores, T, H: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BV: tl.constexpr):
    """`dP = dO V^T` on and below the diagonal."""
    group = tl.program_id(1).to(tl.int64)
    position = tl.arange(0, C)
    row = tl.program_id(0).to(tl.int64) * C + position
    in_t = row < T
    total = tl.zeros([C, C], dtype=tl.float32)
    for i_v in range(tl.cdiv(V, BV)):
        channel = i_v * BV + tl.arange(0, BV)
        mask = in_t[:, None] & (channel < V)[None, :]
        grad = tl.load(_tile(do, group, row, channel, T, H, V), mask=mask, other=0.0)
        values = tl.load(_tile(v, group, row, channel, T, H, V), mask=mask, other=0.0)
        total += tl.dot(grad, tl.trans(values), input_precision="ieee")
    total = tl.where(position[:, None] >= position[None, :], total, 0.0)
    at = _tile(d_scores, group, row, position, T, H, C)
    tl.store(at, total.to(d_scores.dtype.element_ty), mask=in_t[:, None] & (position >= 0)[None, :])


@triton.jit
@no_type_check
def _inter_gradients_kernel(
    v,
    do,
    log_b,
    states,
    d_states,
    dq,
    dk,
    carried,
    T,
    H: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
):
    """What reaches q and k through the states, and `rowsum(S * dS)` after the chunk for the gate."""
    group = tl.program_id(2).to(tl.int64)
    i = tl.program_id(1).to(tl.int64)
    chunks = tl.cdiv(T, C)
    channel_k = tl.program_id(0) * BK + tl.arange(0, BK)
    row = i * C + tl.arange(0, C)
    in_t, in_k = row < T, channel_k < K
    last = tl.minimum(i * C + C, T) - 1
    before = (group * (chunks + 1) + i) * K * V
    grad_q = tl.zeros([C, BK], dtype=tl.float32)
    grad_k = tl.zeros([C, BK], dtype=tl.float32)
    inner = tl.zeros([BK], dtype=tl.float32)
    for i_v in range(tl.cdiv(V, BV)):
        channel_v = i_v * BV + tl.arange(0, BV)
        in_v = channel_v < V
        mask = in_t[:, None] & in_v[None, :]
        in_state = in_k[:, None] & in_v[None, :]
        at = before + channel_k[:, None] * V + channel_v[None, :]
        state = tl.load(states + at, mask=in_state, other=0.0)
        state_after = tl.load(states + at + K * V, mask=in_state, other=0.0)
        d_state_after = tl.load(d_states + at + K * V, mask=in_state, other=0.0)
        inner += tl.sum(state_after * d_state_after, axis=1)
        grad = tl.load(_tile(do, group, row, channel_v, T, H, V), mask=mask, other=0.0)
        values = tl.load(_tile(v, group, row, channel_v, T, H, V), mask=mask, other=0.0)
        grad_q += tl.dot(grad, tl.trans(state).to(grad.dtype), input_precision="ieee")
        grad_k += tl.dot(values, tl.trans(d_state_after).to(values.dtype), input_precision="ieee")
    mask_k = in_t[:, None] & in_k[None, :]
    b = tl.load(_tile(log_b, group, row, channel_k, T, H, K), mask=mask_k, other=0.0)
    b_last = tl.load(_row(log_b, group, last, channel_k, T, H, K), mask=in_k, other=0.0)
    tl.store(_tile(dq, group, row, channel_k, T, H, K), grad_q * _fall(b), mask=mask_k)
    tl.store(_tile(dk, group, row, channel_k, T, H, K), grad_k * _fall(b_last[None, :] - b), mask=mask_k)
    tl.store(carried + (group * chunks + i) * K + channel_k, inner, mask=in_k)


@triton.jit
@no_type_check
def _intra_gradients_kernel(
    q,
    k,
    log_b,
    d_scores,
    dq,
    dk,
    T,
    H: tl.constexpr,
    K: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
    S: tl.constexpr,
):
    """What reaches q and k inside the chunk, added to what came through the states, for one sub-block."""
    group = tl.program_id(2).to(tl.int64)
    channel = tl.program_id(0) * BK + tl.arange(0, BK)
    blocks: tl.constexpr = C // S
    block = tl.program_id(1) % blocks
    start = (tl.program_id(1) // blocks).to(tl.int64) * C
    first = start + block * S
    if first >= T:
        return
    column = tl.arange(0, S)
    row = first + column
    in_t, in_k = row < T, channel < K
    mask = in_t[:, None] & in_k[None, :]
    every = (column >= 0)[None, :]
    b = tl.load(_tile(log_b, group, row, channel, T, H, K), mask=mask, other=0.0)

    # dq: from earlier sub-blocks, referred to the boundary before this one.
    far_q = tl.zeros([S, BK], dtype=tl.float32)
    if block > 0:
        edge = tl.load(_row(log_b, group, first - 1, channel, T, H, K), mask=in_k, other=0.0)
        for j in range(block):
            other = start + j * S + column
            keys = tl.load(_tile(k, group, other, channel, T, H, K), mask=in_k[None, :], other=0.0)
            b_other = tl.load(_tile(log_b, group, other, channel, T, H, K), mask=in_k[None, :], other=0.0)
            weights = tl.load(
                _tile(d_scores, group, row, j * S + column, T, H, C), mask=in_t[:, None] & every, other=0.0
            )
            right = (keys * _fall(edge[None, :] - b_other)).to(weights.dtype)
            far_q += tl.dot(weights, right, input_precision="ieee")
        far_q = far_q * _fall(b - edge[None, :])

    # dk: from later sub-blocks, referred to the last position of this one.
    far_k = tl.zeros([S, BK], dtype=tl.float32)
    last = tl.minimum(first + S, T) - 1
    b_last = tl.load(_row(log_b, group, last, channel, T, H, K), mask=in_k, other=0.0)
    for j in range(block + 1, blocks):
        other = start + j * S + column
        in_other = other < T
        mask_other = in_other[:, None] & in_k[None, :]
        queries = tl.load(_tile(q, group, other, channel, T, H, K), mask=mask_other, other=0.0)
        b_other = tl.load(_tile(log_b, group, other, channel, T, H, K), mask=mask_other, other=0.0)
        weights = tl.load(
            _tile(d_scores, group, other, block * S + column, T, H, C),
            mask=in_other[:, None] & every,
            other=0.0,
        )
        right = (queries * _fall(b_other - b_last[None, :])).to(weights.dtype)
        far_k += tl.dot(tl.trans(weights), right, input_precision="ieee")
    far_k = far_k * _fall(b_last[None, :] - b)

    # Inside the sub-block, exactly, a position at a time; a position's own term is left for the gate's kernel.
    near_q = tl.zeros([S, BK], dtype=tl.float32)
    near_k = tl.zeros([S, BK], dtype=tl.float32)
    for near in range(tl.minimum(S, T - first).to(tl.int32)):
        at_j = first + near
        key = tl.load(_row(k, group, at_j, channel, T, H, K), mask=in_k, other=0.0).to(tl.float32)
        query = tl.load(_row(q, group, at_j, channel, T, H, K), mask=in_k, other=0.0).to(tl.float32)
        b_j = tl.load(_row(log_b, group, at_j, channel, T, H, K), mask=in_k, other=0.0)
        as_key = tl.load(
            _row(d_scores, group, row, block * S + near, T, H, C), mask=in_t & (column > near), other=0.0
        ).to(tl.float32)
        as_query = tl.load(_row(d_scores, group, at_j, block * S + column, T, H, C), mask=column < near, other=0.0).to(
            tl.float32
        )
        near_q += as_key[:, None] * key[None, :] * _fall(b - b_j[None, :])
        near_k += as_query[:, None] * query[None, :] * _fall(b_j[None, :] - b)

    at_q = _tile(dq, group, row, channel, T, H, K)
    at_k = _tile(dk, group, row, channel, T, H, K)
    tl.store(at_q, tl.load(at_q, mask=mask, other=0.0) + far_q + near_q, mask=mask)
    tl.store(at_k, tl.load(at_k, mask=mask, other=0.0) + far_k + near_k, mask=mask)


@triton.jit
@no_type_check
def _gate_gradients_kernel(
    q,
    k,
    dq,
    dk,
    d_scores,
    carried,
    dq_out,
    dk_out,
    d_alpha,
    T,
    H: tl.constexpr,
    K: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
):
    """`dlog alpha_t`: the sum of `q dq - k dk` over this and later positions, plus what the chunk's end carries.

    The own terms of q and k, which would cancel in the difference, are added here, after it is taken.
    """
    group = tl.program_id(2).to(tl.int64)
    i = tl.program_id(1).to(tl.int64)
    channel = tl.program_id(0) * BK + tl.arange(0, BK)
    row = i * C + tl.arange(0, C)
    in_k = channel < K
    mask = (row < T)[:, None] & in_k[None, :]
    queries = tl.load(_tile(q, group, row, channel, T, H, K), mask=mask, other=0.0).to(tl.float32)
    keys = tl.load(_tile(k, group, row, channel, T, H, K), mask=mask, other=0.0).to(tl.float32)
    grad_q = tl.load(_tile(dq, group, row, channel, T, H, K), mask=mask, other=0.0)
    grad_k = tl.load(_tile(dk, group, row, channel, T, H, K), mask=mask, other=0.0)
    end = tl.load(carried + (group * tl.cdiv(T, C) + i) * K + channel, mask=in_k, other=0.0)
    total = tl.cumsum(queries * grad_q - keys * grad_k, axis=0, reverse=True) + end[None, :]
    tl.store(_tile(d_alpha, group, row, channel, T, H, K), total, mask=mask)
    own = tl.load(_row(d_scores, group, row, tl.arange(0, C), T, H, C), mask=row < T, other=0.0)
    grad_q += own.to(tl.float32)[:, None] * keys
    grad_k += own.to(tl.float32)[:, None] * queries
    tl.store(_tile(dq_out, group, row, channel, T, H, K), grad_q.to(dq_out.dtype.element_ty), mask=mask)
    tl.store(_tile(dk_out, group, row, channel, T, H, K), grad_k.to(dk_out.dtype.element_ty), mask=mask)
