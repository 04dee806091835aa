import pytest
import torch

from roma.config.schema import GeneratorConfig
from roma.errors import ConfigError
from roma.models.generators.build import build_generator, check_side
from roma.models.generators.resnet import ResNetGenerator
from roma.models.generators.unet import UNetGenerator


def small() -> UNetGenerator:
    torch.manual_seed(0)
    return UNetGenerator(width=4, num_blocks=1)


def test_the_shape_is_kept_and_values_stay_in_range() -> None:
    translated = small()(torch.rand(2, 3, 32, 48) * 2 - 1)
    assert translated.shape == (2, 3, 32, 48)
    assert translated.abs().max() <= 1


def test_parameters_are_those_of_its_convolutions_and_norms() -> None:
    # width 4: 3->4 5x5; 4->8->16->32->32 and one 32->32 in the middle, 3x3; 64->32, 48->16, 24->8, 12->4 3x3; 4->3 3x3.
    convolutions = [(3, 4, 5), (4, 8, 3), (8, 16, 3), (16, 32, 3), (32, 32, 3), (32, 32, 3), (64, 32, 3), (48, 16, 3),
                    (24, 8, 3), (12, 4, 3), (4, 3, 3)]  # fmt: skip
    weights = sum(a * b * k * k + b for a, b, k in convolutions)
    norms = 2 * (4 + 8 + 16 + 32 + 32 + 32 + 32 + 16 + 8 + 4)
    assert sum(p.numel() for p in small().parameters()) == weights + norms


def test_fine_detail_reaches_the_output_beside_the_deep_layers() -> None:
    network = small()
    for stage in network.down[1:]:
        torch.nn.init.zeros_(stage[1].weight)  # nothing of the frame passes below a half of the size
        torch.nn.init.zeros_(stage[1].bias)
    flat, dotted = torch.zeros(2, 1, 3, 32, 32)
    dotted[:, :, 10, 10] = 1
    assert (network(dotted) - network(flat)).abs().amax(dim=(0, 1))[8:13, 8:13].max() > 1e-3


def test_training_mode_changes_nothing_and_frames_of_a_batch_do_not_meet() -> None:
    network = small()
    frames = torch.rand(2, 3, 32, 32) * 2 - 1
    trained = network.train()(frames)
    assert torch.equal(trained, network.eval()(frames))
    torch.testing.assert_close(trained[1:], network(frames[1:]))


@pytest.mark.parametrize("shape", [(40, 32), (32, 24), (16, 16)])
def test_an_unfit_size_is_named(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"multiples of 16 and at least 32 pixels, got {shape[0]}x{shape[1]}"):
        small()(torch.zeros(1, 3, *shape))


def test_a_generator_is_built_by_the_name_of_its_architecture() -> None:
    for name, kind in (("resnet", ResNetGenerator), ("unet", UNetGenerator)):
        assert type(build_generator(GeneratorConfig(architecture=name, width=4, num_blocks=1))) is kind
    with pytest.raises(ConfigError, match=r"generator\.architecture must be one of resnet, unet, got 'vae'"):
        build_generator(GeneratorConfig(architecture="vae"))
    with pytest.raises(ValueError, match="width >= 1 and num_blocks >= 0, got 0 and 1"):
        UNetGenerator(width=0, num_blocks=1)


def test_squares_that_a_generator_does_not_take_are_named() -> None:
    check_side(GeneratorConfig(architecture="unet"), 48)
    for side_px in (16, 72):
        with pytest.raises(
            ConfigError, match=rf"data\.crop_size_px must be a multiple of 16, at least 32, .*unet, got {side_px}"
        ):
            check_side(GeneratorConfig(architecture="unet"), side_px)
