import numpy as np
import pytest
import torch
import torch.nn.functional as F

from roma.models.generators.resnet import BlurDown, BlurUp, ReflectionPad, ResNetGenerator, reflect_by_slices


def small() -> ResNetGenerator:
    torch.manual_seed(0)
    return ResNetGenerator(width=4, num_blocks=2, init_gain=1.0)


def test_the_default_has_the_parameters_of_the_paper() -> None:
    assert sum(p.numel() for p in ResNetGenerator().parameters()) == 11_378_179


def test_the_shape_is_kept_and_values_stay_in_range() -> None:
    frames = torch.rand(2, 3, 12, 20) * 2 - 1
    translated = small()(frames)
    assert translated.shape == (2, 3, 12, 20)
    assert translated.abs().max() <= 1


def test_training_mode_changes_nothing_and_frames_of_a_batch_do_not_meet() -> None:
    generator = small()
    frames = torch.rand(2, 3, 16, 16) * 2 - 1
    trained = generator.train()(frames)
    assert torch.equal(trained, generator.eval()(frames))
    torch.testing.assert_close(trained[1:], generator(frames[1:]))


@pytest.mark.parametrize("shape", [(16, 18), (15, 16), (4, 16)])
def test_an_unfit_size_is_named(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"multiples of 4 and at least 8 pixels, got {shape[0]}x{shape[1]}"):
        small()(torch.zeros(1, 3, *shape))


def test_the_fixed_kernels_are_not_in_the_state_dict() -> None:
    assert all(name.endswith(("weight", "bias")) for name in ResNetGenerator(width=4, num_blocks=1).state_dict())


def test_initial_weights_have_the_asked_scale() -> None:
    torch.manual_seed(0)
    net = ResNetGenerator(width=32, num_blocks=1).net
    first = net[1]
    # Glorot: std = gain * sqrt(2 / (fan_in + fan_out)), fans 3 * 49 and 32 * 49.
    assert first.weight.std().item() == pytest.approx(0.02 * (2 / (35 * 49)) ** 0.5, rel=0.05)
    assert first.bias.abs().max() == 0
    normal = ResNetGenerator(width=32, num_blocks=1, init="normal").net[1]
    assert normal.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_the_last_convolution_can_have_its_own_gain() -> None:
    torch.manual_seed(0)
    net = ResNetGenerator(width=32, num_blocks=0, init_gain=1.0, last_init_gain=0.02).net
    glorot = (2 / (35 * 49)) ** 0.5
    assert net[1].weight.std().item() == pytest.approx(glorot, rel=0.05)
    assert net[-2].weight.std().item() == pytest.approx(0.02 * glorot, rel=0.05)


def test_a_gain_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="gain of the initial weights must be positive, got 0"):
        ResNetGenerator(width=4, num_blocks=0, init_gain=0.0)


def test_blur_down_is_the_filter_on_every_second_pixel_of_a_reflected_frame() -> None:
    features = np.random.default_rng(0).standard_normal((2, 3, 6, 8))
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
    padded = np.pad(features, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    expected = np.zeros((2, 3, 3, 4))
    for row in range(3):
        for column in range(4):
            patch = padded[:, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            expected[:, :, row, column] = (patch * kernel).sum(axis=(2, 3))
    found = BlurDown().double()(torch.from_numpy(features))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_blur_up_spreads_each_pixel_of_a_replicated_frame() -> None:
    features = np.random.default_rng(0).standard_normal((1, 2, 3, 5))
    kernel = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64 * 4
    padded = np.pad(features, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    spread = np.zeros((1, 2, 2 * 5 + 2, 2 * 7 + 2))
    for row in range(5):
        for column in range(7):
            spread[:, :, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4] += (
                padded[:, :, row, column, None, None] * kernel
            )
    # padding 2 cuts two rows and columns on each side, then the first and last are dropped
    expected = spread[:, :, 3:-3, 3:-3]
    found = BlurUp().double()(torch.from_numpy(features))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_blurs_keep_a_constant() -> None:
    ones = torch.ones(1, 2, 8, 8)
    torch.testing.assert_close(BlurDown()(ones), torch.ones(1, 2, 4, 4))
    torch.testing.assert_close(BlurUp()(ones), torch.ones(1, 2, 16, 16))


@pytest.mark.parametrize("border_px", [1, 3])
def test_the_deterministic_reflection_equals_the_fast_one(border_px: int) -> None:
    features = torch.randn(2, 3, 5, 7, dtype=torch.float64, requires_grad=True)
    fast, exact = ReflectionPad(border_px)(features), reflect_by_slices(features, border_px)
    borders = ((0, 0), (0, 0), (border_px, border_px), (border_px, border_px))
    assert np.array_equal(exact.detach().numpy(), np.pad(features.detach().numpy(), borders, mode="reflect"))
    assert torch.equal(fast, exact)
    weights = torch.randn_like(fast)
    gradients = [torch.autograd.grad((padded * weights).sum(), features)[0] for padded in (fast, exact)]
    torch.testing.assert_close(*gradients)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_on_cuda_repeats_bit_for_bit_with_deterministic_algorithms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    generator = small().cuda()
    frames = torch.rand(2, 3, 32, 32, device="cuda") * 2 - 1

    def gradients() -> list[torch.Tensor]:
        return list(torch.autograd.grad(generator(frames).pow(3).sum(), list(generator.parameters())))

    torch.use_deterministic_algorithms(True)
    try:
        first, second = gradients(), gradients()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_the_layers_are_those_of_the_paper() -> None:
    """The whole network once more, written as plain calls in the paper's order on the same weights."""
    generator = small()
    weights = [layer for layer in generator.modules() if isinstance(layer, torch.nn.Conv2d)]
    convolutions = iter(weights)

    def conv(x: torch.Tensor, padding: int = 0) -> torch.Tensor:
        layer = next(convolutions)
        return F.conv2d(x, layer.weight, layer.bias, padding=padding)

    def reflect(x: torch.Tensor, by: int) -> torch.Tensor:
        return F.pad(x, (by, by, by, by), mode="reflect")

    def norm(x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(dim=(2, 3), keepdim=True)
        return (x - mean) / (x.var(dim=(2, 3), keepdim=True, unbiased=False) + 1e-5).sqrt()

    frames = torch.rand(1, 3, 16, 16) * 2 - 1
    x = norm(conv(reflect(frames, 3))).relu()
    for _ in range(2):
        x = BlurDown()(norm(conv(x, padding=1)).relu())
    for _ in range(2):
        skip = x
        x = norm(conv(reflect(x, 1))).relu()
        x = skip + norm(conv(reflect(x, 1)))
    for _ in range(2):
        x = norm(conv(BlurUp()(x), padding=1)).relu()
    expected = conv(reflect(x, 3)).tanh()
    assert next(convolutions, None) is None
    torch.testing.assert_close(generator(frames), expected, atol=1e-5, rtol=1e-4)


def test_gradients_reach_every_weight_and_the_frame() -> None:
    generator = small()
    frames = (torch.rand(1, 3, 16, 16) * 2 - 1).requires_grad_()
    generator(frames).square().mean().backward()
    assert frames.grad is not None
    assert frames.grad.abs().max() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in generator.parameters())
