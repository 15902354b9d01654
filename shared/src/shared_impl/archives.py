"""Unpacking archives that strangers made: nothing lands outside the folder, nothing half, nothing without limit."""

import bz2
import contextlib
import gzip
import hashlib
import io
import lzma
import os
import posixpath
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from shared_impl.data_error import DataError

__all__ = ["extract"]

_STAMP = ".extracted"
_CHUNK = 1 << 20
_HEADER = 1 << 20


@dataclass(frozen=True)
class _Member:
    name: str
    kind: Literal["file", "folder", "link"]
    size: int
    target: str = ""  # of a link: a name in the archive
    source: zipfile.ZipInfo | tarfile.TarInfo | None = None


def extract(archive: Path, to: Path, *, max_bytes: int = 20 << 30, max_files: int = 1_000_000) -> Path:
    """Unpack a zip or tar (.gz, .bz2, .xz) archive into the folder `to`, whole or not at all, and return `to`.

    The folder is made under a temporary name and renamed when complete; when it is there already from the same
    archive, nothing is done. Permissions and owners are not taken over. Links inside the archive become copies.

    Raises:
        DataError: if the archive is damaged, names a place outside (absolute, `..`, a link), holds devices or
            encrypted files, or unpacks to more than `max_bytes` bytes or `max_files` entries; or if `to` holds
            something else.
    """
    from filelock import FileLock

    try:
        with archive.open("rb") as file:
            stamp = hashlib.file_digest(file, "sha256").hexdigest()
        if _is_from(to, stamp):  # nothing is written: the folder may be read-only
            return to
        to.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{to}.lock"):
            if to.exists():
                if _is_from(to, stamp):
                    return to
                raise DataError(f"cannot unpack {archive}: {to} holds something else; remove it or choose another")
            scratch = Path(tempfile.mkdtemp(prefix=f".{to.name}.", dir=to.parent))
            try:
                _unpack(archive, scratch / "content", max_bytes=max_bytes, max_files=max_files)
                (scratch / "content" / _STAMP).write_text(stamp + "\n")
                os.rename(scratch / "content", to)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise DataError(
            f"cannot unpack {archive} to {to}: {type(error).__name__}: {error}; if the archive is damaged, delete it "
            f"and fetch it again"
        ) from error
    return to


def _is_from(folder: Path, stamp: str) -> bool:
    return (folder / _STAMP).is_file() and (folder / _STAMP).read_text().strip() == stamp


def _unpack(archive: Path, folder: Path, *, max_bytes: int, max_files: int) -> None:
    folder.mkdir()
    left = max_bytes
    count = 0
    links: list[_Member] = []
    with _opened(archive) as bundle:
        for member in _members(archive, bundle):
            count += 1
            if count > max_files:
                raise DataError(f"{archive} holds more than {max_files} entries; raise max_files if that is right")
            path = folder / _safe_name(archive, member.name)
            if member.kind == "folder":
                path.mkdir(parents=True, exist_ok=True)
            elif member.kind == "link":
                links.append(member)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                with _content(archive, bundle, member) as source:
                    left -= _copy(archive, source, path, limit=left, max_bytes=max_bytes)
    for link in links:
        target = folder / _safe_name(archive, link.target)
        if not target.is_file():
            raise DataError(f"{archive}: the link {link.name!r} points to {link.target!r}, which is no file in it")
        path = folder / _safe_name(archive, link.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with target.open("rb") as source:
            left -= _copy(archive, source, path, limit=left, max_bytes=max_bytes)


class _Bounded(io.RawIOBase):
    """What tarfile reads from: an extended header, which it takes whole, may have a megabyte and no more."""

    def __init__(self, file: IO[bytes], archive: Path) -> None:
        self.file, self.archive = file, archive
        self.header_left: int | None = _HEADER
        """bytes that may be read before the next member is known; None while content is read"""

    def read(self, size: int = -1) -> bytes:
        if self.header_left is not None:
            self.header_left -= size
        if size < 0 or size > _CHUNK or (self.header_left is not None and self.header_left < 0):
            raise DataError(f"{self.archive}: a header of more than {_HEADER} bytes; it is not unpacked")
        return self.file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile | tarfile.TarFile]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as bundle:
            yield bundle
        return
    with archive.open("rb") as raw, _decompressed(raw) as content:
        try:
            tar = tarfile.TarFile(fileobj=_Bounded(content, archive))
        except tarfile.ReadError as error:
            raise DataError(
                f"{archive} is no zip or tar archive, or is damaged: delete it and fetch it again"
            ) from error
        with tar:
            yield tar


def _decompressed(raw: IO[bytes]) -> IO[bytes]:
    start = raw.read(6)
    raw.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]
    if start.startswith(b"BZh"):
        return bz2.BZ2File(raw)
    return lzma.LZMAFile(raw) if start == b"\xfd7zXZ\x00" else raw


def _entries(bundle: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    source = bundle.fileobj
    assert isinstance(source, _Bounded)
    while True:
        source.header_left = _HEADER
        entry = bundle.next()
        source.header_left = None
        bundle.members = []  # type: ignore[attr-defined]  # it would keep them all
        if entry is None:
            return
        yield entry


def _members(archive: Path, bundle: zipfile.ZipFile | tarfile.TarFile) -> Iterator[_Member]:
    if isinstance(bundle, zipfile.ZipFile):
        for info in bundle.infolist():
            mode = info.external_attr >> 16
            if info.flag_bits & 1:
                raise DataError(f"{archive}: {info.filename!r} is encrypted")
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise DataError(
                    f"{archive}: {info.filename!r} is a link or a device; only files and folders are unpacked"
                )
            yield _Member(info.filename, "folder" if info.is_dir() else "file", info.file_size, source=info)
        return
    for entry in _entries(bundle):
        if entry.isdir():
            yield _Member(entry.name, "folder", 0)
        elif entry.isfile():
            yield _Member(entry.name, "file", entry.size, source=entry)
        elif entry.islnk():
            yield _Member(entry.name, "link", 0, target=entry.linkname)
        elif entry.issym():
            if entry.linkname.startswith("/"):
                raise DataError(f"{archive}: the link {entry.name!r} points outside, to {entry.linkname!r}")
            # A symbolic link is relative to where it lies.
            target = posixpath.normpath(posixpath.join(posixpath.dirname(entry.name), entry.linkname))
            yield _Member(entry.name, "link", 0, target=target)
        else:
            raise DataError(f"{archive}: {entry.name!r} is a device or a pipe; only files and folders are unpacked")


def _content(archive: Path, bundle: zipfile.ZipFile | tarfile.TarFile, member: _Member) -> IO[bytes]:
    if isinstance(bundle, zipfile.ZipFile):
        assert isinstance(member.source, zipfile.ZipInfo)
        try:
            return bundle.open(member.source)
        except (NotImplementedError, RuntimeError) as error:  # an unknown compression, a password
            raise DataError(f"{archive}: cannot unpack {member.name!r}: {error}") from error
    assert isinstance(member.source, tarfile.TarInfo)
    content = bundle.extractfile(member.source)
    assert content is not None
    return content


def _safe_name(archive: Path, name: str) -> str:
    """The name, refused unless it stays below the folder on every platform."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or re.search(r"[\\\0]|^[A-Za-z]:", name) or name == _STAMP:
        raise DataError(f"{archive} names a place outside its folder or a reserved name: {name!r}; it is not unpacked")
    return posixpath.normpath(name)


def _copy(archive: Path, source: IO[bytes], path: Path, *, limit: int, max_bytes: int) -> int:
    """Copy to a new file; counts what comes out, because what the archive says about sizes may be untrue."""
    written = 0
    with path.open("xb") as out:
        while chunk := source.read(_CHUNK):
            written += len(chunk)
            if written > limit:
                raise DataError(f"{archive} unpacks to more than {max_bytes} bytes; raise max_bytes if that is right")
            out.write(chunk)
    return written
