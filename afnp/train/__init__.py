"""Training: Adam on the exact negative log-likelihood, interrupted and resumed to the last bit."""

from afnp.train.adam import Adam
from afnp.train.checkpoint import History
from afnp.train.energy import effective_sample_size, fit_energy, importance_sample
from afnp.train.fit import fit
from afnp.train.loop import Epoch, RowsNotFinite

__all__ = [
    "Adam",
    "Epoch",
    "History",
    "RowsNotFinite",
    "effective_sample_size",
    "fit",
    "fit_energy",
    "importance_sample",
]
