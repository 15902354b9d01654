import pytest
import torch

from jrt_impl import JRTForCausalLM, JRTPrompt, ReadTwice, evaluate_prompt, fit_context, read_twice, truncate_around
from jrt_impl.text import ByteTokenizer


class Parrot:
    """A model that says what stands after the last "is" of its prompt's first line, then a new line."""

    def __init__(self):
        self.prompts = []

    def generate(self, ids, *, max_new_tokens, do_sample):
        assert not do_sample
        text = ByteTokenizer().decode(ids[0])
        self.prompts.append(text)
        said = text.partition(" is ")[2].partition(".")[0] + "\nmore"
        new = torch.tensor([list(said.encode())[:max_new_tokens]])
        return torch.cat([ids, new], 1)


ROWS = [{"context": "The name is Bob.", "question": "Who?", "answer": "bob"}, {"context": "It is red.",
        "question": "Colour?", "answer": "blue"}]  # fmt: skip


def test_any_prompt_is_read_twice():
    assert read_twice("Text. Q?") == "Text. Q?\nText. Q?"
    assert read_twice("Text. Q?", "Q?") == "Q? Text. Q?\nText. Q?"
    assert read_twice("Text. Q?", "Q?", repeats=1) == "Text. Q?"
    with pytest.raises(ValueError, match="must not be empty"):
        read_twice(" ")


def test_a_template_of_ones_own_may_hold_braces_in_the_context():
    prompt = JRTPrompt("Context: {context}\nQ: {question}\nA:")
    assert prompt.wrap("{x}", "Why {y}?", 1) == "Context: {x}\nQ: Why {y}?\nA:"
    assert prompt.wrap("{x}", "Why?") == "Why? {x}\nContext: {x}\nQ: Why?\nA:"
    with pytest.raises(ValueError, match="template must be one of"):
        JRTPrompt("Q: {question}")
    with pytest.raises(ValueError, match="must not be empty"):
        JRTPrompt().wrap("", "Who?")
    with pytest.raises(ValueError, match="repeats must be"):
        prompt.wrap("c", "q", 0)


def test_the_context_is_cut_around_the_answer_and_never_loses_it():
    words = " ".join(map(str, range(100)))
    cut = truncate_around(words, "70", words=10)
    assert "70" in cut.split()
    assert len(cut.split()) == 10
    assert truncate_around(words, "99", words=10).endswith("99")
    with pytest.raises(ValueError, match="must occur in the context"):
        truncate_around(words, "hundred")
    with pytest.raises(ValueError, match="leave room for the answer"):
        truncate_around(words, "50 51 52", words=2)


def test_the_longest_beginning_that_fits_is_kept():
    assert fit_context("a b c d", lambda text: len(text) <= 5) == "a b c"
    assert fit_context("a  b", lambda text: True) == "a  b"
    with pytest.raises(ValueError, match="no room"):
        fit_context("abc", lambda text: False)


def test_scores_are_counted_and_answers_end_with_the_line():
    model, said = Parrot(), []
    scores = evaluate_prompt(model, ByteTokenizer(), ROWS, report=lambda text, hit: said.append((text, hit)))
    assert said == [("Bob", True), ("red", False)]
    assert scores["contains"] == scores["exact"] == scores["f1"] == 0.5
    assert model.prompts[0] == "Who? The name is Bob.\nThe name is Bob. Who?"
    assert scores["prompt_tokens"] == sum(map(len, model.prompts)) / 2


def test_a_prompt_too_long_is_refused_or_cut_as_asked():
    with pytest.raises(ValueError, match="row 0: 43 tokens do not fit max_length 50"):
        evaluate_prompt(Parrot(), ByteTokenizer(), ROWS, max_length=50, max_new_tokens=9)
    reader = ReadTwice(Parrot(), ByteTokenizer(), max_length=45, max_new_tokens=10)
    assert reader.prompt("The name is Bob.", "Who?") == "Who? The name is\nThe name is Who?"
    strict = ReadTwice(Parrot(), ByteTokenizer(), max_length=45, max_new_tokens=10, long="refuse")
    with pytest.raises(ValueError, match="do not fit max_length 45"):
        strict.prompt("The name is Bob.", "Who?")
    assert ReadTwice(Parrot(), ByteTokenizer())("It is so.", "What?") == "so"


def test_rows_that_lack_something_are_named():
    with pytest.raises(ValueError, match="at least one row"):
        evaluate_prompt(Parrot(), ByteTokenizer(), [])
    with pytest.raises(ValueError, match="dataset row 0 must have answer"):
        evaluate_prompt(Parrot(), ByteTokenizer(), [{"context": "c", "question": "q"}])
    with pytest.raises(ValueError, match="cut or refuse"):
        ReadTwice(Parrot(), ByteTokenizer(), long="drop")
    with pytest.raises(ValueError, match="at least 1"):
        ReadTwice(Parrot(), ByteTokenizer(), max_new_tokens=0)


def test_our_own_model_answers_like_any_other():
    torch.manual_seed(0)
    model = JRTForCausalLM(vocab_size=257, d_model=16, layers=["conv", "pla"]).eval()
    scores = evaluate_prompt(model, ByteTokenizer(), ROWS, max_new_tokens=4)
    assert scores["questions"] == 2


@pytest.mark.slow
def test_a_model_of_transformers_answers_from_its_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.models.WordLevel({"[UNK]": 0, "Who": 1, "?": 2, "Bob": 3, ".": 4}, unk_token="[UNK]")
    core = tokenizers.Tokenizer(words)
    core.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=5, n_positions=32, n_embd=8, n_layer=1, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    reader = ReadTwice.from_pretrained(str(tmp_path), max_new_tokens=4)
    assert reader.max_length == 32
    assert isinstance(reader("Bob . " * 3, "Who?"), str)
    assert len(reader.prompt("Bob . " * 50, "Who?").split("Bob")) < 20
