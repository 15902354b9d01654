import pytest
import torch

from shared_impl.testing import assert_causal, assert_streaming_equals_batch
from state_tracking_impl import (
    LSTM,
    SLSTM,
    Attention,
    DeltaNet,
    FullMatrixRNN,
    GLALayer,
    Mamba,
    SequenceModel,
    eigen_report,
    set_eigenvalue_range,
)
from state_tracking_impl.model import MIXERS

LAYERS = {
    "deltanet": lambda: DeltaNet(16, 2),
    "deltanet of three": lambda: DeltaNet(16, 2, n_householder=3, short_conv=0),
    "mamba": lambda: Mamba(16, d_state=4),
    "gla": lambda: GLALayer(16, 2),
    "full": lambda: FullMatrixRNN(16, 2, d_state=3),
    "lstm": lambda: LSTM(16),
    "slstm": lambda: SLSTM(16, 2),
    "attention": lambda: Attention(16, 2),
}


def made(name):
    torch.manual_seed(0)
    return LAYERS[name]().double()


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_causal_and_stepping_gives_the_whole(name):
    layer = made(name)
    x = torch.randn(2, 37, 16, dtype=torch.float64)
    assert_causal(lambda t: layer(t)[0], x)
    for state in (None, layer.initial_state(2)):
        assert_streaming_equals_batch(lambda t: layer(t)[0], lambda u, s: layer.step(u, s), x, state)
    first, state = layer(x[:, :20])
    second, _ = layer(x[:, 20:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), layer(x)[0])


@pytest.mark.parametrize("eig_range", [(1, -1), (-1.5, 1), (0, 2), (0.5, 0.5), (float("nan"), 1), (0, 1, 2)])
def test_ranges_that_are_none_are_refused(eig_range):
    with pytest.raises(ValueError, match="eig_range must be"):
        DeltaNet(16, 2, eig_range=eig_range)


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer_trains_generates_and_comes_back(mixer, tmp_path):
    torch.manual_seed(0)
    model = SequenceModel(vocab_size=5, d_model=16, n_layers=2, mixer=mixer, n_heads=2, d_state=4)
    ids = torch.randint(0, 5, (2, 9))
    output = model(ids, targets=ids)
    output.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    model.save_pretrained(tmp_path)
    again = SequenceModel.from_pretrained(tmp_path)
    torch.testing.assert_close(again(ids).logits, output.logits)
    longer = model.generate(ids, max_new_tokens=4)
    assert longer.shape == (2, 13)
    # greedy, from the whole prefix each time
    for t in range(9, 13):
        assert (model(longer[:, :t]).logits[:, -1].argmax(-1) == longer[:, t]).all()


def test_the_switched_range_is_what_is_saved(tmp_path):
    model = SequenceModel(vocab_size=5, d_model=16, n_heads=2, eig_range=(0, 1)).eval()
    assert set_eigenvalue_range(model, -1, 1) == 2
    model.save_pretrained(tmp_path)
    again = SequenceModel.from_pretrained(tmp_path)
    ids = torch.randint(0, 5, (1, 9))
    torch.testing.assert_close(again(ids).logits, model(ids).logits)
    assert again.blocks[0].mixer.eig_range == (-1, 1)


def test_what_has_no_range_cannot_be_switched_or_reported():
    model = SequenceModel(vocab_size=5, d_model=16, n_heads=2, mixer="lstm")
    with pytest.raises(ValueError, match="has none"):
        set_eigenvalue_range(model, -1, 1)
    with pytest.raises(ValueError, match="has none"):
        eigen_report(model, torch.zeros(1, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="eig_range must be"):
        set_eigenvalue_range(SequenceModel(d_model=16), 0, 3)


def test_a_report_has_a_spectrum_a_layer_and_a_plot(tmp_path):
    torch.manual_seed(0)
    model = SequenceModel(vocab_size=5, d_model=16, n_heads=2)
    report = eigen_report(model, torch.randint(0, 5, (2, 9)))
    assert [one.real.numel() for one in report.layers] == [2 * 9 * 2] * 2
    middles, shares = report.layers[0].histogram(20)
    assert len(middles) == 20
    assert sum(shares) == pytest.approx(1)
    assert report.plot(tmp_path / "a.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.tensor([[0, 5]]), "within 0 and 4, got 5"),
        (torch.tensor([[-1, 0]]), "within 0 and 4, got -1"),
        (torch.zeros(1, 0, dtype=torch.long), "at least one token"),
    ],
)
def test_wrong_ids_are_named(ids, message):
    with pytest.raises(ValueError, match=message):
        SequenceModel(vocab_size=5, d_model=16)(ids)


def test_wrong_sizes_are_named():
    with pytest.raises(ValueError, match="d_model must be a multiple of n_heads, got 10 and 4"):
        DeltaNet(10, 4)
    with pytest.raises(ValueError, match="n_householder must be an integer of at least 1, got 0"):
        DeltaNet(8, 2, n_householder=0)
    with pytest.raises(ValueError, match=r"x must have shape \(batch, length, 16\), got"):
        Mamba(16)(torch.zeros(1, 2, 8))
    with pytest.raises(ValueError, match="x must hold at least one token"):
        DeltaNet(16)(torch.zeros(1, 0, 16))
    with pytest.raises(ValueError, match="temperature must be positive"):
        SequenceModel(d_model=16).generate(torch.zeros(1, 1, dtype=torch.long), temperature=0.0)
