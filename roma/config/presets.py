"""The presets: `roma` is the published method, `roma-multi` the same for several GPUs, `tiny` minutes on a CPU.

`roma` has one window a step (arXiv 2204.12367). `roma-multi` has larger batches. `tiny` needs no pretrained weights; it
departs from the paper in settings that are off in `roma` and whose fields say so.
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

PRESETS = ("roma", "roma-multi", "tiny")


def preset(name: str, *, mode: Mode = "video") -> TrainConfig:
    """A preset by name.

    `roma`: the published method and hyper-parameters; flips in image mode only; needs `vit.weights`.
    `roma-multi`: the same with 16 windows a step, learning rates times 4 (the square root), a warm-up of 500 steps, bf16.
    `tiny`: 128x128, a small U-Net; no ViT, no cross-similarity and no discriminator on tokens, but a warm-up that gives day frames
    their colour back, then edges kept from the infrared, a discriminator on luma details beside an anchor for all else, higher
    learning rates, averaged weights.

    Raises:
        ConfigError: No preset has that name.
    """
    if name == "roma":
        return TrainConfig(preset=name, mode=mode, data=DataConfig(flip=mode == "image"))
    if name == "roma-multi":
        return replace(
            preset("roma", mode=mode),
            preset=name,
            batch_size=16,
            precision="bf16",
            optim=OptimConfig(lr_scaling="sqrt"),
            schedule=ScheduleConfig(warmup_steps=500),
        )
    if name == "tiny":
        return TrainConfig(
            preset=name,
            mode=mode,
            batch_size=2,
            data=DataConfig(load_size_px=140, crop_size_px=128, flip=True),
            generator=GeneratorConfig(architecture="unet", width=16, num_blocks=2, init_gain=1.0, last_init_gain=0.02),
            vit=ViTConfig(
                weights="random", image_size=128, patch_size=8, width=128, depth=3, num_heads=4, layers=(0, 1, 2)
            ),
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
    raise ConfigError(f"no preset is called {name!r}; there are {', '.join(PRESETS)}")
