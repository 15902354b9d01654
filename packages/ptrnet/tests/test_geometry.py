from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import ConvexHull

from ptrnet_impl.geometry import (
    canonical_hull,
    canonical_triangles,
    delaunay_brute_force,
    delaunay_canonical,
    hull_ccw,
    hull_ccw_batch,
    incenters,
    is_simple_polygon,
    polygon_area,
)

SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])


@pytest.mark.parametrize("n", [3, 4, 5, 10, 50])
def test_hulls_are_those_of_qhull_from_the_lowest_index(n):
    points = np.random.default_rng(n).random((40, n, 2))
    for instance, row in zip(points, hull_ccw_batch(points), strict=True):
        found = hull_ccw(instance)
        assert found.tolist() == canonical_hull(ConvexHull(instance).vertices).tolist()
        assert row[row >= 0].tolist() == found.tolist()
        assert found[0] == found.min()
        assert polygon_area(instance[found]) > 0


def test_points_within_an_edge_are_no_corners():
    points = np.concatenate([SQUARE, [[0.5, 0.0], [0.5, 0.5], [0.1, 1.0], [0.3, 0.0]]])
    assert hull_ccw(points).tolist() == [0, 1, 2, 3]
    thirds = np.array([[0.1, 0.1], [0.2, 0.2], [0.3, 0.3], [0.1, 0.3]])  # 0.3 is not thrice 0.1 in floating point
    assert hull_ccw(thirds).tolist() == [0, 2, 3]


def test_of_equal_points_the_lowest_index_counts():
    assert hull_ccw(np.concatenate([SQUARE, SQUARE])).tolist() == [0, 1, 2, 3]
    assert hull_ccw(np.concatenate([SQUARE[:1], SQUARE, SQUARE[2:]])).tolist() == [0, 2, 3, 4]


def test_hulls_do_not_depend_on_place_or_size():
    points = np.random.default_rng(0).random((12, 2))
    for moved in (points * 1e6 - 3e5, points * 1e-6 + 5):
        assert hull_ccw(moved).tolist() == hull_ccw(points).tolist()


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (SQUARE[:2], "points must be at least 3, got 2"),
        (np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]), "must not all lie on one line"),
        (np.zeros((5, 2)), "must (not all lie on one line|differ)"),
        (np.array([[0, 0], [1, np.nan], [1, 1]]), "must be finite, got .1.0, nan. at index 1"),
        (np.zeros((4, 3)), r"must have shape \(n, 2\), got \(4, 3\)"),
        ([["a", "b"]] * 3, "must be numbers of shape"),
    ],
)
def test_what_has_no_hull_is_refused(points, message):
    for solve in (hull_ccw, delaunay_canonical):
        with pytest.raises(ValueError, match=message):
            solve(points)


@pytest.mark.parametrize("n", [3, 4, 6, 9])
def test_triangulations_are_those_of_the_definition(n):
    points = np.random.default_rng(n).random((20, n, 2))
    for instance, triangles in zip(points, delaunay_brute_force(points), strict=True):
        assert delaunay_canonical(instance).tolist() == triangles.tolist()
        assert len(triangles) == 2 * n - 2 - len(hull_ccw(instance))
        area = sum(abs(polygon_area(instance[t])) for t in triangles)
        assert area == pytest.approx(polygon_area(instance[hull_ccw(instance)]))


def test_triangles_are_in_the_order_of_their_incenters():
    points = np.random.default_rng(0).random((9, 2))
    triangles = delaunay_canonical(points)
    assert (np.diff(triangles, axis=1) > 0).all()
    centres = incenters(points, triangles)
    assert centres.tolist() == sorted(centres.tolist())
    shuffled = np.random.default_rng(1).permuted(triangles, axis=1)[::-1]
    assert canonical_triangles(points, shuffled).tolist() == triangles.tolist()


def test_an_incenter_is_equally_far_from_all_sides():
    corners = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 3.0]])
    assert incenters(corners, np.array([[0, 1, 2]])).tolist() == [[1.0, 1.0]]


def test_triangulations_that_are_not_unique_are_refused():
    with pytest.raises(ValueError, match="four on one circle"):
        delaunay_canonical(SQUARE)
    with pytest.raises(ValueError, match="two of them are equal"):
        delaunay_canonical(np.concatenate([SQUARE[:3], SQUARE[:1]]))


def test_simple_polygons_and_others():
    assert is_simple_polygon(SQUARE)
    assert is_simple_polygon(SQUARE[::-1])
    assert not is_simple_polygon(SQUARE[[0, 2, 1, 3]])  # crosses itself
    assert not is_simple_polygon(SQUARE[[0, 1, 2, 3, 1]])  # a corner twice
    assert not is_simple_polygon(SQUARE[:2])
    assert not is_simple_polygon(SQUARE[:0])
    # touches its own edge with a corner
    assert not is_simple_polygon(np.array([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [1.0, 0.0], [0.0, 2.0]]))
    # runs back over the edge before
    assert not is_simple_polygon(np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 0.0], [1.0, 1.0]]))
    # straight on through a corner is allowed
    assert is_simple_polygon(np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [1.0, 1.0]]))
    # three points on a line enclose nothing
    assert not is_simple_polygon(np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]))


def test_of_all_orders_of_points_in_convex_position_two_directions_of_one_cycle_are_simple():
    angles = np.array([0.1, 1.2, 2.9, 3.7, 5.5])
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    simple = [order for order in permutations(range(5)) if is_simple_polygon(points[list(order)])]
    assert len(simple) == 10


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), n=st.integers(3, 12))
def test_points_by_angle_about_one_within_make_a_simple_polygon(seed, n):
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.random(n)) * 2 * np.pi
    star = np.stack([np.cos(angles), np.sin(angles)], axis=1) * rng.uniform(0.2, 1, (n, 1))
    if np.diff(angles, append=angles[0] + 2 * np.pi).max() < np.pi:
        assert is_simple_polygon(star)
        assert polygon_area(star) > 0
        assert polygon_area(star[::-1]) == pytest.approx(-polygon_area(star))


def test_small_triangles_beside_large_ones_are_no_points_on_one_circle():
    small = 1e-3 * np.random.default_rng(0).random((4, 2)) + 0.3
    points = np.concatenate([small, [[0.0, 0.0], [1.0, 1.0]]])
    assert len(delaunay_canonical(points)) >= 5
    square = np.array([[0.0, 0.0], [1e-3, 0.0], [1e-3, 1e-3], [0.0, 1e-3], [0.3, 0.7]])
    with pytest.raises(ValueError, match="circle"):
        delaunay_canonical(square)


def test_far_points_do_not_hide_corners_between_near_ones():
    points = np.array([[0.0, 0], [1, -1], [2, 0], [1e7, 1e7], [5e6, 1e7]])
    assert sorted(hull_ccw(points)) == sorted(ConvexHull(points).vertices)
    on_an_edge = np.array([[0.0, 0], [0.1, 0.1], [0.3, 0.3], [0.7, 0.7], [1, 1], [0, 1]])
    assert hull_ccw(on_an_edge).tolist() == [0, 4, 5]
