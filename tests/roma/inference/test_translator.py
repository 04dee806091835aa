import dataclasses
import itertools
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av  # noqa: TID251 - files as no writer of ours makes them
import imageio_ffmpeg
import numpy as np
import pytest
import torch

from infraredcity.errors import VideoDecodeError
from infraredcity.video import FrameRange, open_clip, probe, read_frames
from roma.config.schema import DataConfig, GeneratorConfig, TrainConfig
from roma.data.preprocessing import Preprocessing
from roma.errors import CheckpointError, EvaluationError
from roma.inference.job import TranslateOptions, TranslateReport
from roma.inference.outputs import translate_file
from roma.inference.sinks import VideoOptions, open_video
from roma.inference.sources import Frame, _video_times, rising_times
from roma.inference.translator import Translator, open_translator
from roma.models.generators.generator import Generator
from roma.models.generators.resnet import ResNetGenerator
from roma.models.generators.unet import UNetGenerator
from roma.training.snapshot import Snapshot, save_snapshot

CPU = torch.device("cpu")
BURSTY_PTS = [1000, 1040, 1050, 1200, 1201, 1400, 1440]  # variable rate


def frame_at(pts: int, time_base: Fraction = Fraction(1, 1000)) -> Frame:
    return Frame(picture=np.zeros((1, 1, 1), np.uint8), name=str(pts), pts=pts, time_base=time_base)


def write_video(path: Path, pts: list[int], *, width: int = 48, height: int = 32, level: int = 0) -> Path:
    """Frames whose gray level tells their number."""
    with open_video(path, VideoOptions(quality=1)) as sink:
        for number, time in enumerate(pts):
            sink.add(np.full((height, width, 3), level + 20 * number, np.uint8), frame_at(time))
    return path


def translate_video(translator: Translator, source: Path, out: Path, **how: Any) -> TranslateReport:
    return translate_file(translator, [source], out, how=TranslateOptions(**how))


def snapshot_of(generator: Generator, *, side_px: int, architecture: str = "resnet") -> Snapshot:
    config = TrainConfig(
        generator=GeneratorConfig(architecture=architecture, width=4, num_blocks=1),
        data=DataConfig(load_size_px=side_px, crop_size_px=side_px),
    )
    return Snapshot(weights=generator.state_dict(), step=5, config=config)


@pytest.fixture
def snapshot_file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    generator = ResNetGenerator(width=4, num_blocks=1, init_gain=1.0)
    path = tmp_path / "snapshot.pt"
    save_snapshot(path, snapshot_of(generator, side_px=16))
    return path


@pytest.fixture
def translator(snapshot_file: Path) -> Translator:
    return open_translator(snapshot_file, CPU)


@pytest.mark.parametrize("side_by_side", [False, True])
def test_translation_keeps_size_count_and_times_of_a_variable_rate_video(
    translator: Translator, tmp_path: Path, side_by_side: bool
):
    source = write_video(tmp_path / "in.mp4", BURSTY_PTS)
    report = translate_video(translator, source, tmp_path / "out.mp4", side_by_side=side_by_side)
    before, after = probe(source), probe(tmp_path / "out.mp4")
    assert [float(pts * before.time_base) for pts in before.pts] == pytest.approx(
        [(pts - BURSTY_PTS[0]) / 1000 for pts in BURSTY_PTS]
    )
    assert [pts * after.time_base * 1000 for pts in after.pts.tolist()] == [0, 40, 50, 200, 201, 400, 440]
    assert (after.num_frames, after.num_hidden) == (7, 0)
    assert (after.width_px, after.height_px) == (96 if side_by_side else 48, 32)
    assert (report.num_frames, report.num_missing) == (7, 0)


def timed_video(path: Path, pts: list[int], *, pixel_format: str = "gray") -> Path:
    """Lossless gray frames at any times, also equal and negative ones; levels of 8 bits, or counts."""
    dtype = np.dtype(np.uint8 if pixel_format == "gray" else np.uint16)
    with av.open(str(path), "w", container_options={"avoid_negative_ts": "disabled"}) as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, pixel_format
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for number, time in enumerate(pts):
            picture = np.full((32, 48), 100 + number, dtype)
            frame = av.VideoFrame.from_ndarray(picture, format=pixel_format)
            frame.pts, frame.time_base = number, stream.time_base
            for packet in stream.encode(frame):
                packet.pts = packet.dts = time
                container.mux(packet)
    return path


def shown_by_ffmpeg(path: Path) -> np.ndarray:
    """The first picture as a player shows it, u8 [H, W, 3]."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        height, width = (frame.height, frame.width) if frame.rotation % 180 == 0 else (frame.width, frame.height)
    words = ["-v", "error", "-i", str(path), "-frames:v", "1", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *words], capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.uint8).reshape(height, width, 3)


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_rotation_is_kept_and_the_input_is_shown_to_the_left(translator: Translator, tmp_path: Path, rotation: int):
    stored = np.full((32, 48, 3), 30, np.uint8)
    stored[:8, :12] = 220  # one corner
    source = tmp_path / "in.mp4"
    with open_video(source, VideoOptions(quality=1, rotation_deg=rotation)) as sink:
        sink.add(stored, frame_at(0, Fraction(1, 25)))
    assert abs(probe(source).rotation_deg) == abs(rotation)
    translate_video(translator, source, tmp_path / "out.mp4")
    after = probe(tmp_path / "out.mp4")
    assert (after.rotation_deg, after.width_px, after.height_px) == (probe(source).rotation_deg, 48, 32)
    before = shown_by_ffmpeg(source)
    # Turning the stored picture by hand, counter-clockwise, gives what the player shows.
    assert np.abs(before.astype(int) - np.rot90(stored, rotation // 90)).mean() < 3
    assert shown_by_ffmpeg(tmp_path / "out.mp4").shape == before.shape
    translate_video(translator, source, tmp_path / "both.mp4", side_by_side=True)
    both = shown_by_ffmpeg(tmp_path / "both.mp4")
    assert both.shape == (before.shape[0], 2 * before.shape[1], 3)
    assert np.abs(both[:, : before.shape[1]].astype(int) - before).mean() < 4


@pytest.mark.parametrize("side_by_side", [False, True])
def test_the_shape_of_pixels_is_kept(translator: Translator, tmp_path: Path, side_by_side: bool):
    wide = Fraction(16, 11)
    with open_video(tmp_path / "in.mp4", VideoOptions(pixel_aspect=wide)) as sink:
        sink.add(np.zeros((32, 48, 3), np.uint8), frame_at(0, Fraction(1, 25)))
    translate_video(translator, tmp_path / "in.mp4", tmp_path / "out.mp4", side_by_side=side_by_side)
    for name in ("in.mp4", "out.mp4"):
        with av.open(str(tmp_path / name)) as container:
            assert container.streams.video[0].sample_aspect_ratio == wide


@pytest.mark.parametrize(
    ("pts", "expected", "parts"),
    [
        ([0, 0, 0, 40, 40, 44, 45], [0, 1, 2, 120, 121, 132, 135], 3),
        ([-9, -9, -8, -8, 5], [-18, -17, -16, -15, 10], 2),
        ([2, 2, 2, 3, 3], [6, 7, 8, 9, 10], 3),
        ([0, 40, 80], [0, 40, 80], 1),
        ([7], [7], 1),
    ],
)
def test_equal_times_share_a_unit_and_all_later_times_stay(pts: list[int], expected: list[int], parts: int):
    times, unit = rising_times(np.array(pts), Fraction(1, 1000))
    assert (times.tolist(), unit) == (expected, Fraction(1, 1000 * parts))


def test_a_clock_that_is_too_coarse_for_the_frames_makes_the_translation_no_slower(
    translator: Translator, tmp_path: Path
):
    source = timed_video(tmp_path / "in.mkv", [number // 2 for number in range(40)])  # 2,000 fps in ms
    translate_video(translator, source, tmp_path / "out.mp4")
    after = probe(tmp_path / "out.mp4")
    assert [time * after.time_base for time in after.pts.tolist()] == [Fraction(number, 2000) for number in range(40)]


def test_a_unit_that_no_mp4_holds_is_left_for_milliseconds(tmp_path: Path):
    clip = open_clip([timed_video(tmp_path / "in.mkv", [0, 0, 40])])
    assert [times.tolist() for times in _video_times(clip)[:1]] == [[0, 1, 80]]
    fine = dataclasses.replace(clip, pts=clip.pts * 1_500_000, time_base=Fraction(1, 1_500_000_000))
    times, unit = _video_times(fine)
    assert (times.tolist(), unit) == ([0, 1, 80], Fraction(1, 2000))


@pytest.mark.parametrize("hours", [30])
def test_a_long_pause_leaves_room_for_equal_times(tmp_path: Path, hours: int):
    pause = hours * 3_600_000
    times, unit = _video_times(open_clip([timed_video(tmp_path / "in.mkv", [0, 0, pause])]))
    assert (times.tolist(), unit) == ([0, 1, 2 * pause], Fraction(1, 2000))


@pytest.mark.parametrize(
    "pts",
    [
        [0, 0, 0, 500, 500],
        [90_000_000, 90_000_040, 90_000_040, 90_000_080, 90_000_120],  # a recorder that runs for 25 h
        [-120, -80, -40, 0, 40],
    ],
)
def test_the_translation_begins_at_0_and_its_times_rise(translator: Translator, tmp_path: Path, pts: list[int]):
    source = timed_video(tmp_path / "in.mkv", pts)
    assert [round(1000 * float(time * probe(source).time_base)) for time in probe(source).pts.tolist()] == pts
    report = translate_video(translator, source, tmp_path / "out.mp4")
    assert report.num_frames == 5
    after = probe(tmp_path / "out.mp4")
    found = [float(time * after.time_base) for time in after.pts.tolist()]
    assert found[0] == 0
    assert all(first < second for first, second in itertools.pairwise(found))
    assert found == pytest.approx([(time - pts[0]) / 1000 for time in pts], abs=0.0025)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.duration is not None
        assert container.duration < 1_000_000  # microseconds: no empty stretch before the first frame


@pytest.mark.parametrize("hours", [5, 9, 30])
def test_a_long_pause_stays_as_long(translator: Translator, tmp_path: Path, hours: int):
    # In units of 1/90000 s, 9 h are more than 31 bits.
    pause = hours * 3_600_000
    source = timed_video(tmp_path / "in.mkv", [0, 40, pause, pause + 40])
    clip = open_clip([source])
    fine = dataclasses.replace(clip, pts=clip.pts * 90, time_base=Fraction(1, 90_000))
    times, time_base = _video_times(fine)
    with open_video(tmp_path / "out.mp4", VideoOptions()) as sink:
        for time in times.tolist():
            sink.add(np.zeros((32, 48, 3), np.uint8), frame_at(time, time_base))
    after = probe(tmp_path / "out.mp4")
    assert [1000 * time * after.time_base for time in after.pts.tolist()] == [0, 40, pause, pause + 40]


def test_a_pause_that_no_mp4_holds_is_refused(translator: Translator, tmp_path: Path):
    source = timed_video(tmp_path / "in.mkv", [0, 40, 180_000_000])
    with pytest.raises(EvaluationError, match=r"in\.mkv: pauses for 50 h, more than the 37 h .*; cut it at the pause"):
        translate_video(translator, source, tmp_path / "out.mp4")


@pytest.mark.parametrize("side_by_side", [False, True])
def test_counts_of_16_bits_are_refused_before_anything_is_written(
    translator: Translator, tmp_path: Path, side_by_side: bool
):
    source = timed_video(tmp_path / "in.mkv", [0, 40], pixel_format="gray16le")
    with pytest.raises(
        EvaluationError, match=r"in\.mkv: holds counts of more than 8 bits, and the snapshot has no tone for them"
    ) as caught:
        translate_video(translator, source, tmp_path / "new" / "out.mp4", side_by_side=side_by_side)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mkv", "snapshot.pt"]


def test_a_colon_in_the_name_of_the_output_is_no_protocol(
    translator: Translator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = write_video(tmp_path / "in.mp4", [0, 40])
    monkeypatch.chdir(tmp_path)
    for name in ("day 12:30.mp4", "2021-11-03T12:30:00.mp4", "file:x.mp4"):
        translate_video(translator, source, Path(name))
        assert probe(tmp_path / name).num_frames == 2


def test_a_folder_of_the_output_that_is_a_file_is_one_line(translator: Translator, tmp_path: Path):
    source = write_video(tmp_path / "in.mp4", [0, 40])
    with pytest.raises(EvaluationError, match=r"in\.mp4/out\.mp4: cannot be written: "):
        translate_video(translator, source, source / "out.mp4")


def test_side_by_side_shows_the_input_on_the_left(translator: Translator, tmp_path: Path):
    source = write_video(tmp_path / "in.mp4", list(range(0, 240, 40)), level=40)
    translate_video(translator, source, tmp_path / "out.mp4", side_by_side=True)
    clip = open_clip([tmp_path / "out.mp4"])
    left = [
        float(picture[:, :40].mean())
        for batch in read_frames(clip, FrameRange(start_frame=0, stop_frame=6), color="gray")
        for picture in batch.data
    ]
    assert left == pytest.approx([40, 60, 80, 100, 120, 140], abs=4)


def test_a_unet_is_rebuilt_from_its_snapshot_and_works_at_multiples_of_its_own(tmp_path: Path):
    torch.manual_seed(0)
    generator = UNetGenerator(width=4, num_blocks=1)
    path = tmp_path / "unet.pt"
    save_snapshot(path, snapshot_of(generator, side_px=32, architecture="unet"))
    translator = open_translator(path, CPU)
    assert isinstance(translator.generator, UNetGenerator)
    frames = torch.rand(1, 3, 32, 32) * 2 - 1
    assert torch.equal(translator.generator(frames), generator(frames))
    assert translator.working_size(100, 50) == (96, 48)
    assert translator.working_size(20, 20) == (32, 32)


def test_native_size_is_cut_to_multiples_of_four_for_the_network_alone(translator: Translator, tmp_path: Path):
    source = write_video(tmp_path / "in.mp4", [0, 40], width=50, height=38)
    report = translate_video(translator, source, tmp_path / "out.mp4", native=True)
    assert (report.width_px, report.height_px) == (50, 38)


def test_translate_is_the_generator_on_the_resized_frame(translator: Translator):
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 1), dtype=np.uint8)
    found = translator.translate(frames, size=(16, 16))
    source = (torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1).expand(-1, 3, -1, -1)
    expected = ((translator.generator(source) + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1)
    assert found.shape == (3, 16, 16, 3)
    assert np.abs(found.astype(int) - expected.numpy()).max() <= 1


def test_bad_input_leaves_no_output(translator: Translator, tmp_path: Path):
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    with pytest.raises(VideoDecodeError, match=r"text\.mp4: not a video that can be opened"):
        translate_video(translator, text, tmp_path / "out.mp4")
    with pytest.raises(EvaluationError, match=r"ends in \.avi, expected"):
        translate_video(translator, text, tmp_path / "out.avi")
    source = write_video(tmp_path / "in.mp4", [0, 40])
    with pytest.raises(EvaluationError, match="is the input itself"):
        translate_video(translator, source, source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "snapshot.pt", "text.mp4"]


def test_weights_that_do_not_fit_are_named(tmp_path: Path, snapshot_file: Path):
    values = torch.load(snapshot_file, weights_only=True)
    values["config"]["generator"]["num_blocks"] = 2
    torch.save(values, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other\.pt: its weights do not fit its generator"):
        open_translator(tmp_path / "other.pt", CPU)


def test_writer_refuses_times_that_do_not_rise(tmp_path: Path):
    with pytest.raises(ValueError, match="times must rise, got pts 4 after 4"):
        write_video(tmp_path / "x.mp4", [1, 5, 5])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fit", "facts", "expected"),
    [
        ("square", Preprocessing(), (64, 64)),
        ("square", Preprocessing(is_known=True, picture_size=(96, 80)), (64, 64)),
        ("square", Preprocessing(is_known=True, picture_size=(80, 80), fit="crop"), (80, 64)),  # 640x512, by its height
        ("square", Preprocessing(is_known=True, picture_size=(80, 80), fit="pad"), (64, 48)),
        ("crop", Preprocessing(), (640, 512)),
        ("crop", Preprocessing(is_known=True, picture_size=(320, 256)), (320, 256)),
        ("crop", Preprocessing(is_known=True, picture_size=(320, 320), fit="crop"), (400, 320)),
    ],
)
def test_things_are_as_large_as_in_the_training(
    fit: Literal["square", "crop"], facts: Preprocessing, expected: tuple[int, int]
):
    generator = UNetGenerator(width=4, num_blocks=1)
    plain = snapshot_of(generator, side_px=64, architecture="unet")
    config = dataclasses.replace(plain.config, data=dataclasses.replace(plain.config.data, fit=fit))
    snapshot = dataclasses.replace(plain, config=config, preprocessing=facts)
    translator = Translator(snapshot=snapshot, generator=generator, device=CPU)
    assert translator.trained_size(640, 512) == expected
