r"""Pictures of a flow beside its data: corner plots, losses, probability integral transforms.

.. math:: F(u_i) = \Phi(u_i) \sim \mathrm{Uniform}(0, 1) \quad \text{for each } i,
          \text{ if } p_\theta \text{ is the density of the data}

Matplotlib is imported here alone, and only when something is drawn. Every function returns a
``matplotlib.figure.Figure``; ``figure.savefig("corner.png")`` writes it.

Letters: N rows, D features.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from afnp.bases import StandardNormal
from afnp.flow import Flow
from afnp.inputs import check_rows, frame_names, frame_of, integer
from afnp.train import History
from afnp.univariate.normal import normal_tail

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["corner", "losses", "pit"]

DATA, MODEL = "#767676", "#0072B2"
"""Grey for the data, blue for the flow: told apart by the colour-blind, and in print."""
FURTHEST = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", "-."), ("#CC79A7", ":"))
"""Colours and lines of the features that are furthest from what they should be."""
MOST = 8
"""So many features are shown, unless some are asked for by name."""
LEVELS = (0.393, 0.865)
"""What contours enclose: one and two standard deviations of a Gaussian in two dimensions."""


def corner(
    flow: Flow,
    data=None,
    n: int = 10_000,
    rng=0,
    context=None,
    features: Sequence[int | str] | None = None,
) -> Figure:
    r"""Draw every pair of features: contours of the flow's samples over the points of the data.

    On the diagonal stand the histograms of single features, in units of probability per unit of x.
    Contours enclose 39 % and 86 % of the samples, one and two standard deviations of a Gaussian.

    Parameters
    ----------
    flow : Flow
    data : (N, D) array or DataFrame, optional
        What to compare with.
    n : int
        How many rows to sample.
    rng : seed or Generator
    context : (n, C) or (1, C) array, optional
        For a conditional flow, as in ``flow.sample``.
    features : sequence of int or str, optional
        Which to show, by number or name; the first eight if left out.

    Raises
    ------
    ValueError
        If an argument makes no sense; it names argument, expectation and value.

    Examples
    --------
    >>> import afnp
    >>> flow = afnp.maf(3, hidden=(8,), transforms=1)
    >>> len(corner(flow, n=500).axes)
    6
    """
    from matplotlib.figure import Figure

    n = integer("n", n, least=10)
    names = flow.columns or _names_of(data, flow.features)
    shown = _chosen(features, names)
    x = flow.sample(n, rng, context)[:, shown].astype(np.float64)
    rows = None
    if data is not None:
        rows = check_rows(data, flow.features, np.float64, "data", flow.columns)[:, shown]
        if not len(rows):
            raise ValueError("data: expected at least one row, got none")
    K = len(shown)
    figure = Figure(figsize=(1.2 + 1.9 * K, 1.0 + 1.9 * K), layout="constrained")
    grid = figure.add_gridspec(K, K)
    ends = [_ends(x[:, i], None if rows is None else rows[:, i]) for i in range(K)]
    for i in range(K):
        for j in range(i + 1):
            axes: Any = figure.add_subplot(grid[i, j])
            if i == j:
                _histogram(axes, x[:, i], None if rows is None else rows[:, i], ends[i])
            else:
                _pair(axes, x[:, [j, i]], None if rows is None else rows[:, [j, i]])
                axes.set_ylim(*ends[i])
            axes.set_xlim(*ends[j])
            axes.set_xlabel(names[shown[j]] if i == K - 1 else "")
            axes.set_ylabel(names[shown[i]] if j == 0 < i else "")
            axes.tick_params(labelbottom=i == K - 1, labelleft=j == 0 < i, left=j < i, labelsize=8)
            axes.spines[["top", "right"]].set_visible(False)
    said = f"{n:,} samples of the flow (blue)"
    if rows is not None:
        said += f" over {len(rows):,} rows of data (grey)"
    figure.suptitle(said, fontsize=10, color="#222222")
    return figure


def losses(history: History) -> Figure:
    """Draw the losses of a training run, epoch by epoch, in nats, and the epoch that was kept.

    Raises
    ------
    ValueError
        If no epoch was finished.

    Examples
    --------
    >>> history = History(train_loss=[3.0, 2.5], val_loss=[3.1, 2.9], best_epoch=1)
    >>> losses(history).axes[0].get_xlabel()
    'epoch'
    """
    from matplotlib.figure import Figure

    if not history.train_loss:
        raise ValueError("history: expected at least one epoch, got none")
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes: Any = figure.add_subplot()
    epochs = np.arange(1, len(history.train_loss) + 1)
    dot = {"marker": "."} if len(epochs) < 40 else {}
    axes.plot(epochs, history.train_loss, color=DATA, label="training", ls="--", **dot)
    if history.val_loss:
        axes.plot(epochs, history.val_loss, color=MODEL, label="validation", **dot)
    if history.best_epoch is not None:
        best = history.val_loss[history.best_epoch]
        axes.plot(history.best_epoch + 1, best, "o", color=MODEL, mfc="white")
        axes.annotate(
            f"kept: epoch {history.best_epoch + 1}, {best:.3f} nats",
            (history.best_epoch + 1, best),
            xytext=(-6, 12),
            textcoords="offset points",
            ha="right",
            fontsize=9,
            color=MODEL,
        )
    low, high = _middle(np.array([*history.train_loss, *history.val_loss]))
    axes.set_ylim(low, high)
    axes.set_xlabel("epoch")
    axes.set_ylabel("mean -log p (nats)")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def pit(flow: Flow, x, context=None) -> Figure:
    r"""Draw each feature's probability integral transform: flat at 0 if the density is right.

    .. math:: \hat F_i(q) - q, \qquad \hat F_i(q) = \frac1N \#\{n : \Phi(u_{ni}) \le q\}

    u is the noise of the rows x. The grey band holds a right flow's curve with probability 99 %
    (Kolmogorov's distribution of the largest distance), each feature by itself.

    Raises
    ------
    ValueError
        If the flow's noise is not standard normal, or there is no row.

    Examples
    --------
    >>> import afnp
    >>> flow = afnp.maf(2, hidden=(8,), transforms=1)
    >>> len(pit(flow, flow.sample(100)).axes[0].lines)
    3
    """
    from matplotlib.figure import Figure

    if not isinstance(flow.base, StandardNormal):
        raise ValueError(f"flow: expected standard normal noise, got {type(flow.base).__name__}")
    u = flow.normalize(x, context)[0].astype(np.float64)
    if not len(u):
        raise ValueError("x: expected at least one row, got none")
    below = np.exp(normal_tail(np.abs(u))[0])
    F = np.sort(np.where(u > 0, 1 - below, below), axis=0)
    q = (np.arange(len(F)) + 0.5) / len(F)
    names = flow.columns or _names_of(x, flow.features)
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes: Any = figure.add_subplot()
    band = 1.63 / math.sqrt(len(F))
    axes.axhspan(-band, band, color="#DDDDDD", lw=0)
    axes.axhline(0, color=DATA, lw=0.8)
    ranked = np.argsort(-np.abs(q[:, None] - F).max(axis=0))
    for i in ranked[len(FURTHEST) :]:
        axes.plot(F[:, i], q - F[:, i], color=DATA, lw=0.5)
    for i, (color, line) in zip(ranked, FURTHEST, strict=False):
        axes.plot(F[:, i], q - F[:, i], color=color, ls=line, lw=1.6, label=names[i])
    axes.set_xlim(0, 1)
    axes.set_xlabel("q")
    axes.set_ylabel("share of rows with Φ(u) ≤ q, minus q")
    axes.legend(frameon=False, fontsize=8, title="furthest from 0", title_fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


# ---- parts ---------------------------------------------------------------------------------------


def _names_of(data, features: int) -> tuple[str, ...]:
    """Return the names of a table's columns, or x0, x1, ..."""
    frame = frame_of(data)
    if frame is not None and frame.shape[1] == features:
        return frame_names(frame)
    return tuple(f"x{i}" for i in range(features))


def _chosen(features: Sequence[int | str] | None, names: Sequence[str]) -> list[int]:
    """Return the numbers of the features that were asked for."""
    if features is None:
        return list(range(min(MOST, len(names))))
    if isinstance(features, (str, int)) or not len(features):
        raise ValueError(f"features: expected numbers or names in a list, got {features!r}")
    known = {name: i for i, name in enumerate(names)}
    found = []
    for feature in features:
        if isinstance(feature, str) and feature in known:
            found.append(known[feature])
        elif not isinstance(feature, str) and 0 <= integer("features", feature, least=0) < len(
            names
        ):
            found.append(int(feature))
        else:
            raise ValueError(
                f"features: expected numbers below {len(names)}, or names among "
                f"{', '.join(map(repr, names[:12]))}, got {feature!r}"
            )
    return found


def _ends(x: np.ndarray, rows: np.ndarray | None) -> tuple[float, float]:
    """Return where an axis begins and ends: where all but one in two hundred lie, and a margin."""
    parts = [x] if rows is None else [x, rows]
    low = min(np.quantile(part, 0.005) for part in parts)
    high = max(np.quantile(part, 0.995) for part in parts)
    margin = 0.05 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


def _middle(values: np.ndarray) -> tuple[float, float]:
    """Return the ends of an axis of losses: a first epoch far above all others is cut off."""
    finite = values[np.isfinite(values)]
    low, high = float(finite.min()), float(np.quantile(finite, 0.97))
    margin = 0.08 * (high - low) or 0.5
    return low - margin, high + margin


def _histogram(axes, x: np.ndarray, rows: np.ndarray | None, ends: tuple[float, float]) -> None:
    edges = np.linspace(*ends, 41)
    if rows is not None:
        axes.hist(rows, edges, density=True, color="#CCCCCC")
    axes.hist(x, edges, density=True, histtype="step", color=MODEL, lw=1.5)
    axes.set_yticks([])


def _pair(axes, x: np.ndarray, rows: np.ndarray | None) -> None:
    if rows is not None:
        some = np.linspace(0, len(rows) - 1, min(len(rows), 3000)).astype(int)
        few = min(1, 300 / len(some))  # few points are drawn larger and darker
        marks = {"ms": 2 + 3 * few, "alpha": 0.4 + 0.3 * few, "mew": 0}
        axes.plot(*rows[some].T, ".", color=DATA, rasterized=True, **marks)
    ends = [_ends(x[:, k], None) for k in (0, 1)]
    bins = int(np.clip(math.sqrt(len(x)) / 4, 8, 40))
    counts, *edges = np.histogram2d(x[:, 0], x[:, 1], bins, ends)
    counts = _smoothed(counts)
    ranked = np.sort(counts.ravel())[::-1]
    held = np.cumsum(ranked) / len(x)
    levels = sorted(
        {float(ranked[np.searchsorted(held, level)]) for level in LEVELS if level < held[-1]}
    )
    middles = [(edge[1:] + edge[:-1]) / 2 for edge in edges]
    if levels and levels[-1] < counts.max():
        axes.contour(
            *middles, counts.T, levels, colors=MODEL, linewidths=(1.0, 1.6)[-len(levels) :]
        )


def _smoothed(counts: np.ndarray) -> np.ndarray:
    """Return counts averaged with their neighbours, with weights 1/4, 1/2, 1/4 along both axes."""
    for axis in (0, 1):
        padded = np.pad(counts, [(1, 1) if k == axis else (0, 0) for k in (0, 1)])
        left, middle, right = (
            np.take(padded, np.arange(counts.shape[axis]) + shift, axis=axis) for shift in (0, 1, 2)
        )
        counts = (left + 2 * middle + right) / 4
    return counts
