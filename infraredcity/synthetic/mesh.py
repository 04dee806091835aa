"""Meshes of flat faces, of which every object of the street world is made.

Axes: x to the right, y up, z forward along the street; metres. A heading turns about y: 0 faces +z, pi/2 faces +x.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from infraredcity.synthetic.materials import ASPHALT, GROUND, Number, Surface
from infraredcity.synthetic.sun import SHADOW_SLOPE

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Point = tuple[Number, Number, Number]


class Layer(IntEnum):
    """The order of painting; inside a layer, distant parts are painted before close ones."""

    BACKDROP = 0
    TERRAIN = 1
    ROADWAY = 2
    MARKINGS = 3
    BUILDINGS = 4
    STREET = 5
    SHADOW = 8
    """Invisible: marks ground in shadow."""
    CONTACT = 9
    """Invisible: marks the ground directly under an object."""


# Columns of `Mesh.looks`.
COLOUR = slice(0, 3)
HEAT = 3
LIGHT = slice(4, 7)
NORMAL = slice(7, 10)
# Columns of `Mesh.facts`.
MATERIAL, LAYER, PART, ONE_SIDED, CONVEX, IS_GROUND = range(6)
# Columns of `Mesh.lamps`.
LAMP_PLACE = slice(0, 3)
LAMP_RGB = slice(3, 6)
LAMP_SIZE_M = 6
LAMP_NORMAL = slice(7, 10)
LAMP_PART = 10
LAMP_IS_STREET = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """A group of objects made of flat faces.

    Attributes:
        points: Corners of all faces, one face after the other, metres [V, 3].
        sizes: Number of corners of each face [F].
        looks: Colour, heat, light and normal of each face [F, 10]; the normal is 0 for light from all directions.
        facts: Material, layer, part, one-sided, convex, ground of each face [F, 6].
        footprints: Ground rectangle of each part: x0, z0, x1, z1 [P, 4].
        kinds: Class of each part, "" for ground and background.
        names: Name of each part, the same in all frames.
        lamps: Points that shine by night [L, 12].
    """

    points: Floats
    sizes: Ints
    looks: Floats
    facts: Ints
    footprints: Floats
    kinds: tuple[str, ...]
    names: tuple[str, ...]
    lamps: Floats

    def placed(
        self, x: Number, z: Number, *, y: Number = 0.0, heading: Number = 0.0, name: str | None = None
    ) -> "Mesh":
        """Return the mesh, turned by `heading` radians and moved to (x, y, z) metres."""
        offset = np.array([x, y, z])
        names = self.names if name is None else (name,) * len(self.names)
        if heading == 0.0:
            lamps = self.lamps.copy()
            lamps[:, LAMP_PLACE] += offset
            footprints = self.footprints + np.array([x, z, x, z])
            return replace(self, points=self.points + offset, footprints=footprints, lamps=lamps, names=names)
        cos, sin = math.cos(heading), math.sin(heading)
        turn = np.array([[cos, 0.0, -sin], [0.0, 1.0, 0.0], [sin, 0.0, cos]])
        looks, lamps = self.looks.copy(), self.lamps.copy()
        looks[:, NORMAL] = looks[:, NORMAL] @ turn
        lamps[:, LAMP_PLACE] = lamps[:, LAMP_PLACE] @ turn + offset
        lamps[:, LAMP_NORMAL] = lamps[:, LAMP_NORMAL] @ turn
        x0, z0, x1, z1 = self.footprints.T
        corners_x = np.stack([x0 * cos + z0 * sin, x0 * cos + z1 * sin, x1 * cos + z0 * sin, x1 * cos + z1 * sin])
        corners_z = np.stack([z0 * cos - x0 * sin, z1 * cos - x0 * sin, z0 * cos - x1 * sin, z1 * cos - x1 * sin])
        footprints = np.stack(
            [corners_x.min(0) + x, corners_z.min(0) + z, corners_x.max(0) + x, corners_z.max(0) + z], axis=1
        )
        return replace(
            self,
            points=self.points @ turn + offset,
            looks=looks,
            lamps=lamps,
            footprints=footprints,
            names=names,
        )

    def shaded(self, height: Number | None = None) -> "Mesh":
        """Return the mesh; its first part casts the shadow of a block of `height` metres over its footprint.

        Without `height` the block is nine tenths as high as the mesh, about right for a house with a roof.
        """
        height = 0.9 * float(self.points[:, 1].max()) if height is None else height
        x0, z0, x1, z1 = (float(value) for value in self.footprints[0])
        shade = MeshBuilder()
        shade.part(self.kinds[0], footprint=(x0, z0, x1, z1))
        shade.shadow(((x0, z0), (x1, z0), (x1, z1), (x0, z1)), 0.0, height)
        extra = shade.build()
        return replace(
            self,
            points=np.concatenate([self.points, extra.points]),
            sizes=np.concatenate([self.sizes, extra.sizes]),
            looks=np.concatenate([self.looks, extra.looks]),
            facts=np.concatenate([self.facts, extra.facts]),
        )


def join(meshes: Sequence[Mesh]) -> Mesh:
    """Join `meshes`; parts are numbered consecutively in the given order."""
    facts, lamps, first = [], [], 0
    for mesh in meshes:
        own_facts, own_lamps = mesh.facts, mesh.lamps
        if first:
            own_facts, own_lamps = own_facts.copy(), own_lamps.copy()
            own_facts[:, PART] += first
            own_lamps[:, LAMP_PART] += first
        facts.append(own_facts)
        lamps.append(own_lamps)
        first += len(mesh.kinds)
    return Mesh(
        points=np.concatenate([mesh.points for mesh in meshes]),
        sizes=np.concatenate([mesh.sizes for mesh in meshes]),
        looks=np.concatenate([mesh.looks for mesh in meshes]),
        facts=np.concatenate(facts),
        footprints=np.concatenate([mesh.footprints for mesh in meshes]),
        kinds=tuple(kind for mesh in meshes for kind in mesh.kinds),
        names=tuple(name for mesh in meshes for name in mesh.names),
        lamps=np.concatenate(lamps),
    )


class MeshBuilder:
    """Collect faces, part by part, into one `Mesh`."""

    def __init__(self) -> None:
        self.usual_layer = Layer.STREET
        """The layer of parts that do not name one."""
        self._points: list[Point] = []
        self._sizes: list[int] = []
        self._looks: list[tuple[float, ...]] = []
        self._facts: list[tuple[int, ...]] = []
        self._parts: list[tuple[str, int, Layer]] = []
        self._footprints: list[tuple[float, float, float, float] | None] = []
        self._lamps: list[tuple[float, ...]] = []

    def part(
        self,
        kind: str = "",
        *,
        layer: Layer | None = None,
        footprint: tuple[float, float, float, float] | None = None,
    ) -> None:
        """Begin a new part; faces added later belong to it. The footprint defaults to the area of its corners."""
        self._parts.append((kind, len(self._points), self.usual_layer if layer is None else layer))
        self._footprints.append(footprint)

    def face(
        self,
        points: Sequence[Point],
        look: Surface,
        *,
        outward: Point | None = None,
        layer: Layer | None = None,
        convex: bool = True,
    ) -> None:
        """Add a flat face. With `outward` it is visible only from that side and shaded by the sun; else from both sides."""
        corners = list(points)
        normal = (0.0, 0.0, 0.0)
        if outward is not None:
            normal = _normal(corners)
            if normal[0] * outward[0] + normal[1] * outward[1] + normal[2] * outward[2] < 0:
                corners.reverse()
                normal = (-normal[0], -normal[1], -normal[2])
        self._points.extend(corners)
        self._sizes.append(len(corners))
        self._looks.append((*look.colour, look.heat, *look.light, *normal))
        self._facts.append(
            (
                int(look.material),
                int(self._parts[-1][2] if layer is None else layer),
                len(self._parts) - 1,
                int(outward is not None),
                int(convex),
                int(look.material in GROUND),
            )
        )

    def ground(
        self, x0: Number, z0: Number, x1: Number, z1: Number, look: Surface, *, layer: Layer, y: Number = 0.0
    ) -> None:
        """Add a level rectangle."""
        self.face(((x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1)), look, outward=(0, 1, 0), layer=layer)

    def upright(self, x0: Number, y0: Number, x1: Number, y1: Number, z: Number, look: Surface) -> None:
        """Add a rectangle across the street, visible from both sides."""
        self.face(((x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)), look)

    def box(self, low: Point, high: Point, look: Surface, *, top: Surface | None = None) -> None:
        """Add the five visible sides of a box on the ground, and its underside if it floats."""
        (x0, y0, z0), (x1, y1, z1) = low, high
        self.face(((x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)), look, outward=(0, 0, -1))
        self.face(((x0, y0, z1), (x1, y0, z1), (x1, y1, z1), (x0, y1, z1)), look, outward=(0, 0, 1))
        self.face(((x0, y0, z0), (x0, y0, z1), (x0, y1, z1), (x0, y1, z0)), look, outward=(-1, 0, 0))
        self.face(((x1, y0, z0), (x1, y0, z1), (x1, y1, z1), (x1, y1, z0)), look, outward=(1, 0, 0))
        self.face(((x0, y1, z0), (x1, y1, z0), (x1, y1, z1), (x0, y1, z1)), top or look, outward=(0, 1, 0))
        if y0 > 1.0:
            self.face(((x0, y0, z0), (x1, y0, z0), (x1, y0, z1), (x0, y0, z1)), look, outward=(0, -1, 0))

    def disc(
        self,
        centre: Point,
        radius: Number,
        look: Surface,
        *,
        axis: str = "z",
        corners: int = 10,
        outward: Point | None = None,
        aspect: Number = 1.0,
    ) -> None:
        """Add a round face about `axis`; `aspect` stretches its height."""
        x, y, z = centre
        points: list[Point] = []
        for i in range(corners):
            turn = 2 * math.pi * (i + 0.5) / corners
            along, up = radius * math.cos(turn), radius * aspect * math.sin(turn)
            points.append((x + along, y + up, z) if axis == "z" else (x, y + up, z + along))
        self.face(points, look, outward=outward)

    def lamp(
        self,
        place: Point,
        rgb: tuple[Number, Number, Number],
        size_m: Number,
        *,
        facing: Point = (0.0, 0.0, 0.0),
        street: bool = False,
    ) -> None:
        """Add a point that shines by night: all around, or to one side; a street lamp also lights what is below it."""
        self._lamps.append((*place, *rgb, size_m, *facing, float(len(self._parts) - 1), float(street)))

    def shadow(self, footprint: Sequence[tuple[Number, Number]], low: Number, high: Number) -> None:
        """Mark the ground that a prism over `footprint`, from height `low` to `high`, hides from the sun."""
        self.face([(x, 0.0, z) for x, z in _shadow(footprint, low, high)], ASPHALT, layer=Layer.SHADOW)

    def build(self) -> Mesh:
        """The mesh of all that was added."""
        points = np.array(self._points, dtype=np.float64).reshape(-1, 3)
        footprints = []
        starts = [part[1] for part in self._parts] + [len(points)]
        for i, footprint in enumerate(self._footprints):
            if footprint is None:
                own = points[starts[i] : starts[i + 1]]
                low, high = (own.min(axis=0), own.max(axis=0)) if len(own) else (np.zeros(3), np.zeros(3))
                footprint = (float(low[0]), float(low[2]), float(high[0]), float(high[2]))
            footprints.append(footprint)
        return Mesh(
            points=points,
            sizes=np.array(self._sizes, dtype=np.int64),
            looks=np.array(self._looks, dtype=np.float64).reshape(-1, 10),
            facts=np.array(self._facts, dtype=np.int64).reshape(-1, 6),
            footprints=np.array(footprints, dtype=np.float64).reshape(-1, 4),
            kinds=tuple(part[0] for part in self._parts),
            names=("",) * len(self._parts),
            lamps=np.array(self._lamps, dtype=np.float64).reshape(-1, 12),
        )


def _shadow(footprint: Sequence[tuple[Number, Number]], low: Number, high: Number) -> list[tuple[float, float]]:
    slope_x, slope_z = SHADOW_SLOPE
    return _hull([(x + slope_x * h, z + slope_z * h) for h in (low, high) for x, z in footprint])


def _normal(points: Sequence[Point]) -> Point:
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = points[0], points[1], points[2]
    ux, uy, uz = bx - ax, by - ay, bz - az
    vx, vy, vz = cx - bx, cy - by, cz - bz
    nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    length = math.sqrt(nx * nx + ny * ny + nz * nz) or 1.0
    return nx / length, ny / length, nz / length


def _hull(points: Sequence[tuple[Number, Number]]) -> list[tuple[float, float]]:
    """The convex hull of points in the plane (Andrew's monotone chain)."""
    ordered = sorted(set(points))
    halves = []
    for run in (ordered, ordered[::-1]):
        chain: list[tuple[float, float]] = []
        for p in run:
            while len(chain) > 1:
                (ax, ay), (bx, by) = chain[-2], chain[-1]
                if (bx - ax) * (p[1] - ay) - (by - ay) * (p[0] - ax) > 0:
                    break
                chain.pop()
            chain.append(p)
        halves.append(chain[:-1])
    return halves[0] + halves[1]
