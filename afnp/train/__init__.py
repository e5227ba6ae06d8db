"""Training: Adam on the exact negative log-likelihood, interruptible and resumable to the last bit."""

from afnp.train.adam import Adam
from afnp.train.checkpoint import History
from afnp.train.fit import fit

__all__ = ["Adam", "History", "fit"]
