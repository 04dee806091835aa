"""The entry of `torchrun roma/train.py` and `roma train`: parse, build, run."""

import sys
from pathlib import Path

if __package__ in (None, ""):  # started as a file: its own folder must not shadow other packages' modules
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import json
import logging
import os

import click

from infraredcity.errors import InfraredCityError
from roma.config import resolve, to_json
from roma.distributed import check_batch, joined, rank_of_environment, use_threads
from roma.errors import RomaError
from roma.trainer import StepReport, train


@click.command("train")
@click.option(
    "--infrared",
    multiple=True,
    help="Tar files or a quoted pattern of the infrared domain; may be given several times.",
)
@click.option("--visible", multiple=True, help="The same for the day visible domain.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="The run's folder.")
@click.option("--preset", type=click.Choice(["roma", "tiny"]), help="Where the config starts from; roma by default.")
@click.option(
    "--mode", type=click.Choice(["video", "image"]), help="Pairs of frames with the temporal loss, or single frames."
)
@click.option("--config", "config_file", type=click.Path(dir_okay=False, path_type=Path),
              help="JSON settings over the preset, such as a run's config.json.")  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE",
              help="One setting over both, such as optim.generator_lr=1e-4.")  # fmt: skip
@click.option(
    "--max-steps", type=click.IntRange(1), help="Stop and save after this step; the same command without it goes on."
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--dry-run", is_flag=True, help="Print the resolved config and stop.")
def train_command(
    infrared: tuple[str, ...],
    visible: tuple[str, ...],
    out: Path,
    preset: str | None,
    mode: str | None,
    config_file: Path | None,
    settings: tuple[str, ...],
    max_steps: int | None,
    device: str,
    dry_run: bool,
) -> None:
    """Train the translator from shards.

    The same command goes on where a run stopped. For several processes: torchrun --nproc-per-node=2 roma/train.py ...

    The preset roma is the published method and needs ViT weights (--set vit.weights=PATH). The preset tiny trains on a CPU in
    minutes and departs from the paper: day frames turned into infrared-like gray get their colour back (loss.colourise,
    loss.colourise_edges, loss.matched_tones, alone for loss.warmup_steps), translations keep the infrared's borders (loss.edges),
    a discriminator on luma details of translations (loss.detail_gan) while all else of them stays (loss.anchor), a small U-Net
    (generator.architecture, generator.last_init_gain), averaged weights (optim.ema_decay).
    """
    over = list(settings)
    for name, patterns in (("infrared", infrared), ("visible", visible)):
        if patterns:
            over.insert(0, f"data.{name}={json.dumps(patterns)}")
    config = resolve(preset, mode=mode, config_file=config_file, settings=over)  # type: ignore[arg-type]
    if dry_run:
        click.echo(json.dumps(to_json(config), indent=1))
        return
    for name, patterns in (("infrared", config.data.infrared), ("visible", config.data.visible)):
        if not patterns:
            raise click.UsageError(f"--{name} names the shards of that domain; it is missing")
    check_batch(config.batch_size, rank_of_environment()[1])
    use_threads()
    with joined(device) as world:
        result = train(config, out, world, max_steps=max_steps, on_report=_print_report)
        if world.is_leader:
            state = "nothing to do" if result.first_step == result.last_step else f"from step {result.first_step}"
            click.echo(
                f"{out}: {result.last_step} of {result.total_steps} steps ({state}), {result.snapshot}", err=True
            )


def _print_report(report: StepReport) -> None:
    losses = "  ".join(f"{name} {value:.3f}" for name, value in report.losses.items() if name != "generator_total")
    click.echo(
        f"step {report.step}/{report.total_steps}  {losses}  {report.images_per_s:.1f} images/s  "
        f"wait {report.wait_share:.0%}  {report.eta_s:.0f} s left",
        err=True,
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit, for torchrun; `roma train` does the same through roma.cli."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING, stream=sys.stderr)
    rank = os.environ.get("RANK", "0")
    try:
        train_command.main(args=arguments, prog_name="train.py", standalone_mode=False)
    except (RomaError, InfraredCityError) as error:
        click.echo(f"Error: {error}" if rank == "0" else f"Error (rank {rank}): {error}", err=True)
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)


if __name__ == "__main__":
    main()
