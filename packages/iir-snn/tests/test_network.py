import copy

import pytest
import torch
from torch import nn

from iir_snn_impl import (
    LIF,
    Batches,
    SpikingNet,
    accuracy,
    dqn,
    energy,
    iir,
    lif,
    load_ann,
    resnet20,
    save_ann,
    small_conv,
    train_ann,
    train_snn,
    vgg,
)
from iir_snn_impl.data import cifar_binary, load_npz

X = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(32) % 10


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return small_conv(size=8, width=4, dropout=0.2)


MODELS = {
    "VGG6": lambda: vgg("VGG6", size=8, width=0.05, hidden=16),
    "VGG16": lambda: vgg("VGG16", size=16, width=0.05, hidden=16),
    "ResNet-20": lambda: resnet20(size=16, width=0.05),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("T", [1, 3])
def test_every_network_converts_and_agrees_with_the_step_loop(name, T):
    torch.manual_seed(0)
    ann = MODELS[name]().double().eval()
    x = torch.randn(4, 3, 16 if name != "VGG6" else 8, 16 if name != "VGG6" else 8, dtype=torch.float64)
    net = SpikingNet.from_ann(ann, [x], calibration_steps=3)
    assert torch.allclose(net(x, T), net.forward_reference(x, T), atol=1e-10)
    assert torch.equal(net.eval().to_single_step()(x), net(x, 1))
    assert torch.allclose(net.forward_steps(x, 3)[T - 1], net(x, T), atol=1e-10)


def test_the_networks_of_the_paper_have_its_sizes():
    convolutions = [layer for layer in vgg("VGG16") if isinstance(layer, nn.Conv2d)]
    assert convolutions[0].weight.shape == (64, 3, 3, 3)
    assert len(convolutions) == 13
    assert dqn()(torch.zeros(1, 1, 84, 84)).shape == (1, 6)
    assert resnet20()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_many_steps_of_rate_coding_come_near_the_relu_network():
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3)).double().eval()
    x = torch.randn(50, 6, dtype=torch.float64)
    net = SpikingNet.from_ann(ann, [x], 100.0)
    v = net.neurons()[0].threshold
    # spikes have amplitude 1, so a rate stands for v of the ReLU's output
    rates = net.layers[1](net.layers[0](x).unsqueeze(0), 2000).mean(0)
    assert (v * rates - ann[1](ann[0](x))).abs().max() < v / 2000 * 1.01


def test_a_threshold_for_each_neuron_starts_equal_and_can_differ():
    net = SpikingNet.from_ann(small().eval(), [X], per_neuron=True)
    whole = SpikingNet.from_ann(small().eval(), [X])
    assert net.neurons()[0].threshold.shape == (4, 8, 8)
    assert torch.equal(net(X, 3), whole(X, 3))
    net(X, 3).sum().backward()
    assert net.neurons()[0].threshold.grad.std() > 0


def test_the_mask_of_dropout_is_one_for_all_steps():
    net = SpikingNet.from_ann(small(), [X]).train()
    dropout = next(i for i, layer in enumerate(net.layers) if isinstance(layer, nn.Dropout))
    ones = torch.ones(5, 2, 100)
    y = net._run(net.layers[dropout : dropout + 1], ones, 5)
    assert torch.equal(y, y[:1].expand_as(y))
    assert 0 < (y == 0).double().mean() < 1


def test_early_exit_takes_no_step_too_many():
    net = SpikingNet.from_ann(small().eval(), [X])
    everything = net.predict(X, T=4)
    assert torch.equal(everything.steps, torch.full((32,), 4))
    assert torch.equal(everything.classes, net(X, 4).argmax(-1))
    assert torch.equal(net.predict(X, 0.0, 4).steps, torch.ones(32, dtype=torch.long))
    part = net.predict(X, 0.3, 4)
    sure = net.forward_steps(X, 4).softmax(-1).amax(-1) >= 0.3
    for i, steps in enumerate(part.steps.tolist()):
        assert not sure[: steps - 1, i].any()
        assert steps == 4 or sure[steps - 1, i]


def test_training_clamps_and_is_repeatable():
    nets = []
    for _ in range(2):
        torch.manual_seed(0)
        net = SpikingNet.from_ann(small().eval(), [X])
        train_snn(net, Batches(X, Y, 8), 2, epochs=2, lr=0.05)
        nets.append(net)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(a, b)
    assert all(float(layer.leak.detach()) <= 1 for layer in nets[0].neurons())
    assert nets[0].T == 2


def test_the_best_epoch_is_chosen_on_validation_data_only():
    with pytest.raises(ValueError, match="test set must not choose"):
        train_ann(small(), Batches(X, Y), epochs=1, select="best")
    ann = small()
    history = train_ann(ann, Batches(X, Y, 8), epochs=3, lr=0.1, validation=Batches(X, Y), select="best")
    assert accuracy(ann, Batches(X, Y)) == max(history.validation)


def test_a_layer_that_never_spikes_is_named():
    net = SpikingNet.from_ann(small().eval(), [X])
    with torch.no_grad():
        net.neurons()[1].threshold.fill_(1e6)
    with pytest.warns(UserWarning, match="never spikes"):
        rates = net.spike_stats([X], 1)
    assert list(rates.values())[1] == 0


def test_networks_come_back_from_files(tmp_path):
    net = SpikingNet.from_ann(small().eval(), [X], T=3)
    net.save_pretrained(tmp_path / "net")
    again = SpikingNet.from_pretrained(tmp_path / "net")
    assert torch.equal(again(X), net.eval()(X))
    ann = small().eval()
    assert torch.equal(load_ann(save_ann(ann, tmp_path / "ann"))(X), ann(X))


def nan_weights() -> nn.Sequential:
    ann = small()
    with torch.no_grad():
        ann[0].weight[0, 0, 0, 0] = float("nan")
    return ann


BAD = {
    "max pooling saturates": nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 2)
    ),
    "LeakyReLU gives negative": nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.LeakyReLU(), nn.Linear(8, 2)),
    "at least one ReLU": nn.Sequential(nn.Flatten(), nn.Linear(64, 8)),
    "end in a layer without ReLU": nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU()),
    "got LSTM": nn.Sequential(nn.LSTM(8, 8), nn.ReLU(), nn.Linear(8, 2)),
    "must follow a convolution": nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 2)),
    "0.weight has NaN": nan_weights(),
}


@pytest.mark.parametrize("message", BAD)
def test_a_network_without_a_spiking_form_is_refused(message):
    with pytest.raises(ValueError, match=message):
        SpikingNet.from_ann(BAD[message].eval(), [X])


def test_max_pooling_can_be_averaged_instead():
    net = SpikingNet.from_ann(BAD["max pooling saturates"].eval(), [X], max_pool="average")
    assert any(isinstance(layer, nn.AvgPool2d) for layer in net.layers)


def test_settings_out_of_range_are_refused():
    ann = small().eval()
    net = SpikingNet.from_ann(ann, [X])
    for call, message in (
        (lambda: net(X, 0), "T must be at least 1 step, got 0"),
        (lambda: LIF(0.0), "threshold must be positive and finite, got 0.0"),
        (lambda: LIF(float("nan")), "threshold must be positive"),
        (lambda: LIF(1.0, leak=1.1), "leak must be at most 1"),
        (lambda: LIF(1.0, per_neuron=True), "shape must be given"),
        (lambda: lif(torch.zeros(3, 1, 1), torch.ones(()), torch.ones(()), steps=2), "currents must be 1 or 2"),
        (lambda: SpikingNet.from_ann(ann, []), "at least one batch"),
        (lambda: SpikingNet.from_ann(ann, [X], 101), "percentile must be between"),
        (lambda: SpikingNet.from_ann(ann, [X * float("nan")]), "images must be finite"),
        (lambda: SpikingNet.from_ann(ann, [X], T=0), "T must be at least 1"),
        (lambda: iir(net, Batches(X, Y), (1, 2)), "schedule must be falling"),
        (lambda: iir(net, Batches(X, Y), ()), "schedule must be falling"),
        (lambda: energy(net, []), "at least one image"),
        (lambda: Batches(X[:0], Y[:0]), "equally many"),
        (lambda: vgg("VGG7"), "name must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_calibration_on_one_class_is_warned_of():
    with pytest.warns(UserWarning, match="one class"):
        SpikingNet.from_ann(small().eval(), [(X, torch.zeros(32, dtype=torch.long))])


def test_a_percentile_that_is_not_positive_becomes_a_tenth():
    ann = copy.deepcopy(small().eval())
    with torch.no_grad():
        ann[1].bias.fill_(-100.0)
    assert float(SpikingNet.from_ann(ann, [X]).neurons()[0].threshold.detach()) == pytest.approx(0.1)


def test_cifar_files_are_read_in_their_own_format(tmp_path):
    record = bytes([3, *[255] * 1024, *[0] * 1024, *[128] * 1024])
    for i in range(1, 6):
        (tmp_path / f"data_batch_{i}.bin").write_bytes(record * 4)
    (tmp_path / "test_batch.bin").write_bytes(record)
    parts = cifar_binary(tmp_path)
    assert [len(part[1]) for part in parts] == [18, 2, 1]
    assert parts.test[1].tolist() == [3]
    assert parts.test[0][0, 0, 0, 0] == pytest.approx((1 - 0.4914) / 0.2023)
    (tmp_path / "test_batch.bin").write_bytes(record[:-1])
    with pytest.raises(ValueError, match="records of 3073 bytes, got 3072"):
        cifar_binary(tmp_path)


def test_a_damaged_npz_is_refused(tmp_path):
    path = tmp_path / "x.npz"
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ValueError, match=r"x\.npz"):
        load_npz(path)
