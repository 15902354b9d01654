"""Small cross-encoders and dual encoders, and how they are trained (section 2.1)."""

import re
import zlib
from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor, nn

from shared_impl.pretrained import Pretrained

__all__ = [
    "ClsCrossEncoder",
    "CrossEncoder",
    "DualEncoder",
    "EmbCrossEncoder",
    "PairBatch",
    "TextEncoder",
    "pair_batch",
    "word_ids",
]

WORD = re.compile(r"\w+")
PAD, CLS, QUERY, QUERY_END, ITEM = range(5)
SPECIAL = 5


def word_ids(text: str, vocabulary: int, most: int) -> list[int]:
    """Numbers of the words of a text, by hashing: no vocabulary has to be kept."""
    words = WORD.findall(text.lower())[:most]
    return [SPECIAL + zlib.crc32(word.encode()) % (vocabulary - SPECIAL) for word in words]


class PairBatch:
    """Pairs as tensors: [CLS] [QUERY] words [QUERY_END] [ITEM] words, padded at the end."""

    def __init__(
        self,
        ids: Int[Tensor, "pairs length"],
        segments: Int[Tensor, "pairs length"],
        shared: Int[Tensor, "pairs length"],
        query_end: Int[Tensor, "pairs"],
    ) -> None:
        self.ids, self.segments, self.shared, self.query_end = ids, segments, shared, query_end

    def to(self, device: torch.device | str) -> "PairBatch":
        """On a device."""
        parts = (self.ids, self.segments, self.shared, self.query_end)
        return PairBatch(*(part.to(device) for part in parts))


def pair_batch(
    queries: Sequence[Sequence[int]], items: Sequence[Sequence[int]], *, length: int | None = None
) -> PairBatch:
    """Put pairs of word numbers together; `shared` marks words that stand in both texts.

    Args:
        length: pad to this instead of to the longest.
    """
    lengths = np.array([4 + len(q) + len(i) for q, i in zip(queries, items, strict=True)])
    width = int(lengths.max()) if length is None else length
    ids = np.zeros((len(queries), width), dtype=np.int64)
    segments, shared = np.zeros_like(ids), np.zeros_like(ids)
    ends = np.empty(len(queries), dtype=np.int64)
    for row, (query, item) in enumerate(zip(queries, items, strict=True)):
        n = len(query)
        ids[row, : lengths[row]] = [CLS, QUERY, *query, QUERY_END, ITEM, *item]
        segments[row, n + 3 : lengths[row]] = 1
        both = set(query) & set(item)
        if both:
            shared[row] = np.isin(ids[row], list(both))
        ends[row] = n + 2
    return PairBatch(*(torch.from_numpy(part) for part in (ids, segments, shared, ends)))


class TextEncoder(nn.Module):
    """A small Transformer encoder (pre-norm), with learned positions and marks for segment and shared words."""

    def __init__(self, *, d_model: int, n_layers: int, n_heads: int, vocabulary: int, max_length: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, d_model, padding_idx=PAD)
        self.positions = nn.Embedding(max_length, d_model)
        self.segments = nn.Embedding(2, d_model)
        self.shared = nn.Embedding(2, d_model)
        for table in (self.words, self.positions, self.segments, self.shared):
            nn.init.normal_(table.weight, std=0.3 if table is self.words else 0.1)
        self.blocks = nn.ModuleList(_Block(d_model, n_heads) for _ in range(n_layers))
        self.norm = nn.LayerNorm(d_model)

    def forward(
        self,
        ids: Int[Tensor, "texts length"],
        segments: Int[Tensor, "texts length"] | None = None,
        shared: Int[Tensor, "texts length"] | None = None,
    ) -> Float[Tensor, "texts length d_model"]:
        """Final states; those of the padding mean nothing."""
        x = self.words(ids) + self.positions.weight[: ids.shape[1]]
        if segments is not None:
            x = x + self.segments(segments)
        if shared is not None:
            x = x + self.shared(shared)
        mask = (ids != PAD)[:, None, None, :]
        for block in self.blocks:
            x = block(x, mask)
        return cast(Tensor, self.norm(x))


class _Block(nn.Module):
    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.up, self.down = nn.Linear(d_model, 2 * d_model), nn.Linear(2 * d_model, d_model)

    def forward(self, x: Tensor, mask: Bool[Tensor, "texts 1 1 length"]) -> Tensor:
        batch, length, d_model = x.shape
        parts = self.qkv(self.norm1(x)).view(batch, length, 3, self.n_heads, d_model // self.n_heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, d_model))
        return x + cast(Tensor, self.down(F.gelu(self.up(self.norm2(x)))))


class CrossEncoder(nn.Module, Pretrained):
    """Scores a pair by reading both texts together; a scorer as it stands: `model(queries, items)`.

    `save_pretrained(folder)` and `from_pretrained(folder)` write and read safetensors and JSON.
    """

    def __init__(
        self,
        *,
        d_model: int = 64,
        n_layers: int = 2,
        n_heads: int = 4,
        vocabulary: int = 8192,
        max_query_words: int = 16,
        max_item_words: int = 40,
    ) -> None:
        super().__init__()
        if d_model % n_heads:
            raise ValueError(f"d_model must be a multiple of n_heads, got {d_model} and {n_heads}")
        if vocabulary <= SPECIAL:
            raise ValueError(f"vocabulary must be greater than {SPECIAL}, got {vocabulary}")
        self.vocabulary = vocabulary
        self.max_query_words, self.max_item_words = max_query_words, max_item_words
        self.encoder = TextEncoder(
            d_model=d_model, n_layers=n_layers, n_heads=n_heads, vocabulary=vocabulary,
            max_length=4 + max_query_words + max_item_words,
        )  # fmt: skip

    def score(self, batch: PairBatch) -> Float[Tensor, "pairs"]:
        """Scores of a batch, with gradients."""
        states = self.encoder(batch.ids, batch.segments, batch.shared)
        return self.head(states, batch.query_end)

    def head(
        self, states: Float[Tensor, "pairs length d_model"], query_end: Int[Tensor, "pairs"]
    ) -> Float[Tensor, "pairs"]:
        """From the states to the score."""
        raise NotImplementedError

    def tokens(self, texts: Sequence[str], which: Literal["query", "item"]) -> list[list[int]]:
        """Word numbers of texts."""
        most = self.max_query_words if which == "query" else self.max_item_words
        return [word_ids(text, self.vocabulary, most) for text in texts]

    @torch.no_grad()
    def forward(self, queries: Sequence[str], items: Sequence[str]) -> Float[ndarray, "pairs"]:
        """Scores of pairs of texts, in evaluation mode."""
        device = next(self.parameters()).device
        was_training = self.training
        self.eval()
        # an attention over more or fewer padded places rounds otherwise: one length for all, and scores never change
        length = 4 + self.max_query_words + self.max_item_words
        scores = []
        for start in range(0, len(queries), 256):
            part = slice(start, start + 256)
            batch = pair_batch(self.tokens(queries[part], "query"), self.tokens(items[part], "item"), length=length)
            scores.append(self.score(batch.to(device)).double().cpu().numpy())
        self.train(was_training)
        return np.concatenate(scores) if scores else np.empty(0)

    @torch.no_grad()
    def score_matrix(
        self, queries: Sequence[str], items: Sequence[str], *, progress: Any = None
    ) -> Float[ndarray, "queries items"]:
        """Scores of every pair, with items sorted by length so that little is padded; float32.

        Args:
            progress: called with the number of queries done.
        """
        device = next(self.parameters()).device
        self.eval()
        words = self.tokens(items, "item")
        order = np.argsort([len(w) for w in words], kind="stable")
        table = np.empty((len(queries), len(items)), dtype=np.float32)
        for row, query in enumerate(self.tokens(queries, "query")):
            for start in range(0, len(order), 512):
                part = order[start : start + 512]
                batch = pair_batch([query] * len(part), [words[i] for i in part])
                table[row, part] = self.score(batch.to(device)).cpu().numpy()
            if progress is not None:
                progress(row + 1)
        return table


class ClsCrossEncoder(CrossEncoder):
    """[CLS]-CE: a linear function of the state at the first place."""

    def __init__(self, *, d_model: int = 64, **options: Any) -> None:
        super().__init__(d_model=d_model, **options)
        self.linear = nn.Linear(d_model, 1)

    def head(
        self, states: Float[Tensor, "pairs length d_model"], query_end: Int[Tensor, "pairs"]
    ) -> Float[Tensor, "pairs"]:
        """w · state of [CLS] + b."""
        return self.linear(states[:, 0]).squeeze(-1)


class EmbCrossEncoder(CrossEncoder):
    """[EMB]-CE: both texts are read together, then the score is the dot product of a vector of the query (mean of the
    states at its two marks) and one of the item (state at its mark): the matrix of scores is nearer to low rank."""

    def __init__(self, *, d_model: int = 64, **options: Any) -> None:
        super().__init__(d_model=d_model, **options)

    def head(
        self, states: Float[Tensor, "pairs length d_model"], query_end: Int[Tensor, "pairs"]
    ) -> Float[Tensor, "pairs"]:
        """<query vector, item vector> / sqrt(d_model)."""
        rows = torch.arange(len(states), device=states.device)
        query = (states[:, 1] + states[rows, query_end]) / 2
        item = states[rows, query_end + 1]
        return (query * item).sum(-1) / states.shape[-1] ** 0.5


class DualEncoder(nn.Module, Pretrained):
    """A vector each for queries and items, by one encoder; their dot product is the score. The mean of the states."""

    def __init__(
        self,
        *,
        d_model: int = 64,
        n_layers: int = 1,
        n_heads: int = 4,
        vocabulary: int = 8192,
        max_words: int = 40,
    ) -> None:
        super().__init__()
        self.vocabulary, self.max_words = vocabulary, max_words
        self.encoder = TextEncoder(
            d_model=d_model, n_layers=n_layers, n_heads=n_heads, vocabulary=vocabulary, max_length=max_words + 1
        )

    def embed(
        self, ids: Int[Tensor, "texts length"], which: Literal["query", "item"]
    ) -> Float[Tensor, "texts d_model"]:
        """Vectors, with gradients."""
        states = self.encoder(ids, torch.full_like(ids, int(which == "item")))
        mask = (ids != PAD).unsqueeze(-1)
        return (states * mask).sum(1) / mask.sum(1)

    def batch(self, texts: Sequence[str]) -> Int[Tensor, "texts length"]:
        """Texts as word numbers behind [CLS], padded."""
        words = [[CLS, *word_ids(text, self.vocabulary, self.max_words)] for text in texts]
        ids = torch.zeros(len(words), max(map(len, words), default=1), dtype=torch.int64)
        for row, numbers in enumerate(words):
            ids[row, : len(numbers)] = torch.tensor(numbers)
        return ids

    @torch.no_grad()
    def forward(self, texts: Sequence[str], which: Literal["query", "item"]) -> Float[ndarray, "texts d_model"]:
        """Vectors in evaluation mode: what `BiEncoderRetriever` takes as `encode`."""
        self.eval()
        device = next(self.parameters()).device
        parts = [self.embed(self.batch(texts[i : i + 512]).to(device), which) for i in range(0, len(texts), 512)]
        return torch.cat(parts).cpu().numpy()
