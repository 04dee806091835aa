"""Names of files that are being written, which no reader looks at."""

import os
import secrets
import socket
from pathlib import Path

TEMPORARY_PREFIX = ".tmp-"
"""How the name of a file begins that is not written to its end."""
_HOST_END = 16
"""How many last letters of the host's name a temporary name holds; they tell pods and nodes apart."""


def temporary_beside(path: Path) -> Path:
    """Make up a name in the folder of `path` that no reader looks at and no other process uses."""
    return path.with_name(f"{temporary_prefix(os.getpid())}{secrets.token_hex(4)}-{path.name}")


def temporary_prefix(pid: int) -> str:
    """Return how a process of this machine begins all such names; on a shared disk other machines have that process id too."""
    return f"{TEMPORARY_PREFIX}{socket.gethostname()[-_HOST_END:]}-{pid}-"


def is_temporary(path: Path) -> bool:
    """Whether `path` is a leftover of a write that did not end."""
    return path.name.startswith(TEMPORARY_PREFIX)


def remove_temporaries(folder: Path) -> int:
    """Delete what killed writers left in `folder`; return how many files that were. Only for the holder of its lock."""
    leftovers = [path for path in folder.iterdir() if is_temporary(path)]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return len(leftovers)
