import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gla_impl import GLAConfig, GLAForCausalLM, Vocabulary, evaluate_loss, file_corpus, loss_by_position
from gla_impl.lm import random_crops
from gla_impl.text import python_docs_corpus, tiny_shakespeare_corpus, wikitext2_corpus
from shared_impl.cli import UserError


@given(text=st.text(st.characters(exclude_categories=("Cs",)), min_size=1))
@pytest.mark.parametrize("level", ["char", "byte"])
def test_characters_and_bytes_come_back_as_they_went(level, text):
    vocabulary = Vocabulary.of(text, level)
    ids = vocabulary.encode(text)
    assert ids.dtype == np.int64
    assert ids.max() < len(vocabulary)
    assert vocabulary.decode(ids) == text


def test_words_come_back_with_unknown_ones_marked():
    vocabulary = Vocabulary.of("the cat sat\non the mat\n", "word")
    assert vocabulary.decode(vocabulary.encode("the dog sat\n")) == "the <unk> sat\n"
    assert len(vocabulary) == 5 + 2


def test_a_character_that_was_never_seen_is_named():
    with pytest.raises(UserError, match="character 'z' is not among the 2"):
        Vocabulary.of("ab", "char").encode("az")


def test_vocabulary_survives_saving(tmp_path):
    vocabulary = Vocabulary.of("die Würde\n", "char")
    vocabulary.save(tmp_path / "v.json")
    assert Vocabulary.load(tmp_path / "v.json") == vocabulary
    (tmp_path / "bad.json").write_text("[1, 2]")
    with pytest.raises(UserError, match="is not a vocabulary"):
        Vocabulary.load(tmp_path / "bad.json")


def test_the_end_of_a_file_is_held_out_and_words_come_from_the_rest(tmp_path):
    (tmp_path / "t.txt").write_text("a b c d e f g h i\nz z z\n")
    corpus = file_corpus(tmp_path / "t.txt", level="word", valid_fraction=0.25)
    assert "z" not in corpus.vocabulary.tokens
    assert corpus.vocabulary.decode(corpus.valid) == "<unk> <unk> <unk>\n"
    chars = file_corpus(tmp_path / "t.txt", level="char", valid_fraction=0.25)
    text = chars.vocabulary.decode(np.concatenate([chars.train, chars.valid]))
    assert text == (tmp_path / "t.txt").read_text()


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        file_corpus(tmp_path / "absent.txt")
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UserError, match="is empty"):
        file_corpus(tmp_path / "empty.txt")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x01" * 10)
    with pytest.raises(UserError, match=r"is not UTF-8 text .*--level byte"):
        file_corpus(tmp_path / "binary")
    assert len(file_corpus(tmp_path / "binary", level="byte").train) == 36


def test_crops_are_successive_tokens_from_everywhere():
    draw = random_crops(np.arange(50), batch_size=400, length=10)
    batch = draw(torch.Generator().manual_seed(0))
    assert batch.shape == (400, 10)
    assert (batch.diff(dim=1) == 1).all()
    assert set(batch[:, 0].tolist()) == set(range(41))
    with pytest.raises(ValueError, match="the text has 5 tokens, but a sequence needs 10"):
        random_crops(np.arange(5), 1, 10)


def test_loss_by_position_is_the_loss_of_whole_sequences():
    model = GLAForCausalLM(GLAConfig(vocab_size=11, d_model=16, n_layers=2, n_heads=2, ffn_width=16)).double()
    ids = np.random.default_rng(0).integers(0, 11, 95)
    by_piece = loss_by_position(model, ids, length=30, piece=7, batch_size=2)
    text = torch.from_numpy(ids[:91])
    logits = model(text[:-1].view(3, 30)).logits.detach()
    expected = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2).float(), text[1:].view(3, 30), reduction="none"
    ).mean(0)
    torch.testing.assert_close(by_piece.float(), expected, rtol=1e-5, atol=1e-6)
    assert evaluate_loss(model, ids, seq_len=30)["loss"] == pytest.approx(expected.mean().item(), rel=1e-5)
    with pytest.raises(ValueError, match="the text has 95 tokens, but a sequence needs 101"):
        loss_by_position(model, ids, length=100)


@pytest.mark.data("tinyshakespeare")
def test_tiny_shakespeare_is_split_as_usual():
    corpus = tiny_shakespeare_corpus()
    assert len(corpus.vocabulary) == 65
    assert (len(corpus.train), len(corpus.valid)) == (1_003_854, 111_540)
    assert corpus.vocabulary.decode(corpus.train[:14]) == "First Citizen:"


@pytest.mark.data("wikitext-2")
def test_wikitext_has_the_published_number_of_words():
    corpus = wikitext2_corpus()
    assert (len(corpus.train), len(corpus.valid)) == (217_646, 245_569)
    assert corpus.vocabulary.tokens[0] == "<unk>"


def test_python_brings_enough_english_for_the_demo():
    corpus = python_docs_corpus()
    assert len(corpus.train) > 300_000
    assert len(corpus.valid) > 16 * 2048
