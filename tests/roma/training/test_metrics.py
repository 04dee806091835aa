import json
from pathlib import Path

import numpy as np
import pytest

from roma.training.metrics import MetricsLog, grid_of, read_metrics, read_speed


def test_resumed_log_drops_lines_of_steps_that_come_again(tmp_path: Path):
    log = MetricsLog(tmp_path, resumed_at=0)
    for step in (1, 2, 3):
        log.write({"step": step, "loss": float(step)})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # killed in the middle of a line
    log = MetricsLog(tmp_path, resumed_at=2)
    log.write({"step": 3, "loss": 30.0})
    log.close()
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}, {"step": 3, "loss": 30.0}]
    assert all(json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def test_lines_of_speed_stand_apart_from_those_that_equal_runs_share(tmp_path: Path):
    log = MetricsLog(tmp_path, resumed_at=0)
    log.write_speed(1, {"images_per_s": 12.5, "wait_share": 0.1})
    log.write({"step": 1, "loss": 2.0})
    log.sync()
    log.close()
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 2.0}]
    assert read_speed(tmp_path) == [{"step": 1, "images_per_s": 12.5, "wait_share": 0.1}]


def test_a_damaged_line_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "loss": 1.0}\n\x00\x00\x00\n{"step": 2, "loss": 2.0}\n[3]\n')
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]
    assert "metrics.jsonl: line 2 is damaged and left out" in caplog.text
    assert "metrics.jsonl: line 4 is damaged and left out" in caplog.text


def test_captions_stand_above_their_columns():
    black = np.zeros((4, 60, 3), np.uint8)
    grid = grid_of([[black, black]], gap_px=4, captions=("a", "b"))
    assert grid.shape == (14 + 4, 60 + 4 + 60, 3)
    assert (grid[14:] == grid_of([[black, black]], gap_px=4)).all()
    strip = grid[:14]
    assert strip[:, :60].min() < 128  # ink
    assert strip[:, 64:].min() < 128
    assert strip[:, 60:64].min() == 255


def test_grid_puts_pictures_in_rows_on_white():
    black = np.zeros((2, 3, 3), np.uint8)
    grid = grid_of([[black, black], [black]], gap_px=1)
    assert grid.shape == (5, 7, 3)
    assert grid[:2, :3].max() == 0
    assert grid[:, 3].min() == 255
    assert grid[3:, 4:].min() == 255
