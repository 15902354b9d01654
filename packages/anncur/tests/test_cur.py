import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from anncur_impl.cur import CURDecomposition, apply_pinv, choose_ridge, energy, ridge_inverse, truncated_pinv
from anncur_impl.data import low_rank_matrix


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 100))
def test_with_numpys_cut_off_it_is_numpys_pseudo_inverse(rows, columns, seed):
    matrix = random(rows, columns)
    np.testing.assert_allclose(truncated_pinv(matrix, None), np.linalg.pinv(matrix), rtol=1e-6, atol=1e-9)


def test_singular_values_below_the_cut_off_are_left_out():
    left, _ = np.linalg.qr(random(6, 4))
    right, _ = np.linalg.qr(random(5, 4, seed=1))
    matrix = left @ np.diag([1, 0.5, 0.02, 0.005]) @ right.T
    kept = left[:, :3] @ np.diag([1, 2, 50]) @ right[:, :3].T
    np.testing.assert_allclose(truncated_pinv(matrix, 1e-2), kept.T, atol=1e-9)


@pytest.mark.parametrize("rcond", [None, 1e-2, 0.5])
@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_many_inverses_at_once_are_those_one_by_one(shape, rcond):
    blocks, scores = random(3, *shape), random(3, shape[1], seed=1)
    blocks[1] = 0
    expected = [s @ truncated_pinv(b, rcond) for s, b in zip(scores, blocks, strict=True)]
    np.testing.assert_allclose(apply_pinv(scores, blocks, rcond), expected, atol=1e-9)


def test_the_inverse_of_zero_is_zero():
    assert not truncated_pinv(np.zeros((3, 2))).any()
    assert not ridge_inverse(np.zeros((3, 2)), 0.1).any()


def test_ridge_is_its_formula():
    matrix = random(7, 4)
    weight = 1e-3 * np.linalg.norm(matrix, 2) ** 2
    expected = np.linalg.solve(matrix.T @ matrix + weight * np.eye(4), matrix.T)
    np.testing.assert_allclose(ridge_inverse(matrix, 1e-3), expected, rtol=1e-9)


def test_the_penalty_is_larger_where_there_is_more_noise():
    chosen = np.arange(60)
    clean, noisy = (low_rank_matrix(queries=80, items=400, rank=10, noise=noise) for noise in (1e-4, 1.0))
    assert choose_ridge(clean, chosen) < choose_ridge(noisy, chosen)
    with pytest.raises(ValueError, match="at least 2"):
        choose_ridge(clean[:1], chosen)


@pytest.mark.parametrize("method", ["pinv", "ridge", "oracle"])
def test_a_decomposition_reconstructs_a_matrix_of_low_rank(method):
    matrix = random(20, 3) @ random(3, 30, seed=1)
    made = CURDecomposition.fit(matrix, np.arange(5), np.arange(0, 30, 5), method=method, penalty=1e-12)
    assert made.relative_error(matrix) < 1e-6
    assert made.middle.shape == (6, 5)


def test_both_ways_to_split_the_product_agree():
    matrix = random(20, 30)
    made = CURDecomposition.fit(matrix, np.arange(8), np.arange(6))
    np.testing.assert_allclose(made.query_vectors() @ made.rows, made.columns @ made.item_vectors(), atol=1e-10)


def test_energy_of_a_matrix_of_rank_two():
    matrix = np.diag([2.0, 1.0, 0.0])
    np.testing.assert_allclose(energy(matrix, np.array([1, 2, 3, 9])), [0.8, 1, 1, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: truncated_pinv(np.empty((0, 3))), "at least one value"),
        (lambda: truncated_pinv(np.array([[1.0, np.nan]])), "row 0, column 1"),
        (lambda: truncated_pinv(np.ones((2, 2)), 1.0), "rcond"),
        (lambda: ridge_inverse(np.ones((2, 2)), 0.0), "penalty"),
        (lambda: CURDecomposition.fit(np.ones((2, 3)), np.array([2]), np.array([0])), "row_index"),
        (lambda: CURDecomposition.fit(np.ones((2, 3)), np.array([0]), np.array([], dtype=int)), "column_index"),
        (lambda: CURDecomposition.fit(np.ones((2, 3)), np.array([0]), np.array([0]), method="x"), "method"),
        (lambda: energy(np.array([[np.inf]]), np.array([1])), "inf"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises((ValueError, TypeCheckError), match=message):
        call()
