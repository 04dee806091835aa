"""Tiny clips whose frames carry their index in their pixels, so that a wrong frame is proven from content; indexes without shards.

A picture's upper half is a barcode: twelve cells a row, the index in binary above, its complement below. It survives H.264, JPEG,
gray and any resizing. The lower half is a coloured ramp that moves by one step a frame, so that every frame needs real coding.
"""

import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from processes import PATIENCE_S

from infraredcity.clips import Clip
from infraredcity.shards.index import SampleIndex, ShardInfo, no_duplicates, run_ids

BITS = 12
WIDTH, HEIGHT = 96, 64
FPS = 25
GOP = 12
H264 = ("-c:v", "libx264", "-preset", "veryfast", "-crf", "18", "-threads", "1", "-pix_fmt", "yuv420p", "-g", str(GOP),
        "-keyint_min", str(GOP), "-sc_threshold", "0", "-bf", "2", "-b_strategy", "0")  # fmt: skip
FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()

LITE_RECIPE = """
name = "tiny"
run_frames = 8
guard_frames = 5
window_frames = 2
[[cells]]
scene = "city"
clip = "city_clear"
train = 16
test = 8
[[cells]]
scene = "city"
clip = "city_day"
train = 20
"""
"""What `make-lite --recipe` takes of the two clips of the fixture `extracted`."""


def picture(index: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """u8 [height, width, 3]: frame number `index`, below 4,096."""
    cells = np.array([index >> bit & 1 for bit in range(BITS)], bool)
    rows = np.stack([cells, ~cells])
    y = np.arange(height // 2) * 4 // height
    x = np.arange(width) * BITS // width
    upper = np.where(rows[y][:, x], 224, 32).astype(np.uint8)
    ramp = (np.arange(width) * 2 + index * 3)[None, :] % 160 + 48
    lower = np.broadcast_to(ramp, (height - height // 2, width)).astype(np.uint8)
    colors = np.stack([lower, 255 - lower, np.full_like(lower, index % 128 + 64)], axis=2)
    return np.concatenate([np.repeat(upper[:, :, None], 3, axis=2), colors])


def barcode(frame: np.ndarray) -> int:
    """The index that u8 [H, W, C] carries, or -1 when its two rows do not agree."""
    height, width = frame.shape[:2]
    gray = frame.astype(np.float64).mean(axis=2)
    xs = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
    upper, lower = gray[height // 8, xs] > 128, gray[height * 3 // 8, xs] > 128
    if not np.array_equal(upper, ~lower):
        return -1
    return int(sum(int(bit) << place for place, bit in enumerate(upper)))


def barcodes(frames: Iterable[np.ndarray]) -> list[int]:
    return [barcode(frame) for frame in frames]


def ffmpeg(*arguments: str | Path, data: bytes | None = None) -> bytes:
    """Run the static ffmpeg; its stdout."""
    command = [FFMPEG, "-hide_banner", "-loglevel", "error", "-nostdin", "-y", *map(str, arguments)]
    done = subprocess.run(command, input=data, capture_output=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def write_clip(
    path: Path,
    indices: Sequence[int],
    *options: str,
    width: int = WIDTH,
    height: int = HEIGHT,
    make: Callable[[int, int, int], np.ndarray] = picture,
) -> Path:
    """Encode the pictures of some indices, in that order, 25 a second; `options` stand before the output's name."""
    raw = b"".join(make(index, width, height).tobytes() for index in indices)
    source = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(FPS), "-i", "-")
    ffmpeg(*source, *(options or H264), path, data=raw)
    return path


def judged(path: Path, pixel_format: str = "gray") -> np.ndarray:
    """u8 [N, H, W, C], what ffmpeg shows, neither dropped nor retimed; the picture is 96x64."""
    channels = 1 if pixel_format == "gray" else 3
    raw = ffmpeg(
        "-copyts", "-noautorotate", "-i", path, "-map", "0:v:0", "-fps_mode", "passthrough", "-enc_time_base", "demux",
        "-pix_fmt", pixel_format, "-f", "rawvideo", "-",
    )  # fmt: skip
    return np.frombuffer(raw, np.uint8).reshape(-1, HEIGHT, WIDTH, channels)


@dataclass(frozen=True)
class Shelf:
    """One clip of each class, made when first asked for."""

    folder: Path

    @cached_property
    def h264(self) -> Path:
        """50 frames, B-frames, a key frame every 12."""
        return write_clip(self.folder / "h264.mp4", range(50), *H264)

    @cached_property
    def open_gop(self) -> Path:
        """50 frames in Matroska whose groups of pictures lean on the one before."""
        return write_clip(self.folder / "open.mkv", range(50), *H264, "-x264-params", "open-gop=1")

    @cached_property
    def transport_stream(self) -> Path:
        return write_clip(self.folder / "stream.ts", range(50), *H264)

    @cached_property
    def avi(self) -> Path:
        """50 frames of MPEG-4 with B-frames."""
        options = ("-c:v", "mpeg4", "-q:v", "2", "-bf", "2", "-g", str(GOP), "-threads", "1")
        return write_clip(self.folder / "old.avi", range(50), *options)

    @cached_property
    def variable(self) -> Path:
        """50 frames whose times in 1/25 s are 2 n + n % 2: one step of 3, one of 1, and so on."""
        timing = ("-vf", "setpts=2*N+mod(N\\,2)", "-fps_mode", "passthrough")
        return write_clip(self.folder / "variable.mp4", range(50), *H264, *timing)

    @cached_property
    def cut(self) -> Path:
        """What is left of `h264` from frame 17 on: cut by copying packets, so that an edit list hides what stands before."""
        path = self.folder / "cut.mp4"
        ffmpeg("-ss", f"{17 / FPS}", "-i", self.h264, "-c", "copy", path)
        return path

    @cached_property
    def gray(self) -> Path:
        """50 frames of one plane, as a thermal camera writes them."""
        return write_clip(self.folder / "gray.mp4", range(50), *H264, "-pix_fmt", "gray")

    @cached_property
    def deep(self) -> Path:
        """5 frames of 16-bit gray."""
        return write_clip(self.folder / "deep.mkv", range(5), "-c:v", "ffv1", "-pix_fmt", "gray16le")

    @cached_property
    def one_frame(self) -> Path:
        return write_clip(self.folder / "one.mp4", [7], *H264)

    @cached_property
    def rotated(self) -> Path:
        """`h264` that asks players to turn it by 90 degrees."""
        path = self.folder / "rotated.mp4"
        ffmpeg("-display_rotation", "90", "-i", self.h264, "-c", "copy", path)
        return path

    @cached_property
    def truncated(self) -> Path:
        """60 % of the bytes of an mp4 whose table of contents stands in front."""
        whole = write_clip(self.folder / "whole.mp4", range(50), *H264, "-movflags", "+faststart")
        data = whole.read_bytes()
        path = self.folder / "truncated.mp4"
        path.write_bytes(data[: len(data) * 6 // 10])
        return path

    @cached_property
    def corrupted(self) -> Path:
        """An AVI of pictures that lean on nothing, with two of them wiped: 20 and 21 cannot be decoded, the rest is whole."""
        whole = write_clip(self.folder / "stills.avi", range(40), "-c:v", "mjpeg", "-q:v", "3", "-pix_fmt", "yuvj420p")
        data = bytearray(whole.read_bytes())
        starts = _positions(bytes(data), b"00dc", start=data.index(b"movi"), stop=data.index(b"idx1"))
        for number in (20, 21):
            begin, end = starts[number] + 8, starts[number + 1] - 2
            data[begin:end] = bytes(end - begin)
        path = self.folder / "corrupted.avi"
        path.write_bytes(data)
        return path

    @cached_property
    def headless(self) -> Path:
        """An mp4 cut before its table of contents: nothing can open it."""
        data = self.h264.read_bytes()
        path = self.folder / "headless.mp4"
        path.write_bytes(data[: data.rindex(b"moov") - 4])
        return path

    @cached_property
    def text(self) -> Path:
        path = self.folder / "letter.mp4"
        path.write_text("Dear reader, this is no video.\n" * 40)
        return path

    @cached_property
    def empty(self) -> Path:
        path = self.folder / "empty.mp4"
        path.touch()
        return path

    @cached_property
    def sound(self) -> Path:
        """A file that holds sound alone."""
        path = self.folder / "sound.mp4"
        ffmpeg("-f", "lavfi", "-i", "anullsrc", "-t", "1", path)
        return path

    @cached_property
    def chunks(self) -> tuple[Path, Path]:
        """A recording in two files: frames 0 to 29, and 30 to 49."""
        return (
            write_clip(self.folder / "chunk_1.mp4", range(30), *H264),
            write_clip(self.folder / "chunk_2.mp4", range(30, 50), *H264),
        )

    @cached_property
    def long(self) -> Path:
        """1,200 frames of 320x240, for runs that are killed."""
        options = (*H264, "-preset", "ultrafast", "-bf", "2")
        return write_clip(self.folder / "long.mp4", range(1200), *options, width=320, height=240)


def _positions(data: bytes, tag: bytes, *, start: int, stop: int) -> list[int]:
    found, place = [], data.find(tag, start)
    while 0 <= place < stop:
        found.append(place)
        place = data.find(tag, place + 1)
    return found


def clip_of(path: Path, clip_id: str = "city_clear", **facts: Any) -> Clip:
    values: dict[str, Any] = {"scene": "city", "weather": "clear", "modality": "infrared", "time_of_day": "night"}
    return Clip(clip_id=clip_id, paths=(path,), **(values | facts))


def sample_index(
    num_frames: int,
    *,
    clip_id: str = "city_clear",
    frame_step: int = 1,
    missing: Iterable[int] = (),
    samples_per_shard: int = 1000,
) -> SampleIndex:
    """The index of a clip that was never filmed: `num_frames` frames at 25 per second, less the missing ones."""
    gone = set(missing)
    frames = np.array([frame for frame in range(0, num_frames, frame_step) if frame not in gone], np.int64)
    count = len(frames)
    numbers = np.arange(count)
    shard = numbers // samples_per_shard
    hashes = np.zeros((count, 32), np.uint8)
    hashes[:, :8] = frames.astype("<u8").view(np.uint8).reshape(count, 8)
    return SampleIndex(
        clips=(clip_id,),
        frame_steps=(frame_step,),
        shards=tuple(
            ShardInfo(
                name=f"made-up-{clip_id}-{number:06d}.tar",
                num_samples=int(size),
                size_bytes=2048 * count + 1024,
                sha256="0" * 64,
            )
            for number, size in enumerate(np.bincount(shard))
        ),
        image_format="jpg",
        clip=np.zeros(count, np.int32),
        frame_index=frames,
        pts=frames * 512,
        run_id=run_ids(frames, frame_step=frame_step),
        mark=np.zeros(count, np.uint8),
        shard=shard.astype(np.int32),
        offset=numbers * 2048 + 512,
        size=np.full(count, 100, np.int64),
        span=np.full(count, 2048, np.int64),
        width=np.full(count, 96, np.int32),
        height=np.full(count, 64, np.int32),
        sha256=hashes,
        dup_of=no_duplicates(count),
    )
