"""Solutions of lesson 12, each under the id of its cell."""

import numpy as np

# %% certain
prediction = 32  # one feature more is right after every sweep, and stays right


# %% jacobi
def jacobi(step, x):
    """Sweep, compare bit by bit, and never more than D times."""
    for sweeps in range(1, len(x) + 1):
        new = step(x)
        if np.array_equal(new, x):
            return new, sweeps
        x = new
    return x, len(x)


# %% attend
def attend(q, keys, values):
    """Weigh the values kept by how well their keys fit."""
    w = np.exp(keys @ q / np.sqrt(len(q)))
    return w / w.sum() @ values


# %% causal_attention
def causal_attention(q, k, v):
    """One token after the other, each with the keys and values up to itself."""
    return np.array([attend(q[t], k[: t + 1], v[: t + 1]) for t in range(len(q))])


# %% keys_computed
def keys_computed(T):
    """1 + 2 + ... + T, or each once."""
    return T * (T + 1) // 2, T


# %% receptive
prediction = 1024  # doubled by each of ten layers


# %% queue_step
def queue_step(a, ring, t, w, v):
    """Read what is d steps old, then write over it."""
    place = t % len(ring)
    z = w * a + v * ring[place]
    after = ring.copy()
    after[place] = a
    return z, after
