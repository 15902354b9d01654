import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gla_impl import mqar_data


@settings(max_examples=30, deadline=None)
@given(
    n_pairs=st.integers(1, 8),
    extra=st.integers(0, 20),
    vocab_size=st.integers(20, 300),
    seed=st.integers(0, 1000),
    random_filler=st.booleans(),
)
def test_sequences_follow_the_rules_of_the_task(n_pairs, extra, vocab_size, seed, random_filler):
    seq_len = 4 * n_pairs + 2 * extra
    data = mqar_data(
        20, vocab_size=vocab_size, seq_len=seq_len, n_pairs=n_pairs, seed=seed, random_filler=random_filler
    )
    assert data.inputs.shape == data.targets.shape == (20, seq_len)
    assert data.inputs.min() >= 0
    assert data.inputs.max() < vocab_size
    for inputs, targets in zip(data.inputs, data.targets, strict=True):
        keys, values = inputs[0 : 2 * n_pairs : 2], inputs[1 : 2 * n_pairs : 2]
        assert len(set(keys)) == len(set(values)) == n_pairs
        assert keys.min() >= 1
        assert keys.max() < vocab_size // 2
        assert values.min() >= vocab_size // 2
        answers = dict(zip(keys, values, strict=True))
        asked = np.flatnonzero(targets != -100)
        assert (asked >= 2 * n_pairs).all()
        assert (asked % 2 == 0).all()
        assert sorted(inputs[asked]) == sorted(keys)
        assert [answers[key] for key in inputs[asked]] == list(targets[asked])
        if not random_filler:
            filler = np.delete(inputs, [*range(2 * n_pairs), *asked])
            assert (filler == 0).all()


def test_keys_and_values_are_uniform():
    data = mqar_data(20_000, vocab_size=16, seq_len=8, n_pairs=2, seed=0)
    keys = np.bincount(data.inputs[:, [0, 2]].ravel(), minlength=16) / 40_000
    values = np.bincount(data.inputs[:, [1, 3]].ravel(), minlength=16) / 40_000
    np.testing.assert_allclose(keys[1:8], 1 / 7, atol=0.01)
    np.testing.assert_allclose(values[8:], 1 / 8, atol=0.01)


def test_gaps_follow_the_power_law():
    data = mqar_data(20_000, vocab_size=64, seq_len=34, n_pairs=1, power=0.01, seed=0)
    gap = ((data.targets != -100).argmax(1) - 2) // 2
    weight = np.arange(1, 17) ** (0.01 - 1)
    np.testing.assert_allclose(np.bincount(gap, minlength=16) / 20_000, weight / weight.sum(), atol=0.012)


def test_several_gaps_are_drawn_one_after_another_without_replacement():
    # with two slots both are used; which key is asked first follows the weights 1 : 2^-0.99
    data = mqar_data(20_000, vocab_size=64, seq_len=8, n_pairs=2, seed=0)
    first = (data.inputs[:, 4] == data.inputs[:, 0]).mean()
    assert abs(first - 1 / (1 + 2**-0.99)) < 0.012


def test_a_seed_gives_the_same_sequences_and_another_others():
    first, again, other = (mqar_data(5, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.inputs, again.inputs)
    assert not np.array_equal(first.inputs, other.inputs)


@pytest.mark.parametrize(("seq_len", "n_pairs"), [(64, 4), (128, 8), (256, 16), (512, 64)])
def test_the_originals_sizes_are_made(seq_len, n_pairs):
    data = mqar_data(8, vocab_size=8192, seq_len=seq_len, n_pairs=n_pairs)
    assert ((data.targets != -100).sum(1) == n_pairs).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seq_len": 63}, "seq_len must be even and at least 4 \\* n_pairs = 32, got 63"),
        ({"seq_len": 30}, "seq_len must be even and at least 4 \\* n_pairs = 32, got 30"),
        ({"vocab_size": 16}, "vocab_size must be at least 2 \\* \\(n_pairs \\+ 1\\) = 18, got 16"),
        ({"n_pairs": 0}, "n_examples and n_pairs must be at least 1, got 5 and 0"),
        ({"power": 0.0}, "power must be positive, got 0.0"),
    ],
)
def test_sizes_that_do_not_fit_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        mqar_data(5, **options)
