"""TCNCA: Temporal Convolution Network with Chunked Attention for Scalable Sequence Processing."""

from importlib.metadata import version
from typing import TYPE_CHECKING

from shared_impl.lazy import attach

__version__ = version("tcnca-impl")

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "attention": ["ChunkedAttention", "block_diagonal_attention"],
        "config": ["ClassifierConfig", "LMConfig", "LayerConfig", "MixerConfig"],
        "data": ["associative_recall", "delayed_copy", "listops"],
        "ema": ["S4D", "MultiHeadEMA"],
        "layer": ["MegaLayer", "SimpleTCNCA", "TCNCALayer"],
        "model": ["TCNCAClassifier", "TCNCAForCausalLM"],
        "recipes": ["ENWIK8", "LRA"],
        "search": ["select_tcn"],
        "tcn": ["CausalTCN", "SparseTapsWarning", "receptive_field", "seen_positions", "tcn_for_length"],
    },
)

if TYPE_CHECKING:
    from .attention import ChunkedAttention as ChunkedAttention
    from .attention import block_diagonal_attention as block_diagonal_attention
    from .config import ClassifierConfig as ClassifierConfig
    from .config import LayerConfig as LayerConfig
    from .config import LMConfig as LMConfig
    from .config import MixerConfig as MixerConfig
    from .data import associative_recall as associative_recall
    from .data import delayed_copy as delayed_copy
    from .data import listops as listops
    from .ema import S4D as S4D
    from .ema import MultiHeadEMA as MultiHeadEMA
    from .layer import MegaLayer as MegaLayer
    from .layer import SimpleTCNCA as SimpleTCNCA
    from .layer import TCNCALayer as TCNCALayer
    from .model import TCNCAClassifier as TCNCAClassifier
    from .model import TCNCAForCausalLM as TCNCAForCausalLM
    from .recipes import ENWIK8 as ENWIK8
    from .recipes import LRA as LRA
    from .search import select_tcn as select_tcn
    from .tcn import CausalTCN as CausalTCN
    from .tcn import SparseTapsWarning as SparseTapsWarning
    from .tcn import receptive_field as receptive_field
    from .tcn import seen_positions as seen_positions
    from .tcn import tcn_for_length as tcn_for_length
