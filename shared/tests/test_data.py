"""Fetching from a mirror, a cache and a server on this machine that misbehaves on demand."""

import contextlib
import dataclasses
import hashlib
import http.server
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared_impl import data
from shared_impl.cli import UserError

CONTENT = bytes(range(256)) * 1200  # 300 kB


@dataclasses.dataclass
class Server:
    """What the server does, and what it was asked."""

    url: str = ""
    content: bytes = CONTENT
    ranges: bool = True
    cut_after: list[int] = dataclasses.field(default_factory=list)  # hang up after so many bytes, one a request
    answers: list[int] = dataclasses.field(default_factory=list)  # statuses to give first, one a request
    stall_after: int | None = None  # send so many bytes of the next answer, then wait for `go_on`
    go_on: threading.Event = dataclasses.field(default_factory=threading.Event)
    encoding: str | None = None
    asked: list[str | None] = dataclasses.field(default_factory=list)  # the Range header of each request


class Handler(http.server.BaseHTTPRequestHandler):
    state: Server

    def do_GET(self) -> None:
        state = self.state
        asked = self.headers.get("Range")
        state.asked.append(asked)
        if state.answers:
            self.send_error(state.answers.pop(0))
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and state.ranges else 0
        if start and start >= len(state.content):
            self.send_error(416)
            return
        body = state.content[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(state.content) - 1}/{len(state.content)}")
        if state.encoding:
            self.send_header("Content-Encoding", state.encoding)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if state.stall_after is not None:
            self.wfile.write(body[: state.stall_after])
            body, state.stall_after = body[state.stall_after :], None
            state.go_on.wait(30)
            with contextlib.suppress(ConnectionError):  # nobody there any more
                self.wfile.write(body)
            return
        self.wfile.write(body[: state.cut_after.pop(0)] if state.cut_after else body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()
    handler = type("BoundHandler", (Handler,), {"state": state})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        state.url = f"http://127.0.0.1:{httpd.server_port}/file.bin"
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        httpd.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no mirror, and quick retries."""
    for variable in ("IMPL_DATA_DIR", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("IMPL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(data, "BACKOFF_S", 0.01)
    return tmp_path


def registry_of(
    url: str, *, content: bytes = CONTENT, size: int | None = len(CONTENT), path: str = "sub/file.bin"
) -> data.Registry:
    file = data.RemoteFile(path, url, hashlib.sha256(content).hexdigest(), size)
    return data.Registry(Path("test.toml"), {"toy": data.Dataset("toy", "Toy", "d", "MIT", "c", {path: file})})


def fetch(registry: data.Registry) -> Path:
    return data.fetch("toy", "sub/file.bin", registry=registry)


def leftovers(tmp_path: Path) -> set[str]:
    return {path.name for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_a_download_is_verified_stored_in_the_cache_and_not_repeated(server: Server, tmp_path: Path) -> None:
    registry = registry_of(server.url)
    assert not data.available("toy", registry=registry)
    path = fetch(registry)
    assert path == tmp_path / "cache/toy/sub/file.bin"
    assert path.read_bytes() == CONTENT
    assert leftovers(tmp_path) == {"file.bin"}
    assert data.available("toy", registry=registry)
    assert server.asked == [None]


def test_the_mirror_comes_before_the_cache_and_the_network(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = registry_of(server.url)
    fetch(registry)
    copy = tmp_path / "mirror/toy/sub/file.bin"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(CONTENT)
    monkeypatch.setenv("IMPL_DATA_DIR", str(tmp_path / "mirror"))
    assert fetch(registry) == copy
    assert server.asked == [None]


def test_a_wrong_file_in_the_mirror_is_an_error_although_the_cache_has_the_right_one(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = registry_of(server.url)
    fetch(registry)
    copy = tmp_path / "mirror/toy/sub/file.bin"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(CONTENT[:-1])
    monkeypatch.setenv("IMPL_DATA_DIR", str(tmp_path / "mirror"))
    with pytest.raises(data.DataError) as caught:
        fetch(registry)
    for part in (str(copy), server.url, hashlib.sha256(CONTENT).hexdigest(), "IMPL_DATA_DIR", "replace it"):
        assert part in str(caught.value)
    assert server.asked == [None]


def test_a_mirror_without_the_file_falls_through_to_the_network(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMPL_DATA_DIR", str(tmp_path))
    assert fetch(registry_of(server.url)).read_bytes() == CONTENT


def test_a_mirror_that_is_no_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPL_DATA_DIR", str(tmp_path / "absent"))
    with pytest.raises(data.DataError, match="IMPL_DATA_DIR must name a folder"):
        fetch(registry_of("http://127.0.0.1:1/file.bin"))


def test_a_damaged_file_in_the_cache_is_an_error_that_says_to_delete_it(server: Server) -> None:
    registry = registry_of(server.url)
    path = fetch(registry)
    path.write_bytes(b"x" + CONTENT[1:])
    with pytest.raises(data.DataError, match="delete it to have it downloaded again") as caught:
        fetch(registry)
    assert str(path) in str(caught.value)
    path.unlink()
    assert fetch(registry).read_bytes() == CONTENT


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_wrong_hash_from_the_server_is_an_error_and_leaves_nothing(
    server: Server, tmp_path: Path, size: int | None
) -> None:
    server.content = CONTENT[:-1] + b"x"
    with pytest.raises(data.DataError) as caught:
        fetch(registry_of(server.url, size=size))
    for part in ("toy/sub/file.bin", server.url, hashlib.sha256(CONTENT).hexdigest(), "$IMPL_DATA_DIR/toy/sub"):
        assert part in str(caught.value)
    assert leftovers(tmp_path) == set()


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_transfer_that_breaks_off_is_resumed_where_it_broke(server: Server, size: int | None) -> None:
    server.cut_after = [100_000]
    assert fetch(registry_of(server.url, size=size)).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-"]


def test_a_server_without_ranges_sends_everything_again(server: Server) -> None:
    server.cut_after, server.ranges = [100_000], False
    assert fetch(registry_of(server.url)).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-"]


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_transfer_that_always_breaks_off_is_an_error_and_never_taken_for_whole(
    server: Server, tmp_path: Path, size: int | None
) -> None:
    server.cut_after = [1000] * data.ATTEMPTS
    registry = registry_of(server.url, size=size)
    with pytest.raises(data.DataError, match=r"cannot download toy/sub/file.bin from .*/file.bin") as caught:
        fetch(registry)
    assert "put it at $IMPL_DATA_DIR/toy/sub/file.bin" in str(caught.value)
    assert leftovers(tmp_path) == {"file.bin.part"}
    assert not data.available("toy", registry=registry)
    # What came is not lost: the next call goes on from there.
    assert fetch(registry).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=3000-"


@pytest.mark.parametrize(
    "old", [b"x" * 5000, b"x" * 400_000, CONTENT[:-1] + b"x"], ids=["piece", "longer", "same size"]
)
def test_a_piece_left_by_another_version_of_the_file_costs_one_more_download(
    server: Server, tmp_path: Path, old: bytes
) -> None:
    part = tmp_path / "cache/toy/sub/file.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(old)
    assert fetch(registry_of(server.url)).read_bytes() == CONTENT
    assert leftovers(tmp_path) == {"file.bin"}


def test_a_piece_that_a_killed_process_left_complete_is_used(server: Server, tmp_path: Path) -> None:
    part = tmp_path / "cache/toy/sub/file.bin.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT)
    assert fetch(registry_of(server.url)).read_bytes() == CONTENT
    assert server.asked == []


def test_a_missing_page_is_an_error_at_once(server: Server) -> None:
    server.answers = [404]
    with pytest.raises(data.DataError, match="the server answered 404"):
        fetch(registry_of(server.url))
    assert len(server.asked) == 1


def test_a_server_in_trouble_is_asked_again_a_few_times(server: Server) -> None:
    server.answers = [503, 429]
    assert fetch(registry_of(server.url)).read_bytes() == CONTENT
    server.answers = [503] * 10
    with pytest.raises(data.DataError, match="the server answered 503"):
        data.fetch("toy", "other.bin", registry=registry_of(server.url, path="other.bin"))
    assert len(server.asked) == 3 + data.ATTEMPTS


def test_a_file_longer_than_registered_is_refused(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT * 40
    with pytest.raises(data.DataError, match=f"the server sent more than {len(CONTENT)} bytes"):
        fetch(registry_of(server.url))
    assert leftovers(tmp_path) == set()


def test_a_file_that_the_server_calls_compressed_is_stored_as_it_is(server: Server) -> None:
    server.encoding = "gzip"
    assert fetch(registry_of(server.url)).read_bytes() == CONTENT


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_an_unreachable_host_is_an_error_that_says_where_to_put_the_file(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{closed_port()}/file.bin"
    with pytest.raises(data.DataError) as caught:
        fetch(registry_of(url))
    for part in ("toy/sub/file.bin", url, "refused", str(tmp_path / "cache/toy/sub/file.bin")):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, UserError)


@pytest.mark.parametrize("url", ["doi:10.5281/zenodo.1/file.bin", "ftp://example.org/file.bin"])
def test_other_addresses_go_through_pooch_and_are_verified_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    sent = [ValueError("no such record"), CONTENT[:-1] + b"x", CONTENT]

    def download(asked: str, out: str, _: object) -> None:
        assert asked == url
        if isinstance(sent[0], Exception):
            raise sent[0]
        Path(out).write_bytes(sent[0])

    monkeypatch.setattr("pooch.downloaders.choose_downloader", lambda _: download)
    with pytest.raises(data.DataError, match=rf"{url}: ValueError: no such record"):
        fetch(registry_of(url))
    del sent[0]
    with pytest.raises(data.DataError, match="has sha256"):
        fetch(registry_of(url))
    del sent[0]
    assert fetch(registry_of(url)).read_bytes() == CONTENT
    assert leftovers(tmp_path) == {"file.bin"}


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(data.DataError, match="set IMPL_CACHE_DIR to a folder that can be written"):
        fetch(registry_of("http://127.0.0.1:1/file.bin"))


FETCH = """
import sys
from pathlib import Path
from shared_impl import data

url, sha256, size = sys.argv[1:]
file = data.RemoteFile("sub/file.bin", url, sha256, int(size))
toy = data.Dataset("toy", "Toy", "d", "MIT", "c", {file.path: file})
print("ready", flush=True)
data.fetch("toy", file.path, registry=data.Registry(Path("test.toml"), {"toy": toy}))
"""


def fetching_process(server: Server) -> subprocess.Popen[str]:
    arguments = [server.url, hashlib.sha256(CONTENT).hexdigest(), str(len(CONTENT))]
    return subprocess.Popen([sys.executable, "-c", FETCH, *arguments], stdout=subprocess.PIPE, text=True)


def test_processes_that_fetch_at_once_all_get_the_file_and_one_downloads_it(server: Server, tmp_path: Path) -> None:
    server.stall_after = 200_000
    processes = [fetching_process(server) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)  # the one that came first is half way; the other meets its lock
    assert leftovers(tmp_path) <= {"file.bin.part"}
    server.go_on.set()
    for process in processes:
        with process:
            assert process.wait(30) == 0
    assert server.asked == [None]
    assert (tmp_path / "cache/toy/sub/file.bin").read_bytes() == CONTENT
    assert leftovers(tmp_path) == {"file.bin"}


def test_a_download_killed_half_way_is_not_taken_for_whole_and_goes_on_later(server: Server, tmp_path: Path) -> None:
    server.stall_after = 200_000
    part = tmp_path / "cache/toy/sub/file.bin.part"
    with fetching_process(server) as process:
        while not part.exists() or part.stat().st_size < 131_072:
            assert process.poll() is None
            time.sleep(0.005)
        process.kill()
    server.go_on.set()
    kept = part.stat().st_size
    assert 131_072 <= kept <= 200_000
    assert leftovers(tmp_path) == {"file.bin.part"}
    # The lock of the killed process is gone, and only what is missing is asked for.
    assert fetch(registry_of(server.url)).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={kept}-"]


def test_unknown_names_are_errors_that_list_the_known_ones() -> None:
    registry = registry_of("http://127.0.0.1:1/file.bin")
    with pytest.raises(data.DataError, match=r"dataset must be one of toy .*, got 'tox'"):
        data.fetch("tox", "file.bin", registry=registry)
    with pytest.raises(data.DataError, match=r"path must be one of toy's files sub/file.bin .*, got 'file.bin'"):
        data.fetch("toy", "file.bin", registry=registry)


ENTRY = {
    "path": '"a/b.csv"',
    "url": '"https://example.org/b.csv"',
    "sha256": f'"{"0" * 64}"',
    "bytes": "3",
}


def toml_of(**changes: str | None) -> str:
    lines = [f"{key} = {value}" for key, value in {**ENTRY, **changes}.items() if value is not None]
    head = '[toy]\nname = "n"\ndescription = "d"\nlicence = "l"\ncitation = "c"\n[[toy.files]]\n'
    return head + "\n".join(lines)


def test_a_package_has_its_own_registry(tmp_path: Path) -> None:
    source = tmp_path / "datasets.toml"
    source.write_text(toml_of(bytes=None))
    registry = data.load_registry(source)
    file = registry.file("toy", "a/b.csv")
    assert file == data.RemoteFile("a/b.csv", "https://example.org/b.csv", "0" * 64, None)
    assert registry.dataset("toy").licence == "l"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": '"../b.csv"'}, "path must be relative"),
        ({"path": '"/etc/b.csv"'}, "path must be relative"),
        ({"path": '"C:/b.csv"'}, "path must be relative"),
        ({"path": "'a\\b.csv'"}, "path must be relative"),
        ({"path": '""'}, "path must be relative"),
        ({"url": '"file:///etc/passwd"'}, "url of 'a/b.csv' must start with"),
        ({"sha256": '"abc"'}, "sha256 of 'a/b.csv' must be 64 hexadecimal digits"),
        ({"bytes": '"3"'}, "bytes of 'a/b.csv' must be a whole number"),
        ({"sha256": None}, "a file has path, url, sha256 and bytes"),
        ({"size": "3"}, "a file has path, url, sha256 and bytes"),
        ({"bytes": "3 4"}, "cannot read the data registry"),
    ],
)
def test_a_registry_with_a_wrong_entry_is_refused(tmp_path: Path, changes: dict[str, str | None], message: str) -> None:
    source = tmp_path / "datasets.toml"
    source.write_text(toml_of(**changes))
    with pytest.raises(data.DataError, match=re.escape(message)) as caught:
        data.load_registry(source)
    assert str(source) in str(caught.value)


@pytest.mark.parametrize("line", ['licence = "l"', 'name = "n"'])
def test_a_data_set_without_its_licence_or_name_is_refused(tmp_path: Path, line: str) -> None:
    source = tmp_path / "datasets.toml"
    source.write_text(toml_of().replace(line + "\n", ""))
    with pytest.raises(data.DataError, match=f"{line.split()[0]} must be a text"):
        data.load_registry(source)


def test_every_shared_data_set_is_complete_and_its_address_is_pinned_to_a_commit() -> None:
    for dataset in data.shared_registry().datasets.values():
        for file in dataset.files.values():
            assert re.search(r"/[0-9a-f]{40}/", file.url), file


def test_reading_names_the_file_that_cannot_be_parsed(tmp_path: Path) -> None:
    with (
        pytest.raises(data.DataError, match=r"cannot read .*x\.csv: ValueError: .*delete it and fetch it again"),
        data.reading(tmp_path / "x.csv"),
    ):
        float("no number")
