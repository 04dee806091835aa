"""The numbers of a data set, worked out by hand on flat pictures whose level is known."""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import RunCommand
from synthetic import Shelf, clip_of, picture

from infraredcity.datasets import lite, manifest, similarity
from infraredcity.datasets.clip_facts import ClipFacts
from infraredcity.datasets.dataset import open_dataset, rows_of
from infraredcity.datasets.folder import ShardFolder, write_folder
from infraredcity.datasets.gaps import Gap
from infraredcity.datasets.recipe import Cell, Recipe
from infraredcity.extraction.config import ExtractConfig
from infraredcity.extraction.extract_clip import extract_clip
from infraredcity.progress import Progress
from infraredcity.report import measure
from infraredcity.report.facts import Break, Count, DatasetReport, DuplicateStretch, Problem
from infraredcity.report.measure import measure_dataset, shard_sizes
from infraredcity.report.measure_pixels import choose, deal, difference_words, make_sheets
from infraredcity.report.samples import spread
from infraredcity.shards import index as sample_index
from infraredcity.shards.index import FROZEN, REPEAT, SUSPECT
from infraredcity.shards.writer import open_shard
from infraredcity.stills.decode import decode, size_of
from infraredcity.stills.formats import encode


def facts_of(clip_id: str, **facts: object) -> ClipFacts:
    values = {
        "clip_id": clip_id, "scene": "yard", "weather": "clear", "modality": "infrared", "time_of_day": "night",
        "time_base": "1/100", "nominal_fps": 25.0, "frame_step": 1, "clip_frames": 1000,
    }  # fmt: skip
    return ClipFacts(**(values | facts))


def make_part(
    root: Path,
    levels: Sequence[int],
    *,
    name: str = "yard",
    clip_id: str = "yard_1",
    frames: Sequence[int] | None = None,
    marks: Sequence[int] | None = None,
    dup_of: Sequence[str] | None = None,
    samples_per_shard: int = 1000,
    split: str = "all",
    **facts: object,
) -> ShardFolder:
    """Flat 8x8 pictures of these levels, frame n at n/25 s, as a part of `root`."""
    frames = range(len(levels)) if frames is None else frames
    shards = []
    for number, start in enumerate(range(0, len(levels), samples_per_shard)):
        with open_shard(root / name, f"made-{clip_id}-{number:06d}.tar", image_format="png") as handle:
            for place in range(start, min(start + samples_per_shard, len(levels))):
                flat = np.full((8, 8, 1), levels[place], np.uint8)
                handle.writer.add(clip_id, frames[place], frames[place] * 4, encode(flat, "png"), b"{}", size_px=(8, 8))
        assert handle.info is not None
        shards.append((handle.info, handle.writer.entries))
    of_rows = np.zeros(len(levels), np.uint8) if marks is None else np.array(marks, np.uint8)
    indices = np.array(frames, np.int64)
    index = sample_index.from_entries(
        clip_id=clip_id,
        frame_step=1,
        image_format="png",
        shards=shards,
        run_ids=sample_index.run_ids(indices, frame_step=1, marks=of_rows),
        dup_of=None if dup_of is None else np.array([key.encode() for key in dup_of], "S"),
    )
    return write_folder(root, name, replace(index, mark=of_rows), {clip_id: facts_of(clip_id, **facts)}, split=split)


def measured(root: Path) -> DatasetReport:
    return measure_dataset(root, open_dataset(root))


def damage(part: ShardFolder, row: int) -> None:
    """Overwrite a sample's picture with zeros, in place."""
    shard = part.path / part.index.shards[int(part.index.shard[row])].name
    data = bytearray(shard.read_bytes())
    begin, size = int(part.index.offset[row]), int(part.index.size[row])
    data[begin : begin + size] = bytes(size)
    shard.write_bytes(data)


def test_thumbnails_are_dealt_evenly_and_what_is_left_goes_on() -> None:
    assert deal(10, [2, 100, 100]) == [2, 4, 4]
    assert deal(11, [100, 100, 100]) == [4, 4, 3]
    assert deal(2000, [3, 50]) == [3, 50]
    assert deal(2, [5, 5, 5]) == [1, 1, 0]
    assert deal(0, [5]) == [0]
    assert deal(7, []) == []


def test_samples_are_spread_evenly() -> None:
    assert spread(12, 3).tolist() == [2, 6, 10]
    assert spread(5, 5).tolist() == spread(5, 9).tolist() == [0, 1, 2, 3, 4]
    assert spread(0, 3).tolist() == spread(3, 0).tolist() == []
    assert spread(580_000, 2).tolist() == [145_000, 435_000]


def test_few_marked_samples_are_chosen_first_and_many_take_a_quarter() -> None:
    one_mark = np.zeros(100, bool)
    one_mark[7] = True
    # 8 at most: 7 is marked, the other seven are the middles of sevenths of a hundred.
    assert choose(one_mark, 8).tolist() == [7, 21, 35, 50, 64, 78, 92]
    one_mark[:] = np.arange(100) < 50
    # 3 of the marked, 8, 25 and 41, are the middles of thirds of 0 to 49; nine are middles of ninths of all.
    assert choose(one_mark, 12).tolist() == [5, 8, 16, 25, 27, 38, 41, 50, 61, 72, 83, 94]
    assert choose(one_mark, 100).tolist() == list(range(100))


def test_differences_are_told_in_words() -> None:
    assert difference_words(5, 5) == "as published"
    assert difference_words(2000, 766) == "1,234 fewer"
    assert difference_words(5, 6) == "1 more"
    assert difference_words(5, 0) == "none here"


def test_shard_sizes_have_ends_a_lower_median_and_bins() -> None:
    sizes = shard_sizes([4, 1, 3, 2], [1000, 2000, 1100, 1999])
    assert (sizes.num_shards, sizes.samples_smallest, sizes.samples_median, sizes.samples_largest) == (4, 1, 2, 4)
    assert (sizes.bytes_smallest, sizes.bytes_median, sizes.bytes_largest) == (1000, 1100, 2000)
    assert [each.num_shards for each in sizes.bins] == [1, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    assert (sizes.bins[1].start_bytes, sizes.bins[1].stop_bytes) == (1100, 1200)
    (alike,) = shard_sizes([5, 5], [700, 700]).bins
    assert (alike.start_bytes, alike.stop_bytes, alike.num_shards) == (700, 700, 2)
    assert shard_sizes([], []).num_shards == 0


def test_extracted_clips_are_counted_beside_what_is_published(extracted: Path) -> None:
    parts = open_dataset(extracted)
    found = measure_dataset(extracted, parts)
    assert (found.kind, found.num_samples, found.shards.num_shards, found.image_formats) == (
        "extracted", 100, 8, ("jpg",),
    )  # fmt: skip
    assert found.size_bytes == sum(path.stat().st_size for path in extracted.rglob("*.tar"))
    assert found.manifest_hash == manifest.dataset_hash(rows_of(parts))
    assert [(part.name, part.split, part.num_samples, part.num_shards) for part in found.parts] == [
        ("city_clear", "all", 50, 4), ("city_day", "all", 50, 4),
    ]  # fmt: skip
    assert {each.by: [(count.name, count.num) for count in each.counts] for each in found.breakdowns} == {
        "modality": [("infrared", 50), ("visible", 50)],
        "time of day": [("day", 50), ("night", 50)],
        "split": [("all", 100)],
        "scene": [("city", 100)],
        "weather": [("any", 50), ("clear", 50)],
    }
    assert [(each.name, each.expected, each.found, each.difference, each.says) for each in found.published] == [
        ("infrared, night", 201_856, 50, -201_806, "201,806 fewer"),
        ("visible, night", 178_698, 0, -178_698, "none here"),
        ("visible, day", 199_430, 50, -199_380, "199,380 fewer"),
        ("all frames", 579_984, 100, -579_884, "579,884 fewer"),
    ]
    assert found.problems == ()
    assert found.leakage.why_not == "no modality has both train and test parts, so nothing can leak"
    clear = found.clips[0]
    assert (clear.clip_id, clear.num_samples, clear.clip_frames, clear.runs.num_runs) == ("city_clear", 50, 50, 1)
    assert (clear.first_s, clear.last_s) == (0.0, 1.96)


def test_a_lite_set_is_counted_cell_by_cell_and_its_leakage_found(extracted: Path, tmp_path: Path) -> None:
    cells = (
        Cell(scene="city", clip="city_clear", train=16, test=8),
        Cell(scene="city", clip="city_day", train=20),
    )
    recipe = Recipe(name="tiny", run_frames=8, guard_frames=5, window_frames=2, cells=cells)
    lite.build(extracted, tmp_path, recipe)
    parts = open_dataset(tmp_path)
    found = measure_dataset(tmp_path, parts)
    assert (found.kind, found.made) == ("lite", "recipe tiny, scale 1, guard of 5 frames")
    told = {each.name: (each.expected, each.found, each.says) for each in found.published}
    assert len(told) == 5 + 5 + 3 + 3 + 1
    assert told["city: infrared, train, clear"] == (5538, 16, "5,522 fewer")
    assert told["city: infrared, test, clear"] == (1000, 8, "992 fewer")
    assert told["city: infrared, train, overcast"] == (2282, 0, "none here")
    assert told["city: visible, train"] == (5360, 20, "5,340 fewer")
    assert told["city, all"] == (15_180, 44, "15,136 fewer")
    assert told["all scenes"] == (41_339, 44, "41,295 fewer")
    assert found.leakage.is_measured
    assert found.leakage.found == similarity.find(parts).leakage
    assert (found.leakage.found[0].modality, found.leakage.found[0].num_test) == ("infrared", 8)
    # One clip in two parts is one clip.
    assert [(clip.clip_id, clip.num_samples, clip.parts) for clip in found.clips] == [
        ("city_clear", 24, ("city/infrared-test", "city/infrared-train")),
        ("city_day", 20, ("city/visible-train",)),
    ]
    sheets = make_sheets(tmp_path, parts, found)
    assert [each.split for each in sheets.thumbnails if each.clip_id == "city_clear"] == ["train"] * 16 + ["test"] * 8
    ((test, train),) = sheets.closest
    assert (test.key, test.split) == (found.leakage.found[0].test_key, "test")
    assert (train.key, train.split) == (found.leakage.found[0].train_key, "train")


def test_leakage_of_a_large_set_is_left_out_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_part(tmp_path, [10, 20], name="train", split="train")
    make_part(tmp_path, [10, 20], name="test", clip_id="yard_2", split="test")
    monkeypatch.setattr(measure, "LEAKAGE_SAMPLES", 4)
    assert measured(tmp_path).leakage.is_measured
    monkeypatch.setattr(measure, "LEAKAGE_SAMPLES", 3)
    check = measured(tmp_path).leakage
    assert (check.is_measured, check.found) == (False, ())
    assert check.why_not.startswith("4 samples are more than the 3 that are compared")


def test_levels_and_motion_of_flat_pictures_are_exact(tmp_path: Path) -> None:
    make_part(tmp_path, [10, 20, 40, 40])
    found = measured(tmp_path)
    (clip,) = found.clips
    levels = clip.levels
    # 64 pixels a picture; level 10 is in bin 2 of four levels each, 20 in bin 5, 40 in bin 10.
    assert {place: count for place, count in enumerate(levels.bins) if count} == {2: 64, 5: 64, 10: 128}
    assert (levels.low, levels.median, levels.high) == (10, 20, 40)
    assert (levels.times_s, levels.means) == ((0.0, 0.04, 0.08, 0.12), (10.0, 20.0, 40.0, 40.0))
    assert (clip.motion.times_s, clip.motion.differences) == ((0.0, 0.04, 0.08), (10.0, 20.0, 0.0))
    assert (clip.motion.median, clip.motion.largest) == (10.0, 20.0)
    assert found.num_frames_read == 4 + 2 * 3
    assert (found.kind, found.published) == ("other", ())


def test_motion_never_reaches_over_a_gap_and_breaks_are_named(tmp_path: Path) -> None:
    marks = [0, 0, 0, 0, SUSPECT, 0, FROZEN, 0]
    part = make_part(tmp_path, [10, 20, 90, 91, 93, 96, 96, 100], frames=[0, 1, 4, 5, 6, 7, 8, 9], marks=marks)
    assert part.index.run_id.tolist() == [0, 0, 1, 1, 2, 3, 4, 5]
    (clip,) = measured(tmp_path).clips
    # 1 to 4 is a gap, 5 to 6 and 6 to 7 lie between suspect and sound; a frozen frame is footage, so its pairs stay.
    assert clip.motion.times_s == (0.0, 0.16, 0.28, 0.32)
    assert clip.motion.differences == (10.0, 1.0, 0.0, 4.0)
    runs = clip.runs
    assert (runs.num_runs, runs.shortest, runs.median, runs.longest) == (6, 1, 1, 2)
    assert runs.causes == (
        Count(name="a repeat or a frozen frame", num=2),
        Count(name="frames between that are not in the set", num=1),
        Count(name="suspect frames that begin or end", num=2),
    )
    assert runs.breaks[0] == Break(
        after_key="yard_1_00000001",
        before_key="yard_1_00000004",
        cause="frames between that are not in the set",
    )
    assert (clip.num_suspect, clip.num_repeats, clip.num_frozen) == (1, 0, 1)


def test_duplicates_are_stretches_in_a_row_and_repeats_are_told_apart(tmp_path: Path) -> None:
    key = "yard_1_00000000"
    part = make_part(
        tmp_path,
        [5, 5, 6, 7, 8],
        marks=[0, REPEAT, 0, 0, 0],
        dup_of=["", key, "", "yard_0_00000003", "yard_0_00000004"],
    )
    found = measured(tmp_path)
    duplicates = found.duplicates
    assert (duplicates.num_samples, duplicates.num_repeats, duplicates.num_stretches) == (3, 1, 2)
    assert duplicates.stretches[0] == DuplicateStretch(
        part="yard",
        first_key="yard_1_00000001",
        last_key="yard_1_00000001",
        num_samples=1,
        num_repeats=1,
        of_key=key,
    )
    assert duplicates.stretches[1].last_key == "yard_1_00000004"
    assert duplicates.stretches[1].of_key == "yard_0_00000003"
    assert (found.clips[0].num_duplicates, found.clips[0].num_repeats) == (2, 1)
    sheets = make_sheets(tmp_path, [part], found)
    assert [each.marks for each in sheets.thumbnails] == [(), ("repeat",), (), ("duplicate",), ("duplicate",)]


def test_a_stretch_of_duplicates_ends_with_its_clip(tmp_path: Path) -> None:
    one = make_part(tmp_path, [5, 6], dup_of=["", "yard_0_00000003"])
    other = make_part(tmp_path, [5, 6], clip_id="yard_2", dup_of=["yard_0_00000003", ""])
    both = sample_index.concatenate([one.index, other.index])
    write_folder(tmp_path, "yard", both, {**one.clips, **other.clips})
    found = measured(tmp_path)
    assert [(each.first_key, each.last_key) for each in found.duplicates.stretches] == [
        ("yard_1_00000001", "yard_1_00000001"), ("yard_2_00000000", "yard_2_00000000"),
    ]  # fmt: skip
    assert [clip.clip_id for clip in found.clips] == ["yard_1", "yard_2"]


def test_work_is_bounded_whatever_the_clip_holds(tmp_path: Path) -> None:
    make_part(tmp_path, [number % 200 for number in range(500)], samples_per_shard=100)
    told: list[Progress] = []
    found = measure_dataset(tmp_path, open_dataset(tmp_path), on_progress=told.append)
    (clip,) = found.clips
    assert (found.num_samples, clip.levels.num_frames, clip.motion.num_pairs) == (500, 200, 200)
    assert found.num_frames_read == 600
    assert (told[-1].done, told[-1].total) == (600, 600)
    # The middles of 200 pieces of 2.5 samples each: 1, 3, 6, ...
    assert clip.levels.times_s[:3] == (0.04, 0.12, 0.24)


def test_many_clips_share_the_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "FRAMES_IN_ALL", 9)
    for number in range(3):
        make_part(tmp_path, [10] * 20, name=f"yard_{number}", clip_id=f"yard_{number}")
    found = measured(tmp_path)
    assert [(clip.levels.num_frames, clip.motion.num_pairs) for clip in found.clips] == [(3, 3)] * 3


def test_gaps_are_read_and_a_damaged_list_is_a_problem(tmp_path: Path) -> None:
    part = make_part(tmp_path, [10, 20])
    gap = {"clip": "yard_1", "first_frame": 2, "last_frame": 6, "num_frames": 5, "reason": "no picture"}
    (part.path / "gaps.json").write_text(json.dumps([gap]))
    found = measured(tmp_path)
    assert (found.kind, found.gaps) == ("extracted", (Gap(**gap),))
    assert (found.clips[0].num_gaps, found.clips[0].num_missing) == (1, 5)
    (part.path / "gaps.json").write_text('[{"clip": "yard_1"}]')
    (problem,) = measured(tmp_path).problems
    assert re.match(r"yard/gaps\.json: missing or damaged .*first_frame", problem.message)


def test_a_missing_shard_is_named_once_and_everything_else_is_measured(tmp_path: Path) -> None:
    part = make_part(tmp_path, [10, 20, 30, 40], samples_per_shard=2)
    (part.path / "made-yard_1-000001.tar").unlink()
    found = measured(tmp_path)
    # Levels lose frames 2 and 3; motion the pairs of 1 and 2, and of 2 and 3.
    message = "yard/made-yard_1-000001.tar: the index names it, but it cannot be opened (No such file or directory); copy it again"
    assert found.problems == (Problem(message=message, num_frames=4),)
    (clip,) = found.clips
    assert (clip.levels.num_frames, clip.levels.num_unreadable, clip.levels.means) == (2, 2, (10.0, 20.0))
    assert (clip.motion.num_pairs, clip.motion.num_unreadable) == (1, 2)
    assert found.num_samples == 4
    sheets = make_sheets(tmp_path, [part], found)
    assert [each.frame_index for each in sheets.thumbnails] == [0, 1]
    assert (sheets.num_unreadable, sheets.problems) == (2, (Problem(message=message, num_frames=2),))


def test_a_shard_of_another_size_is_found_though_no_frame_of_it_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "FRAMES_IN_ALL", 0)  # two frames a clip, 3 and 9 of 12, and pairs from 2 and 8 on
    part = make_part(tmp_path, [10] * 12, samples_per_shard=2)
    with (part.path / "made-yard_1-000005.tar").open("ab") as shard:
        shard.write(bytes(512))
    (problem,) = measured(tmp_path).problems
    assert problem.message.startswith("yard/made-yard_1-000005.tar: is ")
    assert problem.num_frames == 0


def test_a_damaged_picture_is_named_by_its_key(tmp_path: Path) -> None:
    part = make_part(tmp_path, [10, 20, 30])
    damage(part, 1)
    found = measured(tmp_path)
    (problem,) = found.problems
    assert problem.message.startswith("yard_1_00000001: not a picture that can be decoded")
    assert problem.num_frames == 3  # one frame of levels, two pairs of motion
    assert found.clips[0].levels.means == (10.0, 30.0)


def test_damage_that_only_the_comparison_meets_stops_that_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "FRAMES_IN_ALL", 0)
    part = make_part(tmp_path, [10, 20, 30, 40, 50, 60], name="train", split="train")
    make_part(tmp_path, [10, 20], name="test", clip_id="yard_2", split="test")
    damage(part, 0)
    found = measured(tmp_path)
    assert found.leakage.why_not == "a picture could not be read; see the problems"
    (problem,) = found.problems
    assert problem.message.startswith("yard_1_00000000: not a picture")
    assert found.clips[0].levels.num_frames == 2


def test_counts_of_16_bits_are_stretched_between_percentiles(shelf: Shelf, tmp_path: Path) -> None:
    extract_clip(clip_of(shelf.deep), ExtractConfig(image_format="png16"), tmp_path, workers=0)
    found = measured(tmp_path)
    (clip,) = found.clips
    assert clip.stretch is not None
    # The clip's gray runs from dark cells to bright ones, as 8 bits times 257: the percentiles lie between these.
    gray = np.stack([picture(number).mean(axis=2) for number in range(5)])
    assert 250 * gray.min() < clip.stretch.low < 260 * np.percentile(gray, 5)
    assert 250 * np.percentile(gray, 95) < clip.stretch.high < 260 * gray.max()
    assert clip.levels.num_frames == 5
    assert clip.levels.low <= 1
    assert clip.levels.high >= 254
    thumbnail = make_sheets(tmp_path, open_dataset(tmp_path), found).thumbnails[0]
    shown = decode(thumbnail.jpeg, "gray")
    assert shown.shape == (64, 96, 1)
    assert shown.max() > 240
    assert shown.min() < 15


def test_thumbnails_keep_their_shape_and_say_what_they_are(extracted: Path) -> None:
    parts = open_dataset(extracted)
    sheets = make_sheets(extracted, parts, measure_dataset(extracted, parts), num_thumbnails=7)
    assert [each.key for each in sheets.thumbnails] == [
        "city_clear_00000006", "city_clear_00000018", "city_clear_00000031", "city_clear_00000043",
        "city_day_00000008", "city_day_00000025", "city_day_00000041",
    ]  # fmt: skip
    first, last = sheets.thumbnails[0], sheets.thumbnails[-1]
    assert (first.time_s, first.part, first.split, first.run_id, first.marks) == (0.24, "city_clear", "all", 0, ())
    assert (first.width_px, first.height_px) == (96, 64)
    assert size_of(first.jpeg) == size_of(last.jpeg) == (96, 64)
    colors = [np.ptp(decode(each.jpeg, "rgb").astype(int), axis=2).max() for each in (first, last)]
    assert colors[0] == 0 < 50 < colors[1]  # infrared is gray, visible is not
    assert last.shard == "infraredcity-city_day-000002.tar"


def test_a_wide_picture_is_shrunk_to_96_pixels(shelf: Shelf, tmp_path: Path) -> None:
    extract_clip(clip_of(shelf.gray), ExtractConfig(size=(200, 100)), tmp_path, workers=0)
    parts = open_dataset(tmp_path)
    (thumbnail,) = make_sheets(tmp_path, parts, measure_dataset(tmp_path, parts), num_thumbnails=1).thumbnails
    assert (thumbnail.width_px, thumbnail.height_px) == (96, 48)
    assert size_of(thumbnail.jpeg) == (96, 48)


def test_thumbnails_are_bounded(extracted: Path) -> None:
    parts = open_dataset(extracted)
    found = measure_dataset(extracted, parts)
    assert make_sheets(extracted, parts, found, num_thumbnails=0).thumbnails == ()
    with pytest.raises(ValueError, match="num_thumbnails must be 0 to 2000, got 2001"):
        make_sheets(extracted, parts, found, num_thumbnails=2001)


def test_the_numbers_do_not_depend_on_where_the_data_lies(extracted: Path, tmp_path: Path) -> None:
    shutil.copytree(extracted, tmp_path / "elsewhere")
    assert measured(extracted) == measured(tmp_path / "elsewhere")


def test_json_prints_the_numbers_and_writes_no_page(extracted: Path, infraredcity: RunCommand, tmp_path: Path) -> None:
    ran = infraredcity("report", extracted, "--json")
    assert ran.code == 0
    assert (ran.json["folder"], ran.json["num_samples"], ran.json["num_problems"]) == (str(extracted), 100, 0)
    assert ran.json["clips"][0]["levels"]["num_frames"] == 50
    assert not (extracted / "report.html").exists()
    page = tmp_path / "page.html"
    both = infraredcity("report", extracted, "--json", "-o", page, "--thumbnails", 4)
    assert both.json == ran.json
    assert page.read_text().startswith("<!doctype html>")


def test_the_page_stands_in_the_folder_unless_told_otherwise(
    extracted: Path, infraredcity: RunCommand, tmp_path: Path
) -> None:
    shutil.copytree(extracted, tmp_path / "set")
    ran = infraredcity("report", tmp_path / "set", "--thumbnails", 4)
    assert (ran.code, ran.stdout) == (0, "")
    assert "report.html: 100 samples, 4 thumbnails, no problems" in ran.stderr
    assert (tmp_path / "set/report.html").is_file()


def test_problems_are_counted_in_the_last_line_and_are_no_failure(infraredcity: RunCommand, tmp_path: Path) -> None:
    part = make_part(tmp_path, [10, 20, 30])
    damage(part, 1)
    ran = infraredcity("report", tmp_path, "--json")
    assert (ran.code, ran.json["num_problems"]) == (0, 1)
    assert ran.json["problems"][0]["num_frames"] == 3
    ran = infraredcity("report", tmp_path)
    assert ran.code == 0
    assert ran.stderr.endswith("report.html: 3 samples, 2 thumbnails, 1 problem, listed in it\n")


def test_what_is_no_data_set_is_one_line(infraredcity: RunCommand, tmp_path: Path) -> None:
    ran = infraredcity("report", tmp_path)
    assert (ran.code, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"Error: {tmp_path}: holds no shards")
    assert infraredcity("report", tmp_path, "--thumbnails", 2001).code == 2
