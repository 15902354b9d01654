"""NetInfoF Framework: Measuring and Exploiting Network Usable Information."""

from importlib.metadata import version
from typing import TYPE_CHECKING

from shared_impl.lazy import attach

__version__ = version("netinfof-impl")

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "act": ["NetInfoFAct", "SparseGroupLinear", "common_neighbours"],
        "baselines": [
            "GraphNetwork",
            "dot_product_scores",
            "feature_regression",
            "slimg",
            "train_network_links",
            "train_network_nodes",
        ],
        "compatibility": [
            "CompatibilityMatrix",
            "PairDesign",
            "design_matrix",
            "ridge_compatibility",
            "training_pairs",
        ],
        "data": ["load_graph"],
        "embeddings": ["COMPONENTS", "ComponentEmbeddings", "walk_counts", "walk_counts_loop"],
        "graphs": ["AttributedGraph", "EdgeSplit", "as_graph", "hits_at_k", "split_edges"],
        "probe": ["ComponentReport", "NetInfoFProbe"],
        "score": [
            "PermutationTest",
            "accuracy_of_table",
            "conditional_entropy",
            "contingency_table",
            "expected_agreement",
            "netinfof_score",
            "permutation_test",
            "score_of_table",
        ],
        "synthetic": ["synthetic_graph"],
    },
)

if TYPE_CHECKING:
    from netinfof_impl.act import NetInfoFAct, SparseGroupLinear, common_neighbours
    from netinfof_impl.baselines import (
        GraphNetwork,
        dot_product_scores,
        feature_regression,
        slimg,
        train_network_links,
        train_network_nodes,
    )
    from netinfof_impl.compatibility import (
        CompatibilityMatrix,
        PairDesign,
        design_matrix,
        ridge_compatibility,
        training_pairs,
    )
    from netinfof_impl.data import load_graph
    from netinfof_impl.embeddings import COMPONENTS, ComponentEmbeddings, walk_counts, walk_counts_loop
    from netinfof_impl.graphs import AttributedGraph, EdgeSplit, as_graph, hits_at_k, split_edges
    from netinfof_impl.probe import ComponentReport, NetInfoFProbe
    from netinfof_impl.score import (
        PermutationTest,
        accuracy_of_table,
        conditional_entropy,
        contingency_table,
        expected_agreement,
        netinfof_score,
        permutation_test,
        score_of_table,
    )
    from netinfof_impl.synthetic import synthetic_graph
