"""The paper's claims, a test each. Claims that need minutes are marked slow."""

import statistics

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ncnc_impl import CSR, NCN, RECIPES, Graph, LinkHead, common_neighbors, completion_probability
from ncnc_impl.experiments import geometric_study
from ncnc_impl.predictor import completion_probability_naive
from ncnc_impl.training import LinkLoss
from shared_impl.train import count_parameters

VARIANTS = ("ncn", "ncnc", "ncn2", "ncn_diff", "gae", "gae_cn", "gae_cnc")


@pytest.mark.parametrize("seed", range(100))
def test_overlap_sum_equals_the_dense_product(random_graph, all_pairs, seed):
    graph = random_graph(seed)
    pairs = all_pairs(graph.n_nodes)
    h = torch.randn(graph.n_nodes, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    dense = graph.adj.to_dense().double()
    expected = (dense[pairs[:, 0]] * dense[pairs[:, 1]]) @ h
    torch.testing.assert_close(common_neighbors(graph.adj, pairs).matmul(h), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("variant", "depth"), [*((v, 1) for v in VARIANTS), ("ncnc", 2), ("ncnc", 3)])
def test_scores_do_not_depend_on_the_order_of_the_endpoints(random_graph, all_pairs, variant, depth):
    graph = random_graph(1)
    torch.manual_seed(0)
    model = NCN(6, 16, variant=variant, depth=depth, dropout=0.3, edge_dropout=0.3).eval()
    pairs = all_pairs(graph.n_nodes)
    with torch.no_grad():
        there, back = model(graph.x, graph.adj, pairs), model(graph.x, graph.adj, pairs.flip(1))
    assert there.std() > 0.01
    torch.testing.assert_close(there, back, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("variant", "depth"), [*((v, 1) for v in VARIANTS), ("ncnc", 2)])
def test_renaming_the_nodes_changes_no_score(random_graph, all_pairs, variant, depth):
    graph = random_graph(2)
    torch.manual_seed(0)
    model = NCN(6, 16, variant=variant, depth=depth).eval()
    order = torch.randperm(graph.n_nodes, generator=torch.Generator().manual_seed(3))
    new_name = torch.argsort(order)
    renamed = Graph.from_edges(new_name[graph.edges], graph.n_nodes, x=graph.x[order])
    pairs = all_pairs(graph.n_nodes)
    with torch.no_grad():
        expected = model(graph.x, graph.adj, pairs)
        found = model(renamed.x, renamed.adj, new_name[pairs])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None)
@given(
    logit=st.floats(-10, 10),
    scale=st.floats(0.1, 10),
    offset=st.floats(-5, 5),
    pt=st.floats(0.01, 5),
    alpha=st.floats(0, 2),
)
def test_calibration_equals_the_papers_formula(logit, scale, offset, pt, alpha):
    s = torch.tensor([logit], dtype=torch.float64)
    log_pt = torch.tensor([pt], dtype=torch.float64).log()
    stable = completion_probability(s, scale=scale, offset=offset, log_pt=log_pt, alpha=alpha)
    written = completion_probability_naive(s, scale=scale, offset=offset, pt=pt, alpha=alpha)
    torch.testing.assert_close(stable, written, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("calibration", [{"pt": 0.0}, {"alpha": 0.0}])
def test_without_probability_mass_completion_is_plain_ncn(random_graph, all_pairs, calibration):
    graph = random_graph(4)
    pairs = all_pairs(graph.n_nodes)
    torch.manual_seed(0)
    # an untrained model's logits lie around 0: an offset of 0 gives them weight
    soft = {"variant": "ncnc", "scale": 1.0, "offset": 0.0}
    completed = NCN(6, 16, **soft, **calibration).eval()
    unchanged = NCN(6, 16, **soft).eval()
    plain = NCN(6, 16, variant="ncn").eval()
    for model in (unchanged, plain):
        model.load_state_dict(completed.state_dict())
    with torch.no_grad():
        expected = plain(graph.x, graph.adj, pairs)
        torch.testing.assert_close(completed(graph.x, graph.adj, pairs), expected, rtol=1e-6, atol=1e-6)
        assert not torch.allclose(unchanged(graph.x, graph.adj, pairs), expected, atol=1e-3)


def test_equal_neighborhoods_leave_nothing_to_complete():
    # complete bipartite: all nodes of one side have the same neighbours
    left, right = 4, 5
    edges = [(i, left + j) for i in range(left) for j in range(right)]
    graph = Graph.from_edges(edges, x=torch.randn(left + right, 6, generator=torch.Generator().manual_seed(0)))
    torch.manual_seed(0)
    completed = NCN(6, 16, variant="ncnc", scale=1.0, offset=0.0).eval()
    plain = NCN(6, 16, variant="ncn").eval()
    plain.load_state_dict(completed.state_dict())
    same_side = torch.combinations(torch.arange(left))
    across = torch.tensor([[0, left], [1, left + 2]])
    with torch.no_grad():
        a, b = (model(graph.x, graph.adj, same_side) for model in (completed, plain))
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
        c, d = (model(graph.x, graph.adj, across) for model in (completed, plain))
    assert not torch.allclose(c, d, atol=1e-3)


@pytest.mark.parametrize(("data", "categories", "expected"), [("ppa", 58, 33_538), ("ddi", 4_268, 1_412_098)])
def test_parameter_counts_are_those_of_the_leaderboard(data, categories, expected):
    model = NCN(n_categories=categories, **RECIPES[data].model_options("ncn"))
    assert count_parameters(model) == expected


@pytest.mark.parametrize("variant", ["ncn", "ncnc", "gae"])
def test_target_link_removal_makes_the_loss_blind_to_the_links_being_there(random_graph, variant):
    graph = random_graph(5)
    edge = torch.arange(0, graph.n_edges, 3)
    batch = graph.edges[edge]
    lacking = graph.with_edges(graph.edges[~torch.isin(torch.arange(graph.n_edges), edge)])
    torch.manual_seed(0)
    model = NCN(6, 16, variant=variant).eval()
    removed = torch.zeros(graph.n_edges, dtype=torch.bool)
    removed[edge] = True
    seen = graph.without(removed)
    assert torch.equal(seen.col, lacking.adj.col)
    assert torch.equal(seen.rowptr, lacking.adj.rowptr)
    with torch.no_grad():
        torch.testing.assert_close(model(graph.x, seen, batch), model(lacking.x, lacking.adj, batch))
        assert not torch.allclose(model(graph.x, graph.adj, batch), model(graph.x, seen, batch), atol=1e-3)
    losses = {}
    for name, remove, g in (("removed", True, graph), ("kept", False, graph)):
        torch.manual_seed(1)
        losses[name] = LinkLoss(g, remove_targets=remove)(model, (batch, edge)).item()
    assert losses["removed"] != losses["kept"]


def test_nodes_with_equal_vectors_are_told_apart_by_common_neighbors_only():
    # a ring of six: all nodes look alike, but 0 shares a neighbour with 2 and none with 3
    graph = Graph.from_edges([(i, (i + 1) % 6) for i in range(6)], x=torch.ones(6, 4))
    pairs = torch.tensor([[0, 2], [0, 3]])
    torch.manual_seed(0)
    gaps = {}
    for variant in ("gae", "ncn"):
        model = NCN(4, 16, variant=variant).eval()
        with torch.no_grad():
            h = model.encode(graph.x, graph.adj)
            torch.testing.assert_close(h[2], h[3])
            a, b = model.score(h, graph.adj, pairs)
        gaps[variant] = abs(a - b).item()
    assert gaps["gae"] < 1e-6
    assert gaps["ncn"] > 1e-3


@pytest.mark.slow
def test_on_a_geometric_graph_ncn_beats_gae_and_reaches_resource_allocation():
    # Hits@50 in percent; thresholds are those set before any run: 15 points, and not below RA
    hits = geometric_study(n_nodes=1500, epochs=30, models=("ra", "gae", "ncn")).hits
    assert hits["ncn"] >= hits["gae"] + 15
    assert hits["ncn"] >= hits["ra"]


@pytest.mark.slow
def test_with_half_the_edges_gone_completion_helps():
    # the threshold, one point over five seeds, was set before any run
    gains = []
    for seed in range(5):
        hits = geometric_study(n_nodes=1500, epochs=30, seed=seed, keep=0.5, models=("ncn", "ncnc")).hits
        gains.append(hits["ncnc"] - hits["ncn"])
    assert statistics.mean(gains) >= 1.0


def test_no_gradient_reaches_the_encoder_through_completion_probabilities(random_graph):
    # with beta = 0 the completed sum does not count, so only z_ij may pass gradients; pt is learned through p alone
    graph = random_graph(6)
    torch.manual_seed(0)
    head = LinkHead(6, variant="ncnc", transform_nodes=False, learn_pt=True)
    h = graph.x.clone().requires_grad_()
    pairs = torch.tensor([[0, 1], [2, 3]])
    head(h, graph.adj, pairs).sum().backward()
    assert head.ptlin[0].weight.grad.abs().sum() > 0
    inner = head.xcnlin[0].weight.grad.clone()
    head.zero_grad()
    with torch.no_grad():
        frozen = _outer_sum(head, h, graph.adj, pairs)
    z_ij = h.detach()[pairs[:, 0]] * h.detach()[pairs[:, 1]]
    head.lin(head.xcnlin(frozen) * head.beta + head.xijlin(z_ij)).sum().backward()
    torch.testing.assert_close(head.xcnlin[0].weight.grad, inner)


def _outer_sum(head: LinkHead, h: torch.Tensor, adj: CSR, pairs: torch.Tensor) -> torch.Tensor:
    """The completed sum pair by pair, as the paper writes it; its inner probabilities from the head at depth 0."""
    neighbors = [set(adj.col[adj.rowptr[i] : adj.rowptr[i + 1]].tolist()) for i in range(adj.n_rows)]
    rows = []
    for i, j in pairs.tolist():
        z = sum((h[u] for u in neighbors[i] & neighbors[j]), torch.zeros(h.shape[1]))
        log_pt = torch.nn.functional.logsigmoid(head.ptlin(h[i] * h[j]))
        for only, far in ((neighbors[i] - neighbors[j], j), (neighbors[j] - neighbors[i], i)):
            for u in only:
                s = head(h, adj, torch.tensor([[far, u]]), depth=0)
                p = completion_probability(s, scale=head.scale, offset=head.offset, log_pt=log_pt, alpha=head.alpha)
                z = z + p * h[u]
        rows.append(z)
    return torch.stack(rows)


@pytest.mark.parametrize("learn_pt", [False, True])
def test_the_completed_sum_is_the_papers_sum_written_out(random_graph, all_pairs, learn_pt):
    graph = random_graph(7, n_nodes=12, n_pairs=25)
    torch.manual_seed(0)
    head = LinkHead(6, variant="ncnc", transform_nodes=False, learn_pt=learn_pt, pt=0.5).eval()
    if not learn_pt:
        half = torch.nn.Linear(6, 1)
        torch.nn.init.zeros_(half.weight)
        torch.nn.init.zeros_(half.bias)
    pairs = all_pairs(12)[:40]
    with torch.no_grad():
        found = head(graph.x, graph.adj, pairs)
        if not learn_pt:
            head.ptlin = half  # sigmoid(0) = 0.5, the fixed pt
        z = _outer_sum(head, graph.x, graph.adj, pairs)
        z_ij = graph.x[pairs[:, 0]] * graph.x[pairs[:, 1]]
        expected = head.lin(head.xcnlin(z) * head.beta + head.xijlin(z_ij)).squeeze(1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert np.isfinite(found.numpy()).all()
