import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from export_sets import Footage, folder_bytes, make_part, put, samples_of, still, still_bytes, windows_of

from infraredcity.checks.verify import verify
from infraredcity.datasets import manifest
from infraredcity.datasets.dataset import open_dataset, rows_of
from infraredcity.errors import ManifestError, OutputError
from infraredcity.export.release_export import export
from infraredcity.export.release_import import ImportReport, import_release
from infraredcity.loader import WindowReader
from infraredcity.progress import Progress
from infraredcity.shards import index_file
from infraredcity.stills import images

CITY = "Single/Traffic/City/clearday"
OVERCAST = "Single/Traffic/City/overcast"


def numbered(
    frames: range | list[int], *, before: str = "frame_", digits: int = 1, **options: bool
) -> dict[str, bytes]:
    return {f"{before}{frame:0{digits}d}.png": still_bytes(frame, **options) for frame in frames}


def frames_of(root: Path, part: str, clip: str) -> list[int]:
    index = index_file.load(root / part)
    return index.frame_index[index.clip == index.clips.index(clip)].tolist()


def reasons(report: ImportReport) -> dict[str, str]:
    return {skipped.path: skipped.reason for skipped in report.skipped}


def test_a_published_release_becomes_a_set_of_the_catalogues_clips(tmp_path: Path) -> None:
    root = tmp_path / "release"
    put(root / CITY / "trainA", numbered(range(4)))
    put(root / CITY / "testA", numbered(range(100, 103)))
    put(root / OVERCAST / "trainA", numbered(range(2)))
    for weather in (CITY, OVERCAST):
        put(root / weather / "trainB", numbered(range(5), gray=False))
    put(root / "Single/Traffic/Highway/overcast/trainA", numbered(range(3)))
    put(root / "Single/Monitor/trainB", numbered(range(2), gray=False))
    report = import_release(root, tmp_path / "out")
    assert [(row.folder, row.clip, row.split, row.weather, row.num_frames, row.num_runs) for row in report.rows] == [
        ("city/infrared-test", "city_clear", "test", "clear", 3, 1),
        ("city/infrared-train", "city_clear", "train", "clear", 4, 1),
        ("city/infrared-train", "city_overcast", "train", "overcast", 2, 1),
        ("city/visible-train", "city_day", "train", "any", 5, 1),
        ("highway/infrared-train", "highway_overcast", "train", "overcast", 3, 1),
        ("monitor/visible-train", "monitor_day", "train", "any", 2, 1),
    ]
    assert (report.num_frames, report.num_shared, report.skipped, report.shifts) == (19, 5, (), ())
    assert samples_of(tmp_path / "out")["city/infrared-test", "city_clear_00000102"] == still_bytes(102)
    rows = manifest.read(tmp_path / "out/manifest.csv")
    assert rows == rows_of(open_dataset(tmp_path / "out"))
    assert {*zip(rows["clip"], rows["modality"], rows["time_of_day"], strict=True)} == {
        ("city_clear", "infrared", "night"),
        ("city_overcast", "infrared", "night"),
        ("highway_overcast", "infrared", "night"),
        ("city_day", "visible", "day"),
        ("monitor_day", "visible", "day"),
    }
    assert verify(tmp_path / "out", decode="all").findings == ()


def test_time_is_the_frames_index_at_25_a_second_or_as_asked(tmp_path: Path) -> None:
    put(tmp_path / "release" / CITY / "trainA", numbered([3, 4, 50]))
    import_release(tmp_path / "release", tmp_path / "out")
    rows = manifest.read(tmp_path / "out/manifest.csv")
    assert (rows["pts"], rows["time_s"]) == ([3, 4, 50], [0.12, 0.16, 2.0])
    import_release(tmp_path / "release", tmp_path / "slow", fps=12.5)
    assert manifest.read(tmp_path / "slow/manifest.csv")["time_s"] == [0.24, 0.32, 4.0]
    assert open_dataset(tmp_path / "slow")[0].clips["city_clear"].time_base == "2/25"


def test_numbers_in_names_make_the_runs(tmp_path: Path) -> None:
    put(tmp_path / "release" / CITY / "trainA", numbered([9, 10, 11, 30, 31, 100]))
    report = import_release(tmp_path / "release", tmp_path / "out")
    (row,) = report.rows
    assert (row.num_frames, row.num_runs, row.order) == (6, 3, "number")
    assert frames_of(tmp_path / "out", "city/infrared-train", "city_clear") == [9, 10, 11, 30, 31, 100]
    pairs = {(int(one[-3:]), int(other[-3:])) for _, one, other in windows_of(tmp_path / "out")}
    assert pairs == {(9, 10), (10, 11), (30, 31)}


def test_neighbours_may_be_some_numbers_apart(tmp_path: Path) -> None:
    put(tmp_path / "release" / CITY / "trainA", numbered([0, 5, 10, 11, 20]))
    import_release(tmp_path / "release", tmp_path / "out", frame_step=5)
    pairs = {(int(one[-3:]), int(other[-3:])) for _, one, other in windows_of(tmp_path / "out")}
    assert pairs == {(0, 5), (5, 10)}


@pytest.mark.parametrize(
    ("names", "num_runs"),
    [
        (["a.png", "b9.png", "b10.png"], 2),  # one without a number
        (["a1.png", "b01.png", "b1.png"], 3),  # the same number twice
        (["20211115123000123.png", "20211115123000163.png", "20211115123000203.png"], 1),  # times, not places
        (["left_1.png", "left_2.png", "left_4.png", "right_2.png", "right_3.png"], 3),  # two sources in one folder
    ],
)
def test_without_unique_numbers_the_place_in_natural_order_counts(
    tmp_path: Path, names: list[str], num_runs: int
) -> None:
    pictures = {name: still_bytes(place) for place, name in enumerate(names)}
    put(tmp_path / "release" / CITY / "trainA", pictures)
    (row,) = import_release(tmp_path / "release", tmp_path / "out").rows
    assert (row.order, row.num_runs) == ("place", num_runs)
    expected = {("city/infrared-train", f"city_clear_{place:08d}"): pictures[name] for place, name in enumerate(names)}
    assert samples_of(tmp_path / "out") == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["left_1.png", "left_2.png", "left_4.png", "right_2.png", "right_3.png"], {(0, 1), (3, 4)}),  # by place
        (["left_1.png", "left_2.png", "right_3.png", "right_4.png"], {(1, 2), (3, 4)}),  # by number
    ],
)
def test_pictures_of_several_sources_make_no_false_pairs(
    tmp_path: Path, names: list[str], expected: set[tuple[int, int]]
) -> None:
    put(tmp_path / "release" / CITY / "trainA", {name: still_bytes(place) for place, name in enumerate(names)})
    import_release(tmp_path / "release", tmp_path / "out")
    assert {(int(one[-3:]), int(other[-3:])) for _, one, other in windows_of(tmp_path / "out")} == expected


def test_a_skipped_picture_leaves_a_gap_also_where_places_count(tmp_path: Path) -> None:
    put(
        tmp_path / "release" / CITY / "trainA",
        {"a.png": still_bytes(1), "b.png": b"no picture", "c.png": still_bytes(3)},
    )
    report = import_release(tmp_path / "release", tmp_path / "out")
    assert frames_of(tmp_path / "out", "city/infrared-train", "city_clear") == [0, 2]
    assert windows_of(tmp_path / "out") == set()
    assert reasons(report) == {f"{CITY}/trainA/b.png": "not a picture that can be decoded"}


def test_train_and_test_that_both_count_from_zero_keep_unique_keys(tmp_path: Path) -> None:
    root = tmp_path / "release"
    put(root / CITY / "trainA", numbered(range(12)))
    put(root / CITY / "testA", {name: still_bytes(200) for name in numbered(range(3))})
    report = import_release(root, tmp_path / "out")
    (shift,) = report.shifts
    assert (shift.source, shift.clip, shift.added) == (f"{CITY}/testA", "city_clear", 100)
    assert frames_of(tmp_path / "out", "city/infrared-train", "city_clear") == [*range(12)]
    assert frames_of(tmp_path / "out", "city/infrared-test", "city_clear") == [100, 101, 102]
    keys = manifest.read(tmp_path / "out/manifest.csv")["key"]
    assert len({*keys}) == len(keys) == 15


def test_visible_frames_of_two_weathers_are_taken_once_where_they_are_the_same(tmp_path: Path) -> None:
    root = tmp_path / "release"
    put(root / CITY / "trainB", numbered([0, 1, 2]))
    # 1 is the same picture, 2 another one of the same name, 3 one of its own.
    put(
        root / OVERCAST / "trainB",
        {"frame_1.png": still_bytes(1), "frame_2.png": still_bytes(50), "frame_3.png": still_bytes(60)},
    )
    report = import_release(root, tmp_path / "out")
    assert report.num_shared == 1
    assert [(shift.source, shift.added) for shift in report.shifts] == [(f"{OVERCAST}/trainB", 10)]
    expected = {0: 0, 1: 1, 2: 2, 12: 50, 13: 60}
    assert samples_of(tmp_path / "out") == {
        ("city/visible-train", f"city_day_{frame:08d}"): still_bytes(shown) for frame, shown in expected.items()
    }


def test_a_run_never_goes_from_one_folder_to_another(tmp_path: Path) -> None:
    put(tmp_path / "release" / CITY / "trainB", numbered([0, 1, 4]))
    put(tmp_path / "release" / OVERCAST / "trainB", numbered([2, 3, 5, 6]))
    import_release(tmp_path / "release", tmp_path / "out")
    assert frames_of(tmp_path / "out", "city/visible-train", "city_day") == [*range(7)]
    pairs = {(int(one[-3:]), int(other[-3:])) for _, one, other in windows_of(tmp_path / "out")}
    assert pairs == {(0, 1), (2, 3), (5, 6)}


def test_repeated_pictures_of_one_folder_are_all_taken(tmp_path: Path) -> None:
    put(tmp_path / "release" / CITY / "trainB", {f"{frame}.png": still_bytes(7) for frame in range(3)})
    report = import_release(tmp_path / "release", tmp_path / "out")
    assert (report.num_frames, report.num_shared) == (3, 0)


def test_what_cannot_be_taken_is_skipped_and_named(tmp_path: Path) -> None:
    folder = tmp_path / "release" / CITY / "trainA"
    whole = still_bytes(5)
    put(folder, numbered(range(4)))
    put(folder, {
        "notes.txt": b"hello", "4.png": b"", "5.png": whole[:200], "6.png": still_bytes(6, width=48),
        "7.jpg": still_bytes(7, "jpg"), "8.jpeg": still_bytes(8, "webp"), "9.png": still_bytes(9, "png16"),
        "10.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (90_000).to_bytes(4, "big") * 2 + b"\x08\0\0\0\0", ".hidden.png": whole,
    })  # fmt: skip
    (folder / "11.png").mkdir()
    os.mkfifo(folder / "12.png")
    report = import_release(tmp_path / "release", tmp_path / "out")
    assert (report.num_frames, frames_of(tmp_path / "out", "city/infrared-train", "city_clear")) == (4, [0, 1, 2, 3])
    told = {Path(path).name: reason for path, reason in reasons(report).items()}
    assert told == {
        "notes.txt": "neither jpg nor png by its name",
        "4.png": "not a picture that can be decoded",
        "5.png": "not a picture that can be decoded",
        "6.png": "48x64, most of its clip are 96x64",
        "7.jpg": "jpg, most of its part are png",
        "8.jpeg": "a webp, expected jpg or png",
        "9.png": "png16, most of its part are png",
        "10.png": "claims 90000x90000 pixels, more than 67,108,864",
        ".hidden.png": "hidden",
        "11.png": "a folder",
        "12.png": "not a plain file",
    }
    assert json.loads((tmp_path / "out/import.json").read_text())["report"]["skipped"] != []
    again = import_release(tmp_path / "release", tmp_path / "out")
    assert (again.is_new, again.skipped) == (False, report.skipped)


def test_links_are_followed_inside_the_release_alone(tmp_path: Path) -> None:
    root = tmp_path / "release"
    put(tmp_path / "secrets", numbered(range(20, 23)))
    put(root / CITY / "trainA", numbered(range(2)))
    (root / CITY / "trainA/frame_2.png").symlink_to(tmp_path / "secrets/frame_20.png")
    (root / CITY / "trainA/frame_3.png").symlink_to("frame_1.png")
    (root / CITY / "trainA/frame_4.png").symlink_to("frame_4.png")
    (root / CITY / "testA").symlink_to(tmp_path / "secrets")
    put(root / CITY / "trainB", numbered(range(5)))
    (root / OVERCAST).mkdir()
    (root / OVERCAST / "trainB").symlink_to(root.resolve() / CITY / "trainB")
    report = import_release(root, tmp_path / "out")
    assert frames_of(tmp_path / "out", "city/infrared-train", "city_clear") == [0, 1, 3]
    told = reasons(report)
    assert told.pop(f"{CITY}/trainA/frame_4.png").startswith("cannot be read")
    assert told == {
        f"{CITY}/trainA/frame_2.png": "a link that leads out of the release",
        f"{CITY}/testA": "a link that leads out of the release",
    }
    assert report.num_shared == 5


@pytest.mark.parametrize(
    "name", ["x\\..\\..\\y_1.png", "a b#%?*[1]_1.png", "ночь_1.png", "new\nline_1.png", "-rf_1.png"]
)
def test_names_may_hold_any_characters(tmp_path: Path, name: str) -> None:
    put(tmp_path / "release" / CITY / "trainA", {name: still_bytes(1), name.replace("_1", "_2"): b"no picture"})
    report = import_release(tmp_path / "release", tmp_path / "out")
    assert samples_of(tmp_path / "out") == {("city/infrared-train", "city_clear_00000001"): still_bytes(1)}
    (skipped,) = report.skipped
    assert skipped.path.isprintable()


def test_names_that_are_no_text_are_told_in_ascii(tmp_path: Path) -> None:
    put(tmp_path / "release" / CITY / "trainA", {"1.png": still_bytes(1), os.fsdecode(b"\xff_2.png"): b"no picture"})
    report = import_release(tmp_path / "release", tmp_path / "out")
    assert [*reasons(report)] == [f"{CITY}/trainA/\\udcff_2.png"]
    assert "udcff" in (tmp_path / "out/import.json").read_text()


@pytest.mark.parametrize("image_format", ["jpg", "png", "png16"])
def test_each_format_is_copied(tmp_path: Path, image_format: images.ImageFormat) -> None:
    suffix = images.suffix_of(image_format)
    put(tmp_path / "release/Single/Monitor/trainA", {f"{n}.{suffix}": still_bytes(n, image_format) for n in range(3)})
    import_release(tmp_path / "release", tmp_path / "out")
    assert [*samples_of(tmp_path / "out").values()] == [still_bytes(n, image_format) for n in range(3)]
    (part,) = open_dataset(tmp_path / "out")
    assert part.index.image_format == suffix
    assert verify(tmp_path / "out", decode="all").findings == ()


def test_a_double_becomes_a_run_of_two(tmp_path: Path) -> None:
    def both(one: int, other: int) -> bytes:
        sides = [images.resize(still(number), 256, 256) for number in (one, other)]
        return images.encode(np.concatenate(sides, axis=1), "png")

    folder = tmp_path / "release/Double/Monitor/trainA"
    put(folder, {"0005.png": both(5, 6), "0006.png": both(6, 7), "0010.png": still_bytes(1)})
    report = import_release(tmp_path / "release", tmp_path / "out")
    (row,) = report.rows
    assert (report.kind, row.num_frames, row.num_runs) == ("double", 4, 2)
    assert reasons(report) == {"Double/Monitor/trainA/0010.png": "96x64, not two square frames side by side"}
    shown = {10: 5, 11: 6, 12: 6, 13: 7}
    for (_, key), data in samples_of(tmp_path / "out").items():
        expected = images.resize(still(shown[int(key[-8:])]), 256, 256)
        assert np.array_equal(images.decode(data, "gray"), expected)
    # 11 and 12 follow each other in number and are no neighbours in time.
    assert windows_of(tmp_path / "out") == {
        ("monitor/infrared-train", f"monitor_night_{one:08d}", f"monitor_night_{one + 1:08d}") for one in (10, 12)
    }
    assert {*open_dataset(tmp_path / "out")[0].index.picture_sizes()} == {(256, 256)}


def test_a_double_can_be_written_as_jpg(tmp_path: Path) -> None:
    put(
        tmp_path / "release/Double/Monitor/trainA",
        {"0.png": images.encode(np.tile(still(1, width=64), (1, 2, 1)), "png")},
    )
    import_release(tmp_path / "release", tmp_path / "out", frame_format="jpg")
    assert all(data[:2] == b"\xff\xd8" for data in samples_of(tmp_path / "out").values())


def test_single_is_read_unless_double_is_asked_for(tmp_path: Path) -> None:
    put(tmp_path / "release/Single/Monitor/trainA", numbered(range(3)))
    put(
        tmp_path / "release/Double/Monitor/trainA",
        {"0.png": images.encode(np.tile(still(1, width=64), (1, 2, 1)), "png")},
    )
    assert import_release(tmp_path / "release", tmp_path / "a").kind == "single"
    assert import_release(tmp_path / "release", tmp_path / "b", kind="double").num_frames == 2
    # The folder of a kind itself, and one that was renamed.
    assert import_release(tmp_path / "release/Double", tmp_path / "c").kind == "double"
    (tmp_path / "release/Single").rename(tmp_path / "mine")
    assert import_release(tmp_path / "mine", tmp_path / "d").num_frames == 3
    with pytest.raises(ManifestError, match="holds no folder Single, nor Traffic or Monitor"):
        import_release(tmp_path / "release", tmp_path / "e", kind="single")


def test_folders_in_small_letters_are_found(tmp_path: Path) -> None:
    put(tmp_path / "release/single/traffic/city/clearday/trainA", numbered(range(3)))
    assert import_release(tmp_path / "release", tmp_path / "out").num_frames == 3


def test_a_folder_of_visible_test_frames_is_told_and_left_out(tmp_path: Path) -> None:
    put(tmp_path / "release" / CITY / "trainA", numbered(range(3)))
    put(tmp_path / "release" / CITY / "testB", numbered(range(3)))
    report = import_release(tmp_path / "release", tmp_path / "out")
    assert report.num_frames == 3
    assert reasons(report) == {f"{CITY}/testB": "a folder that the layout does not have"}


def test_importing_again_does_nothing_and_other_pictures_are_another_set(tmp_path: Path) -> None:
    root = tmp_path / "release"
    put(root / CITY / "trainA", numbered(range(3)))
    first = import_release(root, tmp_path / "out")
    before = folder_bytes(tmp_path / "out")
    again = import_release(root, tmp_path / "out")
    assert (first.is_new, again.is_new, again.rows) == (True, False, first.rows)
    put(root / CITY / "trainA", numbered([3]))
    with pytest.raises(OutputError, match="holds an import of other settings or another source; use another --out"):
        import_release(root, tmp_path / "out")
    assert folder_bytes(tmp_path / "out") == before
    assert import_release(root, tmp_path / "out", overwrite=True).num_frames == 4


def test_an_import_that_was_killed_is_begun_again(tmp_path: Path) -> None:
    root = tmp_path / "release"
    put(root / CITY / "trainA", numbered(range(9)))
    import_release(root, tmp_path / "whole", samples_per_shard=4)
    import_release(root, tmp_path / "killed", samples_per_shard=4)
    record = tmp_path / "killed/import.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"report": None}))
    for path in (tmp_path / "killed/city/infrared-train").iterdir():
        if not path.name.endswith("000000.tar"):
            path.unlink()
    assert import_release(root, tmp_path / "killed", samples_per_shard=4).is_new
    assert folder_bytes(tmp_path / "killed") == folder_bytes(tmp_path / "whole")
    assert len(list((tmp_path / "whole").rglob("*.tar"))) == 3


def test_a_file_that_changes_meanwhile_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "release" / CITY / "trainA"
    put(folder, numbered(range(3)))

    def change(progress: Progress) -> None:
        if progress.what == "import: pictures read":
            (folder / "frame_1.png").write_bytes(still_bytes(50))

    with pytest.raises(ManifestError, match=r"frame_1\.png: has changed since it was first read; import again"):
        import_release(tmp_path / "release", tmp_path / "out", on_progress=change)
    assert import_release(tmp_path / "release", tmp_path / "out").is_new


def test_a_data_set_of_others_is_not_joined(tmp_path: Path) -> None:
    put(tmp_path / "release" / CITY / "trainA", numbered(range(3)))
    make_part(tmp_path / "out", "harbour/infrared-train", "train", Footage(clip="harbour", frames=range(2)))
    with pytest.raises(OutputError, match="harbour/infrared-train: is a part of another data set; use another --out"):
        import_release(tmp_path / "release", tmp_path / "out")


def test_the_release_itself_is_no_place_to_write(tmp_path: Path) -> None:
    put(tmp_path / "release" / CITY / "trainA", numbered(range(3)))
    with pytest.raises(OutputError, match="lies in the release itself"):
        import_release(tmp_path / "release", tmp_path / "release/out")


def test_a_link_in_out_is_not_written_through(tmp_path: Path) -> None:
    put(tmp_path / "release" / CITY / "trainA", numbered(range(3)))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/city").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="city/infrared-train: leads out of"):
        import_release(tmp_path / "release", tmp_path / "out")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("nothing", "no such folder; name one that holds Single or Double"),
        ("empty", "holds no folder Single or Double, nor Traffic or Monitor"),
        ("bare", "holds no picture of the layout, expected Traffic/City/clearday/trainA"),
        ("broken", r"holds no picture of the layout.*'Single/Monitor/trainA/1\.png' was skipped: not a picture"),
        ("torn", r"none of its pictures can be decoded; 'Single/Monitor/trainA/1\.png': not a picture"),
    ],
)
def test_nothing_to_import_is_one_line(tmp_path: Path, folder: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare/Single/Traffic/Village").mkdir(parents=True)
    put(tmp_path / "broken/Single/Monitor/trainA", {"1.png": b"no picture"})
    put(tmp_path / "torn/Single/Monitor/trainA", {"1.png": still_bytes(1)[:200]})
    with pytest.raises(ManifestError, match=message):
        import_release(tmp_path / folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"frame_step": 1', '"frame_step": 0'),
        ('"nominal_fps": 25.0', '"nominal_fps": -1'),
        ('"run_starts": []', '"run_starts": ["x"]'),
        ('"weather": "clear"', '"weather": "../x"'),
        ("infraredcity-release-1", "infraredcity-release-9"),
        ('"clips": {', '"clip": {'),
    ],
)
def test_a_damaged_record_is_named(tmp_path: Path, old: str, new: str) -> None:
    make_part(tmp_path / "set", ".", "train", Footage(clip="city_clear", weather="clear", frames=range(3)))
    export(tmp_path / "set", tmp_path / "release", kinds=["single"])
    record = tmp_path / "release/release.json"
    assert old in record.read_text()
    record.write_text(record.read_text().replace(old, new))
    with pytest.raises(
        ManifestError, match=r"release\.json: damaged .*; export again, or remove it to import by the names"
    ):
        import_release(tmp_path / "release", tmp_path / "out")
    record.unlink()
    assert import_release(tmp_path / "release", tmp_path / "out").num_frames == 3


def test_files_that_the_record_does_not_know_go_to_the_catalogues_clip(tmp_path: Path) -> None:
    make_part(tmp_path / "set", ".", "train", Footage(clip="rooftop", weather="clear", frames=range(3)))
    export(tmp_path / "set", tmp_path / "release", kinds=["single"])
    put(tmp_path / "release" / CITY / "trainA", {"other_7.png": still_bytes(7)})
    # A clip of the record in a folder of another scene is not believed.
    shutil.copytree(tmp_path / "release" / CITY / "trainA", tmp_path / "release/Single/Monitor/trainA")
    report = import_release(tmp_path / "release", tmp_path / "out")
    assert [(row.folder, row.clip, row.num_frames) for row in report.rows] == [
        ("city/infrared-train", "city_clear", 1),
        ("city/infrared-train", "rooftop", 3),
        ("monitor/infrared-train", "monitor_night", 4),
    ]


def test_the_loader_reads_windows_of_an_import(tmp_path: Path) -> None:
    put(tmp_path / "release" / CITY / "trainA", numbered([*range(4), *range(10, 13)]))
    import_release(tmp_path / "release", tmp_path / "out", samples_per_shard=3)
    reader = WindowReader([tmp_path / "out/city/infrared-train/*.tar"], window_frames=3, color="gray", threads=1)
    try:
        assert reader.num_windows == 3
        windows = reader.read(range(3))
        found = {tuple(int(key[-8:]) for key in keys) for keys in windows.keys}
        assert found == {(0, 1, 2), (1, 2, 3), (10, 11, 12)}
        for keys, frames in zip(windows.keys, windows.frames.numpy(), strict=True):
            for key, frame in zip(keys, frames, strict=True):
                assert np.array_equal(frame[0], still(int(key[-8:]))[:, :, 0])
    finally:
        reader.close()


@pytest.mark.parametrize("options", [{"fps": 0.0}, {"fps": float("nan")}, {"frame_step": 0}, {"samples_per_shard": 0}])
def test_impossible_settings_are_a_callers_mistake(tmp_path: Path, options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        import_release(tmp_path, tmp_path / "out", **options)  # type: ignore[arg-type]
