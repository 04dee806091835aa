"""Measure pixels for the page about a data set: thumbnails, levels and motion, on a bounded number of pictures."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TypeVar

import numpy as np

from infraredcity.datasets.clip_facts import ClipFacts
from infraredcity.datasets.folder import ShardFolder
from infraredcity.errors import ImageError, ShardError
from infraredcity.files import path
from infraredcity.progress import OnProgress
from infraredcity.report.facts import (
    MARKS,
    DatasetReport,
    Levels,
    Motion,
    Sheets,
    Thumbnail,
)
from infraredcity.report.samples import (
    ClipSamples,
    FrameReader,
    SampleAt,
    clips_of,
    is_marked,
    spread,
    times_of,
)
from infraredcity.shards.by_row import ShardFiles
from infraredcity.shards.index import FROZEN, REPEAT, SUSPECT
from infraredcity.shards.names import parse_key
from infraredcity.stills import formats, framing
from infraredcity.stills.decode import decode, decode_small
from infraredcity.stills.formats import DEEP_SUFFIXES
from infraredcity.stills.tone import LevelCounts, ToneMap, fit_tone

MAX_THUMBNAILS = 2000
THUMBNAIL_SIDE_PX = 96
"""Longest side of a thumbnail."""
THUMBNAIL_QUALITY = 60
NUM_BINS = 64
"""Bins of the level histograms, of four levels each."""
_TONE_PERCENTILES = (0.5, 99.5)
_WHOLE_PX = 1 << 16  # more than any still has, so `decode_small` gives every pixel
_Number = TypeVar("_Number", int, float)


def make_sheets(
    root: path.AnyPath,
    parts: Sequence[ShardFolder],
    report: DatasetReport,
    *,
    num_thumbnails: int = MAX_THUMBNAILS,
    on_progress: OnProgress | None = None,
) -> Sheets:
    """Make a page's thumbnails, divided among the clips as evenly as their samples allow and spread evenly over each.

    Up to a quarter of a clip's thumbnails go to its marked samples, so that few suspect frames among many show.

    Args:
        root: The data set's folder.
        parts: Its parts.
        report: Its numbers.
        num_thumbnails: Largest number over all clips, 0 to 2,000.
        on_progress: Gets the number of thumbnails made.

    Raises:
        ValueError: `num_thumbnails` is out of its range.
        MissingExtraError: OpenCV is not installed.
    """
    if not 0 <= num_thumbnails <= MAX_THUMBNAILS:
        raise ValueError(f"num_thumbnails must be 0 to {MAX_THUMBNAILS}, got {num_thumbnails}")
    clips = clips_of(parts)
    stretches = {clip.clip_id: clip.stretch for clip in report.clips}
    shares = deal(num_thumbnails, [len(clip.row) for clip in clips])
    chosen = [clip.places(choose(is_marked(parts, clip), share)) for clip, share in zip(clips, shares, strict=True)]
    places = [place for of_clip in chosen for place in of_clip]
    closest = [
        (find_sample(parts, leak.test_key, "test"), find_sample(parts, leak.train_key, "train"))
        for leak in report.leakage.found
    ]
    pairs = [place for pair in closest for place in pair]
    reader = FrameReader(
        root, parts, what="report: thumbnails", total=len(places) + len(pairs), on_progress=on_progress
    )

    def look(group: Sequence[SampleAt], data: Sequence[bytes]) -> Thumbnail:
        return _thumbnail(parts, group[0], data[0], stretches)

    made = reader.each([[place] for place in [*places, *pairs]], look)
    of_pairs = made[len(places) :]
    return Sheets(
        thumbnails=tuple(each for each in made[: len(places)] if each is not None),
        closest=tuple(
            (test, train)
            for test, train in zip(of_pairs[::2], of_pairs[1::2], strict=True)
            if test is not None and train is not None
        ),
        num_unreadable=sum(each is None for each in made),
        problems=reader.problems,
    )


def deal(num: int, sizes: Sequence[int]) -> list[int]:
    """Divide `num` evenly among groups with room for at most `sizes`; what one has no room for goes to the others, in order.

    10 among groups of 2, 100 and 100 are 2, 4 and 4.
    """
    dealt = [0] * len(sizes)
    left = min(num, sum(sizes))
    while left:
        open_takers = [place for place, size in enumerate(sizes) if dealt[place] < size]
        share, rest = divmod(left, len(open_takers))
        for number, place in enumerate(open_takers):
            more = min(share + (number < rest), sizes[place] - dealt[place])
            dealt[place] += more
            left -= more
    return dealt


def choose(is_marked: np.ndarray, num: int) -> np.ndarray:
    """Choose i64 [at most num], ascending: places spread evenly over all samples, up to a quarter of them over the marked ones.

    Args:
        is_marked: bool [N].
        num: How many to choose.
    """
    if num >= len(is_marked):
        return np.arange(len(is_marked), dtype=np.int64)
    marked = np.flatnonzero(is_marked)
    of_marked = marked[spread(len(marked), num // 4)]
    return np.union1d(of_marked, spread(len(is_marked), num - len(of_marked))).astype(np.int64)


def difference_words(expected: int, found: int) -> str:
    """Say how a count differs from the published one: "as published", "none here", "1,234 fewer", "1,234 more"."""
    if found == expected:
        return "as published"
    if found == 0:
        return "none here"
    return f"{abs(found - expected):,} {'more' if found > expected else 'fewer'}"


def _gray(data: bytes, name: str, stretch: ToneMap | None) -> np.ndarray:
    """Return u8 [H, W], all pixels; counts of 16 bits mapped to levels."""
    picture = decode_small(data, _WHOLE_PX, name=name)
    if picture.dtype == np.uint16:
        if stretch is None:
            raise ImageError(f"{name}: of 16 bits among pictures of 8; extract its clip again")
        return stretch.apply(picture)
    return picture


def fit_stretch(reader: FrameReader, chosen: Sequence[SampleAt]) -> ToneMap | None:
    """Choose which counts of a clip of 16 bits are shown black and white; None for clips of 8 bits.

    Unreadable pictures become problems when the levels are measured, not here.
    """
    counts = LevelCounts()
    for place in chosen:
        part = reader.parts[place.part]
        if part.index.image_format not in DEEP_SUFFIXES:
            return None
        if reader.bad_shard(place) is not None:
            continue
        try:
            with ShardFiles(part.index, part.path) as files:
                picture = decode_small(files.image(place.row), _WHOLE_PX, name=reader.key(place))
        except (ShardError, ImageError):
            continue
        if picture.dtype != np.uint16:
            return None
        counts.add(picture)
    if not counts.histogram.any():
        return None
    return fit_tone(counts.histogram, "percentile", percentiles=_TONE_PERCENTILES)


def measure_levels(
    reader: FrameReader, facts: ClipFacts, chosen: Sequence[SampleAt], stretch: ToneMap | None
) -> Levels:
    """Count the gray levels of chosen samples; with `stretch`, counts of 16 bits are brought to levels first."""

    def look(group: Sequence[SampleAt], data: Sequence[bytes]) -> np.ndarray:
        return np.bincount(_gray(data[0], reader.key(group[0]), stretch).ravel(), minlength=256)

    results = reader.each([[place] for place in chosen], look)
    read = [(place, counts) for place, counts in zip(chosen, results, strict=True) if counts is not None]
    whole = np.zeros(256, np.int64)
    means = []
    for _, counts in read:
        whole += counts
        means.append(round(float(counts @ np.arange(256)) / int(counts.sum()), 3))
    up_to, num_pixels = np.cumsum(whole), int(whole.sum())

    def reached_by(percent: int) -> int:
        return int(np.searchsorted(up_to * 100, percent * num_pixels)) if num_pixels else 0

    return Levels(
        num_frames=len(read),
        num_unreadable=len(results) - len(read),
        bins=tuple(whole.reshape(NUM_BINS, -1).sum(axis=1).tolist()),
        low=reached_by(1),
        median=reached_by(50),
        high=reached_by(99),
        times_s=times_of(reader.parts, [place for place, _ in read], facts),
        means=tuple(means),
    )


def measure_motion(
    reader: FrameReader, facts: ClipFacts, clip: ClipSamples, stretch: ToneMap | None, per_clip: int
) -> Motion:
    """Measure how much neighbouring samples of a clip differ, on at most `per_clip` pairs."""
    followed = np.flatnonzero(clip.has_next)
    firsts = clip.places(followed[spread(len(followed), per_clip)])

    def look(group: Sequence[SampleAt], data: Sequence[bytes]) -> float:
        one, other = (
            _gray(each, reader.key(place), stretch).astype(np.int16) for place, each in zip(group, data, strict=True)
        )
        if one.shape != other.shape:
            raise ImageError(
                f"{reader.key(group[1])}: is {other.shape[1]}x{other.shape[0]} pixels, the sample before it "
                f"{one.shape[1]}x{one.shape[0]}; extract the clip again"
            )
        return round(float(np.abs(one - other).mean()), 3)

    results = reader.each([[place, SampleAt(place.part, place.row + 1)] for place in firsts], look)
    read = [(place, difference) for place, difference in zip(firsts, results, strict=True) if difference is not None]
    differences = [difference for _, difference in read]
    return Motion(
        num_pairs=len(read),
        num_unreadable=len(results) - len(read),
        times_s=times_of(reader.parts, [place for place, _ in read], facts),
        differences=tuple(differences),
        median=lower_median(differences) if differences else 0.0,
        largest=max(differences, default=0.0),
    )


def _thumbnail(
    parts: Sequence[ShardFolder], place: SampleAt, data: bytes, stretches: Mapping[str, ToneMap | None]
) -> Thumbnail:
    part, row = parts[place.part], place.row
    index = part.index
    clip_id = index.clips[int(index.clip[row])]
    key, facts = index.key(row), part.clips[clip_id]
    small = decode_small(data, THUMBNAIL_SIDE_PX, name=key)
    if small.dtype == np.uint16:
        stretch = stretches[clip_id]
        if stretch is None:
            raise ImageError(f"{key}: of 16 bits among pictures of 8; extract its clip again")
        picture = stretch.apply(small)[:, :, None]
    else:
        picture = small[:, :, None] if facts.modality == "infrared" else decode(data, "rgb", name=key)
    height, width = picture.shape[:2]
    longest = max(height, width)
    if longest > THUMBNAIL_SIDE_PX:
        width, height = (max(1, (side * THUMBNAIL_SIDE_PX + longest // 2) // longest) for side in (width, height))
        picture = framing.resize(picture, width, height)
    mark = int(index.mark[row])
    dup_of = index.dup_of[row].decode("ascii", "replace")
    holds = (mark & SUSPECT, mark & REPEAT, mark & FROZEN, dup_of and not mark & REPEAT)
    pts = int(index.pts[row])
    return Thumbnail(
        key=key,
        clip_id=clip_id,
        part=part.name,
        split=part.split,
        frame_index=int(index.frame_index[row]),
        pts=pts,
        time_s=round(float(pts * Fraction(facts.time_base)), 6),
        run_id=int(index.run_id[row]),
        shard=index.shards[int(index.shard[row])].name,
        size_bytes=int(index.size[row]),
        marks=tuple(word for word, holds_here in zip(MARKS, holds, strict=True) if holds_here),
        dup_of=dup_of,
        width_px=width,
        height_px=height,
        jpeg=formats.encode(picture, formats.DEFAULT_FORMAT, quality=THUMBNAIL_QUALITY),
    )


def lower_median(values: Sequence[_Number]) -> _Number:
    """Return the value in the middle of the sorted ones, the lower of two."""
    return sorted(values)[(len(values) - 1) // 2]


def find_sample(parts: Sequence[ShardFolder], key: str, split: str) -> SampleAt:
    """Find the sample of a key in a part of a split, where `similarity` found it."""
    clip_id, frame_index = parse_key(key)
    for number, part in enumerate(parts):
        if part.split == split and clip_id in part.index.clips:
            of_clip = part.index.clip == part.index.clips.index(clip_id)
            rows = np.flatnonzero(of_clip & (part.index.frame_index == frame_index))
            if len(rows):
                return SampleAt(number, int(rows[0]))
    raise AssertionError(f"{key} is in no {split} part")
