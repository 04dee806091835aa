"""Windows of frames from shards to any PyTorch program: by position, for any rank of any world, resumed by a number.

```python
from infraredcity.loader import WindowReader, batches

reader = WindowReader(["lite/city/infrared-train/*.tar"], window_frames=2)
for windows in batches(reader, batch_size=8, rank=0, world_size=1, start_step=0):
    windows.frames  # u8 [8, 2, C, H, W]
```

The names below are loaded when they are used, and need torch; `order` (which window is where) and `monitor` do not.
`docs/loader.md` shows it in another project: own transforms, DataLoader, accelerate, Lightning, remote shards, resuming.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from infraredcity.errors import MissingExtraError

if TYPE_CHECKING:
    from infraredcity.loader.crops import NativeCrop, ResizeCrop, ResizedCrop
    from infraredcity.loader.monitor import LoaderFacts, Monitor
    from infraredcity.loader.reader import WindowReader
    from infraredcity.loader.streams import Batches, batches, domain_batches, one_pass, unpaired_batches
    from infraredcity.loader.torch_dataset import CountedBatches, Epochs, PositionSampler, WindowDataset, WindowItem
    from infraredcity.loader.upload import uploaded
    from infraredcity.loader.windows import FrameWindows, UnpairedBatch

__all__ = [
    "Batches",
    "CountedBatches",
    "Epochs",
    "FrameWindows",
    "LoaderFacts",
    "Monitor",
    "NativeCrop",
    "PositionSampler",
    "ResizeCrop",
    "ResizedCrop",
    "UnpairedBatch",
    "WindowDataset",
    "WindowItem",
    "WindowReader",
    "batches",
    "domain_batches",
    "one_pass",
    "unpaired_batches",
    "uploaded",
]

_HOMES = {
    "crops": ("NativeCrop", "ResizeCrop", "ResizedCrop"),
    "monitor": ("LoaderFacts", "Monitor"),
    "reader": ("WindowReader",),
    "streams": ("Batches", "batches", "domain_batches", "one_pass", "unpaired_batches"),
    "torch_dataset": ("CountedBatches", "Epochs", "PositionSampler", "WindowDataset", "WindowItem"),
    "upload": ("uploaded",),
    "windows": ("FrameWindows", "UnpairedBatch"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load a public name from its file at its first use."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtraError("torch", extra="loader", needed_for=__name__) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
