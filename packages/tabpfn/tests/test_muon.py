"""Muon: the orthogonal step, its groups, and AdamW for what is no matrix of a layer."""

import copy

import pytest
import torch
from torch import nn

from tabpfn_impl.muon import Muon, orthogonalise, parameter_groups
from tabpfn_impl.training import build_model


def _problem(seed=0):
    torch.manual_seed(seed)
    layer = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3))
    return layer, torch.randn(32, 6), torch.randn(32, 3)


@pytest.mark.parametrize("shape", [(4, 12, 12), (3, 8, 20), (3, 20, 8)])
def test_an_orthogonal_step_keeps_the_directions_and_evens_out_their_sizes(shape):
    torch.manual_seed(0)
    u, sizes, vh = torch.linalg.svd(torch.randn(*shape), full_matrices=False)
    matrices = u * torch.linspace(1.0, 0.1, sizes.shape[1]) @ vh
    found = orthogonalise(matrices)
    assert found.shape == matrices.shape
    sizes = torch.linalg.svdvals(found)
    assert float(sizes.min()) > 0.6
    assert float(sizes.max()) < 1.3
    assert float(torch.nn.functional.cosine_similarity(found.flatten(1), (u @ vh).flatten(1)).min()) > 0.95
    # a gradient's size does not matter, not even that of none
    torch.testing.assert_close(orthogonalise(1024.0 * matrices), found)
    assert orthogonalise(torch.zeros(1, 3, 4)).abs().max() == 0


def test_a_matrix_moves_as_with_torchs_muon():
    networks = [_problem()[0] for _ in range(2)]
    _, x, y = _problem()
    matrices = [[p for p in net.parameters() if p.ndim == 2] for net in networks]
    ours = Muon([{"params": matrices[0], "muon": True}], lr=0.02, momentum=0.9, weight_decay=0.1)
    theirs = torch.optim.Muon(matrices[1], lr=0.02, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(6):
        for net, optimizer in zip(networks, (ours, theirs), strict=True):
            net.zero_grad()
            (net(x) - y).square().mean().backward()
            optimizer.step()
    for a, b in zip(*matrices, strict=True):
        torch.testing.assert_close(a, b, atol=2e-3, rtol=0)  # both round to bfloat16 inside


def test_other_parameters_move_as_with_adamw():
    networks = [_problem()[0] for _ in range(2)]
    _, x, y = _problem()
    settings = {"lr": 0.02, "betas": (0.8, 0.9), "weight_decay": 0.1}
    ours = Muon([{"params": list(networks[0].parameters())}], **settings)
    theirs = torch.optim.AdamW(networks[1].parameters(), **settings)
    for _ in range(6):
        for net, optimizer in zip(networks, (ours, theirs), strict=True):
            net.zero_grad()
            (net(x) - y).square().mean().backward()
            optimizer.step()
    for a, b in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_its_state_can_be_saved_and_read():
    _, x, y = _problem()
    networks = [_problem()[0] for _ in range(2)]
    optimizers = []
    for net in networks:
        matrices = [p for p in net.parameters() if p.ndim == 2]
        rest = [p for p in net.parameters() if p.ndim != 2]
        optimizers.append(Muon([{"params": matrices, "muon": True}, {"params": rest}], lr=0.05))

    def step(net, optimizer):
        net.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()

    for _ in range(3):
        step(networks[0], optimizers[0])
    networks[1].load_state_dict(networks[0].state_dict())
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    for net, optimizer in zip(networks, optimizers, strict=True):
        step(net, optimizer)
    for a, b in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("architecture", "config"),
    [("cell", {"d_model": 16, "n_layers": 2, "n_heads": 2, "row_layers": 1, "d_row": 16}), ("row", {"d_model": 16})],
)
def test_every_parameter_has_one_group_and_layers_matrices_are_muons(architecture, config):
    model = build_model(architecture, config)
    groups = parameter_groups(model)
    named = {id(p): name for name, p in model.named_parameters()}
    seen = [id(p) for group in groups for p in group["params"]]
    assert sorted(seen) == sorted(named)
    for group in groups:
        for p in group["params"]:
            name = named[id(p)]
            assert group["muon"] == ("layers." in name and p.ndim == 2), name
    assert any(group["muon"] for group in groups)


def test_what_is_no_matrix_is_refused():
    with pytest.raises(ValueError, match="matrices"):
        Muon([{"params": [nn.Parameter(torch.zeros(3))], "muon": True}])
    with pytest.raises(ValueError, match="lr"):
        Muon([{"params": [nn.Parameter(torch.zeros(3))]}], lr=-1.0)
    with pytest.raises(ValueError, match="momentum"):
        Muon([{"params": [nn.Parameter(torch.zeros(3))]}], momentum=1.0)
