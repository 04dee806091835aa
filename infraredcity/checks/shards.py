"""Check the files: shards and their samples against the index, plain image files against their manifest."""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from infraredcity.checks.expected import MANIFEST_NAMES, dali_problem
from infraredcity.checks.findings import Findings, Found
from infraredcity.checks.index import check_coverage
from infraredcity.datasets import manifest
from infraredcity.datasets.clip_facts import ClipFacts
from infraredcity.datasets.folder import ShardFolder
from infraredcity.datasets.manifest import Columns
from infraredcity.errors import ImageError, ManifestError, MissingExtraError, ShardError
from infraredcity.files.path import AnyPath, RemotePath
from infraredcity.files.records import opened, read_whole
from infraredcity.files.temporary import TEMPORARY_PREFIX
from infraredcity.shards import sample_json
from infraredcity.shards.index import ShardInfo
from infraredcity.shards.names import BLOCK_BYTES, MAX_MEMBER_BYTES, member_span
from infraredcity.shards.reader import Refused, Sample, iterate
from infraredcity.stills.decode import decode_any, size_of
from infraredcity.stills.formats import SUFFIXES
from infraredcity.threads import in_order, threads_for

_PICTURE_SUFFIXES = tuple(f".{suffix}" for suffix in SUFFIXES)
_PIECE_BYTES = 8 << 20
"""Bytes of a shard that are read at a time."""


@dataclass(slots=True)
class ShardResult:
    """What the check of one shard found; `sha256` is empty where it was not read, `json_sizes` is i64 [n] of its rows."""

    num_samples: int
    findings: list[tuple[str, str, str]] = field(default_factory=list)
    sidecars: list[tuple[str, str, str]] = field(default_factory=list)
    num_decoded: int = 0
    is_missing: bool = False
    sha256: str = ""
    json_sizes: np.ndarray | None = None

    def found(self, where: str, problem: str, message: str) -> None:
        """Take a finding."""
        self.findings.append((where, problem, message))

    def check_count(self, path: AnyPath, info: ShardInfo) -> None:
        """Check that the index lists all samples of the shard."""
        if info.num_samples != self.num_samples:
            self.found(
                info.name,
                "shard-count",
                f"{path}: the index lists {self.num_samples} of its {info.num_samples} samples; rebuild it with "
                '"infraredcity repair"',
            )

    def is_not_there(self, path: AnyPath, info: ShardInfo) -> None:
        """Take the finding that the shard is missing."""
        self.is_missing = True
        self.found(
            info.name, "missing-shard", f"{path}: the index names it, it is not there; copy it again, or extract again"
        )

    def check_size(self, path: AnyPath, info: ShardInfo, size_bytes: int) -> bool:
        """Check that the shard is as long as the index says."""
        if size_bytes != info.size_bytes:
            self.found(
                info.name,
                "shard-size",
                f"{path}: is {size_bytes} bytes, the index says {info.size_bytes}; copy it again, or run "
                '"infraredcity repair"',
            )
        return size_bytes == info.size_bytes


def look_at_shard(part: ShardFolder, number: int, rows: np.ndarray, there: Mapping[str, int]) -> ShardResult:
    """Check a shard without reading it."""
    info = part.index.shards[number]
    path = part.path / info.name
    result = ShardResult(len(rows))
    result.check_count(path, info)
    if info.name in there:
        result.check_size(path, info, there[info.name])
    else:
        result.is_not_there(path, info)
    return result


def check_shard(part: ShardFolder, number: int, rows: np.ndarray, to_decode: frozenset[int]) -> ShardResult:
    """Read one shard, hash it, and compare all its samples with the index; pictures of the rows `to_decode` are decoded."""
    info = part.index.shards[number]
    path = part.path / info.name
    result = ShardResult(len(rows))
    result.check_count(path, info)
    try:
        with _streamed(path) as stream:
            inside = ShardResult(len(rows))
            json_sizes = _check_samples(part, path, info, rows, to_decode, stream, inside)
            sha256 = stream.sha256()
    except (FileNotFoundError, IsADirectoryError):
        result.is_not_there(path, info)
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
    result.sha256 = sha256
    result.json_sizes = json_sizes
    problem = dali_problem(part, number, rows, json_sizes)
    if problem is not None:
        idx = path.with_suffix(".idx")
        result.sidecars.append((idx.name, "sidecar", f'{idx}: {problem}; run "infraredcity repair"'))
    return result


class _Stream:
    """A shard that is read once, from its first byte to its last, and hashed on the way."""

    version = ""

    def __init__(self, name: str, size_bytes: int, read: Callable[[int, int], bytes]) -> None:
        self.name = name
        self.size_bytes = size_bytes
        self._read = read
        self._digest = hashlib.sha256()
        self._start = 0
        self._held = b""

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes from a place on, which must not be before that of an earlier call."""
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
        """Read to the end and return the hash of the whole."""
        while self._start + len(self._held) < self.size_bytes:
            self._go_on()
        return self._digest.hexdigest()

    def _go_on(self) -> None:
        self._start += len(self._held)
        self._held = self._read(self._start, min(_PIECE_BYTES, self.size_bytes - self._start))
        if not self._held:
            raise OSError(errno.EIO, "it became shorter while it was read")
        self._digest.update(self._held)


@contextmanager
def _streamed(path: AnyPath) -> Iterator[_Stream]:
    if isinstance(path, RemotePath):
        file = path.file()
        yield _Stream(str(path), file.size_bytes, file.read)
        return
    with opened(path) as local:
        handle = local.fileno()
        yield _Stream(str(path), os.fstat(handle).st_size, lambda offset, size: os.pread(handle, size, offset))


def _check_samples(
    part: ShardFolder,
    path: AnyPath,
    info: ShardInfo,
    rows: np.ndarray,
    to_decode: frozenset[int],
    stream: _Stream,
    result: ShardResult,
) -> np.ndarray:
    """Compare the samples of a shard with the index; return i64 [n], bytes of the json members of its rows, -1 for none."""
    json_sizes = dict.fromkeys(rows.tolist(), -1)
    row_of = {part.index.key(row): row for row in rows.tolist()}
    keys: list[str] = []
    there: set[str] = set()

    def on_refused(refused: Refused) -> None:
        result.found(
            info.name,
            "refused-member",
            f"{path}: member {refused.name[:80]!a} is {refused.reason}; shards hold pictures and json only",
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
            keys.append(sample.key)
            there.add(sample.key)
    except ShardError as error:
        result.found(info.name, "damaged-shard", str(error))
    missing = [key for key in row_of if key not in there]
    if missing:
        result.found(
            missing[0],
            "missing-sample",
            f"{path}: {len(missing)} samples of the index are not in it, the first is {missing[0]}; copy it again, or extract "
            "again",
        )
    by_tar = [key for key in dict.fromkeys(keys) if key in row_of]
    if by_tar != [key for key in row_of if key in there]:
        result.found(
            info.name,
            "order",
            f'{path}: its samples are in another order than in the index; run "infraredcity repair"',
        )
    return np.array([*json_sizes.values()], np.int64)


def _sample_problems(part: ShardFolder, row: int, sample: Sample, *, decode: bool) -> Iterator[tuple[str, str, str]]:
    """Yield what is wrong with one sample of a tar: where, which problem, and the message."""
    index, key = part.index, sample.key
    facts = part.clips[index.clips[int(index.clip[row])]]
    size_px = (int(index.width[row]), int(index.height[row]))
    suffixes = list(sample.members)
    if suffixes != [index.image_format, "json"]:
        yield key, "members", f"{key} has the members {', '.join(suffixes)}, expected {index.image_format}, json"
    offset = sample.offset + BLOCK_BYTES
    if offset != int(index.offset[row]):
        yield key, "offset", f"{key} begins at byte {offset}, the index says {int(index.offset[row])}"
    span = sum(member_span(len(data)) for data in sample.members.values())
    if span != int(index.span[row]):
        yield key, "span", f"{key} takes {span} bytes, the index says {int(index.span[row])}"
    picture = sample.members.get(index.image_format)
    if picture is not None:
        if len(picture) != int(index.size[row]):
            yield key, "size", f"the picture of {key} has {len(picture)} bytes, the index says {int(index.size[row])}"
        if hashlib.sha256(picture).digest() != index.sha256[row].tobytes():
            yield key, "picture-hash", f"the picture of {key} is not the one that was written"
        try:
            width, height = size_of(picture, name=key)
            if (width, height) != size_px:
                yield key, "picture-size", f"{key} is {width}x{height}, the index says {size_px[0]}x{size_px[1]}"
            if decode:
                decode_any(picture, name=key)
        except ImageError as error:
            yield key, "undecodable", str(error)
    json_bytes = sample.members.get("json")
    if json_bytes is not None:
        frame_index, pts = int(index.frame_index[row]), int(index.pts[row])
        expected = sample_json.facts_of(facts, facts.time_base, frame_index, pts, size_px)
        for difference in sample_json.differences(json_bytes, expected):
            yield key, "json", f"the json of {key} {difference}"


def check_other_tars(
    part: ShardFolder, files: set[str], missing_sha256: Mapping[str, str], found: Found, *, is_quick: bool
) -> None:
    """Check for tars that the index does not name: renamed ones, second copies, others."""
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
                f"{path}: the index does not name it, so it is not in the data set; remove it",
            )


def check_files(
    folder: AnyPath,
    files: set[str],
    clips: Mapping[str, ClipFacts],
    findings: Findings,
    found: Found,
    *,
    is_quick: bool,
) -> None:
    """Check plain image files, as `extract --to frames` writes them, against their manifest."""
    tables: list[Columns] = []
    for name in MANIFEST_NAMES:
        try:
            tables.append(manifest.read(folder / name))
        except ManifestError as error:
            found(name, "manifest", str(error))
        except MissingExtraError as error:
            findings.notes.append(f"{folder / name}: was not compared: {error}")
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
        check_coverage(folder, facts, np.array(frames, np.int64), found)
