"""Where translations go: a video, pictures, shards, a pipe; what is not finished is not there."""

import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, cast

import av
import numpy as np
from jaxtyping import UInt8

from infraredcity.datasets.clip_facts import ClipFacts
from infraredcity.datasets.folder import write_folder
from infraredcity.files.atomic import publish, write_atomic
from infraredcity.files.path import AnyPath
from infraredcity.files.temporary import temporary_beside
from infraredcity.shards import index as sample_index
from infraredcity.shards import sample_json
from infraredcity.shards.index import IndexEntry, ShardInfo
from infraredcity.shards.names import shard_name
from infraredcity.shards.writer import ShardHandle, open_shard
from infraredcity.stills.formats import ImageFormat, encode, suffix_of
from infraredcity.video.audio import Audio, audio_of
from roma.errors import EvaluationError
from roma.inference.choices import ENCODERS, VideoCodec
from roma.inference.sources import Frame

Picture = UInt8[np.ndarray, "H W 3"]
VIDEO_KINDS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
"""Endings of videos that are written, and FFmpeg's names of their containers."""
_WITHOUT_LOSS = frozenset({"ffv1"})
_PREVIEW_EVERY_S = 1.0
SHARD_SAMPLES = 1000
"""Samples in a full shard."""


class Sink(ABC):
    """Takes translated frames in order; made by an `open_` function, whose block ends it."""

    @abstractmethod
    def add(self, picture: Picture, frame: Frame) -> None:
        """Take one frame: R, G, B, and the frame that it was made from, with its name and time.

        Raises:
            EvaluationError: It cannot be written, or has another size than the frames before, where that must not be.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoOptions:
    """How a video is written."""

    codec: VideoCodec = "h264"
    quality: int = 18
    """The encoder's constant quality (CRF, or CQ of a GPU): 0 is best, 51 worst; no meaning for "ffv1"."""
    rotation_deg: int = 0
    """By how much players turn the pictures, counter-clockwise."""
    pixel_aspect: Fraction = Fraction(1)
    """How much wider than high a pixel is shown."""
    fps: float = 25.0
    """Nominal rate, for players; frames keep their own times."""


class VideoSink(Sink):
    """One video whose first frame is shown at 0; made by `open_video`."""

    def __init__(self, path: Path, container: Any, options: VideoOptions, audio: Audio | None) -> None:
        self._path, self._container, self._options = path, container, options
        self._stream: Any = None
        self._size: tuple[int, int] = (0, 0)
        self._time_base = Fraction(1)
        self._first_pts = 0
        self._last_pts = -1
        self._audio = audio
        self._sound: Any = None
        self._waiting: Any = None
        self.notes: list[str] = []

    def add(self, picture: Picture, frame: Frame) -> None:
        """Append a frame; see `Sink.add`. Odd sides lose their last row or column, since chroma is stored for pairs."""
        if self._stream is None:
            self._begin(picture, frame)
        height, width = picture.shape[:2]
        if (width, height) != self._size:
            raise EvaluationError(
                f"{self._path}: frame {frame.name} is {width}x{height}, those before {self._size[0]}x{self._size[1]}; a video has "
                "frames of one size: write pictures (-o FOLDER/), or translate the sizes one by one"
            )
        pts = frame.pts - self._first_pts
        if pts <= self._last_pts:
            raise ValueError(f"times must rise, got pts {pts} after {self._last_pts}")
        self._last_pts = pts
        even = np.ascontiguousarray(picture[: height // 2 * 2, : width // 2 * 2])
        shown = av.VideoFrame.from_ndarray(even, format="rgb24")
        shown.pts, shown.time_base = pts, self._time_base
        self._add_sound(until_s=float(pts * self._time_base))
        self._container.mux(self._stream.encode(shown))

    def finish(self) -> None:
        """Write out what the encoder still holds, and the rest of the sound; for `open_video`."""
        if self._stream is None:
            raise EvaluationError(f"{self._path}: no frame was translated, so there is no video to write")
        frame_s = 1 / self._options.fps if self._options.fps else 0.0
        self._add_sound(until_s=float(self._last_pts * self._time_base) + frame_s)
        self._container.mux(self._stream.encode(None))

    def _begin(self, picture: Picture, frame: Frame) -> None:
        options = self._options
        height, width = picture.shape[:2]
        if min(height, width) < 2:
            raise EvaluationError(f"{self._path}: frames of {width}x{height} pixels cannot become a video")
        self._size = width, height
        self._first_pts, self._time_base = frame.pts, frame.time_base
        stream = self._container.add_stream(
            ENCODERS[options.codec], rate=Fraction(options.fps).limit_denominator(1_000_000) or Fraction(25)
        )
        stream.width, stream.height = width // 2 * 2, height // 2 * 2
        stream.pix_fmt = "bgr0" if options.codec in _WITHOUT_LOSS else "yuv420p"
        stream.time_base = frame.time_base
        context = stream.codec_context
        context.sample_aspect_ratio = options.pixel_aspect
        context.time_base = frame.time_base
        if options.rotation_deg:
            stream.set_display_rotation(options.rotation_deg)
        stream.options = _encoder_options(options)
        self._stream = stream
        if options.codec == "av1":
            os.environ.setdefault("SVT_LOG", "1")  # errors only; it writes the rest to stderr past FFmpeg's log
        if self._audio is not None:
            codec = self._audio.stream.codec_context.name
            if codec in self._container.supported_codecs:
                self._sound = self._container.add_stream_from_template(self._audio.stream)
            else:
                self.notes.append(
                    f"its sound ({codec}) is left out, since {self._path.suffix} does not hold it; give -o an .mkv"
                )

    def _add_sound(self, *, until_s: float) -> None:
        """Copy the packets of sound that begin before a time of the video, as it is shown."""
        if self._sound is None or self._audio is None:
            return
        start_s = float(self._first_pts * self._time_base)
        while True:
            packet = self._waiting or next(self._audio.packets, None)
            self._waiting = None
            if packet is None:
                self._audio = None
                return
            if packet.dts is None or packet.pts is None:
                continue
            at_s = float(packet.pts * packet.time_base) - start_s
            if at_s < 0:
                continue
            if at_s > until_s:
                self._waiting = packet
                return
            shift = round(start_s / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            packet.stream = self._sound
            self._container.mux(packet)


class PicturesSink(Sink):
    """A picture file for each frame, under the frame's name."""

    def __init__(self, folder: Path, image_format: ImageFormat, *, quality: int = 95) -> None:
        self._folder, self._format, self._quality = folder, image_format, quality

    def path_of(self, name: str) -> Path:
        """Return where the picture of a frame of this name goes."""
        return self._folder / f"{name}.{suffix_of(self._format)}"

    def add(self, picture: Picture, frame: Frame) -> None:
        """Write a picture; see `Sink.add`."""
        write_atomic(self.path_of(frame.name), encode(picture, self._format, quality=self._quality))


class PictureSink(Sink):
    """One picture file."""

    def __init__(self, path: Path, image_format: ImageFormat, *, quality: int = 95) -> None:
        self._path, self._format, self._quality = path, image_format, quality

    def add(self, picture: Picture, frame: Frame) -> None:
        """Write the picture; see `Sink.add`."""
        write_atomic(self._path, encode(picture, self._format, quality=self._quality))


class ShardSink(Sink):
    """A folder of shards with index and manifest, as extraction writes them; made by `open_shards`."""

    def __init__(self, folder: Path, image_format: ImageFormat, *, quality: int = 95) -> None:
        self._folder, self._format, self._quality = folder, image_format, quality
        self._stack = ExitStack()
        self._handle: ShardHandle | None = None
        self._facts: dict[str, ClipFacts] = {}
        self._shards: dict[str, list[tuple[ShardInfo, list[IndexEntry]]]] = {}
        self._clip_id = ""

    def add(self, picture: Picture, frame: Frame) -> None:
        """Append a sample; see `Sink.add`."""
        if self._handle is None or frame.clip_id != self._clip_id or len(self._handle.writer.entries) == SHARD_SAMPLES:
            self._end_shard()
            self._clip_id = frame.clip_id
            number = len(self._shards.setdefault(frame.clip_id, []))
            name = shard_name("day", frame.clip_id, number)
            self._handle = self._stack.enter_context(
                open_shard(self._folder, name, image_format=suffix_of(self._format))
            )
        time_base = f"{frame.time_base.numerator}/{frame.time_base.denominator}"
        facts = self._facts.setdefault(
            frame.clip_id,
            ClipFacts(
                clip_id=frame.clip_id,
                scene="unknown",
                weather="any",
                modality="visible",
                time_of_day="day",
                time_base=time_base,
                nominal_fps=0.0,
                frame_step=1,
                clip_frames=0,
                notes=["translated from infrared by roma"],
            ),
        )
        size_px = (picture.shape[1], picture.shape[0])
        member = sample_json.to_bytes(sample_json.facts_of(facts, time_base, frame.index, frame.pts, size_px))
        data = encode(picture, self._format, quality=self._quality)
        self._handle.writer.add(frame.clip_id, frame.index, frame.pts, data, member, size_px=size_px)
        self._facts[frame.clip_id] = replace(facts, clip_frames=max(facts.clip_frames, frame.index + 1))

    def finish(self) -> None:
        """Write index and manifest; for `open_shards`."""
        self._end_shard()
        indexes = []
        for clip_id, shards in self._shards.items():
            frames = np.array([entry.frame_index for _, entries in shards for entry in entries], np.int64)
            indexes.append(
                sample_index.from_entries(
                    clip_id=clip_id,
                    frame_step=1,
                    image_format=suffix_of(self._format),
                    shards=shards,
                    run_ids=sample_index.run_ids(frames, frame_step=1),
                )
            )
        write_folder(self._folder, ".", sample_index.concatenate(indexes), self._facts)

    def abandon(self, error: BaseException) -> None:
        """Write no more of the open shard, which then does not appear; for `open_shards`."""
        self._stack.__exit__(type(error), error, error.__traceback__)

    def _end_shard(self) -> None:
        if self._handle is None:
            return
        handle, self._handle = self._handle, None
        self._stack.close()
        assert handle.info is not None
        self._shards[self._clip_id].append((handle.info, handle.writer.entries))


class PipeSink(Sink):
    """YUV4MPEG2 (y4m) to a pipe, 4:2:0, at a constant rate since that format holds no times."""

    def __init__(self, container: Any, fps: float) -> None:
        self._container, self._fps = container, fps
        self._stream: Any = None
        self._count = 0

    def add(self, picture: Picture, frame: Frame) -> None:
        """Append a frame; see `Sink.add`."""
        height, width = (side // 2 * 2 for side in picture.shape[:2])
        if self._stream is None:
            self._stream = self._container.add_stream(
                "wrapped_avframe", rate=Fraction(self._fps).limit_denominator(1000)
            )
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        shown = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
        shown = shown.reformat(format="yuv420p")
        shown.pts, shown.time_base = self._count, 1 / Fraction(self._fps).limit_denominator(1000)
        self._count += 1
        self._container.mux(self._stream.encode(shown))

    def finish(self) -> None:
        """Write out what is left; for `open_pipe_sink`."""
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))


class Preview(Sink):
    """Passes frames on, and keeps the newest as a picture file for who looks on, a new one each second."""

    def __init__(self, sink: Sink, path: Path) -> None:
        self.sink, self._path = sink, path
        self._shown_s = -_PREVIEW_EVERY_S

    def add(self, picture: Picture, frame: Frame) -> None:
        """Pass a frame on; see `Sink.add`."""
        self.sink.add(picture, frame)
        now_s = time.monotonic()
        if now_s - self._shown_s >= _PREVIEW_EVERY_S:
            self._shown_s = now_s
            write_atomic(self._path, encode(picture, "jpg", quality=90))


@contextmanager
def open_video(path: Path, options: VideoOptions, *, sound_of: AnyPath | None = None) -> Iterator[VideoSink]:
    """Open a video that appears under `path` when the block ends well, and not at all when it does not.

    Args:
        path: Ends in one of `VIDEO_KINDS`.
        options: See there.
        sound_of: The file whose sound goes with the pictures, from the first frame's time on; None for none.

    Raises:
        EvaluationError: The ending is no video's, the folder cannot be written, the disk is full, or the encoder is missing.
    """
    kind = VIDEO_KINDS.get(path.suffix.lower())
    if kind is None:
        raise EvaluationError(f"{path}: expected a name that ends in {', '.join(VIDEO_KINDS)}; give -o such a name")
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            audio = None if sound_of is None else stack.enter_context(audio_of(sound_of))
            # FFmpeg takes what stands before a colon for a protocol, but not behind a slash.
            muxer = {"movflags": "+faststart"} if kind in ("mp4", "mov") else {}
            container = stack.enter_context(av.open(str(temporary.absolute()), mode="w", format=kind, options=muxer))
            sink = VideoSink(path, container, options, audio)
            yield sink
            sink.finish()
        publish(temporary, path)
    except (OSError, av.FFmpegError) as error:
        reason = getattr(error, "strerror", None) or error
        needs_gpu = options.codec.endswith("nvenc")
        remedy = "it needs an NVIDIA GPU; take --codec h264" if needs_gpu else "check the folder and the disk"
        raise EvaluationError(f"{path}: cannot be written: {reason}; {remedy}") from error
    finally:
        with suppress(NotADirectoryError):
            temporary.unlink(missing_ok=True)


@contextmanager
def open_shards(folder: Path, image_format: ImageFormat) -> Iterator[ShardSink]:
    """Open a folder for shards; its clips.json, which marks it as whole, is written when the block ends well."""
    folder.mkdir(parents=True, exist_ok=True)
    sink = ShardSink(folder, image_format)
    try:
        yield sink
    except BaseException as error:
        sink.abandon(error)
        raise
    sink.finish()


@contextmanager
def open_pipe_sink(file: BinaryIO | None = None, *, fps: float) -> Iterator[PipeSink]:
    """Open a pipe for YUV4MPEG2; None takes stdout."""
    container = av.open(cast(Any, file or sys.stdout.buffer), mode="w", format="yuv4mpegpipe")
    try:
        sink = PipeSink(container, fps)
        yield sink
        sink.finish()
    finally:
        container.close()


def _encoder_options(options: VideoOptions) -> dict[str, str]:
    quality = str(options.quality)
    if options.codec in ("h264", "hevc"):
        # Without B-frames no frame is shown before it is decoded, so no edit list shifts the times. One thread gives the same bytes
        # each time.
        made = {"crf": quality, "preset": "veryfast"}
        return made | (
            {"bf": "0", "threads": "1"} if options.codec == "h264" else {"x265-params": "bframes=0:log-level=error"}
        )
    if options.codec == "av1":
        return {"crf": quality, "preset": "8"}
    if options.codec == "ffv1":
        return {"level": "3"}
    return {"rc": "vbr", "cq": quality, "bf": "0"}
