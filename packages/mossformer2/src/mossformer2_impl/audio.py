"""Sound files and rates."""

import importlib
import importlib.util
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io.wavfile
import scipy.signal
from numpy import ndarray

from shared_impl.data import DataError

__all__ = ["read_sound", "resample", "write_sound"]


def read_sound(path: Path, sr: int | None = None, *, mix_down: bool = False) -> tuple[ndarray, int]:
    """Samples within ±1 as float32 and their rate; `soundfile` reads where it is installed, else SciPy (WAV only).

    Args:
        sr: the rate that is wanted; None: the file's own.
        mix_down: several channels become their mean; else they are an error.

    Raises:
        DataError: missing, no sound file, empty, several channels, or not finite.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing")
    if importlib.util.find_spec("soundfile") is not None:
        soundfile = importlib.import_module("soundfile")
        try:
            wave, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
        except (RuntimeError, OSError) as error:
            raise DataError(f"{path} is no sound file: {error}") from error
    else:
        wave, rate = _read_wav(path)
    if wave.shape[1] > 1 and not mix_down:
        raise DataError(f"{path} must have one channel, got {wave.shape[1]}: ask for them to be mixed down")
    mono = wave.mean(1, dtype=np.float32)
    if not len(mono):
        raise DataError(f"{path} has no samples")
    if not np.isfinite(mono).all():
        raise DataError(f"{path}, sample {int(np.argmin(np.isfinite(mono)))}: samples must be finite")
    clipped = float((np.abs(mono) >= 0.999).mean())
    if clipped > 0.001:
        warnings.warn(f"{path}: {100 * clipped:.1f} % of the samples are at full scale (clipped)", stacklevel=2)
    return (mono if sr is None else resample(mono, rate, sr)), rate if sr is None else sr


def _read_wav(path: Path) -> tuple[ndarray, int]:
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", scipy.io.wavfile.WavFileWarning)
            rate, wave = scipy.io.wavfile.read(path)
    except (ValueError, EOFError, OSError, KeyError, IndexError, TypeError, UnboundLocalError) as error:
        raise DataError(f"{path} is no WAV file that SciPy reads: {error}") from error
    if any("EOF" in str(one.message) for one in said):
        raise DataError(f"{path} is cut short: it holds fewer samples than it says")
    if wave.dtype == np.uint8:
        wave = (wave.astype(np.float32) - 128) / 128
    elif np.issubdtype(wave.dtype, np.integer):
        wave = wave.astype(np.float32) / float(np.iinfo(wave.dtype).max + 1)
    wave = np.asarray(wave, np.float32)
    return (wave[:, None] if wave.ndim == 1 else wave), int(rate)


def write_sound(path: Path, wave: Any, sr: int) -> None:
    """A WAV file of 16 bits, of an array or tensor (samples,); others, samples beyond ±1 and NaN are an error."""
    wave = np.asarray(wave, np.float64)
    if wave.ndim != 1:
        raise ValueError(f"wave must be (samples,), got {wave.shape}")
    if not np.abs(wave).max(initial=0) <= 1:
        raise ValueError(f"wave must be within -1 and 1, got {np.abs(wave).max():.3g}")
    scipy.io.wavfile.write(path, sr, np.round(wave * 32767).astype(np.int16))


def resample(wave: Any, old: int, new: int) -> ndarray:
    """Samples at another rate, by a polyphase filter; along the last axis.

    Raises:
        ValueError: a rate that is not positive, or integers.
    """
    if old < 1 or new < 1:
        raise ValueError(f"rates must be positive, got {old} and {new}")
    wave = np.asarray(wave)
    if not np.issubdtype(wave.dtype, np.floating):
        raise ValueError(f"wave must hold floating numbers, got {wave.dtype}")
    if old == new:
        return wave
    common = math.gcd(old, new)
    found: ndarray = scipy.signal.resample_poly(wave, new // common, old // common, axis=-1)
    return found.astype(wave.dtype)
