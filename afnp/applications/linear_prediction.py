r"""Linear prediction: the best stationary Gaussian of a series, also as a layer of a flow.

.. math::
    x_t - m = \sum_{k=1}^{P} a_k (x_{t-k} - m) + e_t, \qquad e_t \sim \mathcal N(0, \sigma^2)

    \sum_k a_k\, r_{|j-k|} = r_j \quad (j = 1 \dots P), \qquad \sigma^2 = r_0 - \sum_k a_k r_k

with autocovariances r (Yule and Walker). Levinson's recursion solves this in O(P²), order after
order:

.. math::
    \kappa_p = \frac{r_p - \sum_{k<p} a^{(p-1)}_k r_{p-k}}{v_{p-1}}, \qquad
    a^{(p)}_k = a^{(p-1)}_k - \kappa_p\, a^{(p-1)}_{p-k}, \quad a^{(p)}_p = \kappa_p, \qquad
    v_p = (1 - \kappa_p^2)\, v_{p-1}

The lower orders are not scaffolding. Sample t < P has only t samples before it, and predictor
number t with its variance v_t is its exact conditional: so the chain rule holds from the first
sample on, and the sum of all terms is the log-density of a normal vector with Toeplitz covariance.
Run backwards, the recursion finds the lower orders of any predictor that is stationary, that is
with all \|κ\| < 1.

Speech is where this came from (LPC), and what it lacks is what a flow adds: one variance for
silence and vowels.

Letters: T samples, P order, N rows, D features (steps).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from afnp.inputs import choose, generator, integer, plain_array
from afnp.transforms.linear_filter import LinearPrediction, filter_rows

__all__ = ["LinearPredictor", "adapted_log_prob", "autocovariance", "levinson"]


def _series(x, name: str = "x", least: int = 1) -> np.ndarray:
    """Return x as a finite series (T,) of float64."""
    x = plain_array(x, name)
    if x.dtype.kind not in "fiu" or x.ndim != 1:
        raise ValueError(
            f"{name}: expected one series (T,) of real numbers, got shape {x.shape}, {x.dtype}"
        )
    if len(x) < least:
        raise ValueError(f"{name}: expected at least {least} samples, got {len(x)}")
    x = x.astype(np.float64)
    if not np.isfinite(x).all():
        t = int(np.argmin(np.isfinite(x)))
        raise ValueError(f"{name}: sample {t} is {x[t]}; every value must be finite")
    return x


def autocovariance(x, order: int) -> np.ndarray:
    r"""Return r_0 ... r_P of a series (T,) without mean, (P + 1,).

    Always those of some stationary process.

    .. math:: r_k = \frac1T \sum_{t=k}^{T-1} x_t\, x_{t-k}

    Examples
    --------
    >>> autocovariance([1.0, -1.0, 1.0, -1.0], 2).tolist()
    [1.0, -0.75, 0.5]
    """
    order = integer("order", order, least=0)
    x = _series(x, least=order + 1)
    return np.array([x[k:] @ x[: len(x) - k] for k in range(order + 1)]) / len(x)


def levinson(r) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the predictors of all orders 0 ... P from autocovariances r (P + 1,).

    Also their variances (P + 1,).

    Raises
    ------
    ValueError
        If r is not that of a process with noise: it names the order that would predict exactly, or
        better.

    Examples
    --------
    >>> ladder, variances = levinson([1.0, 0.5, 0.25])
    >>> ladder[2].tolist(), variances.tolist()
    ([0.5, 0.0], [1.0, 0.75, 0.75])
    """
    r = _series(r, "r")
    ladder, variances = [np.zeros(0)], [r[0]]
    for p in range(1, len(r) + 1):
        if not variances[-1] > 0:
            raise ValueError(
                f"r: expected positive variances, got {variances[-1]:.3g} at order {p - 1}"
            )
        if p < len(r):
            a = ladder[-1]
            kappa = (r[p] - a @ r[p - 1 : 0 : -1]) / variances[-1]
            ladder.append(np.append(a - kappa * a[::-1], kappa))
            variances.append(variances[-1] * (1 - kappa * kappa))
    return ladder, np.array(variances)


@dataclass(frozen=True)
class LinearPredictor:
    r"""The stationary Gaussian process of order P; see the module's formulas.

    .. math:: \log p(x) = \sum_t \log \mathcal N\Big(x_t;\;
              m + \sum_{k \le \min(t, P)} a^{(t)}_k (x_{t-k} - m),\;
              v_{\min(t, P)}\Big)

    Parameters
    ----------
    coefficients : (P,) array
        a_1 ... a_P.
    variance : float
        σ², of what the past does not tell.
    mean : float
        m.

    Raises
    ------
    ValueError
        If a number is not finite, or the variance not positive.

    Examples
    --------
    >>> x = LinearPredictor(np.array([0.9]), variance=0.19).sample(5000, rng=0)
    >>> fitted = LinearPredictor.fit(x, order=2)
    >>> fitted.coefficients.round(1) + 0.0, round(fitted.variance, 2)
    (array([0.9, 0. ]), 0.19)
    """

    coefficients: np.ndarray
    variance: float
    mean: float = 0.0

    def __post_init__(self):
        object.__setattr__(
            self, "coefficients", _series(self.coefficients, "coefficients", least=0)
        )
        if not (0 < self.variance < np.inf and np.isfinite(self.mean)):
            raise ValueError(
                f"expected a variance > 0 and a finite mean, got {self.variance} and {self.mean}"
            )

    @classmethod
    def fit(cls, x, order: int, method: str = "levinson") -> LinearPredictor:
        r"""Fit to a series (T,), T > 2 P.

        Parameters
        ----------
        x : (T,) array
        order : int
            P.
        method : {"levinson", "least squares"}
            From autocovariances: always stationary. Or :math:`\min_a \sum_{t \ge P} e_t^2`: the
            maximum of the likelihood given the first P samples, which may explode when sampled.

        Raises
        ------
        ValueError
            If the series is too short, not finite, or predicted without error.
        """
        order = integer("order", order, least=0)
        choose("method", method, ("levinson", "least squares"))
        x = _series(x, least=2 * order + 1)
        mean = float(x.mean())
        if method == "levinson":
            ladder, variances = levinson(autocovariance(x - mean, order))
            return cls(ladder[-1], float(variances[-1]), mean)
        windows = np.lib.stride_tricks.sliding_window_view(x - mean, order + 1)
        a = np.linalg.lstsq(windows[:, :-1], windows[:, -1], rcond=None)[0][::-1]
        return cls(a, float(np.mean((windows[:, -1] - windows[:, :-1] @ a[::-1]) ** 2)), mean)

    @property
    def order(self) -> int:
        """P."""
        return len(self.coefficients)

    def ladder(self) -> tuple[list[np.ndarray], np.ndarray]:
        r"""Return predictors of orders 0 ... P and variances, by the recursion run backwards.

        .. math:: a^{(p-1)}_k = \frac{a^{(p)}_k + \kappa_p\, a^{(p)}_{p-k}}{1 - \kappa_p^2}, \qquad
                  v_{p-1} = \frac{v_p}{1 - \kappa_p^2}, \qquad \kappa_p = a^{(p)}_p

        Raises
        ------
        ValueError
            If the process is not stationary: some \|κ\| >= 1.
        """
        ladder, variances = [self.coefficients], [self.variance]
        for p in range(self.order, 0, -1):
            a, kappa = ladder[0], ladder[0][-1]
            if not abs(kappa) < 1:
                raise ValueError(
                    f"coefficients: expected a stationary process, got |kappa| = {abs(kappa):.6g}, "
                    f"{p=}"
                )
            ladder.insert(0, (a[:-1] + kappa * a[-2::-1]) / (1 - kappa * kappa))
            variances.insert(0, variances[0] / (1 - kappa * kappa))
        return ladder, np.array(variances)

    def layer(self, features: int) -> LinearPrediction:
        """Return the predictor as a layer of a flow of so many steps."""
        return LinearPrediction(features, self.coefficients, self.variance**0.5, self.mean)

    def errors(self, x) -> np.ndarray:
        """Return e_t = x_t minus its prediction from the t < P or P samples before it, (T,)."""
        y = _series(x) - self.mean
        ladder, _ = self.ladder()
        e = filter_rows(y[None], self.coefficients)[0]
        for t in range(min(self.order, len(y))):
            e[t] = y[t] - ladder[t] @ y[:t][::-1]
        return e

    def log_prob(self, x) -> np.ndarray:
        """Return log p(x_t | all before) of each sample of x (T,), nats, (T,)."""
        e = self.errors(x)
        _, variances = self.ladder()
        return _log_normal(e, variances[np.minimum(np.arange(len(e)), self.order)])

    def sample(self, n: int, rng=0) -> np.ndarray:
        """Draw a path (n,), stationary from its first sample, from a seed or a Generator."""
        n = integer("n", n, least=0)
        ladder, variances = self.ladder()
        y = np.zeros(n)
        z = generator("rng", rng).standard_normal(n)
        for t in range(n):
            p = min(t, self.order)
            y[t] = ladder[p] @ y[t - p : t][::-1] + np.sqrt(variances[p]) * z[t]
        return self.mean + y


def _log_normal(e: np.ndarray, variance: np.ndarray) -> np.ndarray:
    return -0.5 * (np.log(2 * np.pi * variance) + e * e / variance)


def adapted_log_prob(predictor: LinearPredictor, x, memory: float, floor: float) -> np.ndarray:
    r"""Return log p(x_t | all before) (T,) of a predictor whose variance follows its errors.

    .. math:: e_t \sim \mathcal N(0,\; w_t + \mathrm{floor}), \qquad
              w_{t+1} = \lambda\, w_t + (1 - \lambda)\, e_t^2, \qquad w_0 = \sigma^2

    Still an exact density: the variance at t is known before x_t is. A rival with an adaptive gain,
    as speech coders have it; λ is the ``memory``.

    Examples
    --------
    >>> quiet = LinearPredictor(np.zeros(0), variance=1.0)
    >>> x = 0.01 * np.ones(1000)
    >>> adapted = adapted_log_prob(quiet, x, memory=0.9, floor=1e-6)
    >>> bool(adapted.mean() > quiet.log_prob(x).mean() + 3)
    True
    """
    if not (0 < memory < 1 and 0 < floor < np.inf):
        raise ValueError(f"expected a memory in (0, 1) and a floor > 0, got {memory} and {floor}")
    e = predictor.errors(x)
    w, w_t = np.empty(len(e)), predictor.variance
    for t, square in enumerate((e * e).tolist()):
        w[t] = w_t
        w_t = memory * w_t + (1 - memory) * square
    return _log_normal(e, w + floor)
