"""Solutions of lesson 04, each under the id of its cell."""

import numpy as np


# %% mask
def mask(hears, heard, strict):
    """Compare every degree that hears with every degree that is heard."""
    return hears[:, None] > heard[None, :] if strict else hears[:, None] >= heard[None, :]


# %% moved
prediction = (4, 5)  # only they have x_3 in their past; output 3 must not know its own feature


# %% masked_linear
def masked_linear(x, W, b, M):
    """Cut connections with the mask, then do what a linear layer does."""
    return x @ (M * W).T + b


# %% prefix
def prefix(hears, heard, strict):
    """Count, for each degree that hears, the sorted degrees that it may hear."""
    return np.searchsorted(heard, hears, side="left" if strict else "right")


# %% lost
def lost(degrees, D):
    """Count the legal pairs without a path: from j through a degree m, j <= m < i, to output i."""
    features = np.arange(1, D + 1)
    first = degrees[:, None] >= features[None, :]
    second = features[:, None] > degrees[None, :]
    paths = second.astype(int) @ first.astype(int)
    return D * (D - 1) // 2 - (paths > 0).sum()


# %% design
design = (1, 3, 3)  # no unit of degree 2, which alone could carry feature 2 to output 3
