"""Generated sequence tasks that need long memory: delay, adding, copying, and a small Pathfinder."""

import numpy as np

__all__ = ["adding", "copying", "delay", "mini_pathfinder", "white_noise"]


def white_noise(rng: np.random.Generator, n: int, length: int, *, bandwidth: float | None = None) -> np.ndarray:
    """Gaussian noise of unit variance, (n, length) float32; with `bandwidth`, only that share of the frequencies."""
    if bandwidth is None:
        return rng.standard_normal((n, length)).astype(np.float32)
    if not 0 < bandwidth <= 1:
        raise ValueError(f"bandwidth must lie in (0, 1], got {bandwidth}")
    spectrum = np.zeros((n, length // 2 + 1), dtype=complex)
    used = max(1, round(bandwidth * (length // 2)))
    spectrum[:, 1 : used + 1] = rng.standard_normal((n, used)) + 1j * rng.standard_normal((n, used))
    signal = np.fft.irfft(spectrum, n=length)
    return (signal / signal.std(axis=1, keepdims=True)).astype(np.float32)


def delay(
    rng: np.random.Generator, n: int, *, length: int = 512, lag: int = 200, bandwidth: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Signals u and their delayed copies y_t = u_{t-lag} (0 before), each (n, length, 1) float32.

    The variance of u is 1, so that the mean squared error of predicting 0 is (length - lag) / length.
    """
    if not 0 < lag < length:
        raise ValueError(f"lag must lie between 1 and length - 1 = {length - 1}, got {lag}")
    signal = white_noise(rng, n, length, bandwidth=bandwidth)[..., None]
    delayed = np.zeros_like(signal)
    delayed[:, lag:] = signal[:, :-lag]
    return signal, delayed


def adding(rng: np.random.Generator, n: int, *, length: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """The adding problem (Hochreiter & Schmidhuber 1997): the sum of the two marked numbers.

    Returns inputs (n, length, 2), numbers in [0, 1) and marks, one mark in each half; targets (n, 1). Predicting the
    mean, 1, has the mean squared error 1/6.
    """
    if length < 2:
        raise ValueError(f"length must be at least 2, got {length}")
    numbers = rng.random((n, length), dtype=np.float32)
    marks = np.zeros((n, length), dtype=np.float32)
    rows = np.arange(n)
    marks[rows, rng.integers(0, length // 2, size=n)] = 1
    marks[rows, rng.integers(length // 2, length, size=n)] = 1
    return np.stack([numbers, marks], axis=-1), (numbers * marks).sum(axis=1, keepdims=True)


def copying(
    rng: np.random.Generator, n: int, *, length: int = 100, n_memorize: int = 10, n_tokens: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """The copying task (Arjovsky et al. 2016): repeat the first tokens after a long pause.

    Tokens 0 to n_tokens - 1 are data, n_tokens is blank, n_tokens + 1 asks for the copy. Inputs are
    (n, length + 2 n_memorize), targets (n, n_memorize): what must come out at the last positions.
    """
    if min(length, n_memorize, n_tokens) < 1:
        raise ValueError(f"length, n_memorize, n_tokens must be positive, got {length}, {n_memorize}, {n_tokens}")
    word = rng.integers(0, n_tokens, size=(n, n_memorize))
    inputs = np.full((n, length + 2 * n_memorize), n_tokens, dtype=np.int64)
    inputs[:, :n_memorize] = word
    inputs[:, -n_memorize:] = n_tokens + 1
    return inputs, word


def mini_pathfinder(
    rng: np.random.Generator,
    n: int,
    *,
    size: int = 32,
    n_distractors: int = 4,
    path_length: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """A small Pathfinder: are the two dots ends of one dashed curve? Images (n, size, size) uint8, labels (n,).

    Every image has two long dashed curves and `n_distractors` short ones that do not cross them. For label 1 the dots
    sit on both ends of one long curve, for label 0 on one end of each, so that nothing but following a curve tells
    the labels apart. After Kim et al. 2020; the curves here are smooth random walks on the pixel grid, so this is not
    the benchmark's data set.
    """
    if size < 12:
        raise ValueError(f"size must be at least 12, got {size}")
    path_length = path_length or (3 * size) // 4
    images = np.zeros((n, size, size), dtype=np.uint8)
    labels = rng.integers(0, 2, size=n)
    for image, label in zip(images, labels, strict=True):
        while True:
            image[:] = 0
            taken = np.zeros((size, size), dtype=bool)
            long = [_walk(rng, taken, path_length) for _ in range(2)]
            if all(path is not None for path in long):
                break
        short = [_walk(rng, taken, max(3, path_length // 3)) for _ in range(n_distractors)]
        for path in (p for p in long + short if p is not None):
            start = rng.integers(3)
            dashes = [point for i, point in enumerate(path) if (i + start) % 3 != 2]
            image[tuple(np.transpose(dashes))] = 160
        first, second = long  # both were found above
        assert first is not None
        assert second is not None
        ends = (first[0], first[-1]) if label else (first[rng.integers(2) - 1], second[rng.integers(2) - 1])
        for row, column in ends:
            image[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = 255
    return images, labels.astype(np.int64)


def _walk(rng: np.random.Generator, taken: np.ndarray, n_points: int) -> list[tuple[int, int]] | None:
    """Grid points of a smooth curve that keeps a pixel's distance from `taken` and itself; None if none was found."""
    size = len(taken)
    for _ in range(60):
        position = rng.uniform(2, size - 2, size=2)
        heading, bend = rng.uniform(0, 2 * np.pi), 0.0
        points: list[tuple[int, int]] = []
        for _ in range(4 * n_points):
            cell = (int(position[0]), int(position[1]))
            if not points or cell != points[-1]:
                row, column = cell
                if not (1 <= row < size - 1 and 1 <= column < size - 1):
                    break
                near = taken[row - 1 : row + 2, column - 1 : column + 2].any()
                if near or any(abs(row - r) <= 1 and abs(column - c) <= 1 for r, c in points[:-3]):
                    break
                points.append(cell)
                if len(points) == n_points:
                    taken[tuple(np.transpose(points))] = True
                    return points
            bend = 0.8 * bend + rng.normal(0, 0.06)
            heading += bend
            position = position + 0.7 * np.array([np.sin(heading), np.cos(heading)])
    return None
