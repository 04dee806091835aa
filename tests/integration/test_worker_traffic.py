"""What extraction moved from and to other machines is told, whichever processes moved it."""

import re
from pathlib import Path

import pytest
from commands import RunCommand
from synthetic import Shelf


@pytest.mark.parametrize("workers", [1, 2])
def test_what_workers_moved_is_told_as_if_one_process_had(
    shelf: Shelf, infraredcity: RunCommand, tmp_path: Path, workers: int
) -> None:
    told = []
    for count in (0, workers):
        ran = infraredcity(
            "extract", "--clip", "city_clear", "--video", shelf.gray, "--out", f"file://{tmp_path}/{count}",
            "--frames-per-shard", 8, "--workers", count,
        )  # fmt: skip
        assert ran.code == 0, ran.stderr
        told += re.findall(
            r"^moved .* from and .* to other machines in [\d,]+ requests$", ran.stderr, flags=re.MULTILINE
        )
    assert len(told) == 2
    assert told[0] == told[1]
