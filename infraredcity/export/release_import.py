"""Read the folders of the published Lite as a data set: shards, index, manifest, runs.

The layout carries less than a data set: no times, no clips, and numbers only in file names. What is made of it here:

- A folder is a clip of the catalogue: City/clearday/trainA is `city_clear`, City/*/trainB is `city_day`, and so on. Where
  `release.json` of `infraredcity export` is there too, files named by its clips keep their clips, runs and rates.
- Every name ends in a number, the frame's index in its clip: no two files of a clip have the same one. Frames whose numbers follow
  each other and whose names are otherwise the same are one run. Runs never go from one folder to another.
- trainB is shared by the weathers of a scene: a picture whose bytes are in the first weather's folder is taken once.
- A picture of Double is two frames: number k gives the indices 2k and 2k + 1, a run of two, so that no window crosses pairs.

What does not fit is refused with one line: other files, pictures of several sizes in a clip or of
several formats in a part, numbers that occur twice, links out of the release. Where numbers occur twice because each folder counts
from 0, `renumber` counts the pictures of a clip anew, folder after folder; clips.json then lists their names.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np

from infraredcity.clips import WORDS, Clip
from infraredcity.datasets.build import BuildRecord
from infraredcity.datasets.clip_facts import ClipFacts
from infraredcity.datasets.dataset import dataset_hash, write_manifest
from infraredcity.datasets.folder import ShardFolder, write_folder
from infraredcity.datasets.walk import part_names
from infraredcity.errors import CatalogError, ImageError, ManifestError, OutputError
from infraredcity.export.release_layout import (
    CELL_FOLDERS,
    CELLS,
    KIND_FOLDERS,
    KINDS,
    RECORD_FORMAT,
    RECORD_NAME,
    Cell,
    CellFolder,
    Kind,
)
from infraredcity.files.lock import lock_folder
from infraredcity.files.records import read_json
from infraredcity.progress import OnProgress, Ticker
from infraredcity.shards import index as sample_index
from infraredcity.shards import sample_json
from infraredcity.shards.index import IndexEntry, SampleIndex, ShardInfo
from infraredcity.shards.names import parse_key, shard_name
from infraredcity.shards.writer import open_shard
from infraredcity.stills import formats
from infraredcity.stills.decode import decode_any, size_of
from infraredcity.threads import num_cores

IMPORT_NAME = "import.json"
FORMAT = "infraredcity-import-2"
SAMPLES_PER_SHARD = 256
DEFAULT_FPS = 25.0
FrameFormat = Literal["png", "jpg"]
FRAME_FORMATS: tuple[FrameFormat, ...] = ("png", "jpg")
_NAME = re.compile(r"(.*?)([0-9]{1,12})\.(?:jpg|jpeg|png)", re.IGNORECASE | re.DOTALL)
_MIN_FPS, _MAX_FPS = 0.01, 100_000
_MIN_THREADS = 4
RENUMBER_GAP = 1000
"""Numbers left free between two folders of a clip that are counted anew: nothing takes their frames for neighbours in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRow:
    """What one folder of the layout gave to one clip."""

    source: str
    """The folder."""
    folder: str
    """The part of the data set."""
    clip: str
    """The clip."""
    weather: str
    """Of the clip."""
    split: str
    """"train" or "test"."""
    num_frames: int
    """Frames written."""
    num_runs: int
    """Stretches of consecutive frames among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What an import ended with; stored as import.json."""

    folder: str
    """Where the data set is."""
    kind: Kind
    """What was read: "single" or "double"."""
    num_frames: int
    """Frames over all rows."""
    manifest_hash: str
    """sha256 over what the samples are, see `manifest.dataset_hash`."""
    rows: tuple[ImportRow, ...]
    """One for each folder and clip."""
    num_shared: int = 0
    """Pictures of a second weather's trainB that are in the first one's too and were taken once."""
    is_new: bool = True
    """False when the set was there already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _ClipNote:
    """What release.json says of a clip."""

    clip: Clip
    fps: float
    frame_step: int
    run_starts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A picture file of the layout: the text and the number of its name, what its header says, and the hash of its bytes."""

    path: Path
    text: str
    number: int
    sha256: str
    size_bytes: int
    image_format: formats.ImageFormat
    size: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """The frames that one folder gives to one clip, by ascending numbers."""

    cell: Cell
    place: CellFolder
    source: str
    clip: Clip
    fps: float
    frame_step: int
    run_starts: tuple[int, ...]
    files: tuple[_File, ...]

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
    renumber: bool = False,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> ImportReport:
    """Write the pictures of a release's folders as `out`/<scene>/{infrared-train, infrared-test, visible-train}.

    Single's bytes are copied.

    Args:
        root: The folder that holds Single, Double or both; or one of these.
        out: Folder to write.
        kind: "single" or "double"; by default Single where it is there.
        fps: Frames per second of the clips; pts is the frame index. By default as release.json says, else 25.
        frame_step: How far the numbers of neighbours in time are apart; release.json, where it is there, says it for its clips.
        frame_format: How Double's halves are written: "png" keeps what was decoded, "jpg" is of quality 95.
        renumber: Count the pictures of each clip anew, train before test and `RENUMBER_GAP` apart, in the order of the text and the
            number of their names. A run goes on where the number of a name does, and the text before it is the same.
        samples_per_shard: Samples in a full shard.
        overwrite: Replace another import in `out`.
        on_progress: Called with the pictures read and written.

    Raises:
        ManifestError: There is nothing to import, something does not fit the layout, or release.json is damaged.
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
    blocks, num_shared = _read_blocks(root, base, _clip_notes(root, base), fps, frame_step, renumber, on_progress)
    _check(blocks, found_kind, frame_format)
    folders = sorted({block.part for block in blocks})
    record = BuildRecord(
        out=out,
        record_name=IMPORT_NAME,
        what="an import",
        format=FORMAT,
        report_type=ImportReport,
        inputs={
            "kind": found_kind,
            "fps": fps,
            "frame_step": frame_step,
            "frame_format": frame_format if found_kind == "double" else None,
            "samples_per_shard": samples_per_shard,
            **({"renumber": True} if renumber else {}),
            "blocks": [_identity_of(block) for block in blocks],
        },
        folders=folders,
    )
    with lock_folder(out):
        for folder in folders:
            if not (out / folder).resolve().is_relative_to(out.resolve()):
                raise OutputError(f"{out / folder}: leads out of {out}; remove the link, or use another --out")
        earlier = record.find(overwrite=overwrite)
        if earlier is not None:
            return earlier
        others = [name for name in part_names(out) if name not in folders]
        if others:
            raise OutputError(f"{out / others[0]}: is a part of another data set; use another --out")
        record.begin()
        total = sum(len(block.files) for block in blocks)
        writer = _Writer(out, found_kind, frame_format, samples_per_shard, total, on_progress, names_files=renumber)
        parts = [writer.write(name, [block for block in blocks if block.part == name]) for name in folders]
        write_manifest(out, parts)
        report = ImportReport(
            folder=str(out),
            kind=found_kind,
            num_frames=sum(len(part.index) for part in parts),
            manifest_hash=dataset_hash(parts),
            rows=tuple(writer.rows),
            num_shared=num_shared,
        )
        return record.end(report)


def _identity_of(block: _Block) -> list[Any]:
    """Say what a block is, for the hash that tells whether two imports are the same."""
    clip = block.clip
    digest = hashlib.sha256()
    for file in block.files:
        digest.update(f"{file.number},{file.sha256}\n".encode())
    return [
        block.source,
        *clip.description().values(),
        block.fps,
        block.frame_step,
        list(block.run_starts),
        digest.hexdigest(),
    ]


def _kind_folder(root: Path, kind: Kind | None) -> tuple[Kind, Path]:
    """Find the folder that holds Traffic and Monitor, and what kind it is."""
    wanted = [kind] if kind is not None else list(KINDS)
    for known in wanted:
        if (root / KIND_FOLDERS[known]).is_dir():
            return known, root / KIND_FOLDERS[known]
    if any((root / name).is_dir() for name in ("Traffic", "Monitor")):
        named = next((known for known in KINDS if KIND_FOLDERS[known] == root.resolve().name), None)
        return kind or named or "single", root
    expected = " or ".join(KIND_FOLDERS[known] for known in wanted)
    raise ManifestError(
        f"{root}: holds no folder {expected}, nor Traffic or Monitor; name the release's folder "
        "(folders of plain pictures need no import: the loader and roma train read them as they are)"
    )


def _clip_notes(root: Path, base: Path) -> dict[str, _ClipNote]:
    """Read the clips of release.json, in the release's folder or beside the kind's; none where there is no such file."""
    path = next((path for path in (root / RECORD_NAME, base.parent / RECORD_NAME) if path.is_file()), None)
    if path is None:
        return {}
    try:
        record = read_json(path)
        if record["format"] != RECORD_FORMAT:
            raise ValueError(f"format {record['format']!r}")
        return {clip_id: _clip_note(clip_id, facts) for clip_id, facts in record["clips"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, CatalogError) as error:
        raise ManifestError(
            f"{path}: damaged ({error}); export again, or remove it to import only by the names of folders and files"
        ) from error


def _clip_note(clip_id: str, facts: Mapping[str, Any]) -> _ClipNote:
    clip = Clip(
        clip_id=clip_id,
        **{name: facts[name] for name in WORDS if isinstance(facts[name], str)},
    )
    fps, frame_step, run_starts = float(facts["nominal_fps"]), int(facts["frame_step"]), facts["run_starts"]
    if not _MIN_FPS <= fps <= _MAX_FPS or frame_step < 1:
        raise ValueError(f"clip {clip_id}: {fps} frames per second, step {frame_step}")
    if not all(type(start) is int for start in run_starts):
        raise ValueError(f"clip {clip_id}: run_starts must be whole numbers")
    return _ClipNote(clip=clip, fps=fps, frame_step=frame_step, run_starts=tuple(run_starts))


def _read_blocks(
    root: Path,
    base: Path,
    notes: Mapping[str, _ClipNote],
    fps: float | None,
    frame_step: int,
    renumber: bool,
    on_progress: OnProgress | None,
) -> tuple[list[_Block], int]:
    """Read all folders that are there, in order; return how many pictures of a second weather's trainB are in the first one's."""
    next_numbers: dict[str, int] | None = {} if renumber else None
    for cell in CELLS:
        if (base / cell.folder / "testB").is_dir():
            raise ManifestError(f"{base / cell.folder / 'testB'}: the layout has no visible test frames; remove it")
    blocks: list[_Block] = []
    of_scene: dict[str, set[str]] = {}
    num_shared = 0
    ticker = Ticker("import: pictures read", None, on_progress)
    for place in CELL_FOLDERS:
        for cell in CELLS:
            folder = base / cell.folder / place.folder
            if not folder.is_dir():
                continue
            files = _read_folder(folder, root)
            ticker.add(len(files))
            if place.folder == "trainB":
                before = of_scene.setdefault(cell.scene, set())
                fresh = [file for file in files if file.sha256 not in before]
                num_shared += len(files) - len(fresh)
                before |= {file.sha256 for file in files}
                files = fresh
            source = folder.relative_to(root).as_posix()
            blocks += _blocks_of_folder(cell, place, source, files, notes, fps, frame_step, next_numbers)
    if not blocks:
        raise ManifestError(
            f"{base}: holds no picture of the layout, expected Traffic/City/clearday/trainA, Monitor/trainB and so on"
        )
    return blocks, num_shared


def _read_folder(folder: Path, root: Path) -> list[_File]:
    """Read the pictures of a folder in the order of their names; hidden files are none of them."""
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise ManifestError(f"{folder}: cannot be read ({(error.strerror or str(error)).lower()})") from error
    inside = root.resolve()
    with ThreadPoolExecutor(max(_MIN_THREADS, num_cores()), thread_name_prefix="import") as pool:
        return list(pool.map(lambda path: _read_file(path, inside), paths))


def _read_file(path: Path, inside: Path) -> _File:
    """Read a picture's name, header and hash; ManifestError where it does not fit the layout."""
    name = _NAME.fullmatch(path.name)
    if name is None:
        raise ManifestError(f"{path}: expected a jpg or png whose name ends in a number; rename or remove it")
    try:
        target = path.resolve(strict=True)
        if not target.is_relative_to(inside) or not target.is_file():
            raise ManifestError(f"{path}: is not a file of the release; remove it")
        data = target.read_bytes()
        size = size_of(data, name="it")
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead in a circle
        raise ManifestError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    except ImageError as error:
        raise ManifestError(f"{path}: {str(error).removeprefix('it: ')}") from error
    image_format = _format_of(data)
    if image_format is None:
        raise ManifestError(f"{path}: is a webp, expected jpg or png; convert or remove it")
    return _File(
        path=path,
        text=name[1],
        number=int(name[2]),
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        image_format=image_format,
        size=size,
    )


def _format_of(data: bytes) -> formats.ImageFormat | None:
    if data[:2] == b"\xff\xd8":
        return "jpg"
    if data[:4] == b"\x89PNG":
        return "png16" if data[24:25] == b"\x10" else "png"
    return None


def _blocks_of_folder(
    cell: Cell,
    place: CellFolder,
    source: str,
    files: Sequence[_File],
    notes: Mapping[str, _ClipNote],
    fps: float | None,
    frame_step: int,
    next_numbers: dict[str, int] | None,
) -> Iterator[_Block]:
    """Yield what a folder gives to each clip; `next_numbers` are, by clip, where to count on from, None to keep the numbers."""
    clip_of_folder = Clip(
        clip_id=cell.infrared_clip if place.modality == "infrared" else cell.visible_clip,
        scene=cell.scene,
        weather=cell.weather if place.modality == "infrared" else "any",
        modality=place.modality,
        time_of_day=place.time_of_day,
    )
    of_clip: dict[str, list[_File]] = {}
    for file in files:
        note = _note_of(file, notes)
        is_known = note is not None and (note.clip.scene, note.clip.modality) == (cell.scene, place.modality)
        of_clip.setdefault(note.clip.clip_id if note is not None and is_known else "", []).append(file)
    for clip_id, of_this in of_clip.items():
        note = notes.get(clip_id)
        clip = clip_of_folder if note is None else note.clip
        step = frame_step if note is None else note.frame_step
        noted_starts = set() if note is None else {*note.run_starts}
        if next_numbers is None:
            members = sorted(of_this, key=lambda file: file.number)
        else:
            members = sorted(of_this, key=lambda file: (file.text, file.number, file.path.name))
        starts = [
            position
            for position, (before, file) in enumerate(pairwise(members), 1)
            if file.number - before.number != step or file.text != before.text or file.number in noted_starts
        ]
        if next_numbers is not None:
            first = next_numbers.get(clip.clip_id, 0)
            members = [replace(file, number=first + position * step) for position, file in enumerate(members)]
            next_numbers[clip.clip_id] = members[-1].number + step + RENUMBER_GAP
            noted_starts = set()
        yield _Block(
            cell=cell,
            place=place,
            source=source,
            clip=clip,
            fps=fps or (DEFAULT_FPS if note is None else note.fps),
            frame_step=step,
            run_starts=tuple(sorted(noted_starts.union(members[position].number for position in starts))),
            files=tuple(members),
        )


def _note_of(file: _File, notes: Mapping[str, _ClipNote]) -> _ClipNote | None:
    try:
        clip_id, _ = parse_key(file.path.stem)
    except ValueError:
        return None
    return notes.get(clip_id)


def _check(blocks: Sequence[_Block], kind: Kind, frame_format: FrameFormat) -> None:
    """Refuse pictures that cannot be in one part, or in one clip of it, with the others."""

    def format_of(file: _File) -> str:
        if kind == "single":
            return file.image_format
        return "of 16 bits" if file.image_format == "png16" else "of 8 bits"  # the rest is the same once it is decoded

    formats: dict[str, tuple[Path, str]] = {}
    sizes: dict[tuple[str, str], tuple[Path, tuple[int, int]]] = {}
    numbers: dict[tuple[str, int], Path] = {}
    for block in blocks:
        for file in block.files:
            width, height = file.size
            if kind == "double" and width != 2 * height:
                raise ManifestError(f"{file.path}: is {width}x{height}, expected two square frames side by side")
            if kind == "double" and frame_format == "jpg" and file.image_format == "png16":
                raise ManifestError(f"{file.path}: is of 16 bits, which jpg cannot hold; use --format png")
            first, image_format = formats.setdefault(block.part, (file.path, format_of(file)))
            if format_of(file) != image_format:
                raise ManifestError(
                    f"{file.path}: is {format_of(file)}, but {first.name} of the same part is {image_format}; one part has one "
                    "format"
                )
            first, size = sizes.setdefault((block.part, block.clip.clip_id), (file.path, file.size))
            if file.size != size:
                raise ManifestError(
                    f"{file.path}: is {width}x{height}, but {first.name} of the same clip is {size[0]}x{size[1]}; one clip has one "
                    "size"
                )
            other = numbers.setdefault((block.clip.clip_id, file.number), file.path)
            if other != file.path:
                raise ManifestError(
                    f"{file.path}: has the number of {other}, and both are frames of {block.clip.clip_id}; number the frames of a "
                    "clip once, or count them anew with --renumber"
                )


@dataclass(frozen=True, slots=True)
class _Frame:
    """A frame that is written: its index, its block and picture, the bytes."""

    frame_index: int
    block: int
    picture: int
    data: bytes
    sha256: str
    size_px: tuple[int, int]


class _Writer:
    """Write parts, and gather what each folder gave."""

    def __init__(
        self,
        out: Path,
        kind: Kind,
        frame_format: FrameFormat,
        samples_per_shard: int,
        total: int,
        on_progress: OnProgress | None,
        *,
        names_files: bool,
    ) -> None:
        self.rows: list[ImportRow] = []
        self._out = out
        self._kind = kind
        self._frame_format = frame_format
        self._samples_per_shard = samples_per_shard
        self._names_files = names_files
        self._ticker = Ticker("import: pictures written", total, on_progress)

    def write(self, name: str, blocks: Sequence[_Block]) -> ShardFolder:
        """Write the part of some folders."""
        indexes: list[SampleIndex] = []
        facts: dict[str, ClipFacts] = {}
        for clip_id in dict.fromkeys(block.clip.clip_id for block in blocks):
            of_clip = [block for block in blocks if block.clip.clip_id == clip_id]
            facts[clip_id] = self._facts(of_clip)
            indexes.append(self._write_clip(name, of_clip, facts[clip_id]))
        return write_folder(self._out, name, sample_index.concatenate(indexes), facts, split=blocks[0].place.split)

    def _facts(self, blocks: Sequence[_Block]) -> ClipFacts:
        first = blocks[0]
        # Of numbers such as 29.97 the nearest fraction that a clip would have.
        rate = Fraction(first.fps).limit_denominator(1001)
        per_picture = 2 if self._kind == "double" else 1
        return ClipFacts(
            **first.clip.description(),
            time_base=f"{rate.denominator}/{rate.numerator}",
            nominal_fps=first.fps,
            frame_step=1 if self._kind == "double" else first.frame_step,
            clip_frames=(max(block.files[-1].number for block in blocks) + 1) * per_picture,
            sources=[
                {
                    "name": block.source,
                    "size_bytes": sum(file.size_bytes for file in block.files),
                    "packets_sha256": _hash_of(block),
                    "num_frames": len(block.files) * per_picture,
                    "codec": block.files[0].image_format,
                    "pixel_format": "",
                    **(_renumbered_from(block) if self._names_files else {}),
                }
                for block in blocks
            ],
            extraction={"from": "release", "kind": self._kind},
        )

    def _write_clip(self, part: str, blocks: Sequence[_Block], facts: ClipFacts) -> SampleIndex:
        weather = "" if facts.weather == "any" else f"-{facts.weather}"
        dataset = f"release{weather}-{blocks[0].place.split}"
        suffix = formats.suffix_of(self._frame_format if self._kind == "double" else blocks[0].files[0].image_format)
        shards: list[tuple[ShardInfo, list[IndexEntry]]] = []
        frames: list[_Frame] = []
        for batch in self._batches(blocks):
            name = shard_name(dataset, facts.clip_id, len(shards))
            with open_shard(self._out / part, name, image_format=suffix) as handle:
                for frame in batch:
                    json_bytes = sample_json.to_bytes(
                        sample_json.facts_of(
                            facts, facts.time_base, frame.frame_index, frame.frame_index, frame.size_px
                        )
                    )
                    handle.writer.add(
                        facts.clip_id, frame.frame_index, frame.frame_index, frame.data, json_bytes,
                        size_px=frame.size_px, image_sha256=frame.sha256,
                    )  # fmt: skip
            assert handle.info is not None
            shards.append((handle.info, handle.writer.entries))
            frames += [replace(frame, data=b"") for frame in batch]
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
        """Yield the frames of a clip in order, as many at a time as a shard holds."""
        merged = sorted(
            ((number, file) for number, block in enumerate(blocks) for file in block.files),
            key=lambda pair: pair[1].number,
        )
        waiting: list[_Frame] = []
        with ThreadPoolExecutor(max(_MIN_THREADS, num_cores()), thread_name_prefix="import") as pool:
            # No more pictures are in memory than a shard holds.
            for start in range(0, len(merged), self._samples_per_shard):
                some = merged[start : start + self._samples_per_shard]
                for frames in pool.map(self._frames, some):
                    waiting += frames
                self._ticker.add(len(some))
                while len(waiting) >= self._samples_per_shard:
                    yield waiting[: self._samples_per_shard]
                    del waiting[: self._samples_per_shard]
        if waiting:
            yield waiting

    def _frames(self, item: tuple[int, _File]) -> list[_Frame]:
        """Read the frames of one picture."""
        block, file = item
        try:
            data = file.path.read_bytes()
        except OSError as error:
            raise ManifestError(
                f"{file.path}: is gone since it was first read ({error.strerror}); import again"
            ) from error
        if hashlib.sha256(data).hexdigest() != file.sha256:
            raise ManifestError(
                f"{file.path}: has changed since it was first read; import again when nothing writes there"
            )
        try:
            picture = decode_any(data, name="it")
            if self._kind == "single":
                return [_Frame(file.number, block, file.number, data, file.sha256, file.size)]
            halves = [self._encoded(half) for half in np.split(picture, 2, axis=1)]
        except ImageError as error:
            raise ManifestError(f"{file.path}: {str(error).removeprefix('it: ')}") from error
        size_px = (picture.shape[1] // 2, picture.shape[0])
        return [
            _Frame(2 * file.number + side, block, file.number, half, hashlib.sha256(half).hexdigest(), size_px)
            for side, half in enumerate(halves)
        ]

    def _encoded(self, half: np.ndarray) -> bytes:
        if half.dtype == np.uint16:
            return formats.encode(half, "png16")
        is_gray = half.shape[2] == 3 and bool((half[:, :, :1] == half[:, :, 1:]).all())
        return formats.encode(half[:, :, :1] if is_gray else half, self._frame_format, quality=95)


def _run_ids(frames: Sequence[_Frame], frame_step: int, blocks: Sequence[_Block], *, is_double: bool) -> np.ndarray:
    """Number the runs, i32 [N]: each ends where the numbers do not go on, at another folder, and at each picture of Double."""
    numbers = np.array([frame.frame_index for frame in frames], np.int64)
    breaks = np.diff(numbers) != frame_step
    breaks |= np.diff([frame.block for frame in frames]) != 0
    if is_double:
        breaks |= np.diff([frame.picture for frame in frames]) != 0
    else:
        breaks |= np.isin(numbers[1:], [start for block in blocks for start in block.run_starts])
    return np.concatenate([[0], np.cumsum(breaks)]).astype(np.int32)


def _hash_of(block: _Block) -> str:
    """Hash the pictures' hashes, in place of the packets of a clip's file."""
    return hashlib.sha256("".join(file.sha256 for file in block.files).encode()).hexdigest()


def _renumbered_from(block: _Block) -> dict[str, Any]:
    """Say which files the numbers of a block stand for: the first number, how far the next one is, and the names in order."""
    names = [file.path.name.encode(errors="backslashreplace").decode() for file in block.files]
    return {"first_number": block.files[0].number, "number_step": block.frame_step, "files": names}
