"""Define `infraredcity clips`, `probe` and `doctor`: list the clips, describe a video, check the installation."""

import importlib
import importlib.metadata
import importlib.util
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from infraredcity.cli.options import FILE_OR_URL, catalog_of, print_traffic, where_clips_are
from infraredcity.clips import Clip, published_counts
from infraredcity.command_line import json_option, print_json
from infraredcity.errors import CatalogError, InfraredCityError, RemoteError
from infraredcity.files.path import AnyPath
from infraredcity.installation import install_command
from infraredcity.showing import format_bytes, visible
from infraredcity.video import DECODERS, DecoderName, find_decoder


@click.command("clips")
@where_clips_are
@json_option
def clips_command(clips_dir: AnyPath | None, clips_file: AnyPath | None, as_json: bool) -> None:
    """List the clips of the catalogue, and say which of them have their files."""
    catalogue = catalog_of(clips_dir, clips_file)
    problems = [_problem_of(clip) for clip in catalogue]
    print_traffic()
    rows = [
        {
            "clip": clip.clip_id,
            "scene": clip.scene,
            "weather": clip.weather,
            "modality": clip.modality,
            "time_of_day": clip.time_of_day,
            "files": [str(path) for path in clip.paths],
            "found": problem is None,
            "expected_frames": clip.expected_frames,
        }
        for clip, problem in zip(catalogue, problems, strict=True)
    ]
    if as_json:
        print_json({"clips": rows, "published": published_counts()})
        return
    click.echo(f"{'clip':18} {'scene':9} {'weather':9} {'modality':9} {'time':6} file")
    for problem, clip in zip(problems, catalogue, strict=True):
        file = (", ".join(map(str, clip.paths)) or "-") + (f"  ({problem})" if clip.paths and problem else "")
        line = f"{clip.clip_id:18} {clip.scene:9} {clip.weather:9} {clip.modality:9} {clip.time_of_day:6} {file}"
        click.echo(visible(line))
    found = sum(bool(row["found"]) for row in rows)
    total = published_counts()["frames"]["total"]
    click.echo(f"{found} of {len(rows)} clips found; the nine of the release hold {total:,} frames", err=True)


def _problem_of(clip: Clip) -> str | None:
    """Say why a clip's files cannot be read: "missing", or the error of the remote machine; None when they can."""
    try:
        clip.existing_paths()
    except CatalogError:
        return "missing"
    except RemoteError as error:
        return str(error)
    return None


@click.command("probe")
@click.argument("file", type=FILE_OR_URL)
@click.option("--stream", type=click.IntRange(0), help="Number of the video stream to look at.")
@json_option
def probe_command(file: AnyPath, stream: int | None, as_json: bool) -> None:
    """Describe the video FILE (a path or a URL): frames, times, codec, and which decoder reads it and why."""
    from infraredcity import video

    info = video.probe(file, stream=stream)
    usual, *others = video.all_decoders()
    reasons = {each.name: each.why_not(info, "cpu") or f"would be exact: {each.exact_on}" for each in others}
    facts = {
        "file": str(file),
        "num_frames": info.num_frames,
        "duration_s": round(info.duration_s, 3),
        "nominal_fps": round(info.nominal_fps, 3),
        "width_px": info.width_px,
        "height_px": info.height_px,
        "codec": info.codec,
        "pixel_format": info.pixel_format,
        "container": info.container,
        "num_keyframes": len(info.keyframes),
        "time_base": str(info.time_base),
        "first_pts": int(info.pts[0]) if info.num_frames else None,
        "streams": list(info.streams),
        "other_streams": list(info.other_streams),
        "rotation_deg": info.rotation_deg,
        "pixel_aspect": f"{info.pixel_aspect.numerator}:{info.pixel_aspect.denominator}",
        "hdr": info.hdr,
        "counted_by": "decoding" if info.counted_by else "packets",
        "counted_by_reason": info.counted_by,
        "num_hidden": info.num_hidden,
        "size_bytes": info.size_bytes,
        "packets_sha256": info.packets_sha256,
        "num_silent": info.num_silent,
        "suspect": list(info.suspect),
        "notes": list(info.notes),
        "num_suspect": int((info.suspect_ranges[:, 1] - info.suspect_ranges[:, 0]).sum()),
        "has_color": info.has_color,
        "needs_tone": info.is_deep,
        "decoder": usual.name,
        "decoder_reason": f"exact on {usual.exact_on}",
        **{f"{name}_reason": reason for name, reason in reasons.items()},
    }
    print_traffic()
    if as_json:
        print_json(facts)
        return
    lines = [
        f"{file}: {info.num_frames:,} frames, {info.duration_s:.2f} s at {info.nominal_fps:.3f} fps, "
        f"{info.width_px}x{info.height_px} {info.pixel_format}, {info.codec}, {format_bytes(info.size_bytes)}",
        f"key frames: {len(info.keyframes)}; hidden by an edit list: {info.num_hidden}; rotation: {info.rotation_deg}",
        f"decoder: {facts['decoder']} ({facts['decoder_reason']})",
        *(f"{name}: {reason}" for name, reason in reasons.items()),
    ]
    if info.is_deep:
        lines.append("counts: gray of more than 8 bits; --tone converts them to 8 bits, --format png16 keeps them")
    lines += [f"suspect: {phrase}" for phrase in info.suspect]
    lines += [f"note: {phrase}" for phrase in info.notes]
    click.echo("\n".join(map(visible, lines)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of doctor: what was checked, whether it works on this machine, and what to do."""

    what: str
    ok: bool
    detail: str


_PACKAGES = (
    ("av", "av", "extract", "decoding video"),
    ("opencv-python-headless", "cv2", "extract", "resizing, the other formats of stills"),
    ("pyarrow", "pyarrow", "extract", "manifests"),
    ("simplejpeg", "simplejpeg", "extract", "writing JPEG"),
    ("decord", "decord", "decord", "the second decoder"),
    ("torch", "torch", "loader", "the loader and training"),
    ("tensorboard", "tensorboard", "train", "training curves"),
)


@click.command("doctor")
@json_option
def doctor_command(as_json: bool) -> None:
    """Check which packages, decoders and devices work on this machine, and say what to install for the rest."""
    findings = [_package(*row) for row in _PACKAGES] + [
        *(_decoder_on_gpu(name) for name in DECODERS if name != "auto"),
        _torch_device(),
        _foreign_roma(),
    ]
    if as_json:
        print_json({"python": platform.python_version(), "findings": [asdict(finding) for finding in findings]})
        return
    click.echo(f"Python {platform.python_version()} on {platform.machine()}")
    for finding in findings:
        click.echo(f"{'ok     ' if finding.ok else 'missing'} {finding.what:26} {finding.detail}")


def _package(distribution: str, module: str, extra: str, used_for: str) -> Finding:
    try:
        importlib.import_module(module)
        name = "opencv-python" if module == "cv2" and not _is_installed(distribution) else distribution
        version = importlib.metadata.version(name) if _is_installed(name) else "unknown version"
    except (ImportError, OSError) as error:
        detail = f"for {used_for}: {install_command(extra)}"
        if not isinstance(error, ModuleNotFoundError):
            detail = f"installed but cannot be loaded ({error}); {detail}"
        return Finding(what=distribution, ok=False, detail=detail)
    return Finding(what=distribution, ok=True, detail=f"{version}, for {used_for}")


def _is_installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _decoder_on_gpu(name: DecoderName) -> Finding:
    what = f"{name} on the GPU"
    try:
        reason = find_decoder(name).why_no_gpu()
    except InfraredCityError as error:
        return Finding(what=what, ok=False, detail=str(error))
    return Finding(what=what, ok=reason is None, detail=reason or "--device cuda:0 works")


def _torch_device() -> Finding:
    what = "torch device"
    if importlib.util.find_spec("torch") is None:
        return Finding(what=what, ok=False, detail="no torch")
    torch = importlib.import_module("torch")
    if torch.cuda.is_available():
        return Finding(what=what, ok=True, detail=f"cuda: {torch.cuda.get_device_name(0)}")
    return Finding(what=what, ok=True, detail="cpu; the preset tiny trains on it, the preset roma needs a GPU")


def _foreign_roma() -> Finding:
    """Check that `import roma` finds our package: PyPI has another one of that name (rotations)."""
    spec = importlib.util.find_spec("roma")
    origin = Path(spec.origin) if spec is not None and spec.origin is not None else None
    if origin is not None and (origin.parent / "training" / "trainer.py").exists():
        return Finding(what="package roma", ok=True, detail="ours")
    return Finding(
        what="package roma",
        ok=False,
        detail=f"{origin} is another package of that name; pip uninstall roma, then install infraredcity again",
    )
