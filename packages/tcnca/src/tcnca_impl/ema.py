"""Long convolutions that are linear recurrences: MEGA's multi-head EMA, and S4D; FFT, recurrence and direct sum."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .norms import check_input

__all__ = ["S4D", "MultiHeadEMA", "direct_causal_conv", "ema_parallel_scan", "fft_causal_conv", "fft_two_sided_conv"]


def fft_causal_conv(
    x: Float[Tensor, "batch length d_model"], kernel: Float[Tensor, "d_model taps"]
) -> Float[Tensor, "batch length d_model"]:
    """y_t = sum_s k_s x_{t-s} by FFTs of twice the length, O(L log L).

    Half precision is computed in float32 (an FFT in half precision is wrong or missing) and cast back.
    """
    return _circular(x, kernel[:, : x.shape[1]], x.shape[1] + min(kernel.shape[1], x.shape[1]))


def fft_two_sided_conv(
    x: Float[Tensor, "batch length d_model"],
    forth: Float[Tensor, "d_model taps"],
    back: Float[Tensor, "d_model taps"],
) -> Float[Tensor, "batch length d_model"]:
    """y_t = sum_s forth_s x_{t-s} + sum_s back_s x_{t+s}, in one circular convolution of twice the length."""
    taps = min(forth.shape[1], x.shape[1])
    forth, back, n = forth[:, :taps], back[:, :taps], x.shape[1] + taps
    kernel = F.pad(forth, (0, n - taps)) + F.pad(back[:, :1], (0, n - 1))
    return _circular(x, kernel + F.pad(back[:, 1:].flip(1), (n - taps + 1, 0)), n)


def _circular(x: Tensor, kernel: Tensor, n: int) -> Tensor:
    wide = torch.promote_types(torch.promote_types(x.dtype, kernel.dtype), torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        x_f = torch.fft.rfft(x.transpose(1, 2).to(wide), n=n)
        y = torch.fft.irfft(x_f * torch.fft.rfft(kernel.to(wide), n=n), n=n)
    return y[..., : x.shape[1]].transpose(1, 2).to(x.dtype)


def direct_causal_conv(
    x: Float[Tensor, "batch length d_model"], kernel: Float[Tensor, "d_model taps"]
) -> Float[Tensor, "batch length d_model"]:
    """The same by the sum itself, O(L^2); the oracle."""
    y = torch.zeros_like(x)
    for s in range(min(kernel.shape[1], x.shape[1])):
        y[:, s:] = y[:, s:] + kernel[:, s] * x[:, : x.shape[1] - s]
    return y


def ema_parallel_scan(
    x: Float[Tensor, "batch length d_model"],
    decay: Float[Tensor, "d_model n"],
    into: Float[Tensor, "d_model n"],
    out: Float[Tensor, "d_model n"],
) -> Float[Tensor, "batch length d_model"]:
    """h_t = decay h_{t-1} + into x_t, y_t = <out, h_t>, by log2(L) doublings over all states."""
    h = x.unsqueeze(-1) * into
    shift, power = 1, decay
    while shift < x.shape[1]:
        h = h + F.pad(h[:, :-shift] * power, (0, 0, 0, 0, shift, 0))
        shift, power = 2 * shift, power * power
    return torch.einsum("bldn,dn->bld", h, out)


def _wide(weight: Tensor) -> Tensor:
    """In float32, or float64 if it is."""
    return weight.to(torch.promote_types(weight.dtype, torch.float32))


class _Powers:
    """decay^l for l = 0 .. length - 1 as products of two tables of about sqrt(length): no (rows, n, length) is made."""

    def __init__(self, decay: Tensor, length: int) -> None:
        width = max(1, math.isqrt(length))
        blocks = -(-length // width)
        self.length, self.width, self.blocks = length, width, blocks
        steps = torch.arange(max(width, blocks), device=decay.device, dtype=decay.abs().dtype)
        log = torch.log(decay).unsqueeze(-1)
        self.low = torch.exp(steps[:width] * log)  # (rows, n, width)
        self.high = torch.exp(width * steps[:blocks] * log)  # (rows, n, blocks)

    def weighed(self, weight: Float[Tensor, "*batch rows n"] | Tensor) -> Tensor:
        """sum_n weight_n decay_n^l, (*batch, rows, length)."""
        blocks = (weight.unsqueeze(-1) * self.high).transpose(-1, -2)
        return (blocks @ self.low).flatten(-2)[..., : self.length]

    def remembered(self, x: Float[Tensor, "batch length rows"] | Tensor) -> Tensor:
        """sum_t decay^(length - 1 - t) x_t, (batch, rows, n)."""
        padded = F.pad(x, (0, 0, self.blocks * self.width - self.length, 0)).unflatten(1, (self.blocks, self.width))
        inner = torch.einsum("bkad,dna->bkdn", padded.to(self.low.dtype), self.low.flip(-1))
        return torch.einsum("bkdn,dnk->bdn", inner, self.high.flip(-1))


class MultiHeadEMA(nn.Module):
    """SiLU(EMA(x) + omega x), n damped averages a channel (MEGA, equations 5 to 8; here the baseline).

    p = sigmoid(delta), q = 1 - p sigmoid(alpha), kernel k_l = sum_n p beta q^l gamma n^-1/2. Coefficients, kernel and
    state are in float32 at least, whatever the parameters and inputs are, also under autocast. A kernel made once can
    be given to `convolve` again and again.

    Args:
        truncation: longest kernel; None: the length.
        activation: False gives EMA(x) + omega x.

    Raises:
        ValueError: numbers below 1.
    """

    def __init__(
        self,
        d_model: int,
        n_states: int = 16,
        *,
        bidirectional: bool = False,
        truncation: int | None = None,
        activation: bool = True,
    ) -> None:
        super().__init__()
        for name, value in (("d_model", d_model), ("n_states", n_states), ("truncation", truncation)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.d_model, self.n_states, self.bidirectional = d_model, n_states, bidirectional
        self.truncation, self.activation = truncation, activation
        rows = 2 * d_model if bidirectional else d_model
        self.delta = nn.Parameter(torch.empty(rows, n_states))
        self.alpha = nn.Parameter(torch.empty(rows, n_states))
        self.beta = nn.Parameter(torch.empty(rows, n_states))
        self.gamma = nn.Parameter(torch.empty(rows, n_states))
        self.omega = nn.Parameter(torch.empty(d_model))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """delta, alpha N(0, 0.2); beta alternating +1, -1 plus N(0, 0.02); gamma, omega N(0, 1)."""
        nn.init.normal_(self.delta, std=0.2)
        nn.init.normal_(self.alpha, std=0.2)
        nn.init.normal_(self.gamma)
        nn.init.normal_(self.omega)
        with torch.no_grad():
            signs = 1.0 - 2.0 * (torch.arange(self.n_states) % 2)
            self.beta.normal_(std=0.02).add_(signs)

    def coefficients(self) -> tuple[Tensor, Tensor, Tensor]:
        """Decay q, input weight p beta, output weight gamma n^-1/2, each (rows, n)."""
        delta, alpha, beta, gamma = (_wide(w) for w in (self.delta, self.alpha, self.beta, self.gamma))
        p = torch.sigmoid(delta)
        return 1 - p * torch.sigmoid(alpha), p * beta, gamma * math.sqrt(1 / self.n_states)

    def kernel(self, length: int) -> Float[Tensor, "rows taps"]:
        """The kernel as a convolution sees it."""
        decay, into, out = self.coefficients()
        taps = length if self.truncation is None else min(length, self.truncation)
        with torch.autocast(decay.device.type, enabled=False):
            return _Powers(decay, taps).weighed(into * out)

    def convolve(
        self, x: Float[Tensor, "batch length d_model"], kernel: Float[Tensor, "rows taps"] | None = None
    ) -> Float[Tensor, "batch length d_model"]:
        """EMA(x) alone by FFT, with a kernel made before if given; both directions if there are two."""
        kernel = self.kernel(x.shape[1]) if kernel is None else kernel
        if self.bidirectional:
            return fft_two_sided_conv(x, kernel[: self.d_model], kernel[self.d_model :])
        return fft_causal_conv(x, kernel)

    def recurrent(
        self, x: Float[Tensor, "batch length d_model"], state: Float[Tensor, "batch d_model n"] | None = None
    ) -> tuple[Float[Tensor, "batch length d_model"], Float[Tensor, "batch d_model n"]]:
        """EMA(x) alone one position after the other; the oracle."""
        decay, into, out = self.coefficients()
        h = self.initial_state(x.shape[0]) if state is None else state
        ys = []
        for x_t in x.unbind(1):
            h = decay * h + into * x_t.unsqueeze(-1)
            ys.append((h * out).sum(-1))
        return torch.stack(ys, 1).to(x.dtype), h

    def initial_state(self, batch_size: int) -> Float[Tensor, "batch d_model n"]:
        """Zeros."""
        return _wide(self.delta).new_zeros(batch_size, self.d_model, self.n_states)

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: Tensor | None = None,
        mask: Bool[Tensor, "batch length"] | None = None,
        *,
        return_state: bool = True,
    ) -> tuple[Float[Tensor, "batch length d_model"], Tensor | None]:
        """The sequence, or a piece that continues one.

        Raises:
            ValueError: a state with a bidirectional or truncated kernel; a wrong shape.
        """
        check_input(x, self.d_model)
        if state is not None:
            self._refuse_streaming()
        kept = x if mask is None else x * mask.unsqueeze(-1).to(x.dtype)
        y, after = self.convolve(kept), None
        if (return_state or state is not None) and not self.bidirectional and self.truncation is None:
            decay, into, out = self.coefficients()
            with torch.autocast(x.device.type, enabled=False):
                powers = _Powers(decay, x.shape[1])
                after = into * powers.remembered(kept.to(decay.dtype))
                if state is not None:
                    y = y + powers.weighed(out * decay * state).transpose(1, 2).to(y.dtype)
                    after = after + decay ** x.shape[1] * state
        return self._finish(y, x), after

    def step(self, x_t: Float[Tensor, "batch d_model"], state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One position."""
        check_input(x_t.unsqueeze(1), self.d_model)
        self._refuse_streaming()
        y, state = self.recurrent(x_t.unsqueeze(1), state)
        return self._finish(y, x_t.unsqueeze(1)).squeeze(1), state

    def _finish(self, y: Tensor, x: Tensor) -> Tensor:
        y = y + x * self.omega
        return F.silu(y) if self.activation else y

    def _refuse_streaming(self) -> None:
        if self.bidirectional:
            raise ValueError("a bidirectional average reads the future, so it takes no state")
        if self.truncation is not None:
            raise ValueError(f"a kernel truncated at {self.truncation} is no recurrence, so it takes no state")


class S4D(nn.Module):
    """SiLU(SSM(x) + D x) with a diagonal complex state, A_n = -1/2 + i pi n (Gu et al. 2022, S4D-Lin)."""

    def __init__(self, d_model: int, n_states: int = 16, *, bidirectional: bool = False) -> None:
        super().__init__()
        self.d_model, self.n_states, self.bidirectional = d_model, n_states, bidirectional
        rows = 2 * d_model if bidirectional else d_model
        self.log_dt = nn.Parameter(torch.empty(rows, 1).uniform_(math.log(1e-3), math.log(1e-1)))
        self.log_a_real = nn.Parameter(torch.full((rows, n_states), math.log(0.5)))
        self.a_imag = nn.Parameter(math.pi * torch.arange(n_states).float().repeat(rows, 1))
        self.c = nn.Parameter(torch.randn(rows, n_states, 2) * 0.5**0.5)
        self.skip = nn.Parameter(torch.randn(d_model))

    def coefficients(self) -> tuple[Tensor, Tensor]:
        """Discrete decay exp(dt A), and C (exp(dt A) - 1) / A, complex (rows, n)."""
        a = torch.complex(-_wide(self.log_a_real).exp(), _wide(self.a_imag))
        decay = torch.exp(a * _wide(self.log_dt).exp())
        return decay, torch.view_as_complex(_wide(self.c)) * (decay - 1) / a

    def kernel(self, length: int) -> Float[Tensor, "rows taps"]:
        """2 Re sum_n C_n B_n decay_n^l."""
        decay, weight = self.coefficients()
        return 2 * _Powers(decay, length).weighed(weight).real

    def initial_state(self, batch_size: int) -> Tensor:
        """Zeros, complex."""
        decay, _ = self.coefficients()
        return decay.new_zeros(batch_size, self.d_model, self.n_states)

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: Tensor | None = None,
        mask: Bool[Tensor, "batch length"] | None = None,
        *,
        return_state: bool = True,
    ) -> tuple[Float[Tensor, "batch length d_model"], Tensor | None]:
        """The sequence, or a piece that continues one.

        Raises:
            ValueError: a state with the bidirectional form; a wrong shape.
        """
        check_input(x, self.d_model)
        if state is not None and self.bidirectional:
            raise ValueError("a bidirectional state space reads the future, so it takes no state")
        kept = x if mask is None else x * mask.unsqueeze(-1).to(x.dtype)
        kernel = self.kernel(x.shape[1])
        after = None
        if self.bidirectional:
            y = fft_two_sided_conv(kept, kernel[: self.d_model], kernel[self.d_model :])
        else:
            y = fft_causal_conv(kept, kernel)
        if not self.bidirectional and (return_state or state is not None):
            decay, weight = self.coefficients()
            powers = _Powers(decay, x.shape[1])
            after = powers.remembered(kept)
            if state is not None:
                y = y + 2 * powers.weighed(weight * decay * state).real.transpose(1, 2).to(y.dtype)
                after = after + decay ** x.shape[1] * state
        return F.silu(y + x * self.skip), after

    def step(self, x_t: Float[Tensor, "batch d_model"], state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One position."""
        y, after = self(x_t.unsqueeze(1), self.initial_state(x_t.shape[0]) if state is None else state)
        return y.squeeze(1), after
