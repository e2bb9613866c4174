"""Progress that reads well in a terminal (a moving bar) and in a log file (a line now and then)."""

import fcntl
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")

SECONDS_BETWEEN_LOG_LINES = 5.0


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
    if sys.stderr.isatty():
        with tqdm(total=total, initial=done, desc=label) as bar:
            for item in items:
                yield item
                bar.set_postfix_str(status(), refresh=False)
                bar.update()
        return
    start = last = time.monotonic()
    for count, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LOG_LINES or done + count == total:
            left = (now - start) / count * (total - done - count)
            print(
                f"{label}: {done + count} of {total}, {left:.0f} s left {status()}".rstrip(),
                file=sys.stderr,
                flush=True,
            )
            last = now


def say(text: str) -> None:
    """Print one line on standard error, where a rule's log catches it."""
    print(text, file=sys.stderr, flush=True)


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
