"""The claims of the paper, a test each."""

import math

import pytest
import torch
import torch.nn.functional as F

from aaren_impl import (
    Aaren,
    CausalTransformer,
    attention_cell,
    attention_scan,
    combine,
    identity_state,
    masked_softmax_attention,
    self_attention_as_rnns,
)
from aaren_impl.cell import AttentionState
from aaren_impl.scan import METHODS
from aaren_impl.twins import state_bytes


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 130, 200])
def test_four_scans_and_the_masked_softmax_agree(n, dtype, tolerance):
    s, v = 3 * draw(2, 3, n, dtype=dtype), draw(2, 3, n, 5, seed=1, dtype=dtype)
    oracle = masked_softmax_attention(s.double(), v.double())
    for method in METHODS:
        found = attention_scan(s, v, method=method)
        torch.testing.assert_close(found.double(), oracle, rtol=tolerance, atol=tolerance)


def test_combine_is_associative_and_commutative_with_a_neutral_element():
    a, b, c = (AttentionState(50 * draw(4, seed=i), draw(4, seed=i).exp(), draw(4, 3, seed=9 + i)) for i in range(3))
    for x, y in zip(combine(combine(a, b), c), combine(a, combine(b, c)), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)
    for x, y in zip(combine(a, b), combine(b, a), strict=True):
        assert torch.equal(x, y)
    empty = identity_state(4, d_head=3, dtype=torch.float64)
    for pair in (combine(a, empty), combine(empty, a), combine(attention_cell(empty, a[0], a[2]), empty)):
        assert torch.equal(pair[0], a[0])
    assert torch.equal(combine(a, empty)[2], a[2])
    assert not any(t.isnan().any() for t in combine(empty, empty))


def test_the_cell_with_a_query_a_token_is_causal_self_attention():
    q, k, v = (draw(2, 17, 4, seed=i) for i in range(3))
    oracle = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(self_attention_as_rnns(q, k, v), oracle, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_the_closed_form_gradient_is_that_of_the_quadratic_form(method, scale):
    s, v, g = (scale * draw(2, 131)).requires_grad_(), draw(2, 131, 3, seed=1).requires_grad_(), draw(2, 131, 3, seed=2)
    mask = draw(2, 131, seed=3) > -0.5
    mask[:, :70] = False
    oracle = torch.autograd.grad(masked_softmax_attention(s, v, mask), (s, v), g)
    for x, y in zip(torch.autograd.grad(attention_scan(s, v, mask, method), (s, v), g), oracle, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cuts", [[1] * 12, [5, 7], [0, 12], [1, 0, 3, 8]])
@pytest.mark.parametrize("options", [{}, {"query": "shared", "norm_first": True, "positions": "sinusoidal"}])
def test_any_split_into_chunks_and_steps_gives_the_whole(cuts, options):
    torch.manual_seed(0)
    model = Aaren(n_layers=2, d_model=8, n_heads=2, d_ff=16, **options).double().eval()
    x = draw(3, 12, 8)
    oracle, final = model(x)
    state, parts = model.initial_state(3), []
    for part in x.split(cuts, 1):
        y, state = model.forward_chunk(part, state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), oracle, rtol=1e-10, atol=1e-10)
    state, steps = None, []
    for t in range(12):
        y, state = model.step(x[:, t], state)
        steps.append(y)
    torch.testing.assert_close(torch.stack(steps, 1), oracle, rtol=1e-10, atol=1e-10)
    assert state.position == final.position == 12


@pytest.mark.parametrize("method", METHODS)
def test_extreme_scores_in_any_order_stay_finite(method):
    s = 1e4 * (torch.randint(0, 3, (8, 150), generator=torch.Generator().manual_seed(0)) - 1).float()
    s.requires_grad_()
    v = draw(8, 150, 2, dtype=torch.float32).requires_grad_()
    o = attention_scan(s, v, method=method)
    grads = torch.autograd.grad(o.square().sum(), (s, v))
    assert all(t.isfinite().all() for t in (o, *grads))
    torch.testing.assert_close(o.double(), masked_softmax_attention(s.double(), v.double()), rtol=1e-5, atol=1e-5)


def test_parameters_are_the_papers_3_152_384_and_512_more():
    count = [
        sum(p.numel() for p in model(n_layers=1, d_model=512, n_heads=8, d_ff=2048).parameters())
        for model in (CausalTransformer, Aaren)
    ]
    assert count == [3_152_384, 3_152_896]


def test_the_order_of_the_past_does_not_matter_to_one_layer():
    torch.manual_seed(0)
    model = Aaren(n_layers=1, d_model=8, n_heads=2, d_ff=16).double().eval()
    x = draw(1, 20, 8)
    shuffled = torch.cat([x[:, torch.randperm(19, generator=torch.Generator().manual_seed(1))], x[:, 19:]], 1)
    torch.testing.assert_close(model(x)[0][:, -1], model(shuffled)[0][:, -1], rtol=1e-12, atol=1e-12)


def test_the_state_has_l_times_2h_plus_d_numbers_however_long_the_stream():
    model = Aaren(n_layers=3, d_model=8, n_heads=2, d_ff=8).eval()
    state, sizes = None, set()
    with torch.inference_mode():
        for part in draw(1, 100_000, 8, dtype=torch.float32).split(10_000, 1):
            _, state = model.forward_chunk(part, state)
            sizes.add(state_bytes(state))
    assert state.position == 100_000
    assert sizes == {4 * 3 * (2 * 2 + 8)}


def test_the_scan_saves_a_linear_number_of_tensors_for_backward():
    def saved(n):
        sizes = []
        s, v = draw(1, n).requires_grad_(), draw(1, n, 4).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            attention_scan(s, v)
        return sum(sizes)

    assert saved(2048) < 2.1 * saved(1024)
    assert math.isfinite(saved(1))
