import importlib.util
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_impl.testing import assert_forms_agree
from state_tracking_impl import delta_product, delta_rule_chunk, delta_rule_recurrent, linear_scan
from state_tracking_impl.scan import linear_scan_recurrent


def inputs(length, dtype, *, batch=2, heads=2, dk=4, dv=3, beta=None):
    g = torch.Generator().manual_seed(length)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=dtype)

    k = F.normalize(draw(batch, length, heads, dk), dim=-1)
    step = 2 * torch.rand(batch, length, heads, generator=g, dtype=dtype)
    return {
        "q": draw(batch, length, heads, dk),
        "k": k,
        "v": draw(batch, length, heads, dv),
        "beta": step if beta is None else torch.full_like(step, beta),
        "initial_state": draw(batch, heads, dk, dv),
    }


@pytest.mark.parametrize("beta", [None, 0.0, 1.0, 2.0])
def test_chunked_and_recurrent_forms_agree_with_gradients_for_any_beta(beta):
    assert_forms_agree(
        {
            "recurrent": lambda **x: delta_rule_recurrent(**x, validate=False),
            "chunk": lambda **x: delta_rule_chunk(**x, chunk=16, validate=False),
        },
        lambda length, dtype: inputs(length, dtype, beta=beta),
        lengths=(1, 2, 15, 16, 17, 50),
        rtol=1e-10,
        atol=1e-10,
    )


@settings(max_examples=15)
@given(length=st.integers(1, 40), chunk=st.integers(1, 50), cut=st.integers(0, 39))
def test_a_sequence_in_two_pieces_gives_what_it_gives_in_one(length, chunk, cut):
    x = inputs(length, torch.float64)
    whole, state = delta_rule_chunk(**x, chunk=chunk)
    cut = 1 + cut % length
    start = x.pop("initial_state")
    first, middle = delta_rule_chunk(**{n: t[:, :cut] for n, t in x.items()}, initial_state=start, chunk=chunk)
    if cut < length:
        second, middle = delta_rule_recurrent(**{n: t[:, cut:] for n, t in x.items()}, initial_state=middle)
        first = torch.cat([first, second], 1)
    torch.testing.assert_close(first, whole)
    torch.testing.assert_close(middle, state)


def test_products_equal_interleaved_steps_and_read_out_after_the_last():
    g = torch.Generator().manual_seed(0)
    q, v = torch.randn(1, 5, 2, 4, generator=g), torch.randn(1, 5, 3, 2, 4, generator=g)
    k = F.normalize(torch.randn(1, 5, 3, 2, 4, generator=g), dim=-1)
    beta = 2 * torch.rand(1, 5, 3, 2, generator=g)
    y, state = delta_product(q, k, v, beta)
    h = torch.zeros(2, 4, 4)
    for t in range(5):
        for i in range(3):
            key, step = k[0, t, i], beta[0, t, i, :, None, None]
            h = h - step * key[:, :, None] * torch.einsum("hkv,hk->hv", h, key)[:, None]
            h = h + step * key[:, :, None] * v[0, t, i][:, None]
        torch.testing.assert_close(y[0, t], 0.5 * torch.einsum("hkv,hk->hv", h, q[0, t]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state[0], h, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(delta_product(q, k, v, beta, chunk=None)[0], y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", [delta_rule_recurrent, delta_rule_chunk])
@pytest.mark.parametrize("beta", [-0.1, 2.1, float("nan")])
def test_beta_outside_its_range_is_refused(form, beta):
    with pytest.raises(ValueError, match=r"beta must be in \[0, 2\], got"):
        form(**inputs(3, torch.float32, beta=beta))


def test_keys_that_are_not_normalised_are_refused_or_normalised():
    x = inputs(9, torch.float64, beta=2.0)
    long = {**x, "k": 3 * x["k"]}
    with pytest.raises(ValueError, match="k must be normalised"):
        delta_rule_chunk(**long)
    torch.testing.assert_close(delta_rule_chunk(**long, normalize=True)[0], delta_rule_chunk(**x)[0])
    with pytest.raises(ValueError, match="k must be normalised"):
        delta_rule_chunk(**{**x, "k": x["k"] * float("nan")})


def test_an_empty_sequence_and_an_empty_chunk_are_refused():
    with pytest.raises(ValueError, match="at least one token"):
        delta_rule_chunk(**{n: t[:, :0] if n != "initial_state" else t for n, t in inputs(2, torch.float32).items()})
    with pytest.raises(ValueError, match="chunk must be an integer of at least 1, got 0"):
        delta_rule_chunk(**inputs(2, torch.float32), chunk=0)


def test_half_precision_is_solved_in_float32():
    x = inputs(64, torch.float32, beta=1.99)
    x["k"] = F.normalize(x["k"][:, :1] + 0.01 * x["k"], dim=-1)  # keys that resemble each other
    half = {n: t.bfloat16() for n, t in x.items()}
    y, _ = delta_rule_chunk(**half, normalize=True, validate=False)
    expected, _ = delta_rule_recurrent(**{n: t.double() for n, t in half.items()}, normalize=True, validate=False)
    assert y.dtype == torch.bfloat16
    assert (y.double() - expected).norm() / expected.norm() < 0.02


INTERPRETED = """
import torch, torch.nn.functional as F
from state_tracking_impl import delta_rule_recurrent
from state_tracking_impl.kernels_triton import delta_rule_triton
torch.manual_seed(0)
for length, dk, dv in ((37, 5, 7), (16, 16, 20)):
    q, v, s = torch.randn(1, length, 2, dk), torch.randn(1, length, 2, dv), torch.randn(1, 2, dk, dv)
    k, beta = F.normalize(torch.randn_like(q), dim=-1), 2 * torch.rand(1, length, 2)
    results = []
    for form, dtype in ((delta_rule_recurrent, torch.float64), (delta_rule_triton, torch.float32)):
        leaves = [x.to(dtype).detach().requires_grad_() for x in (q, k, v, beta, s)]
        y, final = form(*leaves, **({"chunk": 16} if dtype == torch.float32 else {}))
        (y.sin().sum() + final.cos().sum()).backward()
        results.append([y, final, *(x.grad for x in leaves)])
    for a, b in zip(*results):
        assert (a - b).abs().max() < 1e-3, (length, (a - b).abs().max())
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_the_interpreted_kernel_agrees_with_the_oracle():
    # the interpreter is chosen when triton is imported, hence another process
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.gpu
def test_the_kernel_agrees_with_the_oracle_on_a_gpu():
    from state_tracking_impl.kernels_triton import delta_rule_triton

    x = {n: t.cuda() for n, t in inputs(300, torch.float32, dk=64, dv=64).items()}
    y, state = delta_rule_triton(**x)
    expected, last = delta_rule_recurrent(**{n: t.double() for n, t in x.items()})
    torch.testing.assert_close(y.double(), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(state.double(), last, rtol=1e-3, atol=1e-3)


def test_mixed_precision_computes_the_chunks_in_single_precision():
    given = inputs(70, torch.float32)
    expected, final = delta_rule_chunk(**given)
    with torch.autocast("cpu", torch.bfloat16):
        actual, state = delta_rule_chunk(**given)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(state, final)


def test_a_state_of_another_batch_is_refused_and_not_read_for_all():
    given = inputs(5, torch.float64)
    for wrong in (given["initial_state"][:1], given["initial_state"].mT):
        for form in (delta_rule_recurrent, delta_rule_chunk):
            with pytest.raises((ValueError, TypeError), match=r"state must have shape|initial_state"):
                form(**{**given, "initial_state": wrong})
    a = torch.rand(2, 4, 3)
    for scan in (linear_scan, linear_scan_recurrent):
        with pytest.raises((ValueError, TypeError), match=r"state must have shape|initial"):
            scan(a, a, torch.zeros(1, 3))
