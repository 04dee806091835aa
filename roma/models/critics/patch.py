"""The discriminator of the preset `tiny`: it judges overlapping patches of pixels and needs no pretrained backbone."""

from jaxtyping import Float
from torch import Tensor, nn

from roma.models.initialise import initialise


class PatchDiscriminator(nn.Module):
    """A PatchGAN: one logit per overlapping patch of the frame.

    With three layers a logit sees 70x70 pixels. Source: Isola et al. 2017 (pix2pix), arXiv 1611.07004, with instance
    norm as in CycleGAN; the paper of ROMA has no such network.

    Args:
        width: Channels of the first layer; they double per layer, up to eight times.
        num_layers: Convolutions with stride 2.
        init_gain: Standard deviation of the initial weights.

    Raises:
        ValueError: A size or the gain is not positive.
    """

    def __init__(self, *, width: int = 32, num_layers: int = 3, init_gain: float = 0.02) -> None:
        super().__init__()
        if width < 1 or num_layers < 1:
            raise ValueError(f"a patch discriminator needs width and num_layers >= 1, got {width} and {num_layers}")
        # The last instance norm follows a convolution that shrinks by one, and needs more than one value a channel.
        self.min_side_px = 3 * 2**num_layers
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        channels = width
        for index in range(1, num_layers + 1):
            wider = width * min(2**index, 8)
            stride = 2 if index < num_layers else 1
            layers += [
                nn.Conv2d(channels, wider, 4, stride=stride, padding=1),
                nn.InstanceNorm2d(wider),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            channels = wider
        layers.append(nn.Conv2d(channels, 1, 4, padding=1))
        self.net = nn.Sequential(*layers)
        initialise(self, scheme="normal", gain=init_gain)

    def forward(self, frames: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N 1 h w"]:
        """Compute logits of frames with values in [-1, 1]: 1 means real, 0 means fake.

        Returns:
            With sides divisible by 2**num_layers: h = H / 2**num_layers - 2, and so for w.

        Raises:
            ValueError: A side is shorter than 3 * 2**num_layers pixels.
        """
        height_px, width_px = frames.shape[-2:]
        if min(height_px, width_px) < self.min_side_px:
            raise ValueError(
                f"the patch discriminator needs frames of at least {self.min_side_px} pixels a side, "
                f"got {height_px}x{width_px}; use larger frames or fewer layers"
            )
        logits: Tensor = self.net(frames)
        return logits
