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
from infraredcity.export.release_import import import_release
from infraredcity.loader import WindowReader
from infraredcity.progress import Progress
from infraredcity.shards import index_file
from infraredcity.stills import formats, framing
from infraredcity.stills.decode import decode

CITY = "Single/Traffic/City/clearday"
OVERCAST = "Single/Traffic/City/overcast"


def numbered(
    frames: range | list[int], *, before: str = "frame_", digits: int = 1, **options: bool
) -> dict[str, bytes]:
    return {f"{before}{frame:0{digits}d}.png": still_bytes(frame, **options) for frame in frames}


def frames_of(root: Path, part: str, clip: str) -> list[int]:
    index = index_file.load(root / part)
    return index.frame_index[index.clip == index.clips.index(clip)].tolist()


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
    assert (report.num_frames, report.num_shared) == (19, 5)
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
    assert (row.num_frames, row.num_runs) == (6, 3)
    assert frames_of(tmp_path / "out", "city/infrared-train", "city_clear") == [9, 10, 11, 30, 31, 100]
    pairs = {(int(one[-3:]), int(other[-3:])) for _, one, other in windows_of(tmp_path / "out")}
    assert pairs == {(9, 10), (10, 11), (30, 31)}


def test_folders_that_all_count_from_0_are_counted_anew_when_asked(tmp_path: Path) -> None:
    root = tmp_path / "release"
    put(root / CITY / "trainA", numbered([0, 1, 2, 5, 6]))
    put(
        root / CITY / "testA",
        {**numbered([0, 1], before="b_"), "a_7.png": still_bytes(30), "a_07.png": still_bytes(31)},
    )
    with pytest.raises(ManifestError, match=r"has the number of .*--renumber"):
        import_release(root, tmp_path / "out")
    report = import_release(root, tmp_path / "out", renumber=True)
    assert [(row.split, row.num_frames, row.num_runs) for row in report.rows] == [("test", 4, 3), ("train", 5, 2)]
    assert frames_of(tmp_path / "out", "city/infrared-train", "city_clear") == [0, 1, 2, 3, 4]
    assert frames_of(tmp_path / "out", "city/infrared-test", "city_clear") == [1005, 1006, 1007, 1008]
    pairs = {(int(one[-8:]), int(other[-8:])) for _, one, other in windows_of(tmp_path / "out")}
    assert pairs == {(0, 1), (1, 2), (3, 4), (1007, 1008)}  # 2 and 5, and the two files numbered 7, are no neighbours
    test, train = open_dataset(tmp_path / "out")
    (source,) = test.clips["city_clear"].sources
    assert (source["first_number"], source["number_step"]) == (1005, 1)
    assert source["files"] == ["a_07.png", "a_7.png", "b_0.png", "b_1.png"]
    assert samples_of(tmp_path / "out")["city/infrared-test", "city_clear_00001005"] == still_bytes(31)
    assert train.clips["city_clear"].clip_frames == 5
    assert verify(tmp_path / "out", decode="all").findings == ()
    assert not import_release(root, tmp_path / "out", renumber=True).is_new


def test_neighbours_some_numbers_apart_stay_so_when_they_are_counted_anew(tmp_path: Path) -> None:
    put(tmp_path / "release" / CITY / "trainA", numbered([3, 8, 13, 14]))
    put(tmp_path / "release" / CITY / "testA", numbered([3, 8]))
    import_release(tmp_path / "release", tmp_path / "out", frame_step=5, renumber=True)
    pairs = {(int(one[-8:]), int(other[-8:])) for _, one, other in windows_of(tmp_path / "out")}
    assert pairs == {(0, 5), (5, 10), (1020, 1025)}


def test_neighbours_may_be_some_numbers_apart(tmp_path: Path) -> None:
    put(tmp_path / "release" / CITY / "trainA", numbered([0, 5, 10, 11, 20]))
    import_release(tmp_path / "release", tmp_path / "out", frame_step=5)
    pairs = {(int(one[-3:]), int(other[-3:])) for _, one, other in windows_of(tmp_path / "out")}
    assert pairs == {(0, 5), (5, 10)}


def test_visible_frames_of_two_weathers_are_taken_once_where_they_are_the_same(tmp_path: Path) -> None:
    root = tmp_path / "release"
    put(root / CITY / "trainB", numbered([0, 1, 2]))
    # 1 is the same picture, 3 one of its own.
    put(root / OVERCAST / "trainB", {"frame_1.png": still_bytes(1), "frame_3.png": still_bytes(60)})
    report = import_release(root, tmp_path / "out")
    assert report.num_shared == 1
    assert samples_of(tmp_path / "out") == {
        ("city/visible-train", f"city_day_{frame:08d}"): still_bytes(shown)
        for frame, shown in {0: 0, 1: 1, 2: 2, 3: 60}.items()
    }


def test_pictures_of_several_sources_make_no_false_pairs(tmp_path: Path) -> None:
    names = ["left_1.png", "left_2.png", "right_3.png", "right_4.png"]
    put(tmp_path / "release" / CITY / "trainA", {name: still_bytes(place) for place, name in enumerate(names)})
    import_release(tmp_path / "release", tmp_path / "out")
    pairs = {(int(one[-3:]), int(other[-3:])) for _, one, other in windows_of(tmp_path / "out")}
    assert pairs == {(1, 2), (3, 4)}


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


HUGE = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (90_000).to_bytes(4, "big") * 2 + b"\x08\0\0\0\0"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("notes.txt", b"hello", "expected a jpg or png whose name ends in a number"),
        ("a.png", still_bytes(9), "expected a jpg or png whose name ends in a number"),
        ("20211115123000123.txt.png", still_bytes(9), "expected a jpg or png whose name ends in a number"),
        ("frame_03.png", still_bytes(9), "has the number of .*frame_0*3.png"),
        ("right_3.png", still_bytes(9), "has the number of .*frame_3.png"),
        ("4.png", b"", "not a picture that can be decoded"),
        ("5.png", still_bytes(5)[:200], "not a picture that can be decoded"),
        ("6.png", still_bytes(6, width=48), "is 48x64, but frame_0.png of the same clip is 96x64"),
        ("7.jpg", still_bytes(7, "jpg"), "is jpg, but frame_0.png of the same part is png"),
        ("8.jpeg", still_bytes(8, "webp"), "is a webp"),
        ("9.png", still_bytes(9, "png16"), "is png16, but"),
        ("10.png", HUGE, "claims 90000x90000 pixels"),
        ("../testA/3.png", still_bytes(3), "has the number of .*trainA/frame_3.png, and both are frames of city_clear"),
        ("../testB/0.png", still_bytes(3), "the layout has no visible test frames"),
    ],
)
def test_what_does_not_fit_the_layout_is_refused(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    folder = tmp_path / "release" / CITY / "trainA"
    put(folder, {**numbered(range(4)), ".hidden.png": b"none"})
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    with pytest.raises(ManifestError, match=message) as caught:
        import_release(tmp_path / "release", tmp_path / "out")
    assert len(str(caught.value).splitlines()) == 1
    path.unlink()
    if "test" in name:
        path.parent.rmdir()
    assert import_release(tmp_path / "release", tmp_path / "out").num_frames == 4


def test_folders_and_pipes_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "release" / CITY / "trainA"
    put(folder, numbered(range(4)))
    (folder / "11.png").mkdir()
    with pytest.raises(ManifestError, match="is not a file of the release"):
        import_release(tmp_path / "release", tmp_path / "out")
    (folder / "11.png").rmdir()
    os.mkfifo(folder / "12.png")
    with pytest.raises(ManifestError, match="is not a file of the release"):
        import_release(tmp_path / "release", tmp_path / "out")


@pytest.mark.parametrize("name", ["trainA/frame_2.png", "trainA/frame_4.png", "testA"])
def test_links_out_of_the_release_are_refused(tmp_path: Path, name: str) -> None:
    root = tmp_path / "release"
    put(tmp_path / "secrets", numbered(range(20, 23)))
    put(root / CITY / "trainA", numbered(range(2)))
    targets = {"trainA/frame_2.png": tmp_path / "secrets/frame_20.png", "testA": tmp_path / "secrets"}
    (root / CITY / name).symlink_to(targets.get(name, Path("frame_4.png")))  # the other one leads to itself
    with pytest.raises(ManifestError, match=r"is not a file of the release|cannot be read"):
        import_release(root, tmp_path / "out")


def test_links_inside_the_release_are_followed(tmp_path: Path) -> None:
    root = tmp_path / "release"
    put(root / CITY / "trainA", numbered(range(2)))
    (root / CITY / "trainA/frame_3.png").symlink_to("frame_1.png")
    put(root / CITY / "trainB", numbered(range(5)))
    (root / OVERCAST).mkdir()
    (root / OVERCAST / "trainB").symlink_to(root.resolve() / CITY / "trainB")
    report = import_release(root, tmp_path / "out")
    assert frames_of(tmp_path / "out", "city/infrared-train", "city_clear") == [0, 1, 3]
    assert report.num_shared == 5


@pytest.mark.parametrize(
    "name",
    [
        "x\\..\\..\\y_1.png",
        "a b#%?*[1]_1.png",
        "ночь_1.png",
        "new\nline_1.png",
        "-rf_1.png",
        os.fsdecode(b"\xff_1.png"),
    ],
)
def test_names_may_hold_any_characters(tmp_path: Path, name: str) -> None:
    put(tmp_path / "release" / CITY / "trainA", {name: still_bytes(1)})
    import_release(tmp_path / "release", tmp_path / "out")
    assert samples_of(tmp_path / "out") == {("city/infrared-train", "city_clear_00000001"): still_bytes(1)}


@pytest.mark.parametrize("image_format", ["jpg", "png", "png16"])
def test_each_format_is_copied(tmp_path: Path, image_format: formats.ImageFormat) -> None:
    suffix = formats.suffix_of(image_format)
    put(tmp_path / "release/Single/Monitor/trainA", {f"{n}.{suffix}": still_bytes(n, image_format) for n in range(3)})
    import_release(tmp_path / "release", tmp_path / "out")
    assert [*samples_of(tmp_path / "out").values()] == [still_bytes(n, image_format) for n in range(3)]
    (part,) = open_dataset(tmp_path / "out")
    assert part.index.image_format == suffix
    assert verify(tmp_path / "out", decode="all").findings == ()


def test_a_double_becomes_a_run_of_two(tmp_path: Path) -> None:
    def both(one: int, other: int) -> bytes:
        sides = [framing.resize(still(number), 256, 256) for number in (one, other)]
        return formats.encode(np.concatenate(sides, axis=1), "png")

    folder = tmp_path / "release/Double/Monitor/trainA"
    put(folder, {"0005.png": both(5, 6), "0006.png": both(6, 7)})
    report = import_release(tmp_path / "release", tmp_path / "out")
    (row,) = report.rows
    assert (report.kind, row.num_frames, row.num_runs) == ("double", 4, 2)
    shown = {10: 5, 11: 6, 12: 6, 13: 7}
    for (_, key), data in samples_of(tmp_path / "out").items():
        expected = framing.resize(still(shown[int(key[-8:])]), 256, 256)
        assert np.array_equal(decode(data, "gray"), expected)
    # 11 and 12 follow each other in number and are no neighbours in time.
    assert windows_of(tmp_path / "out") == {
        ("monitor/infrared-train", f"monitor_night_{one:08d}", f"monitor_night_{one + 1:08d}") for one in (10, 12)
    }
    assert {*open_dataset(tmp_path / "out")[0].index.picture_sizes()} == {(256, 256)}


def test_a_double_that_is_not_two_squares_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "release/Double/Monitor/trainA", {"0010.png": still_bytes(1)})
    with pytest.raises(ManifestError, match="is 96x64, expected two square frames side by side"):
        import_release(tmp_path / "release", tmp_path / "out")


def test_a_double_can_be_written_as_jpg(tmp_path: Path) -> None:
    put(
        tmp_path / "release/Double/Monitor/trainA",
        {"0.png": formats.encode(np.tile(still(1, width=64), (1, 2, 1)), "png")},
    )
    import_release(tmp_path / "release", tmp_path / "out", frame_format="jpg")
    assert all(data[:2] == b"\xff\xd8" for data in samples_of(tmp_path / "out").values())


def test_single_is_read_unless_double_is_asked_for(tmp_path: Path) -> None:
    put(tmp_path / "release/Single/Monitor/trainA", numbered(range(3)))
    put(
        tmp_path / "release/Double/Monitor/trainA",
        {"0.png": formats.encode(np.tile(still(1, width=64), (1, 2, 1)), "png")},
    )
    assert import_release(tmp_path / "release", tmp_path / "a").kind == "single"
    assert import_release(tmp_path / "release", tmp_path / "b", kind="double").num_frames == 2
    # The folder of a kind itself, and one that was renamed.
    assert import_release(tmp_path / "release/Double", tmp_path / "c").kind == "double"
    (tmp_path / "release/Single").rename(tmp_path / "mine")
    assert import_release(tmp_path / "mine", tmp_path / "d").num_frames == 3
    with pytest.raises(ManifestError, match="holds no folder Single, nor Traffic or Monitor"):
        import_release(tmp_path / "release", tmp_path / "e", kind="single")


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
    ],
)
def test_nothing_to_import_is_one_line(tmp_path: Path, folder: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare/Single/Traffic/Village").mkdir(parents=True)
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
    with pytest.raises(ManifestError, match=r"release\.json: damaged .*; export again, or remove it"):
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
