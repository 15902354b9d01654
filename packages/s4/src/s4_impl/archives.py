"""Readers of the data sets that a user brings: CIFAR-10, IMDB, AAN, Pathfinder, Speech Commands, WikiText-103.

Each looks in `root`, or else in `$IMPL_DATA_DIR/<name>` and the cache, for the files as their makers publish them, and
says what to get and where to put it when they are not there. Nothing is made up in their place.
"""

import csv
import os
import sys
import wave
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from s4_impl.data import SequenceTask, Split, stratified_split
from shared_impl.data import DataError, cache_dir, extract, load_restricted_pickle, reading

__all__ = [
    "SC10_WORDS",
    "aan_task",
    "cifar10_task",
    "find_data",
    "imdb_task",
    "pathfinder_task",
    "speech_commands_task",
    "wikitext103_task",
]

_SOURCES = {
    "cifar10": ("cifar-10-python.tar.gz or cifar-10-binary.tar.gz", "https://www.cs.toronto.edu/~kriz/cifar.html"),
    "imdb": ("aclImdb_v1.tar.gz", "https://ai.stanford.edu/~amaas/data/sentiment/"),
    "aan": ("tsv_data of lra_release.gz", "https://github.com/google-research/long-range-arena"),
    "pathfinder": ("pathfinder32 or pathfinder128 of lra_release.gz", "https://github.com/google-research/long-range-arena"),
    "speech_commands": ("speech_commands_v0.02.tar.gz", "https://arxiv.org/abs/1804.03209"),
    "wikitext103": ("wikitext-103-v1 (wiki.train.tokens, ...)", "https://arxiv.org/abs/1609.07843"),
}  # fmt: skip

SC10_WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
_SPECIALS = ("<pad>", "<unk>", "<eos>")


def find_data(name: str, root: Path | None = None) -> Path:
    """The folder of a data set: `root`, `$IMPL_DATA_DIR/<name>` or `<name>` in the cache.

    Raises:
        DataError: if there is none; the message says what to download and where to put it.
    """
    if root is not None:
        if not Path(root).exists():
            raise DataError(f"{name}: no such folder: {root}")
        return Path(root)
    mirror = os.environ.get("IMPL_DATA_DIR")
    places = [Path(place) / name for place in (mirror, cache_dir()) if place]
    for place in places:
        if place.is_dir():
            return place
    what, url = _SOURCES[name]
    raise DataError(f"{name} is not here: get {what} from {url} and put it into {' or '.join(map(str, places))}")


def _unpacked(name: str, folder: Path, marker: str, archives: Sequence[str]) -> Path:
    """The folder below `folder` that holds `marker`, unpacking one of `archives` into the cache if need be."""

    def search(place: Path) -> Path | None:
        return next((p for p in (place, *sorted(place.glob("*/"))) if (p / marker).exists()), None)

    if folder.is_file():
        archive: Path | None = folder
    else:
        if (found := search(folder)) is not None:
            return found
        archive = next((folder / a for a in archives if (folder / a).is_file()), None)
    if archive is not None and (found := search(extract(archive, cache_dir() / f"{name}-unpacked"))) is not None:
        return found
    what, url = _SOURCES[name]
    raise DataError(f"{name}: {folder} does not hold {marker}; expected {what} ({url}), packed or unpacked")


def cifar10_task(root: Path | None = None, *, grayscale: bool = False, seed: int = 42) -> SequenceTask:
    """CIFAR-10 pixel by pixel, 1,024 steps of 3 colours or of 1 grey value (the Image task of LRA).

    Reads the python version (through the restricted pickle reader) or the binary version. 45,000/5,000/10,000.
    """
    folder = find_data("cifar10", root)
    archives = ["cifar-10-python.tar.gz", "cifar-10-binary.tar.gz"]
    if folder.is_file():
        python = "binary" not in folder.name
    else:
        python = any(folder.rglob("data_batch_1")) or (folder / archives[0]).is_file()
    home = _unpacked(
        "cifar10", folder, "data_batch_1" if python else "data_batch_1.bin", archives if python else archives[1:]
    )

    def batch(name: str) -> tuple[np.ndarray, np.ndarray]:
        if python:
            # numpy arrays and builtin containers, nothing else, may be named by the pickle
            content = load_restricted_pickle(home / name, encoding="bytes")
            with reading(home / name):
                return np.asarray(content[b"data"], dtype=np.uint8), np.asarray(content[b"labels"])
        with reading(home / f"{name}.bin"):
            rows = np.frombuffer((home / f"{name}.bin").read_bytes(), dtype=np.uint8).reshape(-1, 3073)
            return rows[:, 1:], rows[:, 0]

    train = [batch(f"data_batch_{i}") for i in range(1, 6)]
    pixels, labels = (np.concatenate(parts) for parts in zip(*train, strict=True))
    test_pixels, test_labels = batch("test_batch")

    def sequences(rows: np.ndarray) -> np.ndarray:
        colours = rows.reshape(-1, 3, 1024).transpose(0, 2, 1)
        if not grayscale:
            return np.ascontiguousarray(colours)
        # ITU-R 601 luma, as Pillow's conversion to grey
        return np.rint(colours @ np.array([0.299, 0.587, 0.114]))[..., None].astype(np.uint8)

    index = stratified_split(labels, (0.9, 0.1, 0.0), seed)
    return SequenceTask(
        "image" if grayscale else "scifar",
        "classify",
        1 if grayscale else 3,
        10,
        [
            *(Split(sequences(pixels[i]), labels[i].astype(np.int64)) for i in index[:2]),
            Split(sequences(test_pixels), test_labels.astype(np.int64)),
        ],
        pixel_mean=(122.6 / 255,) if grayscale else (0.4914, 0.4822, 0.4465),
        pixel_std=(61.0 / 255,) if grayscale else (0.247, 0.243, 0.261),
    )


def _vocabulary(texts: Iterable[str], min_count: int) -> tuple[str, ...]:
    """Special tokens, then the characters that occur at least `min_count` times, the most frequent first."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    frequent = sorted((c for c, n in counts.items() if n >= min_count), key=lambda c: (-counts[c], c))
    return (*_SPECIALS, *frequent)


def _encode(texts: Sequence[str], vocabulary: Sequence[str], l_max: int) -> tuple[np.ndarray, np.ndarray]:
    """Padded token arrays (n, longest) with <eos> behind each text, cut to `l_max`, and the lengths."""
    dtype = np.uint8 if len(vocabulary) <= 256 else np.uint16
    index = {character: i for i, character in enumerate(vocabulary)}
    lengths = np.array([min(len(text), l_max - 1) + 1 for text in texts])
    tokens = np.zeros((len(texts), int(lengths.max())), dtype=dtype)
    for row, text, length in zip(tokens, texts, lengths, strict=True):
        row[: length - 1] = [index.get(c, 1) for c in text[: length - 1]]
        row[length - 1] = 2
    return tokens, lengths


def imdb_task(
    root: Path | None = None, *, l_max: int = 4096, min_count: int = 15, val_fraction: float = 0.1, seed: int = 42
) -> SequenceTask:
    """IMDB reviews character by character (the Text task of LRA).

    A tenth of the training reviews is held out to choose the model; the benchmark itself chooses on the test set.
    """
    home = _unpacked("imdb", find_data("imdb", root), "train/pos", ["aclImdb_v1.tar.gz"])

    def read(part: str) -> tuple[list[str], np.ndarray]:
        texts, labels = [], []
        for label, name in enumerate(("neg", "pos")):
            files = sorted((home / part / name).glob("*.txt"))
            if not files:
                raise DataError(f"imdb: {home / part / name} holds no reviews (*.txt)")
            for file in files:
                with reading(file):
                    texts.append(file.read_text(encoding="utf-8"))
                labels.append(label)
        return texts, np.array(labels)

    texts, labels = read("train")
    test_texts, test_labels = read("test")
    train, val, _ = stratified_split(labels, (1 - val_fraction, val_fraction, 0.0), seed)
    vocabulary = _vocabulary((texts[i] for i in train), min_count)

    def split(some: Sequence[str], targets: np.ndarray) -> Split:
        tokens, lengths = _encode(some, vocabulary, l_max)
        return Split(tokens, targets, lengths)

    return SequenceTask(
        "text", "classify", len(vocabulary), 2,
        [
            split([texts[i] for i in train], labels[train]),
            split([texts[i] for i in val], labels[val]),
            split(test_texts, test_labels),
        ],
        encoder="embedding", vocabulary=vocabulary,
    )  # fmt: skip


def aan_task(root: Path | None = None, *, l_max: int = 4000) -> SequenceTask:
    """Pairs of ACL papers, does one cite the other, character by character (the Retrieval task of LRA)."""
    home = _unpacked("aan", find_data("aan", root), "new_aan_pairs.train.tsv", ["lra_release.gz"])
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))

    def read(part: str) -> tuple[list[str], list[str], np.ndarray]:
        path = home / f"new_aan_pairs.{part}.tsv"
        first, second, labels = [], [], []
        with reading(path), path.open(encoding="utf-8", newline="") as file:
            for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
                label, _, _, text, other = row
                first.append(text)
                second.append(other)
                labels.append(int(float(label)))
        return first, second, np.array(labels)

    parts = {part: read(part) for part in ("train", "eval", "test")}
    vocabulary = _vocabulary((text for texts in parts["train"][:2] for text in texts), 1)

    def split(part: str) -> Split:
        first, second, labels = parts[part]
        pairs = [_encode(texts, vocabulary, l_max) for texts in (first, second)]
        width = max(tokens.shape[1] for tokens, _ in pairs)
        padded = [np.pad(tokens, ((0, 0), (0, width - tokens.shape[1]))) for tokens, _ in pairs]
        return Split(np.stack(padded, axis=1), labels, np.stack([lengths for _, lengths in pairs], axis=1))

    return SequenceTask(
        "retrieval", "retrieve", len(vocabulary), 2, [split("train"), split("eval"), split("test")],
        encoder="embedding", vocabulary=vocabulary,
    )  # fmt: skip


def pathfinder_task(root: Path | None = None, *, resolution: int = 32, seed: int = 42) -> SequenceTask:
    """Pathfinder, 32x32, or Path-X, 128x128, pixel by pixel, from the release of LRA; needs Pillow.

    The hard variant (`curv_contour_length_14`), 80/10/10. An image of no bytes, of which the release has one, is
    left out.
    """
    from PIL import Image

    name = f"pathfinder{resolution}"
    home = _unpacked("pathfinder", find_data("pathfinder", root), f"{name}/curv_contour_length_14", ["lra_release.gz"])
    folder = home / name / "curv_contour_length_14"
    samples = []
    for listing in sorted((folder / "metadata").glob("*.npy"), key=lambda path: int(path.stem)):
        with reading(listing):  # text, whatever the name says
            for line in listing.read_text(encoding="utf-8").splitlines():
                words = line.split()
                samples.append((folder / words[0] / words[1], int(words[3])))
    if not samples:
        raise DataError(f"pathfinder: {folder / 'metadata'} lists no images")
    images, labels = [], []
    for path, label in samples:
        if path.is_file() and path.stat().st_size == 0:
            continue
        with reading(path), Image.open(path) as image:
            pixels = np.asarray(image.convert("L"))
        if pixels.shape != (resolution, resolution):
            raise DataError(f"pathfinder: {path} must be {resolution}x{resolution}, got {pixels.shape}")
        images.append(pixels.reshape(-1, 1))
        labels.append(label)
    inputs, targets = np.stack(images), np.array(labels)
    splits = [Split(inputs[i], targets[i]) for i in stratified_split(targets, (0.8, 0.1, 0.1), seed)]
    return SequenceTask(
        "pathfinder" if resolution == 32 else "pathx", "classify", 1, 2, splits, pixel_mean=(0.5,), pixel_std=(0.5,)
    )


def speech_commands_task(
    root: Path | None = None, *, words: Sequence[str] = SC10_WORDS, rate: int = 1, seed: int = 0
) -> SequenceTask:
    """Spoken words as raw audio, 16,000 steps (SC10 with the default words); `rate` 2 keeps every second sample.

    Recordings of one second only, as in earlier work; 70/15/15 by word, standardised by the training recordings.
    """
    home = _unpacked("speech_commands", find_data("speech_commands", root), words[0], ["speech_commands_v0.02.tar.gz"])
    signals, labels = [], []
    for label, word in enumerate(words):
        files = sorted((home / word).glob("*.wav"))
        if not files:
            raise DataError(f"speech_commands: {home / word} holds no recordings (*.wav)")
        for path in files:
            try:
                with wave.open(str(path)) as recording:
                    form = (recording.getnchannels(), recording.getsampwidth(), recording.getframerate())
                    frames = recording.readframes(recording.getnframes())
            except (wave.Error, EOFError) as error:
                raise DataError(f"speech_commands: cannot read {path}: {error}") from error
            if form != (1, 2, 16_000):
                raise DataError(f"speech_commands: {path} must be mono, 16 bit, 16 kHz, got {form}")
            if len(frames) == 32_000:
                signals.append(np.frombuffer(frames, dtype="<i2"))
                labels.append(label)
    if not signals:
        raise DataError(f"speech_commands: {home} holds no recording of a whole second")
    raw, targets = np.stack(signals).astype(np.float32) / 2**15, np.array(labels)
    index = stratified_split(targets, (0.7, 0.15, 0.15), seed)
    mean, std = raw[index[0]].mean(), raw[index[0]].std() + 1e-5
    inputs = ((raw - mean) / std)[:, ::rate, None]
    splits = [Split(inputs[i], targets[i]) for i in index]
    return SequenceTask("sc10" if tuple(words) == SC10_WORDS else "speech", "classify", 1, len(words), splits)


def wikitext103_task(root: Path | None = None, *, length: int = 8192) -> SequenceTask:
    """WikiText-103 word by word in windows of `length`; the vocabulary is sorted by frequency for adaptive softmax."""
    home = _unpacked("wikitext103", find_data("wikitext103", root), "wiki.train.tokens", ["wikitext-103-v1.zip"])

    def words(part: str) -> list[str]:
        path = home / f"wiki.{part}.tokens"
        with reading(path):
            lines = path.read_text(encoding="utf-8").splitlines()
        return [word for line in lines for word in (*line.split(), "<eos>")]

    texts = {part: words(part) for part in ("train", "valid", "test")}
    counts = Counter(texts["train"])
    vocabulary = tuple(sorted(counts, key=lambda word: (-counts[word], word)))
    index = {word: i for i, word in enumerate(vocabulary)}
    if "<unk>" not in index:
        raise DataError(f"wikitext103: {home} has no <unk> in its training text; is it the tokenised version?")

    def split(part: str) -> Split:
        codes = np.array([index.get(word, index["<unk>"]) for word in texts[part]], dtype=np.int32)
        n = (len(codes) - 1) // length
        if n < 1:
            raise DataError(f"wikitext103: the {part} text is shorter than length {length}")
        return Split(codes[: n * length].reshape(n, length), codes[1 : n * length + 1].reshape(n, length))

    return SequenceTask(
        "wikitext103", "lm", len(vocabulary), len(vocabulary), [split("train"), split("valid"), split("test")],
        encoder="embedding", pooling="none", vocabulary=vocabulary,
    )  # fmt: skip
