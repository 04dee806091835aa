"""Every setting of a training run, as one frozen tree; each field says what it does, its bounds, and whether it is in the paper."""

import math
from dataclasses import dataclass, field
from typing import Literal

from infraredcity.loader.order import shares_of
from roma.config.rules import Rule, check, rules_of, setting
from roma.errors import ConfigError

Mode = Literal["video", "image"]
Precision = Literal["fp32", "bf16"]
MOST_CROP_PX = 2048
"""The longest side of the squares that a translator is trained on."""


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
    fit: Literal["square", "crop"] = setting("square", in_paper=False)
    """How frames become pictures to train on: "square" squeezes them to `load_size_px`, the paper's way; "crop" cuts squares of
    `crop_size_px` out of them at their own scale, and translation then runs at that scale on whole frames."""
    scale_jitter: float = setting(0.0, least=0, most=0.5, in_paper=False)
    """For "crop": each window is scaled by a factor drawn from [1 - scale_jitter, 1 + scale_jitter]."""
    flip: bool = setting(False, in_paper="image")
    """Mirror windows at random; the paper does so in image mode only."""
    infrared_weights: tuple[float, ...] = setting((), above=0)
    """How often each entry of `infrared` is read beside the others; none: as often as it has windows."""
    visible_weights: tuple[float, ...] = setting((), above=0)
    """The same for `visible`."""
    on_bad: Literal["raise", "replace"] = "raise"
    """What a picture that cannot be read does: stop the run, or be replaced by another window, counted and reported."""
    max_bad: int = setting(100, least=0)
    """With "replace", how many unreadable pictures a process passes over before it stops after all."""
    tone: Literal["percentile", "minmax"] = "percentile"
    """How pictures of 16 bits become levels: one line for each clip, between the percentiles 0.5 and 99.5 of its counts or between
    the lowest and the highest."""
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
    """Its name in `roma.models.generators.build.GENERATORS`; "unet" sharpens within minutes on a CPU."""
    width: int = setting(64, least=1)
    """Channels of the first convolution."""
    num_blocks: int = setting(9, least=0)
    """Residual blocks of "resnet"; further convolutions at the smallest size of "unet"."""
    init_gain: float = setting(0.02, above=0)
    """Scale of the xavier-normal initial weights."""
    last_init_gain: float | None = setting(None, above=0, in_paper=False)
    """The same for the last convolution; None takes init_gain."""

    def __post_init__(self) -> None:
        check(self, "generator")


@dataclass(frozen=True, kw_only=True, slots=True)
class ViTConfig:
    """The frozen ViT whose tokens the losses compare."""

    weights: str = setting("", outside_paper=("random",), used_by="tokens")
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
    """What the weights were trained with: mean and standard deviation 0.5 (AugReg, SigLIP), or ImageNet's."""

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
    motion: float = setting(1.0, least=0, mode="video", weighs="tokens")
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
    """"self" compares each frame's tokens among themselves."""
    centre_tokens: bool = setting(False, in_paper=False, used_by=("global_structure", "local_structure", "motion"))
    """Subtract each frame's mean token before comparing."""
    patch_gan: float = setting(0.0, least=0, in_paper=False, weighs="frames", least_crop_px=24)
    """Weight of a convolutional discriminator on pixels."""
    detail_gan: float = setting(0.0, least=0, in_paper=False, weighs="frames", least_crop_px=24)
    """Weight of such a discriminator on the luma details of translations, without their colours."""
    patch_gan_width: int = setting(32, least=1)
    """Channels of the first convolution of both."""
    colourise: float = setting(0.0, least=0, in_paper=False, weighs="frames")
    """Weight of giving day frames that were turned into infrared-like gray their colour back, by L1."""
    colourise_edges: float = setting(0.0, least=0, in_paper=False, used_by=("colourise",))
    """Weight, inside `colourise`, of the L1 between differences of neighbouring pixels."""
    matched_tones: float = setting(0.0, least=0, most=1, in_paper=False, used_by=("colourise",))
    """Share of the frames of `colourise` whose gray follows tones learned from both domains, the others' tones being random; 0
    learns none."""
    edges: float = setting(0.0, least=0, in_paper=False, weighs="frames")
    """Weight of the edge loss: translations have edges where the infrared has them."""
    anchor: float = setting(0.0, least=0, in_paper=False, weighs="frames", least_crop_px=12)
    """Weight of translations keeping all but their luma details as at the end of the warm-up."""
    warmup_steps: int = setting(0, least=0, in_paper=False)
    """First steps that train only `colourise`."""

    def __post_init__(self) -> None:
        check(self, "loss")
        if self.anchor and not self.warmup_steps:
            raise ConfigError("loss.anchor keeps the colours of the warm-up, so loss.warmup_steps must be above 0")
        if self.warmup_steps and not self.colourise:
            raise ConfigError("loss.warmup_steps trains only colourise, so loss.colourise must be above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """Adam for generator and discriminators."""

    generator_lr: float = setting(1e-5, above=0, most=1e30)
    """Learning rate of the generator's Adam before the schedule scales it."""
    discriminator_lr: float = setting(1e-5, above=0, most=1e30)
    """Learning rate of the discriminators' Adam before the schedule scales it."""
    beta1: float = setting(0.5, least=0, below=1)
    """Adam's first decay."""
    beta2: float = setting(0.999, least=0, below=1)
    """Adam's second decay."""
    ema_decay: float = setting(0.0, least=0, below=1, in_paper=False)
    """Decay per step of the averaged generator that snapshots hold; 0 keeps the last weights."""
    lr_scaling: Literal["none", "sqrt", "linear"] = setting("none", in_paper=False)
    """How both learning rates grow with batch_size / base_batch_size. Adam's noise asks for "sqrt" (Malladi et al. 2022, arXiv
    2205.10287). The paper's batch is 1."""
    base_batch_size: int = setting(1, least=1)
    """The batch size for which generator_lr and discriminator_lr are meant."""
    clip_norm: float = setting(0.0, least=0, in_paper=False)
    """Gradient clipping: largest total norm, of the generator and of the discriminators separately; 0 clips nothing."""

    def __post_init__(self) -> None:
        check(self, "optim")

    def lr_scale(self, batch_size: int) -> float:
        """Return what both learning rates are multiplied with at a batch size."""
        ratio = batch_size / self.base_batch_size
        return {"none": 1.0, "sqrt": math.sqrt(ratio), "linear": ratio}[self.lr_scaling]


@dataclass(frozen=True, kw_only=True, slots=True)
class ComputeConfig:
    """How a step is computed. Results differ only in rounding, so a run may go on with other values of this group."""

    micro_batch: int = setting(0, least=0)
    """Gradient accumulation: at most this many windows per rank and forward pass; 0 computes all at once. Saves memory, costs about
    12 % of time."""
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
    """Train this many steps instead, split between constant and decay in the same proportion."""
    warmup_steps: int = setting(0, least=0, in_paper=False)
    """First steps, part of the constant ones, over which the learning rate rises linearly from near 0."""
    decay_crop: Literal["none", "random"] = setting("none", in_paper=False)
    """What steps of the decay see: "none", whole frames brought to `data.crop_size_px`, as they are translated; "random", squares
    as before."""

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
        used = self._losses()
        if not used:
            only = ", and loss.motion is for video mode" if loss.motion else ""
            raise ConfigError(f"all weights of losses are 0{only}; set one of them, such as loss.global_structure=5")
        if loss.local_structure:
            _require(loss.window <= grid, "loss.window", f"at most the {grid} tokens of the ViT's side", loss.window)
        if loss.gan:
            divide = all(grid % size == 0 for size in loss.region_sizes)
            _require(
                divide, "loss.region_sizes", f"divisors of the {grid} tokens of the ViT's side", list(loss.region_sizes)
            )
        for name, rule in used.items():
            least = rule.least_crop_px
            _require(side >= least, "data.crop_size_px", f"at least {least} for loss.{name}", side)

    @property
    def needs_vit(self) -> bool:
        """Whether any loss looks at tokens."""
        return any(rule.weighs == "tokens" for rule in self._losses().values())

    @property
    def has_motion(self) -> bool:
        """Whether the temporal term is one of the losses."""
        return "motion" in self._losses()

    def uses(self, rule: Rule) -> bool:
        """Whether a setting of this rule matters, as far as that depends on weights of losses."""
        if rule.used_by == "tokens":
            return self.needs_vit
        return not rule.used_by or any(getattr(self.loss, name) for name in rule.used_by)

    def _losses(self) -> dict[str, Rule]:
        """Return the rules of the losses that the run has, by the names of their weights."""
        return {
            item.name: rule
            for item, value, rule in rules_of(self.loss)
            if rule.weighs is not None and value and rule.mode in (None, self.mode)
        }

    @property
    def window_frames(self) -> int:
        """T: frames of a training window."""
        return 2 if self.mode == "video" else 1


def _require_multiple(value: int, of: int, name: str, of_name: str) -> None:
    _require(value % of == 0, name, f"a multiple of {of_name} {of}", value)


def _require(holds: bool, name: str, expected: str, found: object) -> None:
    if not holds:
        raise ConfigError(f"{name} must be {expected}, got {found}")
