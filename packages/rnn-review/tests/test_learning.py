"""Estimators, language models and n-grams, losses, readers: what they give and what they refuse."""

import math
import subprocess
import sys
import wave

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from rnn_review_impl import (
    CharLM,
    LanguageModel,
    NGram,
    SequenceClassifier,
    SequenceTagger,
    ctc_loss,
    gaussian,
    iam_strokes,
    multilabel,
    parallel_text,
    softmax_cross_entropy,
    spoken_digits,
    squared,
)
from rnn_review_impl.data import concatenated
from rnn_review_impl.figures import gate_memory, reach, sensitivity

FAST = {"hidden_size": 8, "max_steps": 60, "lr": 0.03, "random_state": 0}


def waves(n=60, seed=0):
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 2, n)
    rows = [np.sin(np.arange(rng.integers(8, 20)) * (0.3, 1.2)[k] + rng.uniform(0, 6)) for k in kinds]
    return rows, np.array(["slow", "fast"])[kinds]


def test_a_classifier_learns_sequences_of_unequal_lengths_and_is_saved_whole(tmp_path):
    X, y = waves()
    model = SequenceClassifier(**FAST).fit(X, y)
    assert model.score(*waves(100, seed=1)) > 0.9
    assert model.skill_ > 0.5
    p = model.predict_proba(X)
    assert np.allclose(p.sum(1), 1)
    assert ((model.decision_function(X) > 0) == (model.predict(X) == "slow")).all()
    again = SequenceClassifier.load(model.save(tmp_path))
    assert np.array_equal(again.predict_proba(X), p)
    assert np.allclose(again.predict_proba(X[:1]), p[:1], atol=1e-12)
    with pytest.raises(ValueError, match=r"SequenceTagger\.save wrote"):
        SequenceTagger.load(tmp_path)


def test_the_same_random_state_gives_the_same_model_and_leaves_the_global_generator_alone():
    X, y = waves(20)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    settings = {**FAST, "max_steps": 3}
    first, again = (clone(SequenceClassifier(**settings)).fit(X, y).predict_proba(X) for _ in range(2))
    assert np.array_equal(first, again)
    assert torch.equal(torch.rand(2), expected)


def test_a_table_and_a_data_frame_are_sequences_of_one_feature():
    import pandas as pd

    table = np.stack([row[:8] for row in waves(30)[0]])
    y = waves(30)[1]
    frame = pd.DataFrame(table, columns=[f"t{i}" for i in range(8)])
    model = SequenceClassifier(**{**FAST, "max_steps": 3}).fit(frame, y)
    assert list(model.feature_names_in_) == list(frame.columns)
    assert np.array_equal(model.predict(frame), model.predict(list(table[:, :, None])))
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[frame.columns[::-1]])


def test_a_classifier_that_is_no_better_than_the_most_frequent_class_says_so():
    rng = np.random.default_rng(0)
    X, y = [rng.standard_normal((5, 1)) for _ in range(40)], np.array([0, 0, 0, 1] * 10)
    model = SequenceClassifier(**{**FAST, "max_steps": 1}).fit(X, y)
    # noise is named 1 throughout
    with torch.no_grad():
        model.model_.output.bias[1] = 99.0
    with pytest.warns(UserWarning, match="no better than the most frequent"):
        model._judge(model._given(X)[0], list(y[:, None]), list(y[:, None]))
    assert model.skill_ < 0


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        ([np.zeros((3, 1)), np.zeros((0, 1))], [0, 1], r"X\[1\] must be \(steps, features\) with at least one step"),
        ([np.zeros((3, 1)), np.zeros((2, 2))], [0, 1], r"X\[1\] must have 1 features a step, got 2"),
        ([np.zeros(3), np.array([1, math.nan])], [0, 1], r"X\[1\] must be finite"),
        ([np.zeros(3), np.ones(2)], [0, 0], "at least two classes"),
        ([np.zeros(3), np.ones(2)], [0, 1, 1], "y must be 2 labels"),
        ([np.zeros(3), np.array(["a"])], [0, 1], r"X\[1\] must be a table of numbers"),
    ],
)
def test_bad_sequences_are_refused_by_number(X, y, message):
    with pytest.raises(ValueError, match=message):
        SequenceClassifier(**FAST).fit(X, y)
    with pytest.raises(NotFittedError):
        SequenceClassifier().predict(X)


@pytest.mark.filterwarnings("ignore:accuracy on held-out")
@pytest.mark.parametrize("n", [2, 3, 5, 9])
def test_a_few_sequences_are_enough_to_fit(n):
    X, y = [np.full(4, float(i % 2)) for i in range(n)], np.arange(n) % 2
    model = SequenceClassifier(**{**FAST, "max_steps": 5}).fit(X, y)
    assert model.n_iter_ == 5
    table = np.arange(n, dtype=float)[:, None]
    assert SequenceTagger(**{**FAST, "max_steps": 2}).fit(table, y).predict(table).shape == (n,)


def test_a_tagger_names_every_step_of_lists_and_of_one_table(tmp_path):
    rng = np.random.default_rng(0)
    X = [rng.integers(0, 2, rng.integers(4, 12)).astype(float) for _ in range(20)]
    y = [np.where(np.append(False, row[1:] != row[:-1]), "other", "same") for row in X]
    model = SequenceTagger(**FAST).fit(X, y)
    assert model.score(X, y) > 0.9
    assert [len(own) for own in model.predict(X)] == [len(row) for row in X]
    again = SequenceTagger.load(model.save(tmp_path))
    assert all(np.array_equal(a, b) for a, b in zip(again.predict_proba(X), model.predict_proba(X), strict=True))
    whole = SequenceTagger(**{**FAST, "max_steps": 3}).fit(np.concatenate(X)[:, None], np.concatenate(y))
    assert whole.predict(np.concatenate(X)[:, None]).shape == (sum(map(len, X)),)
    with pytest.raises(ValueError, match=r"y\[1\] must be 5 labels, one a step"):
        SequenceTagger(**FAST).fit([np.zeros(3), np.zeros(5)], [[0, 1, 0], [0, 1]])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SequenceClassifier", "SequenceTagger"])
def test_the_estimators_pass_the_checks_of_scikit_learn(name):
    """In a process of its own: the suite sets arguments of every type, which the shape checks of these tests refuse."""
    code = f"""
import warnings
from rnn_review_impl import {name}
from sklearn.utils.estimator_checks import check_estimator
warnings.simplefilter("ignore")
# a step's tag depends on its neighbours: that is what the tagger is for
order = "check_methods_sample_order_invariance", "check_methods_subset_invariance"
expected = dict.fromkeys(order, "tags depend on neighbours") if "{name}" == "SequenceTagger" else {{}}
model = {name}(hidden_size=8, max_steps=100, lr=0.03, random_state=0)
results = check_estimator(model, on_fail=None, expected_failed_checks=expected)
failed = [(r["check_name"], r["exception"]) for r in results if r["status"] == "failed"]
raise SystemExit(f"failed: {{failed}}" if failed or len(results) < 40 else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-2000:]


def test_n_grams_are_distributions_and_count_as_one_counts_by_hand():
    ids = np.array([0, 1, 0, 2, 0, 1, 1, 0])
    model = NGram(2, 3).fit(ids)
    # after 0: 1 twice, 2 once; p1 = (c1 + 3/3) / (8 + 3), unigram counts 4, 3, 1
    p1 = {s: (c + 3 / 3) / (8 + 3) for s, c in enumerate((4, 3, 1))}
    assert model.nll(np.array([0, 1])) == pytest.approx(-math.log((2 + 2 * p1[1]) / (3 + 2)))
    for context in range(3):
        total = sum(math.exp(-model.nll(np.array([context, symbol]))) for symbol in range(3))
        assert total == pytest.approx(1)
    with pytest.raises(ValueError, match="ids must be from 0 to 2, got 0 to 3"):
        model.nll(np.array([0, 3]))
    with pytest.raises(ValueError, match="fit must come before"):
        NGram(1, 3).nll(ids)


TEXT = "the cat sat on the mat. " * 20


def test_a_character_model_learns_writes_and_comes_back(tmp_path):
    model = CharLM(hidden_size=16, steps=60, lr=0.05, batch_size=8, window=12).fit(TEXT)
    assert model.loss_ < model.baseline_
    assert model.skill_ > 0
    assert model.perplexity(TEXT) == pytest.approx(math.exp(model.nll(TEXT)))
    assert model.nll(TEXT, piece=7) == pytest.approx(model.nll(TEXT), abs=1e-4)
    written = model.generate("the c", 10, do_sample=False)
    assert written == "the cat sat on "
    assert model.generate("t", 5, seed=1) == model.generate("t", 5, seed=1)
    again = CharLM.load(model.save(tmp_path))
    assert again.nll(TEXT) == model.nll(TEXT)
    with pytest.raises(ValueError, match="got 'X'"):
        model.generate("X")
    with pytest.raises(ValueError, match="prompt must have at least one symbol"):
        model.generate("")
    with pytest.raises(ValueError, match="at least 20 symbols, got 3"):
        CharLM().fit("abc")
    (tmp_path / "language.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"CharLM\.save wrote"):
        CharLM.load(tmp_path)


def test_a_word_model_joins_words_by_blanks():
    model = CharLM(words=True, hidden_size=8, steps=2)
    with pytest.warns(UserWarning, match="not better than counting"):
        model.fit("a b\nc <unk> " * 30)
    assert model.decode(model.encode("a b\nz c")) == "a b\n<unk> c"


def test_generation_takes_what_hugging_face_names():
    torch.manual_seed(0)
    net = LanguageModel(vocabulary=7, hidden_size=6, layers=1)
    ids = torch.tensor([[1, 2, 3]])
    sure = net.generate(ids, 5, do_sample=False)
    assert sure.shape == (1, 8)
    assert torch.equal(net.generate(ids, 5, top_k=1), sure)
    assert torch.equal(net.generate(ids, 5, top_p=1e-6), sure)
    assert torch.equal(net.generate(ids, 5, temperature=1e-6), sure)
    padded = torch.tensor([[0, 0, 1, 2, 3], [5, 4, 1, 2, 3]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    both = net.generate(padded, 5, do_sample=False, attention_mask=mask)
    assert torch.equal(both[0, 5:], sure[0, 3:])
    ended = net.generate(ids.expand(2, -1), 5, do_sample=False, eos_token_id=int(sure[0, 3]), pad_token_id=0)
    assert ended.shape == (2, 4)
    last = net(ids).logits[0, -1]
    penalised = torch.where(torch.isin(torch.arange(7), ids), torch.where(last > 0, last / 9, last * 9), last)
    assert net.generate(ids, 1, do_sample=False, repetition_penalty=9.0)[0, -1] == penalised.argmax()
    with pytest.raises(ValueError, match="ids must be ids from 0 to 6, got 7"):
        net.generate(torch.tensor([[7]]), 1)
    with pytest.raises(ValueError, match="attention_mask must be 0 on the left"):
        net.generate(ids, 1, attention_mask=torch.tensor([[1, 1, 0]]))
    one_hot = LanguageModel(vocabulary=7, hidden_size=6, layers=1, embedding_size=0)
    assert one_hot(ids, targets=ids).loss.item() > 0
    with pytest.raises(ValueError, match="targets must have the shape of ids"):
        one_hot(ids, targets=ids[:, :2])


def test_losses_leave_padding_out_and_add_up_over_pieces():
    torch.manual_seed(0)
    logits, classes = torch.randn(2, 5, 4), torch.randint(4, (2, 5))
    lengths = torch.tensor([5, 2])
    expected = -logits.log_softmax(2).gather(2, classes[:, :, None])[:, :, 0]
    assert softmax_cross_entropy(logits, classes, lengths).item() == pytest.approx(
        float(expected[0].sum() + expected[1, :2].sum()), rel=1e-5
    )
    pieces = sum(softmax_cross_entropy(logits[:, a : a + 1], classes[:, a : a + 1]) for a in range(5))
    assert pieces.item() == pytest.approx(softmax_cross_entropy(logits, classes).item(), rel=1e-5)
    y, several = torch.randn(2, 5, 4), (torch.randn(2, 5, 4) > 0).float()
    assert squared(logits, y, lengths, mean=True).item() == pytest.approx(
        float(((logits - y).square().sum(2) / 2)[[0] * 5 + [1] * 2, [*range(5), 0, 1]].mean()), rel=1e-5
    )
    by_hand = -(several * logits.sigmoid().log() + (1 - several) * (1 - logits.sigmoid()).log()).sum()
    assert multilabel(logits, several).item() == pytest.approx(float(by_hand), rel=1e-5)
    normal = torch.distributions.Normal(logits[..., :2], (logits[..., 2:] / 2).exp())
    assert gaussian(logits, y[..., :2]).item() == pytest.approx(float(-normal.log_prob(y[..., :2]).sum()), rel=1e-5)
    with pytest.raises(ValueError, match="y must have 8 outputs"):
        gaussian(logits, y)


def test_ctc_is_the_sum_over_paths_and_names_labels_that_do_not_fit():
    from rnn_review_impl.decoding import ctc_likelihood_reference

    torch.manual_seed(0)
    logits = torch.randn(3, 4, 3)
    labels, lengths = [[1, 1], [2], []], torch.tensor([4, 2, 0])
    rows = [logits[i, :n].log_softmax(1) for i, n in enumerate(lengths.tolist())]
    expected = -sum(ctc_likelihood_reference(r, own) for r, own in zip(rows[:2], labels[:2], strict=True))
    assert ctc_loss(logits, labels, lengths).item() == pytest.approx(expected, rel=1e-5)
    for wrong, message in (([[0], [1], [1]], "not the blank 0"), ([[1, 1, 1], [1], []], "need 5 steps, the sequence")):
        with pytest.raises(ValueError, match=message):
            ctc_loss(logits, wrong, torch.tensor([4, 2, 2]))


def record(path, samples, channels=1):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels), file.setsampwidth(2), file.setframerate(8000)
        file.writeframes((np.asarray(samples) * 32767).astype("<i2").tobytes())


def test_spoken_digits_are_read_by_the_authors_split_and_joined_by_speaker(tmp_path):
    for digit, speaker, index, n in [(0, "ann", 0, 900), (1, "ann", 5, 1600), (2, "ben", 7, 100), (3, "ben", 9, 1200)]:
        record(tmp_path / f"{digit}_{speaker}_{index}.wav", 0.5 * np.sin(np.arange(n) * 0.1 * (digit + 1)))
    test, train = (spoken_digits(split, folder=tmp_path) for split in ("test", "train"))
    assert test.labels.tolist() == [0]
    assert train.labels.tolist() == [1, 2, 3]
    assert [s.shape for s in train.sequences] == [(18, 20), (1, 20), (13, 20)]
    assert all(np.isfinite(s).all() for s in train.sequences)
    sequences, labels = concatenated(train, 20, np.random.default_rng(0))
    assert all(set(own) in ({1}, {2}, {3}, {2, 3}) for own in labels)
    lengths = {1: 18, 2: 1, 3: 13}
    assert [len(s) for s in sequences] == [sum(lengths[d] for d in own) for own in labels]
    record(tmp_path / "4_ann_6.wav", np.zeros(10), channels=2)
    with pytest.raises(ValueError, match="must be 16-bit mono, got 2 channels"):
        spoken_digits("train", folder=tmp_path)
    with pytest.raises(ValueError, match="must hold recordings"):
        spoken_digits("train", folder=tmp_path / "none")


@pytest.mark.data
def test_the_mirror_has_600_digits_to_train_and_300_to_test():
    train, test = spoken_digits("train"), spoken_digits("test")
    assert (len(train.sequences), len(test.sequences)) == (600, 300)
    assert np.bincount(test.labels).tolist() == [30] * 10


def test_strokes_and_sentence_pairs_are_read_from_their_formats(tmp_path):
    xml = """<WhiteboardCaptureSession><Transcription><TextLine id="a" text="by"/></Transcription><StrokeSet>
    <Stroke><Point x="1" y="2" time="0.0"/><Point x="4" y="2" time="0.1"/></Stroke>
    <Stroke><Point x="5" y="1" time="0.5"/></Stroke></StrokeSet></WhiteboardCaptureSession>"""
    (tmp_path / "a.xml").write_text(xml, encoding="utf-8")
    table, text = iam_strokes(tmp_path / "a.xml")
    assert text == "by"
    assert np.allclose(table, [[0, 0, 0, 0], [3, 0, 0.1, 1], [1, -1, 0.4, 1]])
    (tmp_path / "b.xml").write_text("<a/>", encoding="utf-8")
    with pytest.raises(ValueError, match="must have strokes"):
        iam_strokes(tmp_path / "b.xml")
    (tmp_path / "e").write_text("the cat\nthe dog\n\n", encoding="utf-8")
    (tmp_path / "f").write_text("le chat\nle chien\nx\n", encoding="utf-8")
    pairs = parallel_text(tmp_path / "e", tmp_path / "f", source_vocabulary=6)
    assert pairs.sources == [[4, 5], [4, 3]]
    assert pairs.targets[0][-1] == 2
    assert pairs.source_symbols == ["<pad>", "<s>", "</s>", "<unk>", "the", "cat"]
    (tmp_path / "f").write_text("le chat\n", encoding="utf-8")
    with pytest.raises(ValueError, match="equally many lines, got 3 and 1"):
        parallel_text(tmp_path / "e", tmp_path / "f")


def test_a_gate_keeps_what_it_stored_until_it_is_asked():
    found = gate_memory(20, write=3, read=15)
    kept = found["s"][3]
    assert kept == pytest.approx(math.tanh(1), abs=1e-3)
    assert found["s"][15] == pytest.approx(kept, rel=0.01)
    shown = [step for step, h in enumerate(found["h"]) if abs(h) > 0.1]
    assert shown == [15]
    with pytest.raises(ValueError, match="write and read must be in order"):
        gate_memory(5, write=4, read=2)
    seen = reach(7, 4, 0)
    assert [v > 0 for v in seen["forward"]] == [True] * 4 + [False] * 3
    assert all(v > 0 for v in seen["both directions"])
    faded = sensitivity(["elman", "lstm"], 20, 16, 0)
    assert faded["elman"][-1] < 1e-2 * faded["elman"][0]
