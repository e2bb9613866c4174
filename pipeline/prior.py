"""The prior of a PAC-Bayes bound, of which configuration and optimisation both speak."""

from math import log

from pipeline.stages import Bounds


def highest_half_log_lambda(settings: Bounds) -> float:
    """Return (1/2) log lambda of j = 1, the largest variance that the prior may have."""
    return (log(settings.prior_ceiling) - 1 / settings.prior_steps) / 2
