"""A profile of a few steps of a run, written for chrome://tracing and shown as a table."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import torch

from infraredcity.files.atomic import publish
from infraredcity.files.temporary import temporary_beside
from roma.world.world import World

FOLDER = "profile"
_FROM, _STEPS = 3, 3
"""Steps of this process before the profile begins, and how many it holds."""


@contextmanager
def profiled(
    run: Path, world: World, on_profile: Callable[[str], None] | None
) -> Generator[Callable[[], None], None, None]:
    """Profile a few steps inside the block, once the first ones are done; yield what is called after each step.

    Args:
        run: The run's folder.
        world: This process's place.
        on_profile: Gets the table of the operators that took most time, or why there is none; None profiles nothing.
    """
    if on_profile is None:
        yield lambda: None
        return
    activities = [torch.profiler.ProfilerActivity.CPU]
    if world.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    is_written = False

    def write(profile: torch.profiler.profile) -> None:
        nonlocal is_written
        path = run / FOLDER / f"rank-{world.rank:03d}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(path)
        profile.export_chrome_trace(str(temporary))
        publish(temporary, path)
        by = "self_device_time_total" if len(activities) == 2 else "self_cpu_time_total"
        table = profile.key_averages().table(sort_by=by, row_limit=15, max_name_column_width=40)
        on_profile(f"{table}\n{path}: {_STEPS} steps, for chrome://tracing or ui.perfetto.dev")
        is_written = True

    waited = torch.profiler.schedule(wait=_FROM - 1, warmup=1, active=_STEPS, repeat=1)
    with torch.profiler.profile(activities=activities, schedule=waited, on_trace_ready=write) as profile:
        yield profile.step
    if not is_written:
        on_profile(f"no profile: it needs {_FROM + _STEPS} steps of one call")
