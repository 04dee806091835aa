"""Counts of 16 bits, polarity, masks, frames that stand still, frames behind damage: what extraction makes of them."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from synthetic import GOP, H264, Shelf, clip_of, ffmpeg, write_clip

from infraredcity import video
from infraredcity.datasets import clip_facts
from infraredcity.errors import VideoDecodeError
from infraredcity.extraction import segment_record
from infraredcity.extraction.config import ExtractConfig
from infraredcity.extraction.job import open_job
from infraredcity.extraction.run import fit_clip_tone
from infraredcity.extraction.spec import read_spec
from infraredcity.loader.order import window_table
from infraredcity.shards import index_file
from infraredcity.shards.index import FROZEN, REPEAT, SUSPECT
from infraredcity.shards.reader import iterate
from infraredcity.stills.decode import decode, decode_deep
from infraredcity.stills.tone import ToneMap

Run = Callable[..., Any]
CLIP = "city_clear"
WIDTH, HEIGHT = 64, 48
NUM_FRAMES = 30
LOSSLESS = ("-c:v", "ffv1", "-pix_fmt", "gray")


def counts(index: int) -> np.ndarray:
    """u16 [48, 64]: a ramp of counts from 29,000 up that gets 10 counts warmer a frame."""
    ramp = 29_000 + 10 * index + np.arange(WIDTH)[None, :] * 20 + np.arange(HEIGHT)[:, None]
    return ramp.astype(np.uint16)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 frames of 16-bit gray, without loss."""
    path = tmp_path_factory.mktemp("deep") / "counts.mkv"
    raw = b"".join(counts(index).astype("<u2").tobytes() for index in range(NUM_FRAMES))
    source = ("-f", "rawvideo", "-pix_fmt", "gray16le", "-s", f"{WIDTH}x{HEIGHT}", "-r", "25", "-i", "-")
    ffmpeg(*source, "-c:v", "ffv1", "-pix_fmt", "gray16le", path, data=raw)
    return path


def stills(folder: Path, reader: Callable[..., np.ndarray] = decode, *words: str) -> list[np.ndarray]:
    """The pictures of a folder's shards in order."""
    found = []
    for path in sorted(folder.glob("*.tar")):
        for sample in iterate(path):
            ((suffix, data),) = [member for member in sample.members.items() if member[0] != "json"]
            assert suffix in ("jpg", "png")
            found.append(reader(data, *words))
    return found


def gray_clip(path: Path, pictures: Sequence[np.ndarray]) -> Path:
    """A lossless clip of u8 [48, 64] pictures, 25 a second."""
    source = ("-f", "rawvideo", "-pix_fmt", "gray", "-s", f"{WIDTH}x{HEIGHT}", "-r", "25", "-i", "-")
    ffmpeg(*source, *LOSSLESS, path, data=b"".join(each.tobytes() for each in pictures))
    return path


def test_png16_keeps_every_bit(deep: Path, infraredcity: Run, tmp_path: Path) -> None:
    words = ("extract", "--clip", CLIP, "--video", deep, "--out", tmp_path, "--format", "png16")
    ran = infraredcity(*words, "--frames-per-shard", 7)
    assert ran.code == 0, ran.stderr
    found = stills(tmp_path / CLIP, decode_deep)
    assert [np.array_equal(still[:, :, 0], counts(index)) for index, still in enumerate(found)] == [True] * NUM_FRAMES
    assert clip_facts.read_clips(tmp_path / CLIP)[CLIP].tone is None
    assert index_file.load(tmp_path / CLIP).image_format == "png"


# The lowest count of the clip is 29,000, the highest 29,000 + 290 + 63 * 20 + 47 = 30,597.
@pytest.mark.parametrize(
    ("options", "low", "high"),
    [(("--tone", "minmax"), 29_000, 30_597), (("--tone", "fixed", "--tone-range", "28000,31000"), 28_000, 31_000)],
)
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_one_line_maps_the_counts_of_the_whole_clip(
    deep: Path, tmp_path: Path, infraredcity: Run, options: tuple[str, ...], low: int, high: int, workers: int
) -> None:
    words = ("extract", "--clip", CLIP, "--video", deep, "--out", tmp_path, "--format", "png", "--frames-per-shard", 7)
    ran = infraredcity(*words, *options, "--workers", workers)
    assert ran.code == 0, ran.stderr
    assert f"city_clear: tone: counts {low} to {high} are levels 0 to 255" in ran.stderr
    assert clip_facts.read_clips(tmp_path / CLIP)[CLIP].tone == {"low": low, "high": high}
    found = stills(tmp_path / CLIP, decode, "gray")
    assert len(found) == NUM_FRAMES
    for index, still in enumerate(found):
        exact = (counts(index).astype(np.float64) - low) * 255 / (high - low)
        assert np.abs(still[:, :, 0] - exact).max() <= 0.5 + 1e-9


def test_percentiles_are_what_counts_get_where_nothing_is_said(deep: Path, tmp_path: Path, infraredcity: Run) -> None:
    ran = infraredcity("extract", "--clip", CLIP, "--video", deep, "--out", tmp_path, "--json")
    assert ran.code == 0
    everything = np.sort(np.stack([counts(index) for index in range(NUM_FRAMES)]).ravel())
    low, high = (int(np.percentile(everything, share, method="inverted_cdf")) for share in (0.5, 99.5))
    assert ran.json["reports"][0]["tone"] == {"low": low, "high": high}


@pytest.mark.parametrize(("suspect", "high"), [("keep", 30_597), ("drop", 30_497)])
def test_frames_that_are_left_out_have_no_say_in_the_tone(
    deep: Path, tmp_path: Path, suspect: Literal["keep", "drop"], high: int
) -> None:
    """Of 30 frames, each 10 counts warmer than the one before, the scan finds the last ten suspect."""
    job = open_job(clip_of(deep), ExtractConfig(tone="minmax", suspect=suspect), tmp_path)
    (part,) = job.video.files
    damaged = replace(part, suspect_ranges=np.array([[NUM_FRAMES - 10, NUM_FRAMES]]))
    tone = fit_clip_tone(replace(job, video=replace(job.video, files=(damaged,))))
    assert tone == ToneMap(low=29_000, high=high)


def test_a_run_that_goes_on_keeps_its_tone(deep: Path, tmp_path: Path, infraredcity: Run) -> None:
    words = ("extract", "--clip", CLIP, "--video", deep, "--out", tmp_path, "--frames-per-shard", 7)
    infraredcity(*words)
    before = {path.name: path.read_bytes() for path in (tmp_path / CLIP).glob("*.tar")}
    (tmp_path / CLIP / min(before)).unlink()
    # As if an earlier version had fitted another tone, and written what stands there with it.
    fitted = read_spec(tmp_path / CLIP)
    assert fitted is not None
    spec = replace(fitted, tone=ToneMap(low=20_000, high=40_000))
    spec.write(tmp_path / CLIP)
    for path in (tmp_path / CLIP / "segments").iterdir():
        head, rows = segment_record.read(path)
        segment_record.write(tmp_path / CLIP, replace(head, job_identity=spec.identity), rows)
    ran = infraredcity(*words)
    assert "tone: counts 20000 to 40000" in ran.stderr
    assert "(7 new)" in ran.stderr
    after = {path.name: path.read_bytes() for path in (tmp_path / CLIP).glob("*.tar")}
    assert [name for name in after if after[name] != before[name]] == [min(before)]


@pytest.mark.parametrize(
    ("clip_shows", "wanted", "is_inverted"),
    [
        ("white-hot", None, False),
        ("white-hot", "white-hot", False),
        ("white-hot", "black-hot", True),
        ("white-hot", "invert", True),
        ("black-hot", "white-hot", True),
        ("black-hot", "black-hot", False),
        ("black-hot", "invert", True),
        ("black-hot", None, False),
    ],
)
def test_polarity_turns_infrared_levels_around_where_needed(
    tmp_path: Path, infraredcity: Run, clip_shows: str, wanted: str | None, is_inverted: bool
) -> None:
    shown = np.tile(np.arange(WIDTH, dtype=np.uint8) * 3, (HEIGHT, 1))
    path = gray_clip(tmp_path / "ramp.mkv", [shown, shown + 1])
    clips = tmp_path / "clips.toml"
    clips.write_text(f'[clips.{CLIP}]\npath = "{path}"\npolarity = "{clip_shows}"\n')
    words = ("extract", "--clip", CLIP, "--clips", clips, "--out", tmp_path / "out", "--format", "png")
    ran = infraredcity(*words, *(() if wanted is None else ("--polarity", wanted)))
    assert ran.code == 0, ran.stderr
    (first, _) = stills(tmp_path / "out" / CLIP, decode, "gray")
    assert np.array_equal(first[:, :, 0], 255 - shown if is_inverted else shown)
    assert clip_facts.read_clips(tmp_path / "out" / CLIP)[CLIP].is_inverted is is_inverted


def test_visible_clips_have_no_polarity(tmp_path: Path, infraredcity: Run, shelf: Shelf) -> None:
    for name, options in (("as-is", ()), ("inverted", ("--polarity", "invert"))):
        words = ("extract", "--clip", "city_day", "--video", shelf.one_frame, "--out", tmp_path / name)
        assert infraredcity(*words, *options).code == 0
    (as_is,), (inverted,) = (stills(tmp_path / name / "city_day", decode, "rgb") for name in ("as-is", "inverted"))
    assert np.array_equal(as_is, inverted)


def test_a_mask_takes_burnt_in_text_away(tmp_path: Path, infraredcity: Run) -> None:
    ground = np.tile(np.linspace(60, 120, WIDTH).astype(np.uint8), (HEIGHT, 1))
    shown = ground.copy()
    shown[4:10, 6:30:2] = 255
    path = gray_clip(tmp_path / "text.mkv", [shown, np.roll(shown, 1, axis=0)[:, ::-1].copy()])
    words = ("extract", "--clip", CLIP, "--video", path, "--out", tmp_path, "--format", "png", "--stop", 1)
    ran = infraredcity(*words, "--mask", "5,3,27,8")
    assert ran.code == 0, ran.stderr
    (still,) = stills(tmp_path / CLIP, decode, "gray")
    assert np.abs(still[:, :, 0].astype(int) - ground).max() <= 12
    assert np.array_equal(still[16:, :, 0], ground[16:])


def noisy(seed: int) -> np.ndarray:
    moment = np.random.default_rng(seed)
    scene = np.tile(np.arange(WIDTH, dtype=np.int16) * 2 + 40, (HEIGHT, 1))
    return (scene + moment.normal(0, 4, scene.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(("per_shard", "workers"), [(1000, 1), (9, 1), (9, 2), (10, 2), (11, 1)])
def test_frames_that_stand_still_are_kept_marked_and_in_no_window(
    tmp_path: Path, infraredcity: Run, per_shard: int, workers: int
) -> None:
    pictures = [noisy(index) for index in range(NUM_FRAMES)]
    pictures[10] = pictures[9]  # the same picture once more, at a shard's border with 10 frames in each
    hardly = pictures[19].copy()
    hardly[::8, ::8] ^= 1
    pictures[20] = hardly
    path = gray_clip(tmp_path / "still.mkv", pictures)
    words = ("extract", "--clip", CLIP, "--video", path, "--out", tmp_path, "--format", "png")
    ran = infraredcity(*words, "--frames-per-shard", per_shard, "--workers", workers)
    assert ran.code == 0, ran.stderr
    assert "city_clear: marked: 1 repeat the one before, 1 are frozen; no window spans them" in ran.stderr
    index = index_file.load(tmp_path / CLIP)
    expected = np.zeros(NUM_FRAMES, np.uint8)
    expected[10], expected[20] = REPEAT, FROZEN
    assert index.mark.tolist() == expected.tolist()
    assert index.run_id.tolist() == [0] * 10 + [1] + [2] * 9 + [3] + [4] * 9
    assert window_table(index, window_frames=2, stride=1).num_windows == 9 + 8 + 8
    rows = (tmp_path / CLIP / "manifest.csv").read_text().splitlines()
    column = rows[0].split(",").index("mark")
    assert [row.split(",")[column] for row in rows[10:13]] == ["", "repeat", ""]
    assert rows[21].split(",")[column] == "frozen"


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 frames, a key frame every 12, 200 bytes wiped in the middle."""
    folder = tmp_path_factory.mktemp("damaged")
    path = write_clip(folder / "whole.mp4", range(60), *H264)
    data = bytearray(path.read_bytes())
    with_damage = folder / "damaged.mp4"
    start = len(data) // 2
    data[start : start + 200] = bytes(200)
    with_damage.write_bytes(data)
    clip = video.open_clip([with_damage])
    frames = list(video.decode(clip, video.FrameRange(start_frame=0, stop_frame=60)))
    assert any(frame.is_suspect for frame in frames)
    return with_damage


def suspects_of(path: Path) -> tuple[list[int], list[int]]:
    """Frames that are suspect, and frames that are missing."""
    clip = video.open_clip([path])
    frames = list(video.decode(clip, video.FrameRange(start_frame=0, stop_frame=clip.num_frames)))
    missing = set(range(clip.num_frames)) - {frame.frame_index for frame in frames}
    return [frame.frame_index for frame in frames if frame.is_suspect], sorted(missing)


@pytest.mark.parametrize(("per_shard", "workers"), [(1000, 0), (16, 1), (16, 2), (7, 2)])
def test_frames_behind_damage_are_kept_and_marked(
    damaged: Path, tmp_path: Path, infraredcity: Run, per_shard: int, workers: int
) -> None:
    suspects, missing = suspects_of(damaged)
    assert 1 <= len(suspects) < 2 * GOP
    words = ("extract", "--clip", CLIP, "--video", damaged, "--out", tmp_path, "--workers", workers)
    ran = infraredcity(*words, "--frames-per-shard", per_shard)
    assert ran.code == (5 if missing else 0), ran.stderr
    assert f"{len(suspects)} follow damage (suspect)" in ran.stderr
    index = index_file.load(tmp_path / CLIP)
    assert index.frame_index[(index.mark & SUSPECT) != 0].tolist() == suspects
    hashes = {
        int(frame): index.sha256[row].tobytes()
        for row, frame in enumerate(index.frame_index.tolist())
        if frame in suspects
    }
    again = infraredcity(*words[:6], tmp_path / "again", *words[7:], "--frames-per-shard", 5)
    assert again.code == ran.code
    other = index_file.load(tmp_path / "again" / CLIP)
    assert {
        int(frame): other.sha256[row].tobytes()
        for row, frame in enumerate(other.frame_index.tolist())
        if frame in suspects
    } == hashes


def test_frames_behind_damage_can_be_left_out_and_are_named_then(
    damaged: Path, tmp_path: Path, infraredcity: Run
) -> None:
    suspects, missing = suspects_of(damaged)
    words = ("extract", "--clip", CLIP, "--video", damaged, "--out", tmp_path, "--suspect", "drop")
    ran = infraredcity(*words, "--frames-per-shard", 16, "--json")
    assert ran.code == 5
    gaps = ran.json["reports"][0]["gaps"]
    named = [frame for gap in gaps for frame in range(gap["first_frame"], gap["last_frame"] + 1)]
    assert sorted(named) == sorted([*suspects, *missing])
    assert "suspect, since it follows damage, and left out as asked" in {gap["reason"] for gap in gaps}
    assert json.loads((tmp_path / CLIP / "gaps.json").read_text()) == gaps
    index = index_file.load(tmp_path / CLIP)
    assert len(index) == 60 - len(named)
    assert not index.mark.any()


def test_strict_takes_no_damaged_clip(damaged: Path, shelf: Shelf, tmp_path: Path, infraredcity: Run) -> None:
    words = ("extract", "--clip", CLIP, "--out", tmp_path, "--strict")
    ran = infraredcity(*words, "--video", damaged)
    assert ran.code == 1
    assert "; --strict takes no damaged clip" in ran.stderr
    assert not (tmp_path / CLIP / "clips.json").exists()
    gaps = infraredcity(*words[:4], tmp_path / "gaps", "--strict", "--video", shelf.corrupted)
    assert gaps.code == 1
    assert "corrupted.avi: 2 packets cannot be decoded; --strict takes no damaged clip" in gaps.stderr
    assert infraredcity(*words[:4], tmp_path / "whole", "--strict", "--video", shelf.gray).code == 0


def test_one_bad_clip_leaves_the_others_and_exits_with_1(shelf: Shelf, tmp_path: Path, infraredcity: Run) -> None:
    clips = tmp_path / "clips.toml"
    clips.write_text(f'[clips.city_clear]\npath = "{shelf.headless}"\n[clips.city_day]\npath = "{shelf.one_frame}"\n')
    words = ("extract", "--clip", "city_clear", "--clip", "city_day", "--clips", clips, "--out", tmp_path / "out")
    ran = infraredcity(*words, "--json")
    assert ran.code == 1  # the same command does not mend it
    assert [(row["clip"], row["status"]) for row in ran.json["reports"]] == [
        ("city_clear", "error"),
        ("city_day", "done"),
    ]
    assert "headless.mp4: its table of contents (moov) is missing" in ran.json["reports"][0]["error"]


def test_a_folder_that_cannot_be_written_is_one_line(shelf: Shelf, infraredcity: Run) -> None:
    ran = infraredcity("extract", "--clip", CLIP, "--video", shelf.one_frame, "--out", "/proc/nowhere")
    assert ran.code == 1
    assert ran.stderr.startswith("Error: /proc/nowhere/city_clear: cannot be written: ")
    assert len(ran.stderr.splitlines()) == 1


def test_a_kept_scan_is_read_instead_of_the_file_until_that_changes(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "night.mp4"
    path.write_bytes(shelf.h264.read_bytes())
    (tmp_path / "kept").mkdir()
    first = video.probe(path, kept_in=tmp_path / "kept")
    (kept,) = (tmp_path / "kept").iterdir()
    second = video.probe(path, kept_in=tmp_path / "kept")
    for name in ("pts", "keyframes", "decode_order", "suspect_ranges", "time_jumps"):
        assert np.array_equal(getattr(second, name), getattr(first, name))
    for name in ("num_frames", "time_base", "packets_sha256", "suspect", "codec", "nominal_fps", "path"):
        assert getattr(second, name) == getattr(first, name)
    path.write_bytes(shelf.one_frame.read_bytes())
    assert video.probe(path, kept_in=tmp_path / "kept").num_frames == 1
    kept.write_bytes(kept.read_bytes()[:100])
    assert video.probe(path, kept_in=tmp_path / "kept").num_frames == 1
    twin = tmp_path / "other" / "night.mp4"  # another file of the same name, size and time
    twin.parent.mkdir()
    twin.write_bytes(bytes(path.stat().st_size - 4) + b"none")
    os.utime(twin, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    with pytest.raises(VideoDecodeError, match="not a video"):
        video.probe(twin, kept_in=tmp_path / "kept")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_file", lambda self: self == path and False)  # the file itself may not be asked for
        assert video.probe(path, kept_in=tmp_path / "kept").num_frames == 1
