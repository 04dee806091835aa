import shutil
from pathlib import Path

import pytest
from commands import RunCommand

from infraredcity.shards import index_file

SHARD = "infraredcity-city_clear-000001.tar"


@pytest.fixture
def clip(extracted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(extracted / "city_clear", tmp_path / "city_clear"))


def flip(clip: Path) -> None:
    data = bytearray((clip / SHARD).read_bytes())
    data[int(index_file.load(clip).offset[20]) + 300] ^= 1
    (clip / SHARD).write_bytes(data)


def test_a_whole_data_set_ends_with_0_and_a_line(extracted: Path, infraredcity: RunCommand) -> None:
    ran = infraredcity("verify", extracted, "--decode", "all")
    assert ran.code == 0
    assert "2 parts, 8 shards, 100 samples, " in ran.stdout
    assert ran.stdout.endswith("100 decoded: OK\n")


def test_a_damaged_data_set_ends_with_4_and_a_line_for_each_finding(clip: Path, infraredcity: RunCommand) -> None:
    flip(clip)
    ran = infraredcity("verify", clip)
    lines = ran.stdout.splitlines()
    assert ran.code == 4
    assert len(lines) == 3
    assert lines[0].startswith(f"shard-hash: {clip / SHARD}: sha256 is ")
    assert (
        lines[1] == f"picture-hash: {clip / SHARD}: the picture of city_clear_00000020 is not the one that was written"
    )
    assert lines[2].endswith("2 problems")
    facts = infraredcity("verify", clip, "--json")
    assert facts.code == 4
    assert facts.json["is_ok"] is False
    assert [(each["part"], each["problem"], each["where"]) for each in facts.json["findings"]] == [
        (".", "shard-hash", SHARD),
        (".", "picture-hash", "city_clear_00000020"),
    ]


def test_many_findings_are_summed_up(clip: Path, infraredcity: RunCommand) -> None:
    index = index_file.load(clip)
    index.offset[:] += 512
    index_file.save(index, clip)
    ran = infraredcity("verify", clip)
    assert ran.code == 4
    assert "more (" in ran.stdout
    assert "--json lists all" in ran.stdout
    assert len(ran.stdout.splitlines()) == 12
    assert len(infraredcity("verify", clip, "--json").json["findings"]) > 50


def test_published_counts_are_printed_beside_what_is_here(extracted: Path, infraredcity: RunCommand) -> None:
    ran = infraredcity("verify", extracted, "--published", "--decode", "none")
    assert ran.code == 4
    assert "infrared, night                        201,856        50  differs" in ran.stdout
    assert "published: all frames: 579,984 frames are published, 100 are here" in ran.stdout


def test_no_data_set_is_an_error(tmp_path: Path, infraredcity: RunCommand) -> None:
    for command in ("verify", "repair"):
        ran = infraredcity(command, tmp_path)
        assert (ran.code, ran.stdout) == (1, "")
        assert "holds no shards; name a folder that extract, make-lite or shard wrote" in ran.stderr


def test_repairing_says_what_it_did_and_what_to_run(clip: Path, infraredcity: RunCommand) -> None:
    flip(clip)
    planned = infraredcity("repair", clip, "--dry-run")
    assert planned.code == 3
    assert "would: " in planned.stdout
    assert infraredcity("verify", clip).code == 4
    ran = infraredcity("repair", clip)
    assert ran.code == 3
    assert f"{clip / SHARD}: set aside as {SHARD}.damaged" in ran.stdout
    assert (
        'lost: city_clear frames 16 to 31 (16); run the same "infraredcity extract --clip city_clear" again'
        in ran.stdout
    )
    assert infraredcity("verify", clip).code == 0
    again = infraredcity("repair", clip)
    assert (again.code, again.stdout) == (0, f"{clip}: 34 samples in 1 parts, nothing to do\n")
    assert infraredcity("repair", clip, "--json").json["lost"] == []


def test_what_repair_cannot_put_right_is_told_and_ends_with_3(tmp_path: Path, infraredcity: RunCommand) -> None:
    (tmp_path / "x.tar").write_bytes(b"no tar")
    ran = infraredcity("repair", tmp_path)
    assert ran.code == 3
    left, total = ran.stdout.splitlines()
    assert left.startswith(f"left: {tmp_path / 'clips.json'}: ")
    assert "it cannot be rebuilt" in left
    assert total == f"{tmp_path}: 0 samples in 1 parts, 1 things left"


def test_marks_of_direction_and_sequences_of_a_terminal_are_shown_as_escapes(
    clip: Path, infraredcity: RunCommand
) -> None:
    (clip / "exe.\u202egpj\x1b[2J.tar").write_bytes(b"")
    ran = infraredcity("verify", clip)
    assert ran.code == 4
    assert r"exe.\u202egpj\x1b[2J.tar" in ran.stdout
    assert not {"\u202e", "\x1b"} & set(ran.stdout)
    ran = infraredcity("verify", clip.with_name("none\u202e"))
    assert ran.code == 1
    assert r"none\u202e" in ran.stderr


def test_a_very_long_number_is_cut(clip: Path, infraredcity: RunCommand) -> None:
    facts = (clip / "clips.json").read_text()
    assert '"num_suspect": 0' in facts
    (clip / "clips.json").write_text(facts.replace('"num_suspect": 0', f'"num_suspect": 1{"0" * 4000}'))
    ran = infraredcity("verify", clip)
    assert ran.code == 4
    assert "num_suspect 1000000000000000000000000000000000000000... (4001 digits) of city_clear" in ran.stdout
