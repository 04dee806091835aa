"""The decoders and what the rest of the package asks of each: what it may read, where it may start, which libraries it brings.

A decoder is a file of this folder that ends with its record, `DECODER`. To add one, write that file, put its name into
`DecoderName`, and name the library that it needs as an extra in `pyproject.toml`.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args, runtime_checkable

from infraredcity.video.types import Decoded, FrameRange, OnFrame, VideoInfo

DecoderName = Literal["auto", "pyav", "decord"]
"""The choices of `--decoder`: "auto", then the files of this folder that decode, the one that reads everything first."""
DECODERS: tuple[DecoderName, ...] = get_args(DecoderName)


@runtime_checkable
class DecodeFile(Protocol):
    """The signature of a decoder's `decode`."""

    def __call__(
        self, info: VideoInfo, frames: FrameRange, *, device: str, avoid: Sequence[tuple[int, int]], on_frame: OnFrame
    ) -> Iterator[Decoded]:
        """Yield the asked frames of a file in ascending order; leave out one that cannot be decoded, never replace it.

        Args:
            info: The file.
            frames: Which frames.
            device: "cpu" or "cuda:N".
            avoid: Ranges of frames, half-open, whose packets must not be decoded; each ends at a key frame.
            on_frame: Called with every frame that comes out of the decoder, asked for or not.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """A library that decodes video, as the rest of the package sees it."""

    name: DecoderName
    """Its choice of `--decoder`, which is also the name of its file."""
    libraries: Mapping[str, tuple[str, ...]]
    """Libraries that shape the bytes beside those of every run, and the packages that each may come in."""
    can_start_anywhere: bool
    """Whether it begins at any key frame: in the middle of a clip, and behind a place where it hung."""
    auto_devices: tuple[str, ...]
    """Kinds of device ("cpu", "cuda") on which `--decoder auto` tries it."""
    exact_on: str
    """Which files it reads exactly, for people."""
    instead: str
    """The option that helps where it cannot be used."""
    why_not: Callable[[VideoInfo, str], str | None]
    """Why it must not be used for a file on a device ("cpu" or "cuda:N"), or None if it may; may decode the key frames."""
    why_no_gpu: Callable[[], str | None]
    """What keeps it from the first GPU of this machine and what to do about it, or None if it can decode there."""
    decode: DecodeFile
    """Decode a file."""


def find_decoder(name: DecoderName) -> Decoder:
    """Load a decoder's file and return its record.

    Raises:
        MissingExtraError: A library without which the file cannot be loaded is not installed.
    """
    found: Decoder = importlib.import_module(f"infraredcity.video.{name}").DECODER
    return found


def all_decoders() -> tuple[Decoder, ...]:
    """Load all decoders, the one that reads everything first."""
    return tuple(find_decoder(name) for name in DECODERS if name != "auto")
