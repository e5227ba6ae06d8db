"""Solutions of lesson 13, each under the id of its cell."""

import numpy as np


# %% kilobytes
def kilobytes(log_p, samples):
    """Turn nats into bits, bits into bytes."""
    bits = -np.mean(log_p) / np.log(2)
    return samples * bits / 8000


# %% crps
def crps(samples, x):
    """Mean distance to what came, less half the mean distance of two draws."""
    S = len(samples)
    apart = np.abs(samples[:, None] - samples[None, :])
    return np.abs(samples - x).mean() - apart.sum() / (S * (S - 1)) / 2


# %% free_energy
def free_energy(log_p, kelvin):
    """Put what is most probable at 0."""
    energy = -0.0083145 * kelvin * log_p
    return energy - energy.min()


# %% effective
def effective(log_w):
    """Make the largest weight 1: a common factor cancels."""
    w = np.exp(log_w - log_w.max())
    return w.sum() ** 2 / (w**2).sum()


# %% auroc
def auroc(normal, outliers):
    """Compare all pairs."""
    apart = outliers[:, None] - normal[None, :]
    return np.mean(apart > 0) + np.mean(apart == 0) / 2


# %% easier
prediction = "a"  # a one is part of many digits, and simple
