r"""The attentive transform: autoregressive over tokens, with a causal transformer for conditioner.

.. math::
    u_{t} = \tau^{-1}(x_t;\, h_t(x_{<t})), \qquad
    \log\left|\det \frac{\partial u}{\partial x}\right| = \sum_i \log \frac{\partial u_i}{\partial x_i}

A token is a run of P features in the transform's order (arXiv 2412.06329). All features of a token
are transformed given earlier tokens only, so the Jacobian is block triangular with diagonal blocks
on the diagonal; at P = 1 it is that of :class:`afnp.transforms.Autoregressive`.

**Sampling is substitution.** When token t becomes known, so do its key and its value in the first
block, its place in the next, and so on up. Each is computed once and kept: what is called the KV
cache is the rule that evaluates each hidden unit of a masked network once. The loop that computes
everything again takes T passes; the cache takes the arithmetic of one, in T steps.

Letters: N rows, D features, C context inputs, P features a token, T = D / P tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from afnp.inputs import integer
from afnp.networks import masks
from afnp.networks.transformer import CausalTransformer
from afnp.params import Views
from afnp.sampling.sweeps import Whole
from afnp.transforms.autoregressive import Autoregressive, univariate_of
from afnp.transforms.cost import Cost, Work

__all__ = ["Attentive", "image_order"]


def image_order(height: int, width: int, side: int) -> np.ndarray:
    """Return the pixels of an image, stored row by row, in the order of its square patches, (height · width,).

    Raises
    ------
    ValueError
        If patches of that side do not tile the image.

    Examples
    --------
    >>> image_order(2, 4, 2)
    array([0, 1, 4, 5, 2, 3, 6, 7])
    """
    side = integer("side", side, least=1)
    if height % side or width % side:
        raise ValueError(f"side: expected a common divisor of {height} and {width}, got {side}")
    pixels = np.arange(height * width).reshape(height // side, side, width // side, side)
    return pixels.swapaxes(1, 2).reshape(-1)


class Attentive(Autoregressive):
    """Attentive transform: density in one pass of a transformer, sampling with kept keys and values.

    Parameters
    ----------
    features : int
        D.
    patch : int
        P, features a token; it divides D.
    width, heads, blocks : int
        As in :class:`afnp.networks.transformer.CausalTransformer`.
    order : sequence of int, optional
        Feature ``order[r]`` comes r-th, in token r // P; natural if left out.
    univariate : str
        A name in ``UNIVARIATES``; ``options`` are its keyword arguments.
    context : int
        C.

    Raises
    ------
    ValueError
        If the patch does not divide the features, or the heads do not divide the width.

    Examples
    --------
    >>> layer = Attentive(4, patch=2, width=8, heads=2, blocks=1)
    >>> layer.allowed().astype(int)
    array([[1, 0, 0, 0],
           [0, 1, 0, 0],
           [1, 1, 1, 0],
           [1, 1, 0, 1]])
    >>> layer.cost.generate
    Work(passes=1, depth=2, multiply_adds=1664)
    """

    conditioner: CausalTransformer  # type: ignore[assignment]

    def __init__(
        self,
        features: int,
        patch: int = 1,
        width: int = 64,
        heads: int = 4,
        blocks: int = 2,
        order: Sequence[int] | np.ndarray | None = None,
        univariate: str = "affine",
        options: dict | None = None,
        context: int = 0,
    ):
        self.features, self.context = (
            integer("features", features, least=1),
            integer("context", context, least=0),
        )
        self.order = masks.order_of("natural" if order is None else order, self.features)
        self.rank = np.argsort(self.order)
        self.name, self.univariate = univariate, univariate_of(univariate, options)
        self.periodic = self.univariate.periodic
        numbers = self.univariate.numbers
        self.conditioner = CausalTransformer(
            self.features, numbers, patch, width, heads, blocks, self.context, self.periodic
        )
        self.layout = self.conditioner.layout

    @classmethod
    def count(cls, config: dict) -> int:
        """Return how many parameters the transformer has, from integers alone."""
        univariate = univariate_of(config["univariate"], config["options"])
        return CausalTransformer.count(
            integer("features", config["features"], least=1),
            univariate.numbers,
            config["patch"],
            config["width"],
            config["blocks"],
            config["context"],
            univariate.periodic,
        )

    def config(self) -> dict:
        """Return the keyword arguments that rebuild this transform."""
        net = self.conditioner
        return {
            "features": self.features,
            "patch": net.patch,
            "width": net.width,
            "heads": net.heads,
            "blocks": net.depth,
            "order": self.order.tolist(),
            "univariate": self.name,
            "options": self.univariate.config(),
            "context": self.context,
        }

    def allowed(self) -> np.ndarray:
        """Return which u_i may depend on which x_j, (D, D) bool: j in an earlier token, or j = i."""
        token = self.rank // self.conditioner.patch
        return (token[None, :] < token[:, None]) | np.eye(self.features, dtype=bool)

    @property
    def cost(self) -> Cost:
        """What each direction costs: one pass there; back the same work in T steps, or T passes."""
        T, work = self.conditioner.tokens, Work(1, 1, self.conditioner.work)
        return Cost(work, work._replace(depth=T), work.repeated(T))

    @property
    def activations(self) -> int:
        """Numbers a row that one pass keeps, for cutting long inputs into blocks."""
        net = self.conditioner
        each = 22 * net.width + 3 * net.heads * net.tokens
        return net.tokens * (net.depth * each + net.patch * net.numbers)

    def solve_backward(self, p: Views, cache, d_x: np.ndarray, d_log_det: np.ndarray) -> np.ndarray:
        """Refuse: keys are heard by all later tokens, and their reverse substitution is not written."""
        raise ValueError("transform: the inverse of an Attentive has no derivative here")

    def _tokens(self) -> list[slice]:
        """Return the places of each token's features in generation order."""
        return [
            slice(r, r + self.conditioner.patch)
            for r in range(0, self.features, self.conditioner.patch)
        ]

    def _substitution(
        self, p: dict, u: np.ndarray, context: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Evaluate each token once in each block, and keep its key and value."""
        x, known = np.empty(u.shape, np.result_type(u, context, p["places"])), context
        log_det, memory = np.zeros(len(u), x.dtype), self.conditioner.memory(len(u), x.dtype)
        for t, token in enumerate(self._tokens()):
            h = self.conditioner.step(p, t, known, memory)
            known, log_derivative = self.univariate.generate(h, u[:, token])
            x[:, token] = known
            log_det += log_derivative.sum(axis=1)
        return x, log_det

    def _blocks(self, p: Views, context: np.ndarray) -> Whole:
        """Return the network as sweeps run it: whole."""
        return Whole(self.conditioner, p, context, self.conditioner.work)

    def _naive(self, p: dict, u: np.ndarray, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Run the whole transformer once a token: the definition that the cache must match."""
        x = np.zeros(u.shape, np.result_type(u, context, p["places"]))
        log_det = np.zeros(len(u), x.dtype)
        for token in self._tokens():
            h, _ = self.conditioner.forward(p, self.conditioner.hear(context, x))
            x[:, token], log_derivative = self.univariate.generate(h[:, token], u[:, token])
            log_det += log_derivative.sum(axis=1)
        return x, log_det
