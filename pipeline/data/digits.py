"""scikit-learn's handwritten digits: 1797 images of 8 x 8, the default that needs no download."""

import numpy as np
import torch
from sklearn.datasets import load_digits

from pipeline.config import Dataset
from pipeline.data.source import Source, in_memory

TEST_PER_CLASS = 20
SPLIT_SEED = 0
CLASSES = 10


def load_split(dataset: Dataset, split: str, *, data_root: str, download: bool) -> Source:
    """Return the training (1597 examples) or test split (20 of each class).

    scikit-learn ships one set; the split is this project's own, drawn once and the same for ever.
    """
    bunch = load_digits()
    draw = np.random.default_rng(SPLIT_SEED)
    test = np.sort(
        np.concatenate(
            [
                draw.choice(np.flatnonzero(bunch.target == c), TEST_PER_CLASS, replace=False)
                for c in range(CLASSES)
            ]
        )
    )
    chosen = test if split == "test" else np.setdiff1d(np.arange(len(bunch.target)), test)
    images = torch.from_numpy(bunch.images[chosen] / 16.0).float().unsqueeze(1)
    return in_memory(images, bunch.target[chosen], tuple(str(c) for c in range(CLASSES)))
