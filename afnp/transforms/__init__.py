"""Transforms: the bijections that a flow puts in a row, from data to noise."""

from afnp.networks.masks import image_order
from afnp.transforms.autoregressive import Autoregressive, attentive, convolutional, masked
from afnp.transforms.base import TRANSFORMS, Transform
from afnp.transforms.bounds import Bounds
from afnp.transforms.cost import Cost, CostTable, Work
from afnp.transforms.coupling import SPLITS, Coupling, split_of
from afnp.transforms.inverse import Inverse
from afnp.transforms.linear import LULinear, Permutation
from afnp.transforms.linear_filter import LinearPrediction
from afnp.transforms.normalization import ActNorm, BatchNorm
from afnp.transforms.preprocess import Dequantize, Logit, Standardize

__all__ = [
    "SPLITS",
    "TRANSFORMS",
    "ActNorm",
    "Autoregressive",
    "BatchNorm",
    "Bounds",
    "Coupling",
    "Dequantize",
    "Inverse",
    "LULinear",
    "LinearPrediction",
    "Logit",
    "CostTable",
    "Cost",
    "Permutation",
    "Standardize",
    "Transform",
    "Work",
    "attentive",
    "convolutional",
    "image_order",
    "masked",
    "split_of",
]
