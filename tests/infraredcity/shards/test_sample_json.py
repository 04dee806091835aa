"""The json member of a sample: its bytes, and how it is compared with what is expected."""

import json

import pytest

from infraredcity.clips import Clip
from infraredcity.shards import sample_json

CLIP = Clip(clip_id="city_clear", scene="city", weather="clear", modality="infrared", time_of_day="night")
BYTES = (
    b'{"clip":"city_clear","scene":"city","weather":"clear","modality":"infrared","time_of_day":"night","frame_index":7,'
    b'"pts":3584,"time_base":"1/15360","time_s":0.233333,"width":640,"height":512}'
)


def test_a_sample_s_json_has_the_bytes_that_were_always_written() -> None:
    assert sample_json.to_bytes(sample_json.facts_of(CLIP, "1/15360", 7, 3584, (640, 512))) == BYTES


def test_what_is_written_holds_the_fields_in_their_order_and_has_no_differences() -> None:
    facts = sample_json.facts_of(CLIP, "1/15360", 7, 3584, (640, 512))
    assert list(facts) == list(sample_json.FIELDS)
    assert [type(value) for value in facts.values()] == list(sample_json.FIELDS.values())
    assert [*sample_json.differences(BYTES, facts)] == []


@pytest.mark.parametrize(
    ("name", "value"), [("frame_index", 8), ("pts", "3584"), ("width", True), ("scene", None), ("more", 1)]
)
def test_another_value_another_type_and_another_fact_are_differences(name: str, value: object) -> None:
    data = json.dumps(json.loads(BYTES) | {name: value}).encode()
    (difference,) = sample_json.differences(data, sample_json.facts_of(CLIP, "1/15360", 7, 3584, (640, 512)))
    assert name in difference


@pytest.mark.parametrize(("data", "problem"), [(b"", "read"), (b"{", "read"), (b"[]", "object"), (b"\xff", "read")])
def test_what_is_no_json_of_a_sample_is_one_difference(data: bytes, problem: str) -> None:
    (difference,) = sample_json.differences(data, sample_json.facts_of(CLIP, "1/15360", 7, 3584, (640, 512)))
    assert problem in difference
