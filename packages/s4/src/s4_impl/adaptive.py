"""Adaptive input embedding and softmax with shared weights (Grave et al. 2017; Baevski & Auli 2019).

Frequent tokens have wide vectors, rare ones narrow vectors; the softmax first chooses among the frequent tokens and one
entry a rarer band. Tokens must be sorted by frequency. Used by the WikiText-103 model of section 4.3.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["AdaptiveEmbedding", "AdaptiveSoftmax"]


class AdaptiveEmbedding(nn.Module):
    """Embedding of tokens in bands: band i has vectors of width d_model / div_value**i, projected to d_model."""

    def __init__(self, n_tokens: int, d_model: int, *, cutoffs: tuple[int, ...], div_value: int = 4) -> None:
        super().__init__()
        edges = (0, *cutoffs, n_tokens)
        if any(a >= b for a, b in pairwise(edges)):
            raise ValueError(f"cutoffs must rise strictly between 0 and {n_tokens}, got {cutoffs}")
        if d_model < div_value ** len(cutoffs):
            raise ValueError(f"d_model must be at least {div_value}**{len(cutoffs)}, got {d_model}")
        self.edges, self.d_model = edges, d_model
        widths = [d_model // div_value**i for i in range(len(edges) - 1)]
        self.tables = nn.ParameterList(
            nn.Parameter(torch.randn(stop - start, width) * width**-0.5)
            for start, stop, width in zip(edges[:-1], edges[1:], widths, strict=True)
        )
        self.projections = nn.ParameterList(
            nn.Parameter(torch.randn(width, d_model) * d_model**-0.5) for width in widths
        )

    def forward(self, tokens: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape d_model"]:
        out = self.projections[0].new_zeros(*tokens.shape, self.d_model)
        for table, projection, start, stop in self.bands():
            inside = (tokens >= start) & (tokens < stop)
            out[inside] = F.embedding(tokens[inside] - start, table) @ projection
        return out * self.d_model**0.5

    def bands(self) -> list[tuple[Tensor, Tensor, int, int]]:
        """Vectors, projection, first token and end of each band."""
        return list(zip(self.tables, self.projections, self.edges[:-1], self.edges[1:], strict=True))


class AdaptiveSoftmax(nn.Module):
    """Log-probabilities of tokens by bands, with the vectors and projections of an `AdaptiveEmbedding`."""

    def __init__(self, embedding: AdaptiveEmbedding) -> None:
        super().__init__()
        # in a tuple: the weights belong to the encoder and must not be saved twice
        self._shared = (embedding,)
        n_rare = len(embedding.edges) - 2
        self.band_vectors = nn.Parameter(torch.zeros(n_rare, embedding.d_model))
        self.biases = nn.ParameterList(
            nn.Parameter(torch.zeros(stop - start + (n_rare if i == 0 else 0)))
            for i, (_, _, start, stop) in enumerate(embedding.bands())
        )

    def _head(self, features: Tensor) -> Tensor:
        """Log-probabilities of the frequent tokens and of each rarer band."""
        table, projection, _, _ = self._shared[0].bands()[0]
        logits = torch.cat([features @ projection.T @ table.T, features @ self.band_vectors.T], dim=-1)
        return (logits + self.biases[0]).log_softmax(dim=-1)

    def _tail(self, features: Tensor, band: int) -> Tensor:
        table, projection, _, _ = self._shared[0].bands()[band]
        return (features @ projection.T @ table.T + self.biases[band]).log_softmax(dim=-1)

    def forward(self, features: Float[Tensor, "*shape d_model"]) -> Float[Tensor, "*shape tokens"]:
        """Log-probabilities of all tokens (large: for generation and tests; training uses `loss`)."""
        n_frequent = self._shared[0].edges[1]
        head = self._head(features)
        parts = [head[..., :n_frequent]]
        parts += [
            self._tail(features, band) + head[..., n_frequent + band - 1, None] for band in range(1, len(self.biases))
        ]
        return torch.cat(parts, dim=-1)

    def loss(self, features: Float[Tensor, "n d_model"], targets: Int[Tensor, " n"]) -> Float[Tensor, ""]:
        """Mean negative log-likelihood; the vectors of a rare band are used only where its tokens occur."""
        n_frequent = self._shared[0].edges[1]
        head = self._head(features)
        total = features.new_zeros(())
        for band, (_, _, start, stop) in enumerate(self._shared[0].bands()):
            inside = (targets >= start) & (targets < stop)
            if not inside.any():
                continue
            index = (targets[inside] - start)[:, None]
            if band == 0:
                total = total + head[inside].gather(1, index).sum()
            else:
                total = total + head[inside, n_frequent + band - 1].sum()
                total = total + self._tail(features[inside], band).gather(1, index).sum()
        return -total / len(targets)
