"""What a job costs: the sums that a plan is made of."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """What a job, or a piece of one, costs.

    ``passes`` counts products or gradients, each over all examples; ``flop`` FLOPs.  Bytes at the
    peak: ``held`` of data and parameters, ``work`` beside them on the device, ``host`` in main
    memory alone; ``disk`` of what it leaves, ``waiting`` of what goes once its sweep is decided,
    ``scratch`` beside these while it runs.  ``notes`` say what will not go as the configuration
    asks.
    """

    passes: float = 0.0
    flop: float = 0.0
    held: float = 0.0
    work: float = 0.0
    host: float = 0.0
    disk: float = 0.0
    waiting: float = 0.0
    scratch: float = 0.0
    notes: tuple[str, ...] = ()

    def __add__(self, other: "Cost") -> "Cost":
        """Return the cost of one after the other."""
        return Cost(
            self.passes + other.passes,
            self.flop + other.flop,
            max(self.held, other.held),
            max(self.work, other.work),
            max(self.host, other.host),
            self.disk + other.disk,
            self.waiting + other.waiting,
            max(self.scratch, other.scratch),
            tuple(dict.fromkeys(self.notes + other.notes)),
        )
