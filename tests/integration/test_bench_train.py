"""The benchmark of a training step: that it measures what it says and that all variants compute the same step, not their speed."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import PATIENCE_S

from infraredcity.stills.decode import decode

TOOLS = Path(__file__).resolve().parents[2] / "tools"
LOSSES = {"structure_global", "structure_local", "motion", "gan_generator", "gan_discriminator", "generator_total"}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(TOOLS)
    import bench_train

    return bench_train


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(TOOLS)
    import bench_train_reference

    return bench_train_reference


def run_bench(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, TOOLS / "bench_train.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)


def test_a_small_run_measures_every_variant_and_all_take_the_same_step(tmp_path: Path) -> None:
    out = tmp_path / "out" / "result.json"
    done = run_bench("--json", out, "--small", "--rounds", "2", "--curve", "3")
    assert done.returncode == 0, done.stderr

    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["format"] == "infraredcity-bench-train-1"
    assert {"processor", "num_cores", "torch", "threads", "cpu_flags"} <= set(result["machine"])
    assert all(rate > 0 for rate in result["matrix_gflop_per_s"].values())
    rows = {row["variant"]: row for row in result["variants"]}
    assert list(rows) == ["reference", "plain", "ours", "ours-bf16"]
    for name, row in rows.items():
        assert "missing" not in row, (name, done.stderr)
        assert len(row["seconds"]) == 2
        assert min(row["seconds"]) > 0
        assert set(row["losses"]) == LOSSES
        assert set(row["grad_norms"]) == {"generator", "discriminator"}
        assert row["peak_bytes"] > 100 * 2**20  # torch alone holds that
        assert row["gflop"] > 0
    assert rows["reference"]["by_reference"] == 1.0
    assert rows["reference"]["agreement"] == {"losses": 0.0, "grad_norms": 0.0, "gradients": 0.0}
    for name in ("plain", "ours"):
        apart = rows[name]["agreement"]
        assert apart["losses"] < 1e-5, name
        assert max(apart["grad_norms"], apart["gradients"]) < 1e-4, name
    assert rows["ours-bf16"]["agreement"]["losses"] > 1e-5
    # Of the ViT's backward the plain step has that to the translations alone: no weights, no infrared.
    assert rows["reference"]["gflop"] > 1.5 * rows["plain"]["gflop"]

    waiting = result["waiting"]
    assert waiting["variant"] in ("ours", "ours-bf16")
    assert 0 < waiting["wait_share"] < 1
    assert 0 < waiting["monitor_wait_share"] < 1
    for curves in result["curve"].values():
        assert {name: len(values) for name, values in curves.items()} == dict.fromkeys(curves, 3)
        assert set(curves) == LOSSES
    # Step 0 of a run from these shards is the step that was compared.
    assert result["curve"]["ours"]["structure_global"][0] == pytest.approx(rows["ours"]["losses"]["structure_global"])
    assert decode(out.with_suffix(".png").read_bytes(), "rgb").shape == (6 * 240, 640, 3)

    *_, last = done.stdout.splitlines()
    assert last == result["summary"]
    assert last.startswith("small networks: train: ")
    assert "losses within " in last
    assert sorted(path.name for path in out.parent.iterdir()) == ["result.json", "result.png"]


def test_settings_that_the_reference_does_not_know_are_refused(tmp_path: Path) -> None:
    done = run_bench("--json", tmp_path / "a.json", "--set", "loss.edges=0.5", "--set", "loss.reference_temporal=true")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line == (
        "Error: --set: the reference takes the published step alone, not loss.edges 0.5, loss.reference_temporal True; "
        "leave that out"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_dies_is_missing_from_then_on_and_no_error(bench: Any, tmp_path: Path) -> None:
    plan = plan_of(bench, "cpu", sources=(str(tmp_path / "no" / "*.tar"),) * 2)
    with bench.Child(plan, "plain", 1, tmp_path) as child:
        assert child.ask("first") == {"missing": "first: ended with code 1"}
        assert child.ask("time", steps=1, warm_up=0) == {"missing": "first: ended with code 1"}


def plan_of(bench: Any, device: str, *, sources: tuple[str, str] = ("a", "b")) -> Any:
    return bench.Plan(
        variants=("reference", "ours"), device=device, sources=sources, settings=("vit.weights=random", *bench.SMALL),
        batch_sizes=(1, 4), rounds=1, steps=1, warm_up=0, wait_steps=1, curve_steps=0,
    )  # fmt: skip


def test_variants_share_a_cpu_but_not_a_gpu(bench: Any) -> None:
    assert bench.groups(plan_of(bench, "cpu")) == [[("reference", 1), ("ours", 1)], [("reference", 4), ("ours", 4)]]
    on_gpu = [[("reference", 1)], [("ours", 1)], [("reference", 4)], [("ours", 4)]]
    assert bench.groups(plan_of(bench, "cuda")) == on_gpu
    assert bench.default_variants("cpu") == ["reference", "plain", "ours", "ours-bf16"]
    assert bench.default_variants("cuda")[4:] == ["ours-compiled", "ours-bf16-compiled"]


def test_a_variant_whose_memory_was_full_is_not_tried_with_more_windows(bench: Any, tmp_path: Path) -> None:
    before = {("ours", 1): {"variant": "ours", "batch_size": 1, "missing": "time: the GPU's memory is full"}}
    rows = bench.measured_group(plan_of(bench, "cuda"), [("ours", 4)], before, tmp_path)
    assert rows == {
        ("ours", 4): {"variant": "ours", "batch_size": 4, "seconds": [], "missing": "did not run at 1 windows"}
    }


def test_ratios_are_taken_within_a_round_and_operations_grow_with_the_batch(bench: Any, tmp_path: Path) -> None:
    rows = {
        ("reference", 1): {"seconds": [8.0, 12.0, 20.0], "peak_bytes": 1000, "gflop": 50.0},
        ("plain", 1): {"seconds": [5.0, 6.0, 6.0], "peak_bytes": 500, "gflop": 30.0},
        ("ours", 1): {"seconds": [4.0, 4.0, 4.0], "peak_bytes": 400, "gflop": 24.0},
        ("ours-compiled", 4): {"seconds": [6.0, None, 10.0]},
    }
    bench.add_counts(plan_of(bench, "cuda"), rows)
    bench.compare(rows, tmp_path, {"bf16": 20.0})
    ours = rows["ours", 1]
    # 8/4, 12/4 and 20/4; two frames in 4 s; 24 GFLOP of its own in 4 s; 30 GFLOP of the method in 4 s, where 80 were possible.
    assert (ours["by_reference"], ours["memory_by_reference"], ours["images_per_s"]) == (3.0, 0.4, 0.5)
    assert (ours["gflop_per_s"], ours["used"]) == (6.0, 30 / 80)
    compiled = rows["ours-compiled", 4]
    assert (compiled["gflop"], compiled["model_gflop"], compiled["median_s"]) == (96.0, 120.0, 8.0)
    assert (compiled["images_per_s"], compiled["used"], compiled["by_reference"]) == (1.0, 0.75, None)


def test_agreement_is_the_largest_relative_difference(bench: Any, tmp_path: Path) -> None:
    torch.save({"generator": torch.tensor([3.0, 4.0])}, tmp_path / "reference.pt")
    torch.save({"generator": torch.tensor([3.0, 4.5])}, tmp_path / "ours.pt")
    reference = {"losses": {"gan": 2.0, "motion": 0.5}, "grad_norms": {"generator": 5.0}, "gradients": "reference.pt"}
    ours = {"losses": {"gan": 2.2, "motion": 0.4}, "grad_norms": {"generator": 5.5}, "gradients": "ours.pt"}
    found = bench.agreement(ours, reference, tmp_path)
    assert found == {
        "losses": pytest.approx(0.2), "grad_norms": pytest.approx(0.1), "gradients": pytest.approx(0.1)
    }  # fmt: skip
    ours["losses"] = {"gan": 2.0, "motion": math.nan}
    assert bench.agreement(ours, reference, tmp_path)["losses"] == math.inf


def test_goals_name_what_is_missed_and_what_was_not_measured(bench: Any) -> None:
    agreement = {"losses": 3e-6, "grad_norms": 2e-4, "gradients": 1e-3}
    ours = {"by_reference": 2.31, "memory_by_reference": 0.43, "agreement": agreement}
    found = bench.goals(ours, {}, {"wait_share": 0.001})
    assert [goal["is_met"] for goal in found] == [True, True, True, False, False, True]
    assert bench.summary(found) == (
        "train: 4 of 6 goals met, 1 not measured: ours 2.31x reference (goal >= 2.20x); "
        "memory 43.0% of reference (goal <= 45.0%); losses within 3e-06 (goal <= 1e-05); "
        "MISSED gradient norms within 2e-04 (goal <= 1e-04); waiting for data 0.1% (goal <= 2.0%)"
    )


def test_a_running_mean_looks_back(bench: Any) -> None:
    assert bench.running_mean(np.array([1.0, 3.0, 5.0, 10.0]), 2).tolist() == [1.0, 2.0, 4.0, 7.5]


def test_one_folder_of_lite_or_two_sources_are_data(bench: Any, tmp_path: Path) -> None:
    assert bench.sources_of(["a/*.tar", "b/*.tar"]) == ("a/*.tar", "b/*.tar")
    for name in ("infrared-train", "visible-train"):
        with pytest.raises(SystemExit, match=f"{name}: no such folder"):
            bench.sources_of([str(tmp_path)])
        (tmp_path / name).mkdir()
    assert bench.sources_of([str(tmp_path)]) == (f"{tmp_path}/infrared-train/*.tar", f"{tmp_path}/visible-train/*.tar")


def test_distances_of_the_reference_are_those_of_the_paper(reference: Any) -> None:
    source = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    fake = torch.tensor([[[1.0, 1.0], [0.0, 1.0]]])
    # S F^T = [[1, 0], [1, 1]], F S^T = [[1, 1], [0, 1]]: the cosine of both rows is 1 / sqrt(2).
    both: list[Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = [
        reference.distance,
        reference.distance_by_one_product,
    ]
    for distance in both:
        assert float(distance(source, fake)) == pytest.approx(1 - 2**-0.5)
        assert float(distance(source, source)) == pytest.approx(0, abs=1e-6)
    # S_0 F_1^T = [[1, 0], [1, 1]] and F_0 S_1^T = [[1, 0], [0, 1]]: cosines 1 and 1 / sqrt(2).
    assert float(reference.motion_distance(source, source, source, fake)) == pytest.approx((1 - 2**-0.5) / 2)


def test_regions_of_the_reference_are_means_of_blocks(reference: Any) -> None:
    # A grid of 4x4 tokens that hold their own number: the first 2x2 block holds 0, 1, 4, 5, the last one 10, 11, 14, 15.
    tokens = torch.arange(16.0).reshape(1, 16, 1)
    for regions in (reference.regions_by_pooling, reference.regions_by_means):
        assert regions(tokens, (2, 4)).flatten().tolist() == [*range(16), 2.5, 4.5, 10.5, 12.5, 7.5]


def test_windows_of_the_reference_are_shifted_inside(bench: Any, reference: Any) -> None:
    from roma.data.batches import window_centres

    config = bench.config_of(bench.BY_NAME["plain"], ["vit.weights=random", *bench.SMALL], ("a", "b"), batch_size=1)
    centres = window_centres(3, seed=0, num_windows=8, num_patches=64).tolist()
    corners = reference.window_corners(3, config)
    # On the grid of 8x8 a window of 3x3 begins one row and one column before its centre, at 0 at least and at 5 at most.
    inside = {0: 0, 1: 0, 2: 1, 3: 2, 4: 3, 5: 4, 6: 5, 7: 5}
    assert corners == [(inside[centre // 8], inside[centre % 8]) for centre in centres]
