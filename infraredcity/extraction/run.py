"""Write segments: decode a clip's frames, make stills of them, and write shards and segment records, one segment at a time.

A segment is done when its record is in `segments/`; the record is written after the shard's rename, so that a killed run goes on
behind it. Shards depend only on the clip, the config and the codec libraries: not on workers, threads, machines, or how often the
work was interrupted.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from infraredcity.errors import OutputError, VideoDecodeError
from infraredcity.extraction import segment_record
from infraredcity.extraction.finish import difference
from infraredcity.extraction.job import ExtractJob, is_done
from infraredcity.extraction.segment_record import SegmentHead, SegmentRows
from infraredcity.extraction.segments import Segment
from infraredcity.files.atomic import write_atomic
from infraredcity.shards import sample_json, sidecars
from infraredcity.shards.index import IndexEntry, ShardInfo
from infraredcity.shards.names import key_of
from infraredcity.shards.writer import open_shard
from infraredcity.stills.formats import encode, suffix_of
from infraredcity.stills.framing import invert
from infraredcity.stills.tone import LevelCounts, ToneMap, fit_tone
from infraredcity.video import Decoded, FrameRange, decode

_BATCH_FRAMES = 4
"""Frames that go to an encoding thread together, since every hand-over costs a switch between threads."""
_GLANCE_PX = 32
"""Two samples are compared by about this many pixels each way, taken at equal distances."""


def fit_clip_tone(job: ExtractJob, on_alive: Callable[[int], None] = lambda _frame: None) -> ToneMap:
    """Fit the line from counts to levels to all frames that will be written; masked boxes do not count."""
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
    """Return the bytes of some stills, a few in a row from some places of the clip, and the pixels of one (0 without any)."""
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


def run_segments(
    job: ExtractJob,
    todo: Sequence[Segment],
    *,
    threads: int,
    on_frames: Callable[[int], None] = lambda _count: None,
    on_alive: Callable[[int], None] = lambda _frame: None,
    decoding: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Write some segments of a job, decoding each range of neighbouring ones in one pass.

    Args:
        job: A job whose folder is bound to it.
        todo: Segments in ascending order.
        threads: Encoding threads beside the decoder.
        on_frames: Called with the number of frames just written.
        on_alive: Called with the index of each frame that comes out of the decoder.
        decoding: Context that is entered while the decoder works.

    Raises:
        VideoDecodeError, ImageError, OutputError: As reading, encoding and writing do; what was finished stays.
    """
    with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="encode") as pool:
        for neighbours in _neighbours(todo):
            dropped: set[int] = set()
            stills = _Peekable(_encoded(job, neighbours, pool, dropped, on_alive, decoding, in_flight=threads * 2))
            for segment in neighbours:
                try:
                    if job.config.to == "shards":
                        _write_shard(job, segment, stills, dropped, on_frames)
                    else:
                        _write_files(job, segment, stills, dropped, on_frames)
                except OutputError:
                    # Another run of the same part may have been faster, and its merge has removed our temporary file.
                    if not is_done(job, segment):
                        raise
                    deque(stills.below(segment.frames.stop_frame), maxlen=0)


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
    """An iterator of stills that can stop before a frame without losing it."""

    def __init__(self, stills: Iterator[_Still]) -> None:
        self._stills = stills
        self._next = next(stills, None)

    def below(self, stop_frame: int) -> Iterator[_Still]:
        """Yield the stills whose frame index is below `stop_frame`."""
        while self._next is not None and self._next.frame_index < stop_frame:
            still = self._next
            self._next = next(self._stills, None)
            yield still


def _encoded(
    job: ExtractJob,
    segments: Sequence[Segment],
    pool: ThreadPoolExecutor,
    dropped: set[int],
    on_alive: Callable[[int], None],
    decoding: Callable[[], AbstractContextManager[None]],
    *,
    in_flight: int,
) -> Iterator[_Still]:
    """Decode in this thread, convert and encode in the pool, yield in order; at most `in_flight` batches wait."""
    still_of = _StillMaker(job)
    waiting: deque[Future[list[_Still]]] = deque()
    batch: list[Decoded] = []
    frames = iter(_decoded(job, _covering(segments, job.config.every), on_alive))
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


def _covering(segments: Sequence[Segment], every: int) -> FrameRange:
    return FrameRange(start_frame=segments[0].frames.start_frame, stop_frame=segments[-1].frames.stop_frame, step=every)


class _StillMaker:
    """Makes an encoded still of a decoded frame, in any thread."""

    def __init__(self, job: ExtractJob) -> None:
        spec = job.make_spec()
        self._color = spec.color
        self._framing = job.config.framing
        self._tone = job.tone
        self._is_inverted = spec.is_inverted
        self._image_format = job.config.image_format
        self._quality = job.config.quality

    def all(self, batch: list[Decoded]) -> list[_Still]:
        """Make the stills of some frames; each frame's memory is free as soon as its still is made."""
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

    def add(self, still: _Still, json_size: int) -> None:
        """Add a sample, with the bytes of its json member."""
        if still.is_suspect:
            self._suspects.append(still.frame_index)
        last = self._last
        is_next = last is not None and last.frame_index == still.frame_index - self._job.config.every
        self._differences.append(difference(last.glance, still.glance) if last is not None and is_next else None)
        self.json_sizes.append(json_size)
        self._first = self._first or still
        self._last = still

    def write(self, shard: ShardInfo | None, entries: list[IndexEntry], dropped: set[int]) -> None:
        """Write the record, after which the segment is done."""
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
            columns={
                name: self.json_sizes if name == "json_size" else [getattr(entry, name) for entry in entries]
                for name in segment_record.COLUMNS
            },
            picture_sizes=[(len([*of_one_size]), *size_px) for size_px, of_one_size in groupby(entries, _size_px)],
            sha256=b"".join(bytes.fromhex(entry.sha256) for entry in entries),
            differences=self._differences,
            first_glance=None if self._first is None else self._first.glance,
            last_glance=None if self._last is None else self._last.glance,
            suspect=self._suspects,
            missing=missing,
            dropped=[frame for frame in missing if frame in dropped],
        )
        segment_record.write(self._job.folder, head, rows)


def _size_px(entry: IndexEntry) -> tuple[int, int]:
    return entry.width, entry.height


def _write_shard(
    job: ExtractJob,
    segment: Segment,
    stills: _Peekable,
    dropped: set[int],
    on_frames: Callable[[int], None],
) -> None:
    """Write a shard, its `.idx` and its record."""
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
    on_frames: Callable[[int], None],
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
        on_frames(1)
    info = ShardInfo(name=".", num_samples=len(entries), size_bytes=sum(entry.size for entry in entries), sha256="")
    record.write(info if entries else None, entries, dropped)


def _neighbours(todo: Sequence[Segment]) -> list[list[Segment]]:
    """Group segments into ranges of neighbours."""
    ranges: list[list[Segment]] = []
    for segment in todo:
        if ranges and ranges[-1][-1].number + 1 == segment.number:
            ranges[-1].append(segment)
        else:
            ranges.append([segment])
    return ranges
