"""Efficient Nearest Neighbor Search for Cross-Encoder Models using Matrix Factorization."""

from importlib.metadata import version
from typing import TYPE_CHECKING

from shared_impl.lazy import attach

__version__ = version("anncur-impl")

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "baselines": ["BiEncoderRetriever", "BruteForce", "FixItem", "ItemCUR", "RetrieveRerank", "TfidfRetriever"],
        "cur": ["CURDecomposition", "energy", "ridge_inverse", "truncated_pinv"],
        "encoders": ["ClsCrossEncoder", "DualEncoder", "EmbCrossEncoder"],
        "metrics": ["exact_top_k", "recall_at_k"],
        "scorer": ["CachedScorer", "CountedScorer", "MatrixScorer", "cross_encoder", "hugging_face"],
        "search": ["ANNCUR", "SearchResult"],
        "training": ["distill_dual_encoder", "train_cross_encoder"],
    },
)

if TYPE_CHECKING:
    from anncur_impl.baselines import BiEncoderRetriever, BruteForce, FixItem, ItemCUR, RetrieveRerank, TfidfRetriever
    from anncur_impl.cur import CURDecomposition, energy, ridge_inverse, truncated_pinv
    from anncur_impl.encoders import ClsCrossEncoder, DualEncoder, EmbCrossEncoder
    from anncur_impl.metrics import exact_top_k, recall_at_k
    from anncur_impl.scorer import CachedScorer, CountedScorer, MatrixScorer, cross_encoder, hugging_face
    from anncur_impl.search import ANNCUR, SearchResult
    from anncur_impl.training import distill_dual_encoder, train_cross_encoder
