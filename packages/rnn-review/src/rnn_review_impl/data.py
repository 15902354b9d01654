"""Real data of the survey's examples: spoken digits, on-line handwriting (IAM) and sentence pairs, from folders.

Nothing is downloaded here: licences and sizes leave that to the reader, and what is missing is said.
"""

import math
import os
import wave
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .checks import check_positive

__all__ = ["Pairs", "Recordings", "concatenated", "filterbank", "iam_strokes", "parallel_text", "spoken_digits"]


class Recordings(NamedTuple):
    """Sequences of unequal lengths, (frames, features) each, and a label each."""

    sequences: list[np.ndarray]
    labels: np.ndarray
    speakers: list[str]


def filterbank(
    samples: np.ndarray, rate: int, *, bands: int = 20, frame: float = 0.025, hop: float = 0.010
) -> np.ndarray:
    """Logarithm of the energies in mel bands, a row every `hop` seconds: (frames, bands).

    Raises:
        ValueError: no samples, or a rate that is not positive.
    """
    check_positive(rate=rate, bands=bands, frame=frame, hop=hop)
    if samples.ndim != 1 or not len(samples):
        raise ValueError(f"samples must be a row of numbers, got shape {samples.shape}")
    size, stride = max(2, round(frame * rate)), max(1, round(hop * rate))
    padded = np.pad(samples.astype(np.float64), (0, max(0, size - len(samples))))
    windows = np.lib.stride_tricks.sliding_window_view(padded, size)[::stride] * np.hamming(size)
    n_fft = 1 << (size - 1).bit_length()
    power = np.square(np.abs(np.fft.rfft(windows, n_fft))) / n_fft
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    at = np.linspace(0, rate / 2, power.shape[1])
    low, mid, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    weights = np.clip(np.minimum((at - low) / (mid - low), (high - at) / (high - mid)), 0, None)
    found: np.ndarray = np.log(power @ weights.T + 1e-10)
    return found


def _read_wave(path: Path) -> tuple[np.ndarray, int]:
    try:
        with wave.open(str(path), "rb") as file:
            if file.getsampwidth() != 2 or file.getnchannels() != 1:
                raise ValueError(f"{path} must be 16-bit mono, got {file.getnchannels()} channels")
            data = file.readframes(file.getnframes())
            return np.frombuffer(data, dtype="<i2").astype(np.float64) / 32768, file.getframerate()
    except (wave.Error, EOFError) as error:
        raise ValueError(f"{path} must be a WAV file: {error}") from error


def spoken_digits(split: str = "train", *, folder: Path | None = None) -> Recordings:
    """The Free Spoken Digit Dataset, `{digit}_{speaker}_{index}.wav`, as 20 mel bands a frame of 10 ms.

    The authors' split: recordings 0 to 4 of each digit and speaker test, the others train. Each recording's bands
    have mean 0 and the deviation 1 over its own frames.

    Args:
        folder: of the recordings; default: `fsdd_small/recordings` in the folder that IMPL_DATA_DIR names.

    Raises:
        ValueError: an unknown split, no recordings, or a file that is no WAV.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be train or test, got {split!r}")
    if folder is None:
        folder = Path(os.environ.get("IMPL_DATA_DIR", "data")) / "fsdd_small" / "recordings"
    sequences, labels, speakers = [], [], []
    for path in sorted(folder.glob("*_*_*.wav")):
        parts = path.stem.split("_")
        if len(parts) != 3 or not (parts[0].isdigit() and parts[2].isdigit()):
            raise ValueError(f"{path} must be named digit_speaker_index.wav")
        if (int(parts[2]) < 5) != (split == "test"):
            continue
        bands = filterbank(*_read_wave(path))
        sequences.append(((bands - bands.mean(0)) / (bands.std(0) + 1e-3)).astype(np.float32))
        labels.append(int(parts[0]))
        speakers.append(parts[1])
    if not sequences:
        raise ValueError(f"folder must hold recordings digit_speaker_index.wav of the {split} split, got {folder}")
    return Recordings(sequences, np.array(labels), speakers)


def concatenated(
    recordings: Recordings, n: int, rng: np.random.Generator, *, least: int = 2, most: int = 4
) -> tuple[list[np.ndarray], list[list[int]]]:
    """Strings of digits by one speaker each, recording after recording, and their labels: where one ends is not told.

    Raises:
        ValueError: numbers that are not positive.
    """
    check_positive(n=n, least=least)
    speakers = np.array(recordings.speakers)
    sequences, labels = [], []
    for _ in range(n):
        own = np.flatnonzero(speakers == rng.choice(recordings.speakers))
        drawn = rng.choice(own, rng.integers(least, most + 1))
        sequences.append(np.concatenate([recordings.sequences[i] for i in drawn]))
        labels.append([int(recordings.labels[i]) for i in drawn])
    return sequences, labels


def iam_strokes(path: Path) -> tuple[np.ndarray, str]:
    """A line of the IAM On-Line Handwriting Database: (points, 4) of x, y, time and pen up, and its text.

    Each point is given relative to the one before; the last of a stroke has pen up 1. The database needs registration
    and is not downloaded.

    Raises:
        ValueError: the file is no such XML, or has no strokes.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise ValueError(f"{path} must be an XML file of the database: {error}") from error
    rows = []
    for stroke in root.iter("Stroke"):
        points = [[float(point.get(key, "nan")) for key in ("x", "y", "time")] for point in stroke.iter("Point")]
        rows += [[*point, float(i == len(points) - 1)] for i, point in enumerate(points)]
    table = np.array(rows).reshape(-1, 4)
    if not len(table) or not np.isfinite(table).all():
        raise ValueError(f"{path} must have strokes of points with x, y and time, got {len(table)} points")
    table[1:, :3] = np.diff(table[:, :3], axis=0)
    table[0, :3] = 0
    line = next((node.get("text", "") for node in root.iter("TextLine")), "")
    return table, line


class Pairs(NamedTuple):
    """Sentence pairs as ids: 0 padding, 1 begin, 2 end, 3 unknown."""

    sources: list[list[int]]
    targets: list[list[int]]
    source_symbols: list[str]
    target_symbols: list[str]


def parallel_text(
    source: Path, target: Path, *, vocabulary: int = 80_000, source_vocabulary: int = 160_000, longest: int = 80
) -> Pairs:
    """Two files of as many lines (WMT's form), tokens between blanks; the most frequent words, the others unknown.

    The sizes are Sutskever's. Pairs with an empty or too long side are left out.

    Raises:
        ValueError: unequal numbers of lines, or nothing left.
    """
    check_positive(vocabulary=vocabulary, source_vocabulary=source_vocabulary, longest=longest)
    left, right = ([line.split() for line in p.read_text(encoding="utf-8").splitlines()] for p in (source, target))
    if len(left) != len(right):
        raise ValueError(f"source and target must have equally many lines, got {len(left)} and {len(right)}")
    kept = [(a, b) for a, b in zip(left, right, strict=True) if 0 < len(a) <= longest and 0 < len(b) <= longest]
    if not kept:
        raise ValueError(f"source and target must have a pair of 1 to {longest} words, got {len(left)} lines")
    sources, source_symbols = _indexed([a for a, _ in kept], source_vocabulary)
    targets, target_symbols = _indexed([b for _, b in kept], vocabulary)
    return Pairs(sources, [[*ids, 2] for ids in targets], source_symbols, target_symbols)


def _indexed(lines: Sequence[Sequence[str]], size: int) -> tuple[list[list[int]], list[str]]:
    counts = Counter(word for line in lines for word in line)
    ordered = sorted(counts, key=lambda word: (-counts[word], word))[: max(0, size - 4)]
    symbols = ["<pad>", "<s>", "</s>", "<unk>", *ordered]
    place = {word: i for i, word in enumerate(symbols)}
    return [[place.get(word, 3) for word in line] for line in lines], symbols
