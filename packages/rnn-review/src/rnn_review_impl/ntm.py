"""The neural Turing machine (section 4.3): a controller that reads and writes a memory by differentiable addresses."""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from shared_impl.pretrained import Pretrained

from .cells import LSTMCell
from .checks import check_choice, check_positive, check_sequence

__all__ = ["NTM", "NTMState", "address", "address_reference", "write"]


def address(
    memory: Float[Tensor, "*batch n w"],
    key: Float[Tensor, "*batch w"],
    beta: Float[Tensor, "*batch 1"],
    gate: Float[Tensor, "*batch 1"],
    shift: Float[Tensor, "*batch s"],
    gamma: Float[Tensor, "*batch 1"],
    before: Float[Tensor, "*batch n"],
) -> Float[Tensor, "*batch n"]:
    """Weights over the rows: by content, interpolated with the last, rotated, sharpened (in logs, so that no gamma
    overflows). `shift` weighs the rotations -s//2 ... s//2; the result is not negative and sums to 1."""
    size = memory.norm(dim=-1) * key.norm(dim=-1, keepdim=True)
    cosine = (memory @ key[..., None])[..., 0] / size.clamp_min(1e-8)
    w = torch.lerp(before, (beta * cosine).softmax(-1), gate)
    reach = shift.shape[-1] // 2
    if reach:
        around = torch.cat([w[..., -reach:], w, w[..., :reach]], -1).unfold(-1, 2 * reach + 1, 1)
        w = (around @ shift.flip(-1)[..., None])[..., 0]
    return (gamma * w.clamp_min(torch.finfo(w.dtype).tiny).log()).softmax(-1)


def address_reference(
    memory: Tensor, key: Tensor, beta: Tensor, gate: Tensor, shift: Tensor, gamma: Tensor, before: Tensor
) -> Tensor:
    """The same by loops over numbers, as the equations stand; the oracle."""
    result = torch.zeros_like(before)
    for b in range(len(memory)):
        n = memory.shape[1]
        scores = []
        for row in memory[b].tolist():
            dot = sum(p * q for p, q in zip(row, key[b].tolist(), strict=True))
            size = math.sqrt(sum(p * p for p in row)) * float(key[b].norm())
            scores.append(math.exp(float(beta[b]) * dot / max(size, 1e-8)))
        g = float(gate[b])
        w = [g * s / sum(scores) + (1 - g) * float(old) for s, old in zip(scores, before[b], strict=True)]
        reach = shift.shape[1] // 2
        turned = [sum(w[(i - k) % n] * float(shift[b, k + reach]) for k in range(-reach, reach + 1)) for i in range(n)]
        sharp = [v ** float(gamma[b]) for v in turned]
        result[b] = torch.tensor([v / sum(sharp) for v in sharp], dtype=before.dtype)
    return result


def write(
    memory: Float[Tensor, "batch n w"],
    weights: Float[Tensor, "batch *heads n"],
    erase: Float[Tensor, "batch *heads w"],
    add: Float[Tensor, "batch *heads w"],
) -> Float[Tensor, "batch n w"]:
    """M_i (1 - w_i e) + w_i a: erased first. Of several heads all erase before any adds; their order is nothing."""
    if weights.dim() == 2:
        return memory * (1 - weights[:, :, None] * erase[:, None]) + weights[:, :, None] * add[:, None]
    kept = (1 - weights[:, :, :, None] * erase[:, :, None]).prod(1)
    return torch.baddbmm(memory * kept, weights.transpose(1, 2), add)


class NTMState(NamedTuple):
    """All that the machine remembers."""

    memory: Tensor
    read: Tensor
    weights: Tensor
    controller: tuple[Tensor, ...]


class NTM(nn.Module, Pretrained):
    """(batch, length, input_size) to (batch, length, output_size) logits; the sizes of the copy task are the defaults.

    Args:
        controller: "lstm" or "feedforward".
        shifts: rotations that a head may choose among, an odd number.
    """

    def __init__(
        self,
        *,
        input_size: int = 9,
        output_size: int = 8,
        controller: Literal["lstm", "feedforward"] = "lstm",
        hidden_size: int = 100,
        rows: int = 128,
        width: int = 20,
        read_heads: int = 1,
        write_heads: int = 1,
        shifts: int = 3,
    ) -> None:
        super().__init__()
        check_choice("controller", controller, ("lstm", "feedforward"))
        check_positive(rows=rows, width=width, read_heads=read_heads, write_heads=write_heads, output_size=output_size)
        if shifts < 1 or shifts % 2 == 0 or shifts > rows:
            raise ValueError(f"shifts must be odd and at most rows = {rows}, got {shifts}")
        self.input_size, self.rows, self.width, self.shifts = input_size, rows, width, shifts
        self.read_heads, self.write_heads = read_heads, write_heads
        seen = input_size + read_heads * width
        self.lstm = LSTMCell(input_size=seen, hidden_size=hidden_size) if controller == "lstm" else None
        self.dense = nn.Linear(seen, hidden_size) if controller == "feedforward" else None
        heads = read_heads + write_heads
        self.heads = nn.Linear(hidden_size, heads * (width + 3 + shifts) + write_heads * 2 * width)
        self.output = nn.Linear(hidden_size + read_heads * width, output_size)
        # a start that is learned for the address, and a small constant for the memory
        self.first_read = nn.Parameter(0.05 * torch.randn(read_heads * width))
        self.first_weights = nn.Parameter(0.05 * torch.randn(heads, rows))

    def initial_state(self, batch_size: int) -> NTMState:
        """Memory of 1e-6, learned first reading and addresses."""
        memory = self.first_read.new_full((batch_size, self.rows, self.width), 1e-6)
        weights = self.first_weights.softmax(1).expand(batch_size, -1, -1)
        controller = self.lstm.initial_state(batch_size) if self.lstm is not None else ()
        return NTMState(memory, self.first_read.tanh().expand(batch_size, -1), weights, controller)

    def step(self, x_t: Float[Tensor, "batch features"], state: NTMState | None = None) -> tuple[Tensor, NTMState]:
        """One step: control, write, read, answer.

        Raises:
            ValueError: if x_t has other features, or the state is of another batch size.
        """
        check_sequence(x_t, self.input_size, axes=2, name="x_t")
        return self.recur(x_t, self._state(state, len(x_t)))

    def _state(self, state: NTMState | None, batch: int) -> NTMState:
        if state is None:
            return self.initial_state(batch)
        if state.memory.shape != (batch, self.rows, self.width):
            expected, got = (batch, self.rows, self.width), tuple(state.memory.shape)
            raise ValueError(f"state must be of batch size {batch} with a memory of shape {expected}, got {got}")
        if [part.shape for part in state.controller] != [part.shape for part in self.initial_state(batch).controller]:
            raise ValueError(f"state must be of a machine with the same controller, got {len(state.controller)} parts")
        return state

    def control(self, x_t: Tensor, state: NTMState) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
        """The controller's output and state, and all that the heads get from it, raw."""
        seen = torch.cat([x_t, state.read], 1)
        controller = state.controller
        if self.lstm is not None:
            h, controller = self.lstm.recur(self.lstm.project(seen), controller)
        else:
            assert self.dense is not None
            h = torch.tanh(self.dense(seen))
        return h, controller, self.heads(h)

    def recur(self, x_t: Tensor, state: NTMState) -> tuple[Tensor, NTMState]:
        """A step of what was checked; heads of one kind are addressed together."""
        h, controller, emitted = self.control(x_t, state)
        writers, count, each = self.write_heads, self.read_heads + self.write_heads, self.width + 3 + self.shifts
        common = emitted[:, : count * each].unflatten(1, (count, each))
        key, scalars, shift = common.split([self.width, 3, self.shifts], 2)
        key, shift = key.tanh(), shift.softmax(2)
        gate, positive = scalars[..., 1:2].sigmoid(), F.softplus(scalars[..., ::2])
        beta, gamma = positive[..., :1], 1 + positive[..., 1:]

        def addressed(memory: Tensor, heads: slice) -> Tensor:
            rows = memory[:, None].expand(-1, heads.stop - heads.start, -1, -1)
            given = (part[:, heads] for part in (key, beta, gate, shift, gamma, state.weights))
            return address(rows, *given)

        erase, add = emitted[:, count * each :].unflatten(1, (writers, 2 * self.width)).chunk(2, 2)
        writing = addressed(state.memory, slice(0, writers))
        memory = write(state.memory, writing, erase.sigmoid(), add.tanh())
        reading = addressed(memory, slice(writers, count))
        read = (reading @ memory).flatten(1)
        y = self.output(torch.cat([h, read], 1))
        return y, NTMState(memory, read, torch.cat([writing, reading], 1), controller)

    def recur_reference(self, x_t: Tensor, state: NTMState) -> tuple[Tensor, NTMState]:
        """A step head by head and row by row, by the equations; the oracle."""
        h, controller, emitted = self.control(x_t, state)
        writers, count, each = self.write_heads, self.read_heads + self.write_heads, self.width + 3 + self.shifts
        weights: list[Tensor] = []
        readings: list[Tensor] = []
        erased: list[Tensor] = []
        added: list[Tensor] = []
        memory = state.memory
        for number in range(count):
            own = emitted[:, number * each : (number + 1) * each]
            key, beta, gate, gamma, shift = own.split([self.width, 1, 1, 1, self.shifts], 1)
            if number == writers:
                memory = memory.clone()
                for i in range(self.rows):
                    for w, e in zip(weights, erased, strict=True):
                        memory[:, i] = memory[:, i] * (1 - w[:, i : i + 1] * e)
                    for w, a in zip(weights, added, strict=True):
                        memory[:, i] = memory[:, i] + w[:, i : i + 1] * a
            w = address_reference(
                memory, key.tanh(), F.softplus(beta), gate.sigmoid(), shift.softmax(1), 1 + F.softplus(gamma),
                state.weights[:, number],
            )  # fmt: skip
            weights.append(w)
            if number < writers:
                begin = count * each + number * 2 * self.width
                erased.append(emitted[:, begin : begin + self.width].sigmoid())
                added.append(emitted[:, begin + self.width : begin + 2 * self.width].tanh())
            else:
                reading = torch.zeros_like(memory[:, 0])
                for i in range(self.rows):
                    reading = reading + w[:, i : i + 1] * memory[:, i]
                readings.append(reading)
        read = torch.cat(readings, 1)
        return self.output(torch.cat([h, read], 1)), NTMState(memory, read, torch.stack(weights, 1), controller)

    def forward(
        self, x: Float[Tensor, "batch length features"], state: NTMState | None = None
    ) -> tuple[Tensor, NTMState]:
        """A whole sequence.

        Raises:
            ValueError: if x has other features or no steps, or the state is of another batch size.
        """
        check_sequence(x, self.input_size)
        if not x.shape[1]:
            raise ValueError("x must have at least one step, got length 0")
        state, outputs = self._state(state, len(x)), []
        for x_t in x.unbind(1):
            y, state = self.recur(x_t, state)
            outputs.append(y)
        return torch.stack(outputs, 1), state
