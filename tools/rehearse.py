"""The published frame counts, in full, on tiny pictures: `python tools/rehearse.py WORK [--json FILE] [--divide N]`.

Nine clips of 32x32 whose lengths add up to the published totals go through `infraredcity extract --all` and `infraredcity
make-lite` as a user would run them. Every count that the two report is compared with manifests/published.toml, every picture is
found again in the tars, and `infraredcity verify` has to find nothing; the memory of all processes of each command has to stay
under 1 GiB. Ends with the times, and with what extraction takes at 640x512 when its speed there is given.

Published are totals per domain and time of day, not the lengths of clips. Here each total is dealt to its clips in proportion to
what the Lite table takes of them (`clip_lengths`), so that every cell of the table can be had. Visible night is one clip of 178,698
frames: the long one, whose memory has to stay flat.

The clips are Motion JPEG, the fastest to decode at this size: 1,000 frames, repeated by copying packets, no frame like the one
before. A number that differs gets a line, ends the program with exit code 1 and leaves the outputs in WORK for a look.
"""

import argparse
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from measure import (
    INFRAREDCITY,
    Ran,
    ffmpeg_command,
    interruptible,
    machine_facts,
    machine_line,
    megabytes,
    succeed,
    table,
)

from infraredcity.clips import Clip, load_catalog, published_counts
from infraredcity.datasets.recipe import read_recipe

Counts = dict[str, int]
FORMAT = "infraredcity-rehearsal-1"
MARK = "# Written by tools/rehearse.py. Its next run deletes the folders shards and lite beside this file."
SIDE_PX = 32
PIECE_FRAMES = 1000
MAX_RSS_BYTES = 2**30
MAX_DIVIDE = 250
"""The smallest count of the Lite table is 500, and a window has 2 frames."""
_COMPLETE = (0, 4, 5)
"""Exit codes of `extract` behind which there is a report: done, count mismatch, gaps."""
_VERIFIED = (0, 4)
"""Exit codes of `verify` behind which there is a report: no problem, problems."""


def main() -> None:
    """Parse, rehearse, print; exit code 1 when a number differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "work", type=Path, metavar="WORK", help="a new or empty folder, or that of an earlier rehearsal"
    )
    parser.add_argument("--json", type=Path, help="file for what was found and measured")
    parser.add_argument("--divide", type=int, default=1, help="take the N-th part of all counts, for a quick look")
    parser.add_argument("--fps-640", type=float, help="frames per second of extract at 640x512, for the extrapolation")
    parser.add_argument("--bench", type=Path, help="read them from a file of bench_extract.py instead")
    parser.add_argument("--keep", action="store_true", help="keep clips, shards and the Lite set (about 2 GB)")
    arguments = parser.parse_args()
    if not 1 <= arguments.divide <= MAX_DIVIDE:
        parser.error(f"--divide must be in 1..{MAX_DIVIDE}")
    if arguments.bench and arguments.fps_640:
        parser.error("--bench and --fps-640 say the same thing: give one")
    speeds = _speeds(arguments.bench, arguments.fps_640)
    work: Path = arguments.work.resolve()
    claim(work)
    with interruptible("rehearse.py"):
        try:
            result = rehearse(work, divide=arguments.divide)
        except KeyboardInterrupt:
            clear(work)
            raise
    if speeds:
        result["at_640x512"] = at_640x512(result["counts"], speeds)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print_result(result)
    if result["differences"]:
        sys.exit(1)
    if not arguments.keep:
        clear(work)


def rehearse(work: Path, *, divide: int) -> dict[str, Any]:
    """Make the clips, extract all, draw the Lite set, compare; plain values."""
    machine = machine_facts()
    scale = repr(1 / divide)
    clips = list(load_catalog(environment={}))
    lengths = {clip: length // divide for clip, length in clip_lengths(clips).items()}
    clips_file = make_clips(work, clips, lengths)
    shards, lite_folder = work / "shards", work / "lite"
    say(f"extract: {sum(lengths.values()):,} frames of {len(lengths)} clips")
    words = ("extract", "--all", "--clips", clips_file, "--out", shards, "--json")
    extract = succeed(*INFRAREDCITY, *words, ok=_COMPLETE, watch_memory=True)
    say("make-lite")
    lite_words = ("make-lite", "--from", shards, "--out", lite_folder, "--scale", scale, "--json")
    make_lite = succeed(*INFRAREDCITY, *lite_words, watch_memory=True)
    reports = json.loads(extract.stdout)["reports"]
    lite_report = json.loads(make_lite.stdout)

    say("counting in the tars")
    expected = expected_counts(clips, lengths, scale=scale, divide=divide)
    found = {**extracted_counts(clips, reports), **lite_counts(lite_report)}
    for clip in lengths:
        found |= clip_tar_counts(shards / clip)
    for folder in sorted({row["folder"] for row in lite_report["rows"]}):
        found[f"lite/{folder}: different pictures in tars"] = len(
            {name for name, _ in pictures_in(lite_folder / folder)}
        )
    found = {name: found[name] for name in [*expected, *found] if name in found}  # in the order of the table
    differences = differing(expected, found)
    say("verify")
    verify = run_verify(work, divide=divide)
    verify_report = json.loads(verify.stdout)
    differences += findings_of(verify_report)
    memory = {
        "extract": extract.peak_rss_bytes,
        "make-lite": make_lite.peak_rss_bytes,
        "verify": verify.peak_rss_bytes,
    }
    for name, peak in memory.items():
        if peak >= MAX_RSS_BYTES:
            differences.append(f"memory of {name}: {megabytes(peak)}, must stay under {megabytes(MAX_RSS_BYTES)}")
    return {
        "format": FORMAT,
        "machine": machine,
        "divide": divide,
        "expected": expected,
        "counts": found,
        "differences": differences,
        "extract_s": extract.wall_s,
        "extract_fps": found["total"] / extract.wall_s,
        "make_lite_s": make_lite.wall_s,
        "verify_s": verify.wall_s,
        "verified_samples": verify_report["num_samples"],
        "peak_rss_bytes": memory,
        "size_bytes": sum(report["size_bytes"] for report in reports),
        "lite_rows": lite_report["rows"],
    }


def run_verify(work: Path, *, divide: int) -> Ran:
    """`infraredcity verify` over all that was written; undivided, with the published counts."""
    words = ("verify", work, "--json", *(["--published"] if divide == 1 else []))
    return succeed(*INFRAREDCITY, *words, ok=_VERIFIED, watch_memory=True)


def findings_of(report: Mapping[str, Any]) -> list[str]:
    """A line for each thing that `verify --json` found."""
    return [f"verify: {finding['message']}" for finding in report["findings"]]


def clip_lengths(clips: list[Clip]) -> Counts:
    """The published totals dealt to the clips: each in proportion to what the Lite table takes of the clip."""
    takes = {cell.clip: cell.train + cell.test for cell in read_recipe().cells}
    lengths: Counts = {}
    for kind, total in published_counts()["frames"].items():
        members = [clip.clip_id for clip in clips if kind_of(clip) == kind]
        weights = [
            takes.get(clip, 1) for clip in members
        ]  # visible night gives nothing to the Lite set, and is one clip
        done = 0
        for clip, weight in zip(members, weights, strict=True):
            lengths[clip] = total * (done + weight) // sum(weights) - total * done // sum(weights)
            done += weight
    return lengths


def kind_of(clip: Clip) -> str:
    """The name under which published.toml counts a clip's frames."""
    return f"{clip.modality}_{clip.time_of_day}"


def expected_counts(clips: list[Clip], lengths: Counts, *, scale: str, divide: int) -> Counts:
    """Every number that must come out; undivided, totals and cells are those of published.toml and nothing else."""
    published = published_counts()
    counts: Counts = {}
    for clip, length in lengths.items():
        counts |= {
            f"{clip}: frames": length,
            f"{clip}: frames in the file": length,
            f"{clip}: gaps": 0,
            f"{clip}: pictures in tars": length,
            f"{clip}: pictures out of order": 0,
            f"{clip}: pictures like the one before": 0,
        }
    for kind, total in published["frames"].items():
        if divide == 1:
            counts[kind] = total
        else:
            counts[kind] = sum(lengths[clip.clip_id] for clip in clips if kind in ("total", kind_of(clip)))
    lite_total = 0
    folders: Counts = {}
    for scene, cells in published["lite"].items():
        if scene == "total":
            continue
        scene_total = 0
        for name, count in cells.items():
            if name == "total":
                continue
            count = math.floor(count * Fraction(scale))
            counts[f"lite {scene} {name}"] = count
            modality, split = name.split("_")[:2]
            folder = f"lite/{scene}/{modality}-{split}: different pictures in tars"
            folders[folder] = folders.get(folder, 0) + count
            scene_total += count
        counts[f"lite {scene} total"] = cells["total"] if divide == 1 else scene_total
        lite_total += scene_total
    counts["lite total"] = published["lite"]["total"] if divide == 1 else lite_total
    return counts | folders


def extracted_counts(clips: list[Clip], reports: list[dict[str, Any]]) -> Counts:
    """What `extract --json` reports, under the names of `expected_counts`."""
    kinds = {clip.clip_id: kind_of(clip) for clip in clips}
    counts: Counts = {"total": 0}
    for report in reports:
        clip, num_frames = report["clip"], report["num_frames"]
        counts[f"{clip}: frames"] = num_frames
        counts[f"{clip}: frames in the file"] = report["clip_frames"]
        counts[f"{clip}: gaps"] = len(report["gaps"])
        counts[kinds[clip]] = counts.get(kinds[clip], 0) + num_frames
        counts["total"] += num_frames
    return counts


def lite_counts(report: Mapping[str, Any]) -> Counts:
    """What `make-lite --json` reports, under the names of `expected_counts`: the cells, and their sums."""
    counts: Counts = {"lite total": report["num_frames"]}
    for row in report["rows"]:
        weather = "" if row["weather"] == "any" else f"_{row['weather']}"
        for name in (f"lite {row['scene']} {row['modality']}_{row['split']}{weather}", f"lite {row['scene']} total"):
            counts[name] = counts.get(name, 0) + row["num_frames"]
    return counts


def clip_tar_counts(folder: Path) -> Counts:
    """What the tars of a clip hold: all its frames once, in order, each another picture than the one before."""
    num_pictures = num_misplaced = num_repeated = 0
    before = b""
    for name, data in pictures_in(folder):
        num_misplaced += name != f"{folder.name}_{num_pictures:08d}.jpg"
        num_repeated += data == before
        num_pictures += 1
        before = data
    return {
        f"{folder.name}: pictures in tars": num_pictures,
        f"{folder.name}: pictures out of order": num_misplaced,
        f"{folder.name}: pictures like the one before": num_repeated,
    }


def pictures_in(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the jpgs in a folder's tars, in order; by the tar format alone: no reader of ours judges itself."""
    for path in sorted(folder.glob("*.tar")):
        tar = path.read_bytes()
        place = 0
        while tar[place] != 0:  # a block of zeros ends a tar
            name = tar[place : place + 100].rstrip(b"\0").decode()
            size = int(tar[place + 124 : place + 135], 8)
            if name.endswith(".jpg"):
                yield name, tar[place + 512 : place + 512 + size]
            place += 512 + -(-size // 512) * 512


def differing(expected: Counts, found: Counts) -> list[str]:
    """A line for each number that is not as expected, or that one side lacks."""
    lines = []
    for name in [*expected, *(name for name in found if name not in expected)]:
        wanted, got = expected.get(name), found.get(name)
        if wanted != got:
            shown = ["none" if value is None else f"{value:,}" for value in (wanted, got)]
            lines.append(f"{name}: expected {shown[0]}, found {shown[1]}")
    return lines


def make_clips(work: Path, clips: list[Clip], lengths: Counts) -> Path:
    """The nine clips and the clips.toml that names them and their lengths."""
    say("making the clips")
    folder = work / "clips"
    folder.mkdir(exist_ok=True)
    tables = [MARK]
    for modality in ("infrared", "visible"):
        piece = folder / f"piece-{modality}.mp4"
        _make_piece(piece, is_colour=modality == "visible")
        for clip in clips:
            if clip.modality != modality:
                continue
            path = folder / f"{clip.clip_id}.mp4"
            length = str(lengths[clip.clip_id])
            succeed(*ffmpeg_command(), "-stream_loop", "-1", "-i", piece, "-c", "copy", "-frames:v", length, path)
            tables.append(f'[clips.{clip.clip_id}]\npath = "clips/{path.name}"\nexpected_frames = {length}')
        piece.unlink()
    clips_file = work / "clips.toml"
    clips_file.write_text("\n\n".join(tables) + "\n", encoding="utf-8")
    return clips_file


def _make_piece(path: Path, *, is_colour: bool) -> None:
    """Ramps that wander by 3 levels a frame; frame 0 is no neighbour of frame 999, so pieces can follow each other."""
    import numpy as np

    ramp = np.arange(SIDE_PX)[:, None] * 3 + np.arange(SIDE_PX)[None, :] * 5
    channels = np.stack([ramp, ramp.T if is_colour else ramp, ramp[::-1] if is_colour else ramp], axis=2)
    raw = b"".join(((channels + 3 * number) % 256).astype(np.uint8).tobytes() for number in range(PIECE_FRAMES))
    source = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{SIDE_PX}x{SIDE_PX}", "-r", "25", "-i", "-")
    target = ("-c:v", "mjpeg", "-q:v", "3", "-pix_fmt", "yuvj420p", str(path))
    subprocess.run([*ffmpeg_command(), *source, *target], input=raw, check=True)


def claim(work: Path) -> None:
    """Take a folder for rehearsals; one that holds anything else ends the program."""
    marker = work / "clips.toml"
    if work.exists() and any(work.iterdir()):
        if not marker.is_file() or not marker.read_text(encoding="utf-8").startswith(MARK):
            sys.exit(f"Error: {work}: holds something that no rehearsal wrote; name a new or empty folder")
        clear(work)
    work.mkdir(parents=True, exist_ok=True)
    marker.write_text(MARK + "\n", encoding="utf-8")


def clear(work: Path) -> None:
    """Delete what a rehearsal wrote, up to the mark that the folder is one's."""
    for name in ("clips", "shards", "lite"):
        shutil.rmtree(work / name, ignore_errors=True)


def _speeds(bench: Path | None, fps: float | None) -> dict[str, float] | None:
    """Frames per second at 640x512, by modality."""
    if bench is not None:
        try:
            clips = json.loads(bench.read_text(encoding="utf-8"))["clips"]
            return {
                "infrared": clips["infrared 640x512"]["medians"]["ours_fps"],
                "visible": clips["colour 640x512"]["medians"]["ours_fps"],
            }
        except (OSError, ValueError, KeyError) as error:
            sys.exit(f"Error: {bench}: not a file of bench_extract.py ({error!r})")
    return None if fps is None else {"infrared": fps, "visible": fps}


def at_640x512(counts: Counts, speeds: Mapping[str, float]) -> dict[str, Any]:
    """How long the published clips take at the speeds of 640x512, whatever part of them was rehearsed."""
    published = published_counts()["frames"]
    seconds = {kind: count / speeds[kind.partition("_")[0]] for kind, count in published.items() if kind != "total"}
    return {"fps": dict(speeds), "extract_s": sum(seconds.values()), "extract_s_by_kind": seconds}


def print_result(result: dict[str, Any]) -> None:
    """The counts as published.toml orders them, times, and a summary as the last line."""
    counts, divide = result["counts"], result["divide"]
    names = [*published_counts()["frames"], *(name for name in result["expected"] if name.startswith("lite "))]
    rows = [
        {"frames": name, "expected": f"{result['expected'][name]:,}", "found": f"{counts.get(name, 0):,}"}
        for name in names
    ]
    print(table(["frames", "expected", "found"], rows))
    print()
    for line in result["differences"]:
        print(f"Error: {line}", file=sys.stderr)
    memory = result["peak_rss_bytes"]
    print(machine_line(result["machine"]))
    print(f"extract {result['extract_s']:.1f} s, at most {megabytes(memory['extract'])}; "
          f"{result['extract_fps']:,.0f} frames/s at {SIDE_PX}x{SIDE_PX}")  # fmt: skip
    print(f"make-lite {result['make_lite_s']:.1f} s, at most {megabytes(memory['make-lite'])}")
    print(f"verify {result['verify_s']:.1f} s, at most {megabytes(memory['verify'])}; "
          f"{result['verified_samples']:,} samples, {result['verified_samples'] / result['verify_s']:,.0f} a second")  # fmt: skip
    if divide > 1:
        print(f"undivided, extract would take about {result['extract_s'] * divide / 60:.0f} minutes at this size")
    if "at_640x512" in result:
        real = result["at_640x512"]
        print(f"at 640x512, {real['fps']['infrared']:,.0f} infrared and {real['fps']['visible']:,.0f} visible frames/s, "
              f"the published clips take {real['extract_s'] / 60:.0f} minutes")  # fmt: skip
    verdict = f"{len(result['differences'])} NUMBERS DIFFER" if result["differences"] else "every count as expected"
    print(f"rehearsal: {counts['total']:,} frames of 9 clips, {counts['lite total']:,} in the Lite set, "
          f"{result['extract_s'] + result['make_lite_s'] + result['verify_s']:.0f} s: {verdict}")  # fmt: skip


def say(text: str) -> None:
    """A line about what goes on, for people."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
