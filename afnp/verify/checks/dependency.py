r"""Check of dependency: nothing forbidden moves anything.

.. math:: f_i(z + \delta e_j) = f_i(z) \text{ bitwise, for every } (i, j) \text{ not allowed}

Letters: D features, C context inputs, z = (context, x).
"""

from __future__ import annotations

import numpy as np

from afnp.verify.results import NotRun, Result, check
from afnp.verify.subject import Subject
from afnp.verify.views import STEPS, View, pair, pattern, place, views_of

__all__ = ["dependency"]

MANY = 256
"""From so many features on, one base point and one step have to do: two passes of D rows."""


@check("C1")
def dependency(subject: Subject, rng: np.random.Generator) -> Result:
    r"""Nothing forbidden moves anything, by a single bit.

    .. math:: f_i(z + \delta e_j) = f_i(z) \text{ bitwise, for every } (i, j) \text{ not legal}

    Checked in both directions for the whole, for each layer against ``layer.allowed()``, and for
    the params of each univariate, which must not even move with their own input.
    """
    if subject.allowed is None:
        raise NotRun("needs allowed: 'triangular', an order, or a matrix of who may depend on whom")
    steps, bases = (STEPS, None) if subject.features < MANY else (STEPS[:1], 1)
    views = views_of(subject, rng, subject.worth(max(4, subject.level.points), 2))
    leaks = [(view, pattern(view, steps, bases) & ~view.may) for view in views]
    count = sum(int(view.of_features(pairs).sum()) for view, pairs in leaks)
    first, pairs = next((leak for leak in leaks if leak[1].any()), leaks[0])
    return Result(
        status="failed" if count else "passed",
        reason=_reason(first, pairs, subject.context, count) if count else "",
        measured=count,
        tolerance=0,
        why="bitwise: what it does not depend on cannot move anything",
        worst=place(first, pairs, subject.context),
        evidence={
            "dependencies": first.of_features(pairs),
            "may": first.of_features(first.may),
            "of": first.of,
        }
        if count
        else {},
    )


def _reason(view: View, pairs: np.ndarray, context: int, count: int) -> str:
    """Say which forbidden dependency is the first, and how many there are."""
    output, source = pair(view, pairs, context)
    more = f" ({count} forbidden dependencies)" if count > 1 else ""
    return f"{output} moves with {source}, and must not{more}"
