"""Every univariate compiled, against its NumPy definition: through flows, at knots and bounds,
and far out."""

import math

import numpy as np
import pytest
from numba import njit

from afnp.bases import UniformTorus
from afnp.compiled.compiler import EXACT
from afnp.compiled.simd import vector
from afnp.compiled.univariate.dispatch import FORMS, known
from afnp.flow import Flow
from afnp.transforms import Coupling, Inverse, masked
from afnp.univariate import UNIVARIATES

CASES = {
    "affine": {},
    "affine, exp": {"scale": "exp"},
    "affine, softplus": {"scale": "softplus"},
    "affine, sigmoid": {"scale": "sigmoid"},
    "additive": {},
    "spline": {},
    "spline, 2 bins": {"bins": 2, "bound": 1.5, "min_width": 0.1},
    "spline, 5 bins": {"bins": 5, "bound": 3.0, "min_height": 0.02, "min_slope": 0.1},
    "circular_spline": {},
    "circular_spline, 3 bins": {"bins": 3},
    "clipped_affine": {},
    "clipped_affine, 2": {"limit": 2.0},
    "clipped_spline": {},
    "clipped_spline, 3 bins": {"bins": 3, "bound": 2.0, "slope": 0.1},
    "floored_affine": {},
    "floored_affine, sigmoid": {"scale": "sigmoid", "floor": 0.1},
    "free_spline, 3 bins": {"bins": 3, "bound": 2.0, "min_slope": 0.1},
    "logistic_mixture": {},
    "logistic_mixture, 1": {"components": 1},
    "gaussian_mixture": {"components": 5},
    "gaussian_mixture, 2": {"components": 2, "bound": 3.0},
}
COMPILE_LONG = (
    *("affine,", "floored_affine,", "additive", "free_spline,"),
    *("gaussian_mixture", "clipped_affine,", "clipped_spline,"),
)
"""What shares its way through the kernels with the others,
and takes minutes to compile in all its variants."""
SLOW = pytest.mark.slow
EVERY = [
    pytest.param(case, marks=[SLOW] if case.startswith(COMPILE_LONG) else []) for case in CASES
]
SPLINES = [case for case in CASES if case.startswith("spline")]
MIXTURES = [case for case in CASES if "mixture" in case]
DTYPES = [np.float64, np.float32]
BATCHES = (1, 3, 64, 65, 131)
D = 4

LAYERS = {
    "autoregressive": lambda **kw: masked(D, (16, 16), order=[2, 0, 3, 1], **kw),
    "with context": lambda **kw: masked(D, (9,), context=2, activation="tanh", **kw),
    "coupling": lambda **kw: Coupling(D, (16, 16), **kw),
    "inverse": lambda **kw: Inverse(masked(D, (16, 16), **kw)),
}


def univariate(case):
    """The keyword arguments of a transform that choose it."""
    return {"univariate": case.split(",")[0], "options": CASES[case]}


def flow_of(layers, dtype, last=1.0):
    """A flow with parameters of gain 1, in the last layer as told, and biases that are not 0."""
    base = UniformTorus(layers[0].features) if layers[0].periodic else None
    flow = Flow(layers, context=getattr(layers[0], "context", 0), dtype=dtype, base=base)
    rng = np.random.default_rng(7)
    for layer, p in zip(flow.layers, flow.split(flow.theta), strict=True):
        layer.conditioner.initialize(p, rng, gain=1.0, last=last)
        for linear in getattr(layer, "transform", layer).conditioner.linears:
            p[linear.b][:] = 0.3 * rng.normal(size=p[linear.b].shape)
    return flow


def rows_of(flow, n, dtype):
    rng = np.random.default_rng(n)
    x = (1.5 * rng.normal(size=(n, D))).clip(-3.14, 3.14).astype(dtype)  # angles, too
    return x, (rng.normal(size=(n, flow.context)).astype(dtype) if flow.context else None)


def assert_close(got, expected, other=None):
    """Close relative to the largest entry, or to 1.

    ``other`` is what the same formulas give with other roundings: four times its distance is
    allowed too, for a flow may magnify any rounding.
    """
    assert got.dtype == expected.dtype and got.shape == expected.shape
    scale = np.abs(expected).max(initial=1.0)
    spread = 0 if other is None else np.abs(expected - other).max(initial=0.0) / scale
    atol = (1e-12 if expected.dtype == np.float64 else 1e-4) + 4 * spread
    np.testing.assert_allclose(got / scale, expected / scale, atol=atol, rtol=0)


def on_circle(case, values):
    """Angles as points of the circle: -pi is beside pi."""
    return np.stack([np.cos(values), np.sin(values)]) if "circular" in case else values


def in_float64(flow):
    twin = Flow.__new__(Flow)
    vars(twin).update(
        {k: v for k, v in vars(flow).items() if k not in ("own", "compiled_stages", "_theta")}
    )
    twin._theta = flow.theta.astype(np.float64)
    return twin


def results(flow, case, x, context, backend):
    """All that a flow computes: values and log-determinants of both directions,
    and the gradient."""
    u, log_det = flow.normalize(x, context, backend=backend)
    y, log_det_back = flow.generate(x, context, backend=backend)
    grad = flow.loss_and_grad(x, context, backend=backend)[1]
    return on_circle(case, u), log_det, on_circle(case, y), log_det_back, grad


HERE = "afnp.univariate."
NUMPY_ALONE = {"clipped_circle"}
"""What came from elsewhere and is rarely met."""


def test_every_univariate_is_compiled():
    """Of those that come with the package: a door to another library may have brought its own."""
    ours = {name for name, kind in UNIVARIATES.items() if kind.__module__.startswith(HERE)}
    assert {case.split(",")[0] for case in CASES} == ours - NUMPY_ALONE
    assert not any(known(name, UNIVARIATES[name]().config()) for name in NUMPY_ALONE)
    for case, options in CASES.items():
        name = case.split(",")[0]
        assert known(name, UNIVARIATES[name](**options).config())
    assert {scale for name, scale in FORMS if name == "affine"} == {
        "tanh",
        "exp",
        "softplus",
        "sigmoid",
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", EVERY)
@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_equals_its_numpy_rendering(kind, case, dtype):
    flow = flow_of([LAYERS[kind](**univariate(case))], dtype)
    for n in BATCHES:
        x, context = rows_of(flow, n, dtype)
        compared = [results(flow, case, x, context, backend) for backend in ("numba", "numpy")]
        if dtype == np.float32:
            wide = [None if a is None else a.astype(np.float64) for a in (x, context)]
            compared.append(results(in_float64(flow), case, *wide, "numpy"))
        for together in zip(*compared, strict=True):
            assert_close(*together)


@pytest.mark.parametrize("n", [3, 131])
@pytest.mark.parametrize("case", EVERY)
def test_a_stack_keeps_what_the_gradient_needs_of_every_layer_and_tile(case, n):
    orders = [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]]
    flow = flow_of(
        [masked(D, (16,), order=order, **univariate(case)) for order in orders],
        np.float64,
        last=0.2,
    )
    x, _ = rows_of(flow, n, np.float64)
    assert len(flow.compiled_stages) == 1
    runs = ((x, "numba"), (x, "numpy"), (x * (1 + 4e-16), "numpy"))
    for together in zip(
        *(results(flow, case, rows, None, backend) for rows, backend in runs), strict=True
    ):
        assert_close(*together)


# ---- one feature with numbers h of our choice ----------------------------------------------------


def with_numbers(case, dtype, h=None, seed=3):
    """A flow of one feature whose h is the bias of a linear conditioner; and h."""
    flow = flow_of([masked(1, (), **univariate(case))], dtype)
    K = flow.layers[0].univariate.numbers
    h = np.random.default_rng(seed).normal(size=K) if h is None else h
    flow.split(flow.theta)[0]["b0"][:] = h
    return flow, h


def softmax(a):
    return np.exp(a) / np.exp(a).sum()


def knots_of(tau, h, of_y):
    least = tau.min_height if of_y else tau.min_width
    shares = softmax(h[tau.bins : 2 * tau.bins] if of_y else h[: tau.bins])
    return tau.bound * (2 * np.cumsum([0, *(least + (1 - tau.bins * least) * shares)]) - 1)


@pytest.mark.parametrize("case", SPLINES)
def test_at_knots_and_beside_them(case):
    flow, h = with_numbers(case, np.float64)
    for of_y, method in enumerate((flow.normalize, flow.generate)):
        knots = knots_of(flow.layers[0].univariate, h, of_y)
        points = np.concatenate([knots, np.nextafter(knots, -9), np.nextafter(knots, 9)])[:, None]
        for got, expected in zip(
            method(points, backend="numba"), method(points, backend="numpy"), strict=True
        ):
            assert_close(got, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bound", [0.1, 1.0, 3.0, 4.0, 7.3])
def test_a_spline_leaves_bounds_and_tails_to_the_last_bit(bound, dtype):
    layer = masked(1, (), univariate="spline", options={"bound": bound})
    flow = flow_of([layer], dtype)
    B = dtype(bound)
    points = np.array(
        [B, -B, np.nextafter(B, dtype(99)), -1.5 * B, 50, -50, 1e30, -1e30] * 9, dtype=dtype
    )[:, None]
    for method in (flow.normalize, flow.generate):
        values, log_det = method(points, backend="numba")
        assert np.array_equal(values, points) and not log_det.any()
    within = np.nextafter(np.array([[B], [-B]]), dtype(0))
    for method in (flow.normalize, flow.generate):
        assert np.abs(method(within, backend="numba")[0]).max() <= B * (1 + np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_angles_may_be_turned_and_come_out_in_the_circle(dtype):
    flow, h = with_numbers("circular_spline", dtype)
    x = np.linspace(-3.1, 3.1, 70).astype(dtype)[:, None]
    for method in (flow.normalize, flow.generate):
        expected, log_det = method(x, backend="numpy")
        for turns in (
            -3,
            -1,
            0,
            1,
            5,
        ):  # which only the phase may do: from outside, angles come unturned
            flow.split(flow.theta)[0]["b0"][-1] = h[-1] + 2 * math.pi * turns
            got, got_log_det = method(x, backend="numba")
            atol = 300 * np.finfo(dtype).eps  # a turn is rounded, and slopes here are below 10
            np.testing.assert_allclose(
                on_circle("circular", got), on_circle("circular", expected), atol=atol
            )
            np.testing.assert_allclose(got_log_det, log_det, atol=10 * atol)
            assert (got >= dtype(-math.pi)).all() and (got < dtype(math.pi)).all()


@pytest.mark.parametrize("case", SPLINES + MIXTURES)
def test_gradients_inside_at_the_bound_and_in_the_tails(case):
    flow, _ = with_numbers(case, np.float64)
    x = np.array([-50, -4.0, -3.9, -1.0, 0.01, 0.7, 2.0, 4.0, 5.0, 50])[:, None]
    (loss, got), (expected_loss, expected) = (
        flow.loss_and_grad(x, backend=b) for b in ("numba", "numpy")
    )
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    assert_close(got, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bins", range(2, 8))
def test_a_bin_that_takes_all_has_gradient_zero(bins, dtype):
    """p (1 - p) of a share of 1: what rounds there is multiplied by all that the network holds."""
    layer = masked(1, (), univariate="spline", options={"bins": bins})
    flow, n = flow_of([layer], dtype), bins
    widths, heights = 200.0 * np.eye(n)[[0, 1]]
    flow.split(flow.theta)[0]["b0"][:] = np.concatenate([widths, heights, np.arange(n - 1.0)])
    x = np.linspace(-3.9, 3.9, 100).astype(dtype)[:, None]
    loss, gradient = flow.loss_and_grad(x, backend="numba")
    assert loss == pytest.approx(flow.loss_and_grad(x, backend="numpy")[0], rel=1e-5)
    d_h = np.abs(flow.split(gradient)[0]["b0"])
    assert d_h[: 2 * n].max() < 1e-30 < d_h[2 * n :].max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", MIXTURES)
def test_mixtures_far_out(case, dtype):
    """Where log T is -u²/2, far larger than the log-derivative, which is none the worse for it."""
    flow, _ = with_numbers(case, dtype)
    points = np.concatenate([s * np.array([0.0, 1e-8, 1, 9, 38, 300, 4000]) for s in (-1, 1)])[
        :, None
    ]
    points, eps, twin = points.astype(dtype), np.finfo(dtype).eps, in_float64(flow)
    for name in ("normalize", "generate"):
        got = getattr(flow, name)(points, backend="numba")
        expected = getattr(twin, name)(points.astype(np.float64), backend="numpy")
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=100 * eps, atol=100 * eps)
    x = points[np.abs(points[:, 0]) < 1000]
    expected = twin.loss_and_grad(x.astype(np.float64), backend="numpy")[1]
    assert_close(flow.loss_and_grad(x, backend="numba")[1], expected.astype(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [2, 70])
@pytest.mark.parametrize(
    "case", [pytest.param("gaussian_mixture, 2", marks=SLOW), "logistic_mixture"]
)
def test_a_root_that_cannot_be_found_is_refused(case, n, dtype):
    C, largest = UNIVARIATES[case.split(",")[0]](**CASES[case]).components, np.finfo(dtype).max
    for means, u in (
        ([largest, -largest], 1.0),
        ([largest, largest], largest),
    ):  # a bracket without a width, or ends
        h = np.zeros(3 * C)
        h[C : C + 2] = means
        flow, _ = with_numbers(case, dtype, h)
        with pytest.raises(FloatingPointError, match="row 0"):
            flow.generate(np.full((n, 1), u), backend="numba")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", EVERY)
def test_what_is_not_a_number_is_refused(case, dtype):
    flow, _ = with_numbers(case, dtype)
    flow.theta[:] = np.nan
    for n in (1, 70):
        for method in (flow.normalize, flow.generate, flow.log_prob):
            with pytest.raises(FloatingPointError):
                method(np.full((n, 1), 0.3), backend="numba")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "scale", ["exp", *(pytest.param(s, marks=SLOW) for s in ("softplus", "sigmoid"))]
)
def test_scales_from_nothing_to_overflow(scale, dtype):
    case = f"affine, {scale}"
    for a in (-800.0, -100.0, -50.0, -37.5, -20.0, 0.0, 20.0, 60.0, 100.0, 800.0):
        flow, _ = with_numbers(case, dtype, np.array([0.0, a]))
        x = np.linspace(-2, 2, 70).astype(dtype)[
            :, None
        ]  # without 0, as 0 times infinity is not a number
        for method in (flow.normalize, flow.generate):
            with np.errstate(all="ignore"):
                (got, got_log), (expected, log_det) = (
                    method(x, backend=b) for b in ("numba", "numpy")
                )
            rtol = 1e-12 if dtype == np.float64 else 3e-5  # of e^a: a's own rounding, a times eps
            tiny = np.finfo(dtype).tiny  # below the normal range digits are lost
            np.testing.assert_allclose(got, expected, rtol=rtol, atol=4 * tiny)
            np.testing.assert_allclose(got_log, log_det, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("case", EVERY)
def test_rows_do_not_influence_each_other(case):
    flow = flow_of([LAYERS["autoregressive"](**univariate(case))], np.float64)
    x, _ = rows_of(flow, 70, np.float64)
    others = x.copy()
    others[1:] *= -0.9
    for method in (flow.normalize, flow.generate):
        first, second = (method(rows, backend="numba") for rows in (x, others))
        assert all(np.array_equal(a[0], b[0]) for a, b in zip(first, second, strict=True))


# ---- functions of vectors ------------------------------------------------------------------------


@njit(error_model="numpy", fastmath=EXACT)
def _apply(which, x, y):
    for n in range(0, x.size, vector.width_of(x)):
        v = vector.load(x, 0, n)
        if which == 0:
            v = vector.exp(v)
        elif which == 1:
            v = vector.log(v)
        elif which == 2:
            v = vector.log1p(v)
        elif which == 3:
            v = vector.softplus(v)[0]
        else:
            v = vector.softplus(v)[1]
        vector.store(y, 0, n, v)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


FUNCTIONS = {
    "exp": (np.exp, -80, 80),
    "log": (lambda x: np.log(x), 1e-9, 1e9),
    "log1p": (np.log1p, -0.5, 1),
    "softplus": (lambda z: np.logaddexp(z, 0), -60, 60),
    "sigmoid": (sigmoid, -60, 60),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_vectors_are_good_to_a_few_units_in_the_last_place(name, dtype):
    function, low, high = FUNCTIONS[name]
    n = 200 * vector.width(dtype)
    spread = np.geomspace if name == "log" else np.linspace
    x = spread(low, high, n).astype(dtype)
    y = np.empty_like(x)
    _apply(list(FUNCTIONS).index(name), x, y)
    truth = function(x.astype(np.longdouble))
    assert (np.abs(y - truth) <= 4 * np.finfo(dtype).eps * np.abs(truth)).all()
    x[::3], y[:] = np.nan, 0
    _apply(list(FUNCTIONS).index(name), x, y)
    assert np.array_equal(np.isnan(y), np.isnan(x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_functions_of_vectors_at_the_ends(dtype):
    x = np.tile(np.array([-np.inf, np.inf, -1000, 1000], dtype=dtype), vector.width(dtype) // 4)
    exp, soft = np.empty_like(x), np.empty_like(x)
    _apply(0, x, exp)
    _apply(3, x, soft)
    huge = 80 if dtype == np.float32 else 700  # clipped, not beyond
    assert (
        (exp[::2] < np.exp(-huge)).all()
        and (exp[1::2] > dtype(np.exp(huge))).all()
        and np.isfinite(exp).all()
    )
    assert (soft[::2] < 1e-30).all() and np.isinf(soft[1]) and soft[3] == 1000
