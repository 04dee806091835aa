"""The networks: generator, the two discriminators and the frozen ViT with its weights."""

from roma.models.build import AnyGenerator, Architecture, build_generator
from roma.models.discriminator import REGION_SIZES, RegionDiscriminator, pool_regions
from roma.models.generator import Generator
from roma.models.patch_discriminator import PatchDiscriminator
from roma.models.unet import UNetGenerator
from roma.models.vit import VisionTransformer, ViTFeatures, window_indices
from roma.models.weights import DEFAULT_HUB_NAME, load_from_hub, load_weights

__all__ = [
    "DEFAULT_HUB_NAME",
    "REGION_SIZES",
    "AnyGenerator",
    "Architecture",
    "Generator",
    "PatchDiscriminator",
    "RegionDiscriminator",
    "UNetGenerator",
    "ViTFeatures",
    "VisionTransformer",
    "build_generator",
    "load_from_hub",
    "load_weights",
    "pool_regions",
    "window_indices",
]
