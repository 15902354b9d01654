import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from s4_impl.adaptive import AdaptiveEmbedding, AdaptiveSoftmax
from s4_impl.model import MaskedBatchNorm, S4Block, S4Model, TiedDropout
from s4_impl.sequence import sample_token

SMALL = {"n_layers": 2, "d_model": 8, "d_state": 4}


def small(d_input=2, d_output=3, **arguments):
    torch.manual_seed(0)
    return S4Model(d_input, d_output, **{**SMALL, **arguments})


# shapes and tasks


@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 40),
    prenorm=st.booleans(),
    version=st.sampled_from(["current", "v1"]),
)
@settings(max_examples=12, deadline=None)
def test_each_task_gives_its_shape_for_any_batch_and_length(batch, length, prenorm, version):
    options = {"prenorm": prenorm, "version": version}
    signal = torch.randn(batch, length, 2)
    tokens = torch.randint(0, 7, (batch, length))
    assert small(**options)(signal).shape == (batch, 3)
    assert small(task="regress", **options)(signal).shape == (batch, length, 3)
    assert small(task="regress", horizon=1, **options)(signal).shape == (batch, 1, 3)
    assert small(7, 7, task="lm", **options)(tokens).shape == (batch, length, 7)
    assert small(7, 3, encoder="embedding", **options)(tokens).shape == (batch, 3)
    assert small(7, 3, task="retrieve", **options)(torch.stack([tokens, tokens], dim=1)).shape == (batch, 3)


def test_every_parameter_gets_a_gradient():
    for options in ({}, {"version": "v1"}, {"norm": "batch", "prenorm": False}, {"block": ("s4", "s4", "ff")}):
        model = small(**options)
        model.loss(torch.randn(3, 20, 2), torch.tensor([0, 1, 2])).backward()
        without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert not without


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "sort"}, "task must be one of"),
        ({"task": "classify", "pooling": "none"}, "pooling must be"),
        ({"task": "lm", "bidirectional": True}, "causal"),
        ({"norm": "group"}, "norm must be"),
        ({"version": "v9"}, "version must be"),
        ({"block": ("mlp",)}, "block must be made of"),
        ({"dropout": 1.0}, "dropout must lie"),
        ({"n_layers": 0}, "n_layers must be positive"),
        ({"horizon": 3}, "horizon must be positive and needs"),
        ({"d_input": 0}, "must be positive"),
        ({"task": "regress", "adaptive_cutoffs": (1,)}, "adaptive_cutoffs needs"),
    ],
)
def test_a_wrong_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments)


def test_v1_is_causal_and_the_current_classifier_is_bidirectional():
    assert small(version="v1").causal
    assert small(task="lm", d_input=3).causal
    assert not small().causal
    model = small(version="v1", task="regress").double().eval()
    u = torch.randn(2, 11, 2, dtype=torch.float64)
    changed = u.clone()
    changed[:, 6:] += 1.0
    difference = (model(changed) - model(u)).abs().amax(dim=(0, 2))
    assert difference[:6].max() < 1e-12  # the rounding of the FFT
    assert difference[6:].min() > 1e-6


# padding


@pytest.mark.parametrize("norm", ["layer", "batch"])
@pytest.mark.parametrize("prenorm", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_padding_has_no_influence_on_a_sequence(norm, prenorm, pooling):
    model = small(norm=norm, prenorm=prenorm, pooling=pooling, bidirectional=True).double()
    inputs, lengths = torch.randn(4, 30, 2, dtype=torch.float64), torch.tensor([30, 7, 19, 1])
    model(inputs, lengths)  # running statistics that are not the initial ones
    model.eval()
    together = model(inputs, lengths)
    other_padding = inputs.clone()
    for row, length in zip(other_padding, lengths, strict=True):
        row[length:] = 100.0
    torch.testing.assert_close(model(other_padding, lengths), together, rtol=1e-9, atol=1e-9)
    alone = torch.cat([model(x[None, :n]) for x, n in zip(inputs, lengths, strict=True)])
    torch.testing.assert_close(alone, together, rtol=1e-9, atol=1e-9)


def test_padding_has_no_influence_in_training_either():
    inputs, lengths, targets = torch.randn(4, 30, 2), torch.tensor([30, 7, 19, 1]), torch.tensor([0, 1, 2, 0])
    losses = []
    for filler in (0.0, 50.0):
        model = small(norm="batch", bidirectional=True)
        padded = inputs.clone()
        for row, length in zip(padded, lengths, strict=True):
            row[length:] = filler
        losses.append(model.loss(padded, targets, lengths))
        statistics = model.backbone.blocks[0].norm.running_mean.clone()
        losses.append(statistics.sum())
    torch.testing.assert_close(losses[:2], losses[2:])


def test_masked_batch_norm_has_the_statistics_of_the_valid_steps():
    norm = MaskedBatchNorm(3)
    x, mask = torch.randn(2, 5, 3), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]).bool()
    y = norm(x, mask)
    assert y[mask].mean(dim=0).abs().max() < 1e-6
    torch.testing.assert_close(y[mask].var(dim=0, unbiased=False), torch.ones(3), rtol=1e-3, atol=1e-3)
    assert not y[~mask].any()
    torch.testing.assert_close(norm.running_mean, 0.1 * x[mask].mean(dim=0))


def test_dropout_is_tied_over_time_and_off_in_evaluation():
    dropout, x = TiedDropout(0.5), torch.ones(4, 50, 16)
    y = dropout(x)
    assert (y == y[:, :1]).all()
    assert set(y.unique().tolist()) == {0.0, 2.0}
    untied = TiedDropout(0.5, tied=False)(x)
    assert not (untied == untied[:, :1]).all()
    assert dropout.eval()(x) is x


# recurrence


@pytest.mark.parametrize("mode", ["auto", "linear", "dense"])
@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_steps_give_what_the_whole_sequence_gives(mode, norm):
    model = small(task="regress", norm=norm, block=("s4", "ff")).double()
    u = torch.randn(3, 25, 2, dtype=torch.float64)
    model(u)
    model.eval().setup_step(mode)
    whole, state, outputs = model(u), model.default_state(3), []
    for t in range(25):
        y, state = model.step(u[:, t], state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, dim=1), whole, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_pooled_model_steps_to_what_it_would_say_of_the_sequence_so_far(pooling):
    model = small(pooling=pooling, bidirectional=False).double().eval().setup_step()
    u = torch.randn(2, 9, 2, dtype=torch.float64)
    state = model.default_state(2)
    for t in range(9):
        y, state = model.step(u[:, t], state)
        torch.testing.assert_close(y, model(u[:, : t + 1]), rtol=1e-8, atol=1e-8)


def test_chunks_with_the_state_handed_on_give_one_pass():
    model = small(task="regress").double().eval()
    u, state, parts = torch.randn(2, 37, 2, dtype=torch.float64), model.default_state(2), []
    for chunk in u.split([5, 1, 20, 11], dim=1):
        y, state = model.forward_chunk(chunk, state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, dim=1), model(u), rtol=1e-8, atol=1e-8)


def test_a_bidirectional_model_has_no_steps():
    with pytest.raises(ValueError, match="causal"):
        small().setup_step()
    with pytest.raises(ValueError, match="causal"):
        small().default_state(1)


def test_steps_with_weights_that_have_changed_are_refused():
    model = small(task="regress").eval().setup_step()
    with torch.no_grad():
        model.backbone.blocks[0].ssm.kernel.C.add_(1.0)
    with pytest.raises(RuntimeError, match="setup_step"):
        model.step(torch.randn(1, 2), model.default_state(1))


# generation


def test_greedy_generation_is_the_argmax_of_the_whole_sequence_at_each_step():
    model = small(7, 7, task="lm").double().eval()
    prompt = torch.randint(0, 7, (2, 5))
    tokens = model.generate(prompt, 12, temperature=0.0)
    assert tokens.shape == (2, 17)
    assert torch.equal(tokens[:, :5], prompt)
    assert torch.equal(model(tokens)[:, 4:-1].argmax(dim=-1), tokens[:, 5:])


def test_generation_follows_its_generator_and_leaves_the_mode_as_it_was():
    model = small(7, 7, task="lm").train()
    prompt = torch.zeros(1, 1, dtype=torch.long)

    def sample(seed):
        return model.generate(prompt, 20, generator=torch.Generator().manual_seed(seed)).tolist()

    assert sample(1) == sample(1) != sample(2)
    assert model.training
    assert model.generate(prompt, 0).tolist() == [[0]]


def test_sampling_keeps_only_what_top_k_and_top_p_allow():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).expand(2000, 4).contiguous()
    generator = torch.Generator().manual_seed(0)
    assert set(sample_token(logits, top_k=2, generator=generator).tolist()) == {0, 1}
    assert set(sample_token(logits, top_p=0.79, generator=generator).tolist()) == {0, 1}
    assert set(sample_token(logits, top_p=0.81, generator=generator).tolist()) == {0, 1, 2}
    assert set(sample_token(logits, top_p=0.01, generator=generator).tolist()) == {0}
    plain = sample_token(logits, generator=generator)
    assert plain.bincount(minlength=4).div(2000).tolist() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.04)


@pytest.mark.parametrize("options", [{"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_sampling_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="must"):
        sample_token(torch.zeros(1, 3), **options)


def test_generate_needs_a_language_model_and_a_prompt():
    with pytest.raises(ValueError, match="task 'lm'"):
        small().generate(torch.zeros(1, 1, dtype=torch.long), 1)
    with pytest.raises(ValueError, match="prompt"):
        small(7, 7, task="lm").generate(torch.zeros(1, 0, dtype=torch.long), 1)


# saving


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"version": "v1", "norm": "batch"},
        {"mode": "diag", "init": "lin"},
        {"mode": "dense", "bidirectional": False},
    ],
)
@pytest.mark.parametrize("l_max", [None, 16])
def test_a_saved_model_comes_back_bit_for_bit(options, l_max, tmp_path):
    if options.get("mode") == "dense":
        l_max = None
    model = small(l_max=l_max, **options)
    u = torch.randn(3, 40, 2)
    model(u)  # batch statistics, and kernel lengths beyond l_max
    model.eval()
    expected = model(u)
    model.save_pretrained(tmp_path)
    loaded = S4Model.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(u), expected)
    assert torch.equal(loaded(u[:, :7]), model(u[:, :7]))
    state, other = model.state_dict(), loaded.state_dict()
    assert all(torch.equal(state[name], other[name]) for name in state)
    assert not list(tmp_path.glob("*.bin"))


def test_a_loaded_language_model_generates_the_same_text(tmp_path):
    model = small(7, 7, task="lm", block=["s4", "ff"])
    prompt = torch.tensor([[1, 2, 3]])
    expected = model.generate(prompt, 10, temperature=0.0)
    model.save_pretrained(tmp_path)
    assert torch.equal(S4Model.from_pretrained(tmp_path).generate(prompt, 10, temperature=0.0), expected)


# the parts


def test_the_block_is_what_its_docstring_says():
    torch.manual_seed(0)
    block, x = S4Block(6, d_state=4), torch.randn(2, 9, 6)
    y, _ = block(x)
    ssm = block.ssm(nn.functional.layer_norm(x, (6,)))[0]
    a, b = block.mix(nn.functional.gelu(ssm)).chunk(2, dim=-1)
    torch.testing.assert_close(y, x + a * torch.sigmoid(b))
    v1 = S4Block(6, d_state=4, version="v1", prenorm=False)
    expected = nn.functional.layer_norm(x + v1.mix(nn.functional.gelu(v1.ssm(x)[0])), (6,))
    torch.testing.assert_close(v1(x)[0], expected)


def test_the_wikitext_form_has_two_s4_and_a_feed_forward_in_each_block():
    model = small(60, 60, task="lm", block=("s4", "s4", "ff"), adaptive_cutoffs=(20, 40), d_model=16)
    assert [type(b).__name__ for b in model.backbone.blocks] == ["S4Block", "S4Block", "FeedForward"] * 2
    tokens = torch.randint(0, 60, (2, 12))
    log_probabilities = model(tokens)
    torch.testing.assert_close(log_probabilities.exp().sum(-1), torch.ones(2, 12))
    picked = log_probabilities.gather(-1, tokens[..., None]).mean()
    torch.testing.assert_close(model.loss(tokens, tokens), -picked)


def test_adaptive_softmax_shares_the_vectors_of_the_embedding():
    embedding = AdaptiveEmbedding(50, 16, cutoffs=(10, 30))
    softmax = AdaptiveSoftmax(embedding)
    assert [tuple(t.shape) for t in embedding.tables] == [(10, 16), (20, 4), (20, 1)]
    owned = sum(p.numel() for p in softmax.parameters())
    assert owned == 2 * 16 + 12 + 20 + 20
    tokens = torch.tensor([0, 9, 10, 29, 30, 49])
    softmax.loss(embedding(tokens), tokens).backward()
    assert all(table.grad is not None and table.grad.abs().sum() > 0 for table in embedding.tables)
    with pytest.raises(ValueError, match="cutoffs must rise"):
        AdaptiveEmbedding(50, 16, cutoffs=(30, 10))


def test_half_the_sampling_rate_with_the_rate_told_changes_little():
    model = small(task="regress", d_input=1, d_output=1).eval()
    t = torch.linspace(0, 12, 512)
    u = torch.sin(t)[None, :, None]
    with torch.no_grad():
        full, half, untold = model(u)[:, ::2], model(u[:, ::2], rate=2.0), model(u[:, ::2])
    assert (full - half)[:, 50:].square().mean() < 0.05 * (full - untold)[:, 50:].square().mean()
