"""Define materials: the one table of their appearance in all three renderings."""

from dataclasses import dataclass, replace
from enum import IntEnum

Number = int | float
"""Float or int, since run-time type checks do not accept an int as a float."""
Rgb = tuple[Number, Number, Number]
"""A colour in daylight: red, green, blue in 0..255."""

NO_LIGHT: Rgb = (0.0, 0.0, 0.0)


class Material(IntEnum):
    """The class of a pixel; `World.labels` gives these numbers."""

    SKY = 0
    HILL = 1
    ROAD = 2
    MARKING = 3
    PAVEMENT = 4
    KERB = 5
    GRASS = 6
    WALL = 7
    ROOF = 8
    WINDOW = 9
    DOOR = 10
    TRUNK = 11
    FOLIAGE = 12
    METAL = 13
    SIGN = 14
    PAINT = 15
    TYRE = 16
    LAMP = 17
    SKIN = 18
    CLOTHES = 19


GROUND = (Material.ROAD, Material.MARKING, Material.PAVEMENT, Material.KERB, Material.GRASS)
"""The materials of the ground, which receive shadows."""

# Night heat on the display's scale: 0 is the coldest sky, 1 the hottest engine. Thick stone and asphalt keep the day's
# warmth, leaves follow the air, bare metal and glass mirror the cold sky.
HEAT = {
    Material.SKY: 0.10,
    Material.HILL: 0.33,
    Material.ROAD: 0.53,
    Material.MARKING: 0.46,
    Material.PAVEMENT: 0.47,
    Material.KERB: 0.50,
    Material.GRASS: 0.35,
    Material.WALL: 0.45,
    Material.ROOF: 0.29,
    Material.WINDOW: 0.35,
    Material.DOOR: 0.41,
    Material.TRUNK: 0.46,
    Material.FOLIAGE: 0.40,
    Material.METAL: 0.31,
    Material.SIGN: 0.28,
    Material.PAINT: 0.36,
    Material.TYRE: 0.42,
    Material.LAMP: 0.75,
    Material.SKIN: 0.95,
    Material.CLOTHES: 0.72,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Surface:
    """The appearance of one face in every rendering.

    Attributes:
        material: What it is made of.
        colour: Its paint in daylight.
        heat: Its temperature by night, on the scale of `HEAT`.
        light: The light it gives off by night, 0..255 per channel.
    """

    material: Material
    colour: Rgb
    heat: Number
    light: Rgb = NO_LIGHT

    def warmer(self, difference: Number) -> "Surface":
        """Return the same surface, `difference` warmer (colder if negative)."""
        return replace(self, heat=self.heat + difference)

    def lighter(self, factor: Number) -> "Surface":
        """Return the same surface with paint `factor` times as bright."""
        r, g, b = self.colour
        return replace(self, colour=(min(r * factor, 255.0), min(g * factor, 255.0), min(b * factor, 255.0)))


def surface(material: Material, colour: Rgb, *, heat: Number | None = None, light: Rgb = NO_LIGHT) -> Surface:
    """Return a surface with the usual heat of its material, or `heat`."""
    return Surface(material=material, colour=colour, heat=HEAT[material] if heat is None else heat, light=light)


ASPHALT = surface(Material.ROAD, (104, 105, 110))
WHITE_MARK = surface(Material.MARKING, (236, 236, 230))
YELLOW_MARK = surface(Material.MARKING, (230, 186, 50))
PAVING = surface(Material.PAVEMENT, (172, 165, 154))
KERBSTONE = surface(Material.KERB, (196, 193, 186))
LAWN = surface(Material.GRASS, (98, 150, 62))
MEADOW = surface(Material.GRASS, (112, 152, 70), heat=0.37)
BARK = surface(Material.TRUNK, (92, 68, 48))
LEAVES = surface(Material.FOLIAGE, (62, 118, 48))
STEEL = surface(Material.METAL, (150, 154, 158))
DARK_STEEL = surface(Material.METAL, (70, 76, 80))
TYRE_COLD = surface(Material.TYRE, (30, 30, 32))
TYRE_WARM = surface(Material.TYRE, (30, 30, 32), heat=0.78)
FRAME = surface(Material.WALL, (238, 236, 230), heat=0.50)

# Walls: paint and heat go together as they do in a street. Brick stores the day's sun, plaster less, timber hardly any.
WALLS: tuple[Surface, ...] = (
    surface(Material.WALL, (172, 84, 62), heat=0.54),  # brick
    surface(Material.WALL, (188, 106, 76), heat=0.54),  # light brick
    surface(Material.WALL, (234, 214, 170), heat=0.47),  # cream plaster
    surface(Material.WALL, (226, 180, 104), heat=0.48),  # ochre plaster
    surface(Material.WALL, (226, 160, 136), heat=0.47),  # salmon plaster
    surface(Material.WALL, (240, 232, 214), heat=0.45),  # white plaster
    surface(Material.WALL, (150, 182, 206), heat=0.41),  # blue timber
    surface(Material.WALL, (160, 192, 150), heat=0.41),  # green timber
    surface(Material.WALL, (176, 172, 166), heat=0.50),  # concrete
)
ROOF_TILES = surface(Material.ROOF, (164, 76, 54))
ROOF_SLATE = surface(Material.ROOF, (96, 98, 110), heat=0.26)
CAR_PAINTS: tuple[Rgb, ...] = (
    (196, 34, 36),
    (34, 76, 168),
    (232, 232, 230),
    (186, 190, 196),
    (52, 54, 60),
    (222, 174, 36),
    (36, 118, 82),
    (120, 158, 200),
    (208, 96, 32),
    (128, 30, 52),
)
CLOTHES: tuple[Rgb, ...] = (
    (196, 52, 48),
    (44, 84, 160),
    (52, 56, 66),
    (230, 196, 72),
    (232, 228, 220),
    (60, 128, 92),
    (140, 72, 132),
    (224, 122, 50),
)
TROUSERS: tuple[Rgb, ...] = ((44, 52, 84), (56, 56, 58), (112, 94, 70), (82, 92, 108))
SKINS: tuple[Rgb, ...] = ((238, 196, 164), (214, 164, 128), (158, 108, 78), (104, 70, 52))
HAIRS: tuple[Rgb, ...] = ((58, 40, 28), (34, 30, 28), (168, 124, 66), (150, 148, 146))
