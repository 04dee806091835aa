"""The folders of the published Lite as a data set of this house: shards, index, manifest, runs.

The layout carries less than a data set: no times, no clips, and numbers only in file names. What is made of it here:

- A folder is a clip of the catalogue: City/clearday/trainA is `city_clear`, City/*/trainB is `city_day`, and so on. Where
  `release.json` of `infraredcity export` stands beside, the clips, runs and rates it tells are taken for the files named by them.
- The number at the end of a name is the frame's index in its clip, if all names of the folder have one and no two the same; else
  its place in natural order is, places of files that are skipped included. Frames whose indices follow each other are one run
  where their names go on too, so that pictures of several sources in one folder make no false pairs.
- Train, test and a second weather's trainB may each count from 0. Where their numbers meet those of the clip's folders before them,
  they are moved up by a power of ten, see `Shift`. Runs never go from one folder to another.
- trainB is shared by the weathers of a scene: a picture whose bytes stand in the first weather's folder is taken once.
- A picture of Double is two frames: number k gives the indices 2k and 2k + 1, a run of two, so that no window crosses pairs.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from infraredcity.clips import Clip
from infraredcity.datasets.build import Making
from infraredcity.datasets.dataset import Part, dataset_hash, part_names, write_manifest, write_part
from infraredcity.datasets.manifest import ClipFacts
from infraredcity.errors import CatalogError, ImageError, ManifestError, OutputError
from infraredcity.export.release_layout import (
    CELLS,
    KIND_FOLDERS,
    KINDS,
    PLACES,
    RECORD_FORMAT,
    RECORD_NAME,
    Cell,
    Kind,
    Place,
)
from infraredcity.files.atomic import lock_folder
from infraredcity.files.records import read_json
from infraredcity.progress import OnProgress, Progress
from infraredcity.shards import index as sample_index
from infraredcity.shards import sample_json
from infraredcity.shards.index import IndexEntry, SampleIndex, ShardInfo
from infraredcity.shards.names import parse_key, shard_name
from infraredcity.shards.writer import open_shard
from infraredcity.stills import images
from infraredcity.threads import num_cores

IMPORT_NAME = "import.json"
FORMAT = "infraredcity-import-1"
SAMPLES_PER_SHARD = 256
DEFAULT_FPS = 25.0
FrameFormat = Literal["png", "jpg"]
FRAME_FORMATS: tuple[FrameFormat, ...] = ("png", "jpg")
_SUFFIXES = (".jpg", ".jpeg", ".png")
_NUMBER = re.compile(r"([0-9]+)$")
_MAX_DIGITS = 12
"""A longer number is a time of day or a hash rather than a place in a clip."""
_MIN_FPS, _MAX_FPS = 0.01, 100_000
_MIN_THREADS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRow:
    """What one folder of the layout gave to one clip.

    Attributes:
        source: The folder.
        folder: The part of the data set.
        clip: The clip.
        weather: Of the clip.
        split: "train" or "test".
        num_frames: Frames written.
        num_runs: Stretches of consecutive frames among them.
        order: What the frames' indices are: "number" in the names, or "place" among them.
    """

    source: str
    folder: str
    clip: str
    weather: str
    split: str
    num_frames: int
    num_runs: int
    order: Literal["number", "place"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedFile:
    """A file that was not taken, from the release's folder, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """What was added to the numbers of a folder because other folders of its clip have the same ones."""

    source: str
    clip: str
    added: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What an import ended with; stored as import.json.

    Attributes:
        folder: Where the data set lies.
        kind: What was read: "single" or "double".
        num_frames: Frames over all rows.
        manifest_hash: sha256 over what the samples are, see `manifest.dataset_hash`.
        rows: One for each folder and clip.
        num_shared: Pictures of a second weather's trainB that stand in the first one's too and were taken once.
        shifts: Folders whose numbers were moved.
        skipped: Files that were not taken.
        is_new: False when the set stood there already.
    """

    folder: str
    kind: Kind
    num_frames: int
    manifest_hash: str
    rows: tuple[ImportRow, ...]
    num_shared: int = 0
    shifts: tuple[Shift, ...] = ()
    skipped: tuple[SkippedFile, ...] = ()
    is_new: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _ClipNote:
    """What release.json tells of a clip."""

    clip: Clip
    fps: float
    frame_step: int
    run_starts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A picture file of the layout: its place among its folder's, what its header says, and the hash of its bytes."""

    path: Path
    told: str
    place: int
    sha256: str
    size_bytes: int
    image_format: images.ImageFormat
    size: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """The frames that one folder gives to one clip: files and their numbers, ascending."""

    cell: Cell
    place: Place
    source: str
    clip: Clip
    fps: float
    frame_step: int
    run_starts: tuple[int, ...]
    order: Literal["number", "place"]
    files: tuple[_File, ...]
    numbers: tuple[int, ...]

    @property
    def part(self) -> str:
        return f"{self.cell.scene}/{self.place.modality}-{self.place.split}"


def import_release(
    root: Path,
    out: Path,
    *,
    kind: Kind | None = None,
    fps: float | None = None,
    frame_step: int = 1,
    frame_format: FrameFormat = "png",
    samples_per_shard: int = SAMPLES_PER_SHARD,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> ImportReport:
    """Write the pictures of a release's folders as `out`/<scene>/{infrared-train, infrared-test, visible-train}.

    Single's bytes are copied. What cannot be taken is skipped and told: other files than jpg and png, pictures that cannot be
    decoded, those of another size than most of their clip or another format than most of their part, links out of `root`.

    Args:
        root: The folder that holds Single, Double or both; or one of these; or a copy of one under another name.
        out: Folder to write.
        kind: "single" or "double"; by default Single where it is there.
        fps: Frames per second of the clips; pts is the frame index. By default what release.json tells, else 25.
        frame_step: How far the numbers of neighbours in time are apart; where release.json tells it, that holds.
        frame_format: How Double's halves are written: "png" keeps what was decoded, "jpg" is of quality 95.
        samples_per_shard: Samples in a full shard.
        overwrite: Replace another import that stands in `out`.
        on_progress: Told of pictures read and written.

    Raises:
        ManifestError: There is nothing to import, or release.json is damaged.
        OutputError: `out` holds another data set, lies in the release, or cannot be written.
    """
    if fps is not None and not _MIN_FPS <= fps <= _MAX_FPS:
        raise ValueError(f"fps must be {_MIN_FPS} to {_MAX_FPS}, got {fps}")
    if frame_step < 1 or samples_per_shard < 1:
        raise ValueError(f"frame_step and samples_per_shard must be at least 1, got {frame_step}, {samples_per_shard}")
    if not root.is_dir():
        raise ManifestError(f"{root}: no such folder; name one that holds Single or Double")
    if out.resolve().is_relative_to(root.resolve()):
        raise OutputError(f"{out}: lies in the release itself; use another --out")
    found_kind, base = _kind_folder(root, kind)
    notes = _clip_notes(root, base)
    skipped: list[SkippedFile] = []
    blocks, num_shared = _blocks(root, base, notes, fps, frame_step, skipped, on_progress)
    blocks = _of_one_size_and_format(blocks, found_kind, frame_format, skipped)
    if not blocks:
        some = f"; {skipped[0].path!a} was skipped: {skipped[0].reason}" if skipped else ""
        raise ManifestError(
            f"{base}: holds no picture of the layout, expected Traffic/City/clearday/trainA, Monitor/trainB and so on{some}"
        )
    blocks, shifts = _shifted(blocks)
    folders = sorted({block.part for block in blocks})
    making = Making(
        out=out,
        record_name=IMPORT_NAME,
        what="an import",
        format=FORMAT,
        inputs={
            "kind": found_kind,
            "fps": fps,
            "frame_step": frame_step,
            "frame_format": frame_format if found_kind == "double" else None,
            "samples_per_shard": samples_per_shard,
            "blocks": [_block_told(block) for block in blocks],
        },
        folders=folders,
    )
    with lock_folder(out):
        for folder in folders:
            if not (out / folder).resolve().is_relative_to(out.resolve()):
                raise OutputError(f"{out / folder}: leads out of {out}; remove the link, or use another --out")
        standing = making.standing(overwrite=overwrite)
        if standing is not None:
            return _report_of(standing, out)
        others = [name for name in part_names(out) if name not in folders]
        if others:
            raise OutputError(f"{out / others[0]}: is a part of another data set; use another --out")
        making.write_record(None)
        total = sum(len(block.files) for block in blocks)
        writer = _Writer(out, found_kind, frame_format, samples_per_shard, skipped, total, on_progress)
        parts = [writer.write(name, [block for block in blocks if block.part == name]) for name in folders]
        written = [part for part in parts if part is not None]
        if not written:
            raise ManifestError(
                f"{base}: none of its pictures can be decoded; {skipped[0].path!a}: {skipped[0].reason}"
            )
        write_manifest(out, written)
        report = ImportReport(
            folder=str(out),
            kind=found_kind,
            num_frames=sum(len(part.index) for part in written),
            manifest_hash=dataset_hash(written),
            rows=tuple(writer.rows),
            num_shared=num_shared,
            shifts=tuple(shifts),
            skipped=tuple(skipped),
        )
        # A folder of which nothing could be decoded is no part of the set.
        done = replace(making, folders=[part.name for part in written])
        done.write_record({name: value for name, value in asdict(report).items() if name not in ("folder", "is_new")})
        return report


def _report_of(record: Mapping[str, Any], out: Path) -> ImportReport:
    try:
        known = {**record, "folder": str(out), "is_new": False}
        known["rows"] = tuple(ImportRow(**row) for row in record["rows"])
        known["shifts"] = tuple(Shift(**each) for each in record["shifts"])
        known["skipped"] = tuple(SkippedFile(**each) for each in record["skipped"])
        return ImportReport(**known)
    except (KeyError, TypeError) as error:
        raise OutputError(
            f"{out / IMPORT_NAME}: of another version of this program ({error}); import anew with --overwrite"
        ) from error


def _block_told(block: _Block) -> list[Any]:
    """What a block is, for the hash that says whether two imports are the same."""
    clip = block.clip
    digest = hashlib.sha256()
    for file, number in zip(block.files, block.numbers, strict=True):
        digest.update(f"{number},{file.sha256}\n".encode())
    facts = [clip.clip_id, clip.scene, clip.weather, clip.modality, clip.time_of_day]
    return [block.source, *facts, block.fps, block.frame_step, list(block.run_starts), digest.hexdigest()]


def _kind_folder(root: Path, kind: Kind | None) -> tuple[Kind, Path]:
    """What is read, and the folder that holds Traffic and Monitor."""
    there = {known: _child(root, KIND_FOLDERS[known]) for known in KINDS}
    wanted = [kind] if kind is not None else list(KINDS)
    for known in wanted:
        folder = there[known]
        if folder is not None:
            return known, folder
    if any(_child(root, name) is not None for name in ("Traffic", "Monitor")):
        named = next((known for known in KINDS if KIND_FOLDERS[known].lower() == root.resolve().name.lower()), None)
        return kind or named or "single", root
    expected = " or ".join(KIND_FOLDERS[known] for known in wanted)
    raise ManifestError(
        f"{root}: holds no folder {expected}, nor Traffic or Monitor; name the release's folder "
        "(folders of plain pictures need no import: the loader and roma train read them as they are)"
    )


def _child(folder: Path, name: str) -> Path | None:
    """A folder in a folder, in capital or small letters, if it is there and does not lead out."""
    if (folder / name).is_dir():
        return folder / name
    matches = [path for path in _listing(folder) if path.name.lower() == name.lower() and path.is_dir()]
    return matches[0] if matches else None


def _descend(folder: Path, name: str) -> Path | None:
    place: Path | None = folder
    for step in name.split("/"):
        place = None if place is None else _child(place, step)
    return place


def _clip_notes(root: Path, base: Path) -> dict[str, _ClipNote]:
    """The clips that release.json tells of, in the release's folder or beside the kind's; none where there is no such file."""
    path = next((path for path in (root / RECORD_NAME, base.parent / RECORD_NAME) if path.is_file()), None)
    if path is None:
        return {}
    try:
        record = read_json(path)
        if record["format"] != RECORD_FORMAT:
            raise ValueError(f"format {record['format']!r}")
        return {clip_id: _clip_note(clip_id, told) for clip_id, told in record["clips"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, CatalogError) as error:
        raise ManifestError(
            f"{path}: damaged ({error}); export again, or remove it to import by the names of folders and files alone"
        ) from error


def _clip_note(clip_id: str, told: Mapping[str, Any]) -> _ClipNote:
    clip = Clip(
        clip_id=clip_id,
        **{name: told[name] for name in ("scene", "weather", "modality", "time_of_day") if isinstance(told[name], str)},
    )
    fps, frame_step, run_starts = float(told["nominal_fps"]), int(told["frame_step"]), told["run_starts"]
    if not _MIN_FPS <= fps <= _MAX_FPS or frame_step < 1:
        raise ValueError(f"clip {clip_id}: {fps} frames per second, step {frame_step}")
    if not all(type(start) is int for start in run_starts):
        raise ValueError(f"clip {clip_id}: run_starts must be whole numbers")
    return _ClipNote(clip=clip, fps=fps, frame_step=frame_step, run_starts=tuple(run_starts))


def _blocks(
    root: Path,
    base: Path,
    notes: Mapping[str, _ClipNote],
    fps: float | None,
    frame_step: int,
    skipped: list[SkippedFile],
    on_progress: OnProgress | None,
) -> tuple[list[_Block], int]:
    """All folders that are there, in order, and how many pictures of a second weather's trainB stand in the first one's."""
    listed = [
        (cell, place, folder)
        for place in PLACES
        for cell in CELLS
        if (folder := _descend(base, f"{cell.folder}/{place.folder}")) is not None
    ]
    for cell in CELLS:
        unused = _descend(base, f"{cell.folder}/testB")
        if unused is not None:
            skipped.append(SkippedFile(path=_told(root, unused), reason="a folder that the layout does not have"))
    scanner = _Scanner(root, skipped, on_progress)
    blocks: list[_Block] = []
    shown: dict[str, set[str]] = {}
    num_shared = 0
    for cell, place, folder in listed:
        files = scanner.scan(folder)
        if place.folder == "trainB":
            before = shown.setdefault(cell.scene, set())
            fresh = [file for file in files if file.sha256 not in before]
            num_shared += len(files) - len(fresh)
            before |= {file.sha256 for file in files}
            files = fresh
        blocks += _blocks_of_folder(cell, place, _told(root, folder), files, notes, fps, frame_step)
    return blocks, num_shared


def _blocks_of_folder(
    cell: Cell,
    place: Place,
    source: str,
    files: Sequence[_File],
    notes: Mapping[str, _ClipNote],
    fps: float | None,
    frame_step: int,
) -> Iterator[_Block]:
    usual_id = cell.infrared_clip if place.modality == "infrared" else cell.visible_clip
    weather = cell.weather if place.modality == "infrared" else "any"
    usual = Clip(
        clip_id=usual_id, scene=cell.scene, weather=weather, modality=place.modality, time_of_day=place.time_of_day
    )
    of_clip: dict[str, list[_File]] = {}
    for file in files:
        note = _note_of(file, notes)
        is_known = note is not None and (note.clip.scene, note.clip.modality) == (cell.scene, place.modality)
        of_clip.setdefault(note.clip.clip_id if note is not None and is_known else "", []).append(file)
    for clip_id, members in of_clip.items():
        note = notes.get(clip_id)
        numbers = [_number(file) for file in members]
        counts = Counter(numbers)
        is_numbered = None not in counts and max(counts.values()) == 1
        step = frame_step if note is None else note.frame_step
        if is_numbered:
            pairs = sorted(
                ((number, file) for number, file in zip(numbers, members, strict=True) if number is not None),
                key=lambda pair: pair[0],
            )
        else:
            pairs = [(file.place * step, file) for file in members]
        run_starts = {*_apart(pairs, step), *(() if note is None else note.run_starts)}
        yield _Block(
            cell=cell,
            place=place,
            source=source,
            clip=usual if note is None else note.clip,
            fps=fps or (DEFAULT_FPS if note is None else note.fps),
            frame_step=step,
            run_starts=tuple(sorted(run_starts)),
            order="number" if is_numbered else "place",
            files=tuple(file for _, file in pairs),
            numbers=tuple(number for number, _ in pairs),
        )


def _apart(pairs: Sequence[tuple[int, _File]], step: int) -> tuple[int, ...]:
    """The indices before which a run ends because the names do not go on: another text, or another number than the next.

    Names without a number at their end say nothing against it.
    """
    starts = []
    for (_, before), (index, file) in pairwise(pairs):
        one, other = _number(before), _number(file)
        if one is None and other is None:
            continue
        if one is None or other is None or other - one != step or _text(before) != _text(file):
            starts.append(index)
    return tuple(starts)


def _text(file: _File) -> str:
    return _NUMBER.sub("", file.path.stem)


def _note_of(file: _File, notes: Mapping[str, _ClipNote]) -> _ClipNote | None:
    try:
        clip_id, _ = parse_key(file.path.stem)
    except ValueError:
        return None
    return notes.get(clip_id)


def _number(file: _File) -> int | None:
    found = _NUMBER.search(file.path.stem)
    if found is None or len(found[1].lstrip("0")) > _MAX_DIGITS:
        return None
    return int(found[1])


class _Scanner:
    """Reads folders of picture files: what each is by its header, and the hash of its bytes; nothing is unpacked yet."""

    def __init__(self, root: Path, skipped: list[SkippedFile], on_progress: OnProgress | None) -> None:
        self._root = root
        self._inside = root.resolve()
        self._skipped = skipped
        self._on_progress = on_progress
        self._done = 0

    def scan(self, folder: Path) -> list[_File]:
        """The pictures of a folder in natural order; those that are skipped keep their places."""
        if not folder.resolve().is_relative_to(self._inside):
            self._skip(folder, "a link that leads out of the release")
            return []
        named: list[Path] = []
        for path in _listing(folder):
            if path.name.startswith("."):
                self._skip(path, "hidden")
            elif path.is_dir():
                self._skip(path, "a folder")
            elif path.suffix.lower() not in _SUFFIXES:
                self._skip(path, "neither jpg nor png by its name")
            else:
                named.append(path)
        files: list[_File] = []
        with ThreadPoolExecutor(max(_MIN_THREADS, num_cores()), thread_name_prefix="import") as pool:
            for place, (path, found) in enumerate(zip(named, pool.map(self._read, enumerate(named)), strict=True)):
                if isinstance(found, str):
                    self._skip(path, found)
                else:
                    files.append(found)
                self._done += 1
                if self._on_progress is not None and (self._done % 256 == 0 or place + 1 == len(named)):
                    self._on_progress(Progress(what="import: pictures read", done=self._done, total=None))
        return files

    def _read(self, numbered: tuple[int, Path]) -> _File | str:
        place, path = numbered
        data = _bytes_of(path, self._inside)
        if isinstance(data, str):
            return data
        try:
            size = images.size_of(data, name="it")
        except ImageError as error:
            return _reason(error)
        image_format = _format_of(data)
        if image_format is None:
            return "a webp, expected jpg or png"
        return _File(
            path=path,
            told=_told(self._root, path),
            place=place,
            sha256=hashlib.sha256(data).hexdigest(),
            size_bytes=len(data),
            image_format=image_format,
            size=size,
        )

    def _skip(self, path: Path, reason: str) -> None:
        self._skipped.append(SkippedFile(path=_told(self._root, path), reason=reason))


def _listing(folder: Path) -> list[Path]:
    """What a folder holds, in natural order."""
    try:
        return sorted(folder.iterdir(), key=lambda path: (_natural(path.name), path.name))
    except OSError as error:
        raise ManifestError(f"{folder}: cannot be read ({(error.strerror or str(error)).lower()})") from error


def _bytes_of(path: Path, inside: Path) -> bytes | str:
    """A file's bytes, or why it is not read: a link out of the release, a device, a pipe, no right to."""
    try:
        target = path.resolve(strict=True)
        if not target.is_relative_to(inside):
            return "a link that leads out of the release"
        if not target.is_file():
            return "not a plain file"
        return target.read_bytes()
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
        return f"cannot be read ({(getattr(error, 'strerror', None) or str(error)).lower()})"


def _format_of(data: bytes) -> images.ImageFormat | None:
    if data[:2] == b"\xff\xd8":
        return "jpg"
    if data[:4] == b"\x89PNG":
        return "png16" if data[24:25] == b"\x10" else "png"
    return None


def _reason(error: ImageError) -> str:
    """Without the file's name, which stands beside it."""
    return str(error).removeprefix("it: ").partition(";")[0]


def _natural(name: str) -> list[str | int]:
    """So that frame 9 comes before frame 10: texts and numbers by turns."""
    pieces = re.split("([0-9]+)", name)
    return [int(piece) if turn % 2 else piece for turn, piece in enumerate(pieces)]


def _told(root: Path, path: Path) -> str:
    """A file from the release's folder, fit for a line and for json whatever its name holds."""
    name = path.relative_to(root).as_posix()
    return name if name.isprintable() else ascii(name)[1:-1]


def _of_one_size_and_format(
    blocks: Sequence[_Block], kind: Kind, frame_format: FrameFormat, skipped: list[SkippedFile]
) -> list[_Block]:
    """The blocks without pictures that cannot stand in one part, or in one clip of it, with the others."""

    def bad_double(_: _Block, file: _File) -> str | None:
        if file.size[0] != 2 * file.size[1]:
            return f"{file.size[0]}x{file.size[1]}, not two square frames side by side"
        return "of 16 bits, which jpg cannot hold" if frame_format == "jpg" and file.image_format == "png16" else None

    def format_of(file: _File) -> str:
        if kind == "single":
            return file.image_format
        return "of 16 bits" if file.image_format == "png16" else "of 8 bits"  # the rest is the same once it is decoded

    if kind == "double":
        blocks = _kept(blocks, bad_double, skipped)
    formats = _most((block.part, format_of(file)) for block in blocks for file in block.files)

    def other_format(block: _Block, file: _File) -> str | None:
        found, usual = format_of(file), formats[block.part]
        return None if found == usual else f"{found}, most of its part are {usual}"

    blocks = _kept(blocks, other_format, skipped)
    sizes = _most(((block.part, block.clip.clip_id), file.size) for block in blocks for file in block.files)

    def other_size(block: _Block, file: _File) -> str | None:
        (width, height), usual = file.size, sizes[block.part, block.clip.clip_id]
        return None if file.size == usual else f"{width}x{height}, most of its clip are {usual[0]}x{usual[1]}"

    return _kept(blocks, other_size, skipped)


_Group = TypeVar("_Group")
_Value = TypeVar("_Value")


def _most(pairs: Iterable[tuple[_Group, _Value]]) -> dict[_Group, _Value]:
    """For each group the value that is told most often; of equal ones the first."""
    counts: dict[_Group, Counter[_Value]] = {}
    for group, value in pairs:
        counts.setdefault(group, Counter())[value] += 1
    return {group: counter.most_common(1)[0][0] for group, counter in counts.items()}


def _kept(
    blocks: Sequence[_Block], objection: Callable[[_Block, _File], str | None], skipped: list[SkippedFile]
) -> list[_Block]:
    kept = []
    for block in blocks:
        pairs = []
        for number, file in zip(block.numbers, block.files, strict=True):
            reason = objection(block, file)
            if reason is None:
                pairs.append((number, file))
            else:
                skipped.append(SkippedFile(path=file.told, reason=reason))
        if pairs:
            numbers, files = zip(*pairs, strict=True)
            kept.append(replace(block, numbers=numbers, files=files))
    return kept


def _shifted(blocks: Sequence[_Block]) -> tuple[list[_Block], list[Shift]]:
    """The blocks with numbers that are unique in their clip, and what was added to which."""
    taken: dict[str, set[int]] = {}
    moved, shifts = [], []
    for block in blocks:
        before = taken.setdefault(block.clip.clip_id, set())
        added = 0
        if not before.isdisjoint(block.numbers):
            added = 10
            while added < max(before) + 2:
                added *= 10
            shifts.append(Shift(source=block.source, clip=block.clip.clip_id, added=added))
        numbers = tuple(number + added for number in block.numbers)
        before.update(numbers)
        moved.append(replace(block, numbers=numbers, run_starts=tuple(start + added for start in block.run_starts)))
    return moved, shifts


@dataclass(frozen=True, slots=True)
class _Frame:
    """A frame that is written: its index, its run's block and picture, the bytes."""

    frame_index: int
    block: int
    picture: int
    data: bytes
    sha256: str
    size_px: tuple[int, int]


class _Writer:
    """Writes parts; gathers what each folder gave and what cannot be decoded."""

    def __init__(
        self,
        out: Path,
        kind: Kind,
        frame_format: FrameFormat,
        samples_per_shard: int,
        skipped: list[SkippedFile],
        total: int,
        on_progress: OnProgress | None,
    ) -> None:
        self.rows: list[ImportRow] = []
        self._out = out
        self._kind = kind
        self._frame_format = frame_format
        self._samples_per_shard = samples_per_shard
        self._skipped = skipped
        self._done, self._total = 0, total
        self._on_progress = on_progress

    def write(self, name: str, blocks: Sequence[_Block]) -> Part | None:
        """The part of some folders; None when none of their pictures can be decoded."""
        indexes: list[SampleIndex] = []
        facts: dict[str, ClipFacts] = {}
        for clip_id in dict.fromkeys(block.clip.clip_id for block in blocks):
            of_clip = [block for block in blocks if block.clip.clip_id == clip_id]
            clip_facts = self._facts(of_clip)
            index = self._write_clip(name, of_clip, clip_facts)
            if index is not None:
                indexes.append(index)
                facts[clip_id] = clip_facts
        if not indexes:
            return None
        return write_part(self._out, name, sample_index.concatenate(indexes), facts, split=blocks[0].place.split)

    def _facts(self, blocks: Sequence[_Block]) -> ClipFacts:
        first = blocks[0]
        # Of numbers such as 29.97 the nearest fraction that a clip would have.
        rate = Fraction(first.fps).limit_denominator(1001)
        per_picture = 2 if self._kind == "double" else 1
        return ClipFacts(
            clip_id=first.clip.clip_id,
            scene=first.clip.scene,
            weather=first.clip.weather,
            modality=first.clip.modality,
            time_of_day=first.clip.time_of_day,
            time_base=f"{rate.denominator}/{rate.numerator}",
            nominal_fps=first.fps,
            frame_step=1 if self._kind == "double" else first.frame_step,
            clip_frames=(max(block.numbers[-1] for block in blocks) + 1) * per_picture,
            sources=[
                {
                    "name": block.source,
                    "size_bytes": sum(file.size_bytes for file in block.files),
                    "packets_sha256": _hash_of(block),
                    "num_frames": len(block.files) * per_picture,
                    "codec": block.files[0].image_format,
                    "pixel_format": "",
                }
                for block in blocks
            ],
            extraction={"from": "release", "kind": self._kind},
        )

    def _write_clip(self, part: str, blocks: Sequence[_Block], facts: ClipFacts) -> SampleIndex | None:
        weather = "" if facts.weather == "any" else f"-{facts.weather}"
        dataset = f"release{weather}-{blocks[0].place.split}"
        suffix = images.suffix_of(self._frame_format if self._kind == "double" else blocks[0].files[0].image_format)
        shards: list[tuple[ShardInfo, list[IndexEntry]]] = []
        frames: list[_Frame] = []
        for batch in self._batches(blocks):
            name = shard_name(dataset, facts.clip_id, len(shards))
            with open_shard(self._out / part, name, image_format=suffix) as handle:
                for frame in batch:
                    told = sample_json.to_bytes(
                        sample_json.facts_of(
                            facts, facts.time_base, frame.frame_index, frame.frame_index, frame.size_px
                        )
                    )
                    handle.writer.add(
                        facts.clip_id, frame.frame_index, frame.frame_index, frame.data, told,
                        size_px=frame.size_px, image_sha256=frame.sha256,
                    )  # fmt: skip
            assert handle.info is not None
            shards.append((handle.info, handle.writer.entries))
            frames += [replace(frame, data=b"") for frame in batch]
        if not frames:
            return None
        run_ids = _run_ids(frames, facts.frame_step, blocks, is_double=self._kind == "double")
        for number, block in enumerate(blocks):
            runs = {run for frame, run in zip(frames, run_ids.tolist(), strict=True) if frame.block == number}
            self.rows.append(
                ImportRow(
                    source=block.source,
                    folder=part,
                    clip=facts.clip_id,
                    weather=facts.weather,
                    split=block.place.split,
                    num_frames=sum(frame.block == number for frame in frames),
                    num_runs=len(runs),
                    order=block.order,
                )
            )
        return sample_index.from_entries(
            clip_id=facts.clip_id,
            frame_step=facts.frame_step,
            image_format=suffix,
            shards=shards,
            run_ids=run_ids,
        )

    def _batches(self, blocks: Sequence[_Block]) -> Iterator[list[_Frame]]:
        """The frames of a clip in order, as many at a time as a shard holds."""
        merged = sorted(
            (number, place, file)
            for place, block in enumerate(blocks)
            for number, file in zip(block.numbers, block.files, strict=True)
        )
        waiting: list[_Frame] = []
        with ThreadPoolExecutor(max(_MIN_THREADS, num_cores()), thread_name_prefix="import") as pool:
            for start in range(
                0, len(merged), self._samples_per_shard
            ):  # no more pictures in memory than a shard holds
                some = merged[start : start + self._samples_per_shard]
                for (_, _, file), found in zip(some, pool.map(self._frames, some), strict=True):
                    if isinstance(found, str):
                        self._skipped.append(SkippedFile(path=file.told, reason=found))
                    else:
                        waiting += found
                self._done += len(some)
                if self._on_progress is not None:
                    self._on_progress(Progress(what="import: pictures written", done=self._done, total=self._total))
                while len(waiting) >= self._samples_per_shard:
                    yield waiting[: self._samples_per_shard]
                    del waiting[: self._samples_per_shard]
        if waiting:
            yield waiting

    def _frames(self, item: tuple[int, int, _File]) -> list[_Frame] | str:
        """The frames of one picture, or why it cannot be taken."""
        number, block, file = item
        try:
            data = file.path.read_bytes()
        except OSError as error:
            raise ManifestError(
                f"{file.path}: is gone since it was first read ({error.strerror}); import again"
            ) from error
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise ManifestError(
                f"{file.path}: has changed since it was first read; import again when nobody writes there"
            )
        try:
            picture = images.decode_any(data, name="it")
            if self._kind == "single":
                return [_Frame(number, block, number, data, file.sha256, file.size)]
            halves = [self._encoded(half) for half in np.split(picture, 2, axis=1)]
        except ImageError as error:
            return _reason(error)
        size_px = (picture.shape[1] // 2, picture.shape[0])
        return [
            _Frame(2 * number + side, block, number, half, hashlib.sha256(half).hexdigest(), size_px)
            for side, half in enumerate(halves)
        ]

    def _encoded(self, half: np.ndarray) -> bytes:
        if half.dtype == np.uint16:
            return images.encode(half, "png16")
        is_gray = half.shape[2] == 3 and bool((half[:, :, :1] == half[:, :, 1:]).all())
        return images.encode(half[:, :, :1] if is_gray else half, self._frame_format, quality=95)


def _run_ids(frames: Sequence[_Frame], frame_step: int, blocks: Sequence[_Block], *, is_double: bool) -> np.ndarray:
    """I32 [N]: a run ends where the numbers do not go on, where another folder begins, and at each picture of Double."""
    numbers = np.array([frame.frame_index for frame in frames], np.int64)
    breaks = np.diff(numbers) != frame_step
    breaks |= np.diff([frame.block for frame in frames]) != 0
    if is_double:
        breaks |= np.diff([frame.picture for frame in frames]) != 0
    else:
        breaks |= np.isin(numbers[1:], [start for block in blocks for start in block.run_starts])
    return np.concatenate([[0], np.cumsum(breaks)]).astype(np.int32)


def _hash_of(block: _Block) -> str:
    """What stands for the source's packets: a hash over the pictures' hashes."""
    return hashlib.sha256("".join(file.sha256 for file in block.files).encode()).hexdigest()
