r"""The picture of a report.

Who hears whom, what a round trip loses, and whether the samples lie uniformly.

.. math:: \sqrt{\overline{J_{ij}^2}}, \qquad \max_n |g(f(x))_{ni} - x_{ni}|, \qquad F_i \sim \mathrm{Uniform}(0, 1)

Letters: D features, R samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from afnp.verify.report import Report

__all__ = ["draw"]

BLUE, RED, GREY = "#0072b2", "#d55e00", "#777777"
MARKED = 40
"""Up to so many features, forbidden entries are marked one by one."""

LANES, HEIGHT = 8, 0.5
"""At most so many histograms; how high density 1 is drawn, where lanes are 1 apart."""


def draw(report: Report) -> Figure:
    """Return a figure with a panel for every picture that the checks of a report left behind.

    Raises
    ------
    ValueError
        If there is none: ``log_det``, ``round_trip`` and ``agreement`` have one.
    """
    from matplotlib.figure import Figure

    evidence: dict[str, Any] = {
        k: v for result in report.results for k, v in result.evidence.items()
    }
    panels: list[tuple[str, Callable]] = [
        ("jacobian", _jacobian),
        ("round_trip", _round_trip),
        ("pit", _pit),
    ]
    there = [panel for name, panel in panels if name in evidence]
    if not there:
        raise ValueError(
            "no picture: expected a report in which log_det, round_trip or agreement ran"
        )
    figure = Figure(figsize=(4.4 * len(there), 3.9), layout="constrained")
    for ax, panel in zip(np.ravel(figure.subplots(1, len(there))), there, strict=True):
        panel(ax, evidence)
        ax.spines[["top", "right"]].set_visible(False)
    figure.suptitle(report.subject, fontsize=10)
    return figure


def _jacobian(ax: Axes, evidence: dict) -> None:
    """Draw log10 |du_i/dx_j|; crosses stand where nothing may be."""
    J, allowed = np.asarray(evidence["jacobian"]), evidence.get("allowed")
    with np.errstate(divide="ignore"):
        size = np.where(J > 0, np.log10(J), np.nan)
    image = ax.imshow(size, cmap="cividis")
    ax.figure.colorbar(image, ax=ax, shrink=0.8)
    if allowed is not None and len(J) <= MARKED:
        rows, columns = np.nonzero(~allowed)
        ax.plot(columns, rows, "x", color=GREY, markersize=4)
    wrong = np.argwhere((J != 0) & ~allowed) if allowed is not None else np.empty((0, 2))
    ax.plot(wrong[:, 1], wrong[:, 0], "s", color=RED, markerfacecolor="none", markersize=9)
    ax.set(
        title="log₁₀ |∂u/∂x|" + (f", {len(wrong)} forbidden" if len(wrong) else ""),
        xlabel="x",
        ylabel="u",
    )


def _round_trip(ax: Axes, evidence: dict) -> None:
    """Draw the largest error of a round trip, a bar a feature.

    Exact zeros are drawn at the bottom.
    """
    error = np.asarray(evidence["round_trip"])
    floor = 1e-17
    ax.bar(np.arange(len(error)), np.maximum(error, floor), color=BLUE, bottom=0)
    ax.set_yscale("log")
    ax.set(
        title="largest error of a round trip",
        xlabel="feature",
        ylim=(floor, max(1e-10, 10 * error.max())),
    )


def _pit(ax: Axes, evidence: dict) -> None:
    """Draw a histogram for every feature, in a lane of its own, around the line where it lies if samples agree."""
    F, feature = evidence["pit"], evidence["feature"]
    lanes = np.unique(feature)[:LANES].tolist()
    for lane, i in enumerate(lanes):
        bins = int(np.clip((feature == i).sum() // 25, 4, 20))
        counts, edges = np.histogram(F[feature == i], bins=bins, range=(0, 1), density=True)
        ax.stairs(lane + HEIGHT * counts, edges, baseline=lane, fill=True, color=BLUE, alpha=0.5)
        ax.plot([0, 1], [lane + HEIGHT] * 2, color=GREY, linewidth=1)
    ax.set_yticks(np.arange(len(lanes)) + HEIGHT / 2, [str(i) for i in lanes])
    ax.set(title="samples in their density", xlabel="F, uniform up to the lines", ylabel="feature")
