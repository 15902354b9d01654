"""Multi-head attention from queries to a context, whose keys and values can be kept."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["KeyValue", "MultiHeadAttention"]

KeyValue = tuple[Tensor, Tensor]
"""keys and values, (batch, heads, length, head_dim)"""


class MultiHeadAttention(nn.Module):
    """softmax(q k' / sqrt(d)) v with `n_heads` heads; the output projection starts at zero.

    Raises:
        ValueError: if d_model is no multiple of n_heads.
    """

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"d_model must be a multiple of n_heads={n_heads}, got {d_model}")
        self.n_heads = n_heads
        self.query = nn.Linear(d_model, d_model)
        self.key_value = nn.Linear(d_model, 2 * d_model)
        self.output = nn.Linear(d_model, d_model)
        for projection in (self.query, self.key_value):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def keys_and_values(self, context: Float[Tensor, "batch context d_model"]) -> KeyValue:
        """What queries need of the context."""
        batch, length, _ = context.shape
        pair = self.key_value(context).view(batch, length, 2, self.n_heads, -1)
        key, value = pair.permute(2, 0, 3, 1, 4)
        return key, value

    def forward(
        self, queries: Float[Tensor, "batch queries d_model"], context: KeyValue, mask: Tensor | None = None
    ) -> Float[Tensor, "batch queries d_model"]:
        """What the queries read from the context; `mask` (True: may attend) only for the tests' dense form."""
        batch, length, d_model = queries.shape
        query = self.query(queries).view(batch, length, self.n_heads, -1).transpose(1, 2)
        read = _attend(query, *context, mask)
        return self.output(read.transpose(1, 2).reshape(batch, length, d_model))


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    if query.dtype == torch.bfloat16 and query.device.type == "cpu" and mask is None:
        # torch's fused form has a slow backward pass here: for short sequences 8 times the time of this
        scores = (query * query.shape[-1] ** -0.5) @ key.mT
        return scores.softmax(-1) @ value
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
