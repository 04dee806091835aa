"""Define the errors for problems with a user's data or machine, as one small tree.

InfraredCityError
├── CatalogError        clips.toml, a clip id or a clip's file
├── VideoDecodeError    a video that cannot be opened, read or trusted
├── ImageError          a still that cannot be encoded or decoded
├── ShardError          a tar that is missing, damaged or not in its index
├── ManifestError       a manifest or index that is missing, of another build, or that contradicts its shards
├── RemoteError         a remote file that cannot be read in time, changed, or is not what was expected
│   ├── RemoteMissingError   the file does not exist
│   └── RemoteRefusedError   the server refuses access
├── OutputError         an output folder that is in use, full, read-only or made with other settings
├── RecipeError         a Lite recipe that cannot be met
└── MissingExtraError   an optional package that is not installed

A caller's mistake in Python is a ValueError or TypeError instead. Messages are one line: where, what, expected, found, what to do.
All of them travel between processes as they are, with their attributes.
"""

from collections.abc import Iterable
from typing import Any

from infraredcity.installation import install_command


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raise a ValueError that lists the choices, unless `value` is one of them."""
    known = tuple(choices)
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")


class InfraredCityError(Exception):
    """A fact about the user's data or machine that stops the work; its text is one line for people.

    Attributes:
        is_resumable: Whether some work was finished, and the same command continues from there.
    """

    is_resumable: bool = False

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), str(self)), self.__dict__


def _restore(kind: type[InfraredCityError], message: str) -> InfraredCityError:
    """Make an error with its final message, without the arguments of its class's constructor."""
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    return error


class CatalogError(InfraredCityError):
    """The catalogue, a clip id or a clip's file is wrong or missing."""


class VideoDecodeError(InfraredCityError):
    """A video cannot be opened, read or trusted."""


class ImageError(InfraredCityError):
    """A still cannot be encoded or decoded."""


class ShardError(InfraredCityError):
    """A shard is missing, damaged, or unknown to its index."""


class ManifestError(InfraredCityError):
    """A manifest or an index is missing, of another build, or contradicts its shards."""


class RemoteError(InfraredCityError):
    """A remote file cannot be read in time, changed, or is not what was expected.

    Attributes:
        is_missing: Whether the server says that there is no such file.
    """

    def __init__(self, message: str, *, is_missing: bool = False) -> None:
        super().__init__(message)
        self.is_missing = is_missing


class RemoteMissingError(RemoteError, FileNotFoundError):
    """A remote file does not exist; also a FileNotFoundError, so that local and remote paths fail in the same way."""

    def __init__(self, message: str) -> None:
        super().__init__(message, is_missing=True)


class RemoteRefusedError(RemoteError):
    """The server refuses to read or write a file; running the same command again does not help."""


class OutputError(InfraredCityError):
    """An output folder is in use, not writable, or was made with other settings.

    Attributes:
        errno: The system's error number, such as errno.ENOSPC; None where the system reported none.
    """

    def __init__(self, message: str, *, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno


class RecipeError(InfraredCityError):
    """A Lite recipe needs more than the clips hold; `shortfalls` lists every cell that falls short."""

    def __init__(self, message: str, shortfalls: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.shortfalls = shortfalls


class MissingExtraError(InfraredCityError):
    """A package that only some commands need is not installed."""

    def __init__(self, package: str, *, extra: str, needed_for: str) -> None:
        super().__init__(f"{needed_for} needs {package}, which is not installed; run: {install_command(extra)}")
        self.package = package
        self.extra = extra
