r"""Check of the edges: zero, the ends of a spline, the far tails, and what is tiny.

.. math:: x_i \in \{0, \pm 10^{-8}, \dots, \pm 10^4, \pm B\}, \qquad g(f(x)) = x, \qquad
          \log\left|\det \frac{\partial u}{\partial x}\right| \in \mathbb R, \qquad f(\pm B) = \pm B

Letters: N rows, D features, E edges, K params a feature.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import numpy as np

from afnp.transforms import Coupling
from afnp.univariate import RationalQuadratic
from afnp.verify.results import FAILED, Finding, NotRun, Result, check, collect, compare
from afnp.verify.subject import Subject
from afnp.verify.tolerance import SAFETY
from afnp.verify.views import inner_transform

__all__ = ["edges"]

SIZES = 10.0 ** np.arange(-8, 5)
FAR = 100.0
"""Beyond this, a refusal that says why is an answer."""

FINE = 1e-15
"""Below such an ε, one digit beside the end of a spline is as good as the end."""

LOST = 1 / 16
"""A point is left out where rounding may move it by this part of half its digits: it may move it
further, too."""

FEATURES = 8
"""At most so many features are brought to their edges."""


@check("C14")
def edges(subject: Subject, rng: np.random.Generator) -> Result:
    r"""Bring one feature at a time to its edges: results stay finite, and there is a way back.

    .. math:: g(f(x)) = x, \qquad |\log|\det J|| < \infty, \qquad f(\pm B) = \pm B

    For a flow, its univariates are asked too, at their ends and one last digit beside them.
    """
    problems = _wrong_univariates(subject, rng) if subject.flow is not None else []
    if problems:
        return collect(
            problems, "splines keep their ends; slopes there are finite, and the same on both sides"
        )
    if subject.normalize is None and subject.generate is None:
        raise NotRun("needs normalize or generate")
    judged = list(_directions(subject, rng))
    worst = max(judged, key=lambda result: (result.status == FAILED, result.ratio))
    return dataclasses.replace(
        worst, why="eps x measured condition; points that lose half the digits left out"
    )


# ---- the whole -----------------------------------------------------------------------------------


def _directions(subject: Subject, rng: np.random.Generator) -> Iterator[Result]:
    """Judge both directions, as far as they are there, in every rendering."""
    x, u, c = subject.points.rows(rng, subject.level.points)
    for there, back, rows, ends in (
        (subject.normalizers, subject.generators, x, _ends(subject, "x")),
        (subject.generators, subject.normalizers, u, _ends(subject, "u")),
    ):
        sizes = rng.permutation([*SIZES, 0.0, *ends[2]])
        placed = np.concatenate([_placed(rows, size, ends, rng) for size in sizes])
        size = np.repeat(sizes, len(placed) // len(sizes))
        context = np.tile(
            np.repeat(c, len(placed) // len(sizes) // len(c), axis=0), (len(sizes), 1)
        )
        ways = itertools.cycle(back.values() or [None])
        for (name, function), way in zip(there.items(), ways, strict=False):
            yield _at(subject, name, function, way, placed, context, size, rng)
        if subject.context:
            contexts = np.concatenate([_placed(c, size, (-np.inf, np.inf), rng) for size in sizes])
            each = len(contexts) // len(sizes)
            usual = np.tile(np.repeat(rows, each // len(rows), axis=0), (len(sizes), 1))
            for name, function in there.items():
                yield _at(
                    subject, name, function, None, usual, contexts, np.repeat(sizes, each), rng
                )


def _ends(subject: Subject, which: str) -> tuple[float, float, list[float]]:
    """Return between what numbers an edge may lie, and the edges that are the subject's own."""
    own = {float(b) for b in _bounds(subject)}
    if subject.points.bounded is not None:
        return subject.points.bounded[0], np.nextafter(subject.points.bounded[1], 0), []
    if subject.points.data is not None and which == "x":
        return float(subject.points.data.min()), float(subject.points.data.max()), []
    return -np.inf, np.inf, sorted(own)


def _bounds(subject: Subject) -> set[float]:
    """Return the ends of every spline of a flow."""
    if subject.flow is None:
        return set()
    univariates = [layer.univariate for layer in subject.flow.layers]
    return {tau.bound for tau in univariates if isinstance(tau, RationalQuadratic)}


def _placed(rows: np.ndarray, size: float, ends, rng: np.random.Generator) -> np.ndarray:
    """Return the rows with one feature each at ± size, and one with all of them there."""
    D, copies = rows.shape[1], min(rows.shape[1], FEATURES) + 1
    placed = np.repeat(rows, copies, axis=0)
    for k, row in enumerate(placed):
        row[slice(None) if k % copies == 0 else rng.integers(D)] = np.clip(
            size * rng.choice([-1.0, 1.0]), *ends[:2]
        )
    return placed


def _at(subject: Subject, name: str, there: Callable, back, x, c, size: np.ndarray, rng) -> Result:
    """Judge the results at all edges, and the ways back."""
    y, log_det, asked = _asked(name, there, x, c, size)
    x, c, size = x[asked], c[asked], size[asked]
    inside = ~np.isneginf(log_det)
    wrong = ~np.isfinite(y).all(axis=1) & inside | np.isnan(log_det) | np.isposinf(log_det)
    if subject.flow is None:
        wrong |= ~inside & (size <= FAR)
    if wrong.any():
        raise Finding(f"{name} gives numbers that are not finite at ±{size[wrong].min():g}")
    if back is None or not inside.any():
        return Result()
    return _returned(subject, name, back, x[inside], y[inside], c[inside], size[inside], rng)


def _asked(
    name: str, there: Callable, x, c, size: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the answers, and at which rows.

    Where all together are refused, the far ones are left out.
    """
    near = np.flatnonzero(size <= FAR)
    for rows in (np.arange(len(x)), near):
        try:
            y, log_det = there(x[rows], c[rows])
            return np.asarray(y), np.asarray(log_det), rows
        except (ValueError, ArithmeticError) as exception:
            refused = exception
    for edge in np.unique(size[near]):
        rows = size == edge
        try:
            there(x[rows], c[rows])
        except (ValueError, ArithmeticError) as exception:
            raise Finding(
                f"{name} raises {type(exception).__name__} at ±{edge:g}: {exception}"
            ) from exception
    raise Finding(f"{name} raises {type(refused).__name__} at an edge up to ±{FAR:g}: {refused}")


def _returned(subject: Subject, name: str, back, x, y, c, size: np.ndarray, rng) -> Result:
    """Judge the ways back from edges."""
    generates = name in subject.generators

    def trip(arithmetic) -> np.ndarray:
        first, second = arithmetic.normalize, arithmetic.generate
        if generates:
            first, second = second, first
        middle = first(x.astype(subject.tolerance.precise), c)[0]
        return second(np.asarray(middle).astype(subject.tolerance.precise), c)[0]

    end, log_det = back(np.array(y), c)
    error = np.where(
        np.isneginf(log_det)[:, None], 0.0, np.abs(subject.difference(end, x))
    )  # rounded out of support
    scale = 1 + np.abs(x)
    each = subject.tolerance.rounding(trip, rng)
    # far out, one feature's rounding is everybody's; and where one is lost, how far it moved says
    # nothing
    lost = (each > LOST * np.sqrt(subject.tolerance.eps) * scale).any(axis=1, keepdims=True)
    rounding = np.where(lost, np.inf, each.max(axis=1, keepdims=True))
    tolerance = 2 * rounding + subject.tolerance.safety * subject.tolerance.eps * scale
    try:
        result = compare(
            error, tolerance, "", ("row", "feature"), limit=np.sqrt(subject.tolerance.eps) * scale
        )
    except NotRun:
        return Result()
    at = size[result.worst["row"]]
    reason = f"no way back from ±{at:g}, {name} first" if result.status == FAILED else ""
    return dataclasses.replace(result, reason=reason)


# ---- univariates ---------------------------------------------------------------------------------


def _wrong_univariates(subject: Subject, rng: np.random.Generator) -> list[str]:
    """Ask each layer's univariate, with its conditioner's params, in float64 and in the flow's type."""
    flow = subject.flow
    p = flow.split(flow.theta.astype(np.float64))  # type: ignore[union-attr]
    problems = []
    for k, layer in enumerate(flow.layers):  # type: ignore[union-attr]
        inner = inner_transform(layer)
        if inner.univariate is not None:
            u, c = (a.astype(np.float64) for a in subject.points.noise(rng, 8))
            x = u if inner is not layer else layer.generate(p[k], u, c)[0]
            h = _params(inner, p[k], x, c)
            for dtype in dict.fromkeys((np.dtype(np.float64), subject.dtype)):
                problems += [
                    f"layer {k}: {said}" for said in _wrong(inner.univariate, h.astype(dtype))
                ]
    return problems


def _params(layer, p, x: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return params (M, K) that a layer's conditioner gives for some rows."""
    known = layer.fixed if isinstance(layer, Coupling) else layer.features
    seen = x[:, layer.order][:, :known]
    h = layer.conditioner.forward(p, c, seen)[0]
    return h.reshape(-1, h.shape[-1])


def _wrong(univariate, h: np.ndarray) -> list[str]:
    """Say what is wrong with a univariate's edges, for every row of its params h (M, K)."""
    support = univariate.support
    B = univariate.bound if isinstance(univariate, RationalQuadratic) else 1.0
    end = h.dtype.type(B)
    beside = [np.nextafter(end, end * way) for way in (0, 2)]
    sizes = np.array([0.0, *SIZES, B, *beside])
    t = np.unique(np.concatenate([-sizes, sizes]).astype(h.dtype))
    t = t[(t >= support[0]) & (t < support[1])]
    x, params = np.tile(t, len(h)), np.repeat(h, len(t), axis=0)
    problems = []
    u, log_derivative = univariate.normalize(params, x)[:2]
    back, log_back = univariate.generate(params, x)
    for name, values in (
        ("normalize", u),
        ("its log-derivative", log_derivative),
        ("generate", back),
        ("its log-derivative", log_back),
    ):
        if not np.isfinite(values).all():
            problems.append(f"{name} is not finite at x = {x[~np.isfinite(values)][0]:g}")
    if isinstance(univariate, RationalQuadratic) and np.isinf(support[1]):
        problems += _wrong_ends(univariate, h)
    return problems


def _wrong_ends(univariate, h: np.ndarray) -> list[str]:
    """Say whether a spline keeps ±B, to the last bit, and the slope 1 there, from both sides."""
    B, eps = h.dtype.type(univariate.bound), float(np.finfo(h.dtype).eps)
    problems = []
    for end in (-B, B):
        x = np.full(len(h), end, dtype=h.dtype)
        for name, kept in (
            ("normalize", univariate.normalize(h, x)[0]),
            ("generate", univariate.generate(h, x)[0]),
        ):
            if (kept != x).any():
                problems.append(
                    f"{name} moves the end {end:g} of its spline by {np.abs(kept - x).max():.1e}"
                )
        just_inside = np.nextafter(x, h.dtype.type(0))
        u, log_derivative = univariate.normalize(h, just_inside)[:2]
        # the slope changes within a bin of min_width: in few digits a steep bin bends much within
        # the last one
        bend = np.abs(univariate.normalize(h.astype(np.float64), just_inside.astype(np.float64))[1])
        corner = np.abs(log_derivative) > SAFETY * (np.sqrt(eps) + (bend if eps > FINE else 0))
        if corner.any() or np.abs(u - x).max() > SAFETY * eps * max(B, np.exp(bend).max()):
            problems.append(f"normalize has a corner at the end {end:g} of its spline")
    return problems
