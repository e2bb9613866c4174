"""Points in the plane, by t-SNE from the Gram matrix of vectors."""

from dataclasses import dataclass

import numpy as np
from sklearn.manifold import TSNE


@dataclass(frozen=True)
class Embedding:
    """``coordinates`` (n, 2), NaN for vectors that are not there, and the divergence reached."""

    coordinates: np.ndarray
    divergence: float


def embed(gram: np.ndarray, *, perplexity: float, seed: int) -> Embedding:
    """Return the t-SNE of n vectors known by their Gram matrix (n, n); zero vectors are left out.

    Distances are Euclidean; a perplexity that is too large for so few points is lowered.  ``seed``
    has 32 bits.  Source: S; van der Maaten and Hinton (2008), by scikit-learn.
    """
    squares = np.diag(gram)
    there = np.flatnonzero(squares > 0)
    coordinates = np.full((len(gram), 2), np.nan)
    if len(there) < 4:
        return Embedding(coordinates, float("nan"))
    inside = gram[np.ix_(there, there)]
    squared = squares[there, None] + squares[there] - 2 * inside
    distances = np.sqrt(np.maximum((squared + squared.T) / 2, 0))
    np.fill_diagonal(distances, 0)
    method = TSNE(
        metric="precomputed",
        init="random",
        method="exact",
        perplexity=min(perplexity, (len(there) - 1) / 2),
        random_state=seed,
    )
    coordinates[there] = method.fit_transform(distances)
    return Embedding(coordinates, float(method.kl_divergence_))
