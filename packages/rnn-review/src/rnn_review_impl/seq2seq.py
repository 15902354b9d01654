"""The encoder-decoder of Sutskever (section 5.1.2), with attention as an option."""

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared_impl.pretrained import Pretrained

from .cells import reverse_valid
from .checks import State, check_ids, check_lengths
from .decoding import Step, beam_search
from .rnn import RNN

__all__ = ["Decoder", "Encoder", "Seq2Seq"]

PAD, BOS, EOS = 0, 1, 2


class Encoder(nn.Module):
    """Reads a sequence, backwards if `reverse` (its valid part only), into outputs and a final state."""

    def __init__(self, *, vocabulary: int, hidden_size: int, layers: int = 1, reverse: bool = True) -> None:
        super().__init__()
        self.vocabulary, self.reverse = vocabulary, reverse
        self.embedding = nn.Embedding(vocabulary, hidden_size)
        self.rnn = RNN(cell="lstm", input_size=hidden_size, hidden_size=hidden_size, layers=layers)

    def forward(self, ids: Int[Tensor, "batch length"], lengths: Tensor) -> tuple[Tensor, list[State]]:
        """Outputs in the order of reading, and the state.

        Raises:
            ValueError: ids outside the vocabulary, lengths out of range.
        """
        check_ids(ids, self.vocabulary, "ids")
        check_lengths(lengths, *ids.shape)
        return self.rnn(self.embedding(reverse_valid(ids, lengths) if self.reverse else ids), lengths=lengths)


class Decoder(nn.Module):
    """Writes a sequence from a state; with attention it looks at all of the encoder's outputs at each step.

    `from_features` starts it from a vector as first input instead, the survey's form for captions of images.
    """

    def __init__(
        self, *, vocabulary: int, hidden_size: int, layers: int = 1, attention: bool = False, features: int = 0
    ) -> None:
        super().__init__()
        self.vocabulary, self.attention = vocabulary, attention
        self.embedding = nn.Embedding(vocabulary, hidden_size)
        self.rnn = RNN(cell="lstm", input_size=hidden_size, hidden_size=hidden_size, layers=layers)
        self.combine = nn.Linear(2 * hidden_size, hidden_size) if attention else None
        self.features = nn.Linear(features, hidden_size) if features else None
        self.output = nn.Linear(hidden_size, vocabulary)

    def forward(
        self, ids: Tensor, state: list[State], source: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, list[State]]:
        """Logits after each of the ids (teacher forcing); `source` and `mask` are what attention looks at."""
        check_ids(ids, self.vocabulary, "ids")
        h, state = self.rnn(self.embedding(ids), state)
        if self.combine is not None:
            if source is None or mask is None:
                raise ValueError("source and mask must be given to a decoder with attention, got None")
            scores = torch.einsum("bth,bsh->bts", h, source).masked_fill(~mask[:, None], -1e9)
            h = torch.tanh(self.combine(torch.cat([h, scores.softmax(2) @ source], 2)))
        return self.output(h), state

    def from_features(self, vector: Float[Tensor, "batch features"]) -> list[State]:
        """The state after a feature vector as first input.

        Raises:
            ValueError: if the decoder was made without features.
        """
        if self.features is None:
            raise ValueError("features must be positive to start from a vector, got a decoder with features=0")
        return self.rnn.step(self.features(vector))[1]


class Seq2Seq(nn.Module, Pretrained):
    """Encoder and decoder; ids 0, 1, 2 are padding, begin and end."""

    def __init__(
        self,
        *,
        source_vocabulary: int = 42,
        target_vocabulary: int = 42,
        hidden_size: int = 64,
        layers: int = 1,
        reverse: bool = True,
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(vocabulary=source_vocabulary, hidden_size=hidden_size, layers=layers, reverse=reverse)
        self.decoder = Decoder(
            vocabulary=target_vocabulary, hidden_size=hidden_size, layers=layers, attention=attention
        )

    def loss(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy a symbol of the targets, which end with 2 and are padded with 0."""
        h, state = self.encoder(source, lengths)
        given = torch.cat([torch.full_like(target[:, :1], BOS), target[:, :-1]], 1)
        mask = torch.arange(source.shape[1], device=source.device) < lengths[:, None]
        logits, _ = self.decoder(given, state, h, mask)
        return F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=PAD)

    @torch.no_grad()
    def stepper(self, source: Int[Tensor, "length"]) -> tuple[Step, Any]:
        """For the searches of `decoding`: the step function and first state of one source sequence."""
        h, state = self.encoder(source[None], torch.tensor([len(source)], device=source.device))

        @torch.no_grad()
        def step(last: Tensor, state: Any) -> tuple[Tensor, Any]:
            outputs = h.expand(len(last), -1, -1)
            mask = torch.ones(outputs.shape[:2], dtype=torch.bool, device=h.device)
            logits, state = self.decoder(last[:, None].to(h.device), state, outputs, mask)
            return logits[:, 0].log_softmax(1).cpu(), state

        return step, state

    def translate(self, source: Int[Tensor, "length"], *, width: int = 1, max_length: int = 50) -> list[int]:
        """Ids of the target by beam search, without begin and end."""
        step, state = self.stepper(source)
        return beam_search(step, state, bos=BOS, eos=EOS, width=width, max_length=max_length)[0]

    @torch.no_grad()
    def translate_all(
        self, source: Int[Tensor, "batch length"], lengths: Tensor, *, longest: int = 50
    ) -> list[list[int]]:
        """Greedy ids of the targets of a whole batch, without begin and end."""
        h, state = self.encoder(source, lengths)
        mask = torch.arange(source.shape[1], device=source.device) < lengths[:, None]
        last = torch.full((len(source), 1), BOS, device=source.device)
        found: list[Tensor] = []
        ended = torch.zeros(len(source), dtype=torch.bool, device=source.device)
        for _ in range(longest):
            logits, state = self.decoder(last, state, h, mask)
            last = logits.argmax(2)
            ended = ended | (last[:, 0] == EOS)
            found.append(torch.where(ended, EOS, last[:, 0]))
            if bool(ended.all()):
                break
        rows = torch.stack(found, 1).tolist()
        return [list(itertools.takewhile(lambda word: word != EOS, row)) for row in rows]
