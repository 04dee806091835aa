"""What a part and `status` do must not grow with what else lies in a clip's folder; `tools/bench_scale.py` has the figures."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from synthetic import Shelf, clip_of

from infraredcity.datasets.folder import open_folder
from infraredcity.extraction import segment_record
from infraredcity.extraction.config import ExtractConfig
from infraredcity.extraction.job import SkippedRange, open_job, read_skipped, skip_range
from infraredcity.extraction.parts import finalize, make_plan, run_part
from infraredcity.extraction.segment_record import SegmentHead, SegmentRows
from infraredcity.files.path import RemotePath
from infraredcity.files.source import UNKNOWN_BYTES
from infraredcity.files.traffic import traffic
from infraredcity.shards import sidecars
from infraredcity.shards.index import ShardInfo

CLIP = "city_clear"


@pytest.fixture
def memory() -> Iterator[RemotePath]:
    """A clip's folder in fsspec's memory."""
    yield RemotePath(f"memory://scale/{CLIP}")
    fsspec.filesystem("memory").store.clear()


def test_the_index_of_a_shard_for_dali_is_written_with_it_and_not_at_the_merge(shelf: Shelf, tmp_path: Path) -> None:
    plan = make_plan([clip_of(shelf.gray)], ExtractConfig(frames_per_shard=7), tmp_path, num_parts=2)
    run_part(plan, 1, {}, tmp_path, workers=0)
    folder = tmp_path / CLIP
    shards = sorted(path.stem for path in folder.glob("*.tar"))
    assert sorted(path.stem for path in folder.glob("*.idx")) == shards
    run_part(plan, 0, {}, tmp_path, workers=0)
    written = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.glob("*.idx")}
    assert len(written) == plan.num_segments == 8
    finalize(tmp_path)
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.glob("*.idx")} == written
    # What somebody finds who opens the shards.
    sidecars.write_reader_indexes(folder, open_folder(folder).index, name=CLIP)
    assert {path.name: path.read_bytes() for path in folder.glob("*.idx")} == {
        name: data for name, (data, _) in written.items()
    }


def test_a_far_segment_record_is_known_by_its_beginning(memory: RemotePath) -> None:
    count = 1000
    numbers = list(range(count))
    rows = SegmentRows(
        columns={name: numbers for name in segment_record.COLUMNS},
        picture_sizes=[(count, 64, 48)],
        sha256=bytes(32 * count), differences=[None] * count, first_glance=np.zeros((32, 32), np.uint8),
        last_glance=np.zeros((32, 32), np.uint8), suspect=[], missing=[], dropped=[],
    )  # fmt: skip
    shard = ShardInfo(name="infraredcity-city_clear-000007.tar", num_samples=count, size_bytes=5, sha256="0" * 64)
    head = SegmentHead(job_identity="c" * 64, number=7, shard=shard, num_missing=0)
    segment_record.write(memory, head, rows)
    path = segment_record.record_path(memory, 7)
    assert path.stat().st_size > 60_000

    before = traffic()
    assert [*segment_record.read_heads(memory, [6, 7])] == [(6, None), (7, head)]
    assert 0 < (traffic() - before).received_bytes <= 4096

    before = traffic()
    assert [*segment_record.read_heads(memory, [7], segment_record.list_records(memory))] == [(7, head)]
    assert (traffic() - before).num_requests == 2  # the listing tells the size, so that a segment record is one request
    assert (traffic() - before).received_bytes <= 4096

    before = traffic()
    assert [told for told, _ in segment_record.read_all(memory, [7])] == [head]
    assert (traffic() - before).num_requests == 2


def test_the_names_of_segment_records_say_which_segments_have_one(tmp_path: Path, memory: RemotePath) -> None:
    for folder in (tmp_path, memory):
        assert segment_record.list_records(folder) == {}
        for name in ("000003.jsonl", "1234567.jsonl", ".tmp-12-ab-000004.jsonl", "000005.json"):
            path = folder / "segments" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_whole(b"{}") if isinstance(path, RemotePath) else path.write_bytes(b"{}")
        size_bytes = 2 if isinstance(folder, RemotePath) else UNKNOWN_BYTES
        assert segment_record.list_records(folder) == {3: size_bytes, 1_234_567: size_bytes}


def test_hangs_are_remembered_in_a_folder_of_their_own(shelf: Shelf, tmp_path: Path) -> None:
    job = open_job(clip_of(shelf.gray), ExtractConfig(), tmp_path)
    late, early = (SkippedRange(start_frame=start, stop_frame=start + 5, reason="stuck") for start in (20, 10))
    assert skip_range(skip_range(job, late), early).skipped == (early, late)
    (job.folder / "hangs" / ".tmp-1-ab-00000030.json").write_text("{", encoding="utf-8")  # its writer was killed
    assert read_skipped(job.folder) == (early, late)
    assert open_job(clip_of(shelf.gray), ExtractConfig(), tmp_path, overwrite=True).skipped == ()
    assert list((job.folder / "hangs").iterdir()) == []
