r"""Check of state: asked again, every function answers the same.

.. math:: f(A) = f(A) \text{ again, whatever was asked in between}

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

import numpy as np

from afnp.verify.calls import answers, copies, equal, functions_of
from afnp.verify.results import Result, check, collect
from afnp.verify.rows import batch_size
from afnp.verify.subject import Subject

__all__ = ["deterministic"]


@check("C7")
def deterministic(subject: Subject, rng: np.random.Generator) -> Result:
    r"""Asked for A, then B, then A again, every function answers the same, and parameters stay.

    .. math:: f(A),\; f(B),\; f(A)' : \quad f(A) = f(A)' \text{ bitwise}, \quad
              \theta = \theta' \text{ bitwise}
    """
    problems = []
    theta = _theta(subject)
    for function, x, c in functions_of(subject, rng, batch_size(rng)):
        given = answers(function, x.copy(), c.copy())
        first = copies(given)
        answers(function, np.roll(x, 1, axis=0), c.copy())
        if not equal(first, given):
            problems.append(f"{function.name} overwrites an answer that it gave before")
        answers(function, x[1:].copy(), c[1:].copy())
        if not equal(first, answers(function, x.copy(), c.copy())):
            problems.append(f"{function.name} answers the same question differently")
    if not np.array_equal(theta, _theta(subject)):
        problems.append("parameters changed")
    return collect(problems, "bitwise: the same arithmetic twice")


def _theta(subject: Subject) -> np.ndarray:
    return np.empty(0) if subject.flow is None else subject.flow.theta.copy()
