"""The main job on the built-in sample, from nothing to a page of pictures: `make demo`, or `python tools/demo.py FOLDER`.

Nine generated clips -> shards -> a Lite set at scale -> the preset tiny on two processes -> a held-out night clip of another town
as day video, compared with its truth. Run it again and it goes on, or does nothing.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from pipeline import Pipeline

SCENE = "city"
HELD_OUT = "city_clear"
HELD_OUT_SEED = 12
"""Settings were chosen on the towns 21, 22 and 23; one early run was looked at on this one."""


def main() -> None:
    """Parse, run every stage, name the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("demo"))
    parser.add_argument("--frames", type=int, default=400, help="frames of each generated clip, 5 per second")
    parser.add_argument("--processes", type=int, default=2, help="training processes")
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], help="a training setting, such as seed=1"
    )
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    way = Pipeline()
    sample, held_out, shards, lite, run = (folder / name for name in ("sample", "held-out", "shards", "lite", "run"))

    # Training wants much street in few frames, the held-out clip wants to be watched.
    if not (sample / "clips.toml").exists():
        way.run("infraredcity", "sample", sample, "--frames", str(arguments.frames), "--fps", "5")
    if not (held_out / "clips.toml").exists():
        words = ("--clip", HELD_OUT, "--seed", str(HELD_OUT_SEED), "--frames", "150", "--flow")
        way.run("infraredcity", "sample", held_out, *words)
    way.run("infraredcity", "extract", "--all", "--clips", sample / "clips.toml", "--out", shards, "--size", "140")
    way.run("infraredcity", "make-lite", "--from", shards, "--out", lite, "--scale", "auto")
    way.train(lite=lite, scene=SCENE, run=run, processes=arguments.processes, settings=tuple(arguments.settings))
    night, truth = held_out / f"{HELD_OUT}.mp4", held_out / "truth" / f"{HELD_OUT}.mp4"
    translated, evaluation = folder / "translated.mp4", folder / "evaluation"
    way.run("roma", "translate", run / "snapshot.pt", night, "-o", translated)
    way.run(
        "roma", "evaluate", run / "snapshot.pt", "--video", night, "--truth", truth,
        "--visible", f"{lite / SCENE}/visible-train/*.tar", "--flow", held_out / "flow" / HELD_OUT, "--out", evaluation,
    )  # fmt: skip

    from roma.report.page import write_page

    page = folder / "index.html"
    videos = [("Night infrared", night), ("Translated", translated), ("The truth", truth)]
    write_page(
        page,
        run,
        evaluation=evaluation,
        videos=videos,
        commands=way.commands,
        title="A night in a town nobody trained on, by day",
    )
    write_strip(folder / "strip.jpg", [night, translated, truth])
    way.say(f"done: open {page}")


def write_strip(path: Path, videos: Sequence[Path], frames: Sequence[int] = (37, 112)) -> None:
    """Write a picture of chosen frames of videos: a row for each frame, a column for each video."""
    import cv2
    import numpy as np

    from roma.evaluation.truth import open_truth, true_frames

    columns = [np.vstack([picture for _, picture in true_frames(open_truth(video), list(frames))]) for video in videos]
    gap = np.full((columns[0].shape[0], 4, 3), 255, np.uint8)
    pictures = np.hstack([columns[0], *(part for column in columns[1:] for part in (gap, column))])
    if not cv2.imwrite(str(path), cv2.cvtColor(pictures, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88]):
        sys.exit(f"Error: {path}: cannot be written")


if __name__ == "__main__":
    main()
