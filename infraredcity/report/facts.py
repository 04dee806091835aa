"""Define what `infraredcity report` measures of a data set, for the page and for JSON."""

from dataclasses import dataclass
from typing import Literal

from infraredcity.clips import ClipDescription
from infraredcity.datasets.gaps import Gap
from infraredcity.datasets.similarity import Leakage
from infraredcity.stills.tone import ToneMap

Kind = Literal["lite", "extracted", "selection", "other"]
"""What a data set is, see `DatasetReport.kind`."""
MARKS = ("suspect", "repeat", "frozen", "duplicate")
"""What a thumbnail can be marked with, in this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """A number of samples of one kind."""

    name: str
    num: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakdown:
    """All samples counted by one fact: "modality", "time of day", "split", "scene" or "weather"; names in order."""

    by: str
    counts: tuple[Count, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedCount:
    """One count of the published table, and the count in the data set."""

    name: str
    """What is counted: "infrared, night", "city: infrared, train, clear"."""
    expected: int
    """Frames as published."""
    found: int
    """Samples in the data set."""
    difference: int
    """found - expected."""
    says: str
    """The same in words: "as published", "1,234 fewer", "none here"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartCount:
    """The counts of one part."""

    name: str
    split: str
    num_samples: int
    num_shards: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """The brightness of a clip, from frames spread evenly over its samples."""

    num_frames: int
    """Frames that were measured."""
    num_unreadable: int
    """Frames that were chosen and could not be read."""
    bins: tuple[int, ...]
    """Pixels in each of 64 bins of four levels."""
    low: int
    """The level that 1 % of the pixels reach at most."""
    median: int
    """The same for 50 %."""
    high: int
    """The same for 99 %."""
    times_s: tuple[float, ...]
    """Presentation time of each frame."""
    means: tuple[float, ...]
    """Mean level of each frame, 0 to 255."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """The change from one sample of a clip to the next, from pairs spread evenly."""

    num_pairs: int
    """Pairs of samples, one frame step apart, that were measured."""
    num_unreadable: int
    """Pairs that were chosen and could not be read."""
    times_s: tuple[float, ...]
    """Presentation time of the first of each pair."""
    differences: tuple[float, ...]
    """Mean absolute difference of each pair, in levels."""
    median: float
    """The lower median of the differences; 0 without pairs."""
    largest: float
    """The largest difference; 0 without pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """Two consecutive samples of a clip in a part that are not consecutive in time, and why."""

    after_key: str
    before_key: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """The runs of a clip."""

    num_runs: int
    """How many there are, over all parts."""
    shortest: int
    """Samples of the shortest."""
    median: int
    """Samples of the lower median."""
    longest: int
    """Samples of the longest."""
    causes: tuple[Count, ...]
    """What ends runs, counted by cause."""
    breaks: tuple[Break, ...]
    """The first of them, at most MAX_LISTED over the data set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipReport(ClipDescription):
    """One clip, over all parts that hold samples of it."""

    frame_step: int
    """See ClipFacts, also for the fields up to `tone`."""
    clip_frames: int
    is_inverted: bool
    suspect: tuple[str, ...]
    tone: ToneMap | None
    """Counts that extraction mapped to black and white, for clips of more than 8 bits."""
    parts: tuple[str, ...]
    """Names of the parts."""
    num_samples: int
    """Its samples."""
    picture_sizes: tuple[tuple[int, int], ...]
    """Width and height of its pictures, the most frequent ones first."""
    size_bytes: int
    """Bytes of its pictures."""
    first_s: float
    """Presentation time of the first sample."""
    last_s: float
    """Presentation time of the last sample."""
    num_suspect: int
    """Samples after damage."""
    num_repeats: int
    """Samples that show the same picture as the one before."""
    num_frozen: int
    """Samples that hardly differ from the one before."""
    num_duplicates: int
    """Samples that show nearly what a sample of another run shows, repeats not counted."""
    num_gaps: int
    """Ranges of frames that gaps.json lists."""
    num_missing: int
    """Frames in them."""
    runs: Runs
    """Its runs."""
    stretch: ToneMap | None
    """For stills of 16 bits: the counts that are shown black and white here."""
    levels: Levels
    """Its brightness."""
    motion: Motion
    """Its motion."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DuplicateStretch:
    """Samples in a row that all name another sample in `dup_of`."""

    part: str
    """Name of the part that holds them."""
    first_key: str
    """The first."""
    last_key: str
    """The last."""
    num_samples: int
    """How many there are."""
    num_repeats: int
    """Those that only repeat the sample before."""
    of_key: str
    """The `dup_of` of the first one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """Samples whose `dup_of` names another one: all of them, those that are repeats, their ranges, the first of these."""

    num_samples: int
    num_repeats: int
    num_stretches: int
    stretches: tuple[DuplicateStretch, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeakageCheck:
    """Whether test samples were compared with train samples; the result for each modality, or why they were not."""

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
    """A problem on one line, and how many of the chosen frames or pairs could not be measured because of it."""

    message: str
    num_frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetReport:
    """All numbers about a data set."""

    kind: Kind
    """"lite" beside a lite.json, "selection" beside a shards.json, "extracted" where parts have a gaps.json, else "other"."""
    made: str
    """How a Lite set was made: "recipe lite, scale 0.05, guard of 12 frames"; else empty."""
    library_version: str
    """Version of this program."""
    manifest_hash: str
    """sha256 over what the samples are, see `manifest.dataset_hash`."""
    image_formats: tuple[str, ...]
    """File suffixes of the pictures."""
    num_samples: int
    """Samples of all parts."""
    size_bytes: int
    """Bytes of all shards."""
    parts: tuple[PartCount, ...]
    """The folders of shards."""
    clips: tuple[ClipReport, ...]
    """The clips, by id."""
    breakdowns: tuple[Breakdown, ...]
    """All samples by one fact each."""
    published: tuple[PublishedCount, ...]
    """Comparison with the published counts, for extracted clips and Lite sets with one of the nine clips; else empty."""
    gaps: tuple[Gap, ...]
    """Frames that are missing, at most MAX_LISTED; `ClipReport.num_gaps` counts them all."""
    duplicates: Duplicates
    """Samples that name another one in `dup_of`."""
    leakage: LeakageCheck
    """How similar test samples are to train samples."""
    shards: ShardSizes
    """Sizes."""
    num_frames_read: int
    """Pictures that were measured for levels and motion."""
    num_problems: int
    """Different problems."""
    problems: tuple[Problem, ...]
    """The first of them, at most MAX_LISTED."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    """One sample as a small picture, with its facts."""

    key: str
    """The sample's key."""
    clip_id: str
    """Its clip."""
    part: str
    """Name of the part that holds it."""
    split: str
    """The part's split."""
    frame_index: int
    """Its frame in the clip."""
    pts: int
    """Its presentation time, in units of the clip's time base."""
    time_s: float
    """The same in seconds."""
    run_id: int
    """Its run."""
    shard: str
    """File name of its shard."""
    size_bytes: int
    """Bytes of the picture in the shard."""
    marks: tuple[str, ...]
    """Of MARKS, those that hold."""
    dup_of: str
    """Key of the sample that it repeats or resembles; else empty."""
    width_px: int
    """Width of the thumbnail."""
    height_px: int
    """Height of the thumbnail."""
    jpeg: bytes
    """The thumbnail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheets:
    """The pictures of a page."""

    thumbnails: tuple[Thumbnail, ...]
    """By clip and time."""
    closest: tuple[tuple[Thumbnail, Thumbnail], ...]
    """For each finding of leakage, the most similar test sample and train sample; fewer where one is unreadable."""
    num_unreadable: int
    """Samples that were chosen and could not be read."""
    problems: tuple[Problem, ...]
    """The problems that prevented them."""
