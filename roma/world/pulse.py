"""What ranks tell each other of themselves beside the collectives, and which of them stopped answering."""

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch.distributed import Store  # type: ignore[attr-defined]  # torch does not mark its exports

BEAT_S = 1.0
"""How often a rank says that it lives, in a world of up to 64; rarer in larger ones, since each reads all the others."""
SILENT_BEATS = 4.0
"""A rank that was not heard for this many beats is gone."""
_NAMED = 4
"""How many missing ranks a message names."""


@dataclass(kw_only=True, slots=True)
class _Heard:
    """What was heard of a rank; times by this process's clock, so that the machines' clocks need not agree."""

    line: bytes
    """What it wrote last."""
    step: int
    """The step it was at."""
    reason: str
    """Why it left; "" while it runs."""
    to_blame: bool
    """Whether it left for a reason of its own, not because it missed others."""
    heard_at: float
    """When its line last changed."""
    step_at: float
    """When its step last changed."""


class Pulse:
    """What ranks tell each other of themselves beside the collectives, so that those who wait can name whom they wait for.

    A thread writes a line about this rank into the store at every beat, and reads the others'. The main thread never talks to the
    store, whose machine may be the one that is gone.

    Args:
        store: Its keys are of this run only.
        rank: This rank.
        hosts: Where each rank runs.
        store_name: Where the store is, for messages.
        store_rank: The rank whose process keeps the store; None when it is torchrun's.
        beat_s: Seconds between two beats.
        hang_s: For backends whose waiting cannot be ended from within (nccl): when this rank has been at one step for so long and
            another is to blame, `on_hang` is called with the message. 0: never.
        on_hang: Called from a thread of its own; should end the process.
    """

    def __init__(
        self,
        store: Store,
        *,
        rank: int,
        hosts: Sequence[str],
        store_name: str,
        store_rank: int | None = None,
        beat_s: float = BEAT_S,
        hang_s: float = 0.0,
        on_hang: Callable[[str], None] | None = None,
    ) -> None:
        self.rank = rank
        self._store = store
        self._hosts = list(hosts)
        self._store_name = store_name
        self._store_rank = store_rank
        self._beat_s = beat_s
        self._hang_s = hang_s
        self._on_hang = on_hang
        self._count = 0
        self._own = (-1, time.monotonic())
        self._reason, self._to_blame = "", False
        self._heard: list[_Heard] = []
        self._store_at = time.monotonic()
        self._store_lost = False
        self._leaving = threading.Event()
        self._threads: list[threading.Thread] = []
        self._write()

    def start(self) -> None:
        """Begin to listen; only after every rank has made its Pulse, whose first line would else be waited for."""
        self._listen()
        self._threads = [threading.Thread(target=self._run, name="pulse", daemon=True)]
        if self._hang_s and self._on_hang is not None:
            self._threads.append(threading.Thread(target=self._watch, name="pulse-watch", daemon=True))
        for thread in self._threads:
            thread.start()

    def beat(self, step: int) -> None:
        """Note that this rank is at `step` now."""
        self._own = (step, time.monotonic())

    def leave(self, reason: str = "", *, to_blame: bool = False) -> None:
        """End the threads, and let the others read why.

        Args:
            reason: Why, where it is not the run's end; "" writes nothing.
            to_blame: The reason lies in this rank, not in others that it misses.
        """
        self._reason, self._to_blame = reason, to_blame
        self._leaving.set()
        for thread in self._threads:
            thread.join(timeout=2 * self._beat_s)  # a store that does not answer keeps its thread for ever
        if to_blame and self._store_rank == self.rank:
            time.sleep(2 * self._beat_s)  # the store ends with this process: let the others read the reason

    def blame(self) -> str:
        """Name who keeps this rank waiting, as half a sentence; takes some beats, which tell silence from a pause."""
        silent_s = SILENT_BEATS * self._beat_s
        deadline = time.monotonic() + silent_s + 1.5 * self._beat_s
        while True:
            found = self._gone()
            if found or time.monotonic() > deadline:
                return found or self._behind() or self._no_one()
            time.sleep(self._beat_s / 10)

    def _gone(self) -> str:
        """Name the ranks that have left or are silent, or the store that is; "" when there are none."""
        now = time.monotonic()
        ended = [
            f"{self._name(rank)} stopped {_at(each.step)}: {each.reason}"
            for rank, each in enumerate(self._heard)
            if rank != self.rank and each.to_blame
        ]
        if ended:
            return _listed(ended)
        silent_s = SILENT_BEATS * self._beat_s
        if self._store_lost or now - self._store_at > silent_s:
            heard = f"last heard {now - self._store_at:.0f} s ago"
            if self._store_rank is None:
                return (
                    f"the store at {self._store_name} is gone too: its machine has died or cannot be reached; {heard}"
                )
            keeper = self._store_rank
            step = self._heard[keeper].step
            return f"{self._name(keeper)} is gone, and with it the store at {self._store_name}: {heard} {_at(step)}"
        gone = [
            f"{self._name(rank)} is gone: last heard {now - each.heard_at:.0f} s ago {_at(each.step)}"
            for rank, each in enumerate(self._heard)
            if rank != self.rank and not each.reason and now - each.heard_at > silent_s
        ]
        return _listed(gone)

    def _behind(self) -> str:
        """Name the ranks that live and are at an earlier step than this one."""
        now = time.monotonic()
        step = self._own[0]
        return _listed(
            [
                f"{self._name(rank)} is alive, but has been {_at(each.step)} for {now - each.step_at:.0f} s"
                for rank, each in enumerate(self._heard)
                if rank != self.rank and each.step < step
            ]
        )

    def _no_one(self) -> str:
        return (
            f"all {len(self._hosts)} ranks are alive and {_at(self._own[0])}, so one of them hangs in it or the network between "
            "them fails"
        )

    def _name(self, rank: int) -> str:
        return f"rank {rank} on {self._hosts[rank]}"

    def _write(self) -> None:
        self._count += 1
        line = json.dumps([self._count, self._own[0], self._reason, self._to_blame])
        self._store.set(f"rank-{self.rank}", line)

    def _listen(self) -> None:
        lines = self._store.multi_get([f"rank-{rank}" for rank in range(len(self._hosts))])
        now = time.monotonic()
        for rank, line in enumerate(lines):
            before = self._heard[rank] if rank < len(self._heard) else None
            if before is not None and before.line == line:
                continue
            _, step, reason, to_blame = json.loads(line)
            step_at = before.step_at if before is not None and before.step == step else now
            heard = _Heard(line=line, step=step, reason=reason, to_blame=to_blame, heard_at=now, step_at=step_at)
            self._heard[rank : rank + 1] = [heard]
        self._store_at = now

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._leaving.wait(self._beat_s)
            if is_last and not self._reason:
                return
            try:
                self._write()
                self._listen()
            except RuntimeError:  # the store is gone, as it is at the run's end
                self._store_lost = True
                return

    def _watch(self) -> None:
        assert self._on_hang is not None
        while not self._leaving.wait(self._beat_s):
            step, since = self._own
            if step < 0 or time.monotonic() - since < self._hang_s:
                continue
            found = self._gone() or self._behind()
            if found:
                self._on_hang(f"rank {self.rank}, step {step}: waited {self._hang_s:g} s for the others; {found}")
                return


def _at(step: int) -> str:
    return f"at step {step}" if step >= 0 else "before its first step"


def _listed(items: Sequence[str]) -> str:
    more = f"; and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return "; ".join(items[:_NAMED]) + more
