"""Transforms: the bijections that a flow puts in a row, from data to noise."""

from afnp.transforms.attention import Attentive, image_order
from afnp.transforms.autoregressive import Autoregressive
from afnp.transforms.convolution import CausalConvolution
from afnp.transforms.cost import Passes, PassTable, Work
from afnp.transforms.coupling import SPLITS, Coupling, split_of
from afnp.transforms.inverse import Inverse
from afnp.transforms.linear import ActNorm, LULinear, Permutation
from afnp.transforms.normalization import BatchNorm

__all__ = [
    "KINDS",
    "SPLITS",
    "ActNorm",
    "Attentive",
    "Autoregressive",
    "BatchNorm",
    "CausalConvolution",
    "Coupling",
    "Inverse",
    "LULinear",
    "PassTable",
    "Passes",
    "Permutation",
    "Work",
    "image_order",
    "split_of",
]

KINDS = (
    *(Autoregressive, Inverse, Coupling, Attentive, CausalConvolution),
    *(Permutation, ActNorm, BatchNorm, LULinear),
)
"""All of them: what a flow may be made of, besides preprocessing."""
