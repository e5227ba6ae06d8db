"""Training: Adam on the exact negative log-likelihood, interrupted and resumed to the last bit."""

from afnp.train.adam import Adam
from afnp.train.checkpoint import History
from afnp.train.fit import Epoch, fit

__all__ = ["Adam", "Epoch", "History", "fit"]
