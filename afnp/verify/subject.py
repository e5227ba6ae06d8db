r"""What is checked: one face for afnp's flows and for anybody's functions.

.. math:: f_{\theta}(x) \;\approx\; f_{\theta (1 + \delta \xi)}\big(x (1 + \delta \xi')\big), \qquad
          \xi, \xi' \in \{-1, 1\}

Rounding acts as if every input and every parameter had been multiplied by 1 + ε, up to a modest factor
(Wilkinson's backward error). So a subject can be *shaken*: how far its results move says how much rounding they
may show, and every tolerance comes from that.

Letters: N rows, D features, C context inputs, P parameters.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from afnp.flows import Flow
from afnp.verify.results import NotRun

__all__ = ["Arithmetic", "Subject", "shake"]

SCALES = (0.1, 0.5, 1.0, 2.0)
"""Standard deviations of the noise from which points are drawn, in turn."""

SHAKES = 8
"""How often a subject is shaken for one tolerance."""

SAFETY = 128
"""Rounding may be this many times the root mean square of the shakes: parts that no shake reaches, and luck."""

TERMS = 16
"""Sums of more terms round more: by the square root of how many times TERMS they are."""

STRANGER = 4
"""More safety where parameters cannot be shaken, and widths are unknown."""

BACKENDS = ("auto", "numpy", "numba")
"""Renderings of an afnp flow that are checked; "auto" is what users call."""

NAIVE_FEATURES = 32
"""The D-pass loop is checked up to this D."""


class Arithmetic:
    """Both directions in the precision in which tolerances are estimated, shaken by δ if that is not 0."""

    def __init__(self, normalize: Callable | None, generate: Callable | None, dtype, rng=None, delta: float = 0.0):
        self._normalize, self._generate, self.dtype, self.rng, self.delta = (
            normalize,
            generate,
            dtype,
            rng,
            delta,
        )

    def _shake(self, x: np.ndarray) -> np.ndarray:
        return shake(x, self.rng, self.delta) if self.delta else x

    def normalize(self, x: np.ndarray, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map x (N, D), shaken, to u and log|det du/dx|."""
        if self._normalize is None:
            raise NotRun("needs normalize")
        return self._normalize(self._shake(x), context)

    def generate(self, u: np.ndarray, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map u (N, D), shaken, to x and log|det dx/du|."""
        if self._generate is None:
            raise NotRun("needs generate")
        return self._generate(self._shake(u), context)


def shake(x: np.ndarray, rng: np.random.Generator, delta: float) -> np.ndarray:
    """Return x (1 + δ ξ) with random signs ξ."""
    return (x * (1 + delta * rng.choice([-1.0, 1.0], x.shape))).astype(x.dtype)


class Subject:
    """Callables with one face: ``normalize(x, context)``, ``generate(u, context)``, and so on.

    The context is always an (N, C) array, with C = 0 for none. What is missing is None, and a check that
    asks for it by ``need`` is reported as not run.

    Attributes
    ----------
    features, context : int
    normalizers, generators : dict of str to callable
        Every way to go in each direction; ``normalize`` and ``generate`` are the first.
    dtype, precise : numpy.dtype
        Of the callables, and of ``reference`` and ``shaken``, which an afnp flow has in float64.
    flow : Flow or None
    backends : list of str
        Renderings of the flow, by name.
    analytic : callable or None
        ``normalize`` for complex x.
    allowed : (D, D) bool array or None
        Which u_i may depend on which x_j.
    """

    def __init__(
        self,
        features: int,
        context: int = 0,
        dtype=np.float64,
        normalizers: dict[str, Callable] | None = None,
        generators: dict[str, Callable] | None = None,
        log_prob: Callable | None = None,
        sample: Callable | None = None,
        analytic: Callable | None = None,
        allowed: np.ndarray | None = None,
        flow: Flow | None = None,
        data: np.ndarray | None = None,
        backends: Sequence[str] = (),
    ):
        self.features, self.context, self.dtype, self.flow = features, context, np.dtype(dtype), flow
        self.normalizers, self.generators = normalizers or {}, generators or {}
        self.normalize = next(iter(self.normalizers.values()), None)
        self.generate = next(iter(self.generators.values()), None)
        self.log_prob, self.sample, self.analytic = log_prob, sample, analytic
        self.allowed = None if allowed is None else np.asarray(allowed, dtype=bool)
        self.data, self.backends = data, [backend for backend in backends if backend != "auto"]
        self.precise = np.dtype(np.float64) if flow else self.dtype
        self.safety = SAFETY * (np.sqrt(max(1, _widest(flow) / TERMS)) if flow else STRANGER)
        self.eps = float(np.finfo(self.dtype).eps)
        # large against rounding where it is measured, small against what bends; and a kink nearby should be met
        self.delta = max(16 * self.eps if flow else 0, float(np.sqrt(np.finfo(self.precise).eps)))

    @classmethod
    def of_flow(cls, flow: Flow, backends: Sequence[str] = BACKENDS) -> Subject:
        """Wrap an afnp flow, in every rendering; its parameters are read whenever a function is called."""

        def optional(context):
            return context if flow.context else None

        def normalizer(backend):
            return lambda x, c: flow.normalize(x, optional(c), backend=backend)

        def generator(method, backend):
            return lambda u, c: flow.generate(u, optional(c), method=method, backend=backend)

        generators = {f"generate, {backend}": generator("substitution", backend) for backend in backends}
        if flow.features <= NAIVE_FEATURES:
            generators["generate, naive"] = generator("naive", "numpy")

        return cls(
            flow.features,
            flow.context,
            flow.dtype,
            normalizers={f"normalize, {backend}": normalizer(backend) for backend in backends},
            generators=generators,
            log_prob=lambda x, c: flow.log_prob(x, optional(c)),
            sample=lambda n, seed, c: flow.sample(n, rng=seed, context=optional(c)),
            analytic=lambda x, c: flow._normalize(flow._split(flow.theta.astype(np.float64)), x, c)[:2],
            allowed=_composite(flow),
            flow=flow,
            backends=backends,
        )

    @classmethod
    def of_callables(
        cls,
        features: int,
        context: int = 0,
        normalize: Callable | None = None,
        generate: Callable | None = None,
        log_prob: Callable | None = None,
        sample: Callable | None = None,
        allowed: Sequence | np.ndarray | None = None,
        complex_step: bool = False,
        dtype=np.float64,
        data: np.ndarray | None = None,
    ) -> Subject:
        """Wrap plain functions, which take the context as last argument if it is there at all."""

        def uniform(function):
            if function is None or context:
                return function
            return lambda *arguments: function(*arguments[:-1])

        return cls(
            features,
            context,
            dtype,
            normalizers={"normalize": uniform(normalize)} if normalize else {},
            generators={"generate": uniform(generate)} if generate else {},
            log_prob=uniform(log_prob),
            sample=uniform(sample),
            analytic=uniform(normalize) if complex_step else None,
            allowed=None if allowed is None else np.asarray(allowed),
            data=None if data is None else np.asarray(data, dtype=dtype),
        )

    @property
    def pairs(self) -> list[tuple[Callable, Callable]]:
        """Ways to go in both directions, in which every normalizer and every generator occurs."""
        there, back = list(self.normalizers.values()), list(self.generators.values())
        return [(there[0], generate) for generate in back] + [(normalize, back[0]) for normalize in there[1:]]

    def need(self, *names: str) -> None:
        """Raise NotRun unless everything named is there."""
        missing = [name for name in names if getattr(self, name) is None]
        if missing:
            raise NotRun("needs " + " and ".join(missing))

    # ---- points ------------------------------------------------------------------------------------------

    def noise(self, rng: np.random.Generator, n: int = 16, scales=SCALES) -> tuple[np.ndarray, np.ndarray]:
        """Draw noise u (n, D) of several scales, and a context (n, C)."""
        scale = np.resize(scales, n)[:, None]
        u = scale * rng.standard_normal((n, self.features))
        return u.astype(self.dtype), rng.standard_normal((n, self.context)).astype(self.dtype)

    def rows(
        self, rng: np.random.Generator, n: int = 16, scales=SCALES
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return x (n, D) generated from u (n, D), and a context (n, C): the least ill-conditioned of 8 n, or 64.

        Half of the draws are noise, half the images of data. Without ``generate``, x is data, or else noise.
        """
        u, c = self.noise(rng, max(8 * n, 64), scales)
        x = self._data(u, c, rng)
        if self.generate is None:
            return (u if x is None else x)[:n], u[:n], c[:n]
        if self.normalize is not None:
            if x is not None:
                u[::2] = self.own.normalize(x, c)[0][::2]
            best = self._well_conditioned(u, c, rng)[:n]
            u, c = u[best], c[best]
        u, c = u[:n], c[:n]
        return np.array(self.generate(u, c)[0]), u, c

    def _data(self, u: np.ndarray, context: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
        """Return as many rows of data, or rows that a flow's fixed layers in front turn into moderate numbers."""
        if self.flow is None:
            return None if self.data is None else self.data[rng.integers(len(self.data), size=len(u))]
        x = rng.permutation(u).astype(np.float64)
        front = itertools.takewhile(lambda layer: layer.layout.size == 0, self.flow.layers)
        for layer in reversed(list(front)):
            x = layer.generate({}, x, context)[0]
        return x.astype(self.dtype)

    def _well_conditioned(self, u: np.ndarray, c: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the indices of rows of u, those first that move least, there and back, when shaken."""

        def there_and_back(arithmetic: Arithmetic) -> np.ndarray:
            x, log_det = arithmetic.generate(u.astype(arithmetic.dtype), c)
            back, log_det_back = arithmetic.normalize(x, c)
            return np.hstack([back, log_det[:, None], log_det_back[:, None]])

        moves = self.rounding(there_and_back, rng, count=1) / (1 + np.abs(there_and_back(self.reference)))
        moves[~np.isfinite(there_and_back(self.own)).all(axis=1)] = np.inf
        return np.argsort(np.where(np.isfinite(moves), moves, np.inf).max(axis=1), kind="stable")

    # ---- tolerances --------------------------------------------------------------------------------------

    @property
    def reference(self) -> Arithmetic:
        """Both directions in ``precise``, not shaken."""
        return self._arithmetic(self.precise)

    @property
    def own(self) -> Arithmetic:
        """Both directions in the subject's own type, not shaken; nothing is raised."""
        return self._arithmetic(self.dtype)

    def shaken(self, rng: np.random.Generator, count: int = SHAKES) -> Iterator[Arithmetic]:
        """Yield both directions with inputs, of every layer of a flow too, and parameters multiplied by 1 ± δ."""
        yield from (self._arithmetic(self.precise, rng, self.delta) for _ in range(count))

    def _arithmetic(self, dtype: np.dtype, rng=None, delta: float = 0.0) -> Arithmetic:
        if self.flow is None:
            return Arithmetic(self.normalize, self.generate, dtype, rng, delta)
        flow, theta = self.flow, self.flow.theta.astype(dtype)

        def moved(x):
            return shake(x, rng, delta) if delta else x

        def through(steps, x, c):
            x, c, log_det = x.astype(np.complex128 if np.iscomplexobj(x) else dtype), c.astype(dtype), 0
            for step, p in steps:
                x, more = step(p, moved(x), c)[:2]
                log_det = log_det + more
            return x, log_det

        p = flow._split(moved(theta))
        there = [(layer.normalize, p_layer) for layer, p_layer in zip(flow.layers, p, strict=True)]
        back = [(layer.generate, p_layer) for layer, p_layer in zip(flow.layers[::-1], p[::-1], strict=True)]
        return Arithmetic(lambda x, c: through(there, x, c), lambda u, c: through(back, u, c), dtype)

    def rounding(self, compute: Callable[[Arithmetic], np.ndarray], rng: np.random.Generator, count=SHAKES):
        r"""Return how far ``compute(arithmetic)`` may be off by rounding, elementwise.

        .. math:: \mathrm{safety} \cdot \frac{\epsilon}{\delta}
                  \sqrt{\tfrac1S \textstyle\sum_s (f_{\mathrm{shaken}_s} - f)^2}
        """
        still = compute(self.reference)
        squares = [np.square(compute(shaken) - still) for shaken in self.shaken(rng, count)]
        return self.safety * self.eps / self.delta * np.sqrt(np.mean(squares, axis=0))


def _widest(flow: Flow) -> int:
    """Return how many terms the longest sum of a flow has."""
    return max((shape[-1] for layer in flow.layers for shape in layer.layout.shapes.values()), default=1)


def _composite(flow: Flow) -> np.ndarray:
    """Return which u_i of the whole flow may depend on which x_j: a path through every layer."""
    paths = np.eye(flow.features, dtype=int)
    for layer in flow.layers:
        paths = (layer.allowed().astype(int) @ paths > 0).astype(int)
    return paths > 0
