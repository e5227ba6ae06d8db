r"""Mutants: small named defects, each planted in a small clean flow of its own.

.. math:: \text{killed}(m) \iff \exists\, k: \; \text{check}_k(m(f)) \text{ fails}, \qquad
          \text{no check fails on } f

A check that nobody has seen fail proves nothing. Every mutant is a function that makes a fresh flow
wrong, in place; its docstring says what is wrong and, after the colon, which mistake in real code
it imitates.

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from afnp.verify.mutants.clean import FLOWS, PLAIN
from afnp.verify.report import Report
from afnp.verify.runner import check_flow

__all__ = [
    "MUTANTS",
    "Mutant",
    "check_planted",
    "mutant",
    "relog",
    "replace",
    "sample_from",
    "share_noise",
]

MUTANTS: dict[str, Mutant] = {}
"""Every mutant by its name, theme by theme."""


@dataclass(frozen=True)
class Mutant:
    """One defect.

    Attributes
    ----------
    name, theme : str
        The function's name and its module's: the themes of the kill matrix.
    family : str
        The clean flow in which it is planted, a name in ``FLOWS``.
    what : str
        What is wrong, and which mistake that imitates.
    apply : callable
        Makes a fresh flow wrong, in place.
    kills : str
        The check that is there to catch it.
    backends : tuple of str
        Renderings that are checked: a defect in the NumPy rendering is not left to the comparison
        with Numba.
    equivalent : str
        Why no check can see it, where that is so.
    """

    name: str
    theme: str
    family: str
    what: str
    apply: Callable[[Any], None]
    kills: str
    backends: tuple[str, ...] = ("numpy",)
    equivalent: str = ""

    @property
    def kind(self) -> str:
        """What it is planted in, as reports name it: one of afnp's flows, or plain functions."""
        return "functions" if self.family in PLAIN else "flow"

    def planted(self) -> Any:
        """Return a fresh flow, or functions, with the defect in it."""
        flow = FLOWS[self.family]()
        self.apply(flow)
        return flow


def mutant(family: str, kills: str, backends: tuple[str, ...] = ("numpy",), equivalent: str = ""):
    """Register a function as a mutant of the flow ``FLOWS[family]``, to be killed by a check."""

    def enter(apply: Callable[[Any], None]) -> Callable[[Any], None]:
        name, theme = apply.__name__, apply.__module__.rpartition(".")[2]
        if name in MUTANTS:
            raise ValueError(f"mutant: expected a new name, got {name!r} again")
        what = " ".join((apply.__doc__ or "").split())
        MUTANTS[name] = Mutant(name, theme, family, what, apply, kills, backends, equivalent)
        return apply

    return enter


def replace(owner: Any, name: str) -> Callable:
    """Put a function in the place of ``owner.name``; it takes what was there as its first argument.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> owner = SimpleNamespace(double=lambda x: 2 * x)
    >>> @replace(owner, "double")
    ... def and_one(double, x):
    ...     return double(x) + 1
    >>> owner.double(3)
    7
    """
    original = getattr(owner, name)

    def put(function: Callable) -> Callable:
        setattr(owner, name, functools.partial(function, original))
        return function

    return put


def sample_from(functions: Any, generate: Callable, change: Callable) -> None:
    """Let plain functions sample by ``generate`` from the noise ``change(u, rng)``."""
    features = functions.features

    def sample(n, rng):
        rng = np.random.default_rng(rng)
        return generate(change(rng.standard_normal((n, features)), rng))[0]

    functions.sample = sample


def share_noise(u: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return noise (N, D) of which features share a fifth: a random number is drawn for the row."""
    return 0.9 * u + np.sqrt(1 - 0.9**2) * rng.standard_normal((len(u), 1))


def relog(layer: Any, change: Callable) -> None:
    """Pass the log-determinants of both directions through ``change``: wrong, they still cancel."""

    @replace(layer, "normalize")
    def normalize(normalize, *arguments):
        u, log_det, *cache = normalize(*arguments)
        return u, change(log_det), *cache

    @replace(layer, "generate")
    def generate(generate, *arguments):
        x, log_det = generate(*arguments)
        return x, change(log_det)


def check_planted(flow: Any, backends: tuple[str, ...] = ("numpy",), **options: Any) -> Report:
    """Run the checks on a flow, or on a namespace of functions.

    What a defect makes NumPy warn of is no finding.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if isinstance(flow, SimpleNamespace):
            return check_flow(**vars(flow), time_limit=None, **options)
        return check_flow(flow, backends=backends, time_limit=None, **options)
