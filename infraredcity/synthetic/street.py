"""Define what all streets share: pieces that are built near the camera, traffic, bends, a camera path."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np

from infraredcity.synthetic.camera import Camera, shake
from infraredcity.synthetic.materials import MEADOW, Material, Surface, surface
from infraredcity.synthetic.mesh import IS_GROUND, Floats, Ints, Layer, Mesh, MeshBuilder, join
from infraredcity.synthetic.traffic import Stream
from infraredcity.synthetic.vehicles import NUM_CARS, car


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The scene near the camera at one moment.

    Attributes:
        mesh: All of it.
        pieces: Numbers of the street's pieces in it.
        members: Stream and number of each member of the traffic in it.
        things: Names of what the mesh was joined from, in its order: the skyline, the pieces, the members.
        num_faces: Faces of each thing.
    """

    mesh: Mesh
    pieces: range
    members: tuple[tuple[Stream, int], ...]
    things: tuple[str, ...]
    num_faces: tuple[int, ...]

    def faces_in(self, other: "Scene") -> Ints:
        """Return the number of each face of this mesh in the mesh of another moment, -1 where it is missing [F]."""
        starts = np.cumsum(self.num_faces) - self.num_faces
        start_of = dict(zip(other.things, np.cumsum(other.num_faces) - other.num_faces, strict=True))
        other_starts = np.array([start_of.get(thing, -1) for thing in self.things])
        numbers = np.arange(sum(self.num_faces)) + np.repeat(other_starts - starts, self.num_faces)
        numbers[np.repeat(other_starts < 0, self.num_faces)] = -1
        return numbers

    def movers(self) -> Ints:
        """Return the number of the moving object of each face, 0 for static objects and the skyline [F]."""
        still = 1 + len(self.pieces)
        return np.repeat(np.maximum(np.arange(len(self.things)) - still + 1, 0), self.num_faces)


class Street(ABC):
    """An endless street; everything in it is a function of the seed words of `key`."""

    piece_m: float
    """Length of one piece."""
    view_m: float
    """Visible distance of the camera."""
    speed_mps: float
    """Speed of the camera along the street."""
    lane_m: float
    """The camera's x before the bend."""
    height_m: float
    """The camera's height."""
    yaw: float = 0.0
    pitch: float = 0.0
    shake_share: float = 1.0
    """Shake of the mount, relative to the usual one."""
    far_ground: Surface = MEADOW

    def __init__(self, key: tuple[int, ...]) -> None:
        self.key = key
        rng = self.random(0)
        self._shake_phases = rng.uniform(0, 2 * math.pi, (4, 3))
        self._bend_phases = rng.uniform(0, 2 * math.pi, 2)
        self._skyline = self._build_skyline(self.random(1))
        self._pieces: dict[int, Mesh] = {}
        self._joined: tuple[range, Mesh] | None = None
        self.streams = self._build_streams()

    def random(self, *purpose: int) -> np.random.Generator:
        """Return the random generator for one purpose."""
        return np.random.default_rng([*self.key, *purpose])

    @abstractmethod
    def build_piece(self, index: int) -> Mesh:
        """Build the piece between `index` and `index + 1` times `piece_m`."""

    @abstractmethod
    def _build_streams(self) -> tuple[Stream, ...]:
        """Return the traffic."""

    @abstractmethod
    def _build_skyline(self, rng: np.random.Generator) -> Mesh:
        """Build the skyline around the camera."""

    def bend_sizes(self) -> tuple[tuple[float, float], ...]:
        """Return amplitude and wavelength of the street's bends, both in metres."""
        return ()

    def bend(self, z: Floats) -> Floats:
        """Return how far the street is to the right of a straight one at each z, metres."""
        total = np.zeros_like(z)
        for (size, length), phase in zip(self.bend_sizes(), self._bend_phases, strict=False):
            total += size * np.sin(2 * math.pi * z / length + phase)
        return total

    def camera(self, time_s: float, width_px: int, height_px: int) -> Camera:
        """Return the camera at a moment."""
        z = self.speed_mps * time_s
        yaw, pitch, roll, lift = self.shake_share * shake(time_s, self._shake_phases)
        ahead = self.bend(np.array([z, z + 12.0]))
        place = np.array([self.lane_m + float(ahead[0]), self.height_m + lift, z])
        road_yaw = math.atan2(float(ahead[1] - ahead[0]), 12.0) if self.speed_mps else 0.0
        return Camera(
            place=place,
            street_x=self.lane_m,
            yaw=self.yaw + road_yaw + float(yaw),
            pitch=self.pitch + float(pitch),
            roll=float(roll),
            width_px=width_px,
            height_px=height_px,
        )

    def scene(self, time_s: float) -> Scene:
        """Return everything near the camera at a moment."""
        z = self.speed_mps * time_s
        pieces = self.pieces_in_view(z)
        if self._joined is None or self._joined[0] != pieces:
            self._pieces = {i: self._pieces.get(i) or self._bent(_named(self.build_piece(i), i)) for i in pieces}
            self._joined = (pieces, join([self._pieces[i] for i in pieces]))
        members = tuple((stream, i) for stream in self.streams for i in self._members(stream, time_s, z))
        moving = [stream.at(time_s, i) for stream, i in members]
        bent = [self._bent(join(moving))] if moving else []
        skyline = self._skyline_at(time_s)
        return Scene(
            mesh=join([skyline, self._joined[1], *bent]),
            pieces=pieces,
            members=members,
            things=("skyline", *(f"piece:{i}" for i in pieces), *(f"{stream.name}:{i}" for stream, i in members)),
            num_faces=(
                len(skyline.sizes),
                *(len(self._pieces[i].sizes) for i in pieces),
                *(len(mesh.sizes) for mesh in moving),
            ),
        )

    def moved(self, scene: Scene, time_s: float) -> Floats:
        """Return the positions of the corners of a scene's mesh at another moment, metres [V, 3].

        The ground does not move, also the distant ground, which is only redrawn around the camera.
        """
        skyline = self._skyline_at(time_s)
        still = (skyline.facts[:, IS_GROUND] == 1).repeat(skyline.sizes)
        points = scene.mesh.points.copy()
        points[: len(still)][~still] = skyline.points[~still]
        if scene.members:
            moving = self._bent(join([stream.at(time_s, i) for stream, i in scene.members]))
            points[len(points) - len(moving.points) :] = moving.points
        return points

    def _skyline_at(self, time_s: float) -> Mesh:
        z = self.speed_mps * time_s
        return self._skyline.placed(self.lane_m + float(self.bend(np.array([z]))[0]), z)

    def _bent(self, mesh: Mesh) -> Mesh:
        """Bend the mesh of a straight street; footprints stay, since they only decide the order of painting."""
        points, lamps = mesh.points.copy(), mesh.lamps.copy()
        points[:, 0] += self.bend(points[:, 2])
        lamps[:, 0] += self.bend(lamps[:, 2])
        return replace(mesh, points=points, lamps=lamps)

    def pieces_in_view(self, z: float) -> range:
        """Return the numbers of the pieces that the camera at `z` can see."""
        first = math.floor((z - 8.0) / self.piece_m)
        return range(first, first + math.ceil(self.view_m / self.piece_m) + 1)

    def _members(self, stream: Stream, time_s: float, z: float) -> list[int]:
        if stream.across:
            return stream.between(time_s, -60.0, 60.0)
        near = 30.0 if any(kind != "person" for kind, _ in stream.kinds) else 80.0
        return stream.between(time_s, z - 12.0, z + min(self.view_m, max(near, self.view_m * 0.8)))


def skyline(rng: np.random.Generator, *, blocks: bool, far_ground: Surface) -> Mesh:
    """Build the ground up to the horizon, with a row of distant blocks of flats or wooded hills."""
    mesh = MeshBuilder()
    mesh.part("", layer=Layer.BACKDROP)
    angles = np.linspace(-1.1, 1.1, 56)
    for radius, tone, lift in ((950.0, 1.12, 1.0), (700.0, 0.92, 0.62)):
        heights = np.zeros(len(angles))
        for waves in (2.0, 5.0, 11.0):
            heights += np.sin(waves * angles * 2.2 + rng.uniform(0, 6.3)) / waves
        heights = 34.0 * lift + 22.0 * lift * heights
        hill = surface(Material.HILL, (96 * tone, 128 * tone, 98 * tone))
        top = [
            (radius * math.sin(a), max(4.0, float(h)), radius * math.cos(a))
            for a, h in zip(angles, heights, strict=True)
        ]
        foot = [(radius * math.sin(a), -6.0, radius * math.cos(a)) for a in angles[::-1]]
        mesh.face(top + foot, hill, convex=False)
    if blocks:
        angle = -0.9
        while angle < 0.9:
            width, height = float(rng.uniform(0.025, 0.06)), float(rng.uniform(14, 42))
            tone = float(rng.uniform(0.85, 1.1))
            block = surface(Material.HILL, (158 * tone, 156 * tone, 160 * tone), heat=0.40)
            x0, x1, z = 480 * math.sin(angle), 480 * math.sin(angle + width), 480 * math.cos(angle)
            mesh.face(((x0, -3, z), (x1, -3, z), (x1, height, z), (x0, height, z)), block)
            angle += width + float(rng.uniform(-0.01, 0.03))
    mesh.ground(-900, -30, 900, 900, far_ground, layer=Layer.BACKDROP)
    return mesh.build()


def _named(piece: Mesh, index: int) -> Mesh:
    """Give each object of a piece a name that it keeps in all frames."""
    names = tuple(f"{kind}:{index}:{number}" if kind else "" for number, kind in enumerate(piece.kinds))
    return replace(piece, names=names)


def parked(rng: np.random.Generator, x: float, z: float, *, quarter_turns: int) -> Mesh:
    """Build a parked car, cold unless it arrived recently."""
    just_came = bool(rng.random() < 0.12)
    variant = int(rng.integers(NUM_CARS))
    return car(variant, running=just_came, quarter_turns=quarter_turns).placed(x, z)
