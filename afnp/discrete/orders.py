r"""Order-agnostic MADE: one network, several orders, and their average.

.. math:: \log p(x) = \log \frac1M \sum_{m=1}^M p(x;\, o^{(m)})
          \;\ge\; \frac1M \sum_{m=1}^M \log p(x;\, o^{(m)})

Each order is an exact chain rule, so their average is a distribution too (arXiv 1502.03509), and
its log-likelihood is at least the mean of theirs: the gap is what the orders disagree about.

Letters: N rows, D features, C context inputs, K levels, M orders.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from afnp.discrete.made import DiscreteMADE
from afnp.discrete.model import DiscreteModel, network
from afnp.inputs import check_rows, integer
from afnp.networks import masks
from afnp.univariate.stable import logsumexp

__all__ = ["OrderEnsemble", "averaging_gain"]


class OrderEnsemble(DiscreteModel):
    r"""One network that answers in M orders, and the average of its M distributions.

    .. math:: p(x) = \frac1M \sum_{m=1}^M p(x;\, o^{(m)}), \qquad
              W^{(1)}_m = W^{(1)}[:, o^{(m)}], \quad W^{(L)}_m = W^{(L)}[o^{(m)}, :]

    Weights belong to features, and an order only permutes them: columns of the first layer, rows of
    the last; masks stay as they are (order-agnostic training, arXiv 1502.03509). :func:`afnp.fit`
    takes each minibatch in one of the orders, a step towards the mean of all log p(x; o), which
    bounds log p(x) from below. ``log_prob`` and ``loss_and_grad`` are of the average itself,
    exactly, and cost M passes.

    A unit's inputs change with the order, so a feature has all its K indicators: level 0 is one,
    silence is none.

    Parameters
    ----------
    features, levels, hidden, context, activation, residual, seed, dtype, theta
        As in :class:`DiscreteMADE`.
    orders : int or sequence of orders
        M random orders, or these, each as in :class:`DiscreteMADE`.

    Examples
    --------
    >>> model = OrderEnsemble(3, hidden=(8,), orders=[[0, 1, 2], [2, 1, 0]])
    >>> model.log_prob([[0, 1, 1]]).shape
    (1,)
    """

    def __init__(
        self,
        features: int,
        levels: int = 2,
        hidden: Sequence[int] = (512, 512),
        orders: int | Iterable = 4,
        context: int = 0,
        activation: str = "relu",
        residual: bool = False,
        seed: int = 0,
        dtype=np.float64,
        theta: np.ndarray | None = None,
    ):
        net = network(features, levels, self.without, hidden, context, activation, residual)
        if isinstance(orders, str):
            raise ValueError(f"orders: expected a number or a list of orders, got {orders!r}")
        if not isinstance(orders, Iterable):
            orders = ["random"] * integer("orders", orders, least=1)
        rng = np.random.default_rng([integer("seed", seed, least=0), 1])
        self.orders = np.array([masks.order_of(order, net.features, rng) for order in orders])
        if not len(self.orders):
            raise ValueError("orders: expected at least one, got none")
        super().__init__(net, seed, dtype, theta)

    def config(self) -> dict:
        """Return what rebuilds this model, but for ``theta``: numbers, strings and lists only."""
        return {**super().config(), "orders": self.orders.tolist()}

    @classmethod
    def from_config(cls, config: dict, theta: np.ndarray | None = None):
        """Build the model that ``config()`` describes.

        Orders must be a list: a number could ask for any memory.
        """
        if not isinstance(config["orders"], list):
            raise ValueError(f"orders: expected a list of permutations, got {config['orders']!r}")
        return super().from_config(config, theta)

    def log_prob_by_order(self, x, context=None) -> np.ndarray:
        """Return the log-probability, in nats, of each row of x (N, D) in each order, (M, N).

        Raises what ``log_prob`` raises.
        """

        def work(p, x, context, engine) -> tuple:
            return (self._by_order(p, x, context).T,)

        return self.streamed("", work, x, context, "auto")[0].T

    # ---- trusted

    def _initialize(self, p, rng):
        """Draw what every order may read, with the variance of its row.

        No mask hides the same weights from all.
        """
        self.net.initialize(p, rng)
        first, last = self.net.linears[0], self.net.linears[-1]
        for linear, size in ((first, 1.0), (last, 0.01)):
            W = p[linear.W]
            W[:] = (
                rng.standard_normal(W.shape)
                * size
                / np.sqrt(3.0 * np.maximum(linear.prefix, 1))[:, None]
            )

    def _permuted(self, p: dict, order: np.ndarray) -> dict:
        """Return parameters with the first layer's columns and the last one's rows in an order."""
        first, last, C = self.net.linears[0], self.net.linears[-1], self.context
        columns = np.concatenate([np.arange(C), C + _spread(order, self.net.indicators)])
        rows, moved = _spread(order, self.net.numbers), dict(p)
        moved[first.W] = moved[first.W][:, columns]
        moved[last.W], moved[last.b] = moved[last.W][rows], moved[last.b][rows]
        return moved

    def _log_prob_in(
        self, order: np.ndarray, p: dict, x: np.ndarray, context: np.ndarray
    ) -> np.ndarray:
        """Return log p(x; order) (N,)."""
        return self.net.log_prob(self._permuted(p, order), x[:, order], context)

    def _gradient_in(
        self, order: np.ndarray, p, x, context, d_log_prob: np.ndarray, g
    ) -> np.ndarray:
        """Add the gradient from d_log_prob (N,), of log p(x.

        Order), into g; return log p(x; order) (N,).
        """
        g_order = self.net.layout.views(np.zeros_like(g.flat))
        log_prob = self.net.gradient(
            self._permuted(p, order), x[:, order], context, d_log_prob, g_order
        )
        for name, d in self._permuted(g_order, np.argsort(order)).items():
            g[name] += d
        return log_prob

    def _by_order(self, p, x, context) -> np.ndarray:
        """Return log p(x; o) (M, N)."""
        return np.stack([self._log_prob_in(order, p, x, context) for order in self.orders])

    def _log_prob(self, p, x, context):
        return _mean(self._by_order(p, x, context))

    def _gradient(self, p, x, context, d_log_prob, g):
        r"""Add the gradient of the average's loss.

        Each order counts as much as it explains of a row.

        .. math:: \partial \log p(x) = \sum_m r_m\, \partial \log p(x;\, o^{(m)}), \qquad
                  r_m = \frac{p(x;\, o^{(m)})}{\sum_l p(x;\, o^{(l)})}
        """
        log_p = self._by_order(p, x, context)
        for order, r in zip(self.orders, np.exp(log_p - logsumexp(log_p, axis=0)), strict=True):
            self._gradient_in(order, p, x, context, r * d_log_prob, g)
        return _mean(log_p)

    def _step_gradient(self, p, x, context, d_log_prob, g):
        # the rows themselves name their order: no hidden state, and a resumed run repeats the
        # choice
        order = self.orders[zlib.crc32(x.tobytes()) % len(self.orders)]
        return self._gradient_in(order, p, x, context, d_log_prob, g)

    def _sample(self, p, n, context, rng, method):
        m = rng.integers(len(self.orders), size=n)
        v = rng.random((n, self.features), dtype=p.flat.dtype)
        x = np.empty((n, self.features), dtype=np.intp)
        log_prob = np.empty_like(v, shape=n)
        for k in np.unique(m):
            order, rows = self.orders[k], np.flatnonzero(m == k)
            drawn, log_prob[rows] = self.net.generate(
                self._permuted(p, order), v[rows], context[rows], method
            )
            x[rows] = drawn[:, np.argsort(order)]
        return x, log_prob


def _spread(order: np.ndarray, width: int) -> np.ndarray:
    """Return the places of blocks of ``width`` numbers, taken in an order."""
    return (order[:, None] * width + np.arange(width)).ravel()


def _mean(log_p: np.ndarray) -> np.ndarray:
    """Return the logarithm of the mean of M distributions, from log_p (M, N)."""
    return logsumexp(log_p, axis=0) - math.log(len(log_p))


def averaging_gain(
    fit: Callable,
    x_train,
    x_val,
    x_test,
    orders: int = 4,
    hidden: Sequence[int] = (256,),
    levels: int = 2,
    seed: int = 0,
    **options,
) -> dict[str, float | list[float]]:
    """Train M models of one order each, and one model of M orders.

    Tell what averaging adds on test rows.

    Parameters
    ----------
    fit : callable
        :func:`afnp.fit`, or what takes its place.
    x_train, x_val, x_test : (N, D) arrays of levels
    orders : int
        M.
    hidden, levels, seed
        Of every model.
    **options
        For ``fit``, in place of what suits a thousand small binary images.

    Returns
    -------
    dict
        Mean test log-likelihoods in nats: of the M "models" of one order each, and of the "models
        averaged"; of the order-agnostic model in each of its M "orders", and of the "orders
        averaged". No average is below the mean of what it averages; whether it is above the best of
        them is what there is to learn.

    Examples
    --------
    >>> import afnp
    >>> x = (np.random.default_rng(0).normal(size=(90, 1)) + [0, 0.1, 0.2] > 0).astype(int)
    >>> gain = averaging_gain(afnp.fit, x[:30], x[30:60], x[60:], hidden=(8,), epochs=5)
    >>> len(gain["orders"]), gain["orders averaged"] > min(gain["orders"])
    (4, True)
    """
    options = {"epochs": 300, "learning_rate": 3e-3, "patience": 20, "progress": False, **options}
    features = check_rows(x_train, None, np.float64, "x_train").shape[1]
    models = [
        DiscreteMADE(features, levels, hidden, order="random", seed=seed + m) for m in range(orders)
    ]
    ensemble = OrderEnsemble(features, levels, hidden, orders, seed=seed)
    for model in (*models, ensemble):
        fit(model, x_train, x_val, seed=seed, **options)
    by_model = np.stack([model.log_prob(x_test) for model in models])
    by_order = ensemble.log_prob_by_order(x_test)
    return {
        "models": by_model.mean(axis=1).tolist(),
        "models averaged": float(_mean(by_model).mean()),
        "orders": by_order.mean(axis=1).tolist(),
        "orders averaged": float(_mean(by_order).mean()),
    }
