"""Define the errors for problems with a run or its files, as one small tree.

RomaError
├── ConfigError         a preset, config file or --set that cannot be used
├── WeightsError        pretrained weights that are missing or do not fit
├── CheckpointError     a checkpoint or snapshot that is damaged or of another format
├── DistributedError    a process group that cannot be formed or fed
├── TrainingError       a training step that fails, such as one with a non-finite loss
└── EvaluationError     pictures and truth that do not match

Messages are one line: where, what, expected, found, what to do.
"""


class RomaError(Exception):
    """A fact about the user's run or files that stops the work; its text is one line for people."""


class ConfigError(RomaError):
    """A preset, a config file or a setting cannot be used."""


class WeightsError(RomaError):
    """Pretrained weights are missing or do not fit the network."""


class CheckpointError(RomaError):
    """A checkpoint or snapshot is damaged or of another format."""


class DistributedError(RomaError):
    """A process group cannot be formed, or the batch cannot feed it."""


class TrainingError(RomaError):
    """A training step fails, such as one with a non-finite loss; the message names rank, step and term."""


class EvaluationError(RomaError):
    """Pictures and truth do not match."""
