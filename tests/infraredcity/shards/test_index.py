import json
import re
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import sample_index

from infraredcity.errors import ManifestError, RemoteError
from infraredcity.files.path import RemotePath
from infraredcity.shards import index_file
from infraredcity.shards.index import FROZEN, REPEAT, SUSPECT, SampleIndex, concatenate, repeated, run_ids
from infraredcity.shards.index_file import INDEX_NAME, load, save
from infraredcity.shards.names import key_of, parse_key

COLUMNS = ("clip", "frame_index", "pts", "run_id", "mark", "shard", "offset", "size", "span", "sha256", "dup_of")


def assert_equal(a: SampleIndex, b: SampleIndex) -> None:
    assert (a.clips, a.frame_steps, a.shards, a.image_format) == (b.clips, b.frame_steps, b.shards, b.image_format)
    for name in COLUMNS:
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
        assert getattr(a, name).dtype == getattr(b, name).dtype, name


def test_a_key_is_the_clip_and_the_padded_frame() -> None:
    assert key_of("city_clear", 12345) == "city_clear_00012345"
    assert sample_index(3).keys() == ["city_clear_00000000", "city_clear_00000001", "city_clear_00000002"]


@given(st.integers(0, 10**8 - 1), st.integers(0, 10**8 - 1))
def test_keys_hold_no_dot_and_sort_like_frames(a: int, b: int) -> None:
    assert re.fullmatch(r"[a-z0-9_-]+", key_of("city_clear", a))
    assert (key_of("city_clear", a) < key_of("city_clear", b)) == (a < b)


@settings(max_examples=30)
@given(
    num_frames=st.integers(0, 60),
    frame_step=st.integers(1, 4),
    missing=st.sets(st.integers(0, 59)),
    samples_per_shard=st.integers(1, 20),
)
def test_an_index_survives_saving_and_loading(
    tmp_path_factory: pytest.TempPathFactory,
    num_frames: int,
    frame_step: int,
    missing: set[int],
    samples_per_shard: int,
) -> None:
    index = sample_index(num_frames, frame_step=frame_step, missing=missing, samples_per_shard=samples_per_shard)
    folder = tmp_path_factory.mktemp("index")
    save(index, folder)
    assert_equal(load(folder), index)


def test_the_same_index_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(sample_index(20, missing=[7]), tmp_path / name)
    assert (tmp_path / "a" / INDEX_NAME).read_bytes() == (tmp_path / "b" / INDEX_NAME).read_bytes()


def test_a_missing_index_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"index\.npz: no index; finish extraction or make-lite there"):
        load(tmp_path)


def test_an_index_of_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as other_version:
        other_version.setattr(index_file, "FORMAT", "infraredcity-index-7")
        save(sample_index(3), tmp_path)
    line = (
        "format is 'infraredcity-index-7', this version reads 'infraredcity-index-4'; make the data set anew "
        r"\(`infraredcity extract --overwrite`, or `make-lite --overwrite` of a Lite set\)"
    )
    with pytest.raises(ManifestError, match=line):
        load(tmp_path)


def test_a_remote_index_beyond_all_bounds_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RemotePath("memory://indexes/set")
    try:
        save(sample_index(3), folder)
        size_bytes = (folder / INDEX_NAME).stat().st_size
        monkeypatch.setattr(index_file, "MAX_INDEX_BYTES", size_bytes)
        assert len(load(folder)) == 3
        monkeypatch.setattr(index_file, "MAX_INDEX_BYTES", size_bytes - 1)
        with pytest.raises(RemoteError, match=rf"index\.npz: is {size_bytes} bytes, expected at most {size_bytes - 1}"):
            load(folder)
    finally:
        fsspec.filesystem("memory").store.clear()


def test_an_index_without_a_column_is_refused(tmp_path: Path) -> None:
    save(sample_index(3), tmp_path)
    path = tmp_path / INDEX_NAME
    with np.load(path) as arrays:
        kept = {name: arrays[name] for name in arrays if name != "span"}
    np.savez(path, **kept)
    with pytest.raises(ManifestError, match=r"damaged or not an index \('span.*build it again"):
        load(tmp_path)


@pytest.mark.parametrize("header", [{"format": index_file.FORMAT}, [1, 2], None, "x"])
def test_an_index_with_another_header_is_refused(tmp_path: Path, header: object) -> None:
    np.savez(tmp_path / INDEX_NAME, header=np.frombuffer(json.dumps(header).encode(), np.uint8))
    with pytest.raises(ManifestError, match="damaged or not an index"):
        load(tmp_path)


@settings(max_examples=120)
@given(place=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255), keep=st.floats(0, 1))
def test_a_damaged_index_is_an_error_or_reads_the_same(
    tmp_path_factory: pytest.TempPathFactory, place: float, change: int, keep: float
) -> None:
    folder = tmp_path_factory.mktemp("index")
    index = sample_index(5)
    save(index, folder)
    path = folder / INDEX_NAME
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= change
    path.write_bytes(data)
    try:
        read = load(folder)
    except ManifestError:
        pass
    else:
        assert_equal(read, index)  # the change hit a byte that says nothing, such as a time stamp
    path.write_bytes(data[: int(keep * (len(data) - 1))])
    with pytest.raises(ManifestError, match=r"index\.npz"):
        load(folder)


def test_a_run_ends_at_a_gap() -> None:
    frames = np.array([0, 1, 2, 5, 6])
    assert run_ids(frames, frame_step=1).tolist() == [0, 0, 0, 1, 1]


def test_a_run_keeps_its_step() -> None:
    frames = np.array([0, 10, 20, 40, 50])
    assert run_ids(frames, frame_step=10).tolist() == [0, 0, 0, 1, 1]


def test_a_run_ends_where_something_was_lost() -> None:
    assert run_ids(np.arange(6), frame_step=1, break_frames=(0, 2, 5)).tolist() == [0, 0, 1, 1, 1, 2]


def test_a_loss_between_two_samples_ends_a_run() -> None:
    assert run_ids(np.arange(0, 40, 10), frame_step=10, break_frames=(15,)).tolist() == [0, 0, 1, 1]


def test_a_frame_that_stands_still_is_a_run_of_its_own() -> None:
    marks = np.array([0, 0, REPEAT, FROZEN, 0, 0], np.uint8)
    assert run_ids(np.arange(6), frame_step=1, marks=marks).tolist() == [0, 0, 1, 2, 3, 3]


def test_suspect_frames_stay_together_and_apart_from_the_others() -> None:
    marks = np.array([0, 0, SUSPECT, SUSPECT, SUSPECT, 0], np.uint8)
    assert run_ids(np.arange(6), frame_step=1, marks=marks).tolist() == [0, 0, 1, 1, 1, 2]


def test_no_frames_have_no_runs() -> None:
    assert run_ids(np.zeros(0, np.int64), frame_step=1).shape == (0,)
    assert run_ids(np.array([3]), frame_step=1).tolist() == [0]


def test_stretches_are_the_unbroken_rows() -> None:
    index = sample_index(12, missing=[3, 4, 9])
    assert index.frame_index.tolist() == [0, 1, 2, 5, 6, 7, 8, 10, 11]
    assert index.stretches().tolist() == [[0, 3], [3, 4], [7, 2]]
    assert sample_index(0).stretches().shape == (0, 2)


def test_stretches_end_where_rows_were_left_out_or_the_clip_changes() -> None:
    chosen = sample_index(10).take(np.array([0, 1, 5, 6, 7]))
    both = concatenate([chosen, sample_index(4, clip_id="city_day")])
    assert both.stretches().tolist() == [[0, 2], [2, 3], [5, 4]]


@given(st.integers(1, 40), st.sets(st.integers(0, 39)), st.integers(1, 3))
def test_stretches_hold_every_row_once_and_only_neighbours(num_frames: int, missing: set[int], step: int) -> None:
    index = sample_index(num_frames, missing=missing, frame_step=step)
    rows = [row for start, length in index.stretches().tolist() for row in range(start, start + length)]
    assert rows == list(range(len(index)))
    for start, length in index.stretches().tolist():
        assert (np.diff(index.frame_index[start : start + length]) == step).all()
        assert len(set(index.run_id[start : start + length].tolist())) == 1


def test_the_samples_hash_does_not_know_shards() -> None:
    assert sample_index(30, samples_per_shard=7).samples_hash() == sample_index(30, samples_per_shard=30).samples_hash()


def test_the_samples_hash_changes_with_every_fact_of_a_sample() -> None:
    plain = sample_index(30)
    others = [sample_index(31), sample_index(30, clip_id="city_day"), sample_index(30, missing=[4])]
    for name in ("pts", "run_id", "sha256"):
        changed = getattr(plain, name).copy()
        changed.flat[-1] += 1
        others.append(SampleIndex(**{f: getattr(plain, f) for f in plain.__dataclass_fields__} | {name: changed}))
    assert len({index.samples_hash() for index in [plain, *others]}) == 7


def test_indexes_of_two_clips_become_one() -> None:
    night, day = sample_index(5, samples_per_shard=2), sample_index(4, clip_id="city_day", samples_per_shard=3)
    both = concatenate([night, day])
    assert both.clips == ("city_clear", "city_day")
    assert both.keys() == night.keys() + day.keys()
    assert [both.shards[number].name for number in both.shard] == [
        index.shards[number].name for index in (night, day) for number in index.shard
    ]
    assert both.shard.tolist() == [0, 0, 1, 1, 2, 3, 3, 3, 4]


def test_indexes_that_contradict_each_other_are_not_joined() -> None:
    night = sample_index(5)
    png = SampleIndex(**{f: getattr(night, f) for f in night.__dataclass_fields__} | {"image_format": "png"})
    with pytest.raises(ManifestError, match="image formats differ: jpg and png"):
        concatenate([night, png])
    with pytest.raises(ManifestError, match="clip city_clear was extracted with --every 1 and 2; keep one"):
        concatenate([night, sample_index(5, frame_step=2)])
    with pytest.raises(ManifestError, match=r"shard made-up-city_clear-000000.tar occurs in two folders"):
        concatenate([night, night])


def test_columns_of_unequal_length_are_refused() -> None:
    night = sample_index(5)
    with pytest.raises(ValueError, match="columns of an index must have one length"):
        SampleIndex(**{f: getattr(night, f) for f in night.__dataclass_fields__} | {"pts": night.pts[:3]})


def test_stretches_may_go_on_over_frames_that_stand_still() -> None:
    marks = np.array([0, 0, REPEAT, 0, FROZEN, 0, SUSPECT, SUSPECT], np.uint8)
    index = replace(sample_index(8), mark=marks, run_id=run_ids(np.arange(8), frame_step=1, marks=marks))
    assert index.stretches().tolist() == [[0, 2], [2, 1], [3, 1], [4, 1], [5, 1], [6, 2]]
    assert index.stretches(spans_stills=True).tolist() == [[0, 6], [6, 2]]


def changed(folder: Path, **changes: object) -> None:
    """index.npz of three samples with other columns or, under "header", other entries of the header."""
    save(sample_index(3), folder)
    with np.load(folder / INDEX_NAME) as arrays:
        held = {name: arrays[name] for name in arrays}
    header = json.loads(held["header"].tobytes()) | changes.pop("header", {})  # type: ignore[operator]
    held |= {name: np.asarray(value) for name, value in changes.items()}
    held["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(folder / INDEX_NAME, **held)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"header": {"shards": [["../../escape.tar", 3, 1, "0" * 64]]}}, "shard name '../../escape.tar'"),
        ({"header": {"shards": [["/etc/passwd", 3, 1, "0" * 64]]}}, "shard name '/etc/passwd'"),
        ({"header": {"shards": [["..", 3, 1, "0" * 64]]}}, "shard name '..'"),
        ({"header": {"clips": ["city.clear"]}}, "clip id 'city.clear'"),
        ({"header": {"clips": ["../up"]}}, "clip id '../up'"),
        ({"header": {"image_format": "jpg/../../x"}}, "image format"),
        ({"shard": np.array([0, 1, 0], np.int32)}, "column shard numbers what is not there"),
        ({"clip": np.array([0, -1, 0], np.int32)}, "column clip numbers what is not there"),
        ({"offset": np.array([512, -5, 0])}, "column offset has a negative number"),
        ({"frame_index": np.zeros(3)}, "column frame_index is float64"),
        ({"sha256": np.zeros((3, 31), np.uint8)}, "column sha256 is uint8"),
        ({"mark": np.array([0, 9, 0], np.uint8)}, "mark 9"),
        ({"dup_of": np.array(["a", "b", "c"])}, "column dup_of is <U1"),
    ],
)
def test_an_index_that_would_lead_astray_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    changed(tmp_path, **changes)
    with pytest.raises(ManifestError, match=rf"damaged or not an index \({re.escape(message)}"):
        load(tmp_path)


def test_an_index_that_unpacks_to_more_than_it_is_is_refused_unread(tmp_path: Path) -> None:
    save(sample_index(3), tmp_path)
    with np.load(tmp_path / INDEX_NAME) as arrays:
        held = {name: arrays[name] for name in arrays}
    np.savez_compressed(tmp_path / INDEX_NAME, **held | {"pts": np.zeros(40_000_000, np.int64)})
    assert (tmp_path / INDEX_NAME).stat().st_size < 1_000_000
    with pytest.raises(ManifestError, match=r"unpacks to 3[0-9]{8} bytes, more than the file has"):
        load(tmp_path)


@given(clip_id=st.from_regex(r"[a-z0-9][a-z0-9_-]{0,59}", fullmatch=True), frame_index=st.integers(0, 10**18 - 1))
def test_a_key_gives_back_clip_and_frame(clip_id: str, frame_index: int) -> None:
    assert parse_key(key_of(clip_id, frame_index)) == (clip_id, frame_index)


@pytest.mark.parametrize("key", ["", "city_clear", "city_clear_123", "_00000001", "city.clear_00000001", "a_0000000x"])
def test_what_is_no_key_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match=r"key must be <clip id>_<frame index, 8 digits or more>, got"):
        parse_key(key)


def test_repeats_name_the_sample_before_their_row() -> None:
    marks = np.array([0, REPEAT, REPEAT, 0, FROZEN, REPEAT | SUSPECT], np.uint8)
    assert repeated("a", np.array([0, 2, 4, 6, 8, 10]), marks).tolist() == [
        b"", b"a_00000000", b"a_00000000", b"", b"", b"a_00000008",
    ]  # fmt: skip
    assert repeated("a", np.arange(2), np.zeros(2, np.uint8)).tolist() == [b"", b""]


def test_what_samples_repeat_survives(tmp_path: Path) -> None:
    index = replace(sample_index(3), dup_of=np.array([b"", b"city_day_00000007", b""]))
    save(index, tmp_path)
    assert load(tmp_path).dup_of.tolist() == [b"", b"city_day_00000007", b""]
    two = concatenate([index, sample_index(2, clip_id="city_day")])
    assert two.dup_of.tolist() == [b"", b"city_day_00000007", b"", b"", b""]
