r"""A flow is an exact density, and a sampler of exactly that density.

.. math:: u \sim \mathcal N(0, 1), \quad x = f^{-1}(u), \qquad
          \log p(x) = \log \mathcal N(f(x); 0, 1) + \log\left|\det
          \frac{\partial f}{\partial x}\right|

Noise goes in, samples come out, every point in the colour that it had as noise; beside them the
density of the same flow. That the two belong together is counted: a window is cut into cells, and
the samples in each are compared with the integral of the density over it, by Pearson's chi-square,
which is about Gaussian for so many cells (mean K - 1, variance 2 (K - 1)).
"""

from __future__ import annotations

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

import afnp
from afnp.data import load
from figures.common import COLORS, caption, note, trained, verified

TARGET, HALF = "spiral", 3.7
"""The window is the square [-HALF, HALF]²."""
CELLS, FINE = 37, 8
"""Cells along a side, and points of the quadrature along a cell's."""
EXPECTED = 20
"""Cells with fewer expected samples are counted together, with what lies outside."""
SHOWN = 4000
ROUND = LinearSegmentedColormap.from_list(
    "round", [COLORS[name] for name in ("blue", "green", "yellow", "red", "pink", "blue")]
)
"""By the direction of a point's noise, seen from the middle."""


def data(quick: bool = False) -> dict:
    known = load(TARGET)
    x = known.train[:500] if quick else known.train
    flow = afnp.nsf(2, (64, 64), 3, activation="tanh", preprocess=afnp.preprocessing(x))
    epochs = 2 if quick else 60
    trained(flow, x, known.val, epochs=epochs, batch_size=200, learning_rate=5e-3)
    u = flow.base.sample({}, SHOWN, np.random.default_rng(1), np.float64)
    chi, cells, n = _compared(flow, 20_000 if quick else 400_000)
    excess = known.log_density(known.test) - flow.log_prob(known.test)
    return {
        "numbers": {
            "samples": n,
            "cells": cells,
            "chi_square": chi,
            "chi_square_in_standard_deviations": (chi - cells + 1) / np.sqrt(2 * (cells - 1)),
            "kl_test": excess.mean(),
            "kl_test_standard_error": excess.std(ddof=1) / np.sqrt(len(excess)),
            "parameters": flow.theta.size,
            "verified": verified(flow, quick),
        },
        "noise": u,
        "samples": flow.generate(u)[0],
        "density": np.exp(flow.log_prob(_grid(60 if quick else 300))),
    }


def _compared(flow: afnp.Flow, n: int) -> tuple[float, int, int]:
    """Return Pearson's chi-square of n samples in cells, the number of cells, and n."""
    x = flow.sample(n, rng=2)
    edges = np.linspace(-HALF, HALF, CELLS + 1)
    found = np.histogram2d(x[:, 1], x[:, 0], [edges, edges])[0].ravel()
    points = np.exp(flow.log_prob(_grid(CELLS * FINE))).reshape(CELLS, FINE, CELLS, FINE)
    expected = n * points.mean(axis=(1, 3)).ravel() * (2 * HALF / CELLS) ** 2
    known = expected >= EXPECTED
    found = np.append(found[known], n - found[known].sum())
    expected = np.append(expected[known], n - expected[known].sum())
    return float(((found - expected) ** 2 / expected).sum()), len(found), n


def _grid(M: int) -> np.ndarray:
    """Return the centres (M², 2) of M by M squares, x2 outside."""
    centres = (2 * (np.arange(M) + 0.5) / M - 1) * HALF
    x1, x2 = np.meshgrid(centres, centres)
    return np.stack([x1.ravel(), x2.ravel()], axis=1)


def draw(data: dict) -> Figure:
    figure = Figure(figsize=(10, 4))
    caption(figure, __doc__.split("\n")[0])
    noise, samples, density = figure.subplots(1, 3)
    color = np.arctan2(data["noise"][:, 1], data["noise"][:, 0])
    for ax, points, title in (
        (noise, data["noise"], "noise u"),
        (samples, data["samples"], "becomes samples: flow.sample(n)"),
    ):
        ax.scatter(*points.T, c=color, cmap=ROUND, s=2.5, linewidths=0)
        ax.set_title(title)
    side = round(len(data["density"]) ** 0.5)
    density.imshow(
        data["density"].reshape(side, side), origin="lower", extent=(-HALF, HALF, -HALF, HALF)
    )
    density.set_title("of this density: flow.log_prob(x)")
    for ax in (noise, samples, density):
        ax.set(xlim=(-HALF, HALF), ylim=(-HALF, HALF), xticks=(), yticks=(), aspect="equal")
        ax.spines[:].set_visible(False)
    numbers = data["numbers"]
    note(
        figure,
        f"{numbers['samples']:,} samples in {numbers['cells']:,} cells, against the density's "
        f"integral over each: chi-square {numbers['chi_square']:.0f}, "
        f"{numbers['chi_square_in_standard_deviations']:+.1f} standard deviations.",
    )
    return figure
