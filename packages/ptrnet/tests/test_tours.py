import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptrnet_impl.tours import (
    brute_force_tour,
    canonical_tour,
    christofides,
    distance_matrix,
    held_karp,
    held_karp_loop,
    local_search,
    nearest_neighbor,
    or_opt,
    tour_lengths,
    two_opt,
)


def instances(batch, n, seed=0):
    return np.random.default_rng(seed).random((batch, n, 2))


@pytest.mark.parametrize("n", range(1, 9))
def test_both_programmes_find_the_shortest_of_all_tours(n):
    points = instances(10, n)
    tours = held_karp(points)
    for instance, tour in zip(points, tours, strict=True):
        shortest = brute_force_tour(instance)
        assert tour_lengths(instance, tour) == pytest.approx(tour_lengths(instance, shortest))
        assert tour.tolist() == held_karp_loop(instance).tolist() == canonical_tour(shortest).tolist()


def test_many_instances_go_in_pieces(monkeypatch):
    points = instances(9, 6)
    whole = held_karp(points)
    monkeypatch.setattr("ptrnet_impl.tours._BATCH_NUMBERS", 2 * 2**5 * 5)
    assert held_karp(points).tolist() == whole.tolist()
    assert held_karp(points[0]).tolist() == whole[0].tolist()


def test_other_distances_may_be_given():
    points = instances(1, 7)[0]
    doubled = distance_matrix(points)
    doubled[0, 3] = doubled[3, 0] = 0.0  # an edge that costs nothing is taken
    tour = held_karp(points, distance=doubled).tolist()
    assert 3 in (tour[1], tour[-1])


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 14), seed=st.integers(0, 500))
def test_local_searches_never_lengthen_and_give_canonical_permutations(n, seed):
    rng = np.random.default_rng(seed)
    points = rng.random((3, n, 2))
    tours = np.stack([rng.permutation(n) for _ in range(3)])
    for search in (two_opt, or_opt, local_search):
        found = search(points, tours)
        assert (np.sort(found, axis=1) == np.arange(n)).all()
        assert (found == canonical_tour(found)).all()
        assert (tour_lengths(points, found) <= tour_lengths(points, tours) + 1e-12).all()
        assert search(points[0], tours[0]).tolist() == found[0].tolist()


def test_what_is_two_optimal_has_no_better_reversal():
    points = instances(1, 9)[0]
    tour = two_opt(points, np.arange(9))
    length = tour_lengths(points, tour)
    for i in range(9):
        for j in range(i + 2, 10):
            turned = np.concatenate([tour[:i], tour[i:j][::-1], tour[j:]])
            assert tour_lengths(points, turned) > length - 1e-12


def test_what_is_or_optimal_has_no_better_place_for_a_piece():
    points = instances(1, 8)[0]
    tour = or_opt(points, np.arange(8))
    length = tour_lengths(points, tour)
    for start in range(8):
        turned = np.roll(tour, -start)
        for size in (1, 2, 3):
            piece, rest = turned[:size], turned[size:]
            for at in range(1, len(rest)):
                for way in (piece, piece[::-1]):
                    moved = np.concatenate([rest[:at], way, rest[at:]])
                    assert tour_lengths(points, moved) > length - 1e-12


def test_a_move_more_is_a_shorter_tour():
    points, tour = instances(1, 12)[0], np.arange(12)
    lengths = [tour_lengths(points, two_opt(points, tour, max_moves=moves)) for moves in range(4)]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] == tour_lengths(points, tour) > lengths[1]


def test_the_nearest_neighbour_goes_to_the_nearest():
    line = np.array([[0.0, 0.0], [5.0, 0.0], [1.0, 0.0], [2.5, 0.0]])
    assert nearest_neighbor(line).tolist() == [0, 1, 3, 2]  # 0 2 3 1 the other way round
    assert nearest_neighbor(line, start=1).tolist() == [0, 1, 3, 2]
    with pytest.raises(ValueError, match="start must be from 0 to 3, got 4"):
        nearest_neighbor(line, start=4)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 9])
def test_christofides_is_within_its_bound(n):
    points = instances(10, n, seed=1)
    found = christofides(points)
    assert (found == canonical_tour(found)).all()
    assert (tour_lengths(points, found) <= 1.5 * tour_lengths(points, held_karp(points)) + 1e-12).all()


def test_equal_cities_are_no_hindrance():
    points = np.repeat(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), 2, axis=0)
    for solve in (held_karp, christofides, local_search):
        assert tour_lengths(points, solve(points)) == pytest.approx(2 + 2**0.5)


def test_wrong_arguments_are_refused():
    points = instances(1, 5)[0]
    with pytest.raises(ValueError, match=r"shape \(n, 2\) or \(batch, n, 2\), got \(5,\)"):
        held_karp(points[:, 0])
    with pytest.raises(ValueError, match="at least 1, got 0"):
        held_karp(points[:0])
    with pytest.raises(ValueError, match="points must be at most 20"):
        held_karp(instances(1, 21))
    with pytest.raises(ValueError, match="points must be finite"):
        christofides(points * np.inf)
    with pytest.raises(ValueError, match="tour must be a permutation of 0 to 4"):
        two_opt(points, [0, 1, 2, 3, 3])


def test_what_is_no_tour_and_no_distance_is_refused():
    points = np.random.default_rng(0).random((5, 2))
    for tour in ([0, 1, 2, 3, -1], [0, 1, 2], [0, 1, 2, 3, 3]):
        with pytest.raises(ValueError, match="permutation"):
            tour_lengths(points, tour)
    lopsided = np.random.default_rng(0).random((5, 5))
    with pytest.raises(ValueError, match="symmetric"):
        held_karp(points, distance=lopsided)
    with pytest.raises(ValueError, match="finite"):
        held_karp(points, distance=np.full((5, 5), np.nan))
    with pytest.raises(ValueError, match="shape"):
        held_karp(points, distance=np.ones((4, 4)))
    with pytest.raises(ValueError, match="far apart"), np.errstate(over="ignore"):
        held_karp(1e200 * points)
    assert held_karp(np.empty((0, 5, 2))).shape == (0, 5)
