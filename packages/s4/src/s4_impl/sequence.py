"""What every model of this package shares: encoder, backbone, decoder; the losses; autoregressive generation.

S4 and its baselines differ in the backbone alone, which is any module with

    forward(x, mask=None, state=None, rate=1.0) -> (y, state)   x, y: (batch, length, d_model)
    default_state(batch) -> state                               for step, and for a sequence read in chunks
    setup_step(mode) -> None                                    before step: compute what depends on the weights
    step(x, state) -> (y, state)                                x, y: (batch, d_model)
    causal: bool
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from s4_impl.adaptive import AdaptiveEmbedding, AdaptiveSoftmax
from shared_impl.pretrained import Pretrained

__all__ = ["Pooling", "SequenceModel", "Task", "sample_token"]

Task = Literal["classify", "retrieve", "regress", "lm"]
Pooling = Literal["mean", "last", "none"]
_DEFAULT_POOLING: dict[str, Pooling] = {"classify": "mean", "retrieve": "mean", "regress": "none", "lm": "none"}


class SequenceModel(nn.Module, Pretrained):
    """A backbone between an encoder and a decoder.

    Args:
        backbone: the module that mixes positions, see above.
        d_input: channels of a signal, or number of tokens for `encoder="embedding"`.
        d_output: classes, channels of the target, or number of tokens for "lm".
        task: "classify": one vector of logits a sequence; "retrieve": the same for a pair of sequences;
            "regress": real values, one vector a step or a sequence; "lm": logits of the next token at each step.
        encoder: "linear" for signals, "embedding" for tokens; by default by the task ("lm", "retrieve": tokens).
        pooling: "mean" over the sequence, "last" step, or "none": every step.
        horizon: with pooling "none", only the last `horizon` steps are decoded.
        adaptive_cutoffs: for "lm", adaptive embedding and softmax with these vocabulary bands, weights shared.
    """

    def __init__(
        self,
        backbone: Any,
        *,
        d_input: int,
        d_output: int,
        d_model: int,
        task: str = "classify",
        encoder: Literal["auto", "linear", "embedding"] = "auto",
        pooling: Pooling | None = None,
        horizon: int | None = None,
        adaptive_cutoffs: tuple[int, ...] | list[int] | None = None,
        dropout_embedding: float = 0.0,
    ) -> None:
        super().__init__()
        if task not in _DEFAULT_POOLING:
            raise ValueError(f"task must be one of {', '.join(_DEFAULT_POOLING)}, got {task!r}")
        if min(d_input, d_output, d_model) < 1:
            raise ValueError(f"d_input, d_output and d_model must be positive, got {d_input}, {d_output}, {d_model}")
        if encoder == "auto":
            encoder = "embedding" if task in ("lm", "retrieve") else "linear"
        self.task, self.encoder_kind, self.horizon = task, encoder, horizon
        self.pooling: Pooling = pooling or _DEFAULT_POOLING[task]
        if task in ("classify", "retrieve") and self.pooling == "none":
            raise ValueError(f"pooling must be 'mean' or 'last' for task {task!r}, got 'none'")
        if task == "lm" and (self.pooling != "none" or encoder != "embedding" or not backbone.causal):
            raise ValueError(
                "task 'lm' needs pooling='none', encoder='embedding' and a causal backbone (bidirectional=False)"
            )
        if horizon is not None and (self.pooling != "none" or horizon < 1):
            raise ValueError(f"horizon must be positive and needs pooling='none', got {horizon} and {self.pooling!r}")
        self.d_input, self.d_output, self.d_model = d_input, d_output, d_model
        self.encoder: nn.Module
        self.decoder: nn.Module
        if adaptive_cutoffs is not None:
            if task != "lm" or d_input != d_output:
                raise ValueError("adaptive_cutoffs needs task 'lm' and d_input equal to d_output")
            self.encoder = AdaptiveEmbedding(d_input, d_model, cutoffs=tuple(adaptive_cutoffs))
            self.decoder = AdaptiveSoftmax(self.encoder)
        else:
            self.encoder = nn.Embedding(d_input, d_model) if encoder == "embedding" else nn.Linear(d_input, d_model)
            self.decoder = nn.Linear(d_model, d_output)
            if task == "retrieve":
                self.decoder = nn.Sequential(nn.Linear(4 * d_model, d_model), nn.GELU(), nn.Linear(d_model, d_output))
        self.dropout_embedding = nn.Dropout(dropout_embedding)
        self.backbone: Any = backbone

    @property
    def causal(self) -> bool:
        return bool(self.backbone.causal)

    def forward(
        self,
        inputs: Float[Tensor, "batch length channels"] | Int[Tensor, "batch length"] | Int[Tensor, "batch 2 length"],
        lengths: Int[Tensor, " batch"] | Int[Tensor, "batch 2"] | None = None,
        *,
        rate: float = 1.0,
    ) -> Float[Tensor, "batch ..."]:
        """Outputs of the task: (batch, d_output), or (batch, length or horizon, d_output) without pooling.

        Args:
            lengths: where the padding of each sequence begins; what lies behind has no influence.
            rate: sampling rate relative to training: 2.0 for a signal that was sampled at half the frequency.
        """
        if self.task == "retrieve":
            # both documents through the same model, then features that compare them
            flat = inputs.reshape(-1, inputs.shape[-1])
            summary = self._summary(flat, None if lengths is None else lengths.reshape(-1), rate)
            first, second = summary.unflatten(0, (-1, 2)).unbind(1)
            return self.decoder(torch.cat([first, second, first - second, first * second], dim=-1))
        if self.pooling != "none":
            return self.decoder(self._summary(inputs, lengths, rate))
        features = self._features(inputs, lengths, rate)
        if self.horizon is not None:
            features = features[:, -self.horizon :]
        return self.decoder(features)

    def _features(self, inputs: Tensor, lengths: Tensor | None, rate: float) -> Tensor:
        mask = None if lengths is None else _mask(lengths, inputs.shape[1])
        x = self.dropout_embedding(self.encoder(inputs))
        return self.backbone(x, mask=mask, rate=rate)[0]

    def _summary(self, inputs: Tensor, lengths: Tensor | None, rate: float) -> Tensor:
        features = self._features(inputs, lengths, rate)
        if lengths is None:
            return features.mean(dim=1) if self.pooling == "mean" else features[:, -1]
        if self.pooling == "last":
            return features[torch.arange(len(features), device=features.device), lengths - 1]
        # where, not a product: what a backbone computes behind the end may be anything
        kept = torch.where(_mask(lengths, features.shape[1])[..., None], features, 0.0)
        return kept.sum(dim=1) / lengths[:, None]

    def loss(
        self, inputs: Tensor, targets: Tensor, lengths: Tensor | None = None, *, rate: float = 1.0
    ) -> Float[Tensor, ""]:
        """Mean cross-entropy in nats ("classify", "retrieve", "lm"; a target of -100 is left out) or squared error."""
        if isinstance(self.decoder, AdaptiveSoftmax):
            features = self._features(inputs, lengths, rate)
            return self.decoder.loss(features.flatten(0, 1), targets.flatten().long())
        outputs = self(inputs, lengths, rate=rate)
        if self.task == "regress":
            return F.mse_loss(outputs, targets)
        return F.cross_entropy(outputs.flatten(0, -2), targets.flatten().long())

    def forward_chunk(self, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Outputs of every step of a chunk and the state behind it: chunk after chunk equals one pass."""
        y, state = self.backbone(self.dropout_embedding(self.encoder(inputs)), state=state)
        return self.decoder(y), state

    def default_state(self, batch: int) -> Any:
        """The state before the first step.

        Raises:
            ValueError: if the model is bidirectional, and so has no recurrent form.
        """
        self._require_causal("default_state")
        return self.backbone.default_state(batch)

    def setup_step(self, mode: str = "auto") -> "SequenceModel":
        """Compute what `step` needs of the weights; call it again when they have changed."""
        self._require_causal("setup_step")
        self.backbone.setup_step(mode)
        return self

    def step(
        self, inputs: Float[Tensor, "batch channels"] | Int[Tensor, " batch"], state: Any
    ) -> tuple[Float[Tensor, "batch d_output"], Any]:
        """Output of one step and the next state, in memory that does not grow with the sequence (S4, LSTM, TCN).

        With pooling "mean" or "last" it is the output that the model would give were this the last step.
        """
        self._require_causal("step")
        if self.pooling == "mean":
            inner, total, count = state if isinstance(state, tuple) and len(state) == 3 else (state, 0.0, 0)
            y, inner = self.backbone.step(self.encoder(inputs), inner)
            total, count = total + y, count + 1
            return self.decoder(total / count), (inner, total, count)
        y, state = self.backbone.step(self.encoder(inputs), state)
        return self.decoder(y), state

    def _require_causal(self, what: str) -> None:
        if not self.causal:
            raise ValueError(f"{what} needs a causal model: a bidirectional one has no recurrent form")
        if self.task == "retrieve":
            raise ValueError(f"{what} is not defined for task 'retrieve', which reads two sequences")

    @torch.no_grad()
    def generate(
        self,
        prompt: Int[Tensor, "batch prompt"],
        n_tokens: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "batch total"]:
        """The prompt and `n_tokens` sampled after it: the prompt in one parallel pass, then one step a token.

        Args:
            temperature: 0 takes the most likely token.
            top_k: only the k most likely tokens.
            top_p: only the most likely tokens that together have this probability.

        Raises:
            ValueError: if the model is no language model, the prompt is empty, or an option is out of range.
        """
        if self.task != "lm":
            raise ValueError(f"generate needs a model of task 'lm', this one is of task {self.task!r}")
        if prompt.shape[1] < 1 or n_tokens < 0:
            raise ValueError(
                f"prompt must have a token and n_tokens be at least 0, got {prompt.shape[1]} and {n_tokens}"
            )
        was_training = self.training
        self.eval()
        try:
            self.setup_step()
            features, state = self.backbone(self.encoder(prompt), state=self.default_state(len(prompt)))
            logits, tokens = self.decoder(features[:, -1]), [prompt]
            for i in range(n_tokens):
                token = sample_token(logits, temperature=temperature, top_k=top_k, top_p=top_p, generator=generator)
                tokens.append(token[:, None])
                if i + 1 < n_tokens:
                    logits, state = self.step(token, state)
        finally:
            self.train(was_training)
        return torch.cat(tokens, dim=1)


def sample_token(
    logits: Float[Tensor, "batch tokens"],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Int[Tensor, " batch"]:
    """One token a row, from the distribution that `temperature`, `top_k` and `top_p` leave.

    Raises:
        ValueError: if an option is out of range.
    """
    if temperature < 0:
        raise ValueError(f"temperature must be at least 0, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], got {top_p}")
    if temperature == 0:
        return logits.argmax(dim=-1)
    probabilities, order = (logits / temperature).softmax(dim=-1).sort(dim=-1, descending=True)
    if top_k is not None:
        probabilities[:, top_k:] = 0
    if top_p is not None:
        # a token stays if those before it have not yet reached top_p: the first one always stays
        before = probabilities.cumsum(dim=-1) - probabilities
        probabilities = torch.where(before < top_p * probabilities.sum(-1, keepdim=True), probabilities, 0.0)
    choice = torch.multinomial(probabilities, 1, generator=generator)
    return order.gather(-1, choice).squeeze(-1)


def _mask(lengths: Int[Tensor, " batch"], length: int) -> Bool[Tensor, "batch length"]:
    return torch.arange(length, device=lengths.device) < lengths[:, None]
