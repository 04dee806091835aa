"""The Lite set: train and test frames drawn from the long clips by a recipe, with a guard gap between them.

The counts of `manifests/lite.toml` are published; how the authors drew the frames is not. Here, a clip that gives test frames is
cut into equal time blocks, one per test run, and each test run closes its block. Train runs are spread evenly over what lies at
least `guard_frames` away from every test run. All runs are consecutive frames, so windows of neighbours survive the selection.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np

from infraredcity.datasets import clip_facts, similarity
from infraredcity.datasets.build import BuildRecord, check_apart
from infraredcity.datasets.clip_facts import ClipFacts
from infraredcity.datasets.dataset import dataset_hash, write_manifest
from infraredcity.datasets.folder import ShardFolder, write_folder
from infraredcity.datasets.recipe import Cell, Recipe
from infraredcity.datasets.similarity import DuplicateRun, Leakage
from infraredcity.errors import RecipeError
from infraredcity.files.lock import lock_folder
from infraredcity.files.path import AnyPath
from infraredcity.progress import OnProgress, Ticker
from infraredcity.shards import copy, index_file
from infraredcity.shards import index as sample_index
from infraredcity.shards.copy import Copied
from infraredcity.shards.index import SampleIndex
from infraredcity.stills import phash

REPORT_NAME = "lite.json"
SAMPLES_PER_SHARD = 256
FORMAT = "infraredcity-lite-2"
Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
_SCALE_STEPS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LiteRow:
    """What one clip gave to one split."""

    scene: str
    weather: str
    modality: str
    split: str
    clip: str
    num_frames: int
    num_runs: int
    num_shards: int
    folder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LiteReport:
    """What a Lite set holds; stored as lite.json.

    Attributes:
        folder: Where it lies.
        recipe: The recipe's name.
        scale: Factor on the recipe's counts.
        guard_frames: The guard that was kept, in frames of the clip.
        num_frames: Frames over all rows.
        manifest_hash: sha256 over what the samples are, see `manifest.dataset_hash`.
        rows: One per clip and split.
        leakage: For each modality with train and test samples, how close these come to each other.
        duplicate_runs: Runs that are nearly the same as another one; their samples name theirs in `dup_of`. None is dropped.
        is_new: False when the set was there already.
    """

    folder: str
    recipe: str
    scale: float
    guard_frames: int
    num_frames: int
    manifest_hash: str
    rows: tuple[LiteRow, ...]
    leakage: tuple[Leakage, ...] = ()
    duplicate_runs: tuple[DuplicateRun, ...] = ()
    is_new: bool = True


def select(index: SampleIndex, cell: Cell, recipe: Recipe) -> dict[Split, list[range]]:
    """Choose the runs of rows that a cell takes from its clip's index, in ascending order; a pure function.

    Raises:
        RecipeError: The clip is too short, or too broken by gaps; `shortfalls` says what is missing.
    """
    return _selected(_stretches(index), len(index), index.frame_steps[0], cell, recipe)


def _stretches(index: SampleIndex) -> list[range]:
    # Frozen frames are footage; windows do not span them, since runs are copied with the rows.
    return [range(start, start + length) for start, length in index.stretches(spans_stills=True).tolist()]


def _selected(
    stretches: Sequence[range], num_rows: int, frame_step: int, cell: Cell, recipe: Recipe
) -> dict[Split, list[range]]:
    guard_rows = math.ceil(recipe.guard_frames / frame_step)
    shortfalls = [
        f"{cell.clip} {split}: {count} frames are less than one window of {recipe.window_frames}"
        for split, count in (("train", cell.train), ("test", cell.test))
        if 0 < count < recipe.window_frames
    ]
    if shortfalls:
        raise RecipeError(shortfalls[0], tuple(shortfalls))
    test: list[range] = []
    try:
        test = _closing_runs(stretches, num_rows, _run_lengths(cell.test, recipe), cell.clip)
    except RecipeError as error:
        shortfalls += error.shortfalls
    free = [
        piece
        for stretch in stretches
        for piece in _without(stretch, [range(run.start - guard_rows, run.stop + guard_rows) for run in test])
    ]
    train: list[range] = []
    try:
        train = _spread_runs(free, _run_lengths(cell.train, recipe), cell.clip)
    except RecipeError as error:
        shortfalls += error.shortfalls
    if shortfalls:
        raise RecipeError("; ".join(shortfalls), tuple(shortfalls))
    return {"train": train, "test": test}


def find_scale(indexes: Mapping[str, SampleIndex], recipe: Recipe) -> float:
    """Find the largest factor, to four digits, at which every clip is long enough; 1.0 when the whole recipe fits.

    Raises:
        RecipeError: Not even the smallest factor fits.
    """
    stretches = {clip: _stretches(index) for clip, index in indexes.items()}
    cells = {cell.clip: cell for cell in recipe.cells}

    def fits(clip: str, scaled: Recipe) -> bool:
        index = indexes[clip]
        (cell,) = (cell for cell in scaled.cells if cell.clip == clip)
        try:
            _selected(stretches[clip], len(index), index.frame_steps[0], cell, scaled)
        except RecipeError:
            return False
        return True

    # A smaller scale may fail where a larger one fits (fewer and longer blocks), so no bisection: from the top, one by one.
    most = min(len(indexes[clip]) / (cell.train + cell.test) for clip, cell in cells.items())
    tightest = next(iter(cells))
    for step in range(min(_SCALE_STEPS, math.ceil(most * _SCALE_STEPS)), 0, -1):
        scale = step / _SCALE_STEPS
        try:
            scaled = recipe.scaled(scale)
        except RecipeError:  # under one window, and below here it stays so
            break
        misfit = next((clip for clip in (tightest, *cells) if not fits(clip, scaled)), None)
        if misfit is None:
            return scale
        tightest = misfit
    raise RecipeError("no scale fits: the clips are too short for one window of train and test frames each")


def build(
    source: AnyPath,
    out: AnyPath,
    recipe: Recipe,
    *,
    scale: float | Literal["auto"] = 1.0,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> LiteReport:
    """Write a Lite set: `out`/<scene>/{infrared-train, infrared-test, visible-train, ...} with shards, indexes and manifests.

    Args:
        source: Folder of extracted clips, one folder per clip id; of one on another machine only what is chosen is moved.
        out: Folder to write; on another machine there is no lock, see `derived`.
        recipe: What to take.
        scale: Factor on the recipe's counts, in (0, 1]; "auto" takes the largest that fits the clips.
        overwrite: Replace a Lite set of another recipe, scale or source in `out`.
        on_progress: Called with the frames copied.

    Raises:
        RecipeError: Clips are missing or too short; the message lists every shortfall.
        ManifestError, ShardError: A clip's folder is incomplete or damaged.
        OutputError: `out` holds another Lite set, lies in `source`, or cannot be written.
    """
    if scale != "auto" and not 0 < scale <= 1:
        raise ValueError(f"scale must be in (0, 1] or auto, got {scale}")
    if not recipe.cells:
        raise RecipeError(f"recipe {recipe.name} has no cells")
    check_apart(out, source)
    indexes, facts = _read_clips(source, recipe)
    factor = find_scale(indexes, recipe) if scale == "auto" else scale
    scaled = recipe.scaled(factor) if factor != 1.0 else recipe
    chosen = _select_all(indexes, scaled)
    modalities = {clip: facts[clip].modality for clip in facts}
    folders = sorted(
        {
            f"{cell.scene}/{modalities[cell.clip]}-{split}"
            for cell in scaled.cells
            for split in SPLITS
            if chosen[cell.clip][split]
        }
    )
    record = BuildRecord(
        out=out,
        record_name=REPORT_NAME,
        what="a Lite set",
        format=FORMAT,
        report_type=LiteReport,
        inputs={"recipe": asdict(scaled), "clips": {clip: index.samples_hash() for clip, index in indexes.items()}},
        folders=folders,
    )
    with lock_folder(out):
        earlier = record.find(overwrite=overwrite)
        if earlier is not None:
            return earlier
        record.begin()
        rows, copied = _copy_all(source, out, scaled, indexes, facts, chosen, on_progress)
        parts = [
            ShardFolder(
                path=out / folder,
                name=folder,
                index=sample_index.concatenate([each.samples.index for each in copied[folder]]),
                clips=facts,
                split=folder.rpartition("-")[2],
            )
            for folder in folders
        ]
        hashed = [np.concatenate([each.hashes for each in copied[folder]]) for folder in folders]
        alike = similarity.find(parts, hashed=hashed)
        parts = [
            write_folder(
                out,
                part.name,
                replace(part.index, dup_of=dup_of),
                facts,
                split=part.split,
                json_sizes=np.concatenate([each.samples.json_sizes for each in copied[part.name]]),
            )
            for part, dup_of in zip(parts, alike.dup_of, strict=True)
        ]
        write_manifest(out, parts)
        report = LiteReport(
            folder=str(out),
            recipe=recipe.name,
            scale=factor,
            guard_frames=scaled.guard_frames,
            num_frames=sum(row.num_frames for row in rows),
            manifest_hash=dataset_hash(parts),
            rows=tuple(rows),
            leakage=alike.leakage,
            duplicate_runs=alike.runs,
        )
        return record.end(report)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Copied:
    """What one clip gave to one split, and u64 [N], the perceptual hashes of its pictures."""

    samples: Copied
    hashes: np.ndarray


def _copy_all(
    source: AnyPath,
    out: AnyPath,
    recipe: Recipe,
    indexes: Mapping[str, SampleIndex],
    facts: Mapping[str, ClipFacts],
    chosen: Mapping[str, Mapping[Split, Sequence[range]]],
    on_progress: OnProgress | None,
) -> tuple[list[LiteRow], dict[str, list[_Copied]]]:
    """Copy the chosen runs; what each clip gave to each split, and the same by folder."""
    rows: list[LiteRow] = []
    copied: dict[str, list[_Copied]] = {}
    total = sum(len(run) for runs in chosen.values() for part in runs.values() for run in part)
    on_samples = Ticker("lite: frames", total, on_progress).add
    for cell in recipe.cells:
        for split in SPLITS:
            runs = chosen[cell.clip][split]
            if not runs:
                continue
            clip = facts[cell.clip]
            folder = f"{cell.scene}/{clip.modality}-{split}"
            weather = "" if clip.weather == "any" else f"-{clip.weather}"
            with phash.Hasher() as hasher:  # while they pass by: read once, from wherever, is enough
                samples = copy.copy(
                    source / cell.clip,
                    indexes[cell.clip],
                    np.concatenate([np.arange(run.start, run.stop) for run in runs]),
                    out / folder,
                    dataset=f"{recipe.name}{weather}-{split}",
                    samples_per_shard=SAMPLES_PER_SHARD,
                    on_samples=on_samples,
                    on_picture=hasher.add,
                )
                copied.setdefault(folder, []).append(_Copied(samples=samples, hashes=hasher.hashes()))
            rows.append(
                LiteRow(
                    scene=cell.scene,
                    weather=clip.weather,
                    modality=clip.modality,
                    split=split,
                    clip=cell.clip,
                    num_frames=len(samples.index),
                    num_runs=len(runs),
                    num_shards=len(samples.index.shards),
                    folder=folder,
                )
            )
    return rows, copied


def _read_clips(source: AnyPath, recipe: Recipe) -> tuple[dict[str, SampleIndex], dict[str, ClipFacts]]:
    missing = [cell.clip for cell in recipe.cells if not (source / cell.clip / clip_facts.CLIPS_NAME).is_file()]
    if missing:
        raise RecipeError(
            f"{source}: these clips of the recipe are not extracted: {', '.join(missing)}; "
            "run infraredcity extract for them, choose scenes with --scene, or name a recipe of your own clips with --recipe "
            "(manifests/lite.toml shows the format)",
            tuple(f"{clip}: not extracted" for clip in missing),
        )
    indexes, facts = {}, {}
    for cell in recipe.cells:
        folder = source / cell.clip
        indexes[cell.clip] = index_file.load(folder)
        facts[cell.clip] = clip_facts.read_clips(folder)[cell.clip]
    return indexes, facts


def _select_all(indexes: Mapping[str, SampleIndex], recipe: Recipe) -> dict[str, dict[Split, list[range]]]:
    chosen: dict[str, dict[Split, list[range]]] = {}
    shortfalls: list[str] = []
    for cell in recipe.cells:
        try:
            chosen[cell.clip] = select(indexes[cell.clip], cell, recipe)
        except RecipeError as error:
            shortfalls += error.shortfalls
    if shortfalls:
        raise RecipeError(
            f"recipe {recipe.name} does not fit: {'; '.join(shortfalls)}; use longer clips or --scale auto",
            tuple(shortfalls),
        )
    return chosen


def _run_lengths(count: int, recipe: Recipe) -> list[int]:
    """Cut `count` frames into runs of run_frames, the last one cut to fit but never under one window."""
    if count == 0:
        return []
    full, rest = divmod(count, recipe.run_frames)
    lengths = [recipe.run_frames] * full + ([rest] if rest else [])
    if len(lengths) > 1 and 0 < rest < recipe.window_frames:
        lengths[-2:] = [recipe.run_frames + rest - recipe.window_frames, recipe.window_frames]
        if lengths[-2] < recipe.window_frames:  # runs hardly longer than a window: the last one takes the rest as well
            lengths[-2:] = [recipe.run_frames + rest]
    return lengths


def _closing_runs(stretches: Sequence[range], num_rows: int, lengths: Sequence[int], clip: str) -> list[range]:
    """Place one run per equal time block, as late in its block as unbroken frames allow."""
    runs: list[range] = []
    for number, length in enumerate(lengths):
        block = range(num_rows * number // len(lengths), num_rows * (number + 1) // len(lengths))
        inside = [range(max(s.start, block.start), min(s.stop, block.stop)) for s in stretches]
        fitting = [piece for piece in inside if len(piece) >= length]
        if not fitting:
            longest = max((len(piece) for piece in inside), default=0)
            message = (
                f"{clip} test: {sum(lengths)} frames need {len(lengths)} unbroken runs of {max(lengths)}, block "
                f"{number + 1} of {len(lengths)} has {longest} in a row"
            )
            raise RecipeError(message, (message,))
        stop = fitting[-1].stop
        runs.append(range(stop - length, stop))
    return runs


def _spread_runs(free: Sequence[range], lengths: Sequence[int], clip: str) -> list[range]:
    """Spread runs of the given lengths evenly over the free pieces, each inside one piece."""
    if not lengths:
        return []
    usual = lengths[0]
    num_full = lengths.count(usual)
    capacity = [len(piece) // usual for piece in free]
    if sum(capacity) >= num_full:
        per_piece = _share(num_full, [len(piece) for piece in free], capacity)
        placed = [[usual] * count for count in per_piece]
        fits = True
        for length in [length for length in lengths if length != usual]:  # what was cut, as late as it fits
            room = [len(piece) - sum(inside) for piece, inside in zip(free, placed, strict=True)]
            candidates = [place for place, left in enumerate(room) if left >= length]
            if not candidates:
                fits = False
                break
            placed[candidates[-1]].append(length)
        if fits:
            return [run for piece, inside in zip(free, placed, strict=True) for run in _evenly(piece, inside)]
    available = sum(len(piece) for piece in free)
    message = (
        f"{clip} train: {sum(lengths)} frames are asked for, {available} are far enough from test frames, "
        f"{sum(capacity) * usual} of them in unbroken runs of {usual}"
    )
    raise RecipeError(message, (message,))


def _share(total: int, weights: Sequence[int], capacity: Sequence[int]) -> list[int]:
    """Share `total` things in proportion to the weights, none over its capacity; the sum of capacities suffices."""
    whole = sum(weights)
    ideal = [total * weight / whole for weight in weights]
    dealt = [min(math.floor(wish), room) for wish, room in zip(ideal, capacity, strict=True)]
    while sum(dealt) < total:
        place = max(
            (place for place in range(len(dealt)) if dealt[place] < capacity[place]),
            key=lambda place: (ideal[place] - dealt[place], -place),
        )
        dealt[place] += 1
    return dealt


def _evenly(piece: range, lengths: Sequence[int]) -> list[range]:
    """Place runs of the given lengths inside one piece, the slack shared evenly before, between and behind them."""
    slack = len(piece) - sum(lengths)
    runs, used = [], 0
    for number, length in enumerate(lengths):
        start = piece.start + used + slack * (2 * number + 1) // (2 * len(lengths))
        runs.append(range(start, start + length))
        used += length
    return runs


def _without(stretch: range, taken: Sequence[range]) -> list[range]:
    """Return what is left of a stretch when ranges are cut out of it."""
    pieces = [stretch]
    for cut in taken:
        pieces = [
            part
            for piece in pieces
            for part in (range(piece.start, min(piece.stop, cut.start)), range(max(piece.start, cut.stop), piece.stop))
            if len(part) > 0
        ]
    return pieces
