r"""A general log-determinant costs about D³ operations a sample, a triangular one only D.

.. math:: \log|\det J| = \sum_i \log |U_{ii}|, \quad J = PLU \qquad \text{against} \qquad
          \log|\det J| = \sum_i \log J_{ii}

``numpy.linalg.slogdet`` factors each sample's matrix (2 D³ / 3 operations). Where the Jacobian is
triangular its diagonal is all that is needed, and the rest need not even be computed. Both are
timed per sample, in float64.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from figures.common import COLORS, caption, machine, median_seconds, note, one_thread, slope

BATCH = 100
"""Rows for the triangular case. The general one takes a single matrix a call."""


def data(quick: bool = False) -> dict:
    """Time both over D."""
    D = 2 ** np.arange(4, 10 if quick else 13)
    with one_thread():
        times = [measure(int(d), quick) for d in D]
        computer = machine()
    general, triangular = (
        np.array([1e6 * t[name]["minimum"] for t in times]) for name in ("general", "triangular")
    )
    end = slice(-3, None)
    numbers = {
        "D": D.tolist(),
        "general_us": general.round(4),
        "triangular_us": triangular.round(4),
        "general_median_us": [round(1e6 * t["general"]["median"], 4) for t in times],
        "triangular_median_us": [round(1e6 * t["triangular"]["median"], 4) for t in times],
        "slope_general": slope(D[end], general[end]),
        "slope_triangular": slope(D[end], triangular[end]),
        "slopes_from_D": int(D[end][0]),
        "largest_ratio": general[-1] / triangular[-1],
        "largest_difference": max(difference(int(d)) for d in D[:6]),
        "batch_triangular": BATCH,
    }
    return {
        "numbers": numbers,
        "D": D,
        "general": general,
        "triangular": triangular,
        "machine": computer,
    }


def measure(D: int, quick: bool) -> dict:
    """Return seconds a sample: of a matrix, and of the diagonals (BATCH, D) of triangular ones."""
    rng = np.random.default_rng(D)
    J = rng.standard_normal((D, D))
    diagonals = rng.uniform(0.5, 2, (BATCH, D))
    rivals = {
        "general": lambda: np.linalg.slogdet(J),
        "triangular": lambda: np.log(diagonals).sum(axis=1),
    }
    times = median_seconds(rivals, 3 if quick or D > 1500 else 20)
    return {**times, "triangular": {name: t / BATCH for name, t in times["triangular"].items()}}


def difference(D: int) -> float:
    """Return how far the two disagree, in nats a dimension, on one triangular matrix."""
    rng = np.random.default_rng(D)
    J = np.tril(rng.standard_normal((D, D)) / D, -1) + np.diag(rng.uniform(0.5, 2, D))
    return float(abs(np.linalg.slogdet(J)[1] - np.log(J.diagonal()).sum()) / D)


def draw(data: dict) -> Figure:
    """Draw both costs on logarithmic axes, each with its fitted slope."""
    figure = Figure(figsize=(8.6, 5.2))
    caption(figure, __doc__.split("\n")[0])
    axes = figure.subplots()
    numbers = data["numbers"]
    D = data["D"]
    for name, label, color, marker, below in (
        ("general", "any matrix: slogdet", COLORS["red"], "s", False),
        ("triangular", "triangular: Σ log diagonal", COLORS["blue"], "o", True),
    ):
        y = data[name]
        power = numbers[f"slope_{name}"]
        axes.loglog(D, y, color=color, marker=marker, linestyle="-")
        middle = len(D) // 2
        axes.annotate(
            f"{label}\nslope {power:.2f} from D = {numbers['slopes_from_D']}",
            (D[middle], y[middle]),
            xytext=(14, -14) if below else (-14, 14),
            textcoords="offset points",
            ha="left" if below else "right",
            va="top" if below else "bottom",
            color=color,
        )
    ratio = numbers["largest_ratio"]
    axes.annotate("", (D[-1], data["triangular"][-1]), (D[-1], data["general"][-1]), arrowprops=GAP)
    axes.text(
        D[-1] * 0.87,
        np.sqrt(data["triangular"][-1] * data["general"][-1]),
        f"× {float(f'{ratio:.1g}'):,.0f}",
        ha="right",
        va="center",
        fontweight="bold",
    )
    cpu = data["machine"]
    calls = (
        f"Triangular: {BATCH} samples a call; general: one matrix a call. Fastest of 3 to 20 "
        "calls, float64."
    )
    note(figure, f"{calls}\n{cpu['cpu']}; {cpu['blas']}")
    axes.set(
        xlabel="features D",
        ylabel="time for one sample (µs)",
    )
    axes.set_xscale("log", base=2)
    axes.set_xticks(D, [f"{d:,}" for d in D])
    axes.minorticks_off()
    axes.set_ylim(bottom=min(data["triangular"]) / 12)  # the label below the curve stands clear
    return figure


GAP = {"arrowstyle": "<->", "color": COLORS["ink"], "shrinkA": 6, "shrinkB": 6}
