"""What the papers ask of a network's curvature."""

from pipeline.public import lazily

__all__ = ["eigenspace_overlap"]
__getattr__ = lazily(__name__, {"eigenspace_overlap": "overlap"})
