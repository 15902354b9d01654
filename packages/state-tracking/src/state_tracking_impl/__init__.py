"""Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues."""

from importlib.metadata import version
from typing import TYPE_CHECKING

from shared_impl.lazy import attach

__version__ = version("state-tracking-impl")

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "baselines": ["LSTM", "SLSTM", "Attention"],
        "constructions": [
            "automaton_lrnn", "modm_two_layer", "parity_lrnn", "permutation_householder", "run_automaton",
        ],
        "delta_rule": ["delta_product", "delta_rule_chunk", "delta_rule_recurrent"],
        "layers": ["DeltaNet", "FullMatrixRNN", "GLALayer", "Mamba"],
        "learning": ["accuracy_by_length", "train_on_task"],
        "model": ["SequenceModel", "set_eigenvalue_range"],
        "scan": [
            "gla_recurrent", "gla_scan", "linear_scan", "matrix_scan", "selective_scan", "selective_scan_recurrent",
        ],
        "spectrum": ["eigen_report"],
        "tasks": ["TASKS", "group_word", "mod_arith", "mod_arith_brackets", "parity"],
    },
)  # fmt: skip

if TYPE_CHECKING:
    from .baselines import LSTM as LSTM
    from .baselines import SLSTM as SLSTM
    from .baselines import Attention as Attention
    from .constructions import automaton_lrnn as automaton_lrnn
    from .constructions import modm_two_layer as modm_two_layer
    from .constructions import parity_lrnn as parity_lrnn
    from .constructions import permutation_householder as permutation_householder
    from .constructions import run_automaton as run_automaton
    from .delta_rule import delta_product as delta_product
    from .delta_rule import delta_rule_chunk as delta_rule_chunk
    from .delta_rule import delta_rule_recurrent as delta_rule_recurrent
    from .layers import DeltaNet as DeltaNet
    from .layers import FullMatrixRNN as FullMatrixRNN
    from .layers import GLALayer as GLALayer
    from .layers import Mamba as Mamba
    from .learning import accuracy_by_length as accuracy_by_length
    from .learning import train_on_task as train_on_task
    from .model import SequenceModel as SequenceModel
    from .model import set_eigenvalue_range as set_eigenvalue_range
    from .scan import gla_recurrent as gla_recurrent
    from .scan import gla_scan as gla_scan
    from .scan import linear_scan as linear_scan
    from .scan import matrix_scan as matrix_scan
    from .scan import selective_scan as selective_scan
    from .scan import selective_scan_recurrent as selective_scan_recurrent
    from .spectrum import eigen_report as eigen_report
    from .tasks import TASKS as TASKS
    from .tasks import group_word as group_word
    from .tasks import mod_arith as mod_arith
    from .tasks import mod_arith_brackets as mod_arith_brackets
    from .tasks import parity as parity
