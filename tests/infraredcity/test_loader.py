import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import Shelf, barcode, clip_of

from infraredcity import index as sample_index
from infraredcity import lite, loader
from infraredcity.errors import ImageError, ManifestError, ShardError
from infraredcity.executors.local import extract_clip
from infraredcity.lite import Cell, Recipe
from infraredcity.loader import WindowReader, batches, unpaired_batches
from infraredcity.plan import ExtractConfig


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
    assert shown == [[f, f + 1, f + 2] for f in (*range(18), *range(22, 38))]
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


def test_a_folder_without_an_index_is_refused(extracted: Path, tmp_path: Path) -> None:
    folder = copied(extracted, tmp_path)
    (folder / sample_index.INDEX_NAME).unlink()
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
    index = sample_index.load(folder)
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


def test_too_few_frames_for_a_window_are_an_error(extracted: Path) -> None:
    with pytest.raises(ShardError, match="50 samples hold no window of 60 frames at stride 1; take fewer frames"):
        WindowReader([night(extracted)], window_frames=60)


def test_open_shards_names_the_folder_of_each_shard(extracted: Path) -> None:
    index, folders = loader.open_shards([night(extracted), str(extracted / "city_day" / "*.tar")])
    assert len(index) == 100
    assert [(folder / info.name).is_file() for folder, info in zip(folders, index.shards, strict=True)] == [True] * 8
