import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pgn_impl.hie import HIE, gather_history, toeplitz
from shared_impl.testing import assert_forms_agree

FORMS = ("loop", "conv", "dense", "fft", "auto")


@pytest.mark.parametrize("window", [1, 7, 64, 200])
@pytest.mark.parametrize("groups", [1, 3])
def test_all_forms_and_their_gradients_agree_for_any_length(window, groups):
    def make(length, dtype):
        generator = torch.Generator().manual_seed(length)
        draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=dtype)  # noqa: E731
        return {"x": draw(groups, 2, length, 3), "weight": draw(groups, 4, 3, window), "bias": draw(groups, 4)}

    forms = {form: lambda x, weight, bias, form=form: gather_history(x, weight, bias, form) for form in FORMS}
    assert_forms_agree(forms, make, lengths=(1, 2, 7, 8, 63, 65), rtol=1e-10, atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(length=st.integers(1, 20), window=st.integers(1, 30), d_in=st.integers(1, 3), d_model=st.integers(1, 3))
def test_the_toeplitz_matrix_holds_each_weight_at_its_lag(length, window, d_in, d_model):
    weight = torch.randn(1, d_model, d_in, window, dtype=torch.float64)
    matrix = toeplitz(weight, length).view(length, d_in, length, d_model)
    for t in range(length):
        for s in range(length):
            lag = t - s
            expected = weight[0, :, :, window - lag].T if 1 <= lag <= window else torch.zeros(d_in, d_model)
            assert torch.equal(matrix[s, :, t], expected.double())


def test_a_window_reaches_exactly_as_far_as_it_says():
    torch.manual_seed(0)
    layer = HIE(1, 1, 3).double()
    x = torch.randn(1, 1, 10, 1, dtype=torch.float64, requires_grad=True)
    (seen,) = torch.autograd.grad(layer(x)[0, 0, 8].sum(), x)
    assert seen.flatten().nonzero().flatten().tolist() == [5, 6, 7]


def test_groups_do_not_mix():
    torch.manual_seed(0)
    layer = HIE(2, 3, 5, groups=2)
    x = torch.randn(2, 4, 8, 2)
    changed = x.clone()
    changed[1] += 1
    before, after = layer(x), layer(changed)
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        HIE(1, 1, 0)
