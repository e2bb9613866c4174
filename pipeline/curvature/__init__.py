"""Linear operators of a classifier's curvature."""

from pipeline.public import lazily

__all__ = ["gauss_newton", "hessian", "residual"]
__getattr__ = lazily(
    __name__, {"hessian": "second_order", "residual": "second_order", "gauss_newton": "sandwich"}
)
