"""Forward Learning of Graph Neural Networks."""

from importlib.metadata import version
from typing import TYPE_CHECKING

from shared_impl.lazy import attach

__version__ = version("forwardgnn-impl")

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "augment": ["AugmentedGraph", "LabelAppender", "VirtualNodeAugmenter", "side_by_side", "wrong_classes"],
        "data": ["load_graph", "sbm"],
        "graphs": ["NodeTask", "as_task", "node_splits"],
        "links": ["ForwardLinkPredictor", "split_links"],
        "local": ["AssertLocal", "LocalLayer", "LocalityError", "saved_bytes"],
        "losses": ["ff_loss", "goodness", "link_logits", "link_loss", "sf_logits", "sf_loss"],
        "model": ["ForwardGNN", "ForwardNodeClassifier"],
        "propagation": ["Features", "GraphLayer", "Propagation", "make_conv", "row_norm"],
    },
)

if TYPE_CHECKING:
    from .augment import AugmentedGraph as AugmentedGraph
    from .augment import LabelAppender as LabelAppender
    from .augment import VirtualNodeAugmenter as VirtualNodeAugmenter
    from .augment import side_by_side as side_by_side
    from .augment import wrong_classes as wrong_classes
    from .data import load_graph as load_graph
    from .data import sbm as sbm
    from .graphs import NodeTask as NodeTask
    from .graphs import as_task as as_task
    from .graphs import node_splits as node_splits
    from .links import ForwardLinkPredictor as ForwardLinkPredictor
    from .links import split_links as split_links
    from .local import AssertLocal as AssertLocal
    from .local import LocalityError as LocalityError
    from .local import LocalLayer as LocalLayer
    from .local import saved_bytes as saved_bytes
    from .losses import ff_loss as ff_loss
    from .losses import goodness as goodness
    from .losses import link_logits as link_logits
    from .losses import link_loss as link_loss
    from .losses import sf_logits as sf_logits
    from .losses import sf_loss as sf_loss
    from .model import ForwardGNN as ForwardGNN
    from .model import ForwardNodeClassifier as ForwardNodeClassifier
    from .propagation import Features as Features
    from .propagation import GraphLayer as GraphLayer
    from .propagation import Propagation as Propagation
    from .propagation import make_conv as make_conv
    from .propagation import row_norm as row_norm
