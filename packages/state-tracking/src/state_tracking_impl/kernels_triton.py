"""The chunk form of the delta rule as a Triton kernel: one program a head and tile of values, states in registers.

Imported only where there is a CUDA device, or under Triton's interpreter (TRITON_INTERPRET=1). The backward pass
recomputes through the torch form. The triangular system is solved in float32 whatever the operands are.
"""

# mypy: allow-untyped-defs, allow-untyped-calls, disable-error-code="no-any-return"
import os
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from .delta_rule import delta_rule_chunk

__all__ = ["delta_rule_triton"]


def delta_rule_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    initial_state: Tensor | None = None,
    *,
    scale: float | None = None,
    chunk: int = 32,
) -> tuple[Tensor, Tensor]:
    """`delta_rule_chunk` by a kernel; keys normalised and beta in [0, 2], as that function checks.

    Raises:
        ValueError: a chunk that is no power of two of at least 16; heads wider than 128; float64; tensors off CUDA
            (outside the interpreter).
    """
    if chunk < 16 or chunk & (chunk - 1):
        raise ValueError(f"chunk must be a power of two of at least 16, got {chunk}")
    if k.shape[-1] > 128:
        raise ValueError(f"k must have at most 128 features a head for the kernel, got {k.shape[-1]}")
    if q.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"q must be float32, float16 or bfloat16 for the kernel, got {q.dtype}")
    if not q.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(f"q must be on a CUDA device for the kernel, got {q.device}")
    if initial_state is None:
        initial_state = q.new_zeros(q.shape[0], q.shape[2], k.shape[3], v.shape[3])
    scale = float(k.shape[-1]) ** -0.5 if scale is None else scale
    return _DeltaRule.apply(q, k, v, beta, initial_state, scale, chunk)


class _DeltaRule(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state: Tensor, scale: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(q, k, v, beta, state)
        ctx.options = (scale, chunk)
        batch, length, heads, dk = q.shape
        dv = v.shape[-1]
        q, k, v, beta, state = (x.contiguous() for x in (q, k, v, beta, state))
        output, final = torch.empty_like(v), torch.empty_like(state)
        block_k = max(16, triton.next_power_of_2(dk))
        block_v = min(64, max(16, triton.next_power_of_2(dv)))
        grid = (batch * heads, triton.cdiv(dv, block_v))
        _chunk_kernel[grid](
            q, k, v, beta, state, output, final, scale, length, heads, dk, dv,
            CHUNK=chunk, BLOCK_K=block_k, BLOCK_V=block_v,
        )  # fmt: skip
        return output, final

    @staticmethod
    def backward(ctx: Any, d_output: Tensor, d_final: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        scale, chunk = ctx.options
        leaves = [x.detach().requires_grad_() for x in ctx.saved_tensors]
        with torch.enable_grad():
            results = delta_rule_chunk(*leaves, scale=scale, chunk=chunk, validate=False)
        return (*torch.autograd.grad(results, leaves, (d_output, d_final)), None, None)


@no_type_check
@triton.jit
def _chunk_kernel(
    q, k, v, beta, state, output, final, scale, length, heads, dk, dv,
    CHUNK: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    head, tile = tl.program_id(0), tl.program_id(1)
    b, h = head // heads, head % heads
    rows = tl.arange(0, CHUNK)
    ks = tl.arange(0, BLOCK_K)
    vs = tile * BLOCK_V + tl.arange(0, BLOCK_V)
    at_state = head * dk * dv + ks[:, None] * dv + vs[None, :]
    in_state = (ks[:, None] < dk) & (vs[None, :] < dv)
    s = tl.load(state + at_state, mask=in_state, other=0.0).to(tl.float32)
    for begin in range(0, length, CHUNK):
        t = begin + rows
        token = (b * length + t) * heads + h
        at_k = token[:, None] * dk + ks[None, :]
        in_k = (t[:, None] < length) & (ks[None, :] < dk)
        at_v = token[:, None] * dv + vs[None, :]
        in_v = (t[:, None] < length) & (vs[None, :] < dv)
        q_c = tl.load(q + at_k, mask=in_k, other=0.0).to(tl.float32) * scale
        k_c = tl.load(k + at_k, mask=in_k, other=0.0).to(tl.float32)
        v_c = tl.load(v + at_v, mask=in_v, other=0.0).to(tl.float32)
        beta_c = tl.load(beta + token, mask=t < length, other=0.0).to(tl.float32)
        # ieee: TF32 would spoil the solution where keys resemble each other
        gram = tl.dot(k_c, tl.trans(k_c), input_precision="ieee")
        lower = tl.where(rows[:, None] > rows[None, :], beta_c[:, None] * gram, 0.0)
        # U' solves (I + lower) U' = beta (V - K S): row by row, forward
        u = beta_c[:, None] * (v_c - tl.dot(k_c, s, input_precision="ieee"))
        for i in range(1, CHUNK):
            row = tl.sum(tl.where(rows[:, None] == i, lower, 0.0), 0)
            found = tl.sum(row[:, None] * u, 0)
            u = tl.where(rows[:, None] == i, u - found[None, :], u)
        scores = tl.where(rows[:, None] >= rows[None, :], tl.dot(q_c, tl.trans(k_c), input_precision="ieee"), 0.0)
        o = tl.dot(q_c, s, input_precision="ieee") + tl.dot(scores, u, input_precision="ieee")
        tl.store(output + at_v, o.to(output.dtype.element_ty), mask=in_v)
        s += tl.dot(tl.trans(k_c), u, input_precision="ieee")
    tl.store(final + at_state, s.to(final.dtype.element_ty), mask=in_state)
