"""What `infraredcity report` finds out about a data set, as it travels from `report` to the page and to JSON."""

from dataclasses import dataclass
from typing import Literal

from infraredcity.datasets.similarity import Leakage
from infraredcity.extraction.finish import Gap
from infraredcity.stills.tone import ToneMap

Kind = Literal["lite", "extracted", "selection", "other"]
"""What a data set is, see `DatasetReport.kind`."""
MARKS = ("suspect", "repeat", "frozen", "duplicate")
"""What a thumbnail can be marked with, in this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """So many of one kind."""

    name: str
    num: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakdown:
    """All samples by one fact: "modality", "time of day", "split", "scene" or "weather"; names in order."""

    by: str
    counts: tuple[Count, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedCount:
    """One number of the published table beside what is here.

    Attributes:
        name: What is counted: "infrared night", "city: infrared train, clear".
        expected: Frames as published.
        found: Samples in the data set.
        difference: found - expected.
        says: The same in words: "as published", "1,234 fewer", "none here".
    """

    name: str
    expected: int
    found: int
    difference: int
    says: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PartCount:
    """What one part holds."""

    name: str
    split: str
    num_samples: int
    num_shards: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """How bright a clip is, from frames spread evenly over its samples.

    Attributes:
        num_frames: Frames that were looked at.
        num_unreadable: Frames that were chosen and could not be read.
        bins: Pixels in each of 64 bins of four levels.
        low: The level that 1 % of the pixels reach at most.
        median: The same for 50 %.
        high: The same for 99 %.
        times_s: Presentation time of each frame.
        means: Mean level of each frame, 0 to 255.
    """

    num_frames: int
    num_unreadable: int
    bins: tuple[int, ...]
    low: int
    median: int
    high: int
    times_s: tuple[float, ...]
    means: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """How much a clip changes from one sample to the next, from pairs spread evenly.

    Attributes:
        num_pairs: Pairs of neighbours, one frame step apart, that were looked at.
        num_unreadable: Pairs that were chosen and could not be read.
        times_s: Presentation time of the first of each pair.
        differences: Mean absolute difference of each pair, in levels.
        median: The lower median of the differences; 0 without pairs.
        largest: The largest difference; 0 without pairs.
    """

    num_pairs: int
    num_unreadable: int
    times_s: tuple[float, ...]
    differences: tuple[float, ...]
    median: float
    largest: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """Two samples of a clip that stand one after the other in a part and are no neighbours in time, and why."""

    after_key: str
    before_key: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """The unbroken stretches of a clip.

    Attributes:
        num_runs: How many there are, over all parts.
        shortest: Samples of the shortest.
        median: Samples of the lower median.
        longest: Samples of the longest.
        causes: What ends them, counted by cause.
        breaks: The first of them, at most MAX_LISTED over the data set.
    """

    num_runs: int
    shortest: int
    median: int
    longest: int
    causes: tuple[Count, ...]
    breaks: tuple[Break, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipReport:
    """One clip, over all parts that hold samples of it.

    Attributes:
        clip_id: The clip.
        scene: See ClipFacts, also for the fields up to `tone`.
        weather: As above.
        modality: As above.
        time_of_day: As above.
        frame_step: As above.
        clip_frames: As above.
        is_inverted: As above.
        suspect: As above.
        tone: Counts that became black and white at extraction, for clips of more than 8 bits.
        parts: Names of the parts.
        num_samples: Its samples.
        picture_sizes: Width and height of its pictures, the most frequent ones first.
        size_bytes: Bytes of its pictures.
        first_s: Presentation time of the first sample.
        last_s: Presentation time of the last sample.
        num_suspect: Samples that follow damage.
        num_repeats: Samples that show the same picture as the one before.
        num_frozen: Samples that hardly differ from the one before.
        num_duplicates: Samples that show nearly what a sample of another run shows, repeats not counted.
        num_gaps: Stretches of frames that gaps.json names.
        num_missing: Frames in them.
        runs: Its unbroken stretches.
        stretch: For stills of 16 bits: the counts that are shown black and white here.
        levels: How bright it is.
        motion: How much it moves.
    """

    clip_id: str
    scene: str
    weather: str
    modality: str
    time_of_day: str
    frame_step: int
    clip_frames: int
    is_inverted: bool
    suspect: tuple[str, ...]
    tone: ToneMap | None
    parts: tuple[str, ...]
    num_samples: int
    picture_sizes: tuple[tuple[int, int], ...]
    size_bytes: int
    first_s: float
    last_s: float
    num_suspect: int
    num_repeats: int
    num_frozen: int
    num_duplicates: int
    num_gaps: int
    num_missing: int
    runs: Runs
    stretch: ToneMap | None
    levels: Levels
    motion: Motion


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateStretch:
    """Samples in a row that all name another sample in `dup_of`.

    Attributes:
        part: Name of the part that holds them.
        first_key: The first.
        last_key: The last.
        num_samples: How many there are.
        num_repeats: Those that merely repeat the sample before.
        of_key: What the first one names.
    """

    part: str
    first_key: str
    last_key: str
    num_samples: int
    num_repeats: int
    of_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """Samples whose `dup_of` names another one: all of them, those that are repeats, their stretches, the first of these."""

    num_samples: int
    num_repeats: int
    num_stretches: int
    stretches: tuple[DuplicateStretch, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakageCheck:
    """Whether test samples were compared with train samples, what was found for each modality, and else why not."""

    is_measured: bool
    found: tuple[Leakage, ...]
    why_not: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeBin:
    """Shards of at least `start_bytes` and less than `stop_bytes`; the last bin includes its end."""

    start_bytes: int
    stop_bytes: int
    num_shards: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSizes:
    """The shards: how many, samples and bytes of the smallest, the lower median and the largest, and bytes in equal bins."""

    num_shards: int
    samples_smallest: int
    samples_median: int
    samples_largest: int
    bytes_smallest: int
    bytes_median: int
    bytes_largest: int
    bins: tuple[SizeBin, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong, on one line, and how many of the chosen frames or pairs it kept from being looked at."""

    message: str
    num_frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetReport:
    """All numbers about a data set.

    Attributes:
        kind: "lite" beside a lite.json, "selection" beside a shards.json, "extracted" where parts have a gaps.json, else "other".
        made: How a Lite set was made: "recipe lite, scale 0.05, guard of 12 frames"; else empty.
        library_version: Version of this program.
        manifest_hash: sha256 over what the samples are, see `manifest.dataset_hash`.
        image_formats: File suffixes of the pictures.
        num_samples: Samples of all parts.
        size_bytes: Bytes of all shards.
        parts: The folders of shards.
        clips: The clips, by id.
        breakdowns: All samples by one fact each.
        published: Beside the published counts, for extracted clips and Lite sets of which a clip is one of the nine; else empty.
        gaps: Frames that could not be had, at most MAX_LISTED; `ClipReport.num_gaps` counts them all.
        duplicates: Samples that name another one in `dup_of`.
        leakage: How close test samples come to train samples.
        shards: Sizes.
        num_frames_read: Pictures that were looked at for levels and motion.
        num_problems: Different problems.
        problems: The first of them, at most MAX_LISTED.
    """

    kind: Kind
    made: str
    library_version: str
    manifest_hash: str
    image_formats: tuple[str, ...]
    num_samples: int
    size_bytes: int
    parts: tuple[PartCount, ...]
    clips: tuple[ClipReport, ...]
    breakdowns: tuple[Breakdown, ...]
    published: tuple[PublishedCount, ...]
    gaps: tuple[Gap, ...]
    duplicates: Duplicates
    leakage: LeakageCheck
    shards: ShardSizes
    num_frames_read: int
    num_problems: int
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    """One sample as a small picture, with its facts.

    Attributes:
        key: The sample's key.
        clip_id: Its clip.
        part: Name of the part that holds it.
        split: The part's split.
        frame_index: Its frame in the clip.
        pts: Its presentation time, in units of the clip's time base.
        time_s: The same in seconds.
        run_id: Its run.
        shard: File name of its shard.
        size_bytes: Bytes of the picture in the shard.
        marks: Of MARKS, those that hold.
        dup_of: Key of the sample that it repeats or resembles; else empty.
        width_px: Width of the thumbnail.
        height_px: Height of the thumbnail.
        jpeg: The thumbnail.
    """

    key: str
    clip_id: str
    part: str
    split: str
    frame_index: int
    pts: int
    time_s: float
    run_id: int
    shard: str
    size_bytes: int
    marks: tuple[str, ...]
    dup_of: str
    width_px: int
    height_px: int
    jpeg: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheets:
    """The pictures of a page.

    Attributes:
        thumbnails: By clip and time.
        closest: For each finding of leakage, the test sample and the train sample that come closest; fewer where one is unreadable.
        num_unreadable: Samples that were chosen and could not be read.
        problems: What kept them.
    """

    thumbnails: tuple[Thumbnail, ...]
    closest: tuple[tuple[Thumbnail, Thumbnail], ...]
    num_unreadable: int
    problems: tuple[Problem, ...]
