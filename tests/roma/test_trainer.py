import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from roma import trainer
from roma.checkpoint import load_newest, load_snapshot
from roma.config import TrainConfig
from roma.distributed import World
from roma.errors import ConfigError, DistributedError
from roma.metrics import read_metrics

ALONE = World(rank=0, world_size=1, device=torch.device("cpu"))


def test_run_folder_holds_everything_that_the_readme_names(config: TrainConfig, tmp_path: Path):
    reports: list[trainer.StepReport] = []
    result = trainer.train(config, tmp_path, ALONE, on_report=reports.append)
    assert (result.first_step, result.last_step, result.total_steps) == (0, 8, 8)
    assert json.loads((tmp_path / "config.json").read_text())["preset"] == "tiny"
    assert [line["step"] for line in read_metrics(tmp_path)] == list(range(1, 9))
    assert [report.step for report in reports] == list(range(1, 9))
    assert [path.name for path in sorted((tmp_path / "samples").iterdir())] == [
        "step-00000004.png",
        "step-00000008.png",
    ]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
    assert list((tmp_path / "tensorboard").iterdir())
    snapshot = load_snapshot(tmp_path / "snapshot.pt")
    assert (snapshot.step, snapshot.width, snapshot.size_px) == (8, 4, 32)


def test_four_steps_equal_two_and_a_resume_and_two(config: TrainConfig, tmp_path: Path):
    trainer.train(config, tmp_path / "whole", ALONE)
    trainer.train(
        config, tmp_path / "parts", ALONE, max_steps=3
    )  # inside the warm-up's successor, off a checkpoint step
    assert load_snapshot(tmp_path / "parts" / "snapshot.pt").step == 3
    result = trainer.train(config, tmp_path / "parts", ALONE)
    assert (result.first_step, result.last_step) == (3, 8)
    assert read_metrics(tmp_path / "whole") == read_metrics(tmp_path / "parts")
    whole, parts = (load_newest(tmp_path / name) for name in ("whole", "parts"))
    assert whole is not None
    assert parts is not None
    for name, weights in whole.networks.items():
        for key, value in weights.items():
            assert torch.equal(value, parts.networks[name][key]), (name, key)


def test_a_finished_run_does_nothing(config: TrainConfig, tmp_path: Path):
    trainer.train(config, tmp_path, ALONE)
    before = (tmp_path / "snapshot.pt").stat().st_mtime_ns
    result = trainer.train(config, tmp_path, ALONE)
    assert (result.first_step, result.last_step) == (8, 8)
    assert (tmp_path / "snapshot.pt").stat().st_mtime_ns == before


def test_other_settings_for_the_same_folder_are_refused(config: TrainConfig, tmp_path: Path):
    trainer.train(config, tmp_path, ALONE, max_steps=1)
    with pytest.raises(ConfigError, match=r"begun with other settings: seed 0 -> 4; use the same, or another --out"):
        trainer.train(dataclasses.replace(config, seed=4), tmp_path, ALONE)


def test_a_batch_smaller_than_the_world_is_refused(config: TrainConfig, tmp_path: Path):
    world = World(rank=0, world_size=3, device=torch.device("cpu"))
    with pytest.raises(DistributedError, match="batch_size 2 cannot feed 3 processes; use --set batch_size=3"):
        trainer.train(config, tmp_path, world)


def test_tiny_learns_to_give_colour_back(config: TrainConfig, tmp_path: Path):
    longer = dataclasses.replace(
        config,
        loss=dataclasses.replace(config.loss, warmup_steps=60),
        schedule=dataclasses.replace(config.schedule, total_steps=60),
        output=dataclasses.replace(config.output, sample_every=60, checkpoint_every=60),
        optim=dataclasses.replace(config.optim, generator_lr=3e-3),
    )
    trainer.train(longer, tmp_path, ALONE)
    losses = [line["colourise"] for line in read_metrics(tmp_path)]
    assert np.mean(losses[-15:]) < 0.9 * np.mean(losses[:5])
