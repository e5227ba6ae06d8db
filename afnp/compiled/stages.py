r"""Stages: the one place that turns the layers of a flow into compiled ones.

.. math:: u = (f_M \circ \dots \circ f_1)(x)

A stage has the face of a transform (:mod:`afnp.transforms.base`) and the same numbers; the
definition is each transform's own NumPy rendering. Masked transforms of one shape in a row become
one :class:`Stack`, a single call into the kernels: a call from Python costs some microseconds, as
much as the arithmetic of a small flow, and samples that leave the kernels must be transposed out of
their tiles and back. Layers without a network stay as they are. What has a network, or a
univariate, that nobody has compiled runs in NumPy too, unless compiled code was asked for by name.

Letters: N rows, D features, M transforms.
"""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import numpy as np

from afnp.compiled import causal_conv, fixed_point, gradient, small_batch, staircase, tiles
from afnp.compiled.threads import FEW, workers
from afnp.compiled.univariate import dispatch
from afnp.networks import MLP, AddedMLP, CausalConv, GatedMaskedMLP, GatedMLP, GraphMLP, MaskedMLP
from afnp.params import Layout, Views
from afnp.sampling.fixed_point import FixedPoint
from afnp.transforms.autoregressive import Autoregressive
from afnp.transforms.base import Transform
from afnp.transforms.coupling import Coupling
from afnp.transforms.inverse import Inverse
from afnp.univariate import UNIVARIATES

__all__ = ["compiled", "generate_on_gpu", "gpu_step", "stages_of", "uncompiled", "workers"]


WAYS = ("natural", "reverse")
"""Orders in which a series is walked along."""
BESIDE = (AddedMLP, GatedMaskedMLP, GatedMLP)
"""Networks with a context beside the layers."""
SHARED = 16
"""Rows a context, on average, from which each context is folded into weights."""


# ---- from layers to stages -----------------------------------------------------------------------


Conditioned = Autoregressive | Coupling
"""What has a network, a univariate and an order."""


def stages_of(layers: Sequence[Transform]) -> list:
    """Return the layers as compiled code runs them, in turn.

    What it does not know stays as it is.
    """
    stages: list = []
    for shape, run in itertools.groupby(layers, _shape):
        together: list[Any] = list(run)
        stages += map(compiled, together) if shape is None else [_stack(together)]
    return stages


def compiled(layer: Any):
    """Return one layer as a stage of its own, or the layer itself if it is not compiled."""
    if not _known(layer):
        return layer
    if type(layer) is Inverse:
        return CompiledInverse(layer)
    if type(layer.conditioner) in BESIDE:
        return CompiledConditioned(layer)
    if _convolves(layer):
        return CompiledConvolution(layer)
    return _stack([layer])


def generators_of(layers: Sequence[Transform]) -> list:
    """Return the layers, compiled where the derivative of sampling is: those that are inverse."""
    return [compiled(layer) if type(layer) is Inverse else layer for layer in layers]


def _stack(layers: Sequence[Conditioned]) -> Stack:
    """Return transforms of one shape as one stage; those of a graph with zeros under staircases."""
    kind = SparseStack if type(layers[0].conditioner) is GraphMLP else Stack
    return kind(layers)


def uncompiled(layers: Sequence[Transform]) -> str:
    """Say which layers have a network that is not compiled, or a univariate.

    Nothing if there is none.
    """
    found = [
        f"layer {k}, {type(layer).__name__} with {_said(layer.conditioner)} and "
        f"{type(layer.univariate).__name__}"
        for k, layer in enumerate(layers)
        if layer.conditioner is not None and not _known(layer)
    ]
    return ", ".join(found)


def _said(network: Any) -> str:
    """Return a network's kind, and its activation where that is not compiled."""
    kind = type(network).__name__
    other = isinstance(network, (MaskedMLP, MLP)) and network.activation not in causal_conv.KINDS
    return f"{kind} of {network.activation!r}" if other else kind


def _known(layer: Transform) -> bool:
    """Return whether the kernels have this network, and this univariate."""
    networks: tuple[type, ...] = (MaskedMLP, GraphMLP, MLP, CausalConv)
    if type(layer) not in (Autoregressive, Coupling, Inverse):
        return False
    if type(layer) is not Inverse:
        networks += BESIDE
    inner: Any = layer.transform if isinstance(layer, Inverse) else layer
    walks = type(inner.conditioner) is not CausalConv or inner.config()["order"] in WAYS
    if type(inner.conditioner) not in networks or not walks:
        return False
    if inner.conditioner.activation not in causal_conv.KINDS:
        return False
    if type(inner.univariate) is not UNIVARIATES.get(inner.name):
        return False
    return dispatch.known(inner.name, inner.univariate.config())


def _carries(net: AddedMLP) -> bool:
    """Return whether there are units that can carry a context: c = max(c, 0) - max(-c, 0)."""
    return bool(net.hidden) and (net.activation == "relu" or not net.residual)


def _convolves(layer: Transform) -> TypeGuard[Autoregressive]:
    return type(layer) is Autoregressive and type(layer.conditioner) is CausalConv


def _reverse(layer: Conditioned) -> bool:
    """Return whether a series is walked along from its last step."""
    return layer.features > 1 and bool(layer.order[0])


def _shape(layer: Any) -> tuple | None:
    """Return what must be equal for transforms to be one stack, or None where there is no stack."""
    if type(layer) not in (Autoregressive, Coupling) or _convolves(layer) or not _known(layer):
        return None
    net = layer.conditioner
    if type(net) in BESIDE:
        return None
    kind = type(layer).__name__, layer.name, str(layer.univariate.config())
    graph = net.adjacency.tobytes() if type(net) is GraphMLP else b""
    shape = net.features, net.hidden, net.activation, net.residual, net.linear_end
    return *kind, *shape, graph


def _key(layer: Conditioned, task: str, n: int, dtype: np.dtype) -> tuple:
    """Return what selects compiled code: types alone, not sizes, and the path of a few rows."""
    scale = layer.univariate.config().get("scale")
    return task, n <= FEW, dtype, layer.name, scale


def _tau(layer: Conditioned, dtype: np.dtype):
    return dispatch.form(layer.name, layer.univariate.config(), dtype)


# ---- the stages ----------------------------------------------------------------------------------


class Stage:
    """What compiled stages share: they take no statistics, and in training do as always."""

    takes_statistics = False

    def kernels(self, task: str, n: int, dtype: np.dtype) -> set:
        """Return what identifies the compiled code that a task needs for n rows."""
        raise NotImplementedError

    def normalize(self, p: Views, x: np.ndarray, context: np.ndarray) -> tuple:
        """Map x (N, D) to u (N, D); also give log|det du/dx| (N,) and the cache of ``backward``."""
        raise NotImplementedError


class Stack(Stage):
    """Masked transforms of one shape in a row.

    ``p.flat`` holds the parameters of all, in their order.
    """

    def __init__(self, layers: Sequence[Conditioned]):
        self.layers = list(layers)
        self.layout = Layout({"theta": (sum(layer.layout.size for layer in layers),)})
        networks = [layer.conditioner for layer in layers]
        orders = [layer.order for layer in layers]
        fixed = layers[0].fixed if isinstance(layers[0], Coupling) else 0
        self.stack = tiles.stack_of(networks, orders, layers[0].context, fixed)

    def _tau(self, dtype: np.dtype):
        return _tau(self.layers[0], dtype)

    def _theta(self, p: Views) -> np.ndarray:
        """Return the parameters as the kernels read them, (P,)."""
        return p.flat

    def kernels(self, task: str, n: int, dtype: np.dtype) -> set:
        """Return what identifies the compiled code that a task needs for n rows."""
        return {("stack", *_key(self.layers[0], task, n, dtype))}

    def _run(self, direction: str, p: Views, values: np.ndarray, context: np.ndarray) -> tuple:
        kernels = small_batch if len(values) <= FEW else staircase
        run = {"product": kernels.product, "solve": kernels.solve}[direction]
        return run(self._theta(p), self.stack, self._tau(values.dtype), context, values)

    def normalize(self, p: Views, x: np.ndarray, context: np.ndarray) -> tuple:
        """Map x (N, D) to u (N, D); also give log|det du/dx| (N,) and the cache of ``backward``."""
        tau = self._tau(x.dtype)
        return gradient.product_keeping_tiles(self._theta(p), self.stack, tau, context, x)

    def evaluate(self, p: Views, x: np.ndarray, context: np.ndarray) -> tuple:
        """Map x (N, D) to u (N, D); also give log|det du/dx| (N,)."""
        return self._run("product", p, x, context)

    def generate(self, p: Views, u: np.ndarray, context: np.ndarray) -> tuple:
        """Map u (N, D) to x (N, D); also give log|det dx/du| (N,)."""
        return self._run("solve", p, u, context)

    def sampler(self, method: str | FixedPoint) -> Callable:
        """Return how a method of sampling maps (p, u, context) to x and log|det dx/du|."""
        if isinstance(method, FixedPoint) and not self.stack.fixed:
            return functools.partial(self._iterate, method)
        return self.generate

    def _iterate(self, method: FixedPoint, p: Views, u: np.ndarray, context: np.ndarray) -> tuple:
        """Do the same by fixed-point iteration.

        Also give iterations and multiply-adds, (N, M) each.
        """
        tau, network = self._tau(u.dtype), self.layers[0].conditioner
        return fixed_point.solve(self._theta(p), self.stack, tau, network, method, context, u)

    def backward(self, p: Views, cache, d_u: np.ndarray, d_log_det: np.ndarray, g: Views):
        """Write the parameters' gradients of ``normalize`` into g; return d_x (N, D)."""
        tau = self._tau(d_u.dtype)
        return gradient.stack_backward(
            self._theta(p), self.stack, tau, cache, d_u, d_log_det, g.flat
        )


def _through(layer: Transform) -> np.ndarray:
    """Return which parameters the graph of a transform lets through, (P,) bool."""
    through = np.ones(layer.layout.size, dtype=bool)
    of_layer = layer.layout.views(through)
    for l, linear in enumerate(layer.conditioner.linears):
        of_layer[linear.W][:] = layer.conditioner.mask(l)
    return through


class SparseStack(Stack):
    """Transforms of one graph in a row: the kernels of staircases, with zeros under them.

    A graph's masks lie under the staircases of its generation order. What the graph forbids there
    is set to zero before the kernels read the parameters, and after they wrote a gradient. They
    multiply those zeros, and walk feature by feature.
    """

    def __init__(self, layers: Sequence[Conditioned]):
        super().__init__(layers)
        self.through = np.concatenate([_through(layer) for layer in layers])

    def _theta(self, p: Views) -> np.ndarray:
        return np.where(self.through, p.flat, p.flat.dtype.type(0))

    def backward(self, p: Views, cache, d_u: np.ndarray, d_log_det: np.ndarray, g: Views):
        """Write the parameters' gradients of ``normalize`` into g; return d_x (N, D)."""
        d_x = super().backward(p, cache, d_u, d_log_det, g)
        g.flat[~self.through] = 0
        return d_x


class CompiledInverse(Stage):
    """An inverse transform whose inside is compiled; the derivative of its solve is NumPy's."""

    def __init__(self, layer: Inverse):
        self.layer, self.layout = layer, layer.layout
        self.inside = Stack([layer.transform])

    def kernels(self, task: str, n: int, dtype: np.dtype) -> set:
        """Return what identifies the compiled code that a task needs for n rows."""
        turned = "evaluate" if task == "generate" else "generate"
        return self.inside.kernels(turned, n, dtype)

    def normalize(self, p: Views, x: np.ndarray, context: np.ndarray) -> tuple:
        """Map x (N, D) to u (N, D); also give log|det du/dx| (N,) and the cache of ``backward``."""
        u, log_det = self.inside.generate(p, x, context)
        return u, log_det, (u, context)

    def evaluate(self, p: Views, x: np.ndarray, context: np.ndarray) -> tuple:
        """Map x (N, D) to u (N, D); also give log|det du/dx| (N,)."""
        return self.inside.generate(p, x, context)

    def sampler(self, method: str | FixedPoint) -> Callable:
        """Return the inside's product, whatever the method."""
        return self.inside.evaluate

    def backward(self, p: Views, cache, d_u: np.ndarray, d_log_det: np.ndarray, g: Views):
        """Add the parameters' gradients of ``normalize`` into g; return d_x (N, D)."""
        return self.layer.backward(p, cache, d_u, d_log_det, g)

    def generate_keeping(self, p: Views, u: np.ndarray, context: np.ndarray) -> tuple:
        """Map u (N, D) to x; also give log|det dx/du| (N,) and ``generate_backward``'s cache."""
        return self.inside.normalize(p, u, context)

    def generate_backward(self, p: Views, cache, d_x: np.ndarray, d_log_det: np.ndarray, g: Views):
        """Write the parameters' gradients of ``generate`` into g; return d_u (N, D)."""
        return self.inside.backward(p, cache, d_x, d_log_det, g)


class CompiledAdded:
    r"""An autoregressive transform whose context is added, as one whose context is an input.

    .. math:: W^{(0)} x + b^{(0)} + e = (I \;\; W^{(0)}) \binom{e}{x} + b^{(0)}

    What is added in the first layer becomes the context of an ordinary masked network. What is
    added in the blocks, V c + v, is carried there by units of degree 0, c = max(c, 0) - max(-c, 0),
    which only a network of relus has.
    """

    def __init__(self, layer: Autoregressive):
        self.layer, net = layer, layer.conditioner
        H, C, D, K = net.hidden, net.context, net.features, net.numbers
        self.carried = 2 * C if net.residual else 0
        units = [[*[0] * self.carried, *degrees.tolist()] for degrees in net.degrees[1:-1]]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            plain = MaskedMLP(
                *(D, K, [len(layer) for layer in units], H[0] + (C if net.residual else 0)),
                activation=net.activation,
                residual=net.residual,
                degrees=units,
                linear_end=net.linear_end,
            )
        inside = Autoregressive(plain, layer.univariate, layer.order)
        self.inside, self.plain = Stack([inside]), plain

    def _plain(self, p: Views, context: np.ndarray) -> tuple[Views, np.ndarray]:
        """Return the parameters of the ordinary network, and its context (N, H) or (N, H + C)."""
        net, k = self.layer.conditioner, self.carried
        flat = np.zeros(self.plain.layout.size, p.flat.dtype)
        views, C, H = self.plain.layout.views(flat), net.context, net.hidden[0]
        for l, linear in enumerate(net.linears):
            W, b = views[linear.W], views[linear.b]
            rows = slice(k if l < len(net.hidden) else 0, None)
            b[rows] = p[linear.b]
            W[rows, (H + C if k else H) if l == 0 else k :] = p[linear.W]
            if l == 0:
                W[rows, :H] = np.eye(H)
                if k:
                    W[:k, H : H + C] = np.concatenate([np.eye(C), -np.eye(C)])
            elif net.ways.get(l) == "added":
                V = p[f"V{l}"]
                W[rows, :k] = np.concatenate([V, -V], axis=1)
                b[rows] += p[f"v{l}"]
        entered = net.entered(p, context)[0]
        return views, np.concatenate([entered, context], axis=1) if k else entered

    def evaluate(self, p: Views, x: np.ndarray, context: np.ndarray) -> tuple:
        """Map x (N, D) to u (N, D); also give log|det du/dx| (N,)."""
        views, entered = self._plain(p, context)
        return self.inside.evaluate(views, x, entered)

    def generate(self, p: Views, u: np.ndarray, context: np.ndarray) -> tuple:
        """Map u (N, D) to x (N, D); also give log|det dx/du| (N,)."""
        views, entered = self._plain(p, context)
        return self.inside.generate(views, u, entered)


class CompiledConditioned(Stage):
    r"""A transform with a context beside its layers: one without, for each context that rows share.

    .. math:: (W a + b) \odot \sigma(e) = (\sigma(e) \odot W)\, a + \sigma(e) \odot b, \qquad
              W a + b + e = W a + (b + e), \qquad e = V c + v

    All samples given one observation have one context. Where rows hardly share any, what is added
    becomes an input if it can, and NumPy works otherwise, as always for the derivative.
    """

    def __init__(self, layer: Conditioned):
        self.layer, self.layout, net = layer, layer.layout, layer.conditioner
        self.inside = Stack([_for_one_context(layer)])
        self.otherwise: Any = layer
        if isinstance(layer, Autoregressive) and type(net) is AddedMLP and _carries(net):
            self.otherwise = CompiledAdded(layer)

    def kernels(self, task: str, n: int, dtype: np.dtype) -> set:
        """Return what identifies the compiled code that a task needs for n rows."""
        return self.inside.kernels(task, n, dtype) if task in ("evaluate", "generate") else set()

    def _folded(self, p: Views, c: np.ndarray) -> Views:
        """Return the parameters of the network without, for one context (1, C)."""
        net: Any = self.layer.conditioner
        inside = self.inside.layers[0]
        views = inside.layout.views(p.flat[: inside.layout.size].copy())
        for l, e in net.entered(p, c).items():
            W, b = views[net.linears[l].W], views[net.linears[l].b]
            if net.ways[l] == "gate":
                W *= e.T
                b *= e[0]
            else:
                b += e[0]
        return views

    def _run(self, otherwise: Callable, folded: Callable, p: Views, values, context) -> tuple:
        """Return values (N, D) and log|det| (N,), from one context's rows after the other's."""
        changes = np.flatnonzero((context[1:] != context[:-1]).any(axis=1)) + 1
        runs = list(itertools.pairwise([0, *changes.tolist(), len(values)]))
        if len(values) <= SHARED * (len(runs) - 1):
            return otherwise(p, values, context)[:2]
        read = context[:, : self.inside.layers[0].context]
        parts = [
            folded(self._folded(p, context[a : a + 1]), values[a:b], read[a:b]) for a, b in runs
        ]
        if len(parts) == 1:
            return parts[0]
        values, log_det = (np.concatenate(part) for part in zip(*parts, strict=True))
        return values, log_det

    def normalize(self, p: Views, x: np.ndarray, context: np.ndarray) -> tuple:
        """Map x (N, D) to u (N, D); also give log|det du/dx| (N,) and the cache of ``backward``."""
        return self.layer.normalize(p, x, context)

    def evaluate(self, p: Views, x: np.ndarray, context: np.ndarray) -> tuple:
        """Map x (N, D) to u (N, D); also give log|det du/dx| (N,)."""
        return self._run(self.otherwise.evaluate, self.inside.evaluate, p, x, context)

    def generate(self, p: Views, u: np.ndarray, context: np.ndarray) -> tuple:
        """Map u (N, D) to x (N, D); also give log|det dx/du| (N,)."""
        return self._run(self.otherwise.generate, self.inside.generate, p, u, context)

    def sampler(self, method: str | FixedPoint) -> Callable:
        """Return the staircase for substitution; iterations run in NumPy."""
        return self.generate if method == "substitution" else self.layer.sampler(method)

    def backward(self, p: Views, cache, d_u: np.ndarray, d_log_det: np.ndarray, g: Views):
        """Add the parameters' gradients of ``normalize`` into g; return d_x (N, D)."""
        return self.layer.backward(p, cache, d_u, d_log_det, g)


def _for_one_context(layer: Conditioned) -> Conditioned:
    """Return the transform whose network has the same layers, and no context beside them."""
    net: Any = layer.conditioner
    how = {"context": net.context if net.reads else 0, "activation": net.activation}
    how |= {"residual": net.residual, "linear_end": net.linear_end}
    if isinstance(layer, Coupling):
        return Coupling(layer.features, net.hidden, layer.passing, layer.univariate, **how)
    units = [degrees.tolist() for degrees in net.degrees[1:-1]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        plain = MaskedMLP(net.features, net.numbers, net.hidden, degrees=units, **how)
    return Autoregressive(plain, layer.univariate, layer.order)


class CompiledConvolution(Stage):
    """A convolutional transform that walks along queues in both directions.

    Its gradient stays in NumPy.
    """

    def __init__(self, layer: Autoregressive):
        self.layer, self.layout = layer, layer.layout

    def kernels(self, task: str, n: int, dtype: np.dtype) -> set:
        """Return what identifies the compiled code that a task needs for n rows.

        Both ways share it.
        """
        if task not in ("evaluate", "generate"):
            return set()
        return {("walk", *_key(self.layer, "", n, dtype))}

    def _walk(
        self, p: Views, rows: np.ndarray, context: np.ndarray, sampling: bool = False
    ) -> tuple:
        layer = self.layer
        tau = _tau(layer, rows.dtype)
        return causal_conv.walk(p, layer.conditioner, tau, context, rows, sampling, _reverse(layer))

    def normalize(self, p: Views, x: np.ndarray, context: np.ndarray) -> tuple:
        """Map x (N, D) to u (N, D); also give log|det du/dx| (N,) and the cache of ``backward``."""
        return self.layer.normalize(p, x, context)

    def evaluate(self, p: Views, x: np.ndarray, context: np.ndarray) -> tuple:
        """Map x (N, D) to u (N, D); also give log|det du/dx| (N,)."""
        return self._walk(p, x, context)

    def generate(self, p: Views, u: np.ndarray, context: np.ndarray) -> tuple:
        """Map u (N, D) to x (N, D); also give log|det dx/du| (N,)."""
        return self._walk(p, u, context, sampling=True)

    def sampler(self, method: str | FixedPoint) -> Callable:
        """Return the walk for substitution; iterations run in NumPy."""
        return self.generate if method == "substitution" else self.layer.sampler(method)

    def backward(self, p: Views, cache, d_u: np.ndarray, d_log_det: np.ndarray, g: Views):
        """Add the parameters' gradients of ``normalize`` into g; return d_x (N, D)."""
        return self.layer.backward(p, cache, d_u, d_log_det, g)


# ---- on a GPU, sampling alone --------------------------------------------------------------------


def generate_on_gpu(layers: Sequence[Transform], p: Sequence[Views], u, context, method) -> tuple:
    """Take transforms that follow each other to the GPU together.

    Those without a network stay in NumPy.

    Returns x (N, D), log|det dx/du| (N,) and, for each run of iterated transforms from the noise to
    the data, their iterations and multiply-adds.

    Raises
    ------
    ValueError
        If a network or a univariate has no GPU rendering.
    """
    from afnp.compiled.cuda import causal_conv as cuda_causal_conv  # numba-cuda may be missing
    from afnp.compiled.cuda import fixed_point as cuda_fixed_point
    from afnp.compiled.cuda import staircase as cuda_staircase

    solve: Callable = cuda_staircase.solve_all
    if isinstance(method, FixedPoint):
        solve = functools.partial(cuda_fixed_point.solve_all, method=method)
    walk = functools.partial(cuda_causal_conv.walk_all, method=method)
    solvers: dict[type, Callable] = {
        cuda_staircase.StaircaseStep: solve,
        cuda_causal_conv.ConvolutionStep: walk,
    }
    steps = [
        (layer, p_layer, gpu_step(layer, p_layer)) for layer, p_layer in zip(layers, p, strict=True)
    ]
    log_det, counts = np.zeros(len(u), u.dtype), []
    for kind, run in itertools.groupby(reversed(steps), lambda step: type(step[-1])):
        if kind in solvers:
            u, log_det_run, *taken = solvers[kind]([step for *_, step in run], context, u)
            log_det = log_det + log_det_run
            counts.append(taken)
            continue
        for layer, p_layer, _ in run:
            u, log_det_layer = layer.generate(p_layer, u, context)
            log_det = log_det + log_det_layer
    return u, log_det, counts


def gpu_step(layer: Transform, p: Views):
    """Return what the GPU's kernels take of a transform.

    None for what has no network to be solved.
    """
    from afnp.compiled.cuda import causal_conv as cuda_causal_conv
    from afnp.compiled.cuda import staircase as cuda_staircase

    if _convolves(layer):
        bound = _bound_on_gpu(layer)
        return cuda_causal_conv.ConvolutionStep(p, layer.conditioner, bound, _reverse(layer))
    if type(layer) is Autoregressive and isinstance(layer.conditioner, MaskedMLP):
        if layer.conditioner.linear_end:
            raise ValueError("backend: 'cuda' has no network with linear_end; 'auto' has")
        if layer.conditioner.activation not in causal_conv.KINDS:
            raise ValueError(f"backend: 'cuda' has no {_said(layer.conditioner)}; 'auto' has")
        bound = _bound_on_gpu(layer)
        plan = cuda_staircase.device_plan(layer.conditioner)
        return cuda_staircase.StaircaseStep(p.flat, plan, bound, layer.order)
    if isinstance(layer, Autoregressive):
        network = type(layer.conditioner).__name__
        raise ValueError(f"backend: 'cuda' has no {network}; 'auto' and 'numpy' do")
    return None


def _bound_on_gpu(layer: Conditioned) -> float:
    """Return the bound of the one univariate that the GPU's kernels know; refuse any other."""
    options = layer.univariate.config()
    if (layer.name, options.get("scale")) != ("affine", "tanh"):
        got = f"{layer.name!r} with {options}"
        raise ValueError(
            f"backend 'cuda' samples the univariate 'affine' with the scale 'tanh', got {got}"
        )
    return layer.univariate.bound
