"""Folders of plain pictures as they are: names, neighbours, windows, and what is said where a folder holds something else."""

import itertools
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import started
from synthetic import barcode, picture

from infraredcity.datasets.sources import open_sources
from infraredcity.errors import ImageError, ShardError
from infraredcity.files.chunk_cache import CACHE_VARIABLE
from infraredcity.loader import WindowReader, batches, one_pass
from infraredcity.shards.pictures import index_pictures
from infraredcity.stills.formats import encode


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


def fill(folder: Path, names: Sequence[str], *, first: int = 0, width: int = 96) -> Path:
    """Pictures of which each carries its place in `names`, in the format of its name."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names, first):
        image_format = "png" if name.lower().endswith("png") else "jpg"
        (folder / name).write_bytes(encode(picture(number, width=width), image_format))
    return folder


def windows(reader: WindowReader) -> list[tuple[str, ...]]:
    """The keys of all windows in natural order, after a look at the pixels: a name's place in `fill` is what its picture shows."""
    keys: list[tuple[str, ...]] = []
    for batch in one_pass(reader, batch_size=4):
        keys += batch.keys
    return keys


def shown(frames: torch.Tensor) -> list[list[int]]:
    return [[barcode(frame.permute(1, 2, 0).numpy()) for frame in window] for window in frames]


def test_every_picture_of_a_folder_is_a_window_under_its_file_name_in_natural_order(tmp_path: Path) -> None:
    names = ["city 2.jpg", "city 10.PNG", "n02_A.jpeg", "n02_B.JPG"]
    fill(tmp_path / "trainA", names)
    (tmp_path / "trainA" / "labels.txt").write_text("not a picture")
    (tmp_path / "trainA" / "._city 2.jpg").write_bytes(b"what macOS leaves")
    for source in (tmp_path / "trainA", tmp_path / "trainA" / "*[gG]", tmp_path / "trainA" / "*.*[gG]"):
        reader = WindowReader([source], window_frames=1)
        assert windows(reader) == [(name,) for name in names]
        (batch,) = one_pass(reader, batch_size=4)
        assert shown(batch.frames) == [[0], [1], [2], [3]]
        reader.close()
    alone = WindowReader([tmp_path / "trainA" / "n02_A.jpeg"], window_frames=1)
    assert windows(alone) == [("n02_A.jpeg",)]
    alone.close()


def test_numbered_names_are_neighbours_and_nothing_else_is(tmp_path: Path) -> None:
    names = [
        "a_0008.jpg",
        "a_0009.jpg",
        "a_0010.jpg",
        "a_0012.jpg",
        "b_00.jpg",
        "b_05.jpg",
        "b_10.jpg",
        "x.jpg",
        "y.jpg",
    ]
    reader = WindowReader([fill(tmp_path / "d", names)], window_frames=2)
    pairs = [
        ("a_0008.jpg", "a_0009.jpg"),
        ("a_0009.jpg", "a_0010.jpg"),
        ("b_00.jpg", "b_05.jpg"),
        ("b_05.jpg", "b_10.jpg"),
    ]
    assert windows(reader) == pairs
    reader.close()
    with pytest.raises(ShardError, match=r"d: 2 samples hold no window of 2 frames .* --mode image"):
        WindowReader([fill(tmp_path / "stills" / "d", ["x.jpg", "y.jpg"])], window_frames=2)


def test_a_stream_over_pictures_goes_on_at_a_step_and_follows_the_names_not_the_place(tmp_path: Path) -> None:
    names = [f"f{number}.jpg" for number in range(12)]
    here, there = fill(tmp_path / "here", names), fill(tmp_path / "there", names)
    reader, moved = (WindowReader([folder], window_frames=2, seed=3) for folder in (here, there))
    whole = list(itertools.islice(batches(reader, batch_size=3), 9))
    resumed = list(itertools.islice(batches(moved, batch_size=3, start_step=4), 5))
    for before, after in zip(whole[4:], resumed, strict=True):
        assert before.keys == after.keys
        assert torch.equal(before.frames, after.frames)
    assert len({keys for batch in whole[:4] for keys in batch.keys}) == 11
    assert moved.data_hash == reader.data_hash
    moved.close()
    (there / "f3.jpg").write_bytes(b"shorter")
    with pytest.raises(ShardError, match=r"there/f3\.jpg: is 7 bytes, the index says"):
        list(itertools.islice(batches(moved, batch_size=3), 9))
    moved.close()
    changed = WindowReader([there], window_frames=2)
    assert changed.data_hash != reader.data_hash
    reader.close()
    changed.close()


def test_pictures_shards_and_strange_tars_are_sources_of_one_reader(extracted: Path, tmp_path: Path) -> None:
    fill(tmp_path / "trainA", ["x.jpg", "y.png"])
    reader = WindowReader([tmp_path / "trainA", extracted / "city_clear"], window_frames=1, weights=[1, 1])
    assert reader.num_windows == 52
    assert windows(reader)[:3] == [("x.jpg",), ("y.png",), ("city_clear_00000000",)]
    reader.close()


def test_pictures_of_two_sizes_want_a_size(tmp_path: Path) -> None:
    fill(tmp_path / "d", ["a.jpg"])
    fill(tmp_path / "d", ["b.jpg"], first=1, width=128)
    with pytest.raises(ShardError, match=r"one batch holds frames of 96x64 and 128x64; .* give the loader a size"):
        list(one_pass(WindowReader([tmp_path / "d"], window_frames=1), batch_size=2))
    reader = WindowReader([tmp_path / "d"], window_frames=1, size=(64, 96), color="gray")
    (batch,) = one_pass(reader, batch_size=2)
    assert shown(batch.frames) == [[0], [1]]
    reader.close()


def test_a_picture_that_is_none_or_not_there_is_named(tmp_path: Path) -> None:
    folder = fill(tmp_path / "d", ["a.jpg", "b.jpg", "c.jpg"])
    (folder / "b.jpg").write_bytes(b"no picture")
    reader = WindowReader([folder], window_frames=1)
    with pytest.raises(ImageError, match=r"b\.jpg: "):
        list(one_pass(reader, batch_size=3))
    reader.close()
    (folder / "b.jpg").unlink()
    with pytest.raises(ShardError, match=r"d/b\.jpg: .* cannot be opened"):
        list(one_pass(reader, batch_size=3))
    reader.close()
    (folder / "c.jpg").unlink()
    (folder / "c.jpg").mkdir()
    with pytest.raises(ShardError, match=r"d/c\.jpg: not a plain file"):
        WindowReader([folder / "?.jpg"], window_frames=1)
    with_members = WindowReader([folder], window_frames=1, members=["json"])
    with pytest.raises(ShardError, match=r"a\.jpg: a file by itself, which has no member 'json'; leave out members"):
        with_members.read([0])
    with_members.close()


@pytest.mark.parametrize(
    ("files", "source", "said"),
    [
        (
            ["trainA/1.jpg", "trainB/1.jpg"],
            "",
            "d: holds no shards .*; it holds the folders {d}/trainA, {d}/trainB; name one of these",
        ),
        (["1.jpg", "2.jpg"], "*.tar", r"\*\.tar: no shard matches; .*; {d} holds 2 jpg; name the folder itself"),
        (["1.tif", "2.tif"], "", "d: holds no .* it holds 2 tif; make png or jpg of these pictures"),
        (["x.tar.gz"], "", "d: holds no .* it holds 1 gz; unpack the tars"),
        (["x.mp4"], "", r"d: holds no .* it holds 1 mp4; name what holds shards \(\.tar\) or pictures \(jpg"),
        ([], "", "d: holds no .* it holds nothing; name"),
        ([], "trainA", "trainA: no such file or folder; check the path"),
        (["1.jpg", "extract.json"], "", "d: an extraction that did not end; run the same command again"),
    ],
)
def test_a_folder_of_something_else_says_what_it_holds(
    tmp_path: Path, files: list[str], source: str, said: str
) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    with pytest.raises(ShardError, match=said.format(d=folder)) as caught:
        open_sources([[folder / source]])
    assert "\n" not in str(caught.value)


def test_pictures_of_16_bits_say_what_reads_them_when_they_are_opened(tmp_path: Path) -> None:
    (tmp_path / "counts.png").write_bytes(encode(np.full((8, 8, 1), 25_000, np.uint16), "png16"))
    with pytest.raises(ImageError, match=r"counts\.png is a png of 16 bits, .*make pictures of 8 bits, .*decode_deep"):
        WindowReader(tmp_path, window_frames=1)


def test_folders_that_a_pattern_matches_are_folders(extracted: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        fill(tmp_path / "sets" / name, ["1.jpg", "2.jpg"])
    assert len(open_sources([[tmp_path / "sets" / "*"]]).index) == 4
    assert len(open_sources([[extracted / "city_*"]]).index) == 100


def test_pictures_that_are_not_read_and_remote_pictures_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = fill(tmp_path / "d", ["1.jpg"])
    (folder / "2.tif").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert len(open_sources([[folder]]).index) == 1
    assert "d: left out 1 tif, since only jpg, jpeg, png, webp are read" in caplog.text
    with pytest.raises(ShardError, match=r"s3://b/trainA/\*\.jpg: pictures are read only from disks"):
        open_sources([["s3://b/trainA/*.jpg"]])


def test_frames_that_extract_wrote_as_files_are_read(extracted: Path, tmp_path: Path) -> None:
    names = [f"city_clear_{number:08d}.jpg" for number in (0, 1, 2, 5, 6)]
    folder = fill(tmp_path / "city_clear", names)
    for record in ("extract.json", "clips.json", "manifest.csv"):
        (folder / record).write_text("{}")
    reader = WindowReader([folder], window_frames=2)
    assert windows(reader) == [(names[0], names[1]), (names[1], names[2]), (names[3], names[4])]
    assert np.array_equal(reader.index.frame_index, np.arange(5))
    reader.close()


RENAMING = """
import sys
from pathlib import Path
folder = Path(sys.argv[1])
while True:
    (folder / "unfinished.jpg").write_bytes(b"12")
    (folder / "unfinished.jpg").rename(folder / "last.jpg")
"""


def test_a_folder_into_which_somebody_writes_can_be_read(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number:04d}.jpg").write_bytes(b"1")
    with started([sys.executable, "-c", RENAMING, tmp_path]) as writer:
        while not (tmp_path / "last.jpg").exists():
            assert writer.poll() is None
        for _ in range(100):
            assert len(index_pictures(tmp_path)) >= 300
