"""Define `roma train`, also the entry for torchrun: parse, build, run."""

import dataclasses
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
import torch

from infraredcity.command_line import FILE, FOLDER, exit_code_of
from infraredcity.errors import InfraredCityError
from infraredcity.loader import WindowReader
from roma.cli.options import check_domains, device_option, exit_code
from roma.config.overlay import resolve, to_json
from roma.config.presets import PRESETS
from roma.config.schema import TrainConfig
from roma.data.batches import open_domains
from roma.errors import RomaError
from roma.training import schedule
from roma.training.loop import Listeners
from roma.training.networks import build_networks
from roma.training.progress import ProgressLine, steps_text
from roma.training.run_folder import LOADER, LOGS, UNREADABLE_NAME
from roma.training.stopping import Stop, parse_duration
from roma.training.trainer import RunResult, check_settings, train
from roma.world.meet import TIMEOUT_S, joined
from roma.world.memory import keep_freed_memory
from roma.world.world import check_batch, rank_of_environment, use_threads

_OURS = ("roma", "infraredcity")

logger = logging.getLogger(__name__)


@click.command("train")
@click.option("--infrared", multiple=True, metavar="DATA",
              help="Shards or pictures of the infrared domain: a folder or a quoted pattern; may be repeated.")  # fmt: skip
@click.option("--visible", multiple=True, metavar="DATA", help="The same for the day visible domain.")
@click.option("--held-out", multiple=True, metavar="DATA",
              help="The same for infrared frames outside of training, for sample grids and the best checkpoint.")  # fmt: skip
@click.option(
    "--out", type=FOLDER, required=True, help="The run's folder; the same command continues where the run stopped."
)
@click.option("--preset", type=click.Choice(PRESETS),
              help="Preset that the config starts from.  [default: roma]")  # fmt: skip
@click.option("--mode", type=click.Choice(["video", "image"]),
              help="video: pairs of frames with the temporal loss; image: single frames.")  # fmt: skip
@click.option(
    "--config",
    "config_file",
    type=FILE,
    help="JSON file of settings that override the preset, such as a run's config.json.",
)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE",
              help="One setting that overrides both, such as optim.generator_lr=1e-4; roma settings lists all.")  # fmt: skip
@click.option("--max-steps", type=click.IntRange(1),
              help="Stop and save after this step; the same command without it continues.")  # fmt: skip
@click.option("--time-limit", metavar="DURATION",
              help="Stop and save after this time, such as 90m, 5h30m, 3600s or 05:30:00; the same command continues.")  # fmt: skip
@device_option
@click.option("--deterministic", is_flag=True,
              help="Make torch refuse operations that are not reproducible bit for bit (compute.deterministic).")  # fmt: skip
@click.option("--profile", is_flag=True,
              help="Profile a few steps into OUT/profile and show the operators that took the most time.")  # fmt: skip
@click.option("--timeout-s", type=click.FloatRange(min=0, min_open=True), default=TIMEOUT_S, show_default=True,
              help="How many seconds a process waits for the others before the run ends.")  # fmt: skip
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.option("--verbose", is_flag=True, help="Write a line per step to OUT/logs: which positions and keys were read.")
@click.option("--dry-run", is_flag=True,
              help="Print the resolved config, and on stderr sizes and counts; then stop.")  # fmt: skip
def train_command(
    infrared: tuple[str, ...], visible: tuple[str, ...], held_out: tuple[str, ...], out: Path, preset: str | None,
    mode: str | None, config_file: Path | None, settings: tuple[str, ...], max_steps: int | None, time_limit: str | None,
    device: str, deterministic: bool, profile: bool, timeout_s: float, quiet: bool, verbose: bool, dry_run: bool,
) -> None:  # fmt: skip
    """Train the translator from shards, or from folders of pictures.

    The same command continues where a run stopped. For several processes: torchrun --nproc-per-node=2 roma/train.py ...

    The preset roma is the published method and needs ViT weights (--set vit.weights=PATH). roma-multi is the same for several GPUs,
    16 windows per step. The preset tiny trains on a CPU in minutes and departs from the paper. It restores the colours of day
    frames made infrared-like gray (loss.colourise, loss.colourise_edges, loss.matched_tones; only this for loss.warmup_steps).
    Translations keep the infrared's edges (loss.edges), a discriminator sharpens their luma details (loss.detail_gan) while the
    rest stays unchanged (loss.anchor). It uses a small U-Net (generator.architecture, generator.last_init_gain) and averaged
    weights (optim.ema_decay).

    SIGTERM and Ctrl-C end the run after the current step, with a checkpoint and exit codes 143 and 130; a second signal ends it at
    once. A time limit does the same with exit code 0.
    """
    stop = Stop(time_limit_s=None if time_limit is None else parse_duration(time_limit))
    over = list(settings)
    for name, patterns in (("infrared", infrared), ("visible", visible), ("held_out", held_out)):
        if patterns:
            over.insert(0, f"data.{name}={json.dumps(patterns)}")
    if deterministic:
        over.append("compute.deterministic=true")
    config = resolve(preset, mode=mode, config_file=config_file, settings=over)  # type: ignore[arg-type]
    if dry_run:
        click.echo(json.dumps(to_json(config), indent=1))
        for fact in _facts(config):
            click.echo(fact, err=True)
        check_settings(config, may_lack_weights=True)
        return
    check_domains(config.data.infrared, config.data.visible)
    check_settings(config)
    rank, world_size = rank_of_environment()
    check_batch(config.batch_size, world_size)
    use_threads()
    keep_freed_memory()
    if config.compute.deterministic:
        _be_deterministic()
    line = ProgressLine(sys.stderr, is_quiet=quiet)
    listeners = Listeners(on_report=line.report, on_step=line.step, on_profile=_beside_line(line) if profile else None)
    with ExitStack() as stack:
        stack.enter_context(stop.watching())
        stack.enter_context(_logged(out, rank, world_size, verbose=verbose))
        stack.callback(line.close)
        world = stack.enter_context(joined(device, timeout_s=timeout_s))
        result = train(config, out, world, max_steps=max_steps, stop=stop, listeners=listeners)
        line.close()
        logger.info("%d of %d steps done%s", result.last_step, result.until_step, _why(result, stop))
    if rank == 0:
        _print_result(out, result, stop)
    if result.stop_signal is not None:
        # Also where another rank got the signal: to torchrun 0 would mean that the run is done.
        click.get_current_context().exit(128 + result.stop_signal)


def _print_result(out: Path, result: RunResult, stop: Stop) -> None:
    """Print on stderr how the run ended."""
    done = steps_text(result.first_step, result.last_step, until=result.until_step, total=result.total_steps)
    click.echo(f"{out}: {done}, {result.snapshot}", err=True)
    if result.best is not None:
        click.echo(f"best: step {result.best.step}, {result.best.by} {result.best.value:.5g}", err=True)
    if result.num_unreadable:
        named = out / LOADER / UNREADABLE_NAME
        click.echo(f"{result.num_unreadable} unreadable pictures were replaced, listed in {named}", err=True)
    if result.is_stopped:
        click.echo(f"stopped{_why(result, stop)}; the same command continues from step {result.last_step}", err=True)


def _why(result: RunResult, stop: Stop) -> str:
    if not result.is_stopped:
        return ""
    if result.stop_signal is not None:
        return f" by {result.stop_signal.name}"
    return " at the time limit" if stop.is_out_of_time else " because another process was stopped"


def _facts(config: TrainConfig) -> Iterator[str]:
    """Yield lines about a config: sizes, learning rates, steps, and what is unknown and why.

    Raises:
        RomaError: No networks can be built.
        InfraredCityError: The data that is named is missing or damaged.
    """
    shape = dataclasses.replace(config.vit, weights="random")  # the sizes need no weights
    networks = build_networks(dataclasses.replace(config, vit=shape), torch.device("cpu"))
    trained = {name: network for name, network in networks.trained().items() if name not in ("averaged", "anchor")}
    counts = {name: _num_parameters(network) for name, network in trained.items()}
    listed = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    frozen = "" if networks.vit is None else f"; frozen ViT {_num_parameters(networks.vit):,}"
    yield f"trained parameters: {sum(counts.values()):,} ({listed}){frozen}"
    if config.needs_vit and not config.vit.weights:
        yield "vit.weights is not set; name a weight file with --set vit.weights=PATH"
    scale = config.optim.lr_scale(config.batch_size)
    rates = config.optim.generator_lr * scale, config.optim.discriminator_lr * scale
    yield f"learning rates: generator {rates[0]:g}, discriminators {rates[1]:g}, at batch {config.batch_size}"
    unnamed = [name for name in ("infrared", "visible") if not getattr(config.data, name)]
    if unnamed:
        total = config.schedule.total_steps
        yield f"steps: {total:,}" if total is not None else "steps: not known without the shards"
        yield f"shards: {' and '.join(f'--{name}' for name in unnamed)} not named"
        return
    try:
        domains = open_domains(config)
        if config.data.held_out:
            WindowReader(config.data.held_out, window_frames=1).close()
    except ValueError as error:
        raise click.ClickException(f"shards: {error}") from error
    windows = domains.infrared.num_windows, domains.visible.num_windows
    domains.close()
    epoch = schedule.steps_per_epoch(*windows, config.batch_size)
    total = schedule.plan(config.schedule, epoch_steps=epoch).total_steps
    yield f"windows: {windows[0]:,} infrared, {windows[1]:,} visible; {epoch:,} steps per epoch"
    yield f"steps: {total:,}, {total / epoch:.1f} epochs"


def _num_parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _be_deterministic() -> None:
    """Make torch deterministic; call it before CUDA starts, since cuBLAS reads its variable then."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)


def _beside_line(line: ProgressLine) -> Callable[[str], None]:
    """Return a function that prints a text without breaking the progress line."""

    def show(text: str) -> None:
        line.close()
        click.echo(text, err=True)

    return show


@contextmanager
def _logged(out: Path, rank: int, world_size: int, *, verbose: bool) -> Iterator[None]:
    """Append to this rank's log in OUT/logs, including the error that ends it."""
    folder = out / LOGS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(folder / f"rank-{rank:03d}.log", encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{folder}: cannot be written: {(error.strerror or str(error)).lower()}") from error
    formatter = logging.Formatter("%(asctime)sZ %(levelname)s %(name)s: %(message)s", datefmt="%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    loggers = [logging.getLogger(name) for name in _OURS]
    before = [each.level for each in loggers]
    for each in loggers:
        each.addHandler(handler)
        each.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.info("rank %d of %d begins on %s", rank, world_size, socket.gethostname())
    try:
        yield
    except Exception as error:
        # Only to the file: the caller that catches it prints it on the console.
        is_ours = isinstance(error, RomaError | InfraredCityError)
        trace = None if is_ours else (type(error), error, error.__traceback__)
        record = logger.makeRecord(logger.name, logging.ERROR, __file__, 0, "ended by: %s", (error,), trace)
        handler.handle(record)
        raise
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.removeHandler(handler)
            each.setLevel(level)
        handler.close()


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit, for torchrun; `roma train` does the same through roma.cli."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)  # the log files get more
    logging.basicConfig(format="%(levelname)s: %(message)s", handlers=[handler])
    sys.exit(exit_code_of(lambda: _run(arguments)))


def _run(arguments: list[str] | None) -> int:
    return exit_code(lambda: train_command.main(args=arguments, prog_name="train.py", standalone_mode=False))
