"""Build houses: walls with windows and doors, shops, roofs.

Local axes: the front is at x = 0 and faces -x; the house extends from z = 0 to its width and back to x = depth.
"""

from itertools import pairwise

import numpy as np

from infraredcity.synthetic.materials import (
    FRAME,
    ROOF_SLATE,
    ROOF_TILES,
    WALLS,
    Material,
    Number,
    Rgb,
    Surface,
    surface,
)
from infraredcity.synthetic.mesh import Layer, Mesh, MeshBuilder, Point

_AWNINGS: tuple[Rgb, ...] = ((196, 48, 44), (44, 112, 84), (40, 84, 160), (226, 172, 56))
_DOORS: tuple[Rgb, ...] = ((122, 74, 44), (44, 88, 66), (140, 36, 40), (48, 70, 112))
_LAMPLIGHT: tuple[Rgb, ...] = ((255, 206, 120), (255, 224, 160), (240, 232, 210))


def house(
    rng: np.random.Generator,
    *,
    width: Number,
    depth: Number = 9.0,
    floors: int | None = None,
    shop: bool | None = None,
    wall: Surface | None = None,
    open_sides: bool = False,
    share_lit: Number = 0.38,
) -> Mesh:
    """Build a house in a row.

    Args:
        rng: Draws its appearance.
        width: Length of its front, metres.
        depth: From front to back, metres.
        floors: Number of floors; 2 to 4 by default.
        shop: With a shop window and an awning on the ground floor; drawn by default.
        wall: Its walls; drawn by default.
        open_sides: Whether its sides have windows too.
        share_lit: Share of its windows that are lit by night.
    """
    wall = WALLS[int(rng.integers(len(WALLS)))] if wall is None else wall
    wall = wall.lighter(float(rng.uniform(0.94, 1.05))).warmer(float(rng.uniform(-0.02, 0.02)))
    floors = int(rng.choice([2, 3, 4], p=[0.3, 0.45, 0.25])) if floors is None else floors
    shop = bool(rng.random() < 0.38) if shop is None else shop
    storey = 3.0
    eaves = floors * storey + 0.5
    flat = bool(rng.random() < 0.3) or floors > 4
    mesh = MeshBuilder()
    mesh.part("building", layer=Layer.BUILDINGS, footprint=(0.0, 0.0, depth, width))

    def front(z0: Number, y0: Number, z1: Number, y1: Number, look: Surface, x: Number = 0.0) -> None:
        mesh.face(((x, y0, z0), (x, y0, z1), (x, y1, z1), (x, y1, z0)), look, outward=(-1, 0, 0))

    side_wall = wall.warmer(-0.01)
    for z, out in ((0.0, -1.0), (width, 1.0)):
        side: list[Point] = [(0, 0, z), (depth, 0, z), (depth, eaves, z), (0, eaves, z)]
        mesh.face(side, side_wall, outward=(0, 0, out))
    mesh.face(((depth, 0, 0), (depth, 0, width), (depth, eaves, width), (depth, eaves, 0)), wall, outward=(1, 0, 0))
    _roof(mesh, rng, wall, width, depth, eaves, flat=flat)
    front(0.0, 0.0, width, eaves, wall)
    front(0.0, 0.0, width, 0.55, wall.lighter(0.72).warmer(0.02))
    front(0.0, eaves - 0.28, width, eaves, FRAME.lighter(0.94))
    front(width - 0.14, 0.0, width, eaves, wall.lighter(0.82))

    num_windows = max(2, int(width / 2.5))
    pitch = width / num_windows
    window_width = min(1.3, pitch * 0.52)
    door_at = int(rng.integers(num_windows))
    shutters = bool(rng.random() < 0.3) and not shop
    shutter = surface(Material.DOOR, _DOORS[int(rng.integers(len(_DOORS)))], heat=0.38)
    for floor in range(floors):
        base = 0.5 + floor * storey
        if floor == 0 and shop:
            continue
        for i in range(num_windows):
            middle = (i + 0.5) * pitch
            if floor == 0 and i == door_at:
                door = surface(Material.DOOR, _DOORS[int(rng.integers(len(_DOORS)))], heat=0.47)
                front(middle - 0.68, 0.0, middle + 0.68, 2.65, FRAME)
                front(middle - 0.54, 0.0, middle + 0.54, 2.45, door)
                continue
            z0, z1, y0, y1 = middle - window_width / 2, middle + window_width / 2, base + 0.75, base + 2.35
            pane = _pane(rng, share_lit)
            front(z0 - 0.12, y0 - 0.16, z1 + 0.12, y1 + 0.12, FRAME)
            front(z0, y0, z1, y1, pane)
            front(middle - 0.045, y0, middle + 0.045, y1, FRAME)
            if shutters:
                front(z0 - 0.52, y0, z0 - 0.1, y1, shutter)
                front(z1 + 0.1, y0, z1 + 0.52, y1, shutter)
    if shop:
        _shop(mesh, rng, front, width, storey + 0.3)
    if open_sides:
        for floor in range(floors):
            y0 = 0.5 + floor * storey + 0.75
            for x in np.arange(1.6, depth - 1.5, 2.8):
                for z, out in ((0.0, -1.0), (width, 1.0)):
                    for grow, look in ((0.12, FRAME), (0.0, _pane(rng, share_lit))):
                        corners: list[Point] = [
                            (x - grow, y0 - grow, z),
                            (x + 1.1 + grow, y0 - grow, z),
                            (x + 1.1 + grow, y0 + 1.6 + grow, z),
                            (x - grow, y0 + 1.6 + grow, z),
                        ]
                        mesh.face(corners, look, outward=(0, 0, out))
    return mesh.build()


def _pane(rng: np.random.Generator, share_lit: Number) -> Surface:
    tone = float(rng.uniform(0.75, 1.25))
    lit = bool(rng.random() < share_lit)
    glow: Rgb = (0.0, 0.0, 0.0)
    if lit:
        r, g, b = _LAMPLIGHT[int(rng.integers(len(_LAMPLIGHT)))]
        strength = float(rng.uniform(0.55, 1.0))
        glow = (r * strength, g * strength, b * strength)
    heat = float(rng.uniform(0.57, 0.66)) if lit else float(rng.uniform(0.33, 0.38))
    return surface(Material.WINDOW, (74 * tone, 96 * tone, 118 * tone), heat=heat, light=glow)


def _shop(mesh: MeshBuilder, rng: np.random.Generator, front: object, width: Number, height: Number) -> None:
    assert callable(front)
    lit: Rgb = _LAMPLIGHT[int(rng.integers(len(_LAMPLIGHT)))]
    glass = surface(Material.WINDOW, (66, 88, 104), heat=0.60, light=(lit[0] * 0.9, lit[1] * 0.9, lit[2] * 0.9))
    paint = _AWNINGS[int(rng.integers(len(_AWNINGS)))]
    band = surface(Material.SIGN, paint, heat=0.42, light=(paint[0] * 0.5, paint[1] * 0.5, paint[2] * 0.5))
    front(0.25, 0.0, width - 0.25, height, FRAME.lighter(0.55))
    edges = np.linspace(0.4, width - 0.4, max(2, round(width / 2.6)) + 1)
    for z0, z1 in pairwise(edges):
        front(z0 + 0.08, 0.45, z1 - 0.08, height - 0.75, glass)
    front(edges[0] + 0.2, 0.05, edges[0] + 1.2, height - 0.8, surface(Material.DOOR, (60, 52, 48), heat=0.5))
    front(0.3, height - 0.65, width - 0.3, height - 0.08, band)
    stripes = np.linspace(0.3, width - 0.3, max(4, round(width / 0.9)) + 1)
    for i, (z0, z1) in enumerate(pairwise(stripes)):
        colour: Rgb = paint if i % 2 else (240, 236, 226)
        look = surface(Material.CLOTHES, colour, heat=0.36)
        top, low = height - 0.62, height - 1.05
        mesh.face(((0, top, z0), (0, top, z1), (-1.05, low, z1), (-1.05, low, z0)), look)


def _roof(
    mesh: MeshBuilder,
    rng: np.random.Generator,
    wall: Surface,
    width: Number,
    depth: Number,
    eaves: Number,
    *,
    flat: bool,
) -> None:
    if flat:
        top = surface(Material.ROOF, (142, 138, 132), heat=0.25)
        mesh.face(((0, eaves, 0), (depth, eaves, 0), (depth, eaves, width), (0, eaves, width)), top, outward=(0, 1, 0))
        return
    tiles = (ROOF_TILES if rng.random() < 0.65 else ROOF_SLATE).lighter(float(rng.uniform(0.9, 1.1)))
    ridge, rise, over = depth / 2, float(rng.uniform(2.0, 3.0)), 0.35
    for z, out in ((0.0, -1.0), (width, 1.0)):
        mesh.face(((0, eaves, z), (depth, eaves, z), (ridge, eaves + rise, z)), wall, outward=(0, 0, out))
    for x, out in ((-over, -1.0), (depth + over, 1.0)):
        foot = eaves - over * rise / ridge
        slope: list[Point] = [(x, foot, 0), (x, foot, width), (ridge, eaves + rise, width), (ridge, eaves + rise, 0)]
        mesh.face(slope, tiles, outward=(out, 1, 0))
    for z in np.arange(2.0, width - 2.0, 4.2):
        if rng.random() < 0.5:
            y0, y1, x = eaves + 0.5, eaves + 1.45, 0.3
            mesh.face(
                ((x, y0, z), (x, y0, z + 1), (x + 1.0, y1, z + 1), (x + 1.0, y1, z)),
                _pane(rng, 0.3),
                outward=(-1, 1, 0),
            )
    if rng.random() < 0.7:
        brick = surface(Material.WALL, (150, 82, 62), heat=0.66)
        z = float(rng.uniform(1.0, width - 1.5))
        y = eaves + rise * 0.7
        mesh.box((ridge - 1.4, y - 0.4, z), (ridge - 0.7, y + 1.5, z + 0.8), brick)
