import pytest
import torch

from ncnc_impl import CSR, NCN, LinkHead
from ncnc_impl.overlap import residual_neighbors

VARIANTS = ("ncn", "ncnc", "ncn2", "ncn_diff", "gae", "gae_cn", "gae_cnc")


def neighbor_sets(adj: CSR):
    return [set(adj.col[adj.rowptr[i] : adj.rowptr[i + 1]].tolist()) for i in range(adj.n_rows)]


def total(h, nodes):
    return sum((h[u] for u in nodes), torch.zeros(h.shape[1]))


@pytest.mark.parametrize("variant", ["ncn", "ncn2", "ncn_diff", "gae", "gae_cn"])
@pytest.mark.parametrize("transform", [True, False])
def test_each_variant_equals_its_formula_pair_by_pair(random_graph, all_pairs, variant, transform):
    graph = random_graph(0, n_nodes=12, n_pairs=25)
    torch.manual_seed(0)
    head = LinkHead(6, variant=variant, transform_nodes=transform, tail_act=False, beta=0.7).eval()
    h, pairs, near = graph.x, all_pairs(12), neighbor_sets(graph.adj)
    two = [set().union(*(near[u] for u in near[i])) if near[i] else set() for i in range(12)]
    expected = []
    with torch.no_grad():
        v = h + head.xlin(h) if head.xlin is not None else h
        for i, j in pairs.tolist():
            z = head.xijlin((h[i] * h[j])[None])
            both = near[i] & near[j]
            if variant == "gae_cn":
                z = z + head.beta * head.xcnlin(torch.tensor([[float(len(both))]]))
            elif variant != "gae":
                z = z + head.beta * head.xcnlin(total(v, both)[None])
            if variant == "ncn2":
                z = z + head.extra_lin((total(v, near[i] & two[j]) + total(v, two[i] & near[j]))[None])
            elif variant == "ncn_diff":
                z = z + head.extra_lin((total(v, near[i] - near[j]) + total(v, near[j] - near[i]))[None])
            expected.append(head.lin(z)[0, 0])
        found = head(h, graph.adj, pairs)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_gets_a_gradient(random_graph, all_pairs, variant):
    graph = random_graph(1)
    torch.manual_seed(0)
    model = NCN(6, 16, variant=variant, two_layer_out=True, learn_pt=True, jumping=True, dropout=0.1)
    model(graph.x, graph.adj, all_pairs(graph.n_nodes)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        # a bias before a LayerNorm's mean may vanish in exact arithmetic, a weight may not
        assert parameter.dim() < 2 or parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("depth", [1, 2])
def test_scoring_inner_links_in_parts_changes_nothing(random_graph, all_pairs, depth):
    graph = random_graph(2)
    torch.manual_seed(0)
    whole = LinkHead(6, variant="ncnc", depth=depth).eval()
    parts = LinkHead(6, variant="ncnc", depth=depth, chunk_size=101).eval()
    parts.load_state_dict(whole.state_dict())
    pairs = all_pairs(graph.n_nodes)[::3]
    with torch.no_grad():
        a, b = whole(graph.x, graph.adj, pairs), parts(graph.x, graph.adj, pairs)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_deeper_completion_changes_the_scores_and_depth_zero_is_ncn(random_graph, all_pairs):
    graph = random_graph(3)
    torch.manual_seed(0)
    head = LinkHead(6, variant="ncnc", depth=2, scale=1.0, offset=0.0).eval()
    plain = LinkHead(6, variant="ncn").eval()
    plain.load_state_dict(head.state_dict())
    pairs = all_pairs(graph.n_nodes)
    with torch.no_grad():
        at = [head(graph.x, graph.adj, pairs, depth=depth) for depth in range(3)]
        torch.testing.assert_close(at[0], plain(graph.x, graph.adj, pairs), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(at[1], at[0], atol=1e-3)
    assert not torch.allclose(at[2], at[1], atol=1e-5)


def test_official_compat_transforms_once_more_inside_the_recursion(random_graph, all_pairs):
    graph = random_graph(4)
    pairs = all_pairs(graph.n_nodes)
    torch.manual_seed(0)
    soft = {"variant": "ncnc", "scale": 1.0, "offset": 0.0}
    heads = {c: LinkHead(6, compat=c, **soft).eval() for c in ("paper", "official")}
    heads["official"].load_state_dict(heads["paper"].state_dict())
    with torch.no_grad():
        found = {c: head(graph.x, graph.adj, pairs) for c, head in heads.items()}
        # what the official code does, by hand: the inner logits are those of the plain head on transformed vectors
        v = graph.x + heads["paper"].xlin(graph.x)
        only_i, _ = residual_neighbors(graph.adj, pairs)
        inner = torch.stack((pairs[only_i.rows(), 1], only_i.col), 1)
        by_hand = heads["paper"](v, graph.adj, inner, depth=0)
        official = heads["official"]._inner_logits(graph.x, v, graph.adj, inner, 0)
    torch.testing.assert_close(by_hand, official)
    assert not torch.allclose(found["paper"], found["official"], atol=1e-4)
    # without the transform nothing is left to differ
    heads = {c: LinkHead(6, compat=c, transform_nodes=False, **soft).eval() for c in ("paper", "official")}
    heads["official"].load_state_dict(heads["paper"].state_dict())
    with torch.no_grad():
        a, b = (head(graph.x, graph.adj, pairs) for head in heads.values())
    torch.testing.assert_close(a, b)


def test_sampled_residual_neighbors_score_like_all_of_them_on_average(random_graph, all_pairs):
    graph = random_graph(5, n_nodes=20, n_pairs=120)
    torch.manual_seed(0)
    head = LinkHead(6, variant="gae_cnc", train_degree=2, test_degree=1000, common_degree=None, scale=1.0, offset=0.0)
    head.eval()
    pairs = all_pairs(20)[:30]
    z_ij = graph.x[pairs[:, 0]] * graph.x[pairs[:, 1]]

    def completed():
        with torch.no_grad():
            return head._completed_sum(graph.x, graph.x, graph.adj, pairs, z_ij, 1)

    everything = completed()
    head.test_degree = 2
    rounds = torch.stack([completed() for _ in range(150)])
    error = rounds.std(0) / 150**0.5
    assert float(rounds.std(0).max()) > 0
    assert bool(((rounds.mean(0) - everything).abs() <= 5 * error + 1e-4).all())


def test_extreme_logits_give_finite_probabilities_and_gradients(random_graph, all_pairs):
    graph = random_graph(6)
    torch.manual_seed(0)
    head = LinkHead(6, variant="ncnc", scale=1e4, offset=0.0, learn_pt=True)
    logits = head(graph.x * 100, graph.adj, all_pairs(graph.n_nodes))
    logits.sum().backward()
    assert bool(logits.isfinite().all())
    assert all(bool(p.grad.isfinite().all()) for p in head.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "seal"}, "variant must be one of"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
        ({"depth": 0}, "depth must be at least 1, got 0"),
        ({"test_degree": 0}, "test_degree must be at least 1, got 0"),
        ({"pt": -0.1}, "pt must not be negative, got -0.1"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, message):
    error = Exception if "variant" in options else ValueError
    with pytest.raises(error) as caught:
        LinkHead(4, **options)
    assert "variant" in options or message in str(caught.value)


def test_weights_and_settings_come_back_from_disk(random_graph, all_pairs, tmp_path):
    graph = random_graph(0)
    model = NCN(6, 8, variant="ncnc", depth=2, learn_pt=True, jumping=True).eval()
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors", ".md"}
    again = NCN.from_pretrained(tmp_path).eval()
    pairs = all_pairs(graph.n_nodes)
    with torch.no_grad():
        assert torch.equal(again(graph.x, graph.adj, pairs), model(graph.x, graph.adj, pairs))
