"""Parts through Python: who writes at the same time as others, and what becomes of those that are late."""

import resource
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import fsspec
import pytest
from planned import changed, tree
from synthetic import Shelf, clip_of

from infraredcity.clips import Clip
from infraredcity.errors import CatalogError, OutputError
from infraredcity.extraction import run
from infraredcity.extraction.config import ExtractConfig
from infraredcity.extraction.estimate import frame_core_s
from infraredcity.extraction.extract_clip import extract_clip
from infraredcity.extraction.job import ExtractJob, join_job, remove_leftovers
from infraredcity.extraction.parts import finalize, make_plan, open_plan, run_part, status
from infraredcity.extraction.segments import Segment
from infraredcity.extraction.spec import read_spec
from infraredcity.files.lock import lock_folder
from infraredcity.files.path import AnyPath, RemotePath
from infraredcity.files.temporary import temporary_beside, temporary_prefix
from infraredcity.progress import Progress
from infraredcity.video import probe

CONFIG = ExtractConfig(frames_per_shard=5)


@dataclass(frozen=True)
class Overtaken:
    """An executor for which `meanwhile` happens when it has written so many frames."""

    after_frames: int
    meanwhile: Callable[[], None]

    def __call__(
        self, job: ExtractJob, todo: Sequence[Segment], *, deadline_s: float, on_frames: Callable[[int], None]
    ) -> ExtractJob:
        written = 0

        def count(frames: int) -> None:
            nonlocal written
            written += frames
            on_frames(frames)
            if written == self.after_frames:
                self.meanwhile()

        run.run_segments(job, todo, threads=1, on_frames=count)
        return job


@pytest.fixture(params=["near", "far"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyPath]:
    """A folder for the output of parts."""
    yield tmp_path / "set" if request.param == "near" else RemotePath("memory://parts/set")
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def clip(shelf: Shelf) -> Clip:
    return clip_of(shelf.gray)


def temporaries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob(".tmp-*"))


def test_parts_give_what_one_process_gives(clip: Clip, out: AnyPath, tmp_path: Path) -> None:
    extract_clip(clip, CONFIG, tmp_path / "one", workers=0)
    plan = make_plan([clip], CONFIG, out, num_parts=3)
    assert open_plan(out / "plan.jsonl", out) == plan
    for part in (2, 0, 1):
        report = run_part(plan, part, {}, out, workers=0)
        assert (report.part, report.num_parts, report.num_missing) == (part, 3, 0)
        assert report.new_frames == report.num_frames == 5 * report.num_segments
    found, reports = finalize(out)
    assert (found.num_done, found.num_segments, found.outstanding_parts) == (10, 10, ())
    assert [report.num_frames for report in reports] == [50]
    assert changed(tree(tmp_path / "one"), tree(out)) == []


def test_all_parts_may_be_done_as_one(clip: Clip, tmp_path: Path) -> None:
    plan = make_plan([clip], CONFIG, tmp_path, num_parts=4)
    run_part(plan, 1, {}, tmp_path, workers=0)
    report = run_part(plan, None, {}, tmp_path, workers=0)
    assert (report.part, report.num_frames, report.new_frames, report.num_segments) == (None, 50, 35, 10)
    assert status(plan, tmp_path).array == ""


@pytest.mark.parametrize("config", [CONFIG, ExtractConfig(frames_per_shard=5, to="frames")], ids=["shards", "frames"])
def test_a_part_that_was_overtaken_and_swept_away_ends_well(clip: Clip, tmp_path: Path, config: ExtractConfig) -> None:
    """While a straggler is in the middle of a shard, others do all parts and finalize, which deletes its temporary file."""
    extract_clip(clip, config, tmp_path / "one", workers=0)
    out = tmp_path / "set"
    plan = make_plan([clip], config, out, num_parts=2)
    seen: list[str] = []

    def all_the_rest() -> None:
        seen.extend(temporaries(out))
        for part in range(2):
            run_part(plan, part, {}, out, workers=0)
        assert finalize(out)[0].outstanding_parts == ()
        assert temporaries(out) == []

    report = run_part(plan, 0, {}, out, executor=Overtaken(7, all_the_rest))
    assert len(seen) == (1 if config.to == "shards" else 0)
    assert report.num_frames == 25
    assert changed(tree(tmp_path / "one"), tree(out)) == []


def test_a_part_whose_file_was_swept_away_too_early_is_an_error_and_can_be_done_again(
    clip: Clip, tmp_path: Path
) -> None:
    plan = make_plan([clip], CONFIG, tmp_path, num_parts=2)

    def sweep() -> None:
        remove_leftovers(tmp_path / "city_clear")

    with pytest.raises(OutputError, match=r"000001\.tar: cannot be written: no such file or directory"):
        run_part(plan, 0, {}, tmp_path, executor=Overtaken(7, sweep))
    assert status(plan, tmp_path).clips[0].outstanding == "1-9"
    for part in range(2):
        run_part(plan, part, {}, tmp_path, workers=0)
    assert finalize(tmp_path)[0].outstanding_parts == ()


def test_what_a_killed_part_left_is_swept_away_by_finalize_alone(clip: Clip, tmp_path: Path) -> None:
    """Others may write at that moment, so no part can tell what is a leftover."""
    plan = make_plan([clip], CONFIG, tmp_path, num_parts=2)
    folder = tmp_path / "city_clear"
    left = [
        temporary_beside(folder / "infraredcity-city_clear-000001.tar"),
        folder / "segments/.tmp-node-7-ab-000003.jsonl",
    ]
    for path in left:
        path.write_bytes(b"half")
    for part in range(2):
        run_part(plan, part, {}, tmp_path, workers=0)
    assert status(plan, tmp_path).array == ""
    assert temporaries(tmp_path) == sorted(path.name for path in left)
    finalize(tmp_path)
    assert temporaries(tmp_path) == []


def test_temporary_names_tell_hosts_and_processes_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a shared disk another machine has a process of the same number, in containers nearly always."""
    here = temporary_prefix(7)
    assert here != temporary_prefix(8)
    assert not temporary_prefix(71).startswith(here)
    monkeypatch.setattr("socket.gethostname", lambda: "extract-job-12-node-b")
    assert temporary_prefix(7) == ".tmp-ct-job-12-node-b-7-"
    assert temporary_prefix(7) != here


def test_a_clip_that_was_named_here_is_taken_instead_of_the_planned_place(shelf: Shelf, tmp_path: Path) -> None:
    video = tmp_path / "gray.mp4"
    video.write_bytes(shelf.gray.read_bytes())
    plan = make_plan([clip_of(video)], CONFIG, tmp_path / "set", num_parts=2)
    video.unlink()
    with pytest.raises(CatalogError, match=r"clip city_clear: .*gray\.mp4 does not exist"):
        run_part(plan, 0, {}, tmp_path / "set", workers=0)
    report = run_part(plan, 0, {"city_clear": clip_of(shelf.gray)}, tmp_path / "set", workers=0)
    assert report.new_frames == 25


def test_a_part_whose_segments_are_not_seen_here_is_no_part_that_is_done(clip: Clip, tmp_path: Path) -> None:
    """As where nodes have two disks under one name: the executor wrote elsewhere."""

    def elsewhere(
        job: ExtractJob, todo: Sequence[Segment], *, deadline_s: float, on_frames: Callable[[int], None]
    ) -> ExtractJob:
        on_frames(sum(len(segment.frames) for segment in todo))
        return job

    plan = make_plan([clip], CONFIG, tmp_path, num_parts=2)
    with pytest.raises(OutputError, match=r"000000\.jsonl: was written and cannot be read here; .* is one folder"):
        run_part(plan, 0, {}, tmp_path, executor=elsewhere)


def test_planning_again_keeps_what_is_done_when_the_clip_has_another_name_by_now(shelf: Shelf, tmp_path: Path) -> None:
    first, again = tmp_path / "first.mp4", tmp_path / "again.mp4"
    shutil.copy(shelf.gray, first)
    plan = make_plan([replace(clip_of(shelf.gray), paths=(first,))], CONFIG, tmp_path / "set", num_parts=3)
    run_part(plan, 1, {}, tmp_path / "set", workers=0)
    first.rename(again)
    plan = make_plan([replace(clip_of(shelf.gray), paths=(again,))], CONFIG, tmp_path / "set", num_parts=2)
    reports = [run_part(plan, part, {}, tmp_path / "set", workers=0) for part in range(2)]
    assert sum(report.num_frames for report in reports) == 50
    assert 0 < sum(report.new_frames for report in reports) < 50
    assert finalize(tmp_path / "set")[1][0].num_frames == 50


@pytest.mark.parametrize("after_frames", [1, 8])  # before and behind its first finished shard
def test_planning_again_leaves_alone_what_a_part_is_writing(clip: Clip, tmp_path: Path, after_frames: int) -> None:
    plan = make_plan([clip], CONFIG, tmp_path, num_parts=3)

    def plan_again() -> None:
        make_plan([clip], CONFIG, tmp_path, num_parts=2)

    report = run_part(plan, 0, {}, tmp_path, executor=Overtaken(after_frames=after_frames, meanwhile=plan_again))
    assert status(plan, tmp_path).num_done == report.num_segments > 1


def test_planning_beside_an_extraction_without_a_plan_is_refused(clip: Clip, tmp_path: Path) -> None:
    def plan() -> None:
        with pytest.raises(OutputError, match="city_clear: another run is writing here; wait for it"):
            make_plan([clip], replace(CONFIG, quality=80), tmp_path, num_parts=2)

    report = extract_clip(clip, CONFIG, tmp_path, executor=Overtaken(after_frames=1, meanwhile=plan))
    assert (report.num_frames, report.gaps, (tmp_path / "plan.jsonl").exists()) == (50, (), False)


@pytest.mark.parametrize(
    "num_scanned", [0, 1]
)  # the clip is still to be planned, or is, and its own lock is free again
def test_an_extraction_without_a_plan_beside_planning_is_refused(clip: Clip, tmp_path: Path, num_scanned: int) -> None:
    def extract_too(progress: Progress) -> None:
        if progress.done == num_scanned:
            with pytest.raises(
                OutputError, match=r"is being planned .*; wait for that run to end, or choose another --out"
            ):
                extract_clip(clip, replace(CONFIG, quality=80), tmp_path, workers=0)

    plan = make_plan([clip, replace(clip, clip_id="city_day")], CONFIG, tmp_path, num_parts=2, on_progress=extract_too)
    assert run_part(plan, None, {}, tmp_path, workers=0).num_frames == 100


def test_a_clip_that_is_planned_again_refuses_an_extraction_at_once(clip: Clip, tmp_path: Path) -> None:
    make_plan([clip], CONFIG, tmp_path, num_parts=1)
    with lock_folder(tmp_path), pytest.raises(OutputError, match=r"holds a plan, .* extract with --plan"):
        extract_clip(clip, CONFIG, tmp_path, workers=0)


def test_a_plan_of_more_clips_than_files_may_be_open(clip: Clip, tmp_path: Path) -> None:
    clips = [replace(clip, clip_id=f"clip_{number:02d}") for number in range(50)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 20, hard))
    try:
        plan = make_plan(clips, CONFIG, tmp_path, num_parts=2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(plan.clips) == 50


def test_a_clip_that_somebody_writes_is_not_finalized(clip: Clip, tmp_path: Path) -> None:
    plan = make_plan([clip], CONFIG, tmp_path, num_parts=1)
    run_part(plan, 0, {}, tmp_path, workers=0)
    with lock_folder(tmp_path / clip.clip_id), pytest.raises(OutputError, match="another run is writing here"):
        finalize(tmp_path)
    assert len(finalize(tmp_path)[1]) == 1


# NVDEC decodes no gray of 16 bits: whatever machine the tests run on, this clip has the CPU alone.


def test_auto_is_the_device_that_it_comes_to(shelf: Shelf, tmp_path: Path) -> None:
    clip = clip_of(shelf.deep)
    identities = set()
    for device in ("auto", "cpu"):
        plan = make_plan([clip], replace(CONFIG, device=device), tmp_path / device, num_parts=1)
        assert plan[clip.clip_id].spec.config.device == "cpu"
        identities.add(plan[clip.clip_id].spec.identity)
        run_part(plan, 0, {}, tmp_path / device, workers=0)
    assert len(identities) == 1
    extract_clip(clip, replace(CONFIG, device="auto"), tmp_path / "one", workers=0)
    assert extract_clip(clip, replace(CONFIG, device="cpu"), tmp_path / "one", workers=0).new_frames == 0


def test_a_part_on_another_kind_of_device_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    clip = clip_of(shelf.deep)
    planned = make_plan([clip], CONFIG, tmp_path / "plan", num_parts=1)[clip.clip_id].spec
    on_gpu = replace(planned, config=replace(planned.config, device="cuda"))
    assert on_gpu.identity != planned.identity
    line = "clip city_clear: was planned with pyav on device cuda, and here NVDEC does not decode gray16le; run the part on"
    with pytest.raises(OutputError, match=f"{line} a machine that can, or plan again with --device cpu"):
        join_job(clip, on_gpu, tmp_path / "out", [0])


def test_a_part_on_another_file_hears_of_the_file_before_the_decoder(shelf: Shelf, tmp_path: Path) -> None:
    planned = make_plan([clip_of(shelf.gray)], CONFIG, tmp_path / "plan", num_parts=1)["city_clear"].spec
    on_gpu = replace(planned, config=replace(planned.config, device="cuda"))
    with pytest.raises(OutputError, match=r"is not what was planned but another .* copy the clip again"):
        join_job(clip_of(shelf.deep), on_gpu, tmp_path / "out", [0])


def test_a_part_that_decord_cannot_do_is_to_be_planned_for_pyav(shelf: Shelf, tmp_path: Path) -> None:
    pytest.importorskip("decord")
    clip = clip_of(shelf.deep)
    planned = make_plan([clip], CONFIG, tmp_path / "plan", num_parts=1)[clip.clip_id].spec
    with pytest.raises(
        OutputError, match=r"was planned with decord on device cpu, .*; run .*, or plan again with --decoder pyav"
    ):
        join_job(clip, replace(planned, decoder="decord"), tmp_path / "out", [0])


def test_going_on_with_another_kind_of_device_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    clip = clip_of(shelf.deep)
    extract_clip(clip, CONFIG, tmp_path, workers=0)
    standing = read_spec(tmp_path / clip.clip_id)
    assert standing is not None
    replace(standing, config=replace(standing.config, device="cuda")).write(tmp_path / clip.clip_id)
    with pytest.raises(OutputError, match="was extracted with --device cuda, not cpu; use the same, another --out"):
        extract_clip(clip, replace(CONFIG, device="auto"), tmp_path, workers=0)


def test_one_finalizes_at_a_time(clip: Clip, tmp_path: Path) -> None:
    make_plan([clip], CONFIG, tmp_path, num_parts=2)
    with lock_folder(tmp_path):
        for run in (lambda: finalize(tmp_path), lambda: make_plan([clip], CONFIG, tmp_path, num_parts=2)):
            with pytest.raises(OutputError, match="another run is writing here; wait for it"):
                run()


def test_progress_is_told_from_zero_to_all(clip: Clip, tmp_path: Path) -> None:
    told: list[Progress] = []
    plan = make_plan([clip], CONFIG, tmp_path, num_parts=2, on_progress=told.append)
    assert [(each.what, each.done, each.total) for each in told] == [("clips scanned", 0, 1), ("clips scanned", 1, 1)]
    told.clear()
    run_part(plan, 1, {}, tmp_path, workers=0, on_progress=told.append)
    assert {each.what for each in told} == {"part 1: frames"}
    assert (told[0].done, told[-1].done, told[-1].total) == (0, 25, 25)
    told.clear()
    run_part(plan, 0, {}, tmp_path, workers=0)
    finalize(tmp_path, on_progress=told.append)
    assert {each.what for each in told} == {"segments looked at", "segments merged"}
    assert (told[-1].what, told[-1].done, told[-1].total) == ("segments merged", 10, 10)


@pytest.mark.parametrize(("every", "modality"), [(1, "infrared"), (4, "visible")])
def test_the_time_of_a_frame_follows_from_what_is_decoded_and_encoded(
    clip: Clip, tmp_path: Path, every: int, modality: Literal["infrared", "visible"]
) -> None:
    config = ExtractConfig(frames_per_shard=5, every=every, size=(40, 30))
    (planned,) = make_plan([replace(clip, modality=modality)], config, tmp_path, num_parts=1).clips
    (path,) = clip.paths
    video = probe(path)
    assert planned.estimate.frame_core_s == pytest.approx(
        frame_core_s(
            "jpg", video_px=video.width_px * video.height_px, coded_bytes=path.stat().st_size / video.num_frames, every=every,
            still_px=40 * 30, channels=1 if modality == "infrared" else 3, still_bytes=planned.estimate.frame_bytes - 1792,
        ),
        abs=1e-7,
    )  # fmt: skip
