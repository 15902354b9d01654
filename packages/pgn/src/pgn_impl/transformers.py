"""The Transformer baselines: PatchTST and iTransformer, with TPGN's interface."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["ITransformer", "PatchTST"]

Series = Float[Tensor, "batch seq_len c_in"]
Forecast = Float[Tensor, "batch pred_len c_in"]


def _window_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = x.mean(1, keepdim=True).detach()
    return mean, (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt().detach()


class _PatchLayer(nn.Module):
    """Post-norm encoder layer with batch norm, whose attention scores add to those of the layer before."""

    def __init__(self, d_model: int, n_heads: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        self.norm_attention, self.norm_feed = nn.BatchNorm1d(d_model), nn.BatchNorm1d(d_model)
        self.feed = nn.Sequential(nn.Linear(d_model, d_ff), nn.GELU(), nn.Dropout(dropout), nn.Linear(d_ff, d_model))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, scores_before: Tensor | None) -> tuple[Tensor, Tensor]:
        n, length, d_model = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) * (d_model // self.n_heads) ** -0.5
        if scores_before is not None:
            scores = scores + scores_before
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, length, d_model)
        # twice: after the projection, and on the residual
        x = x + self.dropout(self.dropout(self.out(mixed)))
        x = self.norm_attention(x.flatten(0, 1)).view_as(x)
        x = x + self.dropout(self.feed(x))
        return self.norm_feed(x.flatten(0, 1)).view_as(x), scores


class PatchTST(nn.Module):
    """A Transformer over patches of each variable on its own (Nie et al., ICLR 2023).

    Args:
        patch, stride: steps of a patch and between two; the end is padded with `stride` times the last value.
        d_model, n_heads, d_ff, n_layers, dropout: of the encoder; the defaults are its authors' for ETTh1 and ETTh2.
    """

    def __init__(
        self,
        *,
        seq_len: int,
        pred_len: int,
        patch: int = 16,
        stride: int = 8,
        d_model: int = 16,
        n_heads: int = 4,
        d_ff: int = 128,
        n_layers: int = 3,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        if not 1 <= patch <= seq_len or stride < 1:
            raise ValueError(f"patch must be from 1 to seq_len {seq_len} and stride positive, got {patch} and {stride}")
        if d_model % n_heads:
            raise ValueError(f"d_model must be a multiple of n_heads, got {d_model} and {n_heads}")
        self.patch, self.stride = patch, stride
        n_patches = (seq_len - patch) // stride + 2
        self.embed = nn.Linear(patch, d_model)
        self.position = nn.Parameter(torch.empty(n_patches, d_model).uniform_(-0.02, 0.02))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(_PatchLayer(d_model, n_heads, d_ff, dropout) for _ in range(n_layers))
        self.head = nn.Linear(d_model * n_patches, pred_len)

    def forward(self, x: Series, marks: Tensor | None = None, future_marks: Tensor | None = None) -> Forecast:
        """The forecast."""
        batch, _, c = x.shape
        mean, scale = _window_statistics(x)
        each = ((x - mean) / scale).transpose(1, 2).reshape(batch * c, 1, -1)
        patches = F.pad(each, (0, self.stride), mode="replicate")[:, 0].unfold(-1, self.patch, self.stride)
        z = self.dropout(self.embed(patches) + self.position)
        scores = None
        for layer in self.layers:
            z, scores = layer(z, scores)
        # features first, patches last, as the authors' head has it
        y = self.head(z.transpose(1, 2).flatten(1)).view(batch, c, -1).transpose(1, 2)
        return y * scale + mean


class ITransformer(nn.Module):
    """A Transformer whose tokens are whole variables, time features among them (Liu et al., ICLR 2024).

    Args:
        d_model, n_heads, d_ff, n_layers, dropout: of the encoder; d_ff None is d_model.
    """

    def __init__(
        self,
        *,
        seq_len: int,
        pred_len: int,
        d_model: int = 128,
        n_heads: int = 8,
        d_ff: int | None = None,
        n_layers: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(seq_len, d_model), nn.Dropout(dropout))
        layer = nn.TransformerEncoderLayer(
            d_model, n_heads, d_ff or d_model, dropout, activation="gelu", batch_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, n_layers, nn.LayerNorm(d_model), enable_nested_tensor=False)
        self.head = nn.Linear(d_model, pred_len)

    def forward(self, x: Series, marks: Tensor, future_marks: Tensor | None = None) -> Forecast:
        """The forecast."""
        mean, scale = _window_statistics(x)
        tokens = torch.cat(((x - mean) / scale, marks), -1).transpose(1, 2)
        y: Tensor = self.head(self.encoder(self.embed(tokens))[:, : x.shape[2]])
        return y.transpose(1, 2) * scale + mean
