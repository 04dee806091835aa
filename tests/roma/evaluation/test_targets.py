from dataclasses import replace

import pytest

from roma.evaluation.evaluate import EvalReport, Scores
from roma.evaluation.measures import MEASURES
from roma.evaluation.targets import judge


def scores(**values: float) -> Scores:
    """Give scores of the measures named here, and none of the others."""
    return {measure.name: values.get(measure.name) for measure in MEASURES}


GOOD = EvalReport(
    source="night", compared_with="day", visible="shards", flow="flow", snapshot_step=1, size_px=16, num_frames=2,
    num_without_truth=0, num_day_frames=9, num_flow_pairs=1, weights="none", pictures=(),
    translated=scores(psnr_db=15.0, ssim=0.5, mae=30.0, edge_correlation=0.6, ab_distance=12.0, chroma=10.0,
                      warping_error=0.01),
    infrared=scores(psnr_db=10.0, ssim=0.3, mae=60.0, edge_correlation=0.6, ab_distance=12.0, chroma=0.0, warping_error=0.002),
    reinhard=scores(psnr_db=9.0, ssim=0.3, mae=70.0, edge_correlation=0.5, ab_distance=11.0, chroma=8.0, warping_error=0.002),
    mean_day=scores(psnr_db=16.0, ssim=0.5, mae=25.0, edge_correlation=0.3, ab_distance=9.0, chroma=9.0, warping_error=0.001),
    truth=scores(chroma=20.0, warping_error=0.005),
)  # fmt: skip
NAMES = ["PSNR", "PSNR", "MAE", "MAE", "edge correlation", "edge correlation", "a*b* distance", "chroma, away from truth",
         "warping error"]  # fmt: skip


def test_a_translation_that_just_reaches_every_bound_meets_them():
    targets = judge(GOOD)
    assert [target.name for target in targets] == NAMES
    assert [target.value for target in targets] == [15, 15, 30, 30, 0.6, 0.6, 12, 10, 0.01]
    assert [target.bound for target in targets] == [15, 14, 30, 35, 0.6, 0.6, 12, 10, 0.01]
    assert all(target.met for target in targets)


@pytest.mark.parametrize(
    ("worse", "missed"),
    [
        ({"psnr_db": 14.9}, [0]),
        ({"psnr_db": 13.9}, [0, 1]),
        ({"mae": 30.1}, [2]),
        ({"mae": 35.1}, [2, 3]),
        ({"edge_correlation": 0.59}, [4, 5]),
        ({"ab_distance": 12.1}, [6]),
        ({"chroma": 9.9}, [7]),
        ({"chroma": 30.1}, [7]),
        ({"warping_error": 0.011}, [8]),
        ({"chroma": 29.9, "ssim": -1.0}, []),
    ],
)
def test_a_little_less_misses_the_target(worse: dict[str, float], missed: list[int]):
    targets = judge(replace(GOOD, translated=GOOD.translated | worse))
    assert [place for place, target in enumerate(targets) if not target.met] == missed


def test_targets_that_cannot_be_judged_are_left_out():
    without_day = judge(replace(GOOD, reinhard=None, mean_day=None))
    assert [target.name for target in without_day] == [NAMES[place] for place in (0, 2, 4, 6, 7, 8)]
    without_flow = replace(
        GOOD, translated=GOOD.translated | {"warping_error": None}, truth=GOOD.truth | {"warping_error": None}
    )
    assert [target.name for target in judge(without_flow)] == NAMES[:8]
