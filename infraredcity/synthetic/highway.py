"""A motorway, driven on: two carriageways, crash barriers, woods and fields, faster traffic, lorries."""

import numpy as np

from infraredcity.synthetic import furniture
from infraredcity.synthetic.buildings import house
from infraredcity.synthetic.materials import ASPHALT, LAWN, MEADOW, WALLS, WHITE_MARK, Material, surface
from infraredcity.synthetic.mesh import Layer, Mesh, MeshBuilder, join
from infraredcity.synthetic.street import Street, skyline
from infraredcity.synthetic.traffic import Kind, Stream

_INNER_M = 1.6
_LANE_WIDTH_M = 3.7
_OUTER_M = _INNER_M + 0.7 + 3 * _LANE_WIDTH_M + 2.4
_LANES_M = tuple(_INNER_M + 0.7 + (i + 0.5) * _LANE_WIDTH_M for i in range(3))
_FIELD_M = 44.0
_FIELDS = (
    MEADOW,
    MEADOW.lighter(1.12),
    LAWN.lighter(0.92),
    surface(Material.GRASS, (206, 190, 96), heat=0.38),
    surface(Material.GRASS, (150, 162, 76), heat=0.36),
)


class Highway(Street):
    """Three lanes each way."""

    piece_m = 48.0
    view_m = 380.0
    speed_mps = 26.0
    lane_m = _LANES_M[1]
    height_m = 2.2
    pitch = -0.045

    def bend_sizes(self) -> tuple[tuple[float, float], ...]:
        """Return wide curves."""
        return ((13.0, 900.0), (3.0, 520.0))

    def _build_skyline(self, rng: np.random.Generator) -> Mesh:
        return skyline(rng, blocks=False, far_ground=MEADOW)

    def _build_streams(self) -> tuple[Stream, ...]:
        key = (*self.key, 3)
        fast: tuple[tuple[Kind, float], ...] = (("car", 0.8),)
        slow: tuple[tuple[Kind, float], ...] = (("truck", 0.5), ("car", 0.28), ("bus", 0.12))
        own = self.speed_mps
        return (
            Stream(name="fast", key=(*key, 0), kinds=fast, lane_m=_LANES_M[0], speed_mps=own + 6, spacing_m=46.0),
            Stream(
                name="own",
                key=(*key, 1),
                kinds=(("car", 0.85),),
                lane_m=_LANES_M[1],
                speed_mps=own,
                spacing_m=34.0,
                keep_clear=(0.0, 19.0),
            ),
            Stream(name="slow", key=(*key, 2), kinds=slow, lane_m=_LANES_M[2], speed_mps=own - 5, spacing_m=44.0),
            Stream(name="back-fast", key=(*key, 3), kinds=fast, lane_m=-_LANES_M[0], speed_mps=-32.0, spacing_m=60.0),
            Stream(name="back", key=(*key, 4), kinds=fast, lane_m=-_LANES_M[1], speed_mps=-28.0, spacing_m=48.0),
            Stream(name="back-slow", key=(*key, 5), kinds=slow, lane_m=-_LANES_M[2], speed_mps=-22.0, spacing_m=52.0),
        )

    def build_piece(self, index: int) -> Mesh:
        """Build 48 m of the motorway."""
        rng = self.random(2, abs(index), int(index < 0))
        z0 = index * self.piece_m
        ground = MeshBuilder()
        ground.part("")
        meshes: list[Mesh] = []
        for side in (-1.0, 1.0):
            field = _FIELDS[int(self.random(5, abs(index) // 3, int(side > 0)).integers(len(_FIELDS)))]
            a, b = sorted((side * _FIELD_M, side * 320.0))
            ground.ground(a, z0, b, z0 + self.piece_m, field, layer=Layer.TERRAIN)
        for start in np.arange(z0, z0 + self.piece_m, 12.0):
            stop = start + 12.0
            ground.ground(-_INNER_M, start, _INNER_M, stop, LAWN, layer=Layer.ROADWAY)
            for side in (-1.0, 1.0):
                a, b = sorted((side * _INNER_M, side * _OUTER_M))
                ground.ground(a, start, b, stop, ASPHALT, layer=Layer.ROADWAY)
                a, b = sorted((side * _OUTER_M, side * _FIELD_M))
                ground.ground(a, start, b, stop, MEADOW, layer=Layer.ROADWAY)
                for edge in (_INNER_M + 0.62, _INNER_M + 0.78 + 3 * _LANE_WIDTH_M):
                    ground.ground(side * edge - 0.1, start, side * edge + 0.1, stop, WHITE_MARK, layer=Layer.MARKINGS)
                for lane in (1, 2):
                    x = side * (_INNER_M + 0.7 + lane * _LANE_WIDTH_M)
                    ground.ground(x - 0.09, start + 2, x + 0.09, start + 7, WHITE_MARK, layer=Layer.MARKINGS)
        meshes.append(ground.build())

        props = MeshBuilder()
        for x in (-0.5, 0.5):
            furniture.guard_rail(props, x, z0, z0 + self.piece_m)
        for side in (-1.0, 1.0):
            furniture.guard_rail(props, side * (_OUTER_M + 0.6), z0, z0 + self.piece_m)
            self._verge(rng, props, meshes, index, z0, side)
        if index % 4 == int(self.random(6).integers(4)):
            boards = (_LANES_M[0] + 0.2, _LANES_M[1] + 1.4, _LANES_M[2] + 1.2)
            furniture.gantry(props, 0.0, _OUTER_M + 1.6, z0 + 30.0, boards[: int(rng.integers(2, 4))])
        if index % 9 == int(self.random(7).integers(9)):
            _bridge(props, z0 + 20.0)
        meshes.append(props.build())
        return join(meshes)

    def _verge(
        self, rng: np.random.Generator, props: MeshBuilder, meshes: list[Mesh], index: int, z0: float, side: float
    ) -> None:
        wooded = self.random(8, (abs(index) + 2) // 4, int(side > 0)).random()
        num_trees = 12 if wooded < 0.6 else 4
        props.usual_layer = Layer.BUILDINGS  # everything is behind the crash barrier
        for _ in range(num_trees):
            x = side * (_OUTER_M + float(rng.uniform(5.0, 20.0)))
            furniture.tree(
                props, x, z0 + float(rng.uniform(0, self.piece_m)), rng, height=float(rng.uniform(6.5, 11.0))
            )
        for _ in range(6 if wooded < 0.6 else 4):
            x = side * (_OUTER_M + float(rng.uniform(2.6, 6.0)))
            furniture.bush(props, x, z0 + float(rng.uniform(0, self.piece_m)), float(rng.uniform(0.8, 1.8)), rng)
        if wooded >= 0.6 and rng.random() < 0.5:
            farm = house(rng, width=12.0, floors=2, shop=False, open_sides=True, wall=WALLS[int(rng.integers(6))])
            heading = 0.0 if side > 0 else np.pi
            meshes.append(farm.placed(side * float(rng.uniform(32, 48)), z0 + 24.0, heading=heading).shaded())
        props.usual_layer = Layer.STREET
        if rng.random() < 0.5:
            furniture.round_sign(props, side * (_OUTER_M + 1.5), z0 + float(rng.uniform(5, 40)), 0)
        if index % 2 == 0:
            furniture.street_lamp(props, side * (_OUTER_M + 1.3), z0 + 10.0, toward=-side, height=9.0)


def _bridge(props: MeshBuilder, z: float) -> None:
    """A road bridge over the motorway."""
    concrete = surface(Material.WALL, (184, 180, 172), heat=0.50)
    reach = _OUTER_M + 16.0
    props.part("", footprint=(-reach, z, reach, z + 9.0))
    props.shadow([(-reach, z), (reach, z), (reach, z + 9), (-reach, z + 9)], 5.6, 7.6)
    for x in (-_OUTER_M - 1.5, 0.0, _OUTER_M + 1.5):
        props.box((x - 0.45, 0.0, z + 1.0), (x + 0.45, 5.8, z + 8.0), concrete.lighter(0.9))
    for side in (-1.0, 1.0):
        a, b = side * reach, side * (_OUTER_M + 2.0)
        slope = ((a, 0.0, z), (b, 0.0, z), (b * 1.0 + side * 2.0, 5.6, z), (a, 5.6, z))
        props.face(slope, LAWN.lighter(0.9))
    props.box((-reach, 5.6, z), (reach, 6.9, z + 9.0), concrete)
    props.face(
        ((-reach, 6.9, z), (reach, 6.9, z), (reach, 7.9, z), (-reach, 7.9, z)),
        surface(Material.METAL, (120, 150, 160), heat=0.30),
    )
