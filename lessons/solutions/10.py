"""Solutions of lesson 10, each under the id of its cell."""

import numpy as np

# %% spikes
prediction = "c"  # half as wide is twice as high, at every data point


# %% bound_and_truth
def bound_and_truth(log_p):
    """Average over the draws: the logarithms, and the densities relative to the largest."""
    top = log_p.max(axis=0)
    return log_p.mean(axis=0), top + np.log(np.mean(np.exp(log_p - top), axis=0))


# %% logit
def logit(share, lam):
    """Shrink, spread, and count both in the log-determinant."""
    shrunk = lam + (1 - 2 * lam) * share
    log_slope = np.log(1 - 2 * lam) - np.log(shrunk) - np.log(1 - shrunk)
    return np.log(shrunk) - np.log(1 - shrunk), log_slope.sum(axis=1)


# %% bits
def bits(log_p, D, levels):
    """Change the sign, the dimension, the logarithm and the unit."""
    return -log_p / (D * np.log(2)) + np.log2(levels)


# %% uniform_bits
prediction = np.log2(17)  # -log p is 64 log 17, in bits 64 log2 17, for 64 dimensions


# %% from_logits
def from_logits(log_p, x, lam, K):
    """Add the log-determinants of the logit and of the division by K, then change the unit."""
    D = x.shape[1]
    shrunk = lam + (1 - 2 * lam) * x / K
    log_det = (np.log(1 - 2 * lam) - np.log(shrunk) - np.log(1 - shrunk)).sum(axis=1) - D * np.log(
        K
    )
    return -(log_p + log_det) / (D * np.log(2))
