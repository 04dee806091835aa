"""How long work tells of itself: the core reports, whoever called it draws."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One report of a running job.

    Attributes:
        what: What is counted, for people: "city_clear: frames".
        done: How much is done since the job began, in units of `what`.
        total: How much there is, or None when it is not known.
    """

    what: str
    done: int
    total: int | None = None


OnProgress = Callable[[Progress], None]
