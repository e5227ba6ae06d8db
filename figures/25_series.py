r"""A flow that begins as a Gaussian AR model forecasts slightly better one step ahead only.

.. math:: u_t = (x_t - a - b \cdot x_{t-W..t-1})\, / \, \sigma \qquad
          \text{(a Gaussian AR model is a flow)}

The AR model, fitted with statsmodels, is an affine flow of the last W values without a hidden
layer, whose scale depends on nothing. "scale" is the same flow trained on: its scale may now depend
on the window, log-linearly. "splines" puts a spline behind it, bent by a small network of the
window: the density's shape may depend on the window too. Both start exactly at the AR model;
training stops by validation. W is the AR model's order, also by validation.

Splits are in time: the first 60 % train, then 15 % validate, the last 25 % test. Nothing of the
later parts is used before: not for means and scales, not for lags, not for filling gaps (a missing
week repeats the one before, and no model is scored on it). All models see the same numbers: weekly
changes of CO2 since 1967 (before, many weeks are missing), and square roots of sunspot numbers,
which makes the swings of large cycles alike those of small ones.

Forecasts are paths, each drawn step by step, from test origins that have a full future. CRPS is the
score of a whole forecast, in the unit of the series; for a single number it would be the absolute
error. PIT values, the places of test values in their one-step densities, are uniform if the
densities are right.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from afnp.applications.forecast import crps, pit, sample_paths
from afnp.data.series import Rows, Series, load_series, windows
from afnp.flow import Flow
from afnp.transforms import masked
from figures.common import COLORS, caption, note, trained, verified

TRAIN, VAL = 0.6, 0.75
AR, SCALE, SPLINES = "AR", "scale", "splines"
LOOKS = {AR: ("red", "--", "s"), SCALE: ("green", ":", "^"), SPLINES: ("blue", "-", "o")}
CRITICAL = 1.358
"""Kolmogorov's 5 % point: sup |F_n - F| · sqrt(n) exceeds it once in twenty."""
BOUND = 7.0
"""Of the affine univariate's log-scale, 7 tanh(s / 7)."""


class Problem(NamedTuple):
    """How a series is modelled, and how paths of the modelled steps become paths of the series."""

    step: Callable  # values (T,) → modelled steps (T,)
    back: Callable  # steps (..., S), value before them (...) → values (..., S)
    since: float
    lags: tuple[int, ...]
    horizon: int
    every: int  # origins are so many steps apart
    bins: int
    label: str


PROBLEMS = {
    "co2": Problem(
        step=lambda x: np.diff(x, prepend=x[0]),
        back=lambda steps, before: before[..., None] + np.cumsum(steps, axis=-1),
        since=1967.0,
        lags=(13, 26, 52, 56, 60, 78, 104),
        horizon=52,
        every=4,
        bins=20,
        label="CO₂ at Mauna Loa, weekly [ppm]",
    ),
    "sunspots": Problem(
        step=np.sqrt,
        back=lambda steps, before: np.maximum(steps, 0) ** 2,
        since=1700.0,
        lags=(2, 3, 4, 6, 8, 9, 10, 11, 12, 16, 22),
        horizon=11,
        every=1,
        bins=10,
        label="sunspots, yearly [number]",
    ),
}


class Prepared(NamedTuple):
    """A series ready for models: standardised steps z, where each part ends, and the way back."""

    series: Series
    start: int
    z: np.ndarray
    missing: np.ndarray
    ends: tuple[int, int, int]
    mean: float
    std: float


def data(quick: bool = False) -> dict:
    found = {name: _study(name, quick) for name in PROBLEMS}
    return {"numbers": {name: one.pop("numbers") for name, one in found.items()}, "series": found}


def _study(name: str, quick: bool) -> dict:
    problem = PROBLEMS[name]
    ready = _prepare(name)
    models, W, seconds = _models(ready, problem.lags[:2] if quick else problem.lags, quick)
    rows = windows(ready.z, W, missing=ready.missing)
    test = rows.between(*ready.ends[1:])
    log_p = {model: flow.log_prob(test.target, test.context) for model, flow in models.items()}
    places = {model: pit(flow, test.target, test.context) for model, flow in models.items()}
    forecasts = _forecasts(models, problem, ready, W, quick)
    numbers = {
        "filled": int(ready.missing.sum()),
        "window": W,
        "rows": {part: len(rows.between(*ends).at) for part, ends in _spans(ready, W).items()},
        "test_nats": {model: float(p.mean()) for model, p in log_p.items()},
        "lead_over_ar_and_standard_error": {
            model: _mean_and_error(log_p[model] - log_p[AR]) for model in (SCALE, SPLINES)
        },
        "pit_kolmogorov_distance": {model: _kolmogorov(F) for model, F in places.items()},
        "kolmogorov_distance_5_percent": CRITICAL / math.sqrt(len(test.at)),
        "coverage_of_90_percent": {
            model: float(np.mean(np.abs(F - 0.5) < 0.45)) for model, F in places.items()
        },
        "seconds": seconds,
        "verified": verified(models[SPLINES], quick=True),
        **forecasts.pop("numbers"),
    }
    shown = slice(ready.start, None)
    line = {
        "time": ready.series.time[shown],
        "values": ready.series.values[shown],
        "ends": ready.ends,
    }
    return {"numbers": numbers, "line": line, "pit": places, **forecasts}


def _prepare(name: str) -> Prepared:
    """Model steps instead of values, and standardise them by the training part."""
    series = load_series(name)
    problem = PROBLEMS[name]
    start = int(np.searchsorted(series.time, problem.since))
    steps = problem.step(series.values[start:])
    missing = series.missing[start:].copy()
    if name == "co2":  # a change needs both its ends; the first has none
        missing[1:] |= series.missing[start:-1]
        missing[0] = True
    T = len(steps)
    ends = int(TRAIN * T), int(VAL * T), T
    mean = steps[: ends[0]].mean()
    std = steps[: ends[0]].std()
    return Prepared(series, start, (steps - mean) / std, missing, ends, float(mean), float(std))


def _spans(ready: Prepared, W: int) -> dict[str, tuple[int, int]]:
    return dict(
        zip(("train", "val", "test"), zip((W, *ready.ends), ready.ends, strict=False), strict=True)
    )


# ---- the models ----------------------------------------------------------------------------------


def _models(
    ready: Prepared, lags: tuple[int, ...], quick: bool
) -> tuple[dict[str, Flow], int, dict[str, float]]:
    """Fit AR models, keep the order best on validation, and train flows that start there."""
    fits = {W: autoregression(ready.z[: ready.ends[0]], W) for W in lags}
    W = max(fits, key=lambda W: _score(ar_flow(*fits[W]), ready))
    train, val = (
        windows(ready.z, W, missing=ready.missing).between(*_spans(ready, W)[part])
        for part in ("train", "val")
    )
    models = {AR: ar_flow(*fits[W])}
    seconds = {}
    for model, hidden in ((SCALE, None), (SPLINES, (16,))):
        models[model] = ar_flow(*fits[W], hidden)
        _, history = trained(
            models[model],
            train.target,
            val.target,
            context=train.context,
            context_val=val.context,
            epochs=3 if quick else 100,
            batch_size=50,
            learning_rate=1e-3,
            weight_decay=1e-3,
            patience=20,
        )
        seconds[model] = history.seconds
    return models, W, seconds


def autoregression(z: np.ndarray, W: int) -> tuple[np.ndarray, float]:
    """Fit x_t ~ N(a + Σ_k b_k x_{t-k}, σ²) with statsmodels; return (a, b_1, ..., b_W) and σ."""
    from statsmodels.tsa.ar_model import AutoReg

    fitted = AutoReg(z, W).fit()
    return fitted.params, float(np.sqrt(fitted.sigma2))


def ar_flow(parameters: np.ndarray, sigma: float, hidden: tuple[int, ...] | None = None) -> Flow:
    """Write an AR model as a flow; with ``hidden``, a spline follows, still the identity."""
    W = len(parameters) - 1
    layers = [masked(1, hidden=(), context=W, options={"bound": BOUND})]
    if hidden is not None:
        layers.append(masked(1, hidden=hidden, univariate="spline", context=W, activation="tanh"))
    flow = Flow(layers, context=W)
    p = flow.own[0]
    p["W0"][:] = 0
    p["W0"][0, :W] = parameters[:0:-1]  # the window runs from the oldest value to the last
    p["b0"][:] = parameters[0], BOUND * math.atanh(math.log(sigma) / BOUND)
    for layer, p in zip(flow.layers[1:], flow.own[1:], strict=True):
        p[layer.conditioner.linears[-1].W][:] = 0
    return flow


def _score(flow: Flow, ready: Prepared) -> float:
    val = windows(ready.z, flow.context, missing=ready.missing).between(*ready.ends[:2])
    return float(flow.log_prob(val.target, val.context).mean())


# ---- forecasts -----------------------------------------------------------------------------------


def _forecasts(
    models: dict[str, Flow], problem: Problem, ready: Prepared, W: int, quick: bool
) -> dict:
    """Draw paths from test origins; score every horizon where the truth was measured."""
    S = problem.horizon
    M = 40 if quick else 400
    origins = windows(ready.z, W, ahead=S).between(ready.ends[1], ready.ends[2])
    origins = Rows(*(part[:: problem.every * (5 if quick else 1)] for part in origins))
    ahead = origins.at[:, None] + np.arange(S)
    values = ready.series.values[ready.start :]
    truth = values[ahead]
    measured = ~ready.series.missing[ready.start :][ahead]
    scores = {}
    fans = {}
    chosen = len(origins.at) // 2
    for model, flow in models.items():
        steps = sample_paths(flow, origins.context, S, M, rng=1) * ready.std + ready.mean
        before = np.repeat(values[origins.at - 1][:, None], M, axis=1)
        paths = problem.back(steps, before).swapaxes(1, 2)
        scores[model] = np.average(crps(paths, truth), axis=0, weights=measured)
        fans[model] = np.quantile(paths[chosen], (0.05, 0.25, 0.75, 0.95), axis=-1)
        inside = np.abs((paths < truth[..., None]).mean(axis=-1) - 0.5) < 0.45
        scores[model + " inside"] = np.average(inside, axis=0, weights=measured)
    time = ready.series.time[ready.start :]
    return {
        "fans": fans,
        "at": {
            "time": time[ahead[chosen]],
            "truth": truth[chosen],
            "before": int(origins.at[chosen]),
        },
        "scores": {model: scores[model] for model in models},
        "paths": paths[chosen, :, :4].T,
        "numbers": {
            "origins": len(origins.at),
            "crps_one_step": {model: float(scores[model][0]) for model in models},
            "crps_last_step": {model: float(scores[model][-1]) for model in models},
            "crps_all_steps": {model: float(scores[model].mean()) for model in models},
            "paths_coverage_of_90_percent": {
                model: float(scores[model + " inside"].mean()) for model in models
            },
        },
    }


def _kolmogorov(places: np.ndarray) -> float:
    """Return the greatest distance of an empirical cumulative distribution from the uniform's."""
    values = np.sort(places)
    steps = np.arange(len(places) + 1) / len(places)
    return float(max((steps[1:] - values).max(), (values - steps[:-1]).max()))


def _mean_and_error(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


# ---- the picture ---------------------------------------------------------------------------------


def draw(data: dict) -> Figure:
    numbers = data["numbers"]
    figure = Figure(figsize=(14, 7.6))
    grid = figure.add_gridspec(len(PROBLEMS), 4, width_ratios=(1.25, 1.25, 1, 1))
    for row, (name, found) in enumerate(data["series"].items()):
        axes = [figure.add_subplot(grid[row, k]) for k in range(4)]
        _draw_line(axes[0], found["line"], PROBLEMS[name])
        _draw_fan(axes[1], found, PROBLEMS[name])
        _draw_pit(axes[2], found["pit"], numbers[name], PROBLEMS[name].bins)
        _draw_scores(axes[3], found["scores"], name)
    caption(figure, _claim(numbers))
    note(figure, "\n".join(_small_print(name, of) for name, of in numbers.items()))
    return figure


def _claim(numbers: dict) -> str:
    gains = "; ".join(
        "{}: {:+.3f} ± {:.3f} nats one step ahead, CRPS over {} steps {:+.1%}".format(
            name,
            *of["lead_over_ar_and_standard_error"][SPLINES],
            PROBLEMS[name].horizon,
            of["crps_all_steps"][SPLINES] / of["crps_all_steps"][AR] - 1,
        )
        for name, of in numbers.items()
    )
    return (
        f"A flow that begins as a Gaussian AR model, beside that model, on later years. {gains}"
    ).replace("-", "−")


def _small_print(name: str, of: dict) -> str:
    leads = ", ".join(
        "{} {:+.3f} ± {:.3f}".format(model, *pair)
        for model, pair in of["lead_over_ar_and_standard_error"].items()
    )
    inside = ", ".join(
        f"{model} {share:.0%}" for model, share in of["coverage_of_90_percent"].items()
    )
    later = ", ".join(
        f"{model} {share:.0%}" for model, share in of["paths_coverage_of_90_percent"].items()
    )
    rows = of["rows"]
    return (
        f"{name}: window {of['window']}; {rows['train']} training, {rows['test']} test rows; test "
        f"nats above AR: {leads}.\n    90 % intervals hold, one step ahead: {inside}; over all "
        f"steps of paths: {later}."
    ).replace("-", "−")


def _draw_line(ax, line: dict, problem: Problem) -> None:
    time, values, (a, b, _) = line["time"], line["values"], line["ends"]
    for start, stop, color, word in (
        (0, a, "grey", "train"),
        (a, b, "yellow", "val"),
        (b, None, "ink", "test"),
    ):
        ax.plot(time[start:stop], values[start:stop], "-", color=COLORS[color], linewidth=0.9)
        ax.text(
            time[start],
            1.0,
            " " + word,
            transform=ax.get_xaxis_transform(),
            color=COLORS[color],
            va="bottom",
        )
    ax.set(xlabel="year", ylabel=problem.label)
    ax.set_title(" ")


def _draw_fan(ax, found: dict, problem: Problem) -> None:
    line = found["line"]
    at = found["at"]
    fan = found["fans"][SPLINES]
    past = slice(max(at["before"] - 2 * problem.horizon, 0), at["before"])
    ax.fill_between(at["time"], fan[0], fan[3], color=COLORS["sky"], alpha=0.35, linewidth=0)
    ax.fill_between(at["time"], fan[1], fan[2], color=COLORS["sky"], alpha=0.6, linewidth=0)
    for k in (0, 3):
        ax.plot(at["time"], found["fans"][AR][k], "--", color=COLORS["red"], linewidth=1)
    for path in found["paths"]:
        ax.plot(at["time"], path, "-", color=COLORS["blue"], linewidth=0.5)
    ax.plot(line["time"][past], line["values"][past], "-", color=COLORS["grey"], linewidth=1)
    ax.plot(at["time"], at["truth"], "-", color=COLORS["ink"], linewidth=1.6)
    ax.set(xlabel="year")
    ax.locator_params(axis="x", nbins=5)
    ax.set_title(f"{problem.horizon} steps: 50, 90 %; dashed: AR")


def _draw_pit(ax, places: dict, of: dict, bins: int) -> None:
    N = len(places[AR])
    share = N / bins
    spread = 1.96 * math.sqrt(N / bins * (1 - 1 / bins))
    ax.axhspan(share - spread, share + spread, color=COLORS["light"], linewidth=0)
    for model in (AR, SPLINES):
        color, line, _ = LOOKS[model]
        counts = np.histogram(places[model], bins, (0, 1))[0]
        ax.stairs(
            counts, np.linspace(0, 1, bins + 1), color=COLORS[color], linestyle=line, linewidth=1.6
        )
    far = of["pit_kolmogorov_distance"]
    text = (
        f"distance from uniform: splines {far[SPLINES]:.3f},\nAR (dashed) {far[AR]:.3f}; "
        f"by chance {of['kolmogorov_distance_5_percent']:.3f}"
    )
    ax.text(0.03, 0.98, text, transform=ax.transAxes, va="top", fontsize=9)
    ax.set(
        xlim=(0, 1),
        ylim=(0, 2.6 * share + spread),
        xlabel="PIT, one step ahead",
        ylabel="test values in a bin",
    )
    ax.set_title("calibration (grey: 95 % of bins)")


def _draw_scores(ax, scores: dict, name: str) -> None:
    for model, values in scores.items():
        color, line, marker = LOOKS[model]
        steps = np.arange(1, len(values) + 1)
        every = max(len(steps) // 10, 1)
        ax.plot(
            steps,
            values / scores[AR],
            line,
            marker=marker,
            color=COLORS[color],
            markevery=every,
            label=model,
        )
    ax.set(
        xlabel=f"steps ahead ({'weeks' if name == 'co2' else 'years'})", ylabel="CRPS / CRPS of AR"
    )
    ax.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 0.98), columnspacing=1, borderpad=0)
