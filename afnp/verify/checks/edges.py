r"""Check of the edges: zero, the ends of a spline, the far tails, and what is tiny.

.. math:: x_i \in \{0, \pm 10^{-8}, \dots, \pm 10^4, \pm B\}, \qquad g(f(x)) = x, \qquad
          \log\left|\det \frac{\partial u}{\partial x}\right| \in \mathbb R, \qquad f(\pm B) = \pm B

Letters: N rows, D features, E edges, K params a feature.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from afnp.transforms import Coupling
from afnp.univariate import FreeSpline, RationalQuadratic
from afnp.verify.derivatives import complex_steps
from afnp.verify.ends import between, beyond
from afnp.verify.explain import explained
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

WRONG, FLAT = 1e-6, -30.0
"""A log-derivative may be so far off, relatively; below so many nats a slope is rounding."""

LOST = 1 / 16
"""A point is left out where rounding may move it by this part of half its digits: it may move it
further, too."""

NEAR = 10.0
"""A feature between 1/10 and 10 wide, and not farther from 0, is looked at around 0 in units of
1."""

ROWS = 64
"""So many rows say where the middle of a feature is."""

FEATURES, FEWEST = 8, 2
"""At most so many features are brought to their edges; of a flow that costs much fewer."""


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
    found = list(_directions(subject, rng))
    worst = max(found, key=lambda result: (result.status == FAILED, result.ratio))
    return dataclasses.replace(
        worst, why="eps x measured condition; points that lose half the digits left out"
    )


# ---- the whole -----------------------------------------------------------------------------------


class Frame(NamedTuple):
    """In which units an edge is placed, and between what numbers."""

    placed: Callable[[np.ndarray], np.ndarray]
    """Numbers of widths from the middle (N, D), to rows (N, D)."""
    low: np.ndarray
    high: np.ndarray
    """(D,) rows lie between these."""
    middle: np.ndarray
    width: np.ndarray
    """(D,)"""
    own: list[float]
    """Edges that are the subject's own."""


def _directions(subject: Subject, rng: np.random.Generator) -> Iterator[Result]:
    """Look at both directions, as far as they are there, in every rendering."""
    x, u, c = subject.points.rows(rng, subject.worth(subject.level.points, FEWEST))
    most = subject.worth(FEATURES, FEWEST)
    for there, back, rows, frame in (
        (subject.normalizers, subject.generators, x, _data_frame(subject, rng)),
        (subject.generators, subject.normalizers, u, _noise_frame(subject, rng)),
    ):
        if not there:
            continue
        sizes = rng.permutation([*SIZES, 0.0, *frame.own])
        placed = np.concatenate([_placed(rows, size, frame, most, rng) for size in sizes])
        size = np.repeat(sizes, len(placed) // len(sizes))
        context = np.tile(
            np.repeat(c, len(placed) // len(sizes) // len(c), axis=0), (len(sizes), 1)
        )
        ways = itertools.cycle(back.values() or [None])
        for (name, function), way in zip(there.items(), ways, strict=False):
            yield _at(subject, name, function, way, placed, context, size, frame, rng)
        if subject.context:
            everywhere = _plain_frame(subject.context)
            contexts = np.concatenate([_placed(c, size, everywhere, most, rng) for size in sizes])
            each = len(contexts) // len(sizes)
            usual = np.tile(np.repeat(rows, each // len(rows), axis=0), (len(sizes), 1))
            of_contexts = np.repeat(sizes, each)
            for name, function in there.items():
                yield _at(subject, name, function, None, usual, contexts, of_contexts, frame, rng)


def _plain_frame(D: int, middle=0.0, width=1.0, low=-np.inf, high=np.inf, own=()) -> Frame:
    """Return a frame of these middles and widths; what is near 0 and 1 is taken for 0 and 1."""
    middle, width, low, high = (
        np.broadcast_to(a, D).astype(float) for a in (middle, width, low, high)
    )
    ordinary = (np.abs(middle) < NEAR * width) & (width < NEAR) & (width > 1 / NEAR)
    middle, width = np.where(ordinary, 0.0, middle), np.where(ordinary, 1.0, width)
    return Frame(lambda t: middle + width * t, low, high, middle, width, sorted(own))


def _data_frame(subject: Subject, rng: np.random.Generator) -> Frame:
    """Return where data have their edges.

    In units of a flow's own, behind its fixed layers in front.
    """
    D, points = subject.features, subject.points
    if points.bounded is not None:
        return _bounded_frame(D, points.bounded)
    if subject.flow is not None:
        return _frame_of_flow(subject)
    if points.data is not None:
        data = points.data.astype(np.float64)
        return _plain_frame(D, *points.scale(data), data.min(axis=0), data.max(axis=0))
    if subject.generate is None:
        return _plain_frame(D)
    x = subject.points.rows(rng, ROWS, scales=(1.0,))[0]
    return _plain_frame(D, *points.scale(x))


def _noise_frame(subject: Subject, rng: np.random.Generator) -> Frame:
    """Return where noise has its edges; the images of data say how far out there is anything."""
    D, points = subject.features, subject.points
    if points.bounded is not None:
        return _bounded_frame(D, points.bounded)
    if subject.flow is not None:
        return _plain_frame(D, own=_bounds(subject))
    u, c = points.noise(rng, ROWS, scales=(1.0,))
    scale = points.scale(u)
    if points.data is None:
        return _plain_frame(D, *scale)
    if subject.normalize is not None:
        rows = points.data[rng.integers(len(points.data), size=4 * ROWS)]
        u = np.asarray(subject.normalize(rows, np.resize(c, (len(rows), subject.context)))[0])
        u = u[np.isfinite(u).all(axis=1)] if np.isfinite(u).all(axis=1).any() else np.zeros((1, D))
    return _plain_frame(D, *scale, u.min(axis=0), u.max(axis=0))


def _bounded_frame(D: int, bounded: tuple[float, float]) -> Frame:
    return _plain_frame(D, low=bounded[0], high=np.nextafter(bounded[1], 0))


def _frame_of_flow(subject: Subject) -> Frame:
    """Return a frame behind the fixed layers in front, as a standardisation: there a width is 1."""
    flow, D = subject.flow, subject.features
    layers = flow.layers  # type: ignore[union-attr]
    front = list(itertools.takewhile(lambda layer: layer.layout.size == 0, layers))

    def placed(t: np.ndarray) -> np.ndarray:
        x = t
        for layer in reversed(front):
            context = np.zeros((len(x), subject.context))
            x = layer.generate(layer.layout.views(np.empty(0)), x, context)[0]
        return x

    width = np.abs(placed(np.full((1, D), 0.5)) - placed(np.full((1, D), -0.5)))[0]
    width = np.where(np.isfinite(width) & (width > 0), width, 1.0)
    low, high = between(flow)  # type: ignore[arg-type]
    middle = placed(np.zeros((1, D)))[0]
    return Frame(placed, low, high, middle, width, sorted(_bounds(subject)))


def _bounds(subject: Subject) -> set[float]:
    """Return the ends of every spline of a flow."""
    if subject.flow is None:
        return set()
    univariates = [layer.univariate for layer in subject.flow.layers]
    return {float(tau.bound) for tau in univariates if isinstance(tau, RationalQuadratic)}


def _placed(
    rows: np.ndarray, size: float, frame: Frame, most: int, rng: np.random.Generator
) -> np.ndarray:
    """Return the rows with one feature each at ± size widths, and one with all of them there.

    Up to ``most`` copies of each row are of the first kind.
    """
    D = rows.shape[1]
    copies = min(D, most) + 1
    placed = np.repeat(rows, copies, axis=0)
    ends = [frame.placed(np.full((1, D), sign * size))[0] for sign in (-1.0, 1.0)]
    ends = [np.clip(end, frame.low, frame.high) for end in ends]
    for k, row in enumerate(placed):
        which = slice(None) if k % copies == 0 else rng.integers(D)
        row[which] = ends[rng.integers(2)][which]
    return placed


def _at(
    subject: Subject, name: str, there: Callable, back, x, c, size: np.ndarray, frame: Frame, rng
) -> Result:
    """Look at the results at all edges, and the ways back."""
    y, log_det, asked = _asked(name, there, x, c, size)
    x, c, size = x[asked], c[asked], size[asked]
    inside = ~np.isneginf(log_det)
    inside &= ~beyond(subject, x if name in subject.generators else y, c)
    wrong = ~np.isfinite(y).all(axis=1) & inside | np.isnan(log_det) | np.isposinf(log_det)
    if subject.flow is None:
        wrong |= ~inside & (size <= FAR)
    if wrong.any():
        asked_for = subject.flow is None and subject.points.data is None
        remedy = "; data=, some rows, would say how far out there are any" if asked_for else ""
        raise Finding(f"{name} gives numbers that are not finite at ±{size[wrong].min():g}{remedy}")
    if back is None or not inside.any():
        return Result()
    flat = log_det < np.median(log_det[inside]) + np.log(subject.tolerance.eps) / 2
    x, y, c, size, flat = x[inside], y[inside], c[inside], size[inside], flat[inside]
    return _returned(subject, name, there, back, x, y, c, size, flat, frame, rng)


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


def _returned(
    subject: Subject, name: str, there, back, x, y, c, size, flat, frame: Frame, rng
) -> Result:
    """Compare the ways back from edges."""
    generates = name in subject.generators

    def trip(arithmetic) -> np.ndarray:
        first, second = arithmetic.normalize, arithmetic.generate
        if generates:
            first, second = second, first
        middle = first(x.astype(subject.tolerance.precise), c)[0]
        return second(np.asarray(middle).astype(subject.tolerance.precise), c)[0]

    end, log_det = back(np.array(y), c)
    # rounded out of support
    error = np.where(np.isneginf(log_det)[:, None], 0.0, np.abs(subject.difference(end, x)))
    scale = frame.width + np.abs(x)  # what rounds
    moved = frame.width + np.abs(x - frame.middle)  # what is seen
    each = subject.tolerance.rounding(trip, rng)
    # far out, one feature's rounding is everybody's; and where one is lost, how far it moved says
    # nothing
    lost = (each > LOST * np.sqrt(subject.tolerance.eps) * moved).any(axis=1, keepdims=True)
    if flat.any():
        lost |= (flat & _same_image(subject, there, end, y, c))[:, None]
    rounding = np.where(lost, np.inf, each.max(axis=1, keepdims=True))
    tolerance = 2 * rounding + subject.tolerance.safety * subject.tolerance.eps * scale
    try:
        result = compare(
            error, tolerance, "", ("row", "feature"), limit=np.sqrt(subject.tolerance.eps) * moved
        )
    except NotRun:
        return Result()
    row, i = result.worst["row"], result.worst["feature"]
    of = "u" if generates else "x"
    return explained(
        result,
        claim=f"from ±{size[row]:g}, too, there is a way back ({name} first)",
        reason=f"no way back from ±{size[row]:g}, {name} first",
        values={f"{of}[{i}] is": float(x[row, i]), "it comes back as": float(end[row, i])},
        x=tuple(map(float, x[row])),
        of=of,
    )


def _same_image(subject: Subject, there: Callable, end, y, c) -> np.ndarray:
    """Return at which rows the way back ends where it has the same image, to rounding.

    Between distant components of a mixture the map is flat, and says so: many x have one u, and
    each is a way back.
    """
    again = np.full(np.shape(y), np.nan)
    known = np.isfinite(end).all(axis=1)
    if known.any():
        with contextlib.suppress(ValueError, ArithmeticError):
            again[known] = there(np.asarray(end)[known], c[known])[0]
    near = SAFETY * subject.tolerance.eps * (1 + np.abs(y))
    return (np.abs(subject.difference(again, y)) <= near).all(axis=1)


# ---- univariates ---------------------------------------------------------------------------------


def _wrong_univariates(subject: Subject, rng: np.random.Generator) -> list[str]:
    """Ask each layer's univariate, with its conditioner's params, in float64 and its dtype."""
    flow = subject.flow
    p = flow.split(flow.theta.astype(np.float64))  # type: ignore[union-attr]
    problems = []
    for k, layer in enumerate(flow.layers):  # type: ignore[union-attr]
        inner = inner_transform(layer)
        if inner.univariate is not None:
            u, c = subject.points.inner_noise(rng, 8)
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
    x = np.tile(t, len(h))
    params = np.repeat(h, len(t), axis=0)
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
    if h.dtype == np.float64:
        problems += _wrong_slopes(univariate, params, x, log_derivative)
    if isinstance(univariate, RationalQuadratic) and np.isinf(support[1]):
        problems += _wrong_ends(univariate, h)
    return problems


def _wrong_slopes(univariate, params: np.ndarray, x: np.ndarray, claimed: np.ndarray) -> list[str]:
    """Say where a log-derivative is not the map's, by complex step, on both sides of an end too."""
    steps = complex_steps(x)
    slope = univariate.normalize(params.astype(np.complex128), x + 1j * steps)[0].imag / steps
    with np.errstate(divide="ignore"):
        measured = np.log(np.abs(slope))
    known = np.isfinite(measured) & (measured > FLAT)
    wrong = known & (np.abs(measured - claimed) > WRONG * (1 + np.abs(measured)))
    if not wrong.any():
        return []
    k = int(np.argmax(wrong))
    said = f"normalize gives the log-derivative {claimed[k]:.6g} at x = {x[k]:.6g}"
    return [f"{said}, its slope says {measured[k]:.6g}"]


def _wrong_ends(univariate, h: np.ndarray) -> list[str]:
    """Say whether a spline keeps ±B, to the last bit, and the slope 1 there, from both sides."""
    B = h.dtype.type(univariate.bound)
    eps = float(np.finfo(h.dtype).eps)
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
        corner &= not isinstance(univariate, FreeSpline)  # which says that it has one
        if corner.any() or np.abs(u - x).max() > SAFETY * eps * max(B, np.exp(bend).max()):
            problems.append(f"normalize has a corner at the end {end:g} of its spline")
    return problems
