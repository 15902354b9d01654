import math

import pytest
import torch

from aaren_impl import Aaren, CausalTransformer, DecisionModel, EventModel, Forecaster, build_backbone
from aaren_impl.twins import BACKBONES


@pytest.mark.parametrize("kind", BACKBONES)
def test_steps_give_what_forward_gives(kind):
    torch.manual_seed(0)
    model = build_backbone(kind, n_layers=2, d_model=8, n_heads=2, d_ff=16).double().eval()
    x, state, steps = torch.randn(2, 9, 8, dtype=torch.float64), None, []
    for t in range(9):
        y, state = model.step(x[:, t], state)
        steps.append(y)
    torch.testing.assert_close(torch.stack(steps, 1), model(x)[0])
    first, state = model(x[:, :4])
    torch.testing.assert_close(torch.cat([first, model(x[:, 4:], state)[0]], 1), model(x)[0])


@pytest.mark.parametrize("model", [Aaren, CausalTransformer])
def test_padding_at_the_front_changes_nothing(model):
    torch.manual_seed(0)
    net, x = model(n_layers=1, d_model=8, n_heads=2, d_ff=16).double().eval(), torch.randn(2, 6, 8).double()
    padded = torch.cat([torch.randn(2, 3, 8).double(), x], 1)
    mask = torch.arange(9).expand(2, 9) < 3
    torch.testing.assert_close(net(padded, key_padding_mask=mask)[0][:, 3:], net(x)[0])


def test_a_model_is_loaded_as_it_was_saved(tmp_path):
    model = Aaren(d_model=8, n_heads=2, d_ff=16, query="shared").eval()
    model.save_pretrained(tmp_path)
    x = torch.randn(1, 5, 8)
    assert torch.equal(Aaren.from_pretrained(tmp_path)(x)[0], model(x)[0])


def test_wrong_states_and_shapes_are_named():
    model = Aaren(d_model=8, n_heads=2, d_ff=16)
    with pytest.raises(ValueError, match="state must be of 2 layers"):
        model(torch.zeros(2, 3, 8), Aaren(n_layers=1, d_model=8, n_heads=2).initial_state(2))
    with pytest.raises(ValueError, match=r"x must be \(batch, length, 8\)"):
        model(torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match="n_heads must divide d_model"):
        Aaren(d_model=8, n_heads=3)
    with pytest.raises(ValueError, match="query must be layer or shared"):
        Aaren.__init__.__wrapped__(model, query="none")
    y, state = model(torch.zeros(2, 0, 8))
    assert y.shape == (2, 0, 8)
    assert state.position == 0


@pytest.mark.parametrize("kind", BACKBONES)
def test_a_state_of_another_batch_or_dtype_is_named(kind):
    model = build_backbone(kind, n_layers=1, d_model=8, n_heads=2, d_ff=16)
    x, double = torch.zeros(2, 3, 8), build_backbone(kind, n_layers=1, d_model=8, n_heads=2).double()
    for state, message in ((model.init_state(3), "of batch 2 and torch.float32, got 3"),
                           (double.initial_state(2), "and torch.float32, got 2 and torch.float64")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            model(x, state)
        with pytest.raises(ValueError, match=message):
            model.step(x[:, 0], state)
    with pytest.raises(ValueError, match="model must be one of"):
        build_backbone("mamba")


@pytest.mark.parametrize("kind", BACKBONES)
def test_no_token_gives_no_output_and_one_token_is_a_step(kind):
    torch.manual_seed(0)
    model = build_backbone(kind, n_layers=2, d_model=8, n_heads=2, d_ff=16).eval()
    y, state = model(torch.zeros(2, 0, 8))
    assert y.shape == (2, 0, 8)
    assert state.position == 0
    x = torch.randn(2, 1, 8)
    torch.testing.assert_close(model(x)[0][:, 0], model.step(x[:, 0])[0])


def test_a_sequence_that_is_all_padding_is_finite():
    model = Aaren(n_layers=1, d_model=8, n_heads=2, d_ff=16)
    x = torch.full((1, 5, 8), torch.nan)
    o, _ = model.layers[0].attention(x, key_padding_mask=torch.ones(1, 5, dtype=torch.bool))
    assert torch.equal(o, model.layers[0].attention.out_proj.bias.expand(1, 5, 8))


def test_a_decision_does_not_see_its_own_action_or_what_comes_later():
    torch.manual_seed(0)
    net = DecisionModel(d_state=3, d_action=1, d_model=16, d_ff=16).eval()
    returns, states, actions, time = (
        torch.randn(1, 6),
        torch.randn(1, 6, 3),
        torch.randn(1, 6, 1),
        torch.arange(6)[None],
    )
    before = net(returns, states, actions, time)
    later = actions.clone()
    later[:, 3:] += 1
    after = net(returns, states, later, time)
    torch.testing.assert_close(after[:, :4], before[:, :4])
    assert not torch.allclose(after[:, 4], before[:, 4])
    with pytest.raises(ValueError, match="time must lie"):
        net(returns, states, actions, time + 1000)


def test_decisions_step_by_step_are_those_of_the_whole_episode():
    torch.manual_seed(0)
    net = DecisionModel(d_model=16, d_ff=16).double().eval()
    net.set_scale(torch.randn(50, 3).double(), -70.0)
    returns, states, actions = (torch.randn(2, 5, *d).double() for d in ((), (3,), (1,)))
    whole = net(returns, states, actions, torch.arange(5).expand(2, 5))
    memory, last = None, None
    for t in range(5):
        action, memory = net.step(returns[:, t], states[:, t], t, last, memory)
        torch.testing.assert_close(action, whole[:, t])
        last = actions[:, t]
    with pytest.raises(ValueError, match="last_action must be given together with memory"):
        net.step(returns[:, 0], states[:, 0], 0, last)


def test_an_events_density_integrates_to_one_and_bad_events_are_refused():
    torch.manual_seed(0)
    net = EventModel(n_marks=2).double().eval()
    gaps = torch.logspace(-5, 5, 4000, dtype=torch.float64)[:, None]
    total = 0.0
    for mark in (0, 1):
        density = (-net(gaps, torch.full((4000, 1), mark), torch.ones(4000, 1, dtype=torch.bool))["nll"][:, 0]).exp()
        total += torch.trapezoid(density, gaps[:, 0]).item()
    assert total == pytest.approx(1, abs=1e-3)
    ones = torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="must not go back"):
        net(torch.tensor([[1.0, -1.0]]).double(), torch.zeros(1, 2, dtype=torch.long), ones)
    with pytest.raises(ValueError, match="marks must lie"):
        net(torch.ones(1, 2).double(), torch.full((1, 2), 2), ones)


@pytest.mark.parametrize("kind", BACKBONES)
def test_events_read_one_by_one_foretell_what_the_whole_sequence_does(kind):
    torch.manual_seed(0)
    net = EventModel(model=kind).double().eval()
    gaps, marks = torch.rand(2, 6).double() * 50, torch.randint(0, 3, (2, 6))
    net.set_scale(gaps.flatten())
    whole = net(gaps, marks, torch.ones(2, 6, dtype=torch.bool))
    found, state = net.begin(2)
    for t in range(6):
        torch.testing.assert_close(found["gap"], whole["gap"][:, t])
        torch.testing.assert_close(found["logits"], whole["logits"][:, t])
        found, state = net.step(gaps[:, t], marks[:, t], state)
    assert torch.equal(net.step(gaps[:, 0], marks[:, 0])[0]["mark"], whole["mark"][:, 1])


def test_the_unit_of_time_changes_an_events_likelihood_by_its_logarithm():
    torch.manual_seed(0)
    net, mask = EventModel().double().eval(), torch.ones(1, 40, dtype=torch.bool)
    gaps, marks = torch.rand(1, 40).double(), torch.randint(0, 3, (1, 40))
    net.set_scale(gaps[0])
    seconds = net(gaps, marks, mask)
    net.set_scale(1000 * gaps[0])
    thousandths = net(1000 * gaps, marks, mask)
    torch.testing.assert_close(thousandths["nll"], seconds["nll"] + math.log(1000))
    torch.testing.assert_close(thousandths["gap"], 1000 * seconds["gap"])


def test_a_forecast_moves_with_the_level_of_its_input():
    torch.manual_seed(0)
    net = Forecaster(context=12, horizon=5, n_channels=2).double().eval()
    x = torch.randn(3, 12, 2).double()
    torch.testing.assert_close(net(x + 100), net(x) + 100)
    with pytest.raises(ValueError, match="x must be finite"):
        net(x * torch.nan)
    with pytest.raises(ValueError, match="x must be"):
        net(x[:, :5])
