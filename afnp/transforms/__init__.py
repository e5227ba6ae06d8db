"""Transforms: the bijections that a flow puts in a row, from data to noise."""

from afnp.transforms.autoregressive import METHODS, Autoregressive
from afnp.transforms.batchnorm import BatchNorm
from afnp.transforms.between import ActNorm, LULinear, Permutation
from afnp.transforms.coupling import SPLITS, Coupling, split_of
from afnp.transforms.inverse import Inverse
from afnp.transforms.passes import Passes, PassTable, Work

__all__ = [
    "METHODS",
    "SPLITS",
    "ActNorm",
    "Autoregressive",
    "BatchNorm",
    "Coupling",
    "Inverse",
    "LULinear",
    "PassTable",
    "Passes",
    "Permutation",
    "Work",
    "split_of",
]
