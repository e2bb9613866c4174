"""The variables of the cubes `layers`, `overlap` and `theory`."""

from pipeline.cubes.variable import PLACE_DIMS, SIZES, Variable

_PLACE = PLACE_DIMS
_LAYER = (*_PLACE, "layer")
_SEEDS = ("seed_a", "seed_b")
_ACROSS = ("split", "layer", "k", "other_recipe", "other_n_per_class")
_THEORY = ("width", "input", "theory_seed")

LAYERS_SCHEMA: dict[str, dict[str, Variable]] = {
    "layers": {
        "outputs": Variable(
            _LAYER, "layer outputs m", "outputs m of the layer's weight", "1", "definition"
        ),
        "inputs": Variable(
            _LAYER, "layer inputs n", "inputs n of the weight, times kernel size", "1", "definition"
        ),
        "pairs_asked": Variable(
            _LAYER,
            "eigenpairs asked for",
            "eigenpairs asked for; fewer are here where memory or precision ended",
            "1",
            "docs/method.md",
        ),
        "layer_complete": Variable(
            _LAYER,
            "complete, layer",
            "1 if the pairs are the largest with 99 % confidence, 0 if some may be missing",
            "1",
            "docs/method.md",
        ),
        "closed_form": Variable(
            _LAYER,
            "share of closed form",
            "1 where the layer's Hessian was multiplied in closed form, 0 by autograd, 0.5 by both",
            "1",
            "docs/method.md",
        ),
        "residual_share": Variable(
            _LAYER,
            "||H v|| / ||G v||",
            "||H v|| / ||G v|| of the layer's block: rounding for a piecewise-linear network",
            "1",
            "docs/method.md",
        ),
        "layer_eigenvalue": Variable(
            (*_LAYER, "order"),
            "eigenvalue of the layer Hessian",
            "eigenvalue of the layer's Hessian, largest first; NaN if not converged or below its "
            "residual",
            "nat",
            "D",
        ),
        "layer_residual": Variable(
            (*_LAYER, "order"),
            "residual of the layer's eigenpair",
            "||A v - lambda v|| of the eigenpair",
            "nat",
            "docs/method.md",
        ),
        "singular_value": Variable(
            (*_LAYER, "order", "index"),
            "singular value of the eigenvector",
            "singular values of the eigenvector as an outputs x inputs matrix",
            "1",
            "D, reshaped eigenvectors",
        ),
        "eigenvector": Variable(
            (*_LAYER, "shown", "element"),
            "eigenvector of the layer Hessian",
            "leading eigenvectors, outputs x inputs in row-major order",
            "1",
            "D, reshaped eigenvectors",
        ),
        "autocorrelation_eigenvalue": Variable(
            (*_LAYER, "index"),
            "eigenvalue of E[x x^T]",
            "eigenvalue of E[x x^T], the layer's input",
            "1",
            "D",
        ),
        "spectral_ratio": Variable(
            _LAYER,
            "eigenvalue ratio of E[x x^T]",
            "first over second eigenvalue of E[x x^T]",
            "1",
            "D, autocorrelation",
        ),
        "mean_alignment": Variable(
            _LAYER,
            "squared cosine with E[x]",
            "squared cosine of E[x x^T]'s top eigenvector with E[x]",
            "1",
            "D",
        ),
        "output_hessian_eigenvalue": Variable(
            (*_LAYER, "index"),
            "eigenvalue of E[M]",
            "eigenvalue of the output Hessian E[M]",
            "nat",
            "D",
        ),
        "output_gap": Variable(
            _LAYER,
            "eigenvalue gap of E[M]",
            "eigenvalue C - 1 of the output Hessian over eigenvalue C",
            "1",
            "D",
        ),
        "rowspace_overlap": Variable(
            _LAYER,
            "overlap with the row space",
            "overlap of the output Hessian's top C - 1 eigenvectors with the row space of the "
            "product S of later weights less 1^T S; NaN where later layers are not linear",
            "1",
            "D, structure of the output Hessian",
        ),
        "kronecker_eigenvalue": Variable(
            (*_LAYER, "order"),
            "eigenvalue of E[M] (x) E[x x^T]",
            "eigenvalue of E[M] (x) E[x x^T]",
            "nat",
            "D",
        ),
        "kronecker_overlap": Variable(
            (*_LAYER, "k"),
            "overlap with E[M] (x) E[x x^T]",
            "overlap of its top k eigenvectors with the layer Hessian's",
            "1",
            "D",
        ),
        "decoupling_error": Variable(
            _LAYER,
            "decoupling error",
            "||E[M] (x) E[x x^T] - layer Hessian|| / ||layer Hessian||, Frobenius",
            "1",
            "D; docs/method.md",
        ),
        "decoupling_error_stderr": Variable(
            _LAYER,
            "standard error of the decoupling error",
            "standard error of decoupling_error, 0 where exact",
            "1",
            "docs/method.md",
        ),
        "correspondence_output": Variable(
            (*_LAYER, "order", "index"),
            "correspondence, outputs",
            "||u_index^T Mat(h_order)||^2, u of the output Hessian",
            "1",
            "D, correspondence matrices",
        ),
        "correspondence_input": Variable(
            (*_LAYER, "order", "index"),
            "correspondence, inputs",
            "||Mat(h_order) v_index||^2, v of the autocorrelation",
            "1",
            "D, correspondence matrices",
        ),
        "hessian_eigenvalue": Variable(
            (*_PLACE, "order"),
            "eigenvalue of Hess",
            "eigenvalue of the whole network's Hess",
            "nat",
            "D, full Hessian",
        ),
        "full_kronecker_eigenvalue": Variable(
            (*_PLACE, "order"),
            "sigma_i ||w_i||^2",
            "its approximation sigma_i ||w_i||^2 from Kronecker parts",
            "nat",
            "D, full Hessian",
        ),
        "full_kronecker_sure": Variable(
            _PLACE,
            "sure leading products",
            "leading entries of full_kronecker_eigenvalue that no other product can exceed",
            "1",
            "docs/method.md",
        ),
        "full_kronecker_overlap": Variable(
            (*_PLACE, "k"),
            "overlap with Hess's eigenspace",
            "overlap of its top k directions, orthonormalised, with Hess's eigenvectors",
            "1",
            "D, full Hessian",
        ),
        **SIZES,
    },
    "overlap": {
        "overlap": Variable(
            (*_LAYER, "k", *_SEEDS),
            "overlap",
            "overlap of the layer Hessians' top k eigenspaces of two runs, seed_a < seed_b",
            "1",
            "D, overlap between models",
        ),
        "overlap_mean": Variable(
            (*_LAYER, "k"), "mean overlap", "its mean over pairs of seeds", "1", "D"
        ),
        "overlap_std": Variable(
            (*_LAYER, "k"),
            "standard deviation of the overlap",
            "its standard deviation over pairs, NaN for one pair",
            "1",
            "D",
        ),
        "random_baseline": Variable(
            (*_LAYER, "k"),
            "overlap of random spaces",
            "k / p: mean overlap of random k-dimensional spaces",
            "1",
            "D",
        ),
        "overlap_outputs": Variable(
            _LAYER,
            "layer outputs m, all seeds",
            "outputs m of the layer's weight",
            "1",
            "definition",
        ),
        "weight_cosine": Variable(
            (*_LAYER, *_SEEDS),
            "cosine of the weights",
            "cosine of the two runs' weights in the layer",
            "1",
            "D",
        ),
        "across_overlap": Variable(
            _ACROSS,
            "overlap across settings",
            "mean overlap with runs of another recipe or sample size, at last checkpoints, over "
            "pairs of different seeds",
            "1",
            "D, overlap across hyper-parameters",
        ),
        "across_std": Variable(
            _ACROSS,
            "standard deviation across settings",
            "its standard deviation over pairs",
            "1",
            "D",
        ),
    },
    "theory": {
        "overlap_predicted": Variable(
            _THEORY,
            "overlap with the predicted space",
            "overlap of the output Hessian's top C - 1 eigenvectors with the row space of W2 less "
            "1^T W2",
            "1",
            "D, random two-layer theory",
        ),
        "overlap_limit": Variable(
            ("input",),
            "limit of the overlap",
            "its limit as the width grows",
            "1",
            "D; docs/method.md",
        ),
        "eigenvalue_ratio": Variable(
            _THEORY,
            "eigenvalue ratio C over C - 1",
            "eigenvalue C of the output Hessian over eigenvalue C - 1",
            "1",
            "D",
        ),
        "relative_error": Variable(
            _THEORY,
            "relative error of M*",
            "||E[M] - M*|| / ||E[M]|| of the predicted M*, Frobenius",
            "1",
            "D",
        ),
    },
}
