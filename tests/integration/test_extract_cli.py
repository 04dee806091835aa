"""`infraredcity extract` from the outside: what it writes, what it says and how it exits."""

import errno
import hashlib
import importlib.metadata
import json
import os
import re
import resource
import shutil
import tarfile
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import PATIENCE_S
from synthetic import Shelf, barcode, write_clip
from web_server import Cutter, serving

from infraredcity.datasets import clip_facts
from infraredcity.files import remote, retry
from infraredcity.files.lock import lock_folder
from infraredcity.shards import index_file
from infraredcity.shards.reader import iterate
from infraredcity.stills.decode import decode

Run = Callable[..., Any]
CLIP = "city_clear"
THREE = ("city_clear", "city_overcast", "highway_clear")


def samples(folder: Path) -> list[tuple[int, dict[str, Any]]]:
    """What the pictures of all shards show and what their json members say, in order."""
    found = []
    for path in sorted(folder.glob("*.tar")):
        for sample in iterate(path):
            (image,) = [data for suffix, data in sample.members.items() if suffix != "json"]
            facts = json.loads(sample.members["json"])
            assert sample.key == f"{facts['clip']}_{facts['frame_index']:08d}"
            found.append((barcode(decode(image, "rgb")), facts))
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def times(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("name", ["h264", "open_gop", "transport_stream", "avi", "variable", "gray"])
def test_every_frame_comes_once_under_its_own_number(
    shelf: Shelf, infraredcity: Run, tmp_path: Path, name: str
) -> None:
    ran = infraredcity(
        "extract", "--clip", CLIP, "--video", getattr(shelf, name), "--out", tmp_path, "--frames-per-shard", 16
    )
    assert ran.code == 0, ran.stderr
    assert "city_clear: 50 frames (50 new) in 4 shards" in ran.stderr
    found = samples(tmp_path / CLIP)
    assert [shown for shown, _ in found] == list(range(50))
    assert [facts["frame_index"] for _, facts in found] == list(range(50))
    index = index_file.load(tmp_path / CLIP)
    assert len(index) == 50
    for info in index.shards:
        data = (tmp_path / CLIP / info.name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (info.size_bytes, info.sha256)


def test_the_json_member_tells_the_facts_of_the_frame(shelf: Shelf, infraredcity: Run, tmp_path: Path) -> None:
    infraredcity("extract", "--clip", "highway_overcast", "--video", shelf.h264, "--out", tmp_path, "--stop", 8)
    _, facts = samples(tmp_path / "highway_overcast")[7]
    assert facts == {
        "clip": "highway_overcast",
        "scene": "highway",
        "weather": "overcast",
        "modality": "infrared",
        "time_of_day": "night",
        "frame_index": 7,
        "pts": 3584,  # 7 frames of 1/25 s in 1/12800 s
        "time_base": "1/12800",
        "time_s": 0.28,
        "width": 96,
        "height": 64,
    }


def test_infrared_is_gray_and_visible_is_colour_unless_asked_otherwise(
    shelf: Shelf, infraredcity: Run, tmp_path: Path
) -> None:
    def channels(clip: str, *options: str) -> int:
        out = tmp_path / f"{clip}{''.join(options)}"
        infraredcity("extract", "--clip", clip, "--video", shelf.one_frame, "--out", out, *options)
        (sample,) = iterate(next(iter((out / clip).glob("*.tar"))))
        image = sample.members["jpg"]
        return image[image.index(b"\xff\xc0") + 9]

    assert (channels("city_clear"), channels("city_day")) == (1, 3)
    assert (channels("city_clear", "--color", "rgb"), channels("city_day", "--color", "gray")) == (3, 1)


def test_one_and_two_workers_give_the_same_bytes(shelf: Shelf, infraredcity: Run, tmp_path: Path) -> None:
    for workers in (1, 2):
        ran = infraredcity(
            "extract", "--clip", CLIP, "--video", shelf.open_gop, "--out", tmp_path / str(workers), "--workers", workers,
            "--frames-per-shard", 9,
        )  # fmt: skip
        assert ran.code == 0, ran.stderr
        assert "50 new" in ran.stderr
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_running_again_does_nothing(shelf: Shelf, infraredcity: Run, tmp_path: Path) -> None:
    command = ("extract", "--clip", CLIP, "--video", shelf.h264, "--out", tmp_path, "--frames-per-shard", 16)
    assert infraredcity(*command).code == 0
    before = times(tmp_path)
    again = infraredcity(*command)
    assert again.code == 0
    assert "50 frames (nothing left to do) in 4 shards" in again.stderr
    assert times(tmp_path) == before


def test_a_lost_shard_is_written_again(shelf: Shelf, infraredcity: Run, tmp_path: Path) -> None:
    command = ("extract", "--clip", CLIP, "--video", shelf.h264, "--out", tmp_path, "--frames-per-shard", 16)
    infraredcity(*command)
    before = contents(tmp_path)
    (tmp_path / CLIP / "infraredcity-city_clear-000001.tar").unlink()
    cut = tmp_path / CLIP / "infraredcity-city_clear-000003.tar"
    cut.write_bytes(cut.read_bytes()[:-512])
    again = infraredcity(*command)
    assert "50 frames (18 new)" in again.stderr
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--every", "2"), "--every 1, not 2"),
        (("--quality", "80"), "--quality 95, not 80"),
        (("--size", "48"), "no --size, now --size 48x48"),
        (("--frames-per-shard", "10"), "--frames-per-shard 16, not 10"),
        (("--to", "frames"), "--to shards, not frames"),
        (("--polarity", "invert"), "no --polarity, now --polarity invert"),
        (("--decoder", "decord"), "--decoder auto, not decord"),
    ],
)
def test_other_settings_are_one_clear_error(
    shelf: Shelf, infraredcity: Run, tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    command = ("extract", "--clip", CLIP, "--video", shelf.h264, "--out", tmp_path, "--frames-per-shard", 16)
    infraredcity(*command)
    before = contents(tmp_path)
    ran = infraredcity(*command, *options)
    assert ran.code == 1
    assert ran.stdout == ""
    (line,) = ran.stderr.splitlines()
    pattern = (
        rf"Error: .*city_clear: was extracted with {said}; use the same, another --out, or --overwrite to start anew"
    )
    assert re.fullmatch(pattern, line)
    assert contents(tmp_path) == before


def test_overwrite_starts_anew(shelf: Shelf, infraredcity: Run, tmp_path: Path) -> None:
    command = ("extract", "--clip", CLIP, "--video", shelf.h264, "--out", tmp_path)
    infraredcity(*command, "--frames-per-shard", 5)
    ran = infraredcity(*command, "--frames-per-shard", 40, "--every", 2, "--overwrite")
    assert ran.code == 0, ran.stderr
    assert [shown for shown, _ in samples(tmp_path / CLIP)] == list(range(0, 50, 2))
    assert [path.name for path in (tmp_path / CLIP).glob("*.tar")] == ["infraredcity-city_clear-000000.tar"]
    infraredcity(*command, "--to", "frames", "--overwrite")
    assert list((tmp_path / CLIP).glob("*.tar")) == []
    assert not (tmp_path / CLIP / "index.npz").exists()
    infraredcity(*command, "--overwrite")
    assert list((tmp_path / CLIP).glob("*.jpg")) == []


def test_a_run_that_wrote_nothing_binds_nobody(shelf: Shelf, infraredcity: Run, tmp_path: Path) -> None:
    command = ("extract", "--clip", CLIP, "--video", shelf.h264, "--out", tmp_path)
    ran = infraredcity(*command, "--crop", "0,0,400,400")
    assert ran.code == 1
    assert "Error: crop 0,0,400,400 reaches outside the 96x64 frame; make it smaller" in ran.stderr
    assert infraredcity(*command, "--crop", "0,0,40,40").code == 0


def test_each_nth_frame_between_start_and_stop(shelf: Shelf, infraredcity: Run, tmp_path: Path) -> None:
    ran = infraredcity(
        "extract", "--clip", CLIP, "--video", shelf.h264, "--out", tmp_path, "--every", 4, "--start", 10, "--stop", 31,
        "--frames-per-shard", 4,
    )  # fmt: skip
    assert ran.code == 0
    found = samples(tmp_path / CLIP)
    assert [shown for shown, _ in found] == [10, 14, 18, 22, 26, 30]
    index = index_file.load(tmp_path / CLIP)
    assert (index.frame_steps, index.frame_index.tolist(), index.run_id.max()) == ((4,), [10, 14, 18, 22, 26, 30], 0)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ((), (64, 96)),
        (("--size", "48"), (48, 48)),
        (("--size", "48x32"), (32, 48)),
        (("--size", "40x40", "--fit", "pad"), (40, 40)),
        (("--crop", "0,0,96,40"), (40, 96)),
        (("--crop", "8,4,64,32", "--size", "32x16", "--fit", "crop"), (16, 32)),
    ],
)
def test_pictures_have_the_asked_shape(
    shelf: Shelf, infraredcity: Run, tmp_path: Path, options: tuple[str, ...], shape: tuple[int, int]
) -> None:
    ran = infraredcity("extract", "--clip", CLIP, "--video", shelf.h264, "--out", tmp_path, "--stop", 3, *options)
    assert ran.code == 0, ran.stderr
    for path in (tmp_path / CLIP).glob("*.tar"):
        for sample in iterate(path):
            assert decode(sample.members["jpg"], "gray").shape == (*shape, 1)
            facts = json.loads(sample.members["json"])
            assert (facts["height"], facts["width"]) == shape
    assert {*index_file.load(tmp_path / CLIP).picture_sizes()} == {shape[::-1]}


@pytest.mark.parametrize("image_format", ["png", "webp"])
def test_other_formats_have_their_own_suffix(
    shelf: Shelf, infraredcity: Run, tmp_path: Path, image_format: str
) -> None:
    infraredcity("extract", "--clip", CLIP, "--video", shelf.h264, "--out", tmp_path, "--format", image_format)
    with tarfile.open(tmp_path / CLIP / "infraredcity-city_clear-000000.tar") as archive:
        assert archive.getnames()[:2] == [f"city_clear_00000000.{image_format}", "city_clear_00000000.json"]
    assert [shown for shown, _ in samples(tmp_path / CLIP)] == list(range(50))


def test_plain_files_are_named_by_their_key(shelf: Shelf, infraredcity: Run, tmp_path: Path) -> None:
    command = ("extract", "--clip", CLIP, "--video", shelf.h264, "--out", tmp_path, "--to", "frames", "--stop", 20,
               "--frames-per-shard", 8)  # fmt: skip
    ran = infraredcity(*command)
    assert ran.code == 0
    assert "city_clear: 20 frames (20 new) in files" in ran.stderr
    files = sorted((tmp_path / CLIP).glob("*.jpg"))
    assert [path.name for path in files] == [f"city_clear_{frame:08d}.jpg" for frame in range(20)]
    assert [barcode(decode(path.read_bytes(), "gray")) for path in files] == list(range(20))
    assert list((tmp_path / CLIP).glob("*.tar")) == []
    before = times(tmp_path)
    files[13].unlink()
    assert "20 frames (8 new)" in infraredcity(*command).stderr  # its segment is written again
    assert infraredcity(*command).code == 0
    assert set(times(tmp_path)) == set(before)


def test_decord_gives_the_same_frames_where_it_is_trusted(shelf: Shelf, infraredcity: Run, tmp_path: Path) -> None:
    ran = infraredcity(
        "extract",
        "--clip",
        CLIP,
        "--video",
        shelf.h264,
        "--out",
        tmp_path,
        "--decoder",
        "decord",
        "--workers",
        2,
        "--json",
    )
    assert ran.code == 0, ran.stderr
    assert ran.json["reports"][0]["decoder"] == "decord"
    assert clip_facts.read_clips(tmp_path / CLIP)[CLIP].versions["decord"] == importlib.metadata.version("decord")
    assert [shown for shown, _ in samples(tmp_path / CLIP)] == list(range(50))
    refused = infraredcity(
        "extract", "--clip", "city_day", "--video", shelf.transport_stream, "--out", tmp_path, "--decoder", "decord"
    )
    assert refused.code == 1
    assert "Error: " in refused.stderr
    assert "decord cannot be trusted with it: decord loses frames of mpegts" in refused.stderr


def test_a_changed_source_file_is_refused(shelf: Shelf, infraredcity: Run, tmp_path: Path) -> None:
    video = tmp_path / "night.mp4"
    shutil.copy(shelf.h264, video)
    command = ("extract", "--clip", CLIP, "--video", video, "--out", tmp_path / "out")
    assert infraredcity(*command).code == 0
    write_clip(video, range(1, 42))
    ran = infraredcity(*command)
    assert ran.code == 1
    said = r"was extracted from another night\.mp4 \(50 frames, now 41; sha256 of its packets \w{12}, now \w{12}\); use another"
    assert re.search(said, ran.stderr)
    write_clip(video.with_name("second.mp4"), range(5))
    clips = tmp_path / "my.toml"
    clips.write_text('[clips.city_clear]\npaths = ["night.mp4", "second.mp4"]\n')
    ran = infraredcity("extract", "--clip", CLIP, "--clips", clips, "--out", tmp_path / "out")
    assert "was extracted from 1 files, now 2; use another --out" in ran.stderr


def test_a_moved_file_with_the_same_pictures_goes_on(shelf: Shelf, infraredcity: Run, tmp_path: Path) -> None:
    infraredcity("extract", "--clip", CLIP, "--video", shelf.h264, "--out", tmp_path / "out")
    shutil.copy(shelf.h264, tmp_path / "renamed.mp4")
    ran = infraredcity("extract", "--clip", CLIP, "--video", tmp_path / "renamed.mp4", "--out", tmp_path / "out")
    assert ran.code == 0
    assert "nothing left to do" in ran.stderr


def test_a_locked_folder_is_refused_at_once(shelf: Shelf, infraredcity: Run, tmp_path: Path) -> None:
    with lock_folder(tmp_path / CLIP):
        ran = infraredcity("extract", "--clip", CLIP, "--video", shelf.h264, "--out", tmp_path)
    assert ran.code == 1
    assert "city_clear: another run is writing here; wait for it or choose another --out" in ran.stderr
    assert infraredcity("extract", "--clip", CLIP, "--video", shelf.h264, "--out", tmp_path).code == 0


def three_clips(shelf: Shelf, folder: Path) -> tuple[object, ...]:
    """The arguments that name three clips of 50 frames in `folder`."""
    folder.mkdir()
    for clip_id in THREE:
        shutil.copy(shelf.h264, folder / f"{clip_id}.mp4")
    return (*(word for clip_id in THREE for word in ("--clip", clip_id)), "--clips-dir", folder)


@pytest.mark.parametrize("kind", ["other settings", "no video", "locked"])
def test_clips_behind_one_that_cannot_be_done_are_done(
    shelf: Shelf, infraredcity: Run, tmp_path: Path, kind: str
) -> None:
    clips, out = three_clips(shelf, tmp_path / "clips"), tmp_path / "out"
    if kind == "other settings":
        infraredcity("extract", "--clip", THREE[1], "--clips-dir", tmp_path / "clips", "--out", out, "--quality", 80)
    elif kind == "no video":
        (tmp_path / "clips" / f"{THREE[1]}.mp4").write_text("no video")
    with lock_folder(out / THREE[1]) if kind == "locked" else nullcontext():
        ran = infraredcity("extract", *clips, "--out", out, "--json")
        again = infraredcity("extract", *clips, "--out", out)
    assert [(row["clip"], row["status"]) for row in ran.json["reports"]] == [
        (THREE[0], "done"), (THREE[1], "error"), (THREE[2], "done"),
    ]  # fmt: skip
    assert (ran.code, again.code) == (1, 1)  # running it again does not help
    assert "1 of 3 clips are not done: city_overcast (error)" in ran.stderr
    assert again.stderr.count("nothing left to do") == 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_ends_the_command_and_names_all_clips_that_are_not_done(
    shelf: Shelf, infraredcity: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    clips, fsync = three_clips(shelf, tmp_path / "clips"), os.fsync

    def full_in_the_second_folder(handle: int) -> None:
        if THREE[1] in str(Path(f"/proc/self/fd/{handle}").readlink()):
            raise OSError(number, os.strerror(number))
        fsync(handle)

    command = ("extract", *clips, "--out", tmp_path / "out", "--workers", 0)
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", full_in_the_second_folder)
        ran = infraredcity(*command, "--json")
    status, code = (
        ("error", 1) if number == errno.EROFS else ("partial", 3)
    )  # with room again, the same command goes on
    assert [row["status"] for row in ran.json["reports"]] == ["done", status, "not tried"]
    assert f"2 of 3 clips are not done: city_overcast ({status}), highway_clear (not tried)" in ran.stderr
    assert ran.code == code
    assert infraredcity(*command).code == 0


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 3), (errno.EDQUOT, 3), (errno.EROFS, 1)])
def test_a_disk_that_is_full_at_the_first_clip_is_partial_too(
    shelf: Shelf, infraredcity: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    def full(_handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    ran = infraredcity("extract", "--clip", CLIP, "--video", shelf.h264, "--out", tmp_path / "out", "--workers", 0)
    assert ran.code == code
    assert f"cannot be written: {os.strerror(number).lower()}" in ran.stderr


def test_a_machine_that_goes_away_is_partial_and_the_same_command_goes_on(
    shelf: Shelf, infraredcity: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "RemoteOptions", partial(retry.RemoteOptions, deadline_s=0.5))
    mine = tmp_path / "my.toml"
    command = (
        "extract",
        "--clip",
        CLIP,
        "--clip",
        THREE[1],
        "--clips",
        mine,
        "--out",
        tmp_path / "out",
        "--workers",
        0,
    )
    with serving(shelf.h264.parent, tmp_path / "nginx") as web:
        cutter = Cutter(upstream=web.port, cut_after=1000, cuts_left=1_000_000)
        clips = ((CLIP, cutter.port), (THREE[1], web.port))
        lines = [f'[clips.{clip_id}]\npath = "http://127.0.0.1:{port}/{shelf.h264.name}"\n' for clip_id, port in clips]
        mine.write_text("".join(lines))
        ran = infraredcity(*command, "--json")
        assert ([row["status"] for row in ran.json["reports"]], ran.code) == (["partial", "done"], 3)
        assert "gave up after" in ran.stderr
        cutter.cuts_left = 0
        monkeypatch.undo()
        assert infraredcity(*command).code == 0
        cutter.close()


def test_what_strangers_named_reaches_the_terminal_as_escapes(shelf: Shelf, infraredcity: Run, tmp_path: Path) -> None:
    odd = tmp_path / "gpj.\u202e\x1b[2Jexe.mp4"
    shutil.copy(shelf.corrupted, odd)
    mine = tmp_path / "my.toml"
    mine.write_text(f"[clips.{CLIP}]\npath = {json.dumps(str(odd))}\n")
    text = tmp_path / "no\x1b[2Jvideo\u202e.mp4"
    text.write_text("no video")
    escaped = r"gpj.\u202e\x1b[2Jexe.mp4"
    for ran, told in (
        (infraredcity("probe", odd), f"{escaped}: 40 frames"),
        (infraredcity("clips", "--clips", mine), escaped),
        (
            infraredcity("extract", "--clip", CLIP, "--video", text, "--out", tmp_path / "a"),
            r"no\x1b[2Jvideo\u202e.mp4: not a",
        ),
        (
            infraredcity("extract", "--clip", CLIP, "--clips", mine, "--out", tmp_path / "b"),
            f"suspect: {escaped}: 2 packets",
        ),
        (infraredcity("plan", "--clip", CLIP, "--clips", mine, "--out", tmp_path / "c", "--parts", 1), "plan.jsonl"),
        (infraredcity("extract", "--plan", tmp_path / "c" / "plan.jsonl", "--part", 0), "part 0 of 1"),
        (infraredcity("finalize", tmp_path / "c"), f"suspect: {escaped}: 2 packets"),
    ):
        assert told in ran.stdout + ran.stderr
        assert not {"\u202e", "\x1b"} & set(ran.stdout + ran.stderr)


@pytest.mark.parametrize("workers", [1, 2])
def test_gaps_are_named_and_exit_with_5(shelf: Shelf, infraredcity: Run, tmp_path: Path, workers: int) -> None:
    ran = infraredcity(
        "extract", "--clip", CLIP, "--video", shelf.corrupted, "--out", tmp_path, "--frames-per-shard", 10,
        "--workers", workers, "--json",
    )  # fmt: skip
    assert ran.code == 5
    assert "city_clear: gap: frames 20 to 21 (2): the decoder could not make a picture of it" in ran.stderr
    (report,) = ran.json["reports"]
    assert (report["status"], report["num_frames"], report["clip_frames"]) == ("gaps", 38, 40)
    gaps = json.loads((tmp_path / CLIP / "gaps.json").read_text())
    assert [(gap["first_frame"], gap["last_frame"], gap["num_frames"]) for gap in gaps] == [(20, 21, 2)]
    assert [shown for shown, _ in samples(tmp_path / CLIP)] == [*range(20), *range(22, 40)]
    # The frame before them is suspect: what made the next one undecodable may have begun in it.
    assert index_file.load(tmp_path / CLIP).run_id.tolist() == [0] * 19 + [1] + [2] * 18


def test_a_segment_without_any_picture_is_a_gap_and_no_shard(shelf: Shelf, infraredcity: Run, tmp_path: Path) -> None:
    command = ("extract", "--clip", CLIP, "--video", shelf.corrupted, "--out", tmp_path, "--frames-per-shard", 2)
    assert infraredcity(*command).code == 5
    names = [path.name for path in (tmp_path / CLIP).glob("*.tar")]
    assert "infraredcity-city_clear-000010.tar" not in names
    assert len(names) == 19
    again = infraredcity(*command)
    assert again.code == 5
    assert "38 frames (nothing left to do) in 19 shards" in again.stderr


def test_another_count_than_the_catalogue_expects_exits_with_4(shelf: Shelf, infraredcity: Run, tmp_path: Path) -> None:
    clips = tmp_path / "my.toml"
    clips.write_text(f'[clips.city_clear]\npath = "{shelf.h264}"\nexpected_frames = 51\n')
    ran = infraredcity("extract", "--clip", CLIP, "--clips", clips, "--out", tmp_path / "out", "--json")
    assert ran.code == 4
    assert "city_clear: the clip holds 50 frames, the catalogue expects 51" in ran.stderr
    assert ran.json["reports"][0]["status"] == "count"
    clips.write_text(f'[clips.city_clear]\npath = "{shelf.h264}"\nexpected_frames = 50\n')
    assert infraredcity("extract", "--clip", CLIP, "--clips", clips, "--out", tmp_path / "out").code == 0


def test_json_is_all_that_stands_on_stdout(shelf: Shelf, infraredcity: Run, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    shutil.copy(shelf.h264, tmp_path / "clips" / "city_clear.mp4")
    shutil.copy(shelf.one_frame, tmp_path / "clips" / "city_day.mp4")
    ran = infraredcity(
        "extract",
        "--clip",
        CLIP,
        "--clip",
        "city_day",
        "--clips-dir",
        tmp_path / "clips",
        "--out",
        tmp_path / "o",
        "--json",
    )
    assert ran.code == 0
    clear, day = ran.json["reports"]
    assert clear == {
        "clip": "city_clear",
        "folder": str(tmp_path / "o" / "city_clear"),
        "num_frames": 50,
        "new_frames": 50,
        "num_shards": 1,
        "size_bytes": sum(path.stat().st_size for path in (tmp_path / "o" / "city_clear").glob("*.tar")),
        "gaps": [],
        "expected_frames": None,
        "clip_frames": 50,
        "decoder": "pyav",
        "num_suspect": 0,
        "num_repeats": 0,
        "num_frozen": 0,
        "tone": None,
        "suspect": ["its pictures have colour, of which gray stills keep the luma alone; --color rgb keeps it"],
        "picture_sizes": [{"width": 96, "height": 64, "num_frames": 50}],
        "notes": [],
        "status": "done",
    }
    assert (day["clip"], day["num_frames"]) == ("city_day", 1)
    assert infraredcity("extract", "--clip", CLIP, "--video", shelf.h264, "--out", tmp_path / "p").stdout == ""


def test_a_recording_in_chunks_is_one_clip_with_two_runs(shelf: Shelf, infraredcity: Run, tmp_path: Path) -> None:
    first, second = shelf.chunks
    clips = tmp_path / "my.toml"
    clips.write_text(f'[clips.city_clear]\npaths = ["{first}", "{second}"]\n')
    for workers in (1, 2):
        ran = infraredcity(
            "extract", "--clip", CLIP, "--clips", clips, "--out", tmp_path / str(workers), "--frames-per-shard", 16,
            "--workers", workers,
        )  # fmt: skip
        assert ran.code == 0, ran.stderr
    assert [shown for shown, _ in samples(tmp_path / "1" / CLIP)] == list(range(50))
    assert index_file.load(tmp_path / "1" / CLIP).run_id.tolist() == [0] * 30 + [1] * 20
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_the_environment_says_where_clips_are(
    shelf: Shelf, infraredcity: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(shelf.one_frame, tmp_path / "city_clear.mp4")
    monkeypatch.setenv("INFRAREDCITY_CLIPS", str(tmp_path))
    assert infraredcity("extract", "--clip", CLIP, "--out", tmp_path / "out").code == 0


def test_all_takes_every_clip_and_names_those_without_a_file(shelf: Shelf, infraredcity: Run, tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    ids = [
        "city_clear",
        "city_overcast",
        "highway_clear",
        "highway_overcast",
        "monitor_night",
        "city_day",
        "highway_day",
    ]
    for clip_id in ids:
        shutil.copy(shelf.one_frame, folder / f"{clip_id}.mp4")
    ran = infraredcity("extract", "--all", "--clips-dir", folder, "--out", tmp_path / "out")
    assert ran.code == 1
    assert (
        "Error: the files of monitor_day, night_visible are unknown; pass --clips-dir, --clips or --video" in ran.stderr
    )
    assert not (tmp_path / "out").exists()
    for clip_id in ("monitor_day", "night_visible"):
        shutil.copy(shelf.one_frame, folder / f"{clip_id}.mp4")
    assert infraredcity("extract", "--all", "--clips-dir", folder, "--out", tmp_path / "out").code == 0
    assert len(list((tmp_path / "out").glob("*/clips.json"))) == 9


def test_all_with_a_clips_file_takes_the_clips_of_that_file(shelf: Shelf, infraredcity: Run, tmp_path: Path) -> None:
    facts = 'scene = "harbour"\nmodality = "infrared"\ntime_of_day = "night"\n'
    mine = tmp_path / "mine.toml"
    mine.write_text("".join(f'[clips.{name}]\npath = "{shelf.gray}"\n{facts}' for name in ("harbour", "quay")))
    ran = infraredcity("extract", "--all", "--clips", mine, "--out", tmp_path / "out")
    assert ran.code == 0, ran.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["harbour", "quay"]
    ran = infraredcity("plan", "--all", "--clips", mine, "--out", tmp_path / "set", "--parts", "2", "--json")
    assert [row["clip"] for row in ran.json["clips"]] == ["harbour", "quay"]
    ran = infraredcity("make-lite", "--from", tmp_path / "out", "--out", tmp_path / "lite")
    assert ran.code == 1
    assert "or name a recipe of your own clips with --recipe (manifests/lite.toml shows the format)" in ran.stderr


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (
            ("--clip", CLIP, "--video", "."),
            1,
            "is not a file; name the video itself, or list the pictures of a recording",
        ),
        (("--clip", "town", "--video", "{h264}"), 1, "Error: unknown clip 'town'; the catalogue has city_clear, "),
        (("--clip", CLIP, "--video", "gone.mp4"), 1, "Error: clip city_clear: gone.mp4 does not exist"),
        (("--clip", CLIP, "--video", "{text}"), 1, "letter.mp4: not a video that can be opened"),
        (("--clip", CLIP, "--video", "{empty}"), 1, "empty.mp4: the file is empty"),
        (("--clip", CLIP, "--video", "{sound}"), 1, "sound.mp4: holds no video stream"),
        (
            ("--clip", CLIP, "--video", "{h264}", "--format", "png16"),
            1,
            "png16 is for gray video of more than 8 bits, and",
        ),
        (
            ("--clip", CLIP, "--video", "{h264}", "--tone", "minmax"),
            1,
            "--tone is for gray video of more than 8 bits, and",
        ),
        (
            ("--clip", CLIP, "--video", "{deep}", "--color", "rgb"),
            1,
            "gray16le has no colour; use --color gray or auto",
        ),
        (
            ("--clip", CLIP, "--video", "{deep}", "--tone", "fixed"),
            2,
            "tone fixed goes with a range of two counts (--tone-range LOW,HIGH)",
        ),
        (("--clip", CLIP, "--video", "{deep}", "--tone-range", "9"), 2, "expected LOW,HIGH in counts, got '9'"),
        (("--clip", CLIP, "--video", "{h264}", "--mask", "1,2"), 2, "expected x,y,w,h in pixels, got '1,2'"),
        (
            ("--clip", CLIP, "--video", "{h264}", "--mask", "90,0,9,9"),
            1,
            "mask 90,0,9,9 reaches outside the 96x64 frame",
        ),
        (("--clip", CLIP), 1, "Error: the files of city_clear are unknown; pass --clips-dir"),
        (
            ("--clip", CLIP, "--video", "{h264}", "--start", "50"),
            1,
            "has 50 frames, so nothing is left from --start 50",
        ),
        ((), 2, "name clips with --clip, or take all with --all"),
        (("--all", "--clip", CLIP), 2, "name clips with --clip, or take all with --all"),
        (("--all", "--video", "{h264}"), 2, "--video is the file of one clip"),
        (("--clip", CLIP, "--video", "{h264}", "--size", "0"), 2, "expected N or WIDTHxHEIGHT, got '0'"),
        (("--clip", CLIP, "--video", "{h264}", "--crop", "1,2,3"), 2, "expected x,y,w,h in pixels, got '1,2,3'"),
        (("--clip", CLIP, "--video", "{h264}", "--start", "9", "--stop", "9"), 2, "stop must be above start 9, got 9"),
        (("--clip", CLIP, "--video", "{h264}", "--device", "gpu"), 2, "device must be cpu, cuda:N or auto, got 'gpu'"),
        (("--clip", CLIP, "--video", "{h264}", "--every", "0"), 2, "0 is not in the range"),
    ],
)
def test_bad_input_is_one_clear_line_and_a_code(
    shelf: Shelf, infraredcity: Run, tmp_path: Path, options: tuple[str, ...], code: int, message: str
) -> None:
    filled = [option.format_map({name: getattr(shelf, name) for name in ("h264", "text", "empty", "sound", "deep")})
              if option.startswith("{") else option for option in options]  # fmt: skip
    ran = infraredcity("extract", *filled, "--out", tmp_path / "out")
    assert ran.code == code
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr
    if code == 1:
        assert [line for line in ran.stderr.splitlines() if "frames 0 of" not in line] == [ran.stderr.splitlines()[-1]]
    assert list(tmp_path.rglob("*.tar")) == []


def test_a_full_disk_is_one_line_and_leaves_no_half_file(
    shelf: Shelf, infraredcity_process: Callable[..., Any], tmp_path: Path
) -> None:
    def limit() -> None:  # a file may not grow beyond 20 kB, as on a disk that is full
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    process = infraredcity_process(
        "extract", "--clip", CLIP, "--video", shelf.h264, "--out", tmp_path / "out", preexec_fn=limit
    )
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "Error: " in stderr
    assert "infraredcity-city_clear-000000.tar: cannot be written: file too large" in stderr
    assert "Traceback" not in stderr
    left = {path.name for path in (tmp_path / "out" / CLIP).iterdir() if path.is_file() and path.name[0] != "."}
    assert [name for name in left if not name.startswith("scan-")] == ["extract.json"]
    assert not list((tmp_path / "out").rglob(".tmp-*"))


def test_the_manifest_and_the_facts_say_where_everything_came_from(
    shelf: Shelf, infraredcity: Run, tmp_path: Path
) -> None:
    infraredcity("extract", "--clip", CLIP, "--video", shelf.variable, "--out", tmp_path, "--frames-per-shard", 16)
    facts = clip_facts.read_clips(tmp_path / CLIP)[CLIP]
    assert (facts.clip_frames, facts.frame_step, facts.modality, facts.weather) == (50, 1, "infrared", "clear")
    assert facts.sources[0]["name"] == "variable.mp4"
    assert facts.sources[0]["num_frames"] == 50
    assert set(facts.versions) == {"av", "numpy", "opencv", "simplejpeg"}
    assert facts.extraction["frames_per_shard"] == 16
    rows = (tmp_path / CLIP / "manifest.csv").read_text().splitlines()
    assert len(rows) == 51
    assert rows[4].startswith("city_clear_00000003,city_clear,infrared,night,city,clear,all,3,")
    assert ",0.28," in rows[4]  # frame 3 stands at (2 * 3 + 1) / 25 s
    index = index_file.load(tmp_path / CLIP)
    assert np.array_equal(np.unique(index.run_id), [0])
