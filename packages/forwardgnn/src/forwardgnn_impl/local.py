"""Training a layer by itself: its own loss and optimiser, a proof that nothing crosses it, the memory that it takes."""

import copy
import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["AssertLocal", "LocalLayer", "LocalityError", "Stopper", "saved_bytes"]


class LocalLayer(nn.Module):
    """A module, its optimiser, and a step that trains it alone.

    Args:
        module: what is trained; its inputs are detached.
        optimizer: a function of parameters; default: Adam with rate 0.001 and weight decay 5e-4, the paper's.
        loss: of the module's output and what else `step` is given.
        clip: largest norm of the gradient; None: as it is.
    """

    module: Any

    def __init__(
        self, module: nn.Module, optimizer: Callable[[Any], torch.optim.Optimizer] | None = None,
        loss: Callable[..., Tensor] | None = None, *, clip: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.module, self.loss, self.clip = module, loss, clip
        made = optimizer or partial(torch.optim.Adam, lr=1e-3, weight_decay=5e-4)
        self.optimizer = made(list(module.parameters()))

    def forward(self, *inputs: Any) -> Any:
        """The module on detached inputs."""
        return self.module(*(x.detach() if isinstance(x, Tensor) else x for x in inputs))

    def update(self, loss: Tensor) -> float:
        """One step of the optimiser down a loss of this layer's output."""
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.module.parameters(), self.clip)
        self.optimizer.step()
        return float(loss.detach())

    def step(self, *inputs: Any, **more: Any) -> tuple[Any, float]:
        """Output (detached) and loss, after the step that the loss asks for."""
        if self.loss is None:
            raise ValueError("loss must be given to train a LocalLayer by step")
        output = self(*inputs)
        value = self.update(self.loss(output, **more))
        return output.detach(), value


class LocalityError(RuntimeError):
    """A gradient could cross a layer."""


class AssertLocal:
    """Within it, a layer of a model whose input asks for a gradient raises `LocalityError`.

    Args:
        layers: modules that must be trained each by itself.
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        self.layers = list(layers)
        self._hooks: list[Any] = []

    def __enter__(self) -> "AssertLocal":
        for place, layer in enumerate(self.layers):

            def check(_: nn.Module, inputs: tuple[Any, ...], place: int = place) -> None:
                if torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in inputs):
                    raise LocalityError(f"layer {place}: an input asks for a gradient, which would leave the layer")

            self._hooks.append(layer.register_forward_pre_hook(check))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()


class _Held:
    """A tensor that is kept for backward."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def saved_bytes(call: Callable[[], object], *, ignore: Iterable[Tensor] = ()) -> int:
    """The most bytes that autograd keeps at any time while `call` runs, each storage once; parameters are not counted.

    Args:
        ignore: tensors (inputs) that are there anyway and are not counted either.
    """
    skipped = {t.untyped_storage().data_ptr() for t in ignore if t.layout == torch.strided}
    held: Counter[int] = Counter()
    now = most = 0

    def drop(key: int, size: int) -> None:
        nonlocal now
        held[key] -= 1
        now -= 0 if held[key] else size

    def pack(tensor: Tensor) -> Any:
        nonlocal now, most
        parameter = isinstance(tensor, nn.Parameter) or isinstance(tensor._base, nn.Parameter)
        if parameter or tensor.layout != torch.strided or tensor.untyped_storage().data_ptr() in skipped:
            return tensor
        key, size = tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()
        now += 0 if held[key] else size
        held[key] += 1
        most = max(most, now)
        kept = _Held(tensor)
        weakref.finalize(kept, drop, key, size)
        return kept

    def unpack(kept: Any) -> Tensor:
        return kept.tensor if isinstance(kept, _Held) else kept  # type: ignore[no-any-return]

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        call()
    return most


class Stopper:
    """Keeps the weights of the best validation; `patience` counts validations that are no better (-1: never stops)."""

    def __init__(self, module: nn.Module, patience: int) -> None:
        self.module, self.patience = module, patience
        self.best, self.since = -float("inf"), 0
        self.state: dict[str, Tensor] | None = None

    def step(self, quality: float) -> bool:
        """Whether to stop."""
        if quality > self.best:
            self.best, self.since = quality, 0
            self.state = copy.deepcopy(self.module.state_dict())
            return False
        self.since += 1
        return 0 <= self.patience <= self.since

    def restore(self) -> None:
        """The best weights into the module, if any validation has been."""
        if self.state is not None:
            self.module.load_state_dict(self.state)
