r"""The inverse autoregressive transform (IAF): an autoregressive one, read the other way.

.. math:: u = f^{-1}(x), \qquad x = f(u), \qquad
          \log\left|\det \frac{\partial u}{\partial x}\right| = -\log|\det J_f(u)|

f is the map from data to noise of an :class:`afnp.transforms.Autoregressive`. Here it runs from
noise to data, so *sampling* is one network pass, and *density* is the triangular solve (arXiv
1606.04934; sections 3.2 and 3.3 of 1705.07057 compare the two). Both classes describe the same
family of triangular maps; which direction is quick differs.

The derivative of a solve is a transposed solve. With :math:`\lambda(u) = \log|\det J_f(u)|` and the
implicit function u = f^{-1}(x),

.. math::
    J_f^\top d_x = d_u - d_{\log\det} \nabla_u \lambda, \qquad
    d_\theta = -\left(\frac{\partial f}{\partial \theta}\right)^{\!\top} d_x
               - d_{\log\det} \frac{\partial \lambda}{\partial \theta}

Both lines are the backward pass of f at u, fed with (-d_x, -d_logdet): it returns -d_u, which
determines d_x by reverse substitution (:func:`afnp.sampling.substitution.substitute_back`), and it
adds d_theta into the gradient.

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

import numpy as np

from afnp.networks import Conditioned, MaskedMLP
from afnp.params import Views
from afnp.transforms.autoregressive import Autoregressive
from afnp.transforms.base import Transform
from afnp.transforms.cost import Cost

__all__ = ["Inverse"]


class Inverse(Transform):
    """Inverse autoregressive transform: sampling in one network pass, density by substitution.

    Parameters
    ----------
    transform : Autoregressive
        f, with a masked network; this transform has its parameters.

    Raises
    ------
    ValueError
        If the transform is of another kind: only the triangular solve has a derivative here.

    Examples
    --------
    >>> from afnp.transforms import masked
    >>> layer = Inverse(masked(2, hidden=(4,)))
    >>> p = layer.layout.views(np.zeros(layer.layout.size))
    >>> u, log_det, _ = layer.normalize(p, np.array([[1.0, 2.0]]), np.empty((1, 0)))
    >>> u, log_det
    (array([[1., 2.]]), array([0.]))
    """

    def __init__(self, transform: Autoregressive):
        inner = transform
        networks = (MaskedMLP, Conditioned)
        if type(inner) is not Autoregressive or not isinstance(inner.conditioner, networks):
            got = type(inner).__name__
            if isinstance(inner, Autoregressive):
                got += f" with a {type(inner.conditioner).__name__}"
            raise ValueError(f"transform: expected an Autoregressive with a MaskedMLP, got {got}")
        self.transform, self.layout, self.name = inner, inner.layout, inner.name
        self.features, self.context, self.periodic = inner.features, inner.context, inner.periodic
        self.order = inner.order
        self.conditioner = inner.conditioner
        self.univariate = inner.univariate

    @classmethod
    def count(cls, config: dict) -> int:
        """Return how many parameters the transform inside has, from integers alone."""
        return Autoregressive.count(config)

    def config(self) -> dict:
        """Return what rebuilds this transform: the one inside."""
        return self.transform.config()

    @classmethod
    def from_config(cls, config: dict) -> Inverse:
        """Rebuild a transform from what ``config()`` returned."""
        return cls(Autoregressive.from_config(config))

    def initialize(self, p: Views, rng: np.random.Generator) -> None:
        """Draw the conditioner's parameters in place."""
        self.transform.initialize(p, rng)

    def allowed(self) -> np.ndarray:
        """Return which u_i may depend on which x_j, (D, D) bool.

        The inverse of a triangle is one.
        """
        return self.transform.allowed()

    @property
    def cost(self) -> Cost:
        """What each direction costs: those of the transform inside, exchanged."""
        inner = self.transform.cost
        return Cost(inner.generate, inner.normalize, inner.naive)

    def normalize(self, p: Views, x: np.ndarray, context: np.ndarray) -> tuple:
        """Map x (N, D) to u (N, D); also give log|det du/dx| (N,) and the cache of ``backward``."""
        u, log_det = self.transform.generate(p, x, context)
        return u, log_det, (u, context)

    def generate(self, p: Views, u: np.ndarray, context: np.ndarray) -> tuple:
        """Map u (N, D) to x (N, D) in one pass; also give log|det dx/du| (N,)."""
        return self.transform.evaluate(p, u, context)

    def backward(
        self, p: Views, cache, d_u: np.ndarray, d_log_det: np.ndarray, g: Views
    ) -> np.ndarray:
        """Add the parameters' gradients of ``normalize`` into g; return d_x (N, D)."""
        inner, d_x = self._solve_backward(p, cache, d_u, d_log_det)
        self.transform.backward(p, inner, -d_x, -d_log_det, g)
        return d_x

    def _solve_backward(self, p: Views, cache, d_u: np.ndarray, d_log_det: np.ndarray) -> tuple:
        """Return the cache of the transform inside, and d_x (N, D)."""
        inner = self.transform.normalize(p, *cache)[2]
        return inner, -self.transform.solve_backward(p, inner, -d_u, -d_log_det)

    def generate_keeping(self, p: Views, u: np.ndarray, context: np.ndarray) -> tuple:
        """Do as ``generate`` does, in one pass; also give the cache of ``generate_backward``."""
        return self.transform.normalize(p, u, context)

    def generate_backward(
        self, p: Views, cache, d_x: np.ndarray, d_log_det: np.ndarray, g: Views
    ) -> np.ndarray:
        """Add the parameters' gradients of ``generate`` into g; return d_u (N, D).

        ``generate`` is f itself, and this is its backward pass.
        """
        return self.transform.backward(p, cache, d_x, d_log_det, g)

    def backward_context(
        self, p: Views, cache, d_u: np.ndarray, d_log_det: np.ndarray, g: Views
    ) -> tuple:
        """Do as ``backward`` does; also give the gradient by the context, as of any parameter."""
        inner, d_x = self._solve_backward(p, cache, d_u, d_log_det)
        return d_x, self.transform.backward_context(p, inner, -d_x, -d_log_det, g)[1]
