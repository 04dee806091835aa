"""The interface of http and the stores: one remote file, pinned at first contact, as single attempts."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, NoReturn

from infraredcity.errors import RemoteError
from infraredcity.files.retry import Clock, TooLargeError
from infraredcity.files.urls import shown

UNKNOWN_BYTES = -1
"""The size of a file in the listing of a web server, which does not hold it."""
PIECE_BYTES = 256 * 1024
LOGIN_ADVICE = "check who may read or write there, and the credentials"


@dataclass(frozen=True, slots=True)
class FileFacts:
    """The facts that differ between two versions of a file."""

    size_bytes: int
    version: str

    def __str__(self) -> str:
        return f"{self.size_bytes} bytes" + (f", version {self.version}" if self.version else "")


class Source(ABC):
    """One file and its facts at first contact; each method is one attempt.

    It raises PassingError if another attempt may help, and RemoteError if none does.
    """

    def __init__(self, url: str, expected_bytes: int | None) -> None:
        self.url = url
        self.expected_bytes = expected_bytes
        self._pinned: dict[str, FileFacts] = {}

    @property
    def pinned(self) -> FileFacts | None:
        """The file's facts at first contact."""
        return self._pinned.get("facts")

    def pin(self, facts: FileFacts) -> FileFacts:
        """Keep the file's facts at first contact; raise an error if they differ later."""
        if self.expected_bytes is not None and facts.size_bytes != self.expected_bytes:
            raise RemoteError(
                f"{shown(self.url)}: is {facts.size_bytes} bytes, the index says {self.expected_bytes}; "
                "copy the file there again, or take the index that belongs to it"
            )
        first = self._pinned.setdefault("facts", facts)  # atomic: a lock could be held when the process forks
        if first != facts:
            raise RemoteError(
                f"{shown(self.url)}: changed while it was read, from {first} to {facts}; start again when nobody writes there"
            )
        return facts

    def ends_before(self, offset: int, size: int) -> NoReturn:
        """Raise the error of a file that is shorter than the bytes asked for."""
        raise RemoteError(
            f"{shown(self.url)}: ends before byte {offset + size}, of which {size} were asked for; "
            "copy the file there again, or take the index that belongs to it"
        )

    def too_large(self, size_bytes: int, max_bytes: int) -> NoReturn:
        """Raise the error of a file that is larger than expected."""
        raise TooLargeError(f"{shown(self.url)}: is {size_bytes} bytes, expected at most {max_bytes}; check the URL")

    @abstractmethod
    def facts(self, clock: Clock) -> FileFacts:
        """Ask for size and version, and pin them."""

    @abstractmethod
    def read(self, offset: int, size: int, clock: Clock) -> bytes:
        """Read exactly these bytes of the pinned file."""

    @abstractmethod
    def piece(self, offset: int, size: int, clock: Clock) -> bytes:
        """Read exactly these bytes of a file of which nothing need be known."""

    @abstractmethod
    def whole(self, max_bytes: int, clock: Clock) -> bytes:
        """Read all bytes."""

    @abstractmethod
    def kind(self, clock: Clock) -> Literal["file", "folder"] | None:
        """Find out what is there."""

    @abstractmethod
    def listed(self, clock: Clock) -> dict[str, int | None]:
        """List what lies directly in the folder, by name: size of a file or UNKNOWN_BYTES, None for a folder."""


NOT_RIGHT = "the server or a proxy before it is not right, try another one"
