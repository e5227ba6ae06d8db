"""Solutions of lesson 08, each under the id of its cell."""

import numpy as np


# %% iaf_sample
def iaf_sample(u, conditionals):
    """Ask the network about the noise, once; the density of the sample comes along."""
    mu, alpha = conditionals(u)
    log_p = -0.5 * (u**2 + np.log(2 * np.pi)).sum(axis=1) - alpha.sum(axis=1)
    return mu + u * np.exp(alpha), log_p


# %% iaf_log_prob
def iaf_log_prob(x, conditionals):
    """Find the noise feature by feature.

    What is said of feature i is right once those before are.
    """
    u = np.zeros_like(x)
    for i in range(x.shape[1]):
        mu, alpha = conditionals(u)
        u[:, i] = (x[:, i] - mu[:, i]) * np.exp(-alpha[:, i])
    return -0.5 * (u**2 + np.log(2 * np.pi)).sum(axis=1) - alpha.sum(axis=1)


# %% couple
def couple(x, passing, network):
    """Leave the first block as it is, shift and scale the second as the first says."""
    mu, alpha = network(x[:, passing])
    u = x.copy()
    u[:, ~passing] = (x[:, ~passing] - mu) * np.exp(-alpha)
    return u, -alpha.sum(axis=1)


# %% uncouple
def uncouple(u, passing, network):
    """Ask the first block again: it is still there."""
    mu, alpha = network(u[:, passing])
    x = u.copy()
    x[:, ~passing] = mu + u[:, ~passing] * np.exp(alpha)
    return x


# %% full
prediction = 3  # the second hears the first; the first hears it; it hears a first that heard it all


# %% steps
def steps(family, D, T):
    """Count D steps for a transform that waits, one for a transform that does not."""
    density = D if family == "IAF" else 1
    sampling = D if family == "MAF" else 1
    return T * density, T * sampling


# %% free_energy
def free_energy(u, log_det, log_target):
    """Take log q from the noise: nothing has to be inverted."""
    log_q = -0.5 * (u**2 + np.log(2 * np.pi)).sum(axis=1) - log_det
    return np.mean(log_q - log_target)
