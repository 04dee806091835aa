import json
from pathlib import Path

import pytest

from roma.config import TrainConfig, departures, differences, from_json, preset, resolve, to_json
from roma.errors import ConfigError


def resolved(*settings: str, name: str | None = "tiny", file: Path | None = None) -> TrainConfig:
    return resolve(name, mode=None, config_file=file, settings=settings)


def test_preset_roma_holds_the_published_hyper_parameters():
    config = preset("roma")
    loss = config.loss
    assert (config.optim.generator_lr, config.optim.discriminator_lr) == (1e-5, 1e-5)
    assert (config.optim.beta1, config.optim.beta2, config.batch_size) == (0.5, 0.999, 1)
    assert (loss.global_structure, loss.local_structure, loss.motion, loss.gan) == (5, 5, 1, 1)
    assert (loss.num_windows, loss.window, loss.region_sizes) == (64, 7, (2, 4, 6, 8, 12))
    assert (config.data.load_size_px, config.data.crop_size_px, config.data.flip) == (286, 256, False)
    assert (config.schedule.constant_epochs, config.schedule.decay_epochs) == (100, 100)


def test_preset_roma_departs_from_the_paper_in_nothing():
    config = preset("roma")
    assert (config.loss.patch_gan, config.loss.colourise, config.loss.warmup_steps) == (0, 0, 0)
    assert (config.loss.similarity, config.loss.centre_tokens) == ("cross", False)
    assert (config.optim.ema_decay, config.generator.last_init_gain) == (0, None)
    assert (config.generator.architecture, config.loss.matched_tones, config.loss.edges) == ("resnet", 0, 0)
    assert (config.loss.detail_gan, config.loss.colourise_edges, config.loss.anchor) == (0, 0, 0)
    assert departures(config) == []


def test_preset_tiny_names_each_departure():
    named = {text.rpartition(" ")[0] for text in departures(preset("tiny"))}
    assert {"generator.architecture", "loss.colourise", "loss.colourise_edges", "loss.matched_tones", "loss.edges", "loss.anchor",
            "loss.detail_gan", "loss.warmup_steps", "loss.gan",
            "optim.ema_decay"} <= named  # fmt: skip


def test_forms_of_losses_that_are_off_are_no_departures():
    assert "loss.similarity self" not in departures(preset("tiny"))
    assert {"loss.similarity self", "vit.weights random"} <= set(departures(resolved("loss.global_structure=0.2")))


def test_only_terms_on_tokens_need_a_vit():
    assert preset("roma").loss.needs_vit
    assert not resolved("loss.global_structure=0", "loss.local_structure=0", "loss.motion=0").loss.needs_vit
    assert resolved("loss.local_structure=0.1").loss.needs_vit


def test_image_mode_of_roma_flips_and_takes_single_frames():
    config = preset("roma", mode="image")
    assert config.data.flip
    assert config.window_frames == 1
    assert preset("roma").window_frames == 2


def test_preset_roma_multi_is_the_published_method_in_larger_batches():
    config = preset("roma-multi")
    assert (config.batch_size, config.precision, config.schedule.warmup_steps) == (16, "bf16", 500)
    assert config.optim.generator_lr * config.optim.lr_scale(config.batch_size) == pytest.approx(4e-5)
    assert config.optim.discriminator_lr * config.optim.lr_scale(config.batch_size) == pytest.approx(4e-5)
    assert differences(preset("roma"), config) == [
        "batch_size 1 -> 16",
        "optim.lr_scaling none -> sqrt",
        "precision fp32 -> bf16",
        "preset roma -> roma-multi",
        "schedule.warmup_steps 0 -> 500",
    ]
    assert preset("roma-multi", mode="image").data.flip


@pytest.mark.parametrize(("scaling", "factor"), [("none", 1), ("sqrt", 4), ("linear", 16)])
def test_learning_rates_grow_with_the_batch_as_asked(scaling: str, factor: float):
    optim = resolved(f"optim.lr_scaling={scaling}").optim
    assert optim.lr_scale(16) == factor
    assert optim.lr_scale(1) == 1
    halved = resolved(f"optim.lr_scaling={scaling}", "optim.base_batch_size=16").optim
    assert halved.lr_scale(16) == 1
    assert halved.lr_scale(4) == {"none": 1, "sqrt": 0.5, "linear": 0.25}[scaling]


def test_unknown_preset_names_the_known_ones():
    with pytest.raises(ConfigError, match="'huge'; there are roma, roma-multi and tiny"):
        preset("huge")


def test_later_sources_win(tmp_path: Path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"preset": "tiny", "seed": 3, "optim": {"generator_lr": 0.5, "beta1": 0.25}}))
    config = resolved("optim.generator_lr=0.125", name=None, file=file)
    assert (config.preset, config.seed) == ("tiny", 3)
    assert (config.optim.generator_lr, config.optim.beta1) == (0.125, 0.25)


def test_a_run_s_config_file_alone_gives_the_run_again(tmp_path: Path):
    config = resolved("seed=5", "data.infrared=a/*.tar", "loss.region_sizes=[2, 4]")
    file = tmp_path / "config.json"
    file.write_text(json.dumps(to_json(config)))
    assert resolved(name=None, file=file) == config
    assert from_json(to_json(config), where="x") == config


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("loss.gann=1", r"no setting is called loss\.gann"),
        ("loss=1", "loss is a group of settings"),
        ("seed", "expected name=value"),
        ("batch_size=1.5", "batch_size must be int, got 1.5"),
        ("batch_size=0", "batch_size must be at least 1, got 0"),
        ("loss.similarity=both", "must be one of cross, self, got 'both'"),
        ("data.crop_size_px=130", "must be a multiple of 4"),
        ("data.load_size_px=100", "load_size_px must be at least crop_size_px 128, got 100"),
        ("optim.generator_lr=fast", "generator_lr must be float, got 'fast'"),
        ("loss.warmup_steps=0", "anchor keeps the colours of the warm-up"),
        ("data.crop_size_px=72", "data.crop_size_px must be a multiple of 16, at least 32, for a unet, got 72"),
        ("loss.colourise=0", "warmup_steps trains colourise alone"),
        ("data.flip=1", "flip must be bool, got 1"),
    ],
)
def test_a_bad_setting_is_one_line_that_says_what_is_wrong(setting: str, message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        resolved(setting)
    assert "\n" not in str(caught.value)


def test_config_file_errors_name_the_file(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"nowhere\.json: no such file"):
        resolved(file=tmp_path / "nowhere.json")
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(ConfigError, match=r"broken\.json: not JSON"):
        resolved(file=broken)


def test_differences_name_both_values():
    assert differences(resolved(), resolved("seed=1", "loss.gan=0.5")) == ["loss.gan 0.0 -> 0.5", "seed 0 -> 1"]
    limited = resolved("schedule.total_steps=9", "data.flip=true", name="roma")
    assert differences(resolved(name="roma"), limited) == ["data.flip false -> true", "schedule.total_steps null -> 9"]
