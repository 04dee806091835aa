"""Define `roma pretrain`, for one process or under torchrun: parse, build, run."""

import json
import sys
from pathlib import Path

import click

from infraredcity.command_line import FILE, FOLDER
from roma.cli.options import check_domains, device_option
from roma.config.overlay import to_json
from roma.pretrain.config import PRESETS, resolve
from roma.pretrain.task import pretrain
from roma.training.loop import Listeners
from roma.training.progress import ProgressLine, steps_text
from roma.world.meet import joined
from roma.world.memory import keep_freed_memory
from roma.world.world import check_batch, rank_of_environment, use_threads


@click.command("pretrain")
@click.option(
    "--infrared",
    multiple=True,
    help="Shards or pictures of the infrared domain: a folder or a quoted pattern; may be given several times.",
)
@click.option("--visible", multiple=True, help="The same for the day visible domain.")
@click.option("--out", type=FOLDER, required=True, help="The run's folder.")
@click.option("--preset", type=click.Choice(PRESETS), help="Preset that the config starts from.  [default: base]")
@click.option("--config", "config_file", type=FILE,
              help="JSON file of settings that override the preset, such as a run's config.json.")  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE",
              help="One setting that overrides both, such as optim.base_lr=1e-4.")  # fmt: skip
@click.option(
    "--max-steps", type=click.IntRange(1), help="Stop and save after this step; the same command without it continues."
)
@device_option
@click.option("--dry-run", is_flag=True, help="Print the resolved config and stop.")
def pretrain_command(
    infrared: tuple[str, ...],
    visible: tuple[str, ...],
    out: Path,
    preset: str | None,
    config_file: Path | None,
    settings: tuple[str, ...],
    max_steps: int | None,
    device: str,
    dry_run: bool,
) -> None:
    """Train an in-domain ViT on the shards of both domains, without labels or downloaded weights.

    It is a masked autoencoder (arXiv 2111.06377). Its encoder becomes OUT/backbone.safetensors; use it with: roma train --set
    vit.weights=OUT/backbone.safetensors. The same command continues where a run stopped. For several processes: torchrun
    --nproc-per-node=2 -m roma pretrain ...

    The preset base is ViT-B/16 at 384 pixels, for a GPU. The preset tiny trains the ViT for roma train --preset tiny on a CPU in
    about a minute.
    """
    over = list(settings)
    for name, patterns in (("infrared", infrared), ("visible", visible)):
        if patterns:
            over.insert(0, f"data.{name}={json.dumps(patterns)}")
    config = resolve(preset, config_file=config_file, settings=over)
    if dry_run:
        click.echo(json.dumps(to_json(config), indent=1))
        return
    check_domains(config.data.infrared, config.data.visible)
    check_batch(config.batch_size, rank_of_environment()[1])
    use_threads()
    keep_freed_memory()
    with joined(device) as world:
        line = ProgressLine(sys.stderr)
        result = pretrain(config, out, world, max_steps=max_steps, listeners=Listeners(on_report=line.report))
        line.close()
        if world.is_leader:
            done = steps_text(result.first_step, result.last_step, until=result.until_step, total=result.total_steps)
            click.echo(f"{out}: {done}, {result.backbone}", err=True)
