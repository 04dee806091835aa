"""ROMA: unpaired translation of night infrared video to daytime colour video.

The commands are the main surface; in Python, `roma.trainer.train`, `roma.infer.open_translator` and `translate_video`, and
`roma.evaluate` do the same. Importing this package needs no torch.
"""

from roma.errors import (
    CheckpointError,
    ConfigError,
    DistributedError,
    EvaluationError,
    RomaError,
    TrainingError,
    WeightsError,
)

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DistributedError",
    "EvaluationError",
    "RomaError",
    "TrainingError",
    "WeightsError",
]
