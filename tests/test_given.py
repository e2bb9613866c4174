"""Data, labels and arguments of operators: each wrong one is refused by name, value and cure."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import dense_hessian, relative
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from pipeline.curvature import component, gauss_newton, hessian, layer_hessian, residual
from pipeline.curvature.class_pairs import all_pairs, pair_gram
from pipeline.curvature.gram import gauss_newton_factors, squared_norms
from pipeline.curvature.kronecker_factors import kronecker_factors
from pipeline.curvature.preactivations import output_hessian
from pipeline.errors import ArgumentError

N, C = 20, 3
X = torch.randn(N, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % C


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, C))


FUNCTIONS = {
    "Hess": hessian,
    "G": gauss_newton,
    "H": residual,
    "B1": partial(component, name="B1"),
    "layer": partial(layer_hessian, layer="0"),
    "output": partial(output_hessian, layers=["0"]),
    "Kronecker": partial(kronecker_factors, layer="0"),
    "factors": gauss_newton_factors,
    "norms": squared_norms,
    "pairs": partial(pair_gram, pairs=all_pairs(range(C)), room=10**6),
}

LABELS = {
    "fractions": (Y + 0.5, r"labels are torch.float32.*integers"),
    "whole floats": (Y.float(), r"labels are torch.float32.*integers"),
    "NaN": (torch.full((N,), torch.nan), "labels are torch.float32"),
    "booleans": (Y > 0, "labels are torch.bool"),
    "complex": (Y.to(torch.complex64), "labels are torch.complex64"),
    "one-hot": (F.one_hot(Y, C), r"shape \(20, 3\).*argmax"),
    "a column": (Y[:, None], r"shape \(20, 1\).*squeeze"),
    "a number": (torch.tensor(1), r"shape \(\)"),
    "too few": (Y[:-1], "20 inputs and 19 labels"),
    "none": (None, "labels are a NoneType"),
    "a list": (Y.tolist(), "labels are a list"),
    "words": (np.array(["a"] * N), "labels are a ndarray"),
    "too large": (Y + 1, "labels run from 1 to 3.*3 outputs"),
    "negative": (Y - 1, "labels run from -1"),
    "ignored": (Y.masked_fill(Y == 0, -100), "labels run from -100"),
}


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_labels_that_are_no_class_numbers_are_refused(kind, function):
    labels, says = LABELS[kind]
    with pytest.raises(ArgumentError, match=says):
        FUNCTIONS[function](network(), (X, labels))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64])
def test_integers_of_any_width_are_labels(dtype):
    v = torch.ones(53)
    expected = hessian(network(), (X, Y)) @ v
    assert torch.equal(hessian(network(), (X, Y.to(dtype))) @ v, expected)
    assert torch.equal(hessian(network(), [X.numpy(), Y.to(dtype).numpy()]) @ v, expected)


class Pair:
    inputs, labels = X, Y


DATA = {
    "a loader": DataLoader(TensorDataset(X, Y), 5),
    "a data set": TensorDataset(X, Y),
    "a dictionary": {"inputs": X, "labels": Y},
    "inputs only": X,
    "three": (X, Y, Y),
    "nothing": None,
    "no inputs": (None, Y),
    "a list of lists": (X.tolist(), Y),
    "a number": (torch.tensor(1.0), Y),
    "no examples": (X[:0], Y[:0]),
    "other features": (X[:, :4], Y),
}


@pytest.mark.parametrize("kind", DATA)
def test_data_of_other_forms_are_refused(kind):
    with pytest.raises(ArgumentError, match=r"data is|inputs are|inputs and|network fails"):
        hessian(network(), DATA[kind])


def test_an_object_with_inputs_and_labels_is_data():
    v = torch.ones(53)
    assert torch.equal(hessian(network(), Pair) @ v, hessian(network(), (X, Y)) @ v)


class Words(nn.Module):
    """An embedding of integer inputs."""

    def __init__(self):
        super().__init__()
        self.embedding, self.linear = nn.Embedding(9, 4), nn.Linear(4, C)

    def forward(self, words):
        return self.linear(self.embedding(words).mean(1).tanh())


def test_integer_inputs_keep_their_type():
    torch.manual_seed(0)
    model, words = Words().double(), torch.randint(0, 9, (N, 4))
    total = 0.0
    parameters = list(model.parameters())
    loss = F.cross_entropy(model(words), Y)
    gradient = torch.autograd.grad(loss, parameters, create_graph=True)
    flat = torch.cat([g.flatten() for g in gradient])
    rows = [torch.autograd.grad(g, parameters, retain_graph=True) for g in flat]
    total = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    A = hessian(model, (words, Y), chunk=7)
    assert relative(A @ torch.eye(len(total), dtype=total.dtype), total) < 1e-12


WRONG = {
    "chunk": [0, -1, 2.0, "3", None, True],
    "memory_gb": [-1, float("nan"), float("inf"), "1"],
    "vectors": [0, -2, 1.5],
    "compiled": [1, None, "no"],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, some in WRONG.items() for v in some])
@pytest.mark.parametrize("function", ["Hess", "B1", "layer", "factors"])
def test_an_option_out_of_range_is_refused(name, value, function):
    with pytest.raises(ArgumentError, match=rf"^{name} is "):
        FUNCTIONS[function](network(), (X, Y), **{name: value})


@pytest.mark.parametrize("true_class", [-1, C, 1.0, "a", True])
def test_a_class_that_is_none_is_refused(true_class):
    with pytest.raises(ArgumentError, match=r"^true_class is .*from 0 to 2"):
        component(network(), (X, Y), name="B2", true_class=true_class)


@pytest.mark.parametrize("name", ["A3", "", "G-", "A1 B1", None, 3])
def test_a_component_that_is_none_is_refused(name):
    with pytest.raises(ArgumentError, match=r"^name is "):
        component(network(), (X, Y), name=name)


@pytest.mark.parametrize("layer", ["fc1", "1", "", None, 0])
def test_a_layer_that_is_none_is_refused(layer):
    for function in (layer_hessian, kronecker_factors):
        with pytest.raises(ArgumentError, match=r"^layer is .*Name one of 0, 2"):
            function(network(), (X, Y), layer=layer)


@pytest.mark.parametrize("layers", [[], "0", None, ["0", "0"]])
def test_layers_that_are_none_are_refused(layers):
    with pytest.raises(ArgumentError, match=r"^layers is "):
        output_hessian(network(), (X, Y), layers=layers)


VECTORS = {
    "NumPy": np.ones(53, dtype=np.float32),
    "a list": [1.0] * 53,
    "too short": torch.ones(52),
    "a row": torch.ones(1, 53),
    "three axes": torch.ones(53, 1, 1),
    "a number": torch.tensor(1.0),
    "complex": torch.ones(53, dtype=torch.complex64),
    "sparse": torch.ones(53, 1).to_sparse(),
    "elsewhere": torch.ones(53, device="meta"),
}


@pytest.mark.parametrize("kind", VECTORS)
@pytest.mark.parametrize("make", ["Hess", "B1", "sum"])
def test_vectors_of_other_forms_are_refused(kind, make):
    A = hessian(network(), (X, Y))
    A = {"Hess": A, "B1": component(network(), (X, Y), name="B1"), "sum": A + 2 * A}[make]
    with pytest.raises(ArgumentError, match=r"^V (is|has)"):
        A @ VECTORS[kind]


def test_vectors_of_any_real_type_and_number_are_multiplied():
    A = hessian(network(), (X, Y))
    v = torch.arange(53)
    assert torch.equal(A @ v, A @ v.float())
    assert torch.equal(A @ v.double(), A @ v.float())
    assert (A @ torch.ones(53, 0)).shape == (53, 0)


def test_a_refused_argument_leaves_right_numbers():
    expected = dense_hessian(network(), X, Y)
    with pytest.raises(ArgumentError):
        hessian(network(), (X, Y + 1))
    assert relative(hessian(network(), (X, Y)) @ torch.eye(53), expected) < 1e-5


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    chunk=st.one_of(st.integers(-3, 30), st.floats(), st.none(), st.booleans()),
    vectors=st.one_of(st.integers(-3, 30), st.floats(), st.none()),
    memory_gb=st.one_of(st.floats(), st.none(), st.integers(-2, 1)),
    labels=st.one_of(
        st.lists(st.integers(-1, C), min_size=N, max_size=N).map(torch.tensor),
        st.lists(st.floats(), min_size=N, max_size=N).map(torch.tensor),
        st.just(Y),
    ),
)
def test_arguments_are_right_or_refused(chunk, vectors, memory_gb, labels):
    def whole(value):
        return isinstance(value, int) and not isinstance(value, bool) and value >= 1

    right = (
        whole(chunk)
        and (vectors is None or whole(vectors))
        and (memory_gb is None or (np.isfinite(memory_gb) and memory_gb >= 0))
        and not labels.is_floating_point()
        and 0 <= labels.min() <= labels.max() < C
    )
    try:
        A = gauss_newton(network(), (X, labels), chunk=chunk, vectors=vectors, memory_gb=memory_gb)
    except ArgumentError:
        assert not right
    else:
        assert right
        v = torch.ones(53)
        assert relative(A @ v, gauss_newton(network(), (X, labels)) @ v) < 1e-4


@pytest.mark.parametrize("pairs", [[], "01", [(0, 3)], [(0,)], [(0, 1), (0, 1)], [(0, 1.5)], None])
def test_pairs_that_are_no_class_pairs_are_refused(pairs):
    with pytest.raises(ArgumentError, match="pairs"):
        pair_gram(network(), (X, Y), pairs, room=10**6)


INPUTS = {
    "sparse": X.to_sparse(),
    "complex": X.to(torch.complex64),
    "NaN": X.where(X.max() > X, torch.nan),
    "infinite": X.where(X.max() > X, torch.inf),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_inputs_that_are_no_finite_numbers_are_refused(kind):
    with pytest.raises(ArgumentError, match=r"^inputs "):
        hessian(network(), (INPUTS[kind], Y))
