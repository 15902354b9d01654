"""The paper's own models by name (section 5.1): they need weeks of GPU time, and were not trained here."""

from dataclasses import dataclass

from gla_impl.config import GLAConfig

__all__ = ["GLA_1_3B", "GLA_340M", "PRETRAIN_1_3B", "PRETRAIN_340M", "PretrainRecipe"]


@dataclass(frozen=True)
class PretrainRecipe:
    """How the paper trains on SlimPajama; counts are in tokens.

    The warm-up lengths and the final learning rate are as far as the text of the paper gives them.
    """

    model: GLAConfig
    tokens: int
    batch_tokens: int
    warmup_tokens: int
    seq_len: int = 2048
    lr: float = 3e-4
    final_lr: float = 3e-5
    weight_decay: float = 0.01
    grad_clip: float = 1.0

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.tokens // self.batch_tokens


GLA_340M = GLAConfig(vocab_size=32_000, d_model=1024, n_layers=24, n_heads=4)
GLA_1_3B = GLAConfig(vocab_size=32_000, d_model=2048, n_layers=24, n_heads=4)

PRETRAIN_340M = PretrainRecipe(model=GLA_340M, tokens=15_000_000_000, batch_tokens=500_000, warmup_tokens=500_000_000)
PRETRAIN_1_3B = PretrainRecipe(
    model=GLA_1_3B, tokens=100_000_000_000, batch_tokens=2_000_000, warmup_tokens=1_000_000_000
)
