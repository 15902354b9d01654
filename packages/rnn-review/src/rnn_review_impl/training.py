"""How recurrent networks are trained (section 3.2): BPTT, truncated BPTT, real-time recurrent learning; its remedies.

A loss is a function of (output at all steps, targets at the same steps) that sums over time, so that pieces add up.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from .cells import Cell, ElmanCell, JordanCell, LSTMCell
from .checks import State, check_choice, check_count, check_positive, check_sequence, check_steps
from .rnn import RNN

__all__ = [
    "RTRL", "JacobianProbe", "SequenceNet", "bptt", "clip_norm", "clip_value", "detach", "elman_bptt_reference",
    "jacobians_reference", "make_optimizer", "pascanu_regularizer", "tbptt",
]  # fmt: skip

Loss = Callable[[Tensor, Tensor], Tensor]
Gradients = dict[str, Tensor]


def detach(state: Any) -> Any:
    """A state of the same values that sends no gradient back."""
    if isinstance(state, Tensor):
        return state.detach()
    parts = [detach(part) for part in state]
    return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)


class SequenceNet(nn.Module):
    """A cell, or a stack of them, and a linear readout at every step."""

    def __init__(self, cell: Cell | RNN, output_size: int) -> None:
        super().__init__()
        self.cell = cell
        self.readout = nn.Linear(cell.output_size, output_size)

    def forward(self, x: Tensor, state: Any = None, lengths: Tensor | None = None) -> tuple[Tensor, Any]:
        """Outputs (batch, length, output_size) and the last state."""
        h, state = self.cell(x, state, lengths)
        return self.readout(h), state


def elman_bptt_reference(net: SequenceNet, x: Tensor, targets: Tensor) -> Gradients:
    """Gradients of sum 1/2 (yhat - y)^2 by the equations: delta(t) = W_y^T e(t) + W_hh^T (delta(t+1) * slope(t+1)).

    Raises:
        ValueError: if the cell is not Elman's.
    """
    cell = net.cell
    if not isinstance(cell, ElmanCell):
        raise ValueError(f"net.cell must be an ElmanCell, got {type(cell).__name__}")
    with torch.no_grad():
        h, _ = cell(x)
        error = net.readout(h) - targets
        grads = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
        beyond = torch.zeros_like(h[:, 0])
        for t in reversed(range(x.shape[1])):
            delta = error[:, t] @ net.readout.weight + beyond @ cell.weight_h
            local = delta * cell.slope(h[:, t])
            before = h[:, t - 1] if t else torch.zeros_like(local)
            grads["cell.weight_x"] += local.T @ x[:, t]
            grads["cell.weight_h"] += local.T @ before
            grads["cell.bias"] += local.sum(0)
            grads["readout.weight"] += error[:, t].T @ h[:, t]
            grads["readout.bias"] += error[:, t].sum(0)
            beyond = local
    return grads


def _gradients(net: nn.Module, loss: Tensor) -> Gradients:
    named = dict(net.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named.items(), found, strict=True)}


def bptt(net: SequenceNet, x: Tensor, targets: Tensor, loss: Loss) -> Gradients:
    """Backpropagation through the whole of time: memory grows with the length.

    Raises:
        ValueError: targets of other steps than x.
    """
    check_steps(x, targets)
    return _gradients(net, loss(net(x)[0], targets))


def tbptt(
    net: SequenceNet,
    x: Tensor,
    targets: Tensor,
    loss: Loss,
    *,
    k1: int,
    k2: int,
    on_window: Callable[[Gradients], None] | None = None,
) -> Gradients:
    """Truncated BPTT(k1, k2): every k1 steps the loss of those steps goes back k2 steps. Memory grows with k2 alone.

    Values of the state are carried on, gradients are not. With k2 at least the length it is BPTT.

    Args:
        on_window: called with each window's gradients, for instance to update the weights.

    Raises:
        ValueError: if k2 is below k1 (some losses' own step would be cut off), or x is empty.
    """
    check_count(k1=k1, k2=k2)
    if k2 < k1:
        raise ValueError(f"k2 must be at least k1, got k1={k1}, k2={k2}")
    check_steps(x, targets)
    length = x.shape[1]
    if length == 0:
        raise ValueError("x must have at least one step, got length 0")
    if isinstance(net.cell, RNN) and net.cell.bidirectional:
        raise ValueError("net.cell must read forward only: a bidirectional network has no state to carry on")
    total = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    ends = [min(begin + k1, length) for begin in range(0, length, k1)]
    starts = {max(0, end - k2) for end in ends}
    states: dict[int, Any] = {0: net.cell.initial_state(len(x))}
    for begin, end in zip([0, *ends], ends, strict=False):
        # where a later window starts within this one: its state is computed on the way
        at = begin
        for stop in sorted(start for start in starts if begin < start < end):
            with torch.no_grad():
                states[stop] = net.cell(x[:, at:stop], states[at])[1]
            at = stop
        start = max(0, end - k2)
        y, last = net(x[:, start:end], states[start])
        states[end] = detach(last)
        found = _gradients(net, loss(y[:, begin - start :], targets[:, begin:end]))
        for name, gradient in found.items():
            total[name] += gradient
        states = {t: s for t, s in states.items() if t == end or t >= end + 1 - k2}
        if on_window is not None:
            on_window(found)
    return total


class _Local(NamedTuple):
    """A step's derivatives unit by unit: [batch, part of the new state, by what, unit]."""

    by_input: Tensor
    by_recurrent: Tensor
    by_state: Tensor
    by_extras: Tensor


def _local(cell: Cell, x_t: Tensor, state: State) -> tuple[_Local, State]:
    """Derivatives of `pointwise`, which mixes no units: a backward pass for each part gives those of all units."""
    batch, n = len(x_t), cell.hidden_size
    with torch.no_grad():
        given = [cell.project(x_t), state[0] @ cell.weight_h.T, *state, *cell.extras()]
    given = [part.detach().expand(batch, -1).requires_grad_() for part in given]
    with torch.enable_grad():
        projected, recurrent, rest = given[0], given[1], given[2:]
        _, new = cell.pointwise(projected, recurrent, tuple(rest[: cell.parts]), tuple(rest[cell.parts :]))
    rows = []
    for part in new:
        found = torch.autograd.grad(part.sum(), given, retain_graph=True, allow_unused=True)
        filled = [torch.zeros_like(g) if d is None else d for d, g in zip(found, given, strict=True)]
        rows.append(torch.cat(filled, 1).view(batch, -1, n))
    sizes = [cell.gates, cell.gates, cell.parts, len(rest) - cell.parts]
    return _Local(*torch.stack(rows, 1).split(sizes, 2)), tuple(part.detach() for part in new)


def _mixing(cell: Cell, local: _Local) -> Tensor:
    """Of h in D: (batch, parts, unit, unit); none where the training of 1997 cuts it."""
    if isinstance(cell, LSTMCell) and cell.truncated:
        n = cell.hidden_size
        return local.by_state.new_zeros(len(local.by_state), cell.parts, n, n)
    return torch.einsum("bpgi,gij->bpij", local.by_recurrent, cell.weight_h.unflatten(0, (cell.gates, -1)))


def _whole(cell: Cell, local: _Local) -> Tensor:
    """D, (batch, states, states)."""
    d = torch.diag_embed(local.by_state)  # (batch, parts, parts, n, n)
    d[:, :, 0] += _mixing(cell, local)
    size = cell.parts * cell.hidden_size
    return d.transpose(2, 3).reshape(len(d), size, size)


def jacobians_reference(cell: Cell, x_t: Tensor, state: State) -> tuple[Tensor, Tensor]:
    """D = d state(t) / d state(t-1) and F = d state(t) / d weights of a step, whole, sequence by sequence; the oracle.

    Columns of F are the cell's weights one after the other, flat.
    """
    parameters = {name: p.detach() for name, p in cell.named_parameters()}

    def advance(theta: Gradients, before: State, x: Tensor) -> Tensor:
        flat = functional_call(_Step(cell), {f"cell.{k}": v for k, v in theta.items()}, (x[None], before))
        return torch.cat(flat, 1)[0]

    ds, fs = [], []
    for i in range(len(x_t)):
        own = tuple(part[i : i + 1].detach() for part in state)
        by_theta, by_state = jacrev(advance, argnums=(0, 1))(parameters, own, x_t[i])
        fs.append(torch.cat([by_theta[name].flatten(1) for name in parameters], 1))
        ds.append(torch.cat([part[:, 0] for part in by_state], 1))
    return torch.stack(ds), torch.stack(fs)


class _Step(nn.Module):
    """One step as a module's forward, as functional_call wants it."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x_t: Tensor, state: State) -> State:
        return self.cell.recur(self.cell.project(x_t), state)[1]


class RTRL:
    """Real-time recurrent learning (Williams and Zipser): gradients forward in time, online, for any cell.

    The influence P(t) = d state(t) / d theta follows P(t) = D(t) P(t-1) + F(t), with D the step's Jacobian and F its
    immediate derivative, which is zero but for a unit's own weights: n^3 numbers, and n^4 operations a step.
    Weights that change meanwhile make it approximate.

    Args:
        mode: "rtrl"; "snap1", which keeps a unit's influence by its own weights only (n^2 numbers and operations);
            "uoro", an unbiased estimate of rank one (Tallec and Ollivier; n^2 as well).
    """

    def __init__(self, net: SequenceNet, *, mode: Literal["rtrl", "snap1", "uoro"] = "rtrl", seed: int = 0) -> None:
        check_choice("mode", mode, ("rtrl", "snap1", "uoro"))
        if not isinstance(net.cell, Cell):
            raise ValueError(f"net.cell must be one cell, got {type(net.cell).__name__}")
        if isinstance(net.cell, JordanCell) and mode != "rtrl":
            raise ValueError(f'mode must be "rtrl" for a JordanCell, whose outputs mix the units, got {mode!r}')
        self.net, self.mode, self.cell = net, mode, net.cell
        self.generator = torch.Generator().manual_seed(seed)
        self.reset()

    def reset(self) -> None:
        """Forget state and influence."""
        self.state: State | None = None
        self.influence: Tensor | None = None
        self.rank_one: tuple[Tensor, Tensor] | None = None

    def step(self, x_t: Tensor, target: Tensor, loss: Loss) -> tuple[Tensor, Gradients]:
        """One step: the loss of this step, and its gradients by all weights through the whole past.

        Raises:
            ValueError: if x_t is of another size, or its batch is another than before.
        """
        check_sequence(x_t, self.cell.input_size, axes=2, name="x_t")
        if self.state is None:
            self.state = self.cell.initial_state(len(x_t))
        if len(self.state[0]) != len(x_t):
            raise ValueError(f"x_t must have batch size {len(self.state[0])} as before, got {len(x_t)}")
        before = detach(self.state)
        if isinstance(self.cell, JordanCell):
            with torch.no_grad():
                new = self.cell.step(x_t, before)[1]
            self._advance_whole(*jacobians_reference(self.cell, x_t, before))
        else:
            local, new = _local(self.cell, x_t, before)
            advance = {"rtrl": self._advance, "snap1": self._advance_own, "uoro": self._advance_rank_one}[self.mode]
            with torch.no_grad():
                advance(local, x_t, before)
        y = new[self.cell.output_part].detach().requires_grad_()
        value = loss(self.net.readout(y)[:, None], target[:, None])
        by_y, *by_readout = torch.autograd.grad(value, [y, *self.net.readout.parameters()])
        grads = {f"cell.{name}": g for name, g in self._collect(by_y).items()}
        grads |= {f"readout.{m}": g for (m, _), g in zip(self.net.readout.named_parameters(), by_readout, strict=True)}
        self.state = new
        return value.detach(), grads

    def run(self, x: Tensor, targets: Tensor, loss: Loss) -> Gradients:
        """Gradients of the sum over a sequence, from an empty state."""
        check_steps(x, targets)
        self.reset()
        total = {name: torch.zeros_like(p) for name, p in self.net.named_parameters()}
        for x_t, target in zip(x.unbind(1), targets.unbind(1), strict=True):
            for name, gradient in self.step(x_t, target, loss)[1].items():
                total[name] += gradient
        return total

    # Weights of a unit and gate stand side by side here: those of the input, of the state, the bias.

    def _sources(self, local: _Local, x_t: Tensor, before: State) -> Tensor:
        """F of a unit's own weights: (batch, parts, unit, gates (m + n + 1) + extras)."""
        own = [
            local.by_input[..., None] * x_t[:, None, None, None],
            local.by_recurrent[..., None] * before[0][:, None, None, None],
            local.by_input[..., None],
        ]
        return torch.cat([torch.cat(own, 4).transpose(2, 3).flatten(3), local.by_extras.transpose(2, 3)], 3)

    def _advance(self, local: _Local, x_t: Tensor, before: State) -> None:
        own = self._sources(local, x_t, before)
        batch, parts, n, each = own.shape
        if self.influence is None:
            self.influence = own.new_zeros(batch, parts * n, n * each)
        else:
            self.influence = _whole(self.cell, local) @ self.influence
        self.influence.view(batch, parts, n, n, each).diagonal(dim1=2, dim2=3).add_(own.transpose(2, 3))

    def _advance_own(self, local: _Local, x_t: Tensor, before: State) -> None:
        own = self._sources(local, x_t, before)
        if self.influence is not None:
            d = local.by_state.clone()
            d[:, :, 0] += self._mixing_of_own(local)
            own = own + torch.einsum("bpqi,bqik->bpik", d, self.influence)
        self.influence = own

    def _mixing_of_own(self, local: _Local) -> Tensor:
        if isinstance(self.cell, LSTMCell) and self.cell.truncated:
            return torch.zeros_like(local.by_state[:, :, 0])
        diagonal = self.cell.weight_h.unflatten(0, (self.cell.gates, -1)).diagonal(dim1=1, dim2=2)
        return (local.by_recurrent * diagonal).sum(2)

    def _advance_rank_one(self, local: _Local, x_t: Tensor, before: State) -> None:
        own = self._sources(local, x_t, before)
        signs = torch.randint(2, own.shape[:3], generator=self.generator).to(own) * 2 - 1
        drive = torch.einsum("bpi,bpik->bik", signs, own).flatten(1)
        if self.rank_one is None:
            s, theta = torch.zeros_like(signs), torch.zeros_like(drive)
        else:
            s, theta = self.rank_one
            carried = torch.einsum("bpqi,bqi->bpi", local.by_state, s)
            if not (isinstance(self.cell, LSTMCell) and self.cell.truncated):
                sums = (s[:, 0] @ self.cell.weight_h.T).unflatten(1, (self.cell.gates, -1))
                carried = carried + (local.by_recurrent * sums[:, None]).sum(2)
            s = carried
        tiny = 1e-12

        def balance(a: Tensor, b: Tensor) -> Tensor:
            return ((b.flatten(1).norm(dim=1) + tiny) / (a.flatten(1).norm(dim=1) + tiny)).sqrt()[:, None]

        p0, p1 = balance(s, theta), balance(signs, drive)
        self.rank_one = (p0[:, :, None] * s + p1[:, :, None] * signs, theta / p0 + drive / p1)

    def _advance_whole(self, d: Tensor, f: Tensor) -> None:
        self.influence = f if self.influence is None else torch.baddbmm(f, d, self.influence)

    def _collect(self, by_y: Tensor) -> Gradients:
        """The error of the output times the influence, in the form of the weights."""
        cell = self.cell
        if isinstance(cell, JordanCell):
            assert self.influence is not None
            flat = torch.einsum("bn,bnp->p", by_y, self.influence[:, cell.state_size :])
            pieces = flat.split([p.numel() for p in cell.parameters()])
            return {name: g.view_as(p) for (name, p), g in zip(cell.named_parameters(), pieces, strict=True)}
        if self.mode == "uoro":
            assert self.rank_one is not None
            s, theta = self.rank_one
            table = ((by_y * s[:, 0]).sum(1, keepdim=True) * theta).sum(0).view(cell.hidden_size, -1)
        else:
            assert self.influence is not None
            n = cell.hidden_size
            if self.mode == "rtrl":
                table = torch.einsum("bn,bnp->p", by_y, self.influence[:, :n]).view(n, -1)
            else:
                table = torch.einsum("bi,bik->ik", by_y, self.influence[:, 0])
        width = cell.input_size + cell.hidden_size + 1
        own = table[:, : cell.gates * width].unflatten(1, (cell.gates, width)).transpose(0, 1).flatten(0, 1)
        found = {
            "weight_x": own[:, : cell.input_size], "weight_h": own[:, cell.input_size : -1], "bias": own[:, -1]
        }  # fmt: skip
        extras = table[:, cell.gates * width :].T
        rest = [name for name, _ in cell.named_parameters() if name not in found]
        return found | {name: extras.reshape(cell.get_parameter(name).shape) for name in rest}


def clip_norm(gradients: Iterable[Tensor], limit: float) -> float:
    """Scale gradients in place so that their joint norm is at most `limit`; returns the norm before.

    Raises:
        ValueError: if the limit is not positive or the norm is not finite.
    """
    check_positive(limit=limit)
    found = list(gradients)
    norm = float(torch.stack([g.norm() for g in found]).norm()) if found else 0.0
    if norm != norm or norm == float("inf"):
        raise ValueError(f"gradients must be finite, got norm {norm}")
    for gradient in found:
        gradient.mul_(min(1.0, limit / norm) if norm else 1.0)
    return norm


def clip_value(gradients: Iterable[Tensor], limit: float) -> None:
    """Cut each entry to [-limit, limit] in place; the direction changes."""
    check_positive(limit=limit)
    for gradient in gradients:
        gradient.clamp_(-limit, limit)


def pascanu_regularizer(net: SequenceNet, x: Tensor, targets: Tensor, loss: Loss) -> Tensor:
    """sum_t (|dE/dh(t+1) J(t)| / |dE/dh(t+1)| - 1)^2, J(t) = dh(t+1)/dh(t); errors are constants, J is differentiable.

    Raises:
        ValueError: if the state is more than h (LSTM).
    """
    check_steps(x, targets)
    if not isinstance(net.cell, Cell) or net.cell.parts != 1:
        raise ValueError(f"net.cell must have h as its only state, got {type(net.cell).__name__}")
    state, hidden = net.cell.initial_state(len(x)), []
    for x_t in x.unbind(1):
        _, state = net.cell.step(x_t, state)
        hidden.append(state[0])
    errors = torch.autograd.grad(loss(net.readout(torch.stack(hidden, 1)), targets), hidden, retain_graph=True)
    total = x.new_zeros(())
    for t in range(len(hidden) - 1):
        back = torch.autograd.grad(hidden[t + 1], hidden[t], errors[t + 1].detach(), create_graph=True)[0]
        size = errors[t + 1].norm(dim=1).clamp_min(torch.finfo(x.dtype).tiny)
        total = total + (back.norm(dim=1) / size - 1).square().mean()
    return total


class JacobianProbe:
    """How far gradients flow: d state(T) / d state(T - lag) along a sequence, as the product of the steps' Jacobians.

    Args:
        part: of an LSTM's state, 0 for h, 1 for s; both if None.
    """

    def __init__(self, cell: Cell, *, part: int | None = None) -> None:
        self.cell, self.part = cell, part

    def norms(self, x: Float[Tensor, "1 length features"]) -> list[float]:
        """Spectral norm at lags 0, 1, ..., length - 1."""
        check_sequence(x, self.cell.input_size)
        state, steps = self.cell.initial_state(1), []
        for x_t in x.unbind(1):
            if isinstance(self.cell, JordanCell):
                steps.append(jacobians_reference(self.cell, x_t, state)[0][0])
                state = detach(self.cell.step(x_t, state)[1])
            else:
                local, state = _local(self.cell, x_t, state)
                steps.append(_whole(self.cell, local)[0].detach())
        n = self.cell.state_size
        chosen = slice(None) if self.part is None else slice(self.part * n, (self.part + 1) * n)
        product, found = torch.eye(len(steps[0])).to(x), []
        for jacobian in reversed(steps):
            found.append(float(torch.linalg.matrix_norm(product[chosen, chosen], 2)))
            product = product @ jacobian
        return found


def make_optimizer(name: str, parameters: Iterable[nn.Parameter], *, lr: float | None = None) -> torch.optim.Optimizer:
    """The optimisers of section 2: sgd, momentum, nesterov, adagrad, adadelta, rmsprop, and adam.

    Raises:
        ValueError: if there is none of that name.
    """
    given = list(parameters)
    makers: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "sgd": lambda: torch.optim.SGD(given, lr or 0.01),
        "momentum": lambda: torch.optim.SGD(given, lr or 0.01, momentum=0.9),
        "nesterov": lambda: torch.optim.SGD(given, lr or 0.01, momentum=0.9, nesterov=True),
        "adagrad": lambda: torch.optim.Adagrad(given, lr or 0.01),
        "adadelta": lambda: torch.optim.Adadelta(given, lr or 1.0),
        "rmsprop": lambda: torch.optim.RMSprop(given, lr or 1e-3, alpha=0.95),
        "adam": lambda: torch.optim.Adam(given, lr or 2e-3),
    }
    check_choice("name", name, tuple(makers))
    return makers[name]()
