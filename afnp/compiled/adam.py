"""Adam in one compiled pass over memory; the definition is :class:`afnp.train.Adam`.

NumPy needs a dozen passes for the same arithmetic, and for large networks the step is nothing but
memory traffic.
"""

from __future__ import annotations

import numpy as np

from afnp.compiled.compiler import kernel
from afnp.compiled.threads import in_threads, row_blocks

__all__ = ["squared_length", "step"]

BLOCK = 2**16
"""Values worth a thread of their own."""


@kernel
def adam_kernel(theta, g, m, v, beta1, beta2, rate, epsilon, keep, scale):
    one = theta.dtype.type(1)
    for i in range(theta.size):
        slope = scale * g[i]
        m[i] += (one - beta1) * (slope - m[i])
        v[i] += (one - beta2) * (slope * slope - v[i])
        theta[i] = keep * theta[i] - rate * m[i] / (np.sqrt(v[i]) + epsilon)


def step(theta, g, m, v, *scalars: float) -> None:
    """Do m, v of ``scale * g``, and then theta ← keep theta - rate m / (√v + epsilon), in place.

    The scalars are beta1, beta2, rate, epsilon, keep and scale.
    """
    scalars = tuple(theta.dtype.type(s) for s in scalars)

    def work(part: slice) -> None:
        adam_kernel(theta[part], g[part], m[part], v[part], *scalars)

    in_threads(work, row_blocks(theta.size, unit=BLOCK, most=theta.size))


@kernel
def square_kernel(g, squares):
    """Write the sum of squares of each ``BLOCK`` values of g."""
    for b in range(squares.size):
        part, square = g[b * BLOCK : (b + 1) * BLOCK], 0.0
        for i in range(part.size):
            square += np.float64(part[i]) * np.float64(part[i])
        squares[b] = square


def squared_length(g) -> float:
    """Return the squared length of g, the same bits for any number of threads.

    Blocks are summed in order.
    """
    squares = np.zeros(-(-g.size // BLOCK))

    def work(part: slice) -> None:
        square_kernel(g[part], squares[part.start // BLOCK : -(-part.stop // BLOCK)])

    in_threads(work, row_blocks(g.size, unit=BLOCK, most=g.size))
    return float(squares.sum())
