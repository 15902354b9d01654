"""Unpacking archives, good ones and hostile ones."""

import gzip
import io
import stat
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from shared_impl import archives
from shared_impl.data import DataError, extract

FILES = {"top.txt": b"top", "deep/er/file.bin": bytes(range(256)) * 40, "empty": b""}


def make_tar(path: Path, files: dict[str, bytes], *extra: tarfile.TarInfo, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in extra:
            tar.addfile(info)
    return path


def make_zip(path: Path, files: dict[str, bytes], *, mode: int = 0o644 | stat.S_IFREG) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            bundle.writestr(info, content)
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".extracted"
    }


MAKERS: dict[str, Callable[[Path], Path]] = {
    "zip": lambda path: make_zip(path / "a.zip", FILES),
    "tar": lambda path: make_tar(path / "a.tar", FILES),
    "tar.gz": lambda path: make_tar(path / "a.tar.gz", FILES, mode="w:gz"),
    "tar.bz2": lambda path: make_tar(path / "a.tar.bz2", FILES, mode="w:bz2"),
    "tar.xz": lambda path: make_tar(path / "a.tar.xz", FILES, mode="w:xz"),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_an_archive_unpacks_to_its_files_and_a_second_call_changes_nothing(tmp_path: Path, kind: str) -> None:
    archive = MAKERS[kind](tmp_path)
    to = extract(archive, tmp_path / "out/set")
    assert to == tmp_path / "out/set"
    assert contents(to) == FILES
    before = (to / "top.txt").stat().st_mtime_ns
    assert extract(archive, to) == to
    assert (to / "top.txt").stat().st_mtime_ns == before
    assert {path.name for path in to.parent.iterdir()} == {"set", "set.lock"}


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.bz2", "tar.xz", "zip"])
def test_an_archive_cut_short_is_an_error_and_leaves_no_folder(tmp_path: Path, kind: str) -> None:
    archive = MAKERS[kind](tmp_path)
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="delete it and fetch it again") as caught:
        extract(archive, tmp_path / "out/set")
    assert str(archive) in str(caught.value)
    assert contents(tmp_path / "out").keys() <= {"set.lock"}


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "..\\evil", "C:/evil", "a/..", ".extracted"])
@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_a_name_that_leads_outside_is_refused(tmp_path: Path, make: Callable[..., Path], name: str) -> None:
    archive = make(tmp_path / "bad", {"good": b"1", name: b"2"})
    if make is make_zip and name not in zipfile.ZipFile(archive).namelist():
        pytest.skip("zipfile itself does not keep this name")
    with pytest.raises(DataError, match="names a place outside its folder or a reserved name") as caught:
        extract(archive, tmp_path / "out/set")
    assert str(archive) in str(caught.value)
    assert {path.name for path in tmp_path.rglob("*")} == {"bad", "out", "set.lock"}


@pytest.mark.parametrize(
    "member",
    [
        special("link", tarfile.SYMTYPE, "/etc/passwd"),
        special("link", tarfile.SYMTYPE, "../../etc/passwd"),
        special("link", tarfile.SYMTYPE, "nowhere"),
        special("link", tarfile.LNKTYPE, "/etc/passwd"),
        special("link", tarfile.LNKTYPE, "../secret"),
        special("pipe", tarfile.FIFOTYPE),
        special("device", tarfile.CHRTYPE),
        special("disk", tarfile.BLKTYPE),
    ],
    ids=lambda info: f"{info.name}-{info.type.decode()}-{info.linkname}",
)
def test_links_outside_and_devices_are_refused(tmp_path: Path, member: tarfile.TarInfo) -> None:
    (tmp_path / "secret").write_text("secret")
    archive = make_tar(tmp_path / "bad.tar", {"good": b"1"}, member)
    with pytest.raises(DataError, match=r"bad\.tar"):
        extract(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_link_to_a_folder_cannot_carry_a_file_outside(tmp_path: Path) -> None:
    archive = tmp_path / "bad.tar"
    with tarfile.open(archive, "w") as tar:
        tar.addfile(special("sub", tarfile.SYMTYPE, ".."))
        info = tarfile.TarInfo("sub/evil")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    with pytest.raises(DataError, match=r"bad\.tar"):
        extract(archive, tmp_path / "out")
    assert not list(tmp_path.rglob("evil"))


def test_links_inside_become_copies(tmp_path: Path) -> None:
    links = (
        special("deep/soft", tarfile.SYMTYPE, "../top.txt"),
        special("hard", tarfile.LNKTYPE, "deep/er/file.bin"),
    )
    out = extract(make_tar(tmp_path / "a.tar", FILES, *links), tmp_path / "out")
    assert contents(out) == {**FILES, "deep/soft": FILES["top.txt"], "hard": FILES["deep/er/file.bin"]}
    assert not any(path.is_symlink() for path in out.rglob("*"))


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "bad.zip", {"link": b"/etc/passwd"}, mode=0o777 | stat.S_IFLNK)
    with pytest.raises(DataError, match="'link' is a link or a device"):
        extract(archive, tmp_path / "out")


def test_a_name_that_comes_twice_is_an_error(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tar", {"same": b"1"})
    with tarfile.open(archive, "a") as tar:
        tar.addfile(tarfile.TarInfo("same"))
    with pytest.raises(DataError, match="FileExistsError"):
        extract(archive, tmp_path / "out")


@pytest.mark.parametrize("make", [make_tar, make_zip])
def test_limits_on_bytes_and_entries_hold_to_the_byte(tmp_path: Path, make: Callable[..., Path]) -> None:
    archive = make(tmp_path / "big", {"a": bytes(3_000_000), "b": bytes(10)})
    with pytest.raises(DataError, match="unpacks to more than 3000009 bytes; raise max_bytes"):
        extract(archive, tmp_path / "out", max_bytes=3_000_009)
    with pytest.raises(DataError, match="holds more than 1 entries; raise max_files"):
        extract(archive, tmp_path / "out", max_files=1)
    assert not (tmp_path / "out").exists()
    extract(archive, tmp_path / "out", max_bytes=3_000_010, max_files=2)


def test_a_zip_that_lies_about_its_sizes_is_refused(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "bomb.zip", {"a": bytes(1_000_000)})
    content = archive.read_bytes()
    assert content.count((1_000_000).to_bytes(4, "little")) == 2
    archive.write_bytes(content.replace((1_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(DataError, match=r"bomb\.zip"):
        extract(archive, tmp_path / "out", max_bytes=500_000)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    archive = MAKERS["zip"](tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("mine")
    with pytest.raises(DataError, match="holds something else"):
        extract(archive, tmp_path / "out")
    assert contents(tmp_path / "out") == {"mine": b"mine"}
    # The same holds for what another archive left there.
    extract(archive, tmp_path / "set")
    with pytest.raises(DataError, match="holds something else"):
        extract(make_zip(tmp_path / "b.zip", {"other": b"1"}), tmp_path / "set")


def test_what_is_no_archive_and_what_is_missing_are_errors(tmp_path: Path) -> None:
    (tmp_path / "page.zip").write_text("<html>404</html>")
    with pytest.raises(DataError, match=r"page\.zip is no zip or tar archive"):
        extract(tmp_path / "page.zip", tmp_path / "out")
    with pytest.raises(DataError, match=r"absent\.zip .*FileNotFoundError"):
        extract(tmp_path / "absent.zip", tmp_path / "out")


def test_an_unpacking_that_is_interrupted_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(archives, "_copy", interrupt)
    with pytest.raises(KeyboardInterrupt):
        extract(MAKERS["zip"](tmp_path), tmp_path / "out/set")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"set.lock"}


def test_processes_that_unpack_at_once_do_no_harm(tmp_path: Path) -> None:
    archive = MAKERS["tar.gz"](tmp_path)
    script = "import sys, pathlib, shared_impl.data as d; d.extract(*map(pathlib.Path, sys.argv[1:]))"
    command = [sys.executable, "-c", script, str(archive), str(tmp_path / "out")]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert contents(tmp_path / "out") == FILES


@pytest.mark.parametrize("kind", ["longname", "pax"])
def test_a_header_that_would_fill_the_memory_is_refused(tmp_path: Path, kind: str) -> None:
    """Zeros compress a thousandfold: a header of 600 MB is a small file."""
    size = 600 << 20
    header = tarfile.TarInfo("././@LongLink")
    header.type = tarfile.GNUTYPE_LONGNAME if kind == "longname" else tarfile.XHDTYPE
    header.size = size
    path = tmp_path / "bomb.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as out:
        out.write(header.tobuf(tarfile.GNU_FORMAT))
        for _ in range(8):
            out.write(bytes(1 << 20))  # the rest would come as well; reading must stop before
    tracemalloc.start()
    with pytest.raises(DataError, match="a header of more than"):
        extract(path, tmp_path / "out", max_bytes=1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20
    assert not (tmp_path / "out").exists()


def test_names_of_ordinary_length_in_extended_headers_are_read(tmp_path: Path) -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        name = "é" * 120 + "/" + "x" * 200
        path = tmp_path / f"{form}.tar.xz"
        with tarfile.open(path, "w:xz", format=form) as tar:
            for i in range(3):
                info = tarfile.TarInfo(f"{name}{i}")
                info.size = 5
                tar.addfile(info, io.BytesIO(b"hello"))
        folder = extract(path, tmp_path / f"out{form}")
        assert (folder / f"{name}2").read_bytes() == b"hello"


def test_what_is_there_already_needs_no_writable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("a")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"1"))
    extract(path, tmp_path / "out")
    (tmp_path / "out.lock").unlink(missing_ok=True)

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert extract(path, tmp_path / "out") == tmp_path / "out"
