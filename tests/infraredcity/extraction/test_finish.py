import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planned import changed, spec_of, times, tree
from synthetic import Shelf, clip_of

from infraredcity.datasets import clip_facts
from infraredcity.errors import OutputError
from infraredcity.extraction import segment_record
from infraredcity.extraction.config import ExtractConfig
from infraredcity.extraction.extract_clip import extract_clip
from infraredcity.extraction.finish import ExtractReport, gaps_of, merge
from infraredcity.extraction.job import SkippedRange
from infraredcity.extraction.segment_record import SegmentHead, SegmentRows
from infraredcity.extraction.spec import JobSpec, read_spec
from infraredcity.shards import index_file
from infraredcity.shards.index import FROZEN, REPEAT

MERGED = ("clips.json", "gaps.json", "index.json", "index.npz", "manifest.csv", "manifest.parquet")


@pytest.fixture
def clip(extracted: Path, tmp_path: Path) -> Path:
    """A clip's folder: 50 frames in shards of 16, extracted by one process."""
    return Path(shutil.copytree(extracted / "city_clear", tmp_path / "city_clear"))


def merged(clip: Path, **other: Any) -> ExtractReport:
    spec = read_spec(clip)
    assert spec is not None
    return merge(clip, spec, **({"skipped": (), "expected_frames": None, "new_frames": 0} | other))


def rewrite(
    clip: Path, number: int, change: Callable[[SegmentHead, SegmentRows], tuple[SegmentHead, SegmentRows]]
) -> None:
    """Change what a segment record says."""
    segment_record.write(clip, *change(*segment_record.read(segment_record.record_path(clip, number))))


def without_last(rows: SegmentRows) -> SegmentRows:
    sizes = [(len(rows) - 1, 96, 64)]
    columns = {name: values[:-1] for name, values in rows.columns.items()}
    return replace(
        rows, columns=columns, differences=rows.differences[:-1], sha256=rows.sha256[:-32], picture_sizes=sizes
    )


def test_merging_needs_the_segment_records_alone(clip: Path) -> None:
    before = tree(clip)
    for path in clip.iterdir():
        if path.name in MERGED or path.name.startswith("scan-"):
            path.unlink()
        elif path.suffix == ".tar":
            path.write_bytes(b"no shard")
    report = merged(clip)
    assert changed(before, tree(clip)) == sorted(
        name for name in before if name.endswith(".tar") or name.startswith("scan-")
    )
    assert (report.num_frames, report.num_shards, report.gaps, report.clip_frames) == (50, 4, (), 50)
    assert report.size_bytes == sum(len(data) for name, data in before.items() if name.endswith(".tar"))


def test_merging_again_touches_nothing(clip: Path) -> None:
    before = tree(clip)
    merged(clip)
    assert changed(before, tree(clip)) == []
    stood = times(clip)
    merged(clip)
    assert times(clip) == stood


def test_each_segment_record_is_reported(clip: Path) -> None:
    told: list[int] = []
    merged(clip, on_segments=told.append)
    assert told == [1, 1, 1, 1]


def test_a_segment_record_with_a_frame_less_is_refused(clip: Path) -> None:
    rewrite(clip, 2, lambda head, rows: (head, without_last(rows)))
    with pytest.raises(
        OutputError,
        match=r"000002\.jsonl: has 15 samples and 0 missing frames, expected 16 in all; delete it, then run its part",
    ):
        merged(clip)


def test_a_segment_record_of_other_work_is_refused(clip: Path) -> None:
    rewrite(clip, 1, lambda head, rows: (replace(head, job_identity="ab" * 32), rows))
    with pytest.raises(OutputError, match=r"000001\.jsonl: was written under another plan or other settings \(job ab"):
        merged(clip)


def test_a_segment_record_that_is_not_there_is_named(clip: Path) -> None:
    segment_record.record_path(clip, 3).unlink()
    with pytest.raises(OutputError, match=r"000003\.jsonl: segment is not done"):
        merged(clip)


def test_frames_of_a_segment_record_that_are_missing_become_gaps(clip: Path) -> None:
    def lose_last(head: SegmentHead, rows: SegmentRows) -> tuple[SegmentHead, SegmentRows]:
        return replace(head, num_missing=1), replace(without_last(rows), missing=[rows.frame_index[-1]])

    rewrite(clip, 0, lose_last)
    report = merged(clip)
    assert [(gap.first_frame, gap.last_frame, gap.num_frames) for gap in report.gaps] == [(15, 15, 1)]
    assert json.loads((clip / "gaps.json").read_text())[0]["reason"] == "the decoder could not make a picture of it"
    index = index_file.load(clip)
    assert index.frame_index.tolist() == [*range(15), *range(16, 50)]
    assert index.run_id.tolist() == [0] * 15 + [1] * 34


def test_a_picture_is_compared_with_the_last_one_of_the_segment_before(clip: Path) -> None:
    last = segment_record.read(segment_record.record_path(clip, 0))[1]

    def shows_it_again(head: SegmentHead, rows: SegmentRows) -> tuple[SegmentHead, SegmentRows]:
        return head, replace(rows, sha256=last.sha256[-32:] + rows.sha256[32:], first_glance=last.last_glance)

    rewrite(clip, 1, shows_it_again)
    merged(clip)
    marks = index_file.load(clip).mark
    assert (marks[16], np.count_nonzero(marks)) == (REPEAT, 1)
    rewrite(clip, 1, lambda head, rows: (head, replace(rows, sha256=bytes(32) + rows.sha256[32:])))
    merged(clip)
    assert index_file.load(clip).mark[16] == FROZEN


def test_what_the_catalogue_expects_is_compared_with_the_whole_clip(clip: Path) -> None:
    assert merged(clip, expected_frames=50).has_expected_count
    assert not merged(clip, expected_frames=51).has_expected_count


def test_facts_come_from_the_job_spec(clip: Path) -> None:
    spec = read_spec(clip)
    assert spec is not None
    facts = clip_facts.read_clips(clip)["city_clear"]
    assert [dict(source) for source in spec.sources] == facts.sources
    assert (facts.time_base, facts.nominal_fps, facts.clip_frames) == (spec.time_base, spec.nominal_fps, 50)
    assert facts.versions == spec.versions


def gaps(
    spec: JobSpec, missing: list[int], dropped: list[int], *skipped: SkippedRange
) -> list[tuple[int, int, int, str]]:
    found = gaps_of(spec, missing, frozenset(dropped), skipped)
    return [(gap.first_frame, gap.last_frame, gap.num_frames, gap.reason.partition(",")[0]) for gap in found]


def test_neighbours_that_are_missing_for_one_reason_are_one_gap() -> None:
    spec = spec_of(100)
    broken, left_out = "the decoder could not make a picture of it", "suspect"
    skipped = SkippedRange(start_frame=30, stop_frame=36, reason="the decoder gave no frame")
    assert gaps(spec, [3, 4, 5, 7], []) == [(3, 5, 3, broken), (7, 7, 1, broken)]
    assert gaps(spec, [3, 4, 5, 6], [5, 6]) == [(3, 4, 2, broken), (5, 6, 2, left_out)]
    assert gaps(spec, [29, 30, 35, 36], [], skipped) == [
        (29, 29, 1, broken),
        (30, 30, 1, skipped.reason),
        (35, 35, 1, skipped.reason),
        (36, 36, 1, broken),
    ]
    assert gaps(spec, [], []) == []


def test_of_each_nth_frame_the_next_one_is_the_neighbour() -> None:
    spec = spec_of(100, ExtractConfig(every=4))
    assert [gap[:3] for gap in gaps(spec, [4, 8, 12, 20], [])] == [(4, 12, 3), (20, 20, 1)]


def test_plain_files_are_merged_too(shelf: Shelf, tmp_path: Path) -> None:
    extract_clip(clip_of(shelf.gray), ExtractConfig(to="frames", frames_per_shard=16), tmp_path, workers=0)
    clip = tmp_path / "city_clear"
    before = tree(clip)
    for name in ("clips.json", "manifest.csv", "manifest.parquet", "gaps.json"):
        (clip / name).unlink()
    report = merged(clip)
    assert changed(before, tree(clip)) == []
    assert (report.num_frames, report.num_shards) == (50, 0)
