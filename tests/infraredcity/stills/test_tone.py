import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infraredcity.stills.tone import NUM_COUNTS, TONES, LevelCounts, ToneMap, fit_tone


def counts(*levels: int) -> np.ndarray:
    """u16 [1, len(levels), 1]."""
    return np.array(levels, np.uint16)[None, :, None]


def histogram(**times: int) -> np.ndarray:
    """i64 [65536]: `c7=3` is three pixels of count 7."""
    found = np.zeros(NUM_COUNTS, np.int64)
    for name, number in times.items():
        found[int(name[1:])] = number
    return found


def test_the_ends_become_black_and_white_and_the_line_between_is_straight() -> None:
    # 1 level is 10 counts: 1004 is 0.4 levels, 1005 is 0.5 and goes up, 1014 is 1.4, 2275 is 127.5.
    tone = ToneMap(low=1000, high=3550)
    picture = counts(1000, 1004, 1005, 1014, 1015, 2274, 2275, 3544, 3545, 3550)
    levels = tone.apply(picture)
    assert levels.dtype == np.uint8
    assert levels[0, :, 0].tolist() == [0, 0, 1, 1, 2, 127, 128, 254, 255, 255]


def test_counts_beyond_the_ends_are_clipped() -> None:
    assert ToneMap(low=1000, high=3550).apply(counts(0, 999, 3551, 65_535))[0, :, 0].tolist() == [0, 0, 255, 255]


def test_the_whole_range_keeps_the_upper_byte() -> None:
    # 65535 / 255 = 257 counts for each level.
    assert ToneMap(low=0, high=65_535).apply(counts(0, 128, 129, 257, 65_406, 65_407))[0, :, 0].tolist() == [
        0,
        0,
        1,
        1,
        254,
        255,
    ]


def test_a_map_may_reach_beyond_the_counts() -> None:
    assert ToneMap(low=-255, high=255).apply(counts(0, 1, 2, 255))[0, :, 0].tolist() == [128, 128, 129, 255]
    assert ToneMap(low=65_535, high=65_536).apply(counts(65_534, 65_535))[0, :, 0].tolist() == [0, 0]


@given(st.integers(0, 65_535), st.integers(1, 65_536), st.integers(0, 65_535))
def test_every_level_is_the_nearest_to_the_line(low: int, span: int, count: int) -> None:
    level = int(ToneMap(low=low, high=low + span).apply(counts(count))[0, 0, 0])
    exact = min(255.0, max(0.0, 255 * (count - low) / span))
    assert abs(level - exact) <= 0.5 + 1e-9


def test_a_level_is_the_callers_own_array_of_the_pictures_shape() -> None:
    tone = ToneMap(low=0, high=255)
    picture = np.arange(24, dtype=np.uint16).reshape(4, 6, 1)
    first = tone.apply(picture)
    assert first.shape == (4, 6, 1)
    first[:] = 9
    assert np.array_equal(tone.apply(picture), picture)
    assert picture[0, 1, 0] == 1


def test_a_map_that_does_not_rise_is_refused() -> None:
    for high in (1000, 999):
        with pytest.raises(ValueError, match=f"tone: high must be above low 1000, got {high}"):
            ToneMap(low=1000, high=high)


def test_a_tone_is_for_counts_alone() -> None:
    with pytest.raises(ValueError, match=r"a tone is for u16 counts, got uint8 \[2, 2, 1\]"):
        ToneMap(low=0, high=1).apply(np.zeros((2, 2, 1), np.uint8))
    with pytest.raises(ValueError, match=r"a tone is for u16 counts, got int64 \[3\]"):
        LevelCounts().add(np.zeros(3, np.int64))


def test_a_map_survives_json() -> None:
    tone = fit_tone(histogram(c3=1, c900=1), "minmax")
    text = json.dumps(tone.to_json())
    assert text == '{"low": 3, "high": 900}'
    assert ToneMap.from_json(json.loads(text)) == tone


@pytest.mark.parametrize(
    "values", [{}, {"low": 1}, {"low": 1, "high": 2, "mid": 3}, {"low": 1, "high": 2.5}, {"low": True, "high": 2}]
)
def test_json_that_is_no_map_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"a tone is two whole numbers, low and high, got \{"):
        ToneMap.from_json(values)


def test_json_of_a_map_that_does_not_rise_is_refused() -> None:
    with pytest.raises(ValueError, match="high must be above low 5, got 4"):
        ToneMap.from_json({"low": 5, "high": 4})


def test_every_pixel_of_every_picture_is_counted() -> None:
    found = LevelCounts()
    found.add(counts(0, 7, 7, 65_535))
    found.add(np.full((3, 5, 1), 7, np.uint16)[:, ::2])  # not contiguous: 3 rows of 3
    assert found.histogram.dtype == np.int64
    assert np.array_equal(found.histogram, histogram(c0=1, c7=11, c65535=1))


def test_minmax_runs_from_the_lowest_to_the_highest_count() -> None:
    assert fit_tone(histogram(c27000=1, c27005=1_000_000, c31000=1), "minmax") == ToneMap(low=27_000, high=31_000)


def test_percentiles_leave_the_rare_counts_out() -> None:
    # 1000 pixels: 0.5 % is the 5th, 99.5 % the 995th. Ranks: 10 has 1..4, 20 has 5..990, 30 has 991..995, 40 has 996..1000.
    found = histogram(c10=4, c20=986, c30=5, c40=5)
    assert fit_tone(found, "percentile") == ToneMap(low=20, high=30)
    # 0.4 % is the 4th, 99.6 % the 996th; 0.41 % is the 4.1th, so the 5th.
    assert fit_tone(found, "percentile", percentiles=(0.4, 99.6)) == ToneMap(low=10, high=40)
    assert fit_tone(found, "percentile", percentiles=(0.41, 99.0)) == ToneMap(low=20, high=21)
    assert fit_tone(found, "percentile", percentiles=(0.0, 100.0)) == ToneMap(low=10, high=40)


def test_a_percentile_is_taken_as_the_decimal_that_was_written() -> None:
    # 0.07 % of 10,000 pixels is the 7th, though 0.07 * 10000 / 100 is a hair above 7 in binary.
    assert 0.07 * 10_000 / 100 > 7
    assert fit_tone(histogram(c10=7, c20=9_993), "percentile", percentiles=(0.07, 100.0)) == ToneMap(low=10, high=20)


@given(st.lists(st.integers(0, 65_535), min_size=1, max_size=60), st.integers(0, 98), st.integers(1, 100))
def test_percentiles_are_those_of_the_sorted_pixels(levels: list[int], lower: int, more: int) -> None:
    upper = min(100, lower + more)
    found = LevelCounts()
    found.add(np.array(levels, np.uint16))
    tone = fit_tone(found.histogram, "percentile", percentiles=(float(lower), float(upper)))
    ranked = sorted(levels)
    low, high = (ranked[max(1, -(-percent * len(levels) // 100)) - 1] for percent in (lower, upper))
    assert tone == ToneMap(low=low, high=max(high, low + 1))


@pytest.mark.parametrize("tone", ["minmax", "percentile"])
def test_a_clip_of_one_level_becomes_black(tone: str) -> None:
    for level in (0, 300, 65_535):
        fitted = fit_tone(histogram(**{f"c{level}": 50}), tone)  # type: ignore[arg-type]
        assert fitted == ToneMap(low=level, high=level + 1)
        assert fitted.apply(counts(level)).tolist() == [[[0]]]


def test_what_cannot_be_fitted_is_a_callers_mistake() -> None:
    assert TONES == ("minmax", "percentile", "fixed")
    found = histogram(c1=1)
    with pytest.raises(ValueError, match=r"must be minmax or percentile to be fitted, got 'fixed'"):
        fit_tone(found, "fixed")
    with pytest.raises(ValueError, match="histogram is empty; add the clip's pictures first"):
        fit_tone(LevelCounts().histogram, "minmax")
    with pytest.raises(ValueError, match=r"histogram must be i64 \[65536\], got int64 \[256\]"):
        fit_tone(np.zeros(256, np.int64), "minmax")
    with pytest.raises(ValueError, match=r"histogram must be i64 \[65536\], got float64 \[65536\]"):
        fit_tone(found.astype(np.float64), "minmax")


@pytest.mark.parametrize("percentiles", [(50.0, 50.0), (60.0, 40.0), (-1.0, 50.0), (50.0, 100.5), (float("nan"), 50.0)])
def test_percentiles_that_do_not_rise_within_0_to_100_are_refused(percentiles: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"percentiles must rise within 0\.\.100, got "):
        fit_tone(histogram(c1=1), "percentile", percentiles=percentiles)
