"""Train a head on one of the paper's tasks and measure it on held-out data; what experiments and the verbs call."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .hawkes import EventSequence, check_sequences
from .heads import DecisionModel, EventModel, Forecaster
from .offline import OfflineSet, evaluate_policy, stacked
from .training import Plan, train

__all__ = ["decide", "decisions", "events", "forecasts", "pack"]


def pack(sequences: Sequence[EventSequence], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor, Tensor]:
    """Gaps, marks and mask, (n, longest), padded at the end."""
    check_sequences(sequences)
    longest = max(len(s.times) for s in sequences)
    gaps, marks = np.ones((len(sequences), longest), np.float32), np.zeros((len(sequences), longest), np.int64)
    mask = np.zeros(gaps.shape, bool)
    for i, (times, kinds) in enumerate(sequences):
        n = len(times)
        gaps[i, :n], marks[i, :n], mask[i, :n] = np.diff(times, prepend=0.0), kinds, True
    return tuple(torch.from_numpy(a).to(device) for a in (gaps, marks, mask))  # type: ignore[return-value]


def events(
    model: str, train_on: Sequence[EventSequence], test: Sequence[EventSequence], n_marks: int, plan: Plan
) -> tuple[EventModel, dict[str, float]]:
    """An event model, and on test NLL an event, RMSE of the time between events, accuracy of the mark.

    Of ten training sequences or more a tenth is held out, and the weights that do best on it stay.
    """
    check_sequences(train_on, n_marks)
    check_sequences(test, n_marks)
    torch.manual_seed(plan.seed)
    net = EventModel(n_marks=n_marks, model=model).to(plan.device)
    gaps, marks, mask = pack(train_on, plan.device)
    net.set_scale(gaps[mask])
    held = len(train_on) // 10
    held_part = (gaps[:held], marks[:held], mask[:held])

    def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
        size = len(train_on) - held
        index = held + torch.randint(size, (min(16, size),), generator=generator).to(plan.device)
        return gaps[index], marks[index], mask[index]

    def loss(net: Any, batch: Any) -> Tensor:
        return net(*batch)["nll"][batch[2]].mean()

    train(net, loss, draw, plan, (lambda net: loss(net, held_part).item()) if held else None)
    gaps, marks, mask = pack(test, plan.device)
    with torch.inference_mode():
        found = net(gaps, marks, mask)
        error = (found["gap"] - gaps)[mask].double()
        right = (found["mark"] == marks)[mask].double()
    return net, {
        "nll": found["nll"][mask].double().mean().item(),
        "rmse": error.square().mean().sqrt().item(),
        "accuracy": right.mean().item(),
    }


def forecasts(
    model: str,
    parts: dict[str, np.ndarray],
    plan: Plan,
    *,
    context: int,
    horizon: int,
    epochs: int | None = None,
    stride: int = 1,
    **settings: Any,
) -> tuple[Forecaster, dict[str, float]]:
    """A forecaster, and on every `stride`-th test window MSE, MAE, and the MSE of repeating the last value.

    Args:
        parts: rows by the names train, valid and test; the weights that do best on the validation windows stay.
        plan: its steps are of 32 windows.
        epochs: passes, in place of the plan's steps, the learning rate halved after each, patience 3, as the library
            does it.
        settings: of the `Forecaster`.

    Raises:
        ValueError: if a part is too short for one window.
    """
    span = context + horizon
    for part, rows in parts.items():
        if len(rows) < span:
            raise ValueError(f"{part} must have at least context + horizon = {span} rows, got {len(rows)}")
    torch.manual_seed(plan.seed)
    channels = parts["train"].shape[1]
    net = Forecaster(context=context, horizon=horizon, n_channels=channels, model=model, **settings).to(plan.device)
    windows = {p: torch.from_numpy(a).to(plan.device).unfold(0, span, 1).transpose(1, 2) for p, a in parts.items()}
    epoch = -(-len(windows["train"]) // 32)

    def draw(generator: torch.Generator) -> Tensor:
        index = torch.randint(len(windows["train"]), (32,), generator=generator)
        return windows["train"][index.to(plan.device)]

    def loss(net: Any, batch: Tensor) -> Tensor:
        return F.mse_loss(net(batch[:, :context]), batch[:, context:])

    def errors(net: Any, part: str) -> Tensor:
        found = []
        for batch in windows[part][::stride].split(128):
            error = net(batch[:, :context]) - batch[:, context:]
            naive = batch[:, context - 1 : context] - batch[:, context:]
            found.append(torch.stack([e.mean((1, 2)) for e in (error**2, error.abs(), naive**2, naive.abs())], 1))
        return torch.cat(found).double().mean(0)

    if epochs is not None:
        plan = replace(
            plan, steps=epochs * epoch, eval_every=epoch, patience=3, schedule=lambda step: 0.5 ** (step // epoch)
        )
    train(net, loss, draw, plan, lambda net: errors(net, "valid")[0].item())
    with torch.inference_mode():
        names = ("mse", "mae", "last_value_mse", "last_value_mae")
        return net, dict(zip(names, errors(net, "test").tolist(), strict=True))


def decisions(
    model: str, data: OfflineSet, plan: Plan, *, context: int = 20, rollouts: int = 5, **settings: Any
) -> tuple[DecisionModel, dict[str, float]]:
    """A decision model of the episodes, and its mean return and score when asked for the best return in the data."""
    torch.manual_seed(plan.seed)
    device, stack = plan.device, stacked(data.episodes)
    states, actions, to_go = (torch.from_numpy(a).to(device) for a in stack[:3])
    lengths = torch.from_numpy(stack[3])
    returns = to_go[:, 0].tolist()
    net = DecisionModel(
        d_state=states.shape[-1], d_action=actions.shape[-1], model=model,
        max_time=max(1000, data.max_steps), **settings,
    ).to(device)  # fmt: skip
    here = torch.arange(states.shape[1]) < lengths[:, None]
    net.set_scale(states[here.to(device)], max(map(abs, returns)))
    reach = min(context, int(lengths.max()))

    def draw(generator: torch.Generator) -> tuple[Tensor, ...]:
        # Long episodes come as often as they have windows
        which = torch.multinomial(lengths.double(), 64, replacement=True, generator=generator)
        room = (lengths[which] - reach).clamp_min(0) + 1
        start = (torch.rand(64, generator=generator) * room).long()
        time = start[:, None] + torch.arange(reach)
        mask = time < lengths[which][:, None]
        time = time.clamp_max(states.shape[1] - 1)
        which = which[:, None]
        parts = (to_go[which, time], states[which, time], actions[which, time], time, mask)
        return tuple(t.to(device) for t in parts)

    def loss(net: Any, batch: Any) -> Tensor:
        return F.mse_loss(net(*batch[:4])[batch[4]], batch[2][batch[4]])

    train(net, loss, draw, plan)
    target, average = max(returns), sum(returns) / len(returns)
    found, _ = evaluate_policy(data, decide(net, target, context), episodes=rollouts)
    return net, {
        "return": found, "score": data.score(found), "data_mean": average, "data_score": data.score(average),
        "data_best": target,
    }  # fmt: skip


def decide(net: DecisionModel, target: float, context: int = 20) -> Any:
    """A policy that asks the model for a return, from the last `context` steps of each episode."""
    device = net.head.weight.device
    past: dict[str, list[Tensor]] = {"returns": [], "states": [], "actions": []}

    @torch.inference_mode()
    def act(time: int, states: np.ndarray, actions: np.ndarray | None, rewards: np.ndarray) -> np.ndarray:
        reward = torch.from_numpy(rewards).float().to(device)
        if time == 0:
            past.update(returns=[torch.full_like(reward, target)], states=[], actions=[])
        else:
            past["returns"].append(past["returns"][-1] - reward)
            past["actions"].append(torch.from_numpy(actions).float().to(device))
        past["states"].append(torch.from_numpy(states).float().to(device))
        parts = [torch.stack(past[name][-context:], 1) for name in ("returns", "states")]
        # The action that is asked for stands there as 0: it is not seen
        now = torch.zeros(len(states), net.head.out_features, device=device)
        taken = torch.stack([*past["actions"], now][-context:], 1)
        at = torch.arange(time + 1, device=device)[-context:].expand(len(states), -1)
        return np.asarray(net(*parts, taken, at)[:, -1].cpu().numpy())

    return act
