"""Solutions of lesson 05, each under the id of its cell."""

import numpy as np


# %% backward_linear
def backward_linear(x, W, M, d_y):
    """Follow each of the three into y, and sum over what the shape does not keep."""
    return M * (d_y.T @ x), d_y.sum(axis=0), d_y @ (M * W)


# %% tiny_step
prediction = "a"  # 1 + 1e-30 is 1 in float64, and f(1) - f(1) is 0


# %% complex_step
def complex_step(f, x):
    """Step into the imaginary direction of each entry in turn."""
    return np.array([f(x + 1e-30j * unit).imag / 1e-30 for unit in np.eye(len(x))])


# %% softplus_backward
def softplus_backward(a, d_a):
    """Use e^y / (1 + e^y) = 1 - e^(-a)."""
    return d_a * (1 - np.exp(-a))


# %% backward_loss
def backward_loss(x, mu, alpha):
    """Go through u: d_u = u / N, du/dmu = -e^(-alpha), du/dalpha = -u; alpha is in the loss too."""
    u = (x - mu) * np.exp(-alpha)
    d_u = u / len(x)
    return -d_u * np.exp(-alpha), -d_u * u + 1 / len(x)


# %% culprits
culprits = (
    "W0",
    "b0",
)  # d_y has (1 - y**2) where (1 - a**2) belongs, and these two are made of d_y


# %% d_x
def d_x(d_u, alpha, d_y, W, M):
    """Add the direct route and the one through the network."""
    return d_u * np.exp(-alpha) + d_y @ (M * W)
