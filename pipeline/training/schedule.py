"""Learning rate by epoch."""

from pipeline.config import Recipe


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """Return the rate during ``epoch`` (1 is the first): ``lr``, dropped after fractions of the epochs.

    S drops it tenfold at 1/3 and 2/3 of the epochs.
    """
    drops = sum((epoch - 1) >= round(fraction * recipe.epochs) for fraction in recipe.drop_at)
    return recipe.lr * recipe.drop_factor**drops
