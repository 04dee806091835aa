"""Shards from names: local files, patterns and folders, and the same on other machines; with an index of ours or without one."""

import fnmatch
import glob
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from urllib.parse import unquote

from infraredcity.datasets.clip_facts import CLIPS_NAME
from infraredcity.datasets.folder import ShardFolder, open_indexed
from infraredcity.datasets.gaps import GAPS_NAME
from infraredcity.datasets.walk import JOB_NAME, RECORD_NAMES, folders_below
from infraredcity.errors import RemoteError, ShardError
from infraredcity.files.chunk_cache import ChunkCache, default_cache
from infraredcity.files.path import AnyPath, RemotePath, is_remote
from infraredcity.files.retry import RemoteOptions
from infraredcity.files.urls import READ_ONLY_SCHEMES, is_url, shown, split_query
from infraredcity.shards import index_file
from infraredcity.shards.by_row import ShardFiles
from infraredcity.shards.foreign import concatenate, index_tars
from infraredcity.shards.index import SampleIndex
from infraredcity.shards.pictures import OTHER_PICTURES, ending_of, index_pictures, is_picture
from infraredcity.shards.reader import TarSource
from infraredcity.stills.formats import READ_SUFFIXES

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_ALL = "*.tar"
_COMPRESSED = ("bz2", "gz", "tbz2", "tgz", "txz", "xz", "zst")
_MOST_LISTED = 4
_MOST_LOOKED_INTO = 500
_OUR_RECORDS = (CLIPS_NAME, JOB_NAME, GAPS_NAME, *RECORD_NAMES)
"""Where one of these lies, the folder is ours, and tars without an index are an extraction that did not end."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SourcePart:
    """The samples of one group of sources, and the hash that their order follows from."""

    index: SampleIndex
    data_hash: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Opened:
    """Shards that can be read.

    Attributes:
        index: All their samples, group after group.
        parts: The same group by group.
        files: Reads what a row of `index` names.
        data_hash: Names all the samples; of one group it is the group's.
    """

    index: SampleIndex
    parts: tuple[SourcePart, ...]
    files: ShardFiles
    data_hash: str


def open_sources(
    groups: Sequence[Sequence[str | Path]], *, remote: RemoteOptions | None = None, cache: ChunkCache | None = None
) -> Opened:
    """Open the samples of some shards, and what reads them.

    A source is a tar, a picture, a pattern of such, or a folder (all shards of its index); `{000000..000012}` in a name stands for
    each of these numbers. A source with a scheme (`https://`, `s3://`, ...) is on another machine. Its folder's index.npz says
    which shards there are, since nobody can list a folder over http; a pattern is matched against these names.

    Tars in a folder without index.npz are indexed by their headers (`shards.foreign`), unless the folder has records of ours:
    then it is an extraction that did not end, and an error. A folder that holds pictures and no tars is read as it is
    (`shards.pictures`).

    Args:
        groups: Sources; each group is one data set.
        remote: Time limits and retries.
        cache: For remote shards; None takes `default_cache`.

    Raises:
        ShardError: A source matches nothing, or a tar is not in its folder's index.
        ManifestError: An index is missing, damaged, or contradicts another.
        RemoteError: Another machine cannot be reached, or has no index where one is needed.
    """
    options = remote or RemoteOptions()
    parts: list[SourcePart] = []
    locations: list[AnyPath] = []
    for group in groups:
        folders = [
            _open_pictures(folder, names) if are_pictures and isinstance(folder, Path) else _open_shards(folder, names)
            for folder, are_pictures, names in _folders(group, options)
        ]
        parts.append(
            SourcePart(
                index=concatenate([folder.index for folder in folders]),
                data_hash=_joined([folder.data_hash for folder in folders]),
            )
        )
        locations += [folder.path for folder in folders for _ in folder.index.shards]
    index = concatenate([part.index for part in parts])
    on_network = any(is_remote(location) for location in locations)
    if on_network and cache is None:
        cache = default_cache()
    return Opened(
        index=index,
        parts=tuple(parts),
        files=ShardFiles(index, locations, remote=options, cache=cache if on_network else None),
        data_hash=_joined([part.data_hash for part in parts]),
    )


def _joined(hashes: Sequence[str]) -> str:
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def _folders(group: Sequence[str | Path], options: RemoteOptions) -> Iterator[tuple[AnyPath, bool, list[str]]]:
    """Yield the folders of a group's sources in order, whether pictures are meant, and names of files; _ALL is all of them.

    Of a URL they are patterns. A folder of which both tars and pictures are named comes twice.
    """
    found: dict[tuple[AnyPath, bool], dict[str, None]] = {}
    for source in group:
        for name in _expanded(str(source)):
            if is_url(name):
                if is_picture(name.rpartition("/")[2]):
                    raise ShardError(
                        f"{shown(name)}: pictures are read only from disks of this machine; copy them here, or put them into tars"
                    )
                remote, pattern = _split_url(name, options)
                found.setdefault((remote, False), {})[pattern] = None
                continue
            for path in _local(name):
                if is_picture(path.name):
                    found.setdefault((path.parent, True), {})[path.name] = None
                elif path.is_dir():
                    found.setdefault((path, _holds_only_pictures(path)), {})[_ALL] = None
                else:
                    found.setdefault((path.parent, False), {})[path.name] = None
    for (folder, are_pictures), names in found.items():
        yield folder, are_pictures, list(names)


def _holds_only_pictures(folder: Path) -> bool:
    """Say whether the folder holds pictures, and no shards."""
    names = _listed(folder)
    return any(map(is_picture, names)) and not _tars(names) and index_file.INDEX_NAME not in names


def _listed(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError as error:
        raise ShardError(f"{folder}: cannot be listed ({error.strerror}); check the folder's permissions") from error


def _tars(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.endswith(".tar") and not name.startswith("."))


def _expanded(source: str) -> Iterator[str]:
    """Expand `a-{000..002}.tar` to a-000.tar, a-001.tar, a-002.tar, the way WebDataset's users write many shards."""
    numbers = _RANGE.search(source)
    if numbers is None:
        yield source
        return
    first, last = int(numbers[1]), int(numbers[2])
    if last < first:
        raise ShardError(f"{shown(source)}: {numbers[0]} counts down; write the smaller number first")
    for number in range(first, last + 1):
        yield from _expanded(f"{source[: numbers.start()]}{number:0{len(numbers[1])}d}{source[numbers.end() :]}")


def _local(source: str) -> list[Path]:
    path = Path(source)
    if path.exists():
        return [path]
    # Path.glob refuses absolute patterns, and callers give both.
    matches = [Path(match) for match in sorted(glob.glob(source))]  # noqa: PTH207
    if not matches and glob.escape(source) == source:
        raise ShardError(f"{source}: no such file or folder; check the path")
    if not matches:
        inside = f"; {path.parent} {_what_is_in(path.parent)}" if path.parent.is_dir() else ""
        raise ShardError(f"{source}: no shard matches; check the path, and quote the pattern{inside}")
    return matches


def _what_is_in(folder: Path) -> str:
    """Say what a folder holds that may have been meant, and what to do, for an error."""
    inside = _folders_of_data(folder)
    if inside:
        listed = ", ".join(inside[:_MOST_LISTED]) + (", ..." if len(inside) > _MOST_LISTED else "")
        return f"holds the folders {listed}; name one of these"
    endings = Counter(ending_of(name) or "without an ending" for name in _listed(folder))
    listed = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(_MOST_LISTED)) or "nothing"
    if any(ending in READ_SUFFIXES for ending in endings):
        return f"holds {listed}; name the folder itself, whose pictures are read as they are"
    if any(ending in OTHER_PICTURES for ending in endings):
        return f"holds {listed}; make png or jpg of these pictures"
    if any(ending in _COMPRESSED for ending in endings):
        return f"holds {listed}; unpack the tars, since samples are read by their place in a plain tar"
    return f"holds {listed}; name what holds shards (.tar) or pictures ({', '.join(READ_SUFFIXES)})"


def _folders_of_data(root: Path) -> list[str]:
    """Find folders below one that hold shards or pictures, a few of them, looking into a few hundred."""
    found = (
        str(root / name)
        for name, files in islice(folders_below(root), _MOST_LOOKED_INTO)
        if name != "." and any(file.endswith(".tar") or is_picture(file) for file in files)
    )
    return [*islice(found, _MOST_LISTED + 1)]


def _split_url(url: str, options: RemoteOptions) -> tuple[RemotePath, str]:
    """Split a URL into the folder, and the name (not quoted) or pattern in it; _ALL where it names no tar."""
    bare, query = split_query(url)  # a pattern may hold a `?`, which is no query
    folder, _, name = bare.rpartition("/")
    if ending_of(name) not in ("tar", *_COMPRESSED):
        return RemotePath(bare + query, options), _ALL
    place = RemotePath(folder + query, options)
    return place, unquote(name) if place.scheme in READ_ONLY_SCHEMES else name


def _open_pictures(folder: Path, names: list[str]) -> ShardFolder:
    """Open the pictures of one folder."""
    is_whole = _ALL in names
    if is_whole and (folder / JOB_NAME).exists() and not (folder / CLIPS_NAME).exists():
        raise ShardError(f"{folder}: an extraction that did not end; run the same command again, it goes on")
    return ShardFolder(path=folder, index=index_pictures(folder, None if is_whole else names))


def _open_shards(folder: AnyPath, names: list[str]) -> ShardFolder:
    """Open some tars of one folder; of a remote one, names are patterns."""
    is_whole = _ALL in names
    if isinstance(folder, Path) and is_whole:
        names = _tars(_listed(folder))
        if not names:
            raise ShardError(f"{folder}: holds no shards and no pictures itself; it {_what_is_in(folder)}")
    found = open_indexed(folder)
    if found is None:
        return ShardFolder(path=folder, index=index_tars(_tars_without_index(folder, names)))
    known = [info.name for info in found.index.shards]
    if isinstance(folder, RemotePath):
        return found.of_shards(_matching(folder, names, known))
    missing = [name for name in known if name not in names] if is_whole else []
    if missing:
        raise ShardError(
            f"{folder / missing[0]}: the index names it, but it is not there ({len(missing)} of {len(known)} shards are missing); "
            "copy it again, or name the shards that you want"
        )
    strangers = [name for name in names if name not in known]
    if strangers:
        raise ShardError(
            f"{folder / strangers[0]}: not in {folder / index_file.INDEX_NAME}, so it is not part of the data set; "
            "remove it, or build the folder again"
        )
    return found.of_shards(names)


def _tars_without_index(folder: AnyPath, names: list[str]) -> list[Path | TarSource]:
    """Return the tars to index by their headers; an error where they have to have an index, or cannot be found without one."""
    if isinstance(folder, Path):
        if any((folder / name).exists() for name in _OUR_RECORDS):
            index_file.load(folder)  # says what to do
        return [folder / name for name in names]
    if any("*" in name or "?" in name for name in names):
        raise RemoteError(
            f"{folder / index_file.INDEX_NAME}: no index, and a folder there cannot be listed; name the tars, such as "
            "data-{000000..000012}.tar"
        )
    return [_RemoteTar(name, folder / name) for name in names]


def _matching(folder: RemotePath, patterns: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return the shards of an index that match some patterns."""
    names: dict[str, None] = {}
    for pattern in patterns:
        matches = fnmatch.filter(known, pattern)
        if not matches:
            raise ShardError(
                f"{folder}/{pattern}: no shard of {folder / index_file.INDEX_NAME} matches; check the name"
            )
        names.update(dict.fromkeys(matches))
    return list(names)


class _RemoteTar:
    """A tar on another machine for `index_tars`: the file, and the name it has in its folder."""

    def __init__(self, name: str, path: RemotePath) -> None:
        self.name = name
        self._path = path
        self._file = path.file()

    @property
    def size_bytes(self) -> int:
        return self._file.size_bytes

    @property
    def version(self) -> str:
        # Tars of two folders may have one name, one size and one time.
        return f"{self._path.url} {self._file.version}" if self._file.version else ""

    def read(self, offset: int, size: int) -> bytes:
        return self._file.read(offset, size)
