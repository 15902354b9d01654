"""Stacks of cells, forward or in both directions, with exact masking; weights to and from torch's own modules."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from shared_impl.pretrained import Pretrained

from .cells import Cell, ElmanCell, GRUCell, Init, LSTMCell, reverse_valid
from .checks import State, check_choice, check_count, check_lengths, check_sequence, check_state
from .fused import lstm_sequence

__all__ = ["RNN", "CellName", "from_torch", "make_cell", "to_torch"]

CellName = Literal["elman", "elman-sigmoid", "irnn", "lstm", "lstm-1997", "lstm-peephole", "gru"]
CELLS = ("elman", "elman-sigmoid", "irnn", "lstm", "lstm-1997", "lstm-peephole", "gru")
_VARIANTS: dict[str, Literal["1997", "forget", "peephole"]] = {
    "lstm": "forget", "lstm-1997": "1997", "lstm-peephole": "peephole"
}  # fmt: skip


def make_cell(name: str, *, input_size: int, hidden_size: int, init: Init = "orthogonal") -> Cell:
    """The cell of a name: elman (tanh), elman-sigmoid, irnn (relu, identity), lstm, lstm-1997, lstm-peephole, gru.

    Raises:
        ValueError: if there is none of that name.
    """
    check_choice("cell", name, CELLS)
    if name in ("elman", "elman-sigmoid"):
        activation = "tanh" if name == "elman" else "sigmoid"
        return ElmanCell(input_size=input_size, hidden_size=hidden_size, activation=activation, init=init)
    if name == "irnn":
        return ElmanCell(input_size=input_size, hidden_size=hidden_size, activation="relu", init="identity")
    if name == "gru":
        return GRUCell(input_size=input_size, hidden_size=hidden_size, init=init)
    return LSTMCell(input_size=input_size, hidden_size=hidden_size, variant=_VARIANTS[name], init=init)


class RNN(nn.Module, Pretrained):
    """Layers of one kind of cell; `bidirectional` gives the BRNN of Schuster and Paliwal (section 4.2).

    `backend="auto"` hands cells that torch has (LSTM with forget gate, GRU, Elman with tanh or relu) to its fused
    kernels and the other LSTMs to `lstm_sequence`; "fused" takes the latter for every LSTM; "loop" is the readable form
    of all cells. Dropout stands between layers, never on the recurrence.
    """

    def __init__(
        self,
        *,
        cell: str = "lstm",
        input_size: int = 1,
        hidden_size: int = 64,
        layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        init: Init = "orthogonal",
        backend: Literal["auto", "fused", "loop"] = "auto",
    ) -> None:
        super().__init__()
        check_count(layers=layers)
        check_choice("backend", backend, ("auto", "fused", "loop"))
        if backend == "fused" and not cell.startswith("lstm"):
            raise ValueError(f'backend must be "auto" or "loop" for a cell that is no LSTM, got "fused" for {cell!r}')
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        self.cell_name, self.layers, self.bidirectional, self.backend = cell, layers, bidirectional, backend
        self.input_size, self.hidden_size = input_size, hidden_size
        self.directions = 2 if bidirectional else 1
        self.cells = nn.ModuleList(
            make_cell(
                cell,
                input_size=hidden_size * self.directions if layer else input_size,
                hidden_size=hidden_size,
                init=init,
            )
            for layer in range(layers)
            for _ in range(self.directions)
        )
        self.dropout = nn.Dropout(dropout)

    @property
    def output_size(self) -> int:
        """Features of the output."""
        return self.hidden_size * self.directions

    def initial_state(self, batch_size: int) -> list[State]:
        """Zeros, a tuple a layer and direction."""
        return [cell.initial_state(batch_size) for cell in self._cells]

    @property
    def _cells(self) -> list[Cell]:
        return [cell for cell in self.cells if isinstance(cell, Cell)]

    def forward(
        self,
        x: Float[Tensor, "batch length features"],
        state: list[State] | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, list[State]]:
        """(batch, length, output_size) and the states after each sequence's own last step.

        Raises:
            ValueError: wrong shapes, values that are not finite, lengths out of range, a state of another batch size.
        """
        check_sequence(x, self.input_size, dtype=self._cells[0].bias.dtype)
        if lengths is not None:
            check_lengths(lengths, len(x), x.shape[1])
        state = self._state(state, len(x))
        final: list[State] = []
        for layer in range(self.layers):
            if layer:
                x = self.dropout(x)
            outputs = []
            for direction in range(self.directions):
                number = layer * self.directions + direction
                given = reverse_valid(x, lengths) if direction else x
                y, new = self._run(self._cells[number], given, state[number], lengths)
                outputs.append(reverse_valid(y, lengths) if direction else y)
                final.append(new)
            x = torch.cat(outputs, -1)
        return x, final

    def step(
        self, x_t: Float[Tensor, "batch features"], state: list[State] | None = None
    ) -> tuple[Tensor, list[State]]:
        """One step, online.

        Raises:
            ValueError: if the network is bidirectional: its output needs the future.
        """
        if self.bidirectional:
            raise ValueError("step needs bidirectional=False: a bidirectional network reads the future")
        check_sequence(x_t, self.input_size, axes=2, name="x_t", dtype=self._cells[0].bias.dtype)
        state, final = self._state(state, len(x_t)), []
        for layer, (cell, own) in enumerate(zip(self._cells, state, strict=True)):
            x_t, new = cell.recur(cell.project(self.dropout(x_t) if layer else x_t), own)
            final.append(new)
        return x_t, final

    def _state(self, state: list[State] | None, batch: int) -> list[State]:
        if state is None:
            return self.initial_state(batch)
        if len(state) != len(self.cells):
            raise ValueError(f"state must have {len(self.cells)} tuples, one a layer and direction, got {len(state)}")
        for cell, own in zip(self._cells, state, strict=True):
            check_state(own, cell.parts, batch, cell.state_size)
        return list(state)

    def _run(self, cell: Cell, x: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        if self.backend == "loop" or 0 in x.shape:
            return cell.unroll(x, state, lengths)
        if isinstance(cell, LSTMCell) and (self.backend == "fused" or not _is_torchs(cell)):
            return lstm_sequence(cell, x, state, lengths)
        if not _is_torchs(cell):
            return cell.unroll(x, state, lengths)
        weights = _torch_weights(cell)
        name = {ElmanCell: "rnn_tanh", GRUCell: "gru", LSTMCell: "lstm"}[type(cell)]
        if isinstance(cell, ElmanCell) and cell.activation == "relu":
            name = "rnn_relu"
        kernel: Callable[..., Any] = getattr(torch, name)
        hidden = tuple(part[None] for part in state)
        initial = hidden if len(hidden) == 2 else hidden[0]
        if lengths is None:
            y, *new = kernel(x, initial, weights, True, 1, 0.0, self.training, False, True)
            return y, tuple(part[0] for part in new)
        # torch's packing has no empty sequences: they are run for one step, and what came of it is thrown away
        full = lengths.clamp_min(1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(x, full, batch_first=True, enforce_sorted=False)
        order, back = packed.sorted_indices, packed.unsorted_indices
        hidden = tuple(part[:, order] for part in hidden)
        initial = hidden if len(hidden) == 2 else hidden[0]
        data, *new = kernel(packed.data, packed.batch_sizes, initial, weights, True, 1, 0.0, self.training, False)
        again = nn.utils.rnn.PackedSequence(data, packed.batch_sizes, order, back)
        y, _ = nn.utils.rnn.pad_packed_sequence(again, batch_first=True, total_length=x.shape[1])
        keep = (lengths > 0)[:, None]
        y = torch.where(keep[:, None], y, 0.0)
        return y, tuple(torch.where(keep, part[0, back], old) for part, old in zip(new, state, strict=True))


def _is_torchs(cell: Cell) -> bool:
    if isinstance(cell, LSTMCell):
        return cell.variant == "forget" and not cell.truncated
    return isinstance(cell, GRUCell) or (isinstance(cell, ElmanCell) and cell.activation in ("tanh", "relu"))


def _torch_weights(cell: Cell) -> list[Tensor]:
    """Weights and the two biases that torch wants; ours is the first, the second is 0 but for the GRU's b_hn."""
    second = torch.zeros_like(cell.bias)
    if isinstance(cell, GRUCell):
        second = torch.cat([second[: 2 * cell.hidden_size], cell.bias_hn])
    return [cell.weight_x, cell.weight_h, cell.bias, second]


def to_torch(network: RNN) -> nn.LSTM | nn.GRU | nn.RNN:
    """The same network as torch's module, batch first, with copied weights.

    Raises:
        ValueError: if torch has no such cell (1997, peepholes).
    """
    first = network._cells[0]
    if not _is_torchs(first):
        raise ValueError(f"cell must be lstm, gru, elman or irnn to have a torch module, got {network.cell_name}")
    settings = {
        "input_size": network.input_size, "hidden_size": network.hidden_size, "num_layers": network.layers,
        "bidirectional": network.bidirectional, "batch_first": True, "dropout": network.dropout.p,
    }  # fmt: skip
    module: nn.LSTM | nn.GRU | nn.RNN
    if isinstance(first, LSTMCell):
        module = nn.LSTM(**settings)
    elif isinstance(first, GRUCell):
        module = nn.GRU(**settings)
    else:
        assert isinstance(first, ElmanCell)
        module = nn.RNN(nonlinearity=first.activation, **settings)
    module.to(first.bias)
    with torch.no_grad():
        for own, theirs in zip(network._cells, module.all_weights, strict=True):
            for source, target in zip(_torch_weights(own), theirs, strict=True):
                target.copy_(source)
    return module


def from_torch(module: nn.LSTM | nn.GRU | nn.RNN) -> RNN:
    """Ours from torch's module, with copied weights; the two biases become one.

    Raises:
        ValueError: if the module is another, has projections or no biases.
    """
    if not isinstance(module, nn.LSTM | nn.GRU | nn.RNN):
        raise ValueError(f"module must be torch's LSTM, GRU or RNN, got {type(module).__name__}")
    if module.proj_size or not module.bias:
        raise ValueError(f"module must have biases and no projection, got bias={module.bias}, {module.proj_size=}")
    relu = isinstance(module, nn.RNN) and module.nonlinearity == "relu"
    cell = (
        "lstm" if isinstance(module, nn.LSTM) else "gru" if isinstance(module, nn.GRU) else "irnn" if relu else "elman"
    )
    network = RNN(
        cell=cell, input_size=module.input_size, hidden_size=module.hidden_size, layers=module.num_layers,
        bidirectional=module.bidirectional, dropout=module.dropout,
    ).to(module.all_weights[0][0])  # fmt: skip
    with torch.no_grad():
        for own, (w_x, w_h, b_x, b_h) in zip(network._cells, module.all_weights, strict=True):
            own.weight_x.copy_(w_x)
            own.weight_h.copy_(w_h)
            own.bias.copy_(b_x + b_h)
            if isinstance(own, GRUCell):
                own.bias[2 * own.hidden_size :] = b_x[2 * own.hidden_size :]
                own.bias_hn.copy_(b_h[2 * own.hidden_size :])
    return network
