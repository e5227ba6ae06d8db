"""Base distributions: exact densities with the right gradients, and samples that follow them."""

import json
import math

import numpy as np
import pytest
from conftest import complex_step, norm_error

import afnp
from afnp.bases import (
    BASES,
    Base,
    Logistic,
    StandardNormal,
    StudentT,
    UniformTorus,
)
from afnp.flow import Flow
from afnp.transforms import LULinear
from afnp.transforms.preprocess import Standardize
from afnp.univariate.stable import logsumexp

CASES = {
    "normal": lambda D: StandardNormal(D),
    "logistic": lambda D: Logistic(D),
    "torus": lambda D: UniformTorus(D),
    "t": lambda D: StudentT(D),
    "cauchy": lambda D: StudentT(D, df=1.0),
    "nearly normal": lambda D: StudentT(D, df=1e6),
}

GRADIENT = 1e-12
"""Complex steps are exact to rounding, and the sums here have few terms."""


def parameters(base, seed=0, dtype=np.float64):
    """Random parameters of size one."""
    theta = np.random.default_rng([seed, 1]).standard_normal(base.layout.size).astype(dtype)
    return theta, base.layout.views(theta)


def density(base, p, u):
    return np.exp(base.log_prob(p, u))


# Densities


def mesh(name, n):
    """Points u and weights for trapezoids: on the circle, or in u = sinh t, for tails."""
    if name == "torus":
        u, step = np.linspace(-math.pi, math.pi, n, endpoint=False, retstep=True)
        return u, np.full(n, step)
    t, step = np.linspace(-40.0, 40.0, n, retstep=True)
    return np.sinh(t), step * np.cosh(t)


@pytest.mark.parametrize("name", CASES)
def test_a_density_integrates_to_one_in_one_dimension(name):
    """Trapezoids are exact to rounding for what is smooth and falls to zero."""
    base, (u, weights) = CASES[name](1), mesh(name, 20_001)
    total = weights @ density(base, parameters(base)[1], u[:, None])
    assert total == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_a_density_integrates_to_one_in_two_dimensions(name):
    base, (u, weights) = CASES[name](2), mesh(name, 901)
    grid = np.stack(np.meshgrid(u, u), axis=-1).reshape(-1, 2)
    total = np.outer(weights, weights).ravel() @ density(base, parameters(base)[1], grid)
    assert total == pytest.approx(1, abs=1e-10)


def test_closed_forms():
    u = np.array([[0.3, -1.2], [2.0, 0.5]])
    normal = [-0.5 * (a * a + b * b) - math.log(2 * math.pi) for a, b in u]
    logistic = [sum(math.log(0.25 / math.cosh(v / 2) ** 2) for v in row) for row in u]
    np.testing.assert_allclose(StandardNormal(2).log_prob({}, u), normal, rtol=1e-14)
    np.testing.assert_allclose(Logistic(2).log_prob({}, u), logistic, rtol=1e-14)
    np.testing.assert_allclose(
        UniformTorus(2).log_prob({}, u), [-2 * math.log(2 * math.pi)] * 2, rtol=1e-15
    )

    cauchy = [sum(-math.log(math.pi * (1 + v * v)) for v in row) for row in u]
    np.testing.assert_allclose(StudentT(2, df=1.0).log_prob({}, u), cauchy, rtol=1e-14)
    two = [sum(-1.5 * math.log(2 + v * v) for v in row) for row in u]
    np.testing.assert_allclose(StudentT(2, df=2).log_prob({}, u), two, rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_t_is_finite_for_every_float_and_nearly_normal_for_many_degrees_of_freedom(dtype):
    largest = np.finfo(dtype).max
    u = np.array([[-largest], [1e30], [largest]], dtype=dtype)
    base = StudentT(1, df=0.5)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        got = base.log_prob({}, u)
        slope = base.backward({}, u, np.ones(3, dtype), {})
    assert got.dtype == slope.dtype == dtype and np.isfinite(got).all() and np.isfinite(slope).all()
    constant = math.lgamma(0.75) - math.lgamma(0.25) - 0.5 * math.log(0.5 * math.pi)
    tail = constant - 0.75 * (2 * np.log(np.abs(u[:, 0].astype(np.float64))) - math.log(0.5))
    np.testing.assert_allclose(got, tail, rtol=1e-6 if dtype == np.float32 else 1e-14)
    near = np.linspace(-3, 3, 7)[:, None]
    np.testing.assert_allclose(
        StudentT(1, df=1e9).log_prob({}, near), StandardNormal(1).log_prob({}, near), rtol=1e-6
    )


@pytest.mark.parametrize("df", [1e12, 1e16, 1e308])
def test_student_t_of_very_many_degrees_of_freedom_is_normal(df):
    """A difference of logarithms, times df, once cost 2e-3 nats at 1e12, and all at 1e308."""
    u = np.linspace(-6, 6, 25)[:, None]
    normal = StandardNormal(1).log_prob({}, u)
    np.testing.assert_allclose(StudentT(1, df).log_prob({}, u), normal, rtol=1e-9)


@pytest.mark.parametrize("name", ["normal", "logistic", "t", "cauchy"])
def test_far_tails_are_finite_and_fall(name):
    base = CASES[name](1)
    for sign in (-1, 1):
        far = base.log_prob(parameters(base)[1], sign * np.array([[50.0], [800.0], [1e6], [1e150]]))
        assert np.isfinite(far).all() and (np.diff(far) < 0).all()
    assert Logistic(1).log_prob({}, np.array([[1e150]])) == -1e150


def test_beyond_the_largest_square_the_density_is_zero_not_nan():
    with np.errstate(over="ignore"):
        assert StandardNormal(1).log_prob({}, np.array([[1e200]])) == -np.inf


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_torus_ends_at_pi(dtype):
    base, pi = UniformTorus(2), dtype(math.pi)
    below = np.nextafter(pi, dtype(0))
    u = np.array(
        [[0, -pi], [0, below], [0, pi], [-np.nextafter(pi, dtype(4)), 0], [7, 7]], dtype=dtype
    )
    got = base.log_prob({}, u)
    assert got.dtype == dtype
    assert (
        np.isfinite(got).tolist() == [True, True, True, False, False] and (got[3:] == -np.inf).all()
    )


def test_logsumexp_is_the_sum_and_never_nan():
    a = np.array([[0.0, 1.0, -2.0], [-1e4, -1e4 + 1, -np.inf], [-np.inf] * 3, [1e4, 0.0, 0.0]])
    got = logsumexp(a)
    assert got[0] == pytest.approx(math.log(1 + math.e + math.exp(-2)), rel=1e-15)
    assert got[1] == pytest.approx(-1e4 + math.log(1 + math.e), rel=1e-15)
    assert got[2] == -np.inf and got[3] == 1e4
    np.testing.assert_array_equal(logsumexp(a.T, axis=0), got)


# Gradients


@pytest.mark.parametrize("D", [1, 2, 5])
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_the_derivatives(name, D):
    base, rng = CASES[name](D), np.random.default_rng(D)
    theta, p = parameters(base)
    u, c = rng.uniform(-3, 3, size=(4, D)), rng.standard_normal(4)
    grad = np.zeros_like(theta)
    d_u = base.backward(p, u, c, base.layout.views(grad))
    assert norm_error(d_u, complex_step(lambda u: (c * base.log_prob(p, u)).sum(), u)) < GRADIENT
    if theta.size:
        truth = complex_step(lambda t: (c * base.log_prob(base.layout.views(t), u)).sum(), theta)
        for name, g in base.layout.views(grad).items():
            assert norm_error(g, base.layout.views(truth)[name]) < GRADIENT, name


# Samples


def cdf(name, base, p, u):
    """Distribution function of one-dimensional u, from the density: trapezoids from the far end."""
    points, weights = mesh(name, 120_001)
    f = weights * density(base, p, points[:, None])
    F = np.cumsum(f) - f / 2
    return np.interp(np.arcsinh(u), np.arcsinh(points), F)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CASES)
def test_samples_follow_the_density(name, dtype):
    """Kolmogorov-Smirnov: the largest gap of 20,000 draws exceeds 1.95 / sqrt(n) once in a
    thousand."""
    base, n = CASES[name](1), 20_000
    theta, p = parameters(base)
    p_sample = base.layout.views(theta.astype(dtype))
    u = base.sample(p_sample, n, np.random.default_rng(5), dtype)
    assert u.shape == (n, 1) and u.dtype == dtype
    F = np.sort(cdf(name, base, p, u[:, 0].astype(np.float64)))
    gap = max((np.arange(1, n + 1) / n - F).max(), (F - np.arange(n) / n).max())
    assert gap < 1.95 / math.sqrt(n)


@pytest.mark.parametrize("name", CASES)
def test_samples_come_from_the_generator_alone(name):
    base = CASES[name](3)
    p = parameters(base)[1]
    draw = lambda seed: base.sample(p, 6, np.random.default_rng(seed), np.float64)  # noqa: E731
    np.testing.assert_array_equal(draw(1), draw(1))
    assert not np.isin(draw(1), draw(2)).any()
    assert base.sample(p, 0, np.random.default_rng(0), np.float64).shape == (0, 3)


class Edge:
    """A generator that draws the ends of every interval."""

    def __init__(self, end):
        self.end = end

    def uniform(self, low, high, size):
        return np.full(size, {"low": low, "high": np.nextafter(high, low)}[self.end])


@pytest.mark.parametrize("end", ["low", "high"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_angles_that_round_to_pi_stay_in_the_support(dtype, end):
    base = UniformTorus(2)
    u = base.sample({}, 3, Edge(end), dtype)
    assert u.dtype == dtype and np.isfinite(base.log_prob({}, u)).all()


# In flows


@pytest.mark.parametrize("name", CASES)
def test_dtypes_are_kept(name):
    base = CASES[name](2)
    theta, p = parameters(base, dtype=np.float32)
    u = base.sample(p, 5, np.random.default_rng(0), np.float32)
    grad = np.zeros_like(theta)
    d_u = base.backward(p, u, np.ones(5, dtype=np.float32), base.layout.views(grad))
    assert base.log_prob(p, u).dtype == d_u.dtype == np.float32
    double = base.log_prob(base.layout.views(theta.astype(np.float64)), u.astype(np.float64))
    np.testing.assert_allclose(base.log_prob(p, u), double, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_a_configuration_rebuilds_a_base(name):
    base = CASES[name](2)
    again = BASES[type(base).__name__](**json.loads(json.dumps(base.config())))
    theta, u = parameters(base)[0], np.array([[0.1, -0.2]])
    views = again.layout.views(theta)
    np.testing.assert_array_equal(
        again.log_prob(views, u), base.log_prob(base.layout.views(theta), u)
    )
    assert again.config() == base.config()


def test_the_registry_holds_every_base():
    assert set(BASES.values()) == set(Base.__subclasses__())


@pytest.mark.parametrize("name", CASES)
def test_a_flow_on_a_base(name, tmp_path):
    """Gradient by complex step through the whole flow; the same flow from its file;
    samples of its own density."""
    layers = afnp.maf(2, hidden=(6,), transforms=1).layers
    flow = Flow(layers, base=CASES[name](2))
    flow.theta = np.random.default_rng(3).standard_normal(flow.theta.size) * 0.4
    x = 0.3 * np.random.default_rng(4).standard_normal((5, 2))
    loss, grad = flow.loss_and_grad(x)
    c = np.empty((5, 0))
    truth = complex_step(
        lambda t: -flow.log_prob_with(flow.split(t), x.astype(complex), c).mean(), flow.theta
    )
    assert norm_error(grad, truth) < 1e-10
    assert loss == pytest.approx(-flow.log_prob(x).mean(), rel=1e-14)
    afnp.save(flow, tmp_path / "flow.afnp")
    np.testing.assert_array_equal(afnp.load(tmp_path / "flow.afnp").log_prob(x), flow.log_prob(x))
    assert flow.sample(4, rng=1).shape == (4, 2)


# A circle beside what is none

STANDARDIZE = Standardize([0.1, 0.2], [1.5, 0.5])
CIRCULAR = {"hidden": (6,), "transforms": 2}


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda: afnp.nsf(2, circular=True, preprocess=[STANDARDIZE], **CIRCULAR),
            "layers: layer 0, Standardize, does not map angles to angles",
        ),
        (
            lambda: afnp.nsf(2, circular=True, base=StandardNormal(2), **CIRCULAR),
            r"base: layers of angles need noise on the circle, UniformTorus\(2\), got "
            r"StandardN",
        ),
        (
            lambda: afnp.maf(2, univariate="circular_spline", between="lu", **CIRCULAR),
            "layers: layer 1, LULinear, does not map angles to angles",
        ),
        (
            lambda: afnp.maf(2, univariate="circular_spline", base=Logistic(2), **CIRCULAR),
            "base: layers of angles need noise on the circle",
        ),
        (
            lambda: Flow([*afnp.nsf(2, circular=True, **CIRCULAR).layers, LULinear(2)]),
            "layers: layer 2, LULinear, does not",
        ),
        (
            lambda: afnp.maf_mog(2, univariate="circular_spline", **CIRCULAR),
            "layers: layer 2, Autoregressive, does not",
        ),
    ],
)
def test_angles_beside_what_is_none_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


CIRCLES = {
    "autoregressive": lambda D: afnp.maf(D, univariate="circular_spline", **CIRCULAR),
    "inverse": lambda D: afnp.iaf(D, univariate="circular_spline", **CIRCULAR),
    "coupling": lambda D: afnp.nsf(D, circular=True, coupling=True, **CIRCULAR),
    "one coupling": lambda D: afnp.nsf(D, hidden=(6,), transforms=1, circular=True, coupling=True),
    "permuted": lambda D: afnp.nsf(D, circular=True, between="permutation", **CIRCULAR),
    "transformer": lambda D: afnp.tarflow(
        D, width=4, heads=2, transforms=2, univariate="circular_spline"
    ),
    "convolution": lambda D: afnp.wavenet_flow(
        D, channels=4, layers=2, univariate="circular_spline"
    ),
}


def turned(flow):
    """Move all parameters, whatever the network."""
    flow.theta = flow.theta + 0.1 * np.random.default_rng(0).standard_normal(flow.theta.size)
    return flow


@pytest.mark.parametrize("name", CIRCLES)
def test_circular_flows_have_noise_on_the_torus_and_integrate_to_one(name):
    """Midpoints of an even mesh; the densities are smooth but for kinks of the second
    derivative."""
    flow = turned(CIRCLES[name](2))
    assert isinstance(flow.base, UniformTorus)
    n = 160
    t = -math.pi + (np.arange(n) + 0.5) * 2 * math.pi / n
    x = np.stack(np.meshgrid(t, t), axis=-1).reshape(-1, 2)
    assert np.exp(flow.log_prob(x)).sum() * (2 * math.pi / n) ** 2 == pytest.approx(1, abs=2e-3)
    assert np.isfinite(flow.log_prob(flow.sample(500, rng=0))).all()


@pytest.mark.parametrize("name", CIRCLES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_both_ends_of_the_circle_are_one_point(name, dtype):
    double = turned(CIRCLES[name](2))
    flow = Flow(double.layers, dtype=dtype, base=double.base)
    flow.theta = double.theta.astype(dtype)
    pi, other = dtype(math.pi), np.linspace(-3, 3, 7, dtype=dtype)
    for feature in (0, 1):
        ends = [np.insert(other[:, None], feature, end, axis=1) for end in (-pi, pi)]
        left, right = (flow.log_prob(x) for x in ends)
        assert np.isfinite(left).all()
        np.testing.assert_allclose(left, right, atol=1e-9 if dtype == np.float64 else 1e-4)


# What makes no sense


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: StandardNormal(0), "features: expected an integer of at least 1, got 0"),
        (lambda: Logistic(2.5), "features: expected an integer, got 2.5"),
        (lambda: StudentT(2, df=0), "df: expected a positive number, got 0"),
        (lambda: StudentT(2, df=math.nan), "df: expected a positive number, got nan"),
        (lambda: StudentT(2, df="five"), "df: expected a positive number, got 'five'"),
    ],
)
def test_bases_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
