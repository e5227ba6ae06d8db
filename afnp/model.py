r"""Models: what flows and discrete models share, and the one place that decides who does the work.

.. math:: \theta \in \mathbb R^P, \qquad \log p_\theta(x), \qquad
          \mathcal L(\theta) = -\frac1N \sum_n \log p_\theta(x_n)

A model holds one flat vector of parameters, checks what it is given, and streams long inputs
through in blocks, so that memory stays bounded. A :class:`Plan`, made once a call, says which
engine takes which rows. :func:`afnp.fit` and :mod:`afnp.verify` use the public face below and
nothing else.

Letters: N rows, D features, C context inputs, P parameters.
"""

from __future__ import annotations

import collections
import functools
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from afnp.compiled.threads import in_threads, row_blocks
from afnp.inputs import check_rows, choose, refuse_masked
from afnp.params import Parameters

__all__ = ["BACKENDS", "QUIET", "BatchGradient", "Model", "Plan", "check_context", "refuse_nan"]

BACKENDS = ("auto", "numpy", "numba", "cuda")
"""Who may do the arithmetic. "auto" takes compiled code where it pays: from ``COMPILED_FROM`` on,
and below where this process has already loaded it, or has more than ``SMALL_CALLS`` to make. It
never takes "cuda"."""

COMPILED_FROM = 10**6
"""Rows times parameters from which "auto" loads compiled code. Below, NumPy needs a few
milliseconds, and neither importing Numba nor its first compilation (some seconds, then kept on
disk) is worth the wait."""

SMALL_CALLS = 50
"""Calls below ``COMPILED_FROM``, of one kind and one model, that "auto" gives to NumPy in a process
that uses compiled code: they take the 25 milliseconds or so that loading more of it costs."""

WORTH_A_THREAD = 10**7
"""Rows times parameters that make another thread worth waking."""

SMALLEST_BLOCK = 64
"""Rows that stay together, whatever they cost: blocks are multiples of it."""

BATCH_NUMBERS = 2**23
"""Long inputs are streamed in batches of about this many activations, so that memory stays
bounded."""

QUIET: dict[str, Any] = {"over": "ignore", "invalid": "ignore", "divide": "ignore"}
"""For ``numpy.errstate``: what overflows on the way is seen in the result."""

_unusable: list[str] = []
"""Why compiled code is not used in this process, once that is known."""


class Plan(NamedTuple):
    """Who works on the rows of one call: an engine, and the blocks that it takes in turn."""

    engine: str
    """"numpy", "numba" or "cuda"."""
    blocks: list[slice]
    """Rows of each block; compiled code takes them in threads."""
    chosen: bool
    """Whether "auto" has chosen, so that NumPy may take over from an engine that fails."""

    def run(self, work: Callable[[slice, str], Any]) -> list:
        """Return ``work(rows, engine)`` of each block, in order."""
        if self.engine == "numba":
            return in_threads(lambda rows: work(rows, self.engine), self.blocks)
        return [work(rows, self.engine) for rows in self.blocks]


class Model:
    """Parameters, checked input, long inputs in blocks, and gradients of batches.

    A subclass gives ``layout``-like views by :meth:`split`, checks rows by :meth:`check`, and
    defines ``config``, ``log_prob``, ``sample`` and :meth:`add_gradient`.

    Attributes
    ----------
    features, context : int
        D and C.
    theta : (P,) array
        All parameters; writing into it changes the model everywhere.
    dtype : numpy.dtype
    parameters : mapping of str to array
        The same memory by name; see :class:`afnp.params.Parameters`.
    """

    engines: tuple[str, ...] = ("auto", "numpy")
    """What ``backend`` may be."""

    def __init__(
        self, features: int, context: int, size: int, dtype, theta: np.ndarray | None = None
    ):
        self.features, self.context = features, context
        if dtype is None:  # NumPy would take it for float64
            raise ValueError("dtype: expected float32 or float64, got None")
        try:
            dtype = np.dtype(dtype)
        except TypeError:
            raise ValueError(f"dtype: expected float32 or float64, got {dtype!r}") from None
        if dtype not in (np.float32, np.float64):
            raise ValueError(f"dtype: expected float32 or float64, got {dtype}")
        if theta is None:
            theta = np.zeros(size, dtype=dtype)
        got = np.asarray(theta)
        if not isinstance(theta, np.ndarray) or got.shape != (size,) or got.dtype != dtype:
            raise ValueError(
                f"theta: expected an array ({size},) of {dtype}, got {got.shape} of {got.dtype}"
            )
        self._theta = theta

    # ---- parameters ------------------------------------------------------------------------------

    @property
    def theta(self) -> np.ndarray:
        """All parameters, (P,); assigning copies into the same memory."""
        return self._theta

    @theta.setter
    def theta(self, values: np.ndarray) -> None:
        refuse_masked(values, "theta")
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

    @property
    def parameters(self) -> Parameters:
        """All parameters by name, readable and writable.

        Examples
        --------
        >>> import afnp
        >>> flow = afnp.made(2, hidden=(4,))
        >>> list(flow.parameters)
        ['0.W0', '0.b0', '0.W1', '0.b1']
        >>> flow.parameters["0.b1"] = [0.0, 0.0, 1.0, 0.5]
        >>> flow.parameters["0.b1"]
        array([0. , 0. , 1. , 0.5])
        """
        return Parameters(self.named(self.own))

    def split(self, theta: np.ndarray):
        """Return the named views of a vector laid out like ``theta``, of any type."""
        raise NotImplementedError

    def named(self, p) -> dict[str, np.ndarray]:
        """Return the views that ``split`` made, in one dictionary."""
        return dict(p)

    @functools.cached_property
    def own(self):
        """The views of ``theta``, made once."""
        return self.split(self._theta)

    def __getstate__(self) -> dict:
        """Leave out what is made on demand.

        Copies of views would see the memory they came from no more.
        """
        made = {name for cls in type(self).__mro__ for name, v in vars(cls).items() if _cached(v)}
        return {name: value for name, value in vars(self).items() if name not in made}

    # ---- what a subclass defines -----------------------------------------------------------------

    def config(self) -> dict:
        """Return what rebuilds this model, but for ``theta``: numbers, strings and lists only."""
        raise NotImplementedError

    def check(self, x, context, name: str = "x") -> tuple[np.ndarray, np.ndarray]:
        """Return rows x (N, D) and their contexts (N, C), or raise a ValueError."""
        raise NotImplementedError

    def start_from_data(
        self, x: np.ndarray, context: np.ndarray, average: Callable, blocks: Sequence[slice]
    ) -> None:
        """Let parameters that begin as statistics of the data take those of checked rows.

        None do. ``average`` gives means over rows; those of one of the ``blocks`` go through layers
        together.
        """

    def add_gradient(self, p, x, context, g, engine="numpy", weights=None, kept=None) -> np.ndarray:
        """Add the gradient of the mean of -w log p into g; return log p (N,).

        ``weights`` are w (N,), all 1 if left out.
        ``kept`` is a list in a training step, and gets (layer, p, cache) of those layers whose
        running statistics are to be moved by it.
        """
        raise NotImplementedError

    @property
    def work(self) -> int:
        """How much work a row is: parameters, or multiply-adds where there are more."""
        return self._theta.size

    @property
    def widest(self) -> int:
        """Numbers a row that are alive at once, for cutting long inputs into blocks."""
        return self.features

    @property
    def uncompiled(self) -> str:
        """Say what has no compiled code; nothing if all has."""
        return ""

    def kernels(self, task: str, n: int) -> frozenset:
        """Return what identifies the compiled code that a task needs for n rows: there is none."""
        return frozenset()

    # ---- the one decision ------------------------------------------------------------------------

    def plan(self, backend: str, n: int, task: str = "", gradient: bool = False) -> Plan:
        """Return who works on n rows: the backend that was asked for, or the better one.

        "auto" takes compiled code for much work, and for little work of a ``task`` whose kernels
        this process has loaded, or that is asked for again and again where there are others. Which
        it is may change the last bits of a result.

        Raises
        ------
        ValueError
            If there is no such backend, or it was asked for by name and lacks what the model needs.
        """
        choose("backend", backend, self.engines)
        chosen = backend == "auto"
        engine = self._best(n, task) if chosen else backend
        if engine == "numba" and not chosen:
            _load()
            if missing := self.uncompiled:
                raise ValueError(
                    f"backend: 'numba' has no compiled code for {missing}; "
                    "'auto' and 'numpy' run it"
                )
        return Plan(engine, self.cut(n, engine, gradient), chosen)

    def _best(self, n: int, task: str) -> str:
        if "numba" not in self.engines or _unusable:
            return "numpy"
        if n * self.work < COMPILED_FROM:
            return "numba" if self._small_work_pays(n, task) else "numpy"
        try:
            _load()
        except Exception as error:
            _give_up(error)
            return "numpy"
        return "numpy" if self.uncompiled else "numba"

    def _small_work_pays(self, n: int, task: str) -> bool:
        """Return whether compiled code for little work is loaded, or has been missed often."""
        engine = sys.modules.get("afnp.compiled.engine")
        if engine is None or not (engine.LOADED and task and n):
            return False
        keys = self.kernels(task, n)
        if not keys or self.uncompiled:
            return False
        if engine.LOADED.issuperset(keys):
            return True
        self._missed[keys] += 1
        return self._missed[keys] > SMALL_CALLS

    @functools.cached_property
    def _missed(self) -> collections.Counter:
        """How many small calls compiled code was missed in, by what identifies it."""
        return collections.Counter()

    def cut(self, n: int, engine: str, gradient: bool = False) -> list[slice]:
        """Cut n rows into blocks of bounded memory, for compiled code at least one a thread."""
        if gradient or engine == "cuda":
            return [slice(0, n)]  # they make threads of their own, or stream
        if n <= SMALLEST_BLOCK:
            return [slice(0, n)]
        most = SMALLEST_BLOCK * max(1, BATCH_NUMBERS // (SMALLEST_BLOCK * self.widest))
        if engine == "numpy":
            return [slice(start, start + most) for start in range(0, n, most)]
        units = -(-WORTH_A_THREAD // (SMALLEST_BLOCK * max(1, self.work)))
        return row_blocks(n, min(SMALLEST_BLOCK * max(1, units), most), most=most)

    def attempt(self, plan: Plan, n: int, task: str, work: Callable, gradient=False) -> tuple:
        """Return the plan that was carried out, and ``work(rows, engine)`` of each block.

        Where "auto" chose and compiled code fails, NumPy takes over.
        """
        try:
            results = plan.run(work)
        except Exception as error:
            if plan.engine != "numba" or not plan.chosen:
                raise
            _give_up(error)
            plan = Plan("numpy", self.cut(n, "numpy", gradient), chosen=True)
            return plan, plan.run(work)
        if plan.engine == "numba" and task:
            from afnp.compiled import engine

            engine.LOADED |= self.kernels(task, n)
        return plan, results

    def streamed(
        self, task: str, function, x, context, backend: str, name: str = "x", held: int = 1
    ) -> list:
        """Apply ``function(p, x, context, engine)``, which gives arrays of N rows, in blocks.

        ``held`` says how many times the widest layer's activations are alive at once.
        """
        x, context = self.check(x, context, name)
        plan = self.plan(backend, len(x), task)
        if held > 1:
            most = max(1, BATCH_NUMBERS // (held * self.widest))
            plan = plan._replace(blocks=_shorter(plan.blocks, most, len(x)))

        def work(rows: slice, engine: str) -> tuple:
            with np.errstate(**QUIET):
                return function(self.own, x[rows], context[rows], engine)

        _, parts = self.attempt(plan, len(x), task, work)
        results = [
            np.concatenate(arrays) if len(parts) > 1 else arrays[0]
            for arrays in zip(*parts, strict=True)
        ]
        for result in results:
            refuse_nan(result, name)
        return results

    # ---- the gradient ----------------------------------------------------------------------------

    def loss_and_grad(
        self, x, context=None, backend="auto", out: np.ndarray | None = None
    ) -> tuple[float, np.ndarray]:
        r"""Return the mean negative log-likelihood, nats, and its gradient (P,), as ``theta`` lies.

        .. math:: \mathcal L(\theta) = -\frac1N \sum_n \log p_\theta(x_n)

        ``out`` (P,) is overwritten by the gradient and returned: a loop needs no fresh memory.

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
        gradient = BatchGradient(self, len(x), backend, training=False, task="gradient", out=out)
        log_prob, grad, length = gradient(x, context)
        refuse_nan(log_prob, "x")
        finite = bool(np.isfinite(log_prob).all())
        if math.isnan(length) or (math.isinf(length) and finite):
            row = self.row_without_gradient(x, context)
            where = "" if row is None else f" of row {row} of x"
            raise FloatingPointError(f"the gradient{where} is not finite in {self.dtype}")
        return -float(log_prob.mean(dtype=np.float64)), grad

    def row_without_gradient(self, x: np.ndarray, context: np.ndarray) -> int | None:
        """Return the first of checked rows whose gradient is not finite, by halving; or None."""

        def is_finite(low: int, high: int) -> bool:
            g = self.split(np.zeros_like(self._theta))
            with np.errstate(**QUIET):
                part = (high - low) / len(x)
                self.add_gradient(self.own, x[low:high], context[low:high], g, weights=part)
            return bool(np.isfinite(g.flat).all())

        low, high = 0, len(x)
        while high - low > 1:
            middle = (low + high) // 2
            if is_finite(low, middle):
                low = middle
            else:
                high = middle
        return None if is_finite(low, high) else low


class BatchGradient:
    """The gradient of the mean loss of batches, with memory and threads arranged once.

    Parameters
    ----------
    model : Model
    rows : int
        Of a full batch.
    backend : str
        As for ``log_prob``. "auto" decides by the size of a batch alone, so that a run can be
        repeated bit for bit, unless a ``task`` is named.
    training : bool
        Whether layers take statistics of the batch.
    out : (P,) array, optional
        Where gradients are written.
    """

    def __init__(
        self,
        model: Model,
        rows: int,
        backend="auto",
        training: bool = True,
        task: str = "",
        out: np.ndarray | None = None,
    ):
        self.model, self.rows, self.training, self.task = model, rows, training, task
        self.plan = model.plan(backend, rows, task, gradient=True)
        self.g = model.split(np.empty_like(model.theta) if out is None else _vector(model, out))
        self.kept: list[tuple] = []
        self.share = 1.0

    def __call__(
        self, x: np.ndarray, context: np.ndarray, weights: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Return log p (B,), the gradient (P,), which the next call overwrites, and its length.

        Rows are checked ones. With weights w (B,), it is the gradient of the mean of -w log p.
        """
        model, n = self.model, len(x)
        self.kept.clear()
        self.share = (n if weights is None else float(weights.sum())) / self.rows
        plan = self.plan._replace(blocks=model.cut(n, self.plan.engine, gradient=True))
        kept = self.kept if self.training else None
        grad = self.g.flat

        def work(rows: slice, engine: str) -> np.ndarray:
            grad[:] = 0
            with np.errstate(**QUIET):
                return model.add_gradient(model.own, x, context, self.g, engine, weights, kept)

        self.plan, (log_prob,) = model.attempt(plan, n, self.task, work, gradient=True)
        return log_prob, grad, math.sqrt(self._square(grad))

    def _square(self, grad: np.ndarray) -> float:
        """Return |grad|²; in float64 where the squares of finite float32 overflow."""
        if self.plan.engine == "numpy":
            with np.errstate(over="ignore", invalid="ignore"):
                square = float(grad @ grad)
        else:
            from afnp.compiled.adam import squared_length

            square = squared_length(grad)
        if not math.isfinite(square) and grad.dtype == np.float32:
            double = grad.astype(np.float64)
            with np.errstate(invalid="ignore"):
                square = float(double @ double)
        return square

    def update_statistics(self) -> None:
        """Move the running statistics of layers that take them by those of the last batch."""
        for layer, p, cache in self.kept:
            layer.update_statistics(p, cache, self.share)


def _shorter(blocks: list[slice], most: int, n: int) -> list[slice]:
    """Cut blocks of n rows into pieces of at most ``most`` rows; no rows are one piece.

    Examples
    --------
    >>> _shorter([slice(0, 5), slice(5, 9)], 3, n=7)
    [slice(0, 3, None), slice(3, 5, None), slice(5, 7, None)]
    """
    pieces = [
        slice(start, min(start + most, block.stop, n))
        for block in blocks
        for start in range(block.start, min(block.stop, n), most)
    ]
    return pieces or [slice(0, 0)]


def _vector(model: Model, out) -> np.ndarray:
    """Return an array that can hold a model's gradient, or raise a ValueError."""
    theta = model.theta
    expected = f"out: expected a contiguous, writeable array {theta.shape} of {theta.dtype}"
    if not isinstance(out, np.ndarray):
        raise ValueError(f"{expected}, got {type(out).__name__}")
    shared = np.shares_memory(out, theta)
    usable = out.flags.c_contiguous and out.flags.writeable and not shared
    if not usable or (out.shape, out.dtype) != (theta.shape, theta.dtype):
        that = " that shares theta's memory" if shared else ""
        raise ValueError(f"{expected}, got {out.shape} of {out.dtype}{that}")
    return out


def _load():
    """Import compiled code, or raise what keeps it from working."""
    from afnp.compiled import engine

    return engine.load()


def _give_up(error: Exception) -> None:
    """Do without compiled code in this process, and say so once."""
    _unusable.append(str(error))
    if len(_unusable) == 1:
        warnings.warn(
            f"compiled code is not used: {type(error).__name__}: {error}; NumPy gives the same "
            "results, slower (backend='numpy' asks for it, backend='numba' shows the error)",
            RuntimeWarning,
            stacklevel=2,
        )


def _cached(attribute) -> bool:
    return isinstance(attribute, functools.cached_property)


def check_context(context, width: int, n: int, dtype, columns=None, rows: str = "x") -> np.ndarray:
    """Return a context as (N, C) floats, from (N, C), from one row for all, or from None if C is 0.

    ``rows`` is the name of what it goes with: that of ``x_val`` is called ``context_val``.

    Raises
    ------
    ValueError
        If it is missing, superfluous, of another width or number of rows, or has a value that is
        not finite.

    Examples
    --------
    >>> check_context([[1, 2]], width=2, n=3, dtype=np.float64).shape
    (3, 2)
    """
    name = "context_val" if rows == "x_val" else "context"
    if (context is None) != (width == 0):
        got = "none" if context is None else f"shape {np.shape(context)}"
        raise ValueError(f"{name}: expected {width or 'no'} columns, got {got}")
    if context is None:
        return np.empty((n, 0), dtype=dtype)
    context = check_rows(context, width, dtype, name, columns)
    if len(context) not in (1, n):
        raise ValueError(f"{name}: expected {n} rows (or 1), got {len(context)}")
    return np.broadcast_to(context, (n, width))


def refuse_nan(result: np.ndarray, name: str) -> None:
    """Raise a FloatingPointError that names the row if a result (N, ...) has a NaN."""
    if np.isnan(result).any():
        row = int(np.argwhere(np.isnan(result))[0, 0])
        raise FloatingPointError(f"row {row} of {name} gives a result that is not a number")
