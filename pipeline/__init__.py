"""Hessian Anatomy: the Hessian of trained image classifiers, dissected."""

from pipeline.public import lazily

__all__ = ["open_run"]
__getattr__ = lazily(__name__, {"open_run": "api"})
