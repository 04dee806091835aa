from pathlib import Path

from synthetic import Shelf, clip_of

from infraredcity.extraction.config import ExtractConfig
from infraredcity.extraction.executors.local import LocalExecutor
from infraredcity.extraction.job import bind_folder, open_job, pending


def test_a_worker_that_is_used_again_counts_the_frames_of_each_call_once(shelf: Shelf, tmp_path: Path) -> None:
    job = bind_folder(open_job(clip_of(shelf.gray), ExtractConfig(frames_per_shard=10), tmp_path))
    written: list[int] = []
    with LocalExecutor(1) as local:
        for segments in (job.segments[:3], job.segments[3:]):
            local(job, segments, on_frames=written.append)
    assert (sum(written), pending(job)) == (50, [])
