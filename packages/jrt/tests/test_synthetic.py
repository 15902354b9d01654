import pytest
import torch

from jrt_impl import MQAR, SetDisjointness, TemplatedDocuments, accuracy, recall_model, train_recall


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("passes", [1, 2])
def test_exactly_one_token_is_in_both_sets(passes):
    task = SetDisjointness(4, 16, passes=passes)
    ids, targets = task.sample(50, generator=generator())
    assert ids.shape == targets.shape == (50, 22 * passes + 1)
    assert (ids[:, -1] == 3).all()
    assert (targets[:, :-1] == -100).all()
    for row, target in zip(ids.tolist(), targets.tolist(), strict=True):
        first, second = set(row[1:5]), set(row[6:22])
        assert (len(first), len(second)) == (4, 16)
        assert first & second == {target[-1]}
        assert row[: 22 * passes] == row[:22] * passes


@pytest.mark.parametrize("passes", [1, 2])
def test_the_value_of_each_key_is_asked_for(passes):
    ids, targets = MQAR(5, 3, 40, passes).sample(50, generator=generator())
    assert ids.shape == (50, 10 * passes + 4)
    for row, target in zip(ids.tolist(), targets.tolist(), strict=True):
        pairs = dict(zip(row[0:10:2], row[1:10:2], strict=True))
        assert len(pairs) == 5
        assert [pairs[key] for key in row[-3:]] == target[-3:]
        assert set(target[:-3]) == {-100}


@pytest.mark.parametrize("passes", [1, 2])
def test_questions_stop_before_the_value_that_the_document_gave(passes):
    task = TemplatedDocuments(facts=4, questions=2, passes=passes)
    ids, targets = task.sample(50, generator=generator())
    assert ids.shape == (50, 28 * passes + 10)
    assert ids.max() < task.vocab_size
    for row, target in zip(ids.tolist(), targets.tolist(), strict=True):
        facts = {(row[i + 1], row[i + 3]): row[i + 5] for i in range(0, 28, 7)}
        assert len(facts) == 4
        for start in (28 * passes, 28 * passes + 5):
            assert target[start + 4] == facts[row[start + 1], row[start + 3]]
        assert sum(t != -100 for t in target) == 2


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: SetDisjointness(0, 4), "at least 1 token"),
        (lambda: SetDisjointness(100, 100), "vocab_size must be at least 204"),
        (lambda: SetDisjointness(passes=3), "passes must be 1 or 2"),
        (lambda: MQAR(31), "pairs must be in"),
        (lambda: MQAR(4, 5), "queries must be in"),
        (lambda: TemplatedDocuments(facts=65), "facts must be in"),
        (lambda: TemplatedDocuments(facts=2, questions=3), "questions must be in"),
        (lambda: recall_model("lstm", vocab_size=9, d_model=8, feature_dim=2, seed=0), "method must be one of"),
    ],
)
def test_tasks_that_cannot_be_are_named(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_training_learns_to_recall_one_pair():
    task = MQAR(pairs=1, queries=1, vocab_size=8)
    model = recall_model("prefix", vocab_size=8, d_model=16, feature_dim=2, seed=0)
    before = accuracy(model, task, count=100)
    train_recall(model, [task], steps=30, lr=2e-2, batch=32)
    assert accuracy(model, task, count=100) > before + 0.3
    with pytest.raises(ValueError, match="steps, batch and lr"):
        train_recall(model, [task], steps=0)
