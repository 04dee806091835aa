"""How this process keeps its memory between steps."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # names of malloc.h
_KEPT_BYTES = 2**30


def keep_freed_memory() -> bool:
    """Let glibc keep what is freed for the next tensor, instead of giving it back and asking for it page by page again.

    A step allocates and frees the same large blocks again and again, and by default each comes fresh from the kernel. In a
    virtual machine a fresh megabyte took 0.5 ms, a kept one 0.06 ms; a step of the preset `roma` on a CPU took 8 % less time. The
    process then stays about as large as its first few steps made it, which can be several of the largest blocks more than one
    step needs: a small object behind a freed block keeps it from joining the free space around it.

    Returns:
        Whether that could be set: False on anything but Linux with glibc, where nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl
        return False
    # Blocks above the first threshold come from the kernel and go back to it; so does the heap's end above the second.
    return bool(set_option(_M_MMAP_THRESHOLD, _KEPT_BYTES) and set_option(_M_TRIM_THRESHOLD, 2**31 - 1))
