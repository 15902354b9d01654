import pytest
import torch
from jaxtyping import TypeCheckError

from robust_fidelity_impl.pairs import edge_units, explanation_units

EDGES = torch.tensor([[0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 2, 0]])  # 0-1, 1-2 in both directions, a loop at 2, 3 to 0


def test_both_directions_are_one_unit_and_loops_and_single_edges_are_their_own():
    ids, n = edge_units(EDGES)
    assert n == 4
    assert ids[0] == ids[1]
    assert ids[2] == ids[3]
    assert len({int(i) for i in ids}) == 4
    assert edge_units(torch.zeros(2, 0, dtype=torch.int64))[1] == 0


def units(mask, **rule):
    ids, n = edge_units(EDGES)
    chosen = explanation_units(torch.tensor(mask), ids, n, **rule)
    return [bool(chosen[i]) for i in ids]


def test_a_mask_of_zeros_and_ones_is_taken_as_it_is():
    assert units([1.0, 1, 0, 0, 0, 1]) == [True, True, False, False, False, True]
    assert units([True, True, False, False, True, False]) == [True, True, False, False, True, False]


def test_weights_need_a_rule():
    soft = [0.9, 0.9, 0.4, 0.4, 0.1, 0.6]
    assert units(soft, threshold=0.5) == [True, True, False, False, False, True]
    assert units(soft, top_k=1) == [True, True, False, False, False, False]
    assert units([0.5] * 6, top_k=2).count(True) >= 2
    with pytest.raises(ValueError, match="threshold or top_k"):
        units(soft)
    with pytest.raises(ValueError, match="not both"):
        units(soft, threshold=0.5, top_k=1)
    with pytest.raises(ValueError, match="top_k must be from 0 to"):
        units(soft, top_k=5)


def test_directions_that_differ_need_a_rule():
    lopsided = [1.0, 0, 0, 0, 0, 0]
    with pytest.raises(ValueError, match="symmetrise"):
        units(lopsided)
    assert units(lopsided, symmetrise="max")[:2] == [True, True]
    assert units(lopsided, symmetrise="mean", threshold=0.6)[:2] == [False, False]
    with pytest.raises((ValueError, TypeCheckError), match="symmetrise"):
        units(lopsided, symmetrise="sum")


@pytest.mark.parametrize(("mask", "message"), [([1.0], "one value for each"), ([float("nan")] * 6, "finite")])
def test_what_is_no_mask_is_refused(mask, message):
    with pytest.raises((ValueError, TypeCheckError), match=message + "|shape|Shaped"):
        units(mask)


def test_negative_nodes_are_refused():
    with pytest.raises(ValueError, match="negative"):
        edge_units(torch.tensor([[0, -1], [1, 0]]))
