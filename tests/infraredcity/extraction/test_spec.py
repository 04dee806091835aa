import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from planned import spec_of
from synthetic import Shelf, clip_of, ffmpeg

from infraredcity.cli.extract import extract_command
from infraredcity.errors import OutputError
from infraredcity.extraction.config import ExtractConfig, option_of
from infraredcity.extraction.job import bind_folder, open_job, versions_here
from infraredcity.extraction.spec import JobSpec, describe_difference, describe_other_source, read_spec
from infraredcity.files.path import RemotePath
from infraredcity.stills.tone import ToneMap


@pytest.mark.parametrize(
    ("installed", "version"),
    [
        (["opencv_python-4.9.0"], "4.9.0"),
        (["opencv_contrib_python_headless-4.9.0"], "4.9.0"),
        (["opencv_python-4.9.0", "opencv_python_headless-4.9.0"], "4.9.0"),
        (["opencv_python-4.9.0", "opencv_python_headless-4.8.1"], "4.8.1 and 4.9.0"),
        ([], "not installed"),
    ],
)
def test_opencv_counts_whatever_package_it_comes_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: list[str], version: str
) -> None:
    for name in (*installed, "decord-0.6.0"):
        (tmp_path / f"{name}.dist-info").mkdir()
        package, _, number = name.partition("-")
        (tmp_path / f"{name}.dist-info" / "METADATA").write_text(f"Name: {package}\nVersion: {number}\n")
    for decoder in ("pyav", "decord"):
        versions_here(decoder)  # imports its file, while it still can
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert versions_here("pyav")["opencv"] == version
    assert ("decord" in versions_here("pyav"), versions_here("decord")["decord"]) == (False, "0.6.0")


def prepared(path: Path, out: Path) -> JobSpec:
    return open_job(clip_of(path), ExtractConfig(), out).make_spec()


def test_a_job_spec_survives_the_file_that_holds_it(extracted: Path, tmp_path: Path) -> None:
    spec = read_spec(extracted / "city_clear")
    assert spec is not None
    spec.write(tmp_path)
    assert (tmp_path / "extract.json").read_bytes() == (extracted / "city_clear/extract.json").read_bytes()
    deep = spec_of(9, ExtractConfig(crop=(1, 2, 3, 4), every=3), tone=ToneMap(low=3, high=9), is_deep=True)
    for each in (spec, deep):
        assert JobSpec.from_json(json.loads(each.to_bytes()), where="here") == each
    assert read_spec(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: replace(spec, config=replace(spec.config, quality=90)),
        lambda spec: replace(spec, clip=replace(spec.clip, weather="overcast")),
        lambda spec: replace(spec, clip=replace(spec.clip, polarity="black-hot")),
        lambda spec: replace(spec, decoder="decord"),
        lambda spec: replace(spec, tone=ToneMap(low=1, high=2)),
        lambda spec: replace(spec, sources=({**spec.sources[0], "packets_sha256": "cd" * 32},)),
        lambda spec: replace(spec, versions={"av": "2.0"}),
        lambda spec: replace(spec, time_base="1/1000"),
        lambda spec: replace(spec, frames_sha256="ef" * 32),
        lambda spec: replace(spec, num_frames=99),
        lambda spec: replace(spec, break_frames=(0, 7)),
    ],
)
def test_all_that_shapes_bytes_is_part_of_the_identity(change: Callable[[JobSpec], JobSpec]) -> None:
    spec = spec_of(100)
    assert spec.identity == spec_of(100).identity
    assert change(spec).identity != spec.identity


def test_where_a_clip_lies_and_what_it_should_hold_are_no_part_of_the_identity(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    twin = Path(shutil.copy(shelf.h264, tmp_path / "elsewhere"))
    here = open_job(clip_of(shelf.h264), ExtractConfig(), tmp_path / "a").make_spec()
    there = open_job(clip_of(twin, expected_frames=7), ExtractConfig(), tmp_path / "b").make_spec()
    assert here == there
    assert here.identity == there.identity


def test_no_credentials_of_a_far_clip_are_in_its_spec(shelf: Shelf, tmp_path: Path) -> None:
    far = RemotePath("memory://user:PASSWORD@clips/night.mp4")
    far.write_whole(shelf.h264.read_bytes())
    clip = replace(clip_of(shelf.h264), paths=(far,))
    spec = bind_folder(open_job(clip, ExtractConfig(), tmp_path)).make_spec()
    assert spec.sources[0]["name"] == "night.mp4"
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or b"PASSWORD" not in path.read_bytes()


def test_the_same_frames_in_another_file_of_the_same_clock_are_the_same_source(shelf: Shelf, tmp_path: Path) -> None:
    ffmpeg("-i", shelf.h264, "-c", "copy", "-movflags", "+faststart", tmp_path / "remuxed.mp4")
    assert (tmp_path / "remuxed.mp4").read_bytes() != shelf.h264.read_bytes()
    assert (
        describe_other_source(prepared(shelf.h264, tmp_path / "a"), prepared(tmp_path / "remuxed.mp4", tmp_path / "b"))
        is None
    )


def test_the_same_frames_at_other_times_are_another_source(shelf: Shelf, tmp_path: Path) -> None:
    ffmpeg("-i", shelf.h264, "-c", "copy", tmp_path / "milliseconds.mkv")
    ffmpeg("-itsscale", "2", "-i", shelf.h264, "-c", "copy", tmp_path / "slow.mp4")
    before = prepared(shelf.h264, tmp_path / "a")
    for name, base in (("milliseconds.mkv", "1/1000"), ("slow.mp4", "1/12800")):
        now = prepared(tmp_path / name, tmp_path / f"out-{name}")
        assert now.sources[0]["packets_sha256"] == before.sources[0]["packets_sha256"]
        said = f"a file that shows the same frames at other times (in units of 1/12800 s, now {base} s)"
        assert describe_other_source(before, now) == said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"polarity": "white-hot"}, "no --polarity, now --polarity white-hot"),
        ({"size": (48, 32)}, "no --size, now --size 48x32"),
        ({"masks": ((1, 2, 3, 4), (5, 6, 7, 8))}, "no --mask, now --mask 1,2,3,4 --mask 5,6,7,8"),
        ({"start_frame": 7}, "--start 0, not 7"),
        ({"image_format": "png"}, "--format jpg, not png"),
        ({"tone": "fixed", "tone_range": (1, 9)}, "no --tone, now --tone fixed"),
    ],
)
def test_settings_that_differ_are_said_in_words_of_the_command_line(change: dict[str, Any], said: str) -> None:
    spec = spec_of(100)
    other = replace(spec, config=replace(spec.config, **change))
    assert describe_difference(spec, other, with_versions=False) == said
    if said.startswith("no "):
        before, _, now = said.partition(", now ")
        assert describe_difference(other, spec, with_versions=False) == f"{now}, now {before}"


def test_every_setting_has_an_option_of_the_command_line() -> None:
    options = {option for parameter in extract_command.params for option in parameter.opts}
    assert {option_of(field.name) for field in fields(ExtractConfig)} <= options


def test_what_two_specs_do_not_agree_on_is_named() -> None:
    spec = spec_of(100)
    other = replace(spec, config=replace(spec.config, quality=90))
    assert describe_difference(spec, other, with_versions=True) == "--quality 95, not 90"
    assert describe_difference(spec, replace(spec, decoder="decord"), with_versions=True) == "decoder pyav, not decord"
    newer = replace(spec, versions={"av": "2.0"})
    assert describe_difference(spec, newer, with_versions=True) == "av 1.0, not 2.0"
    assert describe_difference(spec, newer, with_versions=False) is None
    swapped = replace(spec, sources=({**spec.sources[0], "packets_sha256": "cd" * 32},))
    assert describe_other_source(spec, swapped) == (
        "another city_clear.mp4 (100 frames, now 100; sha256 of its packets abababababab, now cdcdcdcdcdcd)"
    )
    assert describe_other_source(spec, replace(spec, sources=spec.sources * 2)) == "1 files, now 2"
    assert describe_other_source(spec, spec) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: len(text) // 2], r"extract\.json: damaged \(.*\); start anew with --overwrite"),
        (lambda _text: "[]", r"extract\.json: damaged \(no JSON object\); start anew with --overwrite"),
        (lambda text: text.replace('"quality"', '"kwality"'), r"damaged \(unknown extraction setting 'kwality'\)"),
        (lambda text: text.replace('"video"', '"vide0"'), r"damaged \('video'\); start anew with --overwrite"),
        (
            lambda text: text.replace("infraredcity-extract-4", "infraredcity-extract-2"),
            r"was extracted with format infraredcity-extract-2, this version writes infraredcity-extract-4; use the same version",
        ),
    ],
)
def test_a_damaged_job_spec_is_one_clear_line(
    extracted: Path, tmp_path: Path, change: Callable[[str], str], message: str
) -> None:
    text = (extracted / "city_clear/extract.json").read_text()
    assert change(text) != text
    (tmp_path / "extract.json").write_text(change(text))
    with pytest.raises(OutputError, match=message) as raised:
        read_spec(tmp_path)
    assert "\n" not in str(raised.value)


def test_colour_and_polarity_follow_from_the_clip_and_the_settings() -> None:
    def spec_with(modality: str, **other: Any) -> JobSpec:
        made = spec_of(10, **other)
        return replace(made, clip=replace(made.clip, modality=modality, time_of_day="day", weather="any"))

    assert (spec_with("infrared").color, spec_with("visible").color) == ("gray", "rgb")
    assert spec_with("visible", is_deep=True).color == "gray"
    assert spec_with("infrared", config=ExtractConfig(color="rgb")).color == "rgb"
    assert spec_with("infrared", config=ExtractConfig(polarity="invert")).is_inverted
    assert not spec_with("visible", config=ExtractConfig(polarity="invert")).is_inverted
