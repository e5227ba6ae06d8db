"""afnp: autoregressive normalizing flows in hand-written NumPy, verified, with fast exact sampling."""

from afnp.constructors import made, maf
from afnp.files import ModelFileError, load, save
from afnp.flows import Flow
from afnp.preprocess import preprocessing
from afnp.train import fit

__all__ = ["Flow", "ModelFileError", "fit", "load", "made", "maf", "preprocessing", "save"]
