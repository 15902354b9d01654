"""The separator: learned frames, a mask for each speaker, and back to samples."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from shared_impl.pretrained import Pretrained

from .attention import JointAttention, sinusoids
from .recurrent import Grouping, Memory, RecurrentModule

__all__ = ["PRESETS", "MaskNetwork", "MossFormer2", "decode", "encode"]

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "base": {"n_filters": 512, "n_layers": 24, "d_qk": 128, "group": 256, "d_rec": 256},
    "small": {"n_filters": 256, "n_layers": 8, "d_qk": 128, "group": 256, "d_rec": 256},
    "tiny": {"n_filters": 64, "n_layers": 2, "d_qk": 64, "group": 64, "d_rec": 64},
}
"""the paper's size, and two that fit into less"""

Frames = Float[Tensor, "batch frames channels"]


def encode(
    wave: Float[Tensor, "batch samples"], filters: Float[Tensor, "channels 1 kernel"], stride: int
) -> Float[Tensor, "batch frames channels"]:
    """Inner products of overlapping windows with filters, without rectification; at least one kernel of samples."""
    return wave.unfold(1, filters.shape[2], stride) @ filters[:, 0].T


def decode(
    frames: Float[Tensor, "*batch frames channels"], filters: Float[Tensor, "channels 1 kernel"], samples: int
) -> Float[Tensor, "*batch samples"]:
    """Windows of samples made of filters and added where they overlap by a half; padded or cut to `samples`."""
    windows = frames @ filters[:, 0]
    half = windows.shape[-1] // 2
    first, second = windows[..., :half], windows[..., half:]
    wave = (F.pad(first, (0, 0, 0, 1)) + F.pad(second, (0, 0, 1, 0))).flatten(-2)
    return F.pad(wave, (0, samples - wave.shape[-1])) if wave.shape[-1] < samples else wave[..., :samples]


class OverAll(nn.Module):
    """Group norm of one group: mean 0 and deviation 1 over frames and channels; causal: over a frame's channels."""

    def __init__(self, channels: int, *, causal: bool = False, eps: float = 1e-8) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.causal, self.eps = causal, eps

    def forward(self, x: Frames) -> Frames:
        shape = x.shape[2:] if self.causal else x.shape[1:]
        return F.layer_norm(x, shape, eps=self.eps) * self.weight + self.bias


class MaskNetwork(nn.Module):
    """Encoded mixture to one non-negative mask (or map) a speaker; the blocks between share one residual."""

    def __init__(
        self, d_model: int, n_src: int, n_layers: int, *, d_qk: int = 128, group: int = 256, d_rec: int = 256,
        lorder: int = 20, recurrent: Memory = "gfsmn", dropout: float = 0.1, causal: bool = False,
        grouping: Grouping = "official", fast: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        self.n_src = n_src
        self.norm_in = OverAll(d_model, causal=causal)
        self.into = nn.Linear(d_model, d_model, bias=False)
        self.position_scale = nn.Parameter(torch.ones(1))
        self.attention = nn.ModuleList(
            JointAttention(d_model, d_qk, group, dropout=dropout, causal=causal, fast=fast) for _ in range(n_layers)
        )
        self.recurrent = nn.ModuleList(
            RecurrentModule(
                d_model, d_rec, lorder, memory=recurrent, dropout=dropout, causal=causal, grouping=grouping
            ) if recurrent != "none" else nn.Identity()
            for _ in range(n_layers)
        )  # fmt: skip
        self.norm_frames = nn.LayerNorm(d_model, eps=1e-6)
        self.norm_out = OverAll(d_model, causal=causal)
        self.prelu = nn.PReLU()
        self.split = nn.Linear(d_model, n_src * d_model)
        self.value, self.gate = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.out_of = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Frames) -> Float[Tensor, "batch n_src frames channels"]:
        x = self.into(self.norm_in(x))
        x = x + self.position_scale * sinusoids(x.shape[1], x.shape[2], device=x.device, dtype=x.dtype)
        y = x
        for attention, recurrent in zip(self.attention, self.recurrent, strict=True):
            y = recurrent(attention(y))
        x = self.prelu(x + self.norm_out(self.norm_frames(y)))
        x = self.split(x).unflatten(2, (self.n_src, -1)).transpose(1, 2)
        return F.relu(self.out_of(torch.tanh(self.value(x)) * torch.sigmoid(self.gate(x))))


class MossFormer2(nn.Module, Pretrained):
    """Separates the speakers of one-microphone mixtures (arXiv 2312.11825).

    Args:
        n_src: speakers, always so many.
        n_filters: channels N of a frame.
        kernel: samples of a frame; they overlap by a half.
        n_layers: blocks R of an attention module and a recurrent module each.
        d_qk: dimensions of queries and keys.
        group: frames P of a local group.
        d_rec: channels of the recurrent module.
        lorder: memory of 2 lorder - 1 frames.
        causal: nothing depends on later frames; norms over time become norms of a frame or running ones.
        recurrent: "gfsmn" (the paper's), "gfsmn-plain" (no dilation, not dense), "dfsmn" (no gates), "fsmn" (neither),
            "blstm", or "none", which leaves MossFormer.
        mask: False: the network's output is decoded itself, as for WHAMR!, and not its product with the mixture's.
        grouping: of the dense layers' convolutions, see `DilatedFSMN`.
        sample_rate: of the mixtures that it is trained with; `separate` converts others.
        fast: False: attention in its quadratic form, without dropout of weights.

    Raises:
        ValueError: a setting out of range.
    """

    def __init__(
        self, *, n_src: int = 2, n_filters: int = 512, kernel: int = 16, n_layers: int = 24, d_qk: int = 128,
        group: int = 256, d_rec: int = 256, lorder: int = 20, causal: bool = False,
        recurrent: Literal["gfsmn", "gfsmn-plain", "dfsmn", "fsmn", "blstm", "none"] = "gfsmn", mask: bool = True,
        grouping: Literal["official", "paired"] = "official", dropout: float = 0.1, sample_rate: int = 8000,
        fast: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        sizes = {"n_src": n_src, "n_filters": n_filters, "n_layers": n_layers, "sample_rate": sample_rate}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name} must be positive, got {value}")
        if kernel < 2 or kernel % 2:
            raise ValueError(f"kernel must be even and positive, got {kernel}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be from 0 to below 1, got {dropout}")
        self.n_src, self.kernel, self.stride, self.mask, self.sample_rate = (
            n_src,
            kernel,
            kernel // 2,
            mask,
            sample_rate,
        )
        self.encoder = nn.Conv1d(1, n_filters, kernel, self.stride, bias=False)
        self.network = MaskNetwork(
            n_filters, n_src, n_layers, d_qk=d_qk, group=group, d_rec=d_rec, lorder=lorder, recurrent=recurrent,
            dropout=dropout, causal=causal, grouping=grouping, fast=fast,
        )  # fmt: skip
        self.decoder = nn.ConvTranspose1d(n_filters, 1, kernel, self.stride, bias=False)

    @classmethod
    def preset(cls, name: str, **settings: Any) -> "MossFormer2":
        """A model of the size `name` (of `PRESETS`), with other settings as given.

        Raises:
            ValueError: no such size.
        """
        if name not in PRESETS:
            raise ValueError(f"name must be one of {', '.join(PRESETS)}, got {name!r}")
        return cls(**{**PRESETS[name], **settings})

    def forward(self, mixture: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch n_src samples"]:
        """Each speaker's estimate. The last samples that fill no frame are zeros, as in the official code.

        Raises:
            ValueError: another shape, no samples, other numbers than the weights'.
        """
        if mixture.ndim != 2 or mixture.shape[1] == 0:
            raise ValueError(f"mixture must be (batch, samples) with at least one sample, got {tuple(mixture.shape)}")
        held = self.encoder.weight.dtype
        if mixture.dtype != held and not torch.is_autocast_enabled(mixture.device.type):
            raise ValueError(f"mixture must be {held} as the weights are, got {mixture.dtype}")
        samples = mixture.shape[1]
        if len(mixture) == 0:
            return mixture.new_zeros(0, self.n_src, samples)
        frames = F.relu(encode(F.pad(mixture, (0, max(0, self.kernel - samples))), self.encoder.weight, self.stride))
        found = self.network(frames)
        return decode(found * frames[:, None] if self.mask else found, self.decoder.weight, samples)

    def separate(self, wave: Any, sr: int | None = None, *, chunk_s: float | None = None, overlap: float = 0.5) -> Any:
        """See `mossformer2_impl.separate`; a NumPy array gives one back, a tensor a tensor.

        Args:
            wave: (samples,) or (batch, samples).
            sr: samples a second; default: the model's.
            chunk_s: seconds that are separated at a time; None: all at once.
            overlap: share of a chunk that the next one repeats.

        Returns:
            (n_src, samples) or (batch, n_src, samples).
        """
        from .separation import separate

        return separate(self, wave, sr, chunk_s=chunk_s, overlap=overlap)

    def load_official(self, state: Mapping[str, Any]) -> "MossFormer2":
        """Take the weights of a public checkpoint; see `mossformer2_impl.from_official`."""
        from .official import from_official

        self.load_state_dict(from_official(state, self.state_dict()))
        return self
