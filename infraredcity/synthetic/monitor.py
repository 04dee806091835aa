"""A crossing and a fixed camera high on a mast: traffic both ways, a queue at the lights, people on zebra crossings."""

import numpy as np

from infraredcity.synthetic import furniture
from infraredcity.synthetic.buildings import house
from infraredcity.synthetic.materials import ASPHALT, KERBSTONE, LAWN, PAVING, WHITE_MARK, YELLOW_MARK
from infraredcity.synthetic.mesh import Layer, Mesh, MeshBuilder, join
from infraredcity.synthetic.people import NUM_PEOPLE, walker
from infraredcity.synthetic.street import Street, parked, skyline
from infraredcity.synthetic.traffic import Kind, Stream
from infraredcity.synthetic.vehicles import NUM_CARS, car

_KERB_M = 5.6
_PAVED_M = 9.0
_CROSS_M = (24.0, 33.0)
_CROSS_PAVED_M = (20.6, 36.4)
_MIDDLE_M = 28.5
_FAR_M = 130.0


class Monitor(Street):
    """The crossing of a main street with a side street."""

    piece_m = 1000.0
    view_m = 120.0
    speed_mps = 0.0
    lane_m = -2.6
    height_m = 8.8
    yaw = 0.07
    pitch = -0.285
    shake_share = 0.12

    def pieces_in_view(self, z: float) -> range:
        """All of it."""
        return range(1)

    def _build_skyline(self, rng: np.random.Generator) -> Mesh:
        return skyline(rng, blocks=True, far_ground=PAVING.lighter(0.94))

    def _build_streams(self) -> tuple[Stream, ...]:
        vehicles: tuple[tuple[Kind, float], ...] = (("car", 0.66), ("bus", 0.12))
        people: tuple[tuple[Kind, float], ...] = (("person", 0.8),)
        cycles: tuple[tuple[Kind, float], ...] = (("bicycle", 0.8),)
        key = (*self.key, 3)
        streams = [
            Stream(name="up", key=(*key, 0), kinds=vehicles, lane_m=1.85, speed_mps=8.5, spacing_m=22.0),
            Stream(name="down", key=(*key, 1), kinds=vehicles, lane_m=-1.85, speed_mps=-9.0, spacing_m=24.0),
            Stream(name="cycle", key=(*key, 2), kinds=cycles, lane_m=4.4, speed_mps=4.6, spacing_m=24.0),
            Stream(name="cycle-back", key=(*key, 3), kinds=cycles, lane_m=-4.4, speed_mps=-4.4, spacing_m=24.0),
        ]
        for i, (lane, speed) in enumerate(((7.3, 1.3), (8.2, -1.2), (-7.3, -1.35), (-8.2, 1.25))):
            streams.append(
                Stream(
                    name=f"walk{i}",
                    key=(*key, 10 + i),
                    kinds=people,
                    lane_m=lane,
                    speed_mps=speed,
                    spacing_m=6.0,
                    spread_m=0.35,
                )
            )
        for i, (lane, speed) in enumerate(((34.2, 1.3), (35.2, -1.25))):
            streams.append(
                Stream(
                    name=f"cross{i}",
                    key=(*key, 20 + i),
                    kinds=people,
                    lane_m=lane,
                    speed_mps=speed,
                    spacing_m=6.5,
                    spread_m=0.3,
                    across=True,
                )
            )
        return tuple(streams)

    def build_piece(self, index: int) -> Mesh:
        """Build the whole place."""
        rng = self.random(2)
        meshes = [self._ground()]
        props = MeshBuilder()
        self._far_side(rng, props, meshes)
        self._near_corners(rng, props, meshes)
        self._kerbside(rng, props, meshes)
        self._queue(rng, meshes)
        meshes.append(props.build())
        return join(meshes)

    def _ground(self) -> Mesh:
        mesh = MeshBuilder()
        mesh.part("")
        low, high = _CROSS_M
        for z0, z1 in ((-30.0, low), (high, _FAR_M)):
            for side in (-1.0, 1.0):
                a, b = sorted((side * _KERB_M, side * _PAVED_M))
                mesh.ground(a, z0, b, z1, PAVING, layer=Layer.TERRAIN)
                a, b = sorted((side * _KERB_M, side * (_KERB_M + 0.3)))
                mesh.ground(a, z0, b, z1, KERBSTONE, layer=Layer.ROADWAY)
            mesh.ground(-_KERB_M, z0, _KERB_M, z1, ASPHALT, layer=Layer.ROADWAY)
        mesh.ground(-90, _CROSS_PAVED_M[0], 90, _CROSS_PAVED_M[1], PAVING, layer=Layer.TERRAIN)
        mesh.ground(-90, low, 90, high, ASPHALT, layer=Layer.ROADWAY)
        for side in (-1.0, 1.0):
            a, b = sorted((side * _KERB_M, side * 90.0))
            for z in (low - 0.3, high):
                mesh.ground(a, z, b, z + 0.3, KERBSTONE, layer=Layer.ROADWAY)
            a, b = sorted((side * _PAVED_M, side * 90.0))
            mesh.ground(a, -30, b, _CROSS_PAVED_M[0], LAWN, layer=Layer.TERRAIN)
            for x in np.arange(11.0, 80.0, 5.0):
                middle = side * (x + 1.5)
                mesh.ground(
                    middle - 1.5, _MIDDLE_M - 0.08, middle + 1.5, _MIDDLE_M + 0.08, WHITE_MARK, layer=Layer.MARKINGS
                )
            # Zebra and stop line on the side street, beside the crossing.
            for z in np.arange(low + 0.5, high - 0.4, 1.1):
                a, b = sorted((side * 6.4, side * 9.2))
                mesh.ground(a, z, b, z + 0.55, WHITE_MARK, layer=Layer.MARKINGS)
            a, b = sorted((side * 10.0, side * 10.4))
            z = low if side < 0 else _MIDDLE_M
            mesh.ground(a, z, b, z + 4.5, WHITE_MARK, layer=Layer.MARKINGS)
        for z0, z1 in ((-20.0, 19.0), (38.5, _FAR_M)):
            for z in np.arange(z0, z1 - 2.0, 5.5):
                mesh.ground(-0.09, z, 0.09, z + 3.0, WHITE_MARK, layer=Layer.MARKINGS)
            for x in (-3.6, 3.6):
                mesh.ground(x - 0.06, z0, x + 0.06, z1, WHITE_MARK, layer=Layer.MARKINGS)
        for x in np.arange(-_KERB_M + 0.4, _KERB_M - 0.4, 1.1):
            mesh.ground(x, 33.8, x + 0.55, 36.2, WHITE_MARK, layer=Layer.MARKINGS)
        # Arrow in the near lane, yellow line along the kerb.
        mesh.ground(1.75, 10.0, 1.95, 13.0, WHITE_MARK, layer=Layer.MARKINGS)
        mesh.face(
            ((1.4, 0, 13.0), (2.3, 0, 13.0), (1.85, 0, 14.6)), WHITE_MARK, outward=(0, 1, 0), layer=Layer.MARKINGS
        )
        for x in (-_KERB_M + 0.25, _KERB_M - 0.25):
            mesh.ground(x - 0.06, 12.0, x + 0.06, 23.0, YELLOW_MARK, layer=Layer.MARKINGS)
        return mesh.build()

    def _far_side(self, rng: np.random.Generator, props: MeshBuilder, meshes: list[Mesh]) -> None:
        """Build houses that face the camera across the side street, and rows along the main street behind."""
        for side in (-1.0, 1.0):
            edge = 9.2
            for i in range(5):
                width = float(rng.uniform(9.0, 13.0))
                block = house(
                    rng, width=width, open_sides=i == 0, floors=int(rng.integers(2, 4)), shop=True if i == 0 else None
                )
                right = edge + width if side > 0 else -edge
                meshes.append(block.placed(right, 36.6, heading=-np.pi / 2).shaded())
                edge += width
                if i == 1 and rng.random() < 0.5:
                    props.part("")
                    a, b = sorted((side * edge, side * (edge + 8.0)))
                    props.ground(a, 36.4, b, 60.0, LAWN, layer=Layer.ROADWAY)
                    props.usual_layer = Layer.BUILDINGS
                    for x in (edge + 2.5, edge + 5.5):
                        furniture.tree(props, side * x, 40.0 + float(rng.uniform(0, 4)), rng, height=7.0)
                    props.usual_layer = Layer.STREET
                    edge += 8.0
            z = 47.0
            while z < _FAR_M - 10:
                width = float(rng.uniform(8.0, 12.0))
                row = house(rng, width=width)
                heading, foot = (0.0, z) if side > 0 else (np.pi, z + width)
                meshes.append(row.placed(side * 9.2, foot, heading=heading).shaded())
                z += width

        props.usual_layer = Layer.BUILDINGS
        for x in np.arange(-12.0, 12.5, 3.0):
            furniture.tree(
                props, float(x), _FAR_M - 12.0 + float(rng.uniform(0, 4)), rng, height=float(rng.uniform(6, 8.5))
            )
        props.usual_layer = Layer.STREET

    def _near_corners(self, rng: np.random.Generator, props: MeshBuilder, meshes: list[Mesh]) -> None:
        """Build lawns with trees, and a car park on one side."""
        park_side = -1.0 if rng.random() < 0.5 else 1.0
        props.part("")
        a, b = sorted((park_side * 10.5, park_side * 32.0))
        props.ground(a, 8.0, b, 18.8, ASPHALT.lighter(1.12), layer=Layer.ROADWAY)
        for x in np.arange(12.0, 31.0, 2.9):
            props.ground(park_side * x - 1.5, 13.0, park_side * x - 1.38, 18.4, WHITE_MARK, layer=Layer.MARKINGS)
            if rng.random() < 0.72:
                meshes.append(parked(rng, park_side * x, 15.9, quarter_turns=int(rng.choice([0, 2]))))
        for _ in range(7):
            x, z = -park_side * float(rng.uniform(11.0, 26.0)), float(rng.uniform(9.0, 18.6))
            furniture.tree(props, x, z, rng, height=float(rng.uniform(3.8, 5.6)))
        for _ in range(5):
            x, z = -park_side * float(rng.uniform(10.0, 20.0)), float(rng.uniform(7.0, 19.0))
            furniture.bush(props, x, z, float(rng.uniform(0.5, 1.0)), rng)
        furniture.bench(props, -park_side * 10.0, 12.0)
        for x in (12.0, 17.0, 22.0):
            furniture.tree(props, park_side * x, 19.7, rng, height=4.2)

    def _kerbside(self, rng: np.random.Generator, props: MeshBuilder, meshes: list[Mesh]) -> None:
        for side in (-1.0, 1.0):
            for z in (17.5, 42.0, 62.0, 82.0):
                furniture.street_lamp(props, side * 6.3, z, toward=-side)
            for z in np.arange(47.0, 110.0, 9.0):
                if rng.random() < 0.6:
                    furniture.tree(props, side * 6.9, float(z), rng, height=float(rng.uniform(4.6, 6.2)))
            for z in np.arange(43.0, 110.0, 6.0):
                if rng.random() < 0.7:
                    turns = 0 if side > 0 else 2
                    meshes.append(parked(rng, side * 4.7, float(z), quarter_turns=turns))
            furniture.traffic_light(props, side * 6.1, 36.9 if side > 0 else 22.8, green=True)
            furniture.traffic_light(props, side * 10.2, 33.4 if side > 0 else 23.4, green=False)
            for i in range(int(rng.integers(1, 4))):
                person = walker(int(rng.integers(NUM_PEOPLE)), stride=-1, along=3 if side > 0 else 2)
                meshes.append(person.placed(side * (6.3 + 0.6 * i), 35.0 - 0.5 * i))
        furniture.round_sign(props, 6.4, 22.0, int(rng.integers(5)))
        furniture.round_sign(props, -6.4, 38.0, int(rng.integers(5)))
        furniture.litter_bin(props, 6.7, 19.5)

    def _queue(self, rng: np.random.Generator, meshes: list[Mesh]) -> None:
        """Build cars that wait at the side street's red light with running engines."""
        for side in (-1.0, 1.0):
            z = _MIDDLE_M + side * 2.2
            for i in range(int(rng.integers(2, 5))):
                x = side * (12.9 + 6.2 * i + float(rng.uniform(-0.3, 0.3)))
                waiting = car(int(rng.integers(NUM_CARS)), running=True, quarter_turns=1 if side < 0 else 3)
                meshes.append(waiting.placed(x, z))
