"""The built-in sample: deterministic, one geometry in all renderings, truth aligned, files as promised."""

import hashlib
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import av  # noqa: TID251 -- counts frames without the code under test
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from infraredcity.errors import OutputError
from infraredcity.progress import Progress
from infraredcity.synthetic import CLIPS, OBJECT_KINDS, Material, SampleInfo, World, write_sample

SMALL = {"width_px": 128, "height_px": 96}
NINE = {
    "city_clear": ("city", "clear", "infrared", "night"),
    "city_overcast": ("city", "overcast", "infrared", "night"),
    "highway_clear": ("highway", "clear", "infrared", "night"),
    "highway_overcast": ("highway", "overcast", "infrared", "night"),
    "monitor_night": ("monitor", "clear", "infrared", "night"),
    "city_day": ("city", "clear", "visible", "day"),
    "highway_day": ("highway", "clear", "visible", "day"),
    "monitor_day": ("monitor", "clear", "visible", "day"),
    "night_visible": ("city", "clear", "visible", "night"),
}


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> SampleInfo:
    """All nine clips, small and short."""
    return write_sample(tmp_path_factory.mktemp("sample"), num_frames=4, workers=1, **SMALL)


def decoded(path: Path, pixel_format: str = "rgb24") -> tuple[NDArray[np.uint8], list[int]]:
    """Frames and pts of a video."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return np.stack([frame.to_ndarray(format=pixel_format) for frame in frames]), [frame.pts for frame in frames]


def edges(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Gradient magnitude."""
    gray = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    gray = cv2.GaussianBlur(gray.astype(np.float32), (0, 0), 1.0)
    return np.hypot(cv2.Sobel(gray, cv2.CV_32F, 1, 0), cv2.Sobel(gray, cv2.CV_32F, 0, 1))


def correlation(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    return float(np.corrcoef(first.ravel(), second.ravel())[0, 1])


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_sample_has_the_nine_clips_of_the_catalogue() -> None:
    assert {
        clip_id: (clip.scene, clip.weather, clip.modality, clip.time_of_day) for clip_id, clip in CLIPS.items()
    } == NINE


def test_each_promised_file_is_there_and_nothing_else(sample: SampleInfo) -> None:
    names = {path.relative_to(sample.folder).as_posix() for path in sample.folder.rglob("*") if path.is_file()}
    clips = {f"{clip_id}.mp4" for clip_id in NINE}
    truths = {f"truth/{clip_id}.mp4" for clip_id, facts in NINE.items() if facts[2] == "infrared"}
    assert names == clips | truths | {"clips.toml", "contact.png", ".infraredcity-sample"}
    assert sample.clip_ids == tuple(NINE)
    assert sample.num_frames == 4


def test_clips_file_states_what_each_clip_shows(sample: SampleInfo) -> None:
    tables = tomllib.loads(sample.clips_file.read_text())["clips"]
    assert list(tables) == list(NINE)
    for clip_id, (scene, weather, modality, time_of_day) in NINE.items():
        assert tables[clip_id] == {
            "path": f"{clip_id}.mp4",
            "scene": scene,
            "weather": weather,
            "modality": modality,
            "time_of_day": time_of_day,
            "expected_frames": 4,
        }


def test_videos_have_the_asked_frames_size_and_rate(sample: SampleInfo) -> None:
    paths = [path for path in sample.folder.rglob("*.mp4")]
    assert len(paths) == 14
    for path in paths:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
            assert (stream.width, stream.height, stream.average_rate) == (128, 96, 25)
            assert sum(1 for _ in container.decode(video=0)) == 4


def test_the_columns_of_the_contact_sheet_are_equally_long(sample: SampleInfo) -> None:
    sheet = cv2.imread(str(sample.contact_sheet))
    # Fourteen videos in two columns: seven rows of 18 px of label and 128 px of picture.
    assert sheet.shape[0] == 7 * (18 + 128)
    assert (sheet[-128:] != 24).any(axis=2).mean() > 0.9


def test_infrared_clips_are_gray(sample: SampleInfo) -> None:
    planes, _ = decoded(sample.folder / "city_clear.mp4", "yuv420p")
    assert (planes[:, 96:] == 128).all()
    world = World(CLIPS["city_clear"], **SMALL)
    rgb, _ = decoded(sample.folder / "city_clear.mp4")
    assert np.abs(rgb[3, :, :, 0].astype(int) - world.render(3, "infrared")).mean() < 4.0


def test_truth_has_the_times_and_the_edges_of_its_infrared_clip(tmp_path: Path) -> None:
    info = write_sample(tmp_path, num_frames=26, clip_ids=["highway_clear", "city_clear"], workers=1, **SMALL)
    for clip_id in info.clip_ids:
        infrared, infrared_pts = decoded(info.folder / f"{clip_id}.mp4", "gray")
        truth, truth_pts = decoded(info.folder / "truth" / f"{clip_id}.mp4")
        assert infrared_pts == truth_pts
        for i in (0, 12, 25):
            scores = {j: correlation(edges(infrared[i]), edges(truth[j])) for j in (0, 6, 12, 18, 25)}
            assert max(scores, key=lambda j: scores[j]) == i
            assert scores[i] > 0.35


def test_the_same_arguments_give_the_same_bytes_whatever_the_number_of_workers(tmp_path: Path) -> None:
    told: list[Progress] = []
    arguments = {"num_frames": 50, "clip_ids": ["highway_clear", "monitor_day"], "width_px": 96, "height_px": 64}
    write_sample(tmp_path / "a", workers=1, on_progress=told.append, **arguments)  # type: ignore[arg-type]
    write_sample(tmp_path / "b", workers=2, **arguments)  # type: ignore[arg-type]
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert [(report.done, report.total) for report in told] == [(1, 2), (2, 2)]


def test_another_seed_shows_another_street() -> None:
    first, second = (World(CLIPS["city_day"], seed=seed, **SMALL).render(0, "day") for seed in (0, 1))
    assert correlation(edges(first), edges(second)) < 0.8
    assert not np.array_equal(first, second)


def test_clips_of_one_scene_show_different_streets() -> None:
    layouts = [World(CLIPS[clip_id], **SMALL).labels(0) for clip_id in ("city_clear", "city_overcast", "city_day")]
    for first, second in pairwise(layouts):
        assert (first != second).mean() > 0.2


def test_a_frame_does_not_depend_on_what_was_rendered_before() -> None:
    world = World(CLIPS["highway_clear"], **SMALL)
    for frame_index in (0, 40, 3):
        world.render(frame_index, "day")
    for kind in ("infrared", "day", "night"):
        fresh = World(CLIPS["highway_clear"], **SMALL).render(77, kind)
        assert np.array_equal(world.render(77, kind), fresh)


@pytest.mark.parametrize("clip_id", ["city_clear", "highway_clear", "monitor_night"])
def test_all_renderings_of_a_moment_have_their_edges_at_the_same_place(clip_id: str) -> None:
    world = World(CLIPS[clip_id])
    infrared, day, night = (edges(world.render(50, kind)) for kind in ("infrared", "day", "night"))
    for other in (infrared, night):
        in_place = correlation(day, other)
        for shift in ((4, 0), (-4, 0), (0, 4), (0, -4)):
            assert in_place > correlation(day, np.roll(other, shift, (0, 1))) + 0.02


def test_people_are_hot_by_night_and_clothed_by_day_at_the_same_pixels() -> None:
    world = World(CLIPS["monitor_night"])
    labels, infrared = world.labels(10), world.render(10, "infrared").astype(float)
    day = world.render(10, "day").astype(float)
    people = [thing for thing in world.objects(10) if thing.kind == "person" and thing.visible_px > 60]
    assert people
    for person in people:
        left, top, right, bottom = (round(value) for value in person.box)
        own = np.isin(labels[top:bottom, left:right], (Material.SKIN, Material.CLOTHES))
        around = labels[top:bottom, left:right] == Material.PAVEMENT
        assert own.mean() > 0.2
        if around.sum() < 20:
            continue
        heat = infrared[top:bottom, left:right]
        assert heat[own].mean() > heat[around].mean() + 25
        colour = day[top:bottom, left:right]
        assert np.abs(colour[own].mean(axis=0) - colour[around].mean(axis=0)).max() > 20


def test_materials_look_as_they_should_by_day_and_by_night() -> None:
    world = World(CLIPS["city_clear"])
    labels, day, infrared = world.labels(30), world.render(30, "day").astype(float), world.render(30, "infrared")

    def colour(material: Material) -> NDArray[np.float64]:
        return np.asarray(day[labels == material].mean(axis=0))

    def heat(material: Material) -> float:
        return float(infrared[labels == material].mean())

    red, green, blue = colour(Material.SKY)
    assert blue > green > red
    red, green, blue = colour(Material.FOLIAGE)
    assert green > red + 20
    assert green > blue + 20
    assert np.ptp(colour(Material.ROAD)) < 25
    assert heat(Material.SKY) < heat(Material.FOLIAGE) < heat(Material.ROAD) < heat(Material.SKIN)


def test_clouds_take_the_blue_from_the_sky_and_contrast_from_the_infrared() -> None:
    clear, overcast = World(CLIPS["city_clear"], **SMALL), World(CLIPS["city_overcast"], **SMALL)
    blue = {}
    for name, world in (("clear", clear), ("overcast", overcast)):
        sky = world.render(0, "day")[world.labels(0) == Material.SKY].astype(float)
        blue[name] = float((sky[:, 2] - sky[:, 0]).mean())
    assert blue["clear"] > 40 > 20 > blue["overcast"]
    assert overcast.render(0, "infrared").std() < 0.8 * clear.render(0, "infrared").std()


def test_black_hot_is_the_negative_of_white_hot() -> None:
    white = World(CLIPS["city_clear"], **SMALL).render(5, "infrared").astype(float)
    black = World(CLIPS["city_clear"], polarity="black-hot", **SMALL).render(5, "infrared").astype(float)
    assert correlation(white.astype(np.float32), black.astype(np.float32)) < -0.95


def test_fewer_frames_a_second_show_more_of_the_street_in_as_many(tmp_path: Path) -> None:
    words = [
        "sample",
        str(tmp_path),
        "--clip",
        "city_day",
        "--frames",
        "2",
        "--width",
        "64",
        "--height",
        "64",
        "--fps",
        "5",
    ]
    done = subprocess.run([sys.executable, "-m", "infraredcity", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with av.open(str(tmp_path / "city_day.mp4")) as container:
        assert container.streams.video[0].average_rate == 5
    slow, fast = (World(CLIPS["city_day"], width_px=64, height_px=64, fps=fps) for fps in (5, 25))
    assert np.array_equal(slow.render(2, "day"), fast.render(10, "day"))


def test_the_shutter_freezes_a_few_frames_in_all_renderings() -> None:
    world = World(CLIPS["monitor_night"], width_px=96, height_px=64)
    frozen = [i for i in range(300) if world.moment(i) != i]
    assert 4 <= len(frozen) <= 8
    i = frozen[0]
    for kind in ("infrared", "day"):
        held = world.render(i, kind)
        assert np.array_equal(world.render(i - 1, kind), held)
        assert not np.array_equal(world.render(i - 2, kind), held)
    visible = World(CLIPS["monitor_day"], width_px=96, height_px=64)
    assert all(visible.moment(i) == i for i in range(300))


def test_objects_keep_their_names_and_stay_in_the_picture() -> None:
    world = World(CLIPS["monitor_day"])
    seen = [{thing.object_id: thing for thing in world.objects(i)} for i in (0, 5)]
    kinds = {thing.kind for things in seen for thing in things.values()}
    assert kinds <= set(OBJECT_KINDS)
    assert {"car", "person", "building"} <= kinds
    for things in seen:
        for thing in things.values():
            left, top, right, bottom = thing.box
            assert 0 <= left < right <= 320
            assert 0 <= top < bottom <= 256
            assert thing.visible_px <= (right - left + 2) * (bottom - top + 2)
    both = seen[0].keys() & seen[1].keys()
    moved = {name for name in both if np.abs(np.subtract(seen[0][name].box, seen[1][name].box)).max() > 1.0}
    assert any(seen[0][name].kind == "person" for name in moved)
    assert not any(seen[0][name].kind == "building" for name in moved)


def test_an_object_covers_its_box() -> None:
    world = World(CLIPS["highway_day"])
    car = next(thing for thing in world.objects(0) if thing.kind == "car" and thing.visible_px > 300)
    left, top, right, bottom = (round(value) for value in car.box)
    inside = world.labels(0)[top:bottom, left:right]
    vehicle = (Material.PAINT, Material.WINDOW, Material.METAL, Material.TYRE, Material.LAMP, Material.SIGN)
    assert np.isin(inside, vehicle).mean() > 0.55


def test_a_sample_may_be_written_again_but_not_over_somebodys_own_clips(tmp_path: Path) -> None:
    arguments = {"num_frames": 2, "clip_ids": ["city_day"], "width_px": 64, "height_px": 64, "workers": 1}
    own = tmp_path / "own"
    own.mkdir()
    (own / "city_day.mp4").write_bytes(b"precious")
    with pytest.raises(OutputError, match=r"city_day\.mp4: .*not part of a sample; choose another folder"):
        write_sample(own, **arguments)  # type: ignore[arg-type]
    assert (own / "city_day.mp4").read_bytes() == b"precious"
    for _ in range(2):
        info = write_sample(tmp_path / "new", **arguments)  # type: ignore[arg-type]
    assert decoded(info.folder / "city_day.mp4")[0].shape == (2, 64, 64, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width_px": 65}, "width_px must be even and at least 64, got 65"),
        ({"height_px": 62}, "height_px must be even and at least 64, got 62"),
        ({"num_frames": 1}, "num_frames must be at least 2, got 1"),
        ({"clip_ids": ["city_moon"]}, 'unknown clip id "city_moon"; the sample has city_clear, city_overcast, '),
        ({"clip_ids": []}, "clip_ids is empty; name at least one of city_clear"),
        ({"clip_ids": "city_day"}, 'clip_ids must be a list of clip ids, got the text "city_day"'),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"fps": 0}, "fps must be at least 1, got 0"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
    ],
)
def test_a_wrong_argument_is_named_before_anything_is_written(
    tmp_path: Path, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_sample(tmp_path / "sample", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "sample").exists()


def test_a_negative_frame_index_is_named() -> None:
    world = World(CLIPS["city_day"], width_px=64, height_px=64)
    with pytest.raises(ValueError, match="frame_index must not be negative, got -1"):
        world.objects(-1)


@pytest.mark.parametrize("package", ["cv2", "av"])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; import infraredcity.synthetic"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    installed_as = {"cv2": "opencv-python-headless", "av": "av"}[package]
    assert f"infraredcity sample needs {installed_as}, which is not installed; run: pip install" in done.stderr
    assert "infraredcity.errors.MissingExtraError" in done.stderr
