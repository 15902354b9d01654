"""Speed and memory: each function measures one thing and returns a record."""

import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ncnc_impl.csr import CSR
from ncnc_impl.data import as_graph, load_planetoid
from ncnc_impl.graph import Graph, sample_negatives
from ncnc_impl.model import NCN
from ncnc_impl.official import OfficialModel, load_official
from ncnc_impl.overlap import common_neighbors, common_neighbors_naive, overlap_parts
from ncnc_impl.recipes import RECIPES
from ncnc_impl.splits import split_edges
from ncnc_impl.training import LinkLoss, predict_logits, train_links
from shared_impl.bench import checkout_revision, compare
from shared_impl.cli import UserError
from shared_impl.data_error import DataError
from shared_impl.results import Record, Row

__all__ = [
    "BENCHMARKS",
    "bench_completion",
    "bench_epoch",
    "bench_million",
    "bench_official",
    "bench_overlap",
    "local_graph",
]


def local_graph(n_nodes: int, n_edges: int, *, n_features: int = 0, seed: int = 0) -> Graph:
    """Nodes on a ring, linked mostly to nodes near by, so that links close triangles; made in linear time.

    Distances are geometric with mean 20; a tenth of the edges goes anywhere.
    """
    generator = np.random.default_rng(seed)
    start = generator.integers(n_nodes, size=n_edges)
    step = generator.geometric(1 / 20, size=n_edges)
    far = generator.random(n_edges) < 0.1
    step[far] = generator.integers(1, n_nodes, size=int(far.sum()))
    pairs = np.stack((start, (start + step) % n_nodes), 1)
    x = generator.standard_normal((n_nodes, n_features), dtype=np.float32) if n_features else None
    return Graph.from_edges(pairs, n_nodes, x=x)


def bench_overlap(*, quick: bool = False, seed: int = 0) -> Record:
    """Common neighbours of a batch of pairs: by merging, by search (the official code's way), and by a loop."""
    record = Record.start("ncnc_impl", "overlap", preset="cpu", seeds=[seed], kind="bench")
    n_nodes, n_pairs = (2_000, 500) if quick else (100_000, 65_536)
    graph = local_graph(n_nodes, 10 * n_nodes, seed=seed)
    half = n_pairs // 2
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.cat(
        (
            graph.edges[torch.randperm(graph.n_edges, generator=generator)[:half]],
            sample_negatives(graph, n_pairs - half, generator=generator),
        )
    )
    few = pairs[:: max(1, n_pairs // 1000)]
    entries = int(graph.adj.counts()[pairs].sum())
    rounds = 3 if quick else 9
    fast = compare(
        {
            "search": lambda: common_neighbors(graph.adj, pairs, method="search"),
            "merge": lambda: common_neighbors(graph.adj, pairs),
            "search with residuals": lambda: overlap_parts(graph.adj, pairs, method="search"),
            "merge with residuals": lambda: overlap_parts(graph.adj, pairs),
        },
        baseline="search",
        rounds=rounds,
    )
    slow = compare(
        {
            "python loop": lambda: common_neighbors_naive(graph.adj, few),
            "merge": lambda: common_neighbors(graph.adj, few),
        },
        baseline="python loop",
        rounds=3,
    )
    threads = torch.get_num_threads()
    for name, timing in fast.items():
        rate = entries / timing.median_s / threads / 1e6
        record.add(Row(task=f"{n_pairs} pairs", model=name, metric="million neighbours/s a core", value=rate, n=rounds))
    record.add(_ratio(fast["merge"], f"{n_pairs} pairs", "merge", "times the search's speed", rounds))
    record.add(_ratio(slow["merge"], f"{len(few)} pairs", "merge", "times a Python loop's speed", 3))
    record.config.update(nodes=n_nodes, edges=graph.n_edges, pairs=n_pairs, neighbours=entries)
    return record


def bench_epoch(*, quick: bool = False, seed: int = 0) -> Record:
    """A training epoch of NCN on Cora: this package, and the same model written plainly.

    The plain form does what the official code does, without its compiled extensions: dense features, a Bernoulli draw
    an element for dropout, the adjacency matrix sorted anew from edges for each batch, overlaps by search, all nodes
    transformed, positives and negatives scored apart.
    """
    record = Record.start("ncnc_impl", "epoch", preset="cpu", seeds=[seed], kind="bench")
    try:
        graph = load_planetoid("cora")
        task = "Cora"
    except DataError:
        graph = _like_cora(seed)
        task = "a graph of Cora's size"
    split = split_edges(graph, seed=seed)
    train, recipe = split.train, RECIPES["cora"]
    assert isinstance(train.x, CSR)
    batch_size = recipe.training["batch_size"]
    rounds = 1 if quick else 7
    for variant in ("ncn",):
        torch.manual_seed(seed)
        model = NCN(train.x.n_cols, **recipe.model_options(variant))
        plain = _PlainNCN(train.x.n_cols)
        loss = LinkLoss(train)
        dense = train.x.to_dense()

        def ours(model: NCN = model, loss: LinkLoss = loss, train: Graph = train) -> None:
            _epoch(model, lambda edge: loss(model, (train.edges[edge], edge)), train.n_edges, batch_size)

        def theirs(plain: "_PlainNCN" = plain, train: Graph = train, dense: Tensor = dense) -> None:
            _epoch(plain, lambda edge: plain.loss(train, dense, edge), train.n_edges, batch_size)

        timings = compare({"plain form": theirs, "ours": ours}, baseline="plain form", rounds=rounds)
        for name, timing in timings.items():
            record.add(
                Row(
                    task=task,
                    model=f"{variant}, {name}",
                    metric="s an epoch",
                    value=timing.median_s,
                    n=rounds,
                    higher_is_better=False,
                )
            )
        record.add(_ratio(timings["ours"], task, f"{variant}, ours", "times the plain form's speed", rounds))
    return record


def bench_official(*, quick: bool = False, seed: int = 0) -> Record:
    """Beside the authors' code, from the checkout that NCNC_OFFICIAL_DIR names: equal logits, and an epoch on Cora.

    Raises:
        UserError: without the checkout or what it needs.
    """
    place = os.environ.get("NCNC_OFFICIAL_DIR")
    if not place:
        raise UserError(
            "bench official needs NCNC_OFFICIAL_DIR: the folder of a checkout of GraphPKU/NeuralCommonNeighbor"
        )
    official = load_official(Path(place))
    record = Record.start("ncnc_impl", "official", preset="cpu", seeds=[seed], kind="bench")
    try:
        graph, task = load_planetoid("cora"), "Cora"
    except DataError:
        graph, task = _like_cora(seed), "a graph of Cora's size"
    train, recipe = split_edges(graph, seed=seed).train, RECIPES["cora"]
    assert isinstance(train.x, CSR)
    dense = train.x.to_dense()
    batch_size = recipe.training["batch_size"]
    rounds = 1 if quick else 7
    for variant in ("ncn", "ncnc"):
        torch.manual_seed(seed)
        equal = NCN(train.x.n_cols, **recipe.model_options(variant, compat="official")).eval()  # type: ignore[arg-type]
        theirs = OfficialModel(official, recipe, variant, train, dense)
        theirs.take_weights(equal)
        pairs = torch.cat((train.edges[:512], sample_negatives(train, 512)))
        expected = theirs.logits(pairs)
        found = predict_logits(equal, train, pairs)
        difference = float((found - expected).abs().max() / expected.abs().max())
        metric = "largest difference over largest logit"
        record.add(Row(task=task, model=variant, metric=metric, value=difference, higher_is_better=False))

        model = NCN(train.x.n_cols, **recipe.model_options(variant))  # type: ignore[arg-type]
        loss = LinkLoss(train)

        def ours(model: NCN = model, loss: LinkLoss = loss) -> None:
            _epoch(model, lambda edge: loss(model, (train.edges[edge], edge)), train.n_edges, batch_size)

        timings = compare({"official": theirs.epoch(batch_size), "ours": ours}, baseline="official", rounds=rounds)
        for name, timing in timings.items():
            row = Row(task=task, model=f"{variant}, {name}", metric="s an epoch", value=timing.median_s, n=rounds)
            record.add(replace(row, higher_is_better=False))
        record.add(_ratio(timings["ours"], task, f"{variant}, ours", "times the official speed", rounds))
    commit = checkout_revision(Path(place))
    record.notes.append(f"official: GraphPKU/NeuralCommonNeighbor@{commit}, float32, the recipe of Cora")
    return record


def bench_completion(*, quick: bool = False, seed: int = 0) -> Record:
    """Processor time of NCNC scores by batch size and degree: linear in pairs times residual neighbours."""
    record = Record.start("ncnc_impl", "completion", preset="cpu", seeds=[seed], kind="bench")
    n_nodes = 500 if quick else 20_000
    hidden = 16 if quick else 64
    batches, degrees = ((32, 64), (4, 8)) if quick else ((256, 512, 1024, 2048), (8, 16, 32))
    costs = []
    for degree in degrees:
        graph = local_graph(n_nodes, n_nodes * degree // 2, n_features=8, seed=seed)
        torch.manual_seed(seed)
        model = NCN(8, hidden, variant="ncnc").eval()
        with torch.no_grad():
            h = model.encode(graph.x, graph.adj)  # type: ignore[arg-type]
        for batch in batches:
            pairs = sample_negatives(graph, batch, generator=torch.Generator().manual_seed(seed))
            _, only_i, only_j = overlap_parts(graph.adj, pairs)
            residual = only_i.nnz + only_j.nnz

            with torch.no_grad():
                seconds = _processor_time(lambda: model.score(h, graph.adj, pairs), 1 if quick else 7)  # noqa: B023
            cost = seconds / residual * 1e6
            costs.append(cost)
            record.add(
                Row(
                    task=f"batch {batch}, degree {degree}",
                    model="ncnc",
                    metric="processor µs a residual neighbour",
                    value=cost,
                    higher_is_better=False,
                    note=f"{residual} residual neighbours",
                )
            )
    spread = batches[-1] * degrees[-1] / (batches[0] * degrees[0])
    record.add(
        Row(
            task="all of them",
            model="ncnc",
            metric="dearest over cheapest",
            value=max(costs) / min(costs),
            higher_is_better=False,
            note=f"1 is exactly linear; batch times degree differ {spread:.0f}-fold",
        )
    )
    return record


def bench_million(*, quick: bool = False, seed: int = 0) -> Record:
    """One epoch of NCN on a generated graph of a million nodes and ten million edges: time and memory."""
    record = Record.start("ncnc_impl", "million", preset="cpu", seeds=[seed], kind="bench")
    n_nodes = 5_000 if quick else 1_000_000
    begun = time.perf_counter()
    # a tenth of the pairs are drawn twice
    graph = local_graph(n_nodes, 11 * n_nodes + n_nodes // 10, n_features=16, seed=seed)
    built = time.perf_counter() - begun
    split = split_edges(graph, valid=0.001, test=0.0, seed=seed)
    torch.manual_seed(seed)
    model = NCN(16, 32, variant="ncn", transform_nodes=False)
    begun = time.perf_counter()
    result = train_links(
        model, split, epochs=1, batch_size=graph.n_edges // 20, monitor="valid_auc", eval_batch_size=2**17, seed=seed
    )
    spent = time.perf_counter() - begun
    task = f"{n_nodes} nodes, {graph.n_edges} edges"
    lower: dict[str, Any] = {"higher_is_better": False}
    record.add(Row(task=task, model="graph", metric="s to build", value=built, **lower))
    record.add(Row(task=task, model="ncn", metric="s an epoch", value=spent, **lower))
    # ru_maxrss is in KiB on Linux: the whole process, Python and torch included
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    record.add(Row(task=task, model="ncn", metric="GiB peak of the process", value=peak, **lower))
    record.add(Row(task=task, model="ncn", metric="validation AUC", value=float(result.best["valid_auc"])))
    return record


def _processor_time(form: Callable[[], object], rounds: int) -> float:
    """Median seconds of this process's processors: other work on the machine counts little."""
    form()
    times = []
    for _ in range(rounds):
        begun = time.process_time()
        form()
        times.append(time.process_time() - begun)
    return statistics.median(times)


def _ratio(timing: Any, task: str, model: str, metric: str, rounds: int) -> Row:
    note = f"quartiles {timing.ratio_low:.2f} to {timing.ratio_high:.2f}"
    return Row(task=task, model=model, metric=metric, value=timing.ratio, n=rounds, note=note)


def _epoch(model: nn.Module, loss: Callable[[Tensor], Tensor], n_edges: int, batch_size: int) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    order = torch.randperm(n_edges)
    for start in range(0, n_edges - batch_size + 1, batch_size):
        optimizer.zero_grad()
        loss(order[start : start + batch_size]).backward()
        optimizer.step()


def _like_cora(seed: int) -> Graph:
    generator = torch.Generator().manual_seed(seed)
    words = (torch.rand(2708, 1433, generator=generator) < 0.0127).float()
    return as_graph(local_graph(2708, 5600, seed=seed).edges, x=words)


class _PlainNCN(nn.Module):
    """NCN with Cora's recipe, written as plainly as the official code is; the yardstick of `bench_epoch`."""

    def __init__(self, in_dim: int, hidden: int = 256) -> None:
        super().__init__()
        model = RECIPES["cora"].model
        p = model["dropout"]

        def layer() -> list[nn.Module]:
            return [nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.Dropout(p), nn.ReLU()]

        self.x_dropout = nn.Dropout(model["x_dropout"])
        self.input = nn.Sequential(nn.Linear(in_dim, hidden), nn.Dropout(model["encoder_dropout"]))
        self.tail = nn.Dropout(model["tail_dropout"])
        self.jumping, self.beta = nn.Parameter(torch.randn(1)), nn.Parameter(torch.ones(1))
        self.xlin = nn.Sequential(nn.Linear(hidden, hidden), nn.Dropout(p), nn.ReLU(), *layer())
        self.xcnlin = nn.Sequential(nn.Linear(hidden, hidden), nn.Dropout(p), nn.ReLU(), *layer())
        self.xijlin = nn.Sequential(*layer())
        self.lin = nn.Sequential(*layer(), nn.Linear(hidden, 1))
        self.edge_dropout = model["edge_dropout"]

    def loss(self, graph: Graph, x: Tensor, edge: Tensor) -> Tensor:
        keep = torch.ones(graph.n_edges, dtype=torch.bool)
        keep[edge] = False
        rest = graph.edges[keep].t()
        both = torch.cat((rest, rest.flip(0)), 1)
        n = graph.n_nodes
        order = torch.argsort(both[0] * n + both[1])
        row, col = both[:, order]
        rowptr = torch.cat((torch.zeros(1, dtype=torch.int64), torch.bincount(row, minlength=n).cumsum(0)))
        h = self.input(self.x_dropout(x))
        scale = (1 + rowptr.diff()).rsqrt().unsqueeze(1)
        h = scale * h
        h = self.tail(scale * (torch.zeros_like(h).index_add(0, row, h[col]) + h)) * self.jumping
        adj = CSR(rowptr, col, n)
        positive = self._score(h, adj, graph.edges[edge])
        negative = self._score(h, adj, sample_negatives(graph, edge.numel()))
        return -F.logsigmoid(positive).mean() - F.logsigmoid(-negative).mean()

    def _score(self, h: Tensor, adj: CSR, pairs: Tensor) -> Tensor:
        kept = torch.rand(adj.nnz) > self.edge_dropout
        row = adj.rows()[kept]
        rowptr = torch.cat((torch.zeros(1, dtype=torch.int64), torch.bincount(row, minlength=adj.n_rows).cumsum(0)))
        v = h + self.xlin(h)
        common = common_neighbors(CSR(rowptr, adj.col[kept], adj.n_cols), pairs, method="search")
        z_cn = torch.zeros(pairs.shape[0], h.shape[1]).index_add(0, common.rows(), v[common.col])
        z = self.xcnlin(z_cn) * self.beta + self.xijlin(h[pairs[:, 0]] * h[pairs[:, 1]])
        logit: Tensor = self.lin(z).squeeze(1)
        return logit


BENCHMARKS: Mapping[str, Callable[..., Record]] = {
    "official": bench_official,
    "overlap": bench_overlap,
    "epoch": bench_epoch,
    "completion": bench_completion,
    "million": bench_million,
}
