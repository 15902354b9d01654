"""The sequence tasks of the paper as arrays, one function a task: splits, scaling and vocabulary decided here.

What a user must bring (CIFAR-10, IMDB, AAN, Pathfinder, Speech Commands, WikiText-103) is read in `archives`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from s4_impl import listops as listops_rules
from s4_impl import synthetic
from shared_impl import datasets
from shared_impl.data import DataError, cache_dir

__all__ = [
    "SequenceTask",
    "Split",
    "adding_task",
    "bit_reversal",
    "character_text",
    "content_hash",
    "copying_task",
    "delay_task",
    "digits_task",
    "encode_text",
    "etth1_task",
    "forecasting_windows",
    "listops_task",
    "mini_pathfinder_task",
    "pixel_mnist",
    "stratified_split",
]


@dataclass(frozen=True)
class Split:
    """Examples of one split, padded at the end.

    `inputs`: signals (n, length, channels), float32 or uint8 (pixels, scaled when a batch is made); tokens
    (n, length); pairs of token sequences (n, 2, length). `lengths`: where the padding begins, (n,) or (n, 2).
    """

    inputs: np.ndarray
    targets: np.ndarray
    lengths: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, index: np.ndarray | slice) -> "Split":
        return Split(self.inputs[index], self.targets[index], None if self.lengths is None else self.lengths[index])


@dataclass(frozen=True)
class SequenceTask:
    """A task with everything that a model has to be built for it."""

    name: str
    task: Literal["classify", "retrieve", "regress", "lm"]
    d_input: int
    d_output: int
    splits: Sequence[Split]
    """training, validation, test"""
    encoder: Literal["linear", "embedding"] = "linear"
    pooling: Literal["mean", "last", "none"] = "mean"
    horizon: int | None = None
    pixel_mean: Sequence[float] = (0.0,)
    pixel_std: Sequence[float] = (1.0,)
    vocabulary: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def train(self) -> Split:
        return self.splits[0]

    @property
    def val(self) -> Split:
        return self.splits[1]

    @property
    def test(self) -> Split:
        return self.splits[2]

    def limited(
        self, n_train: int | None = None, n_val: int | None = None, n_test: int | None = None
    ) -> "SequenceTask":
        """The same task with only the first examples of each split (they are in random order)."""

        sizes = (n_train, n_val, n_test)
        splits = [split if n is None else split.take(slice(n)) for split, n in zip(self.splits, sizes, strict=True)]
        return replace(self, splits=splits)


def stratified_split(
    labels: np.ndarray, fractions: tuple[float, float, float], seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of training, validation and test examples in random order, with every label in proportion.

    Raises:
        ValueError: if the fractions do not add up to 1.
    """
    if abs(sum(fractions) - 1) > 1e-9 or min(fractions) < 0:
        raise ValueError(f"fractions must be three shares that add up to 1, got {fractions}")
    rng = np.random.default_rng(seed)
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    for label in np.unique(labels):
        index = rng.permutation(np.flatnonzero(labels == label))
        first, second = round(fractions[0] * len(index)), round((fractions[0] + fractions[1]) * len(index))
        for part, piece in zip(parts, np.split(index, [first, second]), strict=True):
            part.append(piece)
    train, val, test = (rng.permutation(np.concatenate(part)) for part in parts)
    return train, val, test


def digits_task(seed: int = 0) -> SequenceTask:
    """The 1,797 handwritten digits that scikit-learn carries, 8x8, read pixel by pixel: 64 steps.

    Split 70/10/20 by label, fixed by `seed`.
    """
    digits = datasets.digits()
    images = digits.images.reshape(len(digits.labels), 64, 1).astype(np.float32)
    images = (images / images.max() - 0.5) / 0.5
    labels = digits.labels.astype(np.int64)
    splits = [Split(images[i], labels[i]) for i in stratified_split(labels, (0.7, 0.1, 0.2), seed)]
    sizes = "/".join(str(len(split)) for split in splits)
    return SequenceTask("digits", "classify", 1, 10, splits, notes=(f"digits: split {sizes} by label",))


def bit_reversal(n: int) -> np.ndarray:
    """The order of 0..n-1 by their reversed binary digits: the fixed permutation of the official permuted MNIST."""
    bits = max(1, (n - 1).bit_length())
    order = np.array([int(f"{i:0{bits}b}"[::-1], 2) for i in range(2**bits)])
    return order[order < n]


def pixel_mnist(*, permuted: bool = False, source: Literal["full", "t10k"] = "full", seed: int = 0) -> SequenceTask:
    """MNIST read pixel by pixel, 784 steps, in order or in bit-reversed order.

    `full` is MNIST's own training (54,000 and 6,000 for validation) and test set; `t10k` uses only MNIST's 10,000
    test images, split 8,000/1,000/1,000 by label, and its numbers cannot be set beside the paper's without saying so.

    Raises:
        DataError: if the files are neither at hand nor to be had.
    """
    order = bit_reversal(784) if permuted else np.arange(784)
    test_set = datasets.mnist("test")

    def sequences(images: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(images.reshape(-1, 784)[:, order, None])

    name = "pmnist" if permuted else "mnist"
    if source == "t10k":
        index = stratified_split(test_set.labels, (0.8, 0.1, 0.1), seed)
        splits = [Split(sequences(test_set.images[i]), test_set.labels[i].astype(np.int64)) for i in index]
        note = "MNIST: only its 10,000 test images, split 8,000/1,000/1,000 (the paper: 60,000 and 10,000)"
    else:
        train_set = datasets.mnist("train")
        train, val, _ = stratified_split(train_set.labels, (0.9, 0.1, 0.0), seed)
        splits = [
            *(Split(sequences(train_set.images[i]), train_set.labels[i].astype(np.int64)) for i in (train, val)),
            Split(sequences(test_set.images), test_set.labels.astype(np.int64)),
        ]
        note = "MNIST: the full set, a tenth of the training images for validation"
    return SequenceTask(name, "classify", 1, 10, splits, notes=(note,))


def listops_task(rules: listops_rules.ListOpsRules | None = None) -> SequenceTask:
    """ListOps as padded token arrays, an end-of-sequence token behind each expression."""
    rules = rules or listops_rules.ListOpsRules()

    def padded(data: listops_rules.ListOps) -> Split:
        lengths = data.lengths + 1
        inputs = np.zeros((len(data), int(lengths.max())), dtype=np.uint8)
        inputs[np.arange(inputs.shape[1]) < data.lengths[:, None]] = data.tokens
        inputs[np.arange(len(data)), data.lengths] = listops_rules.EOS
        return Split(inputs, data.targets.astype(np.int64), lengths)

    splits = [padded(part) for part in listops_rules.listops(rules, cache=cache_dir() / "s4")]
    vocabulary = listops_rules.VOCABULARY
    note = (
        f"ListOps: generated by the benchmark's rules, lengths {rules.min_length} to {rules.max_length}, "
        f"{rules.n_train:,}/{rules.n_val:,}/{rules.n_test:,} expressions"
    )
    return SequenceTask(
        "listops", "classify", len(vocabulary), 10, splits, encoder="embedding", vocabulary=vocabulary, notes=(note,)
    )


_HOURS_A_MONTH = 30 * 24


def forecasting_windows(
    series: np.ndarray, start: int, stop: int, *, context: int, horizon: int, stride: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Windows whose forecast lies within [start, stop): inputs (n, context, channels), targets (n, horizon, channels).

    The context may reach back before `start`, as it would in use; the forecast never leaves the split.
    """
    first = max(start, context)
    origins = np.arange(first, stop - horizon + 1, stride)
    if len(origins) == 0:
        raise ValueError(
            f"context {context} and horizon {horizon} leave no window between {start} and {stop} of {len(series)} steps"
        )
    past = origins[:, None] + np.arange(-context, 0)
    future = origins[:, None] + np.arange(horizon)
    return series[past].astype(np.float32), series[future].astype(np.float32)


def etth1_task(
    *, context: int = 336, horizon: int = 24, multivariate: bool = False, stride: int = 1, relative: bool = True
) -> SequenceTask:
    """Forecasting ETTh1, hourly: 12 months for training, 4 for validation, 4 for testing, in this order.

    Univariate is the column OT. Values are standardised by the mean and standard deviation of the training months
    alone. The model sees the context followed by `horizon` zeros and answers at those last positions. With `relative`,
    the last value of the context is taken off the whole window, so that the forecast is of the change from it; errors
    are the same numbers either way. The paper forecasts the values themselves.
    """
    table = datasets.ett("ETTh1")
    columns = list(table.columns)
    values = table.values if multivariate else table.values[:, [columns.index("OT")]]
    ends = [12 * _HOURS_A_MONTH, 16 * _HOURS_A_MONTH, 20 * _HOURS_A_MONTH]
    scaled = (values - values[: ends[0]].mean(axis=0)) / values[: ends[0]].std(axis=0)
    splits = []
    for start, stop, step in zip([0, *ends[:2]], ends, (stride, 1, 1), strict=True):
        past, future = forecasting_windows(scaled, start, stop, context=context, horizon=horizon, stride=step)
        if relative:
            last = past[:, -1:].copy()
            past, future = past - last, future - last
        blank = np.zeros((len(past), horizon, past.shape[2]), dtype=np.float32)
        splits.append(Split(np.concatenate([past, blank], axis=1), future))
    channels = values.shape[1]
    note = (
        f"ETTh1: 12/4/4 months, standardised by the training months, "
        f"{'all columns' if multivariate else 'column OT'}, context {context}"
    )
    return SequenceTask(
        f"etth1-{horizon}" + ("" if relative else ", values"),
        "regress", channels, channels, splits, pooling="none", horizon=horizon, notes=(note,),
    )  # fmt: skip


def encode_text(text: str, vocabulary: Sequence[str]) -> np.ndarray:
    """Indices of the characters of `text`.

    Raises:
        DataError: if a character is not in the vocabulary.
    """
    index = {character: i for i, character in enumerate(vocabulary)}
    unknown = sorted(set(text) - set(index))
    if unknown:
        raise DataError(f"text has characters that the model has not learnt: {''.join(unknown)!r}")
    return np.array([index[character] for character in text], dtype=np.int64)


def character_text(*, length: int = 256, text: str | None = None) -> SequenceTask:
    """Next-character prediction: windows of tiny Shakespeare (or `text`), the last tenth split for val and test."""
    text = datasets.tiny_shakespeare() if text is None else text
    vocabulary = tuple(sorted(set(text)))
    codes = encode_text(text, vocabulary)
    first, second = int(0.9 * len(codes)), int(0.95 * len(codes))
    splits = []
    for part in (codes[:first], codes[first:second], codes[second:]):
        n = (len(part) - 1) // length
        if n < 1:
            raise DataError(f"the text is too short for windows of {length}: {len(text)} characters")
        splits.append(Split(part[: n * length].reshape(n, length), part[1 : n * length + 1].reshape(n, length)))
    return SequenceTask(
        "chars", "lm", len(vocabulary), len(vocabulary), splits,
        encoder="embedding", pooling="none", vocabulary=vocabulary,
    )  # fmt: skip


def delay_task(
    *,
    length: int = 512,
    lag: int = 200,
    bandwidth: float | None = None,
    n_train: int = 1024,
    n_eval: int = 128,
    seed: int = 0,
) -> SequenceTask:
    """Remember a signal for `lag` steps: the target is the input, delayed."""
    rng = np.random.default_rng(seed)
    splits = [
        Split(*synthetic.delay(rng, n, length=length, lag=lag, bandwidth=bandwidth)) for n in (n_train, n_eval, n_eval)
    ]
    return SequenceTask("delay", "regress", 1, 1, splits, pooling="none")


def adding_task(*, length: int = 1000, n_train: int = 10_000, n_eval: int = 1000, seed: int = 0) -> SequenceTask:
    """The adding problem: one number at the end."""
    rng = np.random.default_rng(seed)
    splits = [Split(*synthetic.adding(rng, n, length=length)) for n in (n_train, n_eval, n_eval)]
    return SequenceTask("adding", "regress", 2, 1, splits, pooling="mean")


def copying_task(
    *, length: int = 100, n_memorize: int = 10, n_train: int = 10_000, n_eval: int = 1000, seed: int = 0
) -> SequenceTask:
    """The copying task: the model writes the remembered tokens at the last positions."""
    rng = np.random.default_rng(seed)
    splits = [
        Split(*synthetic.copying(rng, n, length=length, n_memorize=n_memorize)) for n in (n_train, n_eval, n_eval)
    ]
    return SequenceTask("copying", "lm", 10, 10, splits, encoder="embedding", pooling="none", horizon=n_memorize)


def mini_pathfinder_task(*, size: int = 16, n_train: int = 8000, n_eval: int = 1000, seed: int = 0) -> SequenceTask:
    """The generated small Pathfinder, read pixel by pixel."""
    rng = np.random.default_rng(seed)
    splits = []
    for n in (n_train, n_eval, n_eval):
        images, labels = synthetic.mini_pathfinder(rng, n, size=size, n_distractors=size // 8)
        splits.append(Split(images.reshape(n, size * size, 1), labels))
    note = f"mini-Pathfinder: generated, {size}x{size}; not the benchmark's data set"
    return SequenceTask("mini-pathfinder", "classify", 1, 2, splits, pixel_mean=(0.5,), pixel_std=(0.5,), notes=(note,))


def content_hash(task: SequenceTask) -> str:
    """SHA-256 over all arrays of a task: two runs with the same hash saw the same data."""
    digest = hashlib.sha256()
    for split in task.splits:
        for array in (split.inputs, split.targets, split.lengths):
            if array is not None:
                digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
