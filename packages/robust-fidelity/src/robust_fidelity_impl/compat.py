"""The authors' published variant for PyG, as it computes: its Fid- has lost the explanation."""

from jaxtyping import Bool
from torch import Tensor

from robust_fidelity_impl.measures import _uniform
from robust_fidelity_impl.probe import Probe

__all__ = ["published_fid_minus"]


def published_fid_minus(
    probe: Probe,
    explanation: Bool[Tensor, "units"],
    *,
    label: int,
    alpha2: float = 0.9,
    n_samples: int = 50,
    seed: int = 0,
) -> float:
    """Fid- as `tools/fidelity_pyg.py` evaluates it: the mask that it gives the model is 1 on the edges that were to be
    removed, so that the model sees a share 1 - alpha2 of the other edges and none of the explanation.

    It is here to show by how much numbers published with it are off; use `robust_fidelity`.
    """
    uniform = _uniform(n_samples, probe.n_units, "independent", (seed ^ probe.fingerprint) % 2**63)
    keep = (probe.domain & ~explanation) & (uniform < 1 - alpha2)
    first = probe.probabilities(probe.everything()[None])[0, label]
    return float(first - probe.probabilities(keep)[:, label].mean())
