"""The parallel gated network: HIE and one gate (section 3.1, figure 2a).

    G_t = sigmoid(W_g [x_t, H_t] + b_g)      C_t = tanh(W_c [x_t, H_t] + b_c)
    Out_t = G_t * H_t + (1 - G_t) * C_t

Any step of the past is one hop away from any output, and nothing waits for the step before.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from pgn_impl.grouped import GroupedLinear
from pgn_impl.hie import HIE, Form

__all__ = ["PGN", "PGN2d", "PGNClassifier", "PGNState", "StackedPGN"]


class PGNState(NamedTuple):
    """What `step` remembers: the last `window` inputs, each written twice so that they always lie in one piece."""

    ring: Tensor
    """(batch, 2 window, d_in); written in place by `step`"""
    position: int
    """where the next input goes, from 0 to window - 1"""


class PGN(nn.Module):
    """A causal layer from (batch, length, d_in) to (batch, length, d_model), parallel over the length.

    Args:
        d_in, d_model: features in and out.
        window: steps that it reaches back; None: all but one of `seq_len`, the full history.
        seq_len: length of the sequences, needed only with `window=None`. Others may be fed: shorter ones use the
            weights of the recent lags, longer ones see the last `window` steps.
        groups: see `HIE`; more than 1 is for `gated`, which `PGN2d` uses.
    """

    def __init__(
        self, d_in: int, d_model: int, window: int | None = None, *, seq_len: int | None = None, groups: int = 1
    ) -> None:
        super().__init__()
        if window is None:
            if seq_len is None or seq_len < 2:
                raise ValueError(f"seq_len must be at least 2 where window is None, got {seq_len}")
            window = seq_len - 1
        self.d_in, self.d_model, self.window = d_in, d_model, window
        self.hie = HIE(d_in, d_model, window, groups=groups)
        self.gate = GroupedLinear(groups, d_in + d_model, 2 * d_model)

    def forward(
        self, x: Float[Tensor, "batch length d_in"], form: Form = "auto"
    ) -> Float[Tensor, "batch length d_model"]:
        """Out of every step.

        Args:
            form: how H is computed (see `pgn_impl.hie`).
        """
        return self.gated(x.unsqueeze(0), form).squeeze(0)

    def gated(
        self, x: Float[Tensor, "groups rows length d_in"], form: Form = "auto"
    ) -> Float[Tensor, "groups rows length d_model"]:
        """Out of every step of sequences in groups with weights of their own."""
        return self._combine(x, self.hie(x, form))

    def _combine(self, x: Tensor, history: Tensor) -> Tensor:
        groups, rows, length, _ = x.shape
        # W [x, H] + b as W_x x + (W_h H + b): the concatenation would be the layer's largest tensor
        from_input, from_history = self.gate.weight.transpose(1, 2).split([self.d_in, self.d_model], 1)
        both = torch.baddbmm(self.gate.bias.unsqueeze(1), history.reshape(groups, rows * length, -1), from_history)
        both = both.baddbmm_(x.reshape(groups, rows * length, -1), from_input)
        gate, candidate = both.view(groups, rows, length, -1).chunk(2, -1)
        # G H + (1 - G) C as C + G (H - C)
        if torch.is_grad_enabled():
            return torch.lerp(candidate.tanh(), history, gate.sigmoid())
        return candidate.tanh_().lerp_(history, gate.sigmoid_())  # in place: the time goes into memory

    def initial_state(self, batch_size: int) -> PGNState:
        """The state before the first step: a past of zeros."""
        weight = self.hie.weight
        return PGNState(weight.new_zeros(batch_size, 2 * self.window, self.d_in), 0)

    def step(self, x: Float[Tensor, "batch d_in"], state: PGNState) -> tuple[Float[Tensor, "batch d_model"], PGNState]:
        """One more step; the cost does not depend on how many went before.

        The ring in `state` is written in place: go on from the state returned, not from an older one.
        """
        ring, position = state
        window = self.window
        past = ring[:, position : position + window]  # oldest first
        history = torch.einsum("bkc,dck->bd", past, self.hie.weight[0]) + self.hie.bias
        out = self._combine(x[None, :, None], history[None, :, None])[0, :, 0]
        ring[:, position] = ring[:, position + window] = x
        return out, PGNState(ring, (position + 1) % window)


class StackedPGN(nn.Module):
    """PGN layers one upon the other, causal as a whole.

    Args:
        d_in, d_model: features in, and of every layer.
        n_layers: how many.
        window, seq_len: of each layer, see `PGN`.
        residual: add each layer's input to its output, from the second on.
    """

    def __init__(
        self,
        d_in: int,
        d_model: int,
        n_layers: int = 2,
        window: int | None = None,
        *,
        seq_len: int | None = None,
        residual: bool = True,
    ) -> None:
        super().__init__()
        if n_layers < 1:
            raise ValueError(f"n_layers must be at least 1, got {n_layers}")
        self.residual = residual
        self.layers = nn.ModuleList(
            PGN(d_in if i == 0 else d_model, d_model, window, seq_len=seq_len) for i in range(n_layers)
        )

    def forward(self, x: Float[Tensor, "batch length d_in"]) -> Float[Tensor, "batch length d_model"]:
        """Out of the last layer at every step."""
        for i, layer in enumerate(self.layers):
            y = layer(x)
            x = x + y if self.residual and i > 0 else y
        return x

    def initial_state(self, batch_size: int) -> list[PGNState]:
        """The states of all layers before the first step."""
        return [layer.initial_state(batch_size) for layer in self.layers]  # type: ignore[operator, union-attr]

    def step(
        self, x: Float[Tensor, "batch d_in"], state: list[PGNState]
    ) -> tuple[Float[Tensor, "batch d_model"], list[PGNState]]:
        """One more step through all layers, see `PGN.step`."""
        states = []
        for i, (layer, own) in enumerate(zip(self.layers, state, strict=True)):
            y, new = layer.step(x, own)  # type: ignore[operator]
            x = x + y if self.residual and i > 0 else y
            states.append(new)
        return x, states


class PGNClassifier(nn.Module):
    """Sequence classification: stacked PGN, the mean of its outputs over the true steps, a linear layer.

    Args:
        d_in, d_model, n_layers, window, seq_len: of `StackedPGN`.
        n_classes: logits a sequence.
    """

    def __init__(
        self,
        d_in: int,
        d_model: int,
        n_classes: int,
        *,
        n_layers: int = 2,
        window: int | None = None,
        seq_len: int | None = None,
    ) -> None:
        super().__init__()
        if n_classes < 2:
            raise ValueError(f"n_classes must be at least 2, got {n_classes}")
        self.encoder = StackedPGN(d_in, d_model, n_layers, window, seq_len=seq_len)
        self.head = nn.Linear(d_model, n_classes)

    def forward(
        self, x: Float[Tensor, "batch length d_in"], lengths: Int64[Tensor, "batch"] | None = None
    ) -> Float[Tensor, "batch n_classes"]:
        """Logits.

        Args:
            lengths: true steps of each sequence, from its first; None: all. The rest does not count.
        """
        y = self.encoder(x)
        if lengths is None:
            pooled = y.mean(1)
        else:
            true = torch.arange(y.shape[1], device=y.device) < lengths[:, None]
            pooled = (y * true[..., None]).sum(1) / lengths[:, None].to(y.dtype)
        logits: Tensor = self.head(pooled)
        return logits


class PGN2d(nn.Module):
    """PGN along the rows of a grid, each column on its own with the same weights; weights of its own per variable.

    Args:
        d_in, d_model: features of a cell in and out.
        rows: of the grid, R; the window is R - 1, the full history.
        c_in: variables.
    """

    def __init__(self, d_in: int, d_model: int, rows: int, *, c_in: int = 1) -> None:
        super().__init__()
        if rows < 2:
            raise ValueError(f"rows must be at least 2, got {rows}: there is no history in a single one")
        self.pgn = PGN(d_in, d_model, rows - 1, groups=c_in)

    def forward(
        self, grid: Float[Tensor, "c_in batch columns rows d_in"], form: Form = "auto"
    ) -> Float[Tensor, "c_in batch columns rows d_model"]:
        """Out of every cell."""
        return self.pgn.gated(grid.flatten(1, 2), form).unflatten(1, grid.shape[1:3])
