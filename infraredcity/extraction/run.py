"""Extraction: the frames of one clip into shards, a segment at a time, so that a killed run goes on where it stopped.

A segment is done when its record is in `segments/`; the record is written after the shard's rename. `finalize` merges all
records into the index, the manifest and the gaps, and writes clips.json last. Shards depend on the clip, the config and the
codec libraries alone: not on workers, threads, machines, or how often the work was interrupted.

What a frame is worth is said in its mark: suspect where it follows damage, repeat where it shows the picture before it once more,
frozen where it hardly differs from that (a thermal camera's shutter does this every few minutes).
"""

import hashlib
import importlib.metadata
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass, replace

import numpy as np

from infraredcity.clips import Clip
from infraredcity.datasets import clip_facts, manifest
from infraredcity.datasets.dataset import GAPS_NAME, JOB_NAME, SEGMENTS_FOLDER
from infraredcity.errors import OutputError, VideoDecodeError
from infraredcity.extraction import segment_record
from infraredcity.extraction.config import ExtractConfig
from infraredcity.extraction.finish import ExtractReport, SkippedRange, difference, gaps_of, merge
from infraredcity.extraction.segment_record import SegmentHead, SegmentRows
from infraredcity.extraction.segments import Segment, segment_of, segments
from infraredcity.extraction.spec import (
    JobSpec,
    describe_difference,
    describe_other_source,
    frames_sha256,
    read_spec,
    sources_of,
)
from infraredcity.files.atomic import TEMPORARY_PREFIX, remove_temporaries, write_atomic
from infraredcity.files.path import AnyPath, RemotePath, size_of, sizes_in
from infraredcity.files.records import read_json
from infraredcity.shards import index_file, sample_json, sidecars
from infraredcity.shards.index import IndexEntry, ShardInfo
from infraredcity.shards.names import key_of
from infraredcity.shards.writer import open_shard
from infraredcity.stills.formats import FORMATS, SUFFIXES, encode, suffix_of
from infraredcity.stills.framing import invert
from infraredcity.stills.tone import LevelCounts, ToneMap, fit_tone
from infraredcity.threads import num_cores
from infraredcity.video import (
    ClipVideo,
    Decoded,
    DecoderName,
    FrameRange,
    choose_decoder,
    decode,
    find_decoder,
    open_clip,
)

_SKIPPED_FOLDER = "hangs"
"""Folder of them: what each part looks into must not grow with the shards that lie beside it."""
_BYTES_LIBRARIES = {
    "av": ("av",),
    "numpy": ("numpy",),
    "opencv": ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python"),
    "simplejpeg": ("simplejpeg",),
}
"""Libraries that shape the bytes of every run, and the packages that each may come in; a decoder may bring more."""
_HAS_COLOR = "its pictures have colour, of which gray stills keep the luma alone; --color rgb keeps it"
_BATCH_FRAMES = 4
"""Frames that go to an encoding thread together, since every hand-over costs a switch between threads."""
_GLANCE_PX = 32
"""Two samples are compared by about this many pixels each way, taken at equal distances."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExtractJob:
    """One clip's extraction, ready to run: what to read, how, and where it goes; plain data that other processes can take."""

    clip: Clip
    video: ClipVideo
    config: ExtractConfig
    decoder: DecoderName
    folder: AnyPath
    segments: tuple[Segment, ...]
    """Those that are to be done: of the whole clip, or of a part."""
    versions: Mapping[str, str]
    device: str
    """"cpu" or "cuda:N"."""
    skipped: tuple[SkippedRange, ...] = ()
    tone: ToneMap | None = None
    """How counts become levels; None where there are no counts, where they are kept, or not yet (see `needs_tone`)."""
    identity: str = ""
    """Identity of the job spec in the folder; empty before `bind`."""

    @property
    def is_deep(self) -> bool:
        """Whether the clip holds counts of more than 8 bits."""
        return self.video.parts[0].is_deep

    @property
    def needs_tone(self) -> bool:
        """Whether the tone has to be fitted to the clip's frames before anything can be written."""
        return self.is_deep and not FORMATS[self.config.image_format].is_deep and self.tone is None

    def make_spec(self) -> JobSpec:
        """Return the job spec; this hashes the times of all frames of the clip."""
        spec = JobSpec(
            clip=replace(self.clip, paths=(), expected_frames=None),
            config=replace(self.config, device=self.device.partition(":")[0]),
            decoder=self.decoder,
            tone=self.tone,
            sources=sources_of(self.video),
            versions=self.versions,
            time_base=str(self.video.time_base),
            nominal_fps=self.video.parts[0].nominal_fps,
            num_frames=self.video.num_frames,
            frames_sha256=frames_sha256(self.video),
            break_frames=self.video.break_frames,
            is_deep=self.is_deep,
            suspect=self.video.suspect,
            notes=self.video.notes,
        )
        if spec.color == "gray" and not self.is_deep and any(part.has_color for part in self.video.parts):
            return replace(spec, suspect=(*spec.suspect, _HAS_COLOR))
        return spec

    def first_decoded(self, frame_index: int) -> int:
        """Return the first frame at or after `frame_index` that is not skipped."""
        for skipped in sorted(self.skipped, key=lambda each: each.start_frame):
            if skipped.start_frame <= frame_index < skipped.stop_frame:
                frame_index = skipped.stop_frame
        return frame_index

    @property
    def can_start_anywhere(self) -> bool:
        """Whether a worker may begin in the middle of the clip without decoding what comes before."""
        return find_decoder(self.decoder).can_start_anywhere and all(part.is_seekable for part in self.video.parts)


def prepare(clip: Clip, config: ExtractConfig, out: AnyPath, *, overwrite: bool = False) -> ExtractJob:
    """Probe the clip, plan its segments and look what stands in `out`/<clip_id>. The caller is the only one who writes there.

    The job may still need its tone; `bind` it before segments are written.

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
    video = open_clip(clip.existing_paths(), kept_in=folder, stream=config.stream)
    job = _job(clip, video, config, folder, *choose_decoder(video, config.decoder, config.device))
    job = replace(job, segments=segments(clip.clip_id, job.video.num_frames, config))
    # A run that finished no segment (a crop outside the picture, a device that is not there) binds nobody to its settings.
    stands = (folder / JOB_NAME).exists()
    if overwrite or (stands and not any_done(folder)):
        _clear(folder)
    elif stands:
        job = _going_on(job)
    (folder / SEGMENTS_FOLDER).mkdir(exist_ok=True)
    return replace(job, skipped=read_skipped(folder))


def join(clip: Clip, planned: JobSpec, out: AnyPath, numbers: Sequence[int]) -> ExtractJob:
    """The job of some segments of a clip whose extraction was planned, perhaps on another machine; others may write there too.

    Args:
        clip: The clip, with its files as they are named here.
        planned: The job spec in the plan.
        out: Folder that has one folder per clip.
        numbers: The segments to do.

    Raises:
        CatalogError: The clip's file is missing.
        VideoDecodeError: It is no video.
        OutputError: The file differs from the one that was planned, the decoder or the device that was planned cannot be had here,
            the libraries here are other ones, or the folder belongs to another job.
    """
    folder = out / clip.clip_id
    bound = read_spec(folder)
    if bound is None:
        planned.write(folder)  # the same bytes, whichever part is first
    elif bound.identity != planned.identity:
        difference = describe_difference(bound, planned, with_versions=True) or describe_other_source(bound, planned)
        raise OutputError(
            f"{folder}: belongs to another job: {difference or 'another scan'}; use the plan that was made for it, or another --out"
        )
    video = open_clip(clip.existing_paths(), kept_in=folder, stream=planned.config.stream)
    here = replace(
        planned, sources=sources_of(video), time_base=str(video.time_base), frames_sha256=frames_sha256(video)
    )
    other = describe_other_source(planned, here)
    if other is not None:  # before anything is said of the decoder: what it can do depends on the file
        names = ", ".join(str(path) for path in clip.paths)
        raise OutputError(f"clip {clip.clip_id}: {names} here is not what was planned but {other}; copy the clip again")
    decoder = find_decoder(planned.decoder)
    for part in video.parts:
        reason = decoder.why_not(part, planned.config.device)
        if reason is not None:
            raise OutputError(
                f"clip {clip.clip_id}: was planned with {planned.decoder} on device {planned.config.device}, and here {reason}; "
                f"run the part on a machine that can, or plan again with {decoder.instead}"
            )
    job = _job(clip, video, planned.config, folder, planned.decoder, planned.config.device)
    there = job.video.num_frames
    if there != planned.num_frames:
        raise OutputError(
            f"clip {clip.clip_id}: the scan finds {there} frames here, the plan {planned.num_frames}; "
            "install the same version of av on all machines"
        )
    segments_of_part = tuple(segment_of(clip.clip_id, there, planned.config, number) for number in numbers)
    job = replace(
        job, segments=segments_of_part, tone=planned.tone, identity=planned.identity, skipped=read_skipped(folder)
    )
    if job.versions != planned.versions and pending(job):
        versions = describe_difference(planned, job.make_spec(), with_versions=True)
        raise OutputError(
            f"clip {clip.clip_id}: was planned with {versions} here; other versions may give other bytes, so install the same"
        )
    (folder / SEGMENTS_FOLDER).mkdir(parents=True, exist_ok=True)
    return replace(job, versions=planned.versions)


def _job(
    clip: Clip, video: ClipVideo, config: ExtractConfig, folder: AnyPath, decoder: DecoderName, device: str
) -> ExtractJob:
    """The job without its segments, of which a part has few."""
    job = ExtractJob(
        clip=clip,
        video=video,
        config=config,
        decoder=decoder,
        device=device,
        folder=folder,
        segments=(),
        versions=versions_here(decoder),
        tone=None if config.tone_range is None else ToneMap(low=config.tone_range[0], high=config.tone_range[1]),
    )
    _check_depth(job)
    return job


def bind(job: ExtractJob) -> ExtractJob:
    """Write the job spec into the clip's folder, and return the job with its identity."""
    assert not job.needs_tone
    if job.identity:
        return job
    spec = job.make_spec()
    spec.write(job.folder)
    return replace(job, identity=spec.identity)


def any_done(folder: AnyPath) -> bool:
    """Whether a segment was finished in a clip's folder."""
    return bool(segment_record.list_records(folder))


def fit_clip_tone(job: ExtractJob, on_alive: Callable[[int], None] = lambda _frame: None) -> ToneMap:
    """Look at all frames that will be written and fit the line from their counts to levels; masked boxes do not count."""
    counts = LevelCounts()
    frames = _covering(job.segments, job.config.every)
    for decoded in _decoded(job, frames, on_alive):
        if _is_left_out(job, decoded):
            continue
        counts.add(replace(job.config.framing, size=None).apply(decoded.picture("gray")))
    if not counts.histogram.any():
        raise VideoDecodeError(
            f"clip {job.clip.clip_id}: no frame could be decoded and is kept, so there is nothing to fit a tone to"
        )
    return fit_tone(counts.histogram, job.config.tone or "percentile")


def sample_stills(job: ExtractJob, *, num_places: int, num_frames: int) -> tuple[list[int], int]:
    """Bytes of some of a job's stills, a few in a row from some places of the clip, and the pixels of one (0 without any)."""
    still_of = _StillMaker(job)
    sizes: list[int] = []
    pixels = 0
    for number in range(num_places):
        segment = job.segments[len(job.segments) * number // num_places]
        frames = replace(
            segment.frames,
            stop_frame=min(segment.frames.stop_frame, segment.frames.start_frame + num_frames * job.config.every),
        )
        for decoded in _decoded(job, frames, lambda _frame: None):
            still = still_of(decoded)
            sizes.append(len(still.data))
            pixels = still.width_px * still.height_px
    return sizes, pixels


def with_tone(job: ExtractJob, tone: ToneMap) -> ExtractJob:
    """The job with its tone."""
    return replace(job, tone=tone)


def check_whole(job: ExtractJob) -> None:
    """VideoDecodeError if a frame of the finished segments is missing or suspect."""
    numbers = [segment.number for segment in job.segments]
    missing: list[int] = []
    suspects: list[int] = []
    for _, rows in segment_record.read_all(job.folder, numbers):
        missing += rows.missing
        suspects += rows.suspect
    gaps = gaps_of(job.make_spec(), missing, frozenset(), job.skipped)
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


def skip_range(job: ExtractJob, skipped: SkippedRange) -> ExtractJob:
    """Return the job with one more range that is not decoded, and save it for later runs in a file of its own."""
    data = (json.dumps(asdict(skipped), indent=1) + "\n").encode()
    write_atomic(job.folder / _SKIPPED_FOLDER / f"{skipped.start_frame:08d}.json", data)
    return replace(job, skipped=tuple(sorted((*job.skipped, skipped), key=lambda each: each.start_frame)))


def read_skipped(folder: AnyPath) -> tuple[SkippedRange, ...]:
    """Read the ranges at which a decoder hung, as far as runs in this clip's folder found."""
    skipped: list[SkippedRange] = []
    for name in sorted(sizes_in(folder / _SKIPPED_FOLDER)):
        path = folder / _SKIPPED_FOLDER / name
        if name.startswith(TEMPORARY_PREFIX):
            continue
        try:
            skipped.append(SkippedRange(**read_json(path)))
        except (OSError, ValueError, TypeError) as error:
            raise OutputError(f"{path}: damaged ({error}); delete it, then run the same command again") from error
    return tuple(skipped)


def remove_leftovers(folder: AnyPath) -> None:
    """Delete the temporary files that killed writers left in a clip's folder. The caller is the only one who writes there."""
    if isinstance(folder, RemotePath):
        return  # what was not sent whole is not there
    for below in (folder, folder / SEGMENTS_FOLDER, folder / _SKIPPED_FOLDER):
        if below.is_dir():
            remove_temporaries(below)


def pending(job: ExtractJob) -> list[Segment]:
    """Return the segments still to be written, in order: those without a record, or whose shard is gone or of another size."""
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
                try:
                    if job.config.to == "shards":
                        _write_shard(job, segment, stills, dropped, on_frames)
                    else:
                        _write_files(job, segment, stills, dropped, on_frames)
                except OutputError:
                    # Another run of the same part may have been faster, and whoever merged it has swept away our temporary file.
                    if not _is_done(job, segment):
                        raise
                    deque(stills.below(segment.frames.stop_frame), maxlen=0)


def finalize(job: ExtractJob, *, new_frames: int) -> ExtractReport:
    """Merge a job whose segments are all done into index, manifest, gaps and clips.json; see `merge.merge`.

    Args:
        job: From `prepare`.
        new_frames: How many frames the present run wrote, for the report.

    Raises:
        OutputError: A segment is not done yet.
    """
    spec = read_spec(job.folder)
    assert spec is not None
    return merge(
        job.folder,
        spec,
        skipped=job.skipped,
        expected_frames=job.clip.expected_frames,
        new_frames=new_frames,
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
        if decoded is not None and _is_left_out(job, decoded):
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
    avoid = [(skipped.start_frame, skipped.stop_frame) for skipped in job.skipped]
    return decode(job.video, frames, decoder=job.decoder, device=job.device, avoid=avoid, on_frame=on_alive)


def _is_left_out(job: ExtractJob, decoded: Decoded) -> bool:
    return decoded.is_suspect and job.config.suspect == "drop"


def _covering(stretch: Sequence[Segment], every: int) -> FrameRange:
    return FrameRange(start_frame=stretch[0].frames.start_frame, stop_frame=stretch[-1].frames.stop_frame, step=every)


class _StillMaker:
    """From a decoded frame to an encoded still, in any thread."""

    def __init__(self, job: ExtractJob) -> None:
        spec = job.make_spec()
        self._color = spec.color
        self._framing = job.config.framing
        self._tone = job.tone
        self._is_inverted = spec.is_inverted
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


class _RecordBuilder:
    """Collects the record of a segment, sample by sample."""

    def __init__(self, job: ExtractJob, segment: Segment) -> None:
        self._job = job
        self._segment = segment
        self._suspects: list[int] = []
        self._differences: list[float | None] = []
        self.json_sizes: list[int] = []
        self._first: _Still | None = None
        self._last: _Still | None = None
        self._picture_sizes: list[tuple[int, int, int]] = []

    def add(self, still: _Still, json_size: int) -> None:
        """One more sample, with the bytes of its json member."""
        if still.is_suspect:
            self._suspects.append(still.frame_index)
        last = self._last
        is_next = last is not None and last.frame_index == still.frame_index - self._job.config.every
        self._differences.append(difference(last.glance, still.glance) if last is not None and is_next else None)
        self.json_sizes.append(json_size)
        size_px, sizes = (still.width_px, still.height_px), self._picture_sizes
        count = sizes.pop()[0] if sizes and sizes[-1][1:] == size_px else 0
        sizes.append((count + 1, *size_px))
        self._first = self._first or still
        self._last = still

    def write(self, shard: ShardInfo | None, entries: list[IndexEntry], dropped: set[int]) -> None:
        """The segment is done."""
        written = {entry.frame_index for entry in entries}
        frames = self._segment.frames
        missing = [frame for frame in range(frames.start_frame, frames.stop_frame, frames.step) if frame not in written]
        head = SegmentHead(
            job_identity=self._job.identity,
            number=self._segment.number,
            shard=shard,
            num_missing=len(missing),
        )
        rows = SegmentRows(
            frame_index=[entry.frame_index for entry in entries],
            pts=[entry.pts for entry in entries],
            offset=[entry.offset for entry in entries],
            size=[entry.size for entry in entries],
            span=[entry.span for entry in entries],
            json_size=self.json_sizes,
            picture_sizes=self._picture_sizes,
            sha256=b"".join(bytes.fromhex(entry.sha256) for entry in entries),
            differences=self._differences,
            first_glance=None if self._first is None else self._first.glance,
            last_glance=None if self._last is None else self._last.glance,
            suspect=self._suspects,
            missing=missing,
            dropped=[frame for frame in missing if frame in dropped],
        )
        segment_record.write(self._job.folder, head, rows)


def _write_shard(
    job: ExtractJob,
    segment: Segment,
    stills: _Peekable,
    dropped: set[int],
    on_frames: Callable[[int], None] | None,
) -> None:
    record = _RecordBuilder(job, segment)
    time_base = str(job.video.time_base)
    with open_shard(job.folder, segment.shard, image_format=suffix_of(job.config.image_format)) as handle:
        for still in stills.below(segment.frames.stop_frame):
            size_px = (still.width_px, still.height_px)
            facts = sample_json.to_bytes(
                sample_json.facts_of(job.clip, time_base, still.frame_index, still.pts, size_px)
            )
            record.add(still, len(facts))
            handle.writer.add(
                job.clip.clip_id, still.frame_index, still.pts, still.data, facts,
                size_px=size_px, image_sha256=still.sha256,
            )  # fmt: skip
            if on_frames is not None:
                on_frames(1)
    assert handle.info is not None
    shard: ShardInfo | None = handle.info
    entries, path = handle.writer.entries, job.folder / segment.shard
    index_path = path.with_suffix(".idx")
    if entries:
        # Here and not at the merge, where those of a million shards would be written one after the other.
        samples = [
            (key_of(job.clip.clip_id, entry.frame_index), entry.offset, entry.size, json_size)
            for entry, json_size in zip(entries, record.json_sizes, strict=True)
        ]
        write_atomic(index_path, sidecars.idx_bytes(suffix_of(job.config.image_format), samples))
    else:
        path.unlink(missing_ok=True)
        index_path.unlink(missing_ok=True)
        shard = None
    record.write(shard, entries, dropped)


def _write_files(
    job: ExtractJob,
    segment: Segment,
    stills: _Peekable,
    dropped: set[int],
    on_frames: Callable[[int], None] | None,
) -> None:
    """Write plain image files; the record gives each file's size and hash, and its "shard" is the folder itself."""
    record = _RecordBuilder(job, segment)
    entries: list[IndexEntry] = []
    for still in stills.below(segment.frames.stop_frame):
        record.add(still, 0)
        write_atomic(
            job.folder / segment_record.still_name(job.clip.clip_id, still.frame_index, job.config), still.data
        )
        entries.append(
            IndexEntry(
                frame_index=still.frame_index,
                pts=still.pts,
                offset=0,
                size=len(still.data),
                span=0,
                width=still.width_px,
                height=still.height_px,
                sha256=still.sha256,
            )
        )
        if on_frames is not None:
            on_frames(1)
    info = ShardInfo(name=".", num_samples=len(entries), size_bytes=sum(entry.size for entry in entries), sha256="")
    record.write(info if entries else None, entries, dropped)


def _neighbours(todo: Sequence[Segment]) -> list[list[Segment]]:
    stretches: list[list[Segment]] = []
    for segment in todo:
        if stretches and stretches[-1][-1].number + 1 == segment.number:
            stretches[-1].append(segment)
        else:
            stretches.append([segment])
    return stretches


def _is_done(job: ExtractJob, segment: Segment) -> bool:
    try:
        head = segment_record.read_head(segment_record.record_path(job.folder, segment.number))
    except OutputError:
        return False
    segment_record.check_job(job.folder, head, job.identity)
    return segment_record.is_whole(
        job.folder,
        head,
        clip_id=job.clip.clip_id,
        clip_frames=job.video.num_frames,
        config=job.config,
        size_of=lambda name: size_of(job.folder / name),
    )


def versions_here(decoder: DecoderName) -> dict[str, str]:
    """Find the installed version of each library that shapes the bytes, those of the decoder last."""
    versions = {}
    for name, packages in {**_BYTES_LIBRARIES, **find_decoder(decoder).libraries}.items():
        found = []
        for package in packages:
            with suppress(importlib.metadata.PackageNotFoundError):
                found.append(importlib.metadata.version(package))
        versions[name] = " and ".join(dict.fromkeys(found)) or "not installed"
    return versions


def _going_on(job: ExtractJob) -> ExtractJob:
    """The job as an earlier run began it, after checking that going on would give the bytes that run would have given."""
    before, now = read_spec(job.folder), job.make_spec()
    assert before is not None
    job = replace(job, identity=before.identity)
    difference = describe_difference(before, now, with_versions=False)
    if difference is None and before.versions != now.versions and pending(job):
        difference = describe_difference(before, now, with_versions=True)
    if difference is not None:
        raise OutputError(
            f"{job.folder}: was extracted with {difference}; use the same, another --out, or --overwrite to start anew"
        )
    other = describe_other_source(before, now)
    if other is not None:
        raise OutputError(f"{job.folder}: was extracted from {other}; use another --out, or --overwrite to start anew")
    return replace(job, versions=before.versions, tone=before.tone)


def _clear(folder: AnyPath) -> None:
    """Delete an extraction: its marks of completeness first, so that a kill in the middle leaves nothing that looks finished.

    Temporary files stay: a part of a plan may be writing them.
    """
    names = sorted(sizes_in(folder))
    done = [segment_record.record_path(folder, number) for number in sorted(segment_record.list_records(folder))]
    skipped = [folder / _SKIPPED_FOLDER / name for name in sorted(sizes_in(folder / _SKIPPED_FOLDER))]
    others = (manifest.CSV_NAME, manifest.PARQUET_NAME, sidecars.WIDS_NAME, GAPS_NAME)
    rest = [
        folder / name
        for name in names
        if (name.endswith((".tar", ".idx")) and not name.startswith(TEMPORARY_PREFIX))
        or name in others
        or (name.endswith(tuple(f".{suffix}" for suffix in SUFFIXES)) and name.startswith(f"{folder.name}_"))
    ]
    first = (folder / clip_facts.CLIPS_NAME, folder / index_file.INDEX_NAME)
    for path in (*first, *done, *skipped, *rest, folder / JOB_NAME):
        path.unlink(missing_ok=True)


def default_threads() -> int:
    """Encoding threads that suit this machine: one per core it may use."""
    return num_cores()


def _check_depth(job: ExtractJob) -> None:
    """Counts of more than 8 bits and what was asked for them must go together."""
    names = {part.pixel_format for part in job.video.parts}
    if len({part.is_deep for part in job.video.parts}) > 1:
        raise VideoDecodeError(
            f"clip {job.clip.clip_id}: its chunks are {', '.join(sorted(names))}; chunks of one clip must have one depth"
        )
    wants_counts = FORMATS[job.config.image_format].is_deep or job.config.tone is not None
    if wants_counts and not job.is_deep:
        option = f"--format {job.config.image_format}" if FORMATS[job.config.image_format].is_deep else "--tone"
        raise VideoDecodeError(
            f"clip {job.clip.clip_id}: {option} is for gray video of more than 8 bits, and this is {', '.join(names)}; leave it out"
        )
    if job.is_deep and job.config.color == "rgb":
        raise VideoDecodeError(f"clip {job.clip.clip_id}: {', '.join(names)} has no colour; use --color gray or auto")
