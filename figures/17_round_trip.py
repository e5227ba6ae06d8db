r"""A round trip loses epsilon times the conditioning, which grows with depth far more than with D.

.. math:: \hat u = f(f^{-1}(u)), \qquad
          |\hat u - u| \approx \epsilon \cdot |J_f(x)\, (x \odot r)|, \qquad
          r_j = \pm 1, \quad x = f^{-1}(u)

MAFs with random parameters of gain 1, as the checks use them, sample x from noise u and score it
again. Each feature of x is rounded by about epsilon of its size, and the Jacobian of the way back
says what becomes of that: the directional derivative along x ⊙ r, one complex step for a random
choice of signs r. It predicts the error of both precisions, of affine and of spline flows, over
many powers of ten.

Networks of tanh units have bounded outputs, so the conditioning stays small. With ReLU units a
large x makes large log-scales, which make x larger: the grey line. Where the conditioning reaches 1
/ epsilon, nothing comes back. The prediction leaves out what is rounded inside the networks, so it
is one of magnitude.

Letters: T transforms, D features, N rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

import afnp
from afnp.verify import Subject, randomize
from figures.common import COLORS, caption, note

MAKE = {"affine": afnp.maf, "spline": afnp.nsf}
DTYPES = (np.float32, np.float64)
DEPTHS, WIDTHS = (1, 2, 3, 5, 10, 15, 20), (2, 4, 8, 16, 32, 64, 128, 256)
TYPICAL_DEPTH, TYPICAL_WIDTH = 5, 32


class Trip(NamedTuple):
    """One flow, N rows there and back."""

    kind: str
    activation: str
    dtype: str
    T: int
    D: int
    median: float
    """Of the rows' largest errors of u."""
    largest: float
    predicted: float
    """Median over the rows, of epsilon times the conditioning."""


def data(quick: bool = False) -> dict:
    """Make round trips over depth at one D, over D at one depth, and over depth with ReLU."""
    depths, widths = (DEPTHS[:4], WIDTHS[:5]) if quick else (DEPTHS, WIDTHS)
    N = 50 if quick else 300
    sizes = dict.fromkeys(
        [*((T, TYPICAL_WIDTH) for T in depths), *((TYPICAL_DEPTH, D) for D in widths)]
    )
    trips = [
        trip(kind, "tanh", dtype, *size, N) for kind in MAKE for size in sizes for dtype in DTYPES
    ]
    trips += [trip("affine", "relu", np.float64, T, TYPICAL_WIDTH, N) for T in depths]
    over_D = [one for one in trips if one.T == TYPICAL_DEPTH and one.activation == "tanh"]
    ratios = [one.median / one.predicted for one in trips if one.predicted < 1]
    numbers = {
        "rows": N,
        "depths": depths,
        "widths": widths,
        "trips": [one._asdict() for one in trips],
        "largest_error_at_5_layers": {
            f"{kind}, {np.dtype(dtype).name}": max(
                one.largest
                for one in over_D
                if (one.kind, one.dtype) == (kind, np.dtype(dtype).name)
            )
            for kind in MAKE
            for dtype in DTYPES
        },
        "spread_of_median_over_D": {kind: spread(over_D, kind, "float64") for kind in MAKE},
        "growth_with_depth": {kind: growth(trips, kind, "float64") for kind in MAKE},
        "error_over_prediction": [min(ratios), max(ratios)],
        "median_of_error_over_prediction": float(np.median(ratios)),
    }
    return {"numbers": numbers, "trips": trips}


def trip(kind: str, activation: str, dtype, T: int, D: int, N: int) -> Trip:
    """Send N rows of noise through a flow and back; compare with what conditioning predicts."""
    flow = build(kind, activation, dtype, T, D)
    u = np.random.default_rng([1, D]).standard_normal((N, D)).astype(dtype)
    x, _ = flow.generate(u)
    error = np.abs(flow.normalize(x)[0].astype(np.float64) - u).max(axis=1)
    predicted = np.finfo(dtype).eps * conditioning(build(kind, activation, np.float64, T, D), u, N)
    return Trip(
        kind,
        activation,
        np.dtype(dtype).name,
        T,
        D,
        float(np.median(error)),
        float(error.max()),
        float(np.median(predicted)),
    )


def build(kind: str, activation: str, dtype, T: int, D: int) -> afnp.Flow:
    """Return a flow with random parameters, the same in either precision but for rounding."""
    hidden = (max(64, D),) * 2
    flow = MAKE[kind](D, hidden=hidden, transforms=T, activation=activation, dtype=dtype)
    return randomize(flow, seed=T, gain=1.0)


def conditioning(flow: afnp.Flow, u: np.ndarray, N: int) -> np.ndarray:
    r"""Return the largest entry of :math:`|J_f(x)(x \odot r)|` for each row, (N,)."""
    x, _ = flow.generate(u)
    signs = np.random.default_rng(2).choice([-1.0, 1.0], x.shape)
    moved, _ = Subject.of_flow(flow).analytic(x + 1e-30j * x * signs, np.empty((N, 0)))
    return np.abs(moved.imag / 1e-30).max(axis=1)


def spread(trips: list[Trip], kind: str, dtype: str) -> float:
    """Return the largest median over the smallest."""
    medians = [one.median for one in trips if (one.kind, one.dtype) == (kind, dtype)]
    return max(medians) / min(medians)


def growth(trips: list[Trip], kind: str, dtype: str) -> float:
    """Return the deepest flow's median over the shallowest's."""
    of = [
        t
        for t in trips
        if (t.kind, t.activation, t.dtype, t.D) == (kind, "tanh", dtype, TYPICAL_WIDTH)
    ]
    return max(of, key=lambda t: t.T).median / min(of, key=lambda t: t.T).median


def draw(data: dict) -> Figure:
    """Draw errors over depth and over D, then all of them over what was predicted."""
    figure = Figure(figsize=(13.8, 5.6))
    numbers = data["numbers"]
    trips = data["trips"]
    caption(figure, __doc__.split("\n")[0])
    depth, width, both = figure.subplots(1, 3, width_ratios=(1.15, 1.15, 1))
    draw_lines(depth, [one for one in trips if one.D == TYPICAL_WIDTH], "T")
    draw_lines(
        width, [one for one in trips if one.T == TYPICAL_DEPTH and one.activation == "tanh"], "D"
    )
    depth.set(title=f"over depth, D = {TYPICAL_WIDTH}", xlabel="transforms T", ylabel="error of u")
    width.set(title=f"over D, {TYPICAL_DEPTH} transforms", xlabel="features D")
    width.set_xscale("log", base=2)
    width.set_xticks(numbers["widths"], [str(D) for D in numbers["widths"]])
    width.minorticks_off()
    top = max(one.largest for one in trips if one.activation == "tanh")
    for ax in (depth, width):
        ax.set_ylim(1e-16, 30 * max(top, 1))
    depth.set_xticks([T for T in numbers["depths"] if T in (1, 5, 10, 15, 20)])
    depth.text(
        0.38,
        0.46,
        "ReLU units: grey\n(affine, float64)",
        transform=depth.transAxes,
        fontsize=9,
        va="center",
    )
    draw_prediction(both, trips)
    worst = numbers["largest_error_at_5_layers"]
    note(
        figure,
        f"Thick: median over {numbers['rows']} rows of a row's largest error; thin: the worst row; "
        "dashed, open: float32. Hidden layers: two of max(64, D) units, gain 1; last layers over "
        f"√T, and over √(D/8) beyond 8 features.\nWorst row at {TYPICAL_DEPTH} transforms, any D: "
        + "; ".join(f"{value:.0e} ({name})" for name, value in worst.items())
        + f". Right: measured over predicted is {numbers['error_over_prediction'][0]:.2g} to "
        f"{numbers['error_over_prediction'][1]:.2g}, where anything comes back at all.",
    )
    return figure


def draw_lines(axes, trips: list[Trip], over: str) -> None:
    """Draw median and largest error for each kind and precision, named at the right end."""
    looks = {"affine": ("blue", "o"), "spline": ("red", "s")}
    names = dict.fromkeys((one.kind, one.activation, one.dtype) for one in trips)
    for kind, activation, dtype in names:
        of = sorted(
            (t for t in trips if t[:3] == (kind, activation, dtype)), key=lambda t: getattr(t, over)
        )
        at = [getattr(one, over) for one in of]
        color, mark = ("grey", "^") if activation == "relu" else looks[kind]
        style = "--" if dtype == "float32" else "-"
        axes.semilogy(
            at, [one.median for one in of], style, color=COLORS[color], marker=mark, markersize=4
        )
        axes.semilogy(
            at, [one.largest for one in of], style, color=COLORS[color], marker="", linewidth=0.7
        )
        if activation == "tanh":
            axes.annotate(
                f"{kind}, {dtype[5:]} bit",
                (at[-1], of[-1].median),
                xytext=(7, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                color=COLORS[color],
                annotation_clip=False,
            )


def draw_prediction(axes, trips: list[Trip]) -> None:
    """Draw measured over predicted, with the line where they agree."""
    for one in trips:
        color = (
            "grey" if one.activation == "relu" else {"affine": "blue", "spline": "red"}[one.kind]
        )
        mark = {"affine": "o", "spline": "s"}[one.kind] if one.activation == "tanh" else "^"
        face = "white" if one.dtype == "float32" else COLORS[color]
        axes.loglog(
            one.predicted, one.median, mark, color=COLORS[color], markerfacecolor=face, markersize=5
        )
    axes.plot((1e-16, 10), (1e-16, 10), "-", color=COLORS["light"], marker="", zorder=0)
    axes.set(
        xlim=(1e-16, 10),
        ylim=(1e-16, 10),
        xlabel="predicted: ε · conditioning",
        ylabel="median error of u",
    )
    axes.set_title("measured and predicted: one line for all")
