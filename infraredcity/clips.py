"""The catalogue of clips: what each clip shows and where its file is.

Facts about the nine clips are in `manifests/clips.toml`. The user says where the files are in one of four ways:

- `--clips-dir DIR`: files named `<clip_id>.<ext>`;
- `--clips FILE`: a TOML file with `[clips.<id>]` tables that hold `path = "..."`, or `paths = [...]` for a recording in chunks.
  The user's own clips also need scene, weather, modality and time_of_day, and `polarity = "black-hot"` where heat is dark;
- `--video FILE`: the file of one clip;
- the environment variable INFRAREDCITY_CLIPS: a folder or a TOML file, used when none of the others is given.

Each of them may be a URL (https://, s3://, gs://, ...); such a clip is read by byte ranges, without a local copy.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from infraredcity.errors import CatalogError, RemoteError
from infraredcity.files import records
from infraredcity.files.path import AnyPath, RemotePath, any_path, sizes_in
from infraredcity.files.urls import is_url, shown

Modality = Literal["infrared", "visible"]
Polarity = Literal["white-hot", "black-hot"]
"""Whether a picture shows heat bright or dark."""
ColorMode = Literal["gray", "rgb"]
"""How a picture's pixels are held: one channel, or R, G, B."""
COLOR_MODES: tuple[ColorMode, ...] = ("gray", "rgb")

CLIPS_VARIABLE = "INFRAREDCITY_CLIPS"
VIDEO_SUFFIXES = (
    ".3g2", ".3gp", ".264", ".265", ".asf", ".av1", ".avi", ".dav", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h264",
    ".h265", ".hevc", ".ivf", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v", ".mj2", ".mjpeg", ".mjpg", ".mkv", ".mov",
    ".mp4", ".mpe", ".mpeg", ".mpg", ".mpv", ".mts", ".mxf", ".nut", ".obu", ".ogg", ".ogv", ".qt", ".rm", ".rmvb",
    ".seq", ".ts", ".vc1", ".vob", ".webm", ".wmv", ".wtv", ".y4m",
)  # fmt: skip
"""Suffixes of the files of a clips folder, in lower case: what FFmpeg reads as video, and what recorders write."""
MODALITIES = ("infrared", "visible")
POLARITIES: tuple[Polarity, ...] = ("white-hot", "black-hot")
_CLIP_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}")
_NAME_FILES = f"pass --clips-dir, --clips or --video, or set {CLIPS_VARIABLE}"
_LIST_STILLS = "list the pictures of a recording in order: paths = [...] of its table in the file of --clips"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipDescription:
    """What a clip shows: the same words in the catalogue, in the facts of a data set's clips, and in a report."""

    clip_id: str
    """Name of the clip; lower-case letters, digits, `_` and `-`, so that it can be part of a WebDataset key."""
    scene: str
    """What is filmed, such as "city"."""
    weather: str
    """"clear", "overcast", or "any" where the data set does not distinguish them."""
    modality: str
    """What the camera saw: "infrared" or "visible"."""
    time_of_day: str
    """"night" or "day"."""

    def description(self) -> dict[str, Any]:
        """Return these words by name, for another description of the same clip."""
        return {each.name: getattr(self, each.name) for each in fields(ClipDescription)}


WORDS = tuple(each.name for each in fields(ClipDescription) if each.name != "clip_id")
"""What a description says of a clip, besides its name."""
_FACTS = (*WORDS, "expected_frames", "polarity")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip(ClipDescription):
    """One clip of the catalogue."""

    weather: str = "any"
    modality: Modality
    paths: tuple[AnyPath, ...] = ()
    """The clip's files in order, local or remote: one, or several for a recording in chunks; empty while they are unknown."""
    expected_frames: int | None = None
    """Frame count to check extraction against, or None when it is not known."""
    polarity: Polarity = "white-hot"
    """How the clip's file shows heat; only for infrared, a visible clip keeps the default."""

    def __post_init__(self) -> None:
        check_clip_id(self.clip_id)
        for name in ("scene", "weather", "time_of_day"):
            if not _CLIP_ID.fullmatch(getattr(self, name)):
                raise CatalogError(
                    f"clip {self.clip_id}: {name} must be of a-z, 0-9, _ and -, got {getattr(self, name)!r}"
                )
        if self.modality not in MODALITIES:
            raise CatalogError(f'clip {self.clip_id}: modality must be "infrared" or "visible", got {self.modality!r}')
        if self.expected_frames is not None and self.expected_frames < 1:
            raise CatalogError(f"clip {self.clip_id}: expected_frames must be positive, got {self.expected_frames}")
        if self.polarity not in POLARITIES:
            raise CatalogError(
                f'clip {self.clip_id}: polarity must be "white-hot" or "black-hot", got {self.polarity!r}'
            )
        if self.modality != "infrared" and self.polarity != "white-hot":
            raise CatalogError(
                f"clip {self.clip_id}: polarity {self.polarity} is for infrared clips, this one is {self.modality}"
            )

    def existing_paths(self) -> tuple[AnyPath, ...]:
        """Return the clip's files, after checking that each exists.

        Raises:
            CatalogError: The clip has no file, or one is missing or is not a file.
            RemoteError: A remote file's server cannot be reached or refuses.
        """
        if not self.paths:
            raise CatalogError(f"clip {self.clip_id}: its file is unknown; {_NAME_FILES}")
        for path in self.paths:
            if path.is_file():
                continue
            if path.exists():
                raise CatalogError(
                    f"clip {self.clip_id}: {path} is not a file; name the video itself, or {_LIST_STILLS}"
                )
            remedy = "correct the path or copy the clip there"
            if any(mark in path.name for mark in "%*?"):
                remedy = f"patterns are not read; {_LIST_STILLS}"
            raise CatalogError(f"clip {self.clip_id}: {path} does not exist; {remedy}")
        return self.paths


@dataclass(frozen=True, slots=True)
class Catalog:
    """The clips by id, in the order of the catalogue.

    Attributes:
        clips: All of them.
        asked: The ids that `--all` means: those of a clips file and those with a file in a clips folder; None means all.
        strangers: For clips without a file, the name of a file of theirs with an unknown suffix.
    """

    clips: Mapping[str, Clip]
    asked: tuple[str, ...] | None = None
    strangers: Mapping[str, str] = field(default_factory=dict)

    def asked_for(self) -> list[Clip]:
        """Return the clips that `--all` means."""
        return [self.clips[clip_id] for clip_id in (self.clips if self.asked is None else self.asked)]

    def check_files(self, clips: Iterable[Clip]) -> None:
        """Check that the files of some clips are known and exist.

        Raises:
            CatalogError: They are not.
            RemoteError: A remote file cannot be reached.
        """
        clips = list(clips)
        unnamed = [clip.clip_id for clip in clips if not clip.paths]
        if unnamed:
            beside = [self.strangers[clip_id] for clip_id in unnamed if clip_id in self.strangers]
            hint = f"; not a known suffix of videos: {', '.join(beside)}" if beside else ""
            raise CatalogError(f"the files of {', '.join(unnamed)} are unknown; {_NAME_FILES}{hint}")
        for clip in clips:
            clip.existing_paths()

    def __getitem__(self, clip_id: str) -> Clip:
        """Return the clip of that id; CatalogError lists the known ones when there is none."""
        if clip_id not in self.clips:
            raise CatalogError(
                f"unknown clip {clip_id!r}; the catalogue has {', '.join(self.clips)}; define your own in the file of --clips"
            )
        return self.clips[clip_id]

    def __iter__(self) -> Iterator[Clip]:
        return iter(self.clips.values())

    def __len__(self) -> int:
        return len(self.clips)


def is_clip_id(clip_id: str) -> bool:
    """Return whether `clip_id` can begin a WebDataset key (a dot would cut the key and merge frames)."""
    return _CLIP_ID.fullmatch(clip_id) is not None


def check_clip_id(clip_id: str) -> None:
    """Raise CatalogError unless `is_clip_id`."""
    if not is_clip_id(clip_id):
        raise CatalogError(
            f"clip id {clip_id!r} must be 1 to 60 characters of a-z, 0-9, _ and -, starting with a letter or digit"
        )


def manifests_folder() -> Path:
    """Return the folder of clips.toml, lite.toml and published.toml: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "manifests", package.parent / "manifests"):
        if (folder / "clips.toml").is_file():
            return folder
    raise CatalogError(f"{package}: the manifests folder is missing; install the package again")


def published_counts() -> dict[str, Any]:
    """Return the published frame counts of `manifests/published.toml`."""
    return read_toml(manifests_folder() / "published.toml")


def read_toml(path: AnyPath) -> dict[str, Any]:
    """Parse a TOML file; CatalogError names the file, and the line where it is not TOML. RemoteError where it cannot be reached."""
    try:
        return records.read_toml(path)
    except FileNotFoundError as error:
        raise CatalogError(f"{path}: no such file") from error
    except RemoteError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogError(f"{path}: cannot be read: {error}") from error
    except ValueError as error:
        raise CatalogError(f"{path}: not valid TOML: {error}") from error


def load_catalog(
    *,
    clips_file: AnyPath | None = None,
    clips_dir: AnyPath | None = None,
    environment: Mapping[str, str] | None = None,
) -> Catalog:
    """Load the nine clips, with the files and the own clips that the caller names.

    Args:
        clips_file: TOML file of `[clips.<id>]` tables; paths in it are URLs, or relative to the file.
        clips_dir: Folder of files named `<clip_id>.<ext>`.
        environment: Variables with INFRAREDCITY_CLIPS, which is used when neither is given; os.environ by default. A URL in it is a
            TOML file when it ends in .toml, else a folder.

    Raises:
        CatalogError: A file or folder is missing, a table is malformed, or one clip id has two candidate files.
        RemoteError: A remote file or folder cannot be reached, or not be listed.
    """
    nine = manifests_folder() / "clips.toml"
    clips = _clips_of_file(_tables(nine), nine, {})
    asked: tuple[str, ...] | None = None
    strangers: dict[str, str] = {}
    if clips_file is None and clips_dir is None:
        from_environment = (os.environ if environment is None else environment).get(CLIPS_VARIABLE)
        if from_environment:
            named = any_path(from_environment)
            if isinstance(named, RemotePath):
                is_folder = named.suffix.lower() != ".toml"
            elif named.exists():
                is_folder = named.is_dir()
            else:
                raise CatalogError(f"{CLIPS_VARIABLE}={named}: no such file or folder")
            clips_dir, clips_file = (named, None) if is_folder else (None, named)
    if clips_file is not None:
        tables = _tables(clips_file)
        clips, asked = _clips_of_file(tables, clips_file, clips), tuple(tables)
    if clips_dir is not None:
        found, strangers = _files_of_folder(clips_dir, clips)
        clips |= {clip_id: replace(clips[clip_id], paths=(path,)) for clip_id, path in found.items()}
        asked = asked and tuple(dict.fromkeys((*asked, *found)))
    return Catalog(clips, asked, strangers)


def with_video(catalog: Catalog, clip_id: str, video: AnyPath) -> Catalog:
    """Return the catalogue with `video` as the only file of `clip_id`."""
    return replace(catalog, clips={**catalog.clips, clip_id: replace(catalog[clip_id], paths=(video,))})


def _tables(path: AnyPath) -> dict[str, Any]:
    """Return the tables of a clips file by clip id."""
    tables = read_toml(path).get("clips")
    if not isinstance(tables, dict) or not tables:
        raise CatalogError(f"{path}: holds no [clips.<id>] table")
    return tables


def _clips_of_file(tables: Mapping[str, Any], path: AnyPath, known: Mapping[str, Clip]) -> dict[str, Clip]:
    clips = dict(known)
    for clip_id, table in tables.items():
        where = f"{path}: clips.{clip_id}"
        if not isinstance(table, dict):
            raise CatalogError(f"{where}: expected a table, found {_quote(table)}")
        unknown = sorted(set(table) - {*_FACTS, "path", "paths"})
        if unknown:
            raise CatalogError(f"{where}: unknown key {unknown[0]!r}; known are path, paths, {', '.join(_FACTS)}")
        facts = {name: table[name] for name in _FACTS if name in table}
        _check_types(where, facts)
        paths = _paths_of(where, table, path.parent)
        try:
            if clip_id in clips:
                clips[clip_id] = replace(clips[clip_id], **facts, paths=paths or clips[clip_id].paths)
            else:
                missing = [name for name in ("scene", "modality", "time_of_day") if name not in facts]
                if missing:
                    raise CatalogError(
                        f"not one of the nine clips, so {', '.join(missing)} must be given; the nine are {', '.join(known)}"
                    )
                clips[clip_id] = Clip(clip_id=clip_id, paths=paths, **facts)
        except CatalogError as error:
            raise CatalogError(f"{where}: {error}") from error
    return clips


def _check_types(where: str, facts: dict[str, Any]) -> None:
    for name, value in facts.items():
        expected = int if name == "expected_frames" else str
        if not isinstance(value, expected) or isinstance(value, bool):
            raise CatalogError(f"{where}: {name} must be {expected.__name__}, got {_quote(value)}")
        if name == "modality" and value not in MODALITIES:
            raise CatalogError(f'{where}: modality must be "infrared" or "visible", got {value!r}')
        if name == "polarity" and value not in POLARITIES:
            raise CatalogError(f'{where}: polarity must be "white-hot" or "black-hot", got {value!r}')


def _quote(value: object) -> str:
    """Format a value of a file for a message, without the credentials of a URL."""
    return shown(repr(value))


def _paths_of(where: str, table: dict[str, Any], base: AnyPath) -> tuple[AnyPath, ...]:
    if "path" in table and "paths" in table:
        raise CatalogError(f"{where}: has both path and paths; keep one")
    given = [table["path"]] if "path" in table else table.get("paths", [])
    if not isinstance(given, list) or not all(isinstance(item, str) and item for item in given):
        raise CatalogError(f"{where}: path must be a string and paths a list of strings")
    return tuple(_path_of(base, item) for item in given)


def _path_of(base: AnyPath, item: str) -> AnyPath:
    """Resolve a path of a TOML file: a URL, an absolute path, else relative to the file."""
    if is_url(item):
        return RemotePath(item)
    local = Path(item).expanduser()
    return local if local.is_absolute() else base / item


def _files_of_folder(folder: AnyPath, clips: Mapping[str, Clip]) -> tuple[dict[str, AnyPath], dict[str, str]]:
    """Find the file of each clip in a folder; also return, by clip id, files of clips with an unknown suffix."""
    if not folder.is_dir():
        raise CatalogError(f"{folder}: no such folder; --clips-dir names the folder of <clip_id>.<ext> files")
    found: dict[str, list[AnyPath]] = {}
    strangers: dict[str, str] = {}
    for name in sorted(sizes_in(folder)):
        path = folder / name
        if path.stem not in clips:
            continue
        if path.suffix.lower() in VIDEO_SUFFIXES:
            found.setdefault(path.stem, []).append(path)
        else:
            strangers[path.stem] = str(path)
    for clip_id, candidates in found.items():
        if len(candidates) > 1:
            names = ", ".join(path.name for path in candidates)
            raise CatalogError(
                f"{folder}: clip {clip_id} has {len(candidates)} files ({names}); keep one, or use --clips"
            )
    return {clip_id: candidates[0] for clip_id, candidates in found.items()}, strangers
