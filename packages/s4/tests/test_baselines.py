import pytest
import torch

from s4_impl.baselines import MODELS, LSTMModel, TCNModel, TransformerModel, match_parameters
from shared_impl.testing import assert_causal
from shared_impl.train import count_parameters

BASELINES = ["lstm", "transformer", "tcn", "lssl"]


def make(kind, d_input=2, d_output=3, **arguments):
    torch.manual_seed(0)
    return MODELS[kind](d_input, d_output, 2, d_model=8, **arguments)


@pytest.mark.parametrize("kind", BASELINES)
def test_every_baseline_has_the_tasks_of_s4(kind):
    signal, tokens = torch.randn(2, 12, 2), torch.randint(0, 7, (2, 12))
    assert make(kind)(signal).shape == (2, 3)
    assert make(kind, task="regress")(signal).shape == (2, 12, 3)
    assert make(kind, task="regress", horizon=4)(signal).shape == (2, 4, 3)
    assert make(kind, 7, 7, task="lm")(tokens).shape == (2, 12, 7)
    assert make(kind, 7, 3, task="retrieve")(torch.stack([tokens, tokens], dim=1)).shape == (2, 3)


@pytest.mark.parametrize("kind", BASELINES)
def test_steps_give_what_the_whole_sequence_gives(kind):
    model = make(kind, 7, 7, task="lm").double().eval().setup_step()
    tokens = torch.randint(0, 7, (2, 40))
    state, outputs = model.default_state(2), []
    for t in range(40):
        y, state = model.step(tokens[:, t], state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, dim=1), model(tokens), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", BASELINES)
def test_chunks_with_the_state_handed_on_give_one_pass(kind):
    model = make(kind, task="regress").double().eval()
    u, state, parts = torch.randn(2, 29, 2, dtype=torch.float64), model.default_state(2), []
    for chunk in u.split([4, 1, 17, 7], dim=1):
        y, state = model.forward_chunk(chunk, state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, dim=1), model(u), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["lstm", "transformer", "tcn"])
def test_language_and_regression_baselines_are_causal(kind):
    assert_causal(make(kind, task="regress").double().eval(), torch.randn(1, 9, 2, dtype=torch.float64))


@pytest.mark.parametrize("kind", BASELINES)
def test_padding_has_no_influence_on_a_sequence(kind):
    model = make(kind).double().eval()
    inputs, lengths = torch.randn(3, 20, 2, dtype=torch.float64), torch.tensor([20, 3, 11])
    together = model(inputs, lengths)
    alone = torch.cat([model(x[None, :n]) for x, n in zip(inputs, lengths, strict=True)])
    torch.testing.assert_close(alone, together, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", BASELINES)
def test_greedy_generation_is_the_argmax_of_the_whole_sequence(kind):
    model = make(kind, 7, 7, task="lm").double().eval()
    tokens = model.generate(torch.randint(0, 7, (2, 3)), 30, temperature=0.0)
    assert torch.equal(model(tokens)[:, 2:-1].argmax(dim=-1), tokens[:, 3:])


@pytest.mark.parametrize("kind", BASELINES)
def test_a_saved_baseline_comes_back_bit_for_bit(kind, tmp_path):
    model = make(kind).eval()
    u = torch.randn(2, 20, 2)
    expected = model(u)
    model.save_pretrained(tmp_path)
    assert torch.equal(MODELS[kind].from_pretrained(tmp_path).eval()(u), expected)


def test_the_transformer_sees_both_ways_when_it_classifies():
    model = make("transformer").eval()
    assert not model.causal
    with pytest.raises(ValueError, match="causal"):
        model.setup_step()


def test_the_key_value_cache_grows_and_the_other_states_do_not():
    def size(state):
        if isinstance(state, torch.Tensor):
            return state.numel()
        return sum(size(part) for part in state) if isinstance(state, list | tuple) else 0

    sizes = {}
    for kind in ("s4", *BASELINES):
        model = make(kind, 7, 7, task="lm").eval().setup_step()
        state = model.default_state(1)
        before = size(state)
        for _ in range(100):
            _, state = model.step(torch.tensor([1]), state)
        sizes[kind] = size(state) / before
    assert sizes.pop("transformer") > 4
    assert set(sizes.values()) == {1.0}


@pytest.mark.parametrize("model_class", [LSTMModel, TransformerModel, TCNModel])
@pytest.mark.parametrize("target", [5_000, 40_000])
def test_the_width_is_found_with_which_a_model_has_a_given_size(model_class, target):
    heads = 4 if model_class is TransformerModel else 1

    def build(width):
        return model_class(1, 10, 2, d_model=width)

    width = match_parameters(build, target, multiple_of=heads)
    found = count_parameters(build(width))
    assert width % heads == 0
    assert abs(found - target) <= abs(count_parameters(build(width + heads)) - target)
    if width > heads:
        assert abs(found - target) <= abs(count_parameters(build(width - heads)) - target)


def test_a_size_that_cannot_be_had_is_refused():
    with pytest.raises(ValueError, match="too small"):
        match_parameters(lambda width: TransformerModel(1, 10, 2, d_model=width), 20, multiple_of=4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TransformerModel(1, 2, d_model=10, n_heads=4), "multiple of n_heads"),
        (lambda: TCNModel(1, 2, kernel_size=1), "kernel_size"),
    ],
)
def test_a_wrong_argument_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
