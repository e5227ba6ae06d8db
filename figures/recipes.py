r"""Training recipes that several figures share, so that each flow is trained once.

.. math:: \log p(z) = \log p(x) - \log\left|\det \frac{\partial z}{\partial x}\right|

x is the data in its own units, z the same data after the flow's fixed first layers (standardised,
and for images dequantised and spread by the logit before): the space in which likelihoods of a data
set are usually reported.

Letters: N rows, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

import afnp
from afnp.chain_rule import GaussianChain
from afnp.data import Dataset
from afnp.train import History
from afnp.verify import check_flow
from figures.common import trained

__all__ = [
    "FAMILY",
    "SPLITS",
    "Recipe",
    "checked",
    "digits",
    "digits_family",
    "galaxies",
    "galaxies_family",
    "gaussian",
    "log_probs",
    "standardize",
    "two_moons",
]

SPLITS = ("train", "val", "test")

FAMILY: dict[str, Callable[..., afnp.Flow]] = {
    "MADE": partial(afnp.maf, transforms=1),
    "MAF": partial(afnp.maf, transforms=5),
    "RealNVP": partial(afnp.realnvp, transforms=6),
    "spline flow": partial(afnp.nsf, transforms=3),
    "MAF MoG": partial(afnp.maf_mog, transforms=5),
}
"""The members that the figures of real data compare, each as deep as it is usually built."""


class Recipe(NamedTuple):
    """A data set, and the flows that were trained on it."""

    data: Dataset
    flows: dict[str, afnp.Flow]
    histories: dict[str, History]


def two_moons(quick: bool = False) -> Recipe:
    """MAF of six transforms; tanh makes its density smooth, so that quadrature converges fast."""
    data = _fewer(afnp.data.load("two_moons"), 4000 if quick else None)
    flow = afnp.maf(
        2, (64, 64), transforms=6, activation="tanh", preprocess=afnp.preprocessing(data.train)
    )
    return _train(
        data, {"MAF": flow}, epochs=10 if quick else 80, batch_size=200, learning_rate=5e-3
    )


def digits(quick: bool = False) -> Recipe:
    """MADE and MAF(5) on 1,297 digits, stopped early by validation."""
    return _digits(quick, ("MADE", "MAF"))


def digits_family(quick: bool = False) -> Recipe:
    """Every member on 1,297 digits, pixels in raster and random orders, stopped early."""
    return _digits(quick, FAMILY, ("", ", random orders"))


def _digits(quick: bool, members: Iterable[str], orders: Iterable[str] = ("",)) -> Recipe:
    data = afnp.data.load("digits")
    flows = {
        name + order: flow
        for order in orders
        for name, flow in _flows(data, members, 256, order).items()
    }
    return _train(
        data, flows, epochs=3 if quick else 60, batch_size=100, learning_rate=1e-3, patience=6
    )


def galaxies(quick: bool = False) -> Recipe:
    """MADE and MAF(5) on 16,000 galaxies."""
    return _galaxies(quick, ("MADE", "MAF"))


def galaxies_family(quick: bool = False) -> Recipe:
    """Every member on 16,000 galaxies."""
    return _galaxies(quick, FAMILY)


def _galaxies(quick: bool, members: Iterable[str]) -> Recipe:
    data = _fewer(afnp.data.load("galaxies"), 3000 if quick else None)
    flows = _flows(data, members, 128)
    return _train(data, flows, epochs=4 if quick else 40, batch_size=100, learning_rate=2e-3)


def _fewer(data: Dataset, rows: int | None) -> Dataset:
    return replace(data, train=data.train[:rows])


def _flows(
    data: Dataset, members: Iterable[str], width: int, order: str = ""
) -> dict[str, afnp.Flow]:
    """Build members with two hidden layers of a width; orders or halves may be random."""
    fixed = afnp.preprocessing(data.train, levels=data.levels)
    return {
        name: FAMILY[name](
            data.train.shape[1],
            (width, width),
            dtype=np.float32,
            preprocess=fixed,
            **({"split" if name == "RealNVP" else "order": "random"} if order else {}),
        )
        for name in members
    }


def _train(data: Dataset, flows: dict[str, afnp.Flow], **fit_options) -> Recipe:
    histories = {
        name: trained(flow, data.train, data.val, **fit_options)[1] for name, flow in flows.items()
    }
    return Recipe(data, flows, histories)


def checked(flow: afnp.Flow) -> dict:
    """Check what the density of a flow of many features rests on; return what passed.

    Round trips and dependencies by bits would take as long as training; ``figures.common.verified``
    looks at them.

    Raises
    ------
    AssertionError
        If a check fails: no figure is drawn of a flow that is not one.
    """
    report = check_flow(flow, parameters="own", checks=("triangular", "log_det"), level="quick")
    report.raise_if_failed()
    return {"passed": report.passed, "not_run": report.not_run}


# ---- scores --------------------------------------------------------------------------------------


def standardize(flow: afnp.Flow, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Map x (N, D) through the flow's fixed first layers to z; also log|det dz/dx| (N,), nats."""
    log_det = np.zeros(len(x))
    for layer in flow.layers:
        if layer.layout.size:
            break
        x, log_det_layer, _ = layer.normalize({}, x, None)
        log_det = log_det + log_det_layer
    return x, log_det


def gaussian(recipe: Recipe) -> GaussianChain:
    """Fit a Gaussian of full covariance to training rows in z: a flow that needs no training."""
    z, _ = standardize(recipe.flows["MAF"], recipe.data.train)
    return GaussianChain(z.mean(axis=0), np.cov(z, rowvar=False, bias=True))


def log_probs(recipe: Recipe) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Score the Gaussian and every flow on every split: log p(z) and log p(x), each (N,), nats."""
    normal = gaussian(recipe)
    scores = {name: {} for name in ("Gaussian", *recipe.flows)}
    for split in SPLITS:
        x = getattr(recipe.data, split)
        z, log_det = standardize(recipe.flows["MAF"], x)
        log_p = normal.log_prob(z)
        scores["Gaussian"][split] = log_p, log_p + log_det
        for name, flow in recipe.flows.items():
            log_p = flow.log_prob(x).astype(np.float64)
            scores[name][split] = log_p - log_det, log_p
    return scores
