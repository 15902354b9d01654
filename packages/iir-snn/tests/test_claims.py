"""The claims of the paper that a test can decide, a test each."""

import numpy as np
import pytest
import torch
from torch import nn

from iir_snn_impl import (
    LIF,
    Batches,
    Residual,
    SpikingNet,
    accuracy,
    digits16,
    energy,
    energy_ratio,
    fold_batch_norm,
    iir,
    kth_percentile,
    lif,
    lif_reference,
    small_conv,
    surrogate_derivative,
    train_ann,
)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def lived_in(model: nn.Sequential) -> nn.Sequential:
    """Batch norm with statistics that are not those it starts with."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            n = layer.num_features
            layer.running_mean.copy_(random(n, seed=1))
            layer.running_var.copy_(random(n, seed=2).abs() + 0.3)
            layer.weight.data.copy_(random(n, seed=3))
            layer.bias.data.copy_(random(n, seed=4))
    return model.eval()


@pytest.fixture
def net() -> SpikingNet:
    torch.manual_seed(0)
    return SpikingNet.from_ann(small_conv(size=8, width=4).eval(), [random(64, 1, 8, 8, dtype=torch.float32)])


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_folding_batch_norm_changes_nothing(dtype, limit):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))
    ann = nn.Sequential(small_conv(size=8, width=4)[:3], Residual(body, nn.Sequential()), nn.ReLU(), nn.Flatten())
    ann = lived_in(ann).to(dtype)
    folded = fold_batch_norm(ann)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    x = random(5, 1, 8, 8, dtype=dtype)
    assert (folded(x) - ann(x)).abs().max() <= limit


def test_at_one_step_no_leak_has_a_gradient_and_the_plain_network_is_equal_bit_for_bit(net):
    x = random(16, 1, 8, 8, seed=5, dtype=torch.float32)
    net(x, 1).square().sum().backward()
    assert all(layer.leak.grad is not None and torch.all(layer.leak.grad == 0) for layer in net.neurons())
    assert any(layer.threshold.grad.abs() > 0 for layer in net.neurons())
    plain = net.to_single_step()
    assert torch.equal(plain(x), net.eval()(x, 1))
    assert not any(isinstance(layer, LIF) for layer in plain.modules())


def test_charge_is_conserved_without_leak():
    currents, v = random(30, 7, 11), torch.tensor(0.6, dtype=torch.float64)
    spikes, u = lif(currents, v, torch.ones((), dtype=torch.float64))
    assert (u - (currents.sum(0) - v * spikes.sum(0))).abs().max() < 1e-5
    assert spikes.sum() > 100


def test_a_constant_current_fires_at_its_own_rate_with_an_error_of_one_over_t():
    v = torch.tensor(0.8, dtype=torch.float64)
    current = torch.linspace(0, 0.8, 41, dtype=torch.float64).view(1, 1, -1)
    for steps in (1, 3, 10, 100):
        count = lif(current, v, torch.ones((), dtype=torch.float64), steps=steps)[0].sum(0)
        assert (count - steps * current[0] / v).abs().max() <= 1 + 1e-9


@pytest.mark.parametrize("scale", [0.25, 3.0])
def test_scaling_weights_and_threshold_together_changes_no_spike(scale):
    weight, x, v = random(6, 5), random(9, 4, 5, seed=1), torch.tensor(0.7, dtype=torch.float64)
    leak = torch.tensor(0.9, dtype=torch.float64)
    spikes = lif(x @ weight.T, v, leak)[0]
    assert torch.equal(lif(x @ (scale * weight).T, scale * v, leak)[0], spikes)
    assert 0 < spikes.mean() < 1


def test_the_gradients_are_those_of_the_formula_and_of_a_two_step_example_by_hand():
    z = torch.tensor([-2.0, -0.5, 0.0, 0.25, 1.5])
    assert torch.allclose(surrogate_derivative(z), 0.3 * torch.tensor([0.0, 0.5, 1.0, 0.75, 0.0]))
    # one neuron, currents 1.2 and 0.4, v = 1, leak 0.5: m1 = 1.2, s1 = 1, u1 = 0.2, m2 = 0.5, s2 = 0; loss 2 s1 + 5 s2
    v, leak = (torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (1.0, 0.5))
    spikes, _ = lif(torch.tensor([[[1.2]], [[0.4]]], dtype=torch.float64), v, leak)
    assert spikes.flatten().tolist() == [1, 0]
    (2 * spikes[0] + 5 * spikes[1]).sum().backward()
    slope1, slope2 = 0.3 * (1 - 0.2), 0.3 * (1 - 0.5)
    # m2 = leak (m1 - v s1) + I2, so dm2/dv = -leak
    by_hand = 2 * slope1 * -1.2 + 5 * slope2 * (-0.5 - 0.5)
    assert float(v.grad) == pytest.approx(by_hand, abs=1e-12)
    assert float(leak.grad) == pytest.approx(5 * slope2 * 0.2, abs=1e-12)


@pytest.mark.parametrize("surrogate", ["linear", "atan", "sigmoid", "stdb"])
@pytest.mark.parametrize("reset", ["soft", "hard"])
@pytest.mark.parametrize("still", [False, True])
def test_the_fused_form_equals_the_step_loop(reset, surrogate, still):
    results = []
    for fused in (True, False):
        currents = random(1 if still else 6, 3, 5).requires_grad_()
        v = torch.full((5,), 0.5, dtype=torch.float64, requires_grad=True)
        leak = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
        how = {"reset": reset, "surrogate": surrogate}
        if fused:
            spikes, u = lif(currents, v, leak, steps=6, **how)
        else:
            spikes, u = lif_reference(currents.expand(6, 3, 5), v, leak, **how)
        (random(6, 3, 5, seed=1) * spikes).sum().add((random(3, 5, seed=2) * u).sum()).backward()
        results.append((spikes, u, currents.grad, v.grad, leak.grad))
    for ours, obvious in zip(*results, strict=True):
        assert torch.allclose(ours, obvious, atol=1e-12)


def test_energy_and_operations_are_those_counted_by_hand(net):
    # 1000 and 500 MACs, rate 0.2: 4.6 * 1500 / (4.6 * 1000 + 0.9 * 100)
    assert energy_ratio([1000, 500], [0.2]) == pytest.approx(6900 / 4690)
    assert energy_ratio([1000, 500], [0.4], T=2) == pytest.approx(6900 / (9200 + 180))
    x = random(10, 1, 8, 8, dtype=torch.float32)
    table, rates = energy(net, [x], 2), list(net.spike_stats([x], 2).values())
    counted = []

    def count(layer, inputs, output):
        fan_in = layer.weight[0].numel()
        counted.append(fan_in * output[0].numel())

    plain = net.to_single_step()
    for layer in plain.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    plain(x[:1])
    assert [row.macs for row in table.layers] == counted
    assert table.ratio == pytest.approx(energy_ratio(counted, rates, T=2))


def test_thresholds_are_the_kth_value_and_a_tenth_of_the_currents_exceeds_them(net):
    values = random(1001)
    for q in (0, 37.5, 90, 100):
        assert kth_percentile(values, q) == np.sort(values.numpy())[round(0.01 * q * 1000)]
    x = random(64, 1, 8, 8, dtype=torch.float32)
    net.calibrate(x, 90.0, steps=1)
    for rate in net.trace(x, 1).rates.values():
        assert rate == pytest.approx(0.1, abs=0.002)


def on_digits(seed: int, *, ann_epochs: int, schedule: tuple[int, ...], epochs: int):
    """A ReLU network on digits, converted, and brought down to one step; loaders."""
    torch.manual_seed(seed)
    parts = digits16()
    train, test = Batches(*parts.train, seed=seed), Batches(*parts.test, 500, shuffle=False)
    ann = small_conv()
    train_ann(ann, train, epochs=ann_epochs, lr=0.05)
    converted = SpikingNet.from_ann(ann, [parts.train[0][:512]])
    networks, _ = iir(converted, train, schedule, epochs, lr=1e-3)
    return ann, converted, networks, train, test


@pytest.fixture(scope="module")
def trained():
    return on_digits(0, ann_epochs=4, schedule=(5, 3, 1), epochs=2)


@pytest.mark.slow
def test_conversion_alone_fails_at_one_step_and_iir_does_not():
    scores = []
    for seed in range(5):
        ann, converted, networks, _, test = on_digits(seed, ann_epochs=12, schedule=(5, 4, 3, 2, 1), epochs=6)
        scores.append([accuracy(ann, test), accuracy(converted, test, 1), accuracy(networks[1], test, 1)])
    of_ann, of_conversion, of_iir = np.mean(scores, 0)
    assert of_conversion <= of_ann - 0.15
    assert of_iir >= of_ann - 0.03


def test_an_inference_takes_fewer_spikes_with_fewer_steps(trained):
    _, converted, networks, _, test = trained
    spikes = [energy(networks[T], test, T).spikes for T in (5, 3, 1)]
    assert spikes[0] > spikes[1] > spikes[2] > 0
    assert accuracy(networks[1], test, 1) > accuracy(converted, test, 1) + 0.3


def test_reduction_starts_each_stage_from_the_one_before(trained):
    _, _, networks, train, _ = trained
    seen = []
    again, history = iir(networks[3], train, (2, 1), 0, on_stage=lambda T, net: seen.append((T, net)))
    assert [T for T, _ in seen] == [2, 1]
    assert history.loss == []
    for T in (2, 1):
        assert all(torch.equal(a, b) for a, b in zip(again[T].parameters(), networks[3].parameters(), strict=True))
    # a stage that trains leaves the one before as it is, and starts from its weights: with a tiny rate it stays near
    few = Batches(train.images[:64], train.labels[:64])
    near, _ = iir(networks[3], few, (2, 1), 1, lr=1e-6)
    for a, b, c in zip(networks[3].parameters(), near[2].parameters(), near[1].parameters(), strict=True):
        assert (a - b).abs().max() < 1e-5
        assert (b - c).abs().max() < 1e-5
    assert not torch.equal(near[1].neurons()[0].threshold, near[2].neurons()[0].threshold)
