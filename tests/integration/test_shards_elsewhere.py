"""The shards open unchanged in readers that know nothing of this house."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from processes import PATIENCE_S
from synthetic import barcode

from infraredcity.stills.decode import decode

READ_WITH_WEBDATASET = """
import json, sys, webdataset
for sample in webdataset.WebDataset(sys.argv[1], shardshuffle=False):
    facts = json.loads(sample["json"])
    print(json.dumps([sample["__key__"], sorted(sample), sample["jpg"].hex(), facts["frame_index"]]))
"""
DECODE_WITH_WEBDATASET = """
import sys, webdataset
pairs = webdataset.WebDataset(sys.argv[1], shardshuffle=False).decode("rgb8").to_tuple("jpg", "json", "__key__")
for image, facts, key in pairs:
    print(image.shape, image.dtype, facts["clip"], key)
"""


def run(code: str, pattern: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", code, pattern], capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_plain_webdataset_reads_every_frame_once_in_order(extracted: Path) -> None:
    pattern = str(extracted / "city_clear" / "infraredcity-city_clear-{000000..000003}.tar")
    rows = [json.loads(line) for line in run(READ_WITH_WEBDATASET, pattern)]
    assert [key for key, *_ in rows] == [f"city_clear_{frame:08d}" for frame in range(50)]
    assert [frame for *_, frame in rows] == list(range(50))
    assert [barcode(decode(bytes.fromhex(image), "gray")) for _, _, image, _ in rows] == list(range(50))
    # Besides the members only what webdataset adds itself.
    assert all([name for name in names if not name.startswith("__")] == ["jpg", "json"] for _, names, _, _ in rows)


def test_plain_webdataset_decodes_them(extracted: Path) -> None:
    pytest.importorskip("PIL", reason="webdataset decodes with Pillow")
    lines = run(DECODE_WITH_WEBDATASET, str(extracted / "city_day" / "infraredcity-city_day-000003.tar"))
    assert lines == [f"(64, 96, 3) uint8 city_day city_day_{frame:08d}" for frame in (48, 49)]


def test_the_wids_index_names_each_shard_with_its_samples(extracted: Path) -> None:
    folder = extracted / "city_clear"
    wids = json.loads((folder / "index.json").read_text())
    assert (wids["__kind__"], wids["wids_version"]) == ("wids-shard-index-v1", 1)
    assert [shard["nsamples"] for shard in wids["shardlist"]] == [16, 16, 16, 2]
    for shard in wids["shardlist"]:
        assert (folder / shard["url"]).stat().st_size == shard["filesize"]


def test_the_dali_index_gives_each_members_place(extracted: Path) -> None:
    folder = extracted / "city_clear"
    shard = folder / "infraredcity-city_clear-000001.tar"
    head, *lines = shard.with_suffix(".idx").read_text().splitlines()
    data = shard.read_bytes()
    with tarfile.open(shard) as archive:
        members = archive.getmembers()
    assert head == "v1.2 16"
    assert len(lines) == 16
    for number, line in enumerate(lines):
        fields = line.split(" ")
        assert len(fields) == 8
        for (suffix, offset, size, name), member in zip((fields[:4], fields[4:]), members[2 * number :], strict=False):
            assert (name, int(offset), int(size)) == (member.name, member.offset_data, member.size)
            assert name.endswith("." + suffix)
        assert barcode(decode(data[int(fields[1]) : int(fields[1]) + int(fields[2])], "gray")) == 16 + number


def test_the_manifest_reads_as_parquet_and_as_csv(extracted: Path) -> None:
    pandas = pytest.importorskip("pandas")
    folder = extracted / "city_day"
    parquet, csv = pandas.read_parquet(folder / "manifest.parquet"), pandas.read_csv(folder / "manifest.csv")
    assert list(parquet.columns) == [
        "key", "clip", "modality", "time_of_day", "scene", "weather", "split", "frame_index", "pts", "time_s", "run_id",
        "shard", "offset", "size", "sha256", "width", "height", "dup_of", "suspect", "mark",
    ]  # fmt: skip
    assert list(csv.columns) == list(parquet.columns)
    assert parquet["key"].tolist() == csv["key"].tolist() == [f"city_day_{frame:08d}" for frame in range(50)]
    assert parquet["time_s"].tolist() == pytest.approx([frame / 25 for frame in range(50)])
    assert set(parquet["modality"]) == {"visible"}
    assert set(zip(parquet["width"], parquet["height"], strict=True)) == {(96, 64)}
