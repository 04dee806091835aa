import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from processes import PATIENCE_S, started, wait_for_file
from synthetic import Shelf

from infraredcity.checks.verify import verify
from infraredcity.loader import WindowReader
from infraredcity.stills.decode import decode, decode_any
from infraredcity.stills.formats import encode
from infraredcity.video import FrameRange, open_clip, probe, read_frames
from infraredcity.video.audio import audio_of
from infraredcity.video.live import open_pipe
from roma.cli import cli
from roma.config.schema import DataConfig, GeneratorConfig, TrainConfig
from roma.data.preprocessing import Preprocessing
from roma.errors import EvaluationError
from roma.models.generators.resnet import ResNetGenerator
from roma.training.snapshot import Snapshot, save_snapshot

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
SIDE = 16


def write_snapshot(path: Path, preprocessing: Preprocessing | None = None) -> Path:
    torch.manual_seed(0)
    config = TrainConfig(
        generator=GeneratorConfig(width=4, num_blocks=1), data=DataConfig(load_size_px=SIDE, crop_size_px=SIDE)
    )
    weights = ResNetGenerator(width=4, num_blocks=1, init_gain=1.0).state_dict()
    snapshot = Snapshot(weights=weights, step=5, config=config, preprocessing=preprocessing or Preprocessing())
    save_snapshot(path, snapshot)
    return path


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    return write_snapshot(tmp_path / "snapshot.pt")


def roma(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def facts_of(result: Result) -> list[dict[str, object]]:
    assert result.exception is None, result.exception
    return list(json.loads(result.stdout))


def write_pictures(folder: Path, levels: list[int]) -> Path:
    folder.mkdir(parents=True)
    for number, level in enumerate(levels):
        picture = np.full((24, 32, 1), level, np.uint8)
        picture[:, :8] = 255 - level
        (folder / f"night_{number:02d}.png").write_bytes(encode(picture, "png"))
    return folder


def pixels(path: Path) -> np.ndarray:
    return decode(path.read_bytes(), "rgb")


def test_a_folder_of_pictures_becomes_a_folder_under_the_same_names(snapshot: Path, tmp_path: Path):
    folder = write_pictures(tmp_path / "night", [10, 60, 110])
    (facts,) = facts_of(roma("translate", snapshot, folder, "-o", tmp_path / "day", "--json"))
    assert (facts["num_frames"], facts["width_px"], facts["height_px"]) == (3, 32, 24)
    names = sorted(path.name for path in (tmp_path / "day").glob("night_*.png"))
    assert names == ["night_00.png", "night_01.png", "night_02.png"]
    assert pixels(tmp_path / "day" / "night_00.png").shape == (24, 32, 3)
    assert facts_of(roma("translate", snapshot, folder / "night_01.png", "-o", tmp_path / "one.png", "--json"))
    assert np.array_equal(pixels(tmp_path / "one.png"), pixels(tmp_path / "day" / "night_01.png"))
    roma("translate", snapshot, folder, "-o", tmp_path / "jpgs", "--format", "jpg", "--side-by-side")
    assert pixels(tmp_path / "jpgs" / "night_02.jpg").shape == (24, 64, 3)


def test_what_is_there_is_not_made_again_and_other_settings_are_refused(snapshot: Path, tmp_path: Path):
    folder = write_pictures(tmp_path / "night", [10, 60, 110])
    words = ("translate", snapshot, folder, "-o", tmp_path / "day", "--json")
    first = facts_of(roma(*words))
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "day").glob("night_*.png")}
    again = facts_of(roma(*words))
    assert (first[0]["is_new"], again[0]["is_new"]) == (True, False)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "day").glob("night_*.png")} == before
    other = roma(*words, "--native")
    assert isinstance(other.exception, EvaluationError)
    assert "of other settings; use another -o, or --overwrite" in str(other.exception)
    assert facts_of(roma(*words, "--native", "--overwrite"))[0]["is_new"]


def test_many_inputs_are_translated_and_one_that_fails_is_named(snapshot: Path, tmp_path: Path, shelf: Shelf):
    pictures = write_pictures(tmp_path / "stills", [10, 60])
    (tmp_path / "bad.mp4").write_text("no video")
    inputs = (pictures, tmp_path / "bad.mp4", shelf.h264)
    words = ("translate", snapshot, *inputs, "-o", tmp_path / "day", "--stop", 4)
    result = roma(*words)
    assert result.exit_code == 3
    assert "bad.mp4: not a video that can be opened" in result.stderr
    assert "1 of 3 inputs failed" in result.stderr
    assert probe(tmp_path / "day" / f"{shelf.h264.stem}.mp4").num_frames == 4
    assert len(list((tmp_path / "day" / "stills").glob("*.png"))) == 2
    (tmp_path / "bad.mp4").write_bytes(shelf.h264.read_bytes())
    facts = facts_of(roma(*words, "--json"))
    assert [each["is_new"] for each in facts] == [False, True, False]


def test_outputs_of_equal_names_do_not_meet(snapshot: Path, tmp_path: Path, shelf: Shelf):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "night.mp4").write_bytes(shelf.h264.read_bytes())
    words = (tmp_path / "a" / "night.mp4", tmp_path / "b" / "night.mp4", "-o", tmp_path / "day", "--stop", 2)
    assert roma("translate", snapshot, *words).exit_code == 0
    assert sorted(path.name for path in (tmp_path / "day").glob("*.mp4")) == ["a_night.mp4", "b_night.mp4"]


def test_a_folder_of_somebody_elses_files_is_not_touched(snapshot: Path, tmp_path: Path):
    folder = write_pictures(tmp_path / "night", [10])
    mine = write_pictures(tmp_path / "day", [1, 2])
    before = {path.name: path.read_bytes() for path in mine.glob("*.png")}
    result = roma("translate", snapshot, folder, "-o", mine)
    assert "is there, and no translation of this command" in str(result.exception)
    assert {path.name: path.read_bytes() for path in mine.glob("*.png")} == before


def test_no_input_is_ever_written_over_or_deleted(snapshot: Path, tmp_path: Path, shelf: Shelf, extracted: Path):
    stills = write_pictures(tmp_path / "stills", [10, 60])
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "night.mp4").write_bytes(shelf.h264.read_bytes())
    shards = Path(shutil.copytree(extracted / "city_clear", tmp_path / "city_clear"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for inputs, out, options in (
        ((stills,), stills, ()),
        ((stills / "night_00.png",), stills, ()),
        ((stills / "night_00.png",), stills / "night_00.png", ()),
        ((videos,), videos, ()),
        ((videos / "night.mp4",), videos, ()),
        ((shards,), shards, ("--to", "shards")),
        ((shards,), shards, ()),
    ):
        result = roma("translate", snapshot, *inputs, "-o", out, "--overwrite", *options)
        assert "is the input itself, or the folder that holds it" in str(result.exception)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_making_anew_leaves_what_is_not_its_own(snapshot: Path, tmp_path: Path):
    stills = write_pictures(tmp_path / "stills", [10, 60, 110])
    day = write_pictures(tmp_path / "day", [1, 2])
    (day / "mine.png").write_bytes(b"mine")
    words = ("translate", snapshot, stills, "-o", day, "--overwrite")
    assert roma(*words).exit_code == 0
    first = {path.name: path.read_bytes() for path in day.glob("night_*.png")}
    assert len(first) == 3
    assert roma(*words, "--native").exit_code == 0
    second = {path.name: path.read_bytes() for path in day.glob("night_*.png")}
    assert second.keys() == first.keys()
    assert all(second[name] != first[name] for name in first)
    assert (day / "mine.png").read_bytes() == b"mine"


def test_passwords_of_inputs_are_not_printed(snapshot: Path, tmp_path: Path):
    words = (
        "http://user:SECRET@127.0.0.1:9/night.mp4?token=SECRET",
        tmp_path / "gone.mp4",
        "-o",
        tmp_path / "day",
        "--json",
    )
    (tmp_path / "gone.mp4").write_text("no video")
    result = roma("translate", snapshot, *words)
    assert result.exit_code == 3
    assert "SECRET" not in result.stdout + result.stderr
    assert not any(b"SECRET" in path.read_bytes() for path in (tmp_path / "day").iterdir())


def test_a_killed_translation_of_pictures_goes_on(snapshot: Path, tmp_path: Path):
    folder = write_pictures(tmp_path / "night", [level % 200 for level in range(0, 4000, 10)])
    command = [
        sys.executable,
        "-c",
        "from roma.cli import main; main()",
        "translate",
        str(snapshot),
        str(folder),
        "-o",
        str(tmp_path / "day"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with started(command, env=environment, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + PATIENCE_S
        while len(list((tmp_path / "day").glob("night_*.png"))) < 5 and time.monotonic() < until:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    done = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "day").glob("night_*.png")}
    assert len(done) >= 5
    (facts,) = facts_of(roma("translate", snapshot, folder, "-o", tmp_path / "day", "--json"))
    assert len(list((tmp_path / "day").glob("night_*.png"))) == 400
    assert facts["num_frames"] == 400 - len(done)
    assert all((tmp_path / "day" / name).stat().st_mtime_ns == changed for name, changed in done.items())
    for path in (tmp_path / "day").glob("night_*.png"):
        assert pixels(path).shape == (24, 32, 3)


def test_a_pipe_in_and_a_pipe_out(snapshot: Path, shelf: Shelf):
    words = [FFMPEG, "-v", "error", "-i", str(shelf.h264), "-frames:v", "5", "-f", "yuv4mpegpipe", "-"]
    piped = subprocess.run(words, capture_output=True, check=True).stdout
    command = [sys.executable, "-c", "from roma.cli import main; main()", "translate", str(snapshot), "-", "-o", "-"]
    done = subprocess.run(command, input=piped, capture_output=True, check=True)
    frames = list(open_pipe(io.BytesIO(done.stdout)).pictures())
    info = probe(shelf.h264)
    assert len(frames) == 5
    assert frames[0][0].shape == (info.height_px, info.width_px, 1)


def test_who_ends_a_stream_keeps_what_was_translated(snapshot: Path, tmp_path: Path):
    pictures = np.stack([np.full((24, 32, 1), level, np.uint8) for level in (10, 60, 110)])
    command = [sys.executable, "-c", "from roma.cli import main; main()", "translate", str(snapshot), "-"]
    command += ["-o", str(tmp_path / "day.mkv"), "--raw", "32x24:gray@25", "--preview", str(tmp_path / "now.jpg")]
    with started(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.buffer.write(pictures.tobytes())
        process.stdin.flush()  # and the pipe stays open
        wait_for_file(process, tmp_path / "now.jpg")
        process.terminate()  # a shell may start programs in the background with Ctrl-C ignored
        assert process.wait(PATIENCE_S) == 143
    assert 1 <= probe(tmp_path / "day.mkv").num_frames <= 3


@pytest.mark.parametrize(("name", "codec"), [("day.mkv", "ffv1"), ("day.mov", "h264"), ("day.mp4", "hevc")])
def test_videos_of_several_kinds(snapshot: Path, tmp_path: Path, shelf: Shelf, name: str, codec: str):
    assert roma("translate", snapshot, shelf.h264, "-o", tmp_path / name, "--codec", codec, "--stop", 4).exit_code == 0
    assert (probe(tmp_path / name).num_frames, probe(tmp_path / name).codec) == (4, codec)


def test_the_sound_of_a_video_goes_with_it(snapshot: Path, tmp_path: Path, shelf: Shelf):
    loud = tmp_path / "loud.mp4"
    tone = ["-f", "lavfi", "-i", "sine=frequency=440:duration=1.6"]
    words = [FFMPEG, "-v", "error", "-i", str(shelf.h264), *tone, "-c:v", "copy", "-c:a", "aac", "-shortest", str(loud)]
    subprocess.run(words, check=True)
    roma("translate", snapshot, loud, "-o", tmp_path / "day.mp4")
    roma("translate", snapshot, loud, "-o", tmp_path / "silent.mp4", "--no-sound")
    with audio_of(loud) as before, audio_of(tmp_path / "day.mp4") as after, audio_of(tmp_path / "silent.mp4") as silent:
        assert before is not None
        assert after is not None
        assert silent is None
        sent = {bytes(packet) for packet in before.packets}
        kept = {bytes(packet) for packet in after.packets}
    assert kept <= sent
    assert len(kept) >= 0.9 * len(sent)


def test_shards_become_pictures_under_their_keys(snapshot: Path, tmp_path: Path, extracted: Path):
    assert roma("translate", snapshot, extracted / "city_clear", "-o", tmp_path / "day", "--stop", 3).exit_code == 0
    assert sorted(path.name for path in (tmp_path / "day").glob("city_*.png")) == [
        f"city_clear_{number:08d}.png" for number in range(3)
    ]


def test_translations_become_shards_that_the_loader_and_verify_take(
    snapshot: Path, tmp_path: Path, extracted: Path, shelf: Shelf
):
    inputs = (extracted / "city_clear", shelf.h264)
    result = roma("translate", snapshot, *inputs, "-o", tmp_path / "day", "--to", "shards", "--stop", 12)
    assert result.exit_code == 0, result.stderr
    for name in ("city_clear", shelf.h264.stem):
        report = verify(tmp_path / "day" / name, decode="all")
        assert report.findings == ()
        reader = WindowReader(tmp_path / "day" / name)
        assert len(reader.index) == 12
        reader.close()
    roma("translate", snapshot, extracted / "city_clear", "-o", tmp_path / "pictures", "--stop", 12)
    reader = WindowReader(tmp_path / "day" / "city_clear")
    assert reader.index.key(3) == "city_clear_00000003"
    shown = reader.read_rows([3])[0].permute(1, 2, 0).numpy()
    assert np.array_equal(shown, pixels(tmp_path / "pictures" / "city_clear_00000003.png"))
    reader.close()


def test_a_folder_of_pictures_becomes_a_video_where_that_is_asked(snapshot: Path, tmp_path: Path):
    folder = write_pictures(tmp_path / "night", [10, 60, 110])
    assert roma("translate", snapshot, folder, "-o", tmp_path / "day.mp4").exit_code == 0
    assert probe(tmp_path / "day.mp4").num_frames == 3
    (folder / "night_99.png").write_bytes(encode(np.zeros((12, 12, 1), np.uint8), "png"))
    result = roma("translate", snapshot, folder, "-o", tmp_path / "other.mp4")
    assert "frame night_99 is 12x12, those before 32x24" in str(result.exception)
    assert not (tmp_path / "other.mp4").exists()
    assert roma("translate", snapshot, folder, "-o", tmp_path / "pictures").exit_code == 0


def test_the_newest_picture_can_be_looked_at(snapshot: Path, tmp_path: Path):
    folder = write_pictures(tmp_path / "night", [10, 60])
    roma("translate", snapshot, folder, "-o", tmp_path / "day", "--preview", tmp_path / "now.jpg")
    assert pixels(tmp_path / "now.jpg").shape == (24, 32, 3)


def test_counts_are_translated_with_the_tone_of_the_training(tmp_path: Path):
    levels = np.tile(np.linspace(0, 255, 32).astype(np.uint8)[None, :, None], (24, 1, 1))
    counts = 7000 + 8 * levels.astype(np.uint16)
    (tmp_path / "levels.png").write_bytes(encode(levels, "png"))
    (tmp_path / "counts.png").write_bytes(encode(counts, "png16"))
    assert decode_any((tmp_path / "counts.png").read_bytes()).dtype == np.uint16
    fixed = Preprocessing(is_known=True, tone="fixed", tone_range=(7000, 7000 + 8 * 255))
    for name, snapshot in (
        ("fixed", write_snapshot(tmp_path / "fixed.pt", fixed)),
        ("minmax", write_snapshot(tmp_path / "minmax.pt", Preprocessing(is_known=True, tone="minmax"))),
    ):
        for kind in ("levels", "counts"):
            result = roma("translate", snapshot, tmp_path / f"{kind}.png", "-o", tmp_path / f"{name}-{kind}.png")
            assert result.exit_code == 0
        assert np.array_equal(pixels(tmp_path / f"{name}-levels.png"), pixels(tmp_path / f"{name}-counts.png"))
    unknown = write_snapshot(tmp_path / "unknown.pt")
    refused = roma("translate", unknown, tmp_path / "counts.png", "-o", tmp_path / "x.png")
    assert "holds counts of more than 8 bits, and the snapshot has no tone" in str(refused.exception)
    named = roma("translate", unknown, tmp_path / "counts.png", "-o", tmp_path / "x.png", "--tone", "minmax")
    assert named.exit_code == 0
    assert np.array_equal(pixels(tmp_path / "x.png"), pixels(tmp_path / "fixed-levels.png"))


def test_a_black_hot_camera_is_turned_for_a_white_hot_training(tmp_path: Path):
    (night,) = write_pictures(tmp_path / "night", [30]).iterdir()
    negative = tmp_path / "negative.png"
    negative.write_bytes(encode(255 - decode(night.read_bytes(), "gray"), "png"))
    white_hot = write_snapshot(tmp_path / "white.pt", Preprocessing(is_known=True, polarity="white-hot"))
    roma("translate", white_hot, night, "-o", tmp_path / "a.png")
    roma("translate", white_hot, negative, "-o", tmp_path / "b.png", "--polarity", "black-hot")
    roma("translate", white_hot, night, "-o", tmp_path / "c.png", "--polarity", "white-hot")
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "c.png"))
    unknown = write_snapshot(tmp_path / "unknown.pt")
    refused = roma("translate", unknown, negative, "-o", tmp_path / "d.png", "--polarity", "black-hot")
    assert "does not say how its training showed heat; give --polarity invert" in str(refused.exception)
    roma("translate", unknown, negative, "-o", tmp_path / "d.png", "--polarity", "invert")
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "d.png"))


def test_masks_and_crop_of_the_training_are_used_for_inputs_of_its_size(tmp_path: Path):
    folder = write_pictures(tmp_path / "night", [30])
    plain = write_snapshot(tmp_path / "plain.pt")
    facts = Preprocessing(is_known=True, masks=((0, 0, 8, 24),), crop=(0, 0, 32, 20), clip_size=(32, 24))
    masked = write_snapshot(tmp_path / "masked.pt", facts)
    roma("translate", masked, folder / "night_00.png", "-o", tmp_path / "a.png")
    words = ("--mask", "0,0,8,24", "--crop", "0,0,32,20")
    roma("translate", plain, folder / "night_00.png", "-o", tmp_path / "b.png", *words)
    assert pixels(tmp_path / "a.png").shape == (20, 32, 3)
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))
    (tmp_path / "large.png").write_bytes(encode(np.zeros((48, 64, 1), np.uint8), "png"))
    result = roma("translate", masked, tmp_path / "large.png", "-o", tmp_path / "c.png")
    assert "masks and crop of the training are for 32x24, and not used for 64x48" in result.stderr
    assert pixels(tmp_path / "c.png").shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-o", "x.avi"), "ends in .avi, expected"),
        (("-o", "x.mp4", "--tone", "fixed"), "--tone fixed goes with --tone-range"),
        (("-o", "x.mp4", "--start", "5", "--stop", "5"), "must be above --start 5"),
        (("-o", "x.mp4", "--crop", "1,2,3"), "expected x,y,w,h"),
        (("-o", "x.mp4", "--raw", "640x512"), "expected WIDTHxHEIGHT:FORMAT@FPS"),
        (("-o", "x.png"), "is one picture, .* has 50 frames"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(
    snapshot: Path, shelf: Shelf, tmp_path: Path, words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    result = roma("translate", snapshot, shelf.gray, *words)
    assert re.search(message, str(result.exception) + result.stderr)
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_cannot_be_written_is_one_line(snapshot: Path, shelf: Shelf):
    result = roma("translate", snapshot, shelf.gray, "-o", "/dev/full/x.mp4", "--stop", 2)
    assert "cannot be written" in str(result.exception)


def test_times_of_a_video_are_kept_from_the_start_frame_on(snapshot: Path, tmp_path: Path, shelf: Shelf):
    roma("translate", snapshot, shelf.gray, "-o", tmp_path / "day.mp4", "--start", 10, "--stop", 20)
    before, after = open_clip([shelf.gray]), open_clip([tmp_path / "day.mp4"])
    expected = [(time - int(before.pts[10])) * before.time_base for time in before.pts[10:20].tolist()]
    assert [time * after.time_base for time in after.pts.tolist()] == expected
    count = sum(len(batch.data) for batch in read_frames(after, FrameRange(start_frame=0, stop_frame=10), color="rgb"))
    assert count == 10
