"""Offline reinforcement learning: gymnasium's Pendulum with three behaviour policies, and D4RL sets through minari."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = ["POLICIES", "Episode", "OfflineSet", "evaluate_policy", "pendulum_set", "read_minari"]

POLICIES = ("random", "medium", "good")
STEPS = 100
Policy = Callable[[int, np.ndarray, np.ndarray | None, np.ndarray], np.ndarray]


class Episode(NamedTuple):
    """One episode: states (n, d), actions in [-1, 1] (n, a), rewards (n,)."""

    states: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray


class OfflineSet(NamedTuple):
    """What a policy is learned from, where it is tried, and the returns that count as 0 and as 100."""

    episodes: list[Episode]
    environment: Callable[[], Any]
    """makes a gymnasium environment"""
    references: tuple[float, float]
    max_steps: int

    def score(self, returned: float) -> float:
        """D4RL's normalised score."""
        low, high = self.references
        return 100 * (returned - low) / (high - low)


def _controller(state: np.ndarray) -> np.ndarray:
    """Swing up by energy, hold by proportional feedback; states (n, 3)."""
    cos, sin, velocity = state.T
    hold = -(10 * np.arctan2(sin, cos) + 2 * velocity) / 2
    energy = velocity**2 / 6 + 5 * (cos - 1)
    swing = -2 * energy * np.where(velocity == 0, 1.0, np.sign(velocity))
    return np.asarray(np.clip(np.where(cos > 0.8, hold, swing), -1, 1)[:, None])


def _pendulum() -> Any:
    try:
        import gymnasium
    except ImportError as error:
        raise ValueError("the task rl needs gymnasium: pip install 'aaren-impl[rl]'") from error
    return gymnasium.make("Pendulum-v1", max_episode_steps=STEPS)


def pendulum_set(n: int, *, seed: int = 0) -> OfflineSet:
    """Episodes of 100 steps, the policies in turn: random; the controller with half of its actions random; it alone.

    A score of 0 is the random policy's mean return here, 100 the good one's.

    Raises:
        ValueError: if gymnasium is not installed, or n is below 3.
    """
    if n < 3:
        raise ValueError(f"n must be at least 3, an episode a policy, got {n}")
    rng = np.random.default_rng(seed)
    chance = np.array([{"random": 1.0, "medium": 0.5, "good": 0.05}[POLICIES[i % 3]] for i in range(n)])[:, None]

    def behave(time: int, states: np.ndarray, actions: np.ndarray | None, rewards: np.ndarray) -> np.ndarray:
        return np.where(rng.uniform(size=(n, 1)) < chance, rng.uniform(-1, 1, (n, 1)), _controller(states))

    episodes = _play(_pendulum, behave, n, STEPS, seed * 100_003)
    returns = np.array([e.rewards.sum() for e in episodes])
    return OfflineSet(episodes, _pendulum, (float(returns[::3].mean()), float(returns[2::3].mean())), STEPS)


def evaluate_policy(
    data: OfflineSet, act: Policy, *, episodes: int = 5, seed: int = 1_000_000
) -> tuple[float, list[Episode]]:
    """Mean return over new episodes, played side by side, and the episodes.

    `act` is a function of the time, the states now (episodes, d), the actions before (None at first), the rewards
    before (episodes,); the actions in [-1, 1].
    """
    played = _play(data.environment, act, episodes, data.max_steps, seed)
    return float(np.mean([e.rewards.sum() for e in played])), played


def _play(make: Callable[[], Any], act: Policy, n: int, max_steps: int, seed: int) -> list[Episode]:
    environments = [make() for _ in range(n)]
    space = environments[0].action_space
    middle, half = (space.high + space.low) / 2, (space.high - space.low) / 2
    states = np.stack([e.reset(seed=seed + i)[0] for i, e in enumerate(environments)])
    actions, rewards, over = None, np.zeros(n), np.zeros(n, bool)
    kept: list[list[tuple[Any, Any, float]]] = [[] for _ in range(n)]
    for time in range(max_steps):
        actions = np.clip(act(time, states, actions, rewards), -1, 1)
        states, rewards = states.copy(), np.zeros(n)
        for i in np.flatnonzero(~over):
            before = states[i].copy()
            command = (middle + half * actions[i]).astype(space.dtype)
            states[i], reward, ended, cut, _ = environments[i].step(command)
            rewards[i], over[i] = float(reward), ended or cut
            kept[i].append((before, actions[i], rewards[i]))
        if over.all():
            break
    for environment in environments:
        environment.close()
    return [Episode(*(np.array(part, np.float32) for part in zip(*steps, strict=True))) for steps in kept]


def read_minari(name: str, *, download: bool = True) -> OfflineSet:
    """A D4RL set such as `mujoco/halfcheetah/medium-v0`, or any of minari's with boxes for states and actions.

    Raises:
        ValueError: if minari is not installed, or the set has no reference returns and no episodes to take them from.
    """
    try:
        import minari
    except ImportError as error:
        raise ValueError("D4RL sets need minari: pip install 'aaren-impl[d4rl]'") from error
    dataset = minari.load_dataset(name, download=download)
    space = dataset.action_space
    middle, half = (space.high + space.low) / 2, (space.high - space.low) / 2
    episodes = [
        Episode(*(np.asarray(a, np.float32) for a in (e.observations[:-1], (e.actions - middle) / half, e.rewards)))
        for e in dataset.iterate_episodes()
    ]
    if not episodes:
        raise ValueError(f"{name} has no episodes")
    returns = [float(e.rewards.sum()) for e in episodes]
    metadata = dataset.storage.metadata
    low, high = metadata.get("ref_min_score"), metadata.get("ref_max_score")
    references = (min(returns) if low is None else float(low), max(returns) if high is None else float(high))
    return OfflineSet(episodes, dataset.recover_environment, references, max(len(e.rewards) for e in episodes))


def stacked(episodes: Sequence[Episode]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """States, actions, returns to go, (n, longest, ...), padded at the end; and the lengths."""
    lengths = np.array([len(e.rewards) for e in episodes])
    shape = (len(episodes), lengths.max())
    states = np.zeros((*shape, episodes[0].states.shape[1]), np.float32)
    actions = np.zeros((*shape, episodes[0].actions.shape[1]), np.float32)
    to_go = np.zeros(shape, np.float32)
    for i, e in enumerate(episodes):
        n = lengths[i]
        states[i, :n], actions[i, :n] = e.states, e.actions
        to_go[i, :n] = e.rewards[::-1].cumsum()[::-1]
    return states, actions, to_go, lengths
