r"""Told the class, a flow mostly draws that digit; Bayes' rule reads the class of others back.

.. math:: P(y \mid x) = \frac{p(x \mid y)\, P(y)}{\sum_{y'} p(x \mid y')\, P(y')}, \qquad
          E \log \frac{p(x \mid y)}{\sum_{y'} p(x \mid y')\, P(y')} \le \log 10

A spline flow on 1,297 digits, the class one-hot as its condition, beside the same flow without. The
sum of the ten densities over equally likely classes is a density of images again; what p(x | y) is
above it is what the class tells of an image, at most log 10 = 2.30 nats. Classes are read by the
largest of the ten densities, which no training asked for; one nearest neighbour in grey levels is
the usual yardstick. The same neighbour, shown samples, says how many look like the class that was
given.

Likelihoods are in nats an image in the space where they are usually reported: dequantised, spread
by the logit, standardised.
"""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

import afnp
from afnp.data import Dataset, load, quantize
from afnp.train import History
from afnp.univariate.stable import logsumexp
from figures import recipes
from figures.common import COLORS, caption, note, trained

CLASSES = 10
EACH = 50
"""Samples of a class."""
SHOWN = 10
"""Those of them that are drawn."""
WITHOUT, SUM, GIVEN = "without the class", "sum over classes", "given the class"


def data(quick: bool = False) -> dict:
    known = load("digits")
    without, history = _fitted(known, quick, context=0)
    given, history_given = _fitted(known, quick, context=CLASSES)
    by_class = class_log_probs(given, known.test)
    truth = known.context_test.argmax(axis=1)
    log_p = {
        WITHOUT: without.log_prob(known.test).astype(np.float64),
        SUM: logsumexp(by_class, axis=0) - math.log(CLASSES),
        GIVEN: by_class[truth, np.arange(len(truth))],
    }
    read = by_class.argmax(axis=0)
    samples = _samples(given, known)
    numbers = {
        "rows": {"train": len(known.train), "val": len(known.val), "test": len(known.test)},
        **_likelihoods(log_p, recipes.standardize(given, known.test)[1]),
        "accuracy": (read == truth).mean(),
        "accuracy_of_nearest_neighbour": (
            _nearest(known, quantize(known.test, known.levels)) == truth
        ).mean(),
        "confusion": _confusion(truth, read),
        "samples": len(samples),
        "samples_read_as_given": (_nearest(known, samples) == _classes(len(samples))).mean(),
        "training": {WITHOUT: _training(history), GIVEN: _training(history_given)},
        **({} if quick else {"verified": recipes.checked(given)}),
    }
    return {"numbers": numbers, "samples": samples.reshape(CLASSES, EACH, 8, 8)[:, :SHOWN]}


def _fitted(known: Dataset, quick: bool, context: int) -> tuple[afnp.Flow, History]:
    """Train a spline flow with random orders; without a condition, that of the digits' figure."""
    fixed = afnp.preprocessing(known.train, levels=known.levels)
    flow = afnp.nsf(
        64,
        (256, 256),
        transforms=3,
        order="random",
        context=context,
        dtype=np.float32,
        preprocess=fixed,
    )
    given = {"context": known.context_train, "context_val": known.context_val} if context else {}
    options = {
        "epochs": 3 if quick else 60,
        "batch_size": 100,
        "learning_rate": 1e-3,
        "patience": 10,
    }
    return trained(flow, known.train, known.val, **options, **given)


def _training(history: History) -> dict:
    return {
        "seconds": history.seconds,
        "epochs": len(history.train_loss),
        "best_epoch": history.best_epoch + 1,
    }


def _likelihoods(log_p: dict, log_det: np.ndarray) -> dict:
    """Return likelihoods of test images in both units, and what knowing the class adds."""
    return {
        "test_nats_and_standard_error": {
            name: _mean_and_error(v - log_det) for name, v in log_p.items()
        },
        "bits_per_dim": {name: afnp.data.bits_per_dim(v, 64).mean() for name, v in log_p.items()},
        "told_by_the_class": _mean_and_error(log_p[GIVEN] - log_p[SUM]),
        "most_told": math.log(CLASSES),
        "lead_over_the_flow_without": _mean_and_error(log_p[SUM] - log_p[WITHOUT]),
    }


def class_log_probs(flow: afnp.Flow, x: np.ndarray) -> np.ndarray:
    """Return log p(x | y) of each row under each class, (10, N), nats."""
    return np.stack([flow.log_prob(x, np.tile(y, (len(x), 1))) for y in np.eye(CLASSES)]).astype(
        np.float64
    )


def _classes(n: int) -> np.ndarray:
    """Return n classes, as many of each, in order."""
    return np.repeat(np.arange(CLASSES), n // CLASSES)


def _samples(flow: afnp.Flow, known: Dataset) -> np.ndarray:
    """Return grey levels of EACH samples of every class, (10 EACH, 64)."""
    context = np.eye(CLASSES)[_classes(CLASSES * EACH)]
    return quantize(flow.sample(len(context), rng=0, context=context), known.levels)


def _nearest(known: Dataset, images: np.ndarray) -> np.ndarray:
    """Return the class of the nearest training image, for each row of images (N, 64)."""
    x = quantize(known.train, known.levels)
    squared = (x**2).sum(axis=1) - 2 * images @ x.T
    return known.context_train[squared.argmin(axis=1)].argmax(axis=1)


def _confusion(truth: np.ndarray, read: np.ndarray) -> np.ndarray:
    """Count pairs, rows the true class."""
    counts = np.zeros((CLASSES, CLASSES), dtype=int)
    np.add.at(counts, (truth, read), 1)
    return counts


def _mean_and_error(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


# ---- the picture ---------------------------------------------------------------------------------


def draw(data: dict) -> Figure:
    numbers = data["numbers"]
    figure = Figure(figsize=(13, 5.6))
    samples, confusion, scores = figure.subplots(1, 3, width_ratios=(1.15, 1, 0.95))
    _draw_samples(samples, data["samples"])
    _draw_confusion(confusion, np.asarray(numbers["confusion"]))
    _draw_scores(scores, numbers)
    caption(figure, _claim(numbers))
    note(figure, _small_print(numbers))
    return figure


def _claim(numbers: dict) -> str:
    drawn = numbers["samples_read_as_given"]
    read = numbers["accuracy"]
    return (
        f"Given the class, a flow draws that digit in {100 * drawn:.0f} % of samples; "
        f"Bayes' rule reads {100 * read:.1f} % of {numbers['rows']['test']} unseen digits"
    )


def _small_print(numbers: dict) -> str:
    return (
        f"By one nearest neighbour among {numbers['rows']['train']:,} training images: it reads "
        f"{100 * numbers['accuracy_of_nearest_neighbour']:.1f} % of the test images, and "
        f"{100 * numbers['samples_read_as_given']:.1f} % of {numbers['samples']} samples as the "
        "class given."
    )


def _draw_samples(ax, images: np.ndarray) -> None:
    tiles = np.pad(images.astype(float), ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    ax.imshow(np.block([[*row] for row in tiles]), cmap="gray_r", vmin=0, vmax=16)
    ax.set(xticks=(), yticks=np.arange(CLASSES) * 9 + 3.5, yticklabels=range(CLASSES))
    ax.set(title="samples, a row for each class", ylabel="class given")
    ax.tick_params(length=0)
    ax.set_anchor("N")
    ax.spines[:].set_visible(False)


def _draw_confusion(ax, confusion: np.ndarray) -> None:
    ax.imshow(np.sqrt(confusion), cmap="gray_r", vmin=0, vmax=1.6 * np.sqrt(confusion.max()))
    for (true, read), count in np.ndenumerate(confusion):
        if count:
            color = "ink" if true == read else "red"
            ax.text(read, true, count, ha="center", va="center", fontsize=9, color=COLORS[color])
    ax.set(xticks=range(CLASSES), yticks=range(CLASSES), xlabel="class read", ylabel="true class")
    ax.set_title("test images, by Bayes' rule")
    ax.tick_params(length=0)
    ax.set_anchor("N")
    ax.spines[:].set_visible(False)


def _draw_scores(ax, numbers: dict) -> None:
    for y, (name, (nats, error)) in enumerate(numbers["test_nats_and_standard_error"].items()):
        ax.errorbar(nats, y, xerr=2 * error, fmt="s", color=COLORS["ink"], capsize=3)
        text = f"{name}: {nats:.1f} nats, {numbers['bits_per_dim'][name]:.3f} bits/dim".replace(
            "-", "−"
        )
        ax.text(0.0, y - 0.16, text, transform=ax.get_yaxis_transform(), va="bottom")
    lead, error = numbers["lead_over_the_flow_without"]
    text = (
        "The class tells {:.2f} ± {:.2f} nats, at most log 10 = {:.2f}.\n"
        f"The sum is {abs(lead):.2f} ± {error:.2f} nats {'above' if lead > 0 else 'below'} the "
        "flow without."
    ).format(*numbers["told_by_the_class"], numbers["most_told"])
    ax.text(0.0, 2.35, text, transform=ax.get_yaxis_transform(), va="top", linespacing=1.4)
    ax.set(ylim=(3.0, -0.6), yticks=(), title="test log-likelihood")
    ax.set(xlabel="nats an image, ± 2 standard errors")
    ax.margins(x=0.15)
    ax.spines["left"].set_visible(False)
