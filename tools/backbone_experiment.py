"""Which backbone helps the preset tiny: none, a random ViT, or one's own. `python tools/backbone_experiment.py OUT [--data DATA]`.

Three seeds each, on the sample's city and, with DATA, on aligned day pairs of RoadScene. The arms differ in what watches the
structure of translations (centred self-similarity of tokens, weight 0.2 for whole frames and for windows):

none     nothing; the time goes into more steps
random   a ViT with random weights
own      the same ViT from `roma pretrain` on the same shards with the same seed, tone-jittered
plain    as own, pretrained without tone jitter; on request

--steps says how many steps of warm-up and how many after it each arm gets. The default is equal time for the translator: a ViT
costs half of a step more, and pretraining comes on top. Equal time with the pretraining, what is gained spent on the warm-up, at
the demo's length: `--steps none=2700+900 random=1580+900 own=700+900`.

Each job has one core to itself, two jobs run at a time. Finished runs are kept: run it again and it goes on. Ends with a Markdown
table of means and deviations over the seeds, and writes all scores to OUT/scores.json.
"""

import argparse
import json
import os
import queue
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

BIN = Path(sys.executable).parent
STRUCTURE = ("loss.global_structure=0.2", "loss.local_structure=0.2")
ARMS = ("none", "random", "own", "plain")
STEPS = {"none": (202, 202), "random": (150, 150), "own": (150, 150), "plain": (150, 150)}
"""Steps of warm-up, and steps after it."""
HELD_OUT_SEEDS = (21, 22)
TRAIN_PAIRS = 54
MEASURES = ("psnr_db", "ssim", "mae", "edge_correlation", "ab_distance", "chroma")


@dataclass(frozen=True)
class DataSet:
    """Shards to train on, and held-out videos with their truth."""

    name: str
    infrared: tuple[str, ...]
    visible: tuple[str, ...]
    tests: tuple[tuple[Path, Path], ...]


class Cores:
    """Runs commands, each pinned to a core that no other command of ours has."""

    def __init__(self) -> None:
        self._free: queue.Queue[int] = queue.Queue()
        for core in sorted(os.sched_getaffinity(0)):
            self._free.put(core)
        self.count = self._free.qsize()

    def run(self, log: Path, *words: str | Path) -> float:
        """Seconds that it took; a failure ends the program with the log's last lines."""
        core = self._free.get()
        log.parent.mkdir(parents=True, exist_ok=True)
        begun = time.monotonic()
        try:
            with log.open("wb") as file:
                command = [str(BIN / words[0]), *map(str, words[1:])]
                pin = partial(os.sched_setaffinity, 0, {core})
                environment = {**os.environ, "OMP_NUM_THREADS": "1"}
                code = subprocess.run(
                    command, stdout=file, stderr=file, env=environment, preexec_fn=pin, check=False
                ).returncode
        finally:
            self._free.put(core)
        if code:
            raise RuntimeError(f"{' '.join(map(str, words))}: exit code {code}\n{log.read_text()[-2000:]}")
        return time.monotonic() - begun


def main() -> None:
    """Make the data, run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, help="folder with pairs/roadscene_day/{ir,vi}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS[:3]), choices=ARMS)
    parser.add_argument(
        "--steps", nargs="+", default=[], metavar="ARM=WARMUP+REST", type=_steps, help="such as none=202+202"
    )
    arguments = parser.parse_args()
    steps = STEPS | dict(arguments.steps)
    cores = Cores()
    out: Path = arguments.out
    sets = [_sample(out, cores)]
    if arguments.data is not None:
        sets.append(_road(out, arguments.data, cores))
    jobs = [(data, arm, seed) for seed in arguments.seeds for data in sets for arm in arguments.arms]
    with ThreadPoolExecutor(cores.count) as pool:
        results = list(pool.map(lambda job: _arm(out, cores, *job, steps=steps[job[1]]), jobs))
    (out / "scores.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for data in sets:
        print(f"\n{data.name}\n")
        _table([row for row in results if row["data"] == data.name])


def _arm(out: Path, cores: Cores, data: DataSet, arm: str, seed: int, *, steps: tuple[int, int]) -> dict[str, object]:
    folder = out / "runs" / f"{data.name}-{arm}-{seed}"
    done = folder / "result.json"
    if done.exists():
        return dict(json.loads(done.read_text(encoding="utf-8")))
    shards = [word for pattern in data.infrared for word in ("--infrared", pattern)]
    shards += [word for pattern in data.visible for word in ("--visible", pattern)]
    settings = [f"seed={seed}", f"schedule.total_steps={sum(steps)}", f"loss.warmup_steps={steps[0]}"]
    pretrain_s = 0.0
    if arm != "none":
        settings += STRUCTURE
    if arm in ("own", "plain"):
        backbone = folder / "pretrain"
        jitter = [] if arm == "own" else ["--set", "tone_jitter=0"]
        words = ("roma", "pretrain", "--preset", "tiny", *shards, "--out", backbone, "--set", f"seed={seed}", *jitter)
        pretrain_s = cores.run(folder / "pretrain.log", *words)
        settings.append(f"vit.weights={backbone / 'backbone.safetensors'}")
    chosen = [word for setting in settings for word in ("--set", setting)]
    train = ("roma", "train", "--preset", "tiny", "--mode", "image", *shards, "--out", folder / "run", *chosen)
    train_s = cores.run(folder / "train.log", *train)
    scores: dict[str, list[dict[str, float]]] = {}
    for number, (source, truth) in enumerate(data.tests):
        visible = [word for pattern in data.visible for word in ("--visible", pattern)]
        evaluation = folder / f"evaluation-{number}"
        cores.run(
            folder / "evaluate.log", "roma", "evaluate", folder / "run" / "snapshot.pt", "--video", source,
            "--truth", truth, *visible, "--out", evaluation,
        )  # fmt: skip
        report = json.loads((evaluation / "evaluation.json").read_text(encoding="utf-8"))
        for method in ("translated", "infrared", "reinhard", "mean_day"):
            scores.setdefault(method, []).append(report[method])
    means = {
        method: {name: statistics.fmean(each[name] for each in found) for name in MEASURES}
        for method, found in scores.items()
    }
    result = {
        "data": data.name, "arm": arm, "seed": seed, "steps": steps, "train_s": train_s, "pretrain_s": pretrain_s,
        "scores": means,
    }  # fmt: skip
    done.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{data.name} {arm} seed {seed}: {train_s:.0f} s, {means['translated']}", flush=True)
    return result


def _steps(word: str) -> tuple[str, tuple[int, int]]:
    arm, _, numbers = word.partition("=")
    warmup, _, rest = numbers.partition("+")
    if arm not in ARMS or not warmup.isdecimal() or not rest.isdecimal():
        raise argparse.ArgumentTypeError(f"{word!r}, expected ARM=WARMUP+REST with an arm of {', '.join(ARMS)}")
    return arm, (int(warmup), int(rest))


def _table(rows: list[dict]) -> None:
    print("| backbone | train s | PSNR dB | SSIM | MAE | edges | a*b* | chroma |\n|---|---|---|---|---|---|---|---|")
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm]
        cells = [f"{statistics.fmean(row['train_s'] for row in own):.0f}"]
        for name, digits in zip(MEASURES, (2, 3, 1, 3, 2, 1), strict=True):
            values = [row["scores"]["translated"][name] for row in own]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.fmean(values):.{digits}f} +- {spread:.{digits}f}")
        print(f"| {arm} | {' | '.join(cells)} |")
    for method in ("infrared", "reinhard", "mean_day"):
        first = rows[0]["scores"][method]
        cells = [f"{first[name]:.{digits}f}" for name, digits in zip(MEASURES, (2, 3, 1, 3, 2, 1), strict=True)]
        print(f"| ({method}) | - | {' | '.join(cells)} |")


def _sample(out: Path, cores: Cores) -> DataSet:
    clips = ("city_clear", "city_overcast", "city_day")
    chosen = [word for clip in clips for word in ("--clip", clip)]
    if not (out / "sample" / "clips.toml").exists():
        cores.run(
            out / "sample.log", "infraredcity", "sample", out / "sample", "--frames", "400", "--fps", "5", *chosen
        )
    catalogue = out / "sample" / "clips.toml"
    shards = out / "sample-shards"
    cores.run(
        out / "extract.log", "infraredcity", "extract", *chosen, "--clips", catalogue, "--out", shards, "--size", "140"
    )
    tests = []
    for seed in HELD_OUT_SEEDS:
        town = out / f"town-{seed}"
        if not (town / "clips.toml").exists():
            words = ("--clip", "city_clear", "--seed", str(seed), "--frames", "50", "--fps", "5")
            cores.run(out / "town.log", "infraredcity", "sample", town, *words)
        tests.append((town / "city_clear.mp4", town / "truth" / "city_clear.mp4"))
    return DataSet(
        name="sample",
        infrared=(f"{shards}/city_clear/*.tar", f"{shards}/city_overcast/*.tar"),
        visible=(f"{shards}/city_day/*.tar",),
        tests=tuple(tests),
    )


def _road(out: Path, data: Path, cores: Cores) -> DataSet:
    """Stills as clips: the first pictures to train on, each domain drawn by itself, the others to judge on."""
    from infraredcity.stills.decode import decode
    from infraredcity.stills.framing import resize
    from infraredcity.synthetic.encode import VideoWriter

    folder = out / "road"
    names = sorted(path.name for path in (data / "pairs" / "roadscene_day" / "ir").iterdir())
    for split, chosen in (("train", names[:TRAIN_PAIRS]), ("test", names[TRAIN_PAIRS:])):
        for domain, color in (("ir", "gray"), ("vi", "rgb")):
            path = folder / f"{split}_{domain}.mp4"
            if path.exists():
                continue
            with VideoWriter(path, width_px=140, height_px=140, fps=25) as writer:
                for name in chosen:
                    file = data / "pairs" / "roadscene_day" / domain / name
                    picture = resize(decode(file.read_bytes(), color, name=str(file)), 140, 140)
                    writer.add(picture[..., 0] if color == "gray" else picture)
    tables = [
        f'[clips.train_{domain}]\npath = "train_{domain}.mp4"\nscene = "road"\nmodality = "{modality}"\n'
        'time_of_day = "day"\n'
        for domain, modality in (("ir", "infrared"), ("vi", "visible"))
    ]
    (folder / "clips.toml").write_text("\n".join(tables), encoding="utf-8")
    shards = out / "road-shards"
    words = ("--clip", "train_ir", "--clip", "train_vi", "--clips", folder / "clips.toml", "--out", shards)
    cores.run(out / "road.log", "infraredcity", "extract", *words)
    return DataSet(
        name="roadscene",
        infrared=(f"{shards}/train_ir/*.tar",),
        visible=(f"{shards}/train_vi/*.tar",),
        tests=((folder / "test_ir.mp4", folder / "test_vi.mp4"),),
    )


if __name__ == "__main__":
    main()
