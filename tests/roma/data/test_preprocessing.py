from dataclasses import replace

import numpy as np
import pytest

from infraredcity.datasets.clip_facts import ClipFacts
from infraredcity.stills.tone import ToneMap
from roma.data.preprocessing import Preparation, Preprocessing, RunningTone, fitted, preprocessing_of
from roma.errors import EvaluationError

FACTS = ClipFacts(
    clip_id="city_clear",
    scene="city",
    weather="clear",
    modality="infrared",
    time_of_day="night",
    time_base="1/25",
    nominal_fps=25.0,
    frame_step=1,
    clip_frames=10,
    sources=[{"num_frames": 10, "width": 64, "height": 48}],
    extraction={
        "masks": [[0, 0, 8, 4]],
        "crop": None,
        "size": [32, 24],
        "fit": "crop",
        "tone": None,
        "tone_range": None,
    },
    tone={"low": 100, "high": 200},
    polarity="black-hot",
)


def test_what_the_clips_went_through_is_what_their_facts_say():
    found = preprocessing_of([FACTS, replace(FACTS, clip_id="city_overcast", tone={"low": 5, "high": 900})])
    assert found == Preprocessing(
        is_known=True,
        tone="percentile",
        polarity="black-hot",
        masks=((0, 0, 8, 4),),
        clip_size=(64, 48),
        fit="crop",
        picture_size=(32, 24),
    )
    assert Preprocessing.from_json(found.to_json()) == found


def test_what_differs_between_clips_is_named_and_left_open():
    levels = replace(FACTS, tone=None, polarity="white-hot", extraction={**FACTS.extraction, "masks": []})
    found = preprocessing_of([FACTS, levels])
    assert (found.tone, found.polarity, found.masks) == (None, None, ())
    assert {"tone", "polarity", "masks"} <= set(found.differs)
    assert found.fit == "crop"


def test_without_clips_nothing_is_known():
    assert preprocessing_of([]) == Preprocessing(is_known=False)


def test_a_fixed_tone_keeps_its_counts():
    fixed = replace(FACTS, extraction={**FACTS.extraction, "tone": "fixed", "tone_range": [100, 200]})
    assert (preprocessing_of([fixed]).tone, preprocessing_of([fixed]).tone_range) == ("fixed", (100, 200))


def test_counts_become_levels_and_heat_is_turned_around_as_extraction_does_it():
    counts = np.array([[[100], [150], [200]]], np.uint16)
    assert Preparation().levels(counts, ToneMap(low=100, high=200)).ravel().tolist() == [0, 128, 255]
    assert Preparation(is_inverted=True).levels(counts, ToneMap(low=100, high=200)).ravel().tolist() == [255, 127, 0]


def test_a_stream_of_one_scene_gets_the_tone_of_a_clip():
    draw = np.random.default_rng(0)
    frames = [draw.integers(7000, 9000, (32, 32, 1), dtype=np.uint16) for _ in range(60)]
    running = RunningTone()
    found = [running.of(frame) for frame in frames]
    whole = fitted(frames, "percentile")
    assert abs(found[-1].low - whole.low) < 20
    assert abs(found[-1].high - whole.high) < 20


def test_a_hot_thing_that_comes_into_view_moves_the_tone_of_a_stream_without_a_jump():
    draw = np.random.default_rng(0)
    running = RunningTone()
    found = []
    for number in range(400):
        frame = draw.integers(7000, 8000, (32, 32, 1), dtype=np.uint16)
        if number >= 100:
            frame[:8] = 12_000  # a quarter of the picture
        found.append(running.of(frame))
    ends = np.array([[tone.low, tone.high] for tone in found])
    spans = ends[:-1, 1] - ends[:-1, 0]
    assert (np.abs(np.diff(ends, axis=0)) <= np.maximum(2, 0.011 * spans[:, None] + 1)).all()
    assert found[101].high < 8_100
    assert found[-1].high > 11_000  # and after some seconds it shows all


def test_no_picture_is_nothing_to_fit_to():
    with pytest.raises(EvaluationError, match="no picture of the input could be read"):
        fitted([], "percentile")
