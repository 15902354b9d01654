import pytest
import torch

from ncnc_impl import CSR, Encoder
from ncnc_impl.dropout import Dropout
from ncnc_impl.encoder import Convolution, drop_edges

KINDS = ("puregcn", "puresum", "puremean", "puremax", "gcn", "gin", "sage", "max")


def dense_form(conv, x, adj):
    """Each convolution as its formula, on dense matrices."""
    a = adj.to_dense()
    weighted = conv.lin is not None
    h = x @ conv.lin.weight.t() if weighted else x
    if conv.conv in ("puregcn", "gcn"):
        with_loops = a + torch.eye(len(a))
        scale = with_loops.sum(1).rsqrt()
        h = (scale[:, None] * with_loops * scale) @ h
    elif conv.conv in ("puresum", "gin"):
        h = a @ h
    elif conv.conv in ("puremean", "sage"):
        h = a @ h / a.sum(1, keepdim=True).clamp(min=1)
    else:
        rows = [h[row > 0].max(0).values if row.any() else torch.zeros(h.shape[1]) for row in a]
        h = torch.stack(rows)
    return h + conv.bias if weighted else h


@pytest.mark.parametrize("kind", KINDS)
def test_each_convolution_equals_its_formula(random_graph, kind):
    graph = random_graph(0)
    torch.manual_seed(0)
    conv = Convolution(kind, 6, 6)
    if conv.bias is not None:
        torch.nn.init.normal_(conv.bias)
    torch.testing.assert_close(conv(graph.x, graph.adj), dense_form(conv, graph.x, graph.adj), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "options"), [("gcn", {}), ("sage", {"aggr": "mean", "normalize": False})])
def test_weighted_convolutions_agree_with_pyg(random_graph, kind, options):
    nn = pytest.importorskip("torch_geometric.nn")
    graph = random_graph(1)
    loops = {"add_self_loops": False} if options else {}
    theirs = nn.GCNConv(6, 5, **options, **loops)
    ours = Convolution(kind, 6, 5)
    ours.lin.weight.data = theirs.lin.weight.data
    edge_index = torch.stack((graph.adj.rows(), graph.adj.col))
    torch.testing.assert_close(ours(graph.x, graph.adj), theirs(graph.x, edge_index), rtol=1e-5, atol=1e-5)


def test_pure_convolutions_keep_the_width_and_have_no_weights():
    assert not list(Convolution("puregcn", 4, 4).parameters())
    with pytest.raises(ValueError, match="in_dim 4 and out_dim 5"):
        Convolution("puregcn", 4, 5)


def test_sparse_features_give_the_same_vectors_and_gradients_as_dense_ones(random_graph):
    graph = random_graph(2)
    dense = torch.where(torch.rand(graph.x.shape, generator=torch.Generator().manual_seed(0)) < 0.3, graph.x, 0.0)
    rows, cols = dense.nonzero(as_tuple=True)
    counts = torch.bincount(rows, minlength=graph.n_nodes)
    sparse = CSR(torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0))), cols, 6, dense[rows, cols])
    for conv in ("puregcn", "gcn"):
        torch.manual_seed(0)
        encoder = Encoder(6, 6, conv=conv, n_layers=2, residual=True, jumping=True).eval()
        gradients = []
        for x in (dense, sparse):
            encoder.zero_grad()
            h = encoder(x, graph.adj)
            h.square().sum().backward()
            gradients.append([h.detach(), *(p.grad for p in encoder.parameters())])
        for a, b in zip(*gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_jumping_adds_up_the_layers_with_learned_weights(random_graph):
    graph = random_graph(3)
    torch.manual_seed(0)
    encoder = Encoder(6, 8, n_layers=3, jumping=True).eval()
    h = encoder.input(graph.x)
    expected = torch.zeros_like(h)
    for weight in encoder.jumping:
        h = encoder.convs[0](h, graph.adj)
        expected = expected + weight * h
    torch.testing.assert_close(encoder(graph.x, graph.adj), expected)


def test_residual_adds_the_layers_input(random_graph):
    graph = random_graph(3)
    torch.manual_seed(0)
    encoder = Encoder(6, 8, residual=True).eval()
    h = encoder.input(graph.x)
    torch.testing.assert_close(encoder(graph.x, graph.adj), h + encoder.convs[0](h, graph.adj))


def test_no_message_passing_leaves_the_input_layer(random_graph):
    graph = random_graph(3)
    for options in ({"conv": "none"}, {"n_layers": 0}):
        encoder = Encoder(6, 8, **options).eval()
        torch.testing.assert_close(encoder(graph.x, graph.adj), encoder.input(graph.x))


def test_embeddings_start_orthogonal():
    weight = Encoder(None, 16, n_categories=10).embedding.weight
    torch.testing.assert_close(weight @ weight.t(), torch.eye(10), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"in_dim": None}, "give either in_dim or n_categories"),
        ({"in_dim": 4, "n_categories": 3}, "give either in_dim or n_categories"),
        ({"in_dim": 4, "n_layers": -1}, "n_layers must not be negative, got -1"),
        ({"in_dim": 4, "dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
    ],
)
def test_settings_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Encoder(**arguments)


def test_features_of_another_kind_are_refused(random_graph):
    graph = random_graph(0)
    with pytest.raises(ValueError, match="x must have 5 features a node, got 6"):
        Encoder(5)(graph.x, graph.adj)
    with pytest.raises(ValueError, match="embeds one category a node"):
        Encoder(None, n_categories=4)(graph.x, graph.adj)


def test_dropped_edges_are_made_up_for_by_the_others(random_graph):
    adj = random_graph(0, n_nodes=200, n_pairs=4000).adj
    torch.manual_seed(0)
    dropped = drop_edges(adj, 0.25)
    # standard deviation of the share kept: 0.005
    assert dropped.nnz / adj.nnz == pytest.approx(0.75, abs=0.03)
    torch.testing.assert_close(dropped.value, torch.full((dropped.nnz,), 4 / 3))
    assert drop_edges(adj, 0.25, rescale=False).value is None
    assert drop_edges(adj, 0.25, training=False) is adj
    assert drop_edges(adj, 0.0) is adj


@pytest.mark.parametrize("p", [0.05, 0.5, 0.7])
def test_dropout_zeroes_a_share_p_and_keeps_the_mean(p):
    torch.manual_seed(0)
    layer = Dropout(p)
    x = torch.ones(401, 499, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    # standard deviation of the share: at most 0.0012
    assert (y == 0).float().mean().item() == pytest.approx(p, abs=0.006)
    torch.testing.assert_close(y[y > 0], torch.full_like(y[y > 0], 1 / (1 - p)), rtol=1e-4, atol=0)
    assert torch.equal(x.grad, y)
    assert torch.equal(layer.eval()(x), x)


def test_dropout_is_reproducible_and_takes_any_shape():
    layer = Dropout(0.5)
    for shape in ((0,), (1,), (3, 5), (2, 1, 7)):
        torch.manual_seed(1)
        a = layer(torch.ones(shape))
        torch.manual_seed(1)
        assert torch.equal(a, layer(torch.ones(shape)))
    with pytest.raises(ValueError, match=r"p must be at least 0 and below 1, got 1\.0"):
        Dropout(1.0)
