r"""Given six magnitudes, a flow tells each galaxy's redshift, and how sure it is.

.. math:: F(z \mid m) = \int_{-\infty}^{z} p(z' \mid m)\, dz' = \Phi(u(z; m)), \qquad
          F(z_n \mid m_n) \sim \mathrm{Uniform}(0, 1) \text{ if } p \text{ is right}

u(z; m) is the flow's noise, which rises with z, so the cumulative distribution is exact and needs
no integral. The values F(z_n | m_n) on test galaxies (probability integral transform, PIT) show
calibration: a hump in the middle means densities too wide, high ends too narrow, a slope a bias. A
flow that is a little too sure of what it learnt by heart gives noise of more than unit variance on
unseen galaxies; so, after training, one more fixed layer standardises the noise of the validation
galaxies: two numbers, and the flow remains a flow. Dotted: the flow without it.

Above: six test galaxies, at the given ranks of the width of their densities; their integrals and
cumulative distributions are checked at places that the flow itself spreads. The condition m is the
magnitude r and the five colours, standardised. For errors the density is summed up: its mean for
the root mean square, its median for the typical error. The rivals estimate a number only: a linear
regression, the mean of nearest neighbours (how many: by validation), and boosted trees (how many:
by a tenth of the training rows that is kept from them), on the same columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

import afnp
from afnp.applications.forecast import pit
from afnp.data import load
from afnp.train import History
from afnp.transforms.preprocess import Standardize
from figures.common import COLORS, caption, note, trained, verified

RANKS = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
CRITICAL = 1.358
"""Kolmogorov's 5 % point: sup |F_n - F| · sqrt(n) exceeds it once in twenty."""
BINS = 20
OUTLIER = 0.15
"""Astronomers' bound of |Δz| / (1 + z), beyond which an estimate is an outlier."""
FLOW, BEFORE = "flow", "flow as trained"


class Part(NamedTuple):
    """Redshifts (N, 1) and conditions (N, 6)."""

    z: np.ndarray
    m: np.ndarray


def data(quick: bool = False) -> dict:
    train, val, test = _parts(1500 if quick else None)
    raw, history = _fitted(train, val, quick)
    flow = calibrated(raw, val)
    q = _quantiles(flow, test.m)
    z = test.z[:, 0]
    shown = _by_width(q)
    curves, checks = _curves(flow, Part(test.z[shown], test.m[shown]))
    numbers = {
        "rows": {"train": len(train.z), "val": len(val.z), "test": len(test.z)},
        "test_nats_and_standard_error": _likelihoods({FLOW: flow, BEFORE: raw}, train, test),
        **_errors(
            {"mean": q.mean(axis=1), "median": np.median(q, axis=1)}, _rivals(train, val), test
        ),
        "calibration": {
            name: calibration(pit(f, *test)) for name, f in ((FLOW, flow), (BEFORE, raw))
        },
        "kolmogorov_distance_5_percent": CRITICAL / math.sqrt(len(z)),
        "noise_of_validation": {"mean": flow.layers[-1].mean[0], "std": flow.layers[-1].std[0]},
        "seconds": history.seconds,
        "epochs": len(history.train_loss),
        "best_epoch": history.best_epoch + 1,
        "verified": verified(flow, quick=True),
        **checks,
    }
    return {"numbers": numbers, "curves": curves, "truth": z, "median": np.median(q, axis=1)}


def _parts(rows: int | None) -> list[Part]:
    """Split redshift from the rest, which is standardised by the training rows."""
    known = load("galaxies")
    pairs = [(x[:, :1], _colours(x[:, 1:])) for x in (known.train[:rows], known.val, known.test)]
    centre = pairs[0][1].mean(axis=0)
    scale = pairs[0][1].std(axis=0)
    return [Part(z, (m - centre) / scale) for z, m in pairs]


def _colours(magnitudes: np.ndarray) -> np.ndarray:
    """Turn magnitudes u g r i z y into r and five colours: the same information, less alike."""
    return np.column_stack([magnitudes[:, 2], magnitudes[:, :-1] - magnitudes[:, 1:]])


# ---- what the flow says --------------------------------------------------------------------------


def _fitted(train: Part, val: Part, quick: bool) -> tuple[afnp.Flow, History]:
    fixed = afnp.preprocessing(train.z)
    flow = afnp.nsf(
        1, (128, 128), transforms=3, context=train.m.shape[1], dtype=np.float32, preprocess=fixed
    )
    options = {
        "epochs": 4 if quick else 60,
        "learning_rate": 2e-3,
        "context": train.m,
        "context_val": val.m,
    }
    return trained(flow, train.z, val.z, **options)


def calibrated(flow: afnp.Flow, val: Part) -> afnp.Flow:
    """Return the flow with one more layer, which standardises the noise of validation rows."""
    last = Standardize.of(flow.normalize(val.z, val.m)[0])
    again = afnp.Flow([*flow.layers, last], context=flow.context, dtype=flow.dtype)
    again.theta = flow.theta
    return again


def _quantiles(flow: afnp.Flow, m: np.ndarray, pieces: int = 101) -> np.ndarray:
    """Return each density's quantiles (N, pieces) at the middles of equal shares of probability."""
    u = np.array([NormalDist().inv_cdf((k + 0.5) / pieces) for k in range(pieces)])
    rows = flow.generate(np.tile(u, len(m))[:, None], np.repeat(m, pieces, axis=0))[0]
    return rows.astype(np.float64).reshape(len(m), pieces)


def _by_width(q: np.ndarray) -> np.ndarray:
    """Return the rows at ``RANKS`` of the width of the middle two thirds of the probability."""
    pieces = q.shape[1]
    width = q[:, -(pieces // 6)] - q[:, pieces // 6]
    return np.argsort(width)[[int(rank * len(width)) for rank in RANKS]]


def _curves(flow: afnp.Flow, part: Part, nodes: int = 4001) -> tuple[list[dict], dict]:
    """Return densities, and how far their integral and F(z | m) are from what they should be."""
    exact = afnp.Flow(flow.layers, context=flow.context, dtype=np.float64)
    exact.theta = flow.theta
    curves = []
    off = []
    apart = []
    for z, m, F in zip(part.z[:, 0], part.m, pit(exact, *part), strict=True):
        grid, p = _density(exact, m, nodes)
        below = np.concatenate([[0], np.cumsum((p[1:] + p[:-1]) / 2 * np.diff(grid))])
        curves.append({"grid": grid, "p": p, "truth": float(z)})
        off.append(abs(below[-1] - 1))
        apart.append(abs(np.interp(z, grid, below) - F))
    return curves, {"integral_error": float(max(off)), "cumulative_error": float(max(apart))}


def _density(flow: afnp.Flow, m: np.ndarray, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return z and p(z | m): images of evenly spread noise, for peaks, and a grid, for gaps."""
    peaks = flow.generate(np.linspace(-7, 7, nodes)[:, None], np.tile(m, (nodes, 1)))[0]
    z = np.union1d(peaks, np.linspace(peaks.min(), peaks.max(), nodes))
    return z, np.exp(flow.log_prob(z[:, None], np.tile(m, (len(z), 1))))


def calibration(F: np.ndarray) -> dict:
    """Return how far PIT values are from uniform, and the coverage of central intervals."""
    middle = np.abs(F - 0.5)
    return {
        "kolmogorov_distance": _kolmogorov(F),
        "counts": np.histogram(F, BINS, (0, 1))[0],
        "coverage": {
            f"{100 * share:.0f} %": (middle < share / 2).mean() for share in (0.5, 0.9, 0.99)
        },
    }


def _kolmogorov(F: np.ndarray) -> float:
    """Return the greatest distance of an empirical cumulative distribution from the uniform's."""
    values = np.sort(F)
    steps = np.arange(len(F) + 1) / len(F)
    return float(max((steps[1:] - values).max(), (values - steps[:-1]).max()))


def _likelihoods(flows: dict[str, afnp.Flow], train: Part, test: Part) -> dict:
    """Return test log-likelihoods of the standardised redshift, nats, beside two Gaussians."""
    z = test.z[:, 0]
    linear = _linear(train)
    to_nats = math.log(train.z.std())
    residual = train.z[:, 0] - linear(train.m)
    log_p = {name: flow.log_prob(test.z, test.m).astype(np.float64) for name, flow in flows.items()}
    log_p["linear regression"] = _normal(z - linear(test.m), residual.std())
    log_p["Gaussian, no condition"] = _normal(z - train.z.mean(), train.z.std())
    return {name: _mean_and_error(values + to_nats) for name, values in log_p.items()}


# ---- the rivals ----------------------------------------------------------------------------------


def _linear(train: Part) -> Callable:
    """Return the least-squares estimate of z, linear in m."""
    weights = np.linalg.lstsq(_with_one(train.m), train.z[:, 0], rcond=None)[0]
    return lambda m: _with_one(m) @ weights


def _with_one(m: np.ndarray) -> np.ndarray:
    return np.column_stack([m, np.ones(len(m))])


def _rivals(train: Part, val: Part) -> dict[str, Callable]:
    """Return estimates of z: nearest neighbours, boosted trees, linear."""
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.neighbors import KNeighborsRegressor
    from threadpoolctl import threadpool_limits

    near = [
        KNeighborsRegressor(k, weights="distance").fit(train.m, train.z[:, 0])
        for k in (2, 4, 8, 16, 32)
    ]
    trees = HistGradientBoostingRegressor(
        max_iter=1000, learning_rate=0.05, early_stopping=True, random_state=0
    )
    with threadpool_limits(
        1
    ):  # its threads wait for each other, 3,000 times, and on a busy machine for long
        trees.fit(train.m, train.z[:, 0])
    best = min(near, key=lambda model: np.mean(_scaled(model.predict(val.m), val.z[:, 0]) ** 2))
    return {
        "nearest neighbours": best.predict,
        "boosted trees": trees.predict,
        "linear regression": _linear(train),
    }


def _errors(of_flow: dict[str, np.ndarray], rivals: dict[str, Callable], test: Part) -> dict:
    """Return three summaries of Δz / (1 + z) a model; the first of the flow's mean."""
    guesses = {name: f(test.m) for name, f in rivals.items()}
    mean, median = (
        {
            name: _scaled(guess, test.z[:, 0])
            for name, guess in ({FLOW: of_flow[kind]} | guesses).items()
        }
        for kind in ("mean", "median")
    )
    return {
        "rms_error": {name: np.sqrt(np.mean(error**2)) for name, error in mean.items()},
        "typical_error": {name: np.median(np.abs(error)) for name, error in median.items()},
        "outliers": {name: np.mean(np.abs(error) > OUTLIER) for name, error in median.items()},
    }


def _scaled(guess: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return errors as astronomers state them, Δz / (1 + z)."""
    return (guess - z) / (1 + z)


def _normal(residual: np.ndarray, sigma: float) -> np.ndarray:
    return -0.5 * (residual / sigma) ** 2 - math.log(sigma * math.sqrt(2 * math.pi))


def _mean_and_error(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


# ---- the picture ---------------------------------------------------------------------------------


def draw(data: dict) -> Figure:
    numbers = data["numbers"]
    figure = Figure(figsize=(13, 8))
    grid = figure.add_gridspec(2, 6, height_ratios=(1, 1.6))
    for k, (curve, rank) in enumerate(zip(data["curves"], RANKS, strict=True)):
        _draw_density(figure.add_subplot(grid[0, k]), curve, rank)
    _draw_calibration(figure.add_subplot(grid[1, :2]), numbers)
    _draw_estimates(figure.add_subplot(grid[1, 2:4]), data["truth"], data["median"])
    _draw_errors(figure.add_subplot(grid[1, 4:]), numbers)
    caption(figure, _claim(numbers))
    note(figure, _small_print(numbers["test_nats_and_standard_error"]))
    return figure


def _small_print(nats: dict) -> str:
    each = (
        "{} {:.2f} ± {:.2f}".format(name, *pair).replace("-", "−") for name, pair in nats.items()
    )
    return f"Test log-likelihood of the redshift (standardised), nats a galaxy: {'; '.join(each)}."


def _claim(numbers: dict) -> str:
    of = numbers["calibration"][FLOW]
    rms = numbers["rms_error"]
    best = min((name for name in rms if name != FLOW), key=rms.__getitem__)
    return (
        "Redshift from six magnitudes: the flow's 90 % intervals hold "
        f"{100 * of['coverage']['90 %']:.1f} % of unseen galaxies; its rms error, Δz / (1 + z), is "
        f"{rms[FLOW]:.3f}, that of {best} {rms[best]:.3f}"
    )


def _draw_density(ax, curve: dict, rank: float) -> None:
    grid = curve["grid"]
    p = curve["p"]
    held = grid[p > 1e-2 * p.max()]
    low = min(held[0], curve["truth"])
    high = max(held[-1], curve["truth"])
    margin = 0.15 * (high - low)
    ax.fill_between(grid, p, color=COLORS["sky"], linewidth=0)
    ax.plot(grid, p, "-", color=COLORS["blue"], linewidth=1)
    ax.axvline(curve["truth"], color=COLORS["red"], linewidth=1.4, linestyle="--")
    ax.set(xlim=(low - margin, high + margin), ylim=(0, None), yticks=(), xlabel="redshift z")
    ax.set_title(f"{100 * rank:.0f} % are narrower")
    ax.locator_params(axis="x", nbins=3)
    ax.spines["left"].set_visible(False)
    if rank == RANKS[0]:
        ax.set_ylabel("p(z | magnitudes)\ndashed: the truth")


def _draw_calibration(ax, numbers: dict) -> None:
    found = numbers["calibration"]
    N = numbers["rows"]["test"]
    counts, before = (np.asarray(found[name]["counts"]) for name in (FLOW, BEFORE))
    share = N / BINS
    spread = 1.96 * math.sqrt(N / BINS * (1 - 1 / BINS))
    ax.axhspan(share - spread, share + spread, color=COLORS["light"], linewidth=0)
    ax.axhline(share, color=COLORS["grey"], linewidth=1, linestyle="-")
    edges = np.linspace(0, 1, BINS + 1)
    top = max(counts.max(), before.max(), share + spread)
    ax.stairs(before, edges, color=COLORS["grey"], linewidth=1.2, linestyle=":", baseline=None)
    ax.stairs(counts, edges, color=COLORS["blue"], linewidth=1.8, baseline=None)
    ax.set(xlim=(0, 1), ylim=(0, 1.55 * top), xlabel="PIT: F(true z | magnitudes)")
    ax.set(ylabel="test galaxies in a bin", title="calibration")
    far = {name: of["kolmogorov_distance"] for name, of in found.items()}
    text = (
        f"distance from uniform {far[FLOW]:.3f}; dotted, as trained: {far[BEFORE]:.3f}\n"
        f"(by chance above {numbers['kolmogorov_distance_5_percent']:.3f} in 5 % of cases)\n"
        "grey: 95 % of bins, if calibrated"
    )
    ax.text(0.03, 0.97, text, transform=ax.transAxes, va="top", fontsize=9, linespacing=1.4)


def _draw_estimates(ax, truth: np.ndarray, median: np.ndarray) -> None:
    limits = (0, max(truth.max(), median.max()) * 1.02)
    ax.plot(limits, limits, "-", color=COLORS["red"], linewidth=0.8)
    ax.plot(truth, median, ".", color=COLORS["ink"], markersize=2, alpha=0.5, rasterized=True)
    ax.set(
        xlim=limits,
        ylim=limits,
        aspect="equal",
        xlabel="true redshift",
        ylabel="median of the density",
    )
    ax.set_title(f"{len(truth):,} test galaxies")


def _draw_errors(ax, numbers: dict) -> None:
    rms = numbers["rms_error"]
    typical = numbers["typical_error"]
    for y, name in enumerate(rms):
        color = COLORS["blue" if name == FLOW else "grey"]
        low, high = sorted((typical[name], rms[name]))
        ax.plot([low, high], [y, y], "-", color=COLORS["light"], linewidth=5, zorder=0)
        for value, marker in ((typical[name], "o"), (rms[name], "s")):
            ax.plot(value, y, marker, color=color, markersize=8)
            side = "right" if value == low else "left"
            away = (-8, 0) if value == low else (8, 0)
            ax.annotate(
                f"{value:.3f}", (value, y), away, textcoords="offset points", ha=side, va="center"
            )
        words = f"{name}: {100 * numbers['outliers'][name]:.1f} % beyond {OUTLIER}"
        ax.text(0.02, y - 0.2, words, transform=ax.get_yaxis_transform(), va="bottom")
    ends = [*rms.values(), *typical.values()]
    ax.set(
        ylim=(len(rms) - 0.4, -0.7), yticks=(), xscale="log", xlim=(min(ends) / 4, max(ends) * 4)
    )
    ax.set_xlabel("error, |Δz| / (1 + z)")
    ax.set_title("errors: ● median, ■ root mean square")
    ax.spines["left"].set_visible(False)
