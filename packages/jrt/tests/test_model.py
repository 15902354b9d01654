import pytest
import torch

from jrt_impl import JRTForCausalLM, jrt_loss, load_official, mask_prefix


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def model(**options):
    torch.manual_seed(0)
    settings = {"d_model": 16, "layers": ["conv", "pla", "window", "pla"], "window": 5, "prefix_len": 8}
    return JRTForCausalLM(vocab_size=30, **{**settings, **options}).double()


def test_the_loss_adds_its_two_parts_and_the_official_form_drops_token_0():
    logits, labels = draw(1, 6, 9), torch.tensor([[-100, 0, 3, 4, 5, 6]])
    parts = [torch.nn.functional.cross_entropy(logits[0, s].float(), labels[0, s]) for s in (slice(1, 3), slice(3, 6))]
    torch.testing.assert_close(jrt_loss(logits, labels, 3).float(), parts[1] + 0.25 * parts[0])
    assert jrt_loss(logits, labels, 3, compat="official") != jrt_loss(logits, labels, 3)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"ids must be in 0\.\.29, got 30"):
        model()(torch.tensor([[30]]))
    with pytest.raises(ValueError, match="at least one token"):
        model()(torch.zeros(1, 0, dtype=torch.long))
    with pytest.raises(ValueError, match="only -100"):
        jrt_loss(draw(1, 2, 3), torch.full((1, 2), -100), 1)
    with pytest.raises(ValueError, match="no token of the text"):
        mask_prefix(torch.tensor([[3]]), mask_token_id=3)


def test_weights_in_the_authors_layout_are_mapped_key_by_key():
    one, other = model(), model()
    names = {"embedding.weight": "transformer.embeddings.word_embeddings.weight"}
    names["norm.weight"] = "transformer.ln_f.weight"
    theirs = {}
    for key, tensor in one.state_dict().items():
        name = names.get(key, key.replace("blocks.", "transformer.layers."))
        name = name.replace("mixer.conv.", "mixer.conv.conv.").replace(".fc", ".mlp.fc")
        theirs[name] = tensor + 0.1
    load_official(other, theirs)
    for key, tensor in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[key], tensor + 0.1)
    with pytest.raises(ValueError, match="missing"):
        load_official(other, {k: v for k, v in theirs.items() if "ln_f" not in k})


def test_generation_goes_on_from_the_prompt_and_a_model_is_saved_whole(tmp_path):
    lm, ids = model().float(), torch.tensor([[1, 2, 3]])
    out = lm.generate(ids, max_new_tokens=4)
    assert out.shape == (1, 7)
    assert out[0, 3] == lm.prefill(ids)[0].argmax()
    lm.save_pretrained(tmp_path)
    assert torch.equal(JRTForCausalLM.from_pretrained(tmp_path).generate(ids, max_new_tokens=4), out)
