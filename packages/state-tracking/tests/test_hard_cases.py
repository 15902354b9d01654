"""What was found wrong once, a test each."""

import pytest
import torch
import torch.nn.functional as F

from state_tracking_impl import (
    LSTM,
    SLSTM,
    Attention,
    DeltaNet,
    FullMatrixRNN,
    GLALayer,
    Mamba,
    SequenceModel,
    automaton_lrnn,
    delta_product,
    delta_rule_chunk,
    delta_rule_recurrent,
    eigen_report,
    gla_recurrent,
    group_word,
    linear_scan,
    matrix_scan,
    modm_two_layer,
    parity_lrnn,
    permutation_householder,
    run_automaton,
    set_eigenvalue_range,
)
from state_tracking_impl.model import MIXERS

LAYERS = (DeltaNet, Mamba, GLALayer, FullMatrixRNN)


def test_a_reflection_repeated_in_half_precision_does_not_stretch():
    # a key rounded to bfloat16 has |k|^2 up to 1.01; with beta = 2 that is an eigenvalue of -1.02
    layer = DeltaNet(16, 4)
    for seed in range(5):
        torch.manual_seed(seed)
        x = torch.randn(1, 1, 16)
        with torch.no_grad():
            layer = DeltaNet(16, 4)
            layer.beta_proj.weight.copy_(1e3 * x[0].expand(4, -1))
        y, (memory, *_) = layer.bfloat16()(x.bfloat16().expand(1, 3000, -1))
        assert y.dtype == torch.bfloat16
        assert memory.dtype == torch.float32
        assert memory.abs().max() < 5


@pytest.mark.parametrize("form", [delta_rule_recurrent, delta_rule_chunk])
def test_half_precision_of_either_form_is_float32_inside(form):
    torch.manual_seed(3)
    k = F.normalize(torch.randn(1, 1, 64, 4), dim=-1).bfloat16().expand(1, 2000, -1, -1)
    zero, beta, start = torch.zeros_like(k), torch.full((1, 2000, 64), 2.0), torch.randn(1, 64, 4, 4)
    y, state = form(zero, k, zero, beta.bfloat16(), start, normalize=True)
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    assert state.norm() == pytest.approx(start.norm().item(), rel=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        _, mixed = form(zero.float(), k, zero, beta, start, normalize=True)
    torch.testing.assert_close(mixed, state)
    with pytest.raises(ValueError, match=r"normalize=True divides"):
        form(zero, k, zero, beta, start)


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer_trains_under_autocast_and_runs_in_half_precision(mixer):
    torch.manual_seed(0)
    model, ids = SequenceModel(vocab_size=5, d_model=16, n_layers=1, mixer=mixer), torch.randint(0, 5, (2, 20))
    expected = model(ids).logits
    with torch.autocast("cpu", torch.bfloat16):
        output = model(ids, targets=ids)
    output.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    torch.testing.assert_close(output.logits.float(), expected, rtol=0.05, atol=0.1)
    torch.testing.assert_close(model.bfloat16()(ids).logits.float(), expected, rtol=0.05, atol=0.1)


@pytest.mark.parametrize("layer", LAYERS)
def test_the_range_holds_in_single_precision_and_for_keys_whose_squares_underflow(layer):
    for seed in range(30):
        g = torch.Generator().manual_seed(seed)
        lo, hi = sorted((2 * torch.rand(2, generator=g) - 1).tolist())
        torch.manual_seed(seed)
        one = layer(16, eig_range=(lo, 1.0 if seed % 3 == 0 else hi))
        lo, hi = one.eig_range
        x = 10 ** (4 * torch.rand(1, generator=g) - 1) * torch.randn(1, 9, 16, generator=g)
        assert one(x)[0].isfinite().all()
        values = one.eigenvalues(x)
        if layer is DeltaNet:
            values = values[values != 1]  # a key of zero: nothing happens
        assert ((values - (lo + hi) / 2).abs() <= (hi - lo) / 2 + 1e-6).all(), (lo, hi, seed)


def test_a_switched_part_of_a_model_is_what_is_saved(tmp_path):
    model = SequenceModel(vocab_size=5, d_model=16, n_heads=2, eig_range=(0, 1)).eval()
    ids = torch.randint(0, 5, (1, 9))
    for part, ranges in ((model.blocks, [(-1, 1)] * 2), (model.blocks[1].mixer, [(-1, 1), (0, 0.5)])):
        set_eigenvalue_range(part, *ranges[1])
        model.save_pretrained(tmp_path)
        again = SequenceModel.from_pretrained(tmp_path)
        assert [block.mixer.eig_range for block in again.blocks] == ranges
        torch.testing.assert_close(again(ids).logits, model(ids).logits)
    with pytest.raises(ValueError, match="one for each of 2 layers"):
        SequenceModel(eig_range=[(-1, 1)] * 3)


def test_factors_whose_products_overflow_are_refused():
    # the states are ones, the products of the tree would be infinite
    with pytest.raises(ValueError, match=r"a must be in \[-1, 1\], got 2 to 2"):
        linear_scan(torch.full((1, 2000), 2.0), torch.zeros(1, 2000))
    with pytest.raises((ValueError, TypeError), match=r"one shape|linear_scan"):
        linear_scan(torch.ones(1, 5, 1), torch.ones(1, 5, 3))
    with pytest.raises((ValueError, TypeError), match=r"a must be|matrix_scan"):
        matrix_scan(torch.ones(1, 5, 3, 3), torch.ones(1, 4, 3, 1))


def test_nan_goes_through_the_scans_and_no_argument_is_blamed():
    x = torch.full((1, 3, 16), float("nan"))
    for layer in (DeltaNet, Mamba, GLALayer):
        assert layer(16)(x)[0].isnan().all()


@pytest.mark.parametrize("layer", [*LAYERS, LSTM, SLSTM, Attention])
def test_shapes_that_are_no_sequences_are_named(layer):
    for shape in ((16,), (3, 16), (1, 1, 3, 16), (2, 3, 8), (2, 0, 16)):
        with pytest.raises((ValueError, TypeError), match=r"x must|forward"):
            layer(16)(torch.zeros(shape))
    with pytest.raises((ValueError, TypeError), match=r"x must be floating|forward"):
        layer(16)(torch.zeros(1, 2, 16, dtype=torch.long))


@pytest.mark.parametrize("layer", LAYERS)
def test_an_empty_batch_is_empty_and_a_state_of_another_batch_is_named(layer):
    assert layer(16)(torch.zeros(0, 3, 16))[0].shape == (0, 3, 16)
    _, state = layer(16)(torch.zeros(1, 3, 16))
    with pytest.raises((ValueError, TypeError), match=r"the state must have shape|initial"):
        layer(16)(torch.zeros(2, 3, 16), state)


def test_operands_that_do_not_fit_are_named():
    q, beta = torch.ones(1, 2, 1, 1), torch.ones(1, 2, 1)
    for form, given in (
        (delta_rule_chunk, (q.long(), q, q, beta)),
        (delta_product, (q, q, q, beta)),
        (gla_recurrent, (q, q, q, 3 * q)),
        (gla_recurrent, (q[:, :0], q[:, :0], q[:, :0], q[:, :0])),
    ):
        with pytest.raises((ValueError, TypeError), match=r"q must|alpha must|annotations"):
            form(*given)
    for eig_range in (None, -1.0, "ab"):
        with pytest.raises((ValueError, TypeError), match=r"eig_range"):
            DeltaNet(16, eig_range=eig_range)
    for make in (DeltaNet, Mamba):
        with pytest.raises(ValueError, match="width must be"):
            make(16, short_conv=-3)


def test_ids_of_any_width_are_numbers_and_no_mask():
    table = [[1, 2, 0, 3, 4], [2, 2, 0, 1, 1], [0, 1, 1, 4, 2], [3, 3, 2, 0, 0], [4, 0, 1, 2, 3]]
    ids = torch.randint(0, 2, (2, 200), generator=torch.Generator().manual_seed(0))
    cascade = automaton_lrnn(table)
    for dtype in (torch.uint8, torch.int8, torch.int32):
        narrow = ids.to(dtype)
        assert (cascade(narrow)[0] == run_automaton(table, ids)).all()
        assert (run_automaton(table, narrow) == run_automaton(table, ids)).all()
        assert (modm_two_layer(7)(narrow)[0] == ids.cumsum(1) % 7).all()
        assert (parity_lrnn()(narrow)[0] == ids.cumsum(1) % 2).all()


def test_what_is_no_state_and_no_permutation_is_refused():
    for start in (-1, 2, 0.0):
        with pytest.raises((ValueError, TypeError), match="start"):
            run_automaton([[1, 0], [0, 1]], torch.ones(1, 3, dtype=torch.long), start)
    for bad in ([0.2, 1.7], "10"):
        with pytest.raises((ValueError, TypeError), match="permutation"):
            permutation_householder(bad)
    with pytest.raises((ValueError, TypeError), match=r"ids must have shape|bits"):
        parity_lrnn()(torch.ones(3, dtype=torch.long))


def test_groups_that_are_none_are_refused():
    for kind, options in (("B", {}), ("S", {"generators": "foo"})):
        with pytest.raises((ValueError, TypeError), match=r"kind must be S or A|annotations"):
            group_word(3, kind, **options)
    with pytest.raises(ValueError, match="n must be at least 3 for kind A"):
        group_word(2, "A")
    with pytest.raises((ValueError, TypeError), match="tokens_per"):
        group_word(3, tokens_per=0)


def test_targets_outside_the_vocabulary_are_named():
    ids = torch.tensor([[1, 2]])
    model = SequenceModel(vocab_size=5, d_model=16)
    assert model(ids, targets=torch.tensor([[-100, 1]])).loss.isfinite()
    for bad in (9, -1):
        with pytest.raises(ValueError, match=f"targets must be within 0 and 4, got {bad}"):
            model(ids, targets=torch.tensor([[bad, 1]]))


def test_a_report_of_layers_called_by_keyword():
    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = DeltaNet(16)

        def forward(self, x):
            return self.layer(x=x)

    assert len(eigen_report(Wrapped(), torch.randn(1, 3, 16)).layers) == 1


def test_prompts_of_different_lengths_go_on_as_each_would_alone():
    torch.manual_seed(0)
    model = SequenceModel(vocab_size=5, d_model=16, n_heads=2).eval()
    ids = torch.randint(1, 5, (2, 6))
    for real in (slice(2, None), slice(None, 4)):  # padding on the left and on the right
        mask = torch.ones_like(ids)
        mask[0] = 0
        mask[0, real] = 1
        longer = model.generate(ids, max_new_tokens=5, attention_mask=mask)
        assert (longer[:1, 6:] == model.generate(ids[:1, real], max_new_tokens=5)[:, 4:]).all()
        assert (longer[1:, 6:] == model.generate(ids[1:], max_new_tokens=5)[:, 6:]).all()
    with pytest.raises(ValueError, match="a token in every row"):
        model.generate(ids, attention_mask=torch.zeros_like(ids))


def test_drawn_tokens_are_among_the_most_probable_and_rows_end():
    torch.manual_seed(0)
    model = SequenceModel(vocab_size=5, d_model=16, n_heads=2).eval()
    ids, g = torch.randint(0, 5, (2, 3)), torch.Generator().manual_seed(0)
    greedy = model.generate(ids, max_new_tokens=6)
    for options in ({"top_p": 1e-6}, {"top_k": 1}):
        assert (model.generate(ids, max_new_tokens=6, do_sample=True, generator=g, **options) == greedy).all()
    scores = model(ids).logits[:, -1]
    divisor = torch.ones_like(scores).scatter(1, ids, 3.0)
    penalised = torch.where(scores > 0, scores / divisor, scores * divisor).argmax(-1)
    assert (model.generate(ids, max_new_tokens=1, repetition_penalty=3.0)[:, 3] == penalised).all()
    end = int(greedy[0, 3])
    ended = model.generate(ids[:1], max_new_tokens=6, eos_token_id=end)
    assert ended.tolist() == [[*ids[0].tolist(), end]]
    for bad in ({"top_p": 0.0}, {"repetition_penalty": 0.0}, {"top_k": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))}.* must be"):
            model.generate(ids, **bad)
