"""Run a trained translator: open a snapshot, translate frames or a video."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from infraredcity import video
from infraredcity.progress import OnProgress, Ticker
from infraredcity.stills.framing import resize
from roma.data.batches import to_bytes, to_unit_range
from roma.errors import CheckpointError, ConfigError, EvaluationError
from roma.inference.video_out import longest_pause_s, open_video
from roma.models.generators.build import build_generator, check_side
from roma.models.generators.generator import Generator
from roma.training.snapshot import Snapshot, load_snapshot

BATCH_FRAMES = 4
_MOST_UNITS_PER_S = 2**31 - 1
"""Largest time base denominator of FFmpeg and mp4."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Translator:
    """A generator with a snapshot's weights, ready to run.

    Attributes:
        snapshot: The source of the weights.
        generator: The network, in eval mode on `device`.
        device: Device of the network.
    """

    snapshot: Snapshot
    generator: Generator
    device: torch.device

    @property
    def side_px(self) -> int:
        """Side of the square frames it was trained on."""
        return self.snapshot.config.data.crop_size_px

    def working_size(self, width_px: int, height_px: int) -> tuple[int, int]:
        """Return the largest (width, height) up to a picture's at which the network can work."""
        multiple, least = self.generator.SIDE_MULTIPLE, self.generator.MIN_SIDE_PX
        width, height = (max(least, side // multiple * multiple) for side in (width_px, height_px))
        return width, height

    def translate(
        self, frames: UInt8[np.ndarray, "N H W C"], *, size: tuple[int, int]
    ) -> UInt8[np.ndarray, "N H2 W2 3"]:
        """Translate infrared frames to day frames.

        Args:
            frames: C is 1, or 3 equal channels; 0..255.
            size: (width, height) in pixels at which the network works, see `working_size`; results have this size. It works best
                at the training's square (`side_px`).
        """
        width, height = size
        scaled = np.stack([resize(frame, width, height) for frame in frames])
        tensor = torch.from_numpy(scaled).permute(0, 3, 1, 2)
        with torch.inference_mode():
            source = to_unit_range(tensor.to(self.device)).expand(-1, 3, -1, -1)
            return to_bytes(self.generator(source)).permute(0, 2, 3, 1).cpu().numpy()


@dataclass(frozen=True, kw_only=True, slots=True)
class TranslateReport:
    """What `translate_video` wrote."""

    video: str
    out: str
    num_frames: int
    width_px: int
    height_px: int
    num_missing: int


def open_translator(path: Path, device: torch.device) -> Translator:
    """Open the translator of a snapshot file.

    Raises:
        CheckpointError: The file is missing, damaged, a checkpoint, of another format, or its weights do not fit.
    """
    snapshot = load_snapshot(path)
    _check_fit(path, snapshot)
    generator = build_generator(snapshot.config.generator)
    generator.load_state_dict(snapshot.weights)
    return Translator(snapshot=snapshot, generator=generator.to(device).eval().requires_grad_(False), device=device)


def _check_fit(path: Path, snapshot: Snapshot) -> None:
    """Raise CheckpointError where weights do not fit the snapshot's generator; checked without allocating either."""
    try:
        check_side(snapshot.config.generator, snapshot.config.data.crop_size_px)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}; copy the snapshot again") from error
    try:
        with torch.device("meta"):
            empty = build_generator(snapshot.config.generator)
    except (RuntimeError, ValueError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: no generator has its sizes ({reason}); copy the snapshot again") from error
    expected = {name: tuple(value.shape) for name, value in empty.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in snapshot.weights.items()}
    wrong = next((name for name in (*expected, *found) if expected.get(name) != found.get(name)), None)
    if wrong is not None:
        raise CheckpointError(
            f"{path}: its weights do not fit its generator ({wrong[:80]!a} is {found.get(wrong)}, expected {expected.get(wrong)}); "
            "copy the snapshot again"
        )
    odd = next(
        (name for name, value in snapshot.weights.items() if not value.is_floating_point() or value.is_meta), None
    )
    if odd is not None:
        raise CheckpointError(
            f"{path}: its weights are of type {snapshot.weights[odd].dtype}, expected floats; copy the snapshot again"
        )


def translate_video(
    translator: Translator,
    source: Path,
    out: Path,
    *,
    side_by_side: bool = False,
    native: bool = False,
    on_progress: OnProgress | None = None,
) -> TranslateReport:
    """Translate a video to an mp4 of the same size (rounded to even), displayed shape, frame count and frame times from 0.

    Args:
        translator: From `open_translator`.
        source: The infrared video.
        out: The mp4 to write.
        side_by_side: Put the input to the left of each translation.
        native: Run the network at the video's own size instead of the training's square.
        on_progress: Gets the number of frames done, a few times a second.

    Raises:
        InfraredCityError: The source is not a readable video.
        EvaluationError: The source holds counts or no frame that can be decoded, or the output cannot be written or is no .mp4.
    """
    if out.suffix.lower() != ".mp4":
        raise EvaluationError(f"{out}: the translation is an mp4; give -o a name that ends in .mp4")
    if out.resolve() == source.resolve():
        raise EvaluationError(f"{out}: is the input itself; give -o another name")
    clip = open_levels(source)
    info = clip.files[0]
    video.choose_decoder(clip, "pyav", "cpu")
    width, height = max(2, info.width_px // 2 * 2), max(2, info.height_px // 2 * 2)
    side = translator.side_px
    working = translator.working_size(info.width_px, info.height_px) if native else (side, side)
    columns, rows = (1, 1) if not side_by_side else (2, 1) if _turns(info.rotation_deg) % 2 == 0 else (1, 2)
    written = 0
    ticker = Ticker("frames", clip.num_frames, on_progress)
    batches = _read_levels(clip, video.FrameRange(start_frame=0, stop_frame=clip.num_frames), color="gray")
    first = next(batches, None)  # before anything is written
    if first is None:
        raise EvaluationError(f"{source}: no frame of it could be decoded")
    times, time_base = _mp4_times(clip)
    start = int(times[first.frame_indices[0]])
    with open_video(
        out,
        width_px=width * columns,
        height_px=height * rows,
        time_base=time_base,
        fps=info.nominal_fps or 25.0,
        rotation_deg=info.rotation_deg,
        pixel_aspect=info.pixel_aspect,
    ) as writer:
        for batch in chain([first], batches):
            for place in range(0, len(batch.data), BATCH_FRAMES):
                frames = batch.data[place : place + BATCH_FRAMES]
                translated = translator.translate(frames, size=working)
                for number, picture in enumerate(translated):
                    shown = resize(picture, width, height)
                    if side_by_side:
                        gray = resize(frames[number], width, height)
                        shown = _beside(np.repeat(gray, 3, axis=2), shown, rotation_deg=info.rotation_deg)
                    writer.add(shown, int(times[batch.frame_indices[place + number]]) - start)
                    written += 1
                ticker.add(len(frames))
    if written < clip.num_frames:
        ticker.add(clip.num_frames - written)  # those that could not be decoded
    return TranslateReport(
        video=str(source),
        out=str(out),
        num_frames=written,
        width_px=width * columns,
        height_px=height * rows,
        num_missing=clip.num_frames - written,
    )


def _turns(rotation_deg: int) -> int:
    """Return how many quarter turns counter-clockwise players apply: 0 to 3."""
    return round(rotation_deg / 90) % 4


def _beside(
    left: UInt8[np.ndarray, "H W 3"], right: UInt8[np.ndarray, "H W 3"], *, rotation_deg: int
) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Join two pictures so that a player that rotates the video shows them side by side."""
    turns = _turns(rotation_deg)
    pair = (left, right) if turns in (0, 1) else (right, left)
    joined: np.ndarray = np.concatenate(pair, axis=1 if turns % 2 == 0 else 0)
    return joined


def rising_times(pts: Int64[np.ndarray, " N"], time_base: Fraction) -> tuple[Int64[np.ndarray, " N"], Fraction]:
    """Make times strictly increasing; return them and their new unit.

    Frames with equal times share one unit: it is divided by the length of the longest such run, so that later times do not move.
    """
    places = np.arange(len(pts), dtype=np.int64)
    begins = np.flatnonzero(np.diff(pts, prepend=pts[0] - 1))
    longest = int(np.diff(begins, append=len(pts)).max())
    moved: np.ndarray = np.maximum.accumulate(pts * longest - places) + places
    return moved, time_base / longest


def _mp4_times(clip: video.ClipVideo) -> tuple[Int64[np.ndarray, " N"], Fraction]:
    """Return increasing times of a clip's frames and their unit: its own unit, or 1 ms where a pause is too long for that."""
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


def open_levels(path: Path) -> video.ClipVideo:
    """Open a video of 8 bits.

    Raises:
        InfraredCityError: It is not a readable video.
        EvaluationError: It holds counts of more than 8 bits, and a snapshot does not store how to map them to levels.
    """
    clip = video.open_clip([path])
    deep = next((file for file in clip.files if file.is_deep), None)
    if deep is not None:
        raise _refusal_of_counts(path, deep.pixel_format)
    return clip


def _refusal_of_counts(path: object, found: str) -> EvaluationError:
    return EvaluationError(
        f"{path}: holds counts ({found}), expected levels of 8 bits; convert it with the tone map of the training first, since a "
        "snapshot does not store it"
    )


def _read_levels(
    clip: video.ClipVideo, frames: video.FrameRange, *, color: video.ColorMode
) -> Iterator[video.FrameBatch]:
    """Read frames of a clip from `open_levels`; raise EvaluationError where a decoder gives more than 8 bits after all."""
    for batch in video.read_frames(clip, frames, color=color):
        if batch.data.dtype != np.uint8:
            raise _refusal_of_counts(clip.files[0].path, str(batch.data.dtype))
        yield batch


def frames_of(clip: video.ClipVideo, indices: list[int], *, color: video.ColorMode) -> Iterator[tuple[int, np.ndarray]]:
    """Read chosen frames of a clip from `open_levels`, in one pass: (frame index, u8 [H, W, C]); `indices` ascend.

    Frames that cannot be decoded are left out.
    """
    wanted = set(indices)
    if not wanted:
        return
    covering = video.FrameRange(start_frame=min(indices), stop_frame=max(indices) + 1)
    for batch in _read_levels(clip, covering, color=color):
        for picture, index in zip(batch.data, batch.frame_indices.tolist(), strict=True):
            if index in wanted:
                yield index, picture
