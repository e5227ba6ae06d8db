r"""Preprocessing as fixed transforms inside the flow, so that every likelihood counts it.

.. math:: \log p(x) = \log p(y(x)) + \log\left|\det \frac{\partial y}{\partial x}\right|

A likelihood is a density *per unit of x*: standardising by std = 10 adds log 10 nats a feature to
-log p, and forgetting it is a classic error. These transforms have no parameters; their constants
come from the training rows alone.

Letters: N rows, D features, L grey levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from afnp.inputs import (
    check_rows,
    flag,
    frame_names,
    frame_of,
    integer,
    plain_array,
    real,
    some_weights,
)
from afnp.transforms.base import Transform
from afnp.transforms.bounds import check_inside, layer_of

__all__ = ["Dequantize", "Logit", "Standardize", "mean_and_std", "preprocessing"]


def mean_and_std(
    x, weights=None, average: Callable = np.average, largest: Callable = np.max
) -> tuple[np.ndarray, np.ndarray]:
    r"""Return mean and standard deviation of the columns of x (N, D), weighted by w (N,).

    .. math:: m = \sum_n w_n x_n \Big/ \sum_n w_n, \qquad
              s^2 = \sum_n w_n (x_n - m)^2 \Big/ \sum_n w_n

    A column that never changes has s = 1: it keeps its scale. ``average`` and ``largest`` do what
    NumPy's do, with more rows than are here, say.

    Examples
    --------
    >>> m, s = mean_and_std([[1.0, 5.0], [3.0, 5.0]])
    >>> print(m, s)
    [2. 5.] [1. 1.]
    """
    x = np.asarray(x, dtype=np.float64)
    if weights is not None:  # a row without weight is no row
        x, weights = x[weights > 0], weights[weights > 0]
    most = largest(np.abs(x), axis=0)
    unit = np.where(most > 1e150, most, 1.0)  # whose squares would overflow
    mean = average(x / unit, axis=0, weights=weights)
    std = np.sqrt(average(np.square(x / unit - mean), axis=0, weights=weights)) * unit
    return mean * unit, np.where(std > 1e-12 * most, std, 1.0)


class Standardize(Transform):
    r"""Subtract a mean and divide by a standard deviation, feature by feature.

    .. math:: y_i = (x_i - m_i) / s_i, \qquad
              \log\left|\det \frac{\partial y}{\partial x}\right| = -\sum_i \log s_i

    Parameters
    ----------
    mean, std : sequences of D floats
    waiting : bool
        Whether :func:`afnp.fit` is to replace both by those of its training rows; until then the
        layer does what it is told here.

    Raises
    ------
    ValueError
        If lengths differ, or a standard deviation is not positive and finite (it names the
        feature).

    Examples
    --------
    >>> layer = Standardize([0.0, 1.0], [2.0, 1.0])
    >>> y, log_det, _ = layer.normalize({}, np.array([[4.0, 1.0]]), None)
    >>> y, log_det.round(3)
    (array([[2., 0.]]), array([-0.693]))
    """

    preprocesses = True

    def __init__(self, mean, std, waiting: bool = False):
        self.waiting = flag("waiting", waiting)
        for name, values in (("mean", mean), ("std", std)):
            if plain_array(values, name).dtype.kind not in "fiub":
                raise ValueError(f"{name}: expected real numbers, got {values!r}")
        self.mean, self.std = np.array(mean, dtype=np.float64), np.array(std, dtype=np.float64)
        if self.mean.ndim != 1 or self.mean.shape != self.std.shape:
            raise ValueError(
                f"mean and std: expected two vectors of one length, got {self.mean.shape} and "
                f"{self.std.shape}"
            )
        bad = np.flatnonzero(~((self.std > 0) & np.isfinite(self.std) & np.isfinite(self.mean)))
        if bad.size:
            i = bad[0]
            raise ValueError(
                f"feature {i}: expected a finite mean and std > 0, got {self.mean[i]}, "
                f"{self.std[i]}"
            )
        self.features = integer("features", len(self.mean), least=1)

    @classmethod
    def of(cls, x: np.ndarray, weights: np.ndarray | None = None) -> Standardize:
        """Take mean and standard deviation of the rows of x (N, D), weighted by w (N,).

        Constant features keep their scale.
        """
        return cls(*mean_and_std(x, weights))

    def take(
        self, x: np.ndarray, weights: np.ndarray | None = None, moments: Callable = mean_and_std
    ) -> None:
        """Wait no longer: take mean and standard deviation of rows x (N, D), weighted by w (N,)."""
        self.mean[:], self.std[:] = moments(x, weights)
        self.waiting = False

    def config(self) -> dict:
        """Return the keyword arguments that rebuild this transform."""
        waiting = {"waiting": True} if self.waiting else {}
        return {"mean": self.mean.tolist(), "std": self.std.tolist(), **waiting}

    def _constants(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        m = self.mean.astype(x.real.dtype)
        s = self.std.astype(x.real.dtype)
        return m, s, np.full(len(x), np.log(self.std).sum(), dtype=x.dtype)

    def normalize(self, p, x, context):
        """Map x (N, D) to y; also give log|det dy/dx| (N,)."""
        m, s, log_s = self._constants(x)
        return (x - m) / s, -log_s, s

    def generate(self, p, y, context):
        """Map y (N, D) back to x; also give log|det dx/dy| (N,)."""
        m, s, log_s = self._constants(y)
        return m + y * s, log_s

    def backward(self, p, cache, d_y, d_log_det, g):
        """Return d_x = d_y / s."""
        return d_y / cache


class Dequantize(Standardize):
    r"""Bring grey levels with noise, x in [0, L), to y = x / L in [0, 1).

    .. math:: P(k) = \int_{[0,1)^D} p(k + v)\, dv \;\ge\; \exp \mathbb E_{v} \log p(k + v)

    Images are integers k. With uniform noise v added once to the data
    (:func:`afnp.data.dequantize`), the mean log-density of x = k + v bounds the log-probability of
    the image from below (arXiv 1511.01844, section 3.1). Since x is in units of one level, -log
    p(x) / (D log 2) is directly bits per dimension.
    """

    def __init__(self, features: int, levels: int):
        self.levels = integer("levels", levels, least=2)
        super().__init__(np.zeros(features), np.full(features, float(levels)))

    def config(self) -> dict:
        """Return the keyword arguments that rebuild this transform."""
        return {"features": self.features, "levels": self.levels}


class Logit(Transform):
    r"""Spread [0, 1] over the real line, keeping α clear of the ends.

    .. math:: s = \alpha + (1 - 2\alpha) x, \qquad y = \log s - \log(1 - s), \qquad
              \log \frac{dy}{dx} = \log(1 - 2\alpha) - \log s - \log(1 - s)

    As in RealNVP and MAF (arXiv 1605.08803, section 4.1). The support is where 0 < s < 1, a little
    wider than [0, 1]; a row with a value outside it has log-determinant -inf, hence density zero.
    """

    preprocesses = True

    def __init__(self, features: int, alpha: float = 1e-6):
        real("alpha", alpha, 0.0, 0.5)
        self.features = integer("features", features, least=1)
        self.alpha = float(alpha)

    def config(self) -> dict:
        """Return the keyword arguments that rebuild this transform."""
        return {"features": self.features, "alpha": self.alpha}

    @property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Where s is 0, and where it is 1."""
        beyond = np.full(self.features, self.alpha / (1 - 2 * self.alpha))
        return -beyond, 1 + beyond

    def normalize(self, p, x, context):
        """Map x (N, D) to y; also give log|det dy/dx| (N,), -inf outside the support."""
        # r = 1 - s = alpha + (1 - 2 alpha)(1 - x): both ends keep their digits
        s, r = self.alpha + (1 - 2 * self.alpha) * x, self.alpha + (1 - 2 * self.alpha) * (1 - x)
        outside = (s.real <= 0) | (r.real <= 0)
        s[outside] = r[outside] = 0.5
        log_s, log_r = np.log(s), np.log(r)
        log_det = (math.log1p(-2 * self.alpha) - log_s - log_r).sum(axis=1)
        log_det[outside.any(axis=1)] = -np.inf
        return log_s - log_r, log_det, (s, r)

    def generate(self, p, y, context):
        """Map y (N, D) back to x; also give log|det dx/dy| (N,)."""
        # sigmoid and its log-derivative from e = exp(-|y|), which cannot overflow
        positive = y.real > 0
        size = np.where(positive, y, -y)
        e = np.exp(-size)
        s = np.where(positive, 1, e) / (1 + e)
        log_derivative = -size - 2 * np.log1p(e) - math.log1p(-2 * self.alpha)
        return (s - self.alpha) / (1 - 2 * self.alpha), log_derivative.sum(axis=1)

    def backward(self, p, cache, d_y, d_log_det, g):
        r"""Return d_x.

        .. math:: d_x = (1 - 2\alpha) \left[ d_y \left(\tfrac1s + \tfrac1{1-s}\right)
                  + d_{\log\det} \left(\tfrac1{1-s} - \tfrac1s\right) \right]
        """
        s, r = cache
        return (1 - 2 * self.alpha) * (d_y * (1 / s + 1 / r) + d_log_det[:, None] * (1 / r - 1 / s))


def preprocessing(
    x: np.ndarray, levels: int | None = None, alpha: float = 1e-6, bounds=None, weights=None
) -> list[Transform]:
    """Return the usual fixed transforms for training rows x (N, D).

    Continuous data are standardised. Data with grey ``levels`` (noise already added, x in [0, L))
    are divided by L, spread by the logit, and then standardised.

    Parameters
    ----------
    x : (N, D) array or DataFrame
    levels : int, optional
        L.
    alpha : float
        How far the logit keeps clear of its ends.
    bounds : dict or sequence, optional
        Where features end: ``{feature: (low, high)}`` by number or name, None for no end, or D such
        pairs. They are unfolded (:class:`afnp.transforms.bounds.Bounds`), so that no sample leaves
        them, and the density outside is zero.
    weights : (N,) array, optional
        How much each row counts in mean and standard deviation, as for :func:`afnp.fit`.

    Raises
    ------
    ValueError
        If x is not a table of finite numbers, a value lies outside the levels or the bounds (names
        row and feature), or a weight is negative or not finite.

    Examples
    --------
    >>> x = np.random.default_rng(0).uniform(0, 17, size=(100, 3))
    >>> [type(layer).__name__ for layer in preprocessing(x, levels=17)]
    ['Dequantize', 'Logit', 'Standardize']
    """
    frame = frame_of(x)
    columns = None if frame is None else frame_names(frame)
    x = check_rows(x, None, np.float64, "x")
    if not len(x):
        raise ValueError("x: expected at least one row, got none")
    w, numbers = None, np.arange(len(x))
    if weights is not None:  # a row without weight is no row
        w = some_weights(weights, len(x))
        numbers = np.flatnonzero(w)
        x, w = x[numbers], w[numbers]
    layers: list[Transform] = []
    if bounds is not None:
        if levels is not None:
            raise ValueError("bounds: levels have their own, 0 and L; expected one of the two")
        limits = layer_of(bounds, x.shape[1], columns)
        layers = [limits]
        check_inside(x, limits.ends, "bounds", columns, numbers)
        x = limits.normalize({}, x, None)[0]
    if levels is not None:
        levels = integer("levels", levels, least=2)
        outside = np.argwhere((x < 0) | (x > levels))
        if outside.size:
            row, feature = outside[0]
            raise ValueError(
                f"row {numbers[row]}, feature {feature}: expected 0 <= x <= {levels}, got "
                f"{x[row, feature]}"
            )
        layers = [Dequantize(x.shape[1], levels), Logit(x.shape[1], alpha)]
        for layer in layers:
            x = layer.normalize(layer.layout.views(np.empty(0)), x, np.empty((len(x), 0)))[0]
    return [*layers, Standardize.of(x, w)]
