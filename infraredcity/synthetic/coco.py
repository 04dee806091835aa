"""Write boxes of objects in COCO's format, for tools that evaluate detectors and trackers."""

import json
from collections.abc import Sequence

from infraredcity.shards.names import key_of
from infraredcity.synthetic.world import OBJECT_KINDS, SceneObject

_LEFT_OUT = ("building",)
"""Buildings form closed rows that fill the picture; street detectors (COCO's, FLIR's) have no such class."""


def encode_boxes(clip_id: str, things: Sequence[Sequence[SceneObject]], *, width_px: int, height_px: int) -> bytes:
    """Encode the objects of `World.objects` for the frames of one clip as JSON in COCO's format for object detection.

    - `images`: id (1 for the first frame), file_name (the sample's key, without a suffix), width, height, frame_index;
    - `annotations`: id (from 1), image_id, category_id, bbox [left, top, width, height] in pixels, area (its
      visible pixels), iscrowd 0, and track_id: the same for the same object in all frames, from 1;
    - `categories`: id and name of OBJECT_KINDS, numbered from 1. Buildings are left out: they form closed rows that fill the
      picture, and street detectors have no such class.

    Source: "Data format" and "Object Detection" at cocodataset.org; track_id as in TAO (Dave et al., arXiv 2005.10356).

    Args:
        clip_id: The clip.
        things: The objects in frames 0, 1, 2 and so on.
        width_px: Picture width.
        height_px: Picture height.
    """
    categories = {kind: number for number, kind in enumerate(OBJECT_KINDS, 1) if kind not in _LEFT_OUT}
    tracks: dict[str, int] = {}
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for frame_index, objects in enumerate(things):
        images.append(
            {
                "id": frame_index + 1,
                "file_name": key_of(clip_id, frame_index),
                "width": width_px,
                "height": height_px,
                "frame_index": frame_index,
            }
        )
        for thing in objects:
            if thing.kind not in categories:
                continue
            left, top, right, bottom = thing.box
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": frame_index + 1,
                    "category_id": categories[thing.kind],
                    "bbox": [round(value, 2) for value in (left, top, right - left, bottom - top)],
                    "area": thing.visible_px,
                    "iscrowd": 0,
                    "track_id": tracks.setdefault(thing.object_id, len(tracks) + 1),
                }
            )
    document = {
        "info": {"description": f"{clip_id} of the built-in sample of infraredcity: rendered, no recording"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": kind} for kind, number in categories.items()],
    }
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"
