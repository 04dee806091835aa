"""How fast the loader is beside others: `python tools/bench_loader.py --json FILE [--quick] [--rounds 5] [--work DIR]`.

20,000 colour jpgs of 256x256, one video-like run of frames, are made once and kept in the working folder, in every peer's format.
Each measurement is a fresh process that makes a loader, takes its first batch (timed from making the loader; modules are imported
and files are in the page cache), some batches to warm up, and then batches u8 [64, T, 3, 256, 256] against the clock: the set up
to nine tenths, so that nobody's uneven end counts, or 4,000 windows with --quick. The consumer does nothing with them.

in order, shuffled       frames as they follow each other, or mixed as well as the loader can
single frames, pairs     windows of 1 or of 2 neighbouring frames
decoding alone           simplejpeg in threads of one process, the jpgs in memory, into one batch that is used again: the limit
ours                     `WindowReader` with `batches` or, in order, `one_pass`; with crops: the two that the loader offers
ours in a DataLoader     `WindowDataset` with `PositionSampler` in torch's DataLoader of 2 workers
peers                    tools/bench_loader_peers.py says how each of them is used; they live in an environment of their own

A round goes through a cell (an order and a window) forwards, the next one backwards; ratios are taken within a round, their medians
are printed, every round is in FILE, the last line sums up against the goals. What cannot run says why, in one line. Everything
runs on 2 cores, for which the goals are meant; --cores takes another number. --real takes the jpgs of pack256.tar in the folder
that INFRAREDCITY_REAL_DATA names, repeated under new keys, instead of made ones.
"""

import argparse
import itertools
import json
import os
import shutil
import statistics
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench_extract import say, seamless, texture
from measure import CHECKOUT, Ran, interruptible, machine_facts, machine_line, run, table

from infraredcity.shards import index_file, names

if TYPE_CHECKING:
    import torch

FORMAT = "infraredcity-bench-loader-1"
RECIPE = "v1"
"""Part of the set's name: another one makes a new set."""
NUM_SAMPLES = 20_000
QUICK_WINDOWS = 4_000
BATCH_WINDOWS = 64
WARM_UP_BATCHES = 16
SHARD_SAMPLES = 256
SIDE_PX = 256
CLIP_ID = "city_day"
PEERS_VENV = CHECKOUT / ".venv-bench"
REQUIREMENTS = "tools/bench_loader_requirements.txt"
REAL_DATA = "INFRAREDCITY_REAL_DATA"
FORMATS = ("wds-pairs", "mds", "mds-pairs", "litdata", "litdata-pairs", "energon", "energon-pairs")
"""Folders that the peers' environment writes, in this order: Energon links what webdataset wrote."""
FAR_WINDOWS = 10**9
FAR_STEP = 10**6

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What is asked of every loader: an order, and T frames in a window."""

    name: str
    shuffled: bool
    window_frames: int


CELLS = (
    Cell(name="in order, single", shuffled=False, window_frames=1),
    Cell(name="in order, pairs", shuffled=False, window_frames=2),
    Cell(name="shuffled, single", shuffled=True, window_frames=1),
    Cell(name="shuffled, pairs", shuffled=True, window_frames=2),
)
SHUFFLED_SINGLE, SHUFFLED_PAIRS = "shuffled, single", "shuffled, pairs"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured.

    Attributes:
        name: Its row in the table.
        role: "limit", "ours", "crops", "guest" (ours in a DataLoader), or a peer's: "processes" (with workers), "threads", "alone".
        function: The function that a fresh process calls.
        subject: Its first argument.
        workers: Worker processes.
    """

    name: str
    role: str
    function: str
    subject: str
    workers: int = 0

    def takes(self, cell: Cell) -> bool:
        """Whether it is measured in a cell."""
        if self.role == "limit":
            return cell.window_frames == 1
        return cell.shuffled or self.role not in ("crops", "guest")


def _peer(subject: str, name: str, role: str, workers: int = 0) -> Subject:
    return Subject(name=name, role=role, function="bench_loader_peers.measure", subject=subject, workers=workers)


SUBJECTS = (
    Subject(name="decoding alone, one thread", role="limit", function="bench_loader.decoding_alone", subject="one"),
    Subject(name="decoding alone, all cores", role="limit", function="bench_loader.decoding_alone", subject="all"),
    Subject(name="ours", role="ours", function="bench_loader.ours", subject="plain"),
    Subject(name="ours, random resized crop, flip", role="crops", function="bench_loader.ours", subject="ResizedCrop"),
    Subject(name="ours, 286 -> 256 bicubic, flip", role="crops", function="bench_loader.ours", subject="ResizeCrop"),
    Subject(name="ours in a DataLoader, 2 workers", role="guest", function="bench_loader.in_dataloader", subject="guest",
            workers=2),
    _peer("files", "files, 2 workers", "processes", 2),
    _peer("webdataset", "webdataset, 2 workers", "processes", 2),
    _peer("webdataset", "webdataset, no workers", "alone"),
    _peer("mosaicml", "mosaicml-streaming, 2 workers", "processes", 2),
    _peer("mosaicml", "mosaicml-streaming, no workers", "alone"),
    _peer("litdata", "litdata, 2 workers", "processes", 2),
    _peer("energon", "energon, 2 workers", "processes", 2),
    _peer("spdl", "SPDL, threads", "threads"),
)  # fmt: skip
PEER_ROLES = ("processes", "threads", "alone")


def main() -> None:
    """Parse, make the set, measure in rounds, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="file for every single measurement")
    parser.add_argument(
        "--quick", action="store_true", help=f"one round of {QUICK_WINDOWS:,} windows, for a quick look"
    )
    parser.add_argument("--rounds", type=int, help="5, or 1 with --quick")
    parser.add_argument("--samples", type=int, default=NUM_SAMPLES, help="jpgs in the set")
    parser.add_argument("--work", type=Path, default=Path("bench"), help="keeps the set: about 4 GB of 20,000 jpgs")
    parser.add_argument("--cores", type=int, default=2, help="use at most so many cores")
    parser.add_argument("--real", action="store_true", help=f"jpgs of pack256.tar in the folder that {REAL_DATA} names")
    parser.add_argument(
        "--peers-python", type=Path, default=PEERS_VENV / "bin" / "python", help="Python that has the peers"
    )
    arguments = parser.parse_args()
    rounds = arguments.rounds or (1 if arguments.quick else 5)
    if min(rounds, arguments.cores) < 1 or arguments.samples < 4 * BATCH_WINDOWS:
        parser.error(f"--rounds and --cores must be at least 1, --samples at least {4 * BATCH_WINDOWS}")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])  # every process below inherits it
    with interruptible("bench_loader.py"):
        root, jpgs = the_set(arguments.work.resolve(), num_samples=arguments.samples, real=arguments.real)
        result = bench(
            root,
            # Not resolved: a virtual environment's Python is a link, and is what it is by its place.
            arguments.peers_python.absolute(),
            rounds=rounds,
            num_samples=arguments.samples,
            most_windows=QUICK_WINDOWS if arguments.quick else arguments.samples,
        )
    result["jpgs"] = jpgs
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print_result(result)


def bench(root: Path, peers_python: Path, *, rounds: int, num_samples: int, most_windows: int) -> dict[str, Any]:
    """Everything that is measured, as plain values.

    Args:
        root: Folder of the set.
        peers_python: Python of the peers' environment, which need not be there.
        rounds: How often.
        num_samples: Jpgs in the set.
        most_windows: Windows to time in each measurement, if the set has so many.
    """
    machine = machine_facts()
    missing = write_formats(root, peers_python)
    warm_page_cache(root)
    measured: list[dict[str, dict[str, Row]]] = []
    resumes: list[Row] = []
    for number in range(rounds):
        cells: dict[str, dict[str, Row]] = {}
        for cell in CELLS:
            say(f"round {number + 1} of {rounds}: {cell.name}")
            plan = batches_to_time(num_samples - cell.window_frames + 1, most_windows)
            subjects = [subject for subject in SUBJECTS if subject.takes(cell)]
            cells[cell.name] = {
                subject.name: measure(subject, cell, root, peers_python, plan, missing)
                for subject in (subjects if number % 2 == 0 else reversed(subjects))
            }
        measured.append(cells)
        resumes.append(child(Path(sys.executable), "bench_loader.resume", str(root)))
    machine["load_average_after"] = os.getloadavg()[0]
    result: dict[str, Any] = {
        "format": FORMAT,
        "machine": machine,
        "peers": child(peers_python, "bench_loader_peers.versions") if peers_python.is_file() else {},
        "num_samples": num_samples,
        "medians": medians(measured),
        "resume": {name: median(row.get(name) for row in resumes) for name in ("far_s", "set_s")},
        "missing": sorted({line for cells in measured for rows in cells.values() for line in missing_lines(rows)}),
        "rounds": measured,
        "resume_rounds": resumes,
    }
    return {**result, "goals": goals(result), "summary": summary(goals(result))}


def batches_to_time(num_windows: int, most_windows: int) -> dict[str, int]:
    """Batches to warm up with and batches to time, all within nine tenths of an epoch."""
    whole = num_windows * 9 // 10 // BATCH_WINDOWS
    warm_up = max(1, min(WARM_UP_BATCHES, whole // 4))
    return {"warm_up_batches": warm_up, "timed_batches": min(whole - warm_up, -(-most_windows // BATCH_WINDOWS))}


def measure(
    subject: Subject, cell: Cell, root: Path, peers_python: Path, plan: dict[str, int], missing: dict[str, str]
) -> Row:
    """One measurement in a process of its own: what it printed, or {"missing": why}."""
    is_peer = subject.role in PEER_ROLES
    if is_peer and not peers_python.is_file():
        return {
            "missing": f"no Python at {peers_python}; make an environment with {REQUIREMENTS}, or name one by --peers-python"
        }
    if is_peer and subject.subject in missing:
        return {"missing": missing[subject.subject]}
    return child(
        peers_python if is_peer else Path(sys.executable), subject.function, subject.subject, str(root),
        shuffled=cell.shuffled, window_frames=cell.window_frames, workers=subject.workers, **plan,
    )  # fmt: skip


def child(python: Path, function: str, *values: object, **options: object) -> Row:
    """The JSON that a function of these tools printed last in a fresh process, or {"missing": how that ended}."""
    given = ", ".join([*map(repr, values), *(f"{name}={value!r}" for name, value in options.items())])
    ran = run(python, "-c", f"import {function.partition('.')[0]}; {function}({given})")
    if ran.code == 0:
        row: Row = json.loads(ran.stdout.strip().splitlines()[-1])
        return row
    return {"missing": f"{(*values, function)[0]}: ended with code {ran.code}: {last_words(ran)}"}


def last_words(ran: Ran) -> str:
    """The last line that a command said."""
    return next(iter(ran.stderr.strip().splitlines()[-1:]), "nothing said")


def ours(how: str, root: str, **options: Any) -> None:
    """Print how fast our own loader is: "plain", or with one of its crops, by the name of its class."""
    from bench_loader_peers import Job, timed

    from infraredcity import loader

    job = Job(root=Path(root), **options)
    crop = None if how == "plain" else getattr(loader, how)()

    def make() -> Iterator["torch.Tensor"]:
        reader = loader.WindowReader([shards_of(root)], window_frames=job.window_frames, crop=crop)
        read = loader.batches if job.shuffled else loader.one_pass
        try:
            for windows in read(reader, batch_size=BATCH_WINDOWS):
                yield windows.frames
        finally:
            reader.close()

    print(json.dumps(timed(make, job)))


def in_dataloader(_: str, root: str, **options: Any) -> None:
    """Print how fast our windows come out of somebody else's DataLoader."""
    from bench_loader_peers import Job, timed
    from torch.utils.data import DataLoader

    from infraredcity.loader import PositionSampler, WindowDataset, WindowReader

    job = Job(root=Path(root), **options)

    def make() -> Iterator["torch.Tensor"]:
        dataset = WindowDataset(WindowReader([shards_of(root)], window_frames=job.window_frames))
        sampler = PositionSampler(dataset, batch_size=BATCH_WINDOWS)
        loader = DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=job.workers)
        return (batch["frames"] for batch in loader)

    print(json.dumps(timed(make, job)))


def decoding_alone(threads: str, root: str, **options: Any) -> None:
    """Print how fast jpgs in memory are decoded into one batch that is used again, by one thread or by one for each core.

    The threads do not wait for each other between batches: this is the most that a loader could reach.
    """
    from concurrent.futures import ThreadPoolExecutor

    from bench_loader_peers import Files, Job, empty_batch
    from simplejpeg import decode_jpeg  # noqa: TID251  # without what our reader does around it

    job = Job(root=Path(root), **options)
    data = Files(job.root / "files", 1)
    num_threads = 1 if threads == "one" else len(os.sched_getaffinity(0))
    jpgs = [data[number][0] for number in range(job.timed_batches * BATCH_WINDOWS)]
    batch = empty_batch(BATCH_WINDOWS, 1).numpy()

    def decode_share(first: int, count: int) -> None:
        for number in range(first, count, num_threads):
            decode_jpeg(jpgs[number], "RGB", buffer=batch[number % BATCH_WINDOWS])

    with ThreadPoolExecutor(num_threads) as pool:

        def decode(count: int) -> float:
            begun = time.perf_counter()
            list(pool.map(decode_share, range(num_threads), [count] * num_threads))
            return time.perf_counter() - begun

        decode(min(len(jpgs), job.warm_up_batches * BATCH_WINDOWS))
        print(json.dumps({"windows_per_s": len(jpgs) / decode(len(jpgs))}))


def resume(root: str) -> None:
    """Print seconds to the first positions of a far step: in the middle of 10^9 windows, and at step 10^6 of an open reader."""
    import numpy as np

    from infraredcity.loader import WindowReader
    from infraredcity.loader.order import WindowOrder

    begun = time.perf_counter()
    order = WindowOrder(num_windows=FAR_WINDOWS, seed=0, data_hash="0" * 64)
    first = FAR_WINDOWS // 2
    order.window_at(np.arange(first, first + BATCH_WINDOWS))
    far_s = time.perf_counter() - begun
    reader = WindowReader([shards_of(root)], window_frames=1)
    begun = time.perf_counter()
    first = FAR_STEP * BATCH_WINDOWS
    reader.order.window_at(np.arange(first, first + BATCH_WINDOWS))
    print(json.dumps({"far_s": far_s, "set_s": time.perf_counter() - begun}))


def shards_of(root: str) -> str:
    """The pattern of our shards."""
    return str(Path(root) / "shards" / "*.tar")


def the_set(work: Path, *, num_samples: int, real: bool) -> tuple[Path, dict[str, Any]]:
    """The folder that holds the set as files and as our shards, made if it is not there, and facts of its jpgs."""
    root = work / f"loader-{'real' if real else RECIPE}-{num_samples}"
    if not root.is_dir():
        say(f"making {root.name}")
        making = work / f"{root.name}.making"
        shutil.rmtree(making, ignore_errors=True)
        write_set(making, itertools.islice(real_jpgs() if real else made_jpgs(), num_samples))
        making.replace(root)
    sizes = [path.stat().st_size for path in (root / "files").iterdir()]
    return root, {"source": "pack256" if real else RECIPE, "num": len(sizes), "mean_bytes": statistics.mean(sizes)}


def write_set(root: Path, jpgs: Iterable[bytes]) -> None:
    """`root`/files with a file for each jpg, and `root`/shards as extract would leave them."""
    import numpy as np

    from infraredcity.shards import index
    from infraredcity.shards.writer import open_shard

    (root / "files").mkdir(parents=True)
    (root / "shards").mkdir()
    written = []
    numbered = enumerate(jpgs)
    for shard_number in itertools.count():
        part = list(itertools.islice(numbered, SHARD_SAMPLES))
        if not part:
            break
        with open_shard(root / "shards", f"bench-{CLIP_ID}-{shard_number:06d}.tar", image_format="jpg") as handle:
            for number, jpg in part:
                facts = {"clip": CLIP_ID, "frame_index": number, "pts": number, "width": SIDE_PX, "height": SIDE_PX}
                handle.writer.add(CLIP_ID, number, number, jpg, json.dumps(facts).encode(), size_px=(SIDE_PX, SIDE_PX))
                (root / "files" / f"{names.key_of(CLIP_ID, number)}.jpg").write_bytes(jpg)
        assert handle.info is not None
        written.append((handle.info, handle.writer.entries))
    num_samples = sum(info.num_samples for info, _ in written)
    one_run = np.zeros(num_samples, np.int32)
    made = index.from_entries(clip_id=CLIP_ID, frame_step=1, image_format="jpg", shards=written, run_ids=one_run)
    index_file.save(made, root / "shards")


def made_jpgs() -> Iterator[bytes]:
    """A camera panning over natural, noisy texture, without end; the same bytes with the same libraries.

    Contrasts and noise are chosen so that a jpg has the size and the decoding time of real footage at this size: 18.3 kB and
    0.21 ms on the machine where the frames of day streets in pack256 have 17.1 kB and 0.21 ms.
    """
    import numpy as np

    from infraredcity.stills.formats import encode

    random = np.random.default_rng(7)
    luma = texture(random, 2048, 1024, contrast=34.0)
    chroma = [texture(random, 1024, 512, contrast=14.0) for _ in range(2)]
    noise = random.normal(0.0, 1.0, (SIDE_PX * 2, SIDE_PX * 2)).astype(np.float32)
    for number in itertools.count():
        x, y = 4 * number, number
        row, column = random.integers(SIDE_PX), random.integers(SIDE_PX)
        bright = seamless(luma, x, y, SIDE_PX, SIDE_PX) + noise[row : row + SIDE_PX, column : column + SIDE_PX]
        blue, red = (seamless(plane, x, y, SIDE_PX, SIDE_PX) - np.float32(128) for plane in chroma)
        # Source of the factors: ITU-T T.871 (JFIF), section 7.
        colors = (bright + 1.402 * red, bright - 0.344136 * blue - 0.714136 * red, bright + 1.772 * blue)
        yield encode(np.stack(colors, axis=2).round().clip(0, 255).astype(np.uint8), "jpg", quality=95)


def real_jpgs() -> Iterator[bytes]:
    """The visible training pictures of pack256.tar, over and over."""
    path = Path(os.environ.get(REAL_DATA, ".")) / "pack256.tar"
    if not path.is_file():
        sys.exit(f"Error: {path}: no such file; set {REAL_DATA} to the folder of pack256.tar, or leave out --real")
    with tarfile.open(path) as tar:
        files = [tar.extractfile(member) for member in tar if member.isfile() and "/trainB/" in member.name]
        jpgs = [file.read() for file in files if file is not None]
    return itertools.cycle(jpgs)


def write_formats(root: Path, peers_python: Path) -> dict[str, str]:
    """Have the peers' environment write the set in the peers' formats where it is not yet; which peers cannot, and why."""
    missing: dict[str, str] = {}
    if not peers_python.is_file():
        return missing
    peers = {"wds": "webdataset", "mds": "mosaicml"}
    for name in FORMATS:
        target, making = root / name, root / f"{name}.making"
        if target.is_dir():
            continue
        say(f"writing {root.name}/{name}")
        shutil.rmtree(making, ignore_errors=True)
        wrote = child(peers_python, "bench_loader_peers.write_format", name, str(root), str(making))
        if "missing" not in wrote and name.startswith("energon"):
            wrote = prepare_energon(making, peers_python)
        if "missing" in wrote:
            kind = name.partition("-")[0]
            missing[peers.get(kind, kind)] = wrote["missing"]
            shutil.rmtree(making, ignore_errors=True)
        else:
            making.replace(target)
    return missing


def prepare_energon(folder: Path, peers_python: Path) -> Row:
    """Have Energon index the tars of a folder by its own command."""
    ran = run(
        peers_python.with_name("energon"), "prepare", folder, "--non-interactive", "--no-progress", "--num-workers", "1",
        "--split-parts", "train:.*", "--sample-type", "CrudeWebdataset",
    )  # fmt: skip
    return {} if ran.code == 0 else {"missing": f"energon prepare: {last_words(ran)}"}


def warm_page_cache(root: Path) -> None:
    """Read everything once."""
    for path in root.rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.read(1 << 22):
                    pass


def missing_lines(rows: dict[str, Row]) -> list[str]:
    """One line for each subject that could not run."""
    return [f"{name}: {row['missing']}" for name, row in rows.items() if "missing" in row]


def medians(measured: list[dict[str, dict[str, Row]]]) -> dict[str, dict[str, Row]]:
    """Cell -> subject -> the medians over rounds of its figures and of its speed by that of ours in the same round."""
    found: dict[str, dict[str, Row]] = {}
    for cell in CELLS:
        rounds = [cells[cell.name] for cells in measured]
        found[cell.name] = {}
        for subject in SUBJECTS:
            rows = [rows[subject.name] for rows in rounds if "windows_per_s" in rows.get(subject.name, {})]
            if rows:
                figures = {name: median(row[name] for row in rows) for name in rows[0]}
                ratio = median(ratio_in(cells, subject.name, "ours") for cells in rounds)
                found[cell.name][subject.name] = {**figures, "by_ours": ratio}
    return found


def ratio_in(rows: dict[str, Row], name: str, other: str) -> float | None:
    """Speed of one subject by that of another in a round; None where one of them did not run."""
    speeds = [rows.get(one, {}).get("windows_per_s") for one in (name, other)]
    return speeds[0] / speeds[1] if all(speeds) else None


def median(values: Iterable[float | None]) -> float | None:
    """Of those that are there; None of none."""
    there = [value for value in values if value is not None]
    return statistics.median(there) if there else None


def by_best(result: dict[str, Any], cell: str, name: str, roles: tuple[str, ...]) -> float | None:
    """Median over rounds of a subject's speed by that of the fastest of some roles in the same round."""
    others = [subject.name for subject in SUBJECTS if subject.role in roles]

    def in_round(rows: dict[str, Row]) -> float | None:
        ratios = [ratio for other in others if (ratio := ratio_in(rows, name, other)) is not None]
        return min(ratios, default=None)

    return median(in_round(cells[cell]) for cells in result["rounds"])


def least(values: Iterable[float | None]) -> float | None:
    """The smallest, or None if one of them is not there."""
    there = list(values)
    return None if None in there else min(there, default=None)


def goals(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Each goal with its figure (None: not measured) and whether it is met."""
    singles = [cell.name for cell in CELLS if cell.window_frames == 1]
    shuffled = [cell.name for cell in CELLS if cell.shuffled]
    rounds: list[dict[str, dict[str, Row]]] = result["rounds"]
    crops = [subject.name for subject in SUBJECTS if subject.role == "crops"]
    guest = next(subject.name for subject in SUBJECTS if subject.role == "guest")
    limit = "decoding alone, all cores"

    def against(name: str, other: str, cells: list[str]) -> Iterator[float | None]:
        return (median(ratio_in(measured[cell], name, other) for measured in rounds) for cell in cells)

    first = result["medians"][SHUFFLED_SINGLE].get("ours", {}).get("first_batch_s")
    processes = ("processes",)
    figures: list[tuple[str, float | None, float, Callable[[float], str]]] = [
        ("the best peer, in the worst cell",
         least(by_best(result, cell.name, "ours", PEER_ROLES) for cell in CELLS), 1.0, "{:.2f}x".format),
        ("the best peer with processes, single frames",
         least(by_best(result, cell, "ours", processes) for cell in singles), 1.8, "{:.2f}x".format),
        ("of decoding alone, single frames", least(against("ours", limit, singles)), 0.95, "{:.0%}".format),
        ("the best peer with processes, shuffled pairs",
         by_best(result, SHUFFLED_PAIRS, "ours", processes), 1.5, "{:.2f}x".format),
        ("the best peer with processes, in a DataLoader",
         least(by_best(result, cell, guest, processes) for cell in shuffled), 1.0, "{:.2f}x".format),
        ("of ours, with crops", least(least(against(crop, "ours", shuffled)) for crop in crops), 0.8, "{:.0%}".format),
        ("s to the first batch", first, 0.1, "{:.3f}".format),
        ("s to resume", max(filter(None, result["resume"].values()), default=None), 0.05, "{:.4f}".format),
    ]  # fmt: skip
    found = []
    for what, figure, target, shown in figures:
        is_time = what.startswith("s to")
        is_met = figure is not None and (figure <= target if is_time else figure >= target)
        text = f"{'not measured' if figure is None else shown(figure)} {what} (goal {'<' if is_time else '>='} {shown(target)})"
        found.append({"what": what, "figure": figure, "target": target, "is_met": is_met, "text": text})
    return found


def summary(found: list[dict[str, Any]]) -> str:
    """One line about everything."""
    parts = [
        goal["text"] if goal["is_met"] else f"MISSED {goal['text']}" for goal in found if goal["figure"] is not None
    ]
    left_out = sum(goal["figure"] is None for goal in found)
    met = sum(goal["is_met"] for goal in found)
    note = f", {left_out} not measured" if left_out else ""
    return f"loader: {met} of {len(found)} goals met{note}: {'; '.join(parts)}"


def print_result(result: dict[str, Any]) -> None:
    """The table, what could not run, and the summary as the last line."""
    rows = []
    for subject in SUBJECTS:
        cells = {cell.name: result["medians"][cell.name].get(subject.name, {}) for cell in CELLS}
        rows.append({"windows per second": subject.name, **{name: _shown(row) for name, row in cells.items()},
                     "first batch": _first_batch(cells[SHUFFLED_SINGLE])})  # fmt: skip
    print(table(list(rows[0]), rows))
    print()
    for line in result["missing"]:
        print(f"not run: {line}")
    jpgs = result["jpgs"]
    print(
        f"{jpgs['num']:,} jpgs of {jpgs['mean_bytes'] / 1000:.1f} kB ({jpgs['source']}); in brackets: by ours in the same round"
    )
    print(machine_line(result["machine"]))
    print(result["summary"])


def _shown(row: Row) -> str:
    if "windows_per_s" not in row:
        return "-"
    ratio = f" ({row['by_ours']:.2f})" if row["by_ours"] is not None else ""
    return f"{row['windows_per_s']:,.0f}{ratio}"


def _first_batch(row: Row) -> str:
    return f"{row['first_batch_s'] * 1000:,.0f} ms" if "first_batch_s" in row else "-"


if __name__ == "__main__":
    main()
