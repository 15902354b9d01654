"""Forecasters by name, each with the settings of the paper's table or, where it gives none, of its own authors."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from pgn_impl.baselines import DLinear, LastValue, NLinear, RecurrentForecaster, SeasonalNaive, SegRNN
from pgn_impl.tpgn import TPGN
from pgn_impl.transformers import ITransformer, PatchTST
from pgn_impl.witran import WITRAN

__all__ = ["LABELS", "MODELS", "build", "model_class", "settings"]

HORIZONS = (168, 336, 720, 1440)
# table B of the official repository: period 24 everywhere
TPGN_SETTINGS: Mapping[str, tuple[bool, Mapping[int, int]]] = {
    "ECL": (False, dict.fromkeys(HORIZONS, 32)),
    "Traffic": (True, {168: 128, 336: 128, 720: 256, 1440: 256}),
    "ETTh1": (True, {168: 2, 336: 2, 720: 2, 1440: 8}),
    "ETTh2": (False, dict.fromkeys(HORIZONS, 8)),
    "Weather": (False, dict.fromkeys(HORIZONS, 4)),
}
LABELS: Mapping[str, str] = {
    "last": "last value",
    "seasonal": "seasonal naive",
    "tpgn": "TPGN",
    "dlinear": "DLinear",
    "nlinear": "NLinear",
    "patchtst": "PatchTST",
    "itransformer": "iTransformer",
    "segrnn": "SegRNN",
    "lstm": "LSTM",
    "gru": "GRU",
    "witran": "WITRAN",
}
MODELS = tuple(LABELS)
UNTRAINED = ("last", "seasonal")


def settings(name: str, *, data: str = "", pred_len: int = 168, period: int = 24) -> dict[str, Any]:
    """The options of a model for a data set and a horizon.

    Raises:
        ValueError: for an unknown model.
    """
    if name not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, got {name!r}")
    if name == "tpgn":
        norm, widths = TPGN_SETTINGS.get(data, (True, {}))
        # a horizon between those of the table takes the next larger one's width
        width = next((d for horizon, d in sorted(widths.items()) if pred_len <= horizon), None)
        return {"period": period, "norm": norm, "d_model": width or max(widths.values(), default=8)}
    if name == "seasonal":
        return {"period": period}
    if name == "itransformer":
        # its authors' scripts: ETTh2 128; ETTh1 256, and 512 beyond 192 steps
        return {"d_model": 128 if data != "ETTh1" else 256 if pred_len <= 192 else 512}
    if name in ("segrnn", "witran"):
        return {"segment" if name == "segrnn" else "period": period}
    if name in ("lstm", "gru"):
        return {"kind": name}
    return {}


_WITH_CHANNELS = {"tpgn", "segrnn", "lstm", "gru", "witran"}
_WITH_MARKS = {"tpgn", "lstm", "gru", "witran"}
_CLASSES: Mapping[str, type[nn.Module]] = {
    "last": LastValue,
    "seasonal": SeasonalNaive,
    "tpgn": TPGN,
    "dlinear": DLinear,
    "nlinear": NLinear,
    "patchtst": PatchTST,
    "itransformer": ITransformer,
    "segrnn": SegRNN,
    "lstm": RecurrentForecaster,
    "gru": RecurrentForecaster,
    "witran": WITRAN,
}


def model_class(name: str) -> type[nn.Module]:
    """The class of a model.

    Raises:
        ValueError: for an unknown model.
    """
    if name not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, got {name!r}")
    return _CLASSES[name]


def build(
    name: str, *, seq_len: int, pred_len: int, c_in: int = 1, time_features: int = 4, **options: Any
) -> nn.Module:
    """A model by name.

    Args:
        options: of its class, for example what `settings` gives.

    Raises:
        ValueError: for an unknown model or settings that it refuses.
    """
    made = model_class(name)
    given: dict[str, Any] = {"pred_len": pred_len, **options}
    if name not in UNTRAINED:
        given["seq_len"] = seq_len
    if name in _WITH_CHANNELS:
        given["c_in"] = c_in
    if name in _WITH_MARKS:
        given["time_features"] = time_features
    return made(**given)
