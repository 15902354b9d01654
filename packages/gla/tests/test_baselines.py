import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gla_impl import MODELS, GLAConfig, GLAForCausalLM, comparison_config, linear_scan
from gla_impl.baselines import CausalSelfAttention, MultiScaleRetention, SelectiveSSM, rotate
from shared_impl.testing import assert_causal

MIXERS = {
    "attention": lambda: CausalSelfAttention(32, 2).double(),
    "retention": lambda: MultiScaleRetention(32, 2).double(),
    "ssm": lambda: SelectiveSSM(32, n_states=4).double(),
}
mixers = pytest.mark.parametrize("name", MIXERS)


@mixers
def test_no_output_depends_on_a_later_input(name):
    mixer = MIXERS[name]()
    assert_causal(lambda x: mixer(x)[0], torch.randn(1, 20, 32, dtype=torch.float64))


@mixers
@settings(max_examples=8, deadline=None)
@given(length=st.integers(3, 80), data=st.data())
def test_a_sequence_may_be_cut_anywhere_and_read_token_by_token(name, length, data):
    mixer = MIXERS[name]()
    cut = data.draw(st.integers(1, length - 1))
    x = torch.randn(2, length, 32, dtype=torch.float64)
    y, _ = mixer(x)
    first, state = mixer(x[:, :cut])
    second, _ = mixer(x[:, cut:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), y, rtol=1e-7, atol=1e-9)
    state, outputs = None, []
    for t in range(length):
        out, state = mixer.step(x[:, t], state)
        outputs.append(out)
    torch.testing.assert_close(torch.stack(outputs, 1), y, rtol=1e-7, atol=1e-9)


@mixers
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_neither_outputs_nor_what_follows(name, side):
    mixer = MIXERS[name]()
    short, more = torch.randn(1, 9, 32, dtype=torch.float64), torch.randn(1, 5, 32, dtype=torch.float64)
    padding = torch.full((1, 6, 32), 5.0, dtype=torch.float64)
    real = slice(6, 15) if side == "left" else slice(0, 9)
    mask = torch.zeros(1, 15, dtype=torch.bool)
    mask[:, real] = True
    y, state = mixer(torch.cat([padding, short] if side == "left" else [short, padding], 1), None, mask)
    expected, expected_state = mixer(short)
    torch.testing.assert_close(y[:, real], expected, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(mixer(more, state)[0], mixer(more, expected_state)[0], rtol=1e-7, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(length=st.integers(1, 40), with_initial=st.booleans())
def test_parallel_scan_is_the_loop_over_time(length, with_initial):
    decay = torch.rand(2, length, 3, dtype=torch.float64)
    update = torch.randn(2, length, 3, dtype=torch.float64)
    initial = torch.randn(2, 3, dtype=torch.float64) if with_initial else None
    h = torch.zeros(2, 3, dtype=torch.float64) if initial is None else initial
    expected = []
    for t in range(length):
        h = decay[:, t] * h + update[:, t]
        expected.append(h)
    torch.testing.assert_close(linear_scan(decay, update, initial), torch.stack(expected, 1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("length", [1, 2, 7, 8])
def test_gradient_of_the_scan_is_that_of_finite_differences(length):
    inputs = [
        torch.rand(1, length, 2, dtype=torch.float64, requires_grad=True),
        torch.randn(1, length, 2, dtype=torch.float64, requires_grad=True),
        torch.randn(1, 2, dtype=torch.float64, requires_grad=True),
    ]
    assert torch.autograd.gradcheck(linear_scan, inputs)


def test_attention_is_softmax_over_the_past():
    mixer = CausalSelfAttention(32, 2).double()
    x = torch.randn(1, 12, 32, dtype=torch.float64)
    q, k, v = (F.linear(x, w).unflatten(-1, (2, 16)) for w in mixer.qkv_proj.weight.chunk(3))
    position = torch.arange(12)[None]
    scores = torch.einsum("bihd,bjhd->bhij", rotate(q, position), rotate(k, position)) / 4
    scores = scores.masked_fill(torch.ones(12, 12).triu(1).bool(), -torch.inf)
    o = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).flatten(-2)
    torch.testing.assert_close(mixer(x)[0], mixer.o_proj(o))


def test_rotation_makes_scores_depend_on_distance_alone():
    q, k = torch.randn(1, 1, 1, 8, dtype=torch.float64), torch.randn(1, 1, 1, 8, dtype=torch.float64)

    def score(i, j):
        return (rotate(q, torch.tensor([[i]])) * rotate(k, torch.tensor([[j]]))).sum()

    torch.testing.assert_close(score(9, 4), score(105, 100))
    assert abs(score(9, 4) - score(9, 5)) > 1e-3


def test_retention_is_its_recurrence():
    mixer = MultiScaleRetention(32, 2).double()
    x = torch.randn(1, 20, 32, dtype=torch.float64)
    q, k, v = mixer._inputs(x, torch.arange(20)[None])
    gamma = torch.tensor([1 - 2**-5, 1 - 2**-6], dtype=torch.float64)[None, :, None, None]
    memory, outputs = torch.zeros(1, 2, 16, 32, dtype=torch.float64), []
    for t in range(20):
        memory = gamma * memory + k[:, t, :, :, None] * v[:, t, :, None, :]
        outputs.append((q[:, t, :, None] @ memory)[:, :, 0])
    # the decays are stored in float32
    torch.testing.assert_close(mixer(x)[0], mixer._output(torch.stack(outputs, 1), x), rtol=1e-4, atol=1e-7)


def test_selective_ssm_is_its_recurrence():
    mixer = SelectiveSSM(32, n_states=4).double()
    x = torch.randn(1, 15, 32, dtype=torch.float64)
    u, z = mixer.in_proj(x).chunk(2, -1)
    padded = F.pad(u, (0, 0, 3, 0))
    weight = mixer.conv.weight[:, 0]
    u = F.silu(sum(padded[:, i : i + 15] * weight[:, i] for i in range(4)) + mixer.conv.bias)
    step, b, c = mixer.x_proj(u).split([mixer.rank, 4, 4], -1)
    step = F.softplus(mixer.dt_proj(step))
    h, outputs = torch.zeros(1, 64, 4, dtype=torch.float64), []
    for t in range(15):
        h = torch.exp(-step[:, t, :, None] * mixer.log_a.exp()) * h + (step * u)[:, t, :, None] * b[:, t, None]
        outputs.append((h * c[:, t, None]).sum(-1) + mixer.skip * u[:, t])
    expected = mixer.out_proj(torch.stack(outputs, 1) * F.silu(z))
    torch.testing.assert_close(mixer(x)[0], expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("d_model", [96, 384])
def test_baselines_have_as_many_parameters_as_gla(name, d_model):
    like = GLAConfig(vocab_size=65, d_model=d_model, n_layers=2, n_heads=4)
    config = comparison_config(name, like)
    with torch.device("meta"):
        wanted, got = (sum(p.numel() for p in GLAForCausalLM(c).parameters()) for c in (like, config))
    assert abs(got / wanted - 1) < 0.01


@pytest.mark.parametrize("name", MODELS)
def test_every_baseline_learns_a_constant_sequence(name):
    model = GLAForCausalLM(
        comparison_config(name, GLAConfig(vocab_size=5, d_model=16, n_layers=1, n_heads=2, ssm_state=4))
    )
    ids = torch.full((2, 12), 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(15):
        loss = model(ids, targets=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.7


def test_unknown_baseline_is_named():
    with pytest.raises(ValueError, match=r"model must be one of gla, .*, got 'rwkv'"):
        comparison_config("rwkv", GLAConfig(vocab_size=5))


def test_odd_sizes_are_refused():
    with pytest.raises(ValueError, match="even"):
        CausalSelfAttention(30, 2)
    with pytest.raises(ValueError, match="multiple of 2 n_heads"):
        MultiScaleRetention(30, 4)
