"""Extraction: the frames of one clip into shards, a segment at a time, so that a killed run goes on where it stopped.

A segment is done when its marker stands in `segments/`; the marker is written after the shard's rename. `finalize` turns all
markers into the index, the manifest and the gaps, and writes clips.json last. Shards depend on the clip, the config and the
codec libraries alone: not on workers, threads, or how often the work was interrupted.

What a frame is worth is said in its mark: suspect where it follows damage, repeat where it shows the picture before it once more,
frozen where it hardly differs from that (a thermal camera's shutter does this every few minutes).
"""

import base64
import hashlib
import importlib.metadata
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from infraredcity import index as sample_index
from infraredcity import manifest
from infraredcity.catalog import Clip, ColorMode
from infraredcity.dataset import GAPS_NAME, JOB_NAME, MARKERS, write_part
from infraredcity.errors import OutputError, VideoDecodeError
from infraredcity.images import encode, invert, is_inverted, mean_difference, suffix_of
from infraredcity.index import FROZEN, REPEAT, SUSPECT, IndexEntry, ShardInfo, key_of
from infraredcity.plan import ExtractConfig, Segment, segments
from infraredcity.shard_writer import open_shard
from infraredcity.storage import fsync_folder, remove_temporaries, write_atomic
from infraredcity.tone import LevelCounts, ToneMap, fit_tone
from infraredcity.video import ClipVideo, Decoded, DecoderName, FrameRange, choose_decoder, decode, open_clip

HANGS_NAME = "hangs.json"
_JOB_FORMAT = "infraredcity-extract-2"
_BYTES_LIBRARIES = ("av", "numpy", "opencv-python-headless", "simplejpeg")
_FROZEN_SHARE = 0.1
"""A frame is frozen when it differs from the one before by at most this share of a calm difference: even the noise is missing."""
_CALM_PERCENTILE = 10
"""A calm difference: that of the clip's calmest tenth, so that a car that waits at a light is no frozen picture."""
_BATCH_FRAMES = 4
"""Frames that go to an encoding thread together, since every hand-over costs a switch between threads."""
_GLANCE_PX = 32
"""Two samples are compared by about this many pixels each way, taken at equal distances."""
_NO_PICTURE = "the decoder could not make a picture of it"
_DROPPED = "suspect, since it follows damage, and left out as asked"


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
    device: str
    """"cpu" or "cuda:N"."""
    hangs: "tuple[Hang, ...]" = ()
    tone: ToneMap | None = None
    """How counts become levels; None where there are no counts, where they are kept, or not yet (see `needs_tone`)."""

    @property
    def color(self) -> ColorMode:
        """Channels of the stills: as configured, else gray for infrared and deep clips and rgb for other visible ones."""
        return self.config.color or ("gray" if self.clip.modality == "infrared" or self.is_deep else "rgb")

    @property
    def is_deep(self) -> bool:
        """Whether the clip holds counts of more than 8 bits."""
        return self.video.parts[0].is_deep

    @property
    def needs_tone(self) -> bool:
        """Whether the tone has to be fitted to the clip's frames before anything can be written."""
        return self.is_deep and self.config.image_format != "png16" and self.tone is None

    @property
    def is_inverted(self) -> bool:
        """Whether levels are turned around."""
        return self.clip.modality == "infrared" and is_inverted(self.clip.polarity, self.config.polarity)

    def first_decoded(self, frame_index: int) -> int:
        """The first frame at or after `frame_index` that is not given up because of a hang."""
        for hang in sorted(self.hangs, key=lambda each: each.start_frame):
            if hang.start_frame <= frame_index < hang.stop_frame:
                frame_index = hang.stop_frame
        return frame_index

    @property
    def can_start_anywhere(self) -> bool:
        """Whether a worker may begin in the middle of the clip without decoding what comes before."""
        return self.decoder == "pyav" and all(part.is_seekable for part in self.video.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hang:
    """Frames, half-open, that are not decoded since the decoder hung at the first of them."""

    start_frame: int
    stop_frame: int
    reason: str


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
        gaps: Frames that could not be decoded, or were left out.
        num_suspect: Samples that follow damage.
        num_repeats: Samples that show the picture before them once more.
        num_frozen: Samples that hardly differ from the one before.
        tone: Counts that became black and white, for clips of more than 8 bits.
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
    num_suspect: int
    num_repeats: int
    num_frozen: int
    tone: ToneMap | None
    expected_frames: int | None
    clip_frames: int
    decoder: str
    suspect: tuple[str, ...]

    @property
    def has_expected_count(self) -> bool:
        """Whether the clip holds as many frames as the catalogue says, where it says."""
        return self.expected_frames is None or self.expected_frames == self.clip_frames


def prepare(clip: Clip, config: ExtractConfig, out: Path, *, overwrite: bool = False) -> ExtractJob:
    """Probe the clip, plan its segments and look what stands in `out`/<clip_id>. The caller holds the folder's lock.

    The job may still need its tone; `claim` it before segments are written.

    Args:
        clip: The clip, with its files.
        config: What to write.
        out: Folder that gets one folder per clip.
        overwrite: Delete what an earlier extraction left in the clip's folder.

    Raises:
        CatalogError: The clip's file is missing.
        VideoDecodeError: It is no video, the decoder cannot be trusted with it, or it is no clip for the asked format or tone.
        OutputError: The folder holds an extraction with other settings or from another file.
        MissingExtraError: A package that writing the manifest needs is missing.
    """
    manifest.check_packages()
    folder = out / clip.clip_id
    video = open_clip(clip.existing_paths(), kept_in=folder)
    decoder, device = choose_decoder(video, config.decoder, config.device)
    job = ExtractJob(
        clip=clip,
        video=video,
        config=config,
        decoder=decoder,
        device=device,
        folder=folder,
        segments=segments(clip.clip_id, video.num_frames, config),
        versions=_versions(),
        tone=None if config.tone_range is None else ToneMap(low=config.tone_range[0], high=config.tone_range[1]),
    )
    _check_depth(job)
    # A run that finished no segment (a crop outside the picture, a device that is not there) binds nobody to its settings.
    stands = (folder / JOB_NAME).exists()
    if overwrite or (stands and not any((folder / MARKERS).glob("*.json"))):
        _clear(folder)
    elif stands:
        job = _going_on(job)
    (folder / MARKERS).mkdir(exist_ok=True)
    remove_leftovers(folder)
    return replace(job, hangs=_read_hangs(folder))


def claim(job: ExtractJob) -> None:
    """Bind the clip's folder to this job's settings."""
    assert not job.needs_tone
    if not (job.folder / JOB_NAME).exists():
        write_atomic(job.folder / JOB_NAME, _json_bytes(_job_record(job)))


def fit_clip_tone(job: ExtractJob, on_alive: Callable[[int], None] = lambda _frame: None) -> ToneMap:
    """Look at all frames that will be written and fit the line from their counts to levels; masked boxes do not count."""
    counts = LevelCounts()
    frames = _covering(job.segments, job.config.every)
    for decoded in _decoded(job, frames, on_alive):
        counts.add(replace(job.config.framing, size=None).apply(decoded.picture("gray")))
    if not counts.histogram.any():
        raise VideoDecodeError(
            f"clip {job.clip.clip_id}: no frame could be decoded, so there is nothing to fit a tone to"
        )
    return fit_tone(counts.histogram, job.config.tone or "percentile")


def with_tone(job: ExtractJob, tone: ToneMap) -> ExtractJob:
    """The job with its tone."""
    return replace(job, tone=tone)


def check_whole(job: ExtractJob) -> None:
    """VideoDecodeError if a frame of the finished segments is missing or suspect."""
    markers = [_read_marker(job, segment) for segment in job.segments]
    gaps = _gaps(job, markers)
    suspects = [entry.frame_index for marker in markers for entry in marker.entries if entry.mark & SUSPECT]
    if gaps:
        raise VideoDecodeError(
            f"clip {job.clip.clip_id}: {sum(gap.num_frames for gap in gaps)} frames are missing, first {gaps[0].first_frame} to "
            f"{gaps[0].last_frame} ({gaps[0].reason}); --strict takes no damaged clip"
        )
    if suspects:
        raise VideoDecodeError(
            f"clip {job.clip.clip_id}: {len(suspects)} frames follow damage, the first is {suspects[0]}; "
            "--strict takes no damaged clip"
        )


def with_hang(job: ExtractJob, hang: Hang) -> ExtractJob:
    """The job with one more stretch that is not decoded, remembered beside the output for later runs."""
    hangs = (*job.hangs, hang)
    write_atomic(job.folder / HANGS_NAME, _json_bytes([asdict(each) for each in hangs]))
    return replace(job, hangs=hangs)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files that killed writers left in a clip's folder. The caller holds its lock."""
    for place in (folder, folder / MARKERS):
        if place.is_dir():
            remove_temporaries(place)


def pending(job: ExtractJob) -> list[Segment]:
    """The segments that still have to be written, in order: those without a marker, or whose shard is gone or of another size."""
    return [segment for segment in job.segments if not _is_done(job, segment)]


def run_segments(
    job: ExtractJob,
    todo: Sequence[Segment],
    *,
    threads: int,
    on_frames: Callable[[int], None] | None = None,
    on_alive: Callable[[int], None] = lambda _frame: None,
    decoding: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Write some segments of a job, decoding each stretch of neighbouring ones in one pass.

    Args:
        job: From `prepare`.
        todo: Segments in ascending order.
        threads: Encoding threads beside the decoder.
        on_frames: Called with the number of frames just written.
        on_alive: Called with the index of each frame that comes out of the decoder.
        decoding: Entered while the decoder is waited for.

    Raises:
        VideoDecodeError, ImageError, OutputError: As reading, encoding and writing do; what was finished stays.
    """
    with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="encode") as pool:
        for stretch in _neighbours(todo):
            dropped: set[int] = set()
            stills = _Peekable(_encoded(job, stretch, pool, dropped, on_alive, decoding, in_flight=threads * 2))
            for segment in stretch:
                if job.config.to == "shards":
                    _write_shard(job, segment, stills, dropped, on_frames)
                else:
                    _write_files(job, segment, stills, dropped, on_frames)


def finalize(job: ExtractJob, *, new_frames: int) -> ExtractReport:
    """Turn a job whose segments are all done into index, manifest, gaps and clips.json.

    Args:
        job: From `prepare`.
        new_frames: How many frames the present run wrote, for the report.

    Raises:
        OutputError: A segment is not done yet.
    """
    markers = [_read_marker(job, segment) for segment in job.segments]
    gaps = _gaps(job, markers)
    marks = _marks(job, markers)
    shards: list[tuple[ShardInfo, list[IndexEntry]]] = []
    place = 0
    for marker in markers:
        if marker.shard is not None:
            of_shard = marks[place : place + len(marker.entries)].tolist()
            entries = [replace(entry, mark=mark) for entry, mark in zip(marker.entries, of_shard, strict=True)]
            shards.append((marker.shard, entries))
            place += len(entries)
    frame_indices = np.array([entry.frame_index for _, entries in shards for entry in entries], np.int64)
    facts = _facts(job, markers, marks)
    index = sample_index.from_entries(
        clip_id=job.clip.clip_id,
        frame_step=job.config.every,
        image_format=suffix_of(job.config.image_format),
        shards=shards,
        run_ids=sample_index.run_ids(
            frame_indices, frame_step=job.config.every, break_frames=job.video.break_frames, marks=marks
        ),
        dup_of=sample_index.repeated(job.clip.clip_id, frame_indices, marks),
    )
    write_atomic(job.folder / GAPS_NAME, _json_bytes([asdict(gap) for gap in gaps]))
    clips = {job.clip.clip_id: facts}
    if job.config.to == "shards":
        write_part(job.folder, ".", index, clips)
    else:
        manifest.write_columns(job.folder, manifest.columns(index, clips))
        manifest.write_clips(job.folder, [facts])
    return ExtractReport(
        clip=job.clip.clip_id,
        folder=str(job.folder),
        num_frames=len(index),
        new_frames=new_frames,
        num_shards=len(shards) if job.config.to == "shards" else 0,
        size_bytes=sum(info.size_bytes for info, _ in shards),
        gaps=gaps,
        num_suspect=facts.num_suspect,
        num_repeats=facts.num_repeats,
        num_frozen=facts.num_frozen,
        tone=job.tone,
        expected_frames=job.clip.expected_frames,
        clip_frames=job.video.num_frames,
        decoder=job.decoder,
        suspect=tuple(facts.suspect),
    )


@dataclass(frozen=True, slots=True)
class _Still:
    """One encoded frame on its way into a shard."""

    frame_index: int
    pts: int
    data: bytes
    sha256: str
    width_px: int
    height_px: int
    is_suspect: bool
    glance: np.ndarray


@dataclass(frozen=True, slots=True)
class _Marker:
    """What a finished segment holds; `shard` is None when none of its frames could be decoded.

    `differences` says how far each sample is from the one before, None where that one is missing or of another size; the first
    sample's is known only beside the segment before, so the glances of the first and the last sample are kept.
    """

    shard: ShardInfo | None
    entries: list[IndexEntry]
    differences: list[float | None]
    first_glance: np.ndarray | None
    last_glance: np.ndarray | None
    missing: list[int]
    dropped: list[int]
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
    job: ExtractJob,
    stretch: Sequence[Segment],
    pool: ThreadPoolExecutor,
    dropped: set[int],
    on_alive: Callable[[int], None],
    decoding: Callable[[], AbstractContextManager[None]],
    *,
    in_flight: int,
) -> Iterator[_Still]:
    """Decode in this thread, convert and encode in the pool, hand out in order; at most `in_flight` batches wait."""
    still_of = _StillMaker(job)
    waiting: deque[Future[list[_Still]]] = deque()
    batch: list[Decoded] = []
    frames = iter(_decoded(job, _covering(stretch, job.config.every), on_alive))
    while True:
        with decoding():
            decoded = next(frames, None)
        if decoded is not None and decoded.is_suspect and job.config.suspect == "drop":
            dropped.add(decoded.frame_index)
            continue
        if decoded is not None:
            batch.append(decoded)
        if len(batch) == _BATCH_FRAMES or (batch and decoded is None):
            waiting.append(pool.submit(still_of.all, batch))
            batch = []
        while waiting and (decoded is None or len(waiting) > in_flight):
            yield from waiting.popleft().result()
        if decoded is None:
            return


def _decoded(job: ExtractJob, frames: FrameRange, on_alive: Callable[[int], None]) -> Iterator[Decoded]:
    avoid = [(hang.start_frame, hang.stop_frame) for hang in job.hangs]
    return decode(job.video, frames, decoder=job.decoder, device=job.device, avoid=avoid, on_frame=on_alive)


def _covering(stretch: Sequence[Segment], every: int) -> FrameRange:
    return FrameRange(start_frame=stretch[0].frames.start_frame, stop_frame=stretch[-1].frames.stop_frame, step=every)


class _StillMaker:
    """From a decoded frame to an encoded still, in any thread."""

    def __init__(self, job: ExtractJob) -> None:
        self._color = job.color
        self._framing = job.config.framing
        self._tone = job.tone
        self._is_inverted = job.is_inverted
        self._image_format = job.config.image_format
        self._quality = job.config.quality

    def all(self, batch: list[Decoded]) -> list[_Still]:
        """The stills of some frames; each frame's memory is given back as soon as its still is made."""
        return [self(batch.pop(0)) for _ in range(len(batch))]

    def __call__(self, decoded: Decoded) -> _Still:
        picture = self._framing.apply(decoded.picture(self._color))
        if self._tone is not None:
            picture = self._tone.apply(picture)
        if self._is_inverted:
            picture = invert(picture)
        data = encode(picture, self._image_format, quality=self._quality)
        height, width = picture.shape[:2]
        return _Still(
            frame_index=decoded.frame_index,
            pts=decoded.pts,
            data=data,
            sha256=hashlib.sha256(data).hexdigest(),
            width_px=width,
            height_px=height,
            is_suspect=decoded.is_suspect,
            glance=picture[:: -(-height // _GLANCE_PX), :: -(-width // _GLANCE_PX), 0].copy(),
        )


class _MarkerBuilder:
    """Collects what a segment's marker will say, sample by sample."""

    def __init__(self, job: ExtractJob, segment: Segment) -> None:
        self._job = job
        self._segment = segment
        self._suspects: list[int] = []
        self._differences: list[float | None] = []
        self._first: _Still | None = None
        self._last: _Still | None = None

    def add(self, still: _Still) -> None:
        """One more sample."""
        if still.is_suspect:
            self._suspects.append(still.frame_index)
        last = self._last
        is_next = last is not None and last.frame_index == still.frame_index - self._job.config.every
        self._differences.append(_difference(last.glance, still.glance) if last is not None and is_next else None)
        self._first = self._first or still
        self._last = still

    def write(self, shard: ShardInfo | None, entries: list[IndexEntry], dropped: set[int]) -> None:
        """The segment is done."""
        written = {entry.frame_index for entry in entries}
        frames = self._segment.frames
        missing = [frame for frame in range(frames.start_frame, frames.stop_frame, frames.step) if frame not in written]
        payload = {
            "shard": None if shard is None else [shard.name, shard.num_samples, shard.size_bytes, shard.sha256],
            "entries": [[e.frame_index, e.pts, e.offset, e.size, e.span, e.sha256] for e in entries],
            "suspect": self._suspects,
            "differences": self._differences,
            "glances": [_packed(self._first), _packed(self._last)],
            "missing": missing,
            "dropped": [frame for frame in missing if frame in dropped],
            "width_height": [0, 0] if self._last is None else [self._last.width_px, self._last.height_px],
        }
        write_atomic(_marker_path(self._job, self._segment), json.dumps(payload, separators=(",", ":")).encode())


def _difference(before: np.ndarray, now: np.ndarray) -> float | None:
    """Mean absolute difference of two glances, in levels or counts."""
    if before.shape != now.shape or before.dtype != now.dtype:
        return None
    return round(mean_difference(before, now), 4)


def _packed(still: _Still | None) -> list[Any] | None:
    if still is None:
        return None
    glance = still.glance
    return [glance.dtype.str, list(glance.shape), base64.b64encode(glance.tobytes()).decode("ascii")]


def _unpacked(packed: list[Any] | None) -> np.ndarray | None:
    if packed is None:
        return None
    dtype, shape, data = packed
    return np.frombuffer(base64.b64decode(data), dtype).reshape(shape)


def _write_shard(
    job: ExtractJob,
    segment: Segment,
    stills: _Peekable,
    dropped: set[int],
    on_frames: Callable[[int], None] | None,
) -> None:
    marker = _MarkerBuilder(job, segment)
    facts_of = _facts_maker(job)
    with open_shard(job.folder, segment.shard, image_format=suffix_of(job.config.image_format)) as handle:
        for still in stills.below(segment.frames.stop_frame):
            marker.add(still)
            handle.writer.add(
                job.clip.clip_id,
                still.frame_index,
                still.pts,
                still.data,
                facts_of(still),
                image_sha256=still.sha256,
            )
            if on_frames is not None:
                on_frames(1)
    assert handle.info is not None
    shard: ShardInfo | None = handle.info
    if not handle.writer.entries:
        (job.folder / segment.shard).unlink()
        shard = None
    marker.write(shard, handle.writer.entries, dropped)


def _write_files(
    job: ExtractJob,
    segment: Segment,
    stills: _Peekable,
    dropped: set[int],
    on_frames: Callable[[int], None] | None,
) -> None:
    """Plain image files; the marker's entries give each file's size and hash, its "shard" is the folder itself."""
    marker = _MarkerBuilder(job, segment)
    entries: list[IndexEntry] = []
    for still in stills.below(segment.frames.stop_frame):
        marker.add(still)
        write_atomic(_file_of(job, still.frame_index), still.data)
        entries.append(
            IndexEntry(
                frame_index=still.frame_index,
                pts=still.pts,
                offset=0,
                size=len(still.data),
                span=0,
                sha256=still.sha256,
            )
        )
        if on_frames is not None:
            on_frames(1)
    fsync_folder(job.folder)
    info = ShardInfo(name=".", num_samples=len(entries), size_bytes=sum(entry.size for entry in entries), sha256="")
    marker.write(info if entries else None, entries, dropped)


def _file_of(job: ExtractJob, frame_index: int) -> Path:
    return job.folder / f"{key_of(job.clip.clip_id, frame_index)}.{suffix_of(job.config.image_format)}"


def _facts_maker(job: ExtractJob) -> Callable[[_Still], bytes]:
    """What the json member of a sample says; most of it is the same for all samples of a clip."""
    clip, base = job.clip, job.video.time_base
    facts = {
        "clip": clip.clip_id,
        "scene": clip.scene,
        "weather": clip.weather,
        "modality": clip.modality,
        "time_of_day": clip.time_of_day,
    }
    before = json.dumps(facts, separators=(",", ":"))[:-1]

    def told(still: _Still) -> bytes:
        time_s = round(still.pts * base.numerator / base.denominator, 6)
        return (
            f'{before},"frame_index":{still.frame_index},"pts":{still.pts},"time_base":"{base}","time_s":{time_s!r},'
            f'"width":{still.width_px},"height":{still.height_px}}}'
        ).encode()

    return told


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


def _read_marker(job: ExtractJob, segment: Segment) -> _Marker:
    path = _marker_path(job, segment)
    try:
        payload = json.loads(path.read_text(encoding="utf-8"))
        shard = payload["shard"]
        suspects = set(payload["suspect"])
        return _Marker(
            shard=None
            if shard is None
            else ShardInfo(name=shard[0], num_samples=shard[1], size_bytes=shard[2], sha256=shard[3]),
            entries=[
                IndexEntry(
                    frame_index=row[0],
                    pts=row[1],
                    offset=row[2],
                    size=row[3],
                    span=row[4],
                    sha256=row[5],
                    mark=SUSPECT if row[0] in suspects else 0,
                )
                for row in payload["entries"]
            ],
            differences=payload["differences"],
            first_glance=_unpacked(payload["glances"][0]),
            last_glance=_unpacked(payload["glances"][1]),
            missing=payload["missing"],
            dropped=payload["dropped"],
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


def _gaps(job: ExtractJob, markers: Sequence[_Marker]) -> tuple[Gap, ...]:
    """Missing frames as stretches of one reason each."""
    gaps: list[Gap] = []
    for marker in markers:
        dropped = set(marker.dropped)
        for frame in marker.missing:
            hang = next((each.reason for each in job.hangs if each.start_frame <= frame < each.stop_frame), _NO_PICTURE)
            reason = _DROPPED if frame in dropped else hang
            last = gaps[-1] if gaps else None
            if last is not None and last.last_frame + job.config.every == frame and last.reason == reason:
                gaps[-1] = replace(last, last_frame=frame, num_frames=last.num_frames + 1)
            else:
                gaps.append(
                    Gap(clip=job.clip.clip_id, first_frame=frame, last_frame=frame, num_frames=1, reason=reason)
                )
    return tuple(gaps)


def _marks(job: ExtractJob, markers: Sequence[_Marker]) -> np.ndarray:
    """u8 [N], the mark of every sample."""
    entries = [entry for marker in markers for entry in marker.entries]
    differences: list[float | None] = []
    last_glance: np.ndarray | None = None
    last_frame = -1
    for marker in markers:
        if not marker.entries:
            continue
        of_segment = list(marker.differences)
        if last_glance is not None and marker.first_glance is not None:
            is_next = marker.entries[0].frame_index == last_frame + job.config.every
            of_segment[0] = _difference(last_glance, marker.first_glance) if is_next else None
        differences += of_segment
        last_glance, last_frame = marker.last_glance, marker.entries[-1].frame_index
    marks = np.array([entry.mark for entry in entries], np.uint8)
    for row in range(1, len(entries)):
        if differences[row] is not None and entries[row].sha256 == entries[row - 1].sha256:
            marks[row] |= REPEAT
            differences[row] = None
    known = [difference for difference in differences if difference is not None]
    still_below = _FROZEN_SHARE * float(np.percentile(known, _CALM_PERCENTILE)) if known else 0.0
    marks[[difference is not None and difference <= still_below for difference in differences]] |= FROZEN
    return marks


def _facts(job: ExtractJob, markers: Sequence[_Marker], marks: np.ndarray) -> manifest.ClipFacts:
    suspect = list(job.video.suspect)
    if job.color == "gray" and not job.is_deep and any(part.has_color for part in job.video.parts):
        suspect.append("its pictures have colour, of which gray stills keep the luma alone; --color rgb keeps it")
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
        suspect=suspect,
        num_suspect=int(np.count_nonzero(marks & SUSPECT)),
        num_repeats=int(np.count_nonzero(marks & REPEAT)),
        num_frozen=int(np.count_nonzero(marks & FROZEN)),
        tone=None if job.tone is None else job.tone.to_json(),
        is_inverted=job.is_inverted,
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
    facts = {name: getattr(job.clip, name) for name in ("scene", "weather", "modality", "time_of_day", "polarity")}
    return {
        "format": _JOB_FORMAT,
        "clip": job.clip.clip_id,
        "facts": facts,
        "config": job.config.to_json(),
        "decoder": job.decoder,
        "tone": None if job.tone is None else job.tone.to_json(),
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
                f"{job.folder}: was extracted with {_setting(part, before.get(part), now[part])}; "
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
    tone = before.get("tone")
    return replace(job, versions=before["versions"], tone=None if tone is None else ToneMap.from_json(tone))


def _setting(part: str, before: Any, now: Any) -> str:
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
        or path.name in (manifest.CSV_NAME, manifest.PARQUET_NAME, manifest.WIDS_NAME, GAPS_NAME, HANGS_NAME)
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


def _check_depth(job: ExtractJob) -> None:
    """Counts of more than 8 bits and what was asked for them must go together."""
    names = {part.pixel_format for part in job.video.parts}
    if len({part.is_deep for part in job.video.parts}) > 1:
        raise VideoDecodeError(
            f"clip {job.clip.clip_id}: its chunks are {', '.join(sorted(names))}; chunks of one clip must have one depth"
        )
    wants_counts = job.config.image_format == "png16" or job.config.tone is not None
    if wants_counts and not job.is_deep:
        option = "--format png16" if job.config.image_format == "png16" else "--tone"
        raise VideoDecodeError(
            f"clip {job.clip.clip_id}: {option} is for gray video of more than 8 bits, and this is {', '.join(names)}; leave it out"
        )
    if job.is_deep and job.config.color == "rgb":
        raise VideoDecodeError(f"clip {job.clip.clip_id}: {', '.join(names)} has no colour; use --color gray or auto")


def _read_hangs(folder: Path) -> tuple[Hang, ...]:
    path = folder / HANGS_NAME
    if not path.exists():
        return ()
    try:
        return tuple(Hang(**each) for each in json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise OutputError(f"{path}: damaged ({error}); start anew with --overwrite") from error
