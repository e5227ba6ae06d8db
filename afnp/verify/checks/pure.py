r"""Check of purity: input is not output.

.. math:: x \to f(x), \qquad x \text{ as before, bitwise}

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

import numpy as np

from afnp.verify.calls import answers, equal, functions_of
from afnp.verify.results import Result, check, collect
from afnp.verify.rows import batch_size
from afnp.verify.subject import Subject

__all__ = ["pure"]


@check("C8")
def pure(subject: Subject, rng: np.random.Generator) -> Result:
    r"""Read-only input is accepted, and no input is changed.

    .. math:: x \to f(x), \qquad x \text{ as before, bitwise}
    """
    problems = []
    for function, x, c in functions_of(subject, rng, batch_size(rng)):
        writeable, frozen = (x.copy(), c.copy()), (x.copy(), c.copy())
        answers(function, *writeable)
        if not equal(writeable, (x, c)):
            problems.append(f"{function.name} changes its input")
        for array in frozen:
            array.setflags(write=False)
        try:
            answers(function, *frozen)
        except (ValueError, TypeError) as exception:
            problems.append(f"{function.name} refuses read-only input ({exception})")
    return collect(problems, "bitwise: input is not output")
