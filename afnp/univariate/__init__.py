"""Univariates: the scalar bijections τ that an autoregressive flow applies to each feature.

Each has the same face. The conditioner gives K params a feature, h (..., K); x and u are (...), of
any shape.

=============================== ===============================================================
``numbers``                     K
``config()``                    the keyword arguments that rebuild it: numbers and strings only
``normalize(h, x)``             u, log du/dx (nats), and a cache for ``backward``
``generate(h, u)``              x and log dx/du (nats)
``backward(cache, d_u, d_log)`` d_h and d_x, of ``normalize`` through both its results
``support``                     (low, high): the interval that x and u live in
``periodic``                    whether its ends are one point, as for angles: then the noise
                                should know no ends either, as uniform on the circle
=============================== ===============================================================

float32 stays float32, and complex steps (an imaginary part of 1e-30) come out as derivatives.
"""

from typing import Any

from afnp.univariate.affine import Additive, Affine
from afnp.univariate.circular import CircularRationalQuadratic
from afnp.univariate.clipped import ClippedAffine, ClippedCircle, ClippedSpline
from afnp.univariate.floored import FlooredAffine
from afnp.univariate.free_spline import FreeSpline
from afnp.univariate.mixture import GaussianMixture, LogisticMixture
from afnp.univariate.rational_quadratic import RationalQuadratic

__all__ = [
    "UNIVARIATES",
    "Additive",
    "Affine",
    "CircularRationalQuadratic",
    "ClippedAffine",
    "ClippedCircle",
    "ClippedSpline",
    "FlooredAffine",
    "FreeSpline",
    "GaussianMixture",
    "LogisticMixture",
    "RationalQuadratic",
]

UNIVARIATES: dict[str, type[Any]] = {
    "affine": Affine,
    "additive": Additive,
    "spline": RationalQuadratic,
    "circular_spline": CircularRationalQuadratic,
    "logistic_mixture": LogisticMixture,
    "gaussian_mixture": GaussianMixture,
    "clipped_affine": ClippedAffine,
    "clipped_spline": ClippedSpline,
    "clipped_circle": ClippedCircle,
    "floored_affine": FlooredAffine,
    "free_spline": FreeSpline,
}
"""By the name that constructors and model files use."""
