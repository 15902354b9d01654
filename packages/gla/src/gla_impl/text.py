"""Text to tokens and back: characters, bytes or words of any file, and the corpora of the recorded runs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from shared_impl.cli import UserError
from shared_impl.results import write_atomically

__all__ = [
    "Corpus",
    "Level",
    "Vocabulary",
    "file_corpus",
    "python_docs_corpus",
    "tiny_shakespeare_corpus",
    "wikitext2_corpus",
]

Level = Literal["char", "byte", "word"]

UNKNOWN, END = "<unk>", "<eos>"


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a text, numbered. A word vocabulary has <unk> for what it lacks and <eos> for the end of a line."""

    level: Level
    tokens: tuple[str, ...]

    @classmethod
    def of(cls, text: str, level: Level) -> "Vocabulary":
        """Every character or word of `text`, sorted; bytes are always all 256.

        Raises:
            ValueError: if the level is unknown, or the text is empty.
        """
        if level not in get_args(Level):
            raise ValueError(f"level must be char, byte or word, got {level!r}")
        if not text:
            raise ValueError("text must not be empty")
        if level == "byte":
            return cls(level, tuple(f"<{number:02x}>" for number in range(256)))
        if level == "char":
            return cls(level, tuple(sorted(set(text))))
        return cls(level, (UNKNOWN, END, *sorted(set(text.split()) - {UNKNOWN, END})))

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def _number(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}

    def encode(self, text: str) -> np.ndarray:
        """Token numbers, int64.

        Raises:
            UserError: if a character is not in a character vocabulary.
        """
        if self.level == "byte":
            return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64)
        if self.level == "word":
            words = (word for line in text.splitlines() for word in (*line.split(), END))
            return np.array([self._number.get(word, 0) for word in words], dtype=np.int64)
        try:
            return np.array([self._number[character] for character in text], dtype=np.int64)
        except KeyError as error:
            raise UserError(f"character {error.args[0]!r} is not among the {len(self)} that were trained on") from None

    def decode(self, ids: np.ndarray | Sequence[int]) -> str:
        """The text of token numbers; invalid UTF-8 becomes replacement characters."""
        if self.level == "byte":
            return bytes(int(number) for number in ids).decode(errors="replace")
        if self.level == "char":
            return "".join(self.tokens[number] for number in ids)
        return " ".join(self.tokens[number] for number in ids).replace(f" {END} ", "\n").replace(f" {END}", "\n")

    def save(self, path: Path) -> None:
        """Write as JSON."""
        write_atomically(path, json.dumps({"level": self.level, "tokens": self.tokens}, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Read what `save` wrote.

        Raises:
            UserError: if the file is something else.
        """
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            return cls(fields["level"], tuple(fields["tokens"]))
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise UserError(f"{path} is not a vocabulary: {error}") from error


@dataclass(frozen=True)
class Corpus:
    """A text as token numbers (int64), in a part to train on and a part to judge by."""

    name: str
    train: np.ndarray
    valid: np.ndarray
    vocabulary: Vocabulary


def file_corpus(path: Path, *, level: Level = "char", valid_fraction: float = 0.1) -> Corpus:
    """Any UTF-8 text file (as bytes: any file); the last part is held out.

    The words of a word vocabulary come from the training part alone, characters from the whole file.

    Raises:
        UserError: if the file is missing, is not text, or is too short.
    """
    if not 0 < valid_fraction < 1:
        raise ValueError(f"valid_fraction must be between 0 and 1, got {valid_fraction}")
    try:
        content = Path(path).read_bytes()
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise UserError(f"{path}: {error.strerror}") from error
    if level == "byte":
        ids = np.frombuffer(content, dtype=np.uint8).astype(np.int64)
        cut = int(len(ids) * (1 - valid_fraction))
        corpus = Corpus(Path(path).name, ids[:cut], ids[cut:], Vocabulary.of("-", "byte"))
    else:
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 text ({error.reason}); --level byte takes any file") from error
        if not text:
            raise UserError(f"{path} is empty")
        corpus = _text_corpus(Path(path).name, text, level, valid_fraction)
    if min(len(corpus.train), len(corpus.valid)) < 2:
        raise UserError(f"{path} is too short: {len(corpus.train)} and {len(corpus.valid)} tokens")
    return corpus


def tiny_shakespeare_corpus() -> Corpus:
    """The 1.1 million characters of tiny Shakespeare; the last tenth is held out, as everybody does."""
    from shared_impl.datasets import tiny_shakespeare

    return _text_corpus("tinyshakespeare", tiny_shakespeare(), "char", 0.1)


def python_docs_corpus() -> Corpus:
    """English that every Python brings along: the half million characters behind `help("topics")`."""
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics))
    return _text_corpus("python-docs", text, "char", 0.1)


def wikitext2_corpus(train_file: Path | None = None) -> Corpus:
    """WikiText-2 at word level, judged on its test split, with the words of what is trained on.

    Args:
        train_file: the training split (`train.txt`); None takes the validation split, a tenth of the size.

    Raises:
        UserError: if a file cannot be had.
    """
    from shared_impl.datasets import wikitext2

    if train_file is None:
        text = wikitext2("valid")
    else:
        try:
            text = train_file.read_text(encoding="utf-8")
        except OSError as error:
            raise UserError(f"{train_file}: {error.strerror}") from error
    vocabulary = Vocabulary.of(text, "word")
    return Corpus("wikitext-2", vocabulary.encode(text), vocabulary.encode(wikitext2("test")), vocabulary)


def _text_corpus(name: str, text: str, level: Level, valid_fraction: float) -> Corpus:
    cut = int(len(text) * (1 - valid_fraction))
    vocabulary = Vocabulary.of(text if level == "char" else text[:cut] or text, level)
    return Corpus(name, vocabulary.encode(text[:cut]), vocabulary.encode(text[cut:]), vocabulary)
