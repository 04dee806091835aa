"""Windows of frames from shards to any PyTorch program: by position, for any rank of any world, resumed by a number.

```python
from infraredcity.loader import WindowReader, batches

reader = WindowReader(["lite/city/infrared-train/*.tar"], window_frames=2)
for windows in batches(reader, batch_size=8, rank=0, world_size=1, start_step=0):
    windows.frames  # u8 [8, 2, C, H, W]
```

`docs/loader.md` shows it in another project: own transforms, DataLoader, accelerate, Lightning, remote shards, resuming.
"""

from infraredcity.errors import MissingExtraError

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise MissingExtraError("torch", extra="loader", needed_for="infraredcity.loader") from error

from infraredcity.loader.crops import ResizeCrop, ResizedCrop
from infraredcity.loader.dataset import CountedBatches, Epochs, PositionSampler, WindowDataset, WindowItem
from infraredcity.loader.reader import WindowReader
from infraredcity.loader.stream import Batches, batches, domain_batches, one_pass, unpaired_batches
from infraredcity.loader.upload import uploaded
from infraredcity.loader.windows import FrameWindows, UnpairedBatch
from infraredcity.monitor import LoaderFacts, Monitor

__all__ = [
    "Batches",
    "CountedBatches",
    "Epochs",
    "FrameWindows",
    "LoaderFacts",
    "Monitor",
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
