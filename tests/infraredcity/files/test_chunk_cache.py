import contextlib
import logging
import multiprocessing
import os
import pickle
import resource
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from processes import PATIENCE_S

from infraredcity.errors import OutputError
from infraredcity.files.chunk_cache import MAX_OPEN_CHUNKS, ChunkCache, default_cache

DATA = np.random.default_rng(0).bytes(5000)


@dataclass
class Blob:
    """A file of DATA that keeps a list of what is read from it, and takes its time."""

    seconds: float = 0.0
    deadline_s: float = 600.0
    size_bytes: int = len(DATA)
    asked: list[tuple[int, int]] = field(default_factory=list)

    def read(self, offset: int, size: int, *, within_s: float | None = None) -> bytes:
        self.asked.append((offset, size))
        time.sleep(self.seconds)
        return DATA[offset : offset + size]


def chunk_files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("[0-9a-f][0-9a-f]/*") if not path.name.startswith(".")]


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in chunk_files(folder))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    reads=st.lists(st.tuples(st.integers(0, len(DATA)), st.integers(0, 400)), max_size=8),
    chunk_bytes=st.integers(20, 300),
    room=st.integers(2, 12),
)
def test_reads_through_a_cache_are_slices_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, reads: list[tuple[int, int]], chunk_bytes: int, room: int
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    cache = ChunkCache(folder, room * (chunk_bytes + 16), chunk_bytes)
    file = Blob()
    for offset, size in reads:
        size = min(size, len(DATA) - offset)
        assert cache.read(file, "blob", offset, size) == DATA[offset : offset + size]
        assert bytes_in(folder) <= cache.max_bytes
    facts = cache.facts()
    assert facts.fetched_bytes == sum(size for _, size in file.asked)
    assert (facts.misses, facts.dropped, facts.disabled) == (len(file.asked), 0, None)


def test_what_was_read_once_is_read_from_the_disk(tmp_path: Path) -> None:
    file = Blob()
    for _ in range(2):
        cache = pickle.loads(pickle.dumps(ChunkCache(tmp_path, 10_000, 1000)))
        assert cache.read(file, "blob", 900, 3000) == DATA[900:3900]
    assert file.asked == [(0, 1000), (1000, 1000), (2000, 1000), (3000, 1000)]
    assert (cache.facts().hits, cache.facts().misses) == (4, 0)


def test_another_content_has_other_chunks(tmp_path: Path) -> None:
    cache, file = ChunkCache(tmp_path, 10_000, 1000), Blob()
    cache.read(file, "one", 0, 10)
    cache.read(file, "other", 0, 10)
    ChunkCache(tmp_path, 10_000, 500).read(file, "one", 0, 10)
    assert file.asked == [(0, 1000), (0, 1000), (0, 500)]


def test_a_place_behind_the_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bytes up to 5001 were asked for, the file has 5000"):
        ChunkCache(tmp_path, 10_000, 1000).read(Blob(), "blob", 4990, 11)


@pytest.mark.parametrize("place", [0, 15, 16, 500, 1015])
def test_a_flipped_byte_is_noticed_and_fetched_again(tmp_path: Path, place: int) -> None:
    file = Blob()
    ChunkCache(tmp_path, 10_000, 1000).read(file, "blob", 0, 1000)
    (path,) = chunk_files(tmp_path)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    cache = ChunkCache(tmp_path, 10_000, 1000)
    assert [cache.read(file, "blob", 0, 1000) for _ in range(2)] == [DATA[:1000]] * 2
    assert (cache.facts().dropped, cache.facts().misses, cache.facts().hits) == (1, 1, 1)


@pytest.mark.parametrize("change", ["cut", "longer", "empty", "under another name"])
def test_a_chunk_that_is_not_what_was_written_is_fetched_again(tmp_path: Path, change: str) -> None:
    file = Blob()
    ChunkCache(tmp_path, 10_000, 1000).read(file, "blob", 0, 2000)
    paths = chunk_files(tmp_path)
    contents = [path.read_bytes() for path in paths]
    for path, content, other in zip(paths, contents, contents[::-1], strict=True):
        path.write_bytes(
            {"cut": content[:-1], "longer": content + b"x", "empty": b"", "under another name": other}[change]
        )
    cache = ChunkCache(tmp_path, 10_000, 1000)
    assert cache.read(file, "blob", 0, 2000) == DATA[:2000]
    assert cache.facts().dropped == 2


def test_a_chunk_that_is_cut_while_it_is_open_is_fetched_again(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path, 10_000, 1000)
    for _ in range(2):
        cache.read(Blob(), "blob", 0, 1000)
    os.truncate(chunk_files(tmp_path)[0], 300)
    assert cache.read(Blob(), "blob", 0, 1000) == DATA[:1000]


def test_what_was_found_wrong_is_forgotten(tmp_path: Path) -> None:
    cache, file = ChunkCache(tmp_path, 10_000, 1000), Blob()
    for _ in range(2):
        cache.read(file, "blob", 0, 3000)
    cache.forget("blob", 900, 200)
    assert len(chunk_files(tmp_path)) == 1
    cache.read(file, "blob", 0, 3000)
    assert file.asked[3:] == [(0, 1000), (1000, 1000)]


def test_the_least_recently_used_leave_first_and_the_bound_holds(tmp_path: Path) -> None:
    bound = 12 * 116  # an eighth of it is left free for what is written before the next look
    cache, file = ChunkCache(tmp_path, bound, 100), Blob()
    for number in range(10):
        cache.read(file, "blob", number * 100, 100)
    for age, path in enumerate(sorted(chunk_files(tmp_path), key=lambda path: path.stat().st_mtime_ns)):
        os.utime(path, (time.time() - 1000 + age,) * 2)
    ChunkCache(tmp_path, bound, 100).read(file, "blob", 0, 1)  # the oldest was just used
    cache.read(file, "blob", 1000, 100)
    assert bytes_in(tmp_path) == 10 * 116
    asked = len(file.asked)
    fresh = ChunkCache(tmp_path, bound, 100)
    fresh.read(file, "blob", 0, 1)
    fresh.read(file, "blob", 1000, 1)
    assert len(file.asked) == asked
    fresh.read(file, "blob", 100, 1)
    assert len(file.asked) == asked + 1
    assert cache.facts().evicted == 1


def test_files_of_others_in_the_folder_are_let_alone_and_old_leftovers_go(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path, 232, 100)
    cache.read(Blob(), "blob", 0, 100)
    folder = chunk_files(tmp_path)[0].parent
    stranger, fresh, stale = folder / "holiday.jpg", folder / ".tmp-1-fresh", folder / ".tmp-1-stale"
    for path in (stranger, fresh, stale):
        path.write_bytes(bytes(1000))
    os.utime(stale, (time.time() - 3600,) * 2)
    os.utime(stranger, (0, 0))
    for number in range(1, 8):
        cache.read(Blob(), "blob", number * 100, 100)
    assert (stranger.exists(), fresh.exists(), stale.exists()) == (True, True, False)
    assert cache.facts().evicted >= 5


def test_threads_that_want_one_chunk_fetch_it_once(tmp_path: Path) -> None:
    cache, file = ChunkCache(tmp_path, 10_000, 1000), Blob(seconds=0.1)
    with ThreadPoolExecutor(16) as pool:
        places = [place % 900 for place in range(200)]
        found = list(pool.map(lambda place: cache.read(file, "blob", place, 100), places))
    assert found == [DATA[place : place + 100] for place in places]
    assert file.asked == [(0, 1000)]


@dataclass
class Logged(Blob):
    """A Blob that writes down in a file what was read from it, by whatever process."""

    log: Path = Path()

    def read(self, offset: int, size: int, *, within_s: float | None = None) -> bytes:
        with self.log.open("a") as file:
            file.write(f"{offset}\n")
        return super().read(offset, size)


def _read_all(cache: ChunkCache, file: Logged) -> None:
    for start in range(0, len(DATA), 250):
        assert cache.read(file, "blob", start, 250) == DATA[start : start + 250]


def test_two_processes_that_share_a_folder_fetch_each_chunk_once(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path / "cache", 100_000, 1000)
    file = Logged(seconds=0.1, log=tmp_path / "log")
    processes = [multiprocessing.get_context("spawn").Process(target=_read_all, args=(cache, file)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_S)
        assert process.exitcode == 0
    assert (tmp_path / "log").read_text().split() == ["0", "1000", "2000", "3000", "4000"]


def test_a_process_that_is_killed_while_it_fetches_frees_the_chunk(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path / "cache", 100_000, 1000)
    stuck = Logged(seconds=PATIENCE_S, log=tmp_path / "log")
    process = multiprocessing.get_context("spawn").Process(target=_read_all, args=(cache, stuck))
    process.start()
    while not stuck.log.exists():
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(PATIENCE_S)
    started = time.monotonic()
    _read_all(cache, Logged(log=tmp_path / "log"))
    assert time.monotonic() - started < 60  # half the deadline is five minutes


def test_a_holder_that_hangs_holds_up_nobody_for_longer_than_half_the_deadline(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path, 100_000, 1000)
    goes_on = threading.Event()

    class Stuck(Blob):
        def read(self, offset: int, size: int, *, within_s: float | None = None) -> bytes:
            self.asked.append((offset, size))
            goes_on.wait(PATIENCE_S)
            return DATA[offset : offset + size]

    stuck = Stuck()
    holder = threading.Thread(target=cache.read, args=(stuck, "blob", 0, 10))
    holder.start()
    while not stuck.asked:
        time.sleep(0.01)
    started = time.monotonic()
    assert cache.read(Blob(deadline_s=8.0), "blob", 0, 10) == DATA[:10]
    assert 3.9 < time.monotonic() - started < 7.9
    goes_on.set()
    holder.join()


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process may grow beyond 100 bytes; Python has the signal for that ignored, so writing fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_costs_speed_and_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, file = ChunkCache(tmp_path, 100_000, 1000), Blob()
    cache.read(file, "blob", 0, 10)
    with caplog.at_level(logging.WARNING), full_disk():
        for start in (900, 1900, 950):
            assert cache.read(file, "blob", start, 200) == DATA[start : start + 200]
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == f"{tmp_path}: the cache cannot be written (file too large); reading goes on without it"
    assert file.asked[2:] == [(1900, 100), (2000, 100), (1000, 150)]  # only what is wanted, and what was kept is used
    assert (cache.facts().disabled, cache.facts().unwritten) == ("file too large", 4)
    assert list(tmp_path.glob("*/.tmp-*")) == []
    now_s = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now_s() + 61)
    assert cache.read(file, "blob", 1000, 10) == DATA[1000:1010]
    assert cache.facts().disabled is None
    assert len(chunk_files(tmp_path)) == 2


def test_a_folder_that_cannot_be_made_costs_speed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = ChunkCache(tmp_path / "file" / "cache", 100_000, 1000)
    assert [cache.read(Blob(), "blob", 0, 10) for _ in range(3)] == [DATA[:10]] * 3
    assert cache.facts().disabled == "not a directory"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_goes_on_whatever_its_parent_held(tmp_path: Path) -> None:
    cache = ChunkCache(tmp_path, 100_000, 1000)
    cache.read(Blob(), "blob", 0, 1000)
    cache._mine().lock.acquire()  # as another thread of the parent may do at that moment
    cache._mine().files._lock.acquire()
    child = os.fork()
    if child == 0:
        right = cache.read(Blob(), "blob", 0, 2000) == DATA[:2000] and cache.facts().hits == 1
        os._exit(0 if right else 1)
    deadline = time.monotonic() + PATIENCE_S
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    if ended == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ended == (child, 0)


def test_many_threads_and_more_chunks_than_open_files_give_right_bytes(tmp_path: Path) -> None:
    cache, file = ChunkCache(tmp_path, 1_000_000, 10), Blob()
    assert len(DATA) // 10 > MAX_OPEN_CHUNKS
    places = np.random.default_rng(1).integers(0, len(DATA) - 30, 1500).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda place: cache.read(file, "blob", place, 30), places))
    assert found == [DATA[place : place + 30] for place in places]
    assert len(cache._mine().files) <= MAX_OPEN_CHUNKS


def test_a_cache_without_room_for_two_chunks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a cache needs room for two chunks of 1000 bytes, got 1999"):
        ChunkCache(tmp_path, 1999, 1000)


def test_the_environment_says_where_the_loaders_cache_is_and_how_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFRAREDCITY_CACHE", str(tmp_path))
    assert default_cache().max_bytes == 10 << 30
    monkeypatch.setenv("INFRAREDCITY_CACHE_GIB", "1.5")
    assert default_cache().max_bytes == 3 << 29
    for wrong in ("much", "0", "-1", "inf", "nan"):
        monkeypatch.setenv("INFRAREDCITY_CACHE_GIB", wrong)
        with pytest.raises(OutputError, match=r"INFRAREDCITY_CACHE_GIB is .*expected a number of GiB"):
            default_cache()
