r"""Check of the sampler against the density, which share no noise: probability integral transforms.

.. math:: x \sim p \;\Longrightarrow\; F_i(x) = \frac{\int_{-\infty}^{x_i} p(t, x_{-i})\, dt}
          {\int_{-\infty}^{\infty} p(t, x_{-i})\, dt} \sim \mathrm{Uniform}(0, 1)
          \quad \text{for every } i

The density is integrated numerically along lines through the samples, so D does not matter; in the
plane a marginal is integrated too, which a sampler that misses a far mode cannot satisfy. Comparing
samples with the images of the flow's own noise instead would be a tautology.

Whether F is uniform is asked of its distribution function (Dvoretzky, Kiefer and Wolfowitz 1956,
with Massart's constant 1990, doi 10.1214/aop/1176990746) and of its first Legendre moments
(Neyman's smooth test), which see a shift or a scale sooner. Both bounds hold for every number of
samples.

Where ``normalize`` is missing, so that nobody can look at the noise behind samples, a bridge from
samples to a fitted proposal (:mod:`afnp.verify.bridge`) looks at D features at once, and sees a
temperature of 1.05.

Letters: R samples, D features, C context inputs, K nodes along a line.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from afnp.verify.atoms import refuse_blurred, rounded_to_atoms
from afnp.verify.bridge import bridge_of, shape_tests, tempered, total
from afnp.verify.checks.antisymmetry import antisymmetry
from afnp.verify.checks.identities import identities
from afnp.verify.checks.log_det import log_det
from afnp.verify.checks.noise import noise
from afnp.verify.integrals import (
    GOOD,
    REACHES,
    Integrals,
    along_lines,
    density_along,
    distribution,
    first_nodes,
    marginal,
)
from afnp.verify.results import FAILED, PASSED, Finding, NotRun, Result, check, compare
from afnp.verify.subject import Subject
from afnp.verify.uniform import FALSE_ALARM, ORDERS, slack_of, thresholds, uniform_tests

__all__ = ["agreement"]

GROUPS = 8
"""At most so many features and context inputs are also looked at alone."""

FEWEST = 100
"""Below so many samples nothing is looked at alone."""

NODES = 17
"""Of a marginal, between its extreme samples."""

ASKED = 350
"""At so many places a line asks for its density."""

NEEDED = 0.05
"""A line is as certain as this part of the smallest distance that its samples show."""

LINES = 800
"""So many lines a marginal takes."""

LEAST = 32
"""So many samples are drawn whatever they cost."""

SEEN = 0.25
"""A bridge that would not see a temperature of 1 + SEEN is said to show nothing."""

RESOLVED = 0.01
"""A marginal that is farther from a total of 1 says nothing about samples."""


@check("C11")
def agreement(subject: Subject, rng: np.random.Generator) -> Result:
    r"""Draw samples, integrate the density along a line through each; they have to lie uniformly.

    .. math:: \sup_q |\hat F(q) - q| \le \sqrt{\frac{\log(2 / \alpha)}{2 R}}, \qquad
              F_{(1)}, 1 - F_{(R)} \le \frac{\log(2 / \alpha)}{R}, \qquad
              \Big| \frac1R \sum_n \sqrt{2k + 1}\, P_k(2 F_n - 1) \Big| \le t_k

    The result says how small a discrepancy it would have seen, in 99 of 100 cases. Where the caller
    gave both ``base`` and ``noise``, noise must have that density, too.
    """
    if subject.noise_alone is not None:
        of_noise = _at_once(subject.noise_alone)
        if of_noise.status == FAILED:
            reason = of_noise.reason.replace("samples and density", "noise and base")
            return dataclasses.replace(of_noise, reason=reason)
    subject.need("sample", "log_prob")
    if subject.normalize is not None:  # ``noise`` looks at all features at once
        return _along_lines(subject, rng, FALSE_ALARM)
    at_once = _at_once(subject)
    if at_once.status == FAILED:
        return at_once
    lines = _along_lines(subject, rng, FALSE_ALARM / 2)
    return dataclasses.replace(lines, why=f"{lines.why}; {at_once.why}")


def _at_once(subject: Subject) -> Result:
    """Look at all features at once, by a bridge between samples and a proposal."""
    try:
        bridge = bridge_of(subject)
    except NotRun as exception:
        return Result(status=PASSED, why=f"no bridge: {exception}")
    whole = total(bridge)
    tests = shape_tests(bridge, whole, FALSE_ALARM / 2)
    nothing = f"a bridge that overlaps by {whole.overlap:.0%} shows nothing"
    if not tests:
        return Result(status=PASSED, why=nothing)
    seen, rows = tempered(bridge, whole, FALSE_ALARM / 2 / len(tests)), len(bridge.log_p)
    shown = f"a bridge of {rows} rows shows a temperature of {1 + seen:.3f}"
    why = shown if seen < SEEN else nothing
    result = compare([t.measured for t in tests], [t.bound for t in tests], why, ("test",))
    what = tests[result.worst["test"]].what
    reason = f"samples and density disagree: {what}" if result.status == FAILED else ""
    return dataclasses.replace(result, reason=reason, worst={})


def _along_lines(subject: Subject, rng: np.random.Generator, false_alarm: float) -> Result:
    """Integrate the density along lines through samples, and in the plane a marginal."""
    refuse_blurred(subject)
    count = _count(subject)
    c = subject.points.contexts(rng, count)
    x = subject.draw(count, np.random.default_rng(rng.integers(2**63)), c)
    if not np.isfinite(x).all():
        raise Finding("sample gives numbers that are not finite")
    lost = _lost(subject, rng, x, c)
    x, c, count = x[~lost], c[~lost], int((~lost).sum())
    which = rng.permutation(np.arange(count) % subject.features)
    F, error = _places(subject, x, c, which)
    plane = subject.features == 2 and LINES * ASKED * subject.cost < subject.level.work
    marginals = _in_marginal(subject, rng) if plane else []
    result = _compared(_groups(F, error + lost.mean(), which, c) + marginals, false_alarm)
    if result.status == FAILED:  # peaks that a quadrature misses look like a density that is wrong
        finer, error = _places(subject, x, c, which, fine=True)
        error, F = error + np.abs(finer - F), finer
        result = _compared(_groups(F, error + lost.mean(), which, c) + marginals, false_alarm)
        if result.status == FAILED and _consistent(subject, rng):
            raise NotRun(
                "not resolved: the quadrature misses narrow peaks; noise, identities and "
                "log-determinants say that samples and density agree"
            )
    return dataclasses.replace(result, evidence={"pit": F, "feature": which})


def _consistent(subject: Subject, rng: np.random.Generator) -> bool:
    """Return whether sampler and density agree by the change of variables, without quadrature."""
    checks = (noise, identities, log_det, antisymmetry)
    return all(check_one(subject.plain, rng).status == PASSED for check_one in checks)


def _groups(
    F: np.ndarray, error: np.ndarray, which: np.ndarray, c: np.ndarray
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Return the places of all samples, and of parts of them: name, F and its errors.

    Of each feature, and under small and large values of each context input: what samples do under
    a context that is not theirs may cancel over all contexts.
    """
    parts = [(f"feature {i} given the others", which == i) for i in range(GROUPS)]
    for k in range(min(c.shape[1], GROUPS)):
        large = c[:, k] > np.median(c[:, k])
        parts += [(f"large context {k}", large), (f"small context {k}", ~large)]
    groups = [("all features", F, error)]
    for name, part in parts:
        if FEWEST <= part.sum() < len(F):
            groups.append((name, F[part], error[part]))
    return groups


def _count(subject: Subject) -> int:
    """Return how many samples one repeat of the level draws: of a flow that costs much, fewer."""
    most = max(subject.level.samples // subject.level.repeats, 2)
    return int(np.clip(subject.level.work / (ASKED * subject.cost), min(LEAST, most), most))


def _lost(subject: Subject, rng: np.random.Generator, x: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Return which samples rounding has put outside the support, (R,) bool.

    Images of noise must land there too.
    """
    merged = rounded_to_atoms(subject, rng, x)
    if merged:
        raise NotRun(f"rounding makes one point of {merged} of {len(x)} samples")
    lost = np.asarray(subject.log_prob(x, c)) == -np.inf  # type: ignore[misc]
    if not lost.any():
        return lost
    images = np.zeros(0)
    if subject.generate is not None:
        images = subject.generate(*subject.points.noise(rng, len(x), (1.0,)))[0]
    if not len(images) or not np.isneginf(subject.log_prob(images, c)).any():  # type: ignore[misc]
        raise Finding(f"sample draws {lost.sum()} rows that have no density, as log_prob says")
    if lost.mean() > 0.01:
        raise NotRun(f"rounding puts {lost.sum()} of {len(x)} samples outside the support")
    return lost


def _compared(groups: list, false_alarm: float) -> Result:
    """Judge every statistic of every group."""
    alpha = false_alarm / (len(groups) * (2 + ORDERS))
    tests = [
        test for name, F, error in groups for test in uniform_tests(name, F, alpha, error=error)
    ]
    result = compare(
        [t.measured for t in tests],
        [t.bound for t in tests],
        _power(len(groups[0][1]), alpha),
        ("test",),
    )
    what = tests[result.worst["test"]].what
    reason = f"samples and density disagree: {what}" if result.status == FAILED else ""
    return dataclasses.replace(result, reason=reason, worst={})


def _power(n: int, alpha: float) -> str:
    """Say what would have been seen.

    Slopes of the first two moments for a normal that is shifted or scaled.
    """
    distance, moments = thresholds(n, alpha)
    seen = moments + 2.33 / np.sqrt(n)
    shift, scale = seen[0] / 0.977, seen[1] / 1.23
    return (
        f"false alarms < {FALSE_ALARM:.0e}; {n} samples show a shift of {shift:.2f} standard "
        f"deviations, a scale off by {scale:.0%}, a distance of {2 * distance:.2f}"
    )


# ---- lines through samples -----------------------------------------------------------------------


def _places(
    subject: Subject, x: np.ndarray, c: np.ndarray, which: np.ndarray, fine: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return F of each sample along its feature ``which``, and how far off that may be.

    (R,) each.
    """
    distance = thresholds(len(x), FALSE_ALARM)[0]
    found = _lines(subject, x, c, which, fine, max(GOOD, NEEDED * distance))
    seen = np.isfinite(found.below)
    F, error = np.where(seen, found.below, 0.5), np.where(seen, found.error, 1.0)
    if slack_of(error) > 0.02 + 0.1 * distance:
        raise NotRun(f"the quadrature did not converge: it is {slack_of(error):.1e} off")
    return F, error


def _lines(
    subject: Subject, x: np.ndarray, c: np.ndarray, which: np.ndarray, fine: bool, good: float
) -> Integrals:
    """Integrate through every row of x along its feature, as far out as the density answers."""
    place = x[np.arange(len(x)), which].astype(np.float64)
    density = density_along(subject, x, c, which)
    for reach in REACHES:
        parts = {
            i: first_nodes(subject, x[which == i][:, [i]], x[:, i], reach, fine)
            for i in np.unique(which).tolist()
        }
        nodes = np.empty((len(x), next(iter(parts.values())).shape[1]))
        for i, part in parts.items():
            nodes[which == i] = part
        try:
            return along_lines(density, nodes, place, subject.level.refinements, good)
        except (ArithmeticError, Finding):
            if reach == REACHES[-1]:
                raise
    raise NotRun("no line could be integrated")


# ---- in the plane: a marginal --------------------------------------------------------------------


def _in_marginal(
    subject: Subject, rng: np.random.Generator
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    r"""Return the places of samples, at one context, in the marginal of a random feature of two.

    .. math:: F(x_i) = \int_{-\infty}^{x_i} m(t)\, dt, \qquad m(t) = \int p(t, s)\, ds

    A marginal that does not integrate to 1 was not resolved, and is left out: ``normalisation``
    looks at that.
    """
    count, i = _count(subject), int(rng.integers(2))
    c = subject.points.contexts(rng, 1)
    x = subject.draw(count, np.random.default_rng(rng.integers(2**63)), np.repeat(c, count, axis=0))
    own = np.quantile(x[:, [i]].astype(np.float64), np.linspace(0, 1, NODES), axis=0).T
    nodes = first_nodes(subject, own, x[:, i], REACHES[0])[0]
    F, total, error = distribution(marginal(subject, x, c, i), nodes, subject.level.refinements)
    if not abs(total - 1) < RESOLVED or error > RESOLVED:
        return []
    doubt = np.full(count, error + abs(total - 1))
    return [(f"the marginal of feature {i}", F(x[:, i].astype(np.float64)), doubt)]
