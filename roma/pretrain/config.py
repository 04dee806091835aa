"""Everything that shapes a pretraining run, as one frozen tree; read as `roma.config.schema` reads that of a training.

Two presets: `base` is ViT-B/16 at 384 pixels with the paper's hyper-parameters (He et al. 2021, arXiv 2111.06377, appendix A.1),
for a GPU, on frames at the scale of the training preset roma, whose crops are 256 of 286. `tiny` makes the ViT of the training
preset tiny from its crops, with a decoder of two small blocks, on a CPU in about a minute.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from roma.config.overlay import merged_settings, overlaid, read_settings
from roma.config.presets import PRESETS as TRAIN_PRESETS
from roma.config.rules import check, setting
from roma.config.schema import DataConfig, OutputConfig, Precision
from roma.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """The ViT that is trained, under the names that `roma train` has for it."""

    image_size: int = setting(384, least=1)
    """Side of its pictures in pixels; equal to data.crop_size_px, a multiple of `patch_size`."""
    patch_size: int = setting(16, least=1)
    """Side of a patch in pixels."""
    width: int = setting(768, least=4)
    """Width of a token, a multiple of 4 and of `num_heads`."""
    depth: int = setting(12, least=1)
    """Blocks; all are trained."""
    num_heads: int = setting(12, least=1)
    """Attention heads."""

    def __post_init__(self) -> None:
        check(self, "vit")
        if self.image_size % self.patch_size:
            raise ConfigError(
                f"vit.image_size must be a multiple of vit.patch_size {self.patch_size}, got {self.image_size}"
            )
        if self.image_size == self.patch_size:
            raise ConfigError(
                f"vit.patch_size must be at most half of vit.image_size, since patches are painted from others, "
                f"got {self.patch_size} of {self.image_size}"
            )
        _check_width(self.width, self.num_heads, "vit")


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderConfig:
    """What paints the masked patches, and is left behind after the training."""

    width: int = setting(512, least=4)
    """Width of a token, a multiple of 4 and of `num_heads`."""
    depth: int = setting(8, least=1)
    """Blocks."""
    num_heads: int = setting(16, least=1)
    """Attention heads."""

    def __post_init__(self) -> None:
        check(self, "decoder")
        _check_width(self.width, self.num_heads, "decoder")


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainOptimConfig:
    """AdamW; biases, norms, learned tokens and positions do not decay."""

    base_lr: float = setting(1.5e-4, above=0, most=1e30)
    """Peak learning rate at 256 pictures a step; it is scaled linearly with the pictures of a step."""
    weight_decay: float = setting(0.05, least=0)
    """Decay of the weights per step, times the learning rate."""
    beta1: float = setting(0.9, least=0, below=1)
    """Adam's first decay."""
    beta2: float = setting(0.95, least=0, below=1)
    """Adam's second decay."""

    def __post_init__(self) -> None:
        check(self, "optim")


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainScheduleConfig:
    """How long, and how the learning rate goes: linearly up, then down half a cosine to zero."""

    epochs: int = setting(800, least=1)
    """Epochs; an epoch is ceil(max frames of a domain / batch)."""
    total_steps: int | None = setting(None, least=1)
    """Train this many steps instead."""
    warmup_share: float = setting(0.05, least=0, below=1)
    """Share of the steps in which the learning rate rises."""

    def __post_init__(self) -> None:
        check(self, "schedule")


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig:
    """A whole pretraining run; the defaults are the preset `base`."""

    preset: str = "base"
    """The preset it began from."""
    seed: int = setting(0, least=0)
    """Everything random follows from it and the step."""
    batch_size: int = setting(128, least=1)
    """Pictures of each domain per step over all ranks together; a step takes twice as many."""
    precision: Precision = "bf16"
    """"bf16" runs the networks under autocast; the loss stays fp32."""
    mask_share: float = setting(0.75, above=0, below=1)
    """Share of a picture's patches that the encoder does not see and the decoder paints."""
    normalise_pixels: bool = False
    """Compare patches brought to mean 0 and variance 1. The paper's best, but most of every token is then one common vector."""
    tone_jitter: float = setting(0.5, least=0, most=1)
    """Share of pictures of both domains that are turned into infrared-like gray with random tones (`roma.data.thermal.degrade`)
    before anything else, so that the encoder learns shapes rather than tones. 0 is the paper's way."""
    data: DataConfig = field(default_factory=lambda: DataConfig(load_size_px=429, crop_size_px=384, flip=True))
    vit: EncoderConfig = field(default_factory=EncoderConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    optim: PretrainOptimConfig = field(default_factory=PretrainOptimConfig)
    schedule: PretrainScheduleConfig = field(default_factory=PretrainScheduleConfig)
    output: OutputConfig = field(default_factory=OutputConfig)

    def __post_init__(self) -> None:
        check(self, "")
        if self.data.fit != "square":
            raise ConfigError(f'data.fit must be "square" in pretraining, got {self.data.fit!r}')
        if self.data.held_out or self.output.best_by != OutputConfig().best_by:
            raise ConfigError(
                "data.held_out and output.best_by are for roma train; roma pretrain keeps its last encoder"
            )
        if self.data.crop_size_px != self.vit.image_size:
            raise ConfigError(
                f"data.crop_size_px must equal vit.image_size {self.vit.image_size}, since the encoder gets the crop as it is, "
                f"got {self.data.crop_size_px}"
            )

    @property
    def images_per_step(self) -> int:
        """Pictures of both domains in a step, over all ranks together."""
        return 2 * self.batch_size

    @property
    def peak_lr(self) -> float:
        """The largest learning rate of the run: linear in the batch, arXiv 2111.06377, appendix A.1."""
        return self.optim.base_lr * self.images_per_step / 256


def _check_width(width: int, num_heads: int, group: str) -> None:
    """Refuse a width that does not suit positions, which are sines in four parts, and heads, which have a share each."""
    if width % 4 or width % num_heads:
        raise ConfigError(f"{group}.width must be a multiple of 4 and of {group}.num_heads {num_heads}, got {width}")


_TRAINED = TRAIN_PRESETS["tiny"]
_TINY = PretrainConfig(
    preset="tiny",
    batch_size=4,
    precision="fp32",
    data=_TRAINED.data,
    vit=EncoderConfig(**{item.name: getattr(_TRAINED.vit, item.name) for item in fields(EncoderConfig)}),
    decoder=DecoderConfig(width=64, depth=2, num_heads=4),
    optim=PretrainOptimConfig(base_lr=2.4e-2),
    schedule=PretrainScheduleConfig(total_steps=1200, warmup_share=0.1),
    output=OutputConfig(log_every=50, sample_every=400, checkpoint_every=400),
)
PRESETS = {config.preset: config for config in (PretrainConfig(), _TINY)}
"""The first is the default."""


def preset(name: str) -> PretrainConfig:
    """Look up a preset.

    Raises:
        ConfigError: No preset has that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"no preset of roma pretrain is called {name!r}; there are {' and '.join(PRESETS)}")
    return PRESETS[name]


def resolve(preset_name: str | None, *, config_file: Path | None, settings: Sequence[str]) -> PretrainConfig:
    """Make the config of a run: preset, then file, then `--set key=value`, as `roma.config.overlay.resolve` does it.

    Raises:
        ConfigError: A name is unknown or a value cannot be used; the message says which.
    """
    from_file = read_settings(config_file)
    base = preset(preset_name or str(from_file.get("preset", "base")))
    return overlaid(base, from_file, merged_settings({}, settings), config_file=config_file)
