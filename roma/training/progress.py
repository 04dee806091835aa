"""The progress of a run: where its time went, and one line for people that is rewritten in place."""

import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TextIO

import torch

_REDRAW_S = 0.5
_LOSSES_LEFT_OUT = ("generator_total",)
"""The sum of the others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepReport:
    """Where a run is at a log step."""

    step: int
    """Steps done."""
    until_step: int
    """Steps at which this call means to end."""
    losses: dict[str, float]
    """Mean over ranks of this step's terms."""
    images_per_s: float
    """Pictures per second over all ranks since the last report: of one domain in training, of both in pretraining."""
    wait_share: float
    """Share of that time spent waiting for data on this rank."""
    memory_mib: float
    """Most memory of this process so far: of the GPU by tensors, or without one all that is resident."""
    eta_s: float
    """Seconds to that end at this speed."""

    def speed(self) -> dict[str, float]:
        """Return the numbers that differ from run to run."""
        return {"images_per_s": self.images_per_s, "wait_share": self.wait_share, "memory_mib": self.memory_mib}


class Clock:
    """Where the time goes between two reports."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._begun = time.monotonic()
        self._waited_s = 0.0
        self._steps = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time the wait for one step's batch, inside the block."""
        begun = time.monotonic()
        yield
        self._waited_s += time.monotonic() - begun
        self._steps += 1

    def report(self, done: int, until: int, losses: dict[str, float], *, images_per_step: int) -> StepReport:
        """Sum up what happened since the last report."""
        now = time.monotonic()
        elapsed_s = max(now - self._begun, 1e-9)
        report = StepReport(
            step=done,
            until_step=until,
            losses=losses,
            images_per_s=self._steps * images_per_step / elapsed_s,
            wait_share=self._waited_s / elapsed_s,
            memory_mib=peak_memory_mib(self._device),
            eta_s=(until - done) * elapsed_s / max(self._steps, 1),
        )
        self._begun, self._waited_s, self._steps = now, 0.0, 0
        return report


class ProgressLine:
    """Shows reports: on a terminal as one line that is rewritten in place, elsewhere as a line each.

    Args:
        stream: Where to; normally stderr.
        is_quiet: Show nothing.
    """

    def __init__(self, stream: TextIO, *, is_quiet: bool = False) -> None:
        self._stream = stream
        self._is_quiet = is_quiet
        self._is_terminal = stream.isatty()
        self._last: StepReport | None = None
        self._reported_s = 0.0
        self._drawn_s = 0.0
        self._is_open = False

    def report(self, report: StepReport) -> None:
        """Show a log step."""
        self._last, self._reported_s = report, time.monotonic()
        if not self._is_terminal:
            self._write(f"{line_of(report, step=report.step, eta_s=report.eta_s)}\n")
        else:
            self._draw(report.step)

    def step(self, done: int, until: int) -> None:
        """Count a step; terminals see it twice a second at most."""
        if self._is_terminal and time.monotonic() - self._drawn_s >= _REDRAW_S:
            if self._last is None:
                self._draw_text(f"step {done}/{until}")
            else:
                self._draw(done)

    def close(self) -> None:
        """End the line on a terminal, so that what follows begins a new one."""
        if self._is_open:
            self._write("\n")
            self._is_open = False

    def _draw(self, done: int) -> None:
        assert self._last is not None
        eta_s = max(0.0, self._last.eta_s - (time.monotonic() - self._reported_s))
        self._draw_text(line_of(self._last, step=done, eta_s=eta_s))

    def _draw_text(self, text: str) -> None:
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except OSError:
            columns = 80
        width = max(columns - 1, 0)  # the last column stays free: some terminals begin a new line when it is written
        self._write(f"\r{text[:width]:<{width}}")
        self._drawn_s, self._is_open = time.monotonic(), True

    def _write(self, text: str) -> None:
        if not self._is_quiet:
            self._stream.write(text)
            self._stream.flush()


def line_of(report: StepReport, *, step: int, eta_s: float) -> str:
    """Write a report in words; what a narrow terminal may cut off comes last."""
    losses = "  ".join(f"{name} {value:.3f}" for name, value in report.losses.items() if name not in _LOSSES_LEFT_OUT)
    return (
        f"step {step}/{report.until_step}  {clock_text(eta_s)} left  {report.images_per_s:.1f} images/s  "
        f"wait {report.wait_share:.0%}  {report.memory_mib / 1024:.1f} GiB  {losses}"
    )


def steps_text(first: int, last: int, *, until: int, total: int) -> str:
    """Say how far a call came, of the steps at which it meant to end: "100 of 100 steps (from step 0; the schedule has 1600)"."""
    state = "nothing to do" if first == last else f"from step {first}"
    if until < total:
        state += f"; the schedule has {total}"
    return f"{last} of {max(until, last)} steps ({state})"


def clock_text(seconds: float) -> str:
    """Write a time as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def peak_memory_mib(device: torch.device) -> float:
    """Measure the most memory so far: of tensors on the GPU, or, on a CPU, what was resident of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024  # Linux counts KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
