"""Learning rate by epoch."""

from pipeline.recipes import Recipe
from pipeline.stages import Bounds


def learning_rate(recipe: Recipe | Bounds, epoch: int) -> float:
    """Return the rate during ``epoch``, counted from 1: ``lr``, dropped in the course of training.

    S drops it tenfold at 1/3 and 2/3 of the epochs.  The first epoch has the full rate.
    """
    drops = sum(
        (epoch - 1) >= max(1, round(fraction * recipe.epochs)) for fraction in recipe.drop_at
    )
    return recipe.lr * recipe.drop_factor**drops
