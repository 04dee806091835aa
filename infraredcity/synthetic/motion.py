"""Compute optical flow from the geometry: a point of a face, the same point a moment later, and whether it is visible there."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infraredcity.synthetic import mesh as m
from infraredcity.synthetic.camera import Camera
from infraredcity.synthetic.flow import Flow
from infraredcity.synthetic.mesh import Floats, Ints, Mesh
from infraredcity.synthetic.raster import NEAR_M, SHADES, SUPERSAMPLE, View, rows_of_faces
from infraredcity.synthetic.shading import panorama_place
from infraredcity.synthetic.street import Scene

_SKY, _GONE = -1, -2
"""Instead of a face's number: the sky; a face that is missing at the earlier moment."""
_NEAR_M, _NEAR_SHARE = 0.05, 0.02
"""Two faces at one pixel touch there if their distances differ by no more than this, in metres plus a share of the distance."""

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class _FacePicture:
    """The picture of faces of one moment, with the face numbers of the earlier moment's mesh.

    Attributes:
        picture: `View.faces`, row by row; its values are rows of the tables below [2H * 2W].
        numbers: Number of each face, or _SKY or _GONE [N].
        movers: The moving object of each face: 0 for static ones, -1 for the skyline [N].
        planes: The face's plane: the product with a ray (right, up, 1) is 1 / forward distance [3, N].
        low: Least 1 / forward distance on the face [N].
        high: Greatest 1 / forward distance on it [N].
    """

    picture: NDArray[np.int32]
    numbers: Ints
    movers: Ints
    planes: Floats
    low: Floats
    high: Floats

    def inverse_depth(self, faces: Ints | NDArray[np.int32], rays: Floats) -> Floats:
        """Compute 1 / forward distance of the points where rays [3, K] meet the planes of faces [K]."""
        meet = self.planes[0].take(faces) * rays[0]
        meet += self.planes[1].take(faces) * rays[1]
        meet += self.planes[2].take(faces)
        np.maximum(meet, self.low.take(faces), out=meet)
        return np.asarray(np.minimum(meet, self.high.take(faces), out=meet))


def find_flow(scene: Scene, view: View, later_scene: Scene, later_view: View, moved: Floats) -> Flow:
    """Compute the optical flow from one moment to a later one.

    A pixel's point is where the ray through its middle meets the plane of the face that `World.labels` names. The point keeps its
    place on its face: static faces do not move, vehicles drive along the bent street, the skyline moves with the camera, the
    faces of people and cyclists turn and stretch with their pose. The sky moves as in `crop_panorama`. Shadows, light and noise
    have no flow: where only they change, the flow is that of the ground below them.

    The flow is exact, with these exceptions. A face that changes its shape moves by the affine map that fits its corners best,
    with an error of millimetres where the street's bend deforms a vehicle. The hills, a curved strip, count as flat. Where a
    painted face extends a fraction of a pixel beyond its shape, or is seen edge on, distances are limited to those of its
    corners, except on the ground.

    `visible` is strict: all four half pixels around the point must show, in both pictures, its face or one that touches it there
    and moves with it. For a moving object, one of the four must show exactly this face, since an arm that swings in front of its
    body touches it too. A point that ends behind the camera is not in the picture: its flow is 0.

    Args:
        scene: The scene at the earlier moment.
        view: The view of it.
        later_scene: The scene at the later moment.
        later_view: The view of it.
        moved: The corners of the earlier scene's mesh at the later moment, from `Street.moved` [V, 3].
    """
    camera, later_camera = view.camera, later_view.camera
    height, width = camera.height_px, camera.width_px
    movers = _movers(scene)
    picture = _face_picture(view, np.arange(len(movers)), movers)
    later = _face_picture(later_view, *_as_earlier(later_scene, scene, movers))

    columns = np.tile(np.arange(width) + 0.5, height)
    rows = np.repeat(np.arange(height) + 0.5, width)
    faces = view.faces[1::SUPERSAMPLE, 1::SUPERSAMPLE].ravel().astype(np.int64)
    rays = _rays(columns, rows, camera)
    inverse = picture.inverse_depth(faces, rays)
    places = _carried(view, later_camera, moved, faces, rays, inverse)
    sky = np.flatnonzero(faces < SHADES)
    places[:, sky] = 1.0  # any point in front of the camera
    ahead = places[2] > NEAR_M * inverse
    scale = np.divide(1.0, places[2], out=np.zeros_like(inverse), where=ahead)
    x = width / 2 + later_camera.focal_px * places[0] * scale
    y = height / 2 - later_camera.focal_px * places[1] * scale
    x[sky], y[sky] = _sky_target(columns[sky], rows[sky], camera, later_camera)

    around = np.stack(
        [view.faces[i::SUPERSAMPLE, j::SUPERSAMPLE].ravel() for i in range(SUPERSAMPLE) for j in range(SUPERSAMPLE)]
    )
    own = (picture.numbers.take(faces), picture.movers.take(faces))
    visible = ahead & _show(picture, around, rays, *own, inverse)
    inside, later_around = _around(later, x, y, later_camera)
    visible &= inside & _show(later, later_around, _rays(x, y, later_camera), *own, inverse * scale)
    forward = np.stack([np.where(ahead, x - columns, 0.0), np.where(ahead, y - rows, 0.0)], axis=1)
    return Flow(forward=forward.astype(np.float32).reshape(height, width, 2), visible=visible.reshape(height, width))


def _movers(scene: Scene) -> Ints:
    """Return the moving object of each face of a scene's mesh [F]."""
    movers = scene.movers()
    skyline = slice(0, scene.num_faces[0])
    movers[skyline] = np.where(scene.mesh.facts[skyline, m.IS_GROUND] == 1, 0, -1)
    return movers


def _as_earlier(later: Scene, earlier: Scene, movers: Ints) -> tuple[Ints, Ints]:
    """Return for each face of the later mesh its number in the earlier one, and its moving object."""
    numbers = later.faces_in(earlier)
    # A piece of the street that has just come into view is static like the others; a new member matches none.
    strangers = np.where(later.movers() == 0, 0, _GONE)
    return np.where(numbers < 0, _GONE, numbers), np.where(numbers < 0, strangers, movers[numbers])


def _face_picture(view: View, numbers: Ints, movers: Ints) -> _FacePicture:
    solid = view.mesh_faces[1:]
    planes, low, high = _planes(view.mesh, solid, view.camera)
    return _FacePicture(
        picture=view.faces.ravel(),
        numbers=np.concatenate([[_SKY], numbers[solid]]).repeat(SHADES),
        movers=np.concatenate([[_SKY], movers[solid]]).repeat(SHADES),
        planes=np.concatenate([np.zeros((3, 1)), planes.T], axis=1).repeat(SHADES, axis=1),
        low=np.concatenate([[0.0], low]).repeat(SHADES),
        high=np.concatenate([[0.0], high]).repeat(SHADES),
    )


def _planes(mesh: Mesh, faces: Ints, camera: Camera) -> tuple[Floats, Floats, Floats]:
    """Return the planes of faces, see `_FacePicture`, and the bounds of 1 / forward distance on them."""
    rows, starts, sizes = rows_of_faces(_starts(mesh)[faces], mesh.sizes[faces])
    corners = camera.to_camera(mesh.points[rows])
    middles = np.add.reduceat(corners, starts) / sizes[:, None]
    following = np.arange(len(corners)) + 1
    following[starts + sizes - 1] = starts
    relative = corners - np.repeat(middles, sizes, axis=0)
    # Newell's method: the sum of the cross products of neighbours is normal to the plane that fits a polygon best.
    normals = np.add.reduceat(np.cross(relative, relative[following]), starts)
    offsets = np.einsum("nk,nk->n", normals, middles)
    depth = np.maximum(corners[:, 2], NEAR_M)
    low, high = 1.0 / np.maximum.reduceat(depth, starts), 1.0 / np.minimum.reduceat(depth, starts)
    # The ground continues beyond its faces; a kilometre is farther than all of them.
    ground = mesh.facts[faces, m.IS_GROUND] == 1
    low[ground], high[ground] = 1e-3, 1.0 / NEAR_M
    # A plane through the camera appears as a line; the distance of its middle is accurate enough.
    edge_on = np.abs(offsets) < 1e-9 * np.linalg.norm(normals, axis=1) * np.linalg.norm(middles, axis=1)
    planes = normals / np.where(edge_on, 1.0, offsets)[:, None]
    planes[edge_on] = np.stack([np.zeros_like(low), np.zeros_like(low), (low + high) / 2], axis=1)[edge_on]
    return planes, low, high


def _carried(view: View, later: Camera, moved: Floats, faces: Ints, rays: Floats, inverse: Floats) -> Floats:
    """Return the points for the later camera: right, up and forward, each times 1 / distance of the earlier point [3, K]."""
    camera, mesh = view.camera, view.mesh
    turn = later.rotation() @ camera.rotation().T
    shift = later.rotation() @ (camera.place - later.place)
    places = turn @ rays + shift[:, None] * inverse
    shown = np.flatnonzero(np.bincount(faces // SHADES, minlength=len(view.mesh_faces))[1:]) + 1
    rows, starts, sizes = rows_of_faces(_starts(mesh)[view.mesh_faces[shown]], mesh.sizes[view.mesh_faces[shown]])
    before, after = mesh.points[rows], moved[rows]
    moving = np.logical_or.reduceat((before != after).any(axis=1), starts)
    if not moving.any():
        return places
    corners = np.repeat(moving, sizes)
    bends, steps = _affine(before[corners], after[corners], sizes[moving])
    turns = later.rotation() @ (bends + np.eye(3)) @ camera.rotation().T
    shifts = (bends @ camera.place + steps + camera.place - later.place) @ later.rotation().T
    table = np.full(len(view.mesh_faces), -1)
    table[shown[moving]] = np.arange(int(moving.sum()))
    own = table.repeat(SHADES).take(faces)
    points = np.flatnonzero(own >= 0)
    own = own[points]
    places[:, points] = np.einsum("kij,jk->ik", turns[own], rays[:, points]) + shifts[own].T * inverse[points]
    return places


def _affine(before: Floats, after: Floats, sizes: Ints) -> tuple[Floats, Floats]:
    """Fit A [N, 3, 3] and b [N, 3] for each face by least squares: its corners move by A p + b; A is 0 across its plane."""
    starts = np.cumsum(sizes) - sizes
    middles = np.add.reduceat(before, starts) / sizes[:, None]
    steps = np.add.reduceat(after - before, starts) / sizes[:, None]
    arms = before - np.repeat(middles, sizes, axis=0)
    rest = after - before - np.repeat(steps, sizes, axis=0)
    matrices = np.zeros((len(sizes), 3, 3))
    bends = np.maximum.reduceat(np.abs(rest).max(axis=1), starts) > 1e-9
    if bends.any():
        square = np.add.reduceat(arms[:, :, None] * arms[:, None, :], starts)[bends]
        product = np.add.reduceat(arms[:, :, None] * rest[:, None, :], starts)[bends]
        # Corners that are a millimetre off the plane must not decide the motion across it.
        matrices[bends] = np.swapaxes(np.linalg.pinv(square, rcond=1e-6, hermitian=True) @ product, 1, 2)
    return matrices, steps - np.einsum("nij,nj->ni", matrices, middles)


def _around(picture: _FacePicture, x: Floats, y: Floats, camera: Camera) -> tuple[Bools, NDArray[np.int32]]:
    """Return whether the four half pixels around places are inside the picture [K], and the faces there [4, K]."""
    columns, rows = np.floor(x * SUPERSAMPLE - 0.5), np.floor(y * SUPERSAMPLE - 0.5)
    width, height = camera.width_px * SUPERSAMPLE, camera.height_px * SUPERSAMPLE
    inside = (columns >= 0) & (columns < width - 1) & (rows >= 0) & (rows < height - 1)
    corner = np.where(inside, rows * width + columns, 0.0).astype(np.int64)
    return inside, np.stack([picture.picture.take(corner + step) for step in (0, 1, width, width + 1)])


def _show(
    picture: _FacePicture, around: NDArray[np.int32], rays: Floats, numbers: Ints, movers: Ints, inverse: Floats
) -> Bools:
    """Return whether half pixels show faces, by the rules of `find_flow` [K].

    Args:
        picture: The picture.
        around: Faces at the four half pixels around each point [4, K].
        rays: From the camera to the points [3, K].
        numbers: The points' own faces [K].
        movers: The moving objects of those [K].
        inverse: 1 / forward distance of the points [K].
    """
    same = np.stack([picture.numbers.take(faces) == numbers for faces in around])
    shown = np.asarray(same.all(axis=0))
    unsure = np.flatnonzero(~shown & (same.any(axis=0) | (movers <= 0)))
    rays, mine, movers = rays[:, unsure], inverse[unsure], movers[unsure]
    good = np.ones(len(unsure), np.bool_)
    for faces, own in zip(around[:, unsure], same[:, unsure], strict=True):
        other = picture.inverse_depth(faces, rays)
        # |1 / other - 1 / mine| <= near + share / mine, without the division by what may be 0
        touches = np.abs(mine - other) <= other * (_NEAR_M * mine + _NEAR_SHARE)
        good &= own | (touches & (picture.movers.take(faces) == movers))
    shown[unsure] = good
    return shown


def _sky_target(x: Floats, y: Floats, camera: Camera, later: Camera) -> Floats:
    """Return the places of points of the sky for a later camera [2, K]."""
    before, after = panorama_place(camera, 0, 0), panorama_place(later, 0, 0)
    turn = np.linalg.inv(after[:, :2])
    # The panorama is cropped by pixel numbers, which are half a pixel less than the positions of the pixels' middles.
    step = turn @ (before[:, 2] - after[:, 2]) + 0.5
    return np.asarray(turn @ before[:, :2] @ np.stack([x - 0.5, y - 0.5]) + step[:, None])


def _rays(x: Floats, y: Floats, camera: Camera) -> Floats:
    """Return rays through places of the picture: right, up and forward, with forward 1 [3, K]."""
    right, up = (x - camera.width_px / 2) / camera.focal_px, (camera.height_px / 2 - y) / camera.focal_px
    return np.stack([right, up, np.ones_like(x)])


def _starts(mesh: Mesh) -> Ints:
    return np.asarray(np.cumsum(mesh.sizes) - mesh.sizes)
