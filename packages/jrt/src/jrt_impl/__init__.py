"""Just read twice: closing the recall gap for recurrent language models."""

from importlib.metadata import version
from typing import TYPE_CHECKING

from shared_impl.lazy import attach

if TYPE_CHECKING:
    from .attention import PLAState, linear_attention, pla_step, prefix_linear_attention
    from .baselines import GatedRecurrence, scan, scan_step_by_step
    from .config import BASED_1_3B, BASED_360M, JRT_1_3B, JRT_360M, JRTConfig, hybrid_layers
    from .documents import contains, exact_match, f1, load_documents
    from .feature_map import TaylorExp, taylor_kernel
    from .layers import BaseConv, BasedLayer, PrefixLinearAttention, ShortConv, SlidingWindowAttention
    from .loss import jrt_loss, mask_prefix, training_pair
    from .model import JRTForCausalLM, state_bytes
    from .official import load_official
    from .prompt import JRTPrompt, ReadTwice, evaluate_prompt, fit_context, read_twice, truncate_around
    from .streaming import disjoint_by_recall, needed_states, one_pass_bits, read_once, read_twice_stream, stream_of
    from .synthetic import MQAR, SetDisjointness, TemplatedDocuments
    from .training import accuracy, recall_model, train_recall

__version__ = version("jrt-impl")

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "attention": ["PLAState", "linear_attention", "pla_step", "prefix_linear_attention"],
        "baselines": ["GatedRecurrence", "scan", "scan_step_by_step"],
        "config": ["BASED_1_3B", "BASED_360M", "JRT_1_3B", "JRT_360M", "JRTConfig", "hybrid_layers"],
        "documents": ["contains", "exact_match", "f1", "load_documents"],
        "feature_map": ["TaylorExp", "taylor_kernel"],
        "layers": ["BaseConv", "BasedLayer", "PrefixLinearAttention", "ShortConv", "SlidingWindowAttention"],
        "loss": ["jrt_loss", "mask_prefix", "training_pair"],
        "model": ["JRTForCausalLM", "state_bytes"],
        "official": ["load_official"],
        "prompt": ["JRTPrompt", "ReadTwice", "evaluate_prompt", "fit_context", "read_twice", "truncate_around"],
        "streaming": [
            "disjoint_by_recall",
            "needed_states",
            "one_pass_bits",
            "read_once",
            "read_twice_stream",
            "stream_of",
        ],
        "synthetic": ["MQAR", "SetDisjointness", "TemplatedDocuments"],
        "training": ["accuracy", "recall_model", "train_recall"],
    },
)
