"""Progress that reads well in a terminal (a moving bar) and in a log file (a line now and then)."""

import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Self, TypeVar

from tqdm import tqdm

T = TypeVar("T")

SECONDS_BETWEEN_LOG_LINES = 5.0
INTERRUPTED = "interrupted: the next snakemake goes on from here"  # a log's last line


class Progress:
    """Says on standard error how many of ``total`` are done: the first rank alone does.

    ``done`` is what an earlier, interrupted job finished.  ``at_most``: there may be fewer.  To a
    file a line goes every few seconds, and with ``final`` one when all is done.  Close it, or use
    it in a ``with`` statement.
    """

    def __init__(
        self,
        *,
        total: int,
        label: str,
        done: int = 0,
        at_most: bool = False,
        final: bool = False,
    ) -> None:
        self.total = total
        self.label = label
        self.done = done
        self.at_most = at_most
        self.final = final
        self.made = 0
        self.shown = os.environ.get("RANK", "0") == "0"  # as torchrun numbers its processes
        self.start = self.last = time.monotonic()
        self.bar = None
        if self.shown and sys.stderr.isatty():
            # A bar inside another's loop goes when it is done.
            self.bar = tqdm(total=total, initial=done, desc=label, leave=None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def advance(self, count: int = 1, *, note: str = "", found: bool = False) -> None:
        """Count what is done, with a short text behind; ``found``, not made, took no time."""
        self.done += count
        self.made += 0 if found else count
        if self.bar is not None:
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update(count)
        elif self.shown:
            self._print(note)

    def close(self) -> None:
        """End the bar."""
        if self.bar is not None:
            self.bar.close()

    def _print(self, note: str) -> None:
        now = time.monotonic()
        ended = self.final and self.done == self.total
        if now - self.last < SECONDS_BETWEEN_LOG_LINES and not ended:
            return
        left = (now - self.start) / max(1, self.made) * max(0, self.total - self.done)
        most = "at most " if self.at_most else ""
        count = f"{self.done} of {most}{self.total}, {most}{left:.0f} s left"
        say(f"{self.label}: {count} {note}".rstrip())
        self.last = now


def progress(
    items: Iterable[T],
    *,
    total: int,
    label: str,
    done: int = 0,
    status: Callable[[], str] = str,
) -> Iterator[T]:
    """Yield ``items`` while reporting on standard error how many of ``total`` are done.

    ``done`` is what an earlier, interrupted job finished; ``status`` returns a short text that
    stands behind the bar.
    """
    with Progress(total=total, label=label, done=done, final=True) as shown:
        for item in items:
            yield item
            shown.advance(note=status())


def say(text: str) -> None:
    """Print one line on standard error, where a rule's log catches it."""
    print(text, file=sys.stderr, flush=True)


@cache
def say_once(text: str) -> None:
    """``say`` what this process has not said yet."""
    say(text)


def hold_log() -> None:
    """Lock the log that standard error goes to, if any, until this process ends in any way."""
    with suppress(OSError):
        fcntl.flock(sys.stderr, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_held(log: Path) -> bool:
    """Return whether a process still writes a job's log."""
    try:
        with log.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
