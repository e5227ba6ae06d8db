r"""A flow on the torus learns two angles of a molecule: its free energy has no seam.

.. math:: F(\varphi, \psi) / kT = -\log p(\varphi, \psi) + \mathrm{const}, \qquad
          \int_{-\pi}^{\pi} \int_{-\pi}^{\pi} p(\varphi, \psi)\, d\varphi\, d\psi = 1

Backbone angles of alanine dipeptide, by molecular dynamics at two temperatures. Left: frames
counted in bins. Middle: the circular spline flow. Both maps go round beyond ±180°, where the dashed
lines are, so that a seam would be seen; blank is more than nine kT above the lowest place (or, at
left, no frame at all). Right: what each model says about test frames it never saw. The frames are a
time series, so test frames come in five whole blocks of it and the standard errors are over blocks:
they are far larger than those of as many independent frames.

The rivals: the best product of two von Mises distributions; a histogram whose bins and pseudo-count
were chosen by validation; and the same spline flow on the plane, which takes the angles for
ordinary numbers: it cannot know that -π and π are one place, and puts part of its density where
there is no angle.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from matplotlib.figure import Figure

import afnp
from afnp.data import Dataset, load
from afnp.train import History
from figures.common import COLORS, caption, note, trained, verified

KELVIN = (300, 600)
PLACES = 2_178_309
"""Places to integrate over, a Fibonacci number: lattices of so many, shifted, differ by 1e-7."""
BLOCKS = 5
"""Blocks of neighbouring frames that the test rows are made of."""
MODELS = ("circular spline flow", "spline flow on the plane", "histogram", "von Mises product")
LEVELS = np.arange(10)
TICKS = np.arange(-180, 181, 90)
MARGIN = 60
"""Degrees that the maps go on beyond ±180."""


def data(quick: bool = False) -> dict:
    found = {kelvin: _temperature(load(f"alanine_{kelvin}K"), quick) for kelvin in KELVIN}
    return {
        "numbers": {f"{kelvin} K": one.pop("numbers") for kelvin, one in found.items()},
        "maps": found,
    }


def _temperature(known: Dataset, quick: bool) -> dict:
    """Train and measure everything at one temperature."""
    everything = np.concatenate([known.train, known.val, known.test])
    known = replace(known, train=known.train[: 1000 if quick else None])
    circular, history = _fitted(known, quick, circular=True)
    plane, _ = _fitted(known, quick, circular=False)
    numbers = {
        "rows": {"train": len(known.train), "val": len(known.val), "test": len(known.test)},
        **_scores(known, circular, plane),
        **_seams(circular, plane, PLACES // 16 if quick else PLACES),
        "seconds": history.seconds,
        "epochs": len(history.train_loss),
        "best_epoch": history.best_epoch + 1,
        "parameters": circular.theta.size,
        "verified": verified(circular, quick=True),
    }
    numbers["phi_positive"]["frames"] = (everything[:, 0] >= 0).mean()
    return {
        "numbers": numbers,
        "frames": _counts(everything, 72) / (len(everything) * (2 * np.pi / 72) ** 2),
        "flow": np.exp(_on_torus(circular.log_prob, 144)),
    }


def _scores(known: Dataset, circular: afnp.Flow, plane: afnp.Flow) -> dict:
    """Return what every model says about the test frames, and how far the circular flow leads."""
    counted, (bins, extra) = _histogram(known.train, known.val)
    models = (circular.log_prob, plane.log_prob, counted, _von_mises(known.train))
    log_p = {name: f(known.test) for name, f in zip(MODELS, models, strict=True)}
    return {
        "test_nats_and_standard_error": {name: _blocked(values) for name, values in log_p.items()},
        "lead_and_standard_error": {
            name: _blocked(log_p[MODELS[0]] - log_p[name]) for name in MODELS[1:]
        },
        "histogram_bins": bins,
        "histogram_pseudo_count": extra,
    }


def _seams(circular: afnp.Flow, plane: afnp.Flow, places: int) -> dict:
    """Return integrals over the torus, jumps where it closes, and the mass where φ > 0."""
    at = lattice(places)
    few = lattice(places // 4)
    p = np.exp(circular.log_prob(at))
    return {
        "places": len(at),
        "integral": integral(p),
        "integral_over_a_quarter_of_the_places": integral(np.exp(circular.log_prob(few))),
        "integral_on_the_plane": integral(np.exp(plane.log_prob(few))),
        "jump_at_the_seam": jump(circular.log_prob),
        "jump_at_the_seam_on_the_plane": jump(plane.log_prob),
        "phi_positive": {"flow": p[at[:, 0] >= 0].sum() / p.sum()},
    }


def _fitted(known: Dataset, quick: bool, circular: bool) -> tuple[afnp.Flow, History]:
    """Train the spline flow on the torus, or the same one on the plane of standardised angles."""
    fixed = {"circular": True} if circular else {"preprocess": afnp.preprocessing(known.train)}
    flow = afnp.nsf(2, (64, 64), transforms=3, activation="tanh", **fixed)
    epochs = 2 if quick else 20
    return trained(
        flow, known.train, known.val, epochs=epochs, batch_size=200, learning_rate=3e-3, patience=8
    )


# ---- the torus -----------------------------------------------------------------------------------


def _angles(side: int) -> np.ndarray:
    """Return the middles of equal pieces of [-π, π)."""
    return (np.arange(side) + 0.5) / side * 2 * np.pi - np.pi


def _on_torus(log_prob: Callable, side: int) -> np.ndarray:
    """Evaluate at side by side places; rows are φ, columns ψ."""
    phi, psi = np.meshgrid(_angles(side), _angles(side), indexing="ij")
    return log_prob(np.stack([phi, psi], axis=-1).reshape(-1, 2)).reshape(side, side)


def lattice(places: int) -> np.ndarray:
    r"""Return the Fibonacci lattice (F_k, 2) of the torus, with the first F_k >= ``places``.

    .. math:: \varphi_i = 2\pi\, \frac{i}{F_k} - \pi, \qquad
              \psi_i = 2\pi\, \frac{i F_{k-1} \bmod F_k}{F_k} - \pi, \qquad 0 \le i < F_k

    No two places share an angle: corners of splines, many of which lie along an axis, are never met
    twice alike.
    """
    before, now = 1, 1
    while now < places:
        before, now = now, before + now
    i = np.arange(now)
    return np.column_stack([i, i * before % now]) * (2 * np.pi / now) - np.pi


def integral(p: np.ndarray) -> float:
    """Return the integral over the torus from densities on a lattice: the mean times the area."""
    return float(p.mean() * 4 * np.pi**2)


def jump(log_prob: Callable, places: int = 720) -> float:
    """Return the largest jump of log p across the lines φ = ±π and ψ = ±π, nats."""
    along = _angles(places)
    sides = (-np.pi, np.nextafter(np.pi, 0))
    jumps = []
    for swap in (1, -1):
        first, second = (
            log_prob(np.column_stack([np.full(places, end), along][::swap])) for end in sides
        )
        jumps.append(np.abs(first - second).max())
    return float(max(jumps))


def _counts(x: np.ndarray, bins: int) -> np.ndarray:
    return np.histogram2d(*x.T, bins=bins, range=[(-np.pi, np.pi)] * 2)[0]


# ---- the rivals ----------------------------------------------------------------------------------


def _histogram(x: np.ndarray, x_val: np.ndarray) -> tuple[Callable, tuple[int, float]]:
    """Return the log-density of the histogram best on validation, its bins and pseudo-count."""
    tried = {
        key: _binned(x, *key)
        for key in itertools.product((12, 18, 24, 36, 48, 72), (0.01, 0.1, 1.0))
    }
    best = max(tried, key=lambda key: tried[key](x_val).mean())
    return tried[best], best


def _binned(x: np.ndarray, bins: int, extra: float) -> Callable:
    r"""Return log p, :math:`p = (n + \alpha) / (N + \alpha m^2)` over a bin's area, m² bins."""
    log_p = np.log((_counts(x, bins) + extra) / (len(x) + extra * bins**2)) - 2 * np.log(
        2 * np.pi / bins
    )

    def log_prob(y: np.ndarray) -> np.ndarray:
        cells = np.minimum(((y + np.pi) * bins / (2 * np.pi)).astype(int), bins - 1)
        return log_p[cells[:, 0], cells[:, 1]]

    return log_prob


def _von_mises(x: np.ndarray) -> Callable:
    r"""Return log p of the most likely product of two von Mises distributions.

    .. math:: p(x_i) = \frac{\exp(\kappa_i \cos(x_i - \mu_i))}{2\pi\, I_0(\kappa_i)}, \qquad
              \frac{I_1(\kappa_i)}{I_0(\kappa_i)} = \Big|\frac1N \sum_n e^{\mathrm{i} x_{ni}}\Big|
    """
    centre = np.exp(1j * x).mean(axis=0)
    mu = np.angle(centre)
    kappa = np.array([_concentration(length) for length in np.abs(centre)])
    return lambda y: (kappa * np.cos(y - mu) - np.log(2 * np.pi * np.i0(kappa))).sum(axis=1)


def _concentration(length: float) -> float:
    """Solve I₁(κ) / I₀(κ) = length by bisection; the ratio is the mean of cos, and grows with κ."""
    cos = np.cos(_angles(2000))
    low = 0.0
    high = 500.0
    while high - low > 1e-9:
        kappa = (low + high) / 2
        weight = np.exp(kappa * (cos - 1))
        low, high = (kappa, high) if weight @ cos < length * weight.sum() else (low, kappa)
    return low


def _blocked(values: np.ndarray) -> tuple[float, float]:
    """Return the mean and its standard error over blocks of neighbouring frames."""
    means = values.reshape(BLOCKS, -1).mean(axis=1)
    return float(means.mean()), float(means.std(ddof=1) / np.sqrt(BLOCKS))


# ---- the picture ---------------------------------------------------------------------------------


def draw(data: dict) -> Figure:
    numbers = data["numbers"]
    figure = Figure(figsize=(13, 9))
    axes = figure.subplots(2, 3, width_ratios=(1, 1, 0.9))
    for row, (name, found), one in zip(axes, numbers.items(), data["maps"].values(), strict=True):
        filled = [
            _draw_map(ax, one[kind]) for ax, kind in zip(row, ("frames", "flow"), strict=False)
        ]
        figure.colorbar(filled[1], ax=row[1], label="free energy F / kT", shrink=0.85, aspect=25)
        row[0].set_title(f"{name}: {sum(found['rows'].values()):,} frames in bins of 5°")
        row[1].set_title(f"{name}: circular spline flow")
        _draw_scores(row[2], found)
    caption(figure, __doc__.split("\n")[0])
    note(figure, "\n".join(_small_print(name, found) for name, found in numbers.items()))
    return figure


def _draw_map(ax, p: np.ndarray):
    """Draw F / kT over φ (across) and ψ (up), going on beyond the seams."""
    side = len(p)
    more = side * MARGIN // 360
    with np.errstate(divide="ignore"):
        F = np.pad(np.log(p.max()) - np.log(p).T, more, mode="wrap")
    at = np.rad2deg(np.arange(-more, side + more) + 0.5) * 2 * np.pi / side - 180
    F = np.ma.masked_greater(F, LEVELS[-1])
    if side > 100:
        image = ax.contourf(at, at, F, LEVELS, cmap="cividis")
        ax.contour(at, at, F, LEVELS, colors="white", linewidths=0.4)
    else:
        image = ax.pcolormesh(at, at, F, vmin=LEVELS[0], vmax=LEVELS[-1], rasterized=True)
    for line in (ax.axhline, ax.axvline):
        for seam in (-180, 180):
            line(seam, color=COLORS["ink"], linewidth=0.8, linestyle="--")
    limits = (-180 - MARGIN, 180 + MARGIN)
    ax.set(
        xlim=limits,
        ylim=limits,
        aspect="equal",
        xticks=TICKS,
        yticks=TICKS,
        xlabel="φ [°]",
        ylabel="ψ [°]",
    )
    return image


def _draw_scores(ax, found: dict) -> None:
    for y, (name, (nats, error)) in enumerate(found["test_nats_and_standard_error"].items()):
        ax.errorbar(
            nats, y, xerr=error, fmt="s", color=COLORS["blue" if y == 0 else "grey"], capsize=3
        )
        lead = (
            ""
            if y == 0
            else "; {:.3f} ± {:.3f} less".format(*found["lead_and_standard_error"][name])
        )
        text = f"{name}\n{nats:.2f}{lead}".replace("-", "−")
        ax.text(0.02, y - 0.16, text, transform=ax.get_yaxis_transform(), va="bottom")
    ax.set(ylim=(len(MODELS) - 0.5, -0.8), yticks=(), title="test log-likelihood")
    ax.set_xlabel("nats a frame, ± standard error")
    ax.margins(x=0.1)
    ax.spines["left"].set_visible(False)


def _small_print(name: str, found: dict) -> str:
    phi = found["phi_positive"]
    off = abs(found["integral"] - 1)
    return (
        f"{name}: p integrates to 1 within {off:.0e}; log p jumps at ±180° by at most "
        f"{found['jump_at_the_seam']:.0e} nats (on the plane by "
        f"{found['jump_at_the_seam_on_the_plane']:.0f}, and "
        f"{100 - 100 * found['integral_on_the_plane']:.1f} % of that density is no angle); φ > 0: "
        f"{100 * phi['flow']:.2g} % of the flow, {100 * phi['frames']:.2g} % of all frames"
    ).replace("-", "−")
