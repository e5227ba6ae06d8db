"""Conditioners: who computes the parameters h_i of feature i from the features before it."""

from afnp.networks.masked_mlp import MaskedMLP
from afnp.networks.mlp import MLP

__all__ = ["MLP", "MaskedMLP"]
