"""Hessian Anatomy: the Hessian of trained image classifiers, dissected."""

from pipeline.public import lazily

__all__ = ["open_cube", "open_run"]
__getattr__ = lazily(__name__, {"open_cube": "cubes.store", "open_run": "api"})
