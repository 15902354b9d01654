"""Text as bytes: a vocabulary that fits any file, with one more id for masked places."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from shared_impl.datasets import tiny_shakespeare, wikitext2

__all__ = ["ByteTokenizer", "corpus"]


class ByteTokenizer:
    """UTF-8 bytes as ids 0..255, and 256 for a masked place; called and decoded as Hugging Face's tokenizers are."""

    vocab_size = 257
    mask_token_id = 256

    def __call__(self, text: str, return_tensors: str | None = None) -> dict[str, Any]:
        """Ids of a text: a list, or with `return_tensors="pt"` a tensor (1, length)."""
        ids = list(text.encode("utf-8"))
        return {"input_ids": torch.tensor([ids], dtype=torch.long) if return_tensors == "pt" else ids}

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """The text; masked places are left out, broken characters replaced."""
        return bytes(int(i) for i in ids if int(i) != self.mask_token_id).decode("utf-8", errors="replace")


def corpus(source: str | Path) -> tuple[Int[Tensor, " train"], Int[Tensor, " held_out"]]:
    """Bytes to train on and bytes held out.

    Args:
        source: "wikitext2" (its validation file to train on, its test file held out: the training split is not
            registered), "tinyshakespeare", or a text file; of the last two the last tenth is held out.

    Raises:
        ValueError: if the file is empty.
        OSError: if it cannot be read.
    """
    if source == "wikitext2":
        return _ids(wikitext2("valid").encode()), _ids(wikitext2("test").encode())
    raw = tiny_shakespeare().encode() if source == "tinyshakespeare" else Path(source).read_bytes()
    if len(raw) < 10:
        raise ValueError(f"{source} must hold at least 10 bytes, got {len(raw)}")
    cut = len(raw) - max(1, len(raw) // 10)
    return _ids(raw[:cut]), _ids(raw[cut:])


def _ids(raw: bytes) -> Tensor:
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8).long()
