import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import Shelf, clip_of

from infraredcity.checks.findings import VerifyReport
from infraredcity.checks.verify import verify
from infraredcity.datasets import clip_facts, lite, manifest
from infraredcity.datasets.dataset import open_dataset, rows_of
from infraredcity.datasets.folder import open_folder, write_folder
from infraredcity.datasets.recipe import Cell, Recipe
from infraredcity.datasets.select import choose
from infraredcity.datasets.select import write as write_selection
from infraredcity.errors import ManifestError
from infraredcity.extraction.config import ExtractConfig
from infraredcity.extraction.extract_clip import extract_clip
from infraredcity.files.records import MAX_RECORD_BYTES
from infraredcity.shards import index_file, names, sidecars
from infraredcity.shards.index import SampleIndex
from infraredcity.shards.writer import open_shard

SHARD = "infraredcity-city_clear-000001.tar"
"""Frames 16 to 31."""


@pytest.fixture
def clip(extracted: Path, tmp_path: Path) -> Path:
    """A copy of city_clear that a test may break: 50 frames in shards of 16."""
    return Path(shutil.copytree(extracted / "city_clear", tmp_path / "city_clear"))


@pytest.fixture
def lite_set(extracted: Path, tmp_path: Path) -> Path:
    """16 train and 8 test frames of city_clear, 20 train frames of city_day."""
    cells = (Cell(scene="city", clip="city_clear", train=16, test=8), Cell(scene="city", clip="city_day", train=20))
    recipe = Recipe(name="tiny", run_frames=8, guard_frames=5, window_frames=2, cells=cells)
    lite.build(extracted, tmp_path / "lite", recipe)
    return tmp_path / "lite"


def problems(report: VerifyReport) -> set[tuple[str, str]]:
    return {(finding.problem, finding.where) for finding in report.findings}


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def vouch(folder: Path, index: SampleIndex | None = None) -> SampleIndex:
    """Write the index anew so that it vouches for the shards as they are now, whatever they are."""
    index = index or index_file.load(folder)
    shards = []
    for info in index.shards:
        data = (folder / info.name).read_bytes()
        shards.append(replace(info, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()))
    index = replace(index, shards=tuple(shards))
    index_file.save(index, folder)
    (folder / "index.json").write_bytes(sidecars.wids_bytes(index, name="x"))
    return index


def test_a_data_set_as_it_was_written_has_no_finding(extracted: Path, lite_set: Path, tmp_path: Path) -> None:
    report = verify(extracted, decode="all")
    assert report.findings == ()
    assert (report.num_parts, report.num_shards, report.num_samples, report.num_decoded) == (2, 8, 100, 100)
    assert report.size_bytes == sum(path.stat().st_size for path in extracted.rglob("*.tar"))
    report = verify(lite_set)
    assert report.findings == ()
    assert report.num_samples == 44
    assert report.manifest_hash == json.loads((lite_set / "lite.json").read_text())["report"]["manifest_hash"]
    write_selection(choose([open_folder(lite_set, "city/infrared-train")]), tmp_path / "sel", samples_per_shard=3)
    assert verify(tmp_path / "sel").findings == ()
    # All three in one folder: three data sets, whose keys may be the same.
    assert verify(tmp_path).findings == ()
    assert verify(lite_set / "city/infrared-test").findings == ()


@pytest.mark.parametrize(("decode", "num_decoded"), [("all", 50), ("sample", 32), ("none", 0)])
def test_as_many_pictures_are_decoded_as_were_asked_for(clip: Path, decode: str, num_decoded: int) -> None:
    assert verify(clip, decode=decode).num_decoded == num_decoded  # type: ignore[arg-type]


def test_a_flipped_byte_in_a_picture_is_found(clip: Path) -> None:
    index = index_file.load(clip)
    flip(clip / SHARD, int(index.offset[20]) + 300)
    assert problems(verify(clip)) == {("shard-hash", SHARD), ("picture-hash", "city_clear_00000020")}


def test_a_flipped_byte_in_padding_is_found(clip: Path) -> None:
    index = index_file.load(clip)
    flip(clip / SHARD, int(index.offset[20]) + int(index.size[20]) + 1)
    assert problems(verify(clip)) == {("shard-hash", SHARD)}


def test_a_flipped_byte_in_a_header_is_found(clip: Path) -> None:
    index = index_file.load(clip)
    flip(clip / SHARD, int(index.offset[20]) - 512 + 3)
    found = problems(verify(clip))
    assert ("damaged-shard", SHARD) in found
    assert ("missing-sample", "city_clear_00000019") in found  # whether it is whole, the tar alone cannot say


def test_a_tar_behind_the_end_of_a_shard_is_found_even_where_the_hashes_allow_it(clip: Path) -> None:
    (clip / SHARD).write_bytes((clip / SHARD).read_bytes() + (clip / SHARD.replace("000001", "000000")).read_bytes())
    vouch(clip)
    assert ("unknown-sample", "city_clear_00000000") in problems(verify(clip))


@pytest.mark.parametrize("num_kept", [0, 1, 9])
def test_a_tar_cut_at_a_block_boundary_is_found(clip: Path, num_kept: int) -> None:
    index = index_file.load(clip)
    path = clip / SHARD
    path.write_bytes(path.read_bytes()[: int(index.offset[16 + num_kept]) - 512])
    found = problems(verify(clip))
    assert {("shard-size", SHARD), ("damaged-shard", SHARD)} <= found
    # Whether the sample before the cut is whole, the tar alone cannot say.
    assert ("missing-sample", f"city_clear_000000{16 + max(0, num_kept - 1)}") in found


def test_a_tar_cut_and_closed_again_is_found(clip: Path) -> None:
    # What a writer that ended early leaves: a good tar of fewer samples, and an index that vouches for it.
    index = index_file.load(clip)
    path = clip / SHARD
    data, cut = path.read_bytes(), int(index.offset[30]) - 512
    path.write_bytes(data[:cut] + bytes(len(data) - cut))
    vouch(clip)
    assert ("missing-sample", "city_clear_00000030") in problems(verify(clip))
    path.write_bytes(data[:cut] + bytes(1024))
    vouch(clip)
    (finding,) = verify(clip).findings
    assert (finding.problem, finding.where) == ("index", "index.npz")
    assert "the sample of row 30 lies outside of the" in finding.message


def test_a_missing_shard_is_found(clip: Path) -> None:
    (clip / SHARD).unlink()
    assert problems(verify(clip)) == {("missing-shard", SHARD)}


def test_a_renamed_shard_is_found(clip: Path) -> None:
    (clip / SHARD).rename(clip / "renamed.tar")
    report = verify(clip)
    assert problems(report) == {("missing-shard", SHARD), ("renamed-shard", "renamed.tar")}
    assert any(f"is {SHARD} under another name; rename it" in finding.message for finding in report.findings)


def test_a_doubled_shard_is_found(clip: Path) -> None:
    shutil.copy(clip / SHARD, clip / "infraredcity-city_clear-000009.tar")
    report = verify(clip)
    assert problems(report) == {("doubled-shard", "infraredcity-city_clear-000009.tar")}
    assert f"is a second copy of {SHARD}; remove it" in report.findings[0].message


def test_a_shard_that_nobody_knows_is_found(clip: Path) -> None:
    (clip / "other.tar").write_bytes(bytes(1024))
    assert problems(verify(clip)) == {("unknown-shard", "other.tar")}


@pytest.mark.parametrize("row", [17, 31])
def test_a_doubled_sample_is_found_though_all_hashes_fit(clip: Path, row: int) -> None:
    index = index_file.load(clip)
    path = clip / SHARD
    data = path.read_bytes()
    start, span = int(index.offset[row]) - 512, int(index.span[row])
    path.write_bytes(data[:-1024] + data[start : start + span] + bytes(1024))
    vouch(clip)
    report = verify(clip)
    if row == 17:
        assert problems(report) == {("doubled-sample", "city_clear_00000017")}
    else:  # right behind itself, it reads as second members of one sample
        assert problems(report) == {("refused-member", SHARD)}
        assert "'city_clear_00000031.jpg' is a second 'jpg' of one sample" in report.findings[0].message


def test_samples_in_another_order_are_found(clip: Path) -> None:
    index = index_file.load(clip)
    path = clip / SHARD
    data = path.read_bytes()
    first, second, end = (int(index.offset[row]) - 512 for row in (16, 17, 18))
    path.write_bytes(data[second:end] + data[first:second] + data[end:])
    vouch(clip)
    found = problems(verify(clip))
    assert ("order", SHARD) in found
    assert ("offset", "city_clear_00000016") in found


@pytest.mark.parametrize(
    ("column", "change", "problem"),
    [("offset", 512, "offset"), ("size", 1, "size"), ("span", 512, "span")],
)
def test_a_wrong_place_in_the_index_is_found(clip: Path, column: str, change: int, problem: str) -> None:
    index = index_file.load(clip)
    getattr(index, column)[20] += change
    index_file.save(index, clip)
    assert (problem, "city_clear_00000020") in problems(verify(clip))


def test_a_wrong_count_of_a_shard_is_found(clip: Path) -> None:
    index = index_file.load(clip)
    shards = tuple(replace(info, num_samples=17) if info.name == SHARD else info for info in index.shards)
    index_file.save(replace(index, shards=shards), clip)
    report = verify(clip)
    assert ("shard-count", SHARD) in problems(report)
    assert any("the index lists 16 of its 17 samples" in finding.message for finding in report.findings)


@pytest.mark.parametrize("how", ["more", "turned around"])
def test_other_members_than_a_picture_and_its_json_are_found(clip: Path, how: str) -> None:
    index = index_file.load(clip)
    data = (clip / SHARD).read_bytes()
    start, end = (int(index.offset[row]) - 512 for row in (20, 21))
    middle = start + 512 + int(index.size[20]) + -int(index.size[20]) % 512
    header = bytearray(data[middle : middle + 512])
    name = b"city_clear_00000020.txt"
    header[: len(name) + 1] = name + b"\0"
    header[148:156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 8 * ord(" "))
    members = {
        "more": data[start:end] + bytes(header) + data[middle + 512 : end],
        "turned around": data[middle:end] + data[start:middle],
    }
    (clip / SHARD).write_bytes(data[:start] + members[how] + data[end:])
    vouch(clip)
    report = verify(clip)
    assert ("members", "city_clear_00000020") in problems(report)
    told = {"more": "jpg, json, txt", "turned around": "json, jpg"}[how]
    assert any(f"has the members {told}, expected jpg, json" in finding.message for finding in report.findings)


def test_a_wrong_hash_in_the_index_is_found(clip: Path) -> None:
    index = index_file.load(clip)
    index.sha256[20, 0] ^= 1
    index_file.save(index, clip)
    assert problems(verify(clip)) == {
        ("picture-hash", "city_clear_00000020"),
        ("manifest", "manifest.csv"),
        ("manifest", "manifest.parquet"),
    }


def test_an_index_whose_rows_were_changed_behind_its_back_is_found(clip: Path) -> None:
    with np.load(clip / "index.npz") as arrays:
        held = {name: arrays[name] for name in arrays}
    held["run_id"][30:] += 1
    np.savez(clip / "index.npz", **held)
    assert ("index", "index.npz") in problems(verify(clip))


def test_rows_in_another_order_than_their_frames_are_found(clip: Path) -> None:
    index = index_file.load(clip)
    order = np.arange(50)
    order[[20, 21]] = 21, 20
    index_file.save(index.take(order), clip)
    found = problems(verify(clip))
    assert ("order", "city_clear_00000020") in found
    assert ("order", SHARD) in found


def test_runs_that_no_extraction_makes_are_found(shelf: Shelf, tmp_path: Path) -> None:
    extract_clip(clip_of(shelf.gray), ExtractConfig(frames_per_shard=16, every=2), tmp_path, workers=0)
    clip = tmp_path / "city_clear"
    index = index_file.load(clip)
    index.frame_index[20:] += 1
    index.run_id[:2] = 1
    index_file.save(index, clip)
    report = verify(clip)
    assert {("run", "city_clear_00000041"), ("run", "index.npz")} <= problems(report)
    messages = [finding.message for finding in report.findings if finding.problem == "run"]
    assert messages[0].endswith("city_clear_00000041 is not a multiple of 2 frames from the one before it")
    assert messages[1].endswith("the runs of city_clear are not in order")


def test_a_frame_step_that_clips_json_does_not_know_is_found(clip: Path) -> None:
    changed_json(clip / "clips.json", lambda all_: all_["clips"]["city_clear"].update(frame_step=2))
    assert ("frame-step", "index.npz") in problems(verify(clip))


@pytest.mark.parametrize("name", ["manifest.csv", "manifest.parquet"])
def test_a_manifest_of_another_build_is_found(
    clip: Path, extracted: Path, name: str, shelf: Shelf, tmp_path: Path
) -> None:
    extract_clip(clip_of(shelf.gray), ExtractConfig(quality=60, frames_per_shard=16), tmp_path / "other", workers=0)
    shutil.copy(tmp_path / "other/city_clear" / name, clip / name)
    report = verify(clip)
    assert problems(report) == {("manifest", name)}
    assert "of city_clear_000000" in report.findings[0].message
    assert "it is of another build" in report.findings[0].message
    rows = manifest.columns(index_file.load(clip), clip_facts.read_clips(clip))
    manifest.write_blocks(clip, [manifest.take(rows, range(49))])
    assert "has 49 rows, the index 50" in verify(clip).findings[0].message
    (clip / name).unlink()
    assert ("manifest", name) in problems(verify(clip))


def edited(clip: Path, row: int, old: bytes, new: bytes) -> None:
    """Another json member of the same size, for which index and index files vouch."""
    assert len(old) == len(new)
    index = index_file.load(clip)
    path = clip / index.shards[int(index.shard[row])].name
    data = path.read_bytes()
    start = int(index.offset[row]) - 512
    sample = data[start : start + int(index.span[row])]
    assert sample.count(old) == 1
    path.write_bytes(data[:start] + sample.replace(old, new) + data[start + len(sample) :])
    vouch(clip)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b'"frame_index":20', b'"frame_index":21', "says frame_index 21, expected 20"),
        (b'"modality":"infrared"', b'"modality":"infrarod"', "says modality 'infrarod', expected 'infrared'"),
        (b'"width":96', b'"width":95', "says width 95, expected 96"),
        (b'"frame_index":20', b'"frame_index":2.', "cannot be read"),
        (b'"height":64', b'"hoight":64', "says height None, expected 64"),
        (b'"height":64', b'"hoight":64', "says 'hoight', which is no fact of a sample"),
    ],
)
def test_an_edited_json_member_is_found_though_all_hashes_fit(clip: Path, old: bytes, new: bytes, told: str) -> None:
    edited(clip, 20, old, new)
    report = verify(clip)
    assert {where for _, where in problems(report)} == {"city_clear_00000020"}
    assert {problem for problem, _ in problems(report)} == {"json"}
    assert any(told in finding.message for finding in report.findings)


def test_an_edited_json_member_is_named_beside_the_shards_hash(clip: Path) -> None:
    index = index_file.load(clip)
    path = clip / SHARD
    data = path.read_bytes()
    assert data.count(b'"frame_index":20') == 1
    path.write_bytes(data.replace(b'"frame_index":20', b'"frame_index":29'))
    assert problems(verify(clip)) == {("shard-hash", SHARD), ("json", "city_clear_00000020")}
    assert len(index) == 50


def rewritten(clip: Path, pictures: Callable[[int, bytes], bytes]) -> None:
    """All shards with other pictures, for which the index vouches."""
    index = index_file.load(clip)
    entries = []
    for number, info in enumerate(index.shards):
        data = (clip / info.name).read_bytes()
        with open_shard(clip, info.name, image_format="jpg") as handle:
            for row in np.flatnonzero(index.shard == number).tolist():
                start, size = int(index.offset[row]), int(index.size[row])
                facts_at = start + size + (-size % 512) + 512
                facts = data[facts_at : data.index(b"\0", facts_at)]
                entries.append(
                    handle.writer.add(
                        "city_clear",
                        row,
                        int(index.pts[row]),
                        pictures(row, data[start : start + size]),
                        facts,
                        size_px=(int(index.width[row]), int(index.height[row])),
                    )
                )
    for name in ("offset", "size", "span"):
        getattr(index, name)[:] = [getattr(entry, name) for entry in entries]
    index.sha256[:] = [np.frombuffer(bytes.fromhex(entry.sha256), np.uint8) for entry in entries]
    index = vouch(clip, index)
    part = open_folder(clip)
    write_folder(clip, ".", index, part.clips)


def test_a_picture_that_does_not_decode_is_found_though_its_hash_fits(clip: Path) -> None:
    rewritten(clip, lambda row, data: data[: len(data) // 2] if row == 20 else data)
    assert problems(verify(clip, decode="all")) == {("undecodable", "city_clear_00000020")}
    assert problems(verify(clip, decode="none")) == set()


def test_a_picture_of_another_size_is_found(clip: Path, extracted: Path) -> None:
    from infraredcity.stills.formats import encode

    rewritten(clip, lambda row, data: encode(np.zeros((64, 90, 1), np.uint8), "jpg") if row == 20 else data)
    report = verify(clip, decode="none")
    assert problems(report) == {("picture-size", "city_clear_00000020")}
    assert "is 90x64, the index says 96x64" in report.findings[0].message


@pytest.mark.parametrize("name", ["index.json", "infraredcity-city_clear-000001.idx"])
def test_a_changed_index_file_of_another_reader_is_found(clip: Path, name: str) -> None:
    data = (clip / name).read_text()
    (clip / name).write_text(data.replace("16", "15", 1))
    assert problems(verify(clip)) == {("sidecar", name)}
    (clip / name).unlink()
    assert problems(verify(clip)) == {("sidecar", name)}


def changed_json(path: Path, change: Callable[[Any], object]) -> None:
    payload = json.loads(path.read_text())
    change(payload)
    path.write_text(json.dumps(payload))


def test_counts_that_do_not_add_up_are_found(clip: Path) -> None:
    changed_json(clip / "clips.json", lambda all_: all_["clips"]["city_clear"].update(clip_frames=51, num_suspect=2))
    report = verify(clip)
    assert problems(report) == {("count", "clips.json"), ("count", "gaps.json")}
    messages = [finding.message for finding in report.findings]
    assert any("says num_suspect 2 of city_clear, the index has 0" in message for message in messages)
    assert any("50 samples and 0 frames in gaps.json, expected 51 together" in message for message in messages)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("time_base", "1/x", "time_base"),
        ("time_base", "1/0", "time_base"),
        ("frame_step", 0, "clip_id or frame_step"),
        ("extraction", {"start_frame": "5"}, "extraction"),
        ("clip_id", "city_cloar", "clip_id or frame_step"),
    ],
)
def test_facts_that_cannot_be_are_found(clip: Path, name: str, value: object, told: str) -> None:
    changed_json(clip / "clips.json", lambda all_: all_["clips"]["city_clear"].update({name: value}))
    report = verify(clip)
    assert problems(report) == {("unfinished", "clips.json")}
    assert f"{told} of 'city_clear' is nothing it can be" in report.findings[0].message


def test_gaps_count_as_frames(shelf: Shelf, tmp_path: Path) -> None:
    extract_clip(clip_of(shelf.corrupted), ExtractConfig(frames_per_shard=16), tmp_path, workers=0)
    assert len(json.loads((tmp_path / "city_clear/gaps.json").read_text())) == 1
    assert verify(tmp_path).findings == ()
    gaps = (tmp_path / "city_clear/gaps.json").read_text()
    for old, new in (('"first_frame": 20', '"first_frame": 21'), ('"num_frames": 2', '"num_frames": 3')):
        (tmp_path / "city_clear/gaps.json").write_text(gaps.replace(old, new))
        assert "frame count is wrong" in verify(tmp_path).findings[0].message
    moved = gaps.replace('"first_frame": 20', '"first_frame": 22').replace('"last_frame": 21', '"last_frame": 23')
    (tmp_path / "city_clear/gaps.json").write_text(
        gaps.replace('"last_frame": 21', '"last_frame": 99999999999').replace(
            '"num_frames": 2', '"num_frames": 99999999980'
        )
    )
    assert "a gap ends after" in verify(tmp_path).findings[0].message
    (tmp_path / "city_clear/gaps.json").write_text(moved)
    assert problems(verify(tmp_path)) == {("gaps", "gaps.json")}
    assert "not the frames that were asked for, from frame 20 on" in verify(tmp_path).findings[0].message
    (tmp_path / "city_clear/gaps.json").write_text("[]\n")
    assert problems(verify(tmp_path)) == {("count", "gaps.json")}
    (tmp_path / "city_clear/gaps.json").write_text("[")
    assert problems(verify(tmp_path)) == {("gaps", "gaps.json")}
    (tmp_path / "city_clear/gaps.json").unlink()
    assert problems(verify(tmp_path)) == {("gaps", "gaps.json")}


@pytest.mark.parametrize(
    "options", [{"every": 3}, {"start_frame": 7, "stop_frame": 40, "every": 2}, {"image_format": "png"}]
)
def test_parts_of_clips_are_as_they_should_be(shelf: Shelf, tmp_path: Path, options: dict[str, object]) -> None:
    config = ExtractConfig(frames_per_shard=5, **options)  # type: ignore[arg-type]
    extract_clip(clip_of(shelf.gray), config, tmp_path, workers=0)
    assert verify(tmp_path, decode="all").findings == ()


def test_counts_of_16_bits_are_decoded_too(shelf: Shelf, tmp_path: Path) -> None:
    extract_clip(clip_of(shelf.deep), ExtractConfig(image_format="png16"), tmp_path, workers=0)
    report = verify(tmp_path, decode="all")
    assert (report.findings, report.num_decoded) == ((), 5)


def test_plain_image_files_are_checked_too(shelf: Shelf, tmp_path: Path) -> None:
    extract_clip(clip_of(shelf.gray), ExtractConfig(to="frames"), tmp_path, workers=0)
    assert verify(tmp_path).findings == ()
    folder = tmp_path / "city_clear"
    flip(folder / "city_clear_00000003.jpg", 200)
    (folder / "city_clear_00000004.jpg").unlink()
    shutil.copy(folder / "city_clear_00000005.jpg", folder / "city_clear_00000099.jpg")
    assert problems(verify(tmp_path)) == {
        ("picture-hash", "city_clear_00000003.jpg"),
        ("missing-file", "city_clear_00000004"),
        ("unknown-file", "city_clear_00000099.jpg"),
    }


def test_an_unfinished_or_damaged_part_is_found(clip: Path) -> None:
    (clip / ".tmp-1-x.tar").write_text("half")
    report = verify(clip)
    assert report.findings == ()
    assert "1 temporary files of a run that was killed" in report.notes[0]
    (clip / "index.npz").write_bytes(b"")
    assert problems(verify(clip)) == {("index", "index.npz")}
    (clip / "clips.json").unlink()
    report = verify(clip)
    assert problems(report) == {("unfinished", "clips.json")}
    assert report.manifest_hash is None


def test_a_folder_without_a_data_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="holds no shards; name a folder that extract, make-lite or shard wrote"):
        verify(tmp_path)
    with pytest.raises(ManifestError, match="nowhere: no such folder"):
        verify(tmp_path / "nowhere")


def test_a_broken_guard_in_a_lite_set_is_found(lite_set: Path) -> None:
    changed_json(lite_set / "lite.json", lambda record: record["report"].update(guard_frames=40))
    report = verify(lite_set)
    assert problems(report) == {("guard", "city_clear")}
    assert "frames of city_clear are between a train and a test frame, the guard is 40" in report.findings[0].message


def test_a_lite_record_of_another_build_is_found(lite_set: Path) -> None:
    changed_json(lite_set / "lite.json", lambda record: record["report"]["rows"][0].update(num_frames=17))
    assert problems(verify(lite_set)) == {("count", "lite.json")}
    changed_json(lite_set / "lite.json", lambda record: record["report"].update(manifest_hash="0" * 64))
    assert problems(verify(lite_set)) == {("count", "lite.json"), ("manifest-hash", "lite.json")}
    changed_json(lite_set / "lite.json", lambda record: record.update(report=None))
    assert problems(verify(lite_set)) == {("unfinished", "lite.json")}
    (lite_set / "lite.json").write_text("{")
    assert problems(verify(lite_set)) == {("record", "lite.json")}


def test_a_missing_or_strange_part_of_a_lite_set_is_found(lite_set: Path) -> None:
    shutil.copytree(lite_set / "city/infrared-test", lite_set / "city/second-test")
    found = problems(verify(lite_set))
    assert ("unknown-part", "city/second-test") in found
    assert ("doubled-key", index_file.load(lite_set / "city/infrared-test").key(0)) in found
    assert any(
        "8 keys are in city/infrared-test and in city/second-test, the first is city_clear_" in finding.message
        for finding in verify(lite_set).findings
    )
    shutil.rmtree(lite_set / "city/second-test")
    shutil.rmtree(lite_set / "city/infrared-test")
    assert ("missing-part", "city/infrared-test") in problems(verify(lite_set))


def test_one_sample_in_two_splits_is_found(lite_set: Path) -> None:
    train, test = (open_folder(lite_set, f"city/infrared-{split}") for split in ("train", "test"))
    clip_id, frame_index = train.index.clips[0], int(train.index.frame_index[3])
    test.index.frame_index[0] = frame_index
    index_file.save(test.index, test.path)
    key = names.key_of(clip_id, frame_index)
    report = verify(lite_set)
    assert ("doubled-key", key) in problems(report)
    assert ("guard", "city_clear") in problems(report)
    assert any("only 0 frames of city_clear are between" in finding.message for finding in report.findings)


def test_what_was_begun_and_holds_no_shards_is_found(extracted: Path, lite_set: Path, tmp_path: Path) -> None:
    shutil.copytree(extracted, tmp_path / "shards")
    shutil.rmtree(lite_set / "city")
    begun = tmp_path / "shards/highway_clear"
    begun.mkdir()
    shutil.copy(extracted / "city_clear/extract.json", begun)
    report = verify(tmp_path)
    assert {(finding.part, finding.problem, finding.where) for finding in report.findings} == {
        ("lite", "missing-part", "lite.json"),
        ("shards/highway_clear", "unfinished", "extract.json"),
    }


def test_a_manifest_without_a_record_makes_a_set_too(extracted: Path, tmp_path: Path) -> None:
    shutil.copytree(extracted, tmp_path / "one")
    shutil.copytree(extracted, tmp_path / "two")
    manifest.write_blocks(tmp_path / "one", [rows_of(open_dataset(tmp_path / "one"))])
    # "one" is a set; "two" is another, so that the same keys may be in both.
    assert verify(tmp_path).findings == ()
    (tmp_path / "one/manifest.csv").unlink()
    (tmp_path / "one/manifest.parquet").unlink()
    assert {finding.problem for finding in verify(tmp_path).findings} == {"doubled-key"}
    manifest.write_blocks(tmp_path / "one", [rows_of([open_folder(tmp_path / "one", "city_day")])])
    assert problems(verify(tmp_path)) == {("manifest", "manifest.csv"), ("manifest", "manifest.parquet")}


def test_only_one_data_set_has_a_hash(extracted: Path, lite_set: Path, tmp_path: Path) -> None:
    assert verify(extracted).manifest_hash == manifest.dataset_hash(rows_of(open_dataset(extracted)))
    shutil.copytree(extracted, tmp_path / "shards")
    assert verify(tmp_path).manifest_hash is None


def test_the_manifest_of_the_whole_set_is_checked(lite_set: Path) -> None:
    text = (lite_set / "manifest.csv").read_text()
    (lite_set / "manifest.csv").write_text(text.replace(",test,", ",train,"))
    report = verify(lite_set)
    assert problems(report) == {("manifest", "manifest.csv")}
    assert "says split 'train' of city_clear_" in report.findings[0].message


def test_published_counts_are_compared_and_small_sets_fail_honestly(extracted: Path, lite_set: Path) -> None:
    report = verify(extracted, published=True, decode="none")
    counts = {row.name: (row.expected, row.found) for row in report.counts}
    assert counts == {
        "infrared, night": (201_856, 50),
        "visible, night": (178_698, 0),
        "visible, day": (199_430, 50),
        "all frames": (579_984, 100),
    }
    assert {finding.problem for finding in report.findings} == {"published"}
    counts = {row.name: (row.expected, row.found) for row in verify(lite_set, published=True).counts}
    assert counts["city: infrared, train, clear"] == (5538, 16)
    assert counts["city: infrared, test, clear"] == (1000, 8)
    assert counts["city: visible, train"] == (5360, 20)
    assert counts["city, all"] == (15_180, 44)
    assert counts["monitor: infrared, train"] == (5612, 0)
    assert counts["all scenes"] == (41_339, 44)
    assert len(counts) == 17
    assert verify(lite_set).counts == ()


def test_a_selection_has_no_published_counts(extracted: Path, tmp_path: Path) -> None:
    write_selection(choose([open_folder(extracted, "city_day")]), tmp_path, samples_per_shard=30)
    report = verify(tmp_path, published=True)
    assert problems(report) == {("published", ".")}
    assert "holds neither extracted clips nor a Lite set" in report.findings[0].message


def test_the_list_of_a_million_shards_is_read(clip: Path) -> None:
    path = clip / "index.json"
    path.write_text(path.read_text() + " " * MAX_RECORD_BYTES)  # as long as such a list, and the same json
    assert problems(verify(clip)) == set()
