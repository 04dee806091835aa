"""Build people on foot and on bicycles, as flat figures across the street (their plane faces the camera).

Local axes: feet at the origin, metres. A figure that walks along the street shows its front or back, one that crosses
it shows its side.
"""

import math
from functools import lru_cache

import numpy as np

from infraredcity.synthetic.materials import CLOTHES, HAIRS, SKINS, TROUSERS, Material, Number, Surface, surface
from infraredcity.synthetic.mesh import Layer, Mesh, MeshBuilder

NUM_PEOPLE = 40
"""Number of different people; a variant is a number below it."""
NUM_STRIDES = 12
"""Number of poses in a double step."""


class _Figure:
    """The appearance of one person."""

    def __init__(self, variant: int) -> None:
        rng = np.random.default_rng([variant, 2])
        self.scale = float(rng.uniform(0.93, 1.06))
        skin = SKINS[int(rng.integers(len(SKINS)))]
        self.skin = surface(Material.SKIN, skin)
        self.hair = surface(Material.SKIN, HAIRS[int(rng.integers(len(HAIRS)))], heat=0.74)
        top = CLOTHES[int(rng.integers(len(CLOTHES)))]
        legs = TROUSERS[int(rng.integers(len(TROUSERS)))]
        warmth = float(rng.uniform(-0.05, 0.05))
        self.top = surface(Material.CLOTHES, top, heat=0.74 + warmth)
        self.legs = surface(Material.CLOTHES, legs, heat=0.68 + warmth)
        self.shoes = surface(Material.CLOTHES, (40, 36, 34), heat=0.52)
        self.helmet = surface(Material.CLOTHES, ((232, 232, 228), (210, 60, 40), (60, 110, 190))[variant % 3], heat=0.6)


@lru_cache(maxsize=4 * NUM_PEOPLE * NUM_STRIDES)
def walker(variant: int, *, stride: int, along: int) -> Mesh:
    """Build a person on foot.

    Args:
        variant: Number of the person, 0 to NUM_PEOPLE - 1.
        stride: Pose within a double step, 0 to NUM_STRIDES - 1; -1 is standing.
        along: Walks away from the camera (0), towards it (1), to the right (2) or to the left (3).
    """
    who = _Figure(variant)
    swing = 0.0 if stride < 0 else math.sin(2 * math.pi * stride / NUM_STRIDES)
    mesh = MeshBuilder()
    mesh.part("person", footprint=(-0.25, -0.15, 0.25, 0.15))
    _contact(mesh, 0.2, 0.13)
    s = who.scale

    def quad(x0: Number, y0: Number, w0: Number, x1: Number, y1: Number, w1: Number, look: Surface) -> None:
        mesh.face(
            (
                (s * (x0 - w0 / 2), s * y0, 0),
                (s * (x0 + w0 / 2), s * y0, 0),
                (s * (x1 + w1 / 2), s * y1, 0),
                (s * (x1 - w1 / 2), s * y1, 0),
            ),
            look,
        )

    sideways = along >= 2
    face_dir = {2: 1.0, 3: -1.0}.get(along, 0.0)
    if sideways:
        for sign in (-1.0, 1.0):
            reach = 0.30 * swing * sign
            lift = 0.05 * max(0.0, swing * sign)
            quad(reach, lift + 0.06, 0.13, 0.0, 0.92, 0.2, who.legs)
            quad(reach + 0.05 * face_dir, lift, 0.26, reach + 0.03 * face_dir, lift + 0.08, 0.18, who.shoes)
        quad(-0.26 * swing, 0.88, 0.09, 0, 1.42, 0.12, who.top.lighter(0.8))
        quad(0, 0.86, 0.3, 0, 1.46, 0.3, who.top)
        quad(0.26 * swing, 0.88, 0.09, 0, 1.42, 0.13, who.top.lighter(0.86))
        quad(0.27 * swing, 0.80, 0.1, 0.26 * swing, 0.89, 0.1, who.skin)
    else:
        for sign in (-1.0, 1.0):
            lift = 0.09 * max(0.0, swing * sign)
            quad(0.1 * sign, lift + 0.05, 0.13, 0.095 * sign, 0.92, 0.19, who.legs.lighter(0.94 if sign > 0 else 1.0))
            quad(0.11 * sign, lift, 0.15, 0.1 * sign, lift + 0.09, 0.14, who.shoes)
            quad(0.29 * sign, 0.86 + 0.05 * swing * sign, 0.1, 0.23 * sign, 1.42, 0.13, who.top.lighter(0.86))
            quad(0.3 * sign, 0.78 + 0.05 * swing * sign, 0.1, 0.29 * sign, 0.87 + 0.05 * swing * sign, 0.1, who.skin)
        quad(0, 0.86, 0.4, 0, 1.46, 0.5, who.top)
    quad(0, 1.44, 0.12, 0, 1.54, 0.12, who.skin)
    shift = 0.03 * face_dir
    if along == 0:
        mesh.disc((0, s * 1.64, 0), s * 0.125, who.hair, aspect=1.2)
    else:
        mesh.disc((s * -shift, s * 1.66, 0), s * 0.13, who.hair, aspect=1.15)
        mesh.disc((s * shift, s * 1.62, 0), s * 0.105, who.skin, aspect=1.25)
    return mesh.build().shaded(1.7)


@lru_cache(maxsize=4 * NUM_PEOPLE * NUM_STRIDES)
def cyclist(variant: int, *, stride: int, along: int) -> Mesh:
    """Build a person on a bicycle; arguments as for `walker`."""
    who = _Figure(variant)
    turn = 2 * math.pi * max(stride, 0) / NUM_STRIDES
    frame = surface(Material.METAL, ((190, 40, 40), (40, 90, 170), (40, 44, 48))[variant % 3], heat=0.36)
    tyre = surface(Material.TYRE, (34, 34, 36), heat=0.50)
    mesh = MeshBuilder()
    mesh.part("bicycle", footprint=(-0.3, -0.6, 0.3, 0.6) if along < 2 else (-0.85, -0.2, 0.85, 0.2))

    def bar(x0: Number, y0: Number, x1: Number, y1: Number, width: Number, look: Surface) -> None:
        length = math.hypot(x1 - x0, y1 - y0) or 1.0
        nx, ny = -(y1 - y0) / length * width / 2, (x1 - x0) / length * width / 2
        mesh.face(
            ((x0 + nx, y0 + ny, 0), (x1 + nx, y1 + ny, 0), (x1 - nx, y1 - ny, 0), (x0 - nx, y0 - ny, 0)),
            look,
        )

    if along < 2:
        _contact(mesh, 0.15, 0.6)
        bar(0, 0, 0, 0.68, 0.09, tyre)
        for sign in (-1.0, 1.0):
            pedal = 0.28 + 0.15 * math.sin(turn) * sign
            bar(0.13 * sign, pedal, 0.12 * sign, 0.62 + 0.06 * math.sin(turn) * sign, 0.12, who.legs)
            bar(0.12 * sign, 0.6 + 0.06 * math.sin(turn) * sign, 0.1 * sign, 1.0, 0.16, who.legs)
            bar(0.13 * sign, pedal - 0.07, 0.13 * sign, pedal + 0.02, 0.13, who.shoes)
            bar(0.21 * sign, 1.45, 0.3 * sign, 1.08, 0.12, who.top.lighter(0.86))
        bar(-0.32, 1.06, 0.32, 1.06, 0.06, frame)
        mesh.face(((-0.18, 0.92, 0), (0.18, 0.92, 0), (0.24, 1.52, 0), (-0.24, 1.52, 0)), who.top)
        head_y = 1.68
        mesh.disc((0, head_y, 0), 0.115, who.skin, aspect=1.2)
        mesh.disc((0, head_y + (0.06 if along else 0.02), 0), 0.13, who.helmet, aspect=0.8 if along else 1.0)
    else:
        _contact(mesh, 0.8, 0.14)
        d = 1.0 if along == 2 else -1.0
        for x in (-0.52, 0.52):
            _ring(mesh, x, 0.34, 0.34, 0.26, tyre)
        for x0, y0, x1, y1 in (
            (-0.52, 0.34, -0.18, 0.88),
            (-0.18, 0.88, 0.38, 0.86),
            (0.38, 0.86, 0.0, 0.32),
            (-0.18, 0.88, 0.0, 0.32),
            (0.52, 0.34, 0.36, 1.0),
        ):
            bar(d * x0, y0, d * x1, y1, 0.06, frame)
        for sign in (-1.0, 1.0):
            foot_x, foot_y = 0.17 * math.cos(turn) * sign, 0.32 + 0.17 * math.sin(turn) * sign
            knee_x, knee_y = 0.22 + 0.3 * foot_x, 0.68 + 0.3 * (foot_y - 0.32)
            bar(d * foot_x, foot_y, d * knee_x, knee_y, 0.13, who.legs.lighter(0.85 if sign < 0 else 1.0))
            bar(d * knee_x, knee_y, d * -0.2, 0.98, 0.17, who.legs.lighter(0.85 if sign < 0 else 1.0))
        bar(d * -0.2, 0.95, d * 0.12, 1.46, 0.34, who.top)
        bar(d * 0.1, 1.4, d * 0.4, 1.02, 0.11, who.top.lighter(0.86))
        mesh.disc((d * 0.22, 1.64, 0), 0.115, who.skin, aspect=1.2)
        mesh.disc((d * 0.2, 1.71, 0), 0.135, who.helmet, aspect=0.75)
    return mesh.build().shaded(1.7)


def _contact(mesh: MeshBuilder, half_x: Number, half_z: Number) -> None:
    look = surface(Material.ROAD, (0, 0, 0))
    mesh.face(
        ((-half_x, 0, -half_z), (half_x, 0, -half_z), (half_x, 0, half_z), (-half_x, 0, half_z)),
        look,
        layer=Layer.CONTACT,
    )


def _ring(mesh: MeshBuilder, x: Number, y: Number, outer: Number, inner: Number, look: Surface) -> None:
    points = []
    for radius, order in ((outer, range(13)), (inner, range(12, -1, -1))):
        points += [
            (x + radius * math.cos(2 * math.pi * i / 12), y + radius * math.sin(2 * math.pi * i / 12), 0.0)
            for i in order
        ]
    mesh.face(points, look, convex=False)
