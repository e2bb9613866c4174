"""The variables of the cube `bounds`."""

from pipeline.cubes.variable import SIZES, Variable

_BASIS = ("basis",)
_CURVE = (*_BASIS, "layer", "bin")
_SOURCE = "D, PAC-Bayes bounds"

BOUNDS_SCHEMA: dict[str, dict[str, Variable]] = {
    "bounds": {
        "bound": Variable(
            _BASIS,
            "PAC-Bayes bound",
            "PAC-Bayes bound on the posterior's test error, sure to 1 - delta - delta' over "
            "training set and samples",
            "1",
            _SOURCE,
        ),
        "bound_of_estimate": Variable(
            _BASIS,
            "PAC-Bayes bound of the estimate",
            "the same with the sampled training error taken for the true one, as D prints it",
            "1",
            _SOURCE,
        ),
        "kl": Variable(
            _BASIS,
            "KL(posterior || prior)",
            "KL(posterior || prior), the prior's scale made admissible",
            "nat",
            _SOURCE,
        ),
        "half_log_lambda": Variable(
            _BASIS,
            "(1/2) log lambda",
            "(1/2) log of the prior's variance, c exp(-j / b)",
            "1",
            _SOURCE,
        ),
        "stochastic_error_train": Variable(
            _BASIS,
            "stochastic training error",
            "error of networks drawn from the posterior, training examples",
            "1",
            _SOURCE,
        ),
        "stochastic_error_train_stderr": Variable(
            _BASIS,
            "standard error of the training error",
            "standard error of stochastic_error_train over the drawn networks",
            "1",
            "docs/method.md",
        ),
        "stochastic_error_test": Variable(
            _BASIS,
            "stochastic test error",
            "error of networks drawn from the posterior, test examples",
            "1",
            _SOURCE,
        ),
        "stochastic_error_test_stderr": Variable(
            _BASIS,
            "standard error of the test error",
            "standard error of stochastic_error_test over the drawn networks",
            "1",
            "docs/method.md",
        ),
        "stochastic_error_limit": Variable(
            _BASIS,
            "limit of the stochastic error",
            "what the posterior's training error is below, sure to 1 - delta' over the samples",
            "1",
            _SOURCE,
        ),
        "samples": Variable(
            _BASIS,
            "sampled networks",
            "networks drawn for these errors, each with a batch",
            "1",
            "settings",
        ),
        "examples": Variable(
            _BASIS, "training examples", "training examples |S|", "1", "definition"
        ),
        "mean_error_train": Variable(
            _BASIS,
            "training error at the mean",
            "error of the network at the posterior's mean, training examples",
            "1",
            _SOURCE,
        ),
        "mean_error_test": Variable(
            _BASIS,
            "test error at the mean",
            "error of the network at the posterior's mean, test examples",
            "1",
            _SOURCE,
        ),
        "deterministic_error_train": Variable(
            _BASIS,
            "training error of the network",
            "error of the trained network, training examples",
            "1",
            _SOURCE,
        ),
        "deterministic_error_test": Variable(
            _BASIS,
            "test error of the network",
            "error of the trained network, test examples",
            "1",
            _SOURCE,
        ),
        "curvature": Variable(
            _CURVE,
            "mean curvature",
            "mean curvature of a bin of the weight's coordinates: products of the factors' "
            "eigenvalues, or of their diagonals in the standard basis",
            "nat",
            "D, Kronecker factors; docs/method.md",
        ),
        "posterior_variance": Variable(
            _CURVE,
            "posterior variance",
            "geometric mean of the posterior's variance over the bin",
            "1",
            _SOURCE,
        ),
        "coordinates": Variable(
            _CURVE, "coordinates in the bin", "coordinates in the bin", "1", "docs/method.md"
        ),
        **SIZES,
    }
}
