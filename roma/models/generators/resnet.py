"""The translator: a residual network from a night infrared frame to a day visible frame of the same size."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from roma.models.generators.generator import Generator
from roma.models.initialise import Scheme, initialise


class ReflectionPad(nn.Module):
    """A border of `border_px` pixels that mirrors the frame without repeating its edge."""

    def __init__(self, border_px: int) -> None:
        super().__init__()
        self.border_px = border_px

    def forward(
        self, features: Float[Tensor, "N C H W"]
    ) -> Float[Tensor, "N C H+2*{self.border_px} W+2*{self.border_px}"]:
        """Add the mirrored border to features."""
        # On CUDA the backward of torch's padding adds in any order, and raises with deterministic algorithms on
        # (pytorch/pytorch#98208).
        if features.is_cuda and torch.are_deterministic_algorithms_enabled():
            return reflect_by_slices(features, self.border_px)
        return F.pad(features, (self.border_px,) * 4, mode="reflect")


def reflect_by_slices(features: Float[Tensor, "N C H W"], border_px: int) -> Float[Tensor, "N C _ _"]:
    """Do what `ReflectionPad` does, from slices, whose backward adds in one order on every device."""
    for axis in (-2, -1):
        length = features.shape[axis]
        before = features.narrow(axis, 1, border_px).flip(axis)
        after = features.narrow(axis, length - 1 - border_px, border_px).flip(axis)
        features = torch.cat([before, features, after], dim=axis)
    return features


def _replicated(features: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C _ _"]:
    """Repeat the edge pixels of features once."""
    # On CUDA the backward of torch's padding adds in any order, and raises with deterministic algorithms on. Compiled, it has other
    # strides than the compiler expects (torch 2.13, features in channels-last order).
    by_slices = features.is_cuda and torch.are_deterministic_algorithms_enabled()
    if not (by_slices or torch.compiler.is_compiling()):
        return F.pad(features, (1, 1, 1, 1), mode="replicate")
    for axis in (-2, -1):
        last = features.shape[axis] - 1
        features = torch.cat([features.narrow(axis, 0, 1), features, features.narrow(axis, last, 1)], dim=axis)
    return features


class BlurDown(nn.Module):
    """Half the height and width, low-passed first so that a shifted input gives a shifted output.

    The filter is the outer product of [1, 2, 1] / 4 with itself, on a border reflected by one pixel.
    Source: Zhang 2019, "Making Convolutional Networks Shift-Invariant Again", arXiv 1904.11486.
    """

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("kernel", torch.outer(taps, taps)[None, None] / 16, persistent=False)
        self.pad = ReflectionPad(1)

    def forward(self, features: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H/2 W/2"]:
        """Filter each channel by itself; height and width are even."""
        channels = features.shape[1]
        return F.conv2d(self.pad(features), self.kernel.expand(channels, 1, 3, 3), stride=2, groups=channels)


class BlurUp(nn.Module):
    """Twice the height and width by a fixed smooth interpolation.

    A transposed convolution with the outer product of [1, 3, 3, 1] / 4 with itself (it sums to 4, so that a constant
    stays itself), stride 2, padding 2, on a border replicated by one pixel; the first and last row and column, which
    lie outside the frame, are dropped. Source: as `BlurDown`.
    """

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("kernel", torch.outer(taps, taps)[None, None] / 16, persistent=False)

    def forward(self, features: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C 2*H 2*W"]:
        """Interpolate each channel by itself."""
        channels = features.shape[1]
        padded = _replicated(features)
        kernel = self.kernel.expand(channels, 1, 4, 4)
        raised = F.conv_transpose2d(padded, kernel, stride=2, padding=2, groups=channels)
        return raised[:, :, 1:-1, 1:-1]


class ResidualBlock(nn.Module):
    """Two reflected 3x3 convolutions beside a skip; nothing after the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ReflectionPad(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
            nn.ReLU(inplace=True),
            ReflectionPad(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, features: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C H W"]:
        """Add to the features what the body makes of them."""
        added: Tensor = self.body(features)
        return features + added


class ResNetGenerator(Generator):
    """ResNet translator with anti-aliased down- and upsampling; 11,378,179 parameters by default.

    Instance norm has neither affine nor running statistics, so every convolution keeps its bias, frames of a batch do
    not see each other, and `train()` equals `eval()`. Source: arXiv 2204.12367 (the ResNet-9 of CycleGAN and CUT).

    Args:
        width: Channels of the first layer; the residual blocks have four times as many.
        num_blocks: Residual blocks at a quarter of the size.
        init: Distribution of the initial weights.
        init_gain: Its scale; 0.02 is the paper's.
        last_init_gain: Scale for the last convolution, `init_gain` when None. Large steps are calmer with
            `init_gain=1.0, last_init_gain=0.02`: every layer has its natural scale, the first output is still gray.

    Raises:
        ValueError: A size or a gain is not positive.
    """

    SIDE_MULTIPLE = 4
    MIN_SIDE_PX = 8
    """A reflection of 1 pixel at a quarter of the size needs two rows there."""

    def __init__(
        self,
        *,
        width: int = 64,
        num_blocks: int = 9,
        init: Scheme = "xavier",
        init_gain: float = 0.02,
        last_init_gain: float | None = None,
    ) -> None:
        super().__init__()
        if width < 1 or num_blocks < 0:
            raise ValueError(f"a generator needs width >= 1 and num_blocks >= 0, got {width} and {num_blocks}")
        layers: list[nn.Module] = [ReflectionPad(3), nn.Conv2d(3, width, 7), *_norm_relu(width)]
        for channels in (width, 2 * width):
            layers += [nn.Conv2d(channels, 2 * channels, 3, padding=1), *_norm_relu(2 * channels), BlurDown()]
        layers += [ResidualBlock(4 * width) for _ in range(num_blocks)]
        for channels in (4 * width, 2 * width):
            layers += [BlurUp(), nn.Conv2d(channels, channels // 2, 3, padding=1), *_norm_relu(channels // 2)]
        last = nn.Conv2d(width, 3, 7)
        layers += [ReflectionPad(3), last, nn.Tanh()]
        self.net = nn.Sequential(*layers)
        initialise(self, scheme=init, gain=init_gain)
        if last_init_gain is not None:
            initialise(last, scheme=init, gain=last_init_gain)

    def forward(self, frames: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 3 H W"]:
        """Translate frames.

        Args:
            frames: Infrared repeated to three channels, values in [-1, 1]; height and width are multiples of 4 and at
                least 8 pixels.

        Returns:
            Day visible frames (RGB) of the same size, values in [-1, 1].

        Raises:
            ValueError: A side is not a multiple of 4 or is shorter than 8 pixels.
        """
        self.check_size(frames)
        translated: Tensor = self.net(frames)
        return translated


def _norm_relu(channels: int) -> list[nn.Module]:
    return [nn.InstanceNorm2d(channels), nn.ReLU(inplace=True)]
