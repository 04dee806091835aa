"""Moving objects: endless streams of vehicles and people, a pure function of time."""

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from infraredcity.synthetic.mesh import Mesh
from infraredcity.synthetic.people import NUM_PEOPLE, NUM_STRIDES, cyclist, walker
from infraredcity.synthetic.vehicles import NUM_CARS, bus, car, lorry

Kind = Literal["car", "bus", "truck", "bicycle", "person"]
_LENGTH_M = {"car": 4.5, "bus": 11.2, "truck": 12.4, "bicycle": 1.8, "person": 0.5}
_STRIDE_M = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Vehicles or people that move along one line at one speed.

    Attributes:
        name: Prefix of the names of its members.
        key: Seed words of its random draws.
        kinds: Kinds of its members, with the share of each; the shares may sum to less than 1, the rest are gaps.
        lane_m: Its x where it runs along the street, its z where it runs across.
        speed_mps: Speed towards +z (or +x).
        spacing_m: Mean distance between two places in the stream.
        across: Runs along x rather than z.
        spread_m: Largest distance of members from the line.
        keep_clear: A place in the stream (at time 0) that stays free, such as that of the camera, with its half width.
    """

    name: str
    key: tuple[int, ...]
    kinds: tuple[tuple[Kind, float], ...]
    lane_m: float
    speed_mps: float
    spacing_m: float
    across: bool = False
    spread_m: float = 0.0
    keep_clear: tuple[float, float] | None = None
    _members: "dict[int, _Member | None]" = field(default_factory=dict, compare=False, repr=False)

    def between(self, time_s: float, start_m: float, stop_m: float) -> list[int]:
        """Return the numbers of the members between two places of the line at a moment."""
        shift = self.speed_mps * time_s
        first = math.floor((start_m - shift) / self.spacing_m) - 1
        last = math.ceil((stop_m - shift) / self.spacing_m) + 1
        found = []
        for index in range(first, last + 1):
            member = self._member(index)
            if member is not None and start_m <= self._along(member, time_s) <= stop_m:
                found.append(index)
        return found

    def at(self, time_s: float, index: int) -> Mesh:
        """Build one member, in its place at a moment; its faces have the same numbers at every moment."""
        member = self._member(index)
        assert member is not None, f"{self.name}:{index} is a gap"
        return self._mesh(index, member, self._along(member, time_s), time_s)

    def _member(self, index: int) -> "_Member | None":
        if index not in self._members:
            self._members[index] = self._draw(index)
        return self._members[index]

    def _along(self, member: "_Member", time_s: float) -> float:
        return member.start_m + self.speed_mps * time_s + member.sway_m * math.sin(0.5 * time_s + member.phase)

    def _draw(self, index: int) -> "_Member | None":
        rng = np.random.default_rng([*self.key, 2 * index if index >= 0 else -2 * index - 1])
        choice, jitter, side, phase, pace = rng.random(5)
        variant = int(rng.integers(1 << 20))
        kind: Kind | None = None
        for name, share in self.kinds:
            if choice < share:
                kind = name
                break
            choice -= share
        if kind is None:
            return None
        room = max(0.0, self.spacing_m - _LENGTH_M[kind] - 2.0)
        start = index * self.spacing_m + (jitter - 0.5) * room * 0.8
        if self.keep_clear is not None and abs(start - self.keep_clear[0]) < self.keep_clear[1]:
            return None
        return _Member(
            kind=kind,
            variant=variant,
            start_m=start,
            side_m=(2 * side - 1) * self.spread_m,
            phase=2 * math.pi * phase,
            sway_m=0.0 if kind == "person" or self.speed_mps == 0 else min(1.2, 0.1 * room) * pace,
        )

    def _mesh(self, index: int, member: "_Member", along: float, time_s: float) -> Mesh:
        if member.kind in ("person", "bicycle"):
            forward = self.speed_mps >= 0
            direction = (2 if forward else 3) if self.across else (0 if forward else 1)
            step_m = _STRIDE_M if member.kind == "person" else 4.2
            turns = abs(self.speed_mps) * time_s / step_m + member.phase / (2 * math.pi)
            stride = int(turns * NUM_STRIDES) % NUM_STRIDES
            figure = walker if member.kind == "person" else cyclist
            mesh = figure(member.variant % NUM_PEOPLE, stride=stride, along=direction)
        else:
            turns_of = {(False, True): 0, (True, True): 1, (False, False): 2, (True, False): 3}
            quarter_turns = turns_of[(self.across, self.speed_mps >= 0)]
            if member.kind == "car":
                mesh = car(member.variant % NUM_CARS, running=True, quarter_turns=quarter_turns)
            elif member.kind == "bus":
                mesh = bus(member.variant % 3, quarter_turns=quarter_turns)
            else:
                mesh = lorry(member.variant % 16, quarter_turns=quarter_turns)
        x, z = (along, self.lane_m + member.side_m) if self.across else (self.lane_m + member.side_m, along)
        return mesh.placed(x, z, name=f"{self.name}:{index}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    kind: Kind
    variant: int
    start_m: float
    side_m: float
    phase: float
    sway_m: float
