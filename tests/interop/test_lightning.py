"""Two processes under Lightning: the sampler stays as it is, every window comes once, and a checkpoint goes on in the middle."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from interop_sets import needs
from processes import PATIENCE_S

SCRIPT = """
import json, os, sys, warnings
from pathlib import Path
import pytorch_lightning as lightning
import torch
from torch.utils.data import DataLoader
from infraredcity.loader import Epochs, PositionSampler, WindowDataset, WindowReader, batches

warnings.filterwarnings("ignore")
kind, folder, out, stop_after, resume = sys.argv[1:6]
rank = int(os.environ["LOCAL_RANK"])
reader = WindowReader([folder], threads=1)
if kind == "fast":
    loader = Epochs(batches(reader, batch_size=7, rank=rank, world_size=2), num_batches=7)
elif kind == "counted":
    dataset = WindowDataset(reader)
    sampler = PositionSampler(dataset, batch_size=7)
    forkserver = {"num_workers": 2, "multiprocessing_context": "forkserver"}  # a fork beside gloo's threads hangs now and then
    loader = sampler.counted(DataLoader(dataset, sampler=sampler, batch_size=None, **forkserver))
else:
    dataset = WindowDataset(reader)
    sampler = PositionSampler(dataset, batch_size=7)
    loader = DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=0)


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer, self.seen = torch.nn.Linear(1, 1), []

    def training_step(self, batch, number):
        keys, frames = (batch["keys"], batch["frames"]) if isinstance(batch, dict) else (batch.keys, batch.frames)
        self.seen += [list(pair) for pair in keys]
        return self.layer(frames.float().mean().view(1, 1) / 255).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Stop(lightning.Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, number):
        if stop_after != "0" and number + 1 == int(stop_after):
            Path(out).with_suffix(f".state-{rank}").write_text(json.dumps(loader.state_dict()))
            trainer.save_checkpoint(f"{out}.ckpt")
            trainer.should_stop = True


if resume.endswith(".state"):
    loader.load_state_dict(json.loads(Path(f"{resume}-{rank}").read_text()))
module = Module()
trainer = lightning.Trainer(
    max_epochs=2, accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False, min_epochs=0,
    enable_progress_bar=False, enable_model_summary=False, callbacks=[Stop()], default_root_dir=str(Path(out).parent),
)
trainer.fit(module, loader, ckpt_path=resume if resume.endswith(".ckpt") else None)
Path(f"{out}.rank-{rank}").write_text(json.dumps([type(trainer.train_dataloader).__name__, module.seen]))
"""


def fit(kind: str, folder: Path, out: Path, *, stop_after: int = 0, resume: Path | None = None) -> list[Any]:
    """By rank: what Lightning trained from, and the windows it saw."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "NODE_RANK": "0", "OMP_NUM_THREADS": "1",
        "TORCHELASTIC_RUN_ID": "of this test",
    }  # fmt: skip
    command = [sys.executable, "-c", SCRIPT, kind, str(folder), str(out), str(stop_after), str(resume or "none")]
    ranks = [
        subprocess.Popen(
            command, env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "2"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        complaints = [process.communicate(timeout=PATIENCE_S)[1] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
            process.communicate()
    assert [process.returncode for process in ranks] == [0, 0], "\n".join(complaints)[-5000:]
    return [json.loads(Path(f"{out}.rank-{rank}").read_text()) for rank in range(2)]


@pytest.mark.parametrize("kind", ["fast", "counted", "plain"])
def test_every_window_comes_once_over_both_ranks(extracted: Path, tmp_path: Path, kind: str) -> None:
    needs("pytorch_lightning")
    ranks = fit(kind, extracted / "city_clear", tmp_path / "run")
    loader = {"fast": "Epochs", "counted": "CountedBatches", "plain": "DataLoader"}[kind]
    assert [name for name, _ in ranks] == [loader] * 2
    assert [len(seen) for _, seen in ranks] == [2 * 21, 2 * 28]
    for epoch in range(2):
        first, second = (
            {tuple(keys) for keys in seen[epoch * len(seen) // 2 :][: len(seen) // 2]} for _, seen in ranks
        )
        assert not first & second
        assert len(first | second) == 49
    assert all(seen[: len(seen) // 2] != seen[len(seen) // 2 :] for _, seen in ranks)


@pytest.mark.parametrize(("kind", "kept_in"), [("fast", "ckpt"), ("counted", "state")])
def test_a_run_that_was_stopped_goes_on_with_what_it_had_not_seen(
    extracted: Path, tmp_path: Path, kind: str, kept_in: str
) -> None:
    """From Lightning's own checkpoint, or from a state that its user kept."""
    needs("pytorch_lightning")
    first = fit(kind, extracted / "city_clear", tmp_path / "first", stop_after=3)
    rest = fit(kind, extracted / "city_clear", tmp_path / "rest", resume=tmp_path / f"first.{kept_in}")
    assert [len(share) for _, share in first] == [9, 12]
    assert [len(share) for _, share in rest] == [12 + 21, 16 + 28]
    epoch = [share for _, share in first] + [share[:num] for num, (_, share) in zip((12, 16), rest, strict=True)]
    seen = [tuple(keys) for share in epoch for keys in share]
    assert len(seen) == len(set(seen)) == 49
