r"""Six flows learn five known densities: affine layers fill gaps that splines leave almost empty.

.. math:: \mathrm{KL}(p \,\|\, q) = E_p[\log p(x) - \log q(x)]
          \approx \frac1N \sum_n \big(\log p(x_n) - \log q(x_n)\big) \ge 0

p is a toy density that is known exactly, q a flow that saw a few thousand draws of it, and x_n are
fresh draws that neither training nor its choice of the best epoch saw. The mean log-likelihood of a
flow on them is that of the truth (minus the entropy) less KL(p || q): no flow can be above the
truth, but for the chance of finite N, and the standard error says how large that is. A flow that
beat the truth would not be a density.

The gaps are where the truth is below 1/1000 per unit square: how much of a flow lies there, within
the window, is a sum over the picture's grid.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

import afnp
from afnp.data import Dataset, load
from figures.common import COLORS, QUICK_CHECKS, caption, note, trained, verified

TARGETS = {
    "two_moons": ("two moons", (-1.6, 2.6), (-1.35, 1.85)),
    "checkerboard": ("checkerboard", (-2.4, 2.4), (-2.4, 2.4)),
    "eight_gaussians": ("eight Gaussians", (-2.9, 2.9), (-2.9, 2.9)),
    "rings": ("rings", (-3.6, 3.6), (-3.6, 3.6)),
    "spiral": ("spiral", (-3.6, 3.6), (-3.6, 3.6)),
}
"""By the name of the data set: what the figure calls it, and the window that it shows."""

FLOWS: dict[str, Callable] = {
    "MADE": afnp.made,
    "MAF": partial(afnp.maf, transforms=5),
    "RealNVP": partial(afnp.realnvp, transforms=6),
    "NSF, coupling": partial(afnp.nsf, transforms=4, coupling=True),
    "NSF, autoregressive": partial(afnp.nsf, transforms=3),
    "MAF MoG": partial(afnp.maf_mog, transforms=2),
}
HIDDEN = (64, 64)
RARE = 1e-3
"""In the gaps the true density is below this, per unit square."""
CHECKED_IF_QUICK = "two_moons"
NEW = 1
"""Seed of the draws that KL is estimated on; training and validation rows are of seed 0."""


class Grid(NamedTuple):
    """The places of a picture: M by M centres of pixels."""

    points: np.ndarray
    area: float
    """Of a pixel."""


def data(quick: bool = False) -> dict:
    """Train every flow on every target; measure KL on fresh draws, and the densities on a grid."""
    names = list(TARGETS)[:2] if quick else list(TARGETS)
    found = {name: gallery(name, quick) for name in names}
    kl = {
        name: {flow: one["kl"] for flow, one in of.items() if flow != "truth"}
        for name, of in found.items()
    }
    all_kl = [pair for of in kl.values() for pair in of.values()]
    numbers = {
        "kl_and_standard_error": kl,
        "entropy_and_standard_error": {name: of["truth"]["entropy"] for name, of in found.items()},
        "least_kl_in_standard_errors": min(mean / error for mean, error in all_kl),
        "smallest_kl": min(mean for mean, _ in all_kl),
        "mean_kl": {flow: float(np.mean([of[flow][0] for of in kl.values()])) for flow in FLOWS},
        "mean_mass_in_the_gaps": {
            flow: float(np.mean([of[flow]["in_gaps"] for of in found.values()])) for flow in FLOWS
        },
        "parameters": {flow: build(2, flow).theta.size for flow in FLOWS},
        "train_rows": rows(quick),
        "test_rows": found[names[0]]["truth"]["rows"],
        "training_seconds": sum(
            one.get("seconds", 0.0) for of in found.values() for one in of.values()
        ),
        "checks": list(QUICK_CHECKS),
        "checked_flows": sum(
            one.get("verified", False) for of in found.values() for one in of.values()
        ),
    }
    return {"numbers": numbers, "pictures": found}


def rows(quick: bool) -> int:
    return 1000 if quick else 4000


def gallery(name: str, quick: bool) -> dict[str, dict]:
    """Return the truth and each flow for one target: a picture, and what is said under it."""
    known = load(name)
    new = fresh(name)
    grid = grid_of(name, 60 if quick else 160)
    log_p = known.log_density(new)
    entropy = mean_and_error(-log_p)
    p = density(known.log_density, grid)
    found: dict[str, dict] = {"truth": {"picture": p, "entropy": entropy, "rows": len(new)}}
    for flow_name in FLOWS:
        flow, seconds = fitted(flow_name, known, quick)
        if not quick or name == CHECKED_IF_QUICK:
            verified(flow, quick=True)
        q = density(flow.log_prob, grid)
        found[flow_name] = {
            "picture": q,
            "in_gaps": float(q[p < RARE].sum() * grid.area),
            "kl": mean_and_error(log_p - flow.log_prob(new)),
            "seconds": seconds,
            "verified": name == CHECKED_IF_QUICK or not quick,
        }
    return found


def fresh(name: str) -> np.ndarray:
    """Return draws from the truth that no flow was trained on."""
    return load(name, seed=NEW).train


def fitted(name: str, known: Dataset, quick: bool) -> tuple[afnp.Flow, float]:
    """Train one flow on the first rows of a target; return it and the seconds that this took."""
    x = known.train[: rows(quick)]
    flow = build(2, name, preprocess=afnp.preprocessing(x))
    epochs = 3 if quick else 40
    _, history = trained(
        flow, x, known.val, epochs=epochs, batch_size=200, learning_rate=5e-3, progress=False
    )
    return flow, history.seconds


def build(features: int, name: str, **kwargs) -> afnp.Flow:
    return FLOWS[name](features, hidden=HIDDEN, activation="tanh", dtype=np.float32, **kwargs)


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Return the mean and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def grid_of(name: str, M: int) -> Grid:
    """Lay M by M points over a target's window."""
    _, first, second = TARGETS[name]
    x1, x2 = ((np.arange(M) + 0.5) / M * (high - low) + low for low, high in (first, second))
    area = (x1[1] - x1[0]) * (x2[1] - x2[0])
    return Grid(np.stack(np.meshgrid(x1, x2), axis=-1).reshape(-1, 2), area)


def density(log_density: Callable, grid: Grid) -> np.ndarray:
    """Evaluate a density on the grid; rows are x2."""
    M = int(np.sqrt(len(grid.points)))
    return np.exp(log_density(grid.points)).reshape(M, M)


def draw(data: dict) -> Figure:
    """Draw a row of densities for each target; KL in nats stands under each."""
    pictures = data["pictures"]
    numbers = data["numbers"]
    figure = Figure(figsize=(13, 1.2 + 2.05 * len(pictures)))
    caption(figure, __doc__.split("\n")[0])
    all_axes = figure.subplots(len(pictures), 1 + len(FLOWS), squeeze=False)
    for axes, (name, found) in zip(all_axes, pictures.items(), strict=True):
        best = min(FLOWS, key=lambda flow, found=found: found[flow]["kl"][0])
        draw_target(axes, name, found, best)
    for axes, title in zip(all_axes[0], ("truth", *FLOWS), strict=True):
        axes.set_title(title, loc="center")
    note(
        figure,
        f"Under each flow: KL(truth || flow) ± standard error in nats, on {numbers['test_rows']:,} "
        "fresh draws; bold: the smallest of a row.\nUnder the truth: its entropy. No flow is "
        f"above it: the smallest KL is {numbers['smallest_kl']:.3f}, and all are at least "
        f"{int(numbers['least_kl_in_standard_errors'])} standard errors above 0.\n"
        "Of the flow in the truth's gaps, on average: "
        + ", ".join(f"{name} {mass:.0%}" for name, mass in numbers["mean_mass_in_the_gaps"].items())
        + f".\n{numbers['train_rows']:,} training rows, two hidden layers of {HIDDEN[0]}. "
        f"Parameters: {', '.join(f'{name} {n:,}' for name, n in numbers['parameters'].items())}.",
    )
    return figure


def draw_target(axes, name: str, found: dict[str, dict], best: str) -> None:
    """Draw the truth and the flows on one colour scale, up to the truth's largest density."""
    label, first, second = TARGETS[name]
    top = found["truth"]["picture"].max()
    for ax, (flow, one) in zip(axes, found.items(), strict=True):
        ax.imshow(
            one["picture"],
            vmin=0,
            vmax=top,
            origin="lower",
            extent=(*first, *second),
            aspect="auto",
        )
        ax.set(xticks=(), yticks=())
        ax.spines[:].set_visible(False)
        if flow == "truth":
            ax.set_ylabel(label)
            ax.set_xlabel(f"entropy {one['entropy'][0]:.2f}", color=COLORS["grey"])
        else:
            ax.set_xlabel(
                "{:.3f} ± {:.3f}".format(*one["kl"]),
                fontweight="bold" if flow == best else "normal",
            )
