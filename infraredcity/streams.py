"""Standard output and error as a command finds them: closed, full, a broken pipe; what ends it for these is one line or silence."""

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress

from infraredcity.showing import visible


def run(command: Callable[[], int]) -> int:
    """The exit code of a command; 1 where an output cannot be written or the system refuses a file, told in one line if it can be.

    What the system says is a fact about this machine, such as a name that is too long; all else that a command raises goes on.
    """
    _open_closed_ones()
    try:
        try:
            code = command()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError as error:
        code = 1
        if error.errno != errno.EPIPE:
            with suppress(OSError):
                sys.stderr.write(f"Error: {_in_words(error)}\n")
                sys.stderr.flush()
    finally:
        _abandon_unwritable_ones()
    return code


def _in_words(error: OSError) -> str:
    reason = (error.strerror or str(error)).lower()
    where = "" if error.filename is None else f"{visible(os.fsdecode(error.filename))}: "
    return f"{where}{reason}"


def _open_closed_ones() -> None:
    """Open what the shell closed (`2>&-`) on nothing: the next file would get its number, and what libraries complain of."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 -- open as long as the process


def _abandon_unwritable_ones() -> None:
    """Let what still waits to be written go; Python would try once more at its end, and tell of it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, stream.fileno())
            os.close(nothing)
