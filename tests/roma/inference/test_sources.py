import io
import socket
import subprocess
import time
from fractions import Fraction
from pathlib import Path

import av  # noqa: TID251 - pictures as no writer of ours makes them
import imageio_ffmpeg
import numpy as np
import pytest
from processes import PATIENCE_S, started
from synthetic import Shelf

from infraredcity.errors import InfraredCityError, VideoDecodeError
from infraredcity.stills.formats import encode
from infraredcity.video.live import RawFormat, open_pipe
from roma.errors import EvaluationError
from roma.inference.sources import (
    Frame,
    PicturesSource,
    ShardSource,
    SourceOptions,
    StreamSource,
    VideoSource,
    find_inputs,
    is_live,
    open_source,
    read_picture,
)

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


def picture_of(level: int, *, height: int = 24, width: int = 32) -> np.ndarray:
    return np.full((height, width, 1), level, np.uint8)


def write_pictures(folder: Path, levels: list[int], suffix: str = "png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, level in enumerate(levels):
        (folder / f"night-{number}.{suffix}").write_bytes(encode(picture_of(level), "png"))
    return folder


def write_with_ffmpeg(path: Path, pictures: np.ndarray, pixel_format: str, *words: str) -> Path:
    height, width = pictures.shape[1:3]
    command = ["-y", "-v", "error", "-f", "rawvideo", "-video_size", f"{width}x{height}", "-pix_fmt", pixel_format]
    command += ["-framerate", "25", "-i", "-", *words, str(path)]
    subprocess.run([FFMPEG, *command], input=pictures.tobytes(), check=True)
    return path


def levels_of(frames: list[Frame]) -> list[int]:
    return [round(float(frame.picture.mean())) for frame in frames]


def test_pictures_of_a_folder_come_in_the_natural_order_of_their_names(tmp_path: Path):
    folder = write_pictures(tmp_path / "night", list(range(0, 120, 10)))
    (group,) = find_inputs([str(folder)])
    frames = list(open_source(group, SourceOptions()).frames())
    assert levels_of(frames) == list(range(0, 120, 10))  # night-2 before night-10
    assert [frame.name for frame in frames][:2] == ["night-0", "night-1"]


def test_start_and_stop_choose_frames_of_every_kind_of_source(tmp_path: Path, extracted: Path, shelf: Shelf):
    folder = write_pictures(tmp_path / "night", list(range(0, 120, 10)))
    some = SourceOptions(start=2, stop=5)
    (group,) = find_inputs([str(folder)])
    assert levels_of(list(open_source(group, some).frames())) == [20, 30, 40]
    shards = list(open_source((str(extracted / "city_clear"),), some).frames())
    assert [frame.name for frame in shards] == [f"city_clear_{number:08d}" for number in (2, 3, 4)]
    video = list(open_source((str(shelf.h264),), some).frames())
    assert [frame.name for frame in video] == [f"{shelf.h264.stem}_{number:08d}" for number in (2, 3, 4)]
    with pytest.raises(EvaluationError, match=r"holds 12 pictures, none from --start 50 on"):
        open_source(group, SourceOptions(start=50))


def test_a_picture_of_16_bits_keeps_its_counts_as_png_and_as_tiff(tmp_path: Path):
    counts = np.arange(7000, 7000 + 24 * 32, dtype=np.uint16).reshape(24, 32, 1)
    (tmp_path / "x.png").write_bytes(encode(counts, "png16"))
    tiff = write_with_ffmpeg(tmp_path / "x.tiff", counts[None], "gray16le", "-pix_fmt", "gray16le")
    for path in (tmp_path / "x.png", tiff):
        assert np.array_equal(read_picture(path), counts)
    levels = write_with_ffmpeg(tmp_path / "y.tif", picture_of(90)[None], "gray")
    assert np.array_equal(read_picture(levels), picture_of(90))


def test_a_folder_of_videos_stands_for_each_and_other_files_in_it_are_left_out(tmp_path: Path, shelf: Shelf):
    for name in ("b.mp4", "a.mp4"):
        (tmp_path / name).write_bytes(shelf.h264.read_bytes())
    (tmp_path / "notes.txt").write_text("taken in march")
    assert find_inputs([str(tmp_path)]) == [(str(tmp_path / "a.mp4"),), (str(tmp_path / "b.mp4"),)]
    both = find_inputs([str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4")], is_one_recording=True)
    source = open_source(both[0], SourceOptions())
    assert isinstance(source, VideoSource)
    assert source.facts.num_frames == 2 * VideoSource([shelf.h264]).num_frames
    times = [frame.pts for frame in source.frames()]
    assert times == sorted(set(times))


def test_patterns_find_pictures_videos_and_shards(tmp_path: Path, extracted: Path, monkeypatch: pytest.MonkeyPatch):
    folder = write_pictures(tmp_path / "night", [10, 20, 30])
    assert find_inputs([str(folder / "night-[01].png")]) == [(str(folder / "night-0.png"), str(folder / "night-1.png"))]
    monkeypatch.chdir(tmp_path)
    assert find_inputs(["night/*.png"]) == [tuple(f"night/night-{number}.png" for number in range(3))]
    tars = str(extracted / "city_clear" / "*.tar")
    assert isinstance(open_source(find_inputs([tars])[0], SourceOptions()), ShardSource)
    with pytest.raises(EvaluationError, match=r"matches no file"):
        find_inputs([str(tmp_path / "none*.png")])


def test_inputs_that_cannot_be_translated_are_one_line(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match=r"empty: holds no video, no picture and no shard"):
        find_inputs([str(tmp_path / "empty")])
    with pytest.raises(EvaluationError, match=r"gone\.mp4: no such file or folder"):
        find_inputs([str(tmp_path / "gone.mp4")])
    (tmp_path / "x.jpg").write_text("no picture")
    with pytest.raises(InfraredCityError, match=r"x\.jpg: .*picture"):
        list(PicturesSource("x", [tmp_path / "x.jpg"]).frames())
    mixed = write_pictures(tmp_path / "mixed", [1])
    (mixed / "x.mp4").write_text("")
    with pytest.raises(EvaluationError, match=r"mixed: holds both pictures and other files, such as x\.mp4"):
        find_inputs([str(mixed)])


def y4m(pictures: np.ndarray, pixel_format: str = "gray") -> bytes:
    height, width = pictures.shape[1:3]
    command = [FFMPEG, "-v", "error", "-f", "rawvideo", "-video_size", f"{width}x{height}", "-pix_fmt", pixel_format]
    command += ["-framerate", "10", "-i", "-", "-f", "yuv4mpegpipe", "-strict", "-1", "-"]
    return subprocess.run(command, input=pictures.tobytes(), check=True, capture_output=True).stdout


@pytest.mark.parametrize("kind", ["gray", "gray16le"])
def test_a_pipe_of_y4m_gives_levels_or_counts(kind: str):
    dtype = np.uint8 if kind == "gray" else np.uint16
    pictures = np.stack([np.full((24, 32, 1), level, dtype) for level in (10, 20, 30)])
    stream = open_pipe(io.BytesIO(y4m(pictures, kind)))
    frames = list(StreamSource(stream, late="wait").frames())
    assert np.array_equal(np.stack([frame.picture for frame in frames]), pictures)
    assert [frame.pts * frame.time_base for frame in frames] == [Fraction(number, 10) for number in range(3)]


def test_a_raw_pipe_is_read_as_its_option_says():
    counts = np.arange(2 * 24 * 32, dtype="<u2").reshape(2, 24, 32, 1)
    raw = RawFormat.parse("32x24:gray16le@9")
    frames = list(StreamSource(open_pipe(io.BytesIO(counts.tobytes()), raw=raw), late="wait").frames())
    assert np.array_equal(np.stack([frame.picture for frame in frames]), counts)
    assert frames[1].pts * frames[1].time_base == Fraction(1, 9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("640x512", "expected WIDTHxHEIGHT:FORMAT@FPS"),
        ("640x512:gray17", "FFmpeg has no pixel format gray17"),
        ("0x512:gray", "sides must be 1 to"),
        ("4x4:gray@0", "frames per second must be above 0"),
    ],
)
def test_a_raw_format_that_is_none_is_named(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        RawFormat.parse(text)


def test_a_pipe_that_is_empty_or_no_video_is_one_line():
    for data in (b"", b"hello" * 100):
        with pytest.raises(VideoDecodeError, match=r"stdin: no stream that can be read .*expected YUV4MPEG2"):
            open_pipe(io.BytesIO(data))


def test_frames_that_come_too_fast_are_dropped_or_waited_for():
    pictures = np.stack([picture_of(level) for level in range(0, 200, 2)])
    waiting = StreamSource(open_pipe(io.BytesIO(y4m(pictures))), late="wait")
    assert levels_of(list(waiting.frames())) == list(range(0, 200, 2))
    dropping = StreamSource(open_pipe(io.BytesIO(y4m(pictures))), late="drop")
    frames = dropping.frames()
    first = next(frames)
    while dropping.num_dropped + 2 < len(pictures):  # nobody takes any while the thread reads them all
        time.sleep(0.01)
    rest = list(frames)
    assert levels_of([first, *rest])[-1] == 198  # the newest is there
    assert 1 + len(rest) + dropping.num_dropped == len(pictures)


def test_a_network_stream_is_translated_as_it_comes_and_a_stall_is_named(tmp_path: Path):
    pictures = np.stack([picture_of(level, height=48, width=64) for level in range(0, 200, 4)])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [FFMPEG, "-v", "error", "-f", "rawvideo", "-video_size", "64x48", "-pix_fmt", "gray", "-framerate", "25"]
    (tmp_path / "raw").write_bytes(pictures.tobytes())
    command += ["-i", str(tmp_path / "raw"), "-c:v", "mpeg4", "-q:v", "2", "-f", "mpegts"]
    with started([*command, f"tcp://127.0.0.1:{port}?listen=1"]) as sender:
        source = None
        for _ in range(600):
            try:
                source = open_source((f"tcp://127.0.0.1:{port}",), SourceOptions(late="wait", stall_s=60.0))
                break
            except VideoDecodeError:  # nobody listens there yet
                if sender.poll() is not None:
                    raise
        assert source is not None
        found = levels_of(list(source.frames()))
        assert sender.wait(PATIENCE_S) == 0
    assert len(found) >= 45
    assert found == sorted(found)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(VideoDecodeError, match=r"tcp://127\.0\.0\.1:\d+: (no stream within 1 s|cannot be opened)"):
            open_source((f"tcp://127.0.0.1:{port}",), SourceOptions(stall_s=1.0))


def test_a_codec_of_other_pictures_is_read(tmp_path: Path):
    with av.open(str(tmp_path / "x.bmp"), "w", format="image2") as container:
        stream = container.add_stream("bmp")
        stream.width, stream.height, stream.pix_fmt = 32, 24, "bgr24"
        frame = av.VideoFrame.from_ndarray(np.full((24, 32, 3), 77, np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert abs(int(read_picture(tmp_path / "x.bmp").mean()) - 77) <= 1


def test_a_file_on_the_memory_disk_is_no_camera():
    assert is_live("/dev/video0")
    assert not any(map(is_live, ["/dev/shm/night.mp4", "/dev/stdin", "/dev/fd/63", "night.mp4", "https://host/x.mp4"]))
