"""An LSTM's whole sequence as one operation, forward and backward by the equations; the loop of `cells` is its oracle.

torch has no fused kernel for the cell of 1997 and for peepholes. Here each step is one product and a few in-place
operations on preallocated memory, derivatives of the gates are taken for all steps at once, and the gradient of each
weight is one product over the whole sequence in place of a sum over steps.
"""

from typing import Any

import torch
from torch import Tensor

from .cells import LSTMCell
from .checks import State

__all__ = ["lstm_sequence"]


def lstm_sequence(cell: LSTMCell, x: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, State]:
    """What `cell.unroll` gives, several times as fast; gradients of gradients are refused.

    Args:
        x: (batch, length, features), at least one step.
        lengths: steps of each sequence; beyond them outputs are 0 and the state stays.
    """
    keep = None
    if lengths is not None:
        time = torch.arange(x.shape[1], device=x.device)
        keep = (time[:, None] < lengths)[:, :, None].to(x.dtype)
    peephole = cell.peephole if cell.variant == "peephole" else None
    projected = cell.project(x.transpose(0, 1))
    y, h, s = _Sequence.apply(projected, *state, cell.weight_h, peephole, keep, cell.truncated)
    return y.transpose(0, 1), (h, s)


class _Sequence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        projected: Tensor,
        h: Tensor,
        s: Tensor,
        weight: Tensor,
        peephole: Tensor | None,
        keep: Tensor | None,
        truncated: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(length, batch, gates n) to outputs of all steps, time first, and the last state."""
        length, batch, n = len(projected), *h.shape
        gates = torch.empty_like(projected, memory_format=torch.contiguous_format)
        hs, ss = (h.new_empty(length + 1, batch, n) for _ in range(2))
        squashed = h.new_empty(length, batch, n)
        hs[0], ss[0] = h, s
        forget, turned = projected.shape[2] == 4 * n, weight.T
        all_h, all_s = hs.unbind(0), ss.unbind(0)
        for t, (sums, given, out) in enumerate(
            zip(gates.unbind(0), projected.unbind(0), squashed.unbind(0), strict=True)
        ):
            torch.addmm(given, all_h[t], turned, out=sums)
            before, after = all_s[t], all_s[t + 1]
            i, g, o = sums[:, :n], sums[:, -2 * n : -n], sums[:, -n:]
            if peephole is not None:
                sums[:, : 2 * n].view(batch, 2, n).addcmul_(peephole[:2], before[:, None])
            sums[:, : -2 * n].sigmoid_()
            g.tanh_()
            if forget:
                torch.mul(before, sums[:, n : 2 * n], out=after)
                after.addcmul_(i, g)
            else:
                torch.addcmul(before, i, g, out=after)
            if peephole is not None:
                o.addcmul_(peephole[2], after)
            torch.tanh(after, out=out)
            torch.mul(out, o.sigmoid_(), out=all_h[t + 1])
            if keep is not None:
                after.copy_(torch.where(keep[t] > 0, after, before))
                all_h[t + 1].copy_(torch.where(keep[t] > 0, all_h[t + 1], all_h[t]))
        ctx.save_for_backward(gates, hs, ss, squashed, weight, peephole, keep)
        ctx.truncated = truncated
        y = hs[1:].clone() if keep is None else hs[1:] * keep
        return y, hs[-1].clone(), ss[-1].clone()

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        """Backpropagation through time, delta by delta; all that does not run through time is outside of the loop."""
        if torch.is_grad_enabled():
            raise RuntimeError('gradients of gradients need the loop over steps: backend="loop"')
        by_y, dh, ds = given
        gates, hs, ss, squashed, weight, peephole, keep = ctx.saved_tensors
        length, batch, n = squashed.shape
        forget = gates.shape[2] == 4 * n
        i, g, o = gates[..., :n], gates[..., -2 * n : -n], gates[..., -n:]
        # what an error of s(t) is worth at the sums of i, (f,) g, and one of h(t) at the sum of o and at s(t)
        slopes = torch.empty_like(gates)
        torch.mul(g, i * (1 - i), out=slopes[..., :n])
        torch.mul(i, 1 - g * g, out=slopes[..., -2 * n : -n])
        torch.mul(squashed, o * (1 - o), out=slopes[..., -n:])
        through = o * (1 - squashed * squashed)
        passed = None
        if forget:
            passed = gates[..., n : 2 * n]
            torch.mul(ss[:-1], passed * (1 - passed), out=slopes[..., n : 2 * n])
        if keep is not None:
            slopes *= keep
            through *= keep
            by_y = by_y * keep
            passed = None if passed is None else torch.where(keep > 0, passed, 1.0)
        dh, ds, parts = dh.clone(), ds.clone(), gates.shape[2] // n - 1
        errors = slopes  # each step's slopes are turned into its errors
        for t in reversed(range(length)):
            dh += by_y[t]
            error = errors[t]
            late = error[:, -n:]
            late *= dh
            ds.addcmul_(dh, through[t])
            if peephole is not None:
                ds.addcmul_(late, peephole[2])
            error[:, :-n].view(batch, parts, n).mul_(ds[:, None])
            waiting = None if keep is None else dh * (1 - keep[t])
            dh = torch.zeros_like(dh) if ctx.truncated else error @ weight
            if waiting is not None:
                dh += waiting
            if passed is not None:
                ds = ds * passed[t]
            if peephole is not None:
                ds += (error[:, : 2 * n].view(batch, 2, n) * peephole[:2]).sum(1)
        by_weight = errors.flatten(0, 1).T @ hs[:-1].flatten(0, 1)
        by_peephole = None
        if peephole is not None:
            early = (errors[..., : 2 * n].unflatten(2, (2, n)) * ss[:-1, :, None]).sum((0, 1))
            by_peephole = torch.cat([early, (errors[..., -n:] * ss[1:]).sum((0, 1))[None]])
        return errors, dh, ds, by_weight, by_peephole, None, None
