"""What every reader should find in a data set, by our own index."""

import hashlib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from infraredcity.datasets import folder
from infraredcity.shards import sample_json
from infraredcity.shards.by_row import ShardFiles


@dataclass(frozen=True)
class Expected:
    """One sample as our index has it."""

    key: str
    sha256: str
    facts: dict[str, Any]

    @property
    def row(self) -> list[Any]:
        """As the readers' scripts print it."""
        return [self.key, self.sha256, self.facts]


def expected(root: Path, name: str = ".") -> list[Expected]:
    """All samples of a part, in the order of its index."""
    part = folder.open_folder(root, name)
    found = []
    with ShardFiles(part.index, part.path) as files:
        for row in range(len(part.index)):
            image = files.image(row)
            sha256 = hashlib.sha256(image).hexdigest()
            assert sha256 == part.index.sha256[row].tobytes().hex()
            facts = part.clips[part.index.clips[int(part.index.clip[row])]]
            size_px = (int(part.index.width[row]), int(part.index.height[row]))
            told = sample_json.facts_of(
                facts, facts.time_base, int(part.index.frame_index[row]), int(part.index.pts[row]), size_px
            )
            found.append(Expected(part.index.key(row), sha256, dict(told)))
    return found


def needs(package: str) -> None:
    """Skip where a package is missing; fail there with REQUIRE_INTEROP=1, as `make interop` sets it."""
    try:
        found = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        found = None
    if found is None or found.origin is None:  # a folder of that name is no package
        message = f"{package} is not installed here; make interop runs this test"
        if os.environ.get("REQUIRE_INTEROP") == "1":
            pytest.fail(message)
        pytest.skip(message)
