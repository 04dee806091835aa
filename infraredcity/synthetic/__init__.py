"""The built-in sample: a small street world rendered as night infrared, night visible and day visible, with its truth.

Needs the `extract` extra (OpenCV and PyAV); importing this package without it raises MissingExtraError.
"""

from infraredcity.synthetic.clips import CLIPS, SyntheticClip
from infraredcity.synthetic.coco import encode_boxes
from infraredcity.synthetic.flow import Flow, decode_flow, encode_flow
from infraredcity.synthetic.materials import Material
from infraredcity.synthetic.sample import SampleInfo, write_sample
from infraredcity.synthetic.world import KINDS, OBJECT_KINDS, SceneObject, World

__all__ = [
    "CLIPS",
    "KINDS",
    "OBJECT_KINDS",
    "Flow",
    "Material",
    "SampleInfo",
    "SceneObject",
    "SyntheticClip",
    "World",
    "decode_flow",
    "encode_boxes",
    "encode_flow",
    "write_sample",
]
