"""The Lite set: train and test frames drawn from the long clips by a recipe, with a guard gap between them.

The counts of `manifests/lite.toml` are published; how the authors drew the frames is not. Here, a clip that gives test frames is
cut into equal time blocks, one per test run, and each test run closes its block. Train runs are spread evenly over what lies at
least `guard_frames` away from every test run. All runs are consecutive frames, so windows of neighbours survive the selection.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from infraredcity import index as sample_index
from infraredcity import manifest, shards
from infraredcity.catalog import check_clip_id, manifests_folder, read_toml
from infraredcity.errors import CatalogError, OutputError, RecipeError
from infraredcity.index import SampleIndex
from infraredcity.manifest import ClipFacts
from infraredcity.progress import OnProgress, Progress
from infraredcity.storage import lock_folder, remove_temporaries, write_atomic

REPORT_NAME = "lite.json"
SAMPLES_PER_SHARD = 256
FORMAT = "infraredcity-lite-1"
Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")
_SMALLEST_SCALE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What the recipe takes of one clip: `train` and `test` frames, for the folders of `scene`."""

    scene: str
    clip: str
    train: int = 0
    test: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A Lite recipe.

    Attributes:
        name: Begins the names of its shards.
        run_frames: Samples taken together, in a row.
        guard_frames: Frames of the clip that lie at least between a train frame and a test frame.
        window_frames: T, the frames of a training window; no run is shorter.
        cells: What is taken of each clip.
    """

    name: str
    run_frames: int
    guard_frames: int
    window_frames: int
    cells: tuple[Cell, ...]

    def __post_init__(self) -> None:
        check_clip_id(self.name)
        if self.window_frames < 1 or self.run_frames < self.window_frames or self.guard_frames < 0:
            raise RecipeError(
                f"recipe {self.name}: needs window_frames of at least 1, run_frames of at least window_frames and "
                f"guard_frames of at least 0, got {self.window_frames}, {self.run_frames}, {self.guard_frames}"
            )
        clips = [cell.clip for cell in self.cells]
        doubled = sorted({clip for clip in clips if clips.count(clip) > 1})
        if doubled:
            raise RecipeError(f"recipe {self.name}: clip {doubled[0]} stands in two cells; put its counts into one")
        for cell in self.cells:
            check_clip_id(cell.clip)
            check_clip_id(cell.scene)
            if min(cell.train, cell.test) < 0 or cell.train + cell.test == 0:
                raise RecipeError(f"recipe {self.name}: clip {cell.clip} needs a positive train or test count")

    def scaled(self, scale: float) -> "Recipe":
        """The recipe for shorter clips: counts rounded down, the guard scaled but never under one window."""
        return replace(
            self,
            guard_frames=max(min(self.guard_frames, self.window_frames), math.floor(self.guard_frames * scale)),
            cells=tuple(
                replace(cell, train=math.floor(cell.train * scale), test=math.floor(cell.test * scale))
                for cell in self.cells
            ),
        )


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
        manifest_hash: sha256 over what the samples are.
        rows: One per clip and split.
        is_new: False when the set stood there already.
    """

    folder: str
    recipe: str
    scale: float
    guard_frames: int
    num_frames: int
    manifest_hash: str
    rows: tuple[LiteRow, ...]
    is_new: bool = True


def read_recipe(path: Path | None = None) -> Recipe:
    """A recipe file, or the published `manifests/lite.toml`.

    Raises:
        RecipeError: It lacks a key, has an unknown one, or asks for something impossible.
        CatalogError: It cannot be read, or is not TOML.
    """
    path = path or manifests_folder() / "lite.toml"
    values = read_toml(path)
    try:
        cells = [Cell(**cell) for cell in values.pop("cells")]
        recipe = Recipe(cells=tuple(cells), **values)
        counts = [recipe.run_frames, recipe.guard_frames, recipe.window_frames]
        counts += [count for cell in cells for count in (cell.train, cell.test)]
        if not all(type(count) is int for count in counts):
            raise TypeError("counts must be whole numbers")
    except KeyError as error:
        raise RecipeError(f"{path}: lacks {error}; copy manifests/lite.toml and change it") from error
    except TypeError as error:
        raise RecipeError(f"{path}: {error}; copy manifests/lite.toml and change it") from error
    except (RecipeError, CatalogError) as error:
        raise RecipeError(f"{path}: {error}") from error
    return recipe


def of_scenes(recipe: Recipe, scenes: Sequence[str]) -> Recipe:
    """The recipe's cells of some scenes; RecipeError names the known ones when one is unknown."""
    known = {cell.scene for cell in recipe.cells}
    for scene in scenes:
        if scene not in known:
            raise RecipeError(f"recipe {recipe.name} has no scene {scene!r}; it has {', '.join(sorted(known))}")
    return replace(recipe, cells=tuple(cell for cell in recipe.cells if cell.scene in scenes))


def select(index: SampleIndex, cell: Cell, recipe: Recipe) -> dict[Split, list[range]]:
    """The runs of rows that a cell takes from its clip's index, in ascending order; a pure function.

    Raises:
        RecipeError: The clip is too short, or too broken by gaps; `shortfalls` says what is missing.
    """
    guard_rows = math.ceil(recipe.guard_frames / index.frame_steps[0])
    stretches = [range(int(start), int(start + length)) for start, length in index.stretches()]
    shortfalls = [
        f"{cell.clip} {split}: {count} frames are less than one window of {recipe.window_frames}"
        for split, count in (("train", cell.train), ("test", cell.test))
        if 0 < count < recipe.window_frames
    ]
    if shortfalls:
        raise RecipeError(shortfalls[0], tuple(shortfalls))
    test = _closing_runs(stretches, len(index), _run_lengths(cell.test, recipe), cell.clip)
    free = [
        piece
        for stretch in stretches
        for piece in _without(stretch, [range(run.start - guard_rows, run.stop + guard_rows) for run in test])
    ]
    train = _spread_runs(free, _run_lengths(cell.train, recipe), cell.clip)
    return {"train": train, "test": test}


def find_scale(indexes: Mapping[str, SampleIndex], recipe: Recipe) -> float:
    """The largest factor, to four digits, at which every clip is long enough; 1.0 when the whole recipe fits.

    Raises:
        RecipeError: Not even the smallest factor fits.
    """
    if _fits(indexes, recipe):
        return 1.0
    low, high = 0, round(1 / _SMALLEST_SCALE)
    while high - low > 1:
        middle = (low + high) // 2
        # What is too small for one window fails as well, but for it more is needed, not less.
        if _fits(indexes, recipe.scaled(middle * _SMALLEST_SCALE)) or _is_under_window(recipe, middle):
            low = middle
        else:
            high = middle
    scale = round(low * _SMALLEST_SCALE, 4)
    if low == 0 or not _fits(indexes, recipe.scaled(scale)):
        raise RecipeError("no scale fits: the clips are too short for one window of train and test frames each")
    return scale


def build(
    source: Path,
    out: Path,
    recipe: Recipe,
    *,
    scale: float | Literal["auto"] = 1.0,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> LiteReport:
    """Write a Lite set: `out`/<scene>/{infrared-train, infrared-test, visible-train, ...} with shards, indexes and manifests.

    Args:
        source: Folder of extracted clips, one folder per clip id.
        out: Folder to write.
        recipe: What to take.
        scale: Factor on the recipe's counts, in (0, 1]; "auto" takes the largest that fits the clips.
        overwrite: Replace a Lite set of another recipe, scale or source that stands in `out`.
        on_progress: Told of frames copied.

    Raises:
        RecipeError: Clips are missing or too short; the message lists every shortfall.
        ManifestError, ShardError: A clip's folder is incomplete or damaged.
        OutputError: `out` holds another Lite set, or cannot be written.
    """
    if scale != "auto" and not 0 < scale <= 1:
        raise ValueError(f"scale must be in (0, 1] or auto, got {scale}")
    if not recipe.cells:
        raise RecipeError(f"recipe {recipe.name} has no cells")
    indexes, facts = _read_clips(source, recipe)
    factor = find_scale(indexes, recipe) if scale == "auto" else scale
    scaled = recipe.scaled(factor) if factor != 1.0 else recipe
    chosen = _select_all(indexes, scaled)
    inputs_hash = _inputs_hash(indexes, scaled)
    with lock_folder(out):
        standing = _standing(out, inputs_hash, overwrite=overwrite)
        if standing is not None:
            return standing
        total = sum(len(run) for runs in chosen.values() for part in runs.values() for run in part)
        done = 0

        def on_samples(count: int) -> None:
            nonlocal done
            done += count
            if on_progress is not None and (done % 256 == 0 or done == total):
                on_progress(Progress(what="lite: frames", done=done, total=total))

        rows: list[LiteRow] = []
        parts: dict[Path, list[SampleIndex]] = {}
        for cell in scaled.cells:
            for split in SPLITS:
                runs = chosen[cell.clip][split]
                if not runs:
                    continue
                clip = facts[cell.clip]
                folder = out / cell.scene / f"{clip.modality}-{split}"
                weather = "" if clip.weather == "any" else f"-{clip.weather}"
                copied = shards.copy(
                    source / cell.clip,
                    indexes[cell.clip],
                    np.concatenate([np.arange(run.start, run.stop) for run in runs]),
                    folder,
                    dataset=f"{recipe.name}{weather}-{split}",
                    samples_per_shard=SAMPLES_PER_SHARD,
                    on_samples=on_samples,
                )
                parts.setdefault(folder, []).append(copied)
                rows.append(
                    LiteRow(
                        scene=cell.scene,
                        weather=clip.weather,
                        modality=clip.modality,
                        split=split,
                        clip=cell.clip,
                        num_frames=len(copied),
                        num_runs=len(runs),
                        num_shards=len(copied.shards),
                        folder=folder.relative_to(out).as_posix(),
                    )
                )
        manifest_hash = _write_manifests(out, parts, facts)
        report = LiteReport(
            folder=str(out),
            recipe=recipe.name,
            scale=factor,
            guard_frames=scaled.guard_frames,
            num_frames=sum(row.num_frames for row in rows),
            manifest_hash=manifest_hash,
            rows=tuple(rows),
        )
        payload = {"format": FORMAT, "inputs_hash": inputs_hash, "recipe": asdict(scaled), "report": asdict(report)}
        write_atomic(out / REPORT_NAME, (json.dumps(payload, indent=1) + "\n").encode())
        return report


def _read_clips(source: Path, recipe: Recipe) -> tuple[dict[str, SampleIndex], dict[str, ClipFacts]]:
    missing = [cell.clip for cell in recipe.cells if not (source / cell.clip / manifest.CLIPS_NAME).is_file()]
    if missing:
        raise RecipeError(
            f"{source}: these clips of the recipe are not extracted: {', '.join(missing)}; "
            "run infraredcity extract for them, or choose scenes with --scene",
            tuple(f"{clip}: not extracted" for clip in missing),
        )
    indexes, facts = {}, {}
    for cell in recipe.cells:
        folder = source / cell.clip
        indexes[cell.clip] = sample_index.load(folder)
        facts[cell.clip] = manifest.read_clips(folder)[cell.clip]
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


def _fits(indexes: Mapping[str, SampleIndex], recipe: Recipe) -> bool:
    try:
        _select_all(indexes, recipe)
    except RecipeError:
        return False
    return True


def _is_under_window(recipe: Recipe, ten_thousandths: int) -> bool:
    counts = [
        math.floor(count * ten_thousandths * _SMALLEST_SCALE)
        for cell in recipe.cells
        for count in (cell.train, cell.test)
        if count
    ]
    return min(counts) < recipe.window_frames


def _run_lengths(count: int, recipe: Recipe) -> list[int]:
    """`count` frames as runs of run_frames, the last one cut to fit but never under one window."""
    if count == 0:
        return []
    full, rest = divmod(count, recipe.run_frames)
    lengths = [recipe.run_frames] * full + ([rest] if rest else [])
    if len(lengths) > 1 and 0 < rest < recipe.window_frames:
        lengths[-2] -= recipe.window_frames - rest
        lengths[-1] = recipe.window_frames
    return lengths


def _closing_runs(stretches: Sequence[range], num_rows: int, lengths: Sequence[int], clip: str) -> list[range]:
    """One run per equal time block, as late in its block as unbroken frames allow."""
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
    """Runs of the given lengths spread evenly over the free pieces, each inside one piece."""
    if not lengths:
        return []
    longest = max(lengths)
    num_full = sum(length == longest for length in lengths)
    capacity = [len(piece) // longest for piece in free]
    if sum(capacity) >= num_full:
        per_piece = _share(num_full, [len(piece) for piece in free], capacity)
        placed = [[longest] * count for count in per_piece]
        fits = True
        for length in [length for length in lengths if length != longest]:  # what was cut, as late as it fits
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
        f"{sum(capacity) * longest} of them in unbroken runs of {longest}"
    )
    raise RecipeError(message, (message,))


def _share(total: int, weights: Sequence[int], capacity: Sequence[int]) -> list[int]:
    """`total` things dealt in proportion to the weights, none over its capacity; the sum of capacities suffices."""
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
    """Runs of the given lengths inside one piece, the slack shared evenly before, between and behind them."""
    slack = len(piece) - sum(lengths)
    runs, used = [], 0
    for number, length in enumerate(lengths):
        start = piece.start + used + slack * (2 * number + 1) // (2 * len(lengths))
        runs.append(range(start, start + length))
        used += length
    return runs


def _without(stretch: range, taken: Sequence[range]) -> list[range]:
    """What is left of a stretch when ranges are cut out of it."""
    pieces = [stretch]
    for cut in taken:
        pieces = [
            part
            for piece in pieces
            for part in (range(piece.start, min(piece.stop, cut.start)), range(max(piece.start, cut.stop), piece.stop))
            if len(part) > 0
        ]
    return pieces


def _inputs_hash(indexes: Mapping[str, SampleIndex], recipe: Recipe) -> str:
    inputs = {"recipe": asdict(recipe), "clips": {clip: index.rows_hash() for clip, index in indexes.items()}}
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _standing(out: Path, inputs_hash: str, *, overwrite: bool) -> LiteReport | None:
    """The report of the same set if it stands in `out`; otherwise the place is cleared, or found to be taken."""
    path = out / REPORT_NAME
    if path.exists() and not overwrite:
        try:
            payload: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            report = dict(payload["report"])
            same = payload["inputs_hash"] == inputs_hash
            rows = tuple(LiteRow(**row) for row in report.pop("rows"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(f"{path}: damaged ({error}); build it anew with --overwrite") from error
        if not same:
            raise OutputError(
                f"{out}: holds a Lite set of another recipe, scale or source; use another --out, or --overwrite"
            )
        folders = {out / row.folder for row in rows}
        if all(_is_whole(folder) for folder in folders):
            return LiteReport(**{**report, "folder": str(out), "rows": rows, "is_new": False})
    path.unlink(missing_ok=True)
    for folder in sorted(out.glob("*/*-*")):
        if folder.is_dir() and folder.name.rpartition("-")[2] in SPLITS:
            (folder / manifest.CLIPS_NAME).unlink(missing_ok=True)
            remove_temporaries(folder)
            for stale in [*folder.glob("*.tar"), *folder.glob("*.idx"), folder / sample_index.INDEX_NAME]:
                stale.unlink(missing_ok=True)
    return None


def _is_whole(folder: Path) -> bool:
    if not (folder / manifest.CLIPS_NAME).is_file() or not (folder / sample_index.INDEX_NAME).is_file():
        return False
    infos = sample_index.load(folder).shards
    return all(
        (folder / info.name).is_file() and (folder / info.name).stat().st_size == info.size_bytes for info in infos
    )


def _write_manifests(out: Path, parts: Mapping[Path, Sequence[SampleIndex]], facts: Mapping[str, ClipFacts]) -> str:
    """Index, manifest and clips.json of every folder, and the manifest of the whole set; returns the whole set's hash."""
    import pandas

    digest = hashlib.sha256()
    tables = []
    for folder, indexes in parts.items():
        index = sample_index.concatenate(indexes)
        split = folder.name.rpartition("-")[2]
        clips = {clip: facts[clip] for clip in index.clips}
        frame = manifest.table(index, clips, split=split)
        manifest.write_reader_indexes(folder, index, name=f"{folder.parent.name}-{folder.name}")
        manifest.write_table(folder, frame)
        sample_index.save(index, folder)
        manifest.write_clips(folder, list(clips.values()))
        digest.update(f"{folder.relative_to(out).as_posix()} {index.rows_hash()}\n".encode())
        tables.append(frame.assign(shard=folder.relative_to(out).as_posix() + "/" + frame["shard"]))
    manifest.write_table(out, pandas.concat(tables, ignore_index=True))
    return digest.hexdigest()
