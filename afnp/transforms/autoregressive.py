r"""The autoregressive transform: a conditioner and a univariate, read in a chosen order of the features.

.. math::
    u_i = \tau^{-1}(x_i;\, h_i(x_{<i})), \qquad
    \log\left|\det \frac{\partial u}{\partial x}\right| = \sum_i \log \frac{\partial u_i}{\partial x_i}

"Before" means earlier in the order. u_i belongs to x_i whatever the order: rows and columns of the
Jacobian are the features, and it is triangular once both are sorted by the order (arXiv 1912.02762,
section 3.1).

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence

import numpy as np

from afnp.inputs import choose, integer
from afnp.networks import MaskedMLP, masks
from afnp.networks.layers import ACTIVATIONS
from afnp.params import Views
from afnp.sampling.fixed_point import Sweeps
from afnp.sampling.substitution import substitute, substitute_back
from afnp.sampling.sweeps import Staircases
from afnp.transforms.base import Transform
from afnp.transforms.cost import Cost, network_work
from afnp.univariate import UNIVARIATES

__all__ = ["Autoregressive", "univariate_of"]


def univariate_of(name: str, options: dict | None = None):
    """Return the univariate of that name, made with those options."""
    choose("univariate", name, sorted(UNIVARIATES))
    known = sorted(inspect.signature(UNIVARIATES[name]).parameters)
    for option in options or {}:
        choose(f"options of {name!r}", option, known)
    return UNIVARIATES[name](**(options or {}))


class Autoregressive(Transform):
    """Masked autoregressive transform: density in one network pass, sampling by substitution.

    Parameters
    ----------
    features : int
        D.
    hidden : sequence of int
    order : sequence of int, optional
        Feature ``order[r]`` comes r-th; natural if left out.
    univariate : str
        A name in ``UNIVARIATES``; ``options`` are its keyword arguments.
    context, activation, residual
        As in :class:`afnp.networks.MaskedMLP`.
    """

    def __init__(
        self,
        features: int,
        hidden: Sequence[int],
        order: Sequence[int] | np.ndarray | None = None,
        univariate: str = "affine",
        options: dict | None = None,
        context: int = 0,
        activation: str = "relu",
        residual: bool = False,
    ):
        self.features, self.context = features, context
        self.order = masks.order_of("natural" if order is None else order, features)
        self.rank = np.argsort(self.order)
        self.name = univariate
        self.univariate = univariate_of(univariate, options)
        self.periodic = self.univariate.periodic
        self.conditioner = MaskedMLP(
            features, self.univariate.numbers, hidden, context, activation, residual, self.periodic
        )
        self.layout = self.conditioner.layout

    def config(self) -> dict:
        """Return the keyword arguments that rebuild this transform."""
        net = self.conditioner
        return {
            "features": self.features,
            "hidden": list(net.hidden),
            "order": self.order.tolist(),
            "univariate": self.name,
            "options": self.univariate.config(),
            "context": self.context,
            "activation": net.activation,
            "residual": net.residual,
        }

    @classmethod
    def count(cls, config: dict) -> int:
        """Return how many parameters the conditioner has, from integers alone."""
        D = integer("features", config["features"], least=1)
        C = integer("context", config["context"], least=0)
        univariate = univariate_of(config["univariate"], config["options"])
        inputs = C + (2 if univariate.periodic else 1) * D
        return MaskedMLP.count(inputs, config["hidden"], D * univariate.numbers)

    def initialize(self, p: Views, rng: np.random.Generator) -> None:
        """Draw the conditioner's parameters in place."""
        self.conditioner.initialize(p, rng)

    def allowed(self) -> np.ndarray:
        """Return which u_i may depend on which x_j, (D, D) bool: j not later than i in the order."""
        return self.rank[None, :] <= self.rank[:, None]

    @property
    def cost(self) -> Cost:
        """What each direction costs: one pass there, back one triangular solve or D passes."""
        work = network_work(self.conditioner)
        return Cost(work, work._replace(depth=self.features), work.repeated(self.features))

    def normalize(self, p: Views, x: np.ndarray, context: np.ndarray) -> tuple:
        """Map x (N, D) to u (N, D); also give log|det du/dx| (N,) and the cache of ``backward``."""
        ordered = x[:, self.order]
        h, cache = self.conditioner.forward(p, self.conditioner.hear(context, ordered))
        u, log_derivative, univariate_cache = self.univariate.normalize(h, ordered)
        return u[:, self.rank], log_derivative.sum(axis=1), (cache, univariate_cache)

    def backward(
        self, p: Views, cache, d_u: np.ndarray, d_log_det: np.ndarray, g: Views
    ) -> np.ndarray:
        """Add the parameters' gradients of ``normalize`` into g; return d_x (N, D)."""
        conditioner_cache, univariate_cache = cache
        d_h, d_x = self.univariate.backward(
            univariate_cache, d_u[:, self.order], d_log_det[:, None]
        )
        d_inputs = self.conditioner.backward(p, conditioner_cache, d_h, g)
        return (d_x + self.conditioner.hear_backward(conditioner_cache[0], d_inputs, self.context))[
            :, self.rank
        ]

    def solve_backward(self, p: Views, cache, d_x: np.ndarray, d_log_det: np.ndarray) -> np.ndarray:
        """Return the d_u (N, D) from which ``backward`` makes d_x, by reverse substitution."""
        conditioner_cache, univariate_cache = cache
        net, (one, zero) = self.conditioner, (np.ones_like(d_x), np.zeros_like(d_x))
        slope = self.univariate.backward(univariate_cache, one, zero)
        offset = self.univariate.backward(univariate_cache, zero, zero + d_log_det[:, None])
        phi = ACTIVATIONS[net.activation].backward
        d_u = substitute_back(
            net.staircases(p),
            phi,
            conditioner_cache,
            slope,
            offset,
            d_x[:, self.order],
            self.context,
            net.hear_backward,
        )
        return d_u[:, self.rank]

    def generate(self, p: Views, u: np.ndarray, context: np.ndarray) -> tuple:
        """Map u (N, D) to x (N, D) by substitution; also give log|det dx/du| (N,)."""
        x, log_det = self._substitution(p, u[:, self.order], context)
        return x[:, self.rank], log_det

    def naive(self, p: Views, u: np.ndarray, context: np.ndarray) -> tuple:
        """Do the same by the textbook loop of D full network passes."""
        x, log_det = self._naive(p, u[:, self.order], context)
        return x[:, self.rank], log_det

    def iterate(self, method: Sweeps, p: Views, u: np.ndarray, context: np.ndarray) -> tuple:
        """Do the same by fixed-point iteration; also give iterations and multiply-adds of each row, (N,)."""
        blocks, ordered = self._blocks(p, context), u[:, self.order]
        x, log_det, *taken = method.solve(blocks, self.univariate.generate, ordered)
        return x[:, self.rank], log_det, *taken

    def sampler(self, method: str | Sweeps) -> Callable:
        """Return how a method of sampling maps (p, u, context) to x and log|det dx/du|."""
        if isinstance(method, Sweeps):
            return functools.partial(self.iterate, method)
        return {"substitution": self.generate, "naive": self.naive}[method]

    def _substitution(
        self, p: dict, u: np.ndarray, context: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        net = self.conditioner
        phi = ACTIVATIONS[net.activation].forward
        embed = net.embed if net.embedding == 2 else None
        return substitute(net.staircases(p), phi, self.univariate.generate, u, context, embed)

    def _blocks(self, p: Views, context: np.ndarray):
        """Return the network as sweeps run it, block by block of features."""
        net = self.conditioner
        embed = net.embed if net.embedding == 2 else None
        return Staircases(net.staircases(p), ACTIVATIONS[net.activation].forward, embed, context)

    def _naive(self, p: dict, u: np.ndarray, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run the textbook loop of D full network passes: the definition that everything else must match."""
        x, log_det = np.zeros_like(u), np.zeros(len(u), dtype=u.dtype)
        for i in range(self.features):
            h, _ = self.conditioner.forward(p, self.conditioner.hear(context, x))
            x[:, i], log_derivative = self.univariate.generate(h[:, i], u[:, i])
            log_det += log_derivative
        return x, log_det
