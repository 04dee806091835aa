"""Paths: local files and folders (pathlib's Path) and remote ones (RemotePath), with the same methods.

A RemotePath has those of pathlib's methods that the commands use. Its bytes go through `infraredcity.files.remote`: ranges,
deadlines, attempts, one line per error, and a count of what was moved. In a message it never shows a password, a token or a query.

What is written there is sent whole: in an object store (s3, gs) it appears whole or not at all, and so it does through file:// and
sftp://, which rename it when all is there. Other schemes (ftp, webdav) may keep a cut file under the final name when an upload is
cut, which the next run writes anew, since a shard counts only with its segment record. An upload to S3 in parts that is
killed leaves its parts in the bucket, unseen but paid for; a lifecycle rule of the bucket for incomplete uploads removes them.
"""

import fnmatch
import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from infraredcity.errors import RemoteError
from infraredcity.files.remote import RemoteFile, fetch, fetch_start, kind, listing, remove, send, send_file
from infraredcity.files.remote_reader import RemoteReader
from infraredcity.files.retry import RemoteOptions
from infraredcity.files.source import UNKNOWN_BYTES
from infraredcity.files.urls import READ_ONLY_SCHEMES, check_writable, is_url, join, shown, split

_MAX_DEPTH = 32
"""The depth to which a remote folder is walked; a web server can show folders without end."""
_MAX_WHOLE_BYTES = 1 << 40
_ASKED_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class RemoteStatus:
    """What is known of a remote file."""

    st_size: int


class RemotePath:
    """A file or folder behind a URL; immutable, can be pickled; making one asks the other machine nothing.

    Reading what is not there raises RemoteMissingError, which is also a FileNotFoundError; all else that fails is a RemoteError.
    """

    __slots__ = ("_options", "url")

    def __init__(self, url: str, options: RemoteOptions | None = None) -> None:
        if not is_url(url):
            raise ValueError(f"a remote path is a URL with a scheme, got {shown(url)!r}")
        root, path, query = split(url)
        if "@" not in root and shown(url) not in url:
            raise RemoteError(f"{shown(url)}: a / ? or # in the password of a URL must be quoted, as %2F, %3F or %23")
        kept = path.rstrip("/") or ("/" if root.endswith("://") else "")  # file:/// is the root of a disk
        self.url = f"{root}{kept}{query}"
        self._options = options

    def __reduce__(self) -> tuple[object, ...]:
        return RemotePath, (self.url, self._options)

    def __str__(self) -> str:
        return shown(self.url)

    def __repr__(self) -> str:
        return f"RemotePath({shown(self.url)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and other.url == self.url

    def __hash__(self) -> int:
        return hash(self.url)

    def __lt__(self, other: "RemotePath") -> bool:
        return self._order < other._order

    def __truediv__(self, name: str | PurePosixPath) -> "RemotePath":
        below = [part for part in str(name).split("/") if part not in ("", ".")]
        return RemotePath(join(self.url, "/".join(below)), self._options) if below else self

    @property
    def scheme(self) -> str:
        """The part of the URL before `://`, in small letters."""
        return self.url.partition("://")[0].lower()

    @property
    def _path(self) -> PurePosixPath:
        """The URL's path as it stands there; a bucket is no part of it."""
        return PurePosixPath(split(self.url)[1] or "/")

    @property
    def _order(self) -> tuple[str, tuple[str, ...]]:
        """The key by which paths are sorted: names of folders one by one, as pathlib does."""
        return split(self.url)[0], self._path.parts

    @property
    def name(self) -> str:
        """The last part of the path, not quoted; for a bucket or a server itself its name."""
        name = self._path.name
        if not name:
            return shown(split(self.url)[0]).partition("://")[2]
        return unquote(name) if self.scheme in READ_ONLY_SCHEMES else name

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The last suffix of the name, with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> "RemotePath":
        """The folder that it lies in."""
        root, _, query = split(self.url)
        return RemotePath(f"{root}{self._path.parent}{query}", self._options)

    def with_name(self, name: str) -> "RemotePath":
        """Return the path of another name in the same folder."""
        return self.parent / name

    def with_suffix(self, suffix: str) -> "RemotePath":
        """Return the same path with another suffix."""
        return self.with_name(f"{self.stem}{suffix}")

    def relative_to(self, other: "RemotePath") -> PurePosixPath:
        """Return the path from `other` to here, not quoted; raise a ValueError if it does not lie below `other`."""
        if split(self.url)[0] != split(other.url)[0]:
            raise ValueError(f"{self} does not lie below {other}")
        found = self._path.relative_to(other._path)
        return PurePosixPath(unquote(str(found))) if self.scheme in READ_ONLY_SCHEMES else found

    def as_posix(self) -> str:
        """Return what is shown of it."""
        return str(self)

    def resolve(self) -> "RemotePath":
        """Return itself: a URL has no links that could be followed from here."""
        return self

    # reading

    def read_bytes(self, max_bytes: int = _MAX_WHOLE_BYTES) -> bytes:
        """Read the whole file; a larger one is an error."""
        return fetch(self.url, self._options, max_bytes=max_bytes)

    def read_start(self, size: int) -> bytes:
        """Read the first `size` bytes of a file that is known to have as many, without asking for its size."""
        return fetch_start(self.url, size, self._options)

    def read_text(self, encoding: str = "utf-8") -> str:
        """Read the whole file as text."""
        return self.read_bytes().decode(encoding)

    def file(self, expected_bytes: int | None = None) -> RemoteFile:
        """Return the file for reading by ranges."""
        return RemoteFile(self.url, self._options, expected_bytes)

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """Open the file for reading from anywhere in it, by chunks of a MiB of which the last few are kept."""
        if mode != "rb":
            raise ValueError(f"a remote file is opened only for reading bytes, got mode {mode!r}")
        return io.BufferedReader(RemoteReader(self.file()), buffer_size=64 * 1024)

    def stat(self) -> RemoteStatus:
        """Ask for its size."""
        return RemoteStatus(st_size=self.file().size_bytes)

    def exists(self) -> bool:
        """Whether a file or a folder is there."""
        return kind(self.url, self._options) is not None

    def is_file(self) -> bool:
        """Whether a file is there."""
        return kind(self.url, self._options) == "file"

    def is_dir(self) -> bool:
        """Whether a folder is there; an object store knows no empty ones."""
        return kind(self.url, self._options) == "folder"

    def iterdir(self) -> Iterator["RemotePath"]:
        """Yield what lies directly in it, in order of the names."""
        for name in sorted(listing(self.url, self._options)):
            yield self / name

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        """Yield what lies directly in it under a name of that pattern; nothing if the folder is not there."""
        if "/" in pattern or "**" in pattern:
            raise ValueError(
                f"a remote folder is searched only for names in it, not through its folders, got {pattern!r}"
            )
        try:
            names = sorted(listing(self.url, self._options))
        except FileNotFoundError:
            return
        for name in fnmatch.filter(names, pattern):
            yield self / name

    # writing

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a folder is there as soon as something lies in it."""

    def write_whole(self, data: bytes) -> None:
        """Send `data` as the file."""
        send(self.url, data, self._options)

    def upload(self, path: Path) -> None:
        """Send a local file as the file."""
        send_file(self.url, path, self._options)

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove the file; S3 does not tell whether one was there."""
        try:
            remove(self.url, self._options)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def check_writable(self) -> None:
        """Raise RemoteError if the scheme is only for reading."""
        check_writable(self.url)


AnyPath = Path | RemotePath
"""A file or a folder, local or remote."""


def any_path(location: str | Path | RemotePath) -> AnyPath:
    """Make a RemotePath of a URL, and a Path of anything else."""
    if isinstance(location, Path | RemotePath):
        return location
    return RemotePath(location) if is_url(location) else Path(location)


def is_remote(location: AnyPath) -> bool:
    """Whether a path is behind a URL."""
    return isinstance(location, RemotePath)


def is_below(path: AnyPath, folder: AnyPath) -> bool:
    """Whether a path is `folder` or lies anywhere in it; local links are followed."""
    if isinstance(path, Path) and isinstance(folder, Path):
        return path.resolve().is_relative_to(folder.resolve())
    if isinstance(path, Path) or isinstance(folder, Path):
        return False
    with suppress(ValueError):
        path.relative_to(folder)
        return True
    return False


def size_of(path: AnyPath) -> int | None:
    """Return the size of a file in bytes; None if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def sizes_in(folder: AnyPath) -> dict[str, int]:
    """Return the sizes in bytes of the files directly in a folder by name, from one listing; empty if there is no such folder.

    A file that vanishes while it is listed, as temporary ones of a writer do, is left out. A web server does not list
    sizes, so that each file is asked for its own.
    """
    try:
        if isinstance(folder, RemotePath):
            sizes = {name: size for name, size in folder_listing(folder).items() if size is not None}
            unknown = [name for name, size in sizes.items() if size == UNKNOWN_BYTES]
            with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
                asked = dict(zip(unknown, pool.map(lambda name: size_of(folder / name), unknown), strict=True))
            return {name: size for name, listed in sizes.items() if (size := asked.get(name, listed)) is not None}
        entries = os.scandir(folder)
    except FileNotFoundError:
        return {}
    found: dict[str, int] = {}
    with entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.is_file():
                    found[entry.name] = entry.stat().st_size
    return found


def folder_listing(folder: RemotePath) -> dict[str, int | None]:
    """Return what lies directly in a remote folder by name: size of a file, UNKNOWN_BYTES if it is not listed, None for a folder.

    Raises:
        RemoteMissingError: There is no such folder.
    """
    return listing(folder.url, folder._options)


def walk(root: AnyPath) -> Iterator[tuple[AnyPath, list[str], list[str]]]:
    """Yield each folder at and below `root` with the names of its folders and of its files, as os.walk does, from the top.

    The caller may take names out of the list of folders, which are then not entered. Links to folders are not followed.
    """
    if not isinstance(root, RemotePath):
        for folder, folders, files in os.walk(root):
            yield Path(folder), folders, files
        return
    yield from _walk_remote(root, 0)


def _walk_remote(folder: RemotePath, depth: int) -> Iterator[tuple[AnyPath, list[str], list[str]]]:
    if depth > _MAX_DEPTH:
        raise RemoteError(
            f"{folder}: lies more than {_MAX_DEPTH} folders deep, perhaps without end; name a folder below"
        )
    try:
        found = folder_listing(folder)
    except FileNotFoundError:
        return
    folders = sorted(name for name, size in found.items() if size is None)
    yield folder, folders, sorted(name for name, size in found.items() if size is not None)
    for name in folders:
        yield from _walk_remote(folder / name, depth + 1)
