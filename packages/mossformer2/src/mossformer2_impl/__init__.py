"""MossFormer2: Transformer and RNN-free recurrent network for time-domain monaural speech separation."""

from importlib.metadata import version
from typing import TYPE_CHECKING

from shared_impl.lazy import attach

__version__ = version("mossformer2-impl")

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "attention": ["FFConvM", "JointAttention", "ScaleNorm", "joint_attention", "joint_attention_naive", "rotate"],
        "audio": ["read_sound", "resample", "write_sound"],
        "baselines": ["DPRNN", "ConvTasNet", "SepFormer", "ideal_ratio_mask", "mixture_as_estimate"],
        "convolution": ["depthwise", "depthwise_naive"],
        "data": ["read_librimix", "read_listed", "read_scp", "read_speakers", "spoken_digits", "talkers"],
        "metrics": [
            "best_order", "pairwise_si_sdr", "pit_loss", "reorder", "sdr", "sdr_improvement", "si_sdr",
            "si_sdr_improvement",
        ],
        "mixing": ["MixtureDataset", "mix"],
        "model": ["PRESETS", "MossFormer2", "decode", "encode"],
        "official": ["from_official", "load_official"],
        "recurrent": ["FSMN", "GCU", "DilatedFSMN", "RecurrentModule"],
        "separation": ["overlap_add", "separate"],
        "training": ["evaluate", "separation_loss", "train"],
    },
)  # fmt: skip

if TYPE_CHECKING:
    from .attention import FFConvM as FFConvM
    from .attention import JointAttention as JointAttention
    from .attention import ScaleNorm as ScaleNorm
    from .attention import joint_attention as joint_attention
    from .attention import joint_attention_naive as joint_attention_naive
    from .attention import rotate as rotate
    from .audio import read_sound as read_sound
    from .audio import resample as resample
    from .audio import write_sound as write_sound
    from .baselines import DPRNN as DPRNN
    from .baselines import ConvTasNet as ConvTasNet
    from .baselines import SepFormer as SepFormer
    from .baselines import ideal_ratio_mask as ideal_ratio_mask
    from .baselines import mixture_as_estimate as mixture_as_estimate
    from .convolution import depthwise as depthwise
    from .convolution import depthwise_naive as depthwise_naive
    from .data import read_librimix as read_librimix
    from .data import read_listed as read_listed
    from .data import read_scp as read_scp
    from .data import read_speakers as read_speakers
    from .data import spoken_digits as spoken_digits
    from .data import talkers as talkers
    from .metrics import best_order as best_order
    from .metrics import pairwise_si_sdr as pairwise_si_sdr
    from .metrics import pit_loss as pit_loss
    from .metrics import reorder as reorder
    from .metrics import sdr as sdr
    from .metrics import sdr_improvement as sdr_improvement
    from .metrics import si_sdr as si_sdr
    from .metrics import si_sdr_improvement as si_sdr_improvement
    from .mixing import MixtureDataset as MixtureDataset
    from .mixing import mix as mix
    from .model import PRESETS as PRESETS
    from .model import MossFormer2 as MossFormer2
    from .model import decode as decode
    from .model import encode as encode
    from .official import from_official as from_official
    from .official import load_official as load_official
    from .recurrent import FSMN as FSMN
    from .recurrent import GCU as GCU
    from .recurrent import DilatedFSMN as DilatedFSMN
    from .recurrent import RecurrentModule as RecurrentModule
    from .separation import overlap_add as overlap_add
    from .separation import separate as separate
    from .training import evaluate as evaluate
    from .training import separation_loss as separation_loss
    from .training import train as train
