"""Weights & Biases without its server: a run sends what metrics.jsonl holds, and a resumed one goes on in the same run there."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from interop_sets import needs
from processes import PATIENCE_S

from roma.training.metrics import read_metrics, read_speed
from tests.roma.conftest import SMALL, write_shards

ROOT = Path(__file__).resolve().parents[2]
SCAN = """
import json, sys
from pathlib import Path
from wandb.proto.wandb_internal_pb2 import Record


def messages(data):
    # A file header of 7 bytes, then LevelDB's log: blocks of 32 KiB of pieces, each with 4 bytes checksum, 2 length, 1 kind.
    place, parts = 7, []
    while place < len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts.append(data[place + 7 : place + 7 + size])
        place += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            yield b"".join(parts)
            parts = []


for data in messages(Path(sys.argv[1]).read_bytes()):
    record = Record()
    record.ParseFromString(data)
    kind = record.WhichOneof("record_type")
    if kind == "run":
        config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
        print(json.dumps({"id": record.run.run_id, "project": record.run.project, "seed": config.get("seed")}))
    elif kind == "history":
        values = {(item.key or ".".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item}
        print(json.dumps(values | {"step": record.history.step.num}))
"""


def trained(shards: Path, run: Path, steps: int) -> None:
    words = [
        "train",
        "--preset",
        "tiny",
        "--infrared",
        f"{shards}/infrared/*.tar",
        "--visible",
        f"{shards}/visible/*.tar",
    ]
    for setting in (*SMALL, "output.wandb=night-town"):
        words += ["--set", setting]
    words += ["--out", str(run), "--device", "cpu", "--max-steps", str(steps)]
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_DIR": "", "HOME": str(run.parent)}
    done = subprocess.run(
        [sys.executable, "-m", "roma", *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
        timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def sent(path: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", SCAN, str(path)], capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_offline_runs_hold_the_numbers_and_grids_and_a_resume_goes_on_in_the_same_run(tmp_path: Path):
    needs("wandb")
    write_shards(tmp_path / "infrared", "night", num_frames=20, channels=1, seed=1)
    write_shards(tmp_path / "visible", "day", num_frames=13, channels=3, seed=2)
    run = tmp_path / "run"
    trained(tmp_path, run, 5)
    known = json.loads((run / "wandb.json").read_text())
    trained(tmp_path, run, 8)
    assert json.loads((run / "wandb.json").read_text()) == known
    records = [record for path in sorted(run.glob("wandb/offline-run-*/*.wandb")) for record in sent(path)]
    begun = [record for record in records if "id" in record]
    assert {(record["id"], record["project"]) for record in begun} == {(known["id"], "night-town")}
    assert {record["seed"] for record in begun} == {0}
    history = [record for record in records if "_step" in record or "_timestamp" in record]
    by_step = {record["step"]: record for record in history}
    assert [record["step"] for record in history] == list(range(1, 9))  # the resumed one begins where the first ended
    for line in [*read_metrics(run), *read_speed(run)]:
        for name, value in line.items():
            if name != "step":
                assert by_step[line["step"]][name] == value, (line["step"], name)
    assert [step for step, record in by_step.items() if "samples.path" in record] == [4, 8]
    assert len(list(run.glob("wandb/offline-run-*/files/media/images/samples_*.png"))) == 2
    # The command line may hold passwords.
    assert not [path for path in run.rglob("*") if path.is_file() and b"--max-steps" in path.read_bytes()]
