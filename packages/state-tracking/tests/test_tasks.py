import itertools

import pytest
import torch

from state_tracking_impl import (
    SequenceModel,
    accuracy_by_length,
    group_word,
    mod_arith,
    mod_arith_brackets,
    parity,
    train_on_task,
)
from state_tracking_impl.tasks import IGNORED, TASKS, permutations


def drawn(task, batch=60, lengths=(3, 25)):
    return task.sample(batch, lengths, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dense", [False, True])
def test_parity_is_asked_for_at_the_last_bit_and_right(dense):
    inputs, targets = drawn(parity(dense=dense))
    for row, target in zip(inputs, targets, strict=True):
        bits = row[row > 0] - 1
        asked = (target != IGNORED).nonzero().flatten().tolist()
        assert asked == (list(range(len(bits))) if dense else [len(bits) - 1])
        assert target[asked[-1]] == bits.sum() % 2 + 1


@pytest.mark.parametrize("mult", [False, True])
def test_arithmetic_is_what_python_says(mult):
    for task, words in ((mod_arith(), "_+-*=01234"), (mod_arith_brackets(mult=mult), "+-*=()01234")):
        inputs, targets = drawn(task)
        shift = 5 if task.name == "arithmetic" else 6
        for row, target in zip(inputs, targets, strict=True):
            (place,) = (target != IGNORED).nonzero().flatten().tolist()
            expression = "".join(words[i] for i in row[: place + 1].tolist())
            assert expression.endswith("=")
            assert target[place] - shift == eval(expression[:-1]) % 5, expression
            assert len(set(row[place + 1 :].tolist())) <= 1
        assert mult or task.name == "arithmetic" or not (inputs == 2).any()


def test_lengths_are_those_asked_for():
    for length in (3, 4, 5, 6, 7, 30):
        inputs, _ = drawn(mod_arith_brackets(), 5, (length, length))
        assert inputs.shape == (5, length - 1)


@pytest.mark.parametrize("tokens_per", [1, 4])
@pytest.mark.parametrize(("n", "kind", "generators"), [(3, "S", "swaps"), (4, "S", "3cycles"), (4, "A", "all")])
def test_words_of_groups_are_composed_from_the_left(n, kind, generators, tokens_per):
    task = group_word(n, kind, generators=generators, tokens_per=tokens_per)
    elements = permutations(n, kind)
    inputs, targets = drawn(task, 10, (1, 6))
    for row, target in zip(inputs.tolist(), targets.tolist(), strict=True):
        held = list(range(n))
        for i in range(0, len(row), tokens_per):
            if row[i] == task.vocab_size - 1:
                assert set(target[i:]) == {IGNORED}
                break
            held = [elements[row[i]][h] for h in held]
            assert target[i + tokens_per - 1] == elements.index(tuple(held))
            assert set(target[i : i + tokens_per - 1]) <= {IGNORED}


def test_generators_are_the_swaps_and_the_even_permutations():
    used = drawn(group_word(4, generators="swaps"), 400)[0].unique()
    moved = [sum(i != p for i, p in enumerate(permutations(4)[i])) for i in used[used < 24].tolist()]
    assert sorted(moved) == [0] + [2] * 6
    assert len(permutations(5, "A")) == 60
    products = {tuple(b[a[i]] for i in range(4)) for a, b in itertools.product(permutations(4, "A"), repeat=2)}
    assert products == set(permutations(4, "A"))


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_scored_from_chance_to_perfect(name):
    task = TASKS[name]()
    assert task.scaled(1.0) == 1
    assert task.scaled(1 / task.n_answers) == pytest.approx(0)
    inputs, targets = drawn(task)
    assert int(inputs.max()) < task.vocab_size
    assert int(targets.max()) < task.vocab_size


def test_wrong_requests_are_refused():
    with pytest.raises(ValueError, match="from at least 2, got 1 to 5"):
        parity().sample(3, (1, 5))
    with pytest.raises(ValueError, match="batch must be at least 1"):
        parity().sample(0, (3, 5))
    with pytest.raises(ValueError, match="n must be within 2 and 6"):
        group_word(9)
    with pytest.raises(ValueError, match="a swap is odd"):
        group_word(4, "A", generators="swaps")
    with pytest.raises(ValueError, match="at most 2000"):
        mod_arith_brackets().sample(1, (3000, 3000))
    with pytest.raises(ValueError, match="vocabulary of 3 for parity, got 5"):
        train_on_task(SequenceModel(vocab_size=5, d_model=16), parity(), steps=1)


def test_an_answer_cannot_be_read_from_the_inputs():
    # two expressions that differ in the answer differ before the place of the answer, which holds none
    inputs, targets = drawn(parity(), 200, (3, 3))
    found = {}
    for row, target in zip(inputs.tolist(), targets.tolist(), strict=True):
        assert found.setdefault(tuple(row), target) == target
    assert len(found) == 4


def test_accuracy_of_an_untrained_model_is_near_chance():
    torch.manual_seed(0)
    model = SequenceModel(vocab_size=3, d_model=16, n_heads=2)
    assert accuracy_by_length(model, parity(), [9], batch_size=2000)[9] < 0.2
