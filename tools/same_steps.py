"""Take a few tiny training steps of each preset and print their hashes, to show that a change left every bit as it was.

Run it before and after a change, on one machine and one version of torch, and compare:

    python tools/same_steps.py > before.json
    python tools/same_steps.py > after.json
    diff before.json after.json

It needs no data, no weights and no GPU, takes half a minute, and runs in any checkout whose step is a `Trainer`: the names that it
takes from `roma` are found by their definition, wherever they lie. The file can be run from elsewhere, in the checkout's root.

Each case is a preset in one mode with small networks on random frames, on one thread, in float32 where its title names no other
type. For each it prints the sha256 of the exact bytes of all losses and gradient norms of each step, and of all weights after the
last. A case named "everything" has every loss, gradient clipping, averaged weights and learned tones at once. "pictures" are the
functions of single frames.
"""

import hashlib
import importlib
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path.cwd()))
import torch

import roma

ROOT = Path(roma.__file__).parent
CPU = torch.device("cpu")
SMALL = (
    "precision=fp32", "data.load_size_px=36", "data.crop_size_px=32", "generator.width=4", "generator.num_blocks=1",
    "vit.weights=random", "vit.image_size=32", "vit.patch_size=8", "vit.width=16", "vit.depth=3", "vit.num_heads=2",
    "vit.layers=[0, 2]", "loss.window=3", "loss.num_windows=6", "loss.region_sizes=[2, 4]", "loss.patch_gan_width=4",
)  # fmt: skip
SHORT_WARMUP = ("loss.warmup_steps=2", "batch_size=2")
ALL_LOSSES = (
    "batch_size=3", "loss.global_structure=0.2", "loss.local_structure=0.3", "loss.motion=0.5", "loss.gan=0.7",
    "loss.patch_gan=0.2", "loss.detail_gan=0.1", "loss.colourise=1", "loss.colourise_edges=2", "loss.matched_tones=0.5",
    "loss.edges=0.5", "loss.anchor=4", "loss.warmup_steps=2", "optim.ema_decay=0.9", "optim.clip_norm=0.01",
    "compute.window_chunk=2",
)  # fmt: skip
CASES: dict[str, tuple[str, tuple[str, ...], int]] = {
    "plain": ("roma", (), 3),
    "several windows": ("roma", ("batch_size=3", "optim.generator_lr=1e-3"), 3),
    "accumulation": ("roma", ("batch_size=3", "compute.micro_batch=2"), 3),
    "as the authors' code": ("roma", ("loss.reference_temporal=true", "loss.reference_pooling=true"), 3),
    "clipping and all windows": ("roma", ("optim.clip_norm=0.001", "compute.shared_windows=false"), 3),
    "larger batch": ("roma-multi", ("batch_size=4", "compute.micro_batch=3"), 3),
    "bfloat16": ("roma-multi", ("batch_size=2", "precision=bf16"), 3),
    "warm-up, anchor, details": ("tiny", SHORT_WARMUP, 5),
    "warm-up and accumulation": ("tiny", (*SHORT_WARMUP, "compute.micro_batch=1"), 5),
    "everything": ("tiny", ALL_LOSSES, 5),
    "everything, accumulated": ("tiny", (*ALL_LOSSES, "compute.micro_batch=2"), 5),
    "everything, residual": ("roma", (*ALL_LOSSES, "vit.normalisation=imagenet", "vit.num_prefix_tokens=0"), 5),
}


def defined(name: str) -> Any:
    """The one function or class of `roma` that is defined under this name, in whichever module but those of pretraining."""
    found = [
        path
        for path in sorted(ROOT.rglob("*.py"))
        if not any("pretrain" in part for part in path.relative_to(ROOT).parts)
        and re.search(rf"^(?:def|class) {name}\b", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    ]
    if len(found) != 1:
        raise SystemExit(f"{name}: expected one definition in {ROOT}, found {[str(path) for path in found]}")
    dotted = ".".join((ROOT.name, *found[0].relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    return getattr(importlib.import_module(dotted), name)


def digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Names, types, shapes and bytes in one hash."""
    total = hashlib.sha256()
    for name, value in sorted(tensors, key=lambda item: item[0]):
        held = value.detach().cpu().contiguous()
        total.update(f"{name} {held.dtype} {tuple(held.shape)}\n".encode())
        total.update(held.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def batch_of(config: Any, step: int) -> Any:
    """A batch of random frames, smooth enough to have edges, that depends on the step alone."""
    draw = torch.Generator().manual_seed(100 + step)
    frames = 2 if config.mode == "video" else 1
    side = config.data.crop_size_px

    def smooth(channels: int) -> torch.Tensor:
        coarse = torch.rand(config.batch_size * frames, channels, 7, 7, generator=draw) * 2 - 1
        fine = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
        noisy = (fine + 0.1 * torch.randn(fine.shape, generator=draw)).clamp(-1, 1)
        return noisy.reshape(config.batch_size, frames, channels, side, side)

    places = tuple(range(10 * step, 10 * step + config.batch_size))
    return defined("TrainBatch")(
        step=step,
        source=smooth(1).expand(-1, -1, 3, -1, -1),
        target=smooth(3),
        keys=tuple(("a_00000000", "a_00000001")[:frames] for _ in places),
        source_positions=places,
        target_positions=places,
    )


def pictures_of(num: int, channels: int, seed: int) -> torch.Tensor:
    """Random bytes as frames, made from coarse blocks."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, 256, (num, channels, 8, 8), generator=draw, dtype=torch.uint8)
    return coarse.repeat_interleave(4, dim=-1).repeat_interleave(4, dim=-2)


def steps(preset: str, mode: str, settings: tuple[str, ...], num_steps: int) -> dict[str, Any]:
    """Hashes of the first steps of a run."""
    config = defined("resolve")(preset, mode=mode, config_file=None, settings=[*SMALL, *settings])
    networks = defined("build_networks")(config, CPU)
    world = defined("World")(rank=0, world_size=1, device=CPU)
    tones = defined("fit_tones")(pictures_of(5, 3, 1), pictures_of(4, 1, 2)) if config.loss.matched_tones else None
    trainer = defined("Trainer")(config, networks, world, tones=tones)
    answer: dict[str, Any] = {"losses": [], "grad_norms": []}
    for step in range(num_steps):
        result = trainer.step(batch_of(config, step), lr_factor=1.0 / (1 + step))
        norms = [(name, torch.tensor(norm, dtype=torch.float64)) for name, norm in result.grad_norms.items()]
        answer["losses"].append(
            {name: digest([("", value)])[:16] for name, value in sorted(result.losses.items())}
            | {"all": digest(result.losses.items())}
        )
        answer["grad_norms"].append({"names": sorted(result.grad_norms), "all": digest(norms)})
    answer["weights"] = {
        name: digest(network.state_dict().items()) for name, network in sorted(networks.trained().items())
    }
    return answer


def pictures() -> dict[str, str]:
    """Hashes of what is computed of single frames, some in other sizes and types than steps have."""
    first, second = pictures_of(3, 3, 3), pictures_of(3, 3, 4)
    hashes = {name: digest([("", defined(name)(first, second))]) for name in ("ssim", "edge_correlation")}
    frames = first[..., :24].float() / 127.5 - 1
    for name, of in (("luma_details", (frames,)), ("edge_loss", (frames, -frames.flip(-1)))):
        hashes[name] = digest([("", defined(name)(*of))])
    tones = defined("fit_tones")(second, pictures_of(4, 1, 5))
    hashes["fit_tones"] = digest([("cube", tones.cube), ("levels", tones.levels)])
    for label, given in (("random", None), ("learned", tones)):
        hashes[f"degrade, {label} tones"] = digest(
            [("", defined("degrade")(frames.repeat(4, 1, 1, 1), tuple(range(12)), seed=3, tones=given))]
        )
    return hashes


def main() -> None:
    """Print all hashes as JSON."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    answer: dict[str, Any] = {"torch": torch.__version__, "pictures": pictures()}
    for title, (preset, settings, num_steps) in CASES.items():
        for mode in ("video", "image"):
            answer[f"{preset}, {mode}: {title}"] = steps(preset, mode, settings, num_steps)
    json.dump(answer, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
