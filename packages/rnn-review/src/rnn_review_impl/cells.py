"""The cells of the survey in one notation: Jordan, Elman, LSTM (1997, forget gate, peepholes), GRU.

A cell turns (x(t), state) into (output, state). All products with the input are made at once for a whole sequence by
`project`; `recur` does the rest, one step. Rows of the weights are stacked gate after gate, in torch's order.
"""

import math
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .checks import State, check_choice, check_count, check_lengths, check_sequence, check_state, check_steps

__all__ = ["Cell", "ElmanCell", "GRUCell", "Init", "JordanCell", "LSTMCell", "reverse_valid"]

Init = Literal["orthogonal", "uniform", "identity"]
Variant = Literal["1997", "forget", "peephole"]
ACTIVATIONS = {"tanh": torch.tanh, "sigmoid": torch.sigmoid, "relu": torch.relu, "linear": lambda x: x}


def reverse_valid(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Reverse (batch, length, ...) in time, of each sequence the valid part only; padding stays where it is."""
    if lengths is None:
        return x.flip(1)
    time = torch.arange(x.shape[1], device=x.device)
    index = torch.where(time < lengths[:, None], lengths[:, None] - 1 - time, time)
    return x[torch.arange(len(x), device=x.device)[:, None], index]


class Cell(nn.Module):
    """What all cells do alike: stacked weights, the loop over time with exact masking, one step.

    Args:
        input_size: features of x(t).
        hidden_size: units.
        init: the recurrent matrix: "orthogonal" a gate, "uniform" within 1/sqrt(n), or "identity" (IRNN).
    """

    gates: int = 1
    parts: ClassVar[int] = 1
    """tensors of the state"""
    output_part: ClassVar[int] = 0
    """the tensor of the state that is the output"""

    def __init__(self, *, input_size: int, hidden_size: int, gates: int, init: Init = "orthogonal") -> None:
        super().__init__()
        check_count(input_size=input_size, hidden_size=hidden_size)
        check_choice("init", init, ("orthogonal", "uniform", "identity"))
        self.input_size, self.hidden_size, self.gates, self.init = input_size, hidden_size, gates, init
        self.output_size = hidden_size
        self.weight_x = nn.Parameter(torch.empty(gates * hidden_size, input_size))
        self.weight_h = nn.Parameter(torch.empty(gates * hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.zeros(gates * hidden_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew: uniform within 1/sqrt(n), the recurrent matrix by `init`, biases 0."""
        bound = 1 / math.sqrt(self.hidden_size)
        nn.init.uniform_(self.weight_x, -bound, bound)
        nn.init.zeros_(self.bias)
        for block in self.weight_h.data.chunk(self.gates):
            if self.init == "orthogonal":
                nn.init.orthogonal_(block)
            elif self.init == "identity":
                nn.init.eye_(block)
            else:
                nn.init.uniform_(block, -bound, bound)

    def initial_state(self, batch_size: int) -> State:
        """Zeros."""
        return tuple(self.bias.new_zeros(batch_size, self.state_size) for _ in range(self.parts))

    def project(self, x: Tensor) -> Tensor:
        """The input's share of all gates, W_x x + b, for any leading axes."""
        return nn.functional.linear(x, self.weight_x, self.bias)

    def extras(self) -> tuple[Tensor, ...]:
        """Weights of one number a unit, beside the matrices and the bias (peepholes, the GRU's second bias)."""
        return ()

    def pointwise(
        self, projected: Tensor, recurrent: Tensor, state: State, extras: tuple[Tensor, ...]
    ) -> tuple[Tensor, State]:
        """What a step does after the products W_x x + b and W_h h: each unit for itself, nothing is mixed."""
        raise NotImplementedError

    def recur(self, projected: Tensor, state: State) -> tuple[Tensor, State]:
        """One step from the projected input: output and state."""
        return self.pointwise(projected, state[0] @ self.weight_h.T, state, self.extras())

    def step(self, x_t: Float[Tensor, "batch features"], state: State | None = None) -> tuple[Tensor, State]:
        """One step, online.

        Raises:
            ValueError: if x_t has other features or is not finite, or the state is of another batch size.
        """
        check_sequence(x_t, self.input_size, axes=2, name="x_t", dtype=self.bias.dtype)
        return self.recur(self.project(x_t), self._state(state, len(x_t)))

    def forward(
        self, x: Float[Tensor, "batch length features"], state: State | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """A whole sequence; outputs beyond a sequence's length are 0 and leave its state as it was.

        Raises:
            ValueError: wrong shapes, values that are not finite, lengths out of range, a state of another batch size.
        """
        check_sequence(x, self.input_size, dtype=self.bias.dtype)
        if lengths is not None:
            check_lengths(lengths, len(x), x.shape[1])
        return self.unroll(x, self._state(state, len(x)), lengths)

    def unroll(self, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """The loop of `forward`, of what was checked."""
        outputs = []
        for t, projected in enumerate(self.project(x).unbind(1)):
            output, new = self.recur(projected, state)
            if lengths is None:
                state = new
            else:
                keep = (t < lengths)[:, None]
                output = torch.where(keep, output, 0.0)
                state = tuple(torch.where(keep, a, b) for a, b in zip(new, state, strict=True))
            outputs.append(output)
        return torch.stack(outputs, 1) if outputs else x.new_zeros(len(x), 0, self.output_size), state

    def _state(self, state: State | None, batch: int) -> State:
        if state is None:
            return self.initial_state(batch)
        check_state(state, self.parts, batch, self.state_size)
        return tuple(state)

    @property
    def state_size(self) -> int:
        """Width of each tensor of the state."""
        return self.hidden_size


class ElmanCell(Cell):
    """Elman's net (survey, section 3.1): h(t) = sigma(W_hx x(t) + W_hh h(t-1) + b).

    Args:
        activation: "tanh", "sigmoid", "relu" (with init="identity": IRNN), or "linear".
    """

    def __init__(
        self, *, input_size: int, hidden_size: int, activation: str = "tanh", init: Init = "orthogonal"
    ) -> None:
        check_choice("activation", activation, tuple(ACTIVATIONS))
        super().__init__(input_size=input_size, hidden_size=hidden_size, gates=1, init=init)
        self.activation = activation

    def pointwise(
        self, projected: Tensor, recurrent: Tensor, state: State, extras: tuple[Tensor, ...]
    ) -> tuple[Tensor, State]:
        """h(t), twice: as output and as state."""
        h = ACTIVATIONS[self.activation](projected + recurrent)
        return h, (h,)

    def slope(self, h: Tensor) -> Tensor:
        """The activation's derivative, from its value."""
        if self.activation == "tanh":
            return 1 - h * h
        if self.activation == "sigmoid":
            return h * (1 - h)
        return (h > 0).to(h.dtype) if self.activation == "relu" else torch.ones_like(h)


class JordanCell(Cell):
    """Jordan's net (section 3.1): special units s(t) = mu s(t-1) + yhat(t-1) feed the hidden units.

    The output is yhat(t) = out(W_y h(t) + b_y), and the state (s(t), yhat(t)) of `output_size` each.

    Args:
        mu: weight of the self-loop.
        output: "linear", "sigmoid" or "tanh".
    """

    parts: ClassVar[int] = 2
    output_part: ClassVar[int] = 1

    def __init__(
        self, *, input_size: int, hidden_size: int, output_size: int, mu: float = 0.5, output: str = "linear"
    ) -> None:
        check_count(output_size=output_size)
        check_choice("output", output, ("linear", "sigmoid", "tanh"))
        if not 0 <= mu <= 1:
            raise ValueError(f"mu must be from 0 to 1, got {mu}")
        super().__init__(input_size=input_size, hidden_size=hidden_size, gates=1, init="uniform")
        self.output_size, self.mu, self.output = output_size, mu, output
        # the recurrence comes from the special units, one an output
        bound = 1 / math.sqrt(hidden_size)
        self.weight_h = nn.Parameter(torch.empty(hidden_size, output_size).uniform_(-bound, bound))
        self.readout = nn.Linear(hidden_size, output_size)

    @property
    def state_size(self) -> int:
        """Width of s(t) and yhat(t)."""
        return self.output_size

    def recur(self, projected: Tensor, state: State) -> tuple[Tensor, State]:
        """yhat(t), and (s(t), yhat(t))."""
        special = self.mu * state[0] + state[1]
        h = torch.tanh(projected + special @ self.weight_h.T)
        y = ACTIVATIONS[self.output](self.readout(h))
        return y, (special, y)

    def teach(
        self, x: Float[Tensor, "batch length features"], targets: Float[Tensor, "batch length outputs"]
    ) -> Float[Tensor, "batch length outputs"]:
        """Outputs with teacher forcing: the special units are fed the target y(t-1) in place of yhat(t-1).

        Raises:
            ValueError: if x or targets have other features.
        """
        check_sequence(x, self.input_size)
        check_sequence(targets, self.output_size, name="targets")
        check_steps(x, targets)
        state, outputs = self.initial_state(len(x)), []
        for projected, target in zip(self.project(x).unbind(1), targets.unbind(1), strict=True):
            y, (special, _) = self.recur(projected, state)
            state = (special, target)
            outputs.append(y)
        return torch.stack(outputs, 1)


class LSTMCell(Cell):
    """Long short-term memory (section 4.1): state (h, s), the constant error carousel s with weight 1.

    variant "1997": s(t) = s(t-1) + g i. "forget" (Gers 2000): s(t) = s(t-1) f + g i, bias of f +1. "peephole"
    (Gers-Schmidhuber): i and f see s(t-1), o sees s(t), each by a diagonal.
    Gates are stacked i, f, g, o (1997: i, g, o).

    Args:
        truncated: the training of 1997: no gradient passes through h(t-1), only along s.
    """

    parts: ClassVar[int] = 2

    def __init__(
        self,
        *,
        input_size: int,
        hidden_size: int,
        variant: Variant = "forget",
        truncated: bool = False,
        forget_bias: float = 1.0,
        init: Init = "orthogonal",
    ) -> None:
        check_choice("variant", variant, ("1997", "forget", "peephole"))
        self.variant, self.truncated, self.forget_bias = variant, truncated, forget_bias
        super().__init__(input_size=input_size, hidden_size=hidden_size, gates=3 if variant == "1997" else 4, init=init)
        if variant == "peephole":
            self.peephole = nn.Parameter(torch.zeros(3, hidden_size))

    def reset_parameters(self) -> None:
        """As for every cell, and the bias of the forget gate."""
        super().reset_parameters()
        if self.variant != "1997":
            self.bias.data[self.hidden_size : 2 * self.hidden_size] = self.forget_bias

    def extras(self) -> tuple[Tensor, ...]:
        """Peepholes of i, f, o."""
        return tuple(self.peephole) if self.variant == "peephole" else ()

    def recur(self, projected: Tensor, state: State) -> tuple[Tensor, State]:
        """h(t), and (h(t), s(t)); the gates' sums are one product."""
        h = state[0].detach() if self.truncated else state[0]
        return self.gate(torch.addmm(projected, h, self.weight_h.T), state[1], self.extras())

    def pointwise(
        self, projected: Tensor, recurrent: Tensor, state: State, extras: tuple[Tensor, ...]
    ) -> tuple[Tensor, State]:
        """h(t), and (h(t), s(t))."""
        return self.gate(projected + recurrent, state[1], extras)

    def gate(self, sums: Tensor, s: Tensor, extras: tuple[Tensor, ...]) -> tuple[Tensor, State]:
        """From the gates' sums, stacked, and s(t-1)."""
        if self.variant == "1997":
            i, g, o = sums.chunk(3, 1)
            s = s + torch.tanh(g) * torch.sigmoid(i)
        elif self.variant == "forget":
            i, f, g, o = sums.chunk(4, 1)
            s = s * torch.sigmoid(f) + torch.tanh(g) * torch.sigmoid(i)
        else:
            i, f, g, o = sums.chunk(4, 1)
            p_i, p_f, p_o = extras
            s = s * torch.sigmoid(f + p_f * s) + torch.tanh(g) * torch.sigmoid(i + p_i * s)
            o = o + p_o * s
        h = torch.tanh(s) * torch.sigmoid(o)
        return h, (h, s)


class GRUCell(Cell):
    """The gated recurrent unit, in torch's form: n = tanh(W_x x + b + r (W_h h + b_hn)); stacked r, z, n."""

    def __init__(self, *, input_size: int, hidden_size: int, init: Init = "orthogonal") -> None:
        super().__init__(input_size=input_size, hidden_size=hidden_size, gates=3, init=init)
        self.bias_hn = nn.Parameter(torch.zeros(hidden_size))

    def extras(self) -> tuple[Tensor, ...]:
        """The bias inside the reset gate's product."""
        return (self.bias_hn,)

    def pointwise(
        self, projected: Tensor, recurrent: Tensor, state: State, extras: tuple[Tensor, ...]
    ) -> tuple[Tensor, State]:
        """h(t) = (1 - z) n + z h(t-1)."""
        h = state[0]
        x_r, x_z, x_n = projected.chunk(3, 1)
        h_r, h_z, h_n = recurrent.chunk(3, 1)
        r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
        n = torch.tanh(x_n + r * (h_n + extras[0]))
        h = n + z * (h - n)
        return h, (h,)
