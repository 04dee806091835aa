"""Compare what two checkouts write, byte for byte: shards, indexes, manifests, Lite sets, selections, plans in parts.

    python tools/same_bytes.py BEFORE AFTER WORK

BEFORE and AFTER are checkouts, each with its environment in .venv; WORK is an empty folder. One sample is made by BEFORE; both then
run the same commands over it, each from a folder of its own, and every file under the two is compared. Differences are printed, a
line each; exit code 1 if there are any. Locks, kept scans (they hold times of files) and HTML pages are left out. Three minutes.
"""

import filecmp
import os
import subprocess
import sys
from pathlib import Path

LEFT_OUT = (".lock", ".html", ".scan", "plan.jsonl")
"""Endings of names that are not compared: locks, pages, kept scans, and plans, which hold inode times."""

COMMANDS = (
    "extract --all --clips ../sample/clips.toml --out shards --size 96 --workers 2",
    "extract --clip city_clear --clips ../sample/clips.toml --out png --format png --every 7 --frames-per-shard 4",
    "extract --clip city_clear --clips ../sample/clips.toml --out webp --format webp --quality 70 --start 5 --stop 40",
    "extract --clip city_clear --video ../sample/raw16/city_clear.mkv --out tone --polarity invert --mask 0,0,20,10",
    "extract --clip city_clear --video ../sample/raw16/city_clear.mkv --out counts --format png16",
    "extract --clip city_clear --video ../damaged.mp4 --out damaged",
    "extract --clip city_clear --video ../damaged.mp4 --out dropped --suspect drop",
    "extract --clip city_clear --clips ../sample/clips.toml --out files --to frames",
    "plan --all --clips ../sample/clips.toml --out parts --parts 3 --size 96 --frames-per-shard 16",
    "extract --plan parts/plan.jsonl --part 2",
    "extract --plan parts/plan.jsonl --part 0",
    "extract --plan parts/plan.jsonl --part 1",
    "finalize parts",
    "make-lite --from shards --out lite --scale auto",
    "shard lite --where split=train --where suspect=false --window 3 --out chosen",
    "reshard chosen --samples-per-shard 7 --out small",
    "select lite --where split=test -o chosen.csv",
    "verify lite --decode all",
    "verify shards",
)


def main() -> None:
    """Make the sample, run both, compare."""
    before, after, work = (Path(word).resolve() for word in sys.argv[1:4])
    work.mkdir(parents=True)
    run(before, work, "sample sample --width 128 --height 96 --frames 60 --raw16")
    damage(work / "sample" / "city_clear.mp4", work / "damaged.mp4")
    trees = {}
    for name, checkout in (("before", before), ("after", after)):
        folder = work / name
        folder.mkdir()
        for command in COMMANDS:
            run(checkout, folder, command)
        trees[name] = {
            str(path.relative_to(folder)): path
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.endswith(LEFT_OUT)
        }
    one, other = trees["before"], trees["after"]
    differences = [f"only before: {name}" for name in one.keys() - other.keys()]
    differences += [f"only after: {name}" for name in other.keys() - one.keys()]
    differences += [
        f"differs: {name}"
        for name in one.keys() & other.keys()
        if not filecmp.cmp(one[name], other[name], shallow=False)
    ]
    print("\n".join(sorted(differences)) or f"{len(one)} files are the same, byte for byte")
    sys.exit(bool(differences))


def run(checkout: Path, folder: Path, command: str) -> None:
    """Run a command of a checkout; exit codes 4 and 5 (findings, named gaps) are results, too."""
    python = checkout / ".venv" / "bin" / "python"
    words = [str(python), "-m", "infraredcity", *command.split()]
    done = subprocess.run(
        words, cwd=folder, env=os.environ | {"PYTHONPATH": str(checkout)}, capture_output=True, text=True
    )
    if done.returncode not in (0, 4, 5):
        sys.exit(f"{checkout}: infraredcity {command}: exit code {done.returncode}\n{done.stderr}")


def damage(source: Path, target: Path) -> None:
    """Copy a video with 300 bytes in its middle set to zero."""
    data = bytearray(source.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 300] = bytes(300)
    target.write_bytes(data)


if __name__ == "__main__":
    main()
