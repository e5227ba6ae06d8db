r"""Discrete autoregressive models: binary and categorical MADE, and the average over orders.

.. math:: p(x) = \prod_i p(x_i \mid x_{<i})

The chain rule came first: discrete data need no change of variables, only a masked network that
gives each feature's distribution from the features before it (MADE, arXiv 1502.03509). Values are
the levels 0, 1, ..., K - 1; binary data have K = 2.
"""

from afnp.discrete.made import DiscreteMADE
from afnp.discrete.orders import OrderEnsemble, averaging_gain

__all__ = ["MODELS", "DiscreteMADE", "OrderEnsemble", "averaging_gain"]

MODELS = {cls.__name__: cls for cls in (DiscreteMADE, OrderEnsemble)}
"""By the name that model files use."""
