import numpy as np
import pytest

from pgn_impl.conformal import radius


@pytest.mark.parametrize(("n", "level"), [(19, 0.9), (50, 0.8), (99, 0.95)])
def test_a_new_error_is_covered_as_often_as_promised_and_hardly_more(n, level):
    generator = np.random.default_rng(0)
    repeats = 40_000
    scores = np.abs(generator.standard_t(3, (n + 1, repeats)))  # exchangeable, with heavy tails
    covered = (scores[-1] <= radius(scores[:-1], level)).mean()
    error = 4 * np.sqrt(level * (1 - level) / repeats)
    assert level - error <= covered <= level + 1 / (n + 1) + error


def test_the_radius_is_an_order_statistic_of_each_place():
    scores = np.stack((np.arange(9.0), 10 * np.arange(9.0)), 1)[::-1].copy()
    assert radius(scores, 0.5).tolist() == [4, 40]  # the fifth of nine
    assert radius(scores, 0.9).tolist() == [8, 80]  # the ninth


def test_a_level_that_so_few_errors_cannot_show_is_refused():
    with pytest.raises(ValueError, match=r"level must be at most n / \(n \+ 1\) = 0.9000 with 9 errors, got 0.95"):
        radius(np.zeros((9, 1)), 0.95)
    with pytest.raises(ValueError, match=r"level must be between 0 and 1, got 1\.0"):
        radius(np.zeros((9, 1)), 1.0)
