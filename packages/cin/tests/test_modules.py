import pytest
import torch
from torch import nn

import cin_impl.nn as co
from cin_impl import CannotBeContinual, continual, load_in_order, state_bytes
from cin_impl.conv import continual_conv_oracle
from cin_impl.cost import parameters
from cin_impl.experiments import digit_network
from cin_impl.skeleton import CoSTGCN, partitions
from cin_impl.video import CoI3D, CoX3D, SmallCo3D


@pytest.mark.parametrize(("k", "s", "p"), [(3, 1, 1), (5, 2, 2), (1, 1, 0), (4, 1, 0), (2, 2, 1)])
def test_pools_are_one_network(assert_one_network, k, s, p):
    torch.manual_seed(0)
    for module in (co.AvgPool1d(k, s, p), co.MaxPool1d(k, s, p), co.MaxPool1d(k, s, p, dilation=2)):
        assert_one_network(module, (2, 3, 23))
    assert_one_network(co.AvgPool1d(k, s, p, time_dilation=3), (1, 2, 40))
    assert_one_network(co.AvgPool3d((k, 2, 2), (s, 2, 2), (p, 0, 0)), (2, 3, 23, 4, 4))
    assert_one_network(co.MaxPool2d((k, 2), (s, 1), (p, 1)), (2, 3, 23, 4))
    assert_one_network(co.GlobalAvgPool(k), (2, 3, 23, 4, 4))


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_recurrent_layers_are_one_network(assert_one_network, kind):
    assert_one_network(continual(kind(3, 4, num_layers=2)), (2, 3, 9))


def test_squeeze_excite_positions_norms_and_linear_are_one_network(assert_one_network):
    assert_one_network(co.SqueezeExcite(4, 2, 5), (2, 4, 12, 3, 3))
    assert_one_network(co.RecyclingPositionalEncoding(4, 5), (2, 4, 13))
    assert_one_network(co.RecyclingPositionalEncoding(4, 6, learned=False), (2, 4, 13))
    assert_one_network(co.Sequential(co.Linear(4, 6), co.LayerNorm(6), nn.GELU()), (2, 4, 5, 3))
    assert_one_network(co.Sequential(co.Conv2d(2, 3, (3, 1)), co.Flatten(), co.Linear(12, 2)), (1, 2, 9, 4))


def test_containers_align_delays(assert_one_network):
    torch.manual_seed(0)
    for how in ("sum", "mul", "max", "concat"):
        branches = (co.Conv1d(3, 3, 1), co.Conv1d(3, 3, 5, padding=2), co.Conv1d(3, 3, 3, padding=1))
        assert_one_network(co.BroadcastReduce(*branches, reduce=how), (2, 3, 20))
    net = co.Conditional(lambda x: True, co.Conv1d(3, 3, 1), co.Conv1d(3, 3, 3, padding=1))
    assert_one_network(net, (2, 3, 20))


@pytest.mark.parametrize("name", ["conv", "lstm"])
def test_digit_networks_are_one_network(assert_one_network, name):
    assert_one_network(digit_network(name, width=8), (2, 40, 70))


def test_models_are_one_network(assert_one_network):
    torch.manual_seed(0)
    assert_one_network(SmallCo3D(frames=8, channels=4), (2, 1, 12, 16, 16))
    widths = (8, 8, 16)
    for kind in ("st-gcn", "a-gcn"):
        for mod in (False, True):
            net = CoSTGCN(classes=3, kind=kind, mod=mod, window=3, widths=widths, kernel=5)
            net = net.eval()
            x = torch.randn(1, 3, 24, 25, 2)
            with torch.no_grad():
                clip = net(x)
            if mod:
                torch.testing.assert_close(net.forward_steps(x), clip, atol=1e-5, rtol=1e-4)
            else:
                assert_one_network(net, (1, 3, 24, 25, 2), 1e-11)


def test_a_small_x3d_is_one_network():
    torch.manual_seed(0)
    net = CoX3D(size="s", classes=3, window=3).eval()
    x = torch.randn(1, 3, 6, 32, 32)
    with torch.no_grad():
        clip = net(x)
    torch.testing.assert_close(net.forward_steps(x, pad_end=True), clip, atol=1e-4, rtol=1e-4)


def test_the_oracle_of_convolution_gives_the_steps_output():
    conv = co.Conv2d(3, 4, (3, 3), padding=(1, 1), dilation=(2, 1)).eval()
    x = torch.randn(2, 3, 9, 5)
    y = conv.forward_steps(x)
    torch.testing.assert_close(continual_conv_oracle(conv, x), y[:, :, -1].double(), atol=1e-5, rtol=1e-5)


def test_graph_partitions_cover_every_bone_once():
    graph = partitions()
    assert graph.shape == (3, 25, 25)
    assert torch.equal(graph[0], torch.eye(25))
    assert int((graph[1] > 0).sum()) == int((graph[2] > 0).sum()) == 24


def test_a_long_stream_keeps_running_sums_exact():
    pool = co.AvgPool1d(7, 1).eval()
    x = 1e3 * torch.randn(1, 1, 4_000)
    y = pool.forward_steps(x)
    torch.testing.assert_close(y.double(), pool(x.double()), atol=2e-4, rtol=1e-5)


def test_state_does_not_grow_with_the_stream():
    net = co.Sequential(co.Conv1d(3, 4, 5), co.Residual(co.Conv1d(4, 4, 3, padding=1)), co.AvgPool1d(8, 1)).eval()
    net.forward_steps(torch.randn(1, 3, 20))
    before = state_bytes(net.state)
    net.forward_steps(torch.randn(1, 3, 100))
    assert state_bytes(net.state) == before > 0


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.Sequential(nn.Conv1d(2, 2, 3), nn.GroupNorm(1, 2)), "module.1.*GroupNorm.*whole clip"),
        (nn.InstanceNorm1d(2), "whole clip"),
        (nn.LSTM(2, 2, bidirectional=True), "bidirectional"),
        (nn.AdaptiveAvgPool3d(1), "window="),
        (nn.MultiheadAttention(4, 2), "SingleOutputMHA"),
        (nn.Conv1d(2, 2, 4, padding="same"), "odd kernel"),
        (nn.Conv1d(2, 2, 3, padding=3), "at most 2"),
        (nn.Conv1d(2, 2, 3, padding=1, padding_mode="circular"), "padding_mode"),
        (nn.BatchNorm1d(2, track_running_stats=False), "running statistics"),
        (nn.MaxPool1d(3, ceil_mode=True), "ceil_mode"),
        (nn.Bilinear(2, 2, 2), "not known"),
    ],
)
def test_what_cannot_be_continual_is_refused_with_the_reason(module, words):
    with pytest.raises(CannotBeContinual, match=words):
        continual(module)


def test_bad_steps_are_refused():
    net = co.Sequential(co.Conv1d(3, 4, 3), nn.ReLU())
    with pytest.raises(ValueError, match="eval"):
        net.forward_step(torch.randn(2, 3))
    net.eval()
    assert net.forward_step(torch.randn(2, 3)) is None
    with pytest.raises(ValueError, match=r"stream began with|as the stream began"):
        net.forward_step(torch.randn(1, 3))
    with pytest.raises(ValueError, match="as the stream began"):
        net.forward_step(torch.randn(2, 3).double())
    net.clean_state()
    with pytest.raises(ValueError, match="must be a slice"):
        net.forward_step(torch.randn(2, 5))
    with pytest.raises(ValueError, match="batch, channels"):
        net.forward_step(torch.randn(3))
    with pytest.raises(ValueError, match="equal padding"):
        co.Residual(co.Conv1d(3, 3, 4, padding=2))
    with pytest.raises(ValueError, match="shorten a clip equally"):
        co.BroadcastReduce(co.Conv1d(3, 3, 3), co.Conv1d(3, 3, 1))
    with pytest.raises(ValueError, match="equal strides"):
        co.BroadcastReduce(co.Conv1d(3, 3, 1, stride=2), co.Conv1d(3, 3, 1))
    with pytest.raises(ValueError, match="one window of 4"):
        co.RetroactiveMHA(8, 2, 4)(torch.randn(1, 8, 5))
    with pytest.raises(ValueError, match="1 or 2"):
        co.TransformerEncoder(8, 2, 8, 4, blocks=3)
    with pytest.raises(ValueError, match="at least 7"):
        co.RecyclingPositionalEncoding(4, 6, window=4)


def test_an_empty_chunk_gives_nothing_and_a_clip_shorter_than_the_delay_too():
    conv = co.Conv1d(3, 4, 5).eval()
    assert conv.forward_steps(torch.randn(1, 3, 0)) is None
    assert conv.forward_steps(torch.randn(1, 3, 4)) is None
    assert conv.forward_steps(torch.randn(1, 3, 1)).shape == (1, 4, 1)


def test_models_are_saved_and_loaded(tmp_path):
    model = SmallCo3D(frames=8, channels=4).eval()
    model.save_pretrained(tmp_path)
    other = SmallCo3D.from_pretrained(tmp_path).eval()
    x = torch.randn(1, 1, 8, 16, 16)
    assert torch.equal(model(x), other(x))


@pytest.mark.slow
def test_drift_stays_small_over_a_hundred_thousand_steps():
    torch.manual_seed(0)
    module, x = co.RetroactiveMHA(8, 2, 16).eval(), torch.randn(1, 8, 100_000)
    last = None
    for t in range(x.shape[2]):
        last = module.forward_step(x[:, :, t])
    with torch.no_grad():
        assert (last - module(x[:, :, -16:])).abs().max() < 1e-5


def test_a_module_that_stands_in_two_places_runs_in_both(assert_one_network):
    relu, conv = nn.ReLU(), co.Conv1d(3, 3, 3)
    assert_one_network(co.Sequential(conv, relu, conv, relu, co.Conv1d(3, 2, 1)), (2, 3, 12))


def test_a_residual_may_have_a_projection(assert_one_network):
    for shrink, padding in ((None, 2), ("centred", 0)):
        body = co.Conv1d(3, 5, 5, stride=2, padding=padding)
        assert_one_network(co.Residual(body, shrink=shrink, skip=nn.Conv1d(3, 5, 1)), (2, 3, 21))
    with pytest.raises(ValueError, match="each slice alone"):
        co.Residual(co.Conv1d(3, 3, 3, padding=1), skip=nn.Conv1d(3, 3, 3))


def test_weights_are_loaded_in_order_or_not_at_all():
    plain = nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.Linear(4, 2))
    state = {f"net.{i}": value for i, value in enumerate(plain.state_dict().values()) if value.ndim}
    other = continual(nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.Linear(4, 2)))
    load_in_order(other, state)
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), other.state_dict().values(), strict=True))
    before = [value.clone() for value in other.state_dict().values()]
    for wrong, words in (
        (dict(list(state.items())[1:]), "8 tensors, got 7"),
        ({**state, "net.0": torch.ones(9)}, "must fit"),
    ):
        with pytest.raises(ValueError, match=words):
            load_in_order(other, wrong)
    assert all(torch.equal(a, b) for a, b in zip(before, other.state_dict().values(), strict=True))


def test_a_network_trained_with_padding_is_taken_over_without():
    shape = {"classes": 3, "people": 1, "widths": (8, 8, 16), "kernel": 5, "window": 4}
    padded, mod = CoSTGCN(**shape), CoSTGCN(mod=True, **shape)
    mod.load_state_dict(padded.state_dict())
    assert (padded.time_stride, mod.time_stride, mod.time_padding) == (2, 1, 0)
    hand = CoSTGCN(classes=2, joints=3, people=1, bones=((2, 1), (3, 1)), widths=(4,), kernel=3, window=2).eval()
    assert hand(torch.randn(1, 3, 5, 3, 1)).shape == (1, 2, 4)
    for wrong, words in (
        ({"bones": ((1, 4),), "joints": 3}, "joints 1 to 3"),
        ({"joints": 30}, "bones must be given"),
        ({"kernel": 4}, "odd"),
        ({"kind": "x"}, "kind"),
    ):
        with pytest.raises(ValueError, match=words):
            CoSTGCN(**wrong)
    with pytest.raises(ValueError, match="3 joints"):
        hand.forward_step(torch.randn(1, 3, 4, 1))


def test_i3d_halves_the_rate_or_not():
    with torch.device("meta"):
        halved, whole = CoI3D(classes=3), CoI3D(classes=3, pool=1, window=8)
    assert (halved.time_stride, whole.time_stride) == (2, 1)
    assert parameters(halved) == parameters(whole)


def test_averages_and_maxima_forget_what_is_no_number():
    for module, late in (
        (co.AvgPool1d(4, 1), 4),
        (co.MaxPool1d(4, 1), 4),
        (co.Conv1d(2, 2, 4), 4),
        (co.RetroactiveMHA(2, 1, 4), 4),
    ):
        x = torch.randn(1, 2, 30)
        x[:, :, 10] = float("nan")
        module.eval()
        for t in range(30):
            y = module.forward_step(x[:, :, t])
            assert t < 3 or t in range(10, 10 + late) or y.isfinite().all()
