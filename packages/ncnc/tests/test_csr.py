import numpy as np
import pytest
import scipy.sparse as sp
import torch

from ncnc_impl import CSR
from ncnc_impl.csr import gather_rows, max_rows, select_entries
from shared_impl.testing import assert_forms_agree


def pattern(rows, cols, seed=0, density=0.3):
    matrix = sp.random_array((rows, cols), density=density, rng=np.random.default_rng(seed), format="csr")
    return CSR.from_scipy(matrix, pattern=True)


@pytest.mark.parametrize("cols", [1, 7, 40])
def test_products_and_both_gradients_equal_the_dense_form(cols):
    def sparse(value, dense):
        return pattern(9, cols).with_value(value).matmul(dense)

    def plain(value, dense):
        matrix = pattern(9, cols)
        full = torch.zeros(9, cols, dtype=value.dtype).index_put((matrix.rows(), matrix.col), value)
        return full @ dense

    def inputs(length, dtype):
        generator = torch.Generator().manual_seed(length)
        return {
            "value": torch.randn(pattern(9, cols).nnz, generator=generator, dtype=dtype),
            "dense": torch.randn(cols, length, generator=generator, dtype=dtype),
        }

    assert_forms_agree({"dense": plain, "sparse": sparse}, inputs, lengths=(1, 5, 64))


def test_a_symmetric_pattern_gives_the_same_gradient_as_a_general_one(random_graph):
    adj = random_graph(0).adj
    general = CSR(adj.rowptr, adj.col, adj.n_cols)
    x = torch.randn(adj.n_rows, 3)
    weight = torch.randn(adj.n_rows, 3)
    gradients = []
    for matrix in (adj, general):
        leaf = x.clone().requires_grad_()
        (matrix.matmul(leaf) * weight).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_an_empty_matrix_multiplies_to_zeros():
    empty = CSR(torch.zeros(4, dtype=torch.int64), torch.empty(0, dtype=torch.int64), 5)
    dense = torch.randn(5, 2, requires_grad=True)
    product = empty.matmul(dense)
    product.sum().backward()
    assert torch.equal(product.detach(), torch.zeros(3, 2))
    assert torch.equal(dense.grad, torch.zeros(5, 2))


def test_the_wrong_number_of_rows_is_refused():
    with pytest.raises(ValueError, match="dense must have 7 rows"):
        pattern(9, 7).matmul(torch.randn(8, 2))


@pytest.mark.parametrize("weighted", [False, True])
def test_the_maximum_over_a_row_equals_a_loop_and_empty_rows_are_zero(weighted):
    matrix = pattern(12, 9, seed=1, density=0.15)
    assert int(matrix.counts().min()) == 0
    if weighted:
        matrix = matrix.with_value(torch.rand(matrix.nnz) + 0.5)
    dense = torch.randn(9, 4) - 3
    value = torch.ones(matrix.nnz) if matrix.value is None else matrix.value
    found = max_rows(matrix, dense)
    for row in range(12):
        span = slice(int(matrix.rowptr[row]), int(matrix.rowptr[row + 1]))
        messages = value[span].unsqueeze(1) * dense[matrix.col[span]]
        expected = messages.max(0).values if messages.numel() else torch.zeros(4)
        torch.testing.assert_close(found[row], expected)


def test_rows_can_be_gathered_and_entries_selected():
    matrix = pattern(6, 5, seed=2).with_value(torch.arange(1.0, 1 + pattern(6, 5, seed=2).nnz))
    rows = torch.tensor([4, 0, 4])
    assert torch.equal(gather_rows(matrix, rows).to_dense(), matrix.to_dense()[rows])
    even = matrix.value % 2 == 0
    kept = select_entries(matrix, even)
    dense = matrix.to_dense()
    assert torch.equal(kept.to_dense(), torch.where(dense % 2 == 0, dense, 0.0))


def test_scipy_and_back():
    matrix = sp.csr_array(np.array([[0.0, 2.0], [3.0, 0.0]], dtype=np.float32))
    assert (CSR.from_scipy(matrix).to_scipy() != matrix).nnz == 0
    unsorted = sp.csr_array((np.array([1.0, 2.0]), np.array([1, 0]), np.array([0, 2])), shape=(1, 2))
    assert CSR.from_scipy(unsorted).col.tolist() == [0, 1]
    np.testing.assert_array_equal(CSR.from_scipy(unsorted).row_sums(), [3.0])
