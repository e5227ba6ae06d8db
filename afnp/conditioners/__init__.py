"""Conditioners: who computes the parameters h_i of feature i from the features before it."""

from afnp.conditioners.masked_mlp import MaskedMLP

__all__ = ["MaskedMLP"]
