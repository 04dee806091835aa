"""docs/many-machines.md: its blocks are run on nine tiny clips, its figures are computed again, its options exist."""

import json
import re
import shlex
import shutil
from pathlib import Path

import click
import pytest
import yaml
from planned import planned, spec_of
from slurm import CLUSTER, ROOT, Slurm, directives
from synthetic import H264, write_clip

from infraredcity.cli import cli
from infraredcity.cli.plan import plan_lines
from infraredcity.clips import load_catalog
from infraredcity.extraction.config import ExtractConfig
from infraredcity.extraction.estimate import frame_core_s
from infraredcity.extraction.plan import PLAN_NAME, Plan, cut_plan
from roma.cli.train import main as train_main
from roma.cli.train import train_command

PAGE = (ROOT / "docs" / "many-machines.md").read_text(encoding="utf-8")
SECTIONS = dict((part.partition("\n")[0], part.partition("\n")[2]) for part in PAGE.split("\n## ")[1:])
BLOCKS = {
    title: re.findall(r"^```sh\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE) for title, text in SECTIONS.items()
}
HERE = ["Look at the clips", "Plan", "Parts, status, again", "Finalize, verify", "Draw the Lite set"]
"""The sections whose blocks are run."""

FRAMES = 960_000
"""100 GB at 25 Mbit/s and 30 frames a second are 8.9 h."""
PIXELS = 640 * 512
STILL_BYTES = {"infrared": 76_006.5, "visible": 42_392.7}
"""As `plan` found them, with what a tar adds: a night clip of 640x512 (HIT-UAV, 60 m), a day clip of 768x432 (car-detection)."""


def core_s(modality: str) -> float:
    """Of a frame, as `plan` guesses it from what is decoded and encoded."""
    return frame_core_s(
        "jpg", video_px=PIXELS, coded_bytes=100e9 / FRAMES, every=1, still_px=PIXELS,
        channels=1 if modality == "infrared" else 3, still_bytes=STILL_BYTES[modality] - 1792,
    )  # fmt: skip


def plan_of_the_page() -> Plan:
    """The plan of nine clips of 100 GB, which nobody has here: from their counts, without their files."""
    config = ExtractConfig(frames_per_shard=1000)
    return cut_plan(
        [
            planned(
                spec_of(FRAMES, config, clip=clip, nominal_fps=30.0),
                frame_core_s=round(core_s(clip.modality), 7),
                frame_bytes=STILL_BYTES[clip.modality],
            )
            for clip in load_catalog(environment={})
        ],
        90,
    )


def test_the_figures_of_the_page_are_those_that_plan_prints() -> None:
    (printed,) = re.findall(r"^```text\n(.*?)\n```", SECTIONS["Plan"], flags=re.DOTALL | re.MULTILINE)
    plan = plan_of_the_page()
    assert printed.splitlines() == plan_lines(plan)
    # And what the text makes of them.
    assert plan.num_segments == 8640
    assert plan.num_ranks == 3840 == 120 * 32
    parts_s = plan.core_s / 30 / 4
    assert round(parts_s / 60) == 11
    assert round(9 * 100e9 / parts_s / 1e8) == 14
    assert round(plan.size_bytes / parts_s / 1e8) == 8
    assert round(plan.size_bytes / 4 / 1e9) == 132
    assert {len(plan.segment_ranges(part)) for part in range(plan.num_parts)} == {1, 2}


def test_the_times_that_the_page_names_are_those_of_the_estimate() -> None:
    named = re.search(
        r"([\d.]+) ns per decoded pixel, ([\d.]+) ns per coded\s+byte, ([\d.]+) ns per value and ([\d.]+) ns per byte of the JPEG",
        PAGE,
    )
    assert named is not None
    per_px, per_coded_byte, per_value, per_byte = (float(figure) * 1e-9 for figure in named.groups())
    by_hand = per_px * 3000 + per_coded_byte * 500 + per_value * 3 * 2000 + per_byte * 800
    assert frame_core_s(
        "jpg", video_px=3000, coded_bytes=500.0, every=1, still_px=2000, channels=3, still_bytes=800.0
    ) == pytest.approx(by_hand)


def options_of(command: click.Command) -> set[str]:
    return {word for parameter in command.params for word in (*parameter.opts, *parameter.secondary_opts)}


def test_every_command_and_option_on_the_page_exists() -> None:
    found = set()
    for line in (
        line for blocks in BLOCKS.values() for block in blocks for line in block.replace("\\\n", " ").splitlines()
    ):
        for name, rest in re.findall(r"\binfraredcity ([a-z-]+)([^)]*)", line):
            command = cli.get_command(click.Context(cli), name)
            assert command is not None, line
            assert set(re.findall(r"(?<=\s)--[a-z-]+", rest)) <= options_of(command), line
            found.add(name)
    assert found == {"clips", "probe", "plan", "status", "extract", "finalize", "verify", "make-lite"}
    spoken = set(re.findall(r"`(?:[a-z-]+ )*(--[a-z-]+)", PAGE)) - {"--time", "--mem", "--cpus-per-task"}
    commands = [
        command
        for name in cli.list_commands(click.Context(cli))
        if (command := cli.get_command(click.Context(cli), name))
    ]
    assert spoken <= {option for command in [*commands, train_command] for option in options_of(command)}


def test_every_file_and_section_that_the_page_names_exists() -> None:
    for name in set(re.findall(r"\b((?:tools|docs)/[\w./-]+\w)", PAGE)):
        assert (ROOT / name).is_file(), name
    assert [title for title in SECTIONS if title in HERE] == HERE == list(SECTIONS)[:5]
    codes = SECTIONS["Exit codes"]
    assert [row.split("|")[1].strip() for row in codes.strip().splitlines()[2:]] == [
        "0",
        "1",
        "2",
        "3",
        "4",
        "5",
        "130, 143",
    ]


def test_what_the_page_says_that_logs_say_is_what_they_say() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "infraredcity").rglob("*.py")))
    source = re.sub(r'"\n\s*f?"', "", source)  # a message over two lines is one
    rows = re.findall(r"^\| `([^`]*)` \|", SECTIONS["When parts stay outstanding"], flags=re.MULTILINE)
    assert len(rows) == 8
    for row in rows:
        # What changes from one time to another stands between the pieces.
        for piece in re.split(r"another \.\.\.|\.\.\.|-9|60|no space left on device", row):
            assert piece.strip("; ") in source, piece


def test_the_training_of_the_page_is_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = BLOCKS["Train on 4 machines with 8 GPUs"]
    words = shlex.split(block.replace("\\\n", " "))
    script = words.index("tools/launch/slurm.sbatch")
    given = dict(word.removeprefix("--").split("=") for word in words[1:script])
    assert given == {"nodes": "4", "gpus-per-node": "8"}
    assert set(given) <= set(directives(ROOT / words[script]))
    options = words[script + 1 :]
    assert int(options[options.index("--set") + 1].removeprefix("batch_size=")) >= 4 * 8
    options[options.index("--out") + 1] = str(tmp_path / "run")
    with pytest.raises(SystemExit) as ended:
        train_main([*options, "--dry-run"])
    # All but the data, which lies on that cluster.
    assert (ended.value.code, capsys.readouterr().err.count("no shard matches")) == (1, 1)


def test_the_kubernetes_and_ray_blocks_name_what_is_there() -> None:
    jobs = list(yaml.safe_load_all((CLUSTER / "extract-job.yaml").read_text(encoding="utf-8")))
    names = {job["metadata"]["name"]: job["metadata"]["labels"]["step"] for job in jobs}
    (block,) = BLOCKS["Kubernetes"]
    assert re.findall(r"apply -f tools/cluster/extract-job\.yaml -l step=(\w+)$", block, flags=re.MULTILINE) == [
        *names.values()
    ]
    assert re.findall(r"job/([\w-]+)$", block, flags=re.MULTILINE) == [*names][:2]
    # The same lines stand in the file.
    head = (CLUSTER / "extract-job.yaml").read_text(encoding="utf-8")
    assert "".join(f"#   {line}\n" for line in block.splitlines()) in head
    (block,) = BLOCKS["Ray"]
    head = (CLUSTER / "ray_job.sh").read_text(encoding="utf-8")
    assert [line.split()[0] for line in block.splitlines()] == ["export", "tools/cluster/ray_job.sh"]
    assert block.splitlines()[1] in head


def lies_at(text: str, folder: Path) -> str:
    """A block with the page's folder put elsewhere, and counts that suit nine clips of 400 frames."""
    smaller = {
        "/data/": f"{folder}/data/", "--parts 90": "--parts 3", "--frames-per-shard 1000": "--frames-per-shard 200",
        "--workers 4": "--workers 1", "make-lite": "make-lite --scale auto",
    }  # fmt: skip
    for before, after in smaller.items():
        text = text.replace(before, after)
    return text


@pytest.mark.slow
def test_the_blocks_of_the_page_run_from_the_first_to_the_last(tmp_path: Path) -> None:
    slurm = Slurm(tmp_path, cpus=1)
    clips = tmp_path / "data" / "clips"
    clips.mkdir(parents=True)
    made = write_clip(tmp_path / "made.mp4", range(400), *H264, width=32, height=32)
    for clip in load_catalog(environment={}):
        shutil.copyfile(made, clips / f"{clip.clip_id}.mp4")
    shards = tmp_path / "data" / "shards"
    blocks = [(title, block) for title in HERE for block in BLOCKS[title]]
    assert len(blocks) == 7
    said = ""
    for title, block in blocks:
        if "--array" in block:  # a shard is lost, so that there is something to do again
            (shards / "city_day" / "infraredcity-city_day-000001.tar").unlink()
        done = slurm.bash(lies_at(block, tmp_path))
        assert done.returncode == 0, (title, done.stderr)
        said += done.stdout + done.stderr
        assert [task for task in slurm.run_queue() if task.code] == []
    assert "9 of 9 clips found" in said
    assert "city_clear.mp4: 400 frames" in said
    segments = [json.loads(line) for line in (shards / PLAN_NAME).read_text().splitlines()[1:]]
    count = sum(segment["part"] == 0 for segment in segments)
    assert f"part 0 of 3: {count * 200:,} frames (nothing left to do) in {count} segments" in said
    assert re.search(r"9 parts, 18 shards, 3,600 samples, .*: OK", said)
    assert [words[1] for words in slurm.calls() if words[0] == "--parsable"] == ["--array=0-2%30"]
    (lost,) = (each["part"] for each in segments if (each["clip"], each["segment"]) == ("city_day", 1))
    assert [words[0] for words in slurm.calls()][-1] == f"--array={lost}%30"
    assert {path.parent.name for path in shards.glob("*/clips.json")} == {
        clip.clip_id for clip in load_catalog(environment={})
    }
    assert (tmp_path / "data" / "lite" / "city" / "infrared-train" / "index.npz").exists()
    assert (tmp_path / "data" / "lite" / "lite.json").exists()
