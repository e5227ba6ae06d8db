"""Solutions of lesson 11, each under the id of its cell."""

import math

import numpy as np

# %% listeners
prediction = (
    2,
    3,
    4,
)  # the outputs of feature 1 hear no hidden unit: none has a degree less than 1


# %% hears
def hears(f, x, c):
    """Change one number of the condition at a time, and compare bit by bit."""
    base = f(x[None], c[None])[0]
    result = np.zeros((len(x), len(c)), dtype=bool)
    for j in range(len(c)):
        moved = c.copy()
        moved[j] += 1.0
        result[:, j] = f(x[None], moved[None])[0] != base
    return result


# %% pit
def pit(flow, x, c):
    """Return the probability of noise below the noise of x."""
    u, _ = flow.normalize(x, c)
    return np.array([0.5 * math.erfc(-float(value) / math.sqrt(2)) for value in u[:, 0]])


# %% too_sure
prediction = "c"  # the truth lies in the tails of a density that is too narrow


# %% coverage
def coverage(F, share):
    """Count the truths that leave at most half of the rest on each side."""
    low, high = (1 - share) / 2, (1 + share) / 2
    return np.mean((low < F) & (high > F))


# %% posterior
def posterior(log_p, prior):
    """Work with logarithms until the largest of each row is 1."""
    joint = log_p + np.log(prior)
    weights = np.exp(joint - joint.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)
