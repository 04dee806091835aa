"""How fast translation is beside its own network: `python tools/bench_translate.py --json FILE [--quick] [--rounds 3]`.

For each generator (those of the presets `tiny` and `roma`), frame size and engine: frames per second of only the network on one
batch in memory, and of `roma translate` from an H.264 video to an H.264 video at the video's own size, decoding and
encoding included. A round runs each once, the next round in the opposite order; "share" is their ratio in a round,
the figures are medians over rounds.

--quick takes small networks and few frames, to try the script. --sizes takes others. --engine onnx adds onnxruntime, where it is
installed.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from measure import interruptible, machine_facts, machine_line, table

if TYPE_CHECKING:
    from roma.inference.translator import Translator

SIZES = ("256x256", "640x512", "1280x1024")
PRESETS = ("tiny", "roma")
NETWORK_S = 4.0
"""How long the network alone is run, once for each round."""


def make_video(path: Path, width: int, height: int, num_frames: int) -> Path:
    """Write moving blobs and noise as gray H.264."""
    import numpy as np

    from roma.inference.sinks import VideoOptions, open_video
    from roma.inference.sources import Frame

    draw = np.random.default_rng(0)
    noise = draw.integers(0, 24, (height, width, 1))
    y, x = np.mgrid[:height, :width]
    nothing = np.zeros((1, 1, 1), np.uint8)
    with open_video(path, VideoOptions(quality=23)) as sink:
        for number in range(num_frames):
            blobs = sum(
                90
                * np.exp(
                    -(((x - (k * 97 + 7 * number) % width) ** 2 + (y - k * 61 % height) ** 2) / (18.0 * (k + 1)) ** 2)
                )
                for k in range(6)
            )
            gray = np.clip(60 + blobs[..., None] + np.roll(noise, number, axis=1), 0, 255).astype(np.uint8)
            frame = Frame(picture=nothing, name=str(number), pts=number, time_base=Fraction(1, 25))
            sink.add(np.repeat(gray, 3, axis=2), frame)
    return path


def make_snapshot(path: Path, preset: str, *, quick: bool) -> Path:
    """Write a snapshot of a preset's generator with its first weights."""
    from dataclasses import replace

    from roma.config.presets import preset as config_of
    from roma.models.generators.build import build_generator
    from roma.training.snapshot import Snapshot, save_snapshot

    config = config_of(preset)
    if quick:
        config = replace(config, generator=replace(config.generator, width=4, num_blocks=1))
    save_snapshot(path, Snapshot(weights=build_generator(config.generator).state_dict(), step=0, config=config))
    return path


def network_rate(translator: "Translator", width: int, height: int, *, for_s: float) -> float:
    """Frames per second of the network, on a batch as `roma translate` makes them."""
    import torch

    from roma.inference.job import batch_frames

    size = translator.working_size(width, height)
    frames = torch.rand(batch_frames(size, translator.device), 3, size[1], size[0]) * 2 - 1
    with torch.inference_mode():
        translator.generator(frames)
        count, started = 0, time.perf_counter()
        while time.perf_counter() - started < for_s:
            translator.generator(frames)
            count += len(frames)
        return count / (time.perf_counter() - started)


def translate_rate(translator: "Translator", video: Path, out: Path) -> float:
    """Frames per second from file to file."""
    from roma.inference.job import TranslateOptions
    from roma.inference.outputs import translate_file

    started = time.perf_counter()
    report = translate_file(translator, [video], out, how=TranslateOptions(native=True))
    return report.num_frames / (time.perf_counter() - started)


def measure(work: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every case."""
    import torch

    from roma.inference.onnx_model import export_onnx
    from roma.inference.translator import open_translator
    from roma.world.memory import keep_freed_memory

    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    for preset in options.presets.split(","):
        snapshot = make_snapshot(work / f"{preset}.pt", preset, quick=options.quick)
        engines = {"torch": open_translator(snapshot, device)}
        if "onnx" in options.engine.split(","):
            translator = open_translator(snapshot, torch.device("cpu"))
            export_onnx(translator.snapshot, translator.network(), work / f"{preset}.onnx")
            engines["onnx"] = open_translator(work / f"{preset}.onnx", device)
        for size in options.sizes.split(","):
            width, height = map(int, size.split("x"))
            for engine, translator in engines.items():
                alone, whole = [], []
                first = network_rate(translator, width, height, for_s=0.0)
                num_frames = max(6, min(400, round(first * options.seconds)))
                video = make_video(work / f"{size}-{num_frames}.mp4", width, height, num_frames)
                for number in range(options.rounds):
                    for kind in ("alone", "whole") if number % 2 == 0 else ("whole", "alone"):
                        if kind == "alone":
                            alone.append(network_rate(translator, width, height, for_s=options.seconds / 2))
                        else:
                            whole.append(translate_rate(translator, video, work / "out.mp4"))
                shares = [b / a for a, b in zip(alone, whole, strict=True)]
                rows.append(
                    {
                        "preset": preset,
                        "size": size,
                        "engine": engine,
                        "network_fps": round(statistics.median(alone), 2),
                        "translate_fps": round(statistics.median(whole), 2),
                        "share": round(statistics.median(shares), 3),
                        "num_frames": num_frames,
                    }
                )
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="file for every figure")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2 * NETWORK_S, help="about how long one translation takes")
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--presets", default=",".join(PRESETS))
    parser.add_argument("--engine", default="torch", help="torch, or torch,onnx")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), options)
    facts = {
        "machine": machine_facts(),
        "options": {name: str(value) for name, value in vars(options).items()},
        "rows": rows,
    }
    options.json.write_text(json.dumps(facts, indent=1) + "\n")
    print(machine_line(facts["machine"]))
    names = ["preset", "size", "engine", "network_fps", "translate_fps", "share"]
    print(table(names, [{name: str(row[name]) for name in names} for row in rows]))


if __name__ == "__main__":
    with interruptible("bench_translate.py"):
        main()
