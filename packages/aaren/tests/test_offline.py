import numpy as np
import pytest
import torch

from aaren_impl.offline import evaluate_policy, pendulum_set, read_minari, stacked
from aaren_impl.tasks import decide, decisions
from aaren_impl.training import Plan

gymnasium = pytest.importorskip("gymnasium")


def test_policies_of_the_pendulum_differ_in_quality_and_give_the_scores_0_and_100():
    data = pendulum_set(12, seed=0)
    returns = torch.tensor([float(e.rewards.sum()) for e in data.episodes]).view(4, 3).mean(0)
    assert returns[2] > returns[1] > returns[0]
    assert data.score(float(returns[0])) == pytest.approx(0, abs=1e-3)
    assert data.score(float(returns[2])) == pytest.approx(100, abs=1e-3)
    states, actions, to_go, lengths = stacked(data.episodes)
    assert states.shape == (12, 100, 3)
    assert np.abs(actions).max() <= 1
    assert to_go[:, 0] == pytest.approx([e.rewards.sum() for e in data.episodes], rel=1e-5)
    assert lengths.tolist() == [100] * 12
    with pytest.raises(ValueError, match="n must be at least 3"):
        pendulum_set(2)


def test_a_policy_asks_for_the_return_that_is_left_and_remembers_its_window_alone():
    data = pendulum_set(3)
    net, found = decisions("aaren", data, Plan(steps=2), context=4, rollouts=2, n_layers=1, d_model=8, d_ff=8)
    assert found["score"] == pytest.approx(data.score(found["return"]))
    asked = []
    forward = net.forward
    net.forward = lambda *parts: asked.append(parts) or forward(*parts)
    _, played = evaluate_policy(data, decide(net, -10.0, context=4), episodes=2)
    assert len(asked) == 100
    assert {parts[0].shape for parts in asked[3:]} == {(2, 4)}
    left = -10.0 - np.stack([e.rewards for e in played])[:, :50].sum(1)
    assert asked[50][0][:, -1].tolist() == pytest.approx(left.tolist(), rel=1e-4)
    assert asked[50][2][:, -2, 0].tolist() == pytest.approx([float(e.actions[49, 0]) for e in played], rel=1e-5)
    assert asked[50][3].tolist() == [[47, 48, 49, 50]] * 2


@pytest.mark.filterwarnings("ignore")
def test_a_set_of_minari_is_read_and_played_in_its_own_environment(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    pytest.importorskip("h5py")
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    environment = gymnasium.make("Pendulum-v1", max_episode_steps=7)
    buffers = []
    for seed in range(3):
        states, actions, rewards = [environment.reset(seed=seed)[0]], [], []
        for _ in range(7):
            actions.append(environment.action_space.sample())
            state, reward, *_ = environment.step(actions[-1])
            states.append(state)
            rewards.append(float(reward))
        ends = [False] * 6 + [True]
        buffers.append(EpisodeBuffer(None, seed, None, states, actions, rewards, [False] * 7, ends, {}))
    minari.create_dataset_from_buffers(
        "made/pendulum-v0", buffers, env=environment, ref_min_score=-100.0, ref_max_score=0.0
    )
    data = read_minari("made/pendulum-v0", download=False)
    assert [e.states.shape for e in data.episodes] == [(7, 3)] * 3
    assert all(np.abs(e.actions).max() <= 1 for e in data.episodes)
    assert data.score(-50.0) == 50
    _, found = decisions("gru", data, Plan(steps=1), rollouts=1, n_layers=1, d_model=8)
    assert found["return"] < 0
