import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import sample_index

from infraredcity.datasets import lite, manifest
from infraredcity.datasets.clip_facts import ClipFacts
from infraredcity.datasets.dataset import open_dataset, rows_of
from infraredcity.datasets.folder import ShardFolder, open_folder
from infraredcity.datasets.recipe import Cell, Recipe
from infraredcity.datasets.select import Condition, choose, find_rows, rows_of_chosen, write
from infraredcity.errors import ManifestError, OutputError, ShardError
from infraredcity.loader import WindowReader
from infraredcity.shards.index import REPEAT, SUSPECT
from infraredcity.shards.reader import iterate


@pytest.fixture(scope="module")
def lite_set(extracted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 train and 8 test frames of city_clear, 20 train frames of city_day."""
    out = tmp_path_factory.mktemp("lite")
    cells = (Cell(scene="city", clip="city_clear", train=16, test=8), Cell(scene="city", clip="city_day", train=20))
    lite.build(extracted, out, Recipe(name="tiny", run_frames=8, guard_frames=5, window_frames=2, cells=cells))
    return out


def chosen_keys(parts: list[ShardFolder], *conditions: str, window_frames: int = 1, stride: int = 1) -> list[str]:
    parsed = [Condition.parse(text) for text in conditions]
    keys: list[str] = rows_of_chosen(choose(parts, parsed, window_frames=window_frames, stride=stride))["key"]
    return keys


def made_up(num_frames: int, *, missing: tuple[int, ...] = (), clip: str = "city_clear") -> ShardFolder:
    facts = ClipFacts(
        clip_id=clip, scene="city", weather="clear", modality="infrared", time_of_day="night", time_base="1/12800",
        nominal_fps=25.0, frame_step=1, clip_frames=num_frames,
    )  # fmt: skip
    index = sample_index(num_frames, clip_id=clip, missing=missing)
    return ShardFolder(path=Path("/nowhere"), name=clip, index=index, clips={clip: facts}, split="all")


@pytest.mark.parametrize(
    ("condition", "frames"),
    [
        ("frame_index>=8", [8, 9]),
        ("frame_index > 8", [9]),
        ("frame_index<2", [0, 1]),
        ("frame_index<=1", [0, 1]),
        ("frame_index=3,5", [3, 5]),
        ("frame_index!=3,5", [0, 1, 2, 4, 6, 7, 8, 9]),
        ("time_s>=0.36", [9]),
        ("time_s<0.04", [0]),
        ("key=*_0000000[13]", [1, 3]),
        ("key=city_clear_00000004", [4]),
        ("clip=city_*", list(range(10))),
        ("clip!=city_*", []),
        ("clip=city_day,city_clear", list(range(10))),
        ("weather=overcast", []),
        ("suspect=true", [6]),
        ("suspect=false", [0, 1, 2, 3, 4, 5, 7, 8, 9]),
        ("mark=", [0, 1, 2, 3, 4, 5, 8, 9]),
        ("mark=*repeat*", [7]),
        ("dup_of=", [0, 1, 2, 3, 4, 5, 6, 8, 9]),
        ("dup_of!=", [7]),
        ("split=all", list(range(10))),
        ("width=96", list(range(10))),
    ],
)
def test_any_column_can_be_asked_for(condition: str, frames: list[int]) -> None:
    part = made_up(10)
    part.index.mark[6], part.index.mark[7] = SUSPECT, REPEAT
    dup_of = np.array([b""] * 7 + [b"city_clear_00000006", b"", b""])
    part = replace(part, index=replace(part.index, dup_of=dup_of))
    assert [int(key[-8:]) for key in chosen_keys([part], condition)] == frames


def test_all_conditions_must_hold() -> None:
    assert chosen_keys([made_up(10)], "frame_index>=3", "frame_index<5") == [
        "city_clear_00000003",
        "city_clear_00000004",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip", "expected COLUMN=VALUE"),
        ("colour=red", "unknown column 'colour'; the manifest has key, clip"),
        ("clip<z", "clip has no order"),
        ("suspect>=true", "suspect has no order"),
        ("suspect=maybe", "suspect is true or false, got 'maybe'"),
        ("frame_index>=ten", "frame_index is a whole number, got 'ten'"),
        ("time_s=soon", "time_s is a number, got 'soon'"),
    ],
)
def test_a_condition_that_says_nothing_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Condition.parse(text)


@settings(max_examples=60)
@given(
    missing=st.sets(st.integers(0, 29)),
    window_frames=st.integers(1, 5),
    stride=st.integers(1, 3),
    below=st.integers(0, 30),
)
def test_what_is_left_is_in_a_window_and_nothing_else_is_left_out(
    missing: set[int], window_frames: int, stride: int, below: int
) -> None:
    part = made_up(30, missing=tuple(missing))
    wanted = [f"frame_index<{below}"]
    kept = {int(key[-8:]) for key in chosen_keys([part], *wanted, window_frames=window_frames, stride=stride)}
    there = {frame for frame in range(below) if frame not in missing}
    span = (window_frames - 1) * stride + 1
    runs = [range(start, start + span) for start in range(30)]
    assert kept == {frame for run in runs if there.issuperset(run) for frame in run}


def test_window_length_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="window_frames and stride must be at least 1, got 0 and 1"):
        choose([made_up(3)], window_frames=0)


def test_a_selection_is_copied_byte_for_byte_and_stays_in_its_parts(lite_set: Path, tmp_path: Path) -> None:
    parts = open_dataset(lite_set)
    chosen = choose(parts, [Condition.parse("modality=infrared")], window_frames=3)
    report = write(chosen, tmp_path / "out", samples_per_shard=5)
    assert [(part.name, part.num_samples, part.num_shards) for part in report.parts] == [
        ("city/infrared-test", 8, 2),
        ("city/infrared-train", 16, 4),
    ]
    written = open_dataset(tmp_path / "out")
    assert [part.split for part in written] == ["test", "train"]
    source = {sample.key: sample.members for path in sorted(lite_set.rglob("*.tar")) for sample in iterate(path)}
    copied = [sample for path in sorted((tmp_path / "out").rglob("*.tar")) for sample in iterate(path)]
    assert len(copied) == 24
    assert all(sample.members == source[sample.key] for sample in copied)
    assert sorted(path.name for path in (tmp_path / "out/city/infrared-test").glob("*.tar")) == [
        "tiny-clear-test-city_clear-000000.tar",
        "tiny-clear-test-city_clear-000001.tar",
    ]
    rows = manifest.read(tmp_path / "out/manifest.parquet")
    assert rows == manifest.read(tmp_path / "out/manifest.csv") == rows_of(written)
    assert manifest.dataset_hash(rows) == report.manifest_hash == manifest.dataset_hash(rows_of_chosen(chosen))


def test_shards_of_another_size_are_the_same_data_in_the_same_order(lite_set: Path, tmp_path: Path) -> None:
    before = manifest.dataset_hash(manifest.read(lite_set / "manifest.csv"))
    report = write(choose(open_dataset(lite_set)), tmp_path / "out", samples_per_shard=3)
    assert report.manifest_hash == before
    readers = [
        WindowReader([root / "city/infrared-train/*.tar"], window_frames=2) for root in (lite_set, tmp_path / "out")
    ]
    windows = [reader.read(range(20)) for reader in readers]
    assert windows[0].keys == windows[1].keys
    assert (windows[0].frames == windows[1].frames).all()
    for reader in readers:
        reader.close()
    # And back again: the very bytes of the shards that make-lite wrote.
    write(choose(open_dataset(tmp_path / "out")), tmp_path / "back", samples_per_shard=lite.SAMPLES_PER_SHARD)
    for path in lite_set.rglob("*.tar"):
        assert (tmp_path / "back" / path.relative_to(lite_set)).read_bytes() == path.read_bytes()


def test_a_folder_of_one_clip_stays_one_folder(extracted: Path, tmp_path: Path) -> None:
    write(choose(open_dataset(extracted / "city_day")), tmp_path / "out", samples_per_shard=20)
    (part,) = open_dataset(tmp_path / "out")
    assert (part.name, len(part.index), len(part.index.shards)) == (".", 50, 3)
    whole = open_folder(extracted, "city_day")
    assert part.index.samples_hash() == whole.index.samples_hash()


def test_writing_again_does_nothing_and_after_a_kill_it_begins_again(lite_set: Path, tmp_path: Path) -> None:
    chosen = choose(open_dataset(lite_set))
    first = write(chosen, tmp_path, samples_per_shard=7)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file()}
    again = write(chosen, tmp_path, samples_per_shard=7)
    assert (first.is_new, again) == (True, replace(first, is_new=False))
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before} == before
    record = json.loads((tmp_path / "shards.json").read_text())
    (tmp_path / "shards.json").write_text(json.dumps(record | {"report": None}))
    for path in [*tmp_path.rglob("clips.json"), *(tmp_path / "city/infrared-test").glob("*.tar")]:
        path.unlink()
    (tmp_path / "city/visible-train/.tmp-1-x.tar").write_text("half")
    assert write(chosen, tmp_path, samples_per_shard=7).is_new
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == {
        path: data for path, (_, data) in before.items()
    }


def test_other_sets_are_not_overwritten_unasked(lite_set: Path, tmp_path: Path) -> None:
    parts = open_dataset(lite_set)
    write(choose(parts), tmp_path / "out", samples_per_shard=7)
    fewer = choose(parts, [Condition.parse("split=test")])
    with pytest.raises(OutputError, match="holds a selection of other settings or another source; use another --out"):
        write(fewer, tmp_path / "out", samples_per_shard=7)
    write(fewer, tmp_path / "out", samples_per_shard=7, overwrite=True)
    assert [part.name for part in open_dataset(tmp_path / "out")] == ["city/infrared-test"]
    with pytest.raises(OutputError, match="is where the samples come from; use another --out"):
        write(choose(parts), lite_set, samples_per_shard=7, overwrite=True)
    (tmp_path / "link").symlink_to(lite_set / "city")
    with pytest.raises(OutputError, match=r"link: lies in .*, where the samples come from; use another --out"):
        write(choose(parts), tmp_path / "link", samples_per_shard=7)
    with pytest.raises(ManifestError, match="nothing was chosen"):
        write([], tmp_path / "none", samples_per_shard=7)


def test_a_damaged_sample_is_not_copied(extracted: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in (extracted / "city_day").iterdir():
        if path.is_file():
            (source / path.name).write_bytes(path.read_bytes())
    part = open_folder(source)
    shard = source / part.index.shards[1].name
    data = bytearray(shard.read_bytes())
    data[int(part.index.offset[20]) + 100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ShardError, match=r"city_day_00000020\.jpg is not the picture that was written"):
        write(choose([part]), tmp_path / "out", samples_per_shard=7)
    assert not (tmp_path / "out/clips.json").exists()


def test_a_manifest_finds_its_samples_again(lite_set: Path) -> None:
    parts = open_dataset(lite_set)
    wanted = choose(parts, [Condition.parse("frame_index>=20")], window_frames=2)
    found = find_rows(parts, rows_of_chosen(wanted))
    assert [(each.part.name, each.rows.tolist()) for each in found] == [
        (each.part.name, each.rows.tolist()) for each in wanted
    ]


def test_a_manifest_of_another_build_is_refused(lite_set: Path) -> None:
    parts = open_dataset(lite_set)
    rows = rows_of(parts)
    with pytest.raises(
        ManifestError, match=r"the manifest says sha256 'ffffffff'\.\.\., the data set holds another picture"
    ):
        find_rows(parts, {**rows, "sha256": ["f" * 64, *rows["sha256"][1:]]})
    with pytest.raises(ManifestError, match=r"names 'city_clear_00009999' in .* which the data set lacks; select anew"):
        find_rows(parts, {**rows, "key": ["city_clear_00009999", *rows["key"][1:]]})
    with pytest.raises(ManifestError, match="which the data set lacks"):
        find_rows(parts, {**rows, "shard": ["elsewhere/x.tar", *rows["shard"][1:]]})
    with pytest.raises(ManifestError, match=f"names {rows['key'][0]} twice"):
        find_rows(parts, manifest.take(rows, [0, 1, 0]))
