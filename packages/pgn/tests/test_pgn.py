import pytest
import torch

from pgn_impl import PGN, PGN2d, PGNClassifier, StackedPGN
from shared_impl.testing import assert_causal, assert_streaming_equals_batch


def written_out(layer, x):
    """The equations of section 3.1, a step at a time."""
    weight, bias = layer.hie.weight[0], layer.hie.bias[0]
    gates, gate_bias = layer.gate.weight[0], layer.gate.bias[0]
    d, window = layer.d_model, layer.window
    outputs = []
    for t in range(x.shape[1]):
        history = bias.expand(x.shape[0], -1)
        for k in range(1, window + 1):
            if t - k >= 0:
                history = history + x[:, t - k] @ weight[:, :, window - k].T
        both = torch.cat((x[:, t], history), -1) @ gates.T + gate_bias
        gate, candidate = both[:, :d].sigmoid(), both[:, d:].tanh()
        outputs.append(gate * history + (1 - gate) * candidate)
    return torch.stack(outputs, 1)


@pytest.mark.parametrize(("length", "window"), [(1, 3), (6, 5), (12, 4), (5, 20)])
def test_the_layer_is_its_equations(length, window):
    torch.manual_seed(0)
    layer = PGN(3, 4, window).double()
    x = torch.randn(2, length, 3, dtype=torch.float64)
    torch.testing.assert_close(layer(x), written_out(layer, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("window", [1, 5, 40])
def test_steps_with_the_ring_equal_the_whole_sequence(window):
    torch.manual_seed(0)
    layer = PGN(3, 4, window).double()
    x = torch.randn(2, 21, 3, dtype=torch.float64)
    assert_streaming_equals_batch(layer, layer.step, x, layer.initial_state(2), rtol=1e-12, atol=1e-12)


def test_a_stack_is_causal_and_steps_like_one_layer():
    torch.manual_seed(0)
    for residual in (True, False):
        stack = StackedPGN(2, 5, 3, 6, residual=residual).double()
        x = torch.randn(2, 17, 2, dtype=torch.float64)
        assert_causal(stack, x)
        assert_streaming_equals_batch(stack, stack.step, x, stack.initial_state(2), rtol=1e-12, atol=1e-12)


def test_the_full_window_takes_its_size_from_the_sequence():
    assert PGN(1, 2, seq_len=10).window == 9
    with pytest.raises(ValueError, match="seq_len must be at least 2 where window is None"):
        PGN(1, 2)
    with pytest.raises(ValueError, match="n_layers must be at least 1, got 0"):
        StackedPGN(1, 2, 0, 3)


def test_columns_of_a_grid_are_apart_and_share_weights():
    torch.manual_seed(0)
    layer = PGN2d(2, 3, 5, c_in=2)
    grid = torch.randn(2, 4, 6, 5, 2)
    out = layer(grid)
    assert out.shape == (2, 4, 6, 5, 3)
    order = torch.randperm(6)
    torch.testing.assert_close(layer(grid[:, :, order]), out[:, :, order])
    with pytest.raises(ValueError, match="rows must be at least 2, got 1"):
        PGN2d(1, 2, 1)


def test_steps_beyond_a_sequence_s_length_do_not_count_for_its_class():
    torch.manual_seed(0)
    model = PGNClassifier(2, 8, 3, seq_len=12)
    x, lengths = torch.randn(4, 12, 2), torch.tensor([12, 5, 1, 7])
    disturbed = x.clone()
    for row, length in enumerate(lengths.tolist()):
        disturbed[row, length:] = 100.0
    torch.testing.assert_close(model(x, lengths), model(disturbed, lengths))
    torch.testing.assert_close(model(x, torch.full((4,), 12)), model(x))
    with pytest.raises(ValueError, match="n_classes must be at least 2"):
        PGNClassifier(2, 8, 1, seq_len=12)


def test_a_classifier_learns_what_stood_at_the_start():
    torch.manual_seed(0)
    model = PGNClassifier(1, 16, 2, n_layers=2, seq_len=32)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(150):
        x = torch.randn(64, 32, 1)
        labels = (x[:, 0, 0] > 0).long()
        loss = torch.nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = torch.randn(500, 32, 1)
    accuracy = (model(x).argmax(1) == (x[:, 0, 0] > 0)).float().mean()
    assert accuracy > 0.9
