"""Cut a clip into segments: which frames belong to which shard, a pure function of the clip's length and the config."""

from collections.abc import Sequence
from dataclasses import dataclass

from infraredcity.errors import VideoDecodeError
from infraredcity.extraction.config import DATASET, ExtractConfig
from infraredcity.progress import OnProgress, Ticker
from infraredcity.shards.names import shard_name
from infraredcity.video import FrameRange


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """The frames of a clip that go into one shard."""

    number: int
    """Position among the clip's segments."""
    frames: FrameRange
    """The clip's frames that belong to it."""
    shard: str
    """File name of its shard."""


def segments(clip_id: str, num_frames: int, config: ExtractConfig) -> tuple[Segment, ...]:
    """Return the segments of a clip of `num_frames` frames; they tile the chosen frames.

    Raises:
        VideoDecodeError: `start_frame` lies behind the clip's end.
    """
    count = count_segments(num_frames, config)
    if count == 0:
        raise VideoDecodeError(
            f"clip {clip_id}: has {num_frames} frames, so nothing is left from --start {config.start_frame} on; use a lower --start"
        )
    return tuple(segment_of(clip_id, num_frames, config, number) for number in range(count))


def count_segments(num_frames: int, config: ExtractConfig) -> int:
    """Count the segments of a clip of `num_frames` frames."""
    return len(range(config.start_frame, stop_frame(num_frames, config), config.frames_per_shard * config.every))


def count_frames(num_frames: int, config: ExtractConfig) -> int:
    """Count the frames of a clip that are to be written."""
    return len(range(config.start_frame, stop_frame(num_frames, config), config.every))


def segment_of(clip_id: str, num_frames: int, config: ExtractConfig, number: int) -> Segment:
    """Return the segment of a number."""
    stride = config.frames_per_shard * config.every
    start = config.start_frame + number * stride
    return Segment(
        number=number,
        frames=FrameRange(
            start_frame=start, stop_frame=min(start + stride, stop_frame(num_frames, config)), step=config.every
        ),
        shard=shard_name(DATASET, clip_id, number),
    )


def stop_frame(num_frames: int, config: ExtractConfig) -> int:
    """Return the first frame of a clip of `num_frames` frames that is not taken any more."""
    return num_frames if config.stop_frame is None else min(config.stop_frame, num_frames)


def frames_ticker(
    what: str, segments: Sequence[Segment], todo: Sequence[Segment], on_progress: OnProgress | None
) -> Ticker:
    """Make a ticker over the frames of segments, of which those of `todo` are not done; it reports where it begins."""
    total = sum(len(segment.frames) for segment in segments)
    ticker = Ticker(what, total, on_progress, done=total - sum(len(segment.frames) for segment in todo))
    ticker.add(0)
    return ticker
