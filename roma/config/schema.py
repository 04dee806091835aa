"""Everything that shapes a training run, as one frozen tree. Three sources, later wins: preset < config file < `--set`.

Three presets: `roma` is the method as published (arXiv 2204.12367), one window a step. `roma-multi` is the same method with larger
batches for several GPUs. `tiny` learns something on a CPU in minutes without pretrained weights; it departs from the paper in the
options whose docstrings say "not in the paper", all of them off in `roma`.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from infraredcity.files.records import parse_json, read_json
from infraredcity.files.remote import is_remote, shown
from infraredcity.loader.order import shares_of
from roma.config.rules import check, rules_of, setting
from roma.errors import ConfigError

Mode = Literal["video", "image"]
Precision = Literal["fp32", "bf16"]
_Config = TypeVar("_Config")
MOST_CROP_PX = 2048
"""The longest side of the squares that a translator is trained on."""
_OF_A_RUN = frozenset({"preset", "mode", "data", "generator", "vit", "loss", "optim", "schedule", "output"})
"""What the config of a run names, and a file of a few settings does not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """What is read and how it is cut."""

    infrared: tuple[str, ...] = ()
    """Shards or folders of pictures of the infrared domain, or patterns of either."""
    visible: tuple[str, ...] = ()
    """The same of the day visible domain."""
    stride: int = setting(1, least=1)
    """Samples from one frame of a pair to the next."""
    load_size_px: int = setting(286, least=8)
    """Frames are first brought to this side length."""
    crop_size_px: int = setting(256, least=8, most=MOST_CROP_PX)
    """Then a square of this side is cut out, at one random place for all frames of a window, unless `schedule.decay_crop` says
    otherwise. A multiple of 4."""
    flip: bool = False
    """Mirror windows at random; the paper does so in image mode only."""
    infrared_weights: tuple[float, ...] = setting((), above=0)
    """How often each entry of `infrared` is read beside the others; none: as often as it has windows."""
    visible_weights: tuple[float, ...] = setting((), above=0)
    """The same for `visible`."""
    on_bad: Literal["raise", "replace"] = "raise"
    """What a picture that cannot be read does: stop the run, or be replaced by another window, counted and reported."""
    max_bad: int = setting(100, least=0)
    """With "replace", how many unreadable pictures a process passes over before it stops after all."""
    held_out: tuple[str, ...] = ()
    """Shards or pictures of infrared frames that are not trained on, for sample grids and for choosing the best checkpoint."""

    def __post_init__(self) -> None:
        check(self, "data")
        for name, sources in (("infrared_weights", self.infrared), ("visible_weights", self.visible)):
            weights = getattr(self, name)
            if weights and len(weights) != len(sources):
                raise ConfigError(
                    f"data.{name} must be one positive weight for each of the {len(sources)} sources, got {list(weights)}"
                )
            try:
                shares_of(weights)
            except ValueError as error:
                raise ConfigError(f"data.{name}: {error}") from error
        _require(self.crop_size_px % 4 == 0, "data.crop_size_px", "a multiple of 4, at least 8", self.crop_size_px)
        _require(
            self.load_size_px >= self.crop_size_px,
            "data.load_size_px",
            f"at least crop_size_px {self.crop_size_px}",
            self.load_size_px,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorConfig:
    """The translator."""

    architecture: str = setting("resnet", in_paper=False)
    """Its name in `roma.models.generators.build.GENERATORS`; "unet" sharpens within minutes on a CPU. Not in the paper."""
    width: int = setting(64, least=1)
    """Channels of the first convolution."""
    num_blocks: int = setting(9, least=0)
    """Residual blocks of "resnet"; further convolutions at the smallest size of "unet"."""
    init_gain: float = setting(0.02, above=0)
    """Scale of the xavier-normal initial weights."""
    last_init_gain: float | None = setting(None, above=0, in_paper=False)
    """The same for the last convolution; None takes init_gain. Not in the paper."""

    def __post_init__(self) -> None:
        check(self, "generator")


@dataclass(frozen=True, kw_only=True, slots=True)
class ViTConfig:
    """The frozen ViT whose tokens the losses compare."""

    weights: str = ""
    """Path of a weight file or of the folder of model.safetensors, "hub" to download the published ones, "hub:NAME" for others, or
    "random"."""
    image_size: int = setting(384, least=1)
    """Side to which frames are resized for it, in pixels; a multiple of `patch_size`."""
    patch_size: int = setting(16, least=1)
    """Side of a patch in pixels."""
    width: int = setting(768, least=1)
    """Width of a token; a multiple of `num_heads`."""
    depth: int = setting(12, least=1)
    """Blocks of the whole network."""
    num_heads: int = setting(12, least=1)
    """Attention heads."""
    layers: tuple[int, ...] = setting((1, 3, 5), least=0)
    """0-based blocks whose outputs are compared, rising."""
    num_prefix_tokens: Literal[0, 1] = 1
    """1: with a class token (AugReg). 0: without one (SigLIP)."""
    normalisation: Literal["half", "imagenet"] = "half"
    """What the weights were trained with: mean = deviation = 0.5 (AugReg, SigLIP), or ImageNet's means and deviations."""

    def __post_init__(self) -> None:
        check(self, "vit")
        _require_multiple(self.image_size, self.patch_size, "vit.image_size", "vit.patch_size")
        _require_multiple(self.width, self.num_heads, "vit.width", "vit.num_heads")
        rising = bool(self.layers) and list(self.layers) == sorted(set(self.layers)) and self.layers[-1] < self.depth
        _require(rising, "vit.layers", f"rising block numbers from 0 to {self.depth - 1}", list(self.layers))

    @property
    def grid_side(self) -> int:
        """Patch tokens in a row, and in a column."""
        return self.image_size // self.patch_size


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Weights and forms of the losses; a weight of 0 leaves the term and its computation out."""

    global_structure: float = setting(5.0, least=0, weighs="tokens")
    """lambda_global: similarity of whole-frame tokens."""
    local_structure: float = setting(5.0, least=0, weighs="tokens")
    """lambda_local: similarity of window tokens."""
    motion: float = setting(1.0, least=0, weighs="tokens")
    """lambda_motion: the temporal term; video mode only."""
    gan: float = setting(1.0, least=0, weighs="tokens")
    """lambda_GAN: the discriminator on region tokens."""
    num_windows: int = setting(64, least=1)
    """Window centres drawn per step, K."""
    window: int = setting(7, least=1)
    """Side of a window in tokens."""
    region_sizes: tuple[int, ...] = setting((2, 4, 6, 8, 12), least=1)
    """Sides of the pooled regions that the discriminator sees, in tokens; they divide the grid of tokens."""
    reference_pooling: bool = False
    """Repeat the authors' code, whose regions are one row too tall."""
    reference_temporal: bool = False
    """Repeat the authors' code, which sums the temporal term over layers and never applies its weight."""
    similarity: Literal["cross", "self"] = setting(
        "cross", in_paper=False, used_by=("global_structure", "local_structure")
    )
    """"self" compares each frame's tokens among themselves. Not in the paper."""
    centre_tokens: bool = setting(False, in_paper=False, used_by=("global_structure", "local_structure", "motion"))
    """Subtract each frame's mean token before comparing. Not in the paper."""
    patch_gan: float = setting(0.0, least=0, in_paper=False, weighs="frames")
    """Weight of a convolutional discriminator on pixels. Not in the paper."""
    detail_gan: float = setting(0.0, least=0, in_paper=False, weighs="frames")
    """Weight of such a discriminator on the luma details of translations, without their colours. Not in the paper."""
    patch_gan_width: int = setting(32, least=1)
    """Channels of the first convolution of both."""
    colourise: float = setting(0.0, least=0, in_paper=False, weighs="frames")
    """Weight of giving day frames that were turned into infrared-like gray their colour back, by L1. Not in the paper."""
    colourise_edges: float = setting(0.0, least=0, in_paper=False, used_by=("colourise",))
    """Weight, inside `colourise`, of the L1 between differences of neighbouring pixels. Not in the paper."""
    matched_tones: float = setting(0.0, least=0, most=1, in_paper=False, used_by=("colourise",))
    """Share of the frames of `colourise` whose gray follows tones learned from both domains, the others' tones being random; 0
    learns none. Not in the paper."""
    edges: float = setting(0.0, least=0, in_paper=False, weighs="frames")
    """Weight of borders where the infrared has them. Not in the paper."""
    anchor: float = setting(0.0, least=0, in_paper=False, weighs="frames")
    """Weight of translations keeping all but their luma details as at the end of the warm-up. Not in the paper."""
    warmup_steps: int = setting(0, least=0, in_paper=False)
    """First steps that train nothing but `colourise`. Not in the paper."""

    def __post_init__(self) -> None:
        check(self, "loss")
        if self.anchor and not self.warmup_steps:
            raise ConfigError("loss.anchor keeps the colours of the warm-up, so loss.warmup_steps must be above 0")
        if self.warmup_steps and not self.colourise:
            raise ConfigError("loss.warmup_steps trains colourise alone, so loss.colourise must be above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """Adam for generator and discriminators."""

    generator_lr: float = setting(1e-5, above=0, most=1e30)
    """Step size of the generator's Adam before the schedule scales it."""
    discriminator_lr: float = setting(1e-5, above=0, most=1e30)
    """Step size of the discriminators' Adam before the schedule scales it."""
    beta1: float = setting(0.5, least=0, below=1)
    """Adam's first decay."""
    beta2: float = setting(0.999, least=0, below=1)
    """Adam's second decay."""
    ema_decay: float = setting(0.0, least=0, below=1, in_paper=False)
    """Decay per step of the averaged generator that snapshots hold; 0 keeps the last weights. Not in the paper."""
    lr_scaling: Literal["none", "sqrt", "linear"] = setting("none", in_paper=False)
    """How both learning rates grow with batch_size / base_batch_size. Adam's noise asks for "sqrt" (Malladi et al. 2022, arXiv
    2205.10287). Not in the paper, whose batch is 1."""
    base_batch_size: int = setting(1, least=1)
    """The batch size for which generator_lr and discriminator_lr are meant."""
    clip_norm: float = setting(0.0, least=0, in_paper=False)
    """Scale gradients down to this norm, the generator's and the discriminators' apart; 0 never does. Not in the paper."""

    def __post_init__(self) -> None:
        check(self, "optim")

    def lr_scale(self, batch_size: int) -> float:
        """What both learning rates are multiplied with at a batch size."""
        ratio = batch_size / self.base_batch_size
        return {"none": 1.0, "sqrt": math.sqrt(ratio), "linear": ratio}[self.lr_scaling]


@dataclass(frozen=True, kw_only=True, slots=True)
class ComputeConfig:
    """How a step is computed. Results differ in rounding alone, so a run may go on with other values of this group."""

    micro_batch: int = setting(0, least=0)
    """Windows of a rank that are computed at once; 0 takes all of its share. Less memory, about an eighth more time."""
    window_chunk: int | None = setting(None, least=0)
    """Local windows whose activations are held at once; 0 holds all. None: as many as suit a CPU's caches, all on a GPU."""
    shared_windows: bool = True
    """Compute windows that came out equal at a border once. Off in a compiled step, whose shapes are fixed."""
    compile: bool = False
    """Compile the networks with torch.compile, on CUDA with its graphs. The first step takes a minute or more."""
    deterministic: bool = False
    """Let torch raise where an operation would not give the same bits again. On a CPU a run is exact without it."""

    def __post_init__(self) -> None:
        check(self, "compute")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """How long, and how the learning rate falls: constant, then linearly to zero."""

    constant_epochs: int = setting(100, least=0)
    """Epochs at the full rate; an epoch is ceil(max windows of a domain / batch)."""
    decay_epochs: int = setting(100, least=0)
    """Epochs of linear decay."""
    total_steps: int | None = setting(None, least=1)
    """Train so many steps instead, split between constant and decay in the same proportion."""
    warmup_steps: int = setting(0, least=0, in_paper=False)
    """First steps, part of the constant ones, over which the learning rate rises linearly from near 0. Not in the paper."""
    decay_crop: Literal["none", "random"] = setting("none", in_paper=False)
    """What steps of the decay see: "none", whole frames brought to `data.crop_size_px`, as they are translated; "random", squares
    as before. "random" is not in the paper."""

    def __post_init__(self) -> None:
        check(self, "schedule")
        epochs = (self.constant_epochs, self.decay_epochs)
        _require(any(epochs), "schedule.constant_epochs and schedule.decay_epochs", "not both 0", list(epochs))


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputConfig:
    """What a run writes, and how often, in steps."""

    log_every: int = setting(50, least=1)
    """Steps between lines of metrics.jsonl."""
    sample_every: int = setting(1000, least=1)
    """Steps between sample grids."""
    checkpoint_every: int = setting(1000, least=1)
    """Steps between checkpoints."""
    keep_checkpoints: int = setting(2, least=1)
    """Newest checkpoints that are kept, beside the best one."""
    best_by: str = "held_out_distance"
    """The held-out number, smaller being better, by which the best checkpoint is chosen; "" keeps none."""
    wandb: str = ""
    """Project of Weights & Biases that gets the numbers and grids too; "" sends nothing."""

    def __post_init__(self) -> None:
        check(self, "output")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """A whole training run."""

    preset: str = "roma"
    """The preset it began from."""
    mode: Mode = "video"
    """"video" trains on pairs of neighbouring frames, "image" on single frames without the temporal term."""
    seed: int = setting(0, least=0)
    """Everything random follows from it and the step."""
    batch_size: int = setting(1, least=1)
    """Windows per step over all ranks together."""
    precision: Precision = "fp32"
    """"bf16" runs the networks under autocast; losses stay fp32."""
    data: DataConfig = field(default_factory=DataConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    vit: ViTConfig = field(default_factory=ViTConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    output: OutputConfig = field(default_factory=OutputConfig)

    def __post_init__(self) -> None:
        check(self, "")
        self._check_losses()

    def _check_losses(self) -> None:
        """Refuse losses that the run's ViT or its crops cannot have, and a run without any."""
        loss, grid, side = self.loss, self.vit.grid_side, self.data.crop_size_px
        if not self._has_loss("tokens") and not self._has_loss("frames"):
            alone = ", and loss.motion is for video mode" if loss.motion else ""
            raise ConfigError(f"all weights of losses are 0{alone}; set one of them, such as loss.global_structure=5")
        if loss.local_structure:
            _require(loss.window <= grid, "loss.window", f"at most the {grid} tokens of the ViT's side", loss.window)
        if loss.gan:
            divide = all(grid % size == 0 for size in loss.region_sizes)
            _require(
                divide, "loss.region_sizes", f"divisors of the {grid} tokens of the ViT's side", list(loss.region_sizes)
            )
        if loss.patch_gan or loss.detail_gan:
            _require(side >= 24, "data.crop_size_px", "at least 24 for loss.patch_gan and loss.detail_gan", side)
        if loss.anchor:
            _require(side >= 12, "data.crop_size_px", "at least 12 for loss.anchor", side)

    @property
    def needs_vit(self) -> bool:
        """Whether any loss looks at tokens."""
        return self._has_loss("tokens")

    @property
    def has_motion(self) -> bool:
        """Whether the temporal term is one of the losses."""
        return bool(self.loss.motion) and self.mode == "video"

    def _has_loss(self, looks_at: Literal["tokens", "frames"]) -> bool:
        """Whether any loss has a weight, of those that look at tokens or at frames only; the temporal one counts in video mode."""
        return any(
            value and (item.name != "motion" or self.has_motion)
            for item, value, rule in rules_of(self.loss)
            if rule.weighs == looks_at
        )

    @property
    def window_frames(self) -> int:
        """T: frames of a training window."""
        return 2 if self.mode == "video" else 1


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
    raise ConfigError(f"no preset is called {name!r}; there are roma, roma-multi and tiny")


def resolve(
    preset_name: str | None, *, mode: Mode | None, config_file: Path | None, settings: Sequence[str]
) -> TrainConfig:
    """The config of a run: preset, then file, then `--set key=value`.

    A config file that names a preset starts from that one unless `preset_name` is given. The mode shapes the preset, wherever it is
    said: `--set mode=image` wins over `mode`, and both over the file.

    Raises:
        ConfigError: A name is unknown or a value cannot be used; the message says which.
    """
    from_file = _as_it_ran(read_settings(config_file))
    over = merged_settings({} if mode is None else {"mode": mode}, settings)
    chosen = _converted(Mode, over.get("mode", from_file.get("mode", "video")), "mode")
    base = preset(preset_name or str(from_file.get("preset", "roma")), mode=chosen)
    return overlaid(base, from_file, over, config_file=config_file)


def read_settings(config_file: Path | None) -> Mapping[str, Any]:
    """The settings of a config file; none without a file.

    Raises:
        ConfigError: The file is missing or holds no JSON object.
    """
    if config_file is None:
        return {}
    try:
        from_file = read_json(config_file)
    except FileNotFoundError as error:
        raise ConfigError(f"{config_file}: no such file") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{config_file}: not JSON that can be read ({error})") from error
    if not isinstance(from_file, dict):
        raise ConfigError(f"{config_file}: expected one JSON object of settings")
    return from_file


def overlaid(
    base: _Config, from_file: Mapping[str, Any], over: Mapping[str, Any], *, config_file: Path | None
) -> _Config:
    """A preset's config under the settings of a file, and those of `merged_settings`; the preset's name stays.

    Raises:
        ConfigError: A name is unknown or a value cannot be used; the message says which.
    """
    # All values are merged before any is checked, since a check may span two of them (load_size_px, crop_size_px).
    merged = _merged({name: value for name, value in from_file.items() if name != "preset"}, over)
    return updated(base, merged, where="" if config_file is None else f"{config_file} and --set: ")


def merged_settings(below: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """Settings written as name=value in one tree, over those of another; the last of a name wins.

    Raises:
        ConfigError: One is not of that form, or names the preset, which is chosen before any setting.
    """
    merged = dict(below)
    for written in settings:
        name, equals, text = written.partition("=")
        if not equals or is_remote(written):
            raise ConfigError(f"--set {without_secrets(written)}: expected name=value, such as optim.generator_lr=1e-4")
        if name.strip() == "preset":
            raise ConfigError(f"--set {written}: a preset is chosen with --preset {text.strip()}")
        nested: Any = _parsed(text)
        for part in reversed(name.strip().split(".")):
            nested = {part: nested}
        merged = _merged(merged, nested)
    return merged


def to_json(config: Any) -> dict[str, Any]:
    """Plain values of any config tree; `from_json` reads those of a TrainConfig back, `updated` any.

    All that shows, stores, sends or compares settings takes them from here: URLs come without password, token and query.
    """
    plain: dict[str, Any] = without_secrets(json.loads(json.dumps(dataclasses.asdict(config))))
    return plain


def without_secrets(values: Any) -> Any:
    """The same text, list or tree of plain values, each URL in it as messages show it: without password, token and query."""
    if isinstance(values, str):
        return shown(values) if is_remote(values) else values
    if isinstance(values, Mapping):
        return {name: without_secrets(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return type(values)(without_secrets(value) for value in values)
    return values


def from_json(values: Mapping[str, Any], *, where: str) -> TrainConfig:
    """The config that `to_json` wrote; ConfigError begins with `where`."""
    return updated(TrainConfig(), _as_it_ran(values), where=f"{where}: ")


def _as_it_ran(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config of a run, also of one from before there was `schedule.decay_crop`, which cut random squares to its end."""
    schedule = values.get("schedule")
    if not values.keys() >= _OF_A_RUN or not isinstance(schedule, Mapping):
        return values
    return {**values, "schedule": {"decay_crop": "random", **schedule}}


def departures(config: TrainConfig) -> list[str]:
    """The settings by which a run departs from the published method in kind, not in size, as "loss.patch_gan 1.0".

    They are those whose field says so (`roma.config.rules`), mirrored windows in video mode or none in image mode, and random
    weights of the ViT.
    """
    now = to_json(config)
    found: list[str] = []
    if config.data.flip != (config.mode == "image"):
        found.append(f"data.flip {config.data.flip}")
    for item in fields(config):
        group = getattr(config, item.name)
        if not is_dataclass(group):
            continue
        for inner, value, rule in rules_of(group):
            is_used = not rule.used_by or any(getattr(group, name) for name in rule.used_by)
            is_in_mode = inner.name != "motion" or config.mode == "video"
            is_left_out = rule.weighs and rule.in_paper and is_in_mode and not value
            if is_left_out or (not rule.in_paper and is_used and value != inner.default):
                found.append(f"{item.name}.{inner.name} {now[item.name][inner.name]}")
    if config.vit.weights == "random" and config.needs_vit:
        found.append("vit.weights random")
    return found


def differences(before: _Config, now: _Config) -> list[str]:
    """What differs, as "loss.gan 1.0 -> 0.5"."""
    return _differences(to_json(before), to_json(now), "")


def _differences(before: Any, now: Any, name: str) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        found = []
        for key in sorted({*before, *now}):
            found += _differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
        return found
    return [] if before == now else [f"{name} {_as_set(before)} -> {_as_set(now)}"]


def _as_set(value: Any) -> str:
    """A value as --set takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings, those of `above` winning."""
    merged = dict(below)
    for name, value in above.items():
        before = merged.get(name)
        merged[name] = _merged(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return merged


def _parsed(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return text


def updated(config: _Config, values: Mapping[str, Any], *, where: str, prefix: str = "") -> _Config:
    """A config tree with some of its settings changed; ConfigError begins with `where` and names the setting."""
    hints = typing.get_type_hints(type(config))
    known = {item.name for item in fields(config)}  # type: ignore[arg-type]  # every _Config is a dataclass
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"{where}no setting is called {prefix}{name}; there are {', '.join(sorted(known))}")
        current = getattr(config, name)
        if is_dataclass(current):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{where}{prefix}{name} is a group of settings, got {without_secrets(value)!r}")
            changes[name] = updated(current, value, where=where, prefix=f"{prefix}{name}.")
        else:
            changes[name] = _converted(hints[name], value, f"{where}{prefix}{name}")
    try:
        return replace(config, **changes)  # type: ignore[type-var]  # every _Config is a dataclass
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from error


def _converted(hint: Any, value: Any, where: str) -> Any:
    """`value` as the field's type, or ConfigError; numbers are not cut and text is not guessed at."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        return _converted(next(option for option in options if option is not type(None)), value, where)
    if origin is Literal:
        if value in typing.get_args(hint):
            return value
        raise ConfigError(
            f"{where} must be one of {', '.join(map(str, typing.get_args(hint)))}, got {without_secrets(value)!r}"
        )
    if origin is tuple:
        item = typing.get_args(hint)[0]
        if isinstance(value, str) and item is str:
            return (value,)
        if isinstance(value, list | tuple):
            return tuple(_converted(item, each, where) for each in value)
        raise ConfigError(f"{where} must be a list, got {without_secrets(value)!r}")
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise ConfigError(f"{where} must be a finite number, got one of more than 308 digits") from error
    if hint is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if type(value) is hint:
        return value
    raise ConfigError(f"{where} must be {hint.__name__}, got {without_secrets(value)!r}")


def _require_multiple(value: int, of: int, name: str, of_name: str) -> None:
    _require(value % of == 0, name, f"a multiple of {of_name} {of}", value)


def _require(holds: bool, name: str, expected: str, found: object) -> None:
    if not holds:
        raise ConfigError(f"{name} must be {expected}, got {found}")
