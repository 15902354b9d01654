from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ptrnet_impl import PointerNetwork, Seq2Seq, Seq2SeqAttention


def network(cls=PointerNetwork, seed=0, **options):
    torch.manual_seed(seed)
    if cls is not PointerNetwork:
        options = {"n_max": 8, **options}
    model = cls(**{"hidden": 8, **options}).double()
    for parameter in model.parameters():  # far from uniform, so that answers differ
        torch.nn.init.normal_(parameter)
    return model


def points(batch, n, seed=0):
    return torch.rand(batch, n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CLASSES = [PointerNetwork, Seq2Seq, Seq2SeqAttention]


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("end_symbol", [True, False])
@pytest.mark.parametrize("constraint", [None, "permutation", "distinct"])
@pytest.mark.parametrize("options", [{}, {"method": "beam", "width": 4}, {"method": "sample", "width": 3}])
def test_the_score_of_an_answer_is_its_teacher_forced_likelihood(cls, end_symbol, constraint, options):
    model, x, lengths = network(cls, end_symbol=end_symbol), points(4, 6), torch.tensor([6, 4, 5, 1])
    found = model.decode(x, lengths, constraint=constraint, generator=torch.Generator().manual_seed(0), **options)
    scores = model.log_likelihood(x, found.indices, lengths, constraint=constraint)
    torch.testing.assert_close(found.log_likelihood, scores.detach(), rtol=1e-9, atol=1e-9)
    for beam in range(found.all_indices.shape[1]):
        alive = found.all_log_likelihood[:, beam].isfinite()
        if alive.any():
            scores = model.log_likelihood(
                x[alive], found.all_indices[alive, beam], lengths[alive], constraint=constraint
            )
            torch.testing.assert_close(found.all_log_likelihood[alive, beam], scores.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_batch_of_unequal_lengths_gives_the_answers_of_each_alone(cls):
    model, x, lengths = network(cls), points(5, 7, 3), torch.tensor([7, 3, 5, 1, 6])
    together = model.decode(x, lengths, "beam", 3, "distinct").sequences()
    alone = [model.decode(x[i : i + 1, :k], None, "beam", 3, "distinct") for i, k in enumerate(lengths.tolist())]
    assert together == [found.sequences()[0] for found in alone]


@pytest.mark.parametrize("end_symbol", [True, False])
def test_a_beam_of_one_is_greedy(end_symbol):
    model, x = network(end_symbol=end_symbol), points(20, 6)
    greedy, beam = model.decode(x), model.decode(x, method="beam", width=1)
    assert greedy.sequences() == beam.sequences()
    torch.testing.assert_close(greedy.log_likelihood, beam.log_likelihood)


def test_the_beam_s_answers_differ_and_come_in_order():
    found = network().decode(points(5, 4), method="beam", width=6)
    assert (found.all_log_likelihood.diff(dim=1) <= 0).all()
    for row in found.all_indices.tolist():
        assert len({tuple(answer) for answer in row}) == 6


def test_beams_that_are_wider_than_there_are_answers_say_so():
    found = network(end_symbol=False).decode(points(1, 3), method="beam", width=8, constraint="permutation")
    alive = found.all_log_likelihood[0].isfinite()
    assert alive.sum() == 6
    assert {tuple(row) for row in found.all_indices[0, alive].tolist()} == set(permutations(range(3)))
    torch.testing.assert_close(found.all_log_likelihood[0, alive].exp().sum(), torch.ones((), dtype=torch.float64))


@settings(deadline=None, max_examples=25)
@given(n=st.integers(1, 7), seed=st.integers(0, 100), method=st.sampled_from(["greedy", "beam", "sample"]))
def test_permutation_and_distinct_hold_whatever_the_weights(n, seed, method):
    for end_symbol in (True, False):
        model, x = network(seed=seed, end_symbol=end_symbol), points(3, n, seed)
        lengths = torch.tensor([n, max(1, n - 1), 1])
        whole = model.decode(x, lengths, method, 2, "permutation")
        assert [sorted(row) for row in whole.sequences()] == [list(range(k)) for k in lengths.tolist()]
        assert whole.finished.all()
        distinct = model.decode(x, lengths, method, 2, "distinct").sequences()
        assert all(len(set(row)) == len(row) for row in distinct)


def test_a_function_as_constraint_sees_points_and_choices():
    def rightwards(points, lengths, chosen):
        """Only points to the right of the last one; the end is always allowed."""
        last = points[..., 0].new_full((len(points), 1), -1.0)
        if chosen.shape[1]:
            last = points[..., 0].gather(1, chosen[:, -1:].clamp(min=0))
        return torch.cat([points[..., 0] > last, torch.ones(len(points), 1, dtype=torch.bool)], 1)

    model, x = network(), points(10, 6)
    for method in ("greedy", "beam", "sample"):
        found = model.decode(x, None, method, 3, rightwards)
        for row, answer in zip(x, found.sequences(), strict=True):
            assert (row[answer, 0].diff() > 0).all()
        scores = model.log_likelihood(x, found.indices, constraint=rightwards)
        torch.testing.assert_close(found.log_likelihood, scores.detach())


def test_drawn_answers_follow_the_probabilities():
    model, x = network(end_symbol=False), points(1, 2)
    drawn = model.decode(x, method="sample", width=4000, generator=torch.Generator().manual_seed(0))
    for answer in ((0, 0), (0, 1), (1, 0), (1, 1)):
        p = model.log_likelihood(x, torch.tensor([answer])).exp().item()
        share = (drawn.all_indices[0] == torch.tensor(answer)).all(1).double().mean().item()
        assert abs(share - p) < 5 * (p * (1 - p) / 4000) ** 0.5 + 1e-9


def test_an_answer_without_an_end_says_that_it_is_not_finished():
    model = network()
    with torch.no_grad():
        model.end.zero_()
        model.pointer.v.zero_()  # all slots alike: greedy takes the first point for ever
    found = model.decode(points(2, 3), max_steps=5)
    assert found.indices.tolist() == [[0] * 5] * 2
    assert not found.finished.any()
    torch.testing.assert_close(found.log_likelihood, model.log_likelihood(points(2, 3), found.indices).detach())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "best"}, "method must be greedy, beam or sample, got 'best'"),
        ({"width": 0}, "width must be a positive integer, got 0"),
        ({"constraint": "tour"}, "constraint must be None, permutation, distinct or a function, got 'tour'"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"max_steps": 0}, "max_steps must be positive"),
        (
            {"constraint": lambda *_: torch.zeros(2, 4, dtype=torch.bool)},
            "constraint leaves nothing to choose at step 0",
        ),
        ({"constraint": lambda *_: torch.zeros(2, 3)}, "constraint must return booleans of shape"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        network().decode(points(2, 3), **options)


def test_targets_that_break_the_constraint_are_refused():
    with pytest.raises(ValueError, match="targets must obey the constraint, row 1 breaks it at step 2"):
        network()(points(2, 3), None, torch.tensor([[0, 1, 2, -1], [0, 1, 1, -1]]), constraint="distinct")
    with pytest.raises(ValueError, match="row 0 breaks it at step 1"):
        network()(points(1, 3), None, torch.tensor([[0, -1]]), constraint="permutation")
    with pytest.raises(ValueError, match="constraint must be None"):
        network()(points(1, 3), None, torch.tensor([[0, -1]]), constraint="tour")


def test_a_beam_that_is_left_with_nothing_does_not_end_the_others():
    """After point 0 everything is forbidden; who began elsewhere goes on."""
    model = network(end_symbol=False)

    def no_way_from_0(points, lengths, chosen):
        allowed = torch.ones(len(points), points.shape[1], dtype=torch.bool)
        if chosen.shape[1]:
            allowed.scatter_(1, chosen, False)
            allowed[chosen[:, 0] == 0] = False
        return allowed

    found = model.decode(points(1, 3), method="beam", width=3, constraint=no_way_from_0)
    assert found.indices[0, 0] != 0
    assert sorted(found.indices[0].tolist()) == [0, 1, 2]
    with pytest.raises(ValueError, match="nothing to choose"):
        model.decode(
            points(1, 3), method="beam", width=3,
            constraint=lambda p, n, c: torch.full((len(p), 3), c.shape[1] < 2),
        )  # fmt: skip
