"""An index over WebDataset tars that bring none of their own, from a walk over their headers.

What an index of ours knows, this one must guess from keys (`index_tars` says how). It opens no picture, so it cannot
tell whether one was changed.
"""

import hashlib
import io
import itertools
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from infraredcity.clips import is_clip_id
from infraredcity.errors import OutputError, ShardError
from infraredcity.files import chunk_cache
from infraredcity.files.atomic import write_atomic
from infraredcity.files.records import NPZ_DAMAGE, opened, parse_json, read_npz
from infraredcity.shards import index as sample_index
from infraredcity.shards.index import SampleIndex, ShardInfo, unread
from infraredcity.shards.names import BLOCK_BYTES
from infraredcity.shards.reader import Member, Refused, TarSource, kept_members, members
from infraredcity.stills.formats import DEFAULT_FORMAT, READ_SUFFIXES, SUFFIXES, our_suffix

logger = logging.getLogger(__name__)

_FORMAT = "infraredcity-tar-index-2"
_NUMBERED = re.compile(r"(.*[^0-9]|)([0-9]{1,18})")
_COLUMNS: dict[str, type[np.generic]] = {
    "own_keys": np.bytes_, "start": np.int64, "offset": np.int64, "size": np.int64, "span": np.int64, "picture": np.uint8,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TarIndex(SampleIndex):
    """The samples of tars that are not ours, under the keys that the tars give them, or of pictures in folders, under their names.

    Hashes of pictures and shards are not known (zeros, and empty), pts is the frame index, `image_format` that of most pictures.

    Attributes:
        own_keys: S [N], the tars' own keys, as utf-8.
        start: i64 [N], byte where the sample's first header begins, of its picture or not.
        num_without_picture: Samples left out since they hold no picture.
        num_refused: Members left out since they are no plain files of a sample.
    """

    own_keys: np.ndarray
    start: np.ndarray
    num_without_picture: int
    num_refused: int

    def key(self, row: int) -> str:
        """Return the tar's own key of a row."""
        own_key: bytes = self.own_keys[row]
        return own_key.decode(errors="replace")

    def take(self, rows: np.ndarray) -> "TarIndex":
        """Return the index of some rows; clips and shards keep their numbers."""
        # Without arguments super() does not find its class in a dataclass with slots.
        taken = SampleIndex.take(self, rows)
        assert isinstance(taken, TarIndex)
        return replace(taken, own_keys=self.own_keys[rows], start=self.start[rows])

    def is_file(self, row: int) -> bool:
        """Say whether the picture of a row is a file by itself; in a tar a header precedes it."""
        return int(self.offset[row]) == 0

    def sample_place(self, row: int) -> tuple[int, int]:
        """Return the byte where the whole sample of a row begins in its tar, and how many there are: for `reader.read_members`."""
        start = int(self.start[row])
        return start, int(self.offset[row]) - BLOCK_BYTES + int(self.span[row]) - start

    def samples_hash(self) -> str:
        """Hash keys, frame indices and sizes: other tars have another hash, wherever they lie. It does not see the pixels."""
        digest = hashlib.sha256()
        for own_key, frame_index, size in zip(
            self.own_keys.tolist(), self.frame_index.tolist(), self.size.tolist(), strict=True
        ):
            digest.update(b"%d,%d,%s\n" % (frame_index, size, own_key))
        return digest.hexdigest()


def concatenate(indexes: Sequence[SampleIndex]) -> SampleIndex:
    """Join several indexes; where one of them goes by the keys of its tars, all do."""
    if len(indexes) == 1:
        return indexes[0]
    if not any(isinstance(index, TarIndex) for index in indexes):
        return sample_index.concatenate(indexes, same_names=True)
    # Clips of tars are guessed from keys: what is called the same in two folders need not be the same. Nor need the formats be one.
    renamed = [
        replace(index, clips=tuple(f"{clip_id}-{place}" for clip_id in index.clips), image_format=DEFAULT_FORMAT)
        for place, index in enumerate(indexes)
    ]
    joined = sample_index.concatenate(renamed, same_names=True)
    own_keys = [
        index.own_keys
        if isinstance(index, TarIndex)
        else np.array([index.key(row).encode() for row in range(len(index))])
        for index in indexes
    ]
    starts = [index.start if isinstance(index, TarIndex) else index.offset - BLOCK_BYTES for index in indexes]
    return TarIndex(
        **{field.name: getattr(joined, field.name) for field in fields(joined)},
        own_keys=np.concatenate(own_keys),
        start=np.concatenate(starts),
        num_without_picture=sum(getattr(index, "num_without_picture", 0) for index in indexes),
        num_refused=sum(getattr(index, "num_refused", 0) for index in indexes),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Contents:
    """What the walk over one tar found, and the cache keeps: a row for each sample with a picture, in the tar's order.

    `picture` is the number of the picture's suffix in READ_SUFFIXES; the other columns are those of TarIndex.
    """

    own_keys: np.ndarray
    start: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    span: np.ndarray
    picture: np.ndarray
    num_without_picture: int
    num_refused: int
    first_refused: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Frames:
    """Which frames the samples of one tar are.

    Attributes:
        clip: What tells its clip from others: the text before the numbers of its keys, or the place of its tar.
        called: What the clip's id is made from.
        rows: i64 [N], rows of _Contents in the order of frames.
        frame_index: i64 [N], for each of `rows`.
        breaks: bool [N], whether something is lost before it that frame_index does not show.
    """

    clip: str | int
    called: str
    rows: np.ndarray
    frame_index: np.ndarray
    breaks: np.ndarray


def index_tars(tars: Sequence[Path | TarSource], *, cache_folder: Path | None = None) -> TarIndex:
    """Index the samples of plain WebDataset tars, under their own keys.

    Where the keys of a tar all end in a number and are the same before it, that text is the clip and the number the frame index;
    neighbours are frames whose numbers differ by the clip's most frequent difference, also from one tar to the next. Otherwise the
    tar is a clip and the place in it the frame index; where its keys are numbered all the same, a run ends as another text or an
    unusual difference follows.

    Args:
        tars: The tars in order: files, or what can be read by place.
        cache_folder: Where to keep what was found, and to look for it; by default `tar-index` in $INFRAREDCITY_CACHE, or in
            ~/.cache/infraredcity. What is kept counts as long as the tar's place, size and time of change
            (or version) are the same.

    Raises:
        ShardError: A tar is missing or damaged, or none holds a picture.
    """
    folder = _default_cache() if cache_folder is None else cache_folder
    found = [_contents(tar, folder) for tar in tars]
    names = [tar.name for tar in tars]
    for name, contents in zip(names, found, strict=True):
        if contents.num_without_picture or contents.num_refused:
            logger.warning(
                "%s: left out %d samples without a picture (%s) and %d members that are no plain files of a sample%s",
                name,
                contents.num_without_picture,
                ", ".join(READ_SUFFIXES),
                contents.num_refused,
                contents.first_refused and f"; the first is {contents.first_refused}",
            )
    if not any(len(contents.offset) for contents in found):
        raise ShardError(
            f"{', '.join(names)}: no sample holds a picture ({', '.join(READ_SUFFIXES)}); name tars that hold pictures"
        )
    frames = [
        _frames(place, Path(name).stem, contents)
        for place, (name, contents) in enumerate(zip(names, found, strict=True))
    ]
    return _joined(tars, found, frames)


def numbered(key: str) -> tuple[str, int] | None:
    """Split a key into a text and the number that it ends in; None where it does not end in one of up to 18 digits."""
    parts = _NUMBERED.fullmatch(key)
    return None if parts is None else (parts[1], int(parts[2]))


def picture_suffix(suffixes: Sequence[str], *, where: str) -> str | None:
    """Return which member of a sample is its picture, by the suffixes of all: see READ_SUFFIXES; None where none is.

    Args:
        suffixes: What follows the key's dot, of each member.
        where: The tar and the sample, for the error.

    Raises:
        ShardError: Several may be it.
    """
    plain = next((suffix for suffix in READ_SUFFIXES if suffix in suffixes), None)
    if plain is not None:
        return plain
    named = [suffix for suffix in suffixes if _kind(suffix) < len(READ_SUFFIXES)]
    if len(named) > 1:
        listed = ", ".join(ascii(suffix[:80]) for suffix in sorted(named)[:4]) + (", ..." if len(named) > 4 else "")
        raise ShardError(
            f"{where} has {len(named)} pictures ({listed}), and a key ends at its first dot; "
            f"name the one to read <key>.{SUFFIXES[0]}"
        )
    return named[0] if named else None


def _joined(tars: Sequence[Path | TarSource], found: Sequence[_Contents], frames: Sequence[_Frames]) -> TarIndex:
    lengths = [len(one.rows) for one in frames]
    called: dict[str | int, str] = {}
    for one in frames:
        called.setdefault(one.clip, one.called)
    numbers = {name: number for number, name in enumerate(called)}
    clip = np.repeat([numbers[one.clip] for one in frames], lengths).astype(np.int32)
    frame_index = np.concatenate([one.frame_index for one in frames])
    by_clip = np.argsort(clip, kind="stable")
    bounds = np.searchsorted(clip[by_clip], np.arange(len(called) + 1)).tolist()
    steps = [most_frequent(np.diff(frame_index[by_clip[start:stop]])) for start, stop in itertools.pairwise(bounds)]
    breaks = np.concatenate([one.breaks for one in frames])
    follows = (np.diff(clip) == 0) & (np.diff(frame_index) == np.array(steps)[clip][1:]) & ~breaks[1:]

    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(contents, name)[one.rows] for contents, one in zip(found, frames, strict=True)])

    suffixes = np.bincount(column("picture"), minlength=len(READ_SUFFIXES))
    return TarIndex(
        clips=clip_ids(called.values()),
        frame_steps=tuple(steps),
        shards=tuple(
            ShardInfo(name=tar.name, num_samples=length, size_bytes=_size_bytes(tar), sha256="")
            for tar, length in zip(tars, lengths, strict=True)
        ),
        image_format=our_suffix(READ_SUFFIXES[int(suffixes.argmax())]),
        clip=clip,
        frame_index=frame_index,
        pts=frame_index,
        run_id=np.concatenate([[0], np.cumsum(~follows)]).astype(np.int32),
        shard=np.repeat(np.arange(len(tars), dtype=np.int32), lengths),
        offset=column("offset"),
        size=column("size"),
        span=column("span"),
        **unread(len(clip)),
        own_keys=column("own_keys"),
        start=column("start"),
        num_without_picture=sum(contents.num_without_picture for contents in found),
        num_refused=sum(contents.num_refused for contents in found),
    )


def _frames(place: int, stem: str, contents: _Contents) -> _Frames:
    keys = [own_key.decode() for own_key in contents.own_keys.tolist()]
    pairs = [pair for pair in map(numbered, keys) if pair is not None]
    in_order = np.arange(len(keys))
    breaks = np.zeros(len(keys), bool)
    if len(pairs) == len(keys) > 0:
        numbers = np.array([number for _, number in pairs], np.int64)
        if len({text for text, _ in pairs}) == 1:
            rows = np.argsort(numbers, kind="stable")
            return _Frames(clip=pairs[0][0], called=pairs[0][0], rows=rows, frame_index=numbers[rows], breaks=breaks)
        same_text = np.array([one[0] == other[0] for one, other in itertools.pairwise(pairs)])
        differences = np.diff(numbers)
        breaks[1:] = ~same_text | (differences != most_frequent(differences[same_text]))
    return _Frames(clip=place, called=stem, rows=in_order, frame_index=in_order, breaks=breaks)


def most_frequent(differences: np.ndarray) -> int:
    """Return the most frequent of the differences above 0, the smallest of several; 1 where there is none."""
    values, counts = np.unique(differences[differences > 0], return_counts=True)
    return int(values[counts.argmax()]) if len(values) else 1


def clip_ids(called: Iterable[str]) -> tuple[str, ...]:
    """Make valid and different clip ids that look like the given texts."""
    found: dict[str, None] = {}
    times: Counter[str] = Counter()
    for text in called:
        stem = re.sub("[^a-z0-9_-]", "_", text.lower()).strip("_-")[:50] or "clip"
        while True:
            times[stem] += 1
            clip_id = stem if times[stem] == 1 else f"{stem}-{times[stem]}"
            if clip_id not in found:
                break
        assert is_clip_id(clip_id)
        found[clip_id] = None
    return tuple(found)


def _size_bytes(tar: Path | TarSource) -> int:
    return tar.stat().st_size if isinstance(tar, Path) else tar.size_bytes


def _walk(tar: Path | TarSource) -> _Contents:
    num_refused = num_without_picture = 0
    first_refused = ""

    def refuse(refused: Refused) -> None:
        nonlocal num_refused, first_refused
        num_refused += 1
        first_refused = first_refused or f"{refused.name[:80]!a}, {refused.reason}"

    rows = []
    found = members(tar, naming="webdataset", on_refused=refuse)
    for sample in _by_sample(kept_members(tar.name, found, refuse)):
        suffix = picture_suffix(
            [member.suffix for member in sample], where=f"{tar.name}: sample {sample[0].key[:80]!a}"
        )
        if suffix is None:
            num_without_picture += 1
            continue
        picture = next(member for member in sample if member.suffix == suffix)
        span = sample[-1].stop - picture.offset + BLOCK_BYTES
        own_key = picture.key.encode()
        rows.append((own_key, sample[0].start, picture.offset, picture.size, span, _kind(suffix)))
    columns: list[Sequence[object]] = list(zip(*rows, strict=True)) or [()] * len(_COLUMNS)
    return _Contents(
        **{name: np.array(values, kind) for (name, kind), values in zip(_COLUMNS.items(), columns, strict=True)},
        num_without_picture=num_without_picture,
        num_refused=num_refused,
        first_refused=first_refused,
    )


def _by_sample(kept: Iterable[tuple[Member, bool]]) -> Iterator[list[Member]]:
    sample: list[Member] = []
    for member, is_first in kept:
        if is_first and sample:
            yield sample
            sample = []
        sample.append(member)
    if sample:
        yield sample


def _kind(suffix: str) -> int:
    """Return which of READ_SUFFIXES a suffix ends in; their number where in none."""
    ending = suffix.rpartition(".")[2]
    return READ_SUFFIXES.index(ending) if ending in READ_SUFFIXES else len(READ_SUFFIXES)


def _default_cache() -> Path | None:
    """Return the folder of kept tar indexes; None where this user has no home to keep anything in."""
    try:
        return chunk_cache.cache_folder() / "tar-index"
    except RuntimeError:
        return None


def _contents(tar: Path | TarSource, folder: Path | None) -> _Contents:
    """Return what a tar holds: from the cache, or else from a walk that the cache then keeps."""
    try:
        size_bytes, identity = _size_bytes(tar), _identity(tar)
    except OSError:
        return _walk(tar)  # which says what is wrong with it
    if folder is None or identity is None:
        return _walk(tar)
    kept = folder / f"{identity}.npz"
    contents = _kept(kept, size_bytes)
    if contents is None:
        contents = _walk(tar)
        try:
            _keep(kept, contents)
        except OutputError as error:  # it is only slower next time
            logger.debug("%s", error)
    return contents


def _identity(tar: Path | TarSource) -> str | None:
    """Return a name for a tar as it is now; None where nobody would notice that it changed."""
    facts: list[object]
    if isinstance(tar, Path):
        status = tar.stat()
        facts = [str(tar.resolve()), status.st_size, status.st_mtime_ns]
    else:
        facts = [tar.name, tar.size_bytes, tar.version]
        if not tar.version:
            return None
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _keep(kept: Path, contents: _Contents) -> None:
    header = {field.name: getattr(contents, field.name) for field in fields(contents) if field.name not in _COLUMNS}
    buffer = io.BytesIO()
    np.savez(
        buffer,
        header=np.frombuffer(json.dumps(header | {"format": _FORMAT}).encode(), np.uint8),
        **{name: getattr(contents, name) for name in _COLUMNS},
    )
    write_atomic(kept, buffer.getvalue())


def _kept(kept: Path, size_bytes: int) -> _Contents | None:
    """Read what the cache keeps of a tar of this size; None where it keeps nothing, or something damaged."""
    try:
        with opened(kept) as file:
            arrays = read_npz(file, kept.stat().st_size)
        header = parse_json(arrays["header"].tobytes())
        columns: dict[str, Any] = {name: arrays[name] for name in _COLUMNS}
        is_sound = (
            header.pop("format") == _FORMAT
            and all(
                column.dtype.kind == np.dtype(_COLUMNS[name]).kind and column.ndim == 1
                for name, column in columns.items()
            )
            and len({len(column) for column in columns.values()}) == 1
            and all((columns[name] >= 0).all() for name in ("start", "offset", "size", "span"))
            and bool((columns["offset"] - BLOCK_BYTES + columns["span"] <= size_bytes).all())
            and bool((columns["picture"] < len(READ_SUFFIXES)).all())
        )
        return _Contents(**header, **columns) if is_sound else None
    except NPZ_DAMAGE:
        return None
