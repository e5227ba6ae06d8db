r"""Batch normalisation as a transform, with its exact gradient in both modes (MAF, arXiv 1705.07057, section 3.4).

.. math::
    u = (x - m) \odot (v + \epsilon)^{-1/2} \odot e^{\gamma} + \beta, \qquad
    \log\left|\det \frac{\partial u}{\partial x}\right| = \sum_i \gamma_i - \tfrac12 \log(v_i + \epsilon)

Evaluation takes m and v from running averages, which are constants: densities are normalised, rows
do not know each other. Training takes mean and variance of the batch. Its log-determinant is that
of each row's map with m and v held fixed, the density that this row would get if they were the
running ones; the *gradient* goes through m and v too, because they are functions of the rows and,
below, of all parameters before this layer.

The running averages are state that model files and checkpoints must keep, so they lie in theta, as
the mean and
:math:`w = \log(v + \epsilon)`, which any real number may be. In training their gradient is zero; ``begin`` and
``update``, which only training calls, write them. In evaluation they are parameters like others,
and ``backward`` gives their gradients.

Letters: N rows, D features.
"""

from __future__ import annotations

import numpy as np

from afnp.inputs import integer
from afnp.params import Layout, Views
from afnp.transforms.cost import Passes, Work

__all__ = ["BatchNorm"]


class BatchNorm:
    """Batch normalisation: running statistics in evaluation, those of the batch in training.

    Parameters
    ----------
    features : int
        D.
    momentum : float
        ρ in (0, 1], see ``update``.
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

    def __init__(self, features: int, momentum: float = 0.1, epsilon: float = 1e-5):
        self.features = integer("features", features, least=1)
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum: expected a number in (0, 1], got {momentum!r}")
        if not 0 < epsilon < 1:
            raise ValueError(f"epsilon: expected a number in (0, 1), got {epsilon!r}")
        self.momentum, self.epsilon = float(momentum), float(epsilon)
        self.layout = Layout({name: (self.features,) for name in ("beta", "gamma", "mean", "w")})
        work = Work(0, 0, self.features)
        self.passes = Passes(work, work, work)

    def config(self) -> dict:
        """Return the keyword arguments that rebuild this transform."""
        return {"features": self.features, "momentum": self.momentum, "epsilon": self.epsilon}

    def initialize(self, p: dict, rng: np.random.Generator, **kwargs: float) -> None:
        """Start as the identity: everything 0."""
        for part in p.values():
            part[:] = 0.0

    def begin(self, p: Views, x: np.ndarray) -> None:
        """Let untouched running statistics, exactly zero, begin with those of x (N, D)."""
        if not (p["mean"].any() or p["w"].any()):
            p["mean"][:], p["w"][:] = x.mean(axis=0), np.log(x.var(axis=0) + self.epsilon)

    def allowed(self) -> np.ndarray:
        """Return which output may depend on which input, (D, D) bool: each on its own, in evaluation."""
        return np.eye(self.features, dtype=bool)

    def _scaled(self, p: Views, x: np.ndarray, m: np.ndarray, w: np.ndarray) -> tuple:
        s = np.exp(-0.5 * w)
        x_hat, scale = (x - m) * s, np.exp(p["gamma"])
        log_det = (p["gamma"] - 0.5 * w).sum()
        return (
            x_hat * scale + p["beta"],
            np.full(len(x), log_det, dtype=x_hat.dtype),
            (x_hat, s, scale),
        )

    def normalize(self, p, x, context, backend="numpy", keep=True):
        """Map x (N, D) to u with the running statistics; also give log|det du/dx| and the cache of ``backward``."""
        u, log_det, cache = self._scaled(p, x, p["mean"], p["w"])
        return u, log_det, (cache, None)

    def normalize_training(self, p, x, context):
        """Map x (N, D) to u with the statistics of x itself; the cache also holds what ``update`` needs."""
        m = x.mean(axis=0)
        w = np.log(((x - m) ** 2).mean(axis=0) + self.epsilon)
        u, log_det, cache = self._scaled(p, x, m, w)
        return u, log_det, (cache, (m, w, p["mean"].copy(), p["w"].copy()))

    def generate(self, p, u, context, method="substitution", backend="numpy"):
        """Map u (N, D) back to x with the running statistics; also give log|det dx/du| (N,)."""
        x = (u - p["beta"]) * np.exp(0.5 * p["w"] - p["gamma"]) + p["mean"]
        return x, np.full(len(u), (0.5 * p["w"] - p["gamma"]).sum(), dtype=x.dtype)

    def backward(self, p, cache, d_u, d_log_det, g):
        r"""Return d_x in the mode of the cache; add the parameters' gradients into g.

        .. math::
            d_\beta = \sum_n d_u, \qquad d_\gamma = \sum_n (d_{\hat x} \hat x + d_{\log\det}), \qquad
            d_{\hat x} = d_u\, e^\gamma, \qquad \hat x = (x - m)\, s, \quad s = e^{-w/2}

            \text{evaluation:} \quad d_x = s\, d_{\hat x}, \qquad d_m = -\sum_n d_x, \qquad
            d_w = -\tfrac12 d_\gamma

            \text{training:} \quad d_x = s \Big[ d_{\hat x} - \overline{d_{\hat x}}
            - \hat x \big( \overline{d_{\hat x} \hat x} + \overline{d_{\log\det}} \big) \Big]

        Bars are means over the rows: the gradient through m, through v, and through v in the
        log-determinant.
        """
        (x_hat, s, scale), batch = cache
        d_hat = d_u * scale
        d_gamma = (d_hat * x_hat).sum(axis=0) + d_log_det.sum()
        g["beta"] += d_u.sum(axis=0)
        g["gamma"] += d_gamma
        if batch is not None:
            return s * (d_hat - d_hat.mean(axis=0) - x_hat * d_gamma / len(d_u))
        g["mean"] -= s * d_hat.sum(axis=0)
        g["w"] -= 0.5 * d_gamma
        return s * d_hat

    def update(self, p: Views, cache) -> None:
        r"""Move the running statistics towards those of the training pass that left the cache.

        .. math:: m \leftarrow (1 - \rho)\, m + \rho\, m_{\mathrm{batch}}, \qquad
                  v \leftarrow (1 - \rho)\, v + \rho\, v_{\mathrm{batch}}

        They move from where they were *then*: whatever an optimiser did to theta since, decay too,
        is undone.
        """
        (m, w, mean, w_before), rho = cache[1], self.momentum
        p["mean"][:] = (1 - rho) * mean + rho * m
        p["w"][:] = np.log((1 - rho) * np.exp(w_before) + rho * np.exp(w))
