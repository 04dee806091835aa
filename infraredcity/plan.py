"""What extraction will do, before it does it: options, and the segments of a clip with the names of their shards."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from infraredcity.catalog import ColorMode
from infraredcity.errors import VideoDecodeError
from infraredcity.images import IMAGE_FORMATS, Fit, Framing, ImageFormat
from infraredcity.video import DECODERS, DecoderName, FrameRange

DATASET = "infraredcity"
Target = Literal["shards", "frames"]
TARGETS: tuple[Target, ...] = ("shards", "frames")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractConfig:
    """Everything that changes what extraction writes. Stored beside the output; the same config gives the same bytes."""

    to: Target = "shards"
    """"shards" writes WebDataset tars, "frames" plain image files."""
    image_format: ImageFormat = "jpg"
    """File format of each still."""
    quality: int = 95
    """1..100, for jpg and webp."""
    crop: tuple[int, int, int, int] | None = None
    """x, y, width, height in pixels of the clip, cut out before anything else."""
    size: tuple[int, int] | None = None
    """Width and height of the stills in pixels; None keeps the clip's size."""
    fit: Fit = "squash"
    """How the clip's shape becomes that of `size`."""
    color: ColorMode | None = None
    """"gray" or "rgb"; None takes gray for infrared clips and rgb for visible ones."""
    start_frame: int = 0
    """First frame of the clip to take."""
    stop_frame: int | None = None
    """First frame not to take; None goes to the end."""
    every: int = 1
    """Take each n-th frame."""
    frames_per_shard: int = 1000
    """Samples in a full shard; also the unit in which a killed run goes on."""
    decoder: DecoderName = "auto"
    """Which library decodes."""
    device: str = "cpu"
    """"cpu" or "cuda:N"."""

    def __post_init__(self) -> None:
        if self.to not in TARGETS:
            raise ValueError(f"to must be one of {', '.join(TARGETS)}, got {self.to!r}")
        if self.image_format not in IMAGE_FORMATS:
            raise ValueError(f"format must be one of {', '.join(IMAGE_FORMATS)}, got {self.image_format!r}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality must be 1..100, got {self.quality}")
        if self.every < 1:
            raise ValueError(f"every must be at least 1, got {self.every}")
        if self.start_frame < 0:
            raise ValueError(f"start must not be negative, got {self.start_frame}")
        if self.stop_frame is not None and self.stop_frame <= self.start_frame:
            raise ValueError(f"stop must be above start {self.start_frame}, got {self.stop_frame}")
        if self.frames_per_shard < 1:
            raise ValueError(f"frames-per-shard must be at least 1, got {self.frames_per_shard}")
        if self.decoder not in DECODERS:
            raise ValueError(f"decoder must be one of {', '.join(DECODERS)}, got {self.decoder!r}")
        if self.device != "cpu" and self.device.partition(":")[0] != "cuda":
            raise ValueError(f"device must be cpu or cuda:N, got {self.device!r}")
        _ = self.framing  # checks crop, size and fit

    @property
    def framing(self) -> Framing:
        """How each frame becomes a still."""
        return Framing(crop=self.crop, size=self.size, fit=self.fit)

    def to_json(self) -> dict[str, Any]:
        """Plain values, as they come back from JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ExtractConfig":
        """The config that `to_json` wrote; ValueError on an unknown name or a bad value."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown extraction setting {unknown[0]!r}")
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**plain)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One shard's worth of a clip.

    Attributes:
        number: Place among the clip's segments.
        frames: The clip's frames that belong to it.
        shard: File name of its shard.
    """

    number: int
    frames: FrameRange
    shard: str


def segments(clip_id: str, num_frames: int, config: ExtractConfig) -> tuple[Segment, ...]:
    """The segments of a clip of `num_frames` frames, a pure function of its arguments; they tile the chosen frames.

    Raises:
        VideoDecodeError: `start_frame` lies behind the clip's end.
    """
    if config.start_frame >= num_frames:
        raise VideoDecodeError(
            f"clip {clip_id}: has {num_frames} frames, so nothing is left from --start {config.start_frame} on"
        )
    stop = num_frames if config.stop_frame is None else min(config.stop_frame, num_frames)
    stride = config.frames_per_shard * config.every
    return tuple(
        Segment(
            number=number,
            frames=FrameRange(start_frame=start, stop_frame=min(start + stride, stop), step=config.every),
            shard=shard_name(DATASET, clip_id, number),
        )
        for number, start in enumerate(range(config.start_frame, stop, stride))
    )


def shard_name(dataset: str, clip_id: str, number: int) -> str:
    """The file name of a shard: `<dataset>-<clip>-<number>.tar`."""
    return f"{dataset}-{clip_id}-{number:06d}.tar"
