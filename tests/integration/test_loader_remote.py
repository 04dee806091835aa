"""The whole loader over a real web server: the same batches as from a disk, or one line in time; and tars of other makers."""

import io
import itertools
import shutil
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from synthetic import barcode
from web_server import Cutter, Nginx, serving

from infraredcity.errors import RemoteError, ShardError
from infraredcity.files.chunk_cache import ChunkCache
from infraredcity.files.retry import RemoteOptions
from infraredcity.loader import FrameWindows, WindowReader, batches, domain_batches
from infraredcity.shards import index_file
from infraredcity.stills.formats import encode

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")

QUICK = RemoteOptions(connect_timeout_s=3.0, read_timeout_s=3.0, deadline_s=3.0, backoff_s=0.02, backoff_cap_s=0.2)
"""For a server that is gone."""
PATIENT = RemoteOptions(
    connect_timeout_s=60.0, read_timeout_s=60.0, deadline_s=600.0, backoff_s=0.02, backoff_cap_s=0.2
)
IN_TIME_S = 60.0
"""An error within this did not wait for much longer than a quick deadline."""
CLEAR, DAY = "city_clear", "city_day"


@pytest.fixture
def web(extracted: Path, tmp_path: Path) -> Iterator[Nginx]:
    """Both clips of the fixture behind nginx."""
    root = tmp_path / "www"
    for clip in (CLEAR, DAY):
        shutil.copytree(extracted / clip, root / clip)
    with serving(root, tmp_path / "nginx") as server:
        yield server


def cache_in(folder: Path) -> ChunkCache:
    return ChunkCache(folder, 10_000_000, 8192)


def taken(source: str | Path, steps: int = 14, **options: Any) -> list[FrameWindows]:
    reader = WindowReader([source], window_frames=2, seed=3, **options)
    try:
        return list(itertools.islice(batches(reader, batch_size=7), steps))
    finally:
        reader.close()


def are_the_same(some: list[FrameWindows], others: list[FrameWindows]) -> bool:
    return all(
        one.keys == other.keys and torch.equal(one.frames, other.frames)
        for one, other in zip(some, others, strict=True)
    )


@pytest.mark.parametrize(
    "name",
    [
        CLEAR,
        f"{CLEAR}/",
        f"{CLEAR}/*.tar",
        CLEAR + "/infraredcity-city_clear-{000000..000003}.tar",
        f"{CLEAR}/infraredcity-city_clear-00000?.tar",
        f"{CLEAR}/infraredcity-city_clear-0000??.tar?token=a/b.tar",
    ],
)
def test_batches_over_http_are_those_of_the_disk(web: Nginx, tmp_path: Path, name: str) -> None:
    local = taken(web.root / CLEAR)
    assert are_the_same(taken(f"{web.url}/{name}", cache=cache_in(tmp_path / "cache"), remote=PATIENT), local)


def test_a_second_epoch_and_a_second_process_find_everything_in_the_cache(web: Nginx, tmp_path: Path) -> None:
    local = taken(web.root / CLEAR, 28)
    reader = WindowReader([f"{web.url}/{CLEAR}"], seed=3, cache=cache_in(tmp_path / "cache"), remote=PATIENT)
    stream = batches(reader, batch_size=7)
    first = list(itertools.islice(stream, 14))
    fetched = len(web.requests())
    facts = stream.facts()
    assert facts.cache_hits > facts.cache_misses > 0
    assert 0 < facts.fetched_bytes <= sum(path.stat().st_size for path in (web.root / CLEAR).glob("*.tar"))
    second = list(itertools.islice(stream, 14))
    reader.close()
    assert stream.facts().fetched_bytes == facts.fetched_bytes
    assert are_the_same(first + second, local)
    assert len(web.requests()) == fetched
    # Another process needs the index, and nothing else.
    assert are_the_same(taken(f"{web.url}/{CLEAR}", 14, cache=cache_in(tmp_path / "cache"), remote=PATIENT), first)
    assert len(web.requests()) == fetched + 1


def test_what_a_stream_says_of_the_cache_begins_with_it_and_counts_a_shared_one_once(
    web: Nginx, tmp_path: Path
) -> None:
    cache = cache_in(tmp_path / "cache")
    readers = {name: WindowReader([f"{web.url}/{name}"], cache=cache, remote=PATIENT) for name in (CLEAR, DAY)}
    for reader in readers.values():
        reader.read(range(49))
    before = cache.facts()
    assert before.misses > 0
    stream = domain_batches(readers, batch_size=7)
    assert (stream.facts().cache_hits, stream.facts().cache_misses) == (0, 0)
    for _ in range(7):
        next(stream)
    for reader in readers.values():
        reader.close()
    after = cache.facts()
    assert stream.facts().cache_hits == after.hits - before.hits > 100
    assert stream.facts().cache_misses == after.misses - before.misses == 0


def test_a_server_that_is_killed_and_comes_back_changes_nothing(web: Nginx, tmp_path: Path) -> None:
    local = taken(web.root / CLEAR)
    reader = WindowReader([f"{web.url}/{CLEAR}"], seed=3, cache=cache_in(tmp_path / "cache"), remote=PATIENT)
    with closing(reader):
        stream = batches(reader, batch_size=7)
        found = [next(stream)]
        web.kill()
        # So that the server is needed for all that follows. One move: threads that read ahead may still write there.
        (tmp_path / "cache").rename(tmp_path / "lost")
        back = threading.Timer(1.0, web.start)
        back.start()
        found += itertools.islice(stream, 13)
        back.join()
    assert are_the_same(found, local)


def test_cut_connections_change_nothing(web: Nginx, tmp_path: Path) -> None:
    local = taken(web.root / CLEAR)
    proxy = Cutter(upstream=web.port, cut_after=6_000, cuts_left=6)
    try:
        far = f"http://127.0.0.1:{proxy.port}/{CLEAR}"
        assert are_the_same(taken(far, cache=cache_in(tmp_path / "cache"), remote=PATIENT), local)
        assert proxy.cuts_left == 0
    finally:
        proxy.close()


@pytest.mark.parametrize("fault", ["gone", "slow", "silent"])
def test_a_server_that_does_not_come_back_is_one_line_within_the_deadline(
    web: Nginx, tmp_path: Path, fault: str
) -> None:
    if fault == "slow":
        started = time.monotonic()
        with pytest.raises(RemoteError, match=r"index\.npz: .*gave up after [12] attempt"):
            taken(f"{web.url}/slow/{CLEAR}", remote=QUICK)
        assert time.monotonic() - started < IN_TIME_S
        return
    reader = WindowReader([f"{web.url}/{CLEAR}"], cache=cache_in(tmp_path / "cache"), remote=QUICK)
    web.kill()
    with socket.create_server(("127.0.0.1", web.port)) if fault == "silent" else socket.socket():
        started = time.monotonic()
        with pytest.raises(
            RemoteError, match=r"city_clear-\d+\.tar: .*gave up after \d+ attempts? in .* s; check the network"
        ):
            next(batches(reader, batch_size=7))
        assert time.monotonic() - started < IN_TIME_S
    reader.close()


def test_a_server_that_is_gone_is_no_bad_sample(web: Nginx, tmp_path: Path) -> None:
    reader = WindowReader(
        [f"{web.url}/{CLEAR}"], cache=cache_in(tmp_path / "cache"), remote=QUICK, on_bad="replace", max_bad=10_000
    )
    web.kill()
    with pytest.raises(RemoteError):
        next(batches(reader, batch_size=7))
    assert reader.bad == {}
    reader.close()


def test_a_stale_picture_is_never_shown(web: Nginx, tmp_path: Path) -> None:
    """One picture on the server is another one of the same size, as after an upload that did not reach every copy."""
    folder = web.root / CLEAR
    index = index_file.load(folder)
    row = next(row for row in range(20, 50) if index.shard[row] == 1)
    shard = folder / index.shards[1].name
    data = bytearray(shard.read_bytes())
    middle = int(index.offset[row]) + int(index.size[row]) // 2
    data[middle] ^= 0x5A
    local = taken(folder)
    shard.write_bytes(data)
    key = index.key(row)
    with pytest.raises(ShardError, match=r"city_clear-000001\.tar: stale or damaged: the picture at \d+ has sha256"):
        taken(f"{web.url}/{CLEAR}", cache=cache_in(tmp_path / "cache"), remote=PATIENT)
    replacing = WindowReader(
        [f"{web.url}/{CLEAR}"], seed=3, cache=cache_in(tmp_path / "cache"), remote=PATIENT, on_bad="replace"
    )
    stream = batches(replacing, batch_size=7)
    for batch, before in zip(itertools.islice(stream, 14), local, strict=True):
        for place, position in enumerate(batch.positions.tolist()):
            if position in batch.replaced:
                assert key in before.keys[place]
                assert key not in batch.keys[place]
            else:
                assert torch.equal(batch.frames[place], before.frames[place])
    assert list(replacing.bad) == [key]
    assert stream.facts().bad_samples == 1
    assert stream.facts().replaced >= 2
    replacing.close()


def test_a_shard_of_another_length_on_the_server_is_an_error(web: Nginx, tmp_path: Path) -> None:
    shard = web.root / CLEAR / "infraredcity-city_clear-000002.tar"
    shard.write_bytes(shard.read_bytes()[:-1024])
    with pytest.raises(RemoteError, match=r"000002\.tar: is \d+ bytes, the index says \d+; copy the file there again"):
        taken(f"{web.url}/{CLEAR}", cache=cache_in(tmp_path / "cache"), remote=PATIENT)


def test_names_that_lead_nowhere_say_so(web: Nginx) -> None:
    with pytest.raises(ShardError, match=r"city_clear/other-\*\.tar: no shard of .*index\.npz matches; check the name"):
        taken(f"{web.url}/{CLEAR}/other-*.tar", remote=PATIENT)
    with pytest.raises(
        RemoteError, match=r"nowhere/index\.npz: no index, and a folder there cannot be listed; name the tars"
    ):
        taken(f"{web.url}/nowhere", remote=PATIENT)


def numbered_jpg(frame: int) -> bytes:
    """A picture whose eight columns are the bits of a number."""
    picture = np.zeros((32, 48, 3), np.uint8)
    for bit in range(8):
        picture[:, bit * 6 : bit * 6 + 6] = 255 * (frame >> bit & 1)
    return encode(picture, "jpg")


def foreign_tars(folder: Path, *, num_frames: int = 30, per_tar: int = 12) -> Path:
    """Tars as others write them: capitals, a folder in the names, the picture not first, no index."""
    folder.mkdir(parents=True)
    for number, start in enumerate(range(0, num_frames, per_tar)):
        with tarfile.open(folder / f"train-{number:06d}.tar", "w") as tar:
            for frame in range(start, min(start + per_tar, num_frames)):
                for suffix, data in (("cls", b"%d" % frame), ("JPG", numbered_jpg(frame))):
                    info = tarfile.TarInfo(f"Data/Cam_{frame:04d}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return folder


def webdataset_tars(folder: Path) -> Path:
    """The same samples in tars by webdataset's own writer, which puts PAX headers before them."""
    folder.mkdir(parents=True)
    with webdataset.ShardWriter(str(folder / "train-%06d.tar"), maxcount=12, verbose=0) as writer:
        for frame in range(30):
            writer.write({"__key__": f"Data/Cam_{frame:04d}", "cls": frame, "jpg": numbered_jpg(frame)})
    return folder


def bits(frame: torch.Tensor) -> int:
    """The number in a picture of `numbered_jpg`, from u8 [3, 32, 48]."""
    return sum(int(frame[0, 16, bit * 6 + 3] > 127) << bit for bit in range(8))


@pytest.mark.parametrize("write", [foreign_tars, webdataset_tars])
@pytest.mark.parametrize("window_frames", [1, 2])
def test_tars_of_other_makers_need_no_index_here_or_far_away(
    web: Nginx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window_frames: int, write: Callable[[Path], Path]
) -> None:
    monkeypatch.setenv("INFRAREDCITY_CACHE", str(tmp_path / "kept"))
    folder = write(web.root / "foreign")
    orders = []
    for source in (folder, f"{folder}/train-{{000000..000002}}.tar", f"{web.url}/foreign/train-{{000000..000002}}.tar"):
        reader = WindowReader([source], window_frames=window_frames, members=["cls"], remote=PATIENT)
        assert reader.num_windows == 30 - (window_frames - 1)
        seen = list(itertools.islice(batches(reader, batch_size=6), 5))
        for batch in seen:
            shown = [[bits(frame) for frame in window] for window in batch.frames]
            assert shown == [[int(key[-4:]) for key in keys] for keys in batch.keys]
            assert shown == [[int(members["cls"]) for members in held] for held in batch.members]
            assert all(later == earlier + 1 for window in shown for earlier, later in itertools.pairwise(window))
        orders.append([batch.keys for batch in seen])
        reader.close()
    assert orders[0] == orders[1] == orders[2]
    assert orders[0][0][0][0].startswith("Data/Cam_")
    assert list((tmp_path / "kept" / "tar-index").iterdir())


def test_our_shards_and_those_of_others_can_be_mixed_by_weight(
    web: Nginx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFRAREDCITY_CACHE", str(tmp_path / "kept"))
    foreign = [foreign_tars(tmp_path / name) for name in ("one", "two")]
    # Two folders with shards of the same names, and one that is far away.
    sources = [foreign[0], foreign[1], f"{web.url}/{DAY}"]
    reader = WindowReader(sources, weights=[1, 1, 2], size=(64, 96), remote=PATIENT)
    keys = [pair[0] for batch in itertools.islice(batches(reader, batch_size=8), 10) for pair in batch.keys]
    assert sum(key.startswith("Data/Cam") for key in keys) == 40
    assert sum(key.startswith(DAY) for key in keys) == 40
    assert reader.num_windows == 29 + 29 + 49
    reader.close()


def test_barcodes_come_through_as_they_are_on_the_disk(web: Nginx, tmp_path: Path) -> None:
    for batch in taken(f"{web.url}/{DAY}", 7, cache=cache_in(tmp_path / "cache"), remote=PATIENT):
        shown = [[barcode(frame.permute(1, 2, 0).numpy()) for frame in window] for window in batch.frames]
        assert shown == [[int(key[-8:]) for key in keys] for keys in batch.keys]


def test_a_far_source_without_windows_is_named_without_its_credentials(web: Nginx, tmp_path: Path) -> None:
    source = f"{web.url.replace('//', '//user:SECRET@')}/{CLEAR}?token=SECRET"
    with pytest.raises(ShardError, match=f"^{web.url}/{CLEAR}: 50 samples hold no window of 99 frames") as caught:
        WindowReader([source], window_frames=99, cache=cache_in(tmp_path / "cache"), remote=PATIENT)
    assert "SECRET" not in str(caught.value)
