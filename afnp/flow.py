r"""Flows: transforms in a row, a base distribution at the end, and the exact likelihood.

.. math:: \log p(x) = \log p_{\mathrm{base}}(u) + \sum_k \log\left|\det
          \frac{\partial x^{(k+1)}}{\partial x^{(k)}}\right|, \qquad x^{(0)} = x, \quad x^{(T)} = u

``flow.layers`` runs from the data to the noise: ``normalize`` goes through it as listed,
``generate`` from its end. Everything public checks its input, but for what ends in ``_with``: that
trusts it, is dtype-generic, and also takes complex numbers, which is how :mod:`afnp.verify`
differentiates it.

Letters: N rows, D features, C context inputs, P parameters.
"""

from __future__ import annotations

import functools
import operator
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from afnp.bases import BASES, StandardNormal
from afnp.compiled.threads import FEW
from afnp.inputs import (
    TOO_MANY,
    check_angles,
    check_names,
    check_rows,
    choose,
    flag,
    frame_names,
    frame_of,
    generator,
    integer,
    some_weights,
    too_many_rows,
)
from afnp.model import BACKENDS, QUIET, Model, check_context
from afnp.params import Parts
from afnp.sampling.fixed_point import FixedPoint, method_of, needs_numpy
from afnp.transforms import TRANSFORMS, CostTable, Standardize, Transform
from afnp.transforms.bounds import check_inside
from afnp.transforms.prefix import INDEPENDENT, INSTEAD, cut, shared_order
from afnp.transforms.preprocess import mean_and_std
from afnp.transforms.support import check_support, of_angles

__all__ = ["Flow"]


class Flow(Model):
    """A normalizing flow with exact density, sampling and hand-written gradients.

    Parameters
    ----------
    layers : sequence of transforms
        From the data to the noise, all of the same width.
    context : int
        C, the width of the condition; 0 for none.
    dtype : float64 or float32
    seed : int
        For the initial parameters.
    base : distribution, optional
        Of the noise, from :mod:`afnp.bases`; a standard normal if left out.
    theta : (P,) array, optional
        The parameters, instead of fresh ones; this very array becomes the flow's.

    Attributes
    ----------
    theta : (P,) array
        All parameters; writing into it changes the flow everywhere.
    features, context : int
    dtype : numpy.dtype
    columns, context_columns : tuple of str or None
        Names of the features and of the context's columns, kept in model files. A DataFrame is read
        by them, in whatever order its columns are; :func:`afnp.fit` takes them from the first.

    Examples
    --------
    >>> import afnp
    >>> flow = afnp.maf(3, hidden=(8,), transforms=2, seed=0)
    >>> x = flow.sample(5, rng=1)
    >>> flow.log_prob(x).shape
    (5,)
    """

    engines = BACKENDS

    def __init__(
        self,
        layers: Sequence[Transform],
        context: int = 0,
        dtype=np.float64,
        seed: int = 0,
        base=None,
        theta: np.ndarray | None = None,
    ):
        self.layers = list(layers)
        widths = [layer.features for layer in self.layers]
        if len(set(widths)) != 1:
            raise ValueError(f"layers: expected one or more of equal width, got widths {widths}")
        contexts = {layer.context for layer in self.layers if layer.conditioner is not None}
        if not contexts <= {context}:
            raise ValueError(
                f"context: expected that of the layers, {sorted(contexts)}, got {context!r}"
            )
        self.features, self.context = operator.index(widths[0]), operator.index(context)
        if self.features < 1 or self.context < 0:
            raise ValueError(
                f"expected at least one feature, got {self.features} "
                f"with a context of {self.context}"
            )
        self.base = StandardNormal(self.features) if base is None else base
        if self.base.features != self.features:
            raise ValueError(f"base: expected {self.features} features, got {self.base.features}")
        fixed = [layer.preprocesses for layer in self.layers]
        self._front = (*fixed, False).index(False)  # they bring data into range, in float64
        self._circular = any(map(of_angles, self.layers))
        if self._circular:
            check_support(self.layers, self.base)
        self._columns: dict[str, tuple[str, ...] | None] = {
            "columns": None,
            "context_columns": None,
        }
        self._context_scale: tuple[np.ndarray, np.ndarray] | None = None
        size = sum(part.layout.size for part in (*self.layers, self.base))
        super().__init__(self.features, self.context, size, dtype, theta)
        if theta is not None:
            return
        rng = np.random.default_rng(seed)
        p = self.split(self._theta)
        for layer, p_layer in zip(self.layers, p, strict=True):
            layer.initialize(p_layer, rng)
        self.base.initialize(p.base, rng)

    # ---- names and units of columns --------------------------------------------------------------

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Names of the D features, or None."""
        return self._columns["columns"]

    @columns.setter
    def columns(self, names: Sequence[str] | None) -> None:
        self._columns["columns"] = check_names("columns", names, self.features)

    @property
    def context_columns(self) -> tuple[str, ...] | None:
        """Names of the context's C columns, or None."""
        return self._columns["context_columns"]

    @context_columns.setter
    def context_columns(self, names: Sequence[str] | None) -> None:
        self._columns["context_columns"] = check_names("context_columns", names, self.context)

    def take_columns(self, x, context=None) -> None:
        """Take the names of DataFrames x (N, D) and context (N, C), where there are none yet."""
        for attribute, table in (("columns", x), ("context_columns", context)):
            frame = frame_of(table)
            if frame is not None and self._columns[attribute] is None:
                setattr(self, attribute, frame_names(frame))

    def standardize_context(self, context, weights=None) -> None:
        r"""Let networks depend on the context in units of its spread, in model files too.

        .. math:: c \leftarrow (c - m) / s

        m and s are mean and standard deviation of the rows (N, C) given here, weighted by w (N,); a
        column that never changes keeps its scale. Everything public still takes contexts as they
        are.

        Examples
        --------
        >>> import afnp
        >>> flow = afnp.maf(2, hidden=(4,), transforms=1, context=1)
        >>> flow.standardize_context([[1990.0], [2000.0], [2010.0]])
        >>> flow.log_prob([[0.0, 0.0]], [[2000.0]]).round(3)
        array([-1.838])
        """
        c = check_rows(context, self.context, np.float64, "context", self.context_columns)
        if not c.size:
            raise ValueError("context: expected at least one row of at least one column, got none")
        w = None if weights is None else some_weights(weights, len(c))
        self._context_scale = mean_and_std(c, w)

    def take_scales(
        self, x, context=None, weights=None, name: str = "x", moments: Callable = mean_and_std
    ) -> None:
        """Let ``preprocess="standard"`` take mean and std of training rows, once.

        x is (N, D), the context (N, C), weights (N,); the context is then scaled as well. Layers
        before the one that waits, bounds say, come first. ``moments`` gives mean and std of rows
        with weights.

        Examples
        --------
        >>> import afnp
        >>> flow = afnp.maf(1, hidden=(4,), transforms=1, context=1, preprocess="standard")
        >>> flow.take_scales([[1e6], [3e6]], [[1990.0], [2010.0]])
        >>> flow.layers[0].mean, flow.context_scale
        (array([2000000.]), (array([2000.]), array([10.])))
        """
        if not self._waits:
            return
        front = self.layers[: self._front]
        rows = check_rows(x, self.features, np.float64, name, self.columns)
        c = check_context(context, self.context, len(rows), np.float64, self.context_columns)
        if not len(rows):
            raise ValueError(f"{name}: expected at least one row, got none")
        for layer, p in zip(front, self.own, strict=False):
            if isinstance(layer, Standardize) and layer.waiting:
                layer.take(rows, weights, moments)
            rows = layer.normalize(p, rows, c)[0]
        if self.context and self.context_scale is None:
            self._context_scale = moments(c, weights)

    def check_inside(self, x: np.ndarray, name: str, numbers: np.ndarray | None = None) -> None:
        """Raise a ValueError for the first checked row (N, D) outside what preprocessing allows.

        It names the row, by ``numbers``, and the feature, its value and its ends in units of x.
        """
        for k, layer in enumerate(self.layers[: self._front]):
            if layer.ends is not None:
                low, high = layer.ends
                for before, p in reversed(list(zip(self.layers[:k], self.own, strict=False))):
                    (low, high), _ = before.generate(p, np.stack([low, high]), None)
                check_inside(x, (low, high), name, self.columns, numbers)

    @property
    def _waits(self) -> bool:
        """Whether ``take_scales`` has something to take."""
        front = self.layers[: self._front]
        return any(isinstance(layer, Standardize) and layer.waiting for layer in front)

    @property
    def context_scale(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Mean and std (C,) that ``standardize_context`` took, or None."""
        return self._context_scale

    @property
    def data_dtype(self) -> np.dtype:
        """The type of rows of data: float64 where constants of the data come off first.

        Seconds since 1970 have no digits to lose before their mean is subtracted.
        """
        return np.dtype(np.float64) if self._front else self.dtype

    def in_its_units(self, context: np.ndarray, p: Parts) -> np.ndarray:
        """Return a checked context (N, C) as networks with parameters p take it."""
        if self._context_scale is not None:
            mean, std = self._context_scale
            context = (context - mean) / std
        if np.iscomplexobj(context):
            return context
        return context.astype(p.flat.real.dtype, copy=False)

    # ---- files -----------------------------------------------------------------------------------

    def config(self) -> dict:
        """Return what rebuilds this flow, but for ``theta``: numbers, strings and lists only."""
        named = {name: list(columns) for name, columns in self._columns.items() if columns}
        if self._context_scale is not None:
            named["context_scale"] = [part.tolist() for part in self._context_scale]
        return {
            **named,
            "context": self.context,
            "dtype": self.dtype.name,
            "layers": [{"type": type(layer).__name__, **layer.config()} for layer in self.layers],
            "base": {"type": type(self.base).__name__, **self.base.config()},
        }

    @classmethod
    def from_config(cls, config: dict, theta: np.ndarray | None = None) -> Flow:
        """Build the flow that ``config()`` describes, with fresh parameters or this very array."""
        layers = [kind.from_config(options) for kind, options in _parts_of(config)[:-1]]
        kind, options = _parts_of(config)[-1]
        flow = cls(layers, config["context"], config["dtype"], base=kind(**options), theta=theta)
        flow.columns = config.get("columns")
        flow.context_columns = config.get("context_columns")
        if "context_scale" in config:
            flow._context_scale = _scale_of(config["context_scale"], flow.context)
        return flow

    @classmethod
    def counts(cls, config: dict) -> list[int]:
        """Return how many parameters each layer has, and the base, from integers alone."""
        return [kind.count(options) for kind, options in _parts_of(config)]

    def __repr__(self) -> str:
        """Print a table of layers, their shapes and parameter counts."""
        head = f"Flow(features={self.features}, context={self.context}, dtype={self.dtype})"
        rows = [
            f"  {k}  {_summary(type(layer).__name__, layer.config()):60s} {layer.layout.size:>10,}"
            for k, layer in enumerate(self.layers)
        ]
        return "\n".join([head, *rows, f"  {'parameters':63s} {self.theta.size:>10,}"])

    @property
    def cost(self) -> CostTable:
        """What each direction costs, layer by layer.

        Network passes, steps that wait for each other, arithmetic.
        """
        return CostTable(self.layers)

    # ---- public: checked input -------------------------------------------------------------------

    def log_prob(self, x, context=None, backend="auto", features=None) -> np.ndarray:
        r"""Return the log-density of each row of x (N, D), in nats, (N,); -inf outside the support.

        .. math:: \log p(x_1, \dots, x_k) \quad\text{where } k \text{ features are asked for}

        Parameters
        ----------
        x : (N, D) array, or (N, k)
        context : (N, C) or (1, C) array, optional
        backend : {"auto", "numpy", "numba"}
        features : int, optional
            k: x holds the first k columns alone, and the density is their marginal, exact and
            cheaper than that of all. For flows whose layers all read those columns first, as
            ``order="natural"`` has it.

        Raises
        ------
        ValueError
            If x or the context has the wrong shape, kind, or a value that is not finite (names row
            and feature); if the first features have no exact marginal (names the layer, and what
            else there is).
        FloatingPointError
            If a result is not a number (names the row).

        Examples
        --------
        >>> import afnp
        >>> flow = afnp.maf(3, hidden=(8,), transforms=2, order="natural")
        >>> x = flow.sample(4, rng=1)
        >>> (flow.log_prob(x).shape, flow.log_prob(x[:, :2], features=2).shape)
        ((4,), (4,))
        """
        if features is not None:
            kept = first_columns(self, features)
            return marginal_of(self, kept).log_prob(x, context, backend)

        def work(p, x, context, engine) -> tuple:
            return (self.log_prob_with(p, x, context, engine).astype(self.dtype, copy=False),)

        return self.streamed("evaluate", work, x, context, backend)[0]

    def score(self, x, context=None, of="x", backend="auto") -> np.ndarray:
        r"""Return the gradient of log p at each row of x (N, D), nats per unit of x, (N, D).

        .. math:: s(x \mid c) = \nabla_x \log p(x \mid c), \qquad
                  s_c(x \mid c) = \nabla_c \log p(x \mid c)

        Hyvärinen's score (JMLR 6, 2005): by the data, not Fisher's by the parameters. It does not
        know the constant that normalises p, and points to where the density grows. Rows outside the
        support have none; theirs is 0. It costs a density and a backward pass, a hand-written one.

        Parameters
        ----------
        x : (N, D) array
        context : (N, C) or (1, C) array, optional
        of : {"x", "context"}
            What moves: the data, or the context, for which the result is (N, C).
        backend : {"auto", "numpy", "numba"}
            The gradient by the context runs in NumPy.

        Raises
        ------
        ValueError
            As ``log_prob``; for the gradient by a context where there is none.
        FloatingPointError
            If a result is not a number (names the row).

        Examples
        --------
        Langevin's walk needs the score alone: what begins far away is drawn to the flow's own
        samples.

        >>> import afnp
        >>> flow = afnp.maf(2, hidden=(4,), transforms=1)
        >>> rng, step, x = np.random.default_rng(0), 0.1, np.full((4000, 2), 5.0)
        >>> for _ in range(100):
        ...     noise = rng.standard_normal(x.shape)
        ...     x = x + step * flow.score(x) + np.sqrt(2 * step) * noise
        >>> bool(np.allclose(np.cov(x.T), np.cov(flow.sample(4000).T), atol=0.15))
        True
        """
        choose("of", of, ("x", "context"))
        by_context = of == "context"
        if by_context and not self.context:
            raise ValueError("of: expected 'x', for this flow takes no context; got 'context'")
        if by_context and backend not in ("auto", "numpy"):
            raise ValueError(
                f"backend: the gradient by the context runs in 'numpy', got {backend!r}"
            )

        def work(p, x, context, engine) -> tuple:
            return (self._score(p, x, context, engine, by_context),)

        backend = "numpy" if by_context else backend
        return self.streamed("gradient", work, x, context, backend, held=len(self.layers))[0]

    def normalize(self, x, context=None, backend="auto") -> tuple[np.ndarray, np.ndarray]:
        """Map data x (N, D) to noise u (N, D); also return log|det du/dx| (N,), nats."""
        u, log_det = self.streamed("evaluate", self.normalize_with, x, context, backend)
        return u, log_det.astype(self.dtype, copy=False)

    def generate(
        self, u, context=None, method="substitution", backend="auto"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Map noise u (N, D) to data x (N, D); also return log|det dx/du| (N,), nats.

        Parameters
        ----------
        u : (N, D) array
        context : (N, C) or (1, C) array, optional
        method : {"substitution", "naive", "jacobi", "gauss-seidel", "newton"} or an object
            Each hidden unit once, the textbook loop of D full passes, or iterations over all
            features or blocks of them until nothing changes; the same numbers.
            ``GaussSeidel(block=8)`` names a block, ``Jacobi(1e-6)`` a tolerance, ``Newton()``
            takes derivatives: those of :mod:`afnp.sampling.fixed_point`.
        backend : {"auto", "numpy", "numba", "cuda"}
        """
        task = "generate"
        if method != "substitution":
            method = method_of(method, backend)
            task = "" if needs_numpy(method) else "iterate"
            backend = "numpy" if needs_numpy(method) else backend

        def work(p, u, context, engine) -> tuple:
            return self._generate(p, u, context, method, engine)[:2]

        x, log_det = self.streamed(task, work, u, context, backend, name="u")
        return x, log_det.astype(self.dtype, copy=False)

    def generate_counting(self, u, context, method: FixedPoint, backend="auto") -> tuple:
        """Do as ``generate`` does by iteration.

        Also give iterations and multiply-adds, (N, T) each.

        T are the transforms that are solved, from the data to the noise;
        :func:`afnp.sampling.fixed_point.iterate` says more.
        """

        def work(p, u, context, engine) -> tuple:
            u, log_det, counts = self._generate(p, u, context, method, engine)
            none = np.empty((len(u), 0), dtype=np.int64)
            columns = [(none, none), *(count for count in reversed(counts) if count)]
            return u, log_det, *(np.column_stack(kept) for kept in zip(*columns, strict=True))

        backend = "numpy" if needs_numpy(method) else backend
        return tuple(self.streamed("iterate", work, u, context, backend, name="u"))

    def marginal(self, features: int) -> Flow:
        """Return the first k features of the order as a flow of their own, with copied parameters.

        As :func:`afnp.marginals.marginal`, which says more.

        Examples
        --------
        >>> import afnp
        >>> afnp.maf(3, hidden=(8,), transforms=2, order="natural").marginal(2).features
        2
        """
        return marginal_of(self, first_features(self, features))

    def sample(
        self,
        n,
        rng=0,
        context=None,
        method="substitution",
        backend="auto",
        each=False,
        given=None,
    ) -> np.ndarray:
        """Draw n rows, (n, D), from a seed or a ``numpy.random.Generator``.

        Parameters
        ----------
        n : int
        rng : seed or Generator
        context : (n, C) or (1, C) array, optional
            One row a sample, or one for all of them.
        each : bool
            Draw n rows for each of the M rows of the context: the result is (M, n, D).
        given : (n, k) or (1, k) array, optional
            The first k columns, given; the others are drawn from their conditional distribution,
            exactly, at the cost of ordinary samples. For flows whose layers all read those columns
            first, as ``order="natural"`` has it.

        Examples
        --------
        >>> import afnp
        >>> flow = afnp.maf(2, hidden=(4,), transforms=1)
        >>> bool((flow.sample(3, rng=7) == flow.sample(3, rng=7)).all())
        True
        >>> flow.sample(3, given=[[0.5]])[:, 0]
        array([0.5, 0.5, 0.5])
        >>> conditional = afnp.maf(2, hidden=(4,), transforms=1, context=1)
        >>> conditional.sample(5, context=[[0.0], [1.0], [2.0]], each=True).shape
        (3, 5, 2)
        """
        n, rng = integer("n", n, least=0), generator("rng", rng)
        if flag("each", each):
            if given is not None:
                raise ValueError(
                    "given: goes without each=True; repeat rows by np.repeat(given, n, axis=0), "
                    "and contexts alike"
                )
            return sample_each(self, n, rng, context, method, backend)
        if self.context and context is not None:
            context = context_of_samples(self, n, context)
        try:
            u = self.base.sample(self.own.base, n, rng, self.dtype)
        except TOO_MANY:
            raise too_many_rows(n, self.features) from None
        if given is not None:
            k = check_rows(given, None, np.float64, "given").shape[1]
            kept = first_columns(self, k)
            return generate_given(self, kept, u, given, context, method, backend)
        return self.generate(u, context, method, backend)[0]

    # ---- trusted: dtype-generic arithmetic -------------------------------------------------------

    def normalize_with(self, p: Parts, x, context, engine: str = "numpy") -> tuple:
        """Map x (N, D) to u with parameters of any type, complex too; also log|det du/dx| (N,).

        Without a check: p comes from ``split``, and context is (N, C). In NumPy it is the
        definition.
        """
        context = self.in_its_units(context, p)
        log_det = 0
        for k, (stage, p_stage) in enumerate(self._stages(p, engine)):
            x, log_det_stage = stage.evaluate(p_stage, self._cast(p, x, k), context)
            log_det = log_det + log_det_stage
        return x, log_det

    def generate_with(
        self, p: Parts, u: np.ndarray, context: np.ndarray, method="substitution"
    ) -> tuple:
        """Map u (N, D) to x with parameters of any type, complex too.

        Also give log|det dx/du| (N,).
        """
        return self._generate(p, u, context, method)[:2]

    def generate_keeping(
        self, p: Parts, u: np.ndarray, context: np.ndarray, engine: str = "numpy"
    ) -> tuple:
        """Map u (N, D) to x; also give log|det dx/du| (N,) and the caches of ``generate_backward``.

        Without a check. Of compiled code, "numba", inverse layers make use.
        """
        context = self.in_its_units(context, p)
        log_det = 0
        caches = []
        layers = self._generators(engine)
        for k in reversed(range(len(self.layers))):
            if k == self._front - 1 and u.dtype == np.float32:
                u = u.astype(np.float64)
            u, log_det_layer, cache = layers[k].generate_keeping(p[k], u, context)
            log_det = log_det + log_det_layer
            caches.append(cache)
        return u, log_det, caches[::-1]

    def generate_backward(
        self, p: Parts, caches: list, d_x, d_log_det, g: Parts, engine: str = "numpy"
    ) -> np.ndarray:
        """Write the gradient of ``generate`` by the parameters into g; return that by u, (N, D).

        d_x (N, D) and d_log_det (N,) are the gradients by its two results; g begins with zeros, and
        the engine is that of the caches.
        """
        layers = self._generators(engine)
        for k, (layer, cache) in enumerate(zip(layers, caches, strict=True)):
            d_x = self._cast(p, d_x, k)
            d_x = layer.generate_backward(p[k], cache, d_x, d_log_det.astype(d_x.dtype), g[k])
        return d_x

    def log_prob_with(self, p: Parts, x, context, engine: str = "numpy") -> np.ndarray:
        """Return log p (N,) with parameters of any type, complex too."""
        u, log_det = self.normalize_with(p, x, context, engine)
        return self.base.log_prob(p.base, u) + log_det

    def split(self, theta: np.ndarray) -> Parts:
        """Return each layer's named views of a vector like ``theta``, and ``.base``, the base's."""
        parts = [*self.layers, self.base]
        cuts = np.cumsum([0, *(part.layout.size for part in parts)])
        *layers, base = (
            part.layout.views(theta[a:b]) for part, a, b in zip(parts, cuts, cuts[1:], strict=False)
        )
        return Parts(layers, base, theta)

    def named(self, p: Parts) -> dict[str, np.ndarray]:
        """Return the views that ``split`` made by names such as "0.W1" and "base.x"."""
        parts = [(str(k), views) for k, views in enumerate(p)] + [("base", p.base)]
        return {f"{k}.{name}": view for k, views in parts for name, view in views.items()}

    @functools.cached_property
    def compiled_stages(self) -> list:
        """The layers as compiled code takes them, with stacks for runs of one shape."""
        from afnp.compiled.stages import stages_of

        return stages_of(self.layers)

    def _generators(self, engine: str) -> list:
        """Return the layers as an engine derives their samples by their parameters."""
        return self._compiled_generators if engine == "numba" else self.layers

    @functools.cached_property
    def _compiled_generators(self) -> list:
        from afnp.compiled.stages import generators_of

        return generators_of(self.layers)

    def _stages(self, p: Parts, engine: str) -> list[tuple]:
        """Return what runs in turn on an engine, each with its parameters."""
        if engine == "cuda":
            raise ValueError("backend: 'cuda' only generates; expected 'auto', 'numpy' or 'numba'")
        if engine != "numba":
            return list(zip(self.layers, p, strict=True))
        if p.fused is None:
            cuts = np.cumsum([0, *(stage.layout.size for stage in self.compiled_stages)])
            p.fused = [
                stage.layout.views(p.flat[a:b])
                for stage, a, b in zip(self.compiled_stages, cuts, cuts[1:], strict=False)
            ]
        return list(zip(self.compiled_stages, p.fused, strict=True))

    def _cast(self, p: Parts, x: np.ndarray, k: int) -> np.ndarray:
        """Return x (N, D) as stage k wants it.

        What came out of the preprocessing, in theta's type.
        """
        ready = k == self._front and x.dtype == np.float64 and p.flat.dtype == np.float32
        return x.astype(np.float32) if ready else x

    def _normalize(
        self, p: Parts, x, context, engine: str = "numpy", training: bool = False, weights=None
    ) -> tuple:
        log_det, caches = 0, []
        context = self.in_its_units(context, p)
        for k, (stage, p_stage) in enumerate(self._stages(p, engine)):
            x = self._cast(p, x, k)
            if training and stage.takes_statistics:
                x, log_det_stage, cache = stage.normalize_training(p_stage, x, context, weights)
            else:
                x, log_det_stage, cache = stage.normalize(p_stage, x, context)
            log_det = log_det + log_det_stage
            caches.append(cache)
        return x, log_det, caches

    def _generate(self, p: Parts, u, context, method="substitution", engine="numpy") -> tuple:
        """Map u to x; also give log|det| and, of each stage, what an iteration took."""
        front, log_det, counts = self._front, 0, []
        context = self.in_its_units(context, p)
        if engine == "cuda":
            from afnp.compiled.stages import generate_on_gpu

            u, log_det, counts = generate_on_gpu(self.layers[front:], p[front:], u, context, method)
        else:
            stages = self._stages(p, engine)
            for stage, p_stage in reversed(stages[front:]):
                u, log_det_stage, *taken = stage.sampler(method)(p_stage, u, context)
                log_det = log_det + log_det_stage
                counts.append(taken)
        if front and u.dtype == np.float32:
            u = u.astype(np.float64)
        for layer, p_layer in reversed(list(zip(self.layers[:front], p, strict=False))):
            u, log_det_layer = layer.generate(p_layer, u, context)
            log_det = log_det + log_det_layer
        return u, log_det, counts

    def add_gradient(self, p: Parts, x, context, g: Parts, engine="numpy", weights=None, kept=None):
        """Add the gradient of the mean of -w log p into g; return log p (N,)."""
        u, log_det, caches = self._normalize(p, x, context, engine, kept is not None, weights)
        d_log_det = np.full(len(x), -1 / len(x), dtype=u.dtype)
        if weights is not None:
            d_log_det *= weights
        for layer, p_layer, cache, _ in self._backward(p, u, caches, d_log_det, g, engine):
            if kept is not None and layer.takes_statistics:
                kept.append((layer, p_layer, cache))
        return self.base.log_prob(p.base, u) + log_det

    def _backward(self, p: Parts, u, caches: list, d_log_prob, g: Parts, engine: str) -> Iterator:
        """Go back from the noise to the data, adding the gradient from d_log_prob (N,) into g.

        Yield each stage, its parameters and cache, and the gradient by its input.
        """
        d_x = self.base.backward(p.base, u, d_log_prob, g.base)
        stages = zip(self._stages(p, engine), self._stages(g, engine), caches, strict=True)
        for (stage, p_stage), (_, g_stage), cache in reversed(list(stages)):
            d_x = stage.backward(p_stage, cache, d_x, d_log_prob, g_stage)
            yield stage, p_stage, cache, d_x

    def _score(self, p: Parts, x, context, engine: str, by_context: bool) -> np.ndarray:
        """Return the gradient of log p by x, (N, D), or by the context, (N, C)."""
        if not len(x):
            return np.zeros((0, self.context if by_context else self.features), self.dtype)
        u, log_det, caches = self._normalize(p, x, context, engine)
        g = self.split(np.zeros_like(p.flat))
        ones = np.ones(len(x), u.dtype)
        if by_context:
            score = self._backward_context(p, u, caches, ones, g)
        else:
            for *_, d_x in self._backward(p, u, caches, ones, g, engine):
                score = d_x
        score = np.array(score, dtype=self.dtype)
        score[np.isneginf(log_det)] = 0
        return score

    def _backward_context(self, p: Parts, u, caches: list, d_log_prob, g: Parts) -> np.ndarray:
        """Do as ``_backward`` does, in NumPy; return the gradient by the context, (N, C)."""
        d_x = self.base.backward(p.base, u, d_log_prob, g.base)
        total = np.zeros((len(u), self.context))
        for k in reversed(range(len(self.layers))):
            layer, cache = self.layers[k], caches[k]
            d_x, d_context = layer.backward_context(p[k], cache, d_x, d_log_prob, g[k])
            total += d_context
        return total if self._context_scale is None else total / self._context_scale[1]

    def start_from_data(
        self, x: np.ndarray, context: np.ndarray, average: Callable, blocks: Sequence[slice]
    ) -> None:
        """Let layers that start from data (ActNorm, BatchNorm) take checked rows' statistics.

        ``average`` gives means over rows; those of one of the ``blocks`` go through layers at once.
        """
        stack = list(zip(self.layers, self.own, strict=True))
        waiting = [k for k, (layer, p) in enumerate(stack) if layer.waits(p)]
        context = self.in_its_units(context, self.own)
        with np.errstate(**QUIET):
            for k, (layer, p) in enumerate(stack[: max(waiting, default=-1) + 1]):
                x = self._cast(self.own, x, k)
                layer.start_from_data(p, x, average)
                if k < waiting[-1]:
                    x = np.concatenate([layer.evaluate(p, x[b], context[b])[0] for b in blocks])

    # ---- what the plan asks ----------------------------------------------------------------------

    @functools.cached_property
    def work(self) -> int:
        """How much work a row is: parameters, or multiply-adds where there are more."""
        return max(self.theta.size, sum(l.cost.normalize.multiply_adds for l in self.layers))

    @functools.cached_property
    def widest(self) -> int:
        """Numbers a row that are alive at once."""
        return max(self.features, *(layer.activations for layer in self.layers))

    @functools.cached_property
    def uncompiled(self) -> str:
        """Say which layers have no compiled code; nothing if all have."""
        from afnp.compiled.stages import uncompiled

        return uncompiled(self.layers)

    def kernels(self, task: str, n: int) -> frozenset:
        """Return what identifies the compiled code that a task needs for n rows."""
        kind = task, n <= FEW
        if kind not in self._kernels:
            from afnp.compiled.stages import Stage

            compiled = [stage for stage in self.compiled_stages if isinstance(stage, Stage)]
            keys = [stage.kernels(task, n, self.dtype) for stage in compiled]
            self._kernels[kind] = frozenset().union(*keys)
        return self._kernels[kind]

    @functools.cached_property
    def _kernels(self) -> dict[tuple[str, bool], frozenset]:
        """What ``kernels`` has found before."""
        return {}

    def check(self, x, context, name: str = "x") -> tuple[np.ndarray, np.ndarray]:
        """Return x (N, D) and the context (N, C), or raise a ValueError that says what is wrong.

        In the flow's type; data in ``data_dtype``.
        """
        dtype = self.dtype if name == "u" else self.data_dtype
        x = check_rows(x, self.features, dtype, name, None if name == "u" else self.columns)
        if self._circular:
            check_angles(x, name)
        scaled = self.context and (self._context_scale is not None or self._waits)
        dtype = np.dtype(np.float64) if scaled else self.dtype  # units come off in float64
        return x, check_context(context, self.context, len(x), dtype, self.context_columns, name)


def _summary(name: str, config: dict) -> str:
    """Return a class's name and its arguments, without zeros and long lists; those within too."""
    facts = []
    for key, value in config.items():
        if value and isinstance(value, dict):
            within = {k: v for k, v in value.items() if k != "type"}
            facts.append(_summary(value.get("type", key), within))
        elif value and not (isinstance(value, list) and len(value) > 6):
            facts.append(f"{key}={value}")
    return f"{name}({', '.join(facts)})"


def context_of_samples(model, n: int, context) -> np.ndarray:
    """Return the checked context of n samples, (n, C) or (1, C)."""
    rows = check_rows(context, model.context, np.float64, "context", model.context_columns)
    if len(rows) not in (1, n):
        raise ValueError(
            f"context: expected {n} rows (or 1), got {len(rows)}; each=True draws {n} samples for "
            "each of them"
        )
    return rows


def sample_each(model, n: int, rng, context, method: str, backend: str) -> np.ndarray:
    """Draw n rows for each of the M rows of the context: (M, n, D), from a flow or several."""
    if not model.context:
        raise ValueError("each: needs a context, and this flow takes none")
    many = check_rows(context, model.context, np.float64, "context", model.context_columns)
    try:
        repeated = np.repeat(many, n, axis=0)
    except TOO_MANY:
        raise too_many_rows(n, model.features) from None
    x = model.sample(n * len(many), rng, repeated, method, backend)
    return x.reshape(len(many), n, model.features)


def first_features(flow: Flow, features: int) -> np.ndarray:
    """Return which features (k,), ascending, are the first k of the order that layers share."""
    order = shared_order(flow.layers)
    k = integer("features", features, least=1)
    if k > flow.features:
        raise ValueError(f"features: expected at most {flow.features}, got {k}")
    return np.sort(order[:k])


def first_columns(flow: Flow, features: int) -> np.ndarray:
    """Return the numbers (k,) of the first k columns, with which the order must begin."""
    kept = first_features(flow, features)
    if kept[-1] >= len(kept):
        raise ValueError(
            f"features: the order of this flow begins with the columns {kept.tolist()}, not with "
            f"the first {len(kept)}; afnp.marginals goes by the order"
        )
    return kept


def marginal_of(flow: Flow, kept: np.ndarray) -> Flow:
    """Return the first features of the order, ``kept`` (k,), as a flow with copied parameters."""
    if type(flow.base) not in INDEPENDENT:
        kind = type(flow.base).__name__
        raise ValueError(f"flow: a {kind} as base has no marginal here; {INSTEAD}")
    layers, values = cut(flow.layers, flow.own, kept)
    config = flow.config()
    config["layers"] = [{"type": type(layer).__name__, **layer.config()} for layer in layers]
    config["base"] = {**config["base"], "features": len(kept)}
    if flow.columns is not None:
        config["columns"] = [flow.columns[i] for i in kept]
    theta = np.concatenate([np.zeros(0, flow.dtype), *values])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # said when the layers were built
        return Flow.from_config(config, theta)


def generate_given(
    flow: Flow,
    kept: np.ndarray,
    u: np.ndarray,
    given,
    context,
    method="substitution",
    backend="auto",
) -> np.ndarray:
    """Map noise u (N, D) to data (N, D) whose first features of the order, ``kept``, are given.

    Their noise is read off instead: the given rows, (N, k) or (1, k), stand in the result as they
    are.
    """
    first = marginal_of(flow, kept)
    given = check_rows(given, first.features, np.float64, "given", first.columns)
    if len(given) not in (1, len(u)):
        raise ValueError(f"given: expected {len(u)} rows (or 1), got {len(given)}")
    given = np.broadcast_to(given, (len(u), first.features))
    normalizing = "auto" if backend == "cuda" else backend  # which only generates
    u[:, kept], log_det = first.normalize(given, context, normalizing)
    nowhere = np.isneginf(log_det)
    if nowhere.any():
        raise ValueError(f"given: row {int(np.argmax(nowhere))} has density zero")
    x = flow.generate(u, context, method, backend)[0]
    x[:, kept] = given
    return x


def _parts_of(config: dict) -> list[tuple]:
    """Return class and options of each layer that a configuration names, and of the base."""
    named: list[tuple[str, dict, dict]] = [
        ("transform", TRANSFORMS, layer) for layer in config["layers"]
    ]
    named.append(("base", BASES, config["base"]))
    parts = []
    for what, registry, options in named:
        options = dict(options)
        name = options.pop("type")
        if name not in registry:
            raise ValueError(
                f"no {what} {name!r} is known; import the module that defines it before"
            )
        parts.append((registry[name], options))
    return parts


def _scale_of(parts, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation (C,) of a context, as a configuration holds them."""
    mean, std = np.array(parts, dtype=np.float64)
    if mean.shape != (width,) or not (np.isfinite(mean + std).all() and std.min() > 0):
        raise ValueError("context_scale: expected a mean and a std > 0 for each column")
    return mean, std
