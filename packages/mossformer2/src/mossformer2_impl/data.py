"""Recordings of single speakers, generated talkers, and lists of mixtures that others have made."""

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy.signal
from numpy import ndarray

from shared_impl.data import DataError

from .audio import read_sound

__all__ = [
    "Listed",
    "Mixtures",
    "read_librimix",
    "read_listed",
    "read_scp",
    "read_speakers",
    "spoken_digits",
    "talkers",
]

Speakers = Mapping[str, Sequence[ndarray]]
"""name to recordings"""
HELD_OUT = ("theo", "lucas")
"""speakers of the speaker-disjoint test of the spoken digits"""


def spoken_digits(
    part: Literal["train", "test"] = "train", *, by: Literal["recording", "speaker"] = "recording",
    folder: Path | None = None,
) -> dict[str, list[ndarray]]:  # fmt: skip
    """The Free Spoken Digit Dataset, `{digit}_{speaker}_{index}.wav` at 8 kHz, by speaker.

    Args:
        by: "recording": the authors' split, indexes 0 to 4 test and the others train, of all speakers; "speaker":
            theo and lucas test (all recordings), the others train.
        folder: of the recordings; default: `fsdd_small/recordings` in the folder that IMPL_DATA_DIR names.

    Raises:
        ValueError: an unknown part or split, or no recordings.
        DataError: a file that is no sound.
    """
    if part not in ("train", "test"):
        raise ValueError(f"part must be train or test, got {part!r}")
    if by not in ("recording", "speaker"):
        raise ValueError(f"by must be recording or speaker, got {by!r}")
    place = folder or Path(os.environ.get("IMPL_DATA_DIR", "data")) / "fsdd_small" / "recordings"
    found: dict[str, list[ndarray]] = {}
    for path in sorted(place.glob("*_*_*.wav")):
        digit, speaker, index = path.stem.split("_")[:3]
        if not (digit.isdigit() and index.isdigit()):
            raise DataError(f"{path} must be named digit_speaker_index.wav")
        tested = int(index) < 5 if by == "recording" else speaker in HELD_OUT
        if tested == (part == "test"):
            found.setdefault(speaker, []).append(read_sound(path, 8000)[0])
    if not found:
        raise ValueError(f"folder must hold recordings digit_speaker_index.wav of the {part} part, got {place}")
    return found


def read_speakers(folder: Path, sr: int, *, mix_down: bool = False) -> dict[str, list[ndarray]]:
    """Sound files of speakers: a subfolder for each, or `speaker-name.wav`, `speaker_name.wav` side by side.

    Raises:
        DataError: fewer than two speakers, or a file that is no sound.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder")
    found: dict[str, list[ndarray]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in (".wav", ".flac", ".ogg") or not path.is_file():
            continue
        own = path.relative_to(folder).parts
        speaker = own[0] if len(own) > 1 else path.stem.replace("-", "_").partition("_")[0]
        found.setdefault(speaker, []).append(read_sound(path, sr, mix_down=mix_down)[0])
    if len(found) < 2:
        names = ", ".join(found) or "none"
        raise DataError(f"{folder} must hold recordings of at least two speakers (a subfolder each), got {names}")
    return found


def talkers(
    n: int = 40, *, seconds: float = 1.0, sr: int = 8000, seed: int = 0,
    pitches: Sequence[tuple[float, float]] = ((80.0, 160.0), (180.0, 300.0)),
) -> dict[str, list[ndarray]]:  # fmt: skip
    """Generated talkers: harmonics of a wandering pitch through formants, with syllables; `n` recordings of each.

    Args:
        pitches: lowest and highest of each talker, in Hz.

    Raises:
        ValueError: a number out of range.
    """
    if n < 1 or sr < 1000 or not seconds > 0:
        raise ValueError(f"n, sr (from 1000) and seconds must be positive, got {n}, {sr} and {seconds}")
    rng = np.random.default_rng(seed)
    found: dict[str, list[ndarray]] = {}
    samples = round(seconds * sr)
    time = np.arange(samples) / sr
    for low, high in pitches:
        if not 0 < low < high < sr / 2:
            raise ValueError(f"pitches must rise and be below half the rate, got {low} and {high}")
        own = found.setdefault(f"{low:g} to {high:g} Hz", [])
        for _ in range(n):
            knots = rng.uniform(low, high, max(2, round(3 * seconds) + 1))
            pitch = np.interp(time, np.linspace(0, seconds, len(knots)), knots)
            phase = 2 * np.pi * np.cumsum(pitch) / sr
            wave = np.zeros(samples)
            for harmonic in range(1, int(0.45 * sr / low)):
                heard = harmonic * pitch < 0.45 * sr
                wave += heard * np.sin(harmonic * phase + rng.uniform(0, 2 * np.pi)) / harmonic
            for centre in (rng.uniform(300, 800), rng.uniform(900, 2200), rng.uniform(2300, 0.4 * sr)):
                b, a = scipy.signal.iirpeak(min(centre, 0.45 * sr), 5, fs=sr)
                wave = wave + 2 * scipy.signal.lfilter(b, a, wave)
            syllables = 0.5 - 0.5 * np.cos(2 * np.pi * rng.uniform(2, 4) * time + rng.uniform(0, 2 * np.pi))
            wave *= np.clip(1.6 * syllables - 0.2, 0, 1)
            own.append((wave / (np.sqrt((wave**2).mean()) + 1e-9) * 0.1).astype(np.float32))
    return found


# Mixtures from lists -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Listed:
    """A mixture and its sources as files."""

    mixture: Path
    sources: tuple[Path, ...]


def read_librimix(path: Path, root: Path | None = None) -> list[Listed]:
    """The rows of a LibriMix metadata file: `mixture_path`, `source_1_path`, `source_2_path`, ...

    Args:
        root: what relative paths are relative to; default: the folder of the file.

    Raises:
        DataError: missing, no such columns, or no rows.
    """
    rows: list[Listed] = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            names = [name for name in table.fieldnames or [] if name.startswith("source_") and name.endswith("_path")]
            if "mixture_path" not in (table.fieldnames or []) or not names:
                raise DataError(f"{path} must have columns mixture_path and source_1_path")
            for row in table:
                if not all(row.get(name) for name in ("mixture_path", *names)):
                    raise DataError(f"{path}, line {table.line_num}: a path is missing")
                place = root or path.parent
                rows.append(Listed(place / row["mixture_path"], tuple(place / row[name] for name in names)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no table: {error}") from error
    if not rows:
        raise DataError(f"{path} has no rows")
    return rows


def read_scp(path: Path, root: Path | None = None) -> list[Listed]:
    """Lines of paths: mixture, then a source each, as WSJ0-mix lists them; the same number on every line.

    Raises:
        DataError: missing, empty, or lines of unequal or too few paths.
    """
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no list: {error}") from error
    if not lines:
        raise DataError(f"{path} has no lines")
    place = root or path.parent
    for number, line in enumerate(lines, 1):
        if len(line) < 2 or len(line) != len(lines[0]):
            raise DataError(f"{path}, line {number}: must have a mixture and its sources, as line 1, got {len(line)}")
    return [Listed(place / line[0], tuple(place / name for name in line[1:])) for line in lines]


def read_folders(folder: Path) -> list[Listed]:
    """Files of one name in `mix` (or `mix_clean`) and `s1`, `s2`, ..., as WSJ0-mix and LibriMix lay them out."""
    mixed = next((folder / name for name in ("mix", "mix_clean", "mix_both") if (folder / name).is_dir()), None)
    parts = sorted(path for path in folder.glob("s[0-9]*") if path.is_dir())
    if mixed is None or not parts:
        raise DataError(f"{folder} must hold folders mix and s1, s2, ...")
    rows = [Listed(path, tuple(part / path.name for part in parts)) for path in sorted(mixed.glob("*.wav"))]
    if not rows:
        raise DataError(f"{mixed} holds no WAV files")
    return rows


class Mixtures(Sequence[tuple[ndarray, ndarray]]):
    """Mixtures (samples,) and sources (n, samples) of files that are read when they are asked for, cut to the shortest
    file of a row.

    Raises:
        DataError: a file that is missing or, when it is read, no sound.
    """

    def __init__(self, rows: Sequence[Listed], sr: int) -> None:
        self.rows, self.sr = list(rows), sr
        for row in self.rows:
            for path in (row.mixture, *row.sources):
                if not path.is_file():
                    raise DataError(f"{path} is missing")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Mixtures(self.rows[index], self.sr)
        row = self.rows[index]
        waves = [read_sound(path, self.sr)[0] for path in (row.mixture, *row.sources)]
        short = min(map(len, waves))
        return waves[0][:short], np.stack([wave[:short] for wave in waves[1:]])


def read_listed(rows: Sequence[Listed], sr: int) -> Mixtures:
    """The mixtures of a list at a rate; see `Mixtures`."""
    return Mixtures(rows, sr)
