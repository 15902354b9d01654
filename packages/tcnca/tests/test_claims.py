"""The claims of the paper, a test each."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from shared_impl.testing import assert_causal, assert_streaming_equals_batch
from shared_impl.train import count_parameters
from tcnca_impl import (
    ENWIK8,
    CausalTCN,
    ChunkedAttention,
    LMConfig,
    MultiHeadEMA,
    SparseTapsWarning,
    TCNCAForCausalLM,
    block_diagonal_attention,
    receptive_field,
    seen_positions,
    tcn_for_length,
)
from tcnca_impl.ema import direct_causal_conv, ema_parallel_scan
from tcnca_impl.layer import MegaLayer, SimpleTCNCA


@pytest.mark.parametrize(
    ("kernel", "factor", "depth", "convs"), [(3, 2, 3, 1), (5, 4, 2, 1), (3, 2, 2, 2), (2, 1, 4, 1)]
)
def test_the_receptive_field_measured_by_gradients_is_the_formula_s(kernel, factor, depth, convs):
    tcn = CausalTCN(1, kernel, factor, depth, convs, norm="none", activation="none").double()
    for weight in tcn.weights:
        torch.nn.init.ones_(weight)
    x = torch.randn(1, 60, 1, dtype=torch.float64, requires_grad=True)
    tcn(x)[0][0, -1].backward()
    support = x.grad[0, :, 0].nonzero().flatten()
    assert 60 - int(support[0]) == receptive_field(kernel, factor, depth, convs)
    assert len(support) == seen_positions(kernel, factor, depth, convs)


@pytest.mark.parametrize("mixer", ["tcn", "ema", "s4d", "none"])
def test_no_output_depends_on_a_later_input(mixer):
    layer = MegaLayer(8, mixer, chunk=8, kernel=3, dilation_factor=2, depth=2).double().eval()
    x = torch.randn(1, 21, 8, dtype=torch.float64)
    if mixer in ("tcn", "none"):
        assert_causal(lambda x: layer(x)[0], x)
        return
    # an FFT mixes all positions, so what comes back from later ones is rounding, not exactly zero
    for position in (0, 7, 12, 19):
        changed = x.clone()
        changed[:, position + 1 :] = 10 * torch.randn_like(changed[:, position + 1 :])
        torch.testing.assert_close(layer(changed)[0][:, : position + 1], layer(x)[0][:, : position + 1])


def test_the_average_is_the_same_by_fft_recurrence_scan_and_sum():
    ema = MultiHeadEMA(3, 4).double()
    x = torch.randn(2, 37, 3, dtype=torch.float64)
    expected = direct_causal_conv(x, ema.kernel(37))
    for got in (ema.convolve(x), ema.recurrent(x)[0], ema_parallel_scan(x, *ema.coefficients())):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("attn_fn", ["softmax", "laplace", "relu2"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [1, 8, 13, 24])
def test_chunked_attention_is_attention_with_a_block_diagonal_mask(attn_fn, causal, length):
    for rel_bias in ("simple", "rotary"):
        attention = ChunkedAttention(8, 4, 6, attn_fn, rel_bias, causal=causal).double()
        q, k, v = (torch.randn(2, length, n, dtype=torch.float64) for n in (4, 4, 6))
        expected = block_diagonal_attention(attention, q, k, v)
        torch.testing.assert_close(attention(q, k, v)[0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("architecture", ["tcnca", "mega", "mega-s4d", "tcn-mlp", "simple", "transformer", "lstm"])
def test_streaming_gives_what_the_parallel_form_gives(architecture):
    settings = {"d_model": 8, "n_layers": 2, "ffn": 8, "chunk": 8, "kernel": 3, "dilation_factor": 2, "depth": 2}
    model = TCNCAForCausalLM(LMConfig(vocab_size=11, architecture=architecture, **settings)).double().eval()
    ids = torch.randint(0, 11, (2, 29))
    assert_streaming_equals_batch(lambda x: model(x).logits, model.step, ids, None, rtol=1e-9, atol=1e-9)
    state, pieces = None, []
    for piece in ids.split([5, 1, 13, 10], 1):
        out = model(piece, state)
        state = out.state
        pieces.append(out.logits)
    torch.testing.assert_close(torch.cat(pieces, 1), model(ids).logits, rtol=1e-9, atol=1e-9)


def test_a_dilation_beyond_the_kernel_leaves_positions_unseen():
    assert [tcn_for_length(1024 * n) for n in (8, 16, 32, 64, 128)] == [8, 10, 13, 16, 20]
    assert seen_positions(17, 20, 4) == 83_521
    assert receptive_field(17, 20, 4) == 134_737
    with pytest.warns(SparseTapsWarning, match="83521 of the 134737"):
        CausalTCN(1, 17, 20, 4)


def test_the_models_have_the_paper_s_numbers_of_parameters():
    assert sum(w.numel() for w in CausalTCN(512).weights) == 34_816
    assert count_parameters(MultiHeadEMA(512, 16)) == 512 * (4 * 16 + 1)
    with torch.device("meta"):
        model = TCNCAForCausalLM(ENWIK8.model)
    assert count_parameters(model) == pytest.approx(39e6, rel=0.01)


def test_without_a_mixer_nothing_crosses_chunks_and_with_the_tcn_it_does():
    for mixer, crosses in (("none", False), ("tcn", True)):
        layer = SimpleTCNCA(8, mixer, chunk=8, kernel=5, dilation_factor=2, depth=3)
        x = torch.randn(1, 16, 8, requires_grad=True)
        layer(x)[0][0, -1].square().sum().backward()
        assert bool(x.grad[0, :8].abs().sum() > 0) is crosses


@pytest.mark.parametrize("architecture", ["tcnca", "tcn-mlp", "simple"])
def test_twice_the_length_costs_twice_the_operations(architecture):
    model = TCNCAForCausalLM(
        LMConfig(
            vocab_size=11, architecture=architecture, d_model=8, n_layers=2, ffn=8, chunk=16, kernel=3, depth=2,
            dilation_factor=2, rel_bias="simple",
        )
    )  # fmt: skip

    def operations(length):
        ids = torch.zeros(1, length, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            model(ids, targets=ids)
        return counter.get_total_flops()

    assert operations(256) == 2 * operations(128) == 4 * operations(64) > 0
    if architecture != "tcn-mlp":  # with one chunk for everything it does not hold
        model.blocks[0].layer.attention.chunk = 1000
        model.blocks[0].layer.attention.bias = None
        assert operations(128) > 2 * operations(64)
