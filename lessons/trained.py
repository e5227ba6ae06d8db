r"""The lessons' trainings: kept while the site is built, taken up where code is slow, in a browser.

A training is known by the flow that it begins with, its options and its rows; where it was kept,
``afnp.fit`` ends at once as it did then,

.. math:: (\text{flow}, \theta_0, \text{options}, x) \mapsto (\theta, \text{history}).

Whatever a reader changes is another training, and is run.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

import afnp
from afnp.train import History

__all__ = ["keep", "key", "recall"]

DIGITS = 6
"""Numbers that agree to so many are the same: other machines round the last ones otherwise."""


def keep(folder: Path) -> None:
    """Let ``afnp.fit`` leave in a folder what each training ends with."""
    afnp.fit = _kept(afnp.fit, folder)


def recall(folder: Path) -> None:
    """Let ``afnp.fit`` take up the trainings that a folder holds."""
    afnp.fit = _recalled(afnp.fit, folder)


def _kept(fit: Callable[..., History], folder: Path) -> Callable[..., History]:
    @functools.wraps(fit)
    def run(flow, *rows, **options):
        name, before = key(flow, rows, options), flow.config()
        history = fit(flow, *rows, **options)
        if flow.config() == before:  # else theta is not all that was learned
            folder.mkdir(parents=True, exist_ok=True)
            told = json.dumps(asdict(history))
            np.savez_compressed(folder / f"{name}.npz", theta=flow.theta, history=told)
        return history

    return run


def _recalled(fit: Callable[..., History], folder: Path) -> Callable[..., History]:
    @functools.wraps(fit)
    def run(flow, *rows, **options):
        path = folder / f"{key(flow, rows, options)}.npz"
        if not path.is_file():
            return fit(flow, *rows, **options)
        with np.load(path) as found:
            flow.theta = found["theta"]
            print("trained before, and taken up: in a browser it would take a minute")
            return History(**json.loads(str(found["history"])))

    return run


def key(flow: afnp.Flow, rows: tuple, options: dict) -> str:
    """Return the name of a training.

    Examples
    --------
    >>> flow, x = afnp.maf(2, hidden=(4,)), np.eye(2)
    >>> key(flow, (x,), {"epochs": 1}) == key(flow, (x + 1e-9,), {"epochs": 1})
    True
    >>> key(flow, (x,), {"epochs": 1}) == key(flow, (x,), {"epochs": 2})
    False
    """
    said = [flow.config(), _summary(flow.theta), [_summary(x) for x in rows], options]
    return hashlib.sha256(json.dumps(_rounded(said), sort_keys=True).encode()).hexdigest()[:20]


def _summary(x) -> list:
    """Return the shape of an array, and a few of its moments; anything else as it is."""
    if not isinstance(x, np.ndarray):
        return [x]
    y = x.astype(np.float64).ravel()
    places = np.linspace(-1, 1, y.size)
    return [list(x.shape), y.mean(), y.std(), np.abs(y).mean(), (places * y).std()]


def _rounded(said):
    """Return what was said, numbers to some digits, arrays by their summaries."""
    if isinstance(said, dict):
        return {name: _rounded(value) for name, value in said.items()}
    if isinstance(said, list | tuple):
        return [_rounded(value) for value in said]
    if isinstance(said, np.ndarray):
        return _rounded(_summary(said))
    return f"{said:.{DIGITS}g}" if isinstance(said, float) else str(said)
