"""The whole way on real footage: `python tools/real_run.py DATA OUT`, DATA being a folder with the videos named below.

Two night infrared and two day visible videos through extract, make-lite --scale auto, two-process training of the preset tiny,
translate. Checks that every frame came out once and prints what happened as JSON, the last line names the page.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from pipeline import Pipeline

# clip id: file below DATA, modality, time of day, frames, and what a Lite recipe takes at scale 1.
CLIPS = {
    "street_1753": ("video_ir_night/m3svd_ir_0111_1753.mp4", "infrared", "night", 913, {"train": 5538, "test": 1000}),
    "street_1831": ("video_ir_night/m3svd_ir_0115_1831.mp4", "infrared", "night", 970, {"train": 5538, "test": 1000}),
    "seattle": ("video_visible_day/tmo_seattlestreet1.mp4", "visible", "day", 1010, {"train": 6000}),
    "square": ("video_visible_day/vtest.avi", "visible", "day", 795, {"train": 4500}),
}
TRANSLATED = "street_1753"


def main() -> None:
    """Parse, run every stage, check the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--set", dest="settings", action="append", default=[], help="a training setting, such as seed=1"
    )
    arguments = parser.parse_args()
    data, out = arguments.data.resolve(), arguments.out
    out.mkdir(parents=True, exist_ok=True)
    (out / "clips.toml").write_text(_clips_toml(data), encoding="utf-8")
    (out / "recipe.toml").write_text(_recipe_toml(), encoding="utf-8")
    way = Pipeline()
    clips = [word for clip in CLIPS for word in ("--clip", clip)]
    way.run("infraredcity", "extract", *clips, "--clips", out / "clips.toml", "--out", out / "shards", "--size", "140")
    counts = {clip: _count_once(out / "shards", clip) for clip in CLIPS}
    way.run(
        "infraredcity", "make-lite", "--from", out / "shards", "--out", out / "lite",
        "--recipe", out / "recipe.toml", "--scale", "auto",
    )  # fmt: skip
    way.train(
        lite=out / "lite",
        scene="street",
        run=out / "run",
        processes=arguments.processes,
        settings=tuple(arguments.settings),
    )
    video = out / "translated.mp4"
    way.run(
        "roma", "translate", out / "run" / "snapshot.pt", data / CLIPS[TRANSLATED][0], "-o", video, "--side-by-side"
    )

    from infraredcity.video import probe
    from roma.report.page import write_page
    from roma.training.metrics import read_metrics

    num_translated = probe(video).num_frames
    if num_translated != counts[TRANSLATED]:
        sys.exit(f"Error: {video}: holds {num_translated} frames, expected {counts[TRANSLATED]}")
    page = out / "index.html"
    write_page(
        page, out / "run", videos=[("Night infrared, translated", video)], commands=way.commands, title="Real footage"
    )
    lite = json.loads((out / "lite" / "lite.json").read_text(encoding="utf-8"))["report"]
    print(json.dumps({"frames": counts, "lite": lite, "last_metrics": read_metrics(out / "run")[-1]}, indent=1))
    way.say(f"done: open {page}")


def _count_once(shards: Path, clip: str) -> int:
    """Frames of a clip, counted in its tars, after checking that each key is there once and that the count is the known one."""
    from infraredcity.shards.reader import iterate

    keys = [sample.key for shard in sorted((shards / clip).glob("*.tar")) for sample in iterate(shard)]
    expected = CLIPS[clip][3]
    if len(keys) != len(set(keys)) or len(keys) != expected:
        sys.exit(f"Error: {clip}: expected {expected} frames, each once; found {len(keys)}, {len(set(keys))} different")
    return len(keys)


def _clips_toml(data: Path) -> str:
    tables = []
    for clip, (file, modality, time_of_day, frames, _) in CLIPS.items():
        tables.append(
            f'[clips.{clip}]\npath = {json.dumps(str(data / file))}\nscene = "street"\nmodality = "{modality}"\n'
            f'time_of_day = "{time_of_day}"\nexpected_frames = {frames}\n'
        )
    return "\n".join(tables)


def _recipe_toml() -> str:
    lines = ['name = "real"', "run_frames = 64", "guard_frames = 250", "window_frames = 2"]
    for clip, (_, _, _, _, counts) in CLIPS.items():
        lines += ["", "[[cells]]", 'scene = "street"', f'clip = "{clip}"']
        lines += [f"{split} = {count}" for split, count in counts.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
