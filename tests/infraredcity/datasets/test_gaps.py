import json
from pathlib import Path
from typing import Any

import pytest

from infraredcity.datasets.gaps import GAPS_NAME, Gap, gaps_to_bytes, read_gaps
from infraredcity.errors import ManifestError

GAP = Gap(clip="city_clear", first_frame=4, last_frame=12, num_frames=3, reason="no picture")


def test_gaps_survive_the_file_that_holds_them(tmp_path: Path) -> None:
    (tmp_path / GAPS_NAME).write_bytes(gaps_to_bytes([GAP]))
    assert read_gaps(tmp_path) == [GAP]
    assert gaps_to_bytes([]) == b"[]\n"


@pytest.mark.parametrize(
    "change",
    [
        {"first_frame": 13},
        {"first_frame": -1},
        {"last_frame": float("inf")},
        {"num_frames": "many"},
        {"num_frames": None},
    ],
)
def test_a_damaged_gap_is_one_clear_line(tmp_path: Path, change: dict[str, Any]) -> None:
    (gap,) = json.loads(gaps_to_bytes([GAP]))
    (tmp_path / GAPS_NAME).write_text(json.dumps([gap | change]))
    with pytest.raises(ManifestError, match=r"^\S+gaps\.json: missing or damaged \(.*\); run the same") as raised:
        read_gaps(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "[", "{}x", "[3]", "[[]]", '{"clip": "a"}', '[{"clip": "a"}]'])
def test_a_file_of_something_else_is_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / GAPS_NAME).write_text(text)
    with pytest.raises(ManifestError, match="missing or damaged"):
        read_gaps(tmp_path)
