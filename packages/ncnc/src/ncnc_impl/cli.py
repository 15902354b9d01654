"""The command line `ncnc-impl`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from shared_impl.cli import Options, UserError, bad_input, run

if TYPE_CHECKING:
    from ncnc_impl.graph import Graph
    from ncnc_impl.link_predictor import LinkPredictor

__all__ = ["main"]

SLUG = "ncnc"
BUILT_IN = ("cora", "citeseer", "pubmed", "karate", "geometric", "blocks")


@dataclass(frozen=True)
class Demo(Options):
    """Heuristics against GAE, NCN and NCNC on a graph whose links close triangles and whose features are noise."""

    nodes: int = 800
    """size of the random geometric graph"""
    epochs: int = 15
    """training epochs a model"""

    def run(self) -> Any:
        import torch

        from ncnc_impl.experiments import geometric_study, plot_study
        from shared_impl.results import Record, Row, rich_table

        if self.nodes < 100:
            raise UserError(f"--nodes must be at least 100, got {self.nodes}")
        if self.epochs < 1:
            raise UserError(f"--epochs must be at least 1, got {self.epochs}")
        out, console = self.out_dir(SLUG), self.console()
        record = Record.start("ncnc_impl", "demo", preset="demo", seeds=[self.seed], kind="demo")
        console.print(
            f"A random geometric graph: {self.nodes} points, joined when close, 10 % of the edges held out for "
            "validation and 20 % for the test.\nIts features are noise, so a model has to see the triangles.",
            highlight=False,
        )
        torch.manual_seed(self.seed)
        study = geometric_study(n_nodes=self.nodes, epochs=self.epochs, seed=self.seed, device=self.torch_device())
        for name, hit in study.hits.items():
            record.add(Row(task="geometric", model=name, metric="hits@50 %", value=hit, note=MODELS[name]))
        record.plots.append(plot_study(study, out / "demo.png").name)
        record.save(out)
        if not self.json:
            console.print(rich_table(record))
            console.print(f"plot: {out / 'demo.png'}", highlight=False)
        return record


MODELS: Mapping[str, str] = {
    "cn": "number of common neighbours",
    "aa": "Adamic-Adar",
    "ra": "resource allocation",
    "gae": "node vectors alone",
    "ncn": "node vectors of the common neighbours",
    "ncnc": "the same, neighbourhood completed",
}


@dataclass(frozen=True)
class Train(Options):
    """Learn to predict the links of a graph, test on held-out ones beside heuristics, and save the predictor."""

    data: Annotated[str, arg(metavar="FILE|NAME")] = "karate"
    """an edge list (CSV, TSV, Parquet: two columns of node names), or one of cora, citeseer, pubmed, karate,
    geometric, blocks"""
    features: Path | None = None
    """a table of node features: the node's name, then numbers"""
    variant: Literal["ncn", "ncnc", "ncn2", "ncn_diff", "gae", "gae_cn", "gae_cnc"] = "ncnc"
    """which model"""
    epochs: int = 100
    """at most so many passes over the edges"""
    patience: int = 10
    """epochs without a better validation AUC after which to stop"""
    hidden: int = 128
    """width of the model"""
    depth: int = 1
    """rounds of completion (ncnc, gae_cnc)"""
    batch_size: int = 0
    """links a step; 0 picks one"""
    valid: float = 0.1
    """share of the edges for early stopping"""
    test: float = 0.1
    """share of the edges for the final test"""

    def run(self) -> Any:
        from ncnc_impl.heuristics import heuristic_scores
        from ncnc_impl.link_predictor import LinkPredictor
        from ncnc_impl.splits import split_edges
        from ncnc_impl.training import link_scorer
        from shared_impl.results import Record, Row, rich_table

        device = self.torch_device()
        graph = _graph(self.data, self.features, self.seed)
        out, console = self.out_dir(SLUG), self.console()
        console.print(f"{graph.n_nodes} nodes, {graph.n_edges} edges", highlight=False)
        record = Record.start("ncnc_impl", "train", preset=self.variant, seeds=[self.seed], kind="train")
        with bad_input():
            split = split_edges(graph, valid=self.valid, test=self.test, seed=self.seed)
            predictor = LinkPredictor(
                self.variant,
                hidden=self.hidden,
                depth=self.depth,
                epochs=self.epochs,
                patience=self.patience,
                batch_size=self.batch_size,
                seed=self.seed,
                device=str(device),
            )
            predictor.fit(split, out_dir=out / "checkpoints", console=console)
        if split.test is not None:
            held = predictor.graph_
            assert held is not None
            assert predictor.model_ is not None
            test = split.test.to(device)
            for name in ("cn", "ra"):
                found = test.metrics(lambda pairs, name=name: heuristic_scores(name, held.adj, pairs))  # type: ignore[misc,arg-type]
                record.add(Row(task="held-out links", model=name, metric="AUC", value=found["auc"]))
            found = test.metrics(link_scorer(predictor.model_, held))
            record.add(Row(task="held-out links", model=self.variant, metric="AUC", value=found["auc"]))
        else:
            record.add(
                Row(task="training", model=self.variant, metric="loss", value=predictor.history_[-1]["train_loss"])
            )
        # what is saved scores with every known edge
        path = predictor.with_graph(graph).save(out / "model")
        record.save(out)
        if not self.json:
            console.print(rich_table(record))
            console.print(f"saved: {path}", highlight=False)
        return record


@dataclass(frozen=True)
class Score(Options):
    """Probabilities of the links that a file lists."""

    pairs: Annotated[Path, arg(metavar="FILE")] = Path("pairs.csv")
    """a table whose first two columns name the ends of each link"""
    model: Path = Path("runs/ncnc/model")
    """folder that `train` saved"""

    def run(self) -> Any:
        predictor = _load(self.model, self.torch_device())
        ends = _read_pairs(self.pairs)
        probabilities = predictor.predict_proba(_numbers(predictor, ends))
        rows = [
            {"source": i, "target": j, "probability": float(p)} for (i, j), p in zip(ends, probabilities, strict=True)
        ]
        if not self.json:
            for row in rows:
                print(f"{row['source']},{row['target']},{row['probability']:.6f}")
        return {"links": rows}


@dataclass(frozen=True)
class Recommend(Options):
    """The most likely new neighbours of a node."""

    node: Positional[str] = ""
    """its name"""
    k: int = 10
    """how many"""
    model: Path = Path("runs/ncnc/model")
    """folder that `train` saved"""

    def run(self) -> Any:
        if not self.node:
            raise UserError("give the name of a node: ncnc-impl recommend NODE")
        if self.k < 1:
            raise UserError(f"--k must be at least 1, got {self.k}")
        predictor = _load(self.model, self.torch_device())
        graph = predictor.graph_
        assert graph is not None
        number = int(_numbers(predictor, [(self.node, self.node)])[0][0])
        found = predictor.recommend(number, self.k)
        names = range(graph.n_nodes) if graph.names is None else graph.names
        rows = [{"node": names[i], "probability": p} for i, p in found]
        if not self.json:
            for row in rows:
                print(f"{row['node']},{row['probability']:.6f}")
        return {"node": self.node, "recommended": rows}


@dataclass(frozen=True)
class Evaluate(Options):
    """Hits@K and AUC of a saved predictor on links that its graph lacks."""

    positive: Annotated[Path, arg(metavar="FILE")] = Path("positive.csv")
    """links to find"""
    negative: Path | None = None
    """pairs that are no links; default: as many random ones"""
    model: Path = Path("runs/ncnc/model")
    """folder that `train` saved"""

    def run(self) -> Any:
        predictor = _load(self.model, self.torch_device())
        positive = _numbers(predictor, _read_pairs(self.positive))
        negative = None if self.negative is None else _numbers(predictor, _read_pairs(self.negative))
        with bad_input():
            found = predictor.evaluate(positive, negative)
        if not self.json:
            for name, value in found.items():
                print(f"{name}: {value:.4f}")
        return found


@dataclass(frozen=True)
class Reproduce(Options):
    """The paper's tables. Seeds that are done are kept under --work and not run again."""

    experiment: Positional[Literal["main", "ablation"]] = "main"
    """main: heuristics, GAE, NCN, NCNC (table 2); ablation: all variants"""
    data: Literal["cora", "citeseer", "pubmed", "collab", "ppa", "citation2", "ddi"] = "cora"
    """the last four need the ogb extra, their download, and hours of a GPU"""
    preset: Literal["cpu", "paper", "smoke"] = "cpu"
    """paper: 10 seeds; cpu: 2 seeds; smoke: 1 seed of 2 epochs, to see that it runs"""
    work: Path = Path("runs/ncnc/work")
    """where each finished seed is kept"""
    models: tuple[str, ...] = ()
    """only these models"""

    def run(self) -> Any:
        from ncnc_impl.experiments import ABLATION, HEURISTICS, MAIN, reproduce_table
        from shared_impl.results import rich_table

        known = (*HEURISTICS, *ABLATION)
        for name in self.models:
            if name not in known:
                raise UserError(f"--models: {name!r} is not one of {', '.join(known)}")
        models = self.models or (MAIN if self.experiment == "main" else ABLATION)
        console = self.console()
        record = reproduce_table(
            self.data,
            models=models,
            preset=self.preset,
            experiment=self.experiment,
            out_dir=self.out_dir(SLUG),
            work=self.work,
            device=self.torch_device(),
            first_seed=self.seed,
            progress=console,
        )
        if not self.json:
            console.print(rich_table(record))
        return record


@dataclass(frozen=True)
class Bench(Options):
    """Speed and memory of the parts."""

    what: Positional[Literal["overlap", "epoch", "completion", "million", "official"]] = "overlap"
    """overlap: pairs a second against SciPy and a loop; epoch: training on Cora against the dense formulation;
    completion: cost of NCNC by batch and degree; million: an epoch on a graph of a million nodes; official:
    beside the authors' code, from the checkout that NCNC_OFFICIAL_DIR names"""
    quick: bool = False
    """small sizes, to see that it runs"""

    def run(self) -> Any:
        from ncnc_impl.benchmarks import BENCHMARKS
        from shared_impl.results import rich_table

        record = BENCHMARKS[self.what](quick=self.quick, seed=self.seed)
        record.save(self.out_dir(SLUG))
        if not self.json:
            self.console().print(rich_table(record))
        return record


def _graph(data: str, features: Path | None, seed: int) -> "Graph":
    from ncnc_impl import data as sources

    if data not in BUILT_IN:
        path = Path(data)
        if not path.is_file():
            raise UserError(f"--data {data}: no such file, and not one of {', '.join(BUILT_IN)}")
        with bad_input(str(path)):
            return sources.read_edge_list(path, features=features)
    if features is not None:
        raise UserError(f"--features goes with an edge list, not with {data}")
    if data == "karate":
        return sources.karate_club()
    if data in sources.CITATION:
        return sources.load_planetoid(data)  # type: ignore[arg-type]
    return sources.GENERATORS[data](seed=seed)


def _load(folder: Path, device: Any) -> "LinkPredictor":
    from ncnc_impl.link_predictor import LinkPredictor

    with bad_input():
        return LinkPredictor.load(folder, device=str(device))


def _read_pairs(path: Path) -> list[tuple[Any, Any]]:
    from ncnc_impl.data import read_pairs

    return read_pairs(path)


def _numbers(predictor: "LinkPredictor", ends: Sequence[tuple[Any, Any]]) -> list[tuple[int, int]]:
    graph = predictor.graph_
    assert graph is not None
    number: Any = (
        {str(i): i for i in range(graph.n_nodes)}
        if graph.names is None
        else {str(name): i for i, name in enumerate(graph.names)}
    )
    for pair in ends:
        for name in pair:
            if str(name) not in number:
                raise UserError(f"the graph has no node {str(name)!r} ({graph.n_nodes} nodes)")
    return [(number[str(i)], number[str(j)]) for i, j in ends]


COMMANDS: Mapping[str, type] = {
    "demo": Demo,
    "train": Train,
    "score": Score,
    "recommend": Recommend,
    "evaluate": Evaluate,
    "reproduce": Reproduce,
    "bench": Bench,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run("ncnc_impl", COMMANDS, argv)


if __name__ == "__main__":
    raise SystemExit(main())
