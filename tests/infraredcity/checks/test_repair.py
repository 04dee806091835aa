import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import PATIENCE_S
from synthetic import Shelf, clip_of, write_clip

from infraredcity.checks.repair import RepairReport, repair
from infraredcity.checks.verify import verify
from infraredcity.datasets import clip_facts, lite, manifest
from infraredcity.datasets.folder import open_folder, write_folder
from infraredcity.datasets.recipe import Cell, Recipe
from infraredcity.errors import ManifestError, OutputError
from infraredcity.extraction.config import ExtractConfig
from infraredcity.extraction.extract_clip import extract_clip
from infraredcity.files.lock import lock_folder
from infraredcity.files.records import MAX_RECORD_BYTES
from infraredcity.shards import index_file
from infraredcity.shards.writer import open_shard

SHARD = "infraredcity-city_clear-000001.tar"
"""Frames 16 to 31."""
CONFIG = ExtractConfig(frames_per_shard=16)
NUM_CALLS = 15
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
        ["clips.json"],
        ["clips.json", "index.npz", "manifest.csv", "manifest.parquet"],
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


@pytest.mark.parametrize("kind", ["corrupted", "still", "every other frame"])
def test_marks_runs_and_gaps_come_back_from_the_segment_records(shelf: Shelf, tmp_path: Path, kind: str) -> None:
    config = CONFIG
    path = shelf.corrupted
    if kind == "still":
        codec = ("-c:v", "mjpeg", "-q:v", "3", "-pix_fmt", "yuvj420p")
        path = write_clip(tmp_path / "still.avi", [0, 1, 1, 1, 2, 3], *codec)
    elif kind == "every other frame":
        path, config = shelf.gray, ExtractConfig(frames_per_shard=16, start_frame=5, every=2)
    extract_clip(clip_of(path), config, tmp_path, workers=0)
    clip = tmp_path / "city_clear"
    before = files(clip)
    for name in ("index.npz", "clips.json", "gaps.json", "manifest.parquet"):
        (clip / name).unlink()
    report = repair(clip)
    assert (report.lost, report.unsolved) == ((), ())
    assert "rebuilt from the segment records" in report.actions[0]
    assert files(clip) == before
    check_nothing_left_to_do(clip)


@pytest.mark.parametrize("gone", [["segments/000001.jsonl", "index.npz"], ["extract.json", "clips.json"]])
def test_what_no_segment_record_holds_is_not_rebuilt(clip: Path, gone: list[str]) -> None:
    for name in gone:
        (clip / name).unlink()
    before = files(clip)
    report = repair(clip)
    assert report.actions == ()
    assert "it cannot be rebuilt" in report.unsolved[0]
    assert files(clip) == before


def test_wrong_places_in_the_index_are_put_right(clip: Path) -> None:
    before = files(clip)
    index = index_file.load(clip)
    index.offset[20] += 512
    index.span[21] += 1
    index_file.save(index, clip)
    assert repair(clip).lost == ()
    assert files(clip) == before


def test_a_manifest_of_another_build_is_written_anew(clip: Path) -> None:
    before = files(clip)
    rows = manifest.read(clip / "manifest.csv")
    manifest.write_blocks(clip, [{**rows, "run_id": [7] * 50}])
    repair(clip)
    assert files(clip) == before


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
    before = files(clip)
    changed_json(clip / "clips.json", lambda all_: all_["clips"]["city_clear"].update({name: value}))
    assert repair(clip).lost == ()
    assert files(clip) == before


def test_a_clip_that_clips_json_lacks_is_rebuilt(clip: Path) -> None:
    before = files(clip)
    changed_json(clip / "clips.json", lambda all_: all_["clips"].clear())
    assert repair(clip).lost == ()
    assert files(clip) == before


def test_an_index_of_another_build_is_rebuilt(shelf: Shelf, clip: Path, tmp_path: Path) -> None:
    before = files(clip)
    extract_clip(clip_of(shelf.gray), ExtractConfig(quality=60, frames_per_shard=16), tmp_path / "other", workers=0)
    for name in ("index.npz", "manifest.csv", "manifest.parquet"):
        shutil.copy(tmp_path / "other/city_clear" / name, clip / name)
    assert repair(clip).lost == ()
    assert files(clip) == before


def test_a_renamed_shard_gets_its_name_back_and_other_tars_are_left(clip: Path) -> None:
    before = files(clip)
    (clip / SHARD).rename(clip / "renamed.tar")
    shutil.copy(clip / "infraredcity-city_clear-000002.tar", clip / "copy.tar")
    report = repair(clip)
    assert (said(report), report.lost) == ([f"renamed to {SHARD}, which it is"], ())
    (clip / "copy.tar").unlink()
    assert files(clip) == before
    check_nothing_left_to_do(clip)


def test_a_json_member_that_was_edited_is_found_though_the_index_vouches_for_it(clip: Path) -> None:
    data = (clip / SHARD).read_bytes()
    old, new = b'"frame_index":20,"pts":10240', b'"frame_index":21,"pts":10752'
    assert data.count(old) == 1
    (clip / SHARD).write_bytes(data.replace(old, new))
    index = index_file.load(clip)
    sha256 = hashlib.sha256((clip / SHARD).read_bytes()).hexdigest()
    shards = tuple(replace(info, sha256=sha256) if info.name == SHARD else info for info in index.shards)
    index_file.save(replace(index, shards=shards), clip)
    assert [(loss.first_frame, loss.last_frame) for loss in repair(clip).lost] == [(16, 31)]


def test_a_picture_with_its_hash_is_kept_even_if_it_never_decoded(clip: Path) -> None:
    index = index_file.load(clip)
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
    write_folder(clip, ".", replace(index, shards=(*index.shards[:3], handle.info)), clip_facts.read_clips(clip))
    shutil.rmtree(clip / "segments")
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


DAMAGES = ["picture", "json", "padding", "image header", "json header", "cut", "wiped", "gone"]


def damage(clip: Path, how: str) -> None:
    """Break the second shard."""
    index = index_file.load(clip)
    path = clip / SHARD
    start, size, end = int(index.offset[20]), int(index.size[20]), int(index.offset[21]) - 512
    json_header = start + size + (-size % 512)
    places = {
        "picture": start + 300,
        "json": json_header + 512 + 5,
        "padding": end - 1,
        "json header": json_header + 3,
        "image header": start - 512 + 3,
    }
    if how in places:
        flip(path, places[how])
    elif how == "cut":
        path.write_bytes(path.read_bytes()[: int(index.offset[25]) - 512])
    elif how == "wiped":
        data = bytearray(path.read_bytes())
        data[start - 700 : start + 2000] = bytes(2700)
        path.write_bytes(data)
    else:
        path.unlink()


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_shard_is_set_aside_and_the_same_extraction_makes_it_again(
    shelf: Shelf, tmp_path: Path, how: str
) -> None:
    extract_clip(clip_of(shelf.gray), CONFIG, tmp_path, workers=0)
    clip = tmp_path / "city_clear"
    before = files(clip)
    damage(clip, how)
    damaged = (clip / SHARD).read_bytes() if how != "gone" else None
    report = repair(clip)
    assert [(loss.clip_id, loss.first_frame, loss.last_frame, loss.num_frames) for loss in report.lost] == [
        ("city_clear", 16, 31, 16)
    ]
    assert report.lost[0].what_to_do == 'run the same "infraredcity extract --clip city_clear" again'
    if damaged is not None:
        assert (clip / f"{SHARD}.damaged").read_bytes() == damaged
    # Until then the set is a whole one, with a gap that is named.
    index = open_folder(clip).index
    assert index.frame_index.tolist() == [*range(16), *range(32, 50)]
    assert json.loads((clip / "gaps.json").read_text()) == [
        {
            "clip": "city_clear", "first_frame": 16, "last_frame": 31, "num_frames": 16,
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


def test_gaps_that_were_named_keep_their_reasons(shelf: Shelf, tmp_path: Path) -> None:
    extract_clip(clip_of(shelf.corrupted), CONFIG, tmp_path, workers=0)
    clip = tmp_path / "city_clear"
    (before,) = json.loads((clip / "gaps.json").read_text())
    (clip / "infraredcity-city_clear-000002.tar").unlink()
    repair(clip)
    gaps = json.loads((clip / "gaps.json").read_text())
    assert gaps[0] == before
    assert [(gap["first_frame"], gap["last_frame"]) for gap in gaps[1:]] == [(32, 39)]  # of 40 frames
    assert verify(clip).findings == ()


def test_a_second_damage_does_not_replace_what_was_set_aside(shelf: Shelf, tmp_path: Path) -> None:
    clip = tmp_path / "city_clear"
    for how in ("picture", "padding"):
        extract_clip(clip_of(shelf.gray), CONFIG, tmp_path, workers=0)
        damage(clip, how)
        repair(clip)
    assert {path.name for path in clip.glob("*.damaged*")} == {f"{SHARD}.damaged", f"{SHARD}.damaged-2"}


def test_a_clip_all_of_whose_shards_are_damaged_is_extracted_again(shelf: Shelf, tmp_path: Path) -> None:
    extract_clip(clip_of(shelf.gray), CONFIG, tmp_path, workers=0)
    clip = tmp_path / "city_clear"
    before = files(clip)
    for path in clip.glob("*.tar"):
        flip(path, 2000)
    assert repair(clip).num_samples == 0
    assert not (clip / "clips.json").exists()
    assert "extract" in repair(clip).unsolved[0]
    extract_clip(clip_of(shelf.gray), CONFIG, tmp_path, workers=0)
    assert files(clip) == before


def test_a_dry_run_says_the_same_and_changes_nothing(clip: Path) -> None:
    flip(clip / SHARD, int(index_file.load(clip).offset[20]) + 300)
    (clip / "infraredcity-city_clear-000002.tar").rename(clip / "renamed.tar")
    (clip / "index.json").unlink()
    (clip / ".tmp-1-x").touch()
    before = files(clip)
    planned = repair(clip, dry_run=True)
    assert files(clip) == before
    assert not list(clip.glob("*.damaged"))
    assert [loss.first_frame for loss in planned.lost] == [16]
    done = repair(clip)
    assert (done.lost, done.num_samples, done.actions) == (planned.lost, planned.num_samples, planned.actions)
    assert said(done)[:2] == [
        "renamed to infraredcity-city_clear-000002.tar, which it is",
        f"set aside as {SHARD}.damaged, left out of the index",
    ]
    assert "index.json" in said(done)[2]


def test_a_dry_run_names_what_the_segment_records_would_rebuild(clip: Path) -> None:
    (clip / "index.npz").unlink()
    before = files(clip)
    report = repair(clip, dry_run=True)
    assert (len(report.actions), report.num_samples) == (1, 50)
    assert files(clip) == before


@pytest.fixture
def lite_set(extracted: Path, tmp_path: Path) -> Path:
    make_lite(extracted, tmp_path / "lite")
    return tmp_path / "lite"


def make_lite(extracted: Path, out: Path, *, overwrite: bool = False) -> None:
    """16 train and 8 test frames of city_clear in runs of 8, 20 train frames of city_day."""
    cells = (Cell(scene="city", clip="city_clear", train=16, test=8), Cell(scene="city", clip="city_day", train=20))
    recipe = Recipe(name="tiny", run_frames=8, guard_frames=5, window_frames=2, cells=cells)
    lite.build(extracted, out, recipe, overwrite=overwrite)


def test_a_lite_set_gets_back_its_sidecars(lite_set: Path) -> None:
    before = files(lite_set)
    part = lite_set / "city/infrared-train"
    for path in (lite_set / "manifest.csv", part / "manifest.parquet", part / "index.json", *part.glob("*.idx")):
        path.unlink()
    repair(lite_set)
    assert files(lite_set) == before
    check_nothing_left_to_do(lite_set)


@pytest.mark.parametrize("name", ["index.npz", "clips.json"])
def test_a_lite_set_without_an_index_has_to_be_made_again(lite_set: Path, name: str) -> None:
    (lite_set / "city/infrared-train" / name).unlink()
    before = files(lite_set)
    report = repair(lite_set)
    assert report.actions == ()
    assert 'run the same "infraredcity make-lite" again, with --overwrite' in report.unsolved[0]
    assert files(lite_set) == before


def test_a_lite_set_that_lost_samples_has_to_be_made_again(extracted: Path, lite_set: Path) -> None:
    before = files(lite_set)
    (shard,) = (lite_set / "city/infrared-test").glob("*.tar")
    flip(shard, int(index_file.load(shard.parent).offset[2]) + 300)
    report = repair(lite_set)
    assert [(loss.part, loss.num_frames, loss.what_to_do) for loss in report.lost] == [
        ("city/infrared-test", 8, 'run the same "infraredcity make-lite" again, with --overwrite')
    ]
    assert any('"infraredcity make-lite" again' in line for line in report.unsolved)
    assert files(lite_set)["lite.json"] == before["lite.json"]
    assert {finding.problem for finding in verify(lite_set).findings} == {"missing-part", "unfinished"}
    make_lite(extracted, lite_set, overwrite=True)
    assert files(lite_set) == before
    # One part alone, too, knows what set it belongs to.
    flip(shard, int(index_file.load(shard.parent).offset[2]) + 300)
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
    flip(clip / SHARD, int(index_file.load(clip).offset[20]) - 500)

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
    assert "it cannot be rebuilt" in repair(tmp_path / "junk").unsolved[0]
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
    flip(clip / "infraredcity-city_clear-000002.tar", int(index_file.load(clip).offset[40]) - 500)
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
    assert [(loss.first_frame, loss.last_frame) for loss in expected.lost] == [(16, 47)]
    assert verify(clip, decode="all").findings == ()
    assert len(list(clip.glob("*.damaged*"))) == 2
    extract_clip(clip_of(shelf.gray), CONFIG, tmp_path, workers=0)
    assert files(clip) == whole


def test_the_kills_above_are_at_all_moments(extracted: Path, tmp_path: Path) -> None:
    clip = Path(shutil.copytree(extracted / "city_clear", tmp_path / "city_clear"))
    damage(clip, "cut")
    flip(clip / "infraredcity-city_clear-000002.tar", int(index_file.load(clip).offset[40]) - 500)
    (clip / "infraredcity-city_clear-000000.tar").rename(clip / "renamed.tar")
    assert killed_at(NUM_CALLS + 1, clip) == 0


@pytest.mark.parametrize("shard", ["../../escape.tar", "clips.json", "/tmp/escape.tar"])
def test_a_marker_or_manifest_that_names_another_place_is_not_believed(clip: Path, tmp_path: Path, shard: str) -> None:
    """Hostile records: nothing is written outside the folder, and nothing in it but what was there."""
    rows = manifest.read(clip / "manifest.csv")
    before = files(clip)
    names = {*before}
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
    report = repair(clip)
    assert {path for path in tmp_path.rglob("*") if clip not in path.parents} == everything
    assert {*files(clip)} >= names - {"index.npz", "manifest.csv", "manifest.parquet"}
    assert {*files(clip)} <= names
    if "/" in shard:
        assert "it cannot be rebuilt" in report.unsolved[0]
    else:
        assert files(clip) == before


def test_the_list_of_a_million_shards_is_left_as_it_is(clip: Path) -> None:
    path = clip / "index.json"
    path.write_text(path.read_text() + " " * MAX_RECORD_BYTES)  # as long as such a list, and the same json
    assert said(repair(clip)) == []
