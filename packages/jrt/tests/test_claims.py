"""The claims of the paper, a test each."""

import itertools
import math

import pytest
import torch

from jrt_impl import (
    BASED_1_3B,
    BASED_360M,
    JRT_1_3B,
    JRT_360M,
    BasedLayer,
    JRTForCausalLM,
    JRTPrompt,
    PrefixLinearAttention,
    TaylorExp,
    disjoint_by_recall,
    linear_attention,
    needed_states,
    one_pass_bits,
    prefix_linear_attention,
    read_once,
    read_twice_stream,
    state_bytes,
    stream_of,
    taylor_kernel,
)


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def inputs(n=37, prefix=20):
    q, k, ke = draw(2, 3, n, 4), draw(2, 3, n, 4, seed=1), draw(2, 3, prefix, 4, seed=2)
    return q, k, draw(2, 3, n, 5, seed=3), ke, draw(2, 3, prefix, 5, seed=4)


def model(**options):
    torch.manual_seed(0)
    settings = {"d_model": 16, "layers": ["conv", "pla", "window", "pla"], "window": 5, "prefix_len": 8}
    return JRTForCausalLM(vocab_size=30, **{**settings, **options}).double()


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_inner_product_of_features_is_the_second_order_expansion(symmetric):
    phi = TaylorExp(16, symmetric=symmetric).double()
    q, k = draw(7, 16), draw(9, 16, seed=1)
    assert phi.size == (153 if symmetric else 273)
    z = q @ k.T / 4
    torch.testing.assert_close(phi(q) @ phi(k).T, 1 + z + z**2 / 2, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(taylor_kernel(q, k), 1 + z + z**2 / 2, rtol=1e-12, atol=1e-12)
    assert taylor_kernel(q, k).min() >= 0.5


@pytest.mark.parametrize("compat", ["paper", "official"])
@pytest.mark.parametrize("padded", [False, True])
def test_quadratic_chunked_and_recurrent_forms_agree(padded, compat):
    mask = torch.ones(2, 37, dtype=torch.bool)
    mask[0, :6] = not padded
    found = [
        prefix_linear_attention(*inputs(), 9, mask, form=form, chunk_size=8, symmetric=symmetric, compat=compat)
        for form, symmetric in (("quadratic", False), ("chunked", False), ("recurrent", False), ("chunked", True))
    ]
    for y, _ in found[1:]:
        torch.testing.assert_close(y, found[0][0], rtol=1e-10, atol=1e-10)
    for _, state in found[1:3]:
        torch.testing.assert_close(state, found[0][1], rtol=1e-10, atol=1e-10)


def test_the_layer_is_the_formula_of_section_4():
    q, k, v, ke, ve = inputs(n=9, prefix=9)
    y = prefix_linear_attention(q, k, v, ke, ve, 4)[0]
    for i in range(9):
        weights = torch.cat([taylor_kernel(q[:, :, i : i + 1], t) for t in (k[:, :, : i + 1], ke[:, :, :4])], -1)
        values = torch.cat([v[:, :, : i + 1], ve[:, :, :4]], 2)
        expected = (weights / weights.sum(-1, keepdim=True)) @ values
        torch.testing.assert_close(y[:, :, i], expected[:, :, 0], rtol=1e-10, atol=1e-10)


def test_prefill_and_steps_equal_the_parallel_form():
    lm, ids = model(), torch.arange(2 * 24).reshape(2, 24) % 30
    whole = lm(ids).logits
    logits, state = lm.prefill(ids[:, :10])
    for i in range(10, 24):
        torch.testing.assert_close(logits, whole[:, i - 1], rtol=1e-9, atol=1e-10)
        logits, state = lm.step(ids[:, i], state)


def test_an_empty_prefix_gives_causal_attention():
    q, k, v, ke, ve = inputs()
    torch.testing.assert_close(prefix_linear_attention(q, k, v, ke, ve, 0)[0], linear_attention(q, k, v)[0])


def test_the_order_within_the_prefix_sums_does_not_matter_and_all_of_it_is_seen():
    q, k, v, ke, ve = inputs()
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    y = prefix_linear_attention(q, k, v, ke, ve)[0]
    torch.testing.assert_close(prefix_linear_attention(q, k, v, ke[:, :, order], ve[:, :, order])[0], y)
    for place in range(20):
        changed = ve.clone()
        changed[:, :, place] += 1
        assert (prefix_linear_attention(q, k, v, ke, changed)[0] - y)[:, :, 0].abs().min() > 1e-6


def padded_difference(compat, padding):
    lm, ids = model(compat=compat, prefix_len=40), torch.arange(2 * 12).reshape(2, 12) % 30
    plain = lm.prefill(ids)[0]
    padded = torch.cat([torch.zeros(2, padding, dtype=torch.long), ids], 1)
    mask = torch.arange(12 + padding).expand(2, -1) >= padding
    return (lm.prefill(padded, mask)[0] - plain).abs().max().item()


@pytest.mark.parametrize("padding", [1, 5, 28])
def test_left_padding_changes_nothing_but_in_the_official_form(padding):
    assert padded_difference("paper", padding) < 1e-10
    assert padded_difference("official", padding) > 1e-5


def test_a_later_token_changes_no_earlier_logits_after_the_prefix():
    lm, ids = model(), torch.arange(20)[None] % 30
    before = lm(ids).logits
    for place in range(8, 20):
        changed = ids.clone()
        changed[0, place] = 29
        torch.testing.assert_close(lm(changed).logits[:, :place], before[:, :place])
    changed = ids.clone()
    changed[0, 7] = 29
    assert (lm(changed).logits[0, 0] - before[0, 0]).abs().max() > 1e-8


def test_the_state_has_one_size_whatever_the_length_and_as_large_as_the_causal_one():
    sizes = set()
    for layer in (BasedLayer(8, 2, feature_dim=4), PrefixLinearAttention(8, 2, feature_dim=4, prefix_len=5)):
        for length in (3, 50):
            state = layer(torch.randn(1, length, 8))[1]
            sizes.add(state.kv.numel() + state.k_sum.numel())
    assert sizes == {2 * (4 + 1) * 21}
    lm = model(layers=["conv", "pla"])
    short, long = (lm.prefill(torch.zeros(1, n, dtype=torch.long))[1] for n in (4, 99))
    assert state_bytes(short) == state_bytes(long)


def test_prompts_have_the_exact_strings():
    assert JRTPrompt("fda").wrap("A doc.", "name") == "Information about Name. A doc.\nA doc. Name:"
    assert JRTPrompt("fda").wrap("A doc.", "name", repeats=1) == "A doc. Name:"
    assert JRTPrompt("swde").wrap("A doc\n", "size") == "Information about Size. A doc.\nA doc. Size:"
    assert JRTPrompt("squad").wrap("A doc.", "Who?") == "Who? A doc.\nA doc. Who?"
    for task in ("nq", "triviaqa", "drop"):
        assert JRTPrompt(task).wrap("A doc.", "Who?") == "Who? A doc.\nA doc. Who?"
        assert JRTPrompt(task).wrap("A doc.", "Who?", repeats=1) == "A doc. Who?"


def test_one_pass_needs_a_state_for_every_first_set():
    for universe, first in ((6, 3), (8, 4), (9, 2)):
        assert needed_states(universe, first, 1) == math.comb(universe, first)
    # 70 sets of four among eight: seven bits
    assert one_pass_bits(8, 4) == 7
    assert one_pass_bits(12, 1) == 4
    # a second set may be too large to tell any two first sets apart
    assert needed_states(6, 3, 4) == 1


def test_read_twice_the_smaller_set_is_enough():
    sets = [s for size in range(1, 6) for s in itertools.combinations(range(5), size)]
    for a, b in itertools.product(sets, sets):
        disjoint = set(a).isdisjoint(b)
        once, twice = read_once(stream_of(a, b)), read_twice_stream(stream_of(a, b, 2))
        assert once.disjoint == twice.disjoint == disjoint
        assert once.held == len(a)
        assert twice.held <= min(len(a), len(b))


def test_who_recalls_decides_disjointness():
    sets = [s for size in range(1, 5) for s in itertools.combinations(range(4), size)]
    for a, b in itertools.product(sets, sets):
        assert disjoint_by_recall(a, b) == set(a).isdisjoint(b)


def test_the_named_sizes_have_the_layers_and_parameters_of_the_paper():
    assert [i for i, name in enumerate(JRT_360M.layers) if name == "pla"] == [1, 6, 11, 16, 21]
    assert [i for i, name in enumerate(JRT_1_3B.layers) if name == "window"] == [2, 7, 12, 17, 22, 28, 34]
    with torch.device("meta"):
        count = {
            name: sum(p.numel() for p in JRTForCausalLM.from_config(config).parameters())
            for name, config in (("jrt", JRT_360M), ("based", BASED_360M), ("large", JRT_1_3B), ("b", BASED_1_3B))
        }
    assert 350e6 <= count["based"] < count["jrt"] <= 370e6
    assert 1.3e9 <= count["b"] < count["large"] <= 1.4e9
