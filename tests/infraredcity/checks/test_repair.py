import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import PATIENCE_S
from synthetic import Shelf, clip_of, write_clip
from synthetic import sample_index as made_up

from infraredcity.checks.repair import RepairReport, _gaps, _Part, repair
from infraredcity.checks.verify import verify
from infraredcity.datasets import lite, manifest
from infraredcity.datasets.dataset import open_part, write_part
from infraredcity.datasets.lite import Cell, Recipe
from infraredcity.errors import ManifestError, OutputError
from infraredcity.extraction.config import ExtractConfig
from infraredcity.extraction.executors.local import extract_clip
from infraredcity.files.atomic import lock_folder
from infraredcity.files.records import MAX_RECORD_BYTES
from infraredcity.shards import index as sample_index
from infraredcity.shards.index import REPEAT, SUSPECT
from infraredcity.shards.writer import open_shard

SHARD = "infraredcity-city_clear-000001.tar"
"""Frames 16 to 31."""
CONFIG = ExtractConfig(frames_per_shard=16)
NUM_CALLS = 17
"""Renames, links and deletions of the repair that is killed at each of them."""


@pytest.fixture
def clip(extracted: Path, tmp_path: Path) -> Path:
    """A copy of city_clear that a test may break: 50 frames in shards of 16."""
    return Path(shutil.copytree(extracted / "city_clear", tmp_path / "city_clear"))


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock" and ".damaged" not in path.name
    }


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def changed_json(path: Path, change: Callable[[Any], object]) -> None:
    payload = json.loads(path.read_text())
    change(payload)
    path.write_text(json.dumps(payload))


def said(report: RepairReport) -> list[str]:
    """The actions, less the path that each begins with."""
    return [action.partition(": ")[2] for action in report.actions]


def check_nothing_left_to_do(folder: Path) -> None:
    report = repair(folder)
    assert (report.actions, report.lost) == ((), ())


def test_a_data_set_that_is_whole_is_not_touched(clip: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in clip.rglob("*") if path.name != ".lock"}
    report = repair(clip)
    assert (report.actions, report.lost, report.num_samples) == ((), (), 50)
    assert {path: path.stat().st_mtime_ns for path in clip.rglob("*") if path.name != ".lock"} == before


@pytest.mark.parametrize(
    "gone",
    [
        ["index.npz"],
        ["manifest.csv"],
        ["manifest.parquet"],
        ["index.json"],
        ["infraredcity-city_clear-000002.idx"],
        ["gaps.json"],
        ["index.npz", "manifest.csv", "index.json"],
        ["index.npz", "manifest.parquet"],
    ],
)
def test_what_describes_the_shards_is_rebuilt_byte_for_byte(clip: Path, gone: list[str]) -> None:
    before = files(clip)
    for name in gone:
        (clip / name).unlink()
    report = repair(clip)
    assert report.lost == ()
    assert len(report.actions) == 1
    assert files(clip) == before
    check_nothing_left_to_do(clip)


@pytest.mark.parametrize("name", ["index.npz", "manifest.csv", "manifest.parquet", "index.json"])
def test_what_is_damaged_is_rebuilt_byte_for_byte(clip: Path, name: str) -> None:
    before = files(clip)
    (clip / name).write_bytes(before[name][: len(before[name]) // 2])
    repair(clip)
    assert files(clip) == before


def test_wrong_places_in_the_index_are_put_right(clip: Path) -> None:
    before = files(clip)
    index = sample_index.load(clip)
    index.offset[20] += 512
    index.span[21] += 1
    sample_index.save(index, clip)
    assert repair(clip).lost == ()
    assert files(clip) == before


def test_a_manifest_of_another_build_is_written_anew(clip: Path) -> None:
    before = files(clip)
    rows = manifest.read(clip / "manifest.csv")
    manifest.write_blocks(clip, [{**rows, "run_id": [7] * 50}])
    repair(clip)
    assert files(clip) == before


def test_all_that_describes_the_shards_can_be_rebuilt_from_them_alone(clip: Path) -> None:
    before = sample_index.load(clip)
    facts = manifest.read_clips(clip)["city_clear"]
    for path in clip.iterdir():
        if path.is_file() and path.suffix != ".tar":
            path.unlink()
    shutil.rmtree(clip / "segments")
    report = repair(clip)
    assert report.lost == ()
    assert "frozen marks are unknown, suspect marks too" in report.notes[0]
    after = sample_index.load(clip)
    assert after.rows_hash() == before.rows_hash()
    assert after.shards == before.shards
    rebuilt = manifest.read_clips(clip)["city_clear"]
    for name in (
        "scene",
        "weather",
        "modality",
        "time_of_day",
        "time_base",
        "nominal_fps",
        "clip_frames",
    ):
        assert getattr(rebuilt, name) == getattr(facts, name), name
    assert rebuilt.suspect == ["clips.json was lost and rebuilt from the samples"]
    assert verify(clip, decode="all").findings == ()
    check_nothing_left_to_do(clip)


def test_marks_runs_and_duplicates_survive_as_long_as_one_of_index_and_manifests_does(clip: Path) -> None:
    index = sample_index.load(clip)
    index.mark[5], index.mark[9] = SUSPECT, REPEAT
    index.run_id[6:] += 1
    dup_of = np.array([b"city_clear_00000008" if row == 9 else b"" for row in range(50)])
    write_part(clip, ".", replace(index, dup_of=dup_of), manifest.read_clips(clip))
    before = files(clip)
    for gone in (["index.npz"], ["manifest.csv", "manifest.parquet"], ["index.npz", "manifest.parquet"]):
        for name in gone:
            (clip / name).unlink()
        repair(clip)
        assert files(clip) == before, gone


def test_without_index_and_manifests_the_markers_of_extraction_say_what_is_good(shelf: Shelf, tmp_path: Path) -> None:
    extract_clip(clip_of(shelf.corrupted), CONFIG, tmp_path, workers=0)
    clip = tmp_path / "city_clear"
    before = files(clip)
    index = sample_index.load(clip)
    assert int(np.count_nonzero(index.mark)) == int(np.count_nonzero(index.mark & SUSPECT))
    for name in ("index.npz", "manifest.csv", "manifest.parquet"):
        (clip / name).unlink()
    flip(clip / SHARD, int(index.offset[18]) + int(index.size[18]) + 1)  # of padding: only the shard's hash can tell
    report = repair(clip)
    assert report.lost == ()
    assert "was rebuilt from the markers of extraction" in report.notes[0]
    assert report.notes[0].endswith("frozen marks are unknown")
    assert files(clip) == before


def test_repeats_are_found_anew_in_the_pictures_alone(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "still.avi", [0, 1, 1, 1, 2, 3], "-c:v", "mjpeg", "-q:v", "3", "-pix_fmt", "yuvj420p")
    extract_clip(clip_of(path), CONFIG, tmp_path, workers=0)
    clip = tmp_path / "city_clear"
    before = sample_index.load(clip)
    assert before.mark.tolist() == [0, 0, REPEAT, REPEAT, 0, 0]
    for name in ("index.npz", "clips.json", "gaps.json", "extract.json", "manifest.csv", "manifest.parquet"):
        (clip / name).unlink()
    repair(clip)
    after = sample_index.load(clip)
    for name in ("mark", "run_id", "dup_of", "pts"):
        assert getattr(after, name).tolist() == getattr(before, name).tolist(), name


def test_a_lost_clips_json_is_rebuilt_from_samples_and_extraction(shelf: Shelf, tmp_path: Path) -> None:
    config = ExtractConfig(frames_per_shard=16, start_frame=5, every=2)
    extract_clip(clip_of(shelf.gray), config, tmp_path, workers=0)
    clip = tmp_path / "city_clear"
    before = files(clip)
    facts = manifest.read_clips(clip)["city_clear"]
    (clip / "clips.json").unlink()
    report = repair(clip)
    assert "facts of city_clear in clips.json rebuilt from the samples; the same extract command" in report.actions[0]
    told = ["clips.json was lost and rebuilt from the samples"]
    assert manifest.read_clips(clip)["city_clear"] == replace(facts, suspect=told)
    assert verify(clip).findings == ()
    check_nothing_left_to_do(clip)
    extract_clip(clip_of(shelf.gray), config, tmp_path, workers=0)
    assert files(clip) == before


def test_what_is_missing_in_front_is_no_loss_when_all_but_gaps_and_shards_is_gone(shelf: Shelf, tmp_path: Path) -> None:
    extract_clip(clip_of(shelf.gray), ExtractConfig(frames_per_shard=16, start_frame=5), tmp_path, workers=0)
    clip = tmp_path / "city_clear"
    for path in clip.iterdir():
        if path.is_file() and path.suffix != ".tar" and path.name != "gaps.json":
            path.unlink()
    shutil.rmtree(clip / "segments")
    assert repair(clip).lost == ()
    assert json.loads((clip / "gaps.json").read_text()) == []
    assert verify(clip).findings == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [("weather", "overcast"), ("time_base", "1/25"), ("clip_frames", 51), ("frame_step", 2), ("num_frozen", 3)],
)  # fmt: skip
def test_a_fact_that_all_samples_contradict_is_put_right(clip: Path, name: str, value: object) -> None:
    before = files(clip)
    changed_json(clip / "clips.json", lambda all_: all_["clips"]["city_clear"].update({name: value}))
    assert verify(clip).findings != ()
    report = repair(clip)
    assert not any("rewritten" in action for action in report.actions)
    assert files(clip) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [("time_base", "1/x"), ("sources", [{}]), ("frame_step", 0), ("extraction", {"start_frame": "5"})],
)
def test_facts_that_cannot_be_are_rebuilt(clip: Path, name: str, value: object) -> None:
    facts = manifest.read_clips(clip)["city_clear"]
    changed_json(clip / "clips.json", lambda all_: all_["clips"]["city_clear"].update({name: value}))
    assert repair(clip).lost == ()
    told = ["clips.json was lost and rebuilt from the samples"]
    assert manifest.read_clips(clip)["city_clear"] == replace(facts, suspect=told)
    assert verify(clip).findings == ()


def test_a_clip_that_clips_json_lacks_gets_its_facts_from_the_samples(clip: Path) -> None:
    changed_json(clip / "clips.json", lambda all_: all_["clips"].clear())
    assert repair(clip).lost == ()
    assert verify(clip).findings == ()


def test_a_hash_that_manifests_and_pictures_contradict_is_put_right(clip: Path) -> None:
    before = files(clip)
    index = sample_index.load(clip)
    index.sha256[20, 0] ^= 1
    sample_index.save(index, clip)
    assert repair(clip).lost == ()
    assert files(clip) == before


@pytest.mark.parametrize("is_without_index", [False, True])
def test_what_was_written_down_of_another_build_is_not_believed(
    shelf: Shelf, clip: Path, tmp_path: Path, is_without_index: bool
) -> None:
    before = files(clip)
    rows_hash = sample_index.load(clip).rows_hash()
    extract_clip(clip_of(shelf.gray), ExtractConfig(quality=60, frames_per_shard=16), tmp_path / "other", workers=0)
    for name in ("index.npz", "manifest.csv", "manifest.parquet"):
        shutil.copy(tmp_path / "other/city_clear" / name, clip / name)
    shutil.rmtree(clip / "segments")
    if is_without_index:
        (clip / "index.npz").unlink()
    report = repair(clip)
    assert report.lost == ()
    assert "of another build, this was rebuilt from the samples" in report.notes[0]
    assert sample_index.load(clip).rows_hash() == rows_hash
    assert {name: data for name, data in files(clip).items() if name.endswith(".tar")} == {
        name: data for name, data in before.items() if name.endswith(".tar")
    }
    assert verify(clip).findings == ()


@pytest.mark.parametrize("what", ["json", "padding", "json header", "image header"])
def test_a_shard_whose_pictures_are_whole_is_rewritten_as_it_was(clip: Path, what: str) -> None:
    before = files(clip)
    index = sample_index.load(clip)
    start, size, end = int(index.offset[20]), int(index.size[20]), int(index.offset[21]) - 512
    json_header = start + size + (-size % 512)
    place = {
        "json": json_header + 512 + 5,
        "padding": end - 1,
        "json header": json_header + 3,
        "image header": start - 512 + 3,
    }
    flip(clip / SHARD, place[what])
    damaged = (clip / SHARD).read_bytes()
    report = repair(clip)
    assert report.lost == ()
    assert "rewritten, 16 of 16 samples are good" in report.actions[0]
    assert files(clip) == before
    assert (clip / f"{SHARD}.damaged").read_bytes() == damaged
    check_nothing_left_to_do(clip)


def test_renamed_and_doubled_shards_are_put_right(clip: Path) -> None:
    before = files(clip)
    (clip / SHARD).rename(clip / "renamed.tar")
    shutil.copy(clip / "infraredcity-city_clear-000002.tar", clip / "copy.tar")
    report = repair(clip)
    assert report.lost == ()
    assert {action.partition(": ")[2] for action in report.actions[:2]} == {
        f"renamed to {SHARD}, which it is",
        "is no shard of this folder; renamed to copy.tar.damaged",
    }
    assert files(clip) == before
    check_nothing_left_to_do(clip)


def test_a_shard_that_is_both_renamed_and_damaged_gets_its_name_back(clip: Path) -> None:
    before = files(clip)
    flip(clip / SHARD, int(sample_index.load(clip).offset[20]) + 300)
    (clip / SHARD).rename(clip / "renamed.tar")
    report = repair(clip)
    assert said(report)[:2] == [
        f"renamed to {SHARD}, which it is",
        f"rewritten, 15 of 16 samples are good; the old file is {SHARD}.damaged",
    ]
    assert [loss.first_frame for loss in report.lost] == [20]
    assert files(clip).keys() == before.keys() - {"segments/000001.jsonl"}


def test_shards_that_changed_names_are_put_right(clip: Path) -> None:
    before = files(clip)
    second = clip / "infraredcity-city_clear-000002.tar"
    second.rename(clip / "elsewhere")
    (clip / SHARD).rename(second)
    (clip / "elsewhere").rename(clip / SHARD)
    assert repair(clip).lost == ()
    assert files(clip) == before
    check_nothing_left_to_do(clip)


def test_a_file_system_without_second_names_keeps_a_copy(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(clip)
    flip(clip / SHARD, int(sample_index.load(clip).offset[20]) - 500)
    damaged = (clip / SHARD).read_bytes()

    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    repair(clip)
    assert files(clip) == before
    assert (clip / f"{SHARD}.damaged").read_bytes() == damaged


def test_a_doubled_sample_is_taken_once(clip: Path) -> None:
    before = files(clip)
    index = sample_index.load(clip)
    data = (clip / SHARD).read_bytes()
    start, span = int(index.offset[17]) - 512, int(index.span[17])
    (clip / SHARD).write_bytes(data[:-1024] + data[start : start + span] + bytes(1024))
    assert repair(clip).lost == ()
    assert files(clip) == before


def test_a_json_member_that_was_edited_is_rebuilt_though_the_index_vouches_for_it(clip: Path) -> None:
    before = files(clip)
    data = (clip / SHARD).read_bytes()
    old, new = b'"frame_index":20,"pts":10240', b'"frame_index":21,"pts":10752'
    assert data.count(old) == 1
    (clip / SHARD).write_bytes(data.replace(old, new))
    index = sample_index.load(clip)
    sha256 = hashlib.sha256((clip / SHARD).read_bytes()).hexdigest()
    shards = tuple(replace(info, sha256=sha256) if info.name == SHARD else info for info in index.shards)
    sample_index.save(replace(index, shards=shards), clip)
    assert repair(clip).lost == ()
    assert files(clip) == before


def test_a_picture_with_its_hash_is_kept_even_if_it_never_decoded(clip: Path) -> None:
    index = sample_index.load(clip)
    samples = []
    with open_shard(clip, "infraredcity-city_clear-000003.tar", image_format="jpg") as handle:
        for row in (48, 49):
            facts = (clip / index.shards[3].name).read_bytes()
            start = int(index.offset[row]) + int(index.size[row]) + -int(index.size[row]) % 512 + 512
            json_bytes = facts[start : facts.index(b"\0", start)]
            entry = handle.writer.add(
                "city_clear", row, int(index.pts[row]), b"no picture", json_bytes, size_px=(96, 64)
            )
            samples.append(entry)
    for row, entry in zip((48, 49), samples, strict=True):
        index.offset[row], index.size[row], index.span[row] = entry.offset, entry.size, entry.span
        index.sha256[row] = np.frombuffer(bytes.fromhex(entry.sha256), np.uint8)
    assert handle.info is not None
    write_part(clip, ".", replace(index, shards=(*index.shards[:3], handle.info)), manifest.read_clips(clip))
    assert {finding.problem for finding in verify(clip, decode="all").findings} == {"undecodable"}
    check_nothing_left_to_do(clip)


@pytest.mark.parametrize(
    ("old", "new"),
    [('"first_frame": 20', '"first_frame": 18'), ('"num_frames": 2', '"num_frames": 0'), ("city_clear", "city_cloar")],
)
def test_gaps_that_are_none_are_put_right(shelf: Shelf, tmp_path: Path, old: str, new: str) -> None:
    extract_clip(clip_of(shelf.corrupted), CONFIG, tmp_path, workers=0)
    path = tmp_path / "city_clear/gaps.json"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    assert verify(tmp_path).findings != ()
    assert repair(tmp_path).lost == ()
    (gap,) = json.loads(path.read_text())
    assert (gap["clip"], gap["first_frame"], gap["last_frame"], gap["num_frames"]) == ("city_clear", 20, 21, 2)
    assert verify(tmp_path).findings == ()


def test_lost_reasons_of_gaps_are_told_from_losses(shelf: Shelf, tmp_path: Path) -> None:
    extract_clip(clip_of(shelf.corrupted), CONFIG, tmp_path, workers=0)
    clip = tmp_path / "city_clear"
    before = files(clip)
    (clip / "gaps.json").unlink()
    report = repair(clip)
    assert report.lost == ()
    gaps = json.loads((clip / "gaps.json").read_text())
    assert {gap["reason"] for gap in gaps} == {"left out by extraction; the reason was lost with gaps.json"}
    assert verify(clip).findings == ()
    extract_clip(clip_of(shelf.corrupted), CONFIG, tmp_path, workers=0)
    assert files(clip) == before


def damage(clip: Path, how: str) -> list[int]:
    """Frames that are lost by it."""
    index = sample_index.load(clip)
    path = clip / SHARD
    if how == "picture":
        flip(path, int(index.offset[20]) + 300)
        return [20]
    if how == "cut":
        path.write_bytes(path.read_bytes()[: int(index.offset[25]) - 512])
        return list(range(25, 32))
    if how == "wiped":
        data = bytearray(path.read_bytes())
        start, end = int(index.offset[18]) - 700, int(index.offset[20]) + 10
        data[start:end] = bytes(end - start)
        path.write_bytes(data)
        return [18, 19, 20]
    path.unlink()
    return list(range(16, 32))


@pytest.mark.parametrize("how", ["picture", "cut", "wiped", "gone"])
def test_lost_frames_are_named_and_the_same_extraction_brings_them_back(shelf: Shelf, tmp_path: Path, how: str) -> None:
    extract_clip(clip_of(shelf.gray), CONFIG, tmp_path, workers=0)
    clip = tmp_path / "city_clear"
    before = files(clip)
    lost = damage(clip, how)
    report = repair(clip)
    assert [(loss.clip_id, loss.first_frame, loss.last_frame, loss.num_frames) for loss in report.lost] == [
        ("city_clear", lost[0], lost[-1], len(lost))
    ]
    assert report.lost[0].what_to_do == 'run the same "infraredcity extract --clip city_clear" again'
    # Until then the set is a whole one, with a gap that is named.
    index = open_part(clip).index
    assert sorted({*range(50)} - {*index.frame_index.tolist()}) == lost
    assert json.loads((clip / "gaps.json").read_text()) == [
        {
            "clip": "city_clear", "first_frame": lost[0], "last_frame": lost[-1], "num_frames": len(lost),
            "reason": "lost with a damaged shard; extract the clip again",
        }
    ]  # fmt: skip
    assert len(index.stretches()) == 2
    assert verify(clip, decode="all").findings == ()
    check_nothing_left_to_do(clip)
    again = extract_clip(clip_of(shelf.gray), CONFIG, tmp_path, workers=0)
    assert again.new_frames == 16
    assert files(clip) == before
    assert verify(clip, decode="all").findings == ()


def test_without_index_and_manifest_a_damaged_picture_is_told_by_decoding(clip: Path) -> None:
    index = sample_index.load(clip)
    data = bytearray((clip / SHARD).read_bytes())
    start = int(index.offset[20])
    data[start + 2 : start + 500] = bytes(498)
    (clip / SHARD).write_bytes(data)
    for name in ("index.npz", "manifest.csv", "manifest.parquet"):
        (clip / name).unlink()
    shutil.rmtree(clip / "segments")
    report = repair(clip)
    assert [(loss.first_frame, loss.last_frame) for loss in report.lost] == [(20, 20)]
    assert 20 not in open_part(clip).index.frame_index.tolist()
    assert len(open_part(clip).index) == 49
    assert verify(clip, decode="all").findings == ()
    check_nothing_left_to_do(clip)


def test_a_dry_run_says_the_same_and_changes_nothing(clip: Path) -> None:
    flip(clip / SHARD, int(sample_index.load(clip).offset[20]) + 300)
    (clip / "infraredcity-city_clear-000002.tar").rename(clip / "renamed.tar")
    shutil.copy(clip / "infraredcity-city_clear-000000.tar", clip / "copy.tar")
    (clip / "index.json").unlink()
    (clip / ".tmp-1-x").touch()
    before = files(clip)
    planned = repair(clip, dry_run=True)
    assert files(clip) == before
    assert not list(clip.glob("*.damaged"))
    assert [loss.first_frame for loss in planned.lost] == [20]
    done = repair(clip)
    assert (done.lost, done.num_samples) == (planned.lost, planned.num_samples)
    assert done.actions[:-1] == planned.actions[:-1]
    assert said(done)[:-1] == [
        "is no shard of this folder; renamed to copy.tar.damaged",
        "renamed to infraredcity-city_clear-000002.tar, which it is",
        f"rewritten, 15 of 16 samples are good; the old file is {SHARD}.damaged",
        "removed 1 temporary files of a run that was killed",
    ]
    assert said(done)[-1].startswith("rebuilt index.npz, ")
    assert "index.json" in said(done)[-1]
    assert "clips.json" not in said(done)[-1]


@pytest.fixture
def lite_set(extracted: Path, tmp_path: Path) -> Path:
    make_lite(extracted, tmp_path / "lite")
    return tmp_path / "lite"


def make_lite(extracted: Path, out: Path, *, overwrite: bool = False) -> None:
    """16 train and 8 test frames of city_clear in runs of 8, 20 train frames of city_day."""
    cells = (Cell(scene="city", clip="city_clear", train=16, test=8), Cell(scene="city", clip="city_day", train=20))
    recipe = Recipe(name="tiny", run_frames=8, guard_frames=5, window_frames=2, cells=cells)
    lite.build(extracted, out, recipe, overwrite=overwrite)


def test_a_lite_set_gets_back_what_describes_it(lite_set: Path) -> None:
    before = files(lite_set)
    for name in ("manifest.csv", "city/infrared-test/index.npz", "city/infrared-train/clips.json"):
        (lite_set / name).unlink()
    repair(lite_set)
    after = files(lite_set)
    assert {name for name in before if before[name] != after.get(name)} == {"city/infrared-train/clips.json"}
    assert manifest.read_folder(lite_set / "city/infrared-train")[1] == "train"
    assert verify(lite_set).findings == ()


def test_the_manifest_of_the_set_says_what_a_part_of_it_held(lite_set: Path) -> None:
    before = files(lite_set)
    for name in ("index.npz", "manifest.csv", "manifest.parquet"):
        (lite_set / "city/infrared-train" / name).unlink()
    report = repair(lite_set)
    assert (report.notes, report.lost, report.unsolved) == ((), (), ())
    assert files(lite_set) == before


def test_the_record_of_a_set_follows_runs_that_were_found_anew(lite_set: Path) -> None:
    part = lite_set / "city/infrared-train"
    # Written down is one run of the clip that goes through all; found anew, each run of frames is one.
    assert {*open_part(part).index.run_id.tolist()} == {0}
    for folder in (part, lite_set):
        for name in ("index.npz", "manifest.csv", "manifest.parquet"):
            (folder / name).unlink(missing_ok=True)
    report = repair(lite_set)
    assert f"{lite_set / 'lite.json'}: manifest hash put right, since runs or marks were found anew" in report.actions
    assert {*open_part(part).index.run_id.tolist()} == {0, 1}
    assert verify(lite_set).findings == ()
    check_nothing_left_to_do(lite_set)


def test_a_picture_that_does_not_decode_is_lost_where_nothing_else_can_tell(lite_set: Path) -> None:
    part = lite_set / "city/infrared-test"
    index = sample_index.load(part)
    (shard,) = part.glob("*.tar")
    data = bytearray(shard.read_bytes())
    start = int(index.offset[2])
    data[start + 2 : start + 500] = bytes(498)
    shard.write_bytes(data)
    for folder in (part, lite_set):
        for name in ("index.npz", "manifest.csv", "manifest.parquet"):
            (folder / name).unlink(missing_ok=True)
    frame = int(index.frame_index[2])
    assert [(loss.first_frame, loss.last_frame) for loss in repair(lite_set).lost] == [(frame, frame)]
    check_nothing_left_to_do(lite_set)


def test_a_lite_set_that_lost_samples_has_to_be_made_again(extracted: Path, lite_set: Path) -> None:
    before = files(lite_set)
    (shard,) = (lite_set / "city/infrared-test").glob("*.tar")
    flip(shard, int(sample_index.load(shard.parent).offset[2]) + 300)
    report = repair(lite_set)
    assert [(loss.part, loss.num_frames, loss.what_to_do) for loss in report.lost] == [
        ("city/infrared-test", 1, 'run the same "infraredcity make-lite" again, with --overwrite')
    ]
    assert report.unsolved == (
        f"{lite_set / 'lite.json'}: says 44 samples, 43 are there; make the set again with --overwrite",
    )
    assert files(lite_set)["lite.json"] == before["lite.json"]
    assert {finding.problem for finding in verify(lite_set).findings} == {"manifest-hash", "count"}
    make_lite(extracted, lite_set, overwrite=True)
    assert files(lite_set) == before
    # One part alone, too, knows what set it belongs to.
    flip(shard, int(sample_index.load(shard.parent).offset[2]) + 300)
    assert "make-lite" not in repair(shard.parent).lost[0].what_to_do


def test_a_set_that_is_not_finished_is_said(lite_set: Path) -> None:
    changed_json(lite_set / "lite.json", lambda record: record.update(report=None))
    report = repair(lite_set)
    assert report.unsolved == (f"{lite_set / 'lite.json'}: the set is not finished; run the same command again",)
    (lite_set / "lite.json").write_text("{")
    assert "make the set again with --overwrite" in repair(lite_set).unsolved[0]
    assert report.actions == ()


def test_nobody_else_writes_while_a_folder_is_repaired(lite_set: Path) -> None:
    for folder in (lite_set, lite_set / "city/visible-train"):
        with lock_folder(folder), pytest.raises(OutputError, match="another run is writing here"):
            repair(lite_set)
    check_nothing_left_to_do(lite_set)


def test_a_folder_that_cannot_be_written_is_said_in_one_line(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(clip / SHARD, int(sample_index.load(clip).offset[20]) - 500)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="no space left on device"):
        repair(clip)


def test_what_cannot_be_repaired_is_said(shelf: Shelf, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="holds no shards"):
        repair(tmp_path)
    extract_clip(clip_of(shelf.gray), ExtractConfig(to="frames"), tmp_path / "files", workers=0)
    assert "holds plain image files" in repair(tmp_path / "files").notes[0]
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk/x.tar").write_bytes(b"no tar")
    assert "no sample in it can be read, so nothing can be rebuilt" in repair(tmp_path / "junk").unsolved[0]
    assert (tmp_path / "junk/x.tar").read_bytes() == b"no tar"


def test_an_extraction_that_was_begun_is_left_to_extract(extracted: Path, tmp_path: Path) -> None:
    clip = Path(shutil.copytree(extracted / "city_clear", tmp_path / "city_clear"))
    for name in ("clips.json", "index.npz", "gaps.json", "manifest.csv", "manifest.parquet"):
        (clip / name).unlink()
    before = files(clip)
    report = repair(clip)
    assert (report.actions, report.unsolved) == (
        (),
        (f"{clip}: extraction is not finished; run the same extract command again",),
    )
    assert files(clip) == before


def killed_at(call: int, clip: Path) -> int:
    """Repair in a process that dies before its n-th rename or link; its exit code."""
    code = f"""
import os, signal
from pathlib import Path
calls = 0
def dying(name):
    real = getattr(os, name)
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == {call}:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    setattr(os, name, call)
for name in ("replace", "rename", "link", "unlink"):
    dying(name)
Path.replace = lambda self, target: os.replace(self, target)
Path.rename = lambda self, target: os.rename(self, target)
Path.unlink = lambda self, missing_ok=False: os.unlink(self) if self.exists() or not missing_ok else None
from infraredcity.checks.repair import repair
repair(Path({str(clip)!r}))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    return subprocess.run([sys.executable, "-c", code], env=environment, check=False, timeout=PATIENCE_S).returncode


@pytest.mark.parametrize("call", range(1, NUM_CALLS + 1))
def test_a_repair_that_is_killed_is_done_by_the_next(shelf: Shelf, extracted: Path, tmp_path: Path, call: int) -> None:
    clip = Path(shutil.copytree(extracted / "city_clear", tmp_path / "city_clear"))
    whole = files(clip)
    damage(clip, "cut")
    flip(clip / "infraredcity-city_clear-000002.tar", int(sample_index.load(clip).offset[40]) - 500)
    (clip / "infraredcity-city_clear-000000.tar").rename(clip / "renamed.tar")
    begun = files(clip)
    undisturbed = Path(shutil.copytree(clip, tmp_path / "undisturbed/city_clear"))
    expected = repair(undisturbed)
    assert killed_at(call, clip) == -signal.SIGKILL
    # What looks finished is: nothing was begun, or all is done.
    left = {name: data for name, data in files(clip).items() if not name.startswith(".tmp-")}
    assert "clips.json" not in left or left in (begun, files(undisturbed))
    repair(clip)
    assert files(clip) == files(undisturbed)
    assert [(loss.first_frame, loss.last_frame) for loss in expected.lost] == [(25, 31)]
    assert verify(clip, decode="all").findings == ()
    assert len(list(clip.glob("*.damaged*"))) == 2
    extract_clip(clip_of(shelf.gray), CONFIG, tmp_path, workers=0)
    assert files(clip) == whole


def test_the_kills_above_are_at_all_moments(extracted: Path, tmp_path: Path) -> None:
    clip = Path(shutil.copytree(extracted / "city_clear", tmp_path / "city_clear"))
    damage(clip, "cut")
    flip(clip / "infraredcity-city_clear-000002.tar", int(sample_index.load(clip).offset[40]) - 500)
    (clip / "infraredcity-city_clear-000000.tar").rename(clip / "renamed.tar")
    assert killed_at(NUM_CALLS + 1, clip) == 0


@pytest.mark.parametrize("shard", ["../../escape.tar", "clips.json", "/tmp/escape.tar"])
def test_a_marker_or_manifest_that_names_another_place_is_not_believed(clip: Path, tmp_path: Path, shard: str) -> None:
    """Hostile records: nothing is written outside the folder, and nothing in it but what was there."""
    rows = manifest.read(clip / "manifest.csv")
    names = {*files(clip)}
    if "/" not in shard:
        manifest.write_blocks(clip, [{**rows, "shard": [shard] * 50}])
    else:
        (clip / "manifest.csv").unlink()
        (clip / "manifest.parquet").unlink()
        for path in (clip / "segments").iterdir():
            head, rows = path.read_text().splitlines()
            marker = json.loads(head)
            marker["shard"][0] = shard
            path.write_text(f"{json.dumps(marker)}\n{rows}\n")
    (clip / "index.npz").unlink()
    everything = {path for path in tmp_path.rglob("*") if clip not in path.parents}
    repair(clip)
    assert {path for path in tmp_path.rglob("*") if clip not in path.parents} == everything
    assert {*files(clip)} == names
    assert open_part(clip).index.keys() == [f"city_clear_{frame:08d}" for frame in range(50)]
    assert {info.name for info in open_part(clip).index.shards} == {path.name for path in clip.glob("*.tar")}


def seconds_for_gaps(folder: Path, num_gaps: int) -> float:
    """Seconds of this process to see that so many named gaps of a long clip are those that are there."""
    num_frames, (facts,) = 50_000, manifest.read_clips(folder).values()
    lost = [number * (num_frames // num_gaps) for number in range(num_gaps)]
    named = [
        {"clip": "city_clear", "first_frame": frame, "last_frame": frame, "num_frames": 1, "reason": "no picture"}
        for frame in lost
    ]
    (folder / "gaps.json").write_text(json.dumps(named))
    part = _Part(
        path=folder,
        name=".",
        index=made_up(num_frames, missing=lost),
        clips={"city_clear": replace(facts, clip_frames=num_frames)},
        split="all",
    )
    began = time.process_time()
    assert _gaps(part, {}) == named
    return time.process_time() - began


def test_the_time_for_gaps_does_not_grow_with_frames_times_gaps(clip: Path) -> None:
    few = min(seconds_for_gaps(clip, 10) for _ in range(3))
    assert seconds_for_gaps(clip, 500) < 5 * few  # 50 times as long where each gap looks at all frames


def test_the_list_of_a_million_shards_is_left_as_it_is(clip: Path) -> None:
    path = clip / "index.json"
    path.write_text(path.read_text() + " " * MAX_RECORD_BYTES)  # as long as such a list, and the same json
    assert said(repair(clip)) == []
