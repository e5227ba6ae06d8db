r"""Who may depend on whom: every layer and the whole, as functions of z = (context, x).

.. math:: \frac{\partial u_i}{\partial x_j} = 0 \;\text{ unless } j \le i \text{ in the order},
          \qquad \frac{\partial h_i}{\partial x_j} = 0 \;\text{ unless } j < i

Every layer is looked at where it generates from normal noise itself, so the checks are as sharp for
the first layer of a deep flow as for the last. Inputs z have C + D columns.

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from afnp.networks import CausalConv
from afnp.params import Views
from afnp.transforms import Autoregressive, Inverse
from afnp.verify.derivatives import moved
from afnp.verify.subject import Subject

__all__ = [
    "STEPS",
    "UNDERFLOW",
    "View",
    "acyclic",
    "inner_transform",
    "layer_views",
    "pair",
    "pattern",
    "place",
    "views_of",
    "whole",
]

UNDERFLOW = -300.0
"""Below such a log-determinant derivatives underflow: there is no density, and no telling whether u
moves."""

STEPS = (1.0, 1e-4)
"""Parts of the way from one point to another by which inputs are moved."""


class View(NamedTuple):
    """A function of z = (context, x), and what it may depend on."""

    layer: int
    """Index in flow.layers; -1 for the whole flow."""
    of: str
    """What is observed: u, x (the sampler), or h (the univariate's params)."""
    function: Callable[[np.ndarray], np.ndarray]
    """Rows (M, C + D) to rows (M, D)."""
    may: np.ndarray
    """(D, C + D) bool: what may move with what."""
    must: np.ndarray
    """(D, C + D) bool: what has to, if not for every parameter and everywhere."""
    points: np.ndarray
    """(B, C + D) base points in the support."""
    params: int = 1
    """So many outputs belong to each feature, one after the other."""

    def of_features(self, pairs: np.ndarray) -> np.ndarray:
        """Return which features (D, C + D) have a pair among their outputs' (D K, C + D)."""
        return np.any(pairs.reshape(-1, self.params, pairs.shape[1]), axis=1)


def _joint(function, width: int):
    """Turn f(x, context) -> (y, log_det, ...) into a function of z = (context, x)."""

    def of_both(z: np.ndarray) -> np.ndarray:
        x, context = (np.ascontiguousarray(part) for part in (z[:, width:], z[:, :width]))
        return function(x, context)[0]

    return of_both


def _closure(allowed: np.ndarray) -> np.ndarray:
    r"""Return what an inverse may depend on.

    :math:`J^{-1}` is a polynomial in J, so the transitive closure.
    """
    paths = allowed | np.eye(len(allowed), dtype=bool)
    for _ in range(len(allowed).bit_length()):
        paths = paths.astype(np.float32) @ paths.astype(np.float32) > 0
    return paths


def acyclic(allowed: np.ndarray) -> bool:
    """Return whether the features can be put in an order in which none depends on a later one.

    Examples
    --------
    >>> acyclic(np.array([[True, True], [False, True]])), acyclic(np.ones((2, 2), dtype=bool))
    (True, False)
    """
    paths = _closure(allowed)
    return not (paths & paths.T & ~np.eye(len(paths), dtype=bool)).any()


def _inverse(allowed: np.ndarray, C: int) -> np.ndarray:
    """Return what a sampler may depend on, (D, C + D), if normalize may depend on ``allowed``."""
    inner = _closure(allowed[:, C:])
    context = inner.astype(np.float32) @ allowed[:, :C].astype(np.float32) > 0
    return np.hstack([context, inner])


def _backwards(flow) -> np.ndarray:
    """Return what x depends on, (D, C + D), along the paths from noise to data, layer by layer."""
    D, C = flow.features, flow.context
    paths = np.hstack([np.zeros((D, C), bool), np.eye(D, dtype=bool)])
    for layer in reversed(flow.layers):
        legal = _legal(layer, C)
        turns = (legal[:, C:].sum(axis=0) == 1).all() and (legal[:, C:].sum(axis=1) == 1).all()
        step = np.hstack([legal[:, :C], legal[:, C:].T]) if turns else _inverse(legal, C)
        paths = step[:, C:].astype(np.float32) @ paths.astype(np.float32) > 0
        paths[:, :C] |= step[:, :C]
    return paths


def _legal(layer, C: int) -> np.ndarray:
    """Return what a layer's u may depend on, (D, C + D) bool."""
    context = layer.allowed_context() if layer.context else np.zeros((layer.features, C), bool)
    return np.hstack([context, layer.allowed()])


def inner_transform(layer) -> Any:
    """Return the transform inside of an inverse, or the layer itself."""
    return layer.transform if isinstance(layer, Inverse) else layer


def layer_views(
    subject: Subject, layer, p: Views, k: int, u: np.ndarray, c: np.ndarray
) -> Iterator[View]:
    """View one layer in both directions; an autoregressive one also at its univariates' params."""
    C, D = c.shape[1], u.shape[1]
    x = layer.generate(p, u, c)[0]
    legal = _legal(layer, C)
    inverse = _inverse(legal, C)
    data, noise = np.hstack([c, x]), np.hstack([c, u])
    must = inverse & layer.allowed().diagonal().all()
    stages = [layer]
    solved = isinstance(layer, Inverse) or isinstance(layer.conditioner, CausalConv)
    if "numba" in subject.backends and solved:
        from afnp.compiled.stages import compiled

        stages.append(compiled(layer))
    for stage in stages:
        evaluate = functools.partial(stage.evaluate, p)
        yield View(k, "u", _joint(evaluate, C), legal, legal, data)
    samplers = [stage.sampler("substitution") for stage in stages]
    if subject.looped:
        samplers.append(layer.sampler("naive"))
    for sampler in samplers:
        yield View(k, "x", _joint(functools.partial(sampler, p), C), inverse, must, noise)
    inner = inner_transform(layer)
    rows = noise if isinstance(layer, Inverse) else data
    if isinstance(inner, Autoregressive):
        strict = legal & ~np.hstack([np.zeros((D, C), bool), np.eye(D, dtype=bool)])
        K = inner.univariate.numbers
        every = np.repeat(strict, K, axis=0)
        function = _joint(functools.partial(_params, inner, p), C)
        yield View(k, "h", function, every, every, rows, K)


def _params(layer: Autoregressive, p: Views, x: np.ndarray, context: np.ndarray):
    """Return the K params of each feature, (N, D K)."""
    h, _ = layer.conditioner.forward(p, context, x[:, layer.order])
    return (h[:, layer.rank].reshape(len(x), -1),)


def views_of(subject: Subject, rng: np.random.Generator, n: int) -> Iterator[View]:
    """View every layer, if there are layers, in float64, which hides less.

    And the whole as it is.
    """
    flow = subject.flow
    if flow is not None:
        p = flow.split(flow.theta.astype(np.float64))
        for k, layer in enumerate(flow.layers):
            u, c = subject.points.inner_noise(rng, n)
            yield from layer_views(subject, layer, p[k], k, u, c)
    yield from whole(subject, rng, n)


def whole(subject: Subject, rng: np.random.Generator, n: int) -> Iterator[View]:
    """View the public functions, in the directions that are there.

    Nobody knows what a whole sampler must depend on.
    """
    D, C = subject.features, subject.context
    may = np.ones((D, C + D), bool) if subject.allowed is None else subject.allowed
    must = np.zeros((D, C + D), bool) if subject.must is None else subject.must
    x, u, c = subject.points.rows(rng, n)
    for normalize in subject.normalizers.values():
        yield View(-1, "u", _joint(normalize, C), may, must, np.hstack([c, x]))
    # nobody knows what a whole sampler must depend on, but for its context
    back = _inverse(may, C)
    must_back = np.zeros_like(back)
    if must[:, :C].all():
        known = back if subject.flow is None else _backwards(subject.flow)
        must_back[:, :C] = known[:, :C]
    for generate in subject.generators.values():
        yield View(-1, "x", _joint(generate, C), back, must_back, np.hstack([c, u]))


def pattern(view: View, steps=STEPS, bases: int | None = None) -> np.ndarray:
    """Return which outputs moved with which inputs, at any point and step, (D, C + D) bool."""
    base, other = view.points[:bases], np.roll(view.points, 1, axis=0)[:bases]
    # all of the way is the other point itself: rounded, it could lie outside the support
    others = [other if s == 1 else (base + s * (other - base)).astype(base.dtype) for s in steps]
    return moved(view.function, np.tile(base, (len(steps), 1)), np.concatenate(others))


def pair(view: View, pairs: np.ndarray, context: int) -> tuple[str, str]:
    """Name output and input of the first of the pairs, such as u_0 and x_2."""
    at = place(view, pairs, context)
    outputs = {"u": "u_{}", "x": "x_{}", "h": "the parameters of feature {}"}
    inputs = {"u": "x_{}", "x": "u_{}", "h": "x_{}"}
    layer = f" of layer {view.layer}" if view.layer >= 0 else ""
    output, j = outputs[view.of].format(at["output"]) + layer, at["input"]
    return output, inputs[view.of].format(j) if j >= 0 else f"context input {j + context}"


def place(view: View, pairs: np.ndarray, context: int) -> dict[str, int]:
    """Name the first of the pairs, if there are any.

    Inputs of the context have negative numbers.
    """
    for output, column in np.argwhere(view.of_features(pairs)):
        return {"layer": view.layer, "output": int(output), "input": int(column) - context}
    return {}
