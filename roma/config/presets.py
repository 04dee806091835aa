"""The presets: `roma` is the published method, `roma-multi` the same for several GPUs, `tiny` minutes on a CPU.

`roma` has one window a step (arXiv 2204.12367), and needs `vit.weights`. `roma-multi` has 16, learning rates times 4 (the square
root), a warm-up of 500 steps, bf16. `tiny` departs from the paper in settings that are off in `roma` and whose fields say so:
128x128, a small U-Net; no ViT, no cross-similarity and no discriminator on tokens, but a warm-up that gives day frames their colour
back, then edges kept from the infrared, a discriminator on luma details beside an anchor for all else, higher learning rates,
averaged weights.
"""

from dataclasses import replace

from roma.config.schema import (
    DataConfig,
    GeneratorConfig,
    LossConfig,
    Mode,
    OptimConfig,
    OutputConfig,
    ScheduleConfig,
    TrainConfig,
    ViTConfig,
)
from roma.errors import ConfigError

_ROMA = TrainConfig(preset="roma")
_ROMA_MULTI = TrainConfig(
    preset="roma-multi",
    batch_size=16,
    precision="bf16",
    optim=OptimConfig(lr_scaling="sqrt"),
    schedule=ScheduleConfig(warmup_steps=500),
)
_TINY = TrainConfig(
    preset="tiny",
    batch_size=2,
    data=DataConfig(load_size_px=140, crop_size_px=128, flip=True),
    generator=GeneratorConfig(architecture="unet", width=16, num_blocks=2, init_gain=1.0, last_init_gain=0.02),
    vit=ViTConfig(weights="random", image_size=128, patch_size=8, width=128, depth=3, num_heads=4, layers=(0, 1, 2)),
    loss=LossConfig(
        global_structure=0.0,
        local_structure=0.0,
        motion=0.0,
        gan=0.0,
        num_windows=16,
        region_sizes=(2, 4, 8),
        similarity="self",
        centre_tokens=True,
        patch_gan_width=16,
        detail_gan=0.08,
        colourise=1.0,
        colourise_edges=2.0,
        matched_tones=1.0,
        edges=0.5,
        anchor=4.0,
        warmup_steps=700,
    ),
    optim=OptimConfig(generator_lr=1e-3, discriminator_lr=5e-4, ema_decay=0.99),
    schedule=ScheduleConfig(total_steps=1600),
    output=OutputConfig(log_every=50, sample_every=400, checkpoint_every=400),
)
PRESETS = {config.preset: config for config in (_ROMA, _ROMA_MULTI, _TINY)}
"""In video mode; the first is the default."""


def preset(name: str, *, mode: Mode = "video") -> TrainConfig:
    """Look up a preset; in image mode it mirrors windows, as the paper does.

    Raises:
        ConfigError: No preset has that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"no preset is called {name!r}; there are {', '.join(PRESETS)}")
    config = PRESETS[name]
    return replace(config, mode=mode, data=replace(config.data, flip=config.data.flip or mode == "image"))
