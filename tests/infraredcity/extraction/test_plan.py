import json
import math
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from planned import expanded, planned, spec_of

from infraredcity.errors import OutputError
from infraredcity.extraction.config import ExtractConfig
from infraredcity.extraction.plan import (
    Plan,
    PlannedClip,
    array_expression,
    check_segment_lines,
    cut_plan,
    read_plan,
    write_plan,
)
from infraredcity.extraction.segments import segment_of
from infraredcity.files.path import RemotePath


def lines_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


FACTS = st.lists(
    st.tuples(st.integers(1, 400), st.integers(1, 5), st.integers(1, 60), st.integers(0, 399), st.floats(1e-5, 10.0)),
    min_size=1,
    max_size=4,
)
"""Of each clip: its frames, its step, frames in a shard, its first frame, seconds for a frame."""


def clips_of(facts: list[tuple[int, int, int, int, float]]) -> tuple[PlannedClip, ...]:
    return tuple(
        planned(
            spec_of(
                num_frames,
                ExtractConfig(every=every, frames_per_shard=frames_per_shard, start_frame=start % num_frames),
                clip_id=f"clip_{number}",
            ),
            frame_core_s=frame_core_s,
        )
        for number, (num_frames, every, frames_per_shard, start, frame_core_s) in enumerate(facts)
    )


def one_clip(num_frames: int = 1000, num_parts: int = 4) -> Plan:
    return cut_plan([planned(spec_of(num_frames, ExtractConfig(frames_per_shard=10)))], num_parts)


def segment_cost(clip: PlannedClip, number: int) -> float:
    frames = segment_of(clip.clip_id, clip.spec.num_frames, clip.spec.config, number).frames
    return len(frames) * clip.estimate.frame_core_s


@given(facts=FACTS, share=st.floats(0, 1))
@example(facts=[(1, 1, 1, 0, 10.0), (300, 1, 1, 0, 1e-3)], share=0.1)  # the first segment alone costs many shares
def test_every_segment_is_in_one_part_and_no_part_is_empty_or_much_above_the_mean(
    facts: list[tuple[int, int, int, int, float]], share: float
) -> None:
    clips = clips_of(facts)
    everything = [(clip.clip_id, number) for clip in clips for number in range(clip.num_segments)]
    num_parts = 1 + round(share * (len(everything) - 1))
    plan = cut_plan(clips, num_parts)
    dealt = [
        [(segments.clip_id, number) for segments in plan.segment_ranges(part) for number in segments.numbers]
        for part in range(num_parts)
    ]
    assert [segment for part in dealt for segment in part] == everything
    assert all(dealt)
    costs = {
        (clip.clip_id, number): segment_cost(clip, number) for clip in clips for number in range(clip.num_segments)
    }
    mean, largest = math.fsum(costs.values()) / num_parts, max(costs.values())
    for part in dealt:
        assert math.fsum(costs[segment] for segment in part) <= (mean + largest) * (1 + 1e-9)


def test_equal_segments_are_dealt_evenly_whatever_their_number() -> None:
    for num_parts in (1, 2, 3, 7, 64, 99, 100):
        plan = one_clip(num_parts=num_parts)
        counts = [stop - start for start, stop in zip(plan.starts, plan.starts[1:], strict=False)]
        assert max(counts) - min(counts) <= 1


def test_a_clip_that_costs_more_gets_more_parts() -> None:
    config = ExtractConfig(frames_per_shard=10)
    cheap, dear = (spec_of(1000, config, clip_id=name) for name in ("cheap", "dear"))
    plan = cut_plan([planned(cheap, frame_core_s=1e-3), planned(dear, frame_core_s=3e-3)], 8)
    clips = [{segments.clip_id for segments in plan.segment_ranges(part)} for part in range(8)]
    assert clips == [{"cheap"}] * 2 + [{"dear"}] * 6


@pytest.mark.parametrize("num_parts", [0, 101])
def test_parts_without_a_segment_are_refused(num_parts: int) -> None:
    with pytest.raises(
        ValueError, match=f"parts must be 1 to 100, one segment of a clip each at least, got {num_parts}"
    ):
        one_clip(num_parts=num_parts)


@settings(max_examples=40)
@given(facts=FACTS, share=st.floats(0, 1))
def test_the_lines_tile_the_frames_of_every_clip_and_the_header_counts_them(
    facts: list[tuple[int, int, int, int, float]], share: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    clips = clips_of(facts)
    plan = cut_plan(clips, 1 + round(share * (sum(clip.num_segments for clip in clips) - 1)))
    path = tmp_path_factory.getbasetemp() / "plan.jsonl"
    write_plan(plan, path)
    header, *lines = lines_of(path)
    frames: dict[str, list[int]] = {}
    for line, clip in ((line, plan[str(line["clip"])]) for line in lines):
        config = clip.spec.config
        inside = range(int(str(line["start_frame"])), int(str(line["stop_frame"])), config.every)
        assert (len(inside), line["shard"]) == (
            line["num_frames"],
            f"infraredcity-{line['clip']}-{line['segment']:06d}.tar",
        )
        frames.setdefault(clip.clip_id, []).extend(inside)
    assert frames == {
        clip.clip_id: list(range(clip.spec.config.start_frame, clip.spec.num_frames, clip.spec.config.every))
        for clip in clips
    }
    parts = [int(str(line["part"])) for line in lines]
    assert parts == sorted(parts)
    assert set(parts) == set(range(plan.num_parts))
    assert header["num_segments"] == header["num_shards"] == len(lines)
    assert header["num_frames"] == sum(len(taken) for taken in frames.values())
    assert header["size_bytes"] == round(sum(clip.num_frames * 5000.0 for clip in clips))
    assert header["core_s"] == round(sum(clip.num_frames * clip.estimate.frame_core_s for clip in clips), 1)
    assert read_plan(path) == plan
    check_segment_lines(path)


def test_the_same_plan_is_the_same_bytes_near_and_far(tmp_path: Path) -> None:
    plan = one_clip()
    far = RemotePath("memory://plans/plan.jsonl")
    for path in (tmp_path / "one.jsonl", tmp_path / "two.jsonl", far):
        write_plan(plan, path)
    data = (tmp_path / "one.jsonl").read_bytes()
    assert (tmp_path / "two.jsonl").read_bytes() == far.read_bytes() == data
    assert read_plan(far) == plan
    check_segment_lines(far)


def test_a_training_gets_a_shard_of_every_modality_for_as_many_ranks_as_the_rarer_one_has(tmp_path: Path) -> None:
    config = ExtractConfig(frames_per_shard=10)
    night = spec_of(1000, config)
    day = spec_of(70, config, clip_id="city_day")
    day = spec_of(70, config, clip=day.clip.__class__(
        clip_id="city_day", scene="city", weather="any", modality="visible", time_of_day="day"))  # fmt: skip
    assert cut_plan([planned(night), planned(day)], 3).num_ranks == 7
    assert cut_plan([planned(night)], 3).num_ranks == 100


@given(st.sets(st.integers(0, 60)))
def test_an_array_expression_says_each_part_once(parts: set[int]) -> None:
    assert expanded(array_expression(sorted(parts))) == sorted(parts)


def test_an_array_expression_joins_neighbours() -> None:
    assert array_expression([0, 1, 2, 3, 7, 9, 10]) == "0-3,7,9-10"
    assert array_expression([5]) == "5"
    assert array_expression([]) == ""


def test_a_header_of_which_a_byte_was_changed_is_refused_or_means_the_same(tmp_path: Path) -> None:
    path = tmp_path / "plan.jsonl"
    plan = one_clip()
    write_plan(plan, path)
    whole = path.read_bytes()
    header = whole.index(b"\n")
    refused = 0
    for place in range(0, header, 3):
        data = bytearray(whole)
        data[place] ^= 0x02
        path.write_bytes(data)
        try:
            read = read_plan(path)
        except OutputError as error:
            said = str(error)
        else:
            assert read == plan  # what the plan weighs is for people; work does not follow from it
            continue
        assert said.startswith(f"{path}: ")
        refused += 1
    assert refused > header / 3 * 0.8


def test_a_header_that_was_cut_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.jsonl"
    write_plan(one_clip(), path)
    whole = path.read_bytes()
    for size in (0, 1, 100, whole.index(b"\n") - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(OutputError, match=r"plan\.jsonl: damaged, or not a plan \(.*\); make it again"):
            read_plan(path)


@pytest.mark.parametrize("change", ["cut", "line gone", "number"])
def test_lines_that_were_cut_or_changed_are_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "plan.jsonl"
    write_plan(one_clip(), path)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    data = {
        "cut": whole[:-1],
        "line gone": b"".join([*lines[:5], *lines[6:]]),
        "number": b"".join([*lines[:5], lines[5].replace(b'"part":0', b'"part":1'), *lines[6:]]),
    }[change]
    assert data != whole
    path.write_bytes(data)
    with pytest.raises(
        OutputError, match=r"plan\.jsonl: its lines of segments were changed or cut \(sha256 \w{12}, expected"
    ):
        check_segment_lines(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r'plan\.jsonl: no plan; make one with "infraredcity plan"'),
        ("", r"damaged, or not a plan"),
        ("[]\n", r"damaged, or not a plan"),
        ("7\n", r"damaged, or not a plan"),
        (
            '{"format": "infraredcity-plan-9"}\n',
            r"\(format is 'infraredcity-plan-9', this version reads 'infraredcity-plan-1'\)",
        ),
        ('{"format": "infraredcity-plan-1"}\n', r"damaged, or not a plan \('clips'\); make it again"),
    ],
)
def test_what_is_no_plan_is_one_clear_line(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "plan.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(OutputError, match=message):
        read_plan(path)
