import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from ncnc_impl import auc, hits_at_k, mrr

scores = st.lists(st.integers(-3, 3), min_size=1, max_size=20)


def test_hits_counts_only_what_is_strictly_above_the_kth_negative():
    negative = torch.tensor([5.0, 3.0, 3.0, 1.0])
    positive = torch.tensor([6.0, 5.0, 4.0, 3.0, 0.0])
    assert hits_at_k(positive, negative, 1) == pytest.approx(1 / 5)
    assert hits_at_k(positive, negative, 2) == pytest.approx(3 / 5)
    assert hits_at_k(positive, negative, 4) == pytest.approx(4 / 5)


def test_hits_is_one_with_fewer_negatives_than_k():
    assert hits_at_k(torch.tensor([0.0]), torch.tensor([9.0]), 2) == 1.0


def test_a_tie_counts_half_a_place_in_mrr():
    positive = torch.tensor([1.0, 1.0, 1.0])
    negative = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    assert mrr(positive, negative) == pytest.approx((1 + 1 / 1.5 + 1 / 2) / 3)


@settings(deadline=None)
@given(scores, scores)
def test_auc_equals_scikit_learns_with_ties(positive, negative):
    labels = [1] * len(positive) + [0] * len(negative)
    expected = roc_auc_score(labels, positive + negative)
    found = auc(torch.tensor(positive, dtype=torch.float32), torch.tensor(negative, dtype=torch.float32))
    assert found == pytest.approx(expected)


@settings(deadline=None)
@given(scores, scores, st.integers(1, 5))
def test_metrics_depend_on_the_order_of_scores_only(positive, negative, k):
    a, b = torch.tensor(positive, dtype=torch.float64), torch.tensor(negative, dtype=torch.float64)
    assert hits_at_k(a, b, k) == hits_at_k(a.exp(), b.exp(), k)
    assert auc(a, b) == pytest.approx(auc(a.exp(), b.exp()))


def test_nan_and_empty_scores_are_refused():
    good, nan, none = torch.tensor([1.0]), torch.tensor([np.nan]), torch.empty(0)
    with pytest.raises(ValueError, match="NaN"):
        auc(nan, good)
    with pytest.raises(ValueError, match="no positive"):
        hits_at_k(none, good, 1)
    with pytest.raises(ValueError, match="at least one negative"):
        auc(good, none)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        hits_at_k(good, good, 0)
