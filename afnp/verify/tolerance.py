r"""Tolerances: results may show as much rounding as they move when everything is perturbed.

.. math:: f_{\theta}(x) \;\approx\; f_{\theta (1 + \delta \xi)}\big(x (1 + \delta \xi')\big), \qquad
          \xi, \xi' \in \{-1, 1\}

Rounding acts as if every input and every parameter had been multiplied by 1 + ε, up to a modest
factor (Wilkinson's backward error): so a flow is perturbed at every layer. That misses what rounds
badly inside of one, and where it matters every single operation is perturbed
(:func:`perturbed_arrays`).

Letters: N rows, D features, C context inputs, P parameters.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from afnp.flow import Flow
from afnp.transforms import Inverse
from afnp.univariate.mixture import Mixture
from afnp.verify.results import NotRun
from afnp.verify.worker import safe_point

if TYPE_CHECKING:
    from afnp.verify.subject import Subject

__all__ = [
    "PERTURBATIONS",
    "SAFETY",
    "Arithmetic",
    "Tolerance",
    "flow_arithmetic",
    "perturb",
    "perturbed_arrays",
]

PERTURBATIONS = 8
"""How often a subject is perturbed for one tolerance."""

FEWEST = 2
"""Of a flow that costs much, so often has to do."""

SAFETY = 128
"""Rounding may be this many times the root mean square of the perturbations: parts that none
reaches, and luck."""

TERMS = 16
"""Sums of more terms round more: by the square root of how many times TERMS they are."""

EXTERNAL = 4
"""More safety where parameters cannot be perturbed, and widths are unknown."""

EXACT = {np.maximum, np.minimum, np.negative, np.absolute, np.conjugate, np.sign, np.floor, np.rint}
"""What does not round."""

OFFSET = 1e-3
"""Perturbed, a feature moves by this part of its width at most, however far from 0 it lies."""

BANK = 2**17
"""So many random errors are drawn at once, for all operations."""

BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
"""(256, 8) The bits of every byte."""


class Arithmetic:
    """Both directions in the precision in which tolerances are estimated, perturbed by δ."""

    def __init__(
        self,
        normalize: Callable | None,
        generate: Callable | None,
        dtype,
        rng=None,
        delta: float = 0.0,
    ):
        self._normalize, self._generate = normalize, generate
        self.dtype, self.rng, self.delta = dtype, rng, delta

    def _moved(self, x: np.ndarray) -> np.ndarray:
        return perturb(x, self.rng, self.delta) if self.delta else x

    def normalize(self, x: np.ndarray, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map x (N, D), perturbed, to u and log|det du/dx|."""
        if self._normalize is None:
            raise NotRun("needs normalize")
        safe_point()
        return self._normalize(self._moved(x), context)

    def generate(self, u: np.ndarray, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map u (N, D), perturbed, to x and log|det dx/du|."""
        if self._generate is None:
            raise NotRun("needs generate")
        safe_point()
        return self._generate(self._moved(u), context)


class Tolerance:
    """How far the results of a subject may be off by rounding, at the points it is looked at.

    Parameters
    ----------
    subject : Subject

    Attributes
    ----------
    eps : float
        Of the subject's type.
    precise : numpy.dtype
        Of ``reference`` and ``perturbed``: float64 for one of afnp's flows, else the subject's.
    safety : float
    count : int
        How often the subject is perturbed for one tolerance.
    """

    def __init__(self, subject: Subject):
        self.subject = subject
        flow = subject.flow
        self.precise = np.dtype(np.float64) if flow is not None else subject.dtype
        self.safety = SAFETY * (
            EXTERNAL if flow is None else math.sqrt(max(1, _widest(flow) / TERMS))
        )
        self.count = subject.worth(PERTURBATIONS, FEWEST)
        self.eps = float(np.finfo(subject.dtype).eps)

    @property
    def delta(self) -> float:
        """By what part inputs and parameters are perturbed.

        Large against rounding where it is measured, small against what bends; and a kink nearby
        should be met.
        """
        precise = float(np.finfo(self.precise).eps)
        least = 0.0 if self.subject.flow is None else 16 * self.eps
        usual = max(least, math.sqrt(precise))
        return min(usual, max(OFFSET / max(1.0, self.subject.points.offset), 16 * precise))

    @property
    def reference(self) -> Arithmetic:
        """Both directions in ``precise``, not perturbed."""
        return self._arithmetic()

    @property
    def own(self) -> Arithmetic:
        """Both directions in the subject's own type, not perturbed; nothing is raised."""
        flow = self.subject.flow
        if flow is None:
            return self._arithmetic()

        def there(x, c):
            return flow.normalize_with(flow.own, x.astype(flow.data_dtype, copy=False), c)

        def back(u, c):
            return flow.generate_with(flow.own, u.astype(flow.dtype, copy=False), c)

        return Arithmetic(there, back, flow.dtype)

    def perturbed(self, rng: np.random.Generator, count: int | None = None) -> Iterator[Arithmetic]:
        """Yield both directions with inputs, of each layer too, and parameters times 1 ± δ."""
        yield from (self._arithmetic(rng, self.delta) for _ in range(count or self.count))

    def _arithmetic(self, rng=None, delta: float = 0.0) -> Arithmetic:
        subject = self.subject
        if subject.flow is None:
            return Arithmetic(subject.normalize, subject.generate, self.precise, rng, delta)
        return flow_arithmetic(subject.flow, rng, delta)

    def rounding(
        self,
        compute: Callable[[Arithmetic], np.ndarray],
        rng: np.random.Generator,
        count: int | None = None,
        still: np.ndarray | None = None,
    ) -> np.ndarray:
        r"""Return how far ``compute(arithmetic)`` may be off by rounding, elementwise.

        .. math:: \mathrm{safety} \cdot \frac{\epsilon}{\delta}
                  \sqrt{\tfrac1S \textstyle\sum_s (f_{\mathrm{perturbed}_s} - f)^2}

        ``still`` is f, of whoever knows it already.
        """
        if still is None:
            still = compute(self.reference)
        squares = [np.square(compute(moved) - still) for moved in self.perturbed(rng, count)]
        return self.safety * self.eps / self.delta * np.sqrt(np.mean(squares, axis=0))


def _widest(flow: Flow) -> int:
    """Return how many terms the longest sum of a flow has."""
    shapes = [shape for layer in flow.layers for shape in layer.layout.shapes.values()]
    return max((shape[-1] for shape in shapes), default=1)


def perturb(
    x: np.ndarray, rng: np.random.Generator, delta: float, known_to: float = 0.0
) -> np.ndarray:
    """Return x (1 + δ ξ) with random signs ξ; if ``known_to`` is given, x + δ ξ max(that, |x|)."""
    drawn = np.frombuffer(rng.bytes(-(-x.size // 8)), dtype=np.uint8)
    factors = np.array([1 - delta, 1 + delta])[BITS]  # of every byte at once: theta is large
    factors = factors[drawn].ravel()[: x.size].reshape(x.shape)
    moved = x + (factors - 1) * np.maximum(np.abs(x), known_to) if known_to else x * factors
    return moved.astype(x.dtype, copy=False)


def flow_arithmetic(
    flow: Flow, rng: np.random.Generator | None = None, delta: float = 0.0
) -> Arithmetic:
    """Return both directions of a flow in float64, each layer's inputs and all params perturbed.

    Each direction perturbs its own parameters: moved alike they would cancel in a round trip, as
    rounding does not.
    """
    theta, between = flow.theta.astype(np.float64, copy=False), _known_to(flow)

    def moved(x, known_to=0.0):
        return x if rng is None else perturb(x, rng, delta, known_to)

    parameters = functools.cache(lambda generates: flow.split(moved(theta)))

    def through(steps, x, c):
        x = x.astype(np.complex128 if np.iscomplexobj(x) else np.float64)
        c = flow.in_its_units(c, flow.own).astype(np.float64)
        log_det = 0
        for step, p, known_to in steps:
            safe_point()
            x, more = step(p, moved(x, known_to), c)[:2]
            log_det = log_det + more
        return x, log_det

    def there(x, c):
        each = zip(flow.layers, parameters(False), between[:-1], strict=True)
        return through([(layer.normalize, p, known_to) for layer, p, known_to in each], x, c)

    def back(u, c):
        each = zip(flow.layers, parameters(True), between[1:], strict=True)
        return through([(layer.generate, p, known_to) for layer, p, known_to in each][::-1], u, c)

    return Arithmetic(there, back, np.float64)


def _known_to(flow: Flow) -> list[float]:
    """Return on which scale rows are rounded before each layer, and behind the last; 0: their own.

    A mixture's noise is a quantile. Near its median that is what is left of log T + log 2, and
    known to ε, however small it is.
    """
    between = [0.0] * (len(flow.layers) + 1)
    for k, layer in enumerate(flow.layers):
        if isinstance(layer.univariate, Mixture):
            between[k if isinstance(layer, Inverse) else k + 1] = 1.0
    return between


def perturbed_arrays(rng: np.random.Generator, delta: float) -> type[np.ndarray]:
    r"""Return a kind of array whose operations err by δ each, where a machine's err by ε.

    .. math:: a \oplus b = (a + b)(1 + \delta \xi), \qquad \xi \in \{-1, 1\}

    So it meets what rounds inside a layer too. (Monte Carlo arithmetic: Parker 1997, UCLA report
    CSD-970002.) A product of matrices is one operation. Code hands the kind on unless it makes
    plain arrays of it: by ``np.asarray``, where ``np.asanyarray`` does not, or by writing results
    into ``np.empty``.

    Examples
    --------
    >>> perturbed = perturbed_arrays(np.random.default_rng(0), 1e-6)
    >>> knots = np.full(100, 3.992).view(perturbed) + 0
    >>> float(abs((4 - knots) / 0.008 - 1).mean().round(5))  # 3.992 / 0.008 times the knots' error
    0.0005
    """
    bank = 1 + delta * rng.choice([-1.0, 1.0], BANK)

    def errors(shape: tuple[int, ...]) -> np.ndarray:
        size = math.prod(shape)
        start = int(rng.integers(max(1, BANK - size)))
        some = bank[start : start + size]
        return some.reshape(shape) if size <= BANK else np.resize(some, shape)

    class Perturbed(np.ndarray):
        def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
            def plain(arrays):
                return tuple(a.view(np.ndarray) if isinstance(a, Perturbed) else a for a in arrays)

            if out is not None:
                kwargs["out"] = plain(out)
            result = getattr(ufunc, method)(*plain(inputs), **kwargs)
            values = np.asarray(result)
            if values.dtype.kind == "f" and ufunc not in EXACT:
                values[...] *= errors(values.shape)
            if out is not None:
                return out[0]
            return values.view(Perturbed) if values.dtype.kind == "f" else result

        def __array_function__(self, func, types, args, kwargs):
            result = super().__array_function__(func, types, args, kwargs)
            if type(result) is np.ndarray and result.dtype.kind == "f":
                return result.view(Perturbed)
            return result

    return Perturbed
