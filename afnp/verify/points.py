r"""Where a subject is looked at.

Noise of several scales, its images, and what the caller knows of its data.

.. math:: u \sim s \cdot p_{\mathrm{base}}, \quad s \in \{0.1, \dots, 2\}, \qquad x = g(u)

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from afnp.verify.ends import beyond
from afnp.verify.tolerance import Arithmetic
from afnp.verify.worker import safe_point

if TYPE_CHECKING:
    from afnp.verify.subject import Subject

__all__ = ["FAR", "SCALES", "Points"]

SCALES = (0.1, 0.5, 1.0, 2.0)
"""Standard deviations of the noise from which points are drawn, in turn."""

FAR = (4.0, 8.0)
"""And where the density is small, and splines have ended."""

TAILS = (2.5, 40.0)
"""Tails lie between so many standard deviations."""

FEWEST = 32
"""So many rows say how wide a feature is."""

DECILES = 2.563
"""From the first to the last decile of a normal, in standard deviations."""

BLOCK, BLOCKS, LEAST = 128, 4, 1
"""Candidates come in blocks of so many rows; there are so many blocks, or of a flow that costs much
at least so many."""

KEPT = 3
"""What is shared is kept for so many parameters of a flow: a check may change them and put them
back."""

NEAR = 10.0
"""A feature between 1/10 and 10 wide, and not farther from 0, is looked at around 0 in units of
1."""

REACH = 6.5
"""Noise of a standard normal lies in (-REACH, REACH), up to a probability of 1e-10."""


class Points:
    """Draws the points at which a subject is looked at.

    Parameters
    ----------
    subject : Subject
    noise : callable or None
        ``noise(n, rng)`` draws u (n, D); standard normal if None.
    bounded : tuple of float or None
        Where noise and data lie, if that is not everywhere.
    data : (M, D) array or None
        Rows inside the support.
    """

    def __init__(
        self,
        subject: Subject,
        noise: Callable | None = None,
        bounded: tuple[float, float] | None = None,
        data: np.ndarray | None = None,
    ):
        self.subject, self.base, self.bounded, self.data = subject, noise, bounded, data
        self.shared = Shared()

    def contexts(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Draw a context (n, C), in units of a flow that has learnt some."""
        c = rng.standard_normal((n, self.subject.context)).astype(self.subject.dtype)
        flow = self.subject.flow
        if flow is None or flow.context_scale is None:
            return c
        mean, std = flow.context_scale
        return mean + std * c

    def inner(self, c: np.ndarray) -> np.ndarray:
        """Return a context (n, C) in float64 as a flow's layers take it: standard normal."""
        flow = self.subject.flow
        own = c if flow is None else flow.in_its_units(c, flow.own)
        return own.astype(np.float64)

    def inner_noise(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Draw noise u (n, D) and a context (n, C) as a flow's layers take them, in float64."""
        u, c = self.noise(rng, n)
        return u.astype(np.float64), self.inner(c)

    def noise(
        self, rng: np.random.Generator, n: int = 16, scales=SCALES
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw noise u (n, D), of several scales where its support allows, and a context (n, C)."""
        safe_point()
        subject = self.subject
        if self.base is None:
            u = rng.standard_normal((n, subject.features))
        else:
            u = np.array(self.base(n, rng))
        if self.base is None or (subject.flow is not None and self.bounded is None):
            u = np.resize(scales, n)[:, None] * u
        return u.astype(subject.dtype), self.contexts(rng, n)

    def box(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return between what corners (D,) noise lies, up to what no quadrature notices."""
        D = self.subject.features
        if self.bounded is not None:
            return np.full(D, self.bounded[0]), np.full(D, self.bounded[1])
        if self.base is None:
            return np.full(D, -REACH), np.full(D, REACH)
        u = np.asarray(self.base(2**15, rng), dtype=np.float64)
        return u.min(axis=0), u.max(axis=0)

    def rows(
        self, rng: np.random.Generator, n: int = 16, scales=SCALES
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return x (n, D) generated from u (n, D), and a context (n, C).

        The least ill-conditioned of 8 n candidates, in random blocks of those that all checks
        share. Half of them are noise, half the images of data. Without ``generate``, x is data, or
        else noise.
        """
        subject = self.subject
        if subject.generate is None or subject.normalize is None:
            u, c = self.noise(rng, n, scales)
            x = u if subject.generate is None else subject.generate(u, c)[0]
            data = self._data(u, c, rng) if subject.generate is None else None
            return np.array(x if data is None else data), u, c
        count = max(subject.worth(BLOCKS, LEAST), -(-n // BLOCK))
        chosen = rng.choice(count, size=min(-(-8 * n // BLOCK), count), replace=False)
        blocks = [
            self.once(("rows", scales, int(k)), lambda s, rng: s.points.candidates(rng, scales))
            for k in chosen
        ]
        x, u, c, moves = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        best = np.argsort(moves, kind="stable")[:n]
        return x[best], u[best], c[best]

    def once(self, name: tuple, find: Callable[[Subject, np.random.Generator], Any]) -> Any:
        """Return what ``find(subject, rng)`` gives, the same for all checks at these parameters."""
        return self.shared.once(self.subject, name, find)

    def candidates(self, rng: np.random.Generator, scales) -> Block:
        """Draw a block of candidates, and measure how ill-conditioned they are."""
        subject = self.subject
        u, c = self.noise(rng, BLOCK, scales)
        x = self._data(u, c, rng)
        if x is not None:
            u[::2] = subject.tolerance.own.normalize(x, c)[0][::2]
        tolerance = subject.tolerance
        still = self._there_and_back(tolerance.reference, u, c)
        (perturbed,) = tolerance.perturbed(rng, 1)
        moves = np.abs(self._there_and_back(perturbed, u, c) - still) / (1 + np.abs(still))
        moves = np.where(np.isfinite(moves), moves, np.inf).max(axis=1)
        moves[beyond(subject, u, c)] = np.inf
        if tolerance.precise == subject.dtype:
            return Block(still[:, : subject.features].copy(), u, c, moves)
        finite = np.isfinite(self._there_and_back(tolerance.own, u, c)).all(axis=1)
        x = np.array(subject.generate(u, c)[0])  # type: ignore[misc]
        return Block(x, u, c, np.where(finite, moves, np.inf))

    def _there_and_back(self, arithmetic: Arithmetic, u: np.ndarray, c: np.ndarray) -> np.ndarray:
        """Return x, what u comes back as, and both log-determinants, (N, 2 D + 2)."""
        x, log_det = arithmetic.generate(u.astype(arithmetic.dtype), c)
        back, log_det_back = arithmetic.normalize(x, c)
        return np.hstack([x, back, log_det[:, None], log_det_back[:, None]])

    def scale(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return each feature's middle and width, a normal's standard deviation, of x (N, D)."""
        low, middle, high = np.quantile(x.astype(np.float64), [0.1, 0.5, 0.9], axis=0)
        width = (high - low) / DECILES
        return middle, np.where(width > 0, width, np.maximum(np.abs(middle), 1.0))

    @property
    def units(self) -> tuple[np.ndarray, np.ndarray]:
        """Middle and width (D,) of each feature of data; 0 and 1 where they are about that."""
        subject = self.subject
        if self.data is None and (subject.generate is None or subject.normalize is None):
            return np.zeros(subject.features), np.ones(subject.features)
        return self.once(("units",), lambda s, rng: s.points.measured_units(rng))

    @property
    def offset(self) -> float:
        """How many widths from 0 the features lie, the most of all; 0 where nobody knows."""
        return self.once(("offset",), lambda s, rng: s.points.measured_offset(rng))

    def measured_offset(self, rng: np.random.Generator) -> float:
        """Measure how many widths from 0 data lies, or images of noise."""
        subject, x = self.subject, self.data
        if x is None and subject.generate is None:
            return 0.0
        if x is None:
            x, _ = subject.tolerance.own.generate(*self.noise(rng, FEWEST, scales=(1.0,)))
        middle, width = self.scale(x)
        offset = np.abs(middle) / width
        return float(offset[np.isfinite(offset)].max(initial=0.0))

    def measured_units(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Measure middle and width (D,) of data, or of images of noise."""
        rows = self.rows(rng, BLOCK // 2, scales=(1.0,))[0] if self.data is None else self.data
        middle, width = self.scale(rows)
        usual = (np.abs(middle) < NEAR * width) & (width < NEAR) & (width > 1 / NEAR)
        return np.where(usual, 0.0, middle), np.where(usual, 1.0, width)

    def tails(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return rows x (n, D) of which one feature lies far out, on either side, and a context.

        None in a bounded support.
        """
        if self.bounded is not None or self.data is not None:
            return self.subject.empty, self.contexts(rng, 0)
        x, _, c = self.rows(rng, max(n, FEWEST), scales=(1.0,))
        middle, width = self.scale(x)
        x, c = x[:n].copy(), c[:n]
        for k, row in enumerate(x):
            i = k % len(row)
            out = width[i] * np.exp(rng.uniform(*np.log(TAILS)))
            row[i] = middle[i] + out * (1 if (k // len(row)) % 2 else -1)
        return x, c

    def _data(self, u: np.ndarray, c: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
        """Return as many rows of data, or rows that a flow's fixed first layers make moderate."""
        flow = self.subject.flow
        if flow is None:
            if self.data is None:
                return None
            return self.data[rng.integers(len(self.data), size=len(u))]
        x = rng.permutation(u).astype(np.float64)
        front = itertools.takewhile(lambda layer: layer.layout.size == 0, flow.layers)
        for layer in reversed(list(front)):
            x = layer.generate(layer.layout.views(np.empty(0)), x, c)[0]
        return x.astype(self.subject.data_dtype)


class Block(NamedTuple):
    """Candidates for rows."""

    x: np.ndarray
    u: np.ndarray
    c: np.ndarray
    moves: np.ndarray
    """How ill-conditioned each is."""


class Shared:
    """What all checks share, at the last few parameters of a flow: found once, whoever asks first.

    Parameters
    ----------
    seed : int
        Of what is random in it.
    """

    def __init__(self, seed: int = 0):
        self.seed = seed
        self._kept: list[tuple[np.ndarray, dict]] = []

    def once(self, subject: Subject, name: tuple, find: Callable[[Subject, Any], Any]) -> Any:
        """Return ``find(subject, rng)``, at the flow's parameters as they are, in disguise."""
        found = self._at(subject)
        if name not in found:
            rng = np.random.default_rng([self.seed, zlib.crc32(repr(name).encode())])
            with np.errstate(all="ignore"):
                found[name] = find(subject.plain.disguised(rng), rng)
        return found[name]

    def _at(self, subject: Subject) -> dict:
        """Return what was found at the parameters as they are."""
        theta = np.empty(0) if subject.flow is None else subject.flow.theta
        for place, (known, found) in enumerate(self._kept):
            if np.array_equal(known, theta):
                self._kept.insert(0, self._kept.pop(place))
                return found
        self._kept = [(theta.copy(), {}), *self._kept[: KEPT - 1]]
        return self._kept[0][1]
