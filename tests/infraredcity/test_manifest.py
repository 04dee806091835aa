import json
import shutil
from pathlib import Path

import pytest

from infraredcity import index as sample_index
from infraredcity import manifest
from infraredcity.errors import ManifestError
from infraredcity.manifest import ClipFacts, read_clips, write_clips

FACTS = ClipFacts(
    clip_id="city_clear",
    scene="city",
    weather="clear",
    modality="infrared",
    time_of_day="night",
    time_base="1/12800",
    nominal_fps=25.0,
    width_px=96,
    height_px=64,
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
    index = sample_index.load(folder)
    index.span[3] += 512
    with pytest.raises(ManifestError, match=r"sample city_clear_00000003 ends elsewhere than its index says"):
        manifest.write_reader_indexes(folder, index, name="x")
    index.span[3] -= 512
    index.size[3] += 512  # no header stands where the json's should
    with pytest.raises(ManifestError, match="city_clear_00000003 ends elsewhere than its index says; build it again"):
        manifest.write_reader_indexes(folder, index, name="x")


def test_the_table_names_split_and_shard(extracted: Path) -> None:
    folder = extracted / "city_clear"
    table = manifest.table(sample_index.load(folder), read_clips(folder), split="train")
    assert set(table["split"]) == {"train"}
    assert table["shard"].tolist()[15:17] == [f"infraredcity-city_clear-00000{number}.tar" for number in (0, 1)]
    assert table["time_s"].tolist()[:3] == [0.0, 0.04, 0.08]
