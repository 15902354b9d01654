"""The three networks of section 2: sequence to sequence, the same with input attention, and the pointer network.

Inputs are points (batch, n, input_dim), outputs are indices of points. A target row holds indices 0 to n - 1 in their
order; -1 ends it and fills what is left. The last axis of the log-probabilities has a column for each input and, where
the model has an end symbol, one more, the last: so `log_probs[..., target]` is right for -1 too.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from shared_impl.pretrained import Pretrained

from .attention import PointerAttention, masked_log_softmax
from .decoding import CONSTRAINTS, Constraint, Decoded, allowed_steps, beam_search, greedy, sample

__all__ = ["Memory", "PointerNetwork", "Seq2Seq", "Seq2SeqAttention", "teacher_forcing_loop"]

State = tuple[Tensor, Tensor]

SCALE = 0.08


@dataclass(frozen=True)
class Memory:
    """What the decoder knows of the inputs; a row an instance."""

    points: Float[Tensor, "batch n input_dim"]
    inputs: Float[Tensor, "batch n features"]
    """what the decoder is fed when it has chosen a point"""
    encoded: Float[Tensor, "batch slots width"]
    """encoder states; with an end symbol, its vector as the last"""
    keys: tuple[Tensor, ...]
    """W1 e of the pointer, then of each glimpse"""
    present: Bool[Tensor, "batch slots"]
    lengths: Int[Tensor, "batch"]

    def rows(self, index: Tensor) -> "Memory":
        """The memory of chosen instances, which may repeat."""
        return Memory(
            self.points[index],
            self.inputs[index],
            self.encoded[index],
            tuple(keys[index] for keys in self.keys),
            self.present[index],
            self.lengths[index],
        )


class _EncoderDecoder(nn.Module):
    """Encoder LSTM, decoder LSTM that starts from its last state, a learned first input; what is scored is open."""

    n_max: int | None = None
    """the most points, where there is a fixed dictionary"""

    def __init__(
        self, input_dim: int, hidden: int, end_symbol: bool, bidirectional: bool, embedding: int | None, decoder_in: int
    ) -> None:
        super().__init__()
        for name, value in (("input_dim", input_dim), ("hidden", hidden), ("embedding", embedding)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if bidirectional and hidden % 2:
            raise ValueError(f"hidden must be even for a bidirectional encoder, got {hidden}")
        self.input_dim, self.hidden, self.end_symbol = input_dim, hidden, end_symbol
        features = embedding or input_dim
        self.embedding = None if embedding is None else nn.Linear(input_dim, embedding)
        width = hidden // 2 if bidirectional else hidden
        self.encoder = nn.LSTM(features, width, batch_first=True, bidirectional=bidirectional)
        self.decoder = nn.LSTM(decoder_in, hidden, batch_first=True)
        self.start = nn.Parameter(torch.zeros(features))
        if end_symbol:
            self.end = nn.Parameter(torch.zeros(hidden))

    def reset_parameters(self, input_scale: float) -> None:
        """All weights uniform in [-0.08, 0.08] (section 4.1), those of the points in [-input_scale, input_scale]."""
        if not input_scale > 0:
            raise ValueError(f"input_scale must be positive, got {input_scale}")
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -SCALE, SCALE)
        if self.embedding is not None:
            nn.init.uniform_(self.embedding.weight, -input_scale, input_scale)
            return
        for lstm in (self.encoder, self.decoder):
            for name, weight in lstm.named_parameters():
                if name.startswith("weight_ih"):
                    nn.init.uniform_(weight[:, : self.input_dim], -input_scale, input_scale)

    # what the networks differ in

    def _keys(self, encoded: Tensor) -> tuple[Tensor, ...]:
        return ()

    def _logits(self, memory: Memory, states: Tensor) -> Tensor:
        raise NotImplementedError

    def _decode_all(self, memory: Memory, state: State, inputs: Tensor) -> Tensor:
        """Logits of all steps, given the decoder's inputs."""
        return self._logits(memory, self.decoder(inputs, state)[0])

    # the inside of decoding

    def encode(
        self, x: Float[Tensor, "batch n input_dim"], lengths: Int[Tensor, "batch"] | None = None
    ) -> tuple[Memory, State]:
        """Encoder states of all inputs, and the state in which the decoder starts.

        Raises:
            ValueError: an empty batch or no points, coordinates that are not finite, lengths out of range.
        """
        x, lengths = self._checked(x, lengths)
        batch, n, _ = x.shape
        # what stands behind the end may be anything: it must not reach the memory
        there = torch.arange(n, device=x.device) < lengths[:, None]
        x = x.masked_fill(~there[..., None], 0)
        inputs = x if self.embedding is None else self.embedding(x)
        if bool((lengths == n).all()):
            encoded, (h, c) = self.encoder(inputs)
        else:
            packed = pack_padded_sequence(inputs, lengths.cpu(), batch_first=True, enforce_sorted=False)
            states, (h, c) = self.encoder(packed)
            encoded, _ = pad_packed_sequence(states, batch_first=True, total_length=n)
        # the two directions of a bidirectional encoder side by side
        h, c = (part.transpose(0, 1).reshape(1, batch, self.hidden).contiguous() for part in (h, c))
        if self.end_symbol:
            encoded = torch.cat([encoded, self.end.expand(batch, 1, -1)], 1)
            there = torch.cat([there, there.new_ones(batch, 1)], 1)
        return Memory(x, inputs, encoded, self._keys(encoded), there, lengths), (h, c)

    def first_input(self, memory: Memory) -> Float[Tensor, "batch features"]:
        """The learned input of the decoder's first step."""
        return self.start.expand(len(memory.lengths), -1)

    def chosen_input(self, memory: Memory, index: Int[Tensor, "batch m"]) -> Float[Tensor, "batch m features"]:
        """What the decoder is fed after it chose these points: the points themselves."""
        return memory.inputs.gather(1, index.clamp(min=0)[..., None].expand(-1, -1, memory.inputs.shape[2]))

    def step(
        self, memory: Memory, state: State, inputs: Float[Tensor, "batch features"]
    ) -> tuple[Float[Tensor, "batch slots"], State]:
        """One step of the decoder: logits of all slots, and the next state."""
        output, state = self.decoder(inputs[:, None], state)
        return self._logits(memory, output)[:, 0], state

    # what is called

    def forward(
        self,
        x: Float[Tensor, "batch n input_dim"],
        lengths: Int[Tensor, "batch"] | None = None,
        targets: Int[Tensor, "batch m"] | None = None,
        *,
        constraint: Constraint = None,
    ) -> Float[Tensor, "batch m slots"]:
        """log p(C_i | C_<i, P) of every slot at every step of given sequences (teacher forcing).

        Args:
            lengths: number of points of each instance; default: all.
            targets: rows of indices, -1 at the end and behind it.
            constraint: as in `decode`; what it forbids has probability 0.

        Raises:
            ValueError: no targets; an index that is no point of its instance; a point behind a -1; points or lengths as
                in `encode`; a constraint that forbids a target.
        """
        memory, state = self.encode(x, lengths)
        targets = self._checked_targets(memory, targets)
        allowed = memory.present[:, None]
        if constraint is not None:
            allowed = allowed & allowed_steps(memory, targets, constraint, self.end_symbol)
        inputs = torch.cat([self.first_input(memory)[:, None], self.chosen_input(memory, targets[:, :-1])], 1)
        return masked_log_softmax(self._decode_all(memory, state, inputs), allowed)

    def log_likelihood(
        self,
        x: Float[Tensor, "batch n input_dim"],
        targets: Int[Tensor, "batch m"],
        lengths: Int[Tensor, "batch"] | None = None,
        *,
        constraint: Constraint = None,
    ) -> Float[Tensor, "batch"]:
        """log p(C | P), equation 1: the sum over the steps of each row, its end included where it has one."""
        log_probs = self(x, lengths, targets, constraint=constraint)
        return self._picked(log_probs, targets).sum(1)

    def loss(
        self,
        x: Float[Tensor, "batch n input_dim"],
        targets: Int[Tensor, "batch m"],
        lengths: Int[Tensor, "batch"] | None = None,
        *,
        constraint: Constraint = None,
    ) -> Float[Tensor, ""]:
        """The mean of -log p(C_i | C_<i, P) over all steps of the batch."""
        log_probs = self(x, lengths, targets, constraint=constraint)
        return -self._picked(log_probs, targets).sum() / self._counted(targets).sum().clamp(min=1)

    @torch.no_grad()
    def decode(
        self,
        x: Float[Tensor, "batch n input_dim"],
        lengths: Int[Tensor, "batch"] | None = None,
        method: str = "greedy",
        width: int = 1,
        constraint: Constraint = None,
        *,
        max_steps: int | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Decoded:
        """Answers of the network to points.

        Args:
            method: "greedy", the likeliest slot at each step; "beam", a search over sequences; or "sample", drawing
                slots, `width` times.
            width: of the beam; or how many are drawn.
            constraint: None; "permutation" (each point once, and no end before the last); "distinct" (no point twice);
                or a function of (points (rows, n, d), lengths (rows,), chosen so far (rows, t)) to the slots that are
                allowed (rows, slots).
            max_steps: longest answer, its end included; default: n, and one for the end symbol.
            temperature, generator: of drawing; the likelihood in the answer is that of temperature 1.

        Raises:
            ValueError: a wrong argument; a constraint that leaves nothing.
        """
        if method not in ("greedy", "beam", "sample"):
            raise ValueError(f"method must be greedy, beam or sample, got {method!r}")
        if not isinstance(width, int) or width < 1:
            raise ValueError(f"width must be a positive integer, got {width!r}")
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        if isinstance(constraint, str) and constraint not in CONSTRAINTS:
            raise ValueError(f"constraint must be None, {', '.join(CONSTRAINTS)} or a function, got {constraint!r}")
        memory, state = self.encode(x, lengths)
        steps = x.shape[1] + int(self.end_symbol) if max_steps is None else max_steps
        if steps < 1:
            raise ValueError(f"max_steps must be positive, got {max_steps}")
        if method == "beam":
            return beam_search(self, memory, state, width=width, constraint=constraint, max_steps=steps)
        if method == "sample":
            return sample(
                self, memory, state, draws=width, constraint=constraint, max_steps=steps, temperature=temperature,
                generator=generator,
            )  # fmt: skip
        return greedy(self, memory, state, constraint=constraint, max_steps=steps)

    def _counted(self, targets: Tensor) -> Tensor:
        """Steps that count: all points, and the end."""
        ended = (targets < 0).long().cumsum(1)
        return (ended <= int(self.end_symbol)) & ((targets >= 0) | (ended == 1))

    def _picked(self, log_probs: Tensor, targets: Tensor) -> Tensor:
        targets = targets.to(log_probs.device).long()
        index = targets.where(targets >= 0, log_probs.shape[2] - 1)
        picked = log_probs.gather(2, index[..., None])[..., 0]
        return picked.masked_fill(~self._counted(targets), 0)

    def _checked(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        batch, n, features = x.shape
        if self.n_max is not None and n > self.n_max:
            raise ValueError(f"x must have at most n_max = {self.n_max} points, the dictionary is fixed; got {n}")
        if features != self.input_dim:
            raise ValueError(f"x must have input_dim = {self.input_dim} numbers a point, got {features}")
        if batch == 0 or n == 0:
            raise ValueError(f"x must hold at least one instance with one point, got shape {tuple(x.shape)}")
        if lengths is not None and (lengths.is_floating_point() or lengths.shape != (batch,)):
            raise ValueError(f"lengths must be {batch} integers, got {lengths.dtype} of shape {tuple(lengths.shape)}")
        lengths = torch.full((batch,), n, device=x.device) if lengths is None else lengths.to(x.device).long()
        if bool((lengths < 1).any()) or bool((lengths > n).any()):
            raise ValueError(f"lengths must be from 1 to {n}, got {lengths.min().item()} to {lengths.max().item()}")
        there = torch.arange(n, device=x.device) < lengths[:, None]
        if not bool(x.isfinite().all(-1)[there].all()):
            raise ValueError("x must be finite, got NaN or infinite coordinates")
        return x.to(self.start.dtype), lengths

    def _checked_targets(self, memory: Memory, targets: Tensor | None) -> Tensor:
        if targets is None:
            raise ValueError("targets must be given: forward scores known sequences, decode finds them")
        batch = len(memory.lengths)
        if targets.shape[0] != batch or targets.shape[1] == 0:
            raise ValueError(f"targets must be ({batch}, m) with m > 0, got {tuple(targets.shape)}")
        if targets.is_floating_point():
            raise ValueError(f"targets must be integers, indices of points, got {targets.dtype}")
        targets = targets.to(memory.points.device).long()
        beyond = targets >= memory.lengths[:, None]
        if bool(beyond.any()):
            row, at = (int(i) for i in beyond.nonzero()[0])
            raise ValueError(
                f"targets must be indices below the number of points (from 0), got {targets[row, at].item()} in row "
                f"{row} with {memory.lengths[row].item()} points"
            )
        if bool((targets < -1).any()):
            raise ValueError(f"targets must be -1 (end) or an index, got {targets.min().item()}")
        if bool(((targets[:, 1:] >= 0) & (targets[:, :-1] < 0)).any()):
            raise ValueError("targets must have nothing but -1 behind the first -1 of a row")
        return targets


class PointerNetwork(_EncoderDecoder, Pretrained):
    """Ptr-Net (section 2.3): the attention over the inputs is the distribution of the output.

    Args:
        input_dim: numbers a point.
        hidden: H of encoder and decoder.
        end_symbol: whether the answer has a length of its own: a learned slot beside the inputs ends it.
        glimpses: attentions that replace the decoder's state by a mean of encoder states before it points (later work).
        bidirectional: an encoder of two directions, of half the width each.
        clip: C of C tanh(u) (later work).
        embedding: width of a linear map before both LSTMs; None: raw points, as in the paper.
        attention_bias: biases in W1 and W2.
        input_scale: weights of the points are uniform in plus or minus this. The paper's is 0.08, like all others; then
            the coordinates hardly move the gates, and training stands still for long before it begins.
    """

    def __init__(
        self,
        *,
        input_dim: int = 2,
        hidden: int = 256,
        end_symbol: bool = True,
        glimpses: int = 0,
        bidirectional: bool = False,
        clip: float | None = None,
        embedding: int | None = None,
        attention_bias: bool = False,
        input_scale: float = 1.0,
    ) -> None:
        super().__init__(input_dim, hidden, end_symbol, bidirectional, embedding, embedding or input_dim)
        if not isinstance(glimpses, int) or glimpses < 0:
            raise ValueError(f"glimpses must be a number from 0 on, got {glimpses!r}")
        self.pointer = PointerAttention(hidden, clip=clip, bias=attention_bias)
        self.glimpses = nn.ModuleList(PointerAttention(hidden, bias=attention_bias) for _ in range(glimpses))
        self.reset_parameters(input_scale)

    def _keys(self, encoded: Tensor) -> tuple[Tensor, ...]:
        glimpses = (glimpse.key(encoded) for glimpse in self.glimpses if isinstance(glimpse, PointerAttention))
        return self.pointer.key(encoded), *glimpses

    def _logits(self, memory: Memory, states: Tensor) -> Tensor:
        pointer_keys, *glimpse_keys = memory.keys
        for glimpse, keys in zip(self.glimpses, glimpse_keys, strict=True):
            states = masked_log_softmax(glimpse(keys, states), memory.present[:, None]).exp() @ memory.encoded
        logits: Tensor = self.pointer(pointer_keys, states)
        return logits


class Seq2Seq(_EncoderDecoder, Pretrained):
    """The baseline of section 2.1: a softmax over a fixed dictionary of `n_max` indices.

    Inputs of fewer points can be given (what is not there has probability 0), of more they cannot.
    """

    def __init__(
        self,
        *,
        n_max: int,
        input_dim: int = 2,
        hidden: int = 256,
        end_symbol: bool = True,
        bidirectional: bool = False,
        input_scale: float = 1.0,
    ) -> None:
        super().__init__(input_dim, hidden, end_symbol, bidirectional, None, input_dim)
        self.n_max = _checked_n_max(n_max)
        self.output = nn.Linear(hidden, n_max + int(end_symbol))
        self.reset_parameters(input_scale)

    def _logits(self, memory: Memory, states: Tensor) -> Tensor:
        return _of_dictionary(self.output(states), memory, self.end_symbol)


class Seq2SeqAttention(_EncoderDecoder, Pretrained):
    """The baseline of section 2.2: [d_i; d'_i] with d'_i a mean of encoder states by attention predicts an index of a
    fixed dictionary; d'_i is fed to the next step."""

    def __init__(
        self,
        *,
        n_max: int,
        input_dim: int = 2,
        hidden: int = 256,
        end_symbol: bool = True,
        bidirectional: bool = False,
        input_scale: float = 1.0,
    ) -> None:
        super().__init__(input_dim, hidden, end_symbol, bidirectional, None, input_dim + hidden)
        self.n_max = _checked_n_max(n_max)
        self.attention = PointerAttention(hidden)
        self.output = nn.Linear(2 * hidden, n_max + int(end_symbol))
        self.reset_parameters(input_scale)

    def _keys(self, encoded: Tensor) -> tuple[Tensor, ...]:
        return (self.attention.key(encoded),)

    def _attend(self, memory: Memory, states: Tensor) -> Tensor:
        weights = masked_log_softmax(self.attention(memory.keys[0], states), memory.present[:, None]).exp()
        return weights @ memory.encoded

    def step(
        self, memory: Memory, state: State, inputs: Float[Tensor, "batch features"]
    ) -> tuple[Float[Tensor, "batch slots"], State]:
        """One step; the context fed is that of the decoder's state before it (at first, the encoder's last)."""
        context = self._attend(memory, state[0][0][:, None])
        output, state = self.decoder(torch.cat([inputs[:, None], context], -1), state)
        logits = self.output(torch.cat([output, self._attend(memory, output)], -1))
        return _of_dictionary(logits, memory, self.end_symbol)[:, 0], state

    def _decode_all(self, memory: Memory, state: State, inputs: Tensor) -> Tensor:
        # each step is fed what the step before attended to: no way around the loop
        logits, context = [], self._attend(memory, state[0][0][:, None])
        for i in range(inputs.shape[1]):
            output, state = self.decoder(torch.cat([inputs[:, i : i + 1], context], -1), state)
            context = self._attend(memory, output)
            logits.append(self.output(torch.cat([output, context], -1)))
        return _of_dictionary(torch.cat(logits, 1), memory, self.end_symbol)


def _checked_n_max(n_max: int) -> int:
    if not isinstance(n_max, int) or n_max < 1:
        raise ValueError(f"n_max must be a positive integer, got {n_max!r}")
    return n_max


def _of_dictionary(logits: Tensor, memory: Memory, end_symbol: bool) -> Tensor:
    """The dictionary's entries of the points that are there, and of the end."""
    kept = logits[..., : memory.points.shape[1]]
    return torch.cat([kept, logits[..., -1:]], -1) if end_symbol else kept


def teacher_forcing_loop(
    model: "PointerNetwork",
    x: Float[Tensor, "batch n input_dim"],
    targets: Int[Tensor, "batch m"],
    lengths: Int[Tensor, "batch"] | None = None,
) -> Float[Tensor, "batch m slots"]:
    """`PointerNetwork.forward` as the equations have it, a step at a time, nothing kept between steps: the oracle.

    Every LSTM step is written out; W1 e is computed again at each step, tanh of every pair at once.
    """
    lengths = torch.full((x.shape[0],), x.shape[1]) if lengths is None else lengths
    rows = []
    for points, row, length in zip(x, targets, lengths.tolist(), strict=True):
        inputs = points[None, :length] if model.embedding is None else model.embedding(points[None, :length])
        states = []
        for direction in ("", "_reverse") if model.encoder.bidirectional else ("",):
            h = c = x.new_zeros(1, model.encoder.hidden_size)
            outputs = []
            for j in reversed(range(length)) if direction else range(length):
                h, c = _lstm_step(model.encoder, inputs[:, j], h, c, direction)
                outputs.append(h)
            states.append((torch.stack(outputs[::-1] if direction else outputs, 1), h, c))
        encoded, h, c = (torch.cat(parts, -1) for parts in zip(*states, strict=True))
        if model.end_symbol:
            encoded = torch.cat([encoded, model.end[None, None]], 1)
        fed, steps = model.start[None], []
        for chosen in row.tolist():
            h, c = _lstm_step(model.decoder, fed, h, c, "")
            query = h
            for glimpse in model.glimpses:
                assert isinstance(glimpse, PointerAttention)
                query = (_attention_step(glimpse, encoded, query).softmax(-1)[:, None] @ encoded)[:, 0]
            log_probs = _attention_step(model.pointer, encoded, query).log_softmax(-1)
            gap = log_probs.new_full((1, x.shape[1] - length), -torch.inf)
            steps.append(torch.cat([log_probs[:, :length], gap, log_probs[:, length:]], 1))
            fed = inputs[:, max(chosen, 0)]
        rows.append(torch.stack(steps, 1))
    return torch.cat(rows)


def _lstm_step(lstm: nn.LSTM, x: Tensor, h: Tensor, c: Tensor, direction: str) -> State:
    weight: Callable[[str], Tensor] = lambda name: getattr(lstm, f"{name}_l0{direction}")  # noqa: E731
    gates = x @ weight("weight_ih").T + weight("bias_ih") + h @ weight("weight_hh").T + weight("bias_hh")
    i, f, g, o = gates.chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _attention_step(attention: PointerAttention, encoded: Tensor, state: Tensor) -> Tensor:
    scores = torch.tanh(attention.key(encoded) + attention.query(state)[:, None]) @ attention.v
    return scores if attention.clip is None else attention.clip * torch.tanh(scores)
