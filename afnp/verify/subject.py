r"""What is checked: one face for afnp's flows and for anybody's functions.

.. math:: x \leftrightarrow u, \qquad u \sim p_{\mathrm{base}}, \qquad \log p(x)

A subject draws the points at which it is looked at, and can be *shaken* (see
:mod:`afnp.verify.arithmetic`): how far its results move says how much rounding they may show, and
every tolerance comes from that.

Letters: N rows, D features, C context inputs, P parameters.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from afnp.bases import StandardNormal, UniformTorus
from afnp.flow import Flow
from afnp.verify.arithmetic import Arithmetic, flow_arithmetic
from afnp.verify.levels import LEVELS, Level
from afnp.verify.results import Finding, NotRun
from afnp.verify.rows import Rows
from afnp.verify.worker import safe_point

__all__ = ["Subject"]

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

REACH = 6.5
"""Noise of a standard normal lies in (-REACH, REACH), up to a probability of 1e-10."""

NAIVE_FEATURES = 32
"""The D-pass loop is checked up to this D."""


class Subject:
    """Callables with one face: ``normalize(x, context)``, ``generate(u, context)``, and so on.

    The context is always an (N, C) array, with C = 0 for none. What is missing is None, and a check
    that asks for it by ``need`` is reported as not run.

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
    analytic, jacobian : callable or None
        ``normalize`` for complex x; or du/dx (N, D, D) of the rows of x, from whoever knows it.
    allowed : (D, D) bool array or None
        Which u_i may depend on which x_j.
    base : callable or None
        ``base(n, rng)`` draws noise (n, D); standard normal if None.
    bounded : tuple of float or None
        Where noise and data lie, if that is not everywhere.
    periodic : bool
        Whether the features are angles: the ends of ``bounded`` are one point.
    level : Level
    plain : Subject
        The same without disguise.
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
        jacobian: Callable | None = None,
        allowed: np.ndarray | None = None,
        flow: Flow | None = None,
        data: np.ndarray | None = None,
        base: Callable | None = None,
        bounded: tuple[float, float] | None = None,
        periodic: bool = False,
        backends: Sequence[str] = (),
        level: Level = LEVELS["full"],
    ):
        self.features, self.context, self.dtype, self.flow = (
            features,
            context,
            np.dtype(dtype),
            flow,
        )
        self.normalizers = {name: Rows(name, f) for name, f in (normalizers or {}).items()}
        self.generators = {name: Rows(name, f) for name, f in (generators or {}).items()}
        self.log_prob = None if log_prob is None else Rows("log_prob", log_prob, scores=True)
        self._first()
        self.sample, self.analytic, self.jacobian, self.plain = sample, analytic, jacobian, self
        self.allowed = None if allowed is None else np.asarray(allowed, dtype=bool)
        self.data, self.backends, self.level = data, [b for b in backends if b != "auto"], level
        self.base, self.bounded, self.periodic = base, bounded, periodic
        self.precise = np.dtype(np.float64) if flow else self.dtype
        self.safety = SAFETY * (np.sqrt(max(1, _widest(flow) / TERMS)) if flow else STRANGER)
        self.eps = float(np.finfo(self.dtype).eps)
        # large against rounding where it is measured, small against what bends; and a kink nearby
        # should be met
        self.delta = max(16 * self.eps if flow else 0, float(np.sqrt(np.finfo(self.precise).eps)))

    def _first(self) -> None:
        self.normalize = next(iter(self.normalizers.values()), None)
        self.generate = next(iter(self.generators.values()), None)

    @classmethod
    def of_flow(
        cls, flow: Flow, backends: Sequence[str] | None = None, level: Level = LEVELS["full"]
    ) -> Subject:
        """Wrap an afnp flow, in every rendering; its parameters are read whenever a function is called."""
        backends = level.backends if backends is None else backends
        usual = "auto" if set(backends) - {"numpy"} else "numpy"

        def optional(context):
            return context if flow.context else None

        def normalizer(backend):
            return lambda x, c: flow.normalize(x, optional(c), backend=backend)

        def generator(method, backend):
            return lambda u, c: flow.generate(u, optional(c), method=method, backend=backend)

        def base(n, rng):
            return flow.base.sample(
                flow.split(flow.theta.astype(np.float64)).base, n, rng, np.float64
            )

        generators = {
            f"generate, {backend}": generator("substitution", backend) for backend in backends
        }
        if flow.features <= NAIVE_FEATURES:
            generators["generate, naive"] = generator("naive", "numpy")

        return cls(
            flow.features,
            flow.context,
            flow.dtype,
            normalizers={f"normalize, {backend}": normalizer(backend) for backend in backends},
            generators=generators,
            log_prob=lambda x, c: flow.log_prob(x, optional(c), backend=usual),
            sample=lambda n, rng, c: flow.sample(n, rng=rng, context=optional(c), backend=usual),
            analytic=lambda x, c: flow.normalize_with(
                flow.split(flow.theta.astype(np.float64)), x, c
            )[:2],
            allowed=_composite(flow),
            flow=flow,
            base=None if isinstance(flow.base, StandardNormal) else base,
            bounded=_bounds(flow),
            periodic=any(
                getattr(part, "periodic", False) for part in (flow.base, *_univariates(flow))
            ),
            backends=backends,
            level=level,
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
        jacobian: Callable | None = None,
        allowed: Sequence | np.ndarray | None = None,
        complex_step: bool = False,
        dtype=np.float64,
        data: np.ndarray | None = None,
        noise: Callable | None = None,
        support: tuple[float, float] | None = None,
        periodic: bool = False,
        level: Level = LEVELS["full"],
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
            jacobian=uniform(jacobian),
            allowed=None if allowed is None else np.asarray(allowed),
            data=None if data is None else np.asarray(data, dtype=dtype),
            base=noise,
            bounded=support,
            periodic=periodic,
            level=level,
        )

    @property
    def pairs(self) -> Sequence[tuple[Callable, Callable]]:
        """Ways to go in both directions, in which every normalizer and every generator occurs."""
        there, back = list(self.normalizers.values()), list(self.generators.values())
        return [(there[0], generate) for generate in back] + [
            (normalize, back[0]) for normalize in there[1:]
        ]

    def disguised(self, rng: np.random.Generator) -> Subject:
        """Return the same subject with every function of rows called in disguise; this one stays as ``plain``."""
        other = copy.copy(self)
        other.plain = self.plain
        other.normalizers = {name: f.disguised(rng) for name, f in self.normalizers.items()}
        other.generators = {name: f.disguised(rng) for name, f in self.generators.items()}
        other.log_prob = None if self.log_prob is None else self.log_prob.disguised(rng)
        other._first()
        return other

    @property
    def calculus(self) -> str:
        """Say how derivatives are taken."""
        if self.analytic is not None:
            return "derivatives by complex step"
        return (
            "derivatives by the caller's jacobian"
            if self.jacobian
            else "derivatives by central differences"
        )

    def need(self, *names: str) -> None:
        """Raise NotRun unless everything named is there."""
        missing = [name for name in names if getattr(self, name) is None]
        if missing:
            raise NotRun("needs " + " and ".join(missing))

    def draw(self, n: int, rng: np.random.Generator, context: np.ndarray) -> np.ndarray:
        """Return n samples (n, D) that the subject draws with this generator."""
        self.need("sample")
        safe_point()
        x = np.array(self.sample(n, rng, context))  # type: ignore[misc]
        if x.shape != (n, self.features):
            raise Finding(f"sample gives shape {x.shape} where {(n, self.features)} is expected")
        return x

    # ---- points ----------------------------------------------------------------------------------

    def contexts(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Draw a context (n, C)."""
        return rng.standard_normal((n, self.context)).astype(self.dtype)

    def noise(
        self, rng: np.random.Generator, n: int = 16, scales=SCALES
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw noise u (n, D), of several scales where its support allows, and a context (n, C)."""
        safe_point()
        u = (
            rng.standard_normal((n, self.features))
            if self.base is None
            else np.array(self.base(n, rng))
        )
        if self.base is None or (self.flow is not None and self.bounded is None):
            u = np.resize(scales, n)[:, None] * u
        return u.astype(self.dtype), self.contexts(rng, n)

    def box(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return between what corners (D,) and (D,) noise lies, up to what no quadrature notices."""
        if self.bounded is not None:
            return np.full(self.features, self.bounded[0]), np.full(self.features, self.bounded[1])
        if self.base is None:
            return np.full(self.features, -REACH), np.full(self.features, REACH)
        u = np.asarray(self.base(2**15, rng), dtype=np.float64)
        return u.min(axis=0), u.max(axis=0)

    def difference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return a - b in float64: for angles the short way round."""
        gap = np.asarray(a).astype(np.float64) - b
        if not self.periodic or self.bounded is None:
            return gap
        turn = self.bounded[1] - self.bounded[0]
        return gap - turn * np.round(gap / turn)

    def score(self, u: np.ndarray, log_det: np.ndarray) -> np.ndarray:
        """Return the log-density (N,) that noise and log-determinants stand for; a stranger's up to a constant."""
        if self.flow is None:
            return log_det - np.square(u).sum(axis=1) / 2
        base = self.flow.split(self.flow.theta.astype(np.float64)).base
        return self.flow.base.log_prob(base, np.asarray(u, dtype=np.float64)) + log_det

    def rows(
        self, rng: np.random.Generator, n: int = 16, scales=SCALES
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return x (n, D) generated from u (n, D), and a context (n, C): the least ill-conditioned of 8 n, or 64.

        Half of the draws are noise, half the images of data. Without ``generate``, x is data, or
        else noise.
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

    def _data(
        self, u: np.ndarray, context: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray | None:
        """Return as many rows of data, or rows that a flow's fixed layers in front turn into moderate numbers."""
        if self.flow is None:
            return (
                None if self.data is None else self.data[rng.integers(len(self.data), size=len(u))]
            )
        x = rng.permutation(u).astype(np.float64)
        front = itertools.takewhile(lambda layer: layer.layout.size == 0, self.flow.layers)
        for layer in reversed(list(front)):
            x = layer.generate({}, x, context)[0]
        return x.astype(self.dtype)

    def _well_conditioned(
        self, u: np.ndarray, c: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Return the indices of rows of u, those first that move least, there and back, when shaken."""

        def there_and_back(arithmetic: Arithmetic) -> np.ndarray:
            x, log_det = arithmetic.generate(u.astype(arithmetic.dtype), c)
            back, log_det_back = arithmetic.normalize(x, c)
            return np.hstack([back, log_det[:, None], log_det_back[:, None]])

        moves = self.rounding(there_and_back, rng, count=1) / (
            1 + np.abs(there_and_back(self.reference))
        )
        moves[~np.isfinite(there_and_back(self.own)).all(axis=1)] = np.inf
        return np.argsort(np.where(np.isfinite(moves), moves, np.inf).max(axis=1), kind="stable")

    # ---- tolerances ------------------------------------------------------------------------------

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
        return flow_arithmetic(self.flow, dtype, rng, delta)

    def rounding(
        self, compute: Callable[[Arithmetic], np.ndarray], rng: np.random.Generator, count=SHAKES
    ):
        r"""Return how far ``compute(arithmetic)`` may be off by rounding, elementwise.

        .. math:: \mathrm{safety} \cdot \frac{\epsilon}{\delta}
                  \sqrt{\tfrac1S \textstyle\sum_s (f_{\mathrm{shaken}_s} - f)^2}
        """
        still = compute(self.reference)
        squares = [np.square(compute(shaken) - still) for shaken in self.shaken(rng, count)]
        return self.safety * self.eps / self.delta * np.sqrt(np.mean(squares, axis=0))


def _widest(flow: Flow) -> int:
    """Return how many terms the longest sum of a flow has."""
    return max(
        (shape[-1] for layer in flow.layers for shape in layer.layout.shapes.values()), default=1
    )


def _univariates(flow: Flow) -> list:
    """Return the univariate of every layer that has one."""
    return [layer.univariate for layer in flow.layers if layer.univariate is not None]


def _bounds(flow: Flow) -> tuple[float, float] | None:
    """Return between what numbers a flow's noise has to lie, as its base or a univariate says; None: anywhere."""
    if isinstance(flow.base, UniformTorus):
        return -np.pi, np.pi
    for part in (flow.base, *_univariates(flow)):
        low, high = getattr(part, "support", (-np.inf, np.inf))
        if np.isfinite(low) and np.isfinite(high):
            return float(low), float(high)
    return None


def _composite(flow: Flow) -> np.ndarray:
    """Return which u_i of the whole flow may depend on which x_j: a path through every layer."""
    paths = np.eye(flow.features, dtype=int)
    for layer in flow.layers:
        paths = (layer.allowed().astype(int) @ paths > 0).astype(int)
    return paths > 0
