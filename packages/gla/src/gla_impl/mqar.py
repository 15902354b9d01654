"""Multi-query associative recall (Zoology, arXiv 2312.04927), by the rules of the original generator.

A sequence opens with pairs (key, value), every key and value once; later each key is asked again, and the model must
answer with its value. Everything else is filler. Attention solves it; a recurrent model must keep the pairs in
its state.
"""

from dataclasses import dataclass

import numpy as np

__all__ = ["MQARData", "mqar_data"]


@dataclass(frozen=True)
class MQARData:
    """Token ids and, at each query, the value that should follow; -100 elsewhere. Both int64 (examples, length)."""

    inputs: np.ndarray
    targets: np.ndarray


def mqar_data(
    n_examples: int,
    *,
    vocab_size: int = 8192,
    seq_len: int = 64,
    n_pairs: int = 8,
    power: float = 0.01,
    random_filler: bool = True,
    seed: int = 0,
) -> MQARData:
    """Generate sequences.

    Keys are drawn from [1, V/2) and values from [V/2, V), without repetition in a sequence. Queries stand at even
    distances 2 g after the pairs, g without repetition and with probability proportional to power * (g+1)^(power-1).

    Args:
        n_examples: sequences.
        vocab_size: V. Large vocabularies (8192) are what tells architectures apart.
        seq_len: even, at least 4 n_pairs.
        n_pairs: pairs in a sequence, each asked once.
        power: the smaller, the sooner a key is asked after the pairs.
        random_filler: filler is drawn from the whole vocabulary; otherwise it is token 0.
        seed: of the generator.

    Raises:
        ValueError: if the sizes do not fit.
    """
    if n_examples < 1 or n_pairs < 1:
        raise ValueError(f"n_examples and n_pairs must be at least 1, got {n_examples} and {n_pairs}")
    if seq_len % 2 or seq_len < 4 * n_pairs:
        raise ValueError(f"seq_len must be even and at least 4 * n_pairs = {4 * n_pairs}, got {seq_len}")
    if vocab_size // 2 - 1 < n_pairs:
        raise ValueError(f"vocab_size must be at least 2 * (n_pairs + 1) = {2 * (n_pairs + 1)}, got {vocab_size}")
    if power <= 0:
        raise ValueError(f"power must be positive, got {power}")
    rng = np.random.default_rng(seed)
    half, context = vocab_size // 2, 2 * n_pairs
    slots = (seq_len - context) // 2
    log_weight = (power - 1) * np.log(np.arange(1, slots + 1))

    inputs = np.zeros((n_examples, seq_len), dtype=np.int64)
    targets = np.full((n_examples, seq_len), -100, dtype=np.int64)
    # in pieces, because a random number for every possible key of every sequence is drawn
    piece = max(1, 4_000_000 // vocab_size)
    for start in range(0, n_examples, piece):
        rows = slice(start, min(start + piece, n_examples))
        count = rows.stop - rows.start
        keys = 1 + _draw(rng, count, np.zeros(half - 1), n_pairs)
        values = half + _draw(rng, count, np.zeros(vocab_size - half), n_pairs)
        places = context + 2 * _draw(rng, count, log_weight, n_pairs)
        inputs[rows, 0:context:2] = keys
        inputs[rows, 1:context:2] = values
        np.put_along_axis(inputs[rows], places, keys, axis=1)
        np.put_along_axis(targets[rows], places, values, axis=1)
    if random_filler:
        empty = inputs == 0
        inputs[empty] = rng.integers(0, vocab_size, size=int(empty.sum()))
    return MQARData(inputs, targets)


def _draw(rng: np.random.Generator, rows: int, log_weight: np.ndarray, n: int) -> np.ndarray:
    """For every row n different indices in the order drawn, each next one in proportion to its weight.

    Adding Gumbel noise to log weights and sorting is the same as drawing one after another without replacement.
    """
    noisy = -(log_weight + rng.gumbel(size=(rows, len(log_weight))))
    first = np.argpartition(noisy, n - 1, axis=1)[:, :n]
    order = np.take_along_axis(noisy, first, axis=1).argsort(axis=1)
    return np.take_along_axis(first, order, axis=1)
