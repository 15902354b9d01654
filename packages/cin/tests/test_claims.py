"""The claims of the paper, a test each."""

import pytest
import torch
from torch import nn

import cin_impl.nn as co
from cin_impl import continual, flops, initial_state, step
from cin_impl.module import clone_state
from cin_impl.skeleton import CoSTGCN
from cin_impl.spa import SPLoRA
from cin_impl.video import CoOadTR, CoSlow, CoX3D

CONVOLUTIONS = [(3, 1, 1, 1, 1), (3, 2, 1, 2, 2), (1, 1, 0, 1, 1), (4, 3, 2, 1, 1), (5, 1, 4, 1, 4), (2, 2, 1, 3, 2)]


@pytest.mark.parametrize("form", ["partial", "inputs"])
@pytest.mark.parametrize(("k", "s", "p", "d", "g"), CONVOLUTIONS)
def test_a_convolution_gives_in_steps_what_it_gives_on_the_clip(assert_one_network, form, k, s, p, d, g):
    torch.manual_seed(k)
    options = {"groups": g, "form": form}
    assert_one_network(co.Conv1d(4, 8, k, s, p, d, **options), (2, 4, 19))
    assert_one_network(co.Conv2d(4, 8, (k, 3), (s, 2), (p, 1), (d, 1), **options), (1, 4, 19, 5))
    assert_one_network(co.Conv3d(4, 8, (k, 3, 3), (s, 1, 2), (p, 1, 0), (d, 1, 1), **options), (1, 4, 19, 5, 6))


def random_stack(seed):
    rng = torch.Generator().manual_seed(seed)

    def draw(n):
        return int(torch.randint(n, (1,), generator=rng))

    layers = [co.Conv1d(3, 4, 1 + draw(5), stride=1 + draw(2))]
    for _ in range(4):
        kind, k = draw(6), 1 + 2 * draw(3)
        same = co.Conv1d(4, 4, k, padding=k // 2)
        layers.append(
            [
                lambda same=same: same,
                lambda same=same: co.Residual(co.Sequential(same, nn.ReLU())),
                lambda k=k: co.Residual(co.Conv1d(4, 4, k), shrink="centred"),
                lambda k=k: co.Residual(co.Conv1d(4, 4, k + 1), shrink="lagging"),
                lambda same=same: co.BroadcastReduce(same, co.Conv1d(4, 4, 1), reduce="mul"),
                lambda: [co.AvgPool1d(3, 1 + draw(2), 1), co.MaxPool1d(3, 1 + draw(2), 1)][draw(2)],
            ][kind]()
        )
    return co.Sequential(*layers)


@pytest.mark.parametrize("seed", range(5))
def test_random_stacks_give_in_steps_what_they_give_on_the_clip(assert_one_network, seed):
    torch.manual_seed(seed)
    assert_one_network(random_stack(seed), (2, 3, 40))
    assert_one_network(random_stack(seed), (1, 3, 40), tolerance=1e-5, dtype=torch.float32)


@pytest.mark.parametrize("seed", range(8))
def test_the_receptive_field_is_what_gradients_reach(seed):
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    draws = torch.randint(1, 4, (3, 3), generator=rng).tolist()
    net = co.Sequential(*[co.Conv1d(2, 2, k, stride=s, dilation=d) for k, s, d in draws]).double()
    assert net.delay == net.receptive_field - 1
    x = torch.randn(1, 2, net.receptive_field + 20, dtype=torch.float64, requires_grad=True)
    # the last output of a clip that ends where it is due
    x_used = x[:, :, : net.receptive_field + 20 // net.time_stride * net.time_stride]
    (gradient,) = torch.autograd.grad(net(x_used)[..., -1].sum(), x)
    reached = (gradient.abs().sum((0, 1)) > 0).nonzero()[:, 0]
    assert int(reached[-1] - reached[0]) + 1 == net.receptive_field
    assert int(reached[-1]) == x_used.shape[2] - 1


def test_weights_go_both_ways_with_torch_nn():
    plain = nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 2, 3, padding=1)).eval()
    ours = continual(plain)
    assert list(ours.state_dict()) == list(nn.Sequential(*plain).state_dict())
    other = nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 2, 3, padding=1)).eval()
    other.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 20)
    assert torch.equal(plain(x), other(x))
    assert torch.equal(plain(x), ours(x))
    attention, theirs = co.SingleOutputMHA(8, 2, 5), nn.MultiheadAttention(8, 2, batch_first=True)
    attention.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(attention.state_dict())
    x = torch.randn(2, 5, 8)
    row = theirs(x[:, -1:], x, x)[0][:, 0]
    torch.testing.assert_close(attention(x.transpose(1, 2))[:, :, 0], row, atol=1e-6, rtol=1e-5)


def windows(module, length, tolerance, width=8):
    module = module.double().eval()
    x = torch.randn(2, width, length, dtype=torch.float64)
    n, state = module.window, initial_state(module, x[:, :, 0])
    for t in range(length):
        y = module.forward_step(x[:, :, t])
        (pure, valid), state = step(module, None, state, x[:, :, t])
        assert (y is not None) == bool(valid) == (t >= n - 1)
        if y is not None:
            with torch.no_grad():
                whole = module(x[:, :, t - n + 1 : t + 1]).reshape(y.shape)
            assert (y - whole).abs().max() < tolerance
            assert (pure - whole).abs().max() < tolerance


@pytest.mark.parametrize("query", [-1, 0, 2])
def test_single_output_attention_is_a_row_of_the_full_one(assert_one_network, query):
    torch.manual_seed(0)
    windows(co.SingleOutputMHA(8, 2, 5, query_index=query), 16, 1e-12)
    assert_one_network(co.SingleOutputMHA(8, 2, 5, query_index=query), (2, 8, 16))


@pytest.mark.parametrize("window", [1, 2, 7])
def test_retroactive_attention_is_all_rows_of_the_full_one(window):
    torch.manual_seed(0)
    windows(co.RetroactiveMHA(8, 2, window), 40, 1e-10)


@pytest.mark.parametrize("blocks", [1, 2])
def test_one_and_two_blocks_equal_the_windowed_encoder(blocks):
    torch.manual_seed(0)
    windows(co.TransformerEncoder(8, 2, 16, 6, blocks=blocks), 30, 1e-10)
    windows(co.TransformerEncoder(8, 2, 16, 6, blocks=blocks, query_index=2), 20, 1e-10)


def test_a_step_costs_a_frame_of_the_clip():
    net = continual(nn.Sequential(nn.Conv1d(4, 8, 3), nn.ReLU(), nn.Conv1d(8, 8, 3)))
    assert flops(net, (1, 4, 10), "step") == 4 * 8 * 3 + 8 * 8 * 3
    long = 1_000
    assert flops(net, (1, 4, long)) / long == pytest.approx(flops(net, (1, 4, 10), "step"), rel=5e-3)
    n, d = 32, 16
    single, project = co.SingleOutputMHA(d, 1, n), 4 * d * d
    assert flops(single, (1, d, n), "step") == project + 2 * n * d
    assert flops(co.RetroactiveMHA(d, 1, n), (1, d, n)) == n * project + 2 * n * n * d
    with torch.device("meta"):
        retroactive = co.RetroactiveMHA(d, 1, n)
    # two products with keys that come and go, and the newest row anew; the output projection is of n rows
    assert flops(retroactive, (1, d, n), "step") == 3 * d * d + n * d * d + 4 * n * d


def test_sizes_of_the_full_networks_are_the_published_ones():
    with torch.device("meta"):
        x3d, large, slow = CoX3D(size="m", window=16, scope="clip"), CoX3D(size="l"), CoSlow()
        oadtr = CoOadTR(blocks=1, features=3072)
    gcn = CoSTGCN()
    sizes = [sum(p.numel() for p in net.parameters()) / 1e6 for net in (x3d, large, slow, gcn, oadtr)]
    assert sizes == pytest.approx([3.79, 6.15, 32.45, 3.14, 9.60], abs=0.006)
    assert flops(oadtr, (1, 3072, 64), "step") / 1e6 == pytest.approx(9.6, abs=0.05)
    # counted as the papers do, their digits
    assert flops(x3d, (1, 3, 16, 224, 224), count="papers") / 1e9 == pytest.approx(4.97, abs=0.005)
    assert flops(gcn.to("meta"), (1, 3, 300, 25, 2), count="papers") / 1e9 == pytest.approx(16.73, abs=0.005)


@pytest.mark.parametrize(
    "module",
    [
        co.Sequential(co.Conv1d(4, 4, 3, form="partial"), co.Residual(co.Conv1d(4, 4, 3, padding=1)), co.GRU(4, 4)),
        co.Sequential(co.MaxPool1d(4, 1), co.AvgPool1d(3, 1), co.Conv1d(4, 4, 3, form="inputs")),
        co.RetroactiveMHA(4, 2, 5),
    ],
)
def test_a_peek_leaves_the_state_bitwise_equal(module):
    module.eval()
    x = torch.randn(2, 4, 12)
    module.forward_steps(x)
    before, peek = clone_state(module.state), module.forward_step(x[:, :, 0], update_state=False)

    def same(a, b):
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
        if isinstance(a, tuple | list):
            return all(map(same, a, b))
        return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b

    assert same(before, module.state)
    assert torch.equal(peek, module.forward_step(x[:, :, 0]))
    assert not same(before, module.state)


@pytest.mark.parametrize("source", [nn.Linear(12, 10), nn.Conv2d(12, 10, 3, padding=1)])
def test_fusing_and_pruning_commute_and_the_parameter_formula_is_exact(source):
    torch.manual_seed(0)
    adapter = SPLoRA(source, 4)
    with torch.no_grad():
        adapter.up.normal_()
    x = torch.randn(3, 12) if isinstance(source, nn.Linear) else torch.randn(3, 12, 5, 5)
    torch.testing.assert_close(adapter.fuse()(x), adapter(x), atol=1e-6, rtol=1e-6)
    assert not torch.allclose(adapter(x), source(x))
    whole = adapter.fuse().weight
    out, inside = torch.arange(10) % 2 == 0, torch.arange(12) < 7
    adapter.prune(out, inside)
    torch.testing.assert_close(adapter.fuse().weight, whole[out][:, inside], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(adapter.fuse()(x[:, inside]), adapter(x[:, inside]), atol=1e-6, rtol=1e-6)
    assert adapter.learned() == 4 * (5 + 7) + 5


def test_row_offsets_and_guard_keep_retroactive_attention_from_drifting():
    from cin_impl.experiments import drift
    from shared_impl.experiments import Context, Run

    def error(form, std):
        return drift(Run(f"score std {std}", form, options={"steps": 250}), Context())["error"]

    assert error("offsets + guard", 9) < 1e-4
    assert error("offsets + guard", 25) < 1e-4
    assert error("raw exponentials", 9) > 100 * error("offsets + guard", 9)


def test_the_functional_step_is_compiled_exported_and_differentiated():
    net = co.Sequential(co.Conv1d(3, 4, 3), co.Residual(co.Conv1d(4, 4, 3, padding=1)), co.AvgPool1d(2, 2)).eval()
    x = torch.randn(1, 3, 16)

    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, x, state):
            return step(self.net, None, state, x)

    state = initial_state(net, x[:, :, 0])
    exported = torch.export.export(Step(), (x[:, :, 0], state)).module()
    other = initial_state(net, x[:, :, 0])
    for t in range(16):
        (y, valid), state = step(net, None, state, x[:, :, t])
        (y2, valid2), other = exported(x[:, :, t], other)
        assert bool(valid) == bool(valid2)
        torch.testing.assert_close(y, y2)
    compiled = torch.compile(Step(), backend="eager", fullgraph=True)
    with torch.no_grad():
        begun = initial_state(net, x[:, :, 0])
        torch.testing.assert_close(compiled(x[:, :, 0], begun)[0][0], step(net, None, begun, x[:, :, 0])[0][0])
    params = dict(net.named_parameters())
    (gradient,) = torch.autograd.grad(step(net, params, state, x[:, :, 0])[0][0].sum(), [params["0.weight"]])
    assert gradient.abs().sum() > 0
