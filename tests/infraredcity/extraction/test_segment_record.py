import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import fsspec
import numpy as np
import pytest

from infraredcity.errors import OutputError
from infraredcity.extraction import segment_record
from infraredcity.extraction.segment_record import SegmentHead, SegmentRows
from infraredcity.files.path import AnyPath, RemotePath
from infraredcity.shards.index import ShardInfo

SHARD = ShardInfo(name="infraredcity-city_clear-000003.tar", num_samples=4, size_bytes=9216, sha256="ab" * 32)
HEAD = SegmentHead(job_identity="cd" * 32, number=3, shard=SHARD, num_missing=1)


def rows_of(count: int) -> SegmentRows:
    """The samples of a segment; the one in the middle is missing."""
    frames = [30 + frame for frame in range(count + 1) if frame != count // 2]
    return SegmentRows(
        columns={
            "frame_index": frames,
            "pts": [frame * 512 for frame in frames],
            "offset": [512 + 2048 * row for row in range(count)],
            "size": [1000 + row for row in range(count)],
            "span": [2048] * count,
            "json_size": [210] * count,
        },
        picture_sizes=[(1, 96, 64), (count - 1, 48, 32)],
        sha256=bytes(range(256))[: 32 * count] if count <= 8 else bytes(32 * count),
        differences=[None, *(0.25 * row for row in range(1, count))],
        first_glance=np.arange(12, dtype=np.uint8).reshape(3, 4),
        last_glance=np.arange(12, dtype=np.uint16).reshape(4, 3),
        suspect=frames[:1],
        missing=[30 + count // 2],
        dropped=[30 + count // 2],
    )


def same(one: SegmentRows, two: SegmentRows) -> bool:
    return all(np.array_equal(getattr(one, item.name), getattr(two, item.name)) for item in fields(SegmentRows))


@pytest.fixture(params=["near", "far"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyPath]:
    """The folder of a clip."""
    yield tmp_path if request.param == "near" else RemotePath("memory://records/city_clear")
    fsspec.filesystem("memory").store.clear()


@pytest.mark.parametrize("count", [4, 2000])
def test_a_segment_record_comes_back_as_it_was_written(folder: AnyPath, count: int) -> None:
    rows = rows_of(count)
    segment_record.write(folder, HEAD, rows)
    path = folder / "segments/000003.jsonl"
    head, back = segment_record.read(path)
    assert (head, segment_record.read_head(path)) == (HEAD, HEAD)
    assert same(back, rows)
    assert back.first_glance is not None
    assert back.first_glance.dtype == np.uint8
    assert len(back) == count
    assert path.read_bytes() == segment_record.to_bytes(HEAD, rows) == segment_record.to_bytes(head, back)


def test_a_segment_of_which_nothing_could_be_had_has_a_segment_record_too(folder: AnyPath) -> None:
    head = replace(HEAD, shard=None, num_missing=2)
    none = replace(
        rows_of(4), columns={name: [] for name in segment_record.COLUMNS}, picture_sizes=[], sha256=b"", differences=[],
        first_glance=None, last_glance=None, suspect=[], missing=[30, 31], dropped=[],
    )  # fmt: skip
    segment_record.write(folder, head, none)
    back, rows = segment_record.read(folder / "segments/000003.jsonl")
    assert back == head
    assert same(rows, none)


@pytest.mark.parametrize("count", [4, 2000])
def test_a_segment_record_that_was_cut_anywhere_is_none(tmp_path: Path, count: int) -> None:
    segment_record.write(tmp_path, HEAD, rows_of(count))
    path = tmp_path / "segments/000003.jsonl"
    whole = path.read_bytes()
    head = whole.index(b"\n")
    for size in {*range(0, len(whole), len(whole) // 50), head - 1, head, head + 1, head + 2, len(whole) - 1}:
        path.write_bytes(whole[:size])
        for read in (segment_record.read, segment_record.read_head):
            with pytest.raises(
                OutputError, match=r"000003\.jsonl: segment is not done \(.*\); delete this file"
            ) as raised:
                read(path)
            assert "\n" not in str(raised.value)
    assert list(segment_record.read_heads(tmp_path, [2, 3])) == [(2, None), (3, None)]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"infraredcity-segment-2"', '"infraredcity-segment-0"', "format is 'infraredcity-segment-0', not"),
        ('"number":3', '"number":4', "it is that of segment 4"),
        ('"pts":[15360,', '"pts":[', "its columns have several lengths"),
        ('"picture_sizes":[[1,', '"picture_sizes":[[2,', "its columns have several lengths"),
        ('"sha256":"AAEC', '"sha256":"AAE', "padding"),
        ('"suspect"', '"sus"', "'suspect'"),
    ],
)
def test_a_segment_record_that_does_not_agree_with_itself_is_none(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    first, second = segment_record.to_bytes(HEAD, rows_of(4)).decode().splitlines()
    assert (first + second).count(old) == 1
    first, second = first.replace(old, new), second.replace(old, new)
    told = json.loads(first) | {"rows_bytes": len(second) + 1}
    data = f"{json.dumps(told, separators=(',', ':'))}\n{second}\n".encode()
    with pytest.raises(OutputError, match=message):
        segment_record.from_bytes(data, name="segments/000003.jsonl")


def test_a_segment_record_under_the_name_of_another_is_none(tmp_path: Path) -> None:
    segment_record.write(tmp_path, HEAD, rows_of(4))
    path = tmp_path / "segments/000003.jsonl"
    other = path.rename(path.with_name("000005.jsonl"))
    for read in (segment_record.read, segment_record.read_head):
        with pytest.raises(OutputError, match=r"000005\.jsonl: segment is not done \(it is that of segment 3\)"):
            read(other)


def test_many_segment_records_come_in_the_order_that_was_asked_for(folder: AnyPath) -> None:
    numbers = [5, 0, 300, 7]
    for number in numbers:
        segment_record.write(folder, replace(HEAD, number=number), rows_of(2))
    assert [head.number for head, _ in segment_record.read_all(folder, numbers)] == numbers
    assert [(number, head is not None) for number, head in segment_record.read_heads(folder, [7, 8, 5])] == [
        (7, True),
        (8, False),
        (5, True),
    ]
    with pytest.raises(OutputError, match="segment is not done"):
        list(segment_record.read_all(folder, [5, 6]))


def test_only_names_of_segment_records_say_a_number() -> None:
    names = ["000000.jsonl", "000012.jsonl", "1234567.jsonl", "12.json", ".tmp-node-7-ab-000012.jsonl", "x.jsonl", "12"]
    assert [segment_record.number_of(name) for name in names] == [0, 12, 1_234_567, None, None, None, None]
