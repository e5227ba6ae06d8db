"""Univariates: each is a bijection whose inverse, derivative and gradients are what they say."""

import json
import math

import numpy as np
import pytest
from conftest import complex_step
from hypothesis import given, settings
from hypothesis import strategies as st

from afnp.transforms.autoregressive import univariate_of
from afnp.univariate import (
    UNIVARIATES,
    Additive,
    Affine,
    CircularRationalQuadratic,
    ClippedAffine,
    ClippedSpline,
    FlooredAffine,
    FreeSpline,
    GaussianMixture,
    LogisticMixture,
    RationalQuadratic,
)

AFFINES = [
    Affine(),
    Affine(bound=0.5),
    Affine(bound=50.0),
    *(Affine(scale=s) for s in ("exp", "softplus", "sigmoid")),
]
FLOORED = [FlooredAffine(), FlooredAffine("sigmoid", 0.1)]
SPLINES = [
    RationalQuadratic(),
    RationalQuadratic(bins=2, bound=1.0),
    RationalQuadratic(16, 10.0, 1e-4, 1e-4, 1e-4),
]
FREE = [FreeSpline(3, 2.0)]
CIRCLES = [CircularRationalQuadratic(), CircularRationalQuadratic(bins=2)]
MIXTURES = [
    kind(components) for kind in (LogisticMixture, GaussianMixture) for components in (1, 2, 8)
]
CLIPPED = [ClippedAffine(), ClippedAffine(limit=2.0), ClippedSpline(), ClippedSpline(3, 2.0, 0.1)]
CASES = [*AFFINES, *FLOORED, *FREE, Additive(), *SPLINES, *CIRCLES, *MIXTURES, *CLIPPED]
EPS = {np.float64: 2.3e-16, np.float32: 1.2e-7}


def ids(case):
    return f"{type(case).__name__}{list(case.config().values())}"


def over(cases):
    return pytest.mark.parametrize("tau", cases, ids=ids)


@pytest.fixture(params=CASES, ids=ids)
def tau(request):
    return request.param


def numbers(tau, shape=(4, 3), size=2.0, seed=0):
    """Conditioner's numbers h, data x in the support, and gradients d_u and d_log,
    of any leading shape."""
    rng = np.random.default_rng(seed)
    h = size * rng.standard_normal((*shape, tau.numbers))
    x, d_u, d_log = (2 * rng.standard_normal(shape) for _ in range(3))
    return h, x if math.isinf(tau.support[1]) else rng.uniform(*tau.support, shape), d_u, d_log


def apart(tau, a, b):
    """Distance of two results: on the circle, the shorter way round."""
    return np.abs(np.remainder(a - b + np.pi, 2 * np.pi) - np.pi) if tau.periodic else np.abs(a - b)


def slack(x, log_derivative, dtype=np.float64):
    """How far x may come back from a round trip: what 100 roundings of u or of x move it by,
    at this slope."""
    return 100 * EPS[dtype] * (1 + np.abs(x)) * (1 + np.exp(np.minimum(-log_derivative, 80)))


# Both directions


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (0,), (2, 0, 3)])
def test_generate_inverts_normalize_for_any_leading_shape(tau, shape):
    h, x, *_ = numbers(tau, shape, size=1.0)
    u, log_du, _ = tau.normalize(h, x)
    back, log_dx = tau.generate(h, u)
    assert np.shape(u) == np.shape(log_du) == np.shape(back) == np.shape(log_dx) == shape
    assert (apart(tau, back, x) <= slack(x, log_du)).all()


@pytest.mark.parametrize("size", [0.0, 1.0, 3.0])
def test_normalize_inverts_generate(tau, size):
    """The better conditioned way where a mixture is flat: any x of the flat piece is right."""
    h, u, *_ = numbers(tau, (300,), size)
    x, log_dx = tau.generate(h, u)
    again, log_du, _ = tau.normalize(h, x)
    assert (apart(tau, again, u) <= slack(u, log_dx)).all()
    steep = log_dx < 20  # beyond, the derivative at a place known to rounding says nothing
    np.testing.assert_allclose(log_dx[steep], -log_du[steep], rtol=1e-9, atol=1e-9)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_round_trip_of_any_numbers(data):
    tau = data.draw(st.sampled_from(CASES))
    real = st.floats(-5, 5)
    h = np.array(data.draw(st.lists(real, min_size=tau.numbers, max_size=tau.numbers)))
    u = np.array(data.draw(st.floats(-np.pi, np.pi) if tau.periodic else st.floats(-100, 100)))
    x, log_dx = tau.generate(h, u)
    assert np.isfinite(x) and np.isfinite(log_dx)
    assert apart(tau, tau.normalize(h, x)[0], u) <= slack(u, log_dx) + slack(x, log_dx) * np.exp(
        -log_dx
    )


@pytest.mark.parametrize("size", [0.0, 1.0, 3.0])
def test_log_derivatives_are_logs_of_the_derivatives(tau, size):
    h, x, *_ = numbers(tau, shape=(40,), size=size)
    u, log_du, _ = tau.normalize(h, x)
    steep = log_du > -20
    du = np.diag(complex_step(lambda x: tau.normalize(h, x)[0], x))
    np.testing.assert_allclose(log_du[steep], np.log(du[steep]), rtol=1e-9, atol=1e-9)
    dx = np.diag(complex_step(lambda u: tau.generate(h[steep], u)[0], u[steep]))
    np.testing.assert_allclose(
        tau.generate(h[steep], u[steep])[1], np.log(dx), rtol=1e-9, atol=1e-9
    )


def test_the_sampler_follows_its_parameters_in_complex_steps(tau):
    """u(h, x(h, u)) = u at every h, so dx/dh = -(du/dh) / (du/dx)."""
    h, u, *_ = numbers(tau, shape=(), size=1.0)
    x, log_dx = tau.generate(h, u)
    du = complex_step(lambda h: tau.normalize(h, x)[0], h)
    dx = complex_step(lambda h: tau.generate(h, u)[0], h)
    np.testing.assert_allclose(dx, -du * np.exp(log_dx), rtol=1e-9, atol=1e-12)


# Gradients


PATHS = pytest.mark.parametrize("paths", ["value", "log-derivative"])
"""Gradients are linear in both, so that each alone says everything."""


def gradients_and_truth(tau, h, x, d_u, d_log):
    """Hand-written d_h and d_x of the points, and the same by complex steps,
    one number of h at a time."""

    def loss(h, x):
        u, log_derivative, _ = tau.normalize(h, x)
        return d_u * u + d_log * log_derivative

    by_h = [np.imag(loss(h + 1e-30j * e, x)) / 1e-30 for e in np.eye(tau.numbers)]
    by_x = np.imag(loss(h, x + 1e-30j)) / 1e-30
    return tau.backward(tau.normalize(h, x)[2], d_u, d_log), (np.stack(by_h, axis=-1), by_x)


def on_path(paths, d_u, d_log):
    return (d_u, 0 * d_log) if paths == "value" else (0 * d_u, d_log)


@over([*AFFINES, Additive()])
@PATHS
@pytest.mark.parametrize("size", [0.3, 2.0, 8.0])
def test_gradients_of_affine_univariates(tau, paths, size):
    """Entry by entry: each is one product, nothing is summed;
    1e-14 where 1 - tanh^2 itself has cancelled."""
    h, x, d_u, d_log = numbers(tau, size=size)
    d_u, d_log = on_path(paths, d_u, d_log)
    (d_h, d_x), (true_h, true_x) = gradients_and_truth(tau, h, x, d_u, d_log)
    np.testing.assert_allclose(d_h, true_h, rtol=1e-10, atol=1e-14 * np.abs(true_h).max())
    np.testing.assert_allclose(d_x, true_x, rtol=1e-10)


def edge_points(tau, n, rng):
    """Where formulas change: both ends, just inside, the middle, the knots of equal bins,
    and far tails."""
    B, bins = getattr(tau, "bound", 3.0), getattr(tau, "bins", 4)
    edges = np.concatenate(
        [np.linspace(-B, B, bins + 1), [np.nextafter(B, 0), -np.nextafter(B, 0), 0.0]]
    )
    tails = np.array([]) if tau.periodic else np.array([-50.0, -20.0, -5.0, 5.0, 20.0, 50.0])
    return rng.choice(np.concatenate([edges, tails]), n)


@PATHS
@pytest.mark.parametrize("size", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("where", ["inside", "edges"])
def test_gradients(tau, paths, size, where):
    """To 1e-9 of the point's largest entry; towards ±B some gradients of a spline vanish,
    hence 1e-11."""
    h, x, d_u, d_log = numbers(tau, (60,), size)
    if where == "edges":
        x = edge_points(tau, 60, np.random.default_rng(1))
        h[::2] *= np.arange(tau.numbers) >= 2 * getattr(
            tau, "bins", 0
        )  # every other spline has equal bins
    d_u, d_log = on_path(paths, d_u, d_log)
    (d_h, d_x), (true_h, true_x) = gradients_and_truth(tau, h, x, d_u, d_log)
    largest = np.abs(true_h).max(axis=-1, keepdims=True)
    assert (np.abs(d_h - true_h) <= 1e-9 * largest + 1e-11).all()
    np.testing.assert_allclose(d_x, true_x, rtol=1e-9, atol=1e-11)


def test_one_gradient_of_the_log_determinant_serves_a_whole_row(tau):
    """A flow gives d_log once a row, (N, 1), as all its log-derivatives are summed."""
    h, x, d_u, d_log = numbers(tau)
    cache = tau.normalize(h, x)[2]
    for once, each in zip(
        tau.backward(cache, d_u, d_log[:, :1]),
        tau.backward(cache, d_u, d_log[:, :1] + 0 * d_u),
        strict=True,
    ):
        np.testing.assert_array_equal(once, each)


# Types, tails, order


def test_float32_stays_and_agrees(tau):
    """Numbers with few digits: both types read the same ones.
    Gradients of a log-derivative are the steepest."""
    h, x, d_u, d_log = (np.round(8 * a / 3) / 16 for a in numbers(tau, (200,), size=1.0))
    results = []
    for dtype in (np.float64, np.float32):
        H, X, D_u, D_log = (a.astype(dtype) for a in (h, x, d_u, d_log))
        u, log_du, cache = tau.normalize(H, X)
        back, log_dx = tau.generate(H, X)
        results.append([u, back, log_du, log_dx, *tau.backward(cache, D_u, D_log)])
        assert all(r.dtype == dtype for r in results[-1])
    for tolerance, double, single in zip([1e-5, *[1e-4] * 3, *[1e-3] * 2], *results, strict=True):
        np.testing.assert_allclose(single, double, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("size", [0.0, 1.0])
def test_float32_round_trip(tau, size):
    """At most 1e-4, unless one rounding of u in float32 moves even an exact x by more:
    where du/dx is small."""
    h, x, *_ = (a.astype(np.float32) for a in numbers(tau, (20_000,), size))
    u, log_du, _ = tau.normalize(h, x)
    error, steep = apart(tau, tau.generate(h, u)[0], x), log_du > -5
    allowed = np.maximum(1e-4, 20 / 100 * slack(x, log_du, np.float32))
    assert (error <= allowed)[steep].all() and steep.mean() > 0.8
    again, log_dx = tau.generate(h, x)
    error = apart(tau, tau.normalize(h, again)[0], x)
    assert (error <= np.maximum(1e-4, 20 / 100 * slack(x, log_dx, np.float32))).all()


@pytest.mark.parametrize("size", [0.0, 1.0, 3.0, 30.0])
def test_increasing_and_finite_far_out(tau, size):
    """Also the gradients: the branch that is not taken must leave no NaN (as in flowjax #239)."""
    x = np.linspace(*(tau.support if tau.periodic else (-50, 50)), 4001)[:-1]
    x = x if tau.periodic else np.concatenate([[-1e6, -1e3], x, [1e3, 1e6]])
    for h in numbers(tau, (5,), size)[0]:
        h[-1] *= not tau.periodic  # a phase would only turn the circle
        H = np.broadcast_to(h, (*x.shape, tau.numbers))
        u, log_du, cache = tau.normalize(H, x)
        d_h, d_x = tau.backward(cache, np.ones_like(x), np.ones_like(x))
        assert all(np.isfinite(a).all() for a in (u, log_du, d_h, d_x))
        rise = np.exp(np.minimum(log_du[1:], log_du[:-1])) * np.diff(x)
        seen = rise > 1e-11 * (1 + np.abs(u[1:]))  # less is lost in the rounding of u
        assert (np.diff(u)[seen] > 0).all() and (np.diff(u) >= -1e-12 * (1 + np.abs(u[1:]))).all()


@over([*AFFINES[:-1], Additive(), *SPLINES, *CIRCLES, *(t for t in MIXTURES if t.components == 1)])
def test_zero_is_the_identity(tau):
    """But for IAF's gate, which starts at sigmoid(2), and mixtures,
    whose components start apart."""
    x = numbers(tau, (1000,))[1]
    u, log_du, _ = tau.normalize(np.zeros((1000, tau.numbers)), x)
    np.testing.assert_allclose(u, x, rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(log_du, 0, atol=1e-13)


# Affine


@over(AFFINES)
def test_affine_is_its_formula(tau):
    h, x, *_ = numbers(tau)
    m, a, B = h[..., 0], h[..., 1], tau.bound
    sigma = 1 / (1 + np.exp(-a - 2))
    mu, scale = {
        "tanh": (m, np.exp(B * np.tanh(a / B))),
        "exp": (m, np.exp(a)),
        "softplus": (m, np.log(1 + np.exp(a + np.log(np.e - 1)))),
        "sigmoid": ((1 - sigma) * m, sigma),
    }[tau.scale]
    u, log_derivative, _ = tau.normalize(h, x)
    np.testing.assert_allclose(u, (x - mu) / scale, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(log_derivative, -np.log(scale), rtol=1e-12, atol=1e-13)


@over(AFFINES)
def test_the_log_scale_is_the_same_number_in_both_directions(tau):
    h, x, *_ = numbers(tau)
    np.testing.assert_array_equal(tau.generate(h, x)[1], -tau.normalize(h, x)[1])


@over(AFFINES[:3])
def test_a_bounded_scale_is_finite_at_any_number(tau):
    x = np.linspace(-1e6, 1e6, 1001)
    for a in (-1e30, -5.0, 0.0, 5.0, 1e30):
        h = np.stack([np.ones_like(x), np.full_like(x, a)], axis=-1)
        u, log_du, _ = tau.normalize(h, x)
        assert (np.diff(u) > 0).all() and np.isfinite(u).all()
        assert (np.abs(log_du) <= tau.bound).all()


def test_an_unbounded_scale_that_overflows_says_so():
    h, x = np.array([0.0, -1000.0]), np.array(1.0)
    with pytest.warns(RuntimeWarning, match="overflow"):
        assert np.isinf(Affine(scale="exp").normalize(h, x)[0])


@pytest.mark.parametrize("a", [-800.0, -38.0, -37.0, -36.0, -21.0, 0.0, 800.0])
def test_softplus_and_sigmoid_scales_keep_their_tails(a):
    """log softplus(z) is z far left and log z far right; log sigmoid(z) is z and 0."""
    h, zero = np.array([0.0, a]), np.array(0.0)
    z = a + math.log(math.e - 1)
    left, right = z - math.exp(min(z, 0)) / 2, math.log(abs(z))
    assert Affine(scale="softplus").generate(h, zero)[1] == pytest.approx(
        left if a < 0 else right if a else 0, abs=1e-12
    )
    assert Affine(scale="sigmoid").generate(h, zero)[1] == pytest.approx(
        -math.log1p(math.exp(-2)) if not a else min(a + 2, 0)
    )


def test_the_clip_is_the_identity_near_zero_and_monotone():
    a = np.linspace(-30, 30, 2001)
    alpha = -Affine().normalize(np.stack([0 * a, a], axis=-1), 0 * a)[1]
    assert (np.diff(alpha) > 0).all() and (np.abs(alpha) < 7).all()
    near = np.abs(a) < 0.1
    np.testing.assert_allclose(alpha[near], a[near], atol=0.1**3 / 7**2)


# The registry, and numbers that make no sense


def test_the_registry_rebuilds_what_it_names(tau):
    name = next(k for k, v in UNIVARIATES.items() if v is type(tau))
    config = json.loads(json.dumps(tau.config()))
    again = UNIVARIATES[name](**config)
    assert again.config() == tau.config() and again.numbers == tau.numbers
    h, x, *_ = numbers(tau)
    np.testing.assert_array_equal(again.normalize(h, x)[0], tau.normalize(h, x)[0])


def test_options_that_a_class_of_ones_own_hands_on_are_its_own(monkeypatch):
    class Mine(Affine):
        def __init__(self, more=1.0, **others):
            super().__init__(**others)
            self.more = more

    monkeypatch.setitem(UNIVARIATES, "mine", Mine)
    tau = univariate_of("mine", {"more": 2.0, "bound": 3.0})
    assert tau.more == 2.0 and tau.config()["bound"] == 3.0


def test_how_many_numbers_each_takes():
    """Of those that come with the package: others may have registered theirs."""
    expected = {
        "affine": 2,
        "additive": 1,
        "spline": 3 * 8 - 1,
        "circular_spline": 3 * 8 + 1,
        "logistic_mixture": 3 * 8,
        "gaussian_mixture": 3 * 8,
        "clipped_affine": 2,
        "clipped_spline": 3 * 8 - 1,
    }
    assert {name: UNIVARIATES[name]().numbers for name in expected} == expected


BAD = [
    *(
        (Affine, dict(bound=b), r"^bound: expected a number in \(0, 80\], got")
        for b in (0, -1.0, np.inf, np.nan)
    ),
    (
        Affine,
        dict(scale="cubic"),
        "^scale: expected one of 'tanh', 'exp', 'softplus', 'sigmoid', got 'cubic'$",
    ),
    (RationalQuadratic, dict(bins=1), "^bins: expected an integer of at least 2, got 1$"),
    (RationalQuadratic, dict(bins=2.5), "^bins: expected an integer, got 2.5$"),
    *(
        (RationalQuadratic, dict(bound=b), "^bound: expected a number in \\(0, 1e\\+30\\), got")
        for b in (0, -3, np.inf, np.nan)
    ),
    (
        RationalQuadratic,
        dict(bins=4, min_width=0.25),
        r"^bins: expected bins \* min_width < 1, got 4 \* 0.25",
    ),
    (
        RationalQuadratic,
        dict(min_height=0),
        r"^min_height: expected a number in \(0, 0.5\), got 0$",
    ),
    (RationalQuadratic, dict(min_height=np.nan), "^min_height: expected"),
    *(
        (RationalQuadratic, dict(min_slope=m), r"^min_slope: expected a number in \(0, 1\), got")
        for m in (0, 1, np.nan)
    ),
    (CircularRationalQuadratic, dict(bins=0), "^bins: expected an integer of at least 2, got 0$"),
    (CircularRationalQuadratic, dict(min_width=1.0), "^min_width: expected"),
    *(
        (m, dict(components=0), "^components: expected an integer of at least 1, got 0$")
        for m in map(type, MIXTURES[::3])
    ),
    *(
        (m, dict(bound=b), r"^bound: expected a number in \(0, 40\], got")
        for m in map(type, MIXTURES[::3])
        for b in (0, 41)
    ),
]


@pytest.mark.parametrize("kind, options, message", BAD)
def test_numbers_that_make_no_sense_are_refused(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**options)
