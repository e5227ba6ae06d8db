"""What discrete models share: parameters, checked input, batches, and the face that ``afnp.fit`` knows.

Letters: N rows, D features, C context inputs, K levels, P parameters. Logarithms in nats.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from afnp.batches import check_context, refuse_nan
from afnp.discrete.conditionals import Conditionals
from afnp.inputs import check_rows, choose, integer
from afnp.networks import MaskedMLP
from afnp.params import Views

__all__ = ["DiscreteModel", "network"]

METHODS = ("substitution", "naive")
"""How ``sample`` may work; both give the same rows."""

BATCH_NUMBERS = 2**23
"""Long inputs are streamed in batches of about this many activations, so that memory stays bounded."""


def network(features, levels, without, hidden, context, activation, residual) -> Conditionals:
    """Build the network of checked numbers, leaving ``without`` indicators of each feature out."""
    features, levels = integer("features", features, least=1), integer("levels", levels, least=2)
    options = {
        "context": integer("context", context, least=0),
        "activation": activation,
        "residual": residual,
    }
    return Conditionals(features, levels, levels - without, hidden, **options)


class DiscreteModel:
    """Parameters, checked input, long inputs in batches, and the face that :func:`afnp.fit` knows."""

    without = 0
    """How many indicators of each feature's levels the network does without."""

    def __init__(self, net: Conditionals, seed: int, dtype, theta: np.ndarray | None = None):
        self.net, self.features, self.levels, self.context = (
            net,
            net.features,
            net.levels,
            net.context,
        )
        try:
            dtype = np.dtype(dtype)
        except TypeError:
            raise ValueError(f"dtype: expected float32 or float64, got {dtype!r}") from None
        if dtype not in (np.float32, np.float64):
            raise ValueError(f"dtype: expected float32 or float64, got {dtype}")
        if theta is not None:
            if theta.shape != (net.layout.size,) or theta.dtype != dtype:
                raise ValueError(
                    f"theta: expected ({net.layout.size},) of {dtype}, "
                    f"got {theta.shape} of {theta.dtype}"
                )
            self._theta = theta
            return
        self._theta = np.zeros(net.layout.size, dtype=dtype)
        self._initialize(self.split(self._theta), np.random.default_rng(seed))

    @property
    def theta(self) -> np.ndarray:
        """All parameters, (P,); assigning copies into the same memory."""
        return self._theta

    @theta.setter
    def theta(self, values: np.ndarray) -> None:
        if np.shape(values) != self._theta.shape or np.iscomplexobj(values):
            got = np.asarray(values)
            raise ValueError(
                f"theta: expected shape {self._theta.shape}, got {got.shape}, {got.dtype}"
            )
        self._theta[:] = values

    @property
    def dtype(self) -> np.dtype:
        """Floating-point type of parameters and results."""
        return self._theta.dtype

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
        """Build the model that ``config()`` describes, with fresh parameters, or with this very array."""
        return cls(**{k: v for k, v in config.items() if k != "type"}, theta=theta)

    @classmethod
    def counts(cls, config: dict) -> list[int]:
        """Return how many parameters the network has, from integers alone."""
        D = integer("features", config["features"], least=1)
        K = integer("levels", config["levels"], least=2)
        C = integer("context", config["context"], least=0)
        inputs = C + D * (K - cls.without)
        return [MaskedMLP.count(inputs, config["hidden"], D * (K - 1))]

    def __repr__(self) -> str:
        long = {"type", "order", "orders"}
        facts = [
            f"{name}={value}" for name, value in self.config().items() if name not in long and value
        ]
        return f"{type(self).__name__}({', '.join(facts)}, parameters={self.theta.size:,})"

    # ---- public: checked input

    def log_prob(self, x, context=None) -> np.ndarray:
        """Return the log-probability of each row of x (N, D), in nats, (N,).

        Raises
        ------
        ValueError
            If x has the wrong shape, or a value that is none of the levels 0, 1, ..., K - 1 (names
            row and feature); if the context has the wrong shape, or a value that is not finite.
        FloatingPointError
            If a result is not a number (names the row).
        """
        return self._streamed(self._log_prob, x, context)

    def loss_and_grad(self, x, context=None) -> tuple[float, np.ndarray]:
        r"""Return the mean negative log-likelihood in nats, and its gradient (P,) laid out like ``theta``.

        .. math:: \mathcal L(\theta) = -\frac1N \sum_n \log p_\theta(x_n)

        Raises
        ------
        ValueError
            As ``log_prob``; and for an empty batch, whose mean does not exist.
        FloatingPointError
            If the loss of a row, or the gradient, is not a number.
        """
        x, context = self.check(x, context)
        if not len(x):
            raise ValueError("x: expected at least one row, got an empty batch")
        grad = np.zeros_like(self._theta)
        with np.errstate(over="ignore", invalid="ignore"):
            log_prob = self._gradient(self.split(self._theta), x, context, self.split(grad))
        refuse_nan(log_prob, "x")
        if np.isnan(grad).any():
            raise FloatingPointError("the gradient of the loss is not a number")
        return -float(log_prob.mean(dtype=np.float64)), grad

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
        context, rng = (
            check_context(context, self.context, n, self.dtype),
            np.random.default_rng(rng),
        )
        p, x = self.split(self._theta), np.empty((n, self.features), dtype=np.intp)
        for rows in self._blocks(n):
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

    def _gradient(self, p: Views, x: np.ndarray, context: np.ndarray, g: Views) -> np.ndarray:
        """Add the gradient of the mean of -log p into g; return log p (N,)."""
        raise NotImplementedError

    def _sample(
        self, p: Views, n: int, context: np.ndarray, rng: np.random.Generator, method: str
    ) -> tuple:
        """Draw x (n, D); also give the log-probability (n,) of each row in the order in which it was drawn."""
        raise NotImplementedError

    # ---- checks, batches, and what ``fit`` asks for

    def split(self, theta: np.ndarray) -> Views:
        """Return the named views of a vector laid out like ``theta``."""
        return self.net.layout.views(theta)

    def _streamed(self, function: Callable, x, context) -> np.ndarray:
        """Apply ``function(p, x, context)``, which returns (..., N), to blocks of rows."""
        x, context = self.check(x, context)
        p = self.split(self._theta)
        with np.errstate(over="ignore", invalid="ignore"):
            parts = [function(p, x[rows], context[rows]) for rows in self._blocks(len(x))]
        result = np.concatenate(parts, axis=-1)
        refuse_nan(result.T, "x")
        return result

    def check(self, x, context, name: str = "x") -> tuple[np.ndarray, np.ndarray]:
        """Return x as levels (N, D) and the context as (N, C), or raise a ValueError that says what is wrong."""
        x = check_rows(x, self.features, np.float64, name)
        wrong = np.argwhere((x < 0) | (x >= self.levels) | (x != np.floor(x)))
        if len(wrong):
            row, feature = wrong[0]
            expected = "0 or 1" if self.levels == 2 else f"a level 0, 1, ..., {self.levels - 1}"
            raise ValueError(
                f"{name}: row {row}, feature {feature}: expected {expected}, got {x[row, feature]:g}"
            )
        return x.astype(np.intp), check_context(context, self.context, len(x), self.dtype)

    def _blocks(self, n: int) -> list[slice]:
        widest = sum(W.shape[1] for W in self.split(self._theta).values() if W.ndim == 2)
        most = max(1, BATCH_NUMBERS // (widest + self.features * self.levels))
        return [slice(start, start + most) for start in range(0, max(n, 1), most)]

    def _backend(self, backend: str, n: int) -> str:
        choose("backend", backend, ("auto", "numpy"))
        return "numpy"

    def _begin(self, x: np.ndarray, context: np.ndarray) -> None:
        """Do nothing: no parameter starts from statistics of the training rows."""

    def _gradient_blocks(self, n: int, backend: str) -> list[slice]:
        return [slice(0, n)]

    def _gradient_in_blocks(
        self, x, context, grads: list[Views], backend: str, kept: list | None = None
    ) -> tuple[np.ndarray, float]:
        """Write a training step's gradient into grads[0]; return log p (N,) and |grad|²."""
        g = grads[0]
        g.flat[:] = 0
        with np.errstate(over="ignore", invalid="ignore"):
            log_prob = self._step_gradient(self.split(self._theta), x, context, g)
            return log_prob, float(g.flat @ g.flat)

    def _step_gradient(self, p: Views, x: np.ndarray, context: np.ndarray, g: Views) -> np.ndarray:
        """Add a training step's gradient into g; return log p (N,)."""
        return self._gradient(p, x, context, g)
