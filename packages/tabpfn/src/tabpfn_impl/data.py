"""Tables: scikit-learn's four, made-up ones with a known answer, CSV files, the paper's 18 sets of OpenML-CC18."""

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared_impl.data import DataError, load_restricted_pickle

__all__ = [
    "CC18_NUMERICAL",
    "MadeUp",
    "Table",
    "cc18_tables",
    "made_up_tables",
    "read_csv",
    "read_released_tables",
    "sklearn_tables",
]

CC18_NUMERICAL: dict[str, int] = {
    "balance-scale": 11,
    "mfeat-fourier": 14,
    "mfeat-karhunen": 16,
    "mfeat-morphological": 18,
    "mfeat-zernike": 22,
    "diabetes": 37,
    "vehicle": 54,
    "analcatdata_authorship": 458,
    "pc4": 1049,
    "pc3": 1050,
    "kc2": 1063,
    "pc1": 1068,
    "banknote-authentication": 1462,
    "blood-transfusion-service-center": 1464,
    "qsar-biodeg": 1494,
    "wdbc": 1510,
    "steel-plates-fault": 40982,
    "climate-model-simulation-crashes": 40994,
}
"""The 18 numerical sets of the paper's table 1 (at most 2,000 rows, 100 columns, 10 classes), with OpenML numbers"""

RELEASED_SHA256 = "4240af7f"
"""how the hash of the released file of test sets begins (tabpfn/datasets/cc_test_datasets_multiclass.pickle)"""


@dataclass(frozen=True)
class Table:
    """A classification table."""

    name: str
    X: Any
    """(rows, columns): an array of numbers or a frame"""
    y: NDArray[Any]
    """labels"""

    def __post_init__(self) -> None:
        if len(self.X) != len(self.y):
            raise ValueError(f"{self.name}: X and y must have equally many rows, got {len(self.X)} and {len(self.y)}")


def sklearn_tables() -> list[Table]:
    """Breast cancer (569 x 30, 2 classes), wine (178 x 13, 3), iris (150 x 4, 3), digits (1,797 x 64, 10)."""
    from sklearn import datasets

    names = ("breast_cancer", "wine", "iris", "digits")
    loaded = ((name, getattr(datasets, f"load_{name}")(return_X_y=True)) for name in names)
    return [Table(name, X, y) for name, (X, y) in loaded]


@dataclass(frozen=True)
class MadeUp:
    """A table that was made by a known rule."""

    table: Table
    posterior: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    """(n, classes) true class probabilities of rows: no classifier can do better"""


def made_up_tables(rows: int = 500, seed: int = 0) -> list[MadeUp]:
    """Two Gaussians (linear), Gaussians with unlike covariances (quadratic), rings, a chequerboard, and pure noise."""
    rng = np.random.default_rng(seed)

    def gaussians(name: str, means: NDArray[np.float64], stds: NDArray[np.float64], n_noise: int) -> MadeUp:
        y = rng.integers(0, len(means), rows)
        d = means.shape[1]
        X = np.concatenate([means[y] + stds[y] * rng.normal(size=(rows, d)), rng.normal(size=(rows, n_noise))], axis=1)

        def posterior(x: NDArray[np.float64]) -> NDArray[np.float64]:
            z = (x[:, None, :d] - means) / stds
            log_density = -0.5 * np.square(z).sum(2) - np.log(stds).sum(1)
            p = np.exp(log_density - log_density.max(1, keepdims=True))
            return np.asarray(p / p.sum(1, keepdims=True))

        return MadeUp(Table(name, X, y), posterior)

    def binary(name: str, d: int, of: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> MadeUp:
        X = rng.uniform(-2.0, 2.0, (rows, d))

        def posterior(x: NDArray[np.float64]) -> NDArray[np.float64]:
            p = 1.0 / (1.0 + np.exp(-of(x)))
            return np.stack([1.0 - p, p], axis=1)

        y = (rng.uniform(size=rows) < posterior(X)[:, 1]).astype(np.int64)
        return MadeUp(Table(name, X, y), posterior)

    return [
        gaussians("two gaussians", np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]), np.ones((2, 3)), 2),
        gaussians("unlike covariances", np.zeros((3, 4)), np.array([[0.5] * 4, [1.0] * 4, [2.0] * 4]), 0),
        binary("rings", 2, lambda x: 8.0 * np.cos(2.5 * np.hypot(x[:, 0], x[:, 1]))),
        binary("chequerboard", 2, lambda x: 8.0 * np.sin(np.pi * x[:, 0] / 2) * np.sin(np.pi * x[:, 1] / 2)),
        binary("noise", 5, lambda x: np.zeros(len(x))),
    ]


def read_csv(path: Path, target: str | None = None, *, labelled: bool = True) -> tuple[Any, NDArray[Any] | None]:
    """Columns as a frame, and the labels: the column `target`, by default the last.

    Raises:
        DataError: no such file, no table, no such column, or labels that are missing.
    """
    import pandas as pd

    if not path.is_file():
        raise DataError(f"no such file: {path}")
    try:
        frame = pd.read_csv(path)
    except (ValueError, UnicodeDecodeError, pd.errors.ParserError) as error:
        raise DataError(f"{path} is no table of comma-separated values: {error}") from error
    if not labelled:
        return (frame.drop(columns=target) if target in frame.columns else frame), None
    if frame.shape[1] < 2:
        raise DataError(f"{path} must have a column of labels and at least one other, got {frame.shape[1]}")
    name = frame.columns[-1] if target is None else target
    if name not in frame.columns:
        raise DataError(f"{path} has no column {name!r}; it has {', '.join(map(str, frame.columns))}")
    labels = frame[name]
    if labels.isna().any():
        raise DataError(f"{path}: the label is missing in {int(labels.isna().sum())} rows of the column {name!r}")
    return frame.drop(columns=name), labels.to_numpy()


def cc18_tables(data_dir: Path | None = None, *, names: Sequence[str] = tuple(CC18_NUMERICAL)) -> list[Table]:
    """The paper's 18 numerical sets.

    Args:
        data_dir: a folder with `<name>.csv` or `<name>.parquet` (label last) or `<name>.npz` (X, y), or the released
            pickle; None: OpenML, by the extra `openml`.

    Raises:
        DataError: a set that is not there.
    """
    if data_dir is None:
        return [_from_openml(name) for name in names]
    if not data_dir.exists():
        raise DataError(f"no such folder: {data_dir}")
    pickles = [data_dir] if data_dir.is_file() else sorted(data_dir.glob("*.pickle"))
    released = {table.name: table for path in pickles for table in read_released_tables(path)}
    tables = []
    for name in names:
        table = _from_folder(data_dir, name) or released.get(name)
        if table is None:
            raise DataError(
                f"{data_dir} has no {name}.csv, {name}.parquet or {name}.npz, and no released pickle with it"
            )
        tables.append(table)
    return tables


def _from_folder(folder: Path, name: str) -> Table | None:
    if (folder / f"{name}.npz").is_file():
        with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
            return Table(name, arrays["X"].astype(np.float64), arrays["y"])
    if (folder / f"{name}.csv").is_file():
        X, y = read_csv(folder / f"{name}.csv")
        assert y is not None
        return Table(name, X, y)
    if (folder / f"{name}.parquet").is_file():
        import pandas as pd

        frame = pd.read_parquet(folder / f"{name}.parquet")
        return Table(name, frame.iloc[:, :-1], frame.iloc[:, -1].to_numpy())
    return None


def _from_openml(name: str) -> Table:
    try:
        import openml
    except ImportError as error:
        raise DataError(
            "OpenML-CC18 needs `pip install tabpfn-impl[openml]` and a network, or --data-dir with the sets' files"
        ) from error
    try:
        data = openml.datasets.get_dataset(CC18_NUMERICAL[name])
        X, y, _, _ = data.get_data(target=data.default_target_attribute)
    except Exception as error:
        raise DataError(f"OpenML gave no {name}: {type(error).__name__}: {error}") from error
    return Table(name, X, np.asarray(y))


def _storage(content: bytes) -> Any:
    import torch

    # torch's own restricted reader
    return torch.load(io.BytesIO(content), weights_only=True)


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> NDArray[Any]:
    import torch

    flat = torch.tensor([], dtype=storage.dtype)
    flat.set_(storage._untyped_storage, offset, size, stride)  # type: ignore[call-overload]
    return flat.numpy().copy()


_TENSORS: dict[str, Callable[..., Any]] = {
    "torch.storage._load_from_bytes": _storage,
    "torch._utils._rebuild_tensor_v2": _tensor,
}


def read_released_tables(path: Path) -> list[Table]:
    """The 18 numerical tables of the authors' file of test sets, read without running anything that it holds.

    Raises:
        DataError: another file, or a pickle that asks for more than tables need.
    """
    content = path.read_bytes()
    if not hashlib.sha256(content).hexdigest().startswith(RELEASED_SHA256):
        raise DataError(f"{path} is not the released cc_test_datasets_multiclass.pickle: its SHA-256 differs")
    tables = []
    for entry in load_restricted_pickle(content, constructions=_TENSORS):
        name, X, y, categorical = str(entry[0]), np.asarray(entry[1]), np.asarray(entry[2]), list(entry[3])
        if not categorical and not np.isnan(X).any():
            tables.append(Table(name, X.astype(np.float64), y.astype(np.int64)))
    return tables
