r"""Mixture univariates: the distribution function of a mixture, read on the scale of its own kind.

.. math::
    u = B^{-1}\Big( \sum_k \pi_k\, B(z_k) \Big), \qquad z_k = (x - \mu_k)\, e^{-s_k}, \qquad
    \frac{du}{dx} = \frac{\sum_k \pi_k\, b(z_k)\, e^{-s_k}}{b(u)}

B is the logistic distribution function (Flow++, arXiv 1902.00275, section 3.2) or the normal one,
and b = B'. With normal noise the latter is the mixture of Gaussians of a MADE MoG (arXiv
1705.07057): the density of x is the mixture's own. With one component either is affine, u = z.

Far out, B(z) is 1 or 0 to rounding long before u is large. So all is done in logs of the smaller
tail, by t_k = ±z_k and t = ±u, the sign being that of u:

.. math::
    \log T = \log \sum_k \pi_k\, B(-t_k), \qquad B(-t) = T, \qquad
    \frac{du}{dx} = \frac{1}{\lambda(t)} \sum_k r_k\, \lambda(t_k)\, e^{-s_k}

where λ(t) = b(t) / B(-t) is the hazard, and r_k = π_k B(-t_k) / T each component's share of
the tail. Its share of the density, its responsibility, is q_k = r_k λ(t_k) e^{-s_k} over the
sum of these. Nothing here is a difference of large numbers, so u and log du/dx are good to rounding
far out, until t² overflows.

The conditioner gives h = (logits, means, log-scales): pi is a softmax; mu_k is the mean plus a
fixed place, of C spread evenly over [-2, 2], so that at h = 0 no two components are alike (those
that start alike stay alike); s is soft-clipped, B tanh(s / B), as in :mod:`afnp.univariate.affine`.

Letters: C components, K = 3 C params a feature; ``h`` is (..., K), ``x`` and ``u`` are (...).
Inside, components come first: (C, ...).
"""

from __future__ import annotations

import math

import numpy as np

from afnp.inputs import integer, real
from afnp.univariate.normal import normal_quantile, normal_tail
from afnp.univariate.root import increasing_root
from afnp.univariate.stable import log1p, log_sum_exp, softplus

__all__ = ["GaussianMixture", "LogisticMixture", "Mixture"]


class Mixture:
    """What both mixtures share; they differ in ``_tail`` and ``_quantile``."""

    support = (-math.inf, math.inf)
    periodic = False

    def __init__(self, components: int = 8, bound: float = 7.0):
        self.components = integer("components", components, least=1)
        self.bound = real("bound", bound, 0.0, 40.0, "(]")

    @property
    def numbers(self) -> int:
        """K: how many params a feature the conditioner must give."""
        return 3 * self.components

    def config(self) -> dict:
        """Return what rebuilds this object."""
        return {"components": self.components, "bound": self.bound}

    def normalize(self, h: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple]:
        """Map x to u; also give log du/dx and the cache for ``backward``."""
        return self._normalize(self._parts(h), x)

    def generate(self, h: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        r"""Map u to x, to rounding; also give log dx/du.

        .. math:: \min_k (\mu_k + u\, e^{s_k}) \le x \le \max_k (\mu_k + u\, e^{s_k})

        Each component alone would put x where its z_k is u; the mixture puts it between. Arrays of
        another kind, complex steps or arithmetic that errs on purpose, take one step once the root
        of plain numbers is known: x moves by (u - u(x)) dx/du.

        Raises
        ------
        FloatingPointError
            If there is no finite x to be found: names the worst row and feature.
        """
        u, parts = np.asanyarray(u), self._parts(h)
        flat = [np.asarray(part.real).reshape(self.components, -1) for part in parts]
        log_pi, mu, s = flat
        alone = mu + np.asarray(u.real).ravel() * np.exp(s)
        low, high = alone.min(axis=0), alone.max(axis=0)
        start = (np.exp(log_pi) * alone).sum(axis=0).clip(low, high)

        def f(x, which):
            return self._normalize([part[:, which] for part in flat], x)[:2]

        x = increasing_root(f, start, low, high, np.asarray(u.real))
        value, log_derivative, _ = self._normalize(parts, x)
        if np.iscomplexobj(value) or np.iscomplexobj(u):
            x = x + 1j * ((u - value) * np.exp(-log_derivative)).imag
            log_derivative = self._normalize(parts, x)[1]
        elif type(parts[0]) is not np.ndarray:
            low, high = low.reshape(x.shape), high.reshape(x.shape)
            x = np.clip(x + (u - value) * np.exp(-log_derivative), low, high)
            x = low + (x - low)  # a root is found to the rounding of its bracket
            log_derivative = self._normalize(parts, x)[1]
        return x, -log_derivative

    def backward(
        self, cache: tuple, d_u: np.ndarray, d_log: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        r"""Return d_h and d_x for ``normalize``, from d_u and the gradient of its log-derivative.

        .. math::
            c_k &= d_{\log}\, (q_k - r_k) + r_k\, (d_{\log}\, \kappa(t) \mp d_u) / \lambda(t)
                   \qquad \text{is } d_{\log \pi_k},

            d_{t_k} &= d_{\log}\, q_k\, \kappa(t_k) - \lambda(t_k)\, c_k, \qquad
                       \kappa = (\log \lambda)'

        and :math:`d_{z_k} = \pm d_{t_k}` gives those of x, means and log-scales, the last being
        :math:`-d_{z_k} z_k - d_{\log}\, q_k`.
        """
        (pi, z, shrink, slope), (positive, r, q), (hazards, kappas), (hazard, kappa) = cache
        c = d_log * (q - r) + r * (d_log * kappa - np.where(positive, d_u, -d_u)) / hazard
        d_t = d_log * q * kappas - hazards * c
        d_z = np.where(positive, d_t, -d_t)
        d_moved = d_z * shrink
        d_h = np.concatenate([c - pi * c.sum(axis=0), -d_moved, (-d_z * z - d_log * q) * slope])
        return np.moveaxis(d_h, 0, -1), d_moved.sum(axis=0)

    def _parts(self, h: np.ndarray) -> list[np.ndarray]:
        """Return log pi, mu and s, each (C, ...)."""
        logits, means, a = np.split(np.moveaxis(h, -1, 0).copy(), 3)
        C = self.components
        places = (
            np.linspace(-2, 2, C, dtype=h.real.dtype) if C > 1 else np.zeros(1, dtype=h.real.dtype)
        )
        means = means + places.reshape(C, *[1] * (h.ndim - 1))
        return [logits - log_sum_exp(logits)[0], means, self.bound * np.tanh(a / self.bound)]

    def _normalize(
        self, parts: list[np.ndarray], x: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, tuple]:
        log_pi, mu, s = parts
        shrink = np.exp(-s)
        z = (x - mu) * shrink
        positive, log_T, r, log_r, log_hazards, kappas = self._smaller_tail(log_pi, z)
        t = self._quantile(log_T)
        _, log_hazard, kappa = self._tail(t)
        log_sum, q = log_sum_exp(log_r + log_hazards - s)
        slope = 1 - (s / self.bound) ** 2
        at_z, at_u = (np.exp(log_hazards), kappas), (np.exp(log_hazard), kappa)
        cache = (np.exp(log_pi), z, shrink, slope), (positive, r, q), at_z, at_u
        return np.where(positive, t, -t), log_sum - log_hazard, cache

    def _smaller_tail(self, log_pi: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return whether u >= 0, log T, r and log r, and log lambda and kappa at each t_k.

        Tables are for t >= 0; symmetry gives lambda(-t) = b(t) / B(t), and kappa(-t) = lambda(-t) +
        lambda(t) - kappa(t), because kappa - lambda = (log b)' is odd.
        """
        right = z.real > 0
        near, log_hazard, kappa = self._tail(np.where(right, z, -z))  # the tail that z is in,
        far = log1p(-np.exp(near))  # and the rest of the line
        above, shares_above = log_sum_exp(log_pi + np.where(right, near, far))
        below, shares_below = log_sum_exp(log_pi + np.where(right, far, near))
        positive = above.real <= below.real
        log_T, r = np.where(positive, above, below), np.where(positive, shares_above, shares_below)
        out = right == positive  # t_k > 0
        log_r = log_pi + np.where(out, near, far) - log_T
        log_hazards = np.where(out, log_hazard, log_hazard + near - far)
        kappas = np.where(out, kappa, np.exp(log_hazards) + np.exp(log_hazard) - kappa)
        return positive, log_T, r, log_r, log_hazards, kappas

    def _tail(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return, for t >= 0, log B(-t), log lambda(t) and kappa(t)."""
        raise NotImplementedError

    def _quantile(self, log_tail: np.ndarray) -> np.ndarray:
        """Return t >= 0 with log B(-t) = ``log_tail``."""
        raise NotImplementedError


class LogisticMixture(Mixture):
    r"""Mixture-of-logistics distribution function on the logistic scale; see the module's formulas.

    .. math:: u = \log F - \log (1 - F), \qquad F = \sum_k \pi_k\, \mathrm{sigmoid}(z_k)

    Parameters
    ----------
    components : int
        C; K = 3 C.
    bound : float
        B: log-scales s stay in (-B, B).

    Raises
    ------
    ValueError
        If a parameter breaks its rule: its name, the rule and the value.

    Examples
    --------
    >>> tau, h = LogisticMixture(components=2), np.zeros((3, 6))
    >>> u, log_derivative, _ = tau.normalize(h, np.array([-1000.0, 0.0, 1.0]))
    >>> u.round(6).tolist()
    [-998.674997, 0.0, 0.450499]
    >>> tau.generate(h, u)[0].round(9).tolist()
    [-1000.0, 0.0, 1.0]
    """

    def _tail(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        r"""Return log sigmoid(-t), the log of the hazard sigmoid(t), and its slope sigmoid(-t)."""
        log_hazard, kappa = softplus(-t)
        return -t - log_hazard, -log_hazard, kappa

    def _quantile(self, log_tail: np.ndarray) -> np.ndarray:
        return log1p(-np.exp(log_tail)) - log_tail


class GaussianMixture(Mixture):
    r"""Mixture-of-Gaussians distribution function on the normal scale; see the module's formulas.

    .. math:: u = \Phi^{-1}(F), \qquad F = \sum_k \pi_k\, \Phi(z_k)

    With the standard normal as base distribution, x given all before it is the mixture itself.

    Parameters
    ----------
    components : int
        C; K = 3 C.
    bound : float
        B: log-scales s stay in (-B, B).

    Raises
    ------
    ValueError
        If a parameter breaks its rule: its name, the rule and the value.

    Examples
    --------
    >>> tau, h = GaussianMixture(components=2), np.zeros((3, 6))
    >>> u, log_derivative, _ = tau.normalize(h, np.array([-1000.0, 0.0, 1.0]))
    >>> u.round(6).tolist()
    [-998.000695, 0.0, 0.198448]
    >>> tau.generate(h, u)[0].round(9).tolist()
    [-1000.0, 0.0, 1.0]
    """

    def _tail(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return normal_tail(t)

    def _quantile(self, log_tail: np.ndarray) -> np.ndarray:
        return normal_quantile(log_tail)
