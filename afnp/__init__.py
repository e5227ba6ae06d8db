"""afnp: autoregressive normalizing flows in hand-written NumPy, verified, with fast exact sampling."""

from afnp.constructors import iaf, made, maf, maf_mog, nice, nsf, realnvp, tarflow, wavenet_flow
from afnp.discrete import DiscreteMADE, OrderEnsemble
from afnp.files import ModelFileError, load, save
from afnp.flow import Flow
from afnp.train import fit
from afnp.transforms.preprocess import preprocessing

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
