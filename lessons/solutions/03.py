"""Solutions of lesson 03, each under the id of its cell."""

import numpy as np

from afnp.verify import complex_step_jacobian


# %% third_row
def third_row(x):
    """Differentiate u3 = (x3 - x1 x2) scale, scale = exp(-tanh x2); x2 stands in both factors."""
    x1, x2, x3 = x
    scale = np.exp(-np.tanh(x2))
    u3 = (x3 - x1 * x2) * scale
    return np.array([-x2 * scale, -x1 * scale - u3 * (1 - np.tanh(x2) ** 2), scale])


# %% det
def det(J):
    """Expand along the first row: entry times determinant of what is left, signs alternating."""
    if len(J) == 1:
        return J[0, 0]
    return sum((-1) ** k * J[0, k] * det(np.delete(J[1:], k, axis=1)) for k in range(len(J)))


# %% survivors
prediction = 1  # the first row allows column 1 only, then the second row column 2 only, and so on


# %% log_det
def log_det(J):
    """Add the logarithms of the diagonal: the product itself would underflow."""
    return np.log(np.abs(np.diagonal(J))).sum()


# %% sort_by_order
def sort_by_order(J, order):
    """Sort rows and columns alike."""
    order = list(order)
    return J[order][:, order]


# %% leak
def leak(f, x):
    """Look for what is not zero above the diagonal."""
    J = complex_step_jacobian(f, x[None])[0]
    i, j = np.argwhere(np.triu(J, 1))[0]
    return i, j
