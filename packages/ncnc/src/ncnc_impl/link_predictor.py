"""Link prediction in three lines, for a graph of one's own: fit, predict_proba, recommend."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

from ncnc_impl.csr import CSR
from ncnc_impl.data import as_graph
from ncnc_impl.graph import Graph, as_pairs, check_pairs, sample_negatives
from ncnc_impl.model import NCN
from ncnc_impl.predictor import Variant
from ncnc_impl.recommend import recommend
from ncnc_impl.splits import EvaluationSet, LinkSplit, check_evaluation, split_edges
from ncnc_impl.training import predict_logits, train_links
from shared_impl.results import write_atomically

__all__ = ["LinkPredictor"]

FORMAT = 1
DEFAULTS: Mapping[str, Any] = {
    "hidden": 128,
    "x_dropout": 0.1,
    "encoder_dropout": 0.1,
    "dropout": 0.1,
    "edge_dropout": 0.2,
}


class LinkPredictor:
    """Learns from one graph which links are missing.

        predictor = LinkPredictor("ncnc").fit(data)
        predictor.predict_proba([[0, 5], [3, 9]])
        predictor.recommend(0, k=5)

    A part of the edges is held out for early stopping; once trained, scores use the whole graph. Nodes without features
    get a learned vector each.

    Args:
        variant: "ncnc", "ncn", "ncn2", "ncn_diff", "gae", "gae_cn" or "gae_cnc", see `LinkHead`.
        epochs: at most so many.
        patience: evaluations without improvement after which training stops; None never stops early.
        batch_size: positive links a step; 0 picks one that gives at least eight steps an epoch.
        encoder_lr, head_lr: learning rates of Adam.
        valid: share of the edges held out for early stopping; 0 for none.
        monitor: which validation metric decides: "auc", "hits@20", "hits@50" or "hits@100".
        remove_targets: hide a batch's own links in training (target link removal).
        eval_batch_size: pairs scored at a time.
        seed: of the held-out part, the weights and the training.
        device: where to train and score.
        max_seconds: stop training after this time.
        model_options: further arguments of `NCN`.
    """

    def __init__(
        self,
        variant: Variant = "ncnc",
        *,
        epochs: int = 100,
        patience: int | None = 10,
        batch_size: int = 0,
        encoder_lr: float = 0.004,
        head_lr: float = 0.002,
        valid: float = 0.1,
        monitor: str = "auc",
        remove_targets: bool = True,
        eval_batch_size: int = 8192,
        seed: int = 0,
        device: str = "cpu",
        max_seconds: float | None = None,
        **model_options: Any,
    ) -> None:
        if variant not in get_args(Variant):
            raise ValueError(f"variant must be one of {get_args(Variant)}, got {variant!r}")
        if monitor not in ("auc", "hits@20", "hits@50", "hits@100", "mrr"):
            raise ValueError(f"monitor must be auc, hits@20, hits@50, hits@100 or mrr, got {monitor!r}")
        if batch_size < 0:
            raise ValueError(f"batch_size must not be negative, got {batch_size}")
        if epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {epochs}")
        self.settings: dict[str, Any] = {
            "variant": variant,
            "epochs": epochs,
            "patience": patience,
            "batch_size": batch_size,
            "encoder_lr": encoder_lr,
            "head_lr": head_lr,
            "valid": valid,
            "monitor": monitor,
            "remove_targets": remove_targets,
            "eval_batch_size": eval_batch_size,
            "seed": seed,
            "device": device,
            "max_seconds": max_seconds,
            **model_options,
        }
        self.model_options = {**DEFAULTS, **model_options}
        self.model_: NCN | None = None
        self.graph_: Graph | None = None
        self.history_: list[dict[str, Any]] = []
        self.best_: dict[str, Any] = {}

    def fit(
        self,
        data: Any,
        *,
        validation: EvaluationSet | tuple[Any, Any] | None = None,
        out_dir: Path | None = None,
        console: Console | None = None,
    ) -> "LinkPredictor":
        """Train.

        Args:
            data: anything that `as_graph` takes, or a `LinkSplit`.
            validation: (positive pairs, negative pairs) for early stopping that `data` does not contain; default: a
                held-out part of `data`.
            out_dir: where checkpoints go; training that was cut short goes on from there.
            console: where progress is shown.

        Raises:
            ValueError: if there are too few edges, or negatives are edges.
        """
        torch.manual_seed(self.settings["seed"])
        if isinstance(data, LinkSplit):
            split = LinkSplit(
                _with_categories(data.train),
                data.valid,
                data.test,
                data.positives,
                None if data.test_input is None else _with_categories(data.test_input),
            )
            whole = split.train if split.test_input is None else split.test_input
        else:
            whole = _with_categories(as_graph(data))
            if whole.n_edges == 0:
                raise ValueError("the graph has no edges to learn from")
            if validation is not None:
                split = LinkSplit(whole, check_evaluation(whole, validation), None)
            elif self.settings["valid"] > 0:
                split = split_edges(whole, valid=self.settings["valid"], test=0.0, seed=self.settings["seed"])
            else:
                split = LinkSplit(whole, None, None)
        split = split.to(self.settings["device"])
        self.model_ = _model_for(whole, self.settings["variant"], self.model_options).to(self.settings["device"])
        monitor = self.settings["monitor"]
        batch_size = self.settings["batch_size"] or max(32, min(1024, split.train.n_edges // 8))
        result = train_links(
            self.model_,
            split,
            epochs=self.settings["epochs"],
            batch_size=batch_size,
            encoder_lr=self.settings["encoder_lr"],
            head_lr=self.settings["head_lr"],
            remove_targets=self.settings["remove_targets"],
            eval_batch_size=self.settings["eval_batch_size"],
            monitor=f"valid_{monitor}",
            patience=self.settings["patience"] if split.valid is not None else None,
            seed=self.settings["seed"],
            max_seconds=self.settings["max_seconds"],
            out_dir=out_dir,
            console=console,
        )
        self.graph_ = whole.to(self.settings["device"])
        self.history_, self.best_ = result.history, result.best
        return self

    def with_graph(self, data: Any) -> "LinkPredictor":
        """The same trained model scoring on another graph, such as one that gained edges since.

        Raises:
            ValueError: if the features are not of the kind that the model was trained with.
        """
        model, _ = self._fitted()
        graph = _with_categories(as_graph(data))
        encoder = model.encoder
        x = graph.x
        if encoder.n_categories is not None:
            fits = isinstance(x, Tensor) and not x.is_floating_point() and int(x.max()) < encoder.n_categories
        else:
            width = x.n_cols if isinstance(x, CSR) else x.shape[1] if isinstance(x, Tensor) and x.ndim == 2 else None
            fits = width == encoder.in_dim
        if not fits:
            raise ValueError("the graph's features are not of the kind and width that the model was trained with")
        other = LinkPredictor(**self.settings)
        other.model_, other.graph_ = model, graph.to(self.settings["device"])
        other.history_, other.best_ = self.history_, self.best_
        return other

    def decision_function(self, pairs: Any) -> NDArray[np.float32]:
        """One logit a pair, higher for likelier links.

        A pair that is an edge of the graph is scored with that edge in place.

        Raises:
            RuntimeError: before `fit`.
            ValueError: for a wrong shape or node ids out of range.
        """
        model, graph = self._fitted()
        wanted = as_pairs(pairs)
        check_pairs(wanted, graph.n_nodes)
        logits = predict_logits(model, graph, wanted.to(graph.device), batch_size=self.settings["eval_batch_size"])
        return logits.float().cpu().numpy()

    def predict_proba(self, pairs: Any) -> NDArray[np.float32]:
        """Probability of each pair being a link, one number a pair.

        It is calibrated to the training mix of as many links as random pairs; in the wild links are rarer.
        """
        return torch.from_numpy(self.decision_function(pairs)).sigmoid().numpy()

    def recommend(self, node: int, k: int = 10, *, exclude: Sequence[int] = ()) -> list[tuple[int, float]]:
        """The k nodes most likely linked to `node` that are not yet, with their probabilities, best first."""
        _, graph = self._fitted()
        return recommend(graph, self.predict_proba, node, k, exclude=exclude)

    def evaluate(self, positive: Any, negative: Any = None) -> dict[str, float]:
        """Hits@20, Hits@50, Hits@100 and AUC on links that the graph lacks.

        Args:
            negative: default: as many random pairs that are no edges.

        Raises:
            ValueError: for an empty side, or negatives that are edges or positives.
        """
        _, graph = self._fitted()
        links = as_pairs(positive, "positive")
        check_pairs(links, graph.n_nodes, "positive")
        if negative is None:
            generator = torch.Generator().manual_seed(self.settings["seed"])
            known = graph.with_edges(torch.cat((graph.edges, links.to(graph.device))))
            negative = sample_negatives(graph, links.shape[0], generator=generator, known=known)
        sides = check_evaluation(graph, (links, negative))
        return sides.metrics(lambda pairs: torch.from_numpy(self.decision_function(pairs)))

    def save(self, folder: Path | str) -> Path:
        """Write model, graph and settings to a folder, as safetensors and JSON."""
        model, graph = self._fitted()
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder)
        tensors = {"edges": graph.edges}
        if isinstance(graph.x, CSR):
            tensors |= {"x_rowptr": graph.x.rowptr, "x_col": graph.x.col}
            if graph.x.value is not None:
                tensors["x_value"] = graph.x.value
        elif graph.x is not None:
            tensors["x"] = graph.x
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / "graph.safetensors")
        content = {
            "format": FORMAT,
            "settings": self.settings,
            "n_nodes": graph.n_nodes,
            "sparse_width": graph.x.n_cols if isinstance(graph.x, CSR) else None,
            "names": None if graph.names is None else list(graph.names),
            "best": self.best_,
        }
        write_atomically(folder / "predictor.json", json.dumps(content, indent=2, default=str) + "\n")
        return folder

    @classmethod
    def load(cls, folder: Path | str, *, device: str = "cpu") -> "LinkPredictor":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: if the folder was written by a later version.
        """
        folder = Path(folder)
        for name in ("predictor.json", "graph.safetensors", "config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder} holds no saved predictor: {name} is missing")
        content = json.loads((folder / "predictor.json").read_text(encoding="utf-8"))
        if content.get("format") != FORMAT:
            raise ValueError(f"{folder}: format {content.get('format')} is not {FORMAT}, which this version reads")
        tensors = load_file(folder / "graph.safetensors")
        x: Any = tensors.get("x")
        if "x_rowptr" in tensors:
            x = CSR(tensors["x_rowptr"], tensors["x_col"], content["sparse_width"], tensors.get("x_value"))
        predictor = cls(**{**content["settings"], "device": device})
        graph = Graph.from_edges(tensors["edges"], content["n_nodes"], x=x, names=content["names"])
        predictor.graph_ = graph.to(device)
        predictor.model_ = NCN.from_pretrained(folder, map_location=device)
        predictor.best_ = content["best"]
        return predictor

    def _fitted(self) -> tuple[NCN, Graph]:
        if self.model_ is None or self.graph_ is None:
            raise RuntimeError("call fit before scoring")
        return self.model_, self.graph_


def _with_categories(graph: Graph) -> Graph:
    """A graph without features gets its nodes' own numbers as categories."""
    return graph if graph.x is not None else graph.with_features(torch.arange(graph.n_nodes))


def _model_for(graph: Graph, variant: Variant, options: Mapping[str, Any]) -> NCN:
    x = graph.x
    if isinstance(x, CSR):
        return NCN(x.n_cols, variant=variant, **options)
    assert x is not None
    if x.is_floating_point():
        return NCN(x.shape[1], variant=variant, **options)
    return NCN(n_categories=int(x.max()) + 1, variant=variant, **options)
