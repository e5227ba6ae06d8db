"""Solutions of lesson 01, each under the id of its cell."""

import numpy as np


# %% conditional
def conditional(p):
    """Divide p(x1, x2) by p(x1), the sum over x2; with keepdims each row by its own sum."""
    return p / p.sum(axis=1, keepdims=True)


# %% row_log_prob
def row_log_prob(conditionals, x):
    """Add the logarithms of the entries that the first i + 1 features of x pick out."""
    return sum(np.log(p[tuple(x[: i + 1])]) for i, p in enumerate(conditionals))


# %% thousand
prediction = "b"  # 0.3 ** 1000 is about 1e-523, and the smallest positive float64 is about 5e-324

# %% level


def level(p, v):
    """Count the right ends at or below v: an end equal to v belongs to the piece on its left."""
    return int((np.cumsum(p) <= v).sum())


# %% free_numbers
def free_numbers(levels):
    """Multiply the number of pasts by the K - 1 numbers that each of them leaves free."""
    return [int(np.prod(levels[:i])) * (K - 1) for i, K in enumerate(levels)]


# %% quiet_order
quiet_order = (0, 1, 2)  # the two causes first; (1, 0, 2) is right as well
