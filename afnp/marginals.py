r"""Marginals and conditionals of a joint flow: exact for layers of one order, else estimated.

.. math:: p(x_1, \dots, x_k) = \prod_{i \le k} p_{\mathrm{base}}(u_i)
          \left|\frac{\partial u_i}{\partial x_i}\right|, \qquad
          p(x_{>k} \mid x_{\le k}) = \frac{p(x)}{p(x_{\le k})}

If every layer reads the features in the same order, u_1, ..., u_k are functions of x_1, ..., x_k
alone, and the Jacobian's upper left corner is triangular too. So the first k features are a flow of
their own: rows and columns of the weights that they need, and nothing to integrate. A sample given
them is ordinary sampling, whose first k noises are read off instead of drawn. What is missing at
the end of the order is marginalised by leaving it out. Where the order is that of the columns,
``flow.log_prob(x[:, :k], features=k)`` and ``flow.sample(n, given=x[:, :k])`` say the same.

Flows that turn the order between layers (``order="reverse"``, the default of :func:`afnp.maf`;
permutations; couplings) have no such marginals: there every u_i depends on all of x. They are
refused, with the layer that turns. Build with ``order="natural"``, or a permutation for which all
layers are alike, what marginals are asked of.

What is refused can still be estimated, by :func:`estimate`, with an error that is estimated too:
the unknown features of a row are drawn from a proposal q, and their weights are averaged
(importance sampling; Owen, Monte Carlo theory, chapter 9).

.. math:: p(x_{\mathrm{known}}) = \int p(x)\, dx_{\mathrm{unknown}}
          \approx \frac1S \sum_{s=1}^S w_s, \qquad
          w_s = \frac{p(x_{\mathrm{known}}, x^s)}{q(x^s \mid x_{\mathrm{known}})},
          \quad x^s \sim q

Letters: N rows, D features, C context inputs, k features at the beginning of the order; S draws, m
features of a row that are unknown.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import numpy as np

from afnp.flow import Flow, first_features, generate_given, marginal_of
from afnp.inputs import check_rows, frame_of, generator, integer, plain_array
from afnp.model import check_context
from afnp.transforms import prefix
from afnp.univariate.stable import logsumexp

__all__ = [
    "Estimate",
    "estimate",
    "log_prob",
    "log_prob_given",
    "marginal",
    "sample_given",
    "shared_order",
]


def shared_order(flow: Flow) -> np.ndarray:
    """Return the order (D,) in which every layer of a flow reads its features.

    Raises
    ------
    ValueError
        If a layer reads them in another order, or mixes them: it is named.

    Examples
    --------
    >>> import afnp
    >>> shared_order(afnp.maf(3, hidden=(8,), transforms=2, order="natural"))
    array([0, 1, 2])
    >>> shared_order(afnp.maf(3, hidden=(8,), transforms=2))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: flow: expected layers of one order, [0, 1, 2], but layer 1 (Autoregressive) lets \
feature 0 depend on feature 1; ...
    """
    return prefix.shared_order(_checked(flow).layers)


def marginal(flow: Flow, features: int) -> Flow:
    """Return the first k features of a flow's order as a flow of their own, with copied parameters.

    Its columns are those features, in the order of the flow's columns: x[:, :k] where the order is
    natural. It is an ordinary flow, to be scored, sampled, differentiated and saved.

    Parameters
    ----------
    flow : Flow
        Whose layers share one order; see :func:`shared_order`.
    features : int
        k, from 1 to D.

    Raises
    ------
    ValueError
        If the layers turn the order, or one of them cannot be cut (names the layer).

    Examples
    --------
    >>> import afnp
    >>> flow = afnp.maf(3, hidden=(8,), transforms=2, order="natural")
    >>> first = marginal(flow, 2)
    >>> first.features, bool(np.allclose(first.sample(4, rng=0).std(), 1, atol=0.5))
    (2, True)
    """
    return _checked(flow).marginal(features)


def log_prob(flow: Flow, x, context=None) -> np.ndarray:
    """Return the log-density of what is known of each row of x (N, D), in nats, (N,).

    NaN means unknown: the density is that of the row's other features. What is unknown must stand
    at the end of the order; a row of which nothing is known has log-density 0.

    Raises
    ------
    ValueError
        If a feature is missing before one that is known (names row and features); else as
        :func:`marginal` and :meth:`afnp.Flow.log_prob`.

    Examples
    --------
    >>> import afnp
    >>> flow = afnp.maf(3, hidden=(8,), transforms=2, order="natural")
    >>> found = log_prob(flow, [[0.3, 0.1, np.nan]])
    >>> bool(found == marginal(flow, 2).log_prob([[0.3, 0.1]]))
    True
    """
    order = shared_order(flow)
    x = _with_gaps(flow, x)
    context = check_context(context, flow.context, len(x), np.float64, flow.context_columns)
    known = _count_known(x, order)
    result = np.zeros(len(x), flow.dtype)
    for k in np.unique(known[known > 0]):
        rows, kept = known == k, np.sort(order[:k])
        part = flow if k == flow.features else marginal_of(flow, kept)
        given = context[rows] if flow.context else None
        result[rows] = part.log_prob(x[rows][:, kept], given)
    return result


def log_prob_given(flow: Flow, x, features: int, context=None) -> np.ndarray:
    r"""Return the log-density of each row's last features given its first k, in nats, (N,).

    .. math:: \log p(x_{>k} \mid x_{\le k}) = \log p(x) - \log p(x_{\le k})

    First in the order that the layers share, as for :func:`marginal`.

    Examples
    --------
    >>> import afnp
    >>> flow = afnp.maf(3, hidden=(8,), transforms=2, order="natural")
    >>> log_prob_given(flow, np.zeros((4, 3)), 1).shape
    (4,)
    """
    x = check_rows(x, flow.features, np.float64, "x", flow.columns)
    kept = first_features(flow, features)
    return flow.log_prob(x, context) - marginal_of(flow, kept).log_prob(x[:, kept], context)


def sample_given(flow: Flow, n: int, given, rng=0, context=None) -> np.ndarray:
    """Draw n rows, (n, D), given their first features in the order that the layers share.

    Parameters
    ----------
    flow : Flow
    n : int
    given : (n, k) or (1, k) array
        In the columns of :func:`marginal`: x[:, :k] where the order is natural. They stand in the
        result as they were given.
    rng : seed or Generator
    context : (n, C) or (1, C) array, optional

    Raises
    ------
    ValueError
        If what is given has density zero (names the row); else as :func:`marginal`.

    Examples
    --------
    >>> import afnp
    >>> flow = afnp.maf(3, hidden=(8,), transforms=2, order="natural")
    >>> x = sample_given(flow, 5, [[0.5]])
    >>> x.shape, x[:, 0].tolist()
    ((5, 3), [0.5, 0.5, 0.5, 0.5, 0.5])
    """
    n, rng = integer("n", n, least=0), generator("rng", rng)
    k = check_rows(given, None, np.float64, "given").shape[1]
    if not k:
        return _checked(flow).sample(n, rng, context)
    kept = first_features(_checked(flow), k)
    u = flow.base.sample(flow.own.base, n, rng, flow.dtype)
    return generate_given(flow, kept, u, given, context)


def _checked(flow) -> Flow:
    if not isinstance(flow, Flow):
        raise ValueError(f"flow: expected a Flow, got {type(flow).__name__}")
    return flow


# ---- importance sampling -------------------------------------------------------------------------

PILOT = 2000
"""Samples of the flow whose mean and covariance the proposal begins with."""
ROUNDS = 2
"""How often the proposal is moved to where the weights are, before the draws that count."""
TAILS = 5.0
"""Degrees of freedom of the proposal: its tails are wider than a Gaussian's, for a proposal that
ends before the density does gives weights without a variance."""
ENOUGH = 100
"""Draws, in effective number, below which the standard error is itself too uncertain."""


class Estimate(NamedTuple):
    """Log-densities of what is known of N rows, estimated, and how well.

    Examples
    --------
    >>> import afnp
    >>> log_p, error, size = estimate(afnp.realnvp(2, hidden=(8,)), [[0.0, np.nan]], draws=4000)
    >>> log_p.round(1), bool(error[0] < 0.05)
    (array([-0.9]), True)
    """

    log_prob: np.ndarray
    """(N,) nats. Too low on average, by about half its squared standard error."""
    standard_error: np.ndarray
    """(N,) nats, to first order; 0 where nothing or all is known, which is exact."""
    effective_sample_size: np.ndarray
    """(N,) Kish's, of S draws: it knows nothing of what was never drawn."""


def estimate(
    flow: Flow, x, draws: int = 1000, rng=0, context=None, proposal: Flow | None = None
) -> Estimate:
    r"""Estimate the log-density of what is known of each row of x (N, D), by importance sampling.

    .. math:: \log p(x_{\mathrm{known}}) \approx \log \frac1S \sum_s w_s, \qquad
              \mathrm{SE} = \sqrt{\frac1{\mathrm{ESS}} - \frac1S}, \qquad
              \mathrm{ESS} = \frac{(\sum_s w_s)^2}{\sum_s w_s^2}

    For any flow and any gaps, whatever the orders of its layers; where :func:`log_prob` is exact it
    is better, and cheaper.

    Half of the draws come from Student's t around the Gaussian that has the mean and the covariance
    of samples of the flow, given what is known; half from a t that has been moved to where the
    weights were. For angles both are uniform. That serves where what is unknown has one mode or
    few, given what is known. Where it has many, or there are many unknown features, fit a proposal.

    Parameters
    ----------
    flow : Flow
    x : (N, D) array or DataFrame
        NaN means unknown.
    draws : int
        S, of each row with gaps; twice as many are spent on the proposal.
    rng : seed or Generator
    context : (N, C) or (1, C) array, optional
    proposal : Flow, optional
        Of the unknown features, in the order of the flow's columns, given the known ones and then
        the context: any conditional flow that was fitted to samples of this one. All rows must
        have the same gaps.

    Returns
    -------
    Estimate

    Warns
    -----
    UserWarning
        If the effective sample size of a row is small: its standard error means little.

    Raises
    ------
    ValueError
        If the proposal has other features or another context than the gaps ask for.

    Examples
    --------
    >>> import afnp
    >>> flow = afnp.maf(3, hidden=(8,), transforms=2)
    >>> found = estimate(flow, [[0.3, np.nan, 0.1]])
    >>> bool(found.standard_error[0] < 0.05), found.effective_sample_size.shape
    (True, (1,))

    A proposal of one's own, fitted to samples:

    >>> drawn = flow.sample(500, rng=1)
    >>> q = afnp.maf(1, hidden=(8,), transforms=1, context=2)
    >>> history = afnp.fit(q, drawn[:, [1]], context=drawn[:, [0, 2]], epochs=2, progress=False)
    >>> better = estimate(flow, [[0.3, np.nan, 0.1]], proposal=q)
    """
    x, S = _with_gaps(_checked(flow), x), integer("draws", draws, least=2)
    rng = generator("rng", rng)
    context = check_context(context, flow.context, len(x), np.float64, flow.context_columns)
    missing = np.isnan(x)
    if proposal is not None:
        _check_proposal(flow, proposal, missing)
    found = Estimate(np.zeros(len(x)), np.zeros(len(x)), np.full(len(x), float(S)))
    whole = ~missing.any(axis=1)
    if whole.any():
        found.log_prob[whole] = flow.log_prob(x[whole], context[whole] if flow.context else None)
    pilots: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
    for row in np.flatnonzero(~whole & ~missing.all(axis=1)):
        given = context[row : row + 1] if flow.context else None
        known = _Row(flow, x[row], missing[row], given)
        if proposal is not None:
            log_w = known.weighed(_Fitted(proposal, known.condition), S, rng)[1]
        elif flow.layers[0].periodic:
            log_w = known.weighed(_Uniform(known.unknown), S, rng)[1]
        else:
            key = context[row].tobytes()
            if key not in pilots:
                pilots[key] = _moments(flow.sample(PILOT, rng, given))
            log_w = _adapted(known, *pilots[key], S, rng)
        size = _effective(log_w)
        found.log_prob[row] = float(logsumexp(log_w)) - math.log(S)
        found.standard_error[row] = math.sqrt(max(0.0, 1 / size - 1 / S)) if size else math.inf
        found.effective_sample_size[row] = size
    _warn(found.effective_sample_size, S)
    return found


def _check_proposal(flow: Flow, proposal, missing: np.ndarray) -> None:
    if not isinstance(proposal, Flow):
        raise ValueError(f"proposal: expected a Flow, got {type(proposal).__name__}")
    other = np.flatnonzero((missing != missing[:1]).any(axis=1))
    if len(other):
        raise ValueError(f"x: row {other[0]} has other gaps than row 0; a proposal is for the same")
    m = int(missing[:1].sum())
    expected = m, flow.features - m + flow.context
    if len(missing) and (proposal.features, proposal.context) != expected:
        raise ValueError(
            f"proposal: expected {expected[0]} features, those that are unknown, and a context of "
            f"{expected[1]}, got {proposal.features} and {proposal.context}"
        )


def _warn(sizes: np.ndarray, S: int) -> None:
    """Say which row's weights are too unequal, and what helps."""
    poor = np.flatnonzero(sizes < min(ENOUGH, S / 2))
    if len(poor):
        worst = int(np.argmin(sizes))
        warnings.warn(
            f"x: {len(poor)} of {len(sizes)} rows have an effective sample size below "
            f"{min(ENOUGH, S / 2):g} of {S} draws, row {worst} has {sizes[worst]:.1f}: their "
            "standard errors mean little; more draws help, or a proposal fitted to samples of the "
            'flow, or a flow with order="natural", whose marginals are exact',
            stacklevel=3,
        )


class _Row(NamedTuple):
    """What is known of one row, and the flow that knows the rest."""

    flow: Flow
    x: np.ndarray
    """(D,), NaN where it is unknown."""
    gap: np.ndarray
    """(D,) bool."""
    context: np.ndarray | None
    """(1, C)."""

    @property
    def unknown(self) -> int:
        return int(self.gap.sum())

    @property
    def condition(self) -> np.ndarray:
        """What is known and then the context, (1, k + C)."""
        known = self.x[None, ~self.gap]
        return known if self.context is None else np.concatenate([known, self.context], axis=1)

    def weighed(self, q, S: int, rng) -> tuple[np.ndarray, np.ndarray]:
        """Draw what is unknown from q, (S, m); also give the logarithms of the weights, (S,)."""
        drawn = q.sample(S, rng)
        rows = np.tile(self.x, (S, 1))
        rows[:, self.gap] = drawn
        log_p = self.flow.log_prob(rows, self.context).astype(np.float64)
        return drawn, log_p - q.log_prob(drawn)


class _Student(NamedTuple):
    """Student's t of m features with a mean (m,), and the factor L (m, m) of its spread L Lᵀ."""

    mean: np.ndarray
    L: np.ndarray

    def sample(self, S: int, rng) -> np.ndarray:
        z = rng.standard_normal((S, len(self.mean)))
        narrow = np.sqrt(rng.chisquare(TAILS, S) / TAILS)
        return self.mean + z @ self.L.T / narrow[:, None]

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        m = len(self.mean)
        z = np.linalg.solve(self.L, (x - self.mean).T)
        log_c = math.lgamma((TAILS + m) / 2) - math.lgamma(TAILS / 2)
        log_c -= m / 2 * math.log(TAILS * math.pi) + np.log(np.diag(self.L)).sum()
        return log_c - (TAILS + m) / 2 * np.log1p((z * z).sum(axis=0) / TAILS)


class _Halves(NamedTuple):
    """Half of the draws from each of two proposals."""

    one: _Student
    other: _Student

    def sample(self, S: int, rng) -> np.ndarray:
        return np.concatenate([self.one.sample(S // 2, rng), self.other.sample(S - S // 2, rng)])

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        return np.logaddexp(self.one.log_prob(x), self.other.log_prob(x)) - math.log(2)


class _Uniform(NamedTuple):
    """Of m angles."""

    m: int

    def sample(self, S: int, rng) -> np.ndarray:
        return rng.uniform(-np.pi, np.pi, (S, self.m))

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        return np.full(len(x), -self.m * math.log(2 * math.pi))


class _Fitted(NamedTuple):
    """A flow, given one row of its context (1, k + C)."""

    flow: Flow
    given: np.ndarray

    def sample(self, S: int, rng) -> np.ndarray:
        return self.flow.sample(S, rng, self.given)

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        return self.flow.log_prob(x, self.given).astype(np.float64)


def _adapted(known: _Row, mean: np.ndarray, V: np.ndarray, S: int, rng) -> np.ndarray:
    """Return log-weights (S,) of draws from where the flow's samples are, and its weights were."""
    mean, V = _conditional(mean, V, known.x, known.gap)
    first = moved = _Student(mean, np.linalg.cholesky(V))
    for _ in range(ROUNDS):
        drawn, log_w = known.weighed(moved, S, rng)
        size = _effective(log_w)
        if not size:
            break
        w = np.exp(log_w - logsumexp(log_w))
        share = size / (size + len(mean) + 1)  # few draws say little
        apart = drawn - w @ drawn
        mean = (1 - share) * mean + share * (w @ drawn)
        V = (1 - share) * V + share * (w[:, None] * apart).T @ apart
        moved = _Student(mean, np.linalg.cholesky(V))
    return known.weighed(_Halves(first, moved), S, rng)[1]


def _moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (D,) and covariance (D, D) of samples, the latter safely positive."""
    x = x.astype(np.float64)
    V = np.atleast_2d(np.cov(x.T))
    if not np.isfinite(V).all():
        raise FloatingPointError(
            "flow: the covariance of its samples is not finite; expected a proposal"
        )
    return x.mean(axis=0), V + 1e-9 * np.diag(np.diag(V))


def _conditional(mean, V, x, gap) -> tuple[np.ndarray, np.ndarray]:
    r"""Return mean and covariance of a Gaussian's unknown features given the known ones.

    .. math:: \mu_m + V_{mk} V_{kk}^{-1} (x_k - \mu_k), \qquad
              V_{mm} - V_{mk} V_{kk}^{-1} V_{km}
    """
    cross = V[np.ix_(gap, ~gap)]
    gain = np.linalg.solve(V[np.ix_(~gap, ~gap)], cross.T).T
    left = V[np.ix_(gap, gap)] - gain @ cross.T
    left = (left + left.T) / 2 + 1e-9 * np.diag(np.diag(V)[gap])
    return mean[gap] + gain @ (x - mean)[~gap], left


def _effective(log_w: np.ndarray) -> float:
    """Return Kish's effective sample size of log-weights (S,); 0 if all weights are 0."""
    log_total = logsumexp(log_w)
    return float(np.exp(2 * log_total - logsumexp(2 * log_w))) if np.isfinite(log_total) else 0.0


# ---- rows with gaps ------------------------------------------------------------------------------


def _with_gaps(flow: Flow, x) -> np.ndarray:
    """Return rows (N, D) as float64, NaN where a value is missing; refuse what else is wrong."""
    frame = frame_of(x)
    if frame is not None and flow.columns is not None:
        check_rows(frame.fillna(0), flow.features, np.float64, "x", flow.columns)
        frame = frame[list(flow.columns)]
    values = plain_array(x, "x")
    if frame is not None:
        values = frame.to_numpy(np.float64, na_value=np.nan)
    if values.dtype.kind != "f":  # there is no gap in it
        return check_rows(values, flow.features, np.float64, "x")
    missing = np.isnan(values)
    rows = check_rows(np.where(missing, 0, values), flow.features, np.float64, "x")
    return np.where(missing, np.nan, rows)


def _count_known(x: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return how many features of each row are known, (N,): the first ones of the order."""
    missing = np.isnan(x)[:, order]
    known = (~missing).sum(axis=1)
    early = missing & (np.arange(len(order)) < known[:, None])
    if early.any():
        row, place = np.argwhere(early)[0]
        after = order[place + np.argmin(missing[row, place:])]
        raise ValueError(
            f"x: row {row}: feature {order[place]} is missing and feature {after}, which comes "
            f"after it in the order {order.tolist()}, is not; only what is missing at the end can "
            "be marginalised exactly; afnp.marginals.estimate takes any gaps"
        )
    return known
