"""Settings of an extraction: everything that changes what is written."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from infraredcity.clips import COLOR_MODES, ColorMode
from infraredcity.errors import check_choice
from infraredcity.stills.formats import DEFAULT_FORMAT, FORMATS, IMAGE_FORMATS, ImageFormat
from infraredcity.stills.framing import POLARITY_CHOICES, Box, Fit, Framing, PolarityChoice
from infraredcity.stills.tone import TONES, ToneName
from infraredcity.video import DECODERS, DecoderName

DATASET = "infraredcity"
Target = Literal["shards", "frames"]
TARGETS: tuple[Target, ...] = ("shards", "frames")
DEADLINE_S = 60.0
"""Seconds after which a decoder that gives no frame counts as stuck."""
SuspectChoice = Literal["keep", "drop"]
SUSPECT_CHOICES: tuple[SuspectChoice, ...] = ("keep", "drop")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractConfig:
    """Everything that changes what extraction writes. Stored beside the output; the same config gives the same bytes."""

    to: Target = "shards"
    """"shards" writes WebDataset tars, "frames" plain image files."""
    image_format: ImageFormat = DEFAULT_FORMAT
    """File format of each still."""
    quality: int = 95
    """1..100, for jpg and webp."""
    masks: tuple[Box, ...] = ()
    """Boxes of burnt-in display text, x, y, width, height in pixels of the clip; filled from around them before anything else."""
    crop: Box | None = None
    """x, y, width, height in pixels of the clip, cut out of it."""
    size: tuple[int, int] | None = None
    """Width and height of the stills in pixels; None keeps the clip's size."""
    fit: Fit = "squash"
    """How the clip's shape becomes that of `size`."""
    color: ColorMode | None = None
    """"gray" or "rgb"; None takes gray for infrared clips and rgb for visible ones."""
    tone: ToneName | None = None
    """How counts of more than 8 bits become levels, one line for the whole clip; None takes "percentile" where it is needed."""
    tone_range: tuple[int, int] | None = None
    """For "fixed": the count that becomes black and the one that becomes white."""
    polarity: PolarityChoice | None = None
    """How infrared stills show heat: as named, or "invert" for the opposite of the clip; None keeps the clip's way."""
    suspect: SuspectChoice = "keep"
    """Whether frames that follow damage, up to the next key frame, are written and marked, or left out and named as gaps."""
    start_frame: int = 0
    """First frame of the clip to take."""
    stop_frame: int | None = None
    """First frame not to take; None goes to the end."""
    every: int = 1
    """Take each n-th frame."""
    frames_per_shard: int = 1000
    """Samples in a full shard; also the unit in which a killed run goes on."""
    stream: int | None = None
    """Number of the video stream to take; None takes the best one."""
    decoder: DecoderName = "auto"
    """Which library decodes."""
    device: str = "cpu"
    """"cpu", "cuda:N", or "auto" for the GPU where one can decode."""

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
        if self.stream is not None and self.stream < 0:
            raise ValueError(f"stream must not be negative, got {self.stream}")
        if self.decoder not in DECODERS:
            raise ValueError(f"decoder must be one of {', '.join(DECODERS)}, got {self.decoder!r}")
        if self.device not in ("cpu", "auto") and self.device.partition(":")[0] != "cuda":
            raise ValueError(f"device must be cpu, cuda:N or auto, got {self.device!r}")
        _ = self.framing  # checks masks, crop, size and fit
        if self.tone is not None and self.tone not in TONES:
            raise ValueError(f"tone must be one of {', '.join(TONES)}, got {self.tone!r}")
        if (self.tone == "fixed") != (self.tone_range is not None):
            raise ValueError(
                "tone fixed goes with a range of two counts (--tone-range LOW,HIGH), and no other tone does; got tone "
                f"{self.tone or 'not given'} and {'a range' if self.tone_range else 'no range'}"
            )
        if self.tone_range is not None and self.tone_range[0] >= self.tone_range[1]:
            raise ValueError(f"tone range must be low,high with low below high, got {self.tone_range}")
        if self.tone is not None and FORMATS[self.image_format].is_deep:
            raise ValueError(
                f"format {self.image_format} keeps all counts, so there is no tone to choose, got {self.tone}"
            )
        if self.polarity is not None and self.polarity not in POLARITY_CHOICES:
            raise ValueError(f"polarity must be one of {', '.join(POLARITY_CHOICES)}, got {self.polarity!r}")
        if self.color is not None:
            check_choice("color", self.color, COLOR_MODES)
        if self.suspect not in SUSPECT_CHOICES:
            raise ValueError(f"suspect must be one of {', '.join(SUSPECT_CHOICES)}, got {self.suspect!r}")

    @property
    def framing(self) -> Framing:
        """Return how each frame becomes a still."""
        return Framing(masks=self.masks, crop=self.crop, size=self.size, fit=self.fit)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, as they come back from JSON."""
        return {name: _as_lists(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ExtractConfig":
        """Return the config that `to_json` wrote; ValueError on an unknown name or a bad value."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown extraction setting {unknown[0]!r}")
        plain: dict[str, Any] = {name: _as_tuples(value) for name, value in values.items()}
        return cls(**plain)


def option_of(name: str) -> str:
    """Return the command-line option of a setting of ExtractConfig."""
    words = {"image_format": "format", "masks": "mask", "start_frame": "start", "stop_frame": "stop"}
    return f"--{words.get(name, name.replace('_', '-'))}"


def _as_lists(value: Any) -> Any:
    return [_as_lists(item) for item in value] if isinstance(value, tuple) else value


def _as_tuples(value: Any) -> Any:
    return tuple(_as_tuples(item) for item in value) if isinstance(value, list) else value
