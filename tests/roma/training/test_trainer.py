import dataclasses
import json
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from synthetic import Shelf, clip_of

from infraredcity.extraction.config import ExtractConfig
from infraredcity.extraction.extract_clip import extract_clip
from infraredcity.stills.formats import encode
from infraredcity.video import probe
from roma.config.schema import TrainConfig
from roma.data.preprocessing import Preprocessing
from roma.errors import CheckpointError, ConfigError, DistributedError
from roma.inference.translator import open_translator
from roma.training import trainer
from roma.training.checkpoint import load_newest
from roma.training.loop import Listeners
from roma.training.metrics import read_metrics, read_speed
from roma.training.progress import StepReport
from roma.training.snapshot import load_snapshot
from roma.world.world import World
from tests.roma.conftest import write_shards

ALONE = World(rank=0, world_size=1, device=torch.device("cpu"))


def test_run_folder_holds_everything_that_the_readme_names(config: TrainConfig, tmp_path: Path):
    reports: list[StepReport] = []
    result = trainer.train(config, tmp_path, ALONE, listeners=Listeners(on_report=reports.append))
    assert (result.first_step, result.last_step, result.total_steps) == (0, 8, 8)
    assert json.loads((tmp_path / "config.json").read_text())["preset"] == "tiny"
    assert [line["step"] for line in read_metrics(tmp_path)] == list(range(1, 9))
    assert [report.step for report in reports] == list(range(1, 9))
    assert [path.name for path in sorted((tmp_path / "samples").iterdir())] == [
        "step-00000004.png",
        "step-00000008.png",
    ]
    saved = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert saved >= {"step-00000006.pt", "step-00000008.pt"}
    assert result.best is not None
    assert saved - {"step-00000006.pt", "step-00000008.pt"} <= {f"step-{result.best.step:08d}.pt"}
    assert json.loads((tmp_path / "best.json").read_text())["step"] == result.best.step
    assert load_snapshot(tmp_path / "snapshot-best.pt").step == result.best.step
    measured = {
        line["step"]: line["held_out_distance"] for line in read_metrics(tmp_path) if "held_out_distance" in line
    }
    assert list(measured) == [2, 4, 6, 8]
    assert min(measured, key=lambda step: measured[step]) == result.best.step
    assert result.best.value == measured[result.best.step]
    speed = read_speed(tmp_path)
    assert [line["step"] for line in speed] == list(range(1, 9))
    assert set(speed[0]) == {"step", "images_per_s", "wait_share", "memory_mib"}
    assert list((tmp_path / "tensorboard").iterdir())
    snapshot = load_snapshot(tmp_path / "snapshot.pt")
    assert (snapshot.step, snapshot.config) == (8, config)


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


def test_only_the_decay_is_trained_on_whole_frames(config: TrainConfig, tmp_path: Path):
    wide = dataclasses.replace(config, data=dataclasses.replace(config.data, load_size_px=48))
    assert wide.schedule.decay_crop == "none"
    lines = {}
    for crop in ("none", "random"):
        schedule = dataclasses.replace(wide.schedule, decay_crop=crop)  # 4 of its 8 steps are constant
        trainer.train(dataclasses.replace(wide, schedule=schedule), tmp_path / crop, ALONE)
        lines[crop] = [line["colourise"] for line in read_metrics(tmp_path / crop)]
    assert lines["none"][:4] == lines["random"][:4]
    assert all(whole != cut for whole, cut in zip(lines["none"][4:], lines["random"][4:], strict=True))


def test_a_finished_run_does_nothing(config: TrainConfig, tmp_path: Path):
    trainer.train(config, tmp_path, ALONE)
    before = (tmp_path / "snapshot.pt").stat().st_mtime_ns
    result = trainer.train(config, tmp_path, ALONE)
    assert (result.first_step, result.last_step) == (8, 8)
    assert (tmp_path / "snapshot.pt").stat().st_mtime_ns == before


@pytest.mark.parametrize("image_format", ["png16", "jpg"])
def test_a_snapshot_says_what_its_infrared_went_through(
    config: TrainConfig, tmp_path: Path, shelf: Shelf, image_format: Literal["png16", "jpg"]
):
    options = {"tone": "minmax"} if image_format == "jpg" else {}
    extraction = ExtractConfig(
        image_format=image_format, masks=((0, 0, 8, 8),), polarity="black-hot", size=(48, 32), fit="crop", **options
    )
    extract_clip(clip_of(shelf.deep), extraction, tmp_path / "shards")
    data = dataclasses.replace(config.data, infrared=(str(tmp_path / "shards" / "city_clear"),))
    trainer.train(dataclasses.replace(config, data=data), tmp_path / "run", ALONE, max_steps=1)
    found = load_snapshot(tmp_path / "run" / "snapshot.pt").preprocessing
    info = probe(shelf.deep)
    assert found == Preprocessing(
        is_known=True,
        tone="minmax" if image_format == "jpg" else "percentile",
        polarity="black-hot",
        masks=((0, 0, 8, 8),),
        clip_size=(info.width_px, info.height_px),
        fit="crop",
        picture_size=(48, 32),
    )


def test_a_snapshot_of_plain_pictures_knows_nothing_of_their_making(config: TrainConfig, tmp_path: Path):
    (tmp_path / "night").mkdir()
    for number in range(4):
        picture = np.full((64, 64, 1), 40 * number, np.uint8)
        (tmp_path / "night" / f"{number}.png").write_bytes(encode(picture, "png"))
    data = dataclasses.replace(config.data, infrared=(str(tmp_path / "night"),))
    trainer.train(dataclasses.replace(config, data=data), tmp_path / "run", ALONE, max_steps=1)
    assert load_snapshot(tmp_path / "run" / "snapshot.pt").preprocessing == Preprocessing()


def test_training_on_crops_keeps_the_scale_and_goes_on_from_a_checkpoint(
    config: TrainConfig, tmp_path: Path, shelf: Shelf
):
    extract_clip(clip_of(shelf.gray), ExtractConfig(), tmp_path)
    extract_clip(clip_of(shelf.h264, "city_day", modality="visible", time_of_day="day"), ExtractConfig(), tmp_path)
    data = dataclasses.replace(
        config.data,
        infrared=(str(tmp_path / "city_clear"),),
        visible=(str(tmp_path / "city_day"),),
        held_out=(str(tmp_path / "city_clear"),),
        fit="crop",
        scale_jitter=0.2,
    )
    crops = dataclasses.replace(config, data=data)
    trainer.train(crops, tmp_path / "whole", ALONE)
    trainer.train(crops, tmp_path / "parts", ALONE, max_steps=5)
    trainer.train(crops, tmp_path / "parts", ALONE)
    assert read_metrics(tmp_path / "whole") == read_metrics(tmp_path / "parts")
    translator = open_translator(tmp_path / "whole" / "snapshot.pt", ALONE.device)
    assert translator.trained_size(96, 64) == (96, 64)  # whole frames, not squares
    assert translator.translate(np.zeros((1, 64, 96, 1), np.uint8), size=(96, 64)).shape == (1, 64, 96, 3)


def test_other_settings_for_the_same_folder_are_refused(config: TrainConfig, tmp_path: Path):
    trainer.train(config, tmp_path, ALONE, max_steps=1)
    with pytest.raises(ConfigError, match=r"begun with other settings: seed 0 -> 4; use the same, or another --out"):
        trainer.train(dataclasses.replace(config, seed=4), tmp_path, ALONE)


def test_a_snapshot_without_checkpoints_is_not_overwritten_by_other_settings(config: TrainConfig, tmp_path: Path):
    trainer.train(config, tmp_path, ALONE, max_steps=1)
    shutil.rmtree(tmp_path / "checkpoints")
    before = (tmp_path / "snapshot.pt").read_bytes()
    with pytest.raises(ConfigError, match=r"begun with other settings: seed 0 -> 4; use the same, or another --out"):
        trainer.train(dataclasses.replace(config, seed=4), tmp_path, ALONE)
    assert (tmp_path / "snapshot.pt").read_bytes() == before


def test_what_is_written_and_how_it_is_computed_may_change_when_a_run_goes_on(config: TrainConfig, tmp_path: Path):
    trainer.train(config, tmp_path, ALONE, max_steps=1)
    changed = dataclasses.replace(
        config,
        compute=dataclasses.replace(config.compute, micro_batch=1),
        output=dataclasses.replace(config.output, keep_checkpoints=5, log_every=2),
    )
    assert trainer.train(changed, tmp_path, ALONE, max_steps=2).first_step == 1
    other = dataclasses.replace(config, output=dataclasses.replace(config.output, best_by="held_out_edges"))
    with pytest.raises(
        ConfigError, match=r"begun with other settings: output\.best_by held_out_distance -> held_out_edges"
    ):
        trainer.train(other, tmp_path, ALONE)


def test_going_on_over_other_pictures_of_the_same_name_is_refused(config: TrainConfig, tmp_path: Path):
    for seed in (1, 5):
        shutil.rmtree(tmp_path / "shards", ignore_errors=True)
        write_shards(tmp_path / "shards", "night", num_frames=20, channels=1, seed=seed)
        here = dataclasses.replace(
            config, data=dataclasses.replace(config.data, infrared=(f"{tmp_path}/shards/*.tar",))
        )
        if seed == 1:
            trainer.train(here, tmp_path / "run", ALONE, max_steps=1)
    expected = r"begun on other infrared pictures: 20 frames of hash \w{8}, now 20 of \w{8}; bring those shards back"
    with pytest.raises(ConfigError, match=expected):
        trainer.train(here, tmp_path / "run", ALONE)


def test_a_stopped_run_leaves_a_beginning_of_what_an_unbroken_one_writes(config: TrainConfig, tmp_path: Path):
    sparse = dataclasses.replace(config, output=dataclasses.replace(config.output, log_every=4, checkpoint_every=4))
    trainer.train(sparse, tmp_path / "whole", ALONE)
    stopped = trainer.train(sparse, tmp_path / "parts", ALONE, max_steps=3)
    assert stopped.last_step == 3
    assert read_metrics(tmp_path / "parts") == []
    assert [line["step"] for line in read_speed(tmp_path / "parts")] == [3]
    trainer.train(sparse, tmp_path / "parts", ALONE, max_steps=6)
    assert read_metrics(tmp_path / "parts") == read_metrics(tmp_path / "whole")[:1]
    trainer.train(sparse, tmp_path / "parts", ALONE)
    assert read_metrics(tmp_path / "parts") == read_metrics(tmp_path / "whole")
    assert [line["step"] for line in read_metrics(tmp_path / "whole")] == [4, 8]


def test_a_checkpoint_that_cannot_be_written_ends_the_run_with_one_line(config: TrainConfig, tmp_path: Path):
    (tmp_path / "snapshot.pt").mkdir()  # where a file should go
    with pytest.raises(
        CheckpointError, match=r"the checkpoint is not on the disk: .*snapshot\.pt: cannot be written: is a"
    ):
        trainer.train(config, tmp_path, ALONE, max_steps=3)


def test_pictures_that_were_passed_over_are_counted_and_named(config: TrainConfig, tmp_path: Path):
    write_shards(tmp_path / "shards", "night", num_frames=20, channels=1, seed=1)
    tar = sorted((tmp_path / "shards").glob("*.tar"))[1]
    data = bytearray(tar.read_bytes())
    start = bytes(data).index(b"\xff\xd8\xff")  # its first picture, frame 8
    data[start : start + 60] = bytes(60)
    tar.write_bytes(data)
    lenient = dataclasses.replace(
        config,
        loss=dataclasses.replace(config.loss, matched_tones=0.0),
        data=dataclasses.replace(config.data, infrared=(f"{tmp_path}/shards/*.tar",), on_bad="replace",
                                 held_out=config.data.infrared),
        schedule=dataclasses.replace(config.schedule, total_steps=10),
    )  # fmt: skip
    result = trainer.train(lenient, tmp_path / "run", ALONE)  # 20 windows of 19: each frame is read
    assert result.num_unreadable == 1
    named = json.loads((tmp_path / "run" / "loader" / "unreadable.json").read_text())
    assert list(named) == ["night_00000008"]
    assert trainer.train(lenient, tmp_path / "run", ALONE).num_unreadable == 1  # also when there is nothing to do


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


@pytest.mark.parametrize(
    ("generator", "message"),
    [({"architecture": "vae"}, "architecture must be one of resnet, unet, got 'vae'"), ({}, "of 16, .* got 24")],
)
def test_a_generator_that_cannot_be_is_refused_before_anything_is_written(
    config: TrainConfig, tmp_path: Path, generator: dict[str, str], message: str
):
    odd = dataclasses.replace(
        config,
        generator=dataclasses.replace(config.generator, **generator),
        data=dataclasses.replace(config.data, crop_size_px=24),
    )
    with pytest.raises(ConfigError, match=message):
        trainer.train(odd, tmp_path / "run", ALONE)
    assert list(tmp_path.iterdir()) == []
