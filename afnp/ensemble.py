r"""Ensembles: several flows as one density, and how far they are from each other.

.. math:: \log p(x \mid c) = \log \frac1M \sum_{m=1}^M p_m(x \mid c)
          \;\ge\; \frac1M \sum_{m=1}^M \log p_m(x \mid c)

Flows that were trained from different seeds, or on different parts of the data, agree where data
were and part where there were none. Their mixture is a density like any other, and its
log-likelihood is at least the mean of theirs; the spread of log p between members says where not to
believe it (deep ensembles, arXiv 1612.01474).

Letters: N rows, D features, C context inputs, M members.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from afnp.flow import Flow, context_of_samples, sample_each
from afnp.inputs import TOO_MANY, flag, generator, integer, too_many_rows
from afnp.univariate.stable import logsumexp

__all__ = ["FlowEnsemble"]


class FlowEnsemble:
    r"""Mixture of M flows with equal weights.

    .. math:: \log p(x \mid c) = \log \frac1M \sum_m p_m(x \mid c)

    Parameters
    ----------
    flows : sequence of Flow
        These very flows become the members: whatever trains one changes the ensemble. All have the
        same features, context, precision, and names of columns.

    Attributes
    ----------
    flows : tuple of Flow
    features, context : int
    dtype : numpy.dtype
        Of parameters and results.
    columns, context_columns : tuple of str or None
    theta : (P,) array
        The parameters of all members, one after the other: a copy.

    Raises
    ------
    ValueError
        If there is no member, or they do not fit together (names the member).

    Examples
    --------
    >>> import afnp
    >>> x = np.random.default_rng(0).standard_normal((200, 2))
    >>> flows = [afnp.maf(2, hidden=(8,), transforms=2, seed=seed) for seed in range(3)]
    >>> for seed, flow in enumerate(flows):
    ...     history = afnp.fit(flow, x, epochs=2, seed=seed, progress=False)
    >>> ensemble = afnp.FlowEnsemble(flows)
    >>> ensemble.log_prob(x).shape, ensemble.spread(x).shape, ensemble.sample(5).shape
    ((200,), (200,), (5, 2))
    """

    def __init__(self, flows: Iterable[Flow]):
        self.flows = tuple(flows) if isinstance(flows, Iterable) else (flows,)
        for m, flow in enumerate(self.flows):
            if not isinstance(flow, Flow):
                raise ValueError(f"flows: member {m}: expected a Flow, got {type(flow).__name__}")
        if not self.flows:
            raise ValueError("flows: expected at least one, got none")
        first = self.flows[0]
        self.features, self.context, self.dtype = first.features, first.context, first.dtype
        self.columns, self.context_columns = first.columns, first.context_columns
        for m, flow in enumerate(self.flows):
            for name in ("features", "context", "dtype", "columns", "context_columns"):
                expected, got = getattr(self, name), getattr(flow, name)
                if expected != got:
                    raise ValueError(
                        f"flows: member {m}: expected {name} {expected} as member 0, got {got}"
                    )

    @property
    def theta(self) -> np.ndarray:
        """The parameters of all members, (P,), one after the other: a copy."""
        return np.concatenate([flow.theta for flow in self.flows])

    def config(self) -> dict:
        """Return what rebuilds this ensemble, but for ``theta``."""
        return {"type": type(self).__name__, "flows": [flow.config() for flow in self.flows]}

    def __repr__(self) -> str:
        """Print how many members there are, and the first."""
        return f"FlowEnsemble of {len(self.flows)}, the first:\n{self.flows[0]!r}"

    # ---- the density, and how far members are from it --------------------------------------------

    def log_prob_by_member(self, x, context=None, backend="auto") -> np.ndarray:
        """Return log p_m (M, N), nats, of each row of x (N, D) under each member.

        Raises what :meth:`afnp.Flow.log_prob` raises.
        """
        return np.stack([flow.log_prob(x, context, backend) for flow in self.flows])

    def log_prob(self, x, context=None, backend="auto") -> np.ndarray:
        """Return the log-density of each row of x (N, D) under the mixture, in nats, (N,).

        Raises what :meth:`afnp.Flow.log_prob` raises.
        """
        return _mean(self.log_prob_by_member(x, context, backend))

    def spread(self, x, context=None, backend="auto") -> np.ndarray:
        r"""Return the standard deviation between members of log p at each row, in nats, (N,).

        .. math:: \sqrt{\tfrac1M \sum_m \big(\log p_m(x) - \overline{\log p}(x)\big)^2}

        It is 0 for one member; a row that some members alone give density zero has inf.
        """
        log_p = self.log_prob_by_member(x, context, backend)
        nowhere = np.isneginf(log_p)
        with np.errstate(invalid="ignore"):
            spread = log_p.std(axis=0)
        spread[nowhere.any(axis=0)] = np.inf
        spread[nowhere.all(axis=0)] = 0
        return spread

    def score(self, x, context=None, of="x", backend="auto") -> np.ndarray:
        r"""Return the gradient of the mixture's log p, (N, D), or by the context, (N, C).

        .. math:: \nabla \log p = \sum_m r_m \nabla \log p_m, \qquad
                  r_m = \frac{p_m}{\sum_l p_l}

        Raises what :meth:`afnp.Flow.score` raises.
        """
        log_p = self.log_prob_by_member(x, context, backend)
        scores = np.stack([flow.score(x, context, of, backend) for flow in self.flows])
        total = logsumexp(log_p, axis=0)
        r = np.exp(log_p - np.where(np.isneginf(total), 0, total))
        return (r[..., None] * scores).sum(axis=0).astype(self.dtype, copy=False)

    # ---- samples ---------------------------------------------------------------------------------

    def sample(
        self, n, rng=0, context=None, method="substitution", backend="auto", each=False
    ) -> np.ndarray:
        """Draw n rows, (n, D), each from a member drawn for it; see :meth:`afnp.Flow.sample`.

        Parameters
        ----------
        n : int
        rng : seed or Generator
        context : (n, C) or (1, C) array, optional
        method, backend : str
            As for :meth:`afnp.Flow.generate`.
        each : bool
            Draw n rows for each of the M rows of the context: the result is (M, n, D).
        """
        n, rng = integer("n", n, least=0), generator("rng", rng)
        if flag("each", each):
            return sample_each(self, n, rng, context, method, backend)
        if self.context and context is not None:
            context = context_of_samples(self, n, context)
            context = np.broadcast_to(context, (n, self.context))
        dtype = np.result_type(*(flow.data_dtype for flow in self.flows))
        try:
            member = rng.integers(len(self.flows), size=n)
            x = np.empty((n, self.features), dtype)
        except TOO_MANY:
            raise too_many_rows(n, self.features) from None
        for m, flow in enumerate(self.flows):
            rows = np.flatnonzero(member == m)
            given = None if context is None else context[rows]
            x[rows] = flow.sample(len(rows), rng, given, method, backend)
        return x


def _mean(log_p: np.ndarray) -> np.ndarray:
    """Return the logarithm of the mean of M densities, from log_p (M, N)."""
    total = logsumexp(log_p, axis=0) - math.log(len(log_p))
    return total.astype(log_p.dtype, copy=False)
