r"""Atoms: values that many samples share, and what rounding alone explains of them.

.. math:: \max_v |\{n : x_{ni} = v\}| \le 10 + 10\, n / \text{distinct values that rounding leaves}

Letters: n samples, D features.
"""

from __future__ import annotations

import numpy as np

from afnp.verify.results import NotRun
from afnp.verify.subject import Subject

__all__ = [
    "COLLISIONS",
    "atoms",
    "distinct_rows",
    "images",
    "moved_too_far",
    "refuse_blurred",
    "repeated",
    "rounded_to_atoms",
    "row_keys",
]

BLUR, BLUR_ROWS, FEWEST = 0.01, 200, 128
"""Noise of so many rows is looked at, or of a flow that costs much of fewer; rounding may move it
by so much, there and back, in 1 of 100 rows."""

DIGITS = 4
"""Rounding moves samples by so many of their last digits."""

COLLISIONS = 10
"""So many pairs of equal rows are luck where none are expected."""


def atoms(x: np.ndarray) -> int:
    """Return how many rows of x share a feature's value with more others than rounding explains.

    Examples
    --------
    >>> atoms(np.random.default_rng(0).normal(size=(100, 2))), atoms(np.ones((100, 2)))
    (0, 100)
    """
    counts = [np.unique(column, return_counts=True)[1].max(initial=0) for column in x.T]
    allowed = [COLLISIONS + 10 * len(x) / distinct_rows(column[:, None]) for column in x.T]
    return max(
        (int(c) for c, most in zip(counts, allowed, strict=True) if c > min(most, len(x) / 2)),
        default=0,
    )


def images(
    subject: Subject, rng: np.random.Generator, n: int, context: np.ndarray | None = None
) -> np.ndarray:
    """Return rows generated from noise, none of them if that is not possible."""
    if subject.generate is None:
        return np.empty((0, subject.features))
    u, c = subject.points.noise(rng, n, scales=(1.0,))
    return subject.generate(u, c if context is None else context)[0]


def rounded_to_atoms(subject: Subject, rng: np.random.Generator, x: np.ndarray) -> int:
    """Return how many samples rounding puts into one place.

    Where noise that is generated lands there too.
    """
    found = atoms(x)
    return found if found and atoms(images(subject, rng, len(x))) else 0


def distinct_rows(x: np.ndarray) -> float:
    """Return how many different rows rounding leaves, roughly.

    Each feature's width in units of its last digit.
    """
    low, high = np.quantile(x.astype(np.float64), [0.1, 0.9], axis=0)
    digit = np.finfo(x.dtype).eps * np.maximum(np.abs(low), np.abs(high))
    return float(np.prod(np.clip((high - low) / np.maximum(digit, 1e-300), 1, 2.0**23)))


def row_keys(x: np.ndarray) -> np.ndarray:
    """Return each row as one thing that can be compared."""
    rows = np.ascontiguousarray(x)
    return rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()


def repeated(again: np.ndarray, x: np.ndarray) -> bool:
    """Return whether half of the rows come again, beyond chance.

    How many of one half of x stand in its other half, too, is what rounding brings together; twice
    as many of all rows may stand among all.
    """
    keys, half = row_keys(x), len(x) // 2
    chance = np.isin(keys[half:], keys[:half]).mean()
    return bool(np.isin(row_keys(again), keys).mean() > 0.5 + 2 * chance)


def refuse_blurred(subject: Subject) -> None:
    """Raise NotRun where rounding alone parts sampler and density.

    Noise does not survive there and back.
    """
    if subject.normalize is None or subject.generate is None:
        return
    _refuse(subject.points.once(("blurred",), _blurred))


def moved_too_far(
    subject: Subject, x: np.ndarray, c: np.ndarray, u: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Return of which samples x (n, D) rounding moves the noise u by more than it may, (n,) bool.

    A few far out have no noise to speak of, and one would spoil a mean.

    Raises
    ------
    NotRun
        If those are more than 1 of 100.
    """
    tolerance = subject.tolerance
    moves = tolerance.rounding(
        lambda a: a.normalize(x.astype(tolerance.precise), c)[0], rng, count=2
    )
    blurred = np.any(~(moves / tolerance.safety < BLUR), axis=1)
    # at the edge of a support the next number may be far from where the last digits point
    for digits in (-DIGITS, DIGITS):
        beside = (x * (1 + digits * np.finfo(x.dtype).eps)).astype(x.dtype)
        try:
            there = subject.normalize(beside, c)[0]  # type: ignore[misc]
        except (ValueError, ArithmeticError):  # beyond the edge
            continue
        blurred |= np.any(~(np.abs(subject.difference(there, u)) < BLUR), axis=1)
    _refuse(float(blurred.mean()))
    return blurred


def _refuse(blurred: float) -> None:
    if blurred > 0.01:
        raise NotRun(
            f"rounding moves the noise of {blurred:.0%} of the samples by more than {BLUR:g}"
        )


def _blurred(subject: Subject, rng: np.random.Generator) -> float:
    """Return of which part of the samples rounding moves the noise too far."""
    u, c = subject.points.noise(rng, subject.worth(BLUR_ROWS, FEWEST), (1.0,))

    def there_and_back(arithmetic) -> np.ndarray:
        return arithmetic.normalize(arithmetic.generate(u.astype(arithmetic.dtype), c)[0], c)[0]

    tolerance = subject.tolerance
    moves = tolerance.rounding(there_and_back, rng, count=2) / tolerance.safety
    x, _ = tolerance.own.generate(u, c)
    back = tolerance.own.normalize(x, c)[0]
    known = np.isfinite(back).all(axis=1)  # samples so far out that none other is beside them
    # other noise, but the same sample to half its digits
    away = known & (np.abs(subject.difference(back, u)) > BLUR).any(axis=1)
    there = np.array(x)
    if away.any():
        there[away] = tolerance.own.generate(back[away], c[away])[0]
    close = np.sqrt(tolerance.eps) * (1 + np.abs(x))
    same = (np.abs(subject.difference(there, x)) < close).all(axis=1)
    return float(np.mean(~known | ~(moves < BLUR).all(axis=1) | away & same))
