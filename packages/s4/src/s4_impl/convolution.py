"""Fast convolution of a batch with long kernels."""

import torch
from jaxtyping import Complex, Float
from torch import Tensor

__all__ = ["convolve", "convolve_direct", "fast_length", "rfft"]


def convolve(
    u: Float[Tensor, "batch heads length"],
    kernel: Float[Tensor, "channels heads taps"],
    reverse: Float[Tensor, "channels heads reverse_taps"] | None = None,
) -> Float[Tensor, "batch channels heads length"]:
    """y_t = sum_{s <= t} k_{t-s} u_s, and with `reverse` also + sum_{s >= t} r_{s-t} u_s, without wrapping round.

    Zero padding to length + taps - 1 keeps the cyclic convolution from wrapping; a real kernel reversed in time has
    the complex conjugate spectrum, so both directions cost one transform back.
    """
    length = u.shape[-1]
    taps = max(kernel.shape[-1], 0 if reverse is None else reverse.shape[-1])
    n = fast_length(length + taps - 1)
    spectrum = rfft(kernel, n)
    if reverse is not None:
        spectrum = spectrum + rfft(reverse, n).conj()
    return torch.fft.irfft(rfft(u, n).unsqueeze(1) * spectrum, n=n)[..., :length]


def convolve_direct(
    u: Float[Tensor, "batch heads length"],
    kernel: Float[Tensor, "channels heads taps"],
    reverse: Float[Tensor, "channels heads reverse_taps"] | None = None,
) -> Float[Tensor, "batch channels heads length"]:
    """The same sum written out, O(length^2): the oracle."""
    length = u.shape[-1]
    t = torch.arange(length, device=u.device)
    lag = t[:, None] - t[None, :]

    def toeplitz(k: Tensor, lag: Tensor) -> Tensor:
        taps = k.shape[-1]
        inside = (lag >= 0) & (lag < taps)
        return torch.where(inside, k[..., lag.clamp(0, taps - 1)], 0.0)

    matrix = toeplitz(kernel, lag)
    if reverse is not None:
        matrix = matrix + toeplitz(reverse, -lag)
    return torch.einsum("chts,bhs->bcht", matrix, u)


def fast_length(n: int) -> int:
    """The least even number, at least n, with no prime factor above 5: where the FFT is fast."""
    candidate = n + n % 2
    while True:
        rest = candidate
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return candidate
        candidate += 2


def rfft(x: Float[Tensor, "*batch length"], n: int) -> Complex[Tensor, "*batch frequencies"]:
    """torch.fft.rfft with zero padding to n, and a gradient that is a real transform too.

    PyTorch differentiates rfft through a complex transform of full length; the adjoint of a transform of real numbers
    is itself real, which halves the work and the memory of the backward pass.
    """
    result: Tensor = _RealFFT.apply(x, n)
    return result


class _RealFFT(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, n: int) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.length, ctx.n = x.shape[-1], n
        return torch.fft.rfft(x, n=n)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        # Re sum_j G_j exp(2 pi i j l / n) over the frequencies kept. irfft counts those that have a mirror image twice.
        n = ctx.n
        mirrored = torch.full((grad.shape[-1],), 0.5 * n, dtype=grad.real.dtype, device=grad.device)
        mirrored[0] = n
        if n % 2 == 0:
            mirrored[-1] = n
        return torch.fft.irfft(grad * mirrored, n=n)[..., : ctx.length], None
