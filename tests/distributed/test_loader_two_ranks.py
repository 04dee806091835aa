"""Two processes that talk over gloo read every window exactly once; run as a script, this file is one rank."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from ranks import run_ranks

BATCH = 7
STEPS = 14  # two epochs of 49 windows


def one_rank(pattern: str, result: str, start_step: int) -> None:
    import datetime
    import itertools

    import torch.distributed as dist
    from synthetic import barcode

    from infraredcity.loader import WindowReader, batches

    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=600))
    rank, world_size = dist.get_rank(), dist.get_world_size()
    reader = WindowReader([pattern], window_frames=2, seed=5, threads=1)
    share = batches(reader, batch_size=BATCH, rank=rank, world_size=world_size, start_step=start_step)
    steps = []
    for batch in itertools.islice(share, STEPS - start_step):
        shown = [[barcode(frame.permute(1, 2, 0).numpy()) for frame in window] for window in batch.frames]
        gathered: list[Any] = [None] * world_size
        dist.all_gather_object(gathered, [batch.positions.tolist(), batch.keys, shown])
        steps.append(gathered)
    if rank == 0:
        Path(result).write_text(json.dumps(steps))
    reader.close()
    dist.destroy_process_group()


def steps_of(world_size: int, pattern: str, result: Path, start_step: int = 0) -> list[Any]:
    """For each step what each rank read: positions, keys, barcodes."""
    run_ranks(__file__, pattern, str(result), str(start_step), world_size=world_size)
    steps: list[Any] = json.loads(result.read_text())
    return steps


@pytest.mark.distributed
def test_two_ranks_read_every_window_exactly_once_and_one_rank_reads_the_same(extracted: Path, tmp_path: Path) -> None:
    pattern = str(extracted / "city_clear" / "*.tar")
    two = steps_of(2, pattern, tmp_path / "two.json")
    one = steps_of(1, pattern, tmp_path / "one.json")
    resumed = steps_of(2, pattern, tmp_path / "resumed.json", start_step=9)
    # 7 windows over 2 ranks: 3 and 4, uneven without hanging.
    assert [[len(positions) for positions, _, _ in ranks] for ranks in two] == [[3, 4]] * STEPS
    for ranks in two:
        for _, keys, shown in ranks:
            assert shown == [[int(key[-8:]) for key in window] for window in keys]
            assert all(second == first + 1 for first, second in shown)
    for epoch in range(2):
        steps = two[epoch * 7 : epoch * 7 + 7]
        windows = [tuple(window) for ranks in steps for _, _, shown in ranks for window in shown]
        assert sorted(windows) == [(frame, frame + 1) for frame in range(49)]
    together = [[[item for part in ranks for item in part[field]] for field in range(3)] for ranks in two]
    assert together == [ranks[0] for ranks in one]
    assert resumed == two[9:]


if __name__ == "__main__":
    one_rank(sys.argv[1], sys.argv[2], int(sys.argv[3]))
