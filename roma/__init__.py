"""ROMA: unpaired translation of night infrared video to daytime colour video.

The commands are the main surface; in Python, `roma.training.trainer.train`, `roma.inference.translator.open_translator` and
`translate_video`, and `roma.evaluation.evaluate` do the same. Importing this package needs no torch.
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
