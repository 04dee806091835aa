"""A street in town, driven through: houses in rows, shops, parks, parked cars, trees, lamps, people."""

import numpy as np

from infraredcity.synthetic import furniture
from infraredcity.synthetic.buildings import house
from infraredcity.synthetic.materials import ASPHALT, KERBSTONE, LAWN, PAVING, WHITE_MARK, Rgb
from infraredcity.synthetic.mesh import Layer, Mesh, MeshBuilder, join
from infraredcity.synthetic.people import NUM_PEOPLE, walker
from infraredcity.synthetic.street import Street, parked, skyline
from infraredcity.synthetic.traffic import Kind, Stream

_KERB_M = 5.8
_FRONT_M = 9.2
_LANE_M = 1.75
_VEHICLES: tuple[tuple[Kind, float], ...] = (("car", 0.72), ("bus", 0.10))


class City(Street):
    """Two lanes between rows of parked cars, pavements and house fronts."""

    piece_m = 24.0
    view_m = 200.0
    speed_mps = 8.5
    lane_m = _LANE_M
    height_m = 2.1
    pitch = -0.02
    far_ground = PAVING

    def bend_sizes(self) -> tuple[tuple[float, float], ...]:
        """Return slight bends."""
        return ((2.2, 230.0), (1.0, 140.0))

    def _build_skyline(self, rng: np.random.Generator) -> Mesh:
        return skyline(rng, blocks=True, far_ground=PAVING.lighter(0.94))

    def _build_streams(self) -> tuple[Stream, ...]:
        people: tuple[tuple[Kind, float], ...] = (("person", 0.72),)
        cycles: tuple[tuple[Kind, float], ...] = (("bicycle", 0.75),)
        key = (*self.key, 3)
        streams = [
            Stream(
                name="ahead",
                key=(*key, 0),
                kinds=_VEHICLES,
                lane_m=_LANE_M,
                speed_mps=self.speed_mps,
                spacing_m=21.0,
                keep_clear=(0.0, 13.0),
            ),
            Stream(name="oncoming", key=(*key, 1), kinds=_VEHICLES, lane_m=-_LANE_M, speed_mps=-9.2, spacing_m=27.0),
            Stream(name="cycle", key=(*key, 2), kinds=cycles, lane_m=3.05, speed_mps=5.2, spacing_m=30.0),
            Stream(name="cycle-back", key=(*key, 3), kinds=cycles, lane_m=-3.05, speed_mps=-5.0, spacing_m=38.0),
        ]
        for i, (lane, speed) in enumerate(((7.6, 1.35), (8.3, -1.25), (-7.6, -1.4), (-8.3, 1.2))):
            streams.append(
                Stream(
                    name=f"walk{i}",
                    key=(*key, 10 + i),
                    kinds=people,
                    lane_m=lane,
                    speed_mps=speed,
                    spacing_m=8.0,
                    spread_m=0.3,
                )
            )
        return tuple(streams)

    def build_piece(self, index: int) -> Mesh:
        """Build 24 m of the street."""
        rng = self.random(2, abs(index), int(index < 0))
        z0 = index * self.piece_m
        zebra = index % 4 == int(self.random(4).integers(4))
        ground = MeshBuilder()
        ground.part("")
        meshes: list[Mesh] = []
        for start in np.arange(z0, z0 + self.piece_m, 6.0):
            ground.ground(-_KERB_M, start, _KERB_M, start + 6, ASPHALT, layer=Layer.ROADWAY)
            for side in (-1.0, 1.0):
                a, b = sorted((side * (_KERB_M + 0.28), side * _FRONT_M))
                ground.ground(a, start, b, start + 6, PAVING, layer=Layer.ROADWAY)
                a, b = sorted((side * _KERB_M, side * (_KERB_M + 0.28)))
                ground.ground(a, start, b, start + 6, KERBSTONE, layer=Layer.ROADWAY)
        for start in np.arange(z0, z0 + self.piece_m, 8.0):
            if not (zebra and start == z0):
                ground.ground(-0.09, start + 2.0, 0.09, start + 6.0, WHITE_MARK, layer=Layer.MARKINGS)
            for x in (-3.62, 3.62):
                ground.ground(x - 0.06, start, x + 0.06, start + 4.0, WHITE_MARK, layer=Layer.MARKINGS)
        if zebra:
            for x in np.arange(-5.4, 5.4, 1.2):
                ground.ground(x, z0 + 1.0, x + 0.6, z0 + 5.0, WHITE_MARK, layer=Layer.MARKINGS)
        meshes.append(ground.build())
        for side in (-1.0, 1.0):
            meshes += self._side(rng, index, z0, side, zebra=zebra)
        return join(meshes)

    def _side(self, rng: np.random.Generator, index: int, z0: float, side: float, *, zebra: bool) -> list[Mesh]:
        z1 = z0 + self.piece_m
        props = MeshBuilder()
        meshes: list[Mesh] = []
        use = rng.choice(["row", "park", "villa"], p=[0.66, 0.17, 0.17])
        if use == "row":
            widths = rng.dirichlet([9.0, 9.0, 9.0][: int(rng.integers(2, 4))]) * self.piece_m
            start = z0
            for width in widths:
                front = house(rng, width=float(width))
                heading, z = (0.0, start) if side > 0 else (np.pi, start + float(width))
                meshes.append(front.placed(side * _FRONT_M, z, heading=heading).shaded())
                start += float(width)
        else:
            props.part("")
            a, b = sorted((side * _FRONT_M, side * 60.0))
            for start in (z0, z0 + 12):
                props.ground(a, start, b, start + 12, LAWN, layer=Layer.ROADWAY)
            props.usual_layer = Layer.BUILDINGS
            if use == "park":
                for _ in range(7):
                    x, z = side * float(rng.uniform(12.0, 27.0)), z0 + float(rng.uniform(1, 23))
                    furniture.tree(props, x, z, rng, height=float(rng.uniform(6.0, 9.5)))
                for _ in range(4):
                    furniture.bush(
                        props,
                        side * float(rng.uniform(10.6, 14)),
                        z0 + float(rng.uniform(1, 23)),
                        float(rng.uniform(0.6, 1.1)),
                        rng,
                    )
                if rng.random() < 0.6:
                    furniture.hedge(props, side * (_FRONT_M + 0.5), z0 + 0.5, z1 - 0.5, 0.9, rng)
            else:
                width = float(rng.uniform(9.5, 12.0))
                start = z0 + float(rng.uniform(4.0, 7.0))
                villa = house(rng, width=width, floors=2, shop=False, open_sides=True)
                heading, z = (0.0, start) if side > 0 else (np.pi, start + width)
                meshes.append(villa.placed(side * (_FRONT_M + 3.2), z, heading=heading).shaded())
                paint: Rgb = ((236, 234, 228), (150, 100, 62))[int(rng.integers(2))]
                furniture.fence(props, side * (_FRONT_M + 0.2), z0 + 0.4, z1 - 0.6, paint)
                for z in (z0 + 1.8, z1 - 2.2):
                    furniture.tree(props, side * float(rng.uniform(11.5, 14)), z, rng)
                for z in rng.uniform(z0 + 3, z1 - 3, 3):
                    furniture.bush(props, side * 10.4, float(z), 0.6, rng)
            props.usual_layer = Layer.STREET
        self._kerbside(rng, props, meshes, index, z0, side, zebra=zebra)
        meshes.append(props.build())
        return meshes

    def _kerbside(
        self,
        rng: np.random.Generator,
        props: MeshBuilder,
        meshes: list[Mesh],
        index: int,
        z0: float,
        side: float,
        *,
        zebra: bool,
    ) -> None:
        stop_here = bool(rng.random() < 0.15) and not zebra
        furniture.street_lamp(props, side * 6.35, z0 + (6.5 if side > 0 else 18.5), toward=-side)
        for z in (z0 + 10.5, z0 + 22.0):
            if rng.random() < 0.55 and not stop_here:
                furniture.tree(
                    props, side * 6.75, z + float(rng.uniform(-1.2, 1.2)), rng, height=float(rng.uniform(4.8, 6.4))
                )
        if stop_here:
            furniture.bus_shelter(props, side * 7.4, z0 + 8.0, toward=-side)
            for i in range(int(rng.integers(1, 4))):
                person = walker(int(rng.integers(NUM_PEOPLE)), stride=-1, along=1)
                meshes.append(person.placed(side * 6.6, z0 + 8.5 + 1.1 * i))
        else:
            for slot in range(4):
                z = z0 + 3.0 + 6.0 * slot + float(rng.uniform(-0.4, 0.4))
                if rng.random() < 0.62 and not (zebra and slot == 0):
                    turns = 0 if side > 0 else 2
                    meshes.append(parked(rng, side * 4.78, z, quarter_turns=turns))
        if zebra:
            furniture.round_sign(props, side * 6.15, z0 + 0.6, 4)
            for i in range(int(rng.integers(1, 4))):
                person = walker(int(rng.integers(NUM_PEOPLE)), stride=-1, along=3 if side > 0 else 2)
                place = (side * (6.5 + 0.5 * i), z0 + 1.6 + 0.8 * i)
                meshes.append(person.placed(*place))
        elif rng.random() < 0.5:
            furniture.round_sign(props, side * 6.2, z0 + float(rng.uniform(12.5, 16.5)), int(rng.integers(4)))
        if rng.random() < 0.4:
            furniture.litter_bin(props, side * 6.5, z0 + 8.2)
