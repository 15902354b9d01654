"""The claims of the paper, a test each."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from shared_impl.train import count_parameters
from state_tracking_impl import (
    DeltaNet,
    FullMatrixRNN,
    GLALayer,
    Mamba,
    SequenceModel,
    delta_rule_chunk,
    delta_rule_recurrent,
    modm_two_layer,
    parity_lrnn,
    permutation_householder,
    set_eigenvalue_range,
)
from state_tracking_impl.constructions import cycles

RANGES = [(0.0, 1.0), (-1.0, 1.0), (-0.5, 0.25)]


@pytest.mark.parametrize("eig_range", RANGES)
@pytest.mark.parametrize("make", [DeltaNet, Mamba, GLALayer, FullMatrixRNN])
def test_spectrum_stays_within_the_declared_range(make, eig_range):
    torch.manual_seed(0)
    layer = make(16, eig_range=eig_range).double()
    lo, hi = eig_range
    for scale in (0.1, 1.0, 100.0):
        values = layer.eigenvalues(scale * torch.randn(2, 20, 16, dtype=torch.float64))
        # a full matrix has its eigenvalues in the disc over the range
        assert ((values - (lo + hi) / 2).abs() <= (hi - lo) / 2 + 1e-9).all()
    if make is not FullMatrixRNN:
        assert not values.is_complex()


def test_products_of_reflections_have_complex_eigenvalues_within_the_unit_disc():
    torch.manual_seed(0)
    values = DeltaNet(16, 2, n_householder=3).double().eigenvalues(30 * torch.randn(1, 20, 16, dtype=torch.float64))
    assert (values.abs() <= 1 + 1e-9).all()
    assert values.imag.abs().max() > 0.1


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0, None])
def test_chunk_form_equals_recurrence_to_1e10_in_float64(beta):
    torch.manual_seed(0)
    q, v = torch.randn(2, 1, 300, 2, 16, dtype=torch.float64).unbind(0)
    k = F.normalize(torch.randn_like(q), dim=-1)
    step = 2 * torch.rand(1, 300, 2, dtype=torch.float64) if beta is None else torch.full((1, 300, 2), beta).double()
    y, state = delta_rule_chunk(q, k, v, step)
    expected, last = delta_rule_recurrent(q, k, v, step)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, last, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_chunk_form_equals_recurrence_to_1e3_in_float32_at_4096_tokens():
    torch.manual_seed(0)
    q, v = torch.randn(2, 1, 4096, 4, 128).unbind(0)
    k, beta = F.normalize(torch.randn_like(q), dim=-1), 2 * torch.rand(1, 4096, 4)
    y, _ = delta_rule_chunk(q, k, v, beta)
    torch.testing.assert_close(y, delta_rule_recurrent(q, k, v, beta)[0], rtol=1e-3, atol=1e-3)


def test_parity_by_one_layer_is_exact_to_length_100000():
    bits = torch.randint(0, 2, (2, 100_000), generator=torch.Generator().manual_seed(0))
    bits[1] = 1
    assert (parity_lrnn()(bits)[0] == bits.cumsum(1) % 2).all()


@pytest.mark.parametrize("eigenvalue", [0.0, 0.3, 0.9, 0.999])
def test_positive_eigenvalues_cannot_tell_one_more_one_from_none(eigenvalue):
    ones = torch.ones(1, 1_000_000 if eigenvalue > 0.99 else 20_000, dtype=torch.long)
    h = parity_lrnn(eigenvalue).hidden(ones)[0]
    # once it underflows, 1^t and 1^(t+1) have the same state; and any threshold is crossed once at most
    assert h[-1] == h[-2] == 0
    for threshold in (0.9, 0.5, 1e-9):
        assert ((h[1:] < threshold) != (h[:-1] < threshold)).sum() <= 1


def test_permutations_of_five_take_as_many_reflections_as_symbols_minus_cycles_and_not_fewer():
    eye = torch.eye(5, dtype=torch.float64)
    for perm in itertools.permutations(range(5)):
        product = permutation_householder(perm)
        wanted = eye[list(perm)].T
        needed = 5 - len(cycles(perm))
        assert len(product.beta) == needed
        assert (product.matrix() - wanted).abs().max() < 1e-12
        # k factors differ from the identity by a matrix of rank at most k
        assert torch.linalg.matrix_rank(wanted - eye) == needed


@pytest.mark.parametrize("m", [3, 5, 7])
def test_addition_modulo_m_by_two_layers_is_exact_to_length_100000(m):
    g = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, m, (1, 100_000), generator=g)
    assert (modm_two_layer(m)(tokens)[0] == tokens.cumsum(1) % m).all()
    bits = torch.randint(0, 2, (1, 100_000), generator=g)
    assert (modm_two_layer(m)(bits)[0] == bits.cumsum(1) % m).all()


def test_norms_are_at_most_one_and_the_state_stays_bounded_over_100000_steps():
    torch.manual_seed(0)
    for layer in (DeltaNet(16, 2), FullMatrixRNN(16, 2)):
        values = layer.double().eigenvalues(torch.randn(1, 50, 16, dtype=torch.float64))
        assert (values.abs() <= 1 + 1e-9).all()
    k = F.normalize(torch.randn(1, 100_000, 1, 4), dim=-1)
    beta, start = 2 * torch.rand(1, 100_000, 1), torch.randn(1, 1, 4, 4)
    # nothing is written: what is there may only shrink
    _, state = delta_rule_chunk(k, k, torch.zeros_like(k), beta, start, chunk=256)
    assert state.norm() <= start.norm()
    reflected, _ = delta_rule_chunk(k, k, torch.zeros_like(k), torch.full_like(beta, 2.0), start, chunk=256)
    assert reflected.norm(dim=-1).max() <= start.norm() * 1.01


def test_the_switch_changes_outputs_and_adds_no_parameter():
    for mixer in ("deltanet", "mamba", "gla", "full"):
        torch.manual_seed(0)
        model = SequenceModel(vocab_size=3, d_model=16, n_heads=2, mixer=mixer, eig_range=(0, 1))
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        ids = torch.randint(0, 3, (1, 20))
        y, count = model(ids).logits, count_parameters(model)
        set_eigenvalue_range(model, -1, 1)
        assert count_parameters(model) == count
        assert model.state_dict().keys() == before.keys()
        assert all((tensor == before[name]).all() for name, tensor in model.state_dict().items())
        assert (model(ids).logits - y).abs().max() > 1e-5
        set_eigenvalue_range(model, 0, 1)
        torch.testing.assert_close(model(ids).logits, y)
