"""Two processes under accelerate: nothing is shared out a second time, and the wrong way is an error instead of lost windows."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from interop_sets import needs
from processes import PATIENCE_S

FAST = """
reader = WindowReader([sys.argv[1]], threads=1)
stream = batches(reader, batch_size=7, rank=accelerator.process_index, world_size=accelerator.num_processes)
model, loader = accelerator.prepare(torch.nn.Linear(1, 1), Epochs(stream, num_batches=7))
for batch in loader:
    seen += batch.keys
state = loader.state_dict()["position"]
"""
COUNTED = """
dataset = WindowDataset(WindowReader([sys.argv[1]], threads=1))
sampler = PositionSampler(dataset, batch_size=7)
forkserver = {"num_workers": 2, "multiprocessing_context": "forkserver"}  # a fork beside gloo's threads hangs now and then
loader = sampler.counted(DataLoader(dataset, sampler=sampler, batch_size=None, **forkserver))
model, loader = accelerator.prepare(torch.nn.Linear(1, 1), loader)
for batch in loader:
    seen += [tuple(keys) for keys in batch["keys"]]
state = loader.state_dict()["position"]
"""
WRONG = """
dataset = WindowDataset(WindowReader([sys.argv[1]], threads=1))
sampler = PositionSampler(dataset, batch_size=7)
loader = accelerator.prepare(DataLoader(dataset, sampler=sampler, batch_size=None))
for batch in loader:
    seen += [tuple(keys) for keys in batch["keys"]]
state = 0
"""
FRAME = """
import json, sys
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from infraredcity.loader import Epochs, PositionSampler, WindowDataset, WindowReader, batches

accelerator = Accelerator(cpu=True)
seen = []
{body}
print(json.dumps([accelerator.process_index, accelerator.num_processes, state, seen]), flush=True)
accelerator.end_training()
"""


def on_two_ranks(body: str, folder: Path) -> tuple[list[int], list[str], list[str]]:
    """Exit codes, what was printed and what was complained of, by rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", FRAME.format(body=body), str(folder)],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=PATIENCE_S) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
            process.communicate()
    return [process.returncode for process in ranks], [out for out, _ in outputs], [err for _, err in outputs]


@pytest.mark.parametrize("body", [FAST, COUNTED], ids=["the fast path", "a DataLoader"])
def test_every_window_comes_once_over_both_ranks(extracted: Path, body: str) -> None:
    import json

    needs("accelerate")
    codes, printed, complaints = on_two_ranks(body, extracted / "city_clear")
    assert codes == [0, 0], complaints[0][-3000:] + complaints[1][-3000:]
    ranks = [json.loads(next(line for line in out.splitlines() if line.startswith("["))) for out in printed]
    assert [(rank, world_size, state) for rank, world_size, state, _ in ranks] == [(0, 2, 49), (1, 2, 49)]
    shares = [{tuple(keys) for keys in seen} for *_, seen in ranks]
    assert [len(seen) for *_, seen in ranks] == [21, 28]
    assert not shares[0] & shares[1]
    assert len(shares[0] | shares[1]) == 49


def test_a_dataloader_that_accelerate_would_share_out_again_is_an_error(extracted: Path) -> None:
    needs("accelerate")
    codes, _, complaints = on_two_ranks(WRONG, extracted / "city_clear")
    assert 0 not in codes
    for complaint in complaints:
        assert "ValueError: PositionSampler has shared its batches out among the ranks already" in complaint
        assert "give it sampler.counted(loader) in the place of the DataLoader" in complaint
