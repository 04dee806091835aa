import bz2
import gzip
import io
import logging
import lzma
import os
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import barcode, picture

from infraredcity.clips import is_clip_id
from infraredcity.errors import ShardError
from infraredcity.files.chunk_cache import CACHE_VARIABLE
from infraredcity.loader.order import window_table
from infraredcity.shards import foreign as module
from infraredcity.shards.foreign import TarIndex, index_tars, numbered
from infraredcity.shards.reader import read_members
from infraredcity.stills.decode import decode
from infraredcity.stills.formats import encode

JPGS = [encode(picture(number), "jpg") for number in range(12)]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


def write(path: Path, *samples: dict[str, object]) -> Path:
    """A tar as webdataset's own writer makes it, with a time in a pax header before each member."""
    with webdataset.TarWriter(str(path)) as writer:
        for sample in samples:
            writer.write(sample)
    return path


def frames(path: Path, keys: list[str], **more: object) -> Path:
    return write(path, *({"__key__": key, "jpg": JPGS[number % 12], **more} for number, key in enumerate(keys)))


def read(tar: Path, index: TarIndex, row: int) -> bytes:
    with tar.open("rb") as file:
        file.seek(int(index.offset[row]))
        return file.read(int(index.size[row]))


def windows(index: TarIndex, window_frames: int = 2) -> list[list[str]]:
    table = window_table(index, window_frames=window_frames)
    return [[index.key(row) for row in rows] for rows in table.rows(np.arange(table.num_windows)).tolist()]


def test_shards_of_webdatasets_own_writer_are_read_with_all_their_members(tmp_path: Path) -> None:
    with webdataset.ShardWriter(str(tmp_path / "city-%06d.tar"), maxcount=5, verbose=0) as writer:
        for number in range(12):
            sample = {"__key__": f"city/Night_{number:06d}", "jpg": JPGS[number], "json": {"n": number}, "cls": number}
            writer.write(sample)
    tars = sorted(tmp_path.glob("*.tar"))
    index = index_tars(tars)
    assert [info.num_samples for info in index.shards] == [5, 5, 2]
    assert index.keys() == [f"city/Night_{number:06d}" for number in range(12)]
    assert (index.clips, index.frame_steps, index.image_format) == (("city_night",), (1,), "jpg")
    for row in range(12):
        tar = tars[int(index.shard[row])]
        assert barcode(decode(read(tar, index, row), "rgb")) == row
        start, size = index.sample_place(row)
        members = read_members(tar.read_bytes()[start : start + size], naming="webdataset")
        assert list(members) == ["cls", "jpg", "json"]  # its writer sorts them, so the picture is not the first
        assert (members["cls"], members["jpg"]) == (str(row).encode(), JPGS[row])
    assert len(windows(index, 3)) == 10  # also from one shard to the next


def test_members_written_by_tar_itself_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "set" / "Day 1").mkdir(parents=True)
    for number in range(3):
        (tmp_path / "set" / "Day 1" / f"IMG_{number}.JPG").write_bytes(JPGS[number])
    (tmp_path / "set" / "README").write_text("what this is")
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted((tmp_path / "set").rglob("*")):
            tar.add(path, path.relative_to(tmp_path), recursive=False)
    index = index_tars([tmp_path / "x.tar"])
    assert index.keys() == [f"set/Day 1/IMG_{number}" for number in range(3)]
    assert index.num_refused == 2  # the folder, and what has no suffix
    assert index.clips == ("set_day_1_img",)
    assert read(tmp_path / "x.tar", index, 1) == JPGS[1]


def test_the_picture_is_the_first_of_jpg_jpeg_png_webp_whatever_comes_first(tmp_path: Path) -> None:
    tar = write(
        tmp_path / "x.tar",
        {"__key__": "a_0", "png": b"png", "JPG": JPGS[0], "seg.jpg": b"mask"},
        {"__key__": "a_1", "webp": b"webp", "png": b"png"},
        {"__key__": "a_2", "jpeg": JPGS[2], "png": b"png"},
    )
    index = index_tars([tar])
    assert [read(tar, index, row) for row in range(3)] == [JPGS[0], b"png", JPGS[2]]


def test_a_picture_with_a_name_of_its_own_is_read_where_it_is_the_only_one(tmp_path: Path) -> None:
    samples = [{"__key__": f"a_{n}", "input.jpg": JPGS[n], "caption.txt": "night"} for n in range(3)]
    tar = write(tmp_path / "x.tar", *samples)
    index = index_tars([tar])
    assert index.keys() == ["a_0", "a_1", "a_2"]
    assert [read(tar, index, row) for row in range(3)] == JPGS[:3]
    assert len(windows(index)) == 2
    two = write(tmp_path / "y.tar", {"__key__": "a_0", "input.jpg": JPGS[0], "target.png": b"png"})
    with pytest.raises(ShardError, match=r"sample 'a_0' has 2 pictures \('input\.jpg', 'target\.png'\), .* <key>\.jpg"):
        index_tars([two])


def test_of_tars_one_behind_the_other_all_samples_are_found(tmp_path: Path) -> None:
    tars = [frames(tmp_path / f"{first}.tar", [f"a_{first + n:02d}" for n in range(10)]) for first in (0, 10)]
    both = tmp_path / "both.tar"
    both.write_bytes(tars[0].read_bytes() + tars[1].read_bytes())
    index = index_tars([both])
    assert index.keys() == [f"a_{number:02d}" for number in range(20)]
    assert [read(both, index, row) for row in range(10, 20)] == JPGS[:10]
    assert len(windows(index)) == 19
    far = Elsewhere("both.tar", both.read_bytes(), "v1")
    assert index_tars([far], cache_folder=tmp_path / "elsewhere").samples_hash() == index.samples_hash()
    both.write_bytes(tars[0].read_bytes() + b"what is this" * 100)
    with pytest.raises(ShardError, match=rf"damaged at byte {len(tars[0].read_bytes())}: neither a member nor the end"):
        index_tars([both])


@pytest.mark.parametrize(
    ("compress", "said"),
    [
        (gzip.compress, "compressed by gzip, .*; unpack it with gunzip$"),
        (bz2.compress, "compressed by bzip2, .*; unpack it with bunzip2$"),
        (lzma.compress, "compressed by xz, .*; unpack it with unxz$"),
        (lambda data: b"\x28\xb5\x2f\xfd" + data, "compressed by zstd, .*; unpack it with unzstd$"),
        (lambda data: JPGS[0], "a jpg picture, expected a tar; name tars, or a folder of pictures$"),
    ],
)
def test_what_is_compressed_or_a_picture_is_called_so_and_not_damaged(
    tmp_path: Path, compress: Callable[[bytes], bytes], said: str
) -> None:
    tar = frames(tmp_path / "x.tar", ["a_1", "a_2"])
    tar.write_bytes(compress(tar.read_bytes()))
    with pytest.raises(ShardError, match=rf"x\.tar: {said}"):
        index_tars([tar])


def test_samples_without_a_picture_are_left_out_counted_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = {"__key__": "a_0", "jpg": JPGS[0]}
    tar = write(tmp_path / "x.tar", one, {"__key__": "a_1", "txt": "none"}, {**one, "__key__": "a_2"})
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            index = index_tars([tar])
        assert (index.keys(), index.num_without_picture) == (["a_0", "a_2"], 1)
        assert "x.tar: left out 1 samples without a picture (jpg, jpeg, png, webp) and 0 members" in caplog.text
    assert index.frame_steps == (2,)
    only_text = write(tmp_path / "y.tar", {"__key__": "a_1", "txt": "none"})
    with pytest.raises(ShardError, match=r"y\.tar: no sample holds a picture \(jpg, jpeg, png, webp\); name tars that"):
        index_tars([only_text])


def test_a_link_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, kind in (("a_0.jpg", tarfile.REGTYPE), ("a_1.jpg", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/hostname" if kind == tarfile.SYMTYPE else ""
            tar.addfile(info)
    index = index_tars([tmp_path / "x.tar"])
    assert (index.keys(), index.num_refused) == (["a_0"], 1)
    assert "1 members that are no plain files of a sample; the first is 'a_1.jpg', a link" in caplog.text


def test_numbers_tell_neighbours_by_their_most_frequent_difference(tmp_path: Path) -> None:
    numbers = [0, 5, 10, 20, 25, 30, 31]
    index = index_tars([frames(tmp_path / "x.tar", [f"cam-{number:03d}" for number in numbers])])
    assert (index.clips, index.frame_steps) == (("cam",), (5,))
    assert index.frame_index.tolist() == numbers
    assert windows(index) == [
        ["cam-000", "cam-005"],
        ["cam-005", "cam-010"],
        ["cam-020", "cam-025"],
        ["cam-025", "cam-030"],
    ]


def test_a_tar_in_another_order_is_put_into_that_of_its_numbers(tmp_path: Path) -> None:
    index = index_tars([frames(tmp_path / "x.tar", ["7", "9", "8", "10"])])
    assert index.keys() == ["7", "8", "9", "10"]
    assert [barcode(decode(read(tmp_path / "x.tar", index, row), "rgb")) for row in range(4)] == [0, 2, 1, 3]
    assert len(windows(index, 4)) == 1


def test_windows_span_tars_of_one_clip_whose_numbers_go_on_and_no_others(tmp_path: Path) -> None:
    tars = [
        frames(tmp_path / "0.tar", ["a_0", "a_1"]),
        frames(tmp_path / "1.tar", ["a_2", "a_3"]),
        frames(tmp_path / "2.tar", ["b_4", "b_5"]),
        frames(tmp_path / "3.tar", ["b_9", "b_10"]),
    ]
    index = index_tars(tars)
    assert index.clips == ("a", "b")
    assert windows(index) == [["a_0", "a_1"], ["a_1", "a_2"], ["a_2", "a_3"], ["b_4", "b_5"], ["b_9", "b_10"]]


def test_keys_without_numbers_follow_one_another_by_place_within_their_tar(tmp_path: Path) -> None:
    tars = [frames(tmp_path / f"Set {name}.tar", [f"{name}/cat", f"{name}/dog", f"{name}/cow"]) for name in "xy"]
    index = index_tars(tars)
    assert index.clips == ("set_x", "set_y")
    assert index.frame_index.tolist() == [0, 1, 2, 0, 1, 2]
    assert windows(index) == [["x/cat", "x/dog"], ["x/dog", "x/cow"], ["y/cat", "y/dog"], ["y/dog", "y/cow"]]


def test_no_window_spans_two_clips_or_a_gap_within_one_tar(tmp_path: Path) -> None:
    keys = ["city_1", "city_2", "city_3", "city_8", "city_9", "road_10", "road_11"]
    index = index_tars([frames(tmp_path / "mixed.tar", keys)])
    assert (index.clips, index.frame_index.tolist()) == (("mixed",), list(range(7)))
    assert windows(index) == [["city_1", "city_2"], ["city_2", "city_3"], ["city_8", "city_9"], ["road_10", "road_11"]]


def test_clip_ids_are_valid_and_different(tmp_path: Path) -> None:
    prefixes = ["Cam.A_", "cam a_", "камера-", "", "x" * 90, "cam_a-2_"]
    tars = [
        archive(tmp_path / f"{number}.tar", [f"{prefix.replace('.', '!')}1.jpg"])
        for number, prefix in enumerate(prefixes)
    ]
    clips = index_tars(tars).clips
    assert clips == ("cam_a", "cam_a-2", "clip", "clip-2", "x" * 50, "cam_a-2-2")
    assert all(map(is_clip_id, clips))


def archive(path: Path, names: list[str], form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name.encode())
            tar.addfile(info, io.BytesIO(name.encode()))
    return path


def seconds_to_join(num_tars: int) -> float:
    """Seconds of this process for the index of so many tars, each of which is a clip of its own, once they were walked."""
    columns = {name: np.array([0, 5120]) for name in ("start", "offset", "size", "span", "picture")}
    contents = module._Contents(
        own_keys=np.array([b"first", b"second"]), num_without_picture=0, num_refused=0, first_refused="", **columns
    )
    data = bytes(10_240)
    tars = [Elsewhere(f"{number:06d}.tar", data, "") for number in range(num_tars)]
    frames = [module._frames(place, tar.name.removesuffix(".tar"), contents) for place, tar in enumerate(tars)]
    began = time.process_time()
    index = module._joined(tars, [contents] * num_tars, frames)
    assert (len(index), len(index.clips), index.frame_steps[-1]) == (2 * num_tars, num_tars, 1)
    return time.process_time() - began


def test_the_time_for_many_tars_grows_as_their_number_does() -> None:
    few = min(seconds_to_join(1000) for _ in range(3))
    assert seconds_to_join(20_000) < 20 * 3 * few  # 400 times as long where each looks at all


@settings(max_examples=60)
@given(
    keys=st.lists(
        st.from_regex(r"(d/|Ab|é|_|-| )?([a-z]{0,3}|0{0,2})_?[0-9]{0,20}", fullmatch=True), min_size=1, max_size=10
    ),
    form=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_any_keys_give_an_index_whose_rows_are_their_pictures(
    tmp_path_factory: pytest.TempPathFactory, keys: list[str], form: int
) -> None:
    keys = [key for key in dict.fromkeys(keys) if key and not key.endswith("/")]
    folder = tmp_path_factory.mktemp("keys")
    if not keys:
        return
    tar = archive(folder / "x.tar", [f"{key}.png" for key in keys], form)
    index = index_tars([tar], cache_folder=folder / "cache")
    assert sorted(index.keys()) == sorted(keys)
    assert all(read(tar, index, row).decode() == f"{key}.png" for row, key in enumerate(index.keys()))
    assert all(map(is_clip_id, index.clips))
    again = index_tars([tar], cache_folder=folder / "cache")
    assert (again.samples_hash(), again.keys(), again.run_id.tolist()) == (
        index.samples_hash(),
        index.keys(),
        index.run_id.tolist(),
    )
    numbers = {key: number for key in keys if (number := numbered(key)) is not None}
    for first, second in windows(index) if len(numbers) == len(keys) else []:
        assert numbers[first][0] == numbers[second][0]
        assert numbers[first][1] < numbers[second][1]


def test_the_number_of_a_key_is_its_last_digits() -> None:
    assert numbered("city_clear_00000012") == ("city_clear_", 12)
    assert numbered("2024/cam3-07") == ("2024/cam3-", 7)
    assert numbered("0042") == ("", 42)
    assert [numbered(key) for key in ("", "a", "12a", "1" * 19, "a٣")] == [None] * 5  # the last digit is Arabic


def test_taking_rows_keeps_their_keys(tmp_path: Path) -> None:
    index = index_tars([frames(tmp_path / "x.tar", ["a_1", "a_2", "a_3"])])
    part = index.take(np.array([2, 0]))
    assert isinstance(part, TarIndex)
    assert part.keys() == ["a_3", "a_1"]
    assert [part.sample_place(0), part.sample_place(1)] == [index.sample_place(2), index.sample_place(0)]


def test_the_hash_is_that_of_the_tars_wherever_they_lie(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one = frames(tmp_path / "x.tar", ["a_1", "a_2"])
    moved = Path(shutil.copy(one, tmp_path / "other" / "y.tar"))
    assert index_tars([one]).samples_hash() == index_tars([moved]).samples_hash()
    others = [
        frames(tmp_path / "1.tar", ["b_1", "b_2"]),
        frames(tmp_path / "2.tar", ["a_1", "a_3"]),
        write(tmp_path / "3.tar", *({"__key__": f"a_{n}", "jpg": JPGS[n] + b"longer"} for n in (1, 2))),
    ]
    assert len({index_tars([tar]).samples_hash() for tar in (one, *others)}) == 4


def test_what_was_found_is_kept_until_the_tar_changes(tmp_path: Path) -> None:
    tar, cache = frames(tmp_path / "x.tar", ["a_1", "a_2"]), tmp_path / "cache" / "tar-index"
    before = index_tars([tar])
    (kept,) = cache.iterdir()
    status = tar.stat()
    tar.write_bytes(bytes(status.st_size))  # no tar any more, but of the same size and time
    os.utime(tar, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert index_tars([tar]).keys() == before.keys()
    os.utime(tar, ns=(status.st_atime_ns, status.st_mtime_ns + 1000))
    with pytest.raises(ShardError, match="no sample holds a picture"):
        index_tars([tar])
    assert kept.is_file()


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "of another tar"])
def test_a_damaged_cache_is_built_again(tmp_path: Path, damage: str) -> None:
    tar, cache = frames(tmp_path / "x.tar", ["a_1", "a_2"]), tmp_path / "cache" / "tar-index"
    good = index_tars([tar])
    (kept,) = cache.iterdir()
    data = kept.read_bytes()
    place = data.index(b"infraredcity-tar-index-2")
    longer = frames(tmp_path / "y.tar", [f"a_{number}" for number in range(40)])
    index_tars([longer], cache_folder=tmp_path / "elsewhere")
    kept.write_bytes(
        {
            "cut": data[: len(data) // 2],
            "flipped": data[:place] + b"x" + data[place + 1 :],
            "empty": b"",
            "of another tar": next((tmp_path / "elsewhere").iterdir()).read_bytes(),
        }[damage]
    )
    assert index_tars([tar]).samples_hash() == good.samples_hash()
    assert kept.read_bytes() == data


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert len(index_tars([frames(tmp_path / "x.tar", ["a_1", "a_2"])])) == 2


def test_a_tar_that_is_cut_gone_or_none_is_an_error_of_one_line(tmp_path: Path) -> None:
    tar = frames(tmp_path / "x.tar", ["a_1", "a_2"], json=b"{}")
    data = tar.read_bytes().rstrip(b"\0")
    for size in range(0, len(data), 512):
        tar.write_bytes(data[:size])
        with pytest.raises(ShardError, match=r"x\.tar: [^\n]*copy the shard again$"):
            index_tars([tar])
    with pytest.raises(ShardError, match=r"gone\.tar: no such shard"):
        index_tars([tmp_path / "gone.tar"])


class Elsewhere:
    """A tar that is read by place; counts its reads."""

    def __init__(self, name: str, data: bytes, version: str) -> None:
        self.name, self.version = name, version
        self.size_bytes = len(data)
        self.num_reads = 0
        self._data = data

    def read(self, offset: int, size: int) -> bytes:
        self.num_reads += 1
        return self._data[offset : offset + size]


def test_tars_elsewhere_are_indexed_in_few_reads_and_kept_by_version(tmp_path: Path) -> None:
    local = frames(tmp_path / "x.tar", [f"a_{number}" for number in range(300)], json=b"{}")
    far = Elsewhere("x.tar", local.read_bytes(), "v1")
    index = index_tars([far])
    assert index.samples_hash() == index_tars([local]).samples_hash()
    assert far.num_reads <= far.size_bytes // (1 << 20) + 1
    for version, num_reads in (("v1", 0), ("v2", 2), ("", 2), ("", 2)):
        again = Elsewhere("x.tar", local.read_bytes(), version)
        assert index_tars([again]).keys() == index.keys()
        assert (again.num_reads > 0) == (num_reads > 0)
