"""What is compared: ConvTasNet, DPRNN and SepFormer in small, the ideal ratio mask, the mixture itself."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from shared_impl.pretrained import Pretrained

from .attention import sinusoids
from .convolution import depthwise
from .model import OverAll, decode, encode

__all__ = ["BASELINES", "DPRNN", "ConvTasNet", "SepFormer", "ideal_ratio_mask", "mixture_as_estimate"]

Wave = Float[Tensor, "batch samples"]
Estimates = Float[Tensor, "batch n_src samples"]
Frames = Float[Tensor, "batch frames channels"]


class _Masking(nn.Module):
    """Encoder, a network that makes masks of frames, decoder."""

    def __init__(self, n_src: int, n_filters: int, kernel: int, sample_rate: int) -> None:
        super().__init__()
        for name, value in (("n_src", n_src), ("n_filters", n_filters), ("sample_rate", sample_rate)):
            if value < 1:
                raise ValueError(f"{name} must be positive, got {value}")
        if kernel < 2 or kernel % 2:
            raise ValueError(f"kernel must be even and positive, got {kernel}")
        self.n_src, self.kernel, self.stride, self.sample_rate = n_src, kernel, kernel // 2, sample_rate
        self.encoder = nn.Conv1d(1, n_filters, kernel, kernel // 2, bias=False)
        self.decoder = nn.ConvTranspose1d(n_filters, 1, kernel, kernel // 2, bias=False)

    def masks(self, frames: Frames) -> Float[Tensor, "batch n_src frames channels"]:
        raise NotImplementedError

    def forward(self, mixture: Wave) -> Estimates:
        samples = mixture.shape[1]
        if samples == 0:
            raise ValueError("mixture must have at least one sample, got none")
        frames = F.relu(encode(F.pad(mixture, (0, max(0, self.kernel - samples))), self.encoder.weight, self.stride))
        return decode(self.masks(frames) * frames[:, None], self.decoder.weight, samples)

    def separate(self, wave: Any, sr: int | None = None, *, chunk_s: float | None = None, overlap: float = 0.5) -> Any:
        """As `MossFormer2.separate`."""
        from .separation import separate

        return separate(self, wave, sr, chunk_s=chunk_s, overlap=overlap)


class _TasBlock(nn.Module):
    """The last one has no residual, which nobody would hear."""

    def __init__(self, channels: int, hidden: int, kernel: int, dilation: int, last: bool) -> None:
        super().__init__()
        self.into, self.skip = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.residual = None if last else nn.Linear(hidden, channels)
        self.conv = nn.Conv1d(hidden, hidden, kernel, groups=hidden, bias=False)
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.prelu1, self.prelu2 = nn.PReLU(), nn.PReLU()
        self.norm1, self.norm2 = OverAll(hidden), OverAll(hidden)
        self.dilation = dilation

    def forward(self, x: Frames) -> tuple[Frames, Frames]:
        y = self.norm1(self.prelu1(self.into(x)))
        y = depthwise(y, self.conv.weight[:, 0], dilation=self.dilation) + self.bias
        y = self.norm2(self.prelu2(y))
        return x if self.residual is None else x + self.residual(y), self.skip(y)


class ConvTasNet(_Masking, Pretrained):
    """Luo and Mesgarani 2019: dilated depthwise convolutions, global norms, sigmoid masks.

    Args:
        channels: of the bottleneck and of skips.
        hidden: of a block.
        blocks: in a repeat, with dilations 1, 2, 4, ...
    """

    def __init__(
        self, *, n_src: int = 2, n_filters: int = 512, kernel: int = 16, channels: int = 128, hidden: int = 512,
        blocks: int = 8, repeats: int = 3, sample_rate: int = 8000,
    ) -> None:  # fmt: skip
        super().__init__(n_src, n_filters, kernel, sample_rate)
        self.norm, self.into = OverAll(n_filters), nn.Linear(n_filters, channels)
        if blocks < 1 or repeats < 1:
            raise ValueError(f"blocks and repeats must be positive, got {blocks} and {repeats}")
        dilations = [2**i for i in range(blocks)] * repeats
        self.blocks = nn.ModuleList(
            _TasBlock(channels, hidden, 3, d, i + 1 == len(dilations)) for i, d in enumerate(dilations)
        )
        self.prelu, self.out_of = nn.PReLU(), nn.Linear(channels, n_src * n_filters)

    def masks(self, frames: Frames) -> Float[Tensor, "batch n_src frames channels"]:
        x = self.into(self.norm(frames))
        total = torch.zeros_like(x)
        for block in self.blocks:
            x, skip = block(x)
            total = total + skip
        return torch.sigmoid(self.out_of(self.prelu(total))).unflatten(2, (self.n_src, -1)).transpose(1, 2)


def _chunks(x: Frames, size: int) -> Float[Tensor, "batch chunks size channels"]:
    """Chunks that overlap by a half, with half a chunk of zeros before and after."""
    half = size // 2
    more = -x.shape[1] % half
    return F.pad(x, (0, 0, half, half + more)).unfold(1, size, half).transpose(2, 3)


def _joined(x: Float[Tensor, "batch chunks size channels"], frames: int) -> Frames:
    half = x.shape[2] // 2
    first, second = x[:, :, :half], x[:, :, half:]
    both = F.pad(first, (0, 0, 0, 0, 0, 1)) + F.pad(second, (0, 0, 0, 0, 1, 0))
    return both.flatten(1, 2)[:, half : half + frames]


class _DualPath(_Masking):
    """Chunks of frames; one module within chunks and one across them, `layers` times."""

    def __init__(self, n_src: int, n_filters: int, channels: int, chunk: int, kernel: int, sample_rate: int) -> None:
        super().__init__(n_src, n_filters, kernel, sample_rate)
        if chunk < 2 or chunk % 2:
            raise ValueError(f"chunk must be even and positive, got {chunk}")
        self.norm, self.into = OverAll(n_filters), nn.Linear(n_filters, channels)
        self.prelu, self.split = nn.PReLU(), nn.Linear(channels, n_src * channels)
        self.value, self.gate = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.out_of = nn.Linear(channels, n_filters, bias=False)
        self.chunk = chunk
        self.pairs = nn.ModuleList()

    def masks(self, frames: Frames) -> Float[Tensor, "batch n_src frames channels"]:
        x = _chunks(self.into(self.norm(frames)), self.chunk)
        batch, chunks, size, channels = x.shape
        pair: Any
        for pair in self.pairs:
            within, across = pair
            x = within(x.flatten(0, 1)).view(batch, chunks, size, channels)
            x = across(x.transpose(1, 2).reshape(batch * size, chunks, channels))
            x = x.view(batch, size, chunks, channels).transpose(1, 2)
        x = self.split(self.prelu(_joined(x, frames.shape[1]))).unflatten(2, (self.n_src, -1)).transpose(1, 2)
        return F.relu(self.out_of(torch.tanh(self.value(x)) * torch.sigmoid(self.gate(x))))


class _Recurrent(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels, hidden, batch_first=True, bidirectional=True)
        self.out, self.norm = nn.Linear(2 * hidden, channels), nn.LayerNorm(channels)

    def forward(self, x: Frames) -> Frames:
        return x + self.norm(self.out(self.lstm(x)[0]))  # type: ignore[no-any-return]


class DPRNN(_DualPath, Pretrained):
    """Luo, Chen and Yoshioka 2020, in small: LSTMs within chunks and across them."""

    def __init__(
        self, *, n_src: int = 2, n_filters: int = 64, channels: int = 64, hidden: int = 64, layers: int = 2,
        chunk: int = 100, kernel: int = 16, sample_rate: int = 8000,
    ) -> None:  # fmt: skip
        super().__init__(n_src, n_filters, channels, chunk, kernel, sample_rate)
        for _ in range(layers):
            self.pairs.append(nn.ModuleList([_Recurrent(channels, hidden), _Recurrent(channels, hidden)]))


class _Transformer(nn.Module):
    def __init__(self, channels: int, heads: int, inner: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(channels, heads, inner, dropout, batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Frames) -> Frames:
        y = x + sinusoids(x.shape[1], x.shape[2], device=x.device, dtype=x.dtype)
        for layer in self.layers:
            y = layer(y)
        return x + self.norm(y)  # type: ignore[no-any-return]


class SepFormer(_DualPath, Pretrained):
    """Subakan et al. 2021, in small: transformers within chunks and across them.

    Args:
        depth: layers of each transformer.
    """

    def __init__(
        self, *, n_src: int = 2, n_filters: int = 64, channels: int = 64, heads: int = 4, inner: int = 128,
        depth: int = 2, layers: int = 1, chunk: int = 100, kernel: int = 16, dropout: float = 0.0,
        sample_rate: int = 8000,
    ) -> None:  # fmt: skip
        super().__init__(n_src, n_filters, channels, chunk, kernel, sample_rate)
        if channels % heads:
            raise ValueError(f"channels must be a multiple of heads = {heads}, got {channels}")
        for _ in range(layers):
            pair = [_Transformer(channels, heads, inner, depth, dropout) for _ in range(2)]
            self.pairs.append(nn.ModuleList(pair))


def ideal_ratio_mask(
    mixture: Wave, sources: Float[Tensor, "batch n_src samples"], *, window: int = 256, hop: int = 64
) -> Estimates:
    """An oracle that knows the sources: the mixture's spectrogram times |S_c| / sum |S|."""
    hann = torch.hann_window(window, device=mixture.device, dtype=mixture.dtype)
    samples = mixture.shape[1]
    more = max(0, window - samples)

    def spectra(x: Tensor) -> Tensor:
        return torch.stft(F.pad(x, (0, more)), window, hop, window=hann, return_complex=True)

    size = spectra(sources.flatten(0, 1)).abs().unflatten(0, sources.shape[:2])
    share = size / size.sum(1, keepdim=True).clamp(min=1e-9)
    masked = (share * spectra(mixture)[:, None]).flatten(0, 1)
    wave = torch.istft(masked, window, hop, window=hann, length=samples + more)
    return wave.unflatten(0, sources.shape[:2])[..., :samples]


def mixture_as_estimate(mixture: Wave, n_src: int = 2) -> Estimates:
    """The mixture for every speaker: an improvement of 0 dB."""
    return mixture[:, None].repeat(1, n_src, 1)


BASELINES: Mapping[str, type[nn.Module]] = {"ConvTasNet": ConvTasNet, "DPRNN": DPRNN, "SepFormer": SepFormer}
