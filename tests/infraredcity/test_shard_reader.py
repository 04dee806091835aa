import io
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from infraredcity import index as sample_index
from infraredcity.errors import ShardError
from infraredcity.index import SampleIndex
from infraredcity.shard_reader import MAX_MEMBER_BYTES, ShardFiles, iterate
from infraredcity.shard_writer import open_shard

IMAGES = [f"picture {number} ".encode() * 60 * (number + 1) for number in range(4)]


def write(folder: Path, *, clip_id: str = "city_clear") -> SampleIndex:
    """Two shards of two samples."""
    shards = []
    for number in range(2):
        with open_shard(folder, f"s-{number}.tar", image_format="jpg") as handle:
            for frame in (2 * number, 2 * number + 1):
                handle.writer.add(clip_id, frame, frame, IMAGES[frame], b'{"frame_index":%d}' % frame)
        assert handle.info is not None
        shards.append((handle.info, handle.writer.entries))
    return sample_index.from_entries(
        clip_id=clip_id, frame_step=1, image_format="jpg", shards=shards, run_ids=np.zeros(4, np.int32)
    )


def archive(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return path


def member(name: str, data: bytes = b"data") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info, data


def test_samples_come_in_order_with_both_members(tmp_path: Path) -> None:
    write(tmp_path)
    samples = list(iterate(tmp_path / "s-1.tar"))
    assert [sample.key for sample in samples] == ["city_clear_00000002", "city_clear_00000003"]
    assert [sample.members["jpg"] for sample in samples] == IMAGES[2:]
    assert samples[0].members["json"] == b'{"frame_index":2}'


def test_a_tar_cut_anywhere_is_an_error(tmp_path: Path) -> None:
    write(tmp_path)
    data = (tmp_path / "s-1.tar").read_bytes()
    cut = tmp_path / "cut.tar"
    # At each block's border, where a cut tar reads as a good, shorter one elsewhere, and inside blocks.
    for size in [*range(0, len(data) - 1024, 512), *range(100, len(data) - 1024, 700)]:
        cut.write_bytes(data[:size])
        with pytest.raises(ShardError, match=r"cut\.tar: .*copy the shard again"):
            list(iterate(cut))


def test_a_damaged_header_in_the_middle_is_an_error(tmp_path: Path) -> None:
    index = write(tmp_path)
    data = bytearray((tmp_path / "s-1.tar").read_bytes())
    second = int(index.offset[3]) - 512
    data[second : second + 100] = b"\x07" * 100
    (tmp_path / "s-1.tar").write_bytes(data)
    with pytest.raises(ShardError, match=f"damaged at byte {second}: neither a member nor the end"):
        list(iterate(tmp_path / "s-1.tar"))


@pytest.mark.parametrize("data", [b"", b"no tar at all", bytes(range(256)) * 20])
def test_what_is_no_tar_is_an_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(ShardError, match=r"x\.tar: "):
        list(iterate(tmp_path / "x.tar"))


def test_a_missing_tar_is_named(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"gone\.tar: no such shard"):
        list(iterate(tmp_path / "gone.tar"))


@pytest.mark.parametrize("name", ["a/b.jpg", "../b.jpg", "noending"])
def test_members_that_are_not_key_and_suffix_are_refused(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / "x.tar", member(name))
    with pytest.raises(ShardError, match=r"is not <key>.<suffix>; rebuild the shard"):
        list(iterate(path))


def test_links_and_huge_members_are_refused(tmp_path: Path) -> None:
    link = tarfile.TarInfo("a.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
    with pytest.raises(ShardError, match=r"member 'a\.jpg' is not a plain file"):
        list(iterate(archive(tmp_path / "x.tar", (link, b""))))
    header = tarfile.TarInfo("a.jpg")
    header.size = MAX_MEMBER_BYTES + 1
    (tmp_path / "y.tar").write_bytes(header.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))
    with pytest.raises(ShardError, match=f"claims {MAX_MEMBER_BYTES + 1} bytes"):
        list(iterate(tmp_path / "y.tar"))


def test_a_row_is_read_by_its_place(tmp_path: Path) -> None:
    with ShardFiles(write(tmp_path), tmp_path) as files:
        assert [files.image(row) for row in (3, 0, 2, 1)] == [IMAGES[row] for row in (3, 0, 2, 1)]
        whole = files.sample(2)
    assert whole[:23] == b"city_clear_00000002.jpg"
    assert len(whole) % 512 == 0


def test_many_threads_read_at_once(tmp_path: Path) -> None:
    with ShardFiles(write(tmp_path), tmp_path) as files, ThreadPoolExecutor(8) as pool:
        rows = [row % 4 for row in range(400)]
        assert list(pool.map(files.image, rows)) == [IMAGES[row] for row in rows]


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


def test_a_place_behind_the_shards_end_is_an_error(tmp_path: Path) -> None:
    index = write(tmp_path)
    index.offset[3] += 100_000
    with ShardFiles(index, tmp_path) as files, pytest.raises(ShardError, match=r"bytes were expected at .*, found 0"):
        files.image(3)
