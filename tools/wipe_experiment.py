"""Wipe bytes of small clips of many codecs, and count the frames that are wrong and yet not marked as suspect.

docs/extraction.md states what this measures. Every kind is coded twice, a test picture and a noisy moving gray one, with small
packets (160x120), so that a wipe of 300 bytes ends or spans packets instead of lying inside one. The truth is the whole file,
by time (by frame number in AVI, which has no times). Prints a table; `--json` keeps the counts.
"""

import json
import random
import subprocess
import tempfile
from pathlib import Path

import click
import imageio_ffmpeg
import numpy as np

from infraredcity import video
from infraredcity.errors import InfraredCityError

WIDTH, HEIGHT, NUM_FRAMES, GOP = 160, 120, 120, 24
WIPED_BYTES = 300
_H264 = (f"-c:v libx264 -g {GOP} -keyint_min {GOP} -sc_threshold 0 -threads 1 -pix_fmt yuv420p -crf 30").split()
_HEVC = (
    f"-c:v libx265 -x265-params keyint={GOP}:min-keyint={GOP}:scenecut=0:pools=1:frame-threads=1:log-level=none "
    "-pix_fmt yuv420p -crf 32"
).split()
_VPX = f"-threads 1 -g {GOP} -pix_fmt yuv420p -b:v 60k -deadline realtime -cpu-used 8".split()
KINDS: dict[str, tuple[str, list[str]]] = {
    "h264 mp4": ("mp4", [*_H264, "-bf", "0"]),
    "h264 mp4, B-frames": ("mp4", [*_H264, "-bf", "3"]),
    "h264 ts": ("ts", [*_H264, "-bf", "0"]),
    "h264 ts, B-frames": ("ts", [*_H264, "-bf", "3"]),
    "h264 mkv, B-frames": ("mkv", [*_H264, "-bf", "3"]),
    "h264 mkv, open groups": ("mkv", [*_H264, "-bf", "3", "-x264-params", "open-gop=1"]),
    "h264 mp4, intra refresh": ("mp4", [*_H264, "-bf", "0", "-x264-params", "intra-refresh=1"]),
    "h264 ts, intra refresh": ("ts", [*_H264, "-bf", "0", "-x264-params", "intra-refresh=1"]),
    "hevc mp4": ("mp4", [*_HEVC, "-tag:v", "hvc1"]),
    "hevc ts": ("ts", _HEVC),
    "mpeg4 avi": ("avi", f"-c:v mpeg4 -q:v 8 -bf 0 -g {GOP} -threads 1".split()),
    "mpeg4 avi, B-frames": ("avi", f"-c:v mpeg4 -q:v 8 -bf 2 -g {GOP} -threads 1".split()),
    "mpeg2 ts, B-frames": ("ts", f"-c:v mpeg2video -q:v 12 -bf 2 -g {GOP} -threads 1".split()),
    "vp8 webm": ("webm", ["-c:v", "libvpx", *_VPX]),
    "vp9 webm": ("webm", ["-c:v", "libvpx-vp9", *_VPX]),
    "mjpeg avi": ("avi", ["-c:v", "mjpeg", "-q:v", "12", "-pix_fmt", "yuvj420p", "-threads", "1"]),
}


def _noise() -> bytes:
    """A gray scene that moves by two pixels a frame under noise, with a disc that crosses it."""
    generator = np.random.default_rng(5)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    base = 110 + 50 * np.sin(x / 9.0) * np.cos(y / 13.0)
    frames = []
    for number in range(NUM_FRAMES):
        picture = np.roll(base, 2 * number, axis=1)
        picture[(x - 20 - number) ** 2 + (y - 60 - 30 * np.sin(number / 9)) ** 2 < 150] = 230
        frames.append(np.clip(picture + generator.normal(0, 4, picture.shape), 0, 255).astype(np.uint8).tobytes())
    return b"".join(frames)


def _write(path: Path, options: list[str], *, is_noise: bool) -> None:
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y"]
    size = f"{WIDTH}x{HEIGHT}"
    if is_noise:
        source = ["-f", "rawvideo", "-pix_fmt", "gray", "-s", size, "-r", "25", "-i", "-"]
        subprocess.run([*ffmpeg, *source, *options, str(path)], input=_noise(), check=True)
    else:
        source = ["-f", "lavfi", "-i", f"testsrc2=s={size}:r=25", "-frames:v", str(NUM_FRAMES)]
        subprocess.run([*ffmpeg, *source, *options, str(path)], check=True)


def _shown(path: Path) -> tuple[video.ClipVideo, list[tuple[int, int, bytes, bool]]]:
    """The clip, and index, time, picture and mark of each frame."""
    clip = video.open_clip([path])
    everything = video.FrameRange(start_frame=0, stop_frame=clip.num_frames)
    frames = [(f.frame_index, f.pts, f.picture("rgb").tobytes(), f.is_suspect) for f in video.decode(clip, everything)]
    return clip, frames


@click.command()
@click.option("--files", default=15, show_default=True, help="Files of each kind.")
@click.option("--seed", default="0", show_default=True, help="Another seed wipes other places.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the counts there.")
def main(files: int, seed: str, json_path: Path | None) -> None:
    """Count wrong frames without a mark."""
    rows = {}
    click.echo(
        f"{'kind':24} {'refused':>8} {'wrong, no mark':>15} {'in files':>9} {'right, marked':>14} {'marked':>7} {'shown':>7}"
    )
    with tempfile.TemporaryDirectory() as scratch:
        for kind, (suffix, options) in KINDS.items():
            count = dict.fromkeys(
                ("refused", "wrong_unmarked", "files_with_wrong", "right_marked", "marked", "shown"), 0
            )
            for number in range(files):
                path = Path(scratch) / f"{kind.replace(' ', '_')}-{number % 2}.{suffix}"
                if not path.exists():
                    _write(path, options, is_noise=number % 2 == 1)
                clip, whole = _shown(path)
                if any(marked for *_, marked in whole) or clip.suspect:
                    raise SystemExit(f"{path.name}: an undamaged file is marked: {clip.suspect}")
                name = 1 if clip.files[0].packet_pts.min() > video.NO_TIME else 0
                truth = {frame[name]: frame[2] for frame in whole}
                data = bytearray(path.read_bytes())
                at = random.Random(f"{seed}{kind}{number}").randrange(len(data) // 10, len(data) * 9 // 10)
                data[at : at + WIPED_BYTES] = bytes(WIPED_BYTES)
                wiped = Path(scratch) / f"wiped.{suffix}"
                wiped.write_bytes(data)
                try:
                    _, got = _shown(wiped)
                except InfraredCityError:
                    count["refused"] += 1
                    continue
                wrong = sum(not frame[3] and truth.get(frame[name]) != frame[2] for frame in got)
                count["wrong_unmarked"] += wrong
                count["files_with_wrong"] += wrong > 0
                count["right_marked"] += sum(frame[3] and truth.get(frame[name]) == frame[2] for frame in got)
                count["marked"] += sum(frame[3] for frame in got)
                count["shown"] += len(got)
            rows[kind] = count
            click.echo(
                f"{kind:24} {count['refused']:8} {count['wrong_unmarked']:15} {count['files_with_wrong']:9} "
                f"{count['right_marked']:14} {count['marked']:7} {count['shown']:7}"
            )
    if json_path is not None:
        json_path.write_text(
            json.dumps({"files_of_each_kind": files, "seed": seed, "kinds": rows}, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
