r"""Flows: transforms in a row, a base distribution at the end, and the exact likelihood.

.. math:: \log p(x) = \log p_{\mathrm{base}}(u) + \sum_k \log\left|\det
          \frac{\partial x^{(k+1)}}{\partial x^{(k)}}\right|, \qquad x^{(0)} = x, \quad x^{(T)} = u

``flow.layers`` runs from the data to the noise: ``normalize`` goes through it as listed,
``generate`` from its end. Everything public checks its input; everything with an underscore trusts
it, is dtype-generic, and also takes complex numbers, which is how :mod:`afnp.verify` differentiates
it.

Letters: N rows, D features, C context inputs, P parameters.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

import numpy as np

from afnp import batches
from afnp.bases import BASES, StandardNormal
from afnp.compiled.threads import in_threads
from afnp.inputs import check_angles, check_rows, flag, generator, integer
from afnp.params import Parts
from afnp.sampling.fixed_point import Sweeps, method_of
from afnp.transforms import TRANSFORMS, CostTable, Transform
from afnp.transforms.support import check_support

__all__ = ["Flow"]


class Flow:
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

    Examples
    --------
    >>> import afnp
    >>> flow = afnp.maf(3, hidden=(8,), transforms=2, seed=0)
    >>> x = flow.sample(5, rng=1)
    >>> flow.log_prob(x).shape
    (5,)
    """

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
                f"expected at least one feature, got {self.features} with a context of {self.context}"
            )
        self.base = StandardNormal(self.features) if base is None else base
        if self.base.features != self.features:
            raise ValueError(f"base: expected {self.features} features, got {self.base.features}")
        check_support(self.layers, self.base)
        try:
            dtype = np.dtype(dtype)
        except TypeError:
            raise ValueError(f"dtype: expected float32 or float64, got {dtype!r}") from None
        if dtype not in (np.float32, np.float64):
            raise ValueError(f"dtype: expected float32 or float64, got {dtype}")
        size = sum(part.layout.size for part in (*self.layers, self.base))
        if theta is not None:
            if theta.shape != (size,) or theta.dtype != dtype:
                raise ValueError(
                    f"theta: expected ({size},) of {dtype}, got {theta.shape} of {theta.dtype}"
                )
            self._theta = theta
            return
        self._theta = np.zeros(size, dtype=dtype)
        rng, p = np.random.default_rng(seed), self.split(self._theta)
        for layer, p_layer in zip(self.layers, p, strict=True):
            layer.initialize(p_layer, rng)
        self.base.initialize(p.base, rng)

    @property
    def theta(self) -> np.ndarray:
        """All parameters, (P,); assigning copies into the same memory."""
        return self._theta

    @theta.setter
    def theta(self, values: np.ndarray) -> None:
        if np.shape(values) != self._theta.shape or np.iscomplexobj(values):
            got = np.asarray(values)
            raise ValueError(
                f"theta: expected shape {self._theta.shape}, got {got.shape}, {got.dtype}"
            )
        self._theta[:] = values

    @property
    def dtype(self) -> np.dtype:
        """Floating-point type of parameters and results."""
        return self._theta.dtype

    def config(self) -> dict:
        """Return what rebuilds this flow, but for ``theta``: numbers, strings and lists only."""
        return {
            "context": self.context,
            "dtype": self.dtype.name,
            "layers": [{"type": type(layer).__name__, **layer.config()} for layer in self.layers],
            "base": {"type": type(self.base).__name__, **self.base.config()},
        }

    @classmethod
    def from_config(cls, config: dict, theta: np.ndarray | None = None) -> Flow:
        """Build the flow that ``config()`` describes, with fresh parameters, or with this very array."""
        layers = [kind.from_config(options) for kind, options in _parts_of(config)[:-1]]
        kind, options = _parts_of(config)[-1]
        return cls(layers, config["context"], config["dtype"], base=kind(**options), theta=theta)

    @classmethod
    def counts(cls, config: dict) -> list[int]:
        """Return how many parameters each layer has, and the base, from integers alone."""
        return [kind.count(options) for kind, options in _parts_of(config)]

    def __repr__(self) -> str:
        """Print a table of layers, their shapes and parameter counts."""
        head = f"Flow(features={self.features}, context={self.context}, dtype={self.dtype})"
        rows = [
            f"  {k}  {_summary(layer):60s} {layer.layout.size:>10,}"
            for k, layer in enumerate(self.layers)
        ]
        return "\n".join([head, *rows, f"  {'parameters':63s} {self.theta.size:>10,}"])

    @property
    def cost(self) -> CostTable:
        """What each direction costs, layer by layer: network passes, steps that wait for each other, arithmetic."""
        return CostTable(self.layers)

    # ---- public: checked input -------------------------------------------------------------------

    def log_prob(self, x, context=None, backend="auto") -> np.ndarray:
        """Return the log-density of each row of x (N, D), in nats, (N,); -inf outside the support.

        Raises
        ------
        ValueError
            If x or the context has the wrong shape, kind, or a value that is not finite (names row
            and feature).
        FloatingPointError
            If a result is not a number (names the row).
        """
        return self._streamed(self._log_prob, x, context, backend)[0]

    def normalize(self, x, context=None, backend="auto") -> tuple[np.ndarray, np.ndarray]:
        """Map data x (N, D) to noise u (N, D); also return log|det du/dx| (N,), nats."""
        u, log_det = self._streamed(
            self._evaluate,
            x,
            context,
            backend,
        )
        return u, log_det

    def generate(
        self, u, context=None, method="substitution", backend="auto"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Map noise u (N, D) to data x (N, D); also return log|det dx/du| (N,), nats.

        Parameters
        ----------
        u : (N, D) array context : (N, C) or (1, C) array, optional method : {"substitution",
        "naive", "jacobi", "gauss-seidel"}, or one of :mod:`afnp.sampling.fixed_point`
            Each hidden unit once, the textbook loop of D full passes, or sweeps over all features
            or blocks of them until nothing changes; the same numbers. ``GaussSeidel(block=8)``
            names a block, ``Jacobi(1e-6)`` a tolerance.
        backend : {"auto", "numpy", "numba", "cuda"}
        """
        method = method_of(method, backend)
        x, log_det = self._streamed(
            lambda p, u, c, backend: self._generate(p, u, c, method, backend)[:2],
            u,
            context,
            backend,
            name="u",
        )
        return x, log_det

    def generate_counting(self, u, context, method: Sweeps, backend="auto") -> tuple:
        """Do as ``generate`` does by iteration; also give iterations and multiply-adds, (N, T) each.

        T are the transforms that are solved, from the data to the noise;
        :func:`afnp.sampling.fixed_point.sweep` says more.
        """

        def work(p, u, context, backend) -> tuple:
            u, log_det, counts = self._generate(p, u, context, method, backend)
            none = np.empty((len(u), 0), dtype=np.int64)
            columns = [(none, none), *(count for count in reversed(counts) if count)]
            return u, log_det, *(np.column_stack(kept) for kept in zip(*columns, strict=True))

        return tuple(self._streamed(work, u, context, backend, name="u"))

    def sample(
        self, n, rng=0, context=None, method="substitution", backend="auto", each=False
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

        Examples
        --------
        >>> import afnp
        >>> flow = afnp.maf(2, hidden=(4,), transforms=1)
        >>> bool((flow.sample(3, rng=7) == flow.sample(3, rng=7)).all())
        True
        >>> conditional = afnp.maf(2, hidden=(4,), transforms=1, context=1)
        >>> conditional.sample(5, context=[[0.0], [1.0], [2.0]], each=True).shape
        (3, 5, 2)
        """
        n, rng = integer("n", n, least=0), generator("rng", rng)
        if flag("each", each):
            if not self.context:
                raise ValueError("each: needs a context, and this flow takes none")
            many = check_rows(context, self.context, self.dtype, "context")
            x = self.sample(n * len(many), rng, np.repeat(many, n, axis=0), method, backend)
            return x.reshape(len(many), n, self.features)
        try:
            u = self.base.sample(self._own.base, n, rng, self.dtype)
        except (MemoryError, OverflowError, ValueError):
            raise ValueError(
                f"n: {n} rows of {self.features} features do not fit into memory; draw them in "
                "several calls, with one Generator as rng"
            ) from None
        return self.generate(u, context, method, backend)[0]

    def loss_and_grad(self, x, context=None, backend="auto") -> tuple[float, np.ndarray]:
        r"""Return the mean negative log-likelihood in nats, and its gradient (P,) laid out like ``theta``.

        .. math:: \mathcal L(\theta) = -\frac1N \sum_n \log p_\theta(x_n)

        Raises
        ------
        ValueError
            As ``log_prob``; and for an empty batch, whose mean does not exist.
        FloatingPointError
            If the loss of a row, or the gradient, is not a number.
        """
        x, context = self.check(x, context)
        if not len(x):
            raise ValueError("x: expected at least one row, got an empty batch")
        backend = self._backend(backend, len(x))
        grads = [
            self.split(np.zeros_like(self._theta)) for _ in self._gradient_blocks(len(x), backend)
        ]
        log_prob, square = self._gradient_in_blocks(x, context, grads, backend)
        batches.refuse_nan(log_prob, "x")
        if np.isnan(square):
            raise FloatingPointError("the gradient of the loss is not a number")
        return -float(log_prob.mean(dtype=np.float64)), grads[0].flat

    # ---- trusted: dtype-generic arithmetic -------------------------------------------------------

    def normalize_with(self, p: Parts, x: np.ndarray, context: np.ndarray) -> tuple:
        """Map x (N, D) to u with parameters of any type, complex too; also give log|det du/dx| (N,).

        The definition in NumPy, without a check: p comes from ``split``, and context is (N, C).
        """
        return self._evaluate(p, x, context)

    def generate_with(
        self, p: Parts, u: np.ndarray, context: np.ndarray, method="substitution"
    ) -> tuple:
        """Map u (N, D) to x with parameters of any type, complex too; also give log|det dx/du| (N,)."""
        return self._generate(p, u, context, method)[:2]

    def split(self, theta: np.ndarray) -> Parts:
        """Return each layer's named views of a vector laid out like ``theta``, and the base's as ``.base``."""
        parts = [*self.layers, self.base]
        cuts = np.cumsum([0, *(part.layout.size for part in parts)])
        *layers, base = (
            part.layout.views(theta[a:b]) for part, a, b in zip(parts, cuts, cuts[1:], strict=False)
        )
        return Parts(layers, base, theta)

    @functools.cached_property
    def _size(self) -> int:
        """Parameters, or multiply-adds a row where there are more: how much work a row is."""
        return max(
            self._theta.size, sum(layer.cost.normalize.multiply_adds for layer in self.layers)
        )

    @functools.cached_property
    def _own(self) -> Parts:
        """Return the views of ``theta``, made once."""
        return self.split(self._theta)

    def __getstate__(self) -> dict:
        """Leave out what is made on demand: copies of views would see the memory that they came from no more."""
        return {name: value for name, value in vars(self).items() if name not in ("_own", "_fused")}

    @functools.cached_property
    def _fused(self) -> list:
        """The layers as compiled code takes them, with stacks for runs of one shape."""
        from afnp.compiled.stages import stages_of

        return stages_of(self.layers)

    def _stages(self, p: Parts, backend: str) -> list[tuple]:
        """Return what runs in turn on a backend, each with its parameters."""
        if backend != "numba":
            return list(zip(self.layers, p, strict=True))
        if p.fused is None:
            cuts = np.cumsum([0, *(stage.layout.size for stage in self._fused)])
            p.fused = [
                stage.layout.views(p.flat[a:b])
                for stage, a, b in zip(self._fused, cuts, cuts[1:], strict=False)
            ]
        return list(zip(self._fused, p.fused, strict=True))

    def _normalize(
        self, p: Parts, x, context, backend: str = "numpy", training: bool = False
    ) -> tuple:
        log_det, caches = 0, []
        for stage, p_stage in self._stages(p, backend):
            normalize = stage.normalize_training if training else stage.normalize
            x, log_det_stage, cache = normalize(p_stage, x, context)
            log_det = log_det + log_det_stage
            caches.append(cache)
        return x, log_det, caches

    def _evaluate(self, p: Parts, x, context, backend: str = "numpy") -> tuple:
        log_det = 0
        for stage, p_stage in self._stages(p, backend):
            x, log_det_stage = stage.evaluate(p_stage, x, context)
            log_det = log_det + log_det_stage
        return x, log_det

    def _generate(
        self, p: Parts, u, context, method="substitution", backend: str = "numpy"
    ) -> tuple:
        """Map u to x; also give log|det| and, of each stage, what an iteration took."""
        if backend == "cuda":
            from afnp.compiled.stages import generate_on_gpu

            return generate_on_gpu(self.layers, p, u, context, method)
        log_det, counts = 0, []
        for stage, p_stage in reversed(self._stages(p, "numpy" if method == "naive" else backend)):
            u, log_det_stage, *taken = stage.sampler(method)(p_stage, u, context)
            log_det = log_det + log_det_stage
            counts.append(taken)
        return u, log_det, counts

    def _log_prob(self, p: Parts, x, context, backend: str = "numpy") -> tuple[np.ndarray]:
        u, log_det = self._evaluate(p, x, context, backend)
        return (self.base.log_prob(p.base, u) + log_det,)

    def _gradient(
        self,
        p: Parts,
        x,
        context,
        g: Parts,
        backend: str = "numpy",
        of: int = 0,
        kept: list | None = None,
    ) -> np.ndarray:
        """Add the gradient of Σ -log p / ``of`` (N if left out) into g; return log p (N,).

        In a training step, statistics are those of these rows; ``kept`` gets what updates them.
        """
        u, log_det, caches = self._normalize(p, x, context, backend, training=kept is not None)
        d_log_det = np.full(len(x), -1 / (of or len(x)), dtype=u.dtype)
        d_u = self.base.backward(p.base, u, d_log_det, g.base)
        stages = zip(self._stages(p, backend), self._stages(g, backend), caches, strict=True)
        for (layer, p_layer), (_, g_layer), cache in reversed(list(stages)):
            d_u = layer.backward(p_layer, cache, d_u, d_log_det, g_layer)
            if kept is not None and layer.takes_statistics:
                kept.append((layer, p_layer, cache))
        return self.base.log_prob(p.base, u) + log_det

    def _begin(self, x: np.ndarray, context: np.ndarray) -> None:
        """Let layers that start from data (ActNorm, BatchNorm) take the statistics of x (N, D)."""
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for layer, p_layer in zip(self.layers, self._own, strict=True):
                layer.start_from_data(p_layer, x)
                x = layer.evaluate(p_layer, x, context)[0]

    # ---- checks and batches ----------------------------------------------------------------------

    def check(self, x, context, name: str = "x") -> tuple[np.ndarray, np.ndarray]:
        """Return x (N, D) and the context (N, C) in the flow's type, or raise a ValueError."""
        x = check_rows(x, self.features, self.dtype, name)
        if self.layers[-1 if name == "u" else 0].periodic:
            check_angles(x, name)
        return x, batches.check_context(context, self.context, len(x), self.dtype)

    def _streamed(self, function, x, context, backend: str, name: str = "x") -> list[np.ndarray]:
        """Apply ``function(p, x, context, backend)``, which returns arrays of N rows, to blocks of rows."""
        x, context = self.check(x, context, name)
        backend = self._backend(backend, len(x))
        p = self._own

        def work(rows: slice) -> tuple:
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                return function(p, x[rows], context[rows], backend)

        blocks = self._blocks(len(x), backend)
        parts = in_threads(work, blocks) if backend == "numba" else [work(rows) for rows in blocks]
        results = [
            np.concatenate(arrays) if len(parts) > 1 else arrays[0]
            for arrays in zip(*parts, strict=True)
        ]
        for result in results:
            batches.refuse_nan(result, name)
        return results

    def _gradient_in_blocks(
        self, x, context, grads: list[Parts], backend: str, kept: list | None = None
    ) -> tuple[np.ndarray, float]:
        """Write the mean loss's gradient into grads[0], one vector a block; return log p (N,), |grad|²."""
        p, blocks = self._own, self._gradient_blocks(len(x), backend)

        def work(rows: slice, g: Parts) -> np.ndarray:
            g.flat[:] = 0
            return self._gradient(p, x[rows], context[rows], g, backend, of=len(x), kept=kept)

        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            if backend == "numpy":
                return work(blocks[0], grads[0]), float(grads[0].flat @ grads[0].flat)
            log_probs = in_threads(
                lambda block: work(*block), list(zip(blocks, grads, strict=False))
            )
            from afnp.compiled.adam import add_up

            return np.concatenate(log_probs), add_up([g.flat for g in grads[: len(blocks)]])

    def _backend(self, backend: str, n: int) -> str:
        """Return who works on n rows: the backend that was asked for, or the better one for this size."""
        chosen = batches.choose_backend(backend, n, self._size)
        if chosen == "numba":
            from afnp.compiled.stages import uncompiled

            if found := uncompiled(self.layers):
                if backend == "numba":
                    raise ValueError(
                        f"backend: 'numba' has no compiled code for {found}; 'auto' and 'numpy' run it"
                    )
        return chosen

    def _blocks(self, n: int, backend: str) -> list[slice]:
        """Cut n rows into blocks of bounded memory, for compiled code at least one a thread."""
        widest = max(self.features, *(layer.activations for layer in self.layers))
        return batches.blocks_of_rows(n, backend, widest, self._size)

    def _gradient_blocks(self, n: int, backend: str) -> list[slice]:
        """Return one block: compiled code makes threads of its own, and statistics need all rows."""
        return [slice(0, n)]


def _summary(layer) -> str:
    facts = {
        k: v for k, v in layer.config().items() if not (isinstance(v, list) and len(v) > 6) and v
    }
    return f"{type(layer).__name__}({', '.join(f'{k}={v}' for k, v in facts.items())})"


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
