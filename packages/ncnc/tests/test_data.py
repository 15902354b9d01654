import types

import networkx as nx
import numpy as np
import pytest
import scipy.sparse as sp
import torch

from ncnc_impl import (
    CSR,
    Graph,
    as_graph,
    geometric_graph,
    karate_club,
    load_planetoid,
    read_edge_list,
    stochastic_block_graph,
)
from ncnc_impl.data import ogb_link_split, read_pairs
from shared_impl.cli import UserError


def test_pyg_data_is_taken_with_its_features_and_isolated_nodes():
    pyg = pytest.importorskip("torch_geometric.data")
    x = torch.randn(5, 3)
    graph = as_graph(pyg.Data(x=x, edge_index=torch.tensor([[0, 1, 1], [1, 0, 2]])))
    assert graph.n_nodes == 5
    assert graph.edges.tolist() == [[0, 1], [1, 2]]
    assert torch.equal(graph.x, x)


def test_networkx_nodes_keep_their_names():
    source = nx.DiGraph([("b", "a"), ("a", "b"), ("c", "b"), ("c", "c")])
    graph = as_graph(source)
    assert graph.names == ["b", "a", "c"]
    assert graph.edges.tolist() == [[0, 1], [0, 2]]
    assert as_graph(nx.path_graph(3)).names is None


def test_multigraphs_sparse_matrices_and_arrays_are_taken():
    assert as_graph(nx.MultiGraph([(0, 1), (0, 1)])).n_edges == 1
    matrix = sp.coo_matrix(([1.0, 1.0, 0.0], ([0, 1, 2], [1, 2, 0])), shape=(4, 4))
    assert as_graph(matrix).edges.tolist() == [[0, 1], [1, 2]]
    assert as_graph(matrix).n_nodes == 4
    assert as_graph(np.array([[0, 1]])).n_edges == 1
    assert as_graph([(0, 1)], x=np.eye(2)).x.shape == (2, 2)


def test_mostly_zero_features_become_sparse_and_keep_their_values():
    x = torch.zeros(20, 30)
    x[3, 4], x[19, 0] = 2.0, -1.0
    graph = as_graph(types.SimpleNamespace(edge_index=torch.tensor([[0], [1]]), x=x, num_nodes=20))
    assert isinstance(graph.x, CSR)
    assert torch.equal(graph.x.to_dense(), x)


def test_what_is_no_graph_is_refused():
    with pytest.raises(TypeError, match="got str"):
        as_graph("karate")
    with pytest.raises(ValueError, match="must be square"):
        as_graph(sp.csr_array((2, 3)))


def test_a_graph_can_have_no_features():
    assert karate_club().x is None
    assert (karate_club().n_nodes, karate_club().n_edges) == (34, 78)


def test_csv_edge_lists_are_read_with_names_headers_and_features(tmp_path):
    edges, features = tmp_path / "edges.csv", tmp_path / "features.csv"
    edges.write_text("source,target,weight\nann,bob,1\nbob,cid,2\nann,bob,3\n", encoding="utf-8")
    features.write_text("name,age,height\ncid,1,2\nann,3,4\nbob,5,6\ndan,7,8\n", encoding="utf-8")
    graph = read_edge_list(edges, features=features)
    assert graph.names == ["ann", "bob", "cid", "dan"]
    assert graph.edges.tolist() == [[0, 1], [1, 2]]
    assert graph.x.tolist() == [[3, 4], [5, 6], [1, 2], [7, 8]]
    assert graph.cleaned["repeats"] == 1
    assert read_pairs(edges) == [("ann", "bob"), ("bob", "cid"), ("ann", "bob")]


@pytest.mark.parametrize(
    ("text", "edges", "names"),
    [
        ("0 1\n1 2\n", [[0, 1], [1, 2]], [0, 1, 2]),
        ("# a comment\n10\t2\n2\t7\n", [[0, 1], [0, 2]], [2, 7, 10]),
        ("a;b\nb;c\n", [[0, 1], [1, 2]], ["a", "b", "c"]),
        ("user,item\na,b\n", [[0, 1]], ["a", "b"]),
        ("ann,bob\ncid,dan\n", [[0, 1], [2, 3]], ["ann", "bob", "cid", "dan"]),
        ("to,from\nfrom,x\n", [[0, 1], [0, 2]], ["from", "to", "x"]),
        ("from,to\n1,2\n", [[0, 1]], [1, 2]),
        ("007,7\n7,x\n", [[0, 1], [0, 2]], [7, "007", "x"]),
    ],
)
def test_separators_comments_and_numeric_names_are_understood(tmp_path, text, edges, names):
    path = tmp_path / "edges.txt"
    path.write_text(text, encoding="utf-8")
    graph = read_edge_list(path)
    assert graph.names == names
    assert graph.edges.tolist() == edges


@pytest.mark.parametrize(
    ("edges", "features", "message"),
    [
        ("", None, "the file is empty"),
        ("a\nb\n", None, "needs two columns, got 1"),
        ("a,b\nc\n", None, "row 2 has 1 cells, the first has 2"),
        ("1,2\n3,\n", None, "lacks one of its ends"),
        ("1,2\n", "1,0.5\n", "no features for 1 nodes of the edge list, such as 2"),
        ("1,2\n", "1,0.5\n2,x\n", "features must be numbers"),
        ("1,2\n", "1,0.5\n2,nan\n", "finite numbers"),
        ("1,2\n", "1,0.5\n2,0.5\n1,0.5\n", "a node is listed twice"),
    ],
)
def test_malformed_files_are_refused_in_one_sentence(tmp_path, edges, features, message):
    path = tmp_path / "edges.csv"
    path.write_text(edges, encoding="utf-8")
    side = None
    if features is not None:
        side = tmp_path / "features.csv"
        side.write_text(features, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_edge_list(path, features=side)


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_edge_list(tmp_path / "none.csv")
    path = tmp_path / "edges.csv"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match="not a text file"):
        read_edge_list(path)


def test_parquet_edge_lists_are_read_with_the_extra_and_asked_for_without(tmp_path):
    path = tmp_path / "edges.parquet"
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        path.write_bytes(b"PAR1")
        with pytest.raises(UserError, match=r"ncnc-impl\[parquet\]"):
            read_edge_list(path)
        return
    pq.write_table(pa.table({"source": ["a", "b"], "target": ["b", "c"]}), path)
    assert read_edge_list(path).edges.tolist() == [[0, 1], [1, 2]]


def test_geometric_graphs_close_triangles_and_have_the_degree_asked_for():
    graph = geometric_graph(1500, seed=0)
    # a point at the border has fewer neighbours: about 5 % less on average at this size
    assert 10.5 < graph.adj.counts().double().mean() < 12.5
    assert graph.x.shape == (1500, 32)
    # clustering of a random geometric graph in the plane: 1 - 3 sqrt(3) / (4 pi) = 0.587
    sample = nx.Graph(graph.edges.tolist())
    assert nx.transitivity(sample) == pytest.approx(0.587, abs=0.04)


def test_block_graphs_link_inside_blocks_and_features_tell_them():
    graph = stochastic_block_graph(400, n_blocks=4, inside=0.1, outside=0.01, noise=0.0, seed=0)
    block = torch.unique(graph.x, dim=0, return_inverse=True)[1]
    same = block[graph.edges[:, 0]] == block[graph.edges[:, 1]]
    # expected: inside 0.1 * 100 / 2 * 400 = 1980 edges, outside 0.01 * 300 / 2 * 400 = 600
    assert same.double().mean().item() == pytest.approx(0.77, abs=0.05)
    with pytest.raises(ValueError, match="inside must be from 0 to 1, got 2"):
        stochastic_block_graph(inside=2.0)


@pytest.mark.data
@pytest.mark.parametrize(("name", "nodes", "edges"), [("cora", 2708, 5278), ("citeseer", 3327, 4552)])
def test_citation_graphs_have_their_known_sizes(name, nodes, edges):
    data = pytest.importorskip("shared_impl.data")
    if not data.available("planetoid"):
        pytest.skip("the Planetoid files are not at hand")
    graph = load_planetoid(name)
    assert (graph.n_nodes, graph.n_edges) == (nodes, edges)
    assert isinstance(graph.x, CSR)


@pytest.fixture
def ogb_like():
    """A function from a name to a small graph and split of the form that OGB's loader returns."""

    def make(name: str):
        generator = np.random.default_rng(0)
        n = 60
        pairs = np.unique(np.sort(generator.integers(n, size=(400, 2)), 1), axis=0)
        pairs = generator.permutation(pairs[pairs[:, 0] != pairs[:, 1]])
        train, valid, test = pairs[:200], pairs[200:230], pairs[230:260]
        features = {
            "collab": generator.standard_normal((n, 8)).astype(np.float32),
            "ppa": np.eye(58)[np.append(generator.integers(58, size=n - 1), 57)],
            "citation2": generator.standard_normal((n, 8)).astype(np.float32),
            "ddi": None,
        }[name]
        graph = {"num_nodes": n, "node_feat": features, "edge_index": np.concatenate((train, train[:, ::-1])).T}
        if name == "citation2":
            split = {
                part: {
                    "source_node": side[:, 1],
                    "target_node": side[:, 0],
                    "target_node_neg": generator.integers(n, size=(len(side), 10)),
                }
                for part, side in (("train", train), ("valid", valid), ("test", test))
            }
        else:
            split = {"train": {"edge": train}}
            for part, side in (("valid", valid), ("test", test)):
                split[part] = {"edge": side, "edge_neg": generator.integers(n, size=(150, 2))}
        return graph, split

    return make


@pytest.mark.parametrize("name", ["collab", "ppa", "citation2", "ddi"])
def test_every_ogb_recipe_trains_on_a_set_of_its_form(ogb_like, name):
    from ncnc_impl import RECIPES
    from ncnc_impl.experiments import run_seed

    split = ogb_link_split(name, *ogb_like(name))
    recipe = RECIPES[name].scaled(epochs=1)
    for model in ("ra", "ncn", "ncnc"):
        found = run_seed(name, model, 0, recipe=recipe, split=split)
        assert set(found) == ({"mrr"} if name == "citation2" else {"hits@20", "hits@50", "hits@100", "auc"})
        assert all(0 <= value <= 100 for value in found.values())


def test_ogb_sets_are_read_as_the_official_code_reads_them(ogb_like):
    collab = ogb_link_split("collab", *ogb_like("collab"))
    assert collab.test_input.n_edges == collab.train.n_edges + 30
    ppa = ogb_link_split("ppa", *ogb_like("ppa"))
    assert ppa.train.x.dtype == torch.int64
    assert ppa.test_input is None
    ddi = ogb_link_split("ddi", *ogb_like("ddi"))
    assert torch.equal(ddi.train.x, torch.arange(60))
    citation = ogb_link_split("citation2", *ogb_like("citation2"))
    assert bool((citation.positives[:, 0] > citation.positives[:, 1]).all())
    graph, split = ogb_like("ddi")
    del split["valid"]["edge_neg"]
    with pytest.raises(ValueError, match="lacks 'edge_neg'"):
        ogb_link_split("ddi", graph, split)


def test_the_ogb_extra_is_asked_for_where_it_is_missing(monkeypatch):
    import sys

    from ncnc_impl import load_ogb

    monkeypatch.setitem(sys.modules, "ogb", None)
    monkeypatch.setitem(sys.modules, "ogb.linkproppred", None)
    with pytest.raises(UserError, match=r"ncnc-impl\[ogb\]"):
        load_ogb("ddi")
    with pytest.raises(UserError, match="name must be one of collab"):
        load_ogb("vessel")


def test_graphs_move_between_devices_whole():
    graph = Graph.from_edges([(0, 1)], x=np.eye(2)).to("cpu")
    assert graph.x.device.type == graph.adj.device.type == "cpu"
