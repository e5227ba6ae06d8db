"""Solutions of lesson 09, each under the id of its cell."""

from statistics import NormalDist

import numpy as np

cdf, pdf, quantile = (
    np.vectorize(f) for f in (NormalDist().cdf, NormalDist().pdf, NormalDist().inv_cdf)
)


# %% mixture
def mixture(x, w, mu, sigma):
    """Go through the mixture's distribution function to the uniform, and on to the normal."""
    standard = (x[:, None] - mu) / sigma
    u = quantile((w * cdf(standard)).sum(axis=1))
    density = (w / sigma * pdf(standard)).sum(axis=1)
    return u, np.log(density) - np.log(pdf(u))


# %% halvings
prediction = 33  # 8 / 2**33 is below 1e-9, and 8 / 2**32 is not


# %% one_bin
def one_bin(xi, slope, left, right):
    """Copy the formulas."""
    rho = xi * (slope * xi + left * (1 - xi))
    kappa = (1 - xi) * (slope * (1 - xi) + right * xi)
    omega = right * xi**2 + 2 * slope * xi * (1 - xi) + left * (1 - xi) ** 2
    return rho / (rho + kappa), slope**2 * omega / (rho + kappa) ** 2


# %% places
def places(h, B, least):
    """Make shares by a softmax that cannot overflow, and add them up."""
    w = np.exp(h - h.max())
    shares = least + (1 - len(h) * least) * w / w.sum()
    return -B + 2 * B * np.concatenate([[0.0], np.cumsum(shares)])


# %% undo_bin
def undo_bin(eta, slope, left, right):
    """Solve the quadratic by the form that divides by something positive."""
    nu = left + right - 2 * slope
    gamma_2, gamma_1, gamma_0 = slope - left + eta * nu, left - eta * nu, -slope * eta
    return -2 * gamma_0 / (gamma_1 + np.sqrt(gamma_1 * gamma_1 - 4 * gamma_2 * gamma_0))


# %% wrap
def wrap(x):
    """Turn by half a circle, take the remainder, turn back."""
    return np.remainder(x + np.pi, 2 * np.pi) - np.pi


# %% integral
def integral(log_p):
    """Take the mean of the density, times the area."""
    return np.mean(np.exp(log_p)) * (2 * np.pi) ** 2
