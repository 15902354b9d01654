import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aaren_impl import (
    attention_cell,
    attention_rnn,
    attention_scan,
    identity_state,
    latent_attention,
    masked_softmax_attention,
)
from aaren_impl.scan import METHODS


@settings(deadline=None, max_examples=30, derandomize=True)
@given(n=st.integers(1, 140), cut=st.integers(0, 140), seed=st.integers(0, 999), method=st.sampled_from(METHODS))
def test_a_scan_cut_in_two_has_the_values_and_gradients_of_the_whole(n, cut, seed, method):
    g = torch.Generator().manual_seed(seed)
    s = (10 * torch.randn(n, generator=g, dtype=torch.float64)).requires_grad_()
    v = torch.randn(n, 2, generator=g, dtype=torch.float64).requires_grad_()
    mask, weight = torch.rand(n, generator=g) > 0.4, torch.randn(n, 2, generator=g, dtype=torch.float64)
    cut = min(cut, n)
    first, state = attention_scan(s[:cut], v[:cut], mask[:cut], method, return_final=True)
    o = torch.cat([first, attention_scan(s[cut:], v[cut:], mask[cut:], method, state)])
    oracle = masked_softmax_attention(s, v, mask)
    torch.testing.assert_close(o, oracle, rtol=1e-10, atol=1e-10)
    for x, y in zip(torch.autograd.grad(o, (s, v), weight), torch.autograd.grad(oracle, (s, v), weight), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_a_hidden_prefix_gives_zero_and_hidden_values_may_be_nan(method):
    s, v = torch.full((1, 70), math.nan), torch.full((1, 70, 2), math.nan)
    s[:, -1], v[:, -1] = 1.0, 2.0
    mask = torch.arange(70)[None] == 69
    o = attention_scan(s, v, mask, method)
    assert torch.equal(o[:, :-1], torch.zeros(1, 69, 2))
    assert torch.equal(o[:, -1], torch.full((1, 2), 2.0))
    assert torch.equal(attention_scan(s, v, mask & False, method), torch.zeros(1, 70, 2))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_nan_or_plus_infinity_is_refused(bad):
    with pytest.raises(ValueError, match="s must be finite"):
        attention_scan(torch.tensor([0.0, bad]), torch.zeros(2, 1))


def test_a_value_that_is_not_finite_is_refused_and_the_cell_refuses_such_scores():
    with pytest.raises(ValueError, match="v must be finite"):
        attention_scan(torch.zeros(2), torch.tensor([[0.0], [math.nan]]))
    state = identity_state(2, d_head=1)
    with pytest.raises(ValueError, match="s must be finite"):
        attention_cell(state, torch.tensor([0.0, math.inf]), torch.zeros(2, 1))
    with pytest.raises(ValueError, match="state must be of shape"):
        attention_cell(state, torch.zeros(3), torch.zeros(3, 1))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["rising", "falling", "spikes", "far apart"])
def test_hostile_scores_have_the_values_and_gradients_of_the_softmax(method, kind):
    g = torch.Generator().manual_seed(0)
    ramp = torch.linspace(-300, 300, 150, dtype=torch.float64)
    spikes = torch.where(torch.rand(150, generator=g) > 0.9, 1e4, 0.0).double()
    far = 1e300 * (torch.randint(0, 2, (150,), generator=g).double() - 0.5)
    s = {"rising": ramp, "falling": ramp.flip(0), "spikes": spikes, "far apart": far}[kind].requires_grad_()
    v = torch.randn(150, 3, generator=g, dtype=torch.float64).requires_grad_()
    weight = torch.randn(150, 3, generator=g, dtype=torch.float64)
    o, oracle = attention_scan(s, v, method=method), masked_softmax_attention(s, v)
    torch.testing.assert_close(o, oracle, rtol=1e-12, atol=1e-12)
    for x, y in zip(torch.autograd.grad(o, (s, v), weight), torch.autograd.grad(oracle, (s, v), weight), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_a_gpu_gives_what_the_cpu_gives(method):
    s, v = torch.randn(2, 3, 300), torch.randn(2, 3, 300, 8)
    torch.testing.assert_close(attention_scan(s.cuda(), v.cuda(), method=method).cpu(), attention_scan(s, v), rtol=1e-4,
                               atol=1e-5)  # fmt: skip


def test_wrong_shapes_dtypes_and_methods_are_named():
    s, v = torch.zeros(2, 3), torch.zeros(2, 3, 4)
    with pytest.raises(ValueError, match="method must be one of"):
        attention_scan.__wrapped__(s, v, method="fast")
    with pytest.raises(ValueError, match="one dtype"):
        attention_scan(s.double(), v)
    with pytest.raises(ValueError, match="initial must be a state of batch"):
        attention_scan(s, v, initial=identity_state(3, d_head=4))
    with pytest.raises(ValueError, match="initial must be of dtype"):
        attention_scan(s, v, initial=identity_state(2, d_head=4, dtype=torch.float64))


def test_no_token_gives_no_output_and_the_state_that_came():
    state = identity_state(2, d_head=4)
    o, final = attention_scan(torch.zeros(2, 0), torch.zeros(2, 0, 4), initial=state, return_final=True)
    assert o.shape == (2, 0, 4)
    assert final is state


def test_half_precision_is_computed_in_single():
    s, v = torch.randn(1, 100), torch.randn(1, 100, 3)
    o = attention_scan(s.bfloat16(), v.bfloat16())
    assert o.dtype == torch.bfloat16
    oracle = masked_softmax_attention(s.bfloat16().double(), v.bfloat16().double())
    torch.testing.assert_close(o.double(), oracle, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("block_size", [1, 3, 64])
def test_attention_of_one_query_is_the_same_in_blocks_of_any_size(block_size):
    q, k, v = torch.randn(2, 5, 4).double(), torch.randn(2, 11, 4).double(), torch.randn(2, 11, 3).double()
    oracle = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(latent_attention(q, k, v, block_size=block_size), oracle)
    torch.testing.assert_close(attention_rnn(q[:, 0], k, v, block_size=block_size), oracle[:, 0])
