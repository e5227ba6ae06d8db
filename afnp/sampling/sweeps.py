r"""Fixed-point iteration of a block of features: evaluate all of it until nothing changes.

.. math::
    z_r &= \underbrace{b_r + \sum_{c < \mathrm{known}} W_{rc}\, a_c}_{\text{once a block}}
         + \underbrace{
             \sum_{\mathrm{known} \le c < \mathrm{prefix}_r} W_{rc}\, a_c
         }_{\text{each iteration}}

    x^{(k+1)}_i &= \tau(u_i;\, h_i(x_{<b},\, x^{(k)}_b, \dots, x^{(k)}_{i-1}))
    \quad \text{for all } i \text{ of the block that begins with } b

After k sweeps the first k features of the block are right and stay as they are, so B sweeps always
suffice. The others may be anything, also infinite, and a masked product turns that into 0 · ∞ = NaN
for those who do not even hear it. A row whose numbers h are not all finite takes such a sweep as
the textbook loop does: zeros after what is right, and one more feature found.
:mod:`afnp.sampling.fixed_point` says what this is good for.

Letters: N rows, D features, B features of a block, n rows of those, K numbers a feature, C context
inputs, E inputs a feature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from afnp.sampling.substitution import Staircase

__all__ = ["Staircases", "Whole", "block_work", "places", "settle"]

# ---- one block -----------------------------------------------------------------------------------


def settle(
    hear: Callable,
    generate: Callable,
    u: np.ndarray,
    x: np.ndarray,
    tolerance: float,
    limit: int | None = None,
    correct: Callable | None = None,
) -> tuple:
    """Sweep over x (N, B), in place, until no row changes, or as often as the limit says.

    ``correct(rows, x, h, new, k)`` makes a better next value of features k.. from τ's. Give
    log-dets, sweeps and network passes, (N,) each.
    """
    N, B = u.shape
    most = B if limit is None else min(B, limit)
    log_derivative = np.zeros(x.shape, x.dtype)
    sweeps, passes = np.zeros(N, dtype=np.int64), np.zeros(N, dtype=np.int64)
    rows, waiting = np.arange(N), np.ones(N, dtype=bool)
    for k in range(most if N else 0):  # the first k features are right, and stay as they are
        new, log_new, wild = _sweep(hear, generate, u[rows], x[rows], rows, waiting, k, correct)
        still = (np.abs(new - x[rows, k:]) <= tolerance).all(axis=1) & ~wild
        x[rows[waiting], k:], log_derivative[rows[waiting], k:] = new[waiting], log_new[waiting]
        sweeps[rows[waiting]] += 1
        passes[rows] += 1
        passes[rows[wild]] += 1
        waiting &= ~still
        if not waiting.any():
            break
        if 2 * np.count_nonzero(waiting) <= len(
            rows
        ):  # not for every row: a product's last bits know its size
            rows, waiting = rows[waiting], waiting[waiting]
    return log_derivative.sum(axis=1), sweeps, passes


def _sweep(
    hear: Callable,
    generate: Callable,
    u: np.ndarray,
    x: np.ndarray,
    rows: np.ndarray,
    waiting: np.ndarray,
    k: int,
    correct: Callable | None,
) -> tuple:
    """Return features k.., their log-derivatives, (n, B - k) each, and who overflowed, (n,)."""
    h = hear(x, rows)[:, k:]
    tame = np.isfinite(h).all(axis=(1, 2))
    wild = waiting & ~tame
    new, log_new = np.zeros((len(x), h.shape[1]), x.dtype), np.zeros((len(x), h.shape[1]), x.dtype)
    try:
        new[tame], log_new[tame] = generate(h[tame], u[tame, k:])
        if correct is not None:
            new[tame] = correct(rows[tame], x[tame], h[tame], new[tame], k)
    except FloatingPointError:  # a univariate without an answer to garbage
        wild = waiting.copy()
    if wild.any():
        known = np.where(np.arange(x.shape[1]) < k, x[wild], 0)
        h = hear(known, rows[wild])[:, k]
        new[wild], log_new[wild] = 0, 0
        new[wild, 0], log_new[wild, 0] = generate(h, u[wild, k])
    return new, log_new, wild


# ---- networks, block by block --------------------------------------------------------------------


class Whole:
    """Any causal conditioner: each sweep is one of its density passes, whatever the block.

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

        Return the multiply-adds a row once, and of each sweep.
        """
        self.x, self.first, self.last = x, first, last
        return 0, self.network.cost

    def hear(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return h (n, B, K) for the block's values (n, B) in some rows (n,).

        Zeros follow the block.
        """
        x = np.zeros((len(rows), self.x.shape[1]), self.x.dtype)
        x[:, : self.first], x[:, self.first : self.last] = self.x[rows, : self.first], values
        h, _ = self.network.forward(self.p, self.context[rows], x)
        return h[:, self.first : self.last]


class Staircases:
    """A masked network, of which each sweep multiplies only what the block itself computes.

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

    def _heard(self, x: np.ndarray) -> np.ndarray:
        return self.embed.forward(x).T

    def begin(self, x: np.ndarray, first: int, last: int) -> tuple[int, int]:
        """Sum over what is known before a block.

        Return the multiply-adds a row once, and of each sweep.
        """
        if not first:
            self._memory(x)
        C, E = self.context.shape[1], self.per_feature
        self.a[0][C : C + E * first] = self._heard(x[:, :first])
        starts, prefixes = (
            [layer.start for layer in self.layers],
            [layer.prefix for layer in self.layers],
        )
        self.places = places(starts, C, E, first, last)
        self.parts = []
        for (W, b, prefix, *_), a, (rows, columns) in zip(
            self.layers, self.a, self.places, strict=True
        ):
            known = W[rows, : columns.start] @ a[: columns.start] + b[rows, None]
            inside = np.arange(columns.start, columns.stop) < prefix[rows, None]
            self.parts.append((known, np.where(inside, W[rows, columns], 0)))
        return block_work(self.places, prefixes)

    def hear(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return h (n, B, K) for the block's values (n, B) in some rows (n,).

        Keep the units' activations.
        """
        heard, z = self._heard(values), []
        for l, (known, W) in enumerate(self.parts):
            z.append(known[:, rows] + W @ heard)
            if self.layers[l].skip:
                z[l] += z[l - 2]
            if l + 1 < len(self.parts):
                heard = z[l] if self.layers[l].bare else self.activation(z[l])
                self.a[l + 1][self.places[l][0], rows] = heard
        return z[-1].reshape(values.shape[1], -1, len(rows)).transpose(2, 0, 1)


def places(
    starts: Sequence[np.ndarray], C: int, E: int, first: int, last: int
) -> list[tuple[slice, slice]]:
    """Return which rows of each layer a block of features computes, and which columns are its."""
    rows = [slice(int(start[first]), int(start[last])) for start in starts]
    return list(zip(rows, [slice(C + E * first, C + E * last), *rows], strict=False))


def block_work(
    places: list[tuple[slice, slice]], prefixes: Sequence[np.ndarray]
) -> tuple[int, int]:
    """Return the multiply-adds of a block: over the known, once, and inside, in each sweep."""
    once = sum((rows.stop - rows.start) * columns.start for rows, columns in places)
    return once, sum(
        int(prefix[rows].sum()) for prefix, (rows, _) in zip(prefixes, places, strict=True)
    ) - once
