r"""A trained flow without afnp: its density and its sampler as ONNX graphs, in float32.

.. math:: \text{density}: x, c \mapsto \log p(x \mid c), \; u, \qquad
          \text{sampler}: u, c \mapsto x

Noise u goes into the sampler from outside: draw it with whatever generates standard normal numbers
where the graph runs, or, for a flow of angles, uniform ones in [-pi, pi). Any number of rows goes
through, and no number is ever cast to an integer. An autoregressive layer samples by the textbook
loop, D passes of its network in an ONNX Loop: slower than afnp, and the same numbers.

Letters: N rows, D features, C context inputs, K params a feature, n bins of a spline.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from afnp.atomic import write_bytes
from afnp.bases import StandardNormal, UniformTorus
from afnp.flow import Flow
from afnp.interop.onnx_mixtures import mixture
from afnp.networks import MLP, MaskedMLP, masks
from afnp.transforms import Autoregressive, Bounds, Coupling, Inverse, Logit
from afnp.univariate.affine import Additive, Affine
from afnp.univariate.circular import CircularRationalQuadratic
from afnp.univariate.mixture import GaussianMixture, LogisticMixture
from afnp.univariate.rational_quadratic import RationalQuadratic

__all__ = ["density_model", "sampler_model", "to_onnx"]

LINEAR = ("Standardize", "Dequantize", "ActNorm", "BatchNorm", "Permutation", "LULinear")
"""Layers that are x - c times a matrix, whatever their parameters: they are asked for both."""

OPSET, IR_VERSION = 17, 8
ROWS, TOLERANCE = 8, 1e-4
"""How many rows are compared when a graph is made, and to what difference in units of the
largest."""


def to_onnx(flow: Flow, path: str | os.PathLike, prove: bool = True) -> tuple[Path, Path]:
    """Write a flow's density and sampler; return the paths of the two files.

    Parameters
    ----------
    flow : Flow
        Of masked networks and couplings with affine maps, shifts, splines, those of the circle too,
        or mixtures; of all preprocessing, normalisations, permutations and LU maps around them.
    path : path
        ``flow.onnx`` becomes ``flow.density.onnx`` and ``flow.sampler.onnx``.
    prove : bool
        Compare a few rows with the flow, by ONNX's own interpreter, before anything is written.

    Raises
    ------
    ValueError
        If a part of the flow cannot be exported: it is named.
    ArithmeticError
        If the graphs compute something else than the flow.

    Examples
    --------
    >>> import tempfile, afnp
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in to_onnx(afnp.made(2, hidden=(4,)), folder + "/f.onnx")]
    ['f.density.onnx', 'f.sampler.onnx']
    """
    if not isinstance(flow, Flow):
        raise ValueError(f"flow: expected a Flow, got {type(flow).__name__}")
    models = {"density": density_model(flow), "sampler": sampler_model(flow)}
    if prove:
        _prove(flow, models)
    stem = Path(path).with_suffix("") if Path(path).suffix == ".onnx" else Path(path)
    paths = {kind: stem.with_name(f"{stem.name}.{kind}.onnx") for kind in models}
    for kind, model in models.items():
        write_bytes(paths[kind], model.SerializeToString())
    return paths["density"], paths["sampler"]


def density_model(flow: Flow) -> onnx.ModelProto:
    """Return the graph from ``x`` (N, D), ``context`` (N, C) to ``log_prob`` (N,), ``u`` (N, D)."""
    if type(flow.base) not in (StandardNormal, UniformTorus):
        raise ValueError(f"base: cannot export a {type(flow.base).__name__}")
    g = _Graph()
    g.scale_context(flow)
    u, log_det = "x", g.constant(0.0)
    for layer, p in zip(flow.layers, flow.split(flow.theta), strict=True):
        u, log_det_layer = _normalize(g, layer, p, u)
        log_det = g("Add", log_det, log_det_layer)
    g("Add", _log_base(g, flow, u), log_det, output="log_prob")
    g("Identity", u, output="u")
    return g.model(flow, "density", "x", {"log_prob": ["N"], "u": ["N", flow.features]})


def _log_base(g: _Graph, flow: Flow, u: str) -> str:
    """Add the log-density (N,) of noise."""
    if flow.base.periodic:
        pi = g.constant(math.pi)
        inside = g("And", g("GreaterOrEqual", u, g("Neg", pi)), g("LessOrEqual", u, pi))
        each = g("Where", inside, g.constant(-math.log(2 * math.pi)), g.constant(-math.inf))
        return g.sum(each)
    square = g.sum(g("Mul", u, u))
    constant = g.constant(0.5 * flow.features * math.log(2 * math.pi))
    return g("Sub", g("Mul", square, -0.5), constant)


def sampler_model(flow: Flow) -> onnx.ModelProto:
    """Return the graph of noise ``u`` (N, D) and ``context`` (N, C) to samples ``x`` (N, D)."""
    g = _Graph()
    g.scale_context(flow)
    x = "u"
    for layer, p in reversed(list(zip(flow.layers, flow.split(flow.theta), strict=True))):
        x = _generate(g, layer, p, x)
    g("Identity", x, output="x")
    return g.model(flow, "sampler", "u", {"x": ["N", flow.features]})


def _prove(flow: Flow, models: dict[str, onnx.ModelProto]) -> None:
    rng = np.random.default_rng(0)
    u = flow.base.sample(flow.own.base, ROWS, rng, np.dtype(np.float32))
    given: dict[str, np.ndarray] = {}
    if flow.context:
        mean, std = flow.config().get("context_scale", (0.0, 1.0))
        rows = np.asarray(mean) + np.asarray(std) * rng.standard_normal((ROWS, flow.context))
        given["context"] = rows.astype(np.float32)
    context = given.get("context")
    x = flow.generate(u, context)[0].astype(np.float32)
    expected = {"x": x, "log_prob": flow.log_prob(x, context)}
    (found,) = ReferenceEvaluator(models["sampler"]).run(["x"], {"u": u, **given})
    log_prob, _ = ReferenceEvaluator(models["density"]).run(None, {"x": x, **given})
    for name, got in (("x", found), ("log_prob", log_prob)):
        largest = 1 + np.abs(expected[name]).max()
        difference = np.abs(got - expected[name])
        if flow.base.periodic and name == "x":  # -pi is pi
            difference = np.minimum(difference, np.abs(2 * math.pi - difference))
        difference = difference.max()
        if not difference <= TOLERANCE * largest:
            raise ArithmeticError(f"{name}: the graph and the flow differ by {difference:.2g}")


# ---- layers --------------------------------------------------------------------------------------


def _normalize(g: _Graph, layer: Any, p: dict, x: str) -> tuple[str, str]:
    """Add a layer from data to noise; return u and log|det du/dx|."""
    if isinstance(layer, Autoregressive):
        ordered = g.columns(x, layer.order)
        h = g.network(layer.conditioner, p, ordered, layer.context)
        u, log_slope = _univariate(g, layer.univariate, h, ordered, "normalize")
        return g.columns(u, layer.rank), g.sum(log_slope)
    if isinstance(layer, Inverse):
        u = _generate(g, layer.transform, p, x)
        return u, g("Neg", _normalize(g, layer.transform, p, u)[1])
    if isinstance(layer, Coupling):
        return _coupling(g, layer, p, x, "normalize")
    if isinstance(layer, Logit):
        return _logit(g, layer, x)
    if isinstance(layer, Bounds):
        return _unfolded(g, layer, x)
    c, A, log_det = _linear(layer, p, "normalize")
    return g.times(g.less(x, c), A), g.constant(log_det)


def _generate(g: _Graph, layer: Any, p: dict, u: str) -> str:
    """Add a layer from noise to data; return x."""
    if isinstance(layer, Autoregressive):
        return _loop(g, layer, p, u)
    if isinstance(layer, Inverse):
        return _normalize(g, layer.transform, p, u)[0]
    if isinstance(layer, Coupling):
        return _coupling(g, layer, p, u, "generate")[0]
    if isinstance(layer, Logit):
        s = g("Sub", g("Sigmoid", u), g.constant(layer.alpha))
        return g("Div", s, g.constant(1 - 2 * layer.alpha))
    if isinstance(layer, Bounds):
        return _folded(g, layer, u)
    c, A, _ = _linear(layer, p, "generate")
    return g("Add", g.times(u, A), g.constant(c))


def _loop(g: _Graph, layer: Autoregressive, p: dict, u: str) -> str:
    """Add the textbook loop.

    Pass i of the network gives feature i, where all before it are known.
    """
    D = layer.features
    ordered = g.columns(u, layer.order)

    def learn(body: _Graph, i: str, known: str) -> list[str]:
        h = body.network(layer.conditioner, p, known, layer.context)
        x, _ = _univariate(body, layer.univariate, h, ordered, "generate")
        now = body("Equal", body.constant(np.arange(D, dtype=np.int64)), i)
        return [body("Where", now, x, known)]

    begin = g("Mul", ordered, g.constant(0.0))
    return g.columns(g.loop(D, [begin], learn)[0], layer.rank)


def _coupling(g: _Graph, layer: Coupling, p: dict, values: str, way: str) -> tuple[str, str]:
    """Add a coupling in either direction: the first block passes through."""
    passing, others = g.columns(values, layer.A), g.columns(values, layer.B)
    h = g.network(layer.conditioner, p, passing, layer.context)
    changed, log_slope = _univariate(g, layer.univariate, h, others, way)
    both = g("Concat", passing, changed, axis=1)
    return g.columns(both, np.argsort(np.concatenate([layer.A, layer.B]))), g.sum(log_slope)


def _logit(g: _Graph, layer: Logit, x: str) -> tuple[str, str]:
    """Add the logit; outside its support the log-determinant is -inf."""
    a, scale = layer.alpha, 1 - 2 * layer.alpha
    s = g("Add", g("Mul", x, g.constant(scale)), g.constant(a))
    r = g("Add", g("Mul", g("Sub", g.constant(1.0), x), g.constant(scale)), g.constant(a))
    zero, half = g.constant(0.0), g.constant(0.5)
    inside = g("And", g("Greater", s, zero), g("Greater", r, zero))
    s, r = g("Where", inside, s, half), g("Where", inside, r, half)
    log_s, log_r = g("Log", s), g("Log", r)
    slope = g("Sub", g("Sub", g.constant(math.log(scale)), log_s), log_r)
    slope = g("Where", inside, slope, g.constant(-math.inf))
    return g("Sub", log_s, log_r), g.sum(slope)


def _unfolded(g: _Graph, layer: Bounds, x: str) -> tuple[str, str]:
    """Add bounds from data to the line; outside the log-determinant is -inf."""
    low, high = np.isfinite(layer.ends)
    left, right = np.where([low, high], layer.ends, 0.0)
    zero, one = g.constant(0.0), g.constant(1.0)
    a = g("Where", g.constant(low), g.less(x, left), one)
    b = g("Where", g.constant(high), g("Neg", g.less(x, right)), one)
    inside = g("And", g("Greater", a, zero), g("Greater", b, zero))
    log_a, log_b = (g("Log", g("Where", inside, distance, one)) for distance in (a, b))
    widths = g.constant(np.log(np.where(low & high, right - left, 1.0)))
    slope = g("Sub", g("Sub", widths, log_a), log_b)
    slope = g("Where", inside, slope, g.constant(-math.inf))
    y = g("Where", g.constant(low | high), g("Sub", log_a, log_b), x)
    return y, g.sum(slope)


def _folded(g: _Graph, layer: Bounds, y: str) -> str:
    """Add bounds from the line to data, strictly inside in float32."""
    low, high = np.isfinite(layer.ends)
    left, right = (g.constant(ends) for ends in np.where([low, high], layer.ends, 0.0))
    e = g("Exp", g("Neg", g("Abs", y)))  # cannot overflow
    share = g("Div", e, g("Add", g.constant(1.0), e))
    part = g("Mul", g("Sub", right, left), share)
    positive = g("Greater", y, g.constant(0.0))
    between = g("Where", positive, g("Sub", right, part), g("Add", left, part))
    away = g("Where", g.constant(low), y, g("Neg", y))
    distance = g("Exp", g("Where", g.constant(low ^ high), away, g.constant(0.0)))
    above, below = g("Add", left, distance), g("Sub", right, distance)
    two_ends = g("Where", g.constant(low), between, below)
    one_end = g("Where", g.constant(low), above, y)
    x = g("Where", g.constant(high), two_ends, one_end)
    near = layer.ends[0].astype(np.float32), layer.ends[1].astype(np.float32)
    least = np.where(near[0] > layer.ends[0], near[0], np.nextafter(near[0], np.float32(np.inf)))
    most = np.where(near[1] < layer.ends[1], near[1], np.nextafter(near[1], np.float32(-np.inf)))
    x = g("Where", g.constant(low), g("Max", x, g.constant(least)), x)
    return g("Where", g.constant(high), g("Min", x, g.constant(most)), x)


def _linear(layer: Any, p: dict, way: str) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the point c that a linear layer maps to 0, its matrix, and its log-determinant."""
    if type(layer).__name__ not in LINEAR:
        raise ValueError(f"cannot export a layer of type {type(layer).__name__}")
    D = layer.features
    p = {name: a.astype(np.float64) for name, a in p.items()}
    none = np.empty((D + 1, 0))
    corners = np.concatenate([np.zeros((1, D)), np.eye(D)])
    x = layer.generate(p, corners, none)[0]
    c, A = x[0], x[1:] - x[0]
    if way == "generate":
        return c, A, 0.0
    log_det = layer.normalize(p, x, none)[1][0]
    return c, np.linalg.inv(A), float(log_det)


# ---- univariates ---------------------------------------------------------------------------------


def _univariate(g: _Graph, univariate: Any, h: str, v: str, way: str) -> tuple[str, str]:
    """Add the bijection of each feature; return its values and log-derivatives, (N, D) each."""
    kind = type(univariate)
    if kind is Affine:
        return _affine(g, univariate, h, v, way)
    if kind is Additive:
        shift = g.pick(h, 0)
        moved = g("Sub" if way == "normalize" else "Add", v, shift)
        return moved, g("Mul", v, g.constant(0.0))
    if kind is RationalQuadratic:
        end = g("Mul", g.part(h, 0, 1), g.constant(0.0))
        n = univariate.bins
        slopes = g("Concat", end, g.part(h, 2 * n, 3 * n - 1), end, axis=2)
        return _spline(g, univariate, h, slopes, v, way)
    if kind is CircularRationalQuadratic:
        return _circle(g, univariate, h, v, way)
    if kind in (GaussianMixture, LogisticMixture):
        return mixture(g, univariate, h, v, way)
    raise ValueError(f"cannot export the univariate {kind.__name__}")


def _affine(g: _Graph, affine: Affine, h: str, v: str, way: str) -> tuple[str, str]:
    mu, a = g.pick(h, 0), g.pick(h, 1)
    if affine.scale == "tanh":
        bound = g.constant(affine.bound)
        alpha = g("Mul", bound, g("Tanh", g("Div", a, bound)))
    elif affine.scale == "exp":
        alpha = a
    elif affine.scale == "softplus":
        z = g("Add", a, g.constant(math.log(math.e - 1)))
        low = g.constant(-37.0)
        value = g("Log", g("Softplus", g("Max", z, low)))
        alpha = g("Where", g("Less", z, low), z, value)
    else:
        z = g("Neg", g("Add", a, g.constant(2.0)))
        alpha, mu = g("Neg", g("Softplus", z)), g("Mul", mu, g("Sigmoid", z))
    if way == "normalize":
        log_slope = g("Neg", alpha)
        return g("Mul", g("Sub", v, mu), g("Exp", log_slope)), log_slope
    return g("Add", mu, g("Mul", v, g("Exp", alpha))), alpha


def _circle(
    g: _Graph, spline: CircularRationalQuadratic, h: str, v: str, way: str
) -> tuple[str, str]:
    """Add the spline of the circle: turned by a phase, one slope where it closes."""
    n, phase = spline.bins, g.pick(h, 3 * spline.bins)
    slopes = g("Concat", g.part(h, 2 * n, 3 * n), g.part(h, 2 * n, 2 * n + 1), axis=2)
    if way == "normalize":
        u, log_slope = _spline(g, spline, h, slopes, g.wrap(g("Sub", v, phase)), way)
        return g.wrap(u), log_slope
    x, log_slope = _spline(g, spline, h, slopes, g.wrap(v), way)
    return g.wrap(g("Add", x, phase)), log_slope


def _spline(
    g: _Graph, spline: RationalQuadratic, h: str, slopes: str, v: str, way: str
) -> tuple[str, str]:
    """Add the formulas of :mod:`afnp.univariate.rational_quadratic`, under their names.

    What the n + 1 slopes are made of comes apart from the other params. On the circle all is
    inside.
    """
    n, B, one = spline.bins, g.constant(spline.bound), g.constant(1.0)
    inside = g("And", g("Greater", v, g("Neg", B)), g("Less", v, B))
    if spline.periodic:
        inside = g("Equal", v, v)
    v_in = g("Where", inside, v, g.constant(0.0))
    x = _knots(g, spline, g.part(h, 0, n), spline.min_width)
    y = _knots(g, spline, g.part(h, n, 2 * n), spline.min_height)
    shift = g.constant(math.log(math.expm1(1 - spline.min_slope)))
    slopes = g("Add", g("Softplus", g("Add", slopes, shift)), g.constant(spline.min_slope))
    chosen = _chosen_bin(g, n, x if way == "normalize" else y, v_in)
    x0, y0, d0 = (g.only(chosen, g.part(table, 0, n)) for table in (x, y, slopes))
    x1, y1, d1 = (g.only(chosen, g.part(table, 1, n + 1)) for table in (x, y, slopes))
    w, height = g("Sub", x1, x0), g("Sub", y1, y0)
    s = g("Div", height, w)
    two = g.constant(2.0)
    if way == "normalize":
        xi = g("Div", g("Sub", v_in, x0), w)
    else:
        eta = g("Div", g("Sub", v_in, y0), height)
        rest = g("Sub", one, eta)
        q = g("Sub", g("Mul", d0, rest), g("Mul", d1, eta))
        share = g("Mul", g("Mul", g("Mul", s, s), g("Mul", eta, rest)), g.constant(4.0))
        r = g("Sqrt", g("Max", g("Add", g("Mul", q, q), share), g.constant(0.0)))
        low, twice = g("Greater", q, g.constant(0.0)), g("Mul", two, s)
        here = g("Where", low, g("Mul", twice, eta), g("Sub", r, q))
        there = g("Where", low, g("Add", q, r), g("Mul", twice, rest))
        xi = g("Div", here, g("Add", here, there))
    eta = g("Sub", one, xi)
    v_ = g("Mul", xi, eta)
    a = g("Mul", xi, g("Add", g("Mul", s, xi), g("Mul", d0, eta)))
    c = g("Mul", eta, g("Add", g("Mul", s, eta), g("Mul", d1, xi)))
    e = g("Add", g("Mul", d1, g("Mul", xi, xi)), g("Mul", d0, g("Mul", eta, eta)))
    e = g("Add", e, g("Mul", two, g("Mul", s, v_)))
    Q = g("Add", a, c)
    log_slope = g("Add", g("Mul", two, g("Log", g("Div", s, Q))), g("Log", e))
    if way == "normalize":
        moved = g("Add", y0, g("Mul", height, g("Div", a, Q)))
    else:
        moved, log_slope = g("Add", x0, g("Mul", w, xi)), g("Neg", log_slope)
    nothing = g.constant(0.0)
    return g("Where", inside, moved, v), g("Where", inside, log_slope, nothing)


def _knots(g: _Graph, spline: RationalQuadratic, h: str, least: float) -> str:
    """Add the knots (N, D, n + 1), from -B to B, of n shares."""
    n, B = spline.bins, spline.bound
    shares = g("Softmax", h, axis=2)
    widths = g("Mul", shares, g.constant(2 * B * (1 - n * least)))
    widths = g("Add", widths, g.constant(2 * B * least))
    inner = g("CumSum", g.part(widths, 0, n - 1), g.constant(np.int64(2)))
    inner = g("Sub", inner, g.constant(B))
    zero = g("Mul", g.part(h, 0, 1), g.constant(0.0))
    first, last = g("Sub", zero, g.constant(B)), g("Add", zero, g.constant(B))
    return g("Concat", first, inner, last, axis=2)


def _chosen_bin(g: _Graph, n: int, knots: str, v: str) -> str:
    """Add a row of n zeros and a one, (N, D, n): the bin that v is in."""
    wide = g("Unsqueeze", v, g.constant(np.array([2], dtype=np.int64)))
    beyond = g("GreaterOrEqual", wide, g.part(knots, 1, n))
    beyond = g("Where", beyond, g.constant(1.0), g.constant(0.0))
    one = g("Add", g("Mul", g.part(knots, 0, 1), g.constant(0.0)), g.constant(1.0))
    zero = g("Sub", one, g.constant(1.0))
    return g("Sub", g("Concat", one, beyond, axis=2), g("Concat", beyond, zero, axis=2))


# ---- graphs --------------------------------------------------------------------------------------


class _Graph:
    """Nodes, named constants, and what a flow is made of in terms of them."""

    def __init__(self, outer: _Graph | None = None):
        self.nodes: list[onnx.NodeProto] = []
        self.outer = outer
        self.constants: dict[str, onnx.TensorProto] = {} if outer is None else outer.constants
        self.counter: list[int] = [0] if outer is None else outer.counter
        self.context: str = "context" if outer is None else outer.context

    def inside(self) -> _Graph:
        """Return a graph that sees this one's values: the body of a loop."""
        return _Graph(self)

    def loop(self, trips: int, start: list[str], step: Callable[..., list[str]]) -> list[str]:
        """Add a Loop; return its last values.

        ``step(body, i, *values)`` adds what trip i does with the values (N, ...), and returns the
        next ones.
        """
        body = self.inside()
        i, going, still = (body.name(what) for what in ("i", "going", "still"))
        values = [body.name("value") for _ in start]
        after = step(body, i, *values)
        body.nodes.append(helper.make_node("Identity", [going], [still]))

        def described(names: list[str], kind: int, shape: list | None) -> list:
            return [helper.make_tensor_value_info(name, kind, shape) for name in names]

        count, yes = described([i], TensorProto.INT64, []), TensorProto.BOOL
        inputs = [*count, *described([going], yes, []), *described(values, TensorProto.FLOAT, None)]
        outputs = [*described([still], yes, []), *described(after, TensorProto.FLOAT, None)]
        loop = helper.make_graph(body.nodes, body.name("body"), inputs, outputs)
        results = [self.name("loop") for _ in start]
        entries = [self.constant(np.int64(trips)), self.constant(np.bool_(True)), *start]
        self.nodes.append(helper.make_node("Loop", entries, results, body=loop))
        return results

    def wrap(self, x: str) -> str:
        """Bring angles to [-pi, pi); those already there stay as they are."""
        pi, circle = self.constant(math.pi), self.constant(2 * math.pi)
        turned = self("Mod", self("Add", x, pi), circle, fmod=1)
        negative = self("Less", turned, self.constant(0.0))
        turned = self("Sub", self("Where", negative, self("Add", turned, circle), turned), pi)
        there = self("And", self("GreaterOrEqual", x, self("Neg", pi)), self("Less", x, pi))
        y = self("Where", there, x, turned)
        return self("Where", self("Less", y, pi), y, self("Sub", y, circle))

    def scale_context(self, flow: Flow) -> None:
        """Let networks take the context in the flow's own units, (c - m) / s."""
        if flow.context_scale is not None:
            mean, std = map(np.array, flow.config()["context_scale"])
            self.context = self("Div", self.less("context", mean), self.constant(std))

    def less(self, x: str, c: np.ndarray) -> str:
        """Subtract constants in two steps, or one far from 0 would lose the digits of x - c."""
        near = c.astype(np.float32)
        return self("Sub", self("Sub", x, self.constant(near)), self.constant(c - near))

    def name(self, what: str) -> str:
        """Return a name that is not taken."""
        self.counter[0] += 1
        return f"{what.lower()}_{self.counter[0]}"

    def __call__(
        self, op: str, *inputs: str | float, output: str | None = None, **attributes
    ) -> str:
        """Add a node; return the name of its result."""
        names = [name if isinstance(name, str) else self.constant(name) for name in inputs]
        output = output or self.name(op)
        self.nodes.append(helper.make_node(op, names, [output], **attributes))
        return output

    def constant(self, value) -> str:
        """Return the name of a constant.

        Floats in float32, integers and truth values as they are.
        """
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        key = f"{array.dtype}{array.shape}{array.tobytes()!r}" if array.size < 9 else self.name("c")
        if key not in self.constants:
            self.constants[key] = numpy_helper.from_array(array, self.name("constant"))
        return self.constants[key].name

    def columns(self, x: str, which: np.ndarray) -> str:
        """Choose columns of x."""
        return self("Gather", x, self.constant(np.asarray(which, dtype=np.int64)), axis=1)

    def pick(self, h: str, k: int) -> str:
        """Choose param k of every feature: (N, D, K) to (N, D)."""
        return self("Gather", h, self.constant(np.int64(k)), axis=2)

    def part(self, table: str, start: int, stop: int) -> str:
        """Cut a table (N, D, K) along its last axis."""
        ends = (self.constant(np.array([k], dtype=np.int64)) for k in (start, stop, 2))
        return self("Slice", table, *ends)

    def sum(self, x: str) -> str:
        """Add up the features: (N, D) to (N,)."""
        return self("ReduceSum", x, self.constant(np.array([1], dtype=np.int64)), keepdims=0)

    def only(self, chosen: str, table: str) -> str:
        """Return the entries (N, D) of a table (N, D, n) that were chosen.

        The rest is times zero.
        """
        axis = self.constant(np.array([2], dtype=np.int64))
        return self("ReduceSum", self("Mul", chosen, table), axis, keepdims=0)

    def times(self, x: str, A: np.ndarray) -> str:
        """Multiply rows by a matrix; by its diagonal where there is nothing else."""
        if (A == np.diag(np.diag(A))).all():
            return self("Mul", x, self.constant(np.diag(A)))
        return self("MatMul", x, self.constant(A))

    def points(self, angles: str, width: int) -> str:
        """Give (cos, sin) of each angle: (N, D) to (N, 2 D), the width."""
        axis = self.constant(np.array([2], dtype=np.int64))
        both = [self("Unsqueeze", self(op, angles), axis) for op in ("Cos", "Sin")]
        shape = self.constant(np.array([-1, width], dtype=np.int64))
        return self("Reshape", self("Concat", *both, axis=2), shape)

    def network(self, net: Any, p: dict, x: str, context: int) -> str:
        """Add a masked network of the context and x; return its params (N, D, K)."""
        if not isinstance(net, (MaskedMLP, MLP)):
            raise ValueError(f"cannot export the network {type(net).__name__}")
        if net.embed.width == 2:
            x = self.points(x, p[net.linears[0].W].shape[1] - context)
        z = [self("Concat", self.context, x, axis=1) if context else x]
        for linear, skip, bare in zip(net.linears, net.skips, [True, *net.bare], strict=False):
            a = z[-1] if bare else self(net.activation.capitalize(), z[-1])
            W = p[linear.W] * masks.mask(linear.prefix, p[linear.W].shape[1])
            z.append(self("Add", self("MatMul", a, self.constant(W.T)), self.constant(p[linear.b])))
            if skip:
                z[-1] = self("Add", z[-1], z[-3])
        shape = np.array([-1, net.features, net.numbers], dtype=np.int64)
        return self("Reshape", z[-1], self.constant(shape))

    def model(self, flow: Flow, name: str, entry: str, results: dict[str, list]) -> onnx.ModelProto:
        """Return a whole model with its inputs, outputs and constants."""

        def described(name: str, shape: list):
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

        inputs = [described(entry, ["N", flow.features])]
        if flow.context:
            inputs.append(described("context", ["N", flow.context]))
        outputs = [described(*result) for result in results.items()]
        constants = list(self.constants.values())
        graph = helper.make_graph(self.nodes, f"afnp_{name}", inputs, outputs, constants)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
        )
        model.producer_name = "afnp"
        onnx.checker.check_model(model)
        return model
