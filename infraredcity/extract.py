"""Extraction: the frames of one clip into shards, a segment at a time, so that a killed run goes on where it stopped.

A segment is done when its marker stands in `segments/`; the marker is written after the shard's rename. `finalize` turns all
markers into the index, the manifest and the gaps, and writes clips.json last. Shards depend on the clip, the config and the
codec libraries alone: not on workers, threads, or how often the work was interrupted.
"""

import hashlib
import importlib.metadata
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from infraredcity import index as sample_index
from infraredcity import manifest
from infraredcity.catalog import Clip, ColorMode
from infraredcity.errors import OutputError
from infraredcity.images import encode
from infraredcity.index import IndexEntry, ShardInfo, key_of
from infraredcity.plan import ExtractConfig, Segment, segments
from infraredcity.shard_writer import open_shard
from infraredcity.storage import fsync_folder, remove_temporaries, write_atomic
from infraredcity.video import ClipVideo, DecoderName, FrameRange, choose_decoder, open_clip, read_frames

JOB_NAME = "extract.json"
GAPS_NAME = "gaps.json"
MARKERS = "segments"
_JOB_FORMAT = "infraredcity-extract-1"
_BYTES_LIBRARIES = ("av", "numpy", "opencv-python-headless", "simplejpeg")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExtractJob:
    """One clip's extraction, ready to run: what to read, how, and where it goes; plain data that other processes can take."""

    clip: Clip
    video: ClipVideo
    config: ExtractConfig
    decoder: DecoderName
    folder: Path
    segments: tuple[Segment, ...]
    versions: dict[str, str]

    @property
    def color(self) -> ColorMode:
        """Channels of the stills: as configured, else gray for infrared and rgb for visible clips."""
        return self.config.color or ("gray" if self.clip.modality == "infrared" else "rgb")

    @property
    def can_start_anywhere(self) -> bool:
        """Whether a worker may begin in the middle of the clip without decoding what comes before."""
        return self.decoder == "pyav" and all(part.is_seekable for part in self.video.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Frames of a clip that could not be had: first_frame to last_frame, both included."""

    clip: str
    first_frame: int
    last_frame: int
    num_frames: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractReport:
    """What extraction of one clip ended with.

    Attributes:
        clip: The clip's id.
        folder: Where its samples lie.
        num_frames: Samples written, over all runs.
        new_frames: Samples written by this run.
        num_shards: Shards, or 0 for plain files.
        size_bytes: Bytes of all shards or files.
        gaps: Frames that could not be decoded.
        expected_frames: What the catalogue says the whole clip holds, if it does.
        clip_frames: What the clip's files hold.
        decoder: Which library decoded.
        suspect: What the scan found wrong with the files.
    """

    clip: str
    folder: str
    num_frames: int
    new_frames: int
    num_shards: int
    size_bytes: int
    gaps: tuple[Gap, ...]
    expected_frames: int | None
    clip_frames: int
    decoder: str
    suspect: tuple[str, ...]

    @property
    def has_expected_count(self) -> bool:
        """Whether the clip holds as many frames as the catalogue says, where it says."""
        return self.expected_frames is None or self.expected_frames == self.clip_frames


def prepare(clip: Clip, config: ExtractConfig, out: Path, *, overwrite: bool = False) -> ExtractJob:
    """Probe the clip, plan its segments and claim `out`/<clip_id> for this config. The caller holds the folder's lock.

    Args:
        clip: The clip, with its files.
        config: What to write.
        out: Folder that gets one folder per clip.
        overwrite: Delete what an earlier extraction left in the clip's folder.

    Raises:
        CatalogError: The clip's file is missing.
        VideoDecodeError: It is no video, or the asked decoder cannot be trusted with it.
        OutputError: The folder holds an extraction with other settings or from another file.
    """
    video = open_clip(clip.existing_paths())
    decoder = choose_decoder(video, config.decoder, config.device)
    folder = out / clip.clip_id
    job = ExtractJob(
        clip=clip,
        video=video,
        config=config,
        decoder=decoder,
        folder=folder,
        segments=segments(clip.clip_id, video.num_frames, config),
        versions=_versions(),
    )
    # A run that finished no segment (a crop outside the picture, a device that is not there) binds nobody to its settings.
    stands = (folder / JOB_NAME).exists()
    if overwrite or (stands and not any((folder / MARKERS).glob("*.json"))):
        _clear(folder)
    elif stands:
        job = _going_on(job)
    (folder / MARKERS).mkdir(exist_ok=True)
    remove_leftovers(job)
    if not (folder / JOB_NAME).exists():
        write_atomic(folder / JOB_NAME, _json_bytes(_job_record(job)))
    return job


def remove_leftovers(job: ExtractJob) -> None:
    """Delete the temporary files that killed writers left. The caller holds the folder's lock."""
    remove_temporaries(job.folder)
    remove_temporaries(job.folder / MARKERS)


def pending(job: ExtractJob) -> list[Segment]:
    """The segments that still have to be written, in order: those without a marker, or whose shard is gone or of another size."""
    return [segment for segment in job.segments if not _is_done(job, segment)]


def run_segments(
    job: ExtractJob, todo: Sequence[Segment], *, threads: int, on_frames: Callable[[int], None] | None = None
) -> None:
    """Write some segments of a job, decoding each stretch of neighbouring ones in one pass.

    Args:
        job: From `prepare`.
        todo: Segments in ascending order.
        threads: Encoding threads beside the decoder.
        on_frames: Called with the number of frames just written.

    Raises:
        VideoDecodeError, ImageError, OutputError: As reading, encoding and writing do; what was finished stays.
    """
    with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="encode") as pool:
        for stretch in _neighbours(todo):
            stills = _Peekable(_encoded(job, stretch, pool, in_flight=threads * 4))
            for segment in stretch:
                if job.config.to == "shards":
                    _write_shard(job, segment, stills, on_frames)
                else:
                    _write_files(job, segment, stills, on_frames)


def finalize(job: ExtractJob, *, new_frames: int) -> ExtractReport:
    """Merge the markers of a job whose segments are all done into index, manifest, gaps and clips.json.

    Args:
        job: From `prepare`.
        new_frames: How many frames the present run wrote, for the report.

    Raises:
        OutputError: A segment is not done yet.
    """
    markers = [_read_marker(job, segment) for segment in job.segments]
    frame_indices = np.array([entry.frame_index for marker in markers for entry in marker.entries], np.int64)
    pts = np.array([entry.pts for marker in markers for entry in marker.entries], np.int64)
    shards = [(marker.shard, marker.entries) for marker in markers if marker.shard is not None]
    missing = [frame for marker in markers for frame in marker.missing]
    gaps = _gaps(job, missing)
    facts = _facts(job, markers)
    index = sample_index.from_entries(
        clip_id=job.clip.clip_id,
        frame_step=job.config.every,
        image_format=job.config.image_format,
        shards=shards,
        run_ids=sample_index.run_ids(
            frame_indices, pts, frame_step=job.config.every, part_starts=job.video.part_starts
        ),
    )
    write_atomic(job.folder / GAPS_NAME, _json_bytes([asdict(gap) for gap in gaps]))
    if job.config.to == "shards":
        manifest.write_reader_indexes(job.folder, index, name=job.clip.clip_id)
        sample_index.save(index, job.folder)
    manifest.write_table(job.folder, manifest.table(index, {job.clip.clip_id: facts}))
    manifest.write_clips(job.folder, [facts])
    return ExtractReport(
        clip=job.clip.clip_id,
        folder=str(job.folder),
        num_frames=len(index),
        new_frames=new_frames,
        num_shards=len(shards) if job.config.to == "shards" else 0,
        size_bytes=sum(info.size_bytes for info, _ in shards),
        gaps=gaps,
        expected_frames=job.clip.expected_frames,
        clip_frames=job.video.num_frames,
        decoder=job.decoder,
        suspect=job.video.suspect,
    )


@dataclass(frozen=True, slots=True)
class _Still:
    """One encoded frame on its way into a shard."""

    frame_index: int
    pts: int
    data: bytes
    width_px: int
    height_px: int


@dataclass(frozen=True, slots=True)
class _Marker:
    """What a finished segment holds; `shard` is None when none of its frames could be decoded."""

    shard: ShardInfo | None
    entries: list[IndexEntry]
    missing: list[int]
    width_px: int
    height_px: int


class _Peekable:
    """An iterator of stills whose next one can be looked at."""

    def __init__(self, stills: Iterator[_Still]) -> None:
        self._stills = stills
        self._next = next(stills, None)

    def below(self, stop_frame: int) -> Iterator[_Still]:
        """Take the stills whose frame index is below `stop_frame`."""
        while self._next is not None and self._next.frame_index < stop_frame:
            still = self._next
            self._next = next(self._stills, None)
            yield still


def _encoded(
    job: ExtractJob, stretch: Sequence[Segment], pool: ThreadPoolExecutor, *, in_flight: int
) -> Iterator[_Still]:
    """Decode in this thread, encode in the pool, hand out in order; at most `in_flight` stills wait."""
    frames = FrameRange(
        start_frame=stretch[0].frames.start_frame, stop_frame=stretch[-1].frames.stop_frame, step=job.config.every
    )
    framing = job.config.framing

    def still_of(picture: np.ndarray, frame_index: int, pts: int) -> _Still:
        framed = framing.apply(picture)
        data = encode(framed, job.config.image_format, quality=job.config.quality)
        return _Still(frame_index, pts, data, framed.shape[1], framed.shape[0])

    waiting: deque[Future[_Still]] = deque()
    batches = read_frames(job.video, frames, color=job.color, decoder=job.decoder, device=job.config.device)
    for batch in batches:
        for picture, frame_index, pts in zip(batch.data, batch.frame_indices.tolist(), batch.pts.tolist(), strict=True):
            waiting.append(pool.submit(still_of, picture, frame_index, pts))
            if len(waiting) > in_flight:
                yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _write_shard(job: ExtractJob, segment: Segment, stills: _Peekable, on_frames: Callable[[int], None] | None) -> None:
    with open_shard(job.folder, segment.shard, image_format=job.config.image_format) as handle:
        size = (0, 0)
        for still in stills.below(segment.frames.stop_frame):
            size = (still.width_px, still.height_px)
            handle.writer.add(job.clip.clip_id, still.frame_index, still.pts, still.data, _sample_facts(job, still))
            if on_frames is not None:
                on_frames(1)
    assert handle.info is not None
    shard: ShardInfo | None = handle.info
    if not handle.writer.entries:
        (job.folder / segment.shard).unlink()
        shard = None
    _write_marker(job, segment, shard, handle.writer.entries, size)


def _write_files(job: ExtractJob, segment: Segment, stills: _Peekable, on_frames: Callable[[int], None] | None) -> None:
    """Plain image files; the marker's entries give each file's size and hash, its "shard" is the folder itself."""
    entries: list[IndexEntry] = []
    size = (0, 0)
    for still in stills.below(segment.frames.stop_frame):
        size = (still.width_px, still.height_px)
        write_atomic(_file_of(job, still.frame_index), still.data)
        digest = hashlib.sha256(still.data).hexdigest()
        entries.append(
            IndexEntry(
                frame_index=still.frame_index, pts=still.pts, offset=0, size=len(still.data), span=0, sha256=digest
            )
        )
        if on_frames is not None:
            on_frames(1)
    fsync_folder(job.folder)
    info = ShardInfo(name=".", num_samples=len(entries), size_bytes=sum(entry.size for entry in entries), sha256="")
    _write_marker(job, segment, info if entries else None, entries, size)


def _file_of(job: ExtractJob, frame_index: int) -> Path:
    return job.folder / f"{key_of(job.clip.clip_id, frame_index)}.{job.config.image_format}"


def _sample_facts(job: ExtractJob, still: _Still) -> dict[str, Any]:
    clip = job.clip
    return {
        "clip": clip.clip_id,
        "scene": clip.scene,
        "weather": clip.weather,
        "modality": clip.modality,
        "time_of_day": clip.time_of_day,
        "frame_index": still.frame_index,
        "pts": still.pts,
        "time_base": str(job.video.time_base),
        "time_s": round(float(still.pts * job.video.time_base), 6),
        "width": still.width_px,
        "height": still.height_px,
    }


def _neighbours(todo: Sequence[Segment]) -> list[list[Segment]]:
    stretches: list[list[Segment]] = []
    for segment in todo:
        if stretches and stretches[-1][-1].number + 1 == segment.number:
            stretches[-1].append(segment)
        else:
            stretches.append([segment])
    return stretches


def _marker_path(job: ExtractJob, segment: Segment) -> Path:
    return job.folder / MARKERS / f"{segment.number:06d}.json"


def _write_marker(
    job: ExtractJob, segment: Segment, shard: ShardInfo | None, entries: list[IndexEntry], size: tuple[int, int]
) -> None:
    written = {entry.frame_index for entry in entries}
    frames = range(segment.frames.start_frame, segment.frames.stop_frame, segment.frames.step)
    payload = {
        "shard": None if shard is None else [shard.name, shard.num_samples, shard.size_bytes, shard.sha256],
        "entries": [[e.frame_index, e.pts, e.offset, e.size, e.span, e.sha256] for e in entries],
        "missing": [frame for frame in frames if frame not in written],
        "width_height": size,
    }
    write_atomic(_marker_path(job, segment), json.dumps(payload, separators=(",", ":")).encode())


def _read_marker(job: ExtractJob, segment: Segment) -> _Marker:
    path = _marker_path(job, segment)
    try:
        payload = json.loads(path.read_text(encoding="utf-8"))
        shard = payload["shard"]
        return _Marker(
            shard=None
            if shard is None
            else ShardInfo(name=shard[0], num_samples=shard[1], size_bytes=shard[2], sha256=shard[3]),
            entries=[
                IndexEntry(frame_index=row[0], pts=row[1], offset=row[2], size=row[3], span=row[4], sha256=row[5])
                for row in payload["entries"]
            ],
            missing=payload["missing"],
            width_px=payload["width_height"][0],
            height_px=payload["width_height"][1],
        )
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise OutputError(f"{path}: segment is not done ({error}); run the same extract command again") from error


def _is_done(job: ExtractJob, segment: Segment) -> bool:
    try:
        marker = _read_marker(job, segment)
    except OutputError:
        return False
    if marker.shard is None:
        return len(marker.missing) == len(segment.frames)
    if job.config.to == "shards":
        return _size_of(job.folder / marker.shard.name) == marker.shard.size_bytes
    return all(_size_of(_file_of(job, entry.frame_index)) == entry.size for entry in marker.entries)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def _gaps(job: ExtractJob, missing: Sequence[int]) -> tuple[Gap, ...]:
    gaps: list[list[int]] = []
    for frame in missing:
        if gaps and gaps[-1][-1] + job.config.every == frame:
            gaps[-1].append(frame)
        else:
            gaps.append([frame])
    return tuple(
        Gap(
            clip=job.clip.clip_id,
            first_frame=run[0],
            last_frame=run[-1],
            num_frames=len(run),
            reason="the decoder could not make a picture of it",
        )
        for run in gaps
    )


def _facts(job: ExtractJob, markers: Sequence[_Marker]) -> manifest.ClipFacts:
    first = next((marker for marker in markers if marker.entries), None)
    return manifest.ClipFacts(
        clip_id=job.clip.clip_id,
        scene=job.clip.scene,
        weather=job.clip.weather,
        modality=job.clip.modality,
        time_of_day=job.clip.time_of_day,
        time_base=str(job.video.time_base),
        nominal_fps=job.video.parts[0].nominal_fps,
        width_px=first.width_px if first else 0,
        height_px=first.height_px if first else 0,
        frame_step=job.config.every,
        clip_frames=job.video.num_frames,
        sources=_sources(job.video),
        extraction=job.config.to_json(),
        versions=job.versions,
        suspect=list(job.video.suspect),
    )


def _sources(video: ClipVideo) -> list[dict[str, Any]]:
    return [
        {
            "name": part.path.name,
            "size_bytes": part.size_bytes,
            "packets_sha256": part.packets_sha256,
            "num_frames": part.num_frames,
            "codec": part.codec,
            "pixel_format": part.pixel_format,
        }
        for part in video.parts
    ]


def _versions() -> dict[str, str]:
    versions = {}
    for name in _BYTES_LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _job_record(job: ExtractJob) -> dict[str, Any]:
    """What must be the same for a later run to go on: the config, the decoder, and the pictures of the source."""
    facts = {name: getattr(job.clip, name) for name in ("scene", "weather", "modality", "time_of_day")}
    return {
        "format": _JOB_FORMAT,
        "clip": job.clip.clip_id,
        "facts": facts,
        "config": job.config.to_json(),
        "decoder": job.decoder,
        "sources": _sources(job.video),
        "versions": job.versions,
    }


def _going_on(job: ExtractJob) -> ExtractJob:
    """The job as an earlier run began it, after checking that going on would give the bytes that run would have given."""
    path = job.folder / JOB_NAME
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        old_sources = [(source["packets_sha256"], source["num_frames"], source["name"]) for source in before["sources"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{path}: damaged ({error}); start anew with --overwrite") from error
    now = json.loads(_json_bytes(_job_record(job)))
    # Other library versions may give other bytes; that matters only while something is left to write.
    parts = ["format", "config", "decoder", "facts"] + (["versions"] if pending(job) else [])
    for part in parts:
        if before.get(part) != now[part]:
            raise OutputError(
                f"{job.folder}: was extracted with {_difference(part, before.get(part), now[part])}; "
                "use the same, another --out, or --overwrite to start anew"
            )
    if len(old_sources) != len(job.video.parts):
        raise OutputError(
            f"{job.folder}: was extracted from {len(old_sources)} files, now {len(job.video.parts)}; "
            "use another --out, or --overwrite to start anew"
        )
    for (sha256, num_frames, name), part_now in zip(old_sources, job.video.parts, strict=True):
        if sha256 != part_now.packets_sha256:
            raise OutputError(
                f"{job.folder}: was extracted from another {name} ({num_frames} frames, now {part_now.num_frames}); "
                "use another --out, or --overwrite to start anew"
            )
    return replace(job, versions=before["versions"])


def _difference(part: str, before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted({*before, *now}):
            if before.get(name) != now.get(name):
                return f"{name} {before.get(name)}, not {now.get(name)}"
    return f"{part} {before}, not {now}"


def _clear(folder: Path) -> None:
    """Delete an extraction: its marks of completeness first, so that a kill in the middle leaves nothing that looks finished."""
    if not folder.is_dir():
        return
    marks = [folder / name for name in (manifest.CLIPS_NAME, sample_index.INDEX_NAME)]
    rest = [
        path
        for path in folder.iterdir()
        if path.suffix in (".tar", ".idx")
        or path.name in (manifest.CSV_NAME, manifest.PARQUET_NAME, manifest.WIDS_NAME, GAPS_NAME)
        or (path.suffix in (".jpg", ".png", ".webp") and path.name.startswith(f"{folder.name}_"))
    ]
    markers = sorted((folder / MARKERS).glob("*.json")) if (folder / MARKERS).is_dir() else []
    for path in [*marks, *markers, *rest, folder / JOB_NAME]:
        path.unlink(missing_ok=True)


def _json_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def default_threads() -> int:
    """Encoding threads that suit this machine: one per core it may use."""
    return max(1, len(os.sched_getaffinity(0)))
