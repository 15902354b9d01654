"""Both architectures: what does and what does not change their answers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared_impl.testing import assert_permutation_equivariant
from tabpfn_impl.cell import CellTransformer
from tabpfn_impl.transformer import PFNTransformer, RowLayer, dense_mask, efficient_mask


def perturb(model, seed=0):
    """Weights that are nowhere zero, so that every path counts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
    return model.double().eval()


def row_model():
    return perturb(PFNTransformer(max_features=12, max_classes=4, d_model=16, n_layers=3, n_heads=2))


def cell_model(**config):
    return perturb(CellTransformer(max_classes=4, d_model=12, n_layers=3, n_heads=2, **config))


MODELS = {
    "row": row_model,
    "cell": cell_model,
    "cell, groups": lambda: cell_model(features_per_token=2, summary_tokens=2),
    "cell, row stage": lambda: cell_model(summary_tokens=2, row_layers=2, d_row=16),
}


@pytest.fixture(params=MODELS, ids=lambda name: name)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]()


def table(rows=14, features=5, n_train=8, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, rows, features, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 4, (batch, n_train), generator=generator)
    return x, y


def test_a_query_is_answered_on_its_own(model):
    x, y = table(rows=20)
    together = model(x, y)
    for i in (0, 5, 11):
        alone = model(torch.cat([x[:, :8], x[:, 8 + i : 9 + i]], 1), y)
        torch.testing.assert_close(alone[:, 0], together[:, i])


def test_the_order_of_the_context_does_not_matter(model):
    x, y = table()
    order = torch.randperm(8)
    shuffled = torch.cat([x[:, :8][:, order], x[:, 8:]], 1)
    torch.testing.assert_close(model(shuffled, y[:, order]), model(x, y))


def test_queries_may_come_in_any_order(model):
    x, y = table()
    assert_permutation_equivariant(lambda q: model(torch.cat([x[:, :8], q], 1), y), x[:, 8:], dim=1)


def test_labels_and_context_do_matter(model):
    x, y = table()
    assert (model(x, (y + 1) % 4) - model(x, y)).abs().max() > 1e-3
    other = x.clone()
    other[:, 0] += 1.0
    assert (model(other, y) - model(x, y)).abs().max() > 1e-6


def test_a_context_that_was_read_once_gives_the_same(model):
    x, y = table(rows=16)
    cache = model.context(x[:, :8], y)
    torch.testing.assert_close(model.query(cache, x[:, 8:]), model(x, y))
    torch.testing.assert_close(model.query(cache, x[:, 10:12]), model(x, y)[:, 2:4])


def test_gradients_reach_inputs_and_every_parameter(model):
    x, y = table()
    x.requires_grad_()
    model(x, y).square().sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().amax((0, 2)) > 0).all()
    # the last row layer's context is not computed further
    idle = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert not idle


@settings(deadline=None, max_examples=15)
@given(features=st.integers(1, 12), rows=st.integers(3, 12), seed=st.integers(0, 100))
def test_padding_with_zero_columns_changes_nothing(features, rows, seed):
    torch.manual_seed(0)
    model = row_model()
    x, y = table(rows=rows, features=features, n_train=2, seed=seed)
    # the released code scales by max_features / features and pads
    padded = torch.nn.functional.pad(x * (12 / features), (0, 12 - features))
    torch.testing.assert_close(model(padded, y), model(x, y))


def test_the_forward_pass_is_that_of_the_efficient_mask_and_not_of_the_dense_one():
    torch.manual_seed(0)
    model = row_model()
    x, y = table()
    torch.testing.assert_close(model.forward_with_mask(x, y, efficient_mask(14, 8)), model(x, y))
    assert (model.forward_with_mask(x, y, dense_mask(14, 8)) - model(x, y)).abs().max() > 1e-4


def test_a_new_layer_only_normalises():
    torch.manual_seed(0)
    layer = RowLayer(16, 4, 32).double()
    h = torch.randn(2, 6, 16, dtype=torch.float64)
    normalised = torch.nn.functional.layer_norm(h, (16,))
    out = layer(h, layer.attention.keys_and_values(h[:, :3]))
    torch.testing.assert_close(out, torch.nn.functional.layer_norm(normalised, (16,)))
    torch.testing.assert_close(out, normalised, atol=1e-4, rtol=1e-4)


def test_columns_may_come_in_any_order_where_each_is_a_cell():
    torch.manual_seed(0)
    model = cell_model()
    x, y = table(features=7)
    torch.testing.assert_close(model(x[:, :, torch.randperm(7)], y), model(x, y))


@pytest.mark.parametrize("features", [1, 2, 3, 5])
def test_columns_that_share_a_cell_may_be_any_number(features):
    model = cell_model(features_per_token=3)
    x, y = table(features=features)
    assert torch.isfinite(model(x, y)).all()


def test_cells_are_standardised_by_the_context_alone():
    torch.manual_seed(0)
    model = cell_model()
    x, y = table()
    torch.testing.assert_close(model(1000 + 50 * x, y), model(x, y))
    constant = x.clone()
    constant[:, :, 2] = 5.0
    assert torch.isfinite(model(constant, y)).all()


def test_half_precision_activations_give_nearly_the_same():
    torch.manual_seed(0)
    for model in (MODELS["row"](), MODELS["cell, row stage"]()):
        x, y = table(rows=40, n_train=30)
        exact = model.float()(x.float(), y).softmax(-1)
        rough = model.bfloat16()(x.bfloat16(), y).float().softmax(-1)
        assert (exact - rough).abs().mean() < 0.05


@pytest.mark.parametrize("make", [PFNTransformer, CellTransformer])
def test_a_model_is_saved_and_loaded(make, tmp_path):
    torch.manual_seed(0)
    model = make(d_model=12, n_layers=2, n_heads=2)
    model.save_pretrained(tmp_path)
    again = make.from_pretrained(tmp_path)
    x, y = table()
    torch.testing.assert_close(again(x.float(), y), model(x.float(), y))


def test_what_does_not_fit_is_named():
    x, y = table()
    with pytest.raises(ValueError, match="max_features=3"):
        PFNTransformer(max_features=3, d_model=8, n_layers=1, n_heads=2)(x.float(), y)
    with pytest.raises(ValueError, match="8 labels for 8 rows"):
        row_model()(x[:, :8], y)
    with pytest.raises(ValueError, match="n_heads=3"):
        PFNTransformer(d_model=8, n_layers=1, n_heads=3)
    for bad in ({"n_layers": 0}, {"summary_tokens": 0}, {"features_per_token": 0}, {"row_layers": -1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            CellTransformer(**bad)
