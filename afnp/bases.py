r"""Base distributions: what the noise u is drawn from.

.. math:: \log p(u) = \sum_i \log p(u_i) \quad \text{(independent features)}, \qquad
          \log p(u) = \log \sum_k w_k \prod_i \mathcal N(u_i;\, m_{ki}, \sigma_{ki}^2) \quad \text{(mixture)}

A base distribution is the last factor of a flow's density; its parameters, if it has any, lie at
the end of the flow's theta and are trained with it. Densities are in nats and never NaN: -inf
outside the support, and finite as long as u² is.

Letters: N rows, D features, K components.
"""

from __future__ import annotations

import math

import numpy as np

from afnp.inputs import integer
from afnp.params import Layout, Views

__all__ = [
    "BASES",
    "Base",
    "Logistic",
    "MixtureOfGaussians",
    "StandardNormal",
    "UniformTorus",
    "logsumexp",
]

LOG_2PI = math.log(2 * math.pi)


def logsumexp(a: np.ndarray, axis: int = -1) -> np.ndarray:
    r"""Return the logarithm of a sum of exponentials along an axis; -inf where all terms are.

    .. math:: \log \sum_k e^{a_k} = m + \log \sum_k e^{a_k - m}, \qquad m = \max_k a_k

    Examples
    --------
    >>> float(logsumexp(np.array([-1000.0, -1000.0])).round(3))
    -999.307
    """
    m = a.max(axis=axis, keepdims=True)  # complex numbers are ordered by their real parts first
    m = np.where(np.isfinite(m), m, np.zeros_like(m))
    with np.errstate(divide="ignore"):
        return np.squeeze(m, axis) + np.log(np.exp(a - m).sum(axis=axis))


class Base:
    """What all base distributions share: D features, and, unless they say otherwise, no parameters.

    Raises
    ------
    ValueError
        If ``features`` is not an integer of at least 1.
    """

    layout = Layout({})
    periodic = False
    """Whether the noise lives on circles, as layers of angles need."""

    def __init__(self, features: int):
        self.features = integer("features", features, least=1)

    def config(self) -> dict:
        """Return the keyword arguments that rebuild this distribution."""
        return {"features": self.features}

    def initialize(self, p: Views, rng: np.random.Generator) -> None:
        """Do nothing: there are no parameters."""

    def log_prob(self, p: Views, u: np.ndarray) -> np.ndarray:
        """Return log p(u) (N,), nats, of rows u (N, D)."""
        raise NotImplementedError

    def backward(self, p: Views, u: np.ndarray, d_log_prob: np.ndarray, g: Views) -> np.ndarray:
        """Add the parameters' gradients into g; return d_u (N, D) from the gradient d_log_prob (N,)."""
        raise NotImplementedError

    def sample(self, p: Views, n: int, rng: np.random.Generator, dtype) -> np.ndarray:
        """Draw u (n, D)."""
        raise NotImplementedError


class StandardNormal(Base):
    r"""Independent standard normal noise.

    .. math:: \log p(u) = -\tfrac12 \sum_i u_i^2 - \tfrac D2 \log 2\pi, \qquad
              \frac{\partial \log p}{\partial u_i} = -u_i

    Examples
    --------
    >>> StandardNormal(2).log_prob({}, np.zeros((1, 2))).round(3)
    array([-1.838])
    """

    def log_prob(self, p: Views, u: np.ndarray) -> np.ndarray:
        """Return log p(u) (N,), nats."""
        return -0.5 * (u * u).sum(axis=1) - 0.5 * u.shape[1] * LOG_2PI

    def backward(self, p: Views, u: np.ndarray, d_log_prob: np.ndarray, g: Views) -> np.ndarray:
        """Return d_u (N, D) from the gradient d_log_prob (N,)."""
        return -u * d_log_prob[:, None]

    def sample(self, p: Views, n: int, rng: np.random.Generator, dtype) -> np.ndarray:
        """Draw u (n, D)."""
        return rng.standard_normal((n, self.features), dtype=dtype)


class Logistic(Base):
    r"""Independent standard logistic noise: tails e^{-|u|} instead of the normal's e^{-u²/2}.

    .. math:: \log p(u) = -\sum_i \big( |u_i| + 2 \log(1 + e^{-|u_i|}) \big), \qquad
              \frac{\partial \log p}{\partial u_i} = -\tanh \frac{u_i}{2}

    The density e^{-u} / (1 + e^{-u})² is even, so it may be read off |u|, where nothing overflows.
    It is the base of NICE (arXiv 1410.8516, section 3.4).

    Examples
    --------
    >>> Logistic(1).log_prob({}, np.array([[0.0], [1e300]])).round(3).tolist()
    [-1.386, -1e+300]
    """

    def log_prob(self, p: Views, u: np.ndarray) -> np.ndarray:
        """Return log p(u) (N,), nats."""
        size = np.where(u.real > 0, u, -u)
        return -(size + 2 * np.log1p(np.exp(-size))).sum(axis=1)

    def backward(self, p: Views, u: np.ndarray, d_log_prob: np.ndarray, g: Views) -> np.ndarray:
        """Return d_u (N, D) from the gradient d_log_prob (N,)."""
        return -np.tanh(u / 2) * d_log_prob[:, None]

    def sample(self, p: Views, n: int, rng: np.random.Generator, dtype) -> np.ndarray:
        """Draw u (n, D); in double precision first, as a uniform float32 is 0 once in 2²⁴ draws."""
        return rng.logistic(size=(n, self.features)).astype(dtype)


class UniformTorus(Base):
    r"""Independent uniform angles: the base of flows on the torus.

    .. math:: \log p(u) = -D \log 2\pi \quad (-\infty \text{ outside}), \qquad
              \frac{\partial \log p}{\partial u_i} = 0

    See arXiv 2002.02428. -π and π are the same point, so both are inside; π is the number of u's
    own precision that is nearest to it.

    Examples
    --------
    >>> UniformTorus(2).log_prob({}, np.array([[-np.pi, np.pi], [0.0, 4.0]])).round(3)
    array([-3.676,   -inf])
    """

    periodic = True

    def log_prob(self, p: Views, u: np.ndarray) -> np.ndarray:
        """Return log p(u) (N,), nats; -inf for a row with an angle outside [-π, π]."""
        pi = u.real.dtype.type(math.pi)
        inside = ((u.real >= -pi) & (u.real <= pi)).all(axis=1)
        return np.where(inside, -self.features * LOG_2PI, -np.inf).astype(u.dtype)

    def backward(self, p: Views, u: np.ndarray, d_log_prob: np.ndarray, g: Views) -> np.ndarray:
        """Return d_u = 0 (N, D)."""
        return np.zeros_like(u)

    def sample(self, p: Views, n: int, rng: np.random.Generator, dtype) -> np.ndarray:
        """Draw u (n, D); rounding may reach π, which on a circle is -π."""
        u = rng.uniform(-math.pi, math.pi, size=(n, self.features)).astype(dtype)
        return np.where(u < math.pi, u, -u)


class MixtureOfGaussians(Base):
    r"""Mixture of K Gaussians with diagonal covariances, all of it trainable.

    .. math:: \log p(u) = \log \sum_k w_k \prod_i \frac{e^{-z_{ki}^2 / 2}}{\sigma_{ki} \sqrt{2\pi}}, \qquad
              z_{ki} = \frac{u_i - m_{ki}}{\sigma_{ki}}, \quad w = \mathrm{softmax}(\ell), \quad
              \log \sigma_{ki} = B \tanh \frac{a_{ki}}{B}

    The bound B keeps a component from shrinking onto a single row, where a mixture's likelihood has
    no maximum.

    Parameters
    ----------
    features : int
        D.
    components : int
        K.
    bound : float
        B, so that scales stay in (e^{-B}, e^B).

    Raises
    ------
    ValueError
        If D or K is not an integer of at least 1, or B not in [1, 80].

    Examples
    --------
    >>> base = MixtureOfGaussians(2, components=3)
    >>> base.layout.shapes
    {'logits': (3,), 'means': (3, 2), 'log_scales': (3, 2)}
    """

    def __init__(self, features: int, components: int, bound: float = 7.0):
        super().__init__(features)
        self.components = integer("components", components, least=1)
        if not 1 <= bound <= 80:
            raise ValueError(f"bound: expected a number in [1, 80], got {bound!r}")
        self.bound = float(bound)
        K, D = self.components, self.features
        self.layout = Layout({"logits": (K,), "means": (K, D), "log_scales": (K, D)})

    def config(self) -> dict:
        """Return the keyword arguments that rebuild this distribution."""
        return {"features": self.features, "components": self.components, "bound": self.bound}

    def initialize(self, p: Views, rng: np.random.Generator) -> None:
        """Draw means of variance 1/2, and give every component that variance: together about a standard normal."""
        p["logits"][:] = 0.0
        p["means"][:] = rng.standard_normal(p["means"].shape) * math.sqrt(0.5)
        p["log_scales"][:] = self.bound * math.atanh(math.log(0.5) / 2 / self.bound)

    def _terms(self, p: Views, u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return log w_k N(u; m_k, σ_k²) (N, K), z (N, K, D) and 1/σ (K, D)."""
        log_sigma = self.bound * np.tanh(p["log_scales"] / self.bound)
        precision = np.exp(-log_sigma)
        z = (u[:, None] - p["means"]) * precision
        log_normal = (
            -0.5 * (z * z).sum(axis=2) - log_sigma.sum(axis=1) - 0.5 * self.features * LOG_2PI
        )
        return p["logits"] - logsumexp(p["logits"]) + log_normal, z, precision

    def log_prob(self, p: Views, u: np.ndarray) -> np.ndarray:
        """Return log p(u) (N,), nats."""
        return logsumexp(self._terms(p, u)[0])

    def backward(self, p: Views, u: np.ndarray, d_log_prob: np.ndarray, g: Views) -> np.ndarray:
        r"""Add the parameters' gradients into g; return d_u (N, D).

        .. math:: d_k = r_k\, d_{\log p}, \quad r = \mathrm{softmax}(\text{terms}), \qquad
                  d_\ell = \sum_n (r - w)\, d_{\log p}, \quad d_m = \sum_n d_k \frac{z}{\sigma} = -d_u, \quad
                  d_{\log\sigma} = \sum_n d_k (z^2 - 1)
        """
        terms, z, precision = self._terms(p, u)
        r = np.exp(terms - logsumexp(terms)[:, None])
        w = np.exp(p["logits"] - logsumexp(p["logits"]))
        d = r * d_log_prob[:, None]
        pull = d[:, :, None] * z * precision
        t = np.tanh(p["log_scales"] / self.bound)
        g["logits"] += d.sum(axis=0) - w * d_log_prob.sum()
        g["means"] += pull.sum(axis=0)
        g["log_scales"] += (d[:, :, None] * (z * z - 1)).sum(axis=0) * (1 - t * t)
        return -pull.sum(axis=1)

    def sample(self, p: Views, n: int, rng: np.random.Generator, dtype) -> np.ndarray:
        """Draw u (n, D): a component for each row, then its Gaussian."""
        sigma = np.exp(self.bound * np.tanh(p["log_scales"] / self.bound))
        e = np.exp(p["logits"] - p["logits"].max()).astype(np.float64)
        k = rng.choice(self.components, size=n, p=e / e.sum())
        u = p["means"][k] + sigma[k] * rng.standard_normal((n, self.features), dtype=dtype)
        return u.astype(dtype, copy=False)


BASES = {cls.__name__: cls for cls in (StandardNormal, Logistic, UniformTorus, MixtureOfGaussians)}
"""By the name that model files use."""
