"""Solutions of lesson 09, each under the id of its cell."""

from statistics import NormalDist

import numpy as np

cdf, pdf, quantile = (
    np.vectorize(f) for f in (NormalDist().cdf, NormalDist().pdf, NormalDist().inv_cdf)
)


# %% mixture
def mixture(x, pi, mu, sigma):
    """Go through the mixture's distribution function to the uniform, and on to the normal."""
    z = (x[:, None] - mu) / sigma
    u = quantile((pi * cdf(z)).sum(axis=1))
    density = (pi / sigma * pdf(z)).sum(axis=1)
    return u, np.log(density) - np.log(pdf(u))


# %% halvings
prediction = 33  # the first n with 8 / 2**n below 1e-9


# %% one_bin
def one_bin(xi, s, d0, d1):
    """Copy the formulas."""
    a = xi * (s * xi + d0 * (1 - xi))
    c = (1 - xi) * (s * (1 - xi) + d1 * xi)
    e = d1 * xi**2 + 2 * s * xi * (1 - xi) + d0 * (1 - xi) ** 2
    return a / (a + c), s**2 * e / (a + c) ** 2


# %% places
def places(h, B, m):
    """Make shares by a softmax that cannot overflow, and add them up."""
    e = np.exp(h - h.max())
    shares = m + (1 - len(h) * m) * e / e.sum()
    return -B + 2 * B * np.concatenate([[0.0], np.cumsum(shares)])


# %% undo_bin
def undo_bin(share, s, d0, d1):
    """Solve the quadratic by the form that divides by something positive."""
    t = d0 + d1 - 2 * s
    A, b, C = s - d0 + share * t, d0 - share * t, -s * share
    return -2 * C / (b + np.sqrt(b * b - 4 * A * C))


# %% wrap
def wrap(x):
    """Turn by half a circle, take the remainder, turn back."""
    return np.remainder(x + np.pi, 2 * np.pi) - np.pi


# %% integral
def integral(log_p):
    """Take the mean of the density, times the area."""
    return np.mean(np.exp(log_p)) * (2 * np.pi) ** 2
