"""The sample's counts of 16 bits: temperatures, the picture's own noise, lossless in the file; and the polarity."""

from itertools import pairwise
from pathlib import Path

import av  # noqa: TID251 -- reads without the code under test
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from infraredcity.cli.sample import sample_command
from infraredcity.clips import load_catalog
from infraredcity.errors import OutputError
from infraredcity.synthetic import CLIPS, Material, World, write_sample

SIZE = {"width_px": 96, "height_px": 64}


def decoded(path: Path, pixel_format: str) -> tuple[NDArray[np.generic], list[float]]:
    """Frames and times of a video."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return np.stack([frame.to_ndarray(format=pixel_format) for frame in frames]), [frame.time for frame in frames]


def ranks(values: NDArray[np.generic]) -> NDArray[np.float64]:
    return np.argsort(np.argsort(values.ravel(), kind="stable")).astype(np.float64)


def test_the_file_holds_the_counts_bit_for_bit_at_the_times_of_the_picture(tmp_path: Path) -> None:
    arguments = {"num_frames": 3, "clip_ids": ["city_clear"], "workers": 1, **SIZE}
    write_sample(tmp_path / "a", raw16=True, **arguments)  # type: ignore[arg-type]
    write_sample(tmp_path / "b", raw16=True, polarity="black-hot", **arguments)  # type: ignore[arg-type]
    with av.open(str(tmp_path / "a" / "raw16" / "city_clear.mkv")) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("ffv1", "gray16le")
    counts, times = decoded(tmp_path / "a" / "raw16" / "city_clear.mkv", "gray16le")
    world = World(CLIPS["city_clear"], **SIZE)
    assert counts.dtype == np.uint16
    assert np.array_equal(counts, np.stack([world.render16(i) for i in range(3)]))
    assert times == pytest.approx([0.0, 0.04, 0.08])
    assert times == pytest.approx(decoded(tmp_path / "a" / "city_clear.mp4", "gray")[1])
    # The same bytes from another run, whatever the display shows.
    first, second = ((tmp_path / name / "raw16" / "city_clear.mkv").read_bytes() for name in "ab")
    assert first == second


def test_the_counts_are_the_temperatures_of_a_cold_night() -> None:
    world = World(CLIPS["city_clear"])
    kelvin, labels = world.render16(30) / 100.0, world.labels(30)
    assert kelvin.dtype == np.float64
    assert 244 < kelvin.min() < 252
    assert 300 < kelvin.max() < 312
    # On the scale of `materials.HEAT` asphalt is 0.53, less what the air takes: 246 + 62 * 0.53 = 278.9.
    assert kelvin[labels == Material.ROAD][-5000:].mean() == pytest.approx(278.6, abs=0.8)
    order = (Material.SKY, Material.FOLIAGE, Material.ROAD, Material.SKIN)
    means = [kelvin[labels == material].mean() for material in order]
    assert means == sorted(means)


@pytest.mark.parametrize("clip_id", ["city_clear", "highway_overcast"])
def test_the_picture_is_brighter_where_there_are_more_counts(clip_id: str) -> None:
    world = World(CLIPS[clip_id])
    counts, gray = world.render16(12), world.render(12, "infrared")
    # The middle of the picture, where the display's fall-off does not count; noise and pattern are the same in both.
    middle = np.s_[64:192, 80:240]
    assert np.corrcoef(ranks(counts[middle]), ranks(gray[middle]))[0, 1] > 0.985
    steps = np.quantile(counts[middle], np.linspace(0, 1, 9))
    means = [gray[middle][(counts[middle] >= low) & (counts[middle] <= high)].mean() for low, high in pairwise(steps)]
    assert means == sorted(means)
    row = np.s_[130, 100:220]
    noise = np.diff(counts[row].astype(float)), np.diff(gray[row].astype(float))
    assert np.corrcoef(*noise)[0, 1] > 0.9


def test_the_counts_know_no_polarity_and_freeze_with_the_shutter() -> None:
    world = World(CLIPS["monitor_night"], **SIZE)
    frozen = next(i for i in range(150) if world.moment(i) != i)
    held = world.render16(frozen)
    assert np.array_equal(held, world.render16(frozen - 1))
    assert not np.array_equal(held, world.render16(frozen - 2))
    black = World(CLIPS["monitor_night"], polarity="black-hot", **SIZE)
    assert np.array_equal(held, black.render16(frozen))
    with pytest.raises(ValueError, match="frame_index must not be negative, got -1"):
        world.render16(-1)


def test_black_hot_clips_show_the_negative_and_the_same_truth(tmp_path: Path) -> None:
    arguments = {"num_frames": 2, "clip_ids": ["monitor_night"], "workers": 1, **SIZE}
    for polarity in ("white-hot", "black-hot"):
        write_sample(tmp_path / polarity, polarity=polarity, **arguments)  # type: ignore[arg-type]
    white, black = (decoded(tmp_path / name / "monitor_night.mp4", "gray")[0] for name in ("white-hot", "black-hot"))
    assert np.corrcoef(white.ravel(), black.ravel())[0, 1] < -0.95
    truth, other = (
        (tmp_path / name / "truth" / "monitor_night.mp4").read_bytes() for name in ("white-hot", "black-hot")
    )
    assert truth == other


def test_the_catalogue_says_which_clips_are_black_hot(tmp_path: Path) -> None:
    usual = """# The built-in sample, written by "infraredcity sample": rendered streets, no recordings.

[clips.monitor_night]
path = "monitor_night.mp4"
scene = "monitor"
weather = "clear"
modality = "infrared"
time_of_day = "night"
expected_frames = 2
{}
[clips.night_visible]
path = "night_visible.mp4"
scene = "city"
weather = "clear"
modality = "visible"
time_of_day = "night"
expected_frames = 2
"""
    arguments = {"num_frames": 2, "clip_ids": ["monitor_night", "night_visible"], "workers": 1, **SIZE}
    white = write_sample(tmp_path / "white", **arguments)  # type: ignore[arg-type]
    assert white.clips_file.read_text() == usual.format("")
    black = write_sample(tmp_path / "black", polarity="black-hot", **arguments)  # type: ignore[arg-type]
    assert black.clips_file.read_text() == usual.format('polarity = "black-hot"\n')
    clips = load_catalog(clips_file=black.clips_file, environment={})
    assert (clips["monitor_night"].polarity, clips["night_visible"].polarity) == ("black-hot", "white-hot")


def test_the_command_passes_its_options_on_and_what_is_not_asked_for_goes(tmp_path: Path) -> None:
    usual = ["--frames", "2", "--width", "64", "--height", "64", "--clip", "highway_clear"]
    extras = {"flow/highway_clear/000000.png", "boxes/highway_clear.json", "raw16/highway_clear.mkv"}
    pictures = []
    for more in (["--flow", "--boxes", "--raw16", "--polarity", "black-hot"], []):
        done = CliRunner().invoke(sample_command, [str(tmp_path), *usual, *more])
        assert done.exit_code == 0, done.output
        names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
        assert names & extras == (extras if more else set())
        assert len(names - extras) == 5
        pictures.append(decoded(tmp_path / "highway_clear.mp4", "gray")[0])
    assert np.corrcoef(pictures[0].ravel(), pictures[1].ravel())[0, 1] < -0.9


def test_somebodys_own_counts_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "raw16").mkdir()
    (tmp_path / "raw16" / "city_clear.mkv").write_bytes(b"precious")
    with pytest.raises(OutputError, match=r"city_clear\.mkv: .*not part of a sample; choose another folder"):
        write_sample(tmp_path, num_frames=2, clip_ids=["city_clear"], workers=1, **SIZE)
    assert (tmp_path / "raw16" / "city_clear.mkv").read_bytes() == b"precious"
