"""Check whether a translation of the built-in sample reaches the demo's targets."""

from collections.abc import Callable
from dataclasses import dataclass

from roma.evaluation.evaluate import EvalReport


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One target of a translation, and whether it is met.

    Attributes:
        name: What is measured.
        asked: The target in words.
        measure: Name of the measure whose unit `value` and `bound` have.
        value: The translation's value.
        bound: The least or largest value that meets the target.
        met: Whether the target is met.
    """

    name: str
    asked: str
    measure: str
    value: float
    bound: float
    met: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class _Demand:
    """A target before it is measured: `bound` computes a lower or upper bound from the score of the method `beside`."""

    name: str
    asked: str
    measure: str
    beside: str
    bound: Callable[[float], float]
    is_floor: bool
    is_difference: bool = False


# PSNR alone is not enough: the mean day picture beats most translations in it, though none of its edges is in the right place. So
# there are targets for edges and colours too.
_DEMANDS = (
    *(
        _Demand(name="PSNR", asked=f"at least 5 dB above {beside}", measure="psnr_db", beside=beside,
                bound=lambda other: other + 5, is_floor=True)
        for beside in ("infrared", "reinhard")
    ),
    *(
        _Demand(name="MAE", asked=f"at most half of {beside}", measure="mae", beside=beside,
                bound=lambda other: other / 2, is_floor=False)
        for beside in ("infrared", "reinhard")
    ),
    _Demand(name="edge correlation", asked="at least that of infrared", measure="edge_correlation", beside="infrared",
            bound=lambda other: other, is_floor=True),
    _Demand(name="edge correlation", asked="at least twice that of mean_day", measure="edge_correlation", beside="mean_day",
            bound=lambda other: 2 * other, is_floor=True),
    _Demand(name="a*b* distance", asked="at most that of infrared", measure="ab_distance", beside="infrared",
            bound=lambda other: other, is_floor=False),
    _Demand(name="chroma, away from truth", asked="at most 50 % of truth", measure="chroma", beside="truth",
            bound=lambda other: other / 2, is_floor=False, is_difference=True),
    _Demand(name="warping error", asked="at most twice that of truth", measure="warping_error", beside="truth",
            bound=lambda other: 2 * other, is_floor=False),
)  # fmt: skip


def judge(report: EvalReport) -> list[Target]:
    """Check the demo's targets; those that need day shards or flows are left out without them."""
    methods = dict(report.methods)
    targets = []
    for demand in _DEMANDS:
        reached = report.translated[demand.measure]
        other = methods.get(demand.beside, {}).get(demand.measure)
        if reached is None or other is None:
            continue
        value = abs(reached - other) if demand.is_difference else reached
        bound = demand.bound(other)
        targets.append(
            Target(
                name=demand.name,
                asked=demand.asked,
                measure=demand.measure,
                value=value,
                bound=bound,
                met=value >= bound if demand.is_floor else value <= bound,
            )
        )
    return targets
