"""S4: structured state spaces for long sequences (Gu, Goel, Ré 2022)."""

from importlib.metadata import version
from typing import TYPE_CHECKING

from shared_impl.lazy import attach

__version__ = version("s4-impl")

if TYPE_CHECKING:
    from s4_impl.baselines import LSSLModel, LSTMModel, TCNModel, TransformerModel, match_parameters
    from s4_impl.cauchy_sum import cauchy
    from s4_impl.configs import LRA, LRA_V1, Recipe
    from s4_impl.estimators import S4Classifier, S4Forecaster
    from s4_impl.hippo_matrix import hippo, nplr
    from s4_impl.kernel import S4Kernel
    from s4_impl.layer import S4Layer
    from s4_impl.model import S4Block, S4Model
    from s4_impl.optim import adamw, param_groups
    from s4_impl.sequence import SequenceModel, sample_token
    from s4_impl.vandermonde_sum import vandermonde

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "hippo_matrix": ["hippo", "nplr"],
        "cauchy_sum": ["cauchy"],
        "vandermonde_sum": ["vandermonde"],
        "kernel": ["S4Kernel"],
        "layer": ["S4Layer"],
        "model": ["S4Block", "S4Model"],
        "sequence": ["SequenceModel", "sample_token"],
        "optim": ["adamw", "param_groups"],
        "baselines": ["LSSLModel", "LSTMModel", "TCNModel", "TransformerModel", "match_parameters"],
        "configs": ["LRA", "LRA_V1", "Recipe"],
        "estimators": ["S4Classifier", "S4Forecaster"],
    },
)
