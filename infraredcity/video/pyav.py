"""PyAV, the decoder that splitting trusts: read in order it is exact on every class of file we know (see `probe`).

Frames are named by their pts: the scan lists the pts of every packet that will be shown, and a frame's index is its place in that
list. A decoded frame with another pts is an error, a listed pts that never comes out is a missing frame; neither passes unseen.
"""

import hashlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from infraredcity.catalog import ColorMode
from infraredcity.errors import MissingExtraError, VideoDecodeError
from infraredcity.video.frames import BatchBuilder, FrameBatch, FrameRange, VideoInfo

try:
    import av
except ModuleNotFoundError as error:
    raise MissingExtraError("PyAV", extra="extract", needed_for="reading video") from error

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

# A seek lands on the key frame at or before its target, and around an open GOP or B-frames that may still be too late for
# the target itself; 12 frames earlier it never was in 80 seeks over every container but MPEG-TS, which is read from the start.
_SEEK_MARGIN_FRAMES = 12
_DEEP_GRAY = ("gray9", "gray10", "gray12", "gray14", "gray16", "grayf")


def scan(path: Path) -> VideoInfo:
    """Demux `path` once, without decoding.

    Raises:
        VideoDecodeError: The file is missing, is no video, or has no video stream.
    """
    with _opened(path) as container:
        stream = _video_stream(path, container)
        codec = stream.codec_context
        shown: list[tuple[int | None, bool]] = []
        num_hidden = num_corrupt = 0
        reordered = False
        last_pts: int | None = None
        digest = hashlib.sha256()
        damage: str | None = None
        try:
            for packet in container.demux(stream):
                if packet.size == 0:  # the flush packet at the end
                    continue
                digest.update(packet)
                if packet.is_discard:
                    num_hidden += 1
                    continue
                num_corrupt += packet.is_corrupt
                shown.append((packet.pts, packet.is_keyframe))
                if packet.pts is not None and last_pts is not None and packet.pts < last_pts:
                    reordered = True
                last_pts = packet.pts
        except av.FFmpegError as error:
            damage = f"demuxing stopped after {len(shown)} packets: {_reason(error)}"
        times = [pts for pts, _ in shown if pts is not None]
        is_timed = len(set(times)) == len(shown)
        pts = np.array(sorted(times) if is_timed else range(len(shown)), np.int64)
        key_times = [pts_of for pts_of, is_key in shown if is_key and pts_of is not None]
        keyframes = np.searchsorted(pts, np.sort(np.array(key_times, np.int64))) if is_timed else np.zeros(0, np.int64)
        suspect = []
        if damage:
            suspect.append(damage)
        if num_corrupt:
            suspect.append(f"{num_corrupt} packets are marked corrupt")
        if not is_timed:
            suspect.append("packets without a time of their own; frames are counted from the start")
        fps = stream.average_rate or stream.guessed_rate or 0
        return VideoInfo(
            path=path,
            num_frames=len(shown),
            pts=pts,
            time_base=_time_base(stream, is_timed, Fraction(fps)),
            keyframes=keyframes.astype(np.int64),
            nominal_fps=float(fps),
            height_px=codec.height,
            width_px=codec.width,
            pixel_format=str(codec.pix_fmt),
            codec=codec.name,
            container=container.format.name,
            rotation_deg=_rotation_deg(container, stream),
            num_hidden=num_hidden,
            is_timed=is_timed,
            has_reordering=reordered,
            size_bytes=path.stat().st_size,
            packets_sha256=digest.hexdigest(),
            suspect=tuple(suspect),
        )


def why_not(info: VideoInfo, device: str) -> str | None:
    """PyAV reads everything on the CPU, except thermal video deeper than 8 bit, which it would cut to the top bits."""
    if device != "cpu":
        return "PyAV decodes on the CPU; use --decoder decord with a CUDA build, or --device cpu"
    if info.pixel_format.startswith(_DEEP_GRAY):
        return f"{info.pixel_format} holds more than 8 bits; cutting it to 8 would lose most levels, and no tone mapping exists yet"
    return None


def read_frames(info: VideoInfo, frames: FrameRange, *, color: ColorMode, device: str) -> Iterator[FrameBatch]:
    """The asked frames, decoded in order; see `frames.Decoder`.

    Raises:
        VideoDecodeError: The file changed since it was scanned, or shows a frame that its packets did not announce.
    """
    del device  # always the CPU, checked by why_not
    builder = BatchBuilder()
    pixel_format = "gray" if color == "gray" else "rgb24"
    for frame_index, frame in _frames_from(info, frames.start_frame):
        if frame_index >= frames.stop_frame:
            break
        if frame_index not in frames:
            continue
        picture = _picture(frame.reformat(format=pixel_format), color)
        batch = builder.add(picture, frame_index, int(info.pts[frame_index]))
        if batch is not None:
            yield batch
    last = builder.flush()
    if last is not None:
        yield last


def _frames_from(info: VideoInfo, start_frame: int) -> Iterator[tuple[int, Any]]:
    """Frames in order with their indices, the first at or after `start_frame`.

    Frame threads are fast, but at an error they lose good frames around it, at the end of a cut file without a word (measured:
    2 of 20). So from the first missing frame on one thread decodes, and only what is damaged stays missing.
    """
    next_frame = start_frame
    for frame_index, frame in _one_pass(info, start_frame, has_frame_threads=True):
        if frame_index != next_frame and info.is_timed:
            break
        yield frame_index, frame
        next_frame = frame_index + 1
    if next_frame < info.num_frames and info.is_timed:
        yield from _one_pass(info, next_frame, has_frame_threads=False)


def _one_pass(info: VideoInfo, start_frame: int, *, has_frame_threads: bool) -> Iterator[tuple[int, Any]]:
    """The frames from `start_frame` on; by a seek where that is safe."""
    seek_to = start_frame - _SEEK_MARGIN_FRAMES
    if seek_to > 0 and info.is_seekable:
        with _opened(info.path) as container:
            stream = _video_stream(info.path, container)
            try:
                container.seek(int(info.pts[seek_to]), stream=stream, backward=True)
                is_there = True
            except av.FFmpegError:  # a file without the table that seeking needs
                is_there = False
            decoded = _decoded(info, container, stream, has_frame_threads) if is_there else iter(())
            first = next(decoded, None)
            if first is not None and first[0] <= start_frame:
                if first[0] == start_frame:
                    yield first
                yield from (item for item in decoded if item[0] >= start_frame)
                return
    # From the beginning: the range starts there, the container cannot seek, or the seek landed behind the range's start.
    with _opened(info.path) as container:
        stream = _video_stream(info.path, container)
        yield from (item for item in _decoded(info, container, stream, has_frame_threads) if item[0] >= start_frame)


def _decoded(
    info: VideoInfo, container: "InputContainer", stream: "VideoStream", has_frame_threads: bool
) -> Iterator[tuple[int, Any]]:
    stream.thread_type = "AUTO" if has_frame_threads else "SLICE"
    count = 0
    last_index = -1
    for decoded in _decoded_packets(container, stream):
        for frame in decoded:
            if info.is_timed:
                index = -1 if frame.pts is None else int(np.searchsorted(info.pts, frame.pts))
                if frame.pts is None or index >= info.num_frames or info.pts[index] != frame.pts:
                    raise VideoDecodeError(
                        f"{info.path}: decoding shows a frame at pts {frame.pts} that the packets did not announce; "
                        "the file changed while it was read, or its index is wrong: remux it, then try again"
                    )
            else:
                index = count
                count += 1
                if index >= info.num_frames:
                    raise VideoDecodeError(
                        f"{info.path}: decoding gives more than the {info.num_frames} frames that were demuxed; remux it"
                    )
            if index <= last_index:
                raise VideoDecodeError(
                    f"{info.path}: frame {index} came after frame {last_index}; remux the file, then try again"
                )
            last_index = index
            yield index, frame


def _decoded_packets(container: "InputContainer", stream: "VideoStream") -> Iterator[list[Any]]:
    """The frames that each packet releases. A packet that cannot be decoded, or demuxed, releases none."""
    packets = container.demux(stream)
    is_readable = True
    while is_readable:
        packet = None
        try:
            packet = next(packets, None)
            if packet is None:
                return
        except av.FFmpegError:  # the scan named this as damage; what the decoder still holds is good
            is_readable = False
        try:
            decoded = stream.codec_context.decode(None) if packet is None else packet.decode()
        except av.FFmpegError:
            continue  # the packet's frame stays missing, and whoever asked for it names it as a gap
        yield decoded


def _picture(frame: Any, color: ColorMode) -> np.ndarray:
    """A view of the frame's one plane as u8 [H, W, C], without the padding at the end of its lines."""
    plane = frame.planes[0]
    channels = 1 if color == "gray" else 3
    lines = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    return lines[:, : frame.width * channels].reshape(frame.height, frame.width, channels)


def _opened(path: Path) -> "InputContainer":
    if not path.is_file():
        raise VideoDecodeError(f"{path}: no such video file")
    if path.stat().st_size == 0:
        raise VideoDecodeError(f"{path}: the file is empty; copy the clip again")
    try:
        return av.open(str(path), mode="r")
    except (av.FFmpegError, OSError) as error:
        raise VideoDecodeError(
            f"{path}: not a video that can be opened ({_reason(error)}); copy it again or re-mux it"
        ) from error


def _video_stream(path: Path, container: "InputContainer") -> "VideoStream":
    if not container.streams.video:
        raise VideoDecodeError(f"{path}: holds no video stream")
    return container.streams.video[0]


def _time_base(stream: "VideoStream", is_timed: bool, fps: Fraction) -> Fraction:
    if is_timed and stream.time_base is not None:
        return stream.time_base
    return 1 / fps if fps > 0 else Fraction(1, 25)


def _rotation_deg(container: "InputContainer", stream: "VideoStream") -> int:
    # The display matrix is side data of the stream; PyAV shows it on frames only, so decode the first one.
    try:
        container.seek(0)
        for frame in container.decode(stream):
            return int(frame.rotation)
    except (av.FFmpegError, OSError):
        return 0
    return 0


def _reason(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()
