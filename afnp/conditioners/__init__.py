"""Conditioners: who computes the parameters h_i of feature i from the features before it."""

from afnp.conditioners.masked_mlp import MaskedMLP
from afnp.conditioners.mlp import MLP

__all__ = ["MLP", "MaskedMLP"]
