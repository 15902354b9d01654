"""Q-learning with spikes: a DQN whose network is a ReLU network or a spiking one, in stable-baselines3's words."""

import copy
import importlib
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .models import q_network
from .network import SpikingNet

__all__ = ["DQNAgent", "SpikingQNet", "evaluate_policy", "pong", "train_chain"]


class SpikingQNet(nn.Module):
    """Q-values from integrate-and-fire neurons (leak 1, not learnt) in T steps.

    Args:
        mean: over the steps, so that values keep their scale when T changes; False: the sum, as in the authors' code
            (at T = 1 the same).
    """

    def __init__(self, net: SpikingNet, *, T: int = 5, mean: bool = True) -> None:
        super().__init__()
        if T < 1:
            raise ValueError(f"T must be at least 1 step, got {T}")
        self.net, self.T, self.mean = net, T, mean
        for layer in net.neurons():
            layer.leak.requires_grad_(False)

    @classmethod
    def from_ann(
        cls, q: nn.Module, observations: Float[Tensor, "n *shape"], *, T: int = 5, mean: bool = True
    ) -> "SpikingQNet":
        """Convert a Q-network; thresholds from observations that it has made."""
        return cls(SpikingNet.from_ann(q, [observations], T=T), T=T, mean=mean)

    def forward(self, observation: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch actions"]:
        """A value for each action."""
        values = self.net(observation, self.T)
        return values / self.T if self.mean else values

    def reduced(self, T: int) -> "SpikingQNet":
        """A copy with another number of steps, from which training goes on."""
        return SpikingQNet(copy.deepcopy(self.net), T=T, mean=self.mean)


class ReplayBuffer:
    """The last transitions, in arrays that grow to `size`."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.at, self.filled = size, 0, 0
        self.random = np.random.default_rng(seed)
        self.before: np.ndarray | None = None

    def __len__(self) -> int:
        return self.filled

    def add(self, before: np.ndarray, action: int, reward: float, after: np.ndarray, ended: bool) -> None:
        """Put one in the place of the oldest."""
        if self.before is None:
            shape, kind = np.shape(before), np.asarray(before).dtype
            self.before, self.after = (np.zeros((self.size, *shape), kind) for _ in range(2))
            self.actions, self.rewards = np.zeros(self.size, np.int64), np.zeros(self.size, np.float32)
            self.ended = np.zeros(self.size, np.float32)
        i = self.at
        self.before[i], self.after[i] = before, after
        self.actions[i], self.rewards[i], self.ended[i] = action, reward, ended
        self.at, self.filled = (i + 1) % self.size, min(self.filled + 1, self.size)

    def sample(self, n: int) -> tuple[Tensor, ...]:
        """Before, actions, rewards, after, ended."""
        assert self.before is not None
        rows = self.random.integers(0, self.filled, n)
        kinds = ((self.before, np.float32), (self.actions, np.int64), (self.rewards, np.float32),
                 (self.after, np.float32), (self.ended, np.float32))  # fmt: skip
        return tuple(torch.from_numpy(values[rows].astype(kind)) for values, kind in kinds)

    def observations(self, n: int) -> Tensor:
        """The last n."""
        if self.before is None:
            raise ValueError("the replay buffer is empty: learn first")
        rows = (self.at - 1 - np.arange(min(n, self.filled))) % self.size
        return torch.from_numpy(self.before[rows].astype(np.float32))


class DQNAgent:
    """DQN; names and meanings of the arguments are those of stable-baselines3.

    Args:
        q: any module from observations to values.
        env: of gymnasium's interface, with discrete actions.
        exploration_fraction: part of `learn`'s steps over which the share of random actions falls.
        target_update_interval: updates between copies of the target network; 0: none, as in the authors' code.
        max_grad_norm: None: gradients are not clipped, as in the authors' code.
        loss: "huber"; "squared" in the authors' code.

    Raises:
        ValueError: a setting out of range.
    """

    def __init__(
        self, q: nn.Module, env: Any, *, learning_rate: float | int = 1e-3, buffer_size: int = 50_000,
        learning_starts: int = 500, batch_size: int = 64, gamma: float | int = 0.99, train_freq: int = 1,
        target_update_interval: int = 250, exploration_fraction: float | int = 0.3,
        exploration_initial_eps: float | int = 1.0, exploration_final_eps: float | int = 0.02,
        max_grad_norm: float | int | None = 10.0, loss: Literal["huber", "squared"] = "huber", seed: int = 0,
    ) -> None:  # fmt: skip
        if not 0 <= gamma <= 1:
            raise ValueError(f"gamma must be between 0 and 1, got {gamma}")
        if batch_size < 1 or buffer_size < batch_size:
            raise ValueError(f"buffer_size must be at least batch_size ({batch_size}), got {buffer_size}")
        if train_freq < 1 or target_update_interval < 0:
            raise ValueError(
                f"train_freq must be at least 1 and target_update_interval at least 0, got {train_freq} and "
                f"{target_update_interval}"
            )
        if not hasattr(env.action_space, "n"):
            raise ValueError(f"env must have discrete actions, got {env.action_space}")
        self.q, self.env, self.gamma, self.batch_size, self.train_freq = q, env, gamma, batch_size, train_freq
        self.learning_starts, self.target_update_interval = max(learning_starts, batch_size), target_update_interval
        self.exploration = exploration_initial_eps, exploration_final_eps, exploration_fraction
        self.max_grad_norm, self.loss, self.seed = max_grad_norm, loss, seed
        self.replay_buffer = ReplayBuffer(buffer_size, seed)
        self.parameters = [p for p in q.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=learning_rate)
        self.target = copy.deepcopy(q) if target_update_interval else q
        self.random = np.random.default_rng(seed)
        self.num_timesteps = self.n_updates = 0
        self.episode_returns: list[float] = []

    @torch.no_grad()
    def predict(self, observation: np.ndarray, deterministic: bool = True) -> tuple[int, None]:
        """The action of the highest value (or one at random with the last share of them), and no state."""
        if not deterministic and self.random.random() < self.exploration[1]:
            return int(self.random.integers(self.env.action_space.n)), None
        x = torch.from_numpy(np.asarray(observation, dtype=np.float32)).unsqueeze(0)
        return int(self.q(x).argmax()), None

    def learn(self, total_timesteps: int) -> "DQNAgent":
        """So many steps in the environment; `episode_returns` has the returns of the episodes that ended."""
        first, last, fraction = self.exploration
        over = max(1.0, fraction * total_timesteps)
        observation, _ = self.env.reset(seed=self.seed)
        total = 0.0
        for i in range(total_timesteps):
            if self.random.random() < max(last, first + (last - first) * i / over):
                action = int(self.random.integers(self.env.action_space.n))
            else:
                action, _ = self.predict(observation)
            after, reward, terminated, truncated, _ = self.env.step(action)
            self.replay_buffer.add(observation, action, float(reward), after, bool(terminated))
            self.num_timesteps += 1
            total += float(reward)
            observation = after
            if terminated or truncated:
                self.episode_returns.append(total)
                total = 0.0
                observation, _ = self.env.reset()
            if len(self.replay_buffer) >= self.learning_starts and self.num_timesteps % self.train_freq == 0:
                self.update()
        return self

    def update(self) -> float:
        """One step of the optimiser on a sample of the buffer; the loss."""
        before, actions, rewards, after, ended = self.replay_buffer.sample(self.batch_size)
        with torch.no_grad():
            goal = rewards + self.gamma * self.target(after).amax(-1) * (1 - ended)
        value = self.q(before).gather(1, actions.unsqueeze(1)).squeeze(1)
        loss = F.smooth_l1_loss(value, goal) if self.loss == "huber" else F.mse_loss(value, goal)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        self.optimizer.step()
        if isinstance(self.q, SpikingQNet):
            self.q.net.clamp_()
        self.n_updates += 1
        if self.target_update_interval and self.n_updates % self.target_update_interval == 0:
            self.target.load_state_dict(self.q.state_dict())
        return float(loss.detach())


def evaluate_policy(
    model: DQNAgent, env: Any, n_eval_episodes: int = 10, *, deterministic: bool = True, seed: int = 1000
) -> tuple[float, float]:
    """Mean and standard deviation of the returns, as stable-baselines3's function of this name.

    Raises:
        ValueError: no episode.
    """
    if n_eval_episodes < 1:
        raise ValueError(f"n_eval_episodes must be at least 1, got {n_eval_episodes}")
    returns = []
    for episode in range(n_eval_episodes):
        observation, _ = env.reset(seed=seed + episode)
        total, over = 0.0, False
        while not over:
            action, _ = model.predict(observation, deterministic)
            observation, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            over = bool(terminated or truncated)
        returns.append(total)
    return float(np.mean(returns)), float(np.std(returns))


def train_chain(
    env: Any, *, schedule: tuple[int, ...] = (5, 3, 1), ann_steps: int = 25_000, steps: int = 5_000,
    direct: bool = False, n_eval_episodes: int = 10, seed: int = 0, network: nn.Module | None = None, **settings: Any,
) -> dict[str, float]:  # fmt: skip
    """A ReLU Q-network, converted, and trained on at fewer and fewer steps; the mean return of each.

    Args:
        steps: in the environment, of each stage.
        direct: also the ReLU network converted at the last T and trained there for as long as all stages together.
        network: from observations to values (default: `q_network` for observations that are vectors).
        settings: of `DQNAgent`.
    """
    torch.manual_seed(seed)
    n_actions = int(env.action_space.n)
    q = network or q_network(n_observations=int(env.observation_space.shape[0]), n_actions=n_actions)
    agent = DQNAgent(q, env, seed=seed, **settings).learn(ann_steps)
    scores = {"ann": evaluate_policy(agent, env, n_eval_episodes)[0]}
    seen = agent.replay_buffer.observations(512)

    def stage(start: SpikingQNet, T: int, long: int) -> SpikingQNet:
        more = {"learning_rate": 3e-4, "learning_starts": 64, **settings}
        more |= {"exploration_initial_eps": 0.05, "exploration_final_eps": 0.01}
        spiking = DQNAgent(start.reduced(T), env, seed=seed + T, **more)
        spiking.replay_buffer = copy.deepcopy(agent.replay_buffer)
        spiking.learn(long)
        scores[f"T={T}"] = evaluate_policy(spiking, env, n_eval_episodes)[0]
        return spiking.q  # type: ignore[return-value]

    converted = SpikingQNet.from_ann(q, seen, T=schedule[0])
    spiking = converted
    for T in schedule:
        spiking = stage(spiking, T, steps)
    if direct:
        found = dict(scores)
        stage(converted, schedule[-1], steps * len(schedule))
        scores = {**found, f"T={schedule[-1]} direct": scores[f"T={schedule[-1]}"]}
    return scores


def pong() -> Any:
    """Pong as the paper has it: grey frames (1, 84, 84) from 0 to 255, one at a time and none stacked.

    Raises:
        ImportError: without gymnasium, ale-py and OpenCV (extra `atari`).
    """
    gymnasium, ale_py = (importlib.import_module(name) for name in ("gymnasium", "ale_py"))
    gymnasium.register_envs(ale_py)
    env = gymnasium.wrappers.AtariPreprocessing(gymnasium.make("PongNoFrameskip-v4"), terminal_on_life_loss=True)
    space = gymnasium.spaces.Box(0, 255, (1, 84, 84), np.uint8)
    return gymnasium.wrappers.TransformObservation(env, lambda frame: np.asarray(frame)[None], space)
