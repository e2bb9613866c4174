"""Named random streams: one seed per purpose, all derived from a run's seed."""

import hashlib


def stream(seed: int, *name: str | int) -> int:
    """Return the 63-bit seed of a named stream, such as ``stream(0, "order", epoch)``.

    Streams are independent by name, so that adding a probe, an epoch or a seed changes no other
    stream.  The value depends on the arguments alone, never on the process or the machine.
    """
    text = "/".join(str(part) for part in (seed, *name))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
