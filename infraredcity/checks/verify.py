"""Everything that can be checked of a data set: shards against index, index against manifest, counts, keys, pictures, sidecars.

Nothing is believed: every tar is read and hashed, every member compared with what the index and clips.json say of it. All that is
wrong is found in one go and told as findings; nothing is changed. A data set on another machine is checked in the same way: each
shard passes by once, so all its bytes are moved, and none is kept. What the network does is no finding but an error.
"""

import errno
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np

from infraredcity.clips import published_counts
from infraredcity.datasets import manifest
from infraredcity.datasets.dataset import (
    GAPS_NAME,
    JOB_NAME,
    RECORD_NAMES,
    Part,
    facts_of,
    folders_of,
    names_of_parts,
    open_with_hash,
    rows_hash,
    sets_of,
    shard_sizes,
)
from infraredcity.datasets.manifest import COLUMNS, ClipFacts, Columns
from infraredcity.errors import ImageError, ManifestError, MissingExtraError, ShardError, check_choice
from infraredcity.files.atomic import TEMPORARY_PREFIX
from infraredcity.files.path import FarPath, Place
from infraredcity.files.records import MAX_SIDECAR_BYTES, opened, parse_json, read_json, read_whole
from infraredcity.progress import OnProgress, Progress
from infraredcity.shards import index as sample_index
from infraredcity.shards import sidecars
from infraredcity.shards.index import FROZEN, REPEAT, SUSPECT, ShardInfo
from infraredcity.shards.names import BLOCK_BYTES, key_of
from infraredcity.shards.reader import MAX_MEMBER_BYTES, Refused, Sample, iterate
from infraredcity.stills import images
from infraredcity.threads import in_order, threads_for

DecodeChoice = Literal["all", "sample", "none"]
DECODE_CHOICES: tuple[DecodeChoice, ...] = ("all", "sample", "none")
_PICTURE_SUFFIXES = (".jpg", ".png", ".webp")
LITE_NAME = "lite.json"
_SAMPLE_OF_PART = 32
_STRETCH_BYTES = 8 << 20
"""So much of a shard is read at a time."""
_Found = Callable[[str, str, str], None]
"""Told of a finding: where, which problem, and the message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        part: Name of the part, see `dataset.Part`.
        where: File, or the key of a sample.
        problem: What kind of thing it is, in a word or two: "shard-hash", "missing-sample".
        message: One line: what was expected, what was found, what to do.
    """

    part: str
    where: str
    problem: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CountRow:
    """A published count and what stands here."""

    name: str
    expected: int
    found: int


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What was checked and what was found.

    Attributes:
        folder: The data set.
        num_parts: Folders of shards or image files.
        num_shards: Shards that the indexes name.
        num_samples: Samples that the indexes name.
        size_bytes: Bytes of these shards.
        num_decoded: Pictures that were decoded.
        is_quick: Whether no shard was read.
        manifest_hash: sha256 over what the samples are, see `manifest.rows_hash`; None where a part cannot be opened, and where
            several data sets lie in one folder.
        findings: All that is wrong; empty for a data set that is as it should be.
        notes: What is untidy and harms nothing.
        counts: Published counts, where they were asked for.
    """

    folder: str
    num_parts: int
    num_shards: int
    num_samples: int
    size_bytes: int
    num_decoded: int
    is_quick: bool
    manifest_hash: str | None
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    counts: tuple[CountRow, ...] = ()


@dataclass(slots=True)
class _State:
    """What is gathered on the way."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    num_decoded: int = 0

    def teller(self, part: str) -> _Found:
        def found(where: str, problem: str, message: str) -> None:
            self.findings.append(Finding(part=part, where=where, problem=problem, message=message))

        return found


def verify(
    root: Place,
    *,
    published: bool = False,
    decode: DecodeChoice = "sample",
    quick: bool = False,
    on_progress: OnProgress | None = None,
) -> VerifyReport:
    """Check all parts of a data set, or of several that lie in one folder.

    Args:
        root: A part, a data set, or a folder of data sets.
        published: Compare with the published counts: those of the clips where `root` holds extracted clips, those of the Lite table
            where it holds a Lite set.
        decode: Whether pictures are decoded: all, 32 of each part, or none.
        quick: Only look whether shards are there and of their size, and what indexes, clips.json, gaps.json and records say of each
            other: no byte of a shard is read, no manifest and no index file of other readers.
        on_progress: Told of samples that were read.

    Raises:
        ManifestError: There is no data set.
        RemoteError: `root` is on another machine, which could not be read in time.
    """
    check_choice("decode", decode, DECODE_CHOICES)
    folders = folders_of(root)
    names = names_of_parts(folders)
    if not names:
        what = "no such folder" if not root.is_dir() else "holds no shards"
        raise ManifestError(f"{root}: {what}; name a folder that extract, make-lite or shard wrote")
    state = _State()
    opened: dict[str, Part] = {}
    for name in names:
        part = _opened(root, name, folders[name], state, is_quick=quick)
        if part is not None:
            opened[name] = part
    total = sum(len(part.index) for part in opened.values())
    done = 0

    def on_samples(count: int) -> None:
        nonlocal done
        done += count
        if on_progress is not None:
            on_progress(Progress(what="samples", done=done, total=total))

    for part in opened.values():
        _check_part(part, folders[part.name], state, decode, on_samples, is_quick=quick)
    _check_begun(root, folders, names, state)
    sets = {place or ".": members for place, members in sets_of(root, names).items()}
    hashes = [
        _check_set(root, place, [opened[name] for name in members if name in opened], members, state, is_quick=quick)
        for place, members in sets.items()
    ]
    counts = tuple(_published_rows(root, sets, opened, state)) if published else ()
    parts = list(opened.values())
    return VerifyReport(
        folder=str(root),
        num_parts=len(names),
        num_shards=sum(len(part.index.shards) for part in parts),
        num_samples=total,
        size_bytes=sum(info.size_bytes for part in parts for info in part.index.shards),
        num_decoded=state.num_decoded,
        is_quick=quick,
        manifest_hash=hashes[0] if len(hashes) == 1 else None,
        findings=tuple(state.findings),
        notes=tuple(state.notes),
        counts=counts,
    )


def _opened(root: Place, name: str, files: set[str], state: _State, *, is_quick: bool) -> Part | None:
    """A part, if it can be opened; what stands against it is told."""
    folder = root / name
    found = state.teller(name)
    leftovers = sum(file.startswith(TEMPORARY_PREFIX) for file in files)
    if isinstance(folder, FarPath) and files == {sample_index.INDEX_NAME}:
        state.notes.append(f"{folder}: the server lists nothing, so what does not belong there was not looked for")
    if leftovers:
        state.notes.append(
            f"{folder}: {leftovers} temporary files of a run that was killed; the same command removes them"
        )
    try:
        clips, _ = manifest.read_folder(folder)
        if sample_index.INDEX_NAME not in files and _holds_files(clips):
            _check_files(folder, files, clips, state, found, is_quick=is_quick)
            return None
    except ManifestError as error:
        found(manifest.CLIPS_NAME, "unfinished", str(error))
        return None
    try:
        part, stored_hash = open_with_hash(root, name)
    except ManifestError as error:
        found(sample_index.INDEX_NAME, "index", str(error))
        return None
    if stored_hash != part.index.rows_hash():
        found(
            sample_index.INDEX_NAME,
            "index",
            f"{folder / sample_index.INDEX_NAME}: its rows are not those it was written with; "
            'rebuild it with "infraredcity repair"',
        )
    return part


def _holds_files(clips: Mapping[str, ClipFacts]) -> bool:
    return any(facts.extraction.get("to") == "frames" for facts in clips.values())


def _check_files(
    folder: Place,
    files: set[str],
    clips: Mapping[str, ClipFacts],
    state: _State,
    found: _Found,
    *,
    is_quick: bool,
) -> None:
    """Plain image files, as `extract --to frames` writes them, against their manifest."""
    tables: list[Columns] = []
    for name in (manifest.CSV_NAME, manifest.PARQUET_NAME):
        try:
            tables.append(manifest.read(folder / name))
        except ManifestError as error:
            found(name, "manifest", str(error))
        except MissingExtraError as error:
            state.notes.append(f"{folder / name}: was not compared: {error}")
    if len(tables) == 2 and tables[0] != tables[1]:
        found(manifest.PARQUET_NAME, "manifest", f"{folder}: manifest.csv and manifest.parquet differ; extract again")
    if not tables:
        return
    rows = tables[0]
    expected: dict[str, tuple[int, str]] = {}
    for key, size, sha256 in zip(rows["key"], rows["size"], rows["sha256"], strict=True):
        matches = [f"{key}{suffix}" for suffix in _PICTURE_SUFFIXES if f"{key}{suffix}" in files]
        if matches:
            expected[matches[0]] = (size, sha256)
        else:
            found(
                key, "missing-file", f"{folder / key}: the manifest names it, there is no such picture; extract again"
            )

    def read(name: str) -> bytes:
        return read_whole(folder / name, MAX_MEMBER_BYTES)

    to_read = {} if is_quick else expected
    pictures = in_order(read, to_read, num_threads=threads_for(folder), name="verify")
    for (name, (size, sha256)), data in zip(to_read.items(), pictures, strict=True):
        if len(data) != size or hashlib.sha256(data).hexdigest() != sha256:
            found(
                name,
                "picture-hash",
                f"{folder / name}: is not the picture that was written ({len(data)} bytes, expected {size}); extract again",
            )
    for name in sorted(files - expected.keys()):
        if name.endswith(_PICTURE_SUFFIXES):
            found(name, "unknown-file", f"{folder / name}: is not in the manifest; remove it")
    for clip_id, facts in clips.items():
        frames = [frame for frame, clip in zip(rows["frame_index"], rows["clip"], strict=True) if clip == clip_id]
        _check_coverage(folder, facts, np.array(frames, np.int64), found)


def _check_part(
    part: Part,
    files: set[str],
    state: _State,
    decode: DecodeChoice,
    on_samples: Callable[[int], None],
    *,
    is_quick: bool,
) -> None:
    found = state.teller(part.name)
    chosen = _to_decode(len(part.index), decode)
    there = shard_sizes(part) if is_quick else {}

    def check(numbered: tuple[int, np.ndarray]) -> "_ShardResult":
        return _look_at_shard(part, *numbered, there) if is_quick else _check_shard(part, *numbered, chosen)

    bad_sha256: dict[str, str] = {}
    sidecars: list[tuple[str, str, str]] = []
    results = in_order(check, enumerate(part.index.rows_by_shard()), num_threads=threads_for(part.path), name="verify")
    for info, result in zip(part.index.shards, results, strict=True):
        for finding in result.findings:
            found(*finding)
        sidecars += result.sidecars
        state.num_decoded += result.num_decoded
        if result.is_missing:
            bad_sha256[info.sha256] = info.name
        on_samples(result.num_samples)
    _check_other_tars(part, files, bad_sha256, found, is_quick=is_quick)
    _check_columns(part, found)
    _check_counts(part, found)
    if is_quick:
        return
    _check_wids(part, found)
    for finding in sidecars:
        found(*finding)
    _check_manifest(part.path, lambda: manifest.blocks(part.index, part.clips, split=part.split), found, state)


def _to_decode(num_samples: int, decode: DecodeChoice) -> frozenset[int]:
    if decode == "none" or num_samples == 0:
        return frozenset()
    if decode == "all":
        return frozenset(range(num_samples))
    return frozenset(np.linspace(0, num_samples - 1, _SAMPLE_OF_PART).round().astype(int).tolist())


@dataclass(slots=True)
class _ShardResult:
    num_samples: int
    findings: list[tuple[str, str, str]] = field(default_factory=list)
    sidecars: list[tuple[str, str, str]] = field(default_factory=list)
    num_decoded: int = 0
    is_missing: bool = False

    def found(self, where: str, problem: str, message: str) -> None:
        self.findings.append((where, problem, message))

    def check_count(self, path: Place, info: ShardInfo) -> None:
        if info.num_samples != self.num_samples:
            self.found(
                info.name,
                "shard-count",
                f"{path}: the index lists {self.num_samples} of its {info.num_samples} samples; rebuild it with "
                '"infraredcity repair"',
            )

    def tell_missing(self, path: Place, info: ShardInfo) -> None:
        self.is_missing = True
        self.found(
            info.name, "missing-shard", f"{path}: the index names it, it is not there; copy it again, or extract anew"
        )

    def check_size(self, path: Place, info: ShardInfo, size_bytes: int) -> bool:
        """Whether the shard is as long as the index says."""
        if size_bytes != info.size_bytes:
            self.found(
                info.name,
                "shard-size",
                f"{path}: is {size_bytes} bytes, the index says {info.size_bytes}; copy it again, or run "
                '"infraredcity repair"',
            )
        return size_bytes == info.size_bytes


def _look_at_shard(part: Part, number: int, rows: np.ndarray, there: Mapping[str, int]) -> _ShardResult:
    """What can be said of a shard without reading it."""
    info = part.index.shards[number]
    path = part.path / info.name
    result = _ShardResult(len(rows))
    result.check_count(path, info)
    if info.name in there:
        result.check_size(path, info, there[info.name])
    else:
        result.tell_missing(path, info)
    return result


def _check_shard(part: Part, number: int, rows: np.ndarray, to_decode: frozenset[int]) -> _ShardResult:
    info = part.index.shards[number]
    path = part.path / info.name
    result = _ShardResult(len(rows))
    result.check_count(path, info)
    try:
        with _streamed(path) as stream:
            inside = _ShardResult(len(rows))
            json_sizes = _check_samples(part, path, info, rows, to_decode, stream, inside)
            sha256 = stream.sha256()
    except (FileNotFoundError, IsADirectoryError):
        result.tell_missing(path, info)
        return result
    except OSError as error:
        result.found(info.name, "unreadable-shard", f"{path}: cannot be read ({error.strerror}); copy it again")
        return result
    if result.check_size(path, info, stream.size_bytes) and sha256 != info.sha256:
        result.found(
            info.name,
            "shard-hash",
            f"{path}: sha256 is {sha256[:8]}..., the index says {info.sha256[:8]}...; copy it again, or run "
            '"infraredcity repair"',
        )
    result.findings += inside.findings
    result.num_decoded = inside.num_decoded
    result.sidecars += _dali_problems(part, number, rows, json_sizes)
    return result


class _Stream:
    """A shard that passes by once, from its first byte to its last, and is hashed on the way."""

    version = ""

    def __init__(self, name: str, size_bytes: int, read: Callable[[int, int], bytes]) -> None:
        self.name = name
        self.size_bytes = size_bytes
        self._read = read
        self._digest = hashlib.sha256()
        self._start = 0
        self._held = b""

    def read(self, offset: int, size: int) -> bytes:
        """Bytes from a place on, none of them before the place of an earlier call."""
        assert offset >= self._start
        data = b""
        while len(data) < min(size, self.size_bytes - offset):
            first = offset + len(data) - self._start
            if first < len(self._held):
                data += self._held[first : first + size - len(data)]  # mostly the one and only piece
            else:
                self._go_on()
        return data

    def sha256(self) -> str:
        """The hash of the whole, read to its end."""
        while self._start + len(self._held) < self.size_bytes:
            self._go_on()
        return self._digest.hexdigest()

    def _go_on(self) -> None:
        self._start += len(self._held)
        self._held = self._read(self._start, min(_STRETCH_BYTES, self.size_bytes - self._start))
        if not self._held:
            raise OSError(errno.EIO, "it became shorter while it was read")
        self._digest.update(self._held)


@contextmanager
def _streamed(path: Place) -> Iterator[_Stream]:
    if isinstance(path, FarPath):
        file = path.file()
        yield _Stream(str(path), file.size_bytes, file.read)
        return
    with opened(path) as local:
        handle = local.fileno()
        yield _Stream(str(path), os.fstat(handle).st_size, lambda offset, size: os.pread(handle, size, offset))


def _check_samples(
    part: Part,
    path: Place,
    info: ShardInfo,
    rows: np.ndarray,
    to_decode: frozenset[int],
    stream: _Stream,
    result: _ShardResult,
) -> np.ndarray:
    """The samples of a shard against the index; i64 [n], bytes of the json members of its rows, -1 where none was seen."""
    json_sizes = dict.fromkeys(rows.tolist(), -1)
    row_of = {part.index.key(row): row for row in rows.tolist()}
    seen: list[str] = []
    there: set[str] = set()

    def on_refused(refused: Refused) -> None:
        result.found(
            info.name,
            "refused-member",
            f"{path}: member {refused.name[:80]!a} is {refused.reason}; no shard of ours holds such a thing",
        )

    try:
        for sample in iterate(stream, on_refused=on_refused):
            row = row_of.get(sample.key)
            if row is None:
                result.found(
                    sample.key,
                    "unknown-sample",
                    f"{path}: holds {sample.key!a}, which the index does not list there",
                )
            elif sample.key in there:
                result.found(
                    sample.key, "doubled-sample", f'{path}: holds {sample.key} twice; run "infraredcity repair"'
                )
            else:
                for where, problem, message in _sample_problems(part, row, sample, decode=row in to_decode):
                    result.found(where, problem, f"{path}: {message}")
                result.num_decoded += row in to_decode
                json_sizes[row] = len(sample.members.get("json", b""))
            seen.append(sample.key)
            there.add(sample.key)
    except ShardError as error:
        result.found(info.name, "damaged-shard", str(error))
    missing = [key for key in row_of if key not in there]
    if missing:
        result.found(
            missing[0],
            "missing-sample",
            f"{path}: {len(missing)} samples of the index are not in it, the first is {missing[0]}; copy it again, or extract anew",
        )
    by_tar = [key for key in dict.fromkeys(seen) if key in row_of]
    if by_tar != [key for key in row_of if key in there]:
        result.found(
            info.name,
            "order",
            f'{path}: its samples stand in another order than in the index; run "infraredcity repair"',
        )
    return np.array([*json_sizes.values()], np.int64)


def _sample_problems(part: Part, row: int, sample: Sample, *, decode: bool) -> Iterator[tuple[str, str, str]]:
    """What is wrong with one sample of a tar: where, which problem, and what to say of it."""
    index, key = part.index, sample.key
    facts = part.clips[index.clips[int(index.clip[row])]]
    size_px = (int(index.width[row]), int(index.height[row]))
    suffixes = list(sample.members)
    if suffixes != [index.image_format, "json"]:
        yield key, "members", f"{key} has the members {', '.join(suffixes)}, expected {index.image_format}, json"
    offset = sample.offset + BLOCK_BYTES
    if offset != int(index.offset[row]):
        yield key, "offset", f"{key} begins at byte {offset}, the index says {int(index.offset[row])}"
    span = sum(BLOCK_BYTES + len(data) + -len(data) % BLOCK_BYTES for data in sample.members.values())
    if span != int(index.span[row]):
        yield key, "span", f"{key} takes {span} bytes, the index says {int(index.span[row])}"
    picture = sample.members.get(index.image_format)
    if picture is not None:
        if len(picture) != int(index.size[row]):
            yield key, "size", f"the picture of {key} has {len(picture)} bytes, the index says {int(index.size[row])}"
        if hashlib.sha256(picture).digest() != index.sha256[row].tobytes():
            yield key, "picture-hash", f"the picture of {key} is not the one that was written"
        try:
            width, height = images.size_of(picture, name=key)
            if (width, height) != size_px:
                yield key, "picture-size", f"{key} is {width}x{height}, the index says {size_px[0]}x{size_px[1]}"
            if decode:
                images.decode_any(picture, name=key)
        except ImageError as error:
            yield key, "undecodable", str(error)
    told = sample.members.get("json")
    if told is not None:
        expected = facts_of(facts, int(index.frame_index[row]), int(index.pts[row]), size_px)
        yield from _json_problems(key, told, expected)


def _json_problems(key: str, told: bytes, expected: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    try:
        said = parse_json(told)
    except ValueError:
        yield key, "json", f"the json of {key} cannot be read"
        return
    if not isinstance(said, dict):
        yield key, "json", f"the json of {key} is no object"
        return
    for name, value in expected.items():
        if type(said.get(name)) is not type(value) or said[name] != value:
            yield key, "json", f"the json of {key} says {name} {ascii(said.get(name))[:80]}, expected {value!r}"
    for name in said:
        if name not in expected:
            yield key, "json", f"the json of {key} says {ascii(name)[:80]}, which no shard of ours says"


def _check_other_tars(
    part: Part, files: set[str], missing_sha256: Mapping[str, str], found: _Found, *, is_quick: bool
) -> None:
    """Tars that the index does not name: renamed ones, second copies, strangers."""
    known = {info.name: info.sha256 for info in part.index.shards}
    for name in sorted(files - known.keys()):
        if not name.endswith(".tar") or name.startswith(TEMPORARY_PREFIX):
            continue
        path = part.path / name
        try:
            if is_quick:
                sha256 = ""
            else:
                with _streamed(path) as stream:
                    sha256 = stream.sha256()
        except OSError as error:
            found(
                path.name,
                "unknown-shard",
                f"{path}: the index does not name it, and it cannot be read ({error.strerror})",
            )
            continue
        original = missing_sha256.get(sha256)
        twin = next((name for name, of_shard in known.items() if of_shard == sha256), None)
        if original is not None:
            found(path.name, "renamed-shard", f"{path}: is {original} under another name; rename it")
        elif twin is not None:
            found(path.name, "doubled-shard", f"{path}: is a second copy of {twin}; remove it")
        else:
            found(
                path.name,
                "unknown-shard",
                f"{path}: the index does not name it, so it is no part of the data set; remove it",
            )


def _check_columns(part: Part, found: _Found) -> None:
    """What the index says of itself: order, keys, runs."""
    index = part.index
    for number, clip_id in enumerate(index.clips):
        rows = np.flatnonzero(index.clip == number)
        frames = index.frame_index[rows]
        not_ascending = np.flatnonzero(np.diff(frames) <= 0)
        if len(not_ascending):
            row = int(rows[not_ascending[0] + 1])
            found(index.key(row), "order", f"{part.path}: {index.key(row)} stands behind a later frame in the index")
        step = index.frame_steps[number]
        if step != part.clips[clip_id].frame_step:
            found(
                sample_index.INDEX_NAME,
                "frame-step",
                f"{part.path}: the index says that {clip_id} has every {step}th frame, clips.json every "
                f"{part.clips[clip_id].frame_step}th",
            )
        apart = np.flatnonzero((np.diff(index.run_id[rows]) == 0) & (np.diff(frames) % step != 0))
        if len(apart):
            row = int(rows[apart[0] + 1])
            found(
                index.key(row),
                "run",
                f"{part.path}: {index.key(row)} is no multiple of {step} frames from the one before it",
            )
        if len(rows) and int(np.diff(index.run_id[rows]).min(initial=0)) < 0:
            found(sample_index.INDEX_NAME, "run", f"{part.path}: the runs of {clip_id} are not in order")


def _check_counts(part: Part, found: _Found) -> None:
    for number, clip_id in enumerate(part.index.clips):
        facts = part.clips[clip_id]
        marks = part.index.mark[part.index.clip == number]
        for name, bit in (("num_suspect", SUSPECT), ("num_repeats", REPEAT), ("num_frozen", FROZEN)):
            count = int(np.count_nonzero(marks & bit))
            if getattr(facts, name) != count:
                found(
                    manifest.CLIPS_NAME,
                    "count",
                    f"{part.path}: clips.json says {name} {getattr(facts, name)} of {clip_id}, the index has {count}",
                )
        _check_coverage(part.path, facts, part.index.frame_index[part.index.clip == number], found)


def _check_coverage(folder: Place, facts: ClipFacts, frames: np.ndarray, found: _Found) -> None:
    """Samples and named gaps together are all frames that were asked for, each in one of both; only extract writes gaps.json."""
    path = folder / GAPS_NAME
    if not path.exists() and not (folder / JOB_NAME).exists():
        return
    step = facts.frame_step
    try:
        gaps = read_json(path)
        of_clip = [gap for gap in gaps if gap["clip"] == facts.clip_id]
        in_gaps = [range(int(gap["first_frame"]), int(gap["last_frame"]) + 1, step) for gap in of_clip]
        if [len(gap_frames) for gap_frames in in_gaps] != [gap["num_frames"] for gap in of_clip]:
            raise ValueError("a gap has not as many frames as it says")
        if any(gap_frames.stop > facts.clip_frames for gap_frames in in_gaps):
            raise ValueError("a gap lies behind the end of the clip")
    except (OSError, ValueError, KeyError, TypeError) as error:
        found(GAPS_NAME, "gaps", f"{path}: missing or damaged ({error}); run the same extract command again")
        return
    asked = range(facts.clip_frames)[facts.extraction.get("start_frame", 0) : facts.extraction.get("stop_frame")]
    num_expected = len(asked[::step])
    if len(frames) + sum(map(len, in_gaps)) != num_expected:
        found(
            GAPS_NAME,
            "count",
            f"{folder}: {len(frames)} samples and {sum(map(len, in_gaps))} frames in {GAPS_NAME}, expected {num_expected} "
            "together; extract again",
        )
        return
    covered = np.sort(np.concatenate([frames, *map(np.array, in_gaps)]))
    expected = np.arange(asked.start, asked.stop, step)
    if not np.array_equal(covered, expected):
        frame = int(expected[np.flatnonzero(covered != expected)[0]])
        found(
            GAPS_NAME,
            "gaps",
            f"{folder}: samples and {GAPS_NAME} together are not the frames that were asked for, from frame {frame} on; extract "
            "again",
        )


def _check_wids(part: Part, found: _Found) -> None:
    path = part.path / sidecars.WIDS_NAME
    try:
        said = read_json(path, MAX_SIDECAR_BYTES)  # of a million shards 100 MB
        expected = json.loads(sidecars.wids_bytes(part.index, name=str(said["name"])))
        if said != expected:
            found(sidecars.WIDS_NAME, "sidecar", f'{path}: does not list these shards; run "infraredcity repair"')
    except (OSError, ValueError, KeyError, TypeError) as error:
        found(sidecars.WIDS_NAME, "sidecar", f'{path}: missing or damaged ({error}); run "infraredcity repair"')


def _dali_problems(part: Part, number: int, rows: np.ndarray, json_sizes: np.ndarray) -> Iterator[tuple[str, str, str]]:
    """What is wrong with the `.idx` of a shard that is there."""
    path = (part.path / part.index.shards[number].name).with_suffix(".idx")
    try:
        if read_whole(path, MAX_SIDECAR_BYTES) != sidecars.dali_bytes(part.path, part.index, number, rows, json_sizes):
            yield path.name, "sidecar", f'{path}: is not that of its shard; run "infraredcity repair"'
    except FileNotFoundError:
        yield path.name, "sidecar", f'{path}: is not there; run "infraredcity repair"'
    except OSError as error:
        yield path.name, "sidecar", f'{path}: cannot be read ({error.strerror}); run "infraredcity repair"'
    except ManifestError as error:
        yield path.name, "sidecar", str(error)


def _check_manifest(folder: Place, expected: Callable[[], Iterable[Columns]], found: _Found, state: _State) -> None:
    """manifest.csv and manifest.parquet against what index and clips.json say."""
    for name in (manifest.CSV_NAME, manifest.PARQUET_NAME):
        try:
            difference = _difference(manifest.read_blocks(folder / name), expected())
        except ManifestError as error:
            found(name, "manifest", str(error))
            continue
        except MissingExtraError as error:
            state.notes.append(f"{folder / name}: was not compared: {error}")
            continue
        if difference is not None:
            found(name, "manifest", f'{folder / name}: {difference}; rebuild it with "infraredcity repair"')


def _difference(said: Iterable[Columns], expected: Iterable[Columns]) -> str | None:
    num_said = num_expected = 0
    difference = None
    for one, other in zip_longest(_rows(said), _rows(expected)):
        num_said += one is not None
        num_expected += other is not None
        if difference is None and one is not None and other is not None and one != other:
            column = next(at for at, value in enumerate(other) if one[at] != value)
            difference = (
                f"says {COLUMNS[column]} {ascii(one[column])[:80]} of {other[0]}, the index {ascii(other[column])[:80]}: "
                "it is of another build"
            )
    if num_said != num_expected:
        return f"has {num_said} rows, the index {num_expected}: it is of another build"
    return difference


def _rows(blocks: Iterable[Columns]) -> Iterator[tuple[Any, ...]]:
    for block in blocks:
        yield from zip(*block.values(), strict=True)


def _check_begun(root: Place, folders: Mapping[str, set[str]], names: Sequence[str], state: _State) -> None:
    """Folders that an extraction or a making of shards began in, and that hold no shard."""
    for name, files in folders.items():
        place = root / name
        if JOB_NAME in files and name not in names:
            state.teller(name)(
                JOB_NAME, "unfinished", f"{place}: extraction was begun here; run the same extract command again"
            )
        for record in (record for record in RECORD_NAMES if record in files):
            if not any(each == name or name == "." or each.startswith(f"{name}/") for each in names):
                state.teller(name)(
                    record,
                    "missing-part",
                    f"{place / record}: no part of its data set is there; make the set again with --overwrite",
                )


def _check_set(
    root: Place, place: str, parts: Sequence[Part], members: Sequence[str], state: _State, *, is_quick: bool
) -> str | None:
    """What parts owe each other; returns the hash of all their rows, where all of them could be opened."""
    found = state.teller(place)
    folder = root / place
    has_record = any((folder / record_name).is_file() for record_name in RECORD_NAMES)
    has_manifest = place not in members and any(
        (folder / name).is_file() for name in (manifest.CSV_NAME, manifest.PARQUET_NAME)
    )
    _check_keys(folder, parts, found)
    if has_record and not has_manifest and place not in members:
        found(manifest.CSV_NAME, "manifest", f'{folder}: lacks its manifest; run "infraredcity repair"')
    hash_of_all = None
    if len(parts) == len(members):
        if has_manifest and not is_quick:
            _check_manifest(folder, lambda: _blocks_below(parts, place), found, state)
        hash_of_all = rows_hash(parts)
    for record_name in RECORD_NAMES:
        path = folder / record_name
        if path.is_file():
            _check_record(path, place, parts, hash_of_all, found)
    return hash_of_all


def _check_keys(folder: Place, parts: Sequence[Part], found: _Found) -> None:
    """No key twice, in one part or in two."""
    places: dict[str, list[tuple[int, np.ndarray]]] = {}
    for number, part in enumerate(parts):
        for of_clip, clip_id in enumerate(part.index.clips):
            frames = part.index.frame_index[part.index.clip == of_clip]
            places.setdefault(clip_id, []).append((number, frames))
    for clip_id, of_parts in places.items():
        frames = np.concatenate([frames for _, frames in of_parts])
        holders = np.concatenate([np.full(len(frames), number) for number, frames in of_parts])
        order = np.argsort(frames, kind="stable")
        doubled = np.flatnonzero(np.diff(frames[order]) == 0)
        pairs = {(int(holders[order[at]]), int(holders[order[at + 1]])): int(frames[order[at]]) for at in doubled[::-1]}
        for (one, other), frame_index in sorted(pairs.items()):
            count = sum((int(holders[order[at]]), int(holders[order[at + 1]])) == (one, other) for at in doubled)
            key = key_of(clip_id, frame_index)
            found(
                key,
                "doubled-key",
                f"{folder}: {count} keys are in {parts[one].name} and in {parts[other].name}, the first is {key}; a sample "
                "belongs to one place",
            )


def _blocks_below(parts: Sequence[Part], place: str) -> Iterator[Columns]:
    """The manifest of some parts with shards named from a folder above them."""
    for part in parts:
        yield from manifest.blocks(part.index, part.clips, split=part.split, folder=_below(part.name, place))


def _below(name: str, place: str) -> str:
    """A part's name as seen from a folder above it."""
    return name if place == "." else PurePosixPath(name).relative_to(place).as_posix()


def _check_record(path: Place, place: str, parts: Sequence[Part], hash_of_all: str | None, found: _Found) -> None:
    try:
        record = read_json(path)
        report = record["report"]
        folders = {str(folder) for folder in record["folders"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        found(path.name, "record", f"{path}: damaged ({error}); make the set again with --overwrite")
        return
    if report is None:
        found(path.name, "unfinished", f"{path}: the set is not finished; run the same command again")
        return
    names = {_below(part.name, place) for part in parts}
    for folder in sorted(folders - names):
        found(
            folder,
            "missing-part",
            f'{path}: names {folder!a}, which is not there or cannot be opened; run "infraredcity repair", or make the set again',
        )
    if hash_of_all is not None and not folders - names:
        for folder in sorted(names - folders):
            found(folder, "unknown-part", f"{path}: does not name {folder}; remove that folder from the set")
        try:
            if report["manifest_hash"] != hash_of_all:
                found(
                    path.name,
                    "manifest-hash",
                    f"{path}: says manifest hash {str(report['manifest_hash'])[:8]}..., the parts have another: samples were "
                    "changed or are of another build",
                )
            if path.name == LITE_NAME:
                _check_lite(path, report, place, parts, found)
        except (KeyError, TypeError, ValueError) as error:
            found(path.name, "record", f"{path}: lacks a fact ({error}); make the set again with --overwrite")


def _check_lite(path: Place, report: Mapping[str, Any], place: str, parts: Sequence[Part], found: _Found) -> None:
    """Counts of lite.json, and the guard gap between train and test frames of a clip."""
    counted = Counter(
        (_below(part.name, place), part.index.clips[number], part.split)
        for part in parts
        for number in part.index.clip.tolist()
    )
    said = {(row["folder"], row["clip"], row["split"]): int(row["num_frames"]) for row in report["rows"]}
    for cell in sorted({*counted, *said}):
        if counted[cell] != said.get(cell, 0):
            found(
                path.name,
                "count",
                f"{path}: says {said.get(cell, 0)} frames of {cell[1]} in {cell[0]}, there are {counted[cell]}",
            )
    frames: dict[tuple[str, str], list[np.ndarray]] = {}
    for part in parts:
        for number, clip_id in enumerate(part.index.clips):
            frames.setdefault((clip_id, part.split), []).append(part.index.frame_index[part.index.clip == number])
    for clip_id in sorted({clip for clip, _ in frames}):
        train, test = (
            np.sort(np.concatenate(frames.get((clip_id, split), [np.zeros(0, np.int64)])))
            for split in ("train", "test")
        )
        if len(train) == 0 or len(test) == 0:
            continue
        after = np.searchsorted(train, test)
        to_next = np.where(after < len(train), train[np.minimum(after, len(train) - 1)] - test, np.iinfo(np.int64).max)
        to_last = np.where(after > 0, test - train[np.maximum(after - 1, 0)], np.iinfo(np.int64).max)
        nearest = int(np.minimum(to_next, to_last).min()) - 1
        if nearest < int(report["guard_frames"]):
            found(
                clip_id,
                "guard",
                f"{path}: only {max(0, nearest)} frames of {clip_id} lie between a train and a test frame, the guard is "
                f"{report['guard_frames']}",
            )


def _published_rows(
    root: Place, sets: Mapping[str, Sequence[str]], opened: Mapping[str, Part], state: _State
) -> Iterator[CountRow]:
    """Published counts beside what stands here; each difference is a finding."""
    published = published_counts()
    rows: list[CountRow] = []
    for place, names in sets.items():
        parts = [opened[name] for name in names if name in opened]
        if (root / place / LITE_NAME).is_file():
            rows += _lite_rows(published["lite"], parts)
        elif not any((root / place / record).is_file() for record in RECORD_NAMES):
            rows += _clip_rows(published["frames"], parts)
    if not rows:
        state.teller(".")(
            ".",
            "published",
            f"{root}: holds neither extracted clips nor a Lite set, so there is nothing to compare with",
        )
    for row in rows:
        if row.expected != row.found:
            state.teller(".")(
                row.name, "published", f"{row.name}: {row.expected:,} frames are published, {row.found:,} are here"
            )
    yield from rows


def _clip_rows(published: Mapping[str, int], parts: Sequence[Part]) -> Iterator[CountRow]:
    counts: Counter[str] = Counter()
    for part in parts:
        for number, clip_id in enumerate(part.index.clips):
            facts = part.clips[clip_id]
            count = int(np.count_nonzero(part.index.clip == number))
            counts[f"{facts.modality}_{facts.time_of_day}"] += count
            counts["total"] += count
    for name in [*published, *sorted(counts.keys() - published.keys())]:
        yield CountRow(name=name, expected=published.get(name, 0), found=counts[name])


def _lite_rows(published: Mapping[str, Any], parts: Sequence[Part]) -> Iterator[CountRow]:
    counts: Counter[str] = Counter()
    for part in parts:
        for number, clip_id in enumerate(part.index.clips):
            facts = part.clips[clip_id]
            count = int(np.count_nonzero(part.index.clip == number))
            cell = f"{facts.modality}_{part.split}"
            cells = published.get(facts.scene, {})
            # The published table tells weathers apart for infrared city and highway frames alone.
            named = f"{cell}_{facts.weather}" if f"{cell}_{facts.weather}" in cells or cell not in cells else cell
            for name in (f"lite {facts.scene} {named}", f"lite {facts.scene} total", "lite total"):
                counts[name] += count
    expected = {
        f"lite {scene} {cell}": count
        for scene, cells in published.items()
        if scene != "total"
        for cell, count in cells.items()
    } | {"lite total": published["total"]}
    for name in [*expected, *sorted(counts.keys() - expected.keys())]:
        yield CountRow(name=name, expected=expected.get(name, 0), found=counts[name])
