r"""Check of randomness: samples come from the generator that is given, and from nowhere else.

.. math:: x(\text{seed}) = x(\text{seed}) \text{ bitwise}, \qquad
          x(\text{seed}) \ne x(\text{seed}'), \qquad \operatorname{corr}(x_n, x_{n + k}) \approx 0

Letters: n samples, D features.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from afnp.verify.atoms import COLLISIONS, atoms, distinct_rows, images, repeated, row_keys
from afnp.verify.results import Result, check, collect, compare
from afnp.verify.rows import batch_size
from afnp.verify.subject import Subject

__all__ = ["randomness"]

LAGS = (1, 2, 3, 7)
"""Distances at which rows are compared; half of all rows is one more."""

FALSE_ALARM = 1e-6
"""Probability that independent rows look correlated, over all lags and features together."""


@check("C12")
def randomness(subject: Subject, rng: np.random.Generator) -> Result:
    r"""Equal seeds give equal samples, different ones different samples.

    No row repeats, and none depends on another.

    .. math:: |r_k| \le \sqrt{2 \log(2 m / \alpha) / (n - k)}, \qquad
              \text{pairs of equal rows}
              \le 10 + \tfrac{n^2}{2} / \text{distinct rows that rounding leaves}

    r_k is the correlation of ranks at lag k, of m in all, so tails do not matter.
    """
    subject.need("sample")
    n = int(np.clip(subject.level.samples, 200, 4000)) + batch_size(rng)
    c = np.repeat(subject.points.contexts(rng, 1), n, axis=0)
    problems = _wrong_seeds(subject, rng)
    generator = np.random.default_rng(rng.integers(2**63))
    state = generator.bit_generator.state
    x = subject.draw(n, generator, c)
    if generator.bit_generator.state == state:
        problems.append("sample takes nothing from the generator that it is given")
    again = subject.draw(n, generator, c)
    if repeated(again, x):
        problems.append("the next sample from one generator repeats the last one")
    pairs = _equal_pairs(x)
    if pairs > COLLISIONS + n**2 / 2 / distinct_rows(x) and not _rounded_to_pairs(
        subject, rng, c, pairs
    ):
        problems.append(f"{pairs} pairs of equal rows among {n}")
    if problems:
        return collect(problems, "exact")
    return _correlations(x, again)


def _rounded_to_pairs(
    subject: Subject, rng: np.random.Generator, c: np.ndarray, pairs: int
) -> bool:
    """Return whether rounding alone makes so many equal rows.

    Of noise that is generated, about as many are.
    """
    others = images(subject, rng, len(c), c)
    return bool(atoms(others)) or pairs <= COLLISIONS + 4 * _equal_pairs(others)


def _wrong_seeds(subject: Subject, rng: np.random.Generator) -> list[str]:
    """Say what is wrong with how seeds are used."""
    n, seed = batch_size(rng), int(rng.integers(2**31))
    c = subject.points.contexts(rng, n)
    one, same, other = (
        subject.draw(n, np.random.default_rng(s), c) for s in (seed, seed, seed + 1)
    )
    problems = (
        [] if np.array_equal(one, same, equal_nan=True) else ["sample differs for the same seed"]
    )
    if (one == other).all(axis=1).mean() > 0.5:
        problems.append("sample is the same for another seed")
    return problems


def _equal_pairs(x: np.ndarray) -> int:
    """Count the pairs of rows that are equal, bit by bit."""
    counts = np.unique(row_keys(x), return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())


def _ranks(x: np.ndarray) -> np.ndarray:
    """Return the ranks of each feature, of mean 0 and variance 1.

    Equal values share their mean rank: in their order, they would look correlated.
    """
    return np.stack([_middle_ranks(values) for values in x.T], axis=1)


def _middle_ranks(values: np.ndarray) -> np.ndarray:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    n, middles = len(values), np.cumsum(counts) - (counts + 1) / 2
    return (middles[which.reshape(n)] - (n - 1) / 2) / np.sqrt((n**2 - 1) / 12)


def _correlations(x: np.ndarray, again: np.ndarray) -> Result:
    """Judge rank correlations at every lag, and between two samples from one generator."""
    r, n = _ranks(x), len(x)
    lags = (*LAGS, n // 2)
    products = [r[:-k] * r[k:] for k in lags] + [r * _ranks(again)]
    measured = np.abs([product.mean(axis=0) for product in products])
    counts = np.array([len(product) for product in products])[:, None]
    bound = np.sqrt(2 * np.log(2 * measured.size / FALSE_ALARM) / counts) * np.ones_like(measured)
    why = f"false alarms < {FALSE_ALARM:.0e}; {n} rows show a correlation of {2 * bound.max():.2f}"
    result = compare(measured, bound, why, ("lag", "feature"))
    if result.status == "passed":
        return dataclasses.replace(result, worst={})
    k = result.worst["lag"]
    between = f"rows {lags[k]} apart" if k < len(lags) else "successive samples"
    return dataclasses.replace(result, reason=f"{between} are correlated: {result.measured:.2f}")
