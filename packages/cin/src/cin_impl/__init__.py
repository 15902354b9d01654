"""Efficient Online Processing with Deep Neural Networks: the same network, one step at a time, for one step's cost."""

from importlib.metadata import version
from typing import TYPE_CHECKING

from shared_impl.lazy import attach

__version__ = version("cin-impl")

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "container": ["CannotBeContinual", "continual", "load_in_order"],
        "data": ["gestures", "moving_shapes", "spoken_digits"],
        "cost": ["flops"],
        "module": ["initial_state", "state_bytes", "step"],
        "nn": [],
        "skeleton": ["CoSTGCN"],
        "spa": ["SPLoPA", "SPLoRA", "SPPaRA"],
        "video": ["CoI3D", "CoOadTR", "CoSlow", "CoX3D", "SmallCo3D"],
    },
)

if TYPE_CHECKING:
    from .container import CannotBeContinual as CannotBeContinual
    from .container import continual as continual
    from .container import load_in_order as load_in_order
    from .cost import flops as flops
    from .data import gestures as gestures
    from .data import moving_shapes as moving_shapes
    from .data import spoken_digits as spoken_digits
    from .module import initial_state as initial_state
    from .module import state_bytes as state_bytes
    from .module import step as step
    from .skeleton import CoSTGCN as CoSTGCN
    from .spa import SPLoPA as SPLoPA
    from .spa import SPLoRA as SPLoRA
    from .spa import SPPaRA as SPPaRA
    from .video import CoI3D as CoI3D
    from .video import CoOadTR as CoOadTR
    from .video import CoSlow as CoSlow
    from .video import CoX3D as CoX3D
    from .video import SmallCo3D as SmallCo3D
