"""What is translated: videos, pictures, shards, a pipe, a live stream; each gives gray frames in order, with names and times."""

import os
import queue
import re
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np

from infraredcity import video
from infraredcity.clips import VIDEO_SUFFIXES
from infraredcity.datasets.sources import open_sources
from infraredcity.errors import ImageError
from infraredcity.files.path import AnyPath, any_path
from infraredcity.files.urls import is_url, shown
from infraredcity.shards.pictures import OTHER_PICTURES, ending_of, is_picture, natural_order
from infraredcity.stills.decode import decode, decode_deep, is_deep_png
from infraredcity.video.live import OpenStream, RawFormat, Readable, open_live, open_pipe
from roma.errors import EvaluationError
from roma.inference.choices import LatePolicy

STILL_FPS = 25.0
"""The rate of pictures that have no times, where they become a video."""
LIVE_SCHEMES = ("rtsp", "rtsps", "rtp", "udp", "srt", "tcp", "rtmp")
_PATTERN = re.compile(r"[*?\[{]")
_MOST_UNITS_PER_S = 2**31 - 1
"""What FFmpeg and an mp4 hold of a unit of time."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """One frame to translate."""

    picture: np.ndarray
    """u8 [H, W, 1], levels, or u16 [H, W, 1], counts."""
    name: str
    """What a file of it is called, without an ending; unique in its source."""
    clip_id: str = "frames"
    """Which clip of a data set it is of."""
    index: int = 0
    """0-based index in that clip."""
    pts: int
    """When it is shown, in units of the source's `time_base`; rises from frame to frame."""
    time_base: Fraction
    """Seconds per unit of pts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFacts:
    """What is known of a source before its first frame."""

    name: str
    """For messages, without secrets."""
    stem: str
    """What its output is called, without an ending."""
    kind: Literal["video", "pictures", "shards", "stream"]
    num_frames: int | None
    """Frames that it gives at most; None where that is not known."""
    fps: float
    """Nominal rate in frames per second."""
    rotation_deg: int = 0
    """By how much players turn the pictures, counter-clockwise."""
    pixel_aspect: Fraction = Fraction(1)
    """How much wider than high a pixel is shown."""
    is_endless: bool = False
    """Whether it can be read only once, as it comes."""


class Source(ABC):
    """Gray frames in order; `frames` may be called again, unless the source `is_endless`."""

    facts: SourceFacts
    num_missing: int = 0
    """Frames of the last pass that could not be read and were left out."""

    @abstractmethod
    def frames(self) -> Iterator[Frame]:
        """Yield the frames.

        Raises:
            InfraredCityError: It cannot be read.
            EvaluationError: It holds no frame, or a stream ended or stalled in the middle.
        """

    @abstractmethod
    def names(self) -> Iterable[str]:
        """Return the names of all its frames; none where they are not known before they come."""

    def close(self) -> None:  # noqa: B027 - most have nothing to let go of
        """Let go of files and connections."""


class VideoSource(Source):
    """The files of one clip."""

    def __init__(self, paths: Sequence[AnyPath], *, start: int = 0, stop: int | None = None) -> None:
        self._clip = clip = video.open_clip(paths)
        video.choose_decoder(clip, "pyav", "cpu")
        first = clip.files[0]
        self._range = video.FrameRange(
            start_frame=min(start, clip.num_frames), stop_frame=min(stop or clip.num_frames, clip.num_frames)
        )
        self.paths = tuple(paths)
        stem = Path(first.path.name).stem
        self._name = str(first.path)
        self.facts = SourceFacts(
            name=self._name,
            stem=stem,
            kind="video",
            num_frames=len(self._range),
            fps=first.nominal_fps or STILL_FPS,
            rotation_deg=first.rotation_deg,
            pixel_aspect=first.pixel_aspect,
        )
        if len(self._range) == 0:
            raise EvaluationError(
                f"{self._name}: holds {clip.num_frames} frames, none from --start {start} on"
                + (f" and before --stop {stop}" if stop is not None else "")
            )

    @property
    def num_frames(self) -> int:
        """Frames of the whole clip."""
        return self._clip.num_frames

    def names(self) -> Iterable[str]:
        """Return a name for each frame; see `Source.names`."""
        return map(self._name_of, range(self._range.start_frame, self._range.stop_frame))

    def _name_of(self, index: int) -> str:
        return f"{self.facts.stem}_{index:08d}"

    def frames(self) -> Iterator[Frame]:
        """Yield the frames that can be decoded; see `Source.frames`."""
        for _, frame in self.indexed():
            yield frame

    def indexed(self) -> Iterator[tuple[int, Frame]]:
        """Yield the frames with their index in the clip."""
        times, unit = _video_times(self._clip)
        clip_id = clip_id_of(self.facts.stem)
        given = 0
        for batch in video.read_frames(self._clip, self._range, color="gray"):
            for picture, index in zip(batch.data, batch.frame_indices.tolist(), strict=True):
                given += 1
                frame = Frame(
                    picture=picture,
                    name=self._name_of(index),
                    pts=int(times[index]),
                    time_base=unit,
                    clip_id=clip_id,
                    index=index,
                )
                yield index, frame
        self.num_missing = len(self._range) - given
        if given == 0:
            raise EvaluationError(f"{self._name}: no frame of it could be decoded")


class PicturesSource(Source):
    """Picture files, in the natural order of their names; a file that cannot be read is an error."""

    def __init__(self, name: str, paths: Sequence[Path], *, start: int = 0, stop: int | None = None) -> None:
        self.paths = tuple(paths)[start:stop]
        if not self.paths:
            raise EvaluationError(f"{name}: holds {len(paths)} pictures, none from --start {start} on")
        self.facts = SourceFacts(
            name=name,
            stem=self.paths[0].stem if len(paths) == 1 else Path(name).name or "pictures",
            kind="pictures",
            num_frames=len(self.paths),
            fps=STILL_FPS,
        )
        stems = [path.stem for path in self.paths]
        self._names = [path.name.replace(".", "_") for path in self.paths] if len({*stems}) < len(stems) else stems

    def names(self) -> Iterable[str]:
        """Return the files' names without their endings; see `Source.names`."""
        return self._names

    def frames(self) -> Iterator[Frame]:
        """Yield the pictures; see `Source.frames`."""
        unit = Fraction(1) / Fraction(STILL_FPS)
        clip_id = clip_id_of(self.facts.stem)
        for number, (path, name) in enumerate(zip(self.paths, self._names, strict=True)):
            yield Frame(
                picture=read_picture(path), name=name, pts=number, time_base=unit, clip_id=clip_id, index=number
            )


class ShardSource(Source):
    """Samples of shards, in their order; each keeps its key."""

    def __init__(self, patterns: Sequence[str], *, start: int = 0, stop: int | None = None) -> None:
        opened = open_sources([patterns])
        self.index, self._files = opened.index, opened.files
        self._rows = range(len(self.index))[start:stop]
        name = ", ".join(shown(text) if is_url(text) else text for text in patterns)
        if not self._rows:
            raise EvaluationError(f"{name}: holds {len(self.index)} samples, none from --start {start} on")
        self.facts = SourceFacts(
            name=name,
            stem=Path(patterns[0].rstrip("/")).parent.name if patterns[0].endswith(".tar") else Path(patterns[0]).name,
            kind="shards",
            num_frames=len(self._rows),
            fps=STILL_FPS,
        )

    def names(self) -> Iterable[str]:
        """Return the samples' keys; see `Source.names`."""
        return map(self._name_of, self._rows)

    def _name_of(self, row: int) -> str:
        return self.index.key(row).replace("/", "-")

    def frames(self) -> Iterator[Frame]:
        """Yield the samples' pictures; see `Source.frames`."""
        unit = Fraction(1) / Fraction(STILL_FPS)
        for number, row in enumerate(self._rows):
            yield Frame(
                picture=self.picture(row),
                name=self._name_of(row),
                pts=number,
                time_base=unit,
                clip_id=clip_id_of(self.index.clips[int(self.index.clip[row])]),
                index=int(self.index.frame_index[row]),
            )

    def picture(self, row: int) -> np.ndarray:
        """Read the picture of a row of `index`: u8 [H, W, 1], or u16 [H, W, 1] of counts."""
        return _pixels(self._files.image(row), self.index.key(row))

    def close(self) -> None:
        """Close the shards."""
        self._files.close()


class StreamSource(Source):
    """Frames as they come, from a pipe or a live source.

    A thread reads; with the policy "drop" it keeps only the newest frame for who translates, with "wait" it waits.
    """

    def __init__(self, stream: OpenStream, *, late: LatePolicy, start: int = 0, stop: int | None = None) -> None:
        self._stream = stream
        self._late = late
        self._start, self._stop = start, stop
        self._is_closing = threading.Event()
        self._reader: threading.Thread | None = None
        self.num_dropped = 0
        self.facts = SourceFacts(
            name=stream.name,
            stem=stream.stem,
            kind="stream",
            num_frames=None if stop is None else stop - start,
            fps=stream.fps or STILL_FPS,
            is_endless=True,
        )

    def names(self) -> Iterable[str]:
        """Return nothing, since nobody knows how many frames come; see `Source.names`."""
        return ()

    def frames(self) -> Iterator[Frame]:
        """Yield frames until the stream ends or the source is closed; see `Source.frames`."""
        ready: queue.Queue[Frame | BaseException | None] = queue.Queue(maxsize=1 if self._late == "drop" else 4)
        is_closing = self._is_closing

        def put(item: Frame | BaseException | None) -> None:
            while not is_closing.is_set():
                try:
                    return ready.put(item, timeout=0.1)
                except queue.Full:
                    continue

        def put_newest(frame: Frame) -> None:
            while True:
                try:
                    return ready.put_nowait(frame)
                except queue.Full:
                    try:
                        ready.get_nowait()
                        self.num_dropped += 1
                    except queue.Empty:
                        continue

        def read() -> None:
            try:
                last = -1
                for number, (picture, pts, time_base) in enumerate(self._stream.pictures()):
                    if is_closing.is_set() or (self._stop is not None and number >= self._stop):
                        break
                    if number < self._start:
                        continue
                    last = max(last + 1, pts)
                    frame = Frame(
                        picture=picture,
                        name=f"{self._stream.stem}_{number:08d}",
                        pts=last,
                        time_base=time_base,
                        clip_id=clip_id_of(self._stream.stem),
                        index=number,
                    )
                    if self._late == "drop":
                        put_newest(frame)
                    else:
                        put(frame)
                put(None)
            except BaseException as error:
                put(error)

        self._reader = threading.Thread(target=read, name="stream", daemon=True)
        self._reader.start()
        given = 0
        try:
            while not is_closing.is_set():
                try:
                    item = ready.get(timeout=0.1)
                except queue.Empty:
                    continue
                if item is None:
                    break
                if isinstance(item, BaseException):
                    raise item
                given += 1
                yield item
        finally:
            self.num_missing = self.num_dropped
            self.close()
        if given == 0:
            raise EvaluationError(f"{self.facts.name}: ended before its first frame")

    def close(self) -> None:
        """End reading, and close the connection unless its thread still waits for bytes; that one ends with the process."""
        self._is_closing.set()
        if self._reader is not None:
            self._reader.join(timeout=0.5)
        if self._reader is None or not self._reader.is_alive():
            self._stream.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """How inputs are opened."""

    start: int = 0
    """First frame of each input."""
    stop: int | None = None
    """First frame not to take; None goes to the end."""
    raw: RawFormat | None = None
    """What a pipe without a header holds."""
    late: LatePolicy | None = None
    """None drops frames of live sources and waits for those of a pipe."""
    stall_s: float = 10.0
    """After how long without a frame a stream counts as stalled."""
    is_one_recording: bool = False
    """Whether the inputs are the files of one recording, in their order."""


def is_live(text: str) -> bool:
    """Whether an input is a live source: a camera of this machine, or a URL whose scheme streams."""
    return text.startswith("/dev/video") or text.partition("://")[0].lower() in LIVE_SCHEMES


def find_inputs(texts: Sequence[str], *, is_one_recording: bool = False) -> list[tuple[str, ...]]:
    """Find what is to be translated, each to an output of its own.

    A folder of videos stands for each of them, a folder of pictures for one input, and so does a folder or pattern of shards.

    Args:
        texts: As the user gives them.
        is_one_recording: All files together are one recording.

    Raises:
        EvaluationError: A file is missing, a pattern matches nothing, or a folder holds nothing that can be translated.
    """
    found: list[tuple[str, ...]] = []
    for text in texts:
        found += _inputs_of(text)
    if is_one_recording:
        files = tuple(each for group in found for each in group)
        strange = next((each for each in files if not _is_video(each)), None)
        if strange is not None:
            raise EvaluationError(
                f"{strange}: is no video file, so it is no part of a recording; leave out --one-recording"
            )
        return [files]
    return found


def open_source(group: Sequence[str], options: SourceOptions) -> Source:
    """Open one input of `find_inputs`.

    Raises:
        InfraredCityError: It cannot be read.
        EvaluationError: It holds nothing to translate.
    """
    start, stop = options.start, options.stop
    text = group[0]
    if text == "-":
        stream = open_pipe(_stdin(), raw=options.raw)
        return StreamSource(stream, late=options.late or "wait", start=start, stop=stop)
    if is_live(text):
        stream = open_live(text, stall_s=options.stall_s)
        return StreamSource(stream, late=options.late or "drop", start=start, stop=stop)
    if are_shards(text):
        return ShardSource(group, start=start, stop=stop)
    if not is_url(text) and _is_any_picture(text):
        return PicturesSource(
            text if len(group) == 1 else str(Path(text).parent), [Path(each) for each in group], start=start, stop=stop
        )
    return VideoSource([any_path(each) for each in group], start=start, stop=stop)


def read_picture(path: Path) -> np.ndarray:
    """Read a picture file as gray: u8 [H, W, 1], or u16 [H, W, 1] of counts.

    jpg, png and webp are read as stills; any other, such as TIFF, as FFmpeg does, so counts are told from levels by content.

    Raises:
        InfraredCityError: It is missing, damaged, or no picture.
    """
    if is_picture(path.name):
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ImageError(f"{path}: cannot be read ({error.strerror}); check the file") from error
        return _pixels(data, str(path))
    clip = video.open_clip([path])
    for batch in video.read_frames(clip, video.FrameRange(start_frame=0, stop_frame=1), color="gray"):
        return np.asarray(batch.data[0])
    raise ImageError(f"{path}: no picture of it could be decoded; copy it again")


def clip_id_of(name: str) -> str:
    """Make the id of a clip of any name: small letters, digits, _ and -."""
    return re.sub(r"[^a-z0-9_-]+", "_", name.lower()).strip("_-")[:60] or "frames"


def rising_times(pts: np.ndarray, time_base: Fraction) -> tuple[np.ndarray, Fraction]:
    """Make times rise, each after the one before, and return them, i64 [N], with their unit.

    As many frames as have one time share its unit: the unit is divided by the longest such run, so that all later times stay.
    """
    places = np.arange(len(pts), dtype=np.int64)
    begins = np.flatnonzero(np.diff(pts, prepend=pts[0] - 1))
    longest = int(np.diff(begins, append=len(pts)).max())
    moved: np.ndarray = np.maximum.accumulate(pts * longest - places) + places
    return moved, time_base / longest


def _video_times(clip: video.ClipVideo) -> tuple[np.ndarray, Fraction]:
    """Return rising times of a clip's frames and their unit: its own or, where a pause is too long for that, 1 ms."""
    longest_s = int(np.diff(clip.pts).max(initial=0)) * clip.time_base
    times, unit = rising_times(clip.pts, clip.time_base)
    if longest_s <= longest_pause_s(unit) and unit.denominator <= _MOST_UNITS_PER_S:
        return times, unit
    in_ms = np.array([round(1000 * time * clip.time_base) for time in clip.pts.tolist()], np.int64)
    times, unit = rising_times(in_ms, Fraction(1, 1000))
    if longest_s > longest_pause_s(unit):
        raise EvaluationError(
            f"{clip.files[0].path}: pauses for {float(longest_s) / 3600:.0f} h, more than the "
            f"{longest_pause_s(unit) / 3600:.0f} h that an mp4 holds; cut it at the pause"
        )
    return times, unit


def longest_pause_s(time_base: Fraction) -> float:
    """Return the seconds between two frames that an mp4 holds; the muxer squeezes a longer pause to nothing, without a word.

    It counts in units of at most 1/10,000 s, halved until they are that short, and keeps a distance as a positive 32-bit number.
    """
    units_per_s = time_base.denominator
    while units_per_s < 10_000:
        units_per_s *= 2
    return (2**31 - 1) / units_per_s


def _stdin() -> Readable:
    """Open stdin without a buffer, whose lock a thread that waits for bytes would hold when the interpreter ends."""
    return open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)


def _pixels(data: bytes, name: str) -> np.ndarray:
    return decode_deep(data, name=name) if is_deep_png(data) else decode(data, "gray", name=name)


def _is_any_picture(text: str) -> bool:
    return is_picture(Path(text).name) or ending_of(text) in OTHER_PICTURES


def _is_video(text: str) -> bool:
    return os.path.splitext(text.partition("?")[0] if is_url(text) else text)[1].lower() in VIDEO_SUFFIXES  # noqa: PTH122


def are_stills(text: str) -> bool:
    """Whether an input is pictures or shards, not video."""
    if text == "-" or is_live(text):
        return False
    return are_shards(text) or (not is_url(text) and _is_any_picture(text))


def are_shards(text: str) -> bool:
    """Whether an input is shards: tars, or a folder of them."""
    bare = text.partition("?")[0] if is_url(text) else text
    if bare.endswith(".tar"):
        return True
    if is_url(text):
        return not _is_video(text) and ending_of(bare) == ""
    return Path(text).is_dir()


def _inputs_of(text: str) -> list[tuple[str, ...]]:
    """Expand one text of the command line."""
    if text == "-" or is_live(text) or is_url(text):
        return [(text,)]
    if _PATTERN.search(text) and not Path(text).exists():
        if text.endswith(".tar"):
            return [(text,)]
        matched = sorted(
            map(str, Path().glob(text) if not Path(text).is_absolute() else Path("/").glob(text[1:])), key=natural_order
        )
        if not matched:
            raise EvaluationError(f"{text}: matches no file")
        return _grouped(text, matched)
    path = Path(text)
    if not path.exists():
        raise EvaluationError(f"{text}: no such file or folder")
    if path.is_file():
        return [(text,)]
    names = sorted((each.name for each in path.iterdir() if not each.name.startswith(".")), key=natural_order)
    if any(name.endswith(".tar") or name == "index.npz" for name in names):
        return [(text,)]
    files = [
        str(path / name) for name in names if (path / name).is_file() and (_is_any_picture(name) or _is_video(name))
    ]
    if not files:
        raise EvaluationError(f"{text}: holds no video, no picture and no shard; name a folder that does")
    return _grouped(text, files)


def _grouped(name: str, files: list[str]) -> list[tuple[str, ...]]:
    """All pictures as one input, each video as one of its own."""
    pictures = tuple(each for each in files if _is_any_picture(each))
    others: list[tuple[str, ...]] = [(each,) for each in files if not _is_any_picture(each)]
    if pictures and others:
        raise EvaluationError(
            f"{name}: holds both pictures and other files, such as {Path(others[0][0]).name}; name one kind"
        )
    return [pictures] if pictures else others
