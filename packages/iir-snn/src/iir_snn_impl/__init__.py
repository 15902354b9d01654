"""One Timestep is All You Need: Training Spiking Neural Networks with Ultra Low Latency."""

from importlib.metadata import version
from typing import TYPE_CHECKING

from shared_impl.lazy import attach

__version__ = version("iir-snn-impl")

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "neuron": ["LIF", "BinaryActivation", "lif", "lif_reference", "surrogate_derivative"],
        "architecture": ["Residual", "describe", "fold_batch_norm", "load_ann", "save_ann"],
        "network": ["Prediction", "SpikingNet", "kth_percentile"],
        "models": ["dqn", "q_network", "resnet20", "small_conv", "vgg"],
        "energy_model": ["EnergyTable", "energy", "energy_ratio"],
        "training": ["Batches", "History", "accuracy", "iir", "train_ann", "train_snn"],
        "data": ["digits16", "mnist_10k"],
        "classifier": ["SpikingClassifier"],
        "rl": ["DQNAgent", "SpikingQNet", "evaluate_policy"],
    },
)

if TYPE_CHECKING:
    from .architecture import Residual as Residual
    from .architecture import describe as describe
    from .architecture import fold_batch_norm as fold_batch_norm
    from .architecture import load_ann as load_ann
    from .architecture import save_ann as save_ann
    from .classifier import SpikingClassifier as SpikingClassifier
    from .data import digits16 as digits16
    from .data import mnist_10k as mnist_10k
    from .energy_model import EnergyTable as EnergyTable
    from .energy_model import energy as energy
    from .energy_model import energy_ratio as energy_ratio
    from .models import dqn as dqn
    from .models import q_network as q_network
    from .models import resnet20 as resnet20
    from .models import small_conv as small_conv
    from .models import vgg as vgg
    from .network import Prediction as Prediction
    from .network import SpikingNet as SpikingNet
    from .network import kth_percentile as kth_percentile
    from .neuron import LIF as LIF
    from .neuron import BinaryActivation as BinaryActivation
    from .neuron import lif as lif
    from .neuron import lif_reference as lif_reference
    from .neuron import surrogate_derivative as surrogate_derivative
    from .rl import DQNAgent as DQNAgent
    from .rl import SpikingQNet as SpikingQNet
    from .rl import evaluate_policy as evaluate_policy
    from .training import Batches as Batches
    from .training import History as History
    from .training import accuracy as accuracy
    from .training import iir as iir
    from .training import train_ann as train_ann
    from .training import train_snn as train_snn
