r"""Check of the noise behind samples: normalized, samples are the base's noise.

.. math:: x \sim \text{sample} \;\Longrightarrow\; f(x) \sim p_{\mathrm{base}}

One sample of D features gives D numbers, so thousands of samples see a temperature of 1.03. Where
the noise is standard normal its mean, its variance and the products of its features have exact
bounds (Laurent and Massart 2000, doi 10.1214/aos/1015957395), and each feature and all together are
compared with the normal distribution; where it is not, with noise drawn from the base.

Without ``normalize`` samples are compared with the images of other noise under ``generate``, which
have the same distribution (:mod:`afnp.verify.pooled`): there are eight of them for each sample, so
that this sees hardly less.

Letters: n samples, D features, C context inputs.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from afnp.verify.atoms import moved_too_far, refuse_blurred, rounded_to_atoms
from afnp.verify.explain import explained
from afnp.verify.pooled import MOST, Pool, Test, pool_of, seen, square_from, tests_of
from afnp.verify.results import FAILED, Finding, NotRun, Result, check, compare
from afnp.verify.subject import Subject
from afnp.verify.uniform import FALSE_ALARM, uniform_tests

__all__ = ["noise"]

REFERENCE = 4
"""Noise of another base is drawn so many times as often as samples are."""

FEWEST = 4000
"""So many numbers of noise are looked at, whatever they cost: they show a scale that is 5 % off."""

IMAGES = 8
"""Without ``normalize``, so many images of noise are drawn for each sample."""

LEARNT_FROM = 4
"""And so many more, from which u², summed over features, is learnt."""

CONTEXTS, ROWS = 16, 100
"""They are compared at so many contexts, or at fewer, so that each has so many samples."""


@check("C18")
def noise(subject: Subject, rng: np.random.Generator) -> Result:
    r"""Normalize samples, and ask whether what comes out is the base's noise.

    .. math:: \Big|\overline{u^2} - 1\Big| \le 2\sqrt{t / nD} + 2t / nD, \quad
              |\overline{u_i u_j}|, |\overline{u_i c_k}| \le \sqrt{2 t / n} + t / n, \quad
              t = \log(2 / \alpha)

    The second is Chernoff's bound for products of independent normals,
    :math:`\operatorname{E} e^{\lambda u v} = (1 - \lambda^2)^{-1/2}`.
    """
    if subject.normalize is None and subject.generate is not None:
        return _among_images(subject, rng)
    subject.need("sample", "normalize")
    _refuse_unknown(subject)
    refuse_blurred(subject)
    n = _count(subject)
    c = subject.points.contexts(rng, n)
    x = subject.draw(n, np.random.default_rng(rng.integers(2**63)), c)
    known = subject.points.inner(c)
    u = np.asarray(subject.normalize(x, c)[0], dtype=np.float64)  # type: ignore[misc]
    lost = ~np.isfinite(u).all(axis=1)
    if lost.mean() > 0.001:
        raise Finding(f"normalize makes {lost.sum()} of {n} samples numbers that are not finite")
    normal = subject.points.base is None and subject.points.bounded is None
    tests, result = _asked(subject, u[~lost], known[~lost], normal, rng)
    if result.status == FAILED:  # by rounding?
        lost |= moved_too_far(subject, x, c, u, rng)
        tests, result = _asked(subject, u[~lost], known[~lost], normal, rng)
    test = tests[result.worst["test"]]
    return explained(
        result,
        reason=f"samples are not made of the base's noise: {test.what}",
        values={f"{test.what}:": test.measured, "chance allows": test.bound},
        cause=test.cause,
        worst={},
        evidence={"noise": u[~lost], "normal": normal, "of": "normalize(sample(n))"},
    )


def _count(subject: Subject) -> int:
    """Return how many samples are drawn."""
    return max(subject.worth(subject.level.noise, FEWEST) // subject.features, 200)


def _refuse_unknown(subject: Subject) -> None:
    """Raise NotRun where nobody knows how noise is drawn."""
    if subject.points.bounded is not None and subject.points.base is None:
        raise NotRun("needs noise, which draws from the base")


def _asked(
    subject: Subject, u: np.ndarray, c: np.ndarray, normal: bool, rng: np.random.Generator
) -> tuple[list[Test], Result]:
    """Return the tests of what should be noise, and the worst of them."""
    tests = _normal(u, c) if normal else _like_the_base(subject, u, rng)
    measured, bounds = [t.measured for t in tests], [t.bound for t in tests]
    return tests, compare(measured, bounds, _power(u, normal), ("test",))


def _normal(u: np.ndarray, c: np.ndarray) -> list[Test]:
    """Return the tests of standard normal noise."""
    D, C = u.shape[1], c.shape[1]
    features = range(min(D, MOST)) if D > 1 else []
    pairs = [(i, j) for i in features for j in features if j < i]
    groups = [("all features", u.ravel()), *((f"feature {i}", u[:, i]) for i in features)]
    products = [(f"u{i} u{j}", u[:, i] * u[:, j]) for i, j in pairs]
    products += [(f"u{i} c{k}", u[:, i] * c[:, k]) for i in range(min(D, MOST)) for k in range(C)]
    alpha = FALSE_ALARM / (8 * len(groups) + len(products))
    t = math.log(2 / alpha)
    tests = []
    for name, values in groups:
        tests += _moments(name, values, t)
        tests += [Test(*test) for test in uniform_tests(name, _cdf(values), alpha)]
    for name, product in products:
        size = len(product)
        bound = math.sqrt(2 * t / size) + t / size
        cause = "noise that is shared between features, or drawn from another row's context"
        tests.append(Test(f"mean of {name}", abs(float(product.mean())), bound, cause))
    return tests


def _moments(name: str, u: np.ndarray, t: float) -> list[Test]:
    """Return the mean and the variance of standard normal numbers, with their exact bounds."""
    size = len(u)
    square = float(np.mean(u * u))
    shift = "noise that is shifted, or a location that only one direction knows"
    scale = f"a temperature of {math.sqrt(square):.3f}, or a scale that only one direction knows"
    return [
        Test(f"mean of {name}", abs(float(u.mean())), math.sqrt(2 * t / size), shift),
        Test(
            f"mean square of {name}, less 1",
            abs(square - 1),
            2 * math.sqrt(t / size) + 2 * t / size,
            scale,
        ),
    ]


def _cdf(u: np.ndarray) -> np.ndarray:
    """Return the standard normal distribution function of numbers."""
    return np.interp(u, *_table())


@functools.cache
def _table() -> tuple[np.ndarray, np.ndarray]:
    grid = np.linspace(-9, 9, 4001)
    return grid, np.array([0.5 * math.erfc(-t / math.sqrt(2)) for t in grid])


def _like_the_base(subject: Subject, u: np.ndarray, rng: np.random.Generator) -> list[Test]:
    """Compare each feature with noise drawn from the base."""
    base = subject.points.base
    drawn = np.asarray(base(REFERENCE * len(u), rng), dtype=np.float64)  # type: ignore[misc]
    D = min(u.shape[1], MOST)
    alpha = FALSE_ALARM / (6 * D)
    tests = []
    effective = len(u) * len(drawn) // (len(u) + len(drawn))
    for i in range(D):
        reference = np.sort(drawn[:, i])
        F = np.searchsorted(reference, u[:, i], side="right") / len(reference)
        found = uniform_tests(f"feature {i}", F, alpha, effective, extremes=False)
        tests += [Test(*test) for test in found]
    return tests


def _power(u: np.ndarray, normal: bool) -> str:
    """Say what would have been seen in 99 of 100 cases."""
    n, D = u.shape
    size = n * D if normal else n
    t = math.log(16 / FALSE_ALARM)
    scale = (2 * math.sqrt(t / size) + 2 * t / size + 2.33 * math.sqrt(2 / size)) / 2
    shift = math.sqrt(2 * t / size) + 2.33 / math.sqrt(size)
    of = f"{n} samples of {D} features" if normal else f"{n} samples"
    return (
        f"false alarms < {FALSE_ALARM:.0e}; {of} show a scale off by {scale:.1%}, "
        f"a shift of {shift:.3f} standard deviations"
    )


# ---- without a way back --------------------------------------------------------------------------


def _among_images(subject: Subject, rng: np.random.Generator) -> Result:
    r"""Compare samples with images of noise, at a few contexts that both share.

    .. math:: x \sim \text{sample}, \; u \sim p_{\mathrm{base}}
              \;\Longrightarrow\; x \text{ and } g(u) \text{ have one distribution}
    """
    subject.need("sample")
    if subject.sample_is_derived:
        raise NotRun("needs a sampler of its own: this one is generate")
    _refuse_unknown(subject)
    n = _count(subject)
    many = min(max(n // ROWS, 1), CONTEXTS) if subject.context else 1
    contexts = subject.points.contexts(rng, many)
    group = rng.permutation(np.arange(n) % many)
    x = subject.draw(n, np.random.default_rng(rng.integers(2**63)), contexts[group])
    if rounded_to_atoms(subject, rng, x):
        raise NotRun("rounding makes one point of many samples")
    u, y, of_y = _images(subject, rng, contexts, np.repeat(group, IMAGES))
    others = _images(subject, rng, contexts, np.repeat(group, LEARNT_FROM))
    x, kept = _finite("sample", _turned(subject, x))
    c = contexts.astype(np.float64)
    group = np.concatenate([group[kept], of_y])
    rows = np.concatenate([x, y])
    pool = pool_of(x, y, group, c[group], rng)
    square = square_from(*others, c[others[2]])(rows, group, c[group])
    tests = tests_of(pool, square)
    result = compare(
        [t.measured for t in tests],
        [t.bound for t in tests],
        _power_among_images(subject, pool, square, tests, u),
        ("test",),
    )
    test = tests[result.worst["test"]]
    return explained(
        result,
        claim="samples are distributed as generate(u), with u noise of the base",
        reason=f"samples are not distributed as images of noise: {test.what}",
        values={f"{test.what}, from its mean:": test.measured, "chance allows": test.bound},
        cause=test.cause,
        worst={},
        evidence={"noise": pool.white[pool.sampled], "normal": True, "of": "samples among images"},
    )


def _images(
    subject: Subject, rng: np.random.Generator, contexts: np.ndarray, group: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return noise, its images and the numbers of their contexts."""
    u = subject.points.noise(rng, len(group), scales=(1.0,))[0]
    y = subject.generate(u, contexts[group])[0]  # type: ignore[misc]
    y, kept = _finite("generate", _turned(subject, np.asarray(y)))
    return u[kept], y, group[kept]


def _finite(name: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that are finite, and which they are; all but a few have to be."""
    good = np.isfinite(x).all(axis=1)
    if np.mean(~good) > 0.001:
        raise Finding(
            f"{name} gives numbers that are not finite in {(~good).sum()} of {len(x)} rows"
        )
    return x[good], good


def _power_among_images(
    subject: Subject, pool: Pool, square: np.ndarray, tests: list[Test], u: np.ndarray
) -> str:
    """Say what would have been seen in 99 of 100 cases."""
    n, images = int(pool.sampled.sum()), int((~pool.sampled).sum())
    why = f"false alarms < {FALSE_ALARM:.0e}; {n} samples beside {images} images of noise"
    if subject.points.base is not None:
        return why
    pairs = zip((square, pool.square), tests, strict=False)
    scale = min(seen(pool, h, test.bound, u) for h, test in pairs)
    return f"{why} show a temperature off by {scale:.1%}"


def _turned(subject: Subject, x: np.ndarray) -> np.ndarray:
    """Return rows, as the subject's type rounds them; angles between the ends of the support."""
    bounded = subject.points.bounded
    if subject.periodic and bounded is not None:
        x = bounded[0] + (x - bounded[0]) % (bounded[1] - bounded[0])
    return x.astype(subject.dtype).astype(np.float64)
