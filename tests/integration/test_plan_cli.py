"""`infraredcity plan`, `extract --plan`, `status` and `finalize` from the outside: what they write, say and exit with."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import fsspec
import pytest
from commands import Ran, RunCommand
from planned import changed, expanded, times, tree
from synthetic import Shelf, clip_of, ffmpeg, write_clip
from web_server import serving

from infraredcity.cli.extract import part_number
from infraredcity.clips import CLIPS_VARIABLE
from infraredcity.extraction import job, segment_record
from infraredcity.extraction.config import ExtractConfig
from infraredcity.extraction.extract_clip import extract_clip
from infraredcity.files.path import AnyPath, RemotePath

CLIP = "city_clear"
SECRETS = ("PASSWORD", "TOKEN", "somebody")


@pytest.fixture(autouse=True)
def _no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def memory() -> Iterator[RemotePath]:
    """A folder in fsspec's memory."""
    yield RemotePath("memory://plans/set")
    fsspec.filesystem("memory").store.clear()


@pytest.fixture(scope="module")
def one(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every file of one process that extracted the clip which most tests plan."""
    out = tmp_path_factory.mktemp("one")
    extract_clip(clip_of(shelf.gray), ExtractConfig(frames_per_shard=5), out, workers=0)
    return tree(out)


@pytest.fixture
def run(infraredcity: RunCommand) -> "Commands":
    return Commands(infraredcity)


class Commands:
    """The commands in this process."""

    def __init__(self, run: RunCommand) -> None:
        self._run = run

    def plan(self, out: AnyPath, video: object, *options: object, parts: int = 4) -> Ran:
        """Plan a clip in shards of 5 frames."""
        words = ("--clip", CLIP, "--video", video, "--frames-per-shard", 5, "--parts", parts)
        return self("plan", *words, "--out", _url(out), *options)

    def part(self, out: AnyPath, *options: object) -> Ran:
        """Do a part."""
        return self("extract", "--plan", _url(out / "plan.jsonl"), "--workers", 0, *options)

    def parts(self, out: AnyPath, numbers: str) -> None:
        """Do the parts that an array expression names."""
        for number in expanded(numbers):
            ran = self.part(out, "--part", number)
            assert ran.code == 0, ran.stderr

    def status(self, out: AnyPath, *options: object) -> Ran:
        return self("status", _url(out), *options)

    def finalize(self, out: AnyPath, *options: object) -> Ran:
        return self("finalize", _url(out), *options)

    def __call__(self, *words: object) -> Ran:
        return self._run(*words)


def _url(place: AnyPath) -> str:
    return place.url if isinstance(place, RemotePath) else str(place)


def only_line(ran: Ran, code: int = 1) -> str:
    """The one line with which a command refused."""
    assert (ran.code, ran.stdout) == (code, ""), ran.stderr
    (line,) = [line for line in ran.stderr.splitlines() if " of " not in line or line.startswith("Error: ")]
    assert line.startswith("Error: ")
    return line


def test_json_says_what_was_moved_where_something_was(
    shelf: Shelf, run: Commands, memory: RemotePath, tmp_path: Path
) -> None:
    told = [
        run.plan(memory, shelf.gray, "--json"),
        run.part(memory, "--part", 0, "--json"),
        run.status(memory, "--json"),
    ]
    for ran in told:
        moved = ran.json["traffic"]
        assert moved["num_requests"] > 0
        assert f"in {moved['num_requests']:,} requests" in ran.stderr
    assert told[0].json["traffic"]["sent_bytes"] > 0
    assert told[1].json["traffic"]["sent_bytes"] > told[1].json["size_bytes"] > 0
    near = run.plan(tmp_path, shelf.gray, "--json")
    assert "traffic" not in near.json
    assert "moved" not in near.stderr


# The union is what one process writes.


@pytest.mark.parametrize(
    ("name", "options", "config"),
    [
        ("gray", (), ExtractConfig()),
        ("open_gop", ("--every", 3, "--start", 4, "--stop", 47), ExtractConfig(every=3, start_frame=4, stop_frame=47)),
        ("transport_stream", ("--size", "48x32"), ExtractConfig(size=(48, 32))),
        ("variable", ("--to", "frames"), ExtractConfig(to="frames")),
        ("deep", ("--tone", "minmax"), ExtractConfig(tone="minmax")),
        ("corrupted", (), ExtractConfig()),
        ("truncated", ("--suspect", "drop"), ExtractConfig(suspect="drop")),
    ],
)
def test_parts_in_any_order_give_the_bytes_of_one_process(
    shelf: Shelf, run: Commands, tmp_path: Path, name: str, options: tuple[object, ...], config: ExtractConfig
) -> None:
    video = getattr(shelf, name)
    report = extract_clip(clip_of(video), replace(config, frames_per_shard=5), tmp_path / "one", workers=0)
    out = tmp_path / "set"
    parts = 1 if name == "deep" else 3
    assert run.plan(out, video, *options, parts=parts).code == 0
    for part in reversed(range(parts)):
        assert run.part(out, "--part", part).code == 0
    assert run.status(out).code == 0
    ran = run.finalize(out)
    assert ran.code == (5 if report.gaps else 0), ran.stderr
    assert changed(tree(tmp_path / "one"), tree(out)) == []
    assert run("verify", out).code == 0


def test_several_clips_are_one_plan(shelf: Shelf, run: Commands, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    shutil.copy(shelf.gray, clips / "city_clear.mp4")
    shutil.copy(shelf.h264, clips / "city_day.mp4")
    words = ("--clip", CLIP, "--clip", "city_day", "--clips-dir", clips, "--frames-per-shard", 7)
    assert run("extract", *words, "--out", tmp_path / "one", "--workers", 0).code == 0
    assert run("plan", *words, "--out", tmp_path / "set", "--parts", 3).code == 0
    ran = run.part(tmp_path / "set", "--part", 1, "--json")
    assert {path.parent.name for path in (tmp_path / "set").rglob("*.tar")} == {CLIP, "city_day"}
    assert (ran.json["part"], ran.json["num_parts"], ran.json["new_frames"]) == (1, 3, ran.json["num_frames"])
    run.parts(tmp_path / "set", "0,2")
    assert run.finalize(tmp_path / "set").code == 0
    assert changed(tree(tmp_path / "one"), tree(tmp_path / "set")) == []


def test_planning_changes_nothing_of_what_is_done_and_may_deal_it_anew(
    shelf: Shelf, run: Commands, one: dict[str, bytes], tmp_path: Path
) -> None:
    run.plan(tmp_path, shelf.gray, parts=5)
    run.parts(tmp_path, "1-2")
    stood = {name: time for name, time in times(tmp_path).items() if name.endswith((".tar", ".jsonl", ".idx"))}
    run.plan(tmp_path, shelf.gray, parts=10)
    assert run.status(tmp_path).stdout == "0-1,6-9\n"
    run.parts(tmp_path, "0-9")
    assert {name: time for name, time in times(tmp_path).items() if name in stood and name != "plan.jsonl"} == {
        name: time for name, time in stood.items() if name != "plan.jsonl"
    }
    assert run.finalize(tmp_path).code == 0
    assert changed(one, tree(tmp_path)) == []


# The plan.


def test_a_plan_is_the_same_bytes_from_everywhere(
    shelf: Shelf, run: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.plan(tmp_path / "a", shelf.gray)
    run.plan(tmp_path / "b", shelf.gray)
    monkeypatch.chdir(shelf.folder)
    run.plan(tmp_path / "c", shelf.gray.name)
    data = (tmp_path / "a/plan.jsonl").read_bytes()
    assert (tmp_path / "b/plan.jsonl").read_bytes() == data
    assert (tmp_path / "c/plan.jsonl").read_bytes() == data
    run.plan(tmp_path / "a", shelf.gray)
    assert (tmp_path / "a/plan.jsonl").read_bytes() == data


def test_a_plan_tells_what_it_will_take(shelf: Shelf, run: Commands, tmp_path: Path) -> None:
    ran = run.plan(tmp_path, shelf.gray)
    assert ran.code == 0
    lines = ran.stdout.splitlines()
    assert lines[0].split() == ["clip", "frames", "segments", "disk", "core", "time"]
    assert [line.split()[:3] for line in lines[1:3]] == [[CLIP, "50", "10"], ["all", "50", "10"]]
    assert lines[3].startswith(
        "4 parts of 2 to 3 segments, the longest about 0 s on one core; the shards feed 10 ranks"
    )
    assert lines[4] == str(tmp_path / "plan.jsonl")
    told = run.plan(tmp_path, shelf.gray, "--json").json
    header, *segments = (json.loads(line) for line in (tmp_path / "plan.jsonl").read_text().splitlines())
    for name in ("num_parts", "num_segments", "num_frames", "size_bytes", "core_s", "num_ranks"):
        assert told[name] == header[name]
    assert [segment["shard"] for segment in segments] == [
        f"infraredcity-{CLIP}-{number:06d}.tar" for number in range(10)
    ]
    run.parts(tmp_path, "0-3")
    written = sum(path.stat().st_size for path in tmp_path.rglob("*.tar"))
    assert 0.7 < header["size_bytes"] / written < 1.4


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--clip", CLIP, "--video", "{gray}", "--parts", "51", "--frames-per-shard", "1"), 1,
         "plan.jsonl: parts must be 1 to 50, one segment of a clip each at least, got 51; use fewer --parts or a smaller"),
        (("--clip", CLIP, "--video", "gone.mp4", "--parts", "1"), 1, "clip city_clear: gone.mp4 does not exist"),
        (("--clip", CLIP, "--video", "{text}", "--parts", "1"), 1, "letter.mp4: not a video that can be opened"),
        (("--clip", CLIP, "--video", "{gray}", "--parts", "1", "--start", "50"), 1, "nothing is left from --start 50"),
        (("--clip", CLIP, "--video", "{gray}", "--parts", "0"), 2, "0 is not in the range"),
        (("--clip", CLIP, "--video", "{gray}"), 2, "Missing option '--parts'"),
        (("--parts", "3"), 2, "name clips with --clip, or take all with --all"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned_is_one_clear_line(
    shelf: Shelf, run: Commands, tmp_path: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    filled = [word.format(gray=shelf.gray, text=shelf.text) for word in words]
    ran = run("plan", *filled, "--out", tmp_path / "set")
    assert ran.code == code
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "set/plan.jsonl").exists()


def test_other_settings_over_what_is_done_are_refused(shelf: Shelf, run: Commands, tmp_path: Path) -> None:
    run.plan(tmp_path, shelf.gray)
    run.parts(tmp_path, "0")
    before = tree(tmp_path)
    ran = run.plan(tmp_path, shelf.gray, "--quality", 90)
    assert (
        "city_clear: was extracted with --quality 95, not 90; use the same, another --out, or --overwrite"
        in only_line(ran)
    )
    assert changed(before, tree(tmp_path)) == []
    assert run.plan(tmp_path, shelf.gray, "--quality", 90, "--overwrite").code == 0
    assert run.status(tmp_path).stdout == "0-3\n"


# Which part.


@pytest.mark.parametrize(
    ("environment", "part"),
    [
        ({"SLURM_ARRAY_TASK_ID": "3"}, 3),
        ({"JOB_COMPLETION_INDEX": "2"}, 2),
        ({"RANK": "1"}, 1),
        ({"RANK": "1", "JOB_COMPLETION_INDEX": "2", "SLURM_ARRAY_TASK_ID": "3"}, 3),
        ({"RANK": "1", "JOB_COMPLETION_INDEX": "2"}, 2),
        ({"RANK": "1", "SLURM_ARRAY_TASK_ID": ""}, 1),
        ({"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "1", "SLURM_ARRAY_TASK_MAX": "0"}, 0),
        ({"RANK": "3", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, 3),
    ],
)
def test_the_scheduler_says_which_part_and_the_plan_how_many(
    shelf: Shelf,
    run: Commands,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    part: int,
) -> None:
    run.plan(tmp_path, shelf.gray, parts=4)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert run.part(tmp_path).code == 0
    left = [number for number in range(4) if number != part]
    assert expanded(run.status(tmp_path).stdout) == left
    assert run.part(tmp_path, "--part", left[0]).code == 0  # what is said counts first
    assert expanded(run.status(tmp_path).stdout) == left[1:]


@pytest.mark.parametrize("name", ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "RANK"])
@pytest.mark.parametrize("told", ["-1", "two", "1.0", "0x1"])
def test_what_is_no_number_of_a_part_is_refused(name: str, told: str) -> None:
    with pytest.raises(click.UsageError, match=f"{name} is '{told}', expected the number of a part; pass --part"):
        part_number(None, {"RANK": "0"} | {name: told})


def test_a_part_that_nobody_names_or_that_is_not_there_is_refused(shelf: Shelf, run: Commands, tmp_path: Path) -> None:
    run.plan(tmp_path, shelf.gray)
    ran = run.part(tmp_path)
    assert ran.code == 2
    assert "pass it, or set one of SLURM_ARRAY_TASK_ID, JOB_COMPLETION_INDEX, RANK" in ran.stderr
    assert only_line(run.part(tmp_path, "--part", 4)) == "Error: part 4: the plan has 4 parts, 0 to 3"
    assert run.part(tmp_path, "--part", -1).code == 2
    assert list(tmp_path.rglob("*.tar")) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--quality", 95), "--quality is already set by the plan"),
        (("--frames-per-shard", 5), "--frames-per-shard is already set by the plan"),
        (("--clip", CLIP), "leave out --clip"),
        (("--strict",), "--plan already names"),
        (("--overwrite",), "--plan already names"),
    ],
)
def test_what_the_plan_says_cannot_be_said_again(
    shelf: Shelf, run: Commands, tmp_path: Path, words: tuple[object, ...], message: str
) -> None:
    run.plan(tmp_path, shelf.gray)
    ran = run.part(tmp_path, "--part", 0, *words)
    assert ran.code == 2
    assert message in ran.stderr
    assert list(tmp_path.rglob("*.tar")) == []


def test_a_part_without_a_plan_is_refused(shelf: Shelf, run: Commands, tmp_path: Path) -> None:
    ran = run("extract", "--clip", CLIP, "--video", shelf.gray, "--part", 0, "--out", tmp_path)
    assert ran.code == 2
    assert "--part needs --plan" in ran.stderr
    for command in (
        ("extract", "--part", 0, "--plan", tmp_path / "plan.jsonl"),
        ("status", tmp_path),
        ("finalize", tmp_path),
    ):
        assert 'plan.jsonl: no plan; make one with "infraredcity plan"' in only_line(run(*command))


def test_one_process_stays_away_from_a_folder_with_a_plan(shelf: Shelf, run: Commands, tmp_path: Path) -> None:
    run.plan(tmp_path, shelf.gray)
    ran = run("extract", "--clip", CLIP, "--video", shelf.gray, "--out", tmp_path)
    assert (
        f"{tmp_path}: holds a plan, whose parts may be under way; extract with --plan {tmp_path}/plan.jsonl"
        in only_line(ran)
    )


# What is outstanding.


def test_status_tells_what_is_outstanding_and_that_alone_is_done_again(
    shelf: Shelf, run: Commands, one: dict[str, bytes], tmp_path: Path
) -> None:
    run.plan(tmp_path, shelf.gray, parts=10)
    ran = run.status(tmp_path)
    assert (ran.code, ran.stdout) == (3, "0-9\n")
    assert "city_clear: 0 of 10 segments are done, outstanding: 0-9" in ran.stderr
    assert "10 of 10 parts are outstanding: run them again, such as with sbatch --array=0-9" in ran.stderr
    run.parts(tmp_path, "0-9")
    ran = run.status(tmp_path)
    assert (ran.code, ran.stdout) == (0, "")
    assert "city_clear: 10 of 10 segments are done\n" in ran.stderr

    def shard(number: int) -> Path:
        return tmp_path / CLIP / f"infraredcity-{CLIP}-{number:06d}.tar"

    shard(1).unlink()
    shard(2).write_bytes(shard(2).read_bytes()[:-512])
    record = segment_record.record_path(tmp_path / CLIP, 5)
    assert isinstance(record, Path)
    record.write_bytes(record.read_bytes()[:-20])
    record.with_name("000007.jsonl").unlink()
    record.with_name("000009.jsonl").write_text("{}\n")
    ran = run.status(tmp_path)
    assert (ran.code, ran.stdout) == (3, "1-2,5,7,9\n")
    assert "5 of 10 segments are done, outstanding: 1-2,5,7,9" in ran.stderr
    assert run.status(tmp_path, "--quick").stdout == "7\n"
    told = run.status(tmp_path, "--json")
    assert told.code == 3
    assert told.json == {
        "folder": str(tmp_path),
        "num_parts": 10,
        "num_segments": 10,
        "num_done": 5,
        "outstanding_parts": [1, 2, 5, 7, 9],
        "array": "1-2,5,7,9",
        "clips": [{"clip": CLIP, "num_segments": 10, "num_done": 5, "outstanding": "1-2,5,7,9"}],
    }
    new = [run.part(tmp_path, "--part", part, "--json").json["new_frames"] for part in range(10)]
    assert new == [0, 5, 5, 0, 0, 5, 0, 5, 0, 5]
    assert run.status(tmp_path).code == 0
    assert run.finalize(tmp_path).code == 0
    assert changed(one, tree(tmp_path)) == []


def test_a_part_that_is_done_does_nothing(shelf: Shelf, run: Commands, tmp_path: Path) -> None:
    run.plan(tmp_path, shelf.gray)
    ran = run.part(tmp_path, "--part", 1)
    assert "part 1 of 4: 15 frames (15 new) in 3 segments, " in ran.stderr
    before = times(tmp_path)
    ran = run.part(tmp_path, "--part", 1)
    assert ran.code == 0
    assert "part 1 of 4: 15 frames (nothing left to do) in 3 segments, " in ran.stderr
    assert times(tmp_path) == before


def test_a_part_writes_its_own_segments_alone(shelf: Shelf, run: Commands, tmp_path: Path) -> None:
    run.plan(tmp_path, shelf.gray)
    run.parts(tmp_path, "2")
    numbers = {int(path.stem.rpartition("-")[2]) for path in tmp_path.rglob("*.tar")}
    told = [json.loads(line) for line in (tmp_path / "plan.jsonl").read_text().splitlines()[1:]]
    assert numbers == {line["segment"] for line in told if line["part"] == 2}


# Finalize.


def test_finalize_merges_nothing_while_something_is_outstanding(shelf: Shelf, run: Commands, tmp_path: Path) -> None:
    run.plan(tmp_path, shelf.gray)
    run.parts(tmp_path, "0-1,3")
    before = times(tmp_path)
    ran = run.finalize(tmp_path)
    assert (ran.code, ran.stdout) == (3, "2\n")
    assert "2 of 10 segments are outstanding; run parts 2 again, then finalize" in ran.stderr
    assert times(tmp_path).keys() - before.keys() <= {".lock"}
    told = run.finalize(tmp_path, "--json")
    assert (told.code, told.json["status"]["array"], told.json["reports"]) == (3, "2", [])


def test_finalize_again_touches_nothing(shelf: Shelf, run: Commands, one: dict[str, bytes], tmp_path: Path) -> None:
    run.plan(tmp_path, shelf.gray)
    run.parts(tmp_path, "0-3")
    ran = run.finalize(tmp_path)
    assert (ran.code, ran.stdout) == (0, "")
    assert "city_clear: 50 frames (nothing left to do) in 10 shards" in ran.stderr
    assert changed(one, tree(tmp_path)) == []
    stood = times(tmp_path)
    ran = run.finalize(tmp_path, "--json")
    assert ran.json["reports"][0]["status"] == "done"
    assert times(tmp_path) == stood


def test_finalize_needs_no_clip(shelf: Shelf, run: Commands, one: dict[str, bytes], tmp_path: Path) -> None:
    video = Path(shutil.copy2(shelf.gray, tmp_path / "gray.mp4"))
    out = tmp_path / "set"
    run.plan(out, video)
    run.parts(out, "0-3")
    video.unlink()
    assert run.status(out).code == 0
    assert run.finalize(out).code == 0
    assert [name for name in changed(one, tree(out)) if "/scan-" not in name] == []
    assert run.part(out, "--part", 0).code == 1


def test_finalize_checks_the_counts_of_all_segments(shelf: Shelf, run: Commands, tmp_path: Path) -> None:
    run.plan(tmp_path, shelf.gray)
    run.parts(tmp_path, "0-3")
    head, rows = segment_record.read(segment_record.record_path(tmp_path / CLIP, 6))
    shorter = replace(
        rows,
        columns={name: values[:-1] for name, values in rows.columns.items()},
        sha256=rows.sha256[:-32],
        picture_sizes=[(len(rows) - 1, 96, 64)],
        differences=rows.differences[:-1],
    )
    segment_record.write(tmp_path / CLIP, head, shorter)
    line = only_line(run.finalize(tmp_path))
    assert "000006.jsonl: has 4 samples and 0 missing frames, expected 5 in all; delete it, then run its part" in line
    assert not (tmp_path / CLIP / "clips.json").exists()


def test_finalize_exits_with_4_when_the_clip_is_not_as_long_as_the_catalogue_says(
    shelf: Shelf, run: Commands, tmp_path: Path
) -> None:
    catalogue = tmp_path / "my.toml"
    catalogue.write_text(f'[clips.{CLIP}]\npath = "{shelf.gray}"\nexpected_frames = 51\n')
    out = tmp_path / "set"
    assert run("plan", "--clip", CLIP, "--clips", catalogue, "--out", out, "--parts", 1).code == 0
    run.parts(out, "0")
    ran = run.finalize(out, "--json")
    assert (ran.code, ran.json["reports"][0]["status"]) == (4, "count")
    assert "city_clear: the clip holds 50 frames, the catalogue expects 51" in ran.stderr


def test_finalize_exits_with_5_and_names_the_gaps(shelf: Shelf, run: Commands, tmp_path: Path) -> None:
    run.plan(tmp_path, shelf.corrupted)
    ran = run.part(tmp_path, "--part", 2)
    assert ran.code == 0
    assert "part 2 of 4: 10 frames (8 new, 2 missing) in 2 segments" in ran.stderr
    run.parts(tmp_path, "0-1,3")
    ran = run.finalize(tmp_path)
    assert ran.code == 5
    assert "city_clear: gap: frames 20 to 21 (2): the decoder could not make a picture of it" in ran.stderr


def test_a_plan_whose_lines_were_changed_is_not_finalized(shelf: Shelf, run: Commands, tmp_path: Path) -> None:
    run.plan(tmp_path, shelf.gray)
    run.parts(tmp_path, "0-3")
    path = tmp_path / "plan.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    assert "its lines of segments were changed or cut" in only_line(run.finalize(tmp_path))
    path.write_bytes(path.read_bytes()[:200])
    for command in (("status", tmp_path), ("finalize", tmp_path), ("extract", "--plan", path, "--part", 0)):
        assert "plan.jsonl: damaged, or not a plan (" in only_line(run(*command))


# What belongs to other work.


def test_a_part_of_another_plan_is_refused(shelf: Shelf, run: Commands, tmp_path: Path) -> None:
    run.plan(tmp_path / "a", shelf.gray)
    run.plan(tmp_path / "b", shelf.gray, parts=5)
    run.parts(tmp_path / "a", "0")
    before = tree(tmp_path / "a")
    words = ("extract", "--plan", tmp_path / "b/plan.jsonl", "--part", 0, "--out", tmp_path / "a")
    assert "plan.jsonl: is another plan (5 parts, " in only_line(run(*words))
    run.plan(tmp_path / "c", shelf.gray, "--quality", 90)
    (tmp_path / "a/plan.jsonl").write_bytes((tmp_path / "c/plan.jsonl").read_bytes())
    line = only_line(run.part(tmp_path / "a", "--part", 1))
    assert (
        "city_clear: belongs to another job: --quality 95, not 90; use the plan that was made for it, or another --out"
        in line
    )
    assert "was written under another plan or other settings (job " in only_line(run.status(tmp_path / "a"))
    assert "was written under another plan or other settings (job " in only_line(run.finalize(tmp_path / "a"))
    assert changed(before, tree(tmp_path / "a")) == []


def test_a_segment_record_of_other_work_is_refused(shelf: Shelf, run: Commands, tmp_path: Path) -> None:
    run.plan(tmp_path, shelf.gray)
    run.parts(tmp_path, "0-3")
    head, rows = segment_record.read(segment_record.record_path(tmp_path / CLIP, 0))
    segment_record.write(tmp_path / CLIP, replace(head, job_identity="ab" * 32), rows)
    assert "000000.jsonl: was written under another plan or other settings (job abababababab, expected " in only_line(
        run.status(tmp_path)
    )
    assert "000000.jsonl: was written under another plan or other settings (job abababababab" in only_line(
        run.finalize(tmp_path)
    )
    line = only_line(run.part(tmp_path, "--part", 0))
    assert "000000.jsonl: was written under another plan or other settings (job abababababab, expected " in line
    assert "delete it" in line


def test_a_plan_may_stand_elsewhere_than_its_output(
    shelf: Shelf, run: Commands, one: dict[str, bytes], tmp_path: Path
) -> None:
    run.plan(tmp_path / "plans", shelf.gray)
    out = tmp_path / "set"
    for part in range(4):
        words = ("--part", part, "--out", out, "--workers", 0)
        assert run("extract", "--plan", tmp_path / "plans/plan.jsonl", *words).code == 0
    assert (out / "plan.jsonl").read_bytes() == (tmp_path / "plans/plan.jsonl").read_bytes()
    assert run.finalize(out).code == 0
    assert changed(one, tree(out)) == []


# Copies of the clip, and libraries, on several machines.


def test_a_clip_that_differs_between_machines_is_refused_by_name(run: Commands, tmp_path: Path) -> None:
    """The copy has the same path, name, size and time, and its samples are the same: only its packets tell."""
    video = tmp_path / "clips/night.mkv"
    video.parent.mkdir()
    write_clip(video, range(20), "-c:v", "rawvideo", "-pix_fmt", "yuv420p", width=320, height=240)
    out = tmp_path / "set"
    run.plan(out, video)
    run.parts(out, "0")
    status, data = video.stat(), bytearray(video.read_bytes())
    data[(len(data) - 65_536) * 7 // 15 + 65_536 + 1000] ^= 1
    before = tree(out)
    copy = tmp_path / "other/night.mkv"
    copy.parent.mkdir()
    for path in (copy, video):
        path.write_bytes(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        (tmp_path / "my.toml").write_text(f'[clips.{CLIP}]\npath = "{path}"\n')
        line = only_line(run.part(out, "--part", 1, "--clips", tmp_path / "my.toml"))
        assert (
            f"clip city_clear: {path} here is not what was planned but another night.mkv (20 frames, now 20; sha256 of"
            in line
        )
        told = re.findall(r"sha256 of its packets (\w{12}), now (\w{12})\)", line)
        assert len({*told[0]}) == 2
    assert [name for name in changed(before, tree(out)) if "/scan-" not in name] == []


def test_another_count_or_a_cut_copy_is_refused(shelf: Shelf, run: Commands, tmp_path: Path) -> None:
    run.plan(tmp_path / "set", shelf.h264)
    catalogue = tmp_path / "my.toml"
    for other, message in ((shelf.cut, "(50 frames, now 33; sha256"), (shelf.truncated, "another h264.mp4")):
        catalogue.write_text(f'[clips.{CLIP}]\npath = "{other}"\n')
        line = only_line(run.part(tmp_path / "set", "--part", 1, "--clips", catalogue))
        assert message in line
        assert "copy the clip again" in line
    assert list(tmp_path.rglob("*.tar")) == []


def test_a_remuxed_copy_with_the_same_frames_gives_the_same_bytes(
    shelf: Shelf, run: Commands, one: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "set"
    copies = tmp_path / "copies"
    copies.mkdir()
    ffmpeg("-i", shelf.gray, "-c", "copy", "-movflags", "+faststart", copies / f"{CLIP}.mp4")
    assert (copies / f"{CLIP}.mp4").read_bytes() != shelf.gray.read_bytes()
    run.plan(out, shelf.gray)
    run.parts(out, "0,2")
    for part in (1, 3):
        assert run.part(out, "--part", part, "--clips-dir", copies).code == 0
    assert run.finalize(out).code == 0
    assert [name for name in changed(one, tree(out)) if "/scan-" not in name] == []


def test_a_copy_that_shows_its_frames_at_other_times_is_refused(shelf: Shelf, run: Commands, tmp_path: Path) -> None:
    out = tmp_path / "set"
    ffmpeg("-i", shelf.gray, "-c", "copy", tmp_path / f"{CLIP}.mkv")
    run.plan(out, shelf.gray)
    line = only_line(run.part(out, "--part", 1, "--clips-dir", tmp_path))
    assert (
        "is not what was planned but a file that shows the same frames at other times (in units of 1/12800 s, now 1/1000"
        in line
    )
    assert list(tmp_path.rglob("*.tar")) == []


def test_other_versions_of_the_libraries_are_refused_by_name(
    shelf: Shelf, run: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.plan(tmp_path, shelf.gray)
    run.parts(tmp_path, "0")
    here = job.versions_here("pyav")
    monkeypatch.setattr(job, "versions_here", lambda _decoder: {**here, "simplejpeg": "0.1"})
    line = only_line(run.part(tmp_path, "--part", 1))
    assert (
        f"clip city_clear: was planned with simplejpeg {here['simplejpeg']}, not 0.1 here; other versions may give other"
        in line
    )
    assert "install the same" in line
    assert run.part(tmp_path, "--part", 0).code == 0  # nothing is left to write
    assert run.status(tmp_path).stdout == "1-3\n"


# Credentials.


def test_credentials_of_clips_are_written_and_said_nowhere(
    shelf: Shelf, run: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(shelf.folder, tmp_path / "nginx") as server:
        video = f"http://somebody:PASSWORD@127.0.0.1:{server.port}/{shelf.gray.name}?token=TOKEN"
        out = tmp_path / "set"
        said = [run.plan(out, video)]
        assert said[0].code == 0, said[0].stderr
        (tmp_path / "my.toml").write_text(f'[clips.{CLIP}]\npath = "{video}"\n')
        monkeypatch.setenv(CLIPS_VARIABLE, str(tmp_path / "my.toml"))
        said += [run.part(out, "--part", part) for part in range(3)]
        said += [run.status(out), run.part(out, "--part", 3), run.finalize(out)]
        assert [ran.code for ran in said] == [0, 0, 0, 0, 3, 0, 0]
        wrong = video.replace(shelf.gray.name, shelf.h264.name)
        (tmp_path / "my.toml").write_text(f'[clips.{CLIP}]\npath = "{wrong}"\n')
        (out / CLIP / "segments/000000.jsonl").unlink()
        said.append(run.part(out, "--part", 0))
        assert "h264.mp4 here is not what was planned but another gray.mp4" in said[-1].stderr
        gone = video.replace(shelf.gray.name, "gone.mp4")
        (tmp_path / "my.toml").write_text(f'[clips.{CLIP}]\npath = "{gone}"\n')
        said.append(run.part(out, "--part", 0))
        assert (said[-1].code, "gone.mp4" in said[-1].stderr) == (1, True)
    for text in [text for ran in said for text in (ran.stdout, ran.stderr)]:
        assert not any(secret in text for secret in SECRETS), text
    for path in out.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        assert not any(secret.encode() in data or secret in path.name for secret in SECRETS), path
    header = json.loads((out / "plan.jsonl").read_text().splitlines()[0])
    assert header["clips"][0]["locations"] == [f"http://127.0.0.1:{server.port}/{shelf.gray.name}"]


# Remote output.


def test_remote_output_of_parts_and_of_one_process_is_the_same_as_near(
    shelf: Shelf, run: Commands, one: dict[str, bytes], memory: RemotePath
) -> None:
    alone = memory.parent / "alone"
    words = ("--clip", CLIP, "--video", shelf.gray, "--frames-per-shard", 5, "--workers", 0)
    assert run("extract", *words, "--out", alone.url).code == 0
    assert changed(one, tree(alone)) == []
    assert run.plan(memory, shelf.gray).code == 0
    run.parts(memory, "0-1,3")
    ran = run.status(memory)
    assert (ran.code, ran.stdout) == (3, "2\n")
    assert run.finalize(memory).code == 3
    run.parts(memory, ran.stdout)
    assert run.finalize(memory).code == 0
    assert changed(one, tree(memory)) == []
    (memory / CLIP / f"infraredcity-{CLIP}-000004.tar").write_whole(b"cut")
    assert run.status(memory).stdout == "1\n"


def test_a_plan_names_no_gpu_of_one_machine(shelf: Shelf, infraredcity: RunCommand, tmp_path: Path) -> None:
    command = ("plan", "--clip", "city_clear", "--video", shelf.h264, "--parts", 1, "--out", tmp_path / "set")
    ran = infraredcity(*command, "--device", "cuda:1")
    assert ran.code == 2
    assert "--device cuda:1 is a GPU of one machine" in ran.stderr
    assert "choose the GPU with CUDA_VISIBLE_DEVICES where the part runs" in ran.stderr
    assert not (tmp_path / "set").exists()
