"""What is put on a stack for the paper's four tasks (section 4); the backbone is a setting of each."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shared_impl.pretrained import Pretrained

from .layer import StackState
from .twins import build_backbone

__all__ = ["ClassifierNet", "DecisionModel", "EventModel", "Forecaster"]


class DecisionModel(nn.Module, Pretrained):
    """Decision Transformer (Chen et al., 2021): tokens (return to go, state, action); the action from the state's.

    States and returns are in the environment's units; `set_scale` fits what they are divided by.
    """

    state_mean: Tensor
    state_scale: Tensor
    return_scale: Tensor

    def __init__(
        self,
        *,
        d_state: int = 3,
        d_action: int = 1,
        model: str = "aaren",
        n_layers: int = 3,
        d_model: int = 128,
        n_heads: int = 1,
        d_ff: int = 512,
        dropout: float = 0.1,
        max_time: int = 1000,
    ) -> None:
        super().__init__()
        self.returns, self.states = nn.Linear(1, d_model), nn.Linear(d_state, d_model)
        self.actions, self.time = nn.Linear(d_action, d_model), nn.Embedding(max_time, d_model)
        self.norm = nn.LayerNorm(d_model)
        self.backbone = build_backbone(
            model, n_layers=n_layers, d_model=d_model, n_heads=n_heads, d_ff=d_ff, dropout=dropout
        )
        self.head = nn.Linear(d_model, d_action)
        self.register_buffer("state_mean", torch.zeros(d_state))
        self.register_buffer("state_scale", torch.ones(d_state))
        self.register_buffer("return_scale", torch.ones(()))

    def set_scale(self, states: Float[Tensor, "steps d_state"], largest_return: float) -> None:
        """Normalise as these states ask for; returns are divided by the largest in size."""
        self.state_mean.copy_(states.mean(0))
        self.state_scale.copy_(states.std(0, correction=0).clamp_min(1e-6))
        self.return_scale.fill_(max(abs(largest_return), 1e-6))

    def forward(
        self,
        returns: Float[Tensor, "batch length"],
        states: Float[Tensor, "batch length d_state"],
        actions: Float[Tensor, "batch length d_action"],
        time: Int[Tensor, "batch length"],
    ) -> Float[Tensor, "batch length d_action"]:
        """The action at every step, in (-1, 1), from what came before it.

        Raises:
            ValueError: if a time step is out of range.
        """
        at = self._at(time)
        tokens = torch.stack([*self._asked(returns, states, at), self.actions(actions) + at], 2)
        y, _ = self.backbone(self.norm(tokens.flatten(1, 2)))
        return torch.tanh(self.head(y[:, 1::3]))

    def step(
        self,
        returns: Float[Tensor, "batch"],
        states: Float[Tensor, "batch d_state"],
        time: int,
        last_action: Float[Tensor, "batch d_action"] | None = None,
        memory: StackState | None = None,
    ) -> tuple[Float[Tensor, "batch d_action"], StackState]:
        """The action now, and the memory to hand back with it at the next step; no history is kept beside it.

        Raises:
            ValueError: if `last_action` is missing after the first step or given at it, or the time is out of range.
        """
        if (memory is None) != (last_action is None):
            raise ValueError("last_action must be given together with memory, and neither at the first step")
        at = self._at(torch.tensor(time, device=states.device))
        tokens = self._asked(returns, states, at)
        if last_action is not None:
            tokens.insert(0, self.actions(last_action) + self._at(torch.tensor(time - 1, device=states.device)))
        y, memory = self.backbone.forward_chunk(self.norm(torch.stack(tokens, 1)), memory)
        return torch.tanh(self.head(y[:, -1])), memory

    def _at(self, time: Tensor) -> Tensor:
        if time.numel() and (time.min() < 0 or time.max() >= self.time.num_embeddings):
            raise ValueError(f"time must lie in 0 to {self.time.num_embeddings}, exclusive")
        at: Tensor = self.time(time)
        return at

    def _asked(self, returns: Tensor, states: Tensor, at: Tensor) -> list[Tensor]:
        scaled = (states - self.state_mean) / self.state_scale
        return [self.returns((returns / self.return_scale).unsqueeze(-1)) + at, self.states(scaled) + at]


class EventModel(nn.Module, Pretrained):
    """Next event's time as a log-normal mixture (Shchur et al., 2020) and its mark, from the events before.

    Times are in the user's unit; `set_scale` fits the model to it.
    """

    log_mean: Tensor
    log_scale: Tensor

    def __init__(
        self,
        *,
        n_marks: int = 3,
        model: str = "aaren",
        n_layers: int = 2,
        d_model: int = 32,
        n_heads: int = 4,
        d_ff: int = 128,
        dropout: float = 0.0,
        n_components: int = 8,
    ) -> None:
        super().__init__()
        if n_marks < 1 or n_components < 1:
            raise ValueError(f"n_marks and n_components must be positive, got {n_marks} and {n_components}")
        self.n_marks = n_marks
        self.mark, self.gap = nn.Embedding(n_marks + 1, d_model), nn.Linear(2, d_model)
        self.backbone = build_backbone(
            model, n_layers=n_layers, d_model=d_model, n_heads=n_heads, d_ff=d_ff, dropout=dropout,
            positions="sinusoidal",
        )  # fmt: skip
        self.mixture, self.logits = nn.Linear(d_model, 3 * n_components), nn.Linear(d_model, n_marks)
        self.register_buffer("log_mean", torch.zeros(()))
        self.register_buffer("log_scale", torch.ones(()))

    def set_scale(self, gaps: Float[Tensor, "events"]) -> None:
        """Take the mean and deviation of the logarithms of these gaps as zero and one."""
        logs = gaps[gaps > 0].log()
        if len(logs):
            self.log_mean.copy_(logs.mean())
            self.log_scale.copy_(logs.std(correction=0).clamp_min(0.1))

    def forward(
        self,
        gaps: Float[Tensor, "batch length"],
        marks: Int[Tensor, "batch length"],
        mask: Bool[Tensor, "batch length"],
    ) -> dict[str, Tensor]:
        """`nll` (batch, length) of each event given those before, and what `step` foretells of it.

        Raises:
            ValueError: if a gap is negative or not finite, or a mark is not known.
        """
        log_gap = self._log(gaps)
        seen = F.pad(self._embedded(gaps, marks)[:, :-1], (0, 0, 1, 0))
        first = torch.arange(gaps.shape[1], device=gaps.device).eq(0).unsqueeze(-1)
        start = self.mark.weight[self.n_marks] + self.gap.bias
        padding = ~torch.cat([torch.ones_like(mask[:, :1]), mask[:, :-1]], 1)
        h, _ = self.backbone(torch.where(first, start, seen), key_padding_mask=padding)
        log_weight, mean, std = self._parts(h)
        z = (log_gap.unsqueeze(-1) - mean) / std
        normal = log_weight - 0.5 * z**2 - std.log() - 0.5 * math.log(2 * math.pi)
        # The density of the gap itself: log-normal, in the user's unit
        log_density = torch.logsumexp(normal, -1) - self.log_scale.log() - self.log_mean - log_gap * self.log_scale
        found = self._foretold(h)
        nll = -log_density + F.cross_entropy(found["logits"].transpose(1, 2), marks, reduction="none")
        return {"nll": nll, **found}

    def begin(self, batch_size: int = 1) -> tuple[dict[str, Tensor], StackState]:
        """What is foretold before the first event, and the state to read it with."""
        start = (self.mark.weight[self.n_marks] + self.gap.bias).expand(batch_size, -1)
        h, state = self.backbone.step(start)
        return self._foretold(h), state

    def step(
        self, gap: Float[Tensor, "batch"], mark: Int[Tensor, "batch"], state: StackState | None = None
    ) -> tuple[dict[str, Tensor], StackState]:
        """Read an event; `gap` (expected until the next), `mark` (most likely) and its `logits`, and the state after.

        Raises:
            ValueError: as for `forward`.
        """
        token = self._embedded(gap, mark)
        h, state = self.backbone.step(token, self.begin(len(gap))[1] if state is None else state)
        return self._foretold(h), state

    def _log(self, gaps: Tensor) -> Tensor:
        if bool((gaps < 0).any()) or not bool(gaps.isfinite().all()):
            raise ValueError("gaps must be finite and not negative: event times must not go back")
        return ((gaps / self.log_mean.exp()).clamp_min(1e-6).log()) / self.log_scale

    def _embedded(self, gaps: Tensor, marks: Tensor) -> Tensor:
        if marks.numel() and (marks.min() < 0 or marks.max() >= self.n_marks):
            raise ValueError(f"marks must lie in 0 to {self.n_marks}, exclusive, got {marks.min()} to {marks.max()}")
        features = torch.stack([self._log(gaps), (gaps / self.log_mean.exp()).clamp_max(20.0)], -1)
        embedded: Tensor = self.mark(marks) + self.gap(features)
        return embedded

    def _parts(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight, mean, log_std = self.mixture(h).chunk(3, -1)
        return weight.log_softmax(-1), mean, log_std.clamp(-5, 3).exp()

    def _foretold(self, h: Tensor) -> dict[str, Tensor]:
        log_weight, mean, _ = self._parts(h)
        # The mean of a log-normal runs away with its width; the components' medians do not
        medians = (mean * self.log_scale + self.log_mean).clamp(-30, 30).exp()
        logits = self.logits(h)
        return {"gap": (log_weight.exp() * medians).sum(-1), "mark": logits.argmax(-1), "logits": logits}


class Forecaster(nn.Module, Pretrained):
    """Each channel's next `horizon` values from its last `context`, normalised by the window's mean and deviation."""

    def __init__(
        self,
        *,
        context: int = 96,
        horizon: int = 96,
        n_channels: int = 7,
        model: str = "aaren",
        n_layers: int = 2,
        d_model: int = 64,
        n_heads: int = 4,
        d_ff: int = 128,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if context < 1 or horizon < 1:
            raise ValueError(f"context and horizon must be positive, got {context} and {horizon}")
        self.context, self.horizon, self.n_channels = context, horizon, n_channels
        self.embed, self.head = nn.Linear(n_channels, d_model), nn.Linear(d_model, horizon * n_channels)
        self.backbone = build_backbone(
            model, n_layers=n_layers, d_model=d_model, n_heads=n_heads, d_ff=d_ff, dropout=dropout,
            positions="sinusoidal",
        )  # fmt: skip

    def forward(self, x: Float[Tensor, "batch context channels"]) -> Float[Tensor, "batch horizon channels"]:
        """The forecast.

        Raises:
            ValueError: if the window has another length or number of channels, or holds NaN or infinities.
        """
        if x.shape[1:] != (self.context, self.n_channels):
            raise ValueError(f"x must be (batch, {self.context}, {self.n_channels}), got {tuple(x.shape)}")
        if not bool(x.isfinite().all()):
            raise ValueError("x must be finite, got NaN or infinities")
        mean = x.mean(1, keepdim=True)
        scale = (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        y, _ = self.backbone(self.embed((x - mean) / scale))
        return self.head(y[:, -1]).unflatten(-1, (self.horizon, self.n_channels)) * scale + mean


class ClassifierNet(nn.Module, Pretrained):
    """Logits from the mean of a stack's outputs."""

    def __init__(
        self,
        *,
        n_channels: int = 1,
        n_classes: int = 2,
        model: str = "aaren",
        n_layers: int = 2,
        d_model: int = 32,
        n_heads: int = 4,
        d_ff: int = 64,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        # Neighbours by a convolution: attention whose weights ignore the output's token sees no local shape
        self.embed = nn.Conv1d(n_channels, d_model, 9, padding=8)
        self.backbone = build_backbone(
            model, n_layers=n_layers, d_model=d_model, n_heads=n_heads, d_ff=d_ff, dropout=dropout,
            positions="sinusoidal",
        )  # fmt: skip
        self.head = nn.Linear(d_model, n_classes)

    def forward(
        self, x: Float[Tensor, "batch length channels"], mask: Bool[Tensor, "batch length"] | None = None
    ) -> Float[Tensor, "batch classes"]:
        """One prediction a sequence; mask is True where a sequence has a value, and its padding is at the end."""
        h = F.relu(self.embed(x.transpose(1, 2))[..., : x.shape[1]]).transpose(1, 2)
        y, _ = self.backbone(h)
        if mask is None:
            return self.head(y.mean(1))
        return self.head((y * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True))
