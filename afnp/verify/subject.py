r"""What is checked: one face for afnp's flows and for anybody's functions.

.. math:: x \leftrightarrow u, \qquad u \sim p_{\mathrm{base}}, \qquad \log p(x)

A subject holds the functions, its :class:`~afnp.verify.points.Points` say where they are looked at,
and its :class:`~afnp.verify.tolerance.Tolerance` how far they may be off there.

Letters: N rows, D features, C context inputs.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Sequence

import numpy as np

from afnp.bases import StandardNormal, UniformTorus
from afnp.flow import Flow
from afnp.verify.ends import beyond
from afnp.verify.functions import Functions, outside
from afnp.verify.levels import LEVELS, Level
from afnp.verify.points import Points
from afnp.verify.results import Finding, NotRun
from afnp.verify.rows import Rows
from afnp.verify.tolerance import Tolerance
from afnp.verify.worker import safe_point

__all__ = ["NAIVE_FEATURES", "Subject"]

NAIVE_FEATURES = 32
"""The D-pass loop is checked up to this D."""

LIGHT = 1e-6
"""A flow is small if one row costs no more than this part of the level's work, and its D-pass loop
is checked up to a hundred times as much."""


class Subject:
    """Callables with one face: ``normalize(x, context)``, ``generate(u, context)``, and so on.

    The context is always an (N, C) array, with C = 0 for none. What is missing is None, and a check
    that asks for it by ``need`` is reported as not run.

    Attributes
    ----------
    features, context : int
    dtype : numpy.dtype
    flow : Flow or None
    normalizers, generators : dict of str to callable
        Every way to go in each direction; ``normalize`` and ``generate`` are the first.
    log_prob, sample : callable or None
    analytic, jacobian : callable or None
        ``normalize`` for complex x; or du/dx (N, D, D) of the rows of x, from whoever knows it.
    allowed : (D, C + D) bool array or None
        Which u_i may depend on which context inputs and which x_j.
    must : (D, C + D) bool array or None
        Which of these have to move something: not the context, unless somebody said so.
    base : callable or None
        ``base(u)`` is the noise's log-density (N,); None where nobody knows it.
    periodic : bool
        Whether the features are angles: the ends of the support are one point.
    sample_is_derived : bool
        Whether ``sample`` is ``generate`` of normal noise, because the caller gave none.
    backends : list of str
        Renderings of the flow, by name.
    level : Level
    points : Points
    tolerance : Tolerance
    plain : Subject
        The same without disguise.
    """

    features: int
    context: int
    dtype: np.dtype
    flow: Flow | None = None
    normalizers: dict[str, Rows]
    generators: dict[str, Rows]
    log_prob: Rows | None = None
    sample: Callable | None = None
    analytic: Callable | None = None
    jacobian: Callable | None = None
    allowed: np.ndarray | None = None
    must: np.ndarray | None = None
    base: Callable | None = None
    periodic: bool = False
    sample_is_derived: bool = False
    backends: Sequence[str] = ()

    def __init__(self, features: int, context: int, dtype, flow: Flow | None, level: Level):
        self.features = int(features)
        self.context = int(context)
        self.dtype = np.dtype(dtype)
        self.flow, self.level, self.plain = flow, level, self
        self.normalizers, self.generators = {}, {}
        self.points = Points(self)
        self.tolerance = Tolerance(self)

    @classmethod
    def of_flow(
        cls, flow: Flow, backends: Sequence[str] | None = None, level: Level = LEVELS["full"]
    ) -> Subject:
        """Wrap an afnp flow, in every rendering.

        Its parameters are read whenever a function is called.
        """
        if backends is None:
            backends = renderings(flow, level)
        usual = "auto" if set(backends) - {"numpy"} else "numpy"

        def optional(context):
            return context if flow.context else None

        def normalizer(backend):
            return lambda x, c: flow.normalize(x, optional(c), backend=backend)

        def generator(method, backend):
            return lambda u, c: flow.generate(u, optional(c), method=method, backend=backend)

        def noise(n, rng):
            p = flow.split(flow.theta.astype(np.float64, copy=False)).base
            return flow.base.sample(p, n, rng, np.float64)

        def base(u):
            p = flow.split(flow.theta.astype(np.float64, copy=False)).base
            return flow.base.log_prob(p, np.asarray(u, dtype=np.float64))

        def analytic(x, c):
            return flow.normalize_with(flow.split(flow.theta.astype(np.float64, copy=False)), x, c)

        generators = {f"generate, {b}": generator("substitution", b) for b in backends}
        subject = cls(flow.features, flow.context, flow.dtype, flow, level)
        if subject.looped:
            generators["generate, naive"] = generator("naive", "numpy")

        subject._put({f"normalize, {b}": normalizer(b) for b in backends}, generators)
        subject.log_prob = Rows(
            "log_prob", lambda x, c: flow.log_prob(x, optional(c), backend=usual), scores=True
        )
        subject.sample = lambda n, rng, c: flow.sample(
            n, rng=rng, context=optional(c), backend=usual
        )
        normal = isinstance(flow.base, StandardNormal)
        subject.analytic = analytic
        subject.base = standard_normal if normal else base
        subject.allowed = subject.must = dependencies_of(flow)
        on_circle = isinstance(flow.base, UniformTorus)
        subject.periodic = on_circle or any(layer.periodic for layer in flow.layers)
        subject.backends = [b for b in backends if b != "auto"]
        subject.points = Points(subject, None if normal else noise, _support(flow))
        if {"auto", "numba"} <= set(backends):
            _load_compiled(flow)
        return subject

    @classmethod
    def of_functions(cls, functions: Functions, level: Level = LEVELS["full"]) -> Subject:
        """Wrap plain functions, which take the context as last argument if it is there at all."""
        given, C = functions.completed(), functions.context

        def uniform(function):
            if function is None or C:
                return function
            return lambda *arguments: function(*arguments[:-1])

        subject = cls(functions.features or 0, C, functions.dtype, None, level)
        subject._put(
            {"normalize": uniform(given.normalize)} if given.normalize else {},
            {"generate": uniform(given.generate)} if given.generate else {},
        )
        if given.log_prob is not None:
            subject.log_prob = Rows("log_prob", uniform(given.log_prob), scores=True)
        subject.sample, subject.jacobian = uniform(given.sample), uniform(given.jacobian)
        subject.analytic = uniform(given.normalize) if given.complex_step else None
        subject._allow(given.allowed)
        if given.base_is_normal:
            subject.base = standard_normal
        elif callable(given.base):
            subject.base = given.base
        subject.periodic = given.periodic
        subject.sample_is_derived = functions.sample is None and given.sample is not None
        subject.points = Points(subject, given.noise, given.support, given.data)
        return subject

    def _put(self, normalizers: dict[str, Callable], generators: dict[str, Callable]) -> None:
        """Keep the functions of both directions."""
        self.normalizers = {name: Rows(name, f) for name, f in normalizers.items()}
        self.generators = {name: Rows(name, f) for name, f in generators.items()}

    def _allow(self, allowed: np.ndarray | None) -> None:
        """Keep who may depend on whom.

        Without columns for it, the context may move anything, and need not.
        """
        if allowed is None:
            return
        D, C = self.features, self.context
        if allowed.shape[1] == C + D:
            self.allowed = self.must = allowed
        else:
            self.allowed = np.hstack([np.ones((D, C), bool), allowed])
            self.must = np.hstack([np.zeros((D, C), bool), allowed])

    # ---- what is there ---------------------------------------------------------------------------

    @property
    def normalize(self) -> Rows | None:
        """The first way from data to noise."""
        return next(iter(self.normalizers.values()), None)

    @property
    def generate(self) -> Rows | None:
        """The first way from noise to data."""
        return next(iter(self.generators.values()), None)

    @property
    def data_dtype(self) -> np.dtype:
        """The type of rows of data: that of a flow's, float64 behind a preprocessing."""
        return self.dtype if self.flow is None else self.flow.data_dtype

    @property
    def empty(self) -> np.ndarray:
        """No rows, (0, D)."""
        return np.empty((0, self.features), dtype=self.data_dtype)

    @property
    def kind(self) -> str:
        """Return "flow" for one of afnp's, whose layers and parameters are known.

        Else "functions".
        """
        return "functions" if self.flow is None else "flow"

    @property
    def pairs(self) -> Sequence[tuple[Callable, Callable]]:
        """Ways to go in both directions, in which every normalizer and every generator occurs."""
        there, back = list(self.normalizers.values()), list(self.generators.values())
        return [(there[0], generate) for generate in back] + [
            (normalize, back[0]) for normalize in there[1:]
        ]

    @property
    def inner(self) -> np.ndarray | None:
        """Which u_i may depend on which x_j, (D, D) bool, or None where nobody said."""
        return None if self.allowed is None else self.allowed[:, self.context :]

    @functools.cached_property
    def noise_alone(self) -> Subject | None:
        """Return the base's density and the noise as a subject, if the caller gave both."""
        base, noise = self.base, self.points.base
        if self.flow is not None or base is None or noise is None:
            return None
        found = Subject(self.features, 0, self.dtype, None, self.level)
        found.log_prob = Rows("base", lambda u, c: base(u), scores=True)
        found.sample = lambda n, rng, c: noise(n, rng)
        found.points = Points(found, None, self.points.bounded)
        found.points.shared.seed = self.points.shared.seed
        return found

    @property
    def cost(self) -> float:
        """Multiply-adds of one row, as far as they are known; 1 of functions."""
        if self.flow is None:
            return 1.0
        return float(max(1, sum(layer.cost.normalize.multiply_adds for layer in self.flow.layers)))

    @property
    def looped(self) -> bool:
        """Whether the D-pass loop is looked at: D times the work of any other sampler."""
        cheap = self.features * self.cost < 100 * LIGHT * self.level.work
        return self.features <= NAIVE_FEATURES and cheap

    def worth(self, most: int, least: int) -> int:
        """Return at how many of ``most`` things it is worth looking.

        All of a small flow's; of one that costs much at least ``least``.
        """
        return int(np.clip(most * LIGHT * self.level.work / self.cost, least, most))

    @property
    def calculus(self) -> str:
        """Say how derivatives are taken."""
        if self.analytic is not None:
            return "derivatives by complex step"
        if self.jacobian:
            return "derivatives by the caller's jacobian"
        return "derivatives by central differences"

    def disguised(self, rng: np.random.Generator) -> Subject:
        """Return the same subject with every function of rows called in disguise.

        This one stays as ``plain``.
        """
        other = copy.copy(self)
        other.plain = self.plain
        other.normalizers = {name: f.disguised(rng) for name, f in self.normalizers.items()}
        other.generators = {name: f.disguised(rng) for name, f in self.generators.items()}
        other.log_prob = None if self.log_prob is None else self.log_prob.disguised(rng)
        other.points = copy.copy(self.points)
        other.points.subject = other
        other.tolerance = copy.copy(self.tolerance)
        other.tolerance.subject = other
        return other

    def need(self, *names: str) -> None:
        """Raise NotRun unless everything named is there."""
        there = {
            "normalize": self.normalize,
            "generate": self.generate,
            "log_prob": self.log_prob,
            "sample": self.sample,
            "base": self.base,
            "flow": self.flow,
        }
        missing = [name for name in names if there[name] is None]
        if missing:
            raise NotRun("needs " + " and ".join(NEEDED.get(name, name) for name in missing))

    # ---- what is asked of it ---------------------------------------------------------------------

    def draw(self, n: int, rng: np.random.Generator, context: np.ndarray) -> np.ndarray:
        """Return n samples (n, D) that the subject draws with this generator."""
        self.need("sample")
        safe_point()
        x = np.array(self.sample(n, rng, context))  # type: ignore[misc]
        if x.shape != (n, self.features):
            raise Finding(f"sample gives shape {x.shape} where {(n, self.features)} is expected")
        if not np.isfinite(x).all() and beyond(self, *self.points.noise(rng, n, WIDER)).any():
            raise NotRun("not resolved: samples lie so far out that no number holds them")
        self._refuse_outside(x)
        return x

    def _refuse_outside(self, x: np.ndarray) -> None:
        """Raise a finding where samples leave the support that the caller has named."""
        bounded = self.points.bounded
        if self.flow is not None or bounded is None or self.periodic:
            return
        for row, i in outside(x, bounded, self.dtype)[:1]:
            raise Finding(
                f"sample gives {x[row, i]} in row {row}, feature {i}, outside the support {bounded}"
            )

    def difference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return a - b in float64: for angles the short way round."""
        gap = np.asarray(a).astype(np.float64) - b
        bounded = self.points.bounded
        if not self.periodic or bounded is None:
            return gap
        turn = bounded[1] - bounded[0]
        return gap - turn * np.round(gap / turn)

    def score(self, u: np.ndarray, log_det: np.ndarray) -> np.ndarray:
        """Return the log-density (N,) that noise and log-determinants stand for.

        Up to a constant if nobody knows it.
        """
        if self.base is None:
            return log_det - np.square(u).sum(axis=1) / 2
        return self.base(u) + log_det


WIDER = (2.0,)
"""Where samples are infinite, noise of this width says whether they have to be."""

NEEDED = {"base": "the density of the noise", "flow": "the parameters of an afnp flow"}
"""What a check says that it needs, where that is not the name of an argument."""


def standard_normal(u: np.ndarray) -> np.ndarray:
    r"""Return normal noise's log-density, :math:`-\tfrac12 |u|^2 - \tfrac D2 \log 2\pi`."""
    u = np.asarray(u)
    return -np.square(u).sum(axis=1) / 2 - u.shape[1] * np.log(2 * np.pi) / 2


def _support(flow: Flow) -> tuple[float, float] | None:
    """Return between what numbers a flow's noise has to lie, as its base or a univariate says.

    None: anywhere.
    """
    if isinstance(flow.base, UniformTorus):
        return -np.pi, np.pi
    supports = [layer.univariate.support for layer in flow.layers if layer.univariate is not None]
    for low, high in supports:
        if np.isfinite(low) and np.isfinite(high):
            return float(low), float(high)
    return None


def renderings(flow: Flow, level: Level) -> list[str]:
    """Return the backends that a level looks at, as far as there is compiled code for this flow."""
    if "numba" not in level.backends:
        return list(level.backends)
    try:
        from afnp.compiled.stages import uncompiled
    except ImportError:  # without Numba everything runs in NumPy
        return [name for name in level.backends if name != "numba"]
    compiled = not uncompiled(flow.layers)
    return [name for name in level.backends if compiled or name != "numba"]


def _load_compiled(flow: Flow) -> None:
    """Run the compiled code of a flow on few rows and on some more.

    "auto" takes for small work what is loaded: it would answer with other last bits as soon as a
    check has asked for compiled code by name. What fails here, fails where it is looked at.
    """
    from afnp.compiled.threads import FEW

    mean = 0.0 if flow.context_scale is None else flow.context_scale[0]
    for n in (1, FEW + 1):
        context = np.zeros((n, flow.context)) + mean if flow.context else None
        with contextlib.suppress(Exception):
            x, _ = flow.generate(np.zeros((n, flow.features)), context, backend="numba")
            flow.normalize(x, context, backend="numba")
            flow.loss_and_grad(x, context, backend="numba")


def dependencies_of(flow: Flow) -> np.ndarray:
    """Return which u_i may depend on which context inputs and which x_j, (D, C + D) bool.

    That is a path through every layer.
    """
    paths = np.hstack(
        [np.zeros((flow.features, flow.context), bool), np.eye(flow.features, dtype=bool)]
    )
    for layer in flow.layers:
        paths = layer.allowed().astype(np.float32) @ paths.astype(np.float32) > 0
        if layer.context:
            paths[:, : flow.context] |= layer.allowed_context()
    return paths
