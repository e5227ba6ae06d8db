r"""Bridges between samples and a proposal: what density and sampler must have in common, in any D.

Rows are drawn by coins: heads from the sampler, tails from a proposal q. If samples have the
density p, then each row, given where it lies, is a sample with the known probability

.. math:: \sigma(\ell) = \frac{1}{1 + e^{-\ell}}, \qquad \ell = \log p(x) - \log q(x),

so that for every bounded function :math:`\phi` of the places

.. math:: \operatorname{E}_p[\phi\, \sigma(-\ell)] = \operatorname{E}_q[\phi\, \sigma(\ell)],
          \qquad \Big| \sum_n \phi_n\, (b_n - \sigma(\ell_n)) \Big|
          \le \sqrt{2 V t} + \tfrac{M t}{3}, \quad V = \sum_n \phi_n^2\, \sigma(1 - \sigma)

with :math:`b_n` = 1 for samples, :math:`M = \max |\phi|` and :math:`t = \log(2 / \alpha)`
(Bernstein's inequality). Nothing here is a ratio that may become large: heavy tails raise no alarm,
and a bad proposal only sees less. The constant c for which the first holds with
:math:`\phi = 1` and :math:`\ell - c` is the best bridge between the two sets (Meng and Wong 1996,
Statistica Sinica 6, 831): :math:`e^c` is the integral of p.

Letters: N rows of both kinds, D features.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from afnp.verify.atoms import atoms, refuse_blurred
from afnp.verify.proposal import Proposal
from afnp.verify.results import Finding, NotRun
from afnp.verify.subject import Subject
from afnp.verify.uniform import FALSE_ALARM, Statistic

__all__ = ["Bridge", "Total", "bridge_of", "shape_tests", "tempered", "total"]

FITTED = 8000
"""The proposal is fitted to so many samples, at most, which are not looked at again."""

MOST = 8
"""At most so many features are looked at alone, and in pairs."""

BLUR, NUDGED, DIGITS = 0.05, 1000, 4
"""Moved by so many of their last digits, 1 of 100 samples may have another log-density by BLUR."""

MOST_DOUBT = 1.0
"""A bridge that knows the constant no better says nothing of the shape."""

FAR, EXACT = 1e30, 1e-7
"""The constant is looked for no farther out, and so exactly."""

SURE = 2.33
"""What is said to be seen is seen in 99 of 100 cases."""


class Bridge(NamedTuple):
    """N rows, of which coins decided who drew them."""

    log_p: np.ndarray
    """(N,) as the subject says."""
    log_q: np.ndarray
    """(N,) of the proposal."""
    sampled: np.ndarray
    """(N,) bool: of the sampler, not of the proposal."""
    places: np.ndarray
    """(N, D) in the proposal's coordinates."""

    @property
    def log_ratio(self) -> np.ndarray:
        """Log p/q (N,)."""
        with np.errstate(invalid="ignore"):
            return np.where(np.isneginf(self.log_p), -np.inf, self.log_p - self.log_q)


class Total(NamedTuple):
    """The integral of the density, as the best bridge estimates it."""

    log_integral: float
    deviation: float
    """Standard error of ``log_integral``."""
    measured: float
    """How far the mean of sigma(-l) over samples is from that of sigma(l) over proposals."""
    bound: float
    """How far they may be."""
    slope: float
    """How fast they part if the log-density is off by a constant."""
    overlap: float
    """How much samples and proposals have in common, from 0 to 1."""
    rows: int

    @property
    def seen(self) -> float:
        """Which constant would be seen, in 99 of 100 cases, at least."""
        return self.doubt + SURE * self.deviation

    @property
    def doubt(self) -> float:
        """How well the constant is known, but for one case in a million."""
        return self.bound / self.slope if self.slope > 0 else math.inf

    def __str__(self) -> str:
        """Say how good the estimate is."""
        return (
            f"bridge sampling: {self.rows} rows of samples and of a fitted proposal overlap by "
            f"{self.overlap:.0%}, standard error {self.deviation:.1e}, false alarms < "
            f"{FALSE_ALARM:.0e}; a constant of {self.seen:.2g} would be seen"
        )


def bridge_of(subject: Subject) -> Bridge:
    """Return the bridge between a subject's samples and a proposal, at one random context.

    The same for all checks.

    Raises
    ------
    NotRun
        If samples share values, or rounding moves their log-density too far.
    Finding
        If a sample, or the log-density of a finite row, is not a number.
    """
    return subject.points.once(("bridge",), _built)


def _built(subject: Subject, rng: np.random.Generator) -> Bridge:
    refuse_blurred(subject)
    context = subject.points.contexts(rng, 1)
    count = 2 * subject.worth(subject.level.noise, 1000)

    def drawn(n: int) -> np.ndarray:
        c = np.repeat(context, n, axis=0)
        x = subject.draw(n, np.random.default_rng(rng.integers(2**63)), c)
        if not np.isfinite(x).all():
            raise Finding("sample gives numbers that are not finite")
        return x

    seen = drawn(min(count // 2, FITTED))
    shared = atoms(seen)
    if shared:
        raise NotRun(f"{shared} of {len(seen)} samples share values, as after rounding")
    proposal = Proposal(seen, rng, *_limits(subject, seen))
    sampled = rng.random(count) < 0.5
    rows = proposal.sample(count, rng).astype(seen.dtype)
    rows[sampled] = drawn(int(sampled.sum()))
    log_p = _density(subject, rows, np.repeat(context, len(rows), axis=0), sampled)
    _refuse_blurred(subject, rows[sampled][:NUDGED], context, log_p[sampled][:NUDGED], rng)
    return Bridge(log_p, proposal.log_prob(rows), sampled, proposal.coordinates(rows)[0])


def _density(subject: Subject, rows, c: np.ndarray, sampled: np.ndarray) -> np.ndarray:
    """Return log p (N,); what lies beyond the largest number has none."""
    log_p = np.full(len(rows), -np.inf)
    there = np.isfinite(rows).all(axis=1)
    log_p[there] = subject.log_prob(rows[there], c[there])  # type: ignore[misc]
    wrong = np.isnan(log_p) | np.isposinf(log_p)
    if not wrong.any():
        return log_p
    low, high = rows[sampled].min(axis=0), rows[sampled].max(axis=0)
    among = ((rows >= low) & (rows <= high)).all(axis=1)
    if (wrong & among).any():
        raise Finding(f"log_prob gives {log_p[wrong & among][0]} for a finite row")
    raise NotRun(f"log_prob gives {log_p[wrong][0]} beyond the samples; say data or support")


def _refuse_blurred(
    subject: Subject, x: np.ndarray, context: np.ndarray, log_p: np.ndarray, rng
) -> None:
    """Raise NotRun where the last digits of samples x (M, D) decide about their density."""
    digits = DIGITS * np.finfo(x.dtype).eps * rng.choice([-1.0, 1.0], size=x.shape)
    beside = np.clip(x * (1 + digits), x.min(axis=0), x.max(axis=0)).astype(x.dtype)
    again = subject.log_prob(beside, np.repeat(context, len(x), axis=0))  # type: ignore[misc]
    moved = float(np.mean(~(np.abs(again - log_p) <= BLUR) & ~np.isneginf(log_p)))
    if moved > 0.01:
        raise NotRun(f"rounding moves the log-density of {moved:.0%} of the samples by {BLUR:g}")


def _limits(subject: Subject, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return between what numbers (D,) proposals have to lie."""
    D, points = subject.features, subject.points
    if points.bounded is not None:
        return np.full(D, float(points.bounded[0])), np.full(D, float(points.bounded[1]))
    if points.data is None:
        return np.full(D, -np.inf), np.full(D, np.inf)
    rows = np.concatenate([points.data, seen]).astype(np.float64)
    return rows.min(axis=0), rows.max(axis=0)


def _sigma(l: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-l)), also for infinite l."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-l))


# ---- the integral --------------------------------------------------------------------------------


def total(bridge: Bridge) -> Total:
    r"""Return the integral of the density, and whether it may be 1.

    .. math:: \Big| \overline{\sigma(-\ell)} - \overline{\sigma(\ell)} \Big|
              \le \sum_{x, y} \sqrt{\frac{2 v t}{n}} + \frac{7 t}{3 (n - 1)}, \quad
              t = \log(8 / \alpha)

    The bound is of Maurer and Pontil (arXiv 0907.3740): it needs numbers between 0 and 1 and
    nothing else.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x, sampled = rng.standard_normal((20_000, 1)), rng.random(20_000) < 0.5
    >>> x[~sampled] *= 1.2
    >>> log_p, log_q = -x[:, 0] ** 2 / 2, -(x[:, 0] / 1.2) ** 2 / 2 - np.log(1.2)
    >>> good, off = (total(Bridge(log_p + c, log_q, sampled, x)) for c in (0.0, 0.1))
    >>> good.measured < good.bound, off.measured > off.bound, round(off.log_integral, 2)
    (True, True, 0.1)
    """
    ratio, sampled = bridge.log_ratio, bridge.sampled
    parts = [_sigma(-ratio[sampled]), _sigma(ratio[~sampled])]
    t = math.log(8 / FALSE_ALARM)
    counts = [max(len(part), 2) for part in parts]
    bounds = [
        math.sqrt(2 * float(part.var(ddof=1)) * t / n) + 7 * t / (3 * (n - 1))
        for part, n in zip(parts, counts, strict=True)
    ]
    c = _constant(ratio, sampled)
    at_best = [_sigma(c - ratio[sampled]), _sigma(ratio[~sampled] - c)]
    slope = float(sum(np.mean(np.maximum(part * (1 - part), 0)) for part in at_best))
    deviation = math.sqrt(
        sum(float(part.var(ddof=1)) / n for part, n in zip(at_best, counts, strict=True))
    )
    measured = abs(float(parts[0].mean() - parts[1].mean()))
    overlap = min(1.0, 2 * slope)
    deviation = deviation / slope if slope > 0 else math.inf
    return Total(c, deviation, measured, sum(bounds), slope, overlap, len(ratio))


def _constant(ratio: np.ndarray, sampled: np.ndarray) -> float:
    """Return the c for which sigma(c - l) of samples and sigma(l - c) of proposals have one mean.

    -inf if no row has both densities.
    """
    ours, theirs = ratio[sampled], ratio[~sampled]
    finite = ratio[np.isfinite(ratio)]
    if not len(finite):
        return -np.inf
    low, high = max(float(finite.min()), -FAR) - 50, min(float(finite.max()), FAR) + 50
    for _ in range(math.ceil(math.log2((high - low) / EXACT))):
        c = (low + high) / 2
        if np.mean(_sigma(c - ours)) < np.mean(_sigma(theirs - c)):
            low = c
        else:
            high = c
    return (low + high) / 2


# ---- the shape -----------------------------------------------------------------------------------


def shape_tests(bridge: Bridge, whole: Total, alpha: float) -> list[Statistic]:
    r"""Return whether samples lie where the density says, whatever its constant is.

    Nothing where the bridge does not even tell the constant.

    .. math:: \phi \in \{P_k(\text{rank of } \log p), P_k(\text{rank of } \ell),
              P_k(\text{rank of } x_i), P_1 P_1(\text{ranks of } x_i, x_j)\}, \quad k = 1, 2

    Parameters
    ----------
    bridge : Bridge
    whole : Total
        The bridge's.
    alpha : float
        Probability that any of the statistics is beyond its bound by chance.
    """
    if not whole.doubt < MOST_DOUBT:
        return []
    sigma, weight = _weighed(bridge, whole)
    functions = _functions(bridge)
    t = math.log(2 * len(functions) / alpha)
    tests = []
    for what, phi in functions:
        phi = _centred(phi, weight)
        sum_, bound = _bernstein(phi, bridge.sampled - sigma, weight, t)
        # the constant itself is known so well: to first order it does not matter
        bound += 0.05 * whole.doubt**2 * float(np.abs(phi).sum())
        tests.append(Statistic(what, abs(sum_) / len(phi), bound / len(phi)))
    return tests


def _weighed(bridge: Bridge, whole: Total) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability (N,) that each row is a sample, and the variance of that coin."""
    sigma = _sigma(bridge.log_ratio - whole.log_integral)
    return sigma, sigma * (1 - sigma)


def _functions(bridge: Bridge) -> list[tuple[str, np.ndarray]]:
    """Return functions of the places: names, and values (N,) between -sqrt 5 and sqrt 5."""
    D = min(bridge.places.shape[1], MOST)
    parts = [("log_prob", bridge.log_p), ("log_prob beside a mixture's", bridge.log_ratio)]
    parts += [(f"feature {i}", bridge.places[:, i]) for i in range(D)]
    found, first = [], []
    for name, values in parts:
        F = _ranks(values)
        first.append(_legendre(F, 1))
        found += [(f"the middle of {name}", first[-1]), (f"the spread of {name}", _legendre(F, 2))]
    own = first[2:]
    pairs = [(i, j) for i in range(D) for j in range(i)]
    return found + [(f"features {j} and {i} together", own[i] * own[j] / 3**0.5) for i, j in pairs]


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks in (0, 1), equal ones of equal values."""
    _, back, count = np.unique(values, return_inverse=True, return_counts=True)
    return ((np.cumsum(count) - count / 2) / len(values))[back.ravel()]


def _legendre(F: np.ndarray, k: int) -> np.ndarray:
    return np.sqrt(2 * k + 1) * np.polynomial.legendre.Legendre.basis(k)(2 * F - 1)


def _centred(phi: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return phi - np.average(phi, weights=weight) if weight.sum() > 0 else phi


def _bernstein(
    phi: np.ndarray, surprise: np.ndarray, weight: np.ndarray, t: float
) -> tuple[float, float]:
    """Return the sum of phi times surprise, and what chance allows it to be."""
    variance = float(np.sum(phi * phi * weight))
    return float(phi @ surprise), math.sqrt(2 * variance * t) + float(np.abs(phi).max()) * t / 3


def tempered(bridge: Bridge, whole: Total, alpha: float) -> float:
    r"""Return which temperature T - 1 would be seen in 99 of 100 cases: samples of p^(1 / T^2).

    .. math:: \log p - \log p^{1 / T^2} \approx 2 (T - 1) \log p + \text{const}

    By the statistic of log p, whose false alarms are alpha.
    """
    sigma, weight = _weighed(bridge, whole)
    t = math.log(2 / alpha)
    phi = _centred(_legendre(_ranks(bridge.log_p), 1), weight)
    known = np.isfinite(bridge.log_p)
    moved = 2 * abs(float(np.sum((phi * weight * bridge.log_p)[known])))
    needed = _bernstein(phi, bridge.sampled - sigma, weight, t)[1]
    needed += SURE * math.sqrt(float(np.sum(phi * phi * weight)))
    return needed / moved if moved > 0 else math.inf
