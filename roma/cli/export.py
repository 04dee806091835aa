"""Define `roma export`."""

from pathlib import Path

import click

from infraredcity.command_line import FILE
from infraredcity.showing import format_bytes


@click.command("export")
@click.argument("snapshot", type=FILE)
@click.option("-o", "--out", type=FILE, required=True, help="The file to write: .onnx.")
@click.option("--half", is_flag=True, help="Weights and features in float16, norms in float32: for GPUs.")
@click.option(
    "--levels", is_flag=True, help="The graph takes gray bytes [N, H, W, 1] and gives colour bytes [N, H, W, 3]."
)
def export_command(snapshot: Path, out: Path, half: bool, levels: bool) -> None:
    """Write the translator of SNAPSHOT for other programs.

    An ONNX file takes any batch, height and width (multiples of the network's own, as its metadata says); what the training did to
    its infrared lies in its metadata too. `roma translate FILE.onnx` runs it with onnxruntime.
    """
    import torch

    from roma.inference.onnx_model import export_onnx
    from roma.inference.translator import open_translator

    if out.suffix != ".onnx":
        raise click.BadParameter(f"must end in .onnx, got {out.name}", param_hint="--out")
    translator = open_translator(snapshot, torch.device("cpu"))
    export_onnx(translator.snapshot, translator.network(), out, half=half, levels=levels)
    click.echo(f"{out}: {format_bytes(out.stat().st_size)}", err=True)
