"""Rasterise a mesh: find the visible face at each pixel of a camera's picture.

All renderings of a moment colour the same picture of faces, so an object is at the same place in each of them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infraredcity.synthetic import mesh as m
from infraredcity.synthetic.camera import Camera
from infraredcity.synthetic.mesh import Floats, Ints, Layer, Mesh
from infraredcity.synthetic.opencv import cv2

SUPERSAMPLE = 2
"""Pixels of the picture of faces per output pixel and axis."""
SHADES = 3
"""Shades of the ground: none, a shadow, an object directly above it."""
NEAR_M = 0.4
"""Near plane; what is closer to the camera is clipped."""
_SUBPIXEL_BITS = 3
_TINY_PX, _SLIVER_PX = 0.9, 0.35
"""Faces below this width and height, or of less area, are not drawn; output pixels."""
_FIRST_SHADE = int(Layer.SHADOW)
_CONVEX, _ANY, _SHADE, _CUT = range(4)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What the camera sees at one moment. Face 0 is the sky.

    Attributes:
        faces: Visible face at each pixel, times SHADES, plus the shade there: i32 [2H, 2W].
        mesh_faces: Number of each face in the mesh, -1 for the sky [N].
        looks: `Mesh.looks` of the faces that may be visible [N, 10].
        facts: `Mesh.facts` of them [N, 6].
        centres: Their middles in the world, metres [N, 3].
        distance_m: Distance of their middles from the camera [N].
        face_boxes: Box around each of them: left, top, right, bottom in output pixels, not clipped [N, 4].
        mesh: All objects, visible or not.
        part_distance_m: Distance from the camera to the footprint of each of the mesh's parts [P].
        camera: The camera.
    """

    faces: NDArray[np.int32]
    mesh_faces: Ints
    looks: Floats
    facts: Ints
    centres: Floats
    distance_m: Floats
    face_boxes: Floats
    mesh: Mesh
    part_distance_m: Floats
    camera: Camera

    def part_boxes(self) -> Floats:
        """Return the box around each of the mesh's parts, see `face_boxes`; NaN where it cannot be visible [P, 4]."""
        boxes = np.full((len(self.mesh.kinds), 4), np.nan)
        solid = np.flatnonzero(self.facts[:, m.LAYER] < _FIRST_SHADE)[1:]
        np.fmin.at(boxes[:, :2], self.facts[solid, m.PART], self.face_boxes[solid, :2])
        np.fmax.at(boxes[:, 2:], self.facts[solid, m.PART], self.face_boxes[solid, 2:])
        return boxes


def look(mesh: Mesh, camera: Camera) -> View:
    """Find the visible faces of `mesh`."""
    in_camera = camera.to_camera(mesh.points)
    starts = np.concatenate([[0], np.cumsum(mesh.sizes)[:-1]])
    kept = _maybe_visible(in_camera, starts, mesh, camera)
    rows, starts, sizes = rows_of_faces(starts[kept], mesh.sizes[kept])
    in_camera, points = in_camera[rows], mesh.points[rows]
    facts, looks = mesh.facts[kept], mesh.looks[kept]
    ends = starts + sizes

    whole = np.minimum.reduceat(in_camera[:, 2], starts) >= NEAR_M
    pixels = camera.to_pixels(np.where(in_camera[:, 2:] < NEAR_M, [0.0, 0.0, 1.0], in_camera))
    following = np.arange(len(in_camera)) + 1
    following[ends - 1] = starts
    u, v = pixels.T
    area = np.add.reduceat(u * v[following] - u[following] * v, starts)
    low, high = np.minimum.reduceat(pixels, starts), np.maximum.reduceat(pixels, starts)
    # Fills are at least a pixel wide, so a sliver would grow; a face that faces away has a negative area.
    hidden = (facts[:, m.ONE_SIDED] == 1) & (area < 2 * _SLIVER_PX)
    hidden |= (high - low).max(axis=1) < _TINY_PX
    part_distance = _part_distances(mesh, camera)
    order = _painting_order(facts, part_distance, np.flatnonzero(~(whole & hidden)))

    size = (camera.height_px * SUPERSAMPLE, camera.width_px * SUPERSAMPLE)
    faces, shade = np.zeros(size, np.int32), np.zeros(size, np.uint8)
    face_boxes = np.concatenate([low[order], high[order]], axis=1)
    fixed = _fixed_point(pixels)
    fill_convex, fill = cv2.fillConvexPoly, cv2.fillPoly
    # How to fill a face: as a convex shape, as any shape, as a shade, or after the near plane has cut it.
    how = np.where(facts[:, m.CONVEX] == 1, _CONVEX, _ANY)
    how[facts[:, m.LAYER] >= _FIRST_SHADE] = _SHADE
    how[~whole] = _CUT
    for index, (face, start, stop, way) in enumerate(
        zip(order.tolist(), starts[order].tolist(), ends[order].tolist(), how[order].tolist(), strict=True)
    ):
        outline = fixed[start:stop]
        if way == _CONVEX:
            fill_convex(faces, outline, index + 1, 8, _SUBPIXEL_BITS)
            continue
        if way == _ANY:
            fill(faces, [outline], index + 1, 8, _SUBPIXEL_BITS)
            continue
        layer = int(facts[face, m.LAYER])
        if way == _CUT:
            corners = camera.to_pixels(_clip(in_camera[start:stop]))
            if len(corners) < 3 or (facts[face, m.ONE_SIDED] and _area(corners) <= 0):
                face_boxes[index] = np.nan
                continue
            face_boxes[index] = (*corners.min(axis=0), *corners.max(axis=0))
            outline = _fixed_point(corners)
        if layer >= _FIRST_SHADE:
            fill_convex(shade, outline, layer - _FIRST_SHADE + 1, 8, _SUBPIXEL_BITS)
        else:
            fill(faces, [outline], index + 1, 8, _SUBPIXEL_BITS)
    faces *= SHADES
    faces += shade

    centres = (np.add.reduceat(points, starts) / sizes[:, None])[order]
    return View(
        faces=faces,
        mesh_faces=np.concatenate([[-1], np.flatnonzero(kept)[order]]),
        looks=np.concatenate([np.zeros((1, 10)), looks[order]]),
        facts=np.concatenate([np.zeros((1, 6), dtype=np.int64), facts[order]]),
        centres=np.concatenate([camera.place[None] + [0.0, 0.0, 1e4], centres]),
        distance_m=np.concatenate([[1e4], np.linalg.norm(centres - camera.place, axis=1)]),
        face_boxes=np.concatenate([np.full((1, 4), np.nan), face_boxes]),
        mesh=mesh,
        part_distance_m=part_distance,
        camera=camera,
    )


def _painting_order(facts: Ints, part_distance: Floats, drawn: Ints) -> Ints:
    """Sort the faces of `drawn` by layer; among buildings and in the street, distant ones come first."""
    layer = facts[drawn, m.LAYER]
    sorted_by_depth = (layer == Layer.BUILDINGS) | (layer == Layer.STREET)
    depth = np.where(sorted_by_depth, part_distance[facts[drawn, m.PART]], 0.0)
    return np.asarray(drawn[np.lexsort((drawn, -depth, layer))])


def _part_distances(mesh: Mesh, camera: Camera) -> Floats:
    x0, z0, x1, z1 = mesh.footprints.T
    dx = np.maximum(np.maximum(x0 - camera.street_x, camera.street_x - x1), 0.0)
    dz = np.maximum(np.maximum(z0 - camera.place[2], camera.place[2] - z1), 0.0)
    return np.asarray(np.hypot(dx, dz))


def _maybe_visible(in_camera: Floats, starts: Ints, mesh: Mesh, camera: Camera) -> NDArray[np.bool_]:
    """Return the faces that are not completely outside one of the planes that bound the view."""
    x, y, z = in_camera.T
    reach_x = camera.width_px / 2 / camera.focal_px * 1.02
    reach_y = camera.height_px / 2 / camera.focal_px * 1.02
    kept = np.maximum.reduceat(z, starts) > NEAR_M
    for outside in (x - reach_x * z, -x - reach_x * z, y - reach_y * z, -y - reach_y * z):
        kept &= np.minimum.reduceat(outside, starts) < 0
    return np.asarray(kept)


def rows_of_faces(starts: Ints, sizes: Ints) -> tuple[Ints, Ints, Ints]:
    """Return the point numbers of the chosen faces, and the start of each face among them."""
    new_starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    rows = np.arange(int(sizes.sum())) + np.repeat(starts - new_starts, sizes)
    return rows, new_starts, sizes


def _fixed_point(pixels: Floats) -> NDArray[np.int32]:
    # OpenCV's pixel i lies at coordinate i, ours reaches from i to i + 1.
    scaled = (np.clip(pixels, -2e4, 2e4) * SUPERSAMPLE - 0.5) * (1 << _SUBPIXEL_BITS)
    return np.rint(scaled).astype(np.int32)


def _clip(in_camera: Floats) -> Floats:
    """Clip a polygon to the part in front of the camera (Sutherland and Hodgman's algorithm, one plane)."""
    out = []
    corners = in_camera.tolist()
    for (ax, ay, az), (bx, by, bz) in zip(corners, corners[1:] + corners[:1], strict=True):
        if az >= NEAR_M:
            out.append((ax, ay, az))
        if (az >= NEAR_M) != (bz >= NEAR_M):
            t = (NEAR_M - az) / (bz - az)
            out.append((ax + t * (bx - ax), ay + t * (by - ay), NEAR_M))
    return np.array(out, dtype=np.float64).reshape(-1, 3)


def _area(pixels: Floats) -> float:
    u, v = pixels.T
    return float(np.sum(u * np.roll(v, -1) - np.roll(u, -1) * v))
