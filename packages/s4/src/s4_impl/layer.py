"""`S4Layer`: the state space as a sequence-to-sequence layer."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from s4_impl.convolution import convolve
from s4_impl.kernel import S4Kernel
from s4_impl.recurrence import StepMode

__all__ = ["S4Layer"]


class S4Layer(nn.Module):
    """y = SSM(u) + D u for each feature on its own (section 3.4): a convolution to train, a recurrence to generate.

    Nothing else is in it: no activation, no mixing of features, no normalisation, no residual. `S4Block` adds those.

    Args:
        d_model: number of features.
        channels: outputs for each feature; the output has channels * d_model features, channel by channel.
        bidirectional: add a second kernel that runs backwards over the sequence; the present sample is in both.
        reverse_lag: distance of the backward kernel's first tap: 0 is the exact form; 1 reproduces models trained with
            the official code, whose backward half is shifted by one.
        transposed: take and give (batch, d_model, length) instead of (batch, length, d_model).
        kernel_options: see `S4Kernel`.

    Raises:
        ValueError: for arguments that `S4Kernel` refuses, or a `reverse_lag` other than 0 or 1.
    """

    def __init__(
        self,
        d_model: int,
        *,
        channels: int = 1,
        bidirectional: bool = False,
        reverse_lag: int = 0,
        transposed: bool = False,
        **kernel_options: Any,
    ) -> None:
        super().__init__()
        if reverse_lag not in (0, 1):
            raise ValueError(f"reverse_lag must be 0 or 1, got {reverse_lag}")
        self.d_model, self.d_output, self.channels = d_model, d_model * channels, channels
        self.bidirectional, self.reverse_lag, self.transposed = bidirectional, reverse_lag, transposed
        self.kernel = S4Kernel(d_model, channels=channels * (2 if bidirectional else 1), **kernel_options)
        self.D = nn.Parameter(torch.randn(channels, d_model, dtype=self.kernel.log_dt.dtype))

    def forward(
        self,
        u: Float[Tensor, "batch a b"],
        state: Tensor | None = None,
        rate: float = 1.0,
        *,
        lengths: Int[Tensor, "batch"] | None = None,
    ) -> tuple[Float[Tensor, "batch c d"], Tensor | None]:
        """The whole sequence at once, O(L log L).

        Args:
            u: (batch, length, d_model), or (batch, d_model, length) if `transposed`.
            state: what went before (`default_state` for nothing). With it the state after u is returned as well, so
                that a long sequence can go through in pieces; without it the second result is None.
            rate: multiplies every dt: 2 for input sampled half as often.
            lengths: number of valid samples of each sequence; what comes after them is taken as zero.

        Raises:
            ValueError: for a wrong shape, an empty sequence, or a state in a bidirectional layer or beside `lengths`.
        """
        feature_axis = 1 if self.transposed else 2
        if u.shape[feature_axis] != self.d_model:
            order = "(batch, d_model, length)" if self.transposed else "(batch, length, d_model)"
            raise ValueError(f"u must be {order} with d_model {self.d_model}, got shape {tuple(u.shape)}")
        if state is not None and self.bidirectional:
            raise ValueError("state must be None in a bidirectional layer: it has no past without the future")
        if state is not None and lengths is not None:
            raise ValueError("lengths must be None when a state is given")
        x = u if self.transposed else u.transpose(1, 2)
        length = x.shape[-1]
        if lengths is not None:
            x = x * (torch.arange(length, device=x.device) < lengths[:, None]).unsqueeze(1)

        K, from_state = self.kernel(length, rate=rate, state=state)
        with torch.autocast(u.device.type, enabled=False):
            x = x.to(K.dtype)
            if self.bidirectional:
                ahead, behind = K.chunk(2)
                if self.reverse_lag:
                    behind = nn.functional.pad(behind, (1, 0))
                y = convolve(x, ahead, behind)
            else:
                y = convolve(x, K)
            y = y + x.unsqueeze(1) * self.D.to(K.dtype).unsqueeze(-1)
            if from_state is not None:
                y = y + from_state
        y = y.flatten(1, 2).to(u.dtype)
        after = None if state is None else self.kernel.next_state(x, state, rate=rate)
        return y if self.transposed else y.transpose(1, 2), after

    def default_state(self, batch: int) -> Tensor:
        """The state before anything has been seen."""
        return self.kernel.default_state(batch)

    def setup_step(self, mode: StepMode = "linear", *, rate: float = 1.0) -> None:
        """Prepare `step`: see `S4Kernel.setup_step`.

        Raises:
            ValueError: for an unknown mode, or a bidirectional layer.
        """
        if self.bidirectional:
            raise ValueError("a bidirectional layer cannot be stepped: it needs the future")
        self.kernel.setup_step(mode, rate=rate)

    def step(self, u: Float[Tensor, "batch d_model"], state: Tensor) -> tuple[Float[Tensor, "batch d_output"], Tensor]:
        """One sample of each sequence: y_t, and the state after it. Costs the same however long the past is.

        Raises:
            RuntimeError: before `setup_step`, or if the weights have changed since.
            ValueError: if `u` or `state` has the wrong shape.
        """
        if u.shape[-1] != self.d_model:
            raise ValueError(f"u must have shape (batch, {self.d_model}), got {tuple(u.shape)}")
        y, state = self.kernel.step(u, state)
        y = y + u.unsqueeze(1) * self.D
        return y.flatten(1).to(u.dtype), state

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, bidirectional={self.bidirectional}, transposed={self.transposed}"
