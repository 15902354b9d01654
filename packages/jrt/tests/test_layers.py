import pytest
import torch
import torch.nn.functional as F

from jrt_impl import (
    BaseConv,
    BasedLayer,
    GatedRecurrence,
    PrefixLinearAttention,
    ShortConv,
    SlidingWindowAttention,
    scan,
    scan_step_by_step,
)
from jrt_impl.layers import _turn

LAYERS = {
    "based": lambda: BasedLayer(8, 2, feature_dim=3),
    "based merged": lambda: BasedLayer(8, 2, feature_dim=3, symmetric=True),
    "prefix 4": lambda: PrefixLinearAttention(8, 2, feature_dim=3, prefix_len=4),
    "conv": lambda: BaseConv(8),
    "conv 1": lambda: BaseConv(8, kernel_size=1),
    "short conv": lambda: ShortConv(8),
    "window": lambda: SlidingWindowAttention(8, 2, window=6),
    "attention": lambda: SlidingWindowAttention(8, 2, window=None),
    "gla": lambda: GatedRecurrence(8, 2, kind="gla", feature_dim=3),
    "ssm": lambda: GatedRecurrence(8, 2, kind="ssm", feature_dim=3),
}


@pytest.fixture(params=LAYERS, name="layer")
def make_layer(request):
    torch.manual_seed(0)
    return LAYERS[request.param]().double()


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_pieces_and_steps_equal_the_whole(layer):
    x = draw(2, 40, 8)
    whole, last = layer(x)
    y, state = layer(x[:, :17])
    torch.testing.assert_close(y, whole[:, :17])
    y, state = layer(x[:, 17:38], state)
    torch.testing.assert_close(y, whole[:, 17:38])
    for i in (38, 39):
        y, state = layer.step(x[:, i], state)
        torch.testing.assert_close(y, whole[:, i])
    torch.testing.assert_close(
        [t for t in state if torch.is_tensor(t)] if isinstance(state, tuple) else state,
        [t for t in last if torch.is_tensor(t)] if isinstance(last, tuple) else last,
    )


def test_left_padding_changes_nothing(layer):
    x, padding = draw(2, 30, 8), 9
    padded = torch.cat([draw(2, padding, 8) * 5, x], 1)
    mask = torch.arange(30 + padding).expand(2, -1) >= padding
    torch.testing.assert_close(layer(padded, None, mask)[0][:, padding:], layer(x)[0])


def test_what_comes_later_changes_nothing_after_the_prefix(layer):
    x = draw(1, 25, 8)
    before = layer(x)[0]
    changed = x.clone()
    changed[:, 12:] += 1
    torch.testing.assert_close(layer(changed)[0][:, :12], before[:, :12])


def test_a_step_needs_no_set_up(layer):
    x = draw(2, 1, 8)
    y, _ = layer.step(x[:, 0])
    if not isinstance(layer, PrefixLinearAttention):  # whose first call is a prefix
        torch.testing.assert_close(y, layer(x)[0][:, 0])


@pytest.mark.parametrize("length", [7, 20, 21, 40])
def test_the_window_in_blocks_is_the_window_of_all_pairs(length):
    torch.manual_seed(0)
    layer, x, window = SlidingWindowAttention(8, 2, window=7).double(), draw(2, length, 8), 7
    q, k, v = layer.Wqkv(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
    places = torch.arange(length)
    back = places[:, None] - places
    allowed = (back >= 0) & (back < window)
    y = F.scaled_dot_product_attention(_turn(q, places), _turn(k, places), v, attn_mask=allowed)
    torch.testing.assert_close(layer(x)[0], layer.out_proj(y.transpose(1, 2).flatten(2)))


@pytest.mark.parametrize("length", [1, 2, 7, 32])
def test_the_scan_equals_its_steps(length):
    decay, update, state = torch.rand(2, length, 3, dtype=torch.float64), draw(2, length, 3), draw(2, 3)
    torch.testing.assert_close(scan(decay, update, state), scan_step_by_step(decay, update, state))


@pytest.mark.parametrize("kind", ["gla", "ssm"])
def test_the_baseline_has_one_result_in_both_forms(kind):
    torch.manual_seed(0)
    layer, x = GatedRecurrence(8, 2, kind=kind, feature_dim=3).double(), draw(2, 70, 8)
    results = []
    for form in ("chunked", "recurrent"):
        layer.form = form
        layer.zero_grad()
        y, state = layer(x)
        y.square().sum().backward()
        results.append((y, state, [p.grad.clone() for p in layer.parameters()]))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: BasedLayer(7, 2), "multiple of n_heads"),
        (lambda: PrefixLinearAttention(8, 2, prefix_len=-1), "prefix_len"),
        (lambda: BaseConv(8, expand=3), "even number"),
        (lambda: ShortConv(8, kernel_size=0), "kernel_size"),
        (lambda: SlidingWindowAttention(6, 2), "even number"),
        (lambda: SlidingWindowAttention(8, 2, window=0), "window"),
        (lambda: GatedRecurrence(8, 2, kind="lstm"), "gla or ssm"),
        (lambda: GatedRecurrence(8, 3), "multiple of n_heads"),
    ],
)
def test_sizes_that_do_not_fit_are_named(make, match):
    with pytest.raises(ValueError, match=match):
        make()
