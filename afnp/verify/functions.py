r"""What is given to the checks: functions of rows, and what must be known about them.

.. math:: x \leftrightarrow u, \qquad u \sim p_{\mathrm{base}}, \qquad
          \log p(x)
          = \log p_{\mathrm{base}}(u) + \log\left|\det \frac{\partial u}{\partial x}\right|

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from afnp.inputs import plain_array, real

__all__ = ["FUNCTIONS", "Functions", "outside"]

FUNCTIONS = ("normalize", "generate", "log_prob", "sample")
"""At least one of these must be given."""


@dataclasses.dataclass(frozen=True)
class Functions:
    """Functions of NumPy arrays that together are a normalizing flow, as far as they are there.

    The context (N, C) is their last argument where ``context`` is not 0, and no argument otherwise.

    Attributes
    ----------
    normalize : callable, optional
        ``normalize(x[, context])`` gives u (N, D) and log|det du/dx| (N,), nats.
    generate : callable, optional
        ``generate(u[, context])`` gives x (N, D) and log|det dx/du| (N,), nats.
    log_prob : callable, optional
        ``log_prob(x[, context])`` gives nats (N,).
    sample : callable, optional
        ``sample(n, rng[, context])`` gives rows (n, D), from a ``numpy.random.Generator``.
    features, context : int
        D and C.
    jacobian : callable, optional
        ``jacobian(x[, context])`` gives du/dx (N, D, D): your own automatic differentiation.
    allowed : "triangular", an order, or a (D, D) or (D, C + D) bool array, optional
        Which u_i may depend on which x_j: all j <= i; all that come no later in an order, as
        ``[2, 0, 1]``; or True where it may. Columns for the context, in front, say on which context
        inputs u_i depends; without them a context input that moves nothing is only noted.
    complex_step : bool
        Whether ``normalize`` takes complex x, and stays analytic: derivatives are then good to
        rounding.
    dtype : float64 or float32
        Of all results.
    data : (M, D) array, optional
        Rows inside the support, if that is not everywhere; the checks stay between their extremes.
    base : "normal", or callable, optional
        The density of the noise, ``base(u)`` in nats (N,). "normal" also lets ``log_prob`` and
        ``sample`` be derived from ``normalize`` and ``generate`` where they are missing. Left out,
        it is the standard normal, unless ``noise`` or ``support`` says that it is not.
    noise : callable, optional
        ``noise(n, rng)`` draws u (n, D) from the base; standard normal if left out.
    support : (low, high), optional
        Between what numbers all data and all noise lie, if that is not everywhere.
    periodic : bool
        Whether the ends of the support are one point, as for angles.

    Raises
    ------
    ValueError
        If an argument makes no sense; it says which, what was expected, and what was given.

    Examples
    --------
    >>> double = Functions(normalize=lambda x: (2 * x, np.full(len(x), np.log(2))), features=1)
    >>> double.names
    ('normalize',)
    >>> Functions(normalize=abs, features=2, allowed="triangular").allowed
    array([[ True, False],
           [ True,  True]])
    """

    normalize: Callable | None = None
    generate: Callable | None = None
    log_prob: Callable | None = None
    sample: Callable | None = None
    features: int | None = None
    context: int = 0
    jacobian: Callable | None = None
    allowed: Any = None
    complex_step: bool = False
    dtype: Any = np.float64
    data: Any = None
    base: Any = None
    noise: Callable | None = None
    support: tuple[float, float] | None = None
    periodic: bool = False

    def __post_init__(self) -> None:
        """Check what was given, and bring it into one form."""
        if not self.names:
            raise ValueError(
                f"functions: expected at least one of {', '.join(FUNCTIONS)}, got none"
            )
        for name in (*FUNCTIONS, "jacobian", "noise"):
            function = vars(self)[name]
            if function is not None and not callable(function):
                raise ValueError(f"{name}: expected a function, got {type(function).__name__}")
        if not isinstance(self.features, int | np.integer) or self.features < 1:
            raise ValueError(
                "features: expected the number of features of the functions, at least 1, "
                f"got {self.features}"
            )
        if not isinstance(self.context, int | np.integer) or self.context < 0:
            raise ValueError(f"context: expected a number of inputs, 0 or more, got {self.context}")
        if not (self.base is None or callable(self.base) or self.base == "normal"):
            raise ValueError(f"base: expected 'normal' or a function of u, got {self.base!r}")
        set_field = object.__setattr__  # the record is frozen
        set_field(self, "dtype", _precision(self.dtype))
        if self.support is not None:
            set_field(self, "support", _ends(self.support))
        set_field(self, "allowed", _matrix(self.allowed, int(self.features), int(self.context)))
        if self.data is not None:
            set_field(self, "data", _rows(self.data, int(self.features), self.dtype))
            _refuse_outside(self.data, self.support)

    @property
    def names(self) -> tuple[str, ...]:
        """Which of normalize, generate, log_prob and sample are there."""
        return tuple(name for name in FUNCTIONS if vars(self)[name] is not None)

    @property
    def base_is_normal(self) -> bool:
        """Whether the noise is standard normal, as it is when nothing else is said."""
        nothing_said = self.base is None and self.noise is None and self.support is None
        return nothing_said or self.base == "normal"

    def completed(self) -> Functions:
        """Return the record with log_prob and sample derived, where ``base="normal"`` allows it."""
        if self.base != "normal":
            return self
        derived: dict[str, Any] = {}
        if self.log_prob is None and self.normalize is not None:
            derived["log_prob"] = _density_of(self.normalize)
        if self.sample is None and self.generate is not None:
            derived["sample"] = _sampler_of(self.generate, int(self.features or 0), self.dtype)
        return dataclasses.replace(self, **derived)


def _density_of(normalize: Callable) -> Callable:
    """Return log p(x) = log N(u) + log|det du/dx|."""

    def log_prob(x, *context):
        u, log_det = normalize(x, *context)
        return log_det - np.square(u).sum(axis=1) / 2 - u.shape[1] * np.log(2 * np.pi) / 2

    return log_prob


def _sampler_of(generate: Callable, features: int, dtype) -> Callable:
    """Return a sampler that generates from standard normal noise."""

    def sample(n, rng, *context):
        return generate(rng.standard_normal((n, features)).astype(dtype), *context)[0]

    return sample


def _precision(dtype) -> np.dtype:
    """Return float32 or float64."""
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = np.dtype(object)
    if dtype is None or found not in (np.float32, np.float64):
        raise ValueError(f"dtype: expected float32 or float64, got {dtype!r}")
    return found


def _ends(support) -> tuple[float, float]:
    """Return two finite numbers, the lower one first."""
    sound = isinstance(support, tuple | list | np.ndarray) and np.shape(support) == (2,)
    if sound:
        low, high = (real("support", end) for end in support)
        sound = low < high
    if not sound:
        raise ValueError(f"support: expected (low, high), got {support!r}")
    return low, high


def _rows(data, features: int, dtype) -> np.ndarray:
    rows = plain_array(data, "data")
    if rows.dtype.kind not in "fiub":
        raise ValueError(f"data: expected real numbers, got dtype {rows.dtype}")
    rows = rows.astype(dtype)
    if rows.ndim != 2 or rows.shape[1] != features or not len(rows):
        raise ValueError(f"data: expected rows (M, {features}), got shape {rows.shape}")
    if not np.isfinite(rows).all():
        row, feature = np.argwhere(~np.isfinite(rows))[0]
        raise ValueError(
            f"data: expected finite numbers, got {rows[row, feature]} in row {row}, "
            f"feature {feature}"
        )
    return rows


def _refuse_outside(data: np.ndarray, support: tuple[float, float] | None) -> None:
    """Raise where data leave the support."""
    if support is None:
        return
    low, high = support
    for row, feature in outside(data, support, data.dtype)[:1]:
        raise ValueError(
            f"data: expected numbers within support, {low:g} to {high:g}, got "
            f"{data[row, feature]} in row {row}, feature {feature}"
        )


def outside(x: np.ndarray, support: tuple[float, float], dtype) -> np.ndarray:
    """Return rows and features of numbers outside the support by more than a digit, (M, 2)."""
    low, high = support
    digit = float(np.finfo(dtype).eps) * max(abs(low), abs(high))
    return np.argwhere((x < low - digit) | (x > high + digit))


def _matrix(allowed: Any, D: int, C: int) -> np.ndarray | None:
    """Return who may depend on whom as a bool array, (D, D) or (D, C + D)."""
    if allowed is None:
        return None
    if isinstance(allowed, str):
        if allowed != "triangular":
            raise ValueError(
                f"allowed: expected 'triangular', an order or a matrix, got {allowed!r}"
            )
        return np.tri(D, dtype=bool)
    given = np.asarray(allowed)
    if given.ndim == 1 and D > 1 or given.shape == (1,):
        return _of_order(given, D)
    if given.shape not in ((D, D), (D, C + D)):
        expected = f"({D}, {D})" + (f" or ({D}, {C + D})" if C else "")
        raise ValueError(f"allowed: expected a matrix {expected}, got shape {given.shape}")
    return given.astype(bool)


def _of_order(order: np.ndarray, D: int) -> np.ndarray:
    """Return that each feature may depend on itself and on those before it in the order."""
    if sorted(order.tolist()) != list(range(D)):
        raise ValueError(f"allowed: expected an order of 0 to {D - 1}, got {order.tolist()}")
    place = np.argsort(order)
    return place[:, None] >= place[None, :]


def fields() -> Sequence[str]:
    """Return the names that a record takes."""
    return [field.name for field in dataclasses.fields(Functions)]
