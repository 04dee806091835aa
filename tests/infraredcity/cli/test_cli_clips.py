import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from processes import PATIENCE_S
from synthetic import Shelf

Run = Callable[..., Any]


def test_clips_lists_the_nine_and_which_are_found(shelf: Shelf, infraredcity: Run, tmp_path: Path) -> None:
    shutil.copy(shelf.one_frame, tmp_path / "city_day.mp4")
    ran = infraredcity("clips", "--clips-dir", tmp_path)
    assert ran.code == 0
    lines = ran.stdout.splitlines()
    assert len(lines) == 10
    assert lines[1].split() == ["city_clear", "city", "clear", "infrared", "night", "-"]
    assert lines[6].split() == ["city_day", "city", "any", "visible", "day", str(tmp_path / "city_day.mp4")]
    assert ran.stderr == "1 of 9 clips found; the nine of the release hold 579,984 frames\n"


def test_clips_as_json_marks_what_is_missing(infraredcity: Run, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text('[clips.city_clear]\npath = "gone.mp4"\n')
    facts = infraredcity("clips", "--clips", tmp_path / "my.toml", "--json").json
    assert len(facts["clips"]) == 9
    assert facts["published"]["frames"]["total"] == 579_984
    assert facts["clips"][0]["files"] == [str(tmp_path / "gone.mp4")]
    assert facts["clips"][0]["found"] is False
    assert "gone.mp4  (missing)" in infraredcity("clips", "--clips", tmp_path / "my.toml").stdout


def test_clips_says_which_far_files_are_there_and_why_others_are_not(infraredcity: Run, tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe("/films/day.mp4", b"film")
    lines = ('[clips.city_day]\npath = "memory://films/day.mp4"', '[clips.city_clear]\npath = "memory://films/gone.mp4"',
             '[clips.highway_day]\npath = "nowhere://al:pw@host/one.mp4?t=SECRET"')  # fmt: skip
    (tmp_path / "my.toml").write_text("\n".join(lines))
    ran = infraredcity("clips", "--clips", tmp_path / "my.toml")
    fsspec.filesystem("memory").store.clear()
    told = {line.split()[0]: line for line in ran.stdout.splitlines()}
    assert told["city_day"].endswith("day    memory://films/day.mp4")
    assert told["city_clear"].endswith("night  memory://films/gone.mp4  (missing)")
    assert "nowhere://host/one.mp4  (nowhere://host/one.mp4: fsspec cannot " in told["highway_day"]
    assert ran.stderr.endswith("requests\n1 of 9 clips found; the nine of the release hold 579,984 frames\n")
    assert not any(word in ran.stdout for word in ("pw", "SECRET"))


def test_a_folder_is_no_file_to_probe(infraredcity: Run, tmp_path: Path) -> None:
    ran = infraredcity("probe", tmp_path)
    assert ran.code == 2
    assert f"File '{tmp_path}' is a directory." in ran.stderr


def test_probe_tells_the_facts_and_the_decoder(shelf: Shelf, infraredcity: Run) -> None:
    ran = infraredcity("probe", shelf.h264)
    assert ran.code == 0
    assert "50 frames, 2.00 s at 25.000 fps, 96x64 yuv420p, h264" in ran.stdout
    assert "key frames: 5; hidden by an edit list: 0; rotation: 0" in ran.stdout
    assert "decoder: pyav (exact on every file read in order)" in ran.stdout
    assert "decord: would be exact" in ran.stdout
    assert "suspect" not in ran.stdout


def test_probe_as_json_gives_reasons_and_doubts(shelf: Shelf, infraredcity: Run) -> None:
    facts = infraredcity("probe", shelf.transport_stream, "--json").json
    assert (facts["num_frames"], facts["decoder"]) == (50, "pyav")
    assert facts["decord_reason"] == "decord loses frames of mpegts without saying so"
    deep = infraredcity("probe", shelf.deep, "--json").json
    assert (deep["decoder"], deep["needs_tone"], deep["pixel_format"]) == ("pyav", True, "gray16le")
    truncated = infraredcity("probe", shelf.truncated, "--json").json
    assert truncated["suspect"] == [
        "the demuxer met damaged bytes: Invalid NAL unit size (52 > 26).",
        "the file's index lists 50 frames, 21 are there",
        "1 packets are marked corrupt",
        "1 packets cannot be decoded",
        "time jumps before frame 20 (1 lost): frames were dropped before the file was written",
    ]
    assert (
        truncated["decord_reason"]
        == "decord does not tell damage, and here the demuxer met damaged bytes: Invalid NAL unit size (52 > 26)."
    )
    assert "suspect: 1 packets are marked corrupt" in infraredcity("probe", shelf.truncated).stdout


@pytest.mark.parametrize(("name", "said"), [("text", "not a video that can be opened"), ("empty", "the file is empty")])
def test_probe_of_no_video_is_one_line(shelf: Shelf, infraredcity: Run, name: str, said: str) -> None:
    ran = infraredcity("probe", getattr(shelf, name))
    assert (ran.code, ran.stdout) == (1, "")
    assert ran.stderr.startswith("Error: ")
    assert said in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_doctor_says_what_works_and_what_to_install(infraredcity: Run) -> None:
    facts = infraredcity("doctor", "--json").json
    findings = {finding["what"]: finding for finding in facts["findings"]}
    assert {"av", "decord", "torch", "decord on the GPU", "torch device", "package roma"} <= set(findings)
    assert findings["av"]["ok"] is True
    assert findings["package roma"] == {"what": "package roma", "ok": True, "detail": "ours"}
    assert "for decoding video" in findings["av"]["detail"]
    if not findings["decord on the GPU"]["ok"]:
        detail = "Device API gpu is not enabled; PyPI's build has no CUDA: build decord from source with -DUSE_CUDA=ON"
        assert findings["decord on the GPU"]["detail"] == detail
    assert infraredcity("doctor").stdout.startswith("Python 3.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("extrakt",), "No such command 'extrakt'"),
        (("extract", "--fast"), "No such option"),
        (("probe",), "Missing argument"),
    ],
)
def test_wrong_usage_exits_with_2(infraredcity: Run, arguments: tuple[str, ...], message: str) -> None:
    ran = infraredcity(*arguments)
    assert ran.code == 2
    assert message in ran.stderr
    assert ran.stdout == ""


def test_a_reader_that_leaves_early_is_no_traceback(
    infraredcity_process: Callable[..., "subprocess.Popen[str]"],
) -> None:
    process = infraredcity_process("clips", "--json")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    stderr = process.stderr.read()
    process.stderr.close()
    process.wait(timeout=PATIENCE_S)
    assert "Traceback" not in stderr
