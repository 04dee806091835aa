"""Optical flow of the sample: it follows the geometry, carries one picture to the other, and survives its PNG."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from infraredcity.errors import OutputError
from infraredcity.synthetic import CLIPS, Flow, Material, World, decode_flow, encode_flow, write_sample
from infraredcity.synthetic.camera import Camera
from infraredcity.synthetic.highway import Highway
from infraredcity.synthetic.monitor import Monitor
from infraredcity.synthetic.motion import _affine
from infraredcity.synthetic.people import NUM_STRIDES, cyclist, walker

VEHICLE = (Material.PAINT, Material.TYRE, Material.LAMP)
STILL = (
    Material.ROAD,
    Material.PAVEMENT,
    Material.KERB,
    Material.WALL,
    Material.ROOF,
    Material.FOLIAGE,
    Material.GRASS,
)
Picture = NDArray[np.float32]


def warped(picture: Picture, flow: Flow, shift: tuple[float, float] = (0.0, 0.0)) -> Picture:
    """The later picture pulled back to the earlier one."""
    height, width = flow.visible.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = x + flow.forward[:, :, 0] + np.float32(shift[0]), y + flow.forward[:, :, 1] + np.float32(shift[1])
    return np.asarray(cv2.remap(picture, x, y, cv2.INTER_LINEAR))


def length(flow: Flow) -> Picture:
    return np.asarray(np.linalg.norm(flow.forward, axis=2))


def day(world: World, frame_index: int) -> Picture:
    """The picture by day, blurred a little: a renderer with two samples per pixel and axis leaves steps at slanting edges."""
    return np.asarray(cv2.GaussianBlur(world.render(frame_index, "day").astype(np.float32), (0, 0), 1.0))


def cameras(world: World, frame_index: int) -> tuple[Camera, Camera]:
    first, second = (
        world._street.camera(i / world.fps, world.width_px, world.height_px) for i in (frame_index, frame_index + 1)
    )
    return first, second


def pixel_rays(camera: Camera) -> NDArray[np.float64]:
    """Rays through the pixels' middles: right, up, forward [H, W, 3]."""
    y, x = np.mgrid[0 : camera.height_px, 0 : camera.width_px] + 0.5
    right, up = x - camera.width_px / 2, camera.height_px / 2 - y
    return np.stack([right / camera.focal_px, up / camera.focal_px, np.ones_like(right)], axis=2)


@pytest.mark.parametrize("clip_id", ["city_day", "highway_day", "monitor_day"])
def test_the_flow_carries_one_picture_to_the_other(clip_id: str) -> None:
    world = World(CLIPS[clip_id])
    still, carried = [], []
    aside: dict[tuple[float, float], list[float]] = {}
    for i in (30, 110):
        flow = world.flow(i)
        before, after = day(world, i), day(world, i + 1)
        moving = flow.visible & (length(flow) > 0.5)
        assert moving.sum() > 2000
        still.append(np.abs(before - after)[moving].mean())
        carried.append(np.abs(before - warped(after, flow))[moving].mean())
        for shift in ((0.0, 0.0), (0.25, 0.0), (-0.25, 0.0), (0.0, 0.25), (0.0, -0.25)):
            aside.setdefault(shift, []).append(((before - warped(after, flow, shift))[moving] ** 2).mean())
    assert sum(carried) <= sum(still) / 3
    assert min(aside, key=lambda shift: sum(aside[shift])) == (0.0, 0.0)


def test_straight_ahead_the_ground_moves_as_in_a_pinhole_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("shake_share", 0.0), ("pitch", 0.0), ("bend_sizes", lambda self: ())):
        monkeypatch.setattr(Highway, name, value)
    world = World(CLIPS["highway_day"])
    flow, labels = world.flow(30), world.labels(30)
    # 2.2 m above the road, focal length 0.86 * 320 = 275.2 px, 26 m/s at 25 frames per second: 1.04 m ahead. The middle of
    # row 188 is 60.5 px below the horizon and sees the road at 275.2 * 2.2 / 60.5 = 10.0073 m, then at 8.9673 m, which is 67.517
    # px below the horizon; column 200, 40.5 px right of the middle, then is 40.5 * 10.0073 / 8.9673 = 45.197 px right of it.
    assert labels[188, 200] == Material.ROAD
    assert flow.forward[188, 200] == pytest.approx((4.697, 7.017), abs=1e-3)
    assert flow.visible[188, 200]
    y, x = np.mgrid[0:256, 0:320] + 0.5
    ground = np.isin(labels, (Material.ROAD, Material.MARKING)) & (y > 134)
    depth = 275.2 * 2.2 / np.maximum(y - 128, 1.0)
    ground &= depth - 1.04 > 1.0
    growth = depth / np.maximum(depth - 1.04, 1.0) - 1.0
    expected = np.stack([(x - 160) * growth, (y - 128) * growth], axis=2)
    assert ground.sum() > 20_000
    assert flow.forward[ground] == pytest.approx(expected[ground], abs=2e-3)


def test_what_stands_still_moves_along_the_lines_that_the_cameras_path_draws() -> None:
    world = World(CLIPS["city_day"])
    # The first piece falls out of view between frames 23 and 24, and a new one comes into view.
    for i in (22, 23, 40):
        first, second = cameras(world, i)
        flow, labels = world.flow(i), world.labels(i)
        rays = pixel_rays(first)
        step = second.rotation() @ (first.place - second.place)
        assert np.linalg.norm(step) > 0.3
        lines = np.cross(step, rays @ (second.rotation() @ first.rotation().T).T)
        targets = rays.copy()
        targets[:, :, 0] += flow.forward[:, :, 0] / first.focal_px
        targets[:, :, 1] -= flow.forward[:, :, 1] / first.focal_px
        far_off_px = np.abs((lines * targets).sum(axis=2)) / np.hypot(lines[:, :, 0], lines[:, :, 1]) * first.focal_px
        still = np.isin(labels, STILL)
        assert still.sum() > 30_000
        assert far_off_px[still].max() < 0.02
        assert flow.visible[still].mean() > 0.8
        # Members of the traffic are found again although their numbers in the mesh have changed.
        riding = [thing for thing in world.objects(i) if thing.object_id.startswith(("ahead:", "oncoming:"))]
        assert len(riding) > 2
        for thing in riding[:3]:
            left, top, right, bottom = (round(value) for value in thing.box)
            own = np.isin(labels[top:bottom, left:right], (*VEHICLE, Material.WINDOW))
            assert flow.visible[top:bottom, left:right][own].mean() > 0.6


def test_sky_and_buildings_far_away_move_with_the_shake_of_the_camera_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Monitor, "shake_share", 3.0)
    world = World(CLIPS["monitor_day"])
    i = 37
    first, second = cameras(world, i)
    flow, labels = world.flow(i), world.labels(i)
    rays = pixel_rays(first) @ (second.rotation() @ first.rotation().T).T
    turned = rays[:, :, :2] / rays[:, :, 2:] - pixel_rays(first)[:, :, :2]
    turned *= (first.focal_px, -first.focal_px)
    # The mount also rises or sinks a little; what is farther than 36 m, as all houses are, hardly shows that.
    lift_px = float(abs(second.place[1] - first.place[1])) * first.focal_px
    for materials, distance_m in (((Material.HILL,), 450.0), ((Material.ROOF, Material.WALL), 36.0)):
        far = np.isin(labels, materials)
        assert far.sum() > 400
        assert np.abs(turned[far]).max() > 0.1
        assert flow.forward[far] == pytest.approx(turned[far], abs=1.2 * lift_px / distance_m + 1e-3)

    # The sky is a panorama that slides and rolls: see `crop_panorama`.
    slide = ((first.yaw - second.yaw) * first.focal_px, (second.pitch - first.pitch) * first.focal_px)
    y, x = np.mgrid[0:256, 0:320] - np.array([128, 160])[:, None, None]
    roll = second.roll - first.roll
    expected = np.stack([slide[0] + roll * y, slide[1] - roll * x], axis=2)
    sky = labels == Material.SKY
    assert sky.sum() > 2000
    assert flow.forward[sky] == pytest.approx(expected[sky], abs=1e-3)
    assert flow.visible[sky].mean() > 0.9


def test_clouds_are_carried_under_the_shake_of_the_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Highway, "shake_share", 3.0)
    world = World(CLIPS["highway_day"])
    i = 20
    flow, before, after = world.flow(i), day(world, i), day(world, i + 1)
    sky = cv2.erode((world.labels(i) == Material.SKY).astype(np.uint8), np.ones((9, 9), np.uint8)) == 1
    clouds = sky & flow.visible & (np.abs(before - after).max(axis=2) > 1)
    assert clouds.sum() > 1000
    assert np.abs(before - warped(after, flow))[clouds].mean() < np.abs(before - after)[clouds].mean() / 3


def test_a_vehicle_moves_with_its_box() -> None:
    world = World(CLIPS["monitor_day"])
    compared = 0
    for i in (5, 45, 90):
        labels, flow = world.labels(i), world.flow(i)
        then = {thing.object_id: thing for thing in world.objects(i + 1)}
        for thing in world.objects(i):
            left, top, right, bottom = thing.box
            inside = left > 1 and top > 1 and right < 319 and bottom < 255
            if thing.kind not in ("car", "bus") or thing.object_id not in then or not inside:
                continue
            box = np.s_[math.ceil(top) : int(bottom), math.ceil(left) : int(right)]
            own = np.isin(labels[box], VEHICLE)
            if own.sum() < 0.3 * own.size or own.size < 100:
                continue
            moved = np.subtract(then[thing.object_id].box, thing.box)
            middle = ((moved[0] + moved[2]) / 2, (moved[1] + moved[3]) / 2)
            assert flow.forward[box][own].mean(axis=0) == pytest.approx(middle, abs=0.25)
            compared += math.hypot(*middle) > 1.0
    assert compared >= 3


def test_people_move_with_their_boxes_in_the_mean_over_a_step() -> None:
    world = World(CLIPS["monitor_day"])
    frames = range(20, 32)
    walks: dict[str, list[tuple[float, float]]] = {}
    for i in frames:
        labels, flow = world.labels(i), world.flow(i)
        then = {thing.object_id: thing for thing in world.objects(i + 1)}
        for thing in world.objects(i):
            if thing.kind != "person" or thing.visible_px < 120 or thing.object_id not in then:
                continue
            left, top, right, bottom = (round(value) for value in thing.box)
            own = np.isin(labels[top:bottom, left:right], (Material.SKIN, Material.CLOTHES))
            mine = float(flow.forward[top:bottom, left:right][own].mean(axis=0)[0])
            box, later = thing.box, then[thing.object_id].box
            walks.setdefault(thing.object_id, []).append((mine, (later[0] + later[2] - box[0] - box[2]) / 2))
    whole = [np.array(steps) for steps in walks.values() if len(steps) == len(frames)]
    assert len(whole) >= 3
    for steps in whole:
        flow_px, box_px = steps.sum(axis=0)
        assert flow_px == pytest.approx(box_px, abs=1.0)
    assert max(abs(steps[:, 1].sum()) for steps in whole) > 5


def test_no_ground_is_visible_where_something_has_moved_over_it() -> None:
    world = World(CLIPS["monitor_day"])
    hidden = 0
    for i in (5, 45):
        flow, labels, later = world.flow(i), world.labels(i), world.labels(i + 1)
        rows, columns = np.nonzero(np.isin(labels, (Material.ROAD, Material.PAVEMENT, Material.MARKING)))
        x = np.clip((columns + 0.5 + flow.forward[rows, columns, 0]).astype(int), 0, 319)
        y = np.clip((rows + 0.5 + flow.forward[rows, columns, 1]).astype(int), 0, 255)
        covered = np.isin(later[y, x], (*VEHICLE, Material.CLOTHES, Material.SKIN))
        covered &= length(world.flow(i + 1))[y, x] > 0.3
        hidden += int(covered.sum())
        assert not flow.visible[rows, columns][covered].any()
    assert hidden > 50


def test_nothing_is_visible_that_goes_behind_a_tree_or_a_post() -> None:
    world = World(CLIPS["city_day"])
    hidden = 0
    for i in (20, 59):
        flow, labels, later = world.flow(i), world.labels(i), world.labels(i + 1)
        rows, columns = np.nonzero(np.isin(labels, (Material.WALL, Material.WINDOW, Material.SKY)))
        x, y = columns + 0.5 + flow.forward[rows, columns, 0], rows + 0.5 + flow.forward[rows, columns, 1]
        # A label is that of a pixel's lower right quarter; only there it speaks of the very point.
        exact = (x >= 0) & (x < 320) & (y >= 0) & (y < 256) & (x % 1 >= 0.5) & (y % 1 >= 0.5)
        rows, columns, x, y = rows[exact], columns[exact], x[exact].astype(int), y[exact].astype(int)
        covered = np.isin(later[y, x], (Material.FOLIAGE, Material.TRUNK, Material.METAL))
        hidden += int(covered.sum())
        assert not flow.visible[rows, columns][covered].any()
    assert hidden > 50


def test_a_leg_turns_about_its_hip() -> None:
    # Feet at height 0 step 0.4 m to the right, the hip at height 0.8 stays: the knee, half way up, moves half as far. The
    # second face moves as a whole.
    before = np.array([(-0.1, 0, 5), (0.1, 0, 5), (0.1, 0.8, 5), (-0.1, 0.8, 5), (0, 0, 1), (1, 0, 1), (0, 1, 1)])
    after = before + np.array([(0.4, 0, 0), (0.4, 0, 0), (0, 0, 0), (0, 0, 0), *[(0, 0, 0.3)] * 3])
    matrices, steps = _affine(before, after, np.array([4, 3]))
    knee, elsewhere = np.array([0.05, 0.4, 5.0]), np.array([0.3, 0.3, 1.0])
    assert matrices[0] @ knee + steps[0] == pytest.approx((0.2, 0.0, 0.0), abs=1e-9)
    assert matrices[1] @ elsewhere + steps[1] == pytest.approx((0.0, 0.0, 0.3), abs=1e-9)


def test_what_leaves_the_picture_is_not_visible() -> None:
    flow = World(CLIPS["highway_day"]).flow(3)
    y, x = np.mgrid[0:256, 0:320] + 0.5
    x, y = x + flow.forward[:, :, 0], y + flow.forward[:, :, 1]
    outside = (x < 0) | (x > 320) | (y < 0) | (y > 256)
    assert outside[-1].all()
    assert not flow.visible[outside].any()
    assert np.isfinite(flow.forward).all()


def test_frozen_frames_have_no_flow_and_the_next_one_catches_up() -> None:
    world = World(CLIPS["city_clear"], width_px=128, height_px=96)
    frozen = [i for i in range(150) if world.moment(i) != i]
    assert frozen
    for i in [frozen[0] - 1, *frozen[:-1]]:
        flow = world.flow(i)
        assert flow.forward.shape == (96, 128, 2)
        assert not flow.forward.any()
        assert flow.visible.all()
    usual, jump = world.flow(frozen[0] - 2), world.flow(frozen[-1])
    assert np.median(length(jump)) > 2 * np.median(length(usual))


def test_flow_does_not_depend_on_what_was_done_before() -> None:
    size = {"width_px": 128, "height_px": 96}
    world = World(CLIPS["city_clear"], **size)
    for i in (24, 40, 23):
        world.flow(i)
    world.render(90, "day")
    again, fresh = world.flow(23), World(CLIPS["city_clear"], **size).flow(23)
    assert encode_flow(again) == encode_flow(fresh)
    with pytest.raises(ValueError, match="frame_index must not be negative, got -1"):
        world.flow(-1)


@pytest.mark.parametrize("figure", [walker, cyclist])
def test_a_figure_has_the_same_faces_in_all_poses(figure: object) -> None:
    assert callable(figure)
    for along in range(4):
        sizes = {tuple(figure(7, stride=stride, along=along).sizes) for stride in range(NUM_STRIDES)}
        assert len(sizes) == 1


def test_the_png_holds_what_kitti_says() -> None:
    forward = np.zeros((2, 3, 2), np.float32)
    forward[0, 1] = (1.5, -2.25)
    visible = np.zeros((2, 3), np.bool_)
    visible[0, 1] = True
    data = encode_flow(Flow(forward=forward, visible=visible))
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)  # blue, green, red
    assert pixels.dtype == np.uint16
    assert pixels[0, 1].tolist() == [1, 32768 - 144, 32768 + 96]
    assert pixels[1, 2].tolist() == [0, 32768, 32768]


def test_flow_survives_its_png() -> None:
    rng = np.random.default_rng(3)
    flow = Flow(forward=rng.uniform(-500, 500, (20, 30, 2)).astype(np.float32), visible=rng.random((20, 30)) < 0.5)
    again = decode_flow(encode_flow(flow))
    assert again.forward.dtype == np.float32
    assert np.abs(again.forward - flow.forward).max() <= 1 / 128
    assert np.array_equal(again.visible, flow.visible)
    wild = Flow(forward=np.full((1, 1, 2), (-1e4, 1e4), np.float32), visible=np.ones((1, 1), np.bool_))
    assert decode_flow(encode_flow(wild)).forward.tolist() == [[[-512.0, 511.984375]]]


def test_other_bytes_are_no_flow() -> None:
    for data, found in (
        (b"", "something else"),
        (b"no picture", "something else"),
        (cv2.imencode(".png", np.zeros((4, 5, 3), np.uint8))[1].tobytes(), r"uint8 \[4, 5, 3\]"),
        (cv2.imencode(".png", np.zeros((4, 5), np.uint16))[1].tobytes(), r"uint16 \[4, 5\]"),
    ):
        with pytest.raises(ValueError, match=f"flow must be a PNG of 16 bits and three channels .*, got {found}"):
            decode_flow(data)


def test_the_sample_holds_the_flow_of_every_frame_but_the_last(tmp_path: Path) -> None:
    size = {"width_px": 64, "height_px": 64}
    write_sample(tmp_path, num_frames=4, flow=True, raw16=True, workers=1, clip_ids=["highway_day"], **size)
    assert not (tmp_path / "raw16").exists()  # it is no infrared clip
    paths = sorted((tmp_path / "flow" / "highway_day").iterdir())
    assert [path.name for path in paths] == ["000000.png", "000001.png", "000002.png"]
    world = World(CLIPS["highway_day"], **size)
    assert [path.read_bytes() for path in paths] == [encode_flow(world.flow(i)) for i in range(3)]


def test_a_new_sample_leaves_no_flow_of_other_frames(tmp_path: Path) -> None:
    arguments = {"width_px": 64, "height_px": 64, "workers": 1, "clip_ids": ["monitor_day"]}
    folder = tmp_path / "flow" / "monitor_day"
    write_sample(tmp_path, num_frames=4, flow=True, **arguments)  # type: ignore[arg-type]
    (folder / "notes.txt").write_text("mine")
    write_sample(tmp_path, num_frames=3, flow=True, **arguments)  # type: ignore[arg-type]
    assert sorted(path.name for path in folder.iterdir()) == ["000000.png", "000001.png", "notes.txt"]
    write_sample(tmp_path, num_frames=3, **arguments)  # type: ignore[arg-type]
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_somebodys_own_flow_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "flow" / "city_day").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"city_day: .*not part of a sample; choose another folder"):
        write_sample(tmp_path, num_frames=2, clip_ids=["city_day"], width_px=64, height_px=64, workers=1, flow=True)
