"""The wrapper's steps, for groups as for single columns."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tabpfn_impl.reference_prior import squash_column
from tabpfn_impl.tabular import assign_classes, compact_labels, make_categorical, match_label_sets, squash_outliers


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), outlier=st.floats(0, 1e4))
def test_outliers_of_a_group_are_squashed_as_those_of_each_column(seed, outlier):
    x = torch.randn(2, 40, 3, generator=generator(seed), dtype=torch.float64)
    x[0, 3, 1] += outlier
    fast = squash_outliers(x)
    for table, squashed in zip(x, fast, strict=True):
        for column in range(3):
            torch.testing.assert_close(squashed[:, column], squash_column(table[:, column]))


def test_an_outlier_is_brought_near_and_the_rest_stays():
    x = torch.randn(1, 100, 1, generator=generator())
    x[0, 0] = 1000.0
    squashed = squash_outliers(x)
    assert 3 < float(squashed[0, 0]) < 15
    assert torch.equal(squashed[0, 1:], x[0, 1:])


def test_classes_are_ranks_among_values_of_the_table_up_to_a_permutation():
    y = torch.randn(50, 30, generator=generator())
    k = torch.randint(2, 11, (50,), generator=generator(1))
    labels = assign_classes(y, k, generator(2))
    assert bool((labels >= 0).all())
    assert bool((labels < k[:, None]).all())
    for values, classes in zip(y, labels, strict=True):
        ordered = classes[values.argsort()]
        # each class is one interval of the values
        changes = int((ordered[1:] != ordered[:-1]).sum())
        assert changes == len(classes.unique()) - 1


def test_the_numbers_of_classes_are_all_used():
    y = torch.randn(2000, 64, generator=generator())
    labels = assign_classes(y, torch.full((2000,), 3), generator(1))
    share = torch.bincount(labels.flatten(), minlength=3) / labels.numel()
    torch.testing.assert_close(share, torch.full((3,), 1 / 3), atol=0.02, rtol=0)


def test_columns_marked_become_categories_and_the_others_stay():
    rng = np.random.default_rng(0)
    x = torch.randn(4, 200, 5, generator=generator())
    columns = torch.rand(4, 5, generator=generator(1)) < 0.5
    out = make_categorical(x, columns, rng, generator(2))
    keep = ~columns[:, None, :].expand_as(x)
    assert torch.equal(out[keep], x[keep])
    for table in range(4):
        for column in range(5):
            values = out[table, :, column]
            if columns[table, column]:
                assert torch.equal(values, values.round())
                assert len(values.unique()) < 100


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), n_train=st.integers(2, 18))
def test_an_order_that_is_called_valid_has_the_same_classes_on_both_sides(seed, n_train):
    labels = torch.randint(0, 4, (6, 20), generator=generator(seed))
    order, valid = match_label_sets(labels, n_train, generator(seed))
    assert torch.equal(order.sort(1).values, torch.arange(20).expand(6, 20))
    shuffled = labels.gather(1, order)
    for row, ok in zip(shuffled, valid.tolist(), strict=True):
        same = set(row[:n_train].tolist()) == set(row[n_train:].tolist())
        several = len(set(row[:n_train].tolist())) > 1
        assert ok == (same and several)


def test_labels_become_the_first_numbers():
    labels = torch.tensor([[7, 3, 3, 9], [1, 0, 1, 0]])
    seen = {tuple(compact_labels(labels, generator(seed))[0].tolist()) for seed in range(40)}
    # 3, 7, 9 become 0, 1, 2, rotated
    assert seen == {(1, 0, 0, 2), (2, 1, 1, 0), (0, 2, 2, 1)}
