r"""Averaging over orders of pixels beats the best single order, with one network or several.

.. math:: \log \frac1M \sum_{m=1}^M p(x;\, o^{(m)})
          \;\ge\; \frac1M \sum_{m=1}^M \log p(x;\, o^{(m)})

Binary MADE (arXiv 1502.03509) on digits, a pixel being 1 where its level is at least 8 of 16. Any
order of the pixels gives an exact chain rule, so the average of several is a distribution again,
never below the mean of their log-likelihoods; whether it is above the best of them is a question to
the data. Asked twice: of M networks that learn one order each, and of one network that learns M
orders at once (order-agnostic training), at a price: every order gets an M-th of the steps.

Right: the mean over all choices of k orders from the M, of the log-likelihood of their average.
Standard errors are of differences on the same test images.
"""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
from matplotlib.figure import Figure

import afnp
from afnp.data import load, quantize
from afnp.discrete import averaging_gain
from afnp.univariate.stable import logsumexp
from figures.common import COLORS, caption, note, one_thread, trained

THRESHOLD = 8
LEVELS = 17
ORDERS = 4
KINDS = {
    "models": (f"{ORDERS} networks, one order each", "blue"),
    "orders": (f"one network, {ORDERS} orders", "red"),
}
SHOWN = 10


def data(quick: bool = False) -> dict:
    known = load("digits")
    rows = 600 if quick else None
    x, x_val, x_test = (binary(part) for part in (known.train[:rows], known.val, known.test))
    models: list = []
    fit = partial(_fit, models)
    options = {"hidden": (64,), "epochs": 15} if quick else {"hidden": (256,)}
    with one_thread():
        gain = averaging_gain(fit, x, x_val, x_test, orders=ORDERS, **options)
        log_p = {
            "models": np.stack([model.log_prob(x_test) for model in models[:-1]]),
            "orders": models[-1].log_prob_by_order(x_test),
        }
        images = {"test images": x_test[:SHOWN], "samples": models[-1].sample(SHOWN, rng=0)}
    numbers = {
        "rows": {"train": len(x), "val": len(x_val), "test": len(x_test)},
        "pixels_fitted_apart": _apart(x, x_test),
        **{kind: _summary(one) for kind, one in log_p.items()},
        "averaging_gain": gain,
    }
    return {
        "numbers": numbers,
        "images": {name: rows.reshape(-1, 8, 8) for name, rows in images.items()},
    }


def binary(x: np.ndarray) -> np.ndarray:
    """Take dequantised levels back to integers, and those to 0 and 1."""
    return (quantize(x, LEVELS) >= THRESHOLD).astype(int)


def _fit(models: list, model, x_train, x_val, **options) -> afnp.train.History:
    """Train as ``afnp.fit``, or take the same training's result from the cache; keep the model."""
    models.append(model)
    return trained(model, x_train, x_val, **options)[1]


def _apart(x: np.ndarray, x_test: np.ndarray) -> float:
    """Return the test log-likelihood, in nats, of pixels that know nothing of each other."""
    p = (x.sum(axis=0) + 0.5) / (len(x) + 1)
    return float(np.where(x_test, np.log(p), np.log(1 - p)).sum(axis=1).mean())


def average(log_p: np.ndarray) -> np.ndarray:
    """Return the log-probability under the mean of k distributions, from (k, N)."""
    return logsumexp(log_p, axis=0) - np.log(len(log_p))


def _summary(log_p: np.ndarray) -> dict:
    """Compare k orders with their average, from log p (k, N) of test rows."""
    alone = log_p.mean(axis=1)
    together = average(log_p)
    return {
        "alone": alone,
        "averaged": together.mean(),
        "gain_over_the_best": _mean_and_error(together - log_p[alone.argmax()]),
        "gain_over_the_mean": _mean_and_error(together - log_p.mean(axis=0)),
        "averaged_by_number": [
            np.mean(
                [
                    average(log_p[list(some)]).mean()
                    for some in itertools.combinations(range(len(log_p)), k)
                ]
            )
            for k in range(1, len(log_p) + 1)
        ],
    }


def _mean_and_error(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


# ---- the picture ---------------------------------------------------------------------------------


def draw(data: dict) -> Figure:
    numbers = data["numbers"]
    figure = Figure(figsize=(12, 5))
    grid = figure.add_gridspec(2, 3, width_ratios=(1.5, 1, 0.62))
    _draw_alone(figure.add_subplot(grid[:, 0]), numbers)
    _draw_numbers(figure.add_subplot(grid[:, 1]), numbers)
    for k, (name, rows) in enumerate(data["images"].items()):
        _draw_images(figure.add_subplot(grid[k, 2]), name, rows)
    caption(figure, _claim(numbers))
    apart = f"{numbers['pixels_fitted_apart']:.1f}".replace("-", "−")
    note(
        figure,
        f"{numbers['rows']['train']:,} training and {numbers['rows']['test']} test images of 64 "
        f"binary pixels. Pixels that know nothing of each other: {apart} nats.",
    )
    return figure


def _claim(numbers: dict) -> str:
    gains = (
        "{:+.2f} ± {:.2f} nats with {}".format(*numbers[kind]["gain_over_the_best"], words)
        for kind, (words, _) in KINDS.items()
    )
    return (
        f"Averaged orders against the best single one on test images: {'; '.join(gains)}".replace(
            "-", "−"
        )
    )


def _draw_alone(ax, numbers: dict) -> None:
    for y, (kind, (words, color)) in enumerate(KINDS.items()):
        found = numbers[kind]
        ax.plot(
            found["alone"],
            np.full(ORDERS, y),
            "o",
            color=COLORS[color],
            markerfacecolor="white",
            markersize=8,
        )
        ax.plot(found["averaged"], y, "D", color=COLORS[color], markersize=9)
        text = "{:+.2f} ± {:.2f} over the best, {:+.2f} ± {:.2f} over their mean, nats".format(
            *found["gain_over_the_best"], *found["gain_over_the_mean"]
        ).replace("-", "−")
        ax.text(
            0.0, y - 0.12, words, transform=ax.get_yaxis_transform(), va="bottom", fontweight="bold"
        )
        ax.text(
            0.0,
            y + 0.12,
            f"average (◆): {text}",
            transform=ax.get_yaxis_transform(),
            va="top",
            fontsize=9,
        )
    ax.set(ylim=(1.6, -0.6), yticks=(), xlabel="test log-likelihood, nats an image; ○ one order")
    ax.margins(x=0.1)
    ax.spines["left"].set_visible(False)


def _draw_numbers(ax, numbers: dict) -> None:
    lines = {kind: numbers[kind]["averaged_by_number"] for kind in KINDS}
    upper = max(lines, key=lambda kind: lines[kind][-1])
    for kind, (words, color) in KINDS.items():
        ax.plot(np.arange(1, ORDERS + 1), lines[kind], "o-", color=COLORS[color])
        above = kind == upper
        ax.annotate(
            words.split(",")[0],
            (ORDERS - (not above), lines[kind][-1 if above else -2]),
            (8, 8 if above else -8),
            textcoords="offset points",
            ha="right" if above else "left",
            va="bottom" if above else "top",
            color=COLORS[color],
        )
    ax.set(
        xlabel="orders averaged",
        ylabel="test log-likelihood, nats an image",
        xticks=range(1, ORDERS + 1),
    )
    ax.margins(y=0.15)


def _draw_images(ax, name: str, rows: np.ndarray) -> None:
    tiles = np.pad(rows.astype(float), ((0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    half = len(tiles) // 2
    ax.imshow(np.block([[*tiles[:half]], [*tiles[half:]]]), cmap="gray_r", vmin=0, vmax=1)
    ax.set(xticks=(), yticks=(), title=name)
    ax.spines[:].set_visible(False)
