"""Adam in one compiled pass over memory; the definition is :class:`afnp.train.Adam`.

NumPy needs a dozen passes for the same arithmetic, and for large networks the step is nothing but
memory traffic.
"""

from __future__ import annotations

import numpy as np

from afnp.compiled.compiler import kernel
from afnp.compiled.threads import in_threads, row_blocks

__all__ = ["add_up", "step"]

BLOCK = 2**16
"""Values worth a thread of their own."""


@kernel
def adam_kernel(theta, g, m, v, beta1, beta2, rate, epsilon, keep):
    one = theta.dtype.type(1)
    for i in range(theta.size):
        m[i] += (one - beta1) * (g[i] - m[i])
        v[i] += (one - beta2) * (g[i] * g[i] - v[i])
        theta[i] = keep * theta[i] - rate * m[i] / (np.sqrt(v[i]) + epsilon)


def step(
    theta, g, m, v, beta1: float, beta2: float, rate: float, epsilon: float, keep: float
) -> None:
    """Do m, v, and then theta ← keep theta - rate m / (√v + epsilon), in place."""
    scalars = [theta.dtype.type(s) for s in (beta1, beta2, rate, epsilon, keep)]

    def work(part: slice) -> None:
        adam_kernel(theta[part], g[part], m[part], v[part], *scalars)

    in_threads(work, row_blocks(theta.size, unit=BLOCK, most=theta.size))


@kernel
def add_up_kernel(total, other):
    square = 0.0
    for i in range(total.size):
        total[i] += other[i]
        square += np.float64(total[i]) * np.float64(total[i])
    return square


@kernel
def square_kernel(total):
    square = 0.0
    for i in range(total.size):
        square += np.float64(total[i]) * np.float64(total[i])
    return square


def add_up(vectors: list[np.ndarray]) -> float:
    """Add all vectors into the first one; return the sum of its squares."""
    total = vectors[0]

    def work(part: slice) -> float:
        for other in vectors[1:-1]:
            total[part] += other[part]
        return (
            add_up_kernel(total[part], vectors[-1][part])
            if len(vectors) > 1
            else square_kernel(total[part])
        )

    return sum(in_threads(work, row_blocks(total.size, unit=BLOCK, most=total.size)))
