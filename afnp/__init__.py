"""afnp: autoregressive normalizing flows in hand-written NumPy, verified, with fast exact sampling.

The names below are there at once. Every other part of the package is imported when it is first
named: ``afnp.verify``, ``afnp.data``, ``afnp.bases``, ``afnp.chain_rule``, ``afnp.interop``, ...
"""

from __future__ import annotations

import importlib.util
import pkgutil
from types import ModuleType

from afnp.constructors import iaf, made, maf, maf_mog, nice, nsf, realnvp, tarflow, wavenet_flow
from afnp.discrete import DiscreteMADE, OrderEnsemble
from afnp.ensemble import FlowEnsemble
from afnp.files import ModelFileError
from afnp.flow import Flow
from afnp.interop.formats import load, save
from afnp.train import fit, fit_energy
from afnp.transforms.preprocess import preprocessing

__version__ = "0.1.0"

__all__ = [
    "DiscreteMADE",
    "Flow",
    "FlowEnsemble",
    "ModelFileError",
    "OrderEnsemble",
    "fit",
    "fit_energy",
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


def __getattr__(name: str) -> ModuleType:
    """Import a part of the package when it is first named."""
    if not name.startswith("_") and importlib.util.find_spec(f"afnp.{name}"):
        return importlib.import_module(f"afnp.{name}")
    raise AttributeError(f"module 'afnp' has no attribute {name!r}")


def __dir__() -> list[str]:
    """List what is there, and what is imported when it is named."""
    return sorted({*globals(), *(part.name for part in pkgutil.iter_modules(__path__))})
