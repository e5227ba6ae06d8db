r"""Check of connectivity: every legal dependency is there.

.. math:: \forall (i, j) \text{ legal}: \; \exists\, z, \delta, \theta: \;
          f_i(z + \delta e_j) \ne f_i(z)

Letters: D features, C context inputs, z = (context, x).
"""

from __future__ import annotations

import numpy as np

from afnp.verify.parameters import randomize, restored
from afnp.verify.results import FAILED, PASSED, NotRun, Result, check
from afnp.verify.subject import Subject
from afnp.verify.views import STEPS, View, pair, pattern, place, views_of, whole

__all__ = ["connectivity"]

DRAWS = 48
"""How many random parameters may be tried before a legal dependency counts as dead."""

POINTS = 32
"""Base points at which plain functions are looked at: they have no parameters to change."""


@check("C2")
def connectivity(subject: Subject, rng: np.random.Generator) -> Result:
    r"""Every legal pair moves something.

    .. math:: \forall (i, j) \text{ legal}: \; \exists\, z, \delta, \theta: \;
              f_i(z + \delta e_j) \ne f_i(z)

    One dead pair may be the fault of a dead ReLU, so a flow is given several random parameters
    before a pair counts as lost; for plain functions it counts at once. Hidden widths that are too
    narrow lose pairs for good: the failure says how many. Of plain functions whose ``allowed`` has
    no columns for the context, nobody knows which u_i depends on which context input: what moves
    nothing is noted, and no failure.
    """
    found = _reachable(subject, rng)
    if not found:
        raise NotRun("needs a context, or allowed: which u_i may depend on which x_j")
    each = _most_lost([(view, view.must & ~seen) for view, seen in found])
    each = [(view, view.of_features(lost)) for view, lost in each]
    legal = sum(int(view.of_features(view.must).sum()) for view, _ in each)
    count = sum(int(lost.sum()) for _, lost in each)
    view, lost = max(each, key=lambda pair: pair[1].sum())
    of_features = view._replace(params=1)
    result = Result(
        status=FAILED if count else PASSED,
        reason=f"{_never(of_features, lost, subject.context)}; "
        f"{count} of {legal} legal dependencies are dead"
        if count
        else "",
        measured=count,
        tolerance=0,
        why="bitwise: what it depends on moves something somewhere",
        worst=place(of_features, lost, subject.context),
        evidence={"dependencies": lost, "may": view.of_features(view.must), "of": view.of}
        if count
        else {},
    )
    return result if count else _with_context(result, subject, found)


def _never(view: View, lost: np.ndarray, context: int) -> str:
    """Say which legal dependency is the first that moves nothing."""
    output, source = pair(view, lost, context)
    return f"{output} never moves with {source}"


def _with_context(result: Result, subject: Subject, found: list[tuple[View, np.ndarray]]) -> Result:
    """Say which context inputs move nothing, where nobody said that they have to."""
    C = subject.context
    wholes = [(view, seen[:, :C]) for view, seen in found if view.layer < 0]
    if not C or not wholes or subject.must is not None and subject.must[:, :C].any():
        return result
    dead = ~wholes[0][1]
    if not dead.any():
        return result
    output, column = np.argwhere(dead)[0]
    what = f"{dead.sum()} of {dead.size} pairs of feature and context input move nothing, first "
    what += f"feature {output} with context input {column}"
    if dead.all():
        what = f"no context input moves {wholes[0][0].of}"
    note = f"{what}; allowed with columns for the context says what is meant"
    return Result(status=PASSED, measured=0, tolerance=0, why=result.why, notes=(note,))


def _most_lost(dead: list[tuple[View, np.ndarray]]) -> list[tuple[View, np.ndarray]]:
    """Keep one view a layer, the one that lost most of what it must move.

    The whole only if no layer lost any.
    """
    each: dict[int, tuple[View, np.ndarray]] = {}
    for view, lost in sorted(dead, key=_most_first):
        each.setdefault(view.layer, (view, lost))
    layers = [pair for pair in each.values() if pair[0].layer >= 0]
    return layers if any(lost.any() for _, lost in layers) else [*each.values()]


def _most_first(pair: tuple[View, np.ndarray]) -> tuple[int, int]:
    """Return what sorts views by how many dependencies they lost, and then by how few they need."""
    view, lost = pair
    needed = view.of_features(view.must)
    return -int(view.of_features(lost).sum()), int(needed.sum())


def _reachable(subject: Subject, rng: np.random.Generator) -> list[tuple[View, np.ndarray]]:
    """Return each view with its pattern, united over points, and parameters if it has any."""
    if subject.flow is None:
        views = [v for v in whole(subject, rng, POINTS) if v.must.any() or subject.context]
        return [(view, pattern(view)) for view in views]
    with restored(subject.flow):
        found: list[tuple[View, np.ndarray]] = []
        for _ in range(DRAWS):
            # not smaller for depth: every layer is looked at alone
            randomize(subject.flow, int(rng.integers(2**31)), last=0.5)
            views = [v for v in views_of(subject, rng, n=4) if v.must.any()]
            if not found:
                found = [(view, np.zeros_like(view.must)) for view in views]
            dead = [(v, p) for v, (_, p) in zip(views, found, strict=True) if (v.must & ~p).any()]
            for view, seen in dead:
                seen |= pattern(view, steps=STEPS[:1])
            if not dead:
                break
    return found
