"""Spectra of operators known by their products alone."""

from pipeline.public import lazily

__all__ = ["density", "lanczos_quadrature", "top_eigenpairs", "trace_estimate"]
__getattr__ = lazily(
    __name__,
    {
        "density": "smoothing",
        "lanczos_quadrature": "lanczos",
        "top_eigenpairs": "eigenpairs",
        "trace_estimate": "trace",
    },
)
