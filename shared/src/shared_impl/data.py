"""Files of public data sets by name, URL and SHA-256: from a local mirror, the cache, or the network.

A file is looked for in this order, and its hash is checked wherever it comes from:

1. the mirror, `$IMPL_DATA_DIR/<dataset>/<path>`, if the variable is set;
2. the cache, `$IMPL_CACHE_DIR/<dataset>/<path>` (by default the platform's cache folder);
3. the URL of the registry, downloaded into the cache.

A download goes to `<path>.part` under a lock, is resumed where the server allows it, and gets its name only
after its hash is verified: a file that has its name is whole. Nothing here ever makes up data: what cannot be
had is a `DataError` that says which file, from where, and what to do.

A package registers its own data sets in a TOML file of the same form as the one beside this module:

    REGISTRY = load_registry(Path(__file__).with_name("datasets.toml"))
    path = fetch("my_set", "train.csv", registry=REGISTRY)
"""

import contextlib
import functools
import hashlib
import os
import re
import time
import tomllib
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from shared_impl.archives import extract
from shared_impl.data_error import DataError
from shared_impl.restricted_pickle import load_restricted_pickle

__all__ = [
    "DataError",
    "Dataset",
    "Registry",
    "RemoteFile",
    "available",
    "cache_dir",
    "extract",
    "fetch",
    "load_registry",
    "load_restricted_pickle",
    "reading",
    "shared_registry",
]

ATTEMPTS = 3
BACKOFF_S = 1.0  # before the second attempt; doubled before each further one
TIMEOUT_S = 30.0  # to connect, and between two pieces of a body
_FINAL_ANSWERS = frozenset(range(400, 500)) - {408, 416, 425, 429}  # asking again will not change them
_CHUNK = 1 << 16  # what a killed process may lose of a download
_SCHEMES = ("http://", "https://", "ftp://", "doi:")


@dataclass(frozen=True)
class RemoteFile:
    """One file of a data set: where it lies below the data set's folder, where it comes from, what it hashes to."""

    path: str
    url: str
    sha256: str
    bytes: int | None = None


@dataclass(frozen=True)
class Dataset:
    """What a registry says about one data set."""

    slug: str
    name: str
    description: str
    licence: str
    citation: str
    files: Mapping[str, RemoteFile]


@dataclass(frozen=True)
class Registry:
    """The data sets of one TOML file, by slug."""

    source: Path
    datasets: Mapping[str, Dataset]

    def dataset(self, slug: str) -> Dataset:
        """The entry of a data set.

        Raises:
            DataError: if the registry has none of that name.
        """
        if slug not in self.datasets:
            raise DataError(f"dataset must be one of {', '.join(sorted(self.datasets))} ({self.source}), got {slug!r}")
        return self.datasets[slug]

    def file(self, slug: str, path: str) -> RemoteFile:
        """The entry of one file of a data set.

        Raises:
            DataError: if the registry has no such data set or file.
        """
        files = self.dataset(slug).files
        if path not in files:
            raise DataError(f"path must be one of {slug}'s files {', '.join(files)} ({self.source}), got {path!r}")
        return files[path]


def load_registry(path: Path) -> Registry:
    """Read a registry: a TOML table a data set with name, description, licence, citation and `files`, an array of
    tables with path, url, sha256 and, if known, bytes.

    Raises:
        DataError: if the file is missing, is not TOML, or an entry is incomplete or unsafe.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the data registry {path}: {error}") from error
    return Registry(path, {slug: _parse_dataset(path, slug, table) for slug, table in document.items()})


@functools.cache
def shared_registry() -> Registry:
    """The registry of the data sets that several packages use (`shared_impl.datasets`)."""
    return load_registry(Path(__file__).with_name("datasets.toml"))


def _parse_dataset(source: Path, slug: str, table: Any) -> Dataset:
    where = f"data registry {source}: [{slug}]"
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", slug) or not isinstance(table, dict):
        raise DataError(f"{where}: a data set is a table whose name is made of letters, digits, '_', '-' and '.'")
    texts: dict[str, Any] = {key: table.get(key) for key in ("name", "description", "licence", "citation")}
    unknown = set(table) - set(texts) - {"files"}
    if unknown:
        raise DataError(f"{where}: unknown key {sorted(unknown)[0]!r}")
    for key, text in texts.items():
        if not isinstance(text, str) or not text:
            raise DataError(f"{where}: {key} must be a text, got {text!r}")
    files: dict[str, RemoteFile] = {}
    for entry in table.get("files", []):
        file = _parse_file(where, entry)
        if file.path in files:
            raise DataError(f"{where}: {file.path!r} is listed twice")
        files[file.path] = file
    if not files:
        raise DataError(f"{where}: no files")
    return Dataset(slug=slug, files=files, **texts)


def _parse_file(where: str, entry: Any) -> RemoteFile:
    try:
        file = RemoteFile(**entry)
    except TypeError as error:
        raise DataError(f"{where}: a file has path, url, sha256 and bytes, got {entry!r}") from error
    parts = PurePosixPath(file.path).parts if isinstance(file.path, str) else ()
    if not parts or ".." in parts or file.path.startswith("/") or re.search(r"[\\:\0]", file.path):
        raise DataError(f"{where}: path must be relative, with '/' and without '..', got {file.path!r}")
    if not isinstance(file.url, str) or not file.url.startswith(_SCHEMES):
        raise DataError(f"{where}: url of {file.path!r} must start with {', '.join(_SCHEMES)}, got {file.url!r}")
    if not isinstance(file.sha256, str) or not re.fullmatch(r"[0-9a-f]{64}", file.sha256):
        raise DataError(f"{where}: sha256 of {file.path!r} must be 64 hexadecimal digits, got {file.sha256!r}")
    if file.bytes is not None and (type(file.bytes) is not int or file.bytes < 0):
        raise DataError(f"{where}: bytes of {file.path!r} must be a whole number, got {file.bytes!r}")
    return file


def cache_dir() -> Path:
    """Where downloads are kept: `$IMPL_CACHE_DIR`, or `impl` in the platform's cache folder."""
    if folder := os.environ.get("IMPL_CACHE_DIR"):
        return Path(folder).expanduser().absolute()
    import pooch

    return Path(pooch.os_cache("impl"))


def _mirror_dir() -> Path | None:
    if not (folder := os.environ.get("IMPL_DATA_DIR")):
        return None
    path = Path(folder).expanduser().absolute()
    if not path.is_dir():
        raise DataError(f"IMPL_DATA_DIR must name a folder, got {folder!r}")
    return path


def fetch(dataset: str, path: str, *, registry: Registry | None = None) -> Path:
    """One file of a data set, at hand and verified: from the mirror, the cache, or its URL.

    Raises:
        DataError: if it is unknown, damaged where it lies, or cannot be downloaded whole.
    """
    file = (registry or shared_registry()).file(dataset, path)
    if (mirror := _mirror_dir()) is not None and (copy := mirror / dataset / path).exists():
        return _verified(copy, file, "replace it by the file from that address, or remove it from IMPL_DATA_DIR")
    target = cache_dir() / dataset / path
    again = "delete it to have it downloaded again"
    if target.exists():
        return _verified(target, file, again)
    try:
        from filelock import FileLock

        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if target.exists():  # another process had the lock and fetched it
                return _verified(target, file, again)
            _download(f"{dataset}/{path}", file, target)
    except OSError as error:
        raise DataError(
            f"cannot store {dataset}/{path} in the cache folder {cache_dir()}: {error}; "
            f"make room there, or set IMPL_CACHE_DIR to a folder that can be written"
        ) from error
    return target


def available(dataset: str, *, registry: Registry | None = None) -> bool:
    """Whether every file of the data set is at hand without a network (sizes are compared, hashes are not)."""
    roots = [root for root in (_mirror_dir(), cache_dir()) if root is not None]
    return all(
        any(
            (copy := root / dataset / file.path).is_file() and file.bytes in (None, copy.stat().st_size)
            for root in roots
        )
        for file in (registry or shared_registry()).dataset(dataset).files.values()
    )


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong while a data file is parsed into a `DataError` that names the file."""
    try:
        yield
    except DataError:
        raise
    except (OSError, EOFError, ValueError, KeyError, IndexError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(
            f"cannot read {path}: {type(error).__name__}: {error}; the file is damaged or of another kind: "
            f"delete it and fetch it again"
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verified(copy: Path, file: RemoteFile, remedy: str) -> Path:
    try:
        size, found = copy.stat().st_size, _sha256(copy)
    except OSError as error:
        raise DataError(f"cannot read {copy}: {error}; {remedy}") from error
    if found != file.sha256:
        expected = "" if file.bytes is None else f"{file.bytes} bytes, "
        raise DataError(
            f"{copy} is not the file at {file.url}: expected {expected}sha256 {file.sha256}, "
            f"got {size} bytes, sha256 {found}; {remedy}"
        )
    return copy


def _download(label: str, file: RemoteFile, target: Path) -> None:
    """Bring the file to `target`, whole or not at all. The caller holds its lock."""
    part = target.with_name(f"{target.name}.part")
    resumed = part.exists()
    _transfer_with_retries(label, file, part, target)
    found = _sha256(part)
    if found != file.sha256 and resumed:
        # The piece left by an earlier attempt may be what is wrong: once more from the start.
        part.unlink()
        _transfer_with_retries(label, file, part, target)
        found = _sha256(part)
    if found != file.sha256:
        part.unlink()
        raise DataError(
            f"{label}: what {file.url} sent has sha256 {found}, expected {file.sha256}; it was thrown away: the "
            f"file has changed there, or something on the way answers in its place; {_remedy(label, target)}"
        )
    os.replace(part, target)


def _remedy(label: str, target: Path) -> str:
    mirror = Path(os.environ.get("IMPL_DATA_DIR") or "$IMPL_DATA_DIR") / label
    return f"try again, or get the file by other means and put it at {mirror} or {target}"


def _transfer_with_retries(label: str, file: RemoteFile, part: Path, target: Path) -> None:
    import requests
    import urllib3

    problem = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(BACKOFF_S * 2 ** (attempt - 1))
        try:
            if file.url.startswith(("http://", "https://")):
                _transfer(file, part)
            else:
                _transfer_by_pooch(file, part)
        except requests.HTTPError as error:
            answer = error.response
            problem = f"the server answered {answer.status_code} {answer.reason}" if answer is not None else str(error)
            if answer is not None and answer.status_code in _FINAL_ANSWERS:
                break
        except requests.ConnectionError as error:
            # The cause lies below two layers of "max retries exceeded".
            cause = error.args[0] if error.args else error
            problem = f"the server cannot be reached or hung up: {getattr(cause, 'reason', cause)}"
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            problem = str(error)
        else:
            size = part.stat().st_size
            if file.bytes is None or size == file.bytes:
                return
            problem = f"the transfer ended after {size} of {file.bytes} bytes"
            if size > file.bytes:
                part.unlink()
                problem = f"the server sent more than {file.bytes} bytes"
    raise DataError(f"cannot download {label} from {file.url}: {problem}; {_remedy(label, target)}")


def _transfer_by_pooch(file: RemoteFile, part: Path) -> None:
    """Other addresses: `doi:` (pooch asks Zenodo, figshare or Dataverse where the file is) and `ftp:`."""
    import ftplib

    import requests
    from pooch.downloaders import choose_downloader

    part.unlink(missing_ok=True)
    try:
        choose_downloader(file.url)(file.url, str(part), None)
    except (*ftplib.all_errors, ValueError) as error:
        raise requests.RequestException(f"{type(error).__name__}: {error}") from error


def _transfer(file: RemoteFile, part: Path) -> None:
    """One HTTP request for what `part` lacks; everything when the server cannot send a range."""
    import requests

    have = part.stat().st_size if part.exists() else 0
    if file.bytes is not None and have == file.bytes:
        return
    # identity, and the raw stream below: the hash is of the file as it lies on the server, and a body that the
    # server calls gzip because the file is one must not be unpacked.
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with requests.get(file.url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        if response.status_code == 416:  # the piece is no beginning of what is there now
            part.unlink(missing_ok=True)
        response.raise_for_status()
        content_range = response.headers.get("Content-Range", "")
        resumes = response.status_code == 206 and content_range.startswith(f"bytes {have}-")
        mode: Literal["ab", "wb"] = "ab" if resumes else "wb"
        with part.open(mode) as out:
            for chunk in response.raw.stream(_CHUNK, decode_content=False):
                out.write(chunk)
                if file.bytes is not None and out.tell() > file.bytes:
                    break  # the caller refuses it; do not fill the disk first
            out.flush()
            os.fsync(out.fileno())
