"""Weights of the authors' code (state-spaces/s4, v4) for `S4Layer`."""

from collections.abc import Mapping

from torch import Tensor

__all__ = ["from_official"]

_SAME = {"D": "D", "kernel.C": "kernel.C", "kernel.P": "kernel.P", "kernel.l_kernel": "kernel.l_kernel"}


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of an official `FFTConv` (kernel `dplr` or `diag`, dt and real parts under `exp`) as `S4Layer`'s.

    Give the layer the same d_model, d_state, channels, rank and n_ssm; `discretisation="bilinear"` if theirs was; and,
    for a bidirectional model, `reverse_lag=1`.

    Raises:
        ValueError: for an entry that this layer has no place for.
    """
    converted = {}
    for name, value in state.items():
        if name in _SAME:
            converted[_SAME[name]] = value
        elif name == "kernel.inv_dt":
            if value.shape[-1] != 1:
                raise ValueError(f"kernel.inv_dt must have shape (d_model, 1), got {tuple(value.shape)}")
            converted["kernel.log_dt"] = value.squeeze(-1)
        elif name == "kernel.B":
            converted["kernel.B"] = value.squeeze(0)
        elif name == "kernel.A_real":
            converted["kernel.log_decay"] = value
        elif name == "kernel.A_imag":
            converted["kernel.frequency"] = -value
        else:
            raise ValueError(f"unexpected entry {name!r}: this is not the state of an official S4 or S4D layer")
    return converted
