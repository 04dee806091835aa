"""Build cars, buses and lorries with their heat. Local axes: front towards +z, middle of the footprint at the origin, metres."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from infraredcity.synthetic.materials import (
    CAR_PAINTS,
    TYRE_COLD,
    TYRE_WARM,
    Material,
    Number,
    Rgb,
    Surface,
    surface,
)
from infraredcity.synthetic.mesh import Layer, Mesh, MeshBuilder

NUM_CARS = 60
"""Number of different cars; a variant is a number below it."""

_GLASS = surface(Material.WINDOW, (46, 58, 72), heat=0.33)
_GLASS_WARM = surface(Material.WINDOW, (46, 58, 72), heat=0.44)
_TRIM = surface(Material.METAL, (38, 40, 44), heat=0.38)
_HUB = surface(Material.METAL, (158, 160, 164), heat=0.40)
_HUB_WARM = surface(Material.METAL, (158, 160, 164), heat=0.70)
_PLATE = surface(Material.SIGN, (232, 232, 220))
_HEADLIGHT_RGB: Rgb = (255, 244, 214)
_TAILLIGHT_RGB: Rgb = (255, 36, 20)


@lru_cache(maxsize=4 * NUM_CARS)
def car(variant: int, *, running: bool, quarter_turns: int = 0) -> Mesh:
    """Build a hatchback, saloon, estate or van.

    Args:
        variant: Number of body, size and paint, 0 to NUM_CARS - 1.
        running: With a warm engine, warm tyres, hot exhaust and lights on; else cold like a parked car.
        quarter_turns: Heading in quarter turns from +z towards +x.
    """
    rng = np.random.default_rng([variant, 1])
    body = ("hatch", "saloon", "estate", "van")[rng.choice(4, p=[0.36, 0.26, 0.22, 0.16])]
    colour = CAR_PAINTS[int(rng.integers(len(CAR_PAINTS)))]
    length = {"hatch": 3.9, "saloon": 4.6, "estate": 4.6, "van": 5.2}[body] + float(rng.uniform(-0.15, 0.15))
    width = 1.95 if body == "van" else 1.78
    height = {"hatch": 1.48, "saloon": 1.44, "estate": 1.52, "van": 2.25}[body]
    belt = 1.15 if body == "van" else 0.92
    bonnet = 0.8 if body == "van" else 1.15
    boot = {"hatch": 0.12, "saloon": 0.8, "estate": 0.1, "van": 0.04}[body]
    paint = surface(Material.PAINT, colour, heat=0.44 if running else float(rng.uniform(0.33, 0.40)))
    engine = paint.warmer(0.36 if running else 0.0)
    glass = _GLASS_WARM if running else _GLASS
    front, rear, half = length / 2, -length / 2, width / 2
    nose = belt - 0.16
    screen_foot, screen_head = front - bonnet, front - bonnet - (0.45 if body == "van" else 0.72)
    back_foot, back_head = rear + boot, rear + boot + {"hatch": 0.38, "saloon": 0.62, "estate": 0.3, "van": 0.06}[body]
    roof_half = half - (0.1 if body == "van" else 0.2)

    mesh = MeshBuilder()
    mesh.part("car")
    _under(mesh, half, front, rear)
    _wheel_ends(mesh, half, front, rear, running=running)
    # The lower body.
    mesh.face(
        ((-half, 0.24, rear), (half, 0.24, rear), (half, belt, rear), (-half, belt, rear)), paint, outward=(0, 0, -1)
    )
    mesh.face(
        ((-half, 0.24, front), (half, 0.24, front), (half, nose, front), (-half, nose, front)),
        paint.warmer(0.22 if running else 0.0),
        outward=(0, 0, 1),
    )
    for side in (-half, half):
        outline = (
            (side, 0.24, rear),
            (side, 0.24, front),
            (side, nose, front),
            (side, belt, screen_foot),
            (side, belt, rear),
        )
        mesh.face(outline, paint, outward=(side, 0, 0))
        mesh.face(
            ((side, 0.24, rear), (side, 0.24, front), (side, 0.36, front), (side, 0.36, rear)),
            _TRIM,
            outward=(side, 0, 0),
        )
    mesh.face(
        ((-half, nose, front), (half, nose, front), (half, belt, screen_foot), (-half, belt, screen_foot)),
        engine.lighter(1.06),
        outward=(0, 1, 0),
    )
    mesh.face(
        ((-half, belt, rear), (half, belt, rear), (half, belt, screen_foot), (-half, belt, screen_foot)),
        paint,
        outward=(0, 1, 0),
    )
    _wheels(mesh, half, (front - 0.72, rear + 0.72), running=running)
    _ends(mesh, half, front, rear, nose, belt, running=running)
    # The cabin on top.
    for side, top in ((-half, -roof_half), (half, roof_half)):
        base = belt - 0.01
        mesh.face(
            ((side, base, back_foot), (side, base, screen_foot), (top, height, screen_head), (top, height, back_head)),
            paint,
            outward=(side, 0, 0),
        )
        panes: Sequence[tuple[float, float]] = ((0.08, 0.46), (0.53, 0.92)) if body != "van" else ((0.62, 0.94),)
        for start, stop in panes:
            low, high = 0.08, 0.84
            quad = []
            for along, up in ((start, low), (stop, low), (stop, high), (start, high)):
                z_low = back_foot + (screen_foot - back_foot) * along
                z_high = back_head + (screen_head - back_head) * along
                quad.append((side + (top - side) * up, base + (height - base) * up, z_low + (z_high - z_low) * up))
            mesh.face(quad, glass, outward=(side, 0, 0))
    for foot, head, out in ((screen_foot, screen_head, 1.0), (back_foot, back_head, -1.0)):
        mesh.face(
            ((-half, belt, foot), (half, belt, foot), (roof_half, height, head), (-roof_half, height, head)),
            paint,
            outward=(0, 0.3, out),
        )
        if body == "van" and out < 0:
            continue
        mesh.face(
            (
                (-half + 0.12, belt + 0.05, foot),
                (half - 0.12, belt + 0.05, foot),
                (roof_half - 0.06, height - 0.09, head),
                (-roof_half + 0.06, height - 0.09, head),
            ),
            glass,
            outward=(0, 0.3, out),
        )
    mesh.face(
        (
            (-roof_half, height, back_head),
            (roof_half, height, back_head),
            (roof_half, height, screen_head),
            (-roof_half, height, screen_head),
        ),
        paint.lighter(1.05).warmer(-0.06),
        outward=(0, 1, 0),
    )
    return _turned(mesh, quarter_turns, height)


@lru_cache(maxsize=32)
def bus(variant: int, *, quarter_turns: int = 0) -> Mesh:
    """Build a city bus with its lights on; `variant` selects the paint."""
    colour: Rgb = ((204, 40, 40), (236, 190, 40), (40, 110, 176))[variant % 3]
    paint = surface(Material.PAINT, colour, heat=0.46)
    inside = surface(Material.WINDOW, (52, 64, 78), heat=0.58, light=(190, 196, 200))
    half, front, rear, height = 1.26, 5.6, -5.6, 3.05
    mesh = MeshBuilder()
    mesh.part("bus")
    _under(mesh, half, front, rear)
    _wheel_ends(mesh, half, front, rear, running=True)
    mesh.box((-half, 0.3, rear), (half, height, front), paint, top=surface(Material.PAINT, (226, 226, 222), heat=0.36))
    mesh.face(
        ((-0.9, 0.45, rear), (0.9, 0.45, rear), (0.9, 1.35, rear), (-0.9, 1.35, rear)),
        paint.lighter(0.8).warmer(0.34),
        outward=(0, 0, -1),
    )
    mesh.face(((-1.0, 1.7, rear), (1.0, 1.7, rear), (1.0, 2.55, rear), (-1.0, 2.55, rear)), inside, outward=(0, 0, -1))
    mesh.face(
        ((-1.15, 1.05, front), (1.15, 1.05, front), (1.15, 2.45, front), (-1.15, 2.45, front)),
        inside,
        outward=(0, 0, 1),
    )
    sign = surface(Material.SIGN, (40, 36, 20), heat=0.55, light=(255, 176, 40))
    mesh.face(((-0.9, 2.58, front), (0.9, 2.58, front), (0.9, 2.9, front), (-0.9, 2.9, front)), sign, outward=(0, 0, 1))
    for side in (-half, half):
        for start in np.arange(rear + 0.4, front - 1.2, 1.75):
            stop = start + 1.55
            mesh.face(
                ((side, 1.45, start), (side, 1.45, stop), (side, 2.5, stop), (side, 2.5, start)),
                inside,
                outward=(side, 0, 0),
            )
    _wheels(mesh, half, (front - 2.4, rear + 2.8), running=True, radius=0.48)
    _ends(mesh, half, front, rear, 0.9, 1.0, running=True)
    return _turned(mesh, quarter_turns, height)


@lru_cache(maxsize=32)
def lorry(variant: int, *, quarter_turns: int = 0) -> Mesh:
    """Build a lorry with a box trailer; `variant` selects the paint."""
    cab_colour: Rgb = ((40, 92, 170), (196, 44, 40), (236, 236, 232), (48, 122, 84))[variant % 4]
    box_colour: Rgb = ((236, 236, 232), (226, 196, 70), (70, 118, 186), (206, 208, 212))[(variant // 4) % 4]
    cab = surface(Material.PAINT, cab_colour, heat=0.50)
    box = surface(Material.PAINT, box_colour, heat=0.36)
    half, front, rear = 1.25, 6.2, -6.2
    mesh = MeshBuilder()
    mesh.part("truck")
    _under(mesh, half, front, rear)
    _wheel_ends(mesh, half, front, rear, running=True, height=0.62)
    cab_back = front - 2.0
    mesh.box((-half, 0.95, rear), (half, 3.85, cab_back - 0.3), box, top=box.warmer(-0.08))
    mesh.box((-half, 0.4, rear), (half, 0.95, cab_back), _TRIM)
    mesh.box((-half + 0.04, 0.45, cab_back), (half - 0.04, 3.3, front), cab, top=cab)
    mesh.face(
        ((-1.1, 1.9, front), (1.1, 1.9, front), (1.1, 2.9, front), (-1.1, 2.9, front)), _GLASS_WARM, outward=(0, 0, 1)
    )
    mesh.face(
        ((-0.9, 0.6, front), (0.9, 0.6, front), (0.9, 1.5, front), (-0.9, 1.5, front)),
        _TRIM.warmer(0.42),
        outward=(0, 0, 1),
    )
    for side in (-half, half):
        mesh.face(
            (
                (side, 1.9, cab_back + 0.7),
                (side, 1.9, front - 0.2),
                (side, 2.8, front - 0.3),
                (side, 2.8, cab_back + 0.7),
            ),
            _GLASS_WARM,
            outward=(side, 0, 0),
        )
        stripe = surface(Material.PAINT, cab_colour, heat=0.37)
        mesh.face(
            (
                (side, 1.9, rear + 0.6),
                (side, 1.9, cab_back - 0.9),
                (side, 2.7, cab_back - 0.9),
                (side, 2.7, rear + 0.6),
            ),
            stripe,
            outward=(side, 0, 0),
        )
    for x in (-0.62, 0.62):
        mesh.face(
            ((x - 0.55, 1.05, rear), (x + 0.55, 1.05, rear), (x + 0.55, 3.7, rear), (x - 0.55, 3.7, rear)),
            box.lighter(0.93),
            outward=(0, 0, -1),
        )
    _wheels(mesh, half, (front - 1.3, rear + 1.2, rear + 2.4, rear + 3.6), running=True, radius=0.5)
    _ends(mesh, half, front, rear, 0.85, 0.85, running=True)
    return _turned(mesh, quarter_turns, 3.8)


def _turned(mesh: MeshBuilder, quarter_turns: int, height: Number) -> Mesh:
    return mesh.build().placed(0, 0, heading=quarter_turns * np.pi / 2).shaded(height)


def _under(mesh: MeshBuilder, half: Number, front: Number, rear: Number) -> None:
    """Add the ground in the vehicle's shade: dark by day; cold by night under a parked car."""
    corners = ((-half, 0.0, rear), (half, 0.0, rear), (half, 0.0, front), (-half, 0.0, front))
    look = surface(Material.ROAD, (0, 0, 0), heat=0.0)
    mesh.face(corners, look, layer=Layer.CONTACT)


def _wheel_ends(
    mesh: MeshBuilder, half: Number, front: Number, rear: Number, *, running: bool, height: Number = 0.42
) -> None:
    """Add the wheels and the dark underside, as seen from the front and from behind."""
    tyre = TYRE_WARM if running else TYRE_COLD
    for z, out in ((rear + 0.05, -1.0), (front - 0.05, 1.0)):
        for x in (-half + 0.14, half - 0.14):
            mesh.face(
                ((x - 0.12, 0.0, z), (x + 0.12, 0.0, z), (x + 0.12, height, z), (x - 0.12, height, z)),
                tyre,
                outward=(0, 0, out),
            )
        mesh.face(
            ((-half + 0.26, 0.15, z), (half - 0.26, 0.15, z), (half - 0.26, height, z), (-half + 0.26, height, z)),
            _TRIM.warmer(0.2 if running else 0.0),
            outward=(0, 0, out),
        )


def _wheels(mesh: MeshBuilder, half: Number, axles: Sequence[float], *, running: bool, radius: Number = 0.33) -> None:
    """Add the wheels, as seen from the side."""
    tyre, hub = (TYRE_WARM, _HUB_WARM) if running else (TYRE_COLD, _HUB)
    for side in (-half, half):
        for z in axles:
            mesh.disc((side, radius, z), radius, tyre, axis="x", outward=(side, 0, 0))
            mesh.disc((side, radius, z), radius * 0.55, hub, axis="x", corners=8, outward=(side, 0, 0))


def _ends(
    mesh: MeshBuilder, half: Number, front: Number, rear: Number, nose: Number, belt: Number, *, running: bool
) -> None:
    """Add lights, plates, grille, bumpers and exhaust."""

    def panel(x0: Number, y0: Number, x1: Number, y1: Number, z: Number, look: Surface) -> None:
        mesh.face(((x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)), look, outward=(0, 0, z))

    head_on = _HEADLIGHT_RGB if running else (0.0, 0.0, 0.0)
    tail_on = _TAILLIGHT_RGB if running else (0.0, 0.0, 0.0)
    headlight = surface(Material.LAMP, (244, 244, 236), heat=0.72 if running else 0.36, light=head_on)
    taillight = surface(Material.LAMP, (186, 24, 26), heat=0.56 if running else 0.36, light=tail_on)
    panel(-half * 0.5, 0.42, half * 0.5, nose - 0.12, front, _TRIM.warmer(0.40 if running else 0.0))
    panel(-half, 0.24, half, 0.36, front, _TRIM)
    panel(-half, 0.24, half, 0.38, rear, _TRIM)
    panel(-0.26, 0.3, 0.26, 0.42, front, _PLATE)
    panel(-0.28, belt - 0.42, 0.28, belt - 0.29, rear, _PLATE)
    for side in (-1.0, 1.0):
        x0, x1 = sorted((side * (half - 0.06), side * (half - 0.42)))
        panel(x0, nose - 0.24, x1, nose - 0.06, front, headlight)
        x0, x1 = sorted((side * half, side * (half - 0.24)))
        panel(x0, belt - 0.34, x1, belt - 0.06, rear, taillight)
        if running:
            mesh.lamp((side * (half - 0.24), nose - 0.15, front), _HEADLIGHT_RGB, 0.75, facing=(0, 0, 1))
            mesh.lamp((side * (half - 0.12), belt - 0.2, rear), _TAILLIGHT_RGB, 0.38, facing=(0, 0, -1))
    if running:
        pipe = surface(Material.METAL, (60, 60, 62), heat=1.0)
        panel(half * 0.4, 0.2, half * 0.4 + 0.24, 0.36, rear, pipe)
