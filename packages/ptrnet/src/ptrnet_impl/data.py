"""Batches of instances, and files: the authors' text format (read and written) and TSPLIB (read)."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from shared_impl.results import write_atomically

from .tasks import Task, generate, get_task, padded

__all__ = [
    "Batch",
    "GeometryDataset",
    "TSPLIBInstance",
    "collate",
    "read_points",
    "read_tsplib",
    "read_vinyals_file",
    "unit_square",
    "write_vinyals_file",
]


class Batch(NamedTuple):
    """Instances side by side."""

    points: Float[Tensor, "batch n input_dim"]
    lengths: Int[Tensor, "batch"]
    targets: Int[Tensor, "batch m"]
    """-1 ends a row and fills it"""


def collate(points: Sequence[Any], answers: Sequence[Any], *, end_symbol: bool = True) -> Batch:
    """A batch of instances of unequal lengths, filled up with zeros (points) and -1 (answers).

    Raises:
        ValueError: none, unequal numbers, points of unequal widths.
    """
    if len(points) != len(answers) or not len(points):
        raise ValueError(f"points and answers must be as many, and some, got {len(points)} and {len(answers)}")
    arrays = [np.asarray(p, dtype=np.float32) for p in points]
    widths = {a.shape[1] if a.ndim == 2 else -1 for a in arrays}
    if len(widths) > 1 or -1 in widths:
        raise ValueError(f"points must each have shape (n, d) with one d, got {[a.shape for a in arrays][:5]}")
    lengths = [len(a) for a in arrays]
    filled = np.zeros((len(arrays), max(lengths), widths.pop()), dtype=np.float32)
    for row, array in zip(filled, arrays, strict=True):
        row[: len(array)] = array
    targets = padded([np.asarray(answer).reshape(-1).tolist() for answer in answers], end=end_symbol)
    return Batch(torch.from_numpy(filled), torch.tensor(lengths), torch.from_numpy(targets))


class GeometryDataset(IterableDataset[Batch]):
    """Batches of generated instances; those of a batch have equally many points (for DataLoader, `batch_size=None`).

    Every pass gives the same instances; the workers of a DataLoader share them out.

    Args:
        task: "hull", "delaunay", "tsp" or "sort".
        n: points an instance; or least and most of them, drawn uniformly for each batch.
        size: instances of a pass; the last batch may be smaller.
    """

    def __init__(
        self,
        task: str,
        n: int | tuple[int, int] = (5, 50),
        size: int = 100_000,
        seed: int = 0,
        *,
        batch_size: int = 128,
    ) -> None:
        self.task = get_task(task)
        self.n = checked_range(n, self.task)
        for name, value in (("size", size), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.size, self.seed, self.batch_size = size, seed, batch_size

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        first, every = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for number in range(first, len(self), every):
            yield numbered_batch(
                self.task, self.n, min(self.batch_size, self.size - number * self.batch_size), self.seed, number
            )


def checked_range(n: int | Sequence[int], task: Task) -> tuple[int, int]:
    """Least and most points.

    Raises:
        ValueError: if they are fewer than the task needs, or the wrong way round.
    """
    low, high = (n, n) if isinstance(n, int) else (n[0], n[-1])
    if not task.least <= low <= high:
        raise ValueError(f"n must be at least {task.least} for {task.name} and in order, got {n}")
    return low, high


def numbered_batch(task: Task, n: tuple[int, int], size: int, seed: int, number: int) -> Batch:
    """A batch that its seed and number decide alone."""
    rng = np.random.default_rng([seed, number])
    points, targets = generate(task, int(rng.integers(n[0], n[1] + 1)), size, rng)
    lengths = torch.full((size,), points.shape[1])
    return Batch(torch.from_numpy(points.astype(np.float32)), lengths, torch.from_numpy(targets.astype(np.int64)))


# The authors' files ---------------------------------------------------------------------------------------------------

_TASK_OF_NAME = (("hull", "hull"), ("delaunay", "delaunay"), ("triangul", "delaunay"), ("tsp", "tsp"), ("sort", "sort"))


def read_vinyals_file(
    path: Path | str, task: str | None = None, *, limit: int | None = None
) -> list[tuple[Float[np.ndarray, "_ _"], Int[np.ndarray, "_"]]]:
    """Instances of a file of the authors: a line each, coordinates, the word `output`, indices from 1.

    What closes a hull or a tour (the first index once more) is taken off; the indices returned are from 0.

    Args:
        task: what the answers are; default: by the file's name (`convex_hull_50_train.txt`, `tsp_5-20_train.txt`).
        limit: lines to read.

    Raises:
        ValueError: a line that is none of these; an index beyond the points, or 0 (the indices are from 1); a tour that
            is no permutation; a file without a line. FileNotFoundError: no such file.
    """
    path = Path(path)
    if task is None:
        task = next((of for part, of in _TASK_OF_NAME if part in path.name.lower()), None)
        if task is None:
            raise ValueError(
                f"task must be given: the name {path.name} does not tell; one of hull, delaunay, tsp, sort"
            )
    dim = get_task(task).input_dim
    instances: list[tuple[np.ndarray, np.ndarray]] = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if limit is not None and len(instances) >= limit:
                    break
                if line.strip():
                    instances.append(_parse_line(line, task, dim, f"{path.name}, line {number}"))
    except UnicodeDecodeError:
        raise ValueError(f"{path.name} is no text file") from None
    if not instances:
        raise ValueError(f"{path.name} holds no instance")
    return instances


def _parse_line(line: str, task: str, dim: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    before, word, after = line.partition("output")
    if not word:
        raise ValueError(f"{where}: must have coordinates, the word output, and indices")
    try:
        numbers = np.array([float(part) for part in before.split()])
        indices = np.array([int(part) for part in after.split()], dtype=np.int64)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    if not len(numbers) or len(numbers) % dim or not np.isfinite(numbers).all():
        raise ValueError(f"{where}: must have finite coordinates in groups of {dim}, got {len(numbers)}")
    points = numbers.reshape(-1, dim)
    if not len(indices):
        raise ValueError(f"{where}: has no index behind output")
    if indices.min() < 1:
        raise ValueError(f"{where}: indices are from 1, got {indices.min()} (a file with indices from 0?)")
    if indices.max() > len(points):
        raise ValueError(f"{where}: indices must be at most the number of points, {len(points)}, got {indices.max()}")
    if task in ("hull", "tsp") and len(indices) > 1 and indices[0] == indices[-1]:
        indices = indices[:-1]
    if task == "delaunay" and len(indices) % 3:
        raise ValueError(f"{where}: triangles must be indices in triples, got {len(indices)}")
    if task in ("tsp", "sort") and not np.array_equal(np.sort(indices), np.arange(1, len(points) + 1)):
        raise ValueError(f"{where}: must name each of the {len(points)} points once, got {indices.tolist()}")
    return points, indices - 1


def write_vinyals_file(path: Path | str, points: Sequence[Any], answers: Sequence[Any], task: str) -> Path:
    """Write instances in the authors' format; hulls and tours are closed. Whole or not at all.

    Raises:
        ValueError: unequal numbers of points and answers, an index that is no point.
    """
    get_task(task)
    if len(points) != len(answers):
        raise ValueError(f"points and answers must be as many, got {len(points)} and {len(answers)}")
    lines = []
    for number, (instance, answer) in enumerate(zip(points, answers, strict=True)):
        flat = np.asarray(answer, dtype=np.int64).reshape(-1)
        if len(flat) and not 0 <= flat.min() <= flat.max() < len(instance):
            raise ValueError(f"answers must be indices below the number of points, got {flat.tolist()} at {number}")
        if task in ("hull", "tsp"):
            flat = np.append(flat, flat[:1])
        coordinates = " ".join(repr(float(value)) for value in np.asarray(instance, dtype=np.float64).reshape(-1))
        lines.append(f"{coordinates} output {' '.join(map(str, flat + 1))}\n")
    write_atomically(Path(path), "".join(lines))
    return Path(path)


# Files of points ------------------------------------------------------------------------------------------------------


def read_points(text: str, dim: int = 2, *, name: str = "points") -> Float[np.ndarray, "n dim"]:
    """Points from lines of numbers with commas, semicolons, tabs or blanks between them; a first line may hold names.

    Raises:
        ValueError: a line of another length, what is no finite number, or no point at all.
    """
    rows: list[list[float]] = []
    first = True
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        cells = [cell for cell in re.split(r"[,;\s]+", line.strip()) if cell]
        if not cells or cells[0].startswith("#"):
            continue
        names_only, first = first and not any(map(_is_number, cells)), False
        if names_only:
            continue
        try:
            row = [float(cell) for cell in cells]
        except ValueError as error:
            raise ValueError(f"{name}, line {number}: {error}") from None
        if len(row) != dim or not np.isfinite(row).all():
            raise ValueError(
                f"{name}, line {number}: must be {dim} finite number{'s' * (dim > 1)}, got {line.strip()!r}"
            )
        rows.append(row)
    if not rows:
        raise ValueError(f"{name} holds no point")
    return np.array(rows)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def unit_square(points: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """The same figure, moved and scaled (alike in all directions) so that it fills [0, 1]."""
    extent = float(np.ptp(points, axis=0).max())
    return np.asarray((points - points.min(axis=0)) / (extent if extent > 0 else 1.0))


@dataclass(frozen=True)
class TSPLIBInstance:
    """A problem or tour of TSPLIB."""

    name: str
    points: Float[np.ndarray, "n 2"]
    edge_weight_type: Literal["EUC_2D", "CEIL_2D", "ATT", "GEO"]

    def distances(self) -> Int[np.ndarray, "n n"]:
        """Whole distances by TSPLIB's own rules, with which its optima are stated."""
        p = self.points
        if self.edge_weight_type == "GEO":
            degrees = np.trunc(p)
            # degrees and minutes, pi and the earth's radius as TSPLIB has them
            radians = 3.141592 * (degrees + 5.0 * (p - degrees) / 3.0) / 180.0
            latitude, longitude = radians[:, 0], radians[:, 1]
            q1 = np.cos(longitude[:, None] - longitude)
            q2 = np.cos(latitude[:, None] - latitude)
            q3 = np.cos(latitude[:, None] + latitude)
            cosine = np.clip(0.5 * ((1 + q1) * q2 - (1 - q1) * q3), -1, 1)
            whole = np.trunc(6378.388 * np.arccos(cosine) + 1.0)
        else:
            plain = np.linalg.norm(p[:, None] - p, axis=2)
            if self.edge_weight_type == "ATT":
                whole = np.ceil(plain / np.sqrt(10.0))
            else:
                whole = np.ceil(plain) if self.edge_weight_type == "CEIL_2D" else np.floor(plain + 0.5)
        np.fill_diagonal(whole, 0)
        return whole.astype(np.int64)

    def tour_length(self, tour: Any) -> int:
        """Length of a closed tour by these distances."""
        order = np.asarray(tour)
        return int(self.distances()[order, np.roll(order, -1)].sum())


def read_tsplib(path: Path | str) -> TSPLIBInstance:
    """A symmetric TSPLIB problem given by coordinates (EUC_2D, CEIL_2D, ATT, GEO).

    Raises:
        ValueError: another type of problem, coordinates that are missing, repeated or no numbers.
    """
    path = Path(path)
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError:
        raise ValueError(f"{path.name} is no text file") from None
    header = {
        key.strip().upper(): value.strip() for key, colon, value in (line.partition(":") for line in lines) if colon
    }
    kind = header.get("EDGE_WEIGHT_TYPE", "none")
    if header.get("TYPE", "TSP").split()[:1] != ["TSP"] or kind not in ("EUC_2D", "CEIL_2D", "ATT", "GEO"):
        raise ValueError(
            f"{path.name}: must be of TYPE TSP with EDGE_WEIGHT_TYPE EUC_2D, CEIL_2D, ATT or GEO, "
            f"got {header.get('TYPE', 'none')} and {kind}"
        )
    if "NODE_COORD_SECTION" not in lines:
        raise ValueError(f"{path.name}: has no NODE_COORD_SECTION")
    found: dict[int, tuple[float, float]] = {}
    for line in lines[lines.index("NODE_COORD_SECTION") + 1 :]:
        cells = line.split()
        if not cells:
            continue
        if not re.fullmatch(r"\d+", cells[0]):
            break
        try:
            number, x, y = int(cells[0]), float(cells[1]), float(cells[2])
        except (ValueError, IndexError):
            raise ValueError(f"{path.name}: {line!r} is no city with two coordinates") from None
        if number in found or not np.isfinite([x, y]).all():
            raise ValueError(f"{path.name}: city {number} is there twice, or its coordinates are not finite")
        found[number] = x, y
    wanted = int(header["DIMENSION"]) if header.get("DIMENSION", "").isdigit() else len(found)
    if sorted(found) != list(range(1, wanted + 1)) or not found:
        raise ValueError(f"{path.name}: must hold cities 1 to {wanted}, got {len(found)}")
    points = np.array([found[number] for number in range(1, wanted + 1)])
    return TSPLIBInstance(header.get("NAME", path.stem), points, kind)  # type: ignore[arg-type]
