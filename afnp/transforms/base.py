r"""Transforms: what a flow is made of, and the one face that all of them have.

.. math::
    u = f(x), \qquad \log\left|\det \frac{\partial u}{\partial x}\right|, \qquad x = f^{-1}(u)

A transform holds shapes and constants. Parameters ``p``, gradients ``g`` and caches travel as
arguments, so that one transform serves any theta, float32, float64, and the complex numbers with
which :mod:`afnp.verify` differentiates. It knows no engine: :mod:`afnp.compiled.stages` stands
above, and turns transforms into compiled ones.

A new transform is a subclass with ``features``, ``layout``, ``config``, ``normalize``, ``generate``
and ``backward``; whatever the defaults below do not say, it overrides. Its name enters
``TRANSFORMS``, from which model files are rebuilt.

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from afnp.params import Layout, Views, register
from afnp.transforms.cost import FREE, Cost

__all__ = ["TRANSFORMS", "Transform", "mean_of_rows"]

TRANSFORMS: dict[str, type[Transform]] = {}
"""Every transform by the name of its class, which is the name that model files use.

The first of a name keeps it: a model file shall never be rebuilt from another class. A flow of a
transform of your own is loaded by a program that has imported the module that defines it.
"""


def mean_of_rows(x: np.ndarray) -> np.ndarray:
    """Return the mean (D,) of rows (N, D) that all weigh the same."""
    return x.mean(axis=0, dtype=np.float64)


class Transform:
    """A bijection of rows (N, D), with log-determinant and hand-written derivative.

    Subclasses register themselves by name. The defaults are those of a layer without a network: it
    has no parameters, begins as the identity, each output depends on its own input alone, there is
    no context, and it costs nothing.
    """

    features: int
    """D."""
    context: int = 0
    """C, the width of the condition; 0 where there is none to depend on."""
    layout: Layout = Layout({})
    """Names and shapes of the parameters."""
    periodic: bool = False
    """Whether features are angles."""
    conditioner: Any = None
    """The network, where there is one; see :mod:`afnp.networks`."""
    univariate: Any = None
    """What is applied to each feature, where there is a network to steer it.

    See :mod:`afnp.univariate`.
    """
    takes_statistics: bool = False
    """Whether training needs statistics of a whole batch, as batch normalisation does."""
    preprocesses: bool = False
    """Whether constants of the data bring data into range; in front of a flow that is done in
    float64."""

    @property
    def ends(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Where each feature must lie, between two (D,), for its density not to be zero.

        None where that is everywhere.
        """
        return None

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        register(TRANSFORMS, cls)

    def config(self) -> dict:
        """Return the keyword arguments that rebuild this transform.

        Numbers, strings and lists only.
        """
        return {"features": self.features}

    @classmethod
    def from_config(cls, config: dict) -> Transform:
        """Rebuild a transform from what ``config()`` returned."""
        return cls(**config)

    @classmethod
    def count(cls, config: dict) -> int:
        """Return how many parameters ``from_config(config)`` has, before it is built.

        A model file is held against it, so that none can ask for more memory than it has itself.
        """
        return 0

    def initialize(self, p: Views, rng: np.random.Generator) -> None:
        """Write the parameters to begin with, in place.

        Zeros, which make most layers the identity.
        """
        for values in p.values():
            values[:] = 0.0

    def allowed(self) -> np.ndarray:
        """Return which u_i may depend on which x_j, (D, D) bool: each on its own."""
        return np.eye(self.features, dtype=bool)

    def allowed_context(self) -> np.ndarray:
        """Return which u_i may depend on which context input, (D, C) bool: all on all."""
        return np.ones((self.features, self.context), dtype=bool)

    @property
    def activations(self) -> int:
        """Numbers a row that one pass keeps, for cutting long inputs into blocks."""
        return sum(shape[0] for shape in self.layout.shapes.values())

    @property
    def cost(self) -> Cost:
        """What each direction costs a row."""
        return FREE

    # ---- the two directions, and the derivative --------------------------------------------------

    def normalize(self, p: Views, x: np.ndarray, context: np.ndarray) -> tuple:
        """Map data x (N, D) to u (N, D).

        Also give log|det du/dx| (N,), and the cache of ``backward``.
        """
        raise NotImplementedError

    def evaluate(self, p: Views, x: np.ndarray, context: np.ndarray) -> tuple:
        """Return u and log|det du/dx| where no derivative is asked for, and keep nothing."""
        return self.normalize(p, x, context)[:2]

    def generate(self, p: Views, u: np.ndarray, context: np.ndarray) -> tuple:
        """Map noise u (N, D) to x (N, D); also give log|det dx/du| (N,)."""
        raise NotImplementedError

    def backward(self, p: Views, cache, d_u: np.ndarray, d_log_det: np.ndarray, g: Views):
        """Add the parameters' gradients of ``normalize`` into g; return d_x (N, D)."""
        raise NotImplementedError

    # ---- the derivative of the other direction ---------------------------------------------------

    def generate_keeping(self, p: Views, u: np.ndarray, context: np.ndarray) -> tuple:
        """Do as ``generate`` does; also give the cache of ``generate_backward``."""
        x, log_det = self.generate(p, u, context)
        return x, log_det, self.normalize(p, x, context)[2]

    def generate_backward(
        self, p: Views, cache, d_x: np.ndarray, d_log_det: np.ndarray, g: Views
    ) -> np.ndarray:
        r"""Add the parameters' gradients of ``generate`` into g; return d_u (N, D).

        With u = f(x), J its Jacobian and λ = log|det J|, ``generate`` gives x = f⁻¹(u) and -λ(x).
        A small change of u and θ moves x by J⁻¹ (du - ∂f/∂θ dθ), hence

        .. math:: J^\top d_u = d_x - d_{\log\det} \nabla_x \lambda, \qquad
                  d_\theta = -\left(\frac{\partial f}{\partial \theta}\right)^{\!\top} d_u
                  - d_{\log\det} \frac{\partial \lambda}{\partial \theta}

        Both are the backward pass of f, fed with (-d_u, -d_logdet): it makes -d_x of them, which
        determines d_u by a transposed solve, and adds d_θ into the gradient.
        """
        d_u = -self.solve_backward(p, cache, -d_x, -d_log_det)
        self.backward(p, cache, -d_u, -d_log_det, g)
        return d_u

    def solve_backward(self, p: Views, cache, d_x: np.ndarray, d_log_det: np.ndarray) -> np.ndarray:
        """Return the d_u (N, D) from which ``backward`` makes d_x: here of a diagonal Jacobian."""
        g = self.layout.views(np.zeros(self.layout.size, d_x.dtype))
        slope = self.backward(p, cache, np.ones_like(d_x), np.zeros_like(d_log_det), g)
        offset = self.backward(p, cache, np.zeros_like(d_x), d_log_det, g)
        return (d_x - offset) / slope

    # ---- the derivative by the context -----------------------------------------------------------

    def backward_context(
        self, p: Views, cache, d_u: np.ndarray, d_log_det: np.ndarray, g: Views
    ) -> tuple:
        """Do as ``backward`` does; also give the gradient by the context, (N, C), or 0."""
        if self.context:
            raise ValueError(f"of: a {type(self).__name__} has no derivative by its context here")
        return self.backward(p, cache, d_u, d_log_det, g), 0

    def sampler(self, method) -> Callable:
        """Return how a method of sampling maps (p, u, context) to x and log|det dx/du|.

        Only a transform that is solved has a choice. An iteration returns two arrays more: how many
        iterations each row took, and how many multiply-adds, (N,) each.
        """
        return lambda p, u, context: self.generate(p, u, context)

    # ---- statistics of the data ------------------------------------------------------------------

    def waits(self, p: Views) -> bool:
        """Return whether parameters that begin as statistics of the data are still untouched.

        There are none.
        """
        return False

    def start_from_data(self, p: Views, x: np.ndarray, average: Callable = mean_of_rows) -> None:
        """Let the parameters of which ``waits`` speaks take the statistics of x (N, D).

        ``average`` gives means over rows, (N, D) to (D,), by what each of them weighs.
        """

    def normalize_training(
        self, p: Views, x: np.ndarray, context: np.ndarray, weights: np.ndarray | None = None
    ) -> tuple:
        """Do as ``normalize`` does, in a training step.

        With statistics of these rows, weighted by w (N,), if any are taken.
        """
        return self.normalize(p, x, context)

    def update_statistics(self, p: Views, cache, share: float) -> None:
        """Move running statistics by those of a training step, after it.

        ``share`` is its part of a full batch.
        """
