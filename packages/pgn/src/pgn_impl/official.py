"""The authors' TPGN beside ours: their module, imported from a checkout, and its weights in ours."""

import types
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pgn_impl.tpgn import TPGN
from shared_impl.bench import module_from_file
from shared_impl.cli import UserError

__all__ = ["from_official", "load_official", "official_model"]


def load_official(folder: Path) -> Any:
    """Their `models/TPGN.py`, imported.

    Raises:
        UserError: if `folder` is no checkout of Water2sea/TPGN.
    """
    path = folder / "models" / "TPGN.py"
    if not path.is_file():
        raise UserError(f"{folder} is not a checkout of Water2sea/TPGN: it has no models/TPGN.py")
    return module_from_file(path, "official_tpgn")


def official_model(official: Any, ours: TPGN, *, freq: str = "h") -> nn.Module:
    """Their model of the same sizes as ours, with weights of its own.

    Args:
        official: what `load_official` returned.
        freq: "t", "h" or "d", which fixes the number of time features: 5, 4 or 3.
    """
    config = types.SimpleNamespace(
        freq=freq,
        TPGN_period=ours.period,
        seq_len=ours.seq_len,
        pred_len=ours.pred_len,
        enc_in=ours.c_in,
        c_out=ours.c_in,
        d_model=ours.d_model,
        norm=int(ours.norm),
    )
    model: nn.Module = official.Model(config)
    return model


def from_official(weights: dict[str, Tensor], like: TPGN) -> dict[str, Tensor]:
    """The state of our model from that of theirs.

    Args:
        like: a model of the same sizes.
    """
    c, d, rows = like.c_in, like.d_model, like.rows

    def of(name: str) -> Tensor:
        return weights[f"TPGN.{name}"]

    def over_rows(name: str) -> Tensor:
        """A convolution over all rows, (c d, d, R), as a map of R × d features."""
        return of(f"{name}.weight").view(c, d, d, rows).transpose(2, 3).reshape(c, d, rows * d)

    row = of("s_t_p_e.fc_row.weight")
    return {
        "long.pgn.hie.weight": of("LNN_dim.hidden_MLP.weight").view(c, d, -1, rows - 1),
        "long.pgn.hie.bias": of("LNN_dim.hidden_MLP.bias").view(c, d),
        "long.pgn.gate.weight": of("LNN_dim.gate.weight").view(c, 2 * d, -1),
        "long.pgn.gate.bias": of("LNN_dim.gate.bias").view(c, 2 * d),
        "linear_long.weight": over_rows("LNN_dim.fc"),
        "linear_long.bias": of("LNN_dim.fc.bias").view(c, d),
        "linear_row.weight": row.view(c, d, -1, like.period).transpose(2, 3).reshape(c, d, -1),
        "linear_row.bias": of("s_t_p_e.fc_row.bias").view(c, d),
        "linear_col.weight": over_rows("s_t_p_e.fc_col"),
        "linear_col.bias": of("s_t_p_e.fc_col.bias").view(c, d),
        "head.weight": of("fc.weight").view(c, like.rows_out, -1),
        "head.bias": of("fc.bias").view(c, like.rows_out),
    }
