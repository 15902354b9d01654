import pytest
import torch

from shared_impl.testing import assert_forms_agree
from tcnca_impl import (
    LRA,
    S4D,
    CausalTCN,
    ChunkedAttention,
    ClassifierConfig,
    LayerConfig,
    LMConfig,
    MegaLayer,
    MixerConfig,
    MultiHeadEMA,
    SimpleTCNCA,
    TCNCAClassifier,
    TCNCAForCausalLM,
    TCNCALayer,
    receptive_field,
    tcn_for_length,
)
from tcnca_impl.ema import direct_causal_conv
from tcnca_impl.official import from_official_block, from_official_encoder, from_official_layer
from tcnca_impl.tcn import causal_conv, causal_conv_reference


@pytest.mark.parametrize("kernel", [1, 5, 9])
@pytest.mark.parametrize("dilation", [1, 3, 50])
def test_all_forms_of_the_convolution_give_the_sum_and_its_gradients(kernel, dilation):
    def inputs(length, dtype):
        return {"x": torch.randn(2, length, 3, dtype=dtype), "w": torch.randn(3, kernel, dtype=dtype)}

    def of(form):
        return lambda x, w: causal_conv(x, w.unsqueeze(1), dilation, form=form)

    forms = {"the sum": lambda x, w: causal_conv_reference(x, w, dilation)}
    forms |= {form: of(form) for form in ("conv1d", "shift", "in_place", "auto")}
    assert_forms_agree(forms, inputs, lengths=(1, 2, 17, 40), rtol=1e-12, atol=1e-12)


def test_the_convolution_in_place_can_be_differentiated_twice():
    x, w = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((1, 6, 2), (2, 1, 3)))
    assert torch.autograd.gradgradcheck(lambda x, w: causal_conv(x, w, 2, form="in_place"), (x, w))


def test_half_precision_goes_through_the_fft_in_float32():
    ema = MultiHeadEMA(3, 4)
    x = torch.randn(1, 20, 3).bfloat16()
    assert ema.convolve(x).dtype == torch.bfloat16
    torch.testing.assert_close(ema.convolve(x).float(), ema.convolve(x.float()), rtol=1e-2, atol=1e-2)


def test_a_norm_over_time_refuses_a_state_while_training():
    tcn = CausalTCN(4, 3, 2, 2, norm="batchnorm")
    with pytest.raises(ValueError, match="batchnorm is taken over time"):
        tcn.step(torch.randn(2, 4))
    tcn.eval().step(torch.randn(2, 4))


def test_a_simple_bias_cannot_be_stretched_and_a_rotary_one_can():
    with pytest.raises(ValueError, match="chunk 16 exceeds the 8"):
        ChunkedAttention(8, 4, 4, rel_bias="simple").set_chunk(16)
    ChunkedAttention(8, 4, 4, rel_bias="rotary").set_chunk(16)


def test_padding_has_no_influence_in_both_directions():
    for architecture in ("tcnca", "mega", "mega-s4d", "transformer"):
        config = ClassifierConfig(
            n_classes=3, vocab_size=9, architecture=architecture, d_model=16, chunk=8, kernel=3, dilation_factor=2,
            depth=2,
        )  # fmt: skip
        model = TCNCAClassifier(config).eval()
        ids = torch.randint(0, 9, (2, 13))
        padded = torch.cat([ids, torch.randint(0, 9, (2, 11))], 1)
        torch.testing.assert_close(model(padded, [13, 13]), model(ids), rtol=1e-4, atol=1e-5)


def test_every_recipe_of_the_arena_makes_a_model():
    for recipe in LRA.values():
        with torch.device("meta"):
            TCNCAClassifier(recipe.model)


def test_a_model_is_saved_and_loaded_whole(tmp_path):
    model = TCNCAForCausalLM(LMConfig(vocab_size=9, d_model=8, n_layers=1, ffn=8)).eval()
    model.save_pretrained(tmp_path)
    ids = torch.randint(0, 9, (1, 5))
    assert torch.equal(TCNCAForCausalLM.from_pretrained(tmp_path)(ids).logits, model(ids).logits)
    assert model.generate(ids, 3).shape == (1, 8)


def test_ids_outside_the_vocabulary_are_named():
    with pytest.raises(ValueError, match=r"ids must lie in 0 \.\. 8"):
        TCNCAForCausalLM(LMConfig(vocab_size=9, d_model=8, n_layers=1, ffn=8))(torch.full((1, 3), 9))


@pytest.mark.parametrize("mixer", ["tcn", "ema", "s4d", "none"])
@pytest.mark.parametrize("pieces", [[1, 1, 27], [7, 8, 9, 5], [16, 13], [28, 1]])
def test_a_layer_continues_at_any_split_and_by_steps(mixer, pieces):
    layer = MegaLayer(8, mixer, chunk=8, kernel=3, dilation_factor=3, depth=2, n_states=3).double().eval()
    x = torch.randn(2, 29, 8, dtype=torch.float64)
    expected, _ = layer(x)
    state, found = None, []
    for piece in x.split(pieces, 1):
        y, state = layer(piece, state)
        found.append(y)
    torch.testing.assert_close(torch.cat(found, 1), expected, rtol=1e-9, atol=1e-9)
    state, found = layer.initial_state(2), []
    for x_t in x.unbind(1):
        y, state = layer.step(x_t, state)
        found.append(y)
    torch.testing.assert_close(torch.stack(found, 1), expected, rtol=1e-9, atol=1e-9)
    # steps and pieces in turn
    head, state = layer(x[:, :5])
    one, state = layer.step(x[:, 5], state)
    tail, _ = layer(x[:, 6:], state)
    torch.testing.assert_close(torch.cat([head, one.unsqueeze(1), tail], 1), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("length", [1, 2, 130])
def test_any_length_goes_through_every_layer(length):
    x = torch.randn(1, length, 8)
    for layer in (TCNCALayer(8), MegaLayer(8), SimpleTCNCA(8), MegaLayer(8, "s4d", bidirectional=True)):
        assert layer(x)[0].shape == x.shape


def test_both_directions_of_the_average_are_two_sums():
    ema = MultiHeadEMA(3, 4, bidirectional=True).double()
    x = torch.randn(2, 20, 3, dtype=torch.float64)
    kernel = ema.kernel(20)
    forth, back = direct_causal_conv(x, kernel[:3]), direct_causal_conv(x.flip(1), kernel[3:]).flip(1)
    torch.testing.assert_close(ema.convolve(x), forth + back, rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="takes no state"):
        ema.step(x[:, 0])


def test_a_truncated_average_forgets_what_is_further_back():
    ema = MultiHeadEMA(3, 4, truncation=5).double()
    x = torch.randn(1, 20, 3, dtype=torch.float64)
    torch.testing.assert_close(ema.convolve(x)[:, 10:], ema.convolve(x[:, 6:])[:, 4:], rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="truncated at 5"):
        ema.step(x[:, 0])


def test_s4d_is_the_same_by_fft_and_by_sum():
    ssm = S4D(3, 4).double()
    x = torch.randn(1, 20, 3, dtype=torch.float64)
    expected = torch.nn.functional.silu(direct_causal_conv(x, ssm.kernel(20)) + x * ssm.skip)
    torch.testing.assert_close(ssm(x)[0], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("architecture", ["tcnca", "mega", "mega-s4d"])
def test_a_model_in_bfloat16_stays_near_its_float32_form(architecture):
    config = LMConfig(vocab_size=9, architecture=architecture, d_model=16, n_layers=1, ffn=16, chunk=16)
    low = TCNCAForCausalLM(config).bfloat16().eval()
    high = TCNCAForCausalLM(config).eval()
    high.load_state_dict({name: value.float() for name, value in low.state_dict().items()})
    ids = torch.randint(0, 9, (1, 300))
    torch.testing.assert_close(low(ids).logits.float(), high(ids).logits, rtol=0.1, atol=0.15)


def test_the_average_s_kernel_is_exact_under_autocast_and_in_half_precision():
    ema = MultiHeadEMA(3, 4).bfloat16()
    expected = MultiHeadEMA(3, 4)
    expected.load_state_dict({name: value.float() for name, value in ema.state_dict().items()})
    assert torch.equal(ema.kernel(3000), expected.kernel(3000))
    with torch.autocast("cpu"):
        assert torch.equal(expected.kernel(3000), ema.kernel(3000))


def test_a_longer_chunk_can_be_set_in_the_whole_model():
    model = TCNCAForCausalLM(LMConfig(vocab_size=9, d_model=8, n_layers=2, ffn=8, chunk=4)).eval()
    ids = torch.randint(0, 9, (1, 16))
    whole = TCNCAForCausalLM(LMConfig(vocab_size=9, d_model=8, n_layers=2, ffn=8, chunk=16)).eval()
    whole.load_state_dict(model.state_dict())
    assert not torch.allclose(model(ids).logits, whole(ids).logits)
    model.set_chunk(16)
    assert torch.equal(model(ids).logits, whole(ids).logits)


def test_pairs_are_classified_by_both_and_each_is_padded_apart():
    config = ClassifierConfig(
        n_classes=2, vocab_size=9, d_model=8, n_layers=1, ffn=8, chunk=4, pairs=True, head_width=12
    )  # fmt: skip
    model = TCNCAClassifier(config).eval()
    ids = torch.randint(1, 9, (3, 2, 10))
    lengths = torch.tensor([[10, 4], [3, 10], [5, 6]])
    other = torch.where(torch.arange(10) < lengths.unsqueeze(-1), ids, 0)
    torch.testing.assert_close(model(ids, lengths), model(other, lengths))
    assert not torch.allclose(model(ids, lengths), model(ids.flip(1), lengths.flip(1)))
    with pytest.raises(ValueError, match="for pairs"):
        model(ids[:, 0])


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (MixerConfig, {"kernel": 0}, "kernel must be an integer of at least 1, got 0"),
        (MixerConfig, {"norm": "instance"}, "norm must be one of"),
        (LayerConfig, {"chunk": 0}, "chunk must be"),
        (LayerConfig, {"dropout": 1.0}, "dropout must be from 0"),
        (LMConfig, {"architecture": "rnn"}, "architecture must be one of"),
        (LMConfig, {"bidirectional": True}, "bidirectional must be False"),
        (ClassifierConfig, {"in_features": 1}, "either vocab_size or in_features, got 256 and 1"),
        (ClassifierConfig, {"architecture": "lstm"}, "lstm has no bidirectional form"),
        (ClassifierConfig, {"n_classes": 1}, "n_classes must be at least 2"),
    ],
)
def test_a_setting_out_of_range_is_named(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(**settings)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 4, 7), r"shape \(batch, length, 8\), got \(2, 4, 7\)"),
        (torch.zeros(2, 0, 8), "at least one position"),
        (torch.zeros(2, 4, 8, dtype=torch.int64), "floating-point"),
    ],
)
def test_an_input_that_no_layer_can_take_is_named(x, message):
    from tcnca_impl.norms import check_input

    with pytest.raises(ValueError, match=message):
        check_input(x, 8)


def test_a_layer_that_reads_the_future_takes_no_state():
    for mixer in ("tcn", "ema", "s4d"):
        layer = MegaLayer(8, mixer, bidirectional=True, chunk=4)
        with pytest.raises(ValueError, match="takes no state"):
            layer(torch.randn(1, 5, 8), MegaLayer(8, mixer, chunk=4).initial_state(1))
    with pytest.raises(ValueError, match="must be False for the simple layer"):
        SimpleTCNCA(8, bidirectional=True)


def test_the_smallest_factor_reaches_and_the_one_below_does_not():
    for length in (64, 1000, 16_384):
        factor = tcn_for_length(length, 9, 3)
        assert receptive_field(9, factor, 3) >= length > receptive_field(9, factor - 1, 3)
    with pytest.raises(ValueError, match="whatever the dilation"):
        tcn_for_length(100, 5, 1)


def test_official_names_find_their_places():
    layer = MegaLayer(8, "ema", chunk=4, rel_bias="simple", norm="scalenorm")
    own = layer.state_dict()
    theirs = {
        name.replace("mixer.", "move.").replace("attention.bias.weight", "rel_pos_bias.rel_pos_bias").replace(
            "norm.norm.scale", "norm.norm.scalar"
        ): value.unsqueeze(-1) if name.split(".")[-1] in ("delta", "alpha") else value
        for name, value in own.items()
    }  # fmt: skip
    found = from_official_layer(theirs)
    assert found.keys() == own.keys()
    assert all(torch.equal(found[name], own[name]) for name in own)
    for convert in (from_official_layer, from_official_block, from_official_encoder):
        with pytest.raises(ValueError, match=r"'other\.weight', which is not of an official"):
            convert({"other.weight": torch.zeros(1)})


@pytest.mark.parametrize("mixer", ["tcn", "ema", "s4d", "none"])
@pytest.mark.parametrize("seen", [3, 8])
def test_a_state_of_another_batch_is_refused(mixer, seen):
    layer, x = MegaLayer(8, chunk=8, mixer=mixer).eval(), torch.randn(2, 9, 8)
    _, state = layer(x[:1, :seen])
    with pytest.raises(ValueError, match="state must be of batch 2, got 1"):
        layer(x, state)
    with pytest.raises(ValueError, match="state must be of batch 2, got 1"):
        layer.step(x[:, 0], state)
