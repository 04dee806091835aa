import hashlib
import os
import pickle
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
from processes import PATIENCE_S

from infraredcity.errors import RemoteError, ShardError
from infraredcity.files.chunk_cache import ChunkCache
from infraredcity.files.retry import RemoteOptions
from infraredcity.shards import by_row
from infraredcity.shards import index as sample_index
from infraredcity.shards.by_row import ShardFiles
from infraredcity.shards.index import SampleIndex
from infraredcity.shards.writer import open_shard

IMAGES = [f"picture {number} ".encode() * 60 * (number + 1) for number in range(4)]
PATIENT = RemoteOptions(deadline_s=600.0, backoff_s=0.02, backoff_cap_s=0.1)
REMOTE = "memory://remote/set"


def write(folder: Path) -> SampleIndex:
    """Two shards of two samples."""
    shards = []
    for number in range(2):
        with open_shard(folder, f"s-{number}.tar", image_format="jpg") as handle:
            for frame in (2 * number, 2 * number + 1):
                facts = b'{"frame_index":%d}' % frame
                handle.writer.add("city_clear", frame, frame, IMAGES[frame], facts, size_px=(96, 64))
        assert handle.info is not None
        shards.append((handle.info, handle.writer.entries))
    return sample_index.from_entries(
        clip_id="city_clear", frame_step=1, image_format="jpg", shards=shards, run_ids=np.zeros(4, np.int32)
    )


@dataclass(frozen=True)
class RemoteSet:
    """The two shards here, and copies of them in fsspec's memory."""

    folder: Path
    index: SampleIndex

    def put(self, name: str, data: bytes) -> None:
        fsspec.filesystem("memory").pipe(f"/remote/set/{name}", data)

    def damaged(self, row: int) -> bytes:
        """The shard of a row with one bit of its image turned."""
        data = bytearray((self.folder / self.index.shards[int(self.index.shard[row])].name).read_bytes())
        data[int(self.index.offset[row]) + 10] ^= 1
        return bytes(data)


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[RemoteSet]:
    made = RemoteSet(tmp_path / "here", write(tmp_path / "here"))
    for path in made.folder.glob("*.tar"):
        made.put(path.name, path.read_bytes())
    yield made
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def cache(tmp_path: Path) -> ChunkCache:
    return ChunkCache(tmp_path / "cache", 1_000_000, 700)


def test_a_row_is_read_by_its_place(tmp_path: Path) -> None:
    with ShardFiles(write(tmp_path), tmp_path) as files:
        assert [files.image(row) for row in (3, 0, 2, 1)] == [IMAGES[row] for row in (3, 0, 2, 1)]
        whole = files.sample(2)
        assert (files.facts().reads, files.facts().cache) == (5, None)
        assert files.facts().read_bytes == sum(map(len, IMAGES)) + len(whole)
    assert whole[:23] == b"city_clear_00000002.jpg"
    assert len(whole) % 512 == 0


def test_many_threads_read_at_once_with_few_files_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_row, "MAX_OPEN_SHARDS", 1)
    with ShardFiles(write(tmp_path), tmp_path) as files, ThreadPoolExecutor(8) as pool:
        rows = [row % 4 for row in range(400)]
        assert list(pool.map(files.image, rows)) == [IMAGES[row] for row in rows]
        assert len(files._mine().files) == 1


def test_a_shard_of_another_size_is_refused(tmp_path: Path) -> None:
    index = write(tmp_path)
    data = (tmp_path / "s-1.tar").read_bytes()
    (tmp_path / "s-1.tar").write_bytes(data[:-512])
    with ShardFiles(index, tmp_path) as files:
        assert files.image(0) == IMAGES[0]
        with pytest.raises(
            ShardError, match=rf"s-1\.tar: is {len(data) - 512} bytes, the index says {len(data)}; copy the shard again"
        ):
            files.image(2)


def test_a_shard_that_is_gone_is_named(tmp_path: Path) -> None:
    index = write(tmp_path)
    (tmp_path / "s-1.tar").unlink()
    with (
        ShardFiles(index, tmp_path) as files,
        pytest.raises(ShardError, match=r"s-1\.tar: the index names it, but it cannot be opened"),
    ):
        files.image(3)


def test_a_place_behind_the_shards_end_is_an_error(remote: RemoteSet) -> None:
    remote.index.offset[3] += 100_000
    with (
        ShardFiles(remote.index, remote.folder) as files,
        pytest.raises(ShardError, match=r"bytes were expected at .*, found 0"),
    ):
        files.image(3)
    with (
        ShardFiles(remote.index, REMOTE) as files,
        pytest.raises(ShardError, match=r"bytes were expected at .* end before"),
    ):
        files.image(3)


@pytest.mark.parametrize("cached", [False, True])
def test_shards_on_another_machine_give_the_same_bytes(remote: RemoteSet, cache: ChunkCache, cached: bool) -> None:
    with (
        ShardFiles(remote.index, remote.folder) as here,
        ShardFiles(remote.index, REMOTE, PATIENT, cache if cached else None) as there,
        ShardFiles(remote.index, [remote.folder, REMOTE], PATIENT, cache if cached else None) as mixed,
    ):
        assert (here.is_remote, there.is_remote, mixed.is_remote) == (False, True, True)
        for row in (0, 1, 2, 3) * 2:
            assert there.image(row) == mixed.image(row) == IMAGES[row]
            assert there.sample(row) == here.sample(row)


def test_what_was_read_is_kept_whatever_the_url(remote: RemoteSet, cache: ChunkCache) -> None:
    with ShardFiles(remote.index, REMOTE, PATIENT, cache) as files:
        assert [files.image(row) for row in range(4)] == IMAGES
    fsspec.filesystem("memory").store.clear()
    with ShardFiles(remote.index, "memory://elsewhere?token=1", PATIENT, pickle.loads(pickle.dumps(cache))) as files:
        assert [files.image(row) for row in range(4)] == IMAGES


@pytest.mark.parametrize("cached", [False, True])
def test_a_stale_picture_is_an_error_and_leaves_nothing_in_the_cache(
    remote: RemoteSet, cache: ChunkCache, cached: bool
) -> None:
    remote.put("s-1.tar", remote.damaged(3))
    kept = cache if cached else None
    with ShardFiles(remote.index, REMOTE, PATIENT, kept) as files:
        expected = hashlib.sha256(IMAGES[3]).hexdigest()
        for read in (files.image, files.sample):
            with pytest.raises(
                ShardError, match=rf"memory://remote/set/s-1\.tar: stale or damaged: .* the index says {expected}"
            ):
                read(3)
        assert files.image(2) == IMAGES[2]
    remote.put("s-1.tar", (remote.folder / "s-1.tar").read_bytes())
    with ShardFiles(remote.index, REMOTE, PATIENT, kept) as files:
        assert files.image(3) == IMAGES[3]


def test_a_wrong_chunk_in_the_cache_is_replaced(remote: RemoteSet, cache: ChunkCache, tmp_path: Path) -> None:
    lies = tmp_path / "lies"
    lies.mkdir()
    (lies / "s-1.tar").write_bytes(remote.damaged(3))
    # Without hashes of pictures the lie is believed, and kept under the name of the shard's true content.
    blind = replace(remote.index, sha256=np.zeros((4, 32), np.uint8))
    with ShardFiles(blind, f"file://{lies}", PATIENT, cache) as files:
        assert files.image(3) != IMAGES[3]
    with ShardFiles(remote.index, REMOTE, PATIENT, cache) as files:
        assert [files.image(3), files.image(3)] == [IMAGES[3]] * 2
        assert cache.facts().dropped > 0


def test_without_a_hash_of_the_shard_another_version_has_other_chunks(remote: RemoteSet, cache: ChunkCache) -> None:
    shards = tuple(replace(info, sha256="") for info in remote.index.shards)
    index = replace(remote.index, shards=shards, sha256=np.zeros((4, 32), np.uint8))
    with ShardFiles(index, REMOTE, PATIENT, cache) as files:
        assert files.image(3) == IMAGES[3]
    remote.put("s-1.tar", remote.damaged(3))
    with ShardFiles(index, REMOTE, PATIENT, cache) as files:
        assert files.image(3) not in (IMAGES[3], b"")


def test_what_is_prefetched_is_there_when_it_is_read(remote: RemoteSet, cache: ChunkCache) -> None:
    with ShardFiles(remote.index, REMOTE, PATIENT, cache) as files:
        files.prefetch(np.arange(4))
        files.prefetch([0, 1, 2, 3])
        deadline = time.monotonic() + PATIENCE_S
        while files._mine().prefetcher._wanted and time.monotonic() < deadline:
            time.sleep(0.01)
        misses = cache.facts().misses
        assert misses > 0
        assert [files.image(row) for row in range(4)] == IMAGES
        facts = files.facts().cache
        assert facts is not None
        assert facts.misses == misses


def test_prefetching_what_is_gone_says_nothing_and_reading_it_does(remote: RemoteSet, cache: ChunkCache) -> None:
    fsspec.filesystem("memory").store.clear()
    with ShardFiles(remote.index, REMOTE, PATIENT, cache) as files:
        files.prefetch([0])
        with pytest.raises(RemoteError, match=r"s-0\.tar: no such file"):
            files.image(0)


def test_prefetching_local_shards_or_without_a_cache_does_nothing(remote: RemoteSet, cache: ChunkCache) -> None:
    for locations, kept in ((remote.folder, cache), (REMOTE, None)):
        with ShardFiles(remote.index, locations, PATIENT, kept) as files:
            files.prefetch(range(4))
            assert files._mine().prefetcher._threads == 0


def test_a_pickled_reader_goes_on(remote: RemoteSet, cache: ChunkCache) -> None:
    with ShardFiles(remote.index, [remote.folder, REMOTE], PATIENT, cache) as files:
        files.image(0)
        files.prefetch([3])
        with pickle.loads(pickle.dumps(files)) as other:
            assert [other.image(row) for row in range(4)] == IMAGES


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_reads_and_prefetches_for_itself(remote: RemoteSet, cache: ChunkCache) -> None:
    files = ShardFiles(remote.index, [remote.folder, f"file://{remote.folder}"], PATIENT, cache)
    files.prefetch(range(4))
    assert files.image(0) == IMAGES[0]
    files._mine().lock.acquire()  # as another thread of the parent may do at that moment
    files._mine().files._lock.acquire()
    child = os.fork()
    if child == 0:
        files.prefetch(range(4))
        os._exit(0 if [files.image(row) for row in range(4)] == IMAGES else 1)
    deadline = time.monotonic() + PATIENCE_S
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    if ended == (0, 0):
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ended == (child, 0)
