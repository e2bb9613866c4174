"""The cubes' variables: their further dimensions, long names, units and sources."""

from pipeline.cubes.bounds_schema import BOUNDS_SCHEMA
from pipeline.cubes.layers_schema import LAYERS_SCHEMA
from pipeline.cubes.variable import PLACE_DIMS, RUN_DIMS, SIZES, Variable

_BY_EPOCH = ("epoch",)
_BY_CANDIDATE = ("candidate",)
_MATRIX = (*PLACE_DIMS, "matrix")
_LANCZOS = (*_MATRIX, "probe", "node")
_ORDER = (*_MATRIX, "order")
_BOTTOM = (*_MATRIX, "from_bottom")
_MOMENT = (*_MATRIX, "degree")
_PLACE = PLACE_DIMS
_COMPONENT = (*_PLACE, "component")
_BY_PAIR = (*_PLACE, "true_class", "cross_class")


def _quadrature(prefix: str, dim: str, what: str) -> dict[str, Variable]:
    dims = (*_PLACE, dim, "probe", "node")
    source = "S, Lanczos quadrature"
    return {
        f"{prefix}ritz_value": Variable(dims, f"quadrature node: {what}", "nat", source),
        f"{prefix}ritz_weight": Variable(
            dims, f"quadrature weight, summing to 1 over nodes: {what}", "1", source
        ),
    }


SCHEMA: dict[str, dict[str, Variable]] = {
    "training": {
        "train_loss": Variable(
            _BY_EPOCH, "mean cross-entropy, training examples", "nat", "S, training"
        ),
        "train_accuracy": Variable(_BY_EPOCH, "accuracy, training examples", "1", "S, training"),
        "test_loss": Variable(_BY_EPOCH, "mean cross-entropy, test examples", "nat", "S, training"),
        "test_accuracy": Variable(_BY_EPOCH, "accuracy, test examples", "1", "S, training"),
        "lr": Variable(_BY_EPOCH, "learning rate during the epoch", "1", "the recipe"),
        "diverged": Variable(
            _BY_EPOCH,
            "1 from the epoch on in which the loss ceased to be finite",
            "1",
            "history.csv",
        ),
        "weight_norm": Variable(_BY_EPOCH, "Euclidean norm of all parameters", "1", "history.csv"),
        "candidate_lr": Variable(
            _BY_CANDIDATE, "learning rate of a sweep's candidate", "1", "S, learning rates"
        ),
        "candidate_test_error": Variable(
            _BY_CANDIDATE, "1 - test accuracy after its last epoch", "1", "S, learning rates"
        ),
        "candidate_diverged": Variable(
            _BY_CANDIDATE, "1 where its loss ceased to be finite", "1", "sweep.csv"
        ),
        "candidate_selected": Variable(
            _BY_CANDIDATE, "1 for the candidate whose network this run is", "1", "sweep.csv"
        ),
    },
    "spectrum": {
        "ritz_value": Variable(
            _LANCZOS, "quadrature node of the deflated matrix", "nat", "S, Lanczos quadrature"
        ),
        "ritz_weight": Variable(
            _LANCZOS, "quadrature weight, summing to 1 over nodes", "1", "S, Lanczos quadrature"
        ),
        "eigenvalue": Variable(
            _ORDER, "eigenvalue, algebraically largest first; NaN if not converged", "nat", "S"
        ),
        "residual": Variable(
            _ORDER, "||A v - lambda v|| of the eigenpair", "nat", "docs/method.md"
        ),
        "converged": Variable(
            _ORDER, "1 where the residual is within tolerance", "1", "docs/method.md"
        ),
        "complete": Variable(
            _MATRIX,
            "1 if the pairs are the largest (and smallest) with 99 % confidence, 0 if some may be "
            "missing",
            "1",
            "docs/method.md",
        ),
        "bottom_eigenvalue": Variable(
            _BOTTOM, "eigenvalue, the smallest first; NaN if not converged", "nat", "S"
        ),
        "bottom_residual": Variable(
            _BOTTOM, "||A v - lambda v|| of the eigenpair", "nat", "docs/method.md"
        ),
        "exact": Variable(
            _MATRIX,
            "1 where all eigenvalues but zeros are here, from a dense or a Gram matrix",
            "1",
            "docs/method.md",
        ),
        "basis_kept": Variable(
            _MATRIX,
            "Lanczos vectors orthogonalised against; fewer than the nodes where memory ended, "
            "NaN where the spectrum is exact",
            "1",
            "docs/method.md",
        ),
        "deflated_count": Variable(
            _MATRIX, "eigenvalues taken out before quadrature, or all that are known", "1", "S"
        ),
        "trace": Variable(
            _MATRIX,
            "trace: eigenvalues, and an estimate of what is not among them",
            "nat",
            "docs/method.md",
        ),
        "trace_stderr": Variable(_MATRIX, "standard error of the trace", "nat", "docs/method.md"),
        "square_trace": Variable(
            _MATRIX, "trace of the matrix's square, likewise", "nat^2", "docs/method.md"
        ),
        "square_trace_stderr": Variable(
            _MATRIX, "standard error of the square's trace", "nat^2", "docs/method.md"
        ),
        "moment": Variable(
            _MOMENT,
            "sum of eigenvalues to the power degree, by eigenpairs and quadrature",
            "nat^degree",
            "S, Lanczos quadrature",
        ),
        "moment_stderr": Variable(
            _MOMENT, "standard error of the moment", "nat^degree", "docs/method.md"
        ),
        "outlier_count": Variable(
            _MATRIX, "eigenvalues above the most isolated gap", "1", "S; spectra/outliers.py"
        ),
        "outlier_fewest": Variable(
            _MATRIX, "smallest count by a gap that satisfies the criterion", "1", "docs/method.md"
        ),
        "outlier_most": Variable(
            _MATRIX, "largest count by a gap that satisfies the criterion", "1", "docs/method.md"
        ),
        "bulk_edge": Variable(
            _MATRIX, "largest eigenvalue that is no outlier", "nat", "S; spectra/outliers.py"
        ),
        "bulk_edge_low": Variable(
            _MATRIX, "bulk edge if outlier_most were outliers", "nat", "docs/method.md"
        ),
        "bulk_edge_high": Variable(
            _MATRIX, "bulk edge if outlier_fewest were outliers", "nat", "docs/method.md"
        ),
        **SIZES,
    },
    "hierarchy": {
        "probability": Variable(
            _BY_PAIR, "p_ck / N: share of an example of class c, given to class k", "1", "S"
        ),
        "eigenvalue": Variable(
            (*_COMPONENT, "order"),
            "eigenvalues of A1, A2 and B1, all that can be other than zero",
            "nat",
            "S; from the Gram matrix of the g_ck",
        ),
        "trace": Variable(_COMPONENT, "trace of the component", "nat", "docs/method.md"),
        "trace_stderr": Variable(
            _COMPONENT, "standard error of the trace, 0 where exact", "nat", "docs/method.md"
        ),
        "within_trace": Variable(
            _BY_PAIR, "trace of (p_ck / N) Cov_ck, which sum to B2", "nat", "S; docs/method.md"
        ),
        "within_trace_stderr": Variable(
            _BY_PAIR, "standard error of the same, 0 where exact", "nat", "docs/method.md"
        ),
        **_quadrature("", "component", "G and B2; B1 where its eigenvalues are not complete"),
        **_quadrature("knockout_", "knockout", "G with components knocked out"),
        **_quadrature("class_", "true_class", "B2_c, the part of B2 of one true class"),
        "gram": Variable(
            (*_PLACE, "pair", "pair_2"),
            "inner products of the g_ck of the chosen classes",
            "nat^2",
            "S, t-SNE",
        ),
        "pair_true": Variable(
            (*_PLACE, "pair"), "true class c of the pair, counted from 0", "1", "S"
        ),
        "pair_cross": Variable(
            (*_PLACE, "pair"), "cross class k of the pair, counted from 0", "1", "S"
        ),
        "class_index": Variable(
            (*_PLACE, "true_class"), "the class's number in its data set, from 0", "1", "data"
        ),
        "basis_kept": Variable(
            _PLACE,
            "Lanczos vectors orthogonalised against; fewer than the nodes where memory ended",
            "1",
            "docs/method.md",
        ),
        "embedding": Variable(
            (*_PLACE, "point", "axis"),
            "t-SNE of the centres g_c of the chosen classes, then of the pairs' g_ck",
            "1",
            "S, t-SNE",
        ),
        "embedding_divergence": Variable(
            _PLACE, "Kullback-Leibler divergence that t-SNE ended at", "nat", "scikit-learn"
        ),
        "embedding_seed": Variable(_PLACE, "seed of the t-SNE", "1", "streams.py"),
        "identity_error": Variable(
            _PLACE, "||(A1 + A2 + B1 + B2 - G) V|| / ||G V||", "1", "docs/method.md"
        ),
        **SIZES,
    },
    **LAYERS_SCHEMA,
    **BOUNDS_SCHEMA,
}

_LEADING = {"overlap": RUN_DIMS[:5], "theory": ()}


def leading_dims(cube: str) -> tuple[str, ...]:
    """Return the dimensions that all variables of a cube begin with: a run's, in most."""
    return _LEADING.get(cube, RUN_DIMS)
