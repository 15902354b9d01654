import numpy as np
import pytest

from ptrnet_impl.metrics import (
    hull_accuracy,
    hull_area,
    same_cycle,
    sequence_accuracy,
    tour_length,
    triangle_coverage,
)

SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.5, 0.5]])


def test_a_cycle_may_begin_anywhere_and_has_a_direction():
    assert same_cycle([0, 1, 2, 3], [2, 3, 0, 1])
    assert not same_cycle([0, 1, 2, 3], [3, 2, 1, 0])
    assert not same_cycle([0, 1, 2], [0, 1, 2, 3])
    assert not same_cycle([0, 1, 1], [0, 1, 1])  # no cycle of different points
    assert not same_cycle([0, 1, 2], [0, 1, 4])
    assert same_cycle([], [])


def test_accuracies_are_shares():
    assert hull_accuracy([[0, 1, 2], [2, 0, 1], [0, 2, 1]], [[0, 1, 2]] * 3) == pytest.approx(2 / 3)
    assert sequence_accuracy([[0, 1, 2], [2, 0, 1], np.array([0, 1, 2])], [[0, 1, 2]] * 3) == pytest.approx(2 / 3)


def test_the_area_is_the_mean_over_simple_polygons():
    found = hull_area([SQUARE] * 4, [[0, 1, 2, 3], [0, 1, 2], [0, 1, 4], [3, 2, 1, 0]])
    assert found.coverage == pytest.approx((1 + 0.5 + 0.25 + 1) / 4)
    assert found.invalid_rate == 0
    assert not found.fail


def test_what_crosses_itself_is_left_out_and_above_one_percent_fails():
    answers = [[0, 1, 2, 3]] * 99 + [[0, 2, 1, 3]]
    found = hull_area([SQUARE] * 100, answers)
    assert found.coverage == 1
    assert found.invalid_rate == pytest.approx(0.01)
    assert not found.fail
    assert hull_area([SQUARE] * 50, answers[:49] + answers[-1:]).fail
    nothing = hull_area([SQUARE], [[]])
    assert np.isnan(nothing.coverage)
    assert nothing.fail


def test_true_hulls_may_be_given():
    assert hull_area([SQUARE], [[0, 1, 2]], [[0, 1, 2, 3]]).coverage == pytest.approx(0.5)
    with pytest.raises(ValueError, match="points and true must be as many"):
        hull_area([SQUARE], [[0, 1, 2]], [])


def test_triangles_count_in_any_order():
    true = [[[0, 1, 2], [1, 2, 3]]]
    assert triangle_coverage([[3, 2, 1, 2, 0, 1]], true).accuracy == 1
    half = triangle_coverage([[0, 1, 2, 0, 1, 3]], true)
    assert (half.accuracy, half.coverage) == (0, 0.5)
    more = triangle_coverage([[0, 1, 2, 1, 2, 3, 0, 1]], true)  # an incomplete triple behind
    assert (more.accuracy, more.coverage) == (0, 1)
    assert triangle_coverage([[0, 1, 2, 1, 2, 3, 0, 1, 2]], true).accuracy == 0  # one twice
    assert triangle_coverage([[0, 1, 1]], true).coverage == 0
    assert triangle_coverage([[]], true).coverage == 0


def test_the_mean_length_is_of_tours_that_visit_all_and_the_rest_is_told():
    found = tour_length([SQUARE[:4]] * 4, [[0, 1, 2, 3], [0, 2, 1, 3], [0, 1, 2, 2], [0, 1, 2]])
    assert found.mean == pytest.approx((4 + 2 + 2 * 2**0.5) / 2)
    assert found.invalid_rate == 0.5
    none = tour_length([SQUARE], [[0]])
    assert np.isnan(none.mean)
    assert none.invalid_rate == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hull_accuracy([], []), "at least one, got 0 and 0"),
        (lambda: hull_accuracy([[0]], [[0], [1]]), "as many, and at least one, got 1 and 2"),
        (lambda: hull_area([SQUARE], [[0, 1, 5]]), "indices from 0 to 4, got 0 to 5"),
        (lambda: hull_area([SQUARE], [[0, -1, 2]]), "indices from 0 to 4, got -1 to 2"),
        (lambda: hull_area([SQUARE * np.nan], [[0, 1, 2]]), "points must be finite"),
        (lambda: tour_length([SQUARE], [[0.5, 1.0]]), "whole numbers, got float64"),
        (lambda: triangle_coverage([[0, 1, 2]], [[]]), "true must be triples"),
    ],
)
def test_what_cannot_be_measured_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
