"""The built-in sample: a small street world rendered as night infrared, night visible and day visible.

Needs the `extract` extra (OpenCV and PyAV); importing this package without it raises MissingExtraError.
"""

from infraredcity.synthetic.clips import CLIPS, SyntheticClip
from infraredcity.synthetic.materials import Material
from infraredcity.synthetic.sample import SampleInfo, write_sample
from infraredcity.synthetic.world import KINDS, OBJECT_KINDS, SceneObject, World

__all__ = [
    "CLIPS",
    "KINDS",
    "OBJECT_KINDS",
    "Material",
    "SampleInfo",
    "SceneObject",
    "SyntheticClip",
    "World",
    "write_sample",
]
