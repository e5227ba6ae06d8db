r"""How flows are usually tested, to be measured beside the checks.

.. math:: |g(f(x)) - x| \le 10^{-4}, \qquad |\log\det f + \log\det g| \le 10^{-4}, \qquad
          \left|\log\det f - \log\left|\det \frac{f(x + h e_j) - f(x - h e_j)}{2h}\right|\right|
          \le 10^{-4}

These are the tests found in public repositories of flows, at their usual tolerances, but with
random parameters, which is more than most of them do.

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from afnp.flow import Flow
from afnp.verify.derivatives import central_jacobian
from afnp.verify.parameters import randomize, restored

__all__ = ["STYLES", "caught_by"]

TOLERANCE = 1e-4
ROWS, JACOBIANS = 100, 5

SEED = 6
"""At most others, differences of kinks and steep splines are off by more than the tolerance in a
clean flow too."""


def round_trip_style(normalize, generate, rows: np.ndarray, context: np.ndarray) -> bool:
    """Return whether x comes back, and the log-determinants cancel."""
    x = generate(rows, context)[0]
    u, log_det = normalize(x, context)
    back, log_det_back = generate(u, context)
    return bool(_close(back, x) and _close(log_det + log_det_back, 0))


def jacobian_style(normalize, generate, rows: np.ndarray, context: np.ndarray) -> bool:
    """Return whether the log-determinant is that of a finite-difference Jacobian."""
    x, context = generate(rows[:JACOBIANS], context[:JACOBIANS])[0], context[:JACOBIANS]
    repeated = np.repeat(context, x.shape[1], axis=0)
    J = central_jacobian(lambda z: normalize(z, repeated)[0], x, 1e-4)
    return _close(normalize(x, context)[1], np.linalg.slogdet(J)[1])


def triangular_style(layer: Any, p: Any, rows: np.ndarray, context: np.ndarray) -> bool:
    """Return whether a layer's finite-difference Jacobian is 0 wherever the layer says so."""
    x, context = rows[:JACOBIANS], context[:JACOBIANS]
    repeated = np.repeat(context, x.shape[1], axis=0)
    J = central_jacobian(lambda z: layer.normalize(p, z, repeated)[0], x, 1e-4)
    return bool((np.abs(J[:, ~layer.allowed()]) < TOLERANCE).all())


def _close(one, two) -> bool:
    return np.allclose(one, two, rtol=0, atol=TOLERANCE)


def _directions(flow: Any, backend: str):
    """Return normalize, generate, D and C of a flow or of functions, the context last."""
    if not isinstance(flow, Flow):
        C = vars(flow).get("context", 0)
        ways: tuple = flow.normalize, flow.generate
        if not C:
            ways = tuple(lambda rows, context, way=way: way(rows) for way in ways)
        return *ways, flow.features, C

    def optional(context):
        return context if flow.context else None

    def normalize(x, context):
        return flow.normalize(x, optional(context), backend=backend)

    def generate(u, context):
        return flow.generate(u, optional(context), backend=backend)

    return normalize, generate, flow.features, flow.context


def _passes(flow: Any, backend: str, seed: int, jacobian: bool) -> bool:
    normalize, generate, D, C = _directions(flow, backend)
    rng = np.random.default_rng(seed)
    rows, context = rng.standard_normal((ROWS, D)), rng.standard_normal((ROWS, C))
    passed = round_trip_style(normalize, generate, rows, context)
    if passed and jacobian:
        passed = jacobian_style(normalize, generate, rows, context)
        for layer, p in (
            zip(flow.layers, flow.split(flow.theta), strict=True) if isinstance(flow, Flow) else ()
        ):
            passed = passed and triangular_style(layer, p, rows, context)
    return passed


STYLES = {"round trip": False, "round trip and Jacobian": True}
"""Usual test styles by name, and whether they look at the Jacobian; the second contains the
first."""


def caught_by(style: str, flow: Any, backend: str = "numpy", seed: int = SEED) -> bool:
    """Return whether a usual style of test fails on a flow, or raises.

    Functions that cannot be inverted give it nothing to do.

    Examples
    --------
    >>> from afnp.constructors import maf
    >>> caught_by("round trip and Jacobian", maf(2, hidden=(8,), transforms=2))
    False
    """
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if not isinstance(flow, Flow):
                if not {"normalize", "generate"} <= set(vars(flow)):
                    return False
                return not _passes(flow, backend, seed, STYLES[style])
            with restored(flow):
                return not _passes(randomize(flow, seed), backend, seed, STYLES[style])
        except Exception:  # a test that raises has failed, whatever was raised
            return True
