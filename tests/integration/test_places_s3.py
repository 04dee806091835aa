import random
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from processes import PATIENCE_S, Start
from s3_server import PAGE_OBJECTS, S3Server, bucket_for, forget_clients, started_server
from web_server import Cutter

from infraredcity.errors import RemoteError, RemoteMissingError
from infraredcity.files import remote
from infraredcity.files.path import RemotePath, sizes_in
from infraredcity.files.retry import RemoteOptions
from infraredcity.files.traffic import traffic

LARGE_BYTES = 40_000_000
QUICK = RemoteOptions(deadline_s=1.0, backoff_s=0.05, listing_s=0.5, slowest_bytes_per_s=40e6)
PATIENT = RemoteOptions(deadline_s=600.0, backoff_s=0.05)
IN_TIME_S = 30.0
"""An error that came within this did not wait for the usual deadline, and hardly beyond a quick one."""


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[S3Server]:
    """A store for one test, which may be ill-treated."""
    yield from started_server(tmp_path)


@pytest.fixture
def own_bucket(own_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    yield from bucket_for(own_server, monkeypatch)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that is sent in parts."""
    path = tmp_path_factory.mktemp("large") / "shard.tar"
    path.write_bytes(random.Random(0).randbytes(LARGE_BYTES))
    return path


def requests_of(server: S3Server, call: Callable[[], object]) -> list[str]:
    before = len(server.requests())
    call()
    return server.requests()[before:]


def error_of(call: Callable[[], object]) -> str:
    """The line of the RemoteError that `call` ends with, in time."""
    started = time.monotonic()
    with pytest.raises(RemoteError) as raised:
        call()
    assert time.monotonic() - started < IN_TIME_S
    assert "\n" not in str(raised.value)
    assert "testing" not in str(raised.value)  # the user and the secret
    return str(raised.value)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_large_file_goes_in_parts_and_is_read_by_as_many_requests_as_chunks(
    s3_bucket: str, s3_server: S3Server, large: Path
) -> None:
    path, before = RemotePath(s3_bucket) / "shard.tar", traffic()
    sent = requests_of(s3_server, lambda: path.upload(large))
    assert [line.split()[0] for line in sent] == ["POST", "PUT", "PUT", "PUT", "POST", "HEAD"]
    assert traffic().sent_bytes - before.sent_bytes == LARGE_BYTES
    assert path.read_bytes() == large.read_bytes()
    file, chunk_bytes = path.file(), 4_000_000
    read = requests_of(
        s3_server, lambda: [file.read(start, chunk_bytes) for start in range(0, LARGE_BYTES, chunk_bytes)]
    )
    assert [line.split()[0] for line in read] == ["HEAD"] + ["GET"] * 10
    # A thread that an earlier test left behind at its deadline may still get a byte.
    assert traffic().received_bytes - before.received_bytes == pytest.approx(2 * LARGE_BYTES, abs=100)


def test_a_listing_comes_by_pages_and_asks_for_no_object(s3_bucket: str, s3_server: S3Server) -> None:
    bucket, num_objects = RemotePath(s3_bucket).name, 2 * PAGE_OBJECTS + 7
    for number in range(num_objects):
        s3_server.put(bucket, f"set/{number:04d}.json", bytes(number))
    s3_server.put(bucket, "set-b/x", b"")
    folder = RemotePath(s3_bucket) / "set"
    listed = requests_of(s3_server, lambda: sizes_in(folder))
    assert sizes_in(folder) == {f"{number:04d}.json": number for number in range(num_objects)}
    assert [line.split("?")[0] for line in listed] == [f"GET /{bucket}"] * 3
    asked = requests_of(s3_server, folder.is_dir)
    assert [line.split()[0] for line in asked] == ["HEAD", "GET"]
    assert "max-keys=1&" in f"{asked[1]}&"


@pytest.mark.slow
def test_a_folder_of_ten_thousand_objects_is_listed_in_pages(s3_bucket: str, s3_server: S3Server) -> None:
    bucket = RemotePath(s3_bucket).name
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: s3_server.put(bucket, f"set/{number:05d}", b"x"), range(10_000)))
    listed = requests_of(s3_server, lambda: sizes_in(RemotePath(s3_bucket) / "set"))
    assert len(listed) == 10_000 / PAGE_OBJECTS
    assert len(sizes_in(RemotePath(s3_bucket) / "set")) == 10_000


def test_an_object_for_the_folder_itself_is_no_file_in_it(s3_bucket: str, s3_server: S3Server) -> None:
    bucket = RemotePath(s3_bucket).name
    s3_server.put(bucket, "empty/", b"")
    s3_server.put(bucket, "full/", b"")
    s3_server.put(bucket, "full/full", b"x")
    assert (sizes_in(RemotePath(s3_bucket) / "empty"), (RemotePath(s3_bucket) / "empty").is_dir()) == ({}, True)
    assert sizes_in(RemotePath(s3_bucket) / "full") == {"full": 1}
    assert list(RemotePath(s3_bucket).iterdir()) == [RemotePath(s3_bucket) / "empty", RemotePath(s3_bucket) / "full"]


def test_an_empty_bucket_is_a_folder_and_a_missing_one_is_not_there(s3_bucket: str, tmp_path: Path) -> None:
    assert (RemotePath(s3_bucket).is_dir(), list(RemotePath(s3_bucket).iterdir())) == (True, [])
    gone = RemotePath("s3://no-such-bucket/set/x.bin")
    (tmp_path / "x").write_bytes(b"x")
    assert (gone.exists(), gone.parent.parent.exists(), sizes_in(gone.parent)) == (False, False, {})
    with pytest.raises(RemoteMissingError, match=r"s3://no-such-bucket/set/x\.bin: no such file or folder"):
        gone.read_bytes()
    for call in (lambda: gone.write_whole(b"x"), lambda: gone.upload(tmp_path / "x")):
        said = error_of(call)
        assert said == f"{gone}: there is no such bucket or folder to write to; make it, or check the URL"


def test_a_file_that_shrank_is_noticed(s3_bucket: str) -> None:
    path = RemotePath(s3_bucket) / "x.bin"
    path.write_whole(bytes(1000))
    file = path.file()
    assert file.read(0, 10) == bytes(10)
    path.write_whole(bytes(100))
    assert "changed while it was read, from 1000 bytes" in error_of(lambda: file.read(500, 10))


def every_call(path: RemotePath, source: Path) -> list[Callable[[], object]]:
    return [
        path.read_bytes,
        path.exists,
        lambda: list(path.parent.iterdir()),
        lambda: path.write_whole(b"x"),
        lambda: path.upload(source),
        path.unlink,
    ]


def test_wrong_credentials_are_one_line_at_once(own_server: S3Server, own_bucket: str, tmp_path: Path) -> None:
    path = RemotePath(own_bucket) / "set" / "x.bin"
    path.write_whole(b"x")
    own_server.require_credentials()
    (tmp_path / "x").write_bytes(b"x")
    for call in every_call(path, tmp_path / "x"):
        assert "access is refused; check who may read or write there, and the credentials" in error_of(call)


def test_no_credentials_are_one_line_at_once(s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    forget_clients()
    (tmp_path / "x").write_bytes(b"x")
    for call in every_call(RemotePath(s3_bucket) / "set" / "x.bin", tmp_path / "x"):
        assert "no credentials are found; check the URL and the credentials" in error_of(call)


def test_a_store_that_hangs_or_is_gone_meets_the_deadline(
    own_server: S3Server, own_bucket: str, tmp_path: Path
) -> None:
    path = RemotePath(own_bucket, QUICK) / "set" / "x.bin"
    RemotePath(path.url).write_whole(b"x")
    (tmp_path / "x").write_bytes(b"x")
    own_server.freeze()
    with ThreadPoolExecutor(6) as pool:
        for said in pool.map(lambda call: error_of(call), every_call(path, tmp_path / "x")):
            assert "no whole answer came in time; gave up after" in said
    own_server.thaw()
    assert RemotePath(
        own_bucket, PATIENT
    ).exists()  # of the file nothing is sure: what was left behind goes on, the removal too
    own_server.stop()
    with ThreadPoolExecutor(6) as pool:
        for said in pool.map(lambda call: error_of(call), every_call(path, tmp_path / "x")):
            assert re.search("(no connection|connection refused|no whole answer came in time).*; gave up after", said)


@pytest.mark.parametrize(
    "dies", [pytest.param(True, id="dies"), pytest.param(False, id="hangs", marks=pytest.mark.slow)]
)
def test_a_store_that_fails_in_the_middle_of_an_upload_has_nothing_or_the_whole(
    own_server: S3Server, own_bucket: str, large: Path, dies: bool
) -> None:
    path = RemotePath(own_bucket, QUICK) / "shard.tar"
    assert not RemotePath(path.url).exists()
    failing = threading.Thread(
        target=lambda: (
            wait_for(lambda: any(line.startswith("POST") for line in own_server.requests())),
            own_server.stop() if dies else own_server.freeze(),
        )
    )
    failing.start()
    said = error_of(lambda: path.upload(large))
    failing.join()
    assert "shard.tar: " in said
    assert "; gave up after" in said
    if not dies:
        own_server.thaw()
        wait_for(
            lambda: own_server.num_uploads(path.parent.name) == 0
        )  # the thread that was left behind ends it, or gives it up
        assert own_server.objects(path.parent.name) in ({}, {"shard.tar": large.read_bytes()})


def test_an_upload_that_is_killed_leaves_nothing_to_be_seen_and_is_done_again(
    s3_bucket: str, s3_server: S3Server, start_process: Start, large: Path
) -> None:
    path, bucket = RemotePath(s3_bucket) / "shard.tar", RemotePath(s3_bucket).name
    program = (
        "import sys, pathlib\nfrom infraredcity.files.path import RemotePath\n"
        "RemotePath(sys.argv[1]).upload(pathlib.Path(sys.argv[2]))"
    )
    process = start_process([sys.executable, "-c", program, path.url, str(large)])
    wait_for(lambda: s3_server.num_uploads(bucket))
    process.kill()
    process.wait()
    assert not path.exists()
    assert s3_server.num_uploads(bucket) == 1
    path.upload(large)
    assert path.stat().st_size == LARGE_BYTES


@pytest.mark.slow
def test_connections_that_are_cut_cost_time_alone(
    s3_bucket: str, s3_server: S3Server, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = Cutter(upstream=s3_server.port, cut_after=100)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
    forget_clients()
    path = RemotePath(s3_bucket, PATIENT) / "shard.tar"
    for call, expected in (
        (lambda: path.upload(large), None),
        (lambda: path.file().read(1_000_000, 500_000), large.read_bytes()[1_000_000:1_500_000]),
        (lambda: remote.listing(s3_bucket, PATIENT), {"shard.tar": LARGE_BYTES}),
    ):
        proxy.cuts_left = 2
        assert call() == expected
        assert proxy.cuts_left == 0
    proxy.close()
