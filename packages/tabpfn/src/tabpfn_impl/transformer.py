"""The prior-fitted network of the paper: a transformer in which every row of a table is one token (section 3).

Context rows attend to context rows, queries to context rows only, so each query is answered on its own. Both are one
attention call, with all rows as queries and the context as keys and values; no mask is ever built.
"""

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shared_impl.pretrained import Pretrained
from tabpfn_impl.attention import KeyValue, MultiHeadAttention

__all__ = ["ContextCache", "PFNTransformer", "RowLayer", "check_table"]


class ContextCache(NamedTuple):
    """What a model keeps of its context: queries then cost no more than reading it."""

    layers: list[KeyValue]
    """keys and values of each layer"""
    scale: tuple[Tensor, Tensor] | None = None
    """mean and standard deviation of the columns, where the model standardises"""


class RowLayer(nn.Module):
    """Attention and feed-forward, each followed by a residual sum and a normalisation (post-norm).

    The two output projections start at zero, so that a new layer only normalises.
    """

    def __init__(self, d_model: int, n_heads: int, d_ff: int) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(d_model, n_heads)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        last = nn.Linear(d_ff, d_model)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.feed_forward = nn.Sequential(nn.Linear(d_model, d_ff), nn.GELU(), last)

    def forward(
        self, h: Float[Tensor, "batch rows d_model"], context: KeyValue, mask: Tensor | None = None
    ) -> Float[Tensor, "batch rows d_model"]:
        """The rows after reading the context."""
        h = self.norm1(h + self.attention(h, context, mask))
        return self.norm2(h + self.feed_forward(h))


class PFNTransformer(nn.Module, Pretrained):
    """Labelled rows and rows without labels in, class logits out.

    Args:
        max_features: columns that the encoder has weights for; tables with fewer are scaled by max_features / features,
            which is what padding with zeros and scaling does.
        max_classes: logits.
        d_model, n_layers, n_heads, d_ff: E, L, heads and width of the feed-forward (default 2 E).

    Raises:
        ValueError: a size below 1, or d_model no multiple of n_heads.
    """

    def __init__(
        self,
        *,
        max_features: int = 100,
        max_classes: int = 10,
        d_model: int = 512,
        n_layers: int = 12,
        n_heads: int = 4,
        d_ff: int | None = None,
    ) -> None:
        super().__init__()
        d_ff = 2 * d_model if d_ff is None else d_ff
        for name, value in (("max_features", max_features), ("max_classes", max_classes), ("n_layers", n_layers)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.max_features, self.max_classes = max_features, max_classes
        self.encoder = nn.Linear(max_features, d_model)
        self.label_encoder = nn.Linear(1, d_model)
        self.layers = nn.ModuleList(RowLayer(d_model, n_heads, d_ff) for _ in range(n_layers))
        self.decoder = nn.Sequential(nn.Linear(d_model, d_ff), nn.GELU(), nn.Linear(d_ff, max_classes))

    def forward(
        self, x: Float[Tensor, "batch rows features"], y: Int[Tensor, "batch train"]
    ) -> Float[Tensor, "batch queries classes"]:
        """Logits of the rows after the first `train`, whose labels are y.

        Raises:
            ValueError: no context, no queries, or more columns than max_features.
        """
        n_train = check_table(x, y, self.max_features)
        h = self._tokens(x)
        h = torch.cat([h[:, :n_train] + self._label_tokens(y), h[:, n_train:]], dim=1)
        for i, layer in enumerate(self._stack()):
            context = layer.attention.keys_and_values(h[:, :n_train])
            # nothing reads the context after the last layer
            h = layer(h if i + 1 < len(self.layers) else h[:, n_train:], context)
        return self.decoder(h)

    def context(self, x: Float[Tensor, "batch train features"], y: Int[Tensor, "batch train"]) -> ContextCache:
        """Read labelled rows once, for any number of calls of `query`."""
        check_table(x, y, self.max_features, queries=False)
        h = self._tokens(x) + self._label_tokens(y)
        kept: list[KeyValue] = []
        for i, layer in enumerate(self._stack()):
            kept.append(layer.attention.keys_and_values(h))
            if i + 1 < len(self.layers):
                h = layer(h, kept[-1])
        return ContextCache(kept)

    def query(
        self, cache: ContextCache, x: Float[Tensor, "batch queries features"]
    ) -> Float[Tensor, "batch queries classes"]:
        """Logits of rows, given a context that was read."""
        h = self._tokens(x)
        for layer, context in zip(self._stack(), cache.layers, strict=True):
            h = layer(h, context)
        return self.decoder(h)

    def forward_with_mask(
        self,
        x: Float[Tensor, "batch rows features"],
        y: Int[Tensor, "batch train"],
        mask: Bool[Tensor, "rows rows"],
    ) -> Float[Tensor, "batch queries classes"]:
        """The same with all rows as keys and a dense mask (True: row i may attend to row j); the tests' oracle.

        `efficient_mask(rows, n_train)` gives what `forward` gives.
        """
        n_train = check_table(x, y, self.max_features)
        h = self._tokens(x)
        h = torch.cat([h[:, :n_train] + self._label_tokens(y), h[:, n_train:]], dim=1)
        for layer in self._stack():
            h = layer(h, layer.attention.keys_and_values(h), mask)
        return self.decoder(h[:, n_train:])

    def _stack(self) -> list[RowLayer]:
        return cast(list[RowLayer], list(self.layers))

    def _tokens(self, x: Tensor) -> Tensor:
        features = x.shape[-1]
        scaled = (x * (self.max_features / features)).to(self.encoder.weight.dtype)
        return F.linear(scaled, self.encoder.weight[:, :features], self.encoder.bias)

    def _label_tokens(self, y: Tensor) -> Tensor:
        return self.label_encoder(y.to(self.label_encoder.weight.dtype)[:, :, None])


def efficient_mask(rows: int, n_train: int) -> Bool[Tensor, "rows rows"]:
    """Every row may attend to the context rows only."""
    return (torch.arange(rows) < n_train).expand(rows, rows)


def dense_mask(rows: int, n_train: int) -> Bool[Tensor, "rows rows"]:
    """The mask of the released code without its efficient form: queries attend to themselves too."""
    return efficient_mask(rows, n_train) | torch.eye(rows, dtype=torch.bool)


def check_table(x: Tensor, y: Tensor, max_features: int | None, *, queries: bool = True) -> int:
    """The number of context rows.

    Raises:
        ValueError: no context, no queries, or too many columns.
    """
    n_train, rows = y.shape[1], x.shape[1]
    if n_train < 1 or (queries and rows <= n_train):
        raise ValueError(f"x must have rows of context and queries, got {n_train} labels for {rows} rows")
    if max_features is not None and x.shape[2] > max_features:
        raise ValueError(f"x must have at most max_features={max_features} columns, got {x.shape[2]}")
    return n_train
