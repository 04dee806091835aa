"""The job spec of a clip (extract.json): everything that two runs must agree on to write the same bytes.

It holds the settings, the clip's facts, what its files are, and the libraries that shape bytes. Its sha256 is the identity of the
job; every segment record carries it, so that a segment of another job is recognized. It also holds all that merging the segments
needs to know of the video: merging opens no video.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infraredcity.clips import POLARITIES, WORDS, Clip, ColorMode
from infraredcity.datasets.walk import JOB_NAME
from infraredcity.errors import CatalogError, OutputError
from infraredcity.extraction.config import ExtractConfig, option_of
from infraredcity.files.atomic import write_atomic
from infraredcity.files.path import AnyPath
from infraredcity.files.records import read_json
from infraredcity.stills.framing import is_inverted
from infraredcity.stills.tone import ToneMap
from infraredcity.video import ClipVideo, DecoderName

FORMAT = "infraredcity-extract-4"
_VIDEO = (
    "time_base", "nominal_fps", "num_frames", "frames_sha256", "break_frames", "is_deep", "suspect", "notes"
)  # fmt: skip
"""Fields of JobSpec that are facts of the video."""
_FACTS = (*WORDS, "polarity")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """What extract.json holds; runs with the same job spec write the same bytes."""

    clip: Clip
    """The clip, without its files and its expected count, which may change while the work is under way."""
    config: ExtractConfig
    """What is written; its device is "cpu" or "cuda", the kind that decodes, whatever was asked for."""
    decoder: DecoderName
    """Which library decodes."""
    tone: ToneMap | None
    """How counts become levels; None where there are none or they are kept."""
    sources: tuple[Mapping[str, Any], ...]
    """The clip's files, see `sources_of`."""
    versions: Mapping[str, str]
    """Version of each library that shapes the bytes."""
    time_base: str
    """Seconds per unit of pts, as "1/15360"."""
    nominal_fps: float
    """Frames per second that the first file states."""
    num_frames: int
    """Frames of the whole clip."""
    frames_sha256: str
    """Hash of when each frame is shown and which follow damage, see `frames_sha256`."""
    break_frames: tuple[int, ...]
    """Frames before which something is lost, see `ClipVideo.break_frames`."""
    is_deep: bool
    """Whether the clip holds counts of more than 8 bits."""
    suspect: tuple[str, ...]
    """What the scan found wrong with the files."""
    notes: tuple[str, ...] = ()
    """What else is good to know of the files, see `ClipVideo.notes`."""

    @property
    def color(self) -> ColorMode:
        """Return the stills' colour mode: as configured, else gray for infrared and deep clips and rgb for other visible ones."""
        return self.config.color or ("gray" if self.clip.modality == "infrared" or self.is_deep else "rgb")

    @property
    def is_inverted(self) -> bool:
        """Return whether levels are inverted."""
        return self.clip.modality == "infrared" and is_inverted(self.clip.polarity, self.config.polarity)

    @property
    def polarity(self) -> str:
        """How the stills of an infrared clip show heat; "" for a visible one."""
        if self.clip.modality != "infrared":
            return ""
        return (
            self.clip.polarity
            if not self.is_inverted
            else next(each for each in POLARITIES if each != self.clip.polarity)
        )

    @property
    def facts(self) -> dict[str, str]:
        """Return the clip's facts that go into samples and manifests."""
        return {name: getattr(self.clip, name) for name in _FACTS}

    @property
    def identity(self) -> str:
        """Return the sha256 of extract.json, in hexadecimal."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return plain values, as they come back from JSON."""
        return {
            "format": FORMAT,
            "clip": self.clip.clip_id,
            "facts": self.facts,
            "config": self.config.to_json(),
            "decoder": self.decoder,
            "tone": None if self.tone is None else self.tone.to_json(),
            "sources": [dict(source) for source in self.sources],
            "versions": dict(self.versions),
            "video": {name: _as_list(getattr(self, name)) for name in _VIDEO},
        }

    def to_bytes(self) -> bytes:
        """Return the bytes of extract.json."""
        return (json.dumps(self.to_json(), indent=1) + "\n").encode()

    def write(self, folder: AnyPath) -> None:
        """Write extract.json, which binds a clip's folder to this job."""
        write_atomic(folder / JOB_NAME, self.to_bytes())

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, where: str) -> "JobSpec":
        """Return the job spec that `to_json` wrote.

        Raises:
            OutputError: It is of another format, or damaged; `where` names the file.
        """
        if values.get("format") != FORMAT:
            raise OutputError(
                f"{where}: was extracted with format {values.get('format')}, this version writes {FORMAT}; "
                "use the same version, another --out, or --overwrite to start anew"
            )
        try:
            tone = values["tone"]
            return cls(
                clip=Clip(clip_id=values["clip"], **values["facts"]),
                config=ExtractConfig.from_json(values["config"]),
                decoder=values["decoder"],
                tone=None if tone is None else ToneMap.from_json(tone),
                sources=tuple(values["sources"]),
                versions=values["versions"],
                **{name: _as_tuple(values["video"][name]) for name in _VIDEO},
            )
        except (KeyError, TypeError, ValueError, CatalogError) as error:
            raise OutputError(f"{where}: damaged ({error}); start anew with --overwrite") from error


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def read_spec(folder: AnyPath) -> JobSpec | None:
    """Read extract.json from a clip's folder; None where there is none.

    Raises:
        OutputError: It is damaged or of another format.
    """
    path = folder / JOB_NAME
    try:
        values = read_json(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: damaged ({error}); start anew with --overwrite") from error
    if not isinstance(values, dict):
        raise OutputError(f"{path}: damaged (no JSON object); start anew with --overwrite")
    return JobSpec.from_json(values, where=str(path))


def sources_of(video: ClipVideo) -> tuple[dict[str, Any], ...]:
    """Describe a clip's files; pixel_aspect is like "16:11", hdr "PQ", "HLG" or "", and the last three are what players apply."""
    return tuple(
        {
            "name": file.path.name,
            "size_bytes": file.size_bytes,
            "packets_sha256": file.packets_sha256,
            "num_frames": file.num_frames,
            "width": file.width_px,
            "height": file.height_px,
            "codec": file.codec,
            "pixel_format": file.pixel_format,
            "streams": list(file.streams),
            "rotation_deg": file.rotation_deg,
            "pixel_aspect": f"{file.pixel_aspect.numerator}:{file.pixel_aspect.denominator}",
            "hdr": file.hdr,
        }
        for file in video.files
    )


def frames_sha256(video: ClipVideo) -> str:
    """Hash what packets do not hold but shards state, each frame's time and which frames follow damage; in hexadecimal.

    The bytes are all times in units of the clip's time base, then each file's suspect ranges, as little-endian i64.
    """
    digest = hashlib.sha256(video.pts.astype("<i8").tobytes())
    for file in video.files:
        digest.update(file.suspect_ranges.astype("<i8").tobytes())
    return digest.hexdigest()


def describe_difference(before: JobSpec, now: JobSpec, *, with_versions: bool) -> str | None:
    """Name the first setting that differs, as "--quality 95, not 90"; None where both specs give the same bytes.

    Args:
        before: The spec in the clip's folder.
        now: The spec of the run that wants to go on there.
        with_versions: Whether other versions of the libraries count: they do while something is left to write.
    """
    parts = ["config", "decoder", "facts"] + (["versions"] if with_versions else [])
    old, new = before.to_json(), json.loads(now.to_bytes())
    for part in parts:
        if old[part] != new[part]:
            return _setting(part, old[part], new[part])
    return None


def describe_other_source(before: JobSpec, now: JobSpec) -> str | None:
    """Name the first file that changed; None where all files show the same pictures at the same times."""
    if len(before.sources) != len(now.sources):
        return f"{len(before.sources)} files, now {len(now.sources)}"
    for old, new in zip(before.sources, now.sources, strict=True):
        if old["packets_sha256"] != new["packets_sha256"]:
            return (
                f"another {old['name']} ({old['num_frames']} frames, now {new['num_frames']}; sha256 of its packets "
                f"{old['packets_sha256'][:12]}, now {new['packets_sha256'][:12]})"
            )
    # The same packets in another container may be shown at other times.
    if (before.time_base, before.frames_sha256) != (now.time_base, now.frames_sha256):
        return f"a file that shows the same frames at other times (in units of {before.time_base} s, now {now.time_base} s)"
    return None


def _setting(part: str, before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted({*before, *now}):
            if before.get(name) != now.get(name):
                if part == "config":
                    return _option(name, before.get(name), now.get(name))
                owner = "the clip's " if part == "facts" else ""
                return f"{owner}{name} {before.get(name)}, not {now.get(name)}"
    return f"{part} {before}, not {now}"


def _option(name: str, before: Any, now: Any) -> str:
    """Describe how a setting differs, in the words of the command line: "--quality 95, not 90"."""
    option = option_of(name)
    old, new = (_value(name, value) for value in (before, now))
    if old and new:
        return f"{option} {old}, not {new}"
    return f"{option} {old}, now no {option}" if old else f"no {option}, now {option} {new}"


def _value(name: str, value: Any) -> str:
    """Return a setting's value as the command line takes it; empty where the option is not given."""
    if name == "masks":
        return f" {option_of(name)} ".join(",".join(map(str, mask)) for mask in value)
    if isinstance(value, list):
        return ("x" if name == "size" else ",").join(map(str, value))
    return "" if value is None else str(value)
