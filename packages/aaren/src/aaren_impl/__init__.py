"""Attention as an RNN."""

from importlib.metadata import version
from typing import TYPE_CHECKING

from shared_impl.lazy import attach

__version__ = version("aaren-impl")

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "cell": [
            "AttentionState", "attention_cell", "attention_rnn", "combine", "identity_state", "latent_attention",
            "self_attention_as_rnns",
        ],
        "scan": ["attention_scan", "masked_softmax_attention"],
        "layer": ["Aaren", "AarenAttention", "AarenLayer"],
        "twins": ["CausalTransformer", "LinearTransformer", "RecurrentStack", "build_backbone"],
        "heads": ["DecisionModel", "EventModel", "Forecaster"],
        "classifier": ["Classifier"],
        "data": ["chirps", "load_uea", "read_events", "read_ts"],
        "hawkes": ["EventSequence", "Hawkes"],
        "stream": ["Stream"],
    },
)  # fmt: skip

if TYPE_CHECKING:
    from .cell import AttentionState as AttentionState
    from .cell import attention_cell as attention_cell
    from .cell import attention_rnn as attention_rnn
    from .cell import combine as combine
    from .cell import identity_state as identity_state
    from .cell import latent_attention as latent_attention
    from .cell import self_attention_as_rnns as self_attention_as_rnns
    from .classifier import Classifier as Classifier
    from .data import chirps as chirps
    from .data import load_uea as load_uea
    from .data import read_events as read_events
    from .data import read_ts as read_ts
    from .hawkes import EventSequence as EventSequence
    from .hawkes import Hawkes as Hawkes
    from .heads import DecisionModel as DecisionModel
    from .heads import EventModel as EventModel
    from .heads import Forecaster as Forecaster
    from .layer import Aaren as Aaren
    from .layer import AarenAttention as AarenAttention
    from .layer import AarenLayer as AarenLayer
    from .scan import attention_scan as attention_scan
    from .scan import masked_softmax_attention as masked_softmax_attention
    from .stream import Stream as Stream
    from .twins import CausalTransformer as CausalTransformer
    from .twins import LinearTransformer as LinearTransformer
    from .twins import RecurrentStack as RecurrentStack
    from .twins import build_backbone as build_backbone
