"""Solutions of lesson 02, each under the id of its cell."""

import numpy as np


# %% log_density
def log_density(x):
    """Take the noise u = log x, and add log du/dx = -log x to its log-density."""
    u = np.log(x)
    return -(u**2 + np.log(2 * np.pi)) / 2 - np.log(x)


# %% exponential
def exponential(v):
    """Solve v = 1 - exp(-x) for x."""
    return -np.log(1 - v)


# %% normalize
def normalize(x):
    """Undo the shift, then the scale; both depend on x1 alone, which is known."""
    x1, x2 = x[:, 0], x[:, 1]
    return np.stack([x1, (x2 - 0.6 * x1**2) * np.exp(-0.4 * x1)], axis=1)


# %% two_points
prediction = "c"  # the determinant of a triangular matrix does not look off its diagonal


# %% cholesky
def cholesky(cov):
    """Match var x1, cov(x1, x2) and var x2, in this order."""
    L11 = np.sqrt(cov[0, 0])
    L21 = cov[1, 0] / L11
    L22 = np.sqrt(cov[1, 1] - L21**2)
    return np.array([[L11, 0.0], [L21, L22]])


# %% given
def given(mean, cov, x1):
    """See u1 through x1, put it into the second row of x = mean + L u; u2 is the only unknown."""
    L = np.linalg.cholesky(cov)
    u1 = (x1 - mean[0]) / L[0, 0]
    return mean[1] + L[1, 0] * u1, L[1, 1]
