r"""The coupling transform: the autoregressive one with two blocks of features.

.. math::
    u_A = x_A, \qquad u_B = \tau^{-1}(x_B;\, h(x_A)), \qquad
    \log\left|\det \frac{\partial u}{\partial x}\right|
    = \sum_{i \in B} \log \frac{\partial u_i}{\partial x_i}

An autoregressive transform puts the features in a row and lets each depend on all before it: D
steps back. A coupling (NICE, arXiv 1410.8516; RealNVP, 1605.08803) puts them in two blocks. The
first passes through untouched, the second depends on the first and nothing of itself: one step
back, and both directions are one network pass. Sorted by block, the Jacobian is block triangular,

.. math:: \frac{\partial u}{\partial x} = \begin{pmatrix} I & 0 \\
          \partial u_B / \partial x_A & \mathrm{diag}(\partial u_i / \partial x_i) \end{pmatrix}

The price is expressiveness a layer: of the D(D-1)/2 dependencies only |A| |B| ≤ D²/4 are there.

Letters: N rows, D features, A and B of them in the blocks, C context inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from afnp.inputs import choose, integer
from afnp.networks import MLP, GatedMLP
from afnp.networks.masked_mlp import dense_size
from afnp.params import Views
from afnp.transforms.autoregressive import name_of, univariate_of
from afnp.transforms.base import Transform
from afnp.transforms.cost import Cost, Work

__all__ = ["SPLITS", "Coupling", "split_of"]

SPLITS = ("alternating", "half", "random")
"""Ways to choose the features that pass through."""


def split_of(
    split: str | Sequence[bool] | np.ndarray,
    features: int,
    rng: np.random.Generator | None = None,
    swapped: bool = False,
) -> np.ndarray:
    """Return which features pass through, (D,) bool.

    Parameters
    ----------
    split : {"alternating", "half", "random"} or a sequence of D bools
        Features 0, 2, 4 ... pass; the first half passes; a random half passes; those that are True
        pass.
    features : int
        D. A single feature never passes by name: nothing would be left to transform.
    rng : numpy.random.Generator, optional
        Needed by "random" only.
    swapped : bool
        Exchange the blocks.

    Raises
    ------
    ValueError
        If ``split`` is neither a known name nor D bools, or leaves no feature to transform.

    Examples
    --------
    >>> split_of("alternating", 5)
    array([ True, False,  True, False,  True])
    >>> split_of("half", 5, swapped=True)
    array([False, False, False,  True,  True])
    """
    if isinstance(split, str):
        passing = _named_split(split, features, rng)
    else:
        passing = _explicit_split(split, features)
    if swapped and features > 1:
        passing = ~passing
    if passing.all():
        raise ValueError(
            f"split: expected at least one feature to transform, got {split!r}, where all pass"
        )
    return passing


def _named_split(split: str, features: int, rng: np.random.Generator | None) -> np.ndarray:
    choose("split", split, SPLITS)
    if features == 1:
        return np.array([False])
    index, half = np.arange(features), (features + 1) // 2
    if split == "alternating":
        return index % 2 == 0
    if split == "half":
        return index < half
    if rng is None:
        raise ValueError("split 'random' needs a numpy.random.Generator")
    return rng.permutation(features) < half


def _explicit_split(split, features: int) -> np.ndarray:
    try:
        passing = np.array(split)
    except ValueError:  # of unequal lengths
        passing = np.array(None)
    if passing.dtype != bool or passing.shape != (features,):
        names = ", ".join(map(repr, SPLITS))
        raise ValueError(f"split: expected one of {names} or {features} bools, got {split!r}")
    return passing


class Coupling(Transform):
    """Coupling transform: some features pass through and say how the others are transformed.

    Parameters
    ----------
    features : int
        D.
    hidden : sequence of int
    split : {"alternating", "half"} or a sequence of D bools
        Which features pass through; see :func:`split_of`.
    univariate : str or univariate
        A name in ``UNIVARIATES`` with ``options``, or an object. RealNVP takes "affine",
        NICE "additive".
    context, activation, residual
        As in :class:`afnp.networks.MaskedMLP`.
    gated : bool
        The context closes each residual block: :class:`afnp.networks.GatedMLP`.
    linear_end : bool
        As in :class:`afnp.networks.MaskedMLP`.

    Examples
    --------
    >>> layer = Coupling(3, hidden=(4,), split=[True, False, True])
    >>> layer.allowed().astype(int)
    array([[1, 0, 0],
           [1, 1, 1],
           [0, 0, 1]])
    """

    def __init__(
        self,
        features: int,
        hidden: Sequence[int],
        split: str | Sequence[bool] | np.ndarray = "alternating",
        univariate="affine",
        options: dict | None = None,
        context: int = 0,
        activation: str = "relu",
        residual: bool = False,
        gated: bool = False,
        linear_end: bool = False,
    ):
        self.features = integer("features", features, least=1)
        self.context = integer("context", context, least=0)
        self.passing = split_of(split, self.features)
        self.A, self.B = np.flatnonzero(self.passing), np.flatnonzero(~self.passing)
        self.order = np.concatenate([self.A, self.B])
        self.fixed = len(self.A)
        self.univariate = univariate_of(univariate, options)
        self.name = name_of(self.univariate)
        self.periodic = self.univariate.periodic
        self.gated = bool(gated)
        size = len(self.B), self.univariate.numbers, hidden, len(self.A), self.context, activation
        if self.gated and self.periodic:
            raise ValueError("gated: expected a univariate that is not periodic")
        self.conditioner: MLP | GatedMLP
        if self.gated:
            self.conditioner = GatedMLP(*size, linear_end)
        else:
            self.conditioner = MLP(*size, residual, self.periodic, linear_end)
        self.layout = self.conditioner.layout

    @classmethod
    def count(cls, config: dict) -> int:
        """Return how many parameters the network has, from integers alone."""
        C = integer("context", config["context"], least=0)
        univariate = univariate_of(config["univariate"], config["options"])
        split = list(map(bool, config["split"]))
        if len(split) != config["features"]:
            raise ValueError(f"split: expected {config['features']} bools, got {len(split)}")
        if config.get("gated"):
            sizes = {"features": len(split) - sum(split), "numbers": univariate.numbers}
            return GatedMLP.count({**config, **sizes, "inputs": sum(split)})
        inputs = C + (2 if univariate.periodic else 1) * sum(split)
        outputs = (len(split) - sum(split)) * univariate.numbers
        return dense_size(inputs, config["hidden"], outputs)

    def config(self) -> dict:
        """Return the keyword arguments that rebuild this transform."""
        net = self.conditioner
        return {
            "features": self.features,
            "hidden": list(net.hidden),
            "split": self.passing.tolist(),
            "univariate": self.name,
            "options": self.univariate.config(),
            "context": self.context,
            "activation": net.activation,
            "residual": net.residual,
            **({"gated": True} if self.gated else {}),
            **({"linear_end": True} if net.linear_end else {}),
        }

    def initialize(self, p: Views, rng: np.random.Generator) -> None:
        """Draw the conditioner's parameters in place."""
        self.conditioner.initialize(p, rng)

    def allowed(self) -> np.ndarray:
        """Return which u_i may depend on which x_j, (D, D) bool.

        Block triangular, diagonal within the blocks.
        """
        return np.eye(self.features, dtype=bool) | (~self.passing[:, None] & self.passing[None, :])

    def allowed_context(self) -> np.ndarray:
        """Return which u_i may depend on which context input, (D, C) bool.

        Those of the second block.
        """
        return np.repeat(~self.passing[:, None], self.context, axis=1)

    @property
    def cost(self) -> Cost:
        """What each direction costs: one pass, always."""
        work = Work(1, 1, self.conditioner.cost)
        return Cost(work, work, work)

    def _params(self, p: Views, values: np.ndarray, context: np.ndarray) -> tuple:
        """Return h (N, B, K) of the second block, from the first block of rows (N, D).

        And the cache.
        """
        return self.conditioner.forward(p, context, values[:, self.A])

    def normalize(self, p: Views, x: np.ndarray, context: np.ndarray) -> tuple:
        """Map x (N, D) to u (N, D); also give log|det du/dx| (N,) and the cache of ``backward``."""
        h, cache = self._params(p, x, context)
        u_B, log_derivative, univariate_cache = self.univariate.normalize(h, x[:, self.B])
        return self._put(x, u_B), log_derivative.sum(axis=1), (cache, univariate_cache)

    def generate(self, p: Views, u: np.ndarray, context: np.ndarray) -> tuple:
        """Map u (N, D) to x (N, D) in one pass; also give log|det dx/du| (N,)."""
        h, _ = self._params(p, u, context)
        x_B, log_derivative = self.univariate.generate(h, u[:, self.B])
        return self._put(u, x_B), log_derivative.sum(axis=1)

    def _put(self, values: np.ndarray, changed: np.ndarray) -> np.ndarray:
        """Return a copy of ``values`` with the second block changed."""
        result = values.astype(changed.dtype)
        result[:, self.B] = changed
        return result

    def backward(
        self, p: Views, cache, d_u: np.ndarray, d_log_det: np.ndarray, g: Views
    ) -> np.ndarray:
        """Add the parameters' gradients of ``normalize`` into g; return d_x (N, D)."""
        conditioner_cache, univariate_cache = cache
        d_h, d_B = self.univariate.backward(univariate_cache, d_u[:, self.B], d_log_det[:, None])
        d_x = self._put(d_u, d_B)
        d_x[:, self.A] += self.conditioner.backward(p, conditioner_cache, d_h, g)
        return d_x

    def generate_keeping(self, p: Views, u: np.ndarray, context: np.ndarray) -> tuple:
        """Do as ``generate`` does, in one pass; also give the cache of ``generate_backward``."""
        h, cache = self._params(p, u, context)
        x_B, log_derivative = self.univariate.generate(h, u[:, self.B])
        univariate_cache = self.univariate.normalize(h, x_B)[2]
        return self._put(u, x_B), log_derivative.sum(axis=1), (cache, univariate_cache)

    def generate_backward(
        self, p: Views, cache, d_x: np.ndarray, d_log_det: np.ndarray, g: Views
    ) -> np.ndarray:
        """Add the parameters' gradients of ``generate`` into g; return d_u (N, D).

        The second block's are found first, the network is gone through once.
        """
        conditioner_cache, univariate_cache = cache
        d_B, d_log = -d_x[:, self.B], -d_log_det[:, None]
        one, zero = np.ones_like(d_B), np.zeros_like(d_B)
        slope = self.univariate.backward(univariate_cache, one, zero)[1]
        offset = self.univariate.backward(univariate_cache, zero, zero + d_log)[1]
        d_B = (d_B - offset) / slope
        d_h, _ = self.univariate.backward(univariate_cache, d_B, d_log)
        d_u = self._put(d_x, -d_B)
        d_u[:, self.A] += self.conditioner.backward(p, conditioner_cache, d_h, g)
        return d_u

    def backward_context(
        self, p: Views, cache, d_u: np.ndarray, d_log_det: np.ndarray, g: Views
    ) -> tuple:
        """Do as ``backward`` does; also give the gradient by the context, (N, C)."""
        conditioner_cache, univariate_cache = cache
        d_h, d_B = self.univariate.backward(univariate_cache, d_u[:, self.B], d_log_det[:, None])
        d_x = self._put(d_u, d_B)
        through, d_context = self.conditioner.backward_context(p, conditioner_cache, d_h, g)
        d_x[:, self.A] += through
        return d_x, d_context
