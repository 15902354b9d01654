import pytest
import torch
from torch import nn

from cin_impl.spa import (
    FineTuning,
    SPLoPA,
    SPLoRA,
    SPPaRA,
    adapt,
    block_scores,
    channel_scores,
    cubic_schedule,
    fuse,
    keep_best,
    learned_parameters,
    prune_blocks,
    prune_chain,
    shared_prototypes,
)  # fmt: skip


@pytest.mark.parametrize("make", [lambda m: SPLoRA(m, 0.25), SPPaRA, lambda m: SPLoPA(m, block=4, count=3)])
@pytest.mark.parametrize("source", [nn.Linear(16, 8), nn.Conv1d(16, 8, 3), nn.Conv3d(16, 8, 3, padding=1, bias=False)])
def test_every_adapter_starts_near_its_source_and_fuses(make, source):
    torch.manual_seed(0)
    adapter = make(source)
    x = torch.randn(2, 16, *(5,) * (source.weight.ndim - 2))
    torch.testing.assert_close(adapter(x), source(x), atol=2e-2, rtol=1e-2)
    with torch.no_grad():
        for p in adapter.parameters():
            if p.requires_grad:
                p.add_(0.1)
    torch.testing.assert_close(adapter.fuse()(x), adapter(x), atol=1e-5, rtol=1e-5)
    assert not adapter.weight.requires_grad


def test_blocks_are_pruned_to_zero():
    adapter = SPLoPA(nn.Linear(16, 8), block=4, count=3)
    scores = block_scores(adapter.weight, 4)
    assert scores.shape == (2, 4)
    adapter.prune_blocks(scores > scores.median())
    fused = adapter.fuse().weight
    assert torch.equal(block_scores(fused.detach(), 4) == 0, ~(scores > scores.median()))


def test_blocks_of_several_adapters_are_pruned_together_and_shared_prototypes_count_once():
    common = shared_prototypes(3, 4)
    adapters = [SPLoPA(nn.Linear(8, 8, bias=False), block=4, prototypes=common) for _ in range(2)]
    with torch.no_grad():
        adapters[1].weight.mul_(100)
    prune_blocks(adapters, 0.5, 4)
    assert [int(adapter.mask_block.sum()) for adapter in adapters] == [0, 4]
    assert learned_parameters(nn.ModuleList(adapters)) == 4 * 3 + 2 * 3 * 4
    plain = FineTuning(nn.Linear(8, 8, bias=False))
    plain.prune_blocks(torch.tensor([[True, False], [False, False]]))
    assert plain.learned() == 16
    plain.prune(mask_out=torch.arange(8) < 2)
    assert plain.learned() == 8
    with pytest.raises(ValueError, match="divide"):
        plain.prune_blocks(torch.ones(3, 3, dtype=torch.bool))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "lrp"])
def test_a_chain_is_pruned_and_fused_to_a_plain_network(criterion):
    model = adapt(network(), lambda m: SPLoRA(m, 2))
    layers = [model[0], model[2], model[4]]
    x, y = torch.randn(20, 6), torch.randint(3, (20,))
    before = learned_parameters(model)
    for density in (0.75, 0.5):
        prune_chain(model, layers, density, criterion, x, y)
    small = fuse(model)
    assert small[0].weight.shape == (4, 6)
    assert small[2].weight.shape == (4, 4)
    assert learned_parameters(model) == 2 * (6 + 4 + 4 + 4 + 4 + 3) + 11 < before
    torch.testing.assert_close(small(x), model(x), atol=1e-5, rtol=1e-5)


def test_a_channel_that_does_nothing_matters_least():
    model = network()
    with torch.no_grad():
        model[0].weight[3] = 0
        model[0].bias[3] = 0
    x, y = torch.randn(20, 6), torch.randint(3, (20,))
    for criterion in ("magnitude", "taylor", "lrp"):
        assert not keep_best(channel_scores(model, model[0], criterion, x, y), 7 / 8)[3]


def test_the_schedule_goes_from_one_to_the_end():
    assert cubic_schedule(0, 5, 0.1) == 1
    assert cubic_schedule(5, 5, 0.1) == pytest.approx(0.1)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="odd"):
        SPLoRA(nn.Conv2d(4, 4, 2))
    with pytest.raises(ValueError, match="padding_mode"):
        SPLoRA(nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"))
    with pytest.raises(ValueError, match="groups"):
        SPLoRA(nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(ValueError, match="rank"):
        SPLoRA(nn.Linear(4, 4), 0)
    with pytest.raises(ValueError, match="divide"):
        SPLoPA(nn.Linear(30, 32))
    with pytest.raises(ValueError, match="at least one"):
        SPLoRA(nn.Linear(4, 4)).prune(torch.zeros(4, dtype=torch.bool))
    with pytest.raises(ValueError, match="length 4"):
        SPLoRA(nn.Linear(4, 4)).prune(torch.ones(5, dtype=torch.bool))
    with pytest.raises(ValueError, match="density"):
        keep_best(torch.ones(4), 0.0)
    with pytest.raises(ValueError, match="batch"):
        channel_scores(network(), network()[0], "taylor")
