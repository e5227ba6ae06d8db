r"""Normalisation: a shift and a scale of each feature, trained (ActNorm) or a batch's (BatchNorm).

.. math::
    \text{ActNorm:} \;\; u &= (x - m) \odot e^{-s}

    \text{BatchNorm:} \;\; u &= (x - m) \odot (v + \epsilon)^{-1/2} \odot e^{\gamma} + \beta, \qquad
    \log\left|\det \frac{\partial u}{\partial x}\right|
    = \sum_i \gamma_i - \tfrac12 \log(v_i + \epsilon)

Batch normalisation has an exact gradient in both of its modes (MAF, arXiv 1705.07057, section 3.4).
Evaluation takes m and v from running averages, which are constants: densities are normalised, rows
do not know each other. Training takes mean and variance of the batch. Its log-determinant is that
of each row's map with m and v held fixed, the density that this row would get if they were the
running ones; the *gradient* goes through m and v too, because they are functions of the rows and,
below, of all parameters before this layer.

The running averages are state that model files and checkpoints must keep, so they lie in theta, as
the mean and
:math:`w = \log(v + \epsilon)`, which any real number may be. In training their gradient is zero;
``start_from_data`` and ``update_statistics``, which only training calls, write them. In evaluation
they are parameters like others, and ``backward`` gives their gradients.

Letters: N rows, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from afnp.inputs import integer, real
from afnp.params import Layout, Views
from afnp.transforms.base import Transform, mean_of_rows
from afnp.transforms.cost import Cost, elementwise

__all__ = ["ActNorm", "BatchNorm"]


class ActNorm(Transform):
    r"""Shift and scale every feature, starting from the first batch (Glow, arXiv 1807.03039).

    .. math:: u_i = (x_i - m_i)\, e^{-s_i}, \qquad
              \log\left|\det \frac{\partial u}{\partial x}\right| = -\sum_i s_i

    m and s are trained like any parameter. While they are untouched, exactly zero,
    ``start_from_data`` sets them so that the batch gets mean 0 and standard deviation 1;
    :func:`afnp.fit` calls it before the first step.

    Examples
    --------
    >>> layer = ActNorm(1)
    >>> p = layer.layout.views(np.zeros(2))
    >>> layer.start_from_data(p, np.array([[1.0], [5.0]]))
    >>> layer.normalize(p, np.array([[7.0]]), None)[0]
    array([[2.]])
    """

    def __init__(self, features: int):
        self.features = integer("features", features, least=1)
        self.layout = Layout({"m": (self.features,), "s": (self.features,)})

    @property
    def cost(self) -> Cost:
        """What each direction costs: a multiplication and an addition a feature."""
        return elementwise(self.features)

    @classmethod
    def count(cls, config: dict) -> int:
        """Return 2 D, from integers alone."""
        return 2 * integer("features", config["features"], least=1)

    def waits(self, p: Views) -> bool:
        """Return whether m and s are untouched, exactly zero."""
        return not (p["m"].any() or p["s"].any())

    def start_from_data(self, p: Views, x: np.ndarray, average: Callable = mean_of_rows) -> None:
        """Take mean and standard deviation of x (N, D), unless something was there.

        Constants keep their scale.
        """
        if self.waits(p):
            mean = average(x)
            std = np.sqrt(average(np.square(x - mean)))
            p["m"][:] = mean
            p["s"][:] = np.log(np.where(std > 1e-6 * average(np.abs(x)), std, 1.0))

    def normalize(self, p, x, context):
        """Map x (N, D) to u; also give log|det du/dx| (N,) and the cache of ``backward``."""
        scale = np.exp(-p["s"])
        u = (x - p["m"]) * scale
        return u, np.full(len(x), -p["s"].sum(), dtype=u.dtype), (u, scale)

    def generate(self, p, u, context):
        """Map u (N, D) back to x; also give log|det dx/du| (N,)."""
        x = p["m"] + u * np.exp(p["s"])
        return x, np.full(len(u), p["s"].sum(), dtype=x.dtype)

    def backward(self, p, cache, d_u, d_log_det, g):
        r"""Return d_x; add the parameters' gradients into g.

        .. math:: d_x = d_u\, e^{-s}, \qquad d_m = -\sum_n d_x, \qquad
                  d_s = -\sum_n (d_u\, u + d_{\log\det})
        """
        u, scale = cache
        d_x = d_u * scale
        g["m"] -= d_x.sum(axis=0)
        g["s"] -= (d_u * u).sum(axis=0) + d_log_det.sum()
        return d_x


class BatchNorm(Transform):
    """Batch normalisation: running statistics in evaluation, those of the batch in training.

    Parameters
    ----------
    features : int
        D.
    momentum : float
        ρ in (0, 1], of a full batch; see ``update_statistics``.
    epsilon : float
        Added to variances, above 0.

    Raises
    ------
    ValueError
        If the momentum or epsilon makes no sense.

    Examples
    --------
    >>> layer = BatchNorm(1, epsilon=1e-12)
    >>> p = layer.layout.views(np.zeros(4))
    >>> x = np.array([[1.0], [5.0]])
    >>> layer.normalize(p, x, None)[0].round(3), layer.normalize_training(p, x, None)[0].round(3)
    (array([[1.],
           [5.]]), array([[-1.],
           [ 1.]]))
    """

    takes_statistics = True

    def __init__(self, features: int, momentum: float = 0.1, epsilon: float = 1e-5):
        self.features = integer("features", features, least=1)
        self.momentum = real("momentum", momentum, 0.0, 1.0, "(]")
        self.epsilon = real("epsilon", epsilon, 0.0, 1.0)
        self.layout = Layout({name: (self.features,) for name in ("beta", "gamma", "mean", "w")})

    @property
    def cost(self) -> Cost:
        """What each direction costs: a multiplication and an addition a feature."""
        return elementwise(self.features)

    @classmethod
    def count(cls, config: dict) -> int:
        """Return 4 D, from integers alone."""
        return 4 * integer("features", config["features"], least=1)

    def config(self) -> dict:
        """Return the keyword arguments that rebuild this transform."""
        return {"features": self.features, "momentum": self.momentum, "epsilon": self.epsilon}

    def waits(self, p: Views) -> bool:
        """Return whether the running statistics are untouched, exactly zero."""
        return not (p["mean"].any() or p["w"].any())

    def start_from_data(self, p: Views, x: np.ndarray, average: Callable = mean_of_rows) -> None:
        """Let untouched running statistics begin with those of x (N, D), N > 1."""
        if len(x) > 1 and self.waits(p):
            mean = average(x)
            p["mean"][:] = mean
            p["w"][:] = np.log(average(np.square(x - mean)) + self.epsilon)

    def _scaled(self, p: Views, x: np.ndarray, m: np.ndarray, w: np.ndarray) -> tuple:
        s = np.exp(-0.5 * w)
        x_hat, scale = (x - m) * s, np.exp(p["gamma"])
        log_det = (p["gamma"] - 0.5 * w).sum()
        return (
            x_hat * scale + p["beta"],
            np.full(len(x), log_det, dtype=x_hat.dtype),
            (x_hat, s, scale),
        )

    def normalize(self, p, x, context):
        """Map x (N, D) to u with the running statistics.

        Also give log|det du/dx| and the cache of ``backward``.
        """
        u, log_det, cache = self._scaled(p, x, p["mean"], p["w"])
        return u, log_det, (cache, None)

    def normalize_training(self, p, x, context, weights=None):
        """Map x (N, D) to u with the statistics of x itself, weighted by w (N,).

        One row has none, and takes the running ones.
        """
        taken = len(x) > 1
        m, w = p["mean"].copy(), p["w"].copy()
        before = m, w
        share: np.ndarray | float = 1 / len(x)
        if weights is not None:
            weights = weights.astype(x.real.dtype)
            share = (weights / weights.sum())[:, None]
        if taken:
            m = np.average(x, axis=0, weights=weights)
            w = np.log(np.average((x - m) ** 2, axis=0, weights=weights) + self.epsilon)
        u, log_det, cache = self._scaled(p, x, m, w)
        return u, log_det, (cache, Batch(taken, share, m, w, *before))

    def generate(self, p, u, context):
        """Map u (N, D) back to x with the running statistics; also give log|det dx/du| (N,)."""
        x = (u - p["beta"]) * np.exp(0.5 * p["w"] - p["gamma"]) + p["mean"]
        return x, np.full(len(u), (0.5 * p["w"] - p["gamma"]).sum(), dtype=x.dtype)

    def backward(self, p, cache, d_u, d_log_det, g):
        r"""Return d_x in the mode of the cache; add the parameters' gradients into g.

        .. math::
            d_\beta = \sum_n d_u, \qquad d_\gamma = \sum_n (d_{\hat x} \hat x + d_{\log\det}),
            \qquad d_{\hat x} = d_u\, e^\gamma, \qquad \hat x = (x - m)\, s, \quad s = e^{-w/2}

            \text{evaluation:} \quad d_x = s\, d_{\hat x}, \qquad d_m = -\sum_n d_x, \qquad
            d_w = -\tfrac12 d_\gamma

            \text{training:} \quad d_{x, n} = s \Big[ d_{\hat x, n} - a_n \sum_k d_{\hat x, k}
            - a_n \hat x_n \sum_k \big( d_{\hat x, k} \hat x_k + d_{\log\det, k} \big) \Big]

        A row's share a is 1/N, or its weight over the sum of all. The sums are the gradient through
        m, through v, and through v in the log-determinant.
        """
        (x_hat, s, scale), batch = cache
        d_hat = d_u * scale
        d_gamma = (d_hat * x_hat).sum(axis=0) + d_log_det.sum()
        g["beta"] += d_u.sum(axis=0)
        g["gamma"] += d_gamma
        if batch is None:
            g["mean"] -= s * d_hat.sum(axis=0)
            g["w"] -= 0.5 * d_gamma
        elif batch.taken:
            d_hat = d_hat - batch.share * (d_hat.sum(axis=0) + x_hat * d_gamma)
        return s * d_hat

    def update_statistics(self, p: Views, cache, share: float) -> None:
        r"""Move the running statistics towards those of the training pass that left the cache.

        .. math:: m \leftarrow k\, m + (1 - k)\, m_{\mathrm{batch}}, \qquad
                  v \leftarrow k\, v + (1 - k)\, v_{\mathrm{batch}}, \qquad
                  k = (1 - \rho)^{\mathrm{share}}

        A batch weighs as its rows do: the last and small one of an epoch is a ``share`` of a full
        one, and two halves move the mean as far as one whole. They move from where they were
        *then*: whatever an optimiser did to theta since, decay too, is undone.
        """
        batch = cache[1]
        keep = (1 - self.momentum) ** share
        p["mean"][:], p["w"][:] = batch.mean_before, batch.w_before
        if batch.taken:
            p["mean"] += (1 - keep) * (batch.mean - batch.mean_before)
            p["w"][:] = np.log(keep * np.exp(batch.w_before) + (1 - keep) * np.exp(batch.w))


class Batch(NamedTuple):
    """What a training pass knows of its batch: its statistics, and the running ones before it."""

    taken: bool
    """Whether these rows have statistics; one row alone has none."""
    share: np.ndarray | float
    """What part of them each row is, (N, 1) where they have weights."""
    mean: np.ndarray
    w: np.ndarray
    mean_before: np.ndarray
    w_before: np.ndarray
