"""The same data set on a disk and elsewhere: sending it there, looking what lies there, and counting what is moved."""

from collections.abc import Callable
from pathlib import Path

from infraredcity.files.path import AnyPath, RemotePath, walk
from infraredcity.files.traffic import Traffic, traffic


def sent(folder: Path, to: RemotePath) -> RemotePath:
    """`to`, with all files of a folder."""
    for path in folder.rglob("*"):
        if path.is_file() and path.name != ".lock":
            (to / path.relative_to(folder).as_posix()).upload(path)
    return to


def contents(root: AnyPath) -> dict[str, bytes]:
    """All files at and below a place, named from it."""
    return {
        (folder / name).relative_to(root).as_posix(): (folder / name).read_bytes()  # type: ignore[arg-type]
        for folder, _, files in walk(root)
        for name in files
        if name != ".lock"
    }


def shard_bytes(root: Path) -> int:
    """Bytes of all shards at and below a folder."""
    return sum(path.stat().st_size for path in root.rglob("*.tar"))


def moved(call: Callable[[], object]) -> Traffic:
    """What was moved while `call` ran."""
    before = traffic()
    call()
    now = traffic()
    return Traffic(
        num_requests=now.num_requests - before.num_requests,
        received_bytes=now.received_bytes - before.received_bytes,
        sent_bytes=now.sent_bytes - before.sent_bytes,
    )
