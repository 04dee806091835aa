import re
from pathlib import Path

import pytest
from commands import RunCommand

from infraredcity.datasets import manifest
from infraredcity.datasets.dataset import open_dataset


def test_selecting_prints_rows_or_facts(extracted: Path, infraredcity: RunCommand) -> None:
    ran = infraredcity("select", extracted, "--where", "clip=city_day", "--where", "frame_index<3")
    lines = ran.stdout.splitlines()
    assert ran.code == 0
    assert lines[0].startswith("key,clip,modality")
    assert [line.split(",")[0] for line in lines[1:]] == [f"city_day_0000000{frame}" for frame in range(3)]
    assert "city_day/infraredcity-city_day-000000.tar" in lines[1]
    assert "3 samples of 1 parts chosen" in ran.stderr
    facts = infraredcity("select", extracted, "--where", "frame_index=1,4,5,6", "--window", 3, "--json").json
    assert (facts["num_samples"], facts["parts"]) == (6, {"city_clear": 3, "city_day": 3})
    assert facts["where"] == ["frame_index=1,4,5,6"]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_selection_in_a_file_becomes_shards(
    extracted: Path, infraredcity: RunCommand, tmp_path: Path, suffix: str
) -> None:
    chosen = tmp_path / f"chosen.{suffix}"
    ran = infraredcity("select", extracted, "--where", "frame_index>=30", "-o", chosen)
    assert (ran.code, ran.stdout) == (0, "")
    assert len(manifest.read(chosen)["key"]) == 40
    out = tmp_path / "out"
    ran = infraredcity("shard", extracted, "--selection", chosen, "--out", out, "--samples-per-shard", 8, "--json")
    assert ran.code == 0
    assert ran.json["manifest_hash"] == manifest.dataset_hash(manifest.read(chosen))
    assert [part["num_shards"] for part in ran.json["parts"]] == [3, 3]
    direct = infraredcity("shard", extracted, "--where", "frame_index>=30", "--out", tmp_path / "direct")
    assert "written" in direct.stderr
    assert [part.index.samples_hash() for part in open_dataset(out)] == [
        part.index.samples_hash() for part in open_dataset(tmp_path / "direct")
    ]
    again = infraredcity("shard", extracted, "--where", "frame_index>=30", "--out", tmp_path / "direct")
    assert "nothing to do" in again.stderr


def test_resharding_keeps_samples_and_hash(extracted: Path, infraredcity: RunCommand, tmp_path: Path) -> None:
    before = infraredcity("select", extracted, "--json").json
    ran = infraredcity("reshard", extracted, "--samples-per-shard", 7, "--out", tmp_path)
    assert ran.code == 0
    assert ran.stdout.splitlines()[1].split()[:3] == ["city_clear", "50", "8"]
    assert infraredcity("select", tmp_path, "--json").json["manifest_hash"] == before["manifest_hash"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("select", "{data}", "--where", "colour=red"), 2, "unknown column 'colour'"),
        (("select", "{data}", "-o", "x.json"), 2, "must end in .csv or .parquet"),
        (
            ("select", "{none}"),
            1,
            "Error: .*nowhere: no such folder; name a folder that extract, make-lite or shard wrote",
        ),
        (("shard", "{data}", "--out", "{tmp}/x", "--where", "clip=nobody"), 1, "Error: nothing was chosen"),
        (("shard", "{data}", "--out", "{data}"), 1, "Error: .*is where the samples come from"),
        (
            ("reshard", "{data}/city_clear", "--out", "{data}/city_clear/sub", "--samples-per-shard", "7"),
            1,
            "Error: .*city_clear/sub: lies in .*city_clear, where the samples come from; use another --out",
        ),
        (
            ("reshard", "{data}", "--out", "{data}/small", "--samples-per-shard", "7"),
            1,
            "Error: .*/small: lies in .*, where the samples come from; use another --out",
        ),
        (
            ("reshard", "{data}/city_clear", "--out", "{data}", "--samples-per-shard", "7"),
            1,
            "Error: .*: holds .*/city_clear, where the samples come from; use another --out",
        ),
        (
            ("make-lite", "--from", "{data}", "--out", "{data}/..", "--scale", "auto"),
            1,
            "Error: .*: holds .*, where the samples come from; use another --out",
        ),
        (
            ("make-lite", "--from", "{data}", "--out", "{data}/a/lite", "--scale", "auto"),
            1,
            "Error: .*/a/lite: lies in .*, where the samples come from; use another --out",
        ),
        (
            ("shard", "{data}", "--out", "{tmp}/x", "--selection", "a.csv", "--window", "2"),
            2,
            "--selection already names",
        ),
        (("shard", "{data}", "--out", "{tmp}/x", "--selection", "{tmp}/a.csv"), 1, "Error: .*a.csv: no such file"),
        (("reshard", "{data}", "--out", "{tmp}/x"), 2, "Missing option '--samples-per-shard'"),
    ],
)
def test_what_cannot_be_done_says_so_in_a_line(
    extracted: Path, infraredcity: RunCommand, tmp_path: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    places = {"data": extracted, "tmp": tmp_path, "none": tmp_path / "nowhere"}
    ran = infraredcity(*(argument.format(**places) for argument in arguments))
    assert (ran.code, ran.stdout) == (code, "")
    assert re.search(message, ran.stderr)
    assert not (tmp_path / "x").exists()
