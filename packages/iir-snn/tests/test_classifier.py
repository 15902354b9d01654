from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris

from iir_snn_impl import DQNAgent, SpikingClassifier, SpikingQNet, evaluate_policy, q_network
from iir_snn_impl.rl import train_chain


def test_defaults_work_on_a_small_table_and_repeat():
    X, y = load_iris(return_X_y=True)
    names = np.array(["a", "b", "c"])[y]
    first = SpikingClassifier().fit(X[::2], names[::2])
    assert first.score(X[1::2], names[1::2]) > 0.8
    assert first.skill_ > 0.5
    assert first.predict_proba(X).shape == (150, 3)
    again = clone(first).fit(X[::2], names[::2])
    assert np.array_equal(again.predict_proba(X), first.predict_proba(X))
    assert first.energy(X).T == 1


def test_images_go_through_convolutions():
    X, y = load_digits(return_X_y=True)
    model = SpikingClassifier((2, 1), image_shape=(1, 8, 8), steps=150).fit(X[:800], y[:800])
    assert model.score(X[1000:1400], y[1000:1400]) > 0.8


def test_no_skill_is_warned_of():
    rng = np.random.default_rng(0)
    with pytest.warns(UserWarning, match="no better than the most frequent class"):
        SpikingClassifier(steps=20).fit(rng.normal(size=(60, 3)), np.r_[np.zeros(50), np.ones(10)].astype(int))


def test_bad_data_is_refused():
    X = np.ones((10, 4)) * np.arange(10)[:, None]
    y = np.arange(10) % 2
    for bad, labels, message in (
        (X, np.zeros(10), "at least 2 classes"),
        (np.full((10, 4), np.nan), y, "NaN"),
        (X[:0], y[:0], "minimum of 2"),
    ):
        with pytest.raises(ValueError, match=message):
            SpikingClassifier().fit(bad, labels)
    with pytest.raises(ValueError, match="image_shape must be"):
        SpikingClassifier(image_shape=(1, 3, 3)).fit(X, y)


class Corridor:
    """Five places; to the right is the reward."""

    action_space = SimpleNamespace(n=2)
    observation_space = SimpleNamespace(shape=(5,))

    def reset(self, seed=None):
        self.at, self.left = 2, 10
        return self._seen(), {}

    def step(self, action):
        self.at += 1 if action == 1 else -1
        self.left -= 1
        return self._seen(), float(self.at == 4), self.at in (0, 4), self.left == 0, {}

    def _seen(self):
        return np.eye(5, dtype=np.float32)[self.at]


def test_a_spiking_q_network_learns_which_way_to_go():
    torch.manual_seed(0)
    env, how = Corridor(), {"learning_starts": 64, "batch_size": 32}
    agent = DQNAgent(q_network(n_observations=5, n_actions=2, hidden=16), env, **how).learn(400)
    assert evaluate_policy(agent, env, 2) == (1, 0)
    spiking = SpikingQNet.from_ann(agent.q, agent.replay_buffer.observations(64), T=3).reduced(1)
    assert not any(layer.leak.requires_grad for layer in spiking.net.neurons())
    stage = DQNAgent(spiking, env, exploration_initial_eps=0.3, **how).learn(400)
    assert evaluate_policy(stage, env, 2) == (1, 0)
    assert all(before in (0, 1) for before in stage.episode_returns)


def test_a_chain_of_policies_has_a_return_for_each_number_of_steps():
    scores = train_chain(Corridor(), schedule=(2, 1), ann_steps=300, steps=100, direct=True, n_eval_episodes=1)
    assert list(scores) == ["ann", "T=2", "T=1", "T=1 direct"]
    assert scores["ann"] == 1


def test_settings_of_an_agent_out_of_range_are_refused():
    q, env = q_network(n_observations=5, n_actions=2), Corridor()
    for wrong, message in (
        ({"gamma": 1.5}, "gamma must be between 0 and 1"),
        ({"batch_size": 0}, "buffer_size must be at least"),
        ({"train_freq": 0}, "train_freq must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            DQNAgent(q, env, **wrong)
    with pytest.raises(ValueError, match="empty: learn first"):
        DQNAgent(q, env).replay_buffer.observations(1)
