r"""Checks of structure: who depends on whom, bit by bit.

.. math:: \frac{\partial u_i}{\partial x_j} = 0 \;\text{ unless } j \le i \text{ in the order}, \qquad
          \frac{\partial h_i}{\partial x_j} = 0 \;\text{ unless } j < i

Every layer is checked at points that it generates itself from normal noise, so the checks are as
sharp for the first layer of a deep flow as for the last. Inputs z = (context, x) have C + D
columns.

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from afnp.compiled.stages import compiled
from afnp.params import Views
from afnp.transforms import Autoregressive, CausalConvolution, Inverse
from afnp.verify.arithmetic import shake
from afnp.verify.derivatives import complex_step_jacobian, moved
from afnp.verify.parameters import randomize, randomize_layer, restored
from afnp.verify.results import NotRun, Result, check, judge
from afnp.verify.subject import NAIVE_FEATURES, SAFETY, SHAKES, Subject

__all__ = ["acyclic", "connectivity", "dependency", "triangular"]

UNDERFLOW = -300.0
"""Below such a log-determinant derivatives underflow: there is no density, and no telling whether u moves."""

LIMIT = 2.0**-26
"""Half of the digits: what is rounded more says nothing."""

STEPS = (1.0, 1e-4)
"""Parts of the way from one point to another by which inputs are moved."""

MANY = 256
"""From so many features on, one base point and one step have to do: two passes of D rows."""

DRAWS = 48
"""How many random parameters may be tried before a legal dependency counts as dead."""


class View(NamedTuple):
    """A function of z = (context, x), and what it may hear."""

    layer: int
    """Index in flow.layers; -1 for the whole flow."""
    of: str
    """What is observed: u, x (the sampler), or h (the univariate's parameters)."""
    function: Callable[[np.ndarray], np.ndarray]
    """Rows (M, C + D) to rows (M, D)."""
    may: np.ndarray
    """(D, C + D) bool: what may move with what."""
    must: np.ndarray
    """(D, C + D) bool: what has to, if not for every parameter and everywhere."""
    points: np.ndarray
    """(B, C + D) base points in the support."""


def _joint(function, width: int):
    """Turn f(x, context) -> (y, log_det) into a function of z = (context, x)."""
    return lambda z: function(
        np.ascontiguousarray(z[:, width:]), np.ascontiguousarray(z[:, :width])
    )[0]


def _with_context(allowed: np.ndarray, context: int, listens) -> np.ndarray:
    """Put the context's columns in front: on in the rows that ``listens`` says, else off."""
    heard = np.repeat(np.broadcast_to(listens, len(allowed))[:, None], context, axis=1)
    return np.hstack([heard, allowed])


def _listens(layer) -> np.ndarray:
    """Return which features of a layer depend on the context, (D,) bool."""
    return layer.allowed_context().any(axis=1)


def _hears(subject: Subject) -> np.ndarray:
    """Return which u_i of the whole hear the context, (D,) bool."""
    if subject.flow is None:
        return np.ones(subject.features, dtype=bool)
    heard = np.zeros(subject.features, dtype=bool)
    for layer in subject.flow.layers:
        heard = layer.allowed() @ heard | _listens(layer)
    return heard


def _hears_back(subject: Subject) -> np.ndarray:
    """Return which x_i of the whole sampler hear the context, (D,) bool."""
    heard = np.full(subject.features, subject.flow is None)
    for layer in subject.flow.layers[::-1] if subject.flow is not None else ():
        allowed = layer.allowed()
        triangle = allowed.diagonal().all()  # or else a permutation, whose inverse is its transpose
        heard = (_closure(allowed) if triangle else allowed.T) @ (heard | _listens(layer))
    return heard


def _closure(allowed: np.ndarray) -> np.ndarray:
    r"""Return what an inverse may depend on: :math:`J^{-1}` is a polynomial in J, so the transitive closure."""
    paths = allowed | np.eye(len(allowed), dtype=bool)
    for _ in range(len(allowed).bit_length()):
        paths = paths.astype(np.float32) @ paths.astype(np.float32) > 0
    return paths


def acyclic(allowed: np.ndarray) -> bool:
    """Return whether the features can be put in an order in which none hears a later one.

    Examples
    --------
    >>> acyclic(np.array([[True, True], [False, True]])), acyclic(np.ones((2, 2), dtype=bool))
    (True, False)
    """
    paths = _closure(allowed)
    return not (paths & paths.T & ~np.eye(len(paths), dtype=bool)).any()


def _layer_views(layer, p: Views, k: int, u: np.ndarray, c: np.ndarray, backends) -> Iterator[View]:
    """View one layer in both directions; an autoregressive one also at its univariates' parameters."""
    C, D = c.shape[1], u.shape[1]
    x = layer.generate(p, u, c)[0]
    listens = _listens(layer)
    legal = _with_context(layer.allowed(), C, listens)
    inverse = _with_context(_closure(layer.allowed()), C, _closure(layer.allowed()) @ listens)
    data, noise = np.hstack([c, x]), np.hstack([c, u])
    must = inverse & layer.allowed().diagonal().all()
    stages = [layer]
    if "numba" in backends and isinstance(layer, Inverse | CausalConvolution):
        stages.append(compiled(layer))
    for stage in stages:
        normalize = functools.partial(stage.evaluate, p)
        yield View(k, "u", _joint(normalize, C), legal, legal, data)
    samplers = [stage.sampler("substitution") for stage in stages]
    if D <= NAIVE_FEATURES:
        samplers.append(layer.sampler("naive"))
    for sampler in samplers:
        yield View(k, "x", _joint(functools.partial(sampler, p), C), inverse, must, noise)
    inner, rows = (layer.transform, noise) if isinstance(layer, Inverse) else (layer, data)
    if isinstance(inner, Autoregressive):
        strict = legal & ~np.hstack([np.zeros((D, C), bool), np.eye(D, dtype=bool)])
        for number in range(inner.univariate.numbers):
            function = _joint(lambda x, c, n=number: _parameters(inner, p, x, c, n), C)
            yield View(k, "h", function, strict, strict, rows)


def _parameters(layer: Autoregressive, p: dict, x: np.ndarray, context: np.ndarray, number: int):
    """Return one of the K numbers for each feature (N, D)."""
    h, _ = layer.conditioner.forward(p, layer.conditioner.hear(context, x[:, layer.order]))
    return (h[:, layer.rank, number],)


def _views(subject: Subject, rng: np.random.Generator, n: int) -> Iterator[View]:
    """View every layer, if there are layers, in float64, which hides less; and the whole as it is."""
    if subject.flow is not None:
        p = subject.flow.split(subject.flow.theta.astype(np.float64))
        for k, layer in enumerate(subject.flow.layers):
            u, c = (a.astype(np.float64) for a in subject.noise(rng, n))
            yield from _layer_views(layer, p[k], k, u, c, subject.backends)
    yield from _whole(subject, rng, n)


def _whole(subject: Subject, rng: np.random.Generator, n: int) -> Iterator[View]:
    """View the public functions, in the directions that are there; nobody knows what a whole sampler must hear."""
    D, C = subject.features, subject.context
    nothing = np.zeros((D, D), bool)
    allowed, needed = (
        (~nothing, nothing) if subject.allowed is None else (subject.allowed, subject.allowed)
    )
    may, must = (_with_context(a, C, _hears(subject)) for a in (allowed, needed))
    x, u, c = subject.rows(rng, n)
    for normalize in subject.normalizers.values():
        yield View(-1, "u", _joint(normalize, C), may, must, np.hstack([c, x]))
    may, must = (_with_context(a, C, _hears_back(subject)) for a in (_closure(allowed), nothing))
    for generate in subject.generators.values():
        yield View(-1, "x", _joint(generate, C), may, must, np.hstack([c, u]))


def _pattern(view: View, steps=STEPS, bases: int | None = None) -> np.ndarray:
    """Return which outputs moved with which inputs, for any base point and step, (D, C + D) bool."""
    pattern = np.zeros_like(view.must)
    pairs = list(zip(view.points, np.roll(view.points, 1, axis=0), strict=True))
    for base, other in pairs[:bases]:
        for step in steps:
            pattern |= moved(view.function, base, (base + step * (other - base)).astype(base.dtype))
    return pattern


@check("C1")
def dependency(subject: Subject, rng: np.random.Generator) -> Result:
    r"""Nothing forbidden moves anything, by a single bit.

    .. math:: f_i(z + \delta e_j) = f_i(z) \text{ bitwise, for every } (i, j) \text{ that is not legal}

    Checked in both directions for the whole, for each layer against ``layer.allowed()``, and for
    the parameters of each univariate, which must not even move with their own input.
    """
    if subject.flow is None and subject.allowed is None:
        raise NotRun("needs allowed, a (D, D) matrix of who may depend on whom")
    steps, bases = (STEPS, None) if subject.features < MANY else (STEPS[:1], 1)
    views = _views(subject, rng, max(4, subject.level.points))
    leaks = [(view, _pattern(view, steps, bases) & ~view.may) for view in views]
    count = sum(int(pairs.sum()) for _, pairs in leaks)
    first, pairs = next((leak for leak in leaks if leak[1].any()), leaks[0])
    return Result(
        status="failed" if count else "passed",
        reason=f"{count} forbidden dependencies, the first in {first.of}" if count else "",
        measured=count,
        tolerance=0,
        why="bitwise: what is not heard cannot move anything",
        worst=_place(first, pairs, subject.context),
    )


@check("C2")
def connectivity(subject: Subject, rng: np.random.Generator) -> Result:
    r"""Every legal pair moves something, and so does every context input.

    .. math:: \forall (i, j) \text{ legal}: \; \exists\, z, \delta, \theta: \; f_i(z + \delta e_j) \ne f_i(z)

    One dead pair may be the fault of a dead ReLU, so a flow is given several random parameters
    before a pair counts as lost; for plain functions it counts at once. Hidden widths that are too
    narrow lose pairs for good: the failure says how many.
    """
    found = _reachable(subject, rng)
    if not found:
        raise NotRun("needs a context, or allowed: a (D, D) matrix of who may depend on whom")
    each = _most_lost([(view, view.must & ~pattern) for view, pattern in found])
    legal, count = (
        sum(int(view.must.sum()) for view, _ in each),
        sum(int(lost.sum()) for _, lost in each),
    )
    view, lost = max(each, key=lambda pair: pair[1].sum())
    return Result(
        status="failed" if count else "passed",
        reason=f"{count} of {legal} legal dependencies are dead, the first in {view.of}"
        if count
        else "",
        measured=count,
        tolerance=0,
        why="bitwise: what is heard moves something somewhere",
        worst=_place(view, lost, subject.context),
    )


def _most_lost(dead: list[tuple[View, np.ndarray]]) -> list[tuple[View, np.ndarray]]:
    """Keep one view a layer, the one that lost most of what it must hear; the whole only if no layer lost any."""
    each: dict[int, tuple[View, np.ndarray]] = {}
    for view, lost in sorted(dead, key=lambda pair: (-pair[1].sum(), pair[0].must.sum())):
        each.setdefault(view.layer, (view, lost))
    layers = [pair for pair in each.values() if pair[0].layer >= 0]
    return layers if any(lost.any() for _, lost in layers) else [*each.values()]


def _place(view: View, pairs: np.ndarray, context: int) -> dict[str, int]:
    """Name the first of the pairs, if there are any; inputs of the context have negative numbers."""
    for output, column in np.argwhere(pairs):
        return {"layer": view.layer, "output": int(output), "input": int(column) - context}
    return {}


def _reachable(subject: Subject, rng: np.random.Generator) -> list[tuple[View, np.ndarray]]:
    """Return each view with its pattern, united over points, and over parameters where there are any."""
    if subject.flow is None:
        views = list(_whole(subject, rng, n=32))
        return [(view, _pattern(view)) for view in views if view.must.any()]
    with restored(subject.flow):
        found: list[tuple[View, np.ndarray]] = []
        for _ in range(DRAWS):
            _redraw(subject, rng)
            views = [v for v in _views(subject, rng, n=4) if v.must.any()]
            if not found:
                found = [(view, np.zeros_like(view.must)) for view in views]
            dead = [(v, p) for v, (_, p) in zip(views, found, strict=True) if (v.must & ~p).any()]
            for view, pattern in dead:
                pattern |= _pattern(view, steps=STEPS[:1])
            if not dead:
                break
    return found


def _redraw(subject: Subject, rng: np.random.Generator) -> None:
    """Give the flow random parameters, not tamed for depth: every layer is looked at alone."""
    flow = randomize(subject.flow, int(rng.integers(2**31)))  # type: ignore[arg-type]
    theta = np.zeros(flow.theta.size)
    for layer, p in zip(flow.layers, flow.split(theta), strict=True):
        randomize_layer(layer, p, rng, last=0.5)
    flow.theta = theta


@check("C3")
def triangular(subject: Subject, rng: np.random.Generator) -> Result:
    r"""Each layer's Jacobian is exactly 0 where it has to be, and its determinant is the layer's log-det.

    .. math:: \frac{\partial u_i}{\partial x_j} = 0 \text{ unless legal}, \qquad
              \log\left|\det \frac{\partial u}{\partial x}\right|
              = \sum_i \log \left| \frac{\partial u_i}{\partial x_i} \right| \;\text{ for a triangle}

    By complex step in float64, where a structural zero is an exact zero. The second equation needs
    no condition number of J, only that of the log-determinant itself; a layer that mixes everything
    takes LU instead.
    """
    if subject.flow is None:
        raise NotRun("needs the layers of an afnp flow")
    flow, errors, tolerances, leaks = subject.flow, [], [], 0
    n = int(np.clip(4096 // subject.features, 2, 12))
    theta = flow.theta.astype(np.float64)
    shaken = [flow.split(shake(theta, rng, subject.delta)) for _ in range(SHAKES)]
    for k, (layer, p) in enumerate(zip(flow.layers, flow.split(theta), strict=True)):
        u, c = (a.astype(np.float64) for a in subject.noise(rng, n))
        x = layer.generate(p, u, c)[0]
        J = _layer_jacobian(layer, p, x, c)
        leaks += int(np.count_nonzero((J != 0).any(axis=0) & ~layer.allowed()))
        claimed = layer.normalize(p, x, c)[1]
        error, tolerance = _determinant(J, claimed, acyclic(layer.allowed()))
        moves = [
            layer.normalize(q[k], shake(x, rng, subject.delta), c)[1] for q in shaken
        ] - claimed
        spread = np.sqrt(np.mean(np.square(moves), axis=0)) / subject.delta
        rounding = subject.safety * np.finfo(np.float64).eps * spread
        plateau = ~np.isfinite(J).all(axis=(1, 2)) & (
            rounding > LIMIT
        )  # of the inverse: its slope is anything
        errors.append(np.where(plateau, 0.0, error))
        tolerances.append(np.where(plateau, np.inf, tolerance + rounding))
    if leaks:
        reason = f"{leaks} entries that are not 0 where nothing is heard"
        return Result(status="failed", reason=reason, measured=leaks, tolerance=0)
    why = "a triangle's determinant is its diagonal: eps x sum of |log|"
    return judge(errors, tolerances, why, ("layer", "row"), limit=LIMIT)


def _determinant(
    J: np.ndarray, claimed: np.ndarray, triangle: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return how far a claimed log-determinant (N,) is from J's, and how far it may be."""
    D, eps = J.shape[1], np.finfo(np.float64).eps
    if triangle:
        with np.errstate(divide="ignore"):
            logs = np.log(np.abs(np.einsum("nii->ni", J)))
        underflow = np.isneginf(logs).any(axis=1) & (claimed < UNDERFLOW)
        error = np.where(underflow, 0.0, np.abs(logs.sum(axis=1) - claimed))
        return error, SAFETY * eps * (np.sqrt(D) + np.abs(logs).sum(axis=1))
    exact, condition = np.linalg.slogdet(J)[1], np.linalg.cond(J)
    return np.abs(exact - claimed), SAFETY * eps * D * (condition + np.abs(exact))


def _layer_jacobian(layer, p: dict, x: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return du/dx (N, D, D) of one layer by complex step."""
    repeated = np.repeat(c, x.shape[1], axis=0)
    return complex_step_jacobian(lambda z: layer.normalize(p, z, repeated)[0], x)
