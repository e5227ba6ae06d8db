r"""Check of monotony: along a line, nothing turns back.

.. math:: \frac{\partial u_i}{\partial x_i} \text{ has one sign for every } x_i, \qquad
          \operatorname{sign} \det \frac{\partial u}{\partial x} \text{ is the same everywhere}

A map that turns back is no bijection, whatever its log-determinant says. Where u_i depends on no
later feature, it is followed as a function of x_i; elsewhere only the determinant has to keep its
sign, because a support in one piece leaves it no way to change but through 0.

Letters: N rows, D features, C context inputs, L lines, S places along a line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from afnp.verify.derivatives import complex_steps
from afnp.verify.jacobian import log_det_of, measured_jacobian, rows_worth
from afnp.verify.results import FAILED, NotRun, Result, check, compare
from afnp.verify.subject import Subject
from afnp.verify.tolerance import SAFETY
from afnp.verify.views import UNDERFLOW, acyclic

__all__ = ["monotone"]

FEATURES, FEWEST = 16, 2
"""At most so many features are swept, chosen at random; of a flow that costs much fewer."""

FINE = np.linspace(-8, 8, 161)
TAIL = np.geomspace(8.2, 1000, 24)
SWEEP = np.concatenate([-TAIL[::-1], FINE, TAIL])
"""Fine where most of the data are, and then far into the tails."""

NEAR = 1e-5
"""How far apart neighbours are."""

PLATEAU = -30.0
"""So many nats below a line's usual log-determinant, as between modes, u moves by less than its
last digit, if it usually moves as fast as it is large."""

STILL = 4
"""So many long steps that move nothing are a standstill."""


class Sweep(NamedTuple):
    """One feature of several rows, swept while everything else stays."""

    layer: int
    """Index in flow.layers; -1 for the whole."""
    feature: int
    t: np.ndarray
    """(L, S) where, ascending."""
    u: np.ndarray
    """(L, S) what should ascend too, or descend."""
    slope: np.ndarray | None
    """(L, S) its derivative, where the code takes complex numbers."""
    inside: np.ndarray
    """(L, S) whether there is any density."""
    exact: np.ndarray
    """(L, S) u in the precision of the reference."""
    eps: float
    """Of t or of u, whichever is coarser: data may stay in float64 before a flow in float32."""


@check("C4")
def monotone(subject: Subject, rng: np.random.Generator) -> Result:
    r"""Sweep features far into the tails, the others fixed: no step back, and no standstill.

    .. math:: x_i < x_i' \implies u_i < u_i' \;(\text{or always } >), \qquad
              \operatorname{sign} \det J(x) = \operatorname{sign} \det J(x')
    """
    subject.need("normalize")
    triangular = subject.inner is not None and acyclic(subject.inner)
    verdicts = [
        _verdict(sweep, subject)
        for sweep in _sweeps(subject, triangular or subject.features == 1, rng)
    ]
    if not triangular and subject.features > 1:
        verdicts.append(_one_sign(subject, rng))
    if not verdicts:
        raise NotRun("needs a determinant that can be trusted, or features in an order")
    worst = max(verdicts, key=lambda verdict: verdict.ratio)
    return dataclasses.replace(
        worst, why="steps back: rounding; standing still, changing sign: never"
    )


def _verdict(sweep: Sweep, subject: Subject) -> Result:
    """Judge every step of a sweep."""
    steps = subject.difference(sweep.u[:, 1:], sweep.u[:, :-1])
    inside = sweep.inside[:, 1:] & sweep.inside[:, :-1]
    steep = np.maximum(*_quotients(sweep.t, steps))
    size = SAFETY * sweep.eps * (1 + np.abs(sweep.u) + np.abs(sweep.t) * steep)
    allowed = size[:, 1:] + size[:, :-1]
    direction = _direction(sweep, np.where(inside, steps, 0), allowed, subject)
    back = _turns_back(direction * steps, allowed, subject)
    stuck = _stands_still(sweep, steps, direction)
    back[stuck] = np.inf
    result = compare(np.where(inside, back, 0.0), allowed, "", ("line", "step"))
    place = {"layer": sweep.layer, "feature": sweep.feature, **result.worst}
    what = "stands still" if stuck[tuple(result.worst.values())] else "turns back"
    near = sweep.t[tuple(result.worst.values())]
    reason = f"u {what} near x = {near:.3g}" if result.status == FAILED else ""
    return dataclasses.replace(result, worst=place, reason=reason)


def _direction(
    sweep: Sweep, steps: np.ndarray, allowed: np.ndarray, subject: Subject
) -> np.ndarray:
    """Return whether each line ascends (1) or descends (-1), (L, 1).

    On a circle a step of more than half a turn is told as one back, and a line, which goes round
    once, comes to nothing in sum: it goes the way in which less of it turns back.
    """
    if sweep.slope is None and _turn(subject) is not None:
        up, down = (_turns_back(way * steps, allowed, subject).sum(axis=1) for way in (1, -1))
        return np.where(down < up, -1.0, 1.0)[:, None]
    votes = steps if sweep.slope is None else np.sign(sweep.slope)
    return np.where(votes.sum(axis=1, keepdims=True) < 0, -1.0, 1.0)


def _turn(subject: Subject) -> float | None:
    """Return how long a turn is, where noise is angles, whose ends are one place."""
    bounded = subject.points.bounded
    return bounded[1] - bounded[0] if subject.periodic and bounded is not None else None


def _turns_back(forward: np.ndarray, allowed: np.ndarray, subject: Subject) -> np.ndarray:
    """Return how far each step (L, S - 1) goes back.

    On a circle, how far all of them go beyond one turn.
    """
    back = np.where(np.isfinite(forward), np.maximum(-forward, 0), np.inf)
    turn = _turn(subject)
    if turn is None:
        return back
    gone = np.where(forward < -allowed, forward + turn, np.maximum(forward, 0)).sum(axis=1)
    worst = np.argmin(forward, axis=1)[:, None]
    circle = np.where(np.isfinite(forward), 0.0, np.inf)
    np.put_along_axis(circle, worst, np.maximum(gone - turn, 0)[:, None], axis=1)
    return circle


def _quotients(t: np.ndarray, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the difference quotients to the left and to the right of every place, (L, S) each."""
    quotient = np.abs(steps / np.maximum(np.diff(t, axis=1), np.finfo(t.dtype).tiny))
    quotient = np.where(np.isfinite(quotient), quotient, 0.0)
    return np.pad(quotient, ((0, 0), (1, 0))), np.pad(quotient, ((0, 0), (0, 1)))


def _stands_still(sweep: Sweep, steps: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Return at which steps a clamp is seen, (L, S - 1).

    Its derivative is not of the line's sign.
    """
    if sweep.slope is not None:
        wrong = ~(direction * sweep.slope > 0)
        return wrong[:, 1:] | wrong[:, :-1]
    long = np.diff(sweep.t, axis=1) > 0.01 * np.maximum(1, np.abs(sweep.t[:, 1:]))
    moves = np.abs(np.diff(sweep.exact, axis=1))
    still = (
        long
        & (steps == 0)
        & ((moves == 0) | (moves > np.sqrt(sweep.eps) * (1 + np.abs(sweep.u[:, 1:]))))
    )
    return still & (still.sum(axis=1, keepdims=True) >= STILL)


def _sweeps(subject: Subject, whole: bool, rng: np.random.Generator) -> Iterator[Sweep]:
    """Sweep every layer whose features follow an order, in float64.

    And the ``whole`` if it does.
    """
    lines = subject.worth(subject.level.points, 1)
    if subject.flow is not None:
        p = subject.flow.split(subject.flow.theta.astype(np.float64))
        for k, layer in enumerate(subject.flow.layers):
            if acyclic(layer.allowed()):
                u, c = subject.points.inner_noise(rng, lines)
                x = layer.generate(p[k], u, c)[0]
                yield from _swept(
                    subject,
                    k,
                    lambda x, c, k=k, layer=layer: layer.normalize(p[k], x, c),
                    x,
                    c,
                    rng,
                )
    if whole:
        x, _, c = subject.points.rows(rng, lines)
        for normalize in subject.normalizers.values():
            yield from _swept(subject, -1, normalize, x, c, rng)


def _swept(
    subject: Subject, k: int, normalize, x: np.ndarray, c: np.ndarray, rng
) -> Iterator[Sweep]:
    """Sweep features of the rows of x (L, D), all lines of one feature in one call."""
    most = subject.worth(FEATURES, FEWEST)
    for i in rng.permutation(subject.features)[:most].tolist():
        t = _places(subject, x[:, i], rng)
        # neighbours stand in for a derivative
        if k < 0 and subject.points.bounded is None and subject.points.data is None:
            t = np.sort(
                np.concatenate([t, t + (NEAR * (1 + np.abs(t))).astype(t.dtype)], axis=1), axis=1
            )
        z, context = np.repeat(x, t.shape[1], axis=0), np.repeat(c, t.shape[1], axis=0)
        z[:, i] = t.ravel()
        u, log_det = (np.asarray(a) for a in normalize(z, context)[:2])
        slope = _slope(normalize, z, context, i).reshape(t.shape) if k >= 0 else None
        log_det = log_det.reshape(t.shape)
        exact = subject.tolerance.reference.normalize(z, context)[0][:, i] if k < 0 else u[:, i]
        exact = exact.reshape(t.shape)
        inside = log_det > (UNDERFLOW if k >= 0 else _plateau(t, exact, log_det))
        eps = float(max(np.finfo(t.dtype).eps, np.finfo(u.dtype).eps))
        u_i = u[:, i].astype(np.float64).reshape(t.shape)
        yield Sweep(k, i, t, u_i, slope, inside, exact, eps)


def _plateau(t: np.ndarray, u: np.ndarray, log_det: np.ndarray) -> np.ndarray:
    r"""Return the log-determinant (L, S) below which rounding hides that u moves along its line.

    .. math:: m - 30 + \max\Big(0, \log \frac{1 + |u|}{v \max(1, |t|)}\Big), \qquad
              m, v \text{ the medians of } \log \det \text{ and of } |\Delta u / \Delta t|
    """
    usual = np.median(_quotients(t, np.diff(u, axis=1))[0], axis=1, keepdims=True)
    size = (1 + np.abs(u)) / (np.where(usual > 0, usual, 1.0) * np.maximum(1, np.abs(t)))
    return np.median(log_det, axis=1, keepdims=True) + PLATEAU + np.log(np.maximum(1, size))


def _slope(normalize, z: np.ndarray, context: np.ndarray, i: int) -> np.ndarray:
    """Return du_i/dx_i of every row by complex step."""
    z, steps = z.astype(np.complex128), complex_steps(z[:, i])
    z[:, i] += 1j * steps
    return np.asarray(normalize(z, context)[0])[:, i].imag / steps


def _places(subject: Subject, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return where each of the rows' features x (L,) is swept, ascending, (L, S)."""
    if subject.points.bounded is not None:
        t = rng.uniform(*subject.points.bounded, (len(x), len(FINE)))
    elif subject.points.data is not None:
        t = rng.uniform(subject.points.data.min(), subject.points.data.max(), (len(x), len(FINE)))
    else:
        t = rng.uniform(0.9, 1.1, (len(x), 1)) * SWEEP
    return np.sort(np.concatenate([t.astype(x.dtype), x[:, None]], axis=1), axis=1)


def _one_sign(subject: Subject, rng: np.random.Generator) -> Result:
    """Compare the determinant's sign at points of the support, where it can be told."""
    x, _, c = subject.points.rows(rng, rows_worth(subject, 4 * subject.level.points))
    J, error = measured_jacobian(subject, x, c, rng)
    certain = log_det_of(J, error)[1] < 0.5
    sign = np.linalg.slogdet(J)[0][certain]
    turned = int(min((sign > 0).sum(), (sign < 0).sum()))
    reason = f"det du/dx changes its sign: {turned} of {len(sign)} points differ" if turned else ""
    status = FAILED if turned else "passed"
    return Result(status=status, reason=reason, measured=turned, tolerance=0)
