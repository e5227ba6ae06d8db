r"""Base distributions: what the noise u is drawn from.

.. math:: \log p(u) = \sum_i \log p(u_i)

A base distribution is the last factor of a flow's density; its parameters, if it has any, lie at
the end of the flow's theta and are trained with it. Densities are in nats and never NaN: -inf
outside the support, and finite as long as u² is.

Letters: N rows, D features.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from afnp.inputs import integer, real
from afnp.params import Layout, Views, register

__all__ = [
    "BASES",
    "Base",
    "Logistic",
    "StandardNormal",
    "StudentT",
    "UniformTorus",
]

LOG_2PI = math.log(2 * math.pi)


BASES: dict[str, type[Base]] = {}
"""By the name that model files use; see :data:`afnp.transforms.TRANSFORMS`."""


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

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        register(BASES, cls)

    @classmethod
    def count(cls, config: dict) -> int:
        """Return how many parameters ``cls(**config)`` has, from integers, before it is built."""
        return 0

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
        """Add the parameters' gradients into g.

        Return d_u (N, D) from the gradient d_log_prob (N,).
        """
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
    r"""Independent standard logistic noise: tails exp(-|u|) instead of the normal's exp(-u²/2).

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


class StudentT(Base):
    r"""Independent Student-t noise: tails like powers of u, for data with far outliers.

    .. math:: \log p(u) = \sum_i \Big[ \log \frac{\Gamma(\frac{\nu + 1}{2})}
              {\Gamma(\frac\nu2) \sqrt{\nu\pi}} - \frac{\nu + 1}{2}
              \log\Big(1 + \frac{u_i^2}{\nu}\Big) \Big], \qquad
              \frac{\partial \log p}{\partial u_i} = -\frac{(\nu + 1)\, u_i}{\nu + u_i^2}

    Affine flows pass their base's tails on to the data, so a normal base makes outliers all but
    impossible (arXiv 2107.07352). The density is finite for every float.

    Parameters
    ----------
    features : int
        D.
    df : float
        ν > 0, the degrees of freedom: moments exist below order ν; 1 is Cauchy's distribution, and
        towards infinity it becomes the normal one.

    Examples
    --------
    >>> StudentT(1, df=1.0).log_prob({}, np.array([[0.0], [1e200]])).round(3).tolist()
    [-1.145, -922.179]
    """

    def __init__(self, features: int, df: float = 5.0):
        super().__init__(features)
        self.df = real("df", df, 0.0)

    def config(self) -> dict:
        """Return the keyword arguments that rebuild this distribution."""
        return {"features": self.features, "df": self.df}

    def _parts(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return where |u| > sqrt(ν), and t = u / sqrt(ν) in the middle, 1 / t beyond, else 0."""
        root = math.sqrt(self.df)
        far = np.abs(u.real) > root
        t = np.where(far, 0, u) / root
        return far, t, np.where(far, root / np.where(far, u, 1), 0)

    def log_prob(self, p: Views, u: np.ndarray) -> np.ndarray:
        """Return log p(u) (N,), nats."""
        half = 0.5 * (self.df + 1)
        constant = _log_gamma_step(self.df / 2) - 0.5 * (math.log(self.df) + math.log(math.pi))
        far, t, inverse = self._parts(u)
        size = np.where(far, np.where(u.real > 0, u, -u), 1)
        # far out log(1 + t²) = 2 log |t| + log(1 + 1/t²), which squares nothing large
        beyond = np.where(far, 2 * np.log(size) - math.log(self.df), 0)
        bend = beyond + np.log1p(t * t + inverse * inverse)
        return (constant - half * bend).sum(axis=1).astype(u.dtype, copy=False)

    def backward(self, p: Views, u: np.ndarray, d_log_prob: np.ndarray, g: Views) -> np.ndarray:
        """Return d_u (N, D) from the gradient d_log_prob (N,)."""
        _, t, inverse = self._parts(u)
        ratio = (t + inverse) / (1 + t * t + inverse * inverse)
        d_u = -((self.df + 1) / math.sqrt(self.df)) * ratio * d_log_prob[:, None]
        return d_u.astype(u.dtype, copy=False)

    def sample(self, p: Views, n: int, rng: np.random.Generator, dtype) -> np.ndarray:
        """Draw u (n, D); what float32 cannot hold becomes its largest number."""
        u = rng.standard_t(self.df, size=(n, self.features))
        largest = np.finfo(dtype).max
        return np.clip(u, -largest, largest).astype(dtype)


def _log_gamma_step(a: float) -> float:
    r"""Return :math:`\log \Gamma(a + \tfrac12) - \log \Gamma(a)`.

    For large a by its series, as both are large.
    """
    if a < 100:
        return math.lgamma(a + 0.5) - math.lgamma(a)
    r = 1 / a
    return 0.5 * math.log(a) - r / 8 + r**3 / 192 - r**5 / 640
