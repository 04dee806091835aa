"""The claim on a clip's folder: what all who write there must agree on, so that the same bytes come whoever writes them.

`extract.json` holds it: the settings, the clip's facts, what its files are, the libraries that shape bytes. Its sha256 is the
identity of the work; every done marker carries it, so a segment of other work is known as such. All that merging the segments
needs of the video stands in it too: merging opens no video.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infraredcity.clips import Clip, ColorMode
from infraredcity.datasets.dataset import JOB_NAME
from infraredcity.errors import CatalogError, OutputError
from infraredcity.extraction.config import ExtractConfig, option_of
from infraredcity.files.atomic import write_atomic
from infraredcity.files.path import AnyPath
from infraredcity.files.records import read_json
from infraredcity.stills.framing import is_inverted
from infraredcity.stills.tone import ToneMap
from infraredcity.video import ClipVideo, DecoderName

FORMAT = "infraredcity-extract-4"
_FACTS = ("scene", "weather", "modality", "time_of_day", "polarity")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What the extraction of a clip is bound to.

    Attributes:
        clip: The clip, without its files and its expected count, which may change while the work is under way.
        config: What is written; its device is "cpu" or "cuda", the kind that decodes, whatever was asked for.
        decoder: Which library decodes.
        tone: How counts become levels; None where there are none or they are kept.
        sources: For each file: name, size_bytes, packets_sha256, num_frames, codec, pixel_format, the numbers of its streams that
            were read, and what players do to its pictures: rotation_deg, pixel_aspect ("16:11"), hdr ("PQ", "HLG" or "").
        versions: Version of each library that shapes the bytes.
        time_base: Seconds per unit of pts, as "1/15360".
        nominal_fps: Frames per second that the first file states.
        num_frames: Frames of the whole clip.
        frames_sha256: Over when each is shown and which follow damage, see `frames_sha256`.
        break_frames: Frames before which something is lost, see `ClipVideo.break_frames`.
        is_deep: Whether the clip holds counts of more than 8 bits.
        suspect: What the scan found wrong with the files.
        notes: What is good to know of them, see `ClipVideo.notes`.
    """

    clip: Clip
    config: ExtractConfig
    decoder: DecoderName
    tone: ToneMap | None
    sources: tuple[Mapping[str, Any], ...]
    versions: Mapping[str, str]
    time_base: str
    nominal_fps: float
    num_frames: int
    frames_sha256: str
    break_frames: tuple[int, ...]
    is_deep: bool
    suspect: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def color(self) -> ColorMode:
        """Channels of the stills: as configured, else gray for infrared and deep clips and rgb for other visible ones."""
        return self.config.color or ("gray" if self.clip.modality == "infrared" or self.is_deep else "rgb")

    @property
    def is_inverted(self) -> bool:
        """Whether levels are turned around."""
        return self.clip.modality == "infrared" and is_inverted(self.clip.polarity, self.config.polarity)

    @property
    def facts(self) -> dict[str, str]:
        """The clip's facts that go into samples and manifests."""
        return {name: getattr(self.clip, name) for name in _FACTS}

    @property
    def identity(self) -> str:
        """sha256 of the claim, in hexadecimal."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Plain values, as they come back from JSON."""
        return {
            "format": FORMAT,
            "clip": self.clip.clip_id,
            "facts": self.facts,
            "config": self.config.to_json(),
            "decoder": self.decoder,
            "tone": None if self.tone is None else self.tone.to_json(),
            "sources": [dict(source) for source in self.sources],
            "versions": dict(self.versions),
            "video": {
                "time_base": self.time_base,
                "nominal_fps": self.nominal_fps,
                "num_frames": self.num_frames,
                "frames_sha256": self.frames_sha256,
                "break_frames": list(self.break_frames),
                "is_deep": self.is_deep,
                "suspect": list(self.suspect),
                "notes": list(self.notes),
            },
        }

    def to_bytes(self) -> bytes:
        """The file `extract.json`."""
        return (json.dumps(self.to_json(), indent=1) + "\n").encode()

    def write(self, folder: AnyPath) -> None:
        """Bind a clip's folder to this."""
        write_atomic(folder / JOB_NAME, self.to_bytes())


def from_json(values: Mapping[str, Any], *, where: str) -> Claim:
    """The claim that `to_json` wrote.

    Raises:
        OutputError: It is of another format, or damaged; `where` names the file.
    """
    told = values.get("format")
    if told != FORMAT:
        raise OutputError(
            f"{where}: was extracted with format {told}, this version writes {FORMAT}; "
            "use the same version, another --out, or --overwrite to start anew"
        )
    try:
        video, tone = values["video"], values["tone"]
        return Claim(
            clip=Clip(clip_id=values["clip"], **values["facts"]),
            config=ExtractConfig.from_json(values["config"]),
            decoder=values["decoder"],
            tone=None if tone is None else ToneMap.from_json(tone),
            sources=tuple(values["sources"]),
            versions=values["versions"],
            time_base=video["time_base"],
            nominal_fps=video["nominal_fps"],
            num_frames=video["num_frames"],
            frames_sha256=video["frames_sha256"],
            break_frames=tuple(video["break_frames"]),
            is_deep=video["is_deep"],
            suspect=tuple(video["suspect"]),
            notes=tuple(video["notes"]),
        )
    except (KeyError, TypeError, ValueError, CatalogError) as error:
        raise OutputError(f"{where}: damaged ({error}); start anew with --overwrite") from error


def read(folder: AnyPath) -> Claim | None:
    """The claim on a clip's folder; None where there is none.

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
    return from_json(values, where=str(path))


def sources_of(video: ClipVideo) -> tuple[dict[str, Any], ...]:
    """What a claim says of a clip's files."""
    return tuple(
        {
            "name": part.path.name,
            "size_bytes": part.size_bytes,
            "packets_sha256": part.packets_sha256,
            "num_frames": part.num_frames,
            "codec": part.codec,
            "pixel_format": part.pixel_format,
            "streams": list(part.streams),
            "rotation_deg": part.rotation_deg,
            "pixel_aspect": f"{part.pixel_aspect.numerator}:{part.pixel_aspect.denominator}",
            "hdr": part.hdr,
        }
        for part in video.parts
    )


def frames_sha256(video: ClipVideo) -> str:
    """SHA-256, in hexadecimal, of what packets do not hold but shards say: each frame's time, and which follow damage.

    It is that of all times in units of the clip's time base, then of each file's suspect ranges, as little-endian i64.
    """
    digest = hashlib.sha256(video.pts.astype("<i8").tobytes())
    for part in video.parts:
        digest.update(part.suspect_ranges.astype("<i8").tobytes())
    return digest.hexdigest()


def differing(before: Claim, now: Claim, *, with_versions: bool) -> str | None:
    """What two claims do not agree on, for people: "quality 95, not 90"; None where both give the same bytes.

    Args:
        before: The claim that stands.
        now: The one that somebody wants to go on with.
        with_versions: Whether other versions of the libraries matter: they do while something is left to write.
    """
    parts = ["config", "decoder", "facts"] + (["versions"] if with_versions else [])
    old, new = before.to_json(), json.loads(now.to_bytes())
    for part in parts:
        if old[part] != new[part]:
            return _setting(part, old[part], new[part])
    return None


def differing_source(before: Claim, now: Claim) -> str | None:
    """Which file is another one by now, for people; None where all show the same pictures at the same times."""
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
    """How a setting differs, in the words of the command line: "--quality 95, not 90"."""
    option = option_of(name)
    old, new = (_value(name, value) for value in (before, now))
    if old and new:
        return f"{option} {old}, not {new}"
    return f"{option} {old}, now no {option}" if old else f"no {option}, now {option} {new}"


def _value(name: str, value: Any) -> str:
    """A setting's value as the command line takes it; empty where the option is not given."""
    if name == "masks":
        return f" {option_of(name)} ".join(",".join(map(str, mask)) for mask in value)
    if isinstance(value, list):
        return ("x" if name == "size" else ",").join(map(str, value))
    return "" if value is None else str(value)
