import json
from pathlib import Path

import numpy as np

from roma.metrics import MetricsLog, grid_of, read_metrics


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


def test_grid_puts_pictures_in_rows_on_white():
    black = np.zeros((2, 3, 3), np.uint8)
    grid = grid_of([[black, black], [black]], gap_px=1)
    assert grid.shape == (5, 7, 3)
    assert grid[:2, :3].max() == 0
    assert grid[:, 3].min() == 255
    assert grid[3:, 4:].min() == 255
