import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from gla_impl import (
    GLA_1_3B,
    GLA_340M,
    MODELS,
    PRETRAIN_340M,
    GLAConfig,
    GLAForCausalLM,
    comparison_config,
    detach,
    state_bytes,
)
from gla_impl.config import swiglu_width
from gla_impl.generation import next_token
from gla_impl.lm import lm_loss
from shared_impl.pretrained import WeightsError

SMALL = GLAConfig(vocab_size=50, d_model=32, n_layers=2, n_heads=2, ffn_width=48, ssm_state=4)
models = pytest.mark.parametrize("name", ["gla", "gla-outer", "transformer++", "retnet", "mamba"])


def build(name="gla", **changes):
    return GLAForCausalLM(comparison_config(name, dataclasses.replace(SMALL, **changes))).eval()


@models
def test_reading_in_segments_gives_the_logits_of_reading_at_once(name):
    model = build(name).double()
    ids = torch.randint(50, (2, 90))
    whole = model(ids).logits
    state, parts = None, []
    for piece in ids.split([1, 40, 49], dim=1):
        logits, state, _ = model(piece, state)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-6, atol=1e-8)


@models
def test_greedy_generation_is_what_full_passes_predict(name):
    model = build(name).double()
    ids = torch.randint(50, (2, 7))
    grown = ids
    for _ in range(12):
        grown = torch.cat([grown, model(grown).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(model.generate(ids, max_new_tokens=12, temperature=0.0), grown)


@models
@pytest.mark.parametrize("side", ["left", "right"])
def test_prompts_of_different_lengths_generate_as_if_alone(name, side):
    model = build(name).double()
    long, short = torch.randint(50, (1, 11)), torch.randint(50, (1, 4))
    filler = torch.full((1, 7), 49)
    padded = torch.cat([filler, short] if side == "left" else [short, filler], 1)
    mask = torch.ones(2, 11, dtype=torch.long)
    mask[1, slice(0, 7) if side == "left" else slice(4, 11)] = 0
    together = model.generate(
        torch.cat([long, padded]), attention_mask=mask, max_new_tokens=8, temperature=0.0, repetition_penalty=1.2
    )
    alone = [model.generate(ids, max_new_tokens=8, temperature=0.0, repetition_penalty=1.2) for ids in (long, short)]
    assert torch.equal(together[0, -8:], alone[0][0, -8:])
    assert torch.equal(together[1, -8:], alone[1][0, -8:])


def test_memory_of_generation_is_constant_for_gla_and_grows_for_attention():
    ids = torch.randint(50, (1, 5))
    more = torch.randint(50, (1, 500))
    sizes = {
        name: [state_bytes(model(x).state) for x in (ids, more)]
        for name, model in (("gla", build()), ("transformer++", build("transformer++")))
    }
    # layers x heads x key size x value size x 4 bytes
    assert sizes["gla"] == [2 * 2 * 8 * 16 * 4] * 2
    assert sizes["transformer++"][1] > 90 * sizes["transformer++"][0]


def test_generation_stops_at_the_end_token_and_fills_finished_rows():
    model = build()
    ids = torch.randint(50, (3, 4))
    free = model.generate(ids, max_new_tokens=30, generator=torch.Generator().manual_seed(1))
    end = int(free[0, 8])
    stopped = model.generate(ids, max_new_tokens=30, eos_token_id=end, generator=torch.Generator().manual_seed(1))
    row = stopped[0, 4:].tolist()
    first = row.index(end)
    assert set(row[first:]) == {end}
    assert torch.equal(stopped[0, : 4 + first + 1], free[0, : 4 + first + 1])


def test_generation_is_repeatable_and_streams_the_same_tokens():
    model = build()
    ids = torch.randint(50, (2, 4))
    runs = [
        model.generate(ids, max_new_tokens=9, top_k=5, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    ]
    assert torch.equal(*runs)
    stream = model.stream(ids, max_new_tokens=9, top_k=5, generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.stack(list(stream), 1), runs[0][:, 4:])


def test_save_and_load_give_the_same_model(tmp_path, capsys):
    for name in MODELS:
        model = build(name)
        model.save_pretrained(tmp_path / name)
        loaded = GLAForCausalLM.from_pretrained(tmp_path / name)
        assert loaded.config == model.config
        ids = torch.randint(50, (1, 9))
        assert torch.equal(loaded(ids).logits, model(ids).logits)
    assert sorted(p.name for p in (tmp_path / "gla").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert capsys.readouterr().out == ""


def test_loading_weights_that_do_not_fit_fails(tmp_path):
    build().save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text().replace('"n_layers": 2', '"n_layers": 3')
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(WeightsError, match=r"it lacks blocks\.2"):
        GLAForCausalLM.from_pretrained(tmp_path)


def test_loss_counts_marked_places_only():
    model = build()
    ids = torch.randint(50, (2, 10))
    targets = torch.full((2, 10), -100)
    targets[0, 3], targets[1, 7] = 11, 12
    logits = model(ids).logits
    expected = F.cross_entropy(torch.stack([logits[0, 3], logits[1, 7]]), torch.tensor([11, 12]))
    output = model(ids, targets=targets)
    torch.testing.assert_close(output.loss, expected)
    assert output.logits is None


def test_truncated_backpropagation_has_the_loss_of_the_whole_and_the_gradient_of_the_parts():
    model = build().double()
    tokens = torch.randint(50, (2, 41))
    whole = lm_loss(model, tokens)
    parts = lm_loss(model, tokens, seq_len=10)
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-8)
    names = [name for name, _ in model.named_parameters()]
    truncated = dict(zip(names, torch.autograd.grad(parts, list(model.parameters())), strict=True))
    full = dict(zip(names, torch.autograd.grad(whole, list(model.parameters())), strict=True))

    by_hand = dict.fromkeys(names, 0.0)
    state = None
    for start in range(0, 40, 10):
        output = model(tokens[:, start : start + 10], state, targets=tokens[:, start + 1 : start + 11])
        state = detach(output.state)
        for name, gradient in zip(names, torch.autograd.grad(output.loss / 4, list(model.parameters())), strict=True):
            by_hand[name] = by_hand[name] + gradient
    for name in names:
        torch.testing.assert_close(truncated[name], by_hand[name], rtol=1e-5, atol=1e-9)
    # and it does cut something off
    assert not torch.allclose(truncated["blocks.0.mixer.k_proj.weight"], full["blocks.0.mixer.k_proj.weight"])


def test_untrained_model_knows_nothing():
    ids = torch.randint(50, (4, 64))
    assert abs(build()(ids, targets=ids).loss.item() - math.log(50)) < 0.1


def test_head_is_not_tied_to_the_embedding():
    model = build()
    assert model.lm_head.weight is not model.embedding.weight
    assert model.lm_head.weight.data_ptr() != model.embedding.weight.data_ptr()


@pytest.mark.parametrize(("config", "low", "high"), [(GLA_340M, 330e6, 390e6), (GLA_1_3B, 1.28e9, 1.42e9)])
def test_named_configurations_have_the_size_of_their_name(config, low, high):
    with torch.device("meta"):
        assert low < sum(p.numel() for p in GLAForCausalLM(config).parameters()) < high


def test_swiglu_width_and_recipe_are_the_papers():
    assert [swiglu_width(d) for d in (96, 1024, 2048)] == [256, 2816, 5632]
    assert PRETRAIN_340M.steps == 30_000


def test_sampling_options_do_what_they_say():
    logits = torch.tensor([[3.0, 2.0, 1.0, -1.0]]).repeat(4000, 1)

    def frequencies(**options):
        drawn = next_token(logits, generator=torch.Generator().manual_seed(0), **options)
        return torch.bincount(drawn, minlength=4) / 4000

    torch.testing.assert_close(frequencies(), logits[0].softmax(-1), atol=0.03, rtol=0)
    torch.testing.assert_close(frequencies(temperature=2.0), (logits[0] / 2).softmax(-1), atol=0.03, rtol=0)
    assert frequencies(top_k=2)[2:].sum() == 0
    assert frequencies(top_k=2)[1] > 0
    # probabilities are 0.66, 0.24, 0.09, 0.01
    assert (frequencies(top_p=0.6) > 0).tolist() == [True, False, False, False]
    assert (frequencies(top_p=0.7) > 0).tolist() == [True, True, False, False]
    assert frequencies(temperature=0.0)[0] == 1
    seen = torch.tensor([[True, False, False, True]]).repeat(4000, 1)
    penalised = torch.tensor([1.5, 2.0, 1.0, -2.0]).softmax(-1)
    torch.testing.assert_close(frequencies(repetition_penalty=2.0, seen=seen), penalised, atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature must not be negative, got -1.0"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"top_p": 1.5}, r"top_p must be in \(0, 1\], got 1.5"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be positive, got 0.0"),
        ({"max_new_tokens": -1}, "max_new_tokens must not be negative, got -1"),
    ],
)
def test_bad_generation_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build().generate(torch.randint(50, (1, 3)), **options)


def test_bad_inputs_are_named():
    model = build()
    with pytest.raises(ValueError, match="length 0"):
        model(torch.zeros(1, 0, dtype=torch.long))
    with pytest.raises(ValueError, match="state must have 2 layers, got 1"):
        model(torch.zeros(1, 3, dtype=torch.long), (None,))
    with pytest.raises(ValueError, match="at least one token in every row"):
        model.generate(torch.zeros(1, 3, dtype=torch.long), attention_mask=torch.zeros(1, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="n_layers must be at least 1, got 0"):
        GLAConfig(vocab_size=5, n_layers=0)


@pytest.mark.gpu
@models
def test_generation_runs_on_a_gpu(name):
    model = build(name).cuda()
    ids = torch.randint(50, (2, 70), device="cuda")
    generated = model.generate(ids, max_new_tokens=5, temperature=0.0)
    assert torch.equal(generated.cpu(), model.cpu().generate(ids.cpu(), max_new_tokens=5, temperature=0.0))
