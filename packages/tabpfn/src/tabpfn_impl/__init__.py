"""TabPFN: a transformer, trained once on synthetic tables, that classifies a new table in one forward pass."""

from importlib.metadata import version
from typing import TYPE_CHECKING

from shared_impl.lazy import attach

__version__ = version("tabpfn-impl")

if TYPE_CHECKING:
    from tabpfn_impl.cell import CellTransformer
    from tabpfn_impl.checkpoints import Checkpoint, load_checkpoint, save_checkpoint, shipped_checkpoint
    from tabpfn_impl.classifier import TabPFNClassifier
    from tabpfn_impl.conjugate import GaussianClasses
    from tabpfn_impl.priors import BNNPrior, GPPrior, PriorConfig, SCMPrior, TabularPrior, TaskBatch
    from tabpfn_impl.recipes import RECIPES
    from tabpfn_impl.training import TrainRecipe, train_pfn
    from tabpfn_impl.transformer import ContextCache, PFNTransformer

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "classifier": ["TabPFNClassifier"],
        "transformer": ["ContextCache", "PFNTransformer"],
        "cell": ["CellTransformer"],
        "priors": ["BNNPrior", "GPPrior", "PriorConfig", "SCMPrior", "TabularPrior", "TaskBatch"],
        "conjugate": ["GaussianClasses"],
        "training": ["TrainRecipe", "train_pfn"],
        "recipes": ["RECIPES"],
        "checkpoints": ["Checkpoint", "load_checkpoint", "save_checkpoint", "shipped_checkpoint"],
    },
)
