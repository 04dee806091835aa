"""The sound of a video file, packet by packet, to be copied beside other pictures."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from infraredcity.files.path import AnyPath
from infraredcity.video.container import opened


@dataclass(frozen=True, slots=True)
class Audio:
    """The sound of an open file."""

    stream: Any
    """PyAV's stream, the template of a copy."""
    packets: Iterator[Any]
    """PyAV's packets in the order of the file; they keep their times."""


@contextmanager
def audio_of(path: AnyPath) -> Iterator[Audio | None]:
    """Open the first audio stream of a file; None where it has none.

    Raises:
        VideoDecodeError: The file is missing or is no video.
        RemoteError: It is remote, and its bytes do not come.
    """
    with opened(path) as file:
        streams = file.container.streams.audio
        if not streams:
            yield None
            return
        demuxed = file.container.demux(streams[0])
        yield Audio(streams[0], (packet for packet in demuxed if packet.size))
