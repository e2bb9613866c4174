"""The cubes' variables: their further dimensions, long names, units and sources."""

from pipeline.cubes.bounds_schema import BOUNDS_SCHEMA
from pipeline.cubes.hierarchy_schema import HIERARCHY_SCHEMA
from pipeline.cubes.layers_schema import LAYERS_SCHEMA
from pipeline.cubes.variable import PLACE_DIMS, RUN_DIMS, SIZES, Variable

_BY_EPOCH = ("epoch",)
_BY_CANDIDATE = ("candidate",)
_MATRIX = (*PLACE_DIMS, "matrix")
_LANCZOS = (*_MATRIX, "probe", "node")
_ORDER = (*_MATRIX, "order")
_BOTTOM = (*_MATRIX, "from_bottom")
_MOMENT = (*_MATRIX, "degree")


SCHEMA: dict[str, dict[str, Variable]] = {
    "training": {
        "train_loss": Variable(
            _BY_EPOCH,
            "training loss",
            "mean cross-entropy, training examples",
            "nat",
            "S, training",
        ),
        "train_accuracy": Variable(
            _BY_EPOCH, "training accuracy", "accuracy, training examples", "1", "S, training"
        ),
        "test_loss": Variable(
            _BY_EPOCH, "test loss", "mean cross-entropy, test examples", "nat", "S, training"
        ),
        "test_accuracy": Variable(
            _BY_EPOCH, "test accuracy", "accuracy, test examples", "1", "S, training"
        ),
        "lr": Variable(
            _BY_EPOCH, "learning rate", "learning rate during the epoch", "1", "the recipe"
        ),
        "diverged": Variable(
            _BY_EPOCH,
            "diverged",
            "1 from the epoch on in which the loss ceased to be finite",
            "1",
            "history.csv",
        ),
        "weight_norm": Variable(
            _BY_EPOCH,
            "norm of the parameters",
            "Euclidean norm of all parameters",
            "1",
            "history.csv",
        ),
        "candidate_lr": Variable(
            _BY_CANDIDATE,
            "candidate's learning rate",
            "learning rate of a sweep's candidate",
            "1",
            "S, learning rates",
        ),
        "candidate_test_error": Variable(
            _BY_CANDIDATE,
            "candidate's test error",
            "1 - test accuracy after its last epoch",
            "1",
            "S, learning rates",
        ),
        "candidate_diverged": Variable(
            _BY_CANDIDATE,
            "candidate diverged",
            "1 where its loss ceased to be finite",
            "1",
            "sweep.csv",
        ),
        "candidate_selected": Variable(
            _BY_CANDIDATE,
            "candidate selected",
            "1 for the candidate whose network this run is",
            "1",
            "sweep.csv",
        ),
    },
    "spectrum": {
        "ritz_value": Variable(
            _LANCZOS,
            "Ritz value",
            "quadrature node of the deflated matrix",
            "nat",
            "S, Lanczos quadrature",
        ),
        "ritz_weight": Variable(
            _LANCZOS,
            "quadrature weight",
            "quadrature weight, summing to 1 over nodes",
            "1",
            "S, Lanczos quadrature",
        ),
        "eigenvalue": Variable(
            _ORDER,
            "eigenvalue",
            "eigenvalue, algebraically largest first; NaN if not converged",
            "nat",
            "S",
        ),
        "residual": Variable(
            _ORDER,
            "residual of the eigenpair",
            "||A v - lambda v|| of the eigenpair",
            "nat",
            "docs/method.md",
        ),
        "converged": Variable(
            _ORDER, "converged", "1 where the residual is within tolerance", "1", "docs/method.md"
        ),
        "complete": Variable(
            _MATRIX,
            "complete",
            "1 if the pairs are the largest (and smallest) with 99 % confidence, 0 if some may be "
            "missing",
            "1",
            "docs/method.md",
        ),
        "bottom_eigenvalue": Variable(
            _BOTTOM,
            "smallest eigenvalues",
            "eigenvalue, the smallest first; NaN if not converged",
            "nat",
            "S",
        ),
        "bottom_residual": Variable(
            _BOTTOM,
            "residual of the smallest eigenpair",
            "||A v - lambda v|| of the eigenpair",
            "nat",
            "docs/method.md",
        ),
        "exact": Variable(
            _MATRIX,
            "exact spectrum",
            "1 where all eigenvalues but zeros are here, from a dense or a Gram matrix",
            "1",
            "docs/method.md",
        ),
        "basis_kept": Variable(
            _MATRIX,
            "Lanczos vectors kept",
            "Lanczos vectors orthogonalised against; fewer than the nodes where memory ended, "
            "NaN where the spectrum is exact",
            "1",
            "docs/method.md",
        ),
        "deflated_count": Variable(
            _MATRIX,
            "deflated eigenvalues",
            "eigenvalues taken out before quadrature, or all that are known",
            "1",
            "S",
        ),
        "trace": Variable(
            _MATRIX,
            "trace",
            "trace: eigenvalues, and an estimate of what is not among them",
            "nat",
            "docs/method.md",
        ),
        "trace_stderr": Variable(
            _MATRIX,
            "standard error of the trace",
            "standard error of the trace",
            "nat",
            "docs/method.md",
        ),
        "square_trace": Variable(
            _MATRIX,
            "trace of the square",
            "trace of the matrix's square, likewise",
            "nat^2",
            "docs/method.md",
        ),
        "square_trace_stderr": Variable(
            _MATRIX,
            "standard error of the square's trace",
            "standard error of the square's trace",
            "nat^2",
            "docs/method.md",
        ),
        "moment": Variable(
            _MOMENT,
            "spectral moment",
            "sum of eigenvalues to the power degree, by eigenpairs and quadrature",
            "nat^degree",
            "S, Lanczos quadrature",
        ),
        "moment_stderr": Variable(
            _MOMENT,
            "standard error of the moment",
            "standard error of the moment",
            "nat^degree",
            "docs/method.md",
        ),
        "outlier_count": Variable(
            _MATRIX,
            "outliers",
            "eigenvalues above the most isolated gap",
            "1",
            "S; spectra/outliers.py",
        ),
        "outlier_fewest": Variable(
            _MATRIX,
            "fewest outliers",
            "smallest count by a gap that satisfies the criterion",
            "1",
            "docs/method.md",
        ),
        "outlier_most": Variable(
            _MATRIX,
            "most outliers",
            "largest count by a gap that satisfies the criterion",
            "1",
            "docs/method.md",
        ),
        "bulk_edge": Variable(
            _MATRIX,
            "bulk edge",
            "largest eigenvalue that is no outlier",
            "nat",
            "S; spectra/outliers.py",
        ),
        "bulk_edge_low": Variable(
            _MATRIX,
            "bulk edge, lower value",
            "bulk edge if outlier_most were outliers",
            "nat",
            "docs/method.md",
        ),
        "bulk_edge_high": Variable(
            _MATRIX,
            "bulk edge, upper value",
            "bulk edge if outlier_fewest were outliers",
            "nat",
            "docs/method.md",
        ),
        **SIZES,
    },
    **HIERARCHY_SCHEMA,
    **LAYERS_SCHEMA,
    **BOUNDS_SCHEMA,
}

_LEADING = {"overlap": RUN_DIMS[:5], "theory": ()}


def leading_dims(cube: str) -> tuple[str, ...]:
    """Return the dimensions that all variables of a cube begin with: a run's, in most."""
    return _LEADING.get(cube, RUN_DIMS)
