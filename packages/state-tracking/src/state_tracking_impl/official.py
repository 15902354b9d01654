"""The authors' code, imported from a checkout, and the peer's, from an installed package: to be timed and compared."""

import importlib.util
import os
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shared_impl.bench import module_from_file
from shared_impl.cli import UserError

from .layers import Mamba

__all__ = ["FORK", "VARIABLE", "checkout", "load_delta_rule", "load_fla", "mamba_pair"]

VARIABLE = "STATE_TRACKING_OFFICIAL_DIR"
NAIVE = Path("ops/delta_rule/naive.py")
FORK = Path("flash-linear-attention_mod/fla")
MAMBA = Path("xlstm/mamba/mamba.py")

Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Any]
"""of q, k, v, beta, heads before tokens"""


def checkout() -> Path:
    """The folder that the environment variable names.

    Raises:
        UserError: it names none, or one that is no checkout of automl/unlocking_state_tracking.
    """
    place = os.environ.get(VARIABLE, "")
    if not place:
        raise UserError(f"bench official needs {VARIABLE}: the folder of a checkout of automl/unlocking_state_tracking")
    folder = Path(place)
    if not (folder / FORK / NAIVE).is_file():
        raise UserError(f"{folder} is not a checkout of automl/unlocking_state_tracking: it has no {FORK / NAIVE}")
    return folder


def load_delta_rule(folder: Path) -> tuple[Rule, Rule]:
    """Token by token and in chunks, from a folder of flash-linear-attention or a fork of it.

    Raises:
        UserError: the file needs what is not there.
    """
    path = folder / NAIVE
    try:
        module = module_from_file(path, "official_delta_rule")
    except ImportError as error:
        raise UserError(f"{path} cannot be imported: {error}") from error
    return module.delta_rule_recurrence, module.delta_rule_chunkwise


def load_fla() -> tuple[str, Rule, Rule]:
    """The version of flash-linear-attention that is installed, and its delta rule in plain torch.

    Raises:
        UserError: it is not installed.
    """
    spec = importlib.util.find_spec("fla")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("bench fla needs the package flash-linear-attention")
    try:
        number = version("flash-linear-attention")
    except PackageNotFoundError:
        number = "unknown"
    # its own __init__ asks for a GPU; the naive forms do not
    return (number, *load_delta_rule(Path(spec.submodule_search_locations[0])))


def mamba_pair(folder: Path, *, negative: bool, d_model: int = 32, width: int = 4) -> tuple[nn.Module, Mamba]:
    """The authors' Mamba block and ours with the same weights, in float64.

    Raises:
        UserError: the file needs what is not there (mambapy).
    """
    try:
        module = module_from_file(folder / MAMBA, "official_mamba")
    except ImportError as error:
        raise UserError(f"{folder / MAMBA} cannot be imported: {error}") from error
    config = module.MambaConfig(
        d_model=d_model, n_layers=1, d_conv=width, use_cuda=False, positive_and_negative=negative
    )
    theirs: nn.Module = module.NonnegativeMambaBlock(config)
    ours = Mamba(d_model, eig_range=(-1.0 if negative else 0.0, 1.0), short_conv=width)
    weights = theirs.state_dict()
    weights["conv.weight"] = weights.pop("conv1d.weight")[:, 0].T
    weights["conv.bias"] = weights.pop("conv1d.bias")
    ours.load_state_dict(weights)
    return theirs.to(torch.float64), ours.double()
