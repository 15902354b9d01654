"""The claims of the paper, a test each; the thresholds are those of the claims."""

from itertools import permutations, product

import numpy as np
import pytest
import torch

from ptrnet_impl import (
    PointerNetwork,
    Recipe,
    Seq2Seq,
    brute_force_tour,
    build,
    canonical_tour,
    christofides,
    delaunay_canonical,
    evaluate,
    held_karp,
    hull_ccw,
    tour_lengths,
    train,
    two_opt,
)
from ptrnet_impl.geometry import canonical_hull, canonical_triangles
from shared_impl.train import count_parameters


def network(seed=0, **options):
    torch.manual_seed(seed)
    model = PointerNetwork(**{"hidden": 32, **options})
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def batch(n=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([n, 5, 1, 7])
    x = torch.rand(4, n, 2, generator=generator)
    rows = [torch.randperm(int(k), generator=generator)[: max(1, int(k) - 1)] for k in lengths]
    targets = torch.nn.utils.rnn.pad_sequence([*rows, torch.zeros(n, dtype=torch.long)], True, -1)[:4]
    return x, lengths, targets


def test_probabilities_sum_to_one_over_what_is_there_and_are_zero_on_padding():
    x, lengths, targets = batch()
    probabilities = network()(x, lengths, targets).exp()
    assert (probabilities.sum(-1) - 1).abs().max() < 1e-6
    for row, length in zip(probabilities, lengths, strict=True):
        assert (row[:, length:-1] == 0).all()
        assert (row[:, :length] > 0).all()


def test_a_padded_batch_gives_what_each_instance_gives_alone():
    x, lengths, targets = batch()
    model = network()
    together = model(x, lengths, targets)
    for i, length in enumerate(lengths.tolist()):
        alone = model(x[i : i + 1, :length], None, targets[i : i + 1])
        kept = torch.cat([together[i : i + 1, :, :length], together[i : i + 1, :, -1:]], -1)
        assert (kept - alone).abs().max() < 1e-5


@pytest.mark.parametrize("constraint", [None, "permutation", "distinct"])
def test_the_beam_s_score_is_the_teacher_forced_likelihood(constraint):
    x, lengths, _ = batch()
    model = network()
    found = model.decode(x, lengths, "beam", 5, constraint)
    for beam in range(5):
        alive = found.all_log_likelihood[:, beam].isfinite()
        if alive.any():
            scores = model.log_likelihood(
                x[alive], found.all_indices[alive, beam], lengths[alive], constraint=constraint
            )
            assert (scores - found.all_log_likelihood[alive, beam]).abs().max() < 1e-5


def test_a_beam_of_one_is_greedy_and_a_wide_one_is_exact():
    x = torch.rand(6, 4, 2, generator=torch.Generator().manual_seed(1))
    model = network()
    greedy = model.decode(x)
    assert model.decode(x, None, "beam", 1).sequences() == greedy.sequences()
    # every sequence of at most three points and an end, and those of four points
    ended = [[*points, *[-1] * (4 - k)] for k in range(4) for points in product(range(4), repeat=k)]
    every = torch.tensor(ended + [list(points) for points in product(range(4), repeat=4)])
    found = model.decode(x, None, "beam", len(every), max_steps=4)
    for i in range(len(x)):
        scores = model.log_likelihood(x[i : i + 1].expand(len(every), -1, -1), every)
        assert found.all_log_likelihood[i].exp().sum() == pytest.approx(1, abs=1e-5)
        assert found.indices[i].tolist() == every[scores.argmax()].tolist()
    pure = network(end_symbol=False)
    orders = torch.tensor(list(permutations(range(4))))
    found = pure.decode(x, None, "beam", 24, "permutation")
    for i in range(len(x)):
        repeated = x[i : i + 1].expand(24, -1, -1)
        scores = pure.log_likelihood(repeated, orders, constraint="permutation")
        assert found.indices[i].tolist() == orders[scores.argmax()].tolist()


def test_the_constraint_always_gives_a_permutation():
    lengths = torch.tensor([12, 3, 1, 8])
    for seed in range(5):
        x = torch.rand(4, 12, 2, generator=torch.Generator().manual_seed(seed))
        for end_symbol, method in product((True, False), ("greedy", "beam", "sample")):
            model = network(seed, end_symbol=end_symbol)
            answers = model.decode(x, lengths, method, 3, "permutation").sequences()
            assert [sorted(answer) for answer in answers] == [list(range(k)) for k in lengths.tolist()]


def test_held_karp_is_exact_christofides_is_bounded_and_two_opt_never_lengthens():
    rng = np.random.default_rng(0)
    for n in range(2, 9):
        points = rng.random((20, n, 2))
        best = tour_lengths(points, held_karp(points))
        brute = [float(tour_lengths(p, brute_force_tour(p))) for p in points]
        assert best == pytest.approx(brute, abs=1e-12)
        assert (tour_lengths(points, christofides(points)) <= 1.5 * best + 1e-12).all()
    points = rng.random((30, 25, 2))
    tours = np.stack([rng.permutation(25) for _ in range(30)])
    assert (tour_lengths(points, two_opt(points, tours)) <= tour_lengths(points, tours)).all()


def test_targets_do_not_depend_on_where_a_solver_starts_or_which_way_it_goes():
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = rng.random((9, 2))
        hull, tour, triangles = hull_ccw(points), held_karp(points), delaunay_canonical(points)
        assert all(canonical_hull(np.roll(hull, k)).tolist() == hull.tolist() for k in range(len(hull)))
        turned = [np.roll(way, k) for k in range(9) for way in (tour, tour[::-1])]
        assert all(canonical_tour(t).tolist() == tour.tolist() for t in turned)
        shuffled = rng.permuted(rng.permutation(triangles), axis=1)
        assert canonical_triangles(points, shuffled).tolist() == triangles.tolist()


@pytest.mark.parametrize(("input_dim", "hidden"), [(2, 256), (2, 512), (3, 40)])
def test_the_parameters_are_those_of_the_formula(input_dim, hidden):
    lstm = 4 * hidden * (input_dim + hidden + 2)
    pointer = 2 * hidden**2 + hidden
    model = PointerNetwork(input_dim=input_dim, hidden=hidden)
    assert count_parameters(model) == 2 * lstm + pointer + hidden + input_dim
    fixed = Seq2Seq(n_max=50, input_dim=input_dim, hidden=hidden)
    assert count_parameters(fixed) == 2 * lstm + 51 * (hidden + 1) + hidden + input_dim


# Behaviour: each learns from generated instances, for up to a minute of one core


def learnt(name, task, n, steps, lr=1e-2):
    torch.manual_seed(0)
    model = build(name, task, hidden=128, n_max=10)
    train(model, task, n, Recipe(steps=steps, lr=lr, batch_size=64), seed=0)
    return model


@pytest.mark.slow
def test_sorting_is_learnt():
    model = learnt("ptr-net", "sort", (5, 8), 4000, lr=5e-3)
    assert sum(evaluate(model, "sort", n)["accuracy"] for n in range(5, 9)) / 4 >= 0.9


@pytest.mark.slow
def test_hulls_of_five_points_are_learnt_and_by_the_plain_lstm_less_well():
    pointer = evaluate(learnt("ptr-net", "hull", 5, 2000), "hull", 5)
    plain = evaluate(learnt("lstm", "hull", 5, 2000), "hull", 5)
    assert pointer["accuracy"] >= 0.7
    assert pointer["area"] >= 0.97
    assert plain["accuracy"] < pointer["accuracy"]


@pytest.mark.slow
def test_trained_on_five_to_ten_points_it_covers_hulls_of_twenty():
    assert evaluate(learnt("ptr-net", "hull", (5, 10), 3000), "hull", 20)["area"] >= 0.95


@pytest.mark.slow
def test_tours_of_five_cities_are_within_three_percent_of_the_shortest():
    found = evaluate(learnt("ptr-net", "tsp", 5, 2500, lr=5e-3), "tsp", 5, width=3)
    assert found["invalid"] == 0
    assert found["length"] <= 1.03 * found["best"]
    assert abs(found["best"] - 2.12) < 0.03
