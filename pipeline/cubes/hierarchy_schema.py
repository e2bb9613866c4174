"""The variables of the cube `hierarchy`."""

from pipeline.cubes.variable import PLACE_DIMS, SIZES, Variable

_PLACE = PLACE_DIMS
_COMPONENT = (*_PLACE, "component")
_BY_PAIR = (*_PLACE, "true_class", "cross_class")


def _quadrature(prefix: str, dim: str, label: str, what: str) -> dict[str, Variable]:
    dims = (*_PLACE, dim, "probe", "node")
    source = "S, Lanczos quadrature"
    return {
        f"{prefix}_ritz_value": Variable(
            dims, f"Ritz value, {label}", f"quadrature node: {what}", "nat", source
        ),
        f"{prefix}_ritz_weight": Variable(
            dims,
            f"quadrature weight, {label}",
            f"quadrature weight, summing to 1 over nodes: {what}",
            "1",
            source,
        ),
    }


HIERARCHY_SCHEMA: dict[str, dict[str, Variable]] = {
    "hierarchy": {
        "probability": Variable(
            _BY_PAIR,
            "probability p_ck / N",
            "p_ck / N: share of an example of class c, given to class k",
            "1",
            "S",
        ),
        "component_eigenvalue": Variable(
            (*_COMPONENT, "order"),
            "eigenvalue of the component",
            "eigenvalues of A1, A2 and B1, all that can be other than zero",
            "nat",
            "S; from the Gram matrix of the g_ck",
        ),
        "component_trace": Variable(
            _COMPONENT, "trace of the component", "trace of the component", "nat", "docs/method.md"
        ),
        "component_trace_stderr": Variable(
            _COMPONENT,
            "standard error of the component's trace",
            "standard error of the trace, 0 where exact",
            "nat",
            "docs/method.md",
        ),
        "within_trace": Variable(
            _BY_PAIR,
            "trace of B2 by class pair",
            "trace of (p_ck / N) Cov_ck, which sum to B2",
            "nat",
            "S; docs/method.md",
        ),
        "within_trace_stderr": Variable(
            _BY_PAIR,
            "standard error of B2's traces",
            "standard error of the same, 0 where exact",
            "nat",
            "docs/method.md",
        ),
        **_quadrature(
            "component",
            "component",
            "component",
            "G and B2; B1 where its eigenvalues are not complete",
        ),
        **_quadrature("knockout", "knockout", "knockout", "G with components knocked out"),
        **_quadrature(
            "class", "true_class", "B2 of a class", "B2_c, the part of B2 of one true class"
        ),
        "gram": Variable(
            (*_PLACE, "pair", "pair_2"),
            "inner product of g_ck",
            "inner products of the g_ck of the chosen classes",
            "nat^2",
            "S, t-SNE",
        ),
        "pair_true": Variable(
            (*_PLACE, "pair"),
            "true class of the pair",
            "true class c of the pair, counted from 0",
            "1",
            "S",
        ),
        "pair_cross": Variable(
            (*_PLACE, "pair"),
            "cross class of the pair",
            "cross class k of the pair, counted from 0",
            "1",
            "S",
        ),
        "class_index": Variable(
            (*_PLACE, "true_class"),
            "class number",
            "the class's number in its data set, from 0",
            "1",
            "data",
        ),
        "hierarchy_basis_kept": Variable(
            _PLACE,
            "Lanczos vectors kept, components",
            "Lanczos vectors orthogonalised against; fewer than the nodes where memory ended",
            "1",
            "docs/method.md",
        ),
        "embedding": Variable(
            (*_PLACE, "point", "axis"),
            "t-SNE coordinate",
            "t-SNE of the centres g_c of the chosen classes, then of the pairs' g_ck",
            "1",
            "S, t-SNE",
        ),
        "embedding_divergence": Variable(
            _PLACE,
            "t-SNE divergence",
            "Kullback-Leibler divergence that t-SNE ended at",
            "nat",
            "scikit-learn",
        ),
        "embedding_seed": Variable(_PLACE, "t-SNE seed", "seed of the t-SNE", "1", "streams.py"),
        "identity_error": Variable(
            _PLACE,
            "relative error of the identity",
            "||(A1 + A2 + B1 + B2 - G) V|| / ||G V||",
            "1",
            "docs/method.md",
        ),
        "identity_error_stderr": Variable(
            _PLACE,
            "standard error of identity_error",
            "standard error of identity_error over the columns of V",
            "1",
            "docs/method.md",
        ),
        **SIZES,
    },
}
