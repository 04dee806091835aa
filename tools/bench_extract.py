"""How fast `infraredcity extract` is: `python tools/bench_extract.py --json FILE [--rounds 5] [--scale 1.0] [--work DIR]`.

Three H.264 clips of moving, noisy scenery, made once and kept in the working folder: infrared 640x512 and colour 640x512 of 9,000
frames, colour 1280x720 of 2,000. Each round measures, one after the other, as whole processes with start-up and end:

ffmpeg     reference 1: `ffmpeg -i CLIP -q:v 2 %06d.jpg` into a fresh folder, by the static ffmpeg of imageio-ffmpeg or by the
           one that the variable FFMPEG names (versions differ by a factor of 1.5)
ours       `infraredcity extract` to shards at quality 95 into a fresh folder on the same disk
decode     a plain PyAV loop over every frame with frame threads, nothing converted; `--every 10` is compared with it
encode     300 pictures, spread over the clip, to jpg bytes on one core, and their conversion from the video's pixels
every 10   `infraredcity extract --every 10`
size 256   `infraredcity extract --size 256`

Reference 2, the limit, is the CPU time of decode and encode alone over the number of cores; once more with the conversion, which
an encoder of RGB or full-range gray cannot do without. Ratios are taken within a round; medians are printed, every round is in
FILE, the last line sums up. Everything runs on 2 cores, for which the targets are meant; --cores takes another number.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from measure import (
    INFRAREDCITY,
    Ran,
    ffmpeg_command,
    interruptible,
    machine_facts,
    machine_line,
    megabytes,
    run,
    succeed,
    table,
)

if TYPE_CHECKING:
    import numpy as np

FORMAT = "infraredcity-bench-extract-1"
RECIPE = "v1"
"""Part of the clips' names: another one makes new clips."""
FPS = 25
QUALITY = 95
EVERY = 10
SIZE_PX = 256
SAMPLE_PICTURES = 300
PIECE_FRAMES = 1000
"""A longer clip is a piece of so many frames, repeated by copying packets; the decoder decodes each of them."""
NOISE_LEVELS = 1.5
"""Standard deviation of the noise, which decides how dear decoding is. 1.5 gives 0.8 Mbit/s and 0.7 ms a frame of 640x512, much
like continuous street video (0.5 to 1.5 Mbit/s, 0.4 to 0.6 ms); 3 gives 2.5 Mbit/s and 1.7 ms, mostly decoding."""
LIMIT_TARGET = 0.85
EVERY_TARGET = 1.1
STARTUP_TARGET_S = 0.4
STARTUP_RUNS = 5
X264 = ("-c:v", "libx264", "-preset", "veryfast", "-crf", "20", "-g", "250", "-bf", "3", "-threads", "1")


@dataclass(frozen=True, kw_only=True)
class Footage:
    """A clip to extract, and how many times as fast as ffmpeg that should be."""

    name: str
    clip_id: str
    width_px: int
    height_px: int
    num_frames: int
    is_colour: bool
    ffmpeg_target: float

    def pieces(self, scale: float) -> tuple[int, int]:
        """How often a piece is repeated and its frames, for the clip at a scale."""
        frames = max(2 * EVERY, round(self.num_frames * scale))
        repeats = -(-frames // PIECE_FRAMES)
        return repeats, frames // repeats


FOOTAGE = (
    Footage(name="infrared 640x512", clip_id="city_clear", width_px=640, height_px=512, num_frames=9000,
            is_colour=False, ffmpeg_target=2.8),
    Footage(name="colour 640x512", clip_id="city_day", width_px=640, height_px=512, num_frames=9000,
            is_colour=True, ffmpeg_target=2.8),
    Footage(name="colour 1280x720", clip_id="city_day", width_px=1280, height_px=720, num_frames=2000,
            is_colour=True, ffmpeg_target=2.0),
)  # fmt: skip


def main() -> None:
    """Parse, make the clips, measure in rounds, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="file for every single measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the clips' frames, for a quick look")
    parser.add_argument(
        "--work", type=Path, default=Path("bench"), help="keeps the clips; outputs go there and are deleted"
    )
    parser.add_argument("--cores", type=int, default=2, help="use at most so many cores")
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.cores) < 1 or not 0 < arguments.scale <= 1:
        parser.error("--rounds and --cores must be at least 1, --scale in (0, 1]")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])  # every process below inherits it
    arguments.work.mkdir(parents=True, exist_ok=True)
    with interruptible("bench_extract.py"):
        for stale in arguments.work.glob("outputs-*"):  # of a run that was killed
            shutil.rmtree(stale, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix="outputs-", dir=arguments.work)).resolve()
        try:
            result = bench(arguments.work.resolve(), scratch, rounds=arguments.rounds, scale=arguments.scale)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print_result(result)


def bench(work: Path, scratch: Path, *, rounds: int, scale: float) -> dict[str, Any]:
    """Everything that is measured, as plain values.

    Args:
        work: Keeps the clips.
        scratch: Empty folder for outputs; each is deleted as soon as it is measured.
        rounds: How often.
        scale: Factor on the clips' frames.
    """
    machine = {**machine_facts(), "ffmpeg": ffmpeg_version()}
    clips = {}
    for footage in FOOTAGE:
        repeats, piece_frames = footage.pieces(scale)
        clip = make_clip(footage, work, scratch, repeats=repeats, piece_frames=piece_frames)
        clips[footage.name] = bench_clip(footage, clip, scratch, rounds=rounds, num_frames=repeats * piece_frames)
    result: dict[str, Any] = {
        "format": FORMAT,
        "machine": machine,
        "rounds": rounds,
        "scale": scale,
        "clips": clips,
        "start_up": bench_start_up(work, scratch),
    }
    result["machine"]["load_average_after"] = os.getloadavg()[0]
    return {**result, "summary": summary(result)}


def bench_clip(footage: Footage, clip: Path, scratch: Path, *, rounds: int, num_frames: int) -> dict[str, Any]:
    """One clip: a run that warms caches and has its memory watched, then the rounds."""
    say(f"{footage.name}: a run to warm up, with its memory watched")
    warm_up = extract(footage, clip, scratch, expected=num_frames, watch_memory=True)
    measured = []
    for number in range(rounds):
        say(f"{footage.name}: round {number + 1} of {rounds}")
        measured.append(one_round(footage, clip, scratch, num_frames))
    return {
        "facts": {
            **asdict(footage),
            "num_frames": num_frames,
            "clip_mbit_per_s": clip.stat().st_size * 8 / num_frames * FPS / 1e6,
            "mean_jpg_bytes": round(statistics.mean(row["mean_jpg_bytes"] for row in measured)),
        },
        "peak_rss_bytes": warm_up.peak_rss_bytes,
        "medians": {name: statistics.median(row[name] for row in measured) for name in measured[0]},
        "rounds": measured,
    }


def one_round(footage: Footage, clip: Path, scratch: Path, num_frames: int) -> dict[str, float]:
    """Each measurement once, neighbours in time being those that are compared."""
    cores = len(os.sched_getaffinity(0))
    ffmpeg = ffmpeg_to_files(clip, scratch, num_frames)
    ours = extract(footage, clip, scratch, expected=num_frames)
    encoding = child("encode_alone", clip, footage.is_colour, num_frames)
    decode, decoding = timed_child("decode_alone", clip)
    every = extract(footage, clip, scratch, "--every", str(EVERY), expected=-(-num_frames // EVERY))
    small = extract(footage, clip, scratch, "--size", str(SIZE_PX), expected=num_frames)
    if decoding["num_frames"] != num_frames:
        sys.exit(f"Error: {clip}: decoding gives {decoding['num_frames']} frames, expected {num_frames}; delete it")
    decode_cpu_s = decoding["cpu_s"]
    encode_cpu_s = encoding["encode_cpu_s"] / encoding["num_pictures"] * num_frames
    convert_cpu_s = encoding["convert_cpu_s"] / encoding["num_pictures"] * num_frames
    limit_s = (decode_cpu_s + encode_cpu_s) / cores
    limit_with_conversion_s = (decode_cpu_s + convert_cpu_s + encode_cpu_s) / cores
    return {
        "ffmpeg_s": ffmpeg.wall_s,
        "ffmpeg_cpu_s": ffmpeg.cpu_s,
        "ours_s": ours.wall_s,
        "ours_cpu_s": ours.cpu_s,
        "decode_s": decode.wall_s,
        "decode_loop_s": decoding["wall_s"],
        "decode_cpu_s": decode_cpu_s,
        "convert_cpu_s": convert_cpu_s,
        "encode_cpu_s": encode_cpu_s,
        "limit_s": limit_s,
        "limit_with_conversion_s": limit_with_conversion_s,
        "every_10_s": every.wall_s,
        "size_256_s": small.wall_s,
        "ffmpeg_fps": num_frames / ffmpeg.wall_s,
        "ours_fps": num_frames / ours.wall_s,
        "decode_fps": num_frames / decode.wall_s,
        "limit_fps": num_frames / limit_s,
        "limit_with_conversion_fps": num_frames / limit_with_conversion_s,
        "every_10_fps": num_frames / every.wall_s,
        "size_256_fps": num_frames / small.wall_s,
        "times_ffmpeg": ffmpeg.wall_s / ours.wall_s,
        "limit_times_ffmpeg": ffmpeg.wall_s / limit_s,
        "share_of_limit": limit_s / ours.wall_s,
        "share_of_limit_with_conversion": limit_with_conversion_s / ours.wall_s,
        "every_10_of_decode": every.wall_s / decode.wall_s,
        "every_10_of_decode_loop": every.wall_s / decoding["wall_s"],
        "mean_jpg_bytes": encoding["mean_jpg_bytes"],
    }


def bench_start_up(work: Path, scratch: Path) -> dict[str, Any]:
    """Seconds of `extract --help` and of a clip of one frame; Python alone beside them."""
    say("start-up")
    footage = FOOTAGE[0]
    clip = make_clip(footage, work, scratch, repeats=1, piece_frames=1)
    rows = []
    for _ in range(STARTUP_RUNS):
        rows.append(
            {
                "python_s": succeed(sys.executable, "-c", "pass").wall_s,
                "help_s": succeed(*INFRAREDCITY, "extract", "--help").wall_s,
                "one_frame_s": extract(footage, clip, scratch, expected=1).wall_s,
            }
        )
    return {"medians": {name: statistics.median(row[name] for row in rows) for name in rows[0]}, "rounds": rows}


def extract(
    footage: Footage, clip: Path, scratch: Path, *options: str, expected: int, watch_memory: bool = False
) -> Ran:
    """Our command on a clip, its output counted and deleted."""
    out = scratch / "shards"
    words = ("extract", "--clip", footage.clip_id, "--video", clip, "--out", out, "--quality", str(QUALITY), "--json")
    os.sync()  # what the one before left to write is not to be written on this one's time
    try:
        ran = succeed(*INFRAREDCITY, *words, *options, watch_memory=watch_memory)
    finally:
        shutil.rmtree(out, ignore_errors=True)
    (report,) = json.loads(ran.stdout)["reports"]
    if report["num_frames"] != expected:
        sys.exit(f"Error: {clip}: extract gave {report['num_frames']} frames, expected {expected}")
    return ran


def ffmpeg_to_files(clip: Path, scratch: Path, num_frames: int) -> Ran:
    """Reference 1 on a clip, its files counted and deleted."""
    out = scratch / "files"
    out.mkdir()
    os.sync()
    try:
        ran = succeed(*reference_command(), "-i", clip, "-q:v", "2", out / "%06d.jpg")
        found = sum(1 for _ in out.iterdir())
    finally:
        shutil.rmtree(out, ignore_errors=True)
    if found != num_frames:
        sys.exit(f"Error: {clip}: ffmpeg gave {found} frames, expected {num_frames}")
    return ran


def timed_child(function: str, *values: object) -> tuple[Ran, dict[str, Any]]:
    """A function of this file in a fresh process: how that ran, and the JSON that it printed."""
    given = ", ".join(repr(str(value) if isinstance(value, Path) else value) for value in values)
    ran = succeed(sys.executable, "-c", f"import bench_extract; bench_extract.{function}({given})")
    return ran, json.loads(ran.stdout)


def child(function: str, *values: object) -> dict[str, Any]:
    """What a function of this file printed in a fresh process."""
    return timed_child(function, *values)[1]


def decode_alone(path: str) -> None:
    """Print wall and CPU seconds of decoding every frame of a clip, as our decoder is set up, nothing done with the frames."""
    import av

    begun, cpu_begun = time.perf_counter(), cpu_s()
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        num_frames = sum(1 for _ in container.decode(stream))
    print(json.dumps({"num_frames": num_frames, "wall_s": time.perf_counter() - begun, "cpu_s": cpu_s() - cpu_begun}))


def encode_alone(path: str, is_colour: bool, num_frames: int) -> None:
    """Print CPU seconds of converting and of encoding pictures that are spread over a clip, one after the other."""
    import av

    from infraredcity.stills.formats import encode

    distance = max(1, num_frames // SAMPLE_PICTURES)
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        frames = [frame for index, frame in enumerate(container.decode(stream)) if index % distance == 0]
    convert_cpu_s = encode_cpu_s = 0.0
    num_bytes = 0
    for frame in frames:
        converted(frame, is_colour)  # brings it into the cache, where a frame is that was decoded just now
        begun = time.process_time()
        picture = converted(frame, is_colour)
        halfway = time.process_time()
        num_bytes += len(encode(picture, "jpg", quality=QUALITY))
        encode_cpu_s += time.process_time() - halfway
        convert_cpu_s += halfway - begun
    facts = {
        "num_pictures": len(frames),
        "convert_cpu_s": convert_cpu_s,
        "encode_cpu_s": encode_cpu_s,
        "mean_jpg_bytes": num_bytes / len(frames),
    }
    print(json.dumps(facts))


def converted(frame: Any, is_colour: bool) -> "np.ndarray":
    """A frame of PyAV as u8 [H, W, 3 or 1]."""
    # One thread: by itself PyAV starts and ends as many as there are cores, for every frame anew.
    pixels: np.ndarray = frame.reformat(format="rgb24" if is_colour else "gray", threads=1).to_ndarray()
    return pixels if is_colour else pixels[:, :, None]


def cpu_s() -> float:
    """User and system time of all threads of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def make_clip(footage: Footage, work: Path, scratch: Path, *, repeats: int, piece_frames: int) -> Path:
    """The clip in the working folder; made if it is not there."""
    path = work / f"{footage.name.replace(' ', '-')}-{repeats * piece_frames}-{RECIPE}.mp4"
    if path.exists():
        return path
    say(f"making {path.name}")
    piece = scratch / "piece.mp4"
    whole = scratch / "whole.mp4"
    size = f"{footage.width_px}x{footage.height_px}"
    source = ("-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", size, "-r", str(FPS), "-i", "-")
    command = [*ffmpeg_command(), *source, *X264, str(piece)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        for data in scenery(footage, piece_frames):
            process.stdin.write(data)
    if process.returncode != 0:
        sys.exit(f"Error: ffmpeg could not make {path.name}; its message is above")
    names = scratch / "pieces.txt"
    names.write_text(f"file '{piece}'\n" * repeats, encoding="utf-8")
    succeed(*ffmpeg_command(), "-f", "concat", "-safe", "0", "-i", names, "-c", "copy", whole)
    whole.replace(path)
    return path


def scenery(footage: Footage, num_frames: int) -> Iterator[bytes]:
    """Frames as yuv420p: a camera panning over natural texture, things crossing it, and a sensor's noise.

    Made so that jpgs at quality 95 have the size of real ones, 80 to 100 kB at 640x512. An infrared clip has its chroma at 128.
    """
    import numpy as np

    random = np.random.default_rng(7)
    width, height = footage.width_px, footage.height_px
    luma = texture(random, 2048, 1024, contrast=34.0)
    chroma = [texture(random, 1024, 512, contrast=14.0) for _ in range(2)]
    noise = random.normal(0.0, NOISE_LEVELS, (8, height * 2, width * 2)).round().astype(np.int16)
    things = [texture(random, 128, 64, contrast=40.0) for _ in range(6)]
    flat = np.full((height // 2, width // 2), 128, np.uint8)
    for number in range(num_frames):
        x, y = 4 * number, 2 * (number // 4)
        picture = seamless(luma, x, y, width, height)
        for place, thing in enumerate(things):
            left = (place * 331 + number * (3 + 2 * place)) % (width - 128)
            top = (place * 97 + height // 5) % (height - 64)
            picture[top : top + 64, left : left + 128] = thing
        row, column = random.integers(height), random.integers(width)
        picture = picture + noise[number % 8, row : row + height, column : column + width]
        planes = [np.clip(picture, 16, 235).astype(np.uint8)]
        for plane in chroma:
            moved = np.clip(seamless(plane, x // 2, y // 2, width // 2, height // 2), 16, 240).astype(np.uint8)
            planes.append(moved if footage.is_colour else flat)
        yield b"".join(plane.tobytes() for plane in planes)


def texture(random: "np.random.Generator", width: int, height: int, *, contrast: float) -> "np.ndarray":
    """i16 [height, width] around 128, seamless at its borders, of the given standard deviation.

    Its amplitude falls with the frequency to the power of 1.5: between a photograph's 1 and a thermal camera's soft 2.
    """
    import numpy as np

    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(random.normal(size=(height, width))) / frequency**1.5
    field = np.fft.irfft2(spectrum, s=(height, width))
    return np.asarray(128 + field * (contrast / field.std()), np.int16)


def seamless(field: "np.ndarray", x: int, y: int, width: int, height: int) -> "np.ndarray":
    """What a window of a seamless texture shows, as a copy."""
    import numpy as np

    rows, columns = np.arange(y, y + height) % field.shape[0], np.arange(x, x + width) % field.shape[1]
    return np.asarray(field[rows[:, None], columns])


def ffmpeg_version() -> str:
    """Of reference 1."""
    return run(reference_command()[0], "-version").stdout.split()[2]


def reference_command() -> tuple[str, ...]:
    """The ffmpeg of reference 1, quiet."""
    static, *options = ffmpeg_command()
    return (os.environ.get("FFMPEG", static), *options)


def print_result(result: dict[str, Any]) -> None:
    """The table, and the summary as the last line."""
    columns = {
        "ffmpeg": "ffmpeg_fps", "ours": "ours_fps", "limit": "limit_fps", "with conversion": "limit_with_conversion_fps",
        "decode": "decode_fps", "every 10": "every_10_fps", "size 256": "size_256_fps",
    }  # fmt: skip
    rows = []
    for name, clip in result["clips"].items():
        speeds = {column: f"{clip['medians'][key]:,.0f}" for column, key in columns.items()}
        rows.append({"frames per second": name, **speeds})
    print(table(["frames per second", *columns], rows))
    print()
    rows = []
    for name, clip in result["clips"].items():
        middle, facts = clip["medians"], clip["facts"]
        rows.append(
            {
                "median of rounds": name,
                "frames": f"{facts['num_frames']:,}",
                "jpg": f"{facts['mean_jpg_bytes'] / 1000:.0f} kB",
                "x ffmpeg": f"{middle['times_ffmpeg']:.2f}",
                "target": f"{facts['ffmpeg_target']:.1f}",
                "(limit)": f"{middle['limit_times_ffmpeg']:.2f}",
                "of limit": f"{middle['share_of_limit']:.0%}",
                "target ": f"{LIMIT_TARGET:.0%}",
                "with conversion": f"{middle['share_of_limit_with_conversion']:.0%}",
                "every 10 / decode": f"{middle['every_10_of_decode']:.2f}",
                "target  ": f"{EVERY_TARGET:.1f}",
                "peak memory": megabytes(clip["peak_rss_bytes"]),
            }
        )
    print(table(list(rows[0]), rows))
    print()
    start_up = result["start_up"]["medians"]
    print(machine_line(result["machine"]))
    print(f"start-up: --help {start_up['help_s']:.2f} s, a clip of one frame {start_up['one_frame_s']:.2f} s "
          f"(target {STARTUP_TARGET_S} s), Python alone {start_up['python_s']:.2f} s")  # fmt: skip
    print(result["summary"])


def summary(result: dict[str, Any]) -> str:
    """One line about everything."""
    parts = [
        f"{name} {clip['medians']['times_ffmpeg']:.1f}x of ffmpeg, {clip['medians']['share_of_limit']:.0%} of the limit"
        for name, clip in result["clips"].items()
    ]
    every = max(clip["medians"]["every_10_of_decode"] for clip in result["clips"].values())
    parts += [f"every 10 {every:.2f}x decode", f"start-up {result['start_up']['medians']['one_frame_s']:.2f} s"]
    return f"extract: {'; '.join(parts)}"


def say(text: str) -> None:
    """A line about what goes on, for people."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
