"""The networks: generator, the two discriminators and the frozen ViT with its weights."""

from roma.models.critics.patch import PatchDiscriminator
from roma.models.critics.region import REGION_SIZES, RegionDiscriminator, pool_regions
from roma.models.generators.build import AnyGenerator, Architecture, build_generator
from roma.models.generators.resnet import Generator
from roma.models.generators.unet import UNetGenerator
from roma.models.vit.vit import VisionTransformer, ViTFeatures, window_indices
from roma.models.vit.weights import DEFAULT_HUB_NAME, load_from_hub, load_weights

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
