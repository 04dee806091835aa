"""Boxes of the sample's things as COCO states them: what World.objects says, with references and tracks that hold."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from infraredcity.synthetic import CLIPS, Material, SceneObject, World, encode_boxes, write_sample

SIZE = {"width_px": 160, "height_px": 128}
NUM_FRAMES = 6
CATEGORIES = {1: "car", 2: "bus", 3: "truck", 4: "bicycle", 5: "person", 6: "sign"}


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The boxes of a short clip, as a sample's file holds them."""
    folder = tmp_path_factory.mktemp("sample")
    write_sample(folder, num_frames=NUM_FRAMES, clip_ids=["monitor_day"], boxes=True, workers=1, **SIZE)
    assert [path.name for path in (folder / "boxes").iterdir()] == ["monitor_day.json"]
    found: dict[str, Any] = json.loads((folder / "boxes" / "monitor_day.json").read_text())
    return found


def test_each_frame_is_an_image_under_its_samples_key(document: dict[str, Any]) -> None:
    assert document["images"] == [
        {"id": i + 1, "file_name": f"monitor_day_{i:08d}", "width": 160, "height": 128, "frame_index": i}
        for i in range(NUM_FRAMES)
    ]


def test_ids_refer_to_what_is_there(document: dict[str, Any]) -> None:
    assert set(document) == {"info", "images", "annotations", "categories"}
    assert {entry["id"]: entry["name"] for entry in document["categories"]} == CATEGORIES
    annotations = document["annotations"]
    assert [entry["id"] for entry in annotations] == list(range(1, len(annotations) + 1))
    assert {entry["image_id"] for entry in annotations} == set(range(1, NUM_FRAMES + 1))
    assert {entry["category_id"] for entry in annotations} <= set(CATEGORIES)
    for entry in annotations:
        assert set(entry) == {"id", "image_id", "category_id", "bbox", "area", "iscrowd", "track_id"}
        assert entry["iscrowd"] == 0


def test_the_boxes_are_those_of_the_world(document: dict[str, Any]) -> None:
    world = World(CLIPS["monitor_day"], **SIZE)
    name_of: dict[int, str] = {}
    for i in range(NUM_FRAMES):
        things = [thing for thing in world.objects(i) if thing.kind != "building"]
        found = [entry for entry in document["annotations"] if entry["image_id"] == i + 1]
        assert len(found) == len(things)
        for entry, thing in zip(found, things, strict=True):
            left, top, right, bottom = thing.box
            assert entry["bbox"] == pytest.approx([left, top, right - left, bottom - top], abs=0.005)
            assert entry["bbox"] == [round(value, 2) for value in entry["bbox"]]
            assert entry["area"] == thing.visible_px
            assert CATEGORIES[entry["category_id"]] == thing.kind
            assert name_of.setdefault(entry["track_id"], thing.object_id) == thing.object_id
    assert sorted(name_of) == list(range(1, len(name_of) + 1))
    assert len(set(name_of.values())) == len(name_of)


def test_a_track_is_one_thing_through_the_frames(document: dict[str, Any]) -> None:
    tracks: dict[int, list[dict[str, Any]]] = {}
    for entry in document["annotations"]:
        tracks.setdefault(entry["track_id"], []).append(entry)
    whole = [track for track in tracks.values() if len(track) == NUM_FRAMES]
    assert len(whole) > 20
    for track in tracks.values():
        assert len({entry["category_id"] for entry in track}) == 1
        assert len({entry["image_id"] for entry in track}) == len(track)
    for track in whole:
        for first, second in pairwise(track):
            assert np.abs(np.subtract(first["bbox"], second["bbox"])).max() < 4.0


def test_the_boxes_hold_all_that_is_of_their_kind(document: dict[str, Any]) -> None:
    world = World(CLIPS["monitor_day"], **SIZE)
    labels = world.labels(2)
    covered = {"person": np.zeros(labels.shape, np.bool_), "vehicle": np.zeros(labels.shape, np.bool_)}
    for entry in document["annotations"]:
        if entry["image_id"] != 3:
            continue
        left, top, width, height = entry["bbox"]
        box = np.s_[max(0, int(top) - 1) : int(top + height) + 2, max(0, int(left) - 1) : int(left + width) + 2]
        kind = CATEGORIES[entry["category_id"]]
        if kind in ("person", "bicycle"):
            covered["person"][box] = True
        if kind in ("car", "bus", "truck"):
            covered["vehicle"][box] = True
    for kind, material in (("person", Material.SKIN), ("vehicle", Material.PAINT)):
        own = labels == material
        assert own.sum() > 15
        # Things of less than 4 pixels have no box.
        assert covered[kind][own].mean() > 0.98
        assert covered[kind].mean() < 0.5


def test_a_thing_keeps_its_track_when_it_was_away() -> None:
    def thing(name: str, kind: str = "car") -> SceneObject:
        return SceneObject(object_id=name, kind=kind, box=(1.0, 2.0, 4.126, 6.0), distance_m=5.0, visible_px=9.25)

    frames = [(thing("a"), thing("b", "person"), thing("c", "building")), (thing("b", "person"),), (thing("a"),)]
    data = encode_boxes("clip", frames, width_px=64, height_px=64)
    annotations = json.loads(data)["annotations"]
    found = [(entry["image_id"], entry["category_id"], entry["track_id"]) for entry in annotations]
    assert found == [(1, 1, 1), (1, 5, 2), (2, 5, 2), (3, 1, 1)]
    assert annotations[0]["bbox"] == [1.0, 2.0, 3.13, 4.0]
    assert annotations[0]["area"] == 9.25
