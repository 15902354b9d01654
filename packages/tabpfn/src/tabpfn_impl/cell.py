"""A second architecture: every cell of the table is a token, and attention alternates between a row's cells and a
column's (as in the later versions of TabPFN and in nanoTabPFN).

It has no weights for a column's position, so tables may have any number of columns, and (with one feature a token)
their order does not matter.
"""

from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared_impl.pretrained import Pretrained
from tabpfn_impl.attention import KeyValue, MultiHeadAttention
from tabpfn_impl.transformer import ContextCache, RowLayer, check_table

__all__ = ["CellLayer", "CellTransformer"]


class CellLayer(nn.Module):
    """Attention among the cells of a row, then along each column to the context rows, then feed-forward (post-norm)."""

    def __init__(self, d_model: int, n_heads: int, d_ff: int) -> None:
        super().__init__()
        self.across = MultiHeadAttention(d_model, n_heads)
        self.along = MultiHeadAttention(d_model, n_heads)
        self.norm1 = nn.LayerNorm(d_model)
        self.norm2 = nn.LayerNorm(d_model)
        self.norm3 = nn.LayerNorm(d_model)
        last = nn.Linear(d_ff, d_model)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.feed_forward = nn.Sequential(nn.Linear(d_model, d_ff), nn.GELU(), last)

    def mix_cells(
        self, h: Float[Tensor, "batch rows cells d_model"], *, last: int | None = None
    ) -> Float[Tensor, "batch rows cells2 d_model"]:
        """Attention among the cells of each row; with `last`, only so many last cells are computed."""
        batch, rows, cells, d_model = h.shape
        flat = h.reshape(batch * rows, cells, d_model)
        context = self.across.keys_and_values(flat)
        queries = flat if last is None else flat[:, cells - last :]
        return self.norm1(queries + self.across(queries, context)).view(batch, rows, -1, d_model)

    def columns(self, h: Float[Tensor, "batch train cells d_model"]) -> KeyValue:
        """Keys and values of the context rows, for each column."""
        return self.along.keys_and_values(h.transpose(1, 2).flatten(0, 1))

    def read(
        self, h: Float[Tensor, "batch rows cells d_model"], context: KeyValue
    ) -> Float[Tensor, "batch rows cells d_model"]:
        """Attention of each cell to the context rows of its column, and feed-forward."""
        batch, rows, cells, d_model = h.shape
        columns = h.transpose(1, 2).reshape(batch * cells, rows, d_model)
        columns = self.norm2(columns + self.along(columns, context))
        columns = self.norm3(columns + self.feed_forward(columns))
        return columns.view(batch, cells, rows, d_model).transpose(1, 2)


class CellTransformer(nn.Module, Pretrained):
    """Labelled rows and rows without labels in, class logits out; same calls as `PFNTransformer`.

    Columns are standardised by the context rows. Each row has `summary_tokens` further cells, of which one holds the
    label: an embedding of the class, or of "unknown" in a query. `n_layers` layers mix the cells; then the summary of a
    row is one token, and `row_layers` layers as in the paper follow. With `row_layers=0` the logits are read from the
    summary.

    Args:
        max_classes: logits.
        d_model, n_layers, n_heads, d_ff: width, depth, heads and feed-forward (default 2 d_model) of the cell stage.
        features_per_token: columns that share a cell.
        summary_tokens: cells of a row that are not columns.
        row_layers, d_row, row_heads: depth, width and heads of the row stage; its feed-forward has 2 d_row units.

    Raises:
        ValueError: a size that is too small, or a width that is no multiple of its number of heads.
    """

    def __init__(
        self,
        *,
        max_classes: int = 10,
        d_model: int = 96,
        n_layers: int = 3,
        n_heads: int = 3,
        d_ff: int | None = None,
        features_per_token: int = 1,
        summary_tokens: int = 1,
        row_layers: int = 0,
        d_row: int = 128,
        row_heads: int = 4,
    ) -> None:
        super().__init__()
        d_ff = 2 * d_model if d_ff is None else d_ff
        for name, value in (
            ("max_classes", max_classes),
            ("n_layers", n_layers),
            ("features_per_token", features_per_token),
            ("summary_tokens", summary_tokens),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if row_layers < 0:
            raise ValueError(f"row_layers must not be negative, got {row_layers}")
        self.max_classes, self.features_per_token = max_classes, features_per_token
        self.summary_tokens = summary_tokens
        self.encoder = nn.Linear(features_per_token, d_model)
        self.label_encoder = nn.Embedding(max_classes + 1, d_model)
        self.summary = nn.Parameter(torch.randn(summary_tokens - 1, d_model)) if summary_tokens > 1 else None
        self.layers = nn.ModuleList(CellLayer(d_model, n_heads, d_ff) for _ in range(n_layers))
        d_summary = summary_tokens * d_model
        d_out = d_summary if row_layers == 0 else d_row
        self.to_row = nn.Linear(d_summary, d_row) if row_layers else None
        self.row_label_encoder = nn.Embedding(max_classes, d_row) if row_layers else None
        self.row_layers = nn.ModuleList(RowLayer(d_row, row_heads, 2 * d_row) for _ in range(row_layers))
        self.decoder = nn.Sequential(nn.Linear(d_out, 2 * d_out), nn.GELU(), nn.Linear(2 * d_out, max_classes))

    def forward(
        self, x: Float[Tensor, "batch rows features"], y: Int[Tensor, "batch train"]
    ) -> Float[Tensor, "batch queries classes"]:
        """Logits of the rows after the first `train`, whose labels are y.

        Raises:
            ValueError: no context or no queries.
        """
        n_train = check_table(x, y, None)
        unknown = y.new_full((len(y), x.shape[1] - n_train), self.max_classes)
        h = self._cells(x, torch.cat([y, unknown], dim=1), _scale(x[:, :n_train]))
        *layers, last = self._stack()
        for layer in layers:
            h = layer.mix_cells(h)
            h = layer.read(h, layer.columns(h[:, :n_train]))
        h = last.mix_cells(h, last=self.summary_tokens)
        if not self.row_layers:
            return self.decoder(last.read(h[:, n_train:], last.columns(h[:, :n_train])).flatten(2))
        h = self._row_tokens(last.read(h, last.columns(h[:, :n_train])))
        h = torch.cat([h[:, :n_train] + self._row_labels(y), h[:, n_train:]], dim=1)
        for i, row_layer in enumerate(self._row_stack()):
            context = row_layer.attention.keys_and_values(h[:, :n_train])
            # nothing reads the context after the last layer
            h = row_layer(h if i + 1 < len(self.row_layers) else h[:, n_train:], context)
        return self.decoder(h)

    def context(self, x: Float[Tensor, "batch train features"], y: Int[Tensor, "batch train"]) -> ContextCache:
        """Read labelled rows once, for any number of calls of `query`."""
        check_table(x, y, None, queries=False)
        scale = _scale(x)
        h = self._cells(x, y, scale)
        kept: list[KeyValue] = []
        *layers, last = self._stack()
        for layer in layers:
            h = layer.mix_cells(h)
            kept.append(layer.columns(h))
            h = layer.read(h, kept[-1])
        h = last.mix_cells(h, last=self.summary_tokens)
        kept.append(last.columns(h))
        if self.row_layers:
            h = self._row_tokens(last.read(h, kept[-1])) + self._row_labels(y)
        for i, row_layer in enumerate(self._row_stack()):
            kept.append(row_layer.attention.keys_and_values(h))
            if i + 1 < len(self.row_layers):
                h = row_layer(h, kept[-1])
        return ContextCache(kept, scale)

    def query(
        self, cache: ContextCache, x: Float[Tensor, "batch queries features"]
    ) -> Float[Tensor, "batch queries classes"]:
        """Logits of rows, given a context that was read."""
        assert cache.scale is not None
        unknown = torch.full(x.shape[:2], self.max_classes, device=x.device)
        h = self._cells(x, unknown, cache.scale)
        depth = len(self.layers)
        *layers, last = self._stack()
        for layer, context in zip(layers, cache.layers[: depth - 1], strict=True):
            h = layer.read(layer.mix_cells(h), context)
        h = last.read(last.mix_cells(h, last=self.summary_tokens), cache.layers[depth - 1])
        if not self.row_layers:
            return self.decoder(h.flatten(2))
        h = self._row_tokens(h)
        for row_layer, context in zip(self._row_stack(), cache.layers[depth:], strict=True):
            h = row_layer(h, context)
        return self.decoder(h)

    def _stack(self) -> list[CellLayer]:
        return cast(list[CellLayer], list(self.layers))

    def _row_stack(self) -> list[RowLayer]:
        return cast(list[RowLayer], list(self.row_layers))

    def _cells(self, x: Tensor, labels: Tensor, scale: tuple[Tensor, Tensor]) -> Tensor:
        """One token a group of columns, those of the summary, and last that of the label."""
        mean, std = scale
        x = ((x - mean) / std).clamp(-100.0, 100.0)
        batch, rows, features = x.shape
        size = self.features_per_token
        if size > 1:
            # the columns of a group that is not full weigh as much as a full group
            missing = -features % size
            last = F.pad(x[:, :, features + missing - size :], (0, missing)) * (size / (size - missing))
            x = torch.cat([x[:, :, : features + missing - size], last], dim=2)
        cells = [self.encoder(x.view(batch, rows, -1, size).to(self.encoder.weight.dtype))]
        if self.summary is not None:
            cells.append(self.summary.expand(batch, rows, -1, -1))
        return torch.cat([*cells, self.label_encoder(labels)[:, :, None]], dim=2)

    def _row_tokens(self, h: Tensor) -> Tensor:
        assert self.to_row is not None
        return self.to_row(h.flatten(2))

    def _row_labels(self, y: Tensor) -> Tensor:
        assert self.row_label_encoder is not None
        return self.row_label_encoder(y)


def _scale(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the columns; a column without spread is left as it is."""
    mean = x.mean(1, keepdim=True)
    std = (x - mean).square().mean(1, keepdim=True).sqrt()
    return mean, torch.where(std > 1e-6, std, torch.ones_like(std))
