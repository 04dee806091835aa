import subprocess
import sys

from processes import PATIENCE_S

from roma.world.memory import keep_freed_memory

MEASURE = """
import resource, sys
import torch
from roma.world.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(16 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
fresh = faults()
was_set = keep_freed_memory()
# Small objects behind a block can keep it from joining the free space around it, and an aligned block needs a little more than
# its own size; so each of the first blocks may take new space until places that are large enough stay free.
for _ in range(12):
    faults()
print(was_set, fresh, faults())
"""


def test_large_blocks_are_not_fetched_from_the_kernel_again():
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    was_set, fresh, kept = done.stdout.split()
    if was_set == "True":  # 4 x 64 MiB in pages of 4 KiB are 65,536 faults
        assert int(kept) < int(fresh) / 4, done.stdout
    assert keep_freed_memory() == (was_set == "True")
