"""Overlaps of eigenspaces, and eigenpairs of Kronecker products."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.anatomy.kronecker import kronecker_cosines, top_products
from pipeline.anatomy.overlap import eigenspace_overlap


def orthonormal(p, k, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(p, k, generator=generator, dtype=torch.float64))[0]


def test_overlap_is_one_with_itself_and_k_over_p_with_a_random_space():
    U = orthonormal(300, 20, 0)
    assert torch.allclose(eigenspace_overlap(U, U), torch.ones(20, dtype=torch.float64))
    # The space counts, not the basis.
    turned = U @ orthonormal(20, 20, 1)
    assert float(eigenspace_overlap(U, turned)[-1]) == pytest.approx(1)
    random = torch.stack([eigenspace_overlap(U, orthonormal(300, 20, s)) for s in range(2, 80)])
    expected = torch.arange(1, 21) / 300
    assert torch.allclose(random.mean(0)[4:], expected[4:].double(), rtol=0.1)


def test_overlap_is_what_its_definition_says():
    U, V = orthonormal(30, 6, 0), orthonormal(30, 6, 1)
    for k, found in enumerate(eigenspace_overlap(U, V), start=1):
        expected = (U[:, :k].T @ V[:, :k]).norm() ** 2 / k
        assert float(found) == pytest.approx(float(expected))


positive = st.lists(st.floats(0, 10), min_size=1, max_size=9)


@given(positive, positive, st.integers(1, 90))
def test_the_heap_finds_what_sorting_finds(left, right, k):
    left, right = np.sort(left)[::-1], np.sort(right)[::-1]
    values, places = top_products(left, right, k)
    assert np.array_equal(values, np.sort(np.outer(left, right).ravel())[::-1][:k])
    assert np.array_equal(values, left[places[:, 0]] * right[places[:, 1]])
    assert len({tuple(place) for place in places}) == len(places)


def test_cosines_with_kronecker_vectors_are_those_of_formed_ones():
    U, V = orthonormal(5, 5, 0), orthonormal(7, 7, 1)
    vectors = orthonormal(35, 4, 2)
    places = np.array([(0, 0), (1, 0), (0, 3), (4, 6)])
    formed = torch.stack([torch.kron(U[:, i], V[:, j]) for i, j in places], 1)
    assert torch.allclose(kronecker_cosines(vectors, U, V, places), vectors.T @ formed)
