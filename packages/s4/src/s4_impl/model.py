"""The deep S4 model: blocks of norm, SSM, GELU, mixing, residual between an encoder and a decoder (section 3.4)."""

from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from s4_impl.layer import S4Layer
from s4_impl.recurrence import StepMode
from s4_impl.sequence import Pooling, SequenceModel

__all__ = ["FeedForward", "MaskedBatchNorm", "S4Backbone", "S4Block", "S4Model", "TiedDropout"]


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch norm over (batch, length) whose statistics leave out the padding."""

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "batch *length channels"], mask: Bool[Tensor, "batch length"] | None = None
    ) -> Float[Tensor, "batch *length channels"]:
        if mask is None:
            return super().forward(x.flatten(0, -2)).view_as(x)
        kept = super().forward(x[mask])
        return torch.zeros_like(x).masked_scatter(mask[..., None].expand_as(x), kept)


class _LayerNorm(nn.LayerNorm):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x)


def make_norm(kind: str, d_model: int) -> nn.Module:
    """A norm that is called with (x, mask)."""
    if kind not in ("layer", "batch"):
        raise ValueError(f"norm must be 'layer' or 'batch', got {kind!r}")
    return MaskedBatchNorm(d_model) if kind == "batch" else _LayerNorm(d_model)


class TiedDropout(nn.Module):
    """Dropout of whole channels: one mask for all steps of a sequence (`tied=False`: one a step)."""

    def __init__(self, p: float, *, tied: bool = True) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {p}")
        self.p, self.tied = p, tied

    def forward(self, x: Float[Tensor, "batch *length channels"]) -> Float[Tensor, "batch *length channels"]:
        if not self.training or self.p == 0:
            return x
        if not self.tied or x.ndim == 2:
            return F.dropout(x, self.p)
        return x * F.dropout(torch.ones_like(x[:, :1]), self.p)


class S4Block(nn.Module):
    """norm -> SSM -> GELU -> dropout -> mixing -> dropout -> residual (and -> norm with `prenorm=False`).

    Args:
        version: "current": the mixing is a linear map to 2 d_model and a gated linear unit. "v1": the first
            release: a plain linear map.
        ssm: further arguments of `S4Layer`.
    """

    def __init__(
        self,
        d_model: int,
        *,
        norm: str = "layer",
        prenorm: bool = True,
        dropout: float = 0.0,
        tie_dropout: bool = True,
        version: str = "current",
        **ssm: Any,
    ) -> None:
        super().__init__()
        if version not in ("current", "v1"):
            raise ValueError(f"version must be 'current' or 'v1', got {version!r}")
        self.prenorm = prenorm
        self.norm = make_norm(norm, d_model)
        self.ssm = S4Layer(d_model, **ssm)
        self.dropout = TiedDropout(dropout, tied=tie_dropout)
        self.gated = version == "current"
        self.mix = nn.Linear(d_model, 2 * d_model if self.gated else d_model)

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        mask: Bool[Tensor, "batch length"] | None = None,
        state: Any = None,
        rate: float = 1.0,
    ) -> tuple[Float[Tensor, "batch length d_model"], Any]:
        """One block over a padded batch; what lies behind the end of a sequence has no influence on it."""
        y = self.norm(x, mask) if self.prenorm else x
        if mask is not None:
            y = y * mask[..., None]  # a reversed kernel would carry the padding to the front
        y, state = self.ssm(y, state=state, rate=rate)
        x = x + self._mixed(y)
        return (x if self.prenorm else self.norm(x, mask)), state

    def step(self, x: Float[Tensor, "batch d_model"], state: Any) -> tuple[Float[Tensor, "batch d_model"], Any]:
        y, state = self.ssm.step(self.norm(x) if self.prenorm else x, state)
        x = x + self._mixed(y)
        return (x if self.prenorm else self.norm(x)), state

    def _mixed(self, y: Tensor) -> Tensor:
        y = self.mix(self.dropout(F.gelu(y)))
        return self.dropout(F.glu(y, dim=-1) if self.gated else y)

    def default_state(self, batch: int) -> Any:
        return self.ssm.default_state(batch)

    def setup_step(self, mode: str) -> None:
        if mode == "auto":
            mode = "dense" if self.ssm.kernel.mode == "dense" else "linear"
        self.ssm.setup_step(cast(StepMode, mode))


class FeedForward(nn.Module):
    """norm -> linear to 4 d_model -> GELU -> dropout -> linear -> dropout -> residual; has no state."""

    def __init__(
        self,
        d_model: int,
        *,
        norm: str = "layer",
        prenorm: bool = True,
        dropout: float = 0.0,
        tie_dropout: bool = True,
    ) -> None:
        super().__init__()
        self.prenorm = prenorm
        self.norm = make_norm(norm, d_model)
        self.expand, self.contract = nn.Linear(d_model, 4 * d_model), nn.Linear(4 * d_model, d_model)
        self.dropout = TiedDropout(dropout, tied=tie_dropout)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, state: Any = None, rate: float = 1.0
    ) -> tuple[Tensor, Any]:
        y = self.expand(self.norm(x, mask) if self.prenorm else x)
        x = x + self.dropout(self.contract(self.dropout(F.gelu(y))))
        return (x if self.prenorm else self.norm(x, mask)), state

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self(x, None, state)

    def default_state(self, batch: int) -> None:
        return None

    def setup_step(self, mode: str) -> None:
        pass


class S4Backbone(nn.Module):
    """A stack of blocks; with `prenorm`, a last norm behind them."""

    def __init__(self, blocks: list[nn.Module], d_model: int, *, norm: str, prenorm: bool, causal: bool) -> None:
        super().__init__()
        self.blocks: Any = nn.ModuleList(blocks)
        self.norm = make_norm(norm, d_model) if prenorm else None
        self.causal = causal

    def forward(
        self, x: Tensor, mask: Tensor | None = None, state: Any = None, rate: float = 1.0
    ) -> tuple[Tensor, Any]:
        states = []
        for block, block_state in zip(self.blocks, state or [None] * len(self.blocks), strict=True):
            x, block_state = block(x, mask=mask, state=block_state, rate=rate)
            states.append(block_state)
        return (x if self.norm is None else self.norm(x, mask)), states

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        states = []
        for block, block_state in zip(self.blocks, state, strict=True):
            x, block_state = block.step(x, block_state)
            states.append(block_state)
        return (x if self.norm is None else self.norm(x)), states

    def default_state(self, batch: int) -> Any:
        return [block.default_state(batch) for block in self.blocks]

    def setup_step(self, mode: str) -> None:
        for block in self.blocks:
            block.setup_step(mode)


class S4Model(SequenceModel):
    """Encoder, S4 blocks, decoder.

    Args:
        d_input: channels of a signal, or number of tokens for `encoder="embedding"`.
        d_output: classes, channels of the target, or number of tokens for "lm".
        task: "classify", "retrieve", "regress" or "lm"; see `SequenceModel` for what each gives.
        bidirectional: kernels in both directions; by default for "classify" and "retrieve" of the current version.
        version: "current" (GLU) or "v1" (the first release: plain linear mixing, unidirectional).
        block: sublayers of a block: ("s4",), or ("s4", "s4", "ff") as in the language model of the paper.
        l_max, d_state, init, mode, n_ssm, dt_min, dt_max: of each `S4Layer`.
        encoder, pooling, horizon, adaptive_cutoffs, dropout_embedding: see `SequenceModel`.

    Example:
        >>> model = S4Model(1, 10, task="classify", n_layers=2, d_model=32)
        >>> model(torch.randn(4, 784, 1)).shape
        torch.Size([4, 10])
    """

    def __init__(
        self,
        d_input: int,
        d_output: int,
        n_layers: int = 4,
        *,
        d_model: int = 128,
        d_state: int = 64,
        task: str = "classify",
        l_max: int | None = None,
        init: str = "legs",
        mode: str = "dplr",
        n_ssm: int | None = None,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        bidirectional: bool | None = None,
        version: str = "current",
        norm: str = "layer",
        prenorm: bool = True,
        dropout: float = 0.0,
        tie_dropout: bool = True,
        block: tuple[str, ...] | list[str] = ("s4",),
        encoder: Literal["auto", "linear", "embedding"] = "auto",
        pooling: Pooling | None = None,
        horizon: int | None = None,
        adaptive_cutoffs: tuple[int, ...] | list[int] | None = None,
        dropout_embedding: float = 0.0,
    ) -> None:
        if n_layers < 1:
            raise ValueError(f"n_layers must be positive, got {n_layers}")
        if not block or set(block) - {"s4", "ff"}:
            raise ValueError(f"block must be made of 's4' and 'ff', got {block}")
        if bidirectional is None:
            bidirectional = version == "current" and task in ("classify", "retrieve")
        shape: dict[str, Any] = {
            "norm": norm, "prenorm": prenorm, "dropout": dropout, "tie_dropout": tie_dropout
        }  # fmt: skip
        ssm: dict[str, Any] = {
            "d_state": d_state, "l_max": l_max, "init": init, "mode": mode, "n_ssm": n_ssm,
            "bidirectional": bidirectional, "dt_min": dt_min, "dt_max": dt_max,
        }  # fmt: skip
        blocks: list[nn.Module] = [
            S4Block(d_model, version=version, **shape, **ssm) if kind == "s4" else FeedForward(d_model, **shape)
            for _ in range(n_layers)
            for kind in block
        ]
        super().__init__(
            S4Backbone(blocks, d_model, norm=norm, prenorm=prenorm, causal=not bidirectional),
            d_input=d_input,
            d_output=d_output,
            d_model=d_model,
            task=task,
            encoder=encoder,
            pooling=pooling,
            horizon=horizon,
            adaptive_cutoffs=adaptive_cutoffs,
            dropout_embedding=dropout_embedding,
        )
