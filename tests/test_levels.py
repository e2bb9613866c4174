"""The levels of G: operators, eigenvalues and traces against dense matrices made with loops."""

import copy

import pytest
import torch
from reference import class_vectors, dense_gauss_newton, dense_levels, relative
from torch import nn

from pipeline.anatomy.levels import centre_eigenvalues, cross_eigenvalues
from pipeline.curvature import component, gauss_newton
from pipeline.curvature.class_pairs import all_pairs, pair_gram
from pipeline.curvature.gram import squared_norms
from pipeline.errors import AnatomyError
from pipeline.models.fnet import fnet

PARTS = ("A1", "A2", "B1", "B2")
CHUNK = 5
ROOM = 2**30


def dense(operator):
    return operator @ torch.eye(operator.shape[0], dtype=operator.dtype)


def arranged(labels, how):
    """Return labels as they are, unbalanced, or with the last class absent."""
    classes = int(labels.max()) + 1
    if how == "unbalanced":
        return torch.where(torch.arange(len(labels)) < 8, 0, labels)
    return labels % (classes - 1) if how == "absent" else labels


@pytest.fixture(params=["balanced", "unbalanced", "absent"])
def arrangement(problem, request):
    model, inputs, labels = problem
    return model, inputs, arranged(labels, request.param)


def test_each_component_is_its_dense_matrix(arrangement):
    model, inputs, labels = arrangement
    levels = dense_levels(model, inputs, labels)
    scale = dense_gauss_newton(model, inputs).norm()
    for name in PARTS:
        found = dense(component(model, (inputs, labels), name=name, chunk=CHUNK))
        assert (found - levels[name]).norm() < 1e-13 * scale, name


def test_the_components_add_up_to_g_and_the_misprint_does_not(arrangement):
    model, inputs, labels = arrangement
    G = dense_gauss_newton(model, inputs)
    assert relative(sum(dense_levels(model, inputs, labels).values()), G) < 1e-13
    parts = [dense(component(model, (inputs, labels), name=name)) for name in PARTS]
    assert relative(sum(parts), G) < 1e-13
    wrong = dense_levels(model, inputs, labels, misprinted=True)
    if len(set(labels.tolist())) > 1:
        assert relative(sum(wrong.values()), G) > 0.01


def test_ten_classes_of_which_some_have_one_example():
    torch.manual_seed(0)
    model, inputs = fnet((1, 4, 4), 10, "none", width=5, depth=1).double(), torch.randn(13, 1, 4, 4)
    labels = torch.arange(13) % 10
    levels = dense_levels(model, inputs, labels)
    for name in PARTS:
        found = component(model, (inputs, labels), name=name)
        assert relative(dense(found), levels[name]) < 1e-12, name
    pairs = pair_gram(model, (inputs, labels), all_pairs(range(10)), room=ROOM)
    expected = torch.linalg.eigvalsh(levels["B1"]).flip(0)[:80]
    assert relative(cross_eigenvalues(pairs), expected) < 1e-12


def test_a2_lies_in_the_span_of_a1_and_ranks_are_bounded(problem):
    model, inputs, labels = problem
    C = int(labels.max()) + 1
    A1, A2, B1 = (
        dense(component(model, (inputs, labels), name=name)) for name in ("A1", "A2", "B1")
    )
    span = torch.linalg.svd(A1)[0][:, :C]
    assert (A2 - span @ (span.T @ A2)).norm() < 1e-12 * A2.norm()
    assert torch.linalg.matrix_rank(A1, rtol=1e-10) <= C
    assert torch.linalg.matrix_rank(B1 + 1e-12 * A1, rtol=1e-8) <= C * (C - 2) or C == 2
    assert torch.linalg.matrix_rank(A1 + A2 + B1, rtol=1e-10) <= C * (C - 1)


@pytest.mark.parametrize("name", ["G-A1", "G - A1 - A2 - B1", "A1+B1", "-B2", "A1-A1+A2"])
def test_knockouts_are_differences_of_dense_matrices(problem, name):
    model, inputs, labels = problem
    levels = dense_levels(model, inputs, labels) | {"G": dense_gauss_newton(model, inputs)}
    expected, sign = torch.zeros_like(levels["G"]), 1
    for part in name.replace("-", " - ").replace("+", " + ").split():
        if part in levels:
            expected, sign = expected + sign * levels[part], 1
        else:
            sign = -1 if part == "-" else 1
    found = component(model, (inputs, labels), name=name, chunk=CHUNK)
    assert (dense(found) - expected).norm() < 1e-13 * levels["G"].norm()
    again = component(model, (inputs, labels), name="G", chunk=CHUNK).named(name)
    assert torch.equal(dense(again), dense(found))


@pytest.mark.parametrize("name", ["", "A3", "G A1", "G--A1", "2 G", "G-"])
def test_other_names_are_refused(one_problem, name):
    model, inputs, labels = one_problem
    with pytest.raises(AnatomyError, match="no component of G"):
        component(model, (inputs, labels), name=name)


def test_signs_of_a_component_are_known(one_problem):
    model, inputs, labels = one_problem
    of = component(model, (inputs, labels), name="B1")
    assert of.positive
    assert of.named("G-A1").positive  # as the weights tell
    assert not of.named("A1-B1").positive


def test_the_parts_of_single_classes_add_up_to_b2(arrangement):
    model, inputs, labels = arrangement
    classes = model(inputs).shape[1]
    data = (inputs, labels)
    parts = [
        dense(component(model, data, name="B2", true_class=c, chunk=CHUNK)) for c in range(classes)
    ]
    B2 = dense_levels(model, inputs, labels)["B2"]
    assert (sum(parts) - B2).norm() < 1e-12 * B2.norm()
    for c, part in enumerate(parts):
        assert bool(part.any()) == bool((labels == c).any())
    with pytest.raises(AnatomyError, match=f"true_class is {classes}"):
        component(model, data, name="B2", true_class=classes)


def test_recomputed_chunks_give_the_same_component(problem):
    model, inputs, labels = problem
    kept = component(model, (inputs, labels), name="G-B1", chunk=CHUNK)
    none = component(model, (inputs, labels), name="G-B1", chunk=CHUNK, memory_gb=0.0)
    assert (kept.kept, none.kept) == (3, 0)
    V = torch.randn(kept.shape[0], 3, dtype=torch.float64)
    assert relative(none @ V, kept @ V) < 1e-13
    assert relative(kept @ V[:, 0], (kept @ V)[:, 0]) < 1e-13


def test_the_gram_matrix_is_that_of_explicit_vectors(arrangement):
    model, inputs, labels = arrangement
    pi, g = class_vectors(model, inputs)
    C = pi.shape[1]
    rows = []
    for c, k in all_pairs(range(C)):
        members = labels == c
        weights = pi[members, k] / pi[members, k].sum() if members.any() else pi[members, k]
        rows.append((weights[:, None] * g[members, k]).sum(0))
    rows = torch.stack(rows)
    found = pair_gram(model, (inputs, labels), all_pairs(range(C)), room=ROOM, chunk=CHUNK)
    assert relative(found.gram, rows @ rows.T) < 1e-13
    # In blocks of some seven parameters, and for some of the pairs alone.
    small = pair_gram(model, (inputs, labels), all_pairs(range(C)), room=8 * 7 * C * C)
    assert relative(small.gram, found.gram) < 1e-13
    own = pair_gram(model, (inputs, labels), [(c, c) for c in range(C)], room=ROOM)
    places = [c * C + c for c in range(C)]
    assert relative(own.gram, found.gram[places][:, places]) < 1e-13


def test_eigenvalues_from_the_gram_matrix_are_the_dense_ones(arrangement):
    model, inputs, labels = arrangement
    levels = dense_levels(model, inputs, labels)
    C = model(inputs).shape[1]
    pairs = pair_gram(model, (inputs, labels), all_pairs(range(C)), room=ROOM)
    centres = pair_gram(model, (inputs, labels), [(c, c) for c in range(C)], room=ROOM)
    found = centre_eigenvalues(centres) | {"B1": cross_eigenvalues(pairs)}
    assert (len(found["A1"]), len(found["A2"])) == (C, C)
    scale = torch.linalg.eigvalsh(levels["A1"]).max()
    for name, values in found.items():
        expected = torch.linalg.eigvalsh(levels[name]).flip(0)[: len(values)]
        assert len(values) or (name, C) == ("B1", 2)
        assert (values - expected).norm() < 1e-12 * scale
        # What is not among them is zero.
        assert abs(values.sum() - levels[name].trace()) < 1e-12 * scale


def test_quadratic_forms_are_split_by_component_and_class_pair(arrangement):
    model, inputs, labels = arrangement
    levels = dense_levels(model, inputs, labels)
    operator = component(model, (inputs, labels), name="G", chunk=CHUNK)
    V = torch.randn(operator.shape[0], 11, dtype=torch.float64)
    between, within = operator.traces(V)
    for i, name in enumerate(("A1", "A2", "B1")):
        expected = torch.einsum("pk,pq,qk->k", V, levels[name], V)
        assert torch.allclose(between[:, i], expected, rtol=1e-10, atol=1e-14)
    expected = torch.einsum("pk,pq,qk->k", V, levels["B2"], V)
    assert torch.allclose(within.sum((1, 2)), expected, rtol=1e-10)


def test_exact_traces_are_split_by_class_pair(arrangement):
    model, inputs, labels = arrangement
    pi, g = class_vectors(model, inputs)
    found = squared_norms(model, (inputs, labels), chunk=CHUNK)
    for c, k in all_pairs(range(pi.shape[1])):
        members = labels == c
        expected = (pi[members, k] * g[members, k].square().sum(-1)).sum() / len(labels)
        assert torch.isclose(found[c, k], expected, rtol=1e-12)


@pytest.mark.parametrize("wrong", [0, 1])  # 1: certain, and wrong of most examples
def test_a_certain_network_loses_no_accuracy_in_float32(wrong):
    torch.manual_seed(0)
    model = fnet((1, 6, 6), 4, "none", width=8, depth=1).double()
    inputs = torch.randn(40, 1, 6, 6, dtype=torch.float64)
    lead = model(inputs).topk(2).values
    with torch.no_grad():
        for parameter in list(model.parameters())[-2:]:
            parameter *= 16 / (lead[:, 0] - lead[:, 1]).quantile(0.3)
    sure = (model(inputs).softmax(-1).max(-1).values > 1 - 1e-6).nonzero()[:, 0]
    inputs = inputs[sure]
    labels = (model(inputs).argmax(-1) + wrong * torch.arange(len(inputs))) % 4
    single = copy.deepcopy(model).float()
    for name in (*PARTS, "G-A1"):
        exact = component(model, (inputs, labels), name=name)
        found = component(single, (inputs.float(), labels), name=name)
        v = torch.randn(exact.shape[0], dtype=torch.float64)
        assert relative(found @ v.float(), exact @ v) < 1e-5, name
    G = gauss_newton(model, (inputs, labels)), gauss_newton(single, (inputs.float(), labels))
    assert relative(G[1] @ v.float(), G[0] @ v) < 1e-5
    data, pairs = (inputs, labels), all_pairs(range(4))
    exact = pair_gram(model, data, pairs, room=ROOM)
    found = pair_gram(single, (inputs.float(), labels), pairs, room=ROOM)
    for values, expected in (
        (centre_eigenvalues(found)["A1"], centre_eigenvalues(exact)["A1"]),
        (centre_eigenvalues(found)["A2"], centre_eigenvalues(exact)["A2"]),
        (cross_eigenvalues(found), cross_eigenvalues(exact)),
    ):
        assert relative(values, expected) < 1e-5


def test_a_component_of_g_is_g(problem):
    model, inputs, labels = problem
    G = component(model, (inputs, labels), name="G", chunk=CHUNK)
    assert relative(dense(G), dense(gauss_newton(model, (inputs, labels), chunk=CHUNK))) < 1e-14


def test_networks_that_work_in_place_are_multiplied_rightly():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 6), nn.LeakyReLU(inplace=True), nn.Linear(6, 3)
    )
    model = model.double()
    inputs, labels = torch.randn(9, 1, 4, 4, dtype=torch.float64), torch.arange(9) % 3
    levels = dense_levels(model, inputs, labels)
    for name in PARTS:
        found = component(model, (inputs, labels), name=name)
        assert relative(dense(found), levels[name]) < 1e-12
