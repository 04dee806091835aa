"""InfraredCity: long night-infrared clips to verified WebDataset shards, and loaders over them.

The names below are the supported surface beside the modules that the README's map names; importing this package needs no extra.
The loader, which needs torch, is `infraredcity.loader`.
"""

from infraredcity.clips import Catalog, Clip, load_catalog
from infraredcity.errors import (
    CatalogError,
    ImageError,
    InfraredCityError,
    ManifestError,
    MissingExtraError,
    OutputError,
    RecipeError,
    RemoteError,
    ShardError,
    VideoDecodeError,
)
from infraredcity.progress import OnProgress, Progress

__all__ = [
    "Catalog",
    "CatalogError",
    "Clip",
    "ImageError",
    "InfraredCityError",
    "ManifestError",
    "MissingExtraError",
    "OnProgress",
    "OutputError",
    "Progress",
    "RecipeError",
    "RemoteError",
    "ShardError",
    "VideoDecodeError",
    "load_catalog",
]
