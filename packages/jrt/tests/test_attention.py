import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jrt_impl import TaylorExp, linear_attention, pla_step, prefix_linear_attention
from jrt_impl.attention import prefix_mask


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def inputs(n, prefix, dtype=torch.float64):
    q, k, ke = (draw(1, 2, m, 3, seed=s, dtype=dtype) for s, m in enumerate((n, n, prefix)))
    return q, k, draw(1, 2, n, 4, seed=3, dtype=dtype), ke, draw(1, 2, prefix, 4, seed=4, dtype=dtype)


@given(length=st.integers(1, 20), chunk=st.integers(1, 25), data=st.data())
@settings(max_examples=15, deadline=None)
def test_forms_agree_in_values_and_gradients_for_any_length_prefix_and_padding(length, chunk, data):
    reach = data.draw(st.integers(1, length))
    prefix = data.draw(st.integers(0, length + 3))
    mask = torch.tensor(data.draw(st.lists(st.booleans(), min_size=length, max_size=length)))[None]
    mask[0, -1] = True
    results = []
    for form in ("quadratic", "chunked", "recurrent"):
        given_inputs = [t.requires_grad_() for t in inputs(length, reach)]
        y, _ = prefix_linear_attention(*given_inputs, prefix, mask, form=form, chunk_size=chunk)
        y = y[:, :, mask[0]]
        # a row of padding before the first token has nothing to look at
        results.append((y, torch.autograd.grad(y.square().sum(), given_inputs, materialize_grads=True)))
    for y, gradients in results[1:]:
        torch.testing.assert_close(y, results[0][0], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(gradients, results[0][1], rtol=1e-8, atol=1e-8)


def test_long_inputs_keep_no_features_for_the_backward_pass():
    length, width = 1100, 16
    q, k, ke = (draw(1, 1, length, width, seed=s, dtype=torch.float32).requires_grad_() for s in range(3))
    v, ve = (draw(1, 1, length, 8, seed=s, dtype=torch.float32).requires_grad_() for s in (3, 4))
    kept = 0

    def count(tensor):
        nonlocal kept
        kept += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
        y, _ = prefix_linear_attention(q, k, v, ke, ve)
    # the features alone of q, k and the prefix would be 3 x 1100 x 273
    assert kept < length * 273
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.sum(), (q, k, v, ke, ve)))


def test_pieces_and_steps_go_on_from_the_state():
    q, k, v, ke, ve = inputs(20, 8)
    whole, last = prefix_linear_attention(q, k, v, ke, ve)
    y, state = prefix_linear_attention(*(t[:, :, :11] for t in (q, k, v)), ke, ve)
    torch.testing.assert_close(y, whole[:, :, :11])
    y, state = linear_attention(*(t[:, :, 11:18] for t in (q, k, v)), state=state)
    torch.testing.assert_close(y, whole[:, :, 11:18])
    for i in (18, 19):
        y, state = pla_step(q[:, :, i], k[:, :, i], v[:, :, i], state)
        torch.testing.assert_close(y, whole[:, :, i])
    torch.testing.assert_close(state, last)


def test_half_precision_sums_in_float32():
    exact = inputs(1000, 500)
    y, state = prefix_linear_attention(*(t.bfloat16() for t in exact))
    assert y.dtype == torch.bfloat16
    assert state.k_sum.dtype == torch.float32
    wide = prefix_linear_attention(*(t.bfloat16().double() for t in exact))[0]
    # one rounding of the output, however long the sums
    assert (y.double() - wide).abs().max() < 2**-8 * wide.abs().max() + 1e-3


def test_the_prefix_counts_tokens_and_not_places():
    mask = torch.tensor([[False, False, True, True, False, True]])
    assert prefix_mask(mask, 2).tolist() == [[False, False, True, True, False, False]]
    assert not prefix_mask(mask, 0).any()


@pytest.mark.parametrize("symmetric", [False, True])
def test_features_refuse_another_width(symmetric):
    with pytest.raises(ValueError, match="last dimension 4"):
        TaylorExp(4, symmetric=symmetric)(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="feature_dim must be at least 1"):
        TaylorExp(0)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"form": "fast"}, "form must be"),
        ({"compat": "old"}, "compat must be"),
        ({"chunk_size": 0}, "chunk_size must be"),
        ({"prefix_len": -1}, "prefix_len must not be negative"),
        ({"mask": torch.ones(1, 3, dtype=torch.bool)}, r"mask must be \(1, 5\)"),
    ],
)
def test_options_out_of_range_are_named(change, match):
    # without the annotations' own checks, which refuse some of this first
    function = getattr(prefix_linear_attention, "__wrapped__", prefix_linear_attention)
    with pytest.raises(Exception, match=match):
        function(*inputs(5, 3), **change)


def test_shapes_that_do_not_fit_are_named():
    q, k, v, _, _ = inputs(5, 3)
    with pytest.raises(ValueError, match="at most 5"):
        prefix_linear_attention(q, k, v, draw(1, 2, 6, 3), draw(1, 2, 6, 4))
    empty = q[:, :, :0]
    with pytest.raises(ValueError, match="at least one position"):
        linear_attention(empty, empty, v[:, :, :0])
    state = linear_attention(q, k, v)[1]
    with pytest.raises(ValueError, match="state must have kv"):
        linear_attention(q, k, v, state=state, symmetric=True)
