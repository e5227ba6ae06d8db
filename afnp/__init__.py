"""afnp: autoregressive normalizing flows in hand-written NumPy, verified, with fast exact sampling."""

from afnp.constructors import iaf, made, maf, maf_mog, nice, nsf, realnvp, tarflow
from afnp.discrete import DiscreteMADE, OrderEnsemble
from afnp.files import ModelFileError, load, save
from afnp.flows import Flow
from afnp.preprocess import preprocessing
from afnp.series import wavenet_flow
from afnp.train import fit

__all__ = [
    "DiscreteMADE",
    "Flow",
    "ModelFileError",
    "OrderEnsemble",
    "fit",
    "iaf",
    "load",
    "made",
    "maf",
    "maf_mog",
    "nice",
    "nsf",
    "preprocessing",
    "realnvp",
    "save",
    "tarflow",
    "wavenet_flow",
]
