"""The survey's figures that can be computed: squashing functions, gradients through time, an unfolded net, a gate."""

from pathlib import Path

import torch
from torch import Tensor

from shared_impl.results import plot_curves

from .cells import LSTMCell
from .checks import check_positive
from .rnn import RNN, make_cell
from .training import JacobianProbe

__all__ = ["draw_figures", "gate_memory", "gradient_flow", "reach", "sensitivity"]

Curves = dict[str, list[float]]


def gradient_flow(names: list[str], length: int, hidden: int, seed: int) -> Curves:
    """Norm of d state(T) / d state(T - lag) of fresh cells on noise, by lag; initial weights are uniform."""
    check_positive(length=length, hidden=hidden)
    torch.manual_seed(seed)
    found = {}
    for name in names:
        cell = make_cell(name, input_size=2, hidden_size=hidden, init="uniform")
        found[name] = JacobianProbe(cell).norms(torch.randn(1, length, 2))
    return found


def sensitivity(names: list[str], length: int, hidden: int, seed: int) -> Curves:
    """The unfolded net: how much each step's output depends on the input of the first step, by step.

    Norm of d y(t) / d x(0), as the shades of the survey's drawing of the vanishing gradient.
    """
    check_positive(length=length, hidden=hidden)
    found = {}
    for name in names:
        torch.manual_seed(seed)
        net = RNN(cell=name, input_size=2, hidden_size=hidden, init="uniform", backend="loop")
        x = torch.randn(1, length, 2, requires_grad=True)
        y, _ = net(x)
        found[name] = [float(torch.autograd.grad(step.norm(), x, retain_graph=True)[0][0, 0].norm()) for step in y[0]]
    return found


def reach(length: int, hidden: int, seed: int) -> Curves:
    """What the middle output of a forward net and of a BRNN sees: norm of d y(length // 2) / d x(t), by t."""
    check_positive(length=length, hidden=hidden)
    found = {}
    for bidirectional in (False, True):
        torch.manual_seed(seed)
        net = RNN(cell="lstm", input_size=2, hidden_size=hidden, bidirectional=bidirectional, backend="loop")
        x = torch.randn(1, length, 2, requires_grad=True)
        y, _ = net(x)
        (seen,) = torch.autograd.grad(y[0, length // 2].sum(), x)
        found["both directions" if bidirectional else "forward"] = seen[0].norm(dim=1).tolist()
    return found


def gate_memory(length: int, *, write: int = 3, read: int | None = None) -> Curves:
    """One LSTM unit with weights set by hand: it stores a number at `write`, keeps it, and shows it at `read`.

    Returns input, both gates, state s and output h by step.
    """
    read = length - 3 if read is None else read
    if not 0 <= write < read < length:
        raise ValueError(f"write and read must be in order within {length} steps, got {write} and {read}")
    cell = LSTMCell(input_size=3, hidden_size=1)
    with torch.no_grad():
        cell.weight_h.zero_()
        # x: the number, the sign to store it, the sign to show it; gates i, f, g, o
        cell.weight_x.copy_(torch.tensor([[0.0, 20.0, 0.0], [0.0, -20.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 20.0]]))
        cell.bias.copy_(torch.tensor([-10.0, 10.0, 0.0, -10.0]))
    x = torch.zeros(1, length, 3)
    x[0, :, 0] = torch.randn(length, generator=torch.Generator().manual_seed(0))
    x[0, write], x[0, read, 2] = torch.tensor([1.0, 1.0, 0.0]), 1.0
    gates = cell.project(x)[0].sigmoid()
    states: list[Tensor] = []
    state = cell.initial_state(1)
    with torch.no_grad():
        for x_t in x.unbind(1):
            _, state = cell.step(x_t, state)
            states.append(torch.cat(state, 1)[0])
    table = torch.stack(states)
    return {
        "x": x[0, :, 0].tolist(), "input gate": gates[:, 0].tolist(), "output gate": gates[:, 3].tolist(),
        "s": table[:, 1].tolist(), "h": table[:, 0].tolist(),
    }  # fmt: skip


def draw_figures(folder: Path, *, length: int, hidden: int, seed: int) -> tuple[dict[str, Curves], list[Path]]:
    """All of them: the numbers, and the files drawn.

    Raises:
        ValueError: numbers that are not positive.
    """
    names = ["elman", "irnn", "lstm", "lstm-1997", "gru"]
    grid = torch.linspace(-4, 4, 81)
    squash = {"sigma": grid.sigmoid(), "tanh": grid.tanh(), "relu": grid.relu()}
    numbers = {
        "gradients": gradient_flow(names, length, hidden, seed),
        "unfolding": sensitivity(names, length, hidden, seed),
        "reach": reach(length, hidden, seed),
        "squashing": {name: y.tolist() for name, y in squash.items()},
    }
    titles = {
        "gradients": ("How far the gradient flows back", "lag", "norm of the Jacobians' product", True),
        "unfolding": ("The unfolded net: what is left of the first input", "step", "norm of dy(t)/dx(0)", True),
        "reach": ("What the output in the middle sees", "step of the input", "norm of dy/dx(t)", False),
        "gate": ("The memory of one gated unit", "step", "value", False),
        "squashing": ("Squashing functions", "x", "value", False),
    }
    if length >= 8:
        numbers["gate"] = gate_memory(length)
    files = []
    for name, curves in numbers.items():
        title, xlabel, ylabel, logy = titles[name]
        x = grid.tolist() if name == "squashing" else None
        drawn = {label: (x or list(range(len(ys))), ys) for label, ys in curves.items()}
        files.append(plot_curves(folder / f"{name}.png", drawn, xlabel=xlabel, ylabel=ylabel, title=title, logy=logy))
    return numbers, files
