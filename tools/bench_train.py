"""How fast a training step is beside the authors' way: `python tools/bench_train.py --json FILE [--quick] [--rounds 3]`.

One step of the preset `roma`: a pair of 256x256 frames of each domain, 64 windows of 7x7, ViT-B/16 at 384 with random weights.

reference            the step as the authors' code computes it, in fp32
plain                the clean step without further ideas, in fp32; tools/bench_train_reference.py has both
ours, ours-bf16      `roma.training.step.Trainer.step` with precision fp32 and bf16
ours-compiled, ours-bf16-compiled      the same with compute.compile, on CUDA

Every variant is a process of its own, which is asked by a pipe and otherwise sleeps. All start from the same weights and take
the same batch, which comes from shards through our loader, with the same window centres. Step 0 of each is compared with the
reference's: losses, and gradients without the generator's biases in front of an instance norm, whose true gradient is zero.
Then a round times one step of every variant after one to warm up, the next round in the opposite order; ratios are taken within
a round, their medians are printed. The numbers of operations come last, from torch's counter; a backward of fused attention
counts what it computes again. Peak memory of a CPU process is the VmHWM of its /proc status: all that was ever resident at
once, torch and the weights included. Of CUDA it is `max_memory_allocated`.

On CUDA the variants run one after another, a batch size after another until memory is full, ten steps a round after three to
warm up. "used" is the share of the largest bf16 matrix rate measured here that the method's own operations, those of `plain`,
amount to.

Last, the fastest of ours trains some steps from the shards and says which share of its time it waited for them.

--data takes shards of your own: a folder of make-lite (infrared-train, visible-train), or a source for each domain. --small
takes tiny networks and frames, to try the script. --set changes a setting in every variant; the reference knows none of
`compute`. --curve trains ours in fp32 and in bf16 over the same batches and draws both into FILE with the ending .png. Every
figure is in FILE, the last line sums up against the goals, which are meant for two cores.
"""

import argparse
import ctypes
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench_extract import say, seamless, texture
from measure import CHECKOUT, interruptible, machine_facts, machine_line, megabytes, run, table

from infraredcity.shards import index_file

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from roma.config.schema import TrainConfig
    from roma.data.batches import TrainBatch

FORMAT = "infraredcity-bench-train-1"
MADE_FRAMES = 64
"""In each domain of the shards that are made."""
CURVE_STEPS = 500
BATCH_SIZES = {"cpu": (1,), "cuda": (1, 4, 16, 32, 64, 128, 256)}
CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16")
SMALL = (
    "data.load_size_px=36",
    "data.crop_size_px=32",
    "generator.width=4",
    "generator.num_blocks=2",
    "vit.image_size=48",
    "vit.patch_size=6",
    "vit.width=32",
    "vit.depth=3",
    "vit.num_heads=2",
    "vit.layers=[0, 1]",
    "loss.window=3",
    "loss.num_windows=8",
    "loss.region_sizes=[2, 4]",
)
"""Settings of --small: a grid of 8x8 patches."""

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A way to compute the step.

    Attributes:
        name: Its row in the table.
        settings: What it changes in the config.
        counted_as: The variant whose operations are the same and can be counted.
        on_cpu: Whether it runs there too, unless it is asked for.
    """

    name: str
    settings: tuple[str, ...] = ()
    counted_as: str
    on_cpu: bool = True

    @property
    def is_ours(self) -> bool:
        """Whether our trainer takes the step."""
        return self.name.startswith("ours")


BF16, COMPILED = "precision=bf16", "compute.compile=true"
VARIANTS = (
    Variant(name="reference", counted_as="reference"),
    Variant(name="plain", counted_as="plain"),
    Variant(name="ours", counted_as="ours"),
    Variant(name="ours-bf16", settings=(BF16,), counted_as="ours-bf16"),
    Variant(name="ours-compiled", settings=(COMPILED,), counted_as="ours", on_cpu=False),
    Variant(name="ours-bf16-compiled", settings=(BF16, COMPILED), counted_as="ours-bf16", on_cpu=False),
)
BY_NAME = {variant.name: variant for variant in VARIANTS}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is asked for.

    Attributes:
        variants: Names, in the order of `VARIANTS`.
        device: "cpu" or "cuda".
        sources: Shards of the infrared and of the visible domain.
        settings: `--set` of every variant.
        batch_sizes: Windows in a step.
        rounds: How often everything is timed.
        steps: Steps that are timed in a round, whose mean counts.
        warm_up: Steps before them.
        wait_steps: Steps of the run that waits for data.
        curve_steps: Steps of the curves; 0 draws none.
    """

    variants: tuple[str, ...]
    device: str
    sources: tuple[str, str]
    settings: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    rounds: int
    steps: int
    warm_up: int
    wait_steps: int
    curve_steps: int


def main() -> None:
    """Parse, make shards if there are none, measure in rounds, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, required=True, help="file for every single measurement")
    parser.add_argument("--quick", action="store_true", help="one round, for a quick look")
    parser.add_argument("--rounds", type=int, help="3, or 1 with --quick")
    parser.add_argument(
        "--data", nargs="+", metavar="SOURCE", help="a folder of make-lite, or infrared and visible shards"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--variants", help=f"some of {','.join(BY_NAME)}; all that fit the device if left out")
    parser.add_argument("--batches", help="batch sizes on CUDA, such as 1,4,16; one window on a CPU")
    parser.add_argument("--small", action="store_true", help="tiny networks and frames, to try the script")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of every variant")
    parser.add_argument(
        "--curve", type=int, nargs="?", const=CURVE_STEPS, default=0, metavar="STEPS",
        help=f"draw the losses of fp32 beside bf16 over so many steps, {CURVE_STEPS} if no number is named",
    )  # fmt: skip
    arguments = parser.parse_args()
    rounds = arguments.rounds if arguments.rounds is not None else 1 if arguments.quick else 3
    named = arguments.variants.split(",") if arguments.variants else default_variants(arguments.device)
    sizes = arguments.batches.split(",") if arguments.batches else BATCH_SIZES[arguments.device]
    if rounds < 1 or arguments.curve < 0 or len(arguments.data or "1") > 2:
        parser.error("--rounds must be at least 1, --curve at least 0, --data takes one folder or two sources")
    if unknown := [name for name in named if name not in BY_NAME]:
        parser.error(f"--variants: there is no {unknown[0]!r}; there are {', '.join(BY_NAME)}")
    if not all(str(size).isdecimal() and int(size) for size in sizes):
        parser.error(f"--batches: expected numbers such as 1,4,16, got {arguments.batches}")
    settings = ("vit.weights=random", *(SMALL if arguments.small else ()), *arguments.set)
    side_px = checked_side_px(settings)
    on_cuda = arguments.device == "cuda"
    with interruptible("bench_train.py"), tempfile.TemporaryDirectory(prefix="bench-train-") as folder:
        plan = Plan(
            variants=tuple(name for name in BY_NAME if name in named),
            device=arguments.device,
            sources=sources_of(arguments.data) if arguments.data else make_shards(Path(folder), side_px),
            settings=settings,
            batch_sizes=tuple(map(int, sizes)),
            rounds=rounds,
            steps=10 if on_cuda else 1,
            warm_up=3 if on_cuda else 1,
            wait_steps=100 if on_cuda else 2 if arguments.quick else 5,
            curve_steps=arguments.curve,
        )
        result = bench(plan, Path(folder))
    result = {**result, "small": arguments.small, "made_data": not arguments.data}
    result["summary"] = f"{'small networks: ' if arguments.small else ''}{summary(result['goals'])}"
    from infraredcity.files.atomic import write_atomic

    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(arguments.json, (json.dumps(result, indent=1) + "\n").encode())
    if plan.curve_steps and not any("missing" in curves for curves in result["curve"].values()):
        write_atomic(arguments.json.with_suffix(".png"), picture_of(result["curve"]))
    print_result(result)


def checked_side_px(settings: Sequence[str]) -> int:
    """The side of the frames that are read; an error ends the program where the reference does not know a setting."""
    from roma.config.compare import departures
    from roma.errors import ConfigError

    try:
        config = config_of(BY_NAME["ours"], settings, ("none", "none"), batch_size=1)
    except ConfigError as error:
        sys.exit(f"Error: {error}")
    unknown = [text for text in departures(config) if text != "vit.weights random"]
    others = {
        "mode": (config.mode, "video"),
        "precision": (config.precision, "fp32"),
        "loss.reference_pooling": (config.loss.reference_pooling, False),
        "loss.reference_temporal": (config.loss.reference_temporal, False),
        "vit.num_prefix_tokens": (config.vit.num_prefix_tokens, 1),
        "vit.normalisation": (config.vit.normalisation, "half"),
        "optim.clip_norm": (config.optim.clip_norm, 0),
    }
    unknown += [f"{name} {found}" for name, (found, known) in others.items() if found != known]
    if unknown:
        sys.exit(
            f"Error: --set: the reference takes the published step alone, not {', '.join(unknown)}; leave that out"
        )
    return config.data.load_size_px


def default_variants(device: str) -> list[str]:
    """What runs on a device unless something is asked for."""
    return [variant.name for variant in VARIANTS if variant.on_cpu or device == "cuda"]


def sources_of(data: Sequence[str]) -> tuple[str, str]:
    """Infrared and visible shards from one folder of make-lite or from two sources."""
    if len(data) == 2:
        return data[0], data[1]
    folder = Path(data[0])
    found = [folder / name for name in ("infrared-train", "visible-train")]
    if missing := [path for path in found if not path.is_dir()]:
        sys.exit(f"Error: {missing[0]}: no such folder; name a folder of make-lite, or infrared and visible shards")
    return str(found[0] / "*.tar"), str(found[1] / "*.tar")


def bench(plan: Plan, folder: Path) -> dict[str, Any]:
    """Everything that is measured, as plain values."""
    machine = machine_facts()
    say("the matrix rate")
    machine |= torch_facts(plan.device)
    rates = machine.pop("matrix_gflop_per_s")
    rows: dict[tuple[str, int], Row] = {}
    for group in groups(plan):
        rows |= measured_group(plan, group, rows, folder)
    add_counts(plan, rows)
    compare(rows, folder, rates)
    waiting = measured_waiting(plan, rows, folder)
    curve = measured_curves(plan, folder) if plan.curve_steps else None
    machine["load_average_after"] = os.getloadavg()[0]
    ours = {name: rows.get((name, plan.batch_sizes[0]), {}) for name in ("ours", "ours-bf16")}
    return {
        "format": FORMAT,
        "machine": machine,
        "device": plan.device,
        "settings": plan.settings,
        "rounds": plan.rounds,
        "matrix_gflop_per_s": rates,
        "variants": list(rows.values()),
        "waiting": waiting,
        "curve": curve,
        "goals": goals(ours["ours"], ours["ours-bf16"], waiting),
    }


def groups(plan: Plan) -> list[list[tuple[str, int]]]:
    """Which (variant, batch size) are there at the same time: on a GPU, whose memory each may fill, only one."""
    if plan.device == "cpu":
        return [[(name, size) for name in plan.variants] for size in plan.batch_sizes]
    return [[(name, size)] for size in plan.batch_sizes for name in plan.variants]


def measured_group(
    plan: Plan, group: list[tuple[str, int]], before: dict[tuple[str, int], Row], folder: Path
) -> dict[tuple[str, int], Row]:
    """The rows of variants that live side by side."""
    rows: dict[tuple[str, int], Row] = {}
    with ExitStack() as stack:
        children: dict[tuple[str, int], Child] = {}
        for name, size in group:
            row: Row = {"variant": name, "batch_size": size, "seconds": []}
            smaller = [each for (other, _), each in before.items() if other == name and "missing" in each]
            if smaller:
                row["missing"] = f"did not run at {smaller[0]['batch_size']} windows"
            else:
                child = stack.enter_context(Child(plan, name, size, folder))
                say(f"{name}, {size}: step 0")
                row |= child.ask("first")
                children[name, size] = child
            rows[name, size] = row
        for number in range(plan.rounds):
            say(f"round {number + 1} of {plan.rounds}")
            for place, child in list(children.items())[:: 1 if number % 2 == 0 else -1]:
                answer = child.ask("time", steps=plan.steps, warm_up=plan.warm_up)
                rows[place]["seconds"].append(answer.pop("seconds", None))
                rows[place] |= answer
        for (name, size), child in children.items():
            if size == plan.batch_sizes[0] and BY_NAME[name].counted_as == name:
                say(f"{name}: counting operations")
                rows[name, size] |= {
                    key: value for key, value in child.ask("flops").items() if key in ("gflop", "missing")
                }
    for place, row in rows.items():
        if "missing" in row:
            say(f"{place[0]}, {place[1]}: {row['missing']}")
    return rows


def add_counts(plan: Plan, rows: dict[tuple[str, int], Row]) -> None:
    """Fill in "gflop" from where it was counted; it grows with the batch."""
    first = plan.batch_sizes[0]
    for (name, size), row in rows.items():
        counted = rows.get((BY_NAME[name].counted_as, first), {}).get("gflop")
        if counted is not None:
            row["gflop"] = counted * size / first
        model = rows.get(("plain", first), {}).get("gflop")
        row["model_gflop"] = None if model is None else model * size / first


def compare(rows: dict[tuple[str, int], Row], folder: Path, rates: Row) -> None:
    """Fill in medians, and how each row stands beside the reference at the same batch size."""
    for (_, size), row in rows.items():
        reference = rows.get(("reference", size), {})
        seconds = [value for value in row["seconds"] if value is not None]
        if seconds:
            row["median_s"] = statistics.median(seconds)
            row["images_per_s"] = size * 2 / row["median_s"]
            row["gflop_per_s"] = row["gflop"] / row["median_s"] if "gflop" in row else None
            if row["model_gflop"] is not None:
                row["used"] = row["model_gflop"] / row["median_s"] / rates["bf16"]
            row["by_reference"] = median(
                theirs / ours
                for ours, theirs in zip(row["seconds"], reference.get("seconds", []), strict=False)
                if ours is not None and theirs is not None
            )
        if "peak_bytes" in row and "peak_bytes" in reference:
            row["memory_by_reference"] = row["peak_bytes"] / reference["peak_bytes"]
        if "losses" in row and "losses" in reference:
            row["agreement"] = agreement(row, reference, folder)


def agreement(row: Row, reference: Row, folder: Path) -> dict[str, float]:
    """Largest relative differences of losses and of gradient norms, and of the gradients themselves, at step 0."""
    import torch

    def apart(group: str) -> float:
        found = [abs(row[group][name] - value) / abs(value) for name, value in reference[group].items()]
        return max(math.inf if math.isnan(each) else each for each in found)

    ours, theirs = (torch.load(folder / each["gradients"], weights_only=True) for each in (row, reference))
    distances = [float((ours[name] - value).norm() / value.norm()) for name, value in theirs.items()]
    return {"losses": apart("losses"), "grad_norms": apart("grad_norms"), "gradients": max(distances)}


def measured_waiting(plan: Plan, rows: dict[tuple[str, int], Row], folder: Path) -> Row:
    """Which share of its time the fastest of ours waits for data; {} where none ran."""
    ran = {place: row["images_per_s"] for place, row in rows.items() if BY_NAME[place[0]].is_ours and "median_s" in row}
    if not ran:
        return {}
    name, size = max(ran, key=lambda place: ran[place])
    say(f"{name}, {size}: training from shards")
    with Child(plan, name, size, folder) as child:
        return {"variant": name, "batch_size": size, **child.ask("wait", steps=plan.wait_steps)}


def measured_curves(plan: Plan, folder: Path) -> dict[str, Any]:
    """Losses of each step of ours in fp32 and bf16 over the same batches."""
    curves = {}
    for name in ("ours", "ours-bf16"):
        say(f"{name}: {plan.curve_steps} steps")
        with Child(plan, name, plan.batch_sizes[0], folder) as child:
            curves[name] = child.ask("curve", steps=plan.curve_steps)
    return curves


class Child:
    """A process that computes one variant when it is asked to, and ends with the block.

    Args:
        plan: The whole benchmark.
        name: The variant.
        batch_size: Windows in its step.
        folder: Where it leaves files.
    """

    def __init__(self, plan: Plan, name: str, batch_size: int, folder: Path) -> None:
        job = {
            "variant": name, "batch_size": batch_size, "device": plan.device, "settings": plan.settings,
            "sources": plan.sources, "folder": str(folder),
        }  # fmt: skip
        self._missing = ""
        self._process = subprocess.Popen(
            [sys.executable, "-c", "import bench_train; bench_train.serve()", json.dumps(job)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            start_new_session=True,  # Ctrl-C is for the parent, which ends it
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(CHECKOUT), str(CHECKOUT / "tools")])},
        )  # fmt: skip

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def ask(self, command: str, **options: int) -> Row:
        """What the process answers, or {"missing": why it does not}, then and from then on."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        if self._missing:
            return {"missing": self._missing}
        try:
            print(json.dumps({"command": command, **options}), file=stdin, flush=True)
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        answer: Row = json.loads(line) if line else {"missing": f"{command}: ended with code {self._process.wait()}"}
        self._missing = answer.get("missing", "")
        return answer


def torch_facts(device: str) -> Row:
    """What a time depends on, as torch sees it in a fresh process."""
    ran = run(sys.executable, "-c", f"import bench_train; bench_train.print_torch_facts({device!r})")
    if ran.code:
        sys.exit(f"Error: torch on {device}: {next(iter(ran.stderr.strip().splitlines()[-1:]), 'nothing said')}")
    facts: Row = json.loads(ran.stdout.strip().splitlines()[-1])
    return facts


def print_torch_facts(device: str) -> None:
    """Print versions, threads, what the processor can do, and how fast it multiplies."""
    import torch

    from roma.world.world import use_threads

    use_threads()
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    flags = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "").split()
    facts: Row = {"torch": torch.__version__, "threads": torch.get_num_threads(),
                  "cpu_flags": [flag for flag in CPU_FLAGS if flag in flags]}  # fmt: skip
    if device == "cuda":
        if not torch.cuda.is_available():
            sys.exit("torch finds no CUDA device here; use --device cpu or a CUDA build of torch")
        facts |= {"gpu": torch.cuda.get_device_name(), "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
                  "tf32_convolution": torch.backends.cudnn.allow_tf32}  # fmt: skip
    print(json.dumps({**facts, "matrix_gflop_per_s": matrix_rates(device)}))


def matrix_rates(device: str) -> dict[str, float]:
    """The best 10^9 operations per second of square matrix products, by precision."""
    import torch

    sides = (4096, 8192, 16384) if device == "cuda" else (1024, 2048)
    rates = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        best = 0.0
        for side in sides:
            left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
            for _ in range(4):
                seconds = timed_s(lambda left=left, right=right: left @ right, device)
                best = max(best, 2e-9 * side**3 / seconds)
        rates[name] = best
    return rates


def serve() -> None:
    """Answer the questions that come by stdin, one a line, until it ends."""
    import torch

    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    bench: Bench | None = None
    for line in sys.stdin:
        question = json.loads(line)
        command = question.pop("command")
        try:
            if bench is None:
                bench = Bench(**json.loads(sys.argv[1]))
            answer = getattr(bench, command)(**question)
            give_back_memory()
        except torch.OutOfMemoryError:
            answer = {"missing": f"{command}: the GPU's memory is full"}
        print(json.dumps(answer), file=answers, flush=True)


def give_back_memory() -> None:
    """Let the system have what glibc keeps for the next step, which is most of a step's memory: others need it meanwhile."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Bench:
    """One variant inside its process: the networks, and the batch that every step takes again.

    Args:
        variant: Its name.
        batch_size: Windows in a step.
        device: "cpu" or "cuda".
        settings: As in `Plan`.
        sources: As in `Plan`.
        folder: Where files go.
    """

    def __init__(
        self, *, variant: str, batch_size: int, device: str, settings: list[str], sources: list[str], folder: str
    ) -> None:
        import torch
        from bench_train_reference import PlainStep, ReferenceStep

        from roma.data.batches import open_domains, train_batches
        from roma.training.networks import build_networks
        from roma.training.step import Trainer
        from roma.world.memory import keep_freed_memory
        from roma.world.world import World, use_threads

        use_threads()
        if variant.startswith("ours"):
            keep_freed_memory()  # as roma/train.py does
        self.name = f"{variant}-{batch_size}"
        self.folder = Path(folder)
        self.config = config_of(BY_NAME[variant], settings, sources, batch_size=batch_size)
        self.device = torch.device(device)
        self.world = World(rank=0, world_size=1, device=self.device)
        self.networks = build_networks(self.config, self.device)
        self.take: Callable[[TrainBatch], dict[str, Tensor]]
        if BY_NAME[variant].is_ours:
            trainer = Trainer(self.config, self.networks, self.world)
            self.take = lambda batch: trainer.step(batch, lr_factor=1.0).losses
        elif variant == "reference":
            self.take = ReferenceStep(self.config, self.networks).step
        else:
            self.take = PlainStep(self.config, self.networks).step
        domains = open_domains(self.config)
        try:
            batches = train_batches(domains, self.config, self.world, start_step=0)
            self.batch = next(batches)
            batches.close()
        finally:
            domains.close()
        self._next_step = 0

    def first(self) -> Row:
        """Take step 0: its losses, and its gradients in a file."""
        import torch
        from bench_train_reference import gradients

        losses: dict[str, Tensor] = {}
        seconds = timed_s(lambda: losses.update(self._step()), str(self.device))
        found = gradients(self.networks)
        torch.save(found, self.folder / f"{self.name}.pt")
        return {
            "first_s": seconds,
            "losses": {name: float(value) for name, value in losses.items()},
            "grad_norms": {name: float(vector.norm()) for name, vector in found.items()},
            "gradients": f"{self.name}.pt",
            **self._memory(),
        }

    def time(self, *, steps: int, warm_up: int) -> Row:
        """Take steps: seconds for each."""
        for _ in range(warm_up):
            self._step()
        seconds = timed_s(lambda: [self._step() for _ in range(steps)], str(self.device))
        return {"seconds": seconds / steps, **self._memory()}

    def flops(self) -> Row:
        """Take a step: its 10^9 operations."""
        import torch
        from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

        def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
            return int(sdpa_flop_count(query, key, value))

        def attention_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
            return int(sdpa_backward_flop_count(grad, query, key, value))

        # The counter does not know torch's attention for CPUs.
        aten = torch.ops.aten
        cpu_attention = {
            aten._scaled_dot_product_flash_attention_for_cpu: attention,
            aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
        }
        with FlopCounterMode(display=False, custom_mapping=cpu_attention) as counter:
            self._step()
        return {"gflop": counter.get_total_flops() / 1e9}

    def wait(self, *, steps: int) -> Row:
        """Train from shards: the share of the time that the trainer waited, and what the loader's own monitor says.

        The monitor counts the first batch too, before which nothing can be ready.
        """
        from infraredcity.loader import Monitor, monitor

        folder = self.folder / "loader"
        waited_s, begun = 0.0, 0.0
        for number, (waited, batch) in enumerate(self._batches(steps + 1, Monitor(folder, interval_s=0.0))):
            if number == 1:
                begun = time.perf_counter() - waited
            waited_s += waited if number else 0.0
            float(self.take(batch)["generator_total"])
        elapsed_s = time.perf_counter() - begun
        ((_, facts),) = monitor.read(folder)
        return {"steps": steps, "wait_share": waited_s / elapsed_s, "monitor_wait_share": facts.wait_share,
                "steps_per_s": steps / elapsed_s}  # fmt: skip

    def curve(self, *, steps: int) -> Row:
        """Train from shards: the losses of every step, by name."""
        curves: dict[str, list[float]] = {}
        for _, batch in self._batches(steps, None):
            for name, value in self.take(batch).items():
                curves.setdefault(name, []).append(float(value))
        return curves

    def _batches(self, steps: int, monitor: Any) -> "Iterator[tuple[float, TrainBatch]]":
        """(seconds waited, batch) of steps 0 and on."""
        from roma.data.batches import open_domains, train_batches

        domains = open_domains(self.config)
        try:
            batches = train_batches(domains, self.config, self.world, start_step=0, monitor=monitor)
            for _ in range(steps):
                begun = time.perf_counter()
                batch = next(batches)
                yield time.perf_counter() - begun, batch
            batches.close()
        finally:
            domains.close()

    def _step(self) -> "dict[str, Tensor]":
        """The next step with the same frames and its own window centres."""
        step, self._next_step = self._next_step, self._next_step + 1
        return self.take(replace(self.batch, step=step))

    def _memory(self) -> Row:
        import torch

        if self.device.type == "cuda":
            return {"peak_bytes": torch.cuda.max_memory_allocated()}
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return {"peak_bytes": int(status["VmHWM"].split()[0]) * 1024}


def timed_s(work: Callable[[], object], device: str) -> float:
    """Seconds that it takes, on a GPU until it has done everything."""
    import torch

    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    begun = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - begun


def config_of(variant: Variant, settings: Iterable[str], sources: Sequence[str], *, batch_size: int) -> "TrainConfig":
    """The run of which a variant takes steps."""
    from roma.config.overlay import resolve

    infrared, visible = (
        f"data.{name}={json.dumps([source])}" for name, source in zip(("infrared", "visible"), sources, strict=True)
    )
    every = [*settings, *variant.settings, f"batch_size={batch_size}", infrared, visible]
    return resolve("roma", mode="video", config_file=None, settings=every)


def make_shards(folder: Path, side_px: int) -> tuple[str, str]:
    """Shards of a camera panning over natural texture, gray and in colour; their patterns."""
    import numpy as np

    from infraredcity.shards import index
    from infraredcity.shards.writer import open_shard
    from infraredcity.stills.formats import encode

    found = []
    for clip_id, channels in (("made_night", 1), ("made_day", 3)):
        random = np.random.default_rng(channels)
        planes = [texture(random, 1024, 512, contrast=40.0) for _ in range(channels)]
        shards = folder / clip_id
        shards.mkdir()
        with open_shard(shards, f"bench-{clip_id}-000000.tar", image_format="jpg") as handle:
            for number in range(MADE_FRAMES):
                frame = np.stack([seamless(plane, 4 * number, number, side_px, side_px) for plane in planes], axis=2)
                facts = {"clip": clip_id, "frame_index": number, "pts": number, "width": side_px, "height": side_px}
                jpg = encode(frame.clip(0, 255).astype(np.uint8), "jpg")
                handle.writer.add(clip_id, number, number, jpg, json.dumps(facts).encode(), size_px=(side_px, side_px))
        assert handle.info is not None
        one_run = np.zeros(MADE_FRAMES, np.int32)
        written = [(handle.info, handle.writer.entries)]
        index_file.save(
            index.from_entries(clip_id=clip_id, frame_step=1, image_format="jpg", shards=written, run_ids=one_run),
            shards,
        )
        found.append(str(shards / "*.tar"))
    return found[0], found[1]


def picture_of(curves: dict[str, dict[str, list[float]]]) -> bytes:
    """A png with a panel for each loss: fp32 in blue, bf16 in orange, each as the mean of its last 20 steps."""
    import cv2
    import numpy as np

    from infraredcity.stills.formats import encode

    width, height, margin = 640, 240, 24
    panels = []
    for name in curves["ours"]:
        panel = np.full((height, width, 3), 255, np.uint8)
        smooth = [running_mean(np.array(curve[name]), 20) for curve in (curves["ours"], curves["ours-bf16"])]
        low, high = min(map(np.min, smooth)), max(map(np.max, smooth))
        for values, color in zip(smooth, ((31, 97, 180), (230, 120, 20)), strict=True):
            x = np.linspace(margin, width - margin, len(values))
            y = height - margin - (values - low) / max(high - low, 1e-12) * (height - 2 * margin)
            cv2.polylines(panel, [np.stack([x, y], axis=1).round().astype(np.int32)], False, color, 1, cv2.LINE_AA)
        label = f"{name}: {low:.4g} to {high:.4g}"
        cv2.putText(panel, label, (margin, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        panels.append(panel)
    return encode(np.concatenate(panels), "png")


def running_mean(values: "np.ndarray", count: int) -> "np.ndarray":
    """The mean of each value and of those before it, `count` at most."""
    import numpy as np

    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(sums))
    starts = np.maximum(ends - count, 0)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))


def median(values: Iterable[float]) -> float | None:
    """None of none."""
    there = list(values)
    return statistics.median(there) if there else None


def goals(ours: Row, bf16: Row, waiting: Row) -> list[dict[str, Any]]:
    """Each goal with its figure (None: not measured) and whether it is met."""
    apart = ours.get("agreement", {})
    factor, percent, power = "{:.2f}x".format, "{:.1%}".format, "{:.0e}".format
    figures: list[tuple[str, float | None, str, float, Callable[[float], str]]] = [
        ("ours {} reference", ours.get("by_reference"), ">=", 2.2, factor),
        ("memory {} of reference", ours.get("memory_by_reference"), "<=", 0.45, percent),
        ("losses within {}", apart.get("losses"), "<=", 1e-5, power),
        ("gradient norms within {}", apart.get("grad_norms"), "<=", 1e-4, power),
        ("bf16 {} reference", bf16.get("by_reference"), ">=", 5.0, factor),
        ("waiting for data {}", waiting.get("wait_share"), "<=", 0.02, percent),
    ]
    found = []
    for what, figure, sign, target, shown in figures:
        is_met = figure is not None and (figure >= target if sign == ">=" else figure <= target)
        text = f"{what.format('not measured' if figure is None else shown(figure))} (goal {sign} {shown(target)})"
        found.append({"what": what.replace("{} ", "").replace(" {}", ""), "figure": figure, "target": target, "is_met": is_met,
                      "text": text})  # fmt: skip
    return found


def summary(found: list[dict[str, Any]]) -> str:
    """One line about everything that was measured."""
    parts = [
        goal["text"] if goal["is_met"] else f"MISSED {goal['text']}" for goal in found if goal["figure"] is not None
    ]
    left_out = sum(goal["figure"] is None for goal in found)
    note = f", {left_out} not measured" if left_out else ""
    met = sum(goal["is_met"] for goal in found)
    return f"train: {met} of {len(found)} goals met{note}{': ' if parts else ''}{'; '.join(parts)}"


def print_result(result: dict[str, Any]) -> None:
    """The table, what could not run, and the summary as the last line."""
    rows = [shown_row(row) for row in result["variants"]]
    print(table(list(rows[0]), rows))
    print()
    for row in result["variants"]:
        if "missing" in row:
            print(f"not run: {row['variant']}, {row['batch_size']}: {row['missing']}")
    for name, curves in (result["curve"] or {}).items():
        if "missing" in curves:
            print(f"not drawn: {name}: {curves['missing']}")
    waiting = result["waiting"]
    if "wait_share" in waiting:
        print(
            f"{waiting['variant']} waits {waiting['wait_share']:.2%} of its time for data "
            f"({waiting['monitor_wait_share']:.2%} by the loader's monitor, with the first batch)"
        )
    rates, machine = result["matrix_gflop_per_s"], result["machine"]
    print(f"matrix products: {rates['fp32']:,.0f} GFLOP/s in fp32, {rates['bf16']:,.0f} in bf16")
    print(
        f"torch {machine['torch']}, {machine['threads']} threads, {' '.join(machine['cpu_flags'])} {machine.get('gpu', '')}"
    )
    print(machine_line(machine))
    print(result["summary"])


def shown_row(row: Row) -> dict[str, str]:
    """A row of the table as text."""

    def shown(value: float | None, pattern: str) -> str:
        return "-" if value is None or math.isnan(value) else pattern.format(value)

    apart = row.get("agreement", {})
    peak = row.get("peak_bytes")
    return {
        "variant": row["variant"],
        "batch": str(row["batch_size"]),
        "s/step": shown(row.get("median_s"), "{:.3f}"),
        "images/s": shown(row.get("images_per_s"), "{:.2f}"),
        "by reference": shown(row.get("by_reference"), "{:.2f}x"),
        "peak": "-" if peak is None else megabytes(peak),
        "of reference": shown(row.get("memory_by_reference"), "{:.0%}"),
        "GFLOP": shown(row.get("gflop"), "{:,.0f}"),
        "GFLOP/s": shown(row.get("gflop_per_s"), "{:,.0f}"),
        "used": shown(row.get("used"), "{:.0%}"),
        "losses": shown(apart.get("losses"), "{:.0e}"),
        "norms": shown(apart.get("grad_norms"), "{:.0e}"),
        "gradients": shown(apart.get("gradients"), "{:.0e}"),
    }


if __name__ == "__main__":
    main()
