"""The shards in webdataset, by stream, and in wids, by number."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from interop_sets import expected

Reader = Callable[..., list[Any]]
WEBDATASET = """
import hashlib, json, sys, webdataset
for sample in webdataset.WebDataset(sys.argv[1:], shardshuffle=False):
    print(json.dumps([sample["__key__"], hashlib.sha256(sample["jpg"]).hexdigest(), json.loads(sample["json"])]))
"""
WIDS = """
import hashlib, json, sys, wids
samples = wids.ShardListDataset(sys.argv[1], localname=lambda path: path, transformations=[])
for number in range(len(samples)):
    sample = samples[number]
    image, facts = sample[".jpg"].read(), json.load(sample[".json"])
    print(json.dumps([sample["__key__"], hashlib.sha256(image).hexdigest(), facts]))
"""


def test_webdataset_streams_every_sample_in_order(extracted: Path, read_with: Reader) -> None:
    folder = extracted / "city_clear"
    shards = sorted(folder.glob("*.tar"))
    assert len(shards) == 4
    rows = read_with("webdataset", WEBDATASET, *shards)
    assert len(rows) == 50
    assert rows == [sample.row for sample in expected(folder)]


@pytest.mark.parametrize("part", ["city/infrared-train", "city/infrared-test", "city/visible-train"])
def test_webdataset_streams_a_lite_part(lite_set: Path, read_with: Reader, part: str) -> None:
    rows = read_with("webdataset", WEBDATASET, *sorted((lite_set / part).glob("*.tar")))
    assert rows == [sample.row for sample in expected(lite_set, part)]


def test_wids_finds_every_sample_by_its_number(extracted: Path, read_with: Reader) -> None:
    folder = extracted / "city_day"
    rows = read_with("wids", WIDS, folder / "index.json")
    assert len(rows) == 50
    assert rows == [sample.row for sample in expected(folder)]


def test_wids_reads_in_place_and_leaves_the_folder_as_it_was(lite_set: Path, read_with: Reader) -> None:
    folder = lite_set / "city/infrared-train"
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    rows = read_with("wids", WIDS, folder / "index.json")
    assert rows == [sample.row for sample in expected(lite_set, "city/infrared-train")]
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
