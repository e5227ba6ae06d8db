r"""The convolutional autoregressive transform: series of any length, a million features, one set of parameters.

.. math::
    u_t = \tau^{-1}(x_t;\, h_t), \qquad h_t = \mathrm{conv}(x_{t-F}, \dots, x_{t-1}), \qquad
    \log\left|\det \frac{\partial u}{\partial x}\right| = \sum_t \log \frac{\partial u_t}{\partial x_t}

The network is :class:`afnp.networks.causal_conv.CausalConv` (WaveNet, arXiv 1609.03499). Its
Jacobian is a banded triangle: what lies further back than the receptive field F is lost, by design
and not by accident.

===========  ====================================  ================================================================
direction    how                                   cost
===========  ====================================  ================================================================
density      NumPy: one pass, in chunks            work O(D), memory O(chunk) beside x and u density
compiled: a walk along queues         work O(D), memory O(F) beside x and u sampling     "naive": D
passes, the definition     work O(D²) sampling     "substitution": a walk along queues   work O(D),
each unit once (Fast WaveNet, arXiv 1611.09482) sampling     "jacobi": passes until nothing moves
work O(D) a sweep, at most D sweeps (afnp.sampling.fixed_point)
===========  ====================================  ================================================================

Gradients keep all activations: cut long series into rows for training.

Letters: N rows, D features (steps), C context inputs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from afnp.networks.causal_conv import CausalConv
from afnp.params import Views
from afnp.sampling.fixed_point import Sweeps
from afnp.sampling.sweeps import Whole
from afnp.transforms.autoregressive import univariate_of
from afnp.transforms.base import Transform
from afnp.transforms.cost import Cost, Work

__all__ = ["CausalConvolution"]

CHUNK_NUMBERS = 2**18
"""The density walks in chunks of about so many activations a layer: they stay in the cache, and memory small."""


class CausalConvolution(Transform):
    """Autoregressive transform whose conditioner is a stack of causal dilated convolutions.

    Parameters
    ----------
    features : int
        D.
    channels : int
        R, the width of the network.
    dilations : sequence of int
        One layer each; 1, 2, 4, ... doubles the receptive field with every layer.
    reverse : bool
        Walk from the last feature to the first.
    univariate : str
        A name in ``UNIVARIATES``; ``options`` are its keyword arguments.
    context, activation
        As in :class:`afnp.networks.causal_conv.CausalConv`.

    Examples
    --------
    >>> layer = CausalConvolution(features=10**6, channels=16, dilations=[2**l for l in range(10)])
    >>> layer.layout.size, layer.conditioner.receptive_field
    (13346, 1024)
    """

    def __init__(
        self,
        features: int,
        channels: int = 16,
        dilations: Sequence[int] = (1, 2, 4, 8),
        reverse: bool = False,
        univariate: str = "affine",
        options: dict | None = None,
        context: int = 0,
        activation: str = "gated",
    ):
        self.name, self.univariate = univariate, univariate_of(univariate, options)
        self.periodic, self.reverse = self.univariate.periodic, bool(reverse)
        self.conditioner = CausalConv(
            features,
            self.univariate.numbers,
            channels,
            dilations,
            context,
            activation,
            self.periodic,
        )
        self.features, self.context = self.conditioner.features, self.conditioner.context
        self.layout = self.conditioner.layout

    @classmethod
    def count(cls, config: dict) -> int:
        """Return how many parameters the convolutions have, from integers alone."""
        univariate = univariate_of(config["univariate"], config["options"])
        return CausalConv.count(
            univariate.numbers,
            config["channels"],
            len(config["dilations"]),
            config["context"],
            config["activation"],
            univariate.periodic,
        )

    def config(self) -> dict:
        """Return the keyword arguments that rebuild this transform."""
        net = self.conditioner
        return {
            "features": self.features,
            "channels": net.channels,
            "dilations": list(net.dilations),
            "reverse": self.reverse,
            "univariate": self.name,
            "options": self.univariate.config(),
            "context": self.context,
            "activation": net.activation,
        }

    def initialize(self, p: Views, rng: np.random.Generator) -> None:
        """Draw the conditioner's parameters in place."""
        self.conditioner.initialize(p, rng)

    @property
    def order(self) -> np.ndarray:
        """Feature ``order[r]`` comes r-th, (D,)."""
        return np.arange(self.features)[self._way]

    @property
    def _way(self) -> slice:
        return slice(None, None, -1 if self.reverse else 1)

    def allowed(self) -> np.ndarray:
        """Return which u_i may depend on which x_j, (D, D) bool: itself, and those before within reach."""
        t = np.arange(self.features)
        before = np.isin(t[:, None] - t, np.append(self.conditioner.reach(), 0))
        return before[self._way, self._way]

    @property
    def cost(self) -> Cost:
        """What each direction costs: one pass there, back one walk along the queues or D passes."""
        work = Work(1, 1, self.conditioner.multiply_adds)
        return Cost(work, work._replace(depth=self.features), work.repeated(self.features))

    # ---- density ---------------------------------------------------------------------------------

    def normalize(self, p: Views, x: np.ndarray, context: np.ndarray) -> tuple:
        """Map x (N, D) to u (N, D); also give log|det du/dx| (N,) and the cache of ``backward``."""
        ordered = x[:, self._way]
        h, cache = self.conditioner.forward(p, self.conditioner.hear(context, ordered))
        u, log_derivative, univariate_cache = self.univariate.normalize(h, ordered)
        return u[:, self._way], log_derivative.sum(axis=1), (cache, univariate_cache)

    def evaluate(self, p: Views, x: np.ndarray, context: np.ndarray, chunk: int = 0) -> tuple:
        """Do the same without a cache, chunk by chunk: the same numbers to rounding, whatever the chunk."""
        net, x, dtype = self.conditioner, x[:, self._way], np.result_type(x, context, p["E"])
        steps = chunk or max(1, CHUNK_NUMBERS // (net.gates * max(1, len(x))))
        tails, none = net.tails(len(x), dtype), np.empty((len(x), 0), dtype)
        u, log_derivative = np.empty(x.shape, dtype), np.empty(x.shape, dtype)
        for first in range(0, self.features, steps):
            here = np.s_[:, first : first + steps]
            heard = net.hear(none, x[here]).reshape(*x[here].shape, net.embedding)
            h = net.advance(p, context, heard, tails)
            u[here], log_derivative[here], _ = self.univariate.normalize(h, x[here])
        return u[:, self._way], log_derivative.sum(axis=1)

    def backward(
        self, p: Views, cache, d_u: np.ndarray, d_log_det: np.ndarray, g: Views
    ) -> np.ndarray:
        """Add the parameters' gradients of ``normalize`` into g; return d_x (N, D)."""
        (conditioner_cache, univariate_cache), net = cache, self.conditioner
        d_h, d_x = self.univariate.backward(univariate_cache, d_u[:, self._way], d_log_det[:, None])
        d_inputs = net.backward(p, conditioner_cache, d_h, g)
        return (d_x + net.hear_backward(conditioner_cache[0], d_inputs, self.context))[:, self._way]

    # ---- sampling --------------------------------------------------------------------------------

    def generate(self, p: Views, u: np.ndarray, context: np.ndarray) -> tuple:
        """Map u (N, D) to x (N, D), a walk along the queues; also give log|det dx/du| (N,)."""
        x, log_derivative = self._queues(p, u[:, self._way], context)
        return x[:, self._way], log_derivative.sum(axis=1)

    def naive(self, p: Views, u: np.ndarray, context: np.ndarray) -> tuple:
        """Do the same by the textbook loop of D full network passes."""
        x, log_derivative = self._naive(p, u[:, self._way], context)
        return x[:, self._way], log_derivative.sum(axis=1)

    def iterate(self, method: Sweeps, p: Views, u: np.ndarray, context: np.ndarray) -> tuple:
        """Do the same by fixed-point iteration; also give iterations and multiply-adds of each row, (N,)."""
        whole = Whole(self.conditioner, p, context, self.conditioner.multiply_adds)
        x, log_det, *taken = method.solve(whole, self.univariate.generate, u[:, self._way])
        return x[:, self._way], log_det, *taken

    def sampler(self, method: str | Sweeps) -> Callable:
        """Return how a method of sampling maps (p, u, context) to x and log|det dx/du|."""
        if isinstance(method, Sweeps):
            return functools.partial(self.iterate, method)
        return {"substitution": self.generate, "naive": self.naive}[method]

    def _queues(
        self, p: Views, u: np.ndarray, context: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Walk step by step; also give the log-derivatives, (N, D)."""
        net, dtype = self.conditioner, np.result_type(u, context, p["E"])
        x, log_derivative = np.empty(u.shape, dtype), np.empty(u.shape, dtype)
        queues, none = net.begin(p, context, dtype), np.empty((len(u), 0), dtype)
        heard = np.zeros((len(u), net.embedding), dtype)
        for t in range(self.features):
            h = net.step(p, t, heard, queues)
            x[:, t], log_derivative[:, t] = self.univariate.generate(h, u[:, t])
            heard = net.hear(none, x[:, t : t + 1])
        return x, log_derivative

    def _naive(self, p: Views, u: np.ndarray, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run the textbook loop of D full network passes: the definition that everything else must match."""
        x, log_derivative = np.zeros_like(u), np.empty_like(u)
        for t in range(self.features):
            h, _ = self.conditioner.forward(p, self.conditioner.hear(context, x))
            x[:, t], log_derivative[:, t] = self.univariate.generate(h[:, t], u[:, t])
        return x, log_derivative
