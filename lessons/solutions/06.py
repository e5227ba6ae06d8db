"""Solutions of lesson 06, each under the id of its cell."""

import numpy as np

# %% same_order
prediction = "a"  # in the natural order, all layers shift and scale x_1 by constants


# %% stacked_log_prob
def stacked_log_prob(flows, x):
    """Hand the noise of each layer to the next, add log-determinants, and the base density once."""
    total = np.zeros(len(x))
    for flow in flows:
        x, log_det = flow.normalize(x)
        total += log_det
    return total - (0.5 * x**2 + 0.5 * np.log(2 * np.pi)).sum(axis=1)


# %% in_other_units
def in_other_units(log_p, scale):
    """Stretching by the scale thins the density by their product."""
    return log_p - np.log(scale).sum()


# %% compare
def compare(ours, theirs):
    """Look at the difference row by row, because both were judged on the same rows."""
    gap = ours - theirs
    return gap.mean(), gap.std() / np.sqrt(len(gap))


# %% times_as_probable
def times_as_probable(nats):
    """Undo the natural logarithm."""
    return np.exp(nats)
