"""The recipes for clusters: they parse, name options that exist, and do what their comments say, with stand-ins for the cluster."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from processes import PATIENCE_S, Start

from roma.cli.train import main as train_main
from roma.cli.train import train_command

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = ROOT / "tools" / "launch"
sys.path.insert(0, str(ROOT / "tests" / "distributed"))

from cluster import Cluster, check_positions, skip_reason, steps_in, train_words, wait_until  # noqa: E402

from tests.roma.conftest import write_shards  # noqa: E402

OPTIONS = {
    option: parameter
    for parameter in train_command.params
    if isinstance(parameter, click.Option)
    for option in (*parameter.opts, *parameter.secondary_opts)
}


def torchrun_options() -> set[str]:
    from torch.distributed.run import get_args_parser

    return {option for action in get_args_parser()._actions for option in action.option_strings}


def documents() -> dict[tuple[str, str], Any]:
    """The objects of the recipe for Kubernetes, by kind and name."""
    text = (LAUNCH / "kubernetes.yaml").read_text(encoding="utf-8")
    return {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(text)}


@pytest.mark.parametrize("name", ["slurm.sbatch", "ssh.sh"])
def test_shell_recipes_are_valid_bash(name: str) -> None:
    done = subprocess.run(["bash", "-n", str(LAUNCH / name)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["slurm.sbatch", "ssh.sh", "kubernetes.yaml"])
def test_every_option_in_a_recipe_exists(name: str) -> None:
    text = (LAUNCH / name).read_text(encoding="utf-8").replace("\\\n", " ")
    launched = torchrun_options()
    found = set()
    for command in re.findall(r"(?:torch\.distributed\.run|- torchrun)(.*?)roma/train\.py(.*?)(?:resources:|&$|^END$|\Z)", text,
                              flags=re.DOTALL | re.MULTILINE):  # fmt: skip
        before, after = ("\n".join(line.partition(" #")[0] for line in part.splitlines()) for part in command)
        for option in re.findall(r"(--[a-z][a-z-]+)", before):
            assert option in launched, option
        for option in re.findall(r"(--[a-z][a-z-]+)", after):
            assert option in OPTIONS, option
            found.add(option)
    examples = re.findall(r"^# +(.*roma-multi.*)$", text, flags=re.MULTILINE)
    for option in (option for line in examples for option in re.findall(r"(--[a-z][a-z-]+)", line)):
        assert option in OPTIONS, option
        found.add(option)
    assert {"--preset", "--infrared", "--visible", "--out", "--set"} <= found


def test_kubernetes_objects_fit_together() -> None:
    found = documents()
    assert {kind: each["apiVersion"] for (kind, _), each in found.items()} == {
        "Deployment": "apps/v1", "Service": "v1", "Job": "batch/v1",
    }  # fmt: skip
    job = found["Job", "roma"]["spec"]
    pod = job["template"]["spec"]
    words = pod["containers"][0]["command"]
    assert job["completionMode"] == "Indexed"
    assert job["completions"] == job["parallelism"] == 2
    assert "--nnodes=1:2" in words
    # The headless service is the pods' subdomain and selects them by the label that the Job gives them.
    headless = found["Service", "roma"]["spec"]
    assert headless["clusterIP"] == "None"
    assert headless["selector"] == {"job-name": "roma"}
    assert pod["subdomain"] == "roma"
    # The rendezvous is the port of the service before the pod that keeps it.
    store = found["Deployment", "roma-rendezvous"]["spec"]
    service = found["Service", "roma-rendezvous"]["spec"]
    assert service["selector"] == store["selector"]["matchLabels"] == store["template"]["metadata"]["labels"]
    kept = store["template"]["spec"]["containers"][0]
    assert kept["command"] == ["python", "tools/rendezvous.py", "--port", "29400"]
    assert [port["port"] for port in service["ports"]] == [port["containerPort"] for port in kept["ports"]] == [29400]
    assert "--rdzv-endpoint=roma-rendezvous:29400" in words
    assert (ROOT / "tools" / "rendezvous.py").is_file()
    mounts = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    variables = {variable["name"] for variable in pod["containers"][0]["env"]}
    assert {name for word in words for name in re.findall(r"\$\((\w+)\)", word)} <= variables


def test_the_train_options_of_the_kubernetes_recipe_are_accepted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = documents()["Job", "roma"]["spec"]["template"]["spec"]["containers"][0]["command"]
    options = words[words.index("roma/train.py") + 1 :]
    with pytest.raises(SystemExit) as ended:
        train_main([*options, f"--out={tmp_path}/run", "--dry-run"])
    # All but the data, which lies on that cluster.
    assert (ended.value.code, capsys.readouterr().err.count("no shard matches")) == (1, 1)


class Slurm:
    """Stand-ins for srun, scontrol and squeue, which write down how they were called."""

    def __init__(self, folder: Path, start_process: Start, srun: str) -> None:
        self.start_process = start_process
        self.calls = folder / "calls"
        self.programs = folder / "programs"
        self.programs.mkdir()
        note = f'echo "$(basename "$0") $*" >>{self.calls}\n'
        scripts = {
            "srun": note + srun,
            "scontrol": note + '[ "$1" != show ] || printf "node-7\\nnode-8\\n"',
            "squeue": "exit 1",
        }
        for name, body in scripts.items():
            (self.programs / name).write_text(f"#!/bin/bash\n{body}\n")
            (self.programs / name).chmod(0o755)

    def start(self, *options: str, seconds_left: int = 3600, **environment: str) -> "subprocess.Popen[str]":
        given = {
            "PATH": f"{self.programs}:{os.environ['PATH']}", "SLURM_JOB_ID": "55", "SLURM_NNODES": "2",
            "SLURM_JOB_NODELIST": "node-[7-8]", "SLURM_JOB_END_TIME": str(int(time.time()) + seconds_left),
        }  # fmt: skip
        return self.start_process(
            ["bash", LAUNCH / "slurm.sbatch", *options],
            env=given | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def called(self, program: str) -> list[str]:
        return [
            line.partition(" ")[2] for line in self.calls.read_text().splitlines() if line.startswith(f"{program} ")
        ]


def test_slurm_passes_options_and_the_time_that_is_left(start_process: Start, tmp_path: Path) -> None:
    slurm = Slurm(tmp_path, start_process, "exit 0")
    job = slurm.start("--preset", "tiny", "--out", "runs/a b", seconds_left=1000, SPARE_S="100", PROCESSES="4")
    _, said = job.communicate(timeout=PATIENCE_S)
    assert job.returncode == 0, said
    (call,) = slurm.called("srun")
    assert "--nnodes=2 --nproc-per-node=4" in call
    assert "--rdzv-endpoint=node-7:29400 --rdzv-id=55-0" in call
    assert "roma/train.py --preset tiny --out runs/a b --time-limit" in call
    limit = re.search(r"--time-limit (\d+)s", call)
    assert limit is not None
    assert 880 <= int(limit[1]) <= 900
    assert slurm.called("scontrol") == ["show hostnames node-[7-8]"]  # a run that is done is not queued again


def test_slurm_queues_again_what_ran_out_of_time(start_process: Start, tmp_path: Path) -> None:
    slurm = Slurm(tmp_path, start_process, "sleep 7; exit 0")
    job = slurm.start("--out", "run", seconds_left=106, SPARE_S="100")
    _, said = job.communicate(timeout=PATIENCE_S)
    assert job.returncode == 0, said
    assert slurm.called("scontrol")[-1] == "requeue 55"


def test_slurm_hands_on_sigterm_and_queues_again(start_process: Start, tmp_path: Path) -> None:
    slurm = Slurm(
        tmp_path,
        start_process,
        f"trap 'echo told >>{tmp_path}/calls; exit 143' TERM; touch {tmp_path}/runs; sleep 60 >/dev/null 2>&1 & wait",
    )
    job = slurm.start("--out", "run")
    wait_until((tmp_path / "runs").exists, what=lambda: "srun was not called")
    job.send_signal(signal.SIGTERM)
    _, said = job.communicate(timeout=PATIENCE_S)
    assert job.returncode == 0, said
    assert "told" in slurm.calls.read_text()
    assert slurm.called("scontrol")[-1] == "requeue 55"


def test_slurm_leaves_a_run_that_fails_at_once(start_process: Start, tmp_path: Path) -> None:
    slurm = Slurm(tmp_path, start_process, "exit 1")
    job = slurm.start("--out", "run")
    job.communicate(timeout=PATIENCE_S)
    assert job.returncode == 1
    assert slurm.called("scontrol") == ["show hostnames node-[7-8]"]


def test_slurm_queues_again_after_a_machine_was_lost_but_not_for_ever(start_process: Start, tmp_path: Path) -> None:
    slurm = Slurm(tmp_path, start_process, "exit 1")
    job = slurm.start("--out", "run", MIN_RUN_S="0")
    job.communicate(timeout=PATIENCE_S)
    assert slurm.called("scontrol")[-1] == "requeue 55"
    slurm.calls.unlink()
    job = slurm.start("--out", "run", MIN_RUN_S="0", SLURM_RESTART_COUNT="200")
    _, said = job.communicate(timeout=PATIENCE_S)
    assert job.returncode == 1
    assert said == "Error: queued again 200 times and still not done\n"


def test_slurm_says_when_the_time_is_too_short(start_process: Start, tmp_path: Path) -> None:
    job = Slurm(tmp_path, start_process, "exit 0").start("--out", "run", seconds_left=200)
    _, said = job.communicate(timeout=PATIENCE_S)
    assert job.returncode == 1
    assert said == "Error: --time leaves no time beside SPARE_S=300 s; raise one or lower the other\n"


def test_ssh_says_which_variable_it_needs() -> None:
    done = subprocess.run(["bash", str(LAUNCH / "ssh.sh")], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 1
    assert "set HOSTS to the machines that train" in done.stderr


def test_ssh_keeps_the_number_of_its_process_where_nobody_else_can_put_one(tmp_path: Path) -> None:
    # Stands for ssh and for the python of a host: the command runs here, and says where the number of its process lies.
    (tmp_path / "ssh").write_text('#!/bin/sh\nshift\nexec sh -c "$*"\n')
    (tmp_path / "python").write_text(
        '#!/bin/sh\ncase "$1" in -c) echo 127.0.0.1;; -m) stat -c "%n %a" "$(dirname "$TMPDIR"/*/pid)" >>"$FOLDERS"; '
        "[ $(wc -l <$FOLDERS) -gt 1 ];; *) exec sleep 30;; esac\n"
    )
    for name in ("ssh", "python"):
        (tmp_path / name).chmod(0o755)
    folders = tmp_path / "folders"
    given = {
        "HOSTS": "node-a", "ADDRESS": "127.0.0.1", "FOLDER": str(tmp_path), "PYTHON": str(tmp_path / "python"), "RETRY_S": "0",
        "SSH": str(tmp_path / "ssh"), "FOLDERS": str(folders), "TMPDIR": str(tmp_path / "tmp"), "PATH": os.environ["PATH"],
    }  # fmt: skip
    (tmp_path / "tmp").mkdir()
    done = subprocess.run(
        ["bash", str(LAUNCH / "ssh.sh"), "--out", "run"], env=given, capture_output=True, text=True, check=False,
        timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, second = folders.read_text().splitlines()
    assert first == second  # what a broken connection left is found again
    name, mode = first.split()
    assert Path(name).is_relative_to(tmp_path / "tmp")
    assert mode == "700"
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.skipif(skip_reason() != "", reason=skip_reason())
@pytest.mark.parametrize("ending", ["a lost process", "sigterm"])
def test_ssh_trains_on_two_hosts(tmp_path: Path, ending: str) -> None:
    write_shards(tmp_path / "infrared", "night", num_frames=20, channels=1, seed=1)
    write_shards(tmp_path / "visible", "day", num_frames=13, channels=3, seed=2)
    run = tmp_path / "run"
    train = train_words(tmp_path, run, "schedule.total_steps=40", options=["--timeout-s", "20"])[1:]
    with Cluster(tmp_path) as cluster:
        assert cluster.rendezvous is not None
        cluster.rendezvous.kill()  # the script keeps its own
        # Stands for ssh: runs the command in the namespace of that name, by a shell, as sshd does.
        fake = tmp_path / "ssh"
        fake.write_text(f'#!/bin/sh\nhost=$1; shift\nexec ip netns exec "$host-{cluster.tag}" sh -c "$*"\n')
        fake.chmod(0o755)
        hub = cluster.rendezvous
        given = {
            "HOSTS": "node-a node-b", "ADDRESS": hub.address, "FOLDER": str(ROOT), "PYTHON": sys.executable, "PROCESSES": "1",
            "RETRY_S": "1", "SSH": str(fake), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("TORCHELASTIC", "GLOO"))
        } | given
        with hub.log.open("ab") as said:
            process = subprocess.Popen(
                ["ip", "netns", "exec", hub.namespace, "bash", str(LAUNCH / "ssh.sh"), *train], cwd=ROOT, env=environment,
                stdout=said, stderr=said,
            )  # fmt: skip
        try:
            wait_until(lambda: steps_in(run)[-1:] >= [6], what=hub.said)
            if ending == "sigterm":
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=PATIENCE_S) != 0, hub.said()
                assert steps_in(run)[-1] < 40
                return
            found = subprocess.run(
                ["ip", "netns", "pids", cluster.nodes[1].namespace], capture_output=True, text=True, check=True
            )
            for number in found.stdout.split():
                os.kill(int(number), signal.SIGKILL)
            assert process.wait(timeout=PATIENCE_S) == 0, hub.said()
        finally:
            for node in (*cluster.nodes, hub):
                found = subprocess.run(
                    ["ip", "netns", "pids", node.namespace], capture_output=True, text=True, check=False
                )
                for number in found.stdout.split():
                    os.kill(int(number), signal.SIGKILL)
            process.wait(timeout=PATIENCE_S)
    check_positions(run, steps=40, batch_size=2)
    assert steps_in(run) == list(range(1, 41))
    assert "node-b: ended with exit code 137; starting again in 1 s" in hub.said()
