import json
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch

from roma.config.compare import departures, differences
from roma.config.overlay import from_json, resolve, to_json
from roma.config.presets import preset
from roma.config.rules import rules_of
from roma.config.schema import TrainConfig
from roma.errors import ConfigError
from roma.losses.details import luma_details
from roma.models.critics.patch import PatchDiscriminator
from roma.pretrain.config import resolve as resolve_pretrain


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


def test_every_setting_that_is_not_in_the_paper_is_named_when_it_is_used():
    marked = set()
    for group in ("data", "generator", "vit", "loss", "optim", "schedule"):
        values = getattr(TrainConfig(), group)
        for item, value, rule in rules_of(values):
            if not rule.in_paper:
                others = {
                    "resnet": "unet",
                    "cross": "self",
                    "square": "crop",
                    "none": "random" if group == "schedule" else "sqrt",
                }
                other = (
                    others[value] if value in others else "true" if value is False else 1 if type(value) is int else 0.5
                )
                base = ("loss.colourise=1", "loss.warmup_steps=1")
                named = departures(resolved(*base, f"{group}.{item.name}={other}", name="roma"))
                assert f"{group}.{item.name}" in {text.partition(" ")[0] for text in named}
                marked.add(f"{group}.{item.name}")
    assert len(marked) == 19


def test_presets_for_several_gpus_and_random_squares_in_the_decay_name_their_departures():
    assert departures(preset("roma-multi")) == ["optim.lr_scaling sqrt", "schedule.warmup_steps 500"]
    random = resolve("roma", mode=None, config_file=None, settings=["schedule.decay_crop=random", "optim.clip_norm=1"])
    assert departures(random) == ["optim.clip_norm 1.0", "schedule.decay_crop random"]
    assert preset("tiny").schedule.decay_crop == "none"


def test_mirrored_windows_depart_from_the_paper_in_video_mode_and_whole_ones_in_image_mode():
    for mode, flip in (("video", "true"), ("image", "false")):
        config = resolve("roma", mode=mode, config_file=None, settings=[f"data.flip={flip}"])  # type: ignore[arg-type]
        assert departures(config) == [f"data.flip {flip.capitalize()}"]
        assert departures(preset("roma", mode=mode)) == []  # type: ignore[arg-type]


def test_a_run_of_before_the_decay_saw_whole_frames_goes_on_with_squares(tmp_path: Path):
    old = to_json(preset("tiny"))
    del old["schedule"]["decay_crop"]
    assert from_json(old, where="x").schedule.decay_crop == "random"
    file = tmp_path / "config.json"
    file.write_text(json.dumps(old))
    assert resolved(name=None, file=file).schedule.decay_crop == "random"
    assert resolved("schedule.decay_crop=none", name=None, file=file).schedule.decay_crop == "none"
    file.write_text(json.dumps({"preset": "tiny", "schedule": {"total_steps": 9}}))  # settings, not those of a run
    assert resolved(name=None, file=file).schedule.decay_crop == "none"


def test_terms_of_the_paper_that_are_off_are_departures_and_the_temporal_one_only_in_video_mode():
    for mode in ("video", "image"):
        off = resolve("roma", mode=mode, config_file=None, settings=["loss.gan=0", "loss.motion=0"])
        assert departures(off) == [*(["loss.motion 0.0"] if mode == "video" else []), "loss.gan 0.0"]


def test_forms_of_losses_that_are_off_are_no_departures():
    assert "loss.similarity self" not in departures(preset("tiny"))
    assert {"loss.similarity self", "vit.weights random"} <= set(departures(resolved("loss.global_structure=0.2")))


def test_only_terms_on_tokens_need_a_vit():
    assert preset("roma").needs_vit
    assert not resolved("loss.global_structure=0", "loss.local_structure=0", "loss.motion=0").needs_vit
    assert resolved("loss.local_structure=0.1").needs_vit
    # Only video mode has the temporal term.
    assert resolved("loss.motion=1").needs_vit
    assert not resolved("loss.motion=1", "mode=image").needs_vit


def test_image_mode_of_roma_flips_and_takes_single_frames():
    config = preset("roma", mode="image")
    assert config.data.flip
    assert config.window_frames == 1
    assert preset("roma").window_frames == 2


@pytest.mark.parametrize("name", ["roma", "roma-multi", "tiny"])
def test_the_mode_shapes_the_preset_wherever_it_is_given(name: str, tmp_path: Path):
    for mode in ("image", "video"):
        chosen = resolve(name, mode=mode, config_file=None, settings=())
        assert chosen == preset(name, mode=mode)
        assert resolved(f"mode={mode}", name=name) == chosen
        file = tmp_path / "config.json"
        file.write_text(json.dumps({"mode": mode}))
        assert resolved(name=name, file=file) == chosen
        file.write_text(json.dumps({"mode": "video" if mode == "image" else "image"}))
        assert resolved(f"mode={mode}", name=name, file=file) == chosen
        assert resolve(name, mode=mode, config_file=file, settings=()) == chosen
    assert resolve(name, mode="video", config_file=None, settings=["mode=image"]) == preset(name, mode="image")


def test_a_preset_is_not_chosen_by_set():
    with pytest.raises(ConfigError, match="--set preset=tiny: a preset is chosen with --preset tiny"):
        resolved("preset=tiny", name="roma")


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
    with pytest.raises(ConfigError, match="'huge'; there are roma, roma-multi, tiny"):
        preset("huge")


def test_later_sources_win(tmp_path: Path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"preset": "tiny", "seed": 3, "optim": {"generator_lr": 0.5, "beta1": 0.25}}))
    config = resolved("optim.generator_lr=0.125", name=None, file=file)
    assert (config.preset, config.seed) == ("tiny", 3)
    assert (config.optim.generator_lr, config.optim.beta1) == (0.125, 0.25)


def test_the_config_file_of_a_run_is_enough_to_give_it_again(tmp_path: Path):
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
        ("loss.colourise=0", "warmup_steps trains only colourise"),
        ("data.flip=1", "flip must be bool, got 1"),
        ("vit.num_heads=7", r"vit\.width must be a multiple of vit\.num_heads 7, got 128"),
        ("vit.image_size=380", r"vit\.image_size must be a multiple of vit\.patch_size 8, got 380"),
        ("vit.layers=[2,1]", r"vit\.layers must be rising block numbers from 0 to 2, got \[2, 1\]"),
        ("vit.layers=[0,3]", r"vit\.layers must be rising block numbers from 0 to 2, got \[0, 3\]"),
        ("vit.layers=[]", r"vit\.layers must be rising"),
        ("vit.layers=[-1,0]", r"vit\.layers must hold numbers at least 0, got \[-1, 0\]"),
        ("vit.patch_size=0", r"vit\.patch_size must be at least 1, got 0"),
        ("generator.init_gain=0", r"generator\.init_gain must be above 0, got 0"),
        ("generator.last_init_gain=-1", r"generator\.last_init_gain must be above 0, got -1"),
        ("loss.region_sizes=[0]", r"loss\.region_sizes must hold numbers at least 1, got \[0\]"),
        ("loss.colourise=NaN", r"loss\.colourise must be finite, got nan"),
        ("loss.gan=Infinity", r"loss\.gan must be finite, got inf"),
        ("loss.matched_tones=1.5", r"loss\.matched_tones must be in \[0, 1\], got 1.5"),
        ("optim.beta1=2", r"optim\.beta1 must be in \[0, 1\), got 2"),
        ("optim.beta2=1", r"optim\.beta2 must be in \[0, 1\), got 1"),
        ("optim.generator_lr=Infinity", r"optim\.generator_lr must be finite, got inf"),
        ("optim.generator_lr=1e31", r"optim\.generator_lr must be in \(0, 1e\+30\], got 1e\+31"),
        ("data.max_bad=100000000000000000000", r"data\.max_bad must be at most 4294967295, got 1000"),
        ("seed=18446744073709551616", r"seed must be at most 4294967295, got 18446744073709551616"),
        ("schedule.constant_epochs=-1", r"schedule\.constant_epochs must be at least 0, got -1"),
        ("loss.num_windows=0", r"loss\.num_windows must be at least 1, got 0"),
        ("loss.patch_gan_width=0", r"loss\.patch_gan_width must be at least 1, got 0"),
        (f"loss.gan=1{400 * '0'}", r"loss\.gan must be a finite number, got one of more than 308 digits"),
    ],
)
def test_a_bad_setting_is_one_line_that_says_what_is_wrong(setting: str, message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        resolved(setting)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("loss.region_sizes=[5]",), r"loss\.region_sizes must be divisors of the 24 tokens of the ViT's side, got \[5\]"),
        (("loss.window=40",), r"loss\.window must be at most the 24 tokens of the ViT's side, got 40"),
        (("schedule.constant_epochs=0", "schedule.decay_epochs=0"), r"must be not both 0, got \[0, 0\]"),
        (("data.infrared=[\"a\", \"b\"]", "data.infrared_weights=[1, Infinity]"),
         r"infrared_weights must hold finite numbers, got \[1\.0, inf\]"),
        (("data.infrared=[\"a\", \"b\"]", "data.infrared_weights=[1, 0.000001]"),
         r"data\.infrared_weights: weights may differ by a factor of 65536 at most, got \[1\.0, 1e-06\]"),
        (("data.load_size_px=4096", "data.crop_size_px=4096"), r"data\.crop_size_px must be in \[8, 2048\], got 4096"),
        (("loss.patch_gan=1", "data.crop_size_px=20"), r"data\.crop_size_px must be at least 24 for loss\.patch_gan"),
        (("loss.colourise=1", "loss.warmup_steps=1", "loss.anchor=1", "data.crop_size_px=8"), r"at least 12 for loss\.anchor"),
        (("loss.global_structure=0", "loss.local_structure=0", "loss.gan=0", "mode=image"),
         r"all weights of losses are 0, and loss\.motion is for video mode; set one of them"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_each_other_are_one_line(settings: tuple[str, ...], message: str):
    with pytest.raises(ConfigError, match=message) as caught:
        resolved(*settings, name="roma")
    assert "\n" not in str(caught.value)


def test_the_shortest_crops_of_losses_are_those_that_their_code_takes():
    least = {item.name: rule.least_crop_px for item, _, rule in rules_of(preset("roma").loss) if rule.least_crop_px}
    judge = PatchDiscriminator()
    assert least == {"patch_gan": judge.min_side_px, "detail_gan": judge.min_side_px, "anchor": 12}
    judge(luma_details(torch.zeros(1, 3, judge.min_side_px, judge.min_side_px)))
    luma_details(torch.zeros(1, 3, 12, 12))  # crops are multiples of 4
    with pytest.raises(RuntimeError, match=r"[Pp]adding"):
        luma_details(torch.zeros(1, 3, 8, 8))


def test_what_no_loss_uses_need_not_fit():
    assert resolved("loss.window=40", "loss.region_sizes=[5]", name="tiny").loss.window == 40


@pytest.mark.parametrize("read", [resolve, resolve_pretrain])
def test_no_setting_takes_a_number_that_is_none_or_has_no_end(read: Callable[..., Any]):
    """Each number of both programs, one at a time."""
    how: dict[str, Any] = {"config_file": None} | ({"mode": None} if read is resolve else {})
    name = "tiny"
    tree = to_json(read(name, settings=(), **how))
    groups = {group: values for group, values in tree.items() if isinstance(values, dict)}
    names = [f"{group}.{inner}" for group, values in groups.items() for inner in values]
    names += [root for root in tree if root not in groups]
    assert {"seed", "batch_size", "data.max_bad"} <= set(names)
    for setting in names:
        for bad in ("NaN", "Infinity", "-Infinity", "-1", f"{2**40}"):
            try:
                config = read(name, settings=[f"{setting}={bad}"], **how)
            except ConfigError:
                continue
            taken = attrgetter(setting)(config)
            assert isinstance(taken, str) or (isinstance(taken, float) and taken == 2**40), (setting, bad)


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
