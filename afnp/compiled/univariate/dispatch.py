r"""The univariates compiled: what :mod:`afnp.univariate` defines, over the lanes of a tile.

.. math:: u_n = \tau^{-1}(x_n;\, h_n), \qquad \log\det{}_n \mathrel{+}= \log \frac{\partial u_n}{\partial x_n}

A univariate travels to the kernels as a named tuple of its constants. Its *type* selects the code
while Numba compiles, so that each kernel is compiled with its univariate inside, and kept on disk
like any other.

h may be overwritten: the splines and mixtures keep in its memory what they have made of it.
``backward`` expects h as ``normalize`` left it, and to nobody else is it of use again.

Letters: K numbers a feature, n runs over lanes; h is (K, lanes). In C order the lanes must be whole
vectors, as those of a tile are; any other h is worked on in a padded copy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.extending import overload

from afnp.compiled.simd.vector import INLINE, width_of
from afnp.compiled.univariate import affine as affine
from afnp.compiled.univariate import mixture as mixture
from afnp.compiled.univariate import rational_quadratic as spline

__all__ = ["FORMS", "backward", "form", "generate", "known", "normalize"]


# ---- one name for all ----------------------------------------------------------------------------


def normalize(tau, h, points, images, log_det):
    """Map x, the points, to u, their images, lane by lane; add log du/dx to ``log_det``."""


def generate(tau, h, points, images, log_det):
    """Map u, the points, to x, their images, lane by lane; add log dx/du to ``log_det``."""


def backward(tau, h, x, d_u, d_log, d_h, d_x):
    """Write d_h (K, lanes) and d_x, from d_u and the gradient of the log-derivative."""


AFFINE = (affine.normalize, affine.generate, affine.backward)
CODE: dict[type, tuple] = {
    affine.Affine: (affine.tanh_normalize, affine.tanh_generate, affine.tanh_backward),
    affine.AffineExp: AFFINE,
    affine.AffineSoftplus: AFFINE,
    affine.AffineSigmoid: AFFINE,
    affine.Additive: (affine.shift_normalize, affine.shift_generate, affine.shift_backward),
    spline.Spline: (spline.normalize, spline.generate, spline.backward),
    mixture.Logistic: (mixture.normalize, mixture.generate, mixture.backward),
    mixture.Gaussian: (mixture.normalize, mixture.generate, mixture.backward),
}
ANY_LANES = (affine.Affine, affine.Additive)
"""Whose code takes any number of lanes, and any strides. The others want whole vectors in C order."""
PARTIAL = "lanes: expected a whole number of vectors"


@overload(normalize, jit_options=INLINE)
def _normalize(tau, h, points, images, log_det):
    return _mapping(tau, h, CODE[tau.instance_class][0])


@overload(generate, jit_options=INLINE)
def _generate(tau, h, points, images, log_det):
    return _mapping(tau, h, CODE[tau.instance_class][1])


@overload(backward, jit_options=INLINE)
def _backward(tau, h, x, d_u, d_log, d_h, d_x):
    code, any_lanes = CODE[tau.instance_class][2], tau.instance_class in ANY_LANES

    def whole(tau, h, x, d_u, d_log, d_h, d_x):
        if not any_lanes and x.size % width_of(x):
            raise ValueError(PARTIAL)
        code(tau, h, x, d_u, d_log, d_h, d_x)

    return whole


def _mapping(tau, h, code):
    """Return how to call the code of either direction: with the arrays as they are, or with a padded copy."""
    any_lanes = tau.instance_class in ANY_LANES

    def whole(tau, h, points, images, log_det):
        if not any_lanes and points.size % width_of(points):
            raise ValueError(PARTIAL)
        code(tau, h, points, images, log_det)

    def by_copy(tau, h, points, images, log_det):
        K, N, V = h.shape[0], h.shape[1], width_of(points)
        rows = np.zeros((K + 3, -(-N // V) * V), dtype=points.dtype)
        for n in range(N):
            rows[K, n] = points[n]
            for k in range(K):
                rows[k, n] = h[k, n]
        code(tau, rows[:K], rows[K], rows[K + 1], rows[K + 2])
        for n in range(N):
            images[n] = rows[K + 1, n]
            log_det[n] += rows[K + 2, n]

    return whole if any_lanes or h.layout == "C" else by_copy


# ---- from a univariate to its named tuple --------------------------------------------------------


def _affine(kind: type) -> Callable:
    return lambda bound, scale: kind(bound)


FORMS: dict[tuple[str, str | None], Callable] = {
    ("affine", "tanh"): _affine(affine.Affine),
    ("affine", "exp"): _affine(affine.AffineExp),
    ("affine", "softplus"): _affine(affine.AffineSoftplus),
    ("affine", "sigmoid"): _affine(affine.AffineSigmoid),
    ("additive", None): affine.Additive,
    ("spline", None): spline.Spline.of,
    ("circular_spline", None): spline.Spline.of,
    ("logistic_mixture", None): functools.partial(mixture.of, mixture.Logistic),
    ("gaussian_mixture", None): functools.partial(mixture.of, mixture.Gaussian),
}
"""What makes the named tuple from ``config()``, by the name in :data:`afnp.univariate.UNIVARIATES` and the scale of
those that have several."""


def known(name: str, config: dict) -> bool:
    """Return whether the kernels have this univariate."""
    return (name, config.get("scale")) in FORMS


def form(name: str, config: dict, dtype: np.dtype):
    """Return a univariate as the kernels take it, its constants in the type of the tile; integers stay integers."""
    tau: Any = FORMS[name, config.get("scale")](**config)
    return type(tau)(*(value if isinstance(value, int) else dtype.type(value) for value in tau))
