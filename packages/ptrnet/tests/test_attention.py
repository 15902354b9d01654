import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptrnet_impl.attention import (
    PointerAttention,
    masked_log_softmax,
    pointer_scores,
    pointer_scores_direct,
    pointer_scores_loop,
)
from shared_impl.testing import assert_forms_agree


def inputs(length, dtype, scale=1.0, batch=2, width=5, n=None):
    generator = torch.Generator().manual_seed(length)
    draw = lambda *shape: scale * torch.randn(*shape, generator=generator, dtype=dtype)  # noqa: E731
    return {"keys": draw(batch, n or length, width), "queries": draw(batch, length, width), "v": draw(width)}


def test_all_forms_give_the_loop_s_values_and_gradients():
    forms = {
        "loop": pointer_scores_loop,
        "direct": pointer_scores_direct,
        "pieces": pointer_scores,
        "single rows": lambda keys, queries, v: pointer_scores(keys, queries, v, elements=1),
        "two rows": lambda keys, queries, v: pointer_scores(keys, queries, v, elements=2 * keys[0].numel()),
    }
    assert_forms_agree(forms, inputs, lengths=(1, 2, 5))


@settings(deadline=None, max_examples=30)
@given(batch=st.integers(1, 7), n=st.integers(1, 9), m=st.integers(1, 9), elements=st.integers(1, 400))
def test_pieces_of_any_size_give_the_same(batch, n, m, elements):
    given = inputs(m, torch.float64, batch=batch, n=n)
    torch.testing.assert_close(pointer_scores(**given, elements=elements), pointer_scores_direct(**given))


def test_float32_is_as_near_to_float64_as_the_direct_form():
    given = inputs(30, torch.float32, batch=4, width=256)
    exact = pointer_scores_direct(**{name: x.double() for name, x in given.items()})
    direct = (pointer_scores_direct(**given) - exact).abs().max()
    assert (pointer_scores(**given) - exact).abs().max() < 3 * direct


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_beyond_the_range_of_exponentials_are_right(dtype):
    assert_forms_agree(
        {"direct": pointer_scores_direct, "pieces": pointer_scores},
        lambda length, dtype: inputs(length, dtype, scale=300.0),
        dtype=dtype,
        lengths=(6,),
        rtol=1e-4 if dtype == torch.float32 else 1e-9,
        atol=1e-2 if dtype == torch.float32 else 1e-9,
    )


def test_half_precision_comes_back_as_it_went_in():
    given = inputs(6, torch.float32)
    found = pointer_scores(**{name: x.bfloat16() for name, x in given.items()})
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), pointer_scores(**given), rtol=0.1, atol=0.1)


def test_nothing_as_large_as_all_pairs_is_kept_for_the_backward_pass():
    given = {name: x.requires_grad_() for name, x in inputs(40, torch.float32, width=16).items()}

    def kept(form):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            form(**given)
        return max(sizes)

    assert kept(pointer_scores) == 2 * 40 * 16
    assert kept(pointer_scores_direct) >= 2 * 40 * 40 * 16


def test_a_mask_gives_zero_probability_and_no_gradient():
    logits = torch.randn(2, 3, 4, requires_grad=True)
    allowed = torch.tensor([[[True, True, False, True]], [[False, True, True, False]]])
    probabilities = masked_log_softmax(logits, allowed).exp()
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(2, 3))
    assert (probabilities[~allowed.expand(2, 3, 4)] == 0).all()
    (gradient,) = torch.autograd.grad((probabilities**2).sum(), logits)
    assert gradient.isfinite().all()
    assert (gradient[~allowed.expand(2, 3, 4)] == 0).all()


def test_clipping_bounds_the_scores():
    attention = PointerAttention(8, clip=2.0)
    with torch.no_grad():
        attention.v.fill_(50.0)
    scores = attention(attention.key(torch.randn(1, 5, 8)), torch.randn(1, 3, 8))
    assert scores.abs().max() <= 2.0


def test_no_elements_and_no_clip_are_refused():
    with pytest.raises(ValueError, match="elements must be at least 1, got 0"):
        pointer_scores(**inputs(2, torch.float32), elements=0)
    with pytest.raises(ValueError, match=r"clip must be positive or None, got -1\.0"):
        PointerAttention(4, clip=-1.0)
