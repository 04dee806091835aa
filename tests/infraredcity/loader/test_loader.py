import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import fsspec
import numpy as np
import pytest
import torch
from processes import PATIENCE_S
from synthetic import Shelf, barcode, clip_of

from infraredcity.datasets import lite
from infraredcity.datasets.recipe import Cell, Recipe
from infraredcity.datasets.sources import open_sources
from infraredcity.errors import ImageError, ManifestError, ShardError
from infraredcity.extraction.config import ExtractConfig
from infraredcity.extraction.extract_clip import extract_clip
from infraredcity.loader import (
    Monitor,
    ResizeCrop,
    ResizedCrop,
    WindowReader,
    batches,
    domain_batches,
    one_pass,
    unpaired_batches,
    uploaded,
)
from infraredcity.loader import monitor as loader_monitor
from infraredcity.shards import index_file


def codes(frames: torch.Tensor) -> list[list[int]]:
    """u8 [B, T, C, H, W] -> the barcode of each frame."""
    assert frames.dtype == torch.uint8
    return [[barcode(frame.permute(1, 2, 0).numpy()) for frame in window] for window in frames]


def night(extracted: Path) -> str:
    return str(extracted / "city_clear" / "*.tar")


@pytest.mark.parametrize(("window_frames", "stride"), [(1, 1), (2, 1), (3, 1), (3, 4)])
def test_windows_are_true_neighbours(extracted: Path, window_frames: int, stride: int) -> None:
    reader = WindowReader([night(extracted)], window_frames=window_frames, stride=stride, color="gray")
    assert reader.num_windows == 50 - (window_frames - 1) * stride
    windows = reader.read(np.arange(reader.num_windows))
    assert windows.frames.shape == (reader.num_windows, window_frames, 1, 64, 96)
    shown = codes(windows.frames)
    assert sorted(shown) == [[first + stride * t for t in range(window_frames)] for first in range(reader.num_windows)]
    assert [list(keys) for keys in windows.keys] == [[f"city_clear_{frame:08d}" for frame in row] for row in shown]
    assert shown != sorted(shown)
    reader.close()


def test_no_window_spans_a_gap(shelf: Shelf, tmp_path: Path) -> None:
    clip = clip_of(shelf.corrupted, "bitten")
    extract_clip(clip, ExtractConfig(frames_per_shard=16), tmp_path)
    reader = WindowReader([tmp_path / "bitten" / "*.tar"], window_frames=3)
    shown = sorted(codes(reader.read(np.arange(reader.num_windows)).frames))
    # 20 and 21 are missing, and 19 is suspect: what made the next one undecodable may have begun in it.
    assert shown == [[f, f + 1, f + 2] for f in (*range(17), *range(22, 38))]
    reader.close()


def test_windows_of_a_lite_set_stay_inside_its_runs(extracted: Path, tmp_path: Path) -> None:
    cell = Cell(scene="city", clip="city_clear", train=20, test=4)
    recipe = Recipe(name="tiny", run_frames=4, guard_frames=3, window_frames=2, cells=(cell,))
    lite.build(extracted, tmp_path, recipe)
    reader = WindowReader([str(tmp_path / "city/infrared-train/*.tar")], window_frames=2)
    shown = codes(reader.read(np.arange(reader.num_windows)).frames)
    assert reader.num_windows >= 5 * 3
    assert all(b == a + 1 for a, b in shown)
    reader.close()


def test_colour_is_as_asked_whatever_the_files_hold(extracted: Path) -> None:
    for clip in ("city_clear", "city_day"):
        for color, channels in (("gray", 1), ("rgb", 3)):
            reader = WindowReader([str(extracted / clip / "*.tar")], color=color)  # type: ignore[arg-type]
            assert reader.read([0, 1]).frames.shape == (2, 2, channels, 64, 96)
            reader.close()


def test_a_size_resizes(extracted: Path) -> None:
    reader = WindowReader([night(extracted)], size=(32, 48), color="gray")
    windows = reader.read(np.arange(20))
    assert windows.frames.shape == (20, 2, 1, 32, 48)
    assert [[int(key[-8:]) for key in keys] for keys in windows.keys] == codes(windows.frames)
    reader.close()


def test_resuming_at_a_step_gives_the_same_batches(extracted: Path) -> None:
    reader = WindowReader([night(extracted)], seed=3)
    whole = list(itertools.islice(batches(reader, batch_size=7), 20))  # nearly three epochs
    resumed = list(itertools.islice(batches(reader, batch_size=7, start_step=12), 8))
    for before, after in zip(whole[12:], resumed, strict=True):
        assert before.keys == after.keys
        assert np.array_equal(before.positions, after.positions)
        assert torch.equal(before.frames, after.frames)
    reader.close()


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_every_window_comes_once_an_epoch_at_any_world_size(extracted: Path, world_size: int) -> None:
    reader = WindowReader([night(extracted)])
    alone = list(itertools.islice(batches(reader, batch_size=7), 7))
    seen = []
    for rank in range(world_size):
        share = batches(reader, batch_size=7, rank=rank, world_size=world_size)
        seen.append(list(itertools.islice(share, 7)))
    for step, batch in enumerate(alone):
        assert sum((share[step].keys for share in seen), ()) == batch.keys
    all_keys = [keys for batch in alone for keys in batch.keys]
    assert len(all_keys) == len(set(all_keys)) == reader.num_windows == 49
    reader.close()


def test_two_domains_are_two_independent_streams(extracted: Path) -> None:
    infrared = WindowReader([night(extracted)], seed=1)
    visible = WindowReader([str(extracted / "city_day" / "*.tar")], seed=1)
    steps = list(itertools.islice(unpaired_batches(infrared, visible, batch_size=4, start_step=5), 3))
    assert [batch.step for batch in steps] == [5, 6, 7]
    for batch in steps:
        assert {key[:10] for keys in batch.infrared.keys for key in keys} == {"city_clear"}
        assert {key[:8] for keys in batch.visible.keys for key in keys} == {"city_day"}
        assert [keys[0][-8:] for keys in batch.infrared.keys] != [keys[0][-8:] for keys in batch.visible.keys]
    infrared.close()
    visible.close()


def test_another_seed_is_another_order(extracted: Path) -> None:
    orders = []
    for seed in (0, 1):
        reader = WindowReader([night(extracted)], seed=seed)
        orders.append(reader.read(range(49)).keys)
        reader.close()
    assert orders[0] != orders[1]
    assert set(orders[0]) == set(orders[1])


def test_the_order_does_not_know_how_samples_lie_in_shards(shelf: Shelf, tmp_path: Path) -> None:
    clip = clip_of(shelf.h264, "city_clear")
    orders = []
    for size in (7, 50):
        extract_clip(clip, ExtractConfig(frames_per_shard=size), tmp_path / str(size))
        reader = WindowReader([tmp_path / str(size) / "city_clear" / "*.tar"])
        orders.append(reader.read(range(49)).keys)
        reader.close()
    assert orders[0] == orders[1]


def test_some_shards_are_a_smaller_data_set(extracted: Path) -> None:
    reader = WindowReader([extracted / "city_clear" / "infraredcity-city_clear-000001.tar"], color="gray")
    assert reader.num_windows == 15
    assert sorted(codes(reader.read(range(15)).frames)) == [[f, f + 1] for f in range(16, 31)]
    reader.close()


def test_rows_are_read_one_by_one_for_an_evaluation(extracted: Path) -> None:
    reader = WindowReader([night(extracted)])
    frames = reader.read_rows([3, 40, 3])
    assert frames.shape == (3, 3, 64, 96)
    assert codes(frames[:, None]) == [[3], [40], [3]]
    reader.close()


@pytest.mark.parametrize(("batch_size", "world_size"), [(1, 2), (7, 8)])
def test_a_batch_smaller_than_the_world_is_refused(extracted: Path, batch_size: int, world_size: int) -> None:
    reader = WindowReader([night(extracted)])
    message = f"a global batch of {batch_size} cannot feed {world_size} ranks; make the batch at least {world_size}"
    with pytest.raises(ValueError, match=message):
        next(batches(reader, batch_size=batch_size, rank=0, world_size=world_size))
    with pytest.raises(ValueError, match=message):
        next(unpaired_batches(reader, reader, batch_size=batch_size, rank=0, world_size=world_size))
    with pytest.raises(ValueError, match=r"rank must be in \[0, 2\), got 2"):
        next(batches(reader, batch_size=8, rank=2, world_size=2))
    reader.close()


def copied(extracted: Path, folder: Path, clip: str = "city_clear") -> Path:
    target = folder / clip
    target.mkdir(parents=True)
    for path in (extracted / clip).iterdir():
        if path.is_file():
            (target / path.name).write_bytes(path.read_bytes())
    return target


def test_one_source_may_be_given_by_itself_and_the_reader_tells_what_it_is(extracted: Path) -> None:
    for source in (night(extracted), extracted / "city_clear", str(extracted / "city_clear")):
        reader = WindowReader(source, color="gray", size=(32, 48), threads=3)
        assert repr(reader) == (
            f"WindowReader({source}: 50 frames, 49 windows of 2 at stride 1, gray, 32x48, seed 0, 3 threads)"
        )
        reader.close()
    with pytest.raises(ValueError, match="weights must be one per source, got 2 for 1 sources"):
        WindowReader(night(extracted), weights=[1, 2])
    with pytest.raises(ValueError, match="sources names nothing; name tars"):
        WindowReader([])


CHOICES = {
    "WindowReader('x', color='grey')": "color must be one of 'gray', 'rgb', got 'grey'",
    "WindowReader('x', on_bad='skip')": "on_bad must be one of 'raise', 'replace', got 'skip'",
    "pipeline('x.tar', batch_size=1, color='grey')": "color must be one of 'gray', 'rgb', got 'grey'",
    "ExtractConfig(color='grey')": "color must be one of 'gray', 'rgb', got 'grey'",
    "decode(b'', 'grey')": "color must be one of 'gray', 'rgb', got 'grey'",
    "encode(np.zeros((8, 8, 1), np.uint8), 'bmp')": "image_format must be one of 'jpg', 'png', 'webp', 'png16', got 'bmp'",
    "verify(Path('x'), decode='some')": "decode must be one of 'all', 'sample', 'none', got 'some'",
    "export(Path('x'), Path('y'), pairs='all')": "pairs must be one of 'overlapping', 'disjoint', got 'all'",
    "export(Path('x'), Path('y'), double_format='gif')": "double_format must be one of 'jpg', 'png', got 'gif'",
    "export(Path('x'), Path('y'), kinds=['triple'])": "kinds must be one of 'single', 'double', got 'triple'",
    "write_sample('x', polarity='red-hot')": "polarity must be one of 'white-hot', 'black-hot', got 'red-hot'",
}


def test_a_choice_that_is_none_names_the_choices(tmp_path: Path) -> None:
    # In a process of its own: here every call is type-checked before its own words come.
    script = """
from pathlib import Path
import numpy as np
from infraredcity.export.release_export import export
from infraredcity.stills.decode import decode
from infraredcity.stills.formats import encode
from infraredcity.loader import WindowReader
from infraredcity.loader.webdataset import pipeline
from infraredcity.extraction.config import ExtractConfig
from infraredcity.synthetic import write_sample
from infraredcity.checks.verify import verify
"""
    for call in CHOICES:
        script += f"try:\n    {call}\nexcept ValueError as error:\n    print(error)\n"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == list(CHOICES.values())


def test_shards_of_counts_say_what_reads_them_when_they_are_opened(shelf: Shelf, tmp_path: Path) -> None:
    extract_clip(clip_of(shelf.deep), ExtractConfig(image_format="png16"), tmp_path)
    message = r"city_clear_00000000 is a png of 16 bits, .*; give the reader a tone, .* --format png16, .*decode_deep"
    for on_bad in ("raise", "replace"):
        with pytest.raises(ImageError, match=message):
            WindowReader(tmp_path / "city_clear", on_bad=on_bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("color", ["gray", "rgb"])
def test_counts_become_levels_by_the_tone_of_their_clip(
    shelf: Shelf, tmp_path: Path, color: Literal["gray", "rgb"]
) -> None:
    for kind in ("png16", "png"):
        extract_clip(clip_of(shelf.deep), ExtractConfig(image_format=kind), tmp_path / kind)  # type: ignore[arg-type]
    counts = WindowReader(tmp_path / "png16" / "city_clear", tone="percentile", color=color)
    levels = WindowReader(tmp_path / "png" / "city_clear", color=color)
    rows = list(range(len(levels.index)))
    assert len(rows) <= 128  # so the tone is fitted to all of them, as extraction does
    assert torch.equal(counts.read_rows(rows), levels.read_rows(rows))
    assert set(counts.tones) == {0}
    small, same = (WindowReader(tmp_path / kind / "city_clear", tone="percentile", color=color, size=(24, 32))
                   for kind in ("png16", "png"))  # fmt: skip
    assert torch.equal(small.read_rows(rows), same.read_rows(rows))
    assert same.tones == {}
    cropped = WindowReader(
        tmp_path / "png16" / "city_clear", tone="minmax", color=color, crop=ResizeCrop(load_px=32, crop_px=24)
    )
    assert cropped.read([0, 1]).frames.shape[-2:] == (24, 24)


def test_a_pattern_that_matches_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"\*\.tar: no shard matches; check the path, and quote the pattern"):
        WindowReader([tmp_path / "*.tar"])


def test_a_tar_that_is_not_in_the_index_is_refused(extracted: Path, tmp_path: Path) -> None:
    folder = copied(extracted, tmp_path)
    (folder / "infraredcity-city_clear-000000.tar").rename(folder / "stray.tar")
    with pytest.raises(
        ShardError, match=r"stray\.tar: not in .*index\.npz, so it is not part of the data set; remove it"
    ):
        WindowReader([folder / "*.tar"])


def test_a_folder_that_lacks_a_shard_is_refused_and_what_is_there_can_be_named(extracted: Path, tmp_path: Path) -> None:
    folder = copied(extracted, tmp_path)
    (folder / "infraredcity-city_clear-000002.tar").unlink()
    with pytest.raises(
        ShardError, match=r"000002\.tar: the index names it, but it is not there \(1 of 4 shards are missing\)"
    ):
        WindowReader([folder])
    reader = WindowReader([folder / "*.tar"], window_frames=1)
    assert reader.num_windows == 50 - 16
    reader.close()


def test_a_folder_without_an_index_is_refused(extracted: Path, tmp_path: Path) -> None:
    folder = copied(extracted, tmp_path)
    (folder / index_file.INDEX_NAME).unlink()
    with pytest.raises(ManifestError, match=r"index\.npz: no index; finish extraction"):
        WindowReader([folder / "*.tar"])


def test_a_shard_of_another_size_is_refused(extracted: Path, tmp_path: Path) -> None:
    folder = copied(extracted, tmp_path)
    shard = folder / "infraredcity-city_clear-000002.tar"
    shard.write_bytes(shard.read_bytes()[:-1024])
    reader = WindowReader([folder / "*.tar"])
    with pytest.raises(ShardError, match=r"000002\.tar: is \d+ bytes, the index says \d+; copy the shard again"):
        list(itertools.islice(batches(reader, batch_size=7), 7))
    reader.close()


def test_a_damaged_picture_is_named_by_its_key(extracted: Path, tmp_path: Path) -> None:
    folder = copied(extracted, tmp_path)
    index = index_file.load(folder)
    shard = folder / index.shards[0].name
    data = bytearray(shard.read_bytes())
    data[int(index.offset[5]) : int(index.offset[5]) + 40] = bytes(40)
    shard.write_bytes(data)
    reader = WindowReader([folder / "*.tar"])
    with pytest.raises(ImageError, match="city_clear_00000005: not a picture that can be decoded"):
        reader.read_rows(range(50))
    reader.close()


def test_frames_of_two_sizes_need_a_size(shelf: Shelf, extracted: Path, tmp_path: Path) -> None:
    clip = clip_of(shelf.h264, "other")
    extract_clip(clip, ExtractConfig(size=(48, 32)), tmp_path)
    sources = [night(extracted), str(tmp_path / "other" / "*.tar")]
    mixed = WindowReader(sources)
    with pytest.raises(ShardError, match="one batch holds frames of 48x32 and 96x64; extract with one --size, or give"):
        mixed.read(range(98))
    resized = WindowReader(sources, size=(32, 48))
    assert resized.read(range(98)).frames.shape == (98, 2, 3, 32, 48)
    mixed.close()
    resized.close()


@pytest.mark.parametrize(
    ("pattern", "num_samples"), [("*.tar", 50), ("*-00000?.tar", 50), ("*-00000[01].tar", 32), ("*-?????3.tar", 2)]
)
def test_a_pattern_means_the_same_in_a_bucket_as_on_a_disk(extracted: Path, pattern: str, num_samples: int) -> None:
    store = fsspec.filesystem("memory")
    for path in (extracted / "city_clear").glob("*.*"):
        store.pipe_file(f"/patterns/city_clear/{path.name}", path.read_bytes())
    try:
        for folder in (str(extracted), "memory://patterns"):
            opened = open_sources([[f"{folder}/city_clear/{pattern}"]])
            assert len(opened.index) == num_samples
            opened.files.close()
    finally:
        store.store.clear()


def test_too_few_frames_for_a_window_are_an_error(extracted: Path) -> None:
    with pytest.raises(ShardError, match="50 samples hold no window of 60 frames at stride 1; take fewer frames"):
        WindowReader([night(extracted)], window_frames=60)


def test_open_sources_names_the_folder_of_each_shard(extracted: Path) -> None:
    opened = open_sources([[night(extracted), str(extracted / "city_day" / "*.tar")]])
    assert len(opened.index) == 100
    assert len(opened.index.shards) == 8
    assert len(opened.files.image(77)) == opened.index.size[77]
    assert opened.data_hash != open_sources([[night(extracted)]]).data_hash
    opened.files.close()


def test_the_order_of_a_whole_folder_is_that_of_its_shards_named_one_by_one(extracted: Path, tmp_path: Path) -> None:
    shards = sorted((extracted / "city_clear").glob("*.tar"))
    whole, listed, few = (open_sources([names]) for names in ([extracted / "city_clear"], shards, shards[:2]))
    assert whole.data_hash == listed.data_hash == whole.index.samples_hash()
    assert few.data_hash == few.index.samples_hash() != whole.data_hash
    braced = open_sources([[str(extracted / "city_clear" / "infraredcity-city_clear-{000000..000001}.tar")]])
    assert braced.data_hash == few.data_hash
    with pytest.raises(ShardError, match="holds no shards and no pictures itself; it holds nothing"):
        open_sources([[tmp_path]])
    with pytest.raises(ShardError, match="counts down; write the smaller number first"):
        open_sources([["a-{3..1}.tar"]])


def test_frames_of_a_batch_lie_channels_last_and_are_not_written_over_while_somebody_holds_them(
    extracted: Path,
) -> None:
    reader = WindowReader([night(extracted)])
    stream = batches(reader, batch_size=7)
    held = list(itertools.islice(stream, 30))
    copies = [batch.frames.clone() for batch in held]
    assert held[0].frames[0].is_contiguous(memory_format=torch.channels_last)
    views = [batch.frames[0, 0] for batch in held]
    for batch in held:
        assert [[int(key[-8:]) for key in keys] for keys in batch.keys] == codes(batch.frames)
    del held, batch
    for _ in range(30):
        next(stream)
    # Even one frame of a batch keeps the memory of all of it.
    assert all(torch.equal(view, copy[0, 0]) for view, copy in zip(views, copies, strict=True))
    reader.close()


def test_memory_of_batches_that_nobody_holds_is_used_again(extracted: Path) -> None:
    reader = WindowReader([night(extracted)])
    places = set()
    for batch in itertools.islice(batches(reader, batch_size=7), 40):
        places.add(batch.frames.data_ptr())
    assert len(places) <= 6
    reader.close()


def test_the_state_is_what_was_taken_not_what_was_read_ahead(extracted: Path) -> None:
    reader = WindowReader([night(extracted)], seed=3)
    stream = batches(reader, batch_size=7, prefetch_batches=5)
    taken = list(itertools.islice(stream, 4))
    state = stream.state_dict()
    assert state["position"] == 28
    rest = list(itertools.islice(stream, 6))
    again = batches(reader, batch_size=7)
    next(again)
    again.load_state_dict(state)
    assert [batch.keys for batch in itertools.islice(again, 6)] == [batch.keys for batch in rest]
    assert again.position == 70
    # Two ranks, and another batch size, go on from the same number.
    halves = []
    for rank in range(2):
        share = batches(reader, batch_size=6, rank=rank, world_size=2)
        share.load_state_dict(state)
        halves.append(list(itertools.islice(share, 7)))
    positions = [p for half in halves for batch in half for p in batch.positions.tolist()]
    assert sorted(positions) == list(range(28, 70))
    seen = {keys for batch in taken for keys in batch.keys} | {
        keys for half in halves for batch in half for keys in batch.keys if True
    }
    assert len(seen) == 49
    reader.close()


def test_a_state_of_other_data_or_of_another_seed_is_refused(extracted: Path) -> None:
    reader, other = (WindowReader([night(extracted)], seed=seed) for seed in (0, 1))
    day = WindowReader([str(extracted / "city_day")])
    stream = batches(reader, batch_size=7)
    with pytest.raises(ManifestError, match="stream 0: seed was 1 when the state was saved and is 0 now"):
        stream.load_state_dict(batches(other, batch_size=7).state_dict())
    with pytest.raises(
        ManifestError, match=r"stream 0: data_hash was .* take the same data, seed and window, or begin"
    ):
        stream.load_state_dict(batches(day, batch_size=7).state_dict())
    with pytest.raises(ManifestError, match="the state is of 2 streams, this one has 1"):
        stream.load_state_dict(unpaired_batches(reader, day, batch_size=7).state_dict())
    longer = WindowReader([night(extracted)], window_frames=3)
    with pytest.raises(ManifestError, match="stream 0: num_windows was 48 when"):
        stream.load_state_dict(batches(longer, batch_size=7).state_dict())
    weighted = [WindowReader([night(extracted), extracted / "city_day"], weights=pair) for pair in ([1, 1], [2, 1])]
    with pytest.raises(
        ManifestError, match=r"stream 0: weights was \[2.0, 1.0\] when the state was saved and is \[1.0, 1.0\]"
    ):
        batches(weighted[0], batch_size=7).load_state_dict(batches(weighted[1], batch_size=7).state_dict())
    with pytest.raises(ManifestError, match="not the state of a stream of windows"):
        stream.load_state_dict({"step": 3})
    for one in (reader, other, day, longer, *weighted):
        one.close()


def test_any_number_of_domains_are_independent_streams(extracted: Path) -> None:
    readers = {name: WindowReader([extracted / name]) for name in ("city_clear", "city_day")}
    readers["again"] = WindowReader([extracted / "city_day"], seed=1, window_frames=3)
    steps = list(itertools.islice(domain_batches(readers, batch_size=4), 3))
    assert [set(step) for step in steps] == [set(readers)] * 3
    assert steps[2]["again"].frames.shape == (4, 3, 3, 64, 96)
    alone = list(itertools.islice(batches(readers["city_day"], batch_size=4), 3))
    assert [step["city_day"].keys for step in steps] == [batch.keys for batch in alone]
    for reader in readers.values():
        reader.close()


def test_weighted_sources_are_drawn_as_often_as_asked_each_in_epochs_of_its_own(extracted: Path) -> None:
    sources = [night(extracted), extracted / "city_day"]
    reader = WindowReader(sources, weights=[3, 1], seed=2)
    assert reader.num_windows == 98
    taken = list(itertools.islice(batches(reader, batch_size=8), 49))
    by_position = {p: keys[0] for batch in taken for p, keys in zip(batch.positions.tolist(), batch.keys, strict=True)}
    firsts = [by_position[position] for position in range(392)]
    clear, day = ([key for key in firsts if key.startswith(name)] for name in ("city_clear", "city_day"))
    assert len(clear) == 294
    assert len(day) == 98
    assert sorted(day[:49]) == sorted(day[49:]) == sorted(set(day))
    assert len(set(clear[:49])) == 49
    halves = [list(itertools.islice(batches(reader, batch_size=8, rank=r, world_size=2), 9)) for r in range(2)]
    for step, batch in enumerate(taken[:9]):
        assert halves[0][step].keys + halves[1][step].keys == batch.keys
    with pytest.raises(ValueError, match="weights must be one per source, got 1 for 2 sources"):
        WindowReader(sources, weights=[1])
    reader.close()


@pytest.mark.parametrize(("window_frames", "world_size", "batch_size"), [(1, 1, 16), (1, 3, 7), (2, 4, 5), (2, 64, 3)])
def test_one_pass_shows_everything_once_over_all_ranks(
    extracted: Path, window_frames: int, world_size: int, batch_size: int
) -> None:
    reader = WindowReader([night(extracted)], window_frames=window_frames, color="gray")
    seen = []
    for rank in range(world_size):
        for batch in one_pass(reader, batch_size=batch_size, rank=rank, world_size=world_size):
            assert 1 <= len(batch.keys) <= batch_size
            assert [[int(key[-8:]) for key in keys] for keys in batch.keys] == codes(batch.frames)
            seen += batch.positions.tolist()
    assert seen == list(range(50 if window_frames == 1 else 49))
    with pytest.raises(ValueError, match=r"rank in \[0, 2\), got 4 and 2"):
        next(one_pass(reader, batch_size=4, rank=2, world_size=2))
    reader.close()


def test_frames_that_two_windows_of_a_batch_share_are_decoded_once(extracted: Path) -> None:
    reader = WindowReader([night(extracted)], window_frames=3)
    list(one_pass(reader, batch_size=100))
    assert reader.tally.sum().frames == 50
    reader.close()
    cropping = WindowReader([night(extracted)], window_frames=3, crop=ResizeCrop(load_px=32, crop_px=24), threads=1)
    cropping.read_here(np.arange(48))
    # Two windows of three at a time: what neighbours in such a group share is decoded once.
    assert cropping.tally.sum().frames == 24 * 4
    cropping.close()


def mirrored(frames: torch.Tensor, flip: bool) -> torch.Tensor:
    return frames.flip(-1) if flip else frames


def test_crops_are_one_for_all_frames_of_a_window_and_belong_to_its_position(extracted: Path) -> None:
    crop = ResizeCrop(load_px=64, crop_px=48)
    reader = WindowReader([night(extracted)], window_frames=2, color="gray", crop=crop, seed=4)
    plain = WindowReader([night(extracted)], window_frames=2, color="gray", size=(64, 64), seed=4)
    batch, whole = reader.read(range(40)), plain.read(range(40))
    assert batch.frames.shape == (40, 2, 1, 48, 48)
    places = set()
    for window, resized in zip(batch.frames.int(), whole.frames.int(), strict=True):
        fits = [
            (top, left, flip)
            for top in range(17)
            for left in range(17)
            for flip in (False, True)
            if (window - mirrored(resized[..., top : top + 48, left : left + 48], flip)).abs().max() <= 2
        ]
        assert fits
        places.add(fits[0])
    assert len({flip for _, _, flip in places}) == 2
    assert len(places) > 30
    # Whoever reads a position, alone or in a batch, at whatever rank, sees the same crop.
    alone = reader.read([17])
    assert torch.equal(alone.frames[0], batch.frames[17])
    assert torch.equal(reader.read_here([17, 3]).frames[1], batch.frames[3])
    later = reader.read(np.arange(40) + reader.num_windows)
    assert not any(torch.equal(one, other) for one, other in zip(later.frames, batch.frames, strict=True))
    with pytest.raises(ValueError, match="give size or crop, not both"):
        WindowReader([night(extracted)], crop=crop, size=(8, 8))
    for one in (reader, plain):
        one.close()


def test_random_resized_crops_come_out_at_one_size(extracted: Path) -> None:
    reader = WindowReader([night(extracted)], window_frames=1, crop=ResizedCrop(size=(40, 56), scale=(0.2, 1.0)))
    frames = reader.read(range(50)).frames
    assert frames.shape == (50, 1, 3, 40, 56)
    assert torch.equal(frames, reader.read(range(50)).frames)
    reader.close()


def test_a_transform_of_ones_own_gets_windows_and_numbers_of_their_positions(extracted: Path) -> None:
    def brighter(frames: torch.Tensor, draw: np.random.Generator) -> torch.Tensor:
        assert frames.shape == (2, 1, 64, 96)
        assert frames.dtype == torch.uint8
        return torch.cat([frames.float().mean(dim=(2, 3)), torch.tensor([[draw.random()]] * 2)], dim=1)

    reader = WindowReader([night(extracted)], color="gray", transform=brighter, seed=1)
    batch = reader.read(range(49))
    assert batch.frames.shape == (49, 2, 2)
    assert torch.equal(batch.frames[7], reader.read([7]).frames[0])
    assert len(set(batch.frames[:, 0, 1].tolist())) == 49

    def fails(frames: torch.Tensor, draw: np.random.Generator) -> torch.Tensor:
        raise ZeroDivisionError("in a transform")

    failing = WindowReader([night(extracted)], transform=fails)
    with pytest.raises(ZeroDivisionError, match="in a transform"):
        failing.read([0])
    for one in (reader, failing):
        one.close()


def test_further_members_come_along_as_bytes(extracted: Path) -> None:
    reader = WindowReader([night(extracted)], members=["json"])
    batch = next(batches(reader, batch_size=5))
    for keys, held in zip(batch.keys, batch.members, strict=True):
        assert [json.loads(members["json"])["frame_index"] for members in held] == [int(key[-8:]) for key in keys]
    assert [[int(key[-8:]) for key in keys] for keys in batch.keys] == codes(batch.frames)
    asking = WindowReader([night(extracted)], members=["txt"])
    with pytest.raises(ShardError, match=r"city_clear_\d+: has no member 'txt', only jpg, json; ask for what there is"):
        asking.read([0])
    for one in (reader, asking):
        one.close()


def damaged(extracted: Path, folder: Path, frames: tuple[int, ...]) -> Path:
    """A copy of city_clear in which some pictures are wiped."""
    folder = copied(extracted, folder)
    index = index_file.load(folder)
    for frame in frames:
        shard = folder / index.shards[int(index.shard[frame])].name
        data = bytearray(shard.read_bytes())
        data[int(index.offset[frame]) : int(index.offset[frame]) + 40] = bytes(40)
        shard.write_bytes(data)
    return folder


@pytest.mark.parametrize("crop", [None, ResizeCrop(load_px=64, crop_px=64, flip=False)])
def test_bad_samples_are_replaced_by_the_same_others_for_everyone_and_counted(
    extracted: Path, tmp_path: Path, crop: ResizeCrop | None
) -> None:
    folder = damaged(extracted, tmp_path, (5, 30))
    reader = WindowReader([folder], on_bad="replace", crop=crop, members=["json"])
    taken = list(itertools.islice(batches(reader, batch_size=7), 7))
    replaced = [p for batch in taken for p in batch.replaced]
    assert len(replaced) == 4  # 4-5, 5-6, 29-30, 30-31
    assert reader.num_replaced == 4
    assert sorted(reader.bad) == ["city_clear_00000005", "city_clear_00000030"]
    shown = [keys for batch in taken for keys in batch.keys]
    assert len(shown) == 49
    assert not {"city_clear_00000005", "city_clear_00000030"} & {key for keys in shown for key in keys}
    assert len(set(shown)) >= 42
    for batch in taken:
        frames = [[json.loads(members["json"])["frame_index"] for members in held] for held in batch.members]
        assert frames == [[int(key[-8:]) for key in keys] for keys in batch.keys]
        if crop is None:
            assert frames == codes(batch.frames)
    # Another rank, later, alone: the same stands in.
    alone = WindowReader([folder], on_bad="replace", crop=crop)
    by_position = dict(zip([p for batch in taken for p in batch.positions.tolist()], shown, strict=True))
    for position in replaced:
        again = alone.read_here([position])
        assert again.replaced == (position,)
        assert again.keys[0] == by_position[position]
    for one in (reader, alone):
        one.close()


def test_a_set_whose_first_picture_is_bad_can_be_read_where_bad_ones_are_replaced(
    extracted: Path, tmp_path: Path
) -> None:
    reader = WindowReader([damaged(extracted, tmp_path, (0,))], on_bad="replace")
    batch = reader.read(range(49))
    assert batch.frames.shape == (49, 2, 3, 64, 96)
    assert len(batch.replaced) == 1
    assert list(reader.bad) == ["city_clear_00000000"]
    reader.close()


def test_rows_that_were_asked_for_by_number_are_never_replaced(extracted: Path, tmp_path: Path) -> None:
    reader = WindowReader([damaged(extracted, tmp_path, (5,))], on_bad="replace")
    assert codes(reader.read_rows([4, 6])[:, None]) == [[4], [6]]
    with pytest.raises(ImageError, match="city_clear_00000005"):
        reader.read_rows([4, 5])
    reader.close()


def test_a_batch_with_replaced_windows_is_the_same_when_it_is_asked_for_again(extracted: Path, tmp_path: Path) -> None:
    readers = {
        "replaced": WindowReader([damaged(extracted, tmp_path, (5,))], on_bad="replace"),
    }
    reading = readers["replaced"].begin(range(49))
    first, again = reading.result(), reading.result()
    assert len(first.replaced) == 2
    assert (again.replaced, again.keys) == (first.replaced, first.keys)
    assert readers["replaced"].num_replaced == 2
    for reader in readers.values():
        reader.close()


def test_too_many_bad_samples_are_an_error_after_all(extracted: Path, tmp_path: Path) -> None:
    folder = damaged(extracted, tmp_path, (5, 20, 30))
    reader = WindowReader([folder], on_bad="replace", max_bad=2)
    with pytest.raises(
        ShardError, match=r"3 samples cannot be read, 2 are allowed \(city_clear_00000005, .*the last: "
    ):
        list(itertools.islice(batches(reader, batch_size=7), 7))
    reader.close()


def test_a_batch_that_failed_fails_again(extracted: Path, tmp_path: Path) -> None:
    reader = WindowReader([damaged(extracted, tmp_path, (5,))])
    stream = batches(reader, batch_size=49)
    for _ in range(2):
        with pytest.raises(ImageError, match="city_clear_00000005: not a picture"):
            next(stream)
    assert stream.position == 0
    reader.close()


def test_the_facts_of_a_loader_can_be_read_while_it_runs(extracted: Path, tmp_path: Path) -> None:
    reader = WindowReader([night(extracted)])
    folder = tmp_path / "run" / "loader"
    streams = [
        batches(reader, batch_size=8, rank=rank, world_size=2, monitor=Monitor(folder, interval_s=0.0))
        for rank in range(2)
    ]
    for stream in streams:
        for _ in range(5):
            next(stream)
    (_, first), (_, second) = loader_monitor.read(folder)
    assert (first.rank, second.rank, first.world_size, first.position) == (0, 1, 2, 40)
    assert first.windows == second.windows == 20
    assert first.frames >= 40
    assert first.bytes_read > 40 * 500
    assert 0 < first.read_share + first.decode_share < 1.1
    assert 0 < first.wait_share <= 1
    assert first.frames_per_s == pytest.approx(first.frames / first.seconds)
    with pytest.raises(ManifestError, match=r"no rank-\*\.json of a loader"):
        loader_monitor.read(tmp_path)
    (folder / "rank-001.json").write_text("{}")
    with pytest.raises(ManifestError, match=r"rank-001\.json: no facts of a loader"):
        loader_monitor.read(folder)
    reader.close()


def test_a_monitor_that_cannot_write_says_so_and_costs_no_batch(
    extracted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    reader = WindowReader([night(extracted)])
    stream = batches(reader, batch_size=7, monitor=Monitor(tmp_path / "file" / "loader", interval_s=0.0))
    seen = [keys for batch in itertools.islice(stream, 7) for keys in batch.keys]
    assert len(set(seen)) == 49
    assert "what the loader does cannot be watched for now" in caplog.text
    reader.close()


def test_a_monitor_writes_no_more_often_than_asked(extracted: Path, tmp_path: Path) -> None:
    reader = WindowReader([night(extracted)])
    stream = batches(reader, batch_size=8, monitor=Monitor(tmp_path, interval_s=3600.0))
    for _ in range(10):
        next(stream)
    assert loader_monitor.read(tmp_path)[0][1].position == 8
    reader.close()


def test_upload_makes_numbers_of_bytes(extracted: Path) -> None:
    reader = WindowReader([night(extracted)])
    plain = list(itertools.islice(batches(reader, batch_size=7), 3))
    found = list(uploaded(itertools.islice(batches(reader, batch_size=7), 3), "cpu"))
    for (numbers, batch), before in zip(found, plain, strict=True):
        assert batch.keys == before.keys
        assert numbers.dtype == torch.float32
        assert torch.allclose(numbers, before.frames.float() / 127.5 - 1, atol=1e-6)
        assert torch.equal(batch.frames, before.frames)
    stream = batches(reader, batch_size=7)
    for number, _ in enumerate(itertools.islice(uploaded(stream, "cpu"), 4)):
        assert stream.position == 7 * (number + 1)  # what was handed over, and no more
    half, _ = next(uploaded(iter(plain), "cpu", mean=0.0, scale=255.0, dtype=torch.bfloat16))
    assert half.dtype == torch.bfloat16
    assert 0 <= half.min() < half.max() <= 1
    reader.close()


@pytest.mark.gpu
def test_upload_to_a_gpu_gives_the_same_numbers(extracted: Path) -> None:
    if not torch.cuda.is_available():
        assert not os.environ.get("REQUIRE_GPU"), "REQUIRE_GPU is set, and there is no CUDA device"
        pytest.skip("no CUDA device")
    reader = WindowReader([night(extracted)])
    plain = list(itertools.islice(batches(reader, batch_size=7), 20))
    found = list(uploaded(itertools.islice(batches(reader, batch_size=7), 20), "cuda"))
    assert len(found) == 20
    for (numbers, _), before in zip(found, plain, strict=True):
        assert torch.allclose(numbers.cpu(), before.frames.float() / 127.5 - 1, atol=1e-6)
    stream = batches(reader, batch_size=7)
    for number, _ in enumerate(itertools.islice(uploaded(stream, "cuda"), 4)):
        assert stream.position == 7 * (number + 1)
    reader.close()
