import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from processes import PATIENCE_S, Start
from safetensors import safe_open
from safetensors.torch import save_file

from roma.cli.pretrain import pretrain_command
from roma.config import overlay, presets
from roma.config import schema as train_config
from roma.data import batches
from roma.errors import ConfigError, DistributedError, RomaError, TrainingError, WeightsError
from roma.models.vit.backbone_file import BackboneFacts, backbone_facts, save_backbone
from roma.models.vit.vit import VisionTransformer
from roma.models.vit.weights import load_weights
from roma.pretrain.config import PretrainConfig, preset, resolve
from roma.pretrain.masked_pictures import masked_pictures
from roma.pretrain.pretrainer import Pretrainer, build_autoencoder, lr_factor
from roma.pretrain.task import pretrain
from roma.training.checkpoint import load_newest
from roma.training.loop import Listeners
from roma.training.metrics import read_metrics
from roma.training.networks import build_networks
from roma.training.progress import StepReport
from roma.world.world import World
from tests.roma.conftest import write_shards

ROOT = Path(__file__).resolve().parents[3]
ALONE = World(rank=0, world_size=1, device=torch.device("cpu"))
SMALL = (
    "batch_size=2",
    "data.load_size_px=36",
    "data.crop_size_px=32",
    "vit.image_size=32",
    "vit.patch_size=8",
    "vit.width=16",
    "vit.depth=2",
    "vit.num_heads=2",
    "decoder.width=16",
    "decoder.depth=1",
    "decoder.num_heads=2",
    "schedule.total_steps=4",
    "output.log_every=1",
    "output.sample_every=2",
    "output.checkpoint_every=1",
)


@pytest.fixture
def config(domains: tuple[str, str]) -> PretrainConfig:
    """`tiny`, smaller still."""
    shards = [f"data.infrared={domains[0]}", f"data.visible={domains[1]}"]
    return resolve("tiny", config_file=None, settings=[*shards, *SMALL])


def small_vit(**changes: int) -> VisionTransformer:
    sizes = {"image_size": 32, "patch_size": 8, "width": 16, "depth": 2, "num_heads": 2}
    return VisionTransformer(**(sizes | changes), layers=(0, 1))


def words(domains: tuple[str, str], run: Path, *more: str) -> list[str]:
    listed = ["--preset", "tiny", "--infrared", domains[0], "--visible", domains[1], "--out", str(run)]
    for setting in SMALL:
        listed += ["--set", setting]
    return [*listed, "--device", "cpu", *more]


def test_run_folder_holds_everything_that_the_command_names(config: PretrainConfig, tmp_path: Path):
    reports: list[StepReport] = []
    result = pretrain(config, tmp_path, ALONE, listeners=Listeners(on_report=reports.append))
    assert (result.first_step, result.last_step, result.total_steps) == (0, 4, 4)
    assert result.backbone == tmp_path / "backbone.safetensors"
    assert json.loads((tmp_path / "config.json").read_text())["preset"] == "tiny"
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4]
    assert [report.step for report in reports] == [1, 2, 3, 4]
    for report in reports:
        both = report.losses["reconstruction_infrared"], report.losses["reconstruction_visible"]
        assert report.losses["reconstruction"] == pytest.approx(sum(both) / 2, rel=1e-5)
    pictures = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert pictures == ["step-00000002.png", "step-00000004.png"]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2
    assert list((tmp_path / "tensorboard").iterdir())


def test_four_steps_equal_three_and_a_stop_and_one(config: PretrainConfig, tmp_path: Path):
    config = dataclasses.replace(config, output=dataclasses.replace(config.output, log_every=2))
    pretrain(config, tmp_path / "whole", ALONE)
    pretrain(config, tmp_path / "parts", ALONE, max_steps=3)
    assert backbone_facts(tmp_path / "parts" / "backbone.safetensors").step == 3
    assert read_metrics(tmp_path / "parts") == read_metrics(tmp_path / "whole")[:1]
    result = pretrain(config, tmp_path / "parts", ALONE)
    assert (result.first_step, result.last_step) == (3, 4)
    assert read_metrics(tmp_path / "whole") == read_metrics(tmp_path / "parts")
    files = [(tmp_path / name / "backbone.safetensors").read_bytes() for name in ("whole", "parts")]
    assert files[0] == files[1]
    whole, parts = (load_newest(tmp_path / name) for name in ("whole", "parts"))
    assert whole is not None
    assert parts is not None
    for key, value in whole.networks["autoencoder"].items():
        assert torch.equal(value, parts.networks["autoencoder"][key]), key


def test_a_run_killed_with_sigkill_ends_with_the_same_bytes(
    domains: tuple[str, str], start_process: Start, tmp_path: Path
):
    longer = ("--set", "schedule.total_steps=20")
    killed = tmp_path / "killed"
    process = start_process(
        [sys.executable, "-m", "roma", "pretrain", *words(domains, killed, *longer)],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + PATIENCE_S
    while len(list((killed / "checkpoints").glob("step-*.pt"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert backbone_facts(killed / "backbone.safetensors").step < 20
    for run in (tmp_path / "whole", killed):
        done = CliRunner().invoke(pretrain_command, words(domains, run, *longer), catch_exceptions=False)
        assert done.exit_code == 0, done.output
    assert "20 of 20 steps (from step " in done.output
    assert [line["step"] for line in read_metrics(killed)] == list(range(1, 21))
    files = [(run / "backbone.safetensors").read_bytes() for run in (tmp_path / "whole", killed)]
    assert files[0] == files[1]


def test_bf16_trains_on_about_the_same_losses(config: PretrainConfig, tmp_path: Path):
    pretrain(config, tmp_path / "fp32", ALONE, max_steps=2)
    pretrain(dataclasses.replace(config, precision="bf16"), tmp_path / "bf16", ALONE, max_steps=2)
    for exact, short in zip(read_metrics(tmp_path / "fp32"), read_metrics(tmp_path / "bf16"), strict=True):
        assert short != exact
        assert short == pytest.approx(exact, rel=0.03)


def test_a_finished_run_does_nothing(config: PretrainConfig, tmp_path: Path):
    pretrain(config, tmp_path, ALONE)
    before = (tmp_path / "backbone.safetensors").stat().st_mtime_ns
    result = pretrain(config, tmp_path, ALONE)
    assert (result.first_step, result.last_step) == (4, 4)
    assert (tmp_path / "backbone.safetensors").stat().st_mtime_ns == before


def test_the_loss_falls_below_that_of_the_mean_colour(config: PretrainConfig, tmp_path: Path):
    # The upper half of every visible picture is blue, the lower one green; one colour for all is no answer.
    longer = dataclasses.replace(
        config,
        batch_size=8,
        tone_jitter=0.0,
        optim=dataclasses.replace(config.optim, base_lr=0.1),
        schedule=dataclasses.replace(config.schedule, total_steps=120),
        output=dataclasses.replace(config.output, sample_every=120, checkpoint_every=120),
    )
    pretrain(longer, tmp_path, ALONE)
    losses = [line["reconstruction_visible"] for line in read_metrics(tmp_path)]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5])
    domains = batches.open_domains(train_config.TrainConfig(mode="image", data=longer.data))
    pictures = batches.to_unit_range(domains.visible.read_rows(np.arange(13)))
    domains.close()
    assert np.mean(losses[-10:]) < float(pictures.var(dim=(0, 2, 3)).mean())


def test_the_backbone_loads_into_the_training_vit_and_says_the_same_tokens(config: PretrainConfig, tmp_path: Path):
    result = pretrain(config, tmp_path, ALONE)
    newest = load_newest(tmp_path)
    assert newest is not None
    trained = build_autoencoder(config, ALONE.device)
    trained.load_state_dict(newest.networks["autoencoder"])
    vit = small_vit()
    load_weights(vit, result.backbone)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    everything = torch.arange(16).expand(2, -1)
    torch.testing.assert_close(vit.tokens(images)[-1], trained.encode(images, everything)[:, 1:])
    with safe_open(result.backbone, framework="pt") as file:
        assert set(file.keys()) == set(vit.state_dict())
    training = overlay.resolve(
        "tiny", mode=None, config_file=None,
        settings=[f"vit.weights={result.backbone}", "loss.global_structure=0.2", "vit.image_size=32", "vit.width=16",
                  "vit.depth=2", "vit.num_heads=2", "vit.layers=[0, 1]"],
    )  # fmt: skip
    used = build_networks(training, ALONE.device).vit
    assert used is not None
    assert torch.equal(used.pos_embed, vit.pos_embed)
    with pytest.raises(WeightsError, match=r"key 'cls_token' has shape \[1, 1, 16\], expected \[1, 1, 8\]"):
        load_weights(small_vit(width=8), result.backbone)


def test_the_backbone_says_what_it_was_trained_on(config: PretrainConfig, domains: tuple[str, str], tmp_path: Path):
    result = pretrain(config, tmp_path, ALONE)
    facts = backbone_facts(result.backbone)
    assert (facts.step, facts.seed) == (4, 0)
    assert (facts.infrared.shards, facts.visible.shards) == ((domains[0],), (domains[1],))
    assert (facts.infrared.num_frames, facts.visible.num_frames) == (20, 13)
    opened = batches.open_domains(train_config.TrainConfig(mode="image", data=config.data))
    hashes = opened.infrared.index.samples_hash(), opened.visible.index.samples_hash()
    opened.close()
    assert (facts.infrared.rows_sha256, facts.visible.rows_sha256) == hashes
    assert facts.config == overlay.to_json(config)
    with safe_open(result.backbone, framework="pt") as file:
        assert file.metadata()["format"] == "roma-backbone-1"


def test_equal_backbones_are_equal_files(config: PretrainConfig, tmp_path: Path):
    result = pretrain(config, tmp_path, ALONE)
    facts = backbone_facts(result.backbone)
    vit = small_vit()
    load_weights(vit, result.backbone)
    for number in range(4):
        save_backbone(tmp_path / f"{number}.safetensors", vit.state_dict(), facts)
        assert (tmp_path / f"{number}.safetensors").read_bytes() == result.backbone.read_bytes()


def test_files_that_are_no_backbone_are_refused_with_what_to_do(tmp_path: Path):
    with pytest.raises(WeightsError, match="no such weight file; check the path, or make it with roma pretrain"):
        backbone_facts(tmp_path / "none.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(WeightsError, match=r"cut.safetensors: cannot be read as .safetensors \(.*copy it again"):
        backbone_facts(tmp_path / "cut.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "timm.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        WeightsError, match="format is 'pt', expected 'roma-backbone-1'; only files of roma pretrain say"
    ):
        backbone_facts(tmp_path / "timm.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "half.safetensors", metadata={"format": "roma-backbone-1"})
    with pytest.raises(WeightsError, match=r"metadata is incomplete \(KeyError: 'infrared_shards'\); make it anew"):
        backbone_facts(tmp_path / "half.safetensors")


def test_other_settings_or_other_pictures_for_the_same_folder_are_refused(
    config: PretrainConfig, domains: tuple[str, str], tmp_path: Path
):
    shards = write_shards(tmp_path / "shards", "night", num_frames=9, channels=1, seed=1)
    own = dataclasses.replace(config, data=dataclasses.replace(config.data, infrared=(f"{shards}/*.tar",)))
    run = tmp_path / "run"
    pretrain(own, run, ALONE, max_steps=1)
    with pytest.raises(
        ConfigError, match=r"begun with other settings: mask_share 0.75 -> 0.5; use the same, or another"
    ):
        pretrain(dataclasses.replace(own, mask_share=0.5), run, ALONE)
    shutil.rmtree(run / "checkpoints")  # the backbone stands for what it was made with
    with pytest.raises(ConfigError, match=r"begun with other settings: mask_share 0.75 -> 0.5"):
        pretrain(dataclasses.replace(own, mask_share=0.5), run, ALONE)
    for path in shards.iterdir():
        path.unlink()
    write_shards(shards, "night", num_frames=8, channels=1, seed=9)
    with pytest.raises(
        ConfigError, match=r"begun on other infrared pictures: 9 frames of hash \w{8}, now 8 of \w{8}; br"
    ):
        pretrain(own, run, ALONE)
    (run / "config.json").write_text('{"mode": "video"}')
    with pytest.raises(
        ConfigError, match=r"no setting is called mode; .* of another command or version, so use another --out"
    ):
        pretrain(own, run, ALONE)


def test_masks_and_tones_follow_from_seed_and_position_on_any_rank(config: PretrainConfig):
    infrared = torch.rand(4, 3, 32, 32) * 2 - 1
    visible = torch.rand(4, 3, 32, 32) * 2 - 1
    whole = masked_pictures(infrared, visible, (8, 9, 10, 11), config=config)
    assert whole.masked_index.shape == (8, 12)
    half = masked_pictures(infrared[2:], visible[2:], (10, 11), config=config)
    for name in ("images", "kept_index", "masked_index"):
        both = getattr(whole, name)
        assert torch.equal(getattr(half, name), torch.cat([both[2:4], both[6:8]])), name
    assert not torch.equal(whole.masked_index[:4], whole.masked_index[4:])
    for other in (dataclasses.replace(config, seed=1), config):
        positions = (8, 9, 10, 11) if other.seed else (12, 13, 14, 15)
        changed = masked_pictures(infrared, visible, positions, config=other)
        assert not torch.equal(changed.masked_index, whole.masked_index)


def test_tone_jitter_grays_its_share_of_both_domains(config: PretrainConfig):
    infrared = torch.rand(20, 3, 32, 32) * 2 - 1
    visible = torch.rand(20, 3, 32, 32) * 2 - 1
    plain = torch.cat([infrared, visible])
    for share, expected in ((0.0, 0), (1.0, 40), (0.5, 20)):
        one = dataclasses.replace(config, tone_jitter=share)
        images = masked_pictures(infrared, visible, tuple(range(20)), config=one).images
        is_toned = (images != plain).flatten(1).any(dim=1)
        assert abs(int(is_toned.sum()) - expected) <= (9 if share == 0.5 else 0)
        assert torch.equal(images[is_toned, 0], images[is_toned, 2])


def test_the_step_size_rises_linearly_and_falls_like_a_cosine(config: PretrainConfig):
    factors = [lr_factor(step, total_steps=10, warmup_share=0.2) for step in range(10)]
    assert factors[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert factors[6] == pytest.approx(0.5)  # half way from step 2 to step 10
    assert factors[9] == pytest.approx(0.5 * (1 + np.cos(np.pi * 7 / 8)))
    assert lr_factor(0, total_steps=1, warmup_share=0.0) == 1.0
    # Twice 2048 pictures a step: the paper's batch of 4096 at 1.5e-4 * 4096 / 256.
    assert preset("base").optim.base_lr == 1.5e-4
    assert dataclasses.replace(preset("base"), batch_size=2048).peak_lr == pytest.approx(2.4e-3)


def test_a_loss_that_is_not_finite_stops_before_the_update(config: PretrainConfig):
    trainer = Pretrainer(config, build_autoencoder(config, ALONE.device), ALONE)
    torch.nn.init.constant_(trainer.network.to_pixels.bias, torch.inf)
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    batch = batches.TrainBatch(
        step=7,
        source=torch.zeros(2, 1, 3, 32, 32),
        target=torch.zeros(2, 1, 3, 32, 32),
        keys=(("night_00000003",), ("night_00000004",)),
        source_positions=(14, 15),
        target_positions=(14, 15),
    )
    with pytest.raises(
        TrainingError, match="rank 0, step 7: reconstruction is inf on night_00000003, night_00000004; nothing was"
    ):
        trainer.step(batch, lr_factor=1.0)
    assert all(torch.equal(value, before[name]) for name, value in trainer.network.state_dict().items())


def test_the_preset_tiny_makes_the_vit_of_the_training_preset_tiny():
    tiny, training = preset("tiny"), presets.preset("tiny")
    for item in dataclasses.fields(tiny.vit):
        assert getattr(tiny.vit, item.name) == getattr(training.vit, item.name)
    assert tiny.data == training.data


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("mask_share=1", r"mask_share must be in \(0, 1\), got 1.0"),
        ("tone_jitter=2", r"tone_jitter must be in \[0, 1\], got 2.0"),
        ("batch_size=0", "batch_size must be at least 1, got 0"),
        ("seed=-1", "seed must be at least 0, got -1"),
        ("vit.image_size=64", "data.crop_size_px must equal vit.image_size 64, since .* got 128"),
        ("optim.base_lr=0", "optim.base_lr must be in \\(0, 1e\\+30\\], got 0.0"),
        ("schedule.warmup_share=1", r"schedule.warmup_share must be in \[0, 1\), got 1.0"),
        ("schedule.total_steps=0", "schedule.total_steps must be at least 1, got 0"),
        ("mask=0.5", "no setting is called mask; there are batch_size, data, decoder, "),
        ("vit.layers=[1]", "no setting is called vit.layers; there are depth, "),
    ],
)
def test_settings_that_cannot_be_used_say_so(setting: str, message: str):
    with pytest.raises(ConfigError, match=message):
        resolve("tiny", config_file=None, settings=[setting])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("vit.num_heads=3", r"vit\.width must be a multiple of 4 and of vit\.num_heads 3, got 128"),
        ("decoder.num_heads=5", r"decoder\.width must be a multiple of 4 and of decoder\.num_heads 5, got 64"),
        ("decoder.width=66", r"decoder\.width must be a multiple of 4 and of decoder\.num_heads 4, got 66"),
        ("vit.patch_size=128", r"vit\.patch_size must be at most half of vit\.image_size, .*, got 128 of 128"),
        ("vit.patch_size=7", r"vit\.image_size must be a multiple of vit\.patch_size 7, got 128"),
    ],
)
def test_sizes_that_do_not_fit_each_other_say_so(setting: str, message: str):
    with pytest.raises(ConfigError, match=message):
        resolve("tiny", config_file=None, settings=[setting])


def test_a_batch_smaller_than_the_world_is_refused(config: PretrainConfig, tmp_path: Path):
    world = World(rank=0, world_size=3, device=torch.device("cpu"))
    with pytest.raises(DistributedError, match="batch_size 2 cannot feed 3 processes; use --set batch_size=3"):
        pretrain(config, tmp_path, world)


def test_dry_run_prints_a_config_that_resolves_to_itself(domains: tuple[str, str], tmp_path: Path):
    done = CliRunner().invoke(pretrain_command, words(domains, tmp_path / "run", "--dry-run"), catch_exceptions=False)
    assert not (tmp_path / "run").exists()
    (tmp_path / "config.json").write_text(done.stdout)
    again = resolve(None, config_file=tmp_path / "config.json", settings=[])
    assert overlay.to_json(again) == json.loads(done.stdout)
    assert again.data.infrared == (domains[0],)


@pytest.mark.parametrize("setting", ['data.held_out=["x.tar"]', "output.best_by=held_out_edges"])
def test_settings_that_only_training_has_are_refused(setting: str):
    with pytest.raises(ConfigError, match=r"data\.held_out and output\.best_by are for roma train"):
        resolve("tiny", config_file=None, settings=[setting])


def test_a_domain_without_shards_is_a_usage_error(tmp_path: Path):
    done = CliRunner().invoke(pretrain_command, ["--out", str(tmp_path / "run"), "--visible", "x.tar"])
    assert done.exit_code == 2
    assert "Missing --infrared: name shards or pictures, such as 'lite/city/infrared-train/*.tar'" in done.output


@pytest.mark.distributed
def test_two_ranks_take_the_same_steps_as_one(domains: tuple[str, str], config: PretrainConfig, tmp_path: Path):
    pretrain(config, tmp_path / "alone", ALONE)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "roma"]
    done = subprocess.run(
        [*torchrun, "pretrain", *words(domains, tmp_path / "both")],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected, found = read_metrics(tmp_path / "alone"), read_metrics(tmp_path / "both")
    assert [line["step"] for line in found] == [1, 2, 3, 4]
    for a, b in zip(expected, found, strict=True):
        assert b == pytest.approx(a, rel=1e-4)
    facts: list[BackboneFacts] = [
        backbone_facts(tmp_path / name / "backbone.safetensors") for name in ("alone", "both")
    ]
    assert facts[0] == facts[1]


def test_errors_are_of_the_house(tmp_path: Path):
    with pytest.raises(RomaError, match="no preset of roma pretrain is called 'huge'; there are base and tiny"):
        resolve("huge", config_file=None, settings=[])
