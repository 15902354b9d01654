"""Image sets as tensors with a fixed split into training, validation and test images."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from shared_impl import datasets

__all__ = ["ImageFolder", "Images", "cifar_binary", "digits16", "load_npz", "mnist_10k", "split"]


class Images(NamedTuple):
    """Images in parts."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def split(
    images: Float[Tensor, "n *image"], labels: Int[Tensor, "n"], *, test: float = 0.2, validation: float = 0.1
) -> Images:
    """Shuffle by a fixed seed, cut, and standardise by the training images' mean and deviation.

    Raises:
        ValueError: parts that leave nothing to train on.
    """
    n = len(images)
    n_test, n_validation = round(test * n), round(validation * n)
    if n - n_test - n_validation < 1 or min(n_test, n_validation) < 1:
        raise ValueError(f"images must be enough for three parts, got {n} for test={test}, validation={validation}")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    train = images[n_test + n_validation :]
    images = (images - train.mean()) / train.std().clamp_min(1e-6)
    at = (n_test, n_test + n_validation)
    return Images(
        (images[at[1] :], labels[at[1] :]),
        (images[at[0] : at[1]], labels[at[0] : at[1]]),
        (images[: at[0]], labels[: at[0]]),
    )


def digits16() -> Images:
    """scikit-learn's 1,797 digits, resized to 16 × 16."""
    found = datasets.digits()
    images = torch.from_numpy(found.images).float().unsqueeze(1) / 16
    resized = F.interpolate(images, size=(16, 16), mode="bilinear", align_corners=False)
    return split(resized, torch.from_numpy(found.labels))


def mnist_10k() -> Images:
    """MNIST's 10,000 test images: 8,000 to train and validate, 2,000 to test."""
    found = datasets.mnist("test")
    return split(torch.from_numpy(found.images).float().unsqueeze(1) / 255, torch.from_numpy(found.labels))


def load_npz(path: Path | str) -> tuple[Tensor, Tensor | None]:
    """A user's own file: array `x` (images, with their channels) and, if it has one, `y` (classes from 0).

    Raises:
        ValueError: a file that cannot be read, lacks `x`, or holds what is no finite number.
    """
    try:
        # opened here: numpy leaves the file of a damaged archive open
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # zipfile's own kinds among them
        raise ValueError(f"{path} cannot be read as .npz: {error}") from error
    if "x" not in arrays:
        raise ValueError(f"{path} must have an array x (images), got {', '.join(arrays) or 'none'}")
    x = arrays["x"]
    if x.ndim < 2 or not len(x) or x.dtype.kind not in "fiu":
        raise ValueError(f"x of {path} must be numbers, (n, ...) with n at least 1, got {x.dtype} {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"x of {path} must be finite, got NaN or infinite values")
    images = torch.from_numpy(x.astype(np.float32))
    if "y" not in arrays:
        return images, None
    y = arrays["y"]
    if y.shape != (len(x),) or y.dtype.kind not in "iu" or y.min() < 0:
        raise ValueError(f"y of {path} must be {len(x)} classes from 0, got {y.dtype} {y.shape}")
    return images, torch.from_numpy(y.astype(np.int64))


_CIFAR = {
    "cifar10": ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]),
    "cifar100": ([0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761]),
}
"""mean and deviation of the colours, as the authors' scripts have them"""


def cifar_binary(folder: Path | str, name: str = "cifar10") -> Images:
    """CIFAR-10 or CIFAR-100 in the authors' binary files, a tenth of the training images held out to validate.

    Args:
        folder: with `data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin`, or `train.bin` and `test.bin`.

    Raises:
        ValueError: an unknown name; a file that is missing or has not a whole number of records.
    """
    files = {
        "cifar10": ([f"data_batch_{i}.bin" for i in range(1, 6)], "test_batch.bin", 1),
        "cifar100": (["train.bin"], "test.bin", 2),
    }
    if name not in files:
        raise ValueError(f"name must be cifar10 or cifar100, got {name!r}")
    train_files, test_file, n_labels = files[name]
    mean, std = (torch.tensor(values) for values in _CIFAR[name])

    def read(file: str) -> tuple[Tensor, Tensor]:
        path = Path(folder) / file
        try:
            raw = np.fromfile(path, dtype=np.uint8)
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
        if not len(raw) or len(raw) % (n_labels + 3072):
            raise ValueError(f"{path} must be records of {n_labels + 3072} bytes, got {len(raw)} bytes")
        raw = raw.reshape(-1, n_labels + 3072)
        images = torch.from_numpy(raw[:, n_labels:].copy()).view(-1, 3, 32, 32).float() / 255
        return (images - mean[:, None, None]) / std[:, None, None], torch.from_numpy(
            raw[:, n_labels - 1].astype(np.int64)
        )

    parts = [read(file) for file in train_files]
    images, labels = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    cut = max(1, len(images) // 10)
    held, rest = order[:cut], order[cut:]
    return Images((images[rest], labels[rest]), (images[held], labels[held]), read(test_file))


class ImageFolder:
    """Images in a folder a class (ImageNet's layout), read as they are needed; (images, labels) in batches.

    The middle of 7/8 of the shorter side, scaled to `size`; with `augment` a random part of 8 to 100 % of the image,
    mirrored half of the time (the authors' scripts for ImageNet).

    Args:
        folder: its subfolders are the classes, in the order of their names.
        limit: at most so many images a class.

    Raises:
        ValueError: a folder without images, or a size or batch_size below 1.
        ImportError: without Pillow (extra `images`).
    """

    def __init__(
        self, folder: Path | str, *, size: int = 224, batch_size: int = 64, shuffle: bool = True, seed: int = 0,
        augment: bool = False, limit: int | None = None,
    ) -> None:  # fmt: skip
        if size < 1 or batch_size < 1:
            raise ValueError(f"size and batch_size must be at least 1, got {size} and {batch_size}")
        self._pil = importlib.import_module("PIL.Image")
        self.classes = sorted(path.name for path in Path(folder).glob("*") if path.is_dir())
        self.files: list[tuple[Path, int]] = []
        for label, name in enumerate(self.classes):
            found = sorted(p for p in (Path(folder) / name).iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
            self.files += [(path, label) for path in found[:limit]]
        if not self.files:
            raise ValueError(f"{folder} must have a folder of .jpg, .jpeg or .png files for each class")
        self.size, self.batch_size, self.shuffle, self.augment = size, batch_size, shuffle, augment
        self._random = np.random.default_rng(seed)

    def __len__(self) -> int:
        return -(-len(self.files) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        n = len(self.files)
        order = self._random.permutation(n) if self.shuffle else np.arange(n)
        for start in range(0, n, self.batch_size):
            chosen = [self.files[i] for i in order[start : start + self.batch_size]]
            yield torch.stack([self._image(path) for path, _ in chosen]), torch.tensor([label for _, label in chosen])

    def whole(self) -> tuple[Tensor, Tensor]:
        """All images and labels at once."""
        images, labels = zip(*self, strict=True)
        return torch.cat(images), torch.cat(labels)

    def _image(self, path: Path) -> Tensor:
        try:
            with self._pil.open(path) as file:
                image: Any = file.convert("RGB")
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
        width, height = image.size
        box, mirrored = self._part(width, height) if self.augment else (self._middle(width, height), False)
        pixels = np.asarray(image.resize((self.size, self.size), self._pil.Resampling.BILINEAR, box=box))
        pixels = pixels[:, ::-1] if mirrored else pixels
        x = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
        return (x - _IMAGENET[0][:, None, None]) / _IMAGENET[1][:, None, None]

    def _middle(self, width: int, height: int) -> tuple[float, float, float, float]:
        # 224 of 256; images that are no larger than size are taken whole
        side = min(width, height) * (7 / 8 if min(width, height) > self.size else 1)
        left, top = (width - side) / 2, (height - side) / 2
        return left, top, left + side, top + side

    def _part(self, width: int, height: int) -> tuple[tuple[float, float, float, float], bool]:
        area = width * height * self._random.uniform(0.08, 1)
        ratio = np.exp(self._random.uniform(np.log(3 / 4), np.log(4 / 3)))
        w, h = min(width, np.sqrt(area * ratio)), min(height, np.sqrt(area / ratio))
        left, top = self._random.uniform(0, width - w), self._random.uniform(0, height - h)
        return (left, top, left + w, top + h), bool(self._random.random() < 0.5)


_IMAGENET = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
"""mean and deviation of the colours"""
