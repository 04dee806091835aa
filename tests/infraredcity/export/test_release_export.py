import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from export_sets import Footage, folder_bytes, make_part, put, samples_of, still, still_bytes, windows_of

from infraredcity.datasets import manifest
from infraredcity.datasets.dataset import open_dataset, rows_of
from infraredcity.errors import ImageError, ManifestError, OutputError, ShardError
from infraredcity.export import release_export
from infraredcity.export.release_export import export
from infraredcity.export.release_import import import_release
from infraredcity.stills import framing
from infraredcity.stills.decode import decode, decode_deep


def lite(root: Path) -> Path:
    """A Lite set in small: two weathers of a city, one of a monitor, each with what it has in the published one."""
    clear = Footage(clip="city_clear", weather="clear", frames=[*range(5), *range(10, 14)])
    make_part(
        root, "city/infrared-train", "train", clear, Footage(clip="city_overcast", weather="overcast", frames=range(3))
    )
    make_part(root, "city/infrared-test", "test", Footage(clip="city_clear", weather="clear", frames=range(30, 33)))
    day = Footage(clip="city_day", modality="visible", time_of_day="day", frames=range(6), shows=100)
    make_part(root, "city/visible-train", "train", day)
    make_part(root, "monitor/infrared-train", "train", Footage(clip="monitor_night", scene="monitor", frames=range(4)))
    parts = open_dataset(root)
    manifest.write_blocks(root, [rows_of(parts)])
    return root


def counts(root: Path) -> dict[str, int]:
    folders = sorted({path.parent for path in root.rglob("*.*") if path.name not in (".lock", "release.json")})
    return {folder.relative_to(root).as_posix(): len(list(folder.iterdir())) for folder in folders}


def test_single_holds_the_bytes_in_the_published_folders(tmp_path: Path) -> None:
    report = export(lite(tmp_path / "lite"), tmp_path / "out", kinds=["single"])
    assert counts(tmp_path / "out") == {
        "Single/Monitor/trainA": 4,
        "Single/Traffic/City/clearday/testA": 3,
        "Single/Traffic/City/clearday/trainA": 9,
        "Single/Traffic/City/clearday/trainB": 6,
        "Single/Traffic/City/overcast/trainA": 3,
        "Single/Traffic/City/overcast/trainB": 6,
    }
    assert {row.folder: row.num_pictures for row in report.rows} == counts(tmp_path / "out")
    assert report.left_out == ()
    folder = tmp_path / "out/Single/Traffic/City"
    assert (folder / "clearday/trainA/city_clear_00000012.png").read_bytes() == still_bytes(12)
    assert (folder / "overcast/trainB/city_day_00000005.png").read_bytes() == still_bytes(105, gray=False)


def test_what_two_weathers_share_is_one_file_on_disk(tmp_path: Path) -> None:
    export(lite(tmp_path / "lite"), tmp_path / "out", kinds=["single"])
    folder = tmp_path / "out/Single/Traffic/City"
    one, other = (folder / weather / "trainB/city_day_00000005.png" for weather in ("clearday", "overcast"))
    assert one.samefile(other)


def test_without_links_the_shared_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    export(lite(tmp_path / "lite"), tmp_path / "out", kinds=["single"])
    folder = tmp_path / "out/Single/Traffic/City"
    one, other = (folder / weather / "trainB/city_day_00000005.png" for weather in ("clearday", "overcast"))
    assert not one.samefile(other)
    assert one.read_bytes() == other.read_bytes() == still_bytes(105, gray=False)


def test_double_holds_each_two_neighbours_side_by_side(tmp_path: Path) -> None:
    export(lite(tmp_path / "lite"), tmp_path / "out", kinds=["double"], double_format="png")
    # 9 frames in runs of 5 and 4 give 4 and 3 pairs.
    folder = tmp_path / "out/Double/Traffic/City/clearday/trainA"
    names = [f"city_clear_{frame:08d}.png" for frame in (0, 1, 2, 3, 10, 11, 12)]
    assert sorted(path.name for path in folder.iterdir()) == names
    data = (folder / names[4]).read_bytes()
    assert data[25] == 0  # a png says "gray" there, and infrared stays so
    both = decode(data, "gray")
    assert both.shape == (256, 512, 1)
    assert np.array_equal(both[:, :256], framing.resize(still(10), 256, 256))
    assert np.array_equal(both[:, 256:], framing.resize(still(11), 256, 256))


def test_disjoint_pairs_take_each_frame_once(tmp_path: Path) -> None:
    report = export(lite(tmp_path / "lite"), tmp_path / "out", kinds=["double"], pairs="disjoint")
    folder = tmp_path / "out/Double/Traffic/City/clearday/trainA"
    assert sorted(int(path.stem[-8:]) for path in folder.iterdir()) == [0, 2, 10, 12]
    # Runs of 5, 3 and 3 frames have one over.
    (left,) = report.left_out
    assert (left.kind, left.num_frames, left.reason) == ("double", 3, "no neighbour in time to make a pair with")


def test_a_jpg_pair_differs_little_from_its_frames(tmp_path: Path) -> None:
    export(lite(tmp_path / "lite"), tmp_path / "out", kinds=["double"])
    both = decode(
        (tmp_path / "out/Double/Traffic/City/clearday/trainB/city_day_00000002.jpg").read_bytes(), "rgb"
    ).astype(int)
    left, right = (framing.resize(still(frame, gray=False), 256, 256).astype(int) for frame in (102, 103))
    assert np.abs(both[:, :256] - left).mean() < 3 < np.abs(both[:, :256] - right).mean()
    assert np.abs(both[:, 256:] - right).mean() < 3


def test_neighbours_across_a_break_make_no_pair(tmp_path: Path) -> None:
    make_part(
        tmp_path / "set", ".", "train", Footage(clip="monitor_night", scene="monitor", frames=range(6), breaks=[3])
    )
    export(tmp_path / "set", tmp_path / "out", kinds=["double"])
    names = sorted(path.stem for path in (tmp_path / "out/Double/Monitor/trainA").iterdir())
    assert names == [f"monitor_night_{frame:08d}" for frame in (0, 1, 3, 4)]


def test_frames_without_a_place_are_counted_with_their_reason(tmp_path: Path) -> None:
    day = {"modality": "visible", "time_of_day": "day"}
    make_part(tmp_path / "set", "a", "train",
              Footage(clip="city_clear", weather="clear", frames=range(3)),
              Footage(clip="fog", weather="any", frames=range(4)),
              Footage(clip="harbour", scene="harbour", frames=range(5)))  # fmt: skip
    make_part(tmp_path / "set", "b", "train", Footage(clip="night_visible", modality="visible", frames=range(6)))
    make_part(tmp_path / "set", "c", "test", Footage(clip="city_day", frames=range(7), **day))
    make_part(
        tmp_path / "set", "d", "all", Footage(clip="highway_clear", scene="highway", weather="clear", frames=range(8))
    )
    report = export(tmp_path / "set", tmp_path / "out", kinds=["single"])
    assert counts(tmp_path / "out") == {"Single/Traffic/City/clearday/trainA": 3}
    assert {left.num_frames: left.reason for left in report.left_out} == {
        4: "city in weather any, the layout has clear and overcast",
        5: "scene harbour, the layout has city, highway, monitor",
        6: "visible by night, the layout has visible frames only by day",
        7: "visible test, the layout has no folder for it",
        8: "of no split; draw train and test frames with make-lite",
    }


def test_visible_frames_stand_beside_each_weather_that_has_infrared(tmp_path: Path) -> None:
    day = Footage(clip="city_day", weather="clear", modality="visible", time_of_day="day", frames=range(2))
    make_part(tmp_path / "set", "b", "train", day)
    export(tmp_path / "set", tmp_path / "alone", kinds=["single"])
    assert counts(tmp_path / "alone") == {
        "Single/Traffic/City/clearday/trainB": 2,
        "Single/Traffic/City/overcast/trainB": 2,
    }
    make_part(tmp_path / "set", "a", "train", Footage(clip="rain", weather="overcast", frames=range(3)))
    export(tmp_path / "set", tmp_path / "out", kinds=["single"])
    assert counts(tmp_path / "out") == {
        "Single/Traffic/City/overcast/trainA": 3,
        "Single/Traffic/City/overcast/trainB": 2,
    }


def test_a_set_without_any_place_is_an_error_that_says_why(tmp_path: Path) -> None:
    make_part(tmp_path / "set", ".", "all", Footage(clip="city_clear", weather="clear", frames=range(8)))
    with pytest.raises(ManifestError, match=r"nothing of it has a place .*8 frames: of no split; draw train and test"):
        export(tmp_path / "set", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_exporting_again_does_nothing(tmp_path: Path) -> None:
    first = export(lite(tmp_path / "lite"), tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    again = export(tmp_path / "lite", tmp_path / "out")
    assert (first.is_new, again.is_new) == (True, False)
    assert (again.rows, again.left_out) == (first.rows, first.left_out)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == times


def test_an_export_that_was_killed_goes_on(tmp_path: Path) -> None:
    export(lite(tmp_path / "lite"), tmp_path / "whole")
    out = tmp_path / "killed"
    export(tmp_path / "lite", out)
    record = json.loads((out / "release.json").read_text()) | {"report": None}
    (out / "release.json").write_text(json.dumps(record))
    gone = [*(out / "Double/Traffic").rglob("*_00000001.*"), *(out / "Single/Monitor").rglob("*_00000002.*")]
    assert len(gone) == 5
    for path in gone:
        path.unlink()
    (out / "Double/Monitor/trainA/.tmp-1-x.jpg").write_text("half")
    stays = out / "Double/Monitor/trainA/monitor_night_00000000.jpg"
    before = stays.stat().st_mtime_ns
    assert export(tmp_path / "lite", out).is_new
    assert folder_bytes(out) == folder_bytes(tmp_path / "whole")
    assert stays.stat().st_mtime_ns == before


def test_a_lost_file_is_written_again(tmp_path: Path) -> None:
    export(lite(tmp_path / "lite"), tmp_path / "out")
    before = folder_bytes(tmp_path / "out")
    (tmp_path / "out/Single/Monitor/trainA/monitor_night_00000002.png").unlink()
    assert export(tmp_path / "lite", tmp_path / "out").is_new
    assert folder_bytes(tmp_path / "out") == before


def test_other_settings_are_refused_and_overwrite_takes_away_what_was_written(tmp_path: Path) -> None:
    export(lite(tmp_path / "lite"), tmp_path / "out", kinds=["double"])
    (tmp_path / "out/Double/Monitor/trainA/mine.txt").write_text("years of work")
    with pytest.raises(OutputError, match="holds an export of other settings or of another data set; use another --to"):
        export(tmp_path / "lite", tmp_path / "out", kinds=["single"])
    export(tmp_path / "lite", tmp_path / "out", kinds=["single"], overwrite=True)
    left = [path.relative_to(tmp_path / "out/Double").as_posix() for path in (tmp_path / "out/Double").rglob("*.*")]
    assert left == ["Monitor/trainA/mine.txt"]


def test_folders_of_others_are_refused_and_their_files_stay(tmp_path: Path) -> None:
    theirs = tmp_path / "out/Single/Traffic/City/clearday/trainA"
    put(theirs, {"img_1.png": b"years of work", "city_clear_00000000.png": b"of the same name"})
    with pytest.raises(
        OutputError, match=r"clearday/trainA: holds files that are of no release\.json; use another --to"
    ):
        export(lite(tmp_path / "lite"), tmp_path / "out", kinds=["single"])
    report = export(tmp_path / "lite", tmp_path / "out", kinds=["single"], overwrite=True)
    assert report.num_foreign_files == 1
    assert (theirs / "img_1.png").read_bytes() == b"years of work"
    assert (theirs / "city_clear_00000000.png").read_bytes() == still_bytes(0)
    assert export(tmp_path / "lite", tmp_path / "out", kinds=["single"]).num_foreign_files == 1


def test_a_double_of_somebody_else_is_not_taken_for_ours(tmp_path: Path) -> None:
    export(lite(tmp_path / "lite"), tmp_path / "whole", kinds=["double"])
    put(tmp_path / "out/Double/Monitor/trainA", {"monitor_night_00000000.jpg": b"of the same name"})
    export(tmp_path / "lite", tmp_path / "out", kinds=["double"], overwrite=True)
    assert folder_bytes(tmp_path / "out") == folder_bytes(tmp_path / "whole")


def test_a_link_that_leads_out_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/Single").mkdir(parents=True)
    (tmp_path / "out/Single/Monitor").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match=r"Monitor/trainA: leads out of .*; remove the link"):
        export(lite(tmp_path / "lite"), tmp_path / "out")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("name", ["../../../precious", "/etc/precious", "a/b"])
def test_a_record_of_a_stranger_deletes_nothing_elsewhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "precious").write_text("years of work")
    export(lite(tmp_path / "lite"), tmp_path / "out", kinds=["single"])
    record = json.loads((tmp_path / "out/release.json").read_text())
    record["files"] = {"Single/Monitor": [name]}
    (tmp_path / "out/release.json").write_text(json.dumps(record))
    with pytest.raises(OutputError, match=r"release\.json: damaged \(file .*use another --to"):
        export(tmp_path / "lite", tmp_path / "out", kinds=["double"])
    export(tmp_path / "lite", tmp_path / "out", kinds=["double"], overwrite=True)
    assert (tmp_path / "precious").read_text() == "years of work"


def test_a_damaged_shard_is_not_exported(tmp_path: Path) -> None:
    lite(tmp_path / "lite")
    (shard,) = (tmp_path / "lite/monitor/infrared-train").glob("*.tar")
    data = bytearray(shard.read_bytes())
    data[512 + 40] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ShardError, match="monitor_night_00000000 is not the picture that was written"):
        export(tmp_path / "lite", tmp_path / "out", kinds=["single"])
    assert json.loads((tmp_path / "out/release.json").read_text())["report"] is None


def test_counts_of_16_bits_become_a_double_png_and_no_jpg(tmp_path: Path) -> None:
    deep = Footage(clip="monitor_night", scene="monitor", frames=range(3), image_format="png16")
    make_part(tmp_path / "set", ".", "train", deep)
    with pytest.raises(ImageError, match="a png of 16 bits cannot become a jpg; use --format png"):
        export(tmp_path / "set", tmp_path / "out", kinds=["double"])
    export(tmp_path / "set", tmp_path / "png", kinds=["double"], double_format="png")
    both = decode_deep((tmp_path / "png/Double/Monitor/trainA/monitor_night_00000001.png").read_bytes())
    expected = framing.resize(still(1).astype(np.uint16) * 100, 256, 256)
    assert np.array_equal(both[:, :256], expected)


def test_an_export_and_its_import_are_the_same_set(tmp_path: Path) -> None:
    source = lite(tmp_path / "lite")
    # A shutter between frames 10 and 11 that numbers do not tell of, and a clip of every second frame at 50 a second.
    make_part(source, "city/infrared-train", "train",
              Footage(clip="city_clear", weather="clear", frames=[*range(5), *range(10, 14)], breaks=[11]),
              Footage(clip="rain-2", weather="overcast", frames=range(1, 12, 2), frame_step=2, fps=50))  # fmt: skip
    export(source, tmp_path / "release", kinds=["single"])
    import_release(tmp_path / "release", tmp_path / "back")
    assert samples_of(tmp_path / "back") == samples_of(source)
    assert windows_of(tmp_path / "back") == windows_of(source)
    assert len(windows_of(source)) == 4 + 0 + 2 + 5 + 2 + 5 + 3
    for before, after in zip(open_dataset(source), open_dataset(tmp_path / "back"), strict=True):
        assert (before.name, before.split, list(before.clips)) == (after.name, after.split, list(after.clips))
        assert before.index.picture_sizes() == after.index.picture_sizes()
        for clip_id, facts in before.clips.items():
            told = ("scene", "weather", "modality", "time_of_day", "nominal_fps", "time_base", "frame_step")
            assert [getattr(facts, name) for name in told] == [getattr(after.clips[clip_id], name) for name in told]


def test_progress_ends_at_the_number_of_pictures(tmp_path: Path) -> None:
    told = []
    export(lite(tmp_path / "lite"), tmp_path / "out", on_progress=told.append)
    # Single 9 + 3 + 3 + 6 + 4; Double 4 + 3, 2, 2, 5, 3: what is shared is made once.
    assert [(each.done, each.total) for each in told][-1] == (25 + 19, 25 + 19)


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(data: object) -> int:
        raise OSError(28, "No space left on device")

    lite(tmp_path / "lite")
    real: Callable[[int], None] = os.fsync
    calls = 0

    def fsync(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 10:
            full(handle)
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OutputError, match="cannot be written: no space left on device"):
        export(tmp_path / "lite", tmp_path / "out", kinds=["single"])
    monkeypatch.undo()
    report = release_export.export(tmp_path / "lite", tmp_path / "out", kinds=["single"])
    assert report.is_new
    assert not list((tmp_path / "out").rglob(".tmp-*"))
