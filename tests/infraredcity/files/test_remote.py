import pickle
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from processes import PATIENCE_S

from infraredcity.errors import MissingExtraError, RemoteError
from infraredcity.files import http
from infraredcity.files.remote import RemoteFile, fetch
from infraredcity.files.retry import RemoteOptions
from infraredcity.files.urls import is_url, join, shown, shown_in, split_query

DATA = bytes(range(256)) * 40
QUICK = RemoteOptions(connect_timeout_s=1.0, read_timeout_s=0.5, deadline_s=1.0, backoff_s=0.02, backoff_cap_s=0.1)
"""For what never succeeds."""
PATIENT = RemoteOptions(
    connect_timeout_s=60.0, read_timeout_s=60.0, deadline_s=600.0, backoff_s=0.02, backoff_cap_s=0.1
)
"""For what succeeds in the end, or fails at once: on a busy machine either may take a while."""
IN_TIME_S = 60.0
"""An error that came within this did not wait for a patient deadline, and hardly beyond a quick one."""


@pytest.fixture
def memory() -> Iterator[str]:
    """The URL of a file of DATA in fsspec's memory."""
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe("/remote/data.tar", DATA)
    yield "memory://remote/data.tar"
    filesystem.store.clear()


class Host:
    """A server that gives the next of some answers, byte for byte, to each request; the last one again and again."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.requests: list[bytes] = []
        self.pause_s = 0.0  # between the bytes of an answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/data.tar"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client:
            request = b""
            while b"\r\n\r\n" not in request:
                request += client.recv(4096)
            self.requests.append(request)
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            try:
                if not self.pause_s:
                    client.sendall(answer)
                for byte in answer if self.pause_s else b"":
                    client.sendall(bytes([byte]))
                    time.sleep(self.pause_s)
            except OSError:
                return


@pytest.fixture
def host() -> Iterator[Host]:
    server = Host()
    yield server
    server.close()


def answer(status: str, body: bytes = b"", **headers: object) -> bytes:
    lines = {"Content-Length": len(body), "Connection": "close"} | {k.replace("_", "-"): v for k, v in headers.items()}
    return "\r\n".join([f"HTTP/1.1 {status}", *(f"{k}: {v}" for k, v in lines.items()), "", ""]).encode() + body


def part(start: int, stop: int, *, total: int = len(DATA), **headers: object) -> bytes:
    """A right answer to a range request."""
    return answer("206 Partial Content", DATA[start:stop], Content_Range=f"bytes {start}-{stop - 1}/{total}", **headers)


def error_of(call: Callable[[], object]) -> str:
    """The line of the RemoteError that `call` ends with, in time."""
    started = time.monotonic()
    with pytest.raises(RemoteError) as raised:
        call()
    assert time.monotonic() - started < IN_TIME_S
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_a_location_with_a_scheme_is_remote() -> None:
    assert all(map(is_url, ["https://host/x", "s3://bucket/x", "memory://x", "file:///x", "simplecache::s3://x"]))
    assert not any(map(is_url, ["/data/x.tar", "data/x.tar", "x.tar", "C:/x", "a b://x"]))


def test_a_name_joins_a_folders_path_and_not_its_query() -> None:
    assert join("s3://bucket/lite/", "a.tar") == "s3://bucket/lite/a.tar"
    assert join("https://host/lite?token=1", "a.tar") == "https://host/lite/a.tar?token=1"


def test_credentials_are_not_shown() -> None:
    assert shown("https://me:p%40ss@host:81/x.tar?X-Signature=abc#d") == "https://host:81/x.tar"
    assert shown("s3://key:se@cret@bucket/x.tar") == "s3://bucket/x.tar"


@pytest.mark.parametrize("root", ["s3://b", "https://host"])
def test_a_mark_that_stands_for_a_character_of_a_name_begins_no_query(root: str) -> None:
    assert shown(f"{root}/lite-00000?.tar") == f"{root}/lite-00000?.tar"
    assert shown(f"{root}/lite-0000??.tar?token=x.tar") == f"{root}/lite-0000??.tar"
    assert shown(f"{root}/lite?token=x") == f"{root}/lite"
    assert split_query(f"{root}/a?.tar?token=x") == (f"{root}/a?.tar", "?token=x")
    text = f"at {root}/a?.tar: gone; see ({root}/b?token=x), '{root}/c?.tar?key=y'."
    assert shown_in(text) == f"at {root}/a?.tar: gone; see ({root}/b), '{root}/c?.tar'."


@pytest.mark.parametrize("name", ["read_timeout_s", "deadline_s", "backoff_s"])
def test_a_timeout_that_is_not_positive_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be positive, got 0\.0"):
        RemoteOptions(**{name: 0.0})


def test_ranges_of_any_scheme_are_those_of_the_file(memory: str) -> None:
    file = RemoteFile(memory, expected_bytes=len(DATA))
    assert file.read(0, len(DATA)) == DATA
    assert file.read(300, 5) == DATA[300:305]
    assert file.read(len(DATA), 0) == b""
    assert (file.size_bytes, fetch(memory)) == (len(DATA), DATA)
    assert pickle.loads(pickle.dumps(file)).read(1, 2) == DATA[1:3]


def test_a_range_behind_the_end_is_an_error(memory: str) -> None:
    file = RemoteFile(memory)
    with pytest.raises(RemoteError, match=rf"ends before byte {len(DATA) + 1}, of which 2 were asked for"):
        file.read(len(DATA) - 1, 2)


def test_a_file_of_another_size_is_refused_at_first_contact(memory: str) -> None:
    with pytest.raises(
        RemoteError, match=rf"data\.tar: is {len(DATA)} bytes, the index says 7; copy the file there again"
    ):
        RemoteFile(memory, expected_bytes=7).read(0, 1)


def test_a_file_that_shrank_is_noticed_through_fsspec_too(memory: str) -> None:
    file = RemoteFile(memory, PATIENT)
    assert file.read(0, 10) == DATA[:10]
    fsspec.filesystem("memory").pipe("/remote/data.tar", DATA[:100])
    assert "changed while it was read" in error_of(lambda: file.read(90, 20))


def test_a_file_that_is_missing_or_too_large_is_named(memory: str) -> None:
    with pytest.raises(RemoteError, match="memory://remote/gone: no such file or folder; check the URL") as raised:
        fetch("memory://remote/gone")
    assert raised.value.is_missing
    with pytest.raises(RemoteError, match=f"is {len(DATA)} bytes, expected at most 10"):
        fetch(memory, max_bytes=10)


def test_a_scheme_that_nobody_knows_is_an_error_at_once() -> None:
    assert "fsspec cannot do it" in error_of(lambda: fetch("nowhere://x/y"))


@pytest.mark.parametrize(("package", "url"), [("urllib3", "http://127.0.0.1:9/x"), ("fsspec", "s3://bucket/x")])
def test_a_package_that_is_missing_is_named(package: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    http.pool.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"needs {package}, .* pip install -e '/.*\[remote\]'"):
        fetch(url, PATIENT)


def test_a_closed_file_is_not_read(memory: str) -> None:
    file = RemoteFile(memory)
    file.close()
    with pytest.raises(ValueError, match="was closed before"):
        file.read(0, 1)


class Stuck(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A file system whose servers fell silent."""

    protocol = "stuck"
    goes_on = threading.Event()

    def info(self, path: str, **options: object) -> dict[str, object]:
        self.goes_on.wait(PATIENCE_S)
        raise FileNotFoundError(path)


def test_a_file_system_that_hangs_meets_the_deadline(memory: str) -> None:
    fsspec.register_implementation("stuck", Stuck, clobber=True)
    file = RemoteFile(memory.replace("memory", "stuck"), QUICK, len(DATA))
    try:
        message = error_of(lambda: file.read(0, 10))
        assert re.search(r"no whole answer came in time; gave up after 1 attempt in \d+\.\d s", message)
    finally:
        Stuck.goes_on.set()


def test_what_passes_is_tried_again(host: Host) -> None:
    host.answers = [
        answer("503 Busy"),
        answer("429 Slow Down", Retry_After=0),
        b"",
        part(5, 15)[:-3],
        part(5, 15),
    ]
    assert RemoteFile(host.url, PATIENT, len(DATA)).read(5, 10) == DATA[5:15]
    assert len(host.requests) == 5
    assert b"Range: bytes=5-14\r\n" in host.requests[0]


def test_the_deadline_ends_in_one_line_with_what_happened_last(host: Host) -> None:
    host.answers = [answer("502 Bad Gateway")]
    message = error_of(lambda: RemoteFile(f"{host.url}?token=secret", QUICK).read(0, 9))
    assert re.fullmatch(
        r"http://127\.0\.0\.1:\d+/data\.tar: the server answered 502 Bad Gateway; gave up after \d+ attempts in \d+\.\d s; "
        "check the network and the server, then run it again",
        message,
    )
    assert len(host.requests) > 1


def test_a_server_that_asks_for_more_time_than_there_is_gets_no_second_request(host: Host) -> None:
    host.answers = [answer("503 Busy", Retry_After=30)]
    message = error_of(lambda: fetch(host.url, QUICK))
    assert "503 Busy, come again in 30 s; gave up after 1 attempt" in message
    assert len(host.requests) == 1


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (answer("404 Not Found"), "the server answered 404 Not Found; check the URL"),
        (answer("403 Forbidden"), "403 Forbidden; check who may read or write there, and the credentials"),
        (answer("416 Range Not Satisfiable"), "ends before byte 15, of which 10 were asked for"),
        (
            answer("200 OK", DATA),
            "sends only whole files.*copy the files to a disk here.*webdataset pipeline",
        ),
        (part(6, 16), "bytes 5 to 15 were asked for, 6 to 16 came"),
        (part(5, 14), "bytes 5 to 15 were asked for, 5 to 14 came"),
        (part(5, 15, total=99), "is 99 bytes, the index says 10240"),
        (answer("206 Partial Content", DATA[5:15]), "Content-Range is '', not a range"),
        (answer("206 Partial Content", DATA[5:15], Content_Range="bytes 5-14/*"), "not a range of a known whole"),
        (part(5, 15, Content_Encoding="gzip"), "comes packed as 'gzip'"),
        (part(5, 15, Content_Length=11) + b"x", "more than the 10 bytes that were asked for came"),
        (answer("302 Found", Location="/data.tar"), "more than 5 redirects"),
        (answer("302 Found", Location="file:///etc/passwd"), "file:///etc/passwd: is no address of http or https"),
    ],
)
def test_what_is_wrong_for_good_is_an_error_at_once(host: Host, sent: bytes, message: str) -> None:
    host.answers = [sent]
    file = RemoteFile(host.url.replace("//", "//me:secret@"), PATIENT, len(DATA))
    found = error_of(lambda: file.read(5, 10))
    assert re.search(message, found)
    assert "secret" not in found


def test_another_version_between_two_reads_is_an_error(host: Host) -> None:
    host.answers = [part(0, 5, ETag='"1"'), part(5, 9, ETag='"1"'), part(9, 12, ETag='"2"')]
    file = RemoteFile(host.url, PATIENT)
    assert (file.read(0, 5), file.read(5, 4), file.version) == (DATA[:5], DATA[5:9], '"1"')
    with pytest.raises(
        RemoteError, match='changed while it was read, from 10240 bytes, version "1" to 10240 bytes, version "2"'
    ):
        file.read(9, 3)


@pytest.mark.parametrize("sent", [part(0, 100), answer("200 OK", b"x" * 100_000)], ids=["range", "headers of a whole"])
def test_a_server_that_trickles_meets_the_deadline(host: Host, sent: bytes) -> None:
    host.answers, host.pause_s = [sent], 0.05  # each byte comes within the read timeout, all of them would take minutes
    error_of(lambda: RemoteFile(host.url, QUICK, len(DATA)).read(0, 100))


def test_a_redirect_is_followed_and_credentials_stay_with_their_host(host: Host) -> None:
    other = Host()
    other.answers = [part(0, 5)]
    host.answers = [answer("307 Temporary Redirect", Location=other.url)]
    assert RemoteFile(host.url.replace("//", "//me:secret@"), PATIENT).read(0, 5) == DATA[:5]
    assert b"authorization: basic" in host.requests[0].lower()
    assert b"authorization" not in other.requests[0].lower()
    other.close()


def test_a_whole_file_without_a_length_is_refused(host: Host) -> None:
    host.answers = [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf of a fi"]
    assert "does not say how long it is" in error_of(lambda: fetch(host.url, PATIENT))


def test_nobody_listening_is_told_after_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    message = error_of(lambda: RemoteFile(f"http://127.0.0.1:{port}/x.tar", QUICK).read(0, 1))
    assert "connection refused; gave up after" in message


def test_threads_share_one_file(memory: str) -> None:
    file = RemoteFile(memory)
    with ThreadPoolExecutor(8) as pool:
        places = [place % 200 for place in range(400)]
        assert list(pool.map(lambda place: file.read(place, 50), places)) == [
            DATA[place : place + 50] for place in places
        ]
