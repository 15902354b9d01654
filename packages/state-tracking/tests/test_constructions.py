import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from state_tracking_impl import (
    automaton_lrnn,
    modm_two_layer,
    parity_lrnn,
    permutation_householder,
    run_automaton,
)


@st.composite
def tables(draw):
    n, symbols = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    return [[draw(st.integers(0, n - 1)) for _ in range(symbols)] for _ in range(n)]


@settings(max_examples=25, deadline=None)
@given(table=tables(), seed=st.integers(0, 100))
def test_any_automaton_is_run_exactly_also_in_pieces(table, seed):
    ids = torch.randint(0, len(table[0]), (2, 100), generator=torch.Generator().manual_seed(seed))
    cascade, start = automaton_lrnn(table, seed % len(table)), seed % len(table)
    expected = run_automaton(table, ids, start)
    assert (cascade(ids)[0] == expected).all()
    first, state = cascade(ids[:, :33])
    second, _ = cascade(ids[:, 33:], state)
    assert (torch.cat([first, second], 1) == expected).all()


def test_depth_is_what_the_automaton_needs():
    assert automaton_lrnn([[1, 0], [0, 1]]).n_layers == 1  # parity: permutations alone
    assert automaton_lrnn([[0, 1], [0, 1]]).n_layers == 1  # flip-flop: resets alone
    assert automaton_lrnn([[1, 0], [2, 0], [2, 0]]).n_layers == 2  # neither


def test_every_transition_of_a_cascade_has_norm_at_most_one():
    cascade = automaton_lrnn([[1, 2, 0], [2, 2, 0], [0, 1, 1]])
    for name, matrices in cascade.named_buffers():
        if name.startswith("a"):
            assert (torch.linalg.matrix_norm(matrices, ord=2) <= 1 + 1e-12).all()


def test_pieces_of_a_sequence_continue():
    x = torch.randint(0, 5, (2, 300), generator=torch.Generator().manual_seed(0))
    _, state = modm_two_layer(5)(x[:, :101])
    rest, _ = modm_two_layer(5)(x[:, 101:], state)
    assert (rest == x.cumsum(1)[:, 101:] % 5).all()
    bits = x % 2
    _, h = parity_lrnn()(bits[:, :101])
    assert (parity_lrnn()(bits[:, 101:], h)[0] == bits.cumsum(1)[:, 101:] % 2).all()


@pytest.mark.parametrize("bad", [[0, 0, 1], [1, 2], [], [-1, 0]])
def test_what_is_no_permutation_is_refused(bad):
    with pytest.raises(ValueError, match="permutation must hold each"):
        permutation_householder(bad)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([[0, 1], [1]], "hole: state 1 has 1 entries"),
        ([[0, 1], [1, -1]], "hole: state 1, symbol 1 leads to -1"),
        ([[0, 2], [1, 1]], "hole: state 0, symbol 1 leads to 2"),
        ([], "at least one state"),
        ([[i] for i in range(9)], "at most 8 states"),
    ],
)
def test_tables_with_holes_are_refused(table, message):
    with pytest.raises(ValueError, match=message):
        automaton_lrnn(table)


def test_wrong_numbers_and_symbols_are_refused():
    with pytest.raises(ValueError, match="m must be an integer of at least 2"):
        modm_two_layer(1)
    with pytest.raises(ValueError, match="tokens must be within 0 and 2, got 3"):
        modm_two_layer(3)(torch.tensor([[3]]))
    with pytest.raises(ValueError, match=r"eigenvalue must be in \[-1, 1\]"):
        parity_lrnn(-2.0)
    with pytest.raises(ValueError, match="ids must be within 0 and 1, got 2"):
        automaton_lrnn([[1, 0], [0, 1]])(torch.tensor([[2]]))
    with pytest.raises(ValueError, match="start must be within"):
        automaton_lrnn([[1, 0], [0, 1]], 2)


@pytest.mark.parametrize("table", [[[0, 1], [1, None]], [[0, 1], [1, 0.5]]])
def test_entries_that_are_no_states_are_refused(table):
    with pytest.raises((ValueError, TypeError), match=r"number of a state|table"):
        automaton_lrnn(table)
