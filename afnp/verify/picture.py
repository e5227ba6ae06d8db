r"""The picture of a report.

Who depends on whom, what a round trip loses, and whether the samples lie uniformly.

.. math:: \sqrt{\overline{J_{ij}^2}}, \qquad \max_n |g(f(x))_{ni} - x_{ni}|, \qquad
          F_i \sim \mathrm{Uniform}(0, 1)

Letters: D features, R samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from afnp.verify.results import FAILED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from afnp.verify.report import Report

__all__ = ["draw"]

BLUE, RED, GREY = "#0072b2", "#d55e00", "#777777"
MARKED = 40
"""Up to so many features, forbidden entries are marked one by one."""

MOST = 6
"""So many panels fit beside each other."""

VISIBLE = 0.02
"""A difference of less than this part of the picture is not seen in it."""

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

    panels = [*_faults(report), *_usual(report)]
    if not panels:
        raise ValueError(
            "no picture: expected a report in which log_det, round_trip or agreement ran"
        )
    panels = panels[:MOST]
    figure = Figure(figsize=(4.4 * len(panels), 3.9), layout="constrained")
    for ax, (panel, evidence) in zip(
        np.ravel(figure.subplots(1, len(panels))), panels, strict=True
    ):
        panel(ax, evidence)
        ax.spines[["top", "right"]].set_visible(False)
    figure.suptitle(report.subject, fontsize=10)
    return figure


def _faults(report: Report) -> list[tuple[Callable, dict]]:
    """Return the claims that failed, and what else failed checks left behind."""
    found: list[tuple[Callable, dict]] = []
    for result in report.results:
        for name, value in result.evidence.items() if result.status == FAILED else ():
            if isinstance(value, dict):
                found.append((_claim, {"name": name, **value}))
            elif name in FAULTS:
                found.append((FAULTS[name], result.evidence))
    return found


def _usual(report: Report) -> list[tuple[Callable, dict]]:
    """Return what checks leave behind whether they fail or not."""
    evidence = {name: result.evidence for result in report.results for name in result.evidence}
    return [(panel, evidence[name]) for name, panel in PANELS.items() if name in evidence]


def _claim(ax: Axes, evidence: dict) -> None:
    """Draw what is claimed against what is so: on the diagonal if it is right.

    Differences that nobody would see there are drawn themselves.
    """
    true, claimed = np.asarray(evidence["true"]), np.asarray(evidence["claimed"])
    seen = np.isfinite(true) & np.isfinite(claimed)
    true, claimed = true[seen], claimed[seen]
    ends = [min(true.min(), claimed.min()), max(true.max(), claimed.max())] if len(true) else [0, 1]
    small = len(true) and np.abs(claimed - true).max() < VISIBLE * (ends[1] - ends[0])
    if small:
        ax.axhline(0, color=GREY, linewidth=1)
        ax.plot(true, claimed - true, "o", color=RED, markersize=4)
        ax.set(title=f"{evidence['name']}: right on the line", ylabel="is, less what it should be")
    else:
        ax.plot(ends, ends, color=GREY, linewidth=1)
        ax.plot(true, claimed, "o", color=RED, markersize=4)
        ax.set(title=f"{evidence['name']}: right on the line", ylabel="is")
    ax.set_xlabel("should be")


def _dependencies(ax: Axes, evidence: dict) -> None:
    """Draw who may depend on whom, and mark the pairs that are wrong."""
    may = np.asarray(evidence["may"])
    wrong = np.argwhere(evidence["dependencies"])
    ax.imshow(may, cmap="Greys", vmin=0, vmax=3)
    ax.plot(wrong[:, 1], wrong[:, 0], "s", color=RED, markerfacecolor="none", markersize=9)
    _count_in_whole_numbers(ax)
    what = "dependency" if len(wrong) == 1 else "dependencies"
    ax.set(
        title=f"{len(wrong)} wrong {what} of {evidence['of']}",
        xlabel="context, then x",
        ylabel=evidence["of"],
    )


def _count_in_whole_numbers(ax: Axes) -> None:
    """Mark features by their numbers."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))


def _noise(ax: Axes, evidence: dict) -> None:
    """Draw the noise behind samples beside a standard normal."""
    u = np.asarray(evidence["noise"]).ravel()
    ax.hist(np.clip(u, -5, 5), bins=60, density=True, color=BLUE, alpha=0.5)
    if evidence["normal"]:
        t = np.linspace(-5, 5, 201)
        ax.plot(t, np.exp(-t * t / 2) / np.sqrt(2 * np.pi), color=GREY, linewidth=1)
    ax.set(title="noise behind the samples", xlabel=evidence["of"], ylabel="density")


def _integral(ax: Axes, evidence: dict) -> None:
    """Draw the total probability beside 1."""
    integral = evidence["integral"]
    ax.bar(["should be", "is"], [1.0, min(integral, np.finfo(float).max)], color=[GREY, RED])
    ax.set(title=f"the density integrates to {integral:.4g}", ylabel="total probability")


def _jacobian(ax: Axes, evidence: dict) -> None:
    """Draw log10 |du_i/dx_j|; crosses stand where nothing may be."""
    J = np.asarray(evidence["jacobian"])
    allowed = evidence.get("allowed")
    with np.errstate(divide="ignore"):
        size = np.where(J > 0, np.log10(J), np.nan)
    image = ax.imshow(size, cmap="cividis")
    ax.figure.colorbar(image, ax=ax, shrink=0.8)
    if allowed is not None and len(J) <= MARKED:
        rows, columns = np.nonzero(~allowed)
        ax.plot(columns, rows, "x", color=GREY, markersize=4)
    wrong = np.argwhere((J != 0) & ~allowed) if allowed is not None else np.empty((0, 2))
    ax.plot(wrong[:, 1], wrong[:, 0], "s", color=RED, markerfacecolor="none", markersize=9)
    _count_in_whole_numbers(ax)
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
    ax.set_xticks(np.arange(len(error))[:: 1 + len(error) // 10])
    ax.set_yscale("log")
    ax.set(
        title="largest error of a round trip",
        xlabel="feature",
        ylim=(floor, max(1e-10, 10 * error.max())),
    )


def _pit(ax: Axes, evidence: dict) -> None:
    """Draw a histogram for every feature, in its lane, around the line of samples that agree."""
    F, feature = evidence["pit"], evidence["feature"]
    lanes = np.unique(feature)[:LANES].tolist()
    for lane, i in enumerate(lanes):
        bins = int(np.clip((feature == i).sum() // 25, 4, 20))
        counts, edges = np.histogram(F[feature == i], bins=bins, range=(0, 1), density=True)
        ax.stairs(lane + HEIGHT * counts, edges, baseline=lane, fill=True, color=BLUE, alpha=0.5)
        ax.plot([0, 1], [lane + HEIGHT] * 2, color=GREY, linewidth=1)
    ax.set_yticks(np.arange(len(lanes)) + HEIGHT / 2, [str(i) for i in lanes])
    ax.set(title="samples in their density", xlabel="F, uniform up to the lines", ylabel="feature")


PANELS = {"jacobian": _jacobian, "round_trip": _round_trip, "pit": _pit}
"""What checks leave behind whether they pass or not."""

FAULTS = {"dependencies": _dependencies, "noise": _noise, "integral": _integral}
"""What they leave behind when they fail."""
