"""Gated linear attention in every form, on any machine."""

from importlib.metadata import version
from typing import TYPE_CHECKING

from shared_impl.lazy import attach

if TYPE_CHECKING:
    from gla_impl.baselines import CausalSelfAttention, MultiScaleRetention, SelectiveSSM, linear_scan
    from gla_impl.chunk import gla_chunk
    from gla_impl.comparison import MODELS, comparison_config
    from gla_impl.config import GLAConfig
    from gla_impl.configs import GLA_1_3B, GLA_340M, PRETRAIN_1_3B, PRETRAIN_340M
    from gla_impl.gates import fixed_gate, no_gate, outer_gate, scalar_gate, vector_gate
    from gla_impl.layer import GatedLinearAttention
    from gla_impl.lm import LMRecipe, evaluate_loss, lm_loss, loss_by_position, train_lm
    from gla_impl.model import Block, GLAForCausalLM, LMOutput, detach, state_bytes
    from gla_impl.mqar import MQARData, mqar_data
    from gla_impl.official import load_fla
    from gla_impl.parallel import gla_parallel
    from gla_impl.recurrent import gla_recurrent, gla_step
    from gla_impl.text import Corpus, Vocabulary, file_corpus

__version__ = version("gla-impl")

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "baselines": ["CausalSelfAttention", "MultiScaleRetention", "SelectiveSSM", "linear_scan"],
        "chunk": ["gla_chunk"],
        "comparison": ["MODELS", "comparison_config"],
        "config": ["GLAConfig"],
        "configs": ["GLA_1_3B", "GLA_340M", "PRETRAIN_1_3B", "PRETRAIN_340M"],
        "gates": ["fixed_gate", "no_gate", "outer_gate", "scalar_gate", "vector_gate"],
        "layer": ["GatedLinearAttention"],
        "lm": ["LMRecipe", "evaluate_loss", "lm_loss", "loss_by_position", "train_lm"],
        "model": ["Block", "GLAForCausalLM", "LMOutput", "detach", "state_bytes"],
        "mqar": ["MQARData", "mqar_data"],
        "official": ["load_fla"],
        "parallel": ["gla_parallel"],
        "recurrent": ["gla_recurrent", "gla_step"],
        "text": ["Corpus", "Vocabulary", "file_corpus"],
    },
)
