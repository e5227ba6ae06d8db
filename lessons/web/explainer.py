r"""The explainer: a page on which a small flow makes a sample, with every number on screen.

.. math:: x_i = \mu_i(x_{<i}) + e^{\alpha_i(x_{<i})}\, u_i, \qquad
          \frac{\partial x_i}{\partial u_j} = e^{\alpha_i} [i = j] + \sum_{k < i}
          \Big( \frac{\partial \mu_i}{\partial x_k} + u_i e^{\alpha_i}
          \frac{\partial \alpha_i}{\partial x_k} \Big) \frac{\partial x_k}{\partial u_j}

Here a flow of three features is trained, and written as JSON; ``static/explainer.js`` does the
arithmetic and the drawing. The tests compare its numbers with the package's.
"""

from __future__ import annotations

import json

import numpy as np

import afnp
from afnp import minimal

__all__ = ["data", "flow", "model", "page"]

HIDDEN = 8


def data(n: int = 4000, seed: int = 0) -> np.ndarray:
    """Return rows (n, 3): a bent ridge that breathes, and a third feature that leans on both."""
    u = np.random.default_rng(seed).standard_normal((n, 3))
    x1 = u[:, 0]
    x2 = 0.6 * x1**2 - 0.6 + np.exp(0.4 * x1) * 0.6 * u[:, 1]
    x3 = np.sin(1.5 * x1) + 0.5 * x2 + 0.4 * u[:, 2]
    return np.stack([x1, x2, x3], axis=1)


def flow() -> afnp.Flow:
    """Return the trained flow: one masked network, one hidden layer."""
    made = afnp.made(3, hidden=(HIDDEN,), activation="tanh", seed=1)
    afnp.fit(made, data(), epochs=60, batch_size=200, learning_rate=0.02, progress=False)
    return made


def model(theta: np.ndarray) -> dict:
    """Return what the page must know of a flow with these parameters: numbers and lists."""
    made = minimal.MADE(3, (HIDDEN,), np.random.default_rng(0))
    start = 0
    for p in minimal.parameters([made]):
        p[:] = theta[start : start + p.size].reshape(p.shape)
        start += p.size
    return {
        "bound": minimal.BOUND,
        "degrees": made.degrees[1].tolist(),
        "masks": [M.astype(int).tolist() for M in made.masks],
        "W": [(M * W).tolist() for M, W in zip(made.masks, made.W, strict=True)],
        "b": [b.tolist() for b in made.b],
    }


def page() -> str:
    """Return the page, in Markdown with one raw block, for a flow that is trained now."""
    return PAGE.replace("MODEL", json.dumps(model(flow().theta)))


PAGE = """# How a masked flow makes a sample

Noise $u$ goes in, data $x$ comes out, one feature after the other. Each number that lights up needs
only numbers that are lit already, and no unit is ever computed twice: that is *substitution*. Drag
the noise, or go step by step.

```{raw} html
<div id="explainer"></div>
<script type="application/json" id="explainer-model">MODEL</script>
<script src="_static/explainer.js" defer></script>
```

This is one layer of a masked autoregressive flow, with three features and one hidden layer of eight
units; a full flow stacks several, each reading the features in the opposite order. The circles of
the hidden layer carry their *degree*: a unit of degree $m$ depends on $x_1 \\dots x_m$, and the
outputs for feature $i$ on units of degree less than $i$, so no path leads from a feature to itself.
Textbooks run the whole network once for each feature; the counter says what that costs.
[Lesson 4](lessons/04_masks.ipynb) builds the masks,
[lesson 3](lessons/03_the_triangular_jacobian.ipynb) the Jacobian,
[lesson 7](lessons/07_sampling.ipynb) the sampler, and `afnp/minimal.py` has all of it on one page
of code.
"""
