"""The entry of `torchrun roma/train.py`; `roma train` is the same command."""

import sys
from pathlib import Path

if __package__ in (None, ""):  # started as a file: its own folder must not shadow other packages' modules
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from roma.cli.train import main

if __name__ == "__main__":
    main()
