"""Univariates: the scalar bijections τ that an autoregressive flow applies to each feature."""

from afnp.univariate.affine import Affine

__all__ = ["UNIVARIATES", "Affine"]

UNIVARIATES = {"affine": Affine}
"""By the name that constructors and model files use."""
