import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from infraredcity.datasets import manifest
from infraredcity.datasets.dataset import open_dataset, rows_of
from infraredcity.datasets.folder import open_folder, open_indexed, write_folder
from infraredcity.datasets.sources import open_sources
from infraredcity.datasets.walk import part_names
from infraredcity.errors import ManifestError
from infraredcity.shards.index import FROZEN, SUSPECT


def test_parts_are_found_wherever_the_data_set_is_entered(extracted: Path) -> None:
    assert part_names(extracted) == ["city_clear", "city_day"]
    assert part_names(extracted / "city_day") == ["."]
    assert part_names(extracted.parent / "nowhere") == []
    assert [part.name for part in open_dataset(extracted)] == ["city_clear", "city_day"]


def test_hidden_folders_links_and_folders_of_others_are_no_parts(extracted: Path, tmp_path: Path) -> None:
    shutil.copytree(extracted / "city_day", tmp_path / "a/b/city_day")
    shutil.copytree(extracted / "city_day", tmp_path / ".trash/city_day")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/readme.txt").write_text("nothing")
    assert part_names(tmp_path) == ["a/b/city_day"]


def test_the_rows_of_a_data_set_name_shards_from_its_folder(extracted: Path) -> None:
    rows = rows_of(open_dataset(extracted))
    assert len(rows["key"]) == 100
    assert rows["shard"][0] == "city_clear/infraredcity-city_clear-000000.tar"
    assert rows["shard"][99] == "city_day/infraredcity-city_day-000003.tar"
    assert rows_of(open_dataset(extracted / "city_day"))["shard"][0] == "infraredcity-city_day-000000.tar"


def test_unfinished_and_damaged_parts_are_named(extracted: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="holds no shards; name a folder that extract, make-lite or shard wrote"):
        open_dataset(tmp_path)
    with pytest.raises(ManifestError, match="nowhere: no such folder"):
        open_dataset(tmp_path / "nowhere")
    shutil.copytree(extracted / "city_day", tmp_path / "city_day")
    payload = json.loads((tmp_path / "city_day/clips.json").read_text())
    payload["clips"]["other"] = payload["clips"].pop("city_day") | {"clip_id": "other"}
    (tmp_path / "city_day/clips.json").write_text(json.dumps(payload))
    with pytest.raises(ManifestError, match=r"clips\.json: lacks clip city_day, which index\.npz has"):
        open_dataset(tmp_path)
    (tmp_path / "city_day/clips.json").unlink()
    with pytest.raises(ManifestError, match=r"clips\.json: no such file; finish extraction there first"):
        open_dataset(tmp_path)


def test_the_loader_opens_the_folders_that_commands_open(extracted: Path, tmp_path: Path) -> None:
    part, indexed = open_folder(extracted, "city_day"), open_indexed(extracted / "city_day")
    opened = open_sources([[extracted / "city_day"]])
    assert indexed is not None
    assert opened.data_hash == part.data_hash == indexed.data_hash == part.index.samples_hash()
    first = part.of_shards([part.index.shards[0].name])
    assert first.data_hash == open_sources([[extracted / "city_day" / part.index.shards[0].name]]).data_hash
    assert open_indexed(tmp_path) is None
    (tmp_path / "index.npz").write_bytes(b"not an index")
    for opening in (lambda: open_indexed(tmp_path), lambda: open_sources([[tmp_path / "*.npz"]])):
        with pytest.raises(ManifestError, match=r"index\.npz: damaged or not an index"):
            opening()


def test_writing_a_part_counts_its_marks_anew(extracted: Path, tmp_path: Path) -> None:
    part = open_folder(extracted, "city_day")
    shutil.copytree(extracted / "city_day", tmp_path / "a/city_day")
    marks = np.zeros(50, np.uint8)
    marks[3], marks[4], marks[5] = SUSPECT, SUSPECT | FROZEN, FROZEN
    write_folder(tmp_path, "a/city_day", replace(part.index, mark=marks), part.clips, split="test")
    written = open_folder(tmp_path, "a/city_day")
    facts = written.clips["city_day"]
    assert (facts.num_suspect, facts.num_repeats, facts.num_frozen, written.split) == (2, 0, 2, "test")
    assert json.loads((written.path / "index.json").read_text())["name"] == "a-city_day"
    assert manifest.read(written.path / "manifest.parquet")["split"] == ["test"] * 50
