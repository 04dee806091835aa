"""Build the objects at the side of a street: trees, hedges, lamps, signs, shelters, fences."""

import math

import numpy as np

from infraredcity.synthetic.materials import (
    BARK,
    DARK_STEEL,
    LEAVES,
    STEEL,
    Material,
    Number,
    Rgb,
    Surface,
    surface,
)
from infraredcity.synthetic.mesh import MeshBuilder

LAMP_RGB: Rgb = (255, 206, 140)
_CLUMP_TURNS = np.arange(11) * (2 * math.pi / 11)
_LEAF_TINTS: tuple[Rgb, ...] = ((66, 124, 50), (54, 110, 46), (88, 138, 52), (72, 122, 62), (104, 142, 56))


def tree(mesh: MeshBuilder, x: Number, z: Number, rng: np.random.Generator, *, height: Number | None = None) -> None:
    """A leafy tree: a trunk under a crown of overlapping clumps, dark below and bright where the sun is."""
    height = float(rng.uniform(5.0, 7.5)) if height is None else height
    crown = height * float(rng.uniform(0.28, 0.34))
    middle = height - crown
    trunk = 0.028 * height
    mesh.part("", footprint=(x - crown, z - 0.3, x + crown, z + 0.3))
    disc = [(x + 0.85 * crown * math.cos(t), z + 0.85 * crown * math.sin(t)) for t in np.arange(0, 2 * math.pi, 0.7)]
    mesh.shadow(disc, middle - 0.6 * crown, middle + 0.6 * crown)
    mesh.shadow([(x - trunk, z), (x + trunk, z), (x + trunk, z + 0.2), (x - trunk, z + 0.2)], 0.0, middle)
    mesh.upright(x - trunk, 0.0, x + trunk, middle, z, BARK)
    tint = _LEAF_TINTS[int(rng.integers(len(_LEAF_TINTS)))]
    leaves = surface(Material.FOLIAGE, tint, heat=LEAVES.heat + float(rng.uniform(-0.02, 0.03)))
    _clump(mesh, x, middle, z, crown * 0.92, leaves.lighter(0.66).warmer(0.02), rng)
    for _ in range(13):
        turn, reach = float(rng.uniform(0, 2 * math.pi)), crown * math.sqrt(float(rng.uniform(0.05, 0.62)))
        dx, dy = reach * math.cos(turn), reach * math.sin(turn) * 1.05
        sunny = (dy - 0.6 * dx) / crown
        look = leaves.lighter(0.98 + 0.34 * sunny + float(rng.uniform(-0.08, 0.08))).warmer(-0.025 * dy / crown)
        _clump(mesh, x + dx, middle + dy, z - 0.05, crown * float(rng.uniform(0.3, 0.42)), look, rng)


def bush(mesh: MeshBuilder, x: Number, z: Number, radius: Number, rng: np.random.Generator) -> None:
    """A round bush on the ground."""
    mesh.part("", footprint=(x - radius, z - 0.2, x + radius, z + 0.2))
    tint = _LEAF_TINTS[int(rng.integers(len(_LEAF_TINTS)))]
    leaves = surface(Material.FOLIAGE, tint, heat=0.39)
    mesh.shadow([(x - radius, z - radius), (x + radius, z - radius), (x + radius, z + radius)], 0.0, radius)
    _clump(mesh, x, radius * 0.55, z, radius, leaves.lighter(0.72).warmer(0.02), rng)
    for _ in range(5):
        dx, dy = float(rng.uniform(-0.6, 0.6)) * radius, float(rng.uniform(-0.1, 0.6)) * radius
        shade = 1.0 + 0.3 * (dy - 0.5 * dx) / radius
        _clump(mesh, x + dx, radius * 0.55 + dy, z - 0.05, radius * 0.45, leaves.lighter(shade), rng)


def _clump(
    mesh: MeshBuilder, x: Number, y: Number, z: Number, radius: Number, look: Surface, rng: np.random.Generator
) -> None:
    radii = radius * rng.uniform(0.84, 1.12, len(_CLUMP_TURNS))
    xs, ys = x + radii * np.cos(_CLUMP_TURNS), np.maximum(0.0, y + radii * np.sin(_CLUMP_TURNS))
    mesh.face([(px, py, z) for px, py in zip(xs.tolist(), ys.tolist(), strict=True)], look, convex=False)


def street_lamp(mesh: MeshBuilder, x: Number, z: Number, *, toward: Number, height: Number = 6.5) -> None:
    """A lamp post whose arm reaches over the road, to the side of sign `toward`."""
    mesh.part("", footprint=(x - 0.1, z - 0.1, x + 0.1, z + 0.1))
    mesh.shadow([(x - 0.07, z), (x + 0.07, z)], 0.0, height)
    mesh.upright(x - 0.075, 0.0, x + 0.075, height, z, DARK_STEEL)
    end = x + toward * 1.7
    mesh.face(
        ((x, height - 0.1, z), (end, height + 0.15, z), (end, height + 0.28, z), (x, height + 0.05, z)), DARK_STEEL
    )
    x0, x1 = sorted((end, end + toward * 0.75))
    head = surface(Material.LAMP, (226, 226, 214), heat=0.80, light=LAMP_RGB)
    mesh.upright(x0, height + 0.08, x1, height + 0.3, z, head)
    mesh.lamp(((x0 + x1) / 2, height + 0.1, z), LAMP_RGB, 1.5, street=True)


def round_sign(mesh: MeshBuilder, x: Number, z: Number, which: int) -> None:
    """A traffic sign on a post: speed limit, ban, no parking, warning, give way or direction."""
    mesh.part("sign", footprint=(x - 0.4, z - 0.1, x + 0.4, z + 0.1))
    mesh.shadow([(x - 0.05, z), (x + 0.05, z)], 0.0, 2.6)
    mesh.upright(x - 0.045, 0.0, x + 0.045, 2.9, z, STEEL)
    red, white, blue = (_sign_paint(c) for c in ((206, 32, 36), (240, 240, 236), (28, 84, 176)))
    y, front = 2.5, z - 0.04
    kind = which % 5
    if kind == 0:
        mesh.disc((x, y, front), 0.42, red, corners=12)
        mesh.disc((x, y, front), 0.29, white, corners=12)
        mesh.upright(x - 0.16, y - 0.12, x - 0.03, y + 0.12, front, _sign_paint((24, 24, 24)))
        mesh.upright(x + 0.03, y - 0.12, x + 0.16, y + 0.12, front, _sign_paint((24, 24, 24)))
    elif kind == 1:
        mesh.disc((x, y, front), 0.42, red, corners=12)
        mesh.upright(x - 0.28, y - 0.07, x + 0.28, y + 0.07, front, white)
    elif kind == 2:
        mesh.disc((x, y, front), 0.42, red, corners=12)
        mesh.disc((x, y, front), 0.32, blue, corners=12)
    elif kind == 3:
        mesh.face(((x - 0.48, y - 0.36, front), (x + 0.48, y - 0.36, front), (x, y + 0.48, front)), red)
        mesh.face(((x - 0.29, y - 0.26, front), (x + 0.29, y - 0.26, front), (x, y + 0.26, front)), white)
    else:
        mesh.upright(x - 0.38, y - 0.38, x + 0.38, y + 0.38, front, blue)
        mesh.face(((x - 0.2, y - 0.22, front), (x + 0.2, y - 0.22, front), (x, y + 0.26, front)), white)


def traffic_light(mesh: MeshBuilder, x: Number, z: Number, *, green: bool, height: Number = 3.4) -> None:
    """A traffic light, facing the camera."""
    mesh.part("", footprint=(x - 0.2, z - 0.15, x + 0.2, z + 0.15))
    mesh.upright(x - 0.06, 0.0, x + 0.06, height - 1.0, z, STEEL)
    mesh.upright(x - 0.2, height - 1.05, x + 0.2, height, z, surface(Material.METAL, (34, 38, 36), heat=0.4))
    for i, colour in enumerate(((40, 200, 110), (230, 170, 40), (230, 40, 36))):
        on = (i == 0) == green and i != 1
        paint: Rgb = colour if on else (colour[0] * 0.3, colour[1] * 0.3, colour[2] * 0.3)
        light: Rgb = colour if on else (0.0, 0.0, 0.0)
        look = surface(Material.LAMP, paint, heat=0.7 if on else 0.42, light=light)
        mesh.disc((x, height - 0.85 + 0.32 * i, z - 0.03), 0.13, look, corners=8)
        if on:
            mesh.lamp((x, height - 0.85 + 0.32 * i, z - 0.03), light, 0.35, facing=(0, 0, -1))


def bus_shelter(mesh: MeshBuilder, x: Number, z: Number, *, toward: Number) -> None:
    """A bus stop: glass walls, a roof and a yellow sign."""
    mesh.part("", footprint=(x - 0.8, z, x + 0.8, z + 4.0))
    glass = surface(Material.WINDOW, (150, 176, 186), heat=0.33, light=(40, 44, 46))
    roof = surface(Material.METAL, (66, 84, 92), heat=0.22)
    mesh.shadow([(x - 0.8, z), (x + 0.8, z), (x + 0.8, z + 4), (x - 0.8, z + 4)], 2.3, 2.5)
    back = x - toward * 0.8
    mesh.face(((back, 0.2, z), (back, 0.2, z + 4), (back, 2.3, z + 4), (back, 2.3, z)), glass)
    mesh.upright(x - 0.7, 0.2, x + 0.7, 2.3, z + 4.0, glass)
    mesh.upright(x - 0.7, 0.2, x + 0.7, 2.3, z, glass.lighter(0.92))
    mesh.box((x - 0.9, 2.3, z - 0.2), (x + 0.9, 2.5, z + 4.2), roof)
    mesh.upright(x + toward * 1.0 - 0.3, 2.3, x + toward * 1.0 + 0.3, 2.9, z - 0.4, _sign_paint((238, 196, 40)))
    mesh.upright(x + toward * 1.0 - 0.04, 0.0, x + toward * 1.0 + 0.04, 2.3, z - 0.4, STEEL)


def bench(mesh: MeshBuilder, x: Number, z: Number) -> None:
    """A wooden bench."""
    wood = surface(Material.DOOR, (146, 100, 60), heat=0.38)
    mesh.part("", footprint=(x - 0.3, z, x + 0.3, z + 1.6))
    mesh.box((x - 0.25, 0.35, z), (x + 0.25, 0.48, z + 1.6), wood)
    mesh.box((x - 0.25, 0.0, z + 0.1), (x + 0.25, 0.35, z + 0.2), DARK_STEEL)


def litter_bin(mesh: MeshBuilder, x: Number, z: Number) -> None:
    """A litter bin."""
    mesh.part("", footprint=(x - 0.25, z - 0.25, x + 0.25, z + 0.25))
    mesh.box((x - 0.25, 0.0, z - 0.25), (x + 0.25, 0.95, z + 0.25), surface(Material.METAL, (52, 100, 74), heat=0.36))


def hedge(mesh: MeshBuilder, x: Number, z0: Number, z1: Number, height: Number, rng: np.random.Generator) -> None:
    """A clipped hedge along the street."""
    leaves = surface(Material.FOLIAGE, (58, 112, 46), heat=0.39)
    step = (z1 - z0) / max(1, round((z1 - z0) / 3.0))
    for start in np.arange(z0, z1 - 0.1, step):
        mesh.part("")
        look = leaves.lighter(float(rng.uniform(0.88, 1.12)))
        mesh.box((x - 0.4, 0.0, start), (x + 0.4, height, start + step), look, top=look.lighter(1.15).warmer(-0.04))


def fence(mesh: MeshBuilder, x: Number, z0: Number, z1: Number, paint: Rgb) -> None:
    """A low fence of boards along the street."""
    look = surface(Material.DOOR, paint, heat=0.37)
    mesh.part("")
    for y in (0.35, 0.8):
        mesh.face(((x, y, z0), (x, y, z1), (x, y + 0.14, z1), (x, y + 0.14, z0)), look)
    for z in np.arange(z0, z1 + 0.1, 1.5):
        mesh.face(((x, 0.0, z), (x, 0.0, z + 0.14), (x, 1.05, z + 0.14), (x, 1.05, z)), look)


def guard_rail(mesh: MeshBuilder, x: Number, z0: Number, z1: Number) -> None:
    """A steel crash barrier on posts."""
    beam = surface(Material.METAL, (188, 192, 196), heat=0.27)
    for start in np.arange(z0, z1 - 0.1, 12.0):
        stop = start + 12.0
        mesh.part("")
        mesh.shadow([(x, start), (x, stop)], 0.45, 0.8)
        mesh.face(((x, 0.46, start), (x, 0.46, stop), (x, 0.82, stop), (x, 0.82, start)), beam)
        mesh.face(((x, 0.61, start), (x, 0.61, stop), (x, 0.67, stop), (x, 0.67, start)), beam.lighter(0.6))
        for z in (start, start + 4.0, start + 8.0):
            mesh.upright(x - 0.06, 0.0, x + 0.06, 0.5, z, STEEL.lighter(0.8))


def gantry(mesh: MeshBuilder, x0: Number, x1: Number, z: Number, boards: tuple[Number, ...]) -> None:
    """A sign bridge over the road from `x0` to `x1`, with a blue board above each x of `boards`."""
    mesh.part("", footprint=(x0, z - 0.3, x1, z + 0.3))
    mesh.shadow([(x0, z), (x1, z), (x1, z + 0.4), (x0, z + 0.4)], 6.0, 6.6)
    for x in (x0, x1):
        mesh.box((x - 0.2, 0.0, z - 0.2), (x + 0.2, 6.9, z + 0.2), STEEL)
    mesh.box((x0, 6.2, z), (x1, 6.7, z + 0.3), STEEL)
    blue, white = _sign_paint((24, 82, 170)), _sign_paint((242, 242, 240))
    for i, x in enumerate(boards):
        mesh.upright(x - 1.75, 5.3, x + 1.75, 7.7, z - 0.05, white)
        mesh.upright(x - 1.66, 5.39, x + 1.66, 7.61, z - 0.07, blue)
        for y, length in ((6.9, 2.3 - 0.5 * (i % 2)), (6.3, 1.5 + 0.5 * (i % 2))):
            mesh.upright(x - 1.35, y, x - 1.35 + length, y + 0.3, z - 0.09, white)
        mesh.face(((x - 0.2, 5.95, z - 0.09), (x + 0.2, 5.95, z - 0.09), (x, 5.55, z - 0.09)), white)


def _sign_paint(colour: Rgb) -> Surface:
    return surface(Material.SIGN, colour, light=(colour[0] * 0.12, colour[1] * 0.12, colour[2] * 0.12))
