"""One pretrained diffusion model of series for any history, any horizon and any gap (GPD)."""

from importlib.metadata import version
from typing import TYPE_CHECKING

from shared_impl.lazy import attach

__version__ = version("gpd-impl")

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "baselines": [
            "AR", "BASELINES", "ETS", "ConditionalDiffusion", "DLinear", "NBeatsMLP", "PatchTSTSmall", "SeasonalNaive",
            "linear_interpolation",
        ],
        "data": [
            "Series", "evaluation_windows", "load_m4", "load_series", "made_corpus", "read_table", "sinusoids",
            "two_modes",
        ],
        "diffusion": ["GaussianDiffusion"],
        "forecaster": ["Forecast", "GPDForecaster"],
        "gaussian": ["AnalyticGaussianDenoiser", "conditional", "draw_gaussian", "seasonal_covariance"],
        "guidance": ["DPS", "GUIDANCES", "PiGDM", "RePaint", "Replace", "TSDiffGuidance", "make_guidance"],
        "metrics": ["coverage", "crps", "crps_by_pairs", "mae", "mse", "scores"],
        "model": ["GPD", "JointDenoiser", "SCALES"],
        "network": ["MLPDenoiser", "parameter_count", "time_embedding"],
        "normalise": ["prompt_statistics"],
        "sampler": ["DDIMSampler", "RowNoise", "Step"],
        "training": ["Recipe", "Windows", "normalised", "optimise", "pretrain"],
    },
)  # fmt: skip

if TYPE_CHECKING:
    from .baselines import AR as AR
    from .baselines import BASELINES as BASELINES
    from .baselines import ETS as ETS
    from .baselines import ConditionalDiffusion as ConditionalDiffusion
    from .baselines import DLinear as DLinear
    from .baselines import NBeatsMLP as NBeatsMLP
    from .baselines import PatchTSTSmall as PatchTSTSmall
    from .baselines import SeasonalNaive as SeasonalNaive
    from .baselines import linear_interpolation as linear_interpolation
    from .data import Series as Series
    from .data import evaluation_windows as evaluation_windows
    from .data import load_m4 as load_m4
    from .data import load_series as load_series
    from .data import made_corpus as made_corpus
    from .data import read_table as read_table
    from .data import sinusoids as sinusoids
    from .data import two_modes as two_modes
    from .diffusion import GaussianDiffusion as GaussianDiffusion
    from .forecaster import Forecast as Forecast
    from .forecaster import GPDForecaster as GPDForecaster
    from .gaussian import AnalyticGaussianDenoiser as AnalyticGaussianDenoiser
    from .gaussian import conditional as conditional
    from .gaussian import draw_gaussian as draw_gaussian
    from .gaussian import seasonal_covariance as seasonal_covariance
    from .guidance import DPS as DPS
    from .guidance import GUIDANCES as GUIDANCES
    from .guidance import PiGDM as PiGDM
    from .guidance import RePaint as RePaint
    from .guidance import Replace as Replace
    from .guidance import TSDiffGuidance as TSDiffGuidance
    from .guidance import make_guidance as make_guidance
    from .metrics import coverage as coverage
    from .metrics import crps as crps
    from .metrics import crps_by_pairs as crps_by_pairs
    from .metrics import mae as mae
    from .metrics import mse as mse
    from .metrics import scores as scores
    from .model import GPD as GPD
    from .model import SCALES as SCALES
    from .model import JointDenoiser as JointDenoiser
    from .network import MLPDenoiser as MLPDenoiser
    from .network import parameter_count as parameter_count
    from .network import time_embedding as time_embedding
    from .normalise import prompt_statistics as prompt_statistics
    from .sampler import DDIMSampler as DDIMSampler
    from .sampler import RowNoise as RowNoise
    from .sampler import Step as Step
    from .training import Recipe as Recipe
    from .training import Windows as Windows
    from .training import normalised as normalised
    from .training import optimise as optimise
    from .training import pretrain as pretrain
