"""Continual attention (Continual Transformers, section 3): one new query at O(n d), or all n rows at O(n d).

Layout `(batch, d_model, time)`; parameters have the names and shapes of `torch.nn.MultiheadAttention`.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from .module import Continual, Windowed, is_due

__all__ = [
    "EncoderLayer", "RecyclingPositionalEncoding", "RetroactiveMHA", "SingleOutputMHA", "TransformerEncoder",
    "full_attention",
]  # fmt: skip


def full_attention(
    q: Float[Tensor, "*batch n d"], k: Float[Tensor, "*batch m d"], v: Float[Tensor, "*batch m e"]
) -> Float[Tensor, "*batch n e"]:
    """softmax(q k' / sqrt d) v, the obvious form: O(n m d)."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return scores.softmax(-1) @ v


class _MHA(Continual, nn.MultiheadAttention):
    def __init__(self, d_model: int, n_heads: int, window: int, **kwargs: Any) -> None:
        if window < 1:
            raise ValueError(f"window must be at least 1, got {window}")
        if d_model % n_heads:
            raise ValueError(f"d_model must be a multiple of n_heads, got {d_model} and {n_heads}")
        for name in ("dropout", "kdim", "vdim", "add_bias_kv", "add_zero_attn"):
            if kwargs.pop(name, None):
                raise ValueError(f"{name} is not there in continual attention: it would be skipped in steps")
        super().__init__(d_model, n_heads, batch_first=True, **kwargs)
        self.window = self.receptive_field = window

    def _project(self, x: Tensor, part: slice) -> Tensor:
        """(batch, time, d_model) to (batch, heads, time, d_head), for rows `part` of the three projections."""
        d = self.embed_dim
        rows = slice((part.start or 0) * d, part.stop * d)
        bias = None if self.in_proj_bias is None else self.in_proj_bias[rows]
        y = F.linear(x, self.in_proj_weight[rows], bias)
        return y.reshape(*y.shape[:2], -1, self.head_dim).transpose(1, 2)

    def _qkv(self, x: Tensor) -> tuple[Tensor, ...]:
        return self._project(x, slice(0, 3)).chunk(3, 1)

    def _out(self, y: Tensor) -> Tensor:
        """(batch, heads, time, d_head) to (batch, d_model, time)."""
        return self.out_proj(y.transpose(1, 2).flatten(2)).transpose(1, 2)  # type: ignore[no-any-return]

    def _check_clip(self, x: Tensor) -> None:
        if x.ndim != 3 or x.shape[1] != self.embed_dim or x.shape[2] < self.window:
            raise ValueError(
                f"x must be (batch, {self.embed_dim}, time >= {self.window} = window), got {tuple(x.shape)}"
            )

    def _of_slice(self, x: Tensor) -> Tensor:
        """Its query, key and value, `(batch, 3 heads, d_head)`."""
        if x.ndim != 2 or x.shape[1] != self.embed_dim:
            raise ValueError(f"x must be a slice (batch, {self.embed_dim}), got {tuple(x.shape)}")
        return self._project(x[:, None], slice(0, 3))[:, :, 0]


class SingleOutputMHA(Windowed, _MHA):
    """CoSiMHA: attention of one query over the last `window` keys and values, at O(n d) a step; exact for that query.

    Args:
        query_index: place of the query in the window; -1 is the newest.
    """

    def __init__(self, d_model: int, n_heads: int, window: int, *, query_index: int = -1, **kwargs: Any) -> None:
        super().__init__(d_model, n_heads, window, **kwargs)
        if not -window <= query_index < window:
            raise ValueError(f"query_index must lie in [-{window}, {window}), got {query_index}")
        self.query_index = query_index % window

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Every window of the clip: `(batch, d_model, time - window + 1)`."""
        self._check_clip(x)
        count = x.shape[2] - self.window + 1
        x = x.transpose(1, 2)
        q = self._project(x[:, self.query_index : self.query_index + count], slice(0, 1))
        k, v = self._project(x, slice(1, 3)).chunk(2, 1)
        if count == 1:
            return self._out(full_attention(q, k, v))
        keys, values = (part.unfold(2, self.window, 1).transpose(-1, -2) for part in (k, v))
        return self._out(full_attention(q[:, :, :, None], keys, values)[:, :, :, 0])

    _keep = _MHA._of_slice

    def _begin(self, kept: Tensor, state: dict[str, Any]) -> None:
        batch, _, d = kept.shape
        # softmax does not ask in which order the keys come: the ring is never rolled
        state["k"], state["v"] = kept.new_zeros(2, batch, self.num_heads, self.window, d).unbind(0)
        state["q"] = kept.new_zeros(self.window - self.query_index, batch, self.num_heads, d)

    def _push(self, kept: Tensor, x: Tensor, state: dict[str, Any], due: bool) -> Tensor | None:
        t, queries = state["t"], state["q"]
        place, oldest = t % self.window, (t + 1) % len(queries)
        queries[t % len(queries)], state["k"][:, :, place], state["v"][:, :, place] = kept.chunk(3, 1)
        if not due:
            return None
        return self._out(full_attention(queries[oldest][:, :, None], state["k"], state["v"]))[:, :, 0]

    def _of_window(self, window: Tensor, x: Tensor, t: Tensor) -> Tensor:
        q = window[self.query_index, :, : self.num_heads, None]
        k, v = window[:, :, self.num_heads :].permute(1, 2, 0, 3).chunk(2, 1)
        return self._out(full_attention(q, k, v))[:, :, 0]


class RetroactiveMHA(_MHA):
    """CoReMHA: all rows of the window's attention, the oldest key's part subtracted and the newest's added, O(n d).

    A step gives the whole window, `(batch, d_model, window)`, oldest row first. What is added and subtracted leaves
    rounding behind, the more so the larger the scores; against that: sums are scaled by each row's largest score, rows
    whose sum (or whose values) have fallen below `guard` of what they were are computed anew, and each row is at least
    every `refresh` steps.

    Args:
        refresh: steps in which every row is computed anew once (cost n / refresh rows a step); None: never.
        guard: None: never. `cin_impl.step`, whose shapes are fixed, computes the worst `guard_rows` rows anew at each
            step, and all of them where more have shrunk.
        scale: "row": as said; "none": the paper's raw exponentials, which the official code has.
        accumulate: type of the sums, e.g. torch.float64; None: that of the input.
    """

    def __init__(
        self, d_model: int, n_heads: int, window: int, *, refresh: int | None = None, guard: float | None = 1e-2,
        guard_rows: int = 2, scale: str = "row", accumulate: torch.dtype | None = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(d_model, n_heads, window, **kwargs)
        if refresh is not None and refresh < 1:
            raise ValueError(f"refresh must be at least 1 step, got {refresh}")
        if guard is not None and not 0 < guard < 1:
            raise ValueError(f"guard must lie between 0 and 1, got {guard}")
        if scale not in ("row", "none"):
            raise ValueError(f"scale must be 'row' or 'none', got {scale!r}")
        self.refresh, self.guard, self.scale, self.accumulate = refresh, guard, scale, accumulate
        self.guard_rows = min(guard_rows, window)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """All rows of one window: `(batch, d_model, window)`."""
        self._check_clip(x)
        if x.shape[2] != self.window:
            raise ValueError(f"x must be one window of {self.window} slices, got {x.shape[2]}")
        return self._out(full_attention(*self._qkv(x.transpose(1, 2))))

    def advance(self, x: Tensor, state: dict[str, Any]) -> Tensor | None:
        n = self.window
        q, k, v = self._wide(x)
        if not state:
            state.update(t=0, **self._empty(q))
        t = state["t"]
        state["t"] = t + 1
        slot, filled = t % n, min(t + 1, n)
        queries, keys, values, d, av = (state[name] for name in ("q", "k", "v", "d", "av"))
        offset, peak = state["offset"], state["peak"]
        added = torch.einsum("bhnd,bhd->bhn", queries, k)
        if self.scale == "row":
            higher = torch.maximum(offset, added)
            shrink = (offset - higher).exp()
            d *= shrink
            peak *= shrink
            av *= shrink[..., None]
            offset.copy_(higher)
        a_new = (added - offset).exp()
        if t >= n:
            a_old = (torch.einsum("bhnd,bhd->bhn", queries, keys[:, :, slot]) - offset).exp()
            d -= a_old
            av.addcmul_(a_old[..., None], values[:, :, slot][:, :, None], value=-1)
            gone = a_old * state["size"][:, :, slot, None]
        d += a_new
        av.addcmul_(a_new[..., None], v[:, :, None])
        for name, value in (("q", q), ("k", k), ("v", v), ("size", v.abs().amax(-1))):
            state[name][:, :, slot] = value
        torch.maximum(peak, d, out=peak)
        anew = [slot]
        if self.refresh is not None:
            rows_now = math.ceil(n / self.refresh)
            anew += [(t * rows_now + i) % n for i in range(rows_now)]
        if self.guard is not None and t >= n and not x.is_meta:
            ill = self._ill(d, peak, gone, state["size"])
            if bool(ill.any()):
                anew += ill.flatten(0, 1).any(0).nonzero()[:, 0].tolist()
        self._anew(state, sorted({row for row in anew if row < filled}), filled)
        if t < self.delay:
            return None
        y = av / d[..., None]
        order = (slot + 1) % n
        y = torch.cat([y[:, :, order:], y[:, :, :order]], 2) if order else y
        return self._out(y.to(x.dtype))

    def _ill(self, d: Tensor, peak: Tensor, gone: Tensor, size: Tensor) -> Tensor:
        """Rows that have lost nearly all that they held: of their sums, or, by one large value, of their outputs."""
        guard = self.guard or 0.0
        return ~((d > guard * peak) & (d * size.amax(-1, keepdim=True) >= guard * gone))

    def _anew(self, state: dict[str, Any], rows: list[int], filled: int) -> None:
        """Rows as the obvious form has them."""
        whole = slice(rows[0], rows[-1] + 1) if rows[-1] - rows[0] + 1 == len(rows) else rows
        scores = state["q"][:, :, whole] @ state["k"][:, :, :filled].transpose(-1, -2)
        offset = scores.amax(-1) if self.scale == "row" else scores.new_zeros(scores.shape[:-1])
        weights = (scores - offset[..., None]).exp()
        state["offset"][:, :, whole] = offset
        state["d"][:, :, whole] = state["peak"][:, :, whole] = weights.sum(-1)
        state["av"][:, :, whole] = weights @ state["v"][:, :, :filled]

    def _wide(self, x: Tensor) -> tuple[Tensor, ...]:
        q, k, v = self._of_slice(x).to(self.accumulate or x.dtype).chunk(3, 1)
        return q / math.sqrt(q.shape[-1]), k, v

    def _empty(self, q: Tensor) -> dict[str, Tensor]:
        rows = (*q.shape[:2], self.window)
        state = {name: q.new_zeros(*rows, q.shape[-1]) for name in ("q", "k", "v", "av")}
        return state | {name: q.new_zeros(rows) for name in ("d", "peak", "offset", "size")}

    def pure(self, x: Tensor, valid: Tensor, state: Any) -> tuple[Tensor, Tensor, Any]:
        n = self.window
        q, k, v = self._wide(x)
        if state is None:
            state = {"t": torch.zeros((), dtype=torch.int64, device=x.device), **self._empty(q)}
        t, offset = state["t"], state["offset"]
        slot = (t % n)[None]
        added = torch.einsum("bhnd,bhd->bhn", state["q"], k)
        if self.scale == "row":
            offset = torch.maximum(offset, added)
        shrink, a_new = (state["offset"] - offset).exp(), (added - offset).exp()
        old_k, old_v = (state[name].index_select(2, slot)[:, :, 0] for name in ("k", "v"))
        a_old = (torch.einsum("bhnd,bhd->bhn", state["q"], old_k) - offset).exp() * (t >= n)
        d = state["d"] * shrink - a_old + a_new
        av = state["av"] * shrink[..., None] - a_old[..., None] * old_v[:, :, None] + a_new[..., None] * v[:, :, None]
        peak = torch.maximum(state["peak"] * shrink, d)
        gone = a_old * state["size"].index_select(2, slot)
        rows = (("q", q), ("k", k), ("v", v), ("size", v.abs().amax(-1)))
        kept = {name: state[name].index_copy(2, slot, row[:, :, None]) for name, row in rows}
        # anew: the newest row, those whose turn it is, those whose sum has fallen furthest below its peak
        places = torch.arange(n, device=x.device)
        turns = 0 if self.refresh is None else math.ceil(n / self.refresh)
        now = (places == slot) | ((places - t * turns) % n < turns)
        ill = torch.zeros_like(now)
        if self.guard is not None:
            ill = ~now & self._ill(d, peak, gone, kept["size"])
        worst = torch.where(now, -1.0, torch.where(ill, 0.0, d / peak.clamp(min=torch.finfo(d.dtype).tiny)))
        guarded = 0 if self.guard is None else self.guard_rows
        few = worst.topk(min(n, 1 + turns + guarded), dim=-1, largest=False).indices
        sums = (kept["q"], kept["k"], kept["v"], offset, d, peak, av, few, t)
        many = ill.sum(-1).amax() > guarded
        if torch.compiler.is_compiling():
            offset, d, peak, av = torch.cond(many, self._all_rows, self._some_rows, sums)
        else:
            anew = self._all_rows if not x.is_meta and bool(many) else self._some_rows
            offset, d, peak, av = anew(*sums)
        y = (av / d[..., None]).index_select(2, (places + slot + 1) % n).to(x.dtype)
        new = {**kept, "offset": offset, "d": d, "peak": peak, "av": av}
        new = {name: torch.where(valid, value, state[name]) for name, value in new.items()}
        return self._out(y), valid & is_due(t, self.delay, 1), {"t": t + valid, **new}

    def _all_rows(self, q: Tensor, k: Tensor, v: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        rows = torch.arange(self.window, device=q.device).expand(q.shape[:3])
        return self._some_rows(q, k, v, *rest[:4], rows, rest[-1])

    def _some_rows(self, q: Tensor, k: Tensor, v: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """The sums, those of `rows` (batch, heads, some) as the obvious form has them."""
        offset, d, peak, av, rows, t = rest
        across = rows[..., None].expand(*rows.shape, q.shape[-1])
        scores = torch.gather(q, 2, across) @ k.mT
        scores = scores.masked_fill(torch.arange(self.window, device=q.device) > t, float("-inf"))
        top = scores.amax(-1) if self.scale == "row" else torch.zeros_like(scores[..., 0])
        weights = (scores - top[..., None]).exp()
        total = weights.sum(-1)
        parts = ((offset, rows, top), (d, rows, total), (peak, rows, total), (av, across, weights @ v))
        return tuple(old.scatter(2, at, value) for old, at, value in parts)


class RecyclingPositionalEncoding(Continual, nn.Module):
    """Positions that come round: slice t gets embedding t mod `length`; a clip is given the positions after the last.

    Args:
        length: at least 2 n - 1 for a window n, so that no two slices that meet share a position.
        learned: parameters, or sinusoids whose periods divide `length`.
    """

    def __init__(self, d_model: int, length: int, *, learned: bool = True, window: int | None = None) -> None:
        super().__init__()
        if window is not None and length < 2 * window - 1:
            raise ValueError(f"length must be at least {2 * window - 1} (2 window - 1), got {length}")
        if length < 1 or d_model < 1:
            raise ValueError(f"length and d_model must be at least 1, got {length} and {d_model}")
        self.length = length
        if learned:
            self.weight = nn.Parameter(torch.randn(length, d_model) * 0.02)
        else:
            place = torch.arange(length)[:, None]
            turns = 1 + torch.arange(d_model) // 2 % max(1, length // 2)
            angle = 2 * math.pi * place * turns / length
            self.register_buffer("weight", torch.where(torch.arange(d_model) % 2 == 0, angle.sin(), angle.cos()))

    def forward(self, x: Tensor, offset: int = 0) -> Tensor:
        """A clip whose first slice is number `offset` of its stream."""
        places = (torch.arange(x.shape[2], device=x.device) + offset) % self.length
        return x + self.weight[places].T

    def advance(self, x: Tensor, state: dict[str, Any]) -> Tensor:
        t = state.setdefault("t", 0)
        state["t"] = (t + 1) % self.length
        return x + self.weight[t]

    def pure(self, x: Tensor, valid: Tensor, state: Any) -> tuple[Tensor, Tensor, Any]:
        t = torch.zeros((), dtype=torch.int64, device=x.device) if state is None else state["t"]
        return x + self.weight.index_select(0, t[None])[0], valid, {"t": (t + valid) % self.length}


class EncoderLayer(Continual, nn.Module):
    """A post-norm Transformer encoder layer, `norm(x + attention(x))` and `norm(x + mlp(x))`, around either attention.

    `kind="retroactive"` gives the whole window each step, `"single"` one row.
    """

    def __init__(
        self, d_model: int, n_heads: int, d_mlp: int, window: int, *, kind: str = "single", query_index: int = -1
    ) -> None:
        super().__init__()
        if kind not in ("single", "retroactive"):
            raise ValueError(f"kind must be 'single' or 'retroactive', got {kind!r}")
        self.kind, self.window, self.query_index = kind, window, query_index % window
        self.self_attn: Any = (
            SingleOutputMHA(d_model, n_heads, window, query_index=query_index)
            if kind == "single"
            else RetroactiveMHA(d_model, n_heads, window)
        )
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.linear1, self.linear2 = nn.Linear(d_model, d_mlp), nn.Linear(d_mlp, d_model)
        self.receptive_field = window

    def _rest(self, skip: Tensor, y: Tensor) -> Tensor:
        x = self.norm1((skip + y).movedim(1, -1))
        return self.norm2(x + self.linear2(F.gelu(self.linear1(x)))).movedim(-1, 1)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        y = self.self_attn(x)
        start = self.query_index if self.kind == "single" else 0
        return self._rest(x[:, :, start : start + y.shape[2]], y)

    def _skip(self, window: Tensor) -> Tensor:
        return window[self.query_index] if self.kind == "single" else window.permute(1, 2, 0)

    def advance(self, x: Tensor, state: dict[str, Any]) -> Tensor | None:
        n = self.window
        if not state:
            state.update(t=0, ring=x.new_zeros(2 * n, *x.shape), attention={})
        slot = state["t"] % n
        state["ring"][slot] = state["ring"][slot + n] = x
        state["t"] += 1
        y = self.self_attn.advance(x, state["attention"])
        return None if y is None else self._rest(self._skip(state["ring"][slot + 1 : slot + 1 + n]), y)

    def pure(self, x: Tensor, valid: Tensor, state: Any) -> tuple[Tensor, Tensor, Any]:
        if state is None:
            state = {"window": x.new_zeros(self.window, *x.shape), "attention": None}
        window = torch.cat([state["window"][1:], x[None]])
        y, due, attention = self.self_attn.pure(x, valid, state["attention"])
        kept = torch.where(valid, window, state["window"])
        return self._rest(self._skip(window), y), due, {"window": kept, "attention": attention}


class TransformerEncoder(Continual, nn.Module):
    """One or two exact continual blocks: single-output, or retroactive and then single-output (CoOadTR-b1, -b2).

    More are not exact in steps: what the first layer says of old slices changes with every new one.
    """

    def __init__(
        self, d_model: int, n_heads: int, d_mlp: int, window: int, *, blocks: int = 1, query_index: int = -1
    ) -> None:
        super().__init__()
        if blocks not in (1, 2):
            raise ValueError(f"blocks must be 1 or 2 (a deeper stack is not exact in steps), got {blocks}")
        kinds = ("single",) if blocks == 1 else ("retroactive", "single")
        self.layers = nn.ModuleList(
            EncoderLayer(
                d_model, n_heads, d_mlp, window, kind=kind, query_index=query_index if kind == "single" else -1
            )
            for kind in kinds
        )
        self.window = self.receptive_field = window

    def forward(self, x: Tensor) -> Tensor:
        """One window: `(batch, d_model, 1)`."""
        if x.shape[2] != self.window:
            raise ValueError(f"x must be one window of {self.window} slices, got {x.shape[2]}")
        for layer in self.layers:
            x = layer(x)
        return x

    def _last(self, window: Tensor) -> Tensor:
        return self.layers[1](window)[:, :, 0] if len(self.layers) == 2 else window

    def advance(self, x: Tensor, state: dict[str, Any]) -> Tensor | None:
        y = self.layers[0].advance(x, state)  # type: ignore[operator]
        return None if y is None else self._last(y)

    def pure(self, x: Tensor, valid: Tensor, state: Any) -> tuple[Tensor, Tensor, Any]:
        y, due, state = self.layers[0].pure(x, valid, state)  # type: ignore[operator]
        return self._last(y), due, state
