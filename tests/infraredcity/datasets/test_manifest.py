import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from infraredcity.datasets import clip_facts, dataset, manifest
from infraredcity.datasets.clip_facts import ClipFacts, read_clips, write_clips
from infraredcity.datasets.dataset import open_dataset
from infraredcity.datasets.folder import open_folder
from infraredcity.datasets.manifest import Columns
from infraredcity.errors import ManifestError
from infraredcity.shards import index as sample_index
from infraredcity.shards import index_file, sidecars

FACTS = ClipFacts(
    clip_id="city_clear",
    scene="city",
    weather="clear",
    modality="infrared",
    time_of_day="night",
    time_base="1/12800",
    nominal_fps=25.0,
    frame_step=2,
    clip_frames=50,
    sources=[{"name": "a.mp4", "num_frames": 50}],
    extraction={"every": 2, "size": [48, 32]},
    versions={"av": "18.1.0"},
    suspect=["a.mp4: something"],
)


def test_facts_survive_the_round_trip(tmp_path: Path) -> None:
    write_clips(tmp_path, [FACTS])
    assert read_clips(tmp_path) == {"city_clear": FACTS}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"clips\.json: damaged"),
        ("[]", "not of format 'infraredcity-clips-1'"),
        (
            '{"format": "infraredcity-clips-9"}',
            "not of format 'infraredcity-clips-1'; build it again with this version",
        ),
        ('{"format": "infraredcity-clips-1"}', "lacks a fact"),
        ('{"format": "infraredcity-clips-1", "clips": {"a": {"clip_id": "a"}}}', "lacks a fact"),
        ('{"format": "infraredcity-clips-1", "clips": [1]}', "lacks a fact"),
    ],
)
def test_damaged_facts_say_so(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "clips.json").write_text(text)
    with pytest.raises(ManifestError, match=message):
        read_clips(tmp_path)


def test_missing_facts_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"clips\.json: no such file; finish extraction there first"):
        read_clips(tmp_path)


def test_facts_of_a_later_version_are_read_as_far_as_they_are_known(tmp_path: Path) -> None:
    write_clips(tmp_path, [FACTS])
    payload = json.loads((tmp_path / "clips.json").read_text())
    payload["clips"]["city_clear"]["mood"] = "calm"
    (tmp_path / "clips.json").write_text(json.dumps(payload))
    assert read_clips(tmp_path) == {"city_clear": FACTS}


def test_an_index_that_contradicts_its_shard_gets_no_sidecars(extracted: Path, tmp_path: Path) -> None:
    folder = tmp_path / "city_clear"
    shutil.copytree(extracted / "city_clear", folder)
    index = index_file.load(folder)
    index.span[3] += 512
    with pytest.raises(ManifestError, match=r"sample city_clear_00000003 ends elsewhere than its index says"):
        sidecars.write_reader_indexes(folder, index, name="x")
    index.span[3] -= 512
    index.size[3] += 512  # no header stands where the json's should
    with pytest.raises(ManifestError, match="city_clear_00000003 ends elsewhere than its index says; build it again"):
        sidecars.write_reader_indexes(folder, index, name="x")


def rows_of_clip(extracted: Path) -> Columns:
    folder = extracted / "city_clear"
    return manifest.columns(index_file.load(folder), read_clips(folder), split="train")


def test_the_manifest_has_the_columns_that_its_readers_know(extracted: Path) -> None:
    assert (extracted / "city_clear/manifest.csv").read_text().splitlines()[:2] == [
        "key,clip,modality,time_of_day,scene,weather,split,frame_index,pts,time_s,run_id,shard,offset,size,sha256,width,height,"
        "dup_of,suspect,mark",
        "city_clear_00000000,city_clear,infrared,night,city,clear,all,0,0,0.0,0,infraredcity-city_clear-000000.tar,512,"
        + (extracted / "city_clear/manifest.csv").read_text().splitlines()[1].split(",")[13]
        + ","
        + index_file.load(extracted / "city_clear").sha256[0].tobytes().hex()
        + ",96,64,,false,",
    ]


@pytest.mark.parametrize("name", ["manifest.csv", "manifest.parquet"])
def test_a_manifest_survives_the_round_trip(extracted: Path, tmp_path: Path, name: str) -> None:
    rows = rows_of_clip(extracted)
    rows["dup_of"][3], rows["suspect"][4], rows["mark"][4] = "city_clear_00000001", True, "suspect+repeat"
    manifest.write_blocks(tmp_path, [rows])
    assert manifest.read(tmp_path / name) == rows


def test_an_empty_manifest_survives_the_round_trip(extracted: Path, tmp_path: Path) -> None:
    none = manifest.take(rows_of_clip(extracted), [])
    manifest.write_blocks(tmp_path, [none])
    assert manifest.read(tmp_path / "manifest.csv") == manifest.read(tmp_path / "manifest.parquet") == none


def test_pandas_reads_what_was_written(extracted: Path, tmp_path: Path) -> None:
    rows = rows_of_clip(extracted)
    manifest.write_blocks(tmp_path, [rows])
    table = pd.read_parquet(tmp_path / "manifest.parquet")
    assert {name: table[name].tolist() for name in table} == rows
    as_text = pd.read_csv(tmp_path / "manifest.csv", keep_default_na=False)
    assert {name: as_text[name].tolist() for name in as_text} == rows


def test_the_manifests_hash_knows_what_samples_are_and_not_where_they_lie(extracted: Path) -> None:
    rows = rows_of_clip(extracted)
    before = manifest.dataset_hash(rows)
    elsewhere = {**rows, "shard": ["x.tar"] * 50, "offset": [0] * 50, "size": [1] * 50}
    backwards = manifest.take(rows, range(49, -1, -1))
    assert manifest.dataset_hash(elsewhere) == manifest.dataset_hash(backwards) == before
    changed = {
        manifest.dataset_hash({**rows, name: [change(rows[name][0]), *rows[name][1:]]})
        for name, change in {
            "key": lambda _: "city_clear_00000099",
            "split": lambda _: "test",
            "weather": lambda _: "overcast",
            "pts": lambda value: value + 1,
            "run_id": lambda value: value + 1,
            "sha256": lambda value: "f" * 64,
            "width": lambda value: value + 1,
            "dup_of": lambda _: "city_clear_00000001",
            "suspect": lambda _: True,
        }.items()
    }
    assert len(changed | {before}) == 10
    assert manifest.dataset_hash(manifest.take(rows, range(49))) != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "", "lacks the column key"),
        (lambda text: text.replace("frame_index", "frame"), "lacks the column frame_index"),
        (lambda text: text.replace(",infrared,", ",", 1), "a row has not 20 values"),
        (lambda text: text.replace(",false,", ",no,", 1), "suspect must be true or false"),
        (lambda text: text.replace(",0.04,", ",soon,", 1), "could not convert"),
        (lambda text: text.replace(",512,", ',"512,', 1), "damaged"),
        (lambda text: text.replace("weather,split", "split,split", 1), "lacks the column weather"),
    ],
)
def test_a_damaged_csv_says_so(extracted: Path, tmp_path: Path, change: Callable[[str], str], message: str) -> None:
    path = tmp_path / "manifest.csv"
    path.write_text(change(manifest.csv_bytes(rows_of_clip(extracted)).decode()))
    with pytest.raises(
        ManifestError, match=rf"manifest\.csv: damaged, or not a manifest .*{message}|{message}.*build it again"
    ):
        manifest.read(path)


@pytest.mark.parametrize("block_rows", [1, 7, 50])
def test_rows_written_a_few_at_a_time_are_those_written_at_once(
    extracted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_rows: int
) -> None:
    part = open_folder(extracted, "city_clear")
    expected = manifest.columns(part.index, part.clips)
    for module in (sample_index, manifest, dataset):
        monkeypatch.setattr(module, "BLOCK_ROWS", block_rows)
    manifest.write_rows(tmp_path, part.index, part.clips)
    assert (tmp_path / "manifest.csv").read_bytes() == (extracted / "city_clear/manifest.csv").read_bytes()
    blocks = [*manifest.read_blocks(tmp_path / "manifest.csv")], [*manifest.read_blocks(tmp_path / "manifest.parquet")]
    assert blocks[0] == blocks[1]
    assert [len(block["key"]) for block in blocks[0]][:-1] == [block_rows] * ((50 - 1) // block_rows)
    assert manifest.concatenate(blocks[0]) == expected
    written = (tmp_path / "manifest.parquet").read_bytes()
    manifest.write_rows(tmp_path, part.index, part.clips)
    assert (tmp_path / "manifest.parquet").read_bytes() == written
    assert part.index.samples_hash() == index_file.load_with_hash(extracted / "city_clear")[1]


@pytest.mark.parametrize("block_rows", [1, 7, 1000])
def test_the_hash_of_parts_is_that_of_all_their_rows(
    extracted: Path, monkeypatch: pytest.MonkeyPatch, block_rows: int
) -> None:
    parts = open_dataset(extracted)
    mixed = [
        replace(parts[1], name="b", split="test"),
        replace(parts[0], name="a", index=parts[0].index.take(np.arange(49, -1, -2)), split="train"),
        replace(parts[0], name="c", index=parts[0].index.take(np.arange(0, 50, 2)), split="train"),
        replace(parts[0], name="d", index=parts[0].index.take(np.arange(0)), split="train"),
    ]
    expected = manifest.dataset_hash(dataset.rows_of(mixed))
    monkeypatch.setattr(dataset, "BLOCK_ROWS", block_rows)
    assert dataset.dataset_hash(mixed) == dataset.dataset_hash(mixed[::-1]) == expected
    assert dataset.dataset_hash(mixed[:2]) != expected
    assert dataset.dataset_hash([]) == manifest.dataset_hash(dataset.rows_of([]))


def test_a_damaged_parquet_says_so(extracted: Path, tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    data = manifest.parquet_bytes(rows_of_clip(extracted))
    for damaged in (data[:-100], data[100:], b""):
        path.write_bytes(damaged)
        with pytest.raises(ManifestError, match=r"manifest\.parquet: damaged, or not a manifest"):
            manifest.read(path)
    with pytest.raises(ManifestError, match=r"gone\.parquet: no such file"):
        manifest.read(tmp_path / "gone.parquet")


@pytest.mark.parametrize("shard", ["/etc/passwd", "../up.tar", "a/../../up.tar", "a//b.tar", "a\\b.tar", "", "./x.tar"])
def test_a_manifest_that_names_a_shard_elsewhere_is_refused(extracted: Path, tmp_path: Path, shard: str) -> None:
    rows = rows_of_clip(extracted)
    rows["shard"][7] = shard
    manifest.write_blocks(tmp_path, [rows])
    for name in ("manifest.csv", "manifest.parquet"):
        with pytest.raises(ManifestError, match="names a shard outside its folder"):
            manifest.read(tmp_path / name)


def test_the_split_of_a_folder_survives(tmp_path: Path) -> None:
    write_clips(tmp_path, [FACTS], split="test")
    assert clip_facts.read_folder(tmp_path) == ({"city_clear": FACTS}, "test")
    payload = json.loads((tmp_path / "clips.json").read_text())
    del payload["split"]  # as before there were splits
    (tmp_path / "clips.json").write_text(json.dumps(payload))
    assert clip_facts.read_folder(tmp_path)[1] == "all"


def test_the_table_of_a_folder_has_a_row_for_each_sample_of_all_its_clips(extracted: Path, tmp_path: Path) -> None:
    one = manifest.table(extracted / "city_clear")
    assert one.column("shard").to_pylist()[15:17] == [f"infraredcity-city_clear-00000{part}.tar" for part in (0, 1)]
    assert one.column("time_s").to_pylist()[:3] == [0.0, 0.04, 0.08]
    both, rows = manifest.table(str(extracted)), dataset.rows_of(open_dataset(extracted))
    assert both.to_pydict() == rows
    assert both.column_names == list(manifest.COLUMNS)
    assert both.to_pandas()["time_s"].tolist() == rows["time_s"]
    manifest.write_blocks(tmp_path, [rows])
    assert manifest.table(tmp_path) == manifest.table(tmp_path / "manifest.csv") == both
    with pytest.raises(ManifestError, match="holds no manifest"):
        manifest.table(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        ("time_base", "1/0"),
        ("time_base", "x"),
        ("frame_step", 0),
        ("extraction", {"start_frame": "first"}),
        ("sources", [{"name": "a.mp4"}]),
        ("clip_id", "city_day"),
    ],
)
def test_facts_that_nothing_can_be_are_one_line(tmp_path: Path, fact: str, value: object) -> None:
    write_clips(tmp_path, [FACTS])
    payload = json.loads((tmp_path / "clips.json").read_text())
    payload["clips"]["city_clear"][fact] = value
    (tmp_path / "clips.json").write_text(json.dumps(payload))
    with pytest.raises(ManifestError, match=r"clips\.json: .* of 'city_clear' is nothing it can be; run .*repair"):
        read_clips(tmp_path)
    assert len(clip_facts.read_unchecked(tmp_path)[0]) == 1


def test_a_fact_of_another_kind_has_its_name() -> None:
    # Made past the check of types that tests switch on and that users do not have.
    wrong = copy.copy(FACTS)
    object.__setattr__(wrong, "frame_step", "2")
    assert clip_facts.flaw_of("city_clear", wrong) == "frame_step"
    assert clip_facts.flaw_of("city_clear", FACTS) is None
