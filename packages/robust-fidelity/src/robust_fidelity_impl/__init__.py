"""Towards Robust Fidelity for Evaluating Explainability of Graph Neural Networks."""

from importlib.metadata import version
from typing import TYPE_CHECKING

from shared_impl.lazy import attach

__version__ = version("robust-fidelity-impl")

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "datasets": ["ba2motifs", "ba_shapes", "mutag", "tree_cycles", "tree_grid"],
        "explainers": ["RobustFidelity", "explain_graphs"],
        "measures": ["FidelityScore", "fidelity", "robust_fidelity", "score_explanations"],
        "meta": [
            "Subject",
            "meta_evaluate",
            "perturb_explanation",
            "size_matched_curve",
            "size_matched_delta",
            "swap_explanation",
        ],
        "models": ["GCN", "GIN", "OutsideFlipped"],
        "pairs": ["edge_units", "explanation_units"],
        "probe": ["Probe"],
        "training": ["train_on_graphs", "train_on_nodes"],
    },
)

if TYPE_CHECKING:
    from robust_fidelity_impl.datasets import ba2motifs, ba_shapes, mutag, tree_cycles, tree_grid
    from robust_fidelity_impl.explainers import RobustFidelity, explain_graphs
    from robust_fidelity_impl.measures import FidelityScore, fidelity, robust_fidelity, score_explanations
    from robust_fidelity_impl.meta import (
        Subject,
        meta_evaluate,
        perturb_explanation,
        size_matched_curve,
        size_matched_delta,
        swap_explanation,
    )
    from robust_fidelity_impl.models import GCN, GIN, OutsideFlipped
    from robust_fidelity_impl.pairs import edge_units, explanation_units
    from robust_fidelity_impl.probe import Probe
    from robust_fidelity_impl.training import train_on_graphs, train_on_nodes
