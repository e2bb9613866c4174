"""Linear operators of a classifier's curvature."""

from pipeline.public import lazily

__all__ = ["component", "gauss_newton", "hessian", "layer_hessian", "residual"]
__getattr__ = lazily(
    __name__,
    {
        "component": "components",
        "gauss_newton": "sandwich",
        "hessian": "second_order",
        "layer_hessian": "layer",
        "residual": "second_order",
    },
)
