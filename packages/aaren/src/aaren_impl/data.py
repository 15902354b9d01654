"""Files of a user's own and made data: event CSV, UEA's .ts format, series, forecasting windows, chirps."""

import importlib.util
import io
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from .hawkes import EventSequence, check_sequences

__all__ = ["chirps", "ett_splits", "load_uea", "read_events", "read_series", "read_ts", "splits"]


def chirps(n: int = 300, *, length: int = 128, noise: float = 0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three classes of noisy sweeps, (n, length, 1): frequency rising, falling, constant; phases are drawn."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    t = np.linspace(0, 1, length)
    cycles = np.stack([4 * t + 6 * t**2, 16 * t - 6 * t**2, 10 * t])
    x = np.sin(2 * np.pi * (cycles[y] + rng.uniform(size=(n, 1)))) + noise * rng.standard_normal((n, length))
    return x[..., None].astype(np.float32), y


def _text(path: Path | str) -> str:
    """A file's text; - is standard input.

    Raises:
        ValueError: if it cannot be read.
    """
    try:
        return sys.stdin.read() if str(path) == "-" else Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ValueError(f"{path} cannot be read: {reason}") from error


def _frame(path: Path | str) -> pd.DataFrame:
    try:
        return pd.read_csv(io.StringIO(_text(path)))
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path} cannot be read as CSV: {str(error).splitlines()[0]}") from error


def read_events(path: Path | str, marks: list[str] | None = None) -> tuple[list[EventSequence], list[str]]:
    """Event sequences of a CSV with the columns sequence id, time, mark (in this order, any names), and the marks.

    Args:
        path: the file, with a line of names; - for standard input.
        marks: those that are known, in the order of a model; else those of the file.

    Raises:
        ValueError: if the file cannot be read, has fewer columns, a time that is no number or goes back, no rows, or a
            mark that is not known.
    """
    frame = _frame(path)
    if frame.shape[1] < 3 or len(frame) == 0:
        raise ValueError(
            f"{path} must have rows of sequence id, time, mark; got {frame.shape[1]} columns, {len(frame)} rows"
        )
    ids, times, kinds = (frame.iloc[:, i] for i in range(3))
    times = pd.to_numeric(times, errors="coerce")
    if (bad := times.isna() | ids.isna() | kinds.isna()).any():
        raise ValueError(
            f"{path}: line {int(bad.to_numpy().argmax()) + 2} must have an id, a time that is a number, a mark"
        )
    kinds = kinds.astype(str)
    names = sorted(kinds.unique()) if marks is None else marks
    if unknown := sorted(set(kinds) - set(names)):
        raise ValueError(f"{path}: mark {unknown[0]!r} is not known; known are {', '.join(names[:10])}")
    codes = kinds.map({name: i for i, name in enumerate(names)}).to_numpy(dtype=np.int64)
    seconds = times.to_numpy(dtype=float)
    groups = frame.groupby(ids, sort=False).indices
    for name, index in groups.items():
        if (back := np.flatnonzero(np.diff(seconds[index]) < 0)).size:
            line = int(index[back[0] + 1]) + 2
            raise ValueError(f"{path}: line {line}: times must not go back in a sequence, they do in {name!r}")
    rows = groups.values()
    sequences = [EventSequence(seconds[index], codes[index]) for index in rows]
    check_sequences(sequences, len(names))
    return sequences, list(names)


def read_ts(path: Path | str) -> tuple[np.ndarray | list[np.ndarray], np.ndarray]:
    """A UEA/UCR set in the .ts format of aeon: the cases, and the class labels as strings.

    Cases are (n, length, channels), or a list of (length, channels) where lengths differ.

    Raises:
        ValueError: if the file cannot be read, has no data, no class labels, a missing value, or cases differ in
            channels, or the channels of a case in length.
    """
    lines = [line.strip() for line in _text(path).splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    header = [line.lower() for line in lines]
    begin = header.index("@data") if "@data" in header else len(lines)
    if begin + 1 >= len(lines):
        raise ValueError(f"{path} must have cases behind a line @data")
    for line in header[:begin]:
        if line.split()[:2] in (["@classlabel", "false"], ["@timestamps", "true"]):
            raise ValueError(f"{path} must have class labels and no time stamps, its header says {line!r}")
    cases, labels = [], []
    for i, line in enumerate(lines[begin + 1 :], 1):
        *channels, label = line.split(":")
        try:
            case = [np.array([float(x) for x in channel.split(",")]) for channel in channels]
        except ValueError as error:
            raise ValueError(f"{path}: case {i} has a value that is no number: {error}") from error
        if len({len(channel) for channel in case}) > 1:
            raise ValueError(f"{path}: the channels of case {i} must be of one length")
        cases.append(np.array(case, dtype=np.float32).T)
        labels.append(label.strip())
    if len({case.shape[1:] for case in cases}) != 1 or not cases[0].size:
        raise ValueError(f"{path}: all cases must have the same number of channels, at least 1")
    if not all(np.isfinite(case).all() for case in cases):
        raise ValueError(f"{path}: values must be finite")
    same = len({len(case) for case in cases}) == 1
    return (np.stack(cases) if same else cases), np.array(labels)


def load_uea(name: str, folder: Path | str | None = None) -> tuple[tuple, tuple]:  # type: ignore[type-arg]
    """(cases, labels) of a UEA set's training part and of its test part, from `folder/NAME/NAME_TRAIN.ts`.

    Args:
        folder: else the environment's AAREN_UEA_DIR; else the few sets that an installed aeon carries.

    Raises:
        ValueError: if the set is not there, or is no such file.
    """
    place = folder or os.environ.get("AAREN_UEA_DIR")
    if place is None and (aeon := importlib.util.find_spec("aeon")) and aeon.origin:
        place = Path(aeon.origin).parent / "datasets" / "data"
    found = Path(place or ".") / name
    if not (found / f"{name}_TRAIN.ts").is_file():
        raise ValueError(
            f"{name} must be in a folder {name} of AAREN_UEA_DIR as {name}_TRAIN.ts and {name}_TEST.ts, or come with "
            "an installed aeon"
        )
    return read_ts(found / f"{name}_TRAIN.ts"), read_ts(found / f"{name}_TEST.ts")


def read_series(path: Path | str) -> pd.DataFrame:
    """The numeric columns of a CSV, a row a time.

    Raises:
        ValueError: if the file cannot be read, has no numeric column, or a value is missing.
    """
    frame = _frame(path).select_dtypes("number")
    if frame.shape[1] == 0 or len(frame) == 0 or not np.isfinite(frame.to_numpy(dtype=float)).all():
        raise ValueError(f"{path} must have rows, and numeric columns without missing values")
    return frame


def splits(values: np.ndarray, ends: tuple[int, int, int], context: int) -> dict[str, np.ndarray]:
    """Training, validation and test rows up to `ends`, scaled with the mean and deviation of the training rows alone.

    Validation and test begin `context` rows early, so that their first forecast has its input.
    """
    train = values[: ends[0]]
    scaled = ((values - train.mean(0)) / np.maximum(train.std(0), 1e-8)).astype(np.float32)
    starts = (0, max(0, ends[0] - context), max(0, ends[1] - context))
    return {part: scaled[a:b] for part, a, b in zip(("train", "valid", "test"), starts, ends, strict=True)}


def ett_splits(name: str, context: int) -> dict[str, np.ndarray]:
    """ETTh1 or ETTh2: 12, 4 and 4 months of 30 days."""
    from shared_impl.datasets import ett

    month = 30 * 24
    return splits(ett(name).values, (12 * month, 16 * month, 20 * month), context)  # type: ignore[arg-type]
