"""CoOadTR: online action detection by a continual Transformer encoder (arXiv 2201.06268, section 4)."""

from torch import Tensor

from shared_impl.pretrained import Pretrained

from .attention import RecyclingPositionalEncoding, TransformerEncoder
from .container import Sequential
from .pointwise import Linear
from .video import Network

__all__ = ["CoOadTR"]


class CoOadTR(Network, Pretrained):
    """Features of one frame in, scores of actions out, from a window of 64; `(batch, features, time)`.

    As in the paper there is neither a class token nor the decoder of OadTR: the newest row is classified.

    Args:
        blocks: 1 (single-output attention) or 2 (retroactive, then single-output).
        features: of a frame: 4096 from networks trained on Kinetics, 3072 on ActivityNet.
    """

    def __init__(
        self, *, blocks: int = 2, features: int = 4096, classes: int = 22, d_model: int = 1024, n_heads: int = 8,
        d_mlp: int = 1024, window: int = 64,
    ) -> None:  # fmt: skip
        super().__init__()
        self.net = Sequential(
            Linear(features, d_model),
            RecyclingPositionalEncoding(d_model, 2 * window - 1, window=window),
            TransformerEncoder(d_model, n_heads, d_mlp, window, blocks=blocks),
            Linear(d_model, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """One window; `(batch, classes, 1)`."""
        return super().forward(x)
