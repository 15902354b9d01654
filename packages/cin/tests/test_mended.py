"""What once gave a wrong answer without a word."""

import pickle

import jaxtyping
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import cin_impl.nn as co
from cin_impl import CannotBeContinual, continual, flops, initial_state, step
from cin_impl.spa import FineTuning, SPLoPA, SPLoRA, adapt, prune_blocks, prune_chain


def test_a_module_that_stands_in_two_places_is_converted_in_both(assert_one_network):
    relu, conv = nn.ReLU(), nn.Conv1d(2, 2, 3)
    plain = nn.Sequential(conv, relu, conv, relu).eval()
    net = continual(plain)
    assert len(net) == 4
    assert not net.training
    x = torch.randn(1, 2, 12)
    assert torch.equal(net(x), plain(x))
    assert_one_network(net, (1, 2, 12))


@pytest.mark.parametrize("form", ["partial", "inputs"])
def test_a_step_sees_weights_that_were_written_behind_autograds_back(form):
    conv = co.Conv1d(4, 3, 3, form=form).eval()
    x = torch.randn(1, 4, 8)
    conv.forward_steps(x)
    conv.weight.data.mul_(2)
    conv.clean_state()
    torch.testing.assert_close(conv.forward_steps(x), conv(x))
    with torch.inference_mode():
        assert co.Conv1d(4, 3, 3, form=form).eval().forward_steps(x).shape == (1, 3, 6)


def test_layers_whose_weight_is_made_at_each_call_are_refused():
    hooked = nn.Conv1d(2, 2, 3)
    hooked.register_forward_hook(lambda m, i, y: 2 * y)
    for layer, words in ((hooked, "hooks"), (parametrizations.weight_norm(nn.Conv1d(2, 2, 3)), "parametriz")):
        with pytest.raises(CannotBeContinual, match=rf"module\.0.*{words}"):
            continual(nn.Sequential(layer))


def test_a_pool_forgets_a_large_slice_after_its_window():
    x = torch.full((1, 1, 30), 0.1)
    x[:, :, 5], x[:, :, 17] = 1e8, float("inf")
    for pool in (co.AvgPool1d(4, 1), co.AvgPool1d(4, 1, time_dilation=2), co.GlobalAvgPool(4)):
        torch.testing.assert_close(pool.eval().forward_steps(x), pool(x))


def test_a_step_that_fails_half_way_forgets_the_stream():
    net = co.Sequential(co.Conv1d(3, 2, 3), co.Lambda(lambda x: 1 // int(x.abs().max() < 1e3) * x)).eval()
    x = torch.randn(1, 3, 6)
    net.forward_steps(x)
    with pytest.raises(ZeroDivisionError):
        net.forward_step(x[:, :, 0] * 1e6, update_state=False)
    assert net.state["0"]["t"] == 6
    with pytest.raises(ZeroDivisionError):
        net.forward_step(x[:, :, 0] * 1e6)
    assert net.state is None
    torch.testing.assert_close(net.forward_steps(x), net(x))


def test_the_pure_form_of_retroactive_attention_survives_a_spike_that_leaves():
    torch.manual_seed(0)
    attention, n = co.RetroactiveMHA(8, 2, 6).eval(), 6
    x = torch.randn(1, 8, 40)
    x[:, :, 10] *= 100
    x[:, :, 25] = float("nan")
    state = initial_state(attention, x[:, :, 0])
    assert initial_state(co.RetroactiveMHA(8, 2, 6, accumulate=torch.float64), x[:, :, 0])["av"].dtype == torch.float64
    with torch.no_grad():
        for t in range(40):
            (y, valid), state = step(attention, None, state, x[:, :, t])
            if bool(valid) and not 25 <= t < 25 + n:
                window = attention(x[:, :, t - n + 1 : t + 1])
                torch.testing.assert_close(y, window, atol=1e-4, rtol=1e-4)


def test_retroactive_attention_survives_a_large_value_that_leaves():
    torch.manual_seed(0)
    attention, n, x = co.RetroactiveMHA(8, 2, 6).eval(), 6, torch.randn(1, 8, 30)
    x[:, 4:, 10] = 1e6
    with torch.no_grad():
        attention.in_proj_weight[:16, 4:] = 0  # only values see it
        state = initial_state(attention, x[:, :, 0])
        for t in range(30):
            y = attention.forward_step(x[:, :, t])
            (pure, _), state = step(attention, None, state, x[:, :, t])
            if y is not None and not 10 <= t < 10 + n:
                window = attention(x[:, :, t - n + 1 : t + 1])
                for form in (y, pure):
                    torch.testing.assert_close(form, window, atol=1e-5, rtol=1e-5)


def test_the_pure_step_of_attention_is_exported(monkeypatch):
    # a branch is traced, which the checks of shapes cannot be
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    net = co.TransformerEncoder(8, 2, 16, 4, blocks=2).eval()
    x = torch.randn(1, 8, 12)
    x[:, :, 5] *= 50

    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x, state):
            return step(self.net, None, state, x)

    state = other = initial_state(net, x[:, :, 0])
    with torch.no_grad():
        exported = torch.export.export(Step(), (x[:, :, 0], state)).module()
        for t in range(12):
            (y, valid), state = step(net, None, state, x[:, :, t])
            (again, due), other = exported(x[:, :, t], other)
            assert bool(valid) == bool(due)
            torch.testing.assert_close(y, again)


@pytest.mark.parametrize(("layer", "gates"), [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
def test_products_of_recurrent_layers_are_counted(layer, gates):
    net = continual(layer(40, 48))
    assert flops(net, (1, 40, 64), "step") == gates * 48 * (40 + 48)
    assert flops(net, (2, 40, 64)) == 2 * 64 * gates * 48 * (40 + 48)


def test_products_of_torchs_own_encoder_are_counted():
    layer, n, d = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 10, 16
    assert flops(layer, (1, n, d)) == n * (4 * d * d + 2 * d * 32) + 2 * n * n * d


def test_more_of_torch_nn_is_converted(assert_one_network):
    for layer in (nn.PReLU(3), nn.Softmax(1), nn.GLU(1), nn.Softshrink(), nn.RMSNorm(3)):
        width = 4 if isinstance(layer, nn.GLU) else 3
        net = continual(nn.Sequential(nn.Conv1d(3, width, 3), layer))
        assert_one_network(net, (2, 3, 9))
        assert list(net.state_dict()) == list(nn.Sequential(nn.Conv1d(3, width, 3), layer).state_dict())
    plain = nn.Sequential(nn.Conv3d(2, 3, 3), nn.AdaptiveAvgPool3d((None, 1, 1))).double()
    net, x = continual(plain), torch.randn(1, 2, 6, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(net(x), plain(x))
    assert_one_network(net, (1, 2, 6, 5, 5))
    for layer, words in (
        (nn.Softmax(2), "channels"),
        (nn.Flatten(2), "all of space"),
        (nn.RMSNorm((3, 4)), "over time or space"),
        (nn.AdaptiveAvgPool2d((None, 2)), "None in time"),
    ):
        with pytest.raises(CannotBeContinual, match=words):
            continual(layer)


def test_containers_grow_and_are_pickled():
    net = co.Sequential(co.Conv1d(2, 2, 3)).append(nn.ReLU())
    net.append(co.BroadcastReduce(co.Conv1d(2, 2, 1), co.Conv1d(2, 2, 3, padding=1), reduce="concat"))
    x = torch.randn(1, 2, 9)
    again = pickle.loads(pickle.dumps(net.eval()))
    assert torch.equal(again.forward_steps(x), net.forward_steps(x))
    with pytest.raises(ValueError, match="must be continual"):
        step(nn.Conv1d(2, 2, 3).eval(), None, None, x[:, :, 0])


def test_a_residual_does_not_broadcast():
    net, x = co.Residual(co.Conv1d(3, 1, 3, padding=1)).eval(), torch.randn(1, 3, 9)
    for form in (net, net.forward_steps):
        with pytest.raises(ValueError, match="keep the shape"):
            form(x)


def test_adapters_that_would_be_passed_over_are_refused():
    def make(layer):
        return SPLoRA(layer, 2)

    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    with pytest.raises(ValueError, match=r"self_attn\.out_proj"):
        adapt(nn.Sequential(encoder), make)
    with pytest.raises(ValueError, match=r"linear1"):
        adapt(encoder, make, skip=("self_attn.out_proj",))
    with pytest.raises(ValueError, match="single Linear"):
        adapt(nn.Linear(4, 4), make)


def test_pruning_in_stages_keeps_as_much_as_it_says():
    torch.manual_seed(0)
    model = adapt(
        nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)), FineTuning
    )
    layers, blocks = [model[0], model[2], model[4]], [SPLoPA(nn.Linear(16, 16), block=4, count=2)]
    for density in (0.75, 0.5, 0.25):
        prune_chain(model, layers, density, "magnitude")
        prune_blocks(blocks, density, 4)
        assert [int(layer.mask_out.sum()) for layer in layers[:-1]] == [16 * density] * 2
        assert blocks[0].mask_block.sum() == 16 * density
        with torch.no_grad():  # what was the least may be the most now
            for layer in (*layers, *blocks):
                layer.weight.normal_()


def test_an_activation_in_place_does_not_reach_the_shortcut_nor_the_callers_slice(assert_one_network):
    net = co.Residual(co.Sequential(nn.ReLU(inplace=True), co.Conv1d(2, 2, 3, padding=1)))
    assert_one_network(net, (1, 2, 9))
    x = torch.randn(1, 2, 9, dtype=torch.float64)
    before = x.clone()
    y = nn.functional.conv1d(x.relu(), net.module[1].weight, net.module[1].bias, padding=1) + x
    torch.testing.assert_close(net(x), y)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    "module",
    [
        co.Conv1d(2, 2, 3, form="partial"),
        co.Conv1d(2, 2, 3, form="inputs"),
        co.AvgPool1d(3, 1),
        co.MaxPool1d(3, 1),
        co.Residual(co.Conv1d(2, 2, 3, padding=1)),
        co.BroadcastReduce(co.MaxPool1d(3, 1, 1), co.Conv1d(2, 2, 1)),
    ],
)
def test_what_is_written_into_slices_and_outputs_afterwards_does_not_reach_the_stream(module):
    module.eval()
    x, buffer = torch.randn(1, 2, 12), torch.empty(1, 2)
    clip, seen = module(x), 0
    for t in range(12):
        buffer.copy_(x[:, :, t])
        y = module.forward_step(buffer)
        if y is not None:
            torch.testing.assert_close(y, clip[:, :, seen])
            seen += 1
            y.fill_(99)
        buffer.fill_(77)
