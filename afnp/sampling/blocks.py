r"""Fixed-point iteration of a block of features: evaluate all of it until nothing changes.

.. math::
    z_r &= \underbrace{b_r + \sum_{c < \mathrm{known}} W_{rc}\, a_c}_{\text{once a block}}
         + \underbrace{
             \sum_{\mathrm{known} \le c < \mathrm{prefix}_r} W_{rc}\, a_c
         }_{\text{each iteration}}

    x^{(k+1)}_i &= \tau(u_i;\, h_i(x_{<b},\, x^{(k)}_b, \dots, x^{(k)}_{i-1}))
    \quad \text{for all } i \text{ of the block that begins with } b

After k iterations the first k features of the block are right and stay as they are, so B iterations
always suffice. The others may be anything, also infinite, and a masked product turns that into
0 · ∞ = NaN for those who do not even depend on it. A row whose params h are not all finite takes
such an iteration as the textbook loop does: zeros after what is right, and one more feature found.
:mod:`afnp.sampling.fixed_point` says what this is good for.

Letters: N rows, D features, B features of a block, n rows of those, K params a feature, C context
inputs, E inputs a feature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from afnp.sampling.substitution import Staircase

__all__ = ["Staircases", "Whole", "block_work", "places", "settle"]

# ---- one block -----------------------------------------------------------------------------------


def settle(
    params: Callable,
    generate: Callable,
    u: np.ndarray,
    x: np.ndarray,
    tolerance: float,
    limit: int | None = None,
    correct: Callable | None = None,
) -> tuple:
    """Iterate over x (N, B), in place, until no row changes, or as often as the limit says.

    ``correct(rows, x, h, new, k)`` makes a better next value of features k.. from τ's. Give
    log-dets, iterations and network passes, (N,) each.
    """
    N, B = u.shape
    most = B if limit is None else min(B, limit)
    log_derivative = np.zeros(x.shape, x.dtype)
    iterations, passes = np.zeros(N, dtype=np.int64), np.zeros(N, dtype=np.int64)
    rows, waiting = np.arange(N), np.ones(N, dtype=bool)
    for k in range(most if N else 0):  # the first k features are right, and stay as they are
        new, log_new, lost = _iterate(params, generate, u[rows], x[rows], rows, waiting, k, correct)
        still = (np.abs(new - x[rows, k:]) <= tolerance).all(axis=1) & ~lost
        x[rows[waiting], k:], log_derivative[rows[waiting], k:] = new[waiting], log_new[waiting]
        iterations[rows[waiting]] += 1
        passes[rows] += 1
        passes[rows[lost]] += 1
        waiting &= ~still
        if not waiting.any():
            break
        # not for every row: a product's last bits know its size
        if 2 * np.count_nonzero(waiting) <= len(rows):
            rows, waiting = rows[waiting], waiting[waiting]
    return log_derivative.sum(axis=1), iterations, passes


def _iterate(
    params: Callable,
    generate: Callable,
    u: np.ndarray,
    x: np.ndarray,
    rows: np.ndarray,
    waiting: np.ndarray,
    k: int,
    correct: Callable | None,
) -> tuple:
    """Return features k.., their log-derivatives, (n, B - k) each, and who overflowed, (n,)."""
    h = params(x, rows)[:, k:]
    finite = np.isfinite(h).all(axis=(1, 2))
    lost = waiting & ~finite
    new, log_new = np.zeros((len(x), h.shape[1]), x.dtype), np.zeros((len(x), h.shape[1]), x.dtype)
    try:
        new[finite], log_new[finite] = generate(h[finite], u[finite, k:])
        if correct is not None:
            new[finite] = correct(rows[finite], x[finite], h[finite], new[finite], k)
    except FloatingPointError:  # a univariate without an answer to garbage
        lost = waiting.copy()
    if lost.any():
        known = np.where(np.arange(x.shape[1]) < k, x[lost], 0)
        h = params(known, rows[lost])[:, k]
        new[lost], log_new[lost] = 0, 0
        new[lost, 0], log_new[lost, 0] = generate(h, u[lost, k])
    return new, log_new, lost


# ---- networks, block by block --------------------------------------------------------------------


class Whole:
    """Any causal conditioner: each iteration is one of its density passes, whatever the block.

    Parameters
    ----------
    network : Network
    p : Views
    context : (N, C) array
    """

    def __init__(self, network, p, context: np.ndarray):
        self.network, self.p, self.context = network, p, context
        self.dtype = np.result_type(context, p.flat)

    def begin(self, x: np.ndarray, first: int, last: int) -> tuple[int, int]:
        """Take what is known before a block.

        Return the multiply-adds a row once, and of each iteration.
        """
        self.x, self.first, self.last = x, first, last
        return 0, self.network.cost

    def params(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return h (n, B, K) for the block's values (n, B) in some rows (n,).

        Zeros follow the block.
        """
        x = np.zeros((len(rows), self.x.shape[1]), self.x.dtype)
        x[:, : self.first], x[:, self.first : self.last] = self.x[rows, : self.first], values
        h, _ = self.network.forward(self.p, self.context[rows], x)
        return h[:, self.first : self.last]


class Staircases:
    """A masked network, of which each iteration multiplies only what the block itself computes.

    Parameters
    ----------
    layers : list of Staircase
    activation : callable
        φ.
    embed : embedding
        How features enter the network; see :mod:`afnp.networks.features`.
    context : (N, C) array
    """

    def __init__(
        self,
        layers: list[Staircase],
        activation: Callable,
        embed,
        context: np.ndarray,
    ):
        self.layers, self.activation, self.embed, self.context = layers, activation, embed, context
        self.dtype = np.result_type(context, layers[0].W)
        self.a: list[np.ndarray] = []

    def _memory(self, x: np.ndarray) -> None:
        N, C = self.context.shape
        widths = [layer.W.shape[1] for layer in self.layers]
        self.a = [np.empty((width, N), x.dtype) for width in widths]
        self.a[0][:C] = self.context.T
        self.per_feature = (widths[0] - C) // x.shape[1]

    def _inputs(self, x: np.ndarray) -> np.ndarray:
        return self.embed.forward(x).T

    def begin(self, x: np.ndarray, first: int, last: int) -> tuple[int, int]:
        """Sum over what is known before a block.

        Return the multiply-adds a row once, and of each iteration.
        """
        if not first:
            self._memory(x)
        C, E = self.context.shape[1], self.per_feature
        self.a[0][C : C + E * first] = self._inputs(x[:, :first])
        starts = [layer.start for layer in self.layers]
        prefixes = [layer.prefix for layer in self.layers]
        self.places = places(starts, C, E, first, last)
        self.parts = []
        for (W, b, prefix, *_), a, (rows, columns) in zip(
            self.layers, self.a, self.places, strict=True
        ):
            known = W[rows, : columns.start] @ a[: columns.start] + b[rows, None]
            inside = np.arange(columns.start, columns.stop) < prefix[rows, None]
            self.parts.append((known, np.where(inside, W[rows, columns], 0)))
        return block_work(self.places, prefixes)

    def params(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return h (n, B, K) for the block's values (n, B) in some rows (n,).

        Keep the units' activations.
        """
        inputs, z = self._inputs(values), []
        for l, (known, W) in enumerate(self.parts):
            z.append(known[:, rows] + W @ inputs)
            if self.layers[l].skip:
                z[l] += z[l - 2]
            if l + 1 < len(self.parts):
                inputs = z[l] if self.layers[l].bare else self.activation(z[l])
                self.a[l + 1][self.places[l][0], rows] = inputs
        return z[-1].reshape(values.shape[1], -1, len(rows)).transpose(2, 0, 1)


def places(
    starts: Sequence[list[int]], C: int, E: int, first: int, last: int
) -> list[tuple[slice, slice]]:
    """Return which rows of each layer a block of features computes, and which columns are its."""
    rows = [slice(start[first], start[last]) for start in starts]
    return list(zip(rows, [slice(C + E * first, C + E * last), *rows], strict=False))


def block_work(
    places: list[tuple[slice, slice]], prefixes: Sequence[np.ndarray]
) -> tuple[int, int]:
    """Return the multiply-adds of a block: over the known, once, and inside, in each iteration."""
    once = sum((rows.stop - rows.start) * columns.start for rows, columns in places)
    return once, sum(
        int(prefix[rows].sum()) for prefix, (rows, _) in zip(prefixes, places, strict=True)
    ) - once
