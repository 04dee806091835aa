"""The shards that several processes train on."""

from pathlib import Path

import pytest

from tests.roma.conftest import write_shards


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with shards in infrared/ and visible/, of 20 and 13 frames."""
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder / "infrared", "night", num_frames=20, channels=1, seed=1)
    write_shards(folder / "visible", "day", num_frames=13, channels=3, seed=2)
    return folder
