import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
from synthetic import Shelf, write_clip

from infraredcity import video
from infraredcity.errors import InfraredCityError, VideoDecodeError
from infraredcity.files.path import RemotePath
from infraredcity.files.traffic import traffic
from infraredcity.video import open_clip, probe
from infraredcity.video.scan_cache import identify, load, save
from infraredcity.video.types import VideoInfo

BLOCK = 65_536
RAW = ("-c:v", "rawvideo", "-pix_fmt", "yuv420p")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 frames of 320x240 as they are: 2.3 MB, most of which no sample holds."""
    return write_clip(tmp_path_factory.mktemp("raw") / "night.mkv", range(20), *RAW, width=320, height=240)


@pytest.fixture
def memory() -> Iterator[RemotePath]:
    """A folder in fsspec's memory."""
    yield RemotePath("memory://scans")
    fsspec.filesystem("memory").store.clear()


def copy(source: Path, target: Path, *, flip: int | None = None) -> Path:
    """A copy of the same time; one byte is another one when `flip` says which."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)
    if flip is not None:
        data = bytearray(target.read_bytes())
        data[flip] ^= 1
        target.write_bytes(data)
        status = source.stat()
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    return target


def between_samples(path: Path) -> int:
    """A byte in the middle between two samples."""
    return (path.stat().st_size - BLOCK) * 7 // 15 + BLOCK + 1000


def in_a_sample(path: Path) -> int:
    return (path.stat().st_size - BLOCK) * 7 // 15 + 1000


def test_the_sampled_hash_of_a_small_file_is_that_of_all_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "small.mp4"
    for size in (0, 1, 16 * BLOCK):
        data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        path.write_bytes(data)
        assert identify(path).content_sha256 == hashlib.sha256(data).hexdigest()


def test_the_sampled_hash_of_a_large_file_is_that_of_sixteen_blocks_from_its_first_byte_to_its_last(
    tmp_path: Path, memory: RemotePath
) -> None:
    data = np.random.default_rng(0).bytes(3_000_001)
    blocks = b"".join(data[(3_000_001 - BLOCK) * k // 15 :][:BLOCK] for k in range(16))
    assert blocks.startswith(data[:BLOCK])
    assert blocks.endswith(data[-BLOCK:])
    path = tmp_path / "large.mp4"
    path.write_bytes(data)
    remote = memory / "large.mp4"
    remote.write_whole(data)
    assert identify(path).content_sha256 == identify(remote).content_sha256 == hashlib.sha256(blocks).hexdigest()


def test_a_remote_sample_moves_sixteen_blocks(memory: RemotePath) -> None:
    (memory / "large.mp4").write_whole(bytes(9_000_000))
    before = traffic()
    identify(memory / "large.mp4")
    assert traffic().received_bytes - before.received_bytes == 16 * BLOCK


@pytest.mark.parametrize(("name", "message"), [("gone.mp4", "no such video file"), (".", "cannot be read: is a dir")])
def test_what_cannot_be_sampled_is_one_line(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(VideoDecodeError, match=message):
        identify(tmp_path / name)
    with pytest.raises(VideoDecodeError, match=message):
        probe(tmp_path / name, kept_in=tmp_path)


def test_a_kept_scan_spares_the_file_and_says_the_same(raw: Path, tmp_path: Path) -> None:
    first = probe(raw, kept_in=tmp_path)
    again = probe(raw, kept_in=tmp_path)
    for name in VideoInfo.__slots__:
        assert np.array_equal(getattr(again, name), getattr(first, name)), name
    save(tmp_path, replace(first, suspect=("as it was kept",)), identify(raw))
    assert probe(raw, kept_in=tmp_path).suspect == ("as it was kept",)


def test_another_file_of_the_same_place_size_time_and_samples_is_scanned(raw: Path, tmp_path: Path) -> None:
    """As on a machine whose copy was damaged, and which keeps its copy under the path that others have theirs under."""
    path = copy(raw, tmp_path / "night.mkv")
    first = probe(path, kept_in=tmp_path)
    copy(raw, path, flip=between_samples(raw))
    assert probe(path, kept_in=tmp_path).packets_sha256 == probe(path).packets_sha256 != first.packets_sha256


def test_another_file_of_the_same_place_size_and_time_is_scanned(raw: Path, tmp_path: Path) -> None:
    path = copy(raw, tmp_path / "night.mkv")
    first = probe(path, kept_in=tmp_path)
    copy(raw, path, flip=in_a_sample(raw))
    assert probe(path, kept_in=tmp_path).packets_sha256 != first.packets_sha256
    assert probe(path, kept_in=tmp_path).packets_sha256 == probe(path).packets_sha256


def test_a_file_that_changed_is_scanned(shelf: Shelf, tmp_path: Path) -> None:
    path = copy(shelf.h264, tmp_path / "night.mp4")
    assert probe(path, kept_in=tmp_path).num_frames == 50
    shutil.copy(shelf.one_frame, path)
    assert probe(path, kept_in=tmp_path).num_frames == 1
    assert probe(path, kept_in=tmp_path).num_frames == 1


def test_a_damaged_scan_is_made_anew(shelf: Shelf, tmp_path: Path) -> None:
    probe(shelf.h264, kept_in=tmp_path)
    (kept,) = tmp_path.iterdir()
    whole = kept.read_bytes()
    for damaged in (b"", whole[:100], whole[:-300], b"PK" + bytes(1000)):
        kept.write_bytes(damaged)
        assert load(tmp_path, shelf.h264, identify(shelf.h264)) is None
        assert probe(shelf.h264, kept_in=tmp_path).num_frames == 50
        assert load(tmp_path, shelf.h264, identify(shelf.h264)) is not None


def test_copies_of_other_machines_keep_a_scan_each(shelf: Shelf, tmp_path: Path) -> None:
    """Machines see their copies under one path; here the time of the copy stands for the machine."""
    path = copy(shelf.h264, tmp_path / "clips" / "night.mp4")
    kept = tmp_path / "kept"
    kept.mkdir()
    for seconds in (1_000, 2_000):
        os.utime(path, (seconds, seconds))
        for _ in range(2):
            probe(path, kept_in=kept)
    names = [file.name for file in kept.iterdir()]
    assert len(names) == 2
    assert all(name.startswith("scan-") and name.endswith("-night.mp4.npz") for name in names)


def test_a_copy_elsewhere_is_scanned(raw: Path, tmp_path: Path) -> None:
    """The copy differs where no sample looks, so what it gets tells where its scan came from."""
    kept = tmp_path / "kept"
    kept.mkdir()
    first = probe(raw, kept_in=kept)
    other = copy(raw, tmp_path / "other" / "night.mkv", flip=between_samples(raw))
    scanned = open_clip([other], kept_in=kept).files[0]
    assert scanned.packets_sha256 == probe(other).packets_sha256 != first.packets_sha256
    assert len(list(kept.iterdir())) == 2


def test_scans_of_remote_clips_are_kept_and_in_remote_folders(raw: Path, memory: RemotePath) -> None:
    clip = memory / "clips" / "night.mkv"
    clip.write_whole(raw.read_bytes())
    probe(clip, kept_in=memory / "out")
    before = traffic().received_bytes
    again = probe(clip, kept_in=memory / "out")
    assert traffic().received_bytes - before < 17 * BLOCK + 20_000  # samples and the scan
    assert (again.path, again.packets_sha256) == (clip, probe(raw).packets_sha256)
    assert again.size_bytes == raw.stat().st_size
    clip.write_whole(raw.read_bytes()[:-1] + b"?")
    probe(clip, kept_in=memory / "out")
    assert len(list((memory / "out").iterdir())) == 2
    assert load(memory / "out", raw, identify(raw)) is None  # another place


def test_a_name_that_no_disk_takes_keeps_its_scan(shelf: Shelf, memory: RemotePath, tmp_path: Path) -> None:
    clip = memory / ("nächtliche_stadt_" * 14 + ".mp4")
    clip.write_whole(shelf.one_frame.read_bytes())
    probe(clip, kept_in=tmp_path)
    (kept,) = tmp_path.iterdir()
    assert len(kept.name.encode()) < 230
    assert load(tmp_path, clip, identify(clip)) is not None


def test_a_scan_that_cannot_be_kept_is_one_line(shelf: Shelf) -> None:
    with pytest.raises(InfraredCityError, match="cannot be written"):
        video.probe(shelf.h264, kept_in=Path("/proc/nowhere"))
