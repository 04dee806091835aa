"""The shards in Megatron Energon, which writes an index of its own into the folder: on a copy."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from interop_sets import expected, needs
from processes import PATIENCE_S

Reader = Callable[..., list[Any]]
READ = """
import hashlib, json, sys
from megatron.energon import (
    Cooker, DefaultTaskEncoder, Sample, WorkerConfig, basic_sample_keys, edataclass, get_loader, get_train_dataset, get_val_dataset,
    stateless,
)

@edataclass
class Frame(Sample):
    image: bytes
    facts: bytes

@stateless
def cook(sample):
    return Frame(**basic_sample_keys(sample), image=sample["jpg"], facts=sample["json"])

class Encoder(DefaultTaskEncoder):
    decoder = None
    cookers = [Cooker(cook)]
    def batch(self, samples):
        return samples

folder, how = sys.argv[1:]
options = {"split_part": "train", "worker_config": WorkerConfig(rank=0, world_size=1, num_workers=0), "batch_size": 4,
           "task_encoder": Encoder()}
if how == "in order":
    frames = get_val_dataset(folder, **options)
else:
    frames = get_train_dataset(folder, shuffle_buffer_size=16, max_samples_per_sequence=8, repeat=False, **options)
for batch in get_loader(frames):
    for frame in batch:
        print(json.dumps([frame.__key__, hashlib.sha256(frame.image).hexdigest(), json.loads(frame.facts)]))
"""


@pytest.fixture
def prepared(extracted: Path, tmp_path: Path) -> Path:
    needs("megatron.energon")
    folder = tmp_path / "prepared"
    shutil.copytree(extracted / "city_clear", folder)
    command = [
        Path(sys.executable).with_name("energon"), "prepare", folder, "--non-interactive", "--no-progress", "--num-workers", "1",
        "--split-parts", "train:.*", "--sample-type", "CrudeWebdataset",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_energon_reads_every_sample_in_order(prepared: Path, read_with: Reader) -> None:
    rows = read_with("megatron.energon", READ, prepared, "in order")
    assert len(rows) == 50
    assert rows == [sample.row for sample in expected(prepared)]


def test_energon_shuffles_every_sample_once_an_epoch(prepared: Path, read_with: Reader) -> None:
    rows = read_with("megatron.energon", READ, prepared, "shuffled")
    in_order = [sample.row for sample in expected(prepared)]
    assert rows != in_order
    assert sorted(rows, key=str) == sorted(in_order, key=str)
