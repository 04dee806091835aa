"""tools/cluster: the scripts that run the parts of a plan on SLURM, Kubernetes and Ray, with stand-ins for the cluster."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from commands import RunCommand
from planned import changed, tree
from processes import PATIENCE_S, started
from slurm import CLUSTER, Slurm, directives, expanded
from synthetic import Shelf, clip_of

from infraredcity.cli import cli
from infraredcity.cli.extract import part_number
from infraredcity.extraction.config import ExtractConfig
from infraredcity.extraction.extract_clip import extract_clip

SCRIPTS = ["extract.sbatch", "finalize.sbatch", "ray_job.sh"]
CLIP = "city_clear"


def options_of(name: str) -> set[str]:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    return {word for parameter in command.params for word in parameter.opts}


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_valid_bash_that_stops_at_errors(name: str) -> None:
    done = subprocess.run(["bash", "-n", str(CLUSTER / name)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nset -euo pipefail\n" in (CLUSTER / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [*SCRIPTS, "extract-job.yaml"])
def test_every_command_and_option_in_a_script_exists(name: str) -> None:
    text = (CLUSTER / name).read_text(encoding="utf-8").replace('"$VENV/bin/infraredcity"', "infraredcity")
    text = re.sub(r"infraredcity\n\s+- ", "infraredcity ", text)
    text = re.sub(r"\n\s+- (?=--|/data)", " ", text)
    used = re.findall(r"infraredcity (plan|extract|status|finalize)\b(.*)", text)
    assert used
    for command, rest in used:
        for option in re.findall(r"(?<=\s)(--[a-z-]+)", rest.partition("%30")[0]):
            assert option in options_of(command), (command, option)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_without_its_folder_says_what_it_wants(name: str, tmp_path: Path) -> None:
    done = subprocess.run(["bash", str(CLUSTER / name)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "which plan?" in done.stderr


# SLURM


@pytest.mark.parametrize(("expression", "numbers"), [("0", [0]), ("0-3,7", [0, 1, 2, 3, 7]), ("2,5-6%30", [2, 5, 6])])
def test_the_stand_in_reads_array_expressions_as_slurm_does(expression: str, numbers: list[int]) -> None:
    assert expanded(expression) == numbers


def test_the_sbatch_lines_ask_for_what_the_scripts_need() -> None:
    array, last = directives(CLUSTER / "extract.sbatch"), directives(CLUSTER / "finalize.sbatch")
    for lines in (array, last):
        assert {"job-name", "output", "open-mode", "time", "cpus-per-task", "mem", "requeue"} <= set(lines)
        assert lines["open-mode"] == "append"  # a task that is queued again goes on in its log
        assert re.fullmatch(r"\d\d:\d\d:\d\d", lines["time"])
    # B: to the script's own process, which the command has taken over by then.
    assert re.fullmatch(r"B:TERM@\d+", array["signal"])
    assert "exec " in (CLUSTER / "extract.sbatch").read_text(encoding="utf-8").splitlines()[-1]
    assert "%A" in array["output"]
    assert "%a" in array["output"]
    assert "%j" in last["output"]


def test_one_word_to_slurm_extracts_everything_as_one_process_would(shelf: Shelf, tmp_path: Path) -> None:
    slurm = Slurm(tmp_path, cpus=1)
    planned = slurm.bash(
        f"infraredcity plan --clip {CLIP} --video {shelf.gray} --parts 2 --frames-per-shard 8 --out shards\n"
        "sbatch tools/cluster/finalize.sbatch shards"
    )
    assert planned.returncode == 0, planned.stderr
    ran = slurm.run_queue()
    assert [(task.number, task.code) for task in ran] == [(None, 0), (0, 0), (1, 0), (None, 0)], ran
    first, array, last = slurm.calls()
    assert first == ["tools/cluster/finalize.sbatch", "shards"]
    assert array == ["--parsable", "--array=0-1%30", "tools/cluster/extract.sbatch", "shards"]
    assert last == ["--dependency=afterany:101", "tools/cluster/finalize.sbatch", "shards", "4"]
    assert "city_clear: 50 frames" in ran[-1].said
    extract_clip(clip_of(shelf.gray, CLIP), ExtractConfig(frames_per_shard=8), tmp_path / "one", workers=0)
    assert changed(tree(tmp_path / "shards"), tree(tmp_path / "one")) == []


def test_rounds_start_again_what_is_outstanding_and_end(shelf: Shelf, tmp_path: Path) -> None:
    slurm = Slurm(tmp_path, cpus=1)
    clip = tmp_path / "clip.mp4"
    shutil.copyfile(shelf.gray, clip)
    planned = slurm.bash(
        f"infraredcity plan --clip {CLIP} --video {clip} --parts 2 --frames-per-shard 25 --out shards\n"
        f"rm {clip}\n"
        "sbatch tools/cluster/finalize.sbatch shards 1"
    )
    assert planned.returncode == 0, planned.stderr
    ran = slurm.run_queue()
    assert [(task.number, task.code) for task in ran] == [(None, 0), (0, 1), (1, 1), (None, 3)]
    assert f"Error: clip {CLIP}: {clip} does not exist; correct the path or copy the clip there\n" == ran[1].said
    assert ran[-1].said.endswith("Error: parts 0-1 are outstanding behind the last round; extract-*.log say why\n")
    assert len(slurm.calls()) == 3


def test_finalize_hands_on_what_status_cannot_read(tmp_path: Path) -> None:
    slurm = Slurm(tmp_path)
    with slurm.begin(7, ["tools/cluster/finalize.sbatch", "nothing"]) as process:
        said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert 'nothing/plan.jsonl: no plan; make one with "infraredcity plan"' in said
    assert slurm.calls() == []


@pytest.mark.slow
def test_a_task_that_is_told_to_stop_ends_cleanly_and_goes_on_when_queued_again(shelf: Shelf, tmp_path: Path) -> None:
    slurm = Slurm(tmp_path, cpus=2)
    planned = slurm.bash(
        f"infraredcity plan --clip {CLIP} --video {shelf.long} --parts 1 --frames-per-shard 40 --out shards"
    )
    assert planned.returncode == 0, planned.stderr
    words, told = ["tools/cluster/extract.sbatch", "shards/"], {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "0"}
    folder = tmp_path / "shards" / CLIP
    with slurm.begin(7, words, **told) as process:
        deadline = time.monotonic() + PATIENCE_S
        while len(list((folder / "segments").glob("*.jsonl"))) < 3 and time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.002)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 143, said
    assert said.endswith("Stopped; the same command continues from here.\n")
    done = {path.name: path.stat().st_mtime_ns for path in (folder / "segments").iterdir()}
    assert 3 <= len(done) < 30
    assert slurm.bash("infraredcity status shards").stdout == "0\n"

    with slurm.begin(7, words, **told, SLURM_RESTART_COUNT="1") as again:
        said, _ = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, said
    assert {
        name: (folder / "segments" / name).stat().st_mtime_ns for name in done
    } == done  # none of them was made again
    merged = slurm.bash("infraredcity status shards && infraredcity finalize shards")
    assert (merged.returncode, merged.stdout) == (0, ""), merged.stderr
    extract_clip(clip_of(shelf.long, CLIP), ExtractConfig(frames_per_shard=40), tmp_path / "one", workers=0)
    assert changed(tree(tmp_path / "shards"), tree(tmp_path / "one")) == []


# Kubernetes


def jobs() -> dict[str, Any]:
    """The Jobs by their label, which is also how they are applied."""
    text = (CLUSTER / "extract-job.yaml").read_text(encoding="utf-8")
    found = list(yaml.safe_load_all(text))
    assert {(each["apiVersion"], each["kind"]) for each in found} == {("batch/v1", "Job")}
    return {each["metadata"]["labels"]["step"]: each for each in found}


def test_the_kubernetes_jobs_are_what_their_documentation_demands() -> None:
    found = jobs()
    assert list(found) == ["plan", "extract", "finalize"]
    for step, job in found.items():
        assert job["metadata"]["name"] == f"infraredcity-{step}"
        spec = job["spec"]
        pod = spec["template"]["spec"]
        # podFailurePolicy and backoffLimitPerIndex are allowed with Never alone; a pod is then replaced, not restarted.
        assert pod["restartPolicy"] == "Never"
        usage, disruption = spec["podFailurePolicy"]["rules"]
        (container,) = pod["containers"]
        assert usage["action"] == "FailJob"
        assert usage["onExitCodes"]["containerName"] == container["name"] == step
        assert usage["onExitCodes"]["operator"] == "In"
        assert 2 in usage["onExitCodes"]["values"]
        assert disruption == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        assert container["envFrom"] == [{"secretRef": {"name": "infraredcity-store", "optional": True}}]
    # What finalize found is no failure of the pod's: it must not run again for it.
    assert found["finalize"]["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [2, 3, 4, 5]


def test_the_kubernetes_index_is_the_part() -> None:
    found = jobs()
    spec = found["extract"]["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == int(_word(found["plan"], "--parts"))
    assert 1 <= spec["parallelism"] <= spec["completions"]
    assert spec["backoffLimitPerIndex"] >= 1
    assert 0 <= spec["maxFailedIndexes"] <= spec["completions"]
    assert "backoffLimit" not in spec  # its default would be 6 for all parts together, without backoffLimitPerIndex
    assert part_number(None, {"JOB_COMPLETION_INDEX": "17"}) == 17
    container = spec["template"]["spec"]["containers"][0]
    assert _word(found["extract"], "--workers") == container["resources"]["requests"]["cpu"]
    (scratch,) = [each["value"] for each in container["env"] if each["name"] == "TMPDIR"]
    assert scratch in [mount["mountPath"] for mount in container["volumeMounts"]]
    folder = _word(found["plan"], "--out")
    assert _word(found["extract"], "--plan") == f"{folder}/plan.jsonl"
    assert found["finalize"]["spec"]["template"]["spec"]["containers"][0]["command"][-1] == folder


def _word(job: Any, option: str) -> str:
    words = job["spec"]["template"]["spec"]["containers"][0]["command"]
    (value,) = [word.partition("=")[2] for word in words if word.startswith(f"{option}=")]
    return str(value)


def test_the_commands_of_the_kubernetes_jobs_run(
    shelf: Shelf, tmp_path: Path, infraredcity: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clips").mkdir()
    shutil.copyfile(shelf.gray, tmp_path / "clips" / f"{CLIP}.mp4")
    # Of the nine clips one is here; the tiny one has seven segments, so three parts instead of ninety.
    smaller = {"--all": f"--clip={CLIP}", "--parts=90": "--parts=3", "--workers=4": "--workers=0"}

    def run(step: str, *options: str) -> int:
        words = jobs()[step]["spec"]["template"]["spec"]["containers"][0]["command"]
        assert words[0] == "infraredcity"
        words = [smaller.get(word, word).replace("/data", str(tmp_path)) for word in words[1:]]
        return infraredcity(*words, *options).code

    assert run("plan", "--frames-per-shard=8") == 0
    assert run("finalize") == 3
    for index in range(3):
        monkeypatch.setenv("JOB_COMPLETION_INDEX", str(index))
        assert run("extract") == 0
    assert run("finalize") == 0
    assert (tmp_path / "shards" / CLIP / "clips.json").exists()
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "one")
    assert run("extract") == 2  # a usage error, which fails the Job


# Ray


RAY = """#!{python}
import shlex, subprocess, sys
words = sys.argv[1:]
behind = words.index("--")
with open({calls!r}, "a") as calls:
    print(*words[:behind], file=calls)
# Ray hands the words to a shell on the head node, joined as Windows would, and makes 1 of every failure.
sys.exit(1 if subprocess.run(subprocess.list2cmdline(words[behind + 1 :]), shell=True).returncode else 0)
"""


def submitted(tmp_path: Path, *words: str, **environment: str) -> tuple["subprocess.CompletedProcess[str]", list[str]]:
    """ray_job.sh with a stand-in for `ray`, and what that was called with."""
    slurm = Slurm(tmp_path)
    program = tmp_path / "venv" / "bin" / "ray"
    program.write_text(RAY.format(python=sys.executable, calls=str(tmp_path / "ray")))
    program.chmod(0o755)
    done = subprocess.run(
        ["bash", str(CLUSTER / "ray_job.sh"), *words], cwd=tmp_path, env=slurm.environment | environment,
        capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    return done, (tmp_path / "ray").read_text().splitlines()


def test_the_ray_script_hands_in_extract_and_stops_where_that_fails(tmp_path: Path) -> None:
    # Nobody listens there; without ray installed it is another line.
    done, calls = submitted(tmp_path, "/no such/shards/", RUNTIME_ENV='{"pip": ["av"]}', RAY_ADDRESS="127.0.0.1:1")
    assert done.returncode == 1
    assert re.match(r"Error: (Ray cluster 127\.0\.0\.1:1: cannot be used|.*pip install)", done.stderr), done.stderr
    assert calls == ['job submit --runtime-env-json {"pip": ["av"]}']  # and no finalize behind it


def ray_program() -> str:
    """The command `ray`; skips where it is not installed."""
    program = shutil.which("ray", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if program is None:
        pytest.skip("ray is not installed")
    return program


def test_the_options_of_ray_in_the_script_exist() -> None:
    told = subprocess.run(
        [ray_program(), "job", "submit", "--help"], capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    text = (CLUSTER / "ray_job.sh").read_text(encoding="utf-8")
    (line,) = re.findall(r"^ +ray job submit (.*) -- \"\$@\"$", text, flags=re.MULTILINE)
    options = re.findall(r"--[a-z-]+", line)
    assert options == ["--runtime-env-json"]
    for option in options:
        assert f"{option} " in told.stdout


def planned_and_submitted(clip: Path, folder: Path, address: str) -> list[str]:
    """How `ray` was called for a plan of three parts in `folder`/shards that the cluster at `address` does."""
    shards = folder / "shards"
    plan = f"plan --clip {CLIP} --video {clip} --parts 3 --frames-per-shard 8 --out {shards}".split()
    made = subprocess.run(
        [sys.executable, "-m", "infraredcity", *plan], capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert made.returncode == 0, made.stderr
    done, calls = submitted(folder, str(shards), RAY_ADDRESS=address)
    assert done.returncode == 0, done.stderr
    return calls


@pytest.mark.slow
def test_the_ray_script_extracts_and_merges_on_a_cluster(shelf: Shelf, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = f"--num-cpus=1 --port={port} --min-worker-port=0 --max-worker-port=0 --include-dashboard=false"
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryDirectory(
        prefix="r-"
    ) as short:  # Ray's sockets lie below it, and a name has 107 bytes of room
        words = [
            "start",
            "--head",
            "--block",
            *options.split(),
            "--object-store-memory=80000000",
            f"--temp-dir={short}",
        ]
        with started([ray_program(), *words], env=environment, stdout=subprocess.PIPE) as head:
            try:
                assert head.stdout is not None
                assert any("block forever" in line for line in head.stdout)
                calls = planned_and_submitted(shelf.gray, tmp_path, f"127.0.0.1:{port}")
            finally:
                head.terminate()
                head.wait(timeout=PATIENCE_S)
    assert calls == ["job submit --runtime-env-json {}"] * 2
    extract_clip(clip_of(shelf.gray, CLIP), ExtractConfig(frames_per_shard=8), tmp_path / "one", workers=0)
    assert changed(tree(tmp_path / "shards"), tree(tmp_path / "one")) == []
