"""The tasks of the Long Range Arena from the files that its makers and its sources publish.

`root` is the folder of the release (`lra_release`, with `listops-1000`, `tsv_data`, `pathfinder32`, `pathfinder128`),
beside `aclImdb` and `cifar-10-batches-py`, which it takes from elsewhere. Texts are read as bytes plus one, 0 pads.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared_impl.data import DataError, load_restricted_pickle, reading

from .data import LISTOPS_TOKENS

__all__ = ["LRATask", "Split", "lra_folder", "lra_task", "parse_listops"]

_LISTOPS = {token: i for i, token in enumerate(LISTOPS_TOKENS)}
_CONTOUR = "curv_contour_length_14"
_WHERE = "the release (https://github.com/google-research/long-range-arena)"
_PLACES = {
    "listops": ("basic_train.tsv", ("", "listops", "listops-1000"), _WHERE),
    "text": ("train/pos", ("", "aclImdb", "imdb"), "https://ai.stanford.edu/~amaas/data/sentiment/"),
    "retrieval": ("new_aan_pairs.train.tsv", ("", "tsv_data", "aan"), _WHERE),
    "image": ("data_batch_1", ("", "cifar-10-batches-py", "cifar10"), "https://www.cs.toronto.edu/~kriz/cifar.html"),
    "pathfinder": (_CONTOUR, ("", "pathfinder32"), _WHERE),
    "path-x": (_CONTOUR, ("", "pathfinder128"), _WHERE),
}


@dataclass(frozen=True)
class Split:
    """Examples of one part."""

    x: np.ndarray
    """uint8: pixels (n, length, 1); or uint16: tokens (n, length), with pairs (n, 2, length)"""
    y: np.ndarray
    """int64, (n,)"""
    lengths: np.ndarray | None = None
    """of tokens, (n,) or (n, 2); None: all of one length"""

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class LRATask:
    """A task in its three parts; pixels x become (x / 255 - mean) / std."""

    name: str
    train: Split
    val: Split
    test: Split
    mean: float = 0.0
    std: float = 1.0


def lra_folder() -> Path:
    """`$IMPL_DATA_DIR/lra`, or `lra` in the working folder if the variable is not set."""
    return Path(os.environ.get("IMPL_DATA_DIR", ".")) / "lra"


def lra_task(name: str, root: Path | None = None, *, max_length: int | None = None, seed: int = 0) -> LRATask:
    """One of listops, text, retrieval, image, pathfinder and path-x.

    The benchmark has no validation part for text: a tenth of its training reviews is held out here. Image holds out
    the last tenth of the training images; pathfinder and path-x (the hard variant) are split 80/10/10 at random.

    Args:
        root: default `lra_folder()`.
        max_length: longer texts are cut (default: 2,000 for listops, 4,000 for text and retrieval).

    Raises:
        ValueError: another name, or a length below 1.
        DataError: a file is missing (the message says which, and from where) or damaged.
    """
    if name not in _PLACES:
        raise ValueError(f"name must be one of {', '.join(_PLACES)}, got {name!r}")
    if max_length is not None and max_length < 1:
        raise ValueError(f"max_length must be at least 1, got {max_length}")
    home = _home(name, lra_folder() if root is None else Path(root))
    if name == "listops":
        train, val, test = (_listops(home, part, max_length or 2000) for part in ("train", "val", "test"))
        return LRATask(name, train, val, test)
    if name == "text":
        return _imdb(home, max_length or 4000, seed)
    if name == "retrieval":
        train, val, test = (_aan(home, part, max_length or 4000) for part in ("train", "eval", "test"))
        return LRATask(name, train, val, test)
    return _cifar(home) if name == "image" else _pathfinder(name, home, seed)


def _home(name: str, root: Path) -> Path:
    marker, folders, source = _PLACES[name]
    for place in (root, root / "lra_release"):
        for folder in folders:
            if (place / folder / marker).exists():
                return place / folder
    raise DataError(f"{name}: {root} does not hold {marker} (nor in {', '.join(filter(None, folders))}); get {source}")


def parse_listops(source: str) -> list[int]:
    """Token ids of a written expression; the parentheses that the files have around everything are dropped.

    Raises:
        ValueError: a word that is none of ListOps.
    """
    words = source.replace("(", " ").replace(")", " ").split()
    unknown = next((word for word in words if word not in _LISTOPS), None)
    if unknown is not None:
        raise ValueError(f"source must hold {' '.join(LISTOPS_TOKENS[1:])}, got {unknown!r}")
    return [_LISTOPS[word] for word in words]


def _listops(home: Path, part: str, max_length: int) -> Split:
    path = home / f"basic_{part}.tsv"
    rows, answers = [], []
    with reading(path), path.open(encoding="utf-8") as file:
        if file.readline().split() != ["Source", "Target"]:
            raise ValueError("the first line must be Source, Target")
        for line in file:
            source, target = line.split("\t")
            rows.append(parse_listops(source)[:max_length])
            answers.append(int(target))
    return _padded(rows, answers)


def _imdb(home: Path, max_length: int, seed: int) -> LRATask:
    def read(part: str) -> Split:
        rows: list[Sequence[int] | np.ndarray] = []
        answers: list[int] = []
        for label, name in enumerate(("neg", "pos")):
            files = sorted((home / part / name).glob("*.txt"))
            if not files:
                raise DataError(f"text: {home / part / name} holds no reviews (*.txt)")
            for path in files:
                with reading(path):
                    rows.append(_bytes(path.read_bytes(), max_length))
                answers.append(label)
        return _padded(rows, answers)

    whole, test = read("train"), read("test")
    order = np.random.default_rng(seed).permutation(len(whole))
    cut = len(whole) - max(1, len(whole) // 10)
    return LRATask("text", _take(whole, order[:cut]), _take(whole, order[cut:]), test)


def _aan(home: Path, part: str, max_length: int) -> Split:
    path = home / f"new_aan_pairs.{part}.tsv"
    rows: list[Sequence[int] | np.ndarray] = []
    answers = []
    with reading(path), path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            label, _, _, first, second = line.rstrip("\n").split("\t")
            rows += [_bytes(text.encode(), max_length) for text in (first, second)]
            answers.append(int(float(label)))
    flat = _padded(rows, answers)
    assert flat.lengths is not None
    return Split(flat.x.reshape(len(answers), 2, -1), flat.y, flat.lengths.reshape(-1, 2))


def _cifar(home: Path) -> LRATask:
    def read(name: str) -> tuple[np.ndarray, np.ndarray]:
        content = load_restricted_pickle(home / name, encoding="bytes")
        with reading(home / name):
            colours = np.asarray(content[b"data"], dtype=np.uint8).reshape(-1, 3, 1024).transpose(0, 2, 1)
            grey = np.rint(colours @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
            return grey[..., None], np.asarray(content[b"labels"], dtype=np.int64)

    parts = [read(f"data_batch_{i}") for i in range(1, 6)]
    whole = Split(*(np.concatenate(some) for some in zip(*parts, strict=True)))
    cut = len(whole) - max(1, len(whole) // 10)
    train, val = _take(whole, np.arange(cut)), _take(whole, np.arange(cut, len(whole)))
    return LRATask("image", train, val, Split(*read("test_batch")), mean=0.48, std=0.24)


def _pathfinder(name: str, home: Path, seed: int) -> LRATask:
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(f"{name} needs Pillow to read images: pip install 'tcnca-impl[lra]'") from error
    size, folder = (32 if name == "pathfinder" else 128), home / _CONTOUR
    images, answers = [], []
    for listing in sorted((folder / "metadata").glob("*.npy"), key=lambda path: int(path.stem)):
        with reading(listing):  # lines of text, whatever the ending says
            lines = [line.split() for line in listing.read_text(encoding="utf-8").splitlines()]
        for words in lines:
            path = folder / words[0] / words[1]
            if path.is_file() and path.stat().st_size == 0:
                continue  # the release has such an image
            with reading(path), Image.open(path) as image:
                pixels = np.asarray(image.convert("L"))
            if pixels.shape != (size, size):
                raise DataError(f"{name}: {path} must be {size} x {size}, got {pixels.shape}")
            images.append(pixels.reshape(-1, 1))
            answers.append(int(words[3]))
    if len(images) < 3:
        raise DataError(f"{name}: {folder / 'metadata'} lists {len(images)} images, at least 3 are needed")
    whole = Split(np.stack(images), np.array(answers, dtype=np.int64))
    order, tenth = np.random.default_rng(seed).permutation(len(whole)), max(1, len(whole) // 10)
    train, val, test = np.split(order, [-2 * tenth, -tenth])
    return LRATask(name, _take(whole, train), _take(whole, val), _take(whole, test), mean=0.5, std=0.5)


def _bytes(text: bytes, max_length: int) -> np.ndarray:
    return np.frombuffer(text[:max_length], dtype=np.uint8).astype(np.uint16) + 1


def _padded(rows: Sequence[Sequence[int] | np.ndarray], answers: Iterable[int]) -> Split:
    if not rows:
        raise ValueError("there is no example")
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    if lengths.min() == 0:
        raise ValueError(f"example {int(lengths.argmin())} is empty")
    x = np.zeros((len(rows), int(lengths.max())), dtype=np.uint16)
    for line, row in zip(x, rows, strict=True):
        line[: len(row)] = row
    return Split(x, np.array(list(answers), dtype=np.int64), lengths)


def _take(split: Split, index: np.ndarray) -> Split:
    return Split(split.x[index], split.y[index], None if split.lengths is None else split.lengths[index])
