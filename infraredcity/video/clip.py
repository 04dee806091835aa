"""Take a clip's files as one sequence of frames: find out their facts, choose a decoder, decode.

A clip may be one file or a recording in chunks. `ClipVideo` numbers the frames of all chunks through, and gives each a time on
one axis: a chunk's first frame follows the one before it by one nominal frame.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import numpy as np

from infraredcity.errors import MissingExtraError, VideoDecodeError
from infraredcity.files.path import AnyPath
from infraredcity.video import scan_cache
from infraredcity.video.decoders import Decoder, DecoderName, all_decoders, find_decoder
from infraredcity.video.types import Decoded, FrameRange, OnFrame, VideoInfo


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClipVideo:
    """A clip's files as one sequence of frames."""

    files: tuple[VideoInfo, ...]
    """Facts of each file, in order."""
    pts: np.ndarray
    """i64 [num_frames], times in units of `time_base`, ascending over all files."""
    time_base: Fraction
    """Seconds per unit of pts: that of the first file."""
    file_starts: tuple[int, ...]
    """Frame index of each file's first frame."""

    @property
    def num_frames(self) -> int:
        """Frames of all files together."""
        return len(self.pts)

    @property
    def break_frames(self) -> tuple[int, ...]:
        """Frames before which something is lost: each file's first one, and those where time jumps."""
        jumps = (
            start + int(frame)
            for file, start in zip(self.files, self.file_starts, strict=True)
            for frame in file.time_jumps
        )
        return tuple(sorted({*self.file_starts, *jumps}))

    def next_entry(self, frame_index: int) -> int:
        """Find the next frame behind `frame_index` at which decoding can begin anew: a key frame, or a file's first frame."""
        number = bisect_right(self.file_starts, frame_index) - 1
        file, start = self.files[number], self.file_starts[number]
        inside = file.next_key(frame_index - start + 1) if file.is_seekable else file.num_frames
        return start + inside

    @property
    def notes(self) -> tuple[str, ...]:
        """What is good to know before frames are used, each phrase behind its file's name; see `VideoInfo.notes`."""
        return tuple(f"{file.path.name}: {phrase}" for file in self.files for phrase in file.notes)

    @property
    def suspect(self) -> tuple[str, ...]:
        """What is wrong with the clip, each phrase behind its file's name."""
        return tuple(f"{file.path.name}: {phrase}" for file in self.files for phrase in file.suspect)


def probe(path: AnyPath, *, kept_in: AnyPath | None = None, stream: int | None = None) -> VideoInfo:
    """Find out the facts about one video file, by demuxing it once and, where packets alone do not tell its frames, decoding it.

    Args:
        path: The file, local or remote.
        kept_in: Folder where the scan is kept for the next time, and taken from if the file is still the same.
        stream: Number of the stream to take, in place of the best one; see `scan.scan`.

    Raises:
        VideoDecodeError: It is no video, or has no such stream.
        RemoteError: It is remote and cannot be read.
    """
    from infraredcity.video import scan

    if kept_in is None:
        return scan.scan(path, stream=stream)
    identity = scan_cache.identify(path)
    info = scan_cache.load(kept_in, path, identity, stream=stream)
    if info is None:
        info = scan.scan(path, stream=stream)
        scan_cache.save(kept_in, info, identity, stream=stream)
    return info


def open_clip(paths: Sequence[AnyPath], *, kept_in: AnyPath | None = None, stream: int | None = None) -> ClipVideo:
    """Probe every chunk of a clip and number their frames through.

    Args:
        paths: The clip's files, in order, local or remote.
        kept_in: See `probe`.
        stream: See `probe`.

    Raises:
        VideoDecodeError: A file is no video, holds no frame, or shows pictures of another size than the first one.
        RemoteError: A remote file cannot be read.
    """
    files = tuple(probe(path, kept_in=kept_in, stream=stream) for path in paths)
    first = files[0]
    times: list[np.ndarray] = []
    starts: list[int] = []
    num_frames = 0
    for file in files:
        if file.num_frames == 0:
            raise VideoDecodeError(f"{file.path}: holds no frame; remove it from the clip, or record it again")
        if (file.width_px, file.height_px) != (first.width_px, first.height_px):
            raise VideoDecodeError(
                f"{file.path}: pictures are {file.width_px}x{file.height_px}, those of {first.path} "
                f"{first.width_px}x{first.height_px}; chunks of one clip must have one size"
            )
        in_base = _rescale(file.pts, file.time_base, first.time_base)
        if times:
            frame_units = max(1, round(1 / (first.nominal_fps * float(first.time_base)))) if first.nominal_fps else 1
            in_base = in_base - in_base[0] + times[-1][-1] + frame_units
        times.append(in_base)
        starts.append(num_frames)
        num_frames += file.num_frames
    return ClipVideo(files=files, pts=np.concatenate(times), time_base=first.time_base, file_starts=tuple(starts))


def choose_decoder(video: ClipVideo, decoder: DecoderName, device: str) -> tuple[DecoderName, str]:
    """Choose the decoder and the device for a clip: as asked, if the decoder can be trusted with every file.

    Args:
        video: The clip.
        decoder: "auto" takes PyAV on the CPU; on a GPU decord where its build has CUDA and can be trusted, else PyAV.
        device: "cpu" or "cuda:N"; "auto" takes the first GPU where one can decode the clip, else the CPU.

    Raises:
        VideoDecodeError: The asked decoder would give wrong frames of one of the files, or cannot use the device.
    """
    refusal: str | None = None
    for place in ("cuda:0", "cpu") if device == "auto" else (device,):
        for candidate in _candidates(decoder, place):
            try:
                refusal = _refusal(video, candidate, place)
            except MissingExtraError:
                if decoder != "auto":
                    raise
                continue
            if refusal is None:
                return candidate.name, place
    assert refusal is not None  # the first decoder is always among the candidates of "auto", and installed
    raise VideoDecodeError(refusal)


def _candidates(name: DecoderName, device: str) -> tuple[Decoder, ...]:
    """List the decoders to try, those that read less first."""
    if name != "auto":
        return (find_decoder(name),)
    kind = device.partition(":")[0]
    return tuple(each for each in reversed(all_decoders()) if kind in each.auto_devices)


def _refusal(video: ClipVideo, decoder: Decoder, device: str) -> str | None:
    for file in video.files:
        reason = decoder.why_not(file, device)
        if reason is not None:
            return f"{file.path}: {decoder.name} cannot be trusted with it: {reason}; use {decoder.instead}"
    return None


def decode(
    video: ClipVideo,
    frames: FrameRange,
    *,
    decoder: DecoderName = "pyav",
    device: str = "cpu",
    avoid: Sequence[tuple[int, int]] = (),
    on_frame: OnFrame = lambda _frame_index: None,
) -> Iterator[Decoded]:
    """Yield the asked frames of a clip in ascending order, one at a time, their pixels not yet converted.

    Args:
        video: The clip as `open_clip` found it.
        frames: Which frames; indices run through all chunks.
        decoder: A name that `choose_decoder` returned.
        device: "cpu" or "cuda:N".
        avoid: Ranges of frames, half-open, that must not be decoded since the decoder hung there.
        on_frame: Called with every frame that comes out of the decoder, asked for or not: a sign of life.

    Yields:
        Frames whose index and pts are the clip's. A frame that cannot be decoded is left out.

    Raises:
        VideoDecodeError: A file changed since it was probed, or is not what it says.
        RemoteError: A remote file cannot be read; no frame counts as lost for that.
    """
    decode_file = find_decoder(decoder).decode
    for file, file_start in zip(video.files, video.file_starts, strict=True):
        file_range = _within(frames, file_start, file.num_frames)
        if len(file_range) == 0:
            continue
        file_stop = file_start + file.num_frames
        inside = [(first - file_start, stop - file_start) for first, stop in avoid if file_start <= first < file_stop]
        report = partial(_report, on_frame, file_start)
        for frame in decode_file(file, file_range, device=device, avoid=inside, on_frame=report):
            index = frame.frame_index + file_start
            yield frame.at(index, int(video.pts[index]))


def _report(on_frame: OnFrame, file_start: int, frame_index: int) -> None:
    on_frame(file_start + frame_index)


def _within(frames: FrameRange, file_start: int, num_frames: int) -> FrameRange:
    """Cut the asked frames to one file, counted from the file's first frame."""
    inside = range(frames.start_frame, frames.stop_frame, frames.step)
    skipped = max(0, -(-(file_start - frames.start_frame) // frames.step))
    inside = inside[skipped:]
    inside = range(inside.start, min(inside.stop, file_start + num_frames), frames.step)
    if len(inside) == 0:
        return FrameRange(start_frame=0, stop_frame=0, step=frames.step)
    return FrameRange(start_frame=inside.start - file_start, stop_frame=inside[-1] + 1 - file_start, step=frames.step)


def _rescale(pts: np.ndarray, from_base: Fraction, to_base: Fraction) -> np.ndarray:
    ratio = from_base / to_base
    if ratio == 1:
        return pts
    return np.array([round(int(value) * ratio) for value in pts], np.int64)
