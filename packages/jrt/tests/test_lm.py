import pytest
import torch

from jrt_impl import JRTForCausalLM
from jrt_impl.lm import LMRecipe, continue_text, lm_config, optimizer_of, perplexity, train_lm
from jrt_impl.text import ByteTokenizer, corpus

RECIPE = LMRecipe(steps=20, batch_size=2, seq_len=24, prefix_len=10, lr=2e-2)


def tokens(n=600):
    return torch.tensor(list(b"the cat sat on the mat. " * (n // 24 + 1)))[:n]


def test_bytes_go_there_and_back():
    tokenizer = ByteTokenizer()
    ids = tokenizer("é{}\n", return_tensors="pt")["input_ids"]
    assert tokenizer.decode(ids[0]) == "é{}\n"
    assert tokenizer.decode([256, 195]) == "\ufffd"
    assert tokenizer("ab")["input_ids"] == [97, 98]


def test_the_last_tenth_of_a_file_is_held_out(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(bytes(range(100)))
    train, held_out = corpus(path)
    assert train.tolist() == list(range(90))
    assert held_out.tolist() == list(range(90, 100))
    path.write_bytes(b"short")
    with pytest.raises(ValueError, match="at least 10 bytes"):
        corpus(path)


@pytest.mark.data
def test_wikitext2_is_read_as_bytes():
    train, held_out = corpus("wikitext2")
    assert (len(train), len(held_out)) == (1_121_681, 1_256_449)


@pytest.mark.parametrize("mixer", ["jrt", "based"])
def test_training_lowers_perplexity(mixer):
    torch.manual_seed(0)
    model = JRTForCausalLM.from_config(lm_config(mixer, RECIPE, d_model=16, n_layers=2))
    before = perplexity(model, tokens(), RECIPE)
    train_lm(model, tokens(), RECIPE)
    after = perplexity(model, tokens(), RECIPE)
    assert set(after) == {"after prefix", "within prefix"}
    assert all(after[name] < before[name] / 2 for name in after)


def test_a_run_that_was_interrupted_goes_on_to_the_same_weights(tmp_path):
    def train(recipe, folder):
        torch.manual_seed(0)
        model = JRTForCausalLM.from_config(lm_config("jrt", recipe, d_model=8, n_layers=2))
        train_lm(model, tokens(), recipe, out_dir=folder)
        return model.state_dict()

    recipe = LMRecipe(steps=4, batch_size=2, seq_len=24, prefix_len=10)
    straight = train(recipe, None)
    train(recipe, tmp_path)
    again = train(recipe, tmp_path)  # found finished
    torch.testing.assert_close(again, straight)


def test_norms_and_biases_do_not_decay():
    model = JRTForCausalLM.from_config(lm_config("jrt", RECIPE, d_model=8, n_layers=2))
    decayed, plain = optimizer_of(model, RECIPE).param_groups
    assert decayed["weight_decay"] == 0.1
    assert plain["weight_decay"] == 0.0
    assert {p.dim() for p in plain["params"]} == {1}


def test_what_cannot_be_is_named(tmp_path):
    with pytest.raises(ValueError, match="prefix_len must be in"):
        LMRecipe(prefix_len=256)
    with pytest.raises(ValueError, match="steps must be"):
        LMRecipe(steps=0)
    with pytest.raises(ValueError, match="lr must be"):
        LMRecipe(lr=0.0)
    model = JRTForCausalLM.from_config(lm_config("jrt", RECIPE, d_model=8, n_layers=2))
    with pytest.raises(ValueError, match="more than 25 tokens"):
        train_lm(model, tokens(20), RECIPE)
    with pytest.raises(ValueError, match="at least 25"):
        perplexity(model, tokens(20), RECIPE)
    with pytest.raises(FileNotFoundError):
        continue_text(tmp_path, "a", max_new_tokens=1, temperature=0.0, seed=0, device=torch.device("cpu"))
