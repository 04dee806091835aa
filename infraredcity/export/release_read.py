"""Read the folders of a release: which pictures each gives to which clip, and whether they fit the layout."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from infraredcity.clips import WORDS, Clip
from infraredcity.errors import CatalogError, ImageError, ManifestError
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
from infraredcity.files.records import read_json
from infraredcity.progress import OnProgress, Ticker
from infraredcity.shards.names import parse_key
from infraredcity.stills import formats
from infraredcity.stills.decode import size_of
from infraredcity.threads import num_cores

DEFAULT_FPS = 25.0
FrameFormat = Literal["png", "jpg"]
FRAME_FORMATS: tuple[FrameFormat, ...] = ("png", "jpg")
MIN_THREADS = 4
_NAME = re.compile(r"(.*?)([0-9]{1,12})\.(?:jpg|jpeg|png)", re.IGNORECASE | re.DOTALL)
MIN_FPS, MAX_FPS = 0.01, 100_000
RENUMBER_GAP = 1000
"""Numbers left free between two folders of a clip that are counted anew: nothing takes their frames for neighbours in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipNote:
    """What release.json says of a clip."""

    clip: Clip
    fps: float
    frame_step: int
    run_starts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseFile:
    """A picture file of the layout: the text and the number of its name, what its header says, and the hash of its bytes."""

    path: Path
    text: str
    number: int
    sha256: str
    size_bytes: int
    image_format: formats.ImageFormat
    size: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The frames that one folder gives to one clip, by ascending numbers."""

    cell: Cell
    place: CellFolder
    source: str
    clip: Clip
    fps: float
    frame_step: int
    run_starts: tuple[int, ...]
    files: tuple[ReleaseFile, ...]

    @property
    def part(self) -> str:
        """The part of the data set that it goes to."""
        return f"{self.cell.scene}/{self.place.modality}-{self.place.split}"


def find_kind(root: Path, kind: Kind | None) -> tuple[Kind, Path]:
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


def read_clip_notes(root: Path, base: Path) -> dict[str, ClipNote]:
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


def _clip_note(clip_id: str, facts: Mapping[str, Any]) -> ClipNote:
    clip = Clip(
        clip_id=clip_id,
        **{name: facts[name] for name in WORDS if isinstance(facts[name], str)},
    )
    fps, frame_step, run_starts = float(facts["nominal_fps"]), int(facts["frame_step"]), facts["run_starts"]
    if not MIN_FPS <= fps <= MAX_FPS or frame_step < 1:
        raise ValueError(f"clip {clip_id}: {fps} frames per second, step {frame_step}")
    if not all(type(start) is int for start in run_starts):
        raise ValueError(f"clip {clip_id}: run_starts must be whole numbers")
    return ClipNote(clip=clip, fps=fps, frame_step=frame_step, run_starts=tuple(run_starts))


def read_blocks(
    root: Path,
    base: Path,
    notes: Mapping[str, ClipNote],
    fps: float | None,
    frame_step: int,
    renumber: bool,
    on_progress: OnProgress | None,
) -> tuple[list[Block], int]:
    """Read all folders that are there, in order; return how many pictures of a second weather's trainB are in the first one's."""
    next_numbers: dict[str, int] | None = {} if renumber else None
    for cell in CELLS:
        if (base / cell.folder / "testB").is_dir():
            raise ManifestError(f"{base / cell.folder / 'testB'}: the layout has no visible test frames; remove it")
    blocks: list[Block] = []
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


def _read_folder(folder: Path, root: Path) -> list[ReleaseFile]:
    """Read the pictures of a folder in the order of their names; hidden files are none of them."""
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise ManifestError(f"{folder}: cannot be read ({(error.strerror or str(error)).lower()})") from error
    inside = root.resolve()
    with ThreadPoolExecutor(max(MIN_THREADS, num_cores()), thread_name_prefix="import") as pool:
        return list(pool.map(lambda path: _read_file(path, inside), paths))


def _read_file(path: Path, inside: Path) -> ReleaseFile:
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
    return ReleaseFile(
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
    files: Sequence[ReleaseFile],
    notes: Mapping[str, ClipNote],
    fps: float | None,
    frame_step: int,
    next_numbers: dict[str, int] | None,
) -> Iterator[Block]:
    """Yield what a folder gives to each clip; `next_numbers` are, by clip, where to count on from, None to keep the numbers."""
    clip_of_folder = Clip(
        clip_id=cell.infrared_clip if place.modality == "infrared" else cell.visible_clip,
        scene=cell.scene,
        weather=cell.weather if place.modality == "infrared" else "any",
        modality=place.modality,
        time_of_day=place.time_of_day,
    )
    of_clip: dict[str, list[ReleaseFile]] = {}
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
        yield Block(
            cell=cell,
            place=place,
            source=source,
            clip=clip,
            fps=fps or (DEFAULT_FPS if note is None else note.fps),
            frame_step=step,
            run_starts=tuple(sorted(noted_starts.union(members[position].number for position in starts))),
            files=tuple(members),
        )


def _note_of(file: ReleaseFile, notes: Mapping[str, ClipNote]) -> ClipNote | None:
    try:
        clip_id, _ = parse_key(file.path.stem)
    except ValueError:
        return None
    return notes.get(clip_id)


def check_fit(blocks: Sequence[Block], kind: Kind, frame_format: FrameFormat) -> None:
    """Refuse pictures that cannot be in one part, or in one clip of it, with the others."""

    def format_of(file: ReleaseFile) -> str:
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
