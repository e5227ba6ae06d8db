"""What discrete models share: parameters, checked input, batches, and the face for ``afnp.fit``.

Letters: N rows, D features, C context inputs, K levels, P parameters. Logarithms in nats.
"""

from __future__ import annotations

import numpy as np

from afnp.discrete.conditionals import Conditionals
from afnp.inputs import TOO_MANY, check_rows, choose, generator, integer, too_many_rows
from afnp.model import Model, check_context
from afnp.networks.masked_mlp import dense_size
from afnp.params import Views

__all__ = ["DiscreteModel", "network"]

METHODS = ("substitution", "naive")
"""How ``sample`` may work; both give the same rows."""


def network(features, levels, without, hidden, context, activation, residual) -> Conditionals:
    """Build the network of checked numbers, leaving ``without`` indicators of each feature out."""
    features, levels = integer("features", features, least=1), integer("levels", levels, least=2)
    options = {"context": context, "activation": activation, "residual": residual}
    return Conditionals(features, levels, levels - without, hidden, **options)


class DiscreteModel(Model):
    """Rows of levels: their checks, and what the two models below define."""

    without = 0
    """How many indicators of each feature's levels the network does without."""

    def __init__(self, net: Conditionals, seed: int, dtype, theta: np.ndarray | None = None):
        super().__init__(net.features, net.context, net.layout.size, dtype, theta)
        self.net, self.levels = net, net.levels
        if theta is None:
            self._initialize(self.own, np.random.default_rng(seed))

    def config(self) -> dict:
        """Return what rebuilds this model, but for ``theta``: numbers, strings and lists only."""
        return {
            "type": type(self).__name__,
            "features": self.features,
            "levels": self.levels,
            "hidden": list(self.net.hidden),
            "context": self.context,
            "activation": self.net.activation,
            "residual": self.net.residual,
            "dtype": self.dtype.name,
        }

    @classmethod
    def from_config(cls, config: dict, theta: np.ndarray | None = None):
        """Build the model that ``config()`` describes, with fresh parameters or this very array."""
        return cls(**{k: v for k, v in config.items() if k != "type"}, theta=theta)

    @classmethod
    def counts(cls, config: dict) -> list[int]:
        """Return how many parameters the network has, from integers alone."""
        D = integer("features", config["features"], least=1)
        K = integer("levels", config["levels"], least=2)
        C = integer("context", config["context"], least=0)
        inputs = C + D * (K - cls.without)
        return [dense_size(inputs, config["hidden"], D * (K - 1))]

    def __repr__(self) -> str:
        long = {"type", "order", "orders"}
        facts = [
            f"{name}={value}" for name, value in self.config().items() if name not in long and value
        ]
        return f"{type(self).__name__}({', '.join(facts)}, parameters={self.theta.size:,})"

    # ---- public: checked input

    def log_prob(self, x, context=None, backend="auto") -> np.ndarray:
        """Return the log-probability of each row of x (N, D), in nats, (N,).

        Raises
        ------
        ValueError
            If x has the wrong shape, or a value that is none of the levels 0, 1, ..., K - 1 (names
            row and feature); if the context has the wrong shape, or a value that is not finite.
        FloatingPointError
            If a result is not a number (names the row).
        """

        def work(p, x, context, engine) -> tuple:
            return (self._log_prob(p, x, context),)

        return self.streamed("", work, x, context, backend)[0]

    def sample(self, n, rng=0, context=None, method="substitution") -> np.ndarray:
        """Draw n rows of levels, (n, D) integers, from a seed or a ``numpy.random.Generator``.

        Parameters
        ----------
        n : int
        rng : int or numpy.random.Generator
        context : (n, C) or (1, C) array, optional
        method : {"substitution", "naive"}
            Each hidden unit once, or the textbook loop of D full passes; the same rows.

        Raises
        ------
        ValueError
            If an argument makes no sense, or the context has the wrong shape or a value that is not
            finite.
        FloatingPointError
            If a conditional probability is not a number.
        """
        choose("method", method, METHODS)
        n = integer("n", n, least=0)
        rng, p = generator("rng", rng), self.own
        try:
            x = np.empty((n, self.features), dtype=np.intp)
        except TOO_MANY:
            raise too_many_rows(n, self.features) from None
        context = check_context(context, self.context, n, self.dtype)
        for rows in self.plan("auto", n).blocks:
            with np.errstate(over="ignore", invalid="ignore"):
                x[rows], log_prob = self._sample(p, len(x[rows]), context[rows], rng, method)
            if not np.isfinite(log_prob).all():
                raise FloatingPointError(
                    "a conditional probability is not a number: theta is not finite, or too large"
                )
        return x

    # ---- trusted: what the two models define

    def _initialize(self, p: Views, rng: np.random.Generator) -> None:
        """Draw the parameters in place."""
        self.net.initialize(p, rng)

    def _log_prob(self, p: Views, x: np.ndarray, context: np.ndarray) -> np.ndarray:
        """Return log p(x) (N,)."""
        raise NotImplementedError

    def _gradient(self, p: Views, x, context, d_log_prob: np.ndarray, g: Views) -> np.ndarray:
        """Add the gradient from d_log_prob (N,) into g; return log p (N,)."""
        raise NotImplementedError

    def _sample(
        self, p: Views, n: int, context: np.ndarray, rng: np.random.Generator, method: str
    ) -> tuple:
        """Draw x (n, D).

        Also give the log-probability (n,) of each row in the order in which it was drawn.
        """
        raise NotImplementedError

    # ---- checks, batches, and what ``fit`` asks for

    def split(self, theta: np.ndarray) -> Views:
        """Return the named views of a vector laid out like ``theta``."""
        return self.net.layout.views(theta)

    def check(self, x, context, name: str = "x") -> tuple[np.ndarray, np.ndarray]:
        """Return x as levels (N, D) and the context as (N, C), or raise a ValueError."""
        x = check_rows(x, self.features, np.float64, name)
        wrong = np.argwhere((x < 0) | (x >= self.levels) | (x != np.floor(x)))
        if len(wrong):
            row, feature = wrong[0]
            expected = "0 or 1" if self.levels == 2 else f"a level 0, 1, ..., {self.levels - 1}"
            raise ValueError(
                f"{name}: row {row}, feature {feature}: expected {expected}, "
                f"got {x[row, feature]:g}"
            )
        c = check_context(context, self.context, len(x), self.dtype, rows=name)
        return x.astype(np.intp), c

    @property
    def widest(self) -> int:
        """Numbers a row that are alive at once."""
        inputs = sum(W.shape[1] for W in self.own.values() if W.ndim == 2)
        return inputs + self.features * self.levels

    def add_gradient(self, p, x, context, g, engine="numpy", weights=None, kept=None) -> np.ndarray:
        """Add the gradient of the mean of -w log p into g; return log p (N,)."""
        d_log_prob = np.full(len(x), -1 / len(x), dtype=p.flat.dtype)
        if weights is not None:
            d_log_prob *= weights
        step = self._gradient if kept is None else self._step_gradient
        return step(p, x, context, d_log_prob, g)

    def _step_gradient(self, p: Views, x, context, d_log_prob: np.ndarray, g: Views) -> np.ndarray:
        """Add a training step's gradient into g; return log p (N,)."""
        return self._gradient(p, x, context, d_log_prob, g)
