"""Networks: who computes the parameters h_i of feature i from the features before it."""

from afnp.networks.base import NETWORKS, Network
from afnp.networks.causal_conv import CausalConv
from afnp.networks.conditioned import AddedMLP, Conditioned, GatedMaskedMLP, GatedMLP
from afnp.networks.graph_mlp import GraphMLP
from afnp.networks.masked_mlp import MaskedMLP
from afnp.networks.mlp import MLP
from afnp.networks.transformer import CausalTransformer

__all__ = [
    "MLP",
    "NETWORKS",
    "AddedMLP",
    "CausalConv",
    "CausalTransformer",
    "Conditioned",
    "GatedMLP",
    "GatedMaskedMLP",
    "GraphMLP",
    "MaskedMLP",
    "Network",
]
