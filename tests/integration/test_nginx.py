"""Shards behind a real web server, and what befalls one: the same bytes as from a disk, or one line within the deadline."""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from processes import PATIENCE_S
from web_server import Cutter, Nginx, serving

from infraredcity.errors import InfraredCityError, RemoteError, ShardError
from infraredcity.files.chunk_cache import ChunkCache
from infraredcity.files.remote import RemoteFile, fetch
from infraredcity.files.retry import RemoteOptions
from infraredcity.shards import index_file
from infraredcity.shards.by_row import ShardFiles
from infraredcity.shards.index import SampleIndex
from infraredcity.shards.index_file import INDEX_NAME

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")

QUICK = RemoteOptions(connect_timeout_s=2.5, read_timeout_s=2.5, deadline_s=2.5, backoff_s=0.02, backoff_cap_s=0.2)
"""For what never succeeds."""
PATIENT = RemoteOptions(
    connect_timeout_s=60.0, read_timeout_s=60.0, deadline_s=600.0, backoff_s=0.02, backoff_cap_s=0.2
)
"""For what succeeds in the end, or fails at once: on a busy machine either may take a while."""
IN_TIME_S = 60.0
"""An error that came within this did not wait for a patient deadline, and hardly beyond a quick one."""


@dataclass(frozen=True)
class Shards:
    """Shards of two clips in a folder that nginx serves, and what each row's image is."""

    folder: Path
    index: SampleIndex
    images: list[bytes]

    def largest_row(self) -> int:
        return int(np.argmax(self.index.size))

    def name_of(self, row: int) -> str:
        return self.index.shards[int(self.index.shard[row])].name


@pytest.fixture
def shards(extracted: Path, tmp_path: Path) -> Shards:
    folder = tmp_path / "www"
    shutil.copytree(extracted / "city_clear", folder)
    index = index_file.load(folder)
    with ShardFiles(index, folder) as files:
        return Shards(folder, index, [files.image(row) for row in range(len(index))])


@pytest.fixture
def nginx(shards: Shards, tmp_path: Path) -> Iterator[Nginx]:
    with serving(shards.folder, tmp_path / "nginx") as server:
        yield server


@pytest.fixture
def cutter(nginx: Nginx) -> Iterator[Cutter]:
    proxy = Cutter(upstream=nginx.port)
    yield proxy
    proxy.close()


@pytest.fixture
def cache(tmp_path: Path) -> ChunkCache:
    return ChunkCache(tmp_path / "cache", 10_000_000, 8192)


def error_of(call: Callable[[], object]) -> str:
    """The line of the error of ours that `call` ends with, in time."""
    started = time.monotonic()
    with pytest.raises(InfraredCityError) as raised:
        call()
    assert time.monotonic() - started < IN_TIME_S
    assert "\n" not in str(raised.value)
    return str(raised.value)


def read_all(files: ShardFiles, shards: Shards, *, times: int = 1, threads: int = 4) -> None:
    """Every image in some order, by several threads, compared with what it is."""
    rows = np.random.default_rng(0).permutation(np.repeat(np.arange(len(shards.index)), times)).tolist()
    with ThreadPoolExecutor(threads) as pool:
        for row, image in zip(rows, pool.map(files.image, rows), strict=True):
            assert image == shards.images[row]


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("place", ["", "/moved"])
def test_the_bytes_are_those_of_the_disk(
    shards: Shards, nginx: Nginx, cache: ChunkCache, cached: bool, place: str
) -> None:
    assert fetch(f"{nginx.url}{place}/{INDEX_NAME}", PATIENT) == (shards.folder / INDEX_NAME).read_bytes()
    with ShardFiles(shards.index, nginx.url + place, PATIENT, cache if cached else None) as files:
        files.prefetch(np.arange(30))
        read_all(files, shards)
        with ShardFiles(shards.index, shards.folder) as here:
            assert all(files.sample(row) == here.sample(row) for row in range(len(shards.index)))


def test_what_is_in_the_cache_needs_no_server(shards: Shards, nginx: Nginx, cache: ChunkCache) -> None:
    with ShardFiles(shards.index, nginx.url, PATIENT, cache) as files:
        read_all(files, shards)
        chunks = sum(-(-info.size_bytes // cache.chunk_bytes) for info in shards.index.shards)
        assert len(nginx.requests()) <= chunks
        nginx.kill()
        read_all(files, shards)


def test_a_server_that_is_killed_and_comes_back_costs_time_alone(
    shards: Shards, nginx: Nginx, cache: ChunkCache
) -> None:
    over = threading.Event()

    def torment() -> None:
        while not over.is_set():
            nginx.kill()
            time.sleep(0.2)
            nginx.start()
            over.wait(0.3)

    killer = threading.Thread(target=torment)
    killer.start()
    try:
        with ShardFiles(shards.index, nginx.url, PATIENT) as files:
            read_all(files, shards, times=3, threads=8)
        with ShardFiles(shards.index, nginx.url, PATIENT, cache) as files:
            files.prefetch(np.arange(50))
            read_all(files, shards)
    finally:
        over.set()
        killer.join()


def test_a_server_that_stays_away_is_one_line_within_the_deadline(
    shards: Shards, nginx: Nginx, cache: ChunkCache
) -> None:
    with ShardFiles(shards.index, nginx.url, QUICK, cache) as files:
        assert files.image(0) == shards.images[0]
        nginx.kill()
        row = len(shards.index) - 1
        with ThreadPoolExecutor(4) as pool:  # and those that wait for who fetches a chunk are in time too
            for said in pool.map(lambda _: error_of(lambda: files.image(row)), range(4)):
                assert "connection refused; gave up after" in said
                assert "attempts in" in said


@pytest.mark.parametrize("cut_after", [0, 10, 150, 400, 1000])
def test_connections_that_are_cut_cost_time_alone(
    shards: Shards, cutter: Cutter, cache: ChunkCache, cut_after: int
) -> None:
    cutter.cut_after, cutter.cuts_left = cut_after, 12
    with ShardFiles(shards.index, f"http://127.0.0.1:{cutter.port}", PATIENT, cache) as files:
        read_all(files, shards)
    assert cutter.cuts_left == 0


def test_connections_that_are_always_cut_are_one_line_within_the_deadline(shards: Shards, cutter: Cutter) -> None:
    cutter.cut_after, cutter.cuts_left = 400, 10**6
    with ShardFiles(shards.index, f"http://127.0.0.1:{cutter.port}", QUICK) as files:
        said = error_of(lambda: files.image(shards.largest_row()))
    assert "gave up after" in said
    assert "check the network and the server" in said


def test_a_server_that_is_too_slow_is_one_line_within_the_deadline(
    shards: Shards, nginx: Nginx, cache: ChunkCache
) -> None:
    for kept in (None, cache):
        with ShardFiles(shards.index, f"{nginx.url}/slow", QUICK, kept) as files:
            error_of(partial(files.image, shards.largest_row()))


def test_a_server_without_ranges_is_told_at_once(shards: Shards, nginx: Nginx) -> None:
    with ShardFiles(shards.index, f"{nginx.url}/whole", PATIENT) as files:
        said = error_of(lambda: files.image(0))
    assert "sends only whole files" in said


def test_a_server_that_is_always_busy_is_one_line(shards: Shards, nginx: Nginx) -> None:
    with ShardFiles(shards.index, f"{nginx.url}/busy", QUICK) as files:
        assert "503 Service Temporarily Unavailable; gave up after" in error_of(lambda: files.image(0))


def test_a_shard_that_is_not_there_is_named(shards: Shards, nginx: Nginx) -> None:
    with ShardFiles(shards.index, f"{nginx.url}/nowhere", PATIENT) as files:
        assert f"/nowhere/{shards.name_of(0)}: the server answered 404" in error_of(lambda: files.image(0))


def test_a_shorter_shard_is_refused(shards: Shards, nginx: Nginx, cache: ChunkCache) -> None:
    path = shards.folder / shards.name_of(0)
    size = path.stat().st_size
    os.truncate(path, size - 512)
    with ShardFiles(shards.index, nginx.url, PATIENT, cache) as files:
        said = error_of(lambda: files.image(0))
    assert f"is {size - 512} bytes, the index says {size}; copy the file there again" in said


def test_a_shard_that_changes_between_two_reads_is_an_error(shards: Shards, nginx: Nginx) -> None:
    path = shards.folder / shards.name_of(0)
    with ShardFiles(shards.index, nginx.url, PATIENT) as files:
        assert files.image(0) == shards.images[0]
        os.utime(path, (1, 1))  # nginx makes its ETag of time and size
        assert "changed while it was read, from" in error_of(lambda: files.image(1))


def test_a_shard_with_other_bytes_of_the_same_size_is_stale(shards: Shards, nginx: Nginx, cache: ChunkCache) -> None:
    path = shards.folder / shards.name_of(0)
    content = bytearray(path.read_bytes())
    content[int(shards.index.offset[0]) + 5] ^= 1
    path.write_bytes(content)
    with (
        ShardFiles(shards.index, nginx.url, PATIENT, cache) as files,
        pytest.raises(ShardError, match="stale or damaged"),
    ):
        files.image(0)


def test_one_connection_serves_many_reads(shards: Shards, nginx: Nginx) -> None:
    file = RemoteFile(f"{nginx.url}/{shards.name_of(0)}", PATIENT)
    data = (shards.folder / shards.name_of(0)).read_bytes()
    assert all(file.read(place, 100) == data[place : place + 100] for place in range(0, 5000, 100))
    assert (file.size_bytes, file.version[:1]) == (len(data), '"')
    until_s = time.monotonic() + PATIENCE_S
    while len(nginx.requests()) < 50 and time.monotonic() < until_s:  # a line is written after its answer was sent
        time.sleep(0.02)
    assert (len(nginx.requests()), len(set(nginx.requests()))) == (50, 1)
    with pytest.raises(RemoteError, match="ends before byte"):
        file.read(len(data) - 5, 6)
    with pytest.raises(RemoteError, match="ends before byte"):
        file.read(len(data), 6)
