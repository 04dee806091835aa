import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import H264, Shelf, clip_of, sample_index, write_clip

from infraredcity.clips import published_counts
from infraredcity.datasets import clip_facts, lite, manifest
from infraredcity.datasets.lite import build, find_scale, select
from infraredcity.datasets.recipe import Cell, Recipe, of_scenes, read_recipe
from infraredcity.datasets.similarity import NEAR_BITS
from infraredcity.errors import CatalogError, OutputError, RecipeError, ShardError
from infraredcity.extraction.config import ExtractConfig
from infraredcity.extraction.extract_clip import extract_clip
from infraredcity.shards import index_file
from infraredcity.shards.index import SampleIndex
from infraredcity.shards.reader import iterate


def recipe(*cells: Cell, run_frames: int = 8, guard_frames: int = 5, window_frames: int = 2) -> Recipe:
    return Recipe(
        name="tiny", run_frames=run_frames, guard_frames=guard_frames, window_frames=window_frames, cells=cells
    )


def cell(train: int = 0, test: int = 0, clip: str = "city_clear", scene: str = "city") -> Cell:
    return Cell(scene=scene, clip=clip, train=train, test=test)


def check(index: SampleIndex, of: Cell, by: Recipe, runs: dict[lite.Split, list[range]]) -> None:
    """What every selection owes, whatever the clip."""
    frames = {split: [index.frame_index[run.start : run.stop] for run in runs[split]] for split in lite.SPLITS}
    assert sum(len(run) for run in runs["train"]) == of.train
    assert sum(len(run) for run in runs["test"]) == of.test
    step = index.frame_steps[0]
    for split in lite.SPLITS:
        rows = [row for run in runs[split] for row in run]
        assert rows == sorted(set(rows))
        for run, clip_frames in zip(runs[split], frames[split], strict=True):
            assert len(run) >= by.window_frames
            assert (np.diff(clip_frames) == step).all()
            assert len(set(index.run_id[run.start : run.stop].tolist())) == 1
    train = np.concatenate([*frames["train"], np.zeros(0, np.int64)])
    test = np.concatenate([*frames["test"], np.zeros(0, np.int64)])
    if len(train) and len(test):
        nearest = np.abs(train[:, None] - test[None, :]).min()
        assert nearest - 1 >= by.guard_frames  # so many frames of the clip lie between


def test_full_clips_give_every_published_cell_exactly() -> None:
    published = read_recipe()
    counts: dict[str, int] = {}
    for of in published.cells:
        index = sample_index(25_000, clip_id=of.clip)
        runs = select(index, of, published)
        check(index, of, published, runs)
        counts[of.scene] = counts.get(of.scene, 0) + sum(len(run) for part in runs.values() for run in part)
        assert all(len(run) <= 64 for part in runs.values() for run in part)
        assert sum(len(run) < 64 for run in runs["train"]) <= 2
        # Spread over the whole clip: no stretch of a sixth of it is without a train run.
        starts = [0, *(run.start for run in runs["train"]), 25_000]
        assert max(np.diff(starts)) < 25_000 / 6
    lite_counts = published_counts()["lite"]
    assert counts == {scene: lite_counts[scene]["total"] for scene in ("city", "highway", "monitor")}
    assert sum(counts.values()) == 41_339


def test_the_shortest_clip_of_the_release_may_be_little_longer_than_its_cell() -> None:
    # 16 blocks of 1,000 frames: 64 of test, twice 250 of guard, 436 left for 6 runs each, and 87 are needed.
    published = read_recipe()
    of = published.cells[0]
    assert (of.train, of.test) == (5538, 1000)
    index = sample_index(16_000)
    check(index, of, published, select(index, of, published))


@settings(max_examples=150)
@given(
    num_frames=st.integers(1, 1500),
    missing=st.sets(st.integers(0, 1499), max_size=6),
    step=st.integers(1, 3),
    train=st.integers(0, 400),
    test=st.integers(0, 200),
    run_frames=st.integers(2, 64),
    guard_frames=st.integers(0, 60),
    window_frames=st.integers(1, 4),
)
def test_a_selection_keeps_every_promise_or_says_what_is_missing(
    num_frames: int,
    missing: set[int],
    step: int,
    train: int,
    test: int,
    run_frames: int,
    guard_frames: int,
    window_frames: int,
) -> None:
    if train + test == 0:
        train = 1
    of = cell(train, test)
    by = recipe(of, run_frames=max(run_frames, window_frames), guard_frames=guard_frames, window_frames=window_frames)
    index = sample_index(num_frames, missing=missing, frame_step=step)
    try:
        runs = select(index, of, by)
    except RecipeError as error:
        shortfalls = error.shortfalls
    else:
        check(index, of, by, runs)
        return
    assert shortfalls
    assert all(text.startswith("city_clear t") for text in shortfalls)


def test_test_runs_close_equal_time_blocks() -> None:
    of = cell(test=24)
    runs = select(sample_index(300), of, recipe(of))
    assert runs["test"] == [range(92, 100), range(192, 200), range(292, 300)]


def test_the_last_run_is_cut_to_fit_and_never_under_one_window() -> None:
    of = cell(train=17)
    lengths = [len(run) for run in select(sample_index(200), of, recipe(of))["train"]]
    assert sorted(lengths) == [2, 7, 8]
    of = cell(train=3)
    lengths = [len(run) for run in select(sample_index(200), of, recipe(of, run_frames=2))["train"]]
    assert lengths == [3]


def test_a_guard_counts_frames_of_the_clip_not_samples() -> None:
    of = cell(train=8, test=8)
    index = sample_index(400, frame_step=4)
    runs = select(index, of, recipe(of, guard_frames=10))
    check(index, of, recipe(of, guard_frames=10), runs)


def test_a_short_clip_lists_every_shortfall(tmp_path: Path, extracted: Path) -> None:
    cells = (cell(train=500, test=200), cell(train=60, clip="city_day"))
    with pytest.raises(RecipeError) as caught:
        build(extracted, tmp_path, recipe(*cells))
    assert len(caught.value.shortfalls) == 3
    assert (
        "recipe tiny does not fit: city_clear test: 200 frames need 25 unbroken runs of 8, block 1 of 25 has 2"
        in str(caught.value)
    )
    assert "city_clear train: 500 frames are asked for" in str(caught.value)
    assert "city_day train: 60 frames are asked for, 50 are far enough" in str(caught.value)
    assert str(caught.value).endswith("use longer clips or --scale auto")
    assert list(tmp_path.iterdir()) == []


def test_a_split_under_one_window_is_a_shortfall() -> None:
    of = cell(train=50, test=1)
    with pytest.raises(RecipeError, match="city_clear test: 1 frames are less than one window of 2"):
        select(sample_index(200), of, recipe(of))


def test_a_scale_rounds_counts_down_and_keeps_a_guard_of_one_window() -> None:
    scaled = recipe(cell(train=100, test=29), guard_frames=250).scaled(0.29)
    assert (scaled.cells[0].train, scaled.cells[0].test, scaled.guard_frames) == (29, 8, 72)
    assert recipe(cell(train=1000), guard_frames=250, window_frames=4).scaled(0.004).guard_frames == 4
    assert recipe(cell(train=1000), guard_frames=0).scaled(0.5).guard_frames == 0


def test_a_scale_that_leaves_a_split_under_one_window_is_an_error() -> None:
    whole = recipe(cell(train=1000, test=100), cell(train=50, clip="city_day"))
    with pytest.raises(
        RecipeError, match=r"city_clear test: 100 frames at scale 0.01 are less than one window of 2"
    ) as caught:
        whole.scaled(0.01)
    assert len(caught.value.shortfalls) == 2  # and the 50 frames of city_day


@pytest.mark.parametrize(
    ("num_frames", "train", "test", "guard_frames", "missing"),
    [
        (300, 3000, 1000, 60, []),
        (300, 2900, 900, 250, [150]),
        (240, 5538, 1000, 250, []),
        (700, 5600, 4000, 0, [100, 101, 350, 600]),
        (97, 1000, 333, 17, [40]),
    ],
)
def test_auto_is_the_largest_scale_that_fits(
    num_frames: int, train: int, test: int, guard_frames: int, missing: list[int]
) -> None:
    day = sample_index(num_frames // 2, clip_id="city_day")
    indexes = {"city_clear": sample_index(num_frames, missing=missing), "city_day": day}
    whole = recipe(cell(train, test), cell(train // 2 + 2, clip="city_day"), run_frames=16, guard_frames=guard_frames)

    def fits(scale: float) -> bool:
        scaled = whole.scaled(scale)
        try:
            for part in scaled.cells:
                select(indexes[part.clip], part, scaled)
        except RecipeError:
            return False
        return True

    found = find_scale(indexes, whole)
    assert fits(found)
    # Above this scale more frames are asked for than the clip has.
    hopeless = math.ceil((num_frames + 2) / (train + test) * 10_000)
    assert not any(fits(step / 10_000) for step in range(round(found * 10_000) + 1, hopeless))


def test_auto_says_when_clips_are_too_short_for_anything() -> None:
    with pytest.raises(RecipeError, match="no scale fits: the clips are too short for one window"):
        find_scale({"city_clear": sample_index(12)}, recipe(cell(train=1000, test=100)))


def test_auto_is_one_when_everything_fits() -> None:
    assert find_scale({"city_clear": sample_index(1000)}, recipe(cell(train=100, test=16))) == 1.0


CELLS = (cell(train=16, test=8), cell(train=20, clip="city_day"))


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_frames_are_copied_byte_for_byte_into_the_published_layout(tmp_path: Path, extracted: Path) -> None:
    report = build(extracted, tmp_path, recipe(*CELLS))
    assert [(row.folder, row.clip, row.split, row.num_frames) for row in report.rows] == [
        ("city/infrared-train", "city_clear", "train", 16),
        ("city/infrared-test", "city_clear", "test", 8),
        ("city/visible-train", "city_day", "train", 20),
    ]
    tars = [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*.tar"))]
    assert tars == [
        "city/infrared-test/tiny-clear-test-city_clear-000000.tar",
        "city/infrared-train/tiny-clear-train-city_clear-000000.tar",
        "city/visible-train/tiny-train-city_day-000000.tar",
    ]
    source = {sample.key: sample.members for path in sorted(extracted.rglob("*.tar")) for sample in iterate(path)}
    copied = [sample for name in tars for sample in iterate(tmp_path / name)]
    assert len(copied) == 44
    assert all(sample.members == source[sample.key] for sample in copied)
    for row in report.rows:
        index = index_file.load(tmp_path / row.folder)
        assert len(index) == row.num_frames
        facts = clip_facts.read_clips(tmp_path / row.folder)
        assert list(facts) == [row.clip]


def test_train_and_test_share_no_frame_and_keep_the_guard_on_disk(tmp_path: Path, extracted: Path) -> None:
    build(extracted, tmp_path, recipe(*CELLS))
    train = index_file.load(tmp_path / "city/infrared-train").frame_index
    test = index_file.load(tmp_path / "city/infrared-test").frame_index
    assert np.abs(train[:, None] - test[None, :]).min() - 1 >= 5
    # The manifest of the whole set names each sample's split and shard.
    rows = (tmp_path / "manifest.csv").read_text().splitlines()
    assert len(rows) == 45
    assert sum(",test," in row for row in rows) == 8
    assert sum("city/visible-train/tiny-train-city_day-000000.tar" in row for row in rows) == 20


def test_building_again_does_nothing(tmp_path: Path, extracted: Path) -> None:
    first = build(extracted, tmp_path, recipe(*CELLS))
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = build(extracted, tmp_path, recipe(*CELLS))
    assert (first.is_new, again.is_new) == (True, False)
    assert again == replace(first, is_new=False)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times


def test_two_builds_have_the_same_bytes(tmp_path: Path, extracted: Path) -> None:
    for name in ("a", "b"):
        build(extracted, tmp_path / name, recipe(*CELLS))
    assert folder_bytes(tmp_path / "a") == folder_bytes(tmp_path / "b")


def test_the_same_recipe_gives_the_same_set_whatever_shards_the_clips_lie_in(
    tmp_path: Path, extracted: Path, shelf: Shelf
) -> None:
    config = ExtractConfig(frames_per_shard=7)
    day = clip_of(shelf.h264, "city_day", weather="any", modality="visible", time_of_day="day")
    for clip in (day, clip_of(shelf.gray)):
        extract_clip(clip, config, tmp_path / "sevens", workers=0)
    assert len(list((tmp_path / "sevens/city_day").glob("*.tar"))) == 8
    one = build(extracted, tmp_path / "one", recipe(*CELLS))
    other = build(tmp_path / "sevens", tmp_path / "elsewhere/other", recipe(*CELLS))
    assert one.manifest_hash == other.manifest_hash
    # clips.json alone tells how the clips were extracted, in shards of 16 or of 7.
    one_bytes, other_bytes = folder_bytes(tmp_path / "one"), folder_bytes(tmp_path / "elsewhere/other")
    differing = {name for name in one_bytes if one_bytes[name] != other_bytes.get(name)}
    assert one_bytes.keys() == other_bytes.keys()
    assert {Path(name).name for name in differing} == {"clips.json"}


def test_a_test_run_that_shows_what_a_train_run_shows_is_flagged_and_kept(tmp_path: Path) -> None:
    # A camera that sees the same 24 pictures twice: 0 to 23, then 300 others, and 0 to 23 again.
    pictures = [*range(24), *range(500, 800), *range(24)]
    clip = write_clip(tmp_path / "twice.mp4", pictures, *H264, width=128, height=128, make=town)
    extract_clip(clip_of(clip), ExtractConfig(), tmp_path / "clips", workers=0)
    # Train frames from the middle of the clip have nothing to do with the test frames at its end.
    report = build(tmp_path / "clips", tmp_path / "apart", recipe(cell(train=24, test=24), run_frames=24))
    (leak,) = report.leakage
    train = index_file.load(tmp_path / "apart/city/infrared-train")
    assert train.frame_index.tolist() == list(range(147, 171))
    assert leak.num_near == 0
    assert leak.distance_bits > NEAR_BITS
    assert report.duplicate_runs == ()
    assert not train.dup_of.any()
    # The beginning of the clip among them, all test frames are repetitions.
    report = build(tmp_path / "clips", tmp_path / "lite", recipe(cell(train=312, test=24), run_frames=24))
    (leak,) = report.leakage
    assert (leak.modality, leak.num_test, leak.num_near, leak.near_bits) == ("infrared", 24, 24, NEAR_BITS)
    assert leak.distance_bits == 0
    (run,) = [run for run in report.duplicate_runs if run.part == "city/infrared-test"]
    assert (run.first_key, run.num_samples, run.num_near) == ("city_clear_00000324", 24, 24)
    assert run.of_part == "city/infrared-train"
    test = index_file.load(tmp_path / "lite/city/infrared-test")
    shown_before = [int(key.decode()[-8:]) for key in test.dup_of.tolist()]
    assert len(test) == 24
    assert max(shown_before) < 24  # of frames that hardly move, any of the first 24 may be the closest
    rows = manifest.read(tmp_path / "lite/manifest.csv")
    flagged = [dup for dup, split in zip(rows["dup_of"], rows["split"], strict=True) if split == "test"]
    assert flagged == [key.decode() for key in test.dup_of.tolist()]


def town(number: int, width: int, height: int) -> np.ndarray:
    """u8 [height, width, 3]: blots of light that are elsewhere for every hundred of numbers, and wander slowly."""
    seed = np.random.default_rng(number // 100)
    centres = seed.uniform(0, 1, (12, 2)) * (width, height) + number % 100 * seed.uniform(-0.3, 0.3, (12, 2))
    y, x = np.mgrid[:height, :width]
    light = sum(np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 200) for cx, cy in centres)
    return np.repeat(np.clip(20 + 180 * light, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def test_a_missing_shard_is_built_again(tmp_path: Path, extracted: Path) -> None:
    build(extracted, tmp_path, recipe(*CELLS))
    before = folder_bytes(tmp_path)
    (tmp_path / "city/visible-train/tiny-train-city_day-000000.tar").unlink()
    assert build(extracted, tmp_path, recipe(*CELLS)).is_new
    assert folder_bytes(tmp_path) == before


def test_another_recipe_scale_or_source_is_refused_without_overwrite(tmp_path: Path, extracted: Path) -> None:
    build(extracted, tmp_path, recipe(*CELLS))
    other = recipe(cell(train=18, clip="city_day"))
    with pytest.raises(OutputError, match="holds a Lite set of other settings or another source; use another --out"):
        build(extracted, tmp_path, other)
    with pytest.raises(OutputError, match="other settings or another source"):
        build(extracted, tmp_path, recipe(*CELLS), scale=0.5)
    build(extracted, tmp_path, other, overwrite=True)
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*.tar"))] == [
        "city/visible-train/tiny-train-city_day-000000.tar"
    ]
    assert not (tmp_path / "city/infrared-train").exists()


def test_shards_of_others_are_not_deleted(tmp_path: Path, extracted: Path) -> None:
    theirs = [tmp_path / "city/visible-train/precious.tar", tmp_path / "else/my-train/precious.tar"]
    for path in theirs:
        path.parent.mkdir(parents=True)
        path.write_text("years of work")
    with pytest.raises(OutputError, match=r"visible-train: holds shards that are of no lite\.json; use another --out"):
        build(extracted, tmp_path, recipe(*CELLS))
    theirs[0].rename(tmp_path / "precious.tar")
    build(extracted, tmp_path, recipe(*CELLS))
    build(extracted, tmp_path, recipe(cell(train=18, clip="city_day")), overwrite=True)
    assert theirs[1].read_text() == (tmp_path / "precious.tar").read_text() == "years of work"


def test_a_build_that_was_killed_is_begun_again(tmp_path: Path, extracted: Path) -> None:
    build(extracted, tmp_path / "whole", recipe(*CELLS))
    out = tmp_path / "killed"
    build(extracted, out, recipe(*CELLS))
    # What a kill behind the first shard leaves: the record without a report, one shard, a temporary file, no index.
    record = json.loads((out / "lite.json").read_text()) | {"report": None}
    (out / "lite.json").write_text(json.dumps(record))
    for path in {*out.rglob("*.npz"), *out.rglob("clips.json"), *(out / "city/visible-train").glob("*")}:
        path.unlink()
    (out / "city/visible-train/.tmp-1-x.tar").write_text("half")
    assert build(extracted, out, recipe(*CELLS)).is_new
    killed, whole = folder_bytes(out), folder_bytes(tmp_path / "whole")
    assert {k: v for k, v in killed.items() if k != "lite.json"} == {k: v for k, v in whole.items() if k != "lite.json"}


def test_a_clip_that_is_not_extracted_is_named(tmp_path: Path, extracted: Path) -> None:
    cells = (
        *CELLS,
        cell(train=9, clip="highway_day", scene="highway"),
        cell(train=9, clip="monitor_day", scene="monitor"),
    )
    with pytest.raises(RecipeError, match="not extracted: highway_day, monitor_day; run infraredcity extract for them"):
        build(extracted, tmp_path, recipe(*cells))


def test_a_damaged_source_shard_is_not_copied(tmp_path: Path, extracted: Path) -> None:
    source = tmp_path / "source" / "city_day"
    source.mkdir(parents=True)
    for path in (extracted / "city_day").iterdir():
        if path.is_file():
            (source / path.name).write_bytes(path.read_bytes())
    index = index_file.load(source)
    for number, info in enumerate(index.shards):
        data = bytearray((source / info.name).read_bytes())
        for row in np.flatnonzero(index.shard == number).tolist():
            data[int(index.offset[row]) + 50] ^= 1
        (source / info.name).write_bytes(data)
    of = recipe(cell(train=20, clip="city_day"))
    with pytest.raises(
        ShardError, match=r"city_day_\d+\.jpg is not the picture that was written; copy the shard again"
    ):
        build(tmp_path / "source", tmp_path / "lite", of)
    assert list((tmp_path / "lite").rglob("*.tar")) == []


RECIPE = """
name = "mine"
run_frames = 8
guard_frames = 5
window_frames = 2
[[cells]]
scene = "harbour"
clip = "city_day"
train = 20
"""


def test_a_recipe_of_ones_own_is_a_file(tmp_path: Path, extracted: Path) -> None:
    (tmp_path / "mine.toml").write_text(RECIPE)
    report = build(extracted, tmp_path / "out", read_recipe(tmp_path / "mine.toml"))
    assert [row.folder for row in report.rows] == ["harbour/visible-train"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("run_frames = 8", "", "lacks 'run_frames'; manifests/lite.toml shows the format"),
        ("train = 20", 'train = "20"', "train must be int, got '20'"),
        ("train = 20", "train = true", "train must be int, got True"),
        ("train = 20", "train = 20\nvalidation = 5", "unknown key 'validation'; known are scene, clip, train, test"),
        ("train = 20", "", "clip city_day needs a positive train or test count"),
        ("train = 20", "train = -3", "needs a positive train or test count"),
        ("run_frames = 8", "run_frames = 1", "run_frames of at least window_frames"),
        ("window_frames = 2", "window_frames = 0", "needs window_frames of at least 1"),
        ('clip = "city_day"', 'clip = "city.day"', "clip id 'city.day' must be"),
        ('name = "mine"', 'name = "my lite"', "clip id 'my lite' must be"),
        ("[[cells]]", "[[parts]]", r"unknown key 'parts'|lacks its \[\[cells\]\] tables"),
        ('scene = "harbour"', "", "lacks 'scene' in the cell of city_day"),
    ],
)
def test_a_malformed_recipe_says_what_is_wrong(tmp_path: Path, old: str, new: str, message: str) -> None:
    (tmp_path / "mine.toml").write_text(RECIPE.replace(old, new))
    with pytest.raises(RecipeError, match=rf"mine\.toml: .*({message})"):
        read_recipe(tmp_path / "mine.toml")


def test_a_clip_is_in_only_one_cell() -> None:
    with pytest.raises(RecipeError, match=r"clip city_clear .*two cells"):
        recipe(cell(train=5), cell(test=5))


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"gone\.toml: no such file"):
        read_recipe(tmp_path / "gone.toml")


def test_scenes_can_be_chosen() -> None:
    city = of_scenes(read_recipe(), ["city"])
    assert [part.clip for part in city.cells] == ["city_clear", "city_overcast", "city_day"]
    with pytest.raises(RecipeError, match="has no scene 'village'; it has city, highway, monitor"):
        of_scenes(read_recipe(), ["village"])
