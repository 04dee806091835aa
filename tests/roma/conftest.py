"""Tiny shards made without video, and a config that trains on them in a second a step."""

from pathlib import Path

import numpy as np
import pytest

from infraredcity.datasets import clip_facts
from infraredcity.shards import index as sample_index
from infraredcity.shards import index_file
from infraredcity.shards.writer import open_shard
from infraredcity.stills.formats import encode
from roma.config.overlay import resolve
from roma.config.schema import TrainConfig

SMALL = (
    "data.load_size_px=36",
    "data.crop_size_px=32",
    "loss.global_structure=0.2",
    "loss.local_structure=0.2",
    "loss.motion=0.05",
    "loss.patch_gan=0.2",
    "generator.width=4",
    "generator.num_blocks=1",
    "vit.image_size=32",
    "vit.patch_size=8",
    "vit.width=16",
    "vit.depth=2",
    "vit.num_heads=2",
    "vit.layers=[0, 1]",
    "loss.window=3",
    "loss.num_windows=4",
    "loss.region_sizes=[2]",
    "loss.patch_gan_width=4",
    "loss.warmup_steps=2",
    "schedule.total_steps=8",
    "output.log_every=1",
    "output.sample_every=4",
    "output.checkpoint_every=2",
)


def write_shards(folder: Path, clip_id: str, *, num_frames: int, channels: int, seed: int) -> Path:
    """Shards of blocky pictures, 40x36 pixels; in colour the upper half is blue, the lower one green. Returns the folder."""
    draw = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number, start in enumerate(range(0, num_frames, 8)):
        with open_shard(folder, f"test-{clip_id}-{number:06d}.tar", image_format="jpg") as handle:
            for frame in range(start, min(start + 8, num_frames)):
                coarse = draw.integers(0, 100 if channels == 3 else 256, (5, 5, channels), dtype=np.uint8)
                if channels == 3:
                    coarse[:2] += np.array([0, 50, 150], np.uint8)
                    coarse[2:] += np.array([20, 150, 0], np.uint8)
                picture = np.repeat(np.repeat(coarse, 8, axis=0), 8, axis=1)[:36, :40]
                handle.writer.add(
                    clip_id,
                    frame,
                    frame,
                    encode(np.ascontiguousarray(picture), "jpg"),
                    b'{"clip":"%s"}' % clip_id.encode(),
                    size_px=(40, 36),
                )
        assert handle.info is not None
        written.append((handle.info, handle.writer.entries))
    index = sample_index.from_entries(
        clip_id=clip_id, frame_step=1, image_format="jpg", shards=written, run_ids=np.zeros(num_frames, np.int32)
    )
    index_file.save(index, folder)
    facts = clip_facts.ClipFacts(
        clip_id=clip_id, scene="test", weather="any", modality="infrared", time_of_day="night", time_base="1/25",
        nominal_fps=25.0, frame_step=1, clip_frames=num_frames,
    )  # fmt: skip
    clip_facts.write_clips(folder, [facts])
    return folder


@pytest.fixture(scope="session")
def domains(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Patterns of the infrared and the visible shards."""
    folder = tmp_path_factory.mktemp("domains")
    infrared = write_shards(folder / "infrared", "night", num_frames=20, channels=1, seed=1)
    visible = write_shards(folder / "visible", "day", num_frames=13, channels=3, seed=2)
    return f"{infrared}/*.tar", f"{visible}/*.tar"


@pytest.fixture
def settings(domains: tuple[str, str]) -> list[str]:
    """Everything that makes `tiny` small, and the shards to train on."""
    return [f'data.infrared=["{domains[0]}"]', f'data.visible=["{domains[1]}"]', *SMALL]


@pytest.fixture
def config(settings: list[str]) -> TrainConfig:
    """`tiny`, smaller still."""
    return resolve("tiny", mode=None, config_file=None, settings=settings)
