"""Merge the segment records of a clip into its index, manifest, gaps and clips.json, without its video or opening a shard.

The same records give the same bytes, so merging may be done again, and by two at once. Each sample gets its mark here: suspect
where it follows damage, repeat where it shows the picture before it once more, frozen where it hardly differs from that (a thermal
camera's shutter does this every few minutes).
"""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from infraredcity.datasets import clip_facts, manifest
from infraredcity.datasets.folder import write_folder
from infraredcity.datasets.gaps import GAPS_NAME, Gap, gaps_to_bytes
from infraredcity.errors import OutputError
from infraredcity.extraction import segment_record
from infraredcity.extraction.job import SkippedRange
from infraredcity.extraction.segment_record import SegmentHead, SegmentRows
from infraredcity.extraction.segments import count_frames, count_segments, segment_of
from infraredcity.extraction.spec import JobSpec
from infraredcity.files.atomic import write_atomic
from infraredcity.files.path import AnyPath
from infraredcity.shards import index as sample_index
from infraredcity.shards.index import FIELDS, FROZEN, REPEAT, SUSPECT, SampleIndex, ShardInfo
from infraredcity.stills.formats import suffix_of
from infraredcity.stills.framing import mean_difference
from infraredcity.stills.tone import ToneMap

_FROZEN_SHARE = 0.1
"""A frame is frozen if it differs from the one before by at most this share of a calm difference: even the noise is missing."""
_CALM_PERCENTILE = 10
"""A calm difference is that of the clip's calmest tenth, so that a car that waits at a light is no frozen picture."""
_NO_PICTURE = "the decoder could not make a picture of it"
_DROPPED = "suspect, since it follows damage, and left out as asked"


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSize:
    """How many samples of a clip have one width and height in pixels."""

    width: int
    height: int
    num_frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractReport:
    """The result of extracting one clip."""

    clip: str
    """The clip's id."""
    folder: str
    """Where its samples are."""
    num_frames: int
    """Samples written, over all runs."""
    new_frames: int
    """Samples written by this run."""
    num_shards: int
    """Shards; 0 for plain files."""
    size_bytes: int
    """Bytes of all shards or files."""
    gaps: tuple[Gap, ...]
    """Frames that could not be decoded, or were left out."""
    num_suspect: int
    """Samples that follow damage."""
    num_repeats: int
    """Samples that show the picture before them once more."""
    num_frozen: int
    """Samples that hardly differ from the one before."""
    tone: ToneMap | None
    """Counts that became black and white, for clips of more than 8 bits."""
    expected_frames: int | None
    """Frames of the whole clip according to the catalogue; None where it does not state them."""
    clip_frames: int
    """Frames that the clip's files hold."""
    decoder: str
    """Which library decoded."""
    suspect: tuple[str, ...]
    """What the scan found wrong with the files."""
    notes: tuple[str, ...]
    """What else is good to know of the files."""
    picture_sizes: tuple[PictureSize, ...]
    """The sizes of the samples, the most frequent first."""

    @property
    def has_expected_count(self) -> bool:
        """Return whether the clip holds as many frames as the catalogue states, if it states them."""
        return self.expected_frames is None or self.expected_frames == self.clip_frames


def merge(
    folder: AnyPath,
    spec: JobSpec,
    *,
    skipped: Sequence[SkippedRange],
    expected_frames: int | None,
    new_frames: int,
    on_segments: Callable[[int], None] = lambda _count: None,
) -> ExtractReport:
    """Write index, manifest, gaps and clips.json of a clip whose segments are all done; clips.json last.

    Args:
        folder: The clip's folder.
        spec: The clip's job spec.
        skipped: The ranges at which the decoder hung, see `job.read_skipped`.
        expected_frames: Frames of the whole clip according to the catalogue, for the report.
        new_frames: Frames that this run wrote, for the report.
        on_segments: Called with the number of segment records just read.

    Raises:
        OutputError: A segment is not done, is of another job, or has another number of frames than expected.
    """
    gathered = _Gathered(folder, spec)
    numbers = range(count_segments(spec.num_frames, spec.config))
    for head, rows in segment_record.read_all(folder, numbers):
        gathered.add(head, rows)
        on_segments(1)
    index = gathered.index()
    gaps = gaps_of(spec, gathered.missing, frozenset(gathered.dropped), skipped)
    facts = _facts(spec, index)
    write_atomic(folder / GAPS_NAME, gaps_to_bytes(gaps))
    clips = {spec.clip.clip_id: facts}
    if spec.config.to == "shards":
        write_folder(folder, ".", index, clips, with_dali=False)
    else:
        manifest.write_rows(folder, index, clips)
        clip_facts.write_clips(folder, [facts])
    return ExtractReport(
        clip=spec.clip.clip_id,
        folder=str(folder),
        num_frames=len(index),
        new_frames=new_frames,
        num_shards=len(index.shards) if spec.config.to == "shards" else 0,
        size_bytes=sum(info.size_bytes for info in gathered.shards),
        gaps=gaps,
        num_suspect=facts.num_suspect,
        num_repeats=facts.num_repeats,
        num_frozen=facts.num_frozen,
        tone=spec.tone,
        expected_frames=expected_frames,
        clip_frames=spec.num_frames,
        decoder=spec.decoder,
        suspect=tuple(facts.suspect),
        notes=tuple(facts.notes),
        picture_sizes=tuple(
            PictureSize(width=width, height=height, num_frames=count)
            for (width, height), count in index.picture_sizes().items()
        ),
    )


def difference(before: np.ndarray, now: np.ndarray) -> float | None:
    """Return the mean absolute difference of two glances, in levels or counts; None where their sizes differ."""
    if before.shape != now.shape or before.dtype != now.dtype:
        return None
    return round(mean_difference(before, now), 4)


class _Gathered:
    """The columns of all segments so far.

    They are allocated once for all frames of the clip and become the index's own, so that no row is ever in memory twice.
    """

    def __init__(self, folder: AnyPath, spec: JobSpec) -> None:
        self._folder = folder
        self._spec = spec
        self._identity = spec.identity
        most = count_frames(spec.num_frames, spec.config)
        self._columns = {
            name: np.empty((most, 32) if name == "sha256" else most, FIELDS[name])
            for name in (*segment_record.RECORDED, "shard")
        }
        self._differences = np.empty(most, np.float64)
        self._num_rows = 0
        self._suspect = array("q")
        self.missing = array("q")
        self.dropped = array("q")
        self.shards: list[ShardInfo] = []
        self._last_glance: np.ndarray | None = None
        self._last_frame = -1

    def add(self, head: SegmentHead, rows: SegmentRows) -> None:
        """Add the samples and the missing frames of a segment."""
        segment_record.check_job(self._folder, head, self._identity)
        spec = self._spec
        num_frames = len(segment_of(spec.clip.clip_id, spec.num_frames, spec.config, head.number).frames)
        if len(rows) + len(rows.missing) != num_frames:
            raise OutputError(
                f"{self._path(head)}: has {len(rows)} samples and {len(rows.missing)} missing frames, expected {num_frames} in "
                "all; delete it, then run its part again"
            )
        self.missing.extend(rows.missing)
        self.dropped.extend(rows.dropped)
        if head.shard is None:
            return
        here = slice(self._num_rows, self._num_rows + len(rows))
        for name, values in rows.index_columns().items():
            self._columns[name][here] = values
        self._columns["shard"][here] = len(self.shards)
        differences = [self._since_last(rows), *rows.differences[1:]]
        self._differences[here] = np.array(differences, np.float64)  # None is NaN there
        self._num_rows = here.stop
        self.shards.append(head.shard)
        self._suspect.extend(rows.suspect)
        self._last_glance, self._last_frame = rows.last_glance, rows.frame_index[-1]

    def _path(self, head: SegmentHead) -> AnyPath:
        return segment_record.record_path(self._folder, head.number)

    def _since_last(self, rows: SegmentRows) -> float | None:
        """Return how far the segment's first sample is from the last one of the segment before."""
        is_next = rows.frame_index[0] == self._last_frame + self._spec.config.every
        if not is_next or self._last_glance is None or rows.first_glance is None:
            return None
        return difference(self._last_glance, rows.first_glance)

    def index(self) -> SampleIndex:
        """Return the index of all samples."""
        columns = {name: column[: self._num_rows] for name, column in self._columns.items()}
        frame_index, sizes = columns["frame_index"], np.stack([columns["width"], columns["height"]], axis=1)
        marks = self._marks(frame_index, columns["sha256"])
        clip_id, config = self._spec.clip.clip_id, self._spec.config
        return SampleIndex(
            clips=(clip_id,),
            frame_steps=(config.every,),
            shards=tuple(self.shards),
            image_format=suffix_of(config.image_format),
            clip=np.zeros(len(frame_index), FIELDS["clip"]),
            run_id=sample_index.run_ids(
                frame_index,
                frame_step=config.every,
                break_frames=self._spec.break_frames,
                marks=marks,
                sizes=sizes,
            ),
            mark=marks,
            dup_of=sample_index.repeated(clip_id, frame_index, marks),
            **columns,
        )

    def _marks(self, frame_index: np.ndarray, sha256: np.ndarray) -> np.ndarray:
        """Return the mark of every sample, u8 [N]."""
        marks = np.zeros(len(frame_index), np.uint8)
        marks[np.isin(frame_index, np.array(self._suspect, np.int64))] = SUSPECT
        differences = self._differences[: self._num_rows]
        if len(frame_index) == 0:
            return marks
        words = sha256.view(np.uint64)
        is_same = np.concatenate([[False], (words[1:] == words[:-1]).all(axis=1)]) & ~np.isnan(differences)
        marks[is_same] |= REPEAT
        differences = np.where(is_same, np.nan, differences)
        known = differences[~np.isnan(differences)]
        still_below = _FROZEN_SHARE * float(np.percentile(known, _CALM_PERCENTILE)) if len(known) else 0.0
        marks[differences <= still_below] |= FROZEN  # NaN is below nothing
        return marks


def gaps_of(
    spec: JobSpec, missing: Sequence[int], dropped: frozenset[int], skipped: Sequence[SkippedRange]
) -> tuple[Gap, ...]:
    """Group missing frames into gaps of neighbours with one reason.

    Args:
        spec: The clip's job spec.
        missing: The frames, ascending.
        dropped: Those of `missing` that were left out as asked.
        skipped: The ranges at which the decoder hung.
    """
    gaps: list[Gap] = []
    for frame in missing:
        reason = next((each.reason for each in skipped if each.start_frame <= frame < each.stop_frame), _NO_PICTURE)
        reason = _DROPPED if frame in dropped else reason
        last = gaps[-1] if gaps else None
        if last is not None and last.last_frame + spec.config.every == frame and last.reason == reason:
            gaps[-1] = replace(last, last_frame=frame, num_frames=last.num_frames + 1)
        else:
            gaps.append(Gap(clip=spec.clip.clip_id, first_frame=frame, last_frame=frame, num_frames=1, reason=reason))
    return tuple(gaps)


def _facts(spec: JobSpec, index: SampleIndex) -> clip_facts.ClipFacts:
    return clip_facts.ClipFacts(
        **spec.clip.description(),
        time_base=spec.time_base,
        nominal_fps=spec.nominal_fps,
        frame_step=spec.config.every,
        clip_frames=spec.num_frames,
        sources=[dict(source) for source in spec.sources],
        extraction=spec.config.to_json(),
        versions=dict(spec.versions),
        suspect=list(spec.suspect),
        notes=list(spec.notes),
        num_suspect=int(np.count_nonzero(index.mark & SUSPECT)),
        num_repeats=int(np.count_nonzero(index.mark & REPEAT)),
        num_frozen=int(np.count_nonzero(index.mark & FROZEN)),
        tone=None if spec.tone is None else spec.tone.to_json(),
        is_inverted=spec.is_inverted,
        polarity=spec.polarity,
    )
