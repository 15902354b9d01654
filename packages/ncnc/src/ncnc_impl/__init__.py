"""Link prediction with neural common neighbours and completion."""

from importlib.metadata import version
from typing import TYPE_CHECKING

from shared_impl.lazy import attach

if TYPE_CHECKING:
    from ncnc_impl.csr import CSR
    from ncnc_impl.data import (
        as_graph,
        geometric_graph,
        karate_club,
        load_ogb,
        load_planetoid,
        read_edge_list,
        stochastic_block_graph,
    )
    from ncnc_impl.encoder import Encoder
    from ncnc_impl.graph import Graph, sample_negatives
    from ncnc_impl.heuristics import Heuristic
    from ncnc_impl.link_predictor import LinkPredictor
    from ncnc_impl.metrics import auc, hits_at_k, mrr
    from ncnc_impl.model import NCN
    from ncnc_impl.overlap import common_neighbors, residual_neighbors
    from ncnc_impl.predictor import LinkHead, completion_probability
    from ncnc_impl.recipes import RECIPES, Recipe
    from ncnc_impl.splits import EvaluationSet, LinkSplit, split_edges
    from ncnc_impl.training import train_links

__version__ = version("ncnc-impl")
__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "csr": ["CSR"],
        "data": [
            "as_graph",
            "geometric_graph",
            "karate_club",
            "load_ogb",
            "load_planetoid",
            "read_edge_list",
            "stochastic_block_graph",
        ],
        "encoder": ["Encoder"],
        "graph": ["Graph", "sample_negatives"],
        "heuristics": ["Heuristic"],
        "link_predictor": ["LinkPredictor"],
        "metrics": ["auc", "hits_at_k", "mrr"],
        "model": ["NCN"],
        "overlap": ["common_neighbors", "residual_neighbors"],
        "predictor": ["LinkHead", "completion_probability"],
        "recipes": ["RECIPES", "Recipe"],
        "splits": ["EvaluationSet", "LinkSplit", "split_edges"],
        "training": ["train_links"],
    },
)
