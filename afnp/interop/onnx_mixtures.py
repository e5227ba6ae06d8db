r"""Mixture univariates as nodes of an ONNX graph: :mod:`afnp.univariate.mixture`, in its letters.

.. math:: \text{density}: \; \log T = \log \sum_k \pi_k\, B(-t_k), \; B(-t) = T, \qquad
          \text{sampler}: \; F(x) = B(u) \text{ by halving a bracket}

All is done in logs of the smaller tail, as there, so that float32 is enough far out. The quantile
of the normal distribution takes Newton's steps, one after the other in the graph; x is bracketed by
what each component alone would give, and the bracket is halved in a Loop.

Letters: N rows, D features, C components; components are the last axis, (N, D, C).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from afnp.univariate.mixture import LogisticMixture
from afnp.univariate.normal import NODES, POLE

__all__ = ["HALVINGS", "mixture"]

HALVINGS = 40
"""Of the bracket: more than float32 has bits, for a root near 0 has finer ones."""
NEWTON_STEPS = 6
"""Five reach the rounding of every normal tail."""


def mixture(g: Any, tau: Any, h: str, v: str, way: str) -> tuple[str, str]:
    """Add a mixture's bijection of v (N, D) to a graph; return its values and log-derivatives.

    Params h are (N, D, 3 C); the way is "normalize" or "generate".
    """
    parts = _parts(g, tau, h)
    if way == "normalize":
        return _normalize(g, tau, parts, v)
    x = _root(g, tau, parts, v)
    return x, g("Neg", _normalize(g, tau, parts, x)[1])


def _parts(g: Any, tau: Any, h: str) -> tuple[str, str, str]:
    """Add log pi, mu and s."""
    C = tau.components
    places = np.linspace(-2, 2, C) if C > 1 else np.zeros(1)
    log_pi = g("LogSoftmax", g.part(h, 0, C), axis=2)
    mu = g("Add", g.part(h, C, 2 * C), g.constant(places))
    s = g("Tanh", g("Div", g.part(h, 2 * C, 3 * C), g.constant(tau.bound)))
    return log_pi, mu, g("Mul", s, g.constant(tau.bound))


def _normalize(g: Any, tau: Any, parts: tuple, x: str) -> tuple[str, str]:
    log_pi, _, s = parts
    right, near, far, log_hazard = _at_each(g, tau, parts, x)
    above = _log_sum_exp(g, g("Add", log_pi, g("Where", right, near, far)))
    below = _log_sum_exp(g, g("Add", log_pi, g("Where", right, far, near)))
    positive = g("LessOrEqual", above, below)
    log_T = g("Where", positive, above, below)
    t = _quantile(g, tau, log_T)
    out = g("Not", g("Xor", right, _wide(g, positive)))  # t_k > 0
    log_r = g("Sub", g("Add", log_pi, g("Where", out, near, far)), _wide(g, log_T))
    other = g("Sub", g("Add", log_hazard, near), far)
    log_hazards = g("Where", out, log_hazard, other)
    total = _log_sum_exp(g, g("Sub", g("Add", log_r, log_hazards), s))
    log_slope = g("Sub", total, _tail(g, tau, t)[1])
    return g("Where", positive, t, g("Neg", t)), log_slope


def _root(g: Any, tau: Any, parts: tuple, u: str) -> str:
    """Add x with F(x) = B(u)."""
    log_pi, mu, s = parts
    alone = g("Add", mu, g("Mul", _wide(g, u), g("Exp", s)))
    low = g("ReduceMin", alone, axes=[2], keepdims=0)
    high = g("ReduceMax", alone, axes=[2], keepdims=0)
    positive = g("Greater", u, g.constant(0.0))
    tail = _tail(g, tau, g("Abs", u))[0]

    def halve(body: Any, _: str, low: str, high: str) -> list[str]:
        half = body.constant(0.5)
        middle = body("Add", body("Mul", low, half), body("Mul", high, half))
        right, near, far, _ = _at_each(body, tau, parts, middle)
        upper = body("Xor", right, _wide(body, body("Not", positive)))  # the tail that u is in
        log_T = _log_sum_exp(body, body("Add", log_pi, body("Where", upper, near, far)))
        beyond = body("Xor", body("Greater", log_T, tail), positive)
        return [body("Where", beyond, low, middle), body("Where", beyond, middle, high)]

    low, high = g.loop(HALVINGS, [low, high], halve)
    return g("Mul", g("Add", low, high), g.constant(0.5))


def _at_each(g: Any, tau: Any, parts: tuple, x: str) -> tuple[str, str, str, str]:
    """Add whether z_k > 0, logs of the tail that z_k is in and of the rest, and log lambda."""
    _, mu, s = parts
    z = g("Mul", g("Sub", _wide(g, x), mu), g("Exp", g("Neg", s)))
    near, log_hazard = _tail(g, tau, g("Abs", z))
    return g("Greater", z, g.constant(0.0)), near, _log_rest(g, near), log_hazard


def _tail(g: Any, tau: Any, t: str) -> tuple[str, str]:
    """Add log B(-t) and log lambda(t) for t >= 0."""
    if isinstance(tau, LogisticMixture):
        return g("Neg", g("Softplus", t)), g("Neg", g("Softplus", g("Neg", t)))
    square = g("Mul", t, t)
    q2, weights = (g.constant(np.array(column)) for column in zip(*NODES, strict=True))
    last = g.constant(np.array([-1], dtype=np.int64))
    terms = g("Div", weights, g("Add", g("Unsqueeze", square, last), q2))
    G = g("Mul", t, g("ReduceSum", terms, last, keepdims=0))
    pole = g.constant(POLE)
    near = g("Min", t, pole)
    fall = g("Exp", g("Mul", near, g("Sub", g("Mul", near, g.constant(0.5)), pole)))
    residue = g("Div", fall, g("Add", g.constant(1.0), g("Exp", g("Neg", g("Mul", pole, near)))))
    G = g("Add", G, g("Where", g("Less", t, pole), residue, g.constant(0.0)))
    log_G = g("Log", G)
    log_tail = g("Sub", log_G, g("Mul", square, g.constant(0.5)))
    return log_tail, g("Sub", g.constant(-0.5 * math.log(2 * math.pi)), log_G)


def _quantile(g: Any, tau: Any, log_tail: str) -> str:
    """Add t >= 0 with log B(-t) = ``log_tail``."""
    if isinstance(tau, LogisticMixture):
        return g("Sub", _log_rest(g, log_tail), log_tail)
    square = g("Mul", g("Add", log_tail, g.constant(math.log(2))), g.constant(-2.0))
    t = g("Sqrt", g("Max", square, g.constant(0.0)))
    for _ in range(NEWTON_STEPS):
        value, log_hazard = _tail(g, tau, t)
        step = g("Mul", g("Sub", value, log_tail), g("Exp", g("Neg", log_hazard)))
        t = g("Max", g("Add", t, step), g.constant(0.0))
    return t


def _log_rest(g: Any, log_p: str) -> str:
    """Add log(1 - p), for p of at most 1/2."""
    return g("Log", g("Sub", g.constant(1.0), g("Exp", log_p)))


def _log_sum_exp(g: Any, x: str) -> str:
    """Add the logarithm of the sum over components, (N, D, C) to (N, D)."""
    most = g("ReduceMax", x, axes=[2], keepdims=1)
    axis = g.constant(np.array([2], dtype=np.int64))
    total = g("ReduceSum", g("Exp", g("Sub", x, most)), axis, keepdims=0)
    return g("Add", g("Squeeze", most, axis), g("Log", total))


def _wide(g: Any, x: str) -> str:
    """Give x (N, D) an axis for the components."""
    return g("Unsqueeze", x, g.constant(np.array([2], dtype=np.int64)))
