r"""Is a conditional flow the posterior it should be? Ranks, coverage, and a classifier.

.. math:: F = \frac{\#\{l : T(x'_l, c) < T(x, c)\} + v}{L + 1} \sim \mathrm{Uniform}(0, 1)
          \quad \text{where } (x, c) \sim p(x, c), \; x'_1 \dots x'_L \sim q(\,\cdot \mid c),
          \; v \sim \mathrm{Uniform}(0, 1)

holds for every quantity T(x, c) if q(x | c) = p(x | c), because then x is one of L + 1 rows of the
same distribution. Three kinds of T are asked here:

- each feature, T = x_i: simulation-based calibration (arXiv 1804.06788);
- density, T = -log q(x | c): coverage of the regions of highest density. F ≤ γ says that x lies in
  the region that holds γ of the posterior;
- distance, T = |x - r(c)|: coverage of balls around random points r (TARP, arXiv 2302.03026). The
  points follow the context (a least-squares prediction of x, and noise), so that a posterior that
  is right on average, but does not listen to its context, is seen as well; the first two cannot.

Whether F is uniform is asked of its first two Legendre moments, which see a shift and a scale, and
of its largest distance from uniform (Dvoretzky, Kiefer and Wolfowitz with Massart's constant, doi
10.1214/aop/1176990746). Where exact posteriors are known by their samples, a classifier compares
them with the flow's (:func:`afnp.verify.c2st`).

Letters: N rows, D features, C context inputs, L samples a row, K exact posteriors of M samples, Q
quantities.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from afnp.inputs import check_rows, finite_array, frame_names, frame_of, generator, integer, real
from afnp.verify.two_sample import c2st, c2st_p_value

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Calibration", "RankTest", "calibration"]

FEWEST = 50
"""Rows below which moments of ranks are not normal enough for their p-values."""

BATCH = 2**17
"""Samples that are in memory at once."""

TESTS = 3
"""Of each quantity: location, scale, distance."""

POWER = 0.9
"""What is said to be seen is seen with this probability."""

SCALE_SLOPE = math.sqrt(15) / math.pi
r"""How fast the scale of one feature's ranks moves with the logarithm of a factor on its standard
deviation: :math:`6 \sqrt 5 \operatorname{E}[(2 \Phi(z) - 1)\, z\, \phi(z)]` for normal z."""

COLOURS = (("#0072B2", "-"), ("#D55E00", "--"), ("#009E73", "-."), ("#CC79A7", ":"))


class RankTest(NamedTuple):
    """One test of the ranks of one quantity."""

    quantity: str
    what: str
    """location, scale, or distance"""
    measured: float
    """Standard errors of the moment; for the distance, the largest difference."""
    p_value: float


@dataclass(frozen=True, eq=False)
class Calibration:
    """What :func:`calibration` found; print it, or draw it.

    Attributes
    ----------
    quantities : tuple of str
        The features' names, "density", "distance".
    ranks : (N, Q) array
        F: the place of each row among the samples, from 0 to 1.
    tests : tuple of RankTest
        Three of each quantity.
    samples : int
        L.
    accuracies : (K,) array
        C2ST of each exact posterior, if some were given.
    reference_rows : int
        M.
    false_alarm : float
        Probability that a right posterior fails anything at all, at most.
    """

    quantities: tuple[str, ...]
    ranks: np.ndarray = field(repr=False)
    tests: tuple[RankTest, ...]
    samples: int
    accuracies: np.ndarray
    reference_rows: int
    false_alarm: float

    # ---- what it says ----------------------------------------------------------------------------

    @property
    def p_values(self) -> dict[str, float]:
        """Of each quantity, for its three tests together, and of each C2ST."""
        least = {name: 1.0 for name in self.quantities}
        for test in self.tests:
            least[test.quantity] = min(least[test.quantity], TESTS * test.p_value)
        compared = {
            f"c2st {k}": c2st_p_value(accuracy, self.reference_rows)
            for k, accuracy in enumerate(self.accuracies)
        }
        return {**least, **compared}

    @property
    def p_value(self) -> float:
        """Of everything together (Bonferroni)."""
        each = self.p_values.values()
        return min(1.0, len(each) * min(each))

    @property
    def failed(self) -> list[str]:
        """The quantities, and the exact posteriors by number, that are not as they should be."""
        each = self.p_values
        return [name for name, p in each.items() if p < self.false_alarm / len(each)]

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not self.failed

    @property
    def sees(self) -> dict[str, float]:
        r"""What would be seen in 90 of 100 cases, for posteriors that are about Gaussian.

        .. math:: \text{shift} \; \sqrt{\tfrac{3}{\pi} N}\, \tfrac{L}{L + 1}
                  = \text{scale} \; k \sqrt N\, \tfrac{L}{L + 1} = z_\alpha + z_{0.9}

        "shift" is that of one feature, in its posterior standard deviations; "scale" the logarithm
        of a factor on all standard deviations (0.1: too wide or too narrow by 10 %), where k is
        :math:`4 \sqrt 3\, \Gamma(D) / (2^D\, \Gamma(D/2)^2)`, the slope of density's location.
        "accuracy" is what C2ST would have to reach.
        """
        found = len(self.p_values)
        D, L, N = len(self.quantities) - 2, self.samples, len(self.ranks)
        threshold = _z(self.false_alarm / (2 * TESTS * found)) + _z(1 - POWER)
        slope = max(_density_slope(D), SCALE_SLOPE * (L - 1) / (L + 1))
        unit = threshold * (L + 1) / (L * math.sqrt(N))
        seen = {"shift": unit / math.sqrt(3 / math.pi), "scale": unit / slope}
        if len(self.accuracies):
            beyond = _z(self.false_alarm / found) + _z(1 - POWER)
            seen["accuracy"] = 0.5 + beyond / math.sqrt(8 * self.reference_rows)
        return seen

    def coverage(self, level: float, of: str = "density") -> float:
        r"""Return the share of rows that lie in the flow's regions of a level.

        .. math:: \frac1N \#\{n : F_n \le \gamma\} \approx \gamma

        Parameters
        ----------
        level : float
            γ, between 0 and 1.
        of : {"density", "distance"}
            Regions of highest density, or balls around random points.
        """
        level = real("level", level, 0, 1, "[]")
        if of not in self.quantities[-2:]:
            raise ValueError(f"of: expected 'density' or 'distance', got {of!r}")
        return float(np.mean(self.ranks[:, self.quantities.index(of)] <= level))

    def raise_if_failed(self) -> None:
        """Raise an AssertionError that shows the table, unless ``ok``."""
        if not self.ok:
            raise AssertionError(f"\n{self}")

    def __str__(self) -> str:
        """Print a row a quantity, then what would have been seen."""
        each, bad = self.p_values, self.failed
        lines = [f"{'quantity':14s}{'p-value':>9s}  location   scale  distance"]
        for name in self.quantities:
            location, scale, distance = (t.measured for t in self.tests if t.quantity == name)
            line = f"{name:14s}{each[name]:9.1e}{location:10.2f}{scale:8.2f}{distance:10.3f}"
            lines.append(line + ("  FAILED" if name in bad else ""))
        for k, accuracy in enumerate(self.accuracies):
            name = f"c2st {k}"
            line = f"{name:14s}{each[name]:9.1e}  accuracy {accuracy:.3f}"
            lines.append(line + ("  FAILED" if name in bad else ""))
        return "\n".join([*lines, self._power()])

    def _power(self) -> str:
        """Say what would have been seen, and how often a right posterior fails."""
        seen = self.sees
        said = (
            f"{len(self.ranks):,} rows see, in {100 * POWER:.0f} of 100 cases, a shift of "
            f"{seen['shift']:.2f} standard deviations, or all of them off by "
            f"{math.expm1(seen['scale']):.0%}; false alarms at most {self.false_alarm:.2g}"
        )
        if "accuracy" in seen:
            said += f"; {self.reference_rows:,} samples see an accuracy of {seen['accuracy']:.3f}"
        return said

    def plot(self) -> Figure:
        """Draw ranks and coverage beside uniform, and the accuracies of C2ST, if there are any."""
        return _draw(self)


def calibration(
    flow: Any,
    x,
    context,
    references: tuple | None = None,
    samples: int = 100,
    false_alarm: float = 0.01,
    rng=0,
) -> Calibration:
    r"""Check a conditional flow q(x | c) against rows (x, c) that it was not trained on.

    .. math:: F = \frac{\#\{l : T(x'_l, c) < T(x, c)\} + v}{L + 1} \sim \mathrm{Uniform}(0, 1)

    Three kinds of T: each feature (simulation-based calibration, arXiv 1804.06788), -log q(x | c)
    (coverage of highest density), and the distance from random points that follow the context
    (TARP, arXiv 2302.03026). Samples of exact posteriors, where there are some, are compared by a
    classifier (C2ST, arXiv 2101.04653). In simulation-based inference x are parameters drawn from
    the prior, and c what was simulated from them.

    Parameters
    ----------
    flow : Flow, FlowEnsemble, or any object with their ``sample`` and ``log_prob``
        ``sample(n, rng=..., context=...)`` gives (n, D), ``log_prob(x, context=...)`` nats (N,).
    x : (N, D) array or DataFrame
        Joint draws with the contexts, at least 50.
    context : (N, C) array
    references : tuple of (K, C) and (K, M, D) arrays, optional
        Contexts, and samples of the exact posterior of each. Needs scikit-learn.
    samples : int
        L, at least 10.
    false_alarm : float
        Probability that an exact posterior fails, at most.
    rng : seed or Generator

    Returns
    -------
    Calibration

    Raises
    ------
    ValueError
        If rows make no sense, or the flow returns what is none.
    ImportError
        If references are given and scikit-learn is not installed.

    Examples
    --------
    >>> import afnp
    >>> flow = afnp.maf(2, hidden=(8,), transforms=1, context=1)
    >>> context = np.random.default_rng(0).standard_normal((500, 1))
    >>> x = flow.sample(500, rng=1, context=context)
    >>> report = afnp.verify.calibration(flow, x, context)
    >>> report.ok, abs(report.coverage(0.9) - 0.9) < 0.05
    (True, True)
    >>> "x1" in afnp.verify.calibration(flow, x + [0.0, 0.5], context).failed
    True
    """
    names = _names(x)
    rows, c = _joint_rows(x, context)
    L = integer("samples", samples, least=10)
    alpha = real("false_alarm", false_alarm, 0, 1)
    rng = generator("rng", rng)
    exact = None if references is None else _exact(references, rows.shape[1], c.shape[1])
    points, scale = _reference_points(rows, c, rng)
    parts = []
    for part in _batches(len(rows), L):
        drawn = _drawn(flow, L, c[part], rows.shape[1], rng)
        true = _quantities(flow, rows[part][:, None], c[part], points[part], scale[part])
        others = _quantities(flow, drawn, c[part], points[part], scale[part])
        parts.append(_ranks(true, others, rng))
    ranks = np.concatenate(parts)
    quantities = (*names, "density", "distance")
    tests = [
        test for name, F in zip(quantities, ranks.T, strict=True) for test in _uniformity(name, F)
    ]
    accuracies, M = np.empty(0), 0
    if exact is not None:
        accuracies = np.array([_told_apart(flow, *pair, rng) for pair in zip(*exact, strict=True)])
        M = exact[1].shape[1]
    return Calibration(quantities, ranks, tuple(tests), L, accuracies, M, alpha)


# ---- rows ----------------------------------------------------------------------------------------


def _names(x) -> tuple[str, ...]:
    """Return the names of a table's columns, or x0, x1, ..."""
    frame = frame_of(x)
    if frame is not None:
        return frame_names(frame)
    return tuple(f"x{i}" for i in range(np.shape(x)[1] if np.ndim(x) == 2 else 0))


def _joint_rows(x, context) -> tuple[np.ndarray, np.ndarray]:
    """Return x (N, D) and context (N, C), checked."""
    rows = check_rows(x, None, np.float64, "x")
    c = check_rows(context, None, np.float64, "context")
    if len(c) != len(rows) or len(rows) < FEWEST:
        raise ValueError(
            f"x: expected at least {FEWEST} rows, each with its context, got {len(rows)} rows and "
            f"{len(c)} contexts"
        )
    if not c.shape[1]:
        raise ValueError("context: expected at least one column, got none")
    spread = rows.std(axis=0)
    if not spread.all():
        raise ValueError(f"x: feature {int(np.argmin(spread))} is constant")
    return rows, c


def _exact(references, D: int, C: int) -> tuple[np.ndarray, np.ndarray]:
    """Return contexts (K, C) and samples of their exact posteriors (K, M, D), checked."""
    if not isinstance(references, tuple) or len(references) != 2:
        raise ValueError("references: expected a tuple of contexts (K, C) and samples (K, M, D)")
    c = check_rows(references[0], C, np.float64, "references[0]")
    exact = finite_array(references[1], "references[1]")
    if exact.ndim != 3 or len(exact) != len(c) or exact.shape[2] != D or exact.shape[1] < FEWEST:
        raise ValueError(
            f"references[1]: expected ({len(c)}, M, {D}) with M of at least {FEWEST}, got "
            f"{exact.shape}"
        )
    return c, exact


def _batches(N: int, L: int) -> Iterator[slice]:
    """Cut N rows of L samples into parts that fit into memory."""
    step = max(1, BATCH // L)
    for start in range(0, N, step):
        yield slice(start, start + step)


# ---- quantities and their ranks ------------------------------------------------------------------


def _reference_points(x: np.ndarray, c: np.ndarray, rng) -> tuple[np.ndarray, np.ndarray]:
    r"""Return r (N, D) and the units of distance (N, D) for each row.

    .. math:: r_n = a + B c_n + s\, e_n, \qquad e_n \sim \mathrm{Normal}(0, 1)

    a and B are least squares and s the standard deviation of x, of the half of the rows to which n
    does not belong: given the other half, ranks are independent and uniform.
    """
    spread = c.std(axis=0)
    z = (c - c.mean(axis=0)) / np.where(spread > 0, spread, 1)
    design = np.column_stack([np.ones(len(c)), z])
    first, second = np.array_split(rng.permutation(len(x)), 2)
    points, scale = np.empty_like(x), np.empty_like(x)
    for other, these in ((first, second), (second, first)):
        B = np.linalg.lstsq(design[other], x[other], rcond=None)[0]
        scale[these] = np.maximum(x[other].std(axis=0), np.finfo(float).tiny)
        noise = rng.standard_normal((len(these), x.shape[1]))
        points[these] = design[these] @ B + scale[these] * noise
    return points, scale


def _drawn(flow, n: int, c: np.ndarray, D: int, rng) -> np.ndarray:
    """Draw n samples for each context, (N, n, D)."""
    x = np.asarray(flow.sample(n * len(c), rng=rng, context=np.repeat(c, n, axis=0)))
    if x.shape != (n * len(c), D):
        raise ValueError(f"flow: expected samples ({n * len(c)}, {D}), got {x.shape}")
    return x.reshape(len(c), n, D)


def _quantities(flow, x: np.ndarray, c: np.ndarray, points, scale) -> np.ndarray:
    """Return T (N, n, Q) of n rows x (N, n, D) at each of N contexts."""
    N, n, D = x.shape
    log_q = np.asarray(flow.log_prob(x.reshape(-1, D), context=np.repeat(c, n, axis=0)))
    if log_q.shape != (N * n,) or np.isnan(log_q).any():
        raise ValueError(f"flow: expected log-densities ({N * n},), none of them nan")
    distance = np.square((x - points[:, None]) / scale[:, None]).sum(axis=2)
    return np.dstack([x, -log_q.reshape(N, n), distance])


def _ranks(true: np.ndarray, others: np.ndarray, rng) -> np.ndarray:
    """Return F (N, Q) of rows (N, 1, Q) among samples (N, L, Q); ties are broken by lot."""
    below = (others < true).sum(axis=1)
    equal = (others == true).sum(axis=1)
    v = rng.random(below.shape)
    return (below + v * (equal + 1)) / (others.shape[1] + 1)


# ---- tests, and what they see --------------------------------------------------------------------


def _uniformity(name: str, F: np.ndarray) -> list[RankTest]:
    r"""Ask whether F (N,) is uniform: two moments, and the largest distance.

    .. math:: \frac1{\sqrt N} \sum_n \sqrt{2 k + 1}\, P_k(2 F_n - 1) \sim \mathrm{Normal}(0, 1),
              \qquad \Pr(\sup |\hat F - F| > d) \le 2 e^{-2 N d^2}
    """
    N, y = len(F), 2 * F - 1
    found: list[RankTest] = []
    for what, P in (("location", y), ("scale", (3 * y * y - 1) / 2)):
        k = len(found) + 1
        z = math.sqrt((2 * k + 1) / N) * float(P.sum())
        found.append(RankTest(name, what, z, math.erfc(abs(z) / math.sqrt(2))))
    steps, ordered = np.arange(N + 1) / N, np.sort(F)
    gap = float(max(np.max(steps[1:] - ordered), np.max(ordered - steps[:-1])))
    found.append(RankTest(name, "distance", gap, min(1.0, 2 * math.exp(-2 * N * gap * gap))))
    return found


def _told_apart(flow, c: np.ndarray, exact: np.ndarray, rng) -> float:
    """Return the accuracy of a classifier between an exact posterior (M, D) and the flow's."""
    return c2st(exact, _drawn(flow, len(exact), c[None], exact.shape[1], rng)[0])


def _z(tail: float) -> float:
    """Return where a standard normal's upper tail begins."""
    return -NormalDist().inv_cdf(tail)


def _density_slope(D: int) -> float:
    r"""Return how fast the location of density's ranks moves with the logarithm of the scale.

    .. math:: 2 \sqrt 3 \operatorname{E}\big[2 w\, g_D(w)\big]
              = 4 \sqrt 3\, \frac{\Gamma(D)}{2^D\, \Gamma(D/2)^2}

    w is of the chi-squared distribution with D degrees of freedom, and g its density.
    """
    log_ratio = math.lgamma(D) - 2 * math.lgamma(D / 2) - D * math.log(2)
    return 4 * math.sqrt(3) * math.exp(log_ratio)


# ---- the picture ---------------------------------------------------------------------------------


def _draw(report: Calibration) -> Figure:
    """Draw a panel of the features' ranks, one of coverage, and one of C2ST, if there is one."""
    from matplotlib.figure import Figure

    panels = 3 if len(report.accuracies) else 2
    figure = Figure(figsize=(4.6 * panels, 3.9), layout="constrained")
    axes: Any = figure.subplots(1, panels)
    _curves(axes[0], report, report.quantities[:-2])
    axes[0].set(title="ranks of features", xlabel="q", ylabel="share of ranks ≤ q, minus q")
    _curves(axes[1], report, report.quantities[-2:])
    axes[1].set(title="coverage", xlabel="level", ylabel="share of rows covered, minus level")
    if len(report.accuracies):
        _accuracies(axes[2], report)
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"p = {report.p_value:.2g}; failed: {', '.join(report.failed) or 'nothing'}", fontsize=10
    )
    return figure


def _curves(ax: Any, report: Calibration, names: tuple[str, ...]) -> None:
    """Draw distribution functions less the diagonal; the band is that of the distance's test."""
    N, p = len(report.ranks), report.p_values
    alpha = report.false_alarm / (TESTS * len(p))
    band = math.sqrt(math.log(2 / alpha) / (2 * N))
    ax.axhspan(-band, band, color="#DDDDDD", lw=0)
    ax.axhline(0, color="#767676", lw=0.8)
    q = (np.arange(N) + 0.5) / N
    ranked = sorted(names, key=p.__getitem__)
    for k, name in reversed(list(enumerate(ranked))):
        F = np.sort(report.ranks[:, report.quantities.index(name)])
        if k < len(COLOURS):
            color, line = COLOURS[k]
            ax.plot(F, q - F, color=color, ls=line, lw=1.6, label=f"{name}, p = {p[name]:.1g}")
        else:
            ax.plot(F, q - F, color="#767676", lw=0.5)
    ax.set_xlim(0, 1)
    ax.legend(frameon=False, fontsize=8)


def _accuracies(ax: Any, report: Calibration) -> None:
    """Draw the accuracy at each exact posterior, over what chance reaches."""
    K = len(report.accuracies)
    alpha = report.false_alarm / len(report.p_values)
    chance = 0.5 + _z(alpha) / math.sqrt(8 * report.reference_rows)
    ax.axhspan(0.5, chance, color="#DDDDDD", lw=0)
    ax.axhline(0.5, color="#767676", lw=0.8)
    ax.plot(np.arange(K), report.accuracies, "o", color=COLOURS[0][0])
    ax.set(title="C2ST", xlabel="exact posterior", ylabel="accuracy; by chance, the band")
    ax.set_ylim(min(0.45, *report.accuracies), max(0.65, *report.accuracies) + 0.02)
