import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from infraredcity import clips
from infraredcity.clips import Clip, load_catalog, manifests_folder, published_counts, read_toml, with_video
from infraredcity.errors import CatalogError, RemoteError
from infraredcity.files.path import RemotePath
from infraredcity.files.retry import RemoteOptions

NINE = {
    "city_clear": ("city", "clear", "infrared", "night"),
    "city_overcast": ("city", "overcast", "infrared", "night"),
    "highway_clear": ("highway", "clear", "infrared", "night"),
    "highway_overcast": ("highway", "overcast", "infrared", "night"),
    "monitor_night": ("monitor", "any", "infrared", "night"),
    "city_day": ("city", "any", "visible", "day"),
    "highway_day": ("highway", "any", "visible", "day"),
    "monitor_day": ("monitor", "any", "visible", "day"),
    "night_visible": ("city", "any", "visible", "night"),
}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_catalogue_has_the_nine_clips_with_their_facts() -> None:
    clips = load_catalog(environment={})
    assert {c.clip_id: (c.scene, c.weather, c.modality, c.time_of_day) for c in clips} == NINE
    assert len(clips) == 9
    assert all(clip.paths == () for clip in clips)


def test_a_folder_names_files_by_their_stem(tmp_path: Path) -> None:
    for name in ("city_clear.mp4", "city_day.AVI", "notes.txt", "other.mp4", "highway_day.txt"):
        (tmp_path / name).touch()
    clips = load_catalog(clips_dir=tmp_path, environment={})
    assert clips["city_clear"].paths == (tmp_path / "city_clear.mp4",)
    assert clips["city_day"].paths == (tmp_path / "city_day.AVI",)
    assert clips["highway_day"].paths == ()
    assert len(clips) == 9


def test_a_clips_file_gives_a_path_relative_to_itself(tmp_path: Path) -> None:
    file = write(tmp_path / "my.toml", '[clips.city_clear]\npath = "films/one.mp4"\nexpected_frames = 12\n')
    clip = load_catalog(clips_file=file, environment={})["city_clear"]
    assert clip.paths == (tmp_path / "films" / "one.mp4",)
    assert clip.expected_frames == 12
    assert clip.scene == "city"


def test_a_clips_file_gives_the_chunks_of_a_recording_in_order(tmp_path: Path) -> None:
    file = write(tmp_path / "my.toml", f'[clips.city_clear]\npaths = ["b.ts", "{tmp_path}/a.ts"]\n')
    assert load_catalog(clips_file=file, environment={})["city_clear"].paths == (tmp_path / "b.ts", tmp_path / "a.ts")


def test_a_path_may_begin_with_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = write(tmp_path / "my.toml", '[clips.city_clear]\npath = "~/one.mp4"\n')
    assert load_catalog(clips_file=file, environment={})["city_clear"].paths == (tmp_path / "one.mp4",)


@pytest.fixture
def memory() -> Iterator[RemotePath]:
    """A folder in fsspec's memory."""
    yield RemotePath("memory://films")
    fsspec.filesystem("memory").store.clear()


def test_a_clips_file_names_urls_beside_paths(tmp_path: Path) -> None:
    text = '[clips.city_clear]\npaths = ["a.ts", "s3://bucket/b.ts", "https://host/c.ts?token=x"]\n'
    clip = load_catalog(clips_file=write(tmp_path / "my.toml", text), environment={})["city_clear"]
    assert clip.paths == (tmp_path / "a.ts", RemotePath("s3://bucket/b.ts"), RemotePath("https://host/c.ts?token=x"))


def test_a_far_clips_file_gives_paths_relative_to_itself(memory: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    text = '[clips.city_clear]\npaths = ["night/one.mp4", "/data/two.mp4", "~/three.mp4", "gs://bucket/four.mp4"]\n'
    (memory / "my.toml").write_whole(text.encode())
    assert load_catalog(clips_file=memory / "my.toml", environment={})["city_clear"].paths == (
        RemotePath("memory://films/night/one.mp4"),
        Path("/data/two.mp4"),
        Path("/home/alice/three.mp4"),
        RemotePath("gs://bucket/four.mp4"),
    )


def test_a_far_folder_names_files_by_their_stem(memory: RemotePath) -> None:
    for name in ("city_clear.mp4", "city_day.AVI", "notes.txt", "other.mp4", "highway_day.mp4/within.mp4"):
        (memory / name).write_whole(b"film")
    clips = load_catalog(clips_dir=memory, environment={})
    assert clips["city_clear"].paths == (RemotePath("memory://films/city_clear.mp4"),)
    assert clips["city_day"].paths == (RemotePath("memory://films/city_day.AVI"),)
    assert clips["highway_day"].paths == ()
    (memory / "city_clear.mkv").write_whole(b"film")
    with pytest.raises(
        CatalogError, match=r"memory://films: clip city_clear has 2 files \(city_clear\.mkv, city_clear"
    ):
        load_catalog(clips_dir=memory, environment={})


def test_the_environment_names_a_far_folder_or_a_remote_file(memory: RemotePath) -> None:
    (memory / "city_clear.mp4").write_whole(b"film")
    (memory / "my.toml").write_whole(b'[clips.city_day]\npath = "day.mp4"\n')
    by_folder = load_catalog(environment={"INFRAREDCITY_CLIPS": "memory://films"})
    by_file = load_catalog(environment={"INFRAREDCITY_CLIPS": "memory://films/my.toml"})
    assert by_folder["city_clear"].paths == (memory / "city_clear.mp4",)
    assert by_file["city_day"].paths == (memory / "day.mp4",)


def test_what_is_far_and_missing_is_named_without_its_credentials(memory: RemotePath) -> None:
    lost = "memory://alice:geheim@films/gone"
    for call in (
        lambda: load_catalog(clips_dir=RemotePath(lost), environment={}),
        lambda: load_catalog(clips_file=RemotePath(f"{lost}.toml"), environment={}),
        lambda: load_catalog(environment={"INFRAREDCITY_CLIPS": lost}),
        lambda: load_catalog(environment={"INFRAREDCITY_CLIPS": f"{lost}.toml"}),
        lambda: with_video(load_catalog(environment={}), "city_day", RemotePath(f"{lost}.mp4"))[
            "city_day"
        ].existing_paths(),
    ):
        with pytest.raises(CatalogError, match=r"memory://films/gone.*(no such|does not exist)") as told:
            call()
        assert "geheim" not in str(told.value)


def test_a_far_clip_must_be_a_file(memory: RemotePath) -> None:
    (memory / "night" / "one.mp4").write_whole(b"film")
    named = with_video(load_catalog(environment={}), "city_clear", memory / "night" / "one.mp4")["city_clear"]
    assert named.existing_paths() == (memory / "night" / "one.mp4",)
    with pytest.raises(CatalogError, match="memory://films/night is not a file; name the video itself"):
        with_video(load_catalog(environment={}), "city_clear", memory / "night")["city_clear"].existing_paths()


def test_a_machine_that_cannot_be_reached_is_not_a_missing_clip() -> None:
    quick = RemoteOptions(connect_timeout_s=0.1, deadline_s=0.2)
    far = with_video(load_catalog(environment={}), "city_clear", RemotePath("http://127.0.0.1:9/one.mp4", quick))
    with pytest.raises(RemoteError, match=r"127\.0\.0\.1:9/one\.mp4: .*gave up after"):
        far["city_clear"].existing_paths()


def test_one_video_can_be_named_for_one_clip() -> None:
    clips = with_video(load_catalog(environment={}), "city_clear", Path("one.mp4"))
    assert clips["city_clear"].paths == (Path("one.mp4"),)
    assert clips["city_day"].paths == ()


def test_the_environment_names_a_folder_or_a_file_when_nothing_else_does(tmp_path: Path) -> None:
    (tmp_path / "city_clear.mp4").touch()
    file = write(tmp_path / "my.toml", '[clips.city_day]\npath = "day.mp4"\n')
    by_folder = load_catalog(environment={"INFRAREDCITY_CLIPS": str(tmp_path)})
    by_file = load_catalog(environment={"INFRAREDCITY_CLIPS": str(file)})
    assert by_folder["city_clear"].paths == (tmp_path / "city_clear.mp4",)
    assert by_file["city_day"].paths == (tmp_path / "day.mp4",)
    other = tmp_path / "other"
    other.mkdir()
    assert load_catalog(clips_dir=other, environment={"INFRAREDCITY_CLIPS": str(tmp_path)})["city_clear"].paths == ()


def test_the_environment_is_that_of_the_process_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "city_clear.mp4").touch()
    monkeypatch.setitem(os.environ, "INFRAREDCITY_CLIPS", str(tmp_path))
    assert load_catalog()["city_clear"].paths == (tmp_path / "city_clear.mp4",)


def test_an_environment_that_names_nothing_is_an_error() -> None:
    with pytest.raises(CatalogError, match="INFRAREDCITY_CLIPS=nowhere: no such file or folder"):
        load_catalog(environment={"INFRAREDCITY_CLIPS": "nowhere"})


def test_clips_of_ones_own_stand_beside_the_nine(tmp_path: Path) -> None:
    text = '[clips.harbour]\npath = "h.mp4"\nscene = "harbour"\nmodality = "infrared"\ntime_of_day = "night"\n'
    clips = load_catalog(clips_file=write(tmp_path / "my.toml", text), environment={})
    assert len(clips) == 10
    assert clips["harbour"].weather == "any"


def test_a_clip_shows_heat_bright_unless_its_table_says_otherwise(tmp_path: Path) -> None:
    text = '[clips.city_clear]\npolarity = "black-hot"\n[clips.city_overcast]\npolarity = "white-hot"\n'
    clips = load_catalog(clips_file=write(tmp_path / "my.toml", text), environment={})
    assert {clip.clip_id for clip in clips if clip.polarity == "black-hot"} == {"city_clear"}
    assert all(clip.polarity == "white-hot" for clip in load_catalog(environment={}))


def test_an_unknown_clip_lists_the_known_ones() -> None:
    with pytest.raises(
        CatalogError,
        match=r"unknown clip 'town'; the catalogue has city_clear, .*night_visible; .* --clips$",
    ):
        load_catalog(environment={})["town"]


@pytest.mark.parametrize("clip_id", ["day.v2", "Day", "a b", "", "_day", "x" * 61, "tag/nacht"])
def test_an_id_that_cannot_stand_in_a_key_is_refused(clip_id: str) -> None:
    with pytest.raises(CatalogError, match="must be 1 to 60 characters of a-z, 0-9, _ and -"):
        Clip(clip_id=clip_id, scene="city", modality="infrared", time_of_day="night")


def test_a_dotted_id_in_a_clips_file_is_refused_with_its_place(tmp_path: Path) -> None:
    text = '[clips."day.v2"]\npath = "d.mp4"\nscene = "city"\nmodality = "visible"\ntime_of_day = "day"\n'
    with pytest.raises(CatalogError, match=r"my\.toml: clips\.day\.v2: clip id 'day\.v2' must be"):
        load_catalog(clips_file=write(tmp_path / "my.toml", text), environment={})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", r"my\.toml: holds no \[clips\.<id>\] table"),
        ('[clips]\ncity_clear = "https://al:pw@h/a.mp4?t=S"', r"expected a table, found 'https://h/a\.mp4$"),
        ('[clips.city_clear]\nexpected_frames = "ftp://al:pw@h/a"', r"must be int, got 'ftp://h/a'$"),
        ("clips = 3", r"holds no \[clips\.<id>\] table"),
        ("[clips]\ncity_clear = 3", r"clips\.city_clear: expected a table, found 3"),
        ('[clips.city_clear]\nfile = "a"', r"clips\.city_clear: unknown key 'file'; known are path, paths, scene"),
        ('[clips.city_clear]\npath = "a"\npaths = ["b"]', "has both path and paths; keep one"),
        ("[clips.city_clear]\npath = 3", "path must be a string and paths a list of strings"),
        ('[clips.city_clear]\npaths = "a"', "path must be a string and paths a list of strings"),
        ('[clips.city_clear]\npath = ""', "path must be a string"),
        ('[clips.city_clear]\nexpected_frames = "12"', "expected_frames must be int, got '12'"),
        ("[clips.city_clear]\nexpected_frames = true", "expected_frames must be int, got True"),
        ("[clips.city_clear]\nexpected_frames = 0", "expected_frames must be positive, got 0"),
        ('[clips.city_clear]\nmodality = "heat"', 'modality must be "infrared" or "visible", got \'heat\''),
        (
            '[clips.city_clear]\npolarity = "hot"',
            'clips.city_clear: polarity must be "white-hot" or "black-hot", got \'hot\'',
        ),
        ("[clips.city_clear]\npolarity = 1", "polarity must be str, got 1"),
        (
            '[clips.city_day]\npolarity = "black-hot"',
            "clip city_day: polarity black-hot is for infrared clips, this one is visible",
        ),
        ('[clips.city_clear]\nscene = "City Hall"', "scene must be of a-z, 0-9, _ and -, got 'City Hall'"),
        (
            '[clips.own]\npath = "a"',
            "not one of the nine clips, so scene, modality, time_of_day must be given; the nine",
        ),
        ("[clips.city_clear", r"my\.toml: not valid TOML: .*declaration"),
    ],
)
def test_a_malformed_clips_file_says_where_and_what(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CatalogError, match=message):
        load_catalog(clips_file=write(tmp_path / "my.toml", text), environment={})


def test_a_clips_file_that_is_missing_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"gone\.toml: no such file"):
        load_catalog(clips_file=tmp_path / "gone.toml", environment={})
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CatalogError, match=r"binary\.toml: cannot be read"):
        load_catalog(clips_file=tmp_path / "binary.toml", environment={})


def test_two_files_for_one_clip_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "city_clear.avi").touch()
    (tmp_path / "city_clear.mp4").touch()
    with pytest.raises(
        CatalogError, match=r"clip city_clear has 2 files \(city_clear\.avi, city_clear\.mp4\); keep one"
    ):
        load_catalog(clips_dir=tmp_path, environment={})


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="gone: no such folder; --clips-dir names the folder"):
        load_catalog(clips_dir=tmp_path / "gone", environment={})


def test_a_clip_without_a_usable_file_says_what_to_do(tmp_path: Path) -> None:
    clips = load_catalog(environment={})
    with pytest.raises(
        CatalogError, match="clip city_clear: its file is unknown; pass --clips-dir, --clips or --video"
    ):
        clips["city_clear"].existing_paths()
    with pytest.raises(CatalogError, match=r"gone\.mp4 does not exist; correct the path"):
        with_video(clips, "city_clear", tmp_path / "gone.mp4")["city_clear"].existing_paths()
    with pytest.raises(CatalogError, match=r"is not a file; name the video itself, or list the pictures .* paths = \["):
        with_video(clips, "city_clear", tmp_path)["city_clear"].existing_paths()
    for pattern in ("t%03d.tiff", "*.tiff"):
        with pytest.raises(CatalogError, match=r"patterns are not read; list the pictures .* paths = \["):
            with_video(clips, "city_clear", tmp_path / pattern)["city_clear"].existing_paths()


def test_all_means_the_clips_of_ones_own_file_and_those_of_the_folder_beside_it(tmp_path: Path) -> None:
    own = 'scene = "x"\nmodality = "infrared"\ntime_of_day = "night"\n'
    file = write(tmp_path / "my.toml", f'[clips.harbour]\npath = "h.mp4"\n{own}[clips.city_day]\npath = "d.mp4"\n')
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "highway_day.MKV").touch()
    asked = [clip.clip_id for clip in load_catalog(clips_file=file, environment={}).asked_for()]
    assert asked == ["harbour", "city_day"]
    asked = [clip.clip_id for clip in load_catalog(clips_file=file, clips_dir=folder, environment={}).asked_for()]
    assert asked == ["harbour", "city_day", "highway_day"]
    assert load_catalog(environment={clips.CLIPS_VARIABLE: str(file)}).asked_for()[0].clip_id == "harbour"
    assert (
        len(load_catalog(clips_dir=folder, environment={}).asked_for())
        == len(load_catalog(environment={}).asked_for())
        == 9
    )


@pytest.mark.parametrize(
    "ending",
    [
        "flv",
        "DAV",
        "h264",
        "264",
        "H265",
        "265",
        "hevc",
        "vob",
        "3gp",
        "mxf",
        "y4m",
        "m2ts",
        "ts",
        "wmv",
        "mpg",
        "ogv",
        "asf",
    ],
)
def test_what_recorders_write_is_found_in_a_folder_of_clips(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"city_clear.{ending}").touch()
    assert load_catalog(clips_dir=tmp_path, environment={})["city_clear"].paths == (tmp_path / f"city_clear.{ending}",)


def test_a_file_whose_ending_is_not_known_is_named_where_its_clip_has_none(tmp_path: Path) -> None:
    (tmp_path / "city_clear.xyz").touch()
    (tmp_path / "other.xyz").touch()
    clips = load_catalog(clips_dir=tmp_path, environment={})
    with pytest.raises(CatalogError, match=r"^the files of city_clear are unknown; .*city_clear\.xyz$"):
        clips.check_files([clips["city_clear"]])


def test_the_published_counts_add_up() -> None:
    frames = published_counts()["frames"]
    assert frames["infrared_night"] + frames["visible_night"] + frames["visible_day"] == frames["total"] == 579_984
    lite = published_counts()["lite"]
    scenes = {name: dict(cells) for name, cells in lite.items() if name != "total"}
    totals = {name: cells.pop("total") for name, cells in scenes.items()}
    assert totals == {"city": 15_180, "highway": 15_853, "monitor": 10_306}
    assert {name: sum(cells.values()) for name, cells in scenes.items()} == totals
    assert sum(totals.values()) == lite["total"] == 41_339


def test_the_lite_recipe_asks_for_the_published_cells() -> None:
    clips = load_catalog(environment={})
    asked: dict[str, dict[str, int]] = {}
    for cell in read_toml(manifests_folder() / "lite.toml")["cells"]:
        clip = clips[cell["clip"]]
        weather = "" if clip.weather == "any" else f"_{clip.weather}"
        for split in ("train", "test"):
            if split in cell:
                asked.setdefault(cell["scene"], {})[f"{clip.modality}_{split}{weather}"] = cell[split]
    published = {scene: dict(cells) for scene, cells in published_counts()["lite"].items() if scene != "total"}
    for cells in published.values():
        cells.pop("total")
    assert asked == published


def test_every_video_suffix_is_lower_case() -> None:
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in clips.VIDEO_SUFFIXES)
