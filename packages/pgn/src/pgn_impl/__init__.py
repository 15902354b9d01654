"""PGN and TPGN: parallel gated networks for forecasting far ahead (Jia et al. 2024)."""

from importlib.metadata import version
from typing import TYPE_CHECKING

from shared_impl.lazy import attach

__version__ = version("pgn-impl")

if TYPE_CHECKING:
    from pgn_impl.calendar import time_features
    from pgn_impl.data import load_ett, read_csv, synthetic_series
    from pgn_impl.forecaster import TPGNForecaster
    from pgn_impl.hie import HIE
    from pgn_impl.pgn import PGN, PGN2d, PGNClassifier, StackedPGN
    from pgn_impl.tpgn import TPGN
    from pgn_impl.windows import ForecastData, sliding_windows

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "hie": ["HIE"],
        "pgn": ["PGN", "PGN2d", "PGNClassifier", "StackedPGN"],
        "tpgn": ["TPGN"],
        "forecaster": ["TPGNForecaster"],
        "calendar": ["time_features"],
        "windows": ["ForecastData", "sliding_windows"],
        "data": ["load_ett", "read_csv", "synthetic_series"],
    },
)
